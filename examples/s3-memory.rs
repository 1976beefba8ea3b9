//! The S3 server of the tests as a process of its own, for the benchmark and for trials by hand.
//!
//! On SIGTERM or SIGINT it prints one line of JSON, the requests and the bytes of every operation, and exits.

#![expect(clippy::print_stdout, reason = "it reports to a person or a script")]

#[expect(dead_code, unused_imports, reason = "the tests use all of it")]
#[path = "../tests/suite/s3_memory.rs"]
mod s3_memory;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use clap::Parser;
use serde_json::Map;
use serde_json::json;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::s3_memory::ACCESS_KEY;
use crate::s3_memory::Checking;
use crate::s3_memory::Effect;
use crate::s3_memory::Fault;
use crate::s3_memory::Options;
use crate::s3_memory::SECRET_KEY;
use crate::s3_memory::Server;

#[derive(Parser)]
struct Arguments {
    /// Where to listen on the loopback interface; 0 takes a free port
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// The bucket that is there
    #[arg(long, default_value = "holdfast")]
    bucket: String,
    #[arg(long, default_value = ACCESS_KEY)]
    access_key: String,
    #[arg(long, default_value = SECRET_KEY)]
    secret_key: String,
    /// Forget the bodies of objects whose key contains TEXT (default: all), once their checksums are verified
    #[arg(long, value_name = "TEXT", num_args = 0..=1, default_missing_value = "")]
    drop_bodies: Option<String>,
    /// Believe the checksums that bodies come with
    #[arg(long)]
    no_verify: bool,
    /// Write a line for every object that was put: seconds since 1970, and the key
    #[arg(long, value_name = "FILE")]
    puts: Option<PathBuf>,
    /// Write a line for every request that was done: seconds since 1970, the status of its answer, the operation, the key
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// Do each request this much later
    #[arg(long, value_name = "MS")]
    delay: Option<u64>,
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("create `{}`", path.display()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let believe = arguments.no_verify;
    let server = Server::start(Options {
        port: arguments.port,
        bucket: arguments.bucket,
        access_key: arguments.access_key,
        secret_key: arguments.secret_key,
        threads: 2,
        log_limit: 0,
        checksums: if believe { Checking::Believe } else { Checking::Verify },
        drop_bodies: arguments.drop_bodies,
        ..Options::default()
    });
    if let Some(milliseconds) = arguments.delay {
        server.fault(Fault::anywhere(Effect::Delay(Duration::from_millis(milliseconds))));
    }
    let puts = arguments.puts.as_deref().map(create).transpose()?;
    let requests = arguments.requests.as_deref().map(create).transpose()?;
    if puts.is_some() || requests.is_some() {
        server.on_answer(move |operation, key, status| {
            #[expect(clippy::disallowed_methods, reason = "this is what is measured")]
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            // A line that is missing shows in the count.
            if let Some(mut file) = puts.as_ref()
                && operation == "PutObject"
                && status == 200
            {
                drop(file.write_all(format!("{now:.6} {key}\n").as_bytes()));
            }
            if let Some(mut file) = requests.as_ref() {
                drop(file.write_all(format!("{now:.6} {status} {operation} {key}\n").as_bytes()));
            }
        });
    }
    println!("listening on {} with bucket {}", server.endpoint(), server.bucket());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let counts = server.counts().into_iter();
    let counts = counts.map(|(name, count)| (name.into(), json!({"requests": count.requests, "bytes": count.bytes})));
    println!("{}", serde_json::Value::Object(counts.collect::<Map<_, _>>()));
    Ok(())
}
