//! The first look at the store: what there is to back up, so that progress has a total.

use anyhow::bail;

use super::BackupOrder;
use super::sieve::Sieve;
use crate::jobs::context::RunContext;
use crate::jobs::cursor::Cursor;
use crate::jobs::source::{report_foreign, store_name};
use crate::ledger::{Listed, Scratch, SeriesId};
use crate::model::digest::Digest;
use crate::model::layout::Owner;
use crate::model::run::{Outcome, RunFilter};
use crate::repository::binaries::BinaryStore;
use crate::repository::walk::{Found, Walk};

/// How many threads walk the store.
const WALKERS: usize = 2;

/// The mark of a file that has the name of a sidecar of another one: if its content is not its name, it is that.
pub(super) const SIDECAR_NAME: i64 = 1;

/// What is to be backed up.
#[derive(Debug)]
pub(super) struct Survey {
    /// The binaries with their sizes, known sidecars left out; the mark is [`SIDECAR_NAME`] or 0.
    pub(super) binaries: Scratch,
    /// The sizes of those that are still to be written, added up.
    pub(super) bytes: u64,
    /// The names of the records in the store's root.
    pub(super) records: Vec<String>,
}

/// Walks the store and learns the size of every binary; those up to `after` are in the archive already.
pub(super) async fn survey(run: &RunContext, order: &BackupOrder, after: Option<Digest>) -> anyhow::Result<Survey> {
    run.report.phase("looking at the binaries", "binaries", None);
    let store = order.source.binaries.clone();
    let (job, allow_empty) = (order.job.clone(), order.allow_empty);
    let (repository, destination) = (order.source.name.clone(), order.destination.id);
    run.blocking(move |run| {
        let copies = run.ledger.series(destination, &repository)?.id;
        let survey = walk(run, &store, copies, after)?;
        if !allow_empty {
            refuse_implausible(run, &job, &store)?;
        }
        mark_sidecar_names(run, &store, &survey.binaries)?;
        Ok(survey)
    })
    .await
}

fn walk(run: &RunContext, store: &BinaryStore, copies: SeriesId, after: Option<Digest>) -> anyhow::Result<Survey> {
    let root = store_name(store);
    let mut sidecars = Cursor::new(|after: Option<&Digest>| run.ledger.sidecars_after(&root, after), |digest| *digest);
    // A digest has one size: what the last restore point has, the disk need not look for.
    let mut members = Cursor::new(|after: Option<&Digest>| run.ledger.members_after(copies, after), |member| member.0);
    let binaries = run.ledger.scratch()?;
    let mut walk = Walk::begin(store, WALKERS)?;
    let mut bytes = 0;
    for found in &mut walk {
        run.go_on()?;
        match found {
            Found::Binaries(batch) => {
                run.report.count(|counts| counts.examined += batch.len() as u64);
                run.report.advance(batch.len() as u64);
                for digest in batch {
                    while sidecars.take_if(|sidecar| *sidecar < digest)?.is_some() {}
                    if sidecars.take_if(|sidecar| *sidecar == digest)?.is_some() {
                        run.report.count(|counts| counts.sidecars += 1);
                        continue;
                    }
                    while members.take_if(|member| member.0 < digest)?.is_some() {}
                    let size = match members.take_if(|member| member.0 == digest)? {
                        Some((_, Some(bytes))) => bytes,
                        // One that cannot be looked at is met again when it is to be read, and named there.
                        _ => store.stamp(&digest).map_or(0, |stamp| stamp.bytes),
                    };
                    bytes = u64::saturating_add(bytes, if Some(digest) > after { size } else { 0 });
                    binaries.put(&Listed { digest, bytes: Some(size), mark: 0 })?;
                }
            }
            Found::Unreadable { path, cause, .. } => {
                run.report.count(|counts| counts.failed += 1);
                run.report.problem("unreadable", path.display().to_string(), format!("read directory: {cause}"));
            }
        }
    }
    let beside = walk.beside();
    report_foreign(run, &beside);
    Ok(Survey { binaries, bytes, records: beside.records })
}

/// Marks what may be a sidecar, before anything is read: so a file that is damaged is known for that at once, also by
/// a run that is cut and leaves it to the next one to end the archive.
fn mark_sidecar_names(run: &RunContext, store: &BinaryStore, binaries: &Scratch) -> anyhow::Result<()> {
    if store.layout().owner != Owner::Modeshape {
        return Ok(());
    }
    // Hardly any of the names is there, and each look into the scratch file would go to another place of it.
    let mut sieve = Sieve::for_about(run.report.counts().examined);
    binaries.each(|binary| {
        run.go_on()?;
        sieve.put(&binary.digest);
        Ok(())
    })?;
    binaries.each(|binary| {
        run.go_on()?;
        for name in store.layout().sidecars_of(&binary.digest).into_iter().flatten() {
            if sieve.may_hold(&name)
                && let Some(sidecar) = binaries.get(&name)?
            {
                binaries.put(&Listed { mark: SIDECAR_NAME, ..sidecar })?;
            }
        }
        Ok(())
    })
}

/// A store that is suddenly empty, or holds nothing of its layout, is more likely a wrong path or a volume that is
/// not mounted than the truth.
fn refuse_implausible(run: &RunContext, job: &str, store: &BinaryStore) -> anyhow::Result<()> {
    let counts = run.report.counts();
    if counts.examined > 0 || counts.failed > 0 {
        return Ok(());
    }
    let root = store.root().display();
    if counts.foreign > 0 {
        bail!(
            "look at `{root}`: none of the {} files or directories in it is a binary of its layout: check `binaries` and `layout`",
            counts.foreign
        );
    }
    // However many failed since: they may have found the store empty again and again.
    let mut earlier = Vec::new();
    for outcome in [Outcome::Succeeded, Outcome::Partial] {
        earlier.extend(run.ledger.runs(&RunFilter { outcome: Some(outcome), ..RunFilter::latest(Some(job), 1) })?);
    }
    let before = earlier.iter().max_by_key(|run| run.id).map_or(0, |run| run.counts.examined);
    if before > 0 {
        bail!(
            "look at `{root}`: it holds no binaries, but the last backup found {before}: is the volume mounted, and is `binaries` right? \
             If it was emptied on purpose, `holdfast run {job} --allow-empty` says so"
        );
    }
    Ok(())
}
