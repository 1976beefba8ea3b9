//! A socket in the file system, which is there for as long as somebody listens on it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// How many connections wait to be taken.
const BACKLOG: u32 = 128;

/// A socket that is listened on; its file goes when it is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and number of the file, which another may have replaced.
    file: (u64, u64),
}

impl Socket {
    /// Listens there, for those whom `mode` lets in. A socket that nobody listens on any more is replaced.
    pub(super) async fn bind(path: PathBuf, mode: u32) -> anyhow::Result<Self> {
        let listening = || format!("listen on `{}`", path.display());
        remove_stale(&path).await.with_context(listening)?;
        let bind = || -> io::Result<UnixListener> {
            let socket = UnixSocket::new_stream()?;
            socket.bind(&path)?;
            // Before anybody listens nobody can connect, so the rights are right from the beginning.
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            socket.listen(BACKLOG)
        };
        let listener = bind().map_err(|error| anyhow::anyhow!(explain(&error))).with_context(listening)?;
        let file = identity(&path).with_context(listening)?;
        Ok(Self { listener, path, file })
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // If it stays, the next start finds that nobody listens and takes it away.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

async fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !metadata.file_type().is_socket() {
        bail!("something else lies there: take it away, or name another socket");
    }
    match UnixStream::connect(path).await {
        Ok(_) => bail!("another service listens there: stop it first"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context("take the socket of a service away that was killed")
        }
        Err(error) => Err(error).context("find out whether another service listens there"),
    }
}

fn explain(error: &io::Error) -> String {
    let way_out = match error.kind() {
        io::ErrorKind::NotFound => "its directory is not there: make it, or name another socket",
        io::ErrorKind::PermissionDenied => {
            "this user may not write its directory: grant the right, or name another socket"
        }
        io::ErrorKind::InvalidInput => "a socket's path has at most 107 bytes: choose a shorter one",
        _ => return error.to_string(),
    };
    format!("{error}; {way_out}")
}
