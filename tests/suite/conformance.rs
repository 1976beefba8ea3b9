//! What every destination does, whatever lies behind it: one list of facts, for every adapter.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast::model::digest::Algorithm;
use holdfast::model::digest::Digest;
use holdfast::model::key::Key;
use holdfast::store::ByteRange;
use holdfast::store::Capabilities;
use holdfast::store::ErrorKind;
use holdfast::store::ObjectStore;
use holdfast::store::Upload;
use holdfast::store::read_to_end;

const MIB: usize = 1 << 20;

/// Content that differs everywhere, the same for the same seed.
pub(crate) fn content(seed: u64, len: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let block: Vec<u8> = (0..4099).map(|_| random.u8(..)).collect();
    let mut content = Vec::with_capacity(len + block.len());
    while content.len() < len {
        content.extend_from_slice(&(content.len() as u64).to_le_bytes());
        content.extend_from_slice(&block);
    }
    content.truncate(len);
    content.into()
}

pub(crate) fn sha1(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha1, content)
}

pub(crate) fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

pub(crate) async fn put(store: &dyn ObjectStore, key: &Key, body: &Bytes) {
    store.put(key, body.clone(), &sha1(body)).await.unwrap();
}

pub(crate) async fn get(store: &dyn ObjectStore, key: &Key) -> Bytes {
    let download = store.get(key, None).await.unwrap();
    let size = download.size();
    let content = read_to_end(download).await.unwrap();
    assert_eq!(content.len() as u64, size);
    content
}

async fn kind_of_head(store: &dyn ObjectStore, key: &Key) -> Option<ErrorKind> {
    store.head(key).await.err().map(|error| error.kind)
}

pub(crate) async fn list_all(store: &dyn ObjectStore, prefix: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut next = None;
    loop {
        let page = store.list(prefix, next.as_ref()).await.unwrap();
        for object in page.objects {
            let name = object.key.to_string();
            assert!(found.insert(name, object.bytes).is_none(), "{} was listed twice", object.key);
        }
        next = page.next;
        if next.is_none() {
            return found;
        }
    }
}

async fn what_was_put_is_got_back(store: &dyn ObjectStore) {
    let (key, body) = (key("back/aa/bb/object"), content(1, 300_000));
    put(store, &key, &body).await;
    assert_eq!(get(store, &key).await, body);
}

async fn a_range_gives_its_bytes(store: &dyn ObjectStore) {
    let (key, body) = (key("range/object"), content(2, 1000));
    put(store, &key, &body).await;
    for (from, len) in [(0, 1), (0, 1000), (1, 998), (999, 1), (500, 0), (1000, 0)] {
        let download = store.get(&key, Some(ByteRange { from, len })).await.unwrap();
        assert_eq!(download.size(), len);
        let (from, end) = (usize::try_from(from).unwrap(), usize::try_from(from + len).unwrap());
        assert_eq!(read_to_end(download).await.unwrap(), body[from..end]);
    }
}

async fn a_range_beyond_the_end_is_an_error(store: &dyn ObjectStore) {
    let (key, body) = (key("beyond/object"), content(3, 1000));
    put(store, &key, &body).await;
    for (from, len) in [(0, 1001), (999, 2), (1000, 1), (5000, 1), (1001, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let error = store.get(&key, Some(ByteRange { from, len })).await.err();
        assert_eq!(error.map(|error| error.kind), Some(ErrorKind::Other), "{from}+{len}");
    }
}

async fn an_empty_object_is_an_object(store: &dyn ObjectStore) {
    let key = key("empty/object");
    put(store, &key, &Bytes::new()).await;
    assert_eq!(get(store, &key).await, Bytes::new());
    assert_eq!(store.head(&key).await.unwrap().bytes, 0);
    assert_eq!(list_all(store, "empty/").await, BTreeMap::from([("empty/object".to_owned(), 0)]));
}

async fn a_second_put_finds_the_key_taken_and_changes_nothing(store: &dyn ObjectStore) {
    let (key, first) = (key("taken/object"), content(4, 2000));
    put(store, &key, &first).await;
    for second in [content(5, 2000), first.clone()] {
        let error = store.put(&key, second.clone(), &sha1(&second)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error}");
    }
    assert_eq!(get(store, &key).await, first);
}

async fn of_many_puts_at_once_one_wins(store: &dyn ObjectStore) {
    let key = key("race/object");
    let bodies = [6, 7, 8, 9].map(|seed| content(seed, 5000));
    let put = async |i: usize| store.put(&key, bodies[i].clone(), &sha1(&bodies[i])).await;
    let (a, b, c, d) = tokio::join!(put(0), put(1), put(2), put(3));
    let outcomes = [a, b, c, d];
    let winners: Vec<usize> = (0..4).filter(|i| outcomes[*i].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(get(store, &key).await, bodies[winners[0]]);
}

async fn a_body_with_another_digest_is_refused_and_not_stored(store: &dyn ObjectStore) {
    for (name, algorithm) in [("sha1", Algorithm::Sha1), ("sha256", Algorithm::Sha256)] {
        let key = key(&format!("wrong/{name}"));
        let digest = Digest::of(algorithm, b"something else");
        let error = store.put(&key, content(10, 3000), &digest).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
        assert_eq!(kind_of_head(store, &key).await, Some(ErrorKind::NotFound));
    }
    assert_eq!(list_all(store, "wrong/").await, BTreeMap::new());
}

async fn head_tells_size_and_digest(store: &dyn ObjectStore) {
    let (key, body) = (key("head/object"), content(11, 12_345));
    put(store, &key, &body).await;
    let info = store.head(&key).await.unwrap();
    assert_eq!((info.key, info.bytes, info.digest), (key, 12_345, Some(sha1(&body))));
}

async fn what_has_a_sha256_is_kept_by_it(store: &dyn ObjectStore) {
    let body = content(12, 4000);
    let digest = Digest::of(Algorithm::Sha256, &body);
    let key = Key::binary(&digest);
    store.put(&key, body.clone(), &digest).await.unwrap();
    assert_eq!(get(store, &key).await, body);
    assert_eq!(store.head(&key).await.unwrap().digest, Some(digest));
}

async fn what_is_not_there_is_not_found(store: &dyn ObjectStore) {
    put(store, &key("nothing/at/all"), &content(13, 10)).await;
    for text in ["nothing/here", "nothing/at", "nowhere/at/all"] {
        assert_eq!(kind_of_head(store, &key(text)).await, Some(ErrorKind::NotFound), "{text}");
        for range in [None, Some(ByteRange { from: 0, len: 1 }), Some(ByteRange { from: 0, len: 0 })] {
            let error = store.get(&key(text), range).await.err().map(|error| error.kind);
            assert_eq!(error, Some(ErrorKind::NotFound), "{text}");
        }
    }
    assert_eq!(list_all(store, "nowhere/").await, BTreeMap::new());
}

async fn a_listing_has_every_key_once(store: &dyn ObjectStore) {
    let name = |number: usize| match number % 3 {
        0 => format!("list/{:02}/{number:04}", number % 25),
        1 => format!("list/{:02}/{:02}/{number:04}", number % 25, number % 7),
        _ => format!("list/{number:04}.json"),
    };
    let body = content(14, 7);
    // Some at a time: one after the other would take a slow store a minute.
    for first in (0..2500).step_by(4) {
        let put = async |number| put(store, &key(&name(number)), &body).await;
        tokio::join!(put(first), put(first + 1), put(first + 2), put(first + 3));
    }
    let expected: BTreeMap<String, u64> = (0..2500).map(|number| (name(number), 7)).collect();
    let page = store.list("list/", None).await.unwrap();
    assert!(page.objects.len() < 2500 && page.next.is_some(), "one page has {} objects", page.objects.len());
    assert_eq!(list_all(store, "list/").await, expected);
    let below: BTreeMap<_, _> = expected.into_iter().filter(|(name, _)| name.starts_with("list/04/")).collect();
    assert_eq!(list_all(store, "list/04/").await, below);
    let everywhere = list_all(store, "").await;
    assert_eq!(everywhere.keys().filter(|name| name.starts_with("list/")).count(), 2500);
}

async fn what_is_deleted_is_gone_and_may_be_put_again(store: &dyn ObjectStore) {
    let (gone, stays) = (key("delete/deep/down/object"), key("delete/other"));
    put(store, &gone, &content(15, 10)).await;
    put(store, &stays, &content(15, 10)).await;
    for _ in 0..2 {
        store.delete(&gone).await.unwrap();
        assert_eq!(kind_of_head(store, &gone).await, Some(ErrorKind::NotFound));
    }
    store.delete(&key("delete/never/there")).await.unwrap();
    assert_eq!(list_all(store, "delete/").await.len(), 1);
    put(store, &gone, &content(16, 10)).await;
    assert_eq!(get(store, &gone).await, content(16, 10));
}

async fn parts_may_come_in_any_order_and_side_by_side(store: &dyn ObjectStore) {
    let (key, body) = (key("parts/object"), content(17, 23 * MIB));
    let parts = [body.slice(..5 * MIB), body.slice(5 * MIB..11 * MIB), body.slice(11 * MIB..16 * MIB)];
    let last = body.slice(16 * MIB..);
    let upload = store.begin(&key).await.unwrap();
    let fourth = upload.part(4, last).await.unwrap();
    let (third, first, second) = tokio::join!(
        upload.part(3, parts[2].clone()),
        upload.part(1, parts[0].clone()),
        upload.part(2, parts[1].clone())
    );
    upload.complete(vec![first.unwrap(), second.unwrap(), third.unwrap(), fourth]).await.unwrap();
    assert_eq!(sha1(&get(store, &key).await), sha1(&body));
    assert_eq!(store.unfinished("parts/").await.unwrap(), []);
}

async fn an_upload_is_listed_but_not_seen_and_gone_when_aborted(store: &dyn ObjectStore) {
    let (one, other) = (key("aborted/deep/one"), key("aborted/other"));
    let uploads = [store.begin(&one).await.unwrap(), store.begin(&other).await.unwrap()];
    for upload in &uploads {
        upload.part(1, content(18, 100)).await.unwrap();
    }
    let handles = [uploads[0].unfinished(), uploads[1].unfinished()];
    assert_eq!(kind_of_head(store, &one).await, Some(ErrorKind::NotFound));
    assert_eq!(list_all(store, "aborted/").await, BTreeMap::new());
    let mut listed = store.unfinished("aborted/").await.unwrap();
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(listed, handles);
    assert_eq!(store.unfinished("aborted/deep/one").await.unwrap(), handles[..1]);
    let [first, second] = uploads;
    first.abort().await.unwrap();
    drop(second);
    assert_eq!(store.unfinished("aborted/").await.unwrap(), handles[1..]);
    for handle in &handles {
        store.abort(handle).await.unwrap();
    }
    assert_eq!(store.unfinished("aborted/").await.unwrap(), []);
}

async fn completing_on_a_taken_key_changes_nothing(store: &dyn ObjectStore) {
    let (key, first) = (key("late/object"), content(19, 1000));
    let upload = store.begin(&key).await.unwrap();
    let part = upload.part(1, content(20, 1000)).await.unwrap();
    put(store, &key, &first).await;
    let handle = upload.unfinished();
    let error = upload.complete(vec![part]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error}");
    assert_eq!(get(store, &key).await, first);
    store.abort(&handle).await.unwrap();
    assert_eq!(store.unfinished("late/").await.unwrap(), []);
}

async fn a_part_that_is_sent_again_replaces_the_first(store: &dyn ObjectStore) {
    let (first, second, longer) = (content(21, 5 * MIB), content(22, 5 * MIB), content(23, 6 * MIB));
    let last = content(24, 1000);
    for (name, again) in [("same", &second), ("longer", &longer)] {
        let key = key(&format!("again/{name}"));
        let upload: Box<dyn Upload> = store.begin(&key).await.unwrap();
        upload.part(1, first.clone()).await.unwrap();
        let end = upload.part(2, last.clone()).await.unwrap();
        let begin = upload.part(1, again.clone()).await.unwrap();
        upload.complete(vec![begin, end]).await.unwrap();
        assert_eq!(sha1(&get(store, &key).await), sha1(&[again.as_ref(), last.as_ref()].concat()), "{name}");
    }
}

async fn a_large_object_comes_back_from_three_parts(store: &dyn ObjectStore) {
    let (key, body) = (key("large/object"), content(25, 20 * MIB));
    let upload = store.begin(&key).await.unwrap();
    let mut parts = Vec::new();
    for (number, range) in (1..).zip([0..8 * MIB, 8 * MIB..16 * MIB, 16 * MIB..20 * MIB]) {
        parts.push(upload.part(number, body.slice(range)).await.unwrap());
    }
    upload.complete(parts).await.unwrap();
    assert_eq!(store.head(&key).await.unwrap().bytes, 20 * MIB as u64);
    assert_eq!(sha1(&get(store, &key).await), sha1(&body));
    let range = ByteRange { from: 8 * MIB as u64 - 10, len: 20 };
    let seam = read_to_end(store.get(&key, Some(range)).await.unwrap()).await.unwrap();
    assert_eq!(seam, body[8 * MIB - 10..8 * MIB + 10]);
}

async fn trying_it_out_finds_all_and_leaves_nothing(store: &dyn ObjectStore) {
    assert_eq!(store.probe().await.unwrap(), Capabilities::ALL);
    assert_eq!(list_all(store, "check/").await, BTreeMap::new());
    assert_eq!(store.unfinished("check/").await.unwrap(), []);
}

/// Writes down the facts twice: as [`all`], for a store that is dear to start, and as `conformance!`, one test each.
macro_rules! facts {
    ($dollar:tt $($fact:ident),+ $(,)?) => {
        /// Everything above, one after the other.
        pub(crate) async fn all(store: &dyn ObjectStore) {
            $(
                eprintln!("{}", stringify!($fact));
                $fact(store).await;
            )+
        }

        /// A module with a test for each fact; the expression makes the store and what has to outlive it.
        macro_rules! conformance {
            ($dollar name:ident, $dollar store:expr) => {
                mod $dollar name {
                    use super::*;

                    $(
                        #[tokio::test]
                        async fn $fact() {
                            let (store, _alive) = $dollar store;
                            super::$fact(&store).await;
                        }
                    )+
                }
            };
        }
    };
}

facts! { $
    what_was_put_is_got_back,
    a_range_gives_its_bytes,
    a_range_beyond_the_end_is_an_error,
    an_empty_object_is_an_object,
    a_second_put_finds_the_key_taken_and_changes_nothing,
    of_many_puts_at_once_one_wins,
    a_body_with_another_digest_is_refused_and_not_stored,
    head_tells_size_and_digest,
    what_has_a_sha256_is_kept_by_it,
    what_is_not_there_is_not_found,
    a_listing_has_every_key_once,
    what_is_deleted_is_gone_and_may_be_put_again,
    parts_may_come_in_any_order_and_side_by_side,
    an_upload_is_listed_but_not_seen_and_gone_when_aborted,
    completing_on_a_taken_key_changes_nothing,
    a_part_that_is_sent_again_replaces_the_first,
    a_large_object_comes_back_from_three_parts,
    trying_it_out_finds_all_and_leaves_nothing,
}

mod adapters {
    use std::sync::Arc;

    use holdfast::store::directory::DirectoryStore;
    use holdfast::store::memory::MemoryStore;
    use holdfast::store::retry::RetryPolicy;
    use holdfast::store::retry::Retrying;
    use holdfast::store::s3::S3Store;
    use tempfile::TempDir;

    use super::*;
    use crate::s3_memory::Options;
    use crate::s3_memory::Server;
    use crate::s3_store::connect;

    pub(super) fn directory() -> (DirectoryStore, TempDir) {
        let scratch = tempfile::tempdir().unwrap();
        (DirectoryStore::open(&scratch.path().join("store")).unwrap(), scratch)
    }

    pub(super) async fn s3(prefix: &str) -> (S3Store, Server) {
        let server = Server::start(Options::default());
        (connect(&server, prefix, Capabilities::ALL).await, server)
    }

    pub(super) fn retrying<A>((store, alive): (impl ObjectStore + 'static, A)) -> (Retrying, A) {
        (Retrying::new(Arc::new(store), RetryPolicy::default()), alive)
    }

    pub(super) fn memory() -> (MemoryStore, ()) {
        (MemoryStore::new("memory"), ())
    }
}

conformance!(memory, adapters::memory());
conformance!(memory_retried, adapters::retrying(adapters::memory()));
conformance!(directory, adapters::directory());
conformance!(directory_retried, adapters::retrying(adapters::directory()));
conformance!(s3, adapters::s3("").await);
conformance!(s3_retried, adapters::retrying(adapters::s3("deep/down").await));
