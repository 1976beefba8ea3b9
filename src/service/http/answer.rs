//! What is answered.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use crate::service::journal::{Level, say};
use crate::service::request::Refusal;

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers beside those that every answer has.
    pub headers: Box<HeaderMap>,
    /// The body.
    pub body: Bytes,
}

#[derive(Serialize)]
struct Reason<'a> {
    reason: &'a str,
}

impl Answer {
    /// A value as JSON, without spaces or a line break at the end.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => {
                Self::empty(status).with(CONTENT_TYPE, HeaderValue::from_static("application/json")).bytes(body.into())
            }
            Err(error) => Self::internal(&anyhow::Error::from(error).context("write an answer as JSON")),
        }
    }

    /// Why something is not done: `{"reason": "…"}`.
    pub fn reason(status: StatusCode, text: impl AsRef<str>) -> Self {
        Self::json(status, &Reason { reason: text.as_ref() })
    }

    /// Nothing but a status.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: Box::default(), body: Bytes::new() }
    }

    /// Words for a person or a probe.
    pub fn text(status: StatusCode, text: &'static str) -> Self {
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        Self::empty(status).with(CONTENT_TYPE, kind).bytes(Bytes::from_static(text.as_bytes()))
    }

    /// The same, of words that are made for the occasion.
    pub fn plain(status: StatusCode, text: impl Into<String>) -> Self {
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        Self::empty(status).with(CONTENT_TYPE, kind).bytes(Bytes::from(text.into()))
    }

    /// It should have worked: the journal gets the whole chain, whoever asked only that.
    pub fn internal(error: &anyhow::Error) -> Self {
        say(Level::Error, format_args!("answer a request: {error:#}"));
        Self::reason(StatusCode::INTERNAL_SERVER_ERROR, "internal error: the journal of the service says more")
    }

    /// Not now: it is worth asking again soon.
    pub fn later(text: impl AsRef<str>) -> Self {
        Self::reason(StatusCode::SERVICE_UNAVAILABLE, text).with(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Only for those who have a token that counts.
    pub fn unauthorized(text: impl AsRef<str>) -> Self {
        Self::reason(StatusCode::UNAUTHORIZED, text)
            .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"holdfast\""))
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    fn bytes(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    /// As hyper sends it.
    pub(super) fn into_response(mut self) -> Response<Full<Bytes>> {
        // What a service is at changes, and is nobody's business but that of who asked.
        self.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = *self.headers;
        response
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound(text) => Self::reason(StatusCode::NOT_FOUND, text),
            Refusal::Invalid(text) => Self::reason(StatusCode::BAD_REQUEST, text),
            Refusal::Conflict(text) => Self::reason(StatusCode::CONFLICT, text),
            Refusal::Stopping => Self::later(Refusal::Stopping.to_string()),
            Refusal::Internal(error) => Self::internal(&error),
        }
    }
}
