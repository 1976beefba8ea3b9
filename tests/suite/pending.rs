//! The copy of what a watcher saw, and what the ledger keeps of it.

use std::sync::Arc;
use std::time::Duration;

use holdfast::jobs::copy::CopyOrder;
use holdfast::jobs::copy::pending::{Following, copy_all, copy_pending};
use holdfast::model::digest::Digest;
use holdfast::model::run::{Kind, Outcome, Run, Trigger};
use holdfast::service::runner::Activation;
use holdfast::store::memory::MemoryStore;
use holdfast::store::{Capabilities, ObjectStore};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::broken_store::{BrokenStore, Effect};
use crate::lab::{Lab, sha1};
use crate::s3_memory::{Options, Server};
use crate::s3_store::connect;

const JOB: &str = "copy.main";

/// A copy as the daemon runs it: of what is pending, or of everything.
async fn run(lab: &Lab, pending: bool) -> Run {
    let report = Arc::default();
    let destination = lab.destination(&report);
    let order = CopyOrder {
        source: lab.source(),
        destination,
        parallel: 8,
        settle: lab.settle,
        full: false,
        allow_empty: false,
        scan_rate: None,
    };
    let following =
        Following { job: JOB.to_owned(), point_every: Duration::from_mins(5), hurry: CancellationToken::new() };
    let activation =
        Activation { job: JOB.to_owned(), kind: Kind::Copy, trigger: Trigger::Change, started_by: None, url: None };
    let work = async |run: &_| {
        if pending { copy_pending(run, &order, &following).await } else { copy_all(run, &order, JOB).await }
    };
    lab.runner.run(&activation, lab.stop.clone(), report, work).await.unwrap()
}

fn sized(digests: &[Digest]) -> Vec<(Digest, u64)> {
    digests.iter().map(|digest| (*digest, 1)).collect()
}

fn see(lab: &Lab, digests: &[Digest]) -> Vec<String> {
    lab.runner.ledger.add_pending(&[JOB.to_owned()], &sized(digests), "2026-01-01T00:00:00Z".parse().unwrap()).unwrap()
}

fn left(lab: &Lab) -> Vec<Digest> {
    lab.runner.ledger.pending_after(JOB, 0).unwrap().iter().map(|pending| pending.digest).collect()
}

#[tokio::test]
async fn a_copy_of_what_is_pending_does_the_work_of_that_and_no_more() {
    let server = Server::start(Options::default());
    let mut lab = Lab::with_store(Arc::new(connect(&server, "site", Capabilities::ALL).await));
    lab.write_documents(&["one"]);
    lab.add_many(500, "before");
    run(&lab, false).await;
    let new = lab.add_many(10, "new");
    let unseen = lab.add(b"nobody saw it");
    see(&lab, &new);
    server.clear_log();
    let copied = run(&lab, true).await;
    assert_eq!((copied.outcome, copied.counts.examined, copied.counts.copied), (Some(Outcome::Succeeded), 10, 10));
    // A look at the last point and at its list; ten binaries, the new list, the manifest. A walk would have found the other
    // binary.
    assert_eq!((server.count("PutObject"), server.count("ListObjectsV2"), copied.counts.requests), (12, 0, 14));
    assert!(left(&lab).is_empty() && !lab.keys("binaries/").await.iter().any(|key| key.ends_with(&unseen.to_string())));
    let mut expected = lab.expected();
    expected.remove(&unseen);
    assert_eq!(lab.listed(&copied.result.unwrap()).await, expected);
    lab.check_points().await;
    // Nothing is new, so there is no request and no point.
    server.clear_log();
    see(&lab, &new);
    let again = run(&lab, true).await;
    assert_eq!((again.counts.requests, left(&lab).len()), (0, 0), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_also_if_more_comes_than_it_can_send() {
    const LIMIT: usize = 40_000;
    let store = BrokenStore::new(Arc::new(MemoryStore::new("memory:")));
    let lab = Lab::with_store(Arc::clone(&store) as Arc<dyn ObjectStore>);
    run(&lab, false).await;
    // While one is sent two others come.
    let (ledger, directory) = (Arc::clone(&lab.runner.ledger), lab.binaries());
    let mut come = 0;
    let mut arrive = move || {
        for content in (come..LIMIT.min(come + 2)).map(|number| number.to_string()) {
            let digest = sha1(content.as_bytes());
            let path = directory.path(&digest);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &content).unwrap();
            ledger.add_pending(&[JOB.to_owned()], &sized(&[digest]), "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
            come += 1;
        }
    };
    arrive();
    store.breaks_at("put binaries/", 0, Effect::HappensFromThenOn(Box::new(arrive)));
    let first = run(&lab, true).await;
    store.heal();
    let copied = usize::try_from(first.counts.copied).unwrap();
    assert_eq!(first.outcome, Some(Outcome::Succeeded), "{first:#?}");
    assert!((1..LIMIT / 2).contains(&copied) && !left(&lab).is_empty(), "{copied}");
    lab.check_points().await;
    // The next does the rest.
    while !left(&lab).is_empty() {
        run(&lab, true).await;
    }
    assert_eq!(lab.listed(&run(&lab, true).await.result.unwrap()).await, lab.expected());
}

#[tokio::test]
async fn what_is_not_its_name_stays_pending_and_a_scan_judges_it() {
    let lab = Lab::new();
    lab.add(b"before");
    run(&lab, false).await;
    let digest = Digest::of(lab.layout.algorithms[0], b"the whole of it");
    lab.write(&digest, b"the whole");
    see(&lab, &[digest]);
    let early = run(&lab, true).await;
    assert_eq!((early.outcome, early.counts.damaged), (Some(Outcome::Succeeded), 0), "{early:?}");
    assert_eq!(left(&lab), [digest]);
    assert!(early.problems.iter().any(|problem| problem.kind == "unsettled"), "{early:?}");
    // The clock of the test is far ahead: nobody writes to it any more, and it has been pending for long.
    assert!(lab.runner.ledger.is_unwatched(JOB).unwrap());
    let judged = run(&lab, true).await;
    assert_eq!((judged.outcome, judged.counts.damaged), (Some(Outcome::Partial), 1), "{judged:?}");
    assert!(left(&lab).is_empty() && !lab.runner.ledger.is_unwatched(JOB).unwrap());
    // A point that leaves something out stays incomplete until everything was looked at again.
    let new = lab.add(b"new");
    see(&lab, &[new]);
    let next = run(&lab, true).await;
    assert_eq!(next.outcome, Some(Outcome::Succeeded));
    assert!(!lab.point_manifest(&next.result.unwrap()).await.complete);
}

#[tokio::test]
async fn a_scan_takes_out_what_was_seen_before_it_began_and_nothing_else() {
    let lab = Lab::new();
    lab.write(&Digest::of(lab.layout.algorithms[0], b"x"), b"not x");
    // Its owner is still writing, so that it cannot be taken meanwhile either.
    let [before, meanwhile] = [lab.add(b"before"), Digest::of(lab.layout.algorithms[0], b"meanwhile")];
    lab.write(&meanwhile, b"mean");
    let jobs = [JOB.to_owned()];
    see(&lab, &[before, meanwhile]);
    lab.runner.ledger.mark_unwatched(&jobs, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
    let ledger = Arc::clone(&lab.runner.ledger);
    // The damaged file makes the scan wait, and then something is seen.
    let mut lab = lab;
    lab.wait_for_files();
    lab.while_asleep(move || {
        ledger.add_pending(&[JOB.to_owned()], &[(meanwhile, 0)], "2026-01-02T00:00:00Z".parse().unwrap()).unwrap();
        ledger.mark_unwatched(&[JOB.to_owned()], "2026-01-02T00:00:00Z".parse().unwrap()).unwrap();
    });
    run(&lab, false).await;
    assert_eq!(left(&lab), [meanwhile]);
    assert!(lab.runner.ledger.is_unwatched(JOB).unwrap());
    let backlog = lab.runner.ledger.backlog(JOB).unwrap();
    // Since it was first seen.
    assert_eq!((backlog.pending, backlog.oldest), (1, Some("2026-01-01T00:00:00Z".parse().unwrap())));
}

#[tokio::test]
async fn after_a_copy_that_was_cut_everything_is_looked_at() {
    let mut lab = Lab::new();
    lab.add(b"before");
    run(&lab, false).await;
    let unseen = lab.add(b"unseen");
    lab.stop.cancel();
    let cut = run(&lab, true).await;
    assert_eq!(cut.outcome, Some(Outcome::Cancelled));
    lab.stop = CancellationToken::new();
    let after = run(&lab, true).await;
    assert_eq!((after.outcome, after.counts.copied), (Some(Outcome::Succeeded), 1), "{after:?}");
    assert!(lab.listed(&after.result.unwrap()).await.contains_key(&unseen));
}

#[test]
fn arrivals_start_a_run_only_while_none_takes_them() {
    let lab = Lab::new();
    let digest = Digest::of(lab.layout.algorithms[0], b"x");
    assert_eq!(see(&lab, &[digest]), [JOB]);
    let ended = lab.runner.ledger.takings(JOB);
    let taking = lab.runner.ledger.take_pending(JOB);
    let arrivals = lab.runner.ledger.arrivals(JOB);
    assert!(see(&lab, &[digest]).is_empty() && arrivals.has_changed().unwrap());
    lab.runner.ledger.stop_taking(JOB);
    assert_eq!(see(&lab, &[digest]), [JOB]);
    assert!(!ended.has_changed().unwrap());
    drop(taking);
    assert!(ended.has_changed().unwrap());
}

/// What a watcher, runs and scans do to what is pending.
#[derive(Clone, Debug)]
enum Step {
    See(u8),
    /// A run reads everything, then this many more are seen, then it deals with what it has read.
    Take(Vec<u8>),
    /// The same by a scan.
    Scan(Vec<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = || proptest::collection::vec(0_u8..6, 0..4);
    let step = prop_oneof![(0_u8..6).prop_map(Step::See), some().prop_map(Step::Take), some().prop_map(Step::Scan)];
    proptest::collection::vec(step, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_seen_after_it_was_read_stays_pending(steps in steps()) {
        let lab = Lab::new();
        let ledger = &lab.runner.ledger;
        let name = |number: &u8| Digest::of(lab.layout.algorithms[0], &[*number]);
        let mut model = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::See(number) => {
                    see(&lab, &[name(&number)]);
                    model.insert(name(&number));
                }
                Step::Take(meanwhile) => {
                    let read = ledger.pending_after(JOB, 0).unwrap();
                    let seen: Vec<_> = meanwhile.iter().map(name).collect();
                    see(&lab, &seen);
                    for pending in read {
                        ledger.settle_pending(JOB, &pending.digest, pending.seq).unwrap();
                    }
                    model = seen.into_iter().collect();
                }
                Step::Scan(meanwhile) => {
                    let mark = ledger.watermark().unwrap();
                    let seen: Vec<_> = meanwhile.iter().map(name).collect();
                    see(&lab, &seen);
                    ledger.reconcile(JOB, mark, None).unwrap();
                    model = seen.into_iter().collect();
                }
            }
            prop_assert_eq!(left(&lab).into_iter().collect::<std::collections::BTreeSet<_>>(), model.clone());
        }
    }
}
