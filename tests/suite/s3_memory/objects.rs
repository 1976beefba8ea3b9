//! What a server holds, and the rules for changing it; every change is one call under one lock.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use bytes::BytesMut;
use s3s::S3Result;
use s3s::dto::CompletedPart;
use s3s::dto::ETagCondition;
use s3s::s3_error;

use crate::s3_memory::Checking;
use crate::s3_memory::checksums::Algorithm;
use crate::s3_memory::checksums::Checksums;

/// The least size of a part that is not the last.
const LEAST_PART_BYTES: u64 = 5 << 20;

/// A body that arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    /// The bytes; empty if the server drops them.
    pub(crate) data: Bytes,
    /// How many there were.
    pub(crate) bytes: u64,
    /// The checksums that the store tells of it.
    pub(crate) checksums: Checksums,
}

/// An object, or a part of one to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    /// What it consists of.
    pub(crate) content: Content,
    /// The store's name for this version of it: unique, and nothing more.
    pub(crate) tag: String,
    /// When it came, in ticks of the store.
    pub(crate) tick: u64,
}

/// An object that arrives in parts.
#[derive(Debug)]
pub(crate) struct Upload {
    /// How every part is to be checked.
    pub(crate) algorithm: Option<Algorithm>,
    /// Whether the object's checksum will be of its content, rather than of the checksums of its parts.
    pub(crate) whole: bool,
    /// When it was begun, in ticks of the store.
    pub(crate) tick: u64,
    parts: BTreeMap<i32, Object>,
}

/// What the client says when all parts are there.
#[derive(Debug)]
pub(crate) struct Completion<'a> {
    /// The parts in the order of the object.
    pub(crate) parts: &'a [CompletedPart],
    /// Checksums of the whole object.
    pub(crate) checksums: &'a Checksums,
    /// On what condition.
    pub(crate) if_none_match: Option<&'a ETagCondition>,
    /// What to do with checksums.
    pub(crate) checking: Checking,
    /// Whether the parts' bytes are there, to make a checksum of the whole.
    pub(crate) kept: bool,
}

/// The objects of a bucket, and those on their way.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<(String, String), Upload>,
}

/// All buckets.
#[derive(Debug, Default)]
pub(crate) struct Store {
    buckets: BTreeMap<String, Bucket>,
    ticks: u64,
}

impl Store {
    /// Makes a bucket.
    pub(crate) fn create_bucket(&mut self, name: &str) -> S3Result {
        if self.buckets.contains_key(name) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        self.buckets.insert(name.to_owned(), Bucket::default());
        Ok(())
    }

    /// The bucket of this name.
    pub(crate) fn bucket(&self, name: &str) -> S3Result<&Bucket> {
        self.buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    /// The bucket of this name, to be changed.
    pub(crate) fn bucket_mut(&mut self, name: &str) -> S3Result<&mut Bucket> {
        self.buckets.get_mut(name).ok_or_else(|| s3_error!(NoSuchBucket))
    }

    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    /// Stores an object and gives its tag.
    pub(crate) fn put(
        &mut self,
        bucket: &str,
        key: String,
        content: Content,
        if_none_match: Option<&ETagCondition>,
    ) -> S3Result<String> {
        let tick = self.tick();
        let bucket = self.bucket_mut(bucket)?;
        bucket.check(&key, if_none_match)?;
        let tag = tag(tick);
        bucket.objects.insert(key, Object { content, tag: tag.clone(), tick });
        Ok(tag)
    }

    /// Begins an upload and gives its id.
    pub(crate) fn begin(
        &mut self,
        bucket: &str,
        key: String,
        algorithm: Option<Algorithm>,
        whole: bool,
    ) -> S3Result<String> {
        let tick = self.tick();
        let id = format!("upload-{tick:012}");
        let upload = Upload { algorithm, whole, tick, parts: BTreeMap::new() };
        self.bucket_mut(bucket)?.uploads.insert((key, id.clone()), upload);
        Ok(id)
    }

    /// Keeps a part, in place of one with the same number, and gives its tag.
    pub(crate) fn part(
        &mut self,
        bucket: &str,
        upload: &(String, String),
        number: i32,
        content: Content,
    ) -> S3Result<String> {
        let tick = self.tick();
        let upload = self.bucket_mut(bucket)?.upload(upload)?;
        let tag = tag(tick);
        upload.parts.insert(number, Object { content, tag: tag.clone(), tick });
        Ok(tag)
    }

    /// Makes the object of its parts and gives its tag and its checksums.
    pub(crate) fn complete(
        &mut self,
        bucket: &str,
        upload: &(String, String),
        completion: &Completion<'_>,
    ) -> S3Result<(String, Checksums)> {
        let tick = self.tick();
        let bucket = self.bucket_mut(bucket)?;
        let content = bucket.upload(upload)?.assemble(completion)?;
        bucket.check(&upload.0, completion.if_none_match)?;
        bucket.uploads.remove(upload);
        let tag = format!("{}-{}", tag(tick), completion.parts.len());
        let checksums = content.checksums.clone();
        bucket.objects.insert(upload.0.clone(), Object { content, tag: tag.clone(), tick });
        Ok((tag, checksums))
    }
}

/// A name that no other object has; it stands where AWS gives an MD5, which would cost time and serve nobody.
fn tag(tick: u64) -> String {
    // Not in the form of an MD5: clients would take it for one and compare.
    format!("tag-{tick:x}")
}

impl Upload {
    fn assemble(&self, completion: &Completion<'_>) -> S3Result<Content> {
        if completion.parts.is_empty() {
            return Err(s3_error!(MalformedXML, "an upload has at least one part"));
        }
        if !completion.parts.is_sorted_by(|one, next| one.part_number < next.part_number) {
            return Err(s3_error!(InvalidPartOrder));
        }
        let parts = completion.parts.iter().map(|part| self.confirmed(part, completion.checking));
        let parts = parts.collect::<S3Result<Vec<_>>>()?;
        if parts.split_last().is_some_and(|(_, others)| others.iter().any(|part| part.bytes < LEAST_PART_BYTES)) {
            return Err(s3_error!(EntityTooSmall));
        }
        let mut data = BytesMut::new();
        for part in &parts {
            data.extend_from_slice(&part.data);
        }
        let mut content =
            Content { data: data.freeze(), bytes: parts.iter().map(|part| part.bytes).sum(), ..Content::default() };
        if let Some(algorithm) = self.algorithm.filter(|_| completion.checking != Checking::Ignore) {
            content.checksums = if !self.whole {
                Checksums::of_parts(algorithm, parts.iter().map(|part| &part.checksums)).unwrap_or_default()
            } else if completion.kept {
                Checksums::of_content(algorithm, &content.data)
            } else {
                completion.checksums.clone()
            };
            if completion.checking == Checking::Verify && !completion.checksums.are_among(&content.checksums) {
                return Err(s3_error!(BadDigest, "the checksum of the whole object is not the one that was sent"));
            }
        }
        Ok(content)
    }

    /// The part that the client means, if it is the one that is here.
    fn confirmed(&self, named: &CompletedPart, checking: Checking) -> S3Result<&Content> {
        let here = named.part_number.and_then(|number| self.parts.get(&number));
        let here = here.ok_or_else(|| s3_error!(InvalidPart))?;
        if named.e_tag.as_ref().is_none_or(|tag| tag.value() != here.tag) {
            return Err(s3_error!(InvalidPart, "the ETag of a part is not the one that it was given"));
        }
        if checking != Checking::Verify {
            return Ok(&here.content);
        }
        let sums = Checksums::of_part(named);
        match self.algorithm {
            Some(algorithm) if !self.whole && sums.get(algorithm).is_none() => Err(s3_error!(
                InvalidRequest,
                "the upload was created using a {} checksum: the complete request must include it for each part",
                algorithm.name()
            )),
            None if sums != Checksums::default() => {
                Err(s3_error!(InvalidPart, "the upload was created without a checksum"))
            }
            _ if !sums.are_among(&here.content.checksums) => {
                Err(s3_error!(InvalidPart, "the checksum of a part is not the one that it was given"))
            }
            _ => Ok(&here.content),
        }
    }
}

impl Bucket {
    fn check(&self, key: &str, if_none_match: Option<&ETagCondition>) -> S3Result {
        match if_none_match {
            Some(ETagCondition::Any) if self.objects.contains_key(key) => Err(s3_error!(PreconditionFailed)),
            Some(ETagCondition::ETag(_)) => Err(s3_error!(NotImplemented, "only `*` is understood here")),
            _ => Ok(()),
        }
    }

    /// The object with this key.
    pub(crate) fn object(&self, key: &str) -> S3Result<&Object> {
        self.objects.get(key).ok_or_else(|| s3_error!(NoSuchKey))
    }

    /// The upload with this key and id.
    pub(crate) fn upload(&mut self, upload: &(String, String)) -> S3Result<&mut Upload> {
        self.uploads.get_mut(upload).ok_or_else(|| s3_error!(NoSuchUpload))
    }

    /// Takes an upload away with all its parts.
    pub(crate) fn abort(&mut self, upload: &(String, String)) -> S3Result {
        self.uploads.remove(upload).map(drop).ok_or_else(|| s3_error!(NoSuchUpload))
    }

    /// Takes an object away, if it is there.
    pub(crate) fn remove(&mut self, key: &str) {
        self.objects.remove(key);
    }

    /// Changes the content of an object and nothing else of it, or makes one without checksums.
    pub(crate) fn replace(&mut self, key: &str, data: Bytes) {
        let content = &mut self.objects.entry(key.to_owned()).or_default().content;
        content.bytes = data.len() as u64;
        content.data = data;
    }

    /// The objects that begin with `prefix` and come after `after`, in the order of the bytes of their keys.
    pub(crate) fn objects_after<'a>(
        &'a self,
        prefix: &'a str,
        after: &str,
    ) -> impl Iterator<Item = (&'a str, &'a Object)> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let objects = self.objects.range::<str, _>((from, Bound::Unbounded));
        objects.map(|(key, object)| (key.as_str(), object)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The uploads that begin with `prefix` and come after this key and id.
    pub(crate) fn uploads_after<'a>(
        &'a self,
        prefix: &'a str,
        after: (String, String),
    ) -> impl Iterator<Item = (&'a (String, String), &'a Upload)> {
        let uploads = self.uploads.range((Bound::Excluded(after), Bound::Unbounded));
        uploads.filter(move |((key, _), _)| key.starts_with(prefix))
    }

    /// All keys and contents.
    pub(crate) fn contents(&self) -> BTreeMap<String, Bytes> {
        self.objects.iter().map(|(key, object)| (key.clone(), object.content.data.clone())).collect()
    }

    /// The content of one object.
    pub(crate) fn content(&self, key: &str) -> Option<Bytes> {
        self.objects.get(key).map(|object| object.content.data.clone())
    }

    /// Key and id of every upload.
    pub(crate) fn unfinished(&self) -> Vec<(String, String)> {
        self.uploads.keys().cloned().collect()
    }
}
