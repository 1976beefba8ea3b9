//! One directory of a binary store: what is in it that belongs to the store.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;

use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::binaries::BinaryStore;
use super::walk::{DIRENT_BYTES, each_entry};
use crate::model::branch::{Branch, Place};

/// Lists directories of a store, with one buffer for all of them.
#[derive(Debug)]
pub struct Lister {
    buffer: Vec<MaybeUninit<u8>>,
}

impl Default for Lister {
    fn default() -> Self {
        Self { buffer: vec![MaybeUninit::uninit(); DIRENT_BYTES] }
    }
}

impl Lister {
    /// Calls `visit` with every directory and every binary in a directory; names that are none of the store's, or of
    /// other parts of it, are passed over, and symbolic links are not followed.
    pub fn list(&mut self, store: &BinaryStore, branch: &Branch, mut visit: impl FnMut(Place)) -> io::Result<()> {
        let layout = store.layout();
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if *branch != Branch::ROOT {
            flags |= OFlags::NOFOLLOW;
        }
        let directory = rustix::fs::openat(CWD, store.root().join(branch.path(layout)), flags, Mode::empty())?;
        each_entry(directory.as_fd(), &mut self.buffer, |name, kind, _| match branch.entry(layout, name) {
            Some(place @ Place::Branch(below))
                if kind == FileType::Directory && store.may_include_below(below.digits()) =>
            {
                visit(place);
            }
            Some(place @ Place::Binary(digest)) if kind == FileType::RegularFile && store.includes(&digest) => {
                visit(place);
            }
            _ => {}
        })?;
        Ok(())
    }
}
