//! Finds single entries through the central directory, for fetching them without the rest of the archive.

use std::fmt;
use std::io::{self, BufReader, Read};

use flate2::Decompress;

use crate::jobs::zip::content::Content;
use crate::jobs::zip::format::{
    DIRECTORY, END_BYTES, END_SIGNATURE, END64_BYTES, End, Header, LOCATOR_BYTES, Sums, read_announced, read_central,
    to_u64,
};
use crate::jobs::zip::{Method, ReadError, may_follow};
use crate::model::archive::EntryName;

/// A header is some 150 bytes, and an entry is fetched alone: more would be read for nothing.
const BUFFER_BYTES: usize = 64 * 1024;

/// Where the central directory of an archive lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryLocation {
    /// Its first byte in the archive.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// How many entries it lists.
    pub entries: u64,
}

impl DirectoryLocation {
    /// How many bytes at the end of an archive are enough for [`locate`].
    pub const TAIL_BYTES: u64 = to_u64(END64_BYTES + LOCATOR_BYTES + END_BYTES);
}

/// Finds the central directory of an archive of `file_len` bytes from its last bytes: the whole archive, or at least
/// [`DirectoryLocation::TAIL_BYTES`] of it.
pub fn locate(tail: &[u8], file_len: u64) -> Result<DirectoryLocation, ReadError> {
    let record = tail.last_chunk::<END_BYTES>().filter(|record| record.starts_with(&END_SIGNATURE));
    let record = record.ok_or(ReadError::NotAnArchive)?;
    let mut end = End::parse_plain(record);
    if end.in_zip64() {
        let records = tail.last_chunk::<{ END64_BYTES + LOCATOR_BYTES + END_BYTES }>();
        end = End::parse_zip64(records.ok_or_else(|| ReadError::Truncated { after: DIRECTORY.to_owned() })?);
    }
    let tail_bytes = end.tail_bytes();
    let start = usize::try_from(tail_bytes).ok().and_then(|bytes| tail.len().checked_sub(bytes));
    end.check(&tail[start.unwrap_or(0)..])?;
    let length = end.offset.checked_add(end.bytes).and_then(|length| length.checked_add(tail_bytes));
    if length != Some(file_len) {
        let what = format!("it belongs to an archive of another length than {file_len} bytes");
        return Err(ReadError::damaged(DIRECTORY, what));
    }
    Ok(DirectoryLocation { offset: end.offset, bytes: end.bytes, entries: end.entries })
}

/// An entry as the central directory lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// What it is.
    pub name: EntryName,
    /// Where its local header begins in the archive.
    pub offset: u64,
    /// How many bytes its content takes there.
    pub compressed: u64,
    /// How many bytes its content has.
    pub size: u64,
    /// The CRC-32 of its content.
    pub crc32: u32,
    /// How its content lies in the archive.
    pub method: Method,
    streamed: bool,
}

impl DirectoryEntry {
    /// How many bytes from `offset` on [`read_single`] needs, exactly.
    pub fn span(&self) -> u64 {
        self.header().span()
    }

    fn header(&self) -> Header {
        let sums = Sums { crc32: self.crc32, compressed: self.compressed, size: self.size };
        Header { name: self.name.clone(), method: self.method, streamed: self.streamed, sums }
    }
}

/// Lists the entries of an archive in their order, and then checks that they fill all the space before the directory.
pub struct DirectoryReader<R> {
    input: BufReader<R>,
    location: DirectoryLocation,
    entries: u64,
    bytes: u64,
    offset: u64,
    last: Option<EntryName>,
    ended: bool,
    header: Vec<u8>,
}

impl<R: Read> DirectoryReader<R> {
    /// A reader of the directory at `location`, which begins where `inner` stands.
    pub fn new(inner: R, location: DirectoryLocation) -> Self {
        let input = BufReader::with_capacity(BUFFER_BYTES, inner);
        Self { input, location, entries: 0, bytes: 0, offset: 0, last: None, ended: false, header: Vec::new() }
    }

    fn read_next(&mut self) -> Result<Option<DirectoryEntry>, ReadError> {
        if self.entries == self.location.entries {
            return self.check_end().map(|()| None);
        }
        let offset = self.offset;
        let Header { name, method, streamed, sums } = read_central(&mut self.input, offset, &mut self.header)?;
        if !may_follow(self.last.as_ref(), &name) {
            return Err(ReadError::Order { name });
        }
        let Sums { crc32, compressed, size } = sums;
        let entry = DirectoryEntry { name, offset, compressed, size, crc32, method, streamed };
        self.entries += 1;
        self.bytes += to_u64(self.header.len());
        self.offset = offset.saturating_add(entry.span());
        self.last = Some(entry.name.clone());
        Ok(Some(entry))
    }

    fn check_end(&self) -> Result<(), ReadError> {
        if self.bytes != self.location.bytes {
            return Err(ReadError::damaged(DIRECTORY, "its entries are not as long as it is"));
        }
        if self.offset != self.location.offset {
            return Err(ReadError::damaged(DIRECTORY, "its entries do not fill the space before it"));
        }
        Ok(())
    }
}

impl<R: Read> Iterator for DirectoryReader<R> {
    type Item = Result<DirectoryEntry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read_next();
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

impl<R> fmt::Debug for DirectoryReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryReader").field("location", &self.location).finish_non_exhaustive()
    }
}

/// The content of `entry`, which lies where `input` stands: [`DirectoryEntry::span`] bytes from its offset on.
pub fn read_single<R: Read>(entry: &DirectoryEntry, input: R) -> Result<SingleEntry<R>, ReadError> {
    let header = entry.header();
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    read_announced(&mut input, &header)?;
    Ok(SingleEntry { content: Content::listed(header), input, inflate: Decompress::new(false) })
}

/// Reads the content of an entry that was fetched alone, under the same checks as [`crate::jobs::zip::Entry`].
pub struct SingleEntry<R> {
    content: Content,
    input: BufReader<R>,
    inflate: Decompress,
}

impl<R: Read> Read for SingleEntry<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.content.read(&mut self.input, &mut self.inflate, into).map_err(ReadError::into_io)
    }
}

impl<R> fmt::Debug for SingleEntry<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SingleEntry").field(&self.content.name).finish()
    }
}
