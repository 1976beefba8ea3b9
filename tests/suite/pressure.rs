//! What a destination bears, and what a line may carry: how many requests there are at once, and how many bytes a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use holdfast::jobs::verify::Depth;
use holdfast::model::run::{Outcome, Run};
use holdfast::store::retry::{RetryPolicy, Retrying};
use holdfast::store::{Capabilities, ObjectStore};
use tokio::task::JoinSet;

use super::conformance::{content, get, key, put};
use super::lab::Lab;
use super::s3_memory::{Crowd, Effect, Fault, Options, Server};
use super::s3_store::connect;
use super::served::House;

const MIB: usize = 1 << 20;
/// Long enough that requests meet each other at the server.
const TAKES: Duration = Duration::from_millis(3);

/// A server that bears so many requests for these operations at once.
fn crowded(operations: &[&'static str], most: usize) -> (Server, Arc<Crowd>) {
    crowded_for(TAKES, operations, most)
}

/// The same where each request takes so long.
fn crowded_for(takes: Duration, operations: &[&'static str], most: usize) -> (Server, Arc<Crowd>) {
    let server = Server::start(Options::default());
    let crowd = Crowd::of(most, takes);
    for operation in operations {
        server.fault(Fault::at(operation, Effect::Crowd(Arc::clone(&crowd))));
    }
    (server, crowd)
}

async fn retrying(server: &Server) -> Retrying {
    let policy = RetryPolicy { longest: Duration::from_millis(20), ..RetryPolicy::default() };
    Retrying::new(Arc::new(connect(server, "vault", Capabilities::ALL).await), policy)
}

/// Puts so many small objects, with so many tasks at once.
async fn put_many(store: &Arc<dyn ObjectStore>, below: &'static str, count: usize, tasks: usize) {
    let mut under_way = JoinSet::new();
    for number in 0..count {
        if under_way.len() >= tasks {
            under_way.join_next().await.unwrap().unwrap();
        }
        let store = Arc::clone(store);
        under_way.spawn(async move {
            put(&*store, &key(&format!("{below}/{number}")), &content(number as u64, 100)).await;
        });
    }
    while let Some(ended) = under_way.join_next().await {
        ended.unwrap();
    }
}

#[track_caller]
fn succeeded(run: &Run) -> String {
    assert_eq!(run.outcome, Some(Outcome::Succeeded), "{run:#?}");
    run.result.clone().unwrap_or_default()
}

/// What a run says of a destination that asked for less.
fn slowed(run: &Run) -> Option<&str> {
    run.problems.iter().find(|problem| problem.kind == "slowed").map(|problem| problem.message.as_str())
}

/// How often each key was put with success.
fn stored(server: &Server) -> BTreeMap<String, usize> {
    let mut stored = BTreeMap::new();
    for request in server.requests() {
        if request.operation == "PutObject" && request.status == Some(200) {
            *stored.entry(request.key).or_default() += 1;
        }
    }
    stored
}

#[tokio::test]
async fn a_copy_goes_down_to_what_the_server_bears_and_sends_no_binary_twice() {
    let (server, crowd) = crowded(&["PutObject", "HeadObject"], 2);
    let mut lab = Lab::with_store(Arc::new(connect(&server, "vault", Capabilities::ALL).await));
    // Who tries again at once may find no room time and again; only the others' end makes some.
    lab.attempts = 10_000;
    lab.add_many(400, "a");
    // Once it has settled.
    let (seen, settled) = (AtomicUsize::new(0), Arc::clone(&crowd));
    server.on_request(move |_, _| {
        if seen.fetch_add(1, Ordering::SeqCst) == 200 {
            settled.busiest();
        }
    });
    let run = lab.copy().await;
    let point = succeeded(&run);
    let busiest = crowd.busiest();
    assert!(busiest <= 3, "it still tries {busiest} at once");
    assert!(crowd.refused() > 0 && crowd.refused() < 200, "{} were refused", crowd.refused());
    assert!(stored(&server).values().all(|times| *times == 1), "{:?}", stored(&server));
    assert_eq!(run.counts.copied, 400);
    let said = slowed(&run).unwrap();
    assert!(said.starts_with("it asked ") && said.contains(", then no more than 1, and at last "), "{said}");
    server.clear_faults();
    assert_eq!(lab.listed(&point).await, lab.expected());
}

#[tokio::test]
async fn a_restore_and_a_verification_go_down_to_what_the_server_bears() {
    let (server, crowd) = crowded(&["GetObject", "HeadObject"], 1000);
    let lab = Lab::with_store(Arc::new(connect(&server, "vault", Capabilities::ALL).await));
    lab.add_many(300, "a");
    let before = lab.snapshot();
    let copied = lab.copy().await;
    let point = succeeded(&copied);
    assert_eq!(slowed(&copied), None);
    crowd.bears(4);
    for depth in [Depth::Whole, Depth::Quick] {
        let refused = crowd.refused();
        let run = lab.verify(&point, depth).await;
        succeeded(&run);
        assert!(slowed(&run).is_some());
        assert!(crowd.refused() - refused < 200, "{} were refused", crowd.refused() - refused);
    }
    std::fs::remove_dir_all(lab.path("binaries")).unwrap();
    std::fs::create_dir(lab.path("binaries")).unwrap();
    let refused = crowd.refused();
    succeeded(&lab.restore(&point).await);
    assert!(crowd.refused() - refused < 200, "{} were refused", crowd.refused() - refused);
    assert_eq!(lab.snapshot(), before);
}

#[tokio::test]
async fn when_the_server_bears_more_again_more_is_asked_of_it() {
    // So long that a slow machine fills the server as well.
    let (server, crowd) = crowded_for(Duration::from_millis(40), &["PutObject"], 2);
    let store = retrying(&server).await.at_most(32);
    let meter = store.meter();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    put_many(&store, "first", 100, 32).await;
    let low = meter.strain().unwrap().1;
    assert!(low.lowest == 1 && low.limit < 10 && low.is_felt(), "{low:?}");
    assert_eq!(low.busiest, 32);
    crowd.bears(1000);
    let refused = crowd.refused();
    crowd.busiest();
    // One more each time that so many were answered: 1 + 2 + … + 31 of them.
    put_many(&store, "again", 600, 32).await;
    let high = meter.strain().unwrap().1;
    assert_eq!((high.limit, high.is_felt(), crowd.refused()), (32, false, refused));
    assert!(crowd.busiest() > 16);
}

#[tokio::test]
async fn a_ceiling_of_one_is_one_request_at_a_time() {
    let (server, crowd) = crowded(&["PutObject", "UploadPart", "GetObject", "HeadObject"], 1);
    let store: Arc<dyn ObjectStore> = Arc::new(retrying(&server).await.at_most(1));
    put_many(&store, "many", 20, 8).await;
    let upload = store.begin(&key("large")).await.unwrap();
    let (first, second) = (content(1, 6 * MIB), content(2, 6 * MIB));
    let (first, second) = tokio::join!(upload.part(1, first), upload.part(2, second));
    upload.complete(vec![first.unwrap(), second.unwrap()]).await.unwrap();
    assert_eq!(get(&*store, &key("large")).await.len(), 12 * MIB);
    assert_eq!((crowd.busiest(), crowd.refused()), (1, 0));
}

#[tokio::test]
async fn a_download_that_waits_for_its_reader_does_not_keep_the_reader_from_asking_more() {
    let server = Server::start(Options::default());
    let store = retrying(&server).await.at_most(1);
    put(&store, &key("large"), &content(1, 8 * MIB)).await;
    let mut download = store.get(&key("large"), None).await.unwrap();
    let mut bytes = download.chunk().await.unwrap().unwrap().len();
    // Nobody else reads it meanwhile.
    assert_eq!(store.head(&key("large")).await.unwrap().bytes, 8 * MIB as u64);
    while let Some(piece) = download.chunk().await.unwrap() {
        bytes += piece.len();
    }
    assert_eq!(bytes, 8 * MIB);
}

/// A house whose destination has this bandwidth, with some binaries of 512 KiB.
fn house(server: &Server, bandwidth: &str, binaries: u64) -> House {
    let house = House::new(server, "grace = \"5s\"", "parallel = 4");
    let text = std::fs::read_to_string(house.configuration()).unwrap();
    house.configure(&text.replace("[destination.main]\n", &format!("[destination.main]\n{bandwidth}\n")));
    for number in 0..binaries {
        house.add(&content(number, MIB / 2));
    }
    house
}

#[test]
fn the_parallel_of_a_copy_is_the_ceiling_for_parts_as_well() {
    let (server, crowd) = crowded(&["PutObject", "UploadPart", "HeadObject"], 2);
    let house = House::new(&server, "", "parallel = 2");
    for number in 0..2 {
        house.add(&content(number, 20 * MIB));
    }
    let (status, out, err) = house.holdfast(&["run", "copy.binaries", "--json"]);
    assert_eq!(status, Some(0), "{out}{err}");
    // Two more are of the trial of what the server can do.
    assert_eq!((server.count("UploadPart"), crowd.refused()), (8, 0));
    assert_eq!(slowed(&serde_json::from_str(&out).unwrap()), None);
}

#[test]
fn a_reload_that_lifts_the_limit_is_felt_by_a_run_that_waits_for_it() {
    let server = Server::start(Options::default());
    // Several minutes.
    let house = house(&server, "bandwidth = \"16KiB\"", 8);
    let mut service = house.serve();
    service.ready();
    let id = service.order("/jobs/copy.binaries/run", "{}");
    service.eventually("the first binary is sent", || (server.count("PutObject") > 0).then_some(()));
    let text = std::fs::read_to_string(house.configuration()).unwrap();
    house.configure(&text.replace("bandwidth = \"16KiB\"", ""));
    let lifted = Instant::now();
    service.reload();
    let run = service.succeeds(id);
    assert_eq!(run.counts.copied, 8);
    assert!(lifted.elapsed() < Duration::from_secs(15), "{:?}", lifted.elapsed());
    service.stop();
}

#[test]
fn a_run_that_waits_for_its_turn_stops_at_once() {
    let server = Server::start(Options::default());
    let house = house(&server, "bandwidth = [{ limit = \"16KiB\" }]", 8);
    let mut service = house.serve();
    service.ready();
    let id = service.order("/jobs/copy.binaries/run", "{}");
    service.eventually("the first binary is sent", || (server.count("PutObject") > 0).then_some(()));
    let asked = Instant::now();
    assert_eq!(service.ask("DELETE", &format!("/runs/{id}"), "").unwrap().0, 202);
    let run = service.ended(id);
    assert_eq!(run.outcome, Some(Outcome::Cancelled), "{run:?}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    service.stop();
}

#[test]
fn a_limit_holds_for_what_goes_and_what_comes() {
    let server = Server::start(Options::default());
    let house = house(&server, "bandwidth = \"1MiB\"", 8);
    let (status, out, err) = house.holdfast(&["check"]);
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(out.contains("bandwidth: 1.00 MiB/s now"), "{out}");
    let begun = Instant::now();
    let (status, out, err) = house.holdfast(&["run", "copy.binaries", "--json"]);
    assert_eq!(status, Some(0), "{out}{err}");
    // Of 4 MiB, the last 512 KiB need not be paid for.
    assert!(begun.elapsed() >= Duration::from_millis(3400), "{:?}", begun.elapsed());
    let run: Run = serde_json::from_str(&out).unwrap();
    let begun = Instant::now();
    let (status, out, err) = house.holdfast(&["verify", &succeeded(&run)]);
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(begun.elapsed() >= Duration::from_millis(3400), "{:?}", begun.elapsed());
}
