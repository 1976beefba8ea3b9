//! The handle by which the kernel knows a directory: the one place with `unsafe`, since no library has this call.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::record::DirectoryHandle;

/// `MAX_HANDLE_SZ`.
const LONGEST: usize = 128;

/// A `struct file_handle` with room for the longest.
#[repr(C)]
struct Room {
    length: u32,
    kind: i32,
    bytes: [u8; LONGEST],
}

/// The handle of a directory that was found by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathHandle {
    kind: i32,
    bytes: Vec<u8>,
}

impl PathHandle {
    /// Asks for the handle of what lies at this path; needs no privilege.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut room = Room { length: u32::try_from(LONGEST).expect("it is 128"), kind: 0, bytes: [0; LONGEST] };
        let mut mount = 0;
        // SAFETY: `path` ends with a zero and lives until the call has returned, and so do `room` and `mount`. `Room` is
        // laid out like `struct file_handle` with as many bytes after it as its length says, and the kernel writes no more.
        #[allow(unsafe_code, reason = "neither rustix nor nix has this call")]
        let answer = unsafe {
            libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), (&raw mut room).cast(), &raw mut mount, 0)
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        let length = usize::try_from(room.length).unwrap_or(LONGEST).min(LONGEST);
        Ok(Self { kind: room.kind, bytes: room.bytes[..length].to_vec() })
    }

    /// Whether an event in the directory `told` may have been in this one. Where a file system writes the two in different
    /// forms there is no telling, and then it may.
    pub(super) fn may_be(&self, told: &DirectoryHandle<'_>) -> bool {
        self.kind != told.kind || self.bytes.len() != told.bytes.len() || self.bytes == told.bytes
    }

    /// Whether an event in the directory `told` was in this one.
    pub(super) fn is(&self, told: &DirectoryHandle<'_>) -> bool {
        self.kind == told.kind && self.bytes == told.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_handle_wherever_it_is_moved_and_no_other_has_it() {
        let lab = tempfile::tempdir().unwrap();
        let (one, other) = (lab.path().join("one"), lab.path().join("other"));
        std::fs::create_dir(&one).unwrap();
        let handle = PathHandle::of(&one).unwrap();
        std::fs::rename(&one, &other).unwrap();
        std::fs::create_dir(&one).unwrap();
        assert_eq!(PathHandle::of(&other).unwrap(), handle);
        assert_ne!(PathHandle::of(&one).unwrap(), handle);
        assert_eq!(PathHandle::of(&lab.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let told = |kind| DirectoryHandle { kind, bytes: &handle.bytes };
        assert!(handle.is(&told(handle.kind)) && handle.may_be(&told(handle.kind)));
        assert!(!handle.is(&told(handle.kind + 1)) && handle.may_be(&told(handle.kind + 1)));
    }
}
