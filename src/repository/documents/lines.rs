//! The lines of a documents file, whether it is compressed or not, whole or not.

use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::model::digest::Algorithm;
use crate::model::digest::Digest;
use crate::model::digest::Hasher;

/// The longest line that may be a document; it is held in memory.
pub(super) const LINE_LIMIT: usize = 64 << 20;
/// How much is unpacked at once: when a gzip stream breaks off, up to this much before the place is lost.
const UNPACKED_BYTES: usize = 8 << 10;

/// A line, or a piece of one that is too long to be a document.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// Counted from 1.
    pub(super) number: u64,
    /// What stands there, with the newline if there is one.
    pub(super) bytes: &'a [u8],
    /// Whether this is its beginning.
    pub(super) first: bool,
    pub(super) ending: Ending,
}

#[derive(Debug)]
pub(super) enum Ending {
    /// The line ends here.
    Whole,
    /// More of it follows.
    Continues,
    /// The gzip stream is damaged here; nothing follows.
    Broken(io::Error),
}

pub(super) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
    /// The last piece did not end its line.
    continues: bool,
    broken: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), number: 0, continues: false, broken: false }
    }

    pub(super) fn into_inner(self) -> R {
        self.reader
    }

    /// The next line; an error only if the file itself cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        if self.broken {
            return Ok(None);
        }
        self.buffer.clear();
        // One more than the limit for the newline of the longest line.
        let limit = LINE_LIMIT as u64 + 1;
        let ending = match self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer) {
            Ok(0) if !self.continues => return Ok(None),
            Ok(_) if self.buffer.len() > LINE_LIMIT && self.buffer.last() != Some(&b'\n') => Ending::Continues,
            Ok(_) => Ending::Whole,
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            Err(error) => Ending::Broken(error),
        };
        let first = !self.continues;
        self.number += u64::from(first);
        self.continues = matches!(ending, Ending::Continues);
        self.broken = matches!(ending, Ending::Broken(_));
        Ok(Some(Line { number: self.number, bytes: &self.buffer, first, ending }))
    }
}

/// A documents file, digested as it is read.
pub(super) enum Source {
    Plain(BufReader<Digested>),
    Gzip(Box<BufReader<MultiGzDecoder<BufReader<Digested>>>>),
}

pub(super) struct Digested {
    file: File,
    hasher: Hasher,
}

impl Source {
    pub(super) fn open(path: &Path, gzip: bool) -> io::Result<Self> {
        let file = Digested { file: File::open(path)?, hasher: Hasher::new(Algorithm::Sha1) };
        let file = BufReader::with_capacity(64 << 10, file);
        Ok(if gzip { Self::Gzip(Box::new(unpacked(file))) } else { Self::Plain(file) })
    }

    /// The SHA-1 of the whole file as it lies there.
    pub(super) fn finish(self) -> io::Result<Digest> {
        let mut file = match self {
            Self::Plain(file) => file.into_inner(),
            Self::Gzip(file) => file.into_inner().into_inner().into_inner(),
        };
        io::copy(&mut file, &mut io::sink())?;
        Ok(file.hasher.finish())
    }
}

/// The content of a gzip file, of one member or several.
pub(super) fn unpacked<R: BufRead>(file: R) -> BufReader<MultiGzDecoder<R>> {
    BufReader::with_capacity(UNPACKED_BYTES, MultiGzDecoder::new(file))
}

impl Read for Digested {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Gzip(file) => file.read(buffer),
        }
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Plain(file) => file.fill_buf(),
            Self::Gzip(file) => file.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self {
            Self::Plain(file) => file.consume(amount),
            Self::Gzip(file) => file.consume(amount),
        }
    }
}
