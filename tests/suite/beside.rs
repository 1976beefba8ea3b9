//! What meets in the real service: commands beside it, which it does for them, and work on one repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use holdfast::model::key::Key;
use holdfast::model::run::{Counts, Kind, Outcome, Run, Trigger};
use serde_json::{Value, json};

use super::lab::files_below;
use super::s3_memory::{Effect, Fault, Options, Server};
use super::served::{Held, House, Service};

/// A house with some binaries, and its service.
fn at_home(server: &Server) -> (House, Service, BTreeMap<PathBuf, Vec<u8>>) {
    let house = House::new(server, "", "");
    for number in 0..20 {
        house.add(format!("binary {number}").as_bytes());
    }
    let mut service = house.serve();
    service.ready();
    let files = files_below(&house.path("binaries"));
    (house, service, files)
}

/// The run that a command prints, which must be one of the service.
#[track_caller]
fn done_by(service: &Service, house: &House, arguments: &[&str]) -> Run {
    let (status, out, err) = house.holdfast(&[arguments, &["--json"]].concat());
    assert_eq!(status, Some(0), "{arguments:?}: {out}{err}");
    let run: Run = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    assert_eq!(service.runs().last(), Some(&run), "{arguments:?}");
    assert_eq!((run.trigger, run.outcome), (Trigger::Request, Some(Outcome::Succeeded)), "{run:?}");
    run
}

#[test]
fn commands_beside_the_service_are_done_by_it_and_followed_to_their_end() {
    let server = Server::start(Options::default());
    let (house, mut service, files) = at_home(&server);
    let point = done_by(&service, &house, &["run", "copy.binaries"]).result.unwrap();
    let archive = done_by(&service, &house, &["run", "backup.full"]).result.unwrap();
    done_by(&service, &house, &["run", "copy.binaries", "--full"]);
    assert_eq!(done_by(&service, &house, &["verify", &point, &archive]).kind, Kind::Verify);
    fs::remove_dir_all(house.path("binaries")).unwrap();
    fs::create_dir(house.path("binaries")).unwrap();
    let plan = house.holdfast(&["restore", &archive, "--dry-run", "--json"]);
    let plan: Value = serde_json::from_str(&plan.1).unwrap();
    assert_eq!(plan["fetch"], files.len(), "{plan}");
    // A failure is one of the command as well, and so is what it says of the way out.
    let (status, out, err) = house.holdfast(&["run", "backup.full"]);
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(format!("{out}{err}").contains("--allow-empty"), "{out}{err}");
    done_by(&service, &house, &["run", "backup.full", "--allow-empty"]);
    assert_eq!(done_by(&service, &house, &["restore", &archive, "--yes"]).kind, Kind::Restore);
    assert!(files_below(&house.path("binaries")) == files);
    service.stop();
}

#[test]
fn what_was_refused_is_taken_by_the_next_run_that_somebody_asks_for_though_no_watch_tells_of_it() {
    let server = Server::start(Options::default());
    let house = House::new(&server, "", "watch = true\npoint_every = \"1s\"");
    let mut service = house.serve();
    service.ready();
    let left_out = || service.get("/status")["jobs"][0]["watch"]["left_out"].clone();
    let at_rest = || {
        let status = service.get("/status");
        let watch = &status["jobs"][0]["watch"];
        let watched = watch["state"] == "watching" && watch["scan_needed"] == false && watch["pending"] == 0;
        (watched && status["running"] == json!([]) && status["waiting"] == json!([])).then_some(())
    };
    house.add(b"before");
    service.eventually("the store is watched, and what was there is copied", at_rest);
    server.fault(Fault::at("PutObject", Effect::Status(400, "BadDigest")).below("site/binaries/"));
    let key = format!("site/{}", Key::binary(&house.add(b"refused")));
    service.eventually("it is refused", || left_out().is_string().then_some(()));
    service.eventually("nothing runs any more", at_rest);
    for _ in 0..2 {
        let (status, out, err) = house.holdfast(&["run", "copy.binaries"]);
        assert_eq!(status, Some(3), "{out}{err}");
    }
    let (_, out, _) = house.holdfast(&["status"]);
    assert!(out.contains("; something was left out, see the history"), "{out}");
    server.clear_faults();
    let run_it = || service.succeeds(service.order("/jobs/copy.binaries/run", ""));
    run_it();
    assert_eq!(server.object(&key).as_deref(), Some(b"refused".as_slice()));
    assert!(left_out().is_null());
    // From now on what the watch tells of is enough, unless it has to begin anew just then.
    service.eventually("a run looks at nothing", || {
        let Counts { examined, requests, .. } = run_it().counts;
        ((examined, requests) == (0, 0)).then_some(())
    });
    service.stop();
}

#[test]
fn a_restore_during_a_backup_waits_for_it_and_a_backup_during_a_restore_as_well() {
    let server = Server::start(Options::default());
    let (house, mut service, files) = at_home(&server);
    let point = service.succeeds(service.order("/jobs/copy.binaries/run", "")).result.unwrap();
    let restore = format!("{{\"from\": \"{point}\"}}");
    fs::remove_file(house.path("binaries").join(files.keys().next().unwrap())).unwrap();
    for (operation, first, second) in [
        ("PutObject", ("/jobs/backup.full/run", ""), ("/restore", restore.as_str())),
        ("GetObject", ("/restore", restore.as_str()), ("/jobs/backup.full/run", "")),
    ] {
        let part = if operation == "PutObject" { "/archives/" } else { "/points/" };
        let held = Held::at(&server, operation, part);
        let first = service.order(first.0, first.1);
        held.reached();
        let second = service.order(second.0, second.1);
        let waits = service.get(&format!("/runs/{second}"));
        let message = waits["progress"]["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("waiting for run {first} ")), "{waits}");
        // A second restore of the repository is no third one in the row: it is refused.
        let (status, reason) = service.ask("POST", "/restore", &restore).unwrap();
        assert!(status == 409 && reason.contains("restores the repository `main` already"), "{status} {reason}");
        drop(held);
        let (first, second) = (service.succeeds(first), service.succeeds(second));
        assert!(second.started >= first.finished.unwrap(), "{first:?} {second:?}");
        assert!(files_below(&house.path("binaries")) == files);
    }
    service.stop();
}
