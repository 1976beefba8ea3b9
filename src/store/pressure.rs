//! How many requests a store is given at once.
//!
//! A store that has more to do than it bears says so; S3 answers 503 `SlowDown`. Then half as many requests as there were
//! may be under way at once, and each window of answers allows one more again, up to the ceiling. Requests that were sent
//! before a cut say nothing of what it brought, so they do not cut again. There is no clock in this: only answers count.
//!
//! A download is under way until its last byte has come. One that nobody reads keeps its place all the same, as otherwise
//! each pause between two pieces would let another in; only when all that is under way is read by nobody, and stays so,
//! may one more begin, because it may be what the readers wait for.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::store::{ErrorKind, StoreError};

/// The ceiling where nobody sets a lower one: no job has more requests under way at once.
pub const MOST_AT_ONCE: usize = 256;
/// How long nobody reads any of the downloads that keep another request from beginning: longer than the pauses of one
/// that is read.
const PATIENCE: Duration = Duration::from_secs(1);

/// What an answer says of the pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The store did what was asked, or had looked at it.
    Served,
    /// It asks for less.
    Busy,
    /// None came, or one that says nothing of this.
    Silent,
}

impl Answer {
    fn of(error: &StoreError) -> Self {
        match error.kind {
            ErrorKind::NotFound | ErrorKind::AlreadyExists => Self::Served,
            _ if error.busy => Self::Busy,
            _ => Self::Silent,
        }
    }
}

/// How many requests may be under way at once, and how many are: the decision, as a value.
#[derive(Debug)]
struct Window {
    ceiling: usize,
    limit: usize,
    under_way: usize,
    /// Goes up with each cut; a request belongs to the one it was sent in.
    generation: u64,
    /// The most requests that were under way at once in this generation.
    peak: usize,
    /// The same in all of them.
    busiest: usize,
    /// Answers since the limit was raised.
    served: usize,
    lowest: usize,
    refused: u64,
}

/// What is to become of the places that are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    more: usize,
    fewer: usize,
}

impl Window {
    fn new(ceiling: usize) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            ceiling,
            limit: ceiling,
            under_way: 0,
            generation: 0,
            peak: 0,
            busiest: 0,
            served: 0,
            lowest: ceiling,
            refused: 0,
        }
    }

    /// A request begins; its generation.
    fn enter(&mut self) -> u64 {
        self.under_way += 1;
        self.peak = self.peak.max(self.under_way);
        self.busiest = self.busiest.max(self.under_way);
        self.generation
    }

    /// A request of this generation has ended.
    fn leave(&mut self, generation: u64, answer: Answer) -> Places {
        self.under_way -= 1;
        let before = self.limit;
        let current = generation == self.generation;
        match answer {
            Answer::Busy => {
                self.refused += 1;
                if current {
                    // The limit may be far above what was under way, and then half of it would change nothing.
                    self.limit = (self.limit.min(self.peak) / 2).max(1);
                    self.lowest = self.lowest.min(self.limit);
                    (self.peak, self.served) = (0, 0);
                    self.generation += 1;
                }
            }
            Answer::Served if current && self.limit < self.ceiling => {
                self.served += 1;
                if self.served >= self.limit {
                    self.limit += 1;
                    self.served = 0;
                }
            }
            Answer::Served | Answer::Silent => {}
        }
        Places { more: 1 + self.limit.saturating_sub(before), fewer: before.saturating_sub(self.limit) }
    }
}

/// What came of a store that asked for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strain {
    /// How often it did.
    pub refused: u64,
    /// The most requests that were under way at once.
    pub busiest: usize,
    /// The fewest that were allowed.
    pub lowest: usize,
    /// How many may be now.
    pub limit: usize,
}

impl Strain {
    /// Whether fewer requests are allowed than there would be.
    pub fn is_felt(&self) -> bool {
        self.limit < self.busiest
    }
}

/// Lets requests begin as the window has room; whoever waits begins in turn.
pub struct Pressure {
    places: Semaphore,
    state: Mutex<State>,
    /// Downloads that nobody reads at this moment.
    resting: AtomicUsize,
    /// Goes up whenever one of them is read.
    read: AtomicU64,
}

#[derive(Debug)]
struct State {
    window: Window,
    /// Places that a cut took while they were occupied: those who leave do not give them back.
    owed: usize,
}

impl fmt::Debug for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pressure({:?})", self.state().window)
    }
}

impl Pressure {
    /// At most so many requests at once, and at least one.
    pub(super) fn up_to(ceiling: usize) -> Self {
        let window = Window::new(ceiling);
        Self {
            places: Semaphore::new(window.limit),
            state: Mutex::new(State { window, owed: 0 }),
            resting: AtomicUsize::new(0),
            read: AtomicU64::new(0),
        }
    }

    /// What came of it that the store asked for less; none if it never did.
    pub fn strain(&self) -> Option<Strain> {
        let Window { refused, busiest, lowest, limit, .. } = self.state().window;
        (refused > 0).then_some(Strain { refused, busiest, lowest, limit })
    }

    /// Waits until a request may begin. Who stops waiting is forgotten.
    pub(super) async fn enter(self: &Arc<Self>) -> Slot {
        // Nobody who waits is passed: what is free while somebody waits is given to him.
        if let Ok(place) = self.places.try_acquire() {
            place.forget();
            return self.slot(self.state().window.enter());
        }
        let mut turn = pin!(self.places.acquire());
        loop {
            let read = self.read.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                place = &mut turn => {
                    place.expect("nobody closes it").forget();
                    return self.slot(self.state().window.enter());
                }
                () = tokio::time::sleep(PATIENCE) => if let Some(slot) = self.pass_resting(read) {
                    return slot;
                },
            }
        }
    }

    /// A request begins, whatever the limit.
    pub(super) fn enter_at_once(self: &Arc<Self>) -> Slot {
        let mut state = self.state();
        state.owed += 1;
        self.slot(state.window.enter())
    }

    /// The same if everything under way is read by nobody, and was not since a count of `read`.
    fn pass_resting(self: &Arc<Self>, read: u64) -> Option<Slot> {
        let mut state = self.state();
        let resting = self.resting.load(Ordering::Relaxed);
        if resting < state.window.under_way || self.read.load(Ordering::Relaxed) != read {
            return None;
        }
        state.owed += 1;
        Some(self.slot(state.window.enter()))
    }

    fn slot(self: &Arc<Self>, generation: u64) -> Slot {
        Slot { pressure: Arc::clone(self), generation, answer: Answer::Silent, rests: false }
    }

    fn leave(&self, generation: u64, answer: Answer) {
        let mut state = self.state();
        let Places { more, fewer } = state.window.leave(generation, answer);
        if fewer > 0 {
            state.owed += fewer - self.places.forget_permits(fewer);
        }
        let kept = more.min(state.owed);
        state.owed -= kept;
        drop(state);
        self.places.add_permits(more - kept);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a request that is under way; one that is dropped had no answer.
#[derive(Debug)]
#[must_use]
pub(super) struct Slot {
    pressure: Arc<Pressure>,
    generation: u64,
    answer: Answer,
    /// Whether it is that of a download which nobody reads at this moment.
    rests: bool,
}

impl Slot {
    /// The request was answered like this.
    pub(super) fn end<T>(mut self, result: &Result<T, StoreError>) {
        self.answer = result.as_ref().map_or_else(Answer::of, |_| Answer::Served);
    }

    /// Nobody reads the download until it is read again.
    pub(super) fn rest(&mut self) {
        if !std::mem::replace(&mut self.rests, true) {
            self.pressure.resting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The download is read again.
    pub(super) fn read(&mut self) {
        if std::mem::take(&mut self.rests) {
            self.pressure.read.fetch_add(1, Ordering::Relaxed);
            self.pressure.resting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.read();
        self.pressure.leave(self.generation, self.answer);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use tokio::time::{Instant, timeout};

    use super::*;

    const SERVED: Result<(), StoreError> = Ok(());

    fn busy() -> Result<(), StoreError> {
        Err(StoreError { busy: true, ..StoreError::new(ErrorKind::Unavailable, "put", "slow down") })
    }

    fn limit(pressure: &Pressure) -> usize {
        pressure.state().window.limit
    }

    /// A window with so many requests under way, all of one generation.
    fn window(ceiling: usize, under_way: usize) -> Window {
        let mut window = Window::new(ceiling);
        (0..under_way).for_each(|_| assert_eq!(window.enter(), 0));
        window
    }

    #[test]
    fn a_refusal_halves_what_was_under_way_and_no_other_of_its_generation_halves_it_again() {
        let mut window = window(32, 32);
        assert_eq!(window.leave(0, Answer::Busy), Places { more: 1, fewer: 16 });
        for _ in 1..32 {
            assert_eq!(window.leave(0, Answer::Busy), Places { more: 1, fewer: 0 });
        }
        assert_eq!((window.limit, window.generation, window.refused), (16, 1, 32));
    }

    #[test]
    fn a_refusal_counts_from_what_was_under_way_and_not_from_a_limit_that_nobody_reached() {
        let mut window = window(256, 6);
        assert_eq!(window.leave(0, Answer::Busy), Places { more: 1, fewer: 253 });
        assert_eq!(window.limit, 3);
    }

    #[test]
    fn a_window_of_answers_allows_one_more_until_the_ceiling_is_reached() {
        let mut window = window(8, 8);
        window.leave(0, Answer::Busy);
        // What was sent before says nothing.
        (1..8).for_each(|_| assert_eq!(window.leave(0, Answer::Served).more, 1));
        for limit in 4..8 {
            for _ in 0..limit {
                assert_eq!(window.limit, limit);
                let generation = window.enter();
                window.leave(generation, Answer::Served);
            }
        }
        let generation = window.enter();
        assert_eq!(window.leave(generation, Answer::Served), Places { more: 1, fewer: 0 });
        assert_eq!((window.limit, window.lowest), (8, 4));
    }

    #[test]
    fn one_request_is_always_allowed() {
        let mut window = Window::new(0);
        for _ in 0..5 {
            let generation = window.enter();
            window.leave(generation, Answer::Busy);
            assert_eq!(window.limit, 1);
        }
    }

    #[test]
    fn only_a_refusal_for_being_busy_counts_as_one() {
        for (kind, busy, answer) in [
            (ErrorKind::NotFound, false, Answer::Served),
            (ErrorKind::AlreadyExists, false, Answer::Served),
            (ErrorKind::Unavailable, true, Answer::Busy),
            (ErrorKind::Unavailable, false, Answer::Silent),
            (ErrorKind::Denied, false, Answer::Silent),
            (ErrorKind::Corrupt, false, Answer::Silent),
        ] {
            assert_eq!(Answer::of(&StoreError { busy, ..StoreError::new(kind, "", "") }), answer, "{kind:?}");
        }
    }

    /// Fills the window up again and again and answers as a store does that bears `bears` at once; gives the limits.
    fn limits(ceiling: usize, bears: usize, answers: usize) -> Vec<usize> {
        let mut window = Window::new(ceiling);
        let mut under_way = VecDeque::new();
        let answered = |_| {
            while window.under_way < window.limit {
                under_way.push_back(window.enter());
            }
            let (generation, answer) = if under_way.len() > bears {
                (under_way.pop_back(), Answer::Busy)
            } else {
                (under_way.pop_front(), Answer::Served)
            };
            window.leave(generation.unwrap(), answer);
            window.limit
        };
        (0..answers).map(answered).collect()
    }

    proptest! {
        #[test]
        fn the_limit_settles_around_what_the_store_bears(ceiling in 1_usize..256, bears in 1_usize..256) {
            let limits = limits(ceiling, bears, 20_000);
            let settled = &limits[10_000..];
            prop_assert!(settled.iter().all(|limit| *limit <= (bears + 1).min(ceiling)));
            let average = settled.iter().sum::<usize>() / settled.len();
            prop_assert!(average >= bears.min(ceiling) * 2 / 3, "{average} of {bears} under {ceiling}");
        }

        #[test]
        fn whatever_is_answered_the_limit_stays_between_one_and_the_ceiling(
            ceiling in 0_usize..20,
            steps in proptest::collection::vec((any::<bool>(), 0_usize..20, 0_u8..3), 0..400),
        ) {
            let mut window = Window::new(ceiling);
            let mut free = window.limit.cast_signed();
            let mut under_way = Vec::new();
            for (enters, which, answer) in steps {
                if enters && free > 0 {
                    under_way.push(window.enter());
                    free -= 1;
                } else if !under_way.is_empty() {
                    let answer = [Answer::Served, Answer::Busy, Answer::Silent][usize::from(answer)];
                    let places = window.leave(under_way.swap_remove(which % under_way.len()), answer);
                    free += places.more.cast_signed() - places.fewer.cast_signed();
                }
                prop_assert!((1..=ceiling.max(1)).contains(&window.limit));
                prop_assert_eq!(window.under_way, under_way.len());
                prop_assert_eq!(free, window.limit.cast_signed() - under_way.len().cast_signed());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_begins_when_another_has_ended_and_in_turn() {
        let pressure = Arc::new(Pressure::up_to(1));
        let first = pressure.enter().await;
        let order = Mutex::new(Vec::new());
        let begin = async |name| {
            let slot = pressure.enter().await;
            order.lock().unwrap().push(name);
            slot.end(&SERVED);
        };
        tokio::join!(begin(1), begin(2), begin(3), async { first.end(&SERVED) });
        assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
        assert_eq!(pressure.strain(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_holds_for_those_who_wait_and_those_under_way_are_not_disturbed() {
        let pressure = Arc::new(Pressure::up_to(4));
        let mut under_way = Vec::new();
        for _ in 0..4 {
            under_way.push(pressure.enter().await);
        }
        under_way.pop().unwrap().end(&busy());
        assert_eq!(limit(&pressure), 2);
        // Three are under way, of two.
        under_way.pop().unwrap().end(&SERVED);
        assert!(timeout(PATIENCE * 5, pressure.enter()).await.is_err());
        drop(under_way.pop());
        let slot = pressure.enter().await;
        assert!(timeout(PATIENCE * 5, pressure.enter()).await.is_err());
        slot.end(&SERVED);
        let strain = Strain { refused: 1, busiest: 4, lowest: 2, limit: 2 };
        assert_eq!(pressure.strain(), Some(strain));
        assert!(strain.is_felt() && !Strain { busiest: 2, ..strain }.is_felt());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_takes_no_place_with_him() {
        let pressure = Arc::new(Pressure::up_to(1));
        let slot = pressure.enter().await;
        assert!(timeout(Duration::from_millis(1), pressure.enter()).await.is_err());
        slot.end(&SERVED);
        timeout(Duration::from_millis(1), pressure.enter()).await.unwrap().end(&SERVED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_download_that_nobody_reads_does_not_hold_up_others_for_good() {
        let pressure = Arc::new(Pressure::up_to(1));
        let mut download = pressure.enter().await;
        assert!(timeout(PATIENCE * 5, pressure.enter()).await.is_err(), "it is being read");
        download.rest();
        let begun = Instant::now();
        let second = pressure.enter().await;
        assert_eq!(begun.elapsed(), PATIENCE);
        assert!(timeout(PATIENCE * 5, pressure.enter()).await.is_err(), "the second is not resting");
        second.end(&SERVED);
        download.read();
        assert!(timeout(PATIENCE * 5, pressure.enter()).await.is_err());
        download.end(&SERVED);
        let slot = pressure.enter().await;
        assert!(timeout(PATIENCE * 5, pressure.enter()).await.is_err(), "there is one place as before");
        drop(slot);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pauses_of_a_download_that_is_read_let_nobody_in() {
        let pressure = Arc::new(Pressure::up_to(1));
        let mut download = pressure.enter().await;
        let reading = async {
            for _ in 0..100 {
                download.rest();
                tokio::time::sleep(PATIENCE / 3).await;
                download.read();
            }
        };
        tokio::select! {
            () = reading => {}
            _slot = pressure.enter() => panic!("it was let in"),
        }
    }
}
