//! The program as people and scripts call it: exit statuses, what stands on which output, and signals.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use holdfast::ledger::StateLock;
use holdfast::model::digest::{Algorithm, Digest};
use holdfast::model::layout::Layout;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::s3_memory::{ACCESS_KEY, Options, SECRET_KEY, Server};

/// A repository, a configuration and a state directory.
struct Site(TempDir);

/// How a call ended.
struct Ended {
    status: i32,
    out: String,
    err: String,
}

impl Ended {
    #[track_caller]
    fn exits(self, status: i32) -> Self {
        assert_eq!(self.status, status, "out:\n{}\nerr:\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in:\n{}", self.out))
    }

    #[track_caller]
    fn complains(&self, text: &str) {
        assert!(self.err.contains(text), "no `{text}` in:\n{}", self.err);
    }
}

impl Site {
    /// With a destination in a directory.
    fn new() -> Self {
        Self::with_destination("url = \"file:backups\"")
    }

    /// With a destination in the server's bucket.
    fn in_s3(server: &Server, secret_key: &str) -> Self {
        let site = Self::with_destination(&format!(
            "url = \"s3://{}/site\"\nendpoint = \"{}\"\npath_style = true\n\
             credentials = {{ access_key_file = \"access\", secret_key_file = \"secret\" }}",
            server.bucket(),
            server.endpoint()
        ));
        fs::write(site.path("access"), format!("{ACCESS_KEY}\n")).unwrap();
        fs::write(site.path("secret"), format!("{secret_key}\n")).unwrap();
        fs::set_permissions(site.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        site
    }

    fn with_destination(destination: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        fs::create_dir(site.path("binaries")).unwrap();
        let text = format!(
            "[service]\nstate_dir = \"state\"\nlisten = []\n[repository.main]\nbinaries = \"binaries\"\n\
             [destination.main]\n{destination}\n[copy.binaries]\nparallel = 1\nsettle = \"0s\"\n[backup.full]\n"
        );
        fs::write(site.path("holdfast.toml"), text).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn binary(&self, content: &str) -> Digest {
        let digest = Digest::of(Algorithm::Sha1, content.as_bytes());
        self.file_of(&digest, content);
        digest
    }

    fn file_of(&self, digest: &Digest, content: &str) {
        let path = self.path("binaries").join(Layout::modeshape().path(digest));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn content_of(&self, store: &str, digest: &Digest) -> String {
        fs::read_to_string(self.path(store).join(Layout::modeshape().path(digest))).unwrap()
    }

    /// Copies; gives the restore point.
    fn copy(&self) -> String {
        let run = self.holdfast(&["run", "copy.binaries", "--json"]).exits(0).json();
        let point = run["result"].as_str().unwrap();
        assert_eq!(run["url"].as_str().unwrap().rsplit('/').next(), Some(point), "{run}");
        point.to_owned()
    }

    fn holdfast(&self, arguments: &[&str]) -> Ended {
        holdfast(&self.path("holdfast.toml"), arguments)
    }

    fn history(&self) -> Vec<Value> {
        self.holdfast(&["history", "--json"]).exits(0).json().as_array().unwrap().clone()
    }
}

fn command(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(arguments).arg("--config").arg(config).stdin(Stdio::null());
    command.env_remove("HOLDFAST_CONFIG");
    command
}

fn holdfast(config: &Path, arguments: &[&str]) -> Ended {
    let output = command(config, arguments).output().unwrap();
    Ended {
        status: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Holds the server at the first binary that is put, until told to go on.
struct Barrier {
    reached: Receiver<()>,
    go_on: Sender<()>,
}

impl Barrier {
    fn in_front_of(server: &Server) -> Self {
        let (reached_to, reached) = channel();
        let (go_on, waits) = channel::<()>();
        let waits = Mutex::new(waits);
        server.on_request(move |operation, key| {
            // After the first the other end is gone, and nothing is held any more.
            if operation == "PutObject" && key.contains("/binaries/") && reached_to.send(()).is_ok() {
                let (Ok(()) | Err(_)) = waits.lock().unwrap().recv();
            }
        });
        Self { reached, go_on }
    }

    /// Starts a run and waits until it stands before the server.
    fn reached_by(&self, site: &Site) -> Child {
        let mut command = command(&site.path("holdfast.toml"), &["run", "copy.binaries", "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.reached.recv().expect("the run puts a binary");
        child
    }
}

#[test]
fn init_writes_a_configuration_that_is_read_and_never_overwrites_one() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("holdfast.toml");
    let init = || holdfast(&file, &["init", "--binaries", "/srv/store", "--url", "file:///var/backups"]);
    let first = init().exits(0);
    assert!(first.out.contains("holdfast check"), "{}", first.out);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("/srv/store") && text.contains("file:///var/backups"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777 & !0o640, 0);
    init().exits(2).complains("there is such a file already");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn init_says_what_to_do_where_the_directory_is_missing_or_an_argument_is_wrong() {
    let scratch = tempfile::tempdir().unwrap();
    let below = scratch.path().join("missing/holdfast.toml");
    holdfast(&below, &["init"]).exits(2).complains("mkdir -p");
    let file = scratch.path().join("holdfast.toml");
    holdfast(&file, &["init", "--url", "ftp://host/"]).exits(2).complains("way out");
    assert!(!file.exists());
}

#[test]
fn an_unknown_job_is_a_usage_error_that_lists_the_jobs() {
    let site = Site::new();
    let ended = site.holdfast(&["run", "copy.nothing"]).exits(2);
    ended.complains("copy.binaries, backup.full");
    assert!(!site.path("state").exists());
}

#[test]
fn full_goes_with_a_copy_only() {
    Site::new().holdfast(&["run", "backup.full", "--full"]).exits(2).complains("backup.full");
}

#[test]
fn a_copy_prints_its_run_as_json_and_nothing_else_on_standard_output() {
    let site = Site::new();
    site.binary("one");
    site.binary("two");
    let run = site.holdfast(&["run", "copy.binaries", "--json"]).exits(0).json();
    assert_eq!((&run["id"], &run["job"], &run["kind"]), (&1.into(), &"copy.binaries".into(), &"copy".into()));
    assert_eq!((&run["trigger"], &run["outcome"]), (&"request".into(), &"succeeded".into()));
    assert_eq!((&run["counts"]["copied"], &run["counts"]["bytes"]), (&2.into(), &6.into()));
    assert!(run["started"].is_string() && run["finished"].is_string() && run["result"].is_string());
}

#[test]
fn a_second_copy_copies_nothing_and_has_the_same_restore_point() {
    let site = Site::new();
    site.binary("one");
    let first = site.holdfast(&["run", "copy.binaries", "--json"]).exits(0).json();
    let second = site.holdfast(&["run", "copy.binaries", "--json"]).exits(0).json();
    assert_eq!(second["counts"]["copied"], 0);
    assert_eq!(second["result"], first["result"]);
}

#[test]
fn points_show_what_a_copy_made_with_and_without_a_ledger() {
    let site = Site::new();
    site.binary("one");
    let run = site.holdfast(&["run", "copy.binaries", "--json"]).exits(0).json();
    let points = site.holdfast(&["points", "--json"]).exits(0).json();
    assert_eq!(points.as_array().unwrap().len(), 1);
    assert_eq!((&points[0]["name"], &points[0]["kind"]), (&run["result"], &"point".into()));
    assert_eq!((&points[0]["repository"], &points[0]["binaries"]), (&"main".into(), &1.into()));
    assert_eq!((&points[0]["bytes"], &points[0]["complete"]), (&3.into(), &true.into()));
    fs::remove_dir_all(site.path("state")).unwrap();
    assert_eq!(site.holdfast(&["points", "--json"]).exits(0).json(), points);
    assert!(!site.path("state").exists());
}

#[test]
fn points_of_a_destination_out_of_reach_are_a_warning_and_a_failure() {
    let ended = Site::new().holdfast(&["points", "--json"]).exits(1);
    assert_eq!(ended.json(), Value::Array(Vec::new()));
    ended.complains("mount the disk");
}

#[test]
fn history_is_newest_first_and_can_be_limited() {
    let site = Site::new();
    site.binary("one");
    for _ in 0..3 {
        site.holdfast(&["run", "copy.binaries"]).exits(0);
    }
    let ids = |runs: &[Value]| runs.iter().map(|run| run["id"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(ids(&site.history()), [3, 2, 1]);
    let limited = site.holdfast(&["history", "--json", "--limit", "1"]).exits(0).json();
    assert_eq!(ids(limited.as_array().unwrap()), [3]);
    let other = site.holdfast(&["history", "--json", "--job", "backup.full"]).exits(0).json();
    assert!(other.as_array().unwrap().is_empty());
}

#[test]
fn a_damaged_binary_makes_a_run_partial_and_is_named() {
    let site = Site::new();
    site.binary("one");
    let digest = Digest::of(Algorithm::Sha1, b"two");
    site.file_of(&digest, &"damaged ".repeat(64));
    let run = site.holdfast(&["run", "copy.binaries", "--json"]).exits(3).json();
    assert_eq!((&run["outcome"], &run["counts"]["damaged"]), (&"partial".into(), &1.into()));
    assert_eq!(run["problems"][0]["subject"], digest.to_string());
    let ended = site.holdfast(&["run", "copy.binaries"]).exits(3);
    assert!(ended.out.contains(&digest.to_string()), "{}", ended.out);
    assert!(!ended.out.contains('\x1b') && !ended.err.contains('\x1b'));
}

#[test]
fn a_state_directory_in_use_is_a_failure_that_names_the_holder_and_points_and_history_work_beside_it() {
    let site = Site::new();
    site.binary("one");
    site.holdfast(&["run", "copy.binaries"]).exits(0);
    let _lock = StateLock::take(&site.path("state"), "run copy.binaries").unwrap();
    let ended = site.holdfast(&["run", "copy.binaries", "--json"]).exits(1);
    ended.complains(&format!("in use by process {} (run copy.binaries)", std::process::id()));
    assert_eq!(ended.out, "");
    assert_eq!(site.history().len(), 1);
    assert_eq!(site.holdfast(&["points", "--json"]).exits(0).json().as_array().unwrap().len(), 1);
    site.holdfast(&["check"]).exits(0);
}

#[test]
fn a_wrong_configuration_is_shown_with_line_and_column() {
    let site = Site::new();
    fs::write(site.path("holdfast.toml"), "[service]\nstate_dri = \"state\"\n").unwrap();
    let place = format!("{}:2:1: ", site.path("holdfast.toml").display());
    site.holdfast(&["history"]).exits(2).complains(&place);
    let check = site.holdfast(&["check", "--json"]).exits(2);
    check.complains(&place);
    assert_eq!(check.json()[0]["level"], "error");
    assert!(check.json()[0]["message"].as_str().unwrap().starts_with("line 2, column 1: "));
}

#[test]
fn check_finds_nothing_wrong_where_a_copy_works_and_names_what_is() {
    let site = Site::new();
    site.binary("one");
    site.holdfast(&["run", "copy.binaries"]).exits(0);
    let findings = site.holdfast(&["check", "--json"]).exits(0).json();
    let subjects: Vec<&str> =
        findings.as_array().unwrap().iter().map(|finding| finding["subject"].as_str().unwrap()).collect();
    for subject in ["configuration", "state directory", "ledger", "limits", "repository main", "destination main"] {
        assert!(subjects.contains(&subject), "{subject} in {subjects:?}");
    }
    fs::remove_dir_all(site.path("binaries")).unwrap();
    fs::create_dir_all(site.path("binaries/photos")).unwrap();
    let ended = site.holdfast(&["check"]).exits(1);
    assert!(ended.out.contains("error    repository main   none of the 1 entries"), "{}", ended.out);
}

#[test]
fn check_says_what_a_server_cannot_do_and_what_is_done_instead() {
    let server = Server::start(Options { ignore_if_none_match: true, ..Options::default() });
    let site = Site::in_s3(&server, SECRET_KEY);
    site.binary("one");
    fs::set_permissions(site.path("secret"), fs::Permissions::from_mode(0o644)).unwrap();
    let ended = site.holdfast(&["check"]).exits(0);
    assert!(ended.out.contains("overwrites what is there"), "{}", ended.out);
    assert!(ended.out.contains("way out: Holdfast looks before it puts"), "{}", ended.out);
    assert!(ended.out.contains("everybody on this machine may read the secret key"), "{}", ended.out);
    assert!(server.objects().is_empty());
}

#[test]
fn a_wrong_key_is_a_failed_run_in_the_history() {
    let server = Server::start(Options::default());
    let site = Site::in_s3(&server, "not the secret");
    site.binary("one");
    fs::write(site.path("secret"), "wrong-secret").unwrap();
    let ended = site.holdfast(&["run", "copy.binaries", "--json"]).exits(1);
    ended.complains("the secret key does not belong to the access key");
    let run = ended.json();
    assert_eq!((&run["outcome"], &run["kind"]), (&"failed".into(), &"copy".into()));
    assert_eq!(site.history(), [run]);
    site.holdfast(&["check"]).exits(1);
}

#[test]
fn a_missing_key_file_is_named() {
    let server = Server::start(Options::default());
    let site = Site::in_s3(&server, SECRET_KEY);
    fs::remove_file(site.path("secret")).unwrap();
    let ended = site.holdfast(&["run", "copy.binaries"]).exits(1);
    ended.complains(&site.path("secret").display().to_string());
    assert_eq!(site.history()[0]["outcome"], "failed");
}

#[test]
fn what_a_server_can_do_is_found_out_once() {
    let server = Server::start(Options::default());
    let site = Site::in_s3(&server, SECRET_KEY);
    site.binary("one");
    site.holdfast(&["run", "copy.binaries"]).exits(0);
    let tried_out = || server.requests().iter().any(|request| request.key.contains("/check/"));
    assert!(tried_out());
    server.clear_log();
    site.binary("two");
    site.holdfast(&["run", "copy.binaries"]).exits(0);
    assert!(!tried_out());
}

#[test]
fn a_signal_stops_a_run_at_the_next_safe_point_and_it_ends_cancelled() {
    let server = Server::start(Options::default());
    let site = Site::in_s3(&server, SECRET_KEY);
    for content in ["one", "two", "three", "four"] {
        site.binary(content);
    }
    let barrier = Barrier::in_front_of(&server);
    let mut child = barrier.reached_by(&site);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("stopping at the next safe point") {
        line.clear();
        assert_ne!(errors.read_line(&mut line).unwrap(), 0, "it says that it stops");
    }
    barrier.go_on.send(()).unwrap();
    drop(barrier);
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(4));
    let run: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(run["outcome"], "cancelled");
    assert_eq!(site.history()[0]["outcome"], "cancelled");
    let next = site.holdfast(&["run", "copy.binaries", "--json"]).exits(0).json();
    assert_eq!(next["outcome"], "succeeded");
    assert_eq!(server.objects().keys().filter(|key| key.contains("/binaries/")).count(), 4);
}

#[test]
fn after_a_kill_no_run_is_running() {
    let server = Server::start(Options::default());
    let site = Site::in_s3(&server, SECRET_KEY);
    site.binary("one");
    let barrier = Barrier::in_front_of(&server);
    let mut child = barrier.reached_by(&site);
    assert_eq!(site.history()[0]["outcome"], Value::Null);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(barrier);
    assert_eq!(site.history()[0]["outcome"], "interrupted");
}

#[test]
fn a_damaged_ledger_is_set_aside_and_said_so() {
    let site = Site::new();
    site.binary("one");
    site.holdfast(&["run", "copy.binaries"]).exits(0);
    for name in ["ledger.db-wal", "ledger.db-shm"] {
        // There are none when the last process ended in good order.
        drop(fs::remove_file(site.path("state").join(name)));
    }
    fs::write(site.path("state/ledger.db"), "this is no database".repeat(1000)).unwrap();
    let ended = site.holdfast(&["run", "copy.binaries", "--json"]).exits(0);
    ended.complains("is set aside as");
    assert_eq!(ended.json()["counts"]["copied"], 0);
}

#[test]
fn a_restore_needs_a_yes_and_a_name_that_can_be() {
    let site = Site::new();
    site.holdfast(&["restore", "yesterday"]).exits(2).complains("holdfast points");
    site.holdfast(&["restore", "20261122T073500Z-1"]).exits(2).complains("--yes");
    site.holdfast(&["restore", "20261122T073500Z-1", "--yes", "--repository", "other"]).exits(2).complains("main");
    site.holdfast(&["verify", "20261122T073500Z-1", "--destination", "other"]).exits(2).complains("main");
    assert!(!site.path("state").exists());
}

#[test]
fn a_restore_point_that_is_nowhere_is_a_failure_that_says_where_to_look() {
    let site = Site::new();
    site.binary("one");
    site.holdfast(&["run", "copy.binaries"]).exits(0);
    for arguments in [["verify", "20200101T000000Z-1", "--json"], ["restore", "20200101T000000Z-1", "--yes"]] {
        site.holdfast(&arguments).exits(1).complains("`holdfast points` lists what there is");
    }
    assert_eq!(site.history()[0]["kind"], "restore");
    site.holdfast(&["restore", "20200101T000000Z-1", "--dry-run", "--json"]).exits(1);
    assert_eq!(site.history().len(), 3, "a dry run is no run");
}

#[test]
fn a_restore_point_at_two_destinations_must_be_chosen_from() {
    let site = Site::new();
    site.binary("one");
    let run = site.holdfast(&["run", "copy.binaries", "--json"]).exits(0).json();
    let copied = Command::new("cp").arg("-r").args([site.path("backups"), site.path("second")]).status().unwrap();
    assert!(copied.success());
    let text = fs::read_to_string(site.path("holdfast.toml")).unwrap();
    let text = text.replace("[copy.binaries]", "[copy.binaries]\ndestination = \"main\"");
    let text = text.replace("[backup.full]", "[destination.second]\nurl = \"file:second\"\n");
    fs::write(site.path("holdfast.toml"), text).unwrap();
    let ended = site.holdfast(&["verify", run["result"].as_str().unwrap()]).exits(2);
    ended.complains("the destinations `main` and `second`");
    let points = site.holdfast(&["points"]).exits(0);
    assert!(points.out.lines().next().unwrap().ends_with("DESTINATION"), "{}", points.out);
}

#[test]
fn a_dry_run_prints_the_plan_and_is_no_run() {
    let site = Site::new();
    let digest = site.binary("one");
    site.binary("two");
    let point = site.copy();
    site.file_of(&digest, "damaged");
    let plan = site.holdfast(&["restore", &point, "--dry-run", "--json"]).exits(0).json();
    assert_eq!((&plan["from"], &plan["fetch"], &plan["replace"]), (&point.as_str().into(), &1.into(), &1.into()));
    assert_eq!((&plan["keep"], &plan["quarantine"]), (&1.into(), &0.into()));
    assert_eq!(plan["binaries_to"], site.path("binaries").display().to_string());
    let text = site.holdfast(&["restore", &point, "--dry-run"]).exits(0).out;
    assert!(text.contains("replacing damaged     1 binary"), "{text}");
    assert_eq!(site.history().len(), 1);
}

#[test]
fn a_restore_into_the_repository_repairs_it_and_warns_to_stop_its_owner() {
    let site = Site::new();
    let digest = site.binary("one");
    let point = site.copy();
    site.file_of(&digest, "damaged");
    let ended = site.holdfast(&["restore", &point, "--yes", "--json"]).exits(0);
    ended.complains("stop the repository (Fedora) first");
    assert_eq!((&ended.json()["job"], &ended.json()["kind"]), (&"restore".into(), &"restore".into()));
    assert_eq!(site.content_of("binaries", &digest), "one");
}

#[test]
fn root_is_told_when_what_it_restores_would_be_its_own() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: it is about restores by root");
        return;
    }
    let site = Site::new();
    let digest = site.binary("one");
    let point = site.copy();
    let told = "`chown -R` it to the repository's user";
    let dry = ["restore", &point, "--dry-run"];
    assert!(!site.holdfast(&dry).exits(0).err.contains(told), "the store is there, and says whose they are");
    fs::remove_dir_all(site.path("binaries")).unwrap();
    site.holdfast(&dry).exits(0).complains(told);
    let run = site.holdfast(&["restore", &point, "--yes", "--json"]).exits(0).json();
    assert_eq!((&run["outcome"], &run["problems"][0]["kind"]), (&"succeeded".into(), &"owner".into()), "{run}");
    // Made by somebody else first, they are theirs.
    fs::remove_dir_all(site.path("binaries")).unwrap();
    fs::create_dir(site.path("binaries")).unwrap();
    chown(site.path("binaries"), Some(4711), Some(4712)).unwrap();
    let run = site.holdfast(&["restore", &point, "--yes", "--json"]).exits(0).json();
    assert_eq!(run["problems"], Value::Array(Vec::new()), "{run}");
    let found = site.path("binaries").join(Layout::modeshape().path(&digest)).metadata().unwrap();
    assert_eq!((found.uid(), found.gid()), (4711, 4712));
}

#[test]
fn a_restore_to_a_directory_needs_no_yes_and_lays_binaries_out_as_the_repository_does() {
    let site = Site::new();
    let (one, two) = (site.binary("one"), site.binary("two"));
    let point = site.copy();
    let to = site.path("elsewhere").display().to_string();
    let run = site.holdfast(&["restore", &point, "--to", &to, "--json"]).exits(0).json();
    assert_eq!(run["counts"]["copied"], 2);
    assert_eq!(site.content_of("elsewhere/binaries", &two), "two");
    let only = site.path("only").display().to_string();
    let run = site.holdfast(&["restore", &point, "--to", &only, "--json", "--only", &one.to_string()]).exits(0).json();
    assert_eq!(run["counts"]["copied"], 1);
    assert_eq!(site.content_of("only/binaries", &one), "one");
}

#[test]
fn documents_that_have_nowhere_to_go_are_named_as_left_out() {
    let site = Site::new();
    site.binary("one");
    fs::create_dir(site.path("documents")).unwrap();
    let document = r#"{"metadata":{"id":"a"},"content":{"key":"a"}}"#;
    fs::write(site.path("documents/documents_000001.bin"), format!("{document}\n")).unwrap();
    let config = site.path("holdfast.toml");
    let without = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{without}[repository.main.documents]\ndirectory = \"documents\"\n")).unwrap();
    let point = site.copy();
    fs::write(&config, without).unwrap();
    site.holdfast(&["restore", &point, "--dry-run"]).exits(0).complains("`--to DIR` gives them");
    let run = site.holdfast(&["restore", &point, "--yes", "--json"]).exits(3).json();
    assert!(run["problems"][0]["message"].as_str().unwrap().contains("--to DIR"), "{run}");
    let to = site.path("elsewhere").display().to_string();
    site.holdfast(&["restore", &point, "--to", &to]).exits(0);
    assert!(site.path("elsewhere/documents/documents_000001.bin.gz").exists());
}

#[test]
fn a_backup_is_verified_and_restored_by_the_name_that_points_shows() {
    let site = Site::new();
    let digest = site.binary("one");
    let backup = site.holdfast(&["run", "backup.full", "--json"]).exits(0).json();
    let points = site.holdfast(&["points", "--json"]).exits(0).json();
    let name = points[0]["name"].as_str().unwrap();
    assert_eq!((&points[0]["kind"], points.as_array().unwrap().len()), (&"archive".into(), 1));
    assert!(name.starts_with(backup["result"].as_str().unwrap()));
    let verified = site.holdfast(&["verify", name, "--json"]).exits(0).json();
    assert_eq!((&verified["job"], &verified["outcome"]), (&"verify".into(), &"succeeded".into()));
    let to = site.path("elsewhere").display().to_string();
    site.holdfast(&["restore", name, "--to", &to]).exits(0);
    assert_eq!(site.content_of("elsewhere/binaries", &digest), "one");
}

#[test]
fn verify_finds_what_is_missing_at_the_destination() {
    let site = Site::new();
    let digest = site.binary("one");
    let point = site.copy();
    site.holdfast(&["verify", &point, "--quick"]).exits(0);
    fs::remove_file(site.path("backups/binaries").join(Layout::modeshape().path(&digest))).unwrap();
    let run = site.holdfast(&["verify", &point, "--json"]).exits(3).json();
    assert_eq!((&run["outcome"], &run["counts"]["missing"]), (&"partial".into(), &1.into()));
}

#[test]
fn of_several_names_the_one_that_is_nowhere_or_damaged_is_named_and_the_others_are_verified() {
    let site = Site::new();
    site.binary("one");
    let point = site.copy();
    let nowhere = "20200101T000000Z-1";
    let run = site.holdfast(&["verify", nowhere, &point, "--json"]).exits(3).json();
    assert_eq!((&run["result"], &run["counts"]["examined"]), (&point.as_str().into(), &1.into()), "{run}");
    assert_eq!((&run["problems"][0]["kind"], &run["problems"][0]["subject"]), (&"missing".into(), &nowhere.into()));
    let archive =
        site.holdfast(&["run", "backup.full", "--json"]).exits(0).json()["result"].as_str().unwrap().to_owned();
    fs::write(site.path("backups/points").join(&point).join("point.json"), "{").unwrap();
    let run = site.holdfast(&["verify", &point, &archive, "--json"]).exits(3).json();
    assert_eq!(
        (&run["problems"][0]["kind"], &run["problems"][0]["subject"]),
        (&"damaged".into(), &point.as_str().into())
    );
    site.holdfast(&["verify", &point, nowhere]).exits(1).complains("none of them could be read");
}

#[test]
fn a_repository_that_was_emptied_on_purpose_is_accepted_when_somebody_says_so() {
    let site = Site::new();
    site.binary("one");
    site.copy();
    site.holdfast(&["run", "backup.full"]).exits(0);
    fs::remove_dir_all(site.path("binaries")).unwrap();
    fs::create_dir(site.path("binaries")).unwrap();
    for job in ["copy.binaries", "backup.full"] {
        site.holdfast(&["run", job]).exits(1).complains("--allow-empty");
        let run = site.holdfast(&["run", job, "--allow-empty", "--json"]).exits(0).json();
        assert_eq!(run["counts"]["examined"], 0, "{run}");
        site.holdfast(&["run", job]).exits(0);
    }
    // One that is not there at all is never taken for empty.
    fs::remove_dir(site.path("binaries")).unwrap();
    site.holdfast(&["run", "copy.binaries", "--allow-empty"]).exits(1);
}

#[test]
fn help_lists_the_commands() {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast")).arg("--help").output().unwrap();
    assert!(output.status.success());
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap(), @r#"
    Backs up, copies, verifies and restores content-addressed repositories

    Usage: holdfast [OPTIONS] <COMMAND>

    Commands:
      serve      Run as a service: by the schedule, on changes, and on request
      run        Run one job now, in the foreground: copy.NAME or backup.NAME
      points     List the restore points and archives
      restore    Bring a repository, or parts of it, back from a restore point or an archive
      verify     Read restore points and archives back and check them
      documents  Print the documents of a restore point or an archive as JSON lines
      diff       Say how two restore points or archives differ
      history    List the runs, newest first
      status     Show what the running service is at
      reload     Have the running service read its configuration again; fails if that is refused
      check      Check the configuration, permissions, limits, and what each destination can do
      passwd     Add an administrator, who may start and stop things over HTTP, or set the password
      init       Write a first configuration to the file named by --config
      demo       Show the whole story on a sample repository; needs no configuration, no S3 and no root
      help       Print this message or the help of the given subcommand(s)

    Options:
          --config <FILE>  The configuration [env: HOLDFAST_CONFIG] [default: /etc/holdfast/holdfast.toml]
      -h, --help           Print help
      -V, --version        Print version

    Exit status: 0 succeeded, 1 failed, 2 usage or configuration, 3 partial, 4 cancelled.
    "#);
}

#[test]
fn an_unknown_option_is_a_usage_error() {
    Site::new().holdfast(&["points", "--jsn"]).exits(2).complains("--json");
}
