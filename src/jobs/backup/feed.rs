//! What goes into the volumes, read ahead of the writer and handed over through bounded channels.
//!
//! A channel ends with an explicit nothing: one that is merely closed had a reader that failed, and what it did not
//! read must not be missing from an archive that looks whole.

use std::io::{self, Read as _};
use std::sync::Arc;

use anyhow::bail;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::BackupOrder;
use super::survey::{SIDECAR_NAME, Survey};
use crate::jobs::closure::Needed;
use crate::jobs::context::{Cancelled, RunContext};
use crate::jobs::reading::settle;
use crate::jobs::sidecars::{SidecarRecorder, is_orphaned_sidecar, report_damaged};
use crate::jobs::source::{load_record, read_documents, store_name};
use crate::ledger::{Listed, Scratch};
use crate::model::digest::{Digest, Hasher};
use crate::model::point::RecordFile;
use crate::repository::binaries::{BinaryStore, Content};
use crate::repository::documents::{OpenDocuments, PackedDocuments};

/// Binaries up to this size are held in memory on their way; larger ones are digested first and read again.
const HELD: usize = 4 << 20;
/// How many bytes of binaries are held at once.
const HELD_AHEAD: usize = 12 << 20;
/// How much of a large binary is looked at to find out whether it shrinks.
const BEGINNING: usize = 32 << 10;

/// A binary that was found to be what its name says.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) digest: Digest,
    pub(super) content: Held,
}

/// The content of a binary, or what a pass over it found.
#[derive(Debug)]
pub(super) enum Held {
    Small(Vec<u8>, OwnedSemaphorePermit),
    Large { bytes: u64, crc32: u32, beginning: Vec<u8> },
}

impl Prepared {
    pub(super) fn bytes(&self) -> u64 {
        match &self.content {
            Held::Small(content, _) => content.len() as u64,
            Held::Large { bytes, .. } => *bytes,
        }
    }
}

/// What is still to be written, in the order of an archive; goes from volume to volume.
#[derive(Debug)]
pub(super) struct Feed {
    documents: Option<mpsc::Receiver<Option<PackedDocuments>>>,
    records: std::vec::IntoIter<String>,
    binaries: Option<mpsc::Receiver<Option<Prepared>>>,
    next: Option<Item>,
}

/// The next thing to be written.
#[derive(Debug)]
pub(super) enum Item {
    Documents(PackedDocuments),
    Record(RecordFile, bytes::Bytes),
    Binary(Prepared),
}

impl Item {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Documents(packed) => packed.content.len() as u64,
            Self::Record(record, _) => record.bytes,
            Self::Binary(binary) => binary.bytes(),
        }
    }
}

impl Feed {
    pub(super) fn new(
        documents: mpsc::Receiver<Option<PackedDocuments>>,
        binaries: mpsc::Receiver<Option<Prepared>>,
        records: Vec<String>,
    ) -> Self {
        Self { documents: Some(documents), records: records.into_iter(), binaries: Some(binaries), next: None }
    }

    /// Waits for the next item and tells its size; 0 at the end.
    pub(super) async fn peek_bytes(self, run: &RunContext) -> anyhow::Result<(Self, u64)> {
        run.blocking(move |run| {
            let mut feed = self;
            let store = None;
            let bytes = feed.peek(run, store)?.map_or(0, Item::bytes);
            Ok((feed, bytes))
        })
        .await
    }

    /// The next item, which stays. Records are read when they are reached, from `store`; without one the item is
    /// only looked at as far as it is here.
    pub(super) fn peek(&mut self, run: &RunContext, store: Option<&BinaryStore>) -> anyhow::Result<Option<&Item>> {
        if self.next.is_none() {
            self.next = self.fetch(run, store)?;
        }
        Ok(self.next.as_ref())
    }

    fn fetch(&mut self, run: &RunContext, store: Option<&BinaryStore>) -> anyhow::Result<Option<Item>> {
        if let Some(documents) = &mut self.documents {
            match receive(run, documents)? {
                Some(packed) => return Ok(Some(Item::Documents(packed))),
                None => self.documents = None,
            }
        }
        if let Some(store) = store {
            for name in self.records.by_ref() {
                let loaded = Handle::current().block_on(load_record(run, store, &name))?;
                if let Some((record, content)) = loaded {
                    return Ok(Some(Item::Record(record, content)));
                }
            }
        } else if self.records.len() > 0 {
            return Ok(None);
        }
        let Some(binaries) = &mut self.binaries else { return Ok(None) };
        let prepared = receive(run, binaries)?;
        if prepared.is_none() {
            // The end comes once, and may be looked at again.
            self.binaries = None;
        }
        Ok(prepared.map(Item::Binary))
    }

    /// Takes the item that [`peek`](Self::peek) showed.
    pub(super) fn take(&mut self) -> Option<Item> {
        self.next.take()
    }

    /// Whether everything that stands before the binaries has been taken.
    pub(super) fn head_done(&self) -> bool {
        matches!(self.next, None | Some(Item::Binary(_))) && self.records.len() == 0 && self.documents.is_none()
    }
}

/// The next item of a channel, none at its end.
fn receive<T>(run: &RunContext, from: &mut mpsc::Receiver<Option<T>>) -> anyhow::Result<Option<T>> {
    let Some(item) = from.blocking_recv() else {
        run.go_on()?;
        bail!("write the volume: what was to go into it could not all be read");
    };
    Ok(item)
}

/// Reads the documents as they were when they were opened, and gives the binaries that they need.
pub(super) async fn feed_documents(
    run: &RunContext,
    documents: Option<OpenDocuments>,
    to: mpsc::Sender<Option<PackedDocuments>>,
) -> anyhow::Result<Option<Needed>> {
    run.blocking(move |run| {
        let send = |item| to.blocking_send(item).map_err(|_| Cancelled);
        let needed =
            documents.map(|mut documents| read(run, &mut documents, &mut |file| Ok(send(Some(file))?))).transpose()?;
        send(None)?;
        Ok(needed)
    })
    .await
}

/// Reads documents that are in the archive already for the binaries that they need.
pub(super) async fn read_needed(run: &RunContext, documents: Option<OpenDocuments>) -> anyhow::Result<Option<Needed>> {
    run.blocking(move |run| documents.map(|mut documents| read(run, &mut documents, &mut |_| Ok(()))).transpose()).await
}

fn read(
    run: &RunContext,
    documents: &mut OpenDocuments,
    sink: &mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>,
) -> anyhow::Result<Needed> {
    let needed = read_documents(run, documents, sink)?;
    documents.unchanged()?;
    Ok(needed)
}

/// Reads the binaries after `after` in order; those that are not what their name says are named. Gives what of the
/// survey is in the archive, or was in the store when an earlier run wrote what comes up to `after`.
pub(super) async fn feed_binaries(
    run: &RunContext,
    order: &BackupOrder,
    survey: Survey,
    after: Option<Digest>,
    to: mpsc::Sender<Option<Prepared>>,
) -> anyhow::Result<Scratch> {
    let store = order.source.binaries.clone();
    let quiet = order.settle;
    run.blocking(move |run| {
        let mut reader = Reader {
            run,
            store: &store,
            quiet,
            budget: Arc::new(Semaphore::new(HELD_AHEAD / 1024)),
            sidecars: SidecarRecorder::new(run, store_name(&store)),
        };
        let mut after = after;
        loop {
            let page = survey.binaries.page(after.as_ref())?;
            let Some(last) = page.last() else { break };
            after = Some(last.digest);
            for binary in page {
                run.go_on()?;
                if let Some(prepared) = reader.prepare(&binary)? {
                    to.blocking_send(Some(prepared)).map_err(|_| Cancelled)?;
                } else {
                    run.report.reduce_total(binary.bytes.unwrap_or_default());
                    survey.binaries.take(&binary.digest)?;
                }
            }
        }
        reader.sidecars.flush()?;
        to.blocking_send(None).map_err(|_| Cancelled)?;
        Ok(survey.binaries)
    })
    .await
}

struct Reader<'a> {
    run: &'a RunContext,
    store: &'a BinaryStore,
    quiet: std::time::Duration,
    budget: Arc<Semaphore>,
    sidecars: SidecarRecorder<'a>,
}

/// What one look at a file gave.
enum Look {
    Sound(Held),
    Other { bytes: u64, small: Option<Vec<u8>> },
}

impl Reader<'_> {
    /// The binary, if it is there and what its name says; if not, that is counted.
    fn prepare(&mut self, binary: &Listed) -> anyhow::Result<Option<Prepared>> {
        let digest = binary.digest;
        let mut look = self.look(&digest);
        if let Ok(Look::Other { .. }) = look {
            let settled = Handle::current().block_on(settle(self.run, self.store, &digest, self.quiet));
            look = settled.and_then(|()| self.look(&digest));
        }
        self.run.go_on()?;
        match look {
            Ok(Look::Sound(content)) => return Ok(Some(Prepared { digest, content })),
            Ok(Look::Other { .. }) if binary.mark == SIDECAR_NAME => self.sidecars.add(digest)?,
            // It is not recorded: a file that is mended later must be read again.
            Ok(Look::Other { small, .. }) if is_orphaned_sidecar(self.store.layout(), small.as_deref()) => {
                self.run.report.count(|counts| counts.orphaned_sidecars += 1);
            }
            Ok(Look::Other { bytes, .. }) => report_damaged(self.run, &digest, bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.run.report.count(|counts| counts.vanished += 1);
            }
            Err(error) => {
                self.run.report.count(|counts| counts.failed += 1);
                self.run.report.problem("unreadable", digest.to_string(), format!("read binary: {error}"));
            }
        }
        Ok(None)
    }

    fn look(&self, digest: &Digest) -> io::Result<Look> {
        let mut file = self.store.open_file(digest)?;
        let bytes = file.metadata()?.len();
        if bytes > HELD as u64 {
            return self.look_at_large(&mut file, digest);
        }
        let kib = u32::try_from(bytes / 1024 + 1).expect("at most what is held");
        let permit =
            Handle::current().block_on(Arc::clone(&self.budget).acquire_many_owned(kib)).map_err(io::Error::other)?;
        Ok(match self.store.read_from(&file, bytes, digest, HELD)? {
            Content::Sound(content) => Look::Sound(Held::Small(content, permit)),
            Content::Other { bytes, small } => Look::Other { bytes, small },
        })
    }

    fn look_at_large(&self, file: &mut std::fs::File, digest: &Digest) -> io::Result<Look> {
        let mut hasher = Hasher::new(digest.algorithm());
        let mut crc32 = crc32fast::Hasher::new();
        let mut beginning = Vec::new();
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        loop {
            if self.run.stop.is_cancelled() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped"));
            }
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            if beginning.is_empty() {
                beginning.extend_from_slice(&buffer[..read.min(BEGINNING)]);
            }
            hasher.update(&buffer[..read]);
            crc32.update(&buffer[..read]);
            bytes += read as u64;
        }
        if hasher.finish() != *digest {
            return Ok(Look::Other { bytes, small: None });
        }
        Ok(Look::Sound(Held::Large { bytes, crc32: crc32.finalize(), beginning }))
    }
}
