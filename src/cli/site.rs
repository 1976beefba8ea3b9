//! What the configuration means as work: every run, of the command line and of the daemon, is ordered here.

mod restores;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::cli::destination::{self, Purpose, open_to_look};
use crate::cli::exit::Usage;
use crate::cli::locate::{NotThere, holder, spelled_from};
use crate::cli::users::UsersFile;
use crate::cli::{fcr, url};
use crate::config::{self, Config, CopyJob, Job, Repository};
use crate::jobs::backup::{BackupOrder, backup};
use crate::jobs::catalogue::{self, RestorableName};
use crate::jobs::context::{Destination, Ended, Report, RunContext};
use crate::jobs::copy::CopyOrder;
use crate::jobs::copy::pending::{Following, copy_all, copy_pending};
use crate::jobs::export::export;
use crate::jobs::restore::{Origin, RestoreFrom, RestorePlan, plan, restore};
use crate::jobs::source::RepositorySource;
use crate::jobs::verify::{Depth, VerifyOrder, note_missing, verify};
use crate::ledger::Ledger;
use crate::model::account::Accounts;
use crate::model::run::Kind;
use crate::model::shard::Shard;
use crate::repository::binaries::BinaryStore;
use crate::repository::documents::{DocumentDirectory, DocumentSource};
use crate::service::bandwidth::Lines;
use crate::service::clock::SystemClock;
use crate::service::request::{JobOptions, Refusal, RestoreRequest, VerifyRequest};
use crate::service::site::{FedoraCalls, JobSpec, OlderInterfaces, Points, Scope, Site, WatchedStore, Work};
use crate::store::pressure::MOST_AT_ONCE;
use restores::PreparedRestore;

/// The configuration, as the site of the work.
#[derive(Clone, Debug)]
pub(super) struct ConfiguredSite {
    config: Arc<Config>,
    users: Arc<UsersFile>,
    lines: Arc<Lines>,
}

/// The way to the destinations of a configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach<'a> {
    pub(super) config: &'a Config,
    /// What may pass to each.
    pub(super) lines: &'a Lines,
}

impl ConfiguredSite {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self::of(config, Arc::new(Lines::new(Arc::new(SystemClock))))
    }

    /// The same configuration as it was read again. Nothing changes for runs under way.
    pub(super) fn renewed(&self, config: Arc<Config>) -> Self {
        Self::of(config, Arc::clone(&self.lines))
    }

    /// It is the one that holds: what may pass to its destinations changes for runs under way, too.
    pub(super) fn set_lines(&self) {
        for destination in self.config.destinations.values() {
            self.lines.set(&destination.name, &destination.bandwidth);
        }
    }

    fn of(config: Arc<Config>, lines: Arc<Lines>) -> Self {
        let users = Arc::new(UsersFile::new(config.service.users.clone()));
        Self { config, users, lines }
    }

    fn reach(&self) -> Reach<'_> {
        Reach { config: &self.config, lines: &self.lines }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    async fn run_job(
        &self,
        run: &RunContext,
        name: &str,
        options: JobOptions,
        scope: Scope,
        hurry: &CancellationToken,
    ) -> anyhow::Result<Ended> {
        let job = self.config.job(name)?;
        let mut source = source(repository(&self.config, job.repository())?);
        source.binaries = source.binaries.within(job.shard());
        let at_once = match job {
            Job::Copy(job) => job.parallel,
            Job::Backup(_) => MOST_AT_ONCE,
        };
        let destination = open(self.reach(), job.destination(), Purpose::Write { at_once }, run).await?;
        let ended = match job {
            Job::Copy(job) => {
                let (parallel, settle) = (job.parallel, job.settle);
                let JobOptions { full, scan, allow_empty } = options;
                let scan_rate = job.scan_rate;
                let order = CopyOrder { source, destination, parallel, settle, full, allow_empty, scan_rate };
                // Where scans have times of their own, what the watcher has seen is enough at others, unless something
                // was left out of which it sees nothing: whoever asks may just have seen to that.
                let seen = job.scan_every.is_some() && run.ledger.watch_of(name).is_some();
                let of = name.to_owned();
                let enough = seen && run.blocking(move |run| run.ledger.left_out(&of)).await?.is_none();
                if full || scan || (scope == Scope::Everything && !enough) {
                    Box::pin(copy_all(run, &order, name)).await
                } else {
                    if scope == Scope::Everything {
                        // Whoever asked for it waits for the restore point.
                        hurry.cancel();
                    }
                    let (name, point_every, hurry) = (name.to_owned(), job.point_every, hurry.clone());
                    Box::pin(copy_pending(run, &order, &Following { job: name, point_every, hurry })).await
                }
            }
            Job::Backup(job) => {
                let (name, volume_bytes, settle) = (name.to_owned(), job.volume_bytes, job.settle);
                let allow_empty = options.allow_empty;
                let order = BackupOrder { job: name, source, destination, volume_bytes, settle, allow_empty };
                Box::pin(backup(run, &order)).await
            }
        };
        let ended = ended?;
        Ok(Ended { url: self.url_of(job.destination(), ended.result.as_deref()), ..ended })
    }

    /// Where a restore point or an archive lies.
    fn url_of(&self, destination: &str, name: Option<&str>) -> Option<String> {
        let name: RestorableName = name?.parse().ok()?;
        self.config.destinations.get(destination).map(|destination| url::of(destination, &name))
    }

    async fn restore(&self, run: &RunContext, request: &RestoreRequest) -> anyhow::Result<Ended> {
        let PreparedRestore { order, other_repository, no_owner, .. } = self.prepare_restore(run, request).await?;
        if let Some(message) = other_repository {
            run.report.notice("repository", spelled_from(&request.from), message);
        }
        if let Some(message) = no_owner {
            run.report.notice("owner", order.binaries.root().display().to_string(), message);
        }
        let ended = restore(run, &order).await?;
        let Origin::Backup(_, destination) = &order.from else { return Ok(ended) };
        Ok(Ended { url: self.url_of(&destination.name, ended.result.as_deref()), ..ended })
    }

    async fn verify(&self, run: &RunContext, request: &VerifyRequest) -> anyhow::Result<Ended> {
        let (several, mut orders) = (request.names.len() > 1, Vec::new());
        for name in &request.names {
            match holder(self.reach(), run, name, request.destination.as_deref()).await {
                Ok(destination) => orders.push(VerifyOrder { name: name.clone(), destination }),
                // The others are verified all the same.
                Err(error) if several && error.is::<NotThere>() => {
                    note_missing(run, &name.to_string(), error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        verify(run, &orders, if request.quick { Depth::Quick } else { Depth::Whole }).await
    }
}

#[async_trait]
impl Site for ConfiguredSite {
    fn jobs(&self) -> Vec<JobSpec> {
        let spec = |job: Job<'_>| JobSpec {
            name: job.to_string(),
            kind: kind(job),
            repository: job.repository().to_owned(),
            destination: job.destination().to_owned(),
            timing: job.timing().cloned(),
            shard: job.shard(),
        };
        self.config.jobs().map(spec).collect()
    }

    fn watched(&self) -> Vec<WatchedStore> {
        // A repository is watched for each shard by itself: nobody is told of what is none of his.
        let mut parts: BTreeMap<(&str, Option<Shard>), Vec<&CopyJob>> = BTreeMap::new();
        for job in self.config.copies.values().filter(|job| job.watch) {
            parts.entry((&job.repository, job.shard)).or_default().push(job);
        }
        let every = |job: &&CopyJob| Some((Job::Copy(job).to_string(), job.scan_every?));
        let store = |((name, shard), jobs): ((&str, _), Vec<&CopyJob>)| {
            let repository = self.config.repositories.get(name)?;
            Some(WatchedStore {
                binaries: BinaryStore::at(&repository.binaries, &repository.layout).within(shard),
                jobs: jobs.iter().map(|job| Job::Copy(job).to_string()).collect(),
                scan_every: jobs.iter().filter_map(every).collect(),
            })
        };
        parts.into_iter().filter_map(store).collect()
    }

    fn runs_at_once(&self) -> usize {
        self.config.service.runs_at_once
    }

    fn grace(&self) -> Duration {
        self.config.service.grace
    }

    fn history(&self) -> Duration {
        self.config.service.history
    }

    fn replaced_by(&self, request: &RestoreRequest) -> Result<Option<String>, Refusal> {
        check_destination(&self.config, request.destination.as_deref())?;
        if let Some(name) = &request.repository {
            repository(&self.config, name).map_err(|usage| Refusal::Invalid(usage.to_string()))?;
        }
        if let Some(directory) = &request.to {
            if !directory.is_absolute() {
                return Err(Refusal::Invalid(format!("`to` is not an absolute path: `{}`", directory.display())));
            }
            return Ok(None);
        }
        let mut all = self.config.repositories.keys();
        match (&request.repository, all.next(), all.next()) {
            (Some(named), ..) => Ok(Some(named.clone())),
            (None, Some(only), None) => Ok(Some(only.clone())),
            _ => {
                let known: Vec<&str> = self.config.repositories.keys().map(String::as_str).collect();
                Err(Refusal::Invalid(format!(
                    "say which repository is to be replaced, as `repository`: {}",
                    known.join(", ")
                )))
            }
        }
    }

    fn check(&self, request: &VerifyRequest) -> Result<(), Refusal> {
        if request.names.is_empty() {
            return Err(Refusal::Invalid("`names` is empty: `holdfast points` lists what can be verified".to_owned()));
        }
        check_destination(&self.config, request.destination.as_deref())
    }

    fn url(&self, work: &Work) -> Option<String> {
        let Work::Restore(RestoreRequest { from: RestoreFrom::Backup(from), destination, .. }) = work else {
            return None;
        };
        let mut all = self.config.destinations.values();
        let destination = match destination {
            Some(name) => self.config.destinations.get(name),
            None => all.next().filter(|_| all.next().is_none()),
        };
        destination.map(|destination| url::of(destination, from))
    }

    fn archive_url(&self, destination: &str, name: &str) -> Option<String> {
        self.config.destinations.get(destination).map(|destination| url::of_archive(destination, name))
    }

    fn destination_of(&self, url: &str) -> Option<String> {
        let mut all = self.config.destinations.values();
        all.find(|destination| url::leads_to(destination, url)).map(|destination| destination.name.clone())
    }

    fn older_interfaces(&self) -> Result<OlderInterfaces, Refusal> {
        let config::OlderInterfaces { backup, repository, .. } = &self.config.older_interfaces;
        let (Some(job), Some(repository)) =
            (backup.as_ref().and_then(|name| self.config.backups.get(name)), repository)
        else {
            let why = if self.config.backups.is_empty() {
                "there is no backup to be started: add [backup.NAME] to the configuration"
            } else {
                "there are several backups: say which one is meant, as `backup` in [older_interfaces]"
            };
            return Err(Refusal::Invalid(why.to_owned()));
        };
        Ok(OlderInterfaces {
            backup: Job::Backup(job).to_string(),
            destination: job.destination.clone(),
            repository: repository.clone(),
        })
    }

    fn fedora(&self) -> Result<FedoraCalls, Refusal> {
        fcr::fedora(&self.config)
    }

    fn accounts(&self) -> anyhow::Result<Arc<Accounts>> {
        self.users.read()
    }

    fn session(&self) -> Duration {
        self.config.service.session
    }

    async fn perform(&self, run: &RunContext, work: &Work, hurry: &CancellationToken) -> anyhow::Result<Ended> {
        match work {
            Work::Job { name, options, scope } => self.run_job(run, name, *options, *scope, hurry).await,
            Work::Restore(request) => self.restore(run, request).await,
            Work::Verify(request) => self.verify(run, request).await,
            Work::Export(request) => export(run, &fcr::export_order(&self.config, request)?).await,
        }
    }

    async fn plan(&self, run: &RunContext, request: &RestoreRequest) -> anyhow::Result<RestorePlan> {
        let prepared = self.prepare_restore(run, request).await?;
        for message in prepared.other_repository.into_iter().chain(prepared.no_documents) {
            run.report.notice("repository", spelled_from(&request.from), message);
        }
        if let Some(message) = prepared.no_owner {
            run.report.notice("owner", prepared.order.binaries.root().display().to_string(), message);
        }
        plan(run, &prepared.order).await
    }

    async fn points(&self, ledger: Option<&Ledger>) -> Points {
        let mut points = Points::default();
        for destination in self.config.destinations.values() {
            let listed = async {
                let opened = open_to_look(destination, ledger, &Report::default()).await?;
                catalogue::list(&opened, ledger).await
            };
            match listed.await {
                Ok((found, unreadable)) => {
                    points.found.extend(found);
                    let at = |complaint| format!("{complaint} (at destination {})", destination.name);
                    points.unreadable.extend(unreadable.into_iter().map(at));
                }
                Err(error) => points.unreached.push(format!("{error:#}")),
            }
        }
        points.found.sort_by(|a, b| (b.created, &b.name).cmp(&(a.created, &a.name)));
        points
    }
}

fn kind(job: Job<'_>) -> Kind {
    match job {
        Job::Copy(_) => Kind::Copy,
        Job::Backup(_) => Kind::Backup,
    }
}

/// Opens a destination of the configuration, to write to it or only to read from it.
pub(super) async fn open(
    Reach { config, lines }: Reach<'_>,
    name: &str,
    purpose: Purpose,
    run: &RunContext,
) -> anyhow::Result<Destination> {
    run.go_on()?;
    run.report.phase(format!("opening destination {name}"), "", None);
    let destination = destination(config, name)?;
    let limiter = lines.limiter(name, &destination.bandwidth);
    // The futures of the SDK are large, and this one would be a part of every run's.
    let opening = Box::pin(destination::open(destination, purpose, limiter, &run.ledger, &run.report, &run.stop));
    let opened = opening.await;
    match opened {
        // A request that was given up because we stop is no failure of the destination.
        Err(_) if run.stop.is_cancelled() => Err(run.go_on().expect_err("the run should stop")),
        opened => opened,
    }
}

/// A destination of the configuration.
pub(super) fn destination<'a>(config: &'a Config, name: &str) -> Result<&'a config::Destination, Usage> {
    config.destinations.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.destinations.keys().map(String::as_str).collect();
        Usage::new(format!("there is no destination `{name}`"), format!("the destinations are {}", known.join(", ")))
    })
}

fn check_destination(config: &Config, name: Option<&str>) -> Result<(), Refusal> {
    match name {
        Some(name) => match destination(config, name) {
            Ok(_) => Ok(()),
            Err(usage) => Err(Refusal::Invalid(usage.to_string())),
        },
        None => Ok(()),
    }
}

/// A repository of the configuration.
pub(super) fn repository<'a>(config: &'a Config, name: &str) -> Result<&'a Repository, Usage> {
    config.repositories.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.repositories.keys().map(String::as_str).collect();
        Usage::new(format!("there is no repository `{name}`"), format!("the repositories are {}", known.join(", ")))
    })
}

/// What a job reads.
pub(super) fn source(repository: &Repository) -> RepositorySource {
    RepositorySource {
        name: repository.name.clone(),
        binaries: BinaryStore::at(&repository.binaries, &repository.layout),
        documents: repository.documents.as_ref().map(document_source),
    }
}

/// Where documents come from, as the work knows it.
pub(super) fn document_source(configured: &config::DocumentSource) -> DocumentSource {
    match configured {
        config::DocumentSource::Directory(path) => DocumentSource::Directory(DocumentDirectory::new(path)),
        config::DocumentSource::Table(table) => DocumentSource::Table(table.clone()),
        config::DocumentSource::Fedora(server) => DocumentSource::Fedora(server.clone()),
    }
}

/// The directory of the documents, if they are in one.
pub(super) fn documents(repository: &Repository) -> Option<&Path> {
    match &repository.documents {
        Some(config::DocumentSource::Directory(path)) => Some(path),
        _ => None,
    }
}
