//! Trying again: a store around another that repeats what the other could not do just now.
//!
//! Only [`ErrorKind::Unavailable`] is tried again, and [`ErrorKind::Corrupt`] once: bytes may be damaged on their way,
//! but not time and again. Before an object is sent again we look whether the first try had come through.
//!
//! Each try waits for its turn: for what its [`Limiter`] lets pass, and for a place under the [`Pressure`] that the store
//! bears. Who waits for the next try has no place. What ends an upload never waits, as it makes room.

mod download;
mod tries;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::store::limiter::{Lane, Limiter};
use crate::store::pressure::{MOST_AT_ONCE, Pressure, Strain};
use crate::store::retry::download::{Opened, ResumingDownload};
use crate::store::retry::tries::Retry;
use crate::store::{
    ByteRange, Capabilities, Download, ErrorKind, Lying, ObjectInfo, ObjectStore, Page, PageToken, PartReceipt,
    StoreError, Unfinished, Upload, lying,
};

/// How often and how patiently a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often in all, the first try included.
    pub attempts: u32,
    /// The longest wait after the first try; it doubles with each, and the wait is a random part of it.
    pub first: Duration,
    /// The longest wait of all.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    /// Rides out about a minute of a store that answers at once that it is busy.
    fn default() -> Self {
        Self { attempts: 20, first: Duration::from_millis(50), longest: Duration::from_secs(5) }
    }
}

impl RetryPolicy {
    /// The wait after this many tries: anything up to a limit that doubles ("full jitter"), so that many that were
    /// turned away together do not come back together.
    fn wait(&self, tries: u32) -> Duration {
        let doubled = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest).mul_f64(fastrand::f64())
    }
}

/// Counts what goes to a store.
#[derive(Debug)]
pub struct Meter {
    /// Requests made, every try included.
    pub requests: AtomicU64,
    /// Of those: tries after a first one that came to nothing.
    pub retries: AtomicU64,
    place: String,
    pressure: Arc<Pressure>,
}

impl Meter {
    /// Requests and retries so far.
    pub fn read(&self) -> (u64, u64) {
        (self.requests.load(Ordering::Relaxed), self.retries.load(Ordering::Relaxed))
    }

    /// What came of it that the store asked for fewer requests at once, and where that is; none if it never did.
    pub fn strain(&self) -> Option<(&str, Strain)> {
        self.pressure.strain().map(|strain| (self.place.as_str(), strain))
    }

    fn of(place: &str, at_once: usize) -> Arc<Self> {
        Arc::new(Self {
            requests: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            place: place.to_owned(),
            pressure: Arc::new(Pressure::up_to(at_once)),
        })
    }
}

/// A store around another that tries again what may succeed later.
#[derive(Debug)]
pub struct Retrying {
    inner: Arc<dyn ObjectStore>,
    retry: Retry,
}

impl Retrying {
    /// Puts the policy around a store.
    pub fn new(inner: Arc<dyn ObjectStore>, policy: RetryPolicy) -> Self {
        let meter = Meter::of(inner.place(), MOST_AT_ONCE);
        Self { inner, retry: Retry { policy, stop: None, meter, lane: None } }
    }

    /// Has at most so many requests under way at once. Said before the meter is asked for: it begins anew.
    #[must_use]
    pub fn at_most(mut self, at_once: usize) -> Self {
        self.retry.meter = Meter::of(self.inner.place(), at_once);
        self
    }

    /// Shares what a limiter lets pass with all others that it limits.
    #[must_use]
    pub fn limited_by(mut self, limiter: Arc<Limiter>) -> Self {
        self.retry.lane = Some(Arc::new(Lane::to(limiter)));
        self
    }

    /// Waits no longer and tries nothing again once the token is cancelled, neither for the next try nor for a turn. What
    /// is under way ends by itself, and first tries are still made, at once: a run that stops has an upload to abort.
    #[must_use]
    pub fn until(mut self, stop: CancellationToken) -> Self {
        self.retry.stop = Some(stop);
        self
    }

    /// Counts the requests of this store, its uploads and its downloads.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.retry.meter)
    }

    /// What lies where a put of unknown outcome was to leave its object; none if that cannot be told.
    async fn lying(&self, key: &Key, body: &Bytes, digest: &Digest) -> Result<Option<Lying>, StoreError> {
        match lying(self, key, body.len() as u64, digest).await {
            // Who may write and not read cannot look; the store's own refusal to overwrite has to do.
            Err(error) if error.kind == ErrorKind::Denied => Ok(None),
            found => found.map(Some),
        }
    }
}

#[async_trait]
impl ObjectStore for Retrying {
    fn place(&self) -> &str {
        self.inner.place()
    }

    /// After a try of unknown outcome, an object with the same digest is ours, and the put has succeeded.
    async fn put(&self, key: &Key, body: Bytes, digest: &Digest) -> Result<(), StoreError> {
        let mut tries = self.retry.tries();
        let mut doubtful = false;
        let mut damaged = None;
        loop {
            let slot = self.retry.turn(body.len() as u64).await?;
            tries.count();
            let result = self.inner.put(key, body.clone(), digest).await;
            slot.end(&result);
            let Err(error) = result else { return Ok(()) };
            match error.kind {
                ErrorKind::AlreadyExists => {
                    // A store that does not check on arrival holds what came out damaged: that is the news.
                    let error = damaged.unwrap_or(error);
                    let ours = doubtful && self.lying(key, &body, digest).await? == Some(Lying::Same);
                    return if ours { Ok(()) } else { Err(error) };
                }
                ErrorKind::Unavailable => {
                    let (action, cause) = (error.action.clone(), error.cause.clone());
                    doubtful = true;
                    tries.again(error).await?;
                    match self.lying(key, &body, digest).await? {
                        Some(Lying::Same) => return Ok(()),
                        Some(Lying::Other) => {
                            let cause = format!("there is another object of that name (first: {cause})");
                            return Err(damaged.unwrap_or(StoreError::new(ErrorKind::AlreadyExists, action, cause)));
                        }
                        Some(Lying::Nothing) | None => {}
                    }
                }
                _ => {
                    if error.kind == ErrorKind::Corrupt {
                        damaged = Some(StoreError::new(error.kind, error.action.clone(), error.cause.clone()));
                    }
                    tries.again(error).await?;
                }
            }
        }
    }

    /// After a try of unknown outcome there may be an upload whose id nobody was told. It stays, as nothing tells it
    /// from one that somebody else has just begun.
    async fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
        // A try that came to nothing may have begun one all the same, unless the store was too busy to look at it.
        let twin = AtomicBool::new(false);
        let begin = async || {
            let begun = self.inner.begin(key).await;
            twin.fetch_or(begun.as_ref().is_err_and(|error| !error.busy), Ordering::Relaxed);
            begun
        };
        let inner = self.retry.run(0, begin).await?;
        Ok(Box::new(RetryingUpload { inner, retry: self.retry.clone(), twin: twin.into_inner() }))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
        self.retry.run(0, || self.inner.head(key)).await
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>) -> Result<Box<dyn Download>, StoreError> {
        let mut tries = self.retry.tries();
        let opened = loop {
            let slot = self.retry.turn(0).await?;
            tries.count();
            match Opened::get(&*self.inner, key, range, slot).await {
                Ok(opened) => break opened,
                Err(error) => tries.again(error).await?,
            }
        };
        let (size, from) = (opened.download.size(), range.map_or(0, |range| range.from));
        Ok(Box::new(ResumingDownload {
            store: Arc::clone(&self.inner),
            retry: self.retry.clone(),
            key: key.clone(),
            size,
            rest: ByteRange { from, len: size },
            opened: Some(opened),
        }))
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page, StoreError> {
        let listed = self.retry.run(0, || self.inner.list(prefix, page)).await?;
        // Who believed that would go round for ever.
        if page.is_some() && listed.next.as_ref() == page {
            let action = format!("list `{prefix}` at `{}`", self.place());
            return Err(StoreError::new(ErrorKind::Other, action, "the store gives the same page again and again"));
        }
        Ok(listed)
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, StoreError> {
        self.retry.run(0, || self.inner.unfinished(prefix)).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<(), StoreError> {
        self.retry.run_at_once(|| self.inner.abort(upload)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.retry.run(0, || self.inner.delete(key)).await
    }

    fn refuses_damage(&self) -> bool {
        self.inner.refuses_damage()
    }

    async fn probe(&self) -> Result<Capabilities, StoreError> {
        self.retry.run_at_once(|| self.inner.probe()).await
    }
}

#[derive(Debug)]
struct RetryingUpload {
    inner: Box<dyn Upload>,
    retry: Retry,
    /// Whether it took more than one try to begin it.
    twin: bool,
}

#[async_trait]
impl Upload for RetryingUpload {
    fn unfinished(&self) -> Unfinished {
        self.inner.unfinished()
    }

    fn has_a_lost_twin(&self) -> bool {
        self.twin
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<PartReceipt, StoreError> {
        self.retry.run(body.len() as u64, || self.inner.part(number, body.clone())).await
    }

    async fn try_complete(&self, parts: &[PartReceipt]) -> Result<(), StoreError> {
        self.retry.run_at_once(|| self.inner.try_complete(parts)).await
    }

    async fn try_abort(&self) -> Result<(), StoreError> {
        self.retry.run_at_once(|| self.inner.try_abort()).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::num::NonZeroU64;
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;
    use crate::model::digest::Algorithm;
    use crate::store::limiter::Limit;
    use crate::store::memory::MemoryStore;
    use crate::store::read_to_end;

    const AT_ONCE: RetryPolicy = RetryPolicy { attempts: 4, first: Duration::ZERO, longest: Duration::ZERO };

    /// Refuses puts with these kinds of errors in turn, and lets `Corrupt` store its object all the same.
    #[derive(Debug)]
    struct Failing {
        inner: MemoryStore,
        kinds: Mutex<VecDeque<ErrorKind>>,
        /// Where every page of a listing goes on; all are one page if there is none.
        next: Option<PageToken>,
    }

    #[async_trait]
    impl ObjectStore for Failing {
        fn place(&self) -> &str {
            self.inner.place()
        }
        async fn put(&self, key: &Key, body: Bytes, digest: &Digest) -> Result<(), StoreError> {
            let kind = self.kinds.lock().unwrap().pop_front();
            if kind != Some(ErrorKind::Unavailable) {
                self.inner.put(key, body, digest).await?;
            }
            kind.map_or(Ok(()), |kind| Err(StoreError::new(kind, "put", "told to")))
        }
        async fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
            self.inner.begin(key).await
        }
        async fn head(&self, key: &Key) -> Result<ObjectInfo, StoreError> {
            let mut info = self.inner.head(key).await?;
            // As from a store that keeps none.
            info.digest = None;
            Ok(info)
        }
        async fn get(&self, key: &Key, range: Option<ByteRange>) -> Result<Box<dyn Download>, StoreError> {
            self.inner.get(key, range).await
        }
        async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page, StoreError> {
            // Its own first page, whatever is asked for.
            let first = self.inner.list(prefix, page.filter(|_| self.next.is_none())).await?;
            Ok(Page { next: self.next.clone(), ..first })
        }
        async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, StoreError> {
            self.inner.unfinished(prefix).await
        }
        async fn abort(&self, upload: &Unfinished) -> Result<(), StoreError> {
            self.inner.abort(upload).await
        }
        async fn delete(&self, key: &Key) -> Result<(), StoreError> {
            self.inner.delete(key).await
        }
        fn refuses_damage(&self) -> bool {
            self.inner.refuses_damage()
        }
        async fn probe(&self) -> Result<Capabilities, StoreError> {
            self.inner.probe().await
        }
    }

    fn failing(kinds: &[ErrorKind]) -> Retrying {
        let kinds = Mutex::new(kinds.iter().copied().collect());
        Retrying::new(Arc::new(Failing { inner: MemoryStore::new("memory"), kinds, next: None }), AT_ONCE)
    }

    async fn put(store: &Retrying, body: &'static [u8]) -> Option<ErrorKind> {
        let digest = Digest::of(Algorithm::Sha1, body);
        let key = Key::parse("a").unwrap();
        store.put(&key, Bytes::from_static(body), &digest).await.err().map(|error| error.kind)
    }

    #[tokio::test]
    async fn only_what_may_pass_is_tried_again() {
        use ErrorKind::{Corrupt, Denied, Other, Unavailable};
        for (kinds, outcome, puts) in [
            (&[Unavailable, Unavailable, Unavailable][..], None, 4),
            (&[Unavailable; 4], Some(Unavailable), 4),
            (&[Denied], Some(Denied), 1),
            (&[Other], Some(Other), 1),
            // It lies there, damaged: that the key is taken is no excuse.
            (&[Corrupt], Some(Corrupt), 2),
        ] {
            let store = failing(kinds);
            assert_eq!(put(&store, b"content").await, outcome, "{kinds:?}");
            assert_eq!(store.meter().read().1, puts - 1, "{kinds:?}");
        }
    }

    #[tokio::test]
    async fn a_lost_put_is_known_by_its_content_where_the_store_tells_no_digest() {
        let store = failing(&[ErrorKind::Unavailable]);
        let key = Key::parse("a").unwrap();
        let inner = Arc::clone(&store.inner);
        inner.begin(&key).await.unwrap().complete(Vec::new()).await.unwrap_err();
        let (content, other) = (Bytes::from_static(b"content"), Bytes::from_static(b"another"));
        let upload = inner.begin(&key).await.unwrap();
        let part = upload.part(1, content.clone()).await.unwrap();
        upload.complete(vec![part]).await.unwrap();
        let lying = store.lying(&key, &content, &Digest::of(Algorithm::Sha1, &content)).await;
        assert!(matches!(lying, Ok(Some(Lying::Same))));
        let lying = store.lying(&key, &other, &Digest::of(Algorithm::Sha1, &other)).await;
        assert!(matches!(lying, Ok(Some(Lying::Other))));
        assert_eq!(put(&store, b"content").await, None);
    }

    #[tokio::test]
    async fn a_store_that_gives_the_same_page_again_is_not_asked_for_ever() {
        let next = Some(PageToken("again".to_owned()));
        let inner = MemoryStore::new("memory");
        let stuck = Failing { inner, kinds: Mutex::default(), next: next.clone() };
        let store = Retrying::new(Arc::new(stuck), AT_ONCE);
        assert_eq!(store.list("", None).await.unwrap().next, next);
        let error = store.list("", next.as_ref()).await.unwrap_err();
        assert_eq!((error.kind, store.meter().read()), (ErrorKind::Other, (2, 0)), "{error}");
    }

    #[tokio::test]
    async fn nothing_is_tried_again_once_it_is_to_stop() {
        let stop = CancellationToken::new();
        stop.cancel();
        let store = failing(&[ErrorKind::Unavailable; 3]).until(stop);
        assert_eq!(put(&store, b"content").await, Some(ErrorKind::Unavailable));
        assert_eq!(store.meter().read(), (1, 0));
    }

    #[tokio::test]
    async fn a_wait_ends_when_it_is_to_stop() {
        let forever = RetryPolicy { attempts: 2, first: Duration::MAX, longest: Duration::from_secs(1 << 20) };
        let stop = CancellationToken::new();
        let store = Retrying { retry: Retry { policy: forever, ..failing(&[]).retry }, ..failing(&[]) };
        let store = store.until(stop.clone());
        let error = StoreError::new(ErrorKind::Unavailable, "put", "busy");
        let (waited, ()) = tokio::join!(store.retry.wait(1, error), async { stop.cancel() });
        assert_eq!(waited.unwrap_err().cause, "busy");
    }

    /// A limit of 16 KiB a second.
    #[derive(Debug)]
    struct Slow;

    impl Limit for Slow {
        fn now(&self) -> Option<NonZeroU64> {
            NonZeroU64::new(16 << 10)
        }
    }

    fn slow(kinds: &[ErrorKind]) -> Retrying {
        failing(kinds).limited_by(Arc::new(Limiter::new(Arc::new(Slow))))
    }

    async fn put_large(store: &Retrying, name: &str) -> Result<(), StoreError> {
        let body = Bytes::from(vec![0; 1 << 20]);
        let digest = Digest::of(Algorithm::Sha1, &body);
        store.put(&Key::parse(name).unwrap(), body, &digest).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_turn_is_not_sent_once_it_is_to_stop_and_what_comes_then_goes_at_once() {
        let stop = CancellationToken::new();
        let store = slow(&[]).until(stop.clone());
        let begun = Instant::now();
        put_large(&store, "a").await.unwrap();
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.cancel();
        };
        let (waited, ()) = tokio::join!(put_large(&store, "b"), stopping);
        let error = waited.unwrap_err();
        assert_eq!(error.to_string(), "wait for a turn at `memory`: it is to stop");
        assert_eq!((error.kind, store.meter().read()), (ErrorKind::Unavailable, (1, 0)));
        put_large(&store, "c").await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn each_try_is_paid_for_and_what_comes_as_well() {
        let store = slow(&[ErrorKind::Unavailable]);
        let begun = Instant::now();
        put_large(&store, "a").await.unwrap();
        // The second try paid for the first, and is paid for by what comes next.
        assert_eq!(begun.elapsed().as_secs(), 64);
        put_large(&store, "b").await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 128);
        let content = read_to_end(store.get(&Key::parse("a").unwrap(), None).await.unwrap()).await.unwrap();
        // All pieces but the last.
        assert_eq!((content.len(), begun.elapsed().as_secs()), (1 << 20, 192 + 48));
        put_large(&store, "c").await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 256);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_to_try_again_leaves_room_for_others() {
        let patient = RetryPolicy { attempts: 2, first: Duration::from_mins(1), longest: Duration::from_mins(1) };
        let kinds = Mutex::new([ErrorKind::Unavailable].into());
        let failing = Arc::new(Failing { inner: MemoryStore::new("memory"), kinds, next: None });
        let store = Retrying::new(failing, patient).at_most(1);
        let begun = Instant::now();
        let other = async {
            put_large(&store, "b").await.unwrap();
            begun.elapsed()
        };
        let (first, other) = tokio::join!(put_large(&store, "a"), other);
        first.unwrap();
        assert_eq!(other, Duration::ZERO);
        assert!(begun.elapsed() > Duration::ZERO);
    }

    #[test]
    fn waits_grow_up_to_the_longest() {
        let policy = RetryPolicy::default();
        for tries in 1..200 {
            let limit = Duration::from_millis(50).saturating_mul(1 << (tries - 1).min(20)).min(policy.longest);
            assert!(policy.wait(tries) <= limit, "after {tries} tries");
        }
        let longest = (0..100).map(|_| policy.wait(20)).max().unwrap();
        assert!(longest > Duration::from_secs(2), "{longest:?}");
    }
}
