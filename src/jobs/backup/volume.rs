//! One volume: a valid ZIP by itself, written straight into the parts of an upload.

use std::fs::File;
use std::io::{self, BufWriter, Read};

use anyhow::Context as _;

use super::OURS;
use super::feed::{Feed, Held, Item, Prepared};
use crate::jobs::context::RunContext;
use crate::jobs::source;
use crate::jobs::upload::PartSink;
use crate::jobs::zip::Writer;
use crate::model::archive::{CHANGES_SUMMARY, DAMAGED_DOCUMENTS, EntryName};
use crate::model::digest::{Digest, Hasher};
use crate::model::point::{DocumentSet, RecordFile};
use crate::repository::binaries::BinaryStore;

/// The directory of a ZIP is kept until its end, thirty bytes an entry: this bounds it to 30 MB.
const MAX_ENTRIES: u64 = 1_000_000;
/// More than the headers of one entry, in the volume and in its directory.
const HEADER_BYTES: u64 = 512;

/// When a volume ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct VolumeLimits {
    /// The size that no entry but the first may take it over.
    pub(super) bytes: u64,
}

/// A volume that is written, and what is left for the next.
#[derive(Debug)]
pub(super) struct VolumeEnded {
    pub(super) documents: DocumentSet,
    pub(super) records: Vec<RecordFile>,
    pub(super) head_done: bool,
    pub(super) binaries: u64,
    pub(super) binary_bytes: u64,
    pub(super) list_sha1: Digest,
    pub(super) first: Option<Digest>,
    pub(super) last: Option<Digest>,
    /// None when this was the last volume.
    pub(super) rest: Option<Feed>,
}

/// The numbers of a volume under way.
struct Tally {
    documents: DocumentSet,
    records: Vec<RecordFile>,
    binaries: u64,
    binary_bytes: u64,
    list: Hasher,
    first: Option<Digest>,
    last: Option<Digest>,
}

/// Writes entries until the volume is full or there are no more.
pub(super) fn write_volume(
    run: &RunContext,
    store: &BinaryStore,
    limits: VolumeLimits,
    mut feed: Feed,
    sink: &mut PartSink,
) -> anyhow::Result<VolumeEnded> {
    let mut zip = Writer::new(BufWriter::with_capacity(64 << 10, sink));
    let mut tally = Tally {
        documents: DocumentSet::default(),
        records: Vec::new(),
        binaries: 0,
        binary_bytes: 0,
        list: Hasher::new(OURS),
        first: None,
        last: None,
    };
    let full = loop {
        run.go_on()?;
        let Some(item) = feed.peek(run, Some(store))? else { break false };
        let would_be = zip.written() + zip.closing_bytes() + item.bytes() + HEADER_BYTES;
        if zip.entries() > 0 && (would_be > limits.bytes || zip.entries() >= MAX_ENTRIES) {
            break true;
        }
        match feed.take().expect("it was just looked at") {
            Item::Documents(packed) => {
                zip.add_bytes(&documents_entry(&packed.name)?, &packed.content)?;
                source::add(&mut tally.documents, &packed, None);
            }
            Item::Record(record, content) => {
                zip.add_bytes(&EntryName::Record(record.name.clone()), &content)?;
                tally.records.push(record);
            }
            Item::Binary(binary) => add_binary(run, store, &mut zip, &mut tally, binary)?,
        }
    };
    run.go_on()?;
    if !full {
        zip.add_bytes(&EntryName::ChangesSummary, CHANGES_SUMMARY)?;
    }
    zip.finish()?;
    Ok(VolumeEnded {
        documents: tally.documents,
        records: tally.records,
        head_done: feed.head_done(),
        binaries: tally.binaries,
        binary_bytes: tally.binary_bytes,
        list_sha1: tally.list.finish(),
        first: tally.first,
        last: tally.last,
        rest: full.then_some(feed),
    })
}

fn documents_entry(name: &str) -> anyhow::Result<EntryName> {
    debug_assert!(name == DAMAGED_DOCUMENTS || name.starts_with("documents_"));
    EntryName::parse(name).with_context(|| format!("name the entry of `{name}`"))
}

fn add_binary(
    run: &RunContext,
    store: &BinaryStore,
    zip: &mut Writer<BufWriter<&mut PartSink>>,
    tally: &mut Tally,
    binary: Prepared,
) -> anyhow::Result<()> {
    let (digest, bytes) = (binary.digest, binary.bytes());
    let name = EntryName::Binary(digest);
    match binary.content {
        Held::Small(content, permit) => {
            zip.add_bytes(&name, &content)?;
            drop(permit);
        }
        Held::Large { bytes, crc32, beginning } => {
            let shrinks = zip.would_shrink(&beginning);
            let file = store.open_file(&digest).with_context(|| format!("open binary {digest} a second time"))?;
            let mut file = Stopping { run, file };
            let added = if shrinks {
                zip.add_deflated(&name, bytes, crc32, &mut file)
            } else {
                zip.add_stored(&name, bytes, crc32, &mut file)
            };
            run.go_on()?;
            // What has gone up of this volume cannot be taken back, so the volume is not completed.
            added.context("write the volume (run the backup again: it goes on with this volume)")?;
        }
    }
    tally.list.update(format!("{digest} {bytes}\n").as_bytes());
    tally.first = tally.first.or(Some(digest));
    tally.last = Some(digest);
    tally.binaries += 1;
    tally.binary_bytes += bytes;
    run.report.advance(bytes);
    run.report.count(|counts| {
        counts.copied += 1;
        counts.bytes += bytes;
    });
    Ok(())
}

/// A file whose reading ends when the run should stop: it may be as long as all others together.
struct Stopping<'a> {
    run: &'a RunContext,
    file: File,
}

impl Read for Stopping<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.run.stop.is_cancelled() { Err(io::Error::other("stopped")) } else { self.file.read(into) }
    }
}
