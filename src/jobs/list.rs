//! The lists of binaries of a restore point: sorted text, compressed, each adding to the ones before it.
//!
//! A new point adds a list of what changed. So that there are never many lists, it takes in those before it that are
//! not much longer, as a log-structured merge does: a binary is written anew a few times in its life, whatever the
//! size of the store.

use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context as _, bail};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use super::context::{Destination, RunContext, is_cancelled};
use super::download::{Expected, fetch_checked, store_error};
use super::upload::{Manner, PartSink, stream_object};
use crate::ledger::{Ledger, Listed, Scratch, SeriesId};
use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::model::point::{ListFile, PointName};
use crate::model::shard::Shard;
use crate::store::ErrorKind;

/// The longest line there can be: a sign, 64 digits, a size.
const LINE_LIMIT: u64 = 128;
/// A list is taken into a new one unless it is longer than the new one times this.
const MERGE_RATIO: u64 = 2;
/// The name of a list in the directory of its point.
const FILE: &str = "binaries.gz";

/// Writes one line.
fn write_line(out: &mut dyn Write, digest: &Digest, bytes: Option<u64>) -> std::io::Result<()> {
    match bytes {
        Some(bytes) => writeln!(out, "+ {digest} {bytes}"),
        None => writeln!(out, "- {digest}"),
    }
}

fn parse_line(line: &str) -> Option<(Digest, Option<u64>)> {
    if let Some(digest) = line.strip_prefix("- ") {
        return Some((digest.parse().ok()?, None));
    }
    let (digest, bytes) = line.strip_prefix("+ ")?.split_once(' ')?;
    Some((digest.parse().ok()?, Some(bytes.parse().ok()?)))
}

/// Reads a decompressed list, which must be in order and hold each binary once.
fn read_lines(list: impl Read, mut visit: impl FnMut(Digest, Option<u64>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut list = BufReader::new(list);
    let mut line = String::new();
    let mut last = None;
    for number in 1_u64.. {
        line.clear();
        if list.by_ref().take(LINE_LIMIT).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let parsed = line.strip_suffix('\n').and_then(parse_line);
        let Some((digest, bytes)) = parsed.filter(|(digest, _)| last < Some(*digest)) else {
            bail!("line {number} is not a binary, or out of order: {:?}", line.trim_end());
        };
        last = Some(digest);
        visit(digest, bytes)?;
    }
    unreachable!("the numbers do not end")
}

/// Fetches lists in order and applies each to `into`: what one takes away is gone, or is kept as taken away if
/// `removals` says so.
pub async fn read_lists(
    run: &RunContext,
    destination: &Destination,
    lists: &[ListFile],
    mut into: Scratch,
    removals: Removals,
) -> anyhow::Result<Scratch> {
    for list in lists {
        let expected = Expected { bytes: list.bytes, digest: list.sha1 };
        into = fetch_checked(run, destination, &list.key, expected, move |run, reader| {
            let mut lines = 0_u64;
            read_lines(GzDecoder::new(BufReader::new(reader)), |digest, bytes| {
                lines += 1;
                if lines.is_multiple_of(4096) {
                    run.go_on()?;
                }
                if bytes.is_some() || removals == Removals::Kept {
                    into.put(&Listed { digest, bytes, mark: 0 })
                } else {
                    into.take(&digest).map(drop)
                }
            })?;
            Ok(into)
        })
        .await
        .with_context(|| format!("read the list `{}`", list.key))?;
    }
    Ok(into)
}

/// A list of a shard that has binaries of others in it is damaged, or forged.
pub fn check_within(listed: Scratch, shard: Option<Shard>) -> anyhow::Result<Scratch> {
    if let Some(shard) = shard
        && let Some((first, last)) = listed.ends()?
    {
        let outside = [first, last].into_iter().find(|digest| !shard.contains(digest));
        if let Some(digest) = outside {
            bail!("binary {digest} does not belong to the shard {shard} that it is listed in: the list is damaged");
        }
    }
    Ok(listed)
}

/// What becomes of a binary that a list takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removals {
    /// It is out of the set.
    Applied,
    /// It stays in the set as taken away, because an earlier list that has it is not in the set.
    Kept,
}

/// The lists of a new point: those of the last one that still serve, and one with the changes.
pub async fn write_lists(
    run: &RunContext,
    destination: &Destination,
    series: SeriesId,
    last: &[ListFile],
    point: &PointName,
) -> anyhow::Result<Vec<ListFile>> {
    let totals = run.blocking(move |run| run.ledger.count_changes(series)).await?;
    let mut lists = last.to_vec();
    if !all_there(destination, &lists).await? {
        run.report.notice(
            "list",
            point.to_string(),
            "a list of an earlier restore point is gone: writing the whole list anew",
        );
        lists.clear();
    }
    let mut length = totals.lines;
    if length == 0 && !lists.is_empty() {
        return Ok(lists);
    }
    let mut absorbed = Vec::new();
    while let Some(list) = lists.pop_if(|list| list.added + list.removed <= MERGE_RATIO * length) {
        length += list.added + list.removed;
        absorbed.push(list);
    }
    absorbed.reverse();
    let key = Key::in_point(point, FILE);
    let mut earlier = None;
    if !lists.is_empty() && !absorbed.is_empty() {
        let scratch = run.blocking(|run| run.ledger.scratch()).await?;
        match read_lists(run, destination, &absorbed, scratch, Removals::Kept).await {
            Ok(set) => earlier = Some(set),
            Err(error) if is_cancelled(&error) || store_error(&error).is_some() => return Err(error),
            Err(error) => {
                run.report.notice("list", point.to_string(), format!("{error:#}: writing the whole list anew"));
                lists.clear();
            }
        }
    }
    let whole = lists.is_empty();
    let streamed = stream_object(run, destination, &key, &Manner::alone(), move |run, sink| {
        let mut lines = Lines::new(sink);
        match earlier {
            Some(earlier) => merge_changes(&run.ledger, series, &earlier, &mut lines)?,
            None if whole => write_whole(&run.ledger, series, &mut lines)?,
            None => each_change(&run.ledger, series, |digest, bytes| lines.write(&digest, bytes))?,
        }
        lines.finish()
    })
    .await?;
    let (bytes, sha1) = (streamed.bytes, streamed.digest);
    let ((added, removed), result) = streamed.commit(run, destination).await?;
    result?;
    lists.push(ListFile { key, sha1, bytes, added, removed });
    Ok(lists)
}

/// Whether the lists that a new point would build on still lie there.
async fn all_there(destination: &Destination, lists: &[ListFile]) -> anyhow::Result<bool> {
    for list in lists {
        match destination.store.head(&list.key).await {
            Ok(found) if found.bytes == list.bytes => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// A list on its way, with its counts.
struct Lines<'a> {
    out: GzEncoder<&'a mut PartSink>,
    added: u64,
    removed: u64,
}

impl<'a> Lines<'a> {
    fn new(sink: &'a mut PartSink) -> Self {
        Self { out: GzEncoder::new(sink, Compression::default()), added: 0, removed: 0 }
    }

    fn write(&mut self, digest: &Digest, bytes: Option<u64>) -> anyhow::Result<()> {
        *if bytes.is_some() { &mut self.added } else { &mut self.removed } += 1;
        Ok(write_line(&mut self.out, digest, bytes)?)
    }

    fn finish(self) -> anyhow::Result<(u64, u64)> {
        self.out.finish()?;
        Ok((self.added, self.removed))
    }
}

fn each_change(
    ledger: &Ledger,
    series: SeriesId,
    mut visit: impl FnMut(Digest, Option<u64>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let page = ledger.changes_after(series, after.as_ref())?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        page.into_iter().try_for_each(|(digest, bytes)| visit(digest, bytes))?;
    }
}

fn merge_changes(ledger: &Ledger, series: SeriesId, set: &Scratch, lines: &mut Lines<'_>) -> anyhow::Result<()> {
    each_change(ledger, series, |digest, bytes| set.put(&Listed { digest, bytes, mark: 0 }))?;
    set.each(|binary| lines.write(&binary.digest, binary.bytes))
}

/// Everything that is in the repository: the members of the last point with the changes applied, in order.
fn write_whole(ledger: &Ledger, series: SeriesId, lines: &mut Lines<'_>) -> anyhow::Result<()> {
    let mut changes =
        super::cursor::Cursor::new(|after: Option<&Digest>| ledger.changes_after(series, after), |row| row.0);
    let mut members =
        super::cursor::Cursor::new(|after: Option<&Digest>| ledger.members_after(series, after), |row| row.0);
    while let Some((digest, bytes)) = members.take()? {
        while let Some((earlier, added)) = changes.take_if(|change| change.0 < digest)? {
            if added.is_some() {
                lines.write(&earlier, added)?;
            }
        }
        let bytes = changes.take_if(|change| change.0 == digest)?.map_or(bytes, |(_, changed)| changed);
        if bytes.is_some() {
            lines.write(&digest, bytes)?;
        }
    }
    while let Some((digest, added)) = changes.take()? {
        if added.is_some() {
            lines.write(&digest, added)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Algorithm;

    #[test]
    fn lines_round_trip() {
        let digest = Digest::of(Algorithm::Sha1, b"x");
        for bytes in [Some(0), Some(u64::MAX), None] {
            let mut line = Vec::new();
            write_line(&mut line, &digest, bytes).unwrap();
            let line = String::from_utf8(line).unwrap();
            assert_eq!(parse_line(line.trim_end()), Some((digest, bytes)));
        }
    }

    #[test]
    fn a_list_out_of_order_cut_or_foreign_is_refused() {
        let [a, b] = ["1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222"];
        let read = |text: String| read_lines(text.as_bytes(), |_, _| Ok(()));
        assert!(read(format!("+ {a} 1\n- {b}\n")).is_ok());
        for text in [
            format!("+ {b} 1\n+ {a} 1\n"),
            format!("+ {a} 1\n+ {a} 1\n"),
            format!("+ {a} 1"),
            format!("+ {a}\n"),
            format!("{a} 1\n"),
            format!("+ {a} {}\n", "1".repeat(200)),
        ] {
            assert!(read(text.clone()).is_err(), "{text}");
        }
    }
}
