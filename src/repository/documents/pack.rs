//! The second reading's output: documents in gzip files of a bounded size, and damaged lines in one of their own.

use std::io::BufReader;
use std::io::Read;
use std::io::Write as _;
use std::ops::ControlFlow;

use anyhow::Context as _;
use anyhow::bail;
use anyhow::ensure;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::model::archive::DAMAGED_DOCUMENTS;
use crate::model::archive::documents_name;
use crate::model::digest::Algorithm;
use crate::model::digest::Digest;
use crate::model::digest::Hasher;
use crate::model::document::scan;
use crate::model::references::references;
use crate::repository::documents::PackedDocuments;
use crate::repository::documents::lines::Ending;
use crate::repository::documents::lines::Line;
use crate::repository::documents::lines::Lines;
use crate::repository::documents::lines::unpacked;

/// How many documents a file holds at most, as ModeShape's own do.
pub(super) const DOCUMENTS_PER_FILE: u64 = 100_000;
/// How large a file may become: small enough to be held in memory and sent in one request.
const FILE_BYTES: usize = 8 << 20;
/// What the compressor may still hold back.
const COMPRESSOR_BYTES: usize = 256 << 10;
/// How much of damaged lines is held in memory, compressed.
const DAMAGED_BYTES: usize = 64 << 20;
/// The numbers that a name has digits for.
const FILES: u32 = 999_999;

pub(super) struct Packer<'a> {
    sink: &'a mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>,
    file: Option<Pack>,
    files: u32,
    damaged: Option<Pack>,
    documents: u64,
    content: Hasher,
}

/// What went to the sink, added up.
pub(super) struct Packed {
    pub(super) documents: u64,
    pub(super) content_sha1: Digest,
}

impl<'a> Packer<'a> {
    pub(super) fn new(sink: &'a mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>) -> Self {
        let content = Hasher::new(Algorithm::Sha1);
        Self { sink, file: None, files: 0, damaged: None, documents: 0, content }
    }

    /// Adds a document; nothing if the line is blank.
    pub(super) fn add(&mut self, document: &[u8]) -> anyhow::Result<()> {
        if document.is_empty() {
            return Ok(());
        }
        if self.file.as_ref().is_some_and(|file| !file.has_room_for(document)) {
            self.hand_over()?;
        }
        let file = self.file.get_or_insert_with(Pack::new);
        for piece in [document, b"\n"] {
            self.content.update(piece);
            file.write(piece);
        }
        references(document, |digest| file.references.push(digest));
        file.lines += 1;
        self.documents += 1;
        Ok(())
    }

    /// Keeps a line that is no document, or a piece of one.
    pub(super) fn keep_aside(&mut self, line: &Line<'_>) -> anyhow::Result<()> {
        self.aside(line.bytes, line.first)?;
        if !line.bytes.ends_with(b"\n") && !matches!(line.ending, Ending::Continues) {
            self.aside(b"\n", false)?;
        }
        Ok(())
    }

    /// Keeps a piece of what is no document; `first` if a line begins with it.
    pub(super) fn aside(&mut self, piece: &[u8], first: bool) -> anyhow::Result<()> {
        let file = self.damaged.get_or_insert_with(Pack::new);
        file.write(piece);
        file.lines += u64::from(first);
        ensure!(
            file.encoder.get_ref().len() <= DAMAGED_BYTES,
            "keep what is damaged aside: it is more than 64 MiB even when compressed; is this a directory of documents?"
        );
        Ok(())
    }

    pub(super) fn finish(mut self) -> anyhow::Result<Packed> {
        self.hand_over()?;
        if let Some(damaged) = self.damaged.take() {
            (self.sink)(damaged.finish(DAMAGED_DOCUMENTS.to_owned()))?;
        }
        Ok(Packed { documents: self.documents, content_sha1: self.content.finish() })
    }

    fn hand_over(&mut self) -> anyhow::Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        self.files += 1;
        ensure!(self.files <= FILES, "pack documents: there are more than {FILES} files of them");
        (self.sink)(file.finish(documents_name(self.files)))
    }
}

/// A gzip file being written in memory.
struct Pack {
    encoder: GzEncoder<Vec<u8>>,
    lines: u64,
    references: Vec<Digest>,
}

impl Pack {
    fn new() -> Self {
        Self { encoder: GzEncoder::new(Vec::new(), Compression::new(6)), lines: 0, references: Vec::new() }
    }

    /// Whether the document fits in even if it cannot be compressed.
    fn has_room_for(&self, document: &[u8]) -> bool {
        self.lines < DOCUMENTS_PER_FILE
            && self.encoder.get_ref().len() + COMPRESSOR_BYTES + document.len() <= FILE_BYTES
    }

    fn write(&mut self, piece: &[u8]) {
        self.encoder.write_all(piece).expect("memory takes everything");
    }

    fn finish(self, name: String) -> PackedDocuments {
        let content = self.encoder.finish().expect("memory takes everything");
        let sha1 = Digest::of(Algorithm::Sha1, &content);
        PackedDocuments { name, content, sha1, documents: self.lines, references: self.references }
    }
}

/// A file of these lines as they are, none of them looked at.
pub fn packed_lines(name: String, lines: &[String]) -> PackedDocuments {
    let mut file = Pack::new();
    for line in lines {
        file.write(line.as_bytes());
        file.write(b"\n");
        file.lines += 1;
    }
    file.finish(name)
}

/// Hands the lines of a packed file over to `visit`, without their newlines, until that breaks off.
pub fn each_line(
    content: &[u8],
    visit: &mut dyn FnMut(&[u8]) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<ControlFlow<()>> {
    let mut lines = Lines::new(unpacked(content));
    while let Some(line) = lines.next().context("read documents")? {
        let place = || format!("read line {} of documents", line.number);
        match line.ending {
            Ending::Whole => {}
            Ending::Continues => bail!("{}: it is longer than 64 MiB", place()),
            Ending::Broken(error) => return Err(error).with_context(place),
        }
        if visit(line.bytes.strip_suffix(b"\n").unwrap_or(line.bytes))?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Checks a packed file and gives how many documents it holds: the gzip stream is whole, and every line a document.
pub fn count_documents(reader: impl Read) -> anyhow::Result<u64> {
    let mut lines = Lines::new(unpacked(BufReader::with_capacity(64 << 10, reader)));
    let mut documents = 0;
    while let Some(line) = lines.next().context("read documents")? {
        let place = || format!("check line {} of documents", line.number);
        match line.ending {
            Ending::Whole => {}
            Ending::Continues => bail!("{}: it is longer than 64 MiB", place()),
            Ending::Broken(error) => return Err(error).with_context(place),
        }
        scan(line.bytes).with_context(place)?;
        // ModeShape would take this for the end of the file.
        ensure!(line.bytes.starts_with(b"{"), "{}: it does not begin with `{{`", place());
        documents += 1;
    }
    Ok(documents)
}
