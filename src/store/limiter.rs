//! How many bytes go to and come from a destination in a second.
//!
//! A token bucket that may be overdrawn: a body goes as soon as all that went before is paid for, and is paid for by
//! whoever comes next. So a body of any size goes at any limit, and over any time no more passes than the limit, a
//! second's worth that was saved up, and one body. The limit may change at any moment; whoever waits looks again.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// How long somebody waits before he looks again whether the limit is still the same.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How much is saved up while nothing passes: what passes in this time.
const SAVED: Duration = Duration::from_secs(1);
/// Bytes are counted in billionths, as time is.
const BILLION: i128 = 1_000_000_000;

/// Knows the limit.
pub trait Limit: fmt::Debug + Send + Sync {
    /// The bytes that may pass in a second, at this moment; none for any number.
    fn now(&self) -> Option<NonZeroU64>;
}

/// Lets bytes pass, no more of them than the limit says, for all who share it.
#[derive(Debug)]
pub struct Limiter {
    limit: Arc<dyn Limit>,
    // Also the queue: it is held by the one who waits for it to fill.
    bucket: Mutex<Bucket>,
}

impl Limiter {
    /// By this limit.
    pub fn new(limit: Arc<dyn Limit>) -> Self {
        Self { limit, bucket: Mutex::new(Bucket { credit: 0, at: Instant::now() }) }
    }

    /// Waits until all that went before is paid for, and takes note of so many bytes. Who stops waiting pays nothing.
    pub async fn pay(&self, bytes: u64) {
        if self.limit.now().is_none() {
            return;
        }
        let mut bucket = self.bucket.lock().await;
        while let Some(limit) = self.limit.now() {
            bucket.fill(limit);
            if bucket.credit >= 0 {
                bucket.credit -= i128::from(bytes) * BILLION;
                return;
            }
            sleep(bucket.until_paid(limit).min(LOOK_EVERY)).await;
        }
    }
}

#[derive(Debug)]
struct Bucket {
    /// In billionths of a byte; below nothing for what is not paid for.
    credit: i128,
    /// When it was filled last.
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, limit: NonZeroU64) {
        let now = Instant::now();
        let earned = |time: Duration| {
            i128::try_from(time.as_nanos()).map_or(i128::MAX, |nanos| per_second(limit).saturating_mul(nanos))
        };
        self.credit = self.credit.saturating_add(earned(now.duration_since(self.at))).min(earned(SAVED));
        self.at = now;
    }

    fn until_paid(&self, limit: NonZeroU64) -> Duration {
        let nanos = (-self.credit).max(0) / per_second(limit) + 1;
        u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
    }
}

/// Bytes a second are billionths of a byte a billionth of a second.
fn per_second(limit: NonZeroU64) -> i128 {
    i128::from(limit.get())
}

/// The way of one run to a limiter that it shares with others: each run has one who waits there, so that they take
/// turns, however many requests each has.
#[derive(Debug)]
pub(super) struct Lane {
    limiter: Arc<Limiter>,
    queue: Mutex<()>,
}

impl Lane {
    pub(super) fn to(limiter: Arc<Limiter>) -> Self {
        Self { limiter, queue: Mutex::new(()) }
    }

    pub(super) async fn pay(&self, bytes: u64) {
        if bytes == 0 || self.limiter.limit.now().is_none() {
            return;
        }
        let _turn = self.queue.lock().await;
        self.limiter.pay(bytes).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    /// A limit that a test sets; 0 is none.
    #[derive(Debug, Default)]
    struct Set(AtomicU64);

    impl Set {
        fn to(&self, bytes: u64) {
            self.0.store(bytes, Ordering::Relaxed);
        }
    }

    impl Limit for Set {
        fn now(&self) -> Option<NonZeroU64> {
            NonZeroU64::new(self.0.load(Ordering::Relaxed))
        }
    }

    fn limiter(bytes: u64) -> (Arc<Set>, Arc<Limiter>) {
        let set = Arc::new(Set::default());
        set.to(bytes);
        (Arc::clone(&set), Arc::new(Limiter::new(set)))
    }

    #[tokio::test(start_paused = true)]
    async fn over_any_time_no_more_passes_than_the_limit_what_was_saved_up_and_one_body() {
        let (_, limiter) = limiter(MIB);
        let passed = Arc::new(StdMutex::new(Vec::new()));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for sender in 0..8 {
            let (limiter, passed) = (Arc::clone(&limiter), Arc::clone(&passed));
            tasks.spawn(async move {
                let mut random = fastrand::Rng::with_seed(sender);
                for _ in 0..100 {
                    let bytes = random.u64(1..200 * KIB);
                    limiter.pay(bytes).await;
                    passed.lock().unwrap().push((begun.elapsed(), bytes));
                    if random.u8(..) < 20 {
                        sleep(Duration::from_millis(random.u64(..2000))).await;
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        let passed = passed.lock().unwrap();
        for (first, (from, _)) in passed.iter().enumerate() {
            let mut sum = 0;
            for (until, bytes) in &passed[first..] {
                sum += bytes;
                let paid = u128::from(MIB) * (until.saturating_sub(*from) + SAVED).as_nanos() / 1_000_000_000;
                assert!(u128::from(sum) <= paid + u128::from(200 * KIB), "{sum} bytes from {from:?} to {until:?}");
            }
        }
        let all: u64 = passed.iter().map(|(_, bytes)| bytes).sum();
        let took = passed.last().unwrap().0.as_millis();
        assert!(u128::from(all) * 1000 / took > u128::from(MIB) * 9 / 10, "{all} bytes in {took} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_larger_than_the_limit_goes_at_once_and_the_next_waits_for_it() {
        let (_, limiter) = limiter(64 * KIB);
        let begun = Instant::now();
        limiter.pay(8 * MIB).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        limiter.pay(1).await;
        assert!((128..130).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_limit_holds_for_whoever_waits() {
        for (changed, seconds) in [(10 * MIB, 2), (0, 2), (2 * MIB, 5)] {
            let (set, limiter) = limiter(100 * KIB);
            limiter.pay(8 * MIB).await;
            let begun = Instant::now();
            let change = async {
                sleep(Duration::from_secs(1)).await;
                set.to(changed);
            };
            tokio::join!(limiter.pay(1), change);
            assert!(begun.elapsed() <= Duration::from_secs(seconds), "{:?} at {changed}", begun.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_pays_nothing_and_is_not_waited_for() {
        let (_, limiter) = limiter(MIB);
        limiter.pay(2 * MIB).await;
        assert!(timeout(Duration::from_secs(1), limiter.pay(1 << 40)).await.is_err());
        let begun = Instant::now();
        limiter.pay(1).await;
        assert!(begun.elapsed() <= Duration::from_millis(1001), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn runs_take_turns_however_many_requests_each_has() {
        let (_, limiter) = limiter(MIB);
        let order = Arc::new(StdMutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for (run, requests) in [("many", 30), ("few", 5)] {
            let lane = Arc::new(Lane::to(Arc::clone(&limiter)));
            for _ in 0..requests {
                let (lane, order) = (Arc::clone(&lane), Arc::clone(&order));
                tasks.spawn(async move {
                    lane.pay(MIB).await;
                    order.lock().unwrap().push(run);
                });
            }
        }
        while tasks.join_next().await.is_some() {}
        let order = order.lock().unwrap();
        let few = order[..12].iter().filter(|run| **run == "few").count();
        assert!(few >= 4, "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let (_, limiter) = limiter(0);
        let lane = Lane::to(limiter);
        let begun = Instant::now();
        for _ in 0..1000 {
            lane.pay(1 << 40).await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
