//! What a request for a restore means: which repository, from where, and to where.

use std::path::{Path, PathBuf};

use super::{ConfiguredSite, document_source, repository};
use crate::cli::exit::Usage;
use crate::cli::locate::{Located, locate, spelled};
use crate::cli::text;
use crate::config::{Config, Repository};
use crate::jobs::context::RunContext;
use crate::jobs::restore::{Origin, Parts, RestoreFrom, RestoreOrder, falls_to_root};
use crate::repository::binaries::BinaryStore;
use crate::repository::documents::{DocumentDirectory, DocumentSource};
use crate::service::request::RestoreRequest;

/// An order for a restore, and what is odd about it.
pub(in crate::cli) struct PreparedRestore {
    pub(in crate::cli) order: RestoreOrder,
    /// The backup is of another repository than the one it goes into.
    pub(in crate::cli) other_repository: Option<String>,
    /// The documents have nowhere to go; the run names them by itself.
    pub(in crate::cli) no_documents: Option<String>,
    /// Nothing tells whose files the restored ones are to be.
    pub(in crate::cli) no_owner: Option<String>,
}

impl ConfiguredSite {
    /// The order for a restore, and what is to be known about it beforehand.
    pub(in crate::cli) async fn prepare_restore(
        &self,
        run: &RunContext,
        request: &RestoreRequest,
    ) -> anyhow::Result<PreparedRestore> {
        let name = match &request.from {
            RestoreFrom::Backup(name) => name,
            RestoreFrom::Directory(directory) => return prepare_from_directory(&self.config, request, directory),
        };
        let located = locate(self.reach(), run, name, request.destination.as_deref()).await?;
        let repository = target(&self.config, &located, request.repository.as_deref())?;
        let from = spelled(&located.name);
        let other = repository.name != located.repository && request.to.is_none();
        let other_repository = other.then(|| {
            format!("the {from} is of the repository `{}`, and goes into `{}`", located.repository, repository.name)
        });
        let documents = match located.documents {
            0 => None,
            count => Some(format!("the documents in the {from} ({})", text::count(count))),
        };
        let origin = Origin::Backup(located.name, located.destination);
        Ok(PreparedRestore { other_repository, ..prepare(request, repository, origin, documents) })
    }
}

/// The same from a ModeShape backup directory, which does not say what it is of.
fn prepare_from_directory(
    config: &Config,
    request: &RestoreRequest,
    directory: &Path,
) -> anyhow::Result<PreparedRestore> {
    if request.destination.is_some() {
        let way_out = "take `--destination` out: a directory is on this machine";
        return Err(Usage::new("a directory lies at no destination", way_out).into());
    }
    let repository = match &request.repository {
        Some(name) => repository(config, name)?,
        None => {
            only(config).ok_or_else(|| which(config, "a backup directory does not say which repository it is of"))?
        }
    };
    let documents = Some("the documents in the directory".to_owned());
    Ok(prepare(request, repository, Origin::Directory(directory.to_owned()), documents))
}

/// The order, and whether `documents`, if the backup has any, have nowhere to go.
fn prepare(
    request: &RestoreRequest,
    repository: &Repository,
    from: Origin,
    documents: Option<String>,
) -> PreparedRestore {
    let (binaries, place) = places(repository, request.to.as_deref());
    let left_out = place.is_none() && request.only.is_empty() && request.parts != Parts::Binaries;
    let no_documents = documents.filter(|_| left_out).map(|documents| {
        format!(
            "{documents} are not restored, as the repository `{}` has no place for them: `--to DIR` gives them",
            repository.name
        )
    });
    let order = RestoreOrder {
        from,
        binaries: BinaryStore::at(&binaries, &repository.layout),
        documents: place,
        only: request.only.clone(),
        parts: request.parts,
        ignore_connections: request.ignore_connections,
    };
    let no_owner = (request.to.is_none() && falls_to_root(&binaries)).then(|| {
        "it is not there, so what is restored belongs to root: `chown -R` it to the repository's user".to_owned()
    });
    PreparedRestore { order, other_repository: None, no_documents, no_owner }
}

/// Where a restore puts binaries and documents.
fn places(repository: &Repository, to: Option<&Path>) -> (PathBuf, Option<DocumentSource>) {
    match to {
        Some(directory) => {
            let documents = DocumentDirectory::new(directory.join("documents"));
            (directory.join("binaries"), Some(DocumentSource::Directory(documents)))
        }
        None => (repository.binaries.clone(), repository.documents.as_ref().map(document_source)),
    }
}

/// The repository that is named, or the one that the backup is of, or the only one.
fn target<'a>(config: &'a Config, located: &Located, named: Option<&str>) -> Result<&'a Repository, Usage> {
    if let Some(name) = named {
        return repository(config, name);
    }
    config.repositories.get(&located.repository).or_else(|| only(config)).ok_or_else(|| {
        let (name, of) = (spelled(&located.name), &located.repository);
        which(config, &format!("the {name} is of the repository `{of}`, which the configuration does not have"))
    })
}

/// The repository, if there is just one.
fn only(config: &Config) -> Option<&Repository> {
    config.repositories.values().next().filter(|_| config.repositories.len() == 1)
}

fn which(config: &Config, why: &str) -> Usage {
    let known: Vec<&str> = config.repositories.keys().map(String::as_str).collect();
    Usage::new(why, format!("say which one is meant with `--repository NAME`: {}", known.join(", ")))
}
