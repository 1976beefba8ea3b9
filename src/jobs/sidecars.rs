//! Files under a digest's name whose content is something else: sidecars, or damage.

use std::sync::{Arc, Mutex, PoisonError};

use super::context::RunContext;
use crate::ledger::{Listed, Scratch};
use crate::model::digest::Digest;
use crate::model::layout::{Layout, Owner, is_mime_type};
use crate::repository::binaries::BinaryStore;
use crate::repository::walk::{Found, Walk};

/// How many sidecars are recorded in one transaction.
const BATCH: usize = 1000;
/// As long as one in so many of the files that were looked at holds a mime type of which the binary is not known, that
/// is few.
const FEW: u64 = 16;
/// How many threads walk the other shards.
const WALKERS: usize = 2;

/// The files of one run whose content is not their name; which of them are sidecars is known when all names are.
#[derive(Debug)]
pub struct Suspects {
    layout: Layout,
    found: Mutex<Unexplained>,
}

#[derive(Debug)]
struct Unexplained {
    files: Scratch,
    /// How many have not been explained.
    left: u64,
    /// How many of those hold no mime type, so that they may be damage.
    plain: u64,
    /// A directory outside of the shard that could not be read, and why: the names in it are not known.
    unseen: Option<String>,
}

const PLAIN: i64 = 0;
const MIME_TYPE: i64 = 1;
/// A file of which only the name is known.
const UNREAD: i64 = 2;

impl Suspects {
    /// No suspects yet.
    pub fn new(run: &RunContext, layout: &Layout) -> anyhow::Result<Arc<Self>> {
        let found = Mutex::new(Unexplained { files: run.ledger.scratch()?, left: 0, plain: 0, unseen: None });
        Ok(Arc::new(Self { layout: layout.clone(), found }))
    }

    /// A file whose content, all of it if it is small, is not its name.
    pub fn add(&self, digest: Digest, bytes: u64, small: Option<&[u8]>) -> anyhow::Result<()> {
        let mime_type = is_orphaned_sidecar(&self.layout, small);
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.left += 1;
        found.plain += u64::from(!mime_type);
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
            if let Some(file) = found.files.get(&name)?.filter(|file| file.mark != UNREAD) {
                found.files.take(&name)?;
                found.left -= 1;
                found.plain -= u64::from(file.mark == PLAIN);
                recorder.add(name)?;
            }
        }
        Ok(())
    }

    /// Explains what is left by the names outside of the part of the store that was walked: the name of a sidecar is
    /// that of no content, so it mostly belongs to another shard than its binary.
    ///
    /// That costs a walk over all other names. What holds a mime type is no damage whosever it is, and to read it once
    /// more the next time costs less as long as there is little of it.
    pub fn explain_from_outside(
        &self,
        run: &RunContext,
        store: &BinaryStore,
        recorder: &mut SidecarRecorder<'_>,
    ) -> anyhow::Result<()> {
        let (left, plain) = {
            let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            (found.left, found.plain)
        };
        let many = left.saturating_mul(FEW) > run.report.counts().examined;
        let Some(shard) = store.shard().filter(|_| plain > 0 || left > 0 && many) else { return Ok(()) };
        if self.layout.owner != Owner::Modeshape {
            return Ok(());
        }
        run.report.say("looking in the other shards for the binaries of sidecars");
        for part in shard.rest() {
            for found in Walk::begin(&store.clone().within(Some(part)), WALKERS)? {
                run.go_on()?;
                match found {
                    Found::Binaries(batch) => batch.iter().try_for_each(|binary| self.explain(binary, recorder))?,
                    Found::Unreadable { path, cause, .. } => {
                        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                        found.unseen = Some(format!("`{}` cannot be read: {cause}", path.display()));
                    }
                }
                if !self.any() {
                    return Ok(());
                }
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
            if let Some(unseen) = &found.unseen {
                let message = format!(
                    "the content does not have the digest in its name; whether it is the sidecar of a binary in another \
                     shard cannot be told, as {unseen}"
                );
                run.report.count(|counts| counts.failed += 1);
                run.report.left_out("unexplained", file.digest.to_string(), message);
                return Ok(());
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
