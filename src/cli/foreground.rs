//! A run in the foreground: progress beside it, and a summary after it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::cli::exit::{Exit, Usage};
use crate::cli::session::Session;
use crate::cli::{progress, summary, terminal};
use crate::jobs::context::Report;
use crate::model::run::{Kind, Run, Trigger};
use crate::service::runner::Activation;
use crate::service::site::{Site as _, Work};

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

/// Does `work` as a run of `job`, to its end.
pub(super) async fn run(session: &Session, job: &str, kind: Kind, output: Output, work: &Work) -> anyhow::Result<Exit> {
    let activation = Activation {
        job: job.to_owned(),
        kind,
        trigger: Trigger::Request,
        started_by: None,
        url: session.site.url(work),
    };
    let report = Arc::new(Report::default());
    // Nobody waits for this run: it has the state directory to itself.
    let hurry = CancellationToken::new();
    let mut usage = false;
    let running = session.runner.run(&activation, session.stop(), Arc::clone(&report), async |run| {
        session.site.perform(run, work, &hurry).await.inspect_err(|error| usage = error.is::<Usage>())
    });
    let run = progress::watch(&report, &session.stop(), running).await?;
    let exit = show(&run, output)?;
    Ok(if usage { Exit::Usage } else { exit })
}

/// Shows a run that has ended, and gives the exit status that tells how.
pub(super) fn show(run: &Run, output: Output) -> anyhow::Result<Exit> {
    match output {
        Output::Json => terminal::json(run)?,
        Output::Text => terminal::out(&summary::summary(run, terminal::Paint::for_stdout()))?,
    }
    if let Some(error) = &run.error {
        terminal::note(format_args!("holdfast: {error}"));
    }
    Ok(Exit::of(run.outcome))
}
