//! Puts what was staged in its place, by renaming; when that fails in the middle, takes it back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use jiff::Timestamp;

use super::staging::{Staging, make_directories};
use super::{Checked, RestoreOrder};
use crate::jobs::context::RunContext;
use crate::model::digest::Digest;
use crate::model::layout::Owner;
use crate::repository::binaries::BinaryStore;
use crate::repository::walk::{Found, Walk};

/// Installs everything; gives the quarantine if anything had to go there. Nothing can stop it but an error.
pub(super) fn install(
    run: &RunContext,
    order: &RestoreOrder,
    created: Timestamp,
    checked: Checked,
) -> anyhow::Result<Option<PathBuf>> {
    let Checked { listed, comparison, staging } = checked;
    let mut steps = Steps { order, staging: &staging, made: Vec::new(), moves: Moves::default() };
    let installed = (|| {
        make_directories(order.binaries.root(), &mut steps.made)?;
        comparison.fetch.each(|binary| steps.put_binary(&binary.digest))?;
        if comparison.records {
            steps.put_records()?;
        }
        if comparison.documents {
            steps.put_documents()?;
        }
        comparison.surplus.each(|binary| steps.quarantine_binary(run, &binary.digest))?;
        if order.only.is_empty() {
            steps.quarantine_markers(&listed, SystemTime::from(created))?;
        }
        staging.sync().context("write the repository to disk")
    })();
    if let Err(error) = installed {
        let left = steps.take_back(&comparison);
        let gone = staging.give_up(false);
        return Err(match left.and(gone) {
            Ok(()) => error.context("put the files in place (everything was taken back; nothing was changed)"),
            Err(left) => error.context(format!("put the files in place, and take them back: {left:#}")),
        });
    }
    drop(steps);
    staging.remove()?;
    Ok(Some(staging.quarantine().to_owned()).filter(|path| path.exists()))
}

/// What has been done so far, as far as the plan does not say it already.
struct Steps<'a> {
    order: &'a RestoreOrder,
    staging: &'a Staging,
    /// Directories that were not there before, parents first; bounded to those outside the store's own levels.
    made: Vec<PathBuf>,
    moves: Moves,
}

#[derive(Default)]
struct Moves {
    /// The last binary of the plan that was put in place.
    put: Option<Digest>,
    /// The last binary of the plan that was moved to the quarantine.
    quarantined: Option<Digest>,
    /// Files moved one by one: documents, records, markers.
    others: Vec<(PathBuf, PathBuf)>,
}

impl Steps<'_> {
    fn store(&self) -> &BinaryStore {
        &self.order.binaries
    }

    fn put_binary(&mut self, digest: &Digest) -> anyhow::Result<()> {
        let target = self.store().path(digest);
        let staged = self.staging.binary(digest);
        let context = || format!("put `{}` in place", target.display());
        self.moves.put = Some(*digest);
        match fs::hard_link(&target, self.aside(digest, false)?) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Some file systems have no links; then the damaged file is away for a moment.
            Err(_) => fs::rename(&target, self.aside(digest, true)?).with_context(context)?,
        }
        match fs::rename(&staged, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = target.parent().expect("a binary lies in a directory");
                fs::create_dir_all(parent).with_context(|| format!("make `{}`", parent.display()))?;
                fs::rename(&staged, &target).with_context(context)
            }
            renamed => renamed.with_context(context),
        }
    }

    /// Where a file of the store goes that is replaced or not in the backup; makes the directory for it if there is
    /// something to put there.
    fn aside(&self, digest: &Digest, make: bool) -> anyhow::Result<PathBuf> {
        let path = self.staging.quarantine().join("binaries").join(self.store().layout().path(digest));
        let parent = path.parent().expect("a binary lies in a directory");
        if make || self.store().path(digest).symlink_metadata().is_ok() {
            fs::create_dir_all(parent).with_context(|| format!("make `{}`", parent.display()))?;
        }
        Ok(path)
    }

    fn quarantine_binary(&mut self, run: &RunContext, digest: &Digest) -> anyhow::Result<()> {
        let from = self.store().path(digest);
        let to = self.aside(digest, true)?;
        self.moves.quarantined = Some(*digest);
        match fs::rename(&from, &to) {
            Ok(()) => run.report.count(|counts| counts.quarantined += 1),
            // The store's own garbage collector may have taken it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("move `{}` to the quarantine", from.display())),
        }
        Ok(())
    }

    /// Moves one file and notes it, so that it can be moved back.
    fn move_file(&mut self, from: &Path, to: &Path) -> anyhow::Result<()> {
        let parent = to.parent().expect("a file lies in a directory");
        make_directories(parent, &mut self.made)?;
        fs::rename(from, to).with_context(|| format!("move `{}` to `{}`", from.display(), to.display()))?;
        self.moves.others.push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    /// Puts a staged file in place of one that may be there, which goes to the quarantine.
    fn replace(&mut self, staged: &Path, target: &Path, aside: &Path) -> anyhow::Result<()> {
        if target.symlink_metadata().is_ok() {
            self.move_file(target, aside)?;
        }
        self.move_file(staged, target)
    }

    fn put_records(&mut self) -> anyhow::Result<()> {
        let root = self.store().root().to_owned();
        for staged in sorted_files(&self.staging.record(""))? {
            let name = staged.file_name().expect("a file has a name");
            let aside = self.staging.quarantine().join("records").join(name);
            self.replace(&staged, &root.join(name), &aside)?;
        }
        Ok(())
    }

    /// Replaces all documents: those that are there go to the quarantine, `changes/` included.
    fn put_documents(&mut self) -> anyhow::Result<()> {
        let Some(directory) = self.order.documents.clone() else { return Ok(()) };
        make_directories(&directory, &mut self.made)?;
        let aside = self.staging.quarantine().join("documents");
        for below in ["", "changes"] {
            for old in sorted_files(&directory.join(below))? {
                let name = old.file_name().expect("a file has a name");
                if name.to_string_lossy().starts_with("documents_") {
                    self.move_file(&old, &aside.join(below).join(name))?;
                }
            }
        }
        for staged in sorted_files(&self.staging.document(""))? {
            let name = staged.file_name().expect("a file has a name");
            self.move_file(&staged, &directory.join(name))?;
        }
        Ok(())
    }

    /// A marker of ModeShape's that is younger than the backup would have its garbage collector delete a binary
    /// that the restored documents use.
    fn quarantine_markers(&mut self, listed: &crate::ledger::Scratch, created: SystemTime) -> anyhow::Result<()> {
        let trash = self.store().root().join("trash");
        if self.store().layout().owner != Owner::Modeshape || !trash.is_dir() {
            return Ok(());
        }
        let markers = BinaryStore::at(&trash, self.store().layout());
        for found in Walk::begin(&markers, 1)? {
            let Found::Binaries(batch) = found else { continue };
            for digest in batch {
                let marker = markers.path(&digest);
                let younger = marker.metadata().and_then(|found| found.modified()).is_ok_and(|time| time > created);
                if younger && listed.get(&digest)?.is_some() {
                    let aside = self.staging.quarantine().join("trash").join(self.store().layout().path(&digest));
                    self.move_file(&marker, &aside)?;
                }
            }
        }
        Ok(())
    }

    /// Undoes everything in the opposite order.
    fn take_back(&self, comparison: &super::compare::Comparison) -> anyhow::Result<()> {
        let mut after = None;
        while let Some(last) = self.moves.quarantined {
            let page = comparison.surplus.page(after.as_ref())?;
            let Some(end) = page.last() else { break };
            after = Some(end.digest);
            for binary in page.iter().take_while(|binary| binary.digest <= last) {
                let (from, to) = (self.aside(&binary.digest, false)?, self.store().path(&binary.digest));
                move_back(&from, &to)?;
            }
        }
        for (from, to) in self.moves.others.iter().rev() {
            move_back(to, from)?;
        }
        let mut after = None;
        while let Some(last) = self.moves.put {
            let page = comparison.fetch.page(after.as_ref())?;
            let Some(end) = page.last() else { break };
            after = Some(end.digest);
            for binary in page.iter().take_while(|binary| binary.digest <= last) {
                self.take_back_binary(&binary.digest)?;
            }
        }
        for directory in self.made.iter().rev() {
            // One that is not empty was not ours alone.
            drop(fs::remove_dir(directory));
        }
        drop(fs::remove_dir_all(self.staging.quarantine()));
        Ok(())
    }

    fn take_back_binary(&self, digest: &Digest) -> anyhow::Result<()> {
        let (target, staged, aside) =
            (self.store().path(digest), self.staging.binary(digest), self.aside(digest, false)?);
        if staged.symlink_metadata().is_err() {
            move_back(&target, &staged)?;
        }
        move_back(&aside, &target)?;
        // Directories that were made for it are empty now; others stay.
        let mut directory = target.parent();
        while let Some(path) = directory.filter(|path| *path != self.store().root()) {
            if fs::remove_dir(path).is_err() {
                break;
            }
            directory = path.parent();
        }
        Ok(())
    }
}

/// Moves a file back; one that is not there was not moved.
fn move_back(from: &Path, to: &Path) -> anyhow::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("move `{}` back to `{}`", from.display(), to.display()))
        }
        _ => Ok(()),
    }
}

/// The files in a directory by name; none if there is no such directory.
fn sorted_files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read `{}`", directory.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
