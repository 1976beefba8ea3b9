//! The content of one entry: copied or inflated, counted, and checked against what the headers say of it.

use std::io::{self, BufRead};

use flate2::{Decompress, FlushDecompress, Status};

use crate::jobs::zip::format::{Announced, Header, Sums, is_wide, read_descriptor};
use crate::jobs::zip::{Method, ReadError};
use crate::model::archive::EntryName;

/// How far the content of an entry has been read.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) name: EntryName,
    pub(super) method: Method,
    pub(super) announced: Announced,
    /// What it should come to, where that is known beforehand.
    expected: Option<Sums>,
    /// The most bytes it may yield.
    limit: u64,
    crc: crc32fast::Hasher,
    consumed: u64,
    produced: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Read to its end, and checked.
    Done,
    Failed,
}

impl Content {
    /// The content after a local header; `limit` holds for an entry that does not announce its size.
    pub(super) fn announced(name: EntryName, method: Method, announced: Announced, limit: u64) -> Self {
        let (expected, limit) = match announced {
            Announced::Exact(sums) => (Some(sums), sums.size),
            Announced::Later { .. } => (None, limit),
        };
        let crc = crc32fast::Hasher::new();
        Self { name, method, announced, expected, limit, crc, consumed: 0, produced: 0, state: State::Open }
    }

    /// The content of an entry that the central directory lists.
    pub(super) fn listed(header: Header) -> Self {
        let announced = header.announced();
        let content = Self::announced(header.name, header.method, announced, header.sums.size);
        Self { expected: Some(header.sums), ..content }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What the headers of the entry must say, once it is done.
    pub(super) fn into_header(self) -> Header {
        let streamed = matches!(self.announced, Announced::Later { .. });
        let sums = Sums { crc32: self.crc.finalize(), compressed: self.consumed, size: self.produced };
        Header { name: self.name, method: self.method, streamed, sums }
    }

    /// Reads on. The last bytes are only given out once everything has been checked, so that a caller who knows the
    /// size and reads no further has not missed an error.
    pub(super) fn read(
        &mut self,
        input: &mut impl BufRead,
        inflate: &mut Decompress,
        into: &mut [u8],
    ) -> Result<usize, ReadError> {
        match self.state {
            State::Done => return Ok(0),
            State::Failed => return Err(self.damaged("it was found damaged before")),
            State::Open if into.is_empty() => return Ok(0),
            State::Open => {}
        }
        let result = match self.method {
            Method::Stored => self.copy(input, into),
            Method::Deflated => self.inflate(input, inflate, into),
        };
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    fn copy(&mut self, input: &mut impl BufRead, into: &mut [u8]) -> Result<usize, ReadError> {
        let room = clip(into, self.limit - self.produced);
        let mut count = 0;
        if !room.is_empty() {
            count = retry(|| input.read(room)).map_err(ReadError::Io)?;
            if count == 0 {
                return Err(self.truncated());
            }
            self.count(count, &into[..count]);
        }
        if self.produced == self.limit {
            self.finish(input)?;
        }
        Ok(count)
    }

    fn inflate(
        &mut self,
        input: &mut impl BufRead,
        inflate: &mut Decompress,
        into: &mut [u8],
    ) -> Result<usize, ReadError> {
        let mut filled = 0;
        loop {
            let left = self.expected.map_or(u64::MAX, |sums| sums.compressed - self.consumed);
            let compressed = retry(|| input.fill_buf().map(<[u8]>::len)).map_err(ReadError::Io)?;
            if compressed == 0 && left > 0 {
                return Err(self.truncated());
            }
            let compressed = input.fill_buf().map_err(ReadError::Io)?;
            let compressed =
                &compressed[..usize::try_from(left).map_or(compressed.len(), |left| left.min(compressed.len()))];
            // A byte more than allowed has to be asked for: the data may go on, or only its end is still to come.
            let mut beyond = [0];
            let full = self.produced == self.limit;
            let room = if full { &mut beyond[..] } else { clip(&mut into[filled..], self.limit - self.produced) };
            let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(compressed, room, FlushDecompress::None);
            let used = lossless(inflate.total_in() - before_in);
            let made = lossless(inflate.total_out() - before_out);
            let status = status.map_err(|_| self.damaged("its compressed data is damaged"))?;
            input.consume(used);
            if full && made > 0 {
                return Err(self.damaged(format!("it holds more than {} bytes", self.limit)));
            }
            self.count(used, &into[filled..filled + made]);
            filled += made;
            if status == Status::StreamEnd {
                self.finish(input)?;
                return Ok(filled);
            }
            if used == 0 && made == 0 {
                return Err(self.damaged("its compressed data has no end"));
            }
            if filled > 0 && self.produced < self.limit {
                return Ok(filled);
            }
        }
    }

    fn count(&mut self, consumed: usize, content: &[u8]) {
        self.crc.update(content);
        self.consumed += u64::try_from(consumed).unwrap_or(u64::MAX);
        self.produced += u64::try_from(content.len()).unwrap_or(u64::MAX);
    }

    /// Checks what was read against the headers, and against the data descriptor, which it reads.
    fn finish(&mut self, input: &mut impl BufRead) -> Result<(), ReadError> {
        let actual = Sums { crc32: self.crc.clone().finalize(), compressed: self.consumed, size: self.produced };
        if let Some(expected) = self.expected {
            self.check(expected, actual)?;
        }
        if let Announced::Later { wide } = self.announced {
            let described = read_descriptor(input, wide).map_err(|short| short.after(&self.name))?;
            let described = described.ok_or_else(|| self.damaged("no data descriptor follows its content"))?;
            self.check(described, actual)?;
            if wide != is_wide(actual.size) {
                return Err(self.damaged("its data descriptor is not as Holdfast writes it"));
            }
        }
        self.state = State::Done;
        Ok(())
    }

    fn check(&self, expected: Sums, actual: Sums) -> Result<(), ReadError> {
        let what = if actual.size != expected.size {
            format!("its content has {} bytes instead of {}", actual.size, expected.size)
        } else if actual.crc32 != expected.crc32 {
            format!("its content has the CRC-32 {:08x} instead of {:08x}", actual.crc32, expected.crc32)
        } else if actual.compressed != expected.compressed {
            format!("its content ends after {} compressed bytes of {}", actual.compressed, expected.compressed)
        } else {
            return Ok(());
        };
        Err(self.damaged(what))
    }

    fn damaged(&self, what: impl Into<String>) -> ReadError {
        ReadError::damaged(&self.name, what)
    }

    fn truncated(&self) -> ReadError {
        ReadError::Truncated { after: self.name.to_string() }
    }
}

/// The beginning of `bytes`, at most `limit` of them.
fn clip(bytes: &mut [u8], limit: u64) -> &mut [u8] {
    let count = usize::try_from(limit).unwrap_or(usize::MAX).min(bytes.len());
    &mut bytes[..count]
}

/// A count of bytes in memory.
fn lossless(count: u64) -> usize {
    usize::try_from(count).expect("a step takes and yields no more than the buffers hold")
}

/// Calls again what a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
