//! A destination that fails when the test says so, and writes down what it was asked.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use holdfast::model::digest::Digest;
use holdfast::model::key::Key;
use holdfast::store::memory::MemoryStore;
use holdfast::store::{
    ByteRange, Capabilities, Download, ErrorKind, ObjectInfo, ObjectStore, Page, PageToken, PartReceipt, StoreError,
    Unfinished, Upload,
};
use tokio_util::sync::CancellationToken;

/// What happens at a call; the first is 1.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// This call fails.
    Only(u64, ErrorKind),
    /// This call and all after it fail.
    From(u64, ErrorKind),
    /// This call is carried out, and its answer is an error.
    Answer(u64, ErrorKind),
    /// This call is carried out, and the run is told to stop.
    Stop(u64, CancellationToken),
}

/// A store in memory with troubles.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) inner: MemoryStore,
    plan: Arc<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: u64,
    trouble: Option<Trouble>,
    struck: bool,
    log: Vec<(&'static str, String, u64)>,
}

impl Faulty {
    /// A store without trouble yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { inner: MemoryStore::new("memory:"), plan: Arc::default() })
    }

    /// Counts the calls from here, and forgets the log.
    pub(crate) fn expect(&self, trouble: Trouble) {
        *self.plan.state.lock().unwrap() = State { trouble: Some(trouble), ..State::default() };
    }

    /// Ends all trouble; says whether there was any since it was expected.
    pub(crate) fn calm(&self) -> bool {
        let mut state = self.plan.state.lock().unwrap();
        state.trouble = None;
        state.struck
    }

    /// How many calls of this kind there were for keys that begin with this, and how many bytes they carried.
    pub(crate) fn count(&self, verb: &str, prefix: &str) -> (u64, u64) {
        let state = self.plan.state.lock().unwrap();
        let matching = state.log.iter().filter(|(found, key, _)| *found == verb && key.starts_with(prefix));
        matching.fold((0, 0), |(count, sum), (_, _, bytes)| (count + 1, sum + bytes))
    }
}

impl Plan {
    async fn call<T>(
        &self,
        verb: &'static str,
        key: &str,
        bytes: usize,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (call, trouble) = {
            let mut state = self.state.lock().unwrap();
            state.calls += 1;
            state.log.push((verb, key.to_owned(), bytes as u64));
            (state.calls, state.trouble.clone())
        };
        let error = |kind| StoreError::new(kind, format!("{verb} `{key}`"), format!("told to fail at call {call}"));
        let strike = || self.state.lock().unwrap().struck = true;
        match trouble {
            Some(Trouble::Only(at, kind)) if at == call => {
                strike();
                Err(error(kind))
            }
            Some(Trouble::From(at, kind)) if call >= at => {
                strike();
                Err(error(kind))
            }
            Some(Trouble::Answer(at, kind)) if at == call => {
                strike();
                work.await?;
                Err(error(kind))
            }
            Some(Trouble::Stop(at, stop)) if at == call => {
                strike();
                let answer = work.await;
                stop.cancel();
                answer
            }
            _ => work.await,
        }
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    fn place(&self) -> &str {
        self.inner.place()
    }

    async fn put(&self, key: &Key, body: Bytes, digest: &Digest) -> Result<(), StoreError> {
        self.plan.call("put", key.as_str(), body.len(), self.inner.put(key, body.clone(), digest)).await
    }

    async fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
        let inner = self.plan.call("begin", key.as_str(), 0, self.inner.begin(key)).await?;
        Ok(Box::new(FaultyUpload { inner, plan: Arc::clone(&self.plan) }))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        self.plan.call("head", key.as_str(), 0, self.inner.head(key)).await
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>) -> Result<Box<dyn Download>, StoreError> {
        self.plan.call("get", key.as_str(), 0, self.inner.get(key, range)).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page, StoreError> {
        self.plan.call("list", prefix, 0, self.inner.list(prefix, page)).await
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, StoreError> {
        self.plan.call("unfinished", prefix, 0, self.inner.unfinished(prefix)).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<(), StoreError> {
        self.plan.call("abort", upload.key.as_str(), 0, self.inner.abort(upload)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.plan.call("delete", key.as_str(), 0, self.inner.delete(key)).await
    }

    fn refuses_damage(&self) -> bool {
        self.inner.refuses_damage()
    }

    async fn probe(&self) -> Result<Capabilities, StoreError> {
        self.plan.call("probe", "", 0, self.inner.probe()).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn Upload>,
    plan: Arc<Plan>,
}

#[async_trait]
impl Upload for FaultyUpload {
    fn unfinished(&self) -> Unfinished {
        self.inner.unfinished()
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<PartReceipt, StoreError> {
        let key = self.unfinished().key;
        self.plan.call("part", key.as_str(), body.len(), self.inner.part(number, body.clone())).await
    }

    async fn try_complete(&self, parts: &[PartReceipt]) -> Result<(), StoreError> {
        let key = self.unfinished().key;
        self.plan.call("complete", key.as_str(), 0, self.inner.try_complete(parts)).await
    }

    async fn try_abort(&self) -> Result<(), StoreError> {
        let key = self.unfinished().key;
        self.plan.call("abort", key.as_str(), 0, self.inner.try_abort()).await
    }
}
