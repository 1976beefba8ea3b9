//! The demo's own directory: outside of it nothing is written, and nothing deleted.

use std::fs::{self, DirBuilder, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::cli::exit::Usage;

/// How many names are tried; demos that were killed may have left theirs.
const TRIES: u32 = 100;

/// A directory that was made for the demo, or was empty.
#[derive(Debug)]
pub(super) struct Ground {
    root: PathBuf,
    /// Device and inode: whatever else may be found under the name later is not ours to delete from.
    identity: (u64, u64),
    kept: bool,
}

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Deleted {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Ground {
    /// A new directory among the temporary ones, which goes at the end.
    pub(super) fn temporary() -> anyhow::Result<Self> {
        let (home, process) = (std::env::temp_dir(), std::process::id());
        for number in 0..TRIES {
            let suffix = if number == 0 { String::new() } else { format!("-{number}") };
            let path = home.join(format!("holdfast-demo-{process}{suffix}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let mut ground = Self::of(&path)?;
                    ground.kept = false;
                    return Ok(ground);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("make `{}` (name another place with --dir)", path.display()));
                }
            }
        }
        bail!("make a directory in `{}`: all names are taken; name one with --dir", home.display())
    }

    /// A directory that somebody named, and that stays: a new one, or an empty one.
    pub(super) fn at(path: &Path) -> anyhow::Result<Self> {
        let refuse = |cause: &str| {
            let way_out = "name a directory that is empty, or that does not exist yet";
            Usage::new(format!("use `{}`: {cause}", path.display()), way_out)
        };
        match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(refuse("the directory is not empty").into());
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(path).with_context(|| format!("make `{}`", path.display()))?;
            }
            Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(refuse("it is no directory").into()),
            Err(error) => return Err(error).with_context(|| format!("look into `{}`", path.display())),
        }
        Self::of(path)
    }

    fn of(path: &Path) -> anyhow::Result<Self> {
        let root = path.canonicalize().with_context(|| format!("find `{}`", path.display()))?;
        let identity = identity(&look_at(&root)?);
        Ok(Self { root, identity, kept: true })
    }

    /// Leaves everything where it is at the end.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// Whether everything stays at the end.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Deletes a directory that lies in this one.
    pub(super) fn destroy(&self, name: &str) -> anyhow::Result<Deleted> {
        let mut components = Path::new(name).components();
        let one = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        let path = self.path(name);
        ensure!(one, "delete `{}`: it is not a directory of the demo", path.display());
        self.check_identity()?;
        let deleted = contents(&path)?;
        fs::remove_dir_all(&path).with_context(|| format!("delete `{}`", path.display()))?;
        Ok(deleted)
    }

    /// Removes everything, unless it is kept.
    pub(super) fn leave(&mut self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.kept, true) {
            return Ok(());
        }
        self.check_identity()?;
        fs::remove_dir_all(&self.root).with_context(|| format!("remove `{}`", self.root.display()))
    }

    fn check_identity(&self) -> anyhow::Result<()> {
        let same = identity(&look_at(&self.root)?) == self.identity;
        ensure!(same, "delete in `{}`: it is another directory now; nothing was deleted", self.root.display());
        Ok(())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Only a panic leads here with something to remove, and it is what counts.
        drop(self.leave());
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// A link is no directory here: what it leads to is not ours.
fn look_at(directory: &Path) -> anyhow::Result<Metadata> {
    let found = fs::symlink_metadata(directory).with_context(|| format!("look at `{}`", directory.display()))?;
    ensure!(found.is_dir(), "look at `{}`: it is no directory", directory.display());
    Ok(found)
}

fn contents(directory: &Path) -> anyhow::Result<Deleted> {
    look_at(directory)?;
    let mut deleted = Deleted::default();
    for file in files_below(directory)? {
        deleted.files += 1;
        deleted.bytes += file.symlink_metadata().with_context(|| format!("look at `{}`", file.display()))?.len();
    }
    Ok(deleted)
}

/// Every file below a directory.
pub(super) fn files_below(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let read = || format!("read `{}`", directory.display());
        for entry in fs::read_dir(&directory).with_context(read)? {
            let entry = entry.with_context(read)?;
            let is_directory = entry.file_type().with_context(read)?.is_dir();
            if is_directory { &mut directories } else { &mut files }.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_directly_in_the_ground_is_deleted() {
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        let ground = Ground::at(&scratch.path().join("ground")).unwrap();
        fs::create_dir(ground.path("mine")).unwrap();
        fs::write(ground.path("mine/file"), "four").unwrap();
        std::os::unix::fs::symlink(&outside, ground.path("link")).unwrap();
        for name in ["../outside", "..", ".", "", "/", "mine/..", "link", "absent"] {
            assert!(ground.destroy(name).is_err(), "{name}");
        }
        assert!(ground.destroy(outside.to_str().unwrap()).is_err());
        assert_eq!(ground.destroy("mine").unwrap(), Deleted { files: 1, bytes: 4 });
        assert!(outside.join("precious").exists() && !ground.path("mine").exists());
    }

    #[test]
    fn another_directory_under_the_same_name_is_left_alone() {
        let mut ground = Ground::temporary().unwrap();
        let (root, moved) = (ground.root().to_owned(), ground.root().with_extension("moved"));
        fs::rename(&root, &moved).unwrap();
        fs::create_dir(&root).unwrap();
        fs::write(root.join("precious"), "x").unwrap();
        assert!(ground.leave().is_err());
        assert!(root.join("precious").exists());
        fs::remove_dir_all(root).unwrap();
        fs::remove_dir_all(moved).unwrap();
    }

    #[test]
    fn a_temporary_ground_goes_and_a_named_one_stays() {
        let root = Ground::temporary().unwrap().root().to_owned();
        assert!(!root.exists());
        let scratch = tempfile::tempdir().unwrap();
        Ground::at(scratch.path()).unwrap().leave().unwrap();
        assert!(scratch.path().exists());
    }
}
