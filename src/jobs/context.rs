//! What every run is given: who it is, where it counts, and how it learns that it should stop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::ledger::{DestinationId, Ledger};
use crate::model::key::Key;
use crate::model::point::PointName;
use crate::model::run::{Counts, Problem, Progress, RunId};
use crate::store::pressure::Strain;
use crate::store::retry::Meter;
use crate::store::{ErrorKind, ObjectStore};

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
    /// What must lie there before anything is put; nothing for a run that builds on nothing.
    pub footing: Option<Arc<Footing>>,
}

/// The last restore point of a run that believes what the ledger knows of a destination. If it is gone, that is another
/// place by now: a disk that is not mounted, a bucket that was made anew.
#[derive(Debug)]
pub struct Footing {
    manifest: Key,
    seen: OnceCell<()>,
}

impl Destination {
    /// The same, for a run that builds on this restore point.
    #[must_use]
    pub fn building_on(&self, last: &PointName) -> Self {
        let footing = Footing { manifest: Key::in_point(last, "point.json"), seen: OnceCell::new() };
        Self { footing: Some(Arc::new(footing)), ..self.clone() }
    }

    /// An error if what the run builds on is not there any more. Called before each put, it looks once: a run with
    /// nothing to put makes no request.
    pub async fn must_be_as_it_was(&self) -> anyhow::Result<()> {
        let Some(footing) = &self.footing else { return Ok(()) };
        let look = async || match self.store.head(&footing.manifest).await {
            Err(error) if error.kind == ErrorKind::NotFound => bail!(
                "copy to destination `{}`: `{}` of the last restore point is not at {} any more: is it the right place, and \
                 mounted? If it was emptied on purpose, `holdfast run copy.NAME --full` learns what is there",
                self.name,
                footing.manifest,
                self.store.place()
            ),
            // Who may write and not read cannot look.
            Err(error) if error.kind == ErrorKind::Denied => Ok(()),
            found => Ok(found.map(drop)?),
        };
        footing.seen.get_or_try_init(look).await.map(drop)
    }
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

/// What is added to the progress of a run that goes as slowly as a destination wants it to.
const SLOWED: &str = " (the destination asks for fewer requests at once)";

fn slowed(place: &str, strain: Strain) -> Problem {
    let Strain { refused, busiest, lowest, limit } = strain;
    let times = if refused == 1 { "once".to_owned() } else { format!("{refused} times") };
    let message = format!(
        "it asked {times} for fewer requests at once: there were {busiest}, then no more than {lowest}, and at last {}",
        limit.min(busiest)
    );
    Problem { kind: "slowed".to_owned(), subject: place.to_owned(), message }
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
    left_out: bool,
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

    /// How far the run is, and whether a destination slows it down.
    pub fn progress(&self) -> Progress {
        let state = self.state();
        let mut progress = state.progress.clone();
        // Without numbers: each new message is a line where nobody watches.
        if state.meters.iter().any(|meter| meter.strain().is_some_and(|(_, strain)| strain.is_felt())) {
            progress.message.push_str(SLOWED);
        }
        progress
    }

    /// Something could not be done: it is named, and the run will be partial.
    pub fn problem(&self, kind: &str, subject: impl Into<String>, message: impl Into<String>) {
        self.state().partial = true;
        self.notice(kind, subject, message);
    }

    /// The same, and it may be possible later: a directory may be opened again, an object be taken away.
    pub fn left_out(&self, kind: &str, subject: impl Into<String>, message: impl Into<String>) {
        self.state().left_out = true;
        self.problem(kind, subject, message);
    }

    /// Something is worth knowing that does not make the run partial.
    pub fn notice(&self, kind: &str, subject: impl Into<String>, message: impl Into<String>) {
        let mut state = self.state();
        if state.problems.len() < KEPT_PROBLEMS {
            state.problems.push(Problem { kind: kind.to_owned(), subject: subject.into(), message: message.into() });
        }
    }

    /// The problems and notices so far; last, what came of destinations that asked for less.
    pub fn problems(&self) -> Vec<Problem> {
        let state = self.state();
        let strains = state.meters.iter().filter_map(|meter| meter.strain());
        let strains = strains.map(|(place, strain)| slowed(place, strain));
        state.problems.iter().cloned().chain(strains).take(KEPT_PROBLEMS).collect()
    }

    /// Whether something could not be done that may be possible later.
    pub fn has_left_out(&self) -> bool {
        self.state().left_out
    }

    /// Whether something could not be done.
    pub fn is_partial(&self) -> bool {
        let state = self.state();
        state.partial || state.counts.failed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_that_asks_for_less_is_named_with_what_came_of_it() {
        let strain = Strain { refused: 12, busiest: 32, lowest: 2, limit: 9 };
        let Problem { kind, subject, message } = slowed("s3://bucket", strain);
        assert_eq!((kind.as_str(), subject.as_str()), ("slowed", "s3://bucket"));
        assert_eq!(
            message,
            "it asked 12 times for fewer requests at once: there were 32, then no more than 2, and at last 9"
        );
        let once = slowed("", Strain { refused: 1, limit: 40, ..strain }).message;
        assert!(once.starts_with("it asked once") && once.ends_with("at last 32"), "{once}");
    }
}
