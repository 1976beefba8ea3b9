//! What goes wrong, when and where.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::s3_memory::lock;

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// With which operation; none is any.
    pub(crate) operation: Option<&'static str>,
    /// With keys that begin with this; of a listing, the prefix counts as its key.
    pub(crate) prefix: String,
    /// With which of these requests.
    pub(crate) when: When,
    /// What happens to them.
    pub(crate) effect: Effect,
}

impl Fault {
    /// This happens to every request for the operation.
    pub(crate) fn at(operation: &'static str, effect: Effect) -> Self {
        Self { operation: Some(operation), prefix: String::new(), when: When::Always, effect }
    }

    /// This happens to every request.
    pub(crate) fn anywhere(effect: Effect) -> Self {
        Self { operation: None, prefix: String::new(), when: When::Always, effect }
    }

    /// The same with keys that begin with this.
    pub(crate) fn below(self, prefix: &str) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// The same with these requests only.
    pub(crate) fn when(self, when: When) -> Self {
        Self { when, ..self }
    }

    fn matches(&self, operation: &str, key: &str) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation) && key.starts_with(&self.prefix)
    }
}

/// Which of the requests that match, counted from 1 in the order in which they arrive.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// All of them.
    Always,
    /// Those up to this one.
    First(u64),
    /// This one alone.
    Only(u64),
    /// Every so many: 3 is the third, the sixth and so on.
    Every(u64),
    /// About one in two, the same ones for the same seed.
    Half {
        /// What the choice comes from.
        seed: u64,
    },
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// It is read whole, not done, and answered with this HTTP status and S3 error code.
    Status(u16, &'static str),
    /// The same without reading the body first, as careless servers do: a client that is still sending may see a
    /// broken pipe in place of the answer.
    EarlyStatus(u16, &'static str),
    /// The connection is closed when this much of the body has arrived, or all of it; nothing is done.
    CutRequest {
        /// The bytes that arrive at least, if there are as many.
        after_bytes: usize,
    },
    /// It is done, and then the connection is closed without an answer.
    LoseAnswer,
    /// It is done, and the connection is closed after this much of the answer's body; a shorter one arrives whole.
    CutAnswer {
        /// The bytes that are sent.
        after_bytes: usize,
    },
    /// It is done later.
    Delay(Duration),
    /// It is done if there is room for it, and otherwise answered with 503 `SlowDown`.
    Crowd(Arc<Crowd>),
    /// It is read and neither done nor answered; the connection stays open until the client gives up.
    Hang,
    /// `GetObject` answers with a bit flipped in the middle of the content.
    WrongContent,
    /// `GetObject` and `HeadObject` tell a SHA-1 that nothing has.
    LieAboutChecksum,
}

/// What a server bears at once; each request that it bears takes a while.
#[derive(Debug)]
pub(crate) struct Crowd {
    most: AtomicUsize,
    takes: Duration,
    inside: AtomicUsize,
    busiest: AtomicUsize,
    refused: AtomicUsize,
}

impl Crowd {
    /// So many requests, each of which takes so long.
    pub(crate) fn of(most: usize, takes: Duration) -> Arc<Self> {
        let [inside, busiest, refused] = std::array::from_fn(|_| AtomicUsize::new(0));
        Arc::new(Self { most: AtomicUsize::new(most), takes, inside, busiest, refused })
    }

    /// From now on it bears this many.
    pub(crate) fn bears(&self, most: usize) {
        self.most.store(most, Ordering::SeqCst);
    }

    /// The most that were there at once since this was asked last, those counted that were turned away.
    pub(crate) fn busiest(&self) -> usize {
        self.busiest.swap(0, Ordering::SeqCst)
    }

    /// How many were turned away.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// A request comes; none if there is no room for it. It is there until what this gives is dropped.
    pub(crate) async fn enter(self: &Arc<Self>) -> Option<Inside> {
        let inside = Inside(Arc::clone(self));
        let number = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.busiest.fetch_max(number, Ordering::SeqCst);
        if number > self.most.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return None;
        }
        tokio::time::sleep(self.takes).await;
        Some(inside)
    }
}

/// A request that is borne.
pub(crate) struct Inside(Arc<Crowd>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The faults of a server.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Armed>>);

#[derive(Debug)]
struct Armed {
    fault: Fault,
    seen: u64,
    coin: fastrand::Rng,
}

impl Armed {
    fn strikes(&mut self) -> bool {
        self.seen += 1;
        match self.fault.when {
            When::Always => true,
            When::First(last) => self.seen <= last,
            When::Only(number) => self.seen == number,
            When::Every(step) => self.seen.is_multiple_of(step),
            When::Half { .. } => self.coin.bool(),
        }
    }
}

impl Faults {
    /// Adds one.
    pub(crate) fn add(&self, fault: Fault) {
        let seed = if let When::Half { seed } = fault.when { seed } else { 0 };
        lock(&self.0).push(Armed { fault, seen: 0, coin: fastrand::Rng::with_seed(seed) });
    }

    /// Takes all away.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// What happens to a request that arrives now, in the order in which the faults were added.
    pub(crate) fn strike(&self, operation: &str, key: &str) -> Vec<Effect> {
        let mut armed = lock(&self.0);
        let matching = armed.iter_mut().filter(|armed| armed.fault.matches(operation, key));
        matching.filter_map(|armed| armed.strikes().then(|| armed.fault.effect.clone())).collect()
    }
}
