//! A directory as ModeShape's own backup leaves it, and `fcr:restore` reads it: `documents_000001.bin.gz` and so on,
//! `binaries/aa/bb/cc/<sha1>.bin` or `.bin.gz`, and `changes/`.
//!
//! It may come from anywhere, so nothing in it is believed: symbolic links in it are not followed, and what is read of
//! it is compared with its name by whoever reads it. `writing` makes such a directory.

mod writing;

use std::fs;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use flate2::bufread::MultiGzDecoder;

use crate::model::digest::Digest;
use crate::model::layout::Layout;
use crate::repository::binaries::BinaryStore;
use crate::repository::documents::DocumentDirectory;
use crate::repository::walk::{Found, Walk};

pub use writing::{Copied, NewBackup};

/// Where the binaries are.
const BINARIES: &str = "binaries";
/// Where what changed during the backup is.
const CHANGES: &str = "changes";
/// What the names of all files of documents begin with.
const DOCUMENTS: &str = "documents_";
/// How much of a file is read at once.
const READ_BYTES: usize = 256 << 10;

/// A ModeShape backup directory.
#[derive(Clone, Debug)]
pub struct BackupDirectory {
    root: PathBuf,
    plain: BinaryStore,
    packed: BinaryStore,
}

impl BackupDirectory {
    /// The directory at this path; nothing is looked at yet.
    pub fn at(root: &Path) -> Self {
        let (plain, packed) = Layout::modeshape_backup();
        let binaries = root.join(BINARIES);
        let (plain, packed) = (BinaryStore::at(&binaries, &plain), BinaryStore::at(&binaries, &packed));
        Self { root: root.to_owned(), plain, packed }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// An error if it is no directory, or if something in it leads elsewhere.
    pub fn check(&self) -> anyhow::Result<()> {
        let context = || format!("open the backup directory `{}`", self.root.display());
        let found = self.root.metadata().with_context(context)?;
        if !found.is_dir() {
            bail!("open the backup directory `{}`: it is not a directory", self.root.display());
        }
        for directory in [self.root.clone(), self.root.join(CHANGES)] {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == ErrorKind::NotFound && directory != self.root => continue,
                entries => entries.with_context(|| format!("read `{}`", directory.display()))?,
            };
            for entry in entries {
                let entry = entry.with_context(|| format!("read `{}`", directory.display()))?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                let ours = name.starts_with(DOCUMENTS) || [BINARIES, CHANGES].contains(&&*name);
                if ours && entry.file_type().with_context(context)?.is_symlink() {
                    bail!(
                        "read `{}`: it is a symbolic link, and in a backup directory none is followed: put what it \
                         leads to in its place",
                        entry.path().display()
                    );
                }
            }
        }
        Ok(())
    }

    /// Its documents.
    pub fn documents(&self) -> DocumentDirectory {
        DocumentDirectory::new(self.root.clone())
    }

    /// Whether there is a directory for binaries, with or without any.
    pub fn has_binaries(&self) -> bool {
        self.plain.root().symlink_metadata().is_ok_and(|found| found.is_dir())
    }

    /// The names of its binaries in order, each once.
    pub fn binaries(&self) -> anyhow::Result<Binaries> {
        if !self.has_binaries() {
            return Ok(Binaries { names: Vec::new() });
        }
        let names = [&self.plain, &self.packed].into_iter().map(Names::begin).collect::<anyhow::Result<_>>()?;
        Ok(Binaries { names })
    }

    /// Opens a binary, unpacked where it is compressed: as `.bin.gz`, which ModeShape writes now, or `.bin`.
    pub fn open_binary(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
        match self.packed.open_file(digest) {
            Ok(file) => Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, file)))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Box::new(self.plain.open_file(digest)?)),
            Err(error) => Err(error),
        }
    }
}

/// The names of the binaries in a backup directory; a directory that cannot be read is an error.
#[derive(Debug)]
pub struct Binaries {
    /// Of each form.
    names: Vec<Names>,
}

/// The names of one form.
#[derive(Debug)]
struct Names {
    walk: Walk,
    batch: std::vec::IntoIter<Digest>,
    next: Option<Digest>,
}

impl Names {
    fn begin(store: &BinaryStore) -> anyhow::Result<Self> {
        let mut names = Self { walk: Walk::begin(store, 1)?, batch: Vec::new().into_iter(), next: None };
        names.advance()?;
        Ok(names)
    }

    fn advance(&mut self) -> anyhow::Result<()> {
        loop {
            self.next = self.batch.next();
            if self.next.is_some() {
                return Ok(());
            }
            match self.walk.next() {
                Some(Found::Binaries(batch)) => self.batch = batch.into_iter(),
                Some(Found::Unreadable { path, cause, .. }) => {
                    bail!("read directory `{}` of the backup: {cause}", path.display());
                }
                None => return Ok(()),
            }
        }
    }
}

impl Iterator for Binaries {
    type Item = anyhow::Result<Digest>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.names.iter().filter_map(|names| names.next).min()?;
        for names in self.names.iter_mut().filter(|names| names.next == Some(first)) {
            if let Err(error) = names.advance() {
                self.names.clear();
                return Some(Err(error));
            }
        }
        Some(Ok(first))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::model::digest::Algorithm;

    fn put(root: &Path, content: &[u8], gzip: bool) -> Digest {
        let digest = Digest::of(Algorithm::Sha1, content);
        let path = root.join(BINARIES).join(Layout::modeshape().path(&digest));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(content).unwrap();
        let (suffix, bytes) = if gzip { ("bin.gz", packed.finish().unwrap()) } else { ("bin", content.to_vec()) };
        fs::write(path.with_extension(suffix), bytes).unwrap();
        digest
    }

    #[test]
    fn binaries_of_both_forms_come_in_order_each_once_and_unpacked() {
        let directory = tempfile::tempdir().unwrap();
        let backup = BackupDirectory::at(directory.path());
        assert_eq!(backup.binaries().unwrap().count(), 0);
        let mut expected: Vec<_> = (0..50_u8).map(|n| put(directory.path(), &[n; 3], n % 2 == 0)).collect();
        put(directory.path(), &[7; 3], true);
        expected.sort();
        let found: Vec<Digest> = backup.binaries().unwrap().map(Result::unwrap).collect();
        assert_eq!(found, expected);
        for digest in found {
            let mut content = Vec::new();
            backup.open_binary(&digest).unwrap().read_to_end(&mut content).unwrap();
            assert!(digest.matches(&content));
        }
    }

    #[test]
    fn links_in_a_backup_directory_are_refused_or_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let backup = BackupDirectory::at(directory.path());
        let digest = put(directory.path(), b"content", false);
        let path = backup.plain.path(&digest);
        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &path).unwrap();
        assert_eq!(backup.binaries().unwrap().count(), 0);
        assert!(backup.open_binary(&digest).is_err());
        backup.check().unwrap();
        std::os::unix::fs::symlink("elsewhere", directory.path().join("documents_000001.bin")).unwrap();
        assert!(backup.check().unwrap_err().to_string().contains("symbolic link"));
    }
}
