//! The documents of a Fedora that is asked for them over HTTP, by its own calls `fcr:backup` and `fcr:restore`.
//!
//! Fedora writes and reads a ModeShape backup directory in a staging directory that both see.

mod call;
mod replacement;
mod staging;

use anyhow::Context as _;
use anyhow::bail;

use crate::model::fedora::FedoraServer;
use crate::repository::documents::DocumentDirectory;
use crate::repository::documents::Fingerprint;
use call::Answer;
use call::ask;
pub(super) use replacement::Replacement;
use staging::StagingDirectory;

/// A backup that Fedora made; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Staged {
    directory: DocumentDirectory,
    fingerprint: Fingerprint,
    _staging: StagingDirectory,
}

impl Staged {
    /// Has Fedora make one, which may take hours: its call takes no orders but where to. Blocks.
    pub(super) fn make(server: &FedoraServer, stop: &dyn Fn() -> bool) -> anyhow::Result<Self> {
        let staging = StagingDirectory::make(server, stop)?;
        let name = server.name_in_fedora(staging.path());
        let doing = || format!("ask Fedora at {} for a backup in `{}`", server.url, name.display());
        let answer = ask(server, "POST", "/fcr:backup", &name.display().to_string(), stop).with_context(doing)?;
        if answer.status != 200 {
            return Err(refusal(server, &answer)).with_context(doing);
        }
        // They are in the binary store as well, and may be as large as that.
        staging.remove_binaries()?;
        let directory = DocumentDirectory::new(staging.path());
        let fingerprint = directory.fingerprint().with_context(|| {
            format!(
                "{}: it says that it made one, and here it is not to be seen: is `staging` the same directory for \
                 Fedora? (`staging_in_fedora` says what Fedora calls it)",
                doing()
            )
        })?;
        Ok(Self { directory, fingerprint, _staging: staging })
    }

    /// Its documents.
    pub(super) fn directory(&self) -> &DocumentDirectory {
        &self.directory
    }

    /// What they looked like when it was made.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

/// Finds out whether Fedora answers, knows us, and has a staging directory that we can write. Blocks.
pub(super) fn look(server: &FedoraServer) -> anyhow::Result<()> {
    let doing = || format!("ask Fedora at {}", server.url);
    let answer = ask(server, "HEAD", "/", "", &|| false).with_context(doing)?;
    if answer.status != 200 {
        return Err(refusal(server, &answer)).with_context(doing);
    }
    StagingDirectory::look(server)
}

/// What an answer means that is not the one that was hoped for, with the way out where there is a known one.
fn refusal(server: &FedoraServer, answer: &Answer) -> anyhow::Error {
    let Answer { status, text } = answer;
    let hint = match status {
        401 if server.url.user.is_none() => "name a user in `url`, as http://USER@HOST/, and `password_file`",
        401 => "check the user in `url`, and the password in `password_file`",
        403 => "the user in `url` needs the role fedoraAdmin",
        404 | 405 => "`url` has to be the root of the REST interface of a Fedora 4 or 5, such as http://HOST:8080/rest",
        _ => "Fedora's own log says more; it has to be able to write to the staging directory, and to read there",
    };
    anyhow::anyhow!("it answered {status}{}{text} ({hint})", if text.is_empty() { "" } else { ": " })
}

/// An error if Fedora said no before it did anything.
fn refused_untouched(server: &FedoraServer, answer: &Answer) -> anyhow::Result<()> {
    match answer.status {
        400..=499 => bail!(refusal(server, answer)),
        // It looks for the directory before it clears the repository.
        500 if answer.text.starts_with("Backup directory does not exist") => bail!(refusal(server, answer)),
        _ => Ok(()),
    }
}
