//! The copy of what a watcher saw: the work of as many binaries as are new, without a walk and without a listing.
//!
//! Such a run stays for a while and takes what comes, so that a day has some hundred restore points and not one for
//! each binary. A file that is not what its name says is left pending: its owner may still be writing to it. What is
//! gone from the repository, and damage, are found by the scan alone.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::arrivals::{Arrived, Producer};
use super::dispatch::{Dispatch, record};
use super::prove::prove;
use super::{CANDIDATES_AHEAD, CHANGES_AHEAD, CopyOrder, finish, scan_all};
use crate::jobs::closure::Needed;
use crate::jobs::context::{Cancelled, Ended, RunContext, is_cancelled};
use crate::jobs::cursor::Cursor;
use crate::jobs::send::Sender;
use crate::jobs::sidecars::{SidecarRecorder, Suspects};
use crate::jobs::source::{self, Head, Reread};
use crate::jobs::upload::sweep_uploads;
use crate::ledger::Series;
use crate::model::digest::Digest;
use crate::model::point::PointName;
use crate::repository::binaries::BinaryStore;

/// How long nothing may have come before a run makes its restore point: a burst ends up in one.
const QUIET: Duration = Duration::from_secs(10);
/// After this time what still is not its name, and was not written to for as long as [`AT_REST`], is for a scan to
/// judge: it may be damage, or a sidecar of an older binary.
const PENDING_FOR_LONG: SignedDuration = SignedDuration::from_hours(1);
/// Nobody writes to a file any more that has not changed for this long.
const AT_REST: Duration = Duration::from_mins(10);

/// How a run takes what is pending.
#[derive(Clone, Debug)]
pub struct Following {
    /// The job, by whose name binaries are pending.
    pub job: String,
    /// How long lies between two restore points while new binaries keep coming.
    pub point_every: Duration,
    /// Fires when others wait for the run to end.
    pub hurry: CancellationToken,
}

/// Runs a copy, after which nothing is pending for its job that was when it began; what it had to leave out is recorded.
/// What comes while it scans is taken at once.
pub async fn copy_all(run: &RunContext, order: &CopyOrder, job: &str) -> anyhow::Result<Ended> {
    let mark = run.blocking(|run| run.ledger.watermark()).await?;
    let _until_the_end = run.ledger.take_pending(job);
    let ended = scan_all(run, order, Some(Arrived::new(job, mark))).await?;
    let job = job.to_owned();
    let left_out = run.report.has_left_out().then(|| run.clock.now());
    run.blocking(move |run| run.ledger.reconcile(&job, mark, left_out)).await?;
    Ok(ended)
}

/// Copies what is pending and what comes meanwhile, and makes a restore point; everything, if more may be new than was
/// seen, or if it is not known what the last copy left.
pub async fn copy_pending(run: &RunContext, order: &CopyOrder, following: &Following) -> anyhow::Result<Ended> {
    order.source.open()?;
    let Some(series) = begin(run, order, &following.job).await? else {
        return copy_all(run, order, &following.job).await;
    };
    follow(run, &order.building_on(&series), following, series).await
}

/// Opens the series, if all of it is known.
async fn begin(run: &RunContext, order: &CopyOrder, job: &str) -> anyhow::Result<Option<Series>> {
    sweep_uploads(run, &order.destination).await?;
    let (id, repository, job) = (order.destination.id, order.source.name.clone(), job.to_owned());
    let shard = order.shard();
    run.blocking(move |run| {
        let series = run.ledger.series_of(id, &repository, shard)?;
        let known = run.ledger.is_learned(id, series.id)? && !run.ledger.is_unwatched(&job)?;
        Ok((known && run.ledger.begin_pending_copy(series.id)?).then_some(series))
    })
    .await
}

async fn follow(run: &RunContext, order: &CopyOrder, following: &Following, series: Series) -> anyhow::Result<Ended> {
    run.report.phase("copying new binaries as they come", "binaries", None);
    let store = &order.source.binaries;
    let name = order.point_name(run);
    let suspects = Suspects::new(run, store.layout())?;
    let arrivals = run.ledger.arrivals(&following.job);
    let (candidates_to, candidates) = mpsc::channel(CANDIDATES_AHEAD);
    let (changes_to, changes) = mpsc::channel(CHANGES_AHEAD);
    let closed = CancellationToken::new();
    let cut = CancellationToken::new();
    let producer = Producer {
        job: following.job.clone(),
        store: store.clone(),
        destination: order.destination.id,
        series: series.id,
        candidates: candidates_to,
        changes: changes_to.clone(),
        arrived: None,
    };
    let ending = async {
        let head = until_due(run, order, following, &series, &name, arrivals.clone(), &cut).await;
        run.ledger.stop_taking(&following.job);
        closed.cancel();
        head
    };
    let sender = Sender::new(run, &order.destination, store, 0);
    let dispatch = Dispatch { order, sender, suspects: &suspects, scanning: false };
    let sending = async {
        let sent = dispatch.run(run, candidates, changes_to).await;
        cut.cancel();
        sent
    };
    let recorded = record(run, &order.destination, &series, changes);
    let producing = producer.run(run, arrivals.clone(), &closed);
    // As in a scan: the ledger's error is the cause where it is one, then that of a request.
    let (head, produced, sent, recorded) = tokio::join!(ending, producing, sending, recorded);
    recorded?;
    sent?;
    let last = produced?;
    let (head, needed) = head?;
    leave_the_rest(run, order, following, &series, &suspects, last).await?;
    if run.report.has_left_out() {
        let job = following.job.clone();
        run.blocking(move |run| run.ledger.mark_left_out(&job, run.clock.now())).await?;
    }
    prove(run, order, &series, &head, needed).await?;
    run.go_on()?;
    let complete = series.last.as_ref().is_some_and(|last| last.complete) && !run.report.is_partial();
    finish(run, order, series, name, head, complete).await
}

/// Waits until the restore point is due, then reads the documents, while binaries go on.
async fn until_due(
    run: &RunContext,
    order: &CopyOrder,
    following: &Following,
    series: &Series,
    name: &PointName,
    mut arrivals: watch::Receiver<()>,
    cut: &CancellationToken,
) -> anyhow::Result<(Head, Option<Needed>)> {
    let last = series.last.as_ref();
    let at_least = last.map_or(Duration::ZERO, |last| until_next(last.created, run.started, following.point_every));
    let quiet = async {
        run.clock.sleep(at_least).await;
        loop {
            tokio::select! {
                biased;
                changed = arrivals.changed() => if changed.is_err() { break },
                () = run.clock.sleep(QUIET.min(following.point_every)) => break,
            }
        }
    };
    tokio::select! {
        () = quiet => {}
        () = run.clock.sleep(following.point_every) => {}
        () = following.hurry.cancelled() => {}
        () = run.stop.cancelled() => {}
        () = cut.cancelled() => return Err(Cancelled.into()),
    }
    run.go_on()?;
    let records = last.map(|last| last.records.clone()).unwrap_or_default();
    match source::read_head(run, &order.source, &order.destination, name, series, Reread::Never).await {
        Ok((head, needed)) => Ok((Head { records, ..head }, needed)),
        Err(error) if is_cancelled(&error) || crate::jobs::download::store_error(&error).is_some() => Err(error),
        // They are written at some time, and this may be it. Those of the last point name nothing that is missing.
        Err(error) => {
            let message = format!("{error:#}: the restore point has those of the last one");
            run.report.notice("documents", order.source.name.clone(), message);
            let documents = last.map(|last| last.documents.clone()).unwrap_or_default();
            Ok((Head { documents, fingerprint: series.documents.clone(), records }, None))
        }
    }
}

/// How long until the next point may be made, if the last one was made at `last`. The clock may have been set.
fn until_next(last: Timestamp, now: Timestamp, every: Duration) -> Duration {
    let since = Duration::try_from(now.duration_since(last)).unwrap_or(every);
    every.saturating_sub(since)
}

/// Takes out what is no binary, and says what stays pending of what was read up to number `last`.
async fn leave_the_rest(
    run: &RunContext,
    order: &CopyOrder,
    following: &Following,
    series: &Series,
    suspects: &std::sync::Arc<Suspects>,
    last: i64,
) -> anyhow::Result<()> {
    let store = order.source.binaries.clone();
    let (job, series, suspects) = (following.job.clone(), series.id, std::sync::Arc::clone(suspects));
    run.blocking(move |run| {
        let root = source::store_name(&store);
        if suspects.any() {
            let mut recorder = SidecarRecorder::new(run, root.clone());
            let mut changes =
                Cursor::new(|after: Option<&Digest>| run.ledger.changes_after(series, after), |row| row.0);
            while let Some((binary, _)) = changes.take()? {
                suspects.explain(&binary, &mut recorder)?;
            }
            recorder.flush()?;
            run.ledger.settle_sidecars(&job, &root, last)?;
            suspects.each_mime_type(|digest| {
                if run.ledger.settle_pending(&job, digest, last)? {
                    run.report.count(|counts| counts.sidecars += 1);
                }
                Ok(())
            })?;
        }
        let left = run.ledger.count_pending(&job, last)?;
        if left > 0 {
            let message =
                format!("{left} files are not what their names say, yet: they stay pending and are looked at again");
            run.report.notice("unsettled", job.clone(), message);
            judge_old(run, &store, &job, last)?;
        }
        Ok(())
    })
    .await
}

/// What nobody writes to any more will not settle: a scan judges it.
fn judge_old(run: &RunContext, store: &BinaryStore, job: &str, last: i64) -> anyhow::Result<()> {
    let now = run.clock.now();
    let long_ago = now.saturating_sub(PENDING_FOR_LONG)?;
    let rests = |digest: &Digest| {
        let age = |modified| std::time::SystemTime::from(now).duration_since(modified);
        store.stamp(digest).map_or(true, |stamp| age(stamp.modified).is_ok_and(|age| age >= AT_REST))
    };
    if run.ledger.pending_since_before(job, last, long_ago)?.iter().any(rests) {
        run.ledger.mark_unwatched(&[job.to_owned()], now)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_due_by_the_last_one_whatever_the_clock_says() {
        let every = Duration::from_mins(5);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-01-01T12:00:00Z");
        for (last, expected) in [
            ("2026-01-01T12:00:00Z", 300),
            ("2026-01-01T11:57:00Z", 120),
            ("2026-01-01T11:55:00Z", 0),
            ("2020-01-01T00:00:00Z", 0),
            // The clock was set back: it is not waited for.
            ("2026-01-01T13:00:00Z", 0),
        ] {
            assert_eq!(until_next(at(last), now, every), Duration::from_secs(expected), "{last}");
        }
    }
}
