//! What Fedora's own calls mean by the configuration.

use std::path::Path;
use std::time::Duration;

use crate::cli::exit::Usage;
use crate::cli::site::{repository, source};
use crate::config::{Config, DocumentSource, Place};
use crate::jobs::export::ExportOrder;
use crate::service::request::{ExportRequest, Refusal};
use crate::service::site::FedoraCalls;

/// How long a file must be unchanged before it is read a second time: as for a backup that does not say.
const SETTLE: Duration = Duration::from_secs(2);

/// The repository of the calls, and the directories that they may name.
pub(super) fn fedora(config: &Config) -> Result<FedoraCalls, Refusal> {
    let older = &config.older_interfaces;
    if older.fedora_roots.is_empty() {
        let text = "fcr:backup and fcr:restore are not set up: `fedora_roots` in [older_interfaces] says which \
                    directories they may name";
        return Err(Refusal::Invalid(text.to_owned()));
    }
    let mut all = config.repositories.keys();
    let only = all.next().filter(|_| config.repositories.len() == 1);
    let Some(repository) = older.repository.as_ref().or(only) else {
        let text = "there are several repositories: say which one is meant, as `repository` in [older_interfaces]";
        return Err(Refusal::Invalid(text.to_owned()));
    };
    Ok(FedoraCalls { repository: repository.clone(), roots: older.fedora_roots.clone() })
}

/// The order for an export; one into a place that is used for something else is refused.
pub(super) fn export_order(config: &Config, request: &ExportRequest) -> anyhow::Result<ExportOrder> {
    let repository = repository(config, &request.repository)?;
    for (what, path) in used(config) {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if path.starts_with(&request.directory) || request.directory.starts_with(&path) {
            return Err(Usage::new(
                format!("export to `{}`: {what} lies there, or around it", request.directory.display()),
                "name a directory that is used for nothing else",
            )
            .into());
        }
    }
    let ExportRequest { directory, made, .. } = request.clone();
    Ok(ExportOrder { source: source(repository), directory, made, settle: SETTLE })
}

/// The directories that hold something else than such backups.
fn used(config: &Config) -> Vec<(String, &Path)> {
    let mut used = vec![("the state directory".to_owned(), config.service.state_dir.as_path())];
    for repository in config.repositories.values() {
        used.push((format!("the binary store of the repository `{}`", repository.name), &repository.binaries));
        match &repository.documents {
            Some(DocumentSource::Directory(path)) => {
                used.push((format!("the directory of the documents of `{}`", repository.name), path));
            }
            Some(DocumentSource::Fedora(server)) => {
                used.push((format!("the staging directory of `{}`", repository.name), &server.staging));
            }
            Some(DocumentSource::Table(_)) | None => {}
        }
    }
    for destination in config.destinations.values() {
        if let Place::Directory(path) = &destination.place {
            used.push((format!("the destination `{}`", destination.name), path));
        }
    }
    used
}
