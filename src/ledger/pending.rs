//! Binaries that a watcher saw and no copy has dealt with, and copies whose store may hold what no watcher saw.
//!
//! What is pending is numbered in the order in which it was last seen. A run takes away no more than it had read: what
//! is seen again meanwhile has a new number, and stays. The numbers go up whatever the clock does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};
use tokio::sync::watch;

use super::Ledger;
use super::scratch::read_digest;
use crate::model::digest::Digest;

/// How many rows are read at once.
const PAGE_ROWS: u32 = 1024;

/// A binary that waits to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its place in the order in which binaries were seen.
    pub seq: i64,
    /// Its name.
    pub digest: Digest,
}

/// How much waits for a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many binaries.
    pub pending: u64,
    /// How large they were when they were last seen, added up.
    pub bytes: u64,
    /// When the first of them was seen.
    pub oldest: Option<Timestamp>,
    /// Since when the store may hold what no watcher saw.
    pub unwatched: Option<Timestamp>,
    /// When the last run ended that had to leave out what may be had later, unless a scan has had it since.
    pub left_out: Option<Timestamp>,
}

/// How far the ledger had been told of what is new when a scan began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    pending: i64,
    unwatched: i64,
}

impl Watermark {
    /// Whether all that was pending then has a number up to this one.
    pub fn is_reached_by(&self, seq: i64) -> bool {
        self.pending <= seq
    }
}

/// Who is at work on what is pending: known while the process lives, and to it alone.
#[derive(Debug, Default)]
pub(super) struct Desks(Mutex<HashMap<String, Desk>>);

/// What belongs to one job.
#[derive(Debug, Default)]
struct Desk {
    /// Whether a run takes what comes.
    taken: bool,
    /// Changes with every arrival.
    arrivals: watch::Sender<()>,
    /// Changes whenever a run has ended that took what came.
    ended: watch::Sender<()>,
    /// The number of the watch that is kept, and how many there were.
    watch: Option<u64>,
    watches: u64,
}

impl Desks {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Desk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run takes what is pending for a job, and what comes, until it stops doing so; at the latest until this is dropped.
#[derive(Debug)]
pub struct Taking {
    ledger: Arc<Ledger>,
    job: String,
}

impl Drop for Taking {
    fn drop(&mut self) {
        let mut desks = self.ledger.desks.lock();
        let desk = desks.entry(self.job.clone()).or_default();
        desk.taken = false;
        desk.ended.send_replace(());
    }
}

impl Ledger {
    /// From now on everything that comes is recorded as pending for these jobs.
    pub fn begin_watch(&self, jobs: &[String]) {
        let mut desks = self.desks.lock();
        for job in jobs {
            let desk = desks.entry(job.clone()).or_default();
            desk.watches += 1;
            desk.watch = Some(desk.watches);
        }
    }

    /// From now on it is not.
    pub fn end_watch(&self, jobs: &[String]) {
        let mut desks = self.desks.lock();
        for job in jobs {
            desks.entry(job.clone()).or_default().watch = None;
        }
    }

    /// The watch that is kept for a job, by a number that no other has in this process.
    pub fn watch_of(&self, job: &str) -> Option<u64> {
        self.desks.lock().get(job)?.watch
    }

    /// Records binaries, with their sizes, as pending for each of these jobs. Gives the jobs for which no run takes them: those are to be
    /// started.
    pub fn add_pending(
        &self,
        jobs: &[String],
        binaries: &[(Digest, u64)],
        now: Timestamp,
    ) -> anyhow::Result<Vec<String>> {
        let mut connection = self.connection();
        let mut record = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO pending (job, digest, seen, bytes)
                 VALUES (?1, ?2, coalesce((SELECT seen FROM pending WHERE job = ?1 AND digest = ?2), ?3), ?4)",
            )?;
            let now = now.to_string();
            for job in jobs {
                for (digest, bytes) in binaries {
                    insert.execute(params![job, digest.as_bytes(), now, bytes])?;
                }
            }
            drop(insert);
            transaction.commit()
        };
        record().context("record what is new (is the disk of the state directory full?)")?;
        drop(connection);
        let mut desks = self.desks.lock();
        let mut idle = Vec::new();
        for job in jobs {
            let desk = desks.entry(job.clone()).or_default();
            if desk.taken {
                desk.arrivals.send_replace(());
            } else {
                idle.push(job.clone());
            }
        }
        Ok(idle)
    }

    /// From now on a run takes what is pending for a job, and what comes.
    pub fn take_pending(self: &Arc<Self>, job: &str) -> Taking {
        self.desks.lock().entry(job.to_owned()).or_default().taken = true;
        Taking { ledger: Arc::clone(self), job: job.to_owned() }
    }

    /// What comes from now on is for the next run; what came before is still for this one.
    pub fn stop_taking(&self, job: &str) {
        self.desks.lock().entry(job.to_owned()).or_default().taken = false;
    }

    /// Changes with every arrival for a job, while a run takes them.
    pub fn arrivals(&self, job: &str) -> watch::Receiver<()> {
        self.desks.lock().entry(job.to_owned()).or_default().arrivals.subscribe()
    }

    /// Whether a run takes what comes for a job.
    pub fn is_taken(&self, job: &str) -> bool {
        self.desks.lock().get(job).is_some_and(|desk| desk.taken)
    }

    /// Changes whenever a run of the job has ended that took what was pending.
    pub fn takings(&self, job: &str) -> watch::Receiver<()> {
        self.desks.lock().entry(job.to_owned()).or_default().ended.subscribe()
    }

    /// What is pending for a job after this number: the next thousand, none at the end.
    pub fn pending_after(&self, job: &str, seq: i64) -> anyhow::Result<Vec<Pending>> {
        self.connection()
            .prepare_cached("SELECT seq, digest FROM pending WHERE seq > ? AND +job = ? ORDER BY seq LIMIT ?")?
            .query_map(params![seq, job, PAGE_ROWS], |row| {
                Ok(Pending { seq: row.get(0)?, digest: read_digest(row, 1)? })
            })?
            .collect::<Result<_, _>>()
            .context("read what is pending")
    }

    /// Whether a binary is pending for a job that was last seen after this mark.
    pub fn is_pending_after(&self, job: &str, digest: &Digest, mark: Watermark) -> anyhow::Result<bool> {
        self.connection()
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM pending WHERE job = ? AND digest = ? AND seq > ?)")?
            .query_row(params![job, digest.as_bytes(), mark.pending], |row| row.get(0))
            .context("read what is pending")
    }

    /// Takes out a binary that was dealt with, unless it was seen again after this number; says whether it was there.
    pub fn settle_pending(&self, job: &str, digest: &Digest, seq: i64) -> anyhow::Result<bool> {
        let rows = self
            .connection()
            .prepare_cached("DELETE FROM pending WHERE job = ? AND digest = ? AND seq <= ?")?
            .execute(params![job, digest.as_bytes(), seq])
            .context("record what was dealt with")?;
        Ok(rows > 0)
    }

    /// Takes out what has turned out to be a sidecar of this store, up to this number.
    pub fn settle_sidecars(&self, job: &str, store: &str, seq: i64) -> anyhow::Result<()> {
        self.connection()
            .execute(
                "DELETE FROM pending WHERE job = ?1 AND seq <= ?2
                 AND EXISTS (SELECT 1 FROM sidecars s WHERE s.store = ?3 AND s.digest = pending.digest)",
                params![job, seq, store],
            )
            .context("record what was dealt with")?;
        Ok(())
    }

    /// How many binaries are pending for a job up to this number.
    pub fn count_pending(&self, job: &str, seq: i64) -> anyhow::Result<u64> {
        self.connection()
            .query_row("SELECT count(*) FROM pending WHERE job = ? AND seq <= ?", params![job, seq], |row| row.get(0))
            .context("count what is pending")
    }

    /// Some of those that are pending up to this number and were first seen before this time.
    pub fn pending_since_before(&self, job: &str, seq: i64, time: Timestamp) -> anyhow::Result<Vec<Digest>> {
        self.connection()
            .prepare_cached("SELECT digest FROM pending WHERE job = ? AND seen < ? AND seq <= ? ORDER BY seen LIMIT ?")?
            .query_map(params![job, time.to_string(), seq, PAGE_ROWS], |row| read_digest(row, 0))?
            .collect::<Result<_, _>>()
            .context("read what is pending")
    }

    /// Whether the store of a job may hold what no watcher saw.
    pub fn is_unwatched(&self, job: &str) -> anyhow::Result<bool> {
        self.connection()
            .query_row("SELECT EXISTS (SELECT 1 FROM unwatched WHERE job = ?)", [job], |row| row.get(0))
            .context("read what is not watched")
    }

    /// How much waits for a job.
    pub fn backlog(&self, job: &str) -> anyhow::Result<Backlog> {
        let connection = self.connection();
        let (pending, bytes, oldest) = connection
            .prepare_cached("SELECT count(*), coalesce(sum(bytes), 0), min(seen) FROM pending WHERE job = ?")?
            .query_row([job], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?)))
            .context("count what is pending")?;
        let oldest = oldest.map(|oldest| oldest.parse()).transpose()?;
        let (unwatched, left_out) = (since(&connection, "unwatched", job)?, since(&connection, "left_out", job)?);
        Ok(Backlog { pending, bytes, oldest, unwatched, left_out })
    }

    /// Records that the store of these jobs may hold what no watcher saw. A scan that has begun does not count.
    pub fn mark_unwatched(&self, jobs: &[String], now: Timestamp) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let mut record = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            for job in jobs {
                transaction.execute(
                    "INSERT OR REPLACE INTO unwatched (job, since)
                     VALUES (?1, coalesce((SELECT since FROM unwatched WHERE job = ?1), ?2))",
                    params![job, now.to_string()],
                )?;
            }
            transaction.commit()
        };
        record().context("record that a scan is needed (is the disk of the state directory full?)")
    }

    /// How far the ledger has been told of what is new: a scan that begins now will see all of that.
    pub fn watermark(&self) -> anyhow::Result<Watermark> {
        let connection = self.connection();
        let latest = |table: &str| -> anyhow::Result<i64> {
            connection
                .prepare_cached("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?")?
                .query_row([table], |row| row.get(0))
                .context("read what is pending")
        };
        Ok(Watermark { pending: latest("pending")?, unwatched: latest("unwatched")? })
    }

    /// When the last run of a job ended that left out what may be had later, unless a scan has had it since.
    pub fn left_out(&self, job: &str) -> anyhow::Result<Option<Timestamp>> {
        since(&self.connection(), "left_out", job)
    }

    /// Records that a run of a job left out what may be had later, of which nothing will tell.
    pub fn mark_left_out(&self, job: &str, now: Timestamp) -> anyhow::Result<()> {
        self.connection()
            .execute("INSERT OR REPLACE INTO left_out (job, since) VALUES (?, ?)", params![job, now.to_string()])
            .context("record that something was left out")?;
        Ok(())
    }

    /// A scan has come to its end that began at this mark: what had been seen by then has been dealt with, but for what
    /// it left out, if it did by this time.
    pub fn reconcile(&self, job: &str, mark: Watermark, left_out: Option<Timestamp>) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let mut record = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            transaction.execute("DELETE FROM left_out WHERE job = ?", [job])?;
            if let Some(now) = left_out {
                transaction
                    .execute("INSERT INTO left_out (job, since) VALUES (?, ?)", params![job, now.to_string()])?;
            }
            transaction.execute("DELETE FROM pending WHERE job = ? AND seq <= ?", params![job, mark.pending])?;
            transaction.execute("DELETE FROM unwatched WHERE job = ? AND seq <= ?", params![job, mark.unwatched])?;
            transaction.commit()
        };
        record().context("record that a scan has ended")
    }

    /// Forgets what is pending for jobs that are not among these: nobody watches for them any more.
    pub fn forget_pending(&self, watched: &[String]) -> anyhow::Result<()> {
        let marks = vec!["?"; watched.len()].join(", ");
        let connection = self.connection();
        for table in ["pending", "unwatched", "left_out"] {
            let sql = format!("DELETE FROM {table} WHERE job NOT IN ({marks})");
            connection.execute(&sql, params_from_iter(watched)).context("forget what is pending")?;
        }
        Ok(())
    }
}

/// When a job was noted in one of the tables that do so.
fn since(connection: &Connection, table: &str, job: &str) -> anyhow::Result<Option<Timestamp>> {
    let since: Option<String> = connection
        .prepare_cached(&format!("SELECT since FROM {table} WHERE job = ?"))?
        .query_row([job], |row| row.get(0))
        .optional()
        .with_context(|| format!("read table {table}"))?;
    Ok(since.map(|since| since.parse()).transpose()?)
}
