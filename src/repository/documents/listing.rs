//! Which documents files there are, in reading order, and what they look like from outside.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::bail;

use crate::model::digest::Algorithm;
use crate::model::digest::Digest;
use crate::model::digest::Hasher;
use crate::model::run::Problem;

/// The names, sizes, times and inodes of all documents files, in one value; not their content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(Digest);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug)]
pub(super) struct Listing {
    /// In reading order.
    pub(super) files: Vec<DocumentsFile>,
    pub(super) fingerprint: Fingerprint,
    /// Files that are not read, without loss.
    pub(super) warnings: Vec<Problem>,
    /// Files that should be there.
    pub(super) losses: Vec<Problem>,
}

#[derive(Debug)]
pub(super) struct DocumentsFile {
    /// Within the directory: `changes/documents_000001.bin`.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) gzip: bool,
}

/// What lies under the name of a documents file.
struct Found {
    /// None if it is not a file.
    metadata: Option<fs::Metadata>,
    file: DocumentsFile,
}

impl Listing {
    pub(super) fn of(directory: &Path) -> anyhow::Result<Self> {
        let main = found(directory, "").with_context(|| {
            format!(
                "look for documents in `{}`: name a directory that holds documents_000001.bin.gz or .bin",
                directory.display()
            )
        })?;
        let changes = match found(&directory.join("changes"), "changes/") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            changes => changes.with_context(|| format!("look for documents in `{}/changes`", directory.display()))?,
        };
        let fingerprint = fingerprint(main.values().chain(changes.values()).flatten());
        let mut listing = Self { files: Vec::new(), fingerprint, warnings: Vec::new(), losses: Vec::new() };
        if main.is_empty() && !changes.is_empty() {
            listing.missing("", 1, 1);
        }
        listing.choose("", main);
        listing.choose("changes/", changes);
        if listing.files.is_empty() {
            bail!(
                "look for documents in `{}`: there is no documents_000001.bin.gz or .bin; name the directory that a \
                 backup of the repository was made in",
                directory.display()
            );
        }
        Ok(listing)
    }

    /// Takes one file of each number, and notes what is odd.
    fn choose(&mut self, area: &str, found: BTreeMap<u32, Vec<Found>>) {
        // ModeShape numbers from 1 and reads up to the first number that is missing.
        let mut expected = 1;
        for (number, mut candidates) in found {
            if number > expected {
                self.missing(area, expected, number - 1);
            }
            expected = number + 1;
            // `documents_000001.bin.gz` comes before `documents_000001.bin`, as ModeShape has it.
            candidates.sort_by_key(|found| (found.metadata.is_none(), !found.file.gzip));
            let mut candidates = candidates.into_iter();
            match candidates.next() {
                Some(Found { metadata: Some(_), file }) => {
                    for other in candidates {
                        let message = match other.metadata {
                            Some(_) => format!("is not read, as `{}` stands beside it", file.name),
                            None => "is not a file".to_owned(),
                        };
                        self.warnings.push(problem("documents", &other.file.name, message));
                    }
                    self.files.push(file);
                }
                other => self.losses.extend(other.into_iter().chain(candidates).map(|other| {
                    let message = "is not a file; the documents of this number are missing".to_owned();
                    problem("missing", &other.file.name, message)
                })),
            }
        }
    }

    fn missing(&mut self, area: &str, first: u32, last: u32) {
        let (subject, message) = if first == last {
            (format!("{area}documents_{first:06}"), "is missing; the files after it are read all the same".to_owned())
        } else {
            let message = format!("and all up to {last:06} are missing; the files after them are read all the same");
            (format!("{area}documents_{first:06}"), message)
        };
        self.losses.push(problem("missing", &subject, message));
    }
}

pub(super) fn problem(kind: &str, subject: &str, message: String) -> Problem {
    Problem { kind: kind.to_owned(), subject: subject.to_owned(), message }
}

/// What lies in one directory under the names of documents files, by their numbers.
fn found(directory: &Path, area: &str) -> io::Result<BTreeMap<u32, Vec<Found>>> {
    let mut found: BTreeMap<u32, Vec<Found>> = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((number, gzip)) = name.to_str().and_then(parse) else { continue };
        let path = entry.path();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => Some(metadata).filter(fs::Metadata::is_file),
            // A link that leads nowhere, or a file just deleted; the next look tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let name = format!("{area}{}", name.display());
        found.entry(number).or_default().push(Found { metadata, file: DocumentsFile { name, path, gzip } });
    }
    for candidates in found.values_mut() {
        candidates.sort_by(|a, b| a.file.name.cmp(&b.file.name));
    }
    Ok(found)
}

/// The number in `documents_000001.bin` or `documents_000001.bin.gz`, and which of the two it is.
fn parse(name: &str) -> Option<(u32, bool)> {
    let rest = name.strip_prefix("documents_")?;
    let (number, gzip) = match rest.strip_suffix(".bin.gz") {
        Some(number) => (number, true),
        None => (rest.strip_suffix(".bin")?, false),
    };
    let sound = number.len() == 6 && number.bytes().all(|byte| byte.is_ascii_digit());
    sound.then(|| number.parse().ok()).flatten().map(|number| (number, gzip))
}

fn fingerprint<'a>(found: impl Iterator<Item = &'a Found>) -> Fingerprint {
    let mut hasher = Hasher::new(Algorithm::Sha1);
    for Found { metadata, file } in found {
        let outside = metadata.as_ref().map(|file| (file.len(), file.mtime(), file.mtime_nsec(), file.ino()));
        writeln!(hasher, "{} {outside:?}", file.name).expect("a hasher takes everything");
    }
    Fingerprint(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_that_modeshape_gives_are_documents_files() {
        assert_eq!(parse("documents_000001.bin"), Some((1, false)));
        assert_eq!(parse("documents_012345.bin.gz"), Some((12345, true)));
        for name in [
            "documents_1.bin",
            "documents_0000001.bin",
            "documents_00000a.bin",
            "documents_000001.bin.gz.part",
            "documents_000001.gz",
            "documents_+00001.bin",
            "Documents_000001.bin",
            ".documents_000001.bin",
            "summary_of_changes.json",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
