//! The real service in a process of its own, on a repository and an S3 server in memory. What it does is learned from
//! what it tells the service manager, so that a test acts at the very moment it wants to.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use holdfast::ledger::Ledger;
use holdfast::model::digest::Digest;
use holdfast::model::layout::Layout;
use holdfast::model::run::{Outcome, Run, RunFilter};
use holdfast::service::control::socket_in;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::lab::sha1;
use super::s3_memory::{ACCESS_KEY, SECRET_KEY, Server};
use super::service_lab::PATIENCE;

/// A directory with a configuration, a repository, and what a service leaves.
pub(crate) struct House {
    directory: TempDir,
}

impl House {
    /// With a destination in the server's bucket; `service` goes into `[service]`, `copy` into `[copy.binaries]`.
    pub(crate) fn new(server: &Server, service: &str, copy: &str) -> Self {
        let destination = format!(
            "url = \"s3://{}/site\"\nendpoint = \"{}\"\n\
             credentials = {{ access_key_file = \"access\", secret_key_file = \"secret\" }}",
            server.bucket(),
            server.endpoint()
        );
        Self::with_destination(&destination, service, copy)
    }

    /// The same with another destination.
    pub(crate) fn with_destination(destination: &str, service: &str, copy: &str) -> Self {
        let house = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["binaries", "documents"] {
            fs::create_dir(house.path(name)).unwrap();
        }
        let listen = if service.contains("listen") { "" } else { "listen = []\n" };
        let text = format!(
            "[service]\nstate_dir = \"state\"\n{listen}{service}\n\
             [repository.main]\nbinaries = \"binaries\"\ndocuments = {{ directory = \"documents\" }}\n\
             [destination.main]\n{destination}\n\
             [copy.binaries]\nsettle = \"0s\"\n{copy}\n[backup.full]\nvolume = \"16MiB\"\nsettle = \"0s\"\n"
        );
        house.configure(&text);
        let line = |number| format!("{{ \"metadata\" : {{ \"id\" : \"{number:05}\" }} , \"content\" : {{ }} }}\n");
        let documents: String = (0..100).map(line).collect();
        fs::write(house.path("documents/documents_000001.bin"), documents).unwrap();
        for (name, content) in [("access", ACCESS_KEY), ("secret", SECRET_KEY)] {
            fs::write(house.path(name), content).unwrap();
            fs::set_permissions(house.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        house
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.path("holdfast.toml")
    }

    /// Replaces the configuration, or whatever lies there.
    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.path("holdfast.new"), text).unwrap();
        fs::rename(self.path("holdfast.new"), self.configuration()).unwrap();
    }

    /// Adds a binary as a repository does: whole, by renaming.
    pub(crate) fn add(&self, content: &[u8]) -> Digest {
        let digest = sha1(content);
        let place = self.place(&digest);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(self.path("new"), content).unwrap();
        fs::rename(self.path("new"), place).unwrap();
        digest
    }

    /// Where a binary lies.
    pub(crate) fn place(&self, digest: &Digest) -> PathBuf {
        self.path("binaries").join(Layout::modeshape().path(digest))
    }

    /// Starts the service.
    pub(crate) fn serve(&self) -> Service {
        self.serve_behind(&[], &[])
    }

    /// The same behind a program that starts it, and with variables of the environment.
    pub(crate) fn serve_behind(&self, wrapper: &[&str], variables: &[(&str, &OsStr)]) -> Service {
        let state = self.path("state");
        Service::start(&self.configuration(), self.directory.path(), &state, wrapper, variables)
    }

    /// The runs in the ledger, oldest first.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let ledger = Ledger::open_to_read(&self.path("state")).unwrap().unwrap();
        let mut runs = ledger.runs(&RunFilter::latest(None, 1000)).unwrap();
        runs.reverse();
        runs
    }

    /// What a call of the program beside the service prints, and its exit status.
    pub(crate) fn holdfast(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(arguments).arg("--config").arg(self.configuration()).env_remove("HOLDFAST_CONFIG");
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

/// A running `holdfast serve`; it is killed with the test.
pub(crate) struct Service {
    child: Child,
    wrapped: bool,
    /// What it tells the service manager, line by line.
    notices: Receiver<String>,
    told_at: UnixDatagram,
    state: PathBuf,
    journal: PathBuf,
    ended: Option<ExitStatus>,
}

impl Service {
    /// Starts a service whose journal and notices go to `beside`; `state` is where its state directory is seen from here.
    pub(crate) fn start(
        config: &Path,
        beside: &Path,
        state: &Path,
        wrapper: &[&str],
        variables: &[(&str, &OsStr)],
    ) -> Self {
        let number = fs::read_dir(beside).unwrap().count();
        let (journal, socket) = (beside.join(format!("journal-{number}")), beside.join(format!("notify-{number}")));
        let told_at = UnixDatagram::bind(&socket).unwrap();
        let notices = read_all(told_at.try_clone().unwrap());
        let mut command = match wrapper {
            [] => Command::new(env!("CARGO_BIN_EXE_holdfast")),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(env!("CARGO_BIN_EXE_holdfast"));
                command
            }
        };
        command.arg("serve").arg("--config").arg(config).env_remove("HOLDFAST_CONFIG").env("NOTIFY_SOCKET", &socket);
        command.envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&journal).unwrap());
        let child = command.spawn().unwrap();
        Self { child, wrapped: !wrapper.is_empty(), notices, told_at, state: state.to_owned(), journal, ended: None }
    }

    /// Its state directory is seen there from here, as it lives in a mount namespace of its own.
    pub(crate) fn see_state_at(&mut self, state: PathBuf) {
        self.state = state;
    }

    /// What it said so far.
    pub(crate) fn journal(&self) -> String {
        fs::read_to_string(&self.journal).unwrap()
    }

    /// The process of the service, as the lock tells it: the child may be what started it.
    pub(crate) fn pid(&self) -> Pid {
        if !self.wrapped {
            return Pid::from_child(&self.child);
        }
        let holder = fs::read_to_string(self.state.join("holdfast.lock")).unwrap();
        let pid = holder.split(' ').nth(1).and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        pid.unwrap_or_else(|| panic!("no process in `{holder}`"))
    }

    /// The process that the test started.
    pub(crate) fn child(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until it tells the service manager something that begins with this; whether it did before it ended.
    pub(crate) fn tells(&mut self, wanted: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.notices.recv_timeout(Duration::from_millis(20)) {
                Ok(line) if line.starts_with(wanted) => return true,
                Ok(_) => {}
                Err(_) => {
                    if let Some(ended) = self.child.try_wait().unwrap() {
                        self.ended = Some(ended);
                        // It may have told it at the very end.
                        return self.notices.try_iter().any(|line| line.starts_with(wanted));
                    }
                    assert!(Instant::now() < deadline, "no {wanted} in time:\n{}", self.journal());
                }
            }
        }
    }

    /// Waits until it is ready and has done at its start what it has to do: the two are told in any order.
    #[track_caller]
    pub(crate) fn ready(&mut self) {
        let mut missing = vec!["READY=1", "STATUS="];
        let deadline = Instant::now() + PATIENCE;
        while !missing.is_empty() {
            let line = self.notices.recv_timeout(PATIENCE);
            assert!(Instant::now() < deadline, "it is not ready in time:\n{}", self.journal());
            let line = line.unwrap_or_else(|_| panic!("it is not ready:\n{}", self.journal()));
            missing.retain(|wanted| !line.starts_with(wanted));
        }
    }

    /// Waits until it tells that.
    #[track_caller]
    pub(crate) fn until(&mut self, wanted: &str) {
        assert!(self.tells(wanted), "it ended before {wanted}:\n{}", self.journal());
    }

    /// Starts to read its configuration again, and waits until it has.
    #[track_caller]
    pub(crate) fn reload(&mut self) {
        self.signal(Signal::HUP);
        self.until("RELOADING=1");
        self.until("READY=1");
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(ended) = self.ended {
                return ended;
            }
            self.ended = self.child.try_wait().unwrap();
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.journal());
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Stops it in good order.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let ended = self.ends();
        assert_eq!(ended.code(), Some(0), "{ended}:\n{}", self.journal());
        let journal = self.journal();
        assert!(!journal.contains("panicked") && !journal.contains("the watcher broke off"), "{journal}");
    }

    /// Asks over the socket in the state directory: status and body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
        let mut stream = UnixStream::connect(socket_in(&self.state))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.unwrap_or_else(|| panic!("no status in `{head}`")), body.to_owned()))
    }

    /// What it answers, which must be no error.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, "").unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// What it answers, if it does.
    pub(crate) fn try_get(&self, path: &str) -> Option<Value> {
        let (status, body) = self.ask("GET", path, "").ok()?;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    /// Has something run; gives the number of the run.
    #[track_caller]
    pub(crate) fn order(&self, path: &str, body: &str) -> u64 {
        let (status, answer) = self.ask("POST", path, body).unwrap();
        assert_eq!(status, 202, "{path}: {answer}");
        let run: Value = serde_json::from_str(&answer).unwrap();
        run["id"].as_u64().unwrap()
    }

    /// The runs, oldest first.
    #[track_caller]
    pub(crate) fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = serde_json::from_value(self.get("/runs?limit=1000")).unwrap();
        runs.reverse();
        runs
    }

    /// A run, once it has ended.
    #[track_caller]
    pub(crate) fn ended(&self, id: u64) -> Run {
        let path = format!("/runs/{id}");
        self.eventually("the run ends", || {
            let run: Run = serde_json::from_value(self.get(&path)).unwrap();
            run.outcome.is_some().then_some(run)
        })
    }

    /// A run that must succeed.
    #[track_caller]
    pub(crate) fn succeeds(&self, id: u64) -> Run {
        let run = self.ended(id);
        assert_eq!(run.outcome, Some(Outcome::Succeeded), "{run:?}");
        run
    }

    /// Looks again and again until there is what is wanted.
    #[track_caller]
    pub(crate) fn eventually<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            let in_time = Instant::now() < deadline;
            assert!(in_time, "{what}: in vain\n{}\n{:?}", self.journal(), self.ask("GET", "/status", ""));
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// Takes what is told at once, as whoever tells it waits when nobody does.
fn read_all(socket: UnixDatagram) -> Receiver<String> {
    let (lines_to, lines) = channel();
    std::thread::spawn(move || {
        let mut space = [0; 4096];
        // Nothing at all is what comes when the socket is shut.
        while let Ok(length @ 1..) = socket.recv(&mut space) {
            for line in String::from_utf8_lossy(&space[..length]).lines() {
                let (Ok(()) | Err(_)) = lines_to.send(line.to_owned());
            }
        }
    });
    lines
}

impl Drop for Service {
    fn drop(&mut self) {
        self.told_at.shutdown(std::net::Shutdown::Both).unwrap();
        if self.ended.is_none() {
            if self.wrapped
                && let Ok(holder) = fs::read_to_string(self.state.join("holdfast.lock"))
            {
                let pid = holder.split(' ').nth(1).and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
                // It has ended if nothing went wrong.
                let (Some(Ok(()) | Err(_)) | None) = pid.map(|pid| kill_process(pid, Signal::KILL));
            }
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A request that is held at the server, and all after it, until it is dropped.
pub(crate) struct Held {
    reached: Receiver<()>,
    _go_on: Sender<()>,
}

impl Held {
    /// Holds the next request for this operation whose key contains this.
    pub(crate) fn at(server: &Server, operation: &'static str, part: &'static str) -> Self {
        let (reached_to, reached) = channel();
        let (go_on, waits) = channel::<()>();
        let waits = Mutex::new(waits);
        server.on_request(move |asked, key| {
            // After the first the other end is gone, and nothing is held any more.
            if asked == operation && key.contains(part) && reached_to.send(()).is_ok() {
                let (Ok(()) | Err(_)) = waits.lock().unwrap().recv();
            }
        });
        Self { reached, _go_on: go_on }
    }

    /// Waits until it is held.
    #[track_caller]
    pub(crate) fn reached(&self) {
        self.reached.recv_timeout(PATIENCE).expect("the request comes");
    }
}
