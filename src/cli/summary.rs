//! What is said of a run when it has ended: the numbers that matter for its kind.

use crate::cli::terminal::Paint;
use crate::cli::text;
use crate::model::run::{Counts, Kind, Outcome, Run};

/// How many problems are named; the history has more.
const NAMED_PROBLEMS: usize = 10;

/// The summary, several lines.
pub(super) fn summary(run: &Run, paint: Paint) -> String {
    let outcome = match run.outcome {
        Some(Outcome::Succeeded) => paint.good("succeeded"),
        Some(Outcome::Failed) => paint.bad("failed"),
        Some(outcome) => paint.odd(outcome.as_str()),
        None => "is running".to_owned(),
    };
    let elapsed = text::elapsed(run).map(|elapsed| format!(" after {}", text::duration(elapsed))).unwrap_or_default();
    let mut lines = vec![format!("run {} ({}) {outcome}{elapsed}\n", run.id, run.job)];
    lines.extend(facts(run).into_iter().map(|(label, value)| format!("  {label:<22}{value}\n")));
    for problem in run.problems.iter().take(NAMED_PROBLEMS) {
        lines.push(format!("  {}: {}: {}\n", paint.odd(&problem.kind), problem.subject, problem.message));
    }
    let more = run.problems.len().saturating_sub(NAMED_PROBLEMS);
    if more > 0 {
        lines.push(format!("  … and {more} more: holdfast history --json\n"));
    }
    lines.concat()
}

fn facts(run: &Run) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(result) = &run.result {
        let label = match run.kind {
            Kind::Copy => "restore point",
            Kind::Backup => "archive",
            Kind::Restore => "restored from",
            Kind::Verify => "verified",
        };
        facts.push((label, result.clone()));
    }
    facts.extend(run.quarantine.iter().map(|quarantine| ("quarantine", quarantine.clone())));
    facts.extend(moved(run));
    let some = |(label, number)| (number > 0).then(|| (label, text::count(number)));
    let missed =
        run.counts.missed.map(|missed| format!("{} in {}", text::count(missed), text::count(run.counts.examined)));
    facts.extend(missed.map(|missed| ("missed by the watcher", missed)));
    facts.extend(numbers(run.kind, &run.counts).into_iter().filter_map(some));
    facts
}

/// What was brought over, how large that was and how fast it went.
fn moved(run: &Run) -> Option<(&'static str, String)> {
    let Counts { copied, bytes, .. } = run.counts;
    if copied == 0 {
        return None;
    }
    let label = match run.kind {
        Kind::Copy => "copied",
        Kind::Backup => "backed up",
        Kind::Restore => "restored",
        Kind::Verify => "read back",
    };
    let rate = text::elapsed(run).and_then(|elapsed| text::rate(bytes, elapsed));
    let rate = rate.map(|rate| format!(", {rate}")).unwrap_or_default();
    Some((label, format!("{}, {}{rate}", text::binaries(copied), text::bytes(bytes))))
}

fn numbers(kind: Kind, counts: &Counts) -> Vec<(&'static str, u64)> {
    let skipped = match kind {
        Kind::Copy | Kind::Backup => "there already",
        Kind::Restore => "whole already",
        Kind::Verify => "passed over",
    };
    vec![
        ("binaries examined", counts.examined),
        (skipped, counts.skipped),
        ("documents", counts.documents),
        ("they refer to", counts.references),
        ("duplicate documents", counts.duplicate_documents),
        ("conflicting documents", counts.conflicting_documents),
        ("no longer there", counts.removed),
        ("deleted meanwhile", counts.vanished),
        ("sidecars left out", counts.sidecars),
        ("orphaned sidecars", counts.orphaned_sidecars),
        ("foreign files", counts.foreign),
        ("quarantined", counts.quarantined),
        ("of no document", counts.unreferenced),
        ("failed", counts.failed),
        ("of these damaged", counts.damaged),
        ("of these missing", counts.missing),
        ("damaged documents", counts.damaged_documents),
        ("requests", counts.requests),
        ("repeated requests", counts.retries),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::terminal::Paint;
    use crate::model::run::{Problem, Progress, RunId, Trigger};

    fn run(counts: Counts) -> Run {
        Run {
            id: RunId::new(12),
            job: "copy.binaries".into(),
            kind: Kind::Copy,
            trigger: Trigger::Request,
            outcome: Some(Outcome::Partial),
            activated: "2026-11-22T07:35:00Z".parse().unwrap(),
            started: "2026-11-22T07:35:00Z".parse().unwrap(),
            finished: Some("2026-11-22T07:35:08Z".parse().unwrap()),
            progress: Progress::default(),
            counts,
            result: Some("20261122T073500Z-12".into()),
            url: None,
            quarantine: None,
            error: None,
            failure: None,
            started_by: None,
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_summary_has_what_was_counted_and_skips_zeros() {
        let mut run = run(Counts { examined: 12_000, copied: 1, bytes: 8 << 20, failed: 12, ..Counts::default() });
        let problem = Problem { kind: "damaged".into(), subject: "aa".into(), message: "is not aa".into() };
        run.problems = vec![problem; 12];
        insta::assert_snapshot!(summary(&run, Paint::none()), @r#"
        run 12 (copy.binaries) partial after 8.0 s
          restore point         20261122T073500Z-12
          copied                1 binary, 8.00 MiB, 1.00 MiB/s
          binaries examined     12,000
          failed                12
          damaged: aa: is not aa
          damaged: aa: is not aa
          damaged: aa: is not aa
          damaged: aa: is not aa
          damaged: aa: is not aa
          damaged: aa: is not aa
          damaged: aa: is not aa
          damaged: aa: is not aa
          damaged: aa: is not aa
          damaged: aa: is not aa
          … and 2 more: holdfast history --json
        "#);
    }
}
