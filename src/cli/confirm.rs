//! Asking a person before something is done.

use std::io::BufRead as _;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::cli::terminal;
use crate::jobs::context::Cancelled;

/// Waits for a line; whether it was a yes. To be asked to stop is a no.
pub(super) async fn confirm(question: &str, stop: &CancellationToken) -> anyhow::Result<()> {
    terminal::note(format_args!("{question} Type `yes` to go on:"));
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Cancelled.into()),
        line = read => line.context("wait for an answer")?.context("read the answer")?,
    };
    if matches!(line.trim().to_ascii_lowercase().as_str(), "yes" | "y") { Ok(()) } else { Err(Cancelled.into()) }
}
