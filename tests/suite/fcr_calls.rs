//! Fedora's two calls: who may make them, what they answer, and what becomes of the repository.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast::model::digest::Digest;
use holdfast::model::run::{Kind, Outcome, Run};
use holdfast::service::clock::SystemClock;
use holdfast::service::control::socket_in;
use holdfast::store::ErrorKind;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use super::access::{ADA, RIGHT, token, with_ada};
use super::lab::sha1;
use super::served::{House, Service};
use super::service_lab::{Reply, ServiceLab, ask, eventually, request};

const BACKUP: &str = "/rest/fcr:backup";
const RESTORE: &str = "/rest/fcr:restore";
const MOVING: &str = "This endpoint will be moving to an extension module in a future release of Fedora";

fn basic(email: &str, password: &str) -> String {
    let text = format!("{email}:{password}");
    format!("Basic {}", base64_simd::STANDARD.encode_to_string(text))
}

/// A service whose runs do nothing, with `roots` as the one root.
async fn service() -> ServiceLab {
    let directory = tempfile::tempdir().unwrap();
    for name in ["roots/backup", "outside"] {
        fs::create_dir_all(directory.path().join(name)).unwrap();
    }
    fs::write(directory.path().join("roots/file"), "").unwrap();
    symlink(directory.path().join("outside"), directory.path().join("roots/out")).unwrap();
    let site = with_ada();
    *site.fedora_roots.lock().unwrap() = vec![directory.path().join("roots")];
    ServiceLab::start_in(directory, site, Arc::new(SystemClock), |_| {}).await
}

fn path(lab: &ServiceLab, name: &str) -> String {
    lab.directory.path().canonicalize().unwrap().join(name).display().to_string()
}

async fn send(lab: &ServiceLab, call: &str, body: &str) -> Reply {
    lab.send("POST", call, &[("Authorization", &basic(ADA, RIGHT))], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_make_the_calls_by_password_or_token_and_nobody_else() {
    let lab = service().await;
    let (directory, token) = (path(&lab, "roots/backup"), token(&lab).await);
    let bearer = format!("Bearer {token}");
    for header in [("Authorization", basic(ADA, RIGHT)), ("sessionToken", token), ("Authorization", bearer)] {
        let reply = lab.send("POST", BACKUP, &[(header.0, &header.1)], &directory).await;
        assert_eq!((reply.status, reply.text()), (200, directory.clone()));
        assert_eq!(reply.header("warning"), Some(MOVING));
        let reply = lab.send("POST", RESTORE, &[(header.0, &header.1)], &format!(" {directory}\n")).await;
        assert_eq!((reply.status, reply.header("warning"), reply.body.len()), (204, Some(MOVING), 0));
    }
    let performed = lab.site.performed.lock().unwrap().len();
    for (call, header) in [
        (BACKUP, ("Accept", String::new())),
        (RESTORE, ("Authorization", basic(ADA, "wrong"))),
        (BACKUP, ("Authorization", basic("eve@example.org", RIGHT))),
        (RESTORE, ("Authorization", "Basic x".to_owned())),
        (BACKUP, ("sessionToken", "unknown".to_owned())),
    ] {
        let reply = lab.send("POST", call, &[(header.0, &header.1)], &directory).await;
        assert_eq!(reply.status, 401, "{header:?}");
        assert!(reply.header("www-authenticate").unwrap().starts_with("Basic realm="));
    }
    // What a browser adds by itself does not count.
    let headers = [("Authorization", basic(ADA, RIGHT)), ("Origin", "http://elsewhere".to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(lab.send("POST", RESTORE, &headers, &directory).await.status, 403);
    assert_eq!(lab.send("GET", BACKUP, &[], "").await.status, 405);
    assert_eq!(lab.site.performed.lock().unwrap().len(), performed);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_passwords_here_is_slowed_down_as_at_a_login() {
    let lab = service().await;
    let directory = path(&lab, "roots/backup");
    let wrong = basic(ADA, "wrong");
    let mut last = 401;
    for _ in 0..8 {
        last = lab.send("POST", BACKUP, &[("Authorization", &wrong)], &directory).await.status;
    }
    assert_eq!(last, 429);
    // And the other way round.
    let body = json!({"email": ADA, "password": "wrong"}).to_string();
    assert_eq!(lab.send("POST", "/auth/v1/session", &[("Content-Type", "application/json")], &body).await.status, 429);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_paths_may_be_percent_encoded_and_have_a_context_path_in_front() {
    let lab = service().await;
    let (directory, headers) = (path(&lab, "roots/backup"), [("Authorization", basic(ADA, RIGHT))]);
    let headers = [(headers[0].0, headers[0].1.as_str())];
    for (call, status) in [("/rest/fcr%3abackup", 200), ("/fcrepo/rest/fcr:backup", 200), ("/rest/fcr%3Arestore", 204)]
    {
        let reply = ask(lab.tcp().await, &request("POST", call, &headers, &directory)).await;
        assert_eq!(reply.status, status, "{call}: {}", reply.text());
    }
    assert_eq!(ask(lab.tcp().await, &request("POST", "/rest/a/fcr:backup", &headers, &directory)).await.status, 404);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_are_not_there_or_not_allowed_are_refused_in_words() {
    let lab = service().await;
    let no_backup = "Backup directory does not exist or is not writable: ";
    let file = "Backup location exists and is expected to be a directory but is a file: ";
    let not_allowed = "Directory is not below one of those that `fedora_roots` in [older_interfaces] allows: ";
    let none = path(&lab, "roots/none");
    for (call, named, status, text) in [
        (BACKUP, none.as_str(), 500, no_backup),
        (BACKUP, &path(&lab, "roots/file"), 500, file),
        (RESTORE, &none, 500, "Backup directory does not exist: "),
        (RESTORE, "none", 500, "Backup directory does not exist: "),
        (BACKUP, &path(&lab, "outside"), 403, not_allowed),
        (BACKUP, &path(&lab, "outside/none"), 403, not_allowed),
        (BACKUP, &path(&lab, "roots/out"), 403, not_allowed),
        (RESTORE, &path(&lab, "roots/out"), 403, not_allowed),
        (RESTORE, &path(&lab, "roots/backup/../backup"), 403, not_allowed),
        (RESTORE, "/etc/passwd", 403, not_allowed),
        (RESTORE, "/", 403, not_allowed),
    ] {
        let reply = send(&lab, call, named).await;
        assert_eq!((reply.status, reply.text()), (status, format!("{text}{named}")));
    }
    for body in ["", " \n"] {
        let reply = send(&lab, RESTORE, body).await;
        assert_eq!((reply.status, reply.text().as_str()), (500, "Request body must not be null"));
    }
    assert!(lab.site.performed.lock().unwrap().is_empty());
    lab.site.fedora_roots.lock().unwrap().clear();
    assert_eq!(send(&lab, RESTORE, &none).await.status, 403);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_without_a_name_gets_a_directory_of_its_own() {
    let lab = service().await;
    let mut made = Vec::new();
    for body in ["", "  "] {
        let reply = send(&lab, BACKUP, body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let directory = PathBuf::from(reply.text());
        assert_eq!(directory.parent(), Some(Path::new(&path(&lab, "roots"))));
        let name = directory.file_name().unwrap().to_str().unwrap();
        let (time, number) = name.split_once('-').unwrap();
        assert!(time.len() == 13 && time.parse::<u64>().is_ok() && number.parse::<u32>().is_ok(), "{name}");
        assert!(directory.is_dir() && !made.contains(&directory));
        made.push(directory);
    }
    let run: Run = lab.ended(1).await;
    assert_eq!((run.job.as_str(), run.kind, run.started_by.as_deref()), ("fcr:backup", Kind::Backup, Some(ADA)));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_answers_when_its_run_has_ended_and_a_second_restore_is_refused_meanwhile() {
    let lab = service().await;
    lab.site.hold();
    let directory = path(&lab, "roots/backup");
    let authorization = basic(ADA, RIGHT);
    let text = request("POST", RESTORE, &[("Authorization", &authorization)], &directory);
    let asking = ask(lab.tcp().await, &text);
    let meanwhile = async {
        eventually("the restore begins", async || (lab.site.held() > 0).then_some(())).await;
        let second = send(&lab, RESTORE, &directory).await;
        assert_eq!(second.status, 409);
        assert!(second.text().contains("restores the repository `main` already"), "{}", second.text());
        lab.site.release();
    };
    let (reply, ()) = tokio::join!(asking, meanwhile);
    assert_eq!(reply.status, 204);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_does_not_stop_its_run() {
    let lab = service().await;
    lab.site.hold();
    let (directory, authorization) = (path(&lab, "roots/backup"), basic(ADA, RIGHT));
    let mut stream = lab.tcp().await;
    let text = request("POST", BACKUP, &[("Authorization", &authorization)], &directory);
    stream.write_all(text.as_bytes()).await.unwrap();
    eventually("the backup begins", async || (lab.site.held() > 0).then_some(())).await;
    drop(stream);
    // Others are answered all the same.
    assert_eq!(lab.get("/runs/1").await.json::<Value>()["outcome"], Value::Null);
    lab.site.release();
    assert_eq!(lab.ended(1).await.outcome, Some(Outcome::Succeeded));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_is_told_of_without_places_of_this_machine() {
    let lab = service().await;
    *lab.site.failure.lock().unwrap() = Some(ErrorKind::Denied);
    for call in [BACKUP, RESTORE] {
        let reply = send(&lab, call, &path(&lab, "roots/backup")).await;
        assert_eq!(reply.status, 500);
        assert!(reply.text().contains("Access Denied") && !reply.text().contains(&path(&lab, "")), "{}", reply.text());
    }
    lab.end().await;
}

/// A real service with `backups` as its root; the second directory is the destination.
fn house() -> (House, TempDir) {
    let disk = tempfile::tempdir().unwrap();
    let house = House::with_destination(&format!("url = \"file://{}\"", disk.path().display()), "", "");
    let text = fs::read_to_string(house.configuration()).unwrap();
    house.configure(&format!("{text}[older_interfaces]\nfedora_roots = [\"backups\"]\n"));
    fs::create_dir_all(house.path("backups/one")).unwrap();
    (house, disk)
}

/// Adds binaries, and documents that refer to them.
fn fill(house: &House, count: usize) -> Vec<Digest> {
    let digests: Vec<_> = (0..count).map(|number| house.add(format!("binary {number}").as_bytes())).collect();
    let line = |digest: &Digest| {
        format!(
            "{{ \"metadata\" : {{ \"id\" : \"{digest}-ref\" }} , \"content\" : {{ \"sha1\" : \"{digest}\" , \"refCount\" : 1 }} }}\n"
        )
    };
    fs::write(house.path("documents/documents_000001.bin"), digests.iter().map(line).collect::<String>()).unwrap();
    digests
}

fn asked(service: &Service, call: &str, body: &str) -> (u16, String) {
    service.ask("POST", call, body).unwrap()
}

/// Every file below, by path.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push((path.clone(), fs::read(&path).unwrap())) }
    }
    found.sort();
    found
}

#[test]
fn a_lost_repository_comes_back_by_the_two_calls_and_a_damaged_backup_changes_nothing() {
    let (house, _disk) = house();
    let digests = fill(&house, 30);
    let mut service = house.serve();
    service.ready();
    let backup = house.path("backups/one").canonicalize().unwrap();
    let named = backup.display().to_string();
    assert_eq!(asked(&service, BACKUP, &named), (200, named.clone()));
    let before = files(&house.path("binaries"));
    fs::remove_dir_all(house.path("binaries")).unwrap();
    fs::remove_dir_all(house.path("documents")).unwrap();
    assert_eq!(asked(&service, RESTORE, &named), (204, String::new()));
    assert_eq!(files(&house.path("binaries")), before);
    assert_eq!(fs::read_dir(house.path("documents")).unwrap().count(), 1);

    let repository = |house: &House| (files(&house.path("binaries")), files(&house.path("documents")));
    let expected = repository(&house);
    let damaged = backup.join("binaries").join(house.place(&digests[3]).strip_prefix(house.path("binaries")).unwrap());
    fs::write(damaged.with_extension("bin"), "damaged").unwrap();
    house.add(b"of the repository alone");
    fs::remove_file(house.place(&sha1(b"of the repository alone"))).unwrap();
    let (status, text) = asked(&service, RESTORE, &named);
    assert_eq!(status, 500);
    assert!(text.contains("1 of its binaries are damaged") && text.contains(&digests[3].to_string()), "{text}");
    assert!(!text.contains(&house.path("").display().to_string()), "{text}");
    fs::create_dir(house.path("backups/empty")).unwrap();
    let (status, text) = asked(&service, RESTORE, &house.path("backups/empty").display().to_string());
    assert!(status == 500 && text.contains("there is no documents_000001.bin.gz"), "{status} {text}");
    assert_eq!(repository(&house), expected);
    // The next backup replaces the damaged one.
    assert_eq!(asked(&service, BACKUP, &named).0, 200);
    assert_eq!(asked(&service, RESTORE, &named).0, 204);
    let jobs: Vec<_> = service.runs().into_iter().map(|run| (run.job, run.outcome.unwrap())).collect();
    assert!(jobs.contains(&("fcr:backup".to_owned(), Outcome::Succeeded)), "{jobs:?}");
    service.stop();
}

#[test]
fn a_backup_is_never_made_where_something_else_is() {
    let (house, disk) = house();
    fill(&house, 3);
    let text = fs::read_to_string(house.configuration()).unwrap();
    let roots = format!("[\".\", \"{}\"]", disk.path().parent().unwrap().display());
    house.configure(&text.replace("[\"backups\"]", &roots));
    let mut service = house.serve();
    service.ready();
    let expected = (files(&house.path("binaries")), files(&house.path("documents")));
    for place in ["binaries", "documents", "state", "."] {
        let (status, text) = asked(&service, BACKUP, &house.path(place).display().to_string());
        assert!(status == 500 && text.contains("lies there, or around it"), "{place}: {status} {text}");
    }
    let (status, text) = asked(&service, BACKUP, &disk.path().display().to_string());
    assert!(status == 500 && text.contains("the destination `main`"), "{status} {text}");
    assert_eq!((files(&house.path("binaries")), files(&house.path("documents"))), expected);
    service.stop();
}

#[test]
fn a_kill_in_the_middle_of_a_backup_leaves_the_older_one_and_the_next_clears_up() {
    let (house, _disk) = house();
    fill(&house, 30);
    let named = house.path("backups/one").canonicalize().unwrap().display().to_string();
    let mut service = house.serve();
    service.ready();
    assert_eq!(asked(&service, BACKUP, &named).0, 200);
    let before = files(Path::new(&named));
    // It is waited for, as somebody may still be writing it.
    let late = house.place(&"0000000000000000000000000000000000000000".parse().unwrap());
    fs::create_dir_all(late.parent().unwrap()).unwrap();
    fs::write(&late, "not yet what it is called").unwrap();
    let ahead = SystemTime::UNIX_EPOCH + Duration::from_hours(1_139_568);
    fs::File::options().append(true).open(&late).unwrap().set_modified(ahead).unwrap();
    let mut stream = UnixStream::connect(socket_in(&house.path("state"))).unwrap();
    stream.write_all(request("POST", BACKUP, &[], &named).as_bytes()).unwrap();
    let staged = house.path("backups/.holdfast-export-one/documents_000001.bin.gz");
    service.eventually("documents are written", || staged.exists().then_some(()));
    service.signal(Signal::KILL);
    service.ends();
    assert_eq!(house.runs().last().unwrap().outcome, None, "it was killed too late");
    assert_eq!(files(Path::new(&named)), before);
    fs::remove_file(&late).unwrap();
    let mut service = house.serve();
    service.ready();
    assert_eq!(service.runs().last().unwrap().outcome, Some(Outcome::Interrupted));
    assert_eq!(asked(&service, RESTORE, &named).0, 204);
    assert_eq!(asked(&service, BACKUP, &named).0, 200);
    assert_eq!(fs::read_dir(house.path("backups")).unwrap().count(), 1);
    service.stop();
}

#[test]
fn the_command_restores_from_a_directory_beside_the_service_and_without_it() {
    let (house, _disk) = house();
    let digests = fill(&house, 5);
    let named = house.path("backups/one").canonicalize().unwrap().display().to_string();
    let mut service = house.serve();
    service.ready();
    assert_eq!(asked(&service, BACKUP, &named).0, 200);
    fs::remove_file(house.place(&digests[0])).unwrap();
    let plan = |house: &House| {
        let (status, out, err) = house.holdfast(&["restore", &named, "--dry-run", "--json"]);
        assert_eq!(status, Some(0), "{err}");
        serde_json::from_str::<Value>(&out).unwrap()
    };
    let beside = plan(&house);
    assert_eq!((&beside["fetch"], &beside["keep"], &beside["from"]), (&json!(1), &json!(4), &json!(named)));
    let one = digests[0].to_string();
    let (status, _, err) = house.holdfast(&["restore", &named, "--only", &one, "--yes"]);
    assert_eq!(status, Some(0), "{err}");
    assert!(house.place(&digests[0]).exists());
    service.stop();

    fs::remove_file(house.place(&digests[1])).unwrap();
    assert_eq!(plan(&house)["fetch"], 1);
    let to = house.path("to");
    let (status, _, err) = house.holdfast(&["restore", &named, "--to", to.to_str().unwrap()]);
    assert_eq!(status, Some(0), "{err}");
    assert_eq!(files(&to.join("binaries")).len(), 5);
    assert_eq!(files(&to.join("documents")).len(), 1);
    let (status, _, err) = house.holdfast(&["restore", &named, "--yes"]);
    assert_eq!((status, house.place(&digests[1]).exists()), (Some(0), true), "{err}");
    for (name, why) in [("backup", "./backup"), ("./none", "No such file")] {
        let (status, _, err) = house.holdfast(&["restore", name, "--yes"]);
        assert!(status != Some(0) && err.contains(why), "{err}");
    }
}
