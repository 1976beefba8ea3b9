//! How a digest becomes a path in a binary store, and what else may lie there.

use std::path::PathBuf;

use crate::model::archive::is_record_name;
use crate::model::digest::{Algorithm, Digest};

/// The most levels that a layout has.
pub const MAX_LEVELS: usize = 4;
/// The most digits that the name of a level has.
pub const MAX_WIDTH: usize = 4;

/// How a binary store names and nests its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The digests in use; Jackrabbit holds SHA-1 and SHA-256 side by side.
    pub algorithms: Vec<Algorithm>,
    /// How many directories deep a binary lies.
    pub levels: usize,
    /// How many hexadecimal digits each directory takes from the digest.
    pub width: usize,
    /// What follows the digest in the file name; usually nothing.
    pub suffix: String,
    /// Which program's habits apply beside the binaries.
    pub owner: Owner,
}

/// The program that a store belongs to, where that matters for files that are no binaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Sidecars among the binaries and markers in `trash/` (FileSystemBinaryStore, also below Fedora 4 and 5).
    Modeshape,
    /// Records and temporary files in the root (FileDataStore, also below Oak and AEM).
    Jackrabbit,
    /// Uploads in `_pre/`.
    Artifactory,
    /// Nothing beside the binaries below `objects/`.
    GitLfs,
    /// Not known.
    Custom,
}

/// What a file in the root of a store, or a directory there, is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootEntry {
    /// Kept with the backup: the store's owner needs it.
    Record,
    /// The store's own, and not worth keeping: uploads under way, markers.
    Passing,
    /// Nothing that the layout knows.
    Foreign,
}

/// The layout cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLayout {
    /// The directories would take more digits than the digest has.
    #[error("{levels} levels of {width} digits do not fit into a digest: use 0 to 4 levels of 1 to 4 digits")]
    TooDeep {
        /// As asked for.
        levels: usize,
        /// As asked for.
        width: usize,
    },
    /// The suffix could lead elsewhere or hide the digest.
    #[error(
        "the suffix `{0}` cannot be: use up to 16 letters, digits, `.`, `-` and `_`, not beginning with a digit or letter"
    )]
    Suffix(String),
    /// The content under such a name is compressed, so its digest is not its name's.
    #[error("the suffix `{0}` is that of compressed files, whose content does not have the digest in the name")]
    Compressed(String),
}

impl Layout {
    /// ModeShape's FileSystemBinaryStore: `aa/bb/cc/<sha1>`.
    pub fn modeshape() -> Self {
        Self { algorithms: vec![Algorithm::Sha1], levels: 3, width: 2, suffix: String::new(), owner: Owner::Modeshape }
    }

    /// Jackrabbit's FileDataStore: `aa/bb/cc/<sha1 or sha256>`.
    pub fn jackrabbit() -> Self {
        Self { algorithms: vec![Algorithm::Sha1, Algorithm::Sha256], owner: Owner::Jackrabbit, ..Self::modeshape() }
    }

    /// Artifactory's file store: `aa/<sha1>`.
    pub fn artifactory() -> Self {
        Self { levels: 1, owner: Owner::Artifactory, ..Self::modeshape() }
    }

    /// The `objects` directory of git-lfs: `aa/bb/<sha256>`.
    pub fn git_lfs() -> Self {
        Self { algorithms: vec![Algorithm::Sha256], levels: 2, owner: Owner::GitLfs, ..Self::modeshape() }
    }

    /// The two forms of a binary in a ModeShape backup directory: `binaries/aa/bb/cc/<sha1>.bin`, and the same as gzip.
    pub fn modeshape_backup() -> (Self, Self) {
        let with = |suffix: &str| Self { suffix: suffix.to_owned(), owner: Owner::Custom, ..Self::modeshape() };
        (with(".bin"), with(".bin.gz"))
    }

    /// A layout of the site's own.
    pub fn custom(algorithm: Algorithm, levels: usize, width: usize, suffix: &str) -> Result<Self, InvalidLayout> {
        if levels > MAX_LEVELS || !(1..=MAX_WIDTH).contains(&width) {
            return Err(InvalidLayout::TooDeep { levels, width });
        }
        let plain = suffix.len() <= 16
            && suffix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            && !suffix.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !plain {
            return Err(InvalidLayout::Suffix(suffix.to_owned()));
        }
        if suffix.ends_with(".gz") {
            return Err(InvalidLayout::Compressed(suffix.to_owned()));
        }
        Ok(Self { algorithms: vec![algorithm], levels, width, suffix: suffix.to_owned(), owner: Owner::Custom })
    }

    /// Where a binary lies below the root of the store.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let mut path = PathBuf::with_capacity(name.len() * 2);
        for level in 0..self.levels {
            path.push(&name[level * self.width..(level + 1) * self.width]);
        }
        path.push(name + &self.suffix);
        path
    }

    /// The binary that a file in the directory `parents` is by its name; `parents` holds the digits of all levels.
    pub fn digest_of(&self, parents: &[u8], file_name: &[u8]) -> Option<Digest> {
        if !file_name.starts_with(parents) || parents.len() != self.levels * self.width {
            return None;
        }
        self.digest_in(file_name)
    }

    /// The digest in the name of a file, wherever it lies; none if it is no name of a binary.
    pub fn digest_in(&self, file_name: &[u8]) -> Option<Digest> {
        let digest = Digest::from_name(file_name.strip_suffix(self.suffix.as_bytes())?)?;
        self.algorithms.contains(&digest.algorithm()).then_some(digest)
    }

    /// Whether a directory may hold binaries at some level: its name is `width` lower-case hexadecimal digits.
    pub fn is_level(&self, directory_name: &[u8]) -> bool {
        directory_name.len() == self.width && directory_name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// What a file in the root of the store is, if it is not a binary.
    pub fn root_file(&self, name: &str) -> RootEntry {
        match self.owner {
            Owner::Jackrabbit => {
                let record = name == "reference.key"
                    || ["repository-", "references-", "markedTimestamp-", "blob-"]
                        .iter()
                        .any(|prefix| name.starts_with(prefix));
                if record && is_record_name(name) {
                    RootEntry::Record
                } else if name.starts_with("tmp") && has_extension(name, "tmp") || name.starts_with("fsbackend") {
                    RootEntry::Passing
                } else {
                    RootEntry::Foreign
                }
            }
            _ => RootEntry::Foreign,
        }
    }

    /// What a directory in the root of the store is, if it is not a level.
    pub fn root_directory(&self, name: &str) -> RootEntry {
        match (self.owner, name) {
            (Owner::Modeshape, "trash") | (Owner::Artifactory, "_pre") => RootEntry::Passing,
            _ => RootEntry::Foreign,
        }
    }

    /// The names that ModeShape gives to the cached mime type and text of a binary: digests of the binary's own
    /// name with a suffix, not of any content (FileSystemBinaryStore, `createKeyFromSourceWithSuffix`).
    pub fn sidecars_of(&self, digest: &Digest) -> Option<[Digest; 2]> {
        (self.owner == Owner::Modeshape).then(|| {
            ["-mime-type", "-extracted-text"]
                .map(|suffix| Digest::of(Algorithm::Sha1, format!("{digest}{suffix}").as_bytes()))
        })
    }
}

fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, found)| found == extension)
}

/// Whether the content of a small file reads as a mime type, `image/png` or `text/plain; charset=utf-8`, as
/// ModeShape's sidecars do.
pub fn is_mime_type(content: &[u8]) -> bool {
    let token = |text: &str| {
        !text.is_empty()
            && text.len() <= 127
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    content.len() <= 255
        && std::str::from_utf8(content).is_ok_and(|text| {
            let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
            essence.trim().split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype))
                && parameters.chars().all(|c| !c.is_control())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        text.parse().unwrap()
    }

    #[test]
    fn the_golden_binary_and_its_sidecars_lie_where_modeshape_puts_them() {
        let layout = Layout::modeshape();
        let binary = digest("6aa9bf7df2242ef867558584c02160023a96f2f9");
        assert_eq!(layout.path(&binary), PathBuf::from("6a/a9/bf/6aa9bf7df2242ef867558584c02160023a96f2f9"));
        assert_eq!(
            layout.sidecars_of(&binary),
            Some([
                digest("5da5a0695f15971f5b74c0b659ca9c1185d9a4dd"),
                digest("23075ffc3490f00c50d3552f29432bccff9a1175"),
            ])
        );
    }

    #[test]
    fn a_name_in_the_wrong_directory_is_no_binary() {
        let name = b"6aa9bf7df2242ef867558584c02160023a96f2f9";
        let layout = Layout::modeshape();
        assert!(layout.digest_of(b"6aa9bf", name).is_some());
        assert!(layout.digest_of(b"6aa9b0", name).is_none());
        assert!(layout.digest_of(b"6aa9", name).is_none());
        assert!(layout.digest_of(b"6aa9bf", b"6AA9BF7DF2242EF867558584C02160023A96F2F9").is_none());
    }

    #[test]
    fn layouts_differ_in_levels_digests_and_suffix() {
        let sha256 = Digest::of(Algorithm::Sha256, b"x");
        assert!(
            Layout::modeshape().digest_of(&sha256.to_string().as_bytes()[..6], sha256.to_string().as_bytes()).is_none()
        );
        assert!(
            Layout::jackrabbit()
                .digest_of(&sha256.to_string().as_bytes()[..6], sha256.to_string().as_bytes())
                .is_some()
        );
        assert_eq!(Layout::git_lfs().path(&sha256).components().count(), 3);
        let custom = Layout::custom(Algorithm::Sha1, 3, 2, ".bin").unwrap();
        let name = Digest::of(Algorithm::Sha1, b"x").to_string() + ".bin";
        assert!(custom.path(&Digest::of(Algorithm::Sha1, b"x")).ends_with(&name));
        assert_eq!(Layout::artifactory().levels, 1);
    }

    #[test]
    fn layouts_that_cannot_be_are_refused() {
        assert!(Layout::custom(Algorithm::Sha1, 9, 2, "").is_err());
        assert!(Layout::custom(Algorithm::Sha1, 3, 0, "").is_err());
        assert!(Layout::custom(Algorithm::Sha1, 3, 2, "/..").is_err());
        assert!(Layout::custom(Algorithm::Sha1, 3, 2, "abc").is_err());
        assert!(matches!(Layout::custom(Algorithm::Sha1, 3, 2, ".bin.gz"), Err(InvalidLayout::Compressed(_))));
    }

    #[test]
    fn jackrabbit_keeps_records_in_the_root() {
        let layout = Layout::jackrabbit();
        assert_eq!(layout.root_file("reference.key"), RootEntry::Record);
        assert_eq!(layout.root_file("repository-1f2e"), RootEntry::Record);
        assert_eq!(layout.root_file("tmp123.tmp"), RootEntry::Passing);
        assert_eq!(layout.root_file("README"), RootEntry::Foreign);
        assert_eq!(Layout::modeshape().root_directory("trash"), RootEntry::Passing);
    }

    #[test]
    fn mime_types_are_recognised() {
        for text in ["image/png", "text/plain; charset=UTF-8", "application/vnd.ms-excel", "image/svg+xml"] {
            assert!(is_mime_type(text.as_bytes()), "{text}");
        }
        for text in ["", "image", "/png", "image/", "a b/c", "image/png\0"] {
            assert!(!is_mime_type(text.as_bytes()), "{text:?}");
        }
    }
}
