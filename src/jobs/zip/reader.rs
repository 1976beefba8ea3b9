//! Reads an archive from its first byte to its last, trusting nothing in it.

use std::fmt;
use std::io::{self, BufReader, Read};

use flate2::Decompress;

use crate::jobs::zip::content::Content;
use crate::jobs::zip::format::{
    Announced, CENTRAL_SIGNATURE, DIRECTORY, END_SIGNATURE, END64_SIGNATURE, End, LOCAL_SIGNATURE, Short, fill,
    read_central_after, read_local, to_u64,
};
use crate::jobs::zip::{Method, ReadError, may_follow};
use crate::model::archive::EntryName;
use crate::model::digest::{Algorithm, Hasher};

const BUFFER_BYTES: usize = 128 * 1024;
const SIGNATURE_BYTES: u64 = 4;

/// Reads the entries one after the other; after the last one, the central directory must list exactly these.
pub struct Reader<R> {
    input: BufReader<R>,
    inflate: Decompress,
    limit: u64,
    place: Place,
    last: Option<EntryName>,
    /// Where the next entry, or the central directory, begins.
    offset: u64,
    entries: u64,
    /// What the central directory has to be, as its length and its digest.
    directory_bytes: u64,
    directory: Hasher,
    header: Vec<u8>,
}

#[derive(Debug)]
enum Place {
    Between,
    Inside(Content),
    Ended,
    Failed,
}

impl<R: Read> Reader<R> {
    /// A reader of the archive that begins where `inner` stands.
    pub fn new(inner: R) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER_BYTES, inner),
            inflate: Decompress::new(false),
            limit: u64::MAX,
            place: Place::Between,
            last: None,
            offset: 0,
            entries: 0,
            directory_bytes: 0,
            directory: Hasher::new(Algorithm::Sha256),
            header: Vec::new(),
        }
    }

    /// Refuses an entry that does not announce its size once it yields more than this; others never yield more than
    /// they announce.
    #[must_use]
    pub fn with_limit(self, max_entry_bytes: u64) -> Self {
        Self { limit: max_entry_bytes, ..self }
    }

    /// The next entry, after reading the current one to its end. None comes only after the central directory has
    /// been found to list all entries as they were, and nothing to follow it. After an error there is no next entry.
    #[expect(clippy::should_implement_trait, reason = "an entry borrows the reader, which no iterator can say")]
    pub fn next(&mut self) -> Result<Option<Entry<'_, R>>, ReadError> {
        if matches!(self.place, Place::Ended) {
            return Ok(None);
        }
        self.place = self.advance()?.map_or(Place::Ended, Place::Inside);
        match &mut self.place {
            Place::Inside(content) => Ok(Some(Entry { content, input: &mut self.input, inflate: &mut self.inflate })),
            _ => Ok(None),
        }
    }

    fn advance(&mut self) -> Result<Option<Content>, ReadError> {
        match std::mem::replace(&mut self.place, Place::Failed) {
            Place::Inside(content) => self.leave(content)?,
            Place::Failed => return Err(ReadError::Io(io::Error::other("it was found unreadable before"))),
            Place::Between | Place::Ended => {}
        }
        match self.signature()? {
            LOCAL_SIGNATURE => self.enter().map(Some),
            other => self.close(other).map(|()| None),
        }
    }

    fn enter(&mut self) -> Result<Content, ReadError> {
        let after = self.after();
        let (name, method, announced) = read_local(&mut self.input, &after)?;
        if !may_follow(self.last.as_ref(), &name) {
            return Err(ReadError::Order { name });
        }
        self.last = Some(name.clone());
        self.inflate.reset(false);
        Ok(Content::announced(name, method, announced, self.limit))
    }

    /// Reads the rest of an entry and notes what the central directory has to say of it.
    fn leave(&mut self, mut content: Content) -> Result<(), ReadError> {
        let mut rest = vec![0; if content.is_done() { 0 } else { BUFFER_BYTES }];
        while !content.is_done() {
            content.read(&mut self.input, &mut self.inflate, &mut rest)?;
        }
        let header = content.into_header();
        self.header.clear();
        header.put_central(self.offset, &mut self.header);
        self.directory.update(&self.header);
        self.directory_bytes += to_u64(self.header.len());
        self.offset += header.span();
        self.entries += 1;
        Ok(())
    }

    /// Reads all that follows the last entry, from `signature` on.
    fn close(&mut self, signature: [u8; 4]) -> Result<(), ReadError> {
        let end = End { entries: self.entries, bytes: self.directory_bytes, offset: self.offset };
        let signature = self.read_directory(signature, end)?;
        match signature {
            END_SIGNATURE | END64_SIGNATURE => {}
            CENTRAL_SIGNATURE => return Err(ReadError::damaged(DIRECTORY, "it lists more entries than there are")),
            _ => return Err(ReadError::damaged(DIRECTORY, "no end record follows it")),
        }
        let mut expected = Vec::new();
        end.put(&mut expected);
        let mut actual = vec![0; expected.len()];
        actual[..4].copy_from_slice(&signature);
        if !expected.starts_with(&signature) {
            return Err(ReadError::damaged(DIRECTORY, "its end record is not of the kind that its size needs"));
        }
        fill(&mut self.input, &mut actual[4..]).map_err(|short| short.after(DIRECTORY))?;
        end.check(&actual)?;
        match fill(&mut self.input, &mut [0]) {
            Err(Short::Ended) => Ok(()),
            Err(Short::Io(error)) => Err(ReadError::Io(error)),
            Ok(()) => Err(ReadError::damaged(DIRECTORY, "data follows the end of the archive")),
        }
    }

    /// Compares the central directory with the entries: the signature of what follows it.
    fn read_directory(&mut self, mut signature: [u8; 4], end: End) -> Result<[u8; 4], ReadError> {
        let mut listed = Hasher::new(Algorithm::Sha256);
        let mut offset = 0;
        for _ in 0..end.entries {
            let header = read_central_after(signature, &mut self.input, offset, &mut self.header)?;
            listed.update(&self.header);
            offset = header.span().saturating_add(offset);
            signature = self.signature()?;
        }
        // Two digests instead of a list: which entry differs is not known then, but that one does.
        let expected = std::mem::replace(&mut self.directory, Hasher::new(Algorithm::Sha256)).finish();
        if listed.finish() != expected {
            return Err(ReadError::damaged(DIRECTORY, "it does not list the entries as they are"));
        }
        Ok(signature)
    }

    /// What comes next.
    fn signature(&mut self) -> Result<[u8; 4], ReadError> {
        let mut signature = [0; 4];
        let mut found = Vec::new();
        let count = (&mut self.input).take(SIGNATURE_BYTES).read_to_end(&mut found).map_err(ReadError::Io)?;
        signature[..count].copy_from_slice(&found);
        let known = [LOCAL_SIGNATURE, CENTRAL_SIGNATURE, END_SIGNATURE, END64_SIGNATURE]
            .iter()
            .any(|known| known.starts_with(&found));
        let at_start = self.last.is_none();
        match known {
            true if found.len() == signature.len() => Ok(signature),
            true if !(at_start && found.is_empty()) => Err(ReadError::Truncated { after: self.after() }),
            _ if at_start => Err(ReadError::NotAnArchive),
            _ => Err(ReadError::damaged(&self.after(), "no header follows it")),
        }
    }

    /// The entry that came last, for saying where something is.
    fn after(&self) -> String {
        self.last.as_ref().map_or_else(|| "its beginning".to_owned(), EntryName::to_string)
    }
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("entries", &self.entries).field("place", &self.place).finish_non_exhaustive()
    }
}

/// An entry of an archive; reading it yields its content. The end, and with it the last bytes, only comes when size
/// and CRC are right; [`ReadError::from_content`] tells what was wrong.
pub struct Entry<'a, R> {
    content: &'a mut Content,
    input: &'a mut BufReader<R>,
    inflate: &'a mut Decompress,
}

impl<R> Entry<'_, R> {
    /// What it is.
    pub const fn name(&self) -> &EntryName {
        &self.content.name
    }

    /// How its content lies in the archive.
    pub const fn method(&self) -> Method {
        self.content.method
    }

    /// How many bytes it will yield, if the archive says so beforehand.
    pub const fn size(&self) -> Option<u64> {
        match self.content.announced {
            Announced::Exact(sums) => Some(sums.size),
            Announced::Later { .. } => None,
        }
    }

    /// The CRC-32 of its content, if the archive says so beforehand.
    pub const fn crc32(&self) -> Option<u32> {
        match self.content.announced {
            Announced::Exact(sums) => Some(sums.crc32),
            Announced::Later { .. } => None,
        }
    }
}

impl<R: Read> Read for Entry<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.content.read(self.input, self.inflate, into).map_err(ReadError::into_io)
    }
}

impl<R> fmt::Debug for Entry<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.content.name).finish()
    }
}
