//! Where the service listens, who may come in there, and what it says when it cannot.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use holdfast::model::address::Address;
use holdfast::service::http::{Http, HttpSettings, TlsFiles};
use tempfile::tempdir;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::service_lab::{PATIENCE, ServiceLab, answer, ask, eventually, request, settings};

/// Why the service does not listen.
async fn refusal(settings: HttpSettings) -> String {
    format!("{:#}", Http::bind(settings).await.expect_err("a refusal"))
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A new certificate for localhost, in two files.
fn certificate(directory: &Path) -> TlsFiles {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = TlsFiles { certificate: directory.join("certificate.pem"), key: directory.join("key.pem") };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    files
}

/// A connection of whoever trusts only this certificate; an error if another is shown.
async fn greet(lab: &ServiceLab, trusted: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, lab.tcp().await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_in_the_file_system_serves_those_whom_its_rights_let_in() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let lab = ServiceLab::start(|settings| settings.listen = vec![Address::Unix(path.clone())]).await;
    assert_eq!((mode(&path), mode(&lab.state().join("holdfast.sock"))), (0o660, 0o600));
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(stream, &request("GET", "/status", &[], "")).await.status, 200);
    // To read needs no token, and no name; all else does.
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(stream, &request("POST", "/jobs/copy.binaries/run", &[], "")).await.status, 401);
    let state = lab.state();
    assert!(lab.addresses.is_empty());
    lab.stop.cancel();
    eventually("the sockets are taken away", async || {
        (!path.exists() && !state.join("holdfast.sock").exists()).then_some(())
    })
    .await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nowhere_is_a_place_to_listen_and_the_control_socket_stays() {
    let lab = ServiceLab::start(|settings| settings.listen = Vec::new()).await;
    assert_eq!(lab.order("GET", "/status", "").await.status, 200);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_of_a_killed_service_is_replaced_and_that_of_a_living_one_is_not() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("holdfast.sock");
    // A listener that is dropped without taking its file away is what a kill leaves.
    drop(UnixListener::bind(&path).unwrap());
    let first = Http::bind(settings(directory.path())).await.unwrap();
    let reason = refusal(settings(directory.path())).await;
    assert_eq!(reason, format!("listen on `{}`: another service listens there: stop it first", path.display()));
    assert!(path.exists(), "the second one took the socket of the first away");
    drop(first);
    assert!(!path.exists());
    std::fs::write(&path, "of somebody else").unwrap();
    assert_eq!(
        refusal(settings(directory.path())).await,
        format!("listen on `{}`: something else lies there: take it away, or name another socket", path.display())
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"of somebody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_another_service_has_replaced_is_left_to_it() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("holdfast.sock");
    let first = Http::bind(settings(directory.path())).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let _second = UnixListener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_listening_is_named_with_the_way_out() {
    let directory = tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let with = |listen: Vec<Address>| HttpSettings { listen, ..settings(directory.path()) };
    let port = refusal(with(vec![Address::Tcp(address)])).await;
    assert!(
        port.starts_with(&format!("listen on {address}: ")) && port.contains("another program listens there"),
        "{port}"
    );
    assert!(port.contains("`listen` in [service]"), "{port}");
    // Nothing stays behind of what had been bound before.
    assert!(!directory.path().join("holdfast.sock").exists());
    let foreign = refusal(with(vec![Address::Tcp("192.0.2.1:8480".parse().unwrap())])).await;
    assert!(foreign.contains("in plain text"), "{foreign}");
    let foreign = HttpSettings {
        allow_plaintext_beyond_loopback: true,
        ..with(vec![Address::Tcp("192.0.2.1:8480".parse().unwrap())])
    };
    let foreign = refusal(foreign).await;
    assert!(foreign.contains("this machine does not have the address"), "{foreign}");
    let nowhere = refusal(with(vec![Address::Unix(directory.path().join("none/http.sock"))])).await;
    assert!(nowhere.contains("its directory is not there"), "{nowhere}");
    let long = refusal(with(vec![Address::Unix(directory.path().join("x".repeat(120)))])).await;
    assert!(long.contains("at most 107 bytes"), "{long}");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_not_served_in_plain_text_unless_that_is_wanted_and_read_nothing_without_a_token() {
    let lab = ServiceLab::start(|settings| {
        settings.listen = vec![Address::Tcp("0.0.0.0:0".parse().unwrap())];
        settings.allow_plaintext_beyond_loopback = true;
    })
    .await;
    let port = lab.addresses[0].port();
    // From this machine.
    assert_eq!(
        ask(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), &request("GET", "/status", &[], "")).await.status,
        200
    );
    // From an address that is not loopback, which every machine with a network has.
    let Some(outside) = outside_address() else { return lab.end().await };
    for (path, status) in
        [("/status", 401), ("/runs", 401), ("/points", 401), ("/openapi.json", 401), ("/healthz", 200)]
    {
        let stream = TcpStream::connect((outside, port)).await.unwrap();
        assert_eq!(ask(stream, &request("GET", path, &[], "")).await.status, status, "{path}");
    }
    lab.end().await;
}

/// An address of this machine by which others know it. Asking for a way sends nothing.
fn outside_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_shows_the_certificate_and_a_renewed_one_to_whoever_comes_after() {
    let directory = tempdir().unwrap();
    let files = certificate(directory.path());
    let first = std::fs::read(&files.certificate).unwrap();
    let lab = ServiceLab::start(|settings| settings.tls = Some(files.clone())).await;
    let get = request("GET", "/status", &[], "");
    assert_eq!(ask(greet(&lab, &first).await.unwrap(), &get).await.status, 200);

    certificate(directory.path());
    let second = std::fs::read(&files.certificate).unwrap();
    assert!(greet(&lab, &second).await.is_err(), "a certificate that was not asked for yet");
    lab.certificate.as_ref().unwrap().renew(&files).unwrap();
    assert_eq!(ask(greet(&lab, &second).await.unwrap(), &get).await.status, 200);
    assert!(greet(&lab, &first).await.is_err());

    // One that cannot be used changes nothing.
    std::fs::write(&files.key, "no key").unwrap();
    let reason = format!("{:#}", lab.certificate.as_ref().unwrap().renew(&files).unwrap_err());
    assert!(reason.contains("key.pem") && reason.contains("nothing of that kind"), "{reason}");
    assert_eq!(ask(greet(&lab, &second).await.unwrap(), &get).await.status, 200);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_and_silence_come_to_nothing_where_tls_is_spoken() {
    let directory = tempdir().unwrap();
    let files = certificate(directory.path());
    let trusted = std::fs::read(&files.certificate).unwrap();
    let lab = ServiceLab::start(|settings| settings.tls = Some(files)).await;
    let mut plain = lab.tcp().await;
    tokio::io::AsyncWriteExt::write_all(&mut plain, request("GET", "/status", &[], "").as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let over = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut read);
    drop(tokio::time::timeout(PATIENCE, over).await.expect("an end in time"));
    assert!(!read.starts_with(b"HTTP"));
    // Half-open handshakes by the hundred.
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(lab.tcp().await);
        if silent.len() == 400 {
            silent.remove(0);
        }
    }
    let mut stream = greet(&lab, &trusted).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, request("GET", "/status", &[], "").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream, false).await.unwrap().status, 200);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_used_is_named() {
    let directory = tempdir().unwrap();
    let files = certificate(directory.path());
    let with = |files: &TlsFiles| HttpSettings { tls: Some(files.clone()), ..settings(directory.path()) };
    let other_directory = tempdir().unwrap();
    let other = certificate(other_directory.path());
    for (files, reason) in [
        (TlsFiles { certificate: directory.path().join("none.pem"), ..files.clone() }, "No such file"),
        (TlsFiles { certificate: files.key.clone(), ..files.clone() }, "BEGIN CERTIFICATE"),
        (TlsFiles { key: files.certificate.clone(), ..files.clone() }, "nothing of that kind"),
        (TlsFiles { key: other.key.clone(), ..files.clone() }, "with the key"),
    ] {
        let refusal = refusal(with(&files)).await;
        assert!(refusal.contains(reason) && refusal.contains(".pem"), "{refusal}");
        assert!(!directory.path().join("holdfast.sock").exists());
    }
}
