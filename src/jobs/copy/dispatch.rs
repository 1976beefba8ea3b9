//! Candidates on their way, as many at once as the order says, and the record of what became of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{CHANGES_AHEAD, CopyOrder, FOUND_AHEAD};
use crate::jobs::context::{Cancelled, Destination, RunContext};
use crate::jobs::send::{Found, Patience, READERS, Sender, Sent};
use crate::jobs::sidecars::Suspects;
use crate::ledger::{Change, Series};
use crate::model::digest::Digest;

/// How long the ledger waits for more before it writes: a kill may lose the record of what was sent in that time.
const GATHER: Duration = Duration::from_millis(50);

/// A binary that may have to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its name.
    pub(super) digest: Digest,
    /// Its size at the destination where the index knows it.
    pub(super) indexed: Option<u64>,
    /// The number under which it is pending, if a watcher saw it; then it stays so until it has settled.
    pub(super) pending: Option<i64>,
}

/// Sends candidates, as many at once as the order says.
pub(super) struct Dispatch<'a> {
    pub(super) order: &'a CopyOrder,
    pub(super) sender: Sender,
    pub(super) suspects: &'a Arc<Suspects>,
    /// Whether a scan is under way: what is pending and cannot be sent is left so, since others judge it.
    pub(super) scanning: bool,
}

/// Candidates with what their files hold.
type FoundBatch = Vec<(Candidate, Found)>;

impl Dispatch<'_> {
    pub(super) async fn run(
        &self,
        run: &RunContext,
        candidates: mpsc::Receiver<Vec<Candidate>>,
        changes: mpsc::Sender<Change>,
    ) -> anyhow::Result<()> {
        let over = run.stop.child_token();
        let candidates = Arc::new(Mutex::new(candidates));
        let (found_to, found) = mpsc::channel(FOUND_AHEAD);
        let read = |_| {
            let reader = Reader {
                sender: self.sender.clone(),
                candidates: Arc::clone(&candidates),
                found: found_to.clone(),
                over: over.clone(),
            };
            tokio::task::spawn_blocking(move || reader.read())
        };
        let readers: Vec<_> = (0..READERS).map(read).collect();
        drop((candidates, found_to));
        let sent = self.send(run, found, changes).await;
        over.cancel();
        for reader in readers {
            reader.await?;
        }
        sent?;
        run.go_on()
    }

    async fn send(
        &self,
        run: &RunContext,
        found: mpsc::Receiver<FoundBatch>,
        changes: mpsc::Sender<Change>,
    ) -> anyhow::Result<()> {
        let found = Arc::new(Mutex::new((found, Vec::new().into_iter())));
        let mut workers = JoinSet::new();
        for _ in 0..self.order.parallel {
            let worker = Worker {
                run: run.clone(),
                sender: self.sender.clone(),
                suspects: Arc::clone(self.suspects),
                found: Arc::clone(&found),
                changes: changes.clone(),
                settle: self.order.settle,
                scanning: self.scanning,
            };
            workers.spawn(worker.work());
        }
        drop((found, changes));
        while let Some(ended) = workers.join_next().await {
            match ended? {
                Ok(()) => {}
                // One that stops must not cut off the others, whose answers are waited for and recorded.
                Err(_) if run.stop.is_cancelled() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// One of those who read files. They hand on a batch at a time: to wake somebody for each costs as much as to read it.
struct Reader {
    sender: Sender,
    candidates: Arc<Mutex<mpsc::Receiver<Vec<Candidate>>>>,
    found: mpsc::Sender<FoundBatch>,
    over: CancellationToken,
}

impl Reader {
    fn read(self) {
        let handle = tokio::runtime::Handle::current();
        while let Some(batch) = handle.block_on(self.next()) {
            let mut found = FoundBatch::with_capacity(batch.len());
            for candidate in batch {
                // What was read is sent before it is waited for that less is held.
                let mut hand_on = || self.hand_on(&mut found);
                let one = self.sender.find(candidate.digest, candidate.indexed, &mut hand_on);
                found.push((candidate, one));
            }
            self.hand_on(&mut found);
        }
    }

    /// The next candidates; none if there are no more, or if nobody sends any more.
    async fn next(&self) -> Option<Vec<Candidate>> {
        let mut candidates = self.candidates.lock().await;
        tokio::select! {
            biased;
            () = self.over.cancelled() => {
                candidates.close();
                None
            }
            batch = candidates.recv() => batch,
        }
    }

    fn hand_on(&self, found: &mut FoundBatch) {
        if !found.is_empty() {
            // Nobody takes them once nobody sends any more, which the next look tells.
            drop(self.found.blocking_send(std::mem::take(found)));
        }
    }
}

/// What was read and nobody has taken: batches, and what is left of the last.
type Ready = Mutex<(mpsc::Receiver<FoundBatch>, std::vec::IntoIter<(Candidate, Found)>)>;

/// One of those who send: they last as long as the copy, since a task for each binary costs more than some of them.
struct Worker {
    run: RunContext,
    sender: Sender,
    suspects: Arc<Suspects>,
    found: Arc<Ready>,
    changes: mpsc::Sender<Change>,
    settle: Duration,
    scanning: bool,
}

impl Worker {
    async fn work(self) -> anyhow::Result<()> {
        while let Some((candidate, found)) = self.next().await {
            // Who writes to a binary that was just seen may not be done.
            let patience = if candidate.pending.is_some() { Patience::Later } else { Patience::Settle(self.settle) };
            let sent = self.sender.send(candidate.digest, candidate.indexed, found, patience).await?;
            self.take(candidate, sent).await?;
        }
        Ok(())
    }

    async fn next(&self) -> Option<(Candidate, Found)> {
        let mut ready = self.found.lock().await;
        loop {
            if self.run.stop.is_cancelled() {
                return None;
            }
            let (batches, rest) = &mut *ready;
            if let Some(found) = rest.next() {
                return Some(found);
            }
            tokio::select! {
                biased;
                () = self.run.stop.cancelled() => return None,
                batch = batches.recv() => *rest = batch?.into_iter(),
            }
        }
    }

    async fn take(&self, candidate: Candidate, sent: Sent) -> anyhow::Result<()> {
        let (Candidate { digest, pending, .. }, Self { run, changes, .. }) = (candidate, self);
        let change = |bytes, new_object| Change::Added { digest, bytes, new_object };
        let settled = match sent {
            Sent::Stored { bytes } => {
                run.report.count(|counts| {
                    counts.copied += 1;
                    counts.bytes += bytes;
                });
                changes.send(change(bytes, true)).await.map_err(|_| Cancelled)?;
                true
            }
            Sent::Present { bytes } => {
                run.report.count(|counts| counts.skipped += 1);
                changes.send(change(bytes, true)).await.map_err(|_| Cancelled)?;
                true
            }
            Sent::Vanished => {
                run.report.count(|counts| counts.vanished += 1);
                true
            }
            _ if self.scanning && pending.is_some() => false,
            Sent::Suspect { bytes, small } => {
                self.suspects.add(digest, bytes, small.as_deref())?;
                false
            }
            // Its owner may be about to grant the right to read it.
            Sent::Unreadable(error) if pending.is_some() => {
                run.report.notice("unsettled", digest.to_string(), format!("cannot be read yet: {error}"));
                false
            }
            Sent::Unreadable(error) => {
                self.suspects.add_unread(digest)?;
                run.report.count(|counts| counts.failed += 1);
                run.report.left_out("unreadable", digest.to_string(), format!("read binary: {error}"));
                true
            }
            Sent::Refused(message) => {
                self.suspects.add_unread(digest)?;
                run.report.count(|counts| counts.failed += 1);
                run.report.left_out("refused", digest.to_string(), message);
                true
            }
        };
        if let (true, Some(seq)) = (settled, pending) {
            changes.send(Change::Settled(seq)).await.map_err(|_| Cancelled)?;
        }
        Ok(())
    }
}

/// Records what was found out, many at a time, until everybody who could find out more is done.
pub(super) async fn record(
    run: &RunContext,
    destination: &Destination,
    series: &Series,
    mut changes: mpsc::Receiver<Change>,
) -> anyhow::Result<()> {
    let mut batch = Vec::with_capacity(CHANGES_AHEAD);
    while changes.recv_many(&mut batch, CHANGES_AHEAD).await > 0 {
        if batch.len() < CHANGES_AHEAD / 2 && !changes.is_closed() {
            run.clock.sleep(GATHER).await;
            while batch.len() < CHANGES_AHEAD
                && let Ok(change) = changes.try_recv()
            {
                batch.push(change);
            }
        }
        let (destination, series) = (destination.id, series.id);
        batch = run
            .blocking(move |run| {
                run.ledger.record_changes(destination, series, &batch)?;
                batch.clear();
                Ok(batch)
            })
            .await?;
    }
    Ok(())
}
