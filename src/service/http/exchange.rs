//! One request and its answer: what must hold before a request is looked at, its body, and that there is an answer
//! whatever happens.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};

use super::answer::Answer;
use super::asked::{Asked, Caller, Peer, segments};
use super::connections::Seat;
use super::limits::{BODY, BODY_WITHIN, HEADERS, URI};
use super::{Context, router};

/// A connection, as those see it who answer its requests.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub(super) from: Peer,
    pub(super) seat: Arc<Seat>,
    /// Whether something that was sent was not read.
    pub(super) unread: Arc<AtomicBool>,
}

/// Answers a request.
pub(super) async fn exchange(
    http: Arc<Context>,
    visit: Visit,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    // A call that panics has failed; the connection and the service live.
    let answered = AssertUnwindSafe(answer(&http, &visit, request)).catch_unwind().await;
    let answer = answered.unwrap_or_else(|_| Answer::internal(&anyhow::anyhow!("a call panicked")));
    Ok(answer.into_response())
}

async fn answer(http: &Context, visit: &Visit, request: Request<Incoming>) -> Answer {
    match read(visit, request).await {
        Ok(asked) => {
            let _busy = visit.seat.busy();
            router::answer(http, &asked).await
        }
        // What is left of the request would be taken for the next one.
        Err(refusal) => {
            visit.unread.store(true, Ordering::Relaxed);
            refusal.with(CONNECTION, HeaderValue::from_static("close"))
        }
    }
}

/// The whole request, if it is one that may be answered.
async fn read(visit: &Visit, request: Request<Incoming>) -> Result<Asked, Answer> {
    let (head, body) = request.into_parts();
    if head.uri.path_and_query().is_some_and(|uri| uri.as_str().len() > URI) {
        return Err(Answer::reason(StatusCode::URI_TOO_LONG, format!("the path is longer than {URI} bytes")));
    }
    if head.headers.len() > HEADERS {
        return Err(Answer::reason(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("there are more than {HEADERS} headers"),
        ));
    }
    if head.version == Version::HTTP_11 && head.headers.get_all(HOST).iter().count() != 1 {
        return Err(Answer::reason(StatusCode::BAD_REQUEST, "a request has one header `Host`"));
    }
    let body = read_body(body).await?;
    let caller = Caller::new(visit.from, &head.headers);
    Ok(Asked {
        method: if head.method == Method::HEAD { Method::GET } else { head.method },
        path: segments(head.uri.path())?,
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body,
        caller,
    })
}

async fn read_body(body: Incoming) -> Result<Bytes, Answer> {
    let too_long = || Answer::reason(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {BODY} bytes"));
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    // What is announced need not be read to be too long.
    if body.size_hint().lower() > BODY as u64 {
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_WITHIN, Limited::new(body, BODY).collect()).await {
        Ok(Ok(read)) => Ok(read.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(Answer::reason(StatusCode::BAD_REQUEST, "the body broke off, or is not well-formed")),
        Err(_) => {
            let text = format!("the body did not come within {} s", BODY_WITHIN.as_secs());
            Err(Answer::reason(StatusCode::REQUEST_TIMEOUT, text))
        }
    }
}
