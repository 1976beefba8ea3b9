//! The unit under a real systemd, booted in namespaces of its own by `tests/systemd-lab`: start, reload, a run, a
//! process that is killed, one that hangs, stop, and what the journal says of it all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::geteuid;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything in the lab may take: far longer than it does.
const PATIENCE_SECONDS: u32 = 60;

/// A configuration with a copy to a directory; the service may write only its state directory.
const CONFIGURATION: &str = "
[repository.main]
binaries = \"/srv/store\"
[destination.disk]
url = \"file:/var/lib/holdfast/backups\"
[copy.binaries]
settle = \"20m\"
";
/// Shorter times than the unit's, so that the test does not wait for them.
const DROP_IN: &str = "[Service]\nRestartSec=100ms\nWatchdogSec=3s\n";
/// A binary, and one whose content is not what its name says: a run waits for it to settle.
const GOOD: (&str, &str) = ("b8/02/f3/b802f384302cb24fbab0a44997e820bf2e8507bb", "three");
const UNSETTLED: (&str, &str) = ("fe/05/bc/fe05bcdcdc4928012781a5f1a2a77cbb5398e106", "not one");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A systemd of our own, taken down when the test ends.
struct Machine {
    name: String,
    directory: TempDir,
}

impl Machine {
    /// None where it cannot be had; the reason is printed.
    fn boot() -> Option<Self> {
        let missing = ["/lib/systemd/systemd", "/usr/bin/nsenter"].into_iter().find(|path| !Path::new(path).exists());
        if !geteuid().is_root() || missing.is_some() {
            eprintln!("skipped: a systemd of our own needs root and {}", missing.unwrap_or("root's rights"));
            return None;
        }
        let machine =
            Self { name: format!("holdfast-{}", std::process::id()), directory: tempfile::tempdir().unwrap() };
        let up = machine.lab(&["up"]);
        if !up.status.success() {
            eprintln!("skipped: systemd does not boot here: {}", String::from_utf8_lossy(&up.stderr));
            return None;
        }
        machine.put_text("/etc/holdfast/holdfast.toml", CONFIGURATION);
        machine.put_text("/etc/systemd/system/holdfast.service.d/test.conf", DROP_IN);
        machine.put(&root().join("systemd/holdfast.service"), "/etc/systemd/system/holdfast.service", "644");
        machine.put(Path::new(env!("CARGO_BIN_EXE_holdfast")), "/usr/local/bin/holdfast", "755");
        machine.store(GOOD);
        machine.works(&["systemctl", "daemon-reload"]);
        Some(machine)
    }

    fn lab(&self, arguments: &[&str]) -> Output {
        Command::new(root().join("tests/systemd-lab"))
            .args(arguments)
            .env("LAB_NAME", &self.name)
            .env("LAB_DIR", self.directory.path().join("lab"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn put(&self, file: &Path, to: &str, mode: &str) {
        let put = self.lab(&["put", file.to_str().unwrap(), to, mode]);
        assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    }

    fn put_text(&self, to: &str, text: &str) {
        let file: PathBuf = self.directory.path().join("text");
        fs::write(&file, text).unwrap();
        self.put(&file, to, "644");
    }

    fn store(&self, (path, content): (&str, &str)) {
        self.put_text(&format!("/srv/store/{path}"), content);
    }

    fn exec(&self, command: &[&str]) -> Output {
        self.lab(&[&["exec"], command].concat())
    }

    /// What a command prints that must succeed.
    #[track_caller]
    fn works(&self, command: &[&str]) -> String {
        let done = self.exec(command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            done.status.success(),
            "{command:?}:\n{}{}\n{}",
            text(&done.stdout),
            text(&done.stderr),
            self.journal()
        );
        text(&done.stdout)
    }

    /// What a command says that must fail.
    #[track_caller]
    fn fails(&self, command: &[&str]) -> String {
        let done = self.exec(command);
        assert!(!done.status.success(), "{command:?} succeeded");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }

    #[track_caller]
    fn wait(&self, property: &str) {
        let waited = self.lab(&["wait", "holdfast.service", property, &PATIENCE_SECONDS.to_string()]);
        assert!(waited.status.success(), "{}\n{}", String::from_utf8_lossy(&waited.stderr), self.journal());
    }

    fn property(&self, name: &str) -> String {
        self.works(&["systemctl", "show", "-P", name, "holdfast"]).trim().to_owned()
    }

    fn journal(&self) -> String {
        let journal = self.exec(&["journalctl", "-u", "holdfast", "-o", "cat", "--no-pager"]);
        String::from_utf8_lossy(&journal.stdout).into_owned()
    }

    /// The runs, newest first, as the ledger has them.
    fn history(&self) -> Vec<Value> {
        let runs: Value = serde_json::from_str(&self.works(&["holdfast", "history", "--json"])).unwrap();
        runs.as_array().unwrap().clone()
    }

    /// Starts a copy and comes back when it waits for the unsettled binary.
    fn begin_a_run_that_waits(&self) {
        self.store(UNSETTLED);
        self.works(&["systemd-run", "--quiet", "--collect", "holdfast", "run", "copy.binaries"]);
        self.wait("StatusText=copying (copy.binaries, run *");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.lab(&["kill"]));
    }
}

#[test]
fn the_unit_works_under_a_real_systemd() {
    let Some(machine) = Machine::boot() else { return };
    the_unit_is_sound(&machine);
    a_start_is_ready_and_says_so(&machine);
    a_reload_takes_a_good_file_and_refuses_a_bad_one(&machine);
    what_is_killed_is_started_again_and_its_run_is_done_once_more(&machine);
    what_hangs_is_ended_by_the_watchdog_and_started_again(&machine);
    a_stop_ends_runs_at_a_safe_point(&machine);
    a_store_is_watched_by_a_mark_and_the_right_to_set_it_is_given_up(&machine);
    let journal = machine.journal();
    eprintln!("the journal of the service:\n{journal}");
    assert!(!journal.contains("panicked"), "{journal}");
}

fn the_unit_is_sound(machine: &Machine) {
    let verified = machine.exec(&["systemd-analyze", "verify", "--man=no", "holdfast.service"]);
    let said = [verified.stdout, verified.stderr].concat();
    assert!(verified.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    let judged = machine.works(&["systemd-analyze", "security", "--no-pager", "--threshold=20", "holdfast.service"]);
    eprintln!("{}", judged.lines().last().unwrap_or_default());
}

fn a_start_is_ready_and_says_so(machine: &Machine) {
    machine.works(&["systemctl", "start", "holdfast"]);
    // It returned because the service is ready, and not because it was launched.
    assert_eq!(machine.property("SubState"), "running");
    machine.wait("StatusText=idle*");
    let run = machine.works(&["holdfast", "run", "copy.binaries", "--json"]);
    let run: Value = serde_json::from_str(&run).unwrap();
    assert_eq!((&run["outcome"], &run["counts"]["copied"]), (&"succeeded".into(), &1.into()), "{run}");
    assert!(machine.works(&["holdfast", "status"]).contains("copy.binaries"));
    let line = "run 1 (copy.binaries, request) succeeded after";
    assert!(machine.journal().contains(line), "{}", machine.journal());
}

fn a_reload_takes_a_good_file_and_refuses_a_bad_one(machine: &Machine) {
    machine.put_text("/etc/holdfast/holdfast.toml", &format!("{CONFIGURATION}[backup.full]\n"));
    machine.works(&["systemctl", "reload", "holdfast"]);
    assert!(machine.works(&["holdfast", "status"]).contains("backup.full"));

    machine.put_text("/etc/holdfast/holdfast.toml", &CONFIGURATION.replace("settle", "setle"));
    machine.fails(&["systemctl", "reload", "holdfast"]);
    assert!(machine.journal().contains("unknown key `setle`"), "{}", machine.journal());
    // By signal the service itself reads the file, and says why it does not take it.
    machine.works(&["systemctl", "kill", "--signal=HUP", "--kill-who=main", "holdfast"]);
    let refused = "the configuration stays as it was";
    machine.works(&["timeout", "60", "sh", "-c", &until_the_journal_has(refused)]);
    assert_eq!(machine.property("ActiveState"), "active");

    machine.put_text("/etc/holdfast/holdfast.toml", CONFIGURATION);
    machine.works(&["systemctl", "reload", "holdfast"]);
    let status = machine.works(&["holdfast", "status"]);
    assert!(!status.contains("backup.full"), "{status}");
}

fn until_the_journal_has(text: &str) -> String {
    format!("until journalctl -u holdfast -o cat | grep -qF '{text}'; do sleep 0.1; done")
}

fn what_is_killed_is_started_again_and_its_run_is_done_once_more(machine: &Machine) {
    machine.begin_a_run_that_waits();
    let before = machine.property("MainPID");
    machine.works(&["systemctl", "kill", "--signal=KILL", "--kill-who=main", "holdfast"]);
    machine.wait("NRestarts=1");
    machine.wait("ActiveState=active");
    assert_ne!(machine.property("MainPID"), before);
    machine.wait("StatusText=copying (copy.binaries, run *");
    let runs = machine.history();
    assert_eq!((&runs[0]["trigger"], &runs[0]["outcome"]), (&"overdue".into(), &Value::Null), "{runs:#?}");
    assert_eq!(runs[1]["outcome"], "interrupted", "{runs:#?}");
}

fn what_hangs_is_ended_by_the_watchdog_and_started_again(machine: &Machine) {
    machine.works(&["systemctl", "kill", "--signal=STOP", "--kill-who=main", "holdfast"]);
    machine.wait("NRestarts=2");
    machine.wait("ActiveState=active");
    machine.wait("StatusText=copying (copy.binaries, run *");
    let runs = machine.history();
    assert_eq!(runs[1]["outcome"], "interrupted", "{runs:#?}");
}

fn a_stop_ends_runs_at_a_safe_point(machine: &Machine) {
    machine.works(&["systemctl", "stop", "holdfast"]);
    assert_eq!((machine.property("Result"), machine.property("SubState")), ("success".into(), "dead".into()));
    let runs = machine.history();
    assert_eq!((&runs[0]["outcome"], &runs[0]["error"]), (&"cancelled".into(), &"the service was stopped".into()));
    // Cut by the stop, and not by whoever asked for it: it is done at the next start, now that the file is right.
    machine.store((UNSETTLED.0, "one"));
    machine.works(&["systemctl", "start", "holdfast"]);
    machine.wait("StatusText=idle*");
    let runs = machine.history();
    assert_eq!((&runs[0]["trigger"], &runs[0]["outcome"]), (&"overdue".into(), &"succeeded".into()), "{runs:#?}");
    machine.works(&["systemctl", "stop", "holdfast"]);
}

fn a_store_is_watched_by_a_mark_and_the_right_to_set_it_is_given_up(machine: &Machine) {
    // The root of the lab is an overlay, which cannot be marked.
    machine.works(&["mkdir", "-p", "/srv/marked"]);
    machine.works(&["mount", "-t", "tmpfs", "none", "/srv/marked"]);
    machine.works(&["cp", "-r", "/srv/store/.", "/srv/marked"]);
    let watched = CONFIGURATION.replace("/srv/store", "/srv/marked") + "watch = true\n";
    machine.put_text("/etc/holdfast/holdfast.toml", &watched);
    machine.works(&["systemctl", "start", "holdfast"]);
    let is_watched = "until holdfast status | grep 'watching by fanotify$'; do sleep 0.1; done";
    machine.works(&["timeout", "60", "sh", "-c", is_watched]);
    let checked = machine.works(&["holdfast", "check"]);
    assert!(checked.contains("the service watches all of it by fanotify"), "{checked}");
    let process = format!("/proc/{}/status", machine.property("MainPID"));
    let held = machine.works(&["grep", "^Cap", &process]);
    let sets: Vec<u64> = ["CapInh", "CapPrm", "CapEff", "CapAmb"]
        .iter()
        .map(|set| {
            let line = held.lines().find(|line| line.starts_with(set)).unwrap();
            u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()
        })
        .collect();
    // Only CAP_DAC_READ_SEARCH, number 2, is left of the two.
    assert_eq!(sets, [4; 4], "{held}");

    let (path, content) = ("ad/78/2e/ad782ecdac770fc6eb9a62e44f90873fb97fb26b", "two");
    let add = format!("cd /srv/marked && mkdir -p $(dirname {path}) && printf {content} > new && mv new {path}");
    machine.works(&["sh", "-c", &add]);
    let copied = format!("until test -s /var/lib/holdfast/backups/binaries/{path}; do sleep 0.1; done");
    machine.works(&["timeout", "60", "sh", "-c", &copied]);
    machine.works(&["systemctl", "stop", "holdfast"]);
}
