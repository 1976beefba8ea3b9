//! What is said of runs in the journal and to the service manager.

use std::fmt::Write as _;

use crate::model::run::{Kind, Outcome, Run};

/// How what a run says of itself begins while it waits for others.
pub(super) const WAITING: &str = "waiting";

/// How a run ended, with all its numbers, in one line.
pub(super) fn ended(run: &Run) -> String {
    let outcome = run.outcome.map_or("has not ended", Outcome::as_str);
    let mut line = format!("run {} ({}, {}) {outcome}", run.id, run.job, run.trigger);
    if let Some(finished) = run.finished {
        let took = finished.duration_since(run.started);
        let _infallible = write!(line, " after {:.1} s", took.as_secs_f64());
    }
    if let Some(error) = &run.error {
        line = line + ": " + error;
    }
    if let Some(result) = &run.result {
        line = line + ", " + result;
    }
    // In the order of the fields, without those that stayed 0; but that a scan found nothing missed is worth saying.
    if let Ok(serde_json::Value::Object(counts)) = serde_json::to_value(&run.counts) {
        let says = |(name, count): &(&String, &serde_json::Value)| {
            count.as_u64().is_some_and(|count| count > 0 || *name == "missed")
        };
        for (name, count) in counts.iter().filter(says) {
            let _infallible = write!(line, ", {name} {count}");
        }
    }
    for problem in run.problems.iter().take(3) {
        let _infallible = write!(line, "; {} {}: {}", problem.kind, problem.subject, problem.message);
    }
    line
}

/// What is being done.
pub(super) fn status(running: &[Run], waiting: usize, stopping: bool) -> String {
    let mut words: Vec<String> = running.iter().map(doing).collect();
    if words.is_empty() {
        words.push("idle".to_owned());
    }
    if waiting > 0 {
        words.push(format!("{waiting} waiting"));
    }
    let words = words.join("; ");
    if stopping { format!("stopping: {words}") } else { words }
}

fn doing(run: &Run) -> String {
    let verb = match run.kind {
        Kind::Copy => "copying",
        Kind::Backup => "backing up",
        Kind::Restore => "restoring",
        Kind::Verify => "verifying",
    };
    let progress = &run.progress;
    let far = match progress.total {
        Some(total) if total > 0 => format!(", {} of {total} {}", progress.current, progress.unit),
        _ if progress.current > 0 => format!(", {} {}", progress.current, progress.unit),
        _ => String::new(),
    };
    format!("{verb} ({}, run {}){far}", run.job, run.id)
}
