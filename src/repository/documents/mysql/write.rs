//! Writing: all documents of the table are replaced in one transaction.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::ensure;
use mysql_async::Params;
use mysql_async::Value;
use mysql_async::prelude::Queryable as _;

use super::session::ServerSaid;
use super::session::Session;
use super::session::Stop;
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
/// How many documents are sent in one statement.
const BATCH: usize = 128;
/// How much of them at most, unless one is larger by itself.
const BATCH_BYTES: usize = 1 << 20;
/// What the server needs in a packet beside a document.
const PACKET_MARGIN: usize = 64 << 10;
/// How many rows are looked at to learn how the table keeps its documents.
const SAMPLED: u32 = 100;

/// New documents for a table, of which nobody sees anything until they are committed.
pub(in crate::repository::documents) struct Replacement {
    session: Session,
    table: Table,
    compression: Compression,
    /// The largest document that the server takes.
    largest: usize,
    batch: Vec<Value>,
    batch_bytes: usize,
    documents: u64,
    finished: bool,
}

impl Replacement {
    /// Takes the documents out of the table, which holds it against all others who write.
    pub(in crate::repository::documents) fn begin(wanted: &DocumentTable, stop: Stop<'_>) -> anyhow::Result<Self> {
        let mut session = Session::open(wanted)?;
        if Table::find(&mut session, wanted, stop)?.is_none() {
            Table::create(&mut session, wanted, stop)?;
        }
        let table = Table::require(&mut session, wanted, stop)?;
        let doing = format!("take the old documents out of {}", table.shown);
        let packet: Option<u64> = session.rows(stop, &doing, "SELECT @@max_allowed_packet", ())?.pop();
        let packet = usize::try_from(packet.context("look at the server: there is no answer")?)?;
        // In this isolation what was deleted, and the gaps around it, cannot be written by others; they read the old.
        session.run(stop, &doing, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")?;
        session.run(stop, &doing, "START TRANSACTION")?;
        let compression = match Compression::set_for(wanted) {
            None => compression(&mut session, &table, stop)?,
            Some(set) => set,
        };
        let delete = format!("DELETE FROM {}", table.quoted);
        let (waiter, conn) = session.parts();
        waiter.wait(stop, TAKE_WITHIN, conn.query_drop(delete)).with_context(|| doing)?;
        let largest = packet.saturating_sub(PACKET_MARGIN);
        let batch = Vec::new();
        Ok(Self { session, table, compression, largest, batch, batch_bytes: 0, documents: 0, finished: false })
    }

    fn send(&mut self, stop: Stop<'_>) -> anyhow::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let Table { quoted, id, content, shown, .. } = &self.table;
        let rows = vec!["(?, ?)"; self.batch.len() / 2].join(", ");
        let sql = format!("INSERT INTO {quoted} ({id}, {content}) VALUES {rows}");
        let values = Params::Positional(std::mem::take(&mut self.batch));
        self.batch_bytes = 0;
        let (waiter, conn) = self.session.parts();
        waiter
            .wait(stop, TAKE_WITHIN, conn.exec_drop(sql, values))
            .with_context(|| format!("write documents to {shown}"))
    }
}

impl DocumentSink for Replacement {
    fn write(&mut self, line: &[u8], stop: &dyn Fn() -> bool) -> anyhow::Result<()> {
        ensure!(!self.finished, "write documents to {}: all have been written already", self.table.shown);
        let mut bson = Vec::new();
        let scanned = from_json(line, &mut bson).with_context(|| format!("write document {}", self.documents + 1))?;
        let id = scanned.id.as_bytes().to_vec();
        let content = match self.compression {
            Compression::None => bson,
            Compression::Gzip => gzip(&bson),
        };
        let bytes = id.len() + content.len();
        ensure!(
            bytes <= self.largest,
            "write document `{}`: it has {bytes} bytes, and the server takes {} at once; raise its max_allowed_packet",
            scanned.id,
            self.largest
        );
        if self.batch_bytes + bytes > BATCH_BYTES.min(self.largest) || self.batch.len() >= 2 * BATCH {
            self.send(stop)?;
        }
        self.batch.extend([Value::Bytes(id), Value::Bytes(content)]);
        self.batch_bytes += bytes;
        self.documents += 1;
        Ok(())
    }

    fn finish(&mut self, stop: &dyn Fn() -> bool) -> anyhow::Result<u64> {
        self.send(stop)?;
        let doing = format!("write documents to {}", self.table.shown);
        let sql = format!("SELECT COUNT(*) FROM {}", self.table.quoted);
        let there: Option<u64> = self.session.rows(stop, &doing, &sql, ())?.pop();
        let (there, written) = (there.unwrap_or_default(), self.documents);
        ensure!(there == written, "{doing}: {written} were sent, and {there} are there; nothing was changed");
        self.finished = true;
        Ok(written)
    }

    fn commit(mut self: Box<Self>) -> anyhow::Result<()> {
        let shown = &self.table.shown;
        let doing = format!("commit the documents of {shown}");
        ensure!(self.finished, "{doing}: not all have been written");
        let (waiter, conn) = self.session.parts();
        let Err(error) = waiter.wait(&|| false, TAKE_WITHIN, conn.query_drop("COMMIT")) else { return Ok(()) };
        if error.is::<ServerSaid>() {
            return Err(error).with_context(|| format!("{doing}: it has the old ones"));
        }
        // The answer may be what was lost, and the server does not know afterwards.
        Err(CommitUnknown::of_table(&error)).context(doing)
    }
}

/// How the documents are kept that are there; as they are, if there are none.
fn compression(session: &mut Session, table: &Table, stop: Stop<'_>) -> anyhow::Result<Compression> {
    let Table { quoted, content, .. } = table;
    let sql = format!("SELECT SUBSTRING({content}, 1, 4), LENGTH({content}) FROM {quoted} LIMIT {SAMPLED}");
    let what = format!("look at the documents in {}", table.shown);
    let rows: Vec<(Option<Vec<u8>>, Option<u64>)> = session.rows(stop, &what, &sql, ())?;
    let is_packed = |(beginning, len): &&(Option<Vec<u8>>, Option<u64>)| {
        let len = usize::try_from(len.unwrap_or_default()).unwrap_or_default();
        beginning.as_deref().and_then(|beginning| compression_of(beginning, len)) == Some(Compression::Gzip)
    };
    let packed = rows.iter().filter(is_packed).count();
    Ok(if packed * 2 > rows.len() { Compression::Gzip } else { Compression::None })
}
