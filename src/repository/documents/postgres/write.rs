//! Writing: all documents of the table are replaced in one transaction.

use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;
use anyhow::ensure;
use bytes::BufMut as _;
use bytes::Bytes;
use bytes::BytesMut;
use futures_util::SinkExt as _;
use tokio_postgres::CopyInSink;

use super::ANSWER_WITHIN;
use super::session::Session;
use super::session::Stop;
use super::session::text;
use super::table::Table;
use crate::model::bson::from_json;
use crate::model::database::DocumentTable;
use crate::repository::documents::database::Compression;
use crate::repository::documents::database::compression_of;
use crate::repository::documents::database::gzip;
use crate::repository::documents::sink::CommitUnknown;
use crate::repository::documents::sink::DocumentSink;

/// How long the server may take to take what it is sent, and to finish.
const TAKE_WITHIN: Duration = Duration::from_mins(30);
/// How much is sent at once.
const BATCH_BYTES: usize = 256 << 10;
/// How many rows are looked at to learn how the table keeps its documents.
const SAMPLED: u32 = 100;

/// New documents for a table, of which nobody sees anything until they are committed.
pub(in crate::repository::documents) struct Replacement {
    session: Session,
    wanted: DocumentTable,
    table: Table,
    compression: Compression,
    copy: Option<Pin<Box<CopyInSink<Bytes>>>>,
    batch: BytesMut,
    bson: Vec<u8>,
    documents: u64,
    /// By which the server knows later what became of it; none if it is too old for that.
    transaction: Option<String>,
}

impl Replacement {
    /// Takes the documents out of the table, and holds it against all others who write.
    pub(in crate::repository::documents) fn begin(wanted: &DocumentTable, stop: Stop<'_>) -> anyhow::Result<Self> {
        let session = Session::open(wanted)?;
        session.batch("begin", "BEGIN")?;
        if Table::find(&session, wanted)?.is_none() {
            Table::create(&session, wanted)?;
        }
        let table = Table::require(&session, wanted)?;
        // Who reads goes on reading the old documents.
        session.batch_unless(
            stop,
            &format!("hold {}", table.shown()),
            &format!("LOCK TABLE {} IN EXCLUSIVE MODE", table.quoted),
        )?;
        let compression = match Compression::set_for(wanted) {
            None => compression(&session, &table)?,
            Some(set) => set,
        };
        let version = session.row("look at the server", "SELECT current_setting('server_version_num')", &[])?;
        let transaction = if text(&version, 0)?.parse::<u32>().is_ok_and(|version| version >= 100_000) {
            Some(text(&session.row("look at the transaction", "SELECT txid_current()::text", &[])?, 0)?)
        } else {
            None
        };
        let doing = || format!("take the old documents out of {}", table.shown());
        let delete = format!("DELETE FROM {}", table.quoted);
        session.wait(stop, TAKE_WITHIN, session.client().batch_execute(&delete)).with_context(doing)?;
        let sql = format!("COPY {} ({}, {}) FROM STDIN (FORMAT BINARY)", table.quoted, table.id, table.content);
        let copy = session.wait(stop, ANSWER_WITHIN, session.client().copy_in(&sql)).with_context(doing)?;
        let mut batch = BytesMut::with_capacity(2 * BATCH_BYTES);
        batch.put_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        let (copy, bson) = (Some(Box::pin(copy)), Vec::new());
        let wanted = wanted.clone();
        Ok(Self { session, wanted, table, compression, copy, batch, bson, documents: 0, transaction })
    }

    fn send(&mut self, stop: Stop<'_>) -> anyhow::Result<()> {
        let batch = self.batch.split().freeze();
        let Some(copy) = &mut self.copy else { bail!("all documents have been written already") };
        let sent = self.session.wait(stop, TAKE_WITHIN, copy.send(batch));
        match sent {
            // The server has closed it, and says why at its end.
            Err(error) if !error.is::<crate::repository::documents::Stopped>() => {
                Err(self.end(stop).err().unwrap_or(error))
            }
            sent => sent,
        }
    }

    /// Ends the copy; gives how many rows the server took.
    fn end(&mut self, stop: Stop<'_>) -> anyhow::Result<u64> {
        let Some(mut copy) = self.copy.take() else { bail!("all documents have been written already") };
        self.session.wait(stop, TAKE_WITHIN, copy.as_mut().finish())
    }
}

impl DocumentSink for Replacement {
    fn write(&mut self, line: &[u8], stop: &dyn Fn() -> bool) -> anyhow::Result<()> {
        self.bson.clear();
        let scanned =
            from_json(line, &mut self.bson).with_context(|| format!("write document {}", self.documents + 1))?;
        let content = match self.compression {
            Compression::None => &self.bson,
            Compression::Gzip => &gzip(&self.bson),
        };
        let doing = || format!("write document `{}`", scanned.id);
        let len = |bytes: &[u8]| i32::try_from(bytes.len()).with_context(doing);
        self.batch.put_i16(2);
        for value in [scanned.id.as_bytes(), content] {
            self.batch.put_i32(len(value)?);
            self.batch.put_slice(value);
        }
        self.documents += 1;
        if self.batch.len() < BATCH_BYTES {
            return Ok(());
        }
        let shown = self.table.shown();
        self.send(stop).with_context(|| format!("write documents to {shown}"))
    }

    fn finish(&mut self, stop: &dyn Fn() -> bool) -> anyhow::Result<u64> {
        let shown = self.table.shown();
        let doing = || format!("write documents to {shown}");
        self.batch.put_i16(-1);
        self.send(stop).with_context(doing)?;
        let taken = self.end(stop).with_context(doing)?;
        let sql = format!("SELECT count(*)::text FROM {}", self.table.quoted);
        let rows = self.session.rows_unless(stop, &doing(), &sql, &[])?;
        let there: u64 = text(rows.first().context("count documents")?, 0)?.parse().context("count documents")?;
        let written = self.documents;
        ensure!(
            taken == written && there == written,
            "{}: {written} were sent, {taken} taken, and {there} are there; nothing was changed",
            doing()
        );
        Ok(written)
    }

    fn commit(self: Box<Self>) -> anyhow::Result<()> {
        let shown = self.table.shown();
        let doing = || format!("commit the documents of {shown}");
        ensure!(self.copy.is_none(), "{}: not all have been written", doing());
        let Err(error) = self.session.batch("commit", "COMMIT") else { return Ok(()) };
        // The answer may be what was lost.
        let asked = self.transaction.as_ref().map(|transaction| {
            let session = Session::open(&self.wanted)?;
            text(&session.row("ask", "SELECT coalesce(txid_status($1::bigint), '')", &[transaction])?, 0)
        });
        match asked {
            Some(Ok(status)) if status == "committed" => Ok(()),
            Some(Ok(status)) if status == "aborted" => {
                Err(error).with_context(|| format!("{}: it has the old ones", doing()))
            }
            _ => Err(CommitUnknown::of_table(&error)).with_context(doing),
        }
    }
}

/// How the documents are kept that are there; as they are, if there are none.
fn compression(session: &Session, table: &Table) -> anyhow::Result<Compression> {
    let Table { quoted, content, .. } = table;
    let sql =
        format!("SELECT substring({content} FROM 1 FOR 4), octet_length({content}) FROM {quoted} LIMIT {SAMPLED}");
    let mut packed = 0_usize;
    let rows = session.rows(&format!("look at the documents in {}", table.shown()), &sql, &[])?;
    for row in &rows {
        let beginning: &[u8] = row.try_get(0).context("look at a document")?;
        let len: i32 = row.try_get(1).context("look at a document")?;
        let compression = compression_of(beginning, usize::try_from(len).context("look at a document")?);
        packed += usize::from(compression == Some(Compression::Gzip));
    }
    Ok(if packed * 2 > rows.len() { Compression::Gzip } else { Compression::None })
}
