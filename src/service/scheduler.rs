//! Starts jobs when their schedules say so.
//!
//! What is due is decided by `timetable` from the ledger and the clock, whenever we look; what
//! makes us look decides nothing. So a wake-up that is early, late, doubled or missing changes no more than the
//! moment of a start. Shortly before a slot an `Alarm` is set, which `tokio-cron-scheduler` rings, and a timer of
//! our own goes off a little later in case it does not. Otherwise we look every half minute, as
//! the clock may be set and the machine may sleep. The crate wakes up twice a second for as long as it runs, which is
//! all that an idle service is allowed; that is why it runs only shortly before a slot.
//!
//! Faults of the crate that stay with it: its zones are frozen (it is given moments in UTC), its jobs may stop (our
//! timer does not), it forgets what it missed (the ledger does not), it starts things twice or in another order (the
//! mark in the ledger moves once), and it cannot be ended (it lives in a runtime of its own, which can).

mod alarm;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use alarm::{Alarm, CronAlarm};

use super::daemon::Daemon;
use super::journal::{Level, say};
use super::request::Refusal;
use super::site::Site;
use super::timetable::{self, Line};
use crate::ledger::Ledger;
use crate::model::run::Trigger;
use crate::model::slots::{Doubt, SlotMark, Step};

/// How often we look without a reason: a clock that was set is noticed after this at the latest.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long before a start the alarm is set.
const NEAR: Duration = Duration::from_secs(3);
/// How long after a start we look if the alarm does not ring.
const LATE: Duration = Duration::from_secs(2);
/// How long until we look again after something did not work.
const AGAIN: Duration = Duration::from_secs(5);
/// A clock that is off by more was set, or the machine slept; by less, the timers were inexact.
const SET: SignedDuration = SignedDuration::from_secs(10);

/// Starts the jobs of the daemon by their schedules until `stop` fires.
pub async fn run(daemon: Daemon, stop: CancellationToken) -> anyhow::Result<()> {
    follow(daemon, stop, &CronAlarm).await;
    Ok(())
}

/// Starts the jobs of the daemon by their schedules, woken by `alarm` or without it, until `stop` fires.
pub async fn follow(daemon: Daemon, stop: CancellationToken, alarm: &impl Alarm) {
    let clock = Arc::clone(daemon.clock());
    let mut sites = daemon.sites();
    let mut scheduler = Scheduler::new(daemon);
    let mut rung = None;
    loop {
        let site = Arc::clone(&sites.borrow_and_update());
        let looked = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            looked = scheduler.look(&*site) => looked,
        };
        let (near, wait) = looked.wait();
        // It rings once for a start: if that was too early, the timer is left.
        let near = near.filter(|at| rung != Some(*at));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // It does not end before the daemon does.
            Ok(()) = sites.changed() => {}
            () = ring(alarm, near) => rung = near,
            () = clock.sleep(wait) => {}
        }
    }
}

async fn ring(alarm: &impl Alarm, at: Option<Timestamp>) {
    match at {
        Some(at) => alarm.ring(at).await,
        None => std::future::pending().await,
    }
}

/// What a look at the schedules showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looked {
    /// When that was.
    now: Timestamp,
    /// When a job starts next.
    next: Option<Timestamp>,
    /// Whether something is left to do that could not be done now.
    again: bool,
}

impl Looked {
    /// For which start the alarm is set, and after what time we look without it.
    fn wait(self) -> (Option<Timestamp>, Duration) {
        let most = if self.again { AGAIN } else { LOOK_EVERY };
        let Some(next) = self.next else { return (None, most) };
        let until = next.duration_since(self.now).unsigned_abs();
        if until <= NEAR {
            (Some(next), (until + LATE).min(most))
        } else {
            (None, until.saturating_sub(NEAR).min(most))
        }
    }
}

struct Scheduler {
    daemon: Daemon,
    began: Instant,
    /// The clock and the uptime when we last looked.
    looked: Option<(Timestamp, Duration)>,
    doubts: BTreeMap<String, Doubt>,
    /// What was wrong when we last looked, which is said once.
    wrong: Option<String>,
}

impl Scheduler {
    fn new(daemon: Daemon) -> Self {
        Self { daemon, began: Instant::now(), looked: None, doubts: BTreeMap::new(), wrong: None }
    }

    /// Does what is due.
    async fn look(&mut self, site: &dyn Site) -> Looked {
        let now = self.daemon.clock().now();
        match self.act(site, now).await {
            Ok((next, again)) => {
                if self.wrong.take().is_some() {
                    say(Level::Info, "the schedules are followed again");
                }
                Looked { now, next, again }
            }
            Err(error) => {
                let error = format!("{error:#}");
                if self.wrong.as_ref() != Some(&error) {
                    say(Level::Error, format_args!("follow the schedules: {error}; trying again"));
                }
                self.wrong = Some(error);
                Looked { now, next: None, again: true }
            }
        }
    }

    async fn act(&mut self, site: &dyn Site, now: Timestamp) -> anyhow::Result<(Option<Timestamp>, bool)> {
        let uptime = self.began.elapsed();
        // What is due at the first look was missed while nobody looked.
        let trigger = if self.looked.is_none() { Trigger::Overdue } else { Trigger::Schedule };
        self.notice_set_clock(now, uptime);
        let specs = site.jobs();
        let lines = self.ledger(move |ledger| {
            let scheduled = specs.iter().filter(|spec| spec.timing.is_some()).map(|spec| spec.name.clone());
            ledger.keep_slot_marks(&scheduled.collect())?;
            timetable::lines(ledger, &specs, now)
        });
        let lines = lines.await?;
        let (mut next, mut again, mut failed) = (None, false, None);
        for line in lines {
            match self.act_on(line, trigger, now, uptime).await {
                Ok(Some(of_job)) => next = next.into_iter().chain(of_job).min(),
                Ok(None) => again = true,
                // The other jobs are not to wait for this one.
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.looked = Some((now, uptime));
        Ok((next, again))
    }

    /// Does what one job's schedule asks for; gives when it asks for something next, and nothing if that cannot be
    /// known before it is looked at anew.
    async fn act_on(
        &mut self,
        line: Line,
        trigger: Trigger,
        now: Timestamp,
        uptime: Duration,
    ) -> anyhow::Result<Option<Option<Timestamp>>> {
        let Line { job, timing, mark, step } = line;
        let mark = match (step, mark) {
            (Step::Wait(next), Some(mark)) => {
                let doubt = self.doubts.entry(job.clone()).or_default();
                let Some(from) = doubt.look(mark.done, now, uptime) else { return Ok(Some(next)) };
                say(
                    Level::Warning,
                    format_args!("the clock was ahead until {}: the schedule of {job} goes on from {from}", mark.done),
                );
                let mark = SlotMark { done: from, ..mark };
                self.set_mark(&job, &mark).await?;
                return Ok(None);
            }
            (Step::Wait(next), None) => return Ok(Some(next)),
            (Step::Mark(mark), _) => {
                self.set_mark(&job, &mark).await?;
                mark
            }
            (Step::Run(advance), _) => {
                let to = advance.to.clone();
                match self.daemon.activate_slot(&job, trigger, advance).await {
                    Ok(Some(_)) => to,
                    // Another mark, another configuration, or the end: the next look will know.
                    Ok(None) | Err(Refusal::NotFound(_) | Refusal::Stopping) => return Ok(None),
                    Err(Refusal::Internal(error)) => return Err(error),
                    Err(refusal) => return Err(refusal).with_context(|| format!("start {job}")),
                }
            }
        };
        Ok(Some(timing.next_start(&mark, now)))
    }

    async fn set_mark(&self, job: &str, mark: &SlotMark) -> anyhow::Result<()> {
        let (job, mark) = (job.to_owned(), mark.clone());
        self.ledger(move |ledger| ledger.set_slot_mark(&job, &mark)).await
    }

    /// Says that the clock was set, which explains what comes.
    fn notice_set_clock(&self, now: Timestamp, uptime: Duration) {
        let Some((then, uptime_then)) = self.looked else { return };
        let passed = SignedDuration::try_from(uptime.saturating_sub(uptime_then)).unwrap_or_default();
        let set = now.duration_since(then) - passed;
        if set > SET {
            say(Level::Info, format_args!("the clock was set forward by {set:#}, or the machine slept"));
        } else if set < -SET {
            let back = -set;
            say(Level::Info, format_args!("the clock was set back by {back:#}: what ran already does not run again"));
        }
    }

    /// Uses the ledger on a thread where it may block.
    async fn ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Ledger) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let ledger = Arc::clone(self.daemon.ledger());
        tokio::task::spawn_blocking(move || work(&ledger)).await.context("use the ledger")?
    }
}
