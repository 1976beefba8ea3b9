//! Who the restored files belong to, and what their directories pass on to what is made in them later.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use anyhow::Context as _;
use rustix::fs::{XattrFlags, getxattr, setxattr};

const SET_GROUP: u32 = 0o2000;
/// The access control list that is passed on to new files (acl(5)).
const DEFAULT_LIST: &str = "system.posix_acl_default";
/// An extended attribute is no larger on Linux.
const LIST_BYTES: usize = 64 << 10;

/// Who the files of a directory belong to; nobody in particular unless root restores, who may give them away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owned(Option<(u32, u32)>);

impl Owned {
    /// The owner and group of a directory, or of the nearest one above it that is there.
    pub(super) fn like(directory: &Path) -> Self {
        let there = || directory.ancestors().find_map(|path| path.metadata().ok());
        let root = rustix::process::geteuid().is_root();
        Self(root.then(there).flatten().map(|found| (found.uid(), found.gid())))
    }

    /// Gives a file or directory to that owner, so that the repository can read it and take it away.
    pub(super) fn hand_over(self, path: &Path) -> anyhow::Result<()> {
        let Some((user, group)) = self.0 else { return Ok(()) };
        let give = || {
            let found = path.symlink_metadata()?;
            // To look costs less than to write the same again.
            if (found.uid(), found.gid()) == (user, group) { Ok(()) } else { lchown(path, Some(user), Some(group)) }
        };
        give().with_context(|| format!("give `{}` to user {user} and group {group}", path.display()))
    }
}

/// Whether what is restored to a directory is going to be root's for want of anybody else: root restores, the directory
/// is not there, and the nearest one above it that is belongs to root.
pub fn falls_to_root(directory: &Path) -> bool {
    !directory.exists() && matches!(Owned::like(directory), Owned(Some((0, _))))
}

/// Lets a directory pass on to what is made in it what `like` passes on: the group, and the default access control
/// list.
///
/// Where that is not possible it stays as it is: such a store can be used, and its owner can set it right.
pub(super) fn inherit(directory: &Path, like: &Path) {
    let (Ok(found), Ok(made)) = (like.metadata(), directory.metadata()) else { return };
    if found.mode() & SET_GROUP != 0 && lchown(directory, None, Some(found.gid())).is_ok() {
        drop(std::fs::set_permissions(directory, Permissions::from_mode(made.mode() & 0o777 | SET_GROUP)));
    }
    let mut list = vec![0; LIST_BYTES];
    if let Ok(bytes) = getxattr(like, DEFAULT_LIST, &mut list[..]) {
        setxattr(directory, DEFAULT_LIST, &list[..bytes], XattrFlags::empty()).unwrap_or(());
    }
}
