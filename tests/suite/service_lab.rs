//! A running service for one test: a daemon around a made-up site, and its HTTP over real sockets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use holdfast::jobs::catalogue::Restorable;
use holdfast::jobs::context::{Clock, Ended, RunContext};
use holdfast::jobs::restore::RestorePlan;
use holdfast::ledger::{Ledger, StateLock};
use holdfast::model::account::Accounts;
use holdfast::model::run::{Kind, Run};
use holdfast::service::access::Access;
use holdfast::service::clock::SystemClock;
use holdfast::service::control::socket_in;
use holdfast::service::daemon::Daemon;
use holdfast::service::http::{Certificate, Http, HttpSettings, Limits};
use holdfast::service::reload::{Reload, Reloads};
use holdfast::service::request::{JobOptions, Refusal, RestoreRequest, VerifyRequest};
use holdfast::service::site::{FedoraCalls, JobSpec, OlderInterfaces, Points, Site, Work};
use holdfast::store::{ErrorKind, StoreError};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::openapi;
use super::service_loop::Running;

/// Nothing in these tests takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The archive that a backup makes.
pub(crate) const ARCHIVE: &str = "BackupDaemonJob7-4711.zip";

/// A site whose runs last until the test lets them go, or they are cancelled.
#[derive(Debug)]
pub(crate) struct FakeSite {
    gate: watch::Sender<bool>,
    pub(crate) points: Mutex<Points>,
    /// What was performed, in order.
    pub(crate) performed: Mutex<Vec<String>>,
    pub(crate) at_once: usize,
    /// Who may log in, or what is wrong with the file that says so.
    pub(crate) accounts: Mutex<Result<Arc<Accounts>, String>>,
    /// How long a login lasts.
    pub(crate) session: Mutex<Duration>,
    /// Below which Fedora's calls may name directories.
    pub(crate) fedora_roots: Mutex<Vec<PathBuf>>,
    /// Why runs fail that would have ended.
    pub(crate) failure: Mutex<Option<ErrorKind>>,
}

impl Default for FakeSite {
    fn default() -> Self {
        let found = vec![Restorable {
            name: "20260101T000000Z-1".to_owned(),
            kind: "point",
            destination: "disk".to_owned(),
            repository: Some("main".to_owned()),
            created: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            documents: 1,
            binaries: 2,
            bytes: 3,
            complete: true,
            shard: None,
        }];
        Self {
            gate: watch::Sender::new(true),
            points: Mutex::new(Points { found, ..Points::default() }),
            performed: Mutex::new(Vec::new()),
            at_once: 4,
            accounts: Mutex::new(Ok(Arc::default())),
            session: Mutex::new(Duration::from_hours(1)),
            fedora_roots: Mutex::default(),
            failure: Mutex::new(None),
        }
    }
}

impl FakeSite {
    /// From now on runs last until [`FakeSite::release`].
    pub(crate) fn hold(&self) {
        self.gate.send_replace(false);
    }

    /// How many runs and questions wait for that.
    pub(crate) fn held(&self) -> usize {
        self.gate.receiver_count()
    }

    /// Lets the runs end.
    pub(crate) fn release(&self) {
        self.gate.send_replace(true);
    }
}

#[async_trait]
impl Site for FakeSite {
    fn jobs(&self) -> Vec<JobSpec> {
        let job = |name: &str, kind| JobSpec {
            name: name.to_owned(),
            kind,
            repository: "main".to_owned(),
            destination: "disk".to_owned(),
            timing: None,
            shard: None,
        };
        vec![job("copy.binaries", Kind::Copy), job("backup.full", Kind::Backup)]
    }

    fn runs_at_once(&self) -> usize {
        self.at_once
    }

    fn grace(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn history(&self) -> Duration {
        Duration::from_hours(24)
    }

    fn replaced_by(&self, request: &RestoreRequest) -> Result<Option<String>, Refusal> {
        match request.repository.as_deref() {
            _ if request.to.is_some() => Ok(None),
            None | Some("main") => Ok(Some("main".to_owned())),
            Some(other) => Err(Refusal::Invalid(format!("there is no repository `{other}`"))),
        }
    }

    fn check(&self, request: &VerifyRequest) -> Result<(), Refusal> {
        if request.names.is_empty() { Err(Refusal::Invalid("`names` is empty".to_owned())) } else { Ok(()) }
    }

    fn url(&self, work: &Work) -> Option<String> {
        let Work::Restore(request) = work else { return None };
        self.archive_url("disk", &request.from.to_string())
    }

    fn archive_url(&self, _destination: &str, name: &str) -> Option<String> {
        Some(format!("http://s3/bucket/archives/{name}"))
    }

    fn older_interfaces(&self) -> Result<OlderInterfaces, Refusal> {
        let (backup, destination, repository) = ("backup.full".to_owned(), "disk".to_owned(), "main".to_owned());
        Ok(OlderInterfaces { backup, destination, repository })
    }

    fn fedora(&self) -> Result<FedoraCalls, Refusal> {
        let roots = self.fedora_roots.lock().unwrap().clone();
        Ok(FedoraCalls { repository: "main".to_owned(), roots })
    }

    fn accounts(&self) -> anyhow::Result<Arc<Accounts>> {
        self.accounts.lock().unwrap().clone().map_err(anyhow::Error::msg)
    }

    fn session(&self) -> Duration {
        *self.session.lock().unwrap()
    }

    async fn perform(&self, run: &RunContext, work: &Work, _hurry: &CancellationToken) -> anyhow::Result<Ended> {
        let name = match work {
            Work::Job { name, options: JobOptions { full: true, .. }, .. } => format!("{name} full"),
            Work::Job { name, .. } => name.clone(),
            Work::Restore(request) => format!("restore {}", request.from),
            Work::Verify(_) => "verify".to_owned(),
            Work::Export(request) => format!("export {}", request.repository),
        };
        self.performed.lock().unwrap().push(name);
        run.report.phase("working", "binaries", Some(10));
        run.report.advance(3);
        let mut gate = self.gate.subscribe();
        tokio::select! {
            () = run.stop.cancelled() => {}
            open = gate.wait_for(|open| *open) => drop(open),
        }
        run.go_on()?;
        if let Some(kind) = *self.failure.lock().unwrap() {
            return Err(StoreError::new(kind, "put `archives/x`", "Access Denied (AccessDenied)").into());
        }
        if let Work::Export(request) = work {
            return Ok(Ended { result: Some(request.directory.display().to_string()), ..Ended::default() });
        }
        let (name, url) = match work {
            Work::Job { name, .. } if name == "backup.full" => {
                (ARCHIVE, Some(format!("http://s3/bucket/archives/{ARCHIVE}")))
            }
            _ => ("20260101T000000Z-1", None),
        };
        Ok(Ended { result: Some(name.to_owned()), url, quarantine: None })
    }

    async fn plan(&self, _run: &RunContext, request: &RestoreRequest) -> anyhow::Result<RestorePlan> {
        Ok(RestorePlan { from: request.from.to_string(), fetch: 2, ..RestorePlan::default() })
    }

    async fn points(&self, _ledger: Option<&Ledger>) -> Points {
        let mut gate = self.gate.subscribe();
        drop(gate.wait_for(|open| *open).await);
        self.points.lock().unwrap().clone()
    }
}

/// Everything a test of the service needs. The service ends when it is dropped, or by [`ServiceLab::end`].
pub(crate) struct ServiceLab {
    pub(crate) directory: TempDir,
    pub(crate) site: Arc<FakeSite>,
    pub(crate) daemon: Daemon,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) certificate: Option<Certificate>,
    /// Ends the HTTP.
    pub(crate) stop: CancellationToken,
    /// Ends the daemon.
    pub(crate) stop_daemon: CancellationToken,
    /// Those who ask for a reload.
    pub(crate) asked_to_reload: Option<mpsc::Receiver<Reload>>,
    tasks: JoinSet<()>,
    _lock: StateLock,
}

/// A service on a free port of 127.0.0.1 and on the socket in its state directory.
pub(crate) async fn service() -> ServiceLab {
    ServiceLab::start(|_| {}).await
}

impl ServiceLab {
    /// A service with other settings than these: one free port of 127.0.0.1, plain text, no names.
    pub(crate) async fn start(set: impl FnOnce(&mut HttpSettings)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), FakeSite::default(), Arc::new(SystemClock), set).await
    }

    /// A service in a directory of the test's, with the state directory `state` in it.
    pub(crate) async fn start_in(
        directory: TempDir,
        site: FakeSite,
        clock: Arc<dyn Clock>,
        set: impl FnOnce(&mut HttpSettings),
    ) -> Self {
        let state = directory.path().join("state");
        let (site, stop) = (Arc::new(site), CancellationToken::new());
        let running = Running::start(&state, Arc::clone(&site) as Arc<dyn Site>, clock);
        let Running { daemon, stop: stop_daemon, mut tasks, lock } = running;
        let mut settings = settings(&state);
        set(&mut settings);
        let http = Http::bind(settings).await.unwrap();
        let (addresses, certificate) = (http.addresses(), http.certificate());
        let (reloads, asked_to_reload) = Reloads::new();
        let access = Access::open(&daemon).unwrap();
        let serving = http.serve(daemon.clone(), access, reloads, stop.clone());
        tasks.spawn(async move { serving.await.unwrap() });
        Self {
            directory,
            site,
            daemon,
            addresses,
            certificate,
            stop,
            stop_daemon,
            asked_to_reload: Some(asked_to_reload),
            tasks,
            _lock: lock,
        }
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A connection to the first address.
    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.addresses[0]).await.unwrap()
    }

    /// A connection to the socket in the state directory.
    pub(crate) async fn control(&self) -> UnixStream {
        UnixStream::connect(socket_in(&self.state())).await.unwrap()
    }

    /// Asks over the first address.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    /// Asks over the first address; the answer must be one that the document of the interface tells of.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let reply = ask(self.tcp().await, &request(method, path, headers, body)).await;
        openapi::hold(method, path, &reply);
        reply
    }

    /// Asks over the socket in the state directory.
    pub(crate) async fn order(&self, method: &str, path: &str, body: &str) -> Reply {
        let reply = ask(self.control().await, &request(method, path, &[], body)).await;
        openapi::hold(method, path, &reply);
        reply
    }

    /// A run, once it has ended.
    pub(crate) async fn ended(&self, id: u64) -> Run {
        let path = format!("/runs/{id}");
        eventually("the run ends", async || {
            let run: Run = self.get(&path).await.json();
            run.outcome.is_some().then_some(run)
        })
        .await
    }

    /// Ends all of it, and waits for it.
    pub(crate) async fn end(mut self) {
        self.site.release();
        self.stop.cancel();
        self.stop_daemon.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// The settings of [`service`] for this state directory.
pub(crate) fn settings(state: &Path) -> HttpSettings {
    HttpSettings {
        state_dir: state.to_owned(),
        listen: vec![holdfast::model::address::Address::Tcp("127.0.0.1:0".parse().unwrap())],
        tls: None,
        allow_plaintext_beyond_loopback: false,
        hosts: Vec::new(),
        limits: Limits::default(),
    }
}

/// Looks again and again until there is what is wanted.
pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{what}: in vain"))
}

/// An answer, taken apart.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The reason of an error.
    pub(crate) fn reason(&self) -> String {
        let answer: serde_json::Value = self.json();
        answer["reason"].as_str().unwrap_or_else(|| panic!("no reason: {answer}")).to_owned()
    }
}

/// A request after which the connection ends.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let length = body.len().to_string();
    let length = (!body.is_empty()).then_some(("Content-Length", length.as_str()));
    let host = [("Host", "localhost"), ("Connection", "close")];
    let headers = host.iter().chain(headers).copied().chain(length);
    let head: String = headers.flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    format!("{method} {path} HTTP/1.1\r\n{head}\r\n{body}")
}

/// Sends these bytes and reads one answer.
pub(crate) async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &str) -> Reply {
    stream.write_all(bytes.as_bytes()).await.unwrap();
    answer(&mut stream, bytes.starts_with("HEAD ")).await.expect("an answer")
}

/// Reads one answer, of which `HEAD` has no body; none if the connection ends before one begins.
pub(crate) async fn answer(stream: &mut (impl AsyncRead + Unpin), head_only: bool) -> Option<Reply> {
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) if head.is_empty() => return None,
                Err(error) => panic!("{error} after {}", String::from_utf8_lossy(&head)),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse().unwrap());
        let mut body = vec![0; if head_only { 0 } else { length.unwrap_or(0) }];
        stream.read_exact(&mut body).await.unwrap();
        Some(Reply { status, headers, body })
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time")
}
