//! What the kernel writes about events, `fanotify(7)`: read without believing it.

/// The length of a `struct fanotify_event_metadata`.
const METADATA: usize = 24;
/// `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;
/// The length of a `struct fanotify_event_info_header`.
const HEADER: usize = 4;
/// `FAN_EVENT_INFO_TYPE_DFID_NAME`: the handle of a directory, and a name in it.
const DFID_NAME: u8 = 2;
/// Where the handle begins in such a record: after the header and the id of the file system.
const HANDLE: usize = HEADER + 8;

/// A directory as the kernel tells one from another, `name_to_handle_at(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectoryHandle<'a> {
    pub(super) kind: i32,
    pub(super) bytes: &'a [u8],
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// What happened: `FAN_…`.
    pub(super) mask: u64,
    /// Where, and to what; none where the kernel does not say so.
    pub(super) entry: Option<(DirectoryHandle<'a>, &'a [u8])>,
}

/// This is not what the manual describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The events that one read gave; after something malformed there is no telling where the next begins.
pub(super) fn records(mut rest: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((record, after)) = record(rest) else {
            rest = &[];
            return Some(Err(Malformed));
        };
        rest = after;
        Some(Ok(record))
    })
}

fn record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let metadata = usize::from(u16_at(bytes, 6)?);
    if *bytes.get(4)? != VERSION || metadata < METADATA || length < metadata {
        return None;
    }
    let (event, after) = bytes.split_at_checked(length)?;
    let mask = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    let mut infos = event.get(metadata..)?;
    let mut entry = None;
    while !infos.is_empty() {
        let length = usize::from(u16_at(infos, 2)?);
        if length < HEADER {
            return None;
        }
        let (info, others) = infos.split_at_checked(length)?;
        if *info.first()? == DFID_NAME {
            entry = Some(named(info)?);
        }
        infos = others;
    }
    Some((Record { mask, entry }, after))
}

fn named(info: &[u8]) -> Option<(DirectoryHandle<'_>, &[u8])> {
    let length = usize::try_from(u32_at(info, HANDLE)?).ok()?;
    let kind = i32::from_ne_bytes(info.get(HANDLE + 4..HANDLE + 8)?.try_into().ok()?);
    let (bytes, name) = info.get(HANDLE + 8..)?.split_at_checked(length)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    Some((DirectoryHandle { kind, bytes }, &name[..end]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// As the kernel lays it out.
    fn event(mask: u64, kind: i32, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut info = vec![DFID_NAME, 0, 0, 0];
        info.extend([7; 8]);
        info.extend(u32::try_from(handle.len()).unwrap().to_ne_bytes());
        info.extend(kind.to_ne_bytes());
        info.extend(handle);
        info.extend(name);
        info.push(0);
        info.resize(info.len().next_multiple_of(4), 0);
        let length = u16::try_from(info.len()).unwrap().to_ne_bytes();
        info[2..4].copy_from_slice(&length);
        let mut event = u32::try_from(METADATA + info.len()).unwrap().to_ne_bytes().to_vec();
        event.extend([VERSION, 0]);
        event.extend(24_u16.to_ne_bytes());
        event.extend(mask.to_ne_bytes());
        event.extend((-1_i32).to_ne_bytes());
        event.extend(1_i32.to_ne_bytes());
        event.extend(info);
        event
    }

    proptest! {
        #[test]
        fn events_are_read_as_they_were_written(
            events in vec((any::<u64>(), any::<i32>(), vec(any::<u8>(), 0..128), vec(1..=255_u8, 0..255)), 0..20)
        ) {
            let bytes: Vec<u8> =
                events.iter().flat_map(|(mask, kind, handle, name)| event(*mask, *kind, handle, name)).collect();
            let read: Vec<_> = records(&bytes).map(Result::unwrap).collect();
            prop_assert_eq!(read.len(), events.len());
            for (record, (mask, kind, handle, name)) in read.iter().zip(&events) {
                let entry = (DirectoryHandle { kind: *kind, bytes: handle }, &name[..]);
                prop_assert_eq!(*record, Record { mask: *mask, entry: Some(entry) });
            }
        }

        #[test]
        fn whatever_is_read_is_either_events_or_malformed_and_has_an_end(bytes in vec(any::<u8>(), 0..400)) {
            prop_assert!(records(&bytes).count() <= bytes.len() / METADATA + 1);
        }

        #[test]
        fn a_damaged_event_is_never_read_beyond_its_end(
            handle in vec(any::<u8>(), 0..32),
            name in vec(1..=255_u8, 1..64),
            at in any::<prop::sample::Index>(),
            byte: u8,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = event(8, 1, &handle, &name);
            let whole = bytes.len();
            bytes[at.index(whole)] = byte;
            bytes.truncate(cut.index(whole + 1));
            for record in records(&bytes).flatten() {
                let held = record.entry.map_or(0, |(handle, name)| handle.bytes.len() + name.len());
                prop_assert!(METADATA + held <= bytes.len());
            }
        }
    }

    #[test]
    fn an_event_without_a_name_is_one_and_another_version_is_malformed() {
        let mut overflow = event(0x4000, 0, &[], b"");
        overflow.truncate(METADATA);
        overflow[..4].copy_from_slice(&24_u32.to_ne_bytes());
        assert_eq!(records(&overflow).collect::<Vec<_>>(), [Ok(Record { mask: 0x4000, entry: None })]);
        overflow[4] = 4;
        assert_eq!(records(&overflow).collect::<Vec<_>>(), [Err(Malformed)]);
    }
}
