//! When the jobs run by themselves.

use jiff::Timestamp;

use super::Findings;
use crate::cli::text;
use crate::config::Config;
use crate::model::slots::Timing;

/// Enough to see the rhythm, and a change of the clocks that is near.
const SHOWN: usize = 5;

pub(super) fn check(findings: &mut Findings, config: &Config, now: Timestamp) {
    for job in config.jobs() {
        let message = match job.timing() {
            Some(timing) => next_runs(timing, now),
            None => "has no `schedule`: it runs when it is asked for".to_owned(),
        };
        findings.ok(&job.to_string(), message);
    }
}

/// The next runs on the clocks of their zone, each with its hours before UTC, as an hour may come twice.
fn next_runs(timing: &Timing, now: Timestamp) -> String {
    let schedule = &timing.schedule;
    let shown = |slot: Timestamp| schedule.in_zone(slot).strftime("%a %Y-%m-%d %H:%M:%S%:z").to_string();
    let runs: Vec<String> = schedule.after(now).take(SHOWN).map(shown).collect();
    let jitter = if timing.jitter.is_zero() {
        String::new()
    } else {
        format!(", each up to {} later", text::duration(timing.jitter))
    };
    format!("`{}` in {}{jitter}; next runs: {}", schedule.text(), schedule.timezone(), runs.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::tz::TimeZone;

    use super::*;
    use crate::model::schedule::Schedule;

    #[test]
    fn the_next_five_runs_are_shown_on_the_clocks_of_the_zone() {
        let schedule = Schedule::new("30 2 * * *".parse().unwrap(), TimeZone::get("Europe/Berlin").unwrap());
        let timing = Timing { schedule, jitter: Duration::from_mins(5) };
        insta::assert_snapshot!(
            next_runs(&timing, "2026-03-27T12:00:00Z".parse().unwrap()),
            @"`30 2 * * *` in Europe/Berlin, each up to 5 min 0 s later; next runs: Sat 2026-03-28 02:30:00+01:00, Sun 2026-03-29 03:00:00+02:00, Mon 2026-03-30 02:30:00+02:00, Tue 2026-03-31 02:30:00+02:00, Wed 2026-04-01 02:30:00+02:00"
        );
    }
}
