//! The ledger: what it survives, what it refuses, and who may hold it.

use std::fs;

use holdfast::ledger::{Change, FILE, InUse, Ledger, Listed, StateLock};
use holdfast::model::key::Key;
use holdfast::model::run::{Kind, Outcome, RunFilter, RunId, Trigger};
use jiff::Timestamp;
use rusqlite::Connection;
use tempfile::TempDir;

use super::lab::{sha1, take_again};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn open(directory: &TempDir) -> (Ledger, Option<holdfast::ledger::SetAside>) {
    Ledger::open(&take_again(directory.path(), "test")).unwrap()
}

/// Does something to the file.
type Damage = fn(&mut Vec<u8>);

/// A ledger with enough in it to have many pages.
fn filled(directory: &TempDir) {
    let (ledger, _) = open(directory);
    let destination = ledger.destination("memory:").unwrap();
    let series = ledger.series(destination, "main").unwrap().id;
    let changes: Vec<Change> = (0..2000_u32)
        .map(|i| Change::Added { digest: sha1(&i.to_le_bytes()), bytes: u64::from(i), new_object: true })
        .collect();
    ledger.record_changes(destination, series, &changes).unwrap();
    ledger.add_run("copy.main", Kind::Copy, Trigger::Request, None, NOW).unwrap();
}

#[test]
fn a_second_process_is_told_who_holds_the_state_directory() {
    let directory = TempDir::new().unwrap();
    let first = StateLock::take(directory.path(), "run copy.binaries").unwrap();
    let error = StateLock::take(directory.path(), "serve").unwrap_err();
    let InUse { holder, .. } = error.downcast_ref().unwrap();
    assert_eq!(*holder, format!("process {} (run copy.binaries)", std::process::id()));
    drop(first);
    drop(take_again(directory.path(), "serve"));
}

#[test]
fn the_state_directory_is_made_but_not_its_parents() {
    let directory = TempDir::new().unwrap();
    StateLock::take(&directory.path().join("state"), "test").unwrap();
    let error = StateLock::take(&directory.path().join("a/b"), "test").unwrap_err();
    assert!(format!("{error:#}").contains("set `state_dir`"), "{error:#}");
}

#[test]
fn runs_that_were_cut_are_closed_and_history_survives() {
    let directory = TempDir::new().unwrap();
    let (ledger, _) = open(&directory);
    let id = ledger.add_run("copy.main", Kind::Copy, Trigger::Schedule, None, NOW).unwrap();
    drop(ledger);
    let (ledger, set_aside) = open(&directory);
    assert_eq!(set_aside, None);
    assert_eq!(ledger.run(id).unwrap().unwrap().outcome, None);
    assert_eq!(ledger.interrupt_open_runs(NOW).unwrap(), 1);
    assert_eq!(ledger.interrupt_open_runs(NOW).unwrap(), 0);
    let run = ledger.run(id).unwrap().unwrap();
    assert_eq!((run.outcome, run.finished), (Some(Outcome::Interrupted), Some(NOW)));
    let next = ledger.add_run("copy.main", Kind::Copy, Trigger::Overdue, None, NOW).unwrap();
    assert!(next > id);
    assert_eq!(ledger.runs(&RunFilter::latest(Some("copy.main"), 10)).unwrap().len(), 2);
    assert_eq!(ledger.runs(&RunFilter::latest(Some("backup.main"), 10)).unwrap(), []);
    let reader = Ledger::open_to_read(directory.path()).unwrap().unwrap();
    assert_eq!(reader.runs(&RunFilter::latest(None, 1)).unwrap()[0].id, next, "a second process may read");
    assert_eq!(reader.run(RunId::new(99)).unwrap(), None);
}

#[test]
fn what_killed_processes_left_is_removed() {
    let directory = TempDir::new().unwrap();
    for name in ["scratch-1-0.db", "scratch-1-0.db-journal", "scratch-99999-7.db"] {
        fs::write(directory.path().join(name), "left over").unwrap();
    }
    fs::write(directory.path().join("other.db"), "").unwrap();
    let (ledger, _) = open(&directory);
    let scratch = ledger.scratch().unwrap();
    scratch.put(&Listed { digest: sha1(b"x"), bytes: Some(1), mark: 0 }).unwrap();
    let names = || {
        let entries = fs::read_dir(directory.path()).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("scratch")).count()
    };
    assert_eq!(names(), 1);
    drop(scratch);
    assert_eq!(names(), 0);
    assert!(directory.path().join("other.db").exists());
}

#[test]
fn a_damaged_ledger_is_set_aside_and_work_goes_on() {
    let garbage: Damage = |content| content.iter_mut().for_each(|byte| *byte ^= 0x5a);
    let cut: Damage = |content| content.truncate(content.len() / 2);
    // The pages of the tables, not the first with the schema.
    let page: Damage = |content| content[3 * 4096..20 * 4096].fill(0xff);
    let damages: [(&str, Damage); 3] = [("garbage", garbage), ("cut", cut), ("page", page)];
    for (name, damage) in damages {
        let directory = TempDir::new().unwrap();
        filled(&directory);
        let path = directory.path().join(FILE);
        let mut content = fs::read(&path).unwrap();
        assert!(content.len() > 20 * 4096);
        damage(&mut content);
        fs::write(&path, &content).unwrap();
        let (ledger, set_aside) = open(&directory);
        let set_aside = set_aside.unwrap_or_else(|| panic!("{name} was not noticed"));
        assert_eq!(fs::read(&set_aside.to).unwrap(), content, "{name}");
        assert!(!set_aside.cause.is_empty());
        assert_eq!(ledger.runs(&RunFilter::latest(None, 10)).unwrap(), []);
        ledger.add_run("copy.main", Kind::Copy, Trigger::Request, None, NOW).unwrap();
        drop(ledger);
        // A second one goes to a place of its own.
        fs::write(&path, "no ledger at all, and long enough to be looked at").unwrap();
        let (_, second) = open(&directory);
        assert_ne!(second.unwrap().to, set_aside.to);
        assert_eq!(fs::read(&set_aside.to).unwrap(), content, "{name}");
    }
}

#[test]
fn the_ledger_of_a_newer_holdfast_is_refused_and_left_untouched() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE);
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch("CREATE TABLE a (b); PRAGMA user_version = 99").unwrap();
    drop(newer);
    let content = fs::read(&path).unwrap();
    let error = Ledger::open(&StateLock::take(directory.path(), "test").unwrap()).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("version 99") && error.contains("run the newer holdfast"), "{error}");
    assert!(Ledger::open_to_read(directory.path()).is_err());
    assert_eq!(fs::read(&path).unwrap(), content);
}

#[test]
fn uploads_of_runs_under_way_are_nobody_elses() {
    let directory = TempDir::new().unwrap();
    let (ledger, _) = open(&directory);
    let destination = ledger.destination("memory:").unwrap();
    let run = ledger.add_run("backup.main", Kind::Backup, Trigger::Request, None, NOW).unwrap();
    let key = Key::parse("archives/a.zip").unwrap();
    ledger.begin_upload(destination, &key, run).unwrap();
    assert_eq!(ledger.open_uploads(destination).unwrap(), []);
    assert!(ledger.live_uploads(destination).unwrap().contains(&key));
    ledger.interrupt_open_runs(NOW).unwrap();
    assert_eq!(ledger.open_uploads(destination).unwrap().len(), 1);
    assert!(ledger.live_uploads(destination).unwrap().is_empty());
    ledger.end_upload(destination, &key).unwrap();
    assert_eq!(ledger.open_uploads(destination).unwrap(), []);
}
