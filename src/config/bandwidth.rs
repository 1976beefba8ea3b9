//! How much of a line a destination may take: one limit, or a timetable of them.

use std::fmt;
use std::num::NonZeroU64;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::value::{Complaint, FromText, Text, size, sound};
use super::{BANDWIDTH_LIMITS, MAX_BANDWIDTH_RULES};
use crate::model::bandwidth::{Days, Rule, TimeOfDay};

/// Bytes a second; none where it says so.
struct Rate(Option<NonZeroU64>);

impl FromText for Rate {
    const EXPECTED: &str = "a size in quotes, with a unit";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        if text == "none" {
            return Ok(Self(None));
        }
        let bytes = size(text.strip_suffix("/s").unwrap_or(text))?;
        if bytes < *BANDWIDTH_LIMITS.start() {
            return Err(Complaint::new(
                format!("at {text} a second a part of 8 MiB would take longer than servers wait"),
                "write at least \"16KiB\", or \"none\" for no limit",
            ));
        }
        if bytes > *BANDWIDTH_LIMITS.end() {
            return Err(Complaint::new(
                format!("{text} a second are more than any line has"),
                "write at most \"1TiB\", or \"none\" for no limit",
            ));
        }
        Ok(Self(NonZeroU64::new(bytes)))
    }
}

impl FromText for TimeOfDay {
    const EXPECTED: &str = "a time of day in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        let number = |digits: &str| {
            let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten()
        };
        let time = text.split_once(':').and_then(|(hour, minute)| Self::new(number(hour)?, number(minute)?));
        time.ok_or_else(|| {
            Complaint::new(
                format!("`{text}` is no time of day"),
                "write hours and minutes from \"00:00\" to \"24:00\", such as \"08:30\"",
            )
        })
    }
}

impl FromText for Days {
    const EXPECTED: &str = "days of the week in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        text.split(',').map(str::trim).try_fold(Self::NONE, |days, part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let day = |name: &str| {
                Self::named(name.trim()).ok_or_else(|| {
                    Complaint::new(
                        format!("`{}` is no day of the week", name.trim()),
                        "write days as \"Mon-Fri\", \"Sat, Sun\" or \"Wed\"",
                    )
                })
            };
            Ok(days.with(day(first)?, day(last)?))
        })
    }
}

/// A rule as it is written.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct RuleTable {
    limit: Text<Rate>,
    from: Option<Text<TimeOfDay>>,
    to: Option<Text<TimeOfDay>>,
    days: Option<Text<Days>>,
}

impl RuleTable {
    fn rule(self) -> Result<Rule, Complaint> {
        let always = Rule::always(self.limit.0.0);
        let rule = Rule {
            from: self.from.map_or(always.from, |Text(time)| time),
            to: self.to.map_or(always.to, |Text(time)| time),
            days: self.days.map_or(always.days, |Text(days)| days),
            ..always
        };
        if rule.from == rule.to {
            return Err(Complaint::new(
                format!("from {} to {} is no time at all, or all day", rule.from, rule.to),
                "leave `from` and `to` out for all day",
            ));
        }
        if rule.from == TimeOfDay::END {
            return Err(Complaint::new("nothing begins at 24:00", "write from = \"00:00\", and the days after"));
        }
        // 24:00 and 00:00 are the same moment, and a rule that ends then does not go on into the next day.
        let to = if rule.to == TimeOfDay::BEGIN { TimeOfDay::END } else { rule.to };
        Ok(Rule { to, ..rule })
    }
}

/// One limit, or a list of rules.
pub(super) struct BandwidthSetting(pub(super) Vec<Rule>);

impl<'de> Deserialize<'de> for BandwidthSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BandwidthVisitor;
        impl<'de> Visitor<'de> for BandwidthVisitor {
            type Value = Vec<Rule>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in quotes or a list of tables")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Vec<Rule>, E> {
                let rate = sound(text).and_then(Rate::from_text).map_err(E::custom)?;
                Ok(vec![Rule::always(rate.0)])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Rule>, A::Error> {
                let mut rules: Vec<Rule> = Vec::new();
                while let Some(table) = list.next_element::<RuleTable>()? {
                    rules.push(table.rule().map_err(A::Error::custom)?);
                }
                check(&rules).map_err(A::Error::custom)?;
                Ok(rules)
            }
        }
        deserializer.deserialize_any(BandwidthVisitor).map(Self)
    }
}

fn check(rules: &[Rule]) -> Result<(), Complaint> {
    if rules.is_empty() {
        return Err(Complaint::new("the timetable is empty", "add { limit = \"20MiB\" }, or leave `bandwidth` out"));
    }
    if rules.len() > MAX_BANDWIDTH_RULES {
        return Err(Complaint::new(
            format!("the timetable has {} entries", rules.len()),
            format!("write at most {MAX_BANDWIDTH_RULES}"),
        ));
    }
    if let Some(always) = rules[..rules.len() - 1].iter().position(Rule::is_always) {
        return Err(Complaint::new(
            format!("entry {} always holds, so those after it never do", always + 1),
            "put it last: of the entries that fit, the first one holds",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::civil::Weekday;

    use super::*;

    #[test]
    fn a_rate_is_a_size_a_second_within_reason() {
        let rate = |text| Rate::from_text(text).ok().map(|rate| rate.0.map(NonZeroU64::get));
        assert_eq!(rate("20MiB"), Some(Some(20 << 20)));
        assert_eq!(rate("20MB/s"), Some(Some(20_000_000)));
        assert_eq!(rate("none"), Some(None));
        for text in ["20", "0B", "15KiB", "2TiB", "fast", "20MiB/h", "/s"] {
            assert_eq!(rate(text), None, "{text}");
        }
    }

    #[test]
    fn times_have_two_digits_each() {
        assert_eq!(TimeOfDay::from_text("08:30").unwrap(), TimeOfDay::new(8, 30).unwrap());
        assert_eq!(TimeOfDay::from_text("24:00").unwrap(), TimeOfDay::END);
        for text in ["8:30", "0830", "08:30:00", "24:01", "+8:30", "08:60", "noon", "8 pm"] {
            assert!(TimeOfDay::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn days_are_spans_and_lists_of_them() {
        let shown = |text| Days::from_text(text).unwrap().to_string();
        assert_eq!(shown("Mon-Fri"), "Mon-Fri");
        assert_eq!(shown("sat,Sunday"), "Sat, Sun");
        assert_eq!(shown("Sat - Mon, wed"), "Mon, Wed, Sat, Sun");
        assert!(Days::from_text("Wed").unwrap().contains(Weekday::Wednesday));
        for text in ["", "Mon-", "Mo", "Mon Fri", "Mon-Tue-Fri", "1-5", "weekdays"] {
            assert!(Days::from_text(text).is_err(), "{text}");
        }
    }
}
