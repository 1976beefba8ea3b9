//! The files below the root, reached step by step so that no symbolic link leads out.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Mutex;

use jiff::Timestamp;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::fs::{flock, fsync, linkat, mkdirat, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::model::key::Key;
use crate::store::Unfinished;
use crate::store::directory::upload::BODY;

/// Where objects lie before they are whole; no key begins with it.
pub(super) const UPLOADS: &str = ".holdfast-uploads";
/// The file of an upload that says what it is to become.
const KEY_FILE: &str = "key";
/// How the temporary files of puts begin.
const PUT_PREFIX: &str = "put-";
/// How often a directory may be taken away under a new object before that is an error.
const PLACE_TRIES: u32 = 8;

/// The root of a directory store.
pub(super) struct Tree {
    root: OwnedFd,
    /// Held while a directory is made and synced, so that who finds it there can wait until it is durable. One of many
    /// by the directory's path: a lock for each would grow with the store.
    making: [Mutex<()>; 64],
}

impl Tree {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match std::fs::create_dir(path) {
            // What is kept in it is as durable as its own name.
            Ok(()) => path.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())?,
            // It may be there, also where nothing can be made: on a read-only file system.
            Err(_) if path.is_dir() => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Errno::NOTDIR.into()),
            Err(error) => return Err(error),
        }
        let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, making: std::array::from_fn(|_| Mutex::new(())) })
    }

    /// The file of an object, and its size.
    pub(super) fn file(&self, key: &Key) -> io::Result<(File, u64)> {
        let (above, name) = split(key)?;
        let found = self.directory(above).and_then(|parent| {
            // Not blocking, lest somebody's pipe holds us up.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(File::from(openat(parent, name, flags, Mode::empty())?))
        });
        let file = match found {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTDIR) => return Err(Errno::NOENT.into()),
            other => other?,
        };
        let data = file.metadata()?;
        if data.is_file() { Ok((file, data.len())) } else { Err(Errno::NOENT.into()) }
    }

    pub(super) fn put(&self, key: &Key, body: &[u8]) -> io::Result<()> {
        if self.taken(key)? {
            return Err(Errno::EXIST.into());
        }
        let uploads = self.uploads()?;
        let (mut file, name) = begin_put(&uploads)?;
        let written = (|| {
            file.write_all(body)?;
            file.sync_all()?;
            self.place(&uploads, &name, key)
        })();
        if written.is_err() {
            // The error that counts is the first; what cannot be removed is swept later.
            unlinkat(&uploads, &name, AtFlags::empty()).unwrap_or_default();
        }
        written
    }

    fn taken(&self, key: &Key) -> io::Result<bool> {
        match self.file(key) {
            Ok(_) => Ok(true),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives a synced file its place, unless it is taken, and makes that durable.
    pub(super) fn place(&self, from: impl AsFd, name: &str, key: &Key) -> io::Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (above, last) = split(key)?;
            let parent = self.make_directory(above)?;
            match rename_to_free(from.as_fd(), name, parent.as_fd(), last) {
                Ok(()) => return Ok(fsync(&parent)?),
                // A delete has taken away the directory, which was empty.
                Err(Errno::NOENT) if tries < PLACE_TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes an object away, and the directories that are then empty.
    pub(super) fn delete(&self, key: &Key) -> io::Result<()> {
        let (mut above, name) = split(key)?;
        match self.directory(above).and_then(|parent| {
            unlinkat(&parent, name, AtFlags::empty())?;
            Ok(fsync(&parent)?)
        }) {
            Ok(()) => {}
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) => return Ok(()),
                _ => return Err(error),
            },
        }
        while !above.is_empty() {
            let (higher, last) = above.rsplit_once('/').unwrap_or(("", above));
            let parent = self.directory(higher)?;
            if unlinkat(&parent, last, AtFlags::REMOVEDIR).is_err() {
                break; // Not empty, as a rule; an empty directory harms nobody.
            }
            above = higher;
        }
        Ok(())
    }

    /// The directory at this path below the root; empty is the root itself.
    pub(super) fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        let mut directory = self.root.try_clone()?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            directory = open_directory(&directory, part)?;
        }
        Ok(directory)
    }

    /// The same, made where it is missing, and durable.
    fn make_directory(&self, path: &str) -> io::Result<OwnedFd> {
        let mut directory = self.root.try_clone()?;
        let mut len = 0;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            len += part.len() + 1;
            let making = self.making_of(&path[..len.min(path.len())]);
            directory = match open_directory(&directory, part) {
                Ok(below) => {
                    drop(making.lock().expect("nothing panics while it makes a directory"));
                    below
                }
                Err(Errno::NOENT) => {
                    let _making = making.lock().expect("nothing panics while it makes a directory");
                    match mkdirat(&directory, part, Mode::from_raw_mode(0o777)) {
                        Ok(()) => fsync(&directory)?,
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    open_directory(&directory, part)?
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(directory)
    }

    fn making_of(&self, path: &str) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        path.trim_end_matches('/').hash(&mut hasher);
        let count = self.making.len() as u64;
        &self.making[usize::try_from(hasher.finish() % count).expect("smaller than the length")]
    }

    fn uploads(&self) -> io::Result<OwnedFd> {
        self.make_directory(UPLOADS)
    }

    /// Makes the directory of a new upload and notes in it what it is to become.
    pub(super) fn make_upload(&self, id: &str, key: &Key) -> io::Result<OwnedFd> {
        split(key)?;
        let uploads = self.uploads()?;
        mkdirat(&uploads, id, Mode::from_raw_mode(0o777))?;
        let directory = open_directory(&uploads, id)?;
        let noted = (|| {
            let mut note = create(&directory, KEY_FILE)?;
            note.write_all(key.as_str().as_bytes())?;
            note.sync_all()?;
            fsync(&directory)?;
            Ok(fsync(&uploads)?)
        })();
        if noted.is_err() {
            // The error that counts is the first.
            self.remove_upload(id).unwrap_or_default();
        }
        noted.map(|()| directory)
    }

    /// The uploads whose key begins with `prefix`.
    pub(super) fn unfinished(&self, prefix: &str) -> io::Result<Vec<Unfinished>> {
        let uploads = match self.directory(UPLOADS) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for id in names(&uploads)? {
            if let Some(key) = noted_key(&uploads, &id)
                && key.as_str().starts_with(prefix)
            {
                let since = last_written(&uploads, &id);
                found.push(Unfinished { key, id, since });
            }
        }
        Ok(found)
    }

    /// Takes away an upload with all its parts.
    pub(super) fn remove_upload(&self, id: &str) -> io::Result<()> {
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(io::Error::other(format!("`{id}` names no upload")));
        }
        let gone = |error: io::Error| match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => Ok(()),
            _ => Err(error),
        };
        let removed = self.directory(UPLOADS).and_then(|uploads| {
            let directory = open_directory(&uploads, id)?;
            // The note goes last: until then the upload is listed, and a removal cut short is made again.
            for name in names(&directory)?.iter().filter(|name| *name != KEY_FILE) {
                unlinkat(&directory, name, AtFlags::empty())?;
            }
            unlinkat(&directory, KEY_FILE, AtFlags::empty()).map_err(io::Error::from).or_else(gone)?;
            Ok(unlinkat(&uploads, id, AtFlags::REMOVEDIR)?)
        });
        removed.or_else(gone)
    }

    /// Takes away the temporary files of puts that died.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let Ok(uploads) = self.directory(UPLOADS) else { return Ok(()) };
        for name in names(&uploads)?.iter().filter(|name| name.starts_with(PUT_PREFIX)) {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(file) = openat(&uploads, name, flags, Mode::empty()) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // It may be done by another process at the same time, or not be ours to do: no matter.
                unlinkat(&uploads, name, AtFlags::empty()).unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// The directory and the name of an object.
fn split(key: &Key) -> io::Result<(&str, &str)> {
    let text = key.as_str();
    if text.split('/').next() == Some(UPLOADS) {
        return Err(io::Error::other(format!("keys below `{UPLOADS}` are not for objects")));
    }
    Ok(text.rsplit_once('/').unwrap_or(("", text)))
}

pub(super) fn open_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// A new file for a put.
fn begin_put(uploads: &OwnedFd) -> io::Result<(File, String)> {
    loop {
        let name = format!("{PUT_PREFIX}{:016x}", fastrand::u64(..));
        let file = create(uploads, &name)?;
        if claim(&file)? {
            return Ok((file, name));
        }
    }
}

/// Locks a file for a put, which tells it from that of one that died, as the lock ends with the process; false if a sweep
/// took it for such a one before that.
fn claim(file: &File) -> io::Result<bool> {
    flock(file, FlockOperation::LockExclusive)?;
    Ok(rustix::fs::fstat(file)?.st_nlink > 0)
}

/// A new file, to be written and read back.
pub(super) fn create(parent: impl AsFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(parent, name, flags, Mode::from_raw_mode(0o666))?))
}

/// Renames unless the name is taken; where the file system cannot do both at once, by a second name for the file.
fn rename_to_free(from: BorrowedFd<'_>, name: &str, to: BorrowedFd<'_>, last: &str) -> Result<(), Errno> {
    match renameat_with(from, name, to, last, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            linkat(from, name, to, last, AtFlags::empty())?;
            unlinkat(from, name, AtFlags::empty())
        }
        other => other,
    }
}

fn names(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// What an upload is to become; none for what is no upload, or was cut short as it began.
/// When something of an upload was last written.
fn last_written(uploads: &OwnedFd, id: &str) -> Option<Timestamp> {
    let of = |path: &str| rustix::fs::statat(uploads, path, AtFlags::SYMLINK_NOFOLLOW).ok();
    let latest = [of(id), of(&format!("{id}/{BODY}"))].into_iter().flatten().map(|found| found.st_mtime).max()?;
    Timestamp::from_second(latest).ok()
}

fn noted_key(uploads: &OwnedFd, id: &str) -> Option<Key> {
    let directory = open_directory(uploads, id).ok()?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut note = String::new();
    let file = File::from(openat(directory, KEY_FILE, flags, Mode::empty()).ok()?);
    file.take(4096).read_to_string(&mut note).ok()?;
    Key::parse(&note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_leaves_the_file_of_a_put_alone_and_a_put_notices_one_that_came_before_its_lock() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = Tree::open(scratch.path()).unwrap();
        let uploads = tree.uploads().unwrap();
        let (put, name) = begin_put(&uploads).unwrap();
        let late = create(&uploads, &format!("{PUT_PREFIX}late")).unwrap();
        tree.sweep().unwrap();
        assert_eq!(names(&uploads).unwrap(), [name]);
        assert!(claim(&put).unwrap() && !claim(&late).unwrap());
    }
}
