//! The ZIP files that archives are: written to a pipe, read back as a stream, in constant memory an entry.
//!
//! A list of entries has one form, down to the last byte: fixed times and modes, ZIP64 only where a number needs it,
//! a fixed order of names, and nothing between, before or after. What the reader learns from a header it writes again
//! and compares, so a changed byte anywhere is found, also where no other reader would look. Any unzip program reads
//! these files; this reader reads no others.

mod content;
mod directory;
mod format;
mod packed;
mod reader;
mod writer;

use std::io;

use crate::model::archive::EntryName;

pub use directory::{DirectoryEntry, DirectoryLocation, DirectoryReader, SingleEntry, locate, read_single};
pub use reader::{Entry, Reader};
pub use writer::{WriteError, Writer};

/// How the content of an entry lies in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// As it is.
    Stored,
    /// Compressed with DEFLATE.
    Deflated,
}

/// Why an archive, or an entry of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It does not begin (or, looked at from its end, not end) like a ZIP file.
    #[error("read archive: not a ZIP file")]
    NotAnArchive,
    /// It ends before its end; another copy of it may be whole.
    #[error("read archive: it ends early, in or after {after}")]
    Truncated {
        /// The last entry that began before the end.
        after: String,
    },
    /// An entry that no backup holds, such as a path out of the directory, a link or a directory.
    #[error("read archive: `{name}` is not a file of a backup")]
    Foreign {
        /// The name as it stands there, with odd bytes escaped.
        name: String,
    },
    /// An entry comes twice or in the wrong place.
    #[error("read archive: `{name}` comes twice or out of order")]
    Order {
        /// The second of the two.
        name: EntryName,
    },
    /// The content or a header is not what was written.
    #[error("read `{name}` in the archive: {what}")]
    Damaged {
        /// The entry, or `central directory`.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A ZIP file of a kind that Holdfast does not write.
    #[error("read `{name}` in the archive: unsupported {what}")]
    Unsupported {
        /// The entry, or `central directory`.
        name: String,
        /// What it uses.
        what: String,
    },
    /// The bytes of the archive could not be had.
    #[error("read archive")]
    Io(#[source] io::Error),
}

impl ReadError {
    /// The error that reading an entry's content ended with: the one inside `error`, or else [`ReadError::Io`].
    pub fn from_content(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Io)
    }

    fn damaged(name: &(impl ToString + ?Sized), what: impl Into<String>) -> Self {
        Self::Damaged { name: name.to_string(), what: what.into() }
    }

    fn unsupported(name: &(impl ToString + ?Sized), what: impl Into<String>) -> Self {
        Self::Unsupported { name: name.to_string(), what: what.into() }
    }

    /// As an error of `Read`, from which [`ReadError::from_content`] takes it out again.
    fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Truncated { .. } => io::Error::new(io::ErrorKind::UnexpectedEof, self),
            _ => io::Error::new(io::ErrorKind::InvalidData, self),
        }
    }
}

/// Whether `next` may follow `previous`: documents, damaged lines, records, binaries, the summary, each group
/// strictly ascending. As the order is total, no entry can come twice, and nobody needs to remember them all.
fn may_follow(previous: Option<&EntryName>, next: &EntryName) -> bool {
    const fn group(name: &EntryName) -> u8 {
        match name {
            EntryName::Documents(_) => 0,
            EntryName::DamagedDocuments => 1,
            EntryName::Record(_) => 2,
            EntryName::Binary(_) => 3,
            EntryName::ChangesSummary => 4,
        }
    }
    match (previous, next) {
        (None, _) => true,
        (Some(EntryName::Documents(a)), EntryName::Documents(b)) => a < b,
        (Some(EntryName::Record(a)), EntryName::Record(b)) => a < b,
        (Some(EntryName::Binary(a)), EntryName::Binary(b)) => a < b,
        (Some(a), b) => group(a) < group(b),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Cursor, Read, Write};

    use proptest::prelude::*;

    use super::format::to_u64;
    use super::*;
    use crate::model::digest::{Algorithm, Digest};

    /// Which of the three ways an entry is added.
    #[derive(Clone, Copy, Debug)]
    enum Way {
        Bytes,
        Stored,
        Deflated,
    }

    type Contents = Vec<(EntryName, Vec<u8>)>;

    fn add(writer: &mut Writer<impl Write>, name: &EntryName, content: &[u8], way: Way) -> Result<(), WriteError> {
        let (size, crc32) = (to_u64(content.len()), crc32fast::hash(content));
        match way {
            Way::Bytes => writer.add_bytes(name, content),
            Way::Stored => writer.add_stored(name, size, crc32, &mut &content[..]),
            Way::Deflated => writer.add_deflated(name, size, crc32, &mut &content[..]),
        }
    }

    fn read_stream(archive: impl Read, piece_bytes: usize) -> Result<Contents, ReadError> {
        let mut reader = Reader::new(archive);
        let mut contents = Vec::new();
        while let Some(mut entry) = reader.next()? {
            let name = entry.name().clone();
            let mut content = Vec::new();
            let mut piece = vec![0; piece_bytes];
            loop {
                match entry.read(&mut piece).map_err(ReadError::from_content)? {
                    0 => break,
                    count => content.extend(&piece[..count]),
                }
            }
            contents.push((name, content));
        }
        Ok(contents)
    }

    /// Reads each entry alone, from the bytes that its span promises to be enough.
    fn read_singly(archive: &[u8]) -> Result<Contents, ReadError> {
        let location = locate(archive, to_u64(archive.len()))?;
        let at = |offset: u64| usize::try_from(offset).expect("it lies in memory");
        let mut contents = Vec::new();
        for entry in DirectoryReader::new(&archive[at(location.offset)..], location) {
            let entry = entry?;
            let span = &archive[at(entry.offset)..at(entry.offset + entry.span())];
            let mut content = Vec::new();
            read_single(&entry, span)?.read_to_end(&mut content).map_err(ReadError::from_content)?;
            contents.push((entry.name, content));
        }
        Ok(contents)
    }

    fn read_with_the_zip_crate(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut archive = ::zip::ZipArchive::new(Cursor::new(archive)).expect("another reader takes it");
        let mut contents = Vec::new();
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).expect("an entry");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("sound content");
            contents.push((entry.name().expect("a name").into_owned(), content));
        }
        contents
    }

    fn binary(number: u32) -> EntryName {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        EntryName::Binary(Digest::Sha1(bytes))
    }

    fn ways() -> impl Strategy<Value = Way> {
        prop_oneof![Just(Way::Bytes), Just(Way::Stored), Just(Way::Deflated)]
    }

    /// Noise, text, or text that turns into noise, mostly short.
    fn contents() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![3 => 0..300_usize, 2 => 0..40_000_usize, 1 => 0..400_000_usize];
        (length, any::<u64>(), 0..3_u8).prop_map(|(length, seed, kind)| {
            let mut noise = fastrand::Rng::with_seed(seed);
            let text = if kind == 0 { 0 } else { length / usize::from(kind) };
            let mut content = b"all work and no play makes jack a dull boy. ".repeat(text / 44 + 1);
            content.truncate(text);
            content.resize_with(length, || noise.u8(..));
            content
        })
    }

    fn entries() -> impl Strategy<Value = Vec<(EntryName, Vec<u8>, Way)>> {
        let content = || (contents(), ways());
        (
            prop::collection::btree_map(0..1_000_000_u32, content(), 0..3),
            prop::option::of(content()),
            prop::collection::btree_map("[a-z][a-z0-9._-]{0,254}", content(), 0..3),
            prop::collection::btree_map(any::<(bool, [u8; 32])>(), content(), 0..8),
            prop::option::of(content()),
        )
            .prop_map(|(documents, damaged, records, binaries, summary)| {
                let binaries: BTreeMap<_, _> = binaries
                    .into_iter()
                    .map(|((long, bytes), content)| {
                        (Digest::of(if long { Algorithm::Sha256 } else { Algorithm::Sha1 }, &bytes), content)
                    })
                    .collect();
                let documents = documents.into_iter().map(|(number, content)| (EntryName::Documents(number), content));
                let damaged = damaged.map(|content| (EntryName::DamagedDocuments, content));
                let records = records.into_iter().map(|(name, content)| (EntryName::Record(name), content));
                let binaries = binaries.into_iter().map(|(digest, content)| (EntryName::Binary(digest), content));
                let summary = summary.map(|content| (EntryName::ChangesSummary, content));
                documents
                    .chain(damaged)
                    .chain(records)
                    .chain(binaries)
                    .chain(summary)
                    .map(|(name, (content, way))| (name, content, way))
                    .collect()
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_written_is_read_by_us_and_by_others(entries in entries(), piece_bytes in 1..70_000_usize) {
            let mut writer = Writer::new(Vec::new());
            for (name, content, way) in &entries {
                add(&mut writer, name, content, *way).unwrap();
            }
            let announced = writer.written() + writer.closing_bytes();
            let archive = writer.finish().unwrap();
            prop_assert_eq!(to_u64(archive.len()), announced);
            let expected: Contents = entries.into_iter().map(|(name, content, _)| (name, content)).collect();
            prop_assert!(read_stream(&archive[..], piece_bytes).unwrap() == expected);
            prop_assert!(read_singly(&archive).unwrap() == expected);
            let named: Vec<_> = expected.into_iter().map(|(name, content)| (name.to_string(), content)).collect();
            prop_assert!(read_with_the_zip_crate(&archive) == named);
        }

        #[test]
        fn the_same_content_gives_the_same_archive_however_its_reader_cuts_it(
            content in contents(),
            way in ways(),
            cut in 1..5000_usize,
        ) {
            struct Cut<'a>(&'a [u8], usize);
            impl Read for Cut<'_> {
                fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                    let count = into.len().min(self.1);
                    self.0.read(&mut into[..count])
                }
            }
            let name = EntryName::Documents(1);
            let mut whole = Writer::new(Vec::new());
            add(&mut whole, &name, &content, way).unwrap();
            let mut pieces = Writer::new(Vec::new());
            let (size, crc32) = (to_u64(content.len()), crc32fast::hash(&content));
            match way {
                Way::Bytes => pieces.add_bytes(&name, &content),
                Way::Stored => pieces.add_stored(&name, size, crc32, &mut Cut(&content, cut)),
                Way::Deflated => pieces.add_deflated(&name, size, crc32, &mut Cut(&content, cut)),
            }.unwrap();
            prop_assert!(whole.finish().unwrap() == pieces.finish().unwrap());
        }
    }

    #[test]
    fn an_archive_without_entries_is_read_back() {
        let archive = Writer::new(Vec::new()).finish().unwrap();
        assert_eq!(archive.len(), 22);
        assert_eq!(read_stream(&archive[..], 10).unwrap(), []);
        assert_eq!(read_singly(&archive).unwrap(), []);
    }

    #[test]
    fn only_what_shrinks_is_compressed() {
        let mut noise = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = std::iter::repeat_with(|| noise.u8(..)).take(100_000).collect();
        let text = b"all work and no play makes jack a dull boy. ".repeat(1000);
        let mut late_text = noise[..32 * 1024].to_vec();
        late_text.extend(&text);
        for (content, method) in [
            (&noise[..], Method::Stored),
            (&text[..], Method::Deflated),
            (&text[..127], Method::Stored),
            (&text[..128], Method::Deflated),
            (&late_text[..], Method::Stored),
        ] {
            let mut writer = Writer::new(Vec::new());
            writer.add_bytes(&binary(1), content).unwrap();
            let archive = writer.finish().unwrap();
            let mut reader = Reader::new(&archive[..]);
            let entry = reader.next().unwrap().unwrap();
            assert_eq!(entry.method(), method);
            assert_eq!(entry.size(), Some(to_u64(content.len())));
            assert_eq!(entry.crc32(), Some(crc32fast::hash(content)));
        }
    }

    /// Resetting a compressor whose output was not taken to the end made zlib-rs panic some entries later.
    #[test]
    fn any_number_of_incompressible_entries_may_follow_each_other() {
        let mut noise = fastrand::Rng::with_seed(2);
        let noise: Vec<u8> = std::iter::repeat_with(|| noise.u8(..)).take(50_000).collect();
        let mut writer = Writer::new(io::sink());
        for number in 0..20 {
            writer.add_bytes(&binary(number), &noise).unwrap();
        }
    }

    #[test]
    fn more_than_65534_entries_need_zip64_and_have_it() {
        const ENTRIES: u32 = 65_535;
        let mut writer = Writer::new(Vec::new());
        for number in 0..ENTRIES {
            writer.add_bytes(&binary(number), &number.to_le_bytes()).unwrap();
        }
        assert_eq!(writer.entries(), u64::from(ENTRIES));
        let announced = writer.written() + writer.closing_bytes();
        let archive = writer.finish().unwrap();
        assert_eq!(to_u64(archive.len()), announced);
        let mut reader = Reader::new(&archive[..]);
        let mut count = 0;
        while let Some(entry) = reader.next().unwrap() {
            assert_eq!(entry.name(), &binary(count));
            count += 1;
        }
        assert_eq!(count, ENTRIES);
        let tail = &archive[archive.len() - 98..];
        let location = locate(tail, to_u64(archive.len())).unwrap();
        assert_eq!(location.entries, u64::from(ENTRIES));
    }

    #[test]
    fn plain_records_serve_up_to_65534_entries() {
        for (entries, tail_bytes) in [(65_534, 22), (65_535, 98)] {
            let end = format::End { entries, bytes: 0xFFFF_FFFE, offset: 0xFFFF_FFFE };
            assert_eq!(end.tail_bytes(), tail_bytes);
        }
        assert!(format::End { entries: 1, bytes: 1, offset: 0xFFFF_FFFF }.in_zip64());
    }

    /// Bytes in memory, long runs of zeros as their number: an archive of gigabytes that costs nothing.
    #[derive(Default)]
    struct Sparse(Vec<Run>);

    enum Run {
        Zeros(u64),
        Bytes(Vec<u8>),
    }

    impl Write for Sparse {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            static ZEROS: [u8; 1 << 17] = [0; 1 << 17];
            let bytes = &bytes[..bytes.len().min(ZEROS.len())];
            match self.0.last_mut() {
                Some(Run::Zeros(count)) if bytes == &ZEROS[..bytes.len()] => *count += to_u64(bytes.len()),
                _ if bytes == &ZEROS[..bytes.len()] => self.0.push(Run::Zeros(to_u64(bytes.len()))),
                Some(Run::Bytes(run)) => run.extend(bytes),
                _ => self.0.push(Run::Bytes(bytes.to_vec())),
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sparse {
        fn len(&self) -> u64 {
            let bytes = |run: &Run| match run {
                Run::Zeros(count) => *count,
                Run::Bytes(bytes) => to_u64(bytes.len()),
            };
            self.0.iter().map(bytes).sum()
        }

        fn into_reader(self) -> impl Read {
            self.0.into_iter().fold(Box::new(io::empty()) as Box<dyn Read>, |before, run| match run {
                Run::Zeros(count) => Box::new(before.chain(io::repeat(0).take(count))),
                Run::Bytes(bytes) => Box::new(before.chain(Cursor::new(bytes))),
            })
        }
    }

    /// The CRC-32 of so many zeros, in steps that double.
    fn crc_of_zeros(count: u64) -> u32 {
        let mut power = crc32fast::Hasher::new();
        power.update(&[0]);
        let mut sum = crc32fast::Hasher::new();
        for bit in 0..u64::BITS - count.leading_zeros() {
            if count >> bit & 1 == 1 {
                sum.combine(&power);
            }
            let half = power.clone();
            power.combine(&half);
        }
        sum.finalize()
    }

    #[test]
    fn sizes_and_offsets_beyond_four_gibibytes_are_read_back() {
        for large in [0xFFFF_FFFE_u64, 0xFFFF_FFFF, (1 << 32) + 12_345] {
            let mut writer = Writer::new(Sparse::default());
            writer.add_bytes(&binary(1), b"before").unwrap();
            writer.add_stored(&binary(2), large, crc_of_zeros(large), &mut io::repeat(0).take(large)).unwrap();
            writer.add_bytes(&binary(3), b"after").unwrap();
            let announced = writer.written() + writer.closing_bytes();
            let sparse = writer.finish().unwrap();
            assert_eq!(sparse.len(), announced);
            let Some(Run::Bytes(tail)) = sparse.0.last() else { panic!("it ends with the directory") };
            let location = locate(tail, announced).unwrap();
            let start = tail.len() - usize::try_from(announced - location.offset).unwrap();
            let listed: Vec<_> =
                DirectoryReader::new(&tail[start..], location).map(|entry| entry.unwrap().size).collect();
            assert_eq!(listed, [6, large, 5]);
            let mut reader = Reader::new(sparse.into_reader());
            let mut sizes = Vec::new();
            while let Some(entry) = reader.next().unwrap() {
                sizes.push(entry.size().unwrap());
            }
            assert_eq!(sizes, [6, large, 5]);
        }
    }

    #[test]
    fn a_streamed_entry_with_a_wide_descriptor_is_read_back() {
        let large = 3 << 30;
        let mut writer = Writer::new(Vec::new());
        writer.add_deflated(&binary(1), large, crc_of_zeros(large), &mut io::repeat(0).take(large)).unwrap();
        writer.add_bytes(&binary(2), b"after").unwrap();
        let archive = writer.finish().unwrap();
        let mut reader = Reader::new(&archive[..]);
        assert_eq!(reader.next().unwrap().unwrap().size(), None);
        assert_eq!(reader.next().unwrap().unwrap().size(), Some(5));
        assert!(reader.next().unwrap().is_none());
    }
}
