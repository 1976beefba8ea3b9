//! `holdfast check`: everything that a run needs, looked at before it is needed.

mod bandwidth;
mod destinations;
mod listeners;
mod machine;
mod repositories;
mod schedules;
mod watches;

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::terminal::{self, Paint};
use crate::config::{Config, ConfigError};
use crate::jobs::context::Clock as _;
use crate::service::clock::SystemClock;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    subject: String,
    message: String,
    hint: Option<String>,
}

/// What was found out, in the order in which it was looked at.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, subject: &str, message: impl Into<String>) {
        self.add(Level::Ok, subject, message.into(), None);
    }

    fn warning(&mut self, subject: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Level::Warning, subject, message.into(), Some(hint.into()));
    }

    fn error(&mut self, subject: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Level::Error, subject, message.into(), Some(hint.into()));
    }

    /// An error that says by itself what to do.
    fn failure(&mut self, subject: &str, error: &anyhow::Error) {
        self.add(Level::Error, subject, format!("{error:#}"), None);
    }

    fn add(&mut self, level: Level, subject: &str, message: String, hint: Option<String>) {
        self.0.push(Finding { level, subject: subject.to_owned(), message, hint });
    }

    fn has_errors(&self) -> bool {
        self.0.iter().any(|finding| finding.level == Level::Error)
    }

    fn show(&self, json: bool) -> anyhow::Result<()> {
        if json { terminal::json(&self.0) } else { terminal::out(&self.text(Paint::for_stdout())) }
    }

    fn text(&self, paint: Paint) -> String {
        let width = self.0.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
        let mut lines = Vec::new();
        for finding in &self.0 {
            let level = match finding.level {
                Level::Ok => paint.good("ok     "),
                Level::Warning => paint.odd("warning"),
                Level::Error => paint.bad("error  "),
            };
            lines.push(format!("{level}  {:<width$}  {}\n", finding.subject, finding.message));
            lines.extend(finding.hint.iter().map(|hint| format!("         {:<width$}  way out: {hint}\n", "")));
        }
        lines.concat()
    }
}

pub(super) async fn check(file: &Path, arguments: &Arguments) -> anyhow::Result<Exit> {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            if arguments.json {
                refused(&error).show(true)?;
            }
            return Err(error.into());
        }
    };
    let mut findings = Findings::default();
    machine::configuration(&mut findings, &config);
    let kept = machine::state(&mut findings, &config);
    machine::administrators(&mut findings, &config);
    listeners::check(&mut findings, &config, kept.is_some(), SystemClock.now()).await;
    machine::limits(&mut findings, &config);
    schedules::check(&mut findings, &config, SystemClock.now());
    watches::check(&mut findings, &config).await;
    for repository in config.repositories.values() {
        // A database is asked from a thread that may wait.
        let (repository, mut so_far) = (repository.clone(), findings);
        let looking = tokio::task::spawn_blocking(move || {
            repositories::check(&mut so_far, &repository);
            so_far
        });
        findings = looking.await.context("look at the repository")?;
    }
    for destination in config.destinations.values() {
        bandwidth::check(&mut findings, destination, SystemClock.now());
        destinations::check(&mut findings, destination, kept.as_ref()).await;
    }
    findings.show(arguments.json)?;
    Ok(if findings.has_errors() { Exit::Failed } else { Exit::Succeeded })
}

fn refused(error: &ConfigError) -> Findings {
    let mut findings = Findings::default();
    for problem in &error.problems {
        let place = problem.spot.as_ref().map(|spot| format!("line {}, column {}: ", spot.line, spot.column));
        let message = format!("{}{}", place.unwrap_or_default(), problem.cause);
        findings.error("configuration", message, problem.way_out.clone());
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_in_columns_with_the_way_out_below() {
        let mut findings = Findings::default();
        findings.ok("configuration", "read");
        findings.warning("destination s3", "does not list unfinished uploads", "grant the right");
        insta::assert_snapshot!(findings.text(Paint::none()), @r#"
        ok       configuration   read
        warning  destination s3  does not list unfinished uploads
                                 way out: grant the right
        "#);
        assert!(!findings.has_errors());
    }
}
