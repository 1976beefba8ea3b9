//! Where the documents of a repository come from, and go back to.

use anyhow::bail;

use crate::model::database::DocumentTable;
use crate::model::database::Server;
use crate::model::fedora::FedoraServer;
use crate::repository::documents::DocumentDirectory;
use crate::repository::documents::DocumentReport;
use crate::repository::documents::Fingerprint;
use crate::repository::documents::PackedDocuments;
use crate::repository::documents::SeenDocuments;
use crate::repository::documents::database::OtherConnection;
use crate::repository::documents::database::TableReport;
use crate::repository::documents::fedora;
use crate::repository::documents::mysql;
use crate::repository::documents::postgres;
use crate::repository::documents::sink::DocumentSink;

/// Where documents come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentSource {
    /// A directory, as ModeShape's backup writes it.
    Directory(DocumentDirectory),
    /// A table of a database.
    Table(DocumentTable),
    /// A Fedora that makes backups on request.
    Fedora(FedoraServer),
}

/// Documents as they are at one moment, or, in a directory, as they have to stay.
#[derive(Debug)]
pub struct OpenDocuments(Open);

#[derive(Debug)]
enum Open {
    Directory(DocumentDirectory, Fingerprint),
    Postgres(Box<postgres::Snapshot>),
    Mysql(Box<mysql::Snapshot>),
    Fedora(fedora::Staged),
}

impl std::fmt::Display for DocumentSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", directory.path().display()),
            Self::Table(table) => write!(f, "{}", table.url),
            Self::Fedora(server) => write!(f, "{}", server.url),
        }
    }
}

impl DocumentSource {
    /// Opens them; what a database or a Fedora holds now is what will be read. Blocks.
    pub fn open(&self, stop: &dyn Fn() -> bool) -> anyhow::Result<OpenDocuments> {
        let open = match self {
            Self::Directory(directory) => Open::Directory(directory.clone(), directory.fingerprint()?),
            Self::Table(table) => match table.url.server {
                Server::Postgres => Open::Postgres(Box::new(postgres::Snapshot::take(table, stop)?)),
                Server::Mysql => Open::Mysql(Box::new(mysql::Snapshot::take(table, stop)?)),
            },
            Self::Fedora(server) => Open::Fedora(fedora::Staged::make(server, stop)?),
        };
        Ok(OpenDocuments(open))
    }
}

impl OpenDocuments {
    /// What they look like from outside; as long as it stays the same, there is nothing new to read. None if that
    /// cannot be told.
    pub fn fingerprint(&self) -> Option<String> {
        match &self.0 {
            Open::Directory(_, fingerprint) => Some(fingerprint.to_string()),
            Open::Postgres(snapshot) => Some(snapshot.fingerprint().to_owned()),
            Open::Mysql(snapshot) => Some(snapshot.fingerprint().to_owned()),
            // Its files are made anew each time.
            Open::Fedora(_) => None,
        }
    }

    /// Reads all documents and hands them to `sink` in files, each id once. Blocks.
    ///
    /// `seen` has to be empty. What `sink` got counts only when this returns a report.
    pub fn read(
        &mut self,
        seen: &mut dyn SeenDocuments,
        stop: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(PackedDocuments) -> anyhow::Result<()>,
    ) -> anyhow::Result<DocumentReport> {
        match &mut self.0 {
            Open::Directory(directory, _) => directory.read(seen, stop, sink),
            Open::Postgres(snapshot) => snapshot.read(stop, sink),
            Open::Mysql(snapshot) => snapshot.read(stop, sink),
            Open::Fedora(staged) => staged.directory().read(seen, stop, sink),
        }
    }

    /// An error if a directory no longer looks as it did when it was opened.
    pub fn unchanged(&self) -> anyhow::Result<()> {
        let (directory, fingerprint) = match &self.0 {
            Open::Directory(directory, fingerprint) => (directory, *fingerprint),
            Open::Fedora(staged) => (staged.directory(), staged.fingerprint()),
            Open::Postgres(_) | Open::Mysql(_) => return Ok(()),
        };
        if directory.fingerprint()? != fingerprint {
            bail!(
                "read documents in `{}`: they were changed meanwhile; run the backup again",
                directory.path().display()
            );
        }
        Ok(())
    }
}

impl DocumentSource {
    /// Begins to replace all documents at once; none for a directory, whose files are moved instead. Blocks.
    pub fn replace(&self, stop: &dyn Fn() -> bool) -> anyhow::Result<Option<Box<dyn DocumentSink>>> {
        Ok(match self {
            Self::Directory(_) => None,
            Self::Table(table) => Some(table.replace(stop)?),
            Self::Fedora(server) => Some(Box::new(fedora::Replacement::begin(server, stop)?)),
        })
    }
}

impl FedoraServer {
    /// Looks whether it answers, knows us, and shares a directory with us. Blocks.
    pub fn look(&self) -> anyhow::Result<()> {
        fedora::look(self)
    }
}

impl DocumentTable {
    /// Begins to replace the documents: waits until nobody else writes, and holds the table. Blocks.
    pub fn replace(&self, stop: &dyn Fn() -> bool) -> anyhow::Result<Box<dyn DocumentSink>> {
        match self.url.server {
            Server::Postgres => Ok(Box::new(postgres::Replacement::begin(self, stop)?)),
            Server::Mysql => Ok(Box::new(mysql::Replacement::begin(self, stop)?)),
        }
    }

    /// The connections of others to the database, as far as the user may see them. Blocks.
    pub fn other_connections(&self) -> anyhow::Result<Vec<OtherConnection>> {
        match self.url.server {
            Server::Postgres => postgres::other_connections(self),
            Server::Mysql => mysql::other_connections(self),
        }
    }

    /// Looks at everything that reading and writing need. Blocks.
    pub fn look(&self) -> anyhow::Result<TableReport> {
        match self.url.server {
            Server::Postgres => postgres::look(self),
            Server::Mysql => mysql::look(self),
        }
    }
}
