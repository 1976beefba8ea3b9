//! One run, from its record's beginning to its end, whatever happens in between.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::jobs::context::{Clock, Ended, Report, RunContext, is_cancelled};
use crate::jobs::download::store_error;
use crate::ledger::Ledger;
use crate::model::run::{Failure, Kind, Outcome, Run, RunId, Trigger};
use crate::model::slots::Advance;
use crate::store::ErrorKind;

/// What is to be run, and why.
#[derive(Clone, Debug)]
pub struct Activation {
    /// The job, such as `copy.binaries`.
    pub job: String,
    /// What it does.
    pub kind: Kind,
    /// Why it begins.
    pub trigger: Trigger,
    /// The administrator who asked for it.
    pub started_by: Option<String>,
    /// Where that lies what it restores.
    pub url: Option<String>,
}

/// A run that is recorded and has not begun.
#[derive(Clone, Debug)]
pub struct Added {
    /// Its number.
    pub id: RunId,
    /// When it was asked for.
    pub activated: Timestamp,
    /// What is to be run.
    pub activation: Activation,
}

/// Runs jobs and records them.
#[derive(Clone, Debug)]
pub struct Runner {
    /// Where runs are recorded.
    pub ledger: Arc<Ledger>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Runner {
    /// What work is given that is no run: it changes nothing that lasts, and the history does not know it.
    pub fn unrecorded(&self, stop: CancellationToken, report: Arc<Report>) -> RunContext {
        RunContext {
            id: RunId::new(0),
            started: self.clock.now(),
            clock: Arc::clone(&self.clock),
            stop,
            report,
            ledger: Arc::clone(&self.ledger),
        }
    }

    /// Records that a run is asked for: it has a number, and has not begun.
    pub fn add(&self, activation: &Activation) -> anyhow::Result<Added> {
        let Activation { job, kind, trigger, started_by, .. } = activation;
        let activated = self.clock.now();
        let id = self.ledger.add_run(job, *kind, *trigger, started_by.as_deref(), activated)?;
        Ok(Added { id, activated, activation: activation.clone() })
    }

    /// Records that a run is asked for by a schedule, with the slots that it acts upon; none if they were acted upon
    /// already.
    pub fn add_of_slot(&self, activation: &Activation, advance: &Advance) -> anyhow::Result<Option<Added>> {
        let Activation { job, kind, trigger, .. } = activation;
        let activated = self.clock.now();
        let id = self.ledger.add_run_of_slot(job, *kind, *trigger, advance, activated)?;
        Ok(id.map(|id| Added { id, activated, activation: activation.clone() }))
    }

    /// Runs `work` at once, to its end, and records it. The error is that of the record; that of the work is in the
    /// run.
    pub async fn run(
        &self,
        activation: &Activation,
        stop: CancellationToken,
        report: Arc<Report>,
        work: impl AsyncFnOnce(&RunContext) -> anyhow::Result<Ended>,
    ) -> anyhow::Result<Run> {
        let added = self.add(activation)?;
        let started = self.clock.now();
        self.ledger.begin_run(added.id, started, activation.url.as_deref())?;
        let run = self.perform(added, started, stop, report, work).await;
        self.ledger.end_run(&run)?;
        Ok(run)
    }

    /// Runs `work` as a run that was added and begins now, to its end; recording the end is left to the caller.
    pub async fn perform(
        &self,
        added: Added,
        started: Timestamp,
        stop: CancellationToken,
        report: Arc<Report>,
        work: impl AsyncFnOnce(&RunContext) -> anyhow::Result<Ended>,
    ) -> Run {
        let Added { id, activated, activation: Activation { job, kind, trigger, started_by, url } } = added;
        let context = RunContext {
            id,
            started,
            clock: Arc::clone(&self.clock),
            stop,
            report: Arc::clone(&report),
            ledger: Arc::clone(&self.ledger),
        };
        // A run that panics has failed; the process and its other runs live.
        let ended = AssertUnwindSafe(work(&context)).catch_unwind().await;
        let ended = ended.unwrap_or_else(|panic| Err(anyhow::anyhow!("internal error: {}", panic_text(&*panic))));
        let (outcome, ended, failed) = judge(ended, &report, context.stop.is_cancelled());
        Run {
            id,
            job,
            kind,
            trigger,
            outcome: Some(outcome),
            activated,
            started,
            finished: Some(self.clock.now()),
            progress: report.progress(),
            counts: report.counts(),
            result: ended.result,
            url: ended.url.or(url),
            quarantine: ended.quarantine,
            error: failed.as_ref().map(|error| format!("{error:#}")),
            failure: failed.as_ref().map(failure),
            started_by,
            problems: report.problems(),
        }
    }
}

fn judge(ended: anyhow::Result<Ended>, report: &Report, stopped: bool) -> (Outcome, Ended, Option<anyhow::Error>) {
    match ended {
        Ok(ended) if report.is_partial() => (Outcome::Partial, ended, None),
        Ok(ended) => (Outcome::Succeeded, ended, None),
        Err(error) if is_cancelled(&error) => (Outcome::Cancelled, Ended::default(), None),
        // A request that would have been tried again, had the run not been told to stop.
        Err(error) if stopped && store_error(&error).is_some_and(|error| error.kind == ErrorKind::Unavailable) => {
            (Outcome::Cancelled, Ended::default(), None)
        }
        Err(error) => (Outcome::Failed, Ended::default(), Some(error)),
    }
}

fn failure(error: &anyhow::Error) -> Failure {
    match store_error(error).map(|error| error.kind) {
        Some(ErrorKind::Denied) => Failure::Denied,
        Some(ErrorKind::Unavailable) => Failure::Unavailable,
        _ => Failure::Other,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a thread panicked")
}
