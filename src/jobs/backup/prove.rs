//! Before the manifest is written: whether the archive has all that its documents need.

use super::BackupOrder;
use crate::jobs::closure::{Needed, name_missing};
use crate::jobs::context::RunContext;
use crate::jobs::cursor::Cursor;
use crate::jobs::restore::contents::each_entry;
use crate::ledger::{ArchiveUnderWay, Listed, Scratch};
use crate::model::archive::EntryName;
use crate::model::digest::Digest;

/// Looks for every binary that the documents need among those that went into the archive, which `held` has; without
/// it the directories of the volumes are read, as an earlier run wrote some of them. Names what is missing, and says
/// whether nothing is.
pub(super) async fn prove(
    run: &RunContext,
    order: &BackupOrder,
    archive: &ArchiveUnderWay,
    needed: Option<Needed>,
    held: Option<Scratch>,
) -> anyhow::Result<bool> {
    let Some(mut needed) = needed else { return Ok(true) };
    run.report.say("looking for what the documents need");
    let held = match held {
        Some(held) => held,
        None => read_volumes(run, order, archive).await?,
    };
    let store = order.source.binaries.clone();
    run.blocking(move |run| {
        let mut held = Cursor::new(|after: Option<&Digest>| held.page(after), |binary| binary.digest);
        let closure = needed.compare(run, &mut held, |binary| binary.digest, &mut |digest| {
            name_missing(run, &store, digest);
            Ok(())
        })?;
        closure.count(run);
        Ok(closure.missing == 0)
    })
    .await
}

/// The binaries that lie in the volumes.
async fn read_volumes(run: &RunContext, order: &BackupOrder, archive: &ArchiveUnderWay) -> anyhow::Result<Scratch> {
    let mut held = run.ledger.scratch()?;
    for written in &archive.volumes {
        held = each_entry(run, &order.destination, &written.volume, held, |held, entry| match entry.name {
            EntryName::Binary(digest) => held.put(&Listed { digest, bytes: Some(0), mark: 0 }),
            _ => Ok(()),
        })
        .await?;
    }
    Ok(held)
}
