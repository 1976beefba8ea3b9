//! The binaries of an export: the store from its first name to its last, and the proof that nothing is missing.

use std::io;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::ExportOrder;
use crate::jobs::closure::{Closure, Needed, name_missing};
use crate::jobs::context::RunContext;
use crate::jobs::cursor::Cursor;
use crate::jobs::reading::settle;
use crate::jobs::sidecars::{SidecarRecorder, Suspects};
use crate::jobs::source::{report_foreign, store_name};
use crate::ledger::{Listed, Scratch};
use crate::model::digest::Digest;
use crate::repository::backup_directory::{Copied, NewBackup};
use crate::repository::binaries::{BinaryStore, Content};
use crate::repository::walk::{Found, Walk};

/// How many threads walk the store.
const WALKERS: usize = 2;
/// Binaries up to this size are held in memory on their way; larger ones are digested while they are copied.
const HELD: usize = 4 << 20;

/// What one look at a file came to.
enum Written {
    /// It is in the backup.
    Sound(u64),
    /// Its content is not its name; all of it, if it is small.
    Other { bytes: u64, small: Option<Vec<u8>> },
}

struct Writer<'a> {
    run: &'a RunContext,
    order: &'a ExportOrder,
    backup: &'a NewBackup,
    /// What is in the backup.
    held: Scratch,
    suspects: Arc<Suspects>,
}

/// Writes every binary of the store that is what its name says; names the others, and what the documents need besides.
pub(super) fn write_binaries(
    run: &RunContext,
    order: &ExportOrder,
    backup: &NewBackup,
    needed: Needed,
) -> anyhow::Result<()> {
    let store = &order.source.binaries;
    let suspects = Suspects::new(run, store.layout())?;
    let writer = Writer { run, order, backup, held: run.ledger.scratch()?, suspects };
    writer.walk()?;
    writer.tell_sidecars()?;
    writer.prove(needed)
}

impl Writer<'_> {
    fn store(&self) -> &BinaryStore {
        &self.order.source.binaries
    }

    fn walk(&self) -> anyhow::Result<()> {
        let (run, root) = (self.run, store_name(self.store()));
        let mut sidecars =
            Cursor::new(|after: Option<&Digest>| run.ledger.sidecars_after(&root, after), |digest: &Digest| *digest);
        let mut walk = Walk::begin(self.store(), WALKERS)?;
        for found in &mut walk {
            run.go_on()?;
            let batch = match found {
                Found::Binaries(batch) => batch,
                Found::Unreadable { path, cause, .. } => {
                    run.report.count(|counts| counts.failed += 1);
                    run.report.problem("unreadable", path.display().to_string(), format!("read directory: {cause}"));
                    continue;
                }
            };
            for digest in batch {
                run.go_on()?;
                run.report.count(|counts| counts.examined += 1);
                run.report.advance(1);
                while sidecars.take_if(|sidecar| *sidecar < digest)?.is_some() {}
                if sidecars.take_if(|sidecar| *sidecar == digest)?.is_some() {
                    run.report.count(|counts| counts.sidecars += 1);
                    continue;
                }
                self.write(&digest)?;
            }
        }
        report_foreign(run, &walk.beside());
        Ok(())
    }

    /// Writes a binary, or notes what is wrong with it.
    fn write(&self, digest: &Digest) -> anyhow::Result<()> {
        let run = self.run;
        let mut written = self.try_write(digest)?;
        if let Ok(Written::Other { .. }) = written {
            let settled = Handle::current().block_on(settle(run, self.store(), digest, self.order.settle));
            written = match settled {
                Ok(()) => self.try_write(digest)?,
                Err(error) => Err(error),
            };
        }
        match written {
            Ok(Written::Sound(bytes)) => self.hold(digest, bytes),
            Ok(Written::Other { bytes, small }) => self.suspects.add(*digest, bytes, small.as_deref()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                run.report.count(|counts| counts.vanished += 1);
                Ok(())
            }
            Err(error) => {
                run.report.count(|counts| counts.failed += 1);
                run.report.problem("unreadable", digest.to_string(), format!("read binary: {error}"));
                Ok(())
            }
        }
    }

    fn hold(&self, digest: &Digest, bytes: u64) -> anyhow::Result<()> {
        self.run.report.count(|counts| {
            counts.copied += 1;
            counts.bytes += bytes;
        });
        self.held.put(&Listed { digest: *digest, bytes: Some(bytes), mark: 0 })
    }

    /// The outer error is that of writing, or that the run should stop; the inner one that of reading.
    fn try_write(&self, digest: &Digest) -> anyhow::Result<io::Result<Written>> {
        let opened = self.store().open_file(digest).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, mut file) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        if bytes > HELD as u64 {
            return Ok(match self.backup.copy_binary(digest, &mut file, &|| self.run.go_on())? {
                Copied::Sound(bytes) => Ok(Written::Sound(bytes)),
                Copied::Other(bytes) => Ok(Written::Other { bytes, small: None }),
                Copied::Unreadable(error) => Err(error),
            });
        }
        Ok(match self.store().read_from(&file, bytes, digest, HELD) {
            Ok(Content::Sound(content)) => {
                self.backup.write_binary(digest, &content)?;
                Ok(Written::Sound(content.len() as u64))
            }
            Ok(Content::Other { bytes, small }) => Ok(Written::Other { bytes, small }),
            Err(error) => Err(error),
        })
    }

    /// Tells the sidecars of binaries from damage, which is named.
    fn tell_sidecars(&self) -> anyhow::Result<()> {
        let mut recorder = SidecarRecorder::new(self.run, store_name(self.store()));
        if self.suspects.any() {
            self.held.each(|binary| {
                self.run.go_on()?;
                self.suspects.explain(&binary.digest, &mut recorder)
            })?;
        }
        recorder.flush()?;
        self.suspects.report_rest(self.run)
    }

    /// Looks for every binary that the documents need among those that were written, then once more on disk.
    fn prove(&self, mut needed: Needed) -> anyhow::Result<()> {
        let run = self.run;
        run.report.say("looking for what the documents need");
        let held = &self.held;
        let mut written = Cursor::new(|after: Option<&Digest>| held.page(after), |binary: &Listed| binary.digest);
        let late = run.ledger.scratch()?;
        let closure = needed.compare(run, &mut written, |binary| binary.digest, &mut |digest| {
            late.put(&Listed { digest: *digest, bytes: Some(0), mark: 0 })
        })?;
        let mut missing = 0;
        late.each(|binary| {
            run.go_on()?;
            if let Ok(Written::Sound(bytes)) = self.try_write(&binary.digest)? {
                return self.hold(&binary.digest, bytes);
            }
            missing += 1;
            name_missing(run, self.store(), &binary.digest);
            Ok(())
        })?;
        Closure { missing, ..closure }.count(run);
        Ok(())
    }
}
