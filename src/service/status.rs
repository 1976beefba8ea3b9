//! What the service is at, as JSON.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::watcher::{Watch, WatchState, Way};
use crate::ledger::Backlog;
use crate::model::run::{Kind, Proof, Run, RunId};

/// What the service is at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// When the service was started.
    pub started: Timestamp,
    /// Whether it is about to end.
    pub stopping: bool,
    /// The jobs, by name.
    pub jobs: Vec<JobStatus>,
    /// What is under way, oldest first.
    pub running: Vec<Run>,
    /// What waits, in order.
    pub waiting: Vec<Run>,
}

/// A job and how it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its name, such as `copy.binaries`.
    pub job: String,
    /// What it does.
    pub kind: Kind,
    /// What it reads.
    pub repository: String,
    /// Where it writes.
    pub destination: String,
    /// When it runs by itself, as the configuration says it; null if only when it is asked for.
    pub schedule: Option<String>,
    /// The time zone of the schedule.
    pub timezone: Option<String>,
    /// When it runs next by itself.
    pub next_run: Option<Timestamp>,
    /// Its run under way.
    pub running: Option<RunId>,
    /// Its run that waits.
    pub waiting: Option<RunId>,
    /// Its latest run that has ended.
    pub last_run: Option<Run>,
    /// How its repository is watched, if it is to be.
    pub watch: Option<WatchStatus>,
    /// What the last scan proved that came to its end (copies).
    pub proof: Option<Proof>,
}

/// How the repository of a copy is watched, and what of it waits to be copied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// How.
    pub state: WatchState,
    /// Why it is not watched.
    pub reason: Option<String>,
    /// What tells of new binaries: `fanotify` (a mark on the file system) or `inotify` (a watch on each directory); null
    /// while nothing does.
    pub way: Option<String>,
    /// Why it is not `fanotify`.
    pub way_reason: Option<String>,
    /// How many directories are watched, with `inotify`.
    pub directories: Option<u64>,
    /// Whether a run that looks at everything is to come, because something may have been missed.
    pub scan_needed: bool,
    /// When the last run ended that had to leave out what may be had later, such as a directory that could not be read;
    /// null once a scan leaves out nothing.
    pub left_out: Option<Timestamp>,
    /// How many binaries were seen and have not been copied.
    pub pending: u64,
    /// How large they were when they were last seen, added up.
    pub pending_bytes: u64,
    /// When the first of them was seen.
    pub oldest: Option<Timestamp>,
    /// How long ago that is, in seconds; 0 if nothing waits.
    pub lag_s: f64,
}

impl WatchStatus {
    pub(super) fn new(watch: Watch, backlog: &Backlog, now: Timestamp) -> Self {
        let lag = backlog.oldest.map_or(0.0, |oldest| now.duration_since(oldest).as_secs_f64().max(0.0));
        Self {
            state: watch.state,
            reason: watch.reason,
            way: watch.way.as_ref().map(|way| match way {
                Way::Fanotify => "fanotify".to_owned(),
                Way::Inotify { .. } => "inotify".to_owned(),
            }),
            way_reason: watch.way.and_then(|way| match way {
                Way::Fanotify => None,
                Way::Inotify { why } => Some(why),
            }),
            directories: watch.directories,
            scan_needed: backlog.unwatched.is_some(),
            left_out: backlog.left_out,
            pending: backlog.pending,
            pending_bytes: backlog.bytes,
            oldest: backlog.oldest,
            lag_s: (lag * 1000.0).round() / 1000.0,
        }
    }
}
