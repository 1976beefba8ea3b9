//! The S3 adapter on SeaweedFS, where its program `weed` is installed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::Config;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::config::Region;
use holdfast::store::Capabilities;
use holdfast::store::retry::RetryPolicy;
use holdfast::store::retry::Retrying;
use holdfast::store::s3::S3Credentials;
use holdfast::store::s3::S3Settings;
use holdfast::store::s3::S3Store;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;

use crate::conformance;

const KEYS: &str = r#"{"identities":[{"name":"admin","credentials":[{"accessKey":"AK","secretKey":"SK"}],
    "actions":["Admin","Read","Write","List","Tagging"]}]}"#;

/// The settings of `weed mini` that name a port of their own.
const PORTS: [&str; 10] = [
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "admin.port",
    "admin.port.grpc",
];

/// A server that runs until it is dropped, with all the processes it is made of.
struct SeaweedFs {
    process: Child,
    endpoint: String,
}

impl SeaweedFs {
    /// Starts it on free ports; none if it is not installed.
    fn start(directory: &Path) -> Option<Self> {
        let keys = directory.join("s3.json");
        fs::write(&keys, KEYS).unwrap();
        // All are held until all are known, so that none is given twice.
        let listeners = PORTS.map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.map(|listener| listener.local_addr().unwrap().port());
        let mut command = Command::new("weed");
        command
            .args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false"])
            .args(["-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"])
            .arg(format!("-dir={}", directory.display()))
            .arg(format!("-s3.config={}", keys.display()))
            .args(PORTS.iter().zip(ports).map(|(name, port)| format!("-{name}={port}")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        match command.spawn() {
            Ok(process) => Some(Self { process, endpoint: format!("http://127.0.0.1:{}", ports[0]) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("start weed: {error}"),
        }
    }

    /// Waits until it takes orders.
    async fn make_bucket(&self, bucket: &str) {
        let config = Config::builder()
            .behavior_version_latest()
            .endpoint_url(&self.endpoint)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("AK", "SK", None, None, "test"))
            .force_path_style(true)
            .build();
        let client = Client::from_conf(config);
        let mut last = None;
        for _ in 0..300 {
            match client.create_bucket().bucket(bucket).send().await {
                Ok(_) => return,
                Err(error) => last = Some(error),
            }
            // Another process has no event to wait for.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("SeaweedFS does not start: {last:?}");
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        kill_process_group(pid.unwrap(), Signal::KILL).unwrap();
        self.process.wait().unwrap();
    }
}

#[tokio::test]
async fn seaweedfs_conforms() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(server) = SeaweedFs::start(scratch.path()) else {
        eprintln!("skipped: `weed` is not installed");
        return;
    };
    for (bucket, prefix) in [("plain", ""), ("retried", "deep/down")] {
        server.make_bucket(bucket).await;
        let settings = S3Settings {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: Some(server.endpoint.clone()),
            path_style: true,
            credentials: S3Credentials::Keys { access_key: "AK".into(), secret_key: "SK".into() },
            ..S3Settings::default()
        };
        let store = S3Store::connect(settings, Capabilities::ALL).await.unwrap();
        if bucket == "plain" {
            conformance::all(&store).await;
        } else {
            conformance::all(&Retrying::new(Arc::new(store), RetryPolicy::default())).await;
        }
    }
}
