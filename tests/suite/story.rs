//! The main jobs from end to end, when nothing goes wrong.

use holdfast::jobs::verify::Depth;
use holdfast::model::run::Outcome;

use super::lab::Lab;

#[tokio::test]
async fn a_copied_repository_comes_back_from_its_restore_point() {
    let lab = Lab::new();
    lab.add_many(300, "a");
    lab.add(&vec![7; 20 << 20]);
    let before = lab.snapshot();
    let run = lab.copy().await;
    assert_eq!((run.outcome, run.counts.copied), (Some(Outcome::Succeeded), 301), "{run:?}");
    let point = run.result.unwrap();

    std::fs::remove_dir_all(lab.path("binaries")).unwrap();
    let run = lab.restore(&point).await;
    assert_eq!((run.outcome, run.counts.copied), (Some(Outcome::Succeeded), 301), "{run:?}");
    assert_eq!(lab.snapshot(), before);
    let run = lab.verify(&point, Depth::Whole).await;
    assert_eq!((run.outcome, run.counts.examined), (Some(Outcome::Succeeded), 301), "{run:?}");
}

#[tokio::test]
async fn a_copy_with_nothing_new_makes_no_request_and_one_with_new_binaries_sends_only_those() {
    let lab = Lab::new();
    lab.add_many(200, "a");
    let first = lab.copy().await;
    let second = lab.copy().await;
    assert_eq!((second.counts.requests, second.counts.examined), (0, 200), "{second:?}");
    assert_eq!(second.result, first.result);
    lab.add_many(10, "b");
    let third = lab.copy().await;
    assert_eq!((third.counts.copied, third.outcome), (10, Some(Outcome::Succeeded)), "{third:?}");
    assert_ne!(third.result, first.result);
    assert_eq!(lab.points().await.len(), 2);
}

#[tokio::test]
async fn a_backed_up_repository_comes_back_from_its_archive() {
    let mut lab = Lab::new();
    lab.write_documents(&["one", "two", "three"]);
    lab.add_many(300, "a");
    lab.add(&vec![7; 9 << 20]);
    let before = lab.snapshot();
    let run = lab.backup().await;
    assert_eq!((run.outcome, run.counts.copied, run.counts.documents), (Some(Outcome::Succeeded), 301, 3), "{run:?}");
    let archive = run.result.unwrap();

    std::fs::remove_dir_all(lab.path("binaries")).unwrap();
    std::fs::remove_file(lab.path("documents/documents_000001.bin")).unwrap();
    let run = lab.restore(&archive).await;
    assert_eq!((run.outcome, run.counts.copied, run.counts.documents), (Some(Outcome::Succeeded), 301, 3), "{run:?}");
    assert_eq!(lab.snapshot(), before);
    let run = lab.verify(&archive, Depth::Whole).await;
    assert_eq!((run.outcome, run.counts.examined, run.counts.documents), (Some(Outcome::Succeeded), 301, 3), "{run:?}");
    let run = lab.restore(&archive).await;
    assert_eq!((run.outcome, run.counts.copied, run.counts.documents), (Some(Outcome::Succeeded), 0, 0), "{run:?}");
}

#[tokio::test]
async fn an_archive_of_several_volumes_comes_back() {
    let mut lab = Lab::new();
    lab.volume_bytes = 20_000;
    lab.write_documents(&["one", "two", "three"]);
    lab.add_many(300, "a");
    let before = lab.snapshot();
    let run = lab.backup().await;
    assert_eq!(run.outcome, Some(Outcome::Succeeded), "{run:?}");
    assert!(lab.keys("archives/").await.len() > 4);
    std::fs::remove_dir_all(lab.path("binaries")).unwrap();
    let run = lab.restore(&run.result.unwrap()).await;
    assert_eq!(run.outcome, Some(Outcome::Succeeded), "{run:?}");
    assert_eq!(lab.snapshot(), before);
}
