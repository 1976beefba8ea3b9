//! A part of a repository: the binaries whose digests begin with certain digits.
//!
//! A repository that is too large for one machine is copied by several, each with a shard of its own. The whole
//! repository is no shard: it is the absence of one.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::digest::Digest;

/// The binaries whose first byte lies in a range, written by its leading digits: `0-7`, `8-f`, `00-7f`, `a`.
///
/// Equal ranges are equal and are written in the same way, the shortest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    first: u8,
    last: u8,
}

/// The text is no shard.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidShard {
    /// It is not written like one.
    #[error("`{0}` is no shard: one or two lower-case hexadecimal digits, or two of these with a `-` between them")]
    Text(String),
    /// Its end comes before its beginning.
    #[error("the shard `{0}` ends before it begins")]
    Backwards(String),
    /// It is everything.
    #[error("the shard `{0}` is the whole repository")]
    Whole(String),
}

impl Shard {
    /// Whether a binary belongs to it.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.bytes().contains(&digest.as_bytes()[0])
    }

    /// Whether a binary whose name begins with these hexadecimal digits can belong to it.
    pub fn may_hold(&self, digits: &[u8]) -> bool {
        let nibble = |at: usize| digits.get(at).and_then(|digit| char::from(*digit).to_digit(16)?.try_into().ok());
        match (nibble(0), nibble(1)) {
            (None, _) => digits.is_empty(),
            (Some(first), None) => digits.len() == 1 && self.overlaps(&Self::of(first, 0, first, 15)),
            (Some(first), Some(second)) => self.overlaps(&Self::of(first, second, first, second)),
        }
    }

    /// Whether any binary can belong to both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The binaries that belong to both.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        self.overlaps(other).then_some(both)
    }

    /// The binaries that do not belong to it: those before it and those after it.
    pub fn rest(&self) -> impl Iterator<Item = Self> {
        let before = self.first.checked_sub(1).map(|last| Self { first: 0, last });
        let after = self.last.checked_add(1).map(|first| Self { first, last: u8::MAX });
        before.into_iter().chain(after)
    }

    /// The first bytes of its digests.
    pub fn bytes(&self) -> RangeInclusive<u8> {
        self.first..=self.last
    }

    /// All four digits without anything between them, as the names of restore points have them.
    pub(crate) fn digits(self) -> String {
        format!("{:02x}{:02x}", self.first, self.last)
    }

    /// The shard with these four digits.
    pub(crate) fn from_digits(digits: &str) -> Option<Self> {
        let (first, last) = (digits.get(..2)?, digits.get(2..)?);
        let shard: Self = format!("{first}-{last}").parse().ok()?;
        (shard.digits() == digits).then_some(shard)
    }

    const fn of(first: u8, second: u8, last: u8, last_second: u8) -> Self {
        Self { first: first << 4 | second, last: last << 4 | last_second }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first >> 4, self.last >> 4);
        let text = if *self == Self::of(first, 0, last, 15) {
            if first == last { format!("{first:x}") } else { format!("{first:x}-{last:x}") }
        } else if self.first == self.last {
            format!("{:02x}", self.first)
        } else {
            format!("{:02x}-{:02x}", self.first, self.last)
        };
        f.pad(&text)
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Shard {
    type Err = InvalidShard;

    fn from_str(text: &str) -> Result<Self, InvalidShard> {
        let invalid = || InvalidShard::Text(text.to_owned());
        // `fill` completes a single digit: to the first byte that begins with it, or to the last.
        let byte = |side: &str, fill: u8| {
            let digits = side.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            let value = u8::from_str_radix(side, 16).ok().filter(|_| digits)?;
            match side.len() {
                1 => Some(value << 4 | fill),
                2 => Some(value),
                _ => None,
            }
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (byte(first, 0).ok_or_else(invalid)?, byte(last, 15).ok_or_else(invalid)?);
        if first > last {
            return Err(InvalidShard::Backwards(text.to_owned()));
        }
        if (first, last) == (0, u8::MAX) {
            return Err(InvalidShard::Whole(text.to_owned()));
        }
        Ok(Self { first, last })
    }
}

impl Serialize for Shard {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Shard {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::branch::{Branch, Place};
    use crate::model::digest::Algorithm;
    use crate::model::layout::Layout;

    fn shard(text: &str) -> Shard {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_written_in_one_way() {
        for (text, canonical) in [
            ("0-7", "0-7"),
            ("8-f", "8-f"),
            ("00-7f", "0-7"),
            ("a", "a"),
            ("a0-af", "a"),
            ("ab", "ab"),
            ("ab-ab", "ab"),
            ("0-7e", "00-7e"),
            ("01-7", "01-7f"),
            ("a-a", "a"),
        ] {
            assert_eq!(shard(text).to_string(), canonical, "{text}");
            assert_eq!(shard(canonical), shard(text), "{text}");
            assert_eq!(Shard::from_digits(&shard(text).digits()), Some(shard(text)), "{text}");
        }
    }

    #[test]
    fn what_is_no_part_is_refused() {
        for text in ["", "-", "0-", "-7", "0-7-", "A", "g", "0-G", "000-7ff", "+1", "0 - 7", "0..7", "é"] {
            assert_eq!(text.parse::<Shard>(), Err(InvalidShard::Text(text.to_owned())), "{text}");
        }
        for text in ["7-0", "10-0", "f-e"] {
            assert_eq!(text.parse::<Shard>(), Err(InvalidShard::Backwards(text.to_owned())), "{text}");
        }
        for text in ["0-f", "00-ff", "0-ff", "00-f"] {
            assert_eq!(text.parse::<Shard>(), Err(InvalidShard::Whole(text.to_owned())), "{text}");
        }
        for digits in ["", "0", "7f00", "00ff", "00-7", "00-7f", "0-07", "é0f"] {
            assert_eq!(Shard::from_digits(digits), None, "{digits}");
        }
    }

    #[test]
    fn shards_overlap_in_what_they_have_in_common() {
        assert!(!shard("0-7").overlaps(&shard("8-f")));
        assert_eq!(shard("0-7").intersection(&shard("7c-8")), Some(shard("7c-7f")));
        assert_eq!(shard("0-7").intersection(&shard("8")), None);
        assert_eq!(shard("4").rest().collect::<Vec<_>>(), [shard("0-3"), shard("5-f")]);
        assert_eq!(shard("0-7").rest().collect::<Vec<_>>(), [shard("8-f")]);
    }

    fn shards() -> impl Strategy<Value = Shard> {
        (any::<u8>(), any::<u8>())
            .prop_filter("the whole is none", |(a, b)| (a.min(b), a.max(b)) != (&0, &u8::MAX))
            .prop_map(|(a, b)| Shard { first: a.min(b), last: a.max(b) })
    }

    proptest! {
        #[test]
        fn text_and_shard_round_trip(shard in shards()) {
            prop_assert_eq!(shard.to_string().parse::<Shard>(), Ok(shard));
        }

        #[test]
        fn a_binary_is_in_the_shard_or_in_the_rest_and_its_directories_may_hold_it(shard in shards(), content: [u8; 4]) {
            for algorithm in [Algorithm::Sha1, Algorithm::Sha256] {
                let digest = Digest::of(algorithm, &content);
                let of = shard.rest().chain([shard]).filter(|part| part.contains(&digest)).collect::<Vec<_>>();
                prop_assert_eq!(of.len(), 1);
                for (levels, width) in [(0, 2), (1, 1), (1, 4), (2, 3), (3, 2), (4, 1)] {
                    let layout = Layout::custom(algorithm, levels, width, "").unwrap();
                    for parent in layout.path(&digest).ancestors().skip(1) {
                        let Some(Place::Branch(branch)) = Place::of(&layout, parent) else { panic!("{}", parent.display()) };
                        prop_assert!(of[0].may_hold(branch.digits()));
                        if branch.digits().len() >= 2 {
                            prop_assert_eq!(shard.may_hold(branch.digits()), shard.contains(&digest));
                        }
                    }
                }
            }
            prop_assert!(shard.may_hold(Branch::ROOT.digits()));
        }
    }
}
