//! Candidates on their way, as many at once as the order says, and the record of what became of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::{CHANGES_AHEAD, CopyOrder};
use crate::jobs::context::{Cancelled, Destination, RunContext};
use crate::jobs::send::{Patience, Sender, Sent};
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

impl Dispatch<'_> {
    pub(super) async fn run(
        &self,
        run: &RunContext,
        candidates: mpsc::Receiver<Candidate>,
        changes: mpsc::Sender<Change>,
    ) -> anyhow::Result<()> {
        let candidates = Arc::new(Mutex::new(candidates));
        let mut workers = JoinSet::new();
        for _ in 0..self.order.parallel {
            let worker = Worker {
                run: run.clone(),
                sender: self.sender.clone(),
                suspects: Arc::clone(self.suspects),
                candidates: Arc::clone(&candidates),
                changes: changes.clone(),
                settle: self.order.settle,
                scanning: self.scanning,
            };
            workers.spawn(worker.work());
        }
        drop((candidates, changes));
        while let Some(ended) = workers.join_next().await {
            match ended? {
                Ok(()) => {}
                // One that stops must not cut off the others, whose answers are waited for and recorded.
                Err(_) if run.stop.is_cancelled() => {}
                Err(error) => return Err(error),
            }
        }
        run.go_on()
    }
}

/// One of those who send: they last as long as the copy, since a task for each binary costs more than some of them.
struct Worker {
    run: RunContext,
    sender: Sender,
    suspects: Arc<Suspects>,
    candidates: Arc<Mutex<mpsc::Receiver<Candidate>>>,
    changes: mpsc::Sender<Change>,
    settle: Duration,
    scanning: bool,
}

impl Worker {
    async fn work(self) -> anyhow::Result<()> {
        while let Some(candidate) = self.next().await {
            // Who writes to a binary that was just seen may not be done.
            let patience = if candidate.pending.is_some() { Patience::Later } else { Patience::Settle(self.settle) };
            let sent = self.sender.send(candidate.digest, candidate.indexed, patience).await?;
            self.take(candidate, sent).await?;
        }
        Ok(())
    }

    async fn next(&self) -> Option<Candidate> {
        let mut candidates = self.candidates.lock().await;
        tokio::select! {
            biased;
            () = self.run.stop.cancelled() => {
                // Whoever finds them must not wait for room.
                candidates.close();
                None
            }
            candidate = candidates.recv() => candidate,
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
                run.report.problem("unreadable", digest.to_string(), format!("read binary: {error}"));
                true
            }
            Sent::Refused(message) => {
                self.suspects.add_unread(digest)?;
                run.report.count(|counts| counts.failed += 1);
                run.report.problem("refused", digest.to_string(), message);
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
