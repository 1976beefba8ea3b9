//! What the S3 adapter makes of a server and a network that fail, alone and with `Retrying` around it.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast::model::key::Key;
use holdfast::store::ByteRange;
use holdfast::store::Capabilities;
use holdfast::store::ErrorKind;
use holdfast::store::ObjectStore;
use holdfast::store::StoreError;
use holdfast::store::read_to_end;
use holdfast::store::retry::RetryPolicy;
use holdfast::store::retry::Retrying;
use holdfast::store::s3::S3Credentials;
use holdfast::store::s3::S3Settings;
use holdfast::store::s3::S3Store;
use holdfast::store::s3::TimeOuts;

use crate::conformance::content;
use crate::conformance::get;
use crate::conformance::key;
use crate::conformance::list_all;
use crate::conformance::put;
use crate::conformance::sha1;
use crate::s3_memory::Checking;
use crate::s3_memory::Effect;
use crate::s3_memory::Fault;
use crate::s3_memory::Options;
use crate::s3_memory::Server;
use crate::s3_memory::When;
use crate::s3_store::connect;
use crate::s3_store::settings;

const MIB: usize = 1 << 20;

/// Tries as often as the daemon and does not wait in between.
const AT_ONCE: RetryPolicy = RetryPolicy { attempts: 20, first: Duration::ZERO, longest: Duration::ZERO };

async fn start(options: Options, capabilities: Capabilities) -> (Server, Retrying) {
    let server = Server::start(options);
    let store = connect(&server, "vault", capabilities).await;
    (server, Retrying::new(Arc::new(store), AT_ONCE))
}

async fn with(fault: Fault) -> (Server, Retrying) {
    let (server, store) = start(Options::default(), Capabilities::ALL).await;
    server.fault(fault);
    (server, store)
}

async fn refused(settings: S3Settings) -> StoreError {
    let store = S3Store::connect(settings, Capabilities::ALL).await.unwrap();
    let body = content(1, 100);
    store.put(&key("a"), body.clone(), &sha1(&body)).await.unwrap_err()
}

/// Sends 11 MiB in two parts.
async fn upload(store: &dyn ObjectStore, key: &Key) -> Result<Bytes, StoreError> {
    let body = content(2, 11 * MIB);
    let upload = store.begin(key).await?;
    let first = upload.part(1, body.slice(..6 * MIB)).await?;
    let second = upload.part(2, body.slice(6 * MIB..)).await?;
    upload.complete(vec![first, second]).await?;
    Ok(body)
}

#[tokio::test]
async fn a_server_that_is_busy_half_the_time_is_ridden_out() {
    let (server, store) = with(Fault::anywhere(Effect::Status(503, "SlowDown")).when(When::Half { seed: 7 })).await;
    for number in 0..20 {
        let body = content(number, 1000);
        put(&store, &key(&format!("small/{number}")), &body).await;
        assert_eq!(get(&store, &key(&format!("small/{number}"))).await, body);
    }
    let body = upload(&store, &key("large")).await.unwrap();
    assert_eq!(server.object("vault/large"), Some(body));
    assert_eq!(list_all(&store, "small/").await.len(), 20);
    let (requests, retries) = store.meter().read();
    assert!(retries > 20 && requests > retries, "{requests} requests, {retries} of them retries");
    let asked: u64 = server.counts().values().map(|count| count.requests).sum();
    // After a completion that came to nothing the adapter looks by itself what became of it.
    assert!((requests..requests + 8).contains(&asked), "{requests} counted, {asked} made");
}

#[tokio::test]
async fn a_server_that_is_always_busy_is_given_up() {
    let (server, store) = with(Fault::at("PutObject", Effect::Status(503, "SlowDown"))).await;
    let body = content(1, 100);
    let error = store.put(&key("a"), body.clone(), &sha1(&body)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().ends_with("(SlowDown) (tried 20 times)"), "{error}");
    assert_eq!(server.count("PutObject"), 20);
}

#[tokio::test]
async fn a_body_that_was_cut_off_is_sent_again() {
    let cut = |operation| Fault::at(operation, Effect::CutRequest { after_bytes: 100_000 }).when(When::First(2));
    let (server, store) = with(cut("UploadPart")).await;
    server.fault(cut("PutObject"));
    let body = upload(&store, &key("large")).await.unwrap();
    assert_eq!(server.object("vault/large"), Some(body));
    let body = content(3, MIB);
    put(&store, &key("small"), &body).await;
    assert_eq!(server.object("vault/small"), Some(body));
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_found_to_have_come_through() {
    let (server, store) = with(Fault::at("PutObject", Effect::LoseAnswer)).await;
    put(&store, &key("a"), &content(1, 1000)).await;
    assert_eq!(server.object("vault/a"), Some(content(1, 1000)));
    assert_eq!(server.count("PutObject"), 1, "the body was sent again");
}

#[tokio::test]
async fn another_object_under_the_key_is_not_taken_for_ours() {
    let (server, store) = with(Fault::at("PutObject", Effect::LoseAnswer)).await;
    put(&store, &key("a"), &content(1, 1000)).await;
    for other in [content(2, 1000), content(2, 2000)] {
        let error = store.put(&key("a"), other.clone(), &sha1(&other)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error}");
    }
    assert_eq!(server.object("vault/a"), Some(content(1, 1000)));
}

#[tokio::test]
async fn a_refusal_before_the_body_was_read_is_still_understood() {
    let (server, store) = with(Fault::at("PutObject", Effect::EarlyStatus(503, "SlowDown")).when(When::First(3))).await;
    let body = content(1, 8 * MIB);
    put(&store, &key("a"), &body).await;
    assert_eq!(server.object("vault/a"), Some(body));
}

#[tokio::test]
async fn a_part_whose_answer_is_lost_is_sent_again() {
    let (server, store) = with(Fault::at("UploadPart", Effect::LoseAnswer).when(When::Every(2))).await;
    let body = upload(&store, &key("large")).await.unwrap();
    assert_eq!(server.object("vault/large"), Some(body));
}

#[tokio::test]
async fn a_completion_whose_answer_is_lost_is_found_to_have_come_through() {
    for effect in [Effect::LoseAnswer, Effect::CutAnswer { after_bytes: 20 }] {
        let (server, store) = with(Fault::at("CompleteMultipartUpload", effect)).await;
        let body = upload(&store, &key("large")).await.unwrap();
        assert_eq!(server.object("vault/large"), Some(body));
        assert_eq!(server.count("CompleteMultipartUpload"), 1);
    }
}

#[tokio::test]
async fn a_completion_is_found_to_have_come_through_when_it_could_not_be_looked_for_at_once() {
    let (server, store) = with(Fault::at("CompleteMultipartUpload", Effect::LoseAnswer).when(When::Only(1))).await;
    server.fault(Fault::at("HeadObject", Effect::Status(503, "SlowDown")).when(When::First(2)));
    let body = upload(&store, &key("large")).await.unwrap();
    assert_eq!(server.object("vault/large"), Some(body));
    assert!(server.count("CompleteMultipartUpload") > 1);
}

#[tokio::test]
async fn a_lost_completion_on_a_taken_key_is_not_taken_for_ours() {
    let (server, store) = with(Fault::at("CompleteMultipartUpload", Effect::LoseAnswer)).await;
    // As large as what is uploaded, but not it.
    let other = store.begin(&key("large")).await.unwrap();
    let part = other.part(1, content(9, 11 * MIB)).await.unwrap();
    other.complete(vec![part]).await.unwrap();
    let error = upload(&store, &key("large")).await.unwrap_err();
    assert_ne!(error.kind, ErrorKind::Denied);
    assert_eq!(server.object("vault/large"), Some(content(9, 11 * MIB)));
}

#[tokio::test]
async fn what_is_denied_is_not_tried_again() {
    let (server, store) = with(Fault::anywhere(Effect::Status(403, "AccessDenied"))).await;
    let body = content(1, 100);
    let error = store.put(&key("a"), body.clone(), &sha1(&body)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.cause.ends_with("allow s3:PutObject on `holdfast/vault/*`"), "{error}");
    assert_eq!(store.head(&key("a")).await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(store.list("", None).await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(store.probe().await.unwrap_err().kind, ErrorKind::Denied);
    for operation in ["HeadObject", "ListObjectsV2"] {
        assert_eq!(server.count(operation), 1, "{operation}");
    }
    assert_eq!(server.count("PutObject"), 2);
}

#[tokio::test]
async fn wrong_keys_are_named() {
    let server = Server::start(Options::default());
    for (access_key, secret_key, hint) in [
        ("nobody", "secret", "the server does not know this access key"),
        (crate::s3_memory::ACCESS_KEY, "wrong", "the secret key does not belong to the access key"),
    ] {
        let credentials = S3Credentials::Keys { access_key: access_key.into(), secret_key: secret_key.into() };
        let error = refused(S3Settings { credentials, ..settings(&server, "") }).await;
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
        assert!(error.cause.contains(hint), "{error}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    let server = Server::start(Options::default());
    let store = S3Store::connect(S3Settings { bucket: "nowhere".into(), ..settings(&server, "") }, Capabilities::ALL);
    let store = store.await.unwrap();
    let body = content(1, 100);
    let refusals = [
        store.put(&key("a"), body.clone(), &sha1(&body)).await.unwrap_err(),
        store.list("", None).await.unwrap_err(),
        store.begin(&key("a")).await.unwrap_err(),
        store.delete(&key("a")).await.unwrap_err(),
        store.probe().await.unwrap_err(),
    ];
    for error in refusals {
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert_eq!(error.cause, "bucket `nowhere` does not exist");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_worth_another_try() {
    let server = Server::start(Options::default());
    let gone = settings(&server, "");
    drop(server);
    let error = refused(gone.clone()).await;
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let place = gone.endpoint.unwrap();
    assert_eq!(error.to_string(), format!("put `a` in `s3://holdfast at {place}`: Connection refused (os error 111)"));
}

#[tokio::test]
async fn an_endpoint_that_is_no_address_is_refused_at_once() {
    let endpoint = Some("backup-server:9000".to_owned());
    let settings = S3Settings { bucket: "b".into(), endpoint, ..S3Settings::default() };
    let error = S3Store::connect(settings, Capabilities::NONE).await.unwrap_err();
    assert!(error.cause.contains("does not begin with http://"), "{error}");
}

/// Answers the first request with the head of an object, and then with nothing.
fn start_and_stall() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
        // Until the client goes away.
        while stream.read(&mut request).is_ok_and(|bytes| bytes > 0) {}
    });
    endpoint
}

#[tokio::test]
async fn a_download_that_stalls_is_left_after_a_while() {
    let server = Server::start(Options::default());
    let time_outs = TimeOuts { piece: Duration::from_millis(50), ..TimeOuts::default() };
    let settings = S3Settings { endpoint: Some(start_and_stall()), time_outs, ..settings(&server, "") };
    let store = S3Store::connect(settings, Capabilities::ALL).await.unwrap();
    let mut download = store.get(&key("a"), None).await.unwrap();
    assert_eq!(download.chunk().await.unwrap().unwrap(), "half");
    let error = download.chunk().await.unwrap_err();
    assert_eq!((error.kind, error.cause.as_str()), (ErrorKind::Unavailable, "no bytes within 50ms"));
}

#[tokio::test]
async fn what_is_sent_is_the_content_and_nothing_around_it() {
    let (server, store) = start(Options::default(), Capabilities::ALL).await;
    put(&store, &key("small"), &content(1, 100_000)).await;
    upload(&store, &key("large")).await.unwrap();
    let bytes = |operation| server.counts()[operation].bytes;
    assert_eq!((bytes("PutObject"), bytes("UploadPart")), (100_000, 11 * MIB as u64));
    assert_eq!(server.counts().len(), 4, "a put is one request: {:?}", server.counts());
}

#[tokio::test]
async fn a_server_that_hangs_is_left_after_a_while() {
    let server = Server::start(Options::default());
    let time_outs = TimeOuts { answer: Duration::from_millis(50), ..TimeOuts::default() };
    server.fault(Fault::at("PutObject", Effect::Hang).when(When::Only(1)));
    let store = S3Store::connect(S3Settings { time_outs, ..settings(&server, "") }, Capabilities::ALL).await.unwrap();
    let body = content(1, 100);
    let error = store.put(&key("a"), body.clone(), &sha1(&body)).await.unwrap_err();
    assert_eq!((error.kind, error.cause.as_str()), (ErrorKind::Unavailable, "no answer within 50ms"));
}

#[tokio::test]
async fn a_damaged_body_is_sent_once_more_and_no_oftener() {
    let (server, store) = with(Fault::at("PutObject", Effect::Status(400, "BadDigest")).when(When::Only(1))).await;
    put(&store, &key("a"), &content(1, 100)).await;
    server.fault(Fault::at("PutObject", Effect::Status(400, "BadDigest")));
    server.clear_log();
    let body = content(2, 100);
    let error = store.put(&key("b"), body.clone(), &sha1(&body)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert_eq!(server.count("PutObject"), 2);
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let (server, store) = start(Options::default(), Capabilities::ALL).await;
    let body = content(1, 5 * MIB);
    put(&store, &key("a"), &body).await;
    server.fault(Fault::at("GetObject", Effect::CutAnswer { after_bytes: 1_000_000 }));
    assert_eq!(get(&store, &key("a")).await, body);
    let range = ByteRange { from: 123_456, len: 3_000_000 };
    let part = read_to_end(store.get(&key("a"), Some(range)).await.unwrap()).await.unwrap();
    assert_eq!(part, body[123_456..3_123_456]);
    assert!(store.meter().read().1 >= 7, "{:?}", store.meter());
}

#[tokio::test]
async fn a_checksum_that_nothing_has_is_passed_on_for_others_to_judge() {
    let (_server, store) = with(Fault::at("HeadObject", Effect::LieAboutChecksum)).await;
    let body = content(1, 100);
    put(&store, &key("a"), &body).await;
    let found = store.head(&key("a")).await.unwrap().digest.unwrap();
    assert_ne!(found, sha1(&body));
}

#[tokio::test]
async fn probing_notices_what_a_store_only_pretends() {
    let all = Capabilities::ALL;
    let cases = [
        (Options { ignore_if_none_match: true, ..Options::default() }, {
            Capabilities { conditional_put: false, conditional_complete: false, ..all }
        }),
        (Options { no_list_uploads: true, ..Options::default() }, Capabilities { lists_unfinished: false, ..all }),
        (Options { checksums: Checking::Believe, ..Options::default() }, {
            Capabilities { verifies_sha1: false, verifies_parts: false, ..all }
        }),
        (Options { checksums: Checking::Ignore, ..Options::default() }, {
            Capabilities { verifies_sha1: false, verifies_parts: false, returns_sha1: false, ..all }
        }),
    ];
    for (options, expected) in cases {
        let (server, store) = start(options.clone(), Capabilities::NONE).await;
        assert_eq!(store.probe().await.unwrap(), expected, "{options:?}");
        assert!(server.objects().is_empty() && server.uploads().is_empty(), "something was left behind");
    }
}

#[tokio::test]
async fn probing_rides_out_a_busy_server_and_lives_without_the_right_to_delete() {
    let (server, store) = with(Fault::anywhere(Effect::Status(503, "SlowDown")).when(When::Every(17))).await;
    assert_eq!(store.probe().await.unwrap(), Capabilities::ALL);
    assert!(server.objects().is_empty());
    server.clear_faults();
    server.fault(Fault::at("DeleteObject", Effect::Status(403, "AccessDenied")));
    assert_eq!(store.probe().await.unwrap(), Capabilities::ALL);
}

#[tokio::test]
async fn a_store_that_would_overwrite_is_looked_at_first() {
    let options = Options { ignore_if_none_match: true, ..Options::default() };
    let capabilities = Capabilities { conditional_put: false, conditional_complete: false, ..Capabilities::ALL };
    let (server, store) = start(options, capabilities).await;
    let (first, second) = (content(1, 100), content(2, 100));
    put(&store, &key("a"), &first).await;
    let error = store.put(&key("a"), second.clone(), &sha1(&second)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert_eq!(upload(&store, &key("a")).await.unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(server.object("vault/a"), Some(first));
    let body = upload(&store, &key("b")).await.unwrap();
    assert_eq!(server.object("vault/b"), Some(body));
}

#[tokio::test]
async fn what_a_store_does_not_check_is_read_back() {
    let options = Options { checksums: Checking::Ignore, ..Options::default() };
    let capabilities = Capabilities { verifies_sha1: false, verifies_parts: false, ..Capabilities::ALL };
    let (server, store) = start(options, capabilities).await;
    let body = content(1, 100_000);
    put(&store, &key("a"), &body).await;
    upload(&store, &key("large")).await.unwrap();
    server.fault(Fault::at("GetObject", Effect::WrongContent));
    let error = store.put(&key("b"), body.clone(), &sha1(&body)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
    assert!(error.cause.contains("the store has damaged it"), "{error}");
    let error = upload(&store, &key("damaged")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn a_lost_put_is_read_back_where_the_store_believes_any_checksum() {
    let options = Options { checksums: Checking::Believe, ..Options::default() };
    let capabilities = Capabilities { verifies_sha1: false, verifies_parts: false, ..Capabilities::ALL };
    let (server, store) = start(options, capabilities).await;
    server.fault(Fault::at("PutObject", Effect::LoseAnswer));
    put(&store, &key("a"), &content(1, 1000)).await;
    assert_eq!(server.count("GetObject"), 1);
    assert_eq!(store.head(&key("a")).await.unwrap().digest, None);
}

#[tokio::test]
async fn uploads_are_not_listed_where_the_store_is_known_not_to() {
    let options = Options { no_list_uploads: true, ..Options::default() };
    let known = Capabilities { lists_unfinished: false, ..Capabilities::ALL };
    let (server, store) = start(options, known).await;
    assert_eq!(store.unfinished("").await.unwrap(), []);
    let unaware = connect(&server, "vault", Capabilities::ALL).await;
    assert_eq!(unaware.unfinished("").await.unwrap_err().kind, ErrorKind::Other);
}

#[tokio::test]
async fn uploads_are_listed_over_pages_and_only_those_of_the_prefix() {
    let options = Options { page_limit: 2, ..Options::default() };
    let (server, store) = start(options, Capabilities::ALL).await;
    let foreign = connect(&server, "vault-of-others", Capabilities::ALL).await;
    drop(foreign.begin(&key("x")).await.unwrap());
    let mut expected = Vec::new();
    for number in 0..7 {
        expected.push(store.begin(&key(&format!("a/{}", number % 3))).await.unwrap().unfinished());
    }
    let mut found = store.unfinished("").await.unwrap();
    for uploads in [&mut found, &mut expected] {
        uploads.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_error_in_the_body_of_a_completion_is_an_error() {
    // The one way to have a 200 that says no.
    let (server, store) =
        with(Fault::at("CompleteMultipartUpload", Effect::Status(200, "InternalError")).when(When::Only(1))).await;
    let body = upload(&store, &key("large")).await.unwrap();
    assert_eq!(server.object("vault/large"), Some(body));
    assert_eq!(server.count("CompleteMultipartUpload"), 2);
}
