//! One store, followed for as long as the configuration says so: watched, or waited for until it can be.

mod retries;
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::retries::{Due, Retry, due};
use self::session::{Lost, Session, identity};
use super::Pace;
use super::board::{Watch, WatchState, Way};
use super::fanotify::Marks;
use super::limits::{no_instances, no_watches, watch_limit};
use super::survey::count_directories;
use crate::ledger::Ledger;
use crate::model::run::{RunId, Trigger};
use crate::service::daemon::Daemon;
use crate::service::journal::{Level, say};
use crate::service::request::Refusal;
use crate::service::site::WatchedStore;

/// How long one that went well must have lasted for its end to be no reason to wait longer.
const LONG: Duration = Duration::from_mins(10);
/// How long until what could not be recorded is tried again.
const RECORD_AGAIN: Duration = Duration::from_secs(5);

/// Follows one store.
#[derive(Debug)]
pub(super) struct Follower {
    daemon: Daemon,
    store: WatchedStore,
    marks: Marks,
    stop: CancellationToken,
    pace: Pace,
    /// The last complaint, which is made once.
    said: String,
    jobs: Vec<Retry>,
    /// The scans that were last asked for because it was time, by their jobs.
    scans: BTreeMap<String, (RunId, Instant)>,
}

impl Follower {
    pub(super) fn new(daemon: Daemon, store: WatchedStore, marks: Marks, stop: CancellationToken, pace: Pace) -> Self {
        let retry = |job: &String| Retry {
            job: job.clone(),
            ended: daemon.ledger().takings(job),
            delay: pace.again.0,
            at: None,
        };
        let jobs = store.jobs.iter().map(retry).collect();
        Self { daemon, store, marks, stop, pace, said: String::new(), jobs, scans: BTreeMap::new() }
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
                    self.board(WatchState::SettingUp, Some(cause), None, None);
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

    fn board(&self, state: WatchState, reason: Option<String>, way: Option<Way>, directories: Option<u64>) {
        self.daemon.watch_board().put(&self.store.jobs, &Watch { state, reason, way, directories });
    }

    /// The store cannot be watched: said once, and shown for as long as it is so.
    fn blind(&mut self, reason: &str) {
        self.board(WatchState::BySchedule, Some(reason.to_owned()), None, None);
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

    /// Starts the scans for which it is time.
    async fn scan_what_is_due(&mut self) {
        for (job, every) in self.store.scan_every.clone() {
            if let Some((run, asked)) = self.scans.get(&job)
                && (self.daemon.is_under_way(*run) || asked.elapsed() < self.pace.again.1)
            {
                continue;
            }
            let of = job.clone();
            let known =
                self.ledger(move |ledger| Ok((ledger.proof(&of)?, ledger.left_out(&of)?, ledger.is_unwatched(&of)?)));
            let (proof, left_out) = match known.await {
                // One is to come already, or under way.
                Ok((_, _, true)) => continue,
                Ok((proof, left_out, false)) => (proof, left_out),
                Err(error) => {
                    say(Level::Error, format_args!("{error:#}"));
                    continue;
                }
            };
            let now = self.daemon.clock().now();
            let last = proof.map(|proof| proof.finished).max(left_out);
            let every = if left_out.is_some() { every.min(self.pace.left_out_again) } else { every };
            // A clock that was set back does not keep it from being done.
            let is_due = |last| !Duration::try_from(now.duration_since(last)).is_ok_and(|age| age < every);
            if last.is_none_or(is_due) {
                match self.daemon.scan(&job).await {
                    Ok(run) => drop(self.scans.insert(job, (run.id, Instant::now()))),
                    Err(Refusal::Internal(error)) => say(Level::Error, format_args!("start {job}: {error:#}")),
                    // It is no longer in the configuration, or the service is stopping.
                    Err(_) => {}
                }
            }
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
