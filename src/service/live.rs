//! The runs that wait or are under way, as they are at this moment: shared by those who run them and those who look.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::runner::Added;
use crate::jobs::context::Report;
use crate::model::run::{Run, RunId, Trigger};

/// How many problems of a run under way are shown with it.
const SHOWN_PROBLEMS: usize = 100;

/// A run that waits or is under way.
#[derive(Debug)]
pub struct Live {
    /// Its record.
    pub added: Added,
    /// Where it counts.
    pub report: Arc<Report>,
    /// Fires when it should stop.
    pub stop: CancellationToken,
    /// Fires when others wait for it to end.
    pub hurry: CancellationToken,
    began: OnceLock<Timestamp>,
    dismissed: AtomicBool,
    expected: AtomicBool,
    ended: OnceLock<Run>,
    /// Fires when it has.
    end: CancellationToken,
}

impl Live {
    /// A run that waits; `stop` is its own.
    pub fn new(added: Added, stop: CancellationToken) -> Self {
        Self {
            added,
            report: Arc::new(Report::default()),
            stop,
            hurry: CancellationToken::new(),
            began: OnceLock::new(),
            dismissed: AtomicBool::new(false),
            expected: AtomicBool::new(false),
            ended: OnceLock::new(),
            end: CancellationToken::new(),
        }
    }

    /// It begins.
    pub fn begin(&self, now: Timestamp) {
        // A run begins once.
        self.began.get_or_init(|| now);
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.began.get().is_some()
    }

    /// Somebody wants it stopped.
    pub fn dismiss(&self) {
        self.dismissed.store(true, Ordering::Relaxed);
        self.stop.cancel();
    }

    /// Whether somebody wanted it stopped, other than by ending the service.
    pub fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::Relaxed)
    }

    /// It would have been started by itself, too: somebody asked for it a moment sooner.
    pub fn expect(&self) {
        self.expected.store(true, Ordering::Relaxed);
    }

    /// Whether it runs without anybody having asked for it, or would.
    pub fn is_expected(&self) -> bool {
        self.added.activation.trigger != Trigger::Request || self.expected.load(Ordering::Relaxed)
    }

    /// It has ended like this, which may not be recorded yet.
    pub fn end(&self, run: Run) {
        self.ended.get_or_init(|| run);
        self.end.cancel();
    }

    /// Waits until it has ended.
    pub async fn to_its_end(&self) -> Run {
        self.end.cancelled().await;
        self.view()
    }

    /// Whether it has.
    pub fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    /// The run as it is now.
    pub fn view(&self) -> Run {
        if let Some(run) = self.ended.get() {
            return run.clone();
        }
        let Added { id, activated, activation } = &self.added;
        let mut problems = self.report.problems();
        problems.truncate(SHOWN_PROBLEMS);
        Run {
            id: *id,
            job: activation.job.clone(),
            kind: activation.kind,
            trigger: activation.trigger,
            outcome: None,
            activated: *activated,
            started: self.began.get().copied().unwrap_or(*activated),
            finished: None,
            progress: self.report.progress(),
            counts: self.report.counts(),
            result: None,
            url: activation.url.clone(),
            quarantine: None,
            error: None,
            failure: None,
            started_by: activation.started_by.clone(),
            problems,
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Board(Mutex<BTreeMap<RunId, Arc<Live>>>);

impl Board {
    fn lives(&self) -> MutexGuard<'_, BTreeMap<RunId, Arc<Live>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a run up.
    pub fn put(&self, live: Arc<Live>) {
        self.lives().insert(live.added.id, live);
    }

    /// Takes a run down: its end is recorded.
    pub fn take(&self, id: RunId) {
        self.lives().remove(&id);
    }

    /// A run, if it is up.
    pub fn get(&self, id: RunId) -> Option<Arc<Live>> {
        self.lives().get(&id).cloned()
    }

    /// All that are up, oldest first.
    pub fn all(&self) -> Vec<Arc<Live>> {
        self.lives().values().cloned().collect()
    }
}
