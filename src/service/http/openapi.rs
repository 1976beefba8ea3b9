//! The document of the interface.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::answer::Answer;

const DOCUMENT: &[u8] = include_bytes!("openapi.json");

/// The document, as it stands beside this file.
pub(super) fn document() -> Answer {
    let kind = HeaderValue::from_static("application/json");
    Answer { body: Bytes::from_static(DOCUMENT), ..Answer::empty(StatusCode::OK).with(CONTENT_TYPE, kind) }
}
