//! Brings what a restore needs of a restore point: one request a binary, many at once.

use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::compare::Comparison;
use super::staging::Staging;
use crate::jobs::context::{Destination, RunContext};
use crate::jobs::download::{BlockingDownload, fetch_small};
use crate::ledger::Listed;
use crate::model::digest::{Digest, Hasher};
use crate::model::key::Key;
use crate::model::point::{DocumentFile, DocumentSet, PointManifest, RecordFile};
use crate::repository::documents::count_documents;
use crate::store::{ErrorKind, PUT_LIMIT, StoreError, read_to_end};

/// How many requests are under way at once.
const PARALLEL: usize = 32;
/// How many bytes of binaries are held at once.
const HELD_BYTES: usize = 24 << 20;
/// How many threads check and write binaries at most.
const WRITERS: usize = 8;
/// How many binaries wait for one of them at most.
const ARRIVED: usize = 8;
/// No documents file of ours is larger: a single document has its limit, and so do damaged lines.
pub const DOCUMENTS_LIMIT: u64 = 160 << 20;

const NOT_ITS_DIGEST: &str = "its content does not have the digest in its name";

/// What became of one binary.
enum Fetched {
    /// It is staged and whole.
    Staged(u64),
    /// It was handed to a thread that checks and writes it.
    Handed,
    /// An earlier try staged it.
    Waiting(u64),
    /// The destination does not have it.
    Missing,
    /// What the destination has is not what it is called.
    Damaged(String),
}

/// Fetches binaries, documents and records of a restore point.
pub(super) async fn bring_point(
    run: &RunContext,
    destination: &Destination,
    point: &PointManifest,
    comparison: Comparison,
    staging: &Staging,
) -> anyhow::Result<Comparison> {
    if !comparison.documents.is_empty() {
        bring_documents(run, destination, &point.documents, staging).await?;
    }
    for record in point.records.iter().filter(|record| comparison.records.contains(&record.name)) {
        bring_record(run, destination, record, staging).await?;
    }
    bring_binaries(run, destination, comparison, staging).await
}

async fn bring_documents(
    run: &RunContext,
    destination: &Destination,
    documents: &DocumentSet,
    staging: &Staging,
) -> anyhow::Result<()> {
    for file in &documents.files {
        run.go_on()?;
        let key = file
            .key
            .as_ref()
            .with_context(|| format!("find `{}`: the manifest does not say where it lies", file.name))?;
        match fetch_small(destination, key, DOCUMENTS_LIMIT).await {
            Ok(content) => stage_documents(run, file, &content, staging)?,
            Err(error) => refuse(run, key.as_str(), error)?,
        }
    }
    Ok(())
}

/// Checks a file of documents to the last line and stages it.
pub(super) fn stage_documents(
    run: &RunContext,
    file: &DocumentFile,
    content: &[u8],
    staging: &Staging,
) -> anyhow::Result<()> {
    let sound = file.sha1.matches(content) && content.len() as u64 == file.bytes;
    let documents = if sound { count_documents(content).ok() } else { None };
    if documents != Some(file.documents) {
        damaged(run, &file.name, "its content is not that of the manifest");
        return Ok(());
    }
    run.report.count(|counts| counts.documents += file.documents);
    let path = staging.document(&file.name);
    std::fs::write(&path, content).with_context(|| format!("write `{}`", path.display()))
}

async fn bring_record(
    run: &RunContext,
    destination: &Destination,
    record: &RecordFile,
    staging: &Staging,
) -> anyhow::Result<()> {
    let key = record
        .key
        .as_ref()
        .with_context(|| format!("find `{}`: the manifest does not say where it lies", record.name))?;
    match fetch_small(destination, key, crate::jobs::source::RECORD_LIMIT).await {
        Ok(content) => stage_record(run, record, &content, staging),
        Err(error) => refuse(run, key.as_str(), error),
    }
}

/// Checks a record and stages it.
pub(super) fn stage_record(
    run: &RunContext,
    record: &RecordFile,
    content: &[u8],
    staging: &Staging,
) -> anyhow::Result<()> {
    if !record.sha1.matches(content) {
        damaged(run, &record.name, "its content is not that of the manifest");
        return Ok(());
    }
    let path = staging.record(&record.name);
    std::fs::write(&path, content).with_context(|| format!("write `{}`", path.display()))
}

async fn bring_binaries(
    run: &RunContext,
    destination: &Destination,
    comparison: Comparison,
    staging: &Staging,
) -> anyhow::Result<Comparison> {
    let staging = Arc::new(staging.paths());
    let (writers, mut writing) = spawn_writers(run, &staging);
    let fetcher = Fetcher {
        run: run.clone(),
        destination: destination.clone(),
        staging,
        budget: Arc::new(Semaphore::new(HELD_BYTES / 1024)),
        writers,
    };
    let mut tasks = JoinSet::new();
    let spawned = spawn_fetches(run, comparison, &fetcher, &mut tasks).await;
    // After an error too: what still writes here must not do so when all is removed, or tried again.
    let mut fetched = Ok(());
    while let Some(last) = tasks.join_next().await {
        let taken = take(run, last);
        fetched = fetched.and(taken);
    }
    drop(fetcher);
    let mut written = Ok(());
    while let Some(last) = writing.join_next().await {
        written = written.and(last?);
    }
    // A writer that gave up is the reason why nothing more could be handed to it.
    written?;
    let comparison = spawned?;
    fetched?;
    Ok(comparison)
}

/// A binary that came over the network whole.
#[derive(Debug)]
struct Arrived {
    digest: Digest,
    content: Bytes,
    /// Its part of the bytes that may be held.
    _held: OwnedSemaphorePermit,
}

/// Threads that check and write what arrives, each from a queue of its own: to ask for a thread for each binary would
/// cost more than to write a small one.
fn spawn_writers(
    run: &RunContext,
    staging: &Arc<Staging>,
) -> (Vec<mpsc::Sender<Arrived>>, JoinSet<anyhow::Result<()>>) {
    let mut writing = JoinSet::new();
    let count = available_parallelism().map_or(2, NonZero::get).clamp(2, WRITERS);
    let writers = (0..count).map(|_| {
        let (writer, mut arrived) = mpsc::channel(ARRIVED);
        let (run, staging) = (run.clone(), Arc::clone(staging));
        writing.spawn(async move {
            let write = move |run: &RunContext| {
                while let Some(arrived) = arrived.blocking_recv() {
                    stage_arrived(run, &staging, &arrived)?;
                }
                Ok(())
            };
            run.blocking(write).await
        });
        writer
    });
    (writers.collect(), writing)
}

fn stage_arrived(run: &RunContext, staging: &Staging, arrived: &Arrived) -> anyhow::Result<()> {
    let Arrived { digest, content, .. } = arrived;
    if !digest.matches(content) {
        report(run, digest, Fetched::Damaged(NOT_ITS_DIGEST.to_owned()));
        return Ok(());
    }
    staging
        .create(digest)?
        .write_all(content)
        .with_context(|| format!("write `{}`", staging.binary(digest).display()))?;
    report(run, digest, Fetched::Staged(content.len() as u64));
    Ok(())
}

async fn spawn_fetches(
    run: &RunContext,
    mut comparison: Comparison,
    fetcher: &Fetcher,
    tasks: &mut JoinSet<(Digest, anyhow::Result<Fetched>)>,
) -> anyhow::Result<Comparison> {
    let mut after: Option<Digest> = None;
    loop {
        let page;
        (comparison, page) = run
            .blocking(move |_| {
                let page = comparison.fetch.page(after.as_ref())?;
                Ok((comparison, page))
            })
            .await?;
        let Some(last) = page.last() else { return Ok(comparison) };
        after = Some(last.digest);
        for binary in page {
            run.go_on()?;
            while tasks.len() >= PARALLEL {
                take(run, tasks.join_next().await.expect("tasks are under way"))?;
            }
            let fetcher = fetcher.clone();
            tasks.spawn(async move { (binary.digest, fetcher.fetch(&binary).await) });
        }
    }
}

fn take(
    run: &RunContext,
    ended: Result<(Digest, anyhow::Result<Fetched>), tokio::task::JoinError>,
) -> anyhow::Result<()> {
    let (digest, fetched) = ended?;
    report(run, &digest, fetched?);
    Ok(())
}

/// Counts a binary by what became of it.
fn report(run: &RunContext, digest: &Digest, fetched: Fetched) {
    match fetched {
        Fetched::Staged(bytes) => {
            run.report.advance(bytes);
            run.report.count(|counts| {
                counts.copied += 1;
                counts.bytes += bytes;
            });
        }
        Fetched::Waiting(bytes) => {
            run.report.advance(bytes);
            run.report.count(|counts| counts.staged += 1);
        }
        Fetched::Handed => {}
        Fetched::Missing => missing(run, Key::binary(digest).as_str()),
        Fetched::Damaged(what) => damaged(run, Key::binary(digest).as_str(), &what),
    }
}

/// Fetches binaries; shared by the tasks that do so.
#[derive(Clone)]
struct Fetcher {
    run: RunContext,
    destination: Destination,
    staging: Arc<Staging>,
    budget: Arc<Semaphore>,
    writers: Vec<mpsc::Sender<Arrived>>,
}

impl Fetcher {
    async fn fetch(&self, binary: &Listed) -> anyhow::Result<Fetched> {
        let (digest, bytes) = (binary.digest, binary.bytes.unwrap_or_default());
        if self.staging.has_earlier() {
            let staging = Arc::clone(&self.staging);
            if self.run.blocking(move |_| staging.has(&digest)).await? {
                return Ok(Fetched::Waiting(bytes));
            }
        }
        let key = Key::binary(&digest);
        let download = match self.destination.store.get(&key, None).await {
            Ok(download) => download,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Fetched::Missing),
            Err(error) => return Err(error.into()),
        };
        if download.size() != bytes {
            return Ok(Fetched::Damaged(format!("it has {} bytes, not {bytes}", download.size())));
        }
        if bytes > PUT_LIMIT as u64 {
            let staging = Arc::clone(&self.staging);
            return self
                .run
                .blocking(move |run| {
                    let mut reader = BlockingDownload::new(download);
                    stage_binary(run, &staging, &digest, &mut reader)
                })
                .await;
        }
        let kib = u32::try_from(bytes / 1024 + 1).expect("at most the limit of a put");
        let held = Arc::clone(&self.budget).acquire_many_owned(kib).await?;
        let content = read_to_end(download).await?;
        let writer = usize::from(digest.as_bytes()[0]) % self.writers.len();
        self.writers[writer]
            .send(Arrived { digest, content, _held: held })
            .await
            .map_err(|_| anyhow::anyhow!("write binary {digest}: what writes them has ended"))?;
        Ok(Fetched::Handed)
    }
}

/// Writes a binary piece by piece; one that turns out not to be what it is called is removed again.
fn stage_binary(
    run: &RunContext,
    staging: &Staging,
    digest: &Digest,
    content: &mut dyn std::io::Read,
) -> anyhow::Result<Fetched> {
    let path = staging.binary(digest);
    let context = || format!("write `{}`", path.display());
    let mut file = staging.create(digest)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        run.go_on()?;
        let read = content.read(&mut buffer).with_context(|| format!("fetch binary {digest}"))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read]).with_context(context)?;
        bytes += read as u64;
    }
    if hasher.finish() == *digest {
        return Ok(Fetched::Staged(bytes));
    }
    std::fs::remove_file(&path).with_context(|| format!("remove `{}`", path.display()))?;
    Ok(Fetched::Damaged(NOT_ITS_DIGEST.to_owned()))
}

/// Stages a binary out of an archive: no more of it than the directory of its volume promised.
pub(super) fn stage_from_archive(
    run: &RunContext,
    staging: &Staging,
    binary: &Listed,
    content: &mut dyn std::io::Read,
) -> anyhow::Result<()> {
    let digest = &binary.digest;
    let mut content = content.take(binary.bytes.unwrap_or_default().saturating_add(1));
    match stage_binary(run, staging, digest, &mut content)? {
        // It has no object of its own to be named.
        Fetched::Damaged(what) => damaged(run, &digest.to_string(), &what),
        staged => report(run, digest, staged),
    }
    Ok(())
}

fn refuse(run: &RunContext, subject: &str, error: StoreError) -> anyhow::Result<()> {
    if error.kind == ErrorKind::NotFound {
        missing(run, subject);
        return Ok(());
    }
    Err(error.into())
}

fn missing(run: &RunContext, subject: &str) {
    run.report.count(|counts| {
        counts.missing += 1;
        counts.failed += 1;
    });
    run.report.problem("missing", subject, "the destination does not have it");
}

fn damaged(run: &RunContext, subject: &str, what: &str) {
    run.report.count(|counts| {
        counts.damaged += 1;
        counts.failed += 1;
    });
    run.report.problem("damaged", subject, format!("at the destination: {what}"));
}
