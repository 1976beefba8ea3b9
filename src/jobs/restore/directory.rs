//! A ModeShape backup directory as something to restore from. It has no manifest, so all that is known of it is what is
//! read: every line of its documents and every byte of its binaries, before anything is staged.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail, ensure};

use super::RestoreOrder;
use super::compare::Comparison;
use super::fetch::{stage_documents, stage_from_archive};
use super::staging::Staging;
use crate::jobs::closure::Needed;
use crate::jobs::context::RunContext;
use crate::jobs::cursor::Cursor;
use crate::jobs::source::{OnDisk, add};
use crate::ledger::{Listed, Scratch};
use crate::model::digest::{Algorithm, Digest, Hasher};
use crate::model::point::DocumentSet;
use crate::repository::backup_directory::BackupDirectory;
use crate::repository::documents::DocumentReport;

/// What begins the name of the directory in which a backup directory is staged.
const STAGED: &str = "directory-";
/// How many that are damaged or missing are named in an error.
const NAMED: usize = 3;
/// How much of a binary is read at once.
const READ_BYTES: usize = 256 << 10;

/// What a backup directory holds.
#[derive(Clone, Debug)]
pub struct DirectoryContents {
    directory: BackupDirectory,
    documents: DocumentSet,
    only: Vec<Digest>,
    found: Arc<Mutex<Found>>,
}

/// What is found out on the way.
#[derive(Debug, Default)]
struct Found {
    /// What the documents refer to, until it has been compared.
    needed: Option<Needed>,
    /// What of it the directory does not have.
    lacking: Option<Scratch>,
    /// The sizes of its binaries, added up.
    bytes: u64,
}

/// Whether the rest of a staging directory's name is that of a backup directory.
pub(super) fn is_staged_directory(name: &str) -> bool {
    name.strip_prefix(STAGED).is_some_and(|digest| digest.parse::<Digest>().is_ok())
}

impl DirectoryContents {
    /// Reads all documents, unless only some binaries are wanted; a directory with damaged or no documents is refused.
    pub async fn open(run: &RunContext, path: &Path, only: &[Digest]) -> anyhow::Result<Self> {
        let (directory, only) = (BackupDirectory::at(path), only.to_vec());
        run.blocking(move |run| {
            directory.check()?;
            let mut contents =
                Self { directory, documents: DocumentSet::default(), only, found: Arc::new(Mutex::default()) };
            if contents.only.is_empty() {
                contents.read_documents(run)?;
            }
            Ok(contents)
        })
        .await
    }

    fn read_documents(&mut self, run: &RunContext) -> anyhow::Result<()> {
        run.report.phase("checking the documents of the directory", "documents", None);
        let (documents, mut needed) = (&mut self.documents, Needed::new(run)?);
        let report =
            self.directory.documents().read(&mut OnDisk::new(run)?, &|| run.stop.is_cancelled(), &mut |mut packed| {
                run.report.advance(packed.documents);
                needed.add(&std::mem::take(&mut packed.references))?;
                add(documents, &packed, None);
                Ok(())
            });
        run.go_on()?;
        let report = report?;
        refuse_damaged(&report, self.path())?;
        run.report.count(|counts| {
            counts.duplicate_documents += report.duplicates;
            counts.conflicting_documents += report.conflicting;
        });
        for problem in report.problems {
            run.report.notice(&problem.kind, problem.subject, problem.message);
        }
        self.found.lock().unwrap_or_else(PoisonError::into_inner).needed = Some(needed);
        Ok(())
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What the directory is called that it is staged in: another try finds what this one left.
    pub(super) fn staged_as(&self) -> String {
        format!("{STAGED}{}", Digest::of(Algorithm::Sha1, self.path().as_os_str().as_encoded_bytes()))
    }

    /// Its documents.
    pub(super) const fn documents(&self) -> &DocumentSet {
        &self.documents
    }

    /// The sizes of its binaries, added up; known when they have been listed.
    pub(super) fn bytes(&self) -> u64 {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Reads every binary, or those that are wanted, and lists them; refuses the directory if one of them is damaged.
    pub(super) async fn list(&self, run: &RunContext) -> anyhow::Result<Scratch> {
        run.report.phase("checking the binaries of the directory", "binaries", None);
        let contents = self.clone();
        run.blocking(move |run| {
            let listed = run.ledger.scratch()?;
            let (mut bytes, mut damaged) = (0, Vec::new());
            contents.each_wanted(&mut |digest| {
                if let Some(size) = contents.check_binary(run, &digest)? {
                    bytes += size;
                    listed.put(&Listed { digest, bytes: Some(size), mark: 0 })?;
                } else {
                    run.report.count(|counts| counts.damaged += 1);
                    let message = "its content does not have the digest in its name";
                    run.report.problem("damaged", digest.to_string(), message);
                    damaged.push(digest.to_string());
                    damaged.truncate(NAMED);
                }
                run.report.advance(1);
                Ok(())
            })?;
            let count = run.report.counts().damaged;
            if count > 0 {
                bail!(
                    "check `{}`: {count} of its binaries are damaged ({}); nothing was changed",
                    contents.path().display(),
                    damaged.join(", ")
                );
            }
            let mut found = contents.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.bytes = bytes;
            let needed = found.needed.take();
            found.lacking = needed.map(|needed| Self::lacking(run, needed, &listed)).transpose()?;
            drop(found);
            Ok(listed)
        })
        .await
    }

    fn each_wanted(&self, visit: &mut dyn FnMut(Digest) -> anyhow::Result<()>) -> anyhow::Result<()> {
        if self.only.is_empty() {
            return self.directory.binaries()?.try_for_each(|digest| visit(digest?));
        }
        self.only.iter().try_for_each(|digest| match self.directory.open_binary(digest) {
            // Whoever asked for it is told that it is not there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            _ => visit(*digest),
        })
    }

    /// The size of a binary; none if its content is not its name.
    fn check_binary(&self, run: &RunContext, digest: &Digest) -> anyhow::Result<Option<u64>> {
        let context = || format!("read binary {digest} in `{}`", self.path().display());
        let mut content = self.directory.open_binary(digest).with_context(context)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; READ_BYTES];
        let mut bytes = 0;
        loop {
            run.go_on()?;
            match content.read(&mut buffer) {
                Ok(0) => return Ok((hasher.finish() == *digest).then_some(bytes)),
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                    bytes += read as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // Only the system's errors say nothing about the content.
                Err(error) if error.raw_os_error().is_some() => return Err(error).with_context(context),
                Err(_) => return Ok(None),
            }
        }
    }

    /// What the documents refer to and the directory does not have.
    fn lacking(run: &RunContext, mut needed: Needed, listed: &Scratch) -> anyhow::Result<Scratch> {
        let lacking = run.ledger.scratch()?;
        let mut held = Cursor::new(|after: Option<&Digest>| listed.page(after), |binary: &Listed| binary.digest);
        let closure = needed.compare(run, &mut held, |binary| binary.digest, &mut |digest| {
            lacking.put(&Listed { digest: *digest, bytes: Some(0), mark: 0 })
        })?;
        run.report.count(|counts| {
            counts.references += closure.references;
            counts.unreferenced += closure.unreferenced;
        });
        Ok(lacking)
    }

    /// Binaries that the documents refer to, that the directory does not have and the repository does, stay there:
    /// ModeShape's backups of a repository in use may lack some. Those that are nowhere are named.
    pub(super) async fn keep_needed(
        &self,
        run: &RunContext,
        order: &RestoreOrder,
        mut comparison: Comparison,
    ) -> anyhow::Result<Comparison> {
        let (contents, store) = (self.clone(), order.binaries.clone());
        run.blocking(move |run| {
            let lacking = contents.found.lock().unwrap_or_else(PoisonError::into_inner).lacking.take();
            let Some(lacking) = lacking else { return Ok(comparison) };
            let mut missing = 0;
            lacking.each(|binary| {
                run.go_on()?;
                let digest = &binary.digest;
                if store.check(digest, &|| run.stop.is_cancelled()).is_ok_and(|sound| sound) {
                    comparison.surplus_count -= u64::from(comparison.surplus.take(digest)?);
                    comparison.keep += 1;
                    return Ok(());
                }
                missing += 1;
                let message = "documents refer to it, and neither the directory nor the repository has it";
                run.report.problem("missing", digest.to_string(), message);
                Ok(())
            })?;
            run.report.count(|counts| counts.missing += missing);
            if missing > 0 && !contents.directory.has_binaries() {
                bail!(
                    "read `{}`: there is no directory `binaries` in it, and its documents refer to {missing} binaries \
                     that the repository does not have; nothing was changed: is all of the backup there?",
                    contents.path().display()
                );
            }
            Ok(comparison)
        })
        .await
    }

    /// Stages what is needed; all of it is checked once more on the way.
    pub(super) async fn bring(
        &self,
        run: &RunContext,
        comparison: Comparison,
        staging: &Staging,
    ) -> anyhow::Result<Comparison> {
        let (contents, staging) = (self.clone(), staging.paths());
        run.blocking(move |run| {
            if !comparison.documents.is_empty() {
                contents.bring_documents(run, &staging)?;
            }
            comparison.fetch.each(|binary| {
                run.go_on()?;
                if staging.has(&binary.digest)? {
                    run.report.advance(binary.bytes.unwrap_or_default());
                    run.report.count(|counts| counts.staged += 1);
                    return Ok(());
                }
                let context = || format!("read binary {} in `{}`", binary.digest, contents.path().display());
                let mut content = contents.directory.open_binary(&binary.digest).with_context(context)?;
                stage_from_archive(run, &staging, binary, &mut content)
            })?;
            Ok(comparison)
        })
        .await
    }

    fn bring_documents(&self, run: &RunContext, staging: &Staging) -> anyhow::Result<()> {
        let mut expected = self.documents.files.iter();
        let changed = || format!("read the documents in `{}`: they were changed meanwhile", self.path().display());
        let read =
            self.directory.documents().read(&mut OnDisk::new(run)?, &|| run.stop.is_cancelled(), &mut |packed| {
                let file = expected.next().filter(|file| file.sha1 == packed.sha1).with_context(changed)?;
                stage_documents(run, file, &packed.content, staging)
            });
        run.go_on()?;
        read?;
        ensure!(expected.next().is_none(), changed());
        Ok(())
    }
}

/// A document that cannot be read is not in the repository any more after a restore.
fn refuse_damaged(report: &DocumentReport, path: &Path) -> anyhow::Result<()> {
    if report.damaged == 0 && report.losses == 0 {
        return Ok(());
    }
    let named: Vec<String> = report
        .problems
        .iter()
        .filter(|problem| problem.kind != "documents")
        .take(NAMED)
        .map(|problem| format!("{}: {}", problem.subject, problem.message))
        .collect();
    bail!(
        "check the documents in `{}`: {} lines or files are damaged or missing ({}); nothing was changed",
        path.display(),
        report.losses.max(report.damaged),
        named.join("; ")
    );
}
