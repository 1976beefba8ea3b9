//! Whoever is on the other side may be broken, slow or mean: what is too long, too slow or too much, and that it keeps
//! nobody else from being answered.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use holdfast::service::access::{Access, LoginRefusal};
use holdfast::service::clock::SystemClock;
use holdfast::service::http::Peer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::access::{ADA, RIGHT, with_ada};
use super::openapi;
use super::service_lab::{PATIENCE, Reply, ServiceLab, answer, ask, eventually, request, service};

/// The head of a request that will have a body, without the line that says how long.
fn head(path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n\r\n")
}

/// Whether the other side ended the connection.
async fn is_over(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
    read.is_err() || rest.is_empty()
}

async fn refused(stream: &mut TcpStream, status: u16) -> Reply {
    let reply = answer(stream, false).await.expect("an answer");
    openapi::hold("POST", "/restore", &reply);
    assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{}", reply.text());
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_announced_with_10_gb_is_refused_before_it_comes() {
    let lab = service().await;
    let mut stream = lab.tcp().await;
    stream.write_all(head("/restore", "Content-Length: 10000000000").as_bytes()).await.unwrap();
    assert_eq!(refused(&mut stream, 413).await.reason(), "the body is longer than 65536 bytes");
    assert!(is_over(&mut stream).await);
    // Whoever waits to be told to go on is not told to.
    let mut stream = lab.tcp().await;
    let expecting = head("/restore", "Content-Length: 10000000000\r\nExpect: 100-continue");
    stream.write_all(expecting.as_bytes()).await.unwrap();
    refused(&mut stream, 413).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_10_gb_is_not_read_to_its_end_and_the_refusal_arrives_all_the_same() {
    let lab = service().await;
    for chunked in [true, false] {
        let stream = lab.tcp().await;
        let (mut read, mut write) = stream.into_split();
        let how = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 10000000000" };
        write.write_all(head("/restore", how).as_bytes()).await.unwrap();
        let sending = tokio::task::JoinSet::from_iter([async move {
            let mut chunk = b"10000\r\n".to_vec();
            chunk.extend_from_slice(&vec![b' '; 0x10000]);
            chunk.extend_from_slice(b"\r\n");
            let bytes = if chunked { &chunk[..] } else { &chunk[7..] };
            let mut sent = 0_u64;
            while sent < 10_000_000_000 && write.write_all(bytes).await.is_ok() {
                sent += bytes.len() as u64;
            }
            sent
        }]);
        let reply = answer(&mut read, false).await.expect("an answer");
        assert_eq!(reply.status, 413, "{}", reply.text());
        let sent = tokio::time::timeout(PATIENCE, sending.join_all()).await.expect("the connection ends")[0];
        assert!(sent < 1_000_000_000, "{sent} bytes were taken");
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_the_longest_length_is_taken_and_one_byte_more_is_not() {
    let lab = service().await;
    let body = |length: usize| format!("{{{}}}", " ".repeat(length - 2));
    for (length, status) in [(65536, 202), (65537, 413)] {
        let whole = request("POST", "/jobs/copy.binaries/run", &[], &body(length));
        assert_eq!(ask(lab.control().await, &whole).await.status, status);
        let chunked = head("/jobs/copy.binaries/run", "Transfer-Encoding: chunked\r\nConnection: close")
            + &format!("{length:x}\r\n{}\r\n0\r\n\r\n", body(length));
        assert_eq!(ask(lab.control().await, &chunked).await.status, status);
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_contradicts_itself_or_breaks_off_changes_nothing() {
    let lab = service().await;
    for (how, body) in [
        ("Transfer-Encoding: chunked", "zz\r\n{}\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "ffffffffffffffffff\r\n{}"),
        ("Content-Length: -1", ""),
        ("Content-Length: 99999999999999999999999", ""),
        ("Content-Length: 2\r\nContent-Length: 3", "{} "),
        ("Transfer-Encoding: gzip", "{}"),
    ] {
        let reply = ask(lab.control().await, &(head("/jobs/copy.binaries/run", how) + body)).await;
        assert_eq!(reply.status, 400, "{how}: {}", reply.text());
    }
    let mut stream = lab.control().await;
    stream.write_all((head("/jobs/copy.binaries/run", "Content-Length: 3") + "{}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(answer(&mut stream, false).await.is_none_or(|reply| reply.status == 400));
    assert!(lab.site.performed.lock().unwrap().is_empty());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_limits_of_length_and_number() {
    let lab = service().await;
    let long = |length: usize| format!("/runs?job={}", "a".repeat(length - 10));
    assert_eq!(lab.get(&long(4096)).await.status, 200);
    let reply = lab.get(&long(4097)).await;
    assert_eq!((reply.status, reply.reason().as_str()), (414, "the path is longer than 4096 bytes"));
    let many = |number: usize| vec![("X-More", "x"); number];
    assert_eq!(lab.send("GET", "/status", &many(62), "").await.status, 200);
    let reply = lab.send("GET", "/status", &many(63), "").await;
    assert_eq!((reply.status, reply.reason().as_str()), (431, "there are more than 64 headers"));
    // What is beyond that is not even taken apart.
    for headers in [many(200), vec![("X-Long", &*"x".repeat(20_000))]] {
        let reply = ask(lab.tcp().await, &request("GET", "/status", &headers, "")).await;
        assert_eq!(reply.status, 431);
    }
    assert_eq!(ask(lab.tcp().await, &request("GET", &long(20_000), &[], "")).await.status, 431);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_not_answered_as_if_it_were() {
    let lab = service().await;
    for text in [
        "hello\r\n\r\n",
        "GET\r\n\r\n",
        "GET /status\r\n\r\n",
        "GET /status HTTP/9.9\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ] {
        let mut stream = lab.tcp().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let reply = answer(&mut stream, false).await;
        assert!(reply.is_none_or(|reply| reply.status == 400), "{text:?}");
        assert!(is_over(&mut stream).await, "{text:?}");
    }
    lab.end().await;
}

/// These two wait for as long as the service does: a paused clock would not hold for the sockets.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_is_cut_off() {
    let lab = service().await;
    let (mut read, mut write) = lab.tcp().await.into_split();
    write.write_all(head("/restore", "Content-Length: 60000").as_bytes()).await.unwrap();
    let _trickle = tokio::task::JoinSet::from_iter([async move {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        while write.write_all(b" ").await.is_ok() {
            tick.tick().await;
        }
    }]);
    let begun = Instant::now();
    let reply = answer(&mut read, false).await.expect("an answer");
    assert_eq!((reply.status, reply.reason().as_str()), (408, "the body did not come within 10 s"));
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(is_over(&mut read).await);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_trickles_and_a_connection_that_says_nothing_are_ended() {
    let lab = service().await;
    let begun = Instant::now();
    let (mut read, mut write) = lab.tcp().await.into_split();
    write.write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
    let _trickle = tokio::task::JoinSet::from_iter([async move {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        while write.write_all(b"X-More: x\r\n").await.is_ok() {
            tick.tick().await;
        }
    }]);
    let mut silent = lab.tcp().await;
    let mut kept = lab.tcp().await;
    kept.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut kept, false).await.unwrap().status, 200);
    assert!(is_over(&mut read).await && is_over(&mut silent).await && is_over(&mut kept).await);
    let elapsed = begun.elapsed();
    assert!(Duration::from_secs(9) < elapsed && elapsed < Duration::from_secs(15), "{elapsed:?}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_half_open_connections_keep_nobody_from_the_status() {
    let lab = service().await;
    let mut held = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..4000_usize {
        let mut stream = lab.tcp().await;
        match number % 3 {
            0 => {}
            1 => stream.write_all(b"GET /status HTTP/1.1\r\nHos").await.unwrap(),
            _ => stream.write_all((head("/restore", "Content-Length: 100") + "{").as_bytes()).await.unwrap(),
        }
        // The files of the test's process are limited as well, and both ends are in it.
        if held.len() == 400 {
            held.remove(number % 400);
        }
        held.push(stream);
        if number % 50 == 0 {
            let begun = Instant::now();
            assert_eq!(lab.get("/status").await.status, 200);
            slowest = slowest.max(begun.elapsed());
        }
    }
    eprintln!("the slowest status among 4000 half-open connections took {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    // The oldest made room.
    let over = async |stream: &mut TcpStream| {
        let mut byte = [0];
        tokio::time::timeout(Duration::from_millis(100), stream.read(&mut byte)).await.is_ok()
    };
    assert!(over(&mut held[0]).await);
    assert!(!over(&mut held[399]).await);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_has_places_of_its_own() {
    let lab = service().await;
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(lab.tcp().await);
    }
    let mut control = lab.control().await;
    for _ in 0..100 {
        held.push(lab.tcp().await);
    }
    lab.get("/healthz").await;
    control.write_all(request("GET", "/status", &[], "").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut control, false).await.unwrap().status, 200);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_calls_take_no_place_from_quick_ones_and_are_refused_when_there_are_too_many() {
    let lab = service().await;
    lab.site.hold();
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = lab.tcp().await;
        stream.write_all(request("GET", "/points", &[], "").as_bytes()).await.unwrap();
        slow.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(lab.get("/status").await.status, 200);
    }
    // Those who waited for a place in vain.
    for stream in &mut slow[4..] {
        let reply = answer(stream, false).await.unwrap();
        openapi::hold("GET", "/points", &reply);
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    }
    lab.site.release();
    for stream in &mut slow[..4] {
        assert_eq!(answer(stream, false).await.unwrap().status, 200);
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_and_goes_away_leaves_nothing_behind() {
    let lab = service().await;
    lab.site.hold();
    for _ in 0..20 {
        let mut stream = lab.tcp().await;
        stream.write_all(request("GET", "/points", &[], "").as_bytes()).await.unwrap();
    }
    lab.site.release();
    // Their places are free again.
    eventually("points are listed", async || (lab.get("/points").await.status == 200).then_some(())).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_read_the_answers_is_cut_off_and_the_others_are_served() {
    let lab = ServiceLab::start(|settings| settings.limits.write_within = Duration::from_millis(100)).await;
    let mut stalled = lab.control().await;
    let get = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let whole = ask(lab.control().await, &request("GET", "/openapi.json", &[], "")).await.body.len();
    // More than the sockets hold between them.
    let asked = 100;
    stalled.write_all(get.repeat(asked).as_bytes()).await.unwrap();
    assert_eq!(lab.get("/status").await.status, 200);
    eventually("the connection is closed by the other side", async || {
        stalled.try_write(b"G").is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe).then_some(())
    })
    .await;
    let mut rest = Vec::new();
    drop(stalled.read_to_end(&mut rest).await);
    assert!(!rest.is_empty() && rest.len() < asked * whole, "{} bytes of {asked} answers", rest.len());
    assert_eq!(lab.get("/status").await.status, 200);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_turned_away_with_a_reason_while_all_others_are_being_answered() {
    let lab = ServiceLab::start(|settings| settings.limits.connections = 2).await;
    lab.site.hold();
    let mut busy = Vec::new();
    for number in 1..=2 {
        let mut stream = lab.tcp().await;
        stream.write_all(request("GET", "/points", &[], "").as_bytes()).await.unwrap();
        busy.push(stream);
        eventually("it is being answered", async || (lab.site.held() == number).then_some(())).await;
    }
    let refused = answer(&mut lab.tcp().await, false).await.unwrap();
    openapi::hold("GET", "/points", &refused);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    assert_eq!(refused.reason(), "there are too many connections: try again in a moment");
    // Commands have places of their own.
    assert_eq!(lab.order("GET", "/status", "").await.status, 200);
    lab.site.release();
    for stream in &mut busy {
        assert_eq!(answer(stream, false).await.unwrap().status, 200);
    }
    assert_eq!(lab.get("/status").await.status, 200);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_logins_than_can_wait_are_refused_at_once_and_keep_nobody_from_the_status() {
    let lab = ServiceLab::start_in(tempfile::tempdir().unwrap(), with_ada(), Arc::new(SystemClock), |_| {}).await;
    // Whoever logs in waits for the users file, which is not to be had.
    let (site, (held_to, held), (go_on, wait)) = (Arc::clone(&lab.site), mpsc::channel(), mpsc::channel::<()>());
    let holder = std::thread::spawn(move || {
        let _accounts = site.accounts.lock().unwrap();
        held_to.send(()).unwrap();
        wait.recv().unwrap();
    });
    held.recv().unwrap();
    let body = format!(r#"{{"email":"{ADA}","password":"{RIGHT}"}}"#);
    let login = request("POST", "/auth/v1/session", &[], &body);
    let mut waiting = Vec::new();
    // Four are let in and sixteen wait; those who come then are refused.
    let refused = loop {
        let mut stream = lab.tcp().await;
        stream.write_all(login.as_bytes()).await.unwrap();
        let reply = tokio::time::timeout(Duration::from_millis(100), answer(&mut stream, false)).await;
        match reply {
            Ok(reply) => break reply.unwrap(),
            Err(_) => waiting.push(stream),
        }
    };
    openapi::hold("POST", "/auth/v1/session", &refused);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.text());
    assert_eq!(waiting.len(), 20);
    assert_eq!(lab.get("/status").await.status, 200);
    go_on.send(()).unwrap();
    holder.join().unwrap();
    for stream in &mut waiting {
        assert_eq!(answer(stream, false).await.unwrap().status, 201);
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_would_wait_too_long_for_the_passwords_of_others_is_told_to_come_again() {
    let lab = ServiceLab::start_in(tempfile::tempdir().unwrap(), with_ada(), Arc::new(SystemClock), |_| {}).await;
    // A hash as `holdfast passwd` makes it, which takes a while to check.
    let real = holdfast::service::access::hash(RIGHT).unwrap().to_string();
    *lab.site.accounts.lock().unwrap() = Ok(super::access::accounts(&[(ADA, &real)]));
    let access = Access::open_patient(&lab.daemon, Duration::ZERO).unwrap();
    let login = || access.login(ADA, RIGHT, Peer::Control);
    let (first, second, third, fourth) = tokio::join!(login(), login(), login(), login());
    let all = [first, second, third, fourth];
    assert!(all.iter().any(Result::is_ok));
    assert!(all.iter().any(|login| matches!(login, Err(LoginRefusal::Busy))), "{all:?}");
    assert!(all.iter().all(|login| matches!(login, Ok(_) | Err(LoginRefusal::Busy))), "{all:?}");
    // That counted as no failure of theirs.
    for _ in 0..3 {
        login().await.unwrap();
    }
    lab.end().await;
}
