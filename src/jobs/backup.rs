//! The backup: streams documents and binaries into an archive, volume by volume.
//!
//! Binaries go in the order of their digests, so the last one of a volume says all about where the next begins: a
//! run that was cut goes on there. `backup/feed.rs` reads ahead, `backup/volume.rs` writes; the manifest comes last.

mod feed;
mod prove;
mod sieve;
mod survey;
mod volume;

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use jiff::SignedDuration;
use tokio::sync::mpsc;

use super::closure::Needed;
use super::context::{Destination, Ended, RunContext, is_cancelled};
use super::source::{RepositorySource, open_documents};
use super::upload::{Manner, lying, part_bytes_for, put_once, stream_object, sweep_uploads};
use crate::ledger::{ArchiveUnderWay, Scratch, VolumeWritten};
use crate::model::archive::{ArchiveManifest, ArchiveName, Volume};
use crate::model::digest::{Algorithm, Digest};
use crate::model::key::Key;
use crate::model::point::{DocumentSet, FORMAT};
use crate::repository::documents::OpenDocuments;
use crate::store::{ErrorKind, Lying};
use feed::{Feed, feed_binaries, feed_documents, read_needed};
use prove::prove;
use survey::{Survey, survey};
use volume::{VolumeLimits, write_volume};

/// An archive that was begun longer ago is begun anew: its documents are too old to be worth it.
const RESUMED_WITHIN: SignedDuration = SignedDuration::from_hours(48);
/// An archive has no more volumes than about this, since its manifest names each: larger ones are made where there would
/// be more.
const MOST_VOLUMES: u64 = 8192;
/// None is made larger for that, whatever sizes were told: its parts are held in memory.
const LARGEST_VOLUME: u64 = 1 << 40;
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
    /// About how large a volume may become; larger if there would be more than some thousand.
    pub volume_bytes: u64,
    /// How long a file must be unchanged before it is read a second time.
    pub settle: Duration,
    /// Whether a store that holds no binaries any more is taken for the truth.
    pub allow_empty: bool,
}

/// Runs a backup. Its result is the archive's name.
pub async fn backup(run: &RunContext, order: &BackupOrder) -> anyhow::Result<Ended> {
    order.source.open()?;
    if let Some(shard) = order.source.binaries.shard() {
        bail!("back up the shard {shard}: an archive is of a whole repository; copies alone have shards");
    }
    sweep_uploads(run, &order.destination).await?;
    // Whatever the documents name now is on disk already, so the binaries are looked at after them.
    run.report.phase("looking at the documents", "documents", None);
    let documents = match &order.source.documents {
        Some(documents) => Some(open_documents(run, documents).await?),
        None => None,
    };
    let mut archive = resume_or_begin(run, order, documents.as_ref()).await?;
    let (resumed, mut needed, mut held) = (!archive.volumes.is_empty(), None, None);
    // What is in the archive already is read for its references alone.
    let (fed, kept) = if resumed { (None, documents) } else { (documents, None) };
    if !archive.volumes.last().is_some_and(|volume| volume.last) {
        let survey = survey(run, order, last_binary(&archive)).await?;
        (archive, needed, held) = write_volumes(run, order, archive, fed, survey).await?;
    }
    if resumed {
        needed = read_needed(run, kept).await?;
        held = None;
    }
    let proved = prove(run, order, &archive, needed, held).await?;
    run.go_on()?;
    finish(run, order, archive, proved).await
}

/// The archive that an earlier run began, if going on with it makes sense, or a new one.
async fn resume_or_begin(
    run: &RunContext,
    order: &BackupOrder,
    documents: Option<&OpenDocuments>,
) -> anyhow::Result<ArchiveUnderWay> {
    let fingerprint = documents.and_then(OpenDocuments::fingerprint);
    let (job, id) = (order.job.clone(), order.destination.id);
    let earlier = run.blocking(move |run| run.ledger.archive_under_way(&job, id)).await?;
    if let Some(earlier) = earlier
        && has_these_documents(&earlier, documents.is_some(), fingerprint.as_deref())
        && let Some(archive) = resumable(run, order, earlier).await?
    {
        run.report.say(format!("going on with {}.zip after volume {}", archive.name, archive.volumes.len()));
        return Ok(archive);
    }
    let archive = ArchiveUnderWay {
        name: ArchiveName::new(run.id, fastrand::u64(..)),
        created: run.started,
        repository: identity(order),
        fingerprint,
        volumes: Vec::new(),
        completing: None,
    };
    record(run, order, &archive).await?;
    Ok(archive)
}

/// Whether the documents of an archive under way are those that would be read now. If they are not, or that cannot be
/// told, binaries that only the earlier ones name may be gone by now.
fn has_these_documents(archive: &ArchiveUnderWay, any: bool, fingerprint: Option<&str>) -> bool {
    if any {
        return fingerprint.is_some() && archive.fingerprint.as_deref() == fingerprint;
    }
    archive.fingerprint.is_none() && archive.volumes.iter().all(|written| written.documents.count == 0)
}

/// About how large a volume may become, where so many bytes are to be written.
fn volume_bytes_for(wanted: u64, to_write: u64) -> u64 {
    wanted.max((to_write / MOST_VOLUMES).min(LARGEST_VOLUME))
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
    for VolumeWritten { volume, .. } in &archive.volumes {
        // One that somebody took away could not be written again under its name while those after it are there.
        if !is_still_there(order, volume).await? {
            return Ok(None);
        }
    }
    // A crash during the last request of a volume leaves it there, or not.
    if let Some(completing) = archive.completing.take()
        && lies_there(run, order, &completing.volume).await?
    {
        archive.volumes.push(completing);
    }
    // Documents and records are not worth a reading in the middle: they are in the first volumes, all or none.
    let head_done = archive.volumes.last().is_some_and(|volume| volume.head_done);
    Ok(head_done.then_some(archive))
}

/// Whether a volume that was whole and as it was sent when it was recorded has been left alone.
async fn is_still_there(order: &BackupOrder, volume: &Volume) -> anyhow::Result<bool> {
    match order.destination.store.head(&volume.key).await {
        Ok(found) => Ok(found.bytes == volume.bytes),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn lies_there(run: &RunContext, order: &BackupOrder, volume: &Volume) -> anyhow::Result<bool> {
    Ok(lying(run, &order.destination, &volume.key, volume.bytes, &volume.sha1).await? == Lying::Same)
}

/// The last binary that is in the archive so far.
fn last_binary(archive: &ArchiveUnderWay) -> Option<Digest> {
    archive.volumes.iter().rev().find_map(|written| written.volume.last)
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
) -> anyhow::Result<(ArchiveUnderWay, Option<Needed>, Option<Scratch>)> {
    let (documents_to, packed) = mpsc::channel(1);
    let (binaries_to, binaries) = mpsc::channel(READ_AHEAD);
    let after = last_binary(&archive);
    let done: u64 = archive.volumes.iter().map(|written| written.volume.binary_bytes).sum();
    run.report.phase(format!("writing {}.zip", archive.name), "bytes", Some(survey.bytes.saturating_add(done)));
    run.report.advance(done);

    // They are in the first volumes, and an archive without all of them is not gone on with.
    let resumed = !archive.volumes.is_empty();
    let records = if resumed { Vec::new() } else { survey.records.clone() };
    let volume_bytes = volume_bytes_for(order.volume_bytes, survey.bytes);
    let fed_documents = feed_documents(run, documents, documents_to);
    let fed_binaries = feed_binaries(run, order, survey, after, binaries_to);
    let written = async {
        let mut feed = Feed::new(packed, binaries, records);
        loop {
            let (written, rest) = write_one(run, order, archive, volume_bytes, feed).await?;
            archive = written;
            let Some(rest) = rest else { return anyhow::Ok(archive) };
            feed = rest;
        }
    };
    let (fed_documents, fed_binaries, written) = tokio::join!(fed_documents, fed_binaries, written);
    // What cut the others off is the cause; they only say that they were.
    match (fed_documents, fed_binaries) {
        (Err(cause), _) | (_, Err(cause)) if !is_cancelled(&cause) => Err(cause),
        (Ok(needed), Ok(held)) => Ok((written?, needed, Some(held))),
        (Err(cause), _) | (_, Err(cause)) => written.and(Err(cause)),
    }
}

/// Writes one volume; gives what is left to be written, or none at the end.
async fn write_one(
    run: &RunContext,
    order: &BackupOrder,
    mut archive: ArchiveUnderWay,
    volume_bytes: u64,
    feed: Feed,
) -> anyhow::Result<(ArchiveUnderWay, Option<Feed>)> {
    let number = u32::try_from(archive.volumes.len() + 1).context("count volumes")?;
    let key = Key::volume(&archive.name, number);
    let (feed, next_bytes) = feed.peek_bytes(run).await?;
    let largest = volume_bytes.max(next_bytes + next_bytes / 100);
    let manner = Manner { part_bytes: part_bytes_for(largest), ..Manner::alone() };
    let limits = VolumeLimits { bytes: volume_bytes };
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
    let written = VolumeWritten {
        volume: volume.clone(),
        documents: ended.documents.clone(),
        records: ended.records.clone(),
        head_done: ended.head_done,
        last: ended.rest.is_none(),
        // What is read ahead has been judged already, so this may be false a volume too early, and never too late.
        complete: !run.report.is_partial() && archive.volumes.last().is_none_or(|before| before.complete),
    };
    archive.completing = Some(written.clone());
    record(run, order, &archive).await?;
    let (ended, result) = streamed.commit(run, &order.destination).await?;
    match result {
        Err(error) if error.kind == ErrorKind::AlreadyExists => {
            if !lies_there(run, order, &volume).await? {
                bail!("complete `{key}`: another object lies there, and nothing is ever overwritten");
            }
        }
        result => result?,
    }
    archive.completing = None;
    archive.volumes.push(written);
    record(run, order, &archive).await?;
    Ok((archive, ended.rest))
}

/// Writes the manifest, which makes it an archive.
async fn finish(
    run: &RunContext,
    order: &BackupOrder,
    archive: ArchiveUnderWay,
    proved: bool,
) -> anyhow::Result<Ended> {
    let complete = proved && archive.volumes.iter().all(|volume| volume.complete);
    if !complete && !run.report.is_partial() {
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
        complete,
        documents: all_documents(&archive.volumes),
        binaries: archive.volumes.iter().map(|written| written.volume.binaries).sum(),
        bytes: archive.volumes.iter().map(|written| written.volume.binary_bytes).sum(),
        records: archive.volumes.iter().flat_map(|written| written.records.iter().cloned()).collect(),
        volumes: archive.volumes.into_iter().map(|written| written.volume).collect(),
    };
    run.report.count(|counts| counts.size = manifest.volumes.iter().map(|volume| volume.bytes).sum());
    let key = Key::archive_manifest(&archive.name);
    let text = serde_json::to_string_pretty(&manifest)? + "\n";
    put_once(run, &order.destination, &key, Bytes::from(text.clone())).await?;
    let (job, id) = (order.job.clone(), order.destination.id);
    run.blocking(move |run| {
        run.ledger.keep_manifest(id, &key, &text)?;
        run.ledger.forget_archive(&job, id)
    })
    .await?;
    Ok(Ended { result: Some(format!("{}.zip", archive.name)), ..Ended::default() })
}

fn all_documents(volumes: &[VolumeWritten]) -> DocumentSet {
    volumes.iter().map(|written| &written.documents).fold(DocumentSet::default(), |mut all, documents| {
        all.count += documents.count;
        all.files.extend(documents.files.iter().cloned());
        all.damaged = all.damaged.or_else(|| documents.damaged.clone());
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under_way(fingerprint: Option<&str>, documents: u64) -> ArchiveUnderWay {
        let volume = Volume {
            key: Key::parse("archives/BackupDaemonJob1-0.zip").unwrap(),
            bytes: 1,
            sha1: Digest::of(OURS, b""),
            binaries: 0,
            binary_bytes: 0,
            list_sha1: Digest::of(OURS, b""),
            first: None,
            last: None,
        };
        let written = VolumeWritten {
            volume,
            documents: DocumentSet { count: documents, ..DocumentSet::default() },
            records: Vec::new(),
            head_done: true,
            last: false,
            complete: true,
        };
        ArchiveUnderWay {
            name: ArchiveName::new(crate::model::run::RunId::new(1), 0),
            created: "2026-01-01T00:00:00Z".parse().unwrap(),
            repository: String::new(),
            fingerprint: fingerprint.map(str::to_owned),
            volumes: vec![written],
            completing: None,
        }
    }

    #[test]
    fn an_archive_is_gone_on_with_only_where_its_documents_are_known_to_be_those_of_now() {
        for (earlier, now, expected) in [
            ((Some("a"), 2), (true, Some("a")), true),
            ((Some("a"), 2), (true, Some("b")), false),
            // Those of a Fedora cannot be told from others.
            ((None, 2), (true, None), false),
            ((None, 0), (true, None), false),
            ((None, 2), (false, None), false),
            ((Some("a"), 2), (false, None), false),
            ((None, 0), (false, None), true),
        ] {
            let archive = under_way(earlier.0, earlier.1);
            assert_eq!(has_these_documents(&archive, now.0, now.1), expected, "{earlier:?} {now:?}");
        }
    }

    #[test]
    fn a_manifest_can_name_every_volume() {
        let terabytes = |count: u64| count << 40;
        assert_eq!(volume_bytes_for(16 << 20, 100 << 30), 16 << 20);
        for to_write in [terabytes(1), terabytes(1000)] {
            let volumes = to_write / volume_bytes_for(16 << 20, to_write);
            assert!(volumes <= MOST_VOLUMES, "{volumes}");
        }
        assert_eq!(volume_bytes_for(16 << 20, u64::MAX), LARGEST_VOLUME);
    }
}
