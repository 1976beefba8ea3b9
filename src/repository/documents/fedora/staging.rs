//! A directory of our own in the staging directory, for as long as a backup is in it.
//!
//! Fedora goes on with a backup whose asker is gone, and makes directories that it misses. So each has a name that was
//! never there before, and whoever comes next clears away what is left of all others: one at a time, by a lock.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::lchown;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;
use rustix::fs::FlockOperation;
use rustix::fs::XattrFlags;
use rustix::fs::flock;
use rustix::fs::getxattr;
use rustix::fs::setxattr;
use tempfile::TempDir;
use tokio::runtime::Builder;

use crate::model::fedora::FedoraServer;
use crate::repository::documents::database::within;

/// What the names of all directories of ours begin with.
const PREFIX: &str = "holdfast-";
/// Who holds this file has the staging directory to itself.
const LOCK: &str = ".holdfast.lock";
/// The access control list (acl(5)).
const ACCESS_LIST: &str = "system.posix_acl_access";
/// An extended attribute is no larger on Linux.
const LIST_BYTES: usize = 64 << 10;
/// How often is looked whether another run has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// An empty directory that Fedora can write; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct StagingDirectory {
    directory: TempDir,
    /// Dropped last.
    _lock: File,
}

impl StagingDirectory {
    /// Makes one once no other run needs the staging directory, and clears away what was left there.
    pub(super) fn make(server: &FedoraServer, stop: &dyn Fn() -> bool) -> anyhow::Result<Self> {
        let staging = &server.staging;
        let lock = lock(staging, server.timeout, stop)?;
        clear(staging)?;
        let doing = || format!("make a directory in `{}`", staging.display());
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(staging).with_context(doing)?;
        share(staging, directory.path()).with_context(doing)?;
        Ok(Self { directory, _lock: lock })
    }

    /// An error if no directory can be made there.
    pub(super) fn look(server: &FedoraServer) -> anyhow::Result<()> {
        let staging = &server.staging;
        let found =
            staging.metadata().with_context(|| format!("look at the staging directory `{}`", staging.display()))?;
        if !found.is_dir() {
            bail!("look at the staging directory `{}`: it is no directory", staging.display());
        }
        drop(open_lock(staging)?);
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Removes the binaries of a backup, if there are any.
    pub(super) fn remove_binaries(&self) -> anyhow::Result<()> {
        remove(&self.path().join("binaries"))
    }
}

fn open_lock(staging: &Path) -> anyhow::Result<File> {
    let path = staging.join(LOCK);
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    opened.with_context(|| {
        format!("open `{}` (the user that runs holdfast must be able to write in `staging`)", path.display())
    })
}

fn lock(staging: &Path, limit: Duration, stop: &dyn Fn() -> bool) -> anyhow::Result<File> {
    let file = open_lock(staging)?;
    let doing = || format!("wait until no other run uses `{}`", staging.display());
    let waiting = async {
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(LOOK_EVERY).await,
                locked => break locked.map_err(io::Error::from),
            }
        }
    };
    let runtime = Builder::new_current_thread().enable_time().build().with_context(doing)?;
    runtime.block_on(within(limit, stop, anyhow::Error::from, waiting)).with_context(doing)?;
    Ok(file)
}

/// Clears away what runs that were cut left behind, and what Fedora wrote for them since.
fn clear(staging: &Path) -> anyhow::Result<()> {
    let doing = || format!("read the staging directory `{}`", staging.display());
    for entry in fs::read_dir(staging).with_context(doing)? {
        let entry = entry.with_context(doing)?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && entry.file_type().with_context(doing)?.is_dir() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| {
            format!(
                "remove `{}` (what Fedora writes has to be removable for the user that runs holdfast: run it as the same \
                 user)",
                directory.display()
            )
        }),
        _ => Ok(()),
    }
}

/// Lets a directory be used by all who may use the staging directory.
fn share(staging: &Path, directory: &Path) -> io::Result<()> {
    let like = staging.metadata()?;
    lchown(directory, rustix::process::geteuid().is_root().then(|| like.uid()), Some(like.gid()))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(like.mode() & 0o2777))?;
    let mut list = vec![0; LIST_BYTES];
    match getxattr(staging, ACCESS_LIST, &mut list[..]) {
        Ok(bytes) => Ok(setxattr(directory, ACCESS_LIST, &list[..bytes], XattrFlags::empty())?),
        // There is none, or none is possible.
        Err(_) => Ok(()),
    }
}
