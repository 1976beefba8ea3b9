//! Where a restore point or an archive lies, and what it is of.

use crate::cli::destination::Purpose;
use crate::cli::exit::Usage;
use crate::cli::site;
use crate::config::Config;
use crate::jobs::catalogue::{self, RestorableName};
use crate::jobs::context::{Destination, RunContext};
use crate::ledger::Ledger;
use crate::store::{ErrorKind, StoreError};

/// Something to restore from, found.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) name: RestorableName,
    pub(super) destination: Destination,
    /// The repository it is of.
    pub(super) repository: String,
    /// How many documents are in it.
    pub(super) documents: u64,
}

/// How people write the name.
pub(super) fn spelled(name: &RestorableName) -> String {
    match name {
        RestorableName::Point(name) => format!("restore point {name}"),
        RestorableName::Archive(name) => format!("archive {name}.zip"),
    }
}

/// Looks at the named destination, or at all there are.
pub(super) async fn locate(
    config: &Config,
    run: &RunContext,
    name: &RestorableName,
    destination: Option<&str>,
) -> anyhow::Result<Located> {
    let candidates: Vec<&str> = match destination {
        Some(name) => vec![name],
        None => config.destinations.keys().map(String::as_str).collect(),
    };
    let mut found: Vec<Located> = Vec::new();
    let mut unreached = None;
    for candidate in &candidates {
        match look(config, run, name, candidate).await {
            Ok(located) => found.extend(located),
            // Another destination may have it; if none has, this is the reason that counts.
            Err(error) if !run.stop.is_cancelled() && candidates.len() > 1 => unreached = unreached.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    match (found.pop(), found.pop(), unreached) {
        (Some(located), None, _) => Ok(located),
        (Some(second), Some(first), _) => Err(Usage::new(
            format!(
                "the {} is at the destinations `{}` and `{}`",
                spelled(name),
                first.destination.name,
                second.destination.name
            ),
            "say which one to use with `--destination NAME`",
        )
        .into()),
        (None, _, Some(error)) => Err(error),
        (None, _, None) => anyhow::bail!(
            "there is no {} at {}: `holdfast points` lists what there is",
            spelled(name),
            places(config, &candidates)
        ),
    }
}

fn places(config: &Config, names: &[&str]) -> String {
    let place = |name: &&str| match config.destinations.get(*name) {
        Some(destination) => format!("`{name}` ({})", destination.place),
        None => format!("`{name}`"),
    };
    names.iter().map(place).collect::<Vec<_>>().join(" or ")
}

async fn look(
    config: &Config,
    run: &RunContext,
    name: &RestorableName,
    destination: &str,
) -> anyhow::Result<Option<Located>> {
    let destination = site::open(config, destination, Purpose::Read, run).await?;
    match manifest(&destination, &run.ledger, name).await {
        Ok((repository, documents)) => Ok(Some(Located { name: name.clone(), destination, repository, documents })),
        Err(error) if is_not_there(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn manifest(destination: &Destination, ledger: &Ledger, name: &RestorableName) -> anyhow::Result<(String, u64)> {
    match name {
        RestorableName::Point(name) => {
            let manifest = catalogue::point(destination, Some(ledger), name).await?;
            Ok((manifest.repository, manifest.documents.count))
        }
        RestorableName::Archive(name) => {
            let manifest = catalogue::archive(destination, Some(ledger), name).await?;
            Ok((manifest.repository, manifest.documents.count))
        }
    }
}

fn is_not_there(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(|error| error.kind == ErrorKind::NotFound)
}
