//! The status object of the older interface: twelve fields, whose odd spellings its clients read.

use jiff::Timestamp;
use serde::Serialize;

use crate::jobs::restore::INSTALLING;
use crate::model::archive::ArchiveName;
use crate::model::run::{Failure, Kind, Outcome, Run};
use crate::service::http::discreet::discreet;
use crate::service::words::WAITING;

/// The longest `errorMessage`, in characters; whoever keeps it has a column of 256.
const MESSAGE_LIMIT: usize = 255;
/// The longest `errorDetails`.
const DETAILS_LIMIT: usize = 3000;
/// How many problems of a run that left something out are named in `errorDetails`.
const NAMED_PROBLEMS: usize = 10;

/// A run, as the older interface shows it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct DaemonStatus {
    /// Digits; a text, as some clients take numbers apart.
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    status: &'static str,
    #[serde(rename = "startedBy")]
    started_by: String,
    /// Milliseconds since 1970, UTC.
    #[serde(rename = "startedOn")]
    started_on: i64,
    #[serde(rename = "progresssMessage")]
    progress_message: String,
    #[serde(rename = "progresssCurrent")]
    progress_current: i64,
    /// With a tenth more than there is to do, which stood for the way to S3.
    #[serde(rename = "progresssTotal")]
    progress_total: i64,
    #[serde(rename = "errorMessage")]
    error_message: Option<String>,
    #[serde(rename = "errorDetails")]
    error_details: Option<String>,
    #[serde(rename = "backupUrl")]
    backup_url: Option<String>,
    #[serde(rename = "totalTimeMS")]
    total_time_ms: i64,
}

impl DaemonStatus {
    /// A run that was just asked for; none if it is of a kind that the older interface does not know.
    pub(super) fn accepted(run: &Run) -> Option<Self> {
        Some(Self {
            id: run.id.to_string(),
            kind: kind(run.kind)?,
            status: "STARTED",
            started_by: run.started_by.clone().unwrap_or_else(|| run.trigger.to_string()),
            started_on: run.activated.as_millisecond(),
            progress_message: "Starting...".to_owned(),
            progress_current: 0,
            progress_total: 0,
            error_message: None,
            error_details: None,
            backup_url: None,
            total_time_ms: 0,
        })
    }

    /// A run as it is at `now`.
    pub(super) fn of(run: &Run, now: Timestamp) -> Option<Self> {
        let accepted = Self::accepted(run)?;
        let (done, whole) = amount(run);
        let total = whole.saturating_add(whole / 10);
        let (error_message, error_details) = failure(run).unzip();
        let elapsed = run.finished.unwrap_or(now).duration_since(run.activated);
        Some(Self {
            status: match run.outcome {
                // Whatever else it may be in truth: clients take any other word for the end.
                None => "STARTED",
                Some(Outcome::Succeeded) => "COMPLETED",
                Some(_) => "FAILED",
            },
            progress_message: message(run, accepted.kind),
            progress_current: number(if run.outcome == Some(Outcome::Succeeded) { total } else { done.min(total) }),
            progress_total: number(total),
            error_message,
            error_details,
            // That of a backup is known when it is there, that of a restore from its beginning.
            backup_url: run.url.clone(),
            total_time_ms: i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX).max(0),
            ..accepted
        })
    }
}

fn kind(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Backup => Some("BACKUP"),
        Kind::Restore => Some("RESTORE"),
        Kind::Copy | Kind::Verify => None,
    }
}

/// Clients read numbers of 63 bits, and a negative total as one that is not known.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How much is done, and how much there is to do: binaries of a backup, bytes of what a restore brings back.
fn amount(run: &Run) -> (u64, u64) {
    let (counts, progress) = (&run.counts, &run.progress);
    match run.kind {
        // Before it is written it is counted.
        Kind::Backup if run.outcome != Some(Outcome::Succeeded) && archive(run).is_none() => (0, 0),
        Kind::Backup => (counts.copied, counts.examined.saturating_sub(counts.sidecars)),
        _ if progress.unit == "bytes" => {
            let total = u128::from(progress.total.unwrap_or(0));
            let share = u128::from(counts.size) * u128::from(progress.current).min(total);
            let done = share.checked_div(total).unwrap_or(u128::from(counts.size));
            (u64::try_from(done).unwrap_or(u64::MAX), counts.size)
        }
        _ => (0, counts.size),
    }
}

/// What it is doing, in the words that clients know; without the paths that stood there.
fn message(run: &Run, kind: &str) -> String {
    let said = run.progress.message.as_str();
    if run.outcome == Some(Outcome::Succeeded) {
        return format!("Finished: {kind}");
    }
    match (run.kind, archive(run)) {
        (Kind::Backup, Some(archive)) => format!("Starting to upload temp file: {archive}.zip to S3..."),
        (Kind::Restore, _) if said == INSTALLING => {
            let name = run.url.as_deref().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
            format!("Reading: {name}")
        }
        (Kind::Restore, _) if !said.is_empty() && !said.starts_with(WAITING) => {
            "Starting to download the file from S3...".to_owned()
        }
        _ => "Starting...".to_owned(),
    }
}

/// The archive that a backup says it is writing.
fn archive(run: &Run) -> Option<ArchiveName> {
    run.progress.message.split_whitespace().find_map(|word| word.parse().ok())
}

/// Why a run that did not succeed did not, in short and in a line.
fn failure(run: &Run) -> Option<(String, String)> {
    let stated = run.error.clone();
    let (short, long) = match run.outcome? {
        Outcome::Succeeded => return None,
        Outcome::Partial => {
            let short =
                format!("not everything could be {}", if run.kind == Kind::Backup { "backed up" } else { "restored" });
            let named = run.problems.iter().take(NAMED_PROBLEMS);
            let named: Vec<String> =
                named.map(|problem| format!("{} `{}`: {}", problem.kind, problem.subject, problem.message)).collect();
            (short.clone(), format!("{short}: {}", named.join("; ")))
        }
        Outcome::Cancelled => {
            let words = match stated {
                Some(stated) => stated,
                None if run.started == run.activated => "Backup was terminated by the user".to_owned(),
                None => "Backup terminated by the user".to_owned(),
            };
            (words.clone(), words)
        }
        Outcome::Failed | Outcome::Interrupted => {
            let words = stated.unwrap_or_else(|| "the run failed".to_owned());
            let short = if run.failure == Some(Failure::Denied) { "Access Denied".to_owned() } else { words.clone() };
            (short, words)
        }
    };
    Some((discreet(&short, MESSAGE_LIMIT), discreet(&long, DETAILS_LIMIT)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::run::{Counts, Problem, Progress, RunId, Trigger};

    const NAME: &str = "BackupDaemonJob6695-4711.zip";

    fn run(kind: Kind) -> Run {
        let start: Timestamp = "2011-08-18T22:38:56.615Z".parse().unwrap();
        Run {
            id: RunId::new(6695),
            job: "backup.full".to_owned(),
            kind,
            trigger: Trigger::Request,
            outcome: None,
            activated: start,
            started: start + jiff::SignedDuration::from_millis(3),
            finished: None,
            progress: Progress::default(),
            counts: Counts::default(),
            result: None,
            url: None,
            quarantine: None,
            error: None,
            failure: None,
            started_by: Some("ada@example.org".to_owned()),
            problems: Vec::new(),
        }
    }

    fn backup(outcome: Option<Outcome>, items: u64) -> Run {
        let mut run = run(Kind::Backup);
        run.outcome = outcome;
        run.finished = outcome.map(|_| run.activated + jiff::SignedDuration::from_millis(1_500));
        run.counts = Counts { examined: items + 2, sidecars: 2, copied: items, ..Counts::default() };
        run.progress.message = format!("writing {NAME}");
        run
    }

    fn restore(size: u64) -> Run {
        let mut run = run(Kind::Restore);
        run.counts.size = size;
        run.url = Some(format!("https://s3.amazonaws.com/bucket/archives/{NAME}"));
        let (unit, message) = ("bytes".to_owned(), format!("fetching {NAME}"));
        run.progress = Progress { current: 25, total: Some(100), unit, message };
        run
    }

    fn status(run: &Run) -> DaemonStatus {
        DaemonStatus::of(run, run.activated + jiff::SignedDuration::from_millis(700)).unwrap()
    }

    fn shown(status: &DaemonStatus) -> (&str, i64, i64, &str) {
        (status.status, status.progress_current, status.progress_total, &status.progress_message)
    }

    #[test]
    fn a_run_that_was_just_asked_for_has_all_twelve_fields() {
        let accepted = DaemonStatus::accepted(&run(Kind::Backup)).unwrap();
        insta::assert_snapshot!(serde_json::to_string(&accepted).unwrap(), @r#"{"id":"6695","type":"BACKUP","status":"STARTED","startedBy":"ada@example.org","startedOn":1313707136615,"progresssMessage":"Starting...","progresssCurrent":0,"progresssTotal":0,"errorMessage":null,"errorDetails":null,"backupUrl":null,"totalTimeMS":0}"#);
        assert_eq!(status(&run(Kind::Backup)), DaemonStatus { total_time_ms: 700, ..accepted });
    }

    #[test]
    fn a_total_has_a_tenth_more_and_never_wraps() {
        for (items, total) in [
            (0, 0),
            (9, 9),
            (10, 11),
            (19, 20),
            (785, 863),
            (596_698, 656_367),
            (1_058_738, 1_164_611),
            (u64::MAX - 2, i64::MAX),
        ] {
            assert_eq!(status(&backup(Some(Outcome::Succeeded), items)).progress_total, total, "{items}");
        }
    }

    #[test]
    fn a_backup_completes_at_its_total_with_the_url_of_its_archive() {
        let mut run = backup(Some(Outcome::Succeeded), 785);
        run.url = Some(format!("https://s3.amazonaws.com/bucket/archives/{NAME}"));
        let status = status(&run);
        assert_eq!(shown(&status), ("COMPLETED", 863, 863, "Finished: BACKUP"));
        assert!(status.backup_url.unwrap().ends_with(NAME));
        assert_eq!((status.error_message, status.total_time_ms), (None, 1_500));
    }

    #[test]
    fn a_backup_whose_upload_is_refused_keeps_its_numbers_and_message() {
        let mut run = backup(Some(Outcome::Failed), 785);
        run.failure = Some(Failure::Denied);
        run.error = Some(format!("put `archives/{NAME}` in `s3://bucket`: Access Denied (AccessDenied); allow it"));
        let status = status(&run);
        let message = format!("Starting to upload temp file: {NAME} to S3...");
        assert_eq!(shown(&status), ("FAILED", 785, 863, message.as_str()));
        assert_eq!((status.error_message.as_deref(), status.backup_url), (Some("Access Denied"), None));
        assert!(status.error_details.unwrap().starts_with("put `archives/"));
    }

    #[test]
    fn a_restore_goes_through_its_messages_and_completes_at_its_total() {
        let mut run = restore(1_058_738);
        let download = "Starting to download the file from S3...";
        assert_eq!(shown(&status(&run)), ("STARTED", 264_684, 1_164_611, download));
        run.progress = Progress { message: "waiting for run 3 (backup.full) to end".to_owned(), ..Progress::default() };
        assert_eq!(shown(&status(&run)), ("STARTED", 0, 1_164_611, "Starting..."));
        run = restore(1_058_738);
        run.progress.message = INSTALLING.to_owned();
        assert_eq!(status(&run).progress_message, format!("Reading: {NAME}"));
        run.outcome = Some(Outcome::Succeeded);
        assert_eq!(shown(&status(&run)), ("COMPLETED", 1_164_611, 1_164_611, "Finished: RESTORE"));
        // Nothing was to be fetched.
        run.progress = Progress { current: 0, total: Some(0), unit: "bytes".to_owned(), message: String::new() };
        assert_eq!(shown(&status(&run)), ("COMPLETED", 1_164_611, 1_164_611, "Finished: RESTORE"));
    }

    #[test]
    fn a_restore_of_what_cannot_be_read_fails_at_nothing_and_keeps_its_url() {
        let mut run = restore(0);
        run.progress = Progress { message: "reading what the backup holds".to_owned(), ..Progress::default() };
        (run.outcome, run.failure) = (Some(Outcome::Failed), Some(Failure::Denied));
        run.error = Some("get `archives/x.json`: access denied (HTTP 403)".to_owned());
        let status = status(&run);
        assert_eq!(shown(&status), ("FAILED", 0, 0, "Starting to download the file from S3..."));
        assert_eq!(status.error_message.as_deref(), Some("Access Denied"));
        assert!(status.backup_url.is_some());
    }

    #[test]
    fn whatever_is_no_success_has_failed_and_says_why_without_a_path() {
        let mut run = backup(Some(Outcome::Cancelled), 7);
        assert_eq!(status(&run).error_message.as_deref(), Some("Backup terminated by the user"));
        run.started = run.activated;
        assert_eq!(status(&run).error_message.as_deref(), Some("Backup was terminated by the user"));
        run.error = Some("the service was stopped".to_owned());
        assert_eq!(status(&run).error_message.as_deref(), Some("the service was stopped"));
        run.outcome = Some(Outcome::Interrupted);
        run.error = Some("the process ended before the run did".to_owned());
        assert_eq!((status(&run).status, status(&run).error_message), ("FAILED", run.error.clone()));
        run.outcome = Some(Outcome::Failed);
        run.error = Some(format!("open `/srv/fcrepo`:\n denied {}", "x".repeat(9000)));
        let failed = status(&run);
        assert!(failed.error_message.as_deref().unwrap().starts_with("open `fcrepo`: denied xxx"));
        assert_eq!(failed.error_message.unwrap().chars().count(), 255);
        assert_eq!(failed.error_details.unwrap().chars().count(), 3000);
        run.outcome = Some(Outcome::Partial);
        run.problems = vec![Problem { kind: "unreadable".into(), subject: "/srv/aa".into(), message: "denied".into() }];
        let partial = status(&run);
        assert_eq!(partial.error_message.as_deref(), Some("not everything could be backed up"));
        assert_eq!(partial.error_details.unwrap(), "not everything could be backed up: unreadable `aa`: denied");
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_negative_time() {
        let mut run = backup(Some(Outcome::Succeeded), 1);
        run.finished = Some(run.activated - jiff::SignedDuration::from_hours(1));
        assert_eq!(status(&run).total_time_ms, 0);
    }

    #[test]
    fn runs_of_other_kinds_are_not_shown() {
        assert_eq!(DaemonStatus::of(&run(Kind::Copy), Timestamp::UNIX_EPOCH), None);
        assert_eq!(DaemonStatus::accepted(&run(Kind::Verify)), None);
        let mut scheduled = run(Kind::Backup);
        (scheduled.started_by, scheduled.trigger) = (None, Trigger::Schedule);
        assert_eq!(status(&scheduled).started_by, "schedule");
    }
}
