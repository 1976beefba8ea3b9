//! What a binary is called: the SHA-1 (or SHA-256) of its content.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha1::Digest as _;

/// How digests are computed; a store may hold binaries of several algorithms side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// 20 bytes; Fedora, ModeShape, Artifactory, Jackrabbit up to 2.14.
    Sha1,
    /// 32 bytes; Jackrabbit from 2.15.1, git-lfs.
    Sha256,
}

impl Algorithm {
    /// The length of a digest in hexadecimal digits.
    pub const fn hex_digits(self) -> usize {
        match self {
            Self::Sha1 => 40,
            Self::Sha256 => 64,
        }
    }
}

/// The digest of a binary's content, which is also its name.
///
/// The order is that of the bytes, which is the order of the names in a directory and in a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// A SHA-1.
    Sha1([u8; 20]),
    /// A SHA-256.
    Sha256([u8; 32]),
}

/// The text is not a digest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest: expected 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits")]
pub struct InvalidDigest(String);

impl Digest {
    /// The digest of `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// How it was computed.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha1(_) => Algorithm::Sha1,
            Self::Sha256(_) => Algorithm::Sha256,
        }
    }

    /// The 20 or 32 bytes.
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha1(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
        }
    }

    /// The digest with these bytes, if there are 20 or 32 of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if let Ok(bytes) = bytes.try_into() {
            return Some(Self::Sha1(bytes));
        }
        bytes.try_into().ok().map(Self::Sha256)
    }

    /// The digest that a file name spells: 40 or 64 lower-case hexadecimal digits and nothing else.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        match name.len() {
            40 => decode(name).map(Self::Sha1),
            64 => decode(name).map(Self::Sha256),
            _ => None,
        }
    }

    /// Whether `content` has this digest.
    pub fn matches(&self, content: &[u8]) -> bool {
        Self::of(self.algorithm(), content) == *self
    }
}

fn decode<const N: usize>(hex: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // Looked at once, at the end: a walk does this for each name of a store.
    let mut all = 0;
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
        all |= high | low;
        *byte = high << 4 | low & 15;
    }
    (all < 16).then_some(bytes)
}

/// What each character is as a lower-case hexadecimal digit; more than 15 where it is none.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [u8::MAX; 256];
    let mut value: u8 = 0;
    while value < 16 {
        nibbles[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    nibbles
};

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0_u8; 64];
        let bytes = self.as_bytes();
        for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        let text = &text[..bytes.len() * 2];
        f.pad(std::str::from_utf8(text).expect("hexadecimal digits are ASCII"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        Self::from_name(text.as_bytes()).ok_or_else(|| InvalidDigest(text.to_owned()))
    }
}

impl Ord for Digest {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for Digest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a digest from content that arrives in pieces.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha1 => State::Sha1(sha1::Sha1::new()),
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
        })
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        match &mut self.0 {
            State::Sha1(state) => state.update(piece),
            State::Sha256(state) => state.update(piece),
        }
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha1(state) => Digest::Sha1(state.finalize().into()),
            State::Sha256(state) => Digest::Sha256(state.finalize().into()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(..)")
    }
}

impl std::io::Write for Hasher {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        self.update(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_thousand_a_have_the_digest_that_modeshape_gives_them() {
        let digest = Digest::of(Algorithm::Sha1, &[b'a'; 5000]);
        assert_eq!(digest.to_string(), "6aa9bf7df2242ef867558584c02160023a96f2f9");
    }

    #[test]
    fn upper_case_short_and_foreign_names_are_no_digests() {
        for name in [
            "",
            "6AA9BF7DF2242EF867558584C02160023A96F2F9",
            "6aa9bf7df2242ef867558584c02160023a96f2f",
            "6aa9bf7df2242ef867558584c02160023a96f2f9.bin",
            "6aa9bf7df2242ef867558584c02160023a96f2fg",
        ] {
            assert_eq!(name.parse::<Digest>(), Err(InvalidDigest(name.to_owned())));
        }
    }

    #[test]
    fn no_other_byte_is_taken_for_a_digit_wherever_it_stands() {
        let name = *b"6aa9bf7df2242ef867558584c02160023a96f2f9";
        for at in 0..name.len() {
            for byte in 0..=u8::MAX {
                let mut changed = name;
                changed[at] = byte;
                let is_digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                let digest = Digest::from_name(&changed);
                assert_eq!(digest.is_some(), is_digit, "{byte} at {at}");
                assert!(digest.is_none_or(|digest| digest.to_string().as_bytes() == changed));
            }
        }
    }

    proptest! {
        #[test]
        fn text_and_bytes_round_trip(bytes in any::<[u8; 32]>(), long in any::<bool>()) {
            let digest = Digest::from_bytes(if long { &bytes } else { &bytes[..20] }).expect("20 or 32 bytes");
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
            prop_assert_eq!(Digest::from_bytes(digest.as_bytes()), Some(digest));
        }

        #[test]
        fn the_order_is_that_of_the_names(a in any::<[u8; 20]>(), b in any::<[u8; 20]>()) {
            let (a, b) = (Digest::Sha1(a), Digest::Sha1(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
