//! Brings what a restore needs of an archive: whole volumes where most of one is needed, single entries where not.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;

use super::compare::Comparison;
use super::contents::each_entry;
use super::fetch::{stage_documents, stage_from_archive, stage_record};
use super::staging::Staging;
use crate::jobs::context::{Destination, RunContext};
use crate::jobs::download::{BlockingDownload, Expected, fetch_checked};
use crate::jobs::zip::{DirectoryEntry, Entry, Reader, read_single};
use crate::ledger::{Listed, Scratch};
use crate::model::archive::{ArchiveManifest, EntryName, Volume};
use crate::model::digest::Digest;
use crate::store::ByteRange;

/// A volume is fetched whole when at least one part in this many of its binaries' bytes is needed.
const WHOLE_WHEN_ONE_IN: u64 = 2;
/// How many single entries are fetched at once.
const PARALLEL: usize = 16;
/// The entries that are to be fetched singly are gathered up to this many.
const GATHERED: usize = 4096;

/// What is needed of one volume.
#[derive(Clone, Copy, Debug, Default)]
struct Needed {
    binaries: u64,
    bytes: u64,
}

/// What is to be taken out of the volumes.
#[derive(Debug)]
struct Wanted {
    comparison: Comparison,
    /// The binaries that an earlier try staged.
    waiting: Scratch,
}

impl Wanted {
    /// The binary of this digest, if it is to be taken.
    fn binary(&self, digest: &Digest) -> anyhow::Result<Option<Listed>> {
        if self.waiting.get(digest)?.is_some() { Ok(None) } else { self.comparison.fetch.get(digest) }
    }

    /// Whether this entry, which is no binary, is to be taken.
    fn head(&self, name: &EntryName) -> bool {
        match name {
            EntryName::Documents(_) => self.comparison.documents,
            EntryName::Record(_) => self.comparison.records,
            EntryName::Binary(_) | EntryName::DamagedDocuments | EntryName::ChangesSummary => false,
        }
    }
}

/// Fetches binaries, documents and records of an archive.
pub(super) async fn bring_archive(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
    comparison: Comparison,
    staging: &Staging,
) -> anyhow::Result<Comparison> {
    staging.make_places()?;
    let volumes = archive.volumes.len();
    let (needed, waiting, back) = run
        .blocking({
            let staging = staging.paths();
            move |run| {
                let mut needed = vec![Needed::default(); volumes];
                let waiting = run.ledger.scratch()?;
                comparison.fetch.each(|binary| {
                    run.go_on()?;
                    if staging.has(&binary.digest)? {
                        run.report.count(|counts| counts.staged += 1);
                        run.report.advance(binary.bytes.unwrap_or_default());
                        return waiting.put(binary);
                    }
                    let volume = usize::try_from(binary.mark).ok().and_then(|number| needed.get_mut(number));
                    let volume = volume.context("find the volume of a binary")?;
                    volume.binaries += 1;
                    volume.bytes += binary.bytes.unwrap_or_default();
                    Ok(())
                })?;
                Ok((needed, waiting, comparison))
            }
        })
        .await?;
    let mut wanted = Wanted { comparison: back, waiting };
    let head = wanted.comparison.documents || wanted.comparison.records;
    for (number, (volume, needed)) in archive.volumes.iter().zip(needed).enumerate() {
        run.go_on()?;
        let most = needed.binaries > 0 && needed.bytes * WHOLE_WHEN_ONE_IN >= volume.binary_bytes;
        if most {
            wanted = stream_volume(run, destination, archive, volume, wanted, staging).await?;
        } else if needed.binaries > 0 || head {
            wanted = pick_entries(run, destination, archive, volume, number, wanted, staging).await?;
        }
    }
    run.blocking(move |run| {
        check_all_staged(run, &wanted.comparison)?;
        Ok(wanted.comparison)
    })
    .await
}

/// Every entry that was needed has been met; the directory, which was read first, promised them all.
fn check_all_staged(run: &RunContext, comparison: &Comparison) -> anyhow::Result<()> {
    let counts = run.report.counts();
    let met = counts.copied + counts.failed + counts.staged;
    if met < comparison.fetch_count {
        bail!("fetch the archive: {} of its binaries did not come", comparison.fetch_count - met);
    }
    Ok(())
}

/// Fetches a volume from its first byte to its last and stages what is needed on the way.
async fn stream_volume(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
    volume: &Volume,
    wanted: Wanted,
    staging: &Staging,
) -> anyhow::Result<Wanted> {
    let expected = Expected { bytes: volume.bytes, digest: volume.sha1 };
    let (archive, staging) = (archive.clone(), staging.paths());
    let largest = volume.binary_bytes.max(1 << 30);
    fetch_checked(run, destination, &volume.key, expected, move |run, reader| {
        let mut zip = Reader::new(reader).with_limit(largest);
        while let Some(mut entry) = zip.next()? {
            run.go_on()?;
            take_entry(run, &archive, &wanted, &staging, &mut entry)?;
        }
        Ok(wanted)
    })
    .await
    .with_context(|| format!("read the volume `{}`", volume.key))
}

fn take_entry<R: std::io::Read>(
    run: &RunContext,
    archive: &ArchiveManifest,
    wanted: &Wanted,
    staging: &Staging,
    entry: &mut Entry<'_, R>,
) -> anyhow::Result<()> {
    let name = entry.name().clone();
    if let EntryName::Binary(digest) = name {
        if wanted.binary(&digest)?.is_none() {
            return Ok(());
        }
        return stage_from_archive(run, staging, &digest, entry);
    }
    if wanted.head(&name) {
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        take_head(run, archive, staging, &name, &content)?;
    }
    Ok(())
}

fn take_head(
    run: &RunContext,
    archive: &ArchiveManifest,
    staging: &Staging,
    name: &EntryName,
    content: &[u8],
) -> anyhow::Result<()> {
    let text = name.to_string();
    if let EntryName::Record(record) = name {
        let record = archive.records.iter().find(|known| known.name == *record);
        return stage_record(run, record.with_context(|| format!("find `{text}` in the manifest"))?, content, staging);
    }
    let file = archive.documents.files.iter().find(|file| file.name == text);
    stage_documents(run, file.with_context(|| format!("find `{text}` in the manifest"))?, content, staging)
}

/// Reads the directory of a volume and fetches only the entries that are needed.
async fn pick_entries(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
    volume: &Volume,
    number: usize,
    wanted: Wanted,
    staging: &Staging,
) -> anyhow::Result<Wanted> {
    let mark = i64::try_from(number).context("count volumes")?;
    let (to, mut from) = tokio::sync::mpsc::channel::<Vec<DirectoryEntry>>(1);
    let state = (wanted, Vec::new());
    let reading = async {
        let (wanted, rest) = each_entry(run, destination, volume, state, {
            let to = to.clone();
            move |(wanted, gathered): &mut (Wanted, Vec<DirectoryEntry>), entry| {
                let needed = match &entry.name {
                    EntryName::Binary(digest) => wanted.binary(digest)?.is_some_and(|binary| binary.mark == mark),
                    other => wanted.head(other),
                };
                if needed {
                    gathered.push(entry);
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
        anyhow::Ok(wanted)
    };
    let fetching = async {
        while let Some(entries) = from.recv().await {
            fetch_entries(run, destination, archive, volume, entries, staging).await?;
        }
        anyhow::Ok(())
    };
    let (wanted, fetched) = tokio::join!(reading, fetching);
    fetched?;
    wanted
}

async fn fetch_entries(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
    volume: &Volume,
    entries: Vec<DirectoryEntry>,
    staging: &Staging,
) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for entry in entries {
        run.go_on()?;
        while tasks.len() >= PARALLEL {
            tasks.join_next().await.expect("tasks are under way")??;
        }
        let (run, destination, archive) = (run.clone(), destination.clone(), archive.clone());
        let (key, bytes, staging) = (volume.key.clone(), volume.bytes, staging.paths());
        tasks.spawn(async move {
            let len = entry.span().min(bytes.saturating_sub(entry.offset));
            let download = destination.store.get(&key, Some(ByteRange { from: entry.offset, len })).await?;
            run.blocking(move |run| {
                let mut content = read_single(&entry, BlockingDownload::new(download))
                    .with_context(|| format!("read `{}` in `{key}`", entry.name))?;
                if let EntryName::Binary(digest) = &entry.name {
                    return stage_from_archive(run, &staging, digest, &mut content);
                }
                let mut whole = Vec::new();
                content.read_to_end(&mut whole)?;
                take_head(run, &archive, &staging, &entry.name, &whole)
            })
            .await
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
