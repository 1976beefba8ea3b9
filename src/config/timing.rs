//! When a job runs: the values that say it.

use std::time::Duration;

use jiff::tz::{TimeZone, db};

use super::error::nearest;
use super::value::{Complaint, FromText, HOUR, Period};
use crate::model::cron::{CronExpression, InvalidCron};

impl FromText for CronExpression {
    const EXPECTED: &str = "a cron expression in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        text.parse().map_err(|error: InvalidCron| Complaint::new(error.to_string(), error.way_out()))
    }
}

impl FromText for TimeZone {
    const EXPECTED: &str = "the name of a time zone in quotes";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        // There is a zone of this name, for those who do not know theirs; it is UTC.
        let unknown = |zone: &Self| zone.is_unknown();
        if let Some(zone) = Self::get(text).ok().filter(|zone| !unknown(zone)) {
            return Ok(zone);
        }
        let names: Vec<String> = db().available().map(|name| name.as_str().to_owned()).collect();
        let meant = match text.to_ascii_uppercase().as_str() {
            // The name of a city alone.
            upper if !upper.contains('/') => names.iter().find(|name| {
                name.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(&upper.replace(' ', "_")))
            }),
            _ => None,
        };
        let meant = meant.map(String::as_str).or_else(|| nearest(text, names.iter().map(String::as_str)));
        let meant = meant.map(|meant| format!("did you mean \"{meant}\"? ")).unwrap_or_default();
        Err(Complaint::new(
            format!("there is no time zone `{text}`"),
            format!(
                "{meant}write the name of a zone as in the IANA database, such as \"Europe/Berlin\", or \"UTC\": offsets \
                 and abbreviations do not know daylight saving"
            ),
        ))
    }
}

/// How far the starts of a job are spread.
pub(super) struct Jitter(pub(super) Duration);

impl FromText for Jitter {
    const EXPECTED: &str = "a duration in quotes, with a unit";

    fn from_text(text: &str) -> Result<Self, Complaint> {
        Period::<0, { 24 * HOUR }>::from_text(text).map(|period| Self(period.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_known_by_their_names_and_a_slip_is_recognised() {
        for (text, name) in [("Europe/Berlin", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin"), ("UTC", "UTC")] {
            assert_eq!(TimeZone::from_text(text).unwrap().iana_name(), Some(name));
        }
        for (text, meant) in [
            ("Berlin", Some("Europe/Berlin")),
            ("Europe/Berln", Some("Europe/Berlin")),
            ("new york", Some("America/New_York")),
            ("+02:00", None),
            ("Etc/Unknown", None),
            ("Nowhere/At_All", None),
            ("../../etc/passwd", None),
        ] {
            let complaint = TimeZone::from_text(text).unwrap_err();
            assert_eq!(complaint.cause, format!("there is no time zone `{text}`"));
            let found = complaint.way_out.strip_prefix("did you mean \"").and_then(|rest| rest.split('"').next());
            assert_eq!(found, meant, "{text}");
        }
    }

    #[test]
    fn the_rules_of_zones_come_with_the_program() {
        let bundled = jiff::tz::TimeZoneDatabase::bundled();
        assert_eq!(bundled.get("Europe/Berlin").unwrap().iana_name(), Some("Europe/Berlin"));
    }
}
