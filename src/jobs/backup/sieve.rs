//! A sieve for digests: says of most that are not in a set that they are not, without a look at the set.

use crate::model::digest::Digest;

/// How many bits of memory there are for each digest.
const BITS_EACH: u64 = 16;
/// 8 MiB: beyond four million binaries it lets more through, and is no less right.
const MOST_BITS: u64 = 1 << 26;
const LEAST_BITS: u64 = 1 << 10;

/// A Bloom filter of two bits for each digest. Digests are spread evenly as they are, so that nothing needs to be hashed.
#[derive(Debug)]
pub(super) struct Sieve {
    words: Vec<u64>,
}

impl Sieve {
    /// An empty one, for about this many digests.
    pub(super) fn for_about(digests: u64) -> Self {
        let bits = digests.saturating_mul(BITS_EACH).clamp(LEAST_BITS, MOST_BITS).next_power_of_two();
        let words = usize::try_from(bits / u64::from(u64::BITS)).expect("at most 8 MiB");
        Self { words: vec![0; words] }
    }

    /// Takes a digest in.
    pub(super) fn put(&mut self, digest: &Digest) {
        for (word, bit) in self.places(digest) {
            self.words[word] |= bit;
        }
    }

    /// Whether a digest may have been taken in: always if it was, seldom if not.
    pub(super) fn may_hold(&self, digest: &Digest) -> bool {
        self.places(digest).iter().all(|(word, bit)| self.words[*word] & bit != 0)
    }

    fn places(&self, digest: &Digest) -> [(usize, u64); 2] {
        let bytes = digest.as_bytes();
        [0, 8].map(|at| {
            let number = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a digest has 20 bytes at least"));
            let word = usize::try_from(number >> 6 & (self.words.len() as u64 - 1)).expect("an index of a word");
            (word, 1 << (number & 63))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Algorithm;

    fn digest(number: u32) -> Digest {
        Digest::of(Algorithm::Sha1, &number.to_le_bytes())
    }

    #[test]
    fn what_was_taken_in_always_goes_through_and_of_the_rest_two_in_a_hundred_at_most() {
        for taken in [1, 1000, 100_000] {
            let mut sieve = Sieve::for_about(u64::from(taken));
            (0..taken).for_each(|number| sieve.put(&digest(number)));
            assert!((0..taken).all(|number| sieve.may_hold(&digest(number))));
            let others = (taken..taken + 10_000).filter(|number| sieve.may_hold(&digest(*number))).count();
            assert!(others <= 200, "{others} of 10,000 after {taken}");
        }
    }

    #[test]
    fn a_sieve_for_more_than_it_has_room_for_is_no_larger_and_still_right() {
        let mut sieve = Sieve::for_about(u64::MAX);
        assert_eq!(sieve.words.len() * 8, 8 << 20);
        sieve.put(&digest(7));
        assert!(sieve.may_hold(&digest(7)) && !sieve.may_hold(&digest(8)));
    }
}
