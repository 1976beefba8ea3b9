//! `holdfast run`: one job now.

use crate::cli::destination::Purpose;
use crate::cli::exit::{Exit, Usage};
use crate::cli::foreground::{self, Output};
use crate::cli::session::{self, Session};
use crate::config::{BackupJob, Config, CopyJob, Job};
use crate::jobs::backup::{BackupOrder, backup};
use crate::jobs::context::{Ended, RunContext};
use crate::jobs::copy::{CopyOrder, copy};
use crate::model::run::Kind;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The job, such as copy.binaries
    #[arg(value_name = "JOB")]
    job: String,
    /// List the destination first and repair what is known of it (copies only)
    #[arg(long)]
    full: bool,
    /// Print the run as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    let job = config.job(&arguments.job)?;
    let kind = match job {
        Job::Copy(_) => Kind::Copy,
        Job::Backup(_) => Kind::Backup,
    };
    if arguments.full && kind != Kind::Copy {
        return Err(
            Usage::new(format!("`--full` does not go with {job}"), "leave it out: a backup is always full").into()
        );
    }
    let session = Session::open(config, &format!("run {job}"))?;
    let (name, output) = (job.to_string(), Output::of(arguments.json));
    foreground::run(&session, &name, kind, output, async |run| match job {
        Job::Copy(job) => run_copy(&session, run, job, arguments.full).await,
        Job::Backup(job) => run_backup(&session, run, job, &name).await,
    })
    .await
}

/// Copies as the job says.
pub(super) async fn run_copy(
    session: &Session<'_>,
    run: &RunContext,
    job: &CopyJob,
    full: bool,
) -> anyhow::Result<Ended> {
    let order = CopyOrder {
        source: session::source(session::repository(session.config, &job.repository)?),
        destination: session.destination(&job.destination, Purpose::Write, run).await?,
        parallel: job.parallel,
        settle: job.settle,
        full,
    };
    Box::pin(copy(run, &order)).await
}

/// Backs up as the job says.
pub(super) async fn run_backup(
    session: &Session<'_>,
    run: &RunContext,
    job: &BackupJob,
    name: &str,
) -> anyhow::Result<Ended> {
    let order = BackupOrder {
        job: name.to_owned(),
        source: session::source(session::repository(session.config, &job.repository)?),
        destination: session.destination(&job.destination, Purpose::Write, run).await?,
        volume_bytes: job.volume_bytes,
        settle: job.settle,
    };
    Box::pin(backup(run, &order)).await
}
