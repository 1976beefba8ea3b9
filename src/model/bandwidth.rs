//! How many bytes a second may pass at which time of the week.
//!
//! A timetable is a list of rules, of which the first that fits holds; where none fits there is no limit. Times are those
//! on the face of the clock of a zone: where a clock is put forward or back, a rule holds while the clock shows its times,
//! however long that is.

use std::fmt;
use std::num::NonZeroU64;

use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;

/// A time of day, in whole minutes; the end of the day is one, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// 00:00, with which a day begins.
    pub const BEGIN: Self = Self(0);
    /// 24:00, with which it ends.
    pub const END: Self = Self(24 * 60);

    /// A time from 00:00 to 24:00.
    pub fn new(hour: u8, minute: u8) -> Option<Self> {
        let time = Self(u16::from(hour) * 60 + u16::from(minute));
        (minute < 60 && time <= Self::END).then_some(time)
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// Days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(u8);

/// How days are called, from Monday on.
const NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

impl Days {
    /// Every day.
    pub const ALL: Self = Self(0b111_1111);
    /// No day; others are added to it.
    pub const NONE: Self = Self(0);

    /// These and, from `first` to `last`, those in between; after Sunday comes Monday.
    #[must_use]
    pub fn with(self, first: Weekday, last: Weekday) -> Self {
        let (mut days, mut day) = (self.0, first);
        loop {
            days |= bit(day);
            if day == last {
                return Self(days);
            }
            day = day.next();
        }
    }

    /// Whether a day is one of them.
    pub fn contains(self, day: Weekday) -> bool {
        self.0 & bit(day) != 0
    }

    /// A day by its name in English, whole or its first three letters.
    pub fn named(text: &str) -> Option<Weekday> {
        const WHOLE: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
        let text = text.to_ascii_lowercase();
        let number = WHOLE.iter().position(|whole| *whole == text || whole[..3] == text)?;
        Some(Weekday::Monday.wrapping_add(i8::try_from(number).expect("there are seven")))
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

/// `every day`, `Mon-Fri`, `Sat, Sun`.
impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("every day");
        }
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for day in (0..NAMES.len()).filter(|day| self.0 & (1 << day) != 0) {
            match spans.last_mut() {
                Some((_, last)) if *last + 1 == day => *last = day,
                _ => spans.push((day, day)),
            }
        }
        let named = |(first, last): &(usize, usize)| match last - first {
            0 => NAMES[*first].to_owned(),
            1 => format!("{}, {}", NAMES[*first], NAMES[*last]),
            _ => format!("{}-{}", NAMES[*first], NAMES[*last]),
        };
        f.write_str(&spans.iter().map(named).collect::<Vec<_>>().join(", "))
    }
}

/// A limit, and when it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Bytes a second; none for any number of them.
    pub limit: Option<NonZeroU64>,
    /// From this time of day.
    pub from: TimeOfDay,
    /// Until this one; of the next day if it is not later.
    pub to: TimeOfDay,
    /// On these days; over midnight, the day counts on which it began.
    pub days: Days,
}

impl Rule {
    /// A limit that always holds.
    pub const fn always(limit: Option<NonZeroU64>) -> Self {
        Self { limit, from: TimeOfDay::BEGIN, to: TimeOfDay::END, days: Days::ALL }
    }

    /// Whether there is no time at which it does not hold.
    pub fn is_always(&self) -> bool {
        *self == Self::always(self.limit)
    }

    fn holds(&self, day: Weekday, time: TimeOfDay) -> bool {
        if self.from < self.to {
            return self.days.contains(day) && (self.from..self.to).contains(&time);
        }
        self.days.contains(day) && self.from <= time || self.days.contains(day.previous()) && time < self.to
    }
}

/// `Mon-Fri 08:00-18:00`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.from == TimeOfDay::BEGIN && self.to == TimeOfDay::END;
        if whole { self.days.fmt(f) } else { write!(f, "{} {}-{}", self.days, self.from, self.to) }
    }
}

/// What may pass, and when; the default is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// The first that fits holds.
    pub rules: Vec<Rule>,
    /// Whose clock is meant.
    pub zone: TimeZone,
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self { rules: Vec::new(), zone: TimeZone::UTC }
    }
}

impl Bandwidth {
    /// The bytes that may pass in a second at this moment; none for any number.
    pub fn limit_at(&self, now: Timestamp) -> Option<NonZeroU64> {
        let first = self.rules.first()?;
        if first.is_always() {
            return first.limit;
        }
        let local = self.zone.to_datetime(now);
        let minute = |number: i8| u16::try_from(number).unwrap_or_default();
        let time = TimeOfDay(minute(local.hour()) * 60 + minute(local.minute()));
        self.rules.iter().find(|rule| rule.holds(local.weekday(), time))?.limit
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn time(text: &str) -> TimeOfDay {
        let (hour, minute) = text.split_once(':').unwrap();
        TimeOfDay::new(hour.parse().unwrap(), minute.parse().unwrap()).unwrap()
    }

    fn rule(limit: u64, from: &str, to: &str, days: Days) -> Rule {
        Rule { limit: NonZeroU64::new(limit), from: time(from), to: time(to), days }
    }

    fn workdays() -> Days {
        Days::NONE.with(Weekday::Monday, Weekday::Friday)
    }

    fn berlin(rules: Vec<Rule>) -> Bandwidth {
        Bandwidth { rules, zone: TimeZone::get("Europe/Berlin").unwrap() }
    }

    #[track_caller]
    fn check(bandwidth: &Bandwidth, cases: &[(&str, u64)]) {
        for (moment, limit) in cases {
            let found = bandwidth.limit_at(moment.parse().unwrap());
            assert_eq!(found, NonZeroU64::new(*limit), "{moment}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_holds_and_without_one_there_is_no_limit() {
        let office = rule(5, "08:00", "18:00", workdays());
        let cases = [
            // Monday; in winter Berlin is an hour before UTC.
            ("2026-11-23T06:59:59Z", 9),
            ("2026-11-23T07:00:00Z", 5),
            ("2026-11-23T16:59:59.999Z", 5),
            ("2026-11-23T17:00:00Z", 9),
            ("2026-11-28T11:00:00Z", 9),
        ];
        check(&berlin(vec![office, Rule::always(NonZeroU64::new(9))]), &cases);
        check(&berlin(vec![office]), &cases.map(|(moment, limit)| (moment, if limit == 9 { 0 } else { limit })));
        check(&berlin(vec![Rule::always(NonZeroU64::new(9)), office]), &cases.map(|(moment, _)| (moment, 9)));
        check(
            &berlin(vec![Rule { limit: None, ..office }, Rule::always(NonZeroU64::new(5))]),
            &[("2026-11-23T07:00:00Z", 0), ("2026-11-23T17:00:00Z", 5)],
        );
        check(&Bandwidth::default(), &[("2026-11-23T07:00:00Z", 0)]);
    }

    #[test]
    fn over_midnight_the_day_counts_on_which_it_began() {
        let night = berlin(vec![rule(7, "22:00", "06:00", workdays())]);
        check(
            &night,
            &[
                // Friday evening to Saturday morning.
                ("2026-11-27T20:59:00Z", 0),
                ("2026-11-27T21:00:00Z", 7),
                ("2026-11-28T04:59:00Z", 7),
                ("2026-11-28T05:00:00Z", 0),
                ("2026-11-28T21:30:00Z", 0),
                // Monday morning began on Sunday.
                ("2026-11-30T03:00:00Z", 0),
                ("2026-12-01T03:00:00Z", 7),
            ],
        );
    }

    #[test]
    fn where_the_clock_is_put_forward_what_it_skips_is_left_out() {
        // At 02:00 it shows 03:00.
        let narrow = berlin(vec![rule(7, "02:00", "03:00", Days::ALL)]);
        check(
            &narrow,
            &[
                ("2026-03-28T01:30:00Z", 7),
                ("2026-03-29T00:59:59Z", 0),
                ("2026-03-29T01:00:00Z", 0),
                ("2026-03-30T00:30:00Z", 7),
            ],
        );
        let wide = berlin(vec![rule(7, "02:30", "04:00", Days::ALL)]);
        check(&wide, &[("2026-03-29T00:59:59Z", 0), ("2026-03-29T01:00:00Z", 7), ("2026-03-29T02:00:00Z", 0)]);
    }

    #[test]
    fn where_the_clock_is_put_back_what_it_shows_twice_counts_twice() {
        // At 03:00 it shows 02:00 again.
        let narrow = berlin(vec![rule(7, "02:15", "02:45", Days::ALL)]);
        check(
            &narrow,
            &[
                ("2026-10-25T00:14:59Z", 0),
                ("2026-10-25T00:15:00Z", 7),
                ("2026-10-25T00:45:00Z", 0),
                ("2026-10-25T01:15:00Z", 7),
                ("2026-10-25T01:45:00Z", 0),
            ],
        );
    }

    #[test]
    fn a_week_has_as_many_hours_of_a_rule_as_its_clock_shows() {
        let night = berlin(vec![rule(7, "22:00", "06:00", Days::ALL)]);
        for (begin, hours) in [("2026-03-23", 55), ("2026-07-06", 56), ("2026-10-19", 57)] {
            let monday: Timestamp = format!("{begin}T10:00:00Z").parse().unwrap();
            let minutes = (0..7 * 24 * 60).map(|minute| monday + SignedDuration::from_mins(minute));
            let held = minutes.filter(|moment| night.limit_at(*moment).is_some()).count();
            assert_eq!(held, hours * 60, "{begin}");
        }
    }

    #[test]
    fn days_are_named_and_shown() {
        use Weekday::{Friday, Monday, Saturday, Sunday, Wednesday};
        for (days, shown) in [
            (workdays(), "Mon-Fri"),
            (Days::NONE.with(Saturday, Sunday), "Sat, Sun"),
            (Days::NONE.with(Friday, Monday), "Mon, Fri-Sun"),
            (Days::NONE.with(Monday, Monday).with(Wednesday, Wednesday), "Mon, Wed"),
            (Days::NONE.with(Wednesday, Wednesday.previous()), "every day"),
        ] {
            assert_eq!(days.to_string(), shown);
        }
        for (text, day) in
            [("Mon", Some(Monday)), ("sunday", Some(Sunday)), ("FRI", Some(Friday)), ("Mo", None), ("", None)]
        {
            assert_eq!(Days::named(text), day, "{text}");
        }
        assert_eq!(rule(1, "08:00", "24:00", workdays()).to_string(), "Mon-Fri 08:00-24:00");
        assert_eq!(rule(1, "00:00", "24:00", workdays()).to_string(), "Mon-Fri");
    }

    #[test]
    fn a_day_ends_at_24_00() {
        assert_eq!(TimeOfDay::new(24, 0), Some(TimeOfDay::END));
        for (hour, minute) in [(24, 1), (25, 0), (0, 60)] {
            assert_eq!(TimeOfDay::new(hour, minute), None, "{hour}:{minute}");
        }
    }
}
