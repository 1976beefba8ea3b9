//! Pieces of URLs as the configuration spells them, without secrets.

/// A text of the configuration does not say what it should, or says something that is not supported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause} ({way_out})")]
pub struct Invalid {
    /// What is wrong.
    pub cause: String,
    /// What to write instead.
    pub way_out: String,
}

pub(super) fn invalid<T>(cause: impl Into<String>, way_out: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { cause: cause.into(), way_out: way_out.into() })
}

/// Where a password belongs, for all who wrote it into the URL.
pub(super) const NO_PASSWORD: &str = "no secret stands in this file: take it out, and put it into a file of its own that \
                               `password_file` names";

/// The host in `host`, `host:port` or `[::1]:port`, and the port or the usual one.
pub(super) fn host_and_port(place: &str, usual: u16, example: &str) -> Result<(String, u16), Invalid> {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = match port {
        None => usual,
        Some(text) => match text.parse() {
            Ok(port) if port > 0 => port,
            _ => return invalid(format!("`{text}` is no port"), example),
        },
    };
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':'));
    if plain { Ok((host.to_owned(), port)) } else { invalid(format!("`{host}` is no host"), example) }
}

/// Whether nobody can be on the way to a host.
pub(super) fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// A part of a URL without its escapes; none if they are wrong or give no text.
pub(super) fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, others @ ..] = rest {
        if *first == b'%' {
            let digits = others.get(..2).and_then(|digits| str::from_utf8(digits).ok())?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &others[2..];
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}
