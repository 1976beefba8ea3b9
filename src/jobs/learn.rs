//! What is at a destination, learned by listing it: for a ledger that is new, lost or doubted.

use anyhow::Context as _;

use super::catalogue;
use super::context::{Destination, RunContext, is_cancelled};
use super::list::{Removals, read_lists};
use crate::ledger::{Listed, Series};
use crate::model::key::{BINARIES, Key};
use crate::store::ErrorKind;

/// Makes the index what a listing of the binaries finds, and takes away uploads that nobody will end.
pub async fn learn_objects(run: &RunContext, destination: &Destination) -> anyhow::Result<()> {
    run.report.phase("listing the destination", "binaries", None);
    let mut listing = run.blocking(|run| run.ledger.scratch()).await?;
    let mut token = None;
    loop {
        run.go_on()?;
        let page = destination.store.list(BINARIES, token.as_ref()).await?;
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
            break;
        }
    }
    let id = destination.id;
    let repaired = run.blocking(move |run| run.ledger.replace_objects(id, &listing)).await?;
    for digest in &repaired.resized {
        run.report.problem(
            "damaged",
            Key::binary(digest).as_str(),
            "the object at the destination does not have the size it was sent with: take it away by hand, then copy with --full",
        );
    }
    sweep_unknown_uploads(run, destination).await
}

/// Aborts what lies unfinished below our prefix and is of no run under way. One prefix belongs to one state
/// directory, whose lock we hold, so it can only be left over.
async fn sweep_unknown_uploads(run: &RunContext, destination: &Destination) -> anyhow::Result<()> {
    let found = match destination.store.unfinished("").await {
        // Without the right to list uploads, those that the ledger knows of are all we can take away.
        Err(error) if error.kind == ErrorKind::Denied => {
            run.report.notice("upload", destination.name.clone(), format!("{error}"));
            return Ok(());
        }
        found => found?,
    };
    let id = destination.id;
    // Asked for after the listing: an upload is recorded before it begins.
    let live = run.blocking(move |run| run.ledger.live_uploads(id)).await?;
    for unfinished in found.into_iter().filter(|unfinished| !live.contains(&unfinished.key)) {
        destination
            .store
            .abort(&unfinished)
            .await
            .with_context(|| format!("abort the upload of `{}`", unfinished.key))?;
        run.blocking(move |run| run.ledger.end_upload(id, &unfinished.key)).await?;
    }
    Ok(())
}

/// Makes sure that the last restore point of a series is at the destination; if it is not known, or gone, the newest
/// one that is there and whole takes its place.
pub async fn learn_point(
    run: &RunContext,
    destination: &Destination,
    series: &Series,
    repository: &str,
) -> anyhow::Result<()> {
    if let Some(last) = &series.last {
        match destination.store.head(&Key::in_point(&last.name, "point.json")).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        run.report.notice("point", last.name.to_string(), "the last restore point is not at the destination any more");
        let id = series.id;
        run.blocking(move |run| run.ledger.forget_point(id)).await?;
    }
    adopt_newest_point(run, destination, series, repository).await
}

/// Finds the newest restore point of a repository at the destination and takes it as the last of the series.
async fn adopt_newest_point(
    run: &RunContext,
    destination: &Destination,
    series: &Series,
    repository: &str,
) -> anyhow::Result<()> {
    let names = catalogue::names(destination).await?;
    for name in names.points.iter().rev() {
        run.go_on()?;
        let manifest = match catalogue::point(destination, Some(&run.ledger), name).await {
            Ok(manifest) if manifest.repository == repository => manifest,
            Ok(_) => continue,
            // A damaged manifest must not keep a new point from being made.
            Err(error) => {
                run.report.notice("point", name.to_string(), format!("{error:#}"));
                continue;
            }
        };
        let scratch = run.blocking(|run| run.ledger.scratch()).await?;
        match read_lists(run, destination, &manifest.lists, scratch, Removals::Applied).await {
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
