//! What the daemon says while it works: one line each on standard error, which systemd takes into the journal.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::OnceLock;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something did not work, and somebody should look.
    Error,
    /// Something is not as it should be.
    Warning,
    /// Something happened that is worth a line.
    Info,
}

impl Level {
    /// As syslog counts them, the way sd-daemon(3) has them at the beginning of a line.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Error => "<3>",
            Self::Warning => "<4>",
            Self::Info => "<6>",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Error => "error: ",
            Self::Warning => "warning: ",
            Self::Info => "",
        }
    }
}

/// Writes one line; line breaks in `text` would begin further entries in the journal, and become ` | `.
pub fn say(level: Level, text: impl Display) {
    static JOURNAL: OnceLock<bool> = OnceLock::new();
    let journal = *JOURNAL.get_or_init(|| std::env::var_os("JOURNAL_STREAM").is_some());
    let line = line(level, journal, &text.to_string());
    // If it cannot be written there is nobody to tell.
    drop(std::io::stderr().lock().write_all(line.as_bytes()));
}

fn line(level: Level, journal: bool, text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines.join(" | ");
    if journal { format!("{}{text}\n", level.prefix()) } else { format!("holdfast: {}{text}\n", level.word()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_with_its_level() {
        assert_eq!(line(Level::Warning, true, "one\n   two\n"), "<4>one | two\n");
        assert_eq!(line(Level::Error, false, "disk full"), "holdfast: error: disk full\n");
        assert_eq!(line(Level::Info, false, "ready"), "holdfast: ready\n");
    }
}
