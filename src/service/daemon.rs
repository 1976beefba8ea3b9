//! The running service, as those see it who ask it for something: HTTP, the scheduler, the watcher.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::dispatcher::{COMMANDS, Command, Dispatcher, Manager};
use super::live::{Board, Live};
use super::request::{ExportRequest, JobOptions, Refusal, RestoreRequest, VerifyRequest};
use super::runner::Runner;
use super::site::{JobSpec, Points, Site, Work};
use super::status::{JobStatus, Status, WatchStatus};
use super::watcher::WatchBoard;
use crate::jobs::context::{Clock, Report};
use crate::jobs::restore::RestorePlan;
use crate::ledger::Ledger;
use crate::model::run::{Run, RunFilter, RunId, Trigger};
use crate::model::slots::Advance;

/// How many threads read the ledger, or wait to: should its disk stand still, the others go on.
const READS: usize = 32;

/// The running service; clones are the same one.
#[derive(Clone, Debug)]
pub struct Daemon(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runner: Runner,
    /// Reads beside the writer, and never waits for it.
    reader: Arc<Ledger>,
    reads: Arc<Semaphore>,
    site: watch::Sender<Arc<dyn Site>>,
    board: Arc<Board>,
    watches: WatchBoard,
    commands: mpsc::Sender<Command>,
    started: Timestamp,
    stop: CancellationToken,
}

/// The loop behind a [`Daemon`], which somebody must run.
#[derive(Debug)]
pub struct Engine(Dispatcher);

impl Engine {
    /// Goes round until `stop` has fired and every run has ended; tells `manager` at least every `beat`.
    pub async fn run(self, manager: &impl Manager, beat: Duration) {
        self.0.run(manager, beat).await;
    }
}

impl Daemon {
    /// A service that works by `site`, and its loop; `stop` ends both and all runs.
    pub fn new(runner: Runner, site: Arc<dyn Site>, stop: CancellationToken) -> anyhow::Result<(Self, Engine)> {
        let reader = Ledger::open_to_read(runner.ledger.directory())?.context("read the ledger: there is none")?;
        let (sender, commands) = mpsc::channel(COMMANDS);
        let board = Arc::new(Board::default());
        let engine = Dispatcher::new(runner.clone(), Arc::clone(&site), Arc::clone(&board), commands, stop.clone());
        let inner = Inner {
            started: runner.clock.now(),
            reader: Arc::new(reader),
            reads: Arc::new(Semaphore::new(READS)),
            runner,
            site: watch::Sender::new(site),
            board,
            watches: WatchBoard::default(),
            commands: sender,
            stop,
        };
        Ok((Self(Arc::new(inner)), Engine(engine)))
    }

    /// The ledger, to write.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.0.runner.ledger
    }

    /// The time.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.runner.clock
    }

    /// The configuration that is worked by.
    pub fn site(&self) -> Arc<dyn Site> {
        Arc::clone(&self.0.site.borrow())
    }

    /// The configuration that is worked by, and every one that takes its place.
    pub fn sites(&self) -> watch::Receiver<Arc<dyn Site>> {
        self.0.site.subscribe()
    }

    /// How the stores are watched.
    pub fn watch_board(&self) -> &WatchBoard {
        &self.0.watches
    }

    /// Starts a job because of `trigger`, or finds it waiting: the run is recorded, and begins when it can.
    pub async fn activate(&self, job: &str, trigger: Trigger) -> Result<Run, Refusal> {
        self.command(|reply| Command::Activate {
            job: job.to_owned(),
            trigger,
            options: JobOptions::default(),
            by: None,
            reply,
        })
        .await?
    }

    /// Starts a copy that looks at everything because it is time, or finds it waiting.
    pub async fn scan(&self, job: &str) -> Result<Run, Refusal> {
        self.command(|reply| Command::Activate {
            job: job.to_owned(),
            trigger: Trigger::Schedule,
            options: JobOptions { scan: true, ..JobOptions::default() },
            by: None,
            reply,
        })
        .await?
    }

    /// Whether a run waits or has begun, and has not ended.
    pub fn is_under_way(&self, id: RunId) -> bool {
        self.0.board.all().iter().any(|live| live.added.id == id && !live.has_ended())
    }

    /// Starts a job because slots of its schedule are due, or finds it waiting. None if somebody else has acted upon
    /// these slots since it was decided.
    pub async fn activate_slot(&self, job: &str, trigger: Trigger, advance: Advance) -> Result<Option<Run>, Refusal> {
        self.command(|reply| Command::ActivateSlot { job: job.to_owned(), trigger, advance, reply }).await?
    }

    /// Starts a job because somebody asked.
    pub async fn start(&self, job: &str, options: JobOptions, by: Option<&str>) -> Result<Run, Refusal> {
        self.command(|reply| Command::Activate {
            job: job.to_owned(),
            trigger: Trigger::Request,
            options,
            by: by.map(str::to_owned),
            reply,
        })
        .await?
    }

    /// Starts a restore; refused while another restore replaces the same repository.
    pub async fn restore(&self, request: RestoreRequest, by: Option<&str>) -> Result<Run, Refusal> {
        self.ask(Work::Restore(request), by).await
    }

    /// Records a restore of something that cannot be anywhere: whoever asked finds it failed, as they would have if it
    /// had been looked for.
    pub async fn fail_restore(&self, error: String, url: Option<String>, by: Option<&str>) -> Result<Run, Refusal> {
        self.command(|reply| Command::Fail { error, url, by: by.map(str::to_owned), reply }).await?
    }

    /// Starts a verification.
    pub async fn verify(&self, request: VerifyRequest, by: Option<&str>) -> Result<Run, Refusal> {
        self.ask(Work::Verify(request), by).await
    }

    /// Starts an export.
    pub async fn export(&self, request: ExportRequest, by: Option<&str>) -> Result<Run, Refusal> {
        self.ask(Work::Export(request), by).await
    }

    /// Waits until a run has ended, and gives it as it is then.
    pub async fn to_its_end(&self, id: RunId) -> anyhow::Result<Run> {
        if let Some(live) = self.0.board.get(id) {
            return Ok(live.to_its_end().await);
        }
        self.run(id).await?.with_context(|| format!("find run {id}"))
    }

    async fn ask(&self, work: Work, by: Option<&str>) -> Result<Run, Refusal> {
        self.command(|reply| Command::Ask { work, by: by.map(str::to_owned), reply }).await?
    }

    /// What a restore would do; that takes as long as reading what is there, and is no run.
    pub async fn plan(&self, request: &RestoreRequest) -> Result<RestorePlan, Refusal> {
        let site = self.site();
        site.replaced_by(request)?;
        let report = Arc::new(Report::default());
        let stop = self.0.stop.child_token();
        // Whoever asked may go away; the threads that read the repository for him then stop.
        let _stop_with_us = stop.clone().drop_guard();
        let context = self.0.runner.unrecorded(stop, report);
        site.plan(&context, request).await.map_err(|error| Refusal::Conflict(format!("{error:#}")))
    }

    /// Stops a run at its next safe point; one that has ended stays as it is.
    pub async fn cancel(&self, id: RunId) -> Result<Run, Refusal> {
        self.command(|reply| Command::Cancel { id, reply }).await?;
        let run = self.run(id).await.map_err(Refusal::Internal)?;
        run.ok_or_else(|| Refusal::NotFound(format!("there is no run {id}")))
    }

    /// Works by another configuration from now on; runs under way end by the old one.
    pub async fn adopt(&self, site: Arc<dyn Site>) -> Result<(), Refusal> {
        // The loop first: whoever hears of a new job may start it.
        self.command(|reply| Command::Adopt { site: Arc::clone(&site), reply }).await?;
        self.0.site.send_replace(site);
        Ok(())
    }

    async fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.0.commands.send(command(reply)).await.map_err(|_| Refusal::Stopping)?;
        answer.await.map_err(|_| Refusal::Stopping)
    }

    /// A run as it is now.
    pub async fn run(&self, id: RunId) -> anyhow::Result<Option<Run>> {
        // In this order: it is taken off the board after it is recorded.
        match self.0.board.get(id) {
            Some(live) => Ok(Some(live.view())),
            None => self.read(move |ledger| ledger.run(id)).await,
        }
    }

    /// Runs as they are now, newest first.
    pub async fn runs(&self, filter: RunFilter) -> anyhow::Result<Vec<Run>> {
        let mut runs = self.read(move |ledger| ledger.runs(&filter)).await?;
        for run in runs.iter_mut().filter(|run| run.outcome.is_none()) {
            if let Some(now) = self.run(run.id).await? {
                *run = now;
            }
        }
        Ok(runs)
    }

    /// What there is to restore from.
    pub async fn points(&self) -> Points {
        self.site().points(Some(&self.0.reader)).await
    }

    /// What the service is at.
    pub async fn status(&self) -> anyhow::Result<Status> {
        // Taken before the ledger is read: a run that has ended is in one of the two.
        let (ended, lives): (Vec<_>, Vec<_>) = self.0.board.all().into_iter().partition(|live| live.has_ended());
        let ended: Vec<Run> = ended.iter().map(|live| live.view()).collect();
        let of = |job: &str, begun: bool| {
            let of_job = |live: &&Arc<Live>| live.added.activation.job == job && live.has_begun() == begun;
            lives.iter().find(of_job).map(|live| live.added.id)
        };
        let names: Vec<String> = self.site().jobs().into_iter().map(|spec| spec.name).collect();
        let watched: Vec<String> = names.iter().filter(|name| self.0.watches.get(name).is_some()).cloned().collect();
        let (last, marks, backlogs, mut proofs) = self
            .read(move |ledger| {
                let backlogs = watched.into_iter().map(|job| Ok((ledger.backlog(&job)?, job)));
                let backlogs = backlogs.collect::<anyhow::Result<Vec<_>>>()?;
                let proofs = names.iter().filter_map(|job| Some((job.clone(), ledger.proof(job).transpose()?)));
                let proofs =
                    proofs.map(|(job, proof)| Ok((job, proof?))).collect::<anyhow::Result<BTreeMap<_, _>>>()?;
                Ok((ledger.last_runs(&names)?, ledger.slot_marks()?, backlogs, proofs))
            })
            .await?;
        let now = self.clock().now();
        let next_run = |spec: &JobSpec| {
            let timing = spec.timing.as_ref()?;
            let mark = marks.get(&spec.name).filter(|mark| timing.is_of(mark)).cloned();
            timing.next_start(&mark.unwrap_or_else(|| timing.begin(0, now)), now)
        };
        let watch = |job: &str| {
            let (backlog, _) = backlogs.iter().find(|(_, of)| of == job)?;
            Some(WatchStatus::new(self.0.watches.get(job)?, backlog, now))
        };
        let jobs = self.site().jobs().into_iter().map(|spec| JobStatus {
            running: of(&spec.name, true),
            waiting: of(&spec.name, false),
            last_run: ended.iter().chain(&last).filter(|run| run.job == spec.name).max_by_key(|run| run.id).cloned(),
            next_run: next_run(&spec),
            schedule: spec.timing.as_ref().map(|timing| timing.schedule.text().to_owned()),
            timezone: spec.timing.as_ref().map(|timing| timing.schedule.timezone().to_owned()),
            watch: watch(&spec.name),
            proof: proofs.remove(&spec.name),
            job: spec.name,
            kind: spec.kind,
            repository: spec.repository,
            destination: spec.destination,
        });
        let views =
            |begun: bool| lives.iter().filter(|live| live.has_begun() == begun).map(|live| live.view()).collect();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.0.started,
            stopping: self.0.stop.is_cancelled(),
            jobs: jobs.collect(),
            running: views(true),
            waiting: views(false),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let reader = Arc::clone(&self.0.reader);
        let read = Arc::clone(&self.0.reads).acquire_owned().await.context("read the ledger")?;
        let work = move || {
            // It goes with the thread, also when whoever asked does not wait any more.
            let _read = read;
            work(&reader)
        };
        tokio::task::spawn_blocking(work).await.context("read the ledger")?
    }
}
