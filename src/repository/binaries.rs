//! A directory of binaries named by their digests.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};

use crate::model::digest::{Digest, Hasher};
use crate::model::layout::Layout;
use crate::model::shard::Shard;

/// How much of a file is read at once.
const READ_BYTES: usize = 256 << 10;

/// A binary store on disk, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryStore {
    root: PathBuf,
    layout: Layout,
    shard: Option<Shard>,
}

/// What a file in the store turned out to hold.
#[derive(Debug)]
pub enum Content {
    /// What its name says.
    Sound(Vec<u8>),
    /// Something else, of this size; the bytes themselves if they are few.
    Other {
        /// How many bytes there were.
        bytes: u64,
        /// The content, if it is small enough for a sidecar's mime type.
        small: Option<Vec<u8>>,
    },
}

/// What tells that a file was not written to between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written to.
    pub modified: SystemTime,
    inode: u64,
}

impl BinaryStore {
    /// The store in the directory `root`, which may be a symbolic link; below it none is followed.
    pub fn open(root: &Path, layout: &Layout) -> anyhow::Result<Self> {
        let hint = "check `binaries` of the repository, and that the volume is mounted";
        let metadata =
            root.metadata().with_context(|| format!("open binary directory `{}` ({hint})", root.display()))?;
        if !metadata.is_dir() {
            bail!("open binary directory `{}`: it is not a directory ({hint})", root.display());
        }
        std::fs::read_dir(root).with_context(|| {
            format!("read binary directory `{}` (does the user that runs holdfast have the right?)", root.display())
        })?;
        Ok(Self { root: root.to_owned(), layout: layout.clone(), shard: None })
    }

    /// The store that will be in `root`, which need not exist yet.
    pub fn at(root: &Path, layout: &Layout) -> Self {
        Self { root: root.to_owned(), layout: layout.clone(), shard: None }
    }

    /// The part of it that is in a shard: walks and watches of that come upon no other binaries. None is all of it.
    #[must_use]
    pub fn within(self, shard: Option<Shard>) -> Self {
        Self { shard, ..self }
    }

    /// The shard that this is the part of.
    pub fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// Whether a binary of this name belongs to this part.
    pub fn includes(&self, digest: &Digest) -> bool {
        self.shard.is_none_or(|shard| shard.contains(digest))
    }

    /// Whether binaries of this part can lie in the directory that these digits lead to.
    pub fn may_include_below(&self, digits: &[u8]) -> bool {
        self.shard.is_none_or(|shard| shard.may_hold(digits))
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How it names its files.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where a binary lies.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(self.layout.path(digest))
    }

    /// Opens the file of a binary, which must be a regular file.
    pub fn open_file(&self, digest: &Digest) -> io::Result<File> {
        open_regular(&self.path(digest))
    }

    /// What the file of a binary looks like from outside.
    pub fn stamp(&self, digest: &Digest) -> io::Result<Stamp> {
        let metadata = self.path(digest).symlink_metadata()?;
        if !metadata.is_file() {
            return Err(not_a_file());
        }
        Stamp::of(&metadata)
    }

    /// Reads the file of a binary, which seems to have `bytes`, of at most `limit`, and compares its content with its name;
    /// a longer one is [`Content::Other`].
    pub fn read_from(&self, file: &File, bytes: u64, digest: &Digest, limit: usize) -> io::Result<Content> {
        // One byte more than there should be shows the end; the standard library would read it in small pieces.
        let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(usize::MAX).min(limit) + 1);
        while content.len() <= limit {
            if content.len() == content.capacity() {
                content.reserve((64 << 10).min(limit + 1 - content.len()));
            }
            match rustix::io::read(file, rustix::buffer::spare_capacity(&mut content)) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if content.len() <= limit && digest.matches(&content) {
            return Ok(Content::Sound(content));
        }
        let bytes = content.len() as u64;
        Ok(Content::Other { bytes, small: (bytes <= 255).then_some(content) })
    }

    /// Reads a file to its end and compares its content with its name: whether it is the same.
    pub fn check(&self, digest: &Digest, stop: &dyn Fn() -> bool) -> io::Result<bool> {
        Ok(hash(&mut self.open_file(digest)?, digest, stop)? == *digest)
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> io::Result<Self> {
        Ok(Self { bytes: metadata.len(), modified: metadata.modified()?, inode: metadata.ino() })
    }
}

/// Opens a regular file for reading, never through a symbolic link.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK the open of a named pipe would wait for somebody to write to it.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_a_file()) }
}

fn not_a_file() -> io::Error {
    io::Error::other("it is not a regular file")
}

/// The digest of what a reader yields, by the algorithm of `like`.
pub fn hash(reader: &mut dyn Read, like: &Digest, stop: &dyn Fn() -> bool) -> io::Result<Digest> {
    let mut hasher = Hasher::new(like.algorithm());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        if stop() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped"));
        }
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
