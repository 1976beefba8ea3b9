//! The copy: what it sends, what it leaves out, and what restore points hold, whatever happens in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use holdfast::jobs::verify::Depth;
use holdfast::ledger::{FILE, StateLock};
use holdfast::model::digest::{Algorithm, Digest};
use holdfast::model::key::Key;
use holdfast::model::layout::Layout;
use holdfast::model::run::{Outcome, Run};
use holdfast::store::{Capabilities, ErrorKind, ObjectStore};
use tokio_util::sync::CancellationToken;

use super::conformance::{content, put};
use super::faulty::{Faulty, Trouble};
use super::lab::{Lab, as_nobody, sha1};
use super::own_mounts::{in_own_mounts, mount_memory};
use super::s3_memory::{Checking, Effect, Fault, Options, Server, When};
use super::s3_store::connect;

const MIB: usize = 1 << 20;

/// A run that did all it had to.
#[track_caller]
fn succeeded(run: &Run) -> String {
    assert_eq!(run.outcome, Some(Outcome::Succeeded), "{run:#?}");
    run.result.clone().unwrap()
}

#[track_caller]
fn partial(run: &Run) -> String {
    assert_eq!(run.outcome, Some(Outcome::Partial), "{run:#?}");
    run.result.clone().unwrap()
}

/// Whether a problem of this kind names this.
fn names(run: &Run, kind: &str, subject: &str) -> bool {
    run.problems.iter().any(|problem| problem.kind == kind && problem.subject.contains(subject))
}

fn remove(lab: &Lab, digest: &Digest) {
    fs::remove_file(lab.binaries().path(digest)).unwrap();
}

fn faulty_lab() -> (Arc<Faulty>, Lab) {
    let store = Faulty::new();
    let lab = Lab::with_store(Arc::clone(&store) as Arc<dyn ObjectStore>);
    (store, lab)
}

/// Puts an object in place of another behind everybody's back.
async fn replace(store: &dyn ObjectStore, digest: &Digest, other: &[u8]) {
    let key = Key::binary(digest);
    store.delete(&key).await.unwrap();
    put(store, &key, &other.to_vec().into()).await;
}

fn sidecar(lab: &Lab, of: &Digest, suffix: &str, text: &[u8]) -> Digest {
    let name = sha1(format!("{of}{suffix}").as_bytes());
    lab.write(&name, text);
    name
}

// What is sent, and what is not.

#[tokio::test]
async fn a_binary_that_was_removed_leaves_the_next_point_and_stays_in_the_old_one() {
    let lab = Lab::new();
    let all = lab.add_many(20, "a");
    let before = lab.snapshot();
    let old = succeeded(&lab.copy().await);
    remove(&lab, &all[3]);
    let run = lab.copy().await;
    let new = succeeded(&run);
    assert_eq!((run.counts.removed, run.counts.copied), (1, 0));
    assert!(lab.listed(&old).await.contains_key(&all[3]) && !lab.listed(&new).await.contains_key(&all[3]));
    lab.check_points().await;
    assert_eq!(lab.plan(&old).await.unwrap().fetch, 1);
    succeeded(&lab.restore(&old).await);
    assert_eq!(lab.snapshot(), before);
    // It comes back without being sent.
    let run = lab.copy().await;
    assert_eq!((run.counts.copied, run.counts.skipped), (0, 1), "{run:?}");
    assert_eq!(lab.listed(&succeeded(&run)).await, lab.expected());
}

#[tokio::test]
async fn unchanged_documents_are_not_sent_again_and_changed_ones_make_a_point() {
    let (store, mut lab) = faulty_lab();
    lab.add_many(5, "a");
    lab.write_documents(&["one", "two"]);
    let first = succeeded(&lab.copy().await);
    lab.add_many(1, "b");
    let second = succeeded(&lab.copy().await);
    let files = async |point: &str| lab.point_manifest(point).await.documents;
    assert_eq!(files(&second).await, files(&first).await);
    assert!(files(&second).await.files[0].key.as_ref().unwrap().as_str().contains(&first));
    assert_eq!(lab.copy().await.counts.requests, 0);
    let content = fs::read(lab.path("documents/documents_000001.bin")).unwrap();
    fs::write(lab.path("documents/documents_000001.bin"), content).unwrap();
    let run = lab.copy().await;
    assert_eq!((run.counts.requests, run.result), (0, Some(second.clone())), "the same, written again");
    assert_eq!(store.count("put", "points/").0, 5);
    lab.write_documents(&["one", "two", "three"]);
    let third = succeeded(&lab.copy().await);
    assert_ne!(third, second);
    assert_eq!(lab.point_manifest(&third).await.documents.count, 3);
    lab.check_points().await;
}

#[tokio::test]
async fn documents_that_stand_there_twice_or_are_none_are_counted() {
    let mut lab = Lab::new();
    lab.add_many(2, "a");
    lab.write_documents(&["one", "two", "one"]);
    let run = lab.copy().await;
    let point = succeeded(&run);
    assert_eq!((run.counts.documents, run.counts.duplicate_documents), (2, 1), "{run:?}");
    assert_eq!(lab.point_manifest(&point).await.documents.count, 2);

    let path = lab.path("documents/documents_000001.bin");
    fs::write(&path, fs::read_to_string(&path).unwrap() + "this is no document\n").unwrap();
    let run = lab.copy().await;
    let point = partial(&run);
    assert_eq!(run.counts.damaged_documents, 1);
    let manifest = lab.point_manifest(&point).await;
    assert!(!manifest.complete && manifest.documents.damaged.is_some());
    // It is named by every run, and makes no new point each time.
    assert_eq!(partial(&lab.copy().await), point);
}

#[tokio::test]
async fn the_cost_of_a_restore_point_follows_the_change() {
    let (store, lab) = faulty_lab();
    lab.add_many(1500, "base");
    succeeded(&lab.copy().await);
    let (_, base) = store.count("put", "points/");
    for number in 0..40 {
        lab.add_many(4, &format!("{number}"));
        let point = succeeded(&lab.copy().await);
        let lists = lab.point_manifest(&point).await.lists.len();
        assert!(lists <= 10, "{lists} lists after {number} copies");
    }
    let (puts, bytes) = store.count("put", "points/");
    assert_eq!(puts, 82);
    // Lists written whole would be more than forty times the first one. The manifests are counted too.
    assert!(bytes - base < 4 * base, "{} bytes for 40 points, {base} for the first", bytes - base);
    lab.check_points().await;
}

#[tokio::test]
async fn every_point_of_a_random_history_lists_what_was_there() {
    for seed in 1..=4 {
        let (mut random, mut lab) = (fastrand::Rng::with_seed(seed), Lab::new());
        let mut points: BTreeMap<String, BTreeMap<Digest, u64>> = BTreeMap::new();
        let mut old_ledger = None;
        lab.add_many(30, "base");
        for step in 0..30 {
            let present: Vec<Digest> = lab.expected().into_keys().collect();
            match random.u8(..12) {
                0..=2 => drop(lab.add_many(random.usize(1..9), &format!("{seed} {step}"))),
                // Some of the first come and go.
                3 => drop(lab.add_many(random.usize(1..30), "base")),
                4..=5 => {
                    for digest in present.iter().skip(1).filter(|_| random.u8(..4) == 0) {
                        remove(&lab, digest);
                    }
                }
                6 => lab.lose_the_ledger(),
                7 => {
                    let path = lab.path("state").join(FILE);
                    let older = old_ledger.take();
                    lab.reopen(|| {
                        let now = fs::read(&path).unwrap();
                        if let Some(older) = older {
                            fs::write(&path, older).unwrap();
                        }
                        old_ledger = Some(now);
                    });
                }
                8 if !present.is_empty() => {
                    // Every object that is lost and still in the repository is sent again by the next full copy.
                    let lost = &present[random.usize(..present.len())];
                    lab.store.delete(&Key::binary(lost)).await.unwrap();
                    points.insert(succeeded(&lab.copy_with(true).await), lab.expected());
                }
                choice => {
                    let run = lab.copy_with(choice == 9).await;
                    points.insert(succeeded(&run), lab.expected());
                }
            }
        }
        for (point, expected) in &points {
            assert_eq!(lab.listed(point).await, *expected, "seed {seed}: {point}");
        }
        lab.check_points().await;
    }
}

#[tokio::test]
async fn jackrabbit_records_are_in_the_point_and_a_changed_one_makes_a_new_point() {
    let mut lab = Lab::new();
    lab.layout = Layout::jackrabbit();
    lab.add_many(3, "a");
    let sha256 = Digest::of(Algorithm::Sha256, b"by its SHA-256");
    lab.write(&sha256, b"by its SHA-256");
    fs::write(lab.path("binaries/reference.key"), "key 1").unwrap();
    fs::write(lab.path("binaries/repository-1"), "").unwrap();
    let before = lab.snapshot();
    let first = succeeded(&lab.copy().await);
    assert!(lab.listed(&first).await.contains_key(&sha256));
    let records = lab.point_manifest(&first).await.records;
    assert_eq!(
        records.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(),
        ["reference.key", "repository-1"]
    );
    assert_eq!(succeeded(&lab.copy().await), first);
    fs::write(lab.path("binaries/reference.key"), "key 2").unwrap();
    let second = succeeded(&lab.copy().await);
    assert_ne!(second, first);
    assert_eq!(lab.point_manifest(&second).await.records[1], records[1], "the unchanged one lies where it lay");
    lab.check_points().await;
    succeeded(&lab.restore(&first).await);
    assert_eq!(lab.snapshot(), before);
}

#[tokio::test]
async fn a_suffix_is_no_part_of_what_a_binary_is_called() {
    let mut lab = Lab::new();
    lab.layout = Layout::custom(Algorithm::Sha1, 2, 1, ".bin").unwrap();
    let digest = lab.add(b"content");
    let before = lab.snapshot();
    let point = succeeded(&lab.copy().await);
    assert_eq!(lab.keys("binaries/").await, [Key::binary(&digest).to_string()]);
    fs::remove_dir_all(lab.path("binaries")).unwrap();
    succeeded(&lab.restore(&point).await);
    assert_eq!(lab.snapshot(), before);
}

#[tokio::test]
async fn a_store_that_is_suddenly_empty_or_of_another_layout_is_refused() {
    let lab = Lab::new();
    let all = lab.add_many(3, "a");
    let point = succeeded(&lab.copy().await);
    for digest in &all {
        remove(&lab, digest);
    }
    let run = lab.copy().await;
    assert_eq!(run.outcome, Some(Outcome::Failed));
    let error = run.error.unwrap();
    assert!(error.contains("is the volume mounted") && error.contains("--allow-empty"), "{error}");
    lab.add_many(3, "a");
    assert_eq!(succeeded(&lab.copy().await), point);

    let lab = Lab::new();
    fs::write(lab.path("binaries/README"), "").unwrap();
    let run = lab.copy().await;
    assert!(run.error.unwrap().contains("check `binaries` and `layout`"));
    let lab = Lab::new();
    let run = lab.copy().await;
    assert_eq!(lab.point_manifest(&succeeded(&run)).await.binaries, 0, "an empty store is one that is new");
}

#[tokio::test]
async fn a_store_that_was_emptied_on_purpose_is_taken_for_empty_once_somebody_says_so() {
    let mut lab = Lab::new();
    for digest in lab.add_many(3, "a") {
        lab.copy().await;
        lab.backup().await;
        remove(&lab, &digest);
    }
    for run in [lab.copy().await, lab.backup().await] {
        let error = run.error.unwrap();
        assert!(
            error.contains(&format!(
                "holdfast run {}",
                if run.job == "copy.main" { "copy.NAME" } else { "backup.main" }
            )),
            "{error}"
        );
        assert!(error.contains("--allow-empty"), "{error}");
    }
    lab.allow_empty = true;
    let point = succeeded(&lab.copy().await);
    assert_eq!(lab.point_manifest(&point).await.binaries, 0);
    let archive = succeeded(&lab.backup().await);
    assert_eq!(lab.manifest(&archive).await["binaries"], 0);
    // From then on it is the truth, and what lies at the destination is as it was.
    lab.allow_empty = false;
    assert_eq!(succeeded(&lab.copy().await), point);
    assert_eq!(lab.backup().await.outcome, Some(Outcome::Succeeded));
    assert_eq!(lab.keys("binaries/").await.len(), 3);
    lab.check_points().await;
}

// Files whose content is not their name.

#[tokio::test]
async fn sidecars_are_left_out_and_read_once() {
    let lab = Lab::new();
    let all = lab.add_many(3, "a");
    let mime = sidecar(&lab, &all[0], "-mime-type", b"text/plain; charset=utf-8");
    let text = sidecar(&lab, &all[1], "-extracted-text", b"what a long text it is");
    // A marker in the trash does not exclude: the binary may be in use all the same.
    let marker = lab.path("binaries/trash").join(Layout::modeshape().path(&all[2]));
    fs::create_dir_all(marker.parent().unwrap()).unwrap();
    fs::write(marker, "").unwrap();
    let run = lab.copy().await;
    let point = succeeded(&run);
    assert_eq!(
        (run.counts.copied, run.counts.sidecars, run.counts.orphaned_sidecars, run.counts.damaged),
        (3, 2, 0, 0)
    );
    assert_eq!(lab.listed(&point).await.into_keys().collect::<BTreeSet<_>>(), all.iter().copied().collect());
    // Whoever read them again would now find damage.
    lab.write(&mime, b"\0");
    lab.write(&text, b"\0");
    let run = lab.copy().await;
    assert_eq!((succeeded(&run), run.counts.sidecars, run.counts.requests), (point.clone(), 2, 0));
    // One that comes after its binary is known by it as well.
    sidecar(&lab, &all[2], "-extracted-text", b"this is no mime type");
    let run = lab.copy().await;
    assert_eq!((succeeded(&run), run.counts.sidecars), (point, 3));
}

#[tokio::test]
async fn an_orphaned_sidecar_is_counted_and_no_damage() {
    let lab = Lab::new();
    lab.add_many(1, "a");
    sidecar(&lab, &sha1(b"long gone"), "-mime-type", b"image/png");
    for _ in 0..2 {
        let run = lab.copy().await;
        succeeded(&run);
        assert_eq!((run.counts.orphaned_sidecars, run.counts.damaged), (1, 0));
    }
}

#[tokio::test]
async fn a_damaged_file_is_named_by_every_run_until_it_is_mended() {
    let (store, lab) = faulty_lab();
    let mut all = lab.add_many(3, "a");
    let (damaged, empty, nothing) = (sha1(b"damaged"), sha1(b"empty"), lab.add(b""));
    lab.write(&damaged, b"something else");
    lab.write(&empty, b"");
    sidecar(&lab, &damaged, "-extracted-text", b"a text of what is damaged");
    all.push(nothing);
    let run = lab.copy().await;
    let point = partial(&run);
    assert_eq!(
        (run.counts.copied, run.counts.damaged, run.counts.failed, run.counts.sidecars),
        (4, 2, 2, 1),
        "{run:?}"
    );
    assert!(names(&run, "damaged", &damaged.to_string()) && names(&run, "damaged", &empty.to_string()));
    assert_eq!(store.count("put", "binaries/").0, 4, "nothing is sent under a name that is not its own");
    assert!(!lab.point_manifest(&point).await.complete);
    let run = lab.copy().await;
    assert_eq!((partial(&run), run.counts.requests), (point.clone(), 0));
    assert!(names(&run, "damaged", &damaged.to_string()));

    all.extend([lab.add(b"damaged"), lab.add(b"empty")]);
    let run = lab.copy().await;
    let mended = succeeded(&run);
    assert_eq!(run.counts.copied, 2);
    assert!(lab.point_manifest(&mended).await.complete);
    assert_eq!(lab.listed(&mended).await.into_keys().collect::<BTreeSet<_>>(), all.into_iter().collect());
    lab.check_points().await;
}

#[tokio::test]
async fn a_copy_whose_file_is_damaged_does_not_touch_the_good_object() {
    let mut lab = Lab::new();
    let digest = lab.add(b"sound");
    succeeded(&lab.copy().await);
    lab.write(&digest, b"rotten!");
    lab.lose_the_ledger();
    // By its name alone it is the binary of the last point.
    succeeded(&lab.copy().await);
    lab.check_points().await;
}

#[tokio::test]
async fn a_file_that_may_not_be_read_is_named_and_what_cannot_be_seen_is_not_gone() {
    as_nobody(|| async {
        let lab = Lab::new();
        let all = lab.add_many(60, "a");
        let first = succeeded(&lab.copy().await);
        let closed = lab.path("binaries").join(&all[7].to_string()[..2]);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let unreadable = lab.add_many(1, "b")[0];
        fs::set_permissions(lab.binaries().path(&unreadable), fs::Permissions::from_mode(0o000)).unwrap();
        let run = lab.copy().await;
        let second = partial(&run);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!((run.counts.failed, run.counts.removed), (2, 0), "{run:?}");
        assert!(names(&run, "unreadable", &closed.display().to_string()));
        assert!(names(&run, "unreadable", &unreadable.to_string()));
        assert_eq!(lab.listed(&second).await, lab.listed(&first).await);
        fs::set_permissions(lab.binaries().path(&unreadable), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(lab.listed(&succeeded(&lab.copy().await)).await, lab.expected());
    });
}

// Files that are still being written.

#[tokio::test]
async fn a_file_that_is_completed_while_it_is_waited_for_is_copied() {
    let lab = Lab::new();
    // Before every file of the test, so that none has settled.
    lab.set_clock("2000-01-01T00:00:00Z");
    let digest = sha1(b"all of it");
    lab.write(&digest, b"all");
    let path = lab.binaries().path(&digest);
    lab.while_asleep(move || fs::write(&path, b"all of it").unwrap());
    let run = lab.copy().await;
    assert_eq!(lab.listed(&succeeded(&run)).await, lab.expected());
    assert_eq!(run.counts.copied, 1);
}

#[tokio::test]
async fn a_file_that_grows_for_ever_is_reported() {
    let lab = Lab::new();
    lab.set_clock("2000-01-01T00:00:00Z");
    let digest = sha1(b"never");
    lab.write(&digest, b"x");
    let path = lab.binaries().path(&digest);
    let mut length = 1;
    lab.while_asleep(move || {
        length += 1;
        fs::write(&path, vec![b'x'; length]).unwrap();
    });
    let run = lab.copy().await;
    partial(&run);
    assert!(names(&run, "damaged", &digest.to_string()));
}

#[tokio::test]
async fn a_file_that_vanishes_while_it_is_waited_for_is_no_loss() {
    let lab = Lab::new();
    lab.set_clock("2000-01-01T00:00:00Z");
    let digest = sha1(b"gone");
    lab.write(&digest, b"go");
    let path = lab.binaries().path(&digest);
    lab.while_asleep(move || drop(fs::remove_file(&path)));
    let run = lab.copy().await;
    succeeded(&run);
    assert_eq!((run.counts.vanished, run.counts.failed), (1, 0));
}

#[tokio::test]
async fn a_large_damaged_file_leaves_nothing_behind_and_a_sound_one_is_equal() {
    let (store, lab) = faulty_lab();
    let sound = content(1, 9 * MIB);
    let digest = lab.add(&sound);
    lab.write(&sha1(b"large"), &content(2, 17 * MIB));
    let run = lab.copy().await;
    partial(&run);
    assert!(names(&run, "damaged", &sha1(b"large").to_string()));
    assert_eq!(lab.keys("binaries/").await, [Key::binary(&digest).to_string()]);
    assert_eq!(store.inner.unfinished("").await.unwrap(), []);
    assert_eq!(store.count("begin", "binaries/").0, 2, "damage is not sent twice");
    lab.check_points().await;
}

#[tokio::test]
async fn many_large_files_and_what_was_read_ahead_do_not_wait_for_each_other() {
    let lab = Lab::new();
    for seed in 0..8 {
        lab.add(&content(seed, 8 * MIB + 1 + usize::try_from(seed).unwrap()));
    }
    lab.add(&content(9, 8 * MIB));
    for seed in 10..40 {
        lab.add(&content(seed, MIB));
    }
    let run = lab.copy().await;
    assert_eq!((succeeded(&run), run.counts.copied), (run.result.clone().unwrap(), 39));
    assert_eq!(lab.listed(&run.result.unwrap()).await, lab.expected());
}

// The ledger and the destination differ.

#[tokio::test]
async fn after_the_ledger_is_lost_nothing_is_sent_and_the_newest_point_is_the_last() {
    let (store, mut lab) = faulty_lab();
    lab.add_many(50, "a");
    lab.write_documents(&["one", "two"]);
    succeeded(&lab.copy().await);
    lab.add_many(5, "b");
    let point = succeeded(&lab.copy().await);
    let puts = store.count("put", "");
    lab.lose_the_ledger();
    let run = lab.copy().await;
    assert_eq!(succeeded(&run), point);
    assert_eq!(store.count("put", ""), puts);
    assert_eq!(lab.copy().await.counts.requests, 0, "it is learned once");
}

#[tokio::test]
async fn an_older_ledger_is_caught_up_with() {
    let mut lab = Lab::new();
    lab.add_many(30, "a");
    succeeded(&lab.copy().await);
    let path = lab.path("state").join(FILE);
    let mut older = Vec::new();
    lab.reopen(|| older = fs::read(&path).unwrap());
    let gone = lab.add_many(10, "b")[0];
    succeeded(&lab.copy().await);
    lab.reopen(|| fs::write(&path, older).unwrap());
    remove(&lab, &gone);
    let run = lab.copy().await;
    assert_eq!((run.counts.copied, run.counts.skipped), (0, 9), "they are there already");
    assert_eq!(lab.listed(&succeeded(&run)).await, lab.expected());
    lab.check_points().await;
}

#[tokio::test]
async fn objects_that_were_deleted_are_sent_again_by_a_full_copy() {
    let lab = Lab::new();
    let all = lab.add_many(20, "a");
    let point = succeeded(&lab.copy().await);
    for digest in &all[..3] {
        lab.store.delete(&Key::binary(digest)).await.unwrap();
    }
    assert_eq!(lab.copy().await.counts.requests, 0, "an ordinary copy believes the ledger");
    // One of them is gone from the repository as well, and from the new point with it.
    remove(&lab, &all[0]);
    let run = lab.copy_with(true).await;
    assert_eq!(run.counts.copied, 2, "{run:?}");
    assert!(names(&run, "missing", "test"));
    let repaired = succeeded(&run);
    assert_ne!(repaired, point);
    assert_eq!(lab.listed(&repaired).await, lab.expected());
    assert_eq!(lab.point_manifest(&repaired).await.binaries, 19);
    lab.store.delete(&Key::binary(&all[5])).await.unwrap();
    let run = lab.copy_with(true).await;
    assert_eq!((succeeded(&run), run.counts.copied), (repaired.clone(), 1), "the point is whole again");
    assert_eq!(lab.copy_with(true).await.counts.copied, 0);
}

#[tokio::test]
async fn what_a_full_copy_that_was_cut_found_lost_is_sent_by_the_next() {
    let (store, mut lab) = faulty_lab();
    let all = lab.add_many(20, "a");
    succeeded(&lab.copy().await);
    store.inner.delete(&Key::binary(&all[5])).await.unwrap();
    store.inner.delete(&Key::binary(&all[6])).await.unwrap();
    for full in [true, false] {
        store.expect(Trouble::From(if full { 4 } else { 1 }, ErrorKind::Denied));
        let run = lab.copy_with(full).await;
        assert!(store.calm());
        assert_eq!(run.outcome, Some(Outcome::Failed), "{run:?}");
    }
    lab.stop = CancellationToken::new();
    succeeded(&lab.copy().await);
    lab.check_points().await;
}

#[tokio::test]
async fn an_object_that_was_cut_short_is_named_until_it_is_taken_away() {
    let lab = Lab::new();
    let digest = lab.add(b"the whole content");
    lab.add_many(5, "a");
    succeeded(&lab.copy().await);
    replace(lab.store.as_ref(), &digest, b"the whole").await;
    let run = lab.copy_with(true).await;
    let without = partial(&run);
    assert!(names(&run, "damaged", &digest.to_string()) && names(&run, "refused", &digest.to_string()), "{run:?}");
    assert!(!lab.listed(&without).await.contains_key(&digest));
    // It is not forgotten, neither by the next nor by the next full one.
    for full in [false, true] {
        let run = lab.copy_with(full).await;
        assert_eq!(partial(&run), without);
        assert!(names(&run, "refused", &digest.to_string()));
    }
    lab.store.delete(&Key::binary(&digest)).await.unwrap();
    let run = lab.copy_with(true).await;
    assert_eq!(run.counts.copied, 1);
    assert_eq!(lab.listed(&succeeded(&run)).await, lab.expected());
    lab.check_points().await;
}

#[tokio::test]
async fn what_lies_at_the_destination_already_is_compared() {
    let lab = Lab::new();
    succeeded(&lab.copy().await);
    // The index knows neither: somebody else has put them there.
    let (same, other) = (lab.add(b"same"), lab.add(b"other"));
    put(lab.store.as_ref(), &Key::binary(&same), &b"same".to_vec().into()).await;
    put(lab.store.as_ref(), &Key::binary(&other), &b"OTHER".to_vec().into()).await;
    let run = lab.copy().await;
    let point = partial(&run);
    assert_eq!((run.counts.skipped, run.counts.failed, run.counts.copied), (1, 1, 0));
    assert!(names(&run, "refused", &other.to_string()), "the same size, another content");
    assert_eq!(lab.listed(&point).await, BTreeMap::from([(same, 4)]));
}

#[tokio::test]
async fn lists_and_points_that_are_gone_or_damaged_are_written_anew() {
    let lab = Lab::new();
    lab.add_many(40, "a");
    let first = succeeded(&lab.copy().await);
    let list = lab.point_manifest(&first).await.lists[0].key.clone();
    let whole = async |point: &str| {
        assert_eq!(lab.point_manifest(point).await.lists.len(), 1);
        assert_eq!(lab.listed(point).await, lab.expected());
    };
    // Gone.
    lab.store.delete(&list).await.unwrap();
    lab.add_many(1, "b");
    whole(&succeeded(&lab.copy().await)).await;
    // Damaged, where it would have to be taken into the new one.
    lab.add_many(2, "c");
    let second = succeeded(&lab.copy().await);
    let [_, short] = &lab.point_manifest(&second).await.lists[..] else { panic!("a short list after the long one") };
    let damaged = vec![0; usize::try_from(short.bytes).unwrap()];
    lab.store.delete(&short.key).await.unwrap();
    put(lab.store.as_ref(), &short.key, &damaged.into()).await;
    lab.add_many(3, "d");
    whole(&succeeded(&lab.copy().await)).await;
    // The point itself is gone: an earlier one that is whole serves, or none.
    for name in lab.keys("points/").await {
        lab.store.delete(&Key::parse(&name).unwrap()).await.unwrap();
    }
    let run = lab.copy_with(true).await;
    assert_eq!((run.counts.copied, run.counts.skipped), (0, 46));
    whole(&succeeded(&run)).await;
    lab.check_points().await;
}

#[tokio::test]
async fn what_points_take_over_and_is_gone_is_sent_again_by_a_full_copy() {
    let mut lab = Lab::new();
    lab.layout = Layout::jackrabbit();
    fs::write(lab.path("binaries/reference.key"), b"a key").unwrap();
    lab.add_many(5, "a");
    lab.write_documents(&["one"]);
    let mut point = succeeded(&lab.copy().await);
    for taken in ["documents_000001.bin.gz", "records/reference.key", "binaries.gz"] {
        let key = lab.keys(&format!("points/{point}/")).await.into_iter().find(|key| key.ends_with(taken));
        lab.delete_object(&key.expect(taken)).await;
        assert_eq!(succeeded(&lab.copy().await), point, "an ordinary copy believes the ledger");
        let run = lab.copy_with(true).await;
        assert_eq!(run.problems.iter().filter(|problem| problem.subject == point).count(), 1, "{run:#?}");
        let mended = succeeded(&run);
        assert_ne!(mended, point, "{taken}");
        assert_eq!((run.counts.copied, lab.verify(&mended, Depth::Whole).await.outcome), (0, Some(Outcome::Succeeded)));
        let before = lab.snapshot();
        fs::remove_dir_all(lab.path("binaries")).unwrap();
        fs::remove_dir_all(lab.path("documents")).unwrap();
        succeeded(&lab.restore(&mended).await);
        assert_eq!(lab.listed(&mended).await, lab.expected());
        assert!(lab.snapshot() == before, "{taken}");
        point = mended;
    }
}

#[tokio::test]
async fn nothing_is_put_where_the_last_point_is_not_any_more() {
    let (store, mut lab) = faulty_lab();
    lab.add_many(5, "a");
    lab.write_documents(&["one"]);
    succeeded(&lab.copy().await);
    // A disk that is not mounted looks like this, or a bucket that was made anew.
    for name in lab.keys("").await {
        lab.delete_object(&name).await;
    }
    assert_eq!(lab.copy().await.counts.requests, 0, "nothing is new");
    let puts = store.count("put", "");
    let gone = |run: Run| {
        assert_eq!(run.outcome, Some(Outcome::Failed), "{run:#?}");
        let error = run.error.unwrap();
        assert!(error.contains("mounted") && error.contains("--full"), "{error}");
    };
    lab.write_documents(&["one", "two"]);
    gone(lab.copy().await);
    lab.write_documents(&["one"]);
    let large = lab.add(&content(1, 9 * MIB));
    gone(lab.copy().await);
    remove(&lab, &large);
    remove(&lab, &lab.add_many(5, "a")[0]);
    gone(lab.copy().await);
    lab.add_many(6, "a");
    gone(lab.copy().await);
    assert_eq!((store.count("put", ""), store.inner.unfinished("").await.unwrap()), (puts, Vec::new()));
    let run = lab.copy_with(true).await;
    assert_eq!((run.counts.copied, lab.listed(&succeeded(&run)).await), (6, lab.expected()));
    lab.check_points().await;
}

#[tokio::test]
async fn what_came_out_damaged_is_not_taken_for_sound_by_the_next_run() {
    let server = Server::start(Options { checksums: Checking::Ignore, ..Options::default() });
    let capabilities = Capabilities { verifies_sha1: false, verifies_parts: false, ..Capabilities::ALL };
    let lab = Lab::with_store(Arc::new(connect(&server, "vault", capabilities).await));
    let (small, large) = (content(1, 1000), content(2, 9 * MIB));
    let sound = [lab.add(&small), lab.add(&large)];
    server.fault(Fault::at("GetObject", Effect::WrongContent).below("vault/binaries/"));
    let first = lab.copy().await;
    server.clear_faults();
    // What was read back is what lies there.
    for digest in &sound {
        let bytes = usize::try_from(lab.store.head(&Key::binary(digest)).await.unwrap().bytes).unwrap();
        replace(lab.store.as_ref(), digest, &vec![0; bytes]).await;
    }
    for run in [first, lab.copy().await, lab.copy().await] {
        let point = partial(&run);
        assert_eq!((run.counts.failed, lab.listed(&point).await), (2, BTreeMap::new()), "{run:#?}");
        assert!(sound.iter().all(|digest| names(&run, "refused", &digest.to_string())), "{run:#?}");
    }
    for digest in &sound {
        lab.store.delete(&Key::binary(digest)).await.unwrap();
    }
    assert_eq!(lab.listed(&succeeded(&lab.copy().await)).await, lab.expected());
}

// Trouble with the destination.

/// A repository with everything in it that a copy sends: documents, small and large binaries, changes and removals.
async fn trouble_lab() -> (Arc<Faulty>, Lab) {
    let (store, mut lab) = faulty_lab();
    lab.write_documents(&["one"]);
    let first = lab.add_many(12, "a");
    succeeded(&lab.copy().await);
    remove(&lab, &first[0]);
    lab.add_many(10, "b");
    lab.add(&content(1, 8 * MIB + 100));
    lab.write_documents(&["one", "two"]);
    (store, lab)
}

/// After whatever happened: every point is whole, the next run succeeds, and nothing is left over.
async fn recovers(store: &Faulty, lab: &mut Lab, told: &str) {
    lab.stop = CancellationToken::new();
    lab.check_points().await;
    let run = lab.copy().await;
    assert_eq!(run.outcome, Some(Outcome::Succeeded), "{told}: {run:#?}");
    assert_eq!(lab.listed(&run.result.clone().unwrap()).await, lab.expected(), "{told}");
    assert_eq!(store.inner.unfinished("").await.unwrap(), [], "{told}");
    lab.check_points().await;
    assert_eq!(lab.copy().await.counts.requests, 0, "{told}");
}

#[tokio::test]
async fn a_copy_that_fails_at_any_request_is_made_good_by_the_next() {
    type Make = fn(u64) -> Trouble;
    let troubles: [(&str, Make); 4] = [
        ("one fails", |n| Trouble::Only(n, ErrorKind::Other)),
        ("all fail from", |n| Trouble::From(n, ErrorKind::Denied)),
        ("an answer is lost", |n| Trouble::Answer(n, ErrorKind::Other)),
        ("a corrupt one", |n| Trouble::Only(n, ErrorKind::Corrupt)),
    ];
    for (told, trouble) in troubles {
        for n in 1.. {
            let (store, mut lab) = trouble_lab().await;
            store.expect(trouble(n));
            let run = lab.copy().await;
            if !store.calm() {
                succeeded(&run);
                assert!(n > 15, "{told}: only {n} requests");
                break;
            }
            let told = format!("{told} {n}");
            if matches!(trouble(n), Trouble::From(..)) {
                assert_eq!(run.outcome, Some(Outcome::Failed), "{told}: {run:?}");
                assert!(run.error.as_ref().unwrap().contains("told to fail"), "{told}: {run:?}");
                assert_eq!(run.counts.retries, 0, "{told}");
            }
            recovers(&store, &mut lab, &told).await;
            if n == 7 {
                let (before, point) = (lab.snapshot(), lab.copy().await.result.unwrap());
                fs::remove_dir_all(lab.path("binaries")).unwrap();
                succeeded(&lab.restore(&point).await);
                assert_eq!(lab.snapshot(), before, "{told}");
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_fails_once_is_tried_again_and_nothing_else_happens() {
    for n in 1.. {
        let (store, lab) = trouble_lab().await;
        store.expect(Trouble::Only(n, ErrorKind::Unavailable));
        let run = lab.copy().await;
        assert_eq!(run.outcome, Some(Outcome::Succeeded), "{n}: {run:#?}");
        if !store.calm() {
            break;
        }
        assert_eq!(run.counts.retries, 1, "{n}");
        assert_eq!(lab.listed(&run.result.unwrap()).await, lab.expected());
    }
}

#[tokio::test]
async fn a_copy_that_is_told_to_stop_at_any_request_ends_cancelled_and_sends_nothing_twice() {
    for n in 1.. {
        let (store, mut lab) = trouble_lab().await;
        store.expect(Trouble::Stop(n, lab.stop.clone()));
        let run = lab.copy().await;
        if !store.calm() {
            succeeded(&run);
            assert!(n > 15);
            break;
        }
        // Once the manifest is there, there is nothing left to stop.
        let made = run.outcome == Some(Outcome::Succeeded) && store.count("put", "points/").0 == 3;
        assert!(made || run.outcome == Some(Outcome::Cancelled), "{n}: {run:#?}");
        assert_eq!(run.error, None);
        recovers(&store, &mut lab, &format!("stopped at {n}")).await;
        assert_eq!(store.count("put", "binaries/").0, 10, "stopped at {n}");
        assert!(store.count("part", "binaries/").0 <= 4, "stopped at {n}");
    }
}

#[tokio::test]
async fn a_stop_while_the_destination_is_out_of_reach_is_no_failure() {
    let (store, lab) = faulty_lab();
    lab.add_many(3, "a");
    store.expect(Trouble::From(3, ErrorKind::Unavailable));
    lab.stop.cancel();
    assert_eq!(lab.copy().await.outcome, Some(Outcome::Cancelled));
}

#[tokio::test]
async fn what_is_denied_ends_the_run_at_once() {
    let (store, lab) = faulty_lab();
    lab.add_many(100, "a");
    store.expect(Trouble::From(1, ErrorKind::Denied));
    let run = lab.copy().await;
    assert_eq!((run.outcome, run.counts.retries), (Some(Outcome::Failed), 0));
    assert!(run.counts.requests < 20, "{run:?}");
    assert!(run.error.unwrap().contains("told to fail"));
}

#[tokio::test]
async fn after_a_cut_among_sidecars_nothing_is_sent_twice() {
    let (store, lab) = faulty_lab();
    for digest in lab.add_many(60, "a") {
        sidecar(&lab, &digest, "-mime-type", b"text/plain");
    }
    store.expect(Trouble::Only(40, ErrorKind::Other));
    assert_eq!(lab.copy().await.outcome, Some(Outcome::Failed));
    assert!(store.calm());
    let run = lab.copy().await;
    succeeded(&run);
    // The one that failed, and those that were under way with it.
    let (puts, _) = store.count("put", "binaries/");
    assert!((60..=60 + 8).contains(&puts), "{puts}");
    assert_eq!(run.counts.sidecars, 60);
}

#[tokio::test]
async fn uploads_of_a_backup_under_way_are_left_alone() {
    use holdfast::model::run::{Kind, Trigger};
    let (store, lab) = faulty_lab();
    lab.add_many(3, "a");
    let key = Key::parse("archives/BackupDaemonJob1-0.zip").unwrap();
    let destination = lab.runner.ledger.destination("memory:").unwrap();
    let begun = "2100-01-01T00:00:00Z".parse().unwrap();
    let backup = lab.runner.ledger.add_run("backup.main", Kind::Backup, Trigger::Request, None, begun).unwrap();
    lab.runner.ledger.begin_upload(destination, &key, backup).unwrap();
    let theirs = store.inner.begin(&key).await.unwrap();
    let left_over = store.inner.begin(&Key::parse("archives/left-over.zip").unwrap()).await.unwrap();
    succeeded(&lab.copy().await);
    assert_eq!(store.inner.unfinished("").await.unwrap(), [theirs.unfinished()]);
    drop(left_over);
    // The backup was killed.
    lab.runner.ledger.interrupt_open_runs(begun).unwrap();
    succeeded(&lab.copy().await);
    assert_eq!(store.inner.unfinished("").await.unwrap(), []);
}

// A full disk below the ledger.

#[tokio::test]
async fn a_full_disk_below_the_ledger_fails_the_run_and_costs_nothing_afterwards() {
    if !in_own_mounts("copy::a_full_disk_below_the_ledger_fails_the_run_and_costs_nothing_afterwards") {
        return;
    }
    let mount = |directory: &Path| mount_memory("4m", &directory.join("state"));
    let store = Faulty::new();
    let mut lab = Lab::prepared(Arc::clone(&store) as Arc<dyn ObjectStore>, mount);
    lab.add_many(20, "before");
    succeeded(&lab.copy().await);
    lab.add_many(1500, "a");
    let (before, _) = store.count("put", "binaries/");
    let filler = lab.path("state/filler");
    // Room to begin, and not to end.
    let free = rustix::fs::statvfs(lab.path("state")).map(|found| found.f_bavail * found.f_frsize).unwrap();
    fs::write(&filler, vec![0; usize::try_from(free).unwrap() - 150_000]).unwrap();
    let error = match lab.try_copy(false).await {
        Ok(run) => run.error.expect("the disk is full"),
        Err(error) => format!("{error:#}"),
    };
    assert!(error.contains("full"), "{error}");
    fs::remove_file(filler).unwrap();
    lab.reopen(|| {});
    lab.runner.ledger.interrupt_open_runs("2100-01-01T00:00:00Z".parse().unwrap()).unwrap();
    let run = lab.copy().await;
    assert_eq!(lab.listed(&succeeded(&run)).await, lab.expected());
    let (after, _) = store.count("put", "binaries/");
    // Those that were under way when the run ended may be sent again, and are found to be there.
    assert!((1500..=1500 + 8).contains(&(after - before)), "{}", after - before);
    lab.check_points().await;
    drop(StateLock::take(&lab.path("state"), "second").unwrap_err());
}

// Over the network.

async fn s3_lab() -> (Server, Lab) {
    let server = Server::start(Options::default());
    let store = connect(&server, "vault", Capabilities::ALL).await;
    (server, Lab::with_store(Arc::new(store)))
}

#[tokio::test]
async fn over_s3_a_first_copy_is_a_put_each_and_one_with_nothing_new_is_silent() {
    let (server, mut lab) = s3_lab().await;
    lab.write_documents(&["one"]);
    let all = lab.add_many(50, "a");
    let before = lab.snapshot();
    let point = succeeded(&lab.copy().await);
    // Documents, list and manifest besides.
    assert_eq!(server.count("PutObject"), 53);
    let others = server.requests().iter().filter(|request| request.operation != "PutObject").count();
    assert!(others <= 4, "{:?}", server.counts());
    for digest in &all {
        let found = lab.store.head(&Key::binary(digest)).await.unwrap();
        assert_eq!(found.digest, Some(*digest), "the put carried its checksum, which was checked");
    }
    server.clear_log();
    assert_eq!(succeeded(&lab.copy().await), point);
    assert_eq!(server.requests(), []);
    fs::remove_dir_all(lab.path("binaries")).unwrap();
    succeeded(&lab.restore(&point).await);
    assert_eq!(lab.snapshot(), before);
}

#[tokio::test]
async fn over_s3_what_lies_there_is_never_overwritten() {
    let (server, lab) = s3_lab().await;
    succeeded(&lab.copy().await);
    let digest = lab.add(b"ours");
    put(lab.store.as_ref(), &Key::binary(&digest), &b"theirs".to_vec().into()).await;
    let run = lab.copy().await;
    partial(&run);
    assert!(names(&run, "refused", &digest.to_string()));
    assert_eq!(server.object(&format!("vault/{}", Key::binary(&digest))).unwrap(), "theirs");
}

#[tokio::test]
async fn over_s3_a_busy_server_and_lost_answers_are_ridden_out() {
    let faults = [
        Fault::anywhere(Effect::Status(503, "SlowDown")).when(When::Half { seed: 3 }),
        Fault::anywhere(Effect::LoseAnswer).when(When::Every(3)),
        // The first upload was begun, and nobody was told its id.
        Fault::at("CreateMultipartUpload", Effect::LoseAnswer).when(When::Only(1)),
    ];
    for fault in faults {
        let (server, lab) = s3_lab().await;
        lab.add_many(60, "a");
        lab.add(&content(1, 17 * MIB));
        server.fault(fault);
        let run = lab.copy().await;
        let point = succeeded(&run);
        assert!(run.counts.retries > 0);
        server.clear_faults();
        assert_eq!(lab.listed(&point).await, lab.expected());
        // An upload whose name we were not told has no parts, and could be somebody else's. The next run looks at how old
        // it is; by the clock of the test it is old.
        let unnamed = server.uploads().len() as u64;
        assert!(unnamed == 0 || run.counts.retries >= unnamed);
        lab.check_points().await;
        assert_eq!(lab.copy().await.counts.requests, if unnamed == 0 { 0 } else { 1 + unnamed });
        assert_eq!(server.uploads(), []);
        assert_eq!(lab.copy().await.counts.requests, 0);
    }
}

#[tokio::test]
async fn over_s3_a_lost_upload_that_cannot_be_listed_stops_nothing() {
    let server = Server::start(Options { no_list_uploads: true, ..Options::default() });
    let lab = Lab::with_store(Arc::new(connect(&server, "vault", Capabilities::ALL).await));
    lab.add(&content(1, 17 * MIB));
    server.fault(Fault::at("CreateMultipartUpload", Effect::LoseAnswer).when(When::Only(1)));
    succeeded(&lab.copy().await);
    assert_eq!(server.uploads().len(), 1, "nobody was told its name");
    lab.add_many(3, "a");
    let run = lab.copy().await;
    succeeded(&run);
    assert!(names(&run, "upload", "binaries/"), "{run:#?}");
    assert_eq!(lab.copy().await.counts.requests, 0, "it is said once");
}
