//! How the program ends: its exit status, and what it says of an error.

use std::process::ExitCode;

use crate::cli::terminal;
use crate::config::{ConfigError, UnknownJob};
use crate::jobs::context::is_cancelled;
use crate::model::run::Outcome;

/// The exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Succeeded = 0,
    Failed = 1,
    Usage = 2,
    Partial = 3,
    Cancelled = 4,
}

/// The command line asks for something that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{cause}\n   way out: {way_out}")]
pub(super) struct Usage {
    cause: String,
    way_out: String,
}

impl Usage {
    pub(super) fn new(cause: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { cause: cause.into(), way_out: way_out.into() }
    }
}

impl Exit {
    /// The status of a command line that was not obeyed, or that asked for help only.
    pub(super) fn of_usage(wrong: bool) -> Self {
        if wrong { Self::Usage } else { Self::Succeeded }
    }

    /// The status that tells how a run ended.
    pub(super) fn of(outcome: Option<Outcome>) -> Self {
        match outcome {
            Some(Outcome::Succeeded) => Self::Succeeded,
            Some(Outcome::Partial) => Self::Partial,
            Some(Outcome::Cancelled) => Self::Cancelled,
            Some(Outcome::Failed | Outcome::Interrupted) | None => Self::Failed,
        }
    }

    /// Prints an error, once, and gives the status it leads to.
    pub(super) fn explain(error: &anyhow::Error) -> Self {
        if let Some(error) = error.downcast_ref::<ConfigError>() {
            // It begins with file, line and column, as an editor expects it.
            terminal::note(error);
            return Self::Usage;
        }
        terminal::note(format_args!("holdfast: {error:#}"));
        if error.is::<Usage>() || error.is::<UnknownJob>() {
            Self::Usage
        } else if is_cancelled(error) {
            Self::Cancelled
        } else {
            Self::Failed
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
