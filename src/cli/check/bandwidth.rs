//! What may pass to a destination, now and at other times.

use std::num::NonZeroU64;

use jiff::Timestamp;

use super::Findings;
use crate::cli::text;
use crate::config::Destination;
use crate::model::bandwidth::{Bandwidth, Rule};

pub(super) fn check(findings: &mut Findings, destination: &Destination, now: Timestamp) {
    if !destination.bandwidth.rules.is_empty() {
        findings.ok(&format!("destination {}", destination.name), described(&destination.bandwidth, now));
    }
}

fn described(bandwidth: &Bandwidth, now: Timestamp) -> String {
    let holds = format!("bandwidth: {} now", rate(bandwidth.limit_at(now)));
    if bandwidth.rules.iter().all(Rule::is_always) {
        return holds;
    }
    let mut rules: Vec<String> = bandwidth
        .rules
        .iter()
        .map(|rule| {
            let when = if rule.is_always() { "otherwise".to_owned() } else { rule.to_string() };
            format!("{when} {}", rate(rule.limit))
        })
        .collect();
    if !bandwidth.rules.iter().any(Rule::is_always) {
        rules.push(format!("otherwise {}", rate(None)));
    }
    let zone = bandwidth.zone.iana_name().unwrap_or("UTC");
    format!("{holds}; by the clock of {zone}: {}", rules.join("; "))
}

fn rate(limit: Option<NonZeroU64>) -> String {
    limit.map_or_else(|| "no limit".to_owned(), |limit| format!("{}/s", text::bytes(limit.get())))
}

#[cfg(test)]
mod tests {
    use jiff::civil::Weekday;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::model::bandwidth::{Days, TimeOfDay};

    #[test]
    fn the_limit_of_now_stands_before_the_timetable() {
        let limit = NonZeroU64::new(5 << 20);
        let office = Rule {
            limit,
            from: TimeOfDay::new(8, 0).unwrap(),
            to: TimeOfDay::new(18, 0).unwrap(),
            days: Days::NONE.with(Weekday::Monday, Weekday::Friday),
        };
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let monday = "2026-11-23T12:00:00Z".parse().unwrap();
        let sunday = "2026-11-22T12:00:00Z".parse().unwrap();
        let timetable = Bandwidth { rules: vec![office], zone };
        insta::assert_snapshot!(
            described(&timetable, monday),
            @"bandwidth: 5.00 MiB/s now; by the clock of Europe/Berlin: Mon-Fri 08:00-18:00 5.00 MiB/s; otherwise no limit"
        );
        assert!(described(&timetable, sunday).starts_with("bandwidth: no limit now; by the clock of "));
        let always = Bandwidth { rules: vec![office, Rule::always(NonZeroU64::new(50 << 20))], ..timetable };
        assert!(described(&always, sunday).ends_with("; otherwise 50.00 MiB/s"));
        let simple = Bandwidth { rules: vec![Rule::always(limit)], ..Bandwidth::default() };
        assert_eq!(described(&simple, sunday), "bandwidth: 5.00 MiB/s now");
    }
}
