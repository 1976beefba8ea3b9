//! The side that faces the network: connections, the log, and faults around the work of s3s.

use std::net::TcpListener as StdListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::Uri;
use hyper::body::Body as HttpBody;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use percent_encoding::percent_decode_str;
use s3s::Body;
use s3s::HttpError;
use s3s::S3Error;
use s3s::S3ErrorCode;
use s3s::StdError;
use s3s::service::S3Service;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::s3_memory::Options;
use crate::s3_memory::backend::Account;
use crate::s3_memory::backend::Backend;
use crate::s3_memory::checksums::Algorithm;
use crate::s3_memory::faults::Effect;
use crate::s3_memory::faults::Faults;
use crate::s3_memory::lock;
use crate::s3_memory::log;
use crate::s3_memory::log::Log;
use crate::s3_memory::objects::Store;

/// The base64 of twenty zeros, which is the SHA-1 of nothing that anybody knows.
const WRONG_SHA1: HeaderValue = HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAAAAAAA=");

/// What is told of every request.
type Hook = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What is told of every request that was done, with the status of its answer.
type AnswerHook = Arc<dyn Fn(&str, &str, u16) + Send + Sync>;

/// Everything that the server's thread and the tests share.
pub(crate) struct Front {
    options: Options,
    store: Mutex<Store>,
    log: Log,
    faults: Faults,
    hook: Mutex<Option<Hook>>,
    answer_hook: Mutex<Option<AnswerHook>>,
    connections: Mutex<usize>,
    left: Condvar,
    release: Mutex<CancellationToken>,
}

impl Front {
    /// With an empty bucket.
    pub(crate) fn new(options: Options) -> Self {
        let mut store = Store::default();
        store.create_bucket(&options.bucket).expect("it is the first");
        Self {
            store: Mutex::new(store),
            log: Log::new(options.log_limit),
            faults: Faults::default(),
            hook: Mutex::default(),
            answer_hook: Mutex::default(),
            connections: Mutex::default(),
            left: Condvar::new(),
            release: Mutex::default(),
            options,
        }
    }

    /// What the server is like.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// What it holds, for as long as nobody else needs it.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// What it was asked.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// What goes wrong with it.
    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Sets what is told of every request.
    pub(crate) fn set_hook(&self, hook: Hook) {
        *lock(&self.hook) = Some(hook);
    }

    /// Sets what is told of every request that was done, before it is answered.
    pub(crate) fn set_answer_hook(&self, hook: AnswerHook) {
        *lock(&self.answer_hook) = Some(hook);
    }

    /// Waits until nobody is connected; requests that hang are cut.
    pub(crate) fn wait_until_alone(&self) {
        lock(&self.release).cancel();
        let connections = lock(&self.connections);
        let patience = Duration::from_secs(20);
        let waited = self.left.wait_timeout_while(connections, patience, |open| *open > 0);
        let (open, waited) = waited.expect("no thread panics while it counts");
        assert!(!waited.timed_out(), "{} connections are still open", *open);
        drop(open);
        *lock(&self.release) = CancellationToken::new();
    }

    async fn answer(&self, service: S3Service, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        let (head, incoming) = request.into_parts();
        let (operation, key) = classify(&head.method, &head.uri);
        let body = RequestBody::new(incoming);
        let ranged = head.headers.contains_key(hyper::header::RANGE);
        let mut entry = Entry { log: &self.log, operation, key, ranged, body: body.clone(), status: None };
        let hook = lock(&self.hook).clone();
        if let Some(hook) = hook {
            hook(operation, &entry.key);
        }

        let effects = self.faults.strike(operation, &entry.key);
        let mut borne = Vec::new();
        for effect in &effects {
            match *effect {
                Effect::Status(status, code) => {
                    body.read(usize::MAX).await;
                    return Ok(entry.answered(refusal(status, code)));
                }
                Effect::EarlyStatus(status, code) => return Ok(entry.answered(refusal(status, code))),
                Effect::CutRequest { after_bytes } => {
                    body.read(after_bytes).await;
                    return Err(cut());
                }
                Effect::Delay(delay) => tokio::time::sleep(delay).await,
                Effect::Crowd(ref crowd) => {
                    let Some(inside) = crowd.enter().await else {
                        body.read(usize::MAX).await;
                        return Ok(entry.answered(refusal(503, "SlowDown")));
                    };
                    borne.push(inside);
                }
                Effect::Hang => {
                    // hyper does not always notice that the client has left in the middle of a body.
                    let release = lock(&self.release).clone();
                    body.read(usize::MAX).await;
                    release.cancelled().await;
                    return Err(cut());
                }
                Effect::LoseAnswer | Effect::CutAnswer { .. } | Effect::WrongContent | Effect::LieAboutChecksum => {}
            }
        }

        let mut response = service.call(Request::from_parts(head, Body::http_body(body.clone()))).await?;
        // A refusal such as 403 comes without the body having been read. If hyper sent it now and closed the
        // connection, the client would see a broken pipe in its place.
        body.read(usize::MAX).await;
        let hook = lock(&self.answer_hook).clone();
        if let Some(hook) = hook {
            hook(operation, &entry.key, response.status().as_u16());
        }
        for effect in effects {
            response = afterwards(&effect, operation, response).await?;
        }
        Ok(entry.answered(response))
    }
}

/// What a fault makes of an answer.
async fn afterwards(effect: &Effect, operation: &str, response: Response<Body>) -> Result<Response<Body>, HttpError> {
    let reads = response.status().is_success() && operation == "GetObject";
    let tells = response.status() == StatusCode::OK && ["GetObject", "HeadObject"].contains(&operation);
    let (mut head, body) = response.into_parts();
    let body = match *effect {
        Effect::LoseAnswer => return Err(cut()),
        Effect::CutAnswer { after_bytes } => {
            let whole = body.collect().await.map_err(HttpError::new)?.to_bytes();
            if whole.len() > after_bytes {
                Body::http_body_unsync(CutBody { rest: whole.slice(..after_bytes), flushed: false })
            } else {
                Body::from(whole)
            }
        }
        Effect::WrongContent if reads => {
            let mut content = body.collect().await.map_err(HttpError::new)?.to_bytes().to_vec();
            let middle = content.len() / 2;
            if let Some(byte) = content.get_mut(middle) {
                *byte ^= 1;
            }
            Body::from(content)
        }
        Effect::LieAboutChecksum if tells => {
            head.headers.insert(Algorithm::Sha1.header(), WRONG_SHA1);
            body
        }
        _ => body,
    };
    Ok(Response::from_parts(head, body))
}

/// An answer that a fault asks for.
fn refusal(status: u16, code: &str) -> Response<Body> {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).expect("a code is text");
    let mut error = S3Error::with_message(code, "a fault that the test asked for");
    error.set_status_code(StatusCode::from_u16(status).expect("a fault has an HTTP status"));
    error.to_http_response().expect("an error can be written as XML")
}

/// Handed to hyper, this closes the connection.
fn cut() -> HttpError {
    HttpError::new("the connection is cut on purpose".into())
}

/// Serves connections until it is told to stop.
pub(crate) async fn serve(front: Arc<Front>, listener: StdListener, stop: CancellationToken) {
    let listener = TcpListener::from_std(listener).expect("the runtime has a reactor");
    let mut builder = S3ServiceBuilder::new(Backend(Arc::clone(&front)));
    let Options { access_key, secret_key, .. } = front.options().clone();
    builder.set_auth(Account { access_key, secret_key });
    let service = builder.build();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        // An error here means that the client is gone already.
        let Ok((stream, _)) = accepted else { continue };
        stream.set_nodelay(true).expect("a TCP socket can be told not to wait");
        let front = Arc::clone(&front);
        let service = service.clone();
        let connection = Connection::count(&front);
        connections.spawn(async move {
            let _connection = connection;
            let answer = service_fn(|request| {
                let front = Arc::clone(&front);
                let service = service.clone();
                async move { front.answer(service, request).await }
            });
            let builder = auto::Builder::new(TokioExecutor::new()).http1_only();
            // An error is a connection that the client left or a fault cut: what the test is about.
            drop(builder.serve_connection(TokioIo::new(stream), answer).await);
        });
    }
}

/// Somebody who is connected.
struct Connection(Arc<Front>);

impl Connection {
    fn count(front: &Arc<Front>) -> Self {
        *lock(&front.connections) += 1;
        Self(Arc::clone(front))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        *lock(&self.0.connections) -= 1;
        self.0.left.notify_all();
    }
}

/// The operation that a request asks for, and the key it is about; of a listing, the prefix.
fn classify(method: &Method, uri: &Uri) -> (&'static str, String) {
    let parameter = |name: &str| {
        let mut pairs = uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| decode(value))
    };
    let has = |name| parameter(name).is_some();
    let path = uri.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    if key.is_empty() {
        let operation = match *method {
            Method::GET if bucket.is_empty() => "ListBuckets",
            Method::GET if has("uploads") => "ListMultipartUploads",
            Method::GET if has("list-type") => "ListObjectsV2",
            Method::POST if has("delete") => "DeleteObjects",
            Method::PUT => "CreateBucket",
            Method::HEAD => "HeadBucket",
            _ => "Other",
        };
        return (operation, parameter("prefix").unwrap_or_default());
    }
    let operation = match *method {
        Method::PUT if has("uploadId") => "UploadPart",
        Method::PUT => "PutObject",
        Method::GET if has("uploadId") => "ListParts",
        Method::GET => "GetObject",
        Method::HEAD => "HeadObject",
        Method::DELETE if has("uploadId") => "AbortMultipartUpload",
        Method::DELETE => "DeleteObject",
        Method::POST if has("uploads") => "CreateMultipartUpload",
        Method::POST if has("uploadId") => "CompleteMultipartUpload",
        _ => "Other",
    };
    (operation, decode(key))
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A request on its way to the log: it is written down when it is answered, cut, or left by its client.
struct Entry<'a> {
    log: &'a Log,
    operation: &'static str,
    key: String,
    ranged: bool,
    body: RequestBody,
    status: Option<StatusCode>,
}

impl Entry<'_> {
    fn answered(&mut self, response: Response<Body>) -> Response<Body> {
        self.status = Some(response.status());
        response
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.log.write(log::Request {
            operation: self.operation,
            key: std::mem::take(&mut self.key),
            ranged: self.ranged,
            body_bytes: self.body.received.load(Ordering::Relaxed),
            status: self.status.map(|status| status.as_u16()),
        });
    }
}

/// A request's body that is counted, and that can be read on where s3s stopped.
#[derive(Clone)]
struct RequestBody {
    incoming: Arc<Mutex<Incoming>>,
    received: Arc<AtomicU64>,
}

impl RequestBody {
    fn new(incoming: Incoming) -> Self {
        Self { incoming: Arc::new(Mutex::new(incoming)), received: Arc::default() }
    }

    /// Reads until this much has arrived in all, or nothing more comes.
    async fn read(&self, bytes: usize) {
        let mut body = self.clone();
        while self.received.load(Ordering::Relaxed) < bytes as u64 {
            if !matches!(body.frame().await, Some(Ok(_))) {
                return;
            }
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut *lock(&self.incoming)).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.received.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.incoming).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.incoming).size_hint()
    }
}

/// The beginning of an answer, and then an error, on which hyper closes the connection.
struct CutBody {
    rest: Bytes,
    flushed: bool,
}

impl HttpBody for CutBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))));
        }
        if !self.flushed {
            // hyper writes out what it has when it must wait; at an error it would throw that away.
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(cut().into())))
    }
}
