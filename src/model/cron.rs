//! Cron expressions: which times on the face of a clock they name. Of zones and their changes they know nothing.
//!
//! Five fields (minute, hour, day of month, month, day of week), or six with the seconds first, or a word such as
//! `@daily`. If both days are given, a day that fits either is meant, as cron has always done. The crate reads more
//! than it says and some of what it reads is nonsense (`1JAN` is November to it), so every field is looked at before.

use std::fmt;
use std::str::FromStr;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;

/// A cron expression that names a time again and again.
#[derive(Clone)]
pub struct CronExpression {
    text: String,
    cron: Cron,
    every_hour: bool,
}

/// A text is not a cron expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCron {
    /// It has another number of fields.
    #[error("`{text}` has {found}, and a schedule has five or six")]
    Fields {
        /// The text.
        text: String,
        /// How many fields it has, in words.
        found: String,
    },
    /// It begins with `@`, and goes on with a word that is not known.
    #[error("`{0}` is no schedule")]
    Word(String),
    /// One of its fields cannot be read.
    #[error("`{text}` is no {}", field.name)]
    Field {
        /// The text of the field.
        text: String,
        /// Which one it is.
        field: &'static Field,
    },
    /// There is no such day.
    #[error("`{0}` never comes: no day fits it")]
    Never(String),
}

/// One of the six fields.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// What it is called.
    pub name: &'static str,
    /// The least and the largest number.
    range: (u16, u16),
    /// What may stand for the numbers.
    names: &'static [&'static str],
    example: &'static str,
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

static FIELDS: [Field; 6] = [
    Field { name: "second", range: (0, 59), names: &[], example: "`*/10`" },
    Field { name: "minute", range: (0, 59), names: &[], example: "`*/10`" },
    Field { name: "hour", range: (0, 23), names: &[], example: "`*/6`" },
    Field { name: "day of the month", range: (1, 31), names: &[], example: "`*/2`, `L` for the last" },
    Field { name: "month", range: (1, 12), names: &MONTHS, example: "`*/3`, `JAN`" },
    Field {
        name: "day of the week",
        range: (0, 7),
        names: &DAYS,
        example: "`SUN`, `FRI#2` for the second, `FRIL` for the last",
    },
];

const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 0 * * * *"),
    ("@daily", "0 0 0 * * *"),
    ("@midnight", "0 0 0 * * *"),
    ("@weekly", "0 0 0 * * 0"),
    ("@monthly", "0 0 0 1 * *"),
    ("@yearly", "0 0 0 1 1 *"),
    ("@annually", "0 0 0 1 1 *"),
];

/// The calendar comes round after 400 years, to the day of the week; what is not in these never comes.
const ROUND: DateTime = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);

impl CronExpression {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it names every hour of a day, and so says how often something is done rather than when.
    pub fn is_every_hour(&self) -> bool {
        self.every_hour
    }

    /// The first time that it names at or after `from`, to the second.
    pub fn at_or_after(&self, from: DateTime) -> Option<DateTime> {
        // The error says that the calendar ends.
        self.cron.find_next_occurrence(&from, true).ok()
    }

    /// The last time that it names at or before `until`, to the second.
    pub fn at_or_before(&self, until: DateTime) -> Option<DateTime> {
        self.cron.find_previous_occurrence(&until, true).ok()
    }
}

impl FromStr for CronExpression {
    type Err = InvalidCron;

    fn from_str(text: &str) -> Result<Self, InvalidCron> {
        let upper = text.trim().to_ascii_uppercase();
        let pattern = match WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(&upper)) {
            Some((_, pattern)) => (*pattern).to_owned(),
            None if upper.starts_with('@') => return Err(InvalidCron::Word(text.to_owned())),
            None => upper,
        };
        let mut fields: Vec<&str> = pattern.split_whitespace().collect();
        match fields.len() {
            5 => fields.insert(0, "0"),
            6 => {}
            found => {
                let found = if found == 1 { "one field".to_owned() } else { format!("{found} fields") };
                return Err(InvalidCron::Fields { text: text.to_owned(), found });
            }
        }
        for (at, (text, field)) in fields.iter_mut().zip(&FIELDS).enumerate() {
            if !field.is_sound(text) || parse(&alone(at, text)).is_none() {
                return Err(InvalidCron::Field { text: (*text).to_owned(), field });
            }
            // To the crate only `*` leaves the day to the other field.
            if *text == "*/1" {
                *text = "*";
            }
        }
        let never = || InvalidCron::Never(text.to_owned());
        let cron = parse(&fields.join(" ")).ok_or_else(never)?;
        let every_hour = cron.pattern.hours.values().len() == 24;
        let parsed = Self { text: text.to_owned(), cron, every_hour };
        parsed.at_or_after(ROUND).map(|_| ()).ok_or_else(never)?;
        Ok(parsed)
    }
}

/// A pattern in which one field alone can be wrong.
fn alone(at: usize, text: &str) -> String {
    let mut fields = ["*"; 6];
    fields[at] = text;
    fields.join(" ")
}

fn parse(pattern: &str) -> Option<Cron> {
    CronParser::builder().seconds(Seconds::Required).year(Year::Disallowed).build().parse(pattern).ok()
}

impl Field {
    fn is_days(&self) -> bool {
        self.range == (1, 31)
    }

    fn is_weekdays(&self) -> bool {
        self.range == (0, 7)
    }

    /// Whether it is made of what belongs here; ranges and their order are left to the crate.
    fn is_sound(&self, text: &str) -> bool {
        let text = text.strip_prefix('+').filter(|_| self.is_weekdays()).unwrap_or(text);
        text.split(',').all(|part| {
            let (values, step) = part.split_once('/').map_or((part, None), |(values, step)| (values, Some(step)));
            values.split(['-', '#']).all(|value| self.is_value(value)) && step.is_none_or(|step| self.is_step(step))
        })
    }

    fn is_value(&self, text: &str) -> bool {
        let plain = |text: &str| is_number(text) || self.names.contains(&text);
        match text {
            "*" => true,
            "?" => self.is_days() || self.is_weekdays(),
            "L" | "LW" => self.is_days(),
            _ if self.is_days() => is_number(text.strip_suffix('W').unwrap_or(text)),
            _ if self.is_weekdays() => plain(text.strip_suffix('L').unwrap_or(text)),
            _ => plain(text),
        }
    }

    /// A step beyond the range is a mistake: `*/90` minutes would be every hour.
    fn is_step(&self, text: &str) -> bool {
        let most = self.range.1 - self.range.0 + 1;
        is_number(text) && text.parse().is_ok_and(|step: u16| (1..=most).contains(&step))
    }
}

fn is_number(text: &str) -> bool {
    (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

impl InvalidCron {
    /// What to write instead.
    pub fn way_out(&self) -> String {
        let words = || WORDS.map(|(word, _)| word).join(", ");
        match self {
            Self::Fields { .. } => format!(
                "write minute, hour, day of month, month, day of week, such as \"30 2 * * *\"; the second may stand \
                 first, such as \"0 30 2 * * *\"; or one of {}",
                words()
            ),
            Self::Word(_) => format!("write one of {}, or fields such as \"0 30 2 * * *\"", words()),
            Self::Field { field, .. } => {
                let (least, most) = field.range;
                let example = field.example;
                format!(
                    "write `*` or {least} to {most}, a list `{least},{}`, a range `{least}-{}`, or {example}",
                    least + 1,
                    least + 5
                )
            }
            Self::Never(_) => "choose a day that there is, such as \"0 30 2 28 2 *\"".to_owned(),
        }
    }
}

impl fmt::Debug for CronExpression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The crate's own has a flag for each of 5,000 years.
        f.debug_tuple("CronExpression").field(&self.text).finish()
    }
}

impl PartialEq for CronExpression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CronExpression {}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::*;

    use super::*;

    fn cron(text: &str) -> CronExpression {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn time(text: &str) -> DateTime {
        text.parse().unwrap()
    }

    #[test]
    fn five_fields_begin_at_the_second_0_and_words_stand_for_fields() {
        for (text, next) in [
            ("30 2 * * *", "2026-01-01T02:30:00"),
            ("0 30 2 * * *", "2026-01-01T02:30:00"),
            ("15 30 2 * * *", "2026-01-01T02:30:15"),
            ("*/10 * * * *", "2026-01-01T00:10:00"),
            ("*/10 * * * * *", "2026-01-01T00:00:10"),
            ("@hourly", "2026-01-01T01:00:00"),
            ("@daily", "2026-01-02T00:00:00"),
            ("@Midnight", "2026-01-02T00:00:00"),
            ("@weekly", "2026-01-04T00:00:00"),
            ("@monthly", "2026-02-01T00:00:00"),
            ("@yearly", "2027-01-01T00:00:00"),
            ("@annually", "2027-01-01T00:00:00"),
            ("0 0 5 * * Sun", "2026-01-04T05:00:00"),
            ("0 0 5 * * 7", "2026-01-04T05:00:00"),
            ("0 0 5 * feb mon-fri", "2026-02-02T05:00:00"),
            ("0 0 0 L * ?", "2026-01-31T00:00:00"),
            ("0 0 0 LW * *", "2026-01-30T00:00:00"),
            ("0 0 0 ? * FRI#2", "2026-01-09T00:00:00"),
            ("0 0 0 ? * 5L", "2026-01-30T00:00:00"),
            // Either day, as cron does; with `+` both.
            ("0 0 0 13 * FRI", "2026-01-02T00:00:00"),
            ("0 0 0 13 * +FRI", "2026-02-13T00:00:00"),
            ("0 0 0 */1 * MON", "2026-01-05T00:00:00"),
            ("0 0 0 29 2 *", "2028-02-29T00:00:00"),
        ] {
            assert_eq!(cron(text).at_or_after(time("2026-01-01T00:00:01")), Some(time(next)), "{text}");
        }
        assert_eq!(cron("30 2 * * *").text(), "30 2 * * *");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_says_which_field() {
        for (text, error) in [
            ("", "`` has 0 fields, and a schedule has five or six"),
            ("hourly", "`hourly` has one field, and a schedule has five or six"),
            ("* * * *", "`* * * *` has 4 fields, and a schedule has five or six"),
            ("0 0 0 1 1 * 2030", "`0 0 0 1 1 * 2030` has 7 fields, and a schedule has five or six"),
            ("@reboot", "`@reboot` is no schedule"),
            ("@daily 5", "`@daily 5` is no schedule"),
            ("60 * * * * *", "`60` is no second"),
            ("0 61 * * * *", "`61` is no minute"),
            ("*/90 * * * *", "`*/90` is no minute"),
            ("*/0 * * * *", "`*/0` is no minute"),
            ("0 24 * * *", "`24` is no hour"),
            ("0 5-2 * * *", "`5-2` is no hour"),
            ("0 1,,2 * * *", "`1,,2` is no hour"),
            ("0 0 32 * *", "`32` is no day of the month"),
            ("0 0 0 * *", "`0` is no day of the month"),
            ("0 0 * 13 *", "`13` is no month"),
            ("0 0 * 1JAN *", "`1JAN` is no month"),
            ("0 JAN * * *", "`JAN` is no hour"),
            ("0 0 * * 8", "`8` is no day of the week"),
            ("0 0 * * SUNMON", "`SUNMON` is no day of the week"),
            ("0 0 * * L", "`L` is no day of the week"),
            ("0 0 * * MON#6", "`MON#6` is no day of the week"),
            ("0/10 * * * *", "`0/10` is no minute"),
            ("0 0 30 2 *", "`0 0 30 2 *` never comes: no day fits it"),
            ("0 0 31 4,6,9,11 *", "`0 0 31 4,6,9,11 *` never comes: no day fits it"),
            ("0 0 30W 2 *", "`0 0 30W 2 *` never comes: no day fits it"),
        ] {
            let refused = text.parse::<CronExpression>().expect_err(text);
            assert_eq!(refused.to_string(), error);
            assert!(!refused.way_out().is_empty());
        }
    }

    fn field(least: u16, most: u16) -> impl Strategy<Value = String> {
        prop_oneof![
            2 => Just("*".to_owned()),
            2 => (least..=most).prop_map(|value| value.to_string()),
            1 => (1..=most - least).prop_map(|step| format!("*/{step}")),
            1 => (least..=most, least..=most).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
            1 => proptest::collection::vec(least..=most, 1..4).prop_map(|list| {
                list.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// Against going through every second there is.
        #[test]
        fn the_next_and_the_last_are_those_that_a_walk_second_by_second_finds(
            second in field(0, 59), minute in field(0, 59), hour in field(0, 23), day in 0..5_000, start in 0..86_400,
        ) {
            let cron = cron(&format!("{second} {minute} {hour} * * *"));
            let pattern = &cron.cron.pattern;
            let (seconds, minutes, hours) = (pattern.seconds.values(), pattern.minutes.values(), pattern.hours.values());
            let fits = |second: i32| {
                let second = u32::try_from(second.rem_euclid(86_400)).unwrap();
                let has = |values: &[u16], value: u32| values.contains(&u16::try_from(value).unwrap());
                has(&seconds, second % 60) && has(&minutes, second / 60 % 60) && has(&hours, second / 3600)
            };
            let at = |second: i32| {
                ROUND + SignedDuration::from_hours(24) * day + SignedDuration::from_secs(second.into())
            };
            let next = (start..start + 86_400).find(|second| fits(*second)).unwrap();
            prop_assert_eq!(cron.at_or_after(at(start)), Some(at(next)));
            let last = (start - 86_399..=start).rev().find(|second| fits(*second)).unwrap();
            prop_assert_eq!(cron.at_or_before(at(start)), Some(at(last)));
        }

        #[test]
        fn days_are_found_in_both_directions(
            day in field(1, 31), month in field(1, 12), weekday in field(0, 6), start in 0_i64..12_000,
        ) {
            let Ok(cron) = format!("0 0 0 {day} {month} {weekday}").parse::<CronExpression>() else { return Ok(()) };
            let from = ROUND + SignedDuration::from_hours(24 * start);
            let next = cron.at_or_after(from).unwrap();
            prop_assert_eq!(cron.at_or_before(next), Some(next));
            let last = cron.at_or_before(next - SignedDuration::from_secs(1)).unwrap();
            prop_assert!(last < from, "{} lies between", last);
            prop_assert_eq!(cron.at_or_after(last + SignedDuration::from_secs(1)), Some(next));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[*0-9A-Za-z@,/#?+ -]{0,30}") {
            drop(text.parse::<CronExpression>());
        }
    }
}
