//! The thread that sets watches and looks into directories, each only once its watch is set.

use std::io;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::eyes::{Blind, Eyes};
use crate::model::branch::{Branch, Place};
use crate::model::digest::Digest;
use crate::repository::binaries::BinaryStore;
use crate::repository::branches::Lister;

/// What the thread found.
#[derive(Debug)]
pub(super) enum Finding {
    /// All of the store is watched: so many directories, if each is by itself.
    Ready(Option<u64>),
    /// Binaries in directories that had come.
    Binaries(Vec<Digest>),
    /// A directory cannot be watched.
    Unwatched {
        /// Which one.
        branch: Branch,
        /// Why.
        cause: String,
    },
    /// The store cannot be watched.
    Blind(Blind),
}

/// Sets the watches of one store.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) store: BinaryStore,
    pub(super) eyes: Eyes,
    pub(super) findings: mpsc::Sender<Finding>,
    pub(super) stop: CancellationToken,
}

/// Nobody wants to know any more, or nothing more can be done.
struct Over;

impl Survey {
    /// Watches all of the store, then what it is asked to.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Branch>) {
        let mut lister = Lister::default();
        let directories = if self.eyes.see_all() {
            None
        } else {
            let Ok(directories) = self.descend(&mut lister, Branch::ROOT, false) else { return };
            Some(directories)
        };
        if self.tell(Finding::Ready(directories)).is_err() {
            return;
        }
        while let Some(branch) = requests.blocking_recv() {
            if self.descend(&mut lister, branch, true).is_err() {
                return;
            }
        }
    }

    /// Watches a directory and all below it, and tells of the binaries in them if `telling`; gives their number.
    fn descend(&mut self, lister: &mut Lister, top: Branch, telling: bool) -> Result<u64, Over> {
        let mut watched = 0;
        // No more than the directories of one level at each.
        let mut stack = vec![top];
        while let Some(branch) = stack.pop() {
            if self.stop.is_cancelled() {
                return Err(Over);
            }
            match self.eyes.watch(&branch) {
                Ok(()) => watched += 1,
                Err(Blind::Gone) if branch != Branch::ROOT => continue,
                Err(Blind::Other(cause)) if branch != Branch::ROOT => {
                    self.tell(Finding::Unwatched { branch, cause })?;
                }
                Err(blind) => {
                    self.tell(Finding::Blind(blind))?;
                    return Err(Over);
                }
            }
            let mut binaries = Vec::new();
            let listed = lister.list(&self.store, &branch, |place| match place {
                Place::Branch(below) => stack.push(below),
                Place::Binary(digest) if telling => binaries.push(digest),
                Place::Binary(_) => {}
            });
            if !binaries.is_empty() {
                self.tell(Finding::Binaries(binaries))?;
            }
            match listed {
                Ok(()) => {}
                // If it is made again, that is news.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => self.tell(Finding::Unwatched { branch, cause: format!("read directory: {error}") })?,
            }
        }
        Ok(watched)
    }

    fn tell(&self, finding: Finding) -> Result<(), Over> {
        self.findings.blocking_send(finding).map_err(|_| Over)
    }
}

/// How many directories a store has, each of which would need a watch.
pub(super) fn count_directories(store: &BinaryStore, stop: &CancellationToken) -> u64 {
    let mut lister = Lister::default();
    let mut stack = vec![Branch::ROOT];
    let mut count = 0;
    while let Some(branch) = stack.pop() {
        if stop.is_cancelled() {
            break;
        }
        count += 1;
        // The last level holds no directories that matter, and is by far the largest.
        if !branch.is_last(store.layout()) {
            // One that cannot be read is counted as it is; a scan says what is wrong with it.
            let listed = lister.list(store, &branch, |place| {
                if let Place::Branch(below) = place {
                    stack.push(below);
                }
            });
            drop(listed);
        }
    }
    count
}
