//! What wakes the scheduler when a start is near.

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

use crate::service::journal::{Level, say};

/// Wakes whoever waits for it, at about the right moment or not at all.
#[async_trait]
pub trait Alarm: Send + Sync {
    /// Waits until `at`; who has stopped waiting is not woken.
    async fn ring(&self, at: Timestamp);
}

/// The alarm that `tokio-cron-scheduler` rings.
#[derive(Clone, Copy, Debug, Default)]
pub struct CronAlarm;

#[async_trait]
impl Alarm for CronAlarm {
    async fn ring(&self, at: Timestamp) {
        let given_up = CancellationToken::new();
        let _give_up = given_up.clone().drop_guard();
        let rung = tokio::task::spawn_blocking(move || ring_once(at, &given_up)).await;
        let failed = match rung {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) => error.to_string(),
        };
        say(Level::Warning, format_args!("set an alarm for {at}: {failed}"));
        // Whoever waits has a timer beside.
        std::future::pending::<()>().await;
    }
}

/// Runs the crate in a runtime of its own until it rings or is given up: none of its tasks ends by itself, all of them
/// end with the runtime.
fn ring_once(at: Timestamp, given_up: &CancellationToken) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let rung = CancellationToken::new();
        let scheduler = JobScheduler::new().await?;
        let ring = rung.clone();
        scheduler.add(Job::new(expression(at), move |_, _| ring.cancel())?).await?;
        scheduler.start().await?;
        tokio::select! {
            () = rung.cancelled() => {}
            () = given_up.cancelled() => {}
        }
        Ok(())
    })
}

/// The cron expression of one second of one day, in UTC, where no clock is ever changed.
fn expression(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%-S %-M %-H %-d %-m *").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::jobs::context::Clock as _;
    use crate::service::clock::SystemClock;

    #[test]
    fn a_moment_is_one_second_of_one_day_in_utc() {
        assert_eq!(expression("2026-03-29T03:00:05+02:00".parse().unwrap()), "5 0 1 29 3 *");
    }

    #[tokio::test]
    async fn the_alarm_rings_at_about_the_right_moment() {
        let begun = SystemClock.now();
        let at = Timestamp::from_second(begun.as_second() + 2).unwrap();
        tokio::time::timeout(Duration::from_secs(10), CronAlarm.ring(at)).await.unwrap();
        let now = SystemClock.now();
        assert!(at <= now, "{now} is before {at}");
    }

    #[tokio::test]
    async fn an_alarm_that_nobody_waits_for_leaves_nothing_behind() {
        let at = SystemClock.now() + Duration::from_hours(24);
        let waited = tokio::time::timeout(Duration::from_millis(50), CronAlarm.ring(at)).await;
        assert!(waited.is_err());
        // The end of the runtime waits for its blocking threads: were the alarm still running, this test would not end.
    }
}
