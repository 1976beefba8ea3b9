//! Waiting for a database, which may take its time but not for ever.

use std::pin::pin;
use std::time::Duration;

use anyhow::bail;

use crate::repository::documents::Stopped;

/// How often a wait looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a database does within this time, with its error put in words; an error too when it should stop.
pub(in crate::repository::documents) async fn within<T, E>(
    limit: Duration,
    stop: &dyn Fn() -> bool,
    explain: fn(E) -> anyhow::Error,
    future: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    let mut future = pin!(future);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut late = pin!(tokio::time::sleep(limit));
    loop {
        tokio::select! {
            biased;
            done = &mut future => return done.map_err(explain),
            () = &mut late => bail!("there was no answer within {} seconds", limit.as_secs()),
            _ = ticks.tick() => if stop() { return Err(Stopped.into()) },
        }
    }
}
