//! A listing of the tree, page by page in the order of names, in memory that does not grow with the store.

use std::collections::BinaryHeap;
use std::io;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use crate::model::key::Key;
use crate::store::directory::tree::{Tree, UPLOADS, open_directory};
use crate::store::{ObjectInfo, Page, PageToken};

/// How many objects a page holds, as in S3.
const PAGE: usize = 1000;
/// How many names of one directory are held at a time.
const NAMES: usize = 1024;
/// The longest key there is; what lies deeper is none of ours.
const LONGEST_KEY: usize = 1024;

/// The objects below `prefix` that come after the key `after`.
pub(super) fn page(tree: &Tree, prefix: &str, after: Option<&str>) -> io::Result<Page> {
    if !prefix.is_empty() && Key::parse(prefix.trim_end_matches('/')).is_none() {
        return Err(io::Error::other("that is no prefix of a key"));
    }
    let mut walk = Walk { objects: Vec::new() };
    let start = match tree.directory(prefix) {
        Ok(start) => start,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) => return Ok(Page::default()),
            _ => return Err(error),
        },
    };
    walk.below(&start, prefix, after.and_then(|after| after.strip_prefix(prefix)))?;
    let next = if walk.is_full() { walk.objects.last().map(|last| PageToken(last.key.to_string())) } else { None };
    Ok(Page { objects: walk.objects, next })
}

struct Walk {
    objects: Vec<ObjectInfo>,
}

impl Walk {
    fn is_full(&self) -> bool {
        self.objects.len() >= PAGE
    }

    /// Takes in what lies in `directory`, at `path`, after the path `after` relative to it.
    fn below(&mut self, directory: &OwnedFd, path: &str, after: Option<&str>) -> io::Result<()> {
        let (first, rest) = match after.map(|after| after.split_once('/').unwrap_or((after, ""))) {
            Some((first, rest)) => (Some(first), rest),
            None => (None, ""),
        };
        if let Some(first) = first.filter(|_| !rest.is_empty()) {
            self.enter(directory, path, first, Some(rest))?;
        }
        let mut bound = first.map(str::to_owned);
        loop {
            let names = names_after(directory, bound.as_deref())?;
            let last = names.len() < NAMES;
            for (name, is_directory) in names {
                if self.is_full() {
                    return Ok(());
                }
                if is_directory {
                    self.enter(directory, path, &name, None)?;
                } else {
                    self.take(directory, path, &name)?;
                }
                bound = Some(name);
            }
            if last {
                return Ok(());
            }
        }
    }

    fn enter(&mut self, directory: &OwnedFd, path: &str, name: &str, after: Option<&str>) -> io::Result<()> {
        if (path.is_empty() && name == UPLOADS) || path.len() + name.len() >= LONGEST_KEY {
            return Ok(());
        }
        match open_directory(directory, name) {
            Ok(inner) => self.below(&inner, &format!("{path}{name}/"), after),
            // Deleted meanwhile, or a link.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&mut self, directory: &OwnedFd, path: &str, name: &str) -> io::Result<()> {
        let Some(key) = Key::parse(&format!("{path}{name}")) else { return Ok(()) };
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let bytes = u64::try_from(stat.st_size).expect("a file has no negative size");
            self.objects.push(ObjectInfo { key, bytes, digest: None });
        }
        Ok(())
    }
}

/// The first names in order after `bound`, and whether each is a directory; links and the like are left out.
fn names_after(directory: &OwnedFd, bound: Option<&str>) -> io::Result<Vec<(String, bool)>> {
    let mut first = BinaryHeap::with_capacity(NAMES + 1);
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") || bound.is_some_and(|bound| name <= bound) {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
            kind => kind,
        };
        if matches!(kind, FileType::Directory | FileType::RegularFile) {
            first.push((name.to_owned(), kind == FileType::Directory));
            if first.len() > NAMES {
                first.pop();
            }
        }
    }
    Ok(first.into_sorted_vec())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_wide_directory_is_listed_in_full_and_links_are_left_out() {
        let scratch = tempfile::tempdir().unwrap();
        let wide = scratch.path().join("wide");
        std::fs::create_dir_all(&wide).unwrap();
        for number in 0..3000 {
            std::fs::write(wide.join(format!("{number:04}")), "x").unwrap();
        }
        symlink("/etc", scratch.path().join("etc")).unwrap();
        symlink("/etc/passwd", wide.join("passwd")).unwrap();
        let tree = Tree::open(scratch.path()).unwrap();
        let (mut seen, mut after) = (BTreeSet::new(), None::<String>);
        loop {
            let page = page(&tree, "", after.as_deref()).unwrap();
            assert!(page.objects.len() <= PAGE);
            for object in page.objects {
                assert!(seen.insert(object.key.to_string()), "{} came twice", object.key);
            }
            let Some(PageToken(next)) = page.next else { break };
            after = Some(next);
        }
        assert_eq!(seen.len(), 3000);
        assert!(seen.contains("wide/2999"));
    }
}
