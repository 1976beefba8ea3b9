//! The entries that the central directory will list, packed to some 30 bytes each until it is written.

use crate::jobs::zip::Method;
use crate::jobs::zip::format::{Header, Sums};
use crate::model::archive::EntryName;
use crate::model::digest::Digest;

/// Growing by segments instead of doubling one vector: no copy, and never twice the memory.
const SEGMENT_BYTES: usize = 64 * 1024;
/// More than the longest record takes: a tag, a name of 255 bytes with its length, a CRC and two sizes.
const MAX_RECORD_BYTES: usize = 300;

const DOCUMENTS: u8 = 0;
const DAMAGED_DOCUMENTS: u8 = 1;
const RECORD: u8 = 2;
const SHA1: u8 = 3;
const SHA256: u8 = 4;
const CHANGES_SUMMARY: u8 = 5;
const NAME_KINDS: u8 = 0b0111;
const DEFLATED: u8 = 0b1000;
const STREAMED: u8 = 0b1_0000;

/// A list of entries in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Packed {
    segments: Vec<Vec<u8>>,
}

impl Packed {
    pub(super) fn push(&mut self, header: &Header) {
        let full = self.segments.last().is_none_or(|segment| SEGMENT_BYTES - segment.len() < MAX_RECORD_BYTES);
        if full {
            self.segments.push(Vec::with_capacity(SEGMENT_BYTES));
        }
        let segment = self.segments.last_mut().expect("one was pushed if there was none");
        let (kind, name): (u8, &[u8]) = match &header.name {
            EntryName::Documents(_) => (DOCUMENTS, &[]),
            EntryName::DamagedDocuments => (DAMAGED_DOCUMENTS, &[]),
            EntryName::Record(name) => (RECORD, name.as_bytes()),
            EntryName::Binary(digest @ Digest::Sha1(_)) => (SHA1, digest.as_bytes()),
            EntryName::Binary(digest @ Digest::Sha256(_)) => (SHA256, digest.as_bytes()),
            EntryName::ChangesSummary => (CHANGES_SUMMARY, &[]),
        };
        let deflated = if header.method == Method::Deflated { DEFLATED } else { 0 };
        let streamed = if header.streamed { STREAMED } else { 0 };
        segment.push(kind | deflated | streamed);
        match &header.name {
            EntryName::Documents(number) => put_varint(segment, (*number).into()),
            EntryName::Record(name) => segment.extend(u8::try_from(name.len())),
            _ => {}
        }
        segment.extend(name);
        segment.extend(header.sums.crc32.to_le_bytes());
        put_varint(segment, header.sums.size);
        if header.method == Method::Deflated {
            put_varint(segment, header.sums.compressed);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Header> {
        self.segments.iter().flat_map(|segment| {
            let mut rest = segment.as_slice();
            std::iter::from_fn(move || if rest.is_empty() { None } else { unpack(&mut rest) })
        })
    }
}

/// Takes a record off the front; there always is one, as only `push` writes here.
fn unpack(rest: &mut &[u8]) -> Option<Header> {
    let [tag] = take(rest)?;
    let name = match tag & NAME_KINDS {
        DOCUMENTS => EntryName::Documents(u32::try_from(take_varint(rest)?).ok()?),
        DAMAGED_DOCUMENTS => EntryName::DamagedDocuments,
        RECORD => {
            let [length] = take(rest)?;
            let (name, after) = rest.split_at_checked(length.into())?;
            *rest = after;
            EntryName::Record(String::from_utf8(name.to_vec()).ok()?)
        }
        SHA1 => EntryName::Binary(Digest::Sha1(take(rest)?)),
        SHA256 => EntryName::Binary(Digest::Sha256(take(rest)?)),
        _ => EntryName::ChangesSummary,
    };
    let crc32 = u32::from_le_bytes(take(rest)?);
    let size = take_varint(rest)?;
    let (method, compressed) =
        if tag & DEFLATED == 0 { (Method::Stored, size) } else { (Method::Deflated, take_varint(rest)?) };
    Some(Header { name, method, streamed: tag & STREAMED != 0, sums: Sums { crc32, compressed, size } })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*bytes)
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7F;
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = take(rest)?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = EntryName> {
        prop_oneof![
            (0..1_000_000_u32).prop_map(EntryName::Documents),
            Just(EntryName::DamagedDocuments),
            (1..=255_usize, "[a-z]").prop_map(|(length, letter)| EntryName::Record(letter.repeat(length))),
            any::<[u8; 20]>().prop_map(|bytes| EntryName::Binary(Digest::Sha1(bytes))),
            any::<[u8; 32]>().prop_map(|bytes| EntryName::Binary(Digest::Sha256(bytes))),
            Just(EntryName::ChangesSummary),
        ]
    }

    fn headers() -> impl Strategy<Value = Header> {
        (names(), any::<u32>(), any::<u64>(), any::<u64>(), 0..3).prop_map(|(name, crc32, size, other, kind)| {
            let (method, compressed) =
                if kind == 0 { (Method::Stored, size) } else { (Method::Deflated, other >> (size % 64)) };
            Header { name, method, streamed: kind == 2, sums: Sums { crc32, compressed, size } }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_is_packed_comes_out_in_order(headers in prop::collection::vec(headers(), 0..1200)) {
            let mut packed = Packed::default();
            for header in &headers {
                packed.push(header);
            }
            prop_assert_eq!(packed.iter().collect::<Vec<_>>(), headers);
        }
    }

    #[test]
    fn an_entry_takes_about_thirty_bytes() {
        let mut packed = Packed::default();
        for number in 0..100_000_u32 {
            let name = EntryName::Binary(Digest::of(crate::model::digest::Algorithm::Sha1, &number.to_le_bytes()));
            let sums = Sums { crc32: number, compressed: 80_000, size: 100_000 };
            packed.push(&Header { name, method: Method::Deflated, streamed: false, sums });
        }
        let bytes: usize = packed.segments.iter().map(Vec::capacity).sum();
        assert!(bytes / 100_000 <= 32, "{bytes}");
    }
}
