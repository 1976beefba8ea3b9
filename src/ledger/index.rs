//! What each destination holds, and what the last restore point of each repository there has in it.

use std::collections::BTreeSet;

use anyhow::Context as _;
use rusqlite::types::{ToSql, ToSqlOutput};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::runs::to_json;
use super::scratch::read_digest;
use super::{Ledger, Scratch};
use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::model::point::PointManifest;
use crate::model::run::RunId;
use crate::model::shard::Shard;

/// How many rows of the index are read at once: a long reader would keep SQLite from tidying its log.
const PAGE_ROWS: u32 = 8192;

/// A destination in the ledger, known by its place: the same name for another place is another destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestinationId(i64);

impl DestinationId {
    /// Stands for a place that the ledger does not know; nothing is recorded of it.
    pub const UNKNOWN: Self = Self(0);
}

/// The restore points of one repository, or of one shard of it, at one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesId(i64);

impl ToSql for DestinationId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl ToSql for SeriesId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

/// What is known of a series.
#[derive(Clone, Debug)]
pub struct Series {
    /// Which one.
    pub id: SeriesId,
    /// Its last restore point.
    pub last: Option<PointManifest>,
    /// The fingerprint of the documents in that.
    pub documents: Option<String>,
    /// Whether a copy began and did not end, so that objects may be there which the index does not know, or the
    /// destination was listed since, so that objects may be gone which the last restore point has.
    pub under_way: bool,
}

/// What a copy found out about a binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is at the destination, proved, and belongs to the next restore point.
    Added {
        /// The binary.
        digest: Digest,
        /// Its size in bytes.
        bytes: u64,
        /// Whether the index does not have it yet.
        new_object: bool,
    },
    /// It is in the last restore point and no longer in the repository.
    Removed(Digest),
    /// What was pending under this number has been dealt with.
    Settled(i64),
}

/// How a listing differed from the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Objects that the index did not have.
    pub found: u64,
    /// Objects that the index had and that are not there, or not of that size.
    pub gone: u64,
    /// Objects that are there with another size than they were sent with.
    pub resized: Vec<Digest>,
}

/// What a copy under way will change, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeTotals {
    /// Changes recorded.
    pub lines: u64,
    /// Binaries that the last restore point does not have.
    pub added: u64,
    /// The sizes that go in, added up.
    pub added_bytes: u64,
    /// Binaries taken away.
    pub removed: u64,
    /// The sizes that go out, added up.
    pub removed_bytes: u64,
}

/// An upload in parts that was begun and, as far as is known, not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenUpload {
    /// What it was to become.
    pub key: Key,
    /// Whose it was.
    pub run: RunId,
    /// The store's name for it, if it was told.
    pub id: Option<String>,
}

impl Ledger {
    /// The destination at this place, new ones included.
    pub fn destination(&self, place: &str) -> anyhow::Result<DestinationId> {
        let connection = self.connection();
        let find = |connection: &Connection| {
            connection.query_row("SELECT id FROM destinations WHERE place = ?", [place], |row| row.get(0)).optional()
        };
        if let Some(id) = find(&connection).context("read the destinations")? {
            return Ok(DestinationId(id));
        }
        connection
            .execute("INSERT INTO destinations (place) VALUES (?)", [place])
            .with_context(|| format!("record destination {place}"))?;
        Ok(DestinationId(connection.last_insert_rowid()))
    }

    /// The destination at this place, if it was ever used; for a ledger that is only read.
    pub fn known_destination(&self, place: &str) -> anyhow::Result<Option<DestinationId>> {
        self.connection()
            .query_row("SELECT id FROM destinations WHERE place = ?", [place], |row| row.get(0).map(DestinationId))
            .optional()
            .context("read the destinations")
    }

    /// What the destination was found to do, as JSON.
    pub fn capabilities(&self, destination: DestinationId) -> anyhow::Result<Option<String>> {
        self.connection()
            .query_row("SELECT capabilities FROM destinations WHERE id = ?", [destination], |row| row.get(0))
            .context("read what the destination can do")
    }

    /// Records what the destination was found to do.
    pub fn record_capabilities(&self, destination: DestinationId, capabilities: &str) -> anyhow::Result<()> {
        self.connection()
            .execute("UPDATE destinations SET capabilities = ? WHERE id = ?", params![capabilities, destination])
            .context("record what the destination can do")?;
        Ok(())
    }

    /// Whether the index of this destination began with a listing, as far as it concerns this series.
    pub fn is_learned(&self, destination: DestinationId, series: SeriesId) -> anyhow::Result<bool> {
        self.connection()
            .query_row(
                "SELECT (SELECT learned FROM destinations WHERE id = ?) OR (SELECT learned FROM series WHERE id = ?)",
                params![destination, series],
                |row| row.get(0),
            )
            .context("read the destinations")
    }

    /// Makes the index of a destination what a listing found: all of it, or what it has of the shard of a series.
    pub fn replace_objects(
        &self,
        destination: DestinationId,
        listing: &Scratch,
        of: Option<(SeriesId, Shard)>,
    ) -> anyhow::Result<Repaired> {
        let shard = of.map(|(_, shard)| shard);
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let mut repaired = Repaired::default();
        // Right before the first digest that begins with this byte.
        let mut after = shard.map_or(Vec::new(), |shard| vec![*shard.bytes().start()]);
        loop {
            let mut page = objects_after(&transaction, destination, &after)?;
            if let Some(shard) = shard {
                page.truncate(page.partition_point(|(digest, _)| shard.contains(digest)));
            }
            let Some(last) = page.last() else { break };
            after = last.0.as_bytes().to_vec();
            for (digest, bytes) in page {
                let found = listing.get(&digest)?.and_then(|object| object.bytes);
                if found.is_some_and(|found| found != bytes) {
                    repaired.resized.push(digest);
                }
                if found.is_none_or(|found| found != bytes) {
                    repaired.gone += 1;
                    transaction
                        .prepare_cached("DELETE FROM objects WHERE destination = ? AND digest = ?")?
                        .execute(params![destination, digest.as_bytes()])?;
                }
            }
        }
        listing.each(|object| {
            repaired.found += put_object(&transaction, destination, &object.digest, object.bytes.unwrap_or_default())?;
            Ok(())
        })?;
        match of {
            Some((series, _)) => transaction.execute("UPDATE series SET learned = 1 WHERE id = ?", [series])?,
            None => transaction.execute("UPDATE destinations SET learned = 1 WHERE id = ?", [destination])?,
        };
        for series in series_that_meet(&transaction, destination, shard)? {
            transaction.execute("UPDATE series SET under_way = 1 WHERE id = ?", [series])?;
        }
        transaction.commit().context("record a listing")?;
        Ok(repaired)
    }

    /// The size of a binary at the destination, if the index has it.
    pub fn object(&self, destination: DestinationId, digest: &Digest) -> anyhow::Result<Option<u64>> {
        self.connection()
            .prepare_cached("SELECT size FROM objects WHERE destination = ? AND digest = ?")?
            .query_row(params![destination, digest.as_bytes()], |row| row.get(0))
            .optional()
            .context("read the index")
    }

    /// The first binary from this one on that a destination holds, with its size.
    pub fn object_from(&self, destination: DestinationId, digest: &Digest) -> anyhow::Result<Option<(Digest, u64)>> {
        self.connection()
            .prepare_cached(
                "SELECT digest, size FROM objects WHERE destination = ? AND digest >= ? ORDER BY digest LIMIT 1",
            )?
            .query_row(params![destination, digest.as_bytes()], |row| Ok((read_digest(row, 0)?, row.get(1)?)))
            .optional()
            .context("read the index")
    }

    /// The series of a repository at a destination, new ones included.
    pub fn series(&self, destination: DestinationId, repository: &str) -> anyhow::Result<Series> {
        self.series_of(destination, repository, None)
    }

    /// The series of a repository, or of a shard of it, at a destination, new ones included. Each has its own last
    /// restore point.
    pub fn series_of(
        &self,
        destination: DestinationId,
        repository: &str,
        shard: Option<Shard>,
    ) -> anyhow::Result<Series> {
        // No repository has a slash in its name.
        let repository = shard.map_or_else(|| repository.to_owned(), |shard| format!("{repository}/{shard}"));
        let connection = self.connection();
        connection
            .execute(
                "INSERT OR IGNORE INTO series (destination, repository) VALUES (?, ?)",
                params![destination, repository],
            )
            .context("record the series of restore points")?;
        let (id, last, documents, under_way) = connection
            .query_row(
                "SELECT id, last, documents, under_way FROM series WHERE destination = ? AND repository = ?",
                params![destination, repository],
                |row| Ok((SeriesId(row.get(0)?), row.get::<_, Option<String>>(1)?, row.get(2)?, row.get(3)?)),
            )
            .context("read the series of restore points")?;
        let last = last
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .context("read the last restore point from the ledger")?;
        Ok(Series { id, last, documents, under_way })
    }

    /// A copy begins: what an earlier one left half done is forgotten.
    ///
    /// Where the destination was listed since the last one ended, binaries of the last restore point whose objects
    /// are not there, or not of their size, count as taken away until they are sent again. Says how many.
    pub fn begin_copy(&self, destination: DestinationId, series: SeriesId) -> anyhow::Result<u64> {
        let mut connection = self.connection();
        let mut record = || -> rusqlite::Result<usize> {
            let transaction = connection.transaction()?;
            transaction.execute("DELETE FROM changes WHERE series = ?", [series])?;
            let lost = transaction.execute(
                "INSERT INTO changes (series, digest, size)
                 SELECT m.series, m.digest, NULL
                 FROM members m LEFT JOIN objects o ON o.destination = ?1 AND o.digest = m.digest
                 WHERE m.series = ?2 AND (o.size IS NULL OR o.size <> m.size)
                   AND (SELECT under_way FROM series WHERE id = ?2)",
                params![destination, series],
            )?;
            transaction.execute("UPDATE series SET under_way = 1 WHERE id = ?", [series])?;
            transaction.commit()?;
            Ok(lost)
        };
        Ok(record().context("record that a copy begins")? as u64)
    }

    /// A copy of what is pending begins, if the last copy ended and what it left is known; says whether.
    pub fn begin_pending_copy(&self, series: SeriesId) -> anyhow::Result<bool> {
        let mut connection = self.connection();
        let mut record = || -> rusqlite::Result<bool> {
            let transaction = connection.transaction()?;
            let begun = transaction.execute(
                "UPDATE series SET under_way = 1 WHERE id = ? AND under_way = 0 AND last IS NOT NULL",
                [series],
            )?;
            transaction.execute("DELETE FROM changes WHERE series = ?", [series])?;
            transaction.commit()?;
            Ok(begun > 0)
        };
        record().context("record that a copy begins")
    }

    /// The copy ended without a new restore point, having recorded everything it sent. The fingerprint is that of
    /// the documents, which are those of the last point.
    pub fn end_copy(&self, series: SeriesId, documents: Option<&str>) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM changes WHERE series = ?", [series])?;
        transaction
            .execute("UPDATE series SET under_way = 0, documents = ? WHERE id = ?", params![documents, series])?;
        transaction.commit().context("record that a copy ended")
    }

    /// Records what a copy found out, in one transaction. What the last restore point has just so is no change.
    pub fn record_changes(
        &self,
        destination: DestinationId,
        series: SeriesId,
        changes: &[Change],
    ) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let mut record = || -> anyhow::Result<()> {
            let transaction = connection.transaction()?;
            // A first copy has none, and asks for as many as it has binaries.
            let any_members: bool = transaction
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM members WHERE series = ?)")?
                .query_row([series], |row| row.get(0))?;
            {
                let mut settle = transaction.prepare_cached("DELETE FROM pending WHERE seq = ?")?;
                let mut add = transaction
                    .prepare_cached("INSERT OR REPLACE INTO changes (series, digest, size) VALUES (?, ?, ?)")?;
                for change in changes {
                    let (digest, size) = match change {
                        Change::Added { digest, bytes, new_object } => {
                            if *new_object {
                                put_object(&transaction, destination, digest, *bytes)?;
                            }
                            (digest, Some(*bytes))
                        }
                        Change::Removed(digest) => (digest, None),
                        Change::Settled(seq) => {
                            settle.execute([seq])?;
                            continue;
                        }
                    };
                    if any_members && size.is_some() && member(&transaction, series, digest)? == size {
                        transaction
                            .prepare_cached("DELETE FROM changes WHERE series = ? AND digest = ?")?
                            .execute(params![series, digest.as_bytes()])?;
                        continue;
                    }
                    add.execute(params![series, digest.as_bytes(), size])?;
                }
            }
            Ok(transaction.commit()?)
        };
        record().context("record what was copied (is the disk of the state directory full?)")
    }

    /// The changes that are recorded, in numbers.
    pub fn count_changes(&self, series: SeriesId) -> anyhow::Result<ChangeTotals> {
        self.connection()
            .query_row(
                "SELECT count(*), count(CASE WHEN m.size IS NULL THEN c.size END), coalesce(sum(c.size), 0),
                        count(*) - count(c.size), coalesce(sum(m.size), 0)
                 FROM changes c LEFT JOIN members m ON m.series = c.series AND m.digest = c.digest
                 WHERE c.series = ?",
                [series],
                |row| {
                    Ok(ChangeTotals {
                        lines: row.get(0)?,
                        added: row.get(1)?,
                        added_bytes: row.get(2)?,
                        removed: row.get(3)?,
                        removed_bytes: row.get(4)?,
                    })
                },
            )
            .context("count the changes")
    }

    /// The changes after this one, in order: the next few thousand, none at the end.
    pub fn changes_after(
        &self,
        series: SeriesId,
        after: Option<&Digest>,
    ) -> anyhow::Result<Vec<(Digest, Option<u64>)>> {
        self.page(
            "SELECT digest, size FROM changes WHERE series = ? AND digest > ? ORDER BY digest LIMIT ?",
            series,
            after,
        )
    }

    /// The binaries of the last restore point after this one, in order: the next few thousand, none at the end.
    pub fn members_after(
        &self,
        series: SeriesId,
        after: Option<&Digest>,
    ) -> anyhow::Result<Vec<(Digest, Option<u64>)>> {
        self.page(
            "SELECT digest, size FROM members WHERE series = ? AND digest > ? ORDER BY digest LIMIT ?",
            series,
            after,
        )
    }

    /// The same without those that the copy under way has recorded a change of, such as those that are lost.
    pub fn unchanged_members_after(
        &self,
        series: SeriesId,
        after: Option<&Digest>,
    ) -> anyhow::Result<Vec<(Digest, Option<u64>)>> {
        // Mostly nothing has changed, and to ask that of each binary takes longer than to read them.
        let members = self.members_after(series, after)?;
        let Some((last, _)) = members.last() else { return Ok(members) };
        if !self.is_changed_between(series, after, last)? {
            return Ok(members);
        }
        self.page(
            "SELECT digest, size FROM members m WHERE series = ? AND digest > ?
             AND NOT EXISTS (SELECT 1 FROM changes c WHERE c.series = m.series AND c.digest = m.digest)
             ORDER BY digest LIMIT ?",
            series,
            after,
        )
    }

    /// Whether the copy under way has recorded a change of a binary after one and up to another.
    fn is_changed_between(&self, series: SeriesId, after: Option<&Digest>, last: &Digest) -> anyhow::Result<bool> {
        let after = after.map_or(&[][..], Digest::as_bytes);
        self.connection()
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM changes WHERE series = ? AND digest > ? AND digest <= ?)")?
            .query_row(params![series, after, last.as_bytes()], |row| row.get(0))
            .context("read the changes")
    }

    /// The binaries that the point of the copy under way will have, after this one, in order: the next few thousand,
    /// none at the end.
    pub fn held_after(&self, series: SeriesId, after: Option<&Digest>) -> anyhow::Result<Vec<(Digest, Option<u64>)>> {
        self.page(
            "SELECT digest, size FROM members m WHERE series = ?1 AND digest > ?2
             AND NOT EXISTS (SELECT 1 FROM changes c WHERE c.series = m.series AND c.digest = m.digest)
             UNION ALL
             SELECT digest, size FROM changes WHERE series = ?1 AND digest > ?2 AND size IS NOT NULL
             ORDER BY digest LIMIT ?3",
            series,
            after,
        )
    }

    fn page(&self, sql: &str, series: SeriesId, after: Option<&Digest>) -> anyhow::Result<Vec<(Digest, Option<u64>)>> {
        let after = after.map_or(&[][..], Digest::as_bytes);
        self.connection()
            .prepare_cached(sql)?
            .query_map(params![series, after, PAGE_ROWS], |row| Ok((read_digest(row, 0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()
            .context("read the index")
    }

    /// A new restore point is at the destination: the changes become part of it, and the copy has ended.
    pub fn record_point(&self, series: SeriesId, point: &PointManifest, documents: Option<&str>) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let mut record = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            transaction.execute(
                "DELETE FROM members WHERE series = ?1
                 AND digest IN (SELECT digest FROM changes WHERE series = ?1 AND size IS NULL)",
                [series],
            )?;
            transaction.execute(
                "INSERT OR REPLACE INTO members (series, digest, size)
                 SELECT series, digest, size FROM changes WHERE series = ? AND size IS NOT NULL",
                [series],
            )?;
            transaction.execute("DELETE FROM changes WHERE series = ?", [series])?;
            set_last(&transaction, series, point, documents)?;
            transaction.execute("UPDATE series SET under_way = 0 WHERE id = ?", [series])?;
            transaction.commit()
        };
        record().context("record the restore point")
    }

    /// Takes a restore point that was found at the destination as the last of its series.
    pub fn adopt_point(&self, series: SeriesId, point: &PointManifest, members: &Scratch) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM members WHERE series = ?", [series])?;
        members.each(|binary| {
            transaction
                .prepare_cached("INSERT INTO members (series, digest, size) VALUES (?, ?, ?)")?
                .execute(params![series, binary.digest.as_bytes(), binary.bytes.unwrap_or_default()])?;
            Ok(())
        })?;
        set_last(&transaction, series, point, None)?;
        transaction.commit().context("record the restore point that was found")
    }

    /// The last restore point of the series is not to be built on: the next one lists everything anew.
    pub fn forget_point(&self, series: SeriesId) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM members WHERE series = ?", [series])?;
        transaction.execute("UPDATE series SET last = NULL, documents = NULL WHERE id = ?", [series])?;
        transaction.commit().context("forget the last restore point")
    }

    /// Whether the last restore point has a binary with just this size.
    pub fn is_member(&self, series: SeriesId, digest: &Digest, bytes: u64) -> anyhow::Result<bool> {
        Ok(member(&self.connection(), series, digest).context("read the index")? == Some(bytes))
    }

    /// Whether the copy under way has recorded that a binary is at the destination and belongs to the next restore point.
    pub fn is_added(&self, series: SeriesId, digest: &Digest) -> anyhow::Result<bool> {
        self.connection()
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM changes WHERE series = ? AND digest = ? AND size IS NOT NULL)",
            )?
            .query_row(params![series, digest.as_bytes()], |row| row.get(0))
            .context("read the index")
    }

    /// Whether a file of a store is known to be a sidecar.
    pub fn is_sidecar(&self, store: &str, digest: &Digest) -> anyhow::Result<bool> {
        self.connection()
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM sidecars WHERE store = ? AND digest = ?)")?
            .query_row(params![store, digest.as_bytes()], |row| row.get(0))
            .context("read the index")
    }

    /// The known sidecars of a store after this one, in order: the next few thousand, none at the end.
    pub fn sidecars_after(&self, store: &str, after: Option<&Digest>) -> anyhow::Result<Vec<Digest>> {
        let after = after.map_or(&[][..], Digest::as_bytes);
        self.connection()
            .prepare_cached("SELECT digest FROM sidecars WHERE store = ? AND digest > ? ORDER BY digest LIMIT ?")?
            .query_map(params![store, after, PAGE_ROWS], |row| read_digest(row, 0))?
            .collect::<Result<_, _>>()
            .context("read the index")
    }

    /// Records files of a store as sidecars.
    pub fn record_sidecars(&self, store: &str, sidecars: &[Digest]) -> anyhow::Result<()> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        for digest in sidecars {
            transaction
                .prepare_cached("INSERT OR IGNORE INTO sidecars (store, digest) VALUES (?, ?)")?
                .execute(params![store, digest.as_bytes()])?;
        }
        transaction.commit().context("record sidecars")
    }

    /// Records that an upload in parts is about to begin, so that a crash leaves nothing that nobody knows of.
    pub fn begin_upload(&self, destination: DestinationId, key: &Key, run: RunId) -> anyhow::Result<()> {
        self.connection()
            .prepare_cached("INSERT OR REPLACE INTO uploads (destination, key, run, id) VALUES (?, ?, ?, NULL)")?
            .execute(params![destination, key.as_str(), run.get()])
            .context("record an upload")?;
        Ok(())
    }

    /// Records what the store calls an upload that has begun, by which it is told from those of others.
    pub fn name_upload(&self, destination: DestinationId, key: &Key, id: Option<&str>) -> anyhow::Result<()> {
        self.connection()
            .prepare_cached("UPDATE uploads SET id = ? WHERE destination = ? AND key = ?")?
            .execute(params![id, destination, key.as_str()])
            .context("record the name of an upload")?;
        Ok(())
    }

    /// Records that an upload was completed or aborted.
    pub fn end_upload(&self, destination: DestinationId, key: &Key) -> anyhow::Result<()> {
        self.connection()
            .prepare_cached("DELETE FROM uploads WHERE destination = ? AND key = ?")?
            .execute(params![destination, key.as_str()])
            .context("record the end of an upload")?;
        Ok(())
    }

    /// Whether an upload is recorded that did not end.
    pub fn has_upload(&self, destination: DestinationId, key: &Key) -> anyhow::Result<bool> {
        self.connection()
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM uploads WHERE destination = ? AND key = ?)")?
            .query_row(params![destination, key.as_str()], |row| row.get(0))
            .context("read the open uploads")
    }

    /// Uploads that were begun by runs which have ended, and did not end themselves.
    pub fn open_uploads(&self, destination: DestinationId) -> anyhow::Result<Vec<OpenUpload>> {
        let connection = self.connection();
        let mut statement = connection.prepare(
            "SELECT key, run, id FROM uploads
             WHERE destination = ? AND run NOT IN (SELECT id FROM runs WHERE outcome IS NULL)",
        )?;
        let rows = statement
            .query_map([destination], |row| Ok((row.get::<_, String>(0)?, RunId::new(row.get(1)?), row.get(2)?)))?
            .collect::<Result<Vec<_>, _>>()
            .context("read the open uploads")?;
        let open = |(key, run, id): (String, _, _)| Some(OpenUpload { key: Key::parse(&key)?, run, id });
        Ok(rows.into_iter().filter_map(open).collect())
    }

    /// The keys that runs under way are uploading to.
    pub fn live_uploads(&self, destination: DestinationId) -> anyhow::Result<BTreeSet<Key>> {
        let connection = self.connection();
        let mut statement = connection.prepare(
            "SELECT key FROM uploads WHERE destination = ? AND run IN (SELECT id FROM runs WHERE outcome IS NULL)",
        )?;
        let keys = statement
            .query_map([destination], |row| row.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()
            .context("read the uploads under way")?;
        Ok(keys.iter().filter_map(|key| Key::parse(key)).collect())
    }
}

/// The series at a destination that may have binaries of this shard in them; all for the whole.
fn series_that_meet(
    transaction: &Transaction<'_>,
    destination: DestinationId,
    shard: Option<Shard>,
) -> rusqlite::Result<Vec<SeriesId>> {
    let mut statement = transaction.prepare_cached("SELECT id, repository FROM series WHERE destination = ?")?;
    let all = statement.query_map([destination], |row| Ok((SeriesId(row.get(0)?), row.get::<_, String>(1)?)))?;
    let meets = |repository: &str| {
        let other: Option<Shard> = repository.split_once('/').and_then(|(_, shard)| shard.parse().ok());
        shard.zip(other).is_none_or(|(shard, other)| shard.overlaps(&other))
    };
    all.filter_map(|row| row.map(|(id, repository)| meets(&repository).then_some(id)).transpose()).collect()
}

/// The size of a binary in the last restore point, if that has it.
fn member(connection: &Connection, series: SeriesId, digest: &Digest) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached("SELECT size FROM members WHERE series = ? AND digest = ?")?
        .query_row(params![series, digest.as_bytes()], |row| row.get(0))
        .optional()
}

fn set_last(
    transaction: &Transaction<'_>,
    series: SeriesId,
    point: &PointManifest,
    documents: Option<&str>,
) -> rusqlite::Result<()> {
    transaction.execute(
        "UPDATE series SET last = ?, documents = ? WHERE id = ?",
        params![to_json(point), documents, series],
    )?;
    Ok(())
}

fn put_object(
    transaction: &Transaction<'_>,
    destination: DestinationId,
    digest: &Digest,
    bytes: u64,
) -> rusqlite::Result<u64> {
    let rows = transaction
        .prepare_cached("INSERT OR IGNORE INTO objects (destination, digest, size) VALUES (?, ?, ?)")?
        .execute(params![destination, digest.as_bytes(), bytes])?;
    Ok(rows as u64)
}

fn objects_after(
    transaction: &Transaction<'_>,
    destination: DestinationId,
    after: &[u8],
) -> rusqlite::Result<Vec<(Digest, u64)>> {
    transaction
        .prepare_cached(
            "SELECT digest, size FROM objects WHERE destination = ? AND digest > ? ORDER BY digest LIMIT ?",
        )?
        .query_map(params![destination, after, PAGE_ROWS], |row| Ok((read_digest(row, 0)?, row.get(1)?)))?
        .collect()
}
