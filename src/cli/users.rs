//! The users file on disk: read anew whenever it may have changed, and written so that it is always whole.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};

use crate::config::read_users;
use crate::model::account::Accounts;
use crate::service::journal::{Level, say};

/// Some thousand administrators.
const MAX_BYTES: u64 = 1 << 20;
/// What others than the owner and the group of the file may not do with it, and the group only in part.
const LOOSE: u32 = 0o027;

/// The users file, for those who must know at each moment what stands in it.
#[derive(Debug)]
pub(super) struct UsersFile {
    path: PathBuf,
    seen: Mutex<Option<Seen>>,
}

/// What stood in it the last time.
#[derive(Debug)]
struct Seen {
    content: Option<Vec<u8>>,
    accounts: Result<Arc<Accounts>, String>,
}

impl UsersFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::default() }
    }

    /// Who may log in now: nobody if there is no file. What is wrong with it is said once in the journal, and nobody
    /// gets in until it is mended.
    pub(super) fn read(&self) -> anyhow::Result<Arc<Accounts>> {
        // Reading some lines costs less than finding out surely whether they are still the same.
        let content = content(&self.path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                let cause = format!("{error:#}");
                let said = seen.as_ref().and_then(|seen| seen.accounts.as_ref().err());
                if said != Some(&cause) {
                    say(Level::Error, format_args!("{cause}: nobody can log in"));
                    *seen = Some(Seen { content: None, accounts: Err(cause) });
                }
                return Err(error);
            }
        };
        if let Some(Seen { content: Some(before), accounts }) = &*seen
            && *before == content
        {
            return accounts.clone().map_err(anyhow::Error::msg);
        }
        if let Some(complaint) = loose(&self.path) {
            say(Level::Warning, complaint);
        }
        let accounts = parse(&self.path, &content).map(Arc::new).map_err(|error| format!("{error:#}"));
        if let Err(cause) = &accounts {
            say(Level::Error, format_args!("nobody can log in: {cause}"));
        }
        *seen = Some(Seen { content: Some(content), accounts: accounts.clone() });
        accounts.map_err(anyhow::Error::msg)
    }
}

/// Everything in the file; nothing if there is none.
fn content(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    match read() {
        Ok(content) if content.len() as u64 > MAX_BYTES => {
            bail!("read users file `{}`: it is larger than {MAX_BYTES} bytes", path.display())
        }
        Ok(content) => Ok(content),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error).with_context(|| {
            format!("read users file `{}` (the user that runs the service must be able to read it)", path.display())
        }),
        Err(error) => Err(error).with_context(|| format!("read users file `{}`", path.display())),
    }
}

fn parse(path: &Path, content: &[u8]) -> anyhow::Result<Accounts> {
    let text = std::str::from_utf8(content).with_context(|| format!("read users file `{}`", path.display()))?;
    Ok(read_users(text, path)?)
}

/// Who may log in, for `holdfast check`.
pub(super) fn accounts(path: &Path) -> anyhow::Result<Accounts> {
    parse(path, &content(path)?)
}

/// What others may do with the file that they should not, and the way out.
pub(super) fn loose(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.mode() & 0o777;
    if mode & LOOSE == 0 {
        return None;
    }
    let may = if mode & 0o022 == 0 { "read" } else { "change" };
    let shown = path.display();
    Some(format!("others may {may} the users file `{shown}` (mode {mode:03o}): chmod 600 {shown}, or 640 with a group"))
}

/// Changes the text of the file, alone and at once: after a crash it is as before or as after. `change` gives none to
/// leave it.
pub(super) fn change(
    path: &Path,
    configuration: &Path,
    change: impl FnOnce(&str) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<bool> {
    // What a link leads to is meant, not the link.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let shown = path.display();
    let directory = path.parent().with_context(|| format!("find the directory of `{shown}`"))?;
    let held = File::open(directory).with_context(|| format!("open the directory of users file `{shown}`"))?;
    flock(&held, FlockOperation::LockExclusive).with_context(|| format!("wait for others who change `{shown}`"))?;
    let before = content(path)?;
    let text = std::str::from_utf8(&before).with_context(|| format!("read users file `{shown}`"))?;
    let Some(text) = change(text)? else { return Ok(false) };
    let new = path.with_extension("toml.new");
    let written = write(&new, &text, &Owner::of(path, configuration))
        .and_then(|()| fs::rename(&new, path).context("rename it into place"))
        .and_then(|()| held.sync_all().context("write its directory to disk"));
    if written.is_err() {
        // What is left of it is taken away here or by the next change.
        drop(fs::remove_file(&new));
    }
    written.with_context(|| format!("write users file `{shown}`"))?;
    Ok(true)
}

/// Whose the file is to be, and its mode.
#[derive(Debug)]
struct Owner {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: u32,
}

impl Owner {
    /// As it is; of a new one, whoever reads the configuration as a member of its group may read it as well.
    fn of(path: &Path, configuration: &Path) -> Self {
        if let Ok(there) = fs::metadata(path) {
            return Self { uid: Some(there.uid()), gid: Some(there.gid()), mode: there.mode() & 0o640 | 0o600 };
        }
        match fs::metadata(configuration) {
            Ok(there) if there.gid() != 0 && there.mode() & 0o040 != 0 && rustix::process::geteuid().is_root() => {
                Self { uid: None, gid: Some(there.gid()), mode: 0o640 }
            }
            _ => Self { uid: None, gid: None, mode: 0o600 },
        }
    }
}

fn write(new: &Path, text: &str, owner: &Owner) -> anyhow::Result<()> {
    match fs::remove_file(new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context("take an unfinished one away"),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new).context("make a new one")?;
    let mine = file.metadata().context("look at the new one")?;
    let (uid, gid) = (owner.uid.unwrap_or(mine.uid()), owner.gid.unwrap_or(mine.gid()));
    if (uid, gid) != (mine.uid(), mine.gid()) {
        fchown(&file, Some(uid), Some(gid))
            .context("give it to the owner of the old one (run as that user, or as root)")?;
    }
    file.set_permissions(fs::Permissions::from_mode(owner.mode)).context("set its mode")?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).context("write it to disk")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: &str = "[administrator.\"ada@example.org\"]\n\
        password = \"$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$ygHEQAtcXPzFZ0VEQvSDIw\"\n";

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_file_is_read_again_when_it_has_changed_and_nobody_gets_in_while_it_is_broken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        let users = UsersFile::new(path.clone());
        assert!(users.read().unwrap().is_empty());
        fs::write(&path, ADA).unwrap();
        let first = users.read().unwrap();
        assert!(first.find("ada@example.org").is_some());
        assert!(Arc::ptr_eq(&first, &users.read().unwrap()));
        // As long as before, and within the same tick of the file system's clock.
        fs::write(&path, ADA.replace("ada@", "eve@")).unwrap();
        assert!(users.read().unwrap().find("ada@example.org").is_none());
        fs::write(&path, "[administrator").unwrap();
        for _ in 0..2 {
            assert!(users.read().unwrap_err().to_string().contains("users.toml:1"));
        }
        fs::write(&path, ADA).unwrap();
        assert!(users.read().unwrap().find("ada@example.org").is_some());
        fs::remove_file(&path).unwrap();
        assert!(users.read().unwrap().is_empty());
    }

    #[test]
    fn a_change_keeps_the_mode_and_leaves_nothing_beside_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.toml");
        let configuration = directory.path().join("holdfast.toml");
        fs::write(path.with_extension("toml.new"), "left over").unwrap();
        assert!(change(&path, &configuration, |text| Ok(Some(format!("{text}{ADA}")))).unwrap());
        assert_eq!((fs::read_to_string(&path).unwrap(), mode(&path)), (ADA.to_owned(), 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(loose(&path).unwrap().contains("others may read"));
        assert!(!change(&path, &configuration, |_| Ok(None)).unwrap());
        assert_eq!(mode(&path), 0o644);
        assert!(change(&path, &configuration, |text| Ok(Some(text.to_owned()))).unwrap());
        assert_eq!((mode(&path), loose(&path)), (0o640, None));
        assert!(change(&path, &configuration, |_| bail!("no")).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), ADA);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
