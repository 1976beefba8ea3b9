//! What is left to do of each job when a run has ended, and when it is looked at again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A job of which something may be left to do when a run has ended.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) job: String,
    pub(super) ended: watch::Receiver<()>,
    pub(super) delay: Duration,
    pub(super) at: Option<Instant>,
}

/// What has to be done about what a run left.
pub(super) enum Due {
    /// A run of this job has ended.
    Ended(usize),
    /// It is time to look at this job again.
    Time(usize),
}

/// Waits until something has to be done; may be dropped at any point.
pub(super) async fn due(jobs: &mut [Retry]) -> Due {
    let next = jobs.iter().enumerate().filter_map(|(number, retry)| Some((retry.at?, number))).min();
    let ended = futures_util::future::select_all(
        jobs.iter_mut().map(|retry| Box::pin(async { drop(retry.ended.changed().await) })),
    );
    tokio::select! {
        ((), at, _) = ended => Due::Ended(at),
        at = async {
            match next {
                Some((time, at)) => {
                    sleep_until(time).await;
                    at
                }
                None => std::future::pending().await,
            }
        } => Due::Time(at),
    }
}
