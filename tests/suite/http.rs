//! The calls: what each answers, to whom, and how each refuses.

use std::sync::Arc;

use holdfast::model::run::{Outcome, Run, RunId, Trigger};
use holdfast::service::clock::SystemClock;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::service_lab::{FakeSite, PATIENCE, ServiceLab, answer, ask, eventually, request, service};

const POINT: &str = r#"{"from": "20260101T000000Z-1"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_told_that_the_service_answers() {
    let lab = service().await;
    let reply = lab.get("/healthz").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_runs_and_what_waits_and_how_far_it_is() {
    let lab = service().await;
    lab.site.hold();
    let first: Run = lab.order("POST", "/jobs/copy.binaries/run", "").await.json();
    let looking = async || {
        let status: Value = lab.get("/status").await.json();
        (status["running"][0]["progress"]["current"] == 3).then_some(status)
    };
    eventually("the run counts", looking).await;
    let second: Run = lab.order("POST", "/jobs/copy.binaries/run", "").await.json();
    let status: Value = lab.get("/status").await.json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["stopping"], false);
    assert_eq!(status["jobs"][0]["job"], "copy.binaries");
    assert_eq!(status["jobs"][0]["running"], first.id.get());
    assert_eq!(status["jobs"][0]["waiting"], second.id.get());
    assert_eq!(status["jobs"][0]["last_run"], Value::Null);
    assert_eq!(
        status["running"][0]["progress"],
        json!({"current": 3, "total": 10, "unit": "binaries", "message": "working"})
    );
    assert_eq!(status["waiting"][0]["progress"]["message"], "waiting for run 1 (copy.binaries) to end");
    lab.site.release();
    let ended = lab.ended(second.id.get()).await;
    assert_eq!((ended.outcome, ended.trigger), (Some(Outcome::Succeeded), Trigger::Request));
    let status: Value = lab.get("/status").await.json();
    assert_eq!(status["jobs"][0]["last_run"]["id"], second.id.get());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_shown_newest_first_and_by_what_is_asked_for() {
    let lab = service().await;
    for job in ["copy.binaries", "backup.full", "copy.binaries"] {
        let run: Run = lab.order("POST", &format!("/jobs/{job}/run"), "{}").await.json();
        lab.ended(run.id.get()).await;
    }
    lab.site.hold();
    let run: Run = lab.order("POST", "/jobs/backup.full/run", "").await.json();
    let cancelled = lab.order("DELETE", &format!("/runs/{}", run.id), "").await;
    assert_eq!((cancelled.status, cancelled.header("location")), (202, Some("/runs/4")));
    assert_eq!(lab.ended(4).await.outcome, Some(Outcome::Cancelled));
    let ids = async |query: &str| {
        let runs: Vec<Run> = lab.get(&format!("/runs{query}")).await.json();
        runs.iter().map(|run| run.id.get()).collect::<Vec<_>>()
    };
    assert_eq!(ids("").await, [4, 3, 2, 1]);
    assert_eq!(ids("?").await, [4, 3, 2, 1]);
    assert_eq!(ids("?job=copy.binaries").await, [3, 1]);
    assert_eq!(ids("?job=copy%2Ebinaries&limit=1").await, [3]);
    assert_eq!(ids("?outcome=cancelled").await, [4]);
    assert_eq!(ids("?before=3&limit=1000").await, [2, 1]);
    assert_eq!(ids("?before=0").await, [0; 0]);
    assert_eq!(ids("?before=18446744073709551615").await, [4, 3, 2, 1]);
    assert_eq!(ids("?job=nothing").await, [0; 0]);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_behind_the_question_mark_is_named() {
    let lab = service().await;
    for (query, reason) in [
        ("limit=0", "`limit` is `0`, not a whole number from 1 to 1000"),
        ("limit=1001", "`limit` is `1001`, not a whole number from 1 to 1000"),
        ("limit=ten", "`limit` is `ten`, not a whole number from 1 to 1000"),
        ("limit=", "`limit` is ``, not a whole number from 1 to 1000"),
        ("before=-1", "`before` is `-1`, not the number of a run"),
        ("before=18446744073709551616", "`before` is `18446744073709551616`, not the number of a run"),
        ("outcome=done", "`outcome` is `done`, not succeeded, partial, failed, cancelled or interrupted"),
        ("limit=1&limit=2", "`limit` stands there twice"),
        ("color=red", "unknown key `color` after `?`: known are job, outcome, limit, before"),
        ("job=a&%0a=1", "unknown key `\\n` after `?`: known are job, outcome, limit, before"),
    ] {
        let reply = lab.get(&format!("/runs?{query}")).await;
        assert_eq!((reply.status, reply.reason().as_str()), (400, reason));
    }
    for path in ["/status?verbose", "/points?all=1", "/runs/1?x", "/healthz?x"] {
        assert_eq!(lab.get(path).await.status, 400, "{path}");
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_none_is_the_number_of_no_run() {
    let lab = service().await;
    let of_run =
        ["0", "1", "-1", "+1", "1.0", "abc", "9223372036854775808", "99999999999999999999", "%31x", "%F0%9F%92%BE"];
    for id in of_run {
        for method in ["GET", "DELETE"] {
            let reply = lab.order(method, &format!("/runs/{id}"), "").await;
            assert_eq!(reply.status, 404, "{method} {id}: {}", reply.text());
            assert!(reply.reason().starts_with("there is no run "), "{}", reply.reason());
        }
    }
    assert_eq!(lab.get("/runs/%ff").await.status, 400);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_or_method_that_there_is_not_is_told_apart() {
    let lab = service().await;
    for path in [
        "/",
        "/nowhere",
        "/runs/",
        "/runs/1/2",
        "//status",
        "/status/",
        "/jobs/copy.binaries",
        "/jobs//run",
        "/..",
        "/%2e%2e/status",
    ] {
        let reply = lab.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.reason().contains("GET /openapi.json"), "{}", reply.reason());
    }
    for (method, path, allow) in [
        ("POST", "/status", "GET, HEAD"),
        ("OPTIONS", "/status", "GET, HEAD"),
        ("PUT", "/runs/1", "GET, DELETE, HEAD"),
        ("GET", "/jobs/copy.binaries/run", "POST"),
        ("HEAD", "/restore", "POST"),
        ("TRACE", "/restore", "POST"),
        ("BREW", "/points", "GET, HEAD"),
    ] {
        let reply = ask(lab.control().await, &request(method, path, &[], "")).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{method} {path}");
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_like_get_without_the_body() {
    let lab = service().await;
    for path in ["/healthz", "/openapi.json", "/points"] {
        let get = lab.get(path).await;
        let head = ask(lab.tcp().await, &request("HEAD", path, &[], "")).await;
        assert_eq!((head.status, head.header("content-length")), (200, get.header("content-length")), "{path}");
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_something_takes_a_token_and_on_the_control_socket_none() {
    let lab = service().await;
    for (method, path, body) in [
        ("POST", "/jobs/copy.binaries/run", ""),
        ("DELETE", "/runs/1", ""),
        ("POST", "/restore", POINT),
        ("POST", "/restore/plan", POINT),
        ("POST", "/verify", r#"{"names": ["20260101T000000Z-1"]}"#),
        ("POST", "/reload", ""),
        // Nobody learns without a token what there is.
        ("POST", "/jobs/nothing/run", ""),
        ("DELETE", "/runs/abc", ""),
        ("POST", "/restore", "{"),
    ] {
        for headers in [
            &[][..],
            &[("sessionToken", "")],
            &[("sessionToken", "wrong")],
            &[("Authorization", "Bearer wrong")],
            &[("Authorization", "Basic d3Jvbmc6d3Jvbmc=")],
            &[("Cookie", "sessionToken=wrong")],
        ] {
            let reply = lab.send(method, path, headers, body).await;
            assert_eq!(reply.status, 401, "{method} {path} {headers:?}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"holdfast\""));
        }
    }
    assert!(lab.site.performed.lock().unwrap().is_empty());
    assert!(lab.daemon.run(RunId::new(1)).await.unwrap().is_none());
    let reply = lab.order("POST", "/jobs/copy.binaries/run", "").await;
    assert_eq!((reply.status, reply.header("location")), (202, Some("/runs/1")));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_does_not_keep_anybody_of_this_machine_from_reading() {
    let lab = service().await;
    // It is looked at, as whoever sends one relies on it.
    assert_eq!(lab.send("GET", "/status", &[("sessionToken", "wrong")], "").await.status, 401);
    assert_eq!(lab.send("GET", "/healthz", &[("sessionToken", "wrong")], "").await.status, 200);
    assert_eq!(lab.send("GET", "/status", &[], "").await.status, 200);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_with_the_options_that_were_asked_for() {
    let lab = service().await;
    let run: Run = lab.order("POST", "/jobs/copy.binaries/run", r#"{"full": true}"#).await.json();
    assert_eq!(lab.ended(run.id.get()).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(*lab.site.performed.lock().unwrap(), ["copy.binaries full"]);
    let reply = lab.order("POST", "/jobs/backup.full/run", r#"{"full": true}"#).await;
    assert_eq!(
        (reply.status, reply.reason().as_str()),
        (400, "`full` does not go with backup.full: a backup is always full")
    );
    let reply = lab.order("POST", "/jobs/copy.nothing/run", "").await;
    assert_eq!(
        (reply.status, reply.reason().as_str()),
        (404, "there is no job `copy.nothing`: the jobs are copy.binaries, backup.full")
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_request_is_refused_with_the_place() {
    let lab = service().await;
    for (body, reason) in [
        ("{\"from\": ", "EOF while parsing"),
        ("from=x", "expected ident at line 1 column 2"),
        ("\u{feff}{}", "expected value at line 1 column 1"),
        ("[]", "expected an object"),
        (r#"["20260101T000000Z-1"]"#, "expected an object"),
        ("null", "invalid type: null"),
        ("{}", "missing field `from`"),
        (r#"{"from": 7}"#, "invalid type: integer `7`, expected a string"),
        (r#"{"from": "yesterday"}"#, "yesterday"),
        (r#"{"from": "20260101T000000Z-1", "repo": "main"}"#, "unknown field `repo`"),
        (r#"{"from": "20260101T000000Z-1", "from": "20260101T000000Z-1"}"#, "duplicate field `from`"),
        (r#"{"from": "20260101T000000Z-1", "only": ["xyz"]}"#, "xyz"),
        (r#"{"from": "20260101T000000Z-1"} {}"#, "trailing characters"),
        (&format!(r#"{{"from": {}"#, "[".repeat(2000)), "line 1"),
        ("\"\\ud800\"", "line 1"),
    ] {
        let reply = lab.order("POST", "/restore", body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        assert!(reply.reason().contains(reason), "{body}: {}", reply.reason());
        assert!(!reply.reason().contains("struct"), "{}", reply.reason());
    }
    let unknown = lab.order("POST", "/restore", r#"{"from": "20260101T000000Z-1", "repository": "x"}"#).await;
    assert_eq!((unknown.status, unknown.reason().as_str()), (400, "there is no repository `x`"));
    for (kind, status) in [
        ("application/json", 202),
        ("Application/JSON; charset=utf-8", 202),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/jsonx", 415),
    ] {
        let body = r#"{"full": false}"#;
        let asked = request("POST", "/jobs/copy.binaries/run", &[("Content-Type", kind)], body);
        assert_eq!(ask(lab.control().await, &asked).await.status, status, "{kind}");
    }
    // Without a body it says nothing.
    let empty = request("POST", "/jobs/copy.binaries/run", &[("Content-Type", "text/plain")], "");
    assert_eq!(ask(lab.control().await, &empty).await.status, 202);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_asked_for_twice_at_once_is_refused_the_second_time() {
    let lab = service().await;
    lab.site.hold();
    let run: Run = lab.order("POST", "/restore", POINT).await.json();
    let again = lab.order("POST", "/restore", POINT).await;
    assert_eq!(again.status, 409);
    assert_eq!(again.reason(), "run 1 restores the repository `main` already: wait until it ends, or cancel it");
    // Elsewhere it collides with nothing.
    let elsewhere = r#"{"from": "20260101T000000Z-1", "to": "/srv/elsewhere"}"#;
    assert_eq!(lab.order("POST", "/restore", elsewhere).await.status, 202);
    lab.site.release();
    assert_eq!(lab.ended(run.id.get()).await.outcome, Some(Outcome::Succeeded));
    assert_eq!(lab.order("POST", "/restore", POINT).await.status, 202);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_has_ended_stays_as_it_is_when_it_is_cancelled() {
    let lab = service().await;
    let run: Run = lab.order("POST", "/verify", r#"{"names": ["20260101T000000Z-1"]}"#).await.json();
    let ended = lab.ended(run.id.get()).await;
    let cancelled = lab.order("DELETE", "/runs/1", "").await;
    assert_eq!(cancelled.status, 202);
    assert_eq!(cancelled.json::<Run>(), ended);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_made_at_once_and_is_no_run() {
    let lab = service().await;
    let plan: Value = lab.order("POST", "/restore/plan", POINT).await.json();
    assert_eq!((&plan["from"], &plan["fetch"]), (&json!("20260101T000000Z-1"), &json!(2)));
    assert_eq!(lab.get("/runs").await.json::<Vec<Run>>(), []);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_say_what_they_do_not_tell() {
    let lab = service().await;
    let all = lab.get("/points").await;
    assert_eq!(all.json::<Value>()[0]["name"], "20260101T000000Z-1");
    assert_eq!(all.header("holdfast-unreached-destinations"), None);
    lab.site.points.lock().unwrap().unreached.push("list destination s3: it is away".to_owned());
    let some = lab.get("/points").await;
    assert_eq!((some.status, some.header("holdfast-unreached-destinations")), (200, Some("1")));
    lab.site.points.lock().unwrap().found.clear();
    let none = lab.get("/points").await;
    assert_eq!(
        (none.status, none.reason().as_str()),
        (503, "no destination could be listed: list destination s3: it is away")
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_handed_on_and_its_refusal_handed_back() {
    let mut lab = service().await;
    let mut asked = lab.asked_to_reload.take().unwrap();
    for (result, status, text) in [
        (Ok(()), 204, String::new()),
        (Err("line 7: unknown key `lisen`".to_owned()), 422, r#"{"reason":"line 7: unknown key `lisen`"}"#.to_owned()),
    ] {
        let obeying = async { asked.recv().await.unwrap().send(result).unwrap() };
        let (reply, ()) = tokio::join!(lab.order("POST", "/reload", ""), obeying);
        assert_eq!((reply.status, reply.text()), (status, text));
    }
    drop(asked);
    assert_eq!(lab.order("POST", "/reload", "").await.reason(), "the service is stopping");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_stopping_says_so() {
    let lab = service().await;
    lab.site.hold();
    let run: Run = lab.order("POST", "/jobs/copy.binaries/run", "").await.json();
    lab.stop_daemon.cancel();
    let ended = lab.ended(run.id.get()).await;
    assert_eq!((ended.outcome, ended.error.as_deref()), (Some(Outcome::Cancelled), Some("the service was stopped")));
    let status: Value = lab.get("/status").await.json();
    assert_eq!(status["stopping"], true);
    let reply = lab.order("POST", "/jobs/copy.binaries/run", "").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(reply.reason(), "the service is stopping: ask again when it has been started");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_ours_is_told_without_what_it_is() {
    let lab =
        ServiceLab::start_in(tempfile::tempdir().unwrap(), FakeSite::default(), Arc::new(SystemClock), |_| {}).await;
    // Another process would have to be at fault; the test is that process.
    let ledger = rusqlite::Connection::open(lab.state().join("ledger.db")).unwrap();
    ledger.execute_batch("ALTER TABLE runs RENAME TO gone").unwrap();
    for path in ["/runs", "/status", "/runs/1"] {
        let reply = lab.get(path).await;
        assert_eq!(reply.status, 500, "{path}");
        assert_eq!(reply.reason(), "internal error: the journal of the service says more");
    }
    let reply = lab.order("POST", "/jobs/copy.binaries/run", "").await;
    assert_eq!((reply.status, reply.reason().as_str()), (500, "internal error: the journal of the service says more"));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_here_by_accident_or_malice_reads_nothing() {
    let lab = ServiceLab::start(|settings| settings.hosts = vec!["backup.example.org".to_owned()]).await;
    let with_host =
        |host: &str, more: &str| format!("GET /status HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n");
    for (host, status) in [
        ("127.0.0.1:8480", 200),
        ("localhost", 200),
        ("[::1]:8480", 200),
        ("backup.example.org", 200),
        ("rebound.example.com", 403),
        ("rebound.example.com:8480", 403),
        ("", 403),
    ] {
        assert_eq!(ask(lab.tcp().await, &with_host(host, "")).await.status, status, "{host}");
    }
    // Who has a token cannot be a page that was lured here; this one is wrong, and that is what it hears.
    let token = with_host("rebound.example.com", "sessionToken: x\r\n");
    assert_eq!(ask(lab.tcp().await, &token).await.status, 401);
    assert_eq!(ask(lab.control().await, &with_host("whatever", "")).await.status, 200);
    let old = ask(lab.tcp().await, "GET /status HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.status, 200);
    let none = ask(lab.tcp().await, "GET /status HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert_eq!((none.status, none.reason().as_str()), (400, "a request has one header `Host`"));
    let two = "GET /status HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(lab.tcp().await, two).await.status, 400);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_serves_many_requests_in_their_order() {
    let lab = service().await;
    let mut stream = lab.tcp().await;
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert_eq!(answer(&mut stream, false).await.unwrap().text(), "ok");
    }
    // All at once, with one that is refused in the middle and one that has a body.
    let at_once = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n\
        POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}\
        GET /runs HTTP/1.1\r\nHost: localhost\r\n\r\n\
        GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(at_once.as_bytes()).await.unwrap();
    let mut statuses = Vec::new();
    while let Some(reply) = answer(&mut stream, false).await {
        statuses.push(reply.status);
    }
    assert_eq!(statuses, [200, 401, 200, 404]);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_are_answered_when_the_http_ends_and_nobody_else_comes_in() {
    let lab = service().await;
    lab.site.hold();
    let mut under_way = lab.tcp().await;
    under_way.write_all(request("GET", "/points", &[], "").as_bytes()).await.unwrap();
    let mut idle = lab.tcp().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    answer(&mut idle, false).await.unwrap();
    let mut half = lab.tcp().await;
    half.write_all(b"GET /healthz HT").await.unwrap();
    // Everything that was sent before has come in when this is answered.
    lab.get("/healthz").await;
    lab.stop.cancel();
    eventually("nobody comes in", async || {
        tokio::net::TcpStream::connect(lab.addresses[0]).await.is_err().then_some(())
    })
    .await;
    assert!(tokio::net::UnixStream::connect(lab.state().join("holdfast.sock")).await.is_err());
    assert!(answer(&mut idle, false).await.is_none());
    lab.site.release();
    assert_eq!(answer(&mut under_way, false).await.unwrap().status, 200);
    let ended = tokio::time::timeout(PATIENCE, lab.end()).await;
    assert!(ended.is_ok());
    assert!(answer(&mut half, false).await.is_none());
}
