//! Numbers and times as people read them.

use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::model::run::Run;

/// `1.50 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// `3 binaries`, `1 binary`.
pub(super) fn binaries(number: u64) -> String {
    format!("{} {}", count(number), if number == 1 { "binary" } else { "binaries" })
}

/// `2026-11-22 07:35:00Z`.
pub(super) fn time(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// How long a run took, if it has ended.
pub(super) fn elapsed(run: &Run) -> Option<Duration> {
    // A clock that was set back in between gives no negative time.
    run.finished.map(|finished| Duration::try_from(finished.duration_since(run.started)).unwrap_or_default())
}

/// `1.2 s`, `42 s`, `3 min 12 s`, `2 h 5 min`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// `12.00 MiB/s`; none for times too short to say.
pub(super) fn rate(moved: u64, duration: Duration) -> Option<String> {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let each_second = u128::from(moved) * 1000 / u128::from(milliseconds.max(1));
    let each_second = u64::try_from(each_second).unwrap_or(u64::MAX);
    (milliseconds >= 10 && each_second > 0).then(|| format!("{}/s", bytes(each_second)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (milliseconds, text) in [
            (40, "0.0 s"),
            (1_240, "1.2 s"),
            (42_900, "42 s"),
            (192_000, "3 min 12 s"),
            (7_500_000, "2 h 5 min"),
            (360_000_000, "100 h 0 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn numbers_are_grouped_and_sizes_have_units() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(1_610_612_736), "1.50 GiB");
        assert_eq!(binaries(1), "1 binary");
        assert_eq!(rate(10 << 20, Duration::from_secs(2)).as_deref(), Some("5.00 MiB/s"));
        assert_eq!(rate(10 << 20, Duration::ZERO), None);
    }

    #[test]
    fn times_are_in_utc_and_seconds() {
        assert_eq!(time("2026-11-22T08:35:00.9+01:00".parse().unwrap()), "2026-11-22 07:35:00Z");
    }
}
