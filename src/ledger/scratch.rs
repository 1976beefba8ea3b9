//! A sorted set on disk, for one run's work: as large as a store may be, while memory stays the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::model::digest::Digest;

const PREFIX: &str = "scratch-";
/// How many rows a page of [`Scratch::page`] holds.
const PAGE_ROWS: u32 = 4096;

/// Binaries by digest, and document ids, in a SQLite file that goes with this value.
#[derive(Debug)]
pub struct Scratch {
    connection: Connection,
    path: PathBuf,
}

/// A binary in a [`Scratch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes; none where a list takes it away.
    pub bytes: Option<u64>,
    /// A number of the caller's own.
    pub mark: i64,
}

impl Scratch {
    pub(super) fn create(directory: &Path) -> anyhow::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{PREFIX}{}-{number}.db", std::process::id()));
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open(&path)?;
            // What is lost here is lost with the run, so nothing needs to be safe.
            connection.execute_batch(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA cache_size = -4096;
                 CREATE TABLE binaries (digest BLOB PRIMARY KEY, size INTEGER, mark INTEGER NOT NULL) WITHOUT ROWID;
                 CREATE TABLE documents (id BLOB PRIMARY KEY, content BLOB NOT NULL, ordinal INTEGER NOT NULL) WITHOUT ROWID;
                 BEGIN;",
            )?;
            Ok(connection)
        };
        let connection = open().with_context(|| format!("make scratch file `{}`", path.display()))?;
        Ok(Self { connection, path })
    }

    /// Puts a binary in, in place of one of the same digest.
    pub fn put(&self, binary: &Listed) -> anyhow::Result<()> {
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO binaries (digest, size, mark) VALUES (?, ?, ?)")?
            .execute(params![binary.digest.as_bytes(), binary.bytes, binary.mark])
            .context("write to the scratch file (is the disk of the state directory full?)")?;
        Ok(())
    }

    /// Takes a binary out; says whether it was in.
    pub fn take(&self, digest: &Digest) -> anyhow::Result<bool> {
        let rows = self
            .connection
            .prepare_cached("DELETE FROM binaries WHERE digest = ?")?
            .execute([digest.as_bytes()])
            .context("write to the scratch file (is the disk of the state directory full?)")?;
        Ok(rows > 0)
    }

    /// The binary of this digest, if it is in.
    pub fn get(&self, digest: &Digest) -> anyhow::Result<Option<Listed>> {
        self.connection
            .prepare_cached("SELECT digest, size, mark FROM binaries WHERE digest = ?")?
            .query_row([digest.as_bytes()], read_listed)
            .optional()
            .context("read from the scratch file")
    }

    /// The binaries after this one in order: the next few thousand, none at the end.
    pub fn page(&self, after: Option<&Digest>) -> anyhow::Result<Vec<Listed>> {
        let after = after.map_or(&[][..], Digest::as_bytes);
        self.connection
            .prepare_cached("SELECT digest, size, mark FROM binaries WHERE digest > ? ORDER BY digest LIMIT ?")?
            .query_map(params![after, PAGE_ROWS], read_listed)?
            .collect::<Result<_, _>>()
            .context("read from the scratch file")
    }

    /// All binaries in order, page by page.
    pub fn each(&self, mut visit: impl FnMut(&Listed) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut after = None;
        loop {
            let page = self.page(after.as_ref())?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.digest);
            page.iter().try_for_each(&mut visit)?;
        }
    }

    /// The first binary and the last, if there are any.
    pub fn ends(&self) -> anyhow::Result<Option<(Digest, Digest)>> {
        let end = |sql: &str| {
            self.connection
                .query_row(sql, [], |row| read_digest(row, 0))
                .optional()
                .context("read from the scratch file")
        };
        Ok(end("SELECT digest FROM binaries ORDER BY digest LIMIT 1")?
            .zip(end("SELECT digest FROM binaries ORDER BY digest DESC LIMIT 1")?))
    }

    /// The binary of this digest, or the nearest one before it.
    pub fn nearest(&self, digest: &Digest) -> anyhow::Result<Option<Listed>> {
        self.connection
            .prepare_cached("SELECT digest, size, mark FROM binaries WHERE digest <= ? ORDER BY digest DESC LIMIT 1")?
            .query_row([digest.as_bytes()], read_listed)
            .optional()
            .context("read from the scratch file")
    }

    /// All binaries in the opposite order, page by page: those up to `last`, or from the end.
    pub fn each_back(
        &self,
        last: Option<&Digest>,
        mut visit: impl FnMut(&Listed) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut page_before = |before: &[u8]| -> anyhow::Result<Option<Digest>> {
            let page: Vec<Listed> = self
                .connection
                .prepare_cached(
                    "SELECT digest, size, mark FROM binaries WHERE digest < ? ORDER BY digest DESC LIMIT ?",
                )?
                .query_map(params![before, PAGE_ROWS], read_listed)?
                .collect::<Result<_, _>>()
                .context("read from the scratch file")?;
            page.iter().try_for_each(&mut visit)?;
            Ok(page.last().map(|binary| binary.digest))
        };
        let mut end = match last {
            // A byte more than the digest: what comes right after it.
            Some(last) => page_before(&[last.as_bytes(), &[0]].concat())?,
            None => page_before(&[0xff; 33])?,
        };
        while let Some(before) = end {
            end = page_before(before.as_bytes())?;
        }
        Ok(())
    }

    /// How many binaries are in that have a size, and their sizes added up.
    pub fn totals(&self) -> anyhow::Result<(u64, u64)> {
        self.connection
            .query_row("SELECT count(size), coalesce(sum(size), 0) FROM binaries", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .context("count the scratch file")
    }

    /// The content and ordinal of the document with this id, if it is in.
    pub fn document(&self, id: &[u8; 16]) -> anyhow::Result<Option<([u8; 16], u64)>> {
        self.connection
            .prepare_cached("SELECT content, ordinal FROM documents WHERE id = ?")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .context("read from the scratch file")
    }

    /// Puts a document in; gives the content and ordinal of one with the same id that this one replaces.
    pub fn put_document(
        &self,
        id: &[u8; 16],
        content: &[u8; 16],
        ordinal: u64,
    ) -> anyhow::Result<Option<([u8; 16], u64)>> {
        let earlier = self.document(id)?;
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO documents (id, content, ordinal) VALUES (?, ?, ?)")?
            .execute(params![id, content, ordinal])
            .context("write to the scratch file (is the disk of the state directory full?)")?;
        Ok(earlier)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is taken away by the next process that opens the ledger.
        drop(fs::remove_file(&self.path));
    }
}

fn read_listed(row: &rusqlite::Row<'_>) -> rusqlite::Result<Listed> {
    Ok(Listed { digest: read_digest(row, 0)?, bytes: row.get(1)?, mark: row.get(2)? })
}

/// A digest from a column of 20 or 32 bytes.
pub(super) fn read_digest(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let bytes = row.get_ref(column)?.as_blob()?;
    Digest::from_bytes(bytes).ok_or_else(|| {
        let cause = format!("{} bytes are no digest", bytes.len());
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, cause.into())
    })
}

/// Takes away the files of processes that were killed; the caller holds the state directory's lock.
pub(super) fn remove_leftovers(directory: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("read state directory `{}`", directory.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(entry.path()).with_context(|| format!("remove `{}`", entry.path().display()))?;
        }
    }
    Ok(())
}
