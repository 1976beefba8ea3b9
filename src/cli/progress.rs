//! How far a run is, on standard error: a bar where a person watches, lines now and then where nobody does.

use std::pin::pin;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::cli::{terminal, text};
use crate::jobs::context::Report;
use crate::model::run::Progress;

/// How often the run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a line is written at most while one thing is being done.
const LINE_EVERY: Duration = Duration::from_secs(10);

const STOPPING: &str = "stopping at the next safe point; press again to end at once";

/// Shows what `report` says until `work` has ended.
pub(super) fn watch<T>(
    report: &Report,
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    let view = if terminal::is_watched() { View::Bar(Bar::new()) } else { View::Lines(Lines::default()) };
    follow(view, report, stop, work)
}

/// The same for work of seconds: where nobody watches there is nothing to show.
pub(super) fn watch_short<T>(
    report: &Report,
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    let view = if terminal::is_watched() { View::Bar(Bar::new()) } else { View::Nothing };
    follow(view, report, stop, work)
}

async fn follow<T>(mut view: View, report: &Report, stop: &CancellationToken, work: impl Future<Output = T>) -> T {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => {
                view.end();
                return result;
            }
            () = stop.cancelled(), if !told => {
                told = true;
                view.say(STOPPING);
            }
            now = ticks.tick() => view.show(now, &report.progress()),
        }
    }
}

enum View {
    Bar(Bar),
    Lines(Lines),
    Nothing,
}

impl View {
    fn show(&mut self, now: Instant, progress: &Progress) {
        match self {
            Self::Bar(bar) => bar.show(progress),
            Self::Lines(lines) => {
                if let Some(line) = lines.line(now, progress) {
                    terminal::note(line);
                }
            }
            Self::Nothing => {}
        }
    }

    fn say(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.drawn.suspend(|| terminal::note(text)),
            Self::Lines(_) | Self::Nothing => terminal::note(text),
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.drawn.finish_and_clear();
        }
    }
}

struct Bar {
    drawn: ProgressBar,
    /// What the style is for: the unit, and whether a total is known.
    style: (String, bool),
    last: u64,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        bar.set_style(style("", false));
        Self { drawn: bar, style: (String::new(), false), last: 0 }
    }

    fn show(&mut self, progress: &Progress) {
        if progress.message.is_empty() {
            return;
        }
        // First: each of the following may draw.
        self.drawn.set_message(progress.message.clone());
        let wanted = (progress.unit.clone(), progress.total.is_some());
        if wanted != self.style || progress.current < self.last {
            // Rate and time left belong to what is done now.
            self.drawn.reset();
            self.drawn.set_style(style(&progress.unit, progress.total.is_some()));
            self.style = wanted;
        }
        self.last = progress.current;
        match progress.total {
            Some(total) => self.drawn.set_length(total),
            None => self.drawn.unset_length(),
        }
        self.drawn.set_position(progress.current);
        self.drawn.tick();
    }
}

/// A message that is too long for the line is cut, and the numbers are not.
fn style(unit: &str, total: bool) -> ProgressStyle {
    let template = match (unit, total) {
        ("", _) => "{spinner} {wide_msg}".to_owned(),
        ("bytes", true) => {
            "{wide_msg}  [{bar:20}] {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left".to_owned()
        }
        ("bytes", false) => "{spinner} {wide_msg}  {binary_bytes}  {binary_bytes_per_sec}".to_owned(),
        (unit, true) => {
            format!("{{wide_msg}}  [{{bar:20}}] {{human_pos}}/{{human_len}} {unit}  {{rate}}  {{eta}} left")
        }
        (unit, false) => format!("{{spinner}} {{wide_msg}}  {{human_pos}} {unit}  {{rate}}"),
    };
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // A bar that cannot be drawn is no reason to fail.
        write!(out, "{:.0}/s", state.per_sec()).unwrap_or_default();
    };
    style.with_key("rate", rate).progress_chars("=> ")
}

/// What is written where nobody watches: each thing when it begins, and how far it is now and then.
#[derive(Debug, Default)]
struct Lines {
    message: String,
    written: Option<Instant>,
}

impl Lines {
    fn line(&mut self, now: Instant, progress: &Progress) -> Option<String> {
        if progress.message.is_empty() {
            return None;
        }
        if progress.message != self.message {
            self.message.clone_from(&progress.message);
            self.written = Some(now);
            return Some(progress.message.clone());
        }
        if self.written.is_some_and(|written| now.duration_since(written) < LINE_EVERY) || progress.unit.is_empty() {
            return None;
        }
        self.written = Some(now);
        let amount = |amount| if progress.unit == "bytes" { text::bytes(amount) } else { text::count(amount) };
        let of = progress.total.map(|total| format!(" of {}", amount(total))).unwrap_or_default();
        let unit = if progress.unit == "bytes" { String::new() } else { format!(" {}", progress.unit) };
        Some(format!("{}: {}{of}{unit}", progress.message, amount(progress.current)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(message: &str, unit: &str, current: u64, total: Option<u64>) -> Progress {
        Progress { current, total, unit: unit.to_owned(), message: message.to_owned() }
    }

    #[test]
    fn a_line_is_written_at_each_new_message_and_every_ten_seconds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lines = Lines::default();
        assert_eq!(lines.line(at(0), &Progress::default()), None);
        assert_eq!(lines.line(at(0), &progress("sending", "binaries", 0, None)).as_deref(), Some("sending"));
        assert_eq!(lines.line(at(9), &progress("sending", "binaries", 1000, None)), None);
        assert_eq!(
            lines.line(at(10), &progress("sending", "binaries", 1234, Some(5000))).as_deref(),
            Some("sending: 1,234 of 5,000 binaries")
        );
        assert_eq!(lines.line(at(11), &progress("sending", "binaries", 1300, None)), None);
        assert_eq!(lines.line(at(12), &progress("packing", "bytes", 0, None)).as_deref(), Some("packing"));
        assert_eq!(
            lines.line(at(22), &progress("packing", "bytes", 1 << 20, None)).as_deref(),
            Some("packing: 1.00 MiB")
        );
    }

    #[test]
    fn every_style_is_a_template() {
        for unit in ["", "bytes", "binaries"] {
            for total in [true, false] {
                style(unit, total);
            }
        }
    }
}
