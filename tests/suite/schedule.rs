//! Slots against `systemd-analyze calendar`, around the changes of clocks.
//!
//! Where no clock is changed both must find the same moments. Where one is, systemd leaves out what is skipped, and has
//! what comes twice once; there our slots are compared with the rules of `model/schedule`, tried out second by second.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

use fastrand::Rng;
use holdfast::model::schedule::Schedule;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// How many moments, and how many schedules at each.
const MOMENTS: usize = 150;
const SCHEDULES: usize = 16;
/// How many slots of each schedule.
const SLOTS: usize = 40;

const ZONES: [&str; 21] = [
    "Europe/Berlin",
    "Europe/London",
    "Europe/Dublin",
    "America/New_York",
    "America/St_Johns",
    "America/Santiago",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Asuncion",
    "Australia/Sydney",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Apia",
    "Asia/Tehran",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Antarctica/Troll",
    "UTC",
];

/// A field as both programs have it.
#[derive(Clone, Debug)]
struct Field {
    cron: String,
    systemd: String,
    values: BTreeSet<i8>,
}

fn field(rng: &mut Rng, least: i8, most: i8, free: u32) -> Field {
    let values = |list: &[i8]| list.iter().copied().collect();
    match rng.u32(0..free + 5) {
        0 | 1 => {
            let value = rng.i8(least..=most);
            Field { cron: value.to_string(), systemd: value.to_string(), values: values(&[value]) }
        }
        2 => {
            let list: BTreeSet<i8> = (0..rng.usize(2..5)).map(|_| rng.i8(least..=most)).collect();
            Field { cron: listed(&list), systemd: listed(&list), values: list }
        }
        3 => {
            let (a, b) = (rng.i8(least..=most), rng.i8(least..=most));
            let (a, b) = (a.min(b), a.max(b));
            let systemd = if a < b { format!("{a}..{b}") } else { a.to_string() };
            Field { cron: format!("{a}-{b}"), systemd, values: (a..=b).collect() }
        }
        4 => {
            let step = rng.i8(2..=(most - least) / 2);
            let values: BTreeSet<i8> = (least..=most).step_by(usize::try_from(step).unwrap()).collect();
            // systemd 252 goes on counting at the end of the day: from 23:44 by `0/22` to 23:66, past midnight.
            let divides = (most - least + 1) % step == 0 && most > 12 && most != 31;
            let systemd = if divides { format!("{least}/{step}") } else { listed(&values) };
            Field { cron: format!("*/{step}"), systemd, values }
        }
        _ => every(least, most),
    }
}

fn listed(values: &BTreeSet<i8>) -> String {
    values.iter().map(i8::to_string).collect::<Vec<_>>().join(",")
}

fn every(least: i8, most: i8) -> Field {
    Field { cron: "*".to_owned(), systemd: "*".to_owned(), values: (least..=most).collect() }
}

fn number(value: i8) -> Field {
    Field { cron: value.to_string(), systemd: value.to_string(), values: [value].into() }
}

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/// A schedule as both programs have it.
#[derive(Debug)]
struct Case {
    second: Field,
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
    zone: &'static str,
}

impl Case {
    fn random(rng: &mut Rng, zone: &'static str, dense: bool) -> Self {
        let free = if dense { 10 } else { 1 };
        Self {
            second: if rng.u32(0..8) == 0 { field(rng, 0, 59, 0) } else { number(0) },
            minute: field(rng, 0, 59, 0),
            // Most changes are early in the morning, and most backups are, too.
            hour: if !dense && rng.bool() { number(rng.i8(0..4)) } else { field(rng, 0, 23, free) },
            day: if rng.u32(0..4) == 0 { field(rng, 1, 31, 0) } else { every(1, 31) },
            month: if rng.u32(0..6) == 0 { field(rng, 1, 12, 0) } else { every(1, 12) },
            weekday: if rng.u32(0..4) == 0 { field(rng, 0, 6, 0) } else { every(0, 6) },
            zone,
        }
    }

    /// Both days given are one or the other to cron, and both to systemd; `+` makes it both here, too.
    fn cron(&self) -> String {
        let Self { second, minute, hour, day, month, weekday, .. } = self;
        let both = if day.cron != "*" && weekday.cron != "*" { "+" } else { "" };
        let (second, minute, hour) = (&second.cron, &minute.cron, &hour.cron);
        format!("{second} {minute} {hour} {} {} {both}{}", day.cron, month.cron, weekday.cron)
    }

    fn systemd(&self) -> String {
        let mut text = String::new();
        if self.weekday.cron != "*" {
            let days = self.weekday.values.iter().map(|day| DAYS[usize::try_from(*day).unwrap()]);
            write!(text, "{} ", days.collect::<Vec<_>>().join(",")).unwrap();
        }
        let Self { second, minute, hour, day, month, .. } = self;
        let (second, minute, hour) = (&second.systemd, &minute.systemd, &hour.systemd);
        write!(text, "*-{}-{} {hour}:{minute}:{second}", month.systemd, day.systemd).unwrap();
        text
    }

    fn schedule(&self) -> Option<Schedule> {
        Some(Schedule::new(self.cron().parse().ok()?, TimeZone::get(self.zone).unwrap()))
    }

    fn names(&self, time: DateTime) -> bool {
        self.second.values.contains(&time.second())
            && self.minute.values.contains(&time.minute())
            && self.hour.values.contains(&time.hour())
            && self.day.values.contains(&time.day())
            && self.month.values.contains(&time.month())
            && self.weekday.values.contains(&time.weekday().to_sunday_zero_offset())
    }
}

/// A change of the clocks: when, and how far they were and are before UTC, in seconds.
#[derive(Clone, Copy, Debug)]
struct Change {
    at: Timestamp,
    before: SignedDuration,
    after: SignedDuration,
}

fn changes(zone: &TimeZone, from: Timestamp, until: Timestamp) -> Vec<Change> {
    let offset = |at| SignedDuration::from_secs(zone.to_offset(at).seconds().into());
    let change = |at: Timestamp| Change { at, before: offset(at - SECOND), after: offset(at) };
    let all = zone.following(from).map(|change| change.timestamp()).take_while(|at| *at <= until);
    all.map(change).filter(|change| change.before != change.after).collect()
}

const SECOND: SignedDuration = SignedDuration::from_secs(1);

impl Change {
    /// The time in which it matters: after a gap until the hour is full, from where systemd goes on; and what the clocks
    /// show twice.
    fn time(&self) -> (Timestamp, Timestamp) {
        let twice = self.before - self.after;
        if twice.is_negative() {
            let shown = self.at.as_second() + self.after.as_secs();
            (self.at, self.at + SignedDuration::from_secs(3600 - shown.rem_euclid(3600)))
        } else {
            (self.at - twice, self.at + twice)
        }
    }

    /// The slots of that time by our rules.
    fn slots(&self, case: &Case) -> Vec<Timestamp> {
        let (from, until) = self.time();
        let seconds = |from: Timestamp, until: Timestamp| {
            (from.as_second()..until.as_second()).map(|second| Timestamp::from_second(second).unwrap())
        };
        let named = |moment: &Timestamp, offset| case.names(TimeZone::UTC.to_datetime(*moment + offset));
        if self.before < self.after {
            // Skipped times are due right after the gap, and so may that moment itself be: once.
            let skipped =
                seconds(self.at, self.at + (self.after - self.before)).any(|moment| named(&moment, self.before));
            let shown = seconds(self.at, until).filter(|moment| named(moment, self.after));
            return skipped.then_some(self.at).into_iter().chain(shown).collect();
        }
        let mut slots: Vec<_> = seconds(from, self.at).filter(|moment| named(moment, self.before)).collect();
        if case.hour.values.len() == 24 {
            slots.extend(seconds(self.at, until).filter(|moment| named(moment, self.after)));
        }
        slots
    }
}

/// What `systemd-analyze calendar` has for these, each at most [`SLOTS`] after a moment; nothing for one that it gives
/// up on, which happens where midnight is skipped ("Resource deadlock avoided").
fn by_systemd(cases: &[Case], after: Timestamp) -> Vec<Option<Vec<Timestamp>>> {
    let answer = Command::new("systemd-analyze")
        // A zone in the expression would be a process for each slot.
        .env("TZ", cases[0].zone)
        .env("LC_ALL", "C")
        .arg("calendar")
        .arg(format!("--iterations={SLOTS}"))
        .arg(format!("--base-time={}", after.strftime("%Y-%m-%d %H:%M:%S UTC")))
        .args(cases.iter().map(Case::systemd))
        .output()
        .unwrap();
    if !answer.status.success() {
        let error = String::from_utf8_lossy(&answer.stderr);
        assert!(error.contains("Resource deadlock avoided"), "{error}");
        // The others were not looked at.
        return match cases {
            [_] => vec![None],
            cases => cases.chunks(1).flat_map(|case| by_systemd(case, after)).collect(),
        };
    }
    let mut found: Vec<Vec<Timestamp>> = Vec::new();
    for line in String::from_utf8(answer.stdout).unwrap().lines() {
        let Some((label, value)) = line.trim().split_once(": ") else { continue };
        if label == "Next elapse" {
            found.push(Vec::new());
        }
        let in_utc = label == "(in UTC)" || cases[0].zone == "UTC" && label != "From now";
        if in_utc {
            // Such as `Sat 2026-03-28 01:30:00 UTC`.
            let moment = value.get(4..).and_then(|text| text.strip_suffix(" UTC"));
            if let Some(moment) = moment.and_then(|text| text.parse::<DateTime>().ok()) {
                found.last_mut().unwrap().push(TimeZone::UTC.to_timestamp(moment).unwrap());
            }
        }
    }
    assert_eq!(found.len(), cases.len());
    found.into_iter().map(Some).collect()
}

#[test]
fn slots_are_those_of_systemd_and_where_clocks_change_those_of_our_rules() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    }
    let mut rng = Rng::with_seed(20_261_125);
    let (mut compared, mut concerned, mut elsewhere, mut given_up) = (0, 0, 0, 0);
    for number in 0..MOMENTS {
        let zone = ZONES[number % ZONES.len()];
        let rules = TimeZone::get(zone).unwrap();
        let year: Timestamp = format!("{}-01-01T00:00:00Z", rng.u32(2007..2037)).parse().unwrap();
        let some_day = year + SignedDuration::from_hours(rng.i64(0..8760));
        let change = rules.following(some_day).next().map_or(some_day, |change| change.timestamp());
        let dense = rng.bool();
        let before = if dense { rng.i64(-3600..4 * 3600) } else { rng.i64(-7200..4 * 86400) };
        let after = change - SignedDuration::from_secs(before);
        let cases: Vec<Case> = (0..SCHEDULES).map(|_| Case::random(&mut rng, zone, dense)).collect();
        let cases: Vec<Case> = cases.into_iter().filter(|case| case.schedule().is_some()).collect();
        for (case, of_systemd) in cases.iter().zip(by_systemd(&cases, after)) {
            let Some(of_systemd) = of_systemd else {
                given_up += 1;
                continue;
            };
            let Some(until) = of_systemd.last().copied() else { continue };
            let changes =
                changes(&rules, after - SignedDuration::from_hours(24), until + SignedDuration::from_hours(24));
            let concerns = |moment: &Timestamp| {
                changes.iter().map(Change::time).any(|(from, until)| from <= *moment && *moment < until)
            };
            let mut expected: BTreeSet<Timestamp> = of_systemd.into_iter().filter(|slot| !concerns(slot)).collect();
            let plain = expected.len();
            let special = changes.iter().flat_map(|change| change.slots(case));
            expected.extend(special.filter(|slot| after < *slot && *slot <= until));
            let ours: BTreeSet<Timestamp> =
                case.schedule().unwrap().after(after).take_while(|slot| *slot <= until).collect();
            let difference: Vec<_> = ours.symmetric_difference(&expected).collect();
            assert!(difference.is_empty(), "{} in {zone} after {after}: {difference:?}", case.cron());
            compared += 1;
            concerned += expected.len() - plain;
            elsewhere += plain;
        }
    }
    eprintln!(
        "{compared} schedules: {elsewhere} slots as systemd has them, {concerned} where clocks change; \
         systemd gave up on {given_up}"
    );
    assert!(
        given_up <= 20 && compared >= 2_000 && concerned >= 1_000 && elsewhere >= 50_000,
        "{compared} {concerned} {elsewhere}"
    );
}
