//! `holdfast status`: what the service is at.

use std::sync::Arc;

use crate::cli::exit::{Exit, Usage};
use crate::cli::remote::Remote;
use crate::cli::table::{Align, Table};
use crate::cli::{terminal, text};
use crate::config::Config;
use crate::model::run::{Outcome, Proof, Run};
use crate::service::status::{JobStatus, Status, WatchStatus};
use crate::service::watcher::WatchState;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print it as JSON, as `GET /status` does
    #[arg(long)]
    json: bool,
}

pub(super) async fn status(config: Arc<Config>, arguments: &Arguments) -> anyhow::Result<Exit> {
    let remote = reach(&config).await?;
    let status: Status = remote.get("/status").await?;
    if arguments.json {
        terminal::json(&status)?;
    } else {
        terminal::out(&describe(&status))?;
    }
    Ok(Exit::Succeeded)
}

/// The service, which must be running.
pub(super) async fn reach(config: &Config) -> anyhow::Result<Remote> {
    Remote::reach(config).await?.ok_or_else(|| {
        let state_dir = config.service.state_dir.display();
        Usage::new(
            format!("no service is running on state directory `{state_dir}`"),
            "systemctl start holdfast, or `holdfast serve` in a terminal; `holdfast history` shows what has run",
        )
        .into()
    })
}

fn describe(status: &Status) -> String {
    let stopping = if status.stopping { ", stopping" } else { "" };
    let head = format!("holdfast {}, running since {}{stopping}\n", status.version, text::time(status.started));
    let mut lines = vec![head];
    if !status.jobs.is_empty() {
        lines.push(jobs(&status.jobs).to_string());
    }
    lines.extend(status.running.iter().map(|run| format!("{}\n", doing(run))));
    lines.extend(status.waiting.iter().map(|run| format!("{}\n", doing(run))));
    lines.concat()
}

fn jobs(jobs: &[JobStatus]) -> Table {
    use Align::Left;
    let columns = ["JOB", "NOW", "LAST RUN", "OUTCOME", "NEXT RUN"];
    let mut table = Table::new(columns.map(|column| (column, Left)).to_vec());
    let dash = || "-".to_owned();
    for job in jobs {
        let now = match (job.running, job.waiting) {
            (Some(run), _) => format!("run {run}"),
            (None, Some(run)) => format!("run {run} waits"),
            (None, None) => dash(),
        };
        let last = job.last_run.as_ref();
        table.row(vec![
            job.job.clone(),
            now,
            last.map_or_else(dash, |run| text::time(run.started)),
            last.and_then(|run| run.outcome).map_or("-", Outcome::as_str).to_owned(),
            job.next_run.map_or_else(dash, text::time),
        ]);
        if let Some(watch) = &job.watch {
            table.below(&watching(watch));
        }
        if let Some(proof) = &job.proof {
            table.below(&proved(proof));
        }
        if let Some(error) = last.and_then(|run| run.error.as_ref()) {
            table.below(error);
        }
    }
    table
}

fn watching(watch: &WatchStatus) -> String {
    let how = match (watch.state, watch.directories) {
        (WatchState::SettingUp, _) => "watches are being set".to_owned(),
        (WatchState::Watching, Some(directories)) => format!("watching {} directories", text::count(directories)),
        (WatchState::Watching, None) => {
            watch.way.as_ref().map_or_else(|| "watching".to_owned(), |way| format!("watching by {way}"))
        }
        (WatchState::BySchedule, _) => "not watched".to_owned(),
    };
    let why = watch.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let scan = if watch.scan_needed { "; everything is to be looked at" } else { "" };
    let left_out = if watch.left_out.is_some() { "; something was left out, see the history" } else { "" };
    let pending = match watch.pending {
        0 => String::new(),
        pending => format!(
            "; {} ({}) pending, the first for {:.1} s",
            text::binaries(pending),
            text::bytes(watch.pending_bytes),
            watch.lag_s
        ),
    };
    format!("{how}{why}{scan}{left_out}{pending}")
}

fn proved(proof: &Proof) -> String {
    let examined = text::count(proof.examined);
    let found = match (proof.missed, proof.new) {
        (Some(missed), _) => format!("{} missed in {examined}", text::count(missed)),
        (None, 0) => format!("nothing new in {examined}"),
        (None, new) => format!("{} new in {examined}, not watched all the time", text::count(new)),
    };
    format!("last scan {}: {found}", text::time(proof.finished))
}

fn doing(run: &Run) -> String {
    let progress = &run.progress;
    let total = progress.total.map(|total| format!(" of {}", text::count(total))).unwrap_or_default();
    let far = if progress.unit.is_empty() {
        String::new()
    } else {
        format!(": {}{total} {}", text::count(progress.current), progress.unit)
    };
    format!("run {} ({}) {}{far}", run.id, run.job, progress.message)
}
