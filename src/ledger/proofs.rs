//! Scans that have proved that all of a store is at its destination, and how far one came that was cut.

use anyhow::Context as _;
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};

use super::Ledger;
use super::index::SeriesId;
use super::runs::unreadable;
use super::scratch::read_digest;
use crate::model::digest::Digest;
use crate::model::run::{Proof, RunId};

impl Ledger {
    /// Records what a scan has proved for a job; it takes the place of the last one.
    pub fn record_proof(&self, job: &str, proof: &Proof) -> anyhow::Result<()> {
        self.connection()
            .execute(
                "INSERT OR REPLACE INTO proofs (job, run, finished, examined, new, missed) VALUES (?, ?, ?, ?, ?, ?)",
                params![job, proof.run.get(), proof.finished.to_string(), proof.examined, proof.new, proof.missed],
            )
            .context("record what a scan has proved")?;
        Ok(())
    }

    /// What the last scan has proved for a job.
    pub fn proof(&self, job: &str) -> anyhow::Result<Option<Proof>> {
        self.connection()
            .prepare_cached("SELECT run, finished, examined, new, missed FROM proofs WHERE job = ?")?
            .query_row([job], |row| {
                let finished: Timestamp =
                    row.get::<_, String>(1)?.parse().map_err(|error: jiff::Error| unreadable("finished", error))?;
                Ok(Proof {
                    run: RunId::new(row.get(0)?),
                    finished,
                    examined: row.get(2)?,
                    new: row.get(3)?,
                    missed: row.get(4)?,
                })
            })
            .optional()
            .context("read what a scan has proved")
    }

    /// How many of these binaries no watcher has noted for a job.
    pub fn count_unnoted(&self, job: &str, digests: &[Digest]) -> anyhow::Result<u64> {
        let connection = self.connection();
        let mut noted =
            connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM pending WHERE job = ? AND digest = ?)")?;
        let mut count = 0;
        for digest in digests {
            if !noted.query_row(params![job, digest.as_bytes()], |row| row.get(0))? {
                count += 1;
            }
        }
        Ok(count)
    }

    /// Records that a scan of a store has come to this binary.
    pub fn set_reached(&self, series: SeriesId, digest: &Digest) -> anyhow::Result<()> {
        self.connection()
            .prepare_cached("INSERT OR REPLACE INTO scans (series, reached) VALUES (?, ?)")?
            .execute(params![series, digest.as_bytes()])
            .context("record how far a scan is")?;
        Ok(())
    }

    /// Where the last scan of a store was cut, unless it came to its end.
    pub fn reached(&self, series: SeriesId) -> anyhow::Result<Option<Digest>> {
        self.connection()
            .prepare_cached("SELECT reached FROM scans WHERE series = ?")?
            .query_row([series], |row| read_digest(row, 0))
            .optional()
            .context("read how far a scan was")
    }

    /// A scan came to its end: the next begins at the beginning.
    pub fn forget_reached(&self, series: SeriesId) -> anyhow::Result<()> {
        self.connection()
            .execute("DELETE FROM scans WHERE series = ?", [series])
            .context("record that a scan has ended")?;
        Ok(())
    }
}
