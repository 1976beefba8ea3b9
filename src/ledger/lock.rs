//! One process at a time works in a state directory.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

/// The state directory is ours until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct StateLock {
    directory: PathBuf,
    _file: File,
}

/// Another process works in the state directory.
#[derive(Debug, thiserror::Error)]
#[error("state directory `{directory}` is in use by {holder}: wait until it ends, or stop it")]
pub struct InUse {
    /// The state directory.
    pub directory: PathBuf,
    /// What the other process said of itself: "process 4711 (run copy.binaries)".
    pub holder: String,
}

impl StateLock {
    /// Takes the state directory, making it if only its last component is missing; `purpose` is what a second
    /// process is told. The error is [`InUse`] if there is a first.
    pub fn take(directory: &Path, purpose: &str) -> anyhow::Result<Self> {
        if !directory.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(directory).with_context(|| {
                format!(
                    "make state directory `{}` (set `state_dir` in [service] to one you may write)",
                    directory.display()
                )
            })?;
        }
        let path = directory.join("holdfast.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open lock `{}` (is the state directory yours?)", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                if file.read_to_string(&mut holder).is_err() || holder.is_empty() {
                    "another process".clone_into(&mut holder);
                }
                return Err(InUse { directory: directory.to_owned(), holder: holder.trim().to_owned() }.into());
            }
            Err(error) => return Err(error).with_context(|| format!("lock `{}`", path.display())),
        }
        // The text only serves the message above, so a full disk must not keep anybody from working.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "process {} ({purpose})", std::process::id()));
        drop(written);
        Ok(Self { directory: directory.to_owned(), _file: file })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}
