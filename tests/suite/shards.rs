//! A repository that several copy, each a shard of it, to one destination, with no word between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast::jobs::copy::CopyOrder;
use holdfast::jobs::copy::pending::{Following, copy_pending};
use holdfast::jobs::restore::Parts;
use holdfast::jobs::verify::Depth;
use holdfast::model::digest::{Algorithm, Digest};
use holdfast::model::key::Key;
use holdfast::model::layout::Layout;
use holdfast::model::point::PointName;
use holdfast::model::run::{Kind, Outcome, Run};
use holdfast::model::shard::Shard;
use holdfast::repository::walk::{Found, Walk};
use holdfast::store::memory::MemoryStore;
use holdfast::store::{Capabilities, ObjectStore};
use tokio_util::sync::CancellationToken;

use super::conformance::content;
use super::lab::{Lab, sha1};
use crate::s3_memory::{Options, Server};
use crate::s3_store::connect;

const SUCCEEDED: Option<Outcome> = Some(Outcome::Succeeded);
const MIB: usize = 1 << 20;

fn shard(text: &str) -> Shard {
    text.parse().unwrap()
}

/// Machines that copy one repository, each with a ledger of its own, to one destination; the first has the files.
async fn machines(server: &Server, shards: &[&str]) -> Vec<Lab> {
    let mut labs: Vec<Lab> = Vec::new();
    for text in shards {
        let mut lab = Lab::with_store(Arc::new(connect(server, "site", Capabilities::ALL).await));
        lab.shard = Some(shard(text));
        lab.root = labs.first().map(Lab::binaries).map(|store| store.root().to_owned());
        labs.push(lab);
    }
    labs
}

/// The same with a destination in memory.
fn machines_in_memory(shards: &[&str]) -> Vec<Lab> {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new("memory:"));
    let mut labs: Vec<Lab> = Vec::new();
    for text in shards {
        let mut lab = Lab::with_store(Arc::clone(&store));
        lab.shard = Some(shard(text));
        lab.root = labs.first().map(Lab::binaries).map(|store| store.root().to_owned());
        labs.push(lab);
    }
    labs
}

#[track_caller]
fn succeeded(run: &Run) -> String {
    assert_eq!(run.outcome, SUCCEEDED, "{run:#?}");
    run.result.clone().unwrap()
}

/// What of the repository is in the shard of a lab.
fn own(lab: &Lab) -> BTreeMap<Digest, u64> {
    let mut own = lab.expected();
    own.retain(|digest, _| lab.shard.unwrap().contains(digest));
    own
}

/// Contents whose digests are in a shard.
fn contents_in(shard: Shard, seed: &str) -> impl Iterator<Item = Vec<u8>> {
    let content = move |number| format!("{seed} {number}").into_bytes();
    let all = (0_u32..).map(content);
    all.filter(move |content| shard.contains(&Digest::of(Algorithm::Sha1, content)))
}

fn add_in(lab: &Lab, text: &str, seed: &str) -> Digest {
    lab.add(&contents_in(shard(text), seed).next().unwrap())
}

/// Sets the clock to the time at which uploads on the server begin: by the usual one they were abandoned long ago.
fn at_the_servers_time(lab: &Lab) {
    lab.set_clock("2023-11-14T23:00:00Z");
}

/// A content that goes up in parts.
fn large_in(text: &str) -> Vec<u8> {
    let mut large = content(1, 9 * MIB).to_vec();
    while !shard(text).contains(&sha1(&large)) {
        large.push(b'x');
    }
    large
}

/// A document for each binary that refers to it.
fn refer_to(lab: &mut Lab, digests: &[Digest]) {
    let line = |(number, digest): (usize, &Digest)| {
        format!(
            "{{ \"metadata\" : {{ \"id\" : \"node{number}\" }} , \"content\" : {{ \"data\" : {{ \"$sha1\" : \"{digest}\" , \"$len\" : 5 }} }} }}\n"
        )
    };
    lab.write_lines(&digests.iter().enumerate().map(line).collect::<String>());
}

/// How often the server was asked to put each binary, and how often it did.
fn puts(server: &Server) -> BTreeMap<String, (u64, u64)> {
    let mut puts = BTreeMap::<_, (u64, u64)>::new();
    for request in server.requests() {
        if let (Some(name), "PutObject") = (request.key.strip_prefix("site/binaries/"), request.operation) {
            let of = puts.entry(name[9..].to_owned()).or_default();
            of.0 += 1;
            of.1 += u64::from(request.status == Some(200));
        }
    }
    puts
}

#[tokio::test]
async fn two_copies_of_a_half_each_bring_every_binary_once_and_make_points_of_their_own() {
    let server = Server::start(Options::default());
    let labs = machines(&server, &["0-7", "8-f"]).await;
    let [low, high] = &labs[..] else { unreachable!() };
    low.add_many(400, "a");
    let (first, second) = tokio::join!(low.copy(), high.copy());
    let points = [succeeded(&first), succeeded(&second)];
    assert_eq!(first.counts.copied + second.counts.copied, 400);
    // They began in the same second as run 1 of their ledgers, and yet wrote into two directories.
    assert_eq!((first.id, first.started), (second.id, second.started));
    let sent = puts(&server);
    assert_eq!((sent.len(), sent.values().all(|count| *count == (1, 1))), (400, true), "{sent:?}");
    for (lab, point) in labs.iter().zip(&points) {
        let manifest = lab.point_manifest(point).await;
        assert_eq!((manifest.format, manifest.shard, manifest.complete), (2, lab.shard, true));
        assert_eq!(point.parse::<PointName>().unwrap().shard(), lab.shard);
        assert_eq!(lab.listed(point).await, own(lab));
        lab.check_points().await;
        assert_eq!(lab.verify(point, Depth::Whole).await.outcome, SUCCEEDED);
    }
    // Both see what both have made.
    let seen: BTreeSet<_> = low.points().await.into_iter().map(|point| (point.name, point.shard)).collect();
    assert_eq!(seen, points.into_iter().zip([low.shard, high.shard]).collect());
    // What is gone is gone from one of them.
    let gone = *own(high).keys().next().unwrap();
    fs::remove_file(low.binaries().path(&gone)).unwrap();
    server.clear_log();
    let (first, second) = (low.copy().await, high.copy().await);
    assert_eq!((first.counts.removed, first.counts.requests, second.counts.removed), (0, 0, 1));
    assert_eq!(high.listed(&succeeded(&second)).await, own(high));
}

#[tokio::test]
async fn the_same_shard_twice_at_once_by_mistake_is_safe() {
    let server = Server::start(Options::default());
    let labs = machines(&server, &["0-7", "0-7"]).await;
    labs[0].add_many(200, "a");
    labs[0].add(&large_in("0-7"));
    labs.iter().for_each(at_the_servers_time);
    let (first, second) = tokio::join!(labs[0].copy(), labs[1].copy());
    let points = BTreeSet::from([succeeded(&first), succeeded(&second)]);
    assert_eq!(points.len(), 2);
    let sent = puts(&server);
    assert!(sent.values().all(|(_, done)| *done == 1), "{sent:?}");
    assert_eq!(first.counts.copied + second.counts.copied, own(&labs[0]).len() as u64);
    for lab in &labs {
        lab.check_points().await;
        assert_eq!(lab.copy().await.counts.requests, 0);
    }
    assert_eq!(server.uploads(), []);
}

#[tokio::test]
async fn two_whole_copies_that_begin_in_the_same_second_as_the_same_run_overwrite_nothing() {
    let server = Server::start(Options::default());
    let mut labs = machines(&server, &["0-7", "0-7"]).await;
    for (number, lab) in labs.iter_mut().enumerate() {
        (lab.shard, lab.root) = (None, None);
        lab.add_many(20, &format!("{number}"));
    }
    let (first, second) = tokio::join!(labs[0].copy(), labs[1].copy());
    // One of them finds the other's list under the name, and says so.
    let outcomes = BTreeSet::from([first.outcome.unwrap().to_string(), second.outcome.unwrap().to_string()]);
    assert_eq!(outcomes, ["failed", "succeeded"].map(str::to_owned).into());
    for lab in &labs {
        lab.check_points().await;
        let again = lab.copy().await;
        let listed = lab.listed(&succeeded(&again)).await;
        assert!(lab.expected().keys().all(|digest| listed.contains_key(digest)), "{again:?}");
        lab.check_points().await;
    }
}

#[tokio::test]
async fn a_restore_of_one_shard_leaves_all_others_as_they_are() {
    let widths = [
        (Layout::modeshape(), ["0-7", "8-f"]),
        // The directory `7` holds binaries of both.
        (Layout::custom(Algorithm::Sha1, 2, 1, "").unwrap(), ["00-77", "78-ff"]),
        (Layout::custom(Algorithm::Sha1, 1, 4, "").unwrap(), ["00-77", "78-ff"]),
        (Layout::custom(Algorithm::Sha1, 0, 2, "").unwrap(), ["0-7", "8-f"]),
    ];
    for (layout, shards) in widths {
        let mut labs = machines_in_memory(&shards);
        for lab in &mut labs {
            lab.layout = layout.clone();
        }
        let [low, high] = &labs[..] else { unreachable!() };
        low.add_many(120, "a");
        let (lowest, highest) = (low.copy().await, high.copy().await);
        let point = succeeded(&lowest);
        assert_eq!(low.listed(&point).await, own(low), "{layout:?}");
        assert_eq!(high.listed(&succeeded(&highest)).await, own(high), "{layout:?}");
        let before = low.snapshot();
        // The same is done to both halves: one is gone, one is damaged, one has come.
        let path = |digest: &Digest| layout.path(digest);
        let mut expected = before.clone();
        let mut quarantined = Vec::new();
        for (lab, others) in [(low, false), (high, true)] {
            let names: Vec<Digest> = own(lab).into_keys().collect();
            let new = low.add(&contents_in(lab.shard.unwrap(), "new").next().unwrap());
            fs::remove_file(low.binaries().path(&names[0])).unwrap();
            low.write(&names[1], b"damaged");
            if others {
                expected.remove(&path(&names[0]));
                expected.insert(path(&names[1]), b"damaged".to_vec());
                expected.insert(path(&new), low.snapshot()[&path(&new)].clone());
            } else {
                quarantined.push(path(&new));
            }
        }
        let plan = low.plan(&point).await.unwrap();
        assert_eq!((plan.shard, plan.fetch, plan.replace, plan.quarantine), (low.shard, 2, 1, 1), "{layout:?}");
        assert_eq!(plan.keep, own(low).len() as u64 - 2, "{layout:?}");
        // Whoever has the repository in its configuration may restore any shard of it.
        let run = high.restore(&point).await;
        succeeded(&run);
        assert_eq!((run.counts.quarantined, run.counts.skipped), (1, plan.keep), "{layout:?}");
        assert!(low.snapshot() == expected, "{layout:?}");
        let aside = PathBuf::from(run.quarantine.unwrap()).join("binaries");
        assert!(quarantined.iter().all(|name| aside.join(name).is_file()), "{layout:?}");
        let kept = walked(&aside, &layout);
        assert!(kept.iter().all(|digest| low.shard.unwrap().contains(digest)), "{layout:?}: {kept:?}");
    }
}

fn walked(root: &std::path::Path, layout: &Layout) -> Vec<Digest> {
    let store = holdfast::repository::binaries::BinaryStore::at(root, layout);
    let found = Walk::begin(&store, 1).unwrap();
    found.flat_map(|found| if let Found::Binaries(batch) = found { batch } else { panic!("{found:?}") }).collect()
}

#[tokio::test]
async fn a_restore_of_one_shard_does_not_mind_what_is_wrong_with_the_others() {
    let labs = machines_in_memory(&["0-7", "8-f"]);
    let low = &labs[0];
    low.add_many(60, "a");
    let point = succeeded(&low.copy().await);
    let before = own(low);
    let surplus = add_in(low, "0-7", "surplus");
    let lost = *before.keys().next().unwrap();
    fs::remove_file(low.binaries().path(&lost)).unwrap();
    // Bears the name of a directory and is none, so that it cannot be read.
    low.lose_nothing_but_sight_of("ff");
    let run = low.restore(&point).await;
    // What came is not taken away, as it could be the sidecar of a binary that cannot be seen.
    assert_eq!((run.outcome, run.counts.quarantined, &run.quarantine), (Some(Outcome::Partial), 0, &None), "{run:?}");
    assert!(
        run.problems.iter().any(|problem| problem.kind == "surplus" && problem.message.contains("/ff`")),
        "{run:?}"
    );
    assert!(low.binaries().path(&surplus).exists() && low.binaries().path(&lost).exists());
    // Where there are no sidecars nobody has to look there.
    fs::remove_file(low.binaries().path(&lost)).unwrap();
    fs::remove_file(low.binaries().path(&surplus)).unwrap();
    succeeded(&low.restore(&point).await);
    assert_eq!(own(low), before);
    // Nor does a copy, as long as all is well.
    succeeded(&low.copy().await);
}

type Edit<'a> = &'a dyn Fn(&mut serde_json::Value);

#[tokio::test]
async fn a_point_that_hides_its_shard_or_lists_what_is_in_another_is_refused() {
    let labs = machines_in_memory(&["0-7", "8-f"]);
    let low = &labs[0];
    low.add_many(40, "a");
    let [point, other] = [succeeded(&low.copy().await), succeeded(&labs[1].copy().await)];
    let sound = low.manifest(&point).await;
    let before = low.snapshot();
    let others = low.manifest(&other).await;
    let edits: [(Edit<'_>, &str); 5] = [
        (&|manifest| drop(manifest.as_object_mut().unwrap().remove("shard")), "of the whole by what it says"),
        (&|manifest| manifest["shard"] = "8-f".into(), "of the shard 8-f by what it says"),
        (&|manifest| manifest["shard"] = "0-f".into(), "damaged"),
        (&|manifest| manifest["format"] = 1.into(), "it is of format 1"),
        (
            &|manifest| {
                for field in ["lists", "binaries", "bytes"] {
                    manifest[field] = others[field].clone();
                }
            },
            "does not belong to the shard 0-7",
        ),
    ];
    for (edit, complaint) in edits {
        low.edit_manifest(&point, |manifest| edit(manifest)).await;
        let run = low.restore(&point).await;
        assert_eq!(run.outcome, Some(Outcome::Failed), "{complaint}: {run:?}");
        assert!(run.error.clone().unwrap().contains(complaint), "{complaint}: {run:?}");
        assert!(low.snapshot() == before, "{complaint}");
        low.edit_manifest(&point, |manifest| manifest.clone_from(&sound)).await;
    }
    succeeded(&low.restore(&point).await);
}

#[tokio::test]
async fn sidecars_of_binaries_in_another_shard_are_neither_damage_nor_surplus() {
    let labs = machines_in_memory(&["0-7", "8-f"]);
    let low = &labs[0];
    let sidecars = |digest: &Digest| low.layout.sidecars_of(digest).unwrap();
    for digest in low.add_many(60, "a") {
        let [mime_type, text] = sidecars(&digest);
        low.write(&mime_type, b"text/plain");
        low.write(&text, b"the text of it");
    }
    for lab in &labs {
        let run = lab.copy().await;
        succeeded(&run);
        let names: Vec<_> = own(lab).into_keys().collect();
        assert_eq!((run.counts.damaged, run.counts.orphaned_sidecars), (0, 0));
        assert_eq!(run.counts.sidecars + run.counts.copied, names.len() as u64);
        // They are known from now on.
        let again = lab.copy().await;
        assert_eq!((again.counts.sidecars, again.counts.requests), (run.counts.sidecars, 0), "{again:?}");
    }
    let point = succeeded(&low.copy().await);
    // A binary comes in the other shard with a text in this one; and one is damaged that explains nothing.
    let new = contents_in(shard("8-f"), "new")
        .map(|content| (Digest::of(Algorithm::Sha1, &content), content))
        .find(|(digest, _)| low.shard.unwrap().contains(&sidecars(digest)[1]))
        .unwrap();
    low.add(&new.1);
    let text = sidecars(&new.0)[1];
    low.write(&text, b"its text");
    let damaged = add_in(low, "3", "damaged");
    low.write(&damaged, b"not what it was");
    let run = low.copy().await;
    assert_eq!((run.outcome, run.counts.damaged), (Some(Outcome::Partial), 1), "{run:?}");
    assert!(run.problems.iter().any(|problem| problem.kind == "damaged" && problem.subject == damaged.to_string()));
    // A restore takes away what came in its shard, and leaves the text of what came in the other.
    let run = low.restore(&point).await;
    succeeded(&run);
    assert_eq!(run.counts.quarantined, 1, "{run:?}");
    assert!(low.binaries().path(&text).exists() && !low.binaries().path(&damaged).exists());

    // Where the other shard cannot be seen, nobody can tell.
    low.lose_nothing_but_sight_of("ee");
    low.write(&damaged, b"not what it was");
    let run = low.copy().await;
    assert_eq!((run.outcome, run.counts.damaged), (Some(Outcome::Partial), 0), "{run:?}");
    assert!(run.problems.iter().any(|problem| problem.kind == "unexplained"), "{run:?}");
}

impl Lab {
    /// Puts a file in the place of a directory, which then cannot be read.
    fn lose_nothing_but_sight_of(&self, name: &str) {
        let path = self.binaries().root().join(name);
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        fs::write(path, "no directory").unwrap();
    }
}

/// Three machines with a third each; the first has the documents, which refer to everything.
fn with_documents() -> (Vec<Lab>, Vec<Digest>) {
    let mut labs = machines_in_memory(&["0-5", "6-a", "b-f"]);
    let digests = labs[0].add_many(150, "a");
    refer_to(&mut labs[0], &digests);
    (labs, digests)
}

#[tokio::test]
async fn a_whole_repository_comes_back_shard_by_shard_with_its_documents_last() {
    let (labs, _) = with_documents();
    let mut points = Vec::new();
    for lab in &labs {
        points.push(succeeded(&lab.copy().await));
    }
    let all = labs[0].snapshot();
    let documents = labs[0].document_ids();
    let manifest = labs[0].point_manifest(&points[0]).await;
    assert_eq!((manifest.documents.count, manifest.complete), (150, true));
    fs::remove_dir_all(labs[0].binaries().root()).unwrap();
    fs::remove_file(labs[0].path("documents/documents_000001.bin")).unwrap();

    // One machine has the repository in its configuration, and brings all of it back. Too early is refused.
    let lab = &labs[0];
    let early = lab.restore(&points[0]).await;
    assert_eq!(early.outcome, Some(Outcome::Failed));
    let error = early.error.unwrap();
    assert!(error.contains("--binaries-only") && error.contains("nothing was changed"), "{error}");
    assert!(!lab.binaries().root().exists() && lab.document_ids().is_empty());
    for point in points[1..].iter().rev() {
        succeeded(&lab.restore_as(point, |order| order.parts = Parts::Binaries).await);
    }
    succeeded(&lab.restore(&points[0]).await);
    assert!(lab.snapshot() == all);
    assert_eq!(lab.document_ids(), documents);
    // Once more changes nothing, in any order.
    for point in &points {
        let run = lab.restore(point).await;
        assert_eq!((run.outcome, run.counts.copied, run.quarantine), (SUCCEEDED, 0, None));
    }
    assert!(lab.snapshot() == all);
}

#[tokio::test]
async fn documents_of_a_shard_are_restored_only_over_all_they_need_and_named_if_they_alone_are_asked_for() {
    let (labs, digests) = with_documents();
    let lab = &labs[0];
    let point = succeeded(&lab.copy().await);
    let other = succeeded(&labs[1].copy().await);
    let elsewhere = *digests.iter().find(|digest| !lab.shard.unwrap().contains(digest)).unwrap();
    let sound = fs::read(lab.binaries().path(&elsewhere)).unwrap();
    fs::write(lab.path("documents/documents_000001.bin"), "").unwrap();
    // It is there, and not what its name says.
    lab.write(&elsewhere, b"damaged");
    let before = lab.everything();
    let run = lab.restore(&point).await;
    assert_eq!(run.outcome, Some(Outcome::Failed), "{run:?}");
    assert!(run.error.unwrap().contains(&elsewhere.to_string()));
    assert!(lab.everything() == before);
    assert!(lab.plan(&point).await.unwrap_err().to_string().contains("--binaries-only"));
    // Whoever asks for the documents alone gets them, and is told.
    let run = lab.restore_as(&point, |order| order.parts = Parts::Documents).await;
    assert_eq!((run.outcome, run.counts.missing), (Some(Outcome::Partial), 1), "{run:?}");
    assert_eq!(lab.document_ids().len(), 150);
    lab.write(&elsewhere, &sound);
    succeeded(&lab.restore(&point).await);
    // A point without documents takes nothing away that the documents which stay may need.
    let new = add_in(lab, "6-a", "new");
    let run = lab.restore(&other).await;
    assert_eq!((run.outcome, run.counts.quarantined), (SUCCEEDED, 0), "{run:?}");
    assert!(lab.binaries().path(&new).exists());
}

#[tokio::test]
async fn the_proof_of_a_shard_is_of_what_is_in_it_and_says_so() {
    let (mut labs, digests) = with_documents();
    let in_shard = digests.iter().filter(|digest| shard("0-5").contains(digest)).count() as u64;
    let absent_here = contents_in(shard("3"), "absent").next().map(|content| sha1(&content)).unwrap();
    let absent_there = contents_in(shard("c"), "absent").next().map(|content| sha1(&content)).unwrap();
    let run = labs[0].copy().await;
    succeeded(&run);
    assert_eq!((run.counts.references, run.counts.missing), (in_shard, 0), "{run:?}");
    let said = run.problems.iter().find(|problem| problem.kind == "shard").unwrap();
    assert!(said.message.contains(&format!("to {} of other shards", 150 - in_shard)), "{said:?}");
    refer_to(&mut labs[0], &[digests[0], absent_here, absent_there]);
    let run = labs[0].copy().await;
    assert_eq!((run.outcome, run.counts.missing), (Some(Outcome::Partial), 1), "{run:?}");
    assert!(run.problems.iter().any(|problem| problem.kind == "missing" && problem.subject == absent_here.to_string()));
}

#[tokio::test]
async fn whoever_lost_the_ledger_finds_the_points_of_the_own_shard_alone() {
    let server = Server::start(Options::default());
    let mut labs = machines(&server, &["0-7", "8-f"]).await;
    labs[0].add_many(100, "a");
    let own_point = succeeded(&labs[0].copy().await);
    // The other one's is younger.
    labs[1].set_clock("2100-02-01T00:00:00Z");
    succeeded(&labs[1].copy().await);
    let low = &mut labs[0];
    low.lose_the_ledger();
    server.clear_log();
    let run = low.copy().await;
    assert_eq!((run.result.as_deref(), run.counts.copied), (Some(own_point.as_str()), 0), "{run:?}");
    let requests = server.requests();
    let listed: BTreeSet<&str> = requests
        .iter()
        .filter(|request| request.operation == "ListObjectsV2" && request.key.starts_with("site/binaries/"))
        .map(|request| request.key.as_str())
        .collect();
    assert_eq!(listed.len(), 128);
    assert!(listed.iter().all(|prefix| prefix.len() == 17 && prefix.as_bytes()[14] <= b'7'), "{listed:?}");
    // The manifest of the other one was not even looked at.
    assert!(!requests.iter().any(|request| request.operation == "GetObject" && request.key.contains("-80ff-")));
    // With everything gone but the other half, there is nothing to go by.
    low.lose_the_ledger();
    for key in low.keys("points/").await.into_iter().filter(|key| key.contains("-007f-")) {
        low.delete_object(&key).await;
    }
    let run = low.copy().await;
    assert_eq!((run.counts.copied, run.counts.skipped), (0, own(low).len() as u64));
    assert_eq!(low.listed(&succeeded(&run)).await, own(low));
}

#[tokio::test]
async fn one_ledger_keeps_the_series_of_its_shards_apart() {
    let mut lab = machines_in_memory(&["0-7"]).remove(0);
    lab.add_many(80, "a");
    let mut points = Vec::new();
    for _ in 0..2 {
        for text in ["0-7", "8-f"] {
            lab.shard = Some(shard(text));
            let run = lab.copy().await;
            points.push(succeeded(&run));
            assert_eq!(lab.listed(points.last().unwrap()).await, own(&lab));
            if points.len() > 2 {
                assert_eq!(run.counts.requests, 0, "{run:?}");
            }
        }
    }
    assert_eq!(points[..2], points[2..]);
    // What is lost at the destination is noticed by whose it is, and the whole is a series of its own.
    let lost = *own(&lab).keys().next().unwrap();
    lab.delete_object(Key::binary(&lost).as_str()).await;
    lab.shard = Some(shard("0-7"));
    assert_eq!(lab.copy_with(true).await.counts.copied, 0);
    lab.shard = Some(shard("8-f"));
    assert_eq!(lab.copy_with(true).await.counts.copied, 1);
    lab.shard = None;
    let whole = lab.copy().await;
    assert_eq!((whole.counts.copied, whole.counts.skipped), (0, 80));
    assert_eq!(lab.listed(&succeeded(&whole)).await, lab.expected());
    assert_eq!(lab.point_manifest(&whole.result.unwrap()).await.format, 1);
    lab.check_points().await;
}

#[tokio::test]
async fn an_upload_that_another_has_under_way_survives_every_sweep_and_an_abandoned_one_does_not() {
    let server = Server::start(Options::default());
    let labs = machines(&server, &["0-7", "8-f"]).await;
    let low = &labs[0];
    at_the_servers_time(low);
    low.add_many(10, "a");
    let large = large_in("0-7");
    let key = Key::binary(&low.add(&large));
    // Somebody sends the very same binary, and has got as far as the first part.
    let theirs = labs[1].store.begin(&key).await.unwrap();
    let body = bytes::Bytes::from(large.clone());
    let first = theirs.part(1, body.slice(..8 * MIB)).await.unwrap();
    // Ours is cut by a kill: the ledger knows it, and nobody ends it.
    let destination = low.runner.ledger.destination(low.store.place()).unwrap();
    let cut = low.store.begin(&key).await.unwrap().unfinished();
    low.runner.ledger.begin_upload(destination, &key, holdfast::model::run::RunId::new(99)).unwrap();
    low.runner.ledger.name_upload(destination, &key, Some(&cut.id)).unwrap();
    // One of which nothing but the key is known, as the answer to its beginning was lost.
    let unnamed = Key::parse("archives/unnamed.zip").unwrap();
    let lost = low.store.begin(&unnamed).await.unwrap().unfinished();
    low.runner.ledger.begin_upload(destination, &unnamed, holdfast::model::run::RunId::new(99)).unwrap();
    let young = BTreeSet::from([theirs.unfinished().id, lost.id.clone()]);
    let there = |server: &Server| server.uploads().into_iter().map(|(_, id)| id).collect::<BTreeSet<_>>();

    fs::remove_file(low.binaries().path(&key.as_binary().unwrap())).unwrap();
    succeeded(&low.copy().await);
    assert_eq!(there(&server), young);
    succeeded(&low.copy_with(true).await);
    assert_eq!(there(&server), young);
    // They go on where they were.
    let second = theirs.part(2, body.slice(8 * MIB..)).await.unwrap();
    theirs.complete(vec![first, second]).await.unwrap();
    assert_eq!(server.object(&format!("site/{key}")), Some(body));
    low.add(&large);
    let run = low.copy().await;
    assert_eq!((run.outcome, run.counts.skipped), (SUCCEEDED, 1), "{run:?}");
    // A week later nobody has it under way.
    low.set_clock("2023-11-22T23:00:00Z");
    succeeded(&low.copy_with(true).await);
    assert_eq!(there(&server), BTreeSet::new());
}

#[tokio::test]
async fn what_is_pending_of_another_shard_does_not_stay_so() {
    let lab = machines_in_memory(&["0-7"]).remove(0);
    lab.add_many(40, "a");
    let point = succeeded(&lab.copy().await);
    let (mine, foreign) = (add_in(&lab, "0-7", "mine"), add_in(&lab, "8-f", "foreign"));
    let jobs = ["copy.main".to_owned()];
    let seen = "2026-01-01T00:00:00Z".parse().unwrap();
    lab.runner.ledger.add_pending(&jobs, &[(mine, 1), (foreign, 1)], seen).unwrap();
    let run = lab
        .run("copy.main", Kind::Copy, async |run, destination| {
            let mut source = lab.source();
            source.binaries = source.binaries.within(lab.shard);
            let (settle, full, allow_empty) = (lab.settle, false, false);
            let order = CopyOrder { source, destination, parallel: 8, settle, full, allow_empty, scan_rate: None };
            let hurry = CancellationToken::new();
            let following = Following { job: jobs[0].clone(), point_every: Duration::from_mins(5), hurry };
            copy_pending(run, &order, &following).await
        })
        .await;
    let next = succeeded(&run);
    assert_eq!((run.counts.copied, next == point), (1, false), "{run:?}");
    assert_eq!(lab.listed(&next).await, own(&lab));
    assert!(!lab.keys("binaries/").await.contains(&Key::binary(&foreign).to_string()));
    assert_eq!(lab.runner.ledger.backlog(&jobs[0]).unwrap().pending, 0);
}

#[tokio::test]
async fn an_empty_shard_is_implausible_only_by_what_it_had_itself() {
    let mut lab = machines_in_memory(&["0-7"]).remove(0);
    // Nothing is in the shard, and something that is no binary is in the store: the others show what the store is.
    let other = add_in(&lab, "8-f", "a");
    fs::write(lab.binaries().root().join("README"), "").unwrap();
    succeeded(&lab.copy().await);
    add_in(&lab, "0-7", "b");
    succeeded(&lab.copy().await);
    fs::remove_dir_all(lab.binaries().root()).unwrap();
    fs::create_dir(lab.binaries().root()).unwrap();
    lab.write(&other, b"a 0");
    let run = lab.copy().await;
    assert_eq!(run.outcome, Some(Outcome::Failed));
    assert!(run.error.unwrap().contains("it holds no binaries"));
    lab.allow_empty = true;
    let run = lab.copy().await;
    assert_eq!((run.outcome, run.counts.removed), (SUCCEEDED, 1));
    // Nothing of the layout at all is a wrong path, also for a shard.
    let lab = machines_in_memory(&["0-7"]).remove(0);
    fs::write(lab.binaries().root().join("README"), "").unwrap();
    assert!(lab.copy().await.error.unwrap().contains("check `binaries` and `layout`"));
}

/// Machines with a shard each, to which anything may happen in any order.
#[tokio::test]
async fn whatever_happens_to_machines_in_any_order_each_point_is_whole_and_nobody_touches_the_others() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut labs = machines_in_memory(&["0-5", "6-9c", "9d-f"]);
        let mut points: Vec<(Shard, String)> = Vec::new();
        for step in 0..30 {
            let told = format!("seed {seed}, step {step}");
            let at = random.usize(..labs.len());
            match random.u8(..12) {
                0..=3 => drop(labs[0].add_many(random.usize(1..9), &told)),
                4 => {
                    for digest in random.choose_multiple(labs[0].expected().into_keys(), 3) {
                        fs::remove_file(labs[0].binaries().path(&digest)).unwrap();
                    }
                }
                5 => labs[at].lose_the_ledger(),
                6 if !points.is_empty() => {
                    let (shard, point) = random.choice(&points).unwrap();
                    let (before, listed) = (labs[0].expected(), labs[at].listed(point).await);
                    // Whoever does it may have another shard.
                    assert_eq!(labs[at].restore(point).await.outcome, SUCCEEDED, "{told}");
                    let mut expected = before.clone();
                    expected.retain(|digest, _| !shard.contains(digest));
                    expected.extend(listed);
                    assert_eq!(labs[0].expected(), expected, "{told}: {point}");
                }
                _ => {
                    labs[at].allow_empty = true;
                    let full = random.u8(..4) == 0;
                    let run = labs[at].copy_with(full).await;
                    assert_eq!(run.outcome, SUCCEEDED, "{told}: {run:?}");
                    let point = run.result.unwrap();
                    assert_eq!(labs[at].listed(&point).await, own(&labs[at]), "{told}");
                    points.push((labs[at].shard.unwrap(), point));
                }
            }
        }
        let mut all = BTreeMap::new();
        for lab in &mut labs {
            lab.allow_empty = true;
            let run = lab.copy().await;
            all.extend(lab.listed(&succeeded(&run)).await);
            assert_eq!(lab.copy().await.counts.requests, 0, "seed {seed}");
        }
        assert_eq!(all, labs[0].expected(), "seed {seed}");
        labs[0].check_points().await;
    }
}

/// A configuration of one machine; all share the repository and the destination.
fn configuration(directory: &std::path::Path, name: &str, documents: &str, copy: &str) -> PathBuf {
    let file = directory.join(format!("{name}.toml"));
    let text = format!(
        "[service]\nstate_dir = \"state-{name}\"\n[repository.main]\nbinaries = \"binaries\"\n{documents}\
         [destination.main]\nurl = \"file:backups\"\n[copy.binaries]\n{copy}"
    );
    fs::write(&file, text).unwrap();
    file
}

#[track_caller]
fn holdfast(config: &std::path::Path, status: i32, arguments: &[&str]) -> (String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("--config").arg(config).args(arguments).stdin(std::process::Stdio::null());
    let output = command.env_remove("HOLDFAST_CONFIG").output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(status), "{arguments:?}\nout:\n{out}\nerr:\n{err}");
    (out, err)
}

#[test]
fn by_the_commands_two_machines_copy_one_repository_and_a_third_brings_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir(root.join("binaries")).unwrap();
    fs::create_dir(root.join("documents")).unwrap();
    let with_documents = "[repository.main.documents]\ndirectory = \"documents\"\n";
    let low = configuration(root, "low", with_documents, "shard = \"0-7\"\n");
    let high = configuration(root, "high", "", "shard = \"8-f\"\n");
    let third = configuration(root, "third", with_documents, "");
    let layout = Layout::modeshape();
    let mut lines = String::new();
    for number in 0..40 {
        let content = format!("content {number}");
        let digest = sha1(content.as_bytes());
        let path = root.join("binaries").join(layout.path(&digest));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        writeln!(
            lines,
            "{{ \"metadata\" : {{ \"id\" : \"n{number}\" }} , \"content\" : {{ \"data\" : {{ \"$sha1\" : \"{digest}\" , \"$len\" : 5 }} }} }}"
        )
        .unwrap();
    }
    fs::write(root.join("documents/documents_000001.bin"), &lines).unwrap();
    let run = |config: &std::path::Path| -> String {
        let (out, _) = holdfast(config, 0, &["run", "copy.binaries", "--json"]);
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["result"].as_str().unwrap().to_owned()
    };
    let (of_low, of_high) = (run(&low), run(&high));
    let (points, _) = holdfast(&third, 0, &["points", "--json"]);
    let points: serde_json::Value = serde_json::from_str(&points).unwrap();
    let shards: BTreeMap<&str, &str> = points
        .as_array()
        .unwrap()
        .iter()
        .map(|point| (point["name"].as_str().unwrap(), point["shard"].as_str().unwrap()))
        .collect();
    assert_eq!(shards, [(of_low.as_str(), "0-7"), (of_high.as_str(), "8-f")].into());
    assert!(holdfast(&third, 0, &["points"]).0.lines().next().unwrap().contains("SHARD"));
    holdfast(&third, 0, &["verify", &of_low, &of_high]);
    let (_, refusal) = holdfast(&third, 1, &["diff", &of_low, &of_high]);
    assert!(refusal.contains("which have no binary in common"), "{refusal}");
    // A point of the whole, by the third: what a shard has is compared with the same part of it.
    let whole = run(&third);
    let (difference, _) = holdfast(&third, 0, &["diff", &of_low, &whole, "--json"]);
    let difference: serde_json::Value = serde_json::from_str(&difference).unwrap();
    assert_eq!((&difference["shard"], &difference["binaries_added"]["count"]), (&"0-7".into(), &0.into()));

    let before = super::lab::files_below(&root.join("binaries"));
    fs::rename(root.join("binaries"), root.join("lost")).unwrap();
    fs::remove_file(root.join("documents/documents_000001.bin")).unwrap();
    let (_, refusal) = holdfast(&third, 1, &["restore", &of_low, "--yes"]);
    assert!(refusal.contains("--binaries-only") && !root.join("binaries").exists(), "{refusal}");
    let (plan, _) = holdfast(&third, 0, &["restore", &of_high, "--binaries-only", "--dry-run"]);
    assert!(plan.contains("binaries of other shards are not touched"), "{plan}");
    holdfast(&third, 0, &["restore", &of_high, "--binaries-only", "--yes"]);
    holdfast(&third, 0, &["restore", &of_low, "--yes"]);
    assert!(super::lab::files_below(&root.join("binaries")) == before);
    assert_eq!(super::lab::ids_below(&root.join("documents")).len(), 40);
}
