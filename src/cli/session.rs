//! What a command that runs something works with, opened in order: lock, ledger, runner, signals.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::cli::site::ConfiguredSite;
use crate::cli::terminal;
use crate::config::Config;
use crate::jobs::context::{Clock as _, Report, RunContext};
use crate::ledger::{self, Ledger, SetAside, StateLock};
use crate::service::clock::SystemClock;
use crate::service::runner::Runner;
use crate::service::signals::Signals;

/// The state directory is ours while this lives.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) site: ConfiguredSite,
    pub(super) runner: Runner,
    signals: Signals,
    // The last to go: the ledger is closed under it.
    _lock: StateLock,
}

impl Session {
    /// For a command; `purpose` is what a second process is told that finds us at work.
    pub(super) fn open(config: &Arc<Config>, purpose: &str) -> anyhow::Result<Self> {
        Self::open_warning(config, purpose, terminal::warn)
    }

    /// The same, and `warn` is told what happened to the ledger.
    pub(super) fn open_warning(config: &Arc<Config>, purpose: &str, warn: impl FnOnce(String)) -> anyhow::Result<Self> {
        let signals = Signals::listen()?;
        let lock = StateLock::take(&config.service.state_dir, purpose)?;
        let (ledger, set_aside) = Ledger::open(&lock)?;
        if let Some(set_aside) = set_aside {
            warn(lost_ledger(&set_aside));
        }
        let clock = SystemClock;
        ledger.interrupt_open_runs(clock.now())?;
        let runner = Runner { ledger: Arc::new(ledger), clock: Arc::new(clock) };
        Ok(Self { site: ConfiguredSite::new(Arc::clone(config)), runner, signals, _lock: lock })
    }

    /// Fires when the program should end.
    pub(super) fn stop(&self) -> CancellationToken {
        self.signals.stop()
    }

    /// What work is given that is no run.
    pub(super) fn unrecorded(&self, report: &Arc<Report>) -> RunContext {
        self.runner.unrecorded(self.stop(), Arc::clone(report))
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
