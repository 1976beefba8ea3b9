//! Holdfast's own state, in SQLite: the history of runs, and the index of what each destination holds.
//!
//! Losing it costs time, not safety: what it knows of a destination is learned again by listing it. Everything here
//! blocks; callers stay off the async workers.

mod archives;
mod index;
mod lock;
mod pending;
mod proofs;
mod runs;
mod schema;
mod scratch;
mod sessions;
mod slots;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use rusqlite::{Connection, OpenFlags};

pub use archives::{ArchiveUnderWay, VolumeWritten};
pub use index::{Change, ChangeTotals, DestinationId, OpenUpload, Repaired, Series, SeriesId};
pub use lock::{InUse, StateLock};
pub use pending::{Backlog, Pending, Taking, Watermark};
pub use scratch::{Listed, Scratch};
pub use sessions::Session;

/// The name of the ledger's file in the state directory.
pub const FILE: &str = "ledger.db";

/// The ledger of one state directory.
#[derive(Debug)]
pub struct Ledger {
    connection: Mutex<Connection>,
    directory: PathBuf,
    desks: pending::Desks,
}

/// What became of a ledger that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it lies now.
    pub to: PathBuf,
    /// What was wrong with it.
    pub cause: String,
}

impl Ledger {
    /// Opens the ledger for writing, under the state directory's lock; makes a new one where there is none.
    ///
    /// A ledger that is damaged is set aside and a new one is made: the second value says so. Scratch files that a
    /// killed process left are taken away.
    pub fn open(lock: &StateLock) -> anyhow::Result<(Self, Option<SetAside>)> {
        let directory = lock.directory().to_owned();
        scratch::remove_leftovers(&directory)?;
        let path = directory.join(FILE);
        match open_checked(&path) {
            Ok(connection) => Ok((Self::new(connection, directory), None)),
            Err(error) if is_damage(&error) => {
                let set_aside = set_aside(&path, &format!("{error:#}"))?;
                let connection = open_checked(&path).with_context(|| format!("make ledger `{}`", path.display()))?;
                Ok((Self::new(connection, directory), Some(set_aside)))
            }
            Err(error) => Err(error.context(format!("open ledger `{}`", path.display()))),
        }
    }

    /// Opens the ledger for reading, beside a process that may be writing; none where there is no ledger yet.
    pub fn open_to_read(directory: &Path) -> anyhow::Result<Option<Self>> {
        let path = directory.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || -> anyhow::Result<Connection> {
            let connection = Connection::open_with_flags(&path, flags)?;
            connection.busy_timeout(schema::BUSY_TIMEOUT)?;
            schema::refuse_newer(&connection)?;
            Ok(connection)
        };
        let connection = open().with_context(|| format!("read ledger `{}`", path.display()))?;
        Ok(Some(Self::new(connection, directory.to_owned())))
    }

    fn new(connection: Connection, directory: PathBuf) -> Self {
        Self { connection: Mutex::new(connection), directory, desks: pending::Desks::default() }
    }

    /// A sorted set on disk for one run's work, below the state directory.
    pub fn scratch(&self) -> anyhow::Result<Scratch> {
        Scratch::create(&self.directory)
    }

    /// The state directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic while a statement ran leaves a rolled-back transaction, not a broken connection.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_checked(path: &Path) -> anyhow::Result<Connection> {
    let mut connection = Connection::open(path)?;
    schema::prepare(&mut connection)?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        bail!(Damaged(verdict));
    }
    Ok(connection)
}

#[derive(Debug, thiserror::Error)]
#[error("the file is damaged: {0}")]
struct Damaged(String);

fn is_damage(error: &anyhow::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    error.is::<Damaged>()
        || matches!(
            error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code),
            Some(DatabaseCorrupt | NotADatabase)
        )
}

fn set_aside(path: &Path, cause: &str) -> anyhow::Result<SetAside> {
    let to = (1..=u32::MAX)
        .map(|number| path.with_extension(format!("db.damaged-{number}")))
        .find(|to| !to.exists())
        .expect("there are not four billion damaged ledgers");
    fs::rename(path, &to).with_context(|| format!("set damaged ledger `{}` aside", path.display()))?;
    for extension in ["db-wal", "db-shm"] {
        let beside = path.with_extension(extension);
        if beside.exists() {
            fs::rename(
                &beside,
                to.with_extension(format!("{}-{}", to.extension().unwrap_or_default().display(), &extension[3..])),
            )
            .with_context(|| format!("set `{}` aside", beside.display()))?;
        }
    }
    Ok(SetAside { to, cause: cause.to_owned() })
}
