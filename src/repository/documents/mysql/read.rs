//! Reading: all of it as it was at one moment, while others go on writing.

use std::time::Duration;

use anyhow::Context as _;
use anyhow::anyhow;
use anyhow::bail;
use anyhow::ensure;
use mysql_async::Row;
use mysql_async::prelude::Queryable as _;

use super::session::Session;
use super::session::Stop;
use super::table::Table;
use crate::model::database::DocumentTable;
use crate::repository::documents::DocumentReport;
use crate::repository::documents::PackedDocuments;
use crate::repository::documents::Stopped;
use crate::repository::documents::database::CONTENT_LIMIT;
use crate::repository::documents::database::Intake;
use crate::repository::documents::database::PIECE_BYTES;

/// How long the server may take until the next documents come.
const NEXT_WITHIN: Duration = Duration::from_mins(30);
/// How much is taken from the connection at once.
const BATCH_BYTES: usize = 256 << 10;
/// What the server needs in a packet beside a document.
const PACKET_MARGIN: usize = 64 << 10;

/// The table as it is at one moment, for as long as this lives.
#[derive(Debug)]
pub(in crate::repository::documents) struct Snapshot {
    session: Session,
    table: Table,
    shown: String,
    documents: u64,
    fingerprint: String,
    /// The largest document that comes in one piece.
    whole: usize,
}

impl Snapshot {
    /// Fixes the moment.
    pub(in crate::repository::documents) fn take(wanted: &DocumentTable, stop: Stop<'_>) -> anyhow::Result<Self> {
        let mut session = Session::open(wanted)?;
        let table = Table::require(&mut session, wanted, stop)?;
        let doing = format!("read {}", table.shown);
        session.run(stop, &doing, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")?;
        session.run(stop, &doing, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")?;
        let (documents, fingerprint) = fingerprint(&mut session, wanted, &table, stop)?;
        let packet: Option<u64> = session.rows(stop, &doing, "SELECT @@max_allowed_packet", ())?.pop();
        let packet = usize::try_from(packet.context("look at the server: there is no answer")?)?;
        let whole = packet.saturating_sub(PACKET_MARGIN).min(CONTENT_LIMIT);
        let shown = format!("{} in {}", table.shown, wanted.url);
        Ok(Self { session, table, shown, documents, fingerprint, whole })
    }

    /// What the table looks like: as long as it stays the same, there is nothing new to read.
    pub(in crate::repository::documents) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Reads all documents and hands them to `sink` in files.
    pub(in crate::repository::documents) fn read(
        &mut self,
        stop: Stop<'_>,
        sink: &mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>,
    ) -> anyhow::Result<DocumentReport> {
        if self.documents == 0 {
            // Restoring no documents at all would empty the repository.
            bail!("read documents of {}: the table is empty; check `url` and `table`", self.shown);
        }
        let doing = format!("read documents of {}", self.shown);
        let mut intake = Intake::new(sink);
        let large = self.read_rows(stop, &mut intake).with_context(|| doing.clone())?;
        for (id, bytes) in large {
            self.read_pieces(stop, &id, bytes, &mut intake).with_context(|| doing.clone())?;
        }
        let (read, there) = (intake.rows(), self.documents);
        ensure!(read == there, "{doing}: {read} came, and there are {there}");
        intake.finish()
    }

    /// Reads all rows in the order of their ids; gives the ids and sizes of those that do not come in one piece.
    fn read_rows(&mut self, stop: Stop<'_>, intake: &mut Intake<'_>) -> anyhow::Result<Vec<(Vec<u8>, usize)>> {
        let Table { quoted, id, content, .. } = &self.table;
        let whole = self.whole;
        let sql = format!(
            "SELECT {id}, CASE WHEN LENGTH({content}) <= {whole} THEN {content} END, LENGTH({content}) FROM {quoted} \
             ORDER BY {id}"
        );
        let (waiter, conn) = self.session.parts();
        let mut rows = waiter.wait(stop, NEXT_WITHIN, conn.query_iter(sql))?;
        let mut large = Vec::new();
        let mut ended = false;
        while !ended {
            let mut batch = Vec::new();
            waiter.wait(stop, NEXT_WITHIN, async {
                let mut bytes = 0;
                while bytes < BATCH_BYTES && !ended {
                    match rows.next().await? {
                        Some(row) => {
                            bytes += row.as_ref(1).map_or(0, size_of_value) + 100;
                            batch.push(row);
                        }
                        None => ended = true,
                    }
                }
                Ok(())
            })?;
            for row in batch {
                if stop() {
                    return Err(Stopped.into());
                }
                let (id, content, bytes) = columns(row)?;
                let id = id.unwrap_or_default();
                match (content, bytes) {
                    (Some(content), _) => intake.take(&id, &content)?,
                    (None, Some(bytes)) => large.push((id, bytes)),
                    (None, None) => {
                        intake.begin_damaged(&id, "there is nothing in its row")?;
                        intake.end_damaged()?;
                    }
                }
            }
        }
        waiter.wait(stop, NEXT_WITHIN, rows.drop_result())?;
        Ok(large)
    }

    fn read_pieces(&mut self, stop: Stop<'_>, id: &[u8], bytes: usize, intake: &mut Intake<'_>) -> anyhow::Result<()> {
        let Table { quoted, id: id_column, content, .. } = &self.table;
        // A server may send less at once than a document may have.
        let together = bytes <= CONTENT_LIMIT;
        let piece = (self.whole / 2).min(PIECE_BYTES) / 3 * 3;
        ensure!(piece > 0, "the server's max_allowed_packet is too small; raise it to 1M at least");
        if !together {
            intake.begin_damaged(id, &format!("it has {bytes} bytes, and 64 MiB is the most"))?;
        }
        let sql = format!("SELECT SUBSTRING({content}, ?, {piece}) FROM {quoted} WHERE {id_column} = ?");
        let mut whole = Vec::new();
        for from in (0..bytes).step_by(piece) {
            let rows: Vec<Option<Vec<u8>>> =
                self.session.rows(stop, "read a large document", &sql, (from as u64 + 1, id))?;
            let read = rows.into_iter().next().flatten().context("read a large document: it is gone")?;
            if together {
                whole.extend_from_slice(&read);
            } else {
                intake.damaged_piece(&read)?;
            }
        }
        if together { intake.take(id, &whole) } else { intake.end_damaged() }
    }
}

fn size_of_value(value: &mysql_async::Value) -> usize {
    match value {
        mysql_async::Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    }
}

type Columns = (Option<Vec<u8>>, Option<Vec<u8>>, Option<usize>);

fn columns(row: Row) -> anyhow::Result<Columns> {
    // Its own words would show the row.
    mysql_async::from_row_opt(row).map_err(|_| anyhow!("read a row: its columns are not what they should be"))
}

/// How many documents there are, and a value over all ids and contents: here rows have no versions that can be seen.
fn fingerprint(
    session: &mut Session,
    wanted: &DocumentTable,
    table: &Table,
    stop: Stop<'_>,
) -> anyhow::Result<(u64, String)> {
    let Table { quoted, id, content, .. } = table;
    let number = |from| format!("COALESCE(BIT_XOR(CAST(CONV(SUBSTRING(h, {from}, 16), 16, 10) AS UNSIGNED)), 0)");
    let sql = format!(
        "SELECT COUNT(*), {}, {} FROM (SELECT SHA2(CONCAT(SHA2({id}, 256), COALESCE(SHA2({content}, 256), '')), 256) AS h \
         FROM {quoted}) hashed",
        number(1),
        number(17)
    );
    let rows: Vec<(u64, u64, u64)> = session.rows(stop, &format!("look at {}", table.shown), &sql, ())?;
    let (documents, first, second) = rows.into_iter().next().context("look at the table: there is no answer")?;
    Ok((documents, format!("{} {} {documents} {first:016x}{second:016x}", wanted.url, table.shown)))
}
