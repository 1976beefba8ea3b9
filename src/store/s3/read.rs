//! Looking at objects, fetching and listing them.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use bytes::Bytes;

use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::store::s3::error::{Operation, Refusal, innermost};
use crate::store::s3::{Bucket, base64, within};
use crate::store::{ByteRange, Download, ErrorKind, ObjectInfo, Page, PageToken, StoreError};

/// How many objects a page holds; S3 gives no more.
const PAGE: i32 = 1000;

/// What a HEAD tells.
pub(super) struct Found {
    /// The digest is left out where the store believes whatever it is told: then it proves nothing.
    pub(super) info: ObjectInfo,
    /// The digest by the store's account, whatever that is worth.
    pub(super) told: Option<Digest>,
    /// The CRC32 of the parts' CRC32s and their number, of an object that came in parts.
    pub(super) parts_checksum: Option<String>,
}

impl Bucket {
    /// Asks about an object.
    pub(super) async fn look(&self, key: &Key) -> Result<Found, Refusal> {
        let request = self
            .client
            .head_object()
            .bucket(&self.settings.bucket)
            .key(self.name(key.as_str()))
            .checksum_mode(ChecksumMode::Enabled)
            .set_expected_bucket_owner(self.owner());
        let head = self.ask(Operation::Look, request.send()).await?;
        let told = digest(&head);
        let proved = told.filter(|_| self.capabilities.verifies_sha1);
        let info = ObjectInfo { key: key.clone(), bytes: size(head.content_length())?, digest: proved };
        let parts_checksum = head.checksum_crc32().filter(|checksum| checksum.contains('-')).map(str::to_owned);
        Ok(Found { info, told, parts_checksum })
    }

    /// Fetches an object or a range of it.
    pub(super) async fn get(&self, key: &Key, range: Option<ByteRange>) -> Result<S3Download, Refusal> {
        if let Some(range) = range.filter(|range| range.len == 0) {
            return self.get_nothing(key, range).await;
        }
        let name = self.name(key.as_str());
        let Answered { bytes, given, body } = match &self.direct {
            Some(direct) => {
                let range = range.map(header);
                let owner = self.settings.expected_bucket_owner.as_deref();
                let headers = [("range", range.as_deref()), ("x-amz-expected-bucket-owner", owner)];
                let headers: Vec<_> = headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
                let asked = direct.get(&self.settings, &name, &headers);
                Answered::of(within(self.settings.time_outs.answer, asked).await??)
            }
            None => self.get_by_sdk(name, range).await?,
        };
        let size = size(bytes)?;
        if let Some(range) = range {
            let begins = format!("bytes {}-", range.from);
            // S3 gives what there is of a range that leads beyond the end.
            if size != range.len || !given.as_deref().is_some_and(|given| given.starts_with(&begins)) {
                let given = given.as_deref().unwrap_or("all of it");
                let cause = format!("asked for {} bytes from byte {}, got {given}", range.len, range.from);
                return Err(Refusal::own(ErrorKind::Other, cause));
            }
        }
        Ok(self.download(key, size, body))
    }

    async fn get_by_sdk(&self, name: String, range: Option<ByteRange>) -> Result<Answered, Refusal> {
        let request = self
            .client
            .get_object()
            .bucket(&self.settings.bucket)
            .key(name)
            .set_range(range.map(header))
            .set_expected_bucket_owner(self.owner());
        let answer = self.ask(Operation::Get, request.send()).await?;
        Ok(Answered { bytes: answer.content_length, given: answer.content_range, body: answer.body })
    }

    /// A range without bytes, which HTTP cannot ask for.
    async fn get_nothing(&self, key: &Key, range: ByteRange) -> Result<S3Download, Refusal> {
        let bytes = self.look(key).await?.info.bytes;
        if !range.fits(bytes) {
            let cause = format!("it has {bytes} bytes, none from byte {}", range.from);
            return Err(Refusal::own(ErrorKind::Other, cause));
        }
        Ok(self.download(key, 0, ByteStream::from_static(b"")))
    }

    fn download(&self, key: &Key, size: u64, body: ByteStream) -> S3Download {
        let limit = self.settings.time_outs.piece;
        S3Download { action: self.action("get", key.as_str()), body, size, rest: size, limit }
    }

    /// A page of the objects below a prefix.
    pub(super) async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page, Refusal> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.settings.bucket)
            .prefix(self.name(prefix))
            .max_keys(PAGE)
            .set_continuation_token(page.map(|PageToken(token)| token.clone()))
            .set_expected_bucket_owner(self.owner());
        let answer = self.ask(Operation::List, request.send()).await?;
        let mut objects = Vec::with_capacity(answer.contents().len());
        for object in answer.contents() {
            // What is not one of our names, such as a console's "directories", is none of our business.
            if let Some(key) = object.key().and_then(|name| self.key(name)) {
                objects.push(ObjectInfo { key, bytes: size(object.size())?, digest: None });
            }
        }
        let next = match (answer.is_truncated(), answer.next_continuation_token()) {
            (Some(true), None) => {
                let cause = "the listing goes on, and the server does not say where";
                return Err(Refusal::own(ErrorKind::Other, cause));
            }
            (Some(true), Some(token)) => Some(PageToken(token.to_owned())),
            _ => None,
        };
        Ok(Page { objects, next })
    }
}

/// What came of a GET, however it was sent.
struct Answered {
    bytes: Option<i64>,
    /// The range that was given, `bytes 0-9/100`.
    given: Option<String>,
    body: ByteStream,
}

impl Answered {
    fn of(answer: HttpResponse) -> Self {
        let header = |name| answer.headers().get(name).map(str::to_owned);
        let bytes = header("content-length").and_then(|length| length.parse().ok());
        let given = header("content-range");
        Self { bytes, given, body: ByteStream::new(answer.into_body()) }
    }
}

fn header(range: ByteRange) -> String {
    // The last byte counts too; a range that has none is not asked for.
    format!("bytes={}-{}", range.from, range.from.saturating_add(range.len - 1))
}

fn size(length: Option<i64>) -> Result<u64, Refusal> {
    let size = length.and_then(|length| u64::try_from(length).ok());
    size.ok_or_else(|| Refusal::own(ErrorKind::Other, "the server does not tell the object's size"))
}

/// The digest of the whole; that of an object in parts is a digest of digests, and says so.
fn digest(head: &HeadObjectOutput) -> Option<Digest> {
    if head.checksum_type() == Some(&ChecksumType::Composite) {
        return None;
    }
    let spelled = head.checksum_sha1().or(head.checksum_sha256())?;
    Digest::from_bytes(&base64::decode(spelled)?)
}

/// The content of an object, as it comes.
pub(super) struct S3Download {
    action: String,
    body: ByteStream,
    size: u64,
    rest: u64,
    limit: Duration,
}

impl S3Download {
    fn unavailable(&self, cause: String) -> StoreError {
        StoreError::new(ErrorKind::Unavailable, self.action.clone(), cause)
    }
}

#[async_trait]
impl Download for S3Download {
    fn size(&self) -> u64 {
        self.size
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Ok(next) = tokio::time::timeout(self.limit, self.body.next()).await else {
            return Err(self.unavailable(format!("no bytes within {:?}", self.limit)));
        };
        match next {
            Some(Ok(piece)) => match self.rest.checked_sub(piece.len() as u64) {
                Some(rest) => {
                    self.rest = rest;
                    Ok(Some(piece))
                }
                None => Err(self.unavailable(format!("more came than the {} bytes announced", self.size))),
            },
            Some(Err(error)) => Err(self.unavailable(format!("the answer broke off: {}", innermost(&error)))),
            None if self.rest > 0 => Err(self.unavailable(format!("the answer broke off {} bytes early", self.rest))),
            None => Ok(None),
        }
    }
}
