//! Verify: what it finds, and what it calls by which name.

use std::sync::Arc;

use holdfast::jobs::verify::Depth;
use holdfast::model::digest::Digest;
use holdfast::model::key::Key;
use holdfast::model::run::{Outcome, Run};
use holdfast::store::memory::MemoryStore;
use holdfast::store::{ErrorKind, ObjectStore};

use super::broken_store::{BrokenStore, Effect};
use super::lab::{Lab, noise};

const BOTH: [Depth; 2] = [Depth::Whole, Depth::Quick];

/// A repository with a restore point and an archive of several volumes, and a large binary in parts.
async fn kept() -> (Lab, Vec<Digest>, String, String) {
    let mut lab = Lab::new();
    lab.volume_bytes = 6_000;
    lab.write_documents(&["one", "two"]);
    let digests = lab.add_many(60, "a");
    lab.add(&noise(1, 9 << 20));
    let (point, archive) = (lab.copy().await.result.unwrap(), lab.backup().await.result.unwrap());
    (lab, digests, point, archive)
}

fn flipped(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    content
}

fn found(run: &Run, kind: &str, subject: &str) -> bool {
    run.problems.iter().any(|problem| problem.kind == kind && problem.subject == subject)
}

#[tokio::test]
async fn sound_backups_are_verified_with_their_counts() {
    let (lab, _, point, archive) = kept().await;
    for depth in BOTH {
        for name in [&point, &archive] {
            let run = lab.verify(name, depth).await;
            assert_eq!((run.outcome, run.counts.examined), (Some(Outcome::Succeeded), 61), "{name} {run:?}");
            assert_eq!(run.counts.documents, if depth == Depth::Whole { 2 } else { 0 }, "{name} {run:?}");
            assert_eq!(run.result.as_ref(), Some(name));
        }
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_restore_point_is_named() {
    let (lab, digests, point, _) = kept().await;
    let key = |number: usize| Key::binary(&digests[number]).to_string();
    lab.replace_object(&key(0), &flipped(&lab.object(&key(0)).await)).await;
    lab.delete_object(&key(1)).await;
    lab.replace_object(&key(2), b"short").await;
    for depth in BOTH {
        let run = lab.verify(&point, depth).await;
        assert_eq!((run.outcome, run.counts.missing, run.counts.damaged), (Some(Outcome::Partial), 1, 2), "{run:?}");
        assert!(found(&run, "damaged", &key(0)), "{run:?}");
        assert!(found(&run, "missing", &key(1)), "{run:?}");
        assert!(found(&run, "damaged", &key(2)), "{run:?}");
    }
    let documents = format!("points/{point}/documents_000001.bin.gz");
    lab.replace_object(&documents, &flipped(&lab.object(&documents).await)).await;
    for depth in BOTH {
        assert!(found(&lab.verify(&point, depth).await, "damaged", "documents_000001.bin.gz"));
    }
    let list = format!("points/{point}/binaries.gz");
    lab.replace_object(&list, &flipped(&lab.object(&list).await)).await;
    let run = lab.verify(&point, Depth::Quick).await;
    assert!(run.problems.iter().any(|problem| problem.message.contains(&list)), "{run:?}");
}

#[tokio::test]
async fn every_volume_that_is_missing_or_damaged_is_named() {
    let (lab, _, _, archive) = kept().await;
    let manifest = lab.manifest(&archive).await;
    let key = |number: usize| manifest["volumes"][number]["key"].as_str().unwrap().to_owned();
    lab.delete_object(&key(0)).await;
    lab.replace_object(&key(1), &flipped(&lab.object(&key(1)).await)).await;
    let short = lab.object(&key(2)).await;
    lab.replace_object(&key(2), &short[..short.len() - 1]).await;
    for depth in BOTH {
        let run = lab.verify(&archive, depth).await;
        assert_eq!((run.outcome, run.counts.missing, run.counts.damaged), (Some(Outcome::Partial), 1, 2), "{run:?}");
        assert!(found(&run, "missing", &key(0)), "{run:?}");
        assert!(found(&run, "damaged", &key(1)) && found(&run, "damaged", &key(2)), "{run:?}");
    }
}

#[tokio::test]
async fn documents_that_no_volume_holds_are_found() {
    let (lab, _, _, archive) = kept().await;
    lab.edit_manifest(&archive, |manifest| {
        let mut second = manifest["documents"]["files"][0].clone();
        second["name"] = "documents_000002.bin.gz".into();
        manifest["documents"]["files"].as_array_mut().unwrap().push(second);
        manifest["documents"]["count"] = 4.into();
    })
    .await;
    let run = lab.verify(&archive, Depth::Whole).await;
    assert!(found(&run, "damaged", &archive), "{run:?}");
}

#[tokio::test]
async fn what_is_not_there_at_all_fails_with_a_hint() {
    let lab = Lab::new();
    for name in ["20000101T000000Z-1", "BackupDaemonJob1-1.zip"] {
        let run = lab.verify(name, Depth::Whole).await;
        assert_eq!(run.outcome, Some(Outcome::Failed));
        assert!(run.error.unwrap().contains("holdfast points"));
    }
}

#[tokio::test]
async fn a_destination_out_of_reach_is_not_called_damaged() {
    let broken = BrokenStore::new(Arc::new(MemoryStore::new("memory:")));
    let lab = Lab::with_store(Arc::clone(&broken) as Arc<dyn ObjectStore>);
    lab.add_many(60, "a");
    let names = [lab.copy().await.result.unwrap(), lab.backup().await.result.unwrap()];
    for name in names {
        for depth in BOTH {
            for skip in 0..4 {
                broken.take_requests();
                broken.breaks_at("", skip, Effect::FailsFromThenOn(ErrorKind::Unavailable));
                let run = lab.verify(&name, depth).await;
                if broken.heal() {
                    assert_eq!((run.outcome, run.counts.damaged), (Some(Outcome::Failed), 0), "{skip} {run:?}");
                    assert!(run.problems.is_empty(), "{run:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn several_are_verified_in_one_run() {
    let (lab, digests, point, archive) = kept().await;
    let run = lab.verify_all(&[&point, &archive], Depth::Whole).await;
    assert_eq!((run.outcome, run.counts.examined), (Some(Outcome::Succeeded), 122), "{run:?}");
    assert_eq!(run.result, Some(format!("{point} {archive}")));
    lab.delete_object(Key::binary(&digests[0]).as_str()).await;
    let run = lab.verify_all(&[&point, &archive], Depth::Whole).await;
    assert_eq!((run.outcome, run.counts.examined), (Some(Outcome::Partial), 122), "{run:?}");
}

#[tokio::test]
async fn of_several_the_others_are_verified_when_a_manifest_is_missing_or_damaged() {
    let (lab, _, point, archive) = kept().await;
    let nowhere = "20000101T000000Z-1";
    for depth in BOTH {
        let run = lab.verify_all(&[nowhere, &point, &archive], depth).await;
        assert_eq!((run.outcome, run.counts.examined), (Some(Outcome::Partial), 122), "{run:?}");
        assert_eq!((run.counts.missing, run.counts.damaged), (1, 0), "{run:?}");
        assert!(found(&run, "missing", nowhere), "{run:?}");
        assert_eq!(run.result, Some(format!("{point} {archive}")));
    }
    lab.replace_object(&format!("points/{point}/point.json"), b"{ this is no manifest").await;
    for depth in BOTH {
        let run = lab.verify_all(&[&point, &archive], depth).await;
        assert_eq!((run.outcome, run.counts.examined, run.counts.damaged), (Some(Outcome::Partial), 61, 1), "{run:?}");
        assert!(found(&run, "damaged", &point), "{run:?}");
        assert_eq!(run.result.as_ref(), Some(&archive));
        // Of one alone it is the error.
        let run = lab.verify(&point, depth).await;
        assert_eq!((run.outcome, run.problems.len()), (Some(Outcome::Failed), 0), "{run:?}");
        // And nothing that could be read is no verification.
        let run = lab.verify_all(&[&point, nowhere], depth).await;
        assert_eq!((run.outcome, run.problems.len()), (Some(Outcome::Failed), 2), "{run:?}");
        assert!(run.error.as_ref().is_some_and(|error| error.contains("none of them could be read")), "{run:?}");
    }
}
