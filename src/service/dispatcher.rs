//! The loop that everything goes through which starts, stops or ends a run: one task, so that nothing happens twice.
//!
//! Schedule, change, request and what is overdue all become the same command. A job that waits already is not put on
//! the docket a second time. What fails without anybody having asked for it is tried again by itself, later and later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::docket::{Docket, Entry, Hindrance, Needs};
use super::journal::{Level, say};
use super::live::{Board, Live};
use super::request::{JobOptions, Refusal};
use super::runner::{Activation, Added, Runner};
use super::site::{JobSpec, Scope, Site, Work};
use super::timetable;
use super::words;
use crate::jobs::export::EXPORT;
use crate::model::run::{Failure, Kind, Outcome, Run, RunId, Trigger};
use crate::model::slots::Advance;

/// How many commands wait; whoever sends one more waits with it.
pub(super) const COMMANDS: usize = 64;
/// How many restores, verifications and exports may be on the docket at once; jobs are bounded by their number.
const ASKED_FOR: usize = 16;
/// How long until what failed is tried again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));
/// How long until the end of a run that could not be recorded is tried again.
const RECORD_AGAIN: Duration = Duration::from_secs(5);
/// How often the history is shortened.
const FORGET_EVERY: Duration = Duration::from_hours(24);

/// What the loop is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Puts a job on the docket, or finds it there.
    Activate { job: String, trigger: Trigger, options: JobOptions, by: Option<String>, reply: Reply },
    /// Puts a job on the docket whose schedule is due, or finds it there; nothing if its slots were acted upon.
    ActivateSlot {
        job: String,
        trigger: Trigger,
        advance: Advance,
        reply: oneshot::Sender<Result<Option<Run>, Refusal>>,
    },
    /// Puts a restore, a verification or an export on the docket.
    Ask { work: Work, by: Option<String>, reply: Reply },
    /// Records a restore that was asked for and cannot be done.
    Fail { error: String, url: Option<String>, by: Option<String>, reply: Reply },
    /// Stops a run at its next safe point, or before it begins.
    Cancel { id: RunId, reply: oneshot::Sender<()> },
    /// Works by another configuration from now on.
    Adopt { site: Arc<dyn Site>, reply: oneshot::Sender<()> },
}

pub(super) type Reply = oneshot::Sender<Result<Run, Refusal>>;

/// What belongs to a run on the docket.
#[derive(Debug)]
struct Ticket {
    live: Arc<Live>,
    work: Work,
}

/// What the loop tells the service manager.
pub trait Manager {
    /// The loop goes round: it is alive.
    fn beat(&self);
    /// What is being done, in words.
    fn status(&self, words: &str);
}

/// The loop and what it works with.
#[derive(Debug)]
pub(super) struct Dispatcher {
    runner: Runner,
    site: Arc<dyn Site>,
    board: Arc<Board>,
    commands: mpsc::Receiver<Command>,
    /// Ends the runs; fires after `stop`.
    stop: CancellationToken,
    docket: Docket<Ticket>,
    runs: JoinSet<Run>,
    /// Runs that ended and are not recorded, because the ledger could not be written.
    unrecorded: Vec<Run>,
    retries: BTreeMap<String, Retry>,
    forget_at: Instant,
    record_at: Instant,
    said: String,
}

#[derive(Debug)]
struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl Dispatcher {
    pub(super) fn new(
        runner: Runner,
        site: Arc<dyn Site>,
        board: Arc<Board>,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        Self {
            docket: Docket::new(site.runs_at_once()),
            runner,
            site,
            board,
            commands,
            stop,
            runs: JoinSet::new(),
            unrecorded: Vec::new(),
            retries: BTreeMap::new(),
            forget_at: now,
            record_at: now,
            said: String::new(),
        }
    }

    /// Goes round until it is to stop and every run has ended; tells `manager` at least every `beat`.
    pub(super) async fn run(mut self, manager: &impl Manager, beat: Duration) {
        self.catch_up().await;
        loop {
            self.begin_what_may().await;
            self.keep_up().await;
            self.tell(manager);
            if self.stop.is_cancelled() && self.runs.is_empty() && self.docket.all().next().is_none() {
                break;
            }
            let wake = self.next_wake(Instant::now() + beat);
            let stopping = self.stop.is_cancelled();
            tokio::select! {
                biased;
                Some(ended) = self.runs.join_next(), if !self.runs.is_empty() => self.ended(ended).await,
                () = self.stop.cancelled(), if !stopping => {}
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => self.stop.cancel(),
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        // What is still not recorded is closed as interrupted by the next start.
        self.record().await;
        for run in &self.unrecorded {
            say(Level::Error, format_args!("{}; it could not be recorded", words::ended(run)));
        }
    }

    fn next_wake(&self, at_least: Instant) -> Instant {
        let retries = self.retries.values().filter_map(|retry| retry.at);
        let record = (!self.unrecorded.is_empty()).then_some(self.record_at);
        retries.chain(record).chain([self.forget_at]).fold(at_least, Instant::min)
    }

    /// Activates, once each, the jobs whose last run was cut or failed, and those whose schedule missed slots.
    async fn catch_up(&mut self) {
        let specs = self.site.jobs();
        let found = self.ledger(move |runner| {
            let missed = timetable::missed(&runner.ledger, &specs, runner.clock.now())?;
            Ok((runner.ledger.owed()?, missed))
        });
        let (owed, missed) = found.await.unwrap_or_else(|error| {
            say(Level::Error, format_args!("{error:#}"));
            Default::default()
        });
        for job in owed.into_iter().filter(|job| !missed.contains_key(job)) {
            self.activate_by_itself(&job, Trigger::Overdue).await;
        }
        for (job, advance) in missed {
            // What is not started here the scheduler finds once more.
            match self.activate_slot(&job, Trigger::Overdue, advance).await {
                Ok(_) => {}
                Err(Refusal::Internal(error)) => say(Level::Error, format_args!("{error:#}")),
                Err(refusal) => say(Level::Error, format_args!("start {job}: {refusal}")),
            }
        }
    }

    async fn activate_by_itself(&mut self, job: &str, trigger: Trigger) {
        match self.activate(job, trigger, JobOptions::default(), None).await {
            // It is no longer in the configuration, or the service is about to end.
            Ok(_) | Err(Refusal::NotFound(_) | Refusal::Stopping) => {}
            Err(Refusal::Internal(error)) => {
                say(Level::Error, format_args!("{error:#}"));
                self.retry_later(job);
            }
            Err(refusal) => say(Level::Error, format_args!("start {job}: {refusal}")),
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Activate { job, trigger, options, by, reply } => {
                let answer = self.activate(&job, trigger, options, by).await;
                // Whoever asked may have gone.
                drop(reply.send(answer));
            }
            Command::ActivateSlot { job, trigger, advance, reply } => {
                let answer = self.activate_slot(&job, trigger, advance).await;
                drop(reply.send(answer));
            }
            Command::Ask { work, by, reply } => {
                let answer = self.ask(work, by).await;
                drop(reply.send(answer));
            }
            Command::Fail { error, url, by, reply } => {
                let answer = self.fail(error, url, by).await;
                drop(reply.send(answer));
            }
            Command::Cancel { id, reply } => {
                self.cancel(id).await;
                reply.send(()).unwrap_or_default();
            }
            Command::Adopt { site, reply } => {
                self.docket.set_at_once(site.runs_at_once());
                self.site = site;
                self.forget_at = Instant::now();
                reply.send(()).unwrap_or_default();
            }
        }
    }

    async fn activate(
        &mut self,
        job: &str,
        trigger: Trigger,
        options: JobOptions,
        by: Option<String>,
    ) -> Result<Run, Refusal> {
        let spec = self.spec(job)?;
        let of_copies = [("full", options.full), ("scan", options.scan)];
        if let Some((option, _)) = of_copies.into_iter().find(|(_, given)| *given && spec.kind != Kind::Copy) {
            return Err(Refusal::Invalid(format!("`{option}` does not go with {job}: a backup is always full")));
        }
        let scope = Scope::of(trigger);
        if let Some(waiting) = self.docket.waiting_of(job) {
            if let Work::Job { options: of_waiting, scope: scope_of_waiting, .. } = &mut waiting.payload.work {
                of_waiting.full |= options.full;
                of_waiting.scan |= options.scan;
                of_waiting.allow_empty |= options.allow_empty;
                *scope_of_waiting = (*scope_of_waiting).max(scope);
            }
            if trigger != Trigger::Request {
                waiting.payload.live.expect();
            }
            return Ok(waiting.payload.live.view());
        }
        if trigger == Trigger::Change {
            // It was started for what came before this, and takes this as well.
            if let Some(running) = self.docket.running_of(job)
                && self.runner.ledger.is_taken(job)
            {
                return Ok(running.payload.live.view());
            }
            if self.retries.get(job).is_some_and(|retry| retry.at.is_some()) {
                return Err(Refusal::Conflict(format!("{job} failed, and is tried again by itself in a while")));
            }
        }
        let activation = Activation { job: job.to_owned(), kind: spec.kind, trigger, started_by: by, url: None };
        let work = Work::Job { name: job.to_owned(), options, scope };
        let run = self.add(activation, spec.needs(), work).await?;
        self.activated(job);
        Ok(run)
    }

    /// Starts a job for slots of its schedule, and records both together; none if the slots were acted upon already.
    async fn activate_slot(&mut self, job: &str, trigger: Trigger, advance: Advance) -> Result<Option<Run>, Refusal> {
        let spec = self.spec(job)?;
        if let Some(waiting) = self.docket.waiting_of(job) {
            if let Work::Job { scope, .. } = &mut waiting.payload.work {
                *scope = Scope::Everything;
            }
            let (live, job) = (Arc::clone(&waiting.payload.live), job.to_owned());
            let joined = self.ledger(move |runner| runner.ledger.join_slot(&job, &advance)).await;
            return Ok(joined.map_err(Refusal::Internal)?.then(|| {
                live.expect();
                live.view()
            }));
        }
        if self.stop.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        let activation = Activation { job: job.to_owned(), kind: spec.kind, trigger, started_by: None, url: None };
        let added = self.ledger(move |runner| runner.add_of_slot(&activation, &advance)).await;
        let Some(added) = added.map_err(Refusal::Internal)? else { return Ok(None) };
        let work = Work::Job { name: job.to_owned(), options: JobOptions::default(), scope: Scope::Everything };
        let run = self.put(added, spec.needs(), work).await;
        self.activated(job);
        Ok(Some(run))
    }

    fn spec(&self, job: &str) -> Result<JobSpec, Refusal> {
        let mut jobs = self.site.jobs();
        if let Some(at) = jobs.iter().position(|spec| spec.name == job) {
            return Ok(jobs.swap_remove(at));
        }
        let known: Vec<&str> = jobs.iter().map(|spec| spec.name.as_str()).collect();
        Err(Refusal::NotFound(format!("there is no job `{job}`: the jobs are {}", known.join(", "))))
    }

    /// A job has a new run on the docket: nothing else need start it, and what lingers makes way.
    fn activated(&mut self, job: &str) {
        if let Some(retry) = self.retries.get_mut(job) {
            retry.at = None;
        }
        // Not the new one itself, if it has begun.
        if self.docket.waiting_of(job).is_some()
            && let Some(running) = self.docket.running_of(job)
        {
            running.payload.live.hurry.cancel();
        }
    }

    async fn ask(&mut self, work: Work, by: Option<String>) -> Result<Run, Refusal> {
        let (name, kind, needs) = match &work {
            Work::Restore(request) => {
                let replaced = self.site.replaced_by(request)?;
                let repository = replaced.map(|name| (name, super::docket::Access::Replaces));
                if let Some(wanted) = &repository
                    && let Some(other) = self.docket.all().find(|entry| entry.needs.repository.as_ref() == Some(wanted))
                {
                    return Err(Refusal::Conflict(format!(
                        "run {} restores the repository `{}` already: wait until it ends, or cancel it",
                        other.id, wanted.0
                    )));
                }
                ("restore", Kind::Restore, Needs { repository, ..Needs::default() })
            }
            Work::Verify(request) => {
                self.site.check(request)?;
                ("verify", Kind::Verify, Needs::default())
            }
            Work::Export(request) => {
                let repository = Some((request.repository.clone(), super::docket::Access::Reads));
                // One at a time: two might be into one directory.
                (EXPORT, Kind::Backup, Needs { job: Some(EXPORT.to_owned()), repository, ..Needs::default() })
            }
            Work::Job { name, .. } => return Err(Refusal::Invalid(format!("{name} is a job"))),
        };
        let asked_for = |entry: &&Entry<Ticket>| !matches!(entry.payload.work, Work::Job { .. });
        if self.docket.all().filter(asked_for).count() >= ASKED_FOR {
            return Err(Refusal::Conflict(format!(
                "{ASKED_FOR} restores, verifications and exports wait already: ask again when some have ended"
            )));
        }
        let url = self.site.url(&work);
        let activation = Activation { job: name.to_owned(), kind, trigger: Trigger::Request, started_by: by, url };
        self.add(activation, needs, work).await
    }

    /// Records a restore that fails before it begins, as what it asks for cannot be anywhere.
    async fn fail(&mut self, error: String, url: Option<String>, by: Option<String>) -> Result<Run, Refusal> {
        if self.stop.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        let (job, kind) = ("restore".to_owned(), Kind::Restore);
        let activation = Activation { job, kind, trigger: Trigger::Request, started_by: by, url };
        let added = self.ledger(move |runner| runner.add(&activation)).await.map_err(Refusal::Internal)?;
        let live = Arc::new(Live::new(added, self.stop.child_token()));
        self.board.put(Arc::clone(&live));
        let mut run = live.view();
        run.outcome = Some(Outcome::Failed);
        run.finished = Some(self.runner.clock.now());
        "looking for what is to be restored".clone_into(&mut run.progress.message);
        run.error = Some(error);
        run.failure = Some(Failure::Other);
        self.close(&live, run).await;
        Ok(live.view())
    }

    /// Records a run that is asked for, and puts it on the docket.
    async fn add(&mut self, activation: Activation, needs: Needs, work: Work) -> Result<Run, Refusal> {
        if self.stop.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        let added = self.ledger(move |runner| runner.add(&activation)).await.map_err(Refusal::Internal)?;
        Ok(self.put(added, needs, work).await)
    }

    async fn put(&mut self, added: Added, needs: Needs, work: Work) -> Run {
        let live = Arc::new(Live::new(added, self.stop.child_token()));
        let id = live.added.id;
        self.board.put(Arc::clone(&live));
        self.docket.add(Entry { id, needs, payload: Ticket { live: Arc::clone(&live), work } });
        self.begin_what_may().await;
        self.explain_waits();
        live.view()
    }

    async fn cancel(&mut self, id: RunId) {
        let Some(live) = self.board.get(id) else { return };
        live.dismiss();
        if !live.has_begun() {
            self.drop_waiting(id).await;
        }
    }

    /// A run that did not begin ends as it is.
    async fn drop_waiting(&mut self, id: RunId) {
        let Some(entry) = self.docket.end(id) else { return };
        let live = entry.payload.live;
        let mut run = live.view();
        run.outcome = Some(Outcome::Cancelled);
        run.finished = Some(self.runner.clock.now());
        self.close(&live, run).await;
    }

    async fn begin_what_may(&mut self) {
        if self.stop.is_cancelled() {
            let waiting: Vec<RunId> = self.docket.waiting().map(|entry| entry.id).collect();
            for id in waiting {
                self.drop_waiting(id).await;
            }
            return;
        }
        while let Some(entry) = self.docket.begin() {
            let Ticket { live, work } = &entry.payload;
            let (live, work, id) = (Arc::clone(live), work.clone(), entry.id);
            let started = self.runner.clock.now();
            live.begin(started);
            live.report.say("");
            let url = live.added.activation.url.clone();
            let begun = self.ledger(move |runner| runner.ledger.begin_run(id, started, url.as_deref())).await;
            if let Err(error) = begun {
                // Its end will be recorded with everything else, or tell that it was not.
                say(Level::Error, format_args!("{error:#}"));
            }
            let (runner, site) = (self.runner.clone(), Arc::clone(&self.site));
            // From here on, and not from when the run gets to it: what comes in between starts no other run.
            let taking = match &work {
                Work::Job { name, scope: Scope::Pending, .. } => Some(runner.ledger.take_pending(name)),
                _ => None,
            };
            self.runs.spawn(async move {
                let _until_the_end = taking;
                let (added, stop, report) = (live.added.clone(), live.stop.clone(), Arc::clone(&live.report));
                let work = async |run: &_| site.perform(run, &work, &live.hurry).await;
                runner.perform(added, started, stop, report, work).await
            });
        }
    }

    async fn ended(&mut self, ended: Result<Run, tokio::task::JoinError>) {
        let run = match ended {
            Ok(run) => run,
            // The runner catches panics, and nobody aborts runs; the record is closed by the next start.
            Err(error) => return say(Level::Error, format_args!("a run was lost: {error}")),
        };
        let Some(entry) = self.docket.end(run.id) else { return };
        self.close(&entry.payload.live, run).await;
        self.explain_waits();
    }

    /// Says how a run ended, decides whether it is to be tried again, and records it.
    async fn close(&mut self, live: &Live, mut run: Run) {
        let cut = run.outcome == Some(Outcome::Cancelled) && !live.is_dismissed();
        if cut {
            run.error = Some("the service was stopped".to_owned());
        }
        live.end(run.clone());
        let level = match run.outcome {
            Some(Outcome::Failed) => Level::Error,
            Some(Outcome::Partial) => Level::Warning,
            _ => Level::Info,
        };
        say(level, words::ended(&run));
        let is_job = matches!(run.kind, Kind::Copy | Kind::Backup) && run.job != EXPORT;
        let failed = run.outcome == Some(Outcome::Failed) && live.is_expected();
        if is_job && (cut || failed) {
            let job = run.job.clone();
            if let Err(error) = self.ledger(move |runner| runner.ledger.owe(&job)).await {
                say(Level::Error, format_args!("{error:#}"));
            }
        }
        if is_job && failed {
            self.retry_later(&run.job);
        } else if matches!(run.outcome, Some(Outcome::Succeeded | Outcome::Partial)) {
            self.retries.remove(&run.job);
        }
        self.unrecorded.push(run);
        self.record().await;
    }

    fn retry_later(&mut self, job: &str) {
        let retry = self.retries.entry(job.to_owned()).or_insert(Retry { failures: 0, at: None });
        let wait = RETRY.0.saturating_mul(1 << retry.failures.min(16)).min(RETRY.1);
        retry.failures += 1;
        retry.at = Some(Instant::now() + wait);
        say(Level::Info, format_args!("{job} is tried again in {} min", wait.as_secs() / 60));
    }

    /// Records the ends of runs; what cannot be recorded now is tried again.
    async fn record(&mut self) {
        for run in std::mem::take(&mut self.unrecorded) {
            let (id, record) = (run.id, run.clone());
            match self.ledger(move |runner| runner.ledger.end_run(&record)).await {
                Ok(()) => self.board.take(id),
                Err(error) => {
                    say(Level::Error, format_args!("{error:#}; trying again"));
                    self.unrecorded.push(run);
                }
            }
        }
        self.record_at = Instant::now() + RECORD_AGAIN;
    }

    /// Does what has come due by itself.
    async fn keep_up(&mut self) {
        let now = Instant::now();
        if !self.unrecorded.is_empty() && self.record_at <= now {
            self.record().await;
        }
        let due = |retry: &Retry| retry.at.is_some_and(|at| at <= now);
        let due: Vec<String> =
            self.retries.iter().filter(|(_, retry)| due(retry)).map(|(job, _)| job.clone()).collect();
        for job in due {
            if let Some(retry) = self.retries.get_mut(&job) {
                retry.at = None;
            }
            self.activate_by_itself(&job, Trigger::Overdue).await;
        }
        if self.forget_at <= now && !self.stop.is_cancelled() {
            self.forget_at = now + FORGET_EVERY;
            let keep = self.site.history();
            let forgotten = self.ledger(move |runner| {
                let before = runner.clock.now().checked_sub(keep).context("find the end of the history")?;
                runner.ledger.forget_runs(before)
            });
            if let Err(error) = forgotten.await {
                say(Level::Error, format_args!("{error:#}"));
            }
        }
    }

    /// Lets every waiting run say whom it waits for, and whoever is waited for hear of it.
    fn explain_waits(&self) {
        for entry in self.docket.waiting() {
            let words = match self.docket.reason(entry.id) {
                Some(Hindrance::Run(id)) => {
                    self.docket
                        .running()
                        .filter(|other| other.id == id)
                        .for_each(|other| other.payload.live.hurry.cancel());
                    let job = self.docket.all().find(|other| other.id == id).map(|other| &other.payload.live.added);
                    let job = job.map_or("", |added| added.activation.job.as_str());
                    format!("{} for run {id} ({job}) to end", words::WAITING)
                }
                Some(Hindrance::Bound(bound)) => {
                    self.docket.running().for_each(|other| other.payload.live.hurry.cancel());
                    format!("{} until fewer than {bound} runs are under way", words::WAITING)
                }
                None => continue,
            };
            entry.payload.live.report.say(words);
        }
    }

    fn tell(&mut self, manager: &impl Manager) {
        manager.beat();
        let runs: Vec<Run> = self.docket.running().map(|entry| entry.payload.live.view()).collect();
        let words = words::status(&runs, self.docket.waiting().count(), self.stop.is_cancelled());
        if words != self.said {
            manager.status(&words);
            self.said = words;
        }
    }

    /// Uses the ledger on a thread where it may block.
    async fn ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Runner) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let runner = self.runner.clone();
        tokio::task::spawn_blocking(move || work(&runner)).await.context("use the ledger")?
    }
}
