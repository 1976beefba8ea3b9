//! Standard output and standard error: nothing else writes to them.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write as _};

use anyhow::Context as _;
use serde::Serialize;

/// Writes to standard output. Whoever closed it early, as `head` does, has seen enough; that is no error.
pub(super) fn out(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}

/// Writes one JSON value to standard output.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("write JSON")?;
    out(&(text + "\n"))
}

/// Writes a line to standard error.
pub(super) fn note(text: impl Display) {
    // If it cannot be written there is nobody to tell.
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Writes a warning to standard error.
pub(super) fn warn(text: impl Display) {
    note(format_args!("{} {text}", Paint::for_stderr().odd("warning:")));
}

/// Whether a person reads standard error.
pub(super) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Whether a person can be asked.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Colours, where they are seen and wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    colour: bool,
}

impl Paint {
    pub(super) fn for_stdout() -> Self {
        Self::of(&io::stdout())
    }

    pub(super) fn for_stderr() -> Self {
        Self::of(&io::stderr())
    }

    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { colour: false }
    }

    fn of(stream: &impl IsTerminal) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { colour: stream.is_terminal() && !unwanted }
    }

    pub(super) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn odd(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(super) fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
