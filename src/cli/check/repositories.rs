//! The binary store and the documents of a repository.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Findings;
use super::machine::may_write;
use crate::cli::site::document_source;
use crate::cli::text;
use crate::config::Repository;
use crate::model::database::DocumentTable;
use crate::model::database::Encryption;
use crate::model::fedora::FedoraServer;
use crate::model::layout::{Layout, RootEntry};
use crate::repository::binaries::{BinaryStore, open_regular};
use crate::repository::documents::{DocumentSource, TableReport};

/// How many directories are looked into for a sample.
const SAMPLED_DIRECTORIES: usize = 64;
/// How many binaries are opened for a sample.
const SAMPLED_BINARIES: usize = 16;

pub(super) fn check(findings: &mut Findings, repository: &Repository) {
    let subject = format!("repository {}", repository.name);
    if let Err(error) = BinaryStore::open(&repository.binaries, &repository.layout) {
        findings.failure(&subject, &error);
    } else {
        layout(findings, &subject, repository);
        restorable(findings, &subject, &repository.binaries);
    }
    match repository.documents.as_ref().map(document_source) {
        None => findings.ok(&subject, "has no documents: only binaries are kept"),
        Some(DocumentSource::Directory(directory)) => match directory.fingerprint() {
            Ok(_) => findings.ok(&subject, format!("documents found in `{}`", directory.path().display())),
            Err(error) => findings.failure(&subject, &error),
        },
        Some(DocumentSource::Fedora(server)) => fedora(findings, &subject, &server),
        Some(DocumentSource::Table(table)) => match table.look() {
            Ok(report) => database(findings, &subject, &table, &report),
            Err(error) => findings.failure(&subject, &error),
        },
    }
}

fn fedora(findings: &mut Findings, subject: &str, server: &FedoraServer) {
    let url = &server.url;
    match server.look() {
        Ok(()) => {
            let staging = server.staging.display();
            findings.ok(subject, format!("Fedora answers at {url}, and can be asked for backups in `{staging}`"));
        }
        Err(error) => findings.failure(subject, &error),
    }
    if !url.is_local() && !url.encrypted && url.user.is_some() {
        let hint = "let it be reached by https, or ask it on the machine it runs on";
        findings.warning(subject, format!("the password goes to {url} unencrypted"), hint);
    }
}

fn database(findings: &mut Findings, subject: &str, wanted: &DocumentTable, report: &TableReport) {
    let TableReport { server, table, documents, writable, encrypted } = report;
    let url = &wanted.url;
    match table {
        None => {
            let message = format!("there is no table {} in {url} that this user sees ({server})", wanted.table);
            findings.error(subject, message, "check `url` and `table`; a restore makes the table, if it may");
        }
        Some(table) if *documents == 0 => {
            let hint = "nothing to back up yet if the repository is new; otherwise check `url` and `table`";
            findings.warning(subject, format!("{table} in {url} is empty ({server})"), hint);
        }
        Some(table) => {
            let documents = text::count(*documents);
            findings.ok(subject, format!("{documents} documents can be read in {table} in {url} ({server})"));
        }
    }
    if table.is_some() && !writable {
        let hint = "for a restore into it, let the user of `url` insert and delete there; `--to DIR` works in any case";
        findings.warning(subject, "this user may not write the documents, which a restore needs", hint);
    }
    if !url.is_local() && !encrypted {
        let hint = "let the server offer TLS, and ask for it in `url`: sslmode=verify-full for PostgreSQL";
        findings.warning(subject, format!("the connection to {url} is not encrypted"), hint);
    } else if !url.is_local() && !matches!(url.encryption, Encryption::ForNamed | Encryption::ForVouchedFor) {
        let hint = "ask in `url` for the server to prove who it is: sslmode=verify-full for PostgreSQL";
        findings.warning(subject, format!("whoever answers for {url} is believed"), hint);
    }
}

fn layout(findings: &mut Findings, subject: &str, repository: &Repository) {
    let root = &repository.binaries;
    let shown = root.display();
    let sample = match Sample::take(root, &repository.layout) {
        Ok(sample) => sample,
        Err((path, error)) => {
            let message = format!("read `{}`: {error}", path.display());
            let hint = "let the user that runs holdfast read everything below it: add it to the group that may";
            return findings.error(subject, message, hint);
        }
    };
    let hint = "check `binaries` and `layout`: modeshape, jackrabbit, artifactory or git-lfs";
    match sample {
        Sample { levels: 0, binaries: 0, foreign: 0, .. } => findings.warning(
            subject,
            format!("`{shown}` is empty"),
            "nothing to do if it is new; otherwise check `binaries`, and that the volume is mounted",
        ),
        Sample { levels: 0, binaries: 0, foreign, .. } => {
            let message = format!("none of the {} entries of `{shown}` is of its layout", text::count(foreign));
            findings.error(subject, message, hint);
        }
        Sample { binaries: 0, strange: 1.., .. } => {
            let message = format!("the files below `{shown}` are not named as its layout names them");
            findings.error(subject, message, hint);
        }
        Sample { levels, binaries, .. } => {
            let levels = text::count(levels);
            let binaries = text::binaries(binaries);
            findings.ok(
                subject,
                format!("`{shown}`: {levels} first-level directories; a sample of {binaries} is readable"),
            );
        }
    }
}

/// Whether a restore can put binaries in place and others aside, each by a rename.
fn restorable(findings: &mut Findings, subject: &str, root: &Path) {
    let way_out = "a restore with `--to DIR` works in any case";
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let Some(parent) = root.parent() else {
        return findings.warning(subject, "the binary directory is the root of the file system", way_out);
    };
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    if device(&root) != device(parent) {
        findings.warning(
            subject,
            format!("`{}` is a mount point, so a restore cannot put binaries aside next to it", root.display()),
            format!("move the store one directory down on its volume; {way_out}"),
        );
    } else if !may_write(&root) || !may_write(parent) {
        findings.warning(
            subject,
            format!("this user may not write `{}` and beside it, which a restore into it needs", root.display()),
            format!("run the restore as the repository's user; {way_out}"),
        );
    } else {
        findings.ok(subject, "can be restored in place");
    }
}

/// A part of a store, by names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sample {
    /// Directories in the root that may hold binaries.
    levels: u64,
    /// Files named as binaries are.
    binaries: u64,
    /// Entries of the root that the layout does not know.
    foreign: u64,
    /// Files where binaries should be that are named otherwise.
    strange: u64,
}

impl Sample {
    /// Looks at the root, and from there at the first directories in depth. The error names what cannot be read.
    fn take(root: &Path, layout: &Layout) -> Result<Self, (PathBuf, io::Error)> {
        let mut sample = Self::default();
        let mut waiting = vec![(root.to_owned(), Vec::new(), 0)];
        let mut looked_into = 0;
        while let Some((directory, digits, level)) = waiting.pop() {
            if looked_into == SAMPLED_DIRECTORIES || sample.binaries >= SAMPLED_BINARIES as u64 {
                break;
            }
            looked_into += 1;
            let failed = |error| (directory.clone(), error);
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let (name, path) = (entry.file_name(), entry.path());
                let is_directory = entry.file_type().map_err(failed)?.is_dir();
                if is_directory && level < layout.levels && layout.is_level(name.as_bytes()) {
                    sample.levels += u64::from(level == 0);
                    waiting.push((path, [digits.as_slice(), name.as_bytes()].concat(), level + 1));
                } else if !is_directory
                    && level == layout.levels
                    && layout.digest_of(&digits, name.as_bytes()).is_some()
                {
                    sample.binaries += 1;
                    if sample.binaries <= SAMPLED_BINARIES as u64 {
                        open(&path)?;
                    }
                } else if level == 0 {
                    sample.foreign += u64::from(is_foreign(layout, &name.to_string_lossy(), is_directory));
                } else {
                    sample.strange += 1;
                }
            }
        }
        Ok(sample)
    }
}

fn open(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    match open_regular(path) {
        // Its owner deleted it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened.map(drop).map_err(|error| (path.to_owned(), error)),
    }
}

fn is_foreign(layout: &Layout, name: &str, is_directory: bool) -> bool {
    let entry = if is_directory { layout.root_directory(name) } else { layout.root_file(name) };
    entry == RootEntry::Foreign
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_tells_binaries_from_what_lies_beside_them() {
        let scratch = tempfile::tempdir().unwrap();
        let leaf = scratch.path().join("6a/a9/bf");
        fs::create_dir_all(&leaf).unwrap();
        fs::write(leaf.join("6aa9bf7d00000000000000000000000000000000"), "").unwrap();
        fs::write(leaf.join("readme"), "").unwrap();
        fs::create_dir(scratch.path().join("lost+found")).unwrap();
        let sample = Sample::take(scratch.path(), &Layout::modeshape()).unwrap();
        assert_eq!(sample, Sample { levels: 1, binaries: 1, foreign: 1, strange: 1 });
        let sample = Sample::take(scratch.path(), &Layout::artifactory()).unwrap();
        assert_eq!(sample, Sample { levels: 1, binaries: 0, foreign: 1, strange: 1 });
    }
}
