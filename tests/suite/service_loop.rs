//! The loop of a service for one test, on a state directory that outlives it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast::jobs::context::Clock;
use holdfast::ledger::{Ledger, StateLock};
use holdfast::service::Manager;
use holdfast::service::daemon::Daemon;
use holdfast::service::runner::Runner;
use holdfast::service::site::Site;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::lab::take_again;

/// How often the loop goes round at least: no test waits for that.
const BEAT: Duration = Duration::from_mins(1);

/// Nobody manages the service.
#[derive(Debug)]
pub(crate) struct NoManager;

impl Manager for NoManager {
    fn beat(&self) {}
    fn status(&self, _words: &str) {}
}

/// A service that runs; dropped, it is gone from one moment to the next.
pub(crate) struct Running {
    pub(crate) daemon: Daemon,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) lock: StateLock,
}

impl Running {
    /// Opens the state directory and begins to go round, as `holdfast serve` does.
    pub(crate) fn start(state: &Path, site: Arc<dyn Site>, clock: Arc<dyn Clock>) -> Self {
        let lock = take_again(state, "test");
        let (ledger, _) = Ledger::open(&lock).unwrap();
        ledger.interrupt_open_runs(clock.now()).unwrap();
        let runner = Runner { ledger: Arc::new(ledger), clock };
        let stop = CancellationToken::new();
        let (daemon, engine) = Daemon::new(runner, site, stop.clone()).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { engine.run(&NoManager, BEAT).await });
        Self { daemon, stop, tasks, lock }
    }

    /// As `kill -9` does: nothing more happens, and nothing is recorded.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }

    /// Ends all of it, and waits for it.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}
