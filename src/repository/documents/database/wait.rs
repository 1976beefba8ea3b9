//! Waiting for a database, which may take its time but not for ever.

use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;
use tokio::runtime::Builder;

use crate::repository::documents::Stopped;

/// How often a wait looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often connections are looked at until one that is still there counts.
const LOOKS: usize = 20;

/// The connections that stay: a server still lists one for a moment that has ended, and so one that we had just before.
/// Blocks.
pub(in crate::repository::documents) fn lasting<T>(
    mut look: impl FnMut() -> anyhow::Result<Vec<T>>,
) -> anyhow::Result<Vec<T>> {
    let mut seen = look()?;
    if seen.is_empty() {
        return Ok(seen);
    }
    let runtime = Builder::new_current_thread().enable_time().build().context("wait for connections to end")?;
    for _ in 1..LOOKS {
        if seen.is_empty() {
            break;
        }
        runtime.block_on(async { tokio::time::sleep(LOOK_EVERY).await });
        seen = look()?;
    }
    Ok(seen)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_ends_meanwhile_does_not_count() {
        let mut answers = vec![vec![], vec!["fedora"], vec!["fedora", "ours"]];
        assert_eq!(lasting(|| Ok(answers.pop().unwrap())).unwrap(), Vec::<&str>::new());
        let mut looks = 0;
        let stays = lasting(|| {
            looks += 1;
            Ok(vec![looks])
        });
        assert_eq!(stays.unwrap(), [LOOKS]);
    }
}
