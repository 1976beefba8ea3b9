//! What the schedules of all jobs ask for at a moment, by the marks in the ledger.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::site::JobSpec;
use crate::ledger::Ledger;
use crate::model::schedule::Schedule;
use crate::model::slots::{Advance, SlotMark, Step, Timing};

/// A job with a schedule, and what it asks for.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) job: String,
    pub(super) timing: Timing,
    pub(super) mark: Option<SlotMark>,
    pub(super) step: Step,
}

/// What the schedules ask for now. Blocks.
pub(super) fn lines(ledger: &Ledger, specs: &[JobSpec], now: Timestamp) -> anyhow::Result<Vec<Line>> {
    let mut marks = ledger.slot_marks()?;
    let line = |spec: &JobSpec| {
        let timing = spec.timing.clone()?;
        let mark = marks.remove(&spec.name);
        let former = mark.as_ref().filter(|mark| !timing.is_of(mark)).and_then(former);
        let step = timing.step(mark.as_ref(), former.as_ref(), fastrand::i64(..), now);
        Some(Line { job: spec.name.clone(), timing, mark, step })
    };
    Ok(specs.iter().filter_map(line).collect())
}

/// The jobs whose schedules have missed slots, with these. Blocks.
pub(super) fn missed(ledger: &Ledger, specs: &[JobSpec], now: Timestamp) -> anyhow::Result<BTreeMap<String, Advance>> {
    let due = |line: Line| match line.step {
        Step::Run(advance) => Some((line.job, advance)),
        Step::Wait(_) | Step::Mark(_) => None,
    };
    Ok(lines(ledger, specs, now)?.into_iter().filter_map(due).collect())
}

/// The schedule that a mark is of, if it can still be read.
fn former(mark: &SlotMark) -> Option<Schedule> {
    Some(Schedule::new(mark.schedule.parse().ok()?, TimeZone::get(&mark.timezone).ok()?))
}
