//! Who is connected to one listener, and who goes when there are too many.
//!
//! Thousands may connect and say nothing, or stop in the middle of a word. They cannot keep others out: for one more
//! connection the one goes that has been waited for longest. A connection whose request is being answered stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The connections of one listener; clones are the same ones.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    limit: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    open: usize,
    /// Counts up, so that the first of the idle is the one that was waited for longest.
    next: u64,
    idle: BTreeMap<u64, CancellationToken>,
}

/// A connection's place among the others; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    table: Arc<Mutex<Table>>,
    /// Its number among the idle; none while its request is being answered.
    idle: Mutex<Option<u64>>,
    evicted: CancellationToken,
}

impl Connections {
    /// At most so many.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, table: Arc::default() }
    }

    /// A place for one more connection, which is idle; none if the requests of all others are being answered.
    pub(super) fn admit(&self) -> Option<Seat> {
        let mut table = lock(&self.table);
        if table.open >= self.limit {
            table.evict()?;
        }
        table.open += 1;
        let evicted = CancellationToken::new();
        let number = table.add_idle(evicted.clone());
        Some(Seat { table: Arc::clone(&self.table), idle: Mutex::new(Some(number)), evicted })
    }

    /// Ends the connection that has been waited for longest, for want of something else than places.
    pub(super) fn evict_one(&self) {
        lock(&self.table).evict();
    }
}

impl Table {
    fn evict(&mut self) -> Option<()> {
        let (_, oldest) = self.idle.pop_first()?;
        oldest.cancel();
        self.open -= 1;
        Some(())
    }

    fn add_idle(&mut self, evicted: CancellationToken) -> u64 {
        let number = self.next;
        self.next += 1;
        self.idle.insert(number, evicted);
        number
    }
}

impl Seat {
    /// Fires when the connection is to make room.
    pub(super) fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }

    /// Its request is being answered, so it stays; until the value is dropped.
    pub(super) fn busy(&self) -> Busy<'_> {
        if let Some(number) = lock(&self.idle).take() {
            // Whoever was evicted at this moment will be dropped all the same.
            lock(&self.table).idle.remove(&number);
        }
        Busy(self)
    }
}

/// While it lives, the connection stays.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a Seat);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let Seat { table, idle, evicted } = self.0;
        if !evicted.is_cancelled() {
            *lock(idle) = Some(lock(table).add_idle(evicted.clone()));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        // Who was evicted has been counted out.
        if !self.evicted.is_cancelled() {
            if let Some(number) = *lock(&self.idle) {
                table.idle.remove(&number);
            }
            table.open -= 1;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_that_was_waited_for_longest_makes_room() {
        let connections = Connections::new(2);
        let first = connections.admit().unwrap();
        let second = connections.admit().unwrap();
        // It has asked something, and been answered, after the second came.
        drop(first.busy());
        let third = connections.admit().unwrap();
        assert!(second.evicted().is_cancelled());
        assert!(!first.evicted().is_cancelled() && !third.evicted().is_cancelled());
    }

    #[test]
    fn whoever_is_being_answered_stays() {
        let connections = Connections::new(1);
        let only = connections.admit().unwrap();
        let busy = only.busy();
        assert!(connections.admit().is_none());
        drop(busy);
        let next = connections.admit().unwrap();
        assert!(only.evicted().is_cancelled() && !next.evicted().is_cancelled());
    }

    #[test]
    fn places_are_given_back_once() {
        let connections = Connections::new(2);
        for _ in 0..10 {
            let (first, second) = (connections.admit().unwrap(), connections.admit().unwrap());
            let third = connections.admit().unwrap();
            drop((first.busy(), second.busy()));
            drop((first, second, third));
        }
        let table = lock(&connections.table);
        assert_eq!((table.open, table.idle.len()), (0, 0));
    }
}
