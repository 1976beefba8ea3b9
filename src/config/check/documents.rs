//! Where the documents of a repository come from.

use std::path::PathBuf;

use super::{Check, relation};
use crate::config::file::{DatabaseTable, DocumentsTable, FedoraTable};
use crate::config::value::{FromText, Text};
use crate::config::{Config, DEFAULT_FEDORA_TIMEOUT, DEFAULT_TABLE, DocumentSource};
use crate::model::database::{DatabaseUrl, DocumentTable, TableName};
use crate::model::fedora::FedoraServer;

/// The table of a database; `plain` takes the url out of what tells the servers apart.
fn database<U: FromText>(
    written: DatabaseTable<U>,
    plain: impl Fn(U) -> DatabaseUrl,
    resolve: &dyn Fn(PathBuf) -> PathBuf,
) -> DocumentTable {
    let DatabaseTable { url, table, password_file, compress } = written;
    let url = plain(url.0);
    let root_certificate = url.root_certificate.map(resolve);
    DocumentTable {
        url: DatabaseUrl { root_certificate, ..url },
        table: table.map_or_else(|| TableName { schema: None, name: DEFAULT_TABLE.to_owned() }, |Text(table)| table),
        password_file: password_file.map(|Text(path)| resolve(path)),
        compress,
    }
}

impl Check<'_> {
    /// Where the documents come from: one place, and no other.
    pub(super) fn documents(
        &mut self,
        name: &str,
        table: DocumentsTable,
        resolve: &dyn Fn(PathBuf) -> PathBuf,
    ) -> Option<DocumentSource> {
        let DocumentsTable { directory, postgres, mysql, fedora } = table;
        let mut given = Vec::new();
        given.extend(directory.map(|Text(path)| ("directory", DocumentSource::Directory(resolve(path)))));
        given.extend(postgres.map(|table| ("postgres", DocumentSource::Table(database(table, |url| url.0, resolve)))));
        given.extend(mysql.map(|table| ("mysql", DocumentSource::Table(database(table, |url| url.0, resolve)))));
        if let Some(fedora) = fedora {
            given.push(("fedora", DocumentSource::Fedora(self.fedora(name, fedora, resolve))));
        }
        let header = ["repository", name, "documents"];
        if given.is_empty() {
            self.complain(
                self.key(&header),
                format!("[{}] does not say where the documents are", header.join(".")),
                "add directory = \"/srv/modeshape-backup\" or postgres = { url = \"postgresql://USER@HOST/DATABASE\" } \
                 or mysql = { url = \"mysql://USER@HOST/DATABASE\" } or fedora = { url = \"http://HOST:8080/rest\", \
                 staging = \"/srv/staging\" }"
                    .to_owned(),
            );
        }
        if let [(first, _), (second, _), ..] = given.as_slice() {
            self.complain(
                self.key(&["repository", name, "documents", second]),
                format!("[{}] says twice where the documents are", header.join(".")),
                format!("leave one of `{first}` and `{second}`"),
            );
        }
        given.into_iter().next().map(|(_, source)| source)
    }

    fn fedora(&mut self, name: &str, table: FedoraTable, resolve: &dyn Fn(PathBuf) -> PathBuf) -> FedoraServer {
        let FedoraTable { url: Text(url), staging, staging_in_fedora, password_file, root_certificate, timeout } =
            table;
        let key = ["repository", name, "documents", "fedora"];
        if url.user.is_some() != password_file.is_some() {
            let (cause, way_out) = if url.user.is_some() {
                ("there is a user in `url`, and no password", "add password_file = \"/etc/holdfast/fedora-password\"")
            } else {
                ("there is a password, and no user it is of", "name the user in the url: http://USER@HOST:8080/rest")
            };
            self.complain(self.key(&key), cause.to_owned(), way_out.to_owned());
        }
        if !url.encrypted && root_certificate.is_some() {
            self.complain(
                self.key(&key),
                "`root_certificate` is for https, and the url begins with http".to_owned(),
                "take it out, or write https in the url".to_owned(),
            );
        }
        let staging = resolve(staging.0);
        let staging_in_fedora = staging_in_fedora.map(|Text(path)| path);
        if let Some(path) = staging_in_fedora.as_ref().filter(|path| !path.is_absolute()) {
            let cause =
                format!("`staging_in_fedora` is a path in Fedora's world, and `{}` is relative", path.display());
            self.complain(self.key(&key), cause, "begin it with `/`".to_owned());
        }
        FedoraServer {
            url,
            staging_in_fedora: staging_in_fedora.unwrap_or_else(|| staging.clone()),
            staging,
            password_file: password_file.map(|Text(path)| resolve(path)),
            root_certificate: root_certificate.map(|Text(path)| resolve(path)),
            timeout: timeout.map_or(DEFAULT_FEDORA_TIMEOUT, |Text(period)| period.0),
        }
    }

    /// What lies in a staging directory under names of ours is removed, so that nothing else belongs there.
    pub(super) fn staging_apart(&mut self, config: &Config) {
        for repository in config.repositories.values() {
            let Some(DocumentSource::Fedora(server)) = &repository.documents else { continue };
            for other in config.repositories.values() {
                let Some(relation) = relation(&server.staging, &other.binaries) else { continue };
                self.complain_of_two(
                    [
                        &["repository", repository.name.as_str(), "documents", "fedora"],
                        &["repository", other.name.as_str(), "binaries"],
                    ],
                    &format!("the binaries of [repository.{}]", other.name),
                    relation,
                    &format!("the staging directory of [repository.{}]", repository.name),
                    "give backups on their way a directory that is used for nothing else",
                );
            }
        }
    }
}
