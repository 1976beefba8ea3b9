//! The S3 server in memory does what it says, seen through the client that the daemon uses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::Config;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::config::Region;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadError;
use aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use aws_sdk_s3::types::ChecksumMode;
use aws_sdk_s3::types::ChecksumType;
use aws_sdk_s3::types::CompletedMultipartUpload;
use aws_sdk_s3::types::CompletedPart;
use aws_sdk_s3::types::Delete;
use aws_sdk_s3::types::ObjectIdentifier;
use base64_simd::STANDARD;
use bytes::Bytes;
use holdfast::model::digest::Algorithm;
use holdfast::model::digest::Digest;
use s3s::crypto::Checksum;
use s3s::crypto::Crc32;

use crate::s3_memory::ACCESS_KEY;
use crate::s3_memory::Checking;
use crate::s3_memory::Effect;
use crate::s3_memory::Fault;
use crate::s3_memory::Options;
use crate::s3_memory::Request;
use crate::s3_memory::SECRET_KEY;
use crate::s3_memory::Server;
use crate::s3_memory::When;

/// The least size of a part that is not the last.
const PART_BYTES: usize = 5 << 20;

/// The base64 of a SHA-1 that nothing here has.
const WRONG_SHA1: &str = "qqqqqqqqqqqqqqqqqqqqqqqqqqo=";

fn client_as(server: &Server, access_key: &str, secret_key: &str) -> Client {
    let config = Config::builder()
        .behavior_version_latest()
        .endpoint_url(server.endpoint())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(access_key, secret_key, None, None, "test"))
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_secs(20)).build())
        .build();
    Client::from_conf(config)
}

fn start(options: Options) -> (Server, Client) {
    let server = Server::start(options);
    let client = client_as(&server, ACCESS_KEY, SECRET_KEY);
    (server, client)
}

/// A client that computes a checksum of every body.
fn careful(client: &Client) -> Client {
    let config = client.config().to_builder();
    Client::from_conf(config.request_checksum_calculation(RequestChecksumCalculation::WhenSupported).build())
}

fn sha1(content: &[u8]) -> String {
    let Digest::Sha1(bytes) = Digest::of(Algorithm::Sha1, content) else { unreachable!("a SHA-1 was asked for") };
    STANDARD.encode_to_string(bytes)
}

fn crc32(content: &[u8]) -> String {
    STANDARD.encode_to_string(Crc32::checksum(content))
}

fn put(client: &Client, key: &str, content: &'static [u8]) -> PutObjectFluentBuilder {
    client.put_object().bucket("holdfast").key(key).body(ByteStream::from_static(content))
}

fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

async fn keys(client: &Client, prefix: &str) -> Vec<String> {
    let mut pages = client.list_objects_v2().bucket("holdfast").prefix(prefix).into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        keys.extend(page.expect("a page").contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    keys
}

#[tokio::test]
async fn what_was_put_is_got_headed_and_deleted() {
    let (server, client) = start(Options::default());
    let tag = put(&client, "a b/ü", b"content").send().await.unwrap().e_tag.unwrap();
    assert_eq!(server.object("a b/ü"), Some(Bytes::from_static(b"content")));

    let got = client.get_object().bucket("holdfast").key("a b/ü").send().await.unwrap();
    assert_eq!(got.e_tag(), Some(tag.as_str()));
    assert_eq!(got.body.collect().await.unwrap().into_bytes(), "content");
    let head = client.head_object().bucket("holdfast").key("a b/ü").send().await.unwrap();
    assert_eq!(head.content_length(), Some(7));

    client.delete_object().bucket("holdfast").key("a b/ü").send().await.unwrap();
    let error = client.get_object().bucket("holdfast").key("a b/ü").send().await.unwrap_err();
    assert_eq!((status(&error), code(&error)), (Some(404), Some("NoSuchKey")));
    let error = client.head_object().bucket("holdfast").key("a b/ü").send().await.unwrap_err();
    assert_eq!(status(&error), Some(404));
}

#[tokio::test]
async fn a_range_gives_its_bytes_and_one_beyond_the_end_is_416() {
    let (_server, client) = start(Options::default());
    put(&client, "key", b"0123456789").send().await.unwrap();
    let get = |range: &str| client.get_object().bucket("holdfast").key("key").range(range).send();
    let got = get("bytes=2-4").await.unwrap();
    assert_eq!(got.content_range(), Some("bytes 2-4/10"));
    assert_eq!(got.body.collect().await.unwrap().into_bytes(), "234");
    let error = get("bytes=10-11").await.unwrap_err();
    assert_eq!((status(&error), code(&error)), (Some(416), Some("InvalidRange")));
}

#[tokio::test]
async fn a_bucket_is_there_only_once_it_was_created() {
    let (_server, client) = start(Options::default());
    let error = client.put_object().bucket("other").key("key").send().await.unwrap_err();
    assert_eq!(code(&error), Some("NoSuchBucket"));
    assert_eq!(status(&client.head_bucket().bucket("other").send().await.unwrap_err()), Some(404));
    client.create_bucket().bucket("other").send().await.unwrap();
    client.head_bucket().bucket("other").send().await.unwrap();
    client.put_object().bucket("other").key("key").send().await.unwrap();
}

#[tokio::test]
async fn a_right_sha1_is_echoed_and_told_later() {
    let (_server, client) = start(Options::default());
    let sum = sha1(b"content");
    let answer = put(&client, "key", b"content").checksum_sha1(&sum).send().await.unwrap();
    assert_eq!(answer.checksum_sha1(), Some(sum.as_str()));
    let head = client.head_object().bucket("holdfast").key("key");
    assert_eq!(head.clone().send().await.unwrap().checksum_sha1(), None, "only who asks is told");
    let told = head.checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert_eq!(told.checksum_sha1(), Some(sum.as_str()));
}

#[tokio::test]
async fn a_wrong_sha1_is_refused_and_nothing_is_stored() {
    let (server, client) = start(Options::default());
    let error = put(&client, "key", b"content").checksum_sha1(WRONG_SHA1).send().await.unwrap_err();
    assert_eq!((status(&error), code(&error)), (Some(400), Some("BadDigest")));
    assert_eq!(server.objects(), BTreeMap::new());
}

#[tokio::test]
async fn every_algorithm_that_the_client_computes_is_verified_and_kept() {
    let (_server, client) = start(Options::default());
    let client = careful(&client);
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
        put(&client, "key", b"content").checksum_algorithm(algorithm.clone()).send().await.unwrap();
        let head = client.head_object().bucket("holdfast").key("key").checksum_mode(ChecksumMode::Enabled);
        let head = head.send().await.unwrap();
        let told = match algorithm {
            ChecksumAlgorithm::Crc32 => head.checksum_crc32(),
            ChecksumAlgorithm::Crc32C => head.checksum_crc32_c(),
            ChecksumAlgorithm::Crc64Nvme => head.checksum_crc64_nvme(),
            ChecksumAlgorithm::Sha1 => head.checksum_sha1(),
            _ => head.checksum_sha256(),
        };
        assert!(told.is_some(), "{algorithm:?}");
    }
}

#[tokio::test]
async fn a_checksum_in_a_trailer_is_kept_and_the_framing_is_not() {
    let (server, client) = start(Options::default());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"content").unwrap();
    let body = ByteStream::from_path(file.path()).await.unwrap();
    careful(&client).put_object().bucket("holdfast").key("key").body(body).send().await.unwrap();
    assert_eq!(server.object("key"), Some(Bytes::from_static(b"content")));
    let head = client.head_object().bucket("holdfast").key("key").checksum_mode(ChecksumMode::Enabled);
    assert_eq!(head.send().await.unwrap().checksum_crc32(), Some(crc32(b"content").as_str()));
}

#[tokio::test]
async fn checksums_are_believed_or_ignored_when_the_server_is_told_so() {
    for (checksums, told) in [(Checking::Believe, Some(WRONG_SHA1)), (Checking::Ignore, None)] {
        let (server, client) = start(Options { checksums, ..Options::default() });
        put(&client, "key", b"content").checksum_sha1(WRONG_SHA1).send().await.unwrap();
        assert_eq!(server.object("key"), Some(Bytes::from_static(b"content")));
        let head = client.head_object().bucket("holdfast").key("key").checksum_mode(ChecksumMode::Enabled);
        assert_eq!(head.send().await.unwrap().checksum_sha1(), told, "{checksums:?}");
    }
}

#[tokio::test]
async fn a_second_put_with_if_none_match_is_412_and_the_first_stays() {
    let (server, client) = start(Options::default());
    put(&client, "key", b"first").if_none_match("*").send().await.unwrap();
    let error = put(&client, "key", b"second").if_none_match("*").send().await.unwrap_err();
    assert_eq!((status(&error), code(&error)), (Some(412), Some("PreconditionFailed")));
    assert_eq!(server.object("key"), Some(Bytes::from_static(b"first")));
}

#[tokio::test]
async fn of_many_conditional_puts_at_once_one_wins() {
    let (_server, client) = start(Options { threads: 2, ..Options::default() });
    let mut puts = tokio::task::JoinSet::new();
    for _ in 0..16 {
        puts.spawn(put(&client, "key", b"content").if_none_match("*").send());
    }
    let won = puts.join_all().await.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_refusal_of_a_large_body_arrives_as_an_answer() {
    let (server, client) = start(Options::default());
    put(&client, "key", b"first").send().await.unwrap();
    let large = Bytes::from(vec![7; 32 << 20]);
    for client in [client.clone(), client_as(&server, ACCESS_KEY, "wrong")] {
        let body = ByteStream::from(large.clone());
        let put = client.put_object().bucket("holdfast").key("key").if_none_match("*").body(body);
        let sent = put.customize().disable_payload_signing().send().await;
        assert!(matches!(status(&sent.unwrap_err()), Some(412 | 403)));
    }
}

#[tokio::test]
async fn if_none_match_is_ignored_when_the_server_is_told_so() {
    let (server, client) = start(Options { ignore_if_none_match: true, ..Options::default() });
    put(&client, "key", b"first").send().await.unwrap();
    put(&client, "key", b"second").if_none_match("*").send().await.unwrap();
    assert_eq!(server.object("key"), Some(Bytes::from_static(b"second")));
}

#[tokio::test]
async fn a_dropped_body_leaves_its_size_and_checksum() {
    let options = Options { drop_bodies: Some("binaries/".into()), ..Options::default() };
    let (server, client) = start(options);
    let sum = sha1(b"content");
    put(&client, "binaries/key", b"content").checksum_sha1(&sum).send().await.unwrap();
    put(&client, "points/key", b"content").send().await.unwrap();
    let error = put(&client, "binaries/bad", b"content").checksum_sha1(WRONG_SHA1).send().await.unwrap_err();
    assert_eq!(code(&error), Some("BadDigest"));

    let head = client.head_object().bucket("holdfast").key("binaries/key").checksum_mode(ChecksumMode::Enabled);
    let head = head.send().await.unwrap();
    assert_eq!((head.content_length(), head.checksum_sha1()), (Some(7), Some(sum.as_str())));
    assert!(client.get_object().bucket("holdfast").key("binaries/key").send().await.is_err());
    assert_eq!(server.object("points/key"), Some(Bytes::from_static(b"content")));
}

#[tokio::test]
async fn a_wrong_account_is_refused() {
    let (server, _client) = start(Options::default());
    let stranger = client_as(&server, "stranger", SECRET_KEY);
    let error = put(&stranger, "key", b"content").send().await.unwrap_err();
    assert_eq!((status(&error), code(&error)), (Some(403), Some("InvalidAccessKeyId")));
    let forgetful = client_as(&server, ACCESS_KEY, "wrong");
    let error = put(&forgetful, "key", b"content").send().await.unwrap_err();
    assert_eq!((status(&error), code(&error)), (Some(403), Some("SignatureDoesNotMatch")));
}

#[tokio::test]
async fn a_listing_comes_in_pages_in_the_order_of_bytes() {
    let (server, client) = start(Options { page_limit: 3, ..Options::default() });
    let sorted = ["a!b", "a-b", "a.b", "a/b", "a0", "\u{ff21}", "\u{1f600}"];
    for key in sorted.iter().rev() {
        server.replace(key, Bytes::new());
    }
    assert_eq!(keys(&client, "").await, sorted);
    assert_eq!(server.count("ListObjectsV2"), 3);
    assert_eq!(keys(&client, "a/").await, ["a/b"]);
    assert_eq!(keys(&client, "b").await, [""; 0]);

    let list = client.list_objects_v2().bucket("holdfast").start_after("a.b").max_keys(2).send().await.unwrap();
    let listed = list.contents().iter().filter_map(|object| object.key()).collect::<Vec<_>>();
    assert_eq!((listed, list.is_truncated()), (vec!["a/b", "a0"], Some(true)));
}

#[tokio::test]
async fn a_delimiter_groups_each_group_once_over_all_pages() {
    let (server, client) = start(Options { page_limit: 2, ..Options::default() });
    for key in ["p/a/1", "p/a/2", "p/b", "p/c/1", "p/c/2", "p/c/3", "p/d/1"] {
        server.replace(key, Bytes::new());
    }
    let list = client.list_objects_v2().bucket("holdfast").prefix("p/").delimiter("/");
    let mut pages = list.into_paginator().send();
    let (mut objects, mut groups) = (Vec::new(), Vec::new());
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        objects.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        groups.extend(page.common_prefixes().iter().map(|group| group.prefix().unwrap().to_owned()));
    }
    assert_eq!(objects, ["p/b"]);
    assert_eq!(groups, ["p/a/", "p/c/", "p/d/"]);
}

#[tokio::test]
async fn many_objects_are_deleted_at_once_and_missing_ones_count() {
    let (server, client) = start(Options::default());
    server.replace("one", Bytes::new());
    server.replace("two", Bytes::new());
    let object = |key: &str| ObjectIdentifier::builder().key(key).build().unwrap();
    let delete = Delete::builder().objects(object("one")).objects(object("missing")).build().unwrap();
    let answer = client.delete_objects().bucket("holdfast").delete(delete).send().await.unwrap();
    assert_eq!(answer.deleted().len(), 2);
    assert_eq!(server.objects().into_keys().collect::<Vec<_>>(), ["two"]);
}

/// An upload in parts, as the daemon does it: CRC32 everywhere.
struct Parts<'a> {
    client: &'a Client,
    id: String,
    done: Vec<CompletedPart>,
}

impl<'a> Parts<'a> {
    async fn begin(client: &'a Client) -> Self {
        let create = client.create_multipart_upload().bucket("holdfast").key("key");
        let begun = create.checksum_algorithm(ChecksumAlgorithm::Crc32).send().await.expect("it begins");
        Self { client, id: begun.upload_id.expect("it has an id"), done: Vec::new() }
    }

    async fn part(&mut self, number: i32, content: Bytes) {
        let sum = crc32(&content);
        let part = self.client.upload_part().bucket("holdfast").key("key").upload_id(&self.id).part_number(number);
        let sent = part.body(content.into()).checksum_crc32(&sum).send().await.expect("a part arrives");
        let done = CompletedPart::builder().part_number(number).e_tag(sent.e_tag.expect("it has a tag"));
        self.done.push(done.checksum_crc32(sum).build());
    }

    async fn complete(&self) -> Result<CompleteMultipartUploadOutput, SdkError<CompleteMultipartUploadError>> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.done.clone())).build();
        let complete = self.client.complete_multipart_upload().bucket("holdfast").key("key").upload_id(&self.id);
        complete.multipart_upload(parts).if_none_match("*").send().await
    }

    async fn is_refused_with(&self, expected: &str) {
        let error = self.complete().await.expect_err("it is refused");
        assert_eq!(code(&error), Some(expected));
    }
}

#[tokio::test]
async fn an_upload_becomes_the_object_of_its_parts() {
    let (server, client) = start(Options::default());
    let mut upload = Parts::begin(&client).await;
    upload.part(1, vec![1; PART_BYTES].into()).await;
    upload.part(2, vec![2; 3].into()).await;
    assert_eq!(server.uploads(), [("key".to_owned(), upload.id.clone())]);
    assert_eq!(server.objects(), BTreeMap::new());

    let told = upload.complete().await.unwrap().checksum_crc32.unwrap();
    assert!(told.ends_with("-2"), "{told}");
    let content = server.object("key").unwrap();
    assert_eq!((content.len(), &content[PART_BYTES - 1..]), (PART_BYTES + 3, &[1, 2, 2, 2][..]));
    assert_eq!(server.uploads(), []);
    upload.is_refused_with("NoSuchUpload").await;
}

#[tokio::test]
async fn a_part_with_a_wrong_crc32_is_refused() {
    let (_server, client) = start(Options::default());
    let mut upload = Parts::begin(&client).await;
    let part = client.upload_part().bucket("holdfast").key("key").upload_id(&upload.id).part_number(1);
    let error = part.body(ByteStream::from_static(b"part")).checksum_crc32("AAAAAA==").send().await.unwrap_err();
    assert_eq!((status(&error), code(&error)), (Some(400), Some("BadDigest")));
    upload.done.push(CompletedPart::builder().part_number(1).e_tag("none").build());
    upload.is_refused_with("InvalidPart").await;
}

#[tokio::test]
async fn an_upload_is_completed_only_with_the_parts_it_has() {
    let (server, client) = start(Options::default());
    let mut upload = Parts::begin(&client).await;
    upload.part(1, Bytes::from_static(b"too small")).await;
    upload.part(2, Bytes::from_static(b"last")).await;
    upload.is_refused_with("EntityTooSmall").await;
    let right = upload.done.clone();

    upload.done.reverse();
    upload.is_refused_with("InvalidPartOrder").await;
    let number = || CompletedPart::builder().part_number(1).set_e_tag(right[0].e_tag.clone());
    upload.done = vec![number().checksum_crc32("AAAAAA==").build()];
    upload.is_refused_with("InvalidPart").await;
    upload.done = vec![number().build()];
    upload.is_refused_with("InvalidRequest").await;
    upload.done = vec![number().e_tag("other").build()];
    upload.is_refused_with("InvalidPart").await;
    upload.done = Vec::new();
    upload.is_refused_with("MalformedXML").await;

    assert_eq!((server.objects().len(), server.uploads().len()), (0, 1));
    upload.done = right[..1].to_vec();
    upload.complete().await.unwrap();
}

#[tokio::test]
async fn a_part_that_is_sent_again_replaces_the_first() {
    let (server, client) = start(Options::default());
    let mut upload = Parts::begin(&client).await;
    upload.part(1, Bytes::from_static(b"first")).await;
    let stale = std::mem::take(&mut upload.done);
    upload.part(1, Bytes::from_static(b"second")).await;
    let fresh = std::mem::replace(&mut upload.done, stale);
    upload.is_refused_with("InvalidPart").await;
    upload.done = fresh;
    upload.complete().await.unwrap();
    assert_eq!(server.object("key"), Some(Bytes::from_static(b"second")));
}

#[tokio::test]
async fn completing_over_an_object_is_412_and_the_upload_stays() {
    let (server, client) = start(Options::default());
    let mut upload = Parts::begin(&client).await;
    upload.part(1, Bytes::from_static(b"late")).await;
    server.replace("key", Bytes::from_static(b"first"));
    upload.is_refused_with("PreconditionFailed").await;
    assert_eq!(server.object("key"), Some(Bytes::from_static(b"first")));
    assert_eq!(server.uploads().len(), 1);
}

#[tokio::test]
async fn the_checksum_of_a_whole_upload_is_verified() {
    let (_server, client) = start(Options::default());
    let begin = client.create_multipart_upload().bucket("holdfast").key("key");
    let begin = begin.checksum_algorithm(ChecksumAlgorithm::Crc32).checksum_type(ChecksumType::FullObject);
    let id = begin.send().await.unwrap().upload_id.unwrap();
    let part = client.upload_part().bucket("holdfast").key("key").upload_id(&id).part_number(1);
    let sum = crc32(b"whole");
    let sent = part.body(ByteStream::from_static(b"whole")).checksum_crc32(&sum).send().await.unwrap();
    let done = CompletedPart::builder().part_number(1).set_e_tag(sent.e_tag).build();
    let parts = CompletedMultipartUpload::builder().parts(done).build();
    let complete = client.complete_multipart_upload().bucket("holdfast").key("key").upload_id(&id);
    let complete = complete.multipart_upload(parts).checksum_type(ChecksumType::FullObject);
    let error = complete.clone().checksum_crc32("AAAAAA==").send().await.unwrap_err();
    assert_eq!(code(&error), Some("BadDigest"));
    assert_eq!(complete.checksum_crc32(&sum).send().await.unwrap().checksum_crc32, Some(sum));
}

#[tokio::test]
async fn uploads_are_listed_in_pages_and_gone_once_aborted() {
    let (server, client) = start(Options { page_limit: 2, ..Options::default() });
    for key in ["a/1", "a/1", "a/1", "a/2", "b"] {
        client.create_multipart_upload().bucket("holdfast").key(key).send().await.unwrap();
    }
    let list = client.list_multipart_uploads().bucket("holdfast").prefix("a/");
    let first = list.clone().send().await.unwrap();
    assert_eq!((first.uploads().len(), first.is_truncated()), (2, Some(true)));
    let list = list.set_key_marker(first.next_key_marker).set_upload_id_marker(first.next_upload_id_marker);
    let second = list.send().await.unwrap();
    let keys = second.uploads().iter().filter_map(|upload| upload.key()).collect::<Vec<_>>();
    assert_eq!((keys, second.is_truncated()), (vec!["a/1", "a/2"], Some(false)));

    let (key, id) = server.uploads().pop().unwrap();
    let abort = client.abort_multipart_upload().bucket("holdfast").key(key).upload_id(id);
    abort.clone().send().await.unwrap();
    assert_eq!(server.uploads().len(), 4);
    let error = abort.send().await.unwrap_err();
    assert_eq!((status(&error), code(&error)), (Some(404), Some("NoSuchUpload")));
}

#[tokio::test]
async fn uploads_are_not_listed_when_the_server_is_told_so() {
    let (_server, client) = start(Options { no_list_uploads: true, ..Options::default() });
    let error = client.list_multipart_uploads().bucket("holdfast").send().await.unwrap_err();
    assert_eq!((status(&error), code(&error)), (Some(501), Some("NotImplemented")));
}

#[tokio::test]
async fn requests_are_written_down_and_counted() {
    let (server, client) = start(Options { log_limit: 2, ..Options::default() });
    put(&client, "a b", b"content").send().await.unwrap();
    assert!(client.get_object().bucket("holdfast").key("missing").send().await.is_err());
    keys(&client, "a/").await;
    let request = |operation, key: &str, body_bytes, status| Request {
        operation,
        key: key.into(),
        ranged: false,
        body_bytes,
        status: Some(status),
    };
    assert_eq!(server.requests(), [request("PutObject", "a b", 7, 200), request("GetObject", "missing", 0, 404)]);
    assert_eq!((server.count("ListObjectsV2"), server.counts()["PutObject"].bytes), (1, 7));
    server.clear_log();
    assert_eq!((server.requests(), server.count("PutObject")), (Vec::new(), 0));
}

#[tokio::test]
async fn the_hook_sees_a_request_before_it_is_done() {
    let (server, client) = start(Options::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    server.on_request(move |operation, key| sink.lock().unwrap().push(format!("{operation} {key}")));
    put(&client, "key", b"content").send().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["PutObject key"]);
}

#[tokio::test]
async fn the_hook_of_answers_tells_a_put_that_stored_from_one_that_was_refused() {
    let (server, client) = start(Options::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    server.on_answer(move |operation, key, status| sink.lock().unwrap().push(format!("{operation} {key} {status}")));
    put(&client, "key", b"content").if_none_match("*").send().await.unwrap();
    assert!(put(&client, "key", b"content").if_none_match("*").send().await.is_err());
    assert_eq!(*seen.lock().unwrap(), ["PutObject key 200", "PutObject key 412"]);
}

#[tokio::test]
async fn content_replaced_behind_the_back_keeps_its_checksum() {
    let (server, client) = start(Options::default());
    let sum = sha1(b"content");
    put(&client, "key", b"content").checksum_sha1(&sum).send().await.unwrap();
    server.replace("key", Bytes::from_static(b"cantent"));
    let got = client.get_object().bucket("holdfast").key("key").send().await.unwrap();
    assert_eq!(got.checksum_sha1(), Some(sum.as_str()));
    assert!(got.body.collect().await.is_err(), "the client finds the checksum wrong");
    server.remove("key");
    assert_eq!(server.object("key"), None);
}

#[tokio::test]
async fn a_status_fault_strikes_its_operation_below_its_prefix_when_it_is_due() {
    let (server, client) = start(Options::default());
    let slow = Fault::at("PutObject", Effect::Status(503, "SlowDown")).below("binaries/");
    server.fault(slow.clone().when(When::First(1)));
    server.fault(slow.when(When::Only(3)));
    let mut answers = Vec::new();
    for key in ["points/1", "binaries/1", "binaries/2", "binaries/3", "binaries/4"] {
        let sent = put(&client, key, b"content").send().await;
        answers.push(sent.err().map(|error| (status(&error).unwrap(), code(&error).unwrap().to_owned())));
    }
    let refused = Some((503, "SlowDown".to_owned()));
    assert_eq!(answers, [None, refused.clone(), None, refused, None]);
    assert_eq!(server.objects().into_keys().collect::<Vec<_>>(), ["binaries/2", "binaries/4", "points/1"]);
}

#[tokio::test]
async fn faults_come_every_so_often_or_by_chance_and_can_be_ended() {
    let (server, client) = start(Options::default());
    let outcomes = async || {
        let mut outcomes = String::new();
        for _ in 0..16 {
            let sent = put(&client, "key", b"").send().await;
            outcomes.push(if sent.is_ok() { '.' } else { 'x' });
        }
        outcomes
    };
    let denied = Fault::anywhere(Effect::Status(403, "AccessDenied"));
    server.fault(denied.clone().when(When::Every(3)));
    assert_eq!(outcomes().await, "..x..x..x..x..x.");
    server.clear_faults();
    server.fault(denied.clone().when(When::Half { seed: 7 }));
    let chance = outcomes().await;
    assert!(chance.contains('.') && chance.contains('x'), "{chance}");
    server.clear_faults();
    server.fault(denied.when(When::Half { seed: 7 }));
    assert_eq!(outcomes().await, chance, "the seed decides");
    server.clear_faults();
    assert_eq!(outcomes().await, ".".repeat(16));
}

#[tokio::test]
async fn a_cut_request_is_not_done() {
    let (server, client) = start(Options::default());
    server.fault(Fault::at("PutObject", Effect::CutRequest { after_bytes: 1 << 20 }));
    let body = ByteStream::from(vec![1; 8 << 20]);
    let error = client.put_object().bucket("holdfast").key("key").body(body).send().await.unwrap_err();
    assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");
    assert_eq!(server.objects(), BTreeMap::new());
    let request = server.requests().pop().unwrap();
    assert_eq!(request.status, None);
    assert!((1 << 20..8 << 20).contains(&request.body_bytes), "{}", request.body_bytes);
}

#[tokio::test]
async fn a_request_whose_answer_is_lost_is_done() {
    let (server, client) = start(Options::default());
    server.fault(Fault::at("PutObject", Effect::LoseAnswer));
    let error = put(&client, "key", b"content").send().await.unwrap_err();
    assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");
    assert_eq!(server.object("key"), Some(Bytes::from_static(b"content")));
    assert_eq!(server.requests().pop().unwrap().status, None);
}

#[tokio::test]
async fn a_cut_answer_ends_in_the_middle() {
    let (server, client) = start(Options::default());
    server.replace("key", Bytes::from(vec![1; 1 << 20]));
    server.fault(Fault::at("GetObject", Effect::CutAnswer { after_bytes: 1000 }));
    let mut body = client.get_object().bucket("holdfast").key("key").send().await.unwrap().body;
    let mut arrived = 0;
    let error = loop {
        match body.next().await {
            Some(Ok(piece)) => arrived += piece.len(),
            other => break other,
        }
    };
    assert!(matches!(error, Some(Err(_))), "{error:?}");
    assert_eq!(arrived, 1000);
}

#[tokio::test]
async fn a_delayed_request_is_late_and_one_that_hangs_is_never_done() {
    let (server, client) = start(Options::default());
    server.fault(Fault::anywhere(Effect::Delay(Duration::from_mins(5))).when(When::Only(1)));
    server.fault(Fault::anywhere(Effect::Hang).when(When::Only(2)));
    let patience = Duration::from_millis(300);
    for _ in 0..2 {
        let timeout = TimeoutConfig::builder().operation_timeout(patience).build();
        let impatient = aws_sdk_s3::config::Builder::new().timeout_config(timeout);
        let error = put(&client, "key", b"content").customize().config_override(impatient).send().await.unwrap_err();
        assert!(matches!(error, SdkError::TimeoutError(_)), "{error:?}");
    }
    assert_eq!(server.objects(), BTreeMap::new());
    put(&client, "key", b"content").send().await.unwrap();
}

#[tokio::test]
async fn wrong_content_differs_in_one_bit() {
    let (server, client) = start(Options::default());
    server.replace("key", Bytes::from_static(b"content"));
    server.fault(Fault::anywhere(Effect::WrongContent));
    let got = client.get_object().bucket("holdfast").key("key").send().await.unwrap();
    assert_eq!(got.body.collect().await.unwrap().into_bytes(), "conuent");
    assert_eq!(server.object("key"), Some(Bytes::from_static(b"content")));
}

#[tokio::test]
async fn a_lie_about_a_checksum_is_told_to_who_asks() {
    let (server, client) = start(Options::default());
    let sum = sha1(b"content");
    put(&client, "key", b"content").checksum_sha1(&sum).send().await.unwrap();
    server.fault(Fault::anywhere(Effect::LieAboutChecksum));
    let head = client.head_object().bucket("holdfast").key("key").checksum_mode(ChecksumMode::Enabled);
    let told = head.send().await.unwrap().checksum_sha1.unwrap();
    assert_ne!(told, sum);
    let got = client.get_object().bucket("holdfast").key("key").send().await.unwrap();
    assert_eq!(got.checksum_sha1(), Some(told.as_str()));
}

#[tokio::test]
async fn an_early_refusal_does_not_read_the_body() {
    let (server, client) = start(Options::default());
    server.fault(Fault::anywhere(Effect::EarlyStatus(412, "PreconditionFailed")));
    let body = ByteStream::from(vec![1; 32 << 20]);
    let put = client.put_object().bucket("holdfast").key("key").body(body);
    put.customize().disable_payload_signing().send().await.unwrap_err();
    assert_eq!(server.requests().pop().unwrap().body_bytes, 0);
}
