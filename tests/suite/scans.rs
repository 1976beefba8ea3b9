//! Scans: what they prove, how one goes on that was cut, and how fast they may be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast::jobs::copy::CopyOrder;
use holdfast::jobs::copy::pending::copy_all;
use holdfast::ledger::{Ledger, SeriesId};
use holdfast::model::digest::Digest;
use holdfast::model::layout::Layout;
use holdfast::model::run::{Kind, Outcome, Run, Trigger};
use holdfast::repository::walk::{Found, Stretch, Walk};
use holdfast::service::runner::Activation;
use holdfast::store::{ErrorKind, ObjectStore};

use super::faulty::{Faulty, Trouble};
use super::lab::{Lab, sha1};
use super::service_lab::PATIENCE;

const JOB: &str = "copy.main";

async fn scan(lab: &Lab, scan_rate: Option<u32>) -> Run {
    let report = Arc::default();
    let order = CopyOrder {
        source: lab.source(),
        destination: lab.destination(&report),
        parallel: 8,
        settle: lab.settle,
        full: false,
        allow_empty: false,
        scan_rate,
    };
    let activation =
        Activation { job: JOB.to_owned(), kind: Kind::Copy, trigger: Trigger::Schedule, started_by: None, url: None };
    let run = lab.runner.run(&activation, lab.stop.clone(), report, async |run: &_| copy_all(run, &order, JOB).await);
    run.await.unwrap()
}

fn see(lab: &Lab, digests: &[Digest]) {
    let sized: Vec<_> = digests.iter().map(|digest| (*digest, 1)).collect();
    lab.runner.ledger.add_pending(&[JOB.to_owned()], &sized, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
}

fn series(lab: &Lab) -> SeriesId {
    let destination = lab.runner.ledger.destination(lab.store.place()).unwrap();
    lab.runner.ledger.series(destination, &lab.source().name).unwrap().id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_says_how_many_the_watcher_had_missed_in_how_many() {
    let lab = Lab::new();
    let ledger = &lab.runner.ledger;
    let jobs = [JOB.to_owned()];
    lab.add_many(300, "before");
    let first = scan(&lab, None).await;
    let proof = ledger.proof(JOB).unwrap().unwrap();
    assert_eq!((first.counts.missed, proof.run, proof.examined), (None, first.id, 300), "nobody watched");
    assert_eq!((proof.new, proof.missed), (300, None));

    ledger.begin_watch(&jobs);
    see(&lab, &lab.add_many(20, "seen"));
    let seen = scan(&lab, None).await;
    let proof = ledger.proof(JOB).unwrap().unwrap();
    assert_eq!((seen.counts.missed, seen.counts.copied), (Some(0), 20));
    assert_eq!((proof.examined, proof.new, proof.missed), (320, 20, Some(0)));

    see(&lab, &lab.add_many(5, "seen as well"));
    lab.add_many(3, "missed");
    let missed = scan(&lab, None).await;
    assert_eq!((missed.counts.missed, missed.counts.copied), (Some(3), 8));
    assert_eq!(ledger.proof(JOB).unwrap().unwrap().missed, Some(3));

    // What may have been missed for a known reason is no fault of the watcher, nor is what came while it was off.
    ledger.mark_unwatched(&jobs, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
    lab.add_many(2, "after an overflow");
    assert_eq!(scan(&lab, None).await.counts.missed, None);
    assert_eq!(scan(&lab, None).await.counts.missed, Some(0));
    ledger.end_watch(&jobs);
    lab.add_many(2, "while it was off");
    assert_eq!(scan(&lab, None).await.counts.missed, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_was_not_missed_and_after_a_scan_that_was_cut_nobody_knows() {
    let store = Faulty::new();
    let lab = Lab::with_store(Arc::clone(&store) as Arc<dyn ObjectStore>);
    lab.add_many(20, "before");
    scan(&lab, None).await;
    lab.runner.ledger.begin_watch(&[JOB.to_owned()]);
    let damaged = sha1(b"as it was");
    lab.write(&damaged, b"as it is");
    see(&lab, &[damaged]);
    for _ in 0..3 {
        let run = scan(&lab, None).await;
        assert_eq!((run.outcome, run.counts.damaged, run.counts.missed), (Some(Outcome::Partial), 1, Some(0)));
        assert!(lab.runner.ledger.left_out(JOB).unwrap().is_none(), "whoever mends it writes to it, which is seen");
    }
    // The first scan sends what nobody saw, and fails before it can say so.
    lab.add(b"nobody saw it");
    store.expect(Trouble::From(3, ErrorKind::Denied));
    assert_eq!(scan(&lab, None).await.outcome, Some(Outcome::Failed));
    assert!(store.calm());
    let run = scan(&lab, None).await;
    assert_eq!((run.counts.copied, run.counts.missed), (0, None), "{run:#?}");
    assert_eq!(scan(&lab, None).await.counts.missed, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_noted_while_the_scan_is_on_its_way_was_not_missed() {
    let lab = Lab::new();
    lab.add_many(30, "before");
    scan(&lab, None).await;
    lab.runner.ledger.begin_watch(&[JOB.to_owned()]);
    let late = lab.add_many(5, "late");
    let ledger = Arc::clone(&lab.runner.ledger);
    lab.while_asleep(move || {
        let sized: Vec<_> = late.iter().map(|digest| (*digest, 1)).collect();
        ledger.add_pending(&[JOB.to_owned()], &sized, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
    });
    let run = scan(&lab, None).await;
    assert_eq!((run.counts.missed, run.counts.copied), (Some(0), 5));
}

/// A binary that a scan has gone past when it sleeps for the first time.
fn before_all_others(lab: &Lab) -> (Digest, Vec<u8>) {
    let first = lab.expected().into_keys().min().unwrap();
    let contents = (0..).map(|number| format!("early {number}").into_bytes());
    contents.map(|content| (Digest::of(lab.layout.algorithms[0], &content), content)).find(|it| it.0 < first).unwrap()
}

fn until_all_is_taken(ledger: &Ledger) {
    let deadline = Instant::now() + PATIENCE;
    while ledger.count_pending(JOB, i64::MAX).unwrap() > 0 {
        assert!(Instant::now() < deadline, "what arrives is not taken while the scan is on its way");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// What happens in the middle of a scan: these are written and seen, and all that is pending is dealt with before it goes on.
fn arrive_in_the_middle(lab: &Lab, arriving: Vec<(Digest, Vec<u8>)>) {
    let (ledger, binaries) = (Arc::clone(&lab.runner.ledger), lab.binaries());
    lab.while_long_asleep(move || {
        for (digest, content) in &arriving {
            let path = binaries.path(digest);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let sized: Vec<_> = arriving.iter().map(|(digest, _)| (*digest, 1)).collect();
        ledger.add_pending(&[JOB.to_owned()], &sized, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        until_all_is_taken(&ledger);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_where_a_scan_has_gone_past_is_copied_before_its_end() {
    let lab = Lab::new();
    lab.add_many(300, "before");
    scan(&lab, None).await;
    lab.runner.ledger.begin_watch(&[JOB.to_owned()]);
    arrive_in_the_middle(&lab, vec![before_all_others(&lab)]);
    let run = scan(&lab, Some(1)).await;
    assert_eq!((run.counts.copied, run.counts.examined, run.counts.missed), (1, 300, Some(0)), "{run:?}");
    assert_eq!(lab.listed(&run.result.unwrap()).await, lab.expected());
    assert!(!lab.runner.ledger.is_taken(JOB));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scan_comes_upon_and_the_watcher_had_noted_is_sent_once() {
    let lab = Lab::new();
    let ledger = &lab.runner.ledger;
    lab.add_many(300, "before");
    scan(&lab, None).await;
    ledger.begin_watch(&[JOB.to_owned()]);
    // Each is at the destination when the scan comes to it, or when it has gone past.
    let arriving = (0..40).map(|number| format!("in the middle {number}").into_bytes());
    let arriving = arriving.map(|content| (Digest::of(lab.layout.algorithms[0], &content), content)).collect();
    arrive_in_the_middle(&lab, arriving);
    let run = scan(&lab, Some(1)).await;
    assert_eq!((run.counts.copied, run.counts.missed), (40, Some(0)), "{run:?}");
    assert_eq!((run.counts.skipped, run.counts.failed), (0, 0), "none of them is looked at again");
    assert_eq!(lab.listed(&run.result.unwrap()).await, lab.expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_while_a_scan_is_under_way_is_not_gone() {
    let lab = Lab::new();
    let mut old: Vec<_> = (0..300).map(|number| format!("old {number}").into_bytes()).collect();
    old.sort_by_key(|content| lab.add(content));
    scan(&lab, None).await;
    lab.runner.ledger.begin_watch(&[JOB.to_owned()]);
    // The scan has said of the first that it is gone when it comes back, and of the last it would.
    let back: Vec<_> = [0, 299].map(|at| (Digest::of(lab.layout.algorithms[0], &old[at]), old[at].clone())).into();
    for (digest, _) in &back {
        std::fs::remove_file(lab.binaries().path(digest)).unwrap();
    }
    arrive_in_the_middle(&lab, back);
    let run = scan(&lab, Some(1)).await;
    assert_eq!((run.counts.copied, run.counts.failed), (0, 0), "{run:?}");
    assert_eq!(lab.listed(&run.result.unwrap()).await, lab.expected());
    assert_eq!(lab.expected().len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_and_is_gone_again_is_gone_for_a_scan() {
    let lab = Lab::new();
    let mut old = lab.add_many(300, "old");
    scan(&lab, None).await;
    old.sort_unstable();
    let last = old[299];
    std::fs::remove_file(lab.binaries().path(&last)).unwrap();
    // Its name was seen, and is taken from what is pending before the scan gets there.
    let (ledger, seen) = (Arc::clone(&lab.runner.ledger), "2026-01-01T00:00:00Z".parse().unwrap());
    lab.while_long_asleep(move || {
        ledger.add_pending(&[JOB.to_owned()], &[(last, 1)], seen).unwrap();
        until_all_is_taken(&ledger);
    });
    let run = scan(&lab, Some(1)).await;
    assert_eq!((run.counts.vanished, run.counts.removed), (1, 1), "{run:?}");
    assert_eq!(lab.listed(&run.result.unwrap()).await, lab.expected());
    assert_eq!(lab.expected().len(), 299);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_being_written_while_a_scan_is_under_way_stays_pending() {
    let lab = Lab::new();
    let ledger = Arc::clone(&lab.runner.ledger);
    lab.add_many(300, "before");
    scan(&lab, None).await;
    let (digest, content) = before_all_others(&lab);
    let path = lab.binaries().path(&digest);
    let of_hook = Arc::clone(&ledger);
    lab.while_long_asleep(move || {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "half of it").unwrap();
        let seen = "2026-01-01T00:00:00Z".parse().unwrap();
        of_hook.add_pending(&[JOB.to_owned()], &[(digest, 1)], seen).unwrap();
    });
    let run = scan(&lab, Some(1)).await;
    assert_eq!((run.outcome, run.counts.copied, run.counts.failed), (Some(Outcome::Succeeded), 0, 0), "{run:?}");
    assert_eq!(ledger.count_pending(JOB, i64::MAX).unwrap(), 1);
    lab.write(&digest, &content);
    assert_eq!(scan(&lab, None).await.counts.copied, 1);
    assert_eq!(ledger.count_pending(JOB, i64::MAX).unwrap(), 0);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_could_not_read_a_directory_proves_nothing() {
    use std::os::unix::fs::symlink;
    let lab = Lab::new();
    lab.add_many(30, "before");
    scan(&lab, None).await;
    let proof = lab.runner.ledger.proof(JOB).unwrap();
    let taken: BTreeSet<_> = std::fs::read_dir(lab.path("binaries")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let free = (0..256).map(|n| format!("{n:02x}")).find(|name| !taken.contains(std::ffi::OsStr::new(name)));
    let link = lab.path("binaries").join(free.unwrap());
    symlink(lab.path("documents"), &link).unwrap();
    assert!(lab.runner.ledger.left_out(JOB).unwrap().is_none());
    assert_eq!(scan(&lab, None).await.outcome, Some(Outcome::Partial));
    assert_eq!(lab.runner.ledger.proof(JOB).unwrap(), proof);
    // So the next has to look for what was left out, and it is known that it need not once one has.
    assert!(lab.runner.ledger.left_out(JOB).unwrap().is_some());
    std::fs::remove_file(link).unwrap();
    assert_eq!(scan(&lab, None).await.outcome, Some(Outcome::Succeeded));
    assert!(lab.runner.ledger.left_out(JOB).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_was_cut_is_gone_on_with_and_still_sees_everything() {
    let lab = Lab::new();
    let old = lab.add_many(400, "old");
    scan(&lab, None).await;
    let gone = [0, 100, 200, 399].map(|at| old[at]);
    for digest in &gone {
        std::fs::remove_file(lab.binaries().path(digest)).unwrap();
    }
    lab.add_many(50, "new");
    let mut names: Vec<Digest> = lab.expected().into_keys().collect();
    names.sort_unstable();
    // At both ends and in the middle.
    for reached in [names[0], names[names.len() / 2], names[names.len() - 1]] {
        lab.runner.ledger.set_reached(series(&lab), &reached).unwrap();
        let foreign = lab.path("binaries").join("foreign");
        std::fs::write(&foreign, "x").unwrap();
        let run = scan(&lab, None).await;
        assert_eq!((run.counts.examined, run.counts.foreign), (names.len() as u64, 1), "{reached}: {run:?}");
        assert_eq!(run.counts.failed, 0);
        assert_eq!(lab.runner.ledger.reached(series(&lab)).unwrap(), None);
        lab.check_points().await;
    }
    let last = scan(&lab, None).await;
    assert_eq!((last.counts.removed, last.counts.copied), (0, 0), "the first of them found all of it");
    assert_eq!(lab.listed(&last.result.unwrap()).await, lab.expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_takes_the_time_that_it_is_to_take() {
    let lab = Lab::new();
    lab.add_many(300, "many");
    scan(&lab, None).await;
    *lab.clock.longest.lock().unwrap() = Duration::ZERO;
    scan(&lab, Some(1)).await;
    // The clock of the test does not wait, so the last sleep is for all of it.
    let longest = *lab.clock.longest.lock().unwrap();
    assert!((Duration::from_mins(4)..=Duration::from_mins(5)).contains(&longest), "{longest:?}");
}

#[test]
fn the_two_parts_of_a_store_around_a_binary_are_all_of_it() {
    let lab = Lab::new();
    let mut wanted = lab.add_many(500, "walked");
    wanted.sort_unstable();
    let walk = |stretch: &Stretch| -> Vec<Digest> {
        let found = Walk::begin_in(&lab.binaries(), 2, stretch).unwrap();
        let binaries = found.map(|found| match found {
            Found::Binaries(batch) => batch,
            Found::Unreadable { path, .. } => panic!("{}", path.display()),
        });
        binaries.flatten().collect()
    };
    for reached in wanted.iter().step_by(61) {
        let (after, until) = Stretch::around(&Layout::modeshape(), reached).unwrap();
        let (late, early) = (walk(&after), walk(&until));
        assert!(early.contains(reached) && early.iter().all(|digest| until.contains(digest)));
        assert!(late.iter().all(|digest| after.contains(digest) && !until.contains(digest)));
        assert!(early.iter().all(|digest| after.is_after(digest)));
        assert_eq!([early, late].concat(), wanted);
    }
}
