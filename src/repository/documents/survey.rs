//! The first reading: which lines are documents, and which of them come again later.

use crate::model::digest::Digest;
use crate::model::document::DocumentError;
use crate::model::document::scan;
use crate::model::run::Problem;
use crate::repository::documents::DocumentReport;
use crate::repository::documents::NAMED_PROBLEMS;
use crate::repository::documents::SeenDocuments;
use crate::repository::documents::lines::Ending;
use crate::repository::documents::lines::Line;
use crate::repository::documents::listing::DocumentsFile;
use crate::repository::documents::listing::Listing;
use crate::repository::documents::listing::problem;
use crate::repository::documents::ordinals::Ordinals;
use crate::repository::documents::pack::Packed;
use crate::repository::documents::short_hash;

/// How much of an id stands in a problem, in characters.
pub(super) const SHOWN_ID: usize = 200;

pub(super) struct Survey<'a> {
    listing: &'a Listing,
    /// How many lines precede each file read so far and the one being read, which is the last.
    starts: Vec<u64>,
    /// The SHA-1 of each file read so far.
    sha1s: Vec<Digest>,
    /// Documents that come again later.
    pub(super) superseded: Ordinals,
    /// Lines that are no documents.
    pub(super) damaged: Ordinals,
    /// How many lines were read.
    lines: u64,
    documents: u64,
    duplicates: u64,
    conflicting: u64,
    damages: u64,
    warnings: Noted,
    losses: Noted,
}

/// What the second reading has to find again.
pub(super) struct Surveyed<'a> {
    pub(super) file: &'a DocumentsFile,
    /// How many lines precede it.
    start: u64,
    pub(super) sha1: Digest,
}

impl Surveyed<'_> {
    /// How many lines precede the one with this number in this file.
    pub(super) fn ordinal(&self, number: u64) -> u64 {
        self.start + number - 1
    }
}

/// Problems of one weight: all counted, some named.
#[derive(Default)]
pub(super) struct Noted {
    pub(super) count: u64,
    pub(super) named: Vec<Problem>,
}

impl Noted {
    pub(super) fn note(&mut self, problem: impl FnOnce() -> Problem) {
        self.count += 1;
        if self.named.len() < NAMED_PROBLEMS {
            self.named.push(problem());
        }
    }
}

impl<'a> Survey<'a> {
    pub(super) fn new(listing: &'a Listing) -> Self {
        let [mut warnings, mut losses] = [Noted::default(), Noted::default()];
        listing.warnings.iter().for_each(|problem| warnings.note(|| problem.clone()));
        listing.losses.iter().for_each(|problem| losses.note(|| problem.clone()));
        Self {
            listing,
            starts: vec![0],
            sha1s: Vec::new(),
            superseded: Ordinals::default(),
            damaged: Ordinals::default(),
            lines: 0,
            documents: 0,
            duplicates: 0,
            conflicting: 0,
            damages: 0,
            warnings,
            losses,
        }
    }

    /// Judges the next line of the file after those that ended.
    pub(super) fn line(&mut self, line: &Line<'_>, seen: &mut dyn SeenDocuments) -> anyhow::Result<()> {
        let ordinal = self.ordinal(line.number);
        self.lines = ordinal + 1;
        if let Ending::Broken(error) = &line.ending {
            self.lose(line.number, || format!("the gzip stream is damaged from here on: {error}"));
        }
        let document = line.bytes.trim_ascii();
        match &line.ending {
            _ if !line.first => {}
            Ending::Continues => {
                self.damaged.insert(ordinal);
                self.lose(line.number, || "is longer than 64 MiB".to_owned());
            }
            _ if document.is_empty() => {}
            ending => match scan(document) {
                Ok(scanned) => self.document(ordinal, &scanned.id, document, seen)?,
                Err(DocumentError { at, message }) => {
                    self.damaged.insert(ordinal);
                    // What a broken stream cuts through is one damage with it.
                    if matches!(ending, Ending::Whole) {
                        self.lose(line.number, || format!("is no document: at byte {at}: {message}"));
                    }
                }
            },
        }
        Ok(())
    }

    pub(super) fn end_of_file(&mut self, sha1: Digest) {
        self.sha1s.push(sha1);
        self.starts.push(self.lines);
    }

    /// The files, for the second reading.
    pub(super) fn files(&self) -> impl Iterator<Item = Surveyed<'a>> {
        let places = self.starts.iter().zip(&self.sha1s);
        self.listing.files.iter().zip(places).map(|(file, (start, sha1))| Surveyed { file, start: *start, sha1: *sha1 })
    }

    /// Whether there is neither a document nor anything that might have been one.
    pub(super) fn found_nothing(&self) -> bool {
        self.documents == 0 && self.damages == 0
    }

    pub(super) fn report(self, packed: &Packed) -> DocumentReport {
        let mut problems = self.losses.named;
        problems.extend(self.warnings.named);
        problems.truncate(NAMED_PROBLEMS);
        DocumentReport {
            documents: packed.documents,
            duplicates: self.duplicates,
            conflicting: self.conflicting,
            damaged: self.damages,
            warnings: self.warnings.count,
            losses: self.losses.count,
            problems,
            content_sha1: packed.content_sha1,
        }
    }

    fn document(&mut self, ordinal: u64, id: &str, line: &[u8], seen: &mut dyn SeenDocuments) -> anyhow::Result<()> {
        self.documents += 1;
        let content = short_hash(line);
        let Some(earlier) = seen.insert(short_hash(id.as_bytes()), content, ordinal)? else { return Ok(()) };
        self.superseded.insert(earlier.ordinal);
        if earlier.content == content {
            self.duplicates += 1;
            return Ok(());
        }
        self.conflicting += 1;
        let (first, second) = (self.place(earlier.ordinal), self.place(ordinal));
        self.warnings.note(|| {
            let id: String = id.chars().take(SHOWN_ID).collect();
            problem("documents", &id, format!("stands in {first} and differently in {second}, which is kept"))
        });
        Ok(())
    }

    fn lose(&mut self, number: u64, message: impl FnOnce() -> String) {
        self.damages += 1;
        let place = self.place(self.ordinal(number));
        self.losses.note(|| problem("damaged", &place, message()));
    }

    /// How many lines precede the one with this number in the file being read.
    fn ordinal(&self, number: u64) -> u64 {
        self.starts.last().unwrap_or(&0) + number - 1
    }

    /// The file and line with this ordinal, in words.
    fn place(&self, ordinal: u64) -> String {
        let index = self.starts.partition_point(|start| *start <= ordinal) - 1;
        format!("{} line {}", self.listing.files[index].name, ordinal - self.starts[index] + 1)
    }
}
