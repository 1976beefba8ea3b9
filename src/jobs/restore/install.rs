//! Puts what was staged in its place, by renaming; when that fails in the middle, takes it back.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use jiff::Timestamp;

use super::compare::Comparison;
use super::staging::{Staging, make_directories};
use super::{Checked, RestoreOrder};
use crate::jobs::context::RunContext;
use crate::ledger::{Listed, Scratch};
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
    let mut steps = Steps {
        order,
        owner: Owned::like(order.binaries.root()),
        staging: &staging,
        comparison: &comparison,
        levels: run.ledger.scratch()?,
        markers: run.ledger.scratch()?,
        made: Vec::new(),
        moves: Moves::default(),
    };
    let installed = (|| {
        make_directories(order.binaries.root(), &mut steps.made)?;
        steps.made.iter().try_for_each(|directory| steps.owner.hand_over(directory))?;
        comparison.fetch.each(|binary| steps.put_binary(&binary.digest))?;
        steps.put_records()?;
        steps.put_documents()?;
        comparison.surplus.each(|binary| steps.quarantine_binary(run, &binary.digest))?;
        if order.only.is_empty() {
            steps.quarantine_markers(&listed, SystemTime::from(created))?;
        }
        staging.sync().context("write the repository to disk")
    })();
    if let Err(error) = installed {
        let left = steps.take_back();
        let gone = staging.give_up(false);
        return Err(match left.and(gone) {
            Ok(()) => error.context("put the files in place (everything was taken back; nothing was changed)"),
            Err(left) => error.context(format!("put the files in place, and take them back: {left:#}")),
        });
    }
    drop(steps);
    if let Err(left) = staging.remove() {
        run.report.notice("staging", staging.path().display().to_string(), format!("{left:#}"));
    }
    Ok(Some(staging.quarantine().to_owned()).filter(|path| path.exists()))
}

/// Who the files of a directory belong to; nobody in particular unless root restores, who may give them away.
#[derive(Clone, Copy)]
struct Owned(Option<(u32, u32)>);

impl Owned {
    /// The owner and group of a directory, or of the nearest one above it that is there.
    fn like(directory: &Path) -> Self {
        let there = || directory.ancestors().find_map(|path| path.metadata().ok());
        let root = rustix::process::geteuid().is_root();
        Self(root.then(there).flatten().map(|found| (found.uid(), found.gid())))
    }

    /// Gives a file or directory to that owner, so that the repository can read it and take it away.
    fn hand_over(self, path: &Path) -> anyhow::Result<()> {
        let Some((user, group)) = self.0 else { return Ok(()) };
        lchown(path, Some(user), Some(group))
            .with_context(|| format!("give `{}` to user {user} and group {group}", path.display()))
    }
}

/// What has been done so far, as far as the plan does not say it already.
struct Steps<'a> {
    order: &'a RestoreOrder,
    owner: Owned,
    staging: &'a Staging,
    comparison: &'a Comparison,
    /// The binaries that directories were made for; the mark is how many.
    levels: Scratch,
    /// The markers that are to go.
    markers: Scratch,
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
    /// The last marker that was.
    marked: Option<Digest>,
    /// Files moved one by one: documents and records.
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
        self.owner.hand_over(&staged)?;
        match fs::hard_link(&target, self.aside(digest, false)?) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Some file systems have no links; then the damaged file is away for a moment.
            Err(_) => fs::rename(&target, self.aside(digest, true)?).with_context(context)?,
        }
        match fs::rename(&staged, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_levels(digest)?;
                fs::rename(&staged, &target).with_context(context)
            }
            renamed => renamed.with_context(context),
        }
    }

    /// Makes the directories that a binary lies in, and notes how many there were to make.
    fn make_levels(&self, digest: &Digest) -> anyhow::Result<()> {
        let target = self.store().path(digest);
        let parent = target.parent().expect("a binary lies in a directory");
        let missing = parent.ancestors().take_while(|path| !path.exists()).count();
        let mark = i64::try_from(missing).context("count levels")?;
        self.levels.put(&Listed { digest: *digest, bytes: None, mark })?;
        fs::create_dir_all(parent).with_context(|| format!("make `{}`", parent.display()))?;
        parent.ancestors().take(missing).try_for_each(|level| self.owner.hand_over(level))
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
            self.owner.hand_over(&self.staging.record(name))?;
            self.move_file(&self.staging.record(name), &target)?;
        }
        Ok(())
    }

    /// Replaces all documents: those that are there go to the quarantine, `changes/` included.
    fn put_documents(&mut self) -> anyhow::Result<()> {
        let Some(directory) = self.order.documents.clone() else { return Ok(()) };
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
        BinaryStore::at(&self.store().root().join("trash"), self.store().layout())
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
            self.markers.each_back(&last, |marker| {
                let (from, to) = (marker_aside(self.staging, &trash, &marker.digest), trash.path(&marker.digest));
                attempt(move_back(&from, &to));
                Ok(())
            })?;
        }
        if let Some(last) = self.moves.quarantined {
            self.comparison.surplus.each_back(&last, |binary| {
                let (from, to) = (self.aside(&binary.digest, false)?, self.store().path(&binary.digest));
                attempt(move_back(&from, &to));
                Ok(())
            })?;
        }
        for (from, to) in self.moves.others.iter().rev() {
            attempt(move_back(to, from));
        }
        if let Some(last) = self.moves.put {
            self.comparison.fetch.each_back(&last, |binary| {
                attempt(self.take_back_binary(&binary.digest));
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

    fn take_back_binary(&self, digest: &Digest) -> anyhow::Result<()> {
        let (target, staged, aside) =
            (self.store().path(digest), self.staging.binary(digest), self.aside(digest, false)?);
        if staged.symlink_metadata().is_err() {
            move_back(&target, &staged)?;
        }
        if aside.symlink_metadata().is_ok() && target.symlink_metadata().is_ok() {
            // Only its second name was made: renaming one onto the other would do nothing.
            fs::remove_file(&aside).with_context(|| format!("remove `{}`", aside.display()))?;
        } else {
            move_back(&aside, &target)?;
        }
        let made = self.levels.get(digest)?.map_or(0, |levels| levels.mark);
        let made = usize::try_from(made).context("count levels")?;
        for directory in target.ancestors().skip(1).take(made) {
            // The binaries after it are gone again, so it is empty, unless somebody else put something there.
            drop(fs::remove_dir(directory));
        }
        Ok(())
    }
}

/// Where a marker goes that is younger than the backup.
fn marker_aside(staging: &Staging, trash: &BinaryStore, digest: &Digest) -> PathBuf {
    staging.quarantine().join("trash").join(trash.layout().path(digest))
}

/// Moves a file back; one that is not there was not moved.
fn move_back(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.symlink_metadata().is_err() {
        return Ok(());
    }
    transfer(from, to).with_context(|| format!("move `{}` back to `{}`", from.display(), to.display()))
}

/// Renames a file. Documents may lie on another file system than binaries: then it is copied beside its new place,
/// and renamed when it is whole. After an error it is where it was.
fn transfer(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        renamed => return renamed,
    }
    let name = to.file_name().expect("a file has a name");
    let beside = to.with_file_name(format!(".holdfast-{}", name.display()));
    let copied =
        fs::copy(from, &beside).and_then(|_| File::open(&beside)?.sync_all()).and_then(|()| fs::rename(&beside, to));
    if copied.is_err() {
        drop(fs::remove_file(&beside));
    }
    copied?;
    fs::remove_file(from).or_else(|error| fs::remove_file(to).and(Err(error)))
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
