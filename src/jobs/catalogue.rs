//! What a destination has to restore from: its restore points and archives, by their manifests.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use super::context::Destination;
use super::download::fetch_small;
use crate::ledger::Ledger;
use crate::model::archive::{ArchiveManifest, ArchiveName};
use crate::model::key::{ARCHIVES, Key, POINTS};
use crate::model::point::{FORMAT, PointManifest, PointName, SHARD_FORMAT};
use crate::model::shard::Shard;

/// No manifest is longer: some thousand volumes of 400 bytes each, and as many files of documents.
const MANIFEST_LIMIT: u64 = 16 << 20;

/// A restore point or an archive, as `holdfast points` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restorable {
    /// What `restore` and `verify` take.
    pub name: String,
    /// `point` or `archive`.
    pub kind: &'static str,
    /// The destination's name in the configuration.
    pub destination: String,
    /// The repository it is of; null for an archive that has no manifest.
    pub repository: Option<String>,
    /// When its run looked at the repository; null for an archive that has no manifest.
    pub created: Option<Timestamp>,
    /// How many documents are in it.
    pub documents: u64,
    /// How many binaries.
    pub binaries: u64,
    /// Their sizes, added up.
    pub bytes: u64,
    /// Whether everything that the repository held is in it.
    pub complete: bool,
    /// The part of the repository that it is of; null for the whole.
    pub shard: Option<Shard>,
}

/// The name of something to restore from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestorableName {
    /// A restore point.
    Point(PointName),
    /// An archive.
    Archive(ArchiveName),
}

/// What [`Restorable::name`] says and `parse` takes.
impl fmt::Display for RestorableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Point(name) => name.fmt(f),
            Self::Archive(name) => write!(f, "{name}.zip"),
        }
    }
}

impl Serialize for RestorableName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RestorableName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl std::str::FromStr for RestorableName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Ok(point) = text.parse() {
            return Ok(Self::Point(point));
        }
        match text.parse() {
            Ok(archive) => Ok(Self::Archive(archive)),
            Err(_) => bail!("`{text}` names neither a restore point nor an archive: `holdfast points` lists them"),
        }
    }
}

/// The names at a destination, and which of the archives have volumes but no manifest.
#[derive(Debug, Default)]
pub struct Names {
    /// Restore points that have a manifest.
    pub points: BTreeSet<PointName>,
    /// Archives that have a manifest.
    pub archives: BTreeSet<ArchiveName>,
    /// Archives that have volumes only: a backup is under way, or was cut.
    pub unfinished: BTreeSet<ArchiveName>,
}

/// Lists the names.
pub async fn names(destination: &Destination) -> anyhow::Result<Names> {
    let mut names = Names::default();
    each_key(destination, POINTS, |key| {
        if let Some((point, "point.json")) = key.as_str()[POINTS.len()..].split_once('/') {
            names.points.extend(point.parse::<PointName>().ok());
        }
    })
    .await?;
    let mut volumes = BTreeSet::new();
    each_key(destination, ARCHIVES, |key| {
        let file = &key.as_str()[ARCHIVES.len()..];
        let stem = file.split_once('.').map_or(file, |(stem, _)| stem);
        let Ok(archive) = stem.parse::<ArchiveName>() else { return };
        if file.ends_with(".json") { &mut names.archives } else { &mut volumes }.insert(archive);
    })
    .await?;
    names.unfinished = &volumes - &names.archives;
    Ok(names)
}

async fn each_key(destination: &Destination, prefix: &str, mut visit: impl FnMut(&Key)) -> anyhow::Result<()> {
    let mut token = None;
    loop {
        let page = destination.store.list(prefix, token.as_ref()).await?;
        page.objects
            .iter()
            .filter(|object| object.key.as_str().starts_with(prefix))
            .for_each(|object| visit(&object.key));
        token = page.next;
        if token.is_none() {
            return Ok(());
        }
    }
}

/// The manifest of a restore point, from the ledger or the destination.
pub async fn point(
    destination: &Destination,
    ledger: Option<&Ledger>,
    name: &PointName,
) -> anyhow::Result<PointManifest> {
    let manifest: PointManifest = manifest(destination, ledger, &Key::in_point(name, "point.json")).await?;
    let shard = name.shard();
    let format = if shard.is_some() { SHARD_FORMAT } else { FORMAT };
    check_format(manifest.format, format, &manifest.name.to_string(), &name.to_string())?;
    if manifest.shard != shard {
        // Taken for one of the whole, it would have everything else taken away on a restore.
        let of =
            |shard: Option<Shard>| shard.map_or_else(|| "the whole".to_owned(), |shard| format!("the shard {shard}"));
        bail!(
            "read the manifest of {name}: it is of {} by its name and of {} by what it says",
            of(shard),
            of(manifest.shard)
        );
    }
    Ok(manifest)
}

/// The manifest of an archive, from the ledger or the destination.
pub async fn archive(
    destination: &Destination,
    ledger: Option<&Ledger>,
    name: &ArchiveName,
) -> anyhow::Result<ArchiveManifest> {
    let manifest: ArchiveManifest = manifest(destination, ledger, &Key::archive_manifest(name)).await?;
    check_format(manifest.format, FORMAT, &manifest.name.to_string(), &name.to_string())?;
    Ok(manifest)
}

fn check_format(format: u32, expected: u32, found: &str, name: &str) -> anyhow::Result<()> {
    if format < expected {
        bail!(
            "read the manifest of {name}: it is of format {format}, and one of this name is of {expected}: it is damaged"
        );
    }
    if format > expected {
        return Err(unknown_format(name, format, expected));
    }
    if found != name {
        bail!("read the manifest of {name}: it is that of {found}");
    }
    Ok(())
}

async fn manifest<T: DeserializeOwned>(
    destination: &Destination,
    ledger: Option<&Ledger>,
    key: &Key,
) -> anyhow::Result<T> {
    let kept = ledger.map(|ledger| ledger.manifest(destination.id, key)).transpose()?.flatten();
    if let Some(manifest) = kept.and_then(|text| serde_json::from_str(&text).ok()) {
        return Ok(manifest);
    }
    let content = fetch_small(destination, key, MANIFEST_LIMIT).await?;
    serde_json::from_slice(&content).or_else(|error| {
        // That of a newer program may have another shape altogether.
        let newer = serde_json::from_slice(&content).ok().filter(|version: &Version| version.format > SHARD_FORMAT);
        if let Some(Version { format }) = newer {
            return Err(unknown_format(key.as_str(), format, SHARD_FORMAT));
        }
        Err(error).with_context(|| format!("read the manifest `{key}` (is it damaged?)"))
    })
}

/// What a manifest of any format has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

fn unknown_format(name: &str, format: u32, known: u32) -> anyhow::Error {
    anyhow::anyhow!(
        "read the manifest of {name}: it is of format {format}, this program knows {known}: use a newer holdfast"
    )
}

/// Everything at a destination, newest first; a manifest that cannot be read is in the second list, by name.
pub async fn list(
    destination: &Destination,
    ledger: Option<&Ledger>,
) -> anyhow::Result<(Vec<Restorable>, Vec<String>)> {
    let names = names(destination).await?;
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for name in &names.points {
        match point(destination, ledger, name).await {
            Ok(manifest) => found.push(Restorable::of_point(destination, &manifest)),
            Err(error) => unreadable.push(format!("{name}: {error:#}")),
        }
    }
    for name in &names.archives {
        match archive(destination, ledger, name).await {
            Ok(manifest) => found.push(Restorable::of_archive(destination, &manifest)),
            Err(error) => unreadable.push(format!("{name}: {error:#}")),
        }
    }
    found.extend(names.unfinished.iter().map(|name| Restorable::unfinished(destination, name)));
    found.sort_by(|a, b| (b.created, &b.name).cmp(&(a.created, &a.name)));
    Ok((found, unreadable))
}

impl Restorable {
    fn of_point(destination: &Destination, manifest: &PointManifest) -> Self {
        Self {
            name: manifest.name.to_string(),
            kind: "point",
            destination: destination.name.clone(),
            repository: Some(manifest.repository.clone()),
            created: Some(manifest.created),
            documents: manifest.documents.count,
            binaries: manifest.binaries,
            bytes: manifest.bytes,
            complete: manifest.complete,
            shard: manifest.shard,
        }
    }

    fn of_archive(destination: &Destination, manifest: &ArchiveManifest) -> Self {
        Self {
            name: format!("{}.zip", manifest.name),
            kind: "archive",
            destination: destination.name.clone(),
            repository: Some(manifest.repository.clone()),
            created: Some(manifest.created),
            documents: manifest.documents.count,
            binaries: manifest.binaries,
            bytes: manifest.bytes,
            complete: manifest.complete,
            shard: None,
        }
    }

    fn unfinished(destination: &Destination, name: &ArchiveName) -> Self {
        Self {
            name: format!("{name}.zip"),
            kind: "archive",
            destination: destination.name.clone(),
            repository: None,
            created: None,
            documents: 0,
            binaries: 0,
            bytes: 0,
            complete: false,
            shard: None,
        }
    }
}
