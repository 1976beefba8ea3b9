//! Administrators: logging in, tokens and their ends, and those who guess.

use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use holdfast::jobs::context::Clock;
use holdfast::ledger::{Ledger, Session};
use holdfast::model::account::{Account, Accounts};
use holdfast::model::digest::{Algorithm, Digest};
use holdfast::service::clock::SystemClock;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::service_lab::{FakeSite, Reply, ServiceLab, ask, request};

/// Of `correct horse`; cheap, as nothing here is to be kept from anyone.
pub(crate) const HASH: &str =
    "$argon2id$v=19$m=8,t=1,p=1$BwcHBwcHBwcHBwcHBwcHBw$d8cWXRYs+kQt2VnROXEXkPhMCRQBCA3xuMvbGFXM8R4";
pub(crate) const ADA: &str = "ada@example.org";
pub(crate) const RIGHT: &str = "correct horse";

/// A clock that the test sets.
#[derive(Debug)]
struct SetClock(Mutex<Timestamp>);

impl SetClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new("2030-01-01T00:00:00Z".parse().unwrap())))
    }

    fn forward(&self, hours: i64) {
        *self.0.lock().unwrap() += SignedDuration::from_hours(hours);
    }
}

#[async_trait]
impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

pub(crate) fn accounts(all: &[(&str, &str)]) -> Arc<Accounts> {
    let mut accounts = Accounts::default();
    for (email, hash) in all {
        let account = Account { email: (*email).to_owned(), name: None, password: hash.parse().unwrap() };
        accounts.add(account);
    }
    Arc::new(accounts)
}

/// A site that Ada may log in to.
pub(crate) fn with_ada() -> FakeSite {
    let site = FakeSite::default();
    *site.accounts.lock().unwrap() = Ok(accounts(&[(ADA, HASH)]));
    site
}

async fn lab() -> ServiceLab {
    ServiceLab::start_in(tempfile::tempdir().unwrap(), with_ada(), Arc::new(SystemClock), |_| {}).await
}

async fn log_in(lab: &ServiceLab, email: &str, password: &str) -> Reply {
    let body = json!({"email": email, "password": password}).to_string();
    lab.send("POST", "/auth/v1/session", &[("Content-Type", "application/json")], &body).await
}

/// The token that Ada logs in for.
pub(crate) async fn token(lab: &ServiceLab) -> String {
    let reply = log_in(lab, ADA, RIGHT).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json::<Value>()["sessionToken"].as_str().unwrap().to_owned()
}

async fn counts(lab: &ServiceLab, token: &str) -> bool {
    let body = json!({"sessionToken": token}).to_string();
    let reply = lab.send("PUT", "/auth/v1/session", &[], &body).await;
    assert!(matches!(reply.status, 204 | 401), "{}", reply.text());
    reply.status == 204
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_serves_for_every_call_until_it_is_given_up() {
    let lab = lab().await;
    let reply = log_in(&lab, "ADA@example.org", RIGHT).await;
    let login: Value = reply.json();
    assert_eq!((reply.status, login["displayName"].as_str()), (201, Some(ADA)));
    assert_eq!(login.as_object().unwrap().len(), 2);
    let token = login["sessionToken"].as_str().unwrap();
    let bearer = format!("Bearer {token}");
    for header in [("sessionToken", token), ("SESSIONTOKEN", token), ("Authorization", bearer.as_str())] {
        let reply = lab.send("POST", "/jobs/copy.binaries/run", &[header], "").await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        assert_eq!(reply.json::<Value>()["started_by"], ADA);
    }
    assert!(counts(&lab, token).await);
    let reply = lab.send("DELETE", "/auth/v1/session", &[], &json!({"sessionToken": token}).to_string()).await;
    assert_eq!((reply.status, reply.body.len()), (204, 0));
    assert!(!counts(&lab, token).await);
    assert_eq!(lab.send("POST", "/jobs/copy.binaries/run", &[("sessionToken", token)], "").await.status, 401);
    // By the header alone; what is gone already is no error.
    let header = [("sessionToken", token)];
    assert_eq!(lab.send("DELETE", "/auth/v1/session", &header, "").await.status, 204);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_address_are_answered_alike() {
    let lab = lab().await;
    for (email, password) in [(ADA, "correct horse "), ("eve@example.org", RIGHT), ("", "")] {
        let reply = log_in(&lab, email, password).await;
        assert_eq!((reply.status, reply.text().as_str()), (400, r#"{"reason":"Unable to authenticate"}"#));
        assert_eq!(reply.header("authenticationurl"), Some("//localhost/auth/v1/session"));
    }
    for body in ["", "{", "[]", "null", "{}", r#"{"email":1,"password":"x"}"#, r#"{"email":"ada@example.org"}"#] {
        let reply = lab.send("POST", "/auth/v1/session", &[], body).await;
        assert_eq!(reply.status, 400, "{body}");
        assert_ne!(reply.reason(), "Unable to authenticate", "{body}");
    }
    let other = r#"{"email":"ada@example.org","password":"correct horse","firstName":"Ada","displayName":null}"#;
    let headers = [("sessionToken", "dummy"), ("Accept", "application/json")];
    assert_eq!(lab.send("POST", "/auth/v1/session", &headers, other).await.status, 201);
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(lab.send("POST", "/auth/v1/session", &form, other).await.status, 415);
    assert_eq!(lab.send("POST", "/auth/v1/session", &[("Accept", "text/html")], other).await.status, 406);
    assert_eq!(lab.send("GET", "/auth/v1/session", &[], "").await.status, 405);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_logs_in_where_there_are_no_administrators() {
    let lab = super::service_lab::service().await;
    for _ in 0..9 {
        let reply = log_in(&lab, ADA, RIGHT).await;
        assert_eq!(reply.status, 403);
        assert!(reply.reason().contains("holdfast passwd"), "{}", reply.reason());
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_time_its_password_and_its_administrator() {
    let clock = SetClock::new();
    let site = with_ada();
    let lab =
        ServiceLab::start_in(tempfile::tempdir().unwrap(), site, Arc::clone(&clock) as Arc<dyn Clock>, |_| {}).await;
    *lab.site.session.lock().unwrap() = Duration::from_hours(12);
    let first = token(&lab).await;
    clock.forward(11);
    assert!(counts(&lab, &first).await);
    clock.forward(1);
    assert!(!counts(&lab, &first).await);
    // Set back by more than a mistake: the session would last longer than was meant.
    clock.forward(-48);
    assert!(!counts(&lab, &first).await);
    let second = token(&lab).await;
    assert!(counts(&lab, &second).await);
    let other = HASH.replace("BwcHBwcHBwcHBwcHBwcHBw", "BwcHBwcHBwcHBwcHBwcHCA");
    *lab.site.accounts.lock().unwrap() = Ok(accounts(&[(ADA, &other)]));
    assert!(!counts(&lab, &second).await);
    // The old password would bring back what was ended for good.
    *lab.site.accounts.lock().unwrap() = Ok(accounts(&[(ADA, HASH)]));
    assert!(!counts(&lab, &second).await);
    let third = token(&lab).await;
    *lab.site.accounts.lock().unwrap() = Ok(accounts(&[("eve@example.org", HASH)]));
    assert!(!counts(&lab, &third).await);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_users_file_is_broken_nobody_gets_in_and_nobody_is_logged_out() {
    let lab = lab().await;
    let token = token(&lab).await;
    *lab.site.accounts.lock().unwrap() = Err("read users file: line 1".to_owned());
    let reply = lab.send("POST", "/jobs/copy.binaries/run", &[("sessionToken", &token)], "").await;
    assert_eq!((reply.status, reply.text().contains("line 1")), (500, false));
    assert_eq!(log_in(&lab, ADA, RIGHT).await.status, 500);
    assert_eq!(lab.get("/status").await.status, 200);
    *lab.site.accounts.lock().unwrap() = Ok(accounts(&[(ADA, HASH)]));
    assert!(counts(&lab, &token).await);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_none_are_refused_whatever_they_look_like() {
    let lab = lab().await;
    let token = token(&lab).await;
    let stored = Digest::of(Algorithm::Sha256, token.as_bytes()).to_string();
    let long = "a".repeat(8000);
    for wrong in ["x", &token[1..], &token.to_uppercase(), &stored, "' OR 1=1 --", &long] {
        let reply = lab.send("POST", "/jobs/copy.binaries/run", &[("sessionToken", wrong)], "").await;
        assert_eq!(reply.status, 401, "{wrong}: {}", reply.text());
        assert!(!counts(&lab, wrong).await);
    }
    assert_eq!(lab.send("POST", "/jobs/copy.binaries/run", &[("Authorization", "Basic eDp5")], "").await.status, 401);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlasts_a_restart_and_its_token_is_kept_nowhere() {
    let lab = lab().await;
    let (kept, given_up) = (token(&lab).await, token(&lab).await);
    let body = json!({"sessionToken": given_up}).to_string();
    assert_eq!(lab.send("DELETE", "/auth/v1/session", &[], &body).await.status, 204);
    let state = lab.state();
    for file in std::fs::read_dir(&state).unwrap().flatten().filter(|file| file.path().is_file()) {
        let content = std::fs::read(file.path()).unwrap();
        assert!(!content.windows(kept.len()).any(|window| window == kept.as_bytes()), "{}", file.path().display());
    }
    let reader = Ledger::open_to_read(&state).unwrap().unwrap();
    let recorded: Vec<Session> = reader.sessions().unwrap();
    assert_eq!((recorded.len(), recorded[0].email.as_str()), (1, ADA));
    let again = holdfast::service::access::Access::open(&lab.daemon).unwrap();
    assert_eq!(again.administrator(&kept).await.unwrap().unwrap().email, ADA);
    assert_eq!(again.administrator(&given_up).await.unwrap(), None);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_written_keeps_nobody_out_and_lets_nobody_back_in() {
    let lab = lab().await;
    let early = token(&lab).await;
    // Stands for a full disk: what is written to the table comes to nothing.
    let other = rusqlite::Connection::open(lab.state().join(holdfast::ledger::FILE)).unwrap();
    other.execute_batch("ALTER TABLE sessions RENAME TO elsewhere").unwrap();
    let late = token(&lab).await;
    assert!(counts(&lab, &early).await && counts(&lab, &late).await);
    let body = json!({"sessionToken": early}).to_string();
    assert_eq!(lab.send("DELETE", "/auth/v1/session", &[], &body).await.status, 500);
    assert!(!counts(&lab, &early).await);
    // With the next change it goes off the record, too.
    other.execute_batch("ALTER TABLE elsewhere RENAME TO sessions").unwrap();
    let last = token(&lab).await;
    let again = holdfast::service::access::Access::open(&lab.daemon).unwrap();
    assert_eq!(again.administrator(&early).await.unwrap(), None);
    assert!(again.administrator(&last).await.unwrap().is_some());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_is_slowed_down_and_the_password_is_not_looked_at() {
    let lab = lab().await;
    for _ in 0..5 {
        assert_eq!(log_in(&lab, ADA, "wrong horse").await.status, 400);
    }
    let reply = log_in(&lab, ADA, RIGHT).await;
    assert_eq!(reply.status, 429);
    assert!(reply.reason().contains("too many failed logins"), "{}", reply.reason());
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    // Whoever has a token goes on.
    assert_eq!(lab.get("/status").await.status, 200);
    // Another way in is another place.
    let body = json!({"email": ADA, "password": RIGHT}).to_string();
    let reply = ask(lab.control().await, &request("POST", "/auth/v1/session", &[], &body)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_guesses_at_once_are_a_hundred() {
    let lab = Arc::new(lab().await);
    let guesses = (0..30).map(|_| {
        let lab = Arc::clone(&lab);
        async move { log_in(&lab, ADA, "wrong horse").await.status }
    });
    let answers = futures_util::future::join_all(guesses).await;
    let looked_at = answers.iter().filter(|status| **status == 400).count();
    assert!((1..=6).contains(&looked_at), "{answers:?}");
    Arc::into_inner(lab).unwrap().end().await;
}

/// `holdfast passwd` with this on standard input.
fn passwd(directory: &std::path::Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("passwd").args(arguments).arg("--config").arg(directory.join("holdfast.toml"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn configured() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let text = "[service]\nstate_dir = \"state\"\n[repository.main]\nbinaries = \"binaries\"\n\
                [destination.main]\nurl = \"file:backups\"\n[backup.full]\n";
    std::fs::write(directory.path().join("holdfast.toml"), text).unwrap();
    directory
}

#[test]
fn passwd_reads_one_line_and_writes_what_a_login_is_checked_against() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = configured();
    let users = directory.path().join("users.toml");
    let read = || holdfast::config::read_users(&std::fs::read_to_string(&users).unwrap(), &users).unwrap();
    let output = passwd(directory.path(), &[ADA, "--name", "Ada Lovelace"], "correct horse\nand more\n");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::metadata(&users).unwrap().permissions().mode() & 0o777, 0o600);
    let first = read().find(ADA).unwrap().clone();
    assert_eq!(first.display_name(), "Ada Lovelace");
    assert!(first.password.is_of(RIGHT) && !first.password.is_of("correct horse\n"));
    assert!(first.password.to_string().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    for (arguments, input, complaint) in [
        (&[ADA][..], "short\n", "shorter than 8 characters"),
        (&[ADA], "", "shorter than 8 characters"),
        (&["ada"], "correct horse\n", "not an e-mail address"),
        (&["eve@example.org", "--remove"], "", "there is no administrator `eve@example.org`"),
    ] {
        let output = passwd(directory.path(), arguments, input);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(complaint), "{complaint}");
        assert_eq!(read().find(ADA), Some(&first));
    }
    assert_eq!(passwd(directory.path(), &[ADA], "battery staple\r\n").status.code(), Some(0));
    let second = read().find(ADA).unwrap().clone();
    assert!(second.password.is_of("battery staple") && second.name == first.name);
    assert_eq!(passwd(directory.path(), &["eve@example.org"], "correct horse").status.code(), Some(0));
    assert_eq!(read().all().count(), 2);
    assert_eq!(passwd(directory.path(), &["ADA@example.org", "--remove"], "").status.code(), Some(0));
    assert!(read().find(ADA).is_none() && read().find("eve@example.org").is_some());
}

#[test]
fn passwd_leaves_a_users_file_alone_that_it_cannot_read() {
    let directory = configured();
    let users = directory.path().join("users.toml");
    std::fs::write(&users, "[administrator.\"ada@example.org\"]\npasword = \"x\"\n").unwrap();
    let output = passwd(directory.path(), &[ADA], "correct horse\n");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains("users.toml:2:1: unknown key `pasword`"), "{complaint}");
    assert!(complaint.contains("did you mean `password`"), "{complaint}");
    assert_eq!(std::fs::read_to_string(&users).unwrap().lines().count(), 2);
}
