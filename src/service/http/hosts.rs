//! By what names the service may be reached without a token.
//!
//! A page in a browser of this machine can have its own name lead to 127.0.0.1 and then read what comes from there.
//! It cannot change what stands in `Host`, though: who reads without a token must have asked for this machine by
//! address, as `localhost`, or by a name that the configuration gives.

use std::net::{IpAddr, Ipv6Addr};

use hyper::StatusCode;
use hyper::header::HeaderValue;

use super::answer::Answer;

/// Refuses a `Host` under which nobody asks for this service on purpose.
pub(super) fn check(hosts: &[String], host: Option<&HeaderValue>) -> Result<(), Answer> {
    // Browsers always send one.
    let Some(host) = host else { return Ok(()) };
    let name = host.to_str().map(without_port).unwrap_or_default();
    if is_address(name) || is_localhost(name) || hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    Err(Answer::reason(
        StatusCode::FORBIDDEN,
        "the service does not know itself by the name in `Host`: ask for it by address or as localhost, send a token, \
         or add the name to `hosts` in [service]",
    ))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn is_address(name: &str) -> bool {
    let six = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4())
        || six.is_some_and(|six| six.parse::<Ipv6Addr>().is_ok())
}

fn is_localhost(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_configured_names_are_known() {
        let hosts = ["backup.example.org".to_owned()];
        for (host, known) in [
            ("127.0.0.1:8480", true),
            ("127.0.0.1", true),
            ("[::1]:8480", true),
            ("[::1]", true),
            ("localhost", true),
            ("LOCALHOST:80", true),
            ("a.localhost", true),
            ("Backup.Example.org:8480", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("evil.example:127", false),
            ("::1", false),
            ("", false),
        ] {
            assert_eq!(check(&hosts, Some(&HeaderValue::from_static(host))).is_ok(), known, "{host}");
        }
        assert!(check(&hosts, None).is_ok());
    }
}
