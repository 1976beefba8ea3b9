//! What is held, and waited for, at most. Whoever is on the other side may be broken, slow, or mean.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::Answer;

/// Connections to one listener; for one more, the one that has been idle for longest goes. Far below the 1,024 files
/// that a process may open where nobody raised that.
const CONNECTIONS: usize = 256;
/// How long the head of a request may take, and a connection wait for its next one.
pub(super) const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
pub(super) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long a body may take.
pub(super) const BODY_WITHIN: Duration = Duration::from_secs(10);
/// How long whoever reads an answer may pause.
const WRITE_WITHIN: Duration = Duration::from_secs(20);
/// How long a call may take that is not known to take as long as it takes.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// How long connections get to end when the service does.
pub(super) const END_WITHIN: Duration = Duration::from_secs(2);
/// The length of a body: a restore of some hundred single binaries.
pub(super) const BODY: usize = 64 << 10;
/// The length of a path and what follows it.
pub(super) const URI: usize = 4 << 10;
/// The length of a head; hyper ends a connection that sends more.
pub(super) const HEAD: usize = 16 << 10;
/// The number of headers.
pub(super) const HEADERS: usize = 64;
/// Runs in one answer.
pub(super) const RUNS: u32 = 1000;

/// What is held at most by one listener, as far as that is not the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// How long whoever reads an answer may pause.
    pub write_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: CONNECTIONS, write_within: WRITE_WITHIN }
    }
}

/// How long a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// It reads the ledger, or leaves a note for the loop.
    Quick,
    /// It computes a password's hash.
    Login,
    /// It asks the destinations.
    Slow,
    /// It reads a whole repository, for as long as that takes.
    Long,
    /// It waits for a run to end, however long that takes.
    Run,
}

/// How many calls there are at once, by their pace. Each may hold a thread, of which the runs need some as well, and a
/// slow one takes no place from a quick one.
#[derive(Debug)]
pub(super) struct Places {
    quick: Queue,
    login: Queue,
    slow: Queue,
    long: Queue,
    run: Queue,
}

/// Places, and those who wait for one. All of them together are fewer than there are connections, so that among these
/// there is always an idle one to make room.
#[derive(Debug)]
struct Queue {
    places: Semaphore,
    waiting: Semaphore,
    patience: Duration,
}

impl Queue {
    fn new(places: usize, waiting: usize, patience: Duration) -> Self {
        Self { places: Semaphore::new(places), waiting: Semaphore::new(waiting), patience }
    }

    async fn take(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.places.try_acquire() {
            return Some(place);
        }
        let _waiting = self.waiting.try_acquire().ok()?;
        tokio::time::timeout(self.patience, self.places.acquire()).await.ok()?.ok()
    }
}

impl Default for Places {
    fn default() -> Self {
        Self {
            quick: Queue::new(16, 64, Duration::from_secs(2)),
            login: Queue::new(4, 16, Duration::from_secs(5)),
            slow: Queue::new(4, 16, Duration::from_secs(5)),
            long: Queue::new(2, 0, Duration::ZERO),
            run: Queue::new(4, 0, Duration::ZERO),
        }
    }
}

impl Places {
    /// A place for one call, waited for in turn; an answer if there is none to be had soon.
    pub(super) async fn take(&self, pace: Pace) -> Result<SemaphorePermit<'_>, Answer> {
        let queue = match pace {
            Pace::Quick => &self.quick,
            Pace::Login => &self.login,
            Pace::Slow => &self.slow,
            Pace::Long => &self.long,
            Pace::Run => &self.run,
        };
        queue.take().await.ok_or_else(|| Answer::later("too much is asked for at once: ask again in a moment"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_answered_or_waits_for_it_leaves_room_for_idle_connections() {
        let places = Places::default();
        let all = [&places.quick, &places.login, &places.slow, &places.long, &places.run];
        let busy: usize =
            all.map(|queue| queue.places.available_permits() + queue.waiting.available_permits()).iter().sum();
        assert!(busy < CONNECTIONS / 2, "{busy}");
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_waited_for_in_turn_by_a_few_and_not_for_ever() {
        let queue = Queue::new(1, 1, Duration::from_secs(2));
        let first = queue.take().await;
        assert!(first.is_some());
        let (second, third) = tokio::join!(queue.take(), queue.take());
        assert!(second.is_none() && third.is_none());
        let (second, ()) = tokio::join!(queue.take(), async { drop(first) });
        assert!(second.is_some());
    }
}
