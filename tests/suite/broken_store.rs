//! A store around another that fails, or has something happen, at a request of the test's choice.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast::model::digest::Digest;
use holdfast::model::key::Key;
use holdfast::store::{
    ByteRange, Capabilities, Download, ErrorKind, ObjectInfo, ObjectStore, Page, PageToken, PartReceipt, StoreError,
    Unfinished, Upload,
};

/// What becomes of a request.
pub(crate) enum Effect {
    /// It fails, and those after it do not.
    FailsOnce(ErrorKind),
    /// It fails, and so does every one after it.
    FailsFromThenOn(ErrorKind),
    /// It comes through, and yet the answer is an error.
    AnswerIsLost(ErrorKind),
    /// This happens before it.
    Happens(Box<dyn FnMut() + Send>),
    /// This happens before it, and before every one after it.
    HappensFromThenOn(Box<dyn FnMut() + Send>),
}

/// A store that breaks when told to, and writes down its requests: `get binaries/…`, `part archives/…`.
#[derive(Debug)]
pub(crate) struct BrokenStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    requests: Vec<String>,
    sent_bytes: u64,
    plan: Option<Plan>,
}

struct Plan {
    beginning: String,
    skip: usize,
    effect: Effect,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("requests", &self.requests.len()).finish_non_exhaustive()
    }
}

/// Whether the request goes through, and what is answered.
enum Verdict {
    Sound,
    Fails(StoreError),
    AnswerIsLost(StoreError),
}

impl BrokenStore {
    /// Around this store; sound so far.
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self { inner, state: Arc::default() })
    }

    /// Breaks at the request after `skip` others that begin like this.
    pub(crate) fn breaks_at(&self, beginning: &str, skip: usize, effect: Effect) {
        self.state.lock().unwrap().plan = Some(Plan { beginning: beginning.to_owned(), skip, effect });
    }

    /// Is sound again; says whether the plan was carried out.
    pub(crate) fn heal(&self) -> bool {
        self.state.lock().unwrap().plan.take().is_some_and(|plan| plan.skip == usize::MAX)
    }

    /// The requests since the last call.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// The bytes of all bodies that arrived since the last call.
    pub(crate) fn take_sent_bytes(&self) -> u64 {
        std::mem::take(&mut self.state.lock().unwrap().sent_bytes)
    }
}

/// Writes a request down, and says what becomes of it.
fn judge(state: &Mutex<State>, verb: &str, name: &str, body: usize) -> Verdict {
    let mut state = state.lock().unwrap();
    let request = format!("{verb} {name}");
    state.requests.push(request.clone());
    let verdict = decide(&mut state, &request);
    if !matches!(verdict, Verdict::Fails(_)) {
        state.sent_bytes += body as u64;
    }
    verdict
}

/// A plan that was carried out has `usize::MAX` left to skip.
fn decide(state: &mut State, request: &str) -> Verdict {
    let Some(plan) = &mut state.plan else { return Verdict::Sound };
    if !request.starts_with(&plan.beginning) {
        return Verdict::Sound;
    }
    let error = |kind| StoreError::new(kind, request, "the test has it break");
    if plan.skip == usize::MAX {
        return match &mut plan.effect {
            Effect::FailsFromThenOn(kind) => Verdict::Fails(error(*kind)),
            Effect::HappensFromThenOn(happens) => {
                happens();
                Verdict::Sound
            }
            _ => Verdict::Sound,
        };
    }
    if plan.skip > 0 {
        plan.skip -= 1;
        return Verdict::Sound;
    }
    plan.skip = usize::MAX;
    match &mut plan.effect {
        Effect::FailsOnce(kind) | Effect::FailsFromThenOn(kind) => Verdict::Fails(error(*kind)),
        Effect::AnswerIsLost(kind) => Verdict::AnswerIsLost(error(*kind)),
        Effect::Happens(happens) | Effect::HappensFromThenOn(happens) => {
            happens();
            Verdict::Sound
        }
    }
}

macro_rules! request {
    ($state:expr, $verb:literal, $name:expr, $body:expr, $request:expr) => {
        match judge($state, $verb, $name, $body) {
            Verdict::Sound => $request.await,
            Verdict::Fails(error) => Err(error),
            Verdict::AnswerIsLost(error) => $request.await.and(Err(error)),
        }
    };
}

#[async_trait]
impl ObjectStore for BrokenStore {
    fn place(&self) -> &str {
        self.inner.place()
    }

    async fn put(&self, key: &Key, body: Bytes, digest: &Digest) -> Result<(), StoreError> {
        request!(&self.state, "put", key.as_str(), body.len(), self.inner.put(key, body, digest))
    }

    async fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
        let inner = request!(&self.state, "begin", key.as_str(), 0, self.inner.begin(key))?;
        Ok(Box::new(BrokenUpload { inner, key: key.clone(), state: Arc::clone(&self.state) }))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        request!(&self.state, "head", key.as_str(), 0, self.inner.head(key))
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>) -> Result<Box<dyn Download>, StoreError> {
        request!(&self.state, "get", key.as_str(), 0, self.inner.get(key, range))
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page, StoreError> {
        request!(&self.state, "list", prefix, 0, self.inner.list(prefix, page))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, StoreError> {
        request!(&self.state, "unfinished", prefix, 0, self.inner.unfinished(prefix))
    }

    async fn abort(&self, upload: &Unfinished) -> Result<(), StoreError> {
        request!(&self.state, "abort", upload.key.as_str(), 0, self.inner.abort(upload))
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        request!(&self.state, "delete", key.as_str(), 0, self.inner.delete(key))
    }

    fn refuses_damage(&self) -> bool {
        self.inner.refuses_damage()
    }

    async fn probe(&self) -> Result<Capabilities, StoreError> {
        self.inner.probe().await
    }
}

#[derive(Debug)]
struct BrokenUpload {
    inner: Box<dyn Upload>,
    key: Key,
    state: Arc<Mutex<State>>,
}

#[async_trait]
impl Upload for BrokenUpload {
    fn unfinished(&self) -> Unfinished {
        self.inner.unfinished()
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<PartReceipt, StoreError> {
        request!(&self.state, "part", self.key.as_str(), body.len(), self.inner.part(number, body))
    }

    async fn try_complete(&self, parts: &[PartReceipt]) -> Result<(), StoreError> {
        request!(&self.state, "complete", self.key.as_str(), 0, self.inner.try_complete(parts))
    }

    async fn try_abort(&self) -> Result<(), StoreError> {
        request!(&self.state, "abort", self.key.as_str(), 0, self.inner.try_abort())
    }
}
