//! Bad luck of the machine around the real service: a second service, a full disk, a destination that is away, and a
//! clock that is set.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast::model::run::{Outcome, Run, Trigger};
use jiff::{SignedDuration, Timestamp};
use rustix::process::geteuid;
use serde_json::Value;

use super::s3_memory::{Effect, Fault, Options, Server};
use super::served::{Held, House, Service};

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_second_service_in_a_state_directory_is_refused_and_the_first_does_not_notice() {
    let server = Server::start(Options::default());
    let house = House::new(&server, "", "");
    house.add(b"a binary");
    let mut first = house.serve();
    first.until("READY=1");
    let held = Held::at(&server, "PutObject", "/binaries/");
    let id = first.order("/jobs/copy.binaries/run", "");
    held.reached();
    let (status, out, err) = house.holdfast(&["serve"]);
    assert_eq!((status, out.as_str()), (Some(1), ""), "{err}");
    let holder = format!("is in use by process {} (serve): wait until it ends, or stop it", first.child());
    assert!(err.contains(&house.path("state").display().to_string()) && err.contains(&holder), "{err}");
    // Neither its run nor its socket was touched.
    assert!(first.get(&format!("/runs/{id}"))["outcome"].is_null());
    drop(held);
    first.succeeds(id);
    assert_eq!(first.runs().len(), 1);
    first.stop();
}

#[test]
fn a_second_service_at_a_port_in_use_is_refused_with_the_address_and_the_first_goes_on() {
    let server = Server::start(Options::default());
    let port = free_port();
    let listen = format!("listen = \"127.0.0.1:{port}\"");
    let (house, other) = (House::new(&server, &listen, ""), House::new(&server, &listen, ""));
    let mut first = house.serve();
    first.until("READY=1");
    let (status, out, err) = other.holdfast(&["serve"]);
    assert_eq!((status, out.as_str()), (Some(1), ""), "{err}");
    let said =
        [&format!("listen on 127.0.0.1:{port}: "), "another program listens there", "another `listen` in [service]"];
    assert!(said.iter().all(|said| err.contains(*said)), "{err}");
    assert!(!other.path("state/holdfast.sock").exists(), "what was bound before is given back");
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    first.succeeds(first.order("/jobs/copy.binaries/run", ""));
    first.stop();
    // With the port free, or another one, it starts.
    let mut second = other.serve();
    second.until("READY=1");
    second.stop();
}

/// A program before the service that gives it a small file system of its own at `$STATE`; none where that may not be had.
fn small_disk() -> Option<Vec<&'static str>> {
    const SCRIPT: &str = "mount -t tmpfs -o size=2m,mode=700 tmpfs \"$STATE\" && exec \"$@\"";
    let mut wrapper = vec!["unshare", "-m", "--propagation", "private"];
    if !geteuid().is_root() {
        wrapper.extend(["-U", "-r"]);
    }
    wrapper.extend(["sh", "-c", SCRIPT, "sh"]);
    let scratch = tempfile::tempdir().unwrap();
    let mut tried = Command::new(wrapper[0]);
    tried.args(&wrapper[1..]).arg("true").env("STATE", scratch.path()).stderr(Stdio::null());
    tried.status().is_ok_and(|status| status.success()).then_some(wrapper)
}

/// Whether a job has copied everything, and its store is watched.
fn is_at_rest(job: &Value) -> bool {
    let watch = &job["watch"];
    let watched = watch["state"] == "watching" && watch["pending"] == 0 && watch["scan_needed"] == false;
    watched && job["last_run"]["outcome"] == "succeeded"
}

/// Writes until there is no room any more; gives the file.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {}
    }
    path
}

#[test]
fn with_a_full_disk_under_the_ledger_it_says_so_stays_up_and_catches_up_when_there_is_room() {
    let Some(wrapper) = small_disk() else {
        eprintln!("skipped: this user may mount nothing, not even in a namespace of its own");
        return;
    };
    let server = Server::start(Options::default());
    let house = House::new(&server, "", "watch = true\nschedule = \"* * * * * *\"");
    fs::create_dir(house.path("state")).unwrap();
    house.add(b"there before");
    let mut service = house.serve_behind(&wrapper, &[("STATE", house.path("state").as_os_str())]);
    service.until("READY=1");
    let inside = Path::new("/proc").join(service.child().to_string()).join("root");
    service.see_state_at(inside.join(house.path("state").strip_prefix("/").unwrap()));
    service.eventually("the store is watched, and what was there is copied", || {
        is_at_rest(&service.get("/status")["jobs"][0]).then_some(())
    });

    // A run is under way when the disk becomes full.
    let held = Held::at(&server, "PutObject", "/archives/");
    let cut = service.order("/jobs/backup.full/run", "");
    held.reached();
    let filler = fill(&house_state(&service, &house));
    // Each asks for a run of its own, for which there may be room in what the ledger has already.
    let refused = service.eventually("a run by request is refused", || {
        let (status, body) = service.ask("POST", "/verify", r#"{"names": ["20200101T000000Z-1"]}"#).unwrap();
        (status != 202).then_some((status, body))
    });
    assert_eq!(refused, (500, r#"{"reason":"internal error: the journal of the service says more"}"#.to_owned()));
    drop(held);
    let late = house.add(b"comes while the disk is full");
    let said = ["database or disk is full", "follow the schedules: ", "answer a request: "];
    service.eventually("all parts of it say so", || {
        let journal = service.journal();
        said.iter().all(|said| journal.contains(said)).then_some(())
    });
    // Whoever looks is answered, and what runs is shown.
    assert_eq!(service.ask("GET", "/healthz", "").unwrap().0, 200);
    assert_eq!(service.get("/status")["stopping"], false);
    let before = service.runs().last().unwrap().id;

    fs::remove_file(filler).unwrap();
    service.eventually("the new binary is copied", || {
        server.object(&format!("site/{}", holdfast::model::key::Key::binary(&late)))
    });
    service.eventually("the run that could not be recorded is", || {
        let run: Run = serde_json::from_value(service.get(&format!("/runs/{cut}"))).unwrap();
        run.outcome
    });
    service.eventually("the schedules are followed again", || {
        let after = |run: &Run| run.id > before && run.trigger == Trigger::Schedule;
        service.runs().iter().any(|run| after(run) && run.outcome == Some(Outcome::Succeeded)).then_some(())
    });
    service.eventually("nothing is left to be copied", || {
        let watch = &service.get("/status")["jobs"][0]["watch"];
        (watch["pending"] == 0 && watch["scan_needed"] == false).then_some(())
    });
    service.succeeds(service.order("/jobs/backup.full/run", ""));
    assert!(service.journal().contains("the schedules are followed again"), "{}", service.journal());
    service.stop();
}

/// Where the test sees the state directory of a service that has a file system of its own.
fn house_state(service: &Service, house: &House) -> PathBuf {
    let inside = Path::new("/proc").join(service.child().to_string()).join("root");
    inside.join(house.path("state").strip_prefix("/").unwrap())
}

/// What fakes the time of a process; none if it is not installed.
fn libfaketime() -> Option<PathBuf> {
    let found = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].iter().flat_map(|root| {
        let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        below.chain([PathBuf::from(root)]).map(|directory| directory.join("faketime/libfaketimeMT.so.1"))
    });
    let found = found.into_iter().find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: libfaketime is not installed (apt-get install faketime)");
    }
    found
}

/// How long a destination is away.
enum Away {
    For(SignedDuration),
    ForRuns(usize),
}

/// Lets a destination go away, for as long as it says, and come back. For the service time passes faster than here, so
/// that it waits as it always does; and so the test is soon too slow a client for it.
fn comes_and_goes(house: &House, speed: &str, go: impl FnOnce(), away: &Away, come: impl FnOnce()) {
    let Some(library) = libfaketime() else { return };
    house.add(b"there before");
    let speed = format!("+0 {speed}");
    let variables = [("LD_PRELOAD", library.as_os_str()), ("FAKETIME", OsStr::new(&speed))];
    let mut service = house.serve_behind(&[], &variables);
    service.until("READY=1");
    let at_rest = |service: &Service| {
        let status = service.try_get("/status")?;
        let idle = status["running"].as_array().unwrap().is_empty() && status["waiting"].as_array().unwrap().is_empty();
        (idle && is_at_rest(&status["jobs"][0])).then_some(())
    };
    service.eventually("what was there is copied", || at_rest(&service));
    let before = house.runs().len();

    go();
    house.add(b"comes while it is away");
    let failed = service.eventually("runs fail", || {
        let runs = house.runs();
        let failed: Vec<Run> =
            runs.into_iter().skip(before).filter(|run| run.outcome == Some(Outcome::Failed)).collect();
        let (first, last) = (failed.first()?, failed.last()?);
        let enough = match away {
            Away::For(time) => last.started.duration_since(first.started) > *time,
            Away::ForRuns(runs) => failed.len() >= *runs,
        };
        enough.then_some(failed)
    });
    // It says so, to whoever looks and in the journal, and is up all the while. Later and later: there are few tries.
    let status = service.eventually("it answers", || service.try_get("/status"));
    assert_eq!(status["jobs"][0]["watch"]["pending"], 1);
    assert!(failed.iter().all(|run| run.error.is_some()) && failed.len() <= 12, "{failed:#?}");
    let journal = service.journal();
    assert!(
        journal.contains(") failed after") && journal.contains("copy.binaries is tried again in 2 min"),
        "{journal}"
    );

    come();
    service.eventually("it catches up", || at_rest(&service));
    let last = house.runs().pop().unwrap();
    assert_eq!((last.outcome, last.trigger == Trigger::Request), (Some(Outcome::Succeeded), false), "{last:?}");
    service.stop();
    let (status, out, err) = house.holdfast(&["points", "--json"]);
    assert_eq!(status, Some(0), "{err}");
    let points: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(points[0]["binaries"], 2, "{points}");
}

#[test]
fn a_destination_that_is_away_for_an_hour_and_back_is_caught_up_with_by_itself() {
    let house = House::with_destination("url = \"file:disk/backups\"", "", "watch = true");
    let (disk, away) = (house.path("disk"), house.path("away"));
    fs::create_dir(&disk).unwrap();
    let (go, come) = (|| fs::rename(&disk, &away).unwrap(), || fs::rename(&away, &disk).unwrap());
    comes_and_goes(&house, "x600", go, &Away::For(SignedDuration::from_hours(1)), come);
}

#[test]
fn a_server_that_is_away_for_some_minutes_and_back_is_caught_up_with_by_itself() {
    let server = Server::start(Options::default());
    let house = House::new(&server, "", "watch = true");
    let go = || server.fault(Fault::anywhere(Effect::Status(503, "ServiceUnavailable")));
    // Not longer: the server refuses whose clock is a quarter of an hour ahead.
    comes_and_goes(&house, "x100", go, &Away::ForRuns(2), || server.clear_faults());
}

/// A clock of a process that a file sets.
struct Clock {
    file: PathBuf,
}

impl Clock {
    /// From this moment on it is this time.
    fn set(&self, time: Timestamp) {
        // It stands still, so that a slot is passed only when the test says so.
        fs::write(self.file.with_extension("new"), time.strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap();
        fs::rename(self.file.with_extension("new"), &self.file).unwrap();
    }
}

fn to_the_minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M").to_string()
}

/// How often it said that its clock was set.
fn looks_at_another_clock(service: &Service) -> usize {
    service.journal().matches("the clock was set ").count()
}

#[test]
fn a_clock_that_is_set_back_and_forth_under_the_service_neither_loses_nor_repeats_a_slot() {
    let Some(library) = libfaketime() else { return };
    let house = House::with_destination("url = \"file:backups\"", "history = \"36500d\"", "schedule = \"0 0 * * * *\"");
    house.add(b"a binary");
    let clock = Clock { file: house.path("clock") };
    let at = |text: &str| -> Timestamp { format!("2026-03-{text}:30Z").parse().unwrap() };
    clock.set(at("02T10:05"));
    let variables = [
        ("LD_PRELOAD", library.as_os_str()),
        ("FAKETIME_TIMESTAMP_FILE", clock.file.as_os_str()),
        ("FAKETIME_NO_CACHE", OsStr::new("1")),
        // Timers must go on: only what the clock says is set.
        ("FAKETIME_DONT_FAKE_MONOTONIC", OsStr::new("1")),
        ("TZ", OsStr::new("UTC")),
    ];
    let mut service = house.serve_behind(&[], &variables);
    service.until("READY=1");
    let next = |service: &Service| service.get("/status")["jobs"][0]["next_run"].as_str().unwrap().to_owned();
    service.eventually("the first slot is planned", || (next(&service) == "2026-03-02T11:00:00Z").then_some(()));

    let mut expected: Vec<String> = Vec::new();
    // Where the clock is put, the slot that then has its run, and the next one.
    for (time, begun, planned) in [
        ("02T11:00", true, "2026-03-02T12:00:00Z"),
        // Forward over three slots: one run for all of them.
        ("02T14:30", true, "2026-03-02T15:00:00Z"),
        // Back over them: they had their run.
        ("02T10:30", false, "2026-03-02T15:00:00Z"),
        ("02T12:00", false, "2026-03-02T15:00:00Z"),
        ("02T14:59", false, "2026-03-02T15:00:00Z"),
        ("02T15:00", true, "2026-03-02T16:00:00Z"),
        // A day forth, as somebody erred, and back again: no slot of that day comes twice.
        ("03T15:10", true, "2026-03-03T16:00:00Z"),
        ("02T15:20", false, "2026-03-03T16:00:00Z"),
        ("03T16:00", true, "2026-03-03T17:00:00Z"),
    ] {
        // The second look begins when the first has ended, and with it whatever it had to do.
        for time in [at(time), at(time) + SignedDuration::from_secs(15)] {
            let looks = looks_at_another_clock(&service);
            clock.set(time);
            // It looks at the clock every half minute; now it looks at once.
            service.reload();
            service.eventually("it looks at the clock", || (looks_at_another_clock(&service) > looks).then_some(()));
        }
        if begun {
            expected.push(to_the_minute(at(time)));
        }
        let begun = service.eventually("no run is under way", || {
            let runs = service.runs();
            runs.iter().all(|run| run.outcome.is_some()).then_some(runs)
        });
        assert_eq!(next(&service), planned, "at {time}");
        let times: Vec<String> = begun.iter().map(|run| to_the_minute(run.activated)).collect();
        assert_eq!(times, expected, "at {time}");
    }
    let good = |run: &Run| (run.trigger, run.outcome) == (Trigger::Schedule, Some(Outcome::Succeeded));
    assert!(service.runs().iter().all(good), "{:#?}", service.runs());
    // Stopped, set and started again it is the same.
    service.stop();
    clock.set(at("03T12:00"));
    let mut service = house.serve_behind(&[], &variables);
    service.ready();
    assert_eq!(service.runs().len(), expected.len());
    service.stop();
    clock.set(at("03T19:00"));
    let mut service = house.serve_behind(&[], &variables);
    service.until("READY=1");
    let last = service.eventually("what was missed is run once", || {
        service.runs().into_iter().nth(expected.len()).filter(|run| run.outcome.is_some())
    });
    assert_eq!((last.trigger, last.outcome), (Trigger::Overdue, Some(Outcome::Succeeded)), "{last:?}");
    assert_eq!(service.runs().len(), expected.len() + 1);
    service.stop();
}
