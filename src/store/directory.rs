//! A destination in a local directory: one file an object, under its key.
//!
//! A file appears under its key whole and durable: it is written and synced below `.holdfast-uploads/`, renamed without
//! replacing, and the directory is synced. Symbolic links below the root are not followed.

mod tree;
mod upload;
mod walk;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::io::Errno;

use crate::model::digest::{Algorithm, Digest, Hasher};
use crate::model::key::Key;
use crate::store::directory::tree::Tree;
use crate::store::{
    ByteRange, Capabilities, Download, ErrorKind, ObjectInfo, ObjectStore, PUT_LIMIT, Page, PageToken, StoreError,
    Unfinished, Upload,
};

/// The largest piece of a download.
const PIECE: u64 = 1 << 20;

/// A destination in a local directory.
pub struct DirectoryStore {
    tree: Arc<Tree>,
    place: String,
}

impl DirectoryStore {
    /// Opens the directory, and makes it if only its last part is missing. Blocks for a moment.
    ///
    /// What a put that died left behind is taken away; a put under way, also of another process, is left alone.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let action = || format!("open the destination `{}`", path.display());
        let opened = std::path::absolute(path).and_then(|path| Ok((Tree::open(&path)?, path)));
        let (tree, path) = opened.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => {
                let cause = "the directory it is to lie in does not exist; make it, or mount the disk";
                StoreError::new(ErrorKind::NotFound, action(), cause)
            }
            Some(Errno::NOTDIR) => StoreError::new(ErrorKind::Other, action(), "it is not a directory"),
            _ => failed(action(), &error),
        })?;
        tree.sweep().map_err(|error| failed(format!("tidy up in `{}`", path.display()), &error))?;
        Ok(Self { place: format!("file://{}", path.display()), tree: Arc::new(tree) })
    }

    fn action(&self, verb: &str, thing: impl fmt::Display) -> String {
        format!("{verb} `{thing}` in `{}`", self.place)
    }

    /// Does file work on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        action: String,
        work: impl FnOnce(&Arc<Tree>) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let tree = Arc::clone(&self.tree);
        blocking(move || work(&tree).map_err(|error| failed(action, &error))).await
    }
}

impl fmt::Debug for DirectoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectoryStore({})", self.place)
    }
}

/// Runs work that blocks, to its end even when the caller is gone; a panic in it is one of the caller.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::new(ErrorKind::Unavailable, "work on files", "the program is stopping")),
        },
    }
}

/// What an error of the file system means to the caller, and to whoever has to do something about it.
fn failed(action: String, error: &io::Error) -> StoreError {
    use ErrorKind::{AlreadyExists, Denied, NotFound, Other, Unavailable};
    let (kind, cause) = match Errno::from_io_error(error) {
        Some(Errno::NOENT) => (NotFound, "there is no such object"),
        Some(Errno::EXIST | Errno::ISDIR) => (AlreadyExists, "there is such an object already"),
        Some(Errno::NOTDIR) => (Other, "a part of the path is not a directory; symbolic links are not followed"),
        Some(Errno::LOOP) => (Other, "it is a symbolic link, and those are not followed"),
        Some(Errno::ACCESS | Errno::PERM) => (Denied, "permission denied; the service's user must own the directory"),
        Some(Errno::ROFS) => (Denied, "the file system is mounted read-only"),
        Some(Errno::NOSPC) => (Other, "no space left on the device; make room there, or shorten the retention"),
        Some(Errno::DQUOT) => (Other, "the disk quota is used up; raise it, or shorten the retention"),
        Some(Errno::FBIG) => (Other, "the file would be larger than the file system or a limit of the process allows"),
        Some(Errno::MFILE | Errno::NFILE) => (Unavailable, "too many open files; raise LimitNOFILE= in the unit"),
        Some(Errno::STALE | Errno::TIMEDOUT | Errno::INTR | Errno::AGAIN | Errno::BUSY) => {
            return StoreError::new(Unavailable, action, error.to_string());
        }
        _ => return StoreError::new(Other, action, error.to_string()),
    };
    StoreError::new(kind, action, cause)
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    fn place(&self) -> &str {
        &self.place
    }

    async fn put(&self, key: &Key, body: Bytes, digest: &Digest) -> Result<(), StoreError> {
        let action = self.action("put", key);
        let (tree, key, digest) = (Arc::clone(&self.tree), key.clone(), *digest);
        blocking(move || {
            if !digest.matches(&body) {
                let cause = format!("the body does not have the digest {digest}");
                return Err(StoreError::new(ErrorKind::Corrupt, action, cause));
            }
            tree.put(&key, &body).map_err(|error| failed(action, &error))
        })
        .await
    }

    async fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
        let (wanted, place) = (key.clone(), self.place.clone());
        let begin = move |tree: &Arc<Tree>| upload::begin(Arc::clone(tree), wanted, place);
        Ok(Box::new(self.blocking(self.action("begin", key), begin).await?))
    }

    /// The digest is that of the file as it is now, so it is there for files that are read in no time.
    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        let wanted = key.clone();
        let look = move |tree: &Arc<Tree>| {
            let (file, bytes) = tree.file(&wanted)?;
            let digest = if bytes <= PUT_LIMIT as u64 { Some(digest_of(file, &wanted)?) } else { None };
            Ok(ObjectInfo { key: wanted, bytes, digest })
        };
        self.blocking(self.action("look at", key), look).await
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>) -> Result<Box<dyn Download>, StoreError> {
        let (wanted, action) = (key.clone(), self.action("get", key));
        let open = move |tree: &Arc<Tree>| {
            let (mut file, bytes) = tree.file(&wanted)?;
            let range = range.unwrap_or(ByteRange { from: 0, len: bytes });
            if !range.fits(bytes) {
                let text = format!("it has {bytes} bytes, {} from byte {} were asked for", range.len, range.from);
                return Err(io::Error::other(text));
            }
            file.seek(SeekFrom::Start(range.from))?;
            Ok((file, range.len))
        };
        let (file, size) = self.blocking(action.clone(), open).await?;
        Ok(Box::new(DirectoryDownload { action, file: Some(file), size, rest: size }))
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page, StoreError> {
        let (below, after) = (prefix.to_owned(), page.map(|PageToken(last)| last.clone()));
        self.blocking(self.action("list", prefix), move |tree| walk::page(tree, &below, after.as_deref())).await
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, StoreError> {
        let below = prefix.to_owned();
        self.blocking(self.action("list unfinished uploads below", prefix), move |tree| tree.unfinished(&below)).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<(), StoreError> {
        let id = upload.id.clone();
        self.blocking(self.action("abort the upload of", &upload.key), move |tree| tree.remove_upload(&id)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let wanted = key.clone();
        self.blocking(self.action("delete", key), move |tree| tree.delete(&wanted)).await
    }

    fn refuses_damage(&self) -> bool {
        true
    }

    /// All that a store can do is done here by us; what may be missing is a permission, so a put is tried.
    async fn probe(&self) -> Result<Capabilities, StoreError> {
        let body = Bytes::from_static(b"Holdfast was here.\n");
        let digest = Digest::of(Algorithm::Sha1, &body);
        let key = Key::probe(&format!("{:016x}", fastrand::u64(..)));
        self.put(&key, body, &digest).await?;
        self.delete(&key).await?;
        Ok(Capabilities::ALL)
    }
}

fn digest_of(mut file: File, key: &Key) -> io::Result<Digest> {
    let algorithm = key.as_binary().map_or(Algorithm::Sha1, |digest| digest.algorithm());
    let mut hasher = Hasher::new(algorithm);
    io::copy(&mut file, &mut hasher)?;
    Ok(hasher.finish())
}

struct DirectoryDownload {
    action: String,
    /// Away while a piece is being read.
    file: Option<File>,
    size: u64,
    rest: u64,
}

#[async_trait]
impl Download for DirectoryDownload {
    fn size(&self) -> u64 {
        self.size
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let len = self.rest.min(PIECE);
        if len == 0 {
            return Ok(None);
        }
        let action = self.action.clone();
        let Some(file) = self.file.take() else {
            return Err(StoreError::new(ErrorKind::Other, action, "the download has broken off before"));
        };
        let read = move || {
            let mut piece = Vec::with_capacity(usize::try_from(len).expect("a piece fits into memory"));
            match (&file).take(len).read_to_end(&mut piece) {
                Ok(0) => Err(StoreError::new(ErrorKind::Other, action, "the file became shorter while it was read")),
                Ok(_) => Ok((file, piece)),
                Err(error) => Err(failed(action, &error)),
            }
        };
        let (file, piece) = blocking(read).await?;
        self.file = Some(file);
        self.rest -= piece.len() as u64;
        Ok(Some(Bytes::from(piece)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_and_not_tried_again() {
        let error = failed("put `a`".to_owned(), &Errno::NOSPC.into());
        assert_eq!(error.kind, ErrorKind::Other);
        assert_eq!(
            error.to_string(),
            "put `a`: no space left on the device; make room there, or shorten the retention"
        );
    }

    #[test]
    fn only_the_last_part_of_the_path_is_made() {
        let scratch = tempfile::tempdir().unwrap();
        DirectoryStore::open(&scratch.path().join("backups")).unwrap();
        assert!(scratch.path().join("backups").is_dir());
        let error = DirectoryStore::open(&scratch.path().join("unmounted/backups")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.cause.contains("mount the disk"), "{error}");
    }
}
