//! What may pass to each destination at this moment: what the configuration says, read by the clock.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::jobs::context::Clock;
use crate::model::bandwidth::Bandwidth;
use crate::store::limiter::{Limit, Limiter};

/// The limiters of all destinations, one each, which all runs of the process share.
#[derive(Debug)]
pub struct Lines {
    clock: Arc<dyn Clock>,
    lines: Mutex<BTreeMap<String, Line>>,
}

#[derive(Debug)]
struct Line {
    setting: Arc<Setting>,
    limiter: Arc<Limiter>,
}

/// The limit of a destination, as it is set at this moment.
#[derive(Debug)]
struct Setting {
    clock: Arc<dyn Clock>,
    bandwidth: RwLock<Bandwidth>,
}

impl Limit for Setting {
    fn now(&self) -> Option<NonZeroU64> {
        let bandwidth = self.bandwidth.read().unwrap_or_else(PoisonError::into_inner);
        // Most have none, and need not know the time.
        if bandwidth.rules.is_empty() { None } else { bandwidth.limit_at(self.clock.now()) }
    }
}

impl Lines {
    /// None yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, lines: Mutex::default() }
    }

    /// The limiter of a destination. The first time, it is set like this; after that only by [`set`](Self::set), as a run
    /// may be one of an older configuration.
    pub fn limiter(&self, destination: &str, bandwidth: &Bandwidth) -> Arc<Limiter> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry(destination.to_owned()).or_insert_with(|| self.line(bandwidth));
        Arc::clone(&line.limiter)
    }

    /// Changes what may pass, for runs under way too.
    pub fn set(&self, destination: &str, bandwidth: &Bandwidth) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry(destination.to_owned()).or_insert_with(|| self.line(bandwidth));
        *line.setting.bandwidth.write().unwrap_or_else(PoisonError::into_inner) = bandwidth.clone();
    }

    fn line(&self, bandwidth: &Bandwidth) -> Line {
        let bandwidth = RwLock::new(bandwidth.clone());
        let setting = Arc::new(Setting { clock: Arc::clone(&self.clock), bandwidth });
        let limiter = Arc::new(Limiter::new(Arc::clone(&setting) as Arc<dyn Limit>));
        Line { setting, limiter }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use jiff::Timestamp;
    use jiff::civil::Weekday;
    use jiff::tz::TimeZone;
    use tokio::time::Instant;

    use super::*;
    use crate::model::bandwidth::{Days, Rule, TimeOfDay};

    /// A clock that goes on with tokio's.
    #[derive(Debug)]
    struct PausedClock {
        begin: Timestamp,
        begun: Instant,
    }

    #[async_trait]
    impl Clock for PausedClock {
        fn now(&self) -> Timestamp {
            self.begin + self.begun.elapsed()
        }

        async fn sleep(&self, duration: Duration) {
            tokio::time::sleep(duration).await;
        }
    }

    fn lines(begin: &str) -> Lines {
        Lines::new(Arc::new(PausedClock { begin: begin.parse().unwrap(), begun: Instant::now() }))
    }

    fn bandwidth(rules: Vec<Rule>) -> Bandwidth {
        Bandwidth { rules, zone: TimeZone::get("Europe/Berlin").unwrap() }
    }

    const MIB: u64 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn when_its_time_has_come_another_limit_holds_for_whoever_waits() {
        // Monday, 17:59:00 in Berlin.
        let lines = lines("2026-11-23T16:59:00Z");
        let office = Rule {
            limit: NonZeroU64::new(MIB / 8),
            to: TimeOfDay::new(18, 0).unwrap(),
            days: Days::NONE.with(Weekday::Monday, Weekday::Friday),
            ..Rule::always(None)
        };
        let all = bandwidth(vec![office, Rule::always(NonZeroU64::new(10 * MIB))]);
        let limiter = lines.limiter("s3", &all);
        let begun = Instant::now();
        limiter.pay(80 * MIB).await;
        limiter.pay(1).await;
        // A minute at the one limit, and what is left at the other.
        assert!((66..=69).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_setting_holds_for_runs_under_way_and_an_old_one_does_not_come_back() {
        let lines = lines("2026-11-23T12:00:00Z");
        let slow = bandwidth(vec![Rule::always(NonZeroU64::new(MIB / 64))]);
        let limiter = lines.limiter("s3", &slow);
        limiter.pay(8 * MIB).await;
        let begun = Instant::now();
        tokio::join!(limiter.pay(1), async { lines.set("s3", &Bandwidth::default()) });
        assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
        let again = lines.limiter("s3", &slow);
        assert!(Arc::ptr_eq(&again, &limiter));
        again.pay(100 * MIB).await;
        again.pay(100 * MIB).await;
        assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}
