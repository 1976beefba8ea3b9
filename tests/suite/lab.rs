//! A repository, a state directory and a destination for one test, and the jobs on them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flate2::read::GzDecoder;
use holdfast::jobs::backup::{BackupOrder, backup};
use holdfast::jobs::catalogue::{self, Restorable};
use holdfast::jobs::context::{Clock, Destination, Ended, Report, RunContext};
use holdfast::jobs::copy::{CopyOrder, copy};
use holdfast::jobs::restore::{Origin, Parts, RestoreFrom, RestoreOrder, RestorePlan, plan, restore};
use holdfast::jobs::source::RepositorySource;
use holdfast::jobs::verify::{Depth, VerifyOrder, verify};
use holdfast::ledger::{InUse, Ledger, StateLock};
use holdfast::model::digest::{Algorithm, Digest};
use holdfast::model::key::Key;
use holdfast::model::layout::Layout;
use holdfast::model::point::PointManifest;
use holdfast::model::run::{Kind, Run, RunId, Trigger};
use holdfast::model::shard::Shard;
use holdfast::repository::binaries::BinaryStore;
use holdfast::repository::documents::{DocumentDirectory, DocumentSource};
use holdfast::service::runner::{Activation, Runner};
use holdfast::store::ObjectStore;
use holdfast::store::memory::MemoryStore;
use holdfast::store::retry::{RetryPolicy, Retrying};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::conformance::get;

/// What happens while somebody sleeps.
type WhileAsleep = Box<dyn FnMut() + Send>;

/// A clock that stands at a time after every file of the test and goes on by a second with each look; sleeping takes
/// no time, and does what the test has it do.
pub(crate) struct TestClock {
    now: Mutex<Timestamp>,
    while_asleep: Mutex<Option<WhileAsleep>>,
    /// The same for the first who is to sleep for longer than a second; others need not wait for it.
    while_long_asleep: Mutex<Option<WhileAsleep>>,
    /// The longest time that anybody was to sleep.
    pub(crate) longest: Mutex<Duration>,
}

impl std::fmt::Debug for TestClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TestClock")
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let mut now = self.now.lock().unwrap();
        *now += SignedDuration::from_secs(1);
        *now
    }

    async fn sleep(&self, duration: Duration) {
        {
            let mut longest = self.longest.lock().unwrap();
            *longest = (*longest).max(duration);
        }
        if let Some(happens) = self.while_asleep.lock().unwrap().as_mut() {
            happens();
        }
        if duration > Duration::from_secs(1) {
            let once = self.while_long_asleep.lock().unwrap().take();
            if let Some(mut happens) = once {
                happens();
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Everything a test of a job needs.
pub(crate) struct Lab {
    directory: TempDir,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) layout: Layout,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) runner: Runner,
    pub(crate) stop: CancellationToken,
    pub(crate) volume_bytes: u64,
    pub(crate) settle: Duration,
    /// How often a request is tried, without a pause.
    pub(crate) attempts: u32,
    pub(crate) allow_empty: bool,
    pub(crate) with_documents: bool,
    /// Where the documents come from instead of the directory.
    pub(crate) documents: Option<DocumentSource>,
    /// Where the binaries are instead of the directory of the test.
    pub(crate) root: Option<PathBuf>,
    /// The part of the repository that copies are of.
    pub(crate) shard: Option<Shard>,
    lock: Option<StateLock>,
}

impl Lab {
    /// A ModeShape store without documents, and a destination in memory.
    pub(crate) fn new() -> Self {
        Self::with_store(Arc::new(MemoryStore::new("memory:")))
    }

    /// The same with another destination.
    pub(crate) fn with_store(store: Arc<dyn ObjectStore>) -> Self {
        Self::prepared(store, |_| {})
    }

    /// The same after something was done to the directory of the test, before the ledger is made in `state`.
    pub(crate) fn prepared(store: Arc<dyn ObjectStore>, prepare: impl FnOnce(&Path)) -> Self {
        let directory = directory();
        for name in ["binaries", "state", "documents"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        prepare(directory.path());
        let clock = Arc::new(TestClock {
            now: Mutex::new("2100-01-01T00:00:00Z".parse().unwrap()),
            while_asleep: Mutex::new(None),
            while_long_asleep: Mutex::new(None),
            longest: Mutex::default(),
        });
        let lock = StateLock::take(&directory.path().join("state"), "test").unwrap();
        let (ledger, _) = Ledger::open(&lock).unwrap();
        let runner = Runner { ledger: Arc::new(ledger), clock: Arc::clone(&clock) as Arc<dyn Clock> };
        Self {
            directory,
            clock,
            layout: Layout::modeshape(),
            store,
            runner,
            stop: CancellationToken::new(),
            volume_bytes: 1 << 30,
            settle: Duration::from_secs(2),
            attempts: RetryPolicy::default().attempts,
            allow_empty: false,
            with_documents: false,
            documents: None,
            root: None,
            shard: None,
            lock: Some(lock),
        }
    }

    /// A path in the test's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sets the clock.
    pub(crate) fn set_clock(&self, now: &str) {
        *self.clock.now.lock().unwrap() = now.parse().unwrap();
    }

    /// Sets what happens whenever a job sleeps.
    pub(crate) fn while_asleep(&self, happens: impl FnMut() + Send + 'static) {
        *self.clock.while_asleep.lock().unwrap() = Some(Box::new(happens));
    }

    /// Sets what happens while the first sleeps who is to sleep for long, such as a scan that goes slowly.
    pub(crate) fn while_long_asleep(&self, happens: impl FnMut() + Send + 'static) {
        *self.clock.while_long_asleep.lock().unwrap() = Some(Box::new(happens));
    }

    /// The binary store.
    pub(crate) fn binaries(&self) -> BinaryStore {
        BinaryStore::at(&self.root.clone().unwrap_or_else(|| self.path("binaries")), &self.layout)
    }

    /// Adds a binary.
    pub(crate) fn add(&self, content: &[u8]) -> Digest {
        let algorithm = self.layout.algorithms[0];
        let digest = Digest::of(algorithm, content);
        self.write(&digest, content);
        digest
    }

    /// Writes any content under the name of a binary.
    pub(crate) fn write(&self, digest: &Digest, content: &[u8]) {
        let path = self.binaries().path(digest);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Adds this many small binaries, different for each seed.
    pub(crate) fn add_many(&self, count: usize, seed: &str) -> Vec<Digest> {
        (0..count).map(|number| self.add(format!("{seed} {number} {}", "x".repeat(number % 500)).as_bytes())).collect()
    }

    /// Writes documents with these ids as a ModeShape backup would have them.
    pub(crate) fn write_documents(&mut self, ids: &[&str]) {
        let line = |id: &&str| format!("{{ \"metadata\" : {{ \"id\" : \"{id}\" }} , \"content\" : {{ }} }}\n");
        self.write_lines(&ids.iter().map(line).collect::<Vec<_>>().concat());
    }

    /// Writes these lines in place of all documents.
    pub(crate) fn write_lines(&mut self, lines: &str) {
        std::fs::write(self.path("documents/documents_000001.bin"), lines).unwrap();
        self.with_documents = true;
    }

    /// Forgets everything that the ledger knows, as when the state directory was lost.
    pub(crate) fn lose_the_ledger(&mut self) {
        let state = self.path("state");
        self.reopen(|| {
            for entry in std::fs::read_dir(&state).unwrap() {
                let path = entry.unwrap().path();
                if path.file_name().unwrap().to_string_lossy().starts_with("ledger") {
                    std::fs::remove_file(path).unwrap();
                }
            }
        });
    }

    /// Closes the ledger, does something to the state directory, and opens it again.
    pub(crate) fn reopen(&mut self, meanwhile: impl FnOnce()) -> Option<holdfast::ledger::SetAside> {
        let lock = self.lock.take().unwrap();
        let elsewhere = directory();
        let spare = StateLock::take(elsewhere.path(), "test").unwrap();
        self.runner.ledger = Arc::new(Ledger::open(&spare).unwrap().0);
        meanwhile();
        let (ledger, set_aside) = Ledger::open(&lock).unwrap();
        self.runner.ledger = Arc::new(ledger);
        self.lock = Some(lock);
        set_aside
    }

    /// The destination, with requests counted and tried again at once.
    pub(crate) fn destination(&self, report: &Report) -> Destination {
        let policy = RetryPolicy { attempts: self.attempts, first: Duration::ZERO, longest: Duration::ZERO };
        let retrying = Retrying::new(Arc::clone(&self.store), policy).until(self.stop.clone());
        report.meter(retrying.meter());
        let id = self.runner.ledger.destination(self.store.place()).unwrap();
        Destination { name: "test".to_owned(), id, store: Arc::new(retrying), footing: None }
    }

    /// What is copied and backed up.
    pub(crate) fn source(&self) -> RepositorySource {
        RepositorySource {
            name: "main".to_owned(),
            binaries: self.binaries(),
            documents: self.documents.clone().or_else(|| {
                let directory = || DocumentSource::Directory(DocumentDirectory::new(self.path("documents")));
                self.with_documents.then(directory)
            }),
        }
    }

    pub(crate) async fn run(
        &self,
        job: &str,
        kind: Kind,
        work: impl AsyncFnOnce(&RunContext, Destination) -> anyhow::Result<Ended>,
    ) -> Run {
        self.try_run(job, kind, work).await.unwrap()
    }

    async fn try_run(
        &self,
        job: &str,
        kind: Kind,
        work: impl AsyncFnOnce(&RunContext, Destination) -> anyhow::Result<Ended>,
    ) -> anyhow::Result<Run> {
        let report = Arc::new(Report::default());
        let activation =
            Activation { job: job.to_owned(), kind, trigger: Trigger::Request, started_by: None, url: None };
        let destination = self.destination(&report);
        let work = async |run: &RunContext| work(run, destination).await;
        self.runner.run(&activation, self.stop.clone(), report, work).await
    }

    /// Runs a copy.
    pub(crate) async fn copy(&self) -> Run {
        self.copy_with(false).await
    }

    /// Runs a copy, with `--full` or without.
    pub(crate) async fn copy_with(&self, full: bool) -> Run {
        self.try_copy(full).await.unwrap()
    }

    /// Runs a copy; the error is that of the record of the run.
    pub(crate) async fn try_copy(&self, full: bool) -> anyhow::Result<Run> {
        let mut source = self.source();
        source.binaries = source.binaries.within(self.shard);
        self.try_run("copy.main", Kind::Copy, async |run, destination| {
            let (settle, allow_empty) = (self.settle, self.allow_empty);
            copy(run, &CopyOrder { source, destination, parallel: 8, settle, full, allow_empty, scan_rate: None }).await
        })
        .await
    }

    /// The manifest of a restore point, as it lies at the destination.
    pub(crate) async fn point_manifest(&self, point: &str) -> PointManifest {
        let key = Key::parse(&format!("points/{point}/point.json")).unwrap();
        serde_json::from_slice(&get(self.store.as_ref(), &key).await).unwrap()
    }

    /// The binaries of a restore point with their sizes, read from its lists as `docs/format.md` says.
    pub(crate) async fn listed(&self, point: &str) -> BTreeMap<Digest, u64> {
        let mut listed = BTreeMap::new();
        for list in self.point_manifest(point).await.lists {
            let packed = get(self.store.as_ref(), &list.key).await;
            assert_eq!((sha1(&packed), packed.len() as u64), (list.sha1, list.bytes), "{}", list.key);
            let mut text = String::new();
            GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
            for line in text.lines() {
                match line.split(' ').collect::<Vec<_>>()[..] {
                    ["+", digest, bytes] => listed.insert(digest.parse().unwrap(), bytes.parse().unwrap()),
                    ["-", digest] => listed.remove(&digest.parse().unwrap()),
                    _ => panic!("{line}"),
                };
            }
        }
        listed
    }

    /// Checks every restore point that has a manifest: whatever it names lies at the destination as it says.
    pub(crate) async fn check_points(&self) {
        let mut sound = BTreeSet::new();
        for name in self.keys("points/").await {
            let Some(point) = name.strip_suffix("/point.json").and_then(|name| name.strip_prefix("points/")) else {
                continue;
            };
            let (manifest, listed) = (self.point_manifest(point).await, self.listed(point).await);
            let totals = (listed.len() as u64, listed.values().sum::<u64>());
            assert_eq!((manifest.binaries, manifest.bytes), totals, "{point}");
            for (digest, bytes) in listed {
                if sound.insert(digest) {
                    let content = get(self.store.as_ref(), &Key::binary(&digest)).await;
                    assert!(digest.matches(&content) && content.len() as u64 == bytes, "{point}: {digest}");
                }
            }
            for file in manifest.documents.files {
                assert_eq!(sha1(&get(self.store.as_ref(), &file.key.unwrap()).await), file.sha1, "{point}");
            }
            for record in manifest.records {
                assert_eq!(sha1(&get(self.store.as_ref(), &record.key.unwrap()).await), record.sha1, "{point}");
            }
        }
    }

    /// What is in the repository, as a restore point should list it.
    pub(crate) fn expected(&self) -> BTreeMap<Digest, u64> {
        let files = self.snapshot().into_iter();
        files
            .filter_map(|(path, content)| {
                let digest = Digest::from_name(path.file_name()?.as_encoded_bytes())?;
                Some((digest, content.len() as u64))
            })
            .collect()
    }

    /// Runs a backup.
    pub(crate) async fn backup(&self) -> Run {
        let (source, volume_bytes) = (self.source(), self.volume_bytes);
        self.run("backup.main", Kind::Backup, async |run, destination| {
            let (job, settle, allow_empty) = ("backup.main".to_owned(), self.settle, self.allow_empty);
            backup(run, &BackupOrder { job, source, destination, volume_bytes, settle, allow_empty }).await
        })
        .await
    }

    fn restore_order(&self, from: &str, destination: Destination) -> RestoreOrder {
        RestoreOrder {
            from: match from.parse().unwrap() {
                RestoreFrom::Backup(name) => Origin::Backup(name, destination),
                RestoreFrom::Directory(path) => Origin::Directory(path),
            },
            binaries: self.binaries(),
            documents: self.source().documents,
            only: Vec::new(),
            parts: Parts::All,
            ignore_connections: false,
        }
    }

    /// Restores into the repository.
    pub(crate) async fn restore(&self, from: &str) -> Run {
        self.restore_only(from, &[]).await
    }

    /// Restores some binaries into the repository.
    pub(crate) async fn restore_only(&self, from: &str, only: &[Digest]) -> Run {
        self.restore_as(from, |order| order.only = only.to_vec()).await
    }

    /// Restores as the order says once it has been changed.
    pub(crate) async fn restore_as(&self, from: &str, change: impl FnOnce(&mut RestoreOrder)) -> Run {
        self.run("restore", Kind::Restore, async |run, destination| {
            let mut order = self.restore_order(from, destination);
            change(&mut order);
            restore(run, &order).await
        })
        .await
    }

    /// Plans a restore into the repository.
    pub(crate) async fn plan(&self, from: &str) -> anyhow::Result<RestorePlan> {
        let report = Arc::new(Report::default());
        let destination = self.destination(&report);
        let context = RunContext {
            id: RunId::new(0),
            started: self.clock.now(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            stop: self.stop.clone(),
            report,
            ledger: Arc::clone(&self.runner.ledger),
        };
        plan(&context, &self.restore_order(from, destination)).await
    }

    /// Verifies a restore point or an archive.
    pub(crate) async fn verify(&self, name: &str, depth: Depth) -> Run {
        self.run("verify", Kind::Verify, async |run, destination| {
            verify(run, &[VerifyOrder { name: name.parse().unwrap(), destination }], depth).await
        })
        .await
    }

    /// Verifies several in one run.
    pub(crate) async fn verify_all(&self, names: &[&str], depth: Depth) -> Run {
        self.run("verify", Kind::Verify, async |run, destination| {
            let order = |name: &&str| VerifyOrder { name: name.parse().unwrap(), destination: destination.clone() };
            verify(run, &names.iter().map(order).collect::<Vec<_>>(), depth).await
        })
        .await
    }

    /// An object at the destination.
    pub(crate) async fn object(&self, name: &str) -> Vec<u8> {
        get(self.store.as_ref(), &super::conformance::key(name)).await.to_vec()
    }

    /// Has jobs wait before they look at a file again, however long ago it was written.
    pub(crate) fn wait_for_files(&mut self) {
        self.settle = Duration::from_secs(1 << 33);
    }

    /// Takes an object at the destination away.
    pub(crate) async fn delete_object(&self, name: &str) {
        self.store.delete(&super::conformance::key(name)).await.unwrap();
    }

    /// Puts something else in the place of an object at the destination.
    pub(crate) async fn replace_object(&self, name: &str, content: &[u8]) {
        self.delete_object(name).await;
        let content = bytes::Bytes::copy_from_slice(content);
        super::conformance::put(self.store.as_ref(), &super::conformance::key(name), &content).await;
    }

    /// The same with an object that came in parts, of which the store keeps no digest.
    pub(crate) async fn replace_object_in_parts(&self, name: &str, content: &[u8]) {
        self.delete_object(name).await;
        let upload = self.store.begin(&super::conformance::key(name)).await.unwrap();
        let part = upload.part(1, bytes::Bytes::copy_from_slice(content)).await.unwrap();
        upload.complete(vec![part]).await.unwrap();
    }

    /// Takes away what earlier tries to restore left for the next.
    pub(crate) fn forget_earlier_tries(&self) {
        self.beside().iter().for_each(|name| std::fs::remove_dir_all(self.path(name)).unwrap());
    }

    /// The manifest of an archive or a restore point, as JSON.
    pub(crate) async fn manifest(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.object(&manifest_key(name)).await).unwrap()
    }

    /// Changes the manifest of an archive or a restore point.
    pub(crate) async fn edit_manifest(&self, name: &str, edit: impl FnOnce(&mut serde_json::Value)) {
        let mut manifest = self.manifest(name).await;
        edit(&mut manifest);
        self.replace_object(&manifest_key(name), manifest.to_string().as_bytes()).await;
    }

    /// Every file and directory of the repository, its documents included.
    pub(crate) fn everything(&self) -> Tree {
        let mut tree = tree_below(&self.path("binaries"));
        tree.extend(
            tree_below(&self.path("documents"))
                .into_iter()
                .map(|(path, what)| (Path::new("documents").join(path), what)),
        );
        tree
    }

    /// What of ours lies beside the repository.
    pub(crate) fn beside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name.starts_with(".holdfast")).collect();
        names.sort();
        names
    }

    /// The ids of the documents in the repository's directory, in reading order.
    pub(crate) fn document_ids(&self) -> Vec<String> {
        ids_below(&self.path("documents"))
    }

    /// What there is to restore from.
    pub(crate) async fn points(&self) -> Vec<Restorable> {
        let destination = self.destination(&Report::default());
        catalogue::list(&destination, None).await.unwrap().0
    }

    /// The keys at the destination that begin with `prefix`.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        super::conformance::list_all(self.store.as_ref(), prefix).await.into_keys().collect()
    }

    /// Every file of the repository's binary store by path, with its content.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files_below(self.binaries().root())
    }
}

/// Takes a state directory that was just let go: a program that another test starts holds every file of this process
/// until it has become that program.
pub(crate) fn take_again(state: &Path, purpose: &str) -> StateLock {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match StateLock::take(state, purpose) {
            Err(error) if error.is::<InUse>() && Instant::now() < deadline => std::thread::yield_now(),
            taken => return taken.unwrap(),
        }
    }
}

/// A directory in memory where there is room for one: the ledger waits for its disk at every transaction.
fn directory() -> TempDir {
    const ROOM: u64 = 1 << 30;
    let memory = "/dev/shm";
    let roomy = rustix::fs::statvfs(memory).is_ok_and(|found| found.f_bavail * found.f_frsize > ROOM);
    let in_memory = roomy.then(|| tempfile::tempdir_in(memory).ok()).flatten();
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// Files with their content, directories without, by path.
pub(crate) type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Every file and directory below a directory; nothing if it is not there.
pub(crate) fn tree_below(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten() {
            let entry = entry.unwrap();
            let path = entry.path().strip_prefix(root).unwrap().to_owned();
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
                tree.insert(path, None);
            } else {
                tree.insert(path, Some(std::fs::read(entry.path()).unwrap_or_default()));
            }
        }
    }
    tree
}

/// Where the manifest of an archive or a restore point lies.
pub(crate) fn manifest_key(name: &str) -> String {
    match name.strip_suffix(".zip") {
        Some(archive) => format!("archives/{archive}.json"),
        None => format!("points/{name}/point.json"),
    }
}

/// The ids of the documents in a directory, in reading order.
pub(crate) fn ids_below(directory: &Path) -> Vec<String> {
    let mut files: Vec<_> = files_below(directory).into_iter().collect();
    files.sort();
    files.into_iter().flat_map(|(path, content)| ids_in(&path, &content)).collect()
}

/// The ids of the documents in a file, compressed or not.
fn ids_in(path: &Path, content: &[u8]) -> Vec<String> {
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        std::io::Read::read_to_string(&mut GzDecoder::new(content), &mut text).unwrap();
    } else {
        text.push_str(std::str::from_utf8(content).unwrap());
    }
    let id = |line: &str| line.split("\"id\" : \"").nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned);
    text.lines().filter_map(id).collect()
}

/// Bytes that do not shrink, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// Every file below a directory by its path there, with its content.
pub(crate) fn files_below(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            } else {
                let content = std::fs::read(entry.path()).unwrap_or_default();
                files.insert(entry.path().strip_prefix(root).unwrap().to_owned(), content);
            }
        }
    }
    files
}

/// The SHA-1 of some content.
pub(crate) fn sha1(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha1, content)
}

/// Runs a test on a thread of its own, as a user who has no more rights than the permissions of files give.
pub(crate) fn as_nobody<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            // Only this thread, and those that it starts.
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
