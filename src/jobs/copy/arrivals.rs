//! What comes for a job while it runs: read from what is pending, and handed on.
//!
//! Beside a scan the two agree on who does what. A scan that had looked before something came does not say that it is
//! gone, and one that comes upon what has been taken leaves it to whoever took it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::BATCH;
use super::dispatch::Candidate;
use crate::jobs::context::{Cancelled, RunContext};
use crate::jobs::source;
use crate::ledger::{Change, DestinationId, Pending, SeriesId, Watermark};
use crate::model::digest::Digest;
use crate::repository::binaries::BinaryStore;

/// How much a scan lets pass by that comes meanwhile, in 10 MB of memory; what is more waits for its end.
const MOST_BESIDE_A_SCAN: usize = 900_000;

/// What was taken from what is pending while a scan is under way.
#[derive(Debug)]
pub(super) struct Arrived {
    job: String,
    /// What had been seen when the scan began.
    mark: Watermark,
    /// The first bytes of each digest: enough to tell so few apart.
    taken: Mutex<HashSet<u64>>,
}

/// What a scan does about a binary that was taken.
pub(super) enum Fate {
    /// Nothing: it belongs to the next restore point, is on its way, or stays pending until it can be.
    Settled,
    /// It has to look, since it is to judge it, or since it is there again; the destination has it with this size, if it does.
    Open(Option<u64>),
}

impl Arrived {
    /// Nothing yet, for a job whose scan began at this mark.
    pub(super) fn new(job: &str, mark: Watermark) -> Arc<Self> {
        Arc::new(Self { job: job.to_owned(), mark, taken: Mutex::default() })
    }

    pub(super) fn job(&self) -> &str {
        &self.job
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that these are taken, before they are; false if they are too many.
    fn take(&self, page: &[Pending]) -> bool {
        let mut taken = self.lock();
        taken.extend(page.iter().map(|pending| first_bytes(&pending.digest)));
        taken.len() < MOST_BESIDE_A_SCAN
    }

    /// Whether a binary was taken.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.lock().contains(&first_bytes(digest))
    }

    /// Does something about a binary, given whether it was taken; nobody takes it, or takes it again, until that is done.
    pub(super) fn in_order<T>(&self, digest: &Digest, act: impl FnOnce(bool) -> T) -> T {
        let taken = self.lock();
        act(taken.contains(&first_bytes(digest)))
    }

    /// What has become of one that was taken.
    pub(super) fn fate(
        &self,
        run: &RunContext,
        destination: DestinationId,
        series: SeriesId,
        digest: &Digest,
    ) -> anyhow::Result<Fate> {
        // What was pending when the scan began will be taken for dealt with, so the scan has to look at it.
        if run.ledger.is_pending_after(&self.job, digest, self.mark)? || run.ledger.is_added(series, digest)? {
            return Ok(Fate::Settled);
        }
        Ok(Fate::Open(run.ledger.object(destination, digest)?))
    }
}

fn first_bytes(digest: &Digest) -> u64 {
    let (first, _) = digest.as_bytes().split_first_chunk().expect("a digest has more than 8 bytes");
    u64::from_be_bytes(*first)
}

/// Reads what is pending, and hands on what has to be looked at.
pub(super) struct Producer {
    pub(super) job: String,
    pub(super) store: BinaryStore,
    pub(super) destination: DestinationId,
    pub(super) series: SeriesId,
    pub(super) candidates: mpsc::Sender<Vec<Candidate>>,
    pub(super) changes: mpsc::Sender<Change>,
    /// If a scan is under way, what it is told.
    pub(super) arrived: Option<Arc<Arrived>>,
}

/// What is pending, and what is known of it.
enum Known {
    /// Nothing has to be done.
    Settled(i64),
    /// It has to be looked at.
    Candidate(Candidate),
}

impl Producer {
    /// Goes on until it is closed; gives the number of the last that was read.
    pub(super) async fn run(
        self,
        run: &RunContext,
        mut arrivals: watch::Receiver<()>,
        closed: &CancellationToken,
    ) -> anyhow::Result<i64> {
        let mut last = 0;
        let mut until = None;
        loop {
            arrivals.mark_unchanged();
            loop {
                run.go_on()?;
                // In this order: what came before it was closed is read. What comes after that is for the next run, also
                // where it comes faster than it can be sent.
                if until.is_none() && closed.is_cancelled() {
                    until = Some(run.blocking(|run| run.ledger.watermark()).await?);
                }
                if until.is_some_and(|until| until.is_reached_by(last)) {
                    return Ok(last);
                }
                let Some((page, has_room)) = self.page(run, last).await? else { break };
                last = page.last().map_or(last, |end| end.seq);
                let count = page.len() as u64;
                let mut candidates = Vec::new();
                for known in self.look_up(run, page).await? {
                    match known {
                        Known::Settled(seq) => {
                            self.changes.send(Change::Settled(seq)).await.map_err(|_| Cancelled)?;
                        }
                        Known::Candidate(candidate) => candidates.push(candidate),
                    }
                }
                for batch in candidates.chunks(BATCH) {
                    self.candidates.send(batch.to_vec()).await.map_err(|_| Cancelled)?;
                }
                // A scan counts what it looks at.
                if self.arrived.is_none() {
                    run.report.count(|counts| counts.examined += count);
                    run.report.advance(count);
                }
                if !has_room {
                    run.ledger.stop_taking(&self.job);
                    return Ok(last);
                }
            }
            if until.is_some() {
                return Ok(last);
            }
            tokio::select! {
                () = closed.cancelled() => {}
                Ok(()) = arrivals.changed() => {}
                () = run.stop.cancelled() => return Err(Cancelled.into()),
                () = self.candidates.closed() => return Err(Cancelled.into()),
            }
        }
    }

    /// The next that is pending, and whether there is room for more; none at the end.
    async fn page(&self, run: &RunContext, after: i64) -> anyhow::Result<Option<(Vec<Pending>, bool)>> {
        let (job, arrived) = (self.job.clone(), self.arrived.clone());
        run.blocking(move |run| {
            let page = run.ledger.pending_after(&job, after)?;
            // On this thread, since a scan may hold it for a while.
            let has_room = arrived.is_none_or(|arrived| arrived.take(&page));
            Ok((!page.is_empty()).then_some((page, has_room)))
        })
        .await
    }

    async fn look_up(&self, run: &RunContext, page: Vec<Pending>) -> anyhow::Result<Vec<Known>> {
        let (store, destination, series) = (self.store.clone(), self.destination, self.series);
        let scanning = self.arrived.is_some();
        run.blocking(move |run| {
            let root = source::store_name(&store);
            let known = |Pending { seq, digest }: Pending| {
                // It was seen when the job had another shard.
                if !store.includes(&digest) {
                    return Ok(Known::Settled(seq));
                }
                let indexed = run.ledger.object(destination, &digest)?;
                let is_there = match indexed {
                    // A scan may have said that it is gone, which is taken back.
                    Some(_) if scanning => false,
                    // Its owner may have written to it again, and not what it was.
                    Some(bytes) => {
                        run.ledger.is_member(series, &digest, bytes)?
                            && store.stamp(&digest).is_ok_and(|stamp| stamp.bytes == bytes)
                    }
                    None => run.ledger.is_sidecar(&root, &digest)?,
                };
                let candidate = Candidate { digest, indexed, pending: Some(seq) };
                anyhow::Ok(if is_there { Known::Settled(seq) } else { Known::Candidate(candidate) })
            };
            page.into_iter().map(known).collect()
        })
        .await
    }
}
