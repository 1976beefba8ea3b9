//! The copy: brings to the destination what it does not have, one object a binary, and makes a restore point.
//!
//! Documents are read first, then the store is walked; what the last restore point has is passed over by its name
//! alone. Everything sent is recorded in the ledger as it is answered, and the restore point is written last.

mod arrivals;
mod dispatch;
pub mod pending;
mod proof;
mod prove;
mod scan;

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::arrivals::{Arrived, Producer};
use self::dispatch::{Dispatch, record};
use self::proof::Proving;
use self::prove::prove;
use self::scan::{Scan, Scanned};
use super::context::{Destination, Ended, RunContext};
use super::cursor::Cursor;
use super::learn::{learn_objects, learn_point};
use super::list::write_lists;
use super::send::{READERS, Sender};
use super::sidecars::{SidecarRecorder, Suspects};
use super::source::{self, Head, RepositorySource, Reread};
use super::upload::{put_once, sweep_uploads};
use crate::ledger::Series;
use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::model::point::{FORMAT, PointManifest, PointName, SHARD_FORMAT};
use crate::model::shard::Shard;
use crate::repository::walk::Beside;

/// How many binaries are handed on together.
const BATCH: usize = 16;
/// How many batches wait to be read.
const CANDIDATES_AHEAD: usize = 16;
/// How many batches that were read wait to be sent.
const FOUND_AHEAD: usize = 4;
/// How many answers wait to be recorded, and how many are recorded in one transaction.
const CHANGES_AHEAD: usize = 512;
/// After a cut run, how many binaries are looked for before they are sent: more than can be sent and unrecorded.
const LOOKED_FOR: usize = 2 * CHANGES_AHEAD + BATCH * (CANDIDATES_AHEAD + READERS + FOUND_AHEAD) + 256;

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
    /// Whether a store that holds no binaries any more is taken for the truth.
    pub allow_empty: bool,
    /// How many names a scan looks at in a second, at most.
    pub scan_rate: Option<u32>,
}

impl CopyOrder {
    /// The part of the repository that is copied; none if it is the whole.
    fn shard(&self) -> Option<Shard> {
        self.source.binaries.shard()
    }

    /// The same, for a run that builds on the last restore point of its series.
    fn building_on(&self, series: &Series) -> Self {
        let Some(last) = &series.last else { return self.clone() };
        Self { destination: self.destination.building_on(&last.name), ..self.clone() }
    }

    /// The name of the restore point that a run makes.
    fn point_name(&self, run: &RunContext) -> PointName {
        match self.shard() {
            None => PointName::new(run.started, run.id),
            Some(shard) => PointName::of_shard(run.started, run.id, shard, fastrand::u16(..)),
        }
    }
}

/// Runs a copy. Its result is the restore point: a new one, or the last one if nothing changed.
pub async fn copy(run: &RunContext, order: &CopyOrder) -> anyhow::Result<Ended> {
    scan_all(run, order, None).await
}

/// The same for a job, what comes for which is taken meanwhile; if it ends well, what it proved is recorded.
async fn scan_all(run: &RunContext, order: &CopyOrder, arrived: Option<Arc<Arrived>>) -> anyhow::Result<Ended> {
    let proving = match &arrived {
        Some(arrived) => Some(Proving::begin(run, arrived).await?),
        None => None,
    };
    let source = &order.source;
    source.open()?;
    let (before, series) = prepare(run, order).await?;
    let order = &order.building_on(&series);
    let name = order.point_name(run);
    let (head, needed) =
        source::read_head(run, source, &order.destination, &name, &series, Reread::IfIncomplete).await?;
    let Scanned { beside, fresh } = bring_binaries(run, order, &series, arrived).await?;
    if let Some(proving) = &proving {
        let missed = proving.missed(run, &before, &fresh).await?;
        run.report.count(|counts| counts.missed = missed);
    }
    let head = source::read_records(run, source, &order.destination, &name, &series, head, &beside.records).await?;
    prove(run, order, &series, &head, needed).await?;
    run.go_on()?;
    let complete = !run.report.is_partial();
    let ended = finish(run, order, series, name, head, complete).await?;
    if let Some(proving) = proving {
        proving.record(run, &fresh, run.report.counts().missed).await?;
    }
    Ok(ended)
}

/// Opens the series of restore points, having learned what is at the destination if that is not known; gives it as it was
/// found, and as it is now.
async fn prepare(run: &RunContext, order: &CopyOrder) -> anyhow::Result<(Series, Series)> {
    let destination = &order.destination;
    sweep_uploads(run, destination).await?;
    let (id, repository, shard) = (destination.id, order.source.name.clone(), order.shard());
    let open = move |run: &RunContext| {
        let series = run.ledger.series_of(id, &repository, shard)?;
        let learned = run.ledger.is_learned(id, series.id)?;
        Ok((series, learned))
    };
    let (before, learned) = run.blocking(open.clone()).await?;
    let unknown = !learned || order.full;
    if unknown {
        learn_objects(run, destination, before.id, shard).await?;
        learn_point(run, destination, &before, &order.source.name, shard).await?;
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
    Ok((before, series))
}

/// Walks the store and sends what is new, with what comes meanwhile; gives what the walk found.
async fn bring_binaries(
    run: &RunContext,
    order: &CopyOrder,
    series: &Series,
    arrived: Option<Arc<Arrived>>,
) -> anyhow::Result<Scanned> {
    run.report.phase("looking for new binaries", "binaries", None);
    let store = order.source.binaries.clone();
    let suspects = Suspects::new(run, store.layout())?;
    let (candidates_to, candidates) = mpsc::channel(CANDIDATES_AHEAD);
    let (changes_to, changes) = mpsc::channel(CHANGES_AHEAD);
    let closed = CancellationToken::new();
    let producing = {
        let (candidates, changes) = (candidates_to.clone(), changes_to.clone());
        let (store, arrived, closed) = (store.clone(), arrived.clone(), &closed);
        async move {
            let Some(arrived) = arrived else { return Ok(()) };
            let (job, destination, series) = (arrived.job().to_owned(), order.destination.id, series.id);
            let arrivals = run.ledger.arrivals(&job);
            let arrived = Some(arrived);
            let producer = Producer { job, store, destination, series, candidates, changes, arrived };
            producer.run(run, arrivals, closed).await.map(drop)
        }
    };
    let scan = Scan {
        destination: order.destination.id,
        series: series.id,
        candidates: candidates_to,
        changes: changes_to.clone(),
        rate: order.scan_rate,
        arrived: arrived.clone(),
    };
    let scanning = {
        let store = store.clone();
        async {
            let scanned = run.blocking(move |run| scan.run(run, &store)).await;
            if let Some(arrived) = &arrived {
                run.ledger.stop_taking(arrived.job());
            }
            closed.cancel();
            scanned
        }
    };
    let looks = if series.under_way { LOOKED_FOR } else { 0 };
    let sender = Sender::new(run, &order.destination, &store, looks);
    let dispatch = Dispatch { order, sender, suspects: &suspects, scanning: true };
    let recorded = record(run, &order.destination, series, changes);
    let sending = dispatch.run(run, candidates, changes_to);
    let (scanned, produced, sent, recorded) = tokio::join!(scanning, producing, sending, recorded);
    // The ledger's error is the cause where it is one: the others were cut off by it. Then that of a request.
    recorded?;
    sent?;
    let scanned = scanned?;
    produced?;
    classify(run, order, series, &suspects).await?;
    refuse_implausible(run, order, series, &scanned.beside)?;
    source::report_foreign(run, &scanned.beside);
    Ok(scanned)
}

/// Tells sidecars from damage, now that all names are known.
async fn classify(
    run: &RunContext,
    order: &CopyOrder,
    series: &Series,
    suspects: &Arc<Suspects>,
) -> anyhow::Result<()> {
    if !suspects.any() {
        return Ok(());
    }
    let store = order.source.binaries.clone();
    let (series, suspects) = (series.id, Arc::clone(suspects));
    run.blocking(move |run| {
        let mut recorder = SidecarRecorder::new(run, source::store_name(&store));
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
        suspects.explain_from_outside(run, &store, &mut recorder)?;
        recorder.flush()?;
        suspects.report_rest(run)
    })
    .await
}

/// A store that is suddenly empty, or holds nothing of its layout, is more likely a wrong path or a volume that is
/// not mounted than the truth.
fn refuse_implausible(run: &RunContext, order: &CopyOrder, series: &Series, beside: &Beside) -> anyhow::Result<()> {
    let counts = run.report.counts();
    if order.allow_empty || counts.examined > 0 || counts.failed > 0 {
        return Ok(());
    }
    let root = order.source.binaries.root().display();
    let before = series.last.as_ref().map_or(0, |point| point.binaries);
    if before > 0 {
        bail!(
            "scan `{root}`: it holds no binaries, but the last restore point has {before}: is the volume mounted, and is `binaries` right? \
             If it was emptied on purpose, `holdfast run copy.NAME --allow-empty` says so"
        );
    }
    // That a shard is empty says nothing about the layout, where others are not.
    if beside.foreign > 0 && !source::has_others(&order.source.binaries) {
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
    complete: bool,
) -> anyhow::Result<Ended> {
    let (id, last) = (series.id, series.last);
    let totals = run.blocking(move |run| run.ledger.count_changes(id)).await?;
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
        format: if order.shard().is_some() { SHARD_FORMAT } else { FORMAT },
        name: name.clone(),
        repository: order.source.name.clone(),
        shard: order.shard(),
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
    put_once(run, destination, &key, Bytes::from(text.clone())).await?;
    let destination = destination.id;
    run.blocking(move |run| {
        run.ledger.keep_manifest(destination, &key, &text)?;
        run.ledger.record_point(id, &manifest, head.fingerprint.as_deref())
    })
    .await?;
    Ok(Ended { result: Some(name.to_string()), ..Ended::default() })
}
