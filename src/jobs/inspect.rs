//! Looks into restore points and archives without restoring them: their documents, and how two of them differ.

use std::collections::HashSet;
use std::ops::ControlFlow;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::context::{Destination, RunContext};
use super::cursor::Cursor;
use super::download::{BlockingDownload, fetch_small};
use super::restore::DOCUMENTS_LIMIT;
use super::restore::contents::{Contents, each_entry};
use super::zip::{DirectoryEntry, read_single};
use crate::ledger::{Listed, Scratch};
use crate::model::archive::{ArchiveManifest, EntryName};
use crate::model::digest::Digest;
use crate::model::document::scan;
use crate::model::key::Key;
use crate::model::point::DocumentFile;
use crate::model::shard::Shard;
use crate::repository::documents::{each_line, short_hash};
use crate::store::ByteRange;

/// The mark of a document that both backups have.
const IN_BOTH: u64 = 1;

/// A backup to look into.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What it holds.
    pub contents: Contents,
    /// Where it lies.
    pub destination: Destination,
}

/// Hands every document over to `visit`, as its line without the newline, in the order of the files, until that breaks
/// off. Each file is checked against its digest before.
pub async fn each_document<S: Send + 'static>(
    run: &RunContext,
    inspected: &Inspected,
    state: S,
    visit: impl FnMut(&mut S, &[u8]) -> anyhow::Result<ControlFlow<()>> + Clone + Send + 'static,
) -> anyhow::Result<S> {
    each_document_but(run, inspected, &HashSet::new(), state, visit).await
}

/// The same without the files that have one of these digests.
async fn each_document_but<S: Send + 'static>(
    run: &RunContext,
    inspected: &Inspected,
    without: &HashSet<Digest>,
    mut state: S,
    visit: impl FnMut(&mut S, &[u8]) -> anyhow::Result<ControlFlow<()>> + Clone + Send + 'static,
) -> anyhow::Result<S> {
    let destination = &inspected.destination;
    let entries = match &inspected.contents {
        Contents::Point(_) | Contents::Directory(_) => Vec::new(),
        Contents::Archive(archive) => documents_entries(run, destination, archive).await?,
    };
    for file in inspected.contents.documents().files.iter().filter(|file| !without.contains(&file.sha1)) {
        run.go_on()?;
        let content = match &file.key {
            Some(key) => fetch_small(destination, key, DOCUMENTS_LIMIT).await?.to_vec(),
            None => fetch_entry(run, destination, &entries, file).await?,
        };
        if !file.sha1.matches(&content) {
            bail!("check `{}` of {}: its content is not that of the manifest", file.name, inspected.contents.name());
        }
        let mut visit = visit.clone();
        let flow;
        (state, flow) = run
            .blocking(move |run| {
                let flow = each_line(&content, &mut |line| {
                    run.go_on()?;
                    visit(&mut state, line)
                })?;
                Ok((state, flow))
            })
            .await
            .with_context(|| format!("read `{}` of {}", file.name, inspected.contents.name()))?;
        if flow.is_break() {
            break;
        }
    }
    Ok(state)
}

/// Where the documents lie in the volumes of an archive: in the first ones.
async fn documents_entries(
    run: &RunContext,
    destination: &Destination,
    archive: &ArchiveManifest,
) -> anyhow::Result<Vec<(Key, DirectoryEntry)>> {
    let mut entries = Vec::new();
    for volume in &archive.volumes {
        if entries.len() >= archive.documents.files.len() {
            break;
        }
        let key = volume.key.clone();
        entries = each_entry(run, destination, volume, entries, move |entries, entry| {
            if matches!(entry.name, EntryName::Documents(_)) {
                entries.push((key.clone(), entry));
            }
            Ok(())
        })
        .await?;
    }
    Ok(entries)
}

async fn fetch_entry(
    run: &RunContext,
    destination: &Destination,
    entries: &[(Key, DirectoryEntry)],
    file: &DocumentFile,
) -> anyhow::Result<Vec<u8>> {
    let found = entries.iter().find(|(_, entry)| entry.name.to_string() == file.name);
    let (key, entry) = found.with_context(|| format!("find `{}`: no volume has it", file.name))?.clone();
    let range = ByteRange { from: entry.offset, len: entry.span() };
    let download = destination.store.get(&key, Some(range)).await?;
    let limit = file.bytes.min(DOCUMENTS_LIMIT).saturating_add(1);
    run.blocking(move |_| {
        use std::io::Read as _;

        let mut content = Vec::new();
        read_single(&entry, BlockingDownload::new(download))?.take(limit).read_to_end(&mut content)?;
        Ok(content)
    })
    .await
    .with_context(|| format!("read `{}`", file.name))
}

/// How a later backup differs from an earlier one. The lists have the first of each, the numbers count all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The earlier one, which is compared from.
    pub from: String,
    /// The later one.
    pub to: String,
    /// Where one of them is of a shard: the part of the repository whose binaries are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Binaries that only the later one has.
    pub binaries_added: Several,
    /// Binaries that only the earlier one has.
    pub binaries_removed: Several,
    /// Ids of documents that only the later one has.
    pub documents_added: Several,
    /// Ids of documents that only the earlier one has.
    pub documents_removed: Several,
    /// Ids of documents that differ.
    pub documents_changed: Several,
}

/// A number of things, the first of them by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Several {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Vec<String>,
}

impl Several {
    fn add(&mut self, limit: usize, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < limit {
            self.first.push(name());
        }
    }
}

impl Difference {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        let Self { binaries_added, binaries_removed, documents_added, documents_removed, documents_changed, .. } = self;
        [binaries_added, binaries_removed, documents_added, documents_removed, documents_changed]
            .iter()
            .all(|several| several.count == 0)
    }
}

/// Compares two backups, which may lie at different destinations; names at most `limit` of each sort.
pub async fn difference(
    run: &RunContext,
    from: &Inspected,
    to: &Inspected,
    limit: usize,
) -> anyhow::Result<Difference> {
    let shard = common_shard(&from.contents, &to.contents)?;
    let difference = Difference { from: from.contents.name(), to: to.contents.name(), shard, ..Difference::default() };
    let (before, after) =
        (from.contents.list(run, &from.destination).await?, to.contents.list(run, &to.destination).await?);
    let difference = run
        .blocking(move |run| {
            let mut difference = difference;
            compare_binaries(run, &before, &after, limit, &mut difference)?;
            Ok(difference)
        })
        .await?;
    compare_documents(run, from, to, limit, difference).await
}

/// What two backups can be compared in.
fn common_shard(from: &Contents, to: &Contents) -> anyhow::Result<Option<Shard>> {
    let (Some(one), Some(other)) = (from.shard(), to.shard()) else { return Ok(from.shard().or(to.shard())) };
    let common = one.intersection(&other);
    if common.is_none() {
        bail!(
            "compare {} with {}: they are of the shards {one} and {other}, which have no binary in common: choose two of \
             the same shard",
            from.name(),
            to.name()
        );
    }
    Ok(common)
}

fn compare_binaries(
    run: &RunContext,
    before: &Scratch,
    after: &Scratch,
    limit: usize,
    difference: &mut Difference,
) -> anyhow::Result<()> {
    let shard = difference.shard;
    let is_meant = |binary: &Listed| shard.is_none_or(|shard| shard.contains(&binary.digest));
    let mut left = Cursor::new(|after: Option<&Digest>| before.page(after), |binary: &Listed| binary.digest);
    let name = |digest: &Digest| digest.to_string();
    after.each(|binary| {
        run.go_on()?;
        if !is_meant(binary) {
            return Ok(());
        }
        while let Some(gone) = left.take_if(|left| left.digest < binary.digest)? {
            if is_meant(&gone) {
                difference.binaries_removed.add(limit, || name(&gone.digest));
            }
        }
        if left.take_if(|left| left.digest == binary.digest)?.is_none() {
            difference.binaries_added.add(limit, || name(&binary.digest));
        }
        Ok(())
    })?;
    while let Some(gone) = left.take()? {
        if is_meant(&gone) {
            difference.binaries_removed.add(limit, || name(&gone.digest));
        }
    }
    Ok(())
}

async fn compare_documents(
    run: &RunContext,
    from: &Inspected,
    to: &Inspected,
    limit: usize,
    difference: Difference,
) -> anyhow::Result<Difference> {
    // An id stands once in a backup, so that files which both have say nothing.
    let digests = |inspected: &Inspected| -> HashSet<Digest> {
        inspected.contents.documents().files.iter().map(|file| file.sha1).collect()
    };
    let both: HashSet<Digest> = digests(from).intersection(&digests(to)).copied().collect();
    let seen = run.blocking(|run| run.ledger.scratch()).await?;
    let seen = each_document_but(run, from, &both, seen, |seen, line| {
        seen.put_document(&short_hash(id(line)?.as_bytes()), &short_hash(line), 0)?;
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    let state = (seen, difference);
    let (seen, difference) = each_document_but(run, to, &both, state, move |(seen, difference), line| {
        let id = id(line)?;
        let content = short_hash(line);
        match seen.put_document(&short_hash(id.as_bytes()), &content, IN_BOTH)? {
            None => difference.documents_added.add(limit, || id.to_string()),
            Some((earlier, _)) if earlier != content => difference.documents_changed.add(limit, || id.to_string()),
            Some(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    // Their names were not kept: those that were not met again are found by reading once more.
    let (_, difference) = each_document_but(run, from, &both, (seen, difference), move |(seen, difference), line| {
        let id = id(line)?;
        if seen.document(&short_hash(id.as_bytes()))?.is_some_and(|(_, mark)| mark != IN_BOTH) {
            difference.documents_removed.add(limit, || id.to_string());
        }
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    Ok(difference)
}

fn id(line: &[u8]) -> anyhow::Result<std::borrow::Cow<'_, str>> {
    Ok(scan(line).context("read a document")?.id)
}
