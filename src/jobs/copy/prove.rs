//! Before the restore point is written: whether it will have all that its documents need.

use std::ops::ControlFlow;

use tokio::sync::mpsc;

use super::dispatch::{Candidate, Dispatch, record};
use super::{CANDIDATES_AHEAD, CHANGES_AHEAD, CopyOrder};
use crate::jobs::closure::{Closure, Needed, name_missing};
use crate::jobs::context::{Cancelled, RunContext};
use crate::jobs::cursor::Cursor;
use crate::jobs::inspect::{Inspected, each_document};
use crate::jobs::restore::contents::Contents;
use crate::jobs::send::Sender;
use crate::jobs::sidecars::Suspects;
use crate::jobs::source::Head;
use crate::ledger::{Listed, Scratch, Series, SeriesId};
use crate::model::digest::Digest;
use crate::model::point::PointManifest;
use crate::model::references::references;

/// Looks for every binary that the documents need among those of the point to be. What is missing is looked for in the
/// store once more, as it may have come after the walk had passed, and named if it is not there.
///
/// Documents that were not read again were proved when they were: they are looked into once more if a binary of the
/// last point is gone.
pub(super) async fn prove(
    run: &RunContext,
    order: &CopyOrder,
    series: &Series,
    head: &Head,
    needed: Option<Needed>,
) -> anyhow::Result<()> {
    let id = series.id;
    let needed = match (needed, &series.last) {
        (Some(needed), _) => needed,
        (None, Some(last)) if !head.documents.files.is_empty() => {
            if run.blocking(move |run| run.ledger.count_changes(id)).await?.removed == 0 {
                return Ok(());
            }
            read_needed(run, order, last.clone()).await?
        }
        _ => return Ok(()),
    };
    let needed = needed.within(order.shard());
    run.report.say("looking for what the documents need");
    let (needed, mut closure, absent) = compare(run, id, needed).await?;
    if closure.missing > 0 {
        send_again(run, order, series, absent).await?;
        let absent;
        (_, closure, absent) = compare(run, id, needed).await?;
        name(run, order, absent).await?;
    }
    closure.count(run);
    if let Some(shard) = order.shard().filter(|_| closure.elsewhere > 0) {
        let message = format!(
            "the documents refer to {} binaries of the shard {shard}, which were looked for, and to {} of other shards, which \
             the restore points of those have to hold",
            closure.references, closure.elsewhere
        );
        run.report.notice("shard", shard.to_string(), message);
    }
    Ok(())
}

/// What the documents need that the point to be has in common with the last one, as they lie at the destination.
async fn read_needed(run: &RunContext, order: &CopyOrder, last: PointManifest) -> anyhow::Result<Needed> {
    let last = Inspected { contents: Contents::Point(last), destination: order.destination.clone() };
    let needed = Needed::new(run)?;
    each_document(run, &last, needed, |needed, line| {
        let mut digests = Vec::new();
        references(line, |digest| digests.push(digest));
        needed.add(&digests)?;
        Ok(ControlFlow::Continue(()))
    })
    .await
}

async fn compare(run: &RunContext, series: SeriesId, mut needed: Needed) -> anyhow::Result<(Needed, Closure, Scratch)> {
    run.blocking(move |run| {
        let absent = run.ledger.scratch()?;
        let mut held = Cursor::new(|after: Option<&Digest>| run.ledger.held_after(series, after), |row| row.0);
        let closure = needed.compare(run, &mut held, |row| row.0, &mut |digest| {
            absent.put(&Listed { digest: *digest, bytes: Some(0), mark: 0 })
        })?;
        Ok((needed, closure, absent))
    })
    .await
}

/// Sends those that are in the store after all.
async fn send_again(run: &RunContext, order: &CopyOrder, series: &Series, absent: Scratch) -> anyhow::Result<()> {
    let store = order.source.binaries.clone();
    let suspects = Suspects::new(run, store.layout())?;
    let (candidates_to, candidates) = mpsc::channel(CANDIDATES_AHEAD);
    let (changes_to, changes) = mpsc::channel(CHANGES_AHEAD);
    let looking = {
        let (store, destination) = (store.clone(), order.destination.id);
        run.blocking(move |run| {
            absent.each(|binary| {
                run.go_on()?;
                // What is damaged has been named by the walk.
                if store.check(&binary.digest, &|| run.stop.is_cancelled()).unwrap_or(false) {
                    let indexed = run.ledger.object(destination, &binary.digest)?;
                    let candidate = Candidate { digest: binary.digest, indexed, pending: None };
                    candidates_to.blocking_send(vec![candidate]).map_err(|_| Cancelled)?;
                }
                Ok(())
            })
        })
    };
    let sender = Sender::new(run, &order.destination, &store, 0);
    let dispatch = Dispatch { order, sender, suspects: &suspects, scanning: false };
    let recorded = record(run, &order.destination, series, changes);
    let (looked, sent, recorded) = tokio::join!(looking, dispatch.run(run, candidates, changes_to), recorded);
    recorded?;
    sent?;
    looked
}

/// Names what is not there; the report keeps the first of them.
async fn name(run: &RunContext, order: &CopyOrder, absent: Scratch) -> anyhow::Result<()> {
    let store = order.source.binaries.clone();
    run.blocking(move |run| {
        absent.each(|binary| {
            run.go_on()?;
            name_missing(run, &store, &binary.digest);
            Ok(())
        })
    })
    .await
}
