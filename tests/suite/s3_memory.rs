//! An S3 server in memory, for the tests and the benchmark.
//!
//! It speaks HTTP on a port of its own, checks signatures and checksums as AWS does, writes down what it was asked,
//! and fails on demand. It runs on a thread and a runtime of its own, so a test may use any runtime, or none; the
//! paused clock of a test does not reach it.

// The paths are spelled out because `examples/s3-memory.rs` includes this file by its path, and then the modules
// would be looked for beside it.
#[path = "s3_memory/backend.rs"]
mod backend;
#[path = "s3_memory/checksums.rs"]
mod checksums;
#[path = "s3_memory/faults.rs"]
mod faults;
#[path = "s3_memory/front.rs"]
mod front;
#[path = "s3_memory/log.rs"]
mod log;
#[path = "s3_memory/objects.rs"]
mod objects;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

pub(crate) use crate::s3_memory::faults::Crowd;
pub(crate) use crate::s3_memory::faults::Effect;
pub(crate) use crate::s3_memory::faults::Fault;
pub(crate) use crate::s3_memory::faults::When;
use crate::s3_memory::front::Front;
pub(crate) use crate::s3_memory::log::Count;
pub(crate) use crate::s3_memory::log::Request;

/// The access key that a server knows by default.
pub(crate) const ACCESS_KEY: &str = "holdfast-test";

/// The secret that goes with [`ACCESS_KEY`].
pub(crate) const SECRET_KEY: &str = "holdfast-test-secret";

/// What a server is like; the default is AWS in small.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where it listens on the loopback interface; 0 takes a free port.
    pub(crate) port: u16,
    /// The bucket that is there from the start.
    pub(crate) bucket: String,
    /// The only access key it knows.
    pub(crate) access_key: String,
    /// The secret that goes with it.
    pub(crate) secret_key: String,
    /// The threads that serve.
    pub(crate) threads: usize,
    /// The most keys, or uploads, on one page of a listing.
    pub(crate) page_limit: usize,
    /// How many requests are written down one by one; all are counted.
    pub(crate) log_limit: usize,
    /// What it does with the checksums that come with a body.
    pub(crate) checksums: Checking,
    /// Measures, checks and then forgets the bodies of objects whose key contains this text; the empty text is in
    /// every key. To get such an object is an error.
    pub(crate) drop_bodies: Option<String>,
    /// Overwrites with 200 when asked to put only what is not there yet, as Garage does.
    pub(crate) ignore_if_none_match: bool,
    /// Cannot list the uploads that were begun and not ended.
    pub(crate) no_list_uploads: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            bucket: "holdfast".into(),
            access_key: ACCESS_KEY.into(),
            secret_key: SECRET_KEY.into(),
            threads: 1,
            page_limit: 1000,
            log_limit: 200_000,
            checksums: Checking::Verify,
            drop_bodies: None,
            ignore_if_none_match: false,
            no_list_uploads: false,
        }
    }
}

/// What a server does with the checksums that come with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checking {
    /// Refuses a body that does not have them, keeps and tells them, as AWS does.
    Verify,
    /// Believes, keeps and tells them, as moto does; the cheapest in a benchmark.
    Believe,
    /// Takes no notice of them, as rclone does.
    Ignore,
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    front: Arc<Front>,
    endpoint: String,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server; it answers as soon as this returns.
    pub(crate) fn start(options: Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).expect("the port is free");
        listener.set_nonblocking(true).expect("a new socket can be switched");
        let endpoint = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let threads = options.threads;
        let front = Arc::new(Front::new(options));
        let stop = CancellationToken::new();
        let serve = front::serve(Arc::clone(&front), listener, stop.clone());
        let runtime = match threads {
            0 | 1 => Builder::new_current_thread().enable_all().build(),
            more => Builder::new_multi_thread().worker_threads(more).enable_all().build(),
        }
        .expect("a runtime can be built");
        let thread = std::thread::Builder::new()
            .name("s3-memory".into())
            .spawn(move || runtime.block_on(serve))
            .expect("a thread can be started");
        Self { front, endpoint, stop, thread: Some(thread) }
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The bucket that is there from the start, and the one that the methods below look into.
    pub(crate) fn bucket(&self) -> &str {
        &self.front.options().bucket
    }

    /// The requests since the start or [`clear_log`](Self::clear_log), in the order in which they ended.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.front.log().requests()
    }

    /// How many requests asked for this operation.
    pub(crate) fn count(&self, operation: &str) -> u64 {
        self.counts().get(operation).map_or(0, |count| count.requests)
    }

    /// The numbers of every operation that was asked for.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, Count> {
        self.front.log().counts()
    }

    /// Forgets the requests and the numbers.
    pub(crate) fn clear_log(&self) {
        self.front.log().clear();
    }

    /// Every object of the bucket; the content of dropped ones is empty.
    pub(crate) fn objects(&self) -> BTreeMap<String, Bytes> {
        self.front.store().bucket(self.bucket()).expect("made at the start").contents()
    }

    /// The content of one object.
    pub(crate) fn object(&self, key: &str) -> Option<Bytes> {
        self.front.store().bucket(self.bucket()).expect("made at the start").content(key)
    }

    /// Puts this content under the key behind everyone's back: what the store tells of an object that was there,
    /// its checksums and its `ETag`, stays as it was.
    pub(crate) fn replace(&self, key: &str, content: Bytes) {
        let mut store = self.front.store();
        store.bucket_mut(self.bucket()).expect("made at the start").replace(key, content);
    }

    /// Takes an object away behind everyone's back.
    pub(crate) fn remove(&self, key: &str) {
        let mut store = self.front.store();
        store.bucket_mut(self.bucket()).expect("made at the start").remove(key);
    }

    /// Key and id of every upload that was begun and not ended.
    pub(crate) fn uploads(&self) -> Vec<(String, String)> {
        self.front.store().bucket(self.bucket()).expect("made at the start").unfinished()
    }

    /// Adds a fault. All faults that match a request strike it together.
    pub(crate) fn fault(&self, fault: Fault) {
        self.front.faults().add(fault);
    }

    /// Ends all faults.
    pub(crate) fn clear_faults(&self) {
        self.front.faults().clear();
    }

    /// Calls this with operation and key of every request, before anything is done about it. It runs on the server's
    /// thread and replaces the one before it.
    pub(crate) fn on_request(&self, hook: impl Fn(&str, &str) + Send + Sync + 'static) {
        self.front.set_hook(Arc::new(hook));
    }

    /// Calls this with operation and key of every request that was done, and the status of its answer, before it is
    /// answered. It runs on the server's thread and replaces the one before it.
    pub(crate) fn on_answer(&self, hook: impl Fn(&str, &str, u16) + Send + Sync + 'static) {
        self.front.set_answer_hook(Arc::new(hook));
    }

    /// Waits until nobody is connected any more: what was asked of it is then done, or never will be.
    pub(crate) fn wait_until_alone(&self) {
        self.front.wait_until_alone();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the S3 server in memory panicked");
        }
    }
}

/// Locks what no panic can leave half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
