//! What the directory adapter does beside what all do: it leaves plain files, and nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use bytes::Bytes;
use holdfast::store::ErrorKind;
use holdfast::store::ObjectStore;
use holdfast::store::directory::DirectoryStore;
use tempfile::TempDir;

use crate::conformance::content;
use crate::conformance::get;
use crate::conformance::key;
use crate::conformance::list_all;
use crate::conformance::put;
use crate::conformance::sha1;

fn open() -> (DirectoryStore, TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    (DirectoryStore::open(scratch.path()).unwrap(), scratch)
}

/// What lies in the working directory of the store.
fn in_the_works(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join(".holdfast-uploads")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn objects_are_files_under_their_keys_and_nothing_is_left_beside_them() {
    let (store, scratch) = open();
    put(&store, &key("a/b/c"), &content(1, 1000)).await;
    let upload = store.begin(&key("a/large")).await.unwrap();
    let second = upload.part(2, content(3, 1000)).await.unwrap();
    let first = upload.part(1, content(2, 1000)).await.unwrap();
    upload.complete(vec![first, second]).await.unwrap();
    assert_eq!(fs::read(scratch.path().join("a/b/c")).unwrap(), content(1, 1000));
    assert_eq!(fs::read(scratch.path().join("a/large")).unwrap(), [content(2, 1000), content(3, 1000)].concat());
    assert_eq!(in_the_works(scratch.path()), [""; 0]);
}

#[tokio::test]
async fn parts_may_be_left_out_and_leave_gaps() {
    let (store, _scratch) = open();
    let upload = store.begin(&key("a")).await.unwrap();
    let mut parts = Vec::new();
    for number in [2, 5, 1, 9] {
        parts.push(upload.part(number, content(u64::from(number), 1000)).await.unwrap());
    }
    upload.complete(vec![parts[0].clone(), parts[3].clone()]).await.unwrap();
    assert_eq!(get(&store, &key("a")).await, [content(2, 1000), content(9, 1000)].concat());
}

#[tokio::test]
async fn what_was_replaced_cannot_be_completed_with() {
    let (store, _scratch) = open();
    let upload = store.begin(&key("a")).await.unwrap();
    let before = upload.part(1, content(1, 1000)).await.unwrap();
    upload.part(1, content(2, 1000)).await.unwrap();
    let error = upload.complete(vec![before]).await.unwrap_err();
    assert!(error.cause.contains("part 1 is not there or was replaced"), "{error}");
}

#[tokio::test]
async fn links_below_the_root_are_not_followed() {
    let (store, scratch) = open();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), scratch.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), scratch.path().join("link")).unwrap();
    let body = content(1, 10);
    assert!(store.put(&key("out/new"), body.clone(), &sha1(&body)).await.is_err());
    assert!(!outside.path().join("new").exists());
    assert!(store.get(&key("out/secret"), None).await.is_err());
    assert!(store.get(&key("link"), None).await.is_err());
    store.delete(&key("out/secret")).await.unwrap();
    assert!(outside.path().join("secret").exists());
    assert_eq!(list_all(&store, "").await.len(), 0);
    assert_eq!(list_all(&store, "out/").await.len(), 0);
}

#[tokio::test]
async fn the_working_directory_is_no_place_for_objects() {
    let (store, scratch) = open();
    let body = content(1, 10);
    let inside = key(".holdfast-uploads/a");
    assert!(store.put(&inside, body.clone(), &sha1(&body)).await.is_err());
    assert!(store.begin(&inside).await.is_err());
    put(&store, &key("a"), &body).await;
    drop(store.begin(&key("b")).await.unwrap());
    assert_eq!(list_all(&store, "").await.len(), 1);
    assert_eq!(in_the_works(scratch.path()).len(), 1);
}

#[tokio::test]
async fn what_a_put_that_died_left_is_swept_and_an_upload_is_kept() {
    let (store, scratch) = open();
    let upload = store.begin(&key("a")).await.unwrap();
    let works = scratch.path().join(".holdfast-uploads");
    fs::write(works.join("put-0123456789abcdef"), "half of it").unwrap();
    let again = DirectoryStore::open(scratch.path()).unwrap();
    assert_eq!(in_the_works(scratch.path()).len(), 1);
    assert_eq!(again.unfinished("").await.unwrap(), [upload.unfinished()]);
    again.abort(&upload.unfinished()).await.unwrap();
    assert_eq!(in_the_works(scratch.path()), [""; 0]);
}

#[tokio::test]
async fn a_refused_body_leaves_no_file() {
    let (store, scratch) = open();
    put(&store, &key("a"), &content(1, 10)).await;
    store.put(&key("b"), content(2, 10), &sha1(b"other")).await.unwrap_err();
    store.put(&key("a"), content(2, 10), &sha1(&content(2, 10))).await.unwrap_err();
    // A file stands where a directory would have to be.
    let body = Bytes::from_static(b"x");
    let error = store.put(&key("a/b"), body.clone(), &sha1(&body)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Other);
    assert!(error.cause.contains("not a directory"), "{error}");
    assert_eq!(in_the_works(scratch.path()), [""; 0]);
}

#[tokio::test]
async fn an_upload_is_aborted_only_by_a_name_that_is_one() {
    let (store, scratch) = open();
    put(&store, &key("a"), &content(1, 10)).await;
    let mut handle = store.begin(&key("b")).await.unwrap().unfinished();
    for id in ["../a", "..", "", "."] {
        id.clone_into(&mut handle.id);
        assert!(store.abort(&handle).await.is_err(), "{id:?}");
    }
    assert!(scratch.path().join("a").exists());
}
