//! The watcher, on the real `notify` and a real daemon: whatever comes into a store is at the destination, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use holdfast::jobs::context::{Clock, Destination, Ended, RunContext};
use holdfast::jobs::copy::CopyOrder;
use holdfast::jobs::copy::pending::{Following, copy_all, copy_pending};
use holdfast::jobs::restore::RestorePlan;
use holdfast::jobs::source::RepositorySource;
use holdfast::ledger::Ledger;
use holdfast::model::digest::{Algorithm, Digest};
use holdfast::model::layout::Layout;
use holdfast::model::run::{Kind, Outcome, Run, RunFilter, Trigger};
use holdfast::model::shard::Shard;
use holdfast::repository::binaries::BinaryStore;
use holdfast::service::clock::SystemClock;
use holdfast::service::request::{Refusal, RestoreRequest, VerifyRequest};
use holdfast::service::site::{JobSpec, Points, Scope, Site, WatchedStore, Work};
use holdfast::service::status::WatchStatus;
use holdfast::service::watcher::{Marks, Pace, WatchState, run_at};
use holdfast::store::directory::DirectoryStore;
use holdfast::store::memory::MemoryStore;
use holdfast::store::retry::{RetryPolicy, Retrying};
use holdfast::store::{ErrorKind, ObjectStore, StoreError};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::lab::as_nobody;
use super::own_mounts::{in_own_mounts, mount_memory};
use super::service_loop::Running;

const JOB: &str = "copy.main";
/// How long anything may take that a test waits for.
const DEADLINE: Duration = Duration::from_mins(1);

/// A configuration of one copy that is watched for.
#[derive(Debug)]
struct WatchSite {
    store: BinaryStore,
    destination: Arc<dyn ObjectStore>,
    point_every: Duration,
    scan_every: BTreeMap<String, Duration>,
    /// Whether runs fail.
    away: AtomicBool,
    /// What runs were to look at.
    scopes: Mutex<Vec<Scope>>,
}

#[async_trait]
impl Site for WatchSite {
    fn jobs(&self) -> Vec<JobSpec> {
        vec![JobSpec {
            name: JOB.to_owned(),
            kind: Kind::Copy,
            repository: "main".to_owned(),
            destination: "test".to_owned(),
            timing: None,
            shard: None,
        }]
    }

    fn watched(&self) -> Vec<WatchedStore> {
        vec![WatchedStore {
            binaries: self.store.clone(),
            jobs: vec![JOB.to_owned()],
            scan_every: self.scan_every.clone(),
        }]
    }

    fn runs_at_once(&self) -> usize {
        4
    }

    fn history(&self) -> Duration {
        Duration::from_hours(1)
    }

    fn grace(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn replaced_by(&self, _request: &RestoreRequest) -> Result<Option<String>, Refusal> {
        Ok(None)
    }

    fn check(&self, _request: &VerifyRequest) -> Result<(), Refusal> {
        Ok(())
    }

    async fn perform(&self, run: &RunContext, work: &Work, hurry: &CancellationToken) -> anyhow::Result<Ended> {
        let Work::Job { scope, .. } = work else { panic!("{work:?}") };
        self.scopes.lock().unwrap().push(*scope);
        let policy = RetryPolicy { first: Duration::ZERO, longest: Duration::ZERO, ..RetryPolicy::default() };
        let retrying = Retrying::new(Arc::clone(&self.destination), policy).until(run.stop.clone());
        run.report.meter(retrying.meter());
        let id = run.ledger.destination(self.destination.place())?;
        let order = CopyOrder {
            source: RepositorySource { name: "main".to_owned(), binaries: self.store.clone(), documents: None },
            destination: Destination { name: "test".to_owned(), id, store: Arc::new(retrying), footing: None },
            parallel: 8,
            settle: Duration::from_millis(200),
            full: false,
            allow_empty: false,
            scan_rate: None,
        };
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::new(ErrorKind::Denied, "put", "the destination is away").into());
        }
        match scope {
            Scope::Everything => copy_all(run, &order, JOB).await,
            Scope::Pending => {
                let following = Following { job: JOB.to_owned(), point_every: self.point_every, hurry: hurry.clone() };
                copy_pending(run, &order, &following).await
            }
        }
    }

    async fn plan(&self, _run: &RunContext, _request: &RestoreRequest) -> anyhow::Result<RestorePlan> {
        anyhow::bail!("there is nothing to restore")
    }

    async fn points(&self, _ledger: Option<&Ledger>) -> Points {
        Points::default()
    }
}

/// Directories for one test, which outlive the services on them.
struct Ground {
    root: PathBuf,
    _directory: Option<TempDir>,
    layout: Layout,
    destination: Arc<dyn ObjectStore>,
    pace: Pace,
    point_every: Duration,
    scan_every: Option<Duration>,
    marks: Marks,
    shard: Option<Shard>,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["binaries", "state", "elsewhere"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let root = directory.path().to_owned();
        Self { _directory: Some(directory), ..Self::at(root, Arc::new(MemoryStore::new("memory:"))) }
    }

    fn at(root: PathBuf, destination: Arc<dyn ObjectStore>) -> Self {
        let pace = Pace {
            look: Duration::from_millis(100),
            again: (Duration::from_millis(50), Duration::from_millis(400)),
            ..Pace::default()
        };
        let point_every = Duration::from_millis(300);
        Self {
            root,
            _directory: None,
            layout: Layout::modeshape(),
            destination,
            pace,
            point_every,
            scan_every: None,
            shard: None,
            marks: Marks::default(),
        }
    }

    /// The same, on a file system that is marked.
    fn marked(self) -> Option<Self> {
        let marks = Marks::set([self.root.as_path()]);
        match marks.covers(&self.root) {
            Ok(()) => Some(Self { marks, ..self }),
            Err(why) => {
                eprintln!("skipped with fanotify: {why}");
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn store(&self) -> BinaryStore {
        BinaryStore::at(&self.path("binaries"), &self.layout)
    }

    /// Where a binary lies.
    fn place(&self, digest: &Digest) -> PathBuf {
        self.store().path(digest)
    }

    /// Starts a service.
    fn start(&self) -> Service {
        let site = Arc::new(WatchSite {
            store: self.store().within(self.shard),
            destination: Arc::clone(&self.destination),
            point_every: self.point_every,
            scan_every: self.scan_every.map(|every| (JOB.to_owned(), every)).into_iter().collect(),
            away: AtomicBool::new(false),
            scopes: Mutex::default(),
        });
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut running = Running::start(&self.path("state"), Arc::clone(&site) as Arc<dyn Site>, clock);
        let (watching, stopping, pace) = (running.daemon.clone(), running.stop.clone(), self.pace);
        let marks = self.marks.clone();
        running.tasks.spawn(async move { run_at(watching, marks, stopping, pace).await.unwrap() });
        Service { site, running }
    }

    /// The binaries at the destination.
    async fn arrived(&self) -> BTreeSet<Digest> {
        let mut found = BTreeSet::new();
        let mut page = self.destination.list("binaries/", None).await.unwrap();
        loop {
            let name = |key: &str| Digest::from_name(key.rsplit('/').next()?.as_bytes());
            found.extend(page.objects.iter().filter_map(|object| name(object.key.as_str())));
            let Some(next) = page.next else { return found };
            page = self.destination.list("binaries/", Some(&next)).await.unwrap();
        }
    }

    /// Waits until just these binaries are at the destination, or more.
    #[track_caller]
    fn all_arrive<'a>(&'a self, wanted: &'a BTreeSet<Digest>) -> impl Future<Output = ()> + 'a {
        let here = std::panic::Location::caller();
        async move {
            let began = Instant::now();
            loop {
                let missing: Vec<_> = wanted.difference(&self.arrived().await).copied().collect();
                if missing.is_empty() {
                    return;
                }
                assert!(began.elapsed() < DEADLINE, "{here}: {} of {} are missing", missing.len(), wanted.len());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Carries out a test with a watch on each directory, and with a mark on the file system where this process may set one.
async fn each_way(test: impl AsyncFn(Ground)) {
    test(Ground::new()).await;
    if let Some(ground) = Ground::new().marked() {
        test(ground).await;
    }
}

struct Service {
    site: Arc<WatchSite>,
    running: Running,
}

impl Service {
    async fn watch(&self) -> Option<WatchStatus> {
        self.running.daemon.status().await.unwrap().jobs[0].watch.clone()
    }

    /// Waits until something holds.
    #[track_caller]
    fn until<'a>(&'a self, what: &'a str, holds: impl AsyncFn() -> bool + 'a) -> impl Future<Output = ()> + 'a {
        let here = std::panic::Location::caller();
        async move {
            let began = Instant::now();
            while !holds().await {
                assert!(
                    began.elapsed() < DEADLINE,
                    "{here}: {what}: {:?}; {:#?}",
                    self.watch().await,
                    self.runs().await
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Waits until the store is watched and what came before has been looked for.
    async fn watching(&self) {
        self.until("it is watched and everything was looked at", async || {
            let watch = self.watch().await;
            watch.is_some_and(|watch| watch.state == WatchState::Watching && !watch.scan_needed && watch.pending == 0)
                && self.is_idle().await
        })
        .await;
    }

    async fn is_idle(&self) -> bool {
        let status = self.running.daemon.status().await.unwrap();
        status.running.is_empty() && status.waiting.is_empty()
    }

    /// Waits until nothing is pending and nothing runs.
    async fn rest(&self) {
        self.until("everything is done", async || {
            self.watch().await.is_some_and(|watch| watch.pending == 0 && !watch.scan_needed) && self.is_idle().await
        })
        .await;
    }

    async fn runs(&self) -> Vec<Run> {
        self.running.daemon.runs(RunFilter { limit: 1000, ..RunFilter::default() }).await.unwrap()
    }

    async fn end(self) {
        self.running.stop().await;
    }
}

fn content(number: usize, seed: &str) -> Vec<u8> {
    format!("{seed} {number} {}", "x".repeat(number % 300)).into_bytes()
}

/// As one comes from another file system: written in its place.
fn write(ground: &Ground, content: &[u8]) -> Digest {
    let digest = Digest::of(Algorithm::Sha1, content);
    fs::create_dir_all(ground.place(&digest).parent().unwrap()).unwrap();
    fs::write(ground.place(&digest), content).unwrap();
    digest
}

/// As ModeShape adds a binary: a temporary file elsewhere, the directories, a rename.
fn add(ground: &Path, store: &BinaryStore, content: &[u8]) -> Digest {
    let digest = Digest::of(store.layout().algorithms[0], content);
    let temporary = ground.join("elsewhere").join(digest.to_string());
    fs::write(&temporary, content).unwrap();
    let place = store.path(&digest);
    loop {
        match fs::create_dir_all(place.parent().unwrap()).and_then(|()| fs::rename(&temporary, &place)) {
            Ok(()) => return digest,
            // Somebody removed a directory in between.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_comes_the_copy_of_a_shard_has_its_own_and_nobody_records_the_rest() {
    each_way(async |mut ground| {
        let shard: Shard = "0-7".parse().unwrap();
        ground.shard = Some(shard);
        for number in 0..40 {
            add(&ground.root, &ground.store(), &content(number, "before"));
        }
        let service = ground.start();
        service.watching().await;
        let before = ground.arrived().await;
        assert!((1..40).contains(&before.len()), "{before:?}");
        // The root, and at most three directories for each binary in the shard. A mark needs none.
        if let Some(watched) = service.watch().await.unwrap().directories {
            assert!((1..=1 + 3 * before.len() as u64).contains(&watched), "{watched} {before:?}");
        }
        let scans = service.runs().await.len();
        let all: BTreeSet<Digest> =
            (0..200).map(|number| add(&ground.root, &ground.store(), &content(number, "a"))).collect();
        let own: BTreeSet<Digest> = all.iter().filter(|digest| shard.contains(digest)).copied().collect();
        ground.all_arrive(&own).await;
        service.rest().await;
        let arrived = ground.arrived().await;
        assert_eq!(arrived, before.union(&own).copied().collect());
        let runs = service.runs().await;
        let settled: u64 = runs[..runs.len() - scans].iter().map(|run| run.counts.copied).sum();
        assert_eq!(settled, own.len() as u64, "{runs:#?}");
        service.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_come_with_their_directories_are_all_copied_without_another_scan() {
    each_way(async |ground| {
        let before = add(&ground.root, &ground.store(), b"there before");
        let service = ground.start();
        service.watching().await;
        let wanted: BTreeSet<Digest> = std::thread::scope(|scope| {
            let writers = ["a", "b", "c", "d"].map(|seed| {
                let (root, store) = (ground.root.as_path(), ground.store());
                scope.spawn(move || {
                    (0..1_000).map(|number| add(root, &store, &content(number, seed))).collect::<Vec<_>>()
                })
            });
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).chain([before]).collect()
        });
        ground.all_arrive(&wanted).await;
        service.rest().await;
        let runs = service.runs().await;
        assert_eq!(ground.arrived().await, wanted);
        assert!(runs.iter().all(|run| run.outcome == Some(Outcome::Succeeded)), "{runs:#?}");
        // Only the scan after the start looked at more than what was new; it may have taken the first of them.
        let examined: u64 = runs.iter().map(|run| run.counts.examined).sum();
        let copied: u64 = runs.iter().map(|run| run.counts.copied).sum();
        assert!(copied == 4_001 && examined < 12_000, "{copied} copied, {examined} examined");
        service.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_that_are_renamed_into_place_are_looked_into_at_every_level() {
    each_way(async |ground| {
        let service = ground.start();
        service.watching().await;
        let apart = BinaryStore::at(&ground.path("elsewhere/tree"), &ground.layout);
        let mut wanted = BTreeSet::new();
        for number in 0..400 {
            wanted.insert(add(&ground.root, &apart, &content(number, "tree")));
        }
        for entry in fs::read_dir(ground.path("elsewhere/tree")).unwrap() {
            let entry = entry.unwrap();
            fs::rename(entry.path(), ground.path("binaries").join(entry.file_name())).unwrap();
        }
        ground.all_arrive(&wanted).await;
        service.rest().await;
        service.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_are_removed_and_made_again_lose_nothing() {
    let mut ground = Ground::new();
    // Few directories, so that each is removed and made again many times.
    ground.layout = Layout::custom(Algorithm::Sha1, 2, 1, "").unwrap();
    let service = ground.start();
    service.watching().await;
    let over = AtomicBool::new(false);
    let kept: BTreeSet<Digest> = std::thread::scope(|scope| {
        scope.spawn(|| {
            // As the garbage collector does: directories that are empty go.
            while !over.load(Ordering::Relaxed) {
                for top in fs::read_dir(ground.path("binaries")).unwrap() {
                    let top = top.unwrap().path();
                    for below in fs::read_dir(&top).into_iter().flatten().flatten() {
                        drop(fs::remove_dir(below.path()));
                    }
                    drop(fs::remove_dir(top));
                }
            }
        });
        let mut kept = BTreeSet::new();
        for number in 0..1_500 {
            let digest = add(&ground.root, &ground.store(), &content(number, "again"));
            if number % 3 == 0 {
                kept.insert(digest);
            } else {
                fs::remove_file(ground.place(&digest)).unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
        kept
    });
    ground.all_arrive(&kept).await;
    service.rest().await;
    let runs = service.runs().await;
    assert!(runs.iter().all(|run| run.outcome == Some(Outcome::Succeeded)), "{runs:#?}");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missed_when_too_much_comes_is_found_by_a_scan() {
    let mut ground = Ground::new();
    ground.pace.sights = 1;
    let service = ground.start();
    service.watching().await;
    let wanted: BTreeSet<Digest> =
        (0..500).map(|number| add(&ground.root, &ground.store(), &content(number, "burst"))).collect();
    ground.all_arrive(&wanted).await;
    service.watching().await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_written_in_place_waits_and_is_no_damage() {
    each_way(async |ground| {
        let service = ground.start();
        service.watching().await;
        let whole = vec![b'x'; 100_000];
        let digest = Digest::of(Algorithm::Sha1, &whole);
        let place = ground.place(&digest);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        let mut file = fs::File::create(&place).unwrap();
        file.write_all(&whole[..50_000]).unwrap();
        // Runs have looked at it, and left it.
        service
            .until("it was looked at twice and is pending", async || {
                let looked = service.runs().await.iter().filter(|run| run.counts.examined > 0).count();
                looked >= 2 && service.watch().await.is_some_and(|watch| watch.pending == 1 && watch.lag_s > 0.0)
            })
            .await;
        assert!(ground.arrived().await.is_empty());
        file.write_all(&whole[50_000..]).unwrap();
        drop(file);
        ground.all_arrive(&BTreeSet::from([digest])).await;
        service.rest().await;
        let runs = service.runs().await;
        assert!(runs.iter().all(|run| run.outcome == Some(Outcome::Succeeded)), "{runs:#?}");
        service.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_soon_after_it_came_is_forgotten() {
    each_way(async |ground| {
        let service = ground.start();
        service.watching().await;
        service.site.away.store(true, Ordering::Relaxed);
        let digest = add(&ground.root, &ground.store(), b"short-lived");
        service.until("it is pending", async || service.watch().await.is_some_and(|watch| watch.pending == 1)).await;
        fs::remove_file(ground.place(&digest)).unwrap();
        service.site.away.store(false, Ordering::Relaxed);
        service.running.daemon.start(JOB, holdfast::service::request::JobOptions::default(), None).await.unwrap();
        service.rest().await;
        assert!(ground.arrived().await.is_empty());
        service.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pending_when_the_service_ended_is_copied_by_the_next() {
    each_way(async |ground| {
        let service = ground.start();
        service.watching().await;
        service.site.away.store(true, Ordering::Relaxed);
        let mut wanted = BTreeSet::from([add(&ground.root, &ground.store(), b"one")]);
        service.until("it is pending", async || service.watch().await.is_some_and(|watch| watch.pending == 1)).await;
        service.end().await;
        // And what comes while nobody watches.
        wanted.insert(add(&ground.root, &ground.store(), b"two"));
        let service = ground.start();
        ground.all_arrive(&wanted).await;
        service.watching().await;
        service.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_and_comes_back_is_watched_again() {
    each_way(async |ground| {
        let mut wanted = BTreeSet::from([add(&ground.root, &ground.store(), b"one")]);
        let service = ground.start();
        service.watching().await;
        fs::rename(ground.path("binaries"), ground.path("elsewhere/away")).unwrap();
        service
            .until("it is seen to be gone", async || {
                service.watch().await.is_some_and(|watch| {
                    watch.state == WatchState::BySchedule
                        && watch.reason.is_some_and(|reason| reason.contains("is not there"))
                })
            })
            .await;
        wanted.insert(add(&ground.root, &BinaryStore::at(&ground.path("elsewhere/away"), &ground.layout), b"two"));
        fs::rename(ground.path("elsewhere/away"), ground.path("binaries")).unwrap();
        ground.all_arrive(&wanted).await;
        service.watching().await;
        wanted.insert(add(&ground.root, &ground.store(), b"three"));
        ground.all_arrive(&wanted).await;
        service.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_markers_and_foreign_names_are_no_binaries() {
    each_way(async |ground| {
        let service = ground.start();
        service.watching().await;
        let binary = add(&ground.root, &ground.store(), b"a picture");
        let [mime_type, text] = ground.layout.sidecars_of(&binary).unwrap();
        for (name, content) in [(mime_type, "image/png"), (text, "what can be read on it")] {
            fs::create_dir_all(ground.place(&name).parent().unwrap()).unwrap();
            fs::write(ground.place(&name), content).unwrap();
        }
        let marker = ground.path("binaries/trash").join(ground.layout.path(&binary));
        fs::create_dir_all(marker.parent().unwrap()).unwrap();
        fs::write(marker, "").unwrap();
        fs::write(ground.path("binaries/README"), "mine").unwrap();
        ground.all_arrive(&BTreeSet::from([binary])).await;
        service.rest().await;
        let runs = service.runs().await;
        assert_eq!(ground.arrived().await, BTreeSet::from([binary]));
        assert!(runs.iter().all(|run| run.outcome == Some(Outcome::Succeeded)), "{runs:#?}");
        service.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binaries_that_keep_coming_end_up_in_few_points() {
    let mut ground = Ground::new();
    ground.point_every = Duration::from_secs(3);
    let service = ground.start();
    service.watching().await;
    let mut wanted = BTreeSet::new();
    let began = Instant::now();
    for number in 0..50 {
        wanted.insert(add(&ground.root, &ground.store(), &content(number, "drip")));
        ground.all_arrive(&wanted).await;
    }
    service.rest().await;
    let points = service.runs().await.iter().filter(|run| run.counts.copied > 0).count();
    // One when it has been quiet, and then one each time.
    let most = began.elapsed().as_secs() / 3 + 2;
    assert!(points as u64 <= most, "{points} points in {:?}", began.elapsed());
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_never_takes_the_place_of_a_run_that_was_to_look_at_everything() {
    let ground = Ground::new();
    let service = ground.start();
    service.watching().await;
    service.site.scopes.lock().unwrap().clear();
    // The first begins; the others become one that waits, and looks at as much as any of them.
    for trigger in [Trigger::Change, Trigger::Change, Trigger::Schedule, Trigger::Change] {
        service.running.daemon.activate(JOB, trigger).await.unwrap();
    }
    service.rest().await;
    assert_eq!(*service.site.scopes.lock().unwrap(), [Scope::Pending, Scope::Everything]);
    service.end().await;
}

/// What a child process is to do; set for tests that begin their own binary again.
const CHILD: &str = "HOLDFAST_WATCH_CHILD";
/// Whether it is to mark the file system.
const MARKED: &str = "HOLDFAST_TEST_MARKED";

/// Begins the test named `child` in a process of its own, behind `wrapper`.
fn child(wrapper: &[&str], ground: &Path) -> Command {
    let program = std::env::current_exe().unwrap();
    let arguments = ["watcher::child_of_a_test", "--exact", "--nocapture", "--test-threads=1"];
    let mut command = match wrapper {
        [] => Command::new(&program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&program);
            command
        }
    };
    command.args(arguments).env(CHILD, ground).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The directories of a parent: its destination is a directory, too.
fn inherited(directory: &Path) -> Ground {
    Ground::at(directory.to_owned(), Arc::new(DirectoryStore::open(&directory.join("destination")).unwrap()))
}

fn for_children() -> Ground {
    let ground = Ground::new();
    fs::create_dir(ground.path("destination")).unwrap();
    Ground { destination: inherited(&ground.root).destination, ..ground }
}

#[test]
fn child_of_a_test() {
    let Some(directory) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let ground = inherited(&directory);
        let ground = if std::env::var_os(MARKED).is_some() { ground.marked().unwrap() } else { ground };
        let service = ground.start();
        loop {
            let watch = serde_json::to_string(&service.watch().await).unwrap();
            fs::write(directory.join("watch.new"), watch).unwrap();
            fs::rename(directory.join("watch.new"), directory.join("watch")).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

/// Ends with the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What a child last said of the watching, once that holds.
#[track_caller]
fn child_says(ground: &Ground, holds: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let began = Instant::now();
    loop {
        let said = fs::read(ground.path("watch")).unwrap_or_default();
        if let Ok(said) = serde_json::from_slice(&said)
            && holds(&said)
        {
            return said;
        }
        assert!(began.elapsed() < DEADLINE, "{}", String::from_utf8_lossy(&said));
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_begins_by_itself_when_it_is_time_and_proves_that_nothing_was_missed() {
    each_way(async |ground| {
        let ground = Ground { scan_every: Some(Duration::from_millis(1)), ..ground };
        let service = ground.start();
        service.watching().await;
        let mut wanted = BTreeSet::new();
        for number in 0..100 {
            wanted.insert(add(&ground.root, &ground.store(), &content(number, "proved")));
        }
        service
            .until("two scans of all of it began by themselves", async || {
                let runs = service.runs().await;
                let scans = runs.iter().filter(|run| run.trigger == Trigger::Schedule && run.outcome.is_some());
                scans.filter(|run| run.counts.examined == 100 && run.counts.missed == Some(0)).count() >= 2
            })
            .await;
        ground.all_arrive(&wanted).await;
        let job = &service.running.daemon.status().await.unwrap().jobs[0];
        let proof = job.proof.as_ref().unwrap();
        assert_eq!((proof.examined, proof.missed), (100, Some(0)));
        assert!(service.runs().await.iter().all(|run| run.counts.missed.unwrap_or(0) == 0));
        service.end().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scan_left_out_is_looked_for_again_by_itself_and_not_all_the_time() {
    let mut ground = Ground { scan_every: Some(Duration::from_hours(1)), ..Ground::new() };
    ground.pace.left_out_again = Duration::from_hours(1);
    let mut wanted = BTreeSet::from([add(&ground.root, &ground.store(), &content(1, "there"))]);
    let other = if wanted.first().unwrap().to_string().starts_with("00") { "01" } else { "00" };
    let link = ground.path("binaries").join(other);
    std::os::unix::fs::symlink(ground.path("elsewhere"), &link).unwrap();
    let partial = |run: &Run| run.outcome == Some(Outcome::Partial);
    let by_itself = |run: &Run| run.trigger == Trigger::Schedule;

    let service = ground.start();
    service.watching().await;
    let since = service.watch().await.unwrap().left_out.expect("the first scan could not look behind the link");
    wanted.insert(add(&ground.root, &ground.store(), &content(2, "there")));
    ground.all_arrive(&wanted).await;
    service.rest().await;
    assert!(!service.runs().await.iter().any(by_itself), "{:#?}", service.runs().await);
    service.end().await;

    ground.pace.left_out_again = Duration::from_millis(1);
    let service = ground.start();
    service
        .until("it is looked for again", async || service.runs().await.iter().any(|run| by_itself(run) && partial(run)))
        .await;
    assert!(service.watch().await.unwrap().left_out.unwrap() > since);
    fs::remove_file(link).unwrap();
    service.until("it is there", async || service.watch().await.is_some_and(|watch| watch.left_out.is_none())).await;
    ground.all_arrive(&wanted).await;
    service.end().await;
}

#[test]
fn a_directory_that_may_be_read_later_is_watched_and_looked_into_then() {
    use std::os::unix::fs::PermissionsExt as _;
    as_nobody(|| async {
        let ground = Ground::new();
        let service = ground.start();
        service.watching().await;
        // It comes with what is in it, and nobody may look.
        let digest = Digest::of(Algorithm::Sha1, b"behind a closed door");
        let name = digest.to_string();
        let beside = ground.path("elsewhere").join(&name[..2]);
        fs::create_dir_all(beside.join(&name[2..4]).join(&name[4..6])).unwrap();
        fs::write(beside.join(&name[2..4]).join(&name[4..6]).join(&name), b"behind a closed door").unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o200)).unwrap();
        let door = ground.path("binaries").join(&name[..2]);
        fs::rename(&beside, &door).unwrap();
        // What comes after it was looked at after it.
        let open = (0..10_000)
            .map(|number| content(number, "open"))
            .find(|content| !Digest::of(Algorithm::Sha1, content).to_string().starts_with(&name[..2]));
        let open = add(&ground.root, &ground.store(), &open.unwrap());
        ground.all_arrive(&BTreeSet::from([open])).await;
        assert!(!ground.arrived().await.contains(&digest));

        fs::set_permissions(&door, fs::Permissions::from_mode(0o700)).unwrap();
        ground.all_arrive(&BTreeSet::from([open, digest])).await;
        assert!(service.runs().await.iter().all(|run| run.trigger == Trigger::Change));
        // And what comes there from now on is seen as anywhere.
        let later = (0..10_000)
            .map(|number| content(number, "later"))
            .find(|content| Digest::of(Algorithm::Sha1, content).to_string().starts_with(&name[..2]));
        let later = add(&ground.root, &ground.store(), &later.unwrap());
        ground.all_arrive(&BTreeSet::from([open, digest, later])).await;
        service.end().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_tells_of_one_store_and_not_of_others_on_its_file_system() {
    let Some(ground) = Ground::new().marked() else { return };
    let service = ground.start();
    service.watching().await;
    let watch = service.watch().await.unwrap();
    assert_eq!((watch.way.as_deref(), watch.directories, watch.way_reason), (Some("fanotify"), None, None));
    let apart = BinaryStore::at(&ground.path("elsewhere/other"), &ground.layout);
    let mut wanted = BTreeSet::new();
    for number in 0..200 {
        // The same names elsewhere, before and after.
        add(&ground.root, &apart, &content(number, "both"));
        wanted.insert(add(&ground.root, &ground.store(), &content(number, "both")));
        add(&ground.root, &apart, &content(number, "other"));
    }
    ground.all_arrive(&wanted).await;
    service.rest().await;
    assert_eq!(ground.arrived().await, wanted);
    let seen: u64 = service.runs().await.iter().map(|run| run.counts.examined).sum();
    assert!((200..400).contains(&seen), "{seen} were looked at");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_another_file_system_in_it_is_watched_by_directories() {
    if !in_own_mounts("watcher::a_store_with_another_file_system_in_it_is_watched_by_directories") {
        return;
    }
    let Some(ground) = Ground::new().marked() else { return };
    mount_memory("1M", &ground.path("binaries/00"));
    let service = ground.start();
    service.watching().await;
    let watch = service.watch().await.unwrap();
    assert_eq!(watch.way.as_deref(), Some("inotify"));
    assert!(watch.way_reason.unwrap().contains("binaries/00"));
    let mut numbers = (0..).map(|number| content(number, "there"));
    let body = numbers.find(|body| Digest::of(Algorithm::Sha1, body).to_string().starts_with("00")).unwrap();
    ground.all_arrive(&[write(&ground, &body)].into()).await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_is_unmounted_takes_its_mark_along_and_the_store_is_watched_by_directories_after_that() {
    if !in_own_mounts(
        "watcher::a_file_system_that_is_unmounted_takes_its_mark_along_and_the_store_is_watched_by_directories_after_that",
    ) {
        return;
    }
    let mut ground = Ground::new();
    let at = ground.path("binaries");
    mount_memory("1M", &at);
    ground.marks = Marks::set([at.as_path()]);
    ground.marks.covers(&at).unwrap();
    let service = ground.start();
    service.watching().await;
    assert_eq!(service.watch().await.unwrap().way.as_deref(), Some("fanotify"));
    assert!(Command::new("umount").arg("--lazy").arg(&at).status().unwrap().success());
    mount_memory("1M", &at);
    service
        .until("it is watched by directories", async || {
            service.watch().await.is_some_and(|watch| watch.way.as_deref() == Some("inotify"))
        })
        .await;
    let body = content(1, "after");
    ground.all_arrive(&[write(&ground, &body)].into()).await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_too_few_watches_it_says_what_to_change_and_scans() {
    for (limit, needle) in
        [("max_inotify_watches", "max_inotify_watches="), ("max_inotify_instances", "max_user_instances")]
    {
        let ground = for_children();
        let wanted: BTreeSet<Digest> =
            (0..20).map(|number| add(&ground.root, &ground.store(), &content(number, "many"))).collect();
        let script =
            format!("echo {} > /proc/sys/user/{limit} && exec \"$@\"", if limit.ends_with("watches") { 10 } else { 0 });
        let wrapper = ["unshare", "-U", "-r", "sh", "-c", &script, "sh"];
        let allowed = Command::new("unshare")
            .args(["-U", "-r", "sh", "-c", &format!("echo 10 > /proc/sys/user/{limit}")])
            .stderr(Stdio::null())
            .status();
        if !allowed.is_ok_and(|status| status.success()) {
            eprintln!("skipped: this user may make no user namespace");
            return;
        }
        let _child = Killed(child(&wrapper, &ground.root).spawn().unwrap());
        let said = child_says(&ground, |watch| watch["state"] == "by-schedule");
        let reason = said["reason"].as_str().unwrap();
        assert!(reason.contains(needle), "{reason}");
        if limit.ends_with("watches") {
            assert!(reason.contains("directories") && reason.contains("10 watches"), "{reason}");
        }
        ground.all_arrive(&wanted).await;
        child_says(&ground, |watch| watch["scan_needed"] == false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_again_and_again_loses_nothing() {
    lose_nothing(for_children()).await;
    if let Some(ground) = for_children().marked() {
        lose_nothing(ground).await;
    }
}

async fn lose_nothing(ground: Ground) {
    let over = AtomicBool::new(false);
    let (mut wanted, mut slow) = (BTreeSet::new(), None);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut kills = 0;
            let mut random = fastrand::Rng::with_seed(7);
            while !over.load(Ordering::Relaxed) {
                let mut command = child(&[], &ground.root);
                if ground.marks.covers(&ground.root).is_ok() {
                    command.env(MARKED, "1");
                }
                let child = Killed(command.stderr(Stdio::null()).spawn().unwrap());
                std::thread::park_timeout(Duration::from_millis(random.u64(50..900)));
                drop(child);
                kills += 1;
            }
            kills
        });
        let whole = vec![b'y'; 30_000];
        for number in 0..1_200 {
            wanted.insert(add(&ground.root, &ground.store(), &content(number, "killed")));
            // Some come as when the temporary directory is on another file system.
            if number == 300 {
                let digest = Digest::of(Algorithm::Sha1, &whole);
                fs::create_dir_all(ground.place(&digest).parent().unwrap()).unwrap();
                let mut file = fs::File::create(ground.place(&digest)).unwrap();
                file.write_all(&whole[..10_000]).unwrap();
                slow = Some((digest, file));
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let (digest, mut file) = slow.take().unwrap();
        file.write_all(&whole[10_000..]).unwrap();
        wanted.insert(digest);
        drop(file);
        over.store(true, Ordering::Relaxed);
        assert!(killer.join().unwrap() >= 5);
    });
    let service = ground.start();
    ground.all_arrive(&wanted).await;
    service.watching().await;
    service.rest().await;
    assert_eq!(ground.arrived().await, wanted);
    let last = service.runs().await.into_iter().find(|run| run.result.is_some()).unwrap();
    assert_eq!(last.outcome, Some(Outcome::Succeeded), "{last:?}");
    service.end().await;
}
