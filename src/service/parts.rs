//! The parts of the daemon that go on until it ends; if one ends before, the daemon is not whole.

use anyhow::anyhow;
use tokio::task::{JoinError, JoinSet};

use super::journal::{Level, say};

/// The parts that are under way.
#[derive(Debug, Default)]
pub struct Parts(JoinSet<(&'static str, anyhow::Result<()>)>);

impl Parts {
    /// Begins a part; what it does is said in errors: "watch the stores".
    pub fn add(&mut self, does: &'static str, part: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.0.spawn(async move { (does, part.await) });
    }

    /// Waits until a part ends, which none should yet, and gives the reason.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.0.join_next().await {
            Some(ended) => failure(ended),
            None => std::future::pending().await,
        }
    }

    /// Waits until all parts have ended, as they were told to.
    pub async fn ended(mut self) {
        while let Some(ended) = self.0.join_next().await {
            if !matches!(ended, Ok((_, Ok(())))) {
                say(Level::Error, format_args!("{:#}", failure(ended)));
            }
        }
    }
}

fn failure(ended: Result<(&'static str, anyhow::Result<()>), JoinError>) -> anyhow::Error {
    match ended {
        Ok((does, Ok(()))) => anyhow!("{does}: it ended by itself"),
        Ok((does, Err(error))) => error.context(does),
        Err(error) => anyhow!(error).context("run a part of the service"),
    }
}
