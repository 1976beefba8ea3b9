//! That a restore point or an archive is called complete only with all that its documents need.

use std::sync::Arc;

use holdfast::model::digest::Digest;
use holdfast::model::layout::Layout;
use holdfast::model::run::{Outcome, Run};
use holdfast::store::memory::MemoryStore;
use holdfast::store::{ErrorKind, ObjectStore};

use super::broken_store::{BrokenStore, Effect};
use super::lab::{Lab, sha1};

const SUCCEEDED: Option<Outcome> = Some(Outcome::Succeeded);
const PARTIAL: Option<Outcome> = Some(Outcome::Partial);

fn lab() -> (Lab, Arc<BrokenStore>) {
    let broken = BrokenStore::new(Arc::new(MemoryStore::new("memory:")));
    (Lab::with_store(Arc::clone(&broken) as Arc<dyn ObjectStore>), broken)
}

/// Writes a node that refers to each of these, and what counts the uses of the last.
fn refer_to(lab: &mut Lab, digests: &[Digest]) {
    let node = |(number, digest): (usize, &Digest)| {
        format!(
            "{{ \"metadata\" : {{ \"id\" : \"node{number}\" }} , \"content\" : {{ \"data\" : {{ \"$sha1\" : \"{digest}\" , \"$len\" : 5 }} }} }}\n"
        )
    };
    let mut lines: String = digests.iter().enumerate().map(node).collect();
    let counted = |digest: &Digest, count: u32| {
        format!(
            "{{ \"metadata\" : {{ \"id\" : \"{digest}-ref\" }} , \"content\" : {{ \"sha1\" : \"{digest}\" , \"refCount\" : {count} }} }}\n"
        )
    };
    lines += &counted(digests.last().unwrap(), 1);
    lines += &counted(&sha1(b"nobody uses it any more"), 0);
    lab.write_lines(&lines);
}

fn numbers(run: &Run) -> (Option<Outcome>, u64, u64, u64) {
    (run.outcome, run.counts.references, run.counts.missing, run.counts.unreferenced)
}

#[tokio::test]
async fn a_point_whose_documents_need_what_is_not_there_is_not_complete_until_it_is() {
    let (mut lab, _) = lab();
    let there = lab.add_many(10, "there");
    let (absent, damaged) = (sha1(b"absent"), sha1(b"damaged"));
    lab.write(&damaged, b"something else");
    refer_to(&mut lab, &[there[0], there[1], there[1], absent, damaged]);
    let run = lab.copy().await;
    assert_eq!(numbers(&run), (PARTIAL, 4, 2, 8), "{run:?}");
    for digest in [absent, damaged] {
        let subject = digest.to_string();
        assert!(run.problems.iter().any(|problem| problem.kind == "missing" && problem.subject == subject), "{run:?}");
    }
    let first = run.result.unwrap();
    assert!(!lab.point_manifest(&first).await.complete);

    // Nothing of this changes the documents, and yet they are looked at again.
    lab.write(&absent, b"absent");
    lab.write(&damaged, b"damaged");
    let run = lab.copy().await;
    assert_eq!(numbers(&run), (SUCCEEDED, 4, 0, 8), "{run:?}");
    assert!(lab.point_manifest(run.result.as_ref().unwrap()).await.complete);
    // Proved once, they need not be read again.
    let run = lab.copy().await;
    assert_eq!((run.outcome, run.counts.references, run.counts.requests), (SUCCEEDED, 0, 0), "{run:?}");
}

#[tokio::test]
async fn a_binary_that_goes_while_unchanged_documents_need_it_is_missed() {
    let (mut lab, _) = lab();
    let there = lab.add_many(10, "there");
    refer_to(&mut lab, &there[..2]);
    let run = lab.copy().await;
    assert_eq!(numbers(&run), (SUCCEEDED, 2, 0, 8), "{run:?}");
    // One that nothing refers to may go.
    std::fs::remove_file(lab.binaries().path(&there[9])).unwrap();
    let run = lab.copy().await;
    assert_eq!((numbers(&run), run.counts.documents), ((SUCCEEDED, 2, 0, 7), 0), "{run:?}");
    std::fs::remove_file(lab.binaries().path(&there[0])).unwrap();
    let run = lab.copy().await;
    assert_eq!((numbers(&run), run.counts.documents), ((PARTIAL, 2, 1, 7), 0), "{run:?}");
    assert_eq!(run.problems[0].subject, there[0].to_string());
    assert!(!lab.point_manifest(run.result.as_ref().unwrap()).await.complete);
}

#[tokio::test]
async fn a_binary_that_comes_after_the_walk_has_passed_is_found_because_documents_need_it() {
    let (mut lab, broken) = lab();
    lab.layout = Layout::jackrabbit();
    let there = lab.add_many(10, "there");
    std::fs::write(lab.path("binaries/reference.key"), b"key").unwrap();
    let late = sha1(b"late");
    refer_to(&mut lab, &[there[0], late]);
    // The records are put when the walk is over and before the proof.
    let path = lab.binaries().path(&late);
    let happens = move || {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"late").unwrap();
    };
    // The last request before the proof: documents, ten binaries, then the record.
    broken.breaks_at("put points/", 1, Effect::Happens(Box::new(happens)));
    let run = lab.copy().await;
    assert!(broken.heal());
    assert_eq!(numbers(&run), (SUCCEEDED, 2, 0, 9), "{run:?}");
    assert_eq!(run.counts.copied, 11, "{run:?}");
    let listed = lab.listed(run.result.as_ref().unwrap()).await;
    assert!(listed.contains_key(&late) && listed.len() == 11);
}

#[tokio::test]
async fn an_archive_whose_documents_need_what_is_not_there_is_not_complete() {
    let (mut lab, _) = lab();
    let there = lab.add_many(10, "there");
    let absent = sha1(b"absent");
    refer_to(&mut lab, &[there[0], absent]);
    let run = lab.backup().await;
    assert_eq!(numbers(&run), (PARTIAL, 2, 1, 9), "{run:?}");
    assert_eq!(lab.manifest(run.result.as_ref().unwrap()).await["complete"], false);
    lab.write(&absent, b"absent");
    let run = lab.backup().await;
    assert_eq!(numbers(&run), (SUCCEEDED, 2, 0, 9), "{run:?}");
    assert_eq!(lab.manifest(run.result.as_ref().unwrap()).await["complete"], true);
}

#[tokio::test]
async fn an_archive_that_another_run_began_is_proved_by_what_is_in_it() {
    for missing in [false, true] {
        let (mut lab, broken) = lab();
        lab.volume_bytes = 6_000;
        let mut there = lab.add_many(100, "there");
        there.sort();
        let last = if missing { sha1(b"absent") } else { there[99] };
        refer_to(&mut lab, &[there[0], last]);
        lab.wait_for_files();
        // The second volume does not come to its end.
        broken.breaks_at("put archives/", 1, Effect::FailsOnce(ErrorKind::Other));
        let cut = lab.backup().await;
        assert!(broken.heal());
        assert_eq!(cut.outcome, Some(Outcome::Failed), "{cut:?}");
        // What is in the first volume is in the archive, whether or not the repository still has it.
        std::fs::remove_file(lab.binaries().path(&there[0])).unwrap();
        let run = lab.backup().await;
        assert!(run.counts.copied < 100, "{run:?}");
        let (outcome, count) = if missing { (PARTIAL, 1) } else { (SUCCEEDED, 0) };
        assert_eq!(numbers(&run), (outcome, 2, count, 98 + count), "{run:?}");
    }
}
