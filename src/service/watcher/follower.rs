//! One store, followed for as long as the configuration says so: watched, or waited for until it can be.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Pace;
use super::board::{Watch, WatchState};
use super::eyes::{Blind, Eyes, Sight};
use super::limits::{no_instances, no_watches, watch_limit};
use super::survey::{Finding, Survey, count_directories};
use crate::ledger::Ledger;
use crate::model::branch::Branch;
use crate::model::digest::Digest;
use crate::model::run::Trigger;
use crate::service::daemon::Daemon;
use crate::service::journal::{Level, say};
use crate::service::request::Refusal;
use crate::service::site::WatchedStore;

/// How many findings of the survey wait.
const FINDINGS: usize = 64;
/// How many binaries are recorded at once.
const BATCH: usize = 2_000;
/// How many binaries, and how many directories, may be seen and not dealt with before they count as missed.
const FRESH: usize = 65_536;
/// How long one that went well must have lasted for its end to be no reason to wait longer.
const LONG: Duration = Duration::from_mins(10);
/// How long until what could not be recorded is tried again.
const RECORD_AGAIN: Duration = Duration::from_secs(5);
/// How long the watches get to go away.
const TO_CLOSE: Duration = Duration::from_secs(30);

/// Follows one store.
#[derive(Debug)]
pub(super) struct Follower {
    daemon: Daemon,
    store: WatchedStore,
    stop: CancellationToken,
    pace: Pace,
    /// The last complaint, which is made once.
    said: String,
    jobs: Vec<Retry>,
}

/// A job of which something may be left to do when a run has ended.
#[derive(Debug)]
struct Retry {
    job: String,
    ended: watch::Receiver<()>,
    delay: Duration,
    at: Option<Instant>,
}

/// What has to be done about what a run left.
enum Due {
    /// A run of this job has ended.
    Ended(usize),
    /// It is time to look at this job again.
    Time(usize),
}

/// Waits until something has to be done; may be dropped at any point.
async fn due(jobs: &mut [Retry]) -> Due {
    let next = jobs.iter().enumerate().filter_map(|(number, retry)| Some((retry.at?, number))).min();
    let ended = futures_util::future::select_all(
        jobs.iter_mut().map(|retry| Box::pin(async { drop(retry.ended.changed().await) })),
    );
    tokio::select! {
        ((), at, _) = ended => Due::Ended(at),
        at = async {
            match next {
                Some((time, at)) => {
                    sleep_until(time).await;
                    at
                }
                None => std::future::pending().await,
            }
        } => Due::Time(at),
    }
}

/// Why a store is not watched any more.
#[derive(Debug)]
enum Lost {
    /// It is to stop.
    Stopped,
    /// Not everything was seen.
    Missed(String),
    /// The root is not there, or another one.
    RootGone,
    /// There are not enough watches.
    NoWatches,
    /// There is no instance.
    NoInstances,
}

/// Which directory a path leads to.
type Identity = (u64, u64);

fn identity(root: &Path) -> Option<Identity> {
    let metadata = fs::metadata(root).ok().filter(fs::Metadata::is_dir)?;
    Some((metadata.dev(), metadata.ino()))
}

impl Follower {
    pub(super) fn new(daemon: Daemon, store: WatchedStore, stop: CancellationToken, pace: Pace) -> Self {
        let retry = |job: &String| Retry {
            job: job.clone(),
            ended: daemon.ledger().takings(job),
            delay: pace.again.0,
            at: None,
        };
        let jobs = store.jobs.iter().map(retry).collect();
        Self { daemon, store, stop, pace, said: String::new(), jobs }
    }

    /// Goes on until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut delay = self.pace.again.0;
        loop {
            let began = Instant::now();
            let lost = Session::watch(&mut self).await;
            if began.elapsed() >= LONG {
                delay = self.pace.again.0;
            }
            let root = self.store.binaries.root().display().to_string();
            match lost {
                Lost::Stopped => return,
                Lost::RootGone => {
                    self.blind(&format!("`{root}` is not there, or another directory is: is the volume mounted?"));
                    self.missed().await;
                    self.wait_for_root().await;
                    continue;
                }
                Lost::Missed(cause) => {
                    let text = format!("watch `{root}`: {cause}; everything is looked at");
                    self.board(WatchState::SettingUp, Some(cause), None);
                    self.missed().await;
                    // What cannot be watched at all is not looked at again each time that this turns out.
                    if self.tell(text) {
                        self.activate_all().await;
                    }
                    self.idle(Instant::now() + delay).await;
                    delay = (delay * 2).min(self.pace.again.1);
                    continue;
                }
                Lost::NoWatches => {
                    let directories = self.count().await;
                    self.blind(&no_watches(directories, watch_limit()));
                }
                Lost::NoInstances => self.blind(&no_instances()),
            }
            self.missed().await;
            self.activate_all().await;
            self.wait_for_limit().await;
        }
    }

    fn board(&self, state: WatchState, reason: Option<String>, directories: Option<u64>) {
        self.daemon.watch_board().put(&self.store.jobs, &Watch { state, reason, directories });
    }

    /// The store cannot be watched: said once, and shown for as long as it is so.
    fn blind(&mut self, reason: &str) {
        self.board(WatchState::BySchedule, Some(reason.to_owned()), None);
        let root = self.store.binaries.root().display();
        let text = format!(
            "`{root}` is not watched: {reason}. {} by schedule until then; without one, only on request",
            if self.store.jobs.len() == 1 {
                format!("{} runs", self.store.jobs[0])
            } else {
                format!("{} run", self.store.jobs.join(", "))
            }
        );
        self.tell(text);
    }

    /// Says what is wrong, unless that was the last that was said; whether it was said.
    fn tell(&mut self, text: String) -> bool {
        if text == self.said {
            return false;
        }
        say(Level::Warning, &text);
        self.said = text;
        true
    }

    async fn count(&self) -> u64 {
        let (store, stop) = (self.store.binaries.clone(), self.stop.clone());
        spawn_blocking(move || count_directories(&store, &stop)).await.unwrap_or(0)
    }

    /// Records that a scan is needed; until that is recorded nothing else matters.
    async fn missed(&self) {
        loop {
            let now = self.daemon.clock().now();
            let jobs = self.store.jobs.clone();
            let Err(error) = self.ledger(move |ledger| ledger.mark_unwatched(&jobs, now)).await else { return };
            say(Level::Error, format_args!("{error:#}; trying again"));
            tokio::select! {
                // The start of the next process records it.
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(self.pace.again.1.min(RECORD_AGAIN)) => {}
            }
        }
    }

    async fn activate_all(&mut self) {
        for job in self.store.jobs.clone() {
            self.activate(&job).await;
        }
    }

    async fn activate(&mut self, job: &str) {
        // A run that waits may be called off, and then nobody hears of its end.
        let later = Instant::now() + self.pace.again.1;
        self.jobs.iter_mut().filter(|retry| retry.job == job).for_each(|retry| {
            retry.at.get_or_insert(later);
        });
        // Otherwise it waits for its time after a failure, is no longer in the configuration, or the service is
        // stopping: what is pending stays so.
        if let Err(Refusal::Internal(error)) = self.daemon.activate(job, Trigger::Change).await {
            say(Level::Error, format_args!("start {job}: {error:#}"));
        }
    }

    /// Looks after runs that left something, until then.
    async fn idle(&mut self, until: Instant) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep_until(until) => return,
                due = due(&mut self.jobs) => self.look_after(due).await,
            }
        }
    }

    async fn wait_for_root(&mut self) {
        while !self.stop.is_cancelled() && identity(self.store.binaries.root()).is_none() {
            self.idle(Instant::now() + self.pace.look).await;
        }
    }

    /// Waits until the limit is another, or for a good while: others may have given up their watches.
    async fn wait_for_limit(&mut self) {
        let limit = watch_limit();
        let until = Instant::now() + self.pace.limit_again;
        while !self.stop.is_cancelled() && Instant::now() < until && (limit.is_none() || watch_limit() == limit) {
            self.idle(until.min(Instant::now() + self.pace.look)).await;
        }
    }

    /// Looks again at what a run has left, after a while.
    async fn look_after(&mut self, due: Due) {
        match due {
            Due::Ended(at) => {
                let left = self.has_left(at).await;
                let retry = &mut self.jobs[at];
                if left {
                    retry.at = Some(Instant::now() + retry.delay);
                    retry.delay = (retry.delay * 2).min(self.pace.again.1);
                } else {
                    (retry.at, retry.delay) = (None, self.pace.again.0);
                }
            }
            Due::Time(at) => {
                let left = self.has_left(at).await;
                // The end of the run that begins sets another time; this one is for a run that is called off.
                self.jobs[at].at = left.then(|| Instant::now() + self.pace.again.1);
                let job = self.jobs[at].job.clone();
                if left && !self.daemon.ledger().is_taken(&job) {
                    self.activate(&job).await;
                }
            }
        }
    }

    /// Whether there is something to do for a job; if that cannot be told, there may be.
    async fn has_left(&self, at: usize) -> bool {
        let job = self.jobs[at].job.clone();
        let left = self.ledger(move |ledger| ledger.backlog(&job)).await;
        left.map_or(true, |backlog| backlog.pending > 0 || backlog.unwatched.is_some())
    }

    /// Uses the ledger on a thread where it may block.
    async fn ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let ledger = Arc::clone(self.daemon.ledger());
        spawn_blocking(move || work(&ledger)).await?
    }
}

/// The store while it is watched.
struct Session<'a> {
    follower: &'a mut Follower,
    root: Identity,
    overrun: Arc<AtomicBool>,
    sights: mpsc::Receiver<Sight>,
    findings: mpsc::Receiver<Finding>,
    requests: mpsc::Sender<Branch>,
    /// Binaries that were seen and are not recorded.
    fresh: BTreeSet<Digest>,
    /// When they are to be.
    flush_at: Option<Instant>,
    /// Whether they could not be when that was tried.
    failing: bool,
    /// Directories that came and were not looked into.
    branches: BTreeSet<Branch>,
    /// Whether a directory was said not to be watched.
    complained: bool,
}

impl<'a> Session<'a> {
    /// Watches until that is over, and gives the watches back.
    async fn watch(follower: &'a mut Follower) -> Lost {
        let store = follower.store.binaries.clone();
        let Some(root) = identity(store.root()) else { return Lost::RootGone };
        follower.board(WatchState::SettingUp, None, None);
        let overrun = Arc::new(AtomicBool::new(false));
        let (sights_to, sights) = mpsc::channel(follower.pace.sights);
        let (findings_to, findings) = mpsc::channel(FINDINGS);
        let (requests, requests_from) = mpsc::channel(1);
        let eyes = match Eyes::open(&store, sights_to, Arc::clone(&overrun)) {
            Ok(eyes) => eyes,
            Err(blind) => return lost(blind),
        };
        let over = follower.stop.child_token();
        let survey = Survey { store, eyes, findings: findings_to, stop: over.clone() };
        let survey = spawn_blocking(move || survey.run(requests_from));
        let mut session = Session {
            follower,
            root,
            overrun,
            sights,
            findings,
            requests,
            fresh: BTreeSet::new(),
            flush_at: None,
            failing: false,
            branches: BTreeSet::new(),
            complained: false,
        };
        let lost = session.follow().await;
        over.cancel();
        if !matches!(lost, Lost::Stopped) {
            session.flush().await;
        }
        session.close(survey).await;
        lost
    }

    async fn follow(&mut self) -> Lost {
        let mut look_at = Instant::now() + self.follower.pace.look;
        let (stop, requests) = (self.follower.stop.clone(), self.requests.clone());
        loop {
            if self.overrun.swap(false, Ordering::Acquire) || self.fresh.len() + self.branches.len() > FRESH {
                return Lost::Missed("more came than could be recorded".to_owned());
            }
            if self.fresh.len() >= BATCH && !self.failing {
                self.flush().await;
            }
            let flush_at = self.flush_at;
            tokio::select! {
                () = stop.cancelled() => return Lost::Stopped,
                Some(sight) = self.sights.recv() => {
                    let mut next = Some(sight);
                    while let Some(sight) = next {
                        if let Some(lost) = self.see(sight) {
                            return lost;
                        }
                        next = if self.fresh.len() < BATCH { self.sights.try_recv().ok() } else { None };
                    }
                }
                finding = self.findings.recv() => {
                    let lost = match finding {
                        Some(finding) => self.find(finding).await,
                        None => Some(Lost::Missed("the thread that sets watches ended".to_owned())),
                    };
                    if let Some(lost) = lost {
                        return lost;
                    }
                }
                Ok(permit) = requests.reserve(), if !self.branches.is_empty() => {
                    if let Some(top) = self.branches.pop_first() {
                        // All of it is looked into, so what lies below it need not be asked for.
                        while self.branches.first().is_some_and(|branch| branch.is_within(&top)) {
                            self.branches.pop_first();
                        }
                        permit.send(top);
                    }
                }
                () = sleep_until(flush_at.unwrap_or(look_at)), if flush_at.is_some() => self.flush().await,
                () = sleep_until(look_at) => {
                    look_at = Instant::now() + self.follower.pace.look;
                    if identity(self.follower.store.binaries.root()) != Some(self.root) {
                        return Lost::RootGone;
                    }
                }
                due = due(&mut self.follower.jobs) => self.follower.look_after(due).await,
            }
        }
    }

    fn see(&mut self, sight: Sight) -> Option<Lost> {
        match sight {
            Sight::Binary(digest) => self.take(digest),
            Sight::Branch(branch) => {
                self.branches.insert(branch);
            }
            Sight::RootGone => return Some(Lost::RootGone),
            Sight::Missed(cause) => return Some(Lost::Missed(cause)),
        }
        None
    }

    async fn find(&mut self, finding: Finding) -> Option<Lost> {
        match finding {
            Finding::Ready(directories) => {
                let root = self.follower.store.binaries.root().display();
                let jobs = self.follower.store.jobs.join(", ");
                say(Level::Info, format_args!("watching `{root}`, {directories} directories, for {jobs}"));
                self.follower.said.clear();
                // What came before the watches were set is found by a scan that begins now.
                self.follower.missed().await;
                self.follower.board(WatchState::Watching, None, Some(directories));
                self.follower.activate_all().await;
            }
            Finding::Binaries(digests) => digests.into_iter().for_each(|digest| self.take(digest)),
            Finding::Unwatched { branch, cause } => {
                if !self.complained {
                    let path =
                        self.follower.store.binaries.root().join(branch.path(self.follower.store.binaries.layout()));
                    say(
                        Level::Warning,
                        format_args!("watch `{}`: {cause}; what comes there is found by schedule", path.display()),
                    );
                    self.complained = true;
                }
            }
            Finding::Blind(blind) => return Some(lost(blind)),
        }
        None
    }

    fn take(&mut self, digest: Digest) {
        self.fresh.insert(digest);
        let gather = self.follower.pace.gather;
        self.flush_at.get_or_insert_with(|| Instant::now() + gather);
    }

    /// Records what was seen, and starts those that copy it.
    async fn flush(&mut self) {
        self.flush_at = None;
        if self.fresh.is_empty() {
            return;
        }
        let (jobs, now) = (self.follower.store.jobs.clone(), self.follower.daemon.clock().now());
        let digests: Vec<Digest> = self.fresh.iter().copied().collect();
        match self.follower.ledger(move |ledger| ledger.add_pending(&jobs, &digests, now)).await {
            Ok(idle) => {
                self.fresh.clear();
                self.failing = false;
                for retry in &mut self.follower.jobs {
                    retry.delay = self.follower.pace.again.0;
                }
                for job in idle {
                    self.follower.activate(&job).await;
                }
            }
            Err(error) => {
                say(Level::Error, format_args!("{error:#}; trying again"));
                self.failing = true;
                self.flush_at = Some(Instant::now() + RECORD_AGAIN);
            }
        }
    }

    /// Waits until the watches are given back, so that they can be had again.
    async fn close(self, survey: JoinHandle<()>) {
        let Self { mut sights, findings, requests, .. } = self;
        drop((findings, requests));
        let closed = async {
            if let Err(error) = survey.await {
                say(Level::Error, format_args!("set watches: {error}"));
            }
            // The sender goes with the watches.
            while sights.recv().await.is_some() {}
        };
        if tokio::time::timeout(TO_CLOSE, closed).await.is_err() {
            say(Level::Warning, "the watches of a store do not end: is its file system stuck?");
        }
    }
}

fn lost(blind: Blind) -> Lost {
    match blind {
        Blind::Gone => Lost::RootGone,
        Blind::NoWatches => Lost::NoWatches,
        Blind::NoInstances => Lost::NoInstances,
        Blind::Other(cause) => Lost::Missed(cause),
    }
}
