//! The sample repository: a binary store and documents as ModeShape leaves them, the same at every demo.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use super::ground::Ground;
use crate::jobs::context::RunContext;
use crate::model::archive::documents_name;
use crate::model::digest::{Algorithm, Digest};
use crate::model::layout::Layout;
use crate::repository::binaries::BinaryStore;
use crate::repository::documents::packed_lines;

/// The repository's directory in the demo's.
pub(super) const REPOSITORY: &str = "repository";
const BINARIES: &str = "repository/binaries";
const DOCUMENTS: &str = "repository/documents";

/// How the repository begins, and by what it grows: enough to see rates, and seconds on a busy disk that is asked
/// to keep each object safe.
const AT_FIRST: usize = 240;
const ADDED: usize = 12;
/// Documents that are about no binary: collections and their like.
const CONTAINERS_AT_FIRST: usize = 2_520;
const CONTAINERS_ADDED: usize = 16;

/// The smallest binary, and what is tossed for the size of each: a coin doubles it.
const SMALLEST: usize = 4 << 10;
const COINS: u32 = 8;
const LARGEST: usize = 20 << 20;
/// Every so many is a text, and no larger than this.
const TEXT_EVERY: usize = 8;
const TEXT_LIMIT: usize = 512 << 10;
/// Every so many has its mime type cached beside it.
const SIDECAR_EVERY: usize = 3;
const NOISE_BYTES: usize = 1 << 20;

/// Old enough to have settled: 2020-01-01, and an hour more for each binary.
const FIRST_WRITTEN: Duration = Duration::from_hours(438_288);
const WRITTEN_EVERY: Duration = Duration::from_hours(1);

/// Makes the repository, and lets it grow.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    store: BinaryStore,
    documents: PathBuf,
    random: fastrand::Rng,
    /// Nothing compresses it, so pictures and recordings are cut from it.
    noise: Vec<u8>,
    made: usize,
    containers: usize,
    files: u32,
}

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) binaries: u64,
    pub(super) bytes: u64,
    pub(super) smallest: u64,
    pub(super) largest: u64,
    pub(super) sidecars: u64,
    /// Lines, the duplicate included.
    pub(super) documents: u64,
}

impl Sample {
    pub(super) fn new(ground: &Ground) -> Self {
        let mut random = fastrand::Rng::with_seed(0x0001_D0FA_5700);
        let mut noise = vec![0; NOISE_BYTES];
        random.fill(&mut noise);
        let store = BinaryStore::at(&ground.path(BINARIES), &Layout::modeshape());
        Self { store, documents: ground.path(DOCUMENTS), random, noise, made: 0, containers: 0, files: 0 }
    }

    /// Where the binaries are.
    pub(super) fn store(&self) -> &BinaryStore {
        &self.store
    }

    /// Where the documents are.
    pub(super) fn documents(&self) -> &Path {
        &self.documents
    }

    /// Makes the repository as it is at first.
    pub(super) fn begin(&mut self, run: &RunContext) -> anyhow::Result<Made> {
        fs::create_dir_all(&self.documents).with_context(|| format!("make `{}`", self.documents.display()))?;
        let (mut made, mut lines, last) = self.add_binaries(run, AT_FIRST)?;
        lines.extend(self.containers(CONTAINERS_AT_FIRST));
        // ModeShape's backup writes what changes meanwhile a second time.
        lines.push(lines[lines.len() / 2].clone());
        made.documents = self.write_documents(&lines)?;
        self.mark_as_unused(&last.context("make binaries")?)?;
        Ok(made)
    }

    /// Adds some binaries and documents.
    pub(super) fn grow(&mut self, run: &RunContext) -> anyhow::Result<Made> {
        let (mut made, mut lines, _) = self.add_binaries(run, ADDED)?;
        lines.extend(self.containers(CONTAINERS_ADDED));
        made.documents = self.write_documents(&lines)?;
        Ok(made)
    }

    fn add_binaries(&mut self, run: &RunContext, count: usize) -> anyhow::Result<(Made, Vec<String>, Option<Digest>)> {
        let mut made = Made { smallest: u64::MAX, ..Made::default() };
        let mut lines = Vec::new();
        let mut last = None;
        for _ in 0..count {
            run.go_on()?;
            let (content, mime_type) = self.content();
            let digest = Digest::of(Algorithm::Sha1, &content);
            let bytes = content.len() as u64;
            self.write(&digest, &content)?;
            if self.made.is_multiple_of(SIDECAR_EVERY) {
                let [sidecar, _] = self.store.layout().sidecars_of(&digest).expect("ModeShape has sidecars");
                self.write(&sidecar, mime_type.as_bytes())?;
                made.sidecars += 1;
            }
            lines.extend(documents_of(self.made, &digest, bytes, mime_type));
            last = Some(digest);
            self.made += 1;
            made.binaries += 1;
            made.bytes += bytes;
            made.smallest = made.smallest.min(bytes);
            made.largest = made.largest.max(bytes);
            run.report.advance(1);
        }
        Ok((made, lines, last))
    }

    /// The next binary, and what it is.
    fn content(&mut self) -> (Vec<u8>, &'static str) {
        let number = self.made;
        // The logarithm of the size is a number of coins, so the sizes are spread as those of real files are.
        let heads = (self.random.u32(..) & ((1 << COINS) - 1)).count_ones();
        let size = (SMALLEST << heads) + self.random.usize(..SMALLEST << heads);
        if number == AT_FIRST / 2 {
            return (self.recording(number, LARGEST), "video/mp4");
        }
        if number % TEXT_EVERY == 1 {
            return (text(number, size.min(TEXT_LIMIT)), "text/plain");
        }
        let size = if number == 0 { SMALLEST } else { size };
        (self.recording(number, size), if number.is_multiple_of(2) { "image/jpeg" } else { "application/pdf" })
    }

    fn recording(&mut self, number: usize, size: usize) -> Vec<u8> {
        let mut content = format!("sample {number:06}\n").into_bytes();
        let mut start = self.random.usize(..NOISE_BYTES);
        while content.len() < size {
            let end = NOISE_BYTES.min(start + size - content.len());
            content.extend_from_slice(&self.noise[start..end]);
            start = 0;
        }
        content
    }

    fn write(&self, digest: &Digest, content: &[u8]) -> anyhow::Result<()> {
        write_aged(&self.store.path(digest), content, self.made)
    }

    /// As ModeShape marks a binary that it thinks unused: by an empty file of the same name in `trash/`. Documents
    /// refer to this one, so it belongs into every backup all the same.
    fn mark_as_unused(&self, digest: &Digest) -> anyhow::Result<()> {
        let trash = BinaryStore::at(&self.store.root().join("trash"), self.store.layout());
        write_aged(&trash.path(digest), b"", self.made)
    }

    fn containers(&mut self, count: usize) -> Vec<String> {
        let first = self.containers;
        self.containers += count;
        (first..self.containers).map(container).collect()
    }

    fn write_documents(&mut self, lines: &[String]) -> anyhow::Result<u64> {
        self.files += 1;
        let packed = packed_lines(documents_name(self.files), lines);
        let path = self.documents.join(&packed.name);
        fs::write(&path, &packed.content).with_context(|| format!("write `{}`", path.display()))?;
        Ok(packed.documents)
    }
}

fn write_aged(path: &Path, content: &[u8], number: usize) -> anyhow::Result<()> {
    let age = WRITTEN_EVERY * u32::try_from(number).expect("there are a few hundred");
    let write = || {
        fs::create_dir_all(path.parent().expect("a binary lies in a directory"))?;
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.set_modified(SystemTime::UNIX_EPOCH + FIRST_WRITTEN + age)
    };
    write().with_context(|| format!("write `{}`", path.display()))
}

fn text(number: usize, size: usize) -> Vec<u8> {
    let line = |line| format!("Notes {number}, line {line}: what is kept twice is not lost once.\n");
    let mut content: Vec<u8> = (0_usize..).flat_map(|number| line(number).into_bytes()).take(size).collect();
    content.push(b'\n');
    content
}

/// The documents about a binary: the node that has it, and how often it is referred to. Quotes stand as ModeShape
/// writes them, with a backslash that JSON does not know.
fn documents_of(number: usize, digest: &Digest, bytes: u64, mime_type: &str) -> [String; 2] {
    let key = format!("c362428317f1e7{number:08x}-6a09-4e66-9f3b-cc908b2a3c6e");
    let node = format!(
        "{{ \"metadata\" : {{ \"id\" : \"{key}\" }} , \"content\" : {{ \"key\" : \"{key}\" , \"properties\" : {{ \
         \"http://www.jcp.org/jcr/1.0\" : {{ \"primaryType\" : {{ \"$name\" : \"nt:resource\" }} , \
         \"mimeType\" : \"{mime_type}\" , \"data\" : {{ \"$sha1\" : \"{digest}\" , \"$len\" : {bytes} }} }} , \
         \"http://purl.org/dc/elements/1.1/\" : {{ \"title\" : \"The reader\\'s copy {number}\" }} }} }} }}"
    );
    let references = format!(
        "{{ \"metadata\" : {{ \"id\" : \"{digest}-ref\" }} , \"content\" : {{ \"sha1\" : \"{digest}\" , \"refCount\" : 1 }} }}"
    );
    [node, references]
}

fn container(number: usize) -> String {
    let key = format!("c362428317f1e7{number:08x}-0c01-4c6f-8a55-2f1d9e7b4a10");
    format!(
        "{{ \"metadata\" : {{ \"id\" : \"{key}\" }} , \"content\" : {{ \"key\" : \"{key}\" , \"properties\" : {{ \
         \"http://www.jcp.org/jcr/1.0\" : {{ \"primaryType\" : {{ \"$name\" : \"nt:folder\" }} , \
         \"created\" : {{ \"$date\" : \"2020-01-01T00:00:00Z\" }} }} , \"http://purl.org/dc/elements/1.1/\" : {{ \
         \"title\" : \"Collection {number}\" }} }} }} }}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::document::scan;

    #[test]
    fn the_documents_are_in_modeshapes_dialect() {
        let digest = Digest::of(Algorithm::Sha1, b"x");
        let [node, references] = documents_of(7, &digest, 1, "text/plain");
        assert!(node.contains("reader\\'s"));
        assert_eq!(scan(references.as_bytes()).unwrap().id, format!("{digest}-ref"));
        for line in [node, container(7)] {
            assert!(scan(line.as_bytes()).is_ok_and(|document| document.id.starts_with("c362428317f1e700000007")));
        }
    }
}
