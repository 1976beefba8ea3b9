//! What the daemon is told of the configuration, and what it has done by whoever knows it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::docket::{Access, Needs};
use super::request::{ExportRequest, JobOptions, Refusal, RestoreRequest, VerifyRequest};
use crate::jobs::catalogue::Restorable;
use crate::jobs::context::{Ended, RunContext};
use crate::jobs::restore::RestorePlan;
use crate::ledger::Ledger;
use crate::model::account::Accounts;
use crate::model::run::{Kind, Trigger};
use crate::model::shard::Shard;
use crate::model::slots::Timing;
use crate::repository::binaries::BinaryStore;

/// A job of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSpec {
    /// Its name, such as `copy.binaries`.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// What it reads.
    pub repository: String,
    /// Where it writes.
    pub destination: String,
    /// When it runs by itself; none if only when it is asked for.
    pub timing: Option<Timing>,
    /// The part of the repository that it reads; none for the whole.
    pub shard: Option<Shard>,
}

/// What the older interfaces work with, whose calls name no job and no repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderInterfaces {
    /// The job that makes a backup, such as `backup.full`.
    pub backup: String,
    /// Where that job writes, and a restore looks for what is named without a place.
    pub destination: String,
    /// What a restore replaces.
    pub repository: String,
}

/// What Fedora's own calls work with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FedoraCalls {
    /// What is backed up, and what a restore replaces.
    pub repository: String,
    /// Directories are named below these; at least one.
    pub roots: Vec<PathBuf>,
}

/// How much of its repository a job has to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The binaries that a watcher saw, as long as those are all that can be new.
    Pending,
    /// All of it.
    Everything,
}

impl Scope {
    /// That of a run with this trigger.
    pub fn of(trigger: Trigger) -> Self {
        if trigger == Trigger::Change { Self::Pending } else { Self::Everything }
    }
}

/// A store whose changes start jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedStore {
    /// Where it lies, and how it names its files.
    pub binaries: BinaryStore,
    /// The jobs that copy what is new.
    pub jobs: Vec<String>,
    /// How long after a scan the next one begins by itself, for those jobs whose other runs are none.
    pub scan_every: BTreeMap<String, Duration>,
}

/// What a run is to do.
#[derive(Clone, Debug)]
pub enum Work {
    /// A job of the configuration.
    Job {
        /// Its name.
        name: String,
        /// How it is to be run this time.
        options: JobOptions,
        /// How much of its repository it has to look at.
        scope: Scope,
    },
    /// A restore.
    Restore(RestoreRequest),
    /// A verification.
    Verify(VerifyRequest),
    /// An export into a ModeShape backup directory.
    Export(ExportRequest),
}

/// What one configuration means; a new one takes its place when it is read again, and runs under way keep theirs.
#[async_trait]
pub trait Site: Debug + Send + Sync {
    /// The jobs.
    fn jobs(&self) -> Vec<JobSpec>;

    /// The stores, or parts of stores, that are to be watched, each once.
    fn watched(&self) -> Vec<WatchedStore> {
        Vec::new()
    }

    /// How many runs there may be at once.
    fn runs_at_once(&self) -> usize;

    /// How long runs get to reach a safe point when the service stops.
    fn grace(&self) -> Duration;

    /// How long ended runs are kept in the history.
    fn history(&self) -> Duration;

    /// The repository that a restore would replace: none if it goes elsewhere. Refuses what cannot be meant.
    fn replaced_by(&self, request: &RestoreRequest) -> Result<Option<String>, Refusal>;

    /// Refuses a verification that cannot be meant.
    fn check(&self, request: &VerifyRequest) -> Result<(), Refusal>;

    /// Where that lies what a restore brings back, as far as it is known before it has been found; none for other work.
    fn url(&self, _work: &Work) -> Option<String> {
        None
    }

    /// Where an archive would lie that is called like this.
    fn archive_url(&self, _destination: &str, _name: &str) -> Option<String> {
        None
    }

    /// The destination that such a URL leads to.
    fn destination_of(&self, _url: &str) -> Option<String> {
        None
    }

    /// What the older interfaces work with, or why they cannot.
    fn older_interfaces(&self) -> Result<OlderInterfaces, Refusal> {
        Err(Refusal::Invalid("there is no backup to be started: add [backup.NAME] to the configuration".to_owned()))
    }

    /// What Fedora's own calls work with, or why they cannot.
    fn fedora(&self) -> Result<FedoraCalls, Refusal> {
        Err(Refusal::Invalid("fcr:backup and fcr:restore need `fedora_roots` in [older_interfaces]".to_owned()))
    }

    /// Those who may log in, as they are on record at this moment; reads a file.
    fn accounts(&self) -> anyhow::Result<Arc<Accounts>> {
        Ok(Arc::default())
    }

    /// How long a login lasts.
    fn session(&self) -> Duration {
        Duration::from_hours(1)
    }

    /// Does the work; `hurry` fires when others wait for it to end, and it only lingers.
    async fn perform(&self, run: &RunContext, work: &Work, hurry: &CancellationToken) -> anyhow::Result<Ended>;

    /// What a restore would do; changes nothing.
    async fn plan(&self, run: &RunContext, request: &RestoreRequest) -> anyhow::Result<RestorePlan>;

    /// What there is to restore from.
    async fn points(&self, ledger: Option<&Ledger>) -> Points;
}

/// What there is to restore from, as far as the destinations answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Points {
    /// Restore points and archives, newest first.
    pub found: Vec<Restorable>,
    /// Those whose manifest could not be read, and why.
    pub unreadable: Vec<String>,
    /// Destinations that could not be listed, and why.
    pub unreached: Vec<String>,
}

impl JobSpec {
    /// What its runs need for themselves.
    pub fn needs(&self) -> Needs {
        let series = (self.kind == Kind::Copy).then(|| {
            let of = self.shard.map_or_else(String::new, |shard| format!("/{shard}"));
            (format!("{}{of}", self.repository), self.destination.clone())
        });
        Needs { job: Some(self.name.clone()), repository: Some((self.repository.clone(), Access::Reads)), series }
    }
}
