//! What a restore point, an archive or a backup directory holds.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use jiff::Timestamp;

use crate::jobs::catalogue::{self, RestorableName};
use crate::jobs::context::{Destination, RunContext};
use crate::jobs::download::{BlockingDownload, fetch_range, store_error};
use crate::jobs::list::{Removals, check_within, read_lists};
use crate::jobs::restore::directory::DirectoryContents;
use crate::jobs::zip::{DirectoryEntry, DirectoryLocation, DirectoryReader, locate};
use crate::ledger::{Listed, Scratch};
use crate::model::archive::{ArchiveManifest, EntryName, Volume, is_record_name};
use crate::model::digest::{Algorithm, Hasher};
use crate::model::point::{DocumentSet, PointManifest, RecordFile};
use crate::model::shard::Shard;
use crate::store::{ByteRange, ErrorKind};

/// A backup, by its manifest.
#[derive(Clone, Debug)]
pub enum Contents {
    /// A restore point.
    Point(PointManifest),
    /// An archive.
    Archive(ArchiveManifest),
    /// A ModeShape backup directory, which has no manifest.
    Directory(DirectoryContents),
}

impl Contents {
    /// Fetches the manifest; an archive without one is refused.
    pub async fn open(run: &RunContext, destination: &Destination, name: &RestorableName) -> anyhow::Result<Self> {
        let fetched = match name {
            // The ledger's copy is for showing; what is restored is what the destination says now.
            RestorableName::Point(name) => catalogue::point(destination, None, name).await.map(Self::Point),
            RestorableName::Archive(name) => catalogue::archive(destination, None, name).await.map(Self::Archive),
        };
        run.go_on()?;
        let contents = fetched.map_err(|error| explain_missing(error, name, destination))?;
        contents.check_names().with_context(|| format!("read the manifest of {}", contents.name()))?;
        Ok(contents)
    }

    /// The names in a manifest become paths on disk, so they are looked at before anything is done with them.
    fn check_names(&self) -> anyhow::Result<()> {
        let mut names = BTreeSet::new();
        for file in &self.documents().files {
            if !matches!(EntryName::parse(&file.name), Some(EntryName::Documents(_))) {
                bail!("`{}` cannot be the name of a file of documents", file.name);
            }
            if !names.insert(file.name.as_str()) {
                bail!("`{}` is in it twice", file.name);
            }
        }
        for record in self.records() {
            if !is_record_name(&record.name) {
                bail!("`{}` cannot be the name of a record", record.name);
            }
            if !names.insert(record.name.as_str()) {
                bail!("`{}` is in it twice", record.name);
            }
        }
        Ok(())
    }

    /// What the user calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Point(point) => point.name.to_string(),
            Self::Archive(archive) => format!("{}.zip", archive.name),
            Self::Directory(directory) => directory.path().display().to_string(),
        }
    }

    /// What the directory is called that it is staged in.
    pub(super) fn staged_as(&self) -> String {
        match self {
            Self::Directory(directory) => directory.staged_as(),
            Self::Point(_) | Self::Archive(_) => self.name(),
        }
    }

    /// When its run looked at the repository.
    pub const fn created(&self) -> Timestamp {
        match self {
            Self::Point(point) => point.created,
            Self::Archive(archive) => archive.created,
            // Its files may be copies that are younger than what they hold.
            Self::Directory(_) => Timestamp::UNIX_EPOCH,
        }
    }

    /// Its size: that of the ZIP files, or of the binaries of a restore point.
    pub fn size(&self) -> u64 {
        match self {
            Self::Point(point) => point.bytes,
            Self::Archive(archive) => archive.volumes.iter().map(|volume| volume.bytes).fold(0, u64::saturating_add),
            Self::Directory(directory) => directory.bytes(),
        }
    }

    /// The part of the repository that it is of, and says anything about; none for the whole.
    pub const fn shard(&self) -> Option<Shard> {
        match self {
            Self::Point(point) => point.shard,
            Self::Archive(_) | Self::Directory(_) => None,
        }
    }

    /// Its documents.
    pub const fn documents(&self) -> &DocumentSet {
        match self {
            Self::Point(point) => &point.documents,
            Self::Archive(archive) => &archive.documents,
            Self::Directory(directory) => directory.documents(),
        }
    }

    /// The files that belong into the root of the store.
    pub fn records(&self) -> &[RecordFile] {
        match self {
            Self::Point(point) => &point.records,
            Self::Archive(archive) => &archive.records,
            Self::Directory(_) => &[],
        }
    }

    /// Every binary in it with its size, as its lists or directories have it, which must be what the manifest says.
    /// The mark is the number of the volume, from 0; 0 in a restore point.
    pub async fn list(&self, run: &RunContext, destination: &Destination) -> anyhow::Result<Scratch> {
        let mut listed = run.blocking(|run| run.ledger.scratch()).await?;
        let (binaries, bytes) = match self {
            Self::Point(point) => {
                listed = read_lists(run, destination, &point.lists, listed, Removals::Applied).await?;
                listed = check_within(listed, point.shard).with_context(|| format!("list {}", point.name))?;
                (point.binaries, point.bytes)
            }
            Self::Archive(archive) => {
                for (number, volume) in archive.volumes.iter().enumerate() {
                    listed = list_volume(run, destination, volume, number, listed).await?;
                }
                (archive.binaries, archive.bytes)
            }
            Self::Directory(directory) => return directory.list(run).await,
        };
        let name = self.name();
        run.blocking(move |_| {
            let totals = listed.totals()?;
            if totals != (binaries, bytes) {
                bail!(
                    "list {name}: it has {} binaries of {} bytes, its manifest says {binaries} of {bytes}: it is damaged",
                    totals.0,
                    totals.1
                );
            }
            Ok(listed)
        })
        .await
    }
}

fn explain_missing(error: anyhow::Error, name: &RestorableName, destination: &Destination) -> anyhow::Error {
    if store_error(&error).is_none_or(|error| error.kind != ErrorKind::NotFound) {
        return error;
    }
    let name = match name {
        RestorableName::Point(name) => format!("there is no restore point {name}"),
        RestorableName::Archive(name) => format!("there is no archive {name}.zip, or it was never completed,"),
    };
    error.context(format!("{name} at destination {}: `holdfast points` lists what there is", destination.name))
}

async fn list_volume(
    run: &RunContext,
    destination: &Destination,
    volume: &Volume,
    number: usize,
    listed: Scratch,
) -> anyhow::Result<Scratch> {
    let mark = i64::try_from(number).context("count volumes")?;
    let state = (listed, Hasher::new(Algorithm::Sha1));
    let (listed, list) = each_entry(run, destination, volume, state, move |state, entry| {
        if let EntryName::Binary(digest) = entry.name {
            state.1.update(format!("{digest} {}\n", entry.size).as_bytes());
            if state.0.get(&digest)?.is_some() {
                bail!("binary {digest} is in two volumes");
            }
            state.0.put(&Listed { digest, bytes: Some(entry.size), mark })?;
        }
        Ok(())
    })
    .await
    .with_context(|| format!("read the directory of `{}`", volume.key))?;
    if list.finish() != volume.list_sha1 {
        bail!("check `{}`: the binaries in it are not those of the manifest: it is damaged", volume.key);
    }
    Ok(listed)
}

/// Reads the central directory of a volume without the volume, entry by entry.
pub async fn each_entry<S: Send + 'static>(
    run: &RunContext,
    destination: &Destination,
    volume: &Volume,
    mut state: S,
    mut visit: impl FnMut(&mut S, DirectoryEntry) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<S> {
    let location = find_directory(destination, volume).await?;
    let range = ByteRange { from: location.offset, len: location.bytes };
    let download = destination.store.get(&volume.key, Some(range)).await?;
    run.blocking(move |run| {
        let reader = std::io::BufReader::with_capacity(64 << 10, BlockingDownload::new(download));
        for (number, entry) in DirectoryReader::new(reader, location).enumerate() {
            if number % 4096 == 0 {
                run.go_on()?;
            }
            visit(&mut state, entry?)?;
        }
        Ok(state)
    })
    .await
}

async fn find_directory(destination: &Destination, volume: &Volume) -> anyhow::Result<DirectoryLocation> {
    let (key, bytes) = (&volume.key, volume.bytes);
    let there = destination.store.head(key).await?;
    if there.bytes != bytes {
        bail!("check `{key}`: it has {} bytes, its manifest says {bytes}: it is truncated or not ours", there.bytes);
    }
    if let Some(digest) = there.digest.filter(|digest| *digest != volume.sha1) {
        bail!("check `{key}`: the store says its digest is {digest}, its manifest {}: it is damaged", volume.sha1);
    }
    let len = bytes.min(DirectoryLocation::TAIL_BYTES);
    let tail = fetch_range(destination, key, bytes - len, len).await?;
    locate(&tail, bytes).with_context(|| format!("find the directory of `{key}`"))
}
