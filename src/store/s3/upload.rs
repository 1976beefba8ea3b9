//! Objects that go in parts.
//!
//! The CRC32 of every part is computed once, sent with it, and named again at the end: AWS and the servers like it take
//! no other way of doing it in common.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use jiff::Timestamp;

use crate::model::key::Key;
use crate::store::s3::Bucket;
use crate::store::s3::base64;
use crate::store::s3::error::{Operation, Refusal};
use crate::store::{ByteRange, Download, ErrorKind, PartReceipt, StoreError, Unfinished, Upload};

/// An object on its way in parts.
pub(super) struct S3Upload {
    bucket: Arc<Bucket>,
    key: Key,
    id: String,
    /// Whether a completion was sent of which we do not know what became of it.
    doubtful: AtomicBool,
}

impl fmt::Debug for S3Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Upload({} of {})", self.id, self.key)
    }
}

#[async_trait]
impl Upload for S3Upload {
    fn unfinished(&self) -> Unfinished {
        Unfinished { key: self.key.clone(), id: self.id.clone(), since: None }
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<PartReceipt, StoreError> {
        let checksum = checksum(&body);
        let sent = self.send_part(number, body, checksum).await;
        sent.map_err(|refusal| refusal.when(self.action(&format!("upload part {number} of"))))
    }

    async fn try_complete(&self, parts: &[PartReceipt]) -> Result<(), StoreError> {
        let completed = self.complete_or_find_out(parts).await;
        completed.map_err(|refusal| refusal.when(self.action("complete")))
    }

    async fn try_abort(&self) -> Result<(), StoreError> {
        let aborted = self.bucket.abort(&self.key, &self.id).await;
        aborted.map_err(|refusal| refusal.when(self.action("abort the upload of")))
    }
}

impl S3Upload {
    /// Begins an upload.
    pub(super) async fn begin(bucket: Arc<Bucket>, key: &Key) -> Result<Self, Refusal> {
        let request = bucket
            .client
            .create_multipart_upload()
            .bucket(&bucket.settings.bucket)
            .key(bucket.name(key.as_str()))
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .set_storage_class(bucket.storage_class())
            .set_server_side_encryption(bucket.encryption())
            .set_ssekms_key_id(bucket.settings.kms_key.clone())
            .set_expected_bucket_owner(bucket.owner());
        let answer = bucket.ask(Operation::Begin, request.send()).await?;
        let id = answer.upload_id().map(str::to_owned);
        let id = id.ok_or_else(|| Refusal::own(ErrorKind::Other, "the server gives the upload no name"))?;
        Ok(Self { bucket, key: key.clone(), id, doubtful: AtomicBool::new(false) })
    }

    /// The server's name for it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn action(&self, verb: &str) -> String {
        self.bucket.action(verb, self.key.as_str())
    }

    /// Sends a part with this CRC32.
    pub(super) async fn send_part(&self, number: u32, body: Bytes, checksum: String) -> Result<PartReceipt, Refusal> {
        let bytes = body.len() as u64;
        let request = self
            .bucket
            .client
            .upload_part()
            .bucket(&self.bucket.settings.bucket)
            .key(self.bucket.name(self.key.as_str()))
            .upload_id(&self.id)
            .part_number(part_number(number)?)
            .checksum_crc32(&checksum)
            .body(ByteStream::from(body))
            .set_expected_bucket_owner(self.bucket.owner())
            .customize()
            .disable_payload_signing();
        let answer = self.bucket.ask(Operation::Part, request.send()).await?;
        let Some(tag) = answer.e_tag() else {
            return Err(Refusal::own(ErrorKind::Other, "the server gives the part no tag"));
        };
        Ok(PartReceipt { number, bytes, tag: tag.to_owned(), checksum: Some(checksum) })
    }

    async fn complete_or_find_out(&self, parts: &[PartReceipt]) -> Result<(), Refusal> {
        let conditional = self.bucket.capabilities.conditional_complete;
        if let Err(refusal) = self.complete_if_free(parts, conditional).await {
            self.came_through_after_all(parts, refusal).await?;
        }
        if self.bucket.capabilities.verifies_parts { Ok(()) } else { self.read_back(parts).await }
    }

    async fn complete_if_free(&self, parts: &[PartReceipt], conditional: bool) -> Result<(), Refusal> {
        if !conditional {
            self.bucket.must_be_free(&self.key).await?;
        }
        self.send_complete(parts, conditional).await
    }

    /// Makes the object, with `If-None-Match` where the store heeds it.
    pub(super) async fn send_complete(&self, parts: &[PartReceipt], conditional: bool) -> Result<(), Refusal> {
        let mut list = CompletedMultipartUpload::builder();
        for part in parts {
            let part = CompletedPart::builder()
                .part_number(part_number(part.number)?)
                .e_tag(&part.tag)
                .set_checksum_crc32(part.checksum.clone())
                .build();
            list = list.parts(part);
        }
        let request = self
            .bucket
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket.settings.bucket)
            .key(self.bucket.name(self.key.as_str()))
            .upload_id(&self.id)
            .multipart_upload(list.build())
            .set_if_none_match(conditional.then(|| "*".to_owned()))
            .set_expected_bucket_owner(self.bucket.owner());
        self.bucket.ask(Operation::Complete, request.send()).await?;
        Ok(())
    }

    /// An answer may be lost after the object was made: then the upload is gone, or the key is taken - by us.
    async fn came_through_after_all(&self, parts: &[PartReceipt], refusal: Refusal) -> Result<(), Refusal> {
        let unclear = refusal.kind == ErrorKind::Unavailable || refusal.status.is_some_and(|status| status < 300);
        let doubtful = self.doubtful.fetch_or(unclear, Ordering::Relaxed) || unclear;
        let may_be_ours = matches!(refusal.kind, ErrorKind::AlreadyExists | ErrorKind::Unavailable | ErrorKind::Other);
        if !(refusal.is_missing_in_bucket() || doubtful && may_be_ours) {
            return Err(refusal);
        }
        match self.bucket.look(&self.key).await {
            Ok(found) => {
                let size: u64 = parts.iter().map(|part| part.bytes).sum();
                let same_parts = found.parts_checksum.is_none_or(|known| Some(known) == checksum_of_parts(parts));
                if found.info.bytes == size && same_parts { Ok(()) } else { Err(refusal) }
            }
            // Whether it came through is still open, so it has to be asked again.
            Err(look) if look.kind == ErrorKind::Unavailable => Err(look),
            Err(_) => Err(refusal),
        }
    }

    /// Checks every part where the store did not.
    async fn read_back(&self, parts: &[PartReceipt]) -> Result<(), Refusal> {
        let mut from = 0;
        for part in parts.iter().filter(|part| part.bytes > 0) {
            let mut download = self.bucket.get(&self.key, Some(ByteRange { from, len: part.bytes })).await?;
            let mut hasher = crc32fast::Hasher::new();
            while let Some(piece) = download.chunk().await.map_err(|error| Refusal::own(error.kind, error.cause))? {
                hasher.update(&piece);
            }
            if Some(spell(hasher.finalize())) != part.checksum {
                let cause = format!("read back, part {} is not what was sent; the store has damaged it", part.number);
                return Err(Refusal::own(ErrorKind::Corrupt, cause));
            }
            from += part.bytes;
        }
        Ok(())
    }
}

impl Bucket {
    /// Takes an upload away; one that is gone is no error.
    pub(super) async fn abort(&self, key: &Key, id: &str) -> Result<(), Refusal> {
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(&self.settings.bucket)
            .key(self.name(key.as_str()))
            .upload_id(id)
            .set_expected_bucket_owner(self.owner());
        match self.ask(Operation::Abort, request.send()).await {
            Err(refusal) if !refusal.is_missing_in_bucket() => Err(refusal),
            _ => Ok(()),
        }
    }

    /// The uploads below a prefix that have not ended; none where the store cannot list them.
    pub(super) async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, Refusal> {
        let mut uploads = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(&self.settings.bucket)
                .prefix(self.name(prefix))
                .set_key_marker(key_marker.clone())
                .set_upload_id_marker(id_marker.clone())
                .set_expected_bucket_owner(self.owner());
            let answer = match self.ask(Operation::ListUploads, request.send()).await {
                // Some say that they do not know such a request, others that it is a bad one.
                Err(refusal)
                    if !self.capabilities.lists_unfinished
                        && !matches!(refusal.kind, ErrorKind::Unavailable | ErrorKind::Denied) =>
                {
                    return Ok(Vec::new());
                }
                other => other?,
            };
            for upload in answer.uploads() {
                if let (Some(key), Some(id)) = (upload.key().and_then(|name| self.key(name)), upload.upload_id()) {
                    let since = upload.initiated().and_then(|time| Timestamp::from_second(time.secs()).ok());
                    uploads.push(Unfinished { key, id: id.to_owned(), since });
                }
            }
            let next = answer.next_key_marker().filter(|marker| !marker.is_empty()).map(str::to_owned);
            if answer.is_truncated() != Some(true) || next.is_none() {
                return Ok(uploads);
            }
            let after = (next, answer.next_upload_id_marker().map(str::to_owned));
            if after == (key_marker, id_marker) {
                let cause = "the server gives the same page of uploads again and again";
                return Err(Refusal::own(ErrorKind::Other, cause));
            }
            (key_marker, id_marker) = after;
        }
    }
}

fn part_number(number: u32) -> Result<i32, Refusal> {
    i32::try_from(number).map_err(|_| Refusal::own(ErrorKind::Other, format!("there can be no part {number}")))
}

/// The CRC32 of a part, as S3 spells it.
pub(super) fn checksum(body: &[u8]) -> String {
    spell(crc32fast::hash(body))
}

fn spell(checksum: u32) -> String {
    base64::encode(&checksum.to_be_bytes())
}

/// The checksum that S3 keeps of an object in parts: that of the parts' checksums, and their number.
fn checksum_of_parts(parts: &[PartReceipt]) -> Option<String> {
    let mut all = Vec::with_capacity(parts.len() * 4);
    for part in parts {
        all.extend(base64::decode(part.checksum.as_deref()?)?);
    }
    Some(format!("{}-{}", checksum(&all), parts.len()))
}
