//! Brings what a restore needs of an archive: whole volumes where most of one is needed, single entries where not.

use std::io::Read;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::compare::Comparison;
use super::contents::each_entry;
use super::fetch::{DOCUMENTS_LIMIT, stage_documents, stage_from_archive, stage_record};
use super::staging::Staging;
use crate::jobs::context::{Destination, RunContext};
use crate::jobs::download::{BlockingDownload, Expected, fetch_checked};
use crate::jobs::source::RECORD_LIMIT;
use crate::jobs::zip::{DirectoryEntry, Entry, Reader, read_single};
use crate::ledger::Listed;
use crate::model::archive::{ArchiveManifest, EntryName, Volume};
use crate::store::ByteRange;

/// A volume is fetched whole when at least one part in this many of its binaries' bytes is needed.
const WHOLE_WHEN_ONE_IN: u64 = 2;
/// How many single entries are fetched at once.
const PARALLEL: usize = 16;
/// How many of those are documents or records, which are held in memory.
const HELD: usize = 2;
/// The entries that are to be fetched singly are gathered up to this many.
const GATHERED: usize = 4096;

/// The mark of a binary that an earlier try staged, instead of the number of its volume.
const WAITING: i64 = -1;

/// What is needed of one volume.
#[derive(Clone, Copy, Debug, Default)]
struct Needed {
    binaries: u64,
    bytes: u64,
}

/// Fetches binaries, documents and records of an archive.
pub(super) async fn bring_archive(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
    mut comparison: Comparison,
    staging: &Staging,
) -> anyhow::Result<Comparison> {
    let (volumes, staged) = (archive.volumes.len(), staging.paths());
    let (needed, back) = run
        .blocking(move |run| {
            let mut needed = vec![Needed::default(); volumes];
            comparison.fetch.each(|binary| {
                run.go_on()?;
                if staged.has(&binary.digest)? {
                    run.report.advance(binary.bytes.unwrap_or_default());
                    run.report.count(|counts| counts.staged += 1);
                    return comparison.fetch.put(&Listed { mark: WAITING, ..*binary });
                }
                let volume = usize::try_from(binary.mark).ok().and_then(|number| needed.get_mut(number));
                let volume = volume.context("find the volume of a binary")?;
                volume.binaries += 1;
                volume.bytes += binary.bytes.unwrap_or_default();
                Ok(())
            })?;
            Ok((needed, comparison))
        })
        .await?;
    comparison = back;
    for (number, (volume, needed)) in archive.volumes.iter().zip(needed).enumerate() {
        run.go_on()?;
        let most = needed.binaries > 0 && needed.bytes * WHOLE_WHEN_ONE_IN >= volume.binary_bytes;
        if most {
            comparison = stream_volume(run, destination, archive, volume, number, comparison, staging).await?;
        } else if needed.binaries > 0 || lacks_head(&comparison, staging) {
            comparison = pick_entries(run, destination, archive, volume, number, comparison, staging).await?;
        }
    }
    Ok(comparison)
}

/// Whether documents or records are still to come; they are in the first volumes.
fn lacks_head(comparison: &Comparison, staging: &Staging) -> bool {
    comparison.documents.iter().any(|name| !staging.document(name).exists())
        || comparison.records.iter().any(|name| !staging.record(name).exists())
}

/// Fetches a volume from its first byte to its last and stages what is needed on the way.
async fn stream_volume(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
    volume: &Volume,
    number: usize,
    comparison: Comparison,
    staging: &Staging,
) -> anyhow::Result<Comparison> {
    let mark = i64::try_from(number).context("count volumes")?;
    let expected = Expected { bytes: volume.bytes, digest: volume.sha1 };
    let (archive, staging) = (archive.clone(), staging.paths());
    let largest = volume.binary_bytes.max(1 << 30);
    fetch_checked(run, destination, &volume.key, expected, move |run, reader| {
        let mut zip = Reader::new(reader).with_limit(largest);
        while let Some(mut entry) = zip.next()? {
            run.go_on()?;
            take_entry(run, &archive, &comparison, mark, &staging, &mut entry)?;
        }
        Ok(comparison)
    })
    .await
    .with_context(|| format!("read the volume `{}`", volume.key))
}

fn take_entry<R: Read>(
    run: &RunContext,
    archive: &ArchiveManifest,
    comparison: &Comparison,
    mark: i64,
    staging: &Staging,
    entry: &mut Entry<'_, R>,
) -> anyhow::Result<()> {
    let name = entry.name().clone();
    if let EntryName::Binary(digest) = name {
        return match comparison.fetch.get(&digest)? {
            Some(binary) if binary.mark == mark => stage_from_archive(run, staging, &binary, entry),
            _ => Ok(()),
        };
    }
    if is_wanted(&name, comparison) { take_head(run, archive, staging, &name, entry) } else { Ok(()) }
}

fn is_wanted(name: &EntryName, comparison: &Comparison) -> bool {
    match name {
        EntryName::Documents(_) => !comparison.documents.is_empty(),
        EntryName::Record(name) => comparison.records.contains(name),
        EntryName::Binary(_) | EntryName::DamagedDocuments | EntryName::ChangesSummary => false,
    }
}

fn take_head(
    run: &RunContext,
    archive: &ArchiveManifest,
    staging: &Staging,
    name: &EntryName,
    content: &mut dyn Read,
) -> anyhow::Result<()> {
    let text = name.to_string();
    let unknown = || format!("find `{text}` in the manifest");
    // It is held in memory: a byte more than the manifest says shows that it is longer.
    let mut read = |bytes: u64, limit: u64| {
        let mut whole = Vec::new();
        content.take(bytes.min(limit).saturating_add(1)).read_to_end(&mut whole).map(|_| whole)
    };
    if let EntryName::Record(record) = name {
        let record = archive.records.iter().find(|known| known.name == *record).with_context(unknown)?;
        return stage_record(run, record, &read(record.bytes, RECORD_LIMIT)?, staging);
    }
    let file = archive.documents.files.iter().find(|file| file.name == text).with_context(unknown)?;
    stage_documents(run, file, &read(file.bytes, DOCUMENTS_LIMIT)?, staging)
}

/// Reads the directory of a volume and fetches only the entries that are needed.
async fn pick_entries(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
    volume: &Volume,
    number: usize,
    comparison: Comparison,
    staging: &Staging,
) -> anyhow::Result<Comparison> {
    let mark = i64::try_from(number).context("count volumes")?;
    let (to, mut from) = mpsc::channel::<Vec<(DirectoryEntry, Option<Listed>)>>(1);
    let state = (comparison, Vec::new());
    let reading = async {
        let (comparison, rest) = each_entry(run, destination, volume, state, {
            let to = to.clone();
            move |(comparison, gathered): &mut (Comparison, Vec<(DirectoryEntry, Option<Listed>)>), entry| {
                let binary = match &entry.name {
                    EntryName::Binary(digest) => comparison.fetch.get(digest)?.filter(|binary| binary.mark == mark),
                    _ => None,
                };
                if binary.is_some() || is_wanted(&entry.name, comparison) {
                    gathered.push((entry, binary));
                }
                if gathered.len() >= GATHERED {
                    to.blocking_send(std::mem::take(gathered)).context("hand entries on")?;
                }
                Ok(())
            }
        })
        .await?;
        to.send(rest).await.context("hand entries on")?;
        drop(to);
        anyhow::Ok(comparison)
    };
    // It owns the receiver: when a request fails, the reader ends with the next entries.
    let fetching = async move {
        while let Some(entries) = from.recv().await {
            fetch_entries(run, destination, archive, volume, entries, staging).await?;
        }
        anyhow::Ok(())
    };
    let (comparison, fetched) = tokio::join!(reading, fetching);
    fetched?;
    comparison
}

async fn fetch_entries(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
    volume: &Volume,
    entries: Vec<(DirectoryEntry, Option<Listed>)>,
    staging: &Staging,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    let mut ended = Ok(());
    let held = Arc::new(Semaphore::new(HELD));
    for (entry, binary) in entries {
        while tasks.len() >= PARALLEL {
            ended = tasks.join_next().await.expect("tasks are under way")?;
        }
        ended = ended.and_then(|()| run.go_on());
        if ended.is_err() {
            break;
        }
        let (run, destination, archive) = (run.clone(), destination.clone(), archive.clone());
        let (key, bytes, staging) = (volume.key.clone(), volume.bytes, staging.paths());
        let held = Arc::clone(&held);
        tasks.spawn(async move {
            let _held = match binary {
                Some(_) => None,
                None => Some(held.acquire_owned().await.context("wait for memory")?),
            };
            let len = entry.span().min(bytes.saturating_sub(entry.offset));
            let download = destination.store.get(&key, Some(ByteRange { from: entry.offset, len })).await?;
            run.blocking(move |run| {
                let mut content = read_single(&entry, BlockingDownload::new(download))
                    .with_context(|| format!("read `{}` in `{key}`", entry.name))?;
                match binary {
                    Some(binary) => stage_from_archive(run, &staging, &binary, &mut content),
                    None => take_head(run, &archive, &staging, &entry.name, &mut content),
                }
            })
            .await
        });
    }
    // After an error too: what still writes here must not do so when all is removed, or tried again.
    while let Some(last) = tasks.join_next().await {
        ended = ended.and(last?);
    }
    ended
}
