//! What a server was asked.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::s3_memory::lock;

/// A request, written down when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The operation by its name in the S3 API, such as `PutObject`.
    pub(crate) operation: &'static str,
    /// The object's key; the prefix of a listing.
    pub(crate) key: String,
    /// Whether it asked for a part of the object only.
    pub(crate) ranged: bool,
    /// The bytes of the body that arrived, with the framing of chunks where there is one.
    pub(crate) body_bytes: u64,
    /// The HTTP status it was answered with; none when it got no answer, whether or not it was done.
    pub(crate) status: Option<u16>,
}

/// The numbers of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// How many requests there were.
    pub(crate) requests: u64,
    /// The bytes of their bodies.
    pub(crate) bytes: u64,
}

/// The requests so far: all counted, the first ones kept.
#[derive(Debug)]
pub(crate) struct Log {
    limit: usize,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    requests: Vec<Request>,
    counts: BTreeMap<&'static str, Count>,
}

impl Log {
    /// An empty log that keeps this many requests.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, written: Mutex::default() }
    }

    /// Writes a request down.
    pub(crate) fn write(&self, request: Request) {
        let mut written = lock(&self.written);
        let count = written.counts.entry(request.operation).or_default();
        count.requests += 1;
        count.bytes += request.body_bytes;
        if written.requests.len() < self.limit {
            written.requests.push(request);
        }
    }

    /// The requests that were kept.
    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.written).requests.clone()
    }

    /// The numbers of every operation.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, Count> {
        lock(&self.written).counts.clone()
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        *lock(&self.written) = Written::default();
    }
}
