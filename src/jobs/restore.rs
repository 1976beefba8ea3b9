//! The restore: fetches and checks everything that is needed beside the repository, and only then touches it.
//!
//! `contents` finds out what the backup holds, `compare` what of it is there already, `fetch` and `archive` bring the
//! rest into a staging directory, `install` renames it in, and takes it back if that fails in the middle.

mod archive;
mod compare;
pub mod contents;
pub mod directory;
mod elsewhere;
mod fetch;
mod install;
pub mod origin;
mod owner;
mod placing;
mod staging;
mod target;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::context::{Ended, RunContext};
use crate::ledger::Scratch;
use crate::model::digest::Digest;
use crate::model::run::{Outcome, RunFilter};
use crate::model::shard::Shard;
use crate::repository::binaries::BinaryStore;
use crate::repository::documents::{DocumentSink, DocumentSource};
use compare::Comparison;
use contents::Contents;
pub use fetch::DOCUMENTS_LIMIT;
pub use origin::{Origin, RestoreFrom};
pub use owner::falls_to_root;
use staging::Staging;

/// How many earlier runs are looked at for restores that were cut.
const REMEMBERED_RUNS: u32 = 100;

/// What a restore says of itself once everything has come.
pub const INSTALLING: &str = "putting the files in place";

/// What a restore is to do.
#[derive(Clone, Debug)]
pub struct RestoreOrder {
    /// What is restored, and where it lies.
    pub from: Origin,
    /// Where the binaries go; need not exist yet.
    pub binaries: BinaryStore,
    /// Where the documents go; none if the repository has no place for them.
    pub documents: Option<DocumentSource>,
    /// Only these binaries, and no documents; all if empty.
    pub only: Vec<Digest>,
    /// Which parts of the repository.
    pub parts: Parts,
    /// Write documents to a database that other programs are connected to.
    pub ignore_connections: bool,
}

/// Which parts of a repository are restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parts {
    /// All of it.
    #[default]
    All,
    /// The documents; binaries stay as they are.
    Documents,
    /// The binaries; documents stay as they are, and so do binaries that the backup does not have.
    Binaries,
}

impl RestoreOrder {
    /// Whether documents are to be restored.
    fn wants_documents(&self) -> bool {
        self.only.is_empty() && self.parts != Parts::Binaries
    }

    /// Whether binaries are to be restored.
    fn wants_binaries(&self) -> bool {
        self.parts != Parts::Documents
    }

    /// Whether the repository is to be as the backup in everything.
    fn wants_all(&self) -> bool {
        self.only.is_empty() && self.parts == Parts::All
    }
}

/// What a restore would do, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// The restore point, archive or directory.
    pub from: String,
    /// Where the binaries go.
    pub binaries_to: PathBuf,
    /// Where the documents go: a directory, the table of a database, or a Fedora.
    pub documents_to: Option<String>,
    /// Documents to be fetched.
    pub documents: u64,
    /// Binaries to be fetched, those that replace a damaged file included.
    pub fetch: u64,
    /// Their sizes, added up.
    pub fetch_bytes: u64,
    /// Of those: binaries whose file is there and damaged.
    pub replace: u64,
    /// Binaries that are there and whole.
    pub keep: u64,
    /// Binaries that are there and not in the backup: they go to the quarantine.
    pub quarantine: u64,
    /// Free bytes on the file system they go to.
    pub free_bytes: u64,
    /// The part of the repository that this is about; nothing else is touched. None for the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
}

/// A plan with everything that is needed to carry it out.
#[derive(Debug)]
struct Prepared {
    plan: RestorePlan,
    /// The order, about the part of the repository that the backup is of.
    order: RestoreOrder,
    contents: Contents,
    /// Every binary of the backup that was asked for.
    listed: Scratch,
    comparison: Comparison,
}

/// What is known once everything is staged and checked.
struct Checked {
    listed: Scratch,
    comparison: Comparison,
    staging: Staging,
    /// The documents for a database or a Fedora, of which nobody sees anything yet.
    documents: Option<Box<dyn DocumentSink>>,
}

/// Finds out what a restore would do; changes nothing in the repository.
pub async fn plan(run: &RunContext, order: &RestoreOrder) -> anyhow::Result<RestorePlan> {
    Ok(prepare(run, order).await?.plan)
}

/// Runs a restore. Until everything is fetched and checked the repository is not touched; after an error it is as
/// before.
pub async fn restore(run: &RunContext, order: &RestoreOrder) -> anyhow::Result<Ended> {
    let Prepared { plan, order, contents, listed, comparison } = prepare(run, order).await?;
    let order = &order;
    if !comparison.documents.is_empty() {
        target::check_target(run, order).await?;
    } else if comparison.surplus_count > 0 {
        target::check_alone(run, order).await?;
    }
    run.report.count(|counts| {
        counts.examined = plan.keep + plan.fetch;
        counts.skipped = plan.keep;
    });
    let from = contents.name();
    let staging = Staging::open(&order.binaries, &contents.staged_as(), run.id)?;
    name_earlier_quarantines(run, &staging)?;
    let prepared = async {
        let (listed, comparison) = bring(run, order, &contents, listed, comparison, &staging).await?;
        let (comparison, documents) = target::write_documents(run, order, &contents, comparison, &staging).await?;
        run.go_on()?;
        anyhow::Ok((listed, comparison, documents))
    };
    let (listed, comparison, documents) = match prepared.await {
        Ok(prepared) => prepared,
        Err(error) => return Err(give_up(run, &staging, error)),
    };
    run.report.say(INSTALLING);
    let checked = Checked { listed, comparison, staging, documents };
    let (order, created) = (order.clone(), contents.created());
    let quarantine = run.blocking(move |run| install::install(run, &order, created, checked)).await?;
    let quarantine = quarantine.map(|path| path.display().to_string());
    Ok(Ended { result: Some(from), quarantine, ..Ended::default() })
}

/// A restore that was cut by a crash could not say where it put what it replaced, so the next one does.
fn name_earlier_quarantines(run: &RunContext, staging: &Staging) -> anyhow::Result<()> {
    let earlier = run.ledger.runs(&RunFilter::latest(None, REMEMBERED_RUNS))?;
    for cut in earlier.iter().filter(|run| run.outcome == Some(Outcome::Interrupted)) {
        if let Some(path) = staging.quarantine_of(cut.id) {
            let message = "a restore that was cut short moved files of the repository here";
            run.report.notice("quarantine", path.display().to_string(), message);
        }
    }
    Ok(())
}

/// Leaves the repository as it is; what was fetched stays beside it for the next try, unless the disk is full or it
/// lies inside.
fn give_up(run: &RunContext, staging: &Staging, error: anyhow::Error) -> anyhow::Error {
    let full = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded));
    if let Err(left) = staging.give_up(full) {
        run.report.notice("staging", staging.path().display().to_string(), format!("{left:#}"));
    }
    if full {
        return error.context(
            "fetch to the file system of the repository (it is full; nothing was changed: make room and restore again)",
        );
    }
    error
}

async fn prepare(run: &RunContext, order: &RestoreOrder) -> anyhow::Result<Prepared> {
    run.report.phase("reading what the backup holds", "binaries", None);
    let contents = order.from.open(run, &order.only).await?;
    // From here on nobody sees more of the store than the backup is of.
    let order = RestoreOrder { binaries: order.binaries.clone().within(contents.shard()), ..order.clone() };
    let order = &order;
    let listed = order.from.list(run, &contents).await?;
    run.report.count(|counts| counts.size = contents.size());
    let listed = only(run, order, listed).await?;
    run.report.phase("comparing with what is there", "binaries", None);
    let (listed, mut comparison) = compare::compare(run, order, &contents, listed).await?;
    if let Contents::Directory(directory) = &contents {
        comparison = directory.keep_needed(run, order, comparison).await?;
    }
    let (listed, comparison) = elsewhere::check_documents(run, order, &contents, listed, comparison).await?;
    let plan = RestorePlan {
        from: contents.name(),
        binaries_to: order.binaries.root().to_owned(),
        documents_to: order.documents.as_ref().filter(|_| order.wants_documents()).map(ToString::to_string),
        documents: if comparison.documents.is_empty() { 0 } else { contents.documents().count },
        fetch: comparison.fetch_count,
        fetch_bytes: comparison.fetch_bytes,
        replace: comparison.replace,
        keep: comparison.keep,
        quarantine: comparison.surplus_count,
        free_bytes: staging::free_bytes(&order.binaries)?,
        shard: contents.shard(),
    };
    Ok(Prepared { plan, order: order.clone(), contents, listed, comparison })
}

/// Leaves of the list what was asked for; a binary that the backup does not have is an error.
async fn only(run: &RunContext, order: &RestoreOrder, listed: Scratch) -> anyhow::Result<Scratch> {
    if order.only.is_empty() {
        return Ok(listed);
    }
    let digests = order.only.clone();
    run.blocking(move |run| {
        let chosen = run.ledger.scratch()?;
        let mut absent = Vec::new();
        for digest in &digests {
            match listed.get(digest)? {
                Some(binary) => chosen.put(&binary)?,
                None => absent.push(digest.to_string()),
            }
        }
        if !absent.is_empty() {
            bail!("choose binaries: the backup does not have {}", absent.join(", "));
        }
        Ok(chosen)
    })
    .await
}

/// Brings everything that is needed into the staging directory, and checks it there.
async fn bring(
    run: &RunContext,
    order: &RestoreOrder,
    contents: &Contents,
    listed: Scratch,
    comparison: Comparison,
    staging: &Staging,
) -> anyhow::Result<(Scratch, Comparison)> {
    let waiting = staging.paths();
    let (comparison, staged) = run
        .blocking(move |_| {
            let staged = waiting.take_over(&comparison.fetch)?;
            Ok((comparison, staged))
        })
        .await?;
    let free = staging::free_bytes(&order.binaries)?;
    let needed = comparison.fetch_bytes.saturating_sub(staged);
    if needed > free {
        bail!(
            "fetch to `{}`: the restore needs {needed} bytes and the file system has {free} free: make room, or restore elsewhere with --to",
            staging.path().display()
        );
    }
    run.report.phase(format!("fetching {}", contents.name()), "bytes", Some(comparison.fetch_bytes));
    let comparison = order.from.bring(run, contents, comparison, staging).await?;
    let counts = run.report.counts();
    if counts.failed > 0 {
        bail!(
            "fetch {}: {} of its objects are missing or damaged at the destination ({}); nothing was changed",
            contents.name(),
            counts.failed,
            run.report.problems().iter().take(3).map(|problem| problem.subject.as_str()).collect::<Vec<_>>().join(", ")
        );
    }
    let staged = staging.paths();
    run.blocking(move |_| {
        check_staged(&comparison, &staged)?;
        staged.sync().context("write what was fetched to disk")?;
        Ok((listed, comparison))
    })
    .await
}

/// Everything that is needed has come: a backup whose parts do not fit together ends here.
fn check_staged(comparison: &Comparison, staging: &Staging) -> anyhow::Result<()> {
    let check = |what: &dyn Fn() -> String, path: PathBuf, bytes: Option<u64>| {
        let found = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file);
        match found {
            Some(found) if bytes.is_none_or(|bytes| bytes == found.len()) => Ok(()),
            _ => Err(anyhow::anyhow!("fetch {}: it did not come; nothing was changed", what())),
        }
    };
    comparison.fetch.each(|binary| {
        let path = staging.binary(&binary.digest);
        check(&|| format!("binary {}", binary.digest), path, binary.bytes)
    })?;
    comparison.documents.iter().try_for_each(|name| check(&|| format!("`{name}`"), staging.document(name), None))?;
    comparison.records.iter().try_for_each(|name| check(&|| format!("record `{name}`"), staging.record(name), None))
}
