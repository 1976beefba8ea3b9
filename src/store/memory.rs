//! A store in memory, for tests.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::store::{
    ByteRange, Capabilities, Download, ErrorKind, ObjectInfo, ObjectStore, Page, PageToken, PartReceipt, StoreError,
    Unfinished, Upload,
};

/// How many objects a page of a listing holds, as in S3.
const PAGE: usize = 1000;
/// The largest piece of a download, so that tests see more than one.
const PIECE: usize = 256 << 10;

/// A store in memory; it can do all that a store can.
pub struct MemoryStore {
    place: String,
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Parts>,
    begun: u64,
}

struct Object {
    body: Bytes,
    /// Known of what came in one put; S3 too has none for what came in parts.
    digest: Option<Digest>,
}

struct Parts {
    key: Key,
    bodies: BTreeMap<u32, (Bytes, PartReceipt)>,
}

impl MemoryStore {
    /// An empty store that goes by this name.
    pub fn new(place: impl Into<String>) -> Self {
        Self { place: place.into(), content: Arc::default() }
    }

    fn error(&self, kind: ErrorKind, verb: &str, key: &Key, cause: impl Into<String>) -> StoreError {
        StoreError::new(kind, format!("{verb} `{key}` in `{}`", self.place), cause)
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        locked(&self.content)
    }
}

fn locked(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().expect("nothing panics while it holds this lock")
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({})", self.place)
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn place(&self) -> &str {
        &self.place
    }

    async fn put(&self, key: &Key, body: Bytes, digest: &Digest) -> Result<(), StoreError> {
        if !digest.matches(&body) {
            return Err(self.error(
                ErrorKind::Corrupt,
                "put",
                key,
                format!("the body does not have the digest {digest}"),
            ));
        }
        let mut content = self.content();
        if content.objects.contains_key(key.as_str()) {
            return Err(self.error(ErrorKind::AlreadyExists, "put", key, "there is such an object already"));
        }
        content.objects.insert(key.as_str().to_owned(), Object { body, digest: Some(*digest) });
        Ok(())
    }

    async fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
        let mut content = self.content();
        content.begun += 1;
        let id = format!("upload-{:06}", content.begun);
        content.uploads.insert(id.clone(), Parts { key: key.clone(), bodies: BTreeMap::new() });
        Ok(Box::new(MemoryUpload {
            unfinished: Unfinished { key: key.clone(), id, since: None },
            place: self.place.clone(),
            content: Arc::clone(&self.content),
        }))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        match self.content().objects.get(key.as_str()) {
            Some(object) => Ok(ObjectInfo { key: key.clone(), bytes: object.body.len() as u64, digest: object.digest }),
            None => Err(self.error(ErrorKind::NotFound, "look at", key, "there is no such object")),
        }
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>) -> Result<Box<dyn Download>, StoreError> {
        let content = self.content();
        let Some(object) = content.objects.get(key.as_str()) else {
            return Err(self.error(ErrorKind::NotFound, "get", key, "there is no such object"));
        };
        let size = object.body.len() as u64;
        let range = range.unwrap_or(ByteRange { from: 0, len: size });
        if !range.fits(size) {
            let cause = format!("it has {size} bytes, {} from byte {} were asked for", range.len, range.from);
            return Err(self.error(ErrorKind::Other, "get", key, cause));
        }
        let from = usize::try_from(range.from).expect("it fits the object, which is in memory");
        let len = usize::try_from(range.len).expect("it fits the object, which is in memory");
        Ok(Box::new(MemoryDownload { size: range.len, rest: object.body.slice(from..from + len) }))
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page, StoreError> {
        let content = self.content();
        let from = match page {
            Some(PageToken(last)) => Bound::Excluded(last.as_str()),
            None => Bound::Included(prefix),
        };
        let mut below =
            content.objects.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        let objects: Vec<ObjectInfo> =
            below.by_ref().take(PAGE).filter_map(|(key, object)| info(key, object)).collect();
        let next = match below.next() {
            Some(_) => objects.last().map(|last| PageToken(last.key.as_str().to_owned())),
            None => None,
        };
        Ok(Page { objects, next })
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, StoreError> {
        let content = self.content();
        let below = content.uploads.iter().filter(|(_, parts)| parts.key.as_str().starts_with(prefix));
        // Nobody beyond this process has begun one, so none has to be waited for.
        let since = Some(Timestamp::UNIX_EPOCH);
        Ok(below.map(|(id, parts)| Unfinished { key: parts.key.clone(), id: id.clone(), since }).collect())
    }

    async fn abort(&self, upload: &Unfinished) -> Result<(), StoreError> {
        self.content().uploads.remove(&upload.id);
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.content().objects.remove(key.as_str());
        Ok(())
    }

    fn refuses_damage(&self) -> bool {
        true
    }

    async fn probe(&self) -> Result<Capabilities, StoreError> {
        Ok(Capabilities::ALL)
    }
}

fn info(key: &str, object: &Object) -> Option<ObjectInfo> {
    Some(ObjectInfo { key: Key::parse(key)?, bytes: object.body.len() as u64, digest: None })
}

struct MemoryUpload {
    unfinished: Unfinished,
    place: String,
    content: Arc<Mutex<Content>>,
}

impl MemoryUpload {
    fn error(&self, kind: ErrorKind, verb: &str, cause: impl Into<String>) -> StoreError {
        StoreError::new(kind, format!("{verb} `{}` in `{}`", self.unfinished.key, self.place), cause)
    }
}

impl fmt::Debug for MemoryUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryUpload({} of {})", self.unfinished.id, self.unfinished.key)
    }
}

#[async_trait]
impl Upload for MemoryUpload {
    fn unfinished(&self) -> Unfinished {
        self.unfinished.clone()
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<PartReceipt, StoreError> {
        let mut content = locked(&self.content);
        let Some(upload) = content.uploads.get_mut(&self.unfinished.id) else {
            return Err(self.error(
                ErrorKind::NotFound,
                &format!("upload part {number} of"),
                "there is no such upload",
            ));
        };
        let tag = format!("{:08x}-{}", crc32fast::hash(&body), body.len());
        let receipt = PartReceipt { number, bytes: body.len() as u64, tag, checksum: None };
        upload.bodies.insert(number, (body, receipt.clone()));
        Ok(receipt)
    }

    async fn try_complete(&self, parts: &[PartReceipt]) -> Result<(), StoreError> {
        let mut content = locked(&self.content);
        let Some(upload) = content.uploads.get(&self.unfinished.id) else {
            return Err(self.error(ErrorKind::NotFound, "complete", "there is no such upload"));
        };
        if parts.is_empty() || !parts.is_sorted_by(|a, b| a.number < b.number) {
            let cause = "an object is made of one part or more, given in order";
            return Err(self.error(ErrorKind::Other, "complete", cause));
        }
        let key = upload.key.as_str().to_owned();
        let mut body = BytesMut::new();
        for part in parts {
            match upload.bodies.get(&part.number) {
                Some((bytes, receipt)) if receipt == part => body.extend_from_slice(bytes),
                _ => {
                    let cause = format!("part {} is not there or was replaced", part.number);
                    return Err(self.error(ErrorKind::Other, "complete", cause));
                }
            }
        }
        if content.objects.contains_key(&key) {
            return Err(self.error(ErrorKind::AlreadyExists, "complete", "there is such an object already"));
        }
        content.uploads.remove(&self.unfinished.id);
        content.objects.insert(key, Object { body: body.freeze(), digest: None });
        Ok(())
    }

    async fn try_abort(&self) -> Result<(), StoreError> {
        locked(&self.content).uploads.remove(&self.unfinished.id);
        Ok(())
    }
}

struct MemoryDownload {
    size: u64,
    rest: Bytes,
}

#[async_trait]
impl Download for MemoryDownload {
    fn size(&self) -> u64 {
        self.size
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        Ok((!piece.is_empty()).then_some(piece))
    }
}
