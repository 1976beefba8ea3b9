//! What can be asked of the daemon, and how it refuses.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::jobs::catalogue::RestorableName;
use crate::jobs::restore::{Parts, RestoreFrom};
use crate::model::digest::Digest;

/// How a job is to be run this time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "an object")]
pub struct JobOptions {
    /// List the destination first and repair what is known of it (copies only).
    pub full: bool,
    /// Look at everything, also where the watcher has seen what is new (copies only).
    pub scan: bool,
    /// Take a repository that holds no binaries any more for the truth.
    pub allow_empty: bool,
}

/// What is to be restored, and where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct RestoreRequest {
    /// A restore point or an archive, as `holdfast points` lists it, or a ModeShape backup directory by its absolute
    /// path.
    pub from: RestoreFrom,
    /// The repository it goes into, or with `to` the one whose layout is used; by default the one it is of.
    #[serde(default)]
    pub repository: Option<String>,
    /// An absolute directory to restore to instead of the repository.
    #[serde(default)]
    pub to: Option<PathBuf>,
    /// Only these binaries, and no documents; all if empty.
    #[serde(default)]
    pub only: Vec<Digest>,
    /// Where the backup lies, if more than one destination has it.
    #[serde(default)]
    pub destination: Option<String>,
    /// Which parts of the repository.
    #[serde(default)]
    pub parts: Parts,
    /// Write documents to a database that other programs are connected to.
    #[serde(default)]
    pub ignore_connections: bool,
}

impl RestoreRequest {
    /// All of a backup, into the repository that it is of.
    pub fn of(from: RestoreFrom) -> Self {
        Self {
            from,
            repository: None,
            to: None,
            only: Vec::new(),
            destination: None,
            parts: Parts::All,
            ignore_connections: false,
        }
    }
}

/// What is to be exported, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportRequest {
    /// The repository.
    pub repository: String,
    /// A directory that is there.
    pub directory: PathBuf,
    /// Whether it was made for this, so that it goes again when nothing comes of it.
    pub made: bool,
}

/// What is to be verified, and how thoroughly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct VerifyRequest {
    /// Restore points and archives, as `holdfast points` lists them.
    pub names: Vec<RestorableName>,
    /// Ask for sizes and the store's own checksums instead of reading everything back.
    #[serde(default)]
    pub quick: bool,
    /// Where they lie, if more than one destination has them.
    #[serde(default)]
    pub destination: Option<String>,
}

/// Why something is not done that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such job or run.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be meant; the text says what would do.
    #[error("{0}")]
    Invalid(String),
    /// It collides with what is being done.
    #[error("{0}")]
    Conflict(String),
    /// The daemon is about to end.
    #[error("the service is stopping: ask again when it has been started")]
    Stopping,
    /// It should have worked; the chain is for the journal, not for whoever asked.
    #[error("internal error: the journal of the service says more")]
    Internal(#[source] anyhow::Error),
}
