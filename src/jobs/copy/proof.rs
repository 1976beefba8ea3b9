//! What a scan proves: that all of a store is at the destination, and whether the watcher had missed any of it.

use std::sync::Arc;
use std::time::Duration;

use super::arrivals::Arrived;
use crate::jobs::context::RunContext;
use crate::ledger::Series;
use crate::model::digest::Digest;
use crate::model::run::Proof;

/// How many new binaries of a scan are remembered; what is more was missed if the first ones were.
const REMEMBERED: usize = 10_000;
/// How long what came just now may take to be noted, and how often we look for it.
const NOTED_AFTER: Duration = Duration::from_millis(500);
const LOOKS: u32 = 6;

/// What a scan came upon that the index did not have.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    pub(super) count: u64,
    /// The first of those that nobody had taken yet, and how many more there are.
    first: Vec<Digest>,
    more: u64,
    /// Whether there were directories that could not be read.
    pub(super) blind: bool,
}

impl Fresh {
    /// Counts one; what was taken from what is pending has been noted, and need not be looked for.
    pub(super) fn add(&mut self, digest: Digest, taken: bool) {
        self.count += 1;
        if taken {
            return;
        }
        if self.first.len() < REMEMBERED {
            self.first.push(digest);
        } else {
            self.more += 1;
        }
    }
}

/// A scan that is to prove something for a job.
#[derive(Debug)]
pub(super) struct Proving {
    arrived: Arc<Arrived>,
    /// Which watch had been kept since the last scan when this one began; none if there were times without.
    watch: Option<u64>,
}

impl Proving {
    pub(super) async fn begin(run: &RunContext, arrived: &Arc<Arrived>) -> anyhow::Result<Self> {
        let watch = unbroken(run, arrived.job()).await?;
        Ok(Self { arrived: Arc::clone(arrived), watch })
    }

    /// How many of the new binaries the watcher had not noted, if it had watched all the time.
    ///
    /// It cannot be told after a run that was cut, as that may have sent what was missed and not have said so.
    pub(super) async fn missed(&self, run: &RunContext, series: &Series, fresh: &Fresh) -> anyhow::Result<Option<u64>> {
        let Some(watch) = self.watch.filter(|_| !series.under_way) else { return Ok(None) };
        // The same for what was taken since; and what is no binary, or could not be sent, is new to each scan.
        let first: Vec<_> = fresh.first.iter().filter(|digest| !self.arrived.contains(digest)).copied().collect();
        let of = series.id;
        let first = run.blocking(move |run| {
            let mut sent = Vec::new();
            for digest in first {
                if run.ledger.is_added(of, &digest)? {
                    sent.push(digest);
                }
            }
            Ok(sent)
        });
        let first = first.await?;
        let mut missed = 0;
        for look in 0..LOOKS {
            let (job, first) = (self.arrived.job().to_owned(), first.clone());
            missed = run.blocking(move |run| run.ledger.count_unnoted(&job, &first)).await?;
            if missed == 0 || look + 1 == LOOKS {
                break;
            }
            run.clock.sleep(NOTED_AFTER).await;
        }
        if missed > 0 {
            missed += fresh.more;
        }
        Ok((unbroken(run, self.arrived.job()).await? == Some(watch)).then_some(missed))
    }

    /// Records what was proved, if anything was.
    pub(super) async fn record(self, run: &RunContext, fresh: &Fresh, missed: Option<u64>) -> anyhow::Result<()> {
        if fresh.blind {
            return Ok(());
        }
        let examined = run.report.counts().examined;
        let proof = Proof { run: run.id, finished: run.clock.now(), examined, new: fresh.count, missed };
        run.blocking(move |run| run.ledger.record_proof(self.arrived.job(), &proof)).await
    }
}

/// The watch that is being kept for a job, unless something may have been missed since the last scan.
async fn unbroken(run: &RunContext, job: &str) -> anyhow::Result<Option<u64>> {
    let job = job.to_owned();
    run.blocking(move |run| {
        let watch = run.ledger.watch_of(&job);
        Ok(if run.ledger.is_unwatched(&job)? { None } else { watch })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Algorithm;

    #[test]
    fn what_was_taken_takes_no_room_and_is_not_among_what_was_missed() {
        let mut fresh = Fresh::default();
        let digest = |number: usize| Digest::of(Algorithm::Sha1, number.to_string().as_bytes());
        for number in 0..20 {
            fresh.add(digest(number), true);
        }
        assert_eq!((fresh.count, fresh.first.len(), fresh.more), (20, 0, 0));
        for number in 0..REMEMBERED + 7 {
            fresh.add(digest(number), number % 2 == 1);
        }
        assert_eq!((fresh.first.len(), fresh.more), (REMEMBERED / 2 + 4, 0));
        for number in 0..REMEMBERED {
            fresh.add(digest(number), false);
        }
        assert_eq!((fresh.first.len(), fresh.more), (REMEMBERED, (REMEMBERED / 2 + 4) as u64));
    }
}
