//! How far the schedules have been acted upon: a mark is set together with the record of the run that acts.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Ledger;
use super::runs::{insert_run, unreadable};
use crate::model::run::{Kind, RunId, Trigger};
use crate::model::slots::{Advance, SlotMark};

impl Ledger {
    /// The marks of all jobs that have one.
    pub fn slot_marks(&self) -> anyhow::Result<BTreeMap<String, SlotMark>> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached("SELECT * FROM slots")?;
        let marks = statement.query_map([], |row| Ok((row.get("job")?, read_mark(row)?)))?;
        marks.collect::<Result<_, _>>().context("read how far the schedules are")
    }

    /// Records that a run is asked for, and with it that slots are acted upon. None, and nothing is recorded, if the
    /// mark is no longer what it was: somebody else has acted upon them.
    pub fn add_run_of_slot(
        &self,
        job: &str,
        kind: Kind,
        trigger: Trigger,
        advance: &Advance,
        now: Timestamp,
    ) -> anyhow::Result<Option<RunId>> {
        let mut connection = self.connection();
        let mut record = || -> anyhow::Result<Option<RunId>> {
            let transaction = connection.transaction()?;
            if !move_mark(&transaction, job, advance)? {
                return Ok(None);
            }
            let id = insert_run(&transaction, job, kind, trigger, None, now)?;
            transaction.commit()?;
            Ok(Some(id))
        };
        record().with_context(|| format!("record the start of {job}"))
    }

    /// Records that slots are acted upon by a run that waits already; false if somebody else has acted upon them.
    pub fn join_slot(&self, job: &str, advance: &Advance) -> anyhow::Result<bool> {
        let mut connection = self.connection();
        let mut record = || -> anyhow::Result<bool> {
            let transaction = connection.transaction()?;
            let moved = move_mark(&transaction, job, advance)?;
            transaction.commit()?;
            Ok(moved)
        };
        record().with_context(|| format!("record how far the schedule of {job} is"))
    }

    /// Sets the mark of a job, wherever it was.
    pub fn set_slot_mark(&self, job: &str, mark: &SlotMark) -> anyhow::Result<()> {
        put_mark(&self.connection(), job, mark).with_context(|| format!("record how far the schedule of {job} is"))
    }

    /// Forgets the marks of all jobs but these: one that gets a schedule again begins anew.
    pub fn keep_slot_marks(&self, jobs: &BTreeSet<String>) -> anyhow::Result<()> {
        for job in self.slot_marks()?.into_keys().filter(|job| !jobs.contains(job)) {
            self.connection()
                .execute("DELETE FROM slots WHERE job = ?", [&job])
                .with_context(|| format!("forget the schedule of {job}"))?;
        }
        Ok(())
    }
}

/// Sets the mark if it is still what it was.
fn move_mark(connection: &Connection, job: &str, advance: &Advance) -> rusqlite::Result<bool> {
    let known = connection.query_row("SELECT * FROM slots WHERE job = ?", [job], read_mark).optional()?;
    let unchanged = known.as_ref() == Some(&advance.from);
    if unchanged {
        put_mark(connection, job, &advance.to)?;
    }
    Ok(unchanged)
}

fn put_mark(connection: &Connection, job: &str, mark: &SlotMark) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT OR REPLACE INTO slots (job, schedule, timezone, done, seed) VALUES (?, ?, ?, ?, ?)",
        params![job, mark.schedule, mark.timezone, mark.done.to_string(), mark.seed],
    )?;
    Ok(())
}

fn read_mark(row: &Row<'_>) -> rusqlite::Result<SlotMark> {
    Ok(SlotMark {
        schedule: row.get("schedule")?,
        timezone: row.get("timezone")?,
        done: row.get::<_, String>("done")?.parse().map_err(|error: jiff::Error| unreadable("done", error))?,
        seed: row.get("seed")?,
    })
}
