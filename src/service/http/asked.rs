//! What is asked, taken apart: nothing here has been believed yet but that it is HTTP.

use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::answer::Answer;

/// The header in which the older interface has its token; it serves for all calls.
pub(super) const SESSION_TOKEN: &str = "sessiontoken";
/// No token of ours is longer.
const MAX_TOKEN: usize = 256;

/// A request, whole.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method; `GET` for `HEAD`, whose answers differ only by what is sent of them.
    pub method: Method,
    /// The segments of the path, decoded: `["runs", "7"]`.
    pub path: Vec<String>,
    /// What stands behind the `?`, as it is.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, which is not longer than is allowed.
    pub body: Bytes,
    /// Who asks.
    pub caller: Caller,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// From where.
    pub from: Peer,
    /// The token that came with the request, of which nothing is known yet.
    pub token: Option<String>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// The socket in the state directory: whoever reaches it may do everything.
    Control,
    /// Another socket of this machine: whoever reaches it may read.
    Socket,
    /// The network.
    Address(IpAddr),
}

/// As the journal names it.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control | Self::Socket => f.write_str("this machine"),
            Self::Address(address) => address.to_canonical().fmt(f),
        }
    }
}

impl Caller {
    /// Who asks from there, with these headers.
    pub(super) fn new(from: Peer, headers: &HeaderMap) -> Self {
        Self { from, token: token(headers) }
    }

    /// Whether every call is allowed, with or without a token.
    pub fn is_local(&self) -> bool {
        self.from == Peer::Control
    }
}

/// The token in `sessionToken`, or else in `Authorization: Bearer`.
fn token(headers: &HeaderMap) -> Option<String> {
    let session = headers.get(SESSION_TOKEN).and_then(|value| value.to_str().ok());
    let bearer = || {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    };
    let token = session.or_else(bearer)?.trim();
    (!token.is_empty() && token.len() <= MAX_TOKEN).then(|| token.to_owned())
}

/// The segments of a path; an answer if it is none.
pub(super) fn segments(path: &str) -> Result<Vec<String>, Answer> {
    let Some(path) = path.strip_prefix('/') else {
        return Err(Answer::reason(StatusCode::BAD_REQUEST, "the path does not begin with `/`"));
    };
    let decode = |segment: &str| percent_decode_str(segment).decode_utf8().map(std::borrow::Cow::into_owned);
    let segments: Result<_, _> = path.split('/').map(decode).collect();
    segments.map_err(|_| Answer::reason(StatusCode::BAD_REQUEST, "the path is not UTF-8"))
}

impl Asked {
    /// The segments of the path, to be matched.
    pub fn segments(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    /// The body as the JSON of a `T`, which is an object.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Answer> {
        self.is_json()?;
        let refuse =
            |cause: String| Answer::reason(StatusCode::BAD_REQUEST, format!("the body is not what is taken: {cause}"));
        // serde would take the fields in their order from it.
        if self.body.trim_ascii_start().starts_with(b"[") {
            return Err(refuse("it is a list, expected an object".to_owned()));
        }
        serde_json::from_slice(&self.body).map_err(|error| refuse(error.to_string()))
    }

    /// Refuses a body that calls itself something else than JSON.
    pub fn is_json(&self) -> Result<(), Answer> {
        let Some(kind) = self.headers.get(CONTENT_TYPE).filter(|_| !self.body.is_empty()) else { return Ok(()) };
        let kind = kind.to_str().unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        Err(Answer::reason(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is taken as JSON only: send the header `Content-Type: application/json`",
        ))
    }
}
