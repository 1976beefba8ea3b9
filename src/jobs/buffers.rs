//! Large buffers that are used again.
//!
//! One that is freed on another thread than that which asked for it stays in that one's arena: with a dozen threads that
//! fill parts, a dozen parts stay in memory, however few are filled at a time.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// How many are kept while nobody needs them.
const KEPT: usize = 4;

/// Where large buffers come from, and where they go back to.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// An empty buffer with room for so many bytes.
    pub fn take(&self, bytes: usize) -> Buffer {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = kept.iter().position(|buffer| buffer.capacity() >= bytes);
        let content = fitting.map_or_else(|| Vec::with_capacity(bytes), |at| kept.swap_remove(at));
        Buffer { content, home: self.clone() }
    }
}

/// A buffer that goes back when it, or all that was made of it, is dropped.
#[derive(Debug)]
pub struct Buffer {
    content: Vec<u8>,
    home: Buffers,
}

impl Buffer {
    /// How many bytes are in it.
    pub fn filled(&self) -> usize {
        self.content.len()
    }

    /// Adds bytes, for which there must be room.
    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(self.content.len() + bytes.len() <= self.content.capacity(), "the buffer would move");
        self.content.extend_from_slice(bytes);
    }

    /// What is in it, without a copy.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            self.content.clear();
            kept.push(std::mem::take(&mut self.content));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nothing_of_it_is_left() {
        let buffers = Buffers::default();
        let mut first = buffers.take(1000);
        first.push(b"content");
        let place = first.as_ref().as_ptr();
        let bytes = first.freeze();
        let part = bytes.slice(3..);
        drop(bytes);
        assert_ne!(buffers.take(1000).as_ref().as_ptr(), place, "a part of it is in use");
        assert_eq!(part, "tent");
        drop(part);
        let again: Vec<_> = (0..2).map(|_| buffers.take(1000)).collect();
        assert!(again.iter().any(|buffer| buffer.as_ref().as_ptr() == place && buffer.filled() == 0));
        drop(again);
        assert!(buffers.take(2000).content.capacity() >= 2000, "a smaller one does not do");
    }

    #[test]
    fn no_more_are_kept_than_are_likely_to_be_needed() {
        let buffers = Buffers::default();
        drop((0..10).map(|_| buffers.take(10)).collect::<Vec<_>>());
        assert_eq!(buffers.0.lock().unwrap().len(), KEPT);
    }
}
