//! The directory beside the repository where everything is gathered and checked before the repository is touched.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::directory::is_staged_directory;
use super::owner::{Owned, inherit};
use crate::jobs::catalogue::RestorableName;
use crate::ledger::Scratch;
use crate::model::digest::Digest;
use crate::model::run::RunId;
use crate::repository::binaries::{BinaryStore, hash, open_regular};
use crate::repository::walk::{Found, Walk};

/// A staging directory, on the same file system as the store, so that its files can be renamed in.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    path: PathBuf,
    /// Whether it had to be put into the store, because that is a mount point.
    inside: bool,
    /// What the name of every quarantine begins with; the number of its run follows.
    quarantines: String,
    quarantine: PathBuf,
    made: Vec<PathBuf>,
    /// The binaries, in the order of the store that they are for: what that lacks as a whole is renamed as a whole.
    binaries: BinaryStore,
    /// Whose they are to be.
    owner: Owned,
    /// Whether an earlier try may have left binaries here.
    earlier: bool,
}

impl Staging {
    /// Opens the directory for this backup, with what an earlier try left in it; removes those of other backups.
    pub(super) fn open(store: &BinaryStore, from: &str, run: RunId) -> anyhow::Result<Self> {
        let root = store.root();
        let (home, inside) = home(root)?;
        let name = root.file_name().map_or_else(|| "root".to_owned(), |name| name.to_string_lossy().into_owned());
        let prefix = format!(".holdfast-restore-{name}-");
        let mut made = Vec::new();
        make_directories(&home, &mut made)?;
        let path = home.join(format!("{prefix}{from}"));
        for entry in fs::read_dir(&home).with_context(|| format!("read `{}`", home.display()))? {
            let other = entry?.path();
            // A store beside this one may be called the same with something after it.
            let stale = other
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix(&prefix))
                .is_some_and(|from| from.parse::<RestorableName>().is_ok() || is_staged_directory(from));
            if stale && other != path {
                fs::remove_dir_all(&other).with_context(|| format!("remove the stale `{}`", other.display()))?;
            }
        }
        // Only binaries are worth keeping from an earlier try: they are checked by their names.
        for name in ["documents", "records"] {
            let directory = path.join(name);
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove the stale `{}`", directory.display()));
                }
                _ => {}
            }
        }
        let binaries = BinaryStore::at(&path.join("binaries"), store.layout());
        let earlier = binaries.root().exists();
        for directory in [path.clone(), binaries.root().to_owned(), path.join("documents"), path.join("records")] {
            fs::create_dir_all(&directory).with_context(|| {
                format!("make `{}` (the user that runs holdfast must be able to write there)", directory.display())
            })?;
        }
        let owner = Owned::like(root);
        owner.hand_over(binaries.root())?;
        inherit(binaries.root(), root);
        // Where a ledger was lost, an earlier run may have had the same number.
        let quarantines = format!(".holdfast-quarantine-{name}-");
        let plain = format!("{quarantines}{run}");
        let quarantine = (1..=u32::MAX)
            .map(|number| home.join(if number == 1 { plain.clone() } else { format!("{plain}.{number}") }))
            .find(|path| path.symlink_metadata().is_err())
            .context("find a free name for the quarantine")?;
        Ok(Self { path, inside, quarantines, quarantine, made, binaries, owner, earlier })
    }

    /// Where an earlier run put such files, if it did.
    pub(super) fn quarantine_of(&self, earlier: RunId) -> Option<PathBuf> {
        let path = self.quarantine.with_file_name(format!("{}{earlier}", self.quarantines));
        path.exists().then_some(path)
    }

    /// The same directory, for a thread of its own.
    pub(super) fn paths(&self) -> Self {
        self.clone()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where files go that are replaced, or that the backup does not have; not made yet.
    pub(super) fn quarantine(&self) -> &Path {
        &self.quarantine
    }

    /// The binaries that wait here.
    pub(super) fn binaries(&self) -> &BinaryStore {
        &self.binaries
    }

    /// Where a binary waits.
    pub(super) fn binary(&self, digest: &Digest) -> PathBuf {
        self.binaries.path(digest)
    }

    /// Whose the binaries are to be.
    pub(super) fn owner(&self) -> Owned {
        self.owner
    }

    pub(super) fn document(&self, name: &str) -> PathBuf {
        self.path.join("documents").join(name)
    }

    pub(super) fn record(&self, name: &str) -> PathBuf {
        self.path.join("records").join(name)
    }

    /// Makes the file of a binary, and the directories above it.
    pub(super) fn create(&self, digest: &Digest) -> anyhow::Result<File> {
        let path = self.binary(digest);
        let context = || format!("make `{}`", path.display());
        let file = match File::create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_level(path.parent().expect("a binary lies in a directory"))?;
                File::create(&path).with_context(context)?
            }
            made => made.with_context(context)?,
        };
        self.owner.hand_over(&path)?;
        Ok(file)
    }

    /// Makes a directory that binaries wait in; others may be making the same one.
    pub(super) fn make_level(&self, directory: &Path) -> anyhow::Result<()> {
        let context = || format!("make `{}`", directory.display());
        match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory != self.binaries.root() => {
                self.make_level(directory.parent().with_context(context)?)?;
                match fs::create_dir(directory) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                    made => made.with_context(context)?,
                }
            }
            made => made.with_context(context)?,
        }
        self.owner.hand_over(directory)
    }

    /// Whether binaries of an earlier try may wait here, so that it is worth a thread to look.
    pub(super) fn has_earlier(&self) -> bool {
        self.earlier
    }

    /// Whether a binary waits here already, whole; what is left of a broken try is removed.
    pub(super) fn has(&self, digest: &Digest) -> anyhow::Result<bool> {
        if !self.earlier {
            return Ok(false);
        }
        let path = self.binary(digest);
        let context = || format!("read `{}`", path.display());
        let mut file = match open_regular(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).with_context(context),
        };
        if hash(&mut file, digest, &|| false).with_context(context)? == *digest {
            // Somebody else may have run that try.
            self.owner.hand_over(&path)?;
            return Ok(true);
        }
        fs::remove_file(&path).with_context(|| format!("remove the broken `{}`", path.display()))?;
        Ok(false)
    }

    /// Removes what an earlier try left here and this one does not need: a directory may be put into the store as it
    /// is here. Gives the bytes of the rest.
    pub(super) fn take_over(&self, needed: &Scratch) -> anyhow::Result<u64> {
        let mut bytes = 0;
        if !self.earlier {
            return Ok(bytes);
        }
        for found in Walk::begin(&self.binaries, 1)? {
            let batch = match found {
                Found::Binaries(batch) => batch,
                Found::Unreadable { path, cause, .. } => {
                    bail!("read directory `{}`, which an earlier restore left: {cause}", path.display());
                }
            };
            for digest in batch {
                let path = self.binary(&digest);
                if needed.get(&digest)?.is_some() {
                    bytes += path.symlink_metadata().map_or(0, |found| found.len());
                    continue;
                }
                fs::remove_file(&path).with_context(|| format!("remove the stale `{}`", path.display()))?;
                for level in path.ancestors().skip(1).take_while(|level| *level != self.binaries.root()) {
                    // One that is not empty is needed.
                    drop(fs::remove_dir(level));
                }
            }
        }
        Ok(bytes)
    }

    /// Whether no binary waits here.
    fn is_empty(&self) -> bool {
        let walk = Walk::begin(&self.binaries, 1);
        !walk.is_ok_and(|mut walk| walk.any(|found| matches!(found, Found::Binaries(batch) if !batch.is_empty())))
    }

    /// Writes everything here to the disk: one call for the file system instead of one for each file.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.path)?)?)
    }

    /// Removes what was staged.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.path).with_context(|| format!("remove `{}`", self.path.display()))
    }

    /// After a failure: keeps what was fetched for the next try if it may.
    pub(super) fn give_up(&self, full: bool) -> anyhow::Result<()> {
        if self.inside || full || self.is_empty() {
            self.remove()?;
            for directory in self.made.iter().rev() {
                // One that is not empty is somebody's.
                drop(fs::remove_dir(directory));
            }
        }
        Ok(())
    }
}

/// Makes a directory and those above it that are missing; notes which.
pub(super) fn make_directories(path: &Path, made: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
    for directory in missing.into_iter().rev() {
        fs::create_dir(directory).with_context(|| format!("make `{}`", directory.display()))?;
        made.push(directory.to_owned());
    }
    Ok(())
}

/// The directory for our own directories: the one that the store is in, unless the store is a mount point.
fn home(root: &Path) -> anyhow::Result<(PathBuf, bool)> {
    let absolute = std::path::absolute(root)?;
    // A store behind a symbolic link lies where the link leads.
    let root = absolute.canonicalize().unwrap_or(absolute);
    let parent = root.parent().map_or_else(|| root.clone(), Path::to_owned);
    let same_device = match (root.metadata(), parent.metadata()) {
        (Ok(inner), Ok(outer)) => inner.dev() == outer.dev() && !is_mount_point(&root),
        _ => true,
    };
    Ok(if same_device { (parent, false) } else { (root, true) })
}

/// Whether a directory is a mount point. A bind mount, such as systemd makes of each of `ReadWritePaths=`, has the
/// device of what it shows, and yet nothing can be renamed into it from outside.
fn is_mount_point(path: &Path) -> bool {
    statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Free bytes on the file system that a store lies on, or will.
pub(super) fn free_bytes(store: &BinaryStore) -> anyhow::Result<u64> {
    let (home, _) = home(store.root())?;
    let there = home.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there).with_context(|| format!("ask `{}` for free space", there.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
