//! The watcher: notices new binaries as they come, records them as pending, and starts the copies that are to have
//! them.
//!
//! What was seen is in the ledger before anything is done about it, so a restart forgets nothing. Whatever may have
//! been missed is marked there as well, and the next copy then looks at everything: after a start, after more happened
//! than could be followed, and after a store was away.

mod board;
mod eyes;
mod fanotify;
mod follower;
mod limits;
mod survey;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::follower::Follower;
use super::daemon::Daemon;
use super::journal::{Level, say};
use crate::service::site::WatchedStore;

pub use board::{Watch, WatchBoard, WatchState, Way};
pub use fanotify::Marks;
pub use limits::watch_limit;

/// How the watcher waits.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How much may have been seen and not been taken up; what comes then is missed, and a scan finds it.
    pub sights: usize,
    /// How long it gathers what came before it records it: the ledger is written once for all of that.
    pub gather: Duration,
    /// How often it looks whether the store is still the one that is watched; unmounting tells nobody.
    pub look: Duration,
    /// How long until it tries again what did not work: at first, and at most. Each time it waits twice as long.
    pub again: (Duration, Duration),
    /// How long after a run that left out what may be had later everything is looked at again, if not sooner.
    pub left_out_again: Duration,
    /// How long until a store is tried again for which there were not enough watches, even if the limit is the same.
    pub limit_again: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            sights: 32_768,
            gather: Duration::from_millis(25),
            look: Duration::from_secs(10),
            again: (Duration::from_secs(2), Duration::from_mins(5)),
            left_out_again: Duration::from_hours(1),
            limit_again: Duration::from_hours(1),
        }
    }
}

/// Watches what the configuration says, and what a new one says after that, until `stop` fires.
pub async fn run(daemon: Daemon, marks: Marks, stop: CancellationToken) -> anyhow::Result<()> {
    run_at(daemon, marks, stop, Pace::default()).await
}

/// The same at another pace.
pub async fn run_at(daemon: Daemon, marks: Marks, stop: CancellationToken, pace: Pace) -> anyhow::Result<()> {
    // They end after the last who listens, or else what they tell would find nobody.
    let readers = CancellationToken::new();
    let _stop_readers = readers.clone().drop_guard();
    let mut reading = JoinSet::new();
    for reader in marks.readers() {
        let stop = readers.clone();
        reading.spawn_blocking(move || reader(stop));
    }
    let mut sites = daemon.sites();
    while !stop.is_cancelled() {
        let watched = sites.borrow_and_update().watched();
        forget_others(&daemon, &watched).await;
        daemon.watch_board().clear();
        let round = stop.child_token();
        let mut followers = JoinSet::new();
        for store in &watched {
            followers.spawn(Follower::new(daemon.clone(), store.clone(), marks.clone(), round.clone(), pace).run());
        }
        loop {
            tokio::select! {
                // A follower that ended because it was told to has not broken off.
                biased;
                () = stop.cancelled() => break,
                changed = sites.changed() => {
                    if changed.is_err() || sites.borrow_and_update().watched() != watched {
                        break;
                    }
                }
                Some(ended) = reading.join_next(), if !reading.is_empty() => {
                    // It goes on until it is told to stop, so it panicked. Without it nothing would be seen.
                    anyhow::bail!("read from fanotify: the thread broke off: {:?}", ended.err());
                }
                Some(ended) = followers.join_next(), if !followers.is_empty() => {
                    // It goes on until it is told to stop, so it panicked.
                    say(Level::Error, format_args!("the watcher broke off, and begins anew: {:?}", ended.err()));
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(pace.again.1) => {}
                    }
                    break;
                }
            }
        }
        round.cancel();
        while let Some(ended) = followers.join_next().await {
            if let Err(error) = ended {
                say(Level::Error, format_args!("the watcher broke off: {error}"));
            }
        }
    }
    Ok(())
}

/// What is pending for jobs that are not watched for any more would stay so for good.
async fn forget_others(daemon: &Daemon, watched: &[WatchedStore]) {
    let jobs: Vec<String> = watched.iter().flat_map(|store| store.jobs.clone()).collect();
    let ledger = Arc::clone(daemon.ledger());
    match tokio::task::spawn_blocking(move || ledger.forget_pending(&jobs)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => say(Level::Error, format_args!("{error:#}")),
        Err(error) => say(Level::Error, format_args!("forget what is pending: {error}")),
    }
}
