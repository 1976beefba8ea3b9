//! The configuration file, the state directory and the limits of the process.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, geteuid, getrlimit};

use super::Findings;
use crate::cli::session::{ledger_to_read, lost_ledger};
use crate::cli::{text, users};
use crate::config::{Config, ConfigError};
use crate::ledger::{InUse, Ledger, StateLock};

/// A ledger of some million binaries with its log, and the scratch files of a run.
const ENOUGH_STATE_BYTES: u64 = 1 << 30;
/// Files that are open whatever the jobs do: the ledger, the walkers, the runtime.
const OPEN_FILES_BASE: u64 = 128;
/// A binary on its way is a file and a connection.
const OPEN_FILES_EACH: u64 = 2;

/// A ledger that may be written: the state directory is ours meanwhile.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) ledger: Ledger,
    _lock: StateLock,
}

pub(super) fn configuration(findings: &mut Findings, config: &Config) {
    let jobs = config.jobs().count();
    let shown = config.file.display();
    let plural = if jobs == 1 { "job" } else { "jobs" };
    findings.ok("configuration", format!("read `{shown}`: {jobs} {plural}"));
    // Whoever may write it decides what is restored, and where to.
    if fs::metadata(&config.file).is_ok_and(|metadata| metadata.mode() & 0o002 != 0) {
        findings.warning("configuration", format!("everybody may write `{shown}`"), format!("chmod o-w {shown}"));
    }
}

/// Who may start and stop things over HTTP.
pub(super) fn administrators(findings: &mut Findings, config: &Config) {
    let path = config.service.users.as_path();
    match users::accounts(path) {
        Ok(accounts) if accounts.is_empty() => {
            findings.ok("administrators", "there are none; `holdfast passwd EMAIL` adds one, who may use HTTP");
        }
        Ok(accounts) => {
            let count = accounts.all().count();
            let plural = if count == 1 { "administrator" } else { "administrators" };
            findings.ok("administrators", format!("{count} {plural} in `{}`", path.display()));
        }
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(error) => findings.error("administrators", error.to_string(), "until then nobody can log in"),
            None => findings.failure("administrators", &error),
        },
    }
    if let Some(complaint) = users::loose(path) {
        findings.warning("administrators", complaint, "whoever can read it can guess passwords undisturbed");
    }
}

/// Looks at the state directory without making one; gives the ledger if nobody else is at work.
pub(super) fn state(findings: &mut Findings, config: &Config) -> Option<Kept> {
    let directory = config.service.state_dir.as_path();
    let shown = directory.display();
    let hint = "set `state_dir` in [service] to a directory of the user that runs holdfast";
    let Ok(metadata) = fs::metadata(directory) else {
        let parent = directory.parent().unwrap_or(directory);
        if may_write(parent) {
            findings.ok("state directory", format!("`{shown}` is not there yet; the first run makes it"));
        } else {
            findings.error("state directory", format!("`{shown}` is not there, and cannot be made"), hint);
        }
        return None;
    };
    if !metadata.is_dir() || !may_write(directory) {
        findings.error("state directory", format!("`{shown}` is not a directory that this user may write"), hint);
        return None;
    }
    free_space(findings, directory);
    let owner = metadata.uid();
    if owner != geteuid().as_raw() {
        findings.warning(
            "state directory",
            format!("`{shown}` belongs to user {owner}, and this is user {}", geteuid().as_raw()),
            format!("run holdfast as its owner, sudo -u '#{owner}' holdfast …, or files appear that it may not write"),
        );
        return None;
    }
    ledger(findings, config)
}

fn ledger(findings: &mut Findings, config: &Config) -> Option<Kept> {
    let lock = match StateLock::take(&config.service.state_dir, "check") {
        Ok(lock) => lock,
        Err(error) if error.is::<InUse>() => {
            findings.ok("ledger", format!("{error}"));
            if let Err(error) = ledger_to_read(config) {
                findings.failure("ledger", &error);
            }
            return None;
        }
        Err(error) => {
            findings.failure("state directory", &error);
            return None;
        }
    };
    match Ledger::open(&lock) {
        Ok((ledger, set_aside)) => {
            match set_aside {
                Some(set_aside) => findings.warning(
                    "ledger",
                    lost_ledger(&set_aside),
                    "look after the disk it lies on; a copy with `--full` repairs what is known of the destination",
                ),
                None => findings.ok("ledger", "opens and is sound"),
            }
            Some(Kept { ledger, _lock: lock })
        }
        Err(error) => {
            findings.failure("ledger", &error);
            None
        }
    }
}

fn free_space(findings: &mut Findings, directory: &Path) {
    match statvfs(directory) {
        Ok(system) => {
            let free = system.f_bavail.saturating_mul(system.f_frsize);
            let message = format!("{} free in `{}`", text::bytes(free), directory.display());
            if free < ENOUGH_STATE_BYTES {
                findings.warning("state directory", message, "make room: the ledger grows with the number of binaries");
            } else {
                findings.ok("state directory", message);
            }
        }
        Err(error) => findings.failure("state directory", &anyhow::Error::from(error).context("look for free space")),
    }
}

pub(super) fn limits(findings: &mut Findings, config: &Config) {
    let parallel = config.copies.values().map(|job| job.parallel as u64).max().unwrap_or(0);
    let needed = OPEN_FILES_BASE + OPEN_FILES_EACH * parallel;
    match getrlimit(Resource::Nofile).current {
        Some(allowed) if allowed < needed => findings.warning(
            "limits",
            format!("{allowed} open files are allowed, and {needed} may be needed"),
            "set LimitNOFILE= in the unit, or `ulimit -n` in the shell; or lower `parallel`",
        ),
        Some(allowed) => findings.ok("limits", format!("{allowed} open files are allowed, {needed} may be needed")),
        None => findings.ok("limits", "any number of open files is allowed"),
    }
}

/// Whether this user may make files in a directory.
pub(super) fn may_write(directory: &Path) -> bool {
    access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}
