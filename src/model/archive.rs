//! An archive: what its manifest says, what it is called, and what the entries in it are called.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::model::point::{DocumentSet, RecordFile};
use crate::model::run::RunId;

/// The name of an archive without `.zip`: `BackupDaemonJob12-4711`, as the Synapse backup daemon named its files.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveName(String);

/// The text does not name an archive.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not name an archive: expected BackupDaemonJob<run>-<number>.zip")]
pub struct InvalidArchiveName(String);

impl ArchiveName {
    /// The name of the archive that `run` begins; `random` keeps names apart when a ledger was lost.
    pub fn new(run: RunId, random: u64) -> Self {
        Self(format!("BackupDaemonJob{run}-{}", random >> 1))
    }
}

impl fmt::Display for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ArchiveName {
    type Err = InvalidArchiveName;

    /// Reads the name with or without `.zip`.
    fn from_str(text: &str) -> Result<Self, InvalidArchiveName> {
        let digits = |text: &str| !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
        let name = text.strip_suffix(".zip").unwrap_or(text);
        let sound = name
            .strip_prefix("BackupDaemonJob")
            .and_then(|rest| rest.split_once('-'))
            .is_some_and(|(run, random)| digits(run) && digits(random));
        if sound { Ok(Self(name.to_owned())) } else { Err(InvalidArchiveName(text.to_owned())) }
    }
}

impl Serialize for ArchiveName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ArchiveName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `BackupDaemonJob….json`, written last: an archive exists when its manifest does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveManifest {
    /// [`crate::model::point::FORMAT`].
    pub format: u32,
    /// The name of the archive, without `.zip`.
    pub name: ArchiveName,
    /// The repository's name in the configuration.
    pub repository: String,
    /// When the run looked at the repository.
    pub created: Timestamp,
    /// Whether everything the repository held is in the archive; false when a binary was damaged or unreadable.
    pub complete: bool,
    /// How many documents, and in which entries.
    pub documents: DocumentSet,
    /// How many binaries there are, in all volumes.
    pub binaries: u64,
    /// Their sizes in bytes, added up.
    pub bytes: u64,
    /// The volumes in order.
    pub volumes: Vec<Volume>,
    /// Files at the root of the store that its owner needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordFile>,
}

/// One ZIP file of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Where it lies.
    pub key: Key,
    /// Its size in bytes.
    pub bytes: u64,
    /// The SHA-1 of the ZIP file.
    pub sha1: Digest,
    /// How many binaries it holds.
    pub binaries: u64,
    /// Their sizes in bytes, added up.
    pub binary_bytes: u64,
    /// The SHA-1 over a line `<digest> <size>` for each of them, in order.
    pub list_sha1: Digest,
    /// The first binary in it, if there is one.
    pub first: Option<Digest>,
    /// The last binary in it.
    pub last: Option<Digest>,
}

/// What an entry of an archive is, by its name; there are no others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EntryName {
    /// `documents_000001.bin.gz`
    Documents(u32),
    /// `damaged/documents.bin.gz`: lines that are no documents.
    DamagedDocuments,
    /// `binaries/aa/bb/cc/<digest>.bin`
    Binary(Digest),
    /// `records/<name>`: a file at the root of the store.
    Record(String),
    /// `changes/summary_of_changes.json`, which ModeShape writes and never reads.
    ChangesSummary,
}

/// The name of the file of damaged lines, in a point as in an archive.
pub const DAMAGED_DOCUMENTS: &str = "damaged/documents.bin.gz";
/// The content of `changes/summary_of_changes.json` when nothing changed.
pub const CHANGES_SUMMARY: &[u8] = b"{ \"unusedBinaryKeys\" : [ ] }";

impl EntryName {
    /// The entry with this name; none for a foreign, unsafe or misplaced name.
    pub fn parse(name: &str) -> Option<Self> {
        if name == DAMAGED_DOCUMENTS {
            return Some(Self::DamagedDocuments);
        }
        if name == "changes/summary_of_changes.json" {
            return Some(Self::ChangesSummary);
        }
        if let Some(number) = name.strip_prefix("documents_").and_then(|rest| rest.strip_suffix(".bin.gz")) {
            let sound = number.len() == 6 && number.bytes().all(|b| b.is_ascii_digit());
            return sound.then(|| number.parse().map(Self::Documents).ok())?;
        }
        if let Some(record) = name.strip_prefix("records/") {
            return is_record_name(record).then(|| Self::Record(record.to_owned()));
        }
        let digest = Digest::from_name(name.rsplit('/').next()?.strip_suffix(".bin")?.as_bytes())?;
        let entry = Self::Binary(digest);
        (entry.to_string() == name).then_some(entry)
    }
}

/// Whether a file name may be that of a record: one plain path component.
pub fn is_record_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// The name of the `number`th file of documents, in ModeShape's own numbering.
pub fn documents_name(number: u32) -> String {
    format!("documents_{number:06}.bin.gz")
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Documents(number) => f.write_str(&documents_name(*number)),
            Self::DamagedDocuments => f.write_str(DAMAGED_DOCUMENTS),
            Self::Record(name) => write!(f, "records/{name}"),
            Self::ChangesSummary => f.write_str("changes/summary_of_changes.json"),
            Self::Binary(digest) => {
                let name = digest.to_string();
                write!(f, "binaries/{}/{}/{}/{name}.bin", &name[..2], &name[2..4], &name[4..6])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_names_round_trip() {
        for name in [
            "documents_000001.bin.gz",
            "damaged/documents.bin.gz",
            "records/reference.key",
            "changes/summary_of_changes.json",
            "binaries/6a/a9/bf/6aa9bf7df2242ef867558584c02160023a96f2f9.bin",
        ] {
            assert_eq!(EntryName::parse(name).map(|entry| entry.to_string()).as_deref(), Some(name));
        }
    }

    #[test]
    fn hostile_and_misplaced_names_are_no_entries() {
        for name in [
            "",
            "/etc/passwd",
            "../documents_000001.bin.gz",
            "records/../x",
            "records/.x",
            "records/a/b",
            "documents_1.bin.gz",
            "documents_00000a.bin.gz",
            "binaries/6b/a9/bf/6aa9bf7df2242ef867558584c02160023a96f2f9.bin",
            "binaries/6a/a9/bf/../6aa9bf7df2242ef867558584c02160023a96f2f9.bin",
            "binaries/6a/a9/bf/6AA9bf7df2242ef867558584c02160023a96f2f9.bin",
        ] {
            assert_eq!(EntryName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn an_archive_is_named_with_or_without_zip() {
        let name = ArchiveName::new(RunId::new(12), 9422);
        assert_eq!(name.to_string(), "BackupDaemonJob12-4711");
        assert_eq!("BackupDaemonJob12-4711.zip".parse(), Ok(name));
        assert!("BackupDaemonJob-1.zip".parse::<ArchiveName>().is_err());
        assert!("../BackupDaemonJob1-1".parse::<ArchiveName>().is_err());
    }
}
