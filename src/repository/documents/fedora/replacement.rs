//! Documents on their way back into a Fedora, in a backup directory that it restores by itself.

use std::fs::File;
use std::fs::Permissions;
use std::io::BufWriter;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Context as _;
use anyhow::ensure;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::call::Unasked;
use super::call::ask;
use super::refusal;
use super::refused_untouched;
use super::staging::StagingDirectory;
use crate::model::archive::documents_name;
use crate::model::fedora::FedoraServer;
use crate::model::readable::check_readable;
use crate::repository::documents::pack::DOCUMENTS_PER_FILE;
use crate::repository::documents::sink::CommitUnknown;
use crate::repository::documents::sink::DocumentSink;

/// What to do after a restore that Fedora did not carry out: it leaves nothing, and no way in (ModeShape's
/// `BackupService`).
const AFTER: &str = "Fedora may be empty, and let nobody in before it is started anew: restart it, and restore again";

/// New documents for a Fedora, which knows nothing of them until they are committed.
#[derive(Debug)]
pub(in crate::repository::documents) struct Replacement {
    server: FedoraServer,
    staging: StagingDirectory,
    file: Option<GzEncoder<BufWriter<File>>>,
    files: u32,
    documents: u64,
    finished: bool,
}

impl Replacement {
    /// Makes room for them in the staging directory.
    pub(in crate::repository::documents) fn begin(
        server: &FedoraServer,
        stop: &dyn Fn() -> bool,
    ) -> anyhow::Result<Self> {
        let staging = StagingDirectory::make(server, stop)?;
        check_sight(server, &staging, stop)?;
        Ok(Self { server: server.clone(), staging, file: None, files: 0, documents: 0, finished: false })
    }

    fn begin_file(&mut self) -> anyhow::Result<()> {
        self.end_file()?;
        self.files += 1;
        let path = self.staging.path().join(documents_name(self.files));
        let file = File::create_new(&path).with_context(|| format!("make `{}`", path.display()))?;
        // What Fedora cannot read it takes for the end, without a word; who may use the directory may read the file.
        file.set_permissions(Permissions::from_mode(0o644)).with_context(|| format!("make `{}`", path.display()))?;
        self.file = Some(GzEncoder::new(BufWriter::new(file), Compression::fast()));
        Ok(())
    }

    fn end_file(&mut self) -> anyhow::Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let end = || file.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all();
        end().with_context(|| format!("write documents to `{}`", self.staging.path().display()))
    }
}

/// An error if Fedora cannot look into our directory: it would take documents that it cannot read for none at all, and
/// clear the repository.
///
/// Asked for a backup into a file, it looks whether it may write there, and then sees that it is no directory.
fn check_sight(server: &FedoraServer, staging: &StagingDirectory, stop: &dyn Fn() -> bool) -> anyhow::Result<()> {
    let file = staging.path().join("sight");
    let name = server.name_in_fedora(&file);
    let doing = || format!("have Fedora at {} look at `{}`", server.url, name.display());
    let make = || File::create_new(&file)?.set_permissions(Permissions::from_mode(0o666));
    make().with_context(|| format!("make `{}`", file.display()))?;
    let answer = ask(server, "POST", "/fcr:backup", &name.display().to_string(), stop).with_context(doing)?;
    std::fs::remove_file(&file).with_context(|| format!("remove `{}`", file.display()))?;
    if (400..500).contains(&answer.status) {
        return Err(refusal(server, &answer)).with_context(doing);
    }
    ensure!(
        !answer.text.starts_with("Backup directory does not exist or is not writable"),
        "{}: it does not see it (is `staging` the same directory for Fedora? `staging_in_fedora` says what Fedora calls \
         it; and may the user that runs Fedora use it?); nothing was changed",
        doing()
    );
    Ok(())
}

impl DocumentSink for Replacement {
    fn write(&mut self, line: &[u8], _stop: &dyn Fn() -> bool) -> anyhow::Result<()> {
        check_readable(line).with_context(|| {
            format!(
                "write document {} for Fedora: its own restore would lose it, and maybe others with it (restore it into \
                 the database directly, as `postgres` or `mysql` in [repository.NAME.documents] says)",
                self.documents + 1
            )
        })?;
        if self.documents.is_multiple_of(DOCUMENTS_PER_FILE) {
            self.begin_file()?;
        }
        let file = self.file.as_mut().context("all documents have been written already")?;
        let mut write = || file.write_all(line).and_then(|()| file.write_all(b"\n"));
        write().with_context(|| format!("write documents to `{}`", self.staging.path().display()))?;
        self.documents += 1;
        Ok(())
    }

    fn finish(&mut self, _stop: &dyn Fn() -> bool) -> anyhow::Result<u64> {
        self.end_file()?;
        self.finished = true;
        Ok(self.documents)
    }

    fn commit(self: Box<Self>) -> anyhow::Result<()> {
        let Self { server, staging, .. } = &*self;
        let name = server.name_in_fedora(staging.path());
        let doing = || format!("have Fedora at {} restore `{}`", server.url, name.display());
        ensure!(self.finished, "{}: not all documents have been written", doing());
        // Fedora without any documents is no repository.
        ensure!(self.documents > 0, "{}: there are no documents", doing());
        let unknown = |cause: String| Err(CommitUnknown { cause, way_out: AFTER }).with_context(doing);
        let answer = match ask(server, "POST", "/fcr:restore", &name.display().to_string(), &|| false) {
            Err(error) if error.is::<Unasked>() => {
                return Err(error).with_context(|| format!("{}: it has the old documents", doing()));
            }
            Err(error) => return unknown(format!("{error:#}")),
            Ok(answer) => answer,
        };
        refused_untouched(server, &answer).with_context(|| format!("{}: it has the old documents", doing()))?;
        if answer.status != 204 {
            return unknown(format!("{:#}", refusal(server, &answer)));
        }
        Ok(())
    }
}
