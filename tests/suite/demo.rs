//! The demo, by the real program: what it says, what it leaves, and what it refuses.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(arguments).env_remove("HOLDFAST_CONFIG").stdin(Stdio::null());
    command
}

fn holdfast(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_demo_tells_its_story_on_a_page_and_leaves_what_it_made() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("new/demo");
    let shown = directory.to_str().unwrap();
    let output = holdfast(&["demo", "--dir", shown]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "out:\n{out}\nerr:\n{err}");
    assert_eq!(err, "");
    for sentence in [
        "all of it is new: 240 binaries",
        "only what is new: 12 binaries",
        "nothing is new: 0 copied, 0 requests; the restore point is still that",
        "repository/ deleted, 339 files",
        "with what was lost: 252 of 252 files equal, 3,040 of 3,040 documents equal",
        "with what was backed up: 240 of 240 files equal, 3,000 of 3,000 documents equal",
        "nothing missing, nothing damaged",
        "All of it came back",
        &format!("holdfast --config {shown}/holdfast.toml points"),
    ] {
        assert!(out.contains(sentence), "no `{sentence}` in:\n{out}");
    }
    assert!(out.lines().count() <= 50, "{out}");
    let too_long = |line: &&str| line.chars().count() > 100 && !line.contains(shown);
    assert_eq!(out.lines().filter(too_long).collect::<Vec<_>>(), [""; 0]);
    assert!(!out.contains('\x1b'));

    assert_eq!(names(&directory), ["destination", "holdfast.toml", "repository", "state"]);
    let config = directory.join("holdfast.toml");
    let points = holdfast(&["--config", config.to_str().unwrap(), "points", "--json"]);
    assert_eq!(points.status.code(), Some(0), "{}", text(&points.stderr));
    let points: Vec<Value> = serde_json::from_slice(&points.stdout).unwrap();
    let kinds: Vec<&str> = points.iter().map(|point| point["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["point", "archive", "point"]);
    for point in &points {
        assert_eq!((&point["complete"], &point["repository"]), (&true.into(), &"main".into()));
        let name = point["name"].as_str().unwrap();
        assert!(out.contains(name), "no `{name}` in:\n{out}");
    }

    let again = holdfast(&["demo", "--dir", shown]);
    assert_eq!(again.status.code(), Some(2), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("the directory is not empty"), "{}", text(&again.stderr));
}

#[test]
fn a_signal_ends_the_demo_and_nothing_is_left() {
    use std::io::{BufRead as _, BufReader, Read as _};
    let scratch = tempfile::tempdir().unwrap();
    let mut demo = command(&["demo"]);
    demo.env("TMPDIR", scratch.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = demo.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    // From its first word on it listens to signals.
    assert!(out.read_line(&mut line).unwrap() > 0);
    assert_eq!(names(scratch.path()).len(), 1);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    out.read_to_string(&mut line).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(4), "{line}\n{}", text(&ended.stderr));
    assert!(!line.contains("came back"), "{line}");
    assert_eq!(names(scratch.path()), [""; 0]);
}
