//! The copy: brings to the destination what it does not have, one object a binary, and makes a restore point.
//!
//! Documents are read first, then the store is walked; what the last restore point has is passed over by its name
//! alone. Everything sent is recorded in the ledger as it is answered, and the restore point is written last.

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::context::{Cancelled, Destination, Ended, RunContext};
use super::cursor::Cursor;
use super::learn::{learn_objects, learn_point};
use super::list::write_lists;
use super::send::{Sender, Sent};
use super::sidecars::{SidecarRecorder, Suspects};
use super::source::{self, Head, RepositorySource};
use super::upload::{put_once, sweep_uploads};
use crate::ledger::{Change, DestinationId, Series, SeriesId};
use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::model::point::{FORMAT, PointManifest, PointName};
use crate::repository::walk::{Beside, Found, Walk};

/// How many binaries wait to be sent.
const CANDIDATES_AHEAD: usize = 256;
/// How many answers wait to be recorded, and how many are recorded in one transaction.
const CHANGES_AHEAD: usize = 512;
/// How long the ledger waits for more before it writes: a kill may lose the record of what was sent in that time.
const GATHER: Duration = Duration::from_millis(50);
/// After a cut run, how many binaries are looked for before they are sent: more than can be sent and unrecorded.
const LOOKED_FOR: usize = 2 * CHANGES_AHEAD + CANDIDATES_AHEAD + 256;
/// How many threads walk the store.
const WALKERS: usize = 2;

/// What a copy is to do.
#[derive(Clone, Debug)]
pub struct CopyOrder {
    /// What is copied.
    pub source: RepositorySource,
    /// Where to.
    pub destination: Destination,
    /// How many requests may be under way at once.
    pub parallel: usize,
    /// How long a file must be unchanged before it is read a second time.
    pub settle: Duration,
    /// Whether to list the destination first and repair the index.
    pub full: bool,
}

/// Runs a copy. Its result is the restore point: a new one, or the last one if nothing changed.
pub async fn copy(run: &RunContext, order: &CopyOrder) -> anyhow::Result<Ended> {
    let source = &order.source;
    source.open()?;
    let series = prepare(run, order).await?;
    let name = PointName::new(run.started, run.id);
    let head = source::read_head(run, source, &order.destination, &name, &series).await?;
    let beside = bring_binaries(run, order, &series).await?;
    let head = source::read_records(run, source, &order.destination, &name, &series, head, &beside.records).await?;
    run.go_on()?;
    finish(run, order, series, name, head).await
}

/// Opens the series of restore points, having learned what is at the destination if that is not known.
async fn prepare(run: &RunContext, order: &CopyOrder) -> anyhow::Result<Series> {
    let destination = &order.destination;
    sweep_uploads(run, destination).await?;
    let (id, repository) = (destination.id, order.source.name.clone());
    let open = move |run: &RunContext| {
        let series = run.ledger.series(id, &repository)?;
        Ok((series, run.ledger.is_learned(id)?))
    };
    let (series, learned) = run.blocking(open.clone()).await?;
    let unknown = !learned || order.full;
    if unknown {
        learn_objects(run, destination).await?;
        learn_point(run, destination, &series, &order.source.name).await?;
    }
    let (mut series, _) = run.blocking(open).await?;
    let of = series.id;
    let lost = run.blocking(move |run| run.ledger.begin_copy(id, of)).await?;
    if lost > 0 {
        run.report.notice(
            "missing",
            &order.destination.name,
            format!(
                "{lost} binaries of the last restore point are not at the destination, or not whole: those that the repository has are sent again"
            ),
        );
    }
    // What has just been listed need not be looked for.
    series.under_way &= !unknown;
    Ok(series)
}

/// Walks the store and sends what is new; gives what lay beside the binaries.
async fn bring_binaries(run: &RunContext, order: &CopyOrder, series: &Series) -> anyhow::Result<Beside> {
    run.report.phase("looking for new binaries", "binaries", None);
    let store = order.source.binaries.clone();
    let suspects = Suspects::new(run, store.layout())?;
    let (candidates_to, candidates) = mpsc::channel(CANDIDATES_AHEAD);
    let (changes_to, changes) = mpsc::channel(CHANGES_AHEAD);
    let scan = Scan {
        destination: order.destination.id,
        series: series.id,
        candidates: candidates_to,
        changes: changes_to.clone(),
    };
    let scanned = {
        let store = store.clone();
        run.blocking(move |run| scan.run(run, &store))
    };
    let looks = if series.under_way { LOOKED_FOR } else { 0 };
    let sender = Sender::new(run, &order.destination, &store, order.settle, looks);
    let dispatch = Dispatch { order, sender, suspects: &suspects };
    let recorded = record(run, &order.destination, series, changes);
    let (scanned, sent, recorded) = tokio::join!(scanned, dispatch.run(run, candidates, changes_to), recorded);
    // The ledger's error is the cause where it is one: the others were cut off by it. Then that of a request.
    recorded?;
    sent?;
    let beside = scanned?;
    classify(run, order, series, &suspects).await?;
    refuse_implausible(run, order, series, &beside)?;
    source::report_foreign(run, &beside);
    Ok(beside)
}

/// A binary that the last restore point does not have, and its size at the destination where the index knows it.
type Candidate = (Digest, Option<u64>);

/// The walk, merged with what the last restore point has.
struct Scan {
    destination: DestinationId,
    series: SeriesId,
    candidates: mpsc::Sender<Candidate>,
    changes: mpsc::Sender<Change>,
}

impl Scan {
    fn run(self, run: &RunContext, store: &crate::repository::binaries::BinaryStore) -> anyhow::Result<Beside> {
        let root = source::store_name(store);
        let series = self.series;
        let mut members =
            Cursor::new(|after: Option<&Digest>| run.ledger.unchanged_members_after(series, after), |member| member.0);
        let mut sidecars =
            Cursor::new(|after: Option<&Digest>| run.ledger.sidecars_after(&root, after), |digest| *digest);
        let mut walk = Walk::begin(store, WALKERS)?;
        for found in &mut walk {
            run.go_on()?;
            match found {
                Found::Binaries(batch) => {
                    let mut known_sidecars = 0;
                    for digest in &batch {
                        while let Some((gone, _)) = members.take_if(|member| member.0 < *digest)? {
                            self.gone(run, gone)?;
                        }
                        if members.take_if(|member| member.0 == *digest)?.is_some() {
                            continue;
                        }
                        while sidecars.take_if(|sidecar| sidecar < digest)?.is_some() {}
                        if sidecars.take_if(|sidecar| sidecar == digest)?.is_some() {
                            known_sidecars += 1;
                            continue;
                        }
                        // Asked here, where waiting for the ledger's writer holds up nobody else.
                        let indexed = run.ledger.object(self.destination, digest)?;
                        self.candidates.blocking_send((*digest, indexed)).map_err(|_| Cancelled)?;
                    }
                    let examined = batch.len() as u64;
                    run.report.count(|counts| {
                        counts.examined += examined;
                        counts.sidecars += known_sidecars;
                    });
                    run.report.advance(examined);
                }
                Found::Unreadable { digits, path, cause } => {
                    run.report.count(|counts| counts.failed += 1);
                    run.report.problem("unreadable", path.display().to_string(), format!("read directory: {cause}"));
                    let text = |digest: &Digest| digest.to_string();
                    while let Some((gone, _)) = members.take_if(|member| text(&member.0) < digits)? {
                        self.gone(run, gone)?;
                    }
                    // What cannot be seen is not gone.
                    while members.take_if(|member| text(&member.0).starts_with(&digits))?.is_some() {}
                }
            }
        }
        while let Some((gone, _)) = members.take()? {
            self.gone(run, gone)?;
        }
        Ok(walk.beside())
    }

    fn gone(&self, run: &RunContext, digest: Digest) -> anyhow::Result<()> {
        run.report.count(|counts| counts.removed += 1);
        Ok(self.changes.blocking_send(Change::Removed(digest)).map_err(|_| Cancelled)?)
    }
}

/// Sends candidates, as many at once as the order says.
struct Dispatch<'a> {
    order: &'a CopyOrder,
    sender: Sender,
    suspects: &'a Suspects,
}

impl Dispatch<'_> {
    async fn run(
        &self,
        run: &RunContext,
        mut candidates: mpsc::Receiver<Candidate>,
        changes: mpsc::Sender<Change>,
    ) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        while let Some((digest, indexed)) = candidates.recv().await
            && !run.stop.is_cancelled()
        {
            let sender = self.sender.clone();
            tasks.spawn(async move { anyhow::Ok((digest, sender.send(digest, indexed).await?)) });
            while tasks.len() >= self.order.parallel {
                self.take(run, tasks.join_next().await.expect("tasks are under way"), &changes).await?;
            }
        }
        drop(candidates);
        while let Some(ended) = tasks.join_next().await {
            self.take(run, ended, &changes).await?;
        }
        run.go_on()
    }

    async fn take(
        &self,
        run: &RunContext,
        ended: Result<anyhow::Result<(Digest, Sent)>, tokio::task::JoinError>,
        changes: &mpsc::Sender<Change>,
    ) -> anyhow::Result<()> {
        let (digest, sent) = match ended? {
            Ok(sent) => sent,
            // One that stops must not cut off the others, whose answers are waited for and recorded.
            Err(_) if run.stop.is_cancelled() => return Ok(()),
            Err(error) => return Err(error),
        };
        let change = |bytes, new_object| Change::Added { digest, bytes, new_object };
        match sent {
            Sent::Stored { bytes } => {
                run.report.count(|counts| {
                    counts.copied += 1;
                    counts.bytes += bytes;
                });
                changes.send(change(bytes, true)).await.map_err(|_| Cancelled)?;
            }
            Sent::Present { bytes } => {
                run.report.count(|counts| counts.skipped += 1);
                changes.send(change(bytes, true)).await.map_err(|_| Cancelled)?;
            }
            Sent::Suspect { bytes, small } => self.suspects.add(digest, bytes, small.as_deref())?,
            Sent::Vanished => run.report.count(|counts| counts.vanished += 1),
            Sent::Unreadable(error) => {
                self.suspects.add_unread(digest)?;
                run.report.count(|counts| counts.failed += 1);
                run.report.problem("unreadable", digest.to_string(), format!("read binary: {error}"));
            }
            Sent::Refused(message) => {
                self.suspects.add_unread(digest)?;
                run.report.count(|counts| counts.failed += 1);
                run.report.problem("refused", digest.to_string(), message);
            }
        }
        Ok(())
    }
}

/// Records what was found out, many at a time, until everybody who could find out more is done.
async fn record(
    run: &RunContext,
    destination: &Destination,
    series: &Series,
    mut changes: mpsc::Receiver<Change>,
) -> anyhow::Result<()> {
    let mut batch = Vec::with_capacity(CHANGES_AHEAD);
    while changes.recv_many(&mut batch, CHANGES_AHEAD).await > 0 {
        if batch.len() < CHANGES_AHEAD / 2 && !changes.is_closed() {
            run.clock.sleep(GATHER).await;
            while batch.len() < CHANGES_AHEAD
                && let Ok(change) = changes.try_recv()
            {
                batch.push(change);
            }
        }
        let (destination, series) = (destination.id, series.id);
        batch = run
            .blocking(move |run| {
                run.ledger.record_changes(destination, series, &batch)?;
                batch.clear();
                Ok(batch)
            })
            .await?;
    }
    Ok(())
}

/// Tells sidecars from damage, now that all names are known.
async fn classify(
    run: &RunContext,
    order: &CopyOrder,
    series: &Series,
    suspects: &std::sync::Arc<Suspects>,
) -> anyhow::Result<()> {
    if !suspects.any() {
        return Ok(());
    }
    let root = source::store_name(&order.source.binaries);
    let (series, suspects) = (series.id, std::sync::Arc::clone(suspects));
    run.blocking(move |run| {
        let mut recorder = SidecarRecorder::new(run, root);
        // A sidecar mostly comes with its binary, so that those of this run explain it; all others are many.
        let mut changes = Cursor::new(|after: Option<&Digest>| run.ledger.changes_after(series, after), |row| row.0);
        while let Some((binary, _)) = changes.take()? {
            suspects.explain(&binary, &mut recorder)?;
        }
        let mut names = Cursor::new(|after: Option<&Digest>| suspects.names_after(after), |name| *name);
        while let Some(binary) = names.take()? {
            suspects.explain(&binary, &mut recorder)?;
        }
        let mut members = Cursor::new(|after: Option<&Digest>| run.ledger.members_after(series, after), |row| row.0);
        while suspects.any()
            && let Some((binary, _)) = members.take()?
        {
            suspects.explain(&binary, &mut recorder)?;
        }
        recorder.flush()?;
        suspects.report_rest(run)
    })
    .await
}

/// A store that is suddenly empty, or holds nothing of its layout, is more likely a wrong path or a volume that is
/// not mounted than the truth.
fn refuse_implausible(run: &RunContext, order: &CopyOrder, series: &Series, beside: &Beside) -> anyhow::Result<()> {
    let counts = run.report.counts();
    if counts.examined > 0 || counts.failed > 0 {
        return Ok(());
    }
    let root = order.source.binaries.root().display();
    let before = series.last.as_ref().map_or(0, |point| point.binaries);
    if before > 0 {
        bail!(
            "scan `{root}`: it holds no binaries, but the last restore point has {before}: is the volume mounted, and is `binaries` right?"
        );
    }
    if beside.foreign > 0 {
        bail!(
            "scan `{root}`: none of the {} files or directories in it is a binary of its layout ({}): check `binaries` and `layout`",
            beside.foreign,
            beside.examples.join(", ")
        );
    }
    Ok(())
}

/// Makes a restore point if anything changed since the last one.
async fn finish(
    run: &RunContext,
    order: &CopyOrder,
    series: Series,
    name: PointName,
    head: Head,
) -> anyhow::Result<Ended> {
    let (id, last) = (series.id, series.last);
    let totals = run.blocking(move |run| run.ledger.count_changes(id)).await?;
    let complete = !run.report.is_partial();
    let same = last.as_ref().is_some_and(|last| {
        totals.lines == 0
            && last.documents == head.documents
            && last.records == head.records
            && last.complete == complete
    });
    if same {
        run.blocking(move |run| run.ledger.end_copy(id, head.fingerprint.as_deref())).await?;
        return Ok(Ended { result: last.map(|last| last.name.to_string()), ..Ended::default() });
    }
    run.report.say(format!("writing the restore point {name}"));
    let destination = &order.destination;
    let lists = last.as_ref().map(|last| last.lists.clone()).unwrap_or_default();
    let lists = write_lists(run, destination, id, &lists, &name).await?;
    let (binaries, bytes) = last.as_ref().map_or((0, 0), |last| (last.binaries, last.bytes));
    let manifest = PointManifest {
        format: FORMAT,
        name: name.clone(),
        repository: order.source.name.clone(),
        created: run.started,
        complete,
        documents: head.documents,
        binaries: binaries + totals.added - totals.removed,
        bytes: bytes + totals.added_bytes - totals.removed_bytes,
        lists,
        records: head.records,
    };
    run.go_on()?;
    let key = Key::in_point(&name, "point.json");
    let text = serde_json::to_string_pretty(&manifest)? + "\n";
    put_once(destination, &key, Bytes::from(text.clone())).await?;
    let destination = destination.id;
    run.blocking(move |run| {
        run.ledger.keep_manifest(destination, &key, &text)?;
        run.ledger.record_point(id, &manifest, head.fingerprint.as_deref())
    })
    .await?;
    Ok(Ended { result: Some(name.to_string()), ..Ended::default() })
}
