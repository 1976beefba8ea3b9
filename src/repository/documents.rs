//! The documents of a repository: in a directory, or in a table of a database.
//!
//! A directory is what ModeShape's backup writes: `documents_000001.bin.gz` or `.bin` and so on, and in `changes/`, read
//! after them, what changed meanwhile. They are read twice. The first reading judges every line and finds the documents that stand there more than once;
//! the second hands over the rest in files of a bounded size. Between the two only a bit is held for a line left out.
//!
//! A table is read as it is at one moment, once, and written all at once or not at all (`source`, `sink`).

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::bail;
use anyhow::ensure;

use crate::model::digest::Algorithm;
use crate::model::digest::Digest;
use crate::model::run::Problem;
use crate::repository::documents::lines::Lines;
use crate::repository::documents::lines::Source;
use crate::repository::documents::listing::DocumentsFile;
use crate::repository::documents::listing::Listing;
use crate::repository::documents::pack::Packed;
use crate::repository::documents::pack::Packer;
use crate::repository::documents::survey::Survey;

mod database;
mod fedora;
mod lines;
mod listing;
mod mysql;
mod ordinals;
mod pack;
mod postgres;
mod sink;
mod source;
mod survey;

pub use database::OtherConnection;
pub use database::TableReport;
pub use listing::Fingerprint;
pub use pack::count_documents;
pub use pack::each_line;
pub use pack::packed_lines;
pub use sink::CommitUnknown;
pub use sink::DocumentSink;
pub use source::DocumentSource;
pub use source::OpenDocuments;

/// How many problems a report names; it counts them all.
const NAMED_PROBLEMS: usize = 100;

/// A directory of documents files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentDirectory {
    path: PathBuf,
}

/// What is remembered of the documents read so far, by hashes: the first 16 bytes of a SHA-1.
pub trait SeenDocuments {
    /// Remembers the document in place of the one with the same id, and gives that one.
    fn insert(&mut self, id: [u8; 16], content: [u8; 16], ordinal: u64) -> anyhow::Result<Option<Earlier>>;
}

/// A document of the same id that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// The hash of its line.
    pub content: [u8; 16],
    /// How many lines were read before it.
    pub ordinal: u64,
}

/// For few documents: each takes some hundred bytes of memory.
impl<S: std::hash::BuildHasher> SeenDocuments for std::collections::HashMap<[u8; 16], Earlier, S> {
    fn insert(&mut self, id: [u8; 16], content: [u8; 16], ordinal: u64) -> anyhow::Result<Option<Earlier>> {
        Ok(Self::insert(self, id, Earlier { content, ordinal }))
    }
}

/// A file ready for a restore point or an archive, gzip-compressed.
#[derive(Clone, PartialEq, Eq)]
pub struct PackedDocuments {
    /// `documents_000001.bin.gz`, or [`DAMAGED_DOCUMENTS`](crate::model::archive::DAMAGED_DOCUMENTS) for the lines
    /// that are no documents, which come last.
    pub name: String,
    /// The file: about 8 MiB at most, unless a single document is larger; the damaged lines 64 MiB.
    pub content: Vec<u8>,
    /// The SHA-1 of `content`.
    pub sha1: Digest,
    /// How many lines it holds.
    pub documents: u64,
    /// The binaries that they refer to, each as often as they do.
    pub references: Vec<Digest>,
}

impl std::fmt::Debug for PackedDocuments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, content, sha1, documents, references: _ } = self;
        write!(f, "PackedDocuments({name}, {} bytes, {sha1}, {documents} documents)", content.len())
    }
}

/// What [`DocumentDirectory::read`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentReport {
    /// Documents handed over, each id once.
    pub documents: u64,
    /// Documents left out because the same one, byte for byte, follows.
    pub duplicates: u64,
    /// Documents left out because another one with the same id follows.
    pub conflicting: u64,
    /// Lines that are no documents, and places from which on a file cannot be read.
    pub damaged: u64,
    /// How many problems are no loss; these alone do not make a run partial.
    pub warnings: u64,
    /// How many problems are, or may be, a loss.
    pub losses: u64,
    /// The first hundred: the losses, of kind `damaged` or `missing`, then the warnings, of kind `documents`.
    pub problems: Vec<Problem>,
    /// The SHA-1 over all documents handed over, each with its newline; equal when nothing really changed.
    pub content_sha1: Digest,
}

/// The documents files were written, added or taken away during the reading; trying again is worth it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("documents changed while they were read: `{0}`")]
pub struct DocumentsChanged(String);

/// The caller's `stop` said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped while reading documents")]
pub struct Stopped;

impl DocumentDirectory {
    /// The documents in the directory `path`; nothing is looked at yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the files look like from outside; as long as it stays the same, there is nothing new to read.
    ///
    /// An error if there are no documents files at all.
    pub fn fingerprint(&self) -> anyhow::Result<Fingerprint> {
        Ok(Listing::of(&self.path)?.fingerprint)
    }

    /// Reads all documents and hands them to `sink` in files, each id once: of several documents with one id, the
    /// last in reading order.
    ///
    /// Blocks. `seen` has to be empty. What `sink` got counts only when this returns a report: the error may be that
    /// the files [changed](DocumentsChanged), or that it was [stopped](Stopped).
    pub fn read(
        &self,
        seen: &mut dyn SeenDocuments,
        stop: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>,
    ) -> anyhow::Result<DocumentReport> {
        let listing = Listing::of(&self.path)?;
        let survey = survey(&listing, seen, stop)?;
        self.unchanged(&listing)?;
        if survey.found_nothing() {
            // Restoring no documents at all would empty the repository.
            bail!("read documents in `{}`: its files hold none; make the backup there once more", self.path.display());
        }
        let packed = pack(&survey, stop, sink)?;
        self.unchanged(&listing)?;
        Ok(survey.report(&packed))
    }

    fn unchanged(&self, listing: &Listing) -> anyhow::Result<()> {
        let changed = || DocumentsChanged(self.path.display().to_string());
        let now = Listing::of(&self.path).with_context(changed)?;
        ensure!(now.fingerprint == listing.fingerprint, changed());
        Ok(())
    }
}

fn survey<'a>(
    listing: &'a Listing,
    seen: &mut dyn SeenDocuments,
    stop: &dyn Fn() -> bool,
) -> anyhow::Result<Survey<'a>> {
    let mut survey = Survey::new(listing);
    for file in &listing.files {
        let mut lines = open(file)?;
        while let Some(line) = lines.next()? {
            go_on(stop)?;
            survey.line(&line, seen)?;
        }
        survey.end_of_file(lines.finish()?);
    }
    Ok(survey)
}

fn pack(
    survey: &Survey<'_>,
    stop: &dyn Fn() -> bool,
    sink: &mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>,
) -> anyhow::Result<Packed> {
    let mut packer = Packer::new(sink);
    for surveyed in survey.files() {
        let mut lines = open(surveyed.file)?;
        while let Some(line) = lines.next()? {
            go_on(stop)?;
            let ordinal = surveyed.ordinal(line.number);
            if survey.damaged.contains(ordinal) {
                packer.keep_aside(&line)?;
            } else if !survey.superseded.contains(ordinal) {
                packer.add(line.bytes.trim_ascii())?;
            }
        }
        ensure!(lines.finish()? == surveyed.sha1, DocumentsChanged(surveyed.file.name.clone()));
    }
    packer.finish()
}

fn go_on(stop: &dyn Fn() -> bool) -> Result<(), Stopped> {
    if stop() { Err(Stopped) } else { Ok(()) }
}

/// The lines of a file, with its name in every error.
struct OpenFile<'a> {
    file: &'a DocumentsFile,
    lines: Lines<Source>,
}

fn open(file: &DocumentsFile) -> anyhow::Result<OpenFile<'_>> {
    let source = match Source::open(&file.path, file.gzip) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(error).context(DocumentsChanged(file.name.clone()));
        }
        source => source.with_context(|| format!("open `{}`", file.path.display()))?,
    };
    Ok(OpenFile { file, lines: Lines::new(source) })
}

impl OpenFile<'_> {
    fn next(&mut self) -> anyhow::Result<Option<lines::Line<'_>>> {
        self.lines.next().with_context(|| format!("read `{}`", self.file.path.display()))
    }

    fn finish(self) -> anyhow::Result<Digest> {
        self.lines.into_inner().finish().with_context(|| format!("read `{}`", self.file.path.display()))
    }
}

/// The first 16 bytes of the SHA-1, which tell documents apart in half the space.
pub fn short_hash(bytes: &[u8]) -> [u8; 16] {
    *Digest::of(Algorithm::Sha1, bytes).as_bytes().first_chunk().expect("a SHA-1 has 20 bytes")
}
