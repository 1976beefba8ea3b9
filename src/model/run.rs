//! A run: one execution of a job, with what started it, what it did and how it ended.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The number of a run; the ledger counts them up and never gives one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(u64);

impl RunId {
    /// The run with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Brings new binaries to a destination and makes a restore point.
    Copy,
    /// Streams the whole repository into an archive.
    Backup,
    /// Brings a repository back.
    Restore,
    /// Reads a restore point or an archive back and checks it.
    Verify,
}

/// Why a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// Its time had come.
    Schedule,
    /// The repository changed.
    Change,
    /// Somebody asked.
    Request,
    /// Its time came while nobody was there to run it.
    Overdue,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All was done and checked.
    Succeeded,
    /// What could be done was done; the problems name what could not.
    Partial,
    /// It was not done; the error says why.
    Failed,
    /// Somebody stopped it at a safe point.
    Cancelled,
    /// The process ended before the run did.
    Interrupted,
}

/// What kind of failure it was, for those who can do something about one and not about another; the error says it in
/// words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failure {
    /// The destination does not allow it to us.
    Denied,
    /// The destination was not reached, or is too busy.
    Unavailable,
    /// Anything else.
    Other,
}

macro_rules! spelled {
    ($type:ty, $what:literal, $($variant:ident = $text:literal),+) => {
        impl $type {
            /// The word for it, the same in JSON, in the ledger and on the terminal.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!(concat!("`{}` is not ", $what), text)),
                }
            }
        }
    };
}

spelled!(Kind, "a kind of run", Copy = "copy", Backup = "backup", Restore = "restore", Verify = "verify");
spelled!(Trigger, "a trigger", Schedule = "schedule", Change = "change", Request = "request", Overdue = "overdue");
spelled!(Failure, "a kind of failure", Denied = "denied", Unavailable = "unavailable", Other = "other");
spelled!(
    Outcome,
    "an outcome",
    Succeeded = "succeeded",
    Partial = "partial",
    Failed = "failed",
    Cancelled = "cancelled",
    Interrupted = "interrupted"
);

/// What a run counted; a number that does not apply to its kind stays 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Binaries looked at.
    pub examined: u64,
    /// Binaries brought to the destination (copy, backup) or back from it (restore).
    pub copied: u64,
    /// The sizes of those, added up.
    pub bytes: u64,
    /// Binaries that were there already, whole.
    pub skipped: u64,
    /// Binaries that an earlier try had fetched and that were still waiting, whole (restore).
    pub staged: u64,
    /// Binaries that could not be read, sent, fetched or proved; each is named in the problems.
    pub failed: u64,
    /// Of the failed: those whose content is not what their name says.
    pub damaged: u64,
    /// Of the failed: those the destination does not have (restore, verify), or that documents refer to and the
    /// repository does not have (copy, backup).
    pub missing: u64,
    /// Binaries of the last restore point that are no longer in the repository (copy).
    pub removed: u64,
    /// Binaries that a scan found new and sent and that the watcher had not seen, though it had watched all the time since
    /// the last scan; null if it had not, after a run that was cut, and in runs that are no scan (copy).
    #[serde(default)]
    pub missed: Option<u64>,
    /// Binaries deleted by their owner while the run was under way; no loss.
    pub vanished: u64,
    /// Cached mime types and texts of binaries, which are left out.
    pub sidecars: u64,
    /// Sidecars whose binary is gone.
    pub orphaned_sidecars: u64,
    /// Files and directories in the store that are none of its own; they are left alone.
    pub foreign: u64,
    /// Documents written, fetched or checked.
    pub documents: u64,
    /// Documents that stood there more than once, word for word, and were kept once.
    pub duplicate_documents: u64,
    /// Documents that stood there more than once and differed; the later one was kept.
    pub conflicting_documents: u64,
    /// Lines that are no documents; their bytes are kept aside.
    pub damaged_documents: u64,
    /// Different binaries that the documents refer to, when these were read (copy, backup).
    pub references: u64,
    /// Binaries of the backup that no document refers to; no loss.
    pub unreferenced: u64,
    /// Binaries in the repository that the backup does not have, moved to the quarantine.
    pub quarantined: u64,
    /// The size of the archive that was made or restored, its volumes added up; of a restore point that was restored,
    /// that of its binaries.
    pub size: u64,
    /// Requests made to the destination.
    pub requests: u64,
    /// Of those: tries after a first one that came to nothing.
    pub retries: u64,
}

/// What a scan proved: that all binaries of a store which were there before it ended are at the destination, but for those
/// that its run names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The run.
    pub run: RunId,
    /// When it was through.
    pub finished: Timestamp,
    /// How many binaries the store had.
    pub examined: u64,
    /// How many of them were not known to be at the destination.
    pub new: u64,
    /// How many of these were sent and the watcher had not seen; null if it had not watched all the time since the last
    /// scan, or if the run before was cut.
    pub missed: Option<u64>,
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How much is done.
    pub current: u64,
    /// How much there is to do; null while that is not known.
    pub total: Option<u64>,
    /// What is counted: `binaries`, `documents` or `bytes`.
    pub unit: String,
    /// What the run is doing, in words.
    pub message: String,
}

/// Something a run could not do or found wrong, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `damaged`, `unreadable`, `missing`, `documents`, `foreign`, …
    pub kind: String,
    /// The binary, file, key or document.
    pub subject: String,
    /// What is wrong with it.
    pub message: String,
}

/// One execution of a job, as the ledger keeps it and as JSON shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// The job, such as `copy.binaries`; `restore` and `verify` when no job of the configuration ran.
    pub job: String,
    /// What it does.
    pub kind: Kind,
    /// Why it began.
    pub trigger: Trigger,
    /// How it ended; null while it runs.
    pub outcome: Option<Outcome>,
    /// When it was asked for.
    pub activated: Timestamp,
    /// When it began; while it waits for others, when it was asked for.
    pub started: Timestamp,
    /// When it ended; null while it runs.
    pub finished: Option<Timestamp>,
    /// How far it is, or came.
    pub progress: Progress,
    /// Its numbers.
    pub counts: Counts,
    /// The restore point or archive that it made, restored or verified.
    pub result: Option<String>,
    /// Where that lies: of a restore from its beginning, of a backup or copy from its end.
    #[serde(default)]
    pub url: Option<String>,
    /// Where binaries went that the backup does not have (restore).
    pub quarantine: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// What kind of failure that is; null unless it failed.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// The administrator who asked for it, by e-mail address.
    pub started_by: Option<String>,
    /// What it could not do, by name: the first hundred.
    pub problems: Vec<Problem>,
}

/// Which runs are to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only those of this job.
    pub job: Option<String>,
    /// Only those that ended like this.
    pub outcome: Option<Outcome>,
    /// How many at most.
    pub limit: u32,
    /// Only those with a smaller number.
    pub before: Option<RunId>,
}

impl RunFilter {
    /// The latest runs: at most so many, of one job if one is named.
    pub fn latest(job: Option<&str>, limit: u32) -> Self {
        Self { job: job.map(str::to_owned), limit, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_in_json_and_in_text() {
        for outcome in [Outcome::Succeeded, Outcome::Partial, Outcome::Failed, Outcome::Cancelled, Outcome::Interrupted]
        {
            assert_eq!(outcome.as_str().parse(), Ok(outcome));
            assert_eq!(serde_json::to_string(&outcome).unwrap(), format!("\"{outcome}\""));
        }
        assert_eq!("done".parse::<Outcome>(), Err("`done` is not an outcome".to_owned()));
    }
}
