//! Puts what was staged in its place, by renaming; when that fails in the middle, takes it back.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use jiff::Timestamp;

use super::compare::Comparison;
use super::owner::Owned;
use super::placing::{Placing, move_back, transfer};
use super::staging::{Staging, make_directories};
use super::{Checked, RestoreOrder};
use crate::jobs::context::RunContext;
use crate::ledger::{Listed, Scratch};
use crate::model::digest::Digest;
use crate::model::layout::Owner;
use crate::repository::binaries::BinaryStore;
use crate::repository::documents::{CommitUnknown, DocumentSource};
use crate::repository::walk::{Found, Walk};

/// Installs everything; gives the quarantine if anything had to go there. Nothing can stop it but an error.
pub(super) fn install(
    run: &RunContext,
    order: &RestoreOrder,
    created: Timestamp,
    checked: Checked,
) -> anyhow::Result<Option<PathBuf>> {
    let Checked { listed, comparison, staging, documents } = checked;
    let mut steps = Steps {
        order,
        staging: &staging,
        comparison: &comparison,
        placing: Placing::new(&order.binaries, &staging, run.ledger.scratch()?),
        markers: run.ledger.scratch()?,
        made: Vec::new(),
        moves: Moves::default(),
    };
    let mut committed = false;
    let placed = (|| {
        if order.wants_binaries() {
            steps.put_binaries()?;
            steps.put_records()?;
        }
        steps.put_documents()?;
        if let Some(documents) = documents {
            // What they refer to has to be on the disk before they are.
            staging.sync().context("write the binaries to disk")?;
            documents.commit()?;
            committed = true;
        }
        Ok(())
    })();
    let unknown = placed.as_ref().is_err_and(|error: &anyhow::Error| error.is::<CommitUnknown>());
    let cleared = placed.and_then(|()| steps.clear(run, &listed, SystemTime::from(created)));
    match cleared {
        Ok(()) => {}
        Err(error) if unknown => {
            // The old documents find all that they refer to, and so do the new ones.
            return Err(error.context(
                "put the documents in place (all binaries are in place, and none was taken away: restore again)",
            ));
        }
        // Nobody can take the documents back, and they have all that they need.
        Err(error) if committed => {
            let root = order.binaries.root().display().to_string();
            run.report.problem("surplus", root, format!("{error:#}: what the backup does not have stays in the store"));
        }
        Err(error) => {
            let left = steps.take_back();
            let gone = staging.give_up(false);
            return Err(match left.and(gone) {
                Ok(()) => error.context("put the files in place (everything was taken back; nothing was changed)"),
                Err(left) => error.context(format!("put the files in place, and take them back: {left:#}")),
            });
        }
    }
    drop(steps);
    if let Err(left) = staging.remove() {
        run.report.notice("staging", staging.path().display().to_string(), format!("{left:#}"));
    }
    Ok(Some(staging.quarantine().to_owned()).filter(|path| path.exists()))
}

/// What has been done so far, as far as the plan does not say it already.
struct Steps<'a> {
    order: &'a RestoreOrder,
    staging: &'a Staging,
    comparison: &'a Comparison,
    placing: Placing<'a>,
    /// The markers that are to go.
    markers: Scratch,
    /// Directories that were made, parents first; none of the store's own levels.
    made: Vec<PathBuf>,
    moves: Moves,
}

#[derive(Default)]
struct Moves {
    /// Whether any binary was put in place.
    put: bool,
    /// The last binary of the plan that was moved to the quarantine.
    quarantined: Option<Digest>,
    /// The last marker that was.
    marked: Option<Digest>,
    /// Files moved one by one: documents and records.
    others: Vec<(PathBuf, PathBuf)>,
}

impl Steps<'_> {
    fn store(&self) -> &BinaryStore {
        &self.order.binaries
    }

    /// Puts all binaries in place; a store that is not there appears with them.
    fn put_binaries(&mut self) -> anyhow::Result<()> {
        let root = self.store().root().to_owned();
        self.make_ours(root.parent().unwrap_or(&root))?;
        self.moves.put = true;
        self.comparison.fetch.each(|binary| self.placing.put(&binary.digest))?;
        self.make_ours(&root)
    }

    /// Makes a directory for the store to be in, or the store itself, if it is missing.
    fn make_ours(&mut self, directory: &Path) -> anyhow::Result<()> {
        let above = self.made.len();
        make_directories(directory, &mut self.made)?;
        self.made[above..].iter().try_for_each(|made| self.staging.owner().hand_over(made))
    }

    /// Moves what the backup does not have to the quarantine, and has the disk take everything.
    fn clear(&mut self, run: &RunContext, listed: &Scratch, created: SystemTime) -> anyhow::Result<()> {
        let comparison = self.comparison;
        comparison.surplus.each(|binary| self.quarantine_binary(run, &binary.digest))?;
        if self.order.wants_all() {
            self.quarantine_markers(listed, created)?;
        }
        self.staging.sync().context("write the repository to disk")
    }

    fn quarantine_binary(&mut self, run: &RunContext, digest: &Digest) -> anyhow::Result<()> {
        let from = self.store().path(digest);
        let to = self.placing.make_aside(digest)?;
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
        transfer(from, to).with_context(|| format!("move `{}` to `{}`", from.display(), to.display()))?;
        self.moves.others.push((from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn put_records(&mut self) -> anyhow::Result<()> {
        for name in &self.comparison.records {
            let target = self.store().root().join(name);
            if target.symlink_metadata().is_ok() {
                self.move_file(&target, &self.staging.quarantine().join("records").join(name))?;
            }
            self.staging.owner().hand_over(&self.staging.record(name))?;
            self.move_file(&self.staging.record(name), &target)?;
        }
        Ok(())
    }

    /// Replaces all documents: those that are there go to the quarantine, `changes/` included.
    fn put_documents(&mut self) -> anyhow::Result<()> {
        let Some(DocumentSource::Directory(directory)) = &self.order.documents else { return Ok(()) };
        let directory = directory.path().to_owned();
        if self.comparison.documents.is_empty() {
            return Ok(());
        }
        let owner = Owned::like(&directory);
        let above = self.made.len();
        make_directories(&directory, &mut self.made)?;
        self.made[above..].iter().try_for_each(|made| owner.hand_over(made))?;
        let aside = self.staging.quarantine().join("documents");
        for below in ["", "changes"] {
            for old in sorted_files(&directory.join(below))? {
                let name = old.file_name().expect("a file has a name");
                if name.to_string_lossy().starts_with("documents_") {
                    self.move_file(&old, &aside.join(below).join(name))?;
                }
            }
        }
        for name in &self.comparison.documents {
            self.move_file(&self.staging.document(name), &directory.join(name))?;
            owner.hand_over(&directory.join(name))?;
        }
        // It may lie on a file system of its own.
        File::open(&directory)
            .and_then(|opened| Ok(rustix::fs::syncfs(opened)?))
            .with_context(|| format!("write `{}` to disk", directory.display()))
    }

    /// A marker of ModeShape's that is younger than the backup would have its garbage collector delete a binary
    /// that the restored documents use.
    fn quarantine_markers(&mut self, listed: &Scratch, created: SystemTime) -> anyhow::Result<()> {
        let trash = self.trash();
        if self.store().layout().owner != Owner::Modeshape || !trash.root().is_dir() {
            return Ok(());
        }
        for found in Walk::begin(&trash, 1)? {
            let batch = match found {
                Found::Binaries(batch) => batch,
                Found::Unreadable { path, cause, .. } => {
                    bail!("read directory `{}` for markers of unused binaries: {cause}", path.display());
                }
            };
            for digest in batch {
                let modified = trash.path(&digest).metadata().and_then(|found| found.modified());
                if modified.is_ok_and(|time| time > created) && listed.get(&digest)?.is_some() {
                    self.markers.put(&Listed { digest, bytes: None, mark: 0 })?;
                }
            }
        }
        let Self { markers, moves, .. } = self;
        markers.each(|marker| {
            moves.marked = Some(marker.digest);
            let (from, to) = (trash.path(&marker.digest), marker_aside(self.staging, &trash, &marker.digest));
            let parent = to.parent().expect("a marker lies in a directory");
            fs::create_dir_all(parent).with_context(|| format!("make `{}`", parent.display()))?;
            match fs::rename(&from, &to) {
                // The binary is in use again, or was taken by the garbage collector.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                moved => moved.with_context(|| format!("move `{}` to the quarantine", from.display())),
            }
        })
    }

    /// The markers, which lie below the store as the binaries do in it.
    fn trash(&self) -> BinaryStore {
        BinaryStore::at(&self.store().root().join("trash"), self.store().layout()).within(self.store().shard())
    }

    /// Undoes everything in the opposite order, as far as it can be; the error is the first of what cannot.
    fn take_back(&self) -> anyhow::Result<()> {
        let mut left = Ok(());
        let mut attempt = |result: anyhow::Result<()>| {
            if left.is_ok() {
                left = result;
            }
        };
        let trash = self.trash();
        if let Some(last) = self.moves.marked {
            self.markers.each_back(Some(&last), |marker| {
                let (from, to) = (marker_aside(self.staging, &trash, &marker.digest), trash.path(&marker.digest));
                attempt(move_back(&from, &to));
                Ok(())
            })?;
        }
        if let Some(last) = self.moves.quarantined {
            self.comparison.surplus.each_back(Some(&last), |binary| {
                let (from, to) = (self.placing.aside(&binary.digest), self.store().path(&binary.digest));
                attempt(move_back(&from, &to));
                Ok(())
            })?;
        }
        for (from, to) in self.moves.others.iter().rev() {
            attempt(move_back(to, from));
        }
        if self.moves.put {
            // All of them: with the last that was put a whole directory may have come.
            self.comparison.fetch.each_back(None, |binary| {
                attempt(self.placing.take_back(&binary.digest));
                Ok(())
            })?;
        }
        for directory in self.made.iter().rev().filter(|directory| !directory.starts_with(self.staging.quarantine())) {
            // One that is not empty was not ours alone.
            drop(fs::remove_dir(directory));
        }
        // What could not be moved back is still in the quarantine.
        left?;
        match fs::remove_dir_all(self.staging.quarantine()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove `{}`", self.staging.quarantine().display()))
            }
            _ => Ok(()),
        }
    }
}

/// Where a marker goes that is younger than the backup.
fn marker_aside(staging: &Staging, trash: &BinaryStore, digest: &Digest) -> PathBuf {
    staging.quarantine().join("trash").join(trash.layout().path(digest))
}

/// The files and links in a directory by name; none if there is no such directory.
fn sorted_files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read `{}`", directory.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
