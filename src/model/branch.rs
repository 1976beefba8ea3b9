//! The directories of a binary store, and what a path in it is.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use crate::model::digest::Digest;
use crate::model::layout::{Layout, MAX_LEVELS, MAX_WIDTH};

/// The most digits that a layout gives to its levels.
const MAX_DIGITS: usize = MAX_LEVELS * MAX_WIDTH;

/// A directory of a store: the hexadecimal digits of all levels down to it. The root has none.
///
/// In their order each comes right before those below it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Branch {
    digits: [u8; MAX_DIGITS],
    length: u8,
}

/// What a path in a store can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory that may hold binaries at some level, the root included.
    Branch(Branch),
    /// A binary, in its place.
    Binary(Digest),
}

impl Branch {
    /// The root of a store.
    pub const ROOT: Self = Self { digits: [0; MAX_DIGITS], length: 0 };

    /// The digits of all levels down to it.
    pub fn digits(&self) -> &[u8] {
        &self.digits[..usize::from(self.length)]
    }

    /// Whether it is `other` or lies below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.digits().starts_with(other.digits())
    }

    /// Where it lies below the root of a store with this layout.
    pub fn path(&self, layout: &Layout) -> PathBuf {
        self.digits().chunks(layout.width).map(OsStr::from_bytes).collect()
    }

    /// Whether binaries lie in it, and no further levels.
    pub fn is_last(&self, layout: &Layout) -> bool {
        self.digits().len() == layout.levels * layout.width
    }

    /// What an entry of this directory is by its name, if it is a part of the store.
    pub fn entry(&self, layout: &Layout, name: &[u8]) -> Option<Place> {
        if self.is_last(layout) {
            return layout.digest_of(self.digits(), name).map(Place::Binary);
        }
        if !layout.is_level(name) {
            return None;
        }
        let mut below = *self;
        let from = usize::from(self.length);
        below.digits.get_mut(from..from + name.len())?.copy_from_slice(name);
        below.length += u8::try_from(name.len()).ok()?;
        Some(Place::Branch(below))
    }
}

impl Place {
    /// What a path below the root of a store is, if it is a part of the store.
    pub fn of(layout: &Layout, path: &Path) -> Option<Self> {
        let mut place = Self::Branch(Branch::ROOT);
        for component in path.components() {
            let (Self::Branch(branch), Component::Normal(name)) = (place, component) else { return None };
            place = branch.entry(layout, name.as_bytes())?;
        }
        Some(place)
    }
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Branch({})", String::from_utf8_lossy(self.digits()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::digest::Algorithm;

    fn layouts() -> Vec<Layout> {
        let flat = Layout::custom(Algorithm::Sha1, 0, 2, ".bin").unwrap();
        let deep = Layout::custom(Algorithm::Sha256, 4, 4, "").unwrap();
        vec![Layout::modeshape(), Layout::jackrabbit(), Layout::artifactory(), Layout::git_lfs(), flat, deep]
    }

    proptest! {
        #[test]
        fn a_binary_is_found_by_its_path_and_its_directories_by_theirs(content: [u8; 4]) {
            for layout in layouts() {
                let digest = Digest::of(layout.algorithms[0], &content);
                let path = layout.path(&digest);
                prop_assert_eq!(Place::of(&layout, &path), Some(Place::Binary(digest)));
                for parent in path.ancestors().skip(1) {
                    let Some(Place::Branch(branch)) = Place::of(&layout, parent) else { panic!("{}", parent.display()) };
                    prop_assert_eq!(branch.path(&layout), parent);
                    prop_assert!(branch.is_within(&Branch::ROOT));
                }
            }
        }
    }

    #[test]
    fn what_does_not_belong_to_the_store_is_nothing() {
        let layout = Layout::modeshape();
        let name = "6aa9bf7df2242ef867558584c02160023a96f2f9";
        for path in [
            "trash/6a/a9/bf/6aa9bf7df2242ef867558584c02160023a96f2f9",
            "trash",
            "6A",
            "6a/a9/b0/6aa9bf7df2242ef867558584c02160023a96f2f9",
            "6a/a9/6aa9bf7df2242ef867558584c02160023a96f2f9",
            "6a/a9/bf/6aa9bf7df2242ef867558584c02160023a96f2f9.tmp",
            "6a/a9/bf/6aa9bf7df2242ef867558584c02160023a96f2f9/x",
            "6a/../6a",
            "/6a",
        ] {
            assert_eq!(Place::of(&layout, Path::new(path)), None, "{path}");
        }
        assert_eq!(
            Place::of(&layout, Path::new(&format!("6a/a9/bf/{name}"))),
            Some(Place::Binary(name.parse().unwrap()))
        );
    }

    #[test]
    fn each_comes_right_before_those_below_it() {
        let layout = Layout::modeshape();
        let branch = |path: &str| match Place::of(&layout, Path::new(path)) {
            Some(Place::Branch(branch)) => branch,
            other => panic!("{other:?}"),
        };
        let ordered = ["", "00", "00/00", "00/00/00", "00/01", "01", "01/ff", "ff"].map(branch);
        assert!(ordered.is_sorted());
        assert!(branch("00/00/00").is_within(&branch("00")) && !branch("01").is_within(&branch("00")));
    }
}
