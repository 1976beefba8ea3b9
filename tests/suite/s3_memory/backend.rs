//! The operations of S3, as s3s asks for them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::StatusCode;
use s3s::Body;
use s3s::S3;
use s3s::S3Error;
use s3s::S3ErrorCode;
use s3s::S3Request;
use s3s::S3Response;
use s3s::S3Result;
use s3s::StdError;
use s3s::TrailingHeaders;
use s3s::auth::S3Auth;
use s3s::auth::SecretKey;
#[allow(clippy::wildcard_imports, reason = "every operation brings two types that are named for it")]
use s3s::dto::*;
use s3s::s3_error;

use crate::s3_memory::Checking;
use crate::s3_memory::Options;
use crate::s3_memory::checksums;
use crate::s3_memory::checksums::Algorithm;
use crate::s3_memory::checksums::Checksums;
use crate::s3_memory::front::Front;
use crate::s3_memory::objects::Completion;
use crate::s3_memory::objects::Content;
use crate::s3_memory::objects::Object;

/// The most keys in one `DeleteObjects`.
const DELETE_LIMIT: usize = 1000;

/// The second at which the ticks of a store begin; nothing here reads the clock.
const FIRST_SECOND: u64 = 1_700_000_000;

/// Answers the operations out of the server's store.
pub(crate) struct Backend(pub(crate) Arc<Front>);

/// The one account there is.
pub(crate) struct Account {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
}

#[async_trait]
impl S3Auth for Account {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            Ok(self.secret_key.as_str().into())
        } else {
            Err(s3_error!(InvalidAccessKeyId))
        }
    }
}

impl Backend {
    fn options(&self) -> &Options {
        self.0.options()
    }

    fn condition(&self, if_none_match: Option<ETagCondition>) -> Option<ETagCondition> {
        if_none_match.filter(|_| !self.options().ignore_if_none_match)
    }

    fn drops(&self, key: &str) -> bool {
        self.options().drop_bodies.as_ref().is_some_and(|text| key.contains(text))
    }

    /// Reads a body to its end and checks it.
    async fn receive(
        &self,
        key: &str,
        body: Option<StreamingBlob>,
        headers: &HeaderMap,
        trailers: Option<TrailingHeaders>,
    ) -> S3Result<Content> {
        let checking = self.options().checksums;
        let announced = if checking == Checking::Verify { Algorithm::announced(headers) } else { Vec::new() };
        let mut hasher = checksums::hasher(&announced);
        let mut pieces = Pieces::default();
        let mut bytes = 0;
        let mut body = body.map_or_else(Body::empty, Body::from);
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame.map_err(broken_body)?.into_data() else { continue };
            hasher.update(&piece);
            bytes += piece.len() as u64;
            if !self.drops(key) {
                pieces.push(piece);
            }
        }
        let mut told = Checksums::in_headers(headers);
        if let Some(trailers) = trailers.and_then(|trailers| trailers.take()) {
            told.extend(Checksums::in_headers(&trailers));
        }
        match checking {
            Checking::Ignore => told = Checksums::default(),
            Checking::Verify if told != Checksums::computed(hasher) => {
                return Err(s3_error!(BadDigest, "the body does not have the checksum that was sent with it"));
            }
            Checking::Verify | Checking::Believe => {}
        }
        Ok(Content { data: pieces.join(), bytes, checksums: told })
    }
}

/// A piece of at most so many bytes is copied: it would keep all that was read from the connection together with it.
const SMALL: usize = 4 << 10;

/// What has arrived of a body; a larger one in one piece is never copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    all: BytesMut,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if self.first.is_empty() {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&piece);
    }

    fn join(self) -> Bytes {
        match self.first.len() {
            _ if !self.all.is_empty() => self.all.freeze(),
            ..=SMALL => Bytes::copy_from_slice(&self.first),
            _ => self.first,
        }
    }
}

/// What s3s found out while the body was read comes as text only.
fn broken_body(error: StdError) -> S3Error {
    let text = error.to_string();
    let code = if text.contains("Sha256Mismatch") {
        S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into())
    } else if text.contains("SignatureMismatch") {
        S3ErrorCode::SignatureDoesNotMatch
    } else {
        S3ErrorCode::IncompleteBody
    };
    let mut answer = S3Error::with_source(code, error);
    answer.set_message(text);
    answer.set_status_code(answer.status_code().unwrap_or(StatusCode::BAD_REQUEST));
    answer
}

fn timestamp(tick: u64) -> Timestamp {
    let seconds = (FIRST_SECOND + tick).to_string();
    Timestamp::parse(TimestampFormat::EpochSeconds, &seconds).expect("it is a number")
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).expect("what fits in memory fits in an i64")
}

fn strong(tag: String) -> ETag {
    ETag::Strong(tag)
}

#[async_trait]
impl S3 for Backend {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.0.store().create_bucket(&req.input.bucket)?;
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.0.store().bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let S3Request { input, headers, trailing_headers, .. } = req;
        let content = self.receive(&input.key, input.body, &headers, trailing_headers).await?;
        let told = content.checksums.headers();
        let condition = self.condition(input.if_none_match);
        let tag = self.0.store().put(&input.bucket, input.key, content, condition.as_ref())?;
        let output = PutObjectOutput { e_tag: Some(strong(tag)), ..PutObjectOutput::default() };
        Ok(S3Response::with_headers(output, told))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let Object { content, tag, tick } = self.0.store().bucket(&input.bucket)?.object(&input.key)?.clone();
        if content.data.len() as u64 != content.bytes {
            return Err(s3_error!(InternalError, "this server has dropped the content"));
        }
        let mut output = GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            e_tag: Some(strong(tag)),
            last_modified: Some(timestamp(tick)),
            ..GetObjectOutput::default()
        };
        let mut told = HeaderMap::new();
        let data = if let Some(range) = input.range {
            let range = range.check(content.bytes)?;
            output.content_range = Some(format!("bytes {}-{}/{}", range.start, range.end - 1, content.bytes));
            let place = |at| usize::try_from(at).expect("it lies within what is in memory");
            content.data.slice(place(range.start)..place(range.end))
        } else {
            if input.checksum_mode.is_some() {
                told = content.checksums.headers();
            }
            content.data
        };
        output.content_length = Some(signed(data.len() as u64));
        output.body = Some(Body::from(data).into());
        Ok(S3Response::with_headers(output, told))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let store = self.0.store();
        let object = store.bucket(&input.bucket)?.object(&input.key)?;
        let output = HeadObjectOutput {
            content_length: Some(signed(object.content.bytes)),
            e_tag: Some(strong(object.tag.clone())),
            last_modified: Some(timestamp(object.tick)),
            ..HeadObjectOutput::default()
        };
        let told = input.checksum_mode.map(|_| object.content.checksums.headers());
        Ok(S3Response::with_headers(output, told.unwrap_or_default()))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.store().bucket_mut(&req.input.bucket)?.remove(&req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let Delete { objects, quiet } = req.input.delete;
        if objects.len() > DELETE_LIMIT {
            return Err(s3_error!(MalformedXML, "too many keys"));
        }
        let mut store = self.0.store();
        let bucket = store.bucket_mut(&req.input.bucket)?;
        for object in &objects {
            bucket.remove(&object.key);
        }
        let gone = |object: ObjectIdentifier| DeletedObject { key: Some(object.key), ..DeletedObject::default() };
        let deleted = (quiet != Some(true)).then(|| objects.into_iter().map(gone).collect());
        Ok(S3Response::new(DeleteObjectsOutput { deleted, ..DeleteObjectsOutput::default() }))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let limit = input.max_keys.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
        let limit = limit.min(self.options().page_limit);
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone().filter(|delimiter| !delimiter.is_empty());
        // A token is the last key or common prefix of the page before.
        let after = input.continuation_token.clone().or_else(|| input.start_after.clone()).unwrap_or_default();

        let store = self.0.store();
        let mut contents = Vec::new();
        let mut groups = Vec::<String>::new();
        let mut last = None;
        let mut is_truncated = false;
        for (key, object) in store.bucket(&input.bucket)?.objects_after(&prefix, &after) {
            let end = delimiter.as_ref().and_then(|delimiter| {
                key[prefix.len()..].find(delimiter).map(|at| prefix.len() + at + delimiter.len())
            });
            let item = &key[..end.unwrap_or(key.len())];
            if end.is_some() && (item == after || groups.last().is_some_and(|group| group == item)) {
                continue;
            }
            if contents.len() + groups.len() == limit {
                is_truncated = limit > 0;
                break;
            }
            last = Some(item.to_owned());
            if end.is_some() {
                groups.push(item.to_owned());
            } else {
                contents.push(s3s::dto::Object {
                    key: Some(key.to_owned()),
                    size: Some(signed(object.content.bytes)),
                    e_tag: Some(strong(object.tag.clone())),
                    last_modified: Some(timestamp(object.tick)),
                    ..s3s::dto::Object::default()
                });
            }
        }
        let count = |number: usize| i32::try_from(number).expect("a page is short");
        let common = |group| CommonPrefix { prefix: Some(group) };
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            start_after: input.start_after,
            continuation_token: input.continuation_token,
            max_keys: Some(count(limit)),
            key_count: Some(count(contents.len() + groups.len())),
            is_truncated: Some(is_truncated),
            next_continuation_token: last.filter(|_| is_truncated),
            contents: Some(contents),
            common_prefixes: Some(groups.into_iter().map(common).collect()),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        let algorithm = input.checksum_algorithm.as_ref().map(|name| {
            Algorithm::named(name.as_str()).ok_or_else(|| s3_error!(InvalidRequest, "unknown checksum algorithm"))
        });
        let algorithm = algorithm.transpose()?;
        let asked = input.checksum_type.as_ref().map(ChecksumType::as_str);
        let whole = asked == Some(ChecksumType::FULL_OBJECT) || algorithm == Some(Algorithm::Crc64Nvme);
        let id = self.0.store().begin(&input.bucket, input.key.clone(), algorithm, whole)?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: input.checksum_type,
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let S3Request { input, headers, trailing_headers, .. } = req;
        let content = self.receive(&input.key, input.body, &headers, trailing_headers).await?;
        let told = content.checksums.headers();
        let tag = self.0.store().part(&input.bucket, &(input.key, input.upload_id), input.part_number, content)?;
        let output = UploadPartOutput { e_tag: Some(strong(tag)), ..UploadPartOutput::default() };
        Ok(S3Response::with_headers(output, told))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let S3Request { input, headers, .. } = req;
        let condition = self.condition(input.if_none_match);
        let completion = Completion {
            parts: &input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default(),
            checksums: &Checksums::in_headers(&headers),
            if_none_match: condition.as_ref(),
            checking: self.options().checksums,
            kept: !self.drops(&input.key),
        };
        let upload = (input.key, input.upload_id);
        let (tag, checksums) = self.0.store().complete(&input.bucket, &upload, &completion)?;
        let told = checksums.to_dto();
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(upload.0),
            e_tag: Some(strong(tag)),
            checksum_crc32: told.checksum_crc32,
            checksum_crc32c: told.checksum_crc32c,
            checksum_crc64nvme: told.checksum_crc64nvme,
            checksum_sha1: told.checksum_sha1,
            checksum_sha256: told.checksum_sha256,
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = req.input;
        self.0.store().bucket_mut(&input.bucket)?.abort(&(input.key, input.upload_id))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        if self.options().no_list_uploads {
            return Err(s3_error!(NotImplemented));
        }
        let input = req.input;
        let limit = input.max_uploads.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
        let limit = limit.min(self.options().page_limit);
        let prefix = input.prefix.clone().unwrap_or_default();
        let key_marker = input.key_marker.clone().unwrap_or_default();
        // Without the marker of an id, the page begins behind all uploads of the key that is named.
        let id_marker = input.upload_id_marker.clone().unwrap_or_else(|| char::MAX.into());

        let store = self.0.store();
        let mut rest = store.bucket(&input.bucket)?.uploads_after(&prefix, (key_marker, id_marker));
        let page = rest.by_ref().take(limit).map(|((key, id), upload)| MultipartUpload {
            key: Some(key.clone()),
            upload_id: Some(id.clone()),
            initiated: Some(timestamp(upload.tick)),
            ..MultipartUpload::default()
        });
        let uploads = page.collect::<Vec<_>>();
        let is_truncated = rest.next().is_some();
        let last = uploads.last().filter(|_| is_truncated);
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            key_marker: input.key_marker,
            upload_id_marker: input.upload_id_marker,
            next_key_marker: last.and_then(|upload| upload.key.clone()),
            next_upload_id_marker: last.and_then(|upload| upload.upload_id.clone()),
            is_truncated: Some(is_truncated),
            uploads: Some(uploads),
            ..ListMultipartUploadsOutput::default()
        }))
    }
}
