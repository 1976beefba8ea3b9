//! Makes a ModeShape backup directory, beside what is there, and puts it in place when it is whole.
//!
//! Into a directory without a backup everything is renamed piece by piece, the first file of documents last: without it
//! there is no backup there. One that holds a backup is exchanged as a whole, in one step, for a directory that was made
//! beside it: no moment shows documents of both, and no file of the older one stays.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{AtFlags, CWD, RenameFlags, StatxAttributes, StatxFlags, renameat_with, statx};

use super::{BINARIES, CHANGES, DOCUMENTS, READ_BYTES};
use crate::model::archive::CHANGES_SUMMARY;
use crate::model::digest::{Digest, Hasher};
use crate::model::layout::Layout;
use crate::repository::binaries::BinaryStore;

/// Where the new backup is made, inside the directory that it is for.
const INSIDE: &str = ".holdfast-export";
/// Where lines go that are no documents.
const DAMAGED: &str = "damaged";

/// A backup that is being made.
#[derive(Debug)]
pub struct NewBackup {
    target: PathBuf,
    staging: PathBuf,
    /// Whether the target holds a backup now.
    replaces: bool,
    binaries: BinaryStore,
}

/// What became of a binary that was copied.
#[derive(Debug)]
pub enum Copied {
    /// It is what its name says, and in the new backup.
    Sound(u64),
    /// It is something else, of this size, and not in it.
    Other(u64),
    /// It could not be read to its end, and is not in it.
    Unreadable(io::Error),
}

impl NewBackup {
    /// Begins a backup for a directory, which must be there; removes what one that was cut left behind.
    pub fn begin(target: &Path) -> anyhow::Result<Self> {
        let target =
            target.canonicalize().with_context(|| format!("open the directory `{}` for a backup", target.display()))?;
        let held = look(&target)?;
        let inside = target.join(INSIDE);
        let beside = target.parent().zip(target.file_name()).map(|(parent, name)| {
            let name = name.to_string_lossy();
            parent.join(format!("{INSIDE}-{name}"))
        });
        for stale in [Some(&inside), beside.as_ref()].into_iter().flatten() {
            remove(stale)?;
        }
        let staging = if held.backup {
            beside.filter(|_| !is_mount_point(&target)).with_context(|| cannot_exchange(&target))?
        } else {
            inside
        };
        if held.backup
            && let Some(foreign) = &held.foreign
        {
            bail!(
                "replace the backup in `{}`: it also holds `{foreign}`, which is no part of one: name a directory of \
                 its own",
                target.display()
            );
        }
        let context = || {
            if held.backup { cannot_exchange(&target) } else { format!("make `{}`", staging.display()) }
        };
        fs::create_dir(&staging).with_context(context)?;
        let (plain, _) = Layout::modeshape_backup();
        let binaries = BinaryStore::at(&staging.join(BINARIES), &plain);
        let backup = Self { target, staging, replaces: held.backup, binaries };
        match backup.prepare() {
            Ok(()) => Ok(backup),
            Err(error) => Err(backup.give_up_after(error)),
        }
    }

    fn prepare(&self) -> anyhow::Result<()> {
        let like = self.target.metadata().with_context(|| format!("look at `{}`", self.target.display()))?;
        let context = || format!("prepare `{}`", self.staging.display());
        if self.replaces {
            // It will stand where the other stands now, for the same people.
            let root = rustix::process::geteuid().is_root();
            let given = lchown(&self.staging, root.then(|| like.uid()), Some(like.gid()));
            if root {
                given.with_context(context)?;
            }
            fs::set_permissions(&self.staging, like.permissions()).with_context(context)?;
        }
        fs::create_dir(self.binaries.root()).with_context(context)?;
        let changes = self.staging.join(CHANGES);
        fs::create_dir(&changes).with_context(context)?;
        fs::write(changes.join("summary_of_changes.json"), CHANGES_SUMMARY).with_context(context)
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Whether there is an older one, which stays until this one is put in its place.
    pub fn replaces(&self) -> bool {
        self.replaces
    }

    /// Writes a file of documents, or of lines that are none: its name is one of those in an archive.
    pub fn write_documents(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.staging.join(name);
        let write = || {
            fs::create_dir_all(path.parent().expect("a file lies in a directory"))?;
            fs::write(&path, content)
        };
        write().with_context(|| format!("write `{}`", path.display()))
    }

    /// Writes a binary whose content is known to have its digest.
    pub fn write_binary(&self, digest: &Digest, content: &[u8]) -> anyhow::Result<()> {
        let path = self.binaries.path(digest);
        let write = || create(&path)?.write_all(content);
        write().with_context(|| format!("write `{}`", path.display()))
    }

    /// Copies a binary and digests it on the way; under its name there is never anything else.
    ///
    /// The error is that of writing, or that `stop` said so.
    pub fn copy_binary(
        &self,
        digest: &Digest,
        from: &mut dyn Read,
        stop: &dyn Fn() -> anyhow::Result<()>,
    ) -> anyhow::Result<Copied> {
        let path = self.binaries.path(digest);
        let passing = self.staging.join("passing");
        let context = || format!("write `{}`", path.display());
        let mut file = create(&passing).with_context(context)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; READ_BYTES];
        let mut bytes = 0;
        let copied = loop {
            stop()?;
            match from.read(&mut buffer) {
                Ok(0) => break if hasher.finish() == *digest { Copied::Sound(bytes) } else { Copied::Other(bytes) },
                Ok(read) => {
                    hasher.update(&buffer[..read]);
                    file.write_all(&buffer[..read]).with_context(context)?;
                    bytes += read as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Copied::Unreadable(error),
            }
        };
        if matches!(copied, Copied::Sound(_)) {
            make_parent(&path).and_then(|()| fs::rename(&passing, &path)).with_context(context)?;
        } else {
            fs::remove_file(&passing).with_context(|| format!("remove `{}`", passing.display()))?;
        }
        Ok(copied)
    }

    /// Puts it in place once all of it is on disk. After an error what was there before is there still.
    pub fn put_in_place(self) -> anyhow::Result<()> {
        let context = || format!("put the backup in place in `{}`", self.target.display());
        if let Err(error) =
            sync_file_system(&self.staging).with_context(|| format!("write `{}` to disk", self.staging.display()))
        {
            return Err(self.give_up_after(error));
        }
        let placed = if self.replaces { self.exchange() } else { self.move_in() };
        if let Err(error) = placed {
            return Err(self.give_up_after(error.context(context())));
        }
        // What is removed here is the older backup, or an empty directory.
        remove(&self.staging)
    }

    fn exchange(&self) -> anyhow::Result<()> {
        let exchange = || renameat_with(CWD, &self.staging, CWD, &self.target, RenameFlags::EXCHANGE);
        exchange().map_err(io::Error::from).with_context(|| cannot_exchange(&self.target))?;
        // The older one goes only when it is sure that the new one would be found after a crash.
        sync_directory(self.target.parent().unwrap_or(&self.target)).or_else(|error| {
            exchange().map_err(io::Error::from).context("put the older backup back in its place")?;
            Err(error)
        })
    }

    fn move_in(&self) -> anyhow::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.staging).with_context(|| format!("read `{}`", self.staging.display()))? {
            names.push(entry.with_context(|| format!("read `{}`", self.staging.display()))?.file_name());
        }
        // Directories first, then the documents from the last to the first.
        names.sort_by_key(|name| (name.to_string_lossy().starts_with(DOCUMENTS), std::cmp::Reverse(name.clone())));
        let mut moved = Vec::new();
        for name in &names {
            let to = self.target.join(name);
            if let Err(error) = renameat_with(CWD, self.staging.join(name), CWD, &to, RenameFlags::NOREPLACE) {
                for name in moved {
                    // What stays there is no backup: it has no first file of documents.
                    drop(fs::rename(self.target.join(name), self.staging.join(name)));
                }
                return Err(io::Error::from(error)).with_context(|| format!("put `{}` in place", to.display()));
            }
            moved.push(name);
        }
        sync_directory(&self.target)
    }

    /// Removes what was made; what was there before is there still.
    pub fn give_up(self) -> anyhow::Result<()> {
        remove(&self.staging)
    }

    fn give_up_after(&self, error: anyhow::Error) -> anyhow::Error {
        match remove(&self.staging) {
            Ok(()) => error,
            Err(left) => error.context(format!("{left:#}")),
        }
    }
}

/// What a directory holds.
#[derive(Debug, Default)]
struct Held {
    /// Anything that belongs to a backup.
    backup: bool,
    /// The first thing that does not.
    foreign: Option<String>,
}

fn look(directory: &Path) -> anyhow::Result<Held> {
    let mut held = Held::default();
    let context = || format!("read `{}`", directory.display());
    for entry in fs::read_dir(directory).with_context(context)? {
        let name = entry.with_context(context)?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(DOCUMENTS) || [BINARIES, CHANGES, DAMAGED].contains(&&*name) {
            held.backup = true;
        } else if name != INSIDE {
            held.foreign = Some(name.into_owned());
        }
    }
    Ok(held)
}

fn cannot_exchange(target: &Path) -> String {
    format!(
        "replace the backup in `{}`, for which a directory is made beside it (the user that runs holdfast must be able \
         to write there, and it must not be a mount point; or name an empty directory)",
        target.display()
    )
}

fn create(path: &Path) -> io::Result<File> {
    match File::create(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make_parent(path)?;
            File::create(path)
        }
        made => made,
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path.parent().expect("a file lies in a directory"))
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove `{}`", directory.display()))
        }
        _ => Ok(()),
    }
}

fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

fn sync_directory(path: &Path) -> anyhow::Result<()> {
    let sync = || File::open(path)?.sync_all();
    sync().with_context(|| format!("write `{}` to disk", path.display()))
}

fn is_mount_point(path: &Path) -> bool {
    statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Algorithm;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn make(target: &Path, documents: &[&str]) -> NewBackup {
        let backup = NewBackup::begin(target).unwrap();
        for name in documents {
            backup.write_documents(name, b"x").unwrap();
        }
        backup
    }

    #[test]
    fn a_backup_is_replaced_as_a_whole_and_nothing_of_the_older_one_stays() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("backup");
        fs::create_dir(&target).unwrap();
        let old = ["documents_000001.bin.gz", "documents_000002.bin.gz"];
        make(&target, &old).put_in_place().unwrap();
        assert_eq!(names(&target), ["binaries", "changes", old[0], old[1]]);
        let summary = fs::read(target.join("changes/summary_of_changes.json")).unwrap();
        assert_eq!(summary, b"{ \"unusedBinaryKeys\" : [ ] }");
        let new = make(&target, &old[..1]);
        assert_eq!(names(&target), ["binaries", "changes", old[0], old[1]]);
        new.put_in_place().unwrap();
        assert_eq!(names(&target), ["binaries", "changes", old[0]]);
        assert_eq!(names(home.path()), ["backup"]);
        // One that is given up, or was killed, leaves everything as it was.
        drop(make(&target, &old));
        make(&target, &[]).give_up().unwrap();
        assert_eq!(
            (names(&target), names(home.path())),
            (vec!["binaries".into(), "changes".into(), old[0].into()], vec!["backup".to_owned()])
        );
    }

    #[test]
    fn a_backup_among_other_files_is_not_replaced_and_they_stay_when_there_was_none() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("backup");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("README"), "").unwrap();
        make(&target, &["documents_000001.bin.gz"]).put_in_place().unwrap();
        assert_eq!(names(&target), ["README", "binaries", "changes", "documents_000001.bin.gz"]);
        let error = NewBackup::begin(&target).unwrap_err().to_string();
        assert!(error.contains("README"), "{error}");
        assert_eq!(names(home.path()), ["backup"]);
    }

    #[test]
    fn what_is_not_its_digest_is_never_under_its_name() {
        let home = tempfile::tempdir().unwrap();
        let backup = NewBackup::begin(home.path()).unwrap();
        let digest = Digest::of(Algorithm::Sha1, b"content");
        let copy = |content: &[u8]| backup.copy_binary(&digest, &mut &*content, &|| Ok(())).unwrap();
        assert!(matches!(copy(b"other"), Copied::Other(5)));
        assert!(!backup.binaries.path(&digest).exists());
        assert!(matches!(copy(b"content"), Copied::Sound(7)));
        assert_eq!(fs::read(backup.binaries.path(&digest)).unwrap(), b"content");
        backup.put_in_place().unwrap();
        assert_eq!(names(home.path()), ["binaries", "changes"]);
    }
}
