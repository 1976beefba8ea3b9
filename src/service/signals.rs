//! SIGINT and SIGTERM: the first stops runs at their next safe point, the second ends the process at once. SIGHUP asks for the
//! configuration to be read again.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The status of a process that was told twice to end; 128 + SIGINT.
const AT_ONCE: i32 = 130;

/// Listens for signals for as long as it is kept.
#[derive(Debug)]
pub struct Signals {
    stop: CancellationToken,
    _listener: JoinSet<()>,
}

impl Signals {
    /// Begins to listen.
    pub fn listen() -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut listener = JoinSet::new();
        let token = stop.clone();
        listener.spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if token.is_cancelled() {
                    std::process::exit(AT_ONCE);
                }
                token.cancel();
            }
        });
        Ok(Self { stop, _listener: listener })
    }

    /// Fires at the first signal.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }
}

/// SIGHUP, which asks a service to read its configuration again.
pub fn hangups() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("listen for SIGHUP")
}
