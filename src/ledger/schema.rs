//! The tables, and how an older ledger becomes a newer one.

use std::time::Duration;

use anyhow::bail;
use rusqlite::Connection;

/// How long a statement waits for another process to finish its own.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// What each `user_version` adds to the one before it; a released entry is never changed.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE runs (                -- every run, for good
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    job        TEXT NOT NULL,
    kind       TEXT NOT NULL,
    trigger    TEXT NOT NULL,
    outcome    TEXT,               -- null while it runs
    started    TEXT NOT NULL,      -- RFC 3339, UTC
    finished   TEXT,
    progress   TEXT NOT NULL,      -- JSON
    counts     TEXT NOT NULL,      -- JSON
    result     TEXT,
    quarantine TEXT,
    error      TEXT
);
CREATE TABLE problems (            -- what a run could not do, by name
    run     INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    kind    TEXT NOT NULL,
    subject TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE INDEX problems_of_run ON problems (run);
CREATE TABLE destinations (
    id           INTEGER PRIMARY KEY,
    place        TEXT NOT NULL UNIQUE,
    capabilities TEXT,             -- JSON; null until they were tried out
    learned      INTEGER NOT NULL DEFAULT 0  -- whether objects is what a listing found, kept up since
);
CREATE TABLE objects (             -- the binaries that a destination holds
    destination INTEGER NOT NULL,
    digest      BLOB NOT NULL,     -- 20 or 32 bytes
    size        INTEGER NOT NULL,
    PRIMARY KEY (destination, digest)
) WITHOUT ROWID;
CREATE TABLE series (              -- the restore points of one repository at one destination
    id          INTEGER PRIMARY KEY,
    destination INTEGER NOT NULL,
    repository  TEXT NOT NULL,
    last        TEXT,              -- JSON: the manifest of the last restore point
    documents   TEXT,              -- the fingerprint of the documents in it
    under_way   INTEGER NOT NULL DEFAULT 0,  -- whether a copy began and did not end, or a listing came after it
    UNIQUE (destination, repository)
);
CREATE TABLE members (             -- the binaries of the last restore point of a series
    series INTEGER NOT NULL,
    digest BLOB NOT NULL,
    size   INTEGER NOT NULL,
    PRIMARY KEY (series, digest)
) WITHOUT ROWID;
CREATE TABLE changes (             -- what a copy under way will add to members, or take away
    series INTEGER NOT NULL,
    digest BLOB NOT NULL,
    size   INTEGER,                -- null: taken away
    PRIMARY KEY (series, digest)
) WITHOUT ROWID;
CREATE TABLE sidecars (            -- files of a store that are known to be sidecars
    store  TEXT NOT NULL,          -- the path of its root
    digest BLOB NOT NULL,          -- the name
    PRIMARY KEY (store, digest)
) WITHOUT ROWID;
CREATE TABLE uploads (             -- uploads in parts, from before they begin until after they end
    destination INTEGER NOT NULL,
    key         TEXT NOT NULL,
    run         INTEGER NOT NULL,
    PRIMARY KEY (destination, key)
) WITHOUT ROWID;
CREATE TABLE archives (            -- archives that a backup began and did not end
    job         TEXT NOT NULL,
    destination INTEGER NOT NULL,
    state       TEXT NOT NULL,     -- JSON
    PRIMARY KEY (job, destination)
) WITHOUT ROWID;
CREATE TABLE manifests (           -- manifests at destinations, which never change: fetched once
    destination INTEGER NOT NULL,
    key         TEXT NOT NULL,
    content     TEXT NOT NULL,     -- JSON
    PRIMARY KEY (destination, key)
) WITHOUT ROWID;
",
    "
ALTER TABLE runs ADD COLUMN activated TEXT;   -- when it was asked for; it began when it could
ALTER TABLE runs ADD COLUMN started_by TEXT;  -- the administrator who asked for it
ALTER TABLE runs ADD COLUMN url TEXT;         -- where that lies what it made or restored
ALTER TABLE runs ADD COLUMN failure TEXT;     -- what kind of failure the error is
CREATE INDEX runs_of_job ON runs (job, id);
CREATE TABLE slots (               -- how far the schedule of a job has been acted upon
    job      TEXT PRIMARY KEY,
    schedule TEXT NOT NULL,        -- as it was written
    timezone TEXT NOT NULL,
    done     TEXT NOT NULL,        -- every slot up to here was, RFC 3339, UTC
    seed     INTEGER NOT NULL      -- spreads the starts of the job
) WITHOUT ROWID;
CREATE TABLE owed (                -- jobs to be run again: their last run was cut, or failed without being asked for
    job TEXT PRIMARY KEY
) WITHOUT ROWID;
CREATE TABLE pending (             -- binaries that a watcher saw and a copy has not dealt with
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order in which they were last seen
    job    TEXT NOT NULL,
    digest BLOB NOT NULL,
    seen   TEXT NOT NULL,          -- when it was first seen, RFC 3339, UTC
    UNIQUE (job, digest)
);
CREATE INDEX pending_by_age ON pending (job, seen);
CREATE TABLE unwatched (           -- copies whose store may hold what no watcher saw, until a scan has ended
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    job   TEXT NOT NULL UNIQUE,
    since TEXT NOT NULL            -- RFC 3339, UTC
);
CREATE TABLE sessions (            -- logins that have not expired
    token   BLOB PRIMARY KEY,      -- SHA-256 of the token
    email   TEXT NOT NULL,
    proof   BLOB NOT NULL,         -- SHA-256 of the password's hash: a new password ends the session
    expires TEXT NOT NULL          -- RFC 3339, UTC
) WITHOUT ROWID;
",
    "
ALTER TABLE pending ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;  -- how large it was when it was last seen
CREATE TABLE proofs (              -- the last scan of a job that came to its end
    job      TEXT PRIMARY KEY,
    run      INTEGER NOT NULL,
    finished TEXT NOT NULL,        -- RFC 3339, UTC
    examined INTEGER NOT NULL,     -- binaries in the store
    new      INTEGER NOT NULL,     -- of them: not known at the destination
    missed   INTEGER               -- of these: not seen by the watcher; null if it had not watched all the time
) WITHOUT ROWID;
CREATE TABLE scans (               -- scans that were cut
    series  INTEGER PRIMARY KEY,
    reached BLOB NOT NULL          -- the binary they had come to
);
",
    "
ALTER TABLE series ADD COLUMN learned INTEGER NOT NULL DEFAULT 0;  -- of a shard: whether a listing found its objects
ALTER TABLE uploads ADD COLUMN id TEXT;  -- the store's name for it; null until that is known
",
    "
CREATE TABLE left_out (            -- copies that could not read or bring something which may be possible later
    job   TEXT PRIMARY KEY,
    since TEXT NOT NULL            -- when the last such run ended, RFC 3339, UTC
) WITHOUT ROWID;
",
];

/// Sets the connection up and brings the tables to this program's version.
pub(super) fn prepare(connection: &mut Connection) -> anyhow::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    refuse_newer(connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // NORMAL may lose the last transactions in a power cut, and with them runs that had ended.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let version: usize = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for (done, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", done + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

/// A ledger of a newer Holdfast is left alone.
pub(super) fn refuse_newer(connection: &Connection) -> anyhow::Result<()> {
    let version: usize = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > MIGRATIONS.len() {
        bail!(
            "the ledger is of version {version}, this program knows {}: run the newer holdfast that wrote it",
            MIGRATIONS.len()
        );
    }
    Ok(())
}
