//! `holdfast run`: one job now.

use std::sync::Arc;

use crate::cli::exit::{Exit, Usage};
use crate::cli::foreground::{self, Output};
use crate::cli::remote::{Asked, Remote};
use crate::cli::session::Session;
use crate::config::{Config, Job};
use crate::model::run::Kind;
use crate::service::request::JobOptions;
use crate::service::site::{Scope, Work};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The job, such as copy.binaries
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    how: How,
    /// Print the run as JSON
    #[arg(long)]
    json: bool,
}

/// How it is run this time.
#[derive(Debug, clap::Args)]
struct How {
    /// List the destination first and repair what is known of it (copies only)
    #[arg(long)]
    full: bool,
    /// Look at everything, also where the service has seen what is new (copies only)
    #[arg(long)]
    scan: bool,
    /// Accept that the repository holds no binaries any more, instead of taking that for a volume that is not mounted
    #[arg(long)]
    allow_empty: bool,
}

pub(super) async fn run(config: Arc<Config>, arguments: &Arguments) -> anyhow::Result<Exit> {
    let job = config.job(&arguments.job)?;
    let kind = match job {
        Job::Copy(_) => Kind::Copy,
        Job::Backup(_) => Kind::Backup,
    };
    let of_copies = [("--full", arguments.how.full), ("--scan", arguments.how.scan)];
    if let Some((option, _)) = of_copies.into_iter().find(|(_, given)| *given && kind != Kind::Copy) {
        let hint = "leave it out: a backup is always full";
        return Err(Usage::new(format!("`{option}` does not go with {job}"), hint).into());
    }
    let (name, output) = (job.to_string(), Output::of(arguments.json));
    let options =
        JobOptions { full: arguments.how.full, scan: arguments.how.scan, allow_empty: arguments.how.allow_empty };
    if let Some(remote) = Remote::reach(&config).await? {
        return remote.follow(Asked::Job { name, options }, output).await;
    }
    let session = Session::open(&config, &format!("run {job}"))?;
    let work = Work::Job { name: name.clone(), options, scope: Scope::Everything };
    foreground::run(&session, &name, kind, output, &work).await
}
