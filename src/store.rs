//! The port to a destination, and the adapters behind it.
//!
//! A store holds objects under [`Key`]s. Nothing is ever overwritten: an object is there whole and as it was sent,
//! or it is not there. `tests/suite/conformance.rs` states the rest, and every adapter passes it.

pub mod directory;
pub mod limiter;
pub mod memory;
pub mod pressure;
pub mod retry;
pub mod s3;

use std::fmt;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::digest::{Digest, Hasher};
use crate::model::key::Key;

/// The largest body that callers hand to [`ObjectStore::put`]; what is larger goes up in parts.
pub const PUT_LIMIT: usize = 8 << 20;

/// A destination: an S3 bucket and prefix, a directory, or memory.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync {
    /// Where the objects are, for people and to tell destinations apart: `s3://bucket/prefix at http://…`,
    /// `file:///var/backups/holdfast`.
    fn place(&self) -> &str;

    /// Stores a new object whose content has this digest.
    ///
    /// Durable when it returns. [`Kind::AlreadyExists`](ErrorKind::AlreadyExists) if the key is taken, whatever lies
    /// there; [`ErrorKind::Corrupt`] if what arrived does not have the digest, and then nothing is stored (a store
    /// that does not check on arrival keeps the damaged object; that is [`Capabilities::verifies_sha1`]).
    async fn put(&self, key: &Key, body: Bytes, digest: &Digest) -> Result<(), StoreError>;

    /// Begins an object that arrives in parts; nothing is there before [`Upload::complete`].
    async fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError>;

    /// What is known of an object without fetching it.
    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError>;

    /// Fetches an object, or the bytes `from .. from + len` of it.
    async fn get(&self, key: &Key, range: Option<ByteRange>) -> Result<Box<dyn Download>, StoreError>;

    /// One page of the objects whose keys begin with `prefix`, in no promised order, each exactly once over all
    /// pages. `prefix` is empty or ends in `/`.
    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page, StoreError>;

    /// Uploads below `prefix` that were begun and neither completed nor aborted. `prefix` may be a whole key.
    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, StoreError>;

    /// Takes away what an unfinished upload left; one that is gone already is no error.
    async fn abort(&self, upload: &Unfinished) -> Result<(), StoreError>;

    /// Takes an object away; one that is not there is no error.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;

    /// Whether what arrives damaged is refused, so that an object which lies there is what was sent. Without it, an
    /// object whose put or completion did not return may be anything of that size.
    fn refuses_damage(&self) -> bool;

    /// Finds out by trying what the store can do; leaves nothing behind where it may delete.
    async fn probe(&self) -> Result<Capabilities, StoreError>;
}

/// An object on its way, part by part. Parts may go in any order and side by side.
///
/// It ends in exactly one of [`complete`](Upload::complete) and [`abort`](Upload::abort); one that is dropped, or whose
/// completion came to nothing, stays behind as [`Unfinished`].
#[async_trait]
#[must_use]
pub trait Upload: fmt::Debug + Send + Sync {
    /// The handle that [`ObjectStore::unfinished`] would show.
    fn unfinished(&self) -> Unfinished;

    /// Whether there may be another one of ours under the same key, which has no parts and whose name nobody was told.
    fn has_a_lost_twin(&self) -> bool {
        false
    }

    /// Sends part `number`, from 1; every part but the last is at least 5 MiB. Sending one again replaces it.
    async fn part(&self, number: u32, body: Bytes) -> Result<PartReceipt, StoreError>;

    /// One try at [`complete`](Upload::complete), for adapters and wrappers: after [`ErrorKind::Unavailable`] it may be
    /// called again, and notices when the try before had come through.
    async fn try_complete(&self, parts: &[PartReceipt]) -> Result<(), StoreError>;

    /// One try at [`abort`](Upload::abort), for adapters and wrappers.
    async fn try_abort(&self) -> Result<(), StoreError>;

    /// Makes the object of all parts, given in order. Durable when it returns; [`ErrorKind::AlreadyExists`] if the
    /// key was taken meanwhile.
    async fn complete(self: Box<Self>, parts: Vec<PartReceipt>) -> Result<(), StoreError> {
        self.try_complete(&parts).await
    }

    /// Takes the parts away.
    async fn abort(self: Box<Self>) -> Result<(), StoreError> {
        self.try_abort().await
    }
}

/// The content of an object, piece by piece.
#[async_trait]
pub trait Download: Send {
    /// The size of what will come, in bytes.
    fn size(&self) -> u64;

    /// The next piece; none at the end. Fewer bytes than [`size`](Download::size) are an error, never an end.
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError>;
}

/// All that a download still brings; for objects known to be small.
pub async fn read_to_end(mut download: Box<dyn Download>) -> Result<Bytes, StoreError> {
    let mut content = BytesMut::new();
    while let Some(piece) = download.chunk().await? {
        content.extend_from_slice(&piece);
    }
    Ok(content.freeze())
}

/// What lies under a key where an object was to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lying {
    /// No object.
    Nothing,
    /// That object.
    Same,
    /// Another one, or that one damaged.
    Other,
}

/// Looks what lies where an object of this size and digest was to lie.
///
/// If the store does not tell its digest it is read back, unless it is larger than a put and the store refuses damage.
pub async fn lying(store: &dyn ObjectStore, key: &Key, bytes: u64, digest: &Digest) -> Result<Lying, StoreError> {
    let found = match store.head(key).await {
        Ok(found) => found,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(Lying::Nothing),
        Err(error) => return Err(error),
    };
    let same = found.bytes == bytes
        && match found.digest {
            Some(found) if found.algorithm() == digest.algorithm() => found == *digest,
            // A digest of another kind says nothing: a store may keep the SHA-1 of what is named by its SHA-256.
            _ if bytes > PUT_LIMIT as u64 && store.refuses_damage() => true,
            _ => {
                let mut download = store.get(key, None).await?;
                let mut hasher = Hasher::new(digest.algorithm());
                while let Some(piece) = download.chunk().await? {
                    hasher.update(&piece);
                }
                hasher.finish() == *digest
            }
        };
    Ok(if same { Lying::Same } else { Lying::Other })
}

/// What a part left behind, to be handed to [`Upload::complete`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReceipt {
    /// The part's number.
    pub number: u32,
    /// Its size in bytes.
    pub bytes: u64,
    /// The store's own name for it (S3: the `ETag`).
    pub tag: String,
    /// The store's checksum of it, base64 (S3: CRC32), where it keeps one.
    pub checksum: Option<String>,
}

/// A part of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub from: u64,
    /// How many; more than there are is an error.
    pub len: u64,
}

impl ByteRange {
    /// Whether an object of this size has all of it.
    pub fn fits(&self, size: u64) -> bool {
        self.from.checked_add(self.len).is_some_and(|end| end <= size)
    }
}

/// What is known of an object without fetching it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: Key,
    /// Its size in bytes.
    pub bytes: u64,
    /// The digest of its content by the store's own account, where it keeps one and has checked it on arrival.
    pub digest: Option<Digest>,
}

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken(pub String);

/// A part of a listing.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The objects; their `digest` is not known.
    pub objects: Vec<ObjectInfo>,
    /// Where it goes on; none at the end.
    pub next: Option<PageToken>,
}

/// An upload that was begun and not ended; two are equal if they are the same one.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// What it was to become.
    pub key: Key,
    /// The store's name for it.
    pub id: String,
    /// When it was begun or last written to, as the store tells when it lists it.
    pub since: Option<Timestamp>,
}

impl PartialEq for Unfinished {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, &self.id) == (&other.key, &other.id)
    }
}

impl Eq for Unfinished {}

/// What a store was found to do, by [`ObjectStore::probe`]; recorded once a destination, never assumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Capabilities {
    /// Refuses to replace an object when asked (`If-None-Match: *` on a put). Without it we look first.
    pub conditional_put: bool,
    /// The same when an upload in parts is completed.
    pub conditional_complete: bool,
    /// Refuses a body that does not have the SHA-1 it came with. Without it we read back what we sent, and what
    /// [`ObjectStore::head`] would tell of an object's digest counts for nothing.
    pub verifies_sha1: bool,
    /// Tells the SHA-1 of an object when asked.
    pub returns_sha1: bool,
    /// Refuses a part that does not have the checksum it came with. Without it we read back what we sent.
    pub verifies_parts: bool,
    /// Lists uploads that were not ended. Without it only those the ledger knows can be taken away.
    pub lists_unfinished: bool,
}

impl Capabilities {
    /// A store that does all of it.
    pub const ALL: Self = Self {
        conditional_put: true,
        conditional_complete: true,
        verifies_sha1: true,
        returns_sha1: true,
        verifies_parts: true,
        lists_unfinished: true,
    };

    /// A store of which nothing is known: everything is checked by us.
    pub const NONE: Self = Self {
        conditional_put: false,
        conditional_complete: false,
        verifies_sha1: false,
        returns_sha1: false,
        verifies_parts: false,
        lists_unfinished: false,
    };
}

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such object, bucket or directory.
    NotFound,
    /// The key is taken.
    AlreadyExists,
    /// The credentials do not allow it; trying again does not help.
    Denied,
    /// What arrived is not what was sent.
    Corrupt,
    /// The store is busy, slow or out of reach; worth another try.
    Unavailable,
    /// Anything else; trying again does not help.
    Other,
}

/// A request to a store came to nothing.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {cause}")]
pub struct StoreError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// What was being done, to what: "put `binaries/…` in `s3://bucket`".
    pub action: String,
    /// Why it came to nothing, in the store's words, with a hint where there is one.
    pub cause: String,
    /// Whether the store asks for fewer requests at once; then it is [`Unavailable`](ErrorKind::Unavailable).
    pub busy: bool,
}

impl StoreError {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, action: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { kind, action: action.into(), cause: cause.into(), busy: false }
    }
}
