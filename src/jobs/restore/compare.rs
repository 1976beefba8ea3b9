//! What of a backup is in the repository already, and what is in the repository that the backup does not have.

use std::io;

use anyhow::{Context as _, bail};

use super::RestoreOrder;
use super::contents::Contents;
use crate::jobs::context::RunContext;
use crate::jobs::cursor::Cursor;
use crate::jobs::source::OnDisk;
use crate::ledger::{Listed, Scratch};
use crate::model::digest::{Algorithm, Digest};
use crate::model::layout::RootEntry;
use crate::model::point::{DocumentSet, RecordFile};
use crate::model::shard::Shard;
use crate::repository::binaries::{BinaryStore, hash, open_regular};
use crate::repository::documents::DocumentSource;
use crate::repository::walk::{Found, Walk};

/// How many threads walk the store.
const WALKERS: usize = 2;

/// How a repository differs from a backup.
#[derive(Debug)]
pub(super) struct Comparison {
    /// The binaries to be fetched; the mark is that of the list.
    pub(super) fetch: Scratch,
    pub(super) fetch_count: u64,
    pub(super) fetch_bytes: u64,
    /// Of those: binaries whose file is there and damaged.
    pub(super) replace: u64,
    pub(super) keep: u64,
    /// The binaries that the backup does not have.
    pub(super) surplus: Scratch,
    pub(super) surplus_count: u64,
    /// The names of the files of documents that are to be fetched: all or none.
    pub(super) documents: Vec<String>,
    /// The names of the records that are.
    pub(super) records: Vec<String>,
}

/// Reads the whole store at the target: a file is kept because of its content, never because of its name.
pub(super) async fn compare(
    run: &RunContext,
    order: &RestoreOrder,
    contents: &Contents,
    listed: Scratch,
) -> anyhow::Result<(Scratch, Comparison)> {
    let (order, documents) = (order.clone(), contents.documents().clone());
    let records = contents.records().to_vec();
    run.blocking(move |run| {
        let mut comparison = Comparison {
            fetch: run.ledger.scratch()?,
            fetch_count: 0,
            fetch_bytes: 0,
            replace: 0,
            keep: 0,
            surplus: run.ledger.scratch()?,
            surplus_count: 0,
            documents: Vec::new(),
            records: Vec::new(),
        };
        if order.wants_documents() && documents_differ(run, &order, &documents)? {
            comparison.documents = documents.files.iter().map(|file| file.name.clone()).collect();
        }
        if order.wants_binaries() {
            if order.only.is_empty() {
                comparison.records = records_that_differ(run, &order, &records)?;
            }
            listed.each(|binary| {
                run.go_on()?;
                comparison.look_at(run, &order, binary)
            })?;
        }
        // What the documents that stay refer to must stay too. Those of a repository in shards may be with another one.
        let documents_stay =
            order.binaries.shard().is_some() && documents.files.is_empty() && order.documents.is_some();
        if order.wants_all() && !documents_stay && order.binaries.root().exists() {
            find_surplus(run, &order, &listed, &mut comparison)?;
        }
        Ok((listed, comparison))
    })
    .await
}

impl Comparison {
    fn look_at(&mut self, run: &RunContext, order: &RestoreOrder, binary: &Listed) -> anyhow::Result<()> {
        let there = match order.binaries.check(&binary.digest, &|| run.stop.is_cancelled()) {
            Ok(true) => {
                self.keep += 1;
                run.report.advance(1);
                return Ok(());
            }
            Ok(false) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                run.go_on()?;
                let path = order.binaries.path(&binary.digest);
                return Err(error).with_context(|| format!("read `{}` to compare it", path.display()));
            }
        };
        self.replace += u64::from(there);
        self.fetch_count += 1;
        self.fetch_bytes += binary.bytes.unwrap_or_default();
        run.report.advance(1);
        self.fetch.put(binary)
    }
}

/// Whether the repository holds any other documents than the backup.
pub(super) fn documents_differ(
    run: &RunContext,
    order: &RestoreOrder,
    documents: &DocumentSet,
) -> anyhow::Result<bool> {
    let Some(there) = &order.documents else {
        if documents.count > 0 {
            run.report.problem(
                "documents",
                format!("{} documents", documents.count),
                "the repository has no place for documents, so they stay in the backup: restore with --to DIR to get them",
            );
        }
        return Ok(false);
    };
    if documents.files.is_empty() {
        return Ok(false);
    }
    // The packing is the same for the same documents, so equal files mean equal documents.
    let mut files = documents.files.iter().map(|file| file.sha1);
    let mut same = true;
    let stop = || run.stop.is_cancelled();
    if let DocumentSource::Fedora(_) = there {
        // To ask for them is to have all of it backed up, binaries included.
        return Ok(true);
    }
    if let DocumentSource::Table(table) = there {
        // A database that cannot be asked is no reason to replace what is in it.
        let look = table.look();
        run.go_on()?;
        if look?.table.is_none() {
            return Ok(true);
        }
    }
    let read = there.open(&stop).and_then(|mut opened| {
        opened.read(&mut OnDisk::new(run)?, &stop, &mut |packed| {
            same &= files.next() == Some(packed.sha1);
            if same { Ok(()) } else { bail!("they differ") }
        })
    });
    run.go_on()?;
    // Documents that cannot be read are to be replaced like any that differ.
    Ok(!(same && read.is_ok_and(|report| report.damaged == 0) && files.next().is_none()))
}

/// The names of the records that are not in the store as they are in the backup.
fn records_that_differ(run: &RunContext, order: &RestoreOrder, records: &[RecordFile]) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for record in records {
        if order.binaries.layout().root_file(&record.name) != RootEntry::Record {
            run.report.problem(
                "records",
                record.name.clone(),
                "the layout of the repository has no place for this record, so it stays in the backup",
            );
            continue;
        }
        let path = order.binaries.root().join(&record.name);
        let found = open_regular(&path).and_then(|mut file| hash(&mut file, &record.sha1, &|| run.stop.is_cancelled()));
        run.go_on()?;
        match found {
            Ok(found) if found == record.sha1 => {}
            // It belongs to all shards, and this one does not speak for the others.
            Ok(_) if order.binaries.shard().is_some() => {
                let message = "it is another one in the repository, and stays: the restore point is of a shard alone";
                run.report.notice("records", record.name.clone(), message);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("read `{}` to compare it", path.display()));
            }
            _ => names.push(record.name.clone()),
        }
    }
    Ok(names)
}

fn find_surplus(
    run: &RunContext,
    order: &RestoreOrder,
    listed: &Scratch,
    comparison: &mut Comparison,
) -> anyhow::Result<()> {
    let store = &order.binaries;
    let mut known = Cursor::new(|after: Option<&Digest>| listed.page(after), |binary| binary.digest);
    for found in Walk::begin(store, WALKERS)? {
        run.go_on()?;
        let batch = match found {
            Found::Binaries(batch) => batch,
            Found::Unreadable { path, cause, .. } => {
                bail!("read directory `{}` to compare it: {cause}", path.display());
            }
        };
        for digest in batch {
            while known.take_if(|binary| binary.digest < digest)?.is_some() {}
            if known.take_if(|binary| binary.digest == digest)?.is_none() {
                comparison.surplus.put(&Listed { digest, bytes: Some(0), mark: 0 })?;
                comparison.surplus_count += 1;
            }
        }
    }
    if comparison.surplus_count > 0 && store.layout().sidecars_of(&Digest::of(Algorithm::Sha1, b"")).is_some() {
        // The sidecars of what stays stay too.
        listed.each(|binary| {
            for sidecar in store.layout().sidecars_of(&binary.digest).into_iter().flatten() {
                if comparison.surplus.take(&sidecar)? {
                    comparison.surplus_count -= 1;
                }
            }
            Ok(())
        })?;
        keep_sidecars_of_others(run, store, comparison)?;
    }
    Ok(())
}

/// The sidecars of binaries in other shards are none of this one's business, though their names are in it. Where these
/// binaries cannot all be seen, nothing is taken away.
fn keep_sidecars_of_others(run: &RunContext, store: &BinaryStore, comparison: &mut Comparison) -> anyhow::Result<()> {
    for part in store.shard().iter().flat_map(Shard::rest) {
        for found in Walk::begin(&store.clone().within(Some(part)), WALKERS)? {
            run.go_on()?;
            let batch = match found {
                Found::Binaries(batch) => batch,
                Found::Unreadable { path, cause, .. } => {
                    let message = format!(
                        "`{}`, which is in another shard, cannot be read: {cause}; so {} files that the restore point does \
                         not have stay where they are, as they may belong to binaries there",
                        path.display(),
                        comparison.surplus_count
                    );
                    run.report.problem("surplus", store.root().display().to_string(), message);
                    comparison.surplus = run.ledger.scratch()?;
                    comparison.surplus_count = 0;
                    return Ok(());
                }
            };
            for sidecar in batch.iter().filter_map(|binary| store.layout().sidecars_of(binary)).flatten() {
                if comparison.surplus.take(&sidecar)? {
                    comparison.surplus_count -= 1;
                }
            }
            if comparison.surplus_count == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}
