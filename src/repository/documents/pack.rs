//! The second reading's output: documents in gzip files of a bounded size, and damaged lines in one of their own.

mod compressing;

use std::io::BufReader;
use std::io::Read;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use anyhow::Context as _;
use anyhow::bail;
use anyhow::ensure;
use flate2::Compression;
use flate2::write::GzEncoder;

use compressing::BATCH_BYTES;
use compressing::BATCHES_AHEAD;
use compressing::Batch;
use compressing::Compressed;
use compressing::compress;

use crate::model::archive::DAMAGED_DOCUMENTS;
use crate::model::digest::Algorithm;
use crate::model::digest::Digest;
use crate::model::document::scan;
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
/// How hard a file is compressed. The highest levels take half as long again, and save 4 bytes of 100.
const LEVEL: Compression = Compression::new(3);
/// How much of damaged lines is held in memory, compressed.
const DAMAGED_BYTES: usize = 64 << 20;
/// The numbers that a name has digits for.
const FILES: u32 = 999_999;

/// Takes documents in, and hands them on in files. They are compressed by a thread of its own: reading documents takes
/// about as long, and both go on at once.
pub(super) struct Packer<'a> {
    sink: &'a mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>,
    batch: Batch,
    /// None once there are no more.
    batches: Option<SyncSender<Batch>>,
    /// One for each batch: the files that were full.
    answers: Receiver<Vec<PackedDocuments>>,
    /// How many batches have no answer yet.
    under_way: usize,
    thread: Option<JoinHandle<Compressed>>,
    files: u32,
    damaged: Option<Pack>,
}

/// What went to the sink, added up.
pub(super) struct Packed {
    pub(super) documents: u64,
    pub(super) content_sha1: Digest,
}

impl<'a> Packer<'a> {
    pub(super) fn new(sink: &'a mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>) -> Self {
        let (to_thread, batches) = sync_channel(BATCHES_AHEAD);
        // With room for all that are under way the thread never waits for us, who may be waiting for it.
        let (from_thread, answers) = sync_channel(BATCHES_AHEAD);
        let thread = std::thread::spawn(move || compress(&batches, &from_thread));
        Self {
            sink,
            batch: Batch::default(),
            batches: Some(to_thread),
            answers,
            under_way: 0,
            thread: Some(thread),
            files: 0,
            damaged: None,
        }
    }

    /// Adds a document; nothing if the line is blank.
    pub(super) fn add(&mut self, document: &[u8]) -> anyhow::Result<()> {
        if document.is_empty() {
            return Ok(());
        }
        if !self.batch.has_room_for(document) {
            self.send()?;
        }
        // Of the large ones one is held, besides that which is being read.
        while document.len() > BATCH_BYTES && self.under_way > 0 {
            self.take_answer()?;
        }
        self.batch.add(document);
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
        if !self.batch.is_empty() {
            self.send()?;
        }
        while self.under_way > 0 {
            self.take_answer()?;
        }
        self.batches = None;
        let thread = self.thread.take().expect("it is ended once");
        let Compressed { last, documents, content_sha1 } = thread.join().expect("compressing does not panic");
        if let Some(last) = last {
            self.hand_over(last)?;
        }
        if let Some(damaged) = self.damaged.take() {
            (self.sink)(damaged.finish(DAMAGED_DOCUMENTS.to_owned()))?;
        }
        Ok(Packed { documents, content_sha1 })
    }

    fn send(&mut self) -> anyhow::Result<()> {
        if self.under_way == BATCHES_AHEAD {
            self.take_answer()?;
        }
        let batches = self.batches.as_ref().expect("nothing is added after the end");
        batches.send(std::mem::take(&mut self.batch)).expect("the thread takes batches until they end");
        self.under_way += 1;
        Ok(())
    }

    fn take_answer(&mut self) -> anyhow::Result<()> {
        let files = self.answers.recv().expect("the thread answers each batch");
        self.under_way -= 1;
        files.into_iter().try_for_each(|file| self.hand_over(file))
    }

    fn hand_over(&mut self, file: PackedDocuments) -> anyhow::Result<()> {
        self.files += 1;
        ensure!(self.files <= FILES, "pack documents: there are more than {FILES} files of them");
        (self.sink)(file)
    }
}

impl Drop for Packer<'_> {
    fn drop(&mut self) {
        // Without batches the thread ends.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
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
        Self { encoder: GzEncoder::new(Vec::new(), LEVEL), lines: 0, references: Vec::new() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_whoever_takes_the_files_ends_the_packing() {
        let mut asked = 0;
        let mut refuse = |_| {
            asked += 1;
            bail!("there is no room")
        };
        let mut packer = Packer::new(&mut refuse);
        let mut random = fastrand::Rng::with_seed(1);
        let mut document = vec![0; 100 << 10];
        let error = loop {
            random.fill(&mut document);
            if let Err(error) = packer.add(&document) {
                break error;
            }
        };
        assert_eq!(error.to_string(), "there is no room");
        drop(packer);
        assert_eq!(asked, 1);
    }
}
