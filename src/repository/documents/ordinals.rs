//! A set of lines, by how many precede them: sorted, a bit each where there are any, so that neither a few among
//! millions nor all of them take much memory.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Ordinals(BTreeMap<u64, Box<[u64; 64]>>);

impl Ordinals {
    pub(super) fn insert(&mut self, ordinal: u64) {
        let (block, word, bit) = place(ordinal);
        self.0.entry(block).or_insert_with(|| Box::new([0; 64]))[word] |= bit;
    }

    pub(super) fn contains(&self, ordinal: u64) -> bool {
        let (block, word, bit) = place(ordinal);
        self.0.get(&block).is_some_and(|words| words[word] & bit != 0)
    }
}

fn place(ordinal: u64) -> (u64, usize, u64) {
    (ordinal >> 12, usize::from((ordinal >> 6).to_le_bytes()[0] & 63), 1 << (ordinal & 63))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(
            inserted in prop::collection::vec(prop_oneof![0..200_u64, 4000..4200_u64, any::<u64>()], 0..200),
            asked in prop::collection::vec(prop_oneof![0..200_u64, 4000..4200_u64, any::<u64>()], 0..200),
        ) {
            let mut ordinals = Ordinals::default();
            for ordinal in &inserted {
                ordinals.insert(*ordinal);
            }
            let model: BTreeSet<u64> = inserted.iter().copied().collect();
            for ordinal in inserted.iter().chain(&asked) {
                prop_assert_eq!(ordinals.contains(*ordinal), model.contains(ordinal));
            }
        }
    }
}
