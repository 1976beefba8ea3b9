//! How each job is watched for, for those who look.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// How the store of a job is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchState {
    /// Watches are being set; what is new is found by the scan that follows.
    SettingUp,
    /// What is new is copied as it appears.
    Watching,
    /// What is new is found by runs that look at everything: by schedule, or on request.
    BySchedule,
}

/// What tells of new binaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A mark on the whole file system.
    Fanotify,
    /// A watch on each directory.
    Inotify {
        /// Why it is not a mark.
        why: String,
    },
}

/// The same, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// How.
    pub state: WatchState,
    /// Why it is not watched.
    pub reason: Option<String>,
    /// What tells of new binaries, while something does.
    pub way: Option<Way>,
    /// How many directories are watched, if each is by itself.
    pub directories: Option<u64>,
}

/// All jobs whose stores are to be watched.
#[derive(Debug, Default)]
pub struct WatchBoard(Mutex<BTreeMap<String, Watch>>);

impl WatchBoard {
    /// These jobs are watched for like this from now on.
    pub(super) fn put(&self, jobs: &[String], watch: &Watch) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for job in jobs {
            board.insert(job.clone(), watch.clone());
        }
    }

    /// Nothing is watched.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How a job is watched for, if it is to be.
    pub fn get(&self, job: &str) -> Option<Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(job).cloned()
    }
}
