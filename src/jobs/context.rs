//! What every run is given: who it is, where it counts, and how it learns that it should stop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::ledger::{DestinationId, Ledger};
use crate::model::run::{Counts, Problem, Progress, RunId};
use crate::store::ObjectStore;
use crate::store::retry::Meter;

/// How many problems of a run are kept by name; all are counted.
const KEPT_PROBLEMS: usize = 1000;

/// The time, which jobs are given and never ask the system for.
#[async_trait]
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;

    /// Waits.
    async fn sleep(&self, duration: Duration);
}

/// The run was asked to stop, and did so at a safe point.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// Whether an error only says that the run stopped, or was cut off by another error.
pub fn is_cancelled(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn std::error::Error>::is::<Cancelled>)
}

/// A destination that is open: the store, and what it is called in the ledger.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its name in the configuration.
    pub name: String,
    /// Its number in the ledger.
    pub id: DestinationId,
    /// The way to its objects; tries again by itself.
    pub store: Arc<dyn ObjectStore>,
}

/// A run under way.
#[derive(Clone, Debug)]
pub struct RunContext {
    /// Its number.
    pub id: RunId,
    /// When it began.
    pub started: Timestamp,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Fires when it should stop.
    pub stop: CancellationToken,
    /// Where it counts.
    pub report: Arc<Report>,
    /// Our own state.
    pub ledger: Arc<Ledger>,
}

impl RunContext {
    /// An error if the run should stop: called wherever it may.
    pub fn go_on(&self) -> anyhow::Result<()> {
        if self.stop.is_cancelled() { Err(Cancelled.into()) } else { Ok(()) }
    }

    /// Runs `work` on a thread where it may block.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let context = self.clone();
        tokio::task::spawn_blocking(move || work(&context)).await.context("work on a thread of its own")?
    }
}

/// How a run ended that did not fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The restore point or archive that it made, restored or verified.
    pub result: Option<String>,
    /// Where that lies.
    pub url: Option<String>,
    /// Where binaries went that the backup does not have.
    pub quarantine: Option<String>,
}

/// What a run has counted and met so far; shared between its threads and whoever watches.
#[derive(Debug, Default)]
pub struct Report(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    progress: Progress,
    problems: Vec<Problem>,
    partial: bool,
    meters: Vec<Arc<Meter>>,
}

impl Report {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counts.
    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.state().counts);
    }

    /// The counts so far, requests included.
    pub fn counts(&self) -> Counts {
        let state = self.state();
        let mut counts = state.counts.clone();
        for meter in &state.meters {
            let (requests, retries) = meter.read();
            counts.requests += requests;
            counts.retries += retries;
        }
        counts
    }

    /// Takes the requests of a store into the counts.
    pub fn meter(&self, meter: Arc<Meter>) {
        self.state().meters.push(meter);
    }

    /// Begins a phase: `total` of `unit` to do, none where that is not known.
    pub fn phase(&self, message: impl Into<String>, unit: &str, total: Option<u64>) {
        self.state().progress = Progress { current: 0, total, unit: unit.to_owned(), message: message.into() };
    }

    /// Takes over how far another run is that is followed from here.
    pub fn show(&self, progress: Progress) {
        self.state().progress = progress;
    }

    /// Goes on by this much.
    pub fn advance(&self, by: u64) {
        self.state().progress.current += by;
    }

    /// Says what is being done, without beginning anew.
    pub fn say(&self, message: impl Into<String>) {
        self.state().progress.message = message.into();
    }

    /// Corrects the total by what turned out not to be there to do.
    pub fn reduce_total(&self, by: u64) {
        let mut state = self.state();
        state.progress.total = state.progress.total.map(|total| total.saturating_sub(by));
    }

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        self.state().progress.clone()
    }

    /// Something could not be done: it is named, and the run will be partial.
    pub fn problem(&self, kind: &str, subject: impl Into<String>, message: impl Into<String>) {
        self.state().partial = true;
        self.notice(kind, subject, message);
    }

    /// Something is worth knowing that does not make the run partial.
    pub fn notice(&self, kind: &str, subject: impl Into<String>, message: impl Into<String>) {
        let mut state = self.state();
        if state.problems.len() < KEPT_PROBLEMS {
            state.problems.push(Problem { kind: kind.to_owned(), subject: subject.into(), message: message.into() });
        }
    }

    /// The problems and notices so far.
    pub fn problems(&self) -> Vec<Problem> {
        self.state().problems.clone()
    }

    /// Whether something could not be done.
    pub fn is_partial(&self) -> bool {
        let state = self.state();
        state.partial || state.counts.failed > 0
    }
}
