//! Where a restore point or an archive lies, and what it is of.

use crate::cli::destination::Purpose;
use crate::cli::exit::Usage;
use crate::cli::site::{self, Reach};
use crate::config::Config;
use crate::jobs::catalogue::{self, RestorableName};
use crate::jobs::context::{Destination, RunContext};
use crate::jobs::restore::RestoreFrom;
use crate::ledger::Ledger;
use crate::model::key::Key;
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

/// The same of whatever a restore can be from.
pub(super) fn spelled_from(from: &RestoreFrom) -> String {
    match from {
        RestoreFrom::Backup(name) => spelled(name),
        RestoreFrom::Directory(path) => format!("directory {}", path.display()),
    }
}

/// No destination has what was named.
#[derive(Debug, thiserror::Error)]
#[error("there is no {what} at {places}: `holdfast points` lists what there is")]
pub(super) struct NotThere {
    what: String,
    places: String,
}

/// Reads the manifest at the named destination, or at whichever has it.
pub(super) async fn locate(
    reach: Reach<'_>,
    run: &RunContext,
    name: &RestorableName,
    destination: Option<&str>,
) -> anyhow::Result<Located> {
    let Seen { destination, repository, documents } =
        search(reach, run, name, destination, Look::IntoTheManifest).await?;
    Ok(Located { name: name.clone(), destination, repository, documents })
}

/// Which destination has it, without reading it: what is damaged is there as well.
pub(super) async fn holder(
    reach: Reach<'_>,
    run: &RunContext,
    name: &RestorableName,
    destination: Option<&str>,
) -> anyhow::Result<Destination> {
    Ok(search(reach, run, name, destination, Look::WhetherItIsThere).await?.destination)
}

/// How closely a destination is looked at.
#[derive(Clone, Copy, Debug)]
enum Look {
    IntoTheManifest,
    WhetherItIsThere,
}

/// A destination that has it, and what was read of it.
#[derive(Debug)]
struct Seen {
    destination: Destination,
    repository: String,
    documents: u64,
}

/// Looks at the named destination, or at all there are.
async fn search(
    reach: Reach<'_>,
    run: &RunContext,
    name: &RestorableName,
    destination: Option<&str>,
    look: Look,
) -> anyhow::Result<Seen> {
    let candidates: Vec<&str> = match destination {
        Some(name) => vec![name],
        None => reach.config.destinations.keys().map(String::as_str).collect(),
    };
    let mut found: Vec<Seen> = Vec::new();
    let mut unreached = None;
    for candidate in &candidates {
        match look_at(reach, run, name, candidate, look).await {
            Ok(seen) => found.extend(seen),
            // Another destination may have it; if none has, this is the reason that counts.
            Err(error) if !run.stop.is_cancelled() && candidates.len() > 1 => unreached = unreached.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    match (found.pop(), found.pop(), unreached) {
        (Some(only), None, _) => Ok(only),
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
        (None, _, None) => Err(NotThere { what: spelled(name), places: places(reach.config, &candidates) }.into()),
    }
}

fn places(config: &Config, names: &[&str]) -> String {
    let place = |name: &&str| match config.destinations.get(*name) {
        Some(destination) => format!("`{name}` ({})", destination.place),
        None => format!("`{name}`"),
    };
    names.iter().map(place).collect::<Vec<_>>().join(" or ")
}

async fn look_at(
    reach: Reach<'_>,
    run: &RunContext,
    name: &RestorableName,
    destination: &str,
    look: Look,
) -> anyhow::Result<Option<Seen>> {
    let destination = site::open(reach, destination, Purpose::Read, run).await?;
    let seen = match look {
        Look::IntoTheManifest => manifest(&destination, &run.ledger, name).await,
        Look::WhetherItIsThere => is_there(&destination, name).await.map(|()| (String::new(), 0)),
    };
    match seen {
        Ok((repository, documents)) => Ok(Some(Seen { destination, repository, documents })),
        Err(error) if is_not_there(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn is_there(destination: &Destination, name: &RestorableName) -> anyhow::Result<()> {
    let key = match name {
        RestorableName::Point(name) => Key::in_point(name, "point.json"),
        RestorableName::Archive(name) => Key::archive_manifest(name),
    };
    destination.store.head(&key).await?;
    Ok(())
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
