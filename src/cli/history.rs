//! `holdfast history`: what has run.

use crate::cli::exit::Exit;
use crate::cli::session::ledger_to_read;
use crate::cli::table::{Align, Table};
use crate::cli::{terminal, text};
use crate::config::Config;
use crate::jobs::context::Clock as _;
use crate::ledger::{Ledger, StateLock};
use crate::model::run::{Run, RunFilter};
use crate::service::clock::SystemClock;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print the runs as JSON
    #[arg(long)]
    json: bool,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// Only the runs of this job
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
}

pub(super) fn history(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    let runs = match ledger_to_read(config)? {
        Some(ledger) => runs(config, &ledger, arguments)?,
        None => Vec::new(),
    };
    if arguments.json {
        terminal::json(&runs)?;
    } else if runs.is_empty() {
        terminal::note("there are no runs yet");
    } else {
        terminal::out(&table(&runs).to_string())?;
    }
    Ok(Exit::Succeeded)
}

fn runs(config: &Config, ledger: &Ledger, arguments: &Arguments) -> anyhow::Result<Vec<Run>> {
    let read = || ledger.runs(&RunFilter::latest(arguments.job.as_deref(), arguments.limit));
    let runs = read()?;
    if runs.iter().all(|run| run.outcome.is_some()) || !interrupt(config) {
        return Ok(runs);
    }
    read()
}

/// Closes the runs of a process that was killed, if none is at work and the ledger is ours to write; whether it did.
fn interrupt(config: &Config) -> bool {
    let Ok(lock) = StateLock::take(&config.service.state_dir, "history") else { return false };
    // What cannot be written is shown as it stands.
    Ledger::open(&lock).is_ok_and(|(ledger, _)| ledger.interrupt_open_runs(SystemClock.now()).is_ok())
}

fn table(runs: &[Run]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(vec![
        ("RUN", Right),
        ("JOB", Left),
        ("TRIGGER", Left),
        ("OUTCOME", Left),
        ("STARTED", Left),
        ("TOOK", Right),
        ("COPIED", Right),
        ("SIZE", Right),
        ("FAILED", Right),
        ("RESULT", Left),
    ]);
    for run in runs {
        table.row(vec![
            run.id.to_string(),
            run.job.clone(),
            run.trigger.to_string(),
            run.outcome.map_or("running", |outcome| outcome.as_str()).to_owned(),
            text::time(run.started),
            text::elapsed(run).map_or_else(|| "-".to_owned(), text::duration),
            text::count(run.counts.copied),
            text::bytes(run.counts.bytes),
            text::count(run.counts.failed),
            run.result.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
        if let Some(error) = &run.error {
            table.below(error);
        }
    }
    table
}
