//! The store while it is watched: what is seen and found becomes records, and records start copies.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::retries::due;
use super::{Follower, RECORD_AGAIN};
use crate::ledger::Ledger;
use crate::model::branch::Branch;
use crate::model::digest::Digest;
use crate::service::journal::{Level, say};
use crate::service::watcher::board::{WatchState, Way};
use crate::service::watcher::eyes::{Blind, Eyes, Sight};
use crate::service::watcher::survey::{Finding, Survey};

/// How many findings of the survey wait.
const FINDINGS: usize = 64;
/// How many binaries are recorded at once.
const BATCH: usize = 2_000;
/// How many binaries, and how many directories, may be seen and not dealt with before they count as missed.
const FRESH: usize = 65_536;
/// Of how many directories that could not be watched it is tried again; others are found by scans alone.
const UNWATCHED: usize = 256;
/// How long the watches get to go away.
const TO_CLOSE: Duration = Duration::from_secs(30);

/// `STATX_MNT_ID_UNIQUE`: the number of a mount that no other ever has.
const MNT_ID_UNIQUE: u32 = 0x4000;

/// Why a store is not watched any more.
#[derive(Debug)]
pub(super) enum Lost {
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

/// Which directory a path leads to: its file system, its inode, and by which mount it is reached, since a file system that
/// was unmounted and mounted again is not watched any more.
pub(super) type Identity = (u64, u64, u64);

pub(super) fn identity(root: &Path) -> Option<Identity> {
    let metadata = fs::metadata(root).ok().filter(fs::Metadata::is_dir)?;
    // Kernels before 6.8 may give the number of a mount that has gone to the next one, and those before 5.8 do not tell;
    // then the others have to do.
    let mount = StatxFlags::MNT_ID | StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
    let mount = statx(CWD, root, AtFlags::empty(), mount).map_or(0, |stat| stat.stx_mnt_id);
    Some((metadata.dev(), metadata.ino(), mount))
}

/// The store while it is watched.
pub(super) struct Session<'a> {
    follower: &'a mut Follower,
    root: Identity,
    way: Way,
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
    /// Whether a directory came of which that is all that is known.
    unplaced: bool,
    /// Directories that could not be watched or read, some of them, and when that is tried again: nothing tells when
    /// rights were granted.
    unwatched: BTreeSet<Branch>,
    retry_at: Instant,
    /// Whether a directory was said not to be watched.
    complained: bool,
}

impl<'a> Session<'a> {
    /// Watches until that is over, and gives the watches back.
    pub(super) async fn watch(follower: &'a mut Follower) -> Lost {
        let store = follower.store.binaries.clone();
        let Some(root) = identity(store.root()) else { return Lost::RootGone };
        follower.board(WatchState::SettingUp, None, None, None);
        let overrun = Arc::new(AtomicBool::new(false));
        let (sights_to, sights) = mpsc::channel(follower.pace.sights);
        let (findings_to, findings) = mpsc::channel(FINDINGS);
        let (requests, requests_from) = mpsc::channel(1);
        let (eyes, way) = match Eyes::open(&store, &follower.marks, sights_to, Arc::clone(&overrun)) {
            Ok(opened) => opened,
            Err(blind) => return lost(blind),
        };
        let over = follower.stop.child_token();
        let survey = Survey { store, eyes, findings: findings_to, stop: over.clone() };
        let survey = spawn_blocking(move || survey.run(requests_from));
        let mut session = Session {
            follower,
            root,
            way,
            overrun,
            sights,
            findings,
            requests,
            fresh: BTreeSet::new(),
            flush_at: None,
            failing: false,
            branches: BTreeSet::new(),
            unplaced: false,
            unwatched: BTreeSet::new(),
            retry_at: Instant::now(),
            complained: false,
        };
        let lost = session.follow().await;
        session.follower.daemon.ledger().end_watch(&session.follower.store.jobs);
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
                sight = self.sights.recv() => {
                    let Some(sight) = sight else { return Lost::Missed("the watches ended".to_owned()) };
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
                    if self.way == Way::Fanotify && self.follower.marks.have_lost(self.root.0) {
                        return Lost::Missed("its file system was unmounted".to_owned());
                    }
                    self.follower.scan_what_is_due().await;
                    if Instant::now() >= self.retry_at {
                        self.branches.append(&mut self.unwatched);
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
                if self.follower.store.binaries.may_include_below(branch.digits()) {
                    self.branches.insert(branch);
                }
            }
            Sight::Unplaced => {
                self.unplaced = true;
                self.flush_soon();
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
                let how = match (directories, &self.way) {
                    (Some(directories), Way::Inotify { why }) => {
                        format!("{directories} directories, by inotify, as {why}")
                    }
                    _ => "by fanotify".to_owned(),
                };
                say(Level::Info, format_args!("watching `{root}` for {jobs}: {how}"));
                self.follower.said.clear();
                // What came before it was watched is found by a scan that begins now.
                self.follower.missed().await;
                self.follower.daemon.ledger().begin_watch(&self.follower.store.jobs);
                self.follower.board(WatchState::Watching, None, Some(self.way.clone()), directories);
                self.follower.activate_all().await;
            }
            Finding::Binaries(digests) => digests.into_iter().for_each(|digest| self.take(digest)),
            Finding::Unwatched { branch, cause } => {
                if self.unwatched.is_empty() {
                    self.retry_at = Instant::now() + self.follower.pace.again.1;
                }
                if self.unwatched.len() < UNWATCHED {
                    self.unwatched.insert(branch);
                }
                if !self.complained {
                    let path =
                        self.follower.store.binaries.root().join(branch.path(self.follower.store.binaries.layout()));
                    say(
                        Level::Warning,
                        format_args!(
                            "watch `{}`: {cause}; what comes there is found once that can be done, and by schedule",
                            path.display()
                        ),
                    );
                    self.complained = true;
                }
            }
            Finding::Blind(blind) => return Some(lost(blind)),
        }
        None
    }

    fn take(&mut self, digest: Digest) {
        if !self.follower.store.binaries.includes(&digest) {
            return;
        }
        self.fresh.insert(digest);
        self.flush_soon();
    }

    fn flush_soon(&mut self) {
        let gather = self.follower.pace.gather;
        self.flush_at.get_or_insert_with(|| Instant::now() + gather);
    }

    /// Records what was seen, and starts those that copy it.
    async fn flush(&mut self) {
        self.flush_at = None;
        if std::mem::take(&mut self.unplaced) {
            self.follower.missed().await;
            self.follower.activate_all().await;
        }
        if self.fresh.is_empty() {
            return;
        }
        let (jobs, now) = (self.follower.store.jobs.clone(), self.follower.daemon.clock().now());
        let digests: Vec<Digest> = self.fresh.iter().copied().collect();
        let store = self.follower.store.binaries.clone();
        let record = move |ledger: &Ledger| {
            // What is gone already has no size.
            let size = |digest| store.stamp(&digest).map_or(0, |stamp| stamp.bytes);
            let binaries: Vec<_> = digests.into_iter().map(|digest| (digest, size(digest))).collect();
            ledger.add_pending(&jobs, &binaries, now)
        };
        match self.follower.ledger(record).await {
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
