//! Reading: all of it as it was at one moment, while others go on writing.

use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;
use anyhow::ensure;
use bytes::Buf as _;
use bytes::Bytes;
use bytes::BytesMut;
use futures_util::StreamExt as _;
use tokio_postgres::CopyOutStream;

use super::session::Session;
use super::session::Stop;
use super::session::text;
use super::table::Table;
use crate::model::database::DocumentTable;
use crate::repository::documents::DocumentReport;
use crate::repository::documents::PackedDocuments;
use crate::repository::documents::Stopped;
use crate::repository::documents::database::CONTENT_LIMIT;
use crate::repository::documents::database::Intake;
use crate::repository::documents::database::PIECE_BYTES;

/// How long the server may take until the next documents come; it may have to sort them first.
const NEXT_WITHIN: Duration = Duration::from_mins(30);
/// How much is taken from the connection at once.
const BATCH_BYTES: usize = 256 << 10;
/// What a copy in the binary form begins with.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// The columns of a row: id, content, and how long that is.
const COLUMNS: i16 = 3;

/// The table as it is at one moment, for as long as this lives.
#[derive(Debug)]
pub(in crate::repository::documents) struct Snapshot {
    session: Session,
    table: Table,
    shown: String,
    documents: u64,
    fingerprint: String,
}

impl Snapshot {
    /// Fixes the moment.
    pub(in crate::repository::documents) fn take(wanted: &DocumentTable, stop: Stop<'_>) -> anyhow::Result<Self> {
        let session = Session::open(wanted)?;
        let table = Table::require(&session, wanted)?;
        // Whoever empties the table with TRUNCATE empties every moment of it, unless it is held before.
        session.batch_unless(
            stop,
            &format!("read {}", table.shown()),
            &format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {} IN ACCESS SHARE MODE",
                table.quoted
            ),
        )?;
        let (documents, fingerprint) = fingerprint(&session, wanted, &table, stop)?;
        Ok(Self { session, shown: format!("{} in {}", table.shown(), wanted.url), table, documents, fingerprint })
    }

    /// What the table looks like: as long as it stays the same, there is nothing new to read.
    pub(in crate::repository::documents) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Reads all documents and hands them to `sink` in files.
    pub(in crate::repository::documents) fn read(
        &self,
        stop: Stop<'_>,
        sink: &mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>,
    ) -> anyhow::Result<DocumentReport> {
        if self.documents == 0 {
            // Restoring no documents at all would empty the repository.
            bail!("read documents of {}: the table is empty; check `url` and `table`", self.shown);
        }
        let doing = || format!("read documents of {}", self.shown);
        let mut intake = Intake::new(sink);
        let oversized = self.read_rows(stop, &mut intake).with_context(doing)?;
        for (id, bytes) in oversized {
            self.read_pieces(stop, &id, bytes, &mut intake).with_context(doing)?;
        }
        let (read, there) = (intake.rows(), self.documents);
        ensure!(read == there, "{}: {read} came, and there are {there}", doing());
        intake.finish()
    }

    /// Reads all rows in the order of the bytes of their ids, which is that of every server and the fastest; gives the
    /// ids and sizes of those that are too large for that.
    fn read_rows(&self, stop: Stop<'_>, intake: &mut Intake<'_>) -> anyhow::Result<Vec<(String, usize)>> {
        let Table { quoted, id, content, .. } = &self.table;
        let sql = format!(
            "COPY (SELECT {id}::text, CASE WHEN octet_length({content}) <= {CONTENT_LIMIT} THEN {content} END, \
             coalesce(octet_length({content}), -1) FROM {quoted} ORDER BY {id}::text COLLATE \"C\") \
             TO STDOUT (FORMAT BINARY)"
        );
        let stream = self.session.wait(stop, NEXT_WITHIN, self.session.client().copy_out(&sql))?;
        let mut copy = Copy {
            session: &self.session,
            stream: Box::pin(stream),
            read: Vec::new(),
            rest: BytesMut::new(),
            ended: false,
        };
        let mut oversized = Vec::new();
        let mut begun = false;
        while let Some(batch) = copy.next_batch(stop)? {
            for message in batch {
                if stop() {
                    return Err(Stopped.into());
                }
                let mut bytes = copy.joined(message);
                if !begun {
                    begun = skip_header(&mut bytes)?;
                }
                while begun && let Some(row) = next_row(&mut bytes)? {
                    match row.content {
                        Some(content) => intake.take(&row.id, &content)?,
                        None if row.bytes < 0 => {
                            intake.begin_damaged(&row.id, "there is nothing in its row")?;
                            intake.end_damaged()?;
                        }
                        None => {
                            let id = String::from_utf8(row.id.to_vec()).context("read the id of a large document")?;
                            oversized.push((id, usize::try_from(row.bytes)?));
                        }
                    }
                }
                copy.rest = BytesMut::from(bytes);
            }
        }
        ensure!(begun && copy.rest[..] == (-1_i16).to_be_bytes(), "the rows ended in the middle");
        Ok(oversized)
    }

    fn read_pieces(&self, stop: Stop<'_>, id: &str, bytes: usize, intake: &mut Intake<'_>) -> anyhow::Result<()> {
        let Table { quoted, id: id_column, content, .. } = &self.table;
        intake.begin_damaged(id.as_bytes(), &format!("it has {bytes} bytes, and 64 MiB is the most"))?;
        let piece = PIECE_BYTES / 3 * 3;
        let sql = format!(
            "SELECT substring({content} FROM $2::integer FOR {piece}) FROM {quoted} WHERE {id_column}::text = $1"
        );
        for from in (0..bytes).step_by(piece) {
            let rows = self.session.rows_unless(stop, "read a large document", &sql, &[id, &(from + 1).to_string()])?;
            let row = rows.first().context("read a large document: it is gone")?;
            intake.damaged_piece(row.try_get(0).context("read a large document")?)?;
        }
        intake.end_damaged()
    }
}

/// How many documents there are, and a value over the versions of all rows, which are a number each in PostgreSQL.
///
/// These numbers go round, and begin again from an earlier one where a server was set back to an earlier time, which
/// then is on another timeline.
fn fingerprint(
    session: &Session,
    wanted: &DocumentTable,
    table: &Table,
    stop: Stop<'_>,
) -> anyhow::Result<(u64, String)> {
    let version = session.row("look at the server", "SELECT current_setting('server_version_num')", &[])?;
    let id = &table.id;
    let hash = if text(&version, 0)?.parse::<u32>().is_ok_and(|version| version >= 110_000) {
        format!("hashtextextended({id}::text || ' ' || xmin::text, 0)")
    } else {
        format!("('x' || substr(md5({id}::text || ' ' || xmin::text), 1, 15))::bit(60)::bigint")
    };
    let sql = format!(
        "SELECT count(*)::text, coalesce(sum({hash}), 0)::text, '{literal}'::regclass::oid::text, \
         (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())::text FROM {quoted}",
        quoted = table.quoted,
        literal = table.quoted.replace('\'', "''"),
    );
    let rows = session.rows_unless(stop, &format!("look at {}", table.shown()), &sql, &[])?;
    let row = rows.first().context("look at the table: there is no answer")?;
    let documents = text(row, 0)?.parse().context("count documents")?;
    let [sum, oid, timeline] = [1, 2, 3].map(|column| text(row, column));
    Ok((documents, format!("{} {} {} {documents} {}", wanted.url, oid?, timeline?, sum?)))
}

/// The rows as they come.
struct Copy<'a> {
    session: &'a Session,
    stream: Pin<Box<CopyOutStream>>,
    read: Vec<Bytes>,
    /// The beginning of what comes next.
    rest: BytesMut,
    ended: bool,
}

impl Copy<'_> {
    /// What has come, at least something; none at the end.
    fn next_batch(&mut self, stop: Stop<'_>) -> anyhow::Result<Option<std::vec::IntoIter<Bytes>>> {
        if self.ended {
            return Ok(None);
        }
        let (stream, read, ended) = (&mut self.stream, &mut self.read, &mut self.ended);
        let reading = async {
            let mut bytes = 0;
            while bytes < BATCH_BYTES && !*ended {
                match stream.next().await {
                    Some(message) => {
                        let message = message?;
                        bytes += message.len();
                        read.push(message);
                    }
                    None => *ended = true,
                }
            }
            Ok(())
        };
        self.session.wait(stop, NEXT_WITHIN, reading)?;
        Ok(Some(std::mem::take(&mut self.read).into_iter()))
    }

    /// The message behind what was left of the ones before.
    fn joined(&mut self, message: Bytes) -> Bytes {
        if self.rest.is_empty() {
            return message;
        }
        let mut joined = std::mem::take(&mut self.rest);
        joined.extend_from_slice(&message);
        joined.freeze()
    }
}

/// Takes the header away; false if not all of it is there.
fn skip_header(bytes: &mut Bytes) -> anyhow::Result<bool> {
    let fixed = SIGNATURE.len() + 8;
    if bytes.len() < fixed {
        return Ok(false);
    }
    ensure!(bytes.starts_with(SIGNATURE), "the rows do not begin as they should");
    let extension = (&bytes[SIGNATURE.len() + 4..fixed]).get_u32();
    ensure!(extension < 1 << 16, "the rows do not begin as they should");
    let whole = fixed + usize::try_from(extension)?;
    if bytes.len() < whole {
        return Ok(false);
    }
    bytes.advance(whole);
    Ok(true)
}

/// A row of a copy.
struct CopiedRow {
    id: Bytes,
    content: Option<Bytes>,
    bytes: i32,
}

/// Takes a row away; none if not all of it is there, or the end is reached.
fn next_row(bytes: &mut Bytes) -> anyhow::Result<Option<CopiedRow>> {
    let mut rest = bytes.clone();
    if rest.len() < 2 {
        return Ok(None);
    }
    let columns = rest.get_i16();
    if columns == -1 {
        return Ok(None);
    }
    ensure!(columns == COLUMNS, "a row has {columns} columns, not {COLUMNS}");
    let mut values = [const { None }; 3];
    for value in &mut values {
        if rest.len() < 4 {
            return Ok(None);
        }
        let len = rest.get_i32();
        if len < 0 {
            continue;
        }
        let len = usize::try_from(len)?;
        if rest.len() < len {
            return Ok(None);
        }
        *value = Some(rest.split_to(len));
    }
    let [id, content, size] = values;
    let size = size.filter(|size| size.len() == 4).context("a row does not say how large its document is")?;
    *bytes = rest;
    Ok(Some(CopiedRow { id: id.unwrap_or_default(), content, bytes: (&size[..]).get_i32() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &[u8], content: Option<&[u8]>) -> Vec<u8> {
        let len = |bytes: &[u8]| i32::try_from(bytes.len()).unwrap().to_be_bytes();
        let mut row = vec![0, 3];
        row.extend([&len(id)[..], id].concat());
        match content {
            Some(content) => row.extend([&len(content)[..], content].concat()),
            None => row.extend((-1_i32).to_be_bytes()),
        }
        row.extend([0, 0, 0, 4, 0, 0, 0, 9]);
        row
    }

    #[test]
    fn rows_are_taken_out_of_any_pieces() {
        let whole = [SIGNATURE, &[0; 8], &row(b"a", Some(b"xyz")), &row(b"b", None), &[0xff, 0xff]].concat();
        for cut in 0..=whole.len() {
            let mut rest = BytesMut::new();
            let (mut begun, mut found) = (false, Vec::new());
            for piece in [&whole[..cut], &whole[cut..]] {
                rest.extend_from_slice(piece);
                let mut bytes = rest.freeze();
                if !begun {
                    begun = skip_header(&mut bytes).unwrap();
                }
                while begun && let Some(row) = next_row(&mut bytes).unwrap() {
                    found.push((row.id, row.content, row.bytes));
                }
                rest = BytesMut::from(bytes);
            }
            let expected = [("a".into(), Some("xyz".into()), 9), ("b".into(), None, 9)];
            assert_eq!(found, expected, "{cut}");
            assert_eq!(rest[..], [0xff, 0xff]);
        }
    }

    #[test]
    fn what_is_no_copy_is_refused() {
        assert!(skip_header(&mut Bytes::from_static(b"PGCOPY\n\xff\r\n\x01\0\0\0\0\0\0\0\0")).is_err());
        assert!(next_row(&mut Bytes::from_static(&[0, 2])).is_err());
    }
}
