//! Archives that were begun and not ended, so that a backup can go on where it was cut, and manifests already seen.

use anyhow::Context as _;
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::runs::to_json;
use super::{DestinationId, Ledger};
use crate::model::archive::{ArchiveName, Volume};
use crate::model::key::Key;
use crate::model::point::{DocumentSet, RecordFile};

/// How far an archive has come: the volumes that are complete at the destination, and what is in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveUnderWay {
    /// Its name.
    pub name: ArchiveName,
    /// When its first run looked at the repository.
    pub created: Timestamp,
    /// The repository's name and the path of its binaries: another one does not go on with this archive.
    pub repository: String,
    /// What the directory of its documents looked like when they were read.
    pub fingerprint: Option<String>,
    /// The volumes.
    pub volumes: Vec<VolumeWritten>,
    /// A volume that is being completed: after a crash it is there, or it is not.
    pub completing: Option<VolumeWritten>,
}

/// A volume with what its archive's manifest will say of what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeWritten {
    /// The volume.
    pub volume: Volume,
    /// The documents in it.
    pub documents: DocumentSet,
    /// The records in it.
    pub records: Vec<RecordFile>,
    /// Whether all documents and records are in this volume and those before it.
    pub head_done: bool,
    /// Whether nothing follows it.
    pub last: bool,
    /// Whether nothing had to be left out up to its end.
    pub complete: bool,
}

impl Ledger {
    /// The archive that this job began at this destination and did not end.
    pub fn archive_under_way(&self, job: &str, destination: DestinationId) -> anyhow::Result<Option<ArchiveUnderWay>> {
        let state: Option<String> = self
            .connection()
            .query_row(
                "SELECT state FROM archives WHERE job = ? AND destination = ?",
                params![job, destination],
                |row| row.get(0),
            )
            .optional()
            .context("read the archive under way")?;
        // A state that a newer program wrote in another shape is no reason to fail: the archive is begun anew.
        Ok(state.and_then(|state| serde_json::from_str(&state).ok()))
    }

    /// Records how far an archive has come.
    pub fn record_archive(&self, job: &str, destination: DestinationId, state: &ArchiveUnderWay) -> anyhow::Result<()> {
        self.connection()
            .execute(
                "INSERT OR REPLACE INTO archives (job, destination, state) VALUES (?, ?, ?)",
                params![job, destination, to_json(state)],
            )
            .context("record the archive under way (is the disk of the state directory full?)")?;
        Ok(())
    }

    /// The archive ended, or nobody will go on with it.
    pub fn forget_archive(&self, job: &str, destination: DestinationId) -> anyhow::Result<()> {
        self.connection()
            .execute("DELETE FROM archives WHERE job = ? AND destination = ?", params![job, destination])
            .context("forget the archive under way")?;
        Ok(())
    }

    /// A manifest that was fetched before.
    pub fn manifest(&self, destination: DestinationId, key: &Key) -> anyhow::Result<Option<String>> {
        self.connection()
            .prepare_cached("SELECT content FROM manifests WHERE destination = ? AND key = ?")?
            .query_row(params![destination, key.as_str()], |row| row.get(0))
            .optional()
            .context("read a manifest from the ledger")
    }

    /// Keeps a manifest, which never changes.
    pub fn keep_manifest(&self, destination: DestinationId, key: &Key, content: &str) -> anyhow::Result<()> {
        self.connection()
            .execute(
                "INSERT OR REPLACE INTO manifests (destination, key, content) VALUES (?, ?, ?)",
                params![destination, key.as_str(), content],
            )
            .context("keep a manifest in the ledger")?;
        Ok(())
    }
}
