//! What the service is at, as JSON.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::run::{Kind, Run, RunId};

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
}
