//! Backups: what lies in the archive, what is left out and said, and how a run goes on where another was cut.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use holdfast::jobs::verify::Depth;
use holdfast::ledger::ArchiveUnderWay;
use holdfast::model::digest::Digest;
use holdfast::model::layout::Layout;
use holdfast::model::run::{Outcome, Run};
use holdfast::store::memory::MemoryStore;
use holdfast::store::{ErrorKind, ObjectStore};
use tokio_util::sync::CancellationToken;

use super::broken_store::{BrokenStore, Effect};
use super::lab::{Lab, files_below, noise, sha1};

const SUCCEEDED: Option<Outcome> = Some(Outcome::Succeeded);
const PARTIAL: Option<Outcome> = Some(Outcome::Partial);
const FAILED: Option<Outcome> = Some(Outcome::Failed);

/// Whether a program of the system is there; says so if not.
fn there_is(program: &str) -> bool {
    let there = Command::new(program).arg("--help").output().is_ok();
    if !there {
        eprintln!("skipped: there is no {program}");
    }
    there
}

fn check(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Unpacks all volumes into one directory, as somebody without Holdfast would.
async fn unzip(lab: &Lab, name: &str) -> PathBuf {
    let directory = lab.path("unzipped");
    for key in lab.keys("archives/").await.iter().filter(|key| key.ends_with(".zip")) {
        let file = lab.path(key.rsplit('/').next().unwrap());
        std::fs::write(&file, lab.object(key).await).unwrap();
        assert!(key.contains(name.strip_suffix(".zip").unwrap()), "{key} is of another archive");
        check(Command::new("unzip").arg("-tq").arg(&file));
        check(Command::new("unzip").arg("-qn").arg(&file).arg("-d").arg(&directory));
    }
    directory
}

/// Looks at an unpacked archive with the usual tools: how many binaries and documents it holds.
fn check_by_hand(directory: &Path) -> (usize, usize) {
    let (mut binaries, mut documents) = (0, 0);
    for path in files_below(directory).into_keys() {
        let (text, whole) = (path.to_str().unwrap(), directory.join(&path));
        if let Some(digest) = text.rsplit('/').next().unwrap().strip_suffix(".bin") {
            assert_eq!(text, format!("binaries/{}/{}/{}/{digest}.bin", &digest[..2], &digest[2..4], &digest[4..6]));
            assert!(check(Command::new("sha1sum").arg(&whole)).starts_with(digest), "{text}");
            binaries += 1;
        } else if text.starts_with("documents_") {
            check(Command::new("gzip").arg("-t").arg(&whole));
            documents += check(Command::new("gzip").arg("-dc").arg(&whole)).lines().count();
        }
    }
    let summary = std::fs::read(directory.join("changes/summary_of_changes.json")).unwrap();
    assert_eq!(summary, b"{ \"unusedBinaryKeys\" : [ ] }");
    (binaries, documents)
}

#[tokio::test]
async fn an_archive_unzips_to_a_modeshape_backup_directory() {
    let mut lab = Lab::new();
    lab.write_documents(&["one", "two", "three"]);
    lab.add_many(20, "a");
    lab.add(&noise(1, 10_000));
    lab.add(&vec![b'a'; 5 << 20]);
    lab.add(&noise(2, 5 << 20));
    let run = lab.backup().await;
    assert_eq!((run.outcome, run.counts.copied), (SUCCEEDED, 23), "{run:?}");
    if there_is("unzip") {
        let directory = unzip(&lab, &run.result.unwrap()).await;
        assert_eq!(check_by_hand(&directory), (23, 3));
        assert!(directory.join("documents_000001.bin.gz").is_file());
    }
}

#[tokio::test]
async fn several_volumes_unzip_into_one_directory_and_each_is_whole_by_itself() {
    let mut lab = Lab::new();
    lab.volume_bytes = 6_000;
    lab.write_documents(&["one", "two"]);
    lab.add_many(100, "a");
    lab.add(&noise(1, 60_000));
    let run = lab.backup().await;
    let name = run.result.clone().unwrap();
    let volumes = lab.manifest(&name).await["volumes"].as_array().unwrap().clone();
    assert!(volumes.len() > 4, "{volumes:?}");
    let largest = volumes.iter().map(|volume| volume["bytes"].as_u64().unwrap()).max();
    assert!(largest > Some(60_000), "the large binary has a volume to itself");
    let binaries: u64 = volumes.iter().map(|volume| volume["binaries"].as_u64().unwrap()).sum();
    assert_eq!((run.outcome, binaries), (SUCCEEDED, 101), "{run:?}");
    if there_is("unzip") {
        assert_eq!(check_by_hand(&unzip(&lab, &name).await), (101, 2));
    }
}

async fn archive_bytes(lab: &Lab) -> u64 {
    let name = lab.backup().await.result.unwrap();
    lab.manifest(&name).await["volumes"][0]["bytes"].as_u64().unwrap()
}

#[tokio::test]
async fn what_does_not_shrink_is_stored_and_text_is_deflated() {
    for large in [false, true] {
        let len = if large { 5 << 20 } else { 10_000 };
        let (noisy, text) = (Lab::new(), Lab::new());
        noisy.add(&noise(1, len));
        text.add(&b"all work and no play makes jack a dull boy. ".repeat(len / 44));
        let (noisy, text) = (archive_bytes(&noisy).await, archive_bytes(&text).await);
        assert!(noisy > len as u64 && noisy < len as u64 + 1000, "{noisy}");
        assert!(text < len as u64 / 10, "{text}");
    }
}

#[tokio::test]
async fn progress_knows_its_total_and_reaches_it() {
    let lab = Lab::new();
    lab.add_many(50, "a");
    lab.add(&noise(1, 5 << 20));
    let damaged = sha1(b"what it was");
    lab.write(&damaged, b"what it is");
    let run = lab.backup().await;
    assert!(run.progress.total > Some(5 << 20), "{run:?}");
    assert_eq!(Some(run.progress.current), run.progress.total, "{run:?}");
}

#[tokio::test]
async fn the_size_of_what_the_last_restore_point_has_is_not_asked_of_the_disk() {
    let lab = Lab::new();
    // More than a page of members, which has gaps and holds what the store does not.
    let binaries = lab.add_many(9_000, "a");
    assert_eq!(lab.copy().await.outcome, SUCCEEDED);
    let is_gone = |digest: &&Digest| (b'a'..b'c').contains(&digest.to_string().as_bytes()[0]);
    binaries.iter().filter(is_gone).for_each(|digest| std::fs::remove_file(lab.binaries().path(digest)).unwrap());
    // A size that no file has shows whose word it was.
    let change =
        "UPDATE members SET size = 7; DELETE FROM members WHERE digest BETWEEN x'40' AND x'80' OR digest > x'f0'";
    rusqlite::Connection::open(lab.path("state/ledger.db")).unwrap().execute_batch(change).unwrap();
    let expected = lab.snapshot().into_iter().map(|(path, content)| match path.to_str().unwrap().as_bytes()[0] {
        b'4'..b'8' | b'f' => content.len() as u64,
        _ => 7,
    });
    let run = lab.backup().await;
    assert_eq!((run.outcome, run.counts.vanished), (SUCCEEDED, 0), "{run:?}");
    assert_eq!(run.progress.total, Some(expected.sum()), "{run:?}");
}

#[tokio::test]
async fn sizes_in_the_ledger_that_cannot_be_do_no_harm() {
    let lab = Lab::new();
    lab.add_many(50, "a");
    assert_eq!(lab.copy().await.outcome, SUCCEEDED);
    let ledger = rusqlite::Connection::open(lab.path("state/ledger.db")).unwrap();
    ledger.execute("UPDATE members SET size = 9223372036854775807", []).unwrap();
    let run = lab.backup().await;
    assert_eq!((run.outcome, run.counts.copied), (SUCCEEDED, 50), "{run:?}");
    assert_eq!(lab.verify(&run.result.unwrap(), Depth::Whole).await.outcome, SUCCEEDED);
}

#[tokio::test]
async fn a_damaged_binary_is_named_and_left_out_and_the_archive_says_that_it_is_not_complete() {
    let lab = Lab::new();
    lab.add_many(10, "a");
    let damaged = [sha1(b"what it was"), sha1(&noise(1, 5 << 20))];
    lab.write(&damaged[0], b"what it is");
    lab.write(&damaged[1], &noise(2, 5 << 20));
    let run = lab.backup().await;
    assert_eq!((run.outcome, run.counts.copied, run.counts.damaged), (PARTIAL, 10, 2), "{run:?}");
    assert!(damaged.iter().all(|digest| names(&run, digest)), "{run:?}");
    let name = run.result.unwrap();
    assert_eq!(lab.manifest(&name).await["complete"], false);
    std::fs::remove_dir_all(lab.path("binaries")).unwrap();
    assert_eq!(lab.restore(&name).await.outcome, SUCCEEDED);
    assert_eq!(lab.snapshot().len(), 10);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named_and_makes_the_run_partial() {
    let mut lab = Lab::new();
    lab.wait_for_files();
    lab.add_many(10, "a");
    let digest = sha1(b"unreadable");
    lab.write(&digest, b"so it is looked at twice");
    lab.while_asleep({
        let path = lab.binaries().path(&digest);
        move || {
            // Not even root can read a directory as a file.
            drop(std::fs::remove_file(&path));
            drop(std::fs::create_dir(&path));
        }
    });
    let run = lab.backup().await;
    assert_eq!((run.outcome, run.counts.copied, run.counts.failed), (PARTIAL, 10, 1), "{run:?}");
    assert!(names(&run, &digest), "{run:?}");
    assert_eq!(lab.manifest(&run.result.unwrap()).await["complete"], false);
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_looked_at_again_and_one_that_vanishes_is_no_loss() {
    let mut lab = Lab::new();
    lab.wait_for_files();
    lab.add_many(10, "a");
    let (settling, vanishing) = (sha1(b"whole at last"), sha1(b"gone"));
    lab.write(&settling, b"whole");
    lab.write(&vanishing, b"go");
    lab.while_asleep({
        let (settles, vanishes) = (lab.binaries().path(&settling), lab.binaries().path(&vanishing));
        move || {
            std::fs::write(&settles, b"whole at last").unwrap();
            drop(std::fs::remove_file(&vanishes));
        }
    });
    let run = lab.backup().await;
    assert_eq!((run.outcome, run.counts.copied, run.counts.vanished), (SUCCEEDED, 11, 1), "{run:?}");
    assert_eq!(lab.manifest(&run.result.unwrap()).await["complete"], true);
}

#[tokio::test]
async fn sidecars_are_left_out_and_known_the_next_time() {
    let lab = Lab::new();
    let binary = lab.add(b"a picture");
    for sidecar in lab.layout.sidecars_of(&binary).unwrap() {
        lab.write(&sidecar, b"neither a mime type nor damage");
    }
    lab.write(&sha1(b"whose binary is gone"), b"image/png");
    for _ in 0..2 {
        let run = lab.backup().await;
        assert_eq!((run.outcome, run.counts.copied), (SUCCEEDED, 1), "{run:?}");
        assert_eq!((run.counts.sidecars, run.counts.orphaned_sidecars), (2, 1), "{run:?}");
    }
}

#[tokio::test]
async fn the_records_of_jackrabbit_are_in_the_archive() {
    let mut lab = Lab::new();
    lab.layout = Layout::jackrabbit();
    lab.add_many(10, "a");
    std::fs::write(lab.path("binaries/reference.key"), b"key").unwrap();
    let run = lab.backup().await;
    let manifest = lab.manifest(&run.result.clone().unwrap()).await;
    assert_eq!(manifest["records"][0]["name"], "reference.key", "{run:?}");
    if there_is("unzip") {
        let directory = unzip(&lab, &run.result.unwrap()).await;
        assert_eq!(std::fs::read(directory.join("records/reference.key")).unwrap(), b"key");
    }
}

#[tokio::test]
async fn an_empty_store_is_backed_up_but_not_one_that_became_empty_or_holds_foreign_files_only() {
    let lab = Lab::new();
    let run = lab.backup().await;
    assert_eq!((run.outcome, run.counts.copied), (SUCCEEDED, 0), "{run:?}");
    std::fs::write(lab.path("binaries/README"), b"x").unwrap();
    let run = lab.backup().await;
    assert_eq!(run.outcome, FAILED, "{run:?}");
    assert!(run.error.unwrap().contains("layout"));

    let lab = Lab::new();
    let digest = lab.add(b"x");
    assert_eq!(lab.backup().await.outcome, SUCCEEDED);
    std::fs::remove_file(lab.binaries().path(&digest)).unwrap();
    let run = lab.backup().await;
    assert_eq!(run.outcome, FAILED, "{run:?}");
    assert!(run.error.unwrap().contains("mounted"));
}

#[tokio::test]
async fn however_often_it_is_found_empty_a_store_that_held_binaries_is_not_believed() {
    let lab = Lab::new();
    let digest = lab.add(b"x");
    assert_eq!(lab.backup().await.outcome, SUCCEEDED);
    std::fs::remove_file(lab.binaries().path(&digest)).unwrap();
    for _ in 0..60 {
        assert_eq!(lab.backup().await.outcome, FAILED);
    }
    // Nor once they are all that is left of the history.
    lab.runner.ledger.forget_runs("2200-01-01T00:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(lab.backup().await.outcome, FAILED);
}

/// Documents of which each fills a file of its own, and so a volume.
fn write_large_documents(lab: &mut Lab, count: u64) {
    const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-";
    let large = |number: u64| {
        let text: String =
            noise(number, 7 << 20).iter().map(|byte| char::from(DIGITS[usize::from(byte & 63)])).collect();
        format!("{{ \"metadata\" : {{ \"id\" : \"large-{number}\" }} , \"content\" : {{ \"x\" : \"{text}\" }} }}\n")
    };
    let lines: String = (0..count).map(large).collect();
    std::fs::write(lab.path("documents/documents_000001.bin"), lines).unwrap();
    lab.with_documents = true;
}

#[tokio::test]
async fn documents_that_change_while_they_are_read_give_no_archive_without_them() {
    let (mut lab, broken) = repository(false);
    write_large_documents(&mut lab, 5);
    let added = lab.path("documents/documents_000002.bin");
    // The reader is two files ahead of the writer at most, so it has not come to the end by then.
    let happens =
        move || std::fs::write(&added, "{ \"metadata\" : { \"id\" : \"x\" } , \"content\" : { } }\n").unwrap();
    broken.breaks_at("put archives/", 0, Effect::Happens(Box::new(happens)));
    let run = lab.backup().await;
    assert_eq!(run.outcome, FAILED, "{run:?}");
    assert!(run.error.unwrap().contains("changed"));
    let keys = lab.keys("archives/").await;
    assert!(!keys.is_empty() && keys.iter().all(|key| key.ends_with(".zip")), "{keys:?}");
    assert!(broken.heal());
    let run = lab.backup().await;
    assert_eq!((run.outcome, documents_of(&lab, &run).await), (SUCCEEDED, 6), "{run:?}");
}

#[tokio::test]
async fn documents_that_cannot_be_read_give_no_archive() {
    let mut lab = Lab::new();
    lab.volume_bytes = 6_000;
    lab.write_documents(&["one"]);
    lab.add_many(300, "a");
    std::fs::remove_file(lab.path("documents/documents_000001.bin")).unwrap();
    let run = lab.backup().await;
    assert_eq!(run.outcome, FAILED, "{run:?}");
    assert!(run.error.unwrap().contains("documents"));
    assert!(lab.keys("archives/").await.is_empty());
}

/// A repository whose archive has several small volumes, each one put, or two large ones in parts.
fn repository(large: bool) -> (Lab, Arc<BrokenStore>) {
    let broken = BrokenStore::new(Arc::new(MemoryStore::new("memory:")));
    let mut lab = Lab::with_store(Arc::clone(&broken) as Arc<dyn ObjectStore>);
    lab.write_documents(&["one", "two"]);
    if large {
        lab.volume_bytes = 10 << 20;
        for seed in 0..3 {
            lab.add(&noise(seed, 9 << 20));
        }
    } else {
        lab.volume_bytes = 6_000;
        lab.add_many(100, "a");
    }
    (lab, broken)
}

async fn documents_of(lab: &Lab, run: &Run) -> u64 {
    lab.manifest(run.result.as_ref().unwrap()).await["documents"]["count"].as_u64().unwrap()
}

fn names(run: &Run, digest: &Digest) -> bool {
    run.problems.iter().any(|problem| problem.subject.contains(&digest.to_string()))
}

/// The run after one that was cut succeeds, with nothing sent twice but at most one volume, and nothing left over.
async fn the_next_run_ends_it(lab: &Lab, broken: &BrokenStore, sent_before: u64, what: &str) {
    let before = lab.keys("archives/").await;
    let run = lab.backup().await;
    let sent = broken.take_sent_bytes();
    assert_eq!(run.outcome, SUCCEEDED, "{what}: {run:?}");
    let name = run.result.clone().unwrap();
    let manifest = lab.manifest(&name).await;
    assert_eq!(manifest["complete"], true, "{what}");
    let volumes = manifest["volumes"].as_array().unwrap();
    let mut keys: Vec<String> = volumes.iter().map(|volume| volume["key"].as_str().unwrap().to_owned()).collect();
    assert!(before.iter().all(|key| keys.contains(key) || key.ends_with(".json")), "{what}: {before:?} {keys:?}");
    keys.push(super::lab::manifest_key(&name));
    keys.sort();
    assert_eq!(lab.keys("archives/").await, keys, "{what}");
    let sizes = volumes.iter().map(|volume| volume["bytes"].as_u64().unwrap());
    let (whole, largest) = (sizes.clone().sum::<u64>(), sizes.max().unwrap());
    assert!(sent_before + sent <= whole + largest + 20_000, "{what}: {sent_before} + {sent} of {whole}");
    assert!(lab.store.unfinished("").await.unwrap().is_empty(), "{what}");

    let all = lab.snapshot();
    std::fs::remove_dir_all(lab.path("binaries")).unwrap();
    std::fs::remove_file(lab.path("documents/documents_000001.bin")).unwrap();
    let run = lab.restore(&name).await;
    assert_eq!(run.outcome, SUCCEEDED, "{what}: {run:?}");
    assert!(lab.snapshot() == all, "{what}");
    assert_eq!(lab.document_ids(), ["one", "two"], "{what}");
}

async fn after_every_request(large: bool, what: &str, mut effect: impl FnMut(&Lab) -> Effect, outcome: Outcome) {
    for skip in 0.. {
        let (mut lab, broken) = repository(large);
        broken.breaks_at("", skip, effect(&lab));
        let run = lab.backup().await;
        let what = format!("{what} at request {skip}");
        if !broken.heal() {
            assert!(run.outcome == SUCCEEDED && skip > 3, "{what}: {run:?}");
            return;
        }
        let sent = broken.take_sent_bytes();
        if lab.stop.is_cancelled() {
            lab.stop = CancellationToken::new();
            // The manifest is the last request: there was nothing left to stop.
            if run.outcome == SUCCEEDED {
                continue;
            }
        }
        assert_eq!(run.outcome, Some(outcome), "{what}: {run:?}");
        the_next_run_ends_it(&lab, &broken, sent, &what).await;
    }
}

#[tokio::test]
async fn a_backup_goes_on_after_a_failure_at_any_request() {
    after_every_request(false, "fails", |_| Effect::FailsOnce(ErrorKind::Other), Outcome::Failed).await;
    after_every_request(true, "fails", |_| Effect::FailsOnce(ErrorKind::Other), Outcome::Failed).await;
}

#[tokio::test]
async fn a_backup_goes_on_after_the_destination_was_gone_from_any_request_on() {
    let effect = |_: &Lab| Effect::FailsFromThenOn(ErrorKind::Unavailable);
    after_every_request(false, "is gone", effect, Outcome::Failed).await;
    after_every_request(true, "is gone", effect, Outcome::Failed).await;
}

#[tokio::test]
async fn a_backup_goes_on_after_the_answer_to_any_request_was_lost() {
    let effect = |_: &Lab| Effect::AnswerIsLost(ErrorKind::Other);
    after_every_request(false, "loses the answer", effect, Outcome::Failed).await;
    after_every_request(true, "loses the answer", effect, Outcome::Failed).await;
}

#[tokio::test]
async fn a_backup_goes_on_after_it_was_cancelled_at_any_request() {
    let effect = |lab: &Lab| {
        let stop = lab.stop.clone();
        Effect::Happens(Box::new(move || stop.cancel()))
    };
    after_every_request(false, "is cancelled", effect, Outcome::Cancelled).await;
    after_every_request(true, "is cancelled", effect, Outcome::Cancelled).await;
}

/// Runs a backup that fails when it puts its third volume, and gives what the ledger has of it.
async fn cut_at_the_third_volume(lab: &Lab, broken: &BrokenStore) -> ArchiveUnderWay {
    broken.breaks_at("put archives/", 2, Effect::FailsOnce(ErrorKind::Other));
    assert_eq!(lab.backup().await.outcome, FAILED);
    assert!(broken.heal());
    broken.take_sent_bytes();
    under_way(lab)
}

fn under_way(lab: &Lab) -> ArchiveUnderWay {
    let id = lab.runner.ledger.destination(lab.store.place()).unwrap();
    lab.runner.ledger.archive_under_way("backup.main", id).unwrap().unwrap()
}

#[tokio::test]
async fn a_backup_whose_volumes_were_taken_away_meanwhile_is_begun_anew() {
    for number in [0, 1] {
        let (lab, broken) = repository(false);
        let archive = cut_at_the_third_volume(&lab, &broken).await;
        lab.delete_object(archive.volumes[number].volume.key.as_str()).await;
        let run = lab.backup().await;
        assert_eq!((run.outcome, run.counts.copied), (SUCCEEDED, 100), "{run:?}");
        assert_eq!(documents_of(&lab, &run).await, 2);
        assert_ne!(run.result, Some(format!("{}.zip", archive.name)));
    }
}

#[tokio::test]
async fn a_backup_goes_on_with_a_volume_that_was_complete_when_the_crash_came() {
    for lost in [false, true] {
        let (lab, broken) = repository(false);
        let mut archive = cut_at_the_third_volume(&lab, &broken).await;
        // As it was before the second volume was recorded as complete.
        archive.completing = archive.volumes.pop();
        let id = lab.runner.ledger.destination(lab.store.place()).unwrap();
        lab.runner.ledger.record_archive("backup.main", id, &archive).unwrap();
        let second = archive.completing.unwrap().volume;
        let sent_before = archive.volumes[0].volume.bytes + second.bytes;
        if lost {
            lab.delete_object(second.key.as_str()).await;
        }
        let before = lab.snapshot();
        the_next_run_ends_it(&lab, &broken, sent_before, "a crash").await;
        assert_eq!(lab.snapshot(), before);
    }
}

/// The documents of an archive were once taken from its state, which had those of a volume that never came to be.
#[tokio::test]
async fn documents_of_a_volume_that_never_came_to_be_are_written_again() {
    let (mut lab, broken) = repository(false);
    write_large_documents(&mut lab, 3);
    broken.breaks_at("put archives/", 1, Effect::FailsOnce(ErrorKind::Other));
    assert_eq!(lab.backup().await.outcome, FAILED);
    assert!(broken.heal());
    assert!(!under_way(&lab).volumes[0].head_done, "documents take more than one volume");
    let run = lab.backup().await;
    assert_eq!((run.outcome, documents_of(&lab, &run).await), (SUCCEEDED, 3), "{run:?}");
    std::fs::remove_file(lab.path("documents/documents_000001.bin")).unwrap();
    assert_eq!(lab.restore(&run.result.unwrap()).await.outcome, SUCCEEDED);
    assert_eq!(lab.document_ids().len(), 3);
}

#[tokio::test]
async fn a_backup_whose_documents_changed_meanwhile_is_begun_anew() {
    let (mut lab, broken) = repository(false);
    let archive = cut_at_the_third_volume(&lab, &broken).await;
    lab.write_documents(&["one", "two", "three"]);
    let run = lab.backup().await;
    assert_eq!((run.outcome, documents_of(&lab, &run).await), (SUCCEEDED, 3), "{run:?}");
    assert_ne!(run.result, Some(format!("{}.zip", archive.name)));
}

/// A run that goes on after the last binary of a volume once knew nothing of what was left out before it.
#[tokio::test]
async fn an_archive_stays_incomplete_when_the_run_that_left_something_out_was_cut() {
    let (lab, broken) = repository(false);
    let damaged: Digest = "0000000000000000000000000000000000000001".parse().unwrap();
    lab.write(&damaged, b"not that");
    cut_at_the_third_volume(&lab, &broken).await;
    let run = lab.backup().await;
    assert_eq!((run.outcome, run.counts.examined), (PARTIAL, 101), "{run:?}");
    assert_eq!(lab.manifest(&run.result.unwrap()).await["complete"], false);
}

#[tokio::test]
async fn a_backup_that_was_cut_just_before_its_manifest_writes_nothing_else() {
    let (lab, broken) = repository(false);
    let volumes = {
        let (other, _) = repository(false);
        assert_eq!(other.backup().await.outcome, SUCCEEDED);
        other.keys("archives/").await.len() - 1
    };
    broken.breaks_at("put archives/", volumes, Effect::FailsOnce(ErrorKind::Other));
    assert_eq!(lab.backup().await.outcome, FAILED);
    broken.heal();
    broken.take_requests();
    assert_eq!(lab.backup().await.outcome, SUCCEEDED);
    let puts = broken.take_requests().into_iter().filter(|request| request.starts_with("put")).collect::<Vec<_>>();
    assert!(puts.len() == 1 && puts[0].ends_with(".json"), "{puts:?}");
}
