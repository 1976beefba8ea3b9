//! The walk of an older client through the real program: log in, back up, restore, with the bucket of an S3 server in
//! memory, and the same where that refuses.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use holdfast::model::digest::{Algorithm, Digest};
use holdfast::model::layout::Layout;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;

use super::access::{ADA, HASH, RIGHT};
use super::s3_memory::{ACCESS_KEY, Effect, Fault, Options, SECRET_KEY, Server};
use super::service_lab::{Reply, ask, eventually, request};

/// How many binaries the repository has.
const BINARIES: usize = 785;

/// A service on a socket in the file system, and a token.
struct Walk {
    directory: TempDir,
    child: Child,
    token: String,
}

impl Drop for Walk {
    fn drop(&mut self) {
        // It has ended if the test stopped it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn prepare(server: &Server) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let text = format!(
        "[service]\nstate_dir = \"state\"\nlisten = \"unix:http.sock\"\n[repository.main]\nbinaries = \"binaries\"\n\
         [destination.main]\nurl = \"s3://{}/site\"\nendpoint = \"{}\"\n\
         credentials = {{ access_key_file = \"access\", secret_key_file = \"secret\" }}\n[backup.full]\nsettle = \"0s\"\n",
        server.bucket(),
        server.endpoint()
    );
    fs::write(path("holdfast.toml"), text).unwrap();
    let entry = format!("[administrator.\"{ADA}\"]\nname = \"Ada\"\npassword = \"{HASH}\"\n");
    for (name, content) in [("access", ACCESS_KEY), ("secret", SECRET_KEY), ("users.toml", &entry)] {
        fs::write(path(name), content).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    for number in 0..BINARIES {
        let content = format!("binary {number}");
        let digest = Digest::of(Algorithm::Sha1, content.as_bytes());
        let file = path("binaries").join(Layout::modeshape().path(&digest));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    directory
}

fn serve(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("serve").arg("--config").arg(directory.join("holdfast.toml")).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(fs::File::create(directory.join("journal")).unwrap());
    command.spawn().unwrap()
}

impl Walk {
    async fn begin(server: &Server) -> Self {
        let directory = prepare(server);
        let child = serve(directory.path());
        let mut walk = Self { directory, child, token: String::new() };
        let body = json!({"email": ADA, "password": RIGHT}).to_string();
        let reply =
            eventually("the service listens", async || walk.try_send("POST", "/auth/v1/session", &body).await).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        let login: Value = reply.json();
        assert_eq!(login["displayName"], "Ada");
        login["sessionToken"].as_str().unwrap().clone_into(&mut walk.token);
        walk
    }

    async fn try_send(&self, method: &str, path: &str, body: &str) -> Option<Reply> {
        let stream = UnixStream::connect(self.directory.path().join("http.sock")).await.ok()?;
        let headers = [
            ("sessionToken", self.token.as_str()),
            ("Accept", "application/json"),
            ("Content-Type", "application/json"),
        ];
        Some(ask(stream, &request(method, path, &headers, body)).await)
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> Value {
        let reply = self.try_send(method, path, body).await.expect("the service listens");
        assert!(reply.status < 300, "{method} {path}: {} {}", reply.status, reply.text());
        reply.json()
    }

    /// Polls a run until it is something else than STARTED.
    async fn to_its_end(&self, started: &Value) -> Value {
        let path = format!("/repo/v1/daemonStatus/{}", started["id"].as_str().unwrap());
        eventually("the run ends", async || {
            let status = self.send("GET", &path, "").await;
            (status["status"] != "STARTED").then_some(status)
        })
        .await
    }

    async fn back_up(&self) -> Value {
        self.to_its_end(&self.send("POST", "/repo/v1/startBackupDaemon", "{}").await).await
    }

    async fn restore(&self, name: &str) -> Value {
        let body = json!({ "url": name }).to_string();
        self.to_its_end(&self.send("POST", "/repo/v1/startRestoreDaemon", &body).await).await
    }

    fn binaries(&self) -> PathBuf {
        self.directory.path().join("binaries")
    }

    /// Every file of the repository.
    fn repository(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn collect(directory: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    collect(&path, found);
                } else {
                    found.insert(path.clone(), fs::read(path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        collect(&self.binaries(), &mut found);
        found
    }

    /// Stops the service, or kills it.
    fn end(&mut self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        self.child.wait().unwrap();
    }

    fn nothing_of_this_machine(&self, status: &Value) {
        let directory = self.directory.path().to_str().unwrap();
        assert!(!status.to_string().contains(directory), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_client_backs_up_loses_its_repository_and_has_it_back() {
    let server = Server::start(Options::default());
    let mut walk = Walk::begin(&server).await;
    let before = walk.repository();
    assert_eq!(before.len(), BINARIES);
    let backup = walk.back_up().await;
    assert_eq!((backup["status"].as_str(), backup["errorMessage"].as_str()), (Some("COMPLETED"), None), "{backup}");
    assert_eq!((backup["progresssCurrent"].as_u64(), backup["progresssTotal"].as_u64()), (Some(863), Some(863)));
    let url = backup["backupUrl"].as_str().unwrap();
    let name = url.rsplit('/').next().unwrap();
    assert_eq!(url, format!("{}/{}/site/archives/{name}", server.endpoint(), server.bucket()));
    let size = server.object(&format!("site/archives/{name}")).unwrap().len() as u64;

    for file in fs::read_dir(walk.binaries()).unwrap().flatten().take(100) {
        fs::remove_dir_all(file.path()).unwrap();
    }
    assert_ne!(walk.repository(), before);
    let restored = walk.restore(name).await;
    assert_eq!(
        (restored["status"].as_str(), restored["progresssMessage"].as_str()),
        (Some("COMPLETED"), Some("Finished: RESTORE")),
        "{restored}"
    );
    assert_eq!(
        (restored["progresssCurrent"].as_u64(), restored["progresssTotal"].as_u64()),
        (Some(size + size / 10), Some(size + size / 10))
    );
    assert_eq!(walk.repository(), before);
    assert_eq!(walk.restore(url).await["status"], "COMPLETED");

    let missing = walk.restore("BackupDaemonJob999-1.zip").await;
    assert_eq!(
        (missing["status"].as_str(), missing["progresssTotal"].as_u64()),
        (Some("FAILED"), Some(0)),
        "{missing}"
    );
    assert!(missing["errorMessage"].as_str().unwrap().contains("BackupDaemonJob999-1.zip"), "{missing}");
    assert_eq!(walk.repository(), before);

    // Another process tells the same of them, and knows the token.
    walk.end(Signal::TERM);
    walk.child = serve(walk.directory.path());
    let path = format!("/repo/v1/daemonStatus/{}", backup["id"].as_str().unwrap());
    let reply = eventually("the service listens", async || walk.try_send("GET", &path, "").await).await;
    assert_eq!(reply.json::<Value>(), backup);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_wrong_rights_in_s3_it_is_failed_and_access_denied_and_nothing_is_changed() {
    let server = Server::start(Options::default());
    let walk = Walk::begin(&server).await;
    let url = walk.back_up().await["backupUrl"].as_str().unwrap().to_owned();
    let before = walk.repository();

    server.fault(Fault::at("PutObject", Effect::Status(403, "AccessDenied")).below("site/archives/"));
    let refused = walk.back_up().await;
    assert_eq!(
        (refused["status"].as_str(), refused["errorMessage"].as_str()),
        (Some("FAILED"), Some("Access Denied")),
        "{refused}"
    );
    assert_eq!(
        (refused["progresssCurrent"].as_u64(), refused["progresssTotal"].as_u64()),
        (Some(785), Some(863)),
        "{refused}"
    );
    let message = refused["progresssMessage"].as_str().unwrap();
    assert!(
        message.starts_with("Starting to upload temp file: BackupDaemonJob") && message.ends_with(".zip to S3..."),
        "{message}"
    );
    assert!(refused["backupUrl"].is_null());
    assert!(refused["errorDetails"].as_str().unwrap().contains("(AccessDenied)"), "{refused}");
    walk.nothing_of_this_machine(&refused);

    server.clear_faults();
    server.fault(Fault::at("GetObject", Effect::Status(403, "AccessDenied")));
    fs::remove_file(before.keys().next().unwrap()).unwrap();
    let now = walk.repository();
    let refused = walk.restore(&url).await;
    assert_eq!(
        (refused["status"].as_str(), refused["errorMessage"].as_str()),
        (Some("FAILED"), Some("Access Denied")),
        "{refused}"
    );
    assert_eq!((refused["progresssCurrent"].as_u64(), refused["progresssTotal"].as_u64()), (Some(0), Some(0)));
    assert_eq!(refused["progresssMessage"], "Starting to download the file from S3...");
    assert_eq!(refused["backupUrl"], url);
    walk.nothing_of_this_machine(&refused);
    assert_eq!(walk.repository(), now);
    server.clear_faults();
    assert_eq!(walk.restore(&url).await["status"], "COMPLETED");
    assert_eq!(walk.repository(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_started_for_ever_after_a_kill_and_a_changed_users_file_counts_at_once() {
    let server = Server::start(Options::default());
    let mut walk = Walk::begin(&server).await;
    server.fault(Fault::at("PutObject", Effect::Hang).below("site/archives/"));
    let started = walk.send("POST", "/repo/v1/startBackupDaemon", "{}").await;
    let path = format!("/repo/v1/daemonStatus/{}", started["id"].as_str().unwrap());
    eventually("it uploads", async || {
        let status = walk.send("GET", &path, "").await;
        assert_eq!(status["status"], "STARTED");
        status["progresssMessage"].as_str().unwrap().starts_with("Starting to upload").then_some(())
    })
    .await;
    walk.end(Signal::KILL);
    server.clear_faults();
    walk.child = serve(walk.directory.path());
    let reply = eventually("the service listens", async || walk.try_send("GET", &path, "").await).await;
    let cut: Value = reply.json();
    assert_eq!(
        (cut["status"].as_str(), cut["errorMessage"].as_str()),
        (Some("FAILED"), Some("the process ended before the run did")),
        "{cut}"
    );

    let users = walk.directory.path().join("users.toml");
    let entry = fs::read_to_string(&users).unwrap();
    fs::write(&users, entry.replace("[admin", "[administrator]\n[admin").replace("password", "pasword")).unwrap();
    assert_eq!(walk.try_send("GET", &path, "").await.unwrap().status, 500);
    fs::write(&users, &entry).unwrap();
    assert_eq!(walk.try_send("GET", &path, "").await.unwrap().status, 200);
    fs::write(&users, entry.replace(ADA, "eve@example.org")).unwrap();
    assert_eq!(walk.try_send("GET", &path, "").await.unwrap().status, 401);
    walk.end(Signal::TERM);
    let journal = fs::read_to_string(walk.directory.path().join("journal")).unwrap();
    assert_eq!(journal.matches("nobody can log in: ").count(), 1, "{journal}");
    assert!(journal.contains("unknown key `pasword`"), "{journal}");
}
