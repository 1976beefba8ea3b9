//! What is at a destination, learned by listing it: for a ledger that is new, lost or doubted.

use super::catalogue;
use super::context::{Destination, RunContext, is_cancelled};
use super::list::{Removals, check_within, read_lists};
use super::upload::{abandoned, abort, lying};
use crate::ledger::{Listed, Scratch, Series, SeriesId};
use crate::model::key::{BINARIES, Key};
use crate::model::point::PointManifest;
use crate::model::shard::Shard;
use crate::store::{ErrorKind, Lying};

/// Makes the index what a listing of the binaries finds, and takes away uploads that nobody will end. Of the binaries,
/// those in the shard of the series are listed; all if it has none.
pub async fn learn_objects(
    run: &RunContext,
    destination: &Destination,
    series: SeriesId,
    shard: Option<Shard>,
) -> anyhow::Result<()> {
    run.report.phase("listing the destination", "binaries", None);
    let mut listing = run.blocking(|run| run.ledger.scratch()).await?;
    match shard {
        None => listing = list_below(run, destination, BINARIES, listing).await?,
        Some(shard) => {
            for first in shard.bytes() {
                listing = list_below(run, destination, &Key::binaries_below(first), listing).await?;
            }
        }
    }
    let id = destination.id;
    let of = shard.map(|shard| (series, shard));
    let repaired = run.blocking(move |run| run.ledger.replace_objects(id, &listing, of)).await?;
    for digest in &repaired.resized {
        run.report.problem(
            "damaged",
            Key::binary(digest).as_str(),
            "the object at the destination does not have the size it was sent with: take it away by hand, then copy with --full",
        );
    }
    sweep_unknown_uploads(run, destination).await
}

/// Adds the binaries to a listing whose keys begin with `prefix`.
async fn list_below(
    run: &RunContext,
    destination: &Destination,
    prefix: &str,
    mut listing: Scratch,
) -> anyhow::Result<Scratch> {
    let mut token = None;
    loop {
        run.go_on()?;
        let page = destination.store.list(prefix, token.as_ref()).await?;
        run.report.advance(page.objects.len() as u64);
        listing = run
            .blocking(move |_| {
                for object in page.objects {
                    if let Some(digest) = object.key.as_binary() {
                        listing.put(&Listed { digest, bytes: Some(object.bytes), mark: 0 })?;
                    }
                }
                Ok(listing)
            })
            .await?;
        token = page.next;
        if token.is_none() {
            return Ok(listing);
        }
    }
}

/// Aborts what lies unfinished below our prefix, is of no run under way, and was begun so long ago that it can only be
/// left over: others may have a part of the same repository, or another one, on its way to the same prefix.
async fn sweep_unknown_uploads(run: &RunContext, destination: &Destination) -> anyhow::Result<()> {
    let found = match abandoned(run, destination, "").await {
        // Without the right to list uploads, or a store that can, those that the ledger knows of are all we can take away.
        Err(error) if matches!(error.kind, ErrorKind::Denied | ErrorKind::Other) => {
            run.report.notice("upload", destination.name.clone(), format!("{error}"));
            return Ok(());
        }
        found => found?,
    };
    let id = destination.id;
    // Asked for after the listing: an upload is recorded before it begins.
    let live = run.blocking(move |run| run.ledger.live_uploads(id)).await?;
    for unfinished in found.into_iter().filter(|unfinished| !live.contains(&unfinished.key)) {
        abort(destination, &unfinished).await?;
        run.blocking(move |run| run.ledger.end_upload(id, &unfinished.key)).await?;
    }
    Ok(())
}

/// Makes sure that the last restore point of a series is at the destination, with all that a new one takes over from it;
/// if it is not known, or something is gone, the newest one that is there and whole takes its place.
pub async fn learn_point(
    run: &RunContext,
    destination: &Destination,
    series: &Series,
    repository: &str,
    shard: Option<Shard>,
) -> anyhow::Result<()> {
    if let Some(last) = &series.last {
        let manifest = Key::in_point(&last.name, "point.json");
        let gone = match destination.store.head(&manifest).await {
            Ok(_) => lost_of(run, destination, last).await?,
            Err(error) if error.kind == ErrorKind::NotFound => Some(manifest),
            Err(error) => return Err(error.into()),
        };
        let Some(gone) = gone else { return Ok(()) };
        let message = format!("`{gone}` of the last restore point is gone or damaged: nothing is built on that point");
        run.report.notice("point", last.name.to_string(), message);
        let id = series.id;
        run.blocking(move |run| run.ledger.forget_point(id)).await?;
    }
    adopt_newest_point(run, destination, series, repository, shard).await
}

/// What a restore point has beside its binaries and is not at the destination as it should be, if there is anything.
async fn lost_of(run: &RunContext, destination: &Destination, point: &PointManifest) -> anyhow::Result<Option<Key>> {
    let documents = point.documents.files.iter().chain(&point.documents.damaged);
    let documents = documents.filter_map(|file| Some((file.key.as_ref()?, file.bytes, &file.sha1)));
    let records = point.records.iter().filter_map(|record| Some((record.key.as_ref()?, record.bytes, &record.sha1)));
    let lists = point.lists.iter().map(|list| (&list.key, list.bytes, &list.sha1));
    for (key, bytes, sha1) in documents.chain(records).chain(lists) {
        run.go_on()?;
        if lying(run, destination, key, bytes, sha1).await? != Lying::Same {
            return Ok(Some(key.clone()));
        }
    }
    Ok(None)
}

/// Finds the newest restore point of a repository, or of a shard of it, at the destination and takes it as the last of
/// the series.
async fn adopt_newest_point(
    run: &RunContext,
    destination: &Destination,
    series: &Series,
    repository: &str,
    shard: Option<Shard>,
) -> anyhow::Result<()> {
    let names = catalogue::names(destination).await?;
    // Those of other shards hold nothing of this one, and there may be very many.
    for name in names.points.iter().rev().filter(|name| name.shard() == shard) {
        run.go_on()?;
        // It was looked at, and is not whole.
        if series.last.as_ref().is_some_and(|last| last.name == *name) {
            continue;
        }
        let manifest = match catalogue::point(destination, Some(&run.ledger), name).await {
            Ok(manifest) if manifest.repository == repository => manifest,
            Ok(_) => continue,
            // A damaged manifest must not keep a new point from being made.
            Err(error) => {
                run.report.notice("point", name.to_string(), format!("{error:#}"));
                continue;
            }
        };
        if let Some(gone) = lost_of(run, destination, &manifest).await? {
            run.report.notice("point", name.to_string(), format!("`{gone}` is gone or damaged"));
            continue;
        }
        let scratch = run.blocking(|run| run.ledger.scratch()).await?;
        let members = read_lists(run, destination, &manifest.lists, scratch, Removals::Applied).await;
        match members.and_then(|members| check_within(members, shard)) {
            Ok(members) => {
                let id = series.id;
                return run.blocking(move |run| run.ledger.adopt_point(id, &manifest, &members)).await;
            }
            Err(error) if is_cancelled(&error) => return Err(error),
            Err(error) => run.report.notice("point", name.to_string(), format!("{error:#}")),
        }
    }
    Ok(())
}
