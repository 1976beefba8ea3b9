//! `holdfast check` on what only the service needs: where it listens, and the certificate that it shows there.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use holdfast::jobs::context::Clock as _;
use holdfast::service::clock::SystemClock;
use jiff::{SignedDuration, tz::TimeZone};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::Value;

use super::s3_memory::{Options, Server};
use super::served::House;

/// A house, and what `check` finds there about this subject: level, message, hint.
struct Checked {
    house: House,
    _server: Server,
}

impl Checked {
    fn new(service: &str) -> Self {
        let server = Server::start(Options::default());
        let house = House::new(&server, service, "");
        Self { house, _server: server }
    }

    #[track_caller]
    fn finds(&self, subject: &str) -> (String, String, String) {
        let (status, out, err) = self.house.holdfast(&["check", "--json"]);
        let findings: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
        let findings = findings.as_array().unwrap();
        let of_subject: Vec<&Value> = findings.iter().filter(|finding| finding["subject"] == subject).collect();
        let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        // The worst of them, if there are more.
        let worst =
            ["error", "warning", "ok"].iter().find_map(|level| of_subject.iter().find(|f| f["level"] == *level));
        let worst = worst.unwrap_or_else(|| panic!("nothing about {subject} in {findings:#?}"));
        let is_error = findings.iter().any(|finding| finding["level"] == "error");
        assert_eq!(status, Some(i32::from(is_error)), "{findings:#?}");
        (text(worst, "level"), text(worst, "message"), text(worst, "hint"))
    }

    /// A new certificate that ends in so many days.
    fn certificate(&self, days: i64) {
        let end = (SystemClock.now() + SignedDuration::from_hours(24 * days)).to_zoned(TimeZone::UTC);
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let day = |number: i8| u8::try_from(number).unwrap();
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(i32::from(end.year()), day(end.month()), day(end.day()));
        let key = KeyPair::generate().unwrap();
        fs::write(self.house.path("certificate.pem"), parameters.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(self.house.path("key.pem"), key.serialize_pem()).unwrap();
        fs::set_permissions(self.house.path("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn an_address_is_free_or_held_by_the_running_service_or_by_somebody_else() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let checked = Checked::new(&format!("listen = [\"{address}\", \"unix:http.sock\"]"));
    let (tcp, unix) =
        (format!("listener {address}"), format!("listener unix:{}", checked.house.path("http.sock").display()));
    let socket = UnixListener::bind(checked.house.path("http.sock")).unwrap();
    let (level, message, hint) = checked.finds(&tcp);
    assert!(level == "warning" && message.contains("another program listens there"), "{level} {message}");
    assert!(message.contains("another `listen` in [service]") && hint.contains("`holdfast serve`"), "{message} {hint}");
    let (level, message, _) = checked.finds(&unix);
    assert!(level == "warning" && message.contains("another service listens there"), "{level} {message}");
    drop((taken, socket));
    // What nobody listens on any more is no obstacle.
    for subject in [&tcp, &unix] {
        assert_eq!(checked.finds(subject), ("ok".to_owned(), "free".to_owned(), String::new()));
    }
    let mut service = checked.house.serve();
    service.until("READY=1");
    let holds = format!("the running service listens there (process {})", service.child());
    for subject in [&tcp, &unix] {
        assert_eq!(checked.finds(subject), ("ok".to_owned(), holds.clone(), String::new()));
    }
    // Another address in the file than the one that the service was started with.
    let text = fs::read_to_string(checked.house.configuration()).unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let of_taken = taken.local_addr().unwrap();
    checked.house.configure(&text.replace(&address.to_string(), &other.to_string()));
    let (level, _, hint) = checked.finds(&format!("listener {other}"));
    assert!(level == "warning" && hint.contains("systemctl restart holdfast"), "{level} {hint}");
    checked.house.configure(&text.replace(&address.to_string(), &of_taken.to_string()));
    let (level, message, _) = checked.finds(&format!("listener {of_taken}"));
    assert!(level == "warning" && message.contains("another program listens there"), "{level} {message}");
    checked.house.configure(&text);
    service.stop();
    assert_eq!(checked.finds(&tcp).0, "ok");
}

#[test]
fn a_certificate_is_looked_at_before_the_service_needs_it() {
    let checked = Checked::new("tls = { certificate = \"certificate.pem\", key = \"key.pem\" }");
    let finds = |level: &str, said: &str| {
        let (found, message, hint) = checked.finds("certificate");
        assert!(found == level && message.contains(said), "{found}: {message}");
        assert!(message.contains("certificate.pem") || message.contains("key.pem"), "{message}");
        hint
    };
    assert!(finds("error", "No such file").contains("`tls` in [service]"));
    checked.certificate(100);
    finds("ok", "and its key fit; it expires on ");
    checked.certificate(10);
    assert!(finds("warning", "expires soon, on ").contains("systemctl reload holdfast"));
    checked.certificate(-1);
    assert!(finds("error", "has expired, on ").contains("renew it"));
    checked.certificate(100);
    fs::set_permissions(checked.house.path("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(finds("warning", "everybody on this machine may read the key").contains("chmod o-r"));
    let key = fs::read(checked.house.path("key.pem")).unwrap();
    checked.certificate(100);
    fs::write(checked.house.path("key.pem"), key).unwrap();
    finds("error", "with the key");
    fs::write(checked.house.path("certificate.pem"), "no certificate").unwrap();
    finds("error", "BEGIN CERTIFICATE");
}
