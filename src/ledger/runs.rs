//! The history of runs.

use anyhow::Context as _;
use jiff::Timestamp;
use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Ledger;
use crate::model::run::{Failure, Kind, Outcome, Problem, Progress, Run, RunFilter, RunId, Trigger};

/// How many problems of a run are shown with it; all that were recorded stay in the table.
const SHOWN_PROBLEMS: u32 = 100;

impl Ledger {
    /// Records that a run is asked for, and gives it its number.
    pub fn add_run(
        &self,
        job: &str,
        kind: Kind,
        trigger: Trigger,
        started_by: Option<&str>,
        now: Timestamp,
    ) -> anyhow::Result<RunId> {
        let connection = self.connection();
        insert_run(&connection, job, kind, trigger, started_by, now)
            .with_context(|| format!("record the start of {job}"))
    }

    /// Records that a run begins, having waited for others; `url` is where that lies what it restores.
    pub fn begin_run(&self, id: RunId, now: Timestamp, url: Option<&str>) -> anyhow::Result<()> {
        self.connection()
            .execute("UPDATE runs SET started = ?, url = ? WHERE id = ?", params![now.to_string(), url, id.get()])
            .with_context(|| format!("record the start of run {id}"))?;
        Ok(())
    }

    /// Records how a run ended: everything but its number, job, kind, trigger, start and who asked for it is taken
    /// from `run`.
    pub fn end_run(&self, run: &Run) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let record = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            transaction.execute(
                "UPDATE runs SET outcome = ?, finished = ?, progress = ?, counts = ?, result = ?, url = ?, quarantine = ?,
                 error = ?, failure = ? WHERE id = ?",
                params![
                    run.outcome.map(Outcome::as_str),
                    run.finished.map(|time| time.to_string()),
                    to_json(&run.progress),
                    to_json(&run.counts),
                    run.result,
                    run.url,
                    run.quarantine,
                    run.error,
                    run.failure.map(Failure::as_str),
                    run.id.get(),
                ],
            )?;
            let mut insert =
                transaction.prepare("INSERT INTO problems (run, kind, subject, message) VALUES (?, ?, ?, ?)")?;
            for problem in &run.problems {
                insert.execute(params![run.id.get(), problem.kind, problem.subject, problem.message])?;
            }
            drop(insert);
            if matches!(run.outcome, Some(Outcome::Succeeded | Outcome::Partial)) {
                transaction.execute("DELETE FROM owed WHERE job = ?", [&run.job])?;
            }
            transaction.commit()
        };
        let mut record = record;
        record().with_context(|| format!("record the end of run {}", run.id))
    }

    /// Closes the runs that a process left open when it ended without ending them, and notes that their jobs are to be
    /// run again; gives how many.
    pub fn interrupt_open_runs(&self, now: Timestamp) -> anyhow::Result<usize> {
        let mut connection = self.connection();
        let close = || -> rusqlite::Result<usize> {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT OR IGNORE INTO owed SELECT job FROM runs WHERE outcome IS NULL AND kind IN (?, ?)",
                [Kind::Copy.as_str(), Kind::Backup.as_str()],
            )?;
            let closed = transaction.execute(
                "UPDATE runs SET outcome = ?, finished = ?, error = 'the process ended before the run did'
                 WHERE outcome IS NULL",
                params![Outcome::Interrupted.as_str(), now.to_string()],
            )?;
            transaction.commit()?;
            Ok(closed)
        };
        let mut close = close;
        close().context("close interrupted runs")
    }

    /// Notes that a job is to be run again, also after a restart, until a run of it succeeds.
    pub fn owe(&self, job: &str) -> anyhow::Result<()> {
        self.connection()
            .execute("INSERT OR IGNORE INTO owed VALUES (?)", [job])
            .with_context(|| format!("note that {job} is to be run again"))?;
        Ok(())
    }

    /// The jobs that are to be run again.
    pub fn owed(&self) -> anyhow::Result<Vec<String>> {
        let connection = self.connection();
        let mut statement = connection.prepare("SELECT job FROM owed ORDER BY job")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    /// Takes runs out of the history that ended before this time; of each job, the latest and the latest that
    /// succeeded or was partial stay. Gives how many went.
    pub fn forget_runs(&self, before: Timestamp) -> anyhow::Result<usize> {
        self.connection()
            .execute(
                "DELETE FROM runs WHERE outcome IS NOT NULL AND julianday(finished) < julianday(?)
                 AND id NOT IN (SELECT max(id) FROM runs GROUP BY job)
                 AND id NOT IN (SELECT max(id) FROM runs WHERE outcome IN (?, ?) GROUP BY job, outcome)",
                params![before.to_string(), Outcome::Succeeded.as_str(), Outcome::Partial.as_str()],
            )
            .context("take old runs out of the history")
    }

    /// The latest runs, newest first.
    pub fn runs(&self, filter: &RunFilter) -> anyhow::Result<Vec<Run>> {
        let connection = self.connection();
        let mut statement = connection.prepare(
            "SELECT * FROM runs WHERE (?1 IS NULL OR job = ?1) AND (?2 IS NULL OR outcome = ?2)
             AND (?3 IS NULL OR id < ?3) ORDER BY id DESC LIMIT ?4",
        )?;
        let wanted = params![
            filter.job,
            filter.outcome.map(Outcome::as_str),
            filter.before.map(|id| i64::try_from(id.get()).unwrap_or(i64::MAX)),
            filter.limit
        ];
        let mut runs = statement.query_map(wanted, read_run)?.collect::<Result<Vec<_>, _>>()?;
        drop(statement);
        for run in &mut runs {
            run.problems = problems(&connection, run.id)?;
        }
        Ok(runs)
    }

    /// Of each of these jobs the latest run that has ended.
    pub fn last_runs(&self, jobs: &[String]) -> anyhow::Result<Vec<Run>> {
        let connection = self.connection();
        let mut last = connection
            .prepare_cached("SELECT * FROM runs WHERE job = ? AND outcome IS NOT NULL ORDER BY id DESC LIMIT 1")?;
        let mut runs = Vec::new();
        for job in jobs {
            if let Some(mut run) = last.query_row([job], read_run).optional()? {
                run.problems = problems(&connection, run.id)?;
                runs.push(run);
            }
        }
        Ok(runs)
    }

    /// One run.
    pub fn run(&self, id: RunId) -> anyhow::Result<Option<Run>> {
        let connection = self.connection();
        let run = connection
            .query_row("SELECT * FROM runs WHERE id = ?", [i64::try_from(id.get()).unwrap_or(-1)], read_run)
            .optional()?;
        let Some(mut run) = run else { return Ok(None) };
        run.problems = problems(&connection, id)?;
        Ok(Some(run))
    }
}

/// A run that has not begun.
pub(super) fn insert_run(
    connection: &Connection,
    job: &str,
    kind: Kind,
    trigger: Trigger,
    started_by: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<RunId> {
    let now = now.to_string();
    connection.execute(
        "INSERT INTO runs (job, kind, trigger, activated, started, started_by, progress, counts)
         VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, '{}')",
        params![job, kind.as_str(), trigger.as_str(), now, started_by, to_json(&Progress::default())],
    )?;
    Ok(RunId::new(u64::try_from(connection.last_insert_rowid()).context("read a run's number")?))
}

fn problems(connection: &Connection, run: RunId) -> rusqlite::Result<Vec<Problem>> {
    connection
        .prepare_cached("SELECT kind, subject, message FROM problems WHERE run = ? ORDER BY rowid LIMIT ?")?
        .query_map(params![run.get(), SHOWN_PROBLEMS], |row| {
            Ok(Problem { kind: row.get(0)?, subject: row.get(1)?, message: row.get(2)? })
        })?
        .collect()
}

fn read_run(row: &Row<'_>) -> rusqlite::Result<Run> {
    let started = parsed::<Timestamp>(row, "started")?;
    Ok(Run {
        id: RunId::new(row.get("id")?),
        job: row.get("job")?,
        kind: parsed::<Kind>(row, "kind")?,
        trigger: parsed::<Trigger>(row, "trigger")?,
        outcome: spelled(row, "outcome")?,
        // A ledger that was not opened for writing since the program was renewed does not have the columns.
        activated: if has(row, "activated") && row.get_ref("activated")? != ValueRef::Null {
            parsed(row, "activated")?
        } else {
            started
        },
        started,
        finished: row
            .get::<_, Option<String>>("finished")?
            .map(|text| text.parse().map_err(|error: jiff::Error| unreadable("finished", error)))
            .transpose()?,
        progress: from_json(row, "progress")?,
        counts: from_json(row, "counts")?,
        result: row.get("result")?,
        quarantine: row.get("quarantine")?,
        error: row.get("error")?,
        started_by: if has(row, "started_by") { row.get("started_by")? } else { None },
        url: if has(row, "url") { row.get("url")? } else { None },
        failure: if has(row, "failure") { spelled(row, "failure")? } else { None },
        problems: Vec::new(),
    })
}

fn has(row: &Row<'_>, column: &str) -> bool {
    row.as_ref().column_index(column).is_ok()
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    row.get::<_, String>(column)?.parse().map_err(|error: T::Err| unreadable(column, error))
}

fn spelled<T: std::str::FromStr<Err = String>>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|error| unreadable(column, error))).transpose()
}

fn from_json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|error| unreadable(column, error))
}

pub(super) fn unreadable(column: &str, cause: impl std::fmt::Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, format!("column {column}: {cause}").into())
}

/// The JSON of a value of ours.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our values have no maps with keys that are not text")
}
