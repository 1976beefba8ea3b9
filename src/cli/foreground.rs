//! A run in the foreground: progress beside it, and a summary after it.

use std::sync::Arc;

use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::{progress, summary, terminal};
use crate::jobs::context::{Ended, Report, RunContext};
use crate::model::run::{Kind, Trigger};
use crate::service::runner::Activation;

/// How a result is shown on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// For a person.
    Text,
    /// For a program.
    Json,
}

impl Output {
    pub(super) fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

/// Runs `work` as a run of `job`, to its end.
pub(super) async fn run(
    session: &Session<'_>,
    job: &str,
    kind: Kind,
    output: Output,
    work: impl AsyncFnOnce(&RunContext) -> anyhow::Result<Ended>,
) -> anyhow::Result<Exit> {
    let activation = Activation { job: job.to_owned(), kind, trigger: Trigger::Request, started_by: None };
    let report = Arc::new(Report::default());
    let running = session.runner.run(&activation, session.stop(), Arc::clone(&report), work);
    let run = progress::watch(&report, &session.stop(), running).await?;
    match output {
        Output::Json => terminal::json(&run)?,
        Output::Text => terminal::out(&summary::summary(&run, terminal::Paint::for_stdout()))?,
    }
    if let Some(error) = &run.error {
        terminal::note(format_args!("holdfast: {error}"));
    }
    Ok(Exit::of(run.outcome))
}
