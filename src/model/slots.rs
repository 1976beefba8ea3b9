//! Which slots of a schedule are due: decided from what was acted upon already, and the time.
//!
//! A [`SlotMark`] says that every slot up to a moment was acted upon, so each is acted upon once, whatever the clock
//! does and however often the process is started. Those that were missed are acted upon together, by one run.
//!
//! What the clock may do: when it is **set forward**, the slots that it passes were missed. When it is **set back**,
//! the slots that it shows again were acted upon, and the next one is the first after the mark. Only if the mark lies
//! further ahead than [`TRUSTED_AHEAD`], and for longer than [`PATIENCE`] (a machine without a battery starts in 1970
//! and learns the time a little later), the mark was made by a clock that was wrong, and the schedule goes on from
//! the moment at which that was noticed: a clock that was a year ahead silences nobody for a year.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::schedule::Schedule;

/// How far ahead of the clock a mark may lie: the clock was set back by a day at most, which people and zones do.
pub const TRUSTED_AHEAD: SignedDuration = SignedDuration::from_hours(24);
/// How long a clock may be further back than that before it is believed.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// When a job is to run, and how far its starts are spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Its slots.
    pub schedule: Schedule,
    /// A run starts up to this much later than its slot.
    pub jitter: Duration,
}

/// How far the slots of a job have been acted upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotMark {
    /// The schedule, as it was written.
    pub schedule: String,
    /// The name of its time zone.
    pub timezone: String,
    /// Every slot up to here was acted upon, or was before there was the schedule.
    pub done: Timestamp,
    /// Makes the delays of this job others than those of the same job elsewhere.
    pub seed: i64,
}

/// Slots that are acted upon: those after one mark, up to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The mark as it was when this was decided.
    pub from: SlotMark,
    /// The mark as it is to be.
    pub to: SlotMark,
}

/// What is to be done for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until then; none if there are no more slots.
    Wait(Option<Timestamp>),
    /// A run, with which the slots are acted upon.
    Run(Advance),
    /// Only the mark: the schedule is new.
    Mark(SlotMark),
}

impl Timing {
    /// The mark of a schedule that begins now: what was before does not concern it.
    pub fn begin(&self, seed: i64, now: Timestamp) -> SlotMark {
        SlotMark {
            schedule: self.schedule.text().to_owned(),
            timezone: self.schedule.timezone().to_owned(),
            done: now,
            seed,
        }
    }

    /// Whether a mark is one of this schedule.
    pub fn is_of(&self, mark: &SlotMark) -> bool {
        mark.schedule == self.schedule.text() && mark.timezone == self.schedule.timezone()
    }

    /// When the run of a slot starts: by whole seconds later, but before the next slot; always the same.
    pub fn start(&self, slot: Timestamp, seed: i64) -> Timestamp {
        let until_next = self.schedule.next(slot).map_or(u64::MAX, |next| seconds_between(slot, next) - 1);
        let most = self.jitter.as_secs().min(until_next);
        let delay = scale(mix(seed.cast_unsigned() ^ mix(slot.as_second().cast_unsigned())), most);
        i64::try_from(delay)
            .ok()
            .and_then(|delay| slot.checked_add(SignedDuration::from_secs(delay)).ok())
            .unwrap_or(slot)
    }

    /// When a run starts next, if it is not due already.
    pub fn next_start(&self, mark: &SlotMark, now: Timestamp) -> Option<Timestamp> {
        let acted_upon = self.started(mark.seed, now).map_or(mark.done, |started| started.max(mark.done));
        let slot = self.schedule.next(acted_upon)?;
        Some(self.start(slot, mark.seed))
    }

    /// What is to be done now for a job with this mark; `former` is the schedule that the mark is of, if it is
    /// another one and can still be read. A job without a mark gets one with `seed`.
    pub fn step(&self, mark: Option<&SlotMark>, former: Option<&Schedule>, seed: i64, now: Timestamp) -> Step {
        let Some(mark) = mark else { return Step::Mark(self.begin(seed, now)) };
        if !self.is_of(mark) {
            // What the former schedule still had to do is done; of this one all that was before it is not.
            let begun = self.begin(mark.seed, now);
            let missed = former.and_then(|former| former.last(now)).is_some_and(|slot| slot > mark.done);
            return if missed { run(mark, begun) } else { Step::Mark(begun) };
        }
        match self.started(mark.seed, now) {
            Some(slot) if slot > mark.done => run(mark, SlotMark { done: slot, ..mark.clone() }),
            _ => Step::Wait(self.next_start(mark, now)),
        }
    }

    /// The last slot whose run has started by now, or should have.
    fn started(&self, seed: i64, now: Timestamp) -> Option<Timestamp> {
        let slot = self.schedule.last(now)?;
        if self.start(slot, seed) <= now {
            return Some(slot);
        }
        // Its start is before the next slot, so that of the one before it has been.
        self.schedule.last(slot.checked_sub(SignedDuration::from_nanos(1)).ok()?)
    }
}

/// Watches whether the clock is so far behind a mark that the mark cannot be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubt(Option<(Timestamp, Duration)>);

impl Doubt {
    /// Looks at the clock; `uptime` goes on steadily, whatever the clock does. Gives the moment from which the
    /// schedule goes on, once it is certain that the mark is wrong.
    pub fn look(&mut self, done: Timestamp, now: Timestamp, uptime: Duration) -> Option<Timestamp> {
        if done.duration_since(now) <= TRUSTED_AHEAD {
            self.0 = None;
            return None;
        }
        match self.0 {
            Some((noticed, since)) if noticed <= now => {
                let certain = uptime.saturating_sub(since) >= PATIENCE;
                certain.then(|| {
                    self.0 = None;
                    noticed
                })
            }
            // It was set back once more.
            _ => {
                self.0 = Some((now, uptime));
                None
            }
        }
    }

    /// Whether the clock is in doubt.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

fn run(from: &SlotMark, to: SlotMark) -> Step {
    Step::Run(Advance { from: from.clone(), to })
}

fn seconds_between(slot: Timestamp, next: Timestamp) -> u64 {
    u64::try_from(next.duration_since(slot).as_secs()).unwrap_or(1).max(1)
}

/// Splitmix64: spreads neighbouring numbers over all of them.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number spread over 0 to `most`.
fn scale(number: u64, most: u64) -> u64 {
    let scaled = (u128::from(number) * (u128::from(most) + 1)) >> 64;
    u64::try_from(scaled).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn timing(cron: &str, jitter: u64) -> Timing {
        let schedule = Schedule::new(cron.parse().unwrap(), TimeZone::get("Europe/Berlin").unwrap());
        Timing { schedule, jitter: Duration::from_secs(jitter) }
    }

    fn moment(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const NOW: &str = "2026-03-02T10:05:00Z";

    #[test]
    fn a_job_that_never_ran_is_not_overdue() {
        let timing = timing("0 0 * * * *", 0);
        let Step::Mark(mark) = timing.step(None, None, 7, moment(NOW)) else { panic!() };
        assert_eq!((mark.done, mark.seed), (moment(NOW), 7));
        let next = moment("2026-03-02T11:00:00Z");
        assert_eq!(timing.step(Some(&mark), None, 0, moment(NOW)), Step::Wait(Some(next)));
        assert_eq!(timing.step(Some(&mark), None, 0, next), run(&mark, SlotMark { done: next, ..mark.clone() }));
    }

    #[test]
    fn slots_that_were_missed_are_one_run() {
        let timing = timing("0 0 * * * *", 0);
        let mark = timing.begin(0, moment("2026-03-01T10:05:00Z"));
        let Step::Run(Advance { from, to }) = timing.step(Some(&mark), None, 0, moment(NOW)) else { panic!() };
        assert_eq!((from, to.done), (mark, moment("2026-03-02T10:00:00Z")));
        assert_eq!(timing.step(Some(&to), None, 0, moment(NOW)), Step::Wait(Some(moment("2026-03-02T11:00:00Z"))));
    }

    #[test]
    fn another_schedule_begins_now_and_what_the_former_one_missed_is_made_up_for() {
        let (former, timing) = (timing("0 30 2 * * *", 0), timing("0 0 4 * * *", 0));
        // Acted upon last night: nothing is due because somebody wrote 4 for 2.
        let acted_upon = former.begin(3, moment("2026-03-02T01:30:00Z"));
        let begun = timing.begin(3, moment(NOW));
        let step = |mark, former| timing.step(Some(mark), former, 9, moment(NOW));
        assert_eq!(step(&acted_upon, Some(&former.schedule)), Step::Mark(begun.clone()));
        let missed = former.begin(3, moment("2026-03-01T20:00:00Z"));
        assert_eq!(step(&missed, Some(&former.schedule)), run(&missed, begun.clone()));
        // A schedule that can no longer be read owes nothing.
        assert_eq!(step(&missed, None), Step::Mark(begun));
    }

    #[test]
    fn jitter_delays_a_start_and_neither_loses_nor_joins_slots() {
        let timing = timing("0 */10 * * * *", 3600);
        let slots: Vec<Timestamp> = timing.schedule.after(moment(NOW)).take(200).collect();
        let delays: BTreeSet<u64> =
            slots.iter().map(|slot| seconds_between(*slot, timing.start(*slot, 5)) % 600).collect();
        assert!(
            slots.iter().all(|slot| (*slot..*slot + SignedDuration::from_mins(10)).contains(&timing.start(*slot, 5)))
        );
        assert!(delays.len() > 100, "{delays:?}");
        assert!(slots.iter().any(|slot| timing.start(*slot, 5) != timing.start(*slot, 6)), "two machines differ");
        // What was missed starts at once, and the slot whose delay is not over keeps its own run.
        let slot = *slots.iter().find(|slot| timing.start(**slot, 5) > **slot + SECOND).unwrap();
        let mark = timing.begin(5, slot - SignedDuration::from_hours(3));
        let Step::Run(Advance { to: missed, .. }) = timing.step(Some(&mark), None, 0, slot + SECOND) else { panic!() };
        assert_eq!(missed.done, slot - SignedDuration::from_mins(10));
        let start = timing.start(slot, 5);
        assert_eq!(timing.step(Some(&missed), None, 0, slot + SECOND), Step::Wait(Some(start)));
        let Step::Run(Advance { to: own, .. }) = timing.step(Some(&missed), None, 0, start) else { panic!() };
        assert_eq!(own.done, slot);
    }

    const SECOND: SignedDuration = SignedDuration::from_secs(1);

    #[test]
    fn a_mark_that_is_far_ahead_is_doubted_after_a_while() {
        let (now, mut doubt) = (moment(NOW), Doubt::default());
        let hours = |hours| now + SignedDuration::from_hours(hours);
        let seconds = Duration::from_secs;
        assert_eq!(doubt.look(hours(24), now, seconds(0)), None);
        assert!(!doubt.is_some(), "the clock was set back by a day");
        // The year is wrong for a moment.
        assert_eq!(doubt.look(hours(9000), now, seconds(10)), None);
        assert!(doubt.is_some());
        assert_eq!(doubt.look(hours(9000), hours(9001), seconds(30)), None);
        assert!(!doubt.is_some());
        // And for good.
        assert_eq!(doubt.look(hours(9000), now, seconds(40)), None);
        assert_eq!(doubt.look(hours(9000), hours(-1), seconds(50)), None, "set back once more");
        assert_eq!(doubt.look(hours(9000), hours(0), seconds(109)), None);
        assert_eq!(doubt.look(hours(9000), hours(0), seconds(110)), Some(hours(-1)));
    }

    /// What happens to a machine.
    #[derive(Clone, Debug)]
    enum Event {
        Passes(i64),
        Jumps(i64),
        Restarts(i64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => (0_i64..3_000).prop_map(Event::Passes),
            2 => (-20 * 3600_i64..10 * 3600).prop_map(Event::Jumps),
            1 => (0_i64..50_000).prop_map(Event::Restarts),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Whatever the clock does within a day, and however often the process is started: no slot is acted upon
        /// twice, and none that the clock has passed is left out.
        #[test]
        fn each_slot_is_acted_upon_once(
            events in proptest::collection::vec(event(), 1..40),
            cron in prop_oneof![Just("0 */10 * * * *"), Just("0 30 2 * * *"), Just("0 0 */6 * * *")],
            jitter in prop_oneof![Just(0_u64), 1_u64..2_000],
            begin in 1_772_000_000_i64..1_800_000_000,
        ) {
            let timing = timing(cron, jitter);
            let begin = Timestamp::from_second(begin).unwrap();
            let (mut now, mut uptime, mut latest) = (begin, Duration::ZERO, begin);
            let mut doubt = Doubt::default();
            let Step::Mark(mut mark) = timing.step(None, None, 1, now) else { panic!() };
            let mut acted_upon = BTreeSet::new();
            let (mut due, mut next_due) = (0, timing.schedule.next(begin).unwrap());
            for event in events {
                match event {
                    Event::Passes(seconds) => {
                        now += SignedDuration::from_secs(seconds);
                        uptime += Duration::from_secs(seconds.unsigned_abs());
                    }
                    // Never so far that the mark is doubted.
                    Event::Jumps(seconds) => {
                        now = (now + SignedDuration::from_secs(seconds)).max(latest - SignedDuration::from_hours(23));
                    }
                    Event::Restarts(seconds) => {
                        now += SignedDuration::from_secs(seconds);
                        doubt = Doubt::default();
                    }
                }
                latest = latest.max(now);
                prop_assert_eq!(doubt.look(mark.done, now, uptime), None);
                let mut runs = 0;
                loop {
                    match timing.step(Some(&mark), None, 0, now) {
                        Step::Run(Advance { to: next, .. }) => {
                            prop_assert!(next.done <= now);
                            for slot in timing.schedule.after(mark.done).take_while(|slot| *slot <= next.done) {
                                prop_assert!(acted_upon.insert(slot), "{} twice", slot);
                            }
                            mark = next;
                            runs += 1;
                        }
                        Step::Wait(next) => {
                            prop_assert!(next.unwrap() > now, "what is due is not waited for");
                            break;
                        }
                        Step::Mark(_) => prop_assert!(false, "the mark is of this schedule"),
                    }
                }
                prop_assert!(runs <= 1, "what was missed is one run");
                while timing.start(next_due, mark.seed) <= latest {
                    due += 1;
                    next_due = timing.schedule.next(next_due).unwrap();
                }
                prop_assert_eq!(acted_upon.len(), due);
            }
        }

        /// Whatever the clock did, after a while the schedule goes on with its next slot.
        #[test]
        fn no_jump_silences_a_schedule(
            ahead in 0_i64..100_000_000, begin in 1_772_000_000_i64..1_800_000_000,
        ) {
            let timing = timing("0 0 * * * *", 0);
            let now = Timestamp::from_second(begin).unwrap();
            let mut mark = timing.begin(0, now + SignedDuration::from_secs(ahead));
            let mut doubt = Doubt::default();
            for minute in 0..3 {
                let passed = SignedDuration::from_mins(minute);
                if let Some(from) = doubt.look(mark.done, now + passed, passed.unsigned_abs()) {
                    mark.done = from;
                }
            }
            let later = now + SignedDuration::from_mins(3);
            let Some(next) = timing.next_start(&mark, later) else { panic!() };
            prop_assert!(next <= later + SignedDuration::from_hours(26), "{} at {}", next, later);
        }
    }
}
