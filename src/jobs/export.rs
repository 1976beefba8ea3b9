//! The export: writes the whole repository into a ModeShape backup directory on this machine, as `fcr:backup` does.
//!
//! Documents first, then binaries, each compared with its name on the way; what is there before is replaced only by
//! something whole.

mod binaries;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;

use super::closure::Needed;
use super::context::{Ended, RunContext};
use super::source::{RepositorySource, open_documents, read_documents};
use crate::repository::backup_directory::NewBackup;
use crate::repository::documents::OpenDocuments;
use binaries::write_binaries;

/// How the runs are called in the history: no job of the configuration has such a name.
pub const EXPORT: &str = "fcr:backup";

/// What an export is to do.
#[derive(Clone, Debug)]
pub struct ExportOrder {
    /// What is exported.
    pub source: RepositorySource,
    /// Where to: a directory that is there.
    pub directory: PathBuf,
    /// Whether it was made for this, so that it goes again when nothing comes of it.
    pub made: bool,
    /// How long a file must be unchanged before it is read a second time.
    pub settle: Duration,
}

/// Runs an export. Its result is the path of the directory; after an error what was in it is as it was.
pub async fn export(run: &RunContext, order: &ExportOrder) -> anyhow::Result<Ended> {
    let exported = make(run, order).await;
    if exported.is_err() && order.made {
        // One that is not empty is somebody's by now.
        drop(std::fs::remove_dir(&order.directory));
    }
    exported
}

async fn make(run: &RunContext, order: &ExportOrder) -> anyhow::Result<Ended> {
    order.source.open()?;
    let Some(documents) = order.source.documents.clone() else {
        bail!(
            "export the repository `{}`: it has no documents, without which ModeShape restores nothing: set \
             [repository.{0}.documents]",
            order.source.name
        );
    };
    // Whatever the documents name now is on disk already, so the binaries are looked at after them.
    let mut documents = open_documents(run, &documents).await?;
    let order = order.clone();
    run.blocking(move |run| {
        let backup = NewBackup::begin(&order.directory)?;
        let directory = backup.target().display().to_string();
        let written = write(run, &order, &mut documents, &backup);
        let ended = written.and_then(|()| run.go_on()).and_then(|()| refuse_partial(run, &backup));
        if let Err(error) = ended {
            let error = explain_full(error, &directory);
            return Err(match backup.give_up() {
                Ok(()) => error,
                Err(left) => error.context(format!("{left:#}")),
            });
        }
        run.report.say("putting the files in place");
        backup.put_in_place().map_err(|error| explain_full(error, &directory))?;
        Ok(Ended { result: Some(directory), ..Ended::default() })
    })
    .await
}

fn write(
    run: &RunContext,
    order: &ExportOrder,
    documents: &mut OpenDocuments,
    backup: &NewBackup,
) -> anyhow::Result<()> {
    run.report.phase("reading documents", "documents", None);
    let needed: Needed = read_documents(run, documents, &mut |packed| {
        run.report.advance(packed.documents);
        backup.write_documents(&packed.name, &packed.content)
    })?;
    run.report.phase("writing binaries", "binaries", None);
    write_binaries(run, order, backup, needed)
}

/// A backup that lacks something does not take the place of one that may have it.
fn refuse_partial(run: &RunContext, backup: &NewBackup) -> anyhow::Result<()> {
    if backup.replaces() && run.report.is_partial() {
        bail!(
            "replace the backup in `{}`: the new one would lack what the problems name, so the older one stays: name \
             an empty directory to have what there is",
            backup.target().display()
        );
    }
    Ok(())
}

fn explain_full(error: anyhow::Error, directory: &str) -> anyhow::Error {
    let full = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded));
    if full {
        let text =
            format!("export to `{directory}` (its file system is full, and what was there is as it was: make room)");
        return error.context(text);
    }
    error
}
