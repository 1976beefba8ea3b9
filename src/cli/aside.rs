//! What a command works with that only looks, and so may do so beside a run or the service: a ledger of its own that
//! goes with it, in place of the one in the state directory.

use std::sync::Arc;

use anyhow::Context as _;

use crate::cli::locate::{Located, locate};
use crate::cli::site::Reach;
use crate::config::Config;
use crate::jobs::catalogue::RestorableName;
use crate::jobs::context::{Report, RunContext};
use crate::jobs::inspect::Inspected;
use crate::jobs::restore::contents::Contents;
use crate::ledger::{Ledger, StateLock};
use crate::service::bandwidth::Lines;
use crate::service::clock::SystemClock;
use crate::service::runner::Runner;
use crate::service::signals::Signals;

/// A place to work in while this lives.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) run: RunContext,
    pub(super) report: Arc<Report>,
    lines: Lines,
    // In this order: the ledger is closed under its lock, and its directory goes last.
    _lock: StateLock,
    _directory: tempfile::TempDir,
    _signals: Signals,
}

impl Aside {
    pub(super) fn open(purpose: &str) -> anyhow::Result<Self> {
        let signals = Signals::listen()?;
        let directory = tempfile::Builder::new()
            .prefix("holdfast-")
            .tempdir()
            .context("make a temporary directory (set TMPDIR to a place with room)")?;
        let lock = StateLock::take(directory.path(), purpose)?;
        let (ledger, _) = Ledger::open(&lock)?;
        let runner = Runner { ledger: Arc::new(ledger), clock: Arc::new(SystemClock) };
        let lines = Lines::new(Arc::clone(&runner.clock));
        let report = Arc::new(Report::default());
        let run = runner.unrecorded(signals.stop(), Arc::clone(&report));
        Ok(Self { run, report, lines, _lock: lock, _directory: directory, _signals: signals })
    }

    /// A backup by its name, wherever it lies.
    pub(super) async fn inspect(
        &self,
        config: &Config,
        name: &RestorableName,
        destination: Option<&str>,
    ) -> anyhow::Result<Inspected> {
        let Located { destination, .. } =
            locate(Reach { config, lines: &self.lines }, &self.run, name, destination).await?;
        let contents = Contents::open(&self.run, &destination, name).await?;
        Ok(Inspected { contents, destination })
    }
}
