//! How each repository that is to be watched will be, and what to change where that is not at its best.

use std::fs;
use std::path::{Path, PathBuf};

use super::Findings;
use crate::cli::remote::Remote;
use crate::cli::text;
use crate::config::{Config, Job, Repository};
use crate::model::layout::Layout;
use crate::service::status::{Status, WatchStatus};
use crate::service::watcher::{Marks, WatchState, watch_limit};

/// How many directories of each level are looked into to estimate how many there are.
const SAMPLED_DIRECTORIES: usize = 16;
/// What makes a store be watched that is not.
const ENOUGH: &str = "start the service by its unit, which grants CAP_SYS_ADMIN for one mark in place of all watches, or allow more \
                      watches; until then scans do it, by `schedule`";

/// A mark on the file system where that can be set; a watch on each directory where there are enough; or scans alone.
pub(super) async fn check(findings: &mut Findings, config: &Config) {
    let watched =
        |repository: &&Repository| config.copies.values().any(|job| job.watch && job.repository == repository.name);
    let watched: Vec<&Repository> = config.repositories.values().filter(watched).collect();
    if watched.is_empty() {
        return;
    }
    let status = status(config).await;
    let mut by_directory = Vec::new();
    for repository in watched {
        let subject = subject(repository);
        // The running service knows; it may have rights that this command has not, and the other way round.
        if let Some(watch) = status.as_ref().and_then(|status| of_service(status, config, repository)) {
            found(findings, &subject, watch);
            continue;
        }
        match Marks::set([repository.binaries.as_path()]).covers(&repository.binaries) {
            Ok(()) => findings.ok(
                &subject,
                "is watched by fanotify, one mark for all of it, by a service that has CAP_SYS_ADMIN when it starts, as the unit grants",
            ),
            Err(why) => by_directory.push((repository, why)),
        }
    }
    if !by_directory.is_empty() {
        inotify(findings, &by_directory);
    }
}

fn subject(repository: &Repository) -> String {
    format!("watch {}", repository.name)
}

async fn status(config: &Config) -> Option<Status> {
    // Whoever may not talk to the service is told what can be found out without it.
    Remote::reach(config).await.ok()??.get("/status").await.ok()
}

fn of_service<'a>(status: &'a Status, config: &Config, repository: &Repository) -> Option<&'a WatchStatus> {
    let mut jobs = config.copies.values().filter(|job| job.watch && job.repository == repository.name);
    jobs.find_map(|job| {
        let name = Job::Copy(job).to_string();
        status.jobs.iter().find(|job| job.job == name)?.watch.as_ref()
    })
}

fn found(findings: &mut Findings, subject: &str, watch: &WatchStatus) {
    let why = watch.way_reason.as_deref().unwrap_or_default();
    let reason = watch.reason.as_deref().unwrap_or_default();
    match (watch.state, watch.directories) {
        (WatchState::Watching, Some(directories)) => findings.ok(
            subject,
            format!(
                "the service watches {} directories by inotify, and not by fanotify: {why}",
                text::count(directories)
            ),
        ),
        (WatchState::Watching, None) => findings.ok(subject, "the service watches all of it by fanotify"),
        (WatchState::SettingUp, _) if reason.is_empty() => findings.ok(subject, "the service begins to watch it"),
        (WatchState::SettingUp, _) => findings.ok(subject, format!("the service begins to watch it anew: {reason}")),
        (WatchState::BySchedule, _) => {
            findings.warning(subject, format!("the service finds what is new by scans alone: {reason}"), ENOUGH);
        }
    }
}

/// Whether the stores have fewer directories than there may be watches.
fn inotify(findings: &mut Findings, stores: &[(&Repository, String)]) {
    let estimate = |repository: &Repository| estimate_directories(&repository.binaries, &repository.layout);
    let stores: Vec<_> = stores.iter().map(|(repository, why)| (repository, why, estimate(repository))).collect();
    let needed: u64 = stores.iter().map(|(.., directories)| directories).sum();
    let limit = watch_limit();
    let allowed = match limit {
        Some((allowed, _)) => format!("{} watches are allowed to all programs of a user", text::count(allowed)),
        None => "how many watches are allowed cannot be read here".to_owned(),
    };
    for (repository, why, directories) in stores {
        let message = |how: &str| {
            format!(
                "{how}: it has about {} directories, and {allowed}; not by fanotify: {why}",
                text::count(directories)
            )
        };
        match limit {
            Some((allowed, setting)) if allowed < needed => findings.warning(
                &subject(repository),
                message("what is new is found by scans alone"),
                format!("{ENOUGH}. For watches: raise {setting} to {} or more by sysctl", needed + needed / 4),
            ),
            _ => findings.ok(&subject(repository), message("is watched by inotify")),
        }
    }
}

/// How many directories a store has, from a few of them: to count them takes as long as a walk.
fn estimate_directories(root: &Path, layout: &Layout) -> u64 {
    let level = |directory: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let levels = entries.filter(|entry| layout.is_level(entry.file_name().as_encoded_bytes()));
        levels.map(|entry| entry.path()).collect()
    };
    let mut sample = vec![root.to_owned()];
    let (mut total, mut of_level) = (1, 1);
    for _ in 0..layout.levels {
        let below: Vec<PathBuf> = sample.iter().flat_map(|directory| level(directory)).collect();
        of_level = of_level * below.len() as u64 / sample.len().max(1) as u64;
        total += of_level;
        let step = (below.len() / SAMPLED_DIRECTORIES).max(1);
        sample = below.into_iter().step_by(step).take(SAMPLED_DIRECTORIES).collect();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_directories_is_estimated_from_a_few() {
        let store = tempfile::tempdir().unwrap();
        for number in 0..256 * 8 * 2 {
            let name = format!("{:02x}/{:02x}/{:02x}", number % 256, number / 256 % 8, number / 2048);
            fs::create_dir_all(store.path().join(name)).unwrap();
        }
        fs::create_dir_all(store.path().join("trash/aa/bb")).unwrap();
        assert_eq!(estimate_directories(store.path(), &Layout::modeshape()), 1 + 256 + 256 * 8 + 256 * 8 * 2);
        assert_eq!(estimate_directories(&store.path().join("nowhere"), &Layout::modeshape()), 1);
    }
}
