//! SIGHUP, SIGTERM and SIGKILL at every phase of the real service: whatever was cut is closed and done again by the next
//! start, nothing is left half, and to read the configuration again disturbs nobody.
//!
//! A phase is reached by holding a request at the S3 server, or, where no request marks it, by having strace send the
//! signal at a call that does.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use holdfast::jobs::context::Clock as _;
use holdfast::ledger::FILE;
use holdfast::model::run::{Outcome, Run, Trigger};
use holdfast::service::clock::SystemClock;
use jiff::SignedDuration;
use rusqlite::Connection;
use rustix::process::Signal;
use tempfile::TempDir;

use super::lab::files_below;
use super::s3_memory::{Effect, Fault, Options, Server};
use super::served::{Held, House, Service};

const SIGNALS: [Signal; 3] = [Signal::HUP, Signal::TERM, Signal::KILL];

/// What the service is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The n-th call of this name is made before it is ready.
    Starting(&'static str, u32),
    Idle,
    CopyPuts,
    BackupUploads,
    RestoreFetches,
    /// Files are being renamed into the repository.
    RestoreInstalls,
    VerifyReads,
    /// A slot that was missed is recorded: the n-th write to the ledger's log.
    SlotIsRecorded(u32),
    /// A new binary is recorded, and the copy that it started is under way.
    ChangeIsPending,
    /// The configuration is being read again.
    Reloading,
    /// It was told to stop, and a run is on its way to a safe point.
    Stopping,
}

/// Those that need strace.
const AT_CALLS: [Phase; 9] = [
    Phase::Starting("flock", 1),
    Phase::Starting("pwrite64", 1),
    Phase::Starting("pwrite64", 6),
    Phase::Starting("bind", 1),
    Phase::Starting("listen", 1),
    Phase::RestoreInstalls,
    Phase::SlotIsRecorded(1),
    Phase::SlotIsRecorded(3),
    Phase::SlotIsRecorded(6),
];
const AT_REQUESTS: [Phase; 8] = [
    Phase::CopyPuts,
    Phase::BackupUploads,
    Phase::RestoreFetches,
    Phase::VerifyReads,
    Phase::ChangeIsPending,
    Phase::Idle,
    Phase::Reloading,
    Phase::Stopping,
];

/// A repository, made once. Cases have it linked, and never write to its files.
struct Template {
    directory: TempDir,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Template {
    fn new() -> Self {
        let server = Server::start(Options::default());
        let house = House::new(&server, "", "");
        let mut random = fastrand::Rng::with_seed(5);
        for bytes in (0..40).map(|number| 1 + number * 100) {
            let mut content = vec![0; bytes];
            random.fill(&mut content);
            house.add(&content);
        }
        let directory = tempfile::tempdir().unwrap();
        link_all(&house.path("binaries"), &directory.path().join("binaries"));
        Self { files: files_below(&house.path("binaries")), directory }
    }
}

fn link_all(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-al").args([from, to]).status().unwrap();
    assert!(status.success());
}

/// One phase and one signal.
struct Case<'a> {
    template: &'a Template,
    phase: Phase,
    signal: Signal,
    server: Server,
    house: House,
}

impl<'a> Case<'a> {
    fn new(template: &'a Template, phase: Phase, signal: Signal) -> Self {
        let server = Server::start(Options::default());
        let watch = if phase == Phase::ChangeIsPending { "watch = true\npoint_every = \"1s\"" } else { "" };
        let slots = if matches!(phase, Phase::SlotIsRecorded(_)) { "schedule = \"0 0 * * * *\"" } else { "" };
        let house = House::new(&server, "grace = \"25s\"", &format!("{watch}\n{slots}"));
        fs::remove_dir(house.path("binaries")).unwrap();
        link_all(&template.directory.path().join("binaries"), &house.path("binaries"));
        if phase == Phase::BackupUploads {
            // Random, so that it does not shrink on its way into an archive: it goes up in parts.
            let mut content = vec![0; 17 << 20];
            fastrand::Rng::with_seed(6).fill(&mut content);
            house.add(&content);
        }
        Self { template, phase, signal, server, house }
    }

    fn run(self) {
        match self.phase {
            Phase::Starting(call, number) => self.while_starting(call, number),
            Phase::Idle => self.while_idle(),
            Phase::CopyPuts => self.while_held("PutObject", "/binaries/", "/jobs/copy.binaries/run"),
            Phase::BackupUploads => self.while_held("UploadPart", "/archives/", "/jobs/backup.full/run"),
            Phase::RestoreFetches => self.while_held("GetObject", "/binaries/", "/restore"),
            Phase::VerifyReads => self.while_held("GetObject", "/binaries/", "/verify"),
            Phase::RestoreInstalls => self.while_installing(),
            Phase::SlotIsRecorded(write) => self.while_a_slot_is_recorded(write),
            Phase::ChangeIsPending => self.while_a_change_is_pending(),
            Phase::Reloading => self.while_reloading(),
            Phase::Stopping => self.while_stopping(),
        }
    }

    /// A service that gets the signal at a call.
    fn serve_signalled(&self, call: &str, number: u32, path: Option<&Path>) -> Service {
        let name = match self.signal {
            Signal::HUP => "HUP",
            Signal::TERM => "TERM",
            _ => "KILL",
        };
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal={name}:when={number}"));
        let mut wrapper = vec!["strace", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let path = path.map(|path| path.to_str().unwrap());
        wrapper.extend(path.iter().flat_map(|path| ["-P", path]));
        wrapper.push("--");
        self.house.serve_behind(&wrapper, &[])
    }

    /// The service ends as the signal has it.
    #[track_caller]
    fn ends(&self, service: &mut Service) {
        let ended = service.ends();
        // Each thread has a call of its own to be signalled at, so that it may be told twice.
        let twice = matches!(self.phase, Phase::SlotIsRecorded(_)) && ended.code() == Some(130);
        let in_order = ended.code() == Some(0) || twice;
        let as_told = if self.signal == Signal::KILL { ended.signal() == Some(9) } else { in_order };
        assert!(as_told, "{ended}\n{}", service.journal());
        assert!(!service.journal().contains("panicked"), "{}", service.journal());
    }

    /// How a run is closed that the signal cut.
    fn cut(&self, run: &Run) {
        let (outcome, error) = if self.signal == Signal::KILL {
            (Outcome::Interrupted, "the process ended before the run did")
        } else {
            (Outcome::Cancelled, "the service was stopped")
        };
        assert_eq!((run.outcome, run.error.as_deref()), (Some(outcome), Some(error)), "{run:?}");
    }

    fn while_starting(&self, call: &str, number: u32) {
        let mut service = self.serve_signalled(call, number, None);
        if self.signal == Signal::HUP {
            service.ready();
            service.stop();
        } else {
            self.ends(&mut service);
        }
        self.is_whole_in_the_end(&[]);
    }

    fn while_idle(&self) {
        let mut service = self.house.serve();
        service.ready();
        if self.signal == Signal::HUP {
            service.reload();
            service.succeeds(service.order("/jobs/copy.binaries/run", ""));
            service.stop();
        } else {
            service.signal(self.signal);
            self.ends(&mut service);
        }
        self.is_whole_in_the_end(&[]);
    }

    /// What a restore and a verification are of, and what the former has to do.
    fn prepare(&self, service: &Service, path: &str) -> String {
        if path.starts_with("/jobs/") {
            return String::new();
        }
        let point = service.succeeds(service.order("/jobs/copy.binaries/run", "")).result.unwrap();
        if path == "/verify" {
            return format!("{{\"names\": [\"{point}\"]}}");
        }
        for file in self.template.files.keys().step_by(2) {
            fs::remove_file(self.house.path("binaries").join(file)).unwrap();
        }
        format!("{{\"from\": \"{point}\"}}")
    }

    fn while_held(&self, operation: &'static str, part: &'static str, path: &str) {
        let mut service = self.house.serve();
        service.until("READY=1");
        let body = self.prepare(&service, path);
        let held = Held::at(&self.server, operation, part);
        let id = service.order(path, &body);
        held.reached();
        if self.signal == Signal::HUP {
            service.reload();
            assert!(service.get(&format!("/runs/{id}"))["outcome"].is_null(), "it goes on");
            drop(held);
            service.succeeds(id);
            service.stop();
        } else {
            service.signal(self.signal);
            if self.signal == Signal::TERM {
                service.until("STOPPING=1");
            } else {
                service.ends();
            }
            drop(held);
            self.ends(&mut service);
            self.server.wait_until_alone();
        }
        let runs = self.is_whole_in_the_end(&[(path, &body)]);
        let run = runs.iter().find(|run| run.id.get() == id).unwrap();
        if self.signal == Signal::HUP {
            assert_eq!(run.outcome, Some(Outcome::Succeeded), "{run:?}");
        } else {
            self.cut(run);
            is_made_up_for(run, &runs);
        }
    }

    fn while_installing(&self) {
        let mut service = self.serve_signalled("renameat2", 1, None);
        service.until("READY=1");
        let body = self.prepare(&service, "/restore");
        let id = service.order("/restore", &body);
        if self.signal == Signal::HUP {
            service.until("RELOADING=1");
            service.until("READY=1");
            service.succeeds(id);
            service.stop();
        } else {
            self.ends(&mut service);
        }
        let run = self.house.runs().into_iter().find(|run| run.id.get() == id).unwrap();
        // Once files are put in place, it goes on to the end.
        let as_it_ended = if self.signal == Signal::KILL { None } else { Some(Outcome::Succeeded) };
        assert_eq!(run.outcome, as_it_ended, "{run:?}");
        let runs = self.is_whole_in_the_end(&[("/restore", &body)]);
        if self.signal == Signal::KILL {
            self.cut(runs.iter().find(|run| run.id.get() == id).unwrap());
        }
    }

    fn while_a_slot_is_recorded(&self, write: u32) {
        let mut service = self.house.serve();
        service.until("READY=1");
        // The schedule has a mark, and now it is one of yesterday.
        let ledger = self.house.path("state").join(FILE);
        service
            .eventually("the schedule has a mark", || service.get("/status")["jobs"][0]["next_run"].as_str().map(drop));
        let marks = || Connection::open(&ledger).unwrap().query_row("SELECT count(*) FROM slots", [], |row| row.get(0));
        service.eventually("the mark is recorded", || marks().is_ok_and(|marks: u32| marks == 1).then_some(()));
        service.stop();
        let yesterday = SystemClock.now() - SignedDuration::from_hours(24);
        Connection::open(&ledger).unwrap().execute("UPDATE slots SET done = ?", [yesterday.to_string()]).unwrap();
        let mut service = self.serve_signalled("pwrite64", write, Some(&self.house.path("state/ledger.db-wal")));
        let is_over = if self.signal == Signal::HUP {
            service.until("RELOADING=1");
            false
        } else {
            // The writes may be of different threads, so that none makes as many.
            !(service.tells("STATUS=copying") && service.tells("STATUS=idle"))
        };
        assert!(is_over || write > 1 || self.signal == Signal::HUP, "the signal came:\n{}", service.journal());
        if is_over {
            self.ends(&mut service);
        } else {
            service.eventually("the run succeeds", || {
                service.runs().iter().any(|run| run.outcome == Some(Outcome::Succeeded)).then_some(())
            });
            service.stop();
        }
        let runs = self.is_whole_in_the_end(&[]);
        // The slot was acted upon, and no more than once to the end.
        let of_slot: Vec<_> =
            runs.iter().filter(|run| run.trigger == Trigger::Overdue).map(|run| run.outcome).collect();
        let cut = [Some(Outcome::Interrupted), Some(Outcome::Cancelled)];
        let (last, before) = of_slot.split_last().unwrap();
        assert_eq!(*last, Some(Outcome::Succeeded), "{runs:#?}");
        assert!(before.len() <= 1 && before.iter().all(|outcome| cut.contains(outcome)), "{runs:#?}");
        let marks = "SELECT count(*) FROM slots WHERE done > ?";
        let ahead = Connection::open(&ledger).unwrap().query_row(marks, [yesterday.to_string()], |row| row.get(0));
        assert_eq!(ahead, Ok(1));
    }

    fn while_a_change_is_pending(&self) {
        let mut service = self.house.serve();
        service.until("READY=1");
        service.eventually("the store is watched, and what was there is copied", || {
            let status = service.get("/status");
            let watch = &status["jobs"][0]["watch"];
            let copied = status["jobs"][0]["last_run"]["outcome"] == "succeeded";
            let quiet = copied && status["running"].as_array().unwrap().is_empty() && watch["pending"] == 0;
            (quiet && watch["state"] == "watching" && watch["scan_needed"] == false).then_some(())
        });
        let held = Held::at(&self.server, "PutObject", "/binaries/");
        let digest = self.house.add(b"a binary that has just come");
        held.reached();
        assert_eq!(service.get("/status")["jobs"][0]["watch"]["pending"], 1);
        match self.signal {
            Signal::HUP => {
                service.reload();
                drop(held);
                let arrived = || (service.get("/status")["jobs"][0]["watch"]["pending"] == 0).then_some(());
                service.eventually("it is copied", arrived);
                service.stop();
            }
            signal => {
                service.signal(signal);
                if signal == Signal::TERM {
                    service.until("STOPPING=1");
                } else {
                    service.ends();
                }
                drop(held);
                self.ends(&mut service);
                self.server.wait_until_alone();
            }
        }
        let runs = self.is_whole_in_the_end(&[]);
        let key = holdfast::model::key::Key::binary(&digest);
        assert!(self.server.object(&format!("site/{key}")).is_some(), "{runs:#?}");
    }

    fn while_reloading(&self) {
        let mut service = self.house.serve();
        service.until("READY=1");
        let text = fs::read_to_string(self.house.configuration()).unwrap();
        // Whoever reads this configuration waits until somebody writes it.
        let pipe = self.house.path("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fs::rename(&pipe, self.house.configuration()).unwrap();
        service.signal(Signal::HUP);
        service.until("RELOADING=1");
        // Runs go on, and begin.
        service.succeeds(service.order("/jobs/copy.binaries/run", ""));
        service.signal(self.signal);
        if self.signal == Signal::HUP {
            fs::write(self.house.configuration(), &text).unwrap();
            service.until("READY=1");
            service.until("RELOADING=1");
            fs::write(self.house.configuration(), text.replace("[backup.full]", "[backup.other]")).unwrap();
            service.until("READY=1");
            assert_eq!(service.get("/status")["jobs"][1]["job"], "backup.other");
            service.stop();
        } else {
            self.ends(&mut service);
        }
        self.house.configure(&text);
        self.is_whole_in_the_end(&[]);
    }

    fn while_stopping(&self) {
        let mut service = self.house.serve();
        service.until("READY=1");
        let held = Held::at(&self.server, "PutObject", "/binaries/");
        let id = service.order("/jobs/copy.binaries/run", "");
        held.reached();
        service.signal(Signal::TERM);
        service.until("STOPPING=1");
        // What is asked for now is told so, and what is there can be looked at.
        let (status, reason) = service.ask("POST", "/jobs/backup.full/run", "").unwrap();
        assert!(status == 503 && reason.contains("stopping"), "{status} {reason}");
        service.signal(self.signal);
        let ended = if self.signal == Signal::HUP {
            service.until("RELOADING=1");
            drop(held);
            service.ends()
        } else {
            let ended = service.ends();
            drop(held);
            ended
        };
        match self.signal {
            Signal::HUP => assert_eq!(ended.code(), Some(0), "{}", service.journal()),
            // A second one ends it at once.
            Signal::TERM => assert_eq!(ended.code(), Some(130), "{}", service.journal()),
            _ => assert_eq!(ended.signal(), Some(9), "{}", service.journal()),
        }
        self.server.wait_until_alone();
        let runs = self.is_whole_in_the_end(&[]);
        let run = runs.iter().find(|run| run.id.get() == id).unwrap();
        let outcome = if self.signal == Signal::HUP { Outcome::Cancelled } else { Outcome::Interrupted };
        assert_eq!(run.outcome, Some(outcome), "{run:?}");
        is_made_up_for(run, &runs);
    }

    /// The next start is ready and does what is owed; what nobody repeats is asked for once more. Then everything at the
    /// destination is whole, nothing is left half, and the repository is what it was. Gives the runs, oldest first.
    fn is_whole_in_the_end(&self, again: &[(&str, &str)]) -> Vec<Run> {
        let mut service = self.house.serve();
        // What is owed has begun by then.
        service.ready();
        service.eventually("what is owed is done", || {
            let status = service.get("/status");
            let at_work = |list: &str| !status[list].as_array().unwrap().is_empty();
            (!at_work("running") && !at_work("waiting")).then_some(())
        });
        let runs = service.runs();
        assert!(runs.iter().all(|run| run.outcome.is_some()), "{runs:#?}");
        for (path, body) in again {
            service.succeeds(service.order(path, body));
        }
        for job in ["copy.binaries", "backup.full"] {
            service.succeeds(service.order(&format!("/jobs/{job}/run"), ""));
        }
        let points = service.get("/points");
        let names: Vec<&str> = points.as_array().unwrap().iter().map(|point| point["name"].as_str().unwrap()).collect();
        service.succeeds(service.order("/verify", &serde_json::json!({ "names": names }).to_string()));
        service.stop();
        assert_eq!(self.server.uploads(), [], "an upload is left unfinished");
        let mut files = files_below(&self.house.path("binaries"));
        if matches!(self.phase, Phase::ChangeIsPending | Phase::BackupUploads) {
            files.retain(|path, _| self.template.files.contains_key(path));
        }
        assert!(files == self.template.files, "the repository is not what it was");
        runs
    }
}

/// A job is run again by itself, once; a restore and a verification by nobody.
fn is_made_up_for(run: &Run, runs: &[Run]) {
    let overdue: Vec<_> = runs.iter().filter(|other| other.trigger == Trigger::Overdue).collect();
    let is_job = run.job.contains('.');
    assert_eq!(overdue.len(), usize::from(is_job), "{runs:#?}");
    assert!(overdue.iter().all(|other| (&other.job, other.outcome) == (&run.job, Some(Outcome::Succeeded))));
}

/// Tries cases, two at a time; gives what went wrong.
fn try_all(phases: &[Phase]) -> Vec<String> {
    let template = Template::new();
    let cases: Vec<(Phase, Signal)> = phases.iter().flat_map(|phase| SIGNALS.map(|signal| (*phase, signal))).collect();
    let try_some = |start: usize| {
        let mut wrong = Vec::new();
        for (phase, signal) in cases.iter().skip(start).step_by(2) {
            let began = Instant::now();
            let tried = catch_unwind(AssertUnwindSafe(|| Case::new(&template, *phase, *signal).run()));
            eprintln!("{phase:?}, {signal:?}: {} ms", began.elapsed().as_millis());
            if let Err(panic) = tried {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.unwrap_or_else(|| "a test helper panicked".to_owned());
                wrong.push(format!("{phase:?}, {signal:?}: {text}"));
            }
        }
        wrong
    };
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| try_some(1));
        let mut wrong = try_some(0);
        wrong.extend(beside.join().unwrap());
        wrong
    })
}

#[test]
fn a_signal_while_a_request_is_under_way_loses_nothing() {
    let wrong = try_all(&AT_REQUESTS);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_signal_at_a_call_of_the_system_loses_nothing() {
    let strace = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    if !strace.is_ok_and(|status| status.success()) {
        eprintln!("skipped: strace is not installed, so no signal can be sent at a call");
        return;
    }
    let wrong = try_all(&AT_CALLS);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_run_that_reaches_no_safe_point_within_the_grace_is_cut_off_and_made_up_for() {
    let server = Server::start(Options::default());
    let house = House::new(&server, "grace = \"1s\"", "");
    house.add(b"a binary");
    let mut service = house.serve();
    service.until("READY=1");
    server.fault(Fault::at("PutObject", Effect::Hang).below("site/binaries/"));
    let id = service.order("/jobs/copy.binaries/run", "");
    service.eventually("it is being put", || {
        (service.get(&format!("/runs/{id}"))["counts"]["examined"] == 1).then_some(())
    });
    let began = Instant::now();
    service.stop();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(service.journal().contains("runs did not reach a safe point within 1s"), "{}", service.journal());
    server.wait_until_alone();
    server.clear_faults();
    let mut service = house.serve();
    service.until("READY=1");
    service.eventually("it is made up for", || {
        let runs = service.runs();
        let outcomes: Vec<_> = runs.iter().map(|run| (run.trigger, run.outcome)).collect();
        let wanted = [(Trigger::Request, Some(Outcome::Interrupted)), (Trigger::Overdue, Some(Outcome::Succeeded))];
        (outcomes == wanted).then_some(())
    });
    service.stop();
}
