//! The older interface: what its clients send, and what they look at in the answers.

use std::sync::Arc;

use holdfast::model::run::{Kind, Outcome, Run, Trigger};
use holdfast::service::clock::SystemClock;
use holdfast::service::request::JobOptions;
use holdfast::store::ErrorKind;
use serde_json::{Value, json};

use super::access::{ADA, token, with_ada};
use super::service_lab::{ARCHIVE, Reply, ServiceLab, ask, eventually, request};

const BACKUP: &str = "/repo/v1/startBackupDaemon";
const RESTORE: &str = "/repo/v1/startRestoreDaemon";

/// A service, and a token of its administrator's.
struct Client {
    lab: ServiceLab,
    token: String,
}

impl Client {
    async fn new() -> Self {
        let lab = ServiceLab::start_in(tempfile::tempdir().unwrap(), with_ada(), Arc::new(SystemClock), |_| {}).await;
        let token = token(&lab).await;
        Self { lab, token }
    }

    /// With the headers that the clients send.
    async fn send(&self, method: &str, path: &str, body: &str) -> Reply {
        let headers = [
            ("sessionToken", self.token.as_str()),
            ("Accept", "application/json"),
            ("Content-Type", "application/json"),
        ];
        self.lab.send(method, path, &headers, body).await
    }

    async fn start_backup(&self) -> Value {
        let reply = self.send("POST", BACKUP, "{}").await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.json()
    }

    async fn start_restore(&self, url: &str) -> Value {
        let reply = self.send("POST", RESTORE, &json!({"url": url}).to_string()).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.json()
    }

    async fn status(&self, id: &Value) -> Value {
        let reply = self.send("GET", &format!("/repo/v1/daemonStatus/{}", id.as_str().unwrap()), "").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// Asks as the Python client does: until it is something else than STARTED.
    async fn to_its_end(&self, id: &Value) -> Value {
        eventually("the run ends", async || {
            let status = self.status(id).await;
            (status["status"] != "STARTED").then_some(status)
        })
        .await
    }

    async fn terminate(&self, id: &Value) {
        let reply = self.send("DELETE", &format!("/repo/v1/terminateDaemon/{}", id.as_str().unwrap()), "").await;
        assert_eq!((reply.status, reply.body.len()), (204, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_started_and_polled_to_its_end_and_its_url_names_the_archive() {
    let client = Client::new().await;
    let reply = client.send("POST", BACKUP, "{}").await;
    assert_eq!((reply.status, reply.header("content-type")), (201, Some("application/json")));
    assert!(!reply.text().contains(['\n', ' ']), "{}", reply.text());
    let started: Value = reply.json();
    assert_eq!(started.as_object().unwrap().len(), 12);
    assert!(started["id"].is_string() && started["startedOn"].is_i64(), "{started}");
    let expected = json!({
        "id": started["id"], "type": "BACKUP", "status": "STARTED", "startedBy": ADA,
        "startedOn": started["startedOn"], "progresssMessage": "Starting...", "progresssCurrent": 0,
        "progresssTotal": 0, "errorMessage": null, "errorDetails": null, "backupUrl": null, "totalTimeMS": 0,
    });
    assert_eq!(started, expected);
    let ended = client.to_its_end(&started["id"]).await;
    assert_eq!(
        (ended["status"].as_str(), ended["progresssMessage"].as_str()),
        (Some("COMPLETED"), Some("Finished: BACKUP"))
    );
    assert_eq!(ended["startedOn"], started["startedOn"]);
    let url = ended["backupUrl"].as_str().unwrap();
    assert_eq!(url.rsplit('/').next(), Some(ARCHIVE));
    let restored = client.to_its_end(&client.start_restore(url).await["id"]).await;
    assert_eq!((restored["status"].as_str(), restored["type"].as_str()), (Some("COMPLETED"), Some("RESTORE")));
    assert_eq!(restored["progresssMessage"], "Finished: RESTORE");
    assert!(restored["backupUrl"].as_str().unwrap().ends_with(ARCHIVE));
    let expected = ["backup.full".to_owned(), format!("restore {ARCHIVE}")];
    assert_eq!(*client.lab.site.performed.lock().unwrap(), expected);
    client.lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_makes_no_difference_to_a_backup_and_a_context_path_none_to_any_call() {
    let client = Client::new().await;
    let headers = [("sessionToken", client.token.as_str())];
    for (path, body) in [(BACKUP, ""), (BACKUP, "not JSON"), ("/services-repository/repo/v1/startBackupDaemon", "{}")] {
        let reply = ask(client.lab.tcp().await, &request("POST", path, &headers, body)).await;
        assert_eq!(reply.status, 201, "{path} {body}: {}", reply.text());
        let id = reply.json::<Value>()["id"].clone();
        let ended = client.to_its_end(&id).await;
        assert_eq!(ended["status"], "COMPLETED");
        let path = format!("/a/b/repo/v1/daemonStatus/{}", id.as_str().unwrap());
        let reply = ask(client.lab.tcp().await, &request("GET", &path, &headers, "")).await;
        assert_eq!(reply.json::<Value>(), ended);
    }
    client.lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_no_administrator_is_told_so_in_the_words_of_each_call() {
    let client = Client::new().await;
    let id = client.start_backup().await["id"].as_str().unwrap().to_owned();
    let (status, terminate) = (format!("/repo/v1/daemonStatus/{id}"), format!("/repo/v1/terminateDaemon/{id}"));
    for (method, path, body, reason) in [
        ("POST", BACKUP, "{}", "Must be an administrator to start a backup daemon"),
        ("POST", RESTORE, r#"{"url":"x"}"#, "Must be an administrator to start a restoration daemon"),
        ("GET", &status, "", "Must be an administrator to get the status of a backup/restore daemon"),
        ("DELETE", &terminate, "", "Must be an administrator to terminate a backup/restore daemon"),
        // Whether there is such a run is told to administrators only.
        (
            "GET",
            "/repo/v1/daemonStatus/999",
            "",
            "Must be an administrator to get the status of a backup/restore daemon",
        ),
    ] {
        let reply = client.lab.send(method, path, &[], body).await;
        assert_eq!((reply.status, reply.text()), (403, json!({ "reason": reason }).to_string()));
        let reply = client.lab.send(method, path, &[("sessionToken", "expired")], body).await;
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("authenticate Crowd")));
        assert_eq!(reply.reason(), "The session token provided was missing, invalid or expired.");
    }
    assert_eq!(client.to_its_end(&json!(id)).await["status"], "COMPLETED");
    assert_eq!(client.lab.site.performed.lock().unwrap().len(), 1);
    client.lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_restore_is_said_before_who_may_ask_for_it() {
    let client = Client::new().await;
    for (body, reason) in [
        ("{}", "File.getUrl cannot be null"),
        (r#"{"url":null}"#, "File.getUrl cannot be null"),
        ("null", "File cannot be null"),
    ] {
        for headers in [&[][..], &[("sessionToken", client.token.as_str())]] {
            let reply = client.lab.send("POST", RESTORE, headers, body).await;
            assert_eq!((reply.status, reply.reason().as_str()), (400, reason), "{body}");
        }
    }
    for body in
        ["", "{", "[]", "7", r#"{"url":7}"#, r#"{"url":"x","more":1}"#, r#"{"url":""}"#, r#"{"url":"http://s3/"}"#]
    {
        let reply = client.lab.send("POST", RESTORE, &[], body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
    }
    let kinds = [("Content-Type", "text/plain"), ("sessionToken", client.token.as_str())];
    assert_eq!(client.lab.send("POST", RESTORE, &kinds, r#"{"url":"x"}"#).await.status, 415);
    let accept = [("Accept", "text/html, application/json;q=0"), ("sessionToken", client.token.as_str())];
    assert_eq!(client.lab.send("POST", RESTORE, &accept, r#"{"url":"x"}"#).await.status, 406);
    for (method, path, allowed) in [
        ("GET", BACKUP, "POST"),
        ("PUT", RESTORE, "POST"),
        ("DELETE", "/repo/v1/daemonStatus/1", "GET, HEAD"),
        ("GET", "/repo/v1/terminateDaemon/1", "DELETE"),
    ] {
        let reply = client.send(method, path, "").await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    assert!(client.lab.site.performed.lock().unwrap().is_empty());
    client.lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_none_and_runs_of_other_kinds_are_not_found() {
    let client = Client::new().await;
    let copy = client.lab.daemon.start("copy.binaries", JobOptions::default(), None).await.unwrap();
    let id = copy.id.to_string();
    for id in [id.as_str(), "0", "-1", "999", "18446744073709551615", "99999999999999999999999999"] {
        for (method, path) in [("GET", "daemonStatus"), ("DELETE", "terminateDaemon")] {
            let reply = client.send(method, &format!("/repo/v1/{path}/{id}"), "").await;
            let reason = format!("Cannot find a BackupRestoreStatus with ID: {id}");
            assert_eq!((reply.status, reply.text()), (404, json!({ "reason": reason }).to_string()));
        }
    }
    for id in ["abc", "1x", "%20", "-", "1.0", "%2e%2e"] {
        let reply = client.send("GET", &format!("/repo/v1/daemonStatus/{id}"), "").await;
        assert_eq!(reply.status, 400, "{id}: {}", reply.text());
    }
    assert_eq!(client.lab.ended(copy.id.get()).await.outcome, Some(Outcome::Succeeded));
    client.lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_and_what_waits_stays_started_and_what_is_terminated_fails() {
    let client = Client::new().await;
    client.lab.site.hold();
    let running = client.start_backup().await["id"].clone();
    let waiting = client.start_backup().await["id"].clone();
    // Nobody waits twice.
    assert_eq!(client.start_backup().await["id"], waiting);
    let restore = client.start_restore(ARCHIVE).await["id"].clone();
    for id in [&running, &waiting, &restore] {
        let status = client.status(id).await;
        assert_eq!((status["status"].as_str(), status["errorMessage"].is_null()), (Some("STARTED"), true), "{status}");
    }
    let looked = client.status(&restore).await;
    assert_eq!(looked["progresssMessage"], "Starting...");
    assert!(looked["backupUrl"].as_str().unwrap().ends_with(ARCHIVE), "{looked}");
    client.terminate(&waiting).await;
    let ended = client.to_its_end(&waiting).await;
    assert_eq!(
        (ended["status"].as_str(), ended["errorMessage"].as_str()),
        (Some("FAILED"), Some("Backup was terminated by the user"))
    );
    client.terminate(&running).await;
    let ended = client.to_its_end(&running).await;
    assert_eq!(
        (ended["status"].as_str(), ended["errorMessage"].as_str()),
        (Some("FAILED"), Some("Backup terminated by the user"))
    );
    assert_eq!((ended["backupUrl"].is_null(), ended["errorDetails"].is_string()), (true, true), "{ended}");
    client.lab.site.release();
    let done = client.to_its_end(&restore).await;
    assert_eq!(done["status"], "COMPLETED");
    client.terminate(&restore).await;
    assert_eq!(client.status(&restore).await, done);
    client.lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_restore_at_once_is_refused_with_a_reason() {
    let client = Client::new().await;
    client.lab.site.hold();
    let first = client.start_restore(ARCHIVE).await["id"].clone();
    let reply = client.send("POST", RESTORE, &json!({"url": "BackupDaemonJob1-2.zip"}).to_string()).await;
    assert_eq!(reply.status, 409);
    assert!(reply.reason().contains(&format!("run {} restores", first.as_str().unwrap())), "{}", reply.reason());
    client.lab.site.release();
    assert_eq!(client.to_its_end(&first).await["status"], "COMPLETED");
    client.lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_a_name_that_nothing_can_have_is_accepted_and_fails() {
    let client = Client::new().await;
    for name in ["no-such-file.zip", "https://s3.amazonaws.com/bucket/no-such-file.zip"] {
        let started = client.start_restore(name).await;
        assert_eq!((started["status"].as_str(), started["progresssTotal"].as_i64()), (Some("STARTED"), Some(0)));
        let ended = client.to_its_end(&started["id"]).await;
        assert_eq!((ended["status"].as_str(), ended["progresssTotal"].as_i64()), (Some("FAILED"), Some(0)), "{ended}");
        assert!(
            ended["errorMessage"].as_str().unwrap().starts_with("there is no archive `no-such-file.zip`"),
            "{ended}"
        );
        assert_eq!(ended["progresssMessage"], "Starting to download the file from S3...");
        assert!(ended["backupUrl"].as_str().unwrap().ends_with("/no-such-file.zip"));
    }
    assert!(client.lab.site.performed.lock().unwrap().is_empty());
    client.lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_s3_refuses_fails_with_its_words_and_nothing_else() {
    let client = Client::new().await;
    *client.lab.site.failure.lock().unwrap() = Some(ErrorKind::Denied);
    let ended = client.to_its_end(&client.start_backup().await["id"]).await;
    assert_eq!((ended["status"].as_str(), ended["errorMessage"].as_str()), (Some("FAILED"), Some("Access Denied")));
    assert_eq!(ended["errorDetails"], "put `archives/x`: Access Denied (AccessDenied)");
    let run: Run = client.lab.get(&format!("/runs/{}", ended["id"].as_str().unwrap())).await.json();
    assert_eq!(run.failure.unwrap().to_string(), "denied");
    client.lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_by_a_crash_has_failed() {
    let client = Client::new().await;
    let ledger = client.lab.daemon.ledger();
    let now = client.lab.daemon.clock().now();
    let id = ledger.add_run("restore", Kind::Restore, Trigger::Request, Some(ADA), now).unwrap();
    ledger.begin_run(id, now, Some("http://s3/bucket/archives/x.zip")).unwrap();
    ledger.interrupt_open_runs(now).unwrap();
    let status = client.status(&json!(id.to_string())).await;
    assert_eq!(status["status"], "FAILED");
    assert_eq!(status["errorMessage"], "the process ended before the run did");
    assert_eq!(status["backupUrl"], "http://s3/bucket/archives/x.zip");
    client.lab.end().await;
}
