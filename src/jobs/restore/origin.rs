//! What a restore takes everything from: a backup at a destination, or a directory on this machine.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::compare::Comparison;
use super::contents::Contents;
use super::directory::DirectoryContents;
use super::staging::Staging;
use super::{archive, fetch};
use crate::jobs::catalogue::RestorableName;
use crate::jobs::context::{Destination, RunContext};
use crate::ledger::Scratch;
use crate::model::digest::Digest;

/// What somebody says that is to be restored: a name with a `/` in it is a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreFrom {
    /// A restore point or an archive.
    Backup(RestorableName),
    /// A ModeShape backup directory.
    Directory(PathBuf),
}

/// What is to be restored, found.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A restore point or an archive.
    Backup(RestorableName, Destination),
    /// A ModeShape backup directory.
    Directory(PathBuf),
}

impl fmt::Display for RestoreFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup(name) => name.fmt(f),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for RestoreFrom {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text.contains('/') {
            return Ok(Self::Directory(text.into()));
        }
        match text.parse() {
            Ok(name) => Ok(Self::Backup(name)),
            Err(error) => bail!("{error}; a backup directory is named with a `/`, such as ./{text}"),
        }
    }
}

impl From<RestorableName> for RestoreFrom {
    fn from(name: RestorableName) -> Self {
        Self::Backup(name)
    }
}

impl Serialize for RestoreFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RestoreFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Origin {
    /// Reads what the backup holds beside its binaries; if only some of these are wanted, of a directory nothing else.
    pub(super) async fn open(&self, run: &RunContext, only: &[Digest]) -> anyhow::Result<Contents> {
        match self {
            Self::Backup(name, destination) => Contents::open(run, destination, name).await,
            Self::Directory(path) => Ok(Contents::Directory(DirectoryContents::open(run, path, only).await?)),
        }
    }

    /// Every binary in it.
    pub(super) async fn list(&self, run: &RunContext, contents: &Contents) -> anyhow::Result<Scratch> {
        match (self, contents) {
            (_, Contents::Directory(directory)) => directory.list(run).await,
            (Self::Backup(_, destination), contents) => contents.list(run, destination).await,
            (Self::Directory(_), _) => bail!("list {}: it lies at no destination", contents.name()),
        }
    }

    /// Brings what is needed of it into the staging directory.
    pub(super) async fn bring(
        &self,
        run: &RunContext,
        contents: &Contents,
        comparison: Comparison,
        staging: &Staging,
    ) -> anyhow::Result<Comparison> {
        match (self, contents) {
            (_, Contents::Directory(directory)) => directory.bring(run, comparison, staging).await,
            (Self::Backup(_, destination), Contents::Point(point)) => {
                fetch::bring_point(run, destination, point, comparison, staging).await
            }
            (Self::Backup(_, destination), Contents::Archive(manifest)) => {
                archive::bring_archive(run, destination, manifest, comparison, staging).await
            }
            (Self::Directory(_), _) => bail!("fetch {}: it lies at no destination", contents.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_is_a_directory_and_any_other_a_backup() {
        for text in ["/srv/backup", "./backup", "backup/"] {
            assert_eq!(text.parse::<RestoreFrom>().unwrap(), RestoreFrom::Directory(text.into()));
        }
        for text in ["BackupDaemonJob12-4711.zip", "20261122T073500Z-12"] {
            let from: RestoreFrom = text.parse().unwrap();
            assert_eq!((from.to_string().as_str(), &from), (text, &RestoreFrom::Backup(text.parse().unwrap())));
        }
        let error = "backup".parse::<RestoreFrom>().unwrap_err().to_string();
        assert!(error.contains("./backup"), "{error}");
    }
}
