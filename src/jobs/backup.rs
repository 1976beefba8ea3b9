//! The backup: streams documents and binaries into an archive, volume by volume.
//!
//! Binaries go in the order of their digests, so the last one of a volume says all about where the next begins: a
//! run that was cut goes on there. `backup/feed.rs` reads ahead, `backup/volume.rs` writes; the manifest comes last.

mod feed;
mod survey;
mod volume;

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use jiff::SignedDuration;
use tokio::sync::mpsc;

use super::context::{Destination, Ended, RunContext, is_cancelled};
use super::source::RepositorySource;
use super::upload::{Manner, agrees, part_bytes_for, put_once, stream_object, sweep_uploads};
use crate::ledger::ArchiveUnderWay;
use crate::model::archive::{ArchiveManifest, ArchiveName, Volume};
use crate::model::digest::Algorithm;
use crate::model::key::Key;
use crate::model::point::{DocumentSet, FORMAT};
use crate::store::ErrorKind;
use feed::{Feed, OpenDocuments, feed_binaries, feed_documents, open_documents};
use survey::{Survey, survey};
use volume::{VolumeLimits, write_volume};

/// An archive that was begun longer ago is begun anew: its documents are too old to be worth it.
const RESUMED_WITHIN: SignedDuration = SignedDuration::from_hours(48);
/// How many binaries are read ahead; their bytes are bounded too.
const READ_AHEAD: usize = 64;

/// The algorithm of what is digested of an archive itself.
const OURS: Algorithm = Algorithm::Sha1;

/// What a backup is to do.
#[derive(Clone, Debug)]
pub struct BackupOrder {
    /// The job's full name, `backup.nightly`: a later run goes on with the archive that an earlier one of it began.
    pub job: String,
    /// What is backed up.
    pub source: RepositorySource,
    /// Where to.
    pub destination: Destination,
    /// About how large a volume may become.
    pub volume_bytes: u64,
    /// How long a file must be unchanged before it is read a second time.
    pub settle: Duration,
}

/// Runs a backup. Its result is the archive's name.
pub async fn backup(run: &RunContext, order: &BackupOrder) -> anyhow::Result<Ended> {
    order.source.open()?;
    sweep_uploads(run, &order.destination).await?;
    let archive = resume_or_begin(run, order).await?;
    // Whatever the documents name now is on disk already, so the binaries are looked at after them.
    let documents = open_documents(run, order, archive.head_volumes.is_some()).await?;
    let survey = survey(run, order).await?;
    let archive = if archive.ended { archive } else { write_volumes(run, order, archive, documents, survey).await? };
    run.go_on()?;
    finish(run, order, archive).await
}

/// The archive that an earlier run began, if going on with it makes sense, or a new one.
async fn resume_or_begin(run: &RunContext, order: &BackupOrder) -> anyhow::Result<ArchiveUnderWay> {
    let (job, id) = (order.job.clone(), order.destination.id);
    let earlier = run.blocking(move |run| run.ledger.archive_under_way(&job, id)).await?;
    if let Some(earlier) = earlier
        && let Some(archive) = resumable(run, order, earlier).await?
    {
        run.report.say(format!("going on with {}.zip after volume {}", archive.name, archive.volumes.len()));
        return Ok(archive);
    }
    let archive = ArchiveUnderWay {
        name: ArchiveName::new(run.id, fastrand::u64(..)),
        created: run.started,
        repository: identity(order),
        documents: DocumentSet::default(),
        records: Vec::new(),
        head_volumes: None,
        volumes: Vec::new(),
        completing: None,
        ended: false,
        complete: true,
    };
    record(run, order, &archive).await?;
    Ok(archive)
}

fn identity(order: &BackupOrder) -> String {
    format!("{} {}", order.source.name, order.source.binaries.root().display())
}

/// The archive as far as it really is at the destination; none if a run cannot go on with it.
async fn resumable(
    run: &RunContext,
    order: &BackupOrder,
    mut archive: ArchiveUnderWay,
) -> anyhow::Result<Option<ArchiveUnderWay>> {
    let age = run.started.duration_since(archive.created);
    if archive.repository != identity(order) || age > RESUMED_WITHIN || age < SignedDuration::ZERO {
        return Ok(None);
    }
    // A crash during the last request of a volume leaves it there, or not.
    archive.volumes.extend(archive.completing.take());
    let recorded = archive.volumes.len();
    let mut there = Vec::new();
    for volume in archive.volumes {
        match agrees(&order.destination, &volume.key, volume.bytes, &volume.sha1).await {
            Ok(true) => there.push(volume),
            Err(error) if error.kind == ErrorKind::NotFound => break,
            Ok(false) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    archive.volumes = there;
    archive.ended &= archive.volumes.len() == recorded;
    // Documents and records are not worth a reading in the middle: they are in the first volumes, all or none.
    let begun = archive.head_volumes.is_some_and(|head| head <= archive.volumes.len());
    Ok(begun.then_some(archive))
}

async fn record(run: &RunContext, order: &BackupOrder, archive: &ArchiveUnderWay) -> anyhow::Result<()> {
    let (job, id, archive) = (order.job.clone(), order.destination.id, archive.clone());
    run.blocking(move |run| run.ledger.record_archive(&job, id, &archive)).await
}

/// Writes all volumes that are not there yet.
async fn write_volumes(
    run: &RunContext,
    order: &BackupOrder,
    mut archive: ArchiveUnderWay,
    documents: Option<OpenDocuments>,
    survey: Survey,
) -> anyhow::Result<ArchiveUnderWay> {
    let (documents_to, packed) = mpsc::channel(1);
    let (binaries_to, binaries) = mpsc::channel(READ_AHEAD);
    let after = archive.volumes.iter().rev().find_map(|volume| volume.last);
    run.report.phase(format!("writing {}.zip", archive.name), "bytes", Some(survey.bytes));
    run.report.advance(archive.volumes.iter().map(|volume| volume.binary_bytes).sum());

    let records = if archive.head_volumes.is_some() { Vec::new() } else { survey.records.clone() };
    let fed_documents = feed_documents(run, documents, documents_to);
    let fed_binaries = feed_binaries(run, order, survey, after, binaries_to);
    let written = async {
        let mut feed = Feed::new(packed, binaries, records);
        loop {
            let (written, rest) = write_one(run, order, archive, feed).await?;
            archive = written;
            let Some(rest) = rest else { return anyhow::Ok(archive) };
            feed = rest;
        }
    };
    let (fed_documents, fed_binaries, written) = tokio::join!(fed_documents, fed_binaries, written);
    // What cut the others off is the cause; they only say that they were.
    let errors = [fed_documents.err(), fed_binaries.err()];
    if let Some(cause) = errors.into_iter().flatten().find(|error| !is_cancelled(error)) {
        return Err(cause);
    }
    let mut archive = written?;
    archive.complete &= !run.report.is_partial();
    Ok(archive)
}

/// Writes one volume; gives what is left to be written, or none at the end.
async fn write_one(
    run: &RunContext,
    order: &BackupOrder,
    mut archive: ArchiveUnderWay,
    feed: Feed,
) -> anyhow::Result<(ArchiveUnderWay, Option<Feed>)> {
    let number = u32::try_from(archive.volumes.len() + 1).context("count volumes")?;
    let key = Key::volume(&archive.name, number);
    let (feed, next_bytes) = feed.peek_bytes(run).await?;
    let largest = order.volume_bytes.max(next_bytes + next_bytes / 100);
    let manner = Manner { part_bytes: part_bytes_for(largest), ..Manner::alone() };
    let limits = VolumeLimits { bytes: order.volume_bytes };
    let store = order.source.binaries.clone();
    let streamed = stream_object(run, &order.destination, &key, &manner, move |run, sink| {
        write_volume(run, &store, limits, feed, sink)
    })
    .await?;
    let ended = &streamed.value;
    let volume = Volume {
        key: key.clone(),
        bytes: streamed.bytes,
        sha1: streamed.digest,
        binaries: ended.binaries,
        binary_bytes: ended.binary_bytes,
        list_sha1: ended.list_sha1,
        first: ended.first,
        last: ended.last,
    };
    archive.documents.count += ended.documents.count;
    archive.documents.files.extend(ended.documents.files.iter().cloned());
    archive.documents.damaged = archive.documents.damaged.or_else(|| ended.documents.damaged.clone());
    archive.records.extend(ended.records.iter().cloned());
    if ended.head_done && archive.head_volumes.is_none() {
        archive.head_volumes = Some(archive.volumes.len() + 1);
    }
    archive.ended = ended.rest.is_none();
    archive.complete &= !run.report.is_partial();
    archive.completing = Some(volume.clone());
    record(run, order, &archive).await?;
    let (ended, result) = streamed.commit(run, &order.destination).await?;
    match result {
        Err(error) if error.kind == ErrorKind::AlreadyExists => {
            if !agrees(&order.destination, &key, volume.bytes, &volume.sha1).await? {
                bail!("complete `{key}`: another object lies there, and nothing is ever overwritten");
            }
        }
        result => result?,
    }
    archive.completing = None;
    archive.volumes.push(volume);
    record(run, order, &archive).await?;
    Ok((archive, ended.rest))
}

/// Writes the manifest, which makes it an archive.
async fn finish(run: &RunContext, order: &BackupOrder, archive: ArchiveUnderWay) -> anyhow::Result<Ended> {
    if !archive.complete && !run.report.is_partial() {
        run.report.problem(
            "archive",
            format!("{}.zip", archive.name),
            "an earlier run of this archive had to leave something out: see the history",
        );
    }
    let manifest = ArchiveManifest {
        format: FORMAT,
        name: archive.name.clone(),
        repository: order.source.name.clone(),
        created: archive.created,
        complete: archive.complete,
        documents: archive.documents,
        binaries: archive.volumes.iter().map(|volume| volume.binaries).sum(),
        bytes: archive.volumes.iter().map(|volume| volume.binary_bytes).sum(),
        volumes: archive.volumes,
        records: archive.records,
    };
    let key = Key::archive_manifest(&archive.name);
    let text = serde_json::to_string_pretty(&manifest)? + "\n";
    put_once(&order.destination, &key, Bytes::from(text.clone())).await?;
    let (job, id) = (order.job.clone(), order.destination.id);
    run.blocking(move |run| {
        run.ledger.keep_manifest(id, &key, &text)?;
        run.ledger.forget_archive(&job, id)
    })
    .await?;
    Ok(Ended { result: Some(format!("{}.zip", archive.name)), quarantine: None })
}
