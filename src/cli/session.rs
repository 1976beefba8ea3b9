//! What a command that runs something works with, opened in order: lock, ledger, runner, signals.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::cli::destination::{self, Purpose};
use crate::cli::exit::Usage;
use crate::cli::terminal;
use crate::config::{self, Config};
use crate::jobs::context::{Clock as _, Destination, Report, RunContext};
use crate::jobs::source::RepositorySource;
use crate::ledger::{self, Ledger, SetAside, StateLock};
use crate::repository::binaries::BinaryStore;
use crate::service::clock::SystemClock;
use crate::service::runner::Runner;
use crate::service::signals::Signals;

/// The state directory is ours while this lives.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) config: &'a Config,
    pub(super) runner: Runner,
    signals: Signals,
    // The last to go: the ledger is closed under it.
    _lock: StateLock,
}

impl<'a> Session<'a> {
    /// `purpose` is what a second process is told that finds us at work.
    pub(super) fn open(config: &'a Config, purpose: &str) -> anyhow::Result<Self> {
        let signals = Signals::listen()?;
        let lock = StateLock::take(&config.service.state_dir, purpose)?;
        let (ledger, set_aside) = Ledger::open(&lock)?;
        if let Some(set_aside) = set_aside {
            terminal::warn(lost_ledger(&set_aside));
        }
        let clock = SystemClock;
        ledger.interrupt_open_runs(clock.now())?;
        let runner = Runner { ledger: Arc::new(ledger), clock: Arc::new(clock) };
        Ok(Self { config, runner, signals, _lock: lock })
    }

    /// Fires when the program should end.
    pub(super) fn stop(&self) -> CancellationToken {
        self.signals.stop()
    }

    /// The ledger.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.runner.ledger
    }

    /// What work is given that is no run.
    pub(super) fn unrecorded(&self, report: &Arc<Report>) -> RunContext {
        self.runner.unrecorded(self.stop(), Arc::clone(report))
    }

    /// Opens a destination to write to it, or only to read from it.
    pub(super) async fn destination(
        &self,
        name: &str,
        purpose: Purpose,
        run: &RunContext,
    ) -> anyhow::Result<Destination> {
        run.go_on()?;
        run.report.phase(format!("opening destination {name}"), "", None);
        let destination = destination(self.config, name)?;
        // The futures of the SDK are large, and this one would be a part of every run's.
        let opening = Box::pin(destination::open(destination, purpose, self.ledger(), &run.report, &run.stop));
        let opened = opening.await;
        match opened {
            // A request that was given up because we stop is no failure of the destination.
            Err(_) if run.stop.is_cancelled() => Err(run.go_on().expect_err("the run should stop")),
            opened => opened,
        }
    }
}

/// What became of a damaged ledger, and what that means.
pub(super) fn lost_ledger(set_aside: &SetAside) -> String {
    format!(
        "the ledger was damaged ({}) and is set aside as `{}`: the history before it is lost; the next copy lists \
         its destination first, which takes longer, and sends nothing twice",
        set_aside.cause,
        set_aside.to.display()
    )
}

/// The ledger beside whoever writes it; none if there is none yet.
pub(super) fn ledger_to_read(config: &Config) -> anyhow::Result<Option<Ledger>> {
    let directory = &config.service.state_dir;
    // A directory that we may not look into would seem to have no ledger.
    directory.join(ledger::FILE).try_exists().with_context(|| {
        format!("look into state directory `{}` (run holdfast as the service's user)", directory.display())
    })?;
    Ledger::open_to_read(directory)
}

/// A destination of the configuration.
pub(super) fn destination<'a>(config: &'a Config, name: &str) -> Result<&'a config::Destination, Usage> {
    config.destinations.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.destinations.keys().map(String::as_str).collect();
        Usage::new(format!("there is no destination `{name}`"), format!("the destinations are {}", known.join(", ")))
    })
}

/// A repository of the configuration.
pub(super) fn repository<'a>(config: &'a Config, name: &str) -> Result<&'a config::Repository, Usage> {
    config.repositories.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.repositories.keys().map(String::as_str).collect();
        Usage::new(format!("there is no repository `{name}`"), format!("the repositories are {}", known.join(", ")))
    })
}

/// What a job reads.
pub(super) fn source(repository: &config::Repository) -> RepositorySource {
    RepositorySource {
        name: repository.name.clone(),
        binaries: BinaryStore::at(&repository.binaries, &repository.layout),
        documents: documents(repository).map(Path::to_owned),
    }
}

/// The directory of the documents, if there is one.
pub(super) fn documents(repository: &config::Repository) -> Option<&Path> {
    repository.documents.as_ref().map(|config::DocumentSource::Directory(path)| path.as_path())
}
