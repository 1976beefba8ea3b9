//! When a job is to run: a cron expression, read on the clocks of a time zone.
//!
//! A slot is a moment at which the job is due. Where the clocks of the zone are not changed, slots are the times that
//! the expression names, each once. Where they are, these rules hold:
//!
//! * **Put forward**, the clock skips times. A time that it skips is due at the first moment after the gap; however
//!   many it skips, and whether that moment is named itself or not, this is one slot. So nothing is left out.
//! * **Put back**, the clock shows times twice. A time that it shows twice is due at the first of them, and only then.
//!   The exception are expressions that name every hour of the day (`*` for the hour): these say how often something
//!   is done, and go on as the time passes; otherwise a copy every ten minutes would rest for an hour.
//!
//! `systemd-analyze calendar` has none of the times that are skipped, and only the first of those shown twice; cron
//! does as is done here, but for what it calls wildcard jobs it leaves out what is skipped.
//!
//! The zone's rules come with it; nothing here looks for them.

use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use super::cron::CronExpression;

/// When a job is to run; clones are cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    cron: CronExpression,
    zone: TimeZone,
}

/// A stretch of time in which the clocks of a zone are not changed.
struct Steady {
    /// How far the clocks are before UTC.
    offset: Offset,
    /// The change that it begins with, and how far the clocks were before UTC until then.
    from: Option<(Timestamp, Offset)>,
    /// The change that it ends with.
    until: Option<Timestamp>,
}

const SECOND: SignedDuration = SignedDuration::from_secs(1);

impl Schedule {
    /// The times that an expression names in a zone, which has a name.
    pub fn new(cron: CronExpression, zone: TimeZone) -> Self {
        Self(Arc::new(Inner { cron, zone }))
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        self.0.cron.text()
    }

    /// The name of the zone.
    pub fn timezone(&self) -> &str {
        self.0.zone.iana_name().unwrap_or("UTC")
    }

    /// A moment on the clocks of the zone.
    pub fn in_zone(&self, moment: Timestamp) -> Zoned {
        moment.to_zoned(self.0.zone.clone())
    }

    /// The slots after a moment, in order.
    pub fn after(&self, moment: Timestamp) -> impl Iterator<Item = Timestamp> {
        std::iter::successors(self.next(moment), |slot| self.next(*slot))
    }

    /// The first slot after a moment; none when the calendar ends.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut at = whole_seconds(after)?.checked_add(SECOND).ok()?;
        loop {
            let steady = self.steady(at);
            if let Some((from, before)) = steady.from
                && from == at
                && self.names_one_in(before.to_datetime(from), steady.offset.to_datetime(from))
            {
                return Some(from);
            }
            let begin = steady.offset.to_datetime(at).max(self.first_of(&steady).unwrap_or(DateTime::MIN));
            let slot = steady.offset.to_timestamp(self.0.cron.at_or_after(begin)?).ok()?;
            match steady.until {
                Some(until) if until <= slot => at = until,
                _ => return Some(slot),
            }
        }
    }

    /// The last slot at or before a moment; none when the calendar has not begun.
    pub fn last(&self, at: Timestamp) -> Option<Timestamp> {
        let mut at = whole_seconds(at)?;
        loop {
            let steady = self.steady(at);
            let first = self.first_of(&steady);
            // Nothing is named in it if it is over before it begins, having repeated an hour for less than that.
            if let Some(named) = self.0.cron.at_or_before(steady.offset.to_datetime(at))
                && first.is_none_or(|first| first <= named)
            {
                return steady.offset.to_timestamp(named).ok();
            }
            let (from, before) = steady.from?;
            if self.names_one_in(before.to_datetime(from), steady.offset.to_datetime(from)) {
                return Some(from);
            }
            at = from.checked_sub(SECOND).ok()?;
        }
    }

    /// Whether a time from `begin` until before `end` is named; there are none if the clock was put back.
    fn names_one_in(&self, begin: DateTime, end: DateTime) -> bool {
        begin < end && self.0.cron.at_or_after(begin).is_some_and(|named| named < end)
    }

    /// The first time of day in a stretch at which something can be due; the clock may have shown others before.
    fn first_of(&self, steady: &Steady) -> Option<DateTime> {
        let (from, before) = steady.from?;
        let begin = steady.offset.to_datetime(from);
        Some(if self.0.cron.is_every_hour() { begin } else { begin.max(before.to_datetime(from)) })
    }

    fn steady(&self, at: Timestamp) -> Steady {
        let zone = &self.0.zone;
        // The change at this very moment counts as past.
        let last = at.checked_add(SECOND).ok().and_then(|next| zone.preceding(next).next());
        let from = last.and_then(|change| {
            let before = change.timestamp().checked_sub(SECOND).ok()?;
            Some((change.timestamp(), zone.to_offset(before)))
        });
        Steady { offset: zone.to_offset(at), from, until: zone.following(at).next().map(|change| change.timestamp()) }
    }
}

/// Slots and changes of clocks are at whole seconds.
fn whole_seconds(moment: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(moment.as_nanosecond().div_euclid(1_000_000_000).try_into().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(cron: &str, zone: &str) -> Schedule {
        Schedule::new(cron.parse().unwrap(), TimeZone::get(zone).unwrap())
    }

    fn moment(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The slots after a moment as the clocks of the zone show them, with the hours before UTC.
    fn shown(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = schedule(cron, zone);
        let slots = schedule.after(moment(after)).take(count);
        slots.map(|slot| schedule.in_zone(slot).strftime("%d %H:%M:%S%:z").to_string()).collect()
    }

    #[test]
    fn a_slot_in_a_skipped_hour_is_right_after_the_gap() {
        assert_eq!(
            shown("0 30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            ["28 02:30:00+01:00", "29 03:00:00+02:00", "30 02:30:00+02:00"]
        );
        // However many are skipped, and even if that moment has one of its own: it is one.
        assert_eq!(
            shown("0 */20 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 4),
            ["29 03:00:00+02:00", "29 03:20:00+02:00", "29 03:40:00+02:00", "30 02:00:00+02:00"]
        );
        assert_eq!(
            shown("0 30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3),
            ["29 01:30:00+01:00", "29 03:00:00+02:00", "29 03:30:00+02:00"]
        );
        // Of a day that Samoa did not have.
        assert_eq!(
            shown("0 0 9 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 2),
            ["31 00:00:00+14:00", "30 09:00:00+14:00"]
        );
    }

    #[test]
    fn a_slot_in_a_repeated_hour_comes_once_unless_every_hour_has_its_own() {
        assert_eq!(
            shown("0 30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["25 02:30:00+02:00", "26 02:30:00+01:00"]
        );
        assert_eq!(
            shown("0 */30 2,3 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 5),
            ["25 02:00:00+02:00", "25 02:30:00+02:00", "25 03:00:00+01:00", "25 03:30:00+01:00", "26 02:00:00+01:00"]
        );
        assert_eq!(
            shown("0 */30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", 6),
            [
                "25 02:00:00+02:00",
                "25 02:30:00+02:00",
                "25 02:00:00+01:00",
                "25 02:30:00+01:00",
                "25 03:00:00+01:00",
                "25 03:30:00+01:00"
            ]
        );
        // Lord Howe changes by half an hour.
        assert_eq!(
            shown("0 45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00Z", 2),
            ["05 01:45:00+11:00", "06 01:45:00+10:30"]
        );
    }

    #[test]
    fn a_moment_in_the_middle_of_the_repeated_hour_is_no_exception() {
        let nightly = schedule("0 30 2 * * *", "Europe/Berlin");
        // 02:10 for the second time, then 02:45 for the second time.
        for at in ["2026-10-25T01:10:00Z", "2026-10-25T01:45:00Z"] {
            assert_eq!(nightly.last(moment(at)), Some(moment("2026-10-25T00:30:00Z")), "{at}");
            assert_eq!(nightly.next(moment(at)), Some(moment("2026-10-26T01:30:00Z")), "{at}");
        }
        assert_eq!(nightly.last(moment("2026-10-25T00:29:59.999Z")), Some(moment("2026-10-24T00:30:00Z")));
        assert_eq!(nightly.next(moment("2026-10-25T00:29:59.999Z")), Some(moment("2026-10-25T00:30:00Z")));
        let skipped = moment("2026-03-29T01:00:00Z");
        assert_eq!(nightly.last(skipped), Some(skipped));
        assert_eq!(nightly.next(moment("2026-03-29T00:59:59Z")), Some(skipped));
        assert_eq!(nightly.next(skipped), Some(moment("2026-03-30T00:30:00Z")));
    }

    #[test]
    fn a_schedule_shows_what_it_was_made_of() {
        let schedule = schedule("@daily", "europe/berlin");
        assert_eq!((schedule.text(), schedule.timezone()), ("@daily", "Europe/Berlin"));
        assert_eq!(shown("@daily", "UTC", "2026-01-01T00:00:00Z", 1), ["02 00:00:00+00:00"]);
    }

    #[test]
    fn at_the_ends_of_time_there_is_nothing() {
        let schedule = schedule("@daily", "Europe/Berlin");
        assert_eq!(schedule.next(Timestamp::MAX), None);
        assert_eq!(schedule.last(Timestamp::MIN), None);
    }

    const ZONES: [&str; 8] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Pacific/Apia",
        "Africa/Casablanca",
    ];
    const CRONS: [&str; 10] = [
        "0 */10 * * * *",
        "0 30 * * * *",
        "0 30 2 * * *",
        "0 0 0 * * *",
        "0 15,45 1-3 * * *",
        "*/20 0 2 * * *",
        "0 0 */2 * * *",
        "0 30 1 * * SUN",
        "0 0 3 1 * *",
        "0 */15 23,0 * * *",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// Against the rules as the head of this file has them, tried out step by step.
        #[test]
        fn slots_are_what_the_rules_say(zone in 0..ZONES.len(), cron in 0..CRONS.len(), change in 0_usize..40) {
            let schedule = schedule(CRONS[cron], ZONES[zone]);
            let zone = &schedule.0.zone;
            // There are some that change nothing.
            let is_change = |at: &Timestamp| zone.to_offset(*at) != zone.to_offset(*at - SECOND);
            let all = zone.following(moment("2009-01-01T00:00:00Z")).map(|change| change.timestamp());
            let at = all.filter(is_change).nth(change);
            let at = at.unwrap_or_else(|| moment("2026-03-29T01:00:00Z"));
            let hours = |hours| SignedDuration::from_hours(hours);
            let (from, until) = (at - hours(5), at + hours(5));
            let mut expected = Vec::new();
            let mut moment = from;
            let mut latest = DateTime::MIN;
            while moment < until {
                let time = zone.to_datetime(moment);
                let names = |time| schedule.0.cron.at_or_after(time) == Some(time);
                let before = zone.to_datetime(moment - SignedDuration::from_secs(20)) + SignedDuration::from_secs(20);
                let skipped = std::iter::successors(Some(before), |time| Some(*time + SignedDuration::from_secs(20)));
                let is_first = latest < time || schedule.0.cron.is_every_hour();
                if names(time) && is_first || skipped.take_while(|skipped| *skipped < time).any(names) {
                    expected.push(moment);
                }
                latest = latest.max(time);
                moment += SignedDuration::from_secs(20);
            }
            let found: Vec<Timestamp> = schedule.after(from - SECOND).take_while(|slot| *slot < until).collect();
            prop_assert_eq!(&found, &expected);
            // And backwards.
            let back = std::iter::successors(schedule.last(until - SECOND), |slot| schedule.last(*slot - SECOND));
            let mut back: Vec<Timestamp> = back.take_while(|slot| *slot >= from).collect();
            back.reverse();
            prop_assert_eq!(&back, &expected);
        }

        #[test]
        fn nothing_lies_between_the_last_and_the_next(
            zone in 0..ZONES.len(), cron in 0..CRONS.len(), at in 1_000_000_000_000_i64..3_000_000_000_000,
        ) {
            let schedule = schedule(CRONS[cron], ZONES[zone]);
            let at = Timestamp::from_millisecond(at).unwrap();
            let (last, next) = (schedule.last(at).unwrap(), schedule.next(at).unwrap());
            prop_assert!(last <= at && at < next);
            prop_assert_eq!(schedule.next(last), Some(next));
            prop_assert_eq!(schedule.last(next - SECOND), Some(last));
            prop_assert_eq!(schedule.last(next), Some(next));
        }
    }
}
