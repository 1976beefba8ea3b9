//! Which directories Fedora's calls may name: those below the roots of the configuration, wherever links lead.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use rustix::fs::{Access, access};

/// How many names for a new directory are tried.
const TRIES: u32 = 1000;

/// Why a directory cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is not below a root; nothing is said of whether it is there.
    NotAllowed,
    /// It is below a root, and not there.
    Missing,
}

/// What is at a path, as far as a backup can be made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory that we may write to.
    Writable,
    /// No directory.
    File,
}

/// The real path of what somebody named; a relative path is below the first root.
pub(super) fn resolve(roots: &[PathBuf], named: &str) -> Result<PathBuf, Wrong> {
    let first = roots.first().ok_or(Wrong::NotAllowed)?;
    let path = first.join(named);
    if named.contains('\0') || path.components().any(|part| part == Component::ParentDir) {
        return Err(Wrong::NotAllowed);
    }
    let real: Vec<PathBuf> = roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
    let below = |path: &Path, roots: &[PathBuf]| roots.iter().any(|root| path.starts_with(root));
    match path.canonicalize() {
        Ok(path) if below(&path, &real) => Ok(path),
        Err(_) if below(&path, roots) || below(&path, &real) => Err(Wrong::Missing),
        Ok(_) | Err(_) => Err(Wrong::NotAllowed),
    }
}

/// What a real path is; none if it is gone, or a directory that we may not write to.
pub(super) fn kind(path: &Path) -> Option<Kind> {
    if !path.metadata().ok()?.is_dir() {
        return Some(Kind::File);
    }
    access(path, Access::WRITE_OK | Access::EXEC_OK).ok().map(|()| Kind::Writable)
}

/// Makes a directory below the first root, called as Fedora calls them: the time in milliseconds and a number.
pub(super) fn make_new(roots: &[PathBuf], now: Timestamp) -> anyhow::Result<PathBuf> {
    let root = roots.first().context("find a root")?;
    let root = root.canonicalize().with_context(|| format!("find the directory `{}`", root.display()))?;
    for number in 0..TRIES {
        let path = root.join(format!("{}-{number}", now.as_millisecond()));
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path.clone()).with_context(|| format!("make `{}`", path.display())),
        }
    }
    bail!("make a directory in `{}`: {TRIES} names are taken", root.display())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_not_below_a_root_is_not_allowed_wherever_links_lead() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        for name in ["root/inside", "outside", "root-beside"] {
            fs::create_dir_all(home.join(name)).unwrap();
        }
        symlink(home.join("outside"), home.join("root/out")).unwrap();
        symlink(home.join("root/inside"), home.join("in")).unwrap();
        symlink(home.join("root"), home.join("alias")).unwrap();
        let roots = [home.join("alias")];
        let of = |name: &str| resolve(&roots, home.join(name).to_str().unwrap());
        let inside = Ok(home.join("root/inside"));
        for name in ["root/inside", "alias/inside", "in", "alias/./inside/"] {
            assert_eq!(of(name), inside, "{name}");
        }
        assert_eq!(resolve(&roots, "inside"), inside);
        assert_eq!(of("root"), Ok(home.join("root")));
        for name in ["outside", "root/out", "alias/out", "root-beside", "none", "root/inside/../inside", "outside/none"]
        {
            assert_eq!(of(name), Err(Wrong::NotAllowed), "{name}");
        }
        for name in ["root/none", "alias/none/deep"] {
            assert_eq!(of(name), Err(Wrong::Missing), "{name}");
        }
        for name in ["../outside", "/", "a\0b"] {
            assert_eq!(resolve(&roots, name), Err(Wrong::NotAllowed), "{name}");
        }
        assert_eq!(resolve(&[], "inside"), Err(Wrong::NotAllowed));
    }

    #[test]
    fn new_directories_have_names_of_their_own() {
        let home = tempfile::tempdir().unwrap();
        let now = Timestamp::from_millisecond(1_504_816_393_618).unwrap();
        let made = [0, 1].map(|_| make_new(&[home.path().to_owned()], now).unwrap());
        assert!(made[0].ends_with("1504816393618-0") && made[1].ends_with("1504816393618-1"), "{made:?}");
        assert_eq!(kind(&made[0]), Some(Kind::Writable));
        fs::write(home.path().join("file"), "").unwrap();
        assert_eq!(kind(&home.path().join("file")), Some(Kind::File));
        assert_eq!(kind(&home.path().join("none")), None);
    }
}
