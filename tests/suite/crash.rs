//! kill -9 at any point of a copy, a backup, a restore or a check: the next run does the job, and nothing is lost.
//!
//! The real program runs against the S3 server in memory and is killed at exact points: when the server sees its n-th
//! request, before that is done or with its answer lost, and at the n-th call of a kind that touches the file system
//! (strace counts them). Some points are tried by default; `tests/kill-at-any-point` tries many.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use holdfast::model::digest::Digest;
use holdfast::model::key::Key;
use holdfast::model::layout::Layout;
use holdfast::model::run::Outcome;
use holdfast::store::Capabilities;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{Lab, files_below, sha1};
use crate::s3_memory::{ACCESS_KEY, Effect, Fault, Options, Request, SECRET_KEY, Server, When};
use crate::s3_store::connect;

/// How many points are tried unless the environment says otherwise.
const SAMPLE: usize = 24;
/// How many requests a copy has under way at once.
const PARALLEL: usize = 4;
/// How many requests a restore has under way at once, which cannot be set.
const RESTORE_PARALLEL: usize = 32;
/// How many binaries that came wait for each of the threads that write them, with the one in its hands.
const RESTORE_WAITING: usize = 8 + 1;
/// How large a volume becomes, as the configuration has it.
const VOLUME_BYTES: u64 = 16 << 20;
/// What changes something on the disk, in the ledger and in a restore, and what opens files on the way there.
const CALLS: &str = "renameat,rename,renameat2,link,linkat,unlink,unlinkat,mkdir,rmdir,fsync,fdatasync,syncfs,\
                     ftruncate,pwrite64,openat";
/// No kind of call has more points than this to choose from: there are many more writes than renames.
const POINTS_OF_A_CALL: u64 = 40;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Copy,
    Backup,
    Restore { from: From, over: Over },
    Check,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Point,
    Archive,
}

/// What a restore finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Nothing,
    /// Damaged and surplus binaries and old documents.
    Damage,
}

/// The jobs, and how many points in [`SAMPLE`] each gets.
const JOBS: [(Job, usize); 7] = [
    (Job::Copy, 6),
    (Job::Backup, 6),
    (Job::Restore { from: From::Point, over: Over::Nothing }, 3),
    (Job::Restore { from: From::Point, over: Over::Damage }, 3),
    (Job::Restore { from: From::Archive, over: Over::Nothing }, 2),
    (Job::Restore { from: From::Archive, over: Over::Damage }, 3),
    (Job::Check, 1),
];

/// When it is killed.
#[derive(Clone, Debug)]
enum At {
    /// The server has seen this request and never does it.
    Request(u64),
    /// The server has done this request, and its answer does not arrive.
    Answer(u64),
    /// A thread is about to make this call for the n-th time.
    Call(String, u64),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(number) => write!(f, "before request {number} is done"),
            Self::Answer(number) => write!(f, "after request {number} is done"),
            Self::Call(name, number) => write!(f, "before call {number} of {name}"),
        }
    }
}

/// A repository with a restore point and an archive of it, made once. Points have it linked, and never write to it.
struct Template {
    directory: TempDir,
    server: Server,
    point: String,
    archive: String,
    /// The binaries by digest.
    contents: BTreeMap<Digest, Vec<u8>>,
    /// The files of the store by path.
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// The documents, unpacked.
    documents: Vec<u8>,
}

impl Template {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(Options::default());
        let binaries = directory.path().join("binaries");
        let mut random = fastrand::Rng::with_seed(11);
        let mut contents = BTreeMap::new();
        // Small ones, and some that go up in parts; random, so that nothing shrinks on its way into an archive.
        for bytes in (0..60).map(|number| 1 + number * 700).chain([9 << 20; 3]) {
            let mut content = vec![0; bytes];
            random.fill(&mut content);
            let digest = sha1(&content);
            let path = binaries.join(Layout::modeshape().path(&digest));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &content).unwrap();
            contents.insert(digest, content);
        }
        let line = |number| format!("{{ \"metadata\" : {{ \"id\" : \"{number:05}\" }} , \"content\" : {{ }} }}\n");
        let documents: String = (0..500).map(line).collect();
        fs::create_dir(directory.path().join("documents")).unwrap();
        fs::write(directory.path().join("documents/documents_000001.bin"), &documents).unwrap();
        let mut template = Self {
            files: files_below(&binaries),
            directory,
            server,
            point: String::new(),
            archive: String::new(),
            contents,
            documents: documents.into_bytes(),
        };
        write_configuration(template.directory.path(), &template.server);
        let site = Site { directory: template.directory.path() };
        let result = |job| site.holdfast(&["run", job, "--json"])["result"].as_str().unwrap().to_owned();
        (template.point, template.archive) = (result("copy.binaries"), result("backup.full"));
        template
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn write_configuration(directory: &Path, server: &Server) {
    let text = format!(
        "[service]\nstate_dir = \"state\"\n\
         [repository.main]\nbinaries = \"binaries\"\ndocuments = {{ directory = \"documents\" }}\n\
         [destination.main]\nurl = \"s3://{}/site\"\nendpoint = \"{}\"\npath_style = true\n\
         credentials = {{ access_key_file = \"access\", secret_key_file = \"secret\" }}\n\
         [copy.binaries]\nparallel = {PARALLEL}\nsettle = \"0s\"\n[backup.full]\nvolume = \"{VOLUME_BYTES}B\"\n",
        server.bucket(),
        server.endpoint()
    );
    fs::write(directory.join("holdfast.toml"), text).unwrap();
    fs::write(directory.join("access"), ACCESS_KEY).unwrap();
    fs::write(directory.join("secret"), SECRET_KEY).unwrap();
    fs::set_permissions(directory.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// A directory with a configuration.
#[derive(Clone, Copy)]
struct Site<'a> {
    directory: &'a Path,
}

impl Site<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<std::ffi::OsString> {
        let mut all: Vec<_> = arguments.iter().map(Into::into).collect();
        all.extend(["--config".into(), self.path("holdfast.toml").into_os_string()]);
        all
    }

    /// Runs the program to its end, which must be a good one; gives the JSON that it prints.
    #[track_caller]
    fn holdfast(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(self.arguments(arguments)).env_remove("HOLDFAST_CONFIG").stdin(Stdio::null());
        let output = command.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?} ended with {}\nout:\n{out}\nerr:\n{err}", output.status);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in:\n{out}"))
    }

    /// Runs the program under strace, which writes the calls that it makes to a file.
    fn traced(&self, arguments: &[&str], trace: &[&str]) -> std::process::ExitStatus {
        let mut command = Command::new("strace");
        command.args(["-f", "-o"]).arg(self.path("trace")).args(trace).arg("--");
        command.arg(env!("CARGO_BIN_EXE_holdfast")).args(self.arguments(arguments));
        command.env_remove("HOLDFAST_CONFIG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap()
    }

    /// Runs the program until it is killed; false if it came to its end before.
    fn killed(&self, server: &Server, arguments: &[&str], at: &At) -> bool {
        let (At::Request(number) | At::Answer(number)) = at else {
            let At::Call(name, number) = at else { unreachable!("it is no request") };
            let inject = format!("inject={name}:signal=KILL:when={number}");
            let status = self.traced(arguments, &["-e", &format!("trace={name}"), "-e", &inject]);
            return status.signal() == Some(9);
        };
        let (pid_to, pid) = channel::<Pid>();
        let (pid, seen, number) = (Mutex::new(pid), AtomicU64::new(0), *number);
        let kill = move |_: &str, _: &str| {
            if seen.fetch_add(1, Ordering::Relaxed) + 1 == number {
                let pid = pid.lock().unwrap().recv().unwrap();
                kill_process(pid, Signal::KILL).unwrap();
                // It is dead before anything else happens. An error says that it was waited for already.
                let dead = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
                assert!(matches!(dead, Ok(_) | Err(Errno::CHILD)));
            }
        };
        if matches!(at, At::Request(_)) {
            server.fault(Fault::anywhere(Effect::Hang).when(When::Only(number)));
            server.on_request(kill);
        } else {
            server.on_answer(move |operation, key, _| kill(operation, key));
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(self.arguments(arguments)).env_remove("HOLDFAST_CONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // Nobody takes it if the point is never reached.
        let (Ok(()) | Err(_)) = pid_to.send(Pid::from_child(&child));
        let status = child.wait().unwrap();
        server.wait_until_alone();
        server.clear_faults();
        server.on_request(|_, _| {});
        server.on_answer(|_, _, _| {});
        status.signal() == Some(9)
    }

    fn history(&self) -> Vec<Value> {
        self.holdfast(&["history", "--json"]).as_array().unwrap().clone()
    }
}

/// One job in a directory of its own.
struct Trial<'a> {
    template: &'a Template,
    job: Job,
    directory: TempDir,
    /// Copies and backups write to a server of their own; restores read from the template's.
    own: Option<Server>,
    /// Contents that a restore must not lose.
    replaced: Vec<Vec<u8>>,
    /// The binaries that a restore has to fetch.
    needed: BTreeSet<Digest>,
}

impl<'a> Trial<'a> {
    fn new(template: &'a Template, job: Job) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let own = matches!(job, Job::Copy | Job::Backup).then(|| Server::start(Options::default()));
        write_configuration(directory.path(), own.as_ref().unwrap_or(&template.server));
        let mut trial = Self { template, job, directory, own, replaced: Vec::new(), needed: BTreeSet::new() };
        if trial.own.is_none() {
            fs::create_dir(trial.site().path("state")).unwrap();
            fs::copy(template.path("state/ledger.db"), trial.site().path("state/ledger.db")).unwrap();
        }
        if let Job::Restore { over: Over::Nothing, .. } = job {
            trial.needed = template.contents.keys().copied().collect();
        } else {
            link_all(&template.path("binaries"), &trial.site().path("binaries"));
            link_all(&template.path("documents"), &trial.site().path("documents"));
        }
        if let Job::Restore { over: Over::Damage, .. } = job {
            trial.damage();
        }
        trial
    }

    fn site(&self) -> Site<'_> {
        Site { directory: self.directory.path() }
    }

    fn server(&self) -> &Server {
        self.own.as_ref().unwrap_or(&self.template.server)
    }

    fn arguments(&self) -> Vec<&str> {
        match self.job {
            Job::Copy => vec!["run", "copy.binaries", "--json"],
            Job::Backup => vec!["run", "backup.full", "--json"],
            Job::Restore { from: From::Point, .. } => vec!["restore", &self.template.point, "--yes", "--json"],
            Job::Restore { from: From::Archive, .. } => vec!["restore", &self.template.archive, "--yes", "--json"],
            Job::Check => vec!["check", "--json"],
        }
    }

    fn binary(&self, digest: &Digest) -> PathBuf {
        self.site().path("binaries").join(Layout::modeshape().path(digest))
    }

    /// Every third binary is damaged, every third missing, and there are ten more and other documents.
    fn damage(&mut self) {
        for (number, digest) in self.template.contents.keys().enumerate() {
            if number % 3 == 2 {
                continue;
            }
            self.needed.insert(*digest);
            fs::remove_file(self.binary(digest)).unwrap();
            if number % 3 == 0 {
                let content = format!("damage to {digest}").into_bytes();
                fs::write(self.binary(digest), &content).unwrap();
                self.replaced.push(content);
            }
        }
        for number in 0..10 {
            let content = format!("surplus {number}").into_bytes();
            let path = self.binary(&sha1(&content));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &content).unwrap();
            self.replaced.push(content);
        }
        let documents = self.site().path("documents");
        fs::remove_file(documents.join("documents_000001.bin")).unwrap();
        for name in ["documents_000001.bin", "documents_000002.bin"] {
            let content = format!("{{ \"metadata\" : {{ \"id\" : \"{name}\" }} , \"content\" : {{ }} }}\n");
            fs::write(documents.join(name), &content).unwrap();
            self.replaced.push(content.into_bytes());
        }
    }

    /// Runs the job unharmed; tells how many requests it makes, and how often a thread of it makes each call.
    fn survey(template: &'a Template, job: Job, calls: bool) -> (u64, BTreeMap<String, u64>) {
        let trial = Self::new(template, job);
        trial.server().clear_log();
        if !calls {
            trial.site().holdfast(&trial.arguments());
            return (trial.server().requests().len() as u64, BTreeMap::new());
        }
        let trace = format!("trace=?{}", CALLS.replace(',', ",?"));
        let status = trial.site().traced(&trial.arguments(), &["--seccomp-bpf", "-e", &trace]);
        assert!(status.success(), "{job:?} under strace ended with {status}");
        let requests = trial.server().requests().len() as u64;
        let mut made: BTreeMap<(String, String), u64> = BTreeMap::new();
        for line in fs::read_to_string(trial.site().path("trace")).unwrap().lines() {
            let mut words = line.split_whitespace();
            let (thread, call) = (words.next().unwrap(), words.next().unwrap_or_default());
            if let Some((name, _)) = call.split_once('(') {
                *made.entry((name.to_owned(), thread.to_owned())).or_default() += 1;
            }
        }
        let mut most = BTreeMap::new();
        for ((name, _), count) in made {
            let most: &mut u64 = most.entry(name).or_default();
            *most = count.max(*most);
        }
        (requests, most)
    }

    /// Tries one point; false if the job came to its end before.
    fn run(self, at: &At, thorough: bool) -> bool {
        let arguments = self.arguments();
        self.server().clear_log();
        if !self.site().killed(self.server(), &arguments, at) {
            return false;
        }
        self.server().wait_until_alone();
        let first = Requests(self.server().requests());
        let there = self.server().objects();
        let brought = self.brought();
        self.server().clear_log();
        let run = self.site().holdfast(&arguments);
        let second = Requests(self.server().requests());
        self.check_history(&run, at);
        match self.job {
            Job::Copy => self.check_copy(&there, &first, &second),
            Job::Backup => self.check_backup(&there, &first, &second),
            Job::Restore { from, .. } => {
                self.check_quarantines(&run);
                self.check_restore(from, &brought, &first, &second);
            }
            Job::Check => {
                self.site().holdfast(&["run", "copy.binaries", "--json"]);
            }
        }
        assert_eq!(self.server().uploads(), [], "an upload is left unfinished");
        if let Some(name) = run["result"].as_str().filter(|_| self.own.is_some()) {
            self.site().holdfast(&["verify", name, "--json"]);
            if thorough {
                self.check_restored_elsewhere(name);
            }
        }
        true
    }

    /// The killed run is interrupted, unless it had just ended or not begun.
    fn check_history(&self, run: &Value, at: &At) {
        if self.job == Job::Check {
            return;
        }
        let before = if self.own.is_some() { 0 } else { 2 };
        let history = self.site().history();
        let outcome = |run: &Value| run["outcome"].as_str().unwrap_or("running").to_owned();
        assert_eq!((outcome(run).as_str(), &history[0]["id"]), ("succeeded", &run["id"]));
        let killed: Vec<_> = history[1..history.len() - before].iter().map(outcome).collect();
        let outcomes: &[&[&str]] = match at {
            At::Request(_) | At::Answer(_) => &[&["interrupted"]],
            At::Call(..) => &[&[], &["interrupted"], &["succeeded"]],
        };
        assert!(outcomes.iter().any(|outcomes| killed == *outcomes), "the killed run is {killed:?}");
    }

    /// Everything that lies at the server is whole and was sent once, but for what was under way.
    fn check_copy(&self, there: &BTreeMap<String, Bytes>, first: &Requests, second: &Requests) {
        let contents = &self.template.contents;
        let objects = self.server().objects();
        for (digest, content) in contents {
            let lies = objects.get(&format!("site/{}", Key::binary(digest)));
            assert!(lies.is_some_and(|lies| lies == content), "{digest} is missing or damaged");
        }
        let points: Vec<_> = objects.keys().filter(|key| key.ends_with("/point.json")).collect();
        assert!(!points.is_empty());
        for key in points {
            check_point(&objects, key, contents);
        }
        // Of a binary that was at the server when the first run died, not a byte is sent again, whether the answer
        // had arrived or not. Of any other at most all of it is sent twice: a request cut at its last byte, or parts
        // of an upload that was not completed. There are at most as many of these as requests at once. So the bytes
        // of both runs are at most those of all binaries and, once more, those of the binaries under way.
        let (mut under_way, mut in_flight, mut sent, mut total) = (0, 0, 0, 0);
        for (digest, content) in contents {
            let key = format!("site/{}", Key::binary(digest));
            let (before, after, bytes) = (first.sent(&key), second.sent(&key), content.len() as u64);
            if there.contains_key(&key) {
                assert_eq!(after, 0, "{key} was there and is sent again");
            } else if first.0.iter().any(|request| request.key == key && request.is_upload()) {
                under_way += 1;
                in_flight += bytes;
            }
            assert!(before <= bytes && after <= bytes, "{key}: {before} and {after} of {bytes} bytes");
            (sent, total) = (sent + before + after, total + bytes);
        }
        assert!(under_way <= PARALLEL, "{under_way} binaries were under way");
        assert!(sent <= total + in_flight, "{sent} bytes were sent of {total}, with {in_flight} in flight");
    }

    /// There is one whole archive; volumes that were complete are not sent again.
    fn check_backup(&self, there: &BTreeMap<String, Bytes>, first: &Requests, second: &Requests) {
        let objects = self.server().objects();
        let volumes = |objects: &BTreeMap<String, Bytes>| {
            objects.keys().filter(|key| key.ends_with(".zip")).cloned().collect::<Vec<_>>()
        };
        let manifests: Vec<_> =
            objects.keys().filter(|key| key.starts_with("site/archives/") && key.ends_with(".json")).collect();
        // A run that is killed after its archive was forgotten and before it was recorded as ended leaves a whole
        // archive of its own.
        let whole = there.keys().any(|key| key.starts_with("site/archives/") && key.ends_with(".json"));
        let anew = whole && manifests.len() == 2;
        assert!(manifests.len() == 1 || anew, "{manifests:?}");
        let mut named = BTreeSet::new();
        for key in manifests {
            let manifest: Value = serde_json::from_slice(&objects[key]).unwrap();
            assert_eq!(manifest["complete"], true);
            assert_eq!(manifest["binaries"], self.template.contents.len());
            for volume in manifest["volumes"].as_array().unwrap() {
                check_object(&objects, volume);
                named.insert(format!("site/{}", volume["key"].as_str().unwrap()));
            }
            let volumes = manifest["volumes"].as_array().unwrap();
            let empty = volumes.iter().filter(|volume| volume["binaries"] == 0).count();
            assert_eq!((volumes.len(), empty), (3, 0), "{volumes:?}");
        }
        assert_eq!(named, volumes(&objects).into_iter().collect(), "a volume belongs to no archive");
        if !anew {
            for key in volumes(there) {
                assert_eq!(second.sent(&key), 0, "{key} was complete and is sent again");
            }
            let sent: u64 = named.iter().map(|key| first.sent(key) + second.sent(key)).sum();
            let total: u64 = named.iter().map(|key| objects[key].len() as u64).sum();
            assert!(sent <= total + VOLUME_BYTES, "{sent} bytes were sent of {total}");
        }
    }

    fn check_restored_elsewhere(&self, name: &str) {
        let to = self.site().path("elsewhere");
        self.site().holdfast(&["restore", name, "--to", to.to_str().unwrap(), "--json"]);
        assert!(files_below(&to.join("binaries")) == self.template.files, "the restored binaries differ");
        assert!(unpacked(&to.join("documents")) == self.template.documents, "the restored documents differ");
    }

    /// The binaries that a killed restore had brought whole, into its staging directory or into the repository.
    fn brought(&self) -> BTreeSet<Digest> {
        let whole = |digest: &Digest, path: &Path| fs::read(path).is_ok_and(|content| digest.matches(&content));
        let staged = ours(self.directory.path(), ".holdfast-restore-").pop();
        let is_brought = |digest: &&Digest| {
            let staged = staged.as_ref().map(|staged| staged.join("binaries").join(Layout::modeshape().path(digest)));
            whole(digest, &self.binary(digest)) || staged.is_some_and(|staged| whole(digest, &staged))
        };
        self.needed.iter().filter(is_brought).copied().collect()
    }

    /// Every quarantine is named: by the run that made it, or, if that was killed before it could, by the next one.
    fn check_quarantines(&self, run: &Value) {
        let of_earlier = run["problems"].as_array().unwrap().iter().map(|problem| problem["subject"].clone());
        // A run whose end was recorded when it was killed has named its own.
        let of_ended = self.site().history().into_iter().map(|run| run["quarantine"].clone());
        let named: Vec<_> = of_earlier.chain(of_ended).collect();
        for directory in ours(self.directory.path(), ".holdfast-quarantine-") {
            let name = directory.to_str().unwrap();
            assert!(named.iter().any(|named| named == name), "`{name}` is not among {named:?}");
        }
    }

    /// The repository is as in the backup, and what it replaced lies beside it; what was brought is not fetched again.
    fn check_restore(&self, from: From, brought: &BTreeSet<Digest>, first: &Requests, second: &Requests) {
        assert!(files_below(&self.site().path("binaries")) == self.template.files, "the binaries differ");
        assert!(unpacked(&self.site().path("documents")) == self.template.documents, "the documents differ");
        for inside in ["binaries", "documents"] {
            assert_eq!(ours(&self.site().path(inside), ".holdfast"), <[PathBuf; 0]>::default());
        }
        assert_eq!(ours(self.directory.path(), ".holdfast-restore-"), <[PathBuf; 0]>::default());
        let aside = ours(self.directory.path(), ".holdfast-quarantine-");
        let aside: BTreeSet<_> = aside.iter().flat_map(|directory| files_below(directory).into_values()).collect();
        for content in &self.replaced {
            assert!(aside.contains(content), "`{}` is lost", String::from_utf8_lossy(content));
        }
        let plan = self.site().holdfast(&[&["restore", self.arguments()[1], "--dry-run", "--json"][..]].concat());
        assert_eq!((&plan["fetch"], &plan["documents"], &plan["quarantine"]), (&0.into(), &0.into(), &0.into()));
        match from {
            From::Point => {
                let fetched = |requests: &Requests, digest| requests.fetched(&format!("site/{}", Key::binary(digest)));
                let mut in_flight = 0;
                for digest in self.template.contents.keys() {
                    let (before, after) = (fetched(first, digest), fetched(second, digest));
                    let again = u64::from(self.needed.contains(digest) && !brought.contains(digest));
                    assert!(before <= 1 && after == again, "{digest} is fetched {before} and {after} times");
                    in_flight += usize::from(before == 1 && after == 1);
                }
                let writers = std::thread::available_parallelism().unwrap().get().clamp(2, 8);
                let most = RESTORE_PARALLEL + writers * RESTORE_WAITING;
                assert!(in_flight <= most, "{in_flight} binaries were in flight, and {most} may be");
            }
            From::Archive => {
                let key = format!("site/archives/{}", self.template.archive.replace(".zip", ".json"));
                let manifest: Value = serde_json::from_slice(&self.server().object(&key).unwrap()).unwrap();
                for volume in manifest["volumes"].as_array().unwrap() {
                    let [first_in, last_in]: [Digest; 2] =
                        ["first", "last"].map(|end| volume[end].as_str().unwrap().parse().unwrap());
                    let lacks = self.needed.range(first_in..=last_in).any(|digest| !brought.contains(digest));
                    let key = format!("site/{}", volume["key"].as_str().unwrap());
                    let (before, after) = (first.fetched(&key), second.fetched(&key));
                    assert!(before <= 1 && after <= u64::from(lacks), "{key} is fetched {before} and {after} times");
                }
            }
        }
    }
}

/// What the server was asked by one run.
struct Requests(Vec<Request>);

impl Requests {
    /// The bytes of this object that arrived.
    fn sent(&self, key: &str) -> u64 {
        self.0.iter().filter(|request| request.key == key).map(Request::content_bytes).sum()
    }

    /// How often it was asked for the whole of this object.
    fn fetched(&self, key: &str) -> u64 {
        let whole = |request: &&Request| request.operation == "GetObject" && request.key == key && !request.ranged;
        self.0.iter().filter(whole).count() as u64
    }
}

impl Request {
    fn is_upload(&self) -> bool {
        ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"].contains(&self.operation)
    }

    /// The bytes of an object or a part; those of other requests are no content.
    fn content_bytes(&self) -> u64 {
        if ["PutObject", "UploadPart"].contains(&self.operation) { self.body_bytes } else { 0 }
    }
}

/// Everything that a restore point names lies there and is what it is said to be.
fn check_point(objects: &BTreeMap<String, Bytes>, key: &str, contents: &BTreeMap<Digest, Vec<u8>>) {
    let manifest: Value = serde_json::from_slice(&objects[key]).unwrap();
    assert_eq!(manifest["complete"], true);
    for file in manifest["documents"]["files"].as_array().unwrap() {
        check_object(objects, file);
    }
    let mut listed = BTreeMap::new();
    for list in manifest["lists"].as_array().unwrap() {
        let mut text = String::new();
        MultiGzDecoder::new(&*check_object(objects, list)).read_to_string(&mut text).unwrap();
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["+", digest, bytes] => listed.insert(digest.parse().unwrap(), bytes.parse().unwrap()),
                ["-", digest] => listed.remove(&digest.parse().unwrap()),
                _ => panic!("`{line}` in a list"),
            };
        }
    }
    let all: BTreeMap<_, _> = contents.iter().map(|(digest, content)| (*digest, content.len())).collect();
    assert_eq!(listed, all);
    assert_eq!(manifest["binaries"], all.len());
}

/// The object that a part of a manifest names, which must have the size and the digest that stand there.
fn check_object(objects: &BTreeMap<String, Bytes>, named: &Value) -> Bytes {
    let object = objects.get(&format!("site/{}", named["key"].as_str().unwrap()));
    let object = object.unwrap_or_else(|| panic!("{named} is not there")).clone();
    assert_eq!((&named["bytes"], &named["sha1"]), (&object.len().into(), &sha1(&object).to_string().into()));
    object
}

/// What is ours in a directory.
fn ours(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path()).collect()
}

/// The documents in a directory, in which nothing else may lie.
fn unpacked(directory: &Path) -> Vec<u8> {
    let mut documents = Vec::new();
    for (path, content) in files_below(directory) {
        let name = path.to_string_lossy();
        assert!(name.starts_with("documents_0"), "`{name}` is among the documents");
        if name.ends_with(".gz") {
            MultiGzDecoder::new(&*content).read_to_end(&mut documents).unwrap();
        } else {
            documents.extend(content);
        }
    }
    documents
}

fn link_all(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-al").args([from, to]).status().unwrap();
    assert!(status.success());
}

/// `count` numbers from 1 to `of`, spread evenly; each of them again when they do not suffice.
fn spread(count: usize, of: u64) -> impl Iterator<Item = u64> {
    (0..count as u64).map(move |number| 1 + (2 * number + 1) * of / (2 * count as u64))
}

/// The points of a job: in turn before and after a request, and at calls if there is strace to find them.
fn points(template: &Template, job: Job, count: usize, local: bool) -> Vec<At> {
    let (requests, calls) = Trial::survey(template, job, local);
    let network = if local { count.div_ceil(2) } else { count };
    let mut points: Vec<_> = spread(network, requests)
        .enumerate()
        .map(|(number, request)| if number % 2 == 0 { At::Request(request) } else { At::Answer(request) })
        .collect();
    let mut choice = Vec::new();
    for (name, most) in calls {
        // To open a file changes little; it is there for what comes before the first change.
        let some = most.min(if name == "openat" { POINTS_OF_A_CALL / 4 } else { POINTS_OF_A_CALL });
        choice.extend(spread(usize::try_from(some).unwrap(), most).map(|number| At::Call(name.clone(), number)));
    }
    let chosen = spread(count - network, choice.len() as u64).map(|number| usize::try_from(number).unwrap() - 1);
    points.extend(chosen.map(|index| choice[index].clone()));
    points
}

/// Tries a point; one that lies behind the end of the job, as calls are not always made by the same thread, is put
/// half as far.
fn try_point(template: &Template, job: Job, at: At, thorough: bool) -> Result<(), String> {
    let mut at = at;
    loop {
        let began = Instant::now();
        let tried = catch_unwind(AssertUnwindSafe(|| Trial::new(template, job).run(&at, thorough)));
        match tried {
            Ok(true) => {
                eprintln!("{job:?}, {at}: {} ms", began.elapsed().as_millis());
                return Ok(());
            }
            Ok(false) => match &mut at {
                At::Request(number) | At::Answer(number) | At::Call(_, number) if *number > 1 => *number /= 2,
                _ => return Err(format!("{job:?}, {at}: it came to its end")),
            },
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                return Err(format!("{job:?}, {at}: {}", text.unwrap_or_else(|| "a test helper panicked".into())));
            }
        }
    }
}

#[test]
fn what_is_killed_at_any_point_is_done_by_the_next_run_and_nothing_is_lost() {
    let wanted = std::env::var("HOLDFAST_CRASH_POINTS").map_or(SAMPLE, |text| text.parse().unwrap());
    let only = std::env::var("HOLDFAST_CRASH_JOB").unwrap_or_default();
    let local = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !local {
        eprintln!("skipped: strace is not installed, so points between requests are not tried");
    }
    let template = Template::new();
    let mut points_of = Vec::new();
    let mut before = (0, 0);
    for (job, weight) in JOBS {
        let after = (before.0 + weight, (before.0 + weight) * wanted / SAMPLE);
        if format!("{job:?}").contains(&only) {
            points_of.extend(points(&template, job, after.1 - before.1, local).into_iter().map(|at| (job, at)));
        }
        before = after;
    }
    let tried = points_of.len();
    // Restores and checks share a server, so they go one after the other, beside copies and backups.
    let (own, shared): (Vec<_>, Vec<_>) =
        points_of.into_iter().partition(|(job, _)| matches!(job, Job::Copy | Job::Backup));
    let try_all = |points: Vec<(Job, At)>| {
        let thorough = |number| number % 4 == 0;
        let each = points.into_iter().enumerate();
        each.filter_map(|(number, (job, at))| try_point(&template, job, at, thorough(number)).err()).collect::<Vec<_>>()
    };
    let failures = std::thread::scope(|scope| {
        let beside = scope.spawn(|| try_all(own));
        let mut failures = try_all(shared);
        failures.extend(beside.join().unwrap());
        failures
    });
    eprintln!("{tried} points tried, {} recovered", tried - failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test]
async fn a_backup_that_is_cut_while_its_records_span_volumes_does_not_go_on_without_them() {
    let server = Server::start(Options::default());
    let store = connect(&server, "site", Capabilities::ALL).await;
    let mut lab = Lab::with_store(Arc::new(store));
    lab.layout = Layout::jackrabbit();
    lab.volume_bytes = 20_000;
    lab.write_documents(&["one", "two"]);
    lab.add_many(100, "a");
    let mut random = fastrand::Rng::with_seed(3);
    for name in ["reference.key", "repository-1"] {
        let mut content = vec![0; 15_000];
        random.fill(&mut content);
        fs::write(lab.path("binaries").join(name), content).unwrap();
    }
    let before = lab.snapshot();
    // The second volume is recorded as being completed, and never comes.
    server.fault(Fault::at("PutObject", Effect::Status(403, "AccessDenied")).when(When::Only(2)));
    let cut = lab.backup().await;
    assert_eq!(cut.outcome, Some(Outcome::Failed), "{cut:?}");
    let run = lab.backup().await;
    assert_eq!(run.outcome, Some(Outcome::Succeeded), "{run:?}");
    fs::remove_dir_all(lab.path("binaries")).unwrap();
    let restored = lab.restore(&run.result.unwrap()).await;
    assert_eq!(restored.outcome, Some(Outcome::Succeeded), "{restored:?}");
    assert!(lab.snapshot() == before, "something is missing");
}

#[tokio::test]
async fn what_was_sent_without_a_record_is_looked_for_however_much_was_recorded_before_it() {
    let mut lab = Lab::new();
    lab.add_many(2_000, "a");
    lab.copy().await;
    // As after a kill: no restore point, and of the last binaries no record that they were sent.
    let state = lab.path("state/ledger.db");
    lab.reopen(|| {
        let forget = "DELETE FROM objects WHERE digest > x'e0'; DELETE FROM members;
                      UPDATE series SET last = NULL, documents = NULL, under_way = 1;";
        rusqlite::Connection::open(state).unwrap().execute_batch(forget).unwrap();
    });
    let unrecorded = lab.keys("binaries/").await.iter().filter(|key| key["binaries/".len()..] > *"e0").count() as u64;
    let run = lab.copy().await;
    assert_eq!((run.outcome, run.counts.copied, run.counts.skipped), (Some(Outcome::Succeeded), 0, 2_000), "{run:?}");
    // One look at each; beside that the list and the manifest.
    assert_eq!(run.counts.requests, unrecorded + 2, "{run:?}");
}
