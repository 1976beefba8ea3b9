//! Files under a digest's name whose content is something else: sidecars, or damage.

use std::sync::{Arc, Mutex, PoisonError};

use super::context::RunContext;
use crate::ledger::{Listed, Scratch};
use crate::model::digest::Digest;
use crate::model::layout::{Layout, Owner, is_mime_type};

/// How many sidecars are recorded in one transaction.
const BATCH: usize = 1000;

/// The files of one run whose content is not their name; which of them are sidecars is known when all names are.
#[derive(Debug)]
pub struct Suspects {
    layout: Layout,
    found: Mutex<Found>,
}

#[derive(Debug)]
struct Found {
    files: Scratch,
    /// How many have not been explained.
    left: u64,
}

const PLAIN: i64 = 0;
const MIME_TYPE: i64 = 1;
/// A file of which only the name is known.
const UNREAD: i64 = 2;

impl Suspects {
    /// No suspects yet.
    pub fn new(run: &RunContext, layout: &Layout) -> anyhow::Result<Arc<Self>> {
        let found = Mutex::new(Found { files: run.ledger.scratch()?, left: 0 });
        Ok(Arc::new(Self { layout: layout.clone(), found }))
    }

    /// A file whose content, all of it if it is small, is not its name.
    pub fn add(&self, digest: Digest, bytes: u64, small: Option<&[u8]>) -> anyhow::Result<()> {
        let mime_type = is_orphaned_sidecar(&self.layout, small);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.left += 1;
        let mark = if mime_type { MIME_TYPE } else { PLAIN };
        found.files.put(&Listed { digest, bytes: Some(bytes), mark })
    }

    /// A file that is said elsewhere not to be in the restore point: its name still explains its sidecars.
    pub fn add_unread(&self, digest: Digest) -> anyhow::Result<()> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.files.put(&Listed { digest, bytes: None, mark: UNREAD })
    }

    /// Whether there are any that no binary has explained.
    pub fn any(&self) -> bool {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).left > 0
    }

    /// The names after this one in order: the next few thousand, none at the end.
    pub fn names_after(&self, after: Option<&Digest>) -> anyhow::Result<Vec<Digest>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(found.files.page(after)?.iter().map(|file| file.digest).collect())
    }

    /// Takes out the sidecars of `binary`, if they are among the suspects, and hands them to `recorder`.
    pub fn explain(&self, binary: &Digest, recorder: &mut SidecarRecorder<'_>) -> anyhow::Result<()> {
        let Some(names) = self.layout.sidecars_of(binary) else { return Ok(()) };
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if found.files.get(&name)?.is_some_and(|file| file.mark != UNREAD) {
                found.files.take(&name)?;
                found.left -= 1;
                recorder.add(name)?;
            }
        }
        Ok(())
    }

    /// Calls `visit` with each that no binary has explained and whose content is a mime type: no binary, whosever it is.
    pub fn each_mime_type(&self, mut visit: impl FnMut(&Digest) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.files.each(|file| if file.mark == MIME_TYPE { visit(&file.digest) } else { Ok(()) })
    }

    /// Counts those that no binary explains: orphaned sidecars, and damage, which is named.
    pub fn report_rest(&self, run: &RunContext) -> anyhow::Result<()> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.files.each(|file| {
            // They are not recorded: a file that is mended later must be read again.
            match file.mark {
                MIME_TYPE => {
                    run.report.count(|counts| counts.orphaned_sidecars += 1);
                    return Ok(());
                }
                UNREAD => return Ok(()),
                _ => {}
            }
            report_damaged(run, &file.digest, file.bytes.unwrap_or_default());
            Ok(())
        })
    }
}

/// Whether a file that no binary explains holds a mime type, as ModeShape's sidecars do.
pub fn is_orphaned_sidecar(layout: &Layout, small: Option<&[u8]>) -> bool {
    layout.owner == Owner::Modeshape && small.is_some_and(is_mime_type)
}

/// Counts and names a file of this size whose content is not its name.
pub fn report_damaged(run: &RunContext, digest: &Digest, bytes: u64) {
    run.report.count(|counts| {
        counts.damaged += 1;
        counts.failed += 1;
    });
    run.report.problem("damaged", digest.to_string(), describe(bytes));
}

fn describe(bytes: u64) -> String {
    if bytes == 0 {
        return "the file is empty, so it is not what its name says: restore it from a backup".to_owned();
    }
    format!("the content ({bytes} bytes) does not have the digest in its name: restore it from a backup")
}

/// Writes sidecars into the ledger, many at a time.
#[derive(Debug)]
pub struct SidecarRecorder<'a> {
    run: &'a RunContext,
    store: String,
    batch: Vec<Digest>,
}

impl<'a> SidecarRecorder<'a> {
    /// For the store at this path.
    pub fn new(run: &'a RunContext, store: String) -> Self {
        Self { run, store, batch: Vec::new() }
    }

    /// Counts a sidecar, and takes it in.
    pub fn add(&mut self, digest: Digest) -> anyhow::Result<()> {
        self.run.report.count(|counts| counts.sidecars += 1);
        self.batch.push(digest);
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Writes what is left.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.run.ledger.record_sidecars(&self.store, &self.batch)?;
        self.batch.clear();
        Ok(())
    }
}
