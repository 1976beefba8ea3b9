//! An object that is written by a blocking thread while it goes up in parts: one thread, one bounded channel, one
//! async loop. Nothing is at the destination before [`Streamed::commit`].

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::buffers::{Buffer, Buffers};
use super::context::{Cancelled, Destination, RunContext, is_cancelled};
use crate::ledger::OpenUpload;
use crate::model::digest::{Algorithm, Digest, Hasher};
use crate::model::key::Key;
use crate::store::{self, ErrorKind, Lying, PartReceipt, StoreError, Unfinished, Upload};

/// The size of a part: the body of one request, held in memory until it is answered.
pub const PART_BYTES: usize = 8 << 20;
/// How many parts of one object are on their way at once; more fill no line that two do not.
const PARTS_IN_FLIGHT: usize = 2;
/// S3 takes at most 10,000 parts; what is left is for content that turns out longer than it looked.
const PARTS_AIMED_AT: u64 = 9_000;
/// Whoever began an upload this long ago and has not ended it never will: the largest object takes less time. One that
/// is younger, and that our ledger does not know by its name, may be somebody else's under way.
const ABANDONED_AFTER: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The size of the parts for an object of about this size.
pub fn part_bytes_for(object_bytes: u64) -> usize {
    let needed = object_bytes.div_ceil(PARTS_AIMED_AT);
    PART_BYTES.max(usize::try_from(needed).unwrap_or(usize::MAX))
}

/// How an object is to be sent.
#[derive(Clone, Debug)]
pub struct Manner {
    /// How its digest is computed.
    pub algorithm: Algorithm,
    /// The size of its parts; what fits into one goes up in a single request.
    pub part_bytes: usize,
    /// Bounds the bytes that several objects hold at once, in KiB; none where there is only one.
    pub budget: Option<Arc<Semaphore>>,
    /// What its parts are held in.
    pub buffers: Buffers,
}

impl Manner {
    /// One object by itself, in parts of [`PART_BYTES`], with a SHA-1.
    pub fn alone() -> Self {
        Self { algorithm: Algorithm::Sha1, part_bytes: PART_BYTES, budget: None, buffers: Buffers::default() }
    }
}

/// Where a producer writes an object to.
#[derive(Debug)]
pub struct PartSink {
    part: Option<Buffer>,
    part_bytes: usize,
    buffers: Buffers,
    permit: Option<OwnedSemaphorePermit>,
    budget: Option<Arc<Semaphore>>,
    hasher: Hasher,
    bytes: u64,
    to: mpsc::Sender<Part>,
}

#[derive(Debug)]
struct Part {
    body: Bytes,
    /// Whether nothing follows it.
    last: bool,
    /// Given back when the part has been answered.
    permit: Option<OwnedSemaphorePermit>,
}

impl PartSink {
    /// How many bytes were written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The part that is being filled, to be sent.
    fn end_part(&mut self, last: bool) -> Part {
        let body = self.part.take().map(Buffer::freeze).unwrap_or_default();
        Part { body, last, permit: self.permit.take() }
    }

    fn flush_part(&mut self) -> io::Result<()> {
        let part = self.end_part(false);
        self.to.blocking_send(part).map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload ended early"))
    }

    fn begin_part(&mut self) -> io::Result<Buffer> {
        if let Some(budget) = &self.budget {
            let kib = u32::try_from(self.part_bytes.div_ceil(1024)).unwrap_or(u32::MAX);
            let permit = tokio::runtime::Handle::current().block_on(Arc::clone(budget).acquire_many_owned(kib));
            self.permit = Some(permit.map_err(io::Error::other)?);
        }
        Ok(self.buffers.take(self.part_bytes))
    }
}

impl Write for PartSink {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.part.as_ref().is_some_and(|part| part.filled() == self.part_bytes) {
            self.flush_part()?;
        }
        let mut part = match self.part.take() {
            Some(part) => part,
            None => self.begin_part()?,
        };
        let taken = piece.len().min(self.part_bytes - part.filled());
        part.push(&piece[..taken]);
        self.part = Some(part);
        self.hasher.update(&piece[..taken]);
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An object that is on its way whole, and not there yet. It ends in [`commit`](Self::commit) or
/// [`discard`](Self::discard).
#[derive(Debug)]
#[must_use]
pub struct Streamed<T> {
    /// What the producer gave.
    pub value: T,
    /// The object's size.
    pub bytes: u64,
    /// The object's digest.
    pub digest: Digest,
    key: Key,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Single(Bytes),
    Parts(Box<dyn Upload>, Vec<PartReceipt>),
}

/// Runs `produce` on a thread of its own and sends what it writes.
///
/// An upload in parts is recorded in the ledger before it begins. When the producer or a request fails, the parts are
/// taken away again.
pub async fn stream_object<T: Send + 'static>(
    run: &RunContext,
    destination: &Destination,
    key: &Key,
    manner: &Manner,
    produce: impl FnOnce(&RunContext, &mut PartSink) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<Streamed<T>> {
    let (to, parts) = mpsc::channel(1);
    let mut sink = PartSink {
        part: None,
        part_bytes: manner.part_bytes,
        buffers: manner.buffers.clone(),
        permit: None,
        budget: manner.budget.clone(),
        hasher: Hasher::new(manner.algorithm),
        bytes: 0,
        to,
    };
    let producer = run.blocking(move |run| {
        let value = produce(run, &mut sink)?;
        let last = sink.end_part(true);
        let (bytes, digest) = (sink.bytes, sink.hasher.finish());
        // The receiver is gone only after an error of its own, which is the one that is shown.
        drop(sink.to.blocking_send(last));
        Ok((value, bytes, digest))
    });
    let (produced, sent) = tokio::join!(producer, send_parts(run, destination, key, parts));
    match (produced, sent) {
        (Ok((value, bytes, digest)), Ok(way)) => Ok(Streamed { value, bytes, digest, key: key.clone(), way }),
        (Err(error), Ok(way)) => {
            discard(run, destination, key, way).await;
            Err(error)
        }
        // The producer was cut off by the error of the request, unless it stopped of its own accord.
        (produced, Err(error)) => match produced {
            Err(cause) if is_cancelled(&cause) => Err(cause),
            _ => Err(error),
        },
    }
}

impl<T> Streamed<T> {
    /// Makes it an object, whole and durable.
    pub async fn commit(
        self,
        run: &RunContext,
        destination: &Destination,
    ) -> anyhow::Result<(T, Result<(), StoreError>)> {
        let result = match self.way {
            Way::Single(body) => {
                destination.must_be_as_it_was().await?;
                destination.store.put(&self.key, body, &self.digest).await
            }
            Way::Parts(upload, receipts) => {
                let (unfinished, twin) = (upload.unfinished(), upload.has_a_lost_twin());
                let result = upload.complete(receipts).await;
                if result.is_ok() || destination.store.abort(&unfinished).await.is_ok() {
                    close_upload(run, destination, &self.key, twin).await?;
                }
                result
            }
        };
        Ok((self.value, result))
    }

    /// Takes it away again; what cannot be taken away now is by the next run.
    pub async fn discard(self, run: &RunContext, destination: &Destination) -> T {
        discard(run, destination, &self.key, self.way).await;
        self.value
    }
}

async fn discard(run: &RunContext, destination: &Destination, key: &Key, way: Way) {
    let Way::Parts(upload, _) = way else { return };
    let twin = upload.has_a_lost_twin();
    if upload.abort().await.is_ok()
        && let Err(error) = close_upload(run, destination, key, twin).await
    {
        run.report.notice("upload", key.as_str(), format!("{error:#}"));
    }
}

/// Records that an upload has ended. One of the same key whose name we were not told stays on record.
async fn close_upload(run: &RunContext, destination: &Destination, key: &Key, twin: bool) -> anyhow::Result<()> {
    if !twin {
        return end_upload(run, destination, key).await;
    }
    let (id, key) = (destination.id, key.clone());
    run.blocking(move |run| run.ledger.name_upload(id, &key, None)).await
}

async fn end_upload(run: &RunContext, destination: &Destination, key: &Key) -> anyhow::Result<()> {
    let (id, key) = (destination.id, key.clone());
    run.blocking(move |run| run.ledger.end_upload(id, &key)).await
}

async fn send_parts(
    run: &RunContext,
    destination: &Destination,
    key: &Key,
    mut parts: mpsc::Receiver<Part>,
) -> anyhow::Result<Way> {
    let Some(first) = parts.recv().await else { return Ok(Way::Single(Bytes::new())) };
    if first.last {
        return Ok(Way::Single(first.body));
    }
    destination.must_be_as_it_was().await?;
    // From here on every part goes up as it comes: one that waited for the next would keep what that one waits for.
    let (id, recorded) = (destination.id, key.clone());
    run.blocking(move |run| run.ledger.begin_upload(id, &recorded, run.id)).await?;
    let upload = destination.store.begin(key).await?;
    let (named, name) = (key.clone(), upload.unfinished().id);
    let sent = match run.blocking(move |run| run.ledger.name_upload(id, &named, Some(&name))).await {
        Ok(()) => send_all(upload.as_ref(), first, &mut parts).await,
        Err(error) => Err(error),
    };
    match sent {
        Ok(receipts) => Ok(Way::Parts(upload, receipts)),
        Err(error) => {
            discard(run, destination, key, Way::Parts(upload, Vec::new())).await;
            Err(error)
        }
    }
}

async fn send_all(
    upload: &dyn Upload,
    first: Part,
    parts: &mut mpsc::Receiver<Part>,
) -> anyhow::Result<Vec<PartReceipt>> {
    let send = |number: u32, part: Part| async move {
        let receipt = upload.part(number, part.body).await;
        drop(part.permit);
        receipt
    };
    let mut receipts = Vec::new();
    let mut flying = FuturesUnordered::new();
    let mut number = 0;
    let mut first = Some(first);
    loop {
        let next = match first.take() {
            Some(part) => Some(part),
            None if flying.len() >= PARTS_IN_FLIGHT => {
                receipts.push(flying.next().await.expect("parts are in flight")?);
                continue;
            }
            None if flying.is_empty() => parts.recv().await,
            None => tokio::select! {
                receipt = flying.next() => {
                    receipts.push(receipt.expect("parts are in flight")?);
                    continue;
                }
                part = parts.recv() => part,
            },
        };
        let Some(part) = next else { break };
        // The content ended exactly with a part: the empty rest is no part of its own.
        if !part.body.is_empty() {
            number += 1;
            flying.push(send(number, part));
        }
    }
    while let Some(receipt) = flying.next().await {
        receipts.push(receipt?);
    }
    receipts.sort_by_key(|receipt| receipt.number);
    Ok(receipts)
}

/// What lies under a key where an object of this size and digest was to lie. It may have to be read back, which ends when
/// the run is to stop.
pub async fn lying(
    run: &RunContext,
    destination: &Destination,
    key: &Key,
    bytes: u64,
    digest: &Digest,
) -> anyhow::Result<Lying> {
    tokio::select! {
        biased;
        found = store::lying(&*destination.store, key, bytes, digest) => Ok(found?),
        () = run.stop.cancelled() => Err(Cancelled.into()),
    }
}

/// Stores a small object of ours, or finds it there as it should be from a run before.
pub async fn put_once(run: &RunContext, destination: &Destination, key: &Key, content: Bytes) -> anyhow::Result<()> {
    destination.must_be_as_it_was().await?;
    let digest = Digest::of(Algorithm::Sha1, &content);
    let bytes = content.len() as u64;
    match destination.store.put(key, content, &digest).await {
        Err(error) if error.kind == ErrorKind::AlreadyExists => {
            if lying(run, destination, key, bytes, &digest).await? != Lying::Same {
                anyhow::bail!("put `{key}`: another object lies there, and nothing is ever overwritten");
            }
            Ok(())
        }
        result => Ok(result?),
    }
}

/// Takes away the uploads that runs began at this destination and did not end. Those of runs under way are theirs, and
/// those of others at the same destination are told from ours by their names.
pub async fn sweep_uploads(run: &RunContext, destination: &Destination) -> anyhow::Result<()> {
    let id = destination.id;
    let open = run.blocking(move |run| run.ledger.open_uploads(id)).await?;
    for OpenUpload { key, id, .. } in open {
        let ours = match id {
            Some(id) => vec![Unfinished { key: key.clone(), id, since: None }],
            // It was cut before we were told its name, so it has no parts, and may stay where we cannot see it.
            None => match abandoned(run, destination, key.as_str()).await {
                Err(error) if matches!(error.kind, ErrorKind::Denied | ErrorKind::Other) => {
                    run.report.notice("upload", key.as_str(), error.to_string());
                    Vec::new()
                }
                found => found?,
            },
        };
        for unfinished in ours {
            abort(destination, &unfinished).await?;
        }
        end_upload(run, destination, &key).await?;
    }
    Ok(())
}

/// The unfinished uploads below a prefix that nobody can have under way any more, whosever they were.
pub async fn abandoned(
    run: &RunContext,
    destination: &Destination,
    prefix: &str,
) -> Result<Vec<Unfinished>, StoreError> {
    let long_ago = run.clock.now().saturating_sub(ABANDONED_AFTER).unwrap_or(Timestamp::MIN);
    let mut found = destination.store.unfinished(prefix).await?;
    found.retain(|unfinished| unfinished.since.is_some_and(|since| since < long_ago));
    Ok(found)
}

/// Takes an unfinished upload away.
pub async fn abort(destination: &Destination, unfinished: &Unfinished) -> anyhow::Result<()> {
    let aborted = destination.store.abort(unfinished).await;
    aborted.with_context(|| format!("abort the upload of `{}`", unfinished.key))
}
