//! The scheduler with the real loop and the real ledger, on a clock that passes when nothing else is to be done.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use holdfast::jobs::context::{Clock, Ended, RunContext};
use holdfast::jobs::restore::RestorePlan;
use holdfast::ledger::{FILE, Ledger};
use holdfast::model::run::{Kind, Outcome, Run, RunFilter, Trigger};
use holdfast::model::schedule::Schedule;
use holdfast::model::slots::Timing;
use holdfast::service::request::{JobOptions, Refusal, RestoreRequest, VerifyRequest};
use holdfast::service::scheduler::{Alarm, follow};
use holdfast::service::site::{JobSpec, Points, Site, Work};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::service_loop::Running;

/// A clock that passes with the timers, and that somebody may set.
#[derive(Debug)]
struct SetClock {
    began: Instant,
    at: Mutex<Timestamp>,
}

impl SetClock {
    fn set(&self, by: SignedDuration) {
        *self.at.lock().unwrap() += by;
    }
}

#[async_trait]
impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.at.lock().unwrap() + SignedDuration::try_from(self.began.elapsed()).unwrap()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// An alarm that does not ring.
struct Silent;

#[async_trait]
impl Alarm for Silent {
    async fn ring(&self, _at: Timestamp) {
        pending::<()>().await;
    }
}

/// An alarm that rings as soon as it is set.
struct Hasty;

#[async_trait]
impl Alarm for Hasty {
    async fn ring(&self, _at: Timestamp) {}
}

/// What becomes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Succeeds,
    Fails,
    Lasts,
}

/// Jobs with schedules that do nothing.
#[derive(Debug)]
struct FakeSite {
    jobs: Vec<JobSpec>,
    at_once: usize,
    fates: Arc<Mutex<BTreeMap<String, Fate>>>,
}

#[async_trait]
impl Site for FakeSite {
    fn jobs(&self) -> Vec<JobSpec> {
        self.jobs.clone()
    }

    fn runs_at_once(&self) -> usize {
        self.at_once
    }

    fn history(&self) -> Duration {
        Duration::from_hours(24 * 365 * 10)
    }

    fn grace(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn replaced_by(&self, _request: &RestoreRequest) -> Result<Option<String>, Refusal> {
        Ok(None)
    }

    fn check(&self, _request: &VerifyRequest) -> Result<(), Refusal> {
        Ok(())
    }

    async fn perform(&self, run: &RunContext, work: &Work, _hurry: &CancellationToken) -> anyhow::Result<Ended> {
        let Work::Job { name, .. } = work else { anyhow::bail!("not a job") };
        let fate = self.fates.lock().unwrap().get(name).copied().unwrap_or(Fate::Succeeds);
        match fate {
            Fate::Succeeds => Ok(Ended::default()),
            Fate::Fails => anyhow::bail!("it failed"),
            Fate::Lasts => {
                run.stop.cancelled().await;
                run.go_on()?;
                Ok(Ended::default())
            }
        }
    }

    async fn plan(&self, _run: &RunContext, _request: &RestoreRequest) -> anyhow::Result<RestorePlan> {
        anyhow::bail!("nothing is planned here")
    }

    async fn points(&self, _ledger: Option<&Ledger>) -> Points {
        Points::default()
    }
}

fn job(name: &str, cron: &str) -> JobSpec {
    with_jitter(name, cron, Duration::ZERO)
}

fn with_jitter(name: &str, cron: &str, jitter: Duration) -> JobSpec {
    let schedule = Schedule::new(cron.parse().unwrap(), TimeZone::get("Europe/Berlin").unwrap());
    unscheduled(name, Some(Timing { schedule, jitter }))
}

fn unscheduled(name: &str, timing: Option<Timing>) -> JobSpec {
    JobSpec {
        name: name.to_owned(),
        kind: Kind::Backup,
        repository: "main".to_owned(),
        destination: "s3".to_owned(),
        timing,
        shard: None,
    }
}

/// A state directory, a clock, and what a configuration says.
struct House {
    directory: TempDir,
    clock: Arc<SetClock>,
    jobs: Vec<JobSpec>,
    at_once: usize,
    fates: Arc<Mutex<BTreeMap<String, Fate>>>,
}

impl House {
    /// In the middle of a Monday morning, with nothing in the ledger.
    fn new(jobs: Vec<JobSpec>) -> Self {
        let at = Mutex::new("2026-03-02T10:05:30Z".parse().unwrap());
        Self {
            directory: TempDir::new().unwrap(),
            clock: Arc::new(SetClock { began: Instant::now(), at }),
            jobs,
            at_once: 4,
            fates: Arc::default(),
        }
    }

    fn site(&self) -> Arc<dyn Site> {
        Arc::new(FakeSite { jobs: self.jobs.clone(), at_once: self.at_once, fates: Arc::clone(&self.fates) })
    }

    fn fate(&self, job: &str, fate: Fate) {
        self.fates.lock().unwrap().insert(job.to_owned(), fate);
    }

    /// Starts the service as `holdfast serve` does.
    fn start(&self) -> Running {
        self.start_with(Silent)
    }

    fn start_with(&self, alarm: impl Alarm + 'static) -> Running {
        let mut running = Running::start(self.directory.path(), self.site(), Arc::clone(&self.clock) as _);
        let (followed, stopped) = (running.daemon.clone(), running.stop.clone());
        running.tasks.spawn(async move { follow(followed, stopped, &alarm).await });
        running
    }

    async fn pass(&self, minutes: u64) {
        self.clock.sleep(Duration::from_mins(minutes)).await;
    }

    /// The runs so far, oldest first.
    fn runs(&self) -> Vec<Run> {
        let ledger = Ledger::open_to_read(self.directory.path()).unwrap().unwrap();
        let mut runs = ledger.runs(&RunFilter::latest(None, 10_000)).unwrap();
        runs.reverse();
        runs
    }

    /// When they began, as `10:30:00`, and why.
    fn begun(&self) -> Vec<(String, Trigger)> {
        let time = |run: &Run| run.started.to_zoned(TimeZone::UTC).strftime("%d %H:%M").to_string();
        self.runs().iter().map(|run| (time(run), run.trigger)).collect()
    }

    /// The same, of those after the first so many.
    fn begun_after(&self, count: usize) -> Vec<(String, Trigger)> {
        self.begun().split_off(count)
    }
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

fn scheduled<const N: usize>(times: [&str; N]) -> Vec<(String, Trigger)> {
    times.map(|time| (time.to_owned(), Trigger::Schedule)).to_vec()
}

fn overdue(time: &str) -> Vec<(String, Trigger)> {
    vec![(time.to_owned(), Trigger::Overdue)]
}

#[tokio::test(start_paused = true)]
async fn each_slot_starts_one_run_and_a_job_without_a_schedule_none() {
    let house = House::new(vec![job("backup.a", "0 0 */2 * * *"), unscheduled("backup.b", None)]);
    let running = house.start();
    house.pass(26 * 60).await;
    let slots: Vec<Timestamp> = house.runs().iter().map(|run| run.started).collect();
    let timing = house.jobs[0].timing.as_ref().unwrap();
    let due: Vec<Timestamp> = timing.schedule.after("2026-03-02T10:05:30Z".parse().unwrap()).take(13).collect();
    assert_eq!(slots.len(), due.len(), "{slots:?}");
    for (begun, slot) in slots.iter().zip(&due) {
        let late = begun.duration_since(*slot);
        assert!(!late.is_negative() && late <= SignedDuration::from_secs(3), "{begun} for {slot}");
    }
    assert!(house.runs().iter().all(|run| run.job == "backup.a" && run.trigger == Trigger::Schedule));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_alarm_that_rings_at_any_time_starts_nothing_too_early_or_twice() {
    let house = House::new(vec![job("backup.a", "0 */20 * * * *"), job("backup.b", "5 0 * * * *")]);
    let running = house.start_with(Hasty);
    house.pass(60).await;
    assert_eq!(house.begun(), scheduled(["02 10:20", "02 10:40", "02 11:00", "02 11:00"]));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_runs_once_at_the_next_start() {
    let house = House::new(vec![job("backup.a", "0 0 * * * *")]);
    let running = house.start();
    house.pass(60).await;
    running.kill().await;
    assert_eq!(house.begun(), scheduled(["02 11:00"]));
    house.clock.set(hours(5));
    let running = house.start();
    house.pass(60).await;
    assert_eq!(house.begun_after(1), [overdue("02 16:05"), scheduled(["02 17:00"])].concat());
    // And not once more at another start.
    running.kill().await;
    let running = house.start();
    house.pass(10).await;
    running.stop().await;
    assert_eq!(house.begun().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_cut_and_slots_that_were_missed_are_one_run() {
    let house = House::new(vec![job("backup.a", "0 0 * * * *")]);
    house.fate("backup.a", Fate::Lasts);
    let running = house.start();
    house.pass(60).await;
    running.kill().await;
    house.clock.set(hours(3));
    house.fate("backup.a", Fate::Succeeds);
    let running = house.start();
    house.pass(30).await;
    running.stop().await;
    assert_eq!(house.begun(), [scheduled(["02 11:00"]), overdue("02 14:05")].concat());
    let outcomes: Vec<_> = house.runs().iter().map(|run| run.outcome).collect();
    assert_eq!(outcomes, [Some(Outcome::Interrupted), Some(Outcome::Succeeded)]);
}

#[tokio::test(start_paused = true)]
async fn a_kill_between_the_record_of_a_slot_and_its_run_neither_loses_nor_doubles_it() {
    let mut house = House::new(vec![job("backup.a", "0 0 * * * *"), job("backup.b", "0 1 * * * *")]);
    house.at_once = 1;
    house.fate("backup.a", Fate::Lasts);
    let running = house.start();
    house.pass(60).await;
    // The second waits for the first, with its slot acted upon.
    let waiting = running.daemon.status().await.unwrap().waiting;
    assert_eq!(waiting.iter().map(|run| run.job.as_str()).collect::<Vec<_>>(), ["backup.b"]);
    running.kill().await;
    house.fate("backup.a", Fate::Succeeds);
    let running = house.start();
    house.pass(30).await;
    running.stop().await;
    let after: Vec<_> = house.runs().into_iter().skip(2).map(|run| (run.job, run.trigger, run.outcome)).collect();
    let succeeded = |job: &str| (job.to_owned(), Trigger::Overdue, Some(Outcome::Succeeded));
    assert_eq!(after, [succeeded("backup.a"), succeeded("backup.b")]);
}

#[tokio::test(start_paused = true)]
async fn a_kill_at_any_moment_leaves_each_slot_with_one_run() {
    let house = House::new(vec![job("backup.a", "0 */5 * * * *")]);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..25 {
        let running = house.start();
        let seconds = random.u64(1..600);
        // Not at whole seconds only, and with whatever is under way on other threads.
        tokio::time::sleep(Duration::from_millis(seconds * 1000 + random.u64(0..1000))).await;
        for _ in 0..random.u32(0..40) {
            tokio::task::yield_now().await;
        }
        running.kill().await;
    }
    let running = house.start();
    house.pass(1).await;
    running.stop().await;
    // Every run that was cut was made up for, and no slot has two that succeeded.
    let runs = house.runs();
    let good: Vec<Timestamp> =
        runs.iter().filter(|run| run.outcome == Some(Outcome::Succeeded)).map(|run| run.activated).collect();
    let timing = house.jobs[0].timing.as_ref().unwrap();
    let mut slots = timing.schedule.after("2026-03-02T10:05:30Z".parse().unwrap()).peekable();
    for (number, run) in good.iter().enumerate() {
        let mut acted_upon = 0;
        while slots.next_if(|slot| slot <= run).is_some() {
            acted_upon += 1;
        }
        let by_cut = runs.iter().any(|other| other.outcome == Some(Outcome::Interrupted) && other.activated <= *run);
        assert!(acted_upon > 0 || by_cut, "run {number} at {run} acts upon nothing: {runs:#?}");
    }
    assert!(slots.next().unwrap() > house.clock.now(), "a slot has no run");
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_runs_what_it_passed_once() {
    let house = House::new(vec![job("backup.a", "0 0 * * * *")]);
    let running = house.start();
    house.pass(10).await;
    house.clock.set(hours(5));
    house.pass(1).await;
    assert_eq!(house.begun(), scheduled(["02 15:15"]));
    house.pass(60).await;
    assert_eq!(house.begun_after(1), scheduled(["02 16:00"]));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_repeats_nothing_and_loses_nothing() {
    let house = House::new(vec![job("backup.a", "0 0 * * * *")]);
    let running = house.start();
    house.pass(120).await;
    assert_eq!(house.begun(), scheduled(["02 11:00", "02 12:00"]));
    house.clock.set(hours(-2));
    house.pass(118).await;
    assert_eq!(house.begun().len(), 2, "these had their runs");
    let next = running.daemon.status().await.unwrap().jobs[0].next_run;
    assert_eq!(next, Some("2026-03-02T13:00:00Z".parse().unwrap()));
    house.pass(60).await;
    assert_eq!(house.begun_after(2), scheduled(["02 13:00"]));
    // Forward again, as somebody was wrong.
    house.clock.set(hours(2));
    house.pass(1).await;
    assert_eq!(house.begun_after(3), scheduled(["02 15:03"]));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_a_year_ahead_silences_nobody() {
    let house = House::new(vec![job("backup.a", "0 0 * * * *")]);
    house.clock.set(hours(24 * 365));
    let running = house.start();
    house.pass(60).await;
    assert_eq!(house.runs().len(), 1);
    house.clock.set(hours(-24 * 365));
    house.pass(120).await;
    assert_eq!(house.begun_after(1), scheduled(["02 12:00", "02 13:00"]));
    running.stop().await;
    // And the same with a service that was not there while the clock was set.
    house.clock.set(hours(-24 * 365));
    let running = house.start();
    house.pass(60).await;
    assert_eq!(house.begun_after(3), scheduled(["02 14:00"]));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_for_a_moment_after_the_start_changes_nothing() {
    let house = House::new(vec![job("backup.a", "0 0 * * * *")]);
    let running = house.start();
    house.pass(60).await;
    running.kill().await;
    // The battery is empty.
    house.clock.set(hours(-24 * 365 * 50));
    let running = house.start();
    house.clock.sleep(Duration::from_secs(40)).await;
    house.clock.set(hours(24 * 365 * 50));
    house.pass(30).await;
    assert_eq!(house.begun(), scheduled(["02 11:00"]));
    house.pass(30).await;
    assert_eq!(house.begun_after(1), scheduled(["02 12:00"]));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_configuration_is_followed_at_once_and_starts_nothing_by_itself() {
    let mut house = House::new(vec![job("backup.a", "0 0 * * * *"), job("backup.b", "0 50 * * * *")]);
    let running = house.start();
    house.pass(60).await;
    assert_eq!(house.begun(), scheduled(["02 10:50", "02 11:00"]));
    // Every hour at 02, which was 3 minutes ago; and the other one no more.
    house.jobs = vec![job("backup.a", "0 2,20 * * * *"), unscheduled("backup.b", None)];
    running.daemon.adopt(house.site()).await.unwrap();
    house.pass(50).await;
    assert_eq!(house.begun_after(2), scheduled(["02 11:20"]));
    // Back again: what was in between does not concern it.
    house.jobs = vec![job("backup.a", "0 2,20 * * * *"), job("backup.b", "0 50 * * * *")];
    running.daemon.adopt(house.site()).await.unwrap();
    house.pass(5).await;
    assert_eq!(house.begun().len(), 3);
    house.pass(10).await;
    assert_eq!(house.begun_after(3), scheduled(["02 12:02"]));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_former_schedule_missed_while_the_service_was_down_is_made_up_for() {
    let mut house = House::new(vec![job("backup.a", "0 0 * * * *"), job("backup.b", "0 0 20 * * *")]);
    let running = house.start();
    house.pass(10).await;
    running.kill().await;
    house.clock.set(hours(3));
    house.jobs = vec![job("backup.a", "0 30 2 * * *"), job("backup.b", "0 0 12 * * *")];
    let running = house.start();
    house.pass(60).await;
    let runs = house.runs();
    assert_eq!(
        runs.iter().map(|run| (run.job.as_str(), run.trigger)).collect::<Vec<_>>(),
        [("backup.a", Trigger::Overdue)]
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_joins_the_run_that_waits_already_and_has_it_tried_again() {
    let mut house = House::new(vec![job("backup.a", "0 0 * * * *"), unscheduled("backup.b", None)]);
    house.at_once = 1;
    house.fate("backup.b", Fate::Lasts);
    house.fate("backup.a", Fate::Fails);
    let running = house.start();
    let first = running.daemon.start("backup.b", JobOptions::default(), None).await.unwrap();
    let asked = running.daemon.start("backup.a", JobOptions::default(), None).await.unwrap();
    house.pass(60).await;
    let status = running.daemon.status().await.unwrap();
    assert_eq!(status.waiting.iter().map(|run| run.id).collect::<Vec<_>>(), [asked.id]);
    running.daemon.cancel(first.id).await.unwrap();
    house.clock.sleep(Duration::from_secs(1)).await;
    house.fate("backup.a", Fate::Succeeds);
    house.pass(2).await;
    let of_job: Vec<_> = house.runs().into_iter().filter(|run| run.job == "backup.a").collect();
    assert_eq!(
        of_job.iter().map(|run| (run.trigger, run.outcome)).collect::<Vec<_>>(),
        [(Trigger::Request, Some(Outcome::Failed)), (Trigger::Overdue, Some(Outcome::Succeeded)),]
    );
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn jitter_spreads_the_starts_and_a_restart_keeps_them() {
    let jobs: Vec<JobSpec> =
        (0..6).map(|number| with_jitter(&format!("backup.{number}"), "0 0 * * * *", Duration::from_mins(30))).collect();
    let house = House::new(jobs);
    let running = house.start();
    house.pass(1).await;
    let planned = |status: holdfast::service::status::Status| -> Vec<Timestamp> {
        status.jobs.iter().map(|job| job.next_run.unwrap()).collect()
    };
    let starts = planned(running.daemon.status().await.unwrap());
    running.kill().await;
    let running = house.start();
    house.pass(1).await;
    assert_eq!(planned(running.daemon.status().await.unwrap()), starts);
    let slot: Timestamp = "2026-03-02T11:00:00Z".parse().unwrap();
    assert!(starts.iter().all(|start| (slot..=slot + SignedDuration::from_mins(30)).contains(start)), "{starts:?}");
    assert!(starts.iter().any(|start| start != &starts[0]), "{starts:?}");
    house.pass(85).await;
    let mut runs: Vec<_> = house.runs().into_iter().map(|run| (run.job, run.started)).collect();
    runs.sort();
    assert_eq!(runs.len(), 6);
    for ((job, begun), start) in runs.iter().zip(&starts) {
        let late = begun.duration_since(*start);
        assert!(!late.is_negative() && late <= SignedDuration::from_secs(3), "{job} at {begun} for {start}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_written_for_a_while_loses_no_slot() {
    let house = House::new(vec![job("backup.a", "0 0 * * * *")]);
    let running = house.start();
    house.pass(30).await;
    let ledger = Connection::open(house.directory.path().join(FILE)).unwrap();
    ledger.execute_batch("ALTER TABLE slots RENAME TO elsewhere").unwrap();
    house.pass(60).await;
    assert_eq!(house.runs(), []);
    ledger.execute_batch("ALTER TABLE elsewhere RENAME TO slots").unwrap();
    house.pass(1).await;
    assert_eq!(house.begun(), scheduled(["02 11:35"]));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_the_schedule_and_the_next_run() {
    let house = House::new(vec![job("backup.a", "30 2 * * *"), unscheduled("backup.b", None)]);
    let running = house.start();
    house.pass(1).await;
    let jobs = running.daemon.status().await.unwrap().jobs;
    let shown = |at: usize| (jobs[at].schedule.as_deref(), jobs[at].timezone.as_deref(), jobs[at].next_run);
    let next = "2026-03-03T01:30:00Z".parse().unwrap();
    assert_eq!(shown(0), (Some("30 2 * * *"), Some("Europe/Berlin"), Some(next)));
    assert_eq!(shown(1), (None, None, None));
    running.stop().await;
}
