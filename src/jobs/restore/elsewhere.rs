//! The documents of a shard's restore point: they replace all documents there are, and need binaries of other shards,
//! of which the point says nothing.

use std::ops::ControlFlow;

use anyhow::bail;

use super::compare::Comparison;
use super::contents::Contents;
use super::{Origin, Parts, RestoreOrder};
use crate::jobs::closure::Needed;
use crate::jobs::context::RunContext;
use crate::jobs::cursor::Cursor;
use crate::jobs::inspect::{Inspected, each_document};
use crate::ledger::{Listed, Scratch};
use crate::model::digest::Digest;
use crate::model::references::references;

/// How many are named in an error.
const NAMED: usize = 3;

/// Reads the documents that are to be restored from a shard's point, and looks for every binary they refer to that the
/// point does not have, in the repository and by its content. If one is not there that belongs to another shard, the
/// restore is refused; or it is named, if the documents alone were asked for.
pub(super) async fn check_documents(
    run: &RunContext,
    order: &RestoreOrder,
    contents: &Contents,
    listed: Scratch,
    comparison: Comparison,
) -> anyhow::Result<(Scratch, Comparison)> {
    let (Some(_), Origin::Backup(_, destination)) = (contents.shard(), &order.from) else {
        return Ok((listed, comparison));
    };
    if comparison.documents.is_empty() {
        return Ok((listed, comparison));
    }
    run.report.phase("looking for what the documents need in other shards", "binaries", None);
    let inspected = Inspected { contents: contents.clone(), destination: destination.clone() };
    let needed = each_document(run, &inspected, Needed::new(run)?, |needed, line| {
        let mut digests = Vec::new();
        references(line, |digest| digests.push(digest));
        needed.add(&digests)?;
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    let order = order.clone();
    run.blocking(move |run| {
        let comparison = look(run, &order, needed, &listed, comparison)?;
        Ok((listed, comparison))
    })
    .await
}

fn look(
    run: &RunContext,
    order: &RestoreOrder,
    mut needed: Needed,
    listed: &Scratch,
    mut comparison: Comparison,
) -> anyhow::Result<Comparison> {
    let store = &order.binaries;
    let mut held = Cursor::new(|after: Option<&Digest>| listed.page(after), |binary: &Listed| binary.digest);
    let (mut outside, mut named) = (0_u64, Vec::new());
    needed.compare(run, &mut held, |binary| binary.digest, &mut |digest| {
        run.report.advance(1);
        if store.check(digest, &|| run.stop.is_cancelled()).is_ok_and(|whole| whole) {
            // A point that lacks what its documents need is no reason to take that away.
            comparison.surplus_count -= u64::from(comparison.surplus.take(digest)?);
            return Ok(());
        }
        run.go_on()?;
        let refused = !store.includes(digest) && order.parts != Parts::Documents;
        if refused {
            outside += 1;
            if named.len() < NAMED {
                named.push(digest.to_string());
            }
        } else {
            let message = "documents refer to it, and neither the restore point nor the repository has it whole";
            run.report.problem("missing", digest.to_string(), message);
            run.report.count(|counts| counts.missing += 1);
        }
        Ok(())
    })?;
    if let Some(shard) = store.shard().filter(|_| outside > 0) {
        bail!(
            "restore the documents: they need {outside} binaries that are not in the shard {shard} of this restore point, and \
             that the repository does not have or not whole ({}); nothing was changed: restore the points of the other \
             shards before with --binaries-only, or of this one the binaries alone",
            named.join(", ")
        );
    }
    Ok(comparison)
}
