//! Renames what was staged into the store: what the store lacks as a whole directory in one step, the rest file by
//! file.
//!
//! The binaries wait in the same tree that they are for, so that a store which is not there at all appears in one
//! step, and one that lost a directory gets it back in one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::staging::Staging;
use crate::ledger::{Listed, Scratch};
use crate::model::digest::Digest;
use crate::repository::binaries::BinaryStore;

/// Puts binaries in their places, and remembers what it takes to move them back.
#[derive(Debug)]
pub(super) struct Placing<'a> {
    store: &'a BinaryStore,
    staging: &'a Staging,
    /// The first binary of each directory that was renamed; the mark is how many directories of the store lie above.
    moved: Scratch,
    /// The directory that was renamed last, below the root.
    moved_last: Option<PathBuf>,
    /// A directory that the store has, below the root.
    there: Option<PathBuf>,
}

impl<'a> Placing<'a> {
    /// Nothing is placed yet; `moved` is empty.
    pub(super) fn new(store: &'a BinaryStore, staging: &'a Staging, moved: Scratch) -> Self {
        Self { store, staging, moved, moved_last: None, there: None }
    }

    /// Puts a binary in its place, if it did not come there with its directory. Binaries have to come in order.
    pub(super) fn put(&mut self, digest: &Digest) -> anyhow::Result<()> {
        let path = self.store.layout().path(digest);
        if self.moved_last.as_ref().is_some_and(|moved| path.starts_with(moved)) {
            return Ok(());
        }
        let parent = path.parent().expect("a file has a parent");
        let known = self.there.as_ref().map_or(0, |there| 1 + common(there, parent));
        for level in known..=parent.iter().count() {
            let below: PathBuf = parent.iter().take(level).collect();
            let (from, to) = (inside(self.staging.binaries(), &below), inside(self.store, &below));
            match rename_new(&from, &to) {
                Ok(()) => return self.note(digest, level, below),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // A directory that is a mount point is there, and says so in its own way.
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices && to.is_dir() => {}
                Err(error) => return Err(error).with_context(|| format!("put `{}` in place", to.display())),
            }
        }
        self.there = Some(parent.to_owned());
        self.put_file(digest)
    }

    /// Remembers that a directory was renamed; one that could not be remembered is moved back.
    fn note(&mut self, digest: &Digest, level: usize, below: PathBuf) -> anyhow::Result<()> {
        let mark = i64::try_from(level).context("count levels")?;
        let noted = self.moved.put(&Listed { digest: *digest, bytes: None, mark });
        if noted.is_err() {
            let (from, to) = (inside(self.store, &below), inside(self.staging.binaries(), &below));
            fs::rename(&from, &to).with_context(|| format!("move `{}` back", from.display()))?;
        }
        self.there = below.parent().map(Path::to_owned);
        self.moved_last = Some(below);
        noted
    }

    fn put_file(&self, digest: &Digest) -> anyhow::Result<()> {
        let (target, staged) = (self.store.path(digest), self.staging.binary(digest));
        let context = || format!("put `{}` in place", target.display());
        match rename_new(&staged, &target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            renamed => return renamed.with_context(context),
        }
        let aside = self.make_aside(digest)?;
        match fs::hard_link(&target, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Some file systems have no links; then the damaged file is away for a moment.
            Err(_) => fs::rename(&target, &aside).with_context(context)?,
        }
        fs::rename(&staged, &target).with_context(context)
    }

    /// Where a file of the store goes that is replaced or not in the backup.
    pub(super) fn aside(&self, digest: &Digest) -> PathBuf {
        self.staging.quarantine().join("binaries").join(self.store.layout().path(digest))
    }

    /// The same, with the directory for it.
    pub(super) fn make_aside(&self, digest: &Digest) -> anyhow::Result<PathBuf> {
        let path = self.aside(digest);
        let parent = path.parent().expect("a binary lies in a directory");
        fs::create_dir_all(parent).with_context(|| format!("make `{}`", parent.display()))?;
        Ok(path)
    }

    /// Moves a binary back to where it waited, and what it replaced back to its place.
    ///
    /// A directory is not renamed back as a whole: somebody may have put something there by now. Binaries have to come
    /// in the opposite order.
    pub(super) fn take_back(&self, digest: &Digest) -> anyhow::Result<()> {
        let (target, staged, aside) = (self.store.path(digest), self.staging.binary(digest), self.aside(digest));
        if staged.symlink_metadata().is_err() && target.symlink_metadata().is_ok() {
            self.staging.make_level(staged.parent().expect("a binary lies in a directory"))?;
            move_back(&target, &staged)?;
        }
        if aside.symlink_metadata().is_ok() && target.symlink_metadata().is_ok() {
            // Only its second name was made: renaming one onto the other would do nothing.
            fs::remove_file(&aside).with_context(|| format!("remove `{}`", aside.display()))?;
        } else {
            move_back(&aside, &target)?;
        }
        let path = self.store.layout().path(digest);
        let parent = path.parent().expect("a file has a parent");
        let Some(first) = self.moved.nearest(digest)? else { return Ok(()) };
        let level = usize::try_from(first.mark).context("count levels")?;
        let moved: PathBuf = self.store.layout().path(&first.digest).iter().take(level).collect();
        if path.starts_with(&moved) {
            for above in (level..=parent.iter().count()).rev() {
                // It is empty once the binaries after it are gone, unless somebody else put something there.
                drop(fs::remove_dir(inside(self.store, &parent.iter().take(above).collect::<PathBuf>())));
            }
        }
        Ok(())
    }
}

/// How many directories two paths have in common from their beginning.
fn common(one: &Path, other: &Path) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// A directory of a store; the root for an empty path.
fn inside(store: &BinaryStore, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { store.root().to_owned() } else { store.root().join(below) }
}

/// Renames a file or directory to a name that must not be taken.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Network and user file systems may not know how to look and rename in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        renamed => return Ok(renamed?),
    }
    match to.symlink_metadata() {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
        Err(error) => Err(error),
    }
}

/// Moves a file back; one that is not there was not moved.
pub(super) fn move_back(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.symlink_metadata().is_err() {
        return Ok(());
    }
    transfer(from, to).with_context(|| format!("move `{}` back to `{}`", from.display(), to.display()))
}

/// Renames a file. Documents may lie on another file system than binaries: then it is copied beside its new place,
/// and renamed when it is whole. After an error it is where it was.
pub(super) fn transfer(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        renamed => return renamed,
    }
    let name = to.file_name().expect("a file has a name");
    let beside = to.with_file_name(format!(".holdfast-{}", name.display()));
    let copied = fs::copy(from, &beside)
        .and_then(|_| fs::File::open(&beside)?.sync_all())
        .and_then(|()| fs::rename(&beside, to));
    if copied.is_err() {
        drop(fs::remove_file(&beside));
    }
    copied?;
    fs::remove_file(from).or_else(|error| fs::remove_file(to).and(Err(error)))
}
