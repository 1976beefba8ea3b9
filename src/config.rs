//! The configuration file: what it may say, the defaults, and errors that show the place and the way out.
//!
//! Reading is strict and takes three steps: `file` holds the tables as they are written, with a `value` that
//! cannot be wrong by itself in each place, `check` compares them with each other and fills in the defaults, `error` turns what went
//! wrong into a text for people. Nothing here looks at the disk but [`Config::load`], which reads that one file, and what looks up the rules of
//! time zones: the system's, and where it has none, those that came with the program.

mod bandwidth;
mod check;
mod error;
mod file;
mod timing;
mod users;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::address::Address;
use crate::model::bandwidth::Bandwidth;
use crate::model::database::DocumentTable;
use crate::model::fedora::FedoraServer;
use crate::model::layout::Layout;
use crate::model::shard::Shard;
use crate::model::slots::Timing;

pub use error::{ConfigError, Problem, Spot};
pub use users::{read_users, with_account, without_account};

/// Where `holdfast` looks without `--config`.
pub const DEFAULT_FILE: &str = "/etc/holdfast/holdfast.toml";

/// What ModeShape calls its table.
const DEFAULT_TABLE: &str = "MODESHAPE_REPOSITORY";
/// How long a Fedora may take for a backup or a restore: its own are said to move some ten gigabytes an hour.
const DEFAULT_FEDORA_TIMEOUT: Duration = Duration::from_hours(48);
const DEFAULT_STATE_DIR: &str = "/var/lib/holdfast";
/// Beside the configuration.
const DEFAULT_USERS: &str = "users.toml";
/// A day's work; whoever goes on logs in again.
const DEFAULT_SESSION: Duration = Duration::from_hours(12);
/// Between two safe points lies at most one part or one binary, with its retries.
const DEFAULT_GRACE: Duration = Duration::from_mins(1);
/// A copy beside a backup, a verification and a restore; each has its own bound on what it holds in memory.
const DEFAULT_RUNS_AT_ONCE: usize = 4;
/// Runs of a year show a trend, and are some thousand rows.
const DEFAULT_HISTORY: Duration = Duration::from_hours(365 * 24);
/// Where only this machine reaches it.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8480);
/// What S3-compatible servers call themselves when nobody gave them a name.
const DEFAULT_REGION: &str = "us-east-1";
/// A binary is one request, mostly spent waiting; this many fill a fast line and stay below a server's patience.
const DEFAULT_PARALLEL: usize = 32;
/// Bytes a second. Below, a single body takes longer than connections live; above, it is a slip in the unit.
const BANDWIDTH_LIMITS: RangeInclusive<u64> = 16 << 10..=1 << 40;
/// A timetable is looked through for each request.
const MAX_BANDWIDTH_RULES: usize = 100;
/// Longer than a write to a file pauses, shorter than anyone waits.
const DEFAULT_SETTLE: Duration = Duration::from_secs(2);
/// The whole run waits this long, so more than an hour is a mistake in the unit.
const MAX_SETTLE: Duration = Duration::from_hours(1);
/// A run starts when its schedule says so, unless there is a reason for it not to.
const DEFAULT_JITTER: Duration = Duration::ZERO;
/// Watching costs memory with every directory of the store, so a site says that it wants it.
const DEFAULT_WATCH: bool = false;
/// Some hundred restore points a day, each a small list; what is new is at the destination long before.
const DEFAULT_POINT_EVERY: Duration = Duration::from_mins(5);
const DEFAULT_SCAN_EVERY: Duration = Duration::from_hours(24);
/// Small enough to be sent once more after a broken line, large enough that most backups are one volume.
const DEFAULT_VOLUME: u64 = 10 << 30;
/// Below, an archive falls into thousands of objects; above, it could need more than the 10,000 parts that S3 gives an
/// upload: 10,000 parts of 8 MiB are 78 GiB, and a volume ends only after the entry that fills it.
const VOLUME_LIMITS: RangeInclusive<u64> = 16 << 20..=64 << 30;

/// Everything that the configuration file says, checked and with its defaults; every path in it is absolute when the
/// file's is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it was read from.
    pub file: PathBuf,
    /// What concerns the program as a whole.
    pub service: Service,
    /// What is backed up; at least one.
    pub repositories: BTreeMap<String, Repository>,
    /// Where it goes; at least one.
    pub destinations: BTreeMap<String, Destination>,
    /// The jobs `copy.NAME`.
    pub copies: BTreeMap<String, CopyJob>,
    /// The jobs `backup.NAME`.
    pub backups: BTreeMap<String, BackupJob>,
    /// What the older interfaces work with.
    pub older_interfaces: OlderInterfaces,
}

/// `[service]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where the ledger lies.
    pub state_dir: PathBuf,
    /// Who may log in: the file that `holdfast passwd` writes.
    pub users: PathBuf,
    /// How long a login lasts.
    pub session: Duration,
    /// How long runs get to reach a safe point when the service stops.
    pub grace: Duration,
    /// How many runs there may be at once.
    pub runs_at_once: usize,
    /// How long ended runs are kept in the history.
    pub history: Duration,
    /// Where it is reached, beside the socket in the state directory.
    pub listen: Vec<Address>,
    /// The certificate for what is reached over the network; none for plain text.
    pub tls: Option<Tls>,
    /// Whether others may reach it in plain text.
    pub allow_plaintext_beyond_loopback: bool,
    /// The names by which this machine is asked for, beside its addresses and localhost.
    pub hosts: Vec<String>,
}

/// `tls` in `[service]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate and those that vouch for it, as PEM.
    pub certificate: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
}

/// `[older_interfaces]`, or what there is no choice of: the calls of older programs name no job and no repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OlderInterfaces {
    /// A key of [`Config::backups`]; none if there is no backup, or several and none of them is named.
    pub backup: Option<String>,
    /// A key of [`Config::repositories`]: that of the backup, where there is one.
    pub repository: Option<String>,
    /// The directories below which Fedora's calls may name others; they are not served if there are none.
    pub fedora_roots: Vec<PathBuf>,
}

/// `[repository.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// The name in the header.
    pub name: String,
    /// The root of the binary store.
    pub binaries: PathBuf,
    /// How the binary store names its files.
    pub layout: Layout,
    /// Where the documents come from; none if only binaries are kept.
    pub documents: Option<DocumentSource>,
}

/// `[repository.NAME.documents]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentSource {
    /// A ModeShape backup directory, which holds `documents_000001.bin.gz` and so on.
    Directory(PathBuf),
    /// A table of a database.
    Table(DocumentTable),
    /// A Fedora that makes backups on request, into a directory that both see.
    Fedora(FedoraServer),
}

/// `[destination.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The name in the header.
    pub name: String,
    /// Where that is, and how to reach it.
    pub place: Place,
    /// How much of the line to it may be taken, and when.
    pub bandwidth: Bandwidth,
}

/// Where a destination is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there are as many as in the file, and most are the large one")]
pub enum Place {
    /// A bucket, or a part of one.
    S3(S3Place),
    /// A local directory.
    Directory(PathBuf),
}

/// A bucket, or a part of one, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Place {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with, without a `/` at either end; empty for the whole bucket.
    pub prefix: String,
    /// The server, where it is not AWS; without a `/` at the end.
    pub endpoint: Option<String>,
    /// The region; none to take it from the AWS chain.
    pub region: Option<String>,
    /// Whether the bucket goes into the path of a request rather than into the host name.
    pub path_style: bool,
    /// Who we are there.
    pub credentials: Credentials,
    /// The storage class of new objects.
    pub storage_class: Option<String>,
    /// Encryption at the server: `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub sse: Option<String>,
    /// The key for `aws:kms`.
    pub kms_key: Option<String>,
    /// The account that must own the bucket.
    pub expected_bucket_owner: Option<String>,
}

/// Where the keys to a bucket come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The AWS chain: environment, profile, the machine's role.
    Chain,
    /// Two files that hold nothing else.
    Files {
        /// Holds the access key's id.
        access_key_file: PathBuf,
        /// Holds the secret key.
        secret_key_file: PathBuf,
    },
}

/// `[copy.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyJob {
    /// The name in the header; the job is called `copy.NAME`.
    pub name: String,
    /// A key of [`Config::repositories`].
    pub repository: String,
    /// A key of [`Config::destinations`].
    pub destination: String,
    /// How many binaries are on their way at once.
    pub parallel: usize,
    /// How long a file must be unchanged before it is read a second time.
    pub settle: Duration,
    /// When it runs by itself; none if only when it is asked for.
    pub timing: Option<Timing>,
    /// Whether new binaries are copied as they appear.
    pub watch: bool,
    /// How long lies between two restore points while new binaries keep coming.
    pub point_every: Duration,
    /// How long after a scan the next one begins by itself, where the store is watched; then other runs are none.
    pub scan_every: Option<Duration>,
    /// How many names a scan looks at in a second, at most.
    pub scan_rate: Option<u32>,
    /// The part of the repository that it copies; none for the whole.
    pub shard: Option<Shard>,
}

/// `[backup.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupJob {
    /// The name in the header; the job is called `backup.NAME`.
    pub name: String,
    /// A key of [`Config::repositories`].
    pub repository: String,
    /// A key of [`Config::destinations`].
    pub destination: String,
    /// A volume of an archive ends after the entry that reaches this size.
    pub volume_bytes: u64,
    /// How long a file must be unchanged before it is read a second time.
    pub settle: Duration,
    /// When it runs by itself; none if only when it is asked for.
    pub timing: Option<Timing>,
}

/// A job of any kind; shows itself as `copy.binaries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job<'a> {
    /// `[copy.NAME]`.
    Copy(&'a CopyJob),
    /// `[backup.NAME]`.
    Backup(&'a BackupJob),
}

/// There is no job of that name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no job `{name}`: {}", known_jobs(name, known))]
pub struct UnknownJob {
    /// As asked for.
    pub name: String,
    /// The jobs that there are.
    pub known: Vec<String>,
}

impl Config {
    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let refuse = |cause: String, way_out: &str| ConfigError::of_file(path, cause, way_out);
        let file = std::path::absolute(path)
            .map_err(|error| refuse(error.to_string(), "name a configuration with `--config FILE`"))?;
        let bytes = std::fs::read(&file).map_err(|error| match error.kind() {
            ErrorKind::NotFound => refuse(
                "there is no such file".to_owned(),
                "`holdfast init` writes a first configuration; `--config FILE` names another",
            ),
            ErrorKind::PermissionDenied => refuse(
                "this user may not read it".to_owned(),
                "grant the right to read it, or run holdfast as the user that the service runs as",
            ),
            ErrorKind::IsADirectory => {
                refuse("this is a directory".to_owned(), "name the file in it with `--config FILE`")
            }
            _ => refuse(error.to_string(), "`--config FILE` names another configuration"),
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()].split(|&byte| byte == b'\n').count();
            refuse(format!("line {line} is not UTF-8"), "save the file in the encoding UTF-8")
        })?;
        Self::parse(&text, &file)
    }

    /// Checks the text of a configuration; relative paths in it are relative to the directory of `file`, which is not
    /// looked at.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        // Windows editors begin a file with a byte order mark; it would shift the columns.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = error::Source { file, text };
        let table = toml::de::DeTable::parse(text).map_err(|error| source.syntax(&error))?.into_inner();
        let written = toml::from_str(text).map_err(|error| source.value(&error, &table))?;
        check::check(written, &source, &table)
    }

    /// The job with a name such as `copy.binaries`.
    pub fn job(&self, name: &str) -> Result<Job<'_>, UnknownJob> {
        let found = match name.split_once('.') {
            Some(("copy", name)) => self.copies.get(name).map(Job::Copy),
            Some(("backup", name)) => self.backups.get(name).map(Job::Backup),
            _ => None,
        };
        found.ok_or_else(|| UnknownJob {
            name: name.to_owned(),
            known: self.jobs().map(|job| job.to_string()).collect(),
        })
    }

    /// The directories of the stores that are to be watched.
    pub fn watched_roots(&self) -> impl Iterator<Item = &Path> {
        let watched =
            |repository: &&Repository| self.copies.values().any(|job| job.watch && job.repository == repository.name);
        self.repositories.values().filter(watched).map(|repository| repository.binaries.as_path())
    }

    /// All jobs.
    pub fn jobs(&self) -> impl Iterator<Item = Job<'_>> {
        self.copies.values().map(Job::Copy).chain(self.backups.values().map(Job::Backup))
    }
}

impl<'a> Job<'a> {
    /// The key of what it reads in [`Config::repositories`].
    pub fn repository(self) -> &'a str {
        match self {
            Self::Copy(job) => &job.repository,
            Self::Backup(job) => &job.repository,
        }
    }

    /// When it runs by itself; none if only when it is asked for.
    pub fn timing(self) -> Option<&'a Timing> {
        match self {
            Self::Copy(job) => job.timing.as_ref(),
            Self::Backup(job) => job.timing.as_ref(),
        }
    }

    /// The part of the repository that it reads; none for the whole.
    pub fn shard(self) -> Option<Shard> {
        match self {
            Self::Copy(job) => job.shard,
            Self::Backup(_) => None,
        }
    }

    /// The key of where it writes in [`Config::destinations`].
    pub fn destination(self) -> &'a str {
        match self {
            Self::Copy(job) => &job.destination,
            Self::Backup(job) => &job.destination,
        }
    }
}

impl fmt::Display for Job<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy(job) => write!(f, "copy.{}", job.name),
            Self::Backup(job) => write!(f, "backup.{}", job.name),
        }
    }
}

/// As [`ObjectStore::place`](crate::store::ObjectStore::place) spells it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::S3(place) => {
                write!(f, "s3://{}", place.bucket)?;
                if !place.prefix.is_empty() {
                    write!(f, "/{}", place.prefix)?;
                }
                place.endpoint.iter().try_for_each(|endpoint| write!(f, " at {endpoint}"))
            }
        }
    }
}

fn known_jobs(name: &str, known: &[String]) -> String {
    if known.is_empty() {
        return "the configuration has no [copy.NAME] and no [backup.NAME]".to_owned();
    }
    let jobs = known.join(", ");
    let meant = known
        .iter()
        .find(|job| job.split_once('.').is_some_and(|(_, bare)| bare == name))
        .map(String::as_str)
        .or_else(|| error::nearest(name, known.iter().map(String::as_str)));
    match meant {
        Some(meant) => format!("did you mean `{meant}`? the jobs are {jobs}"),
        None => format!("the jobs are {jobs}"),
    }
}

/// A first configuration, for `holdfast init`, with placeholders for what is not given: the root of the binary store
/// and the URL of the destination.
pub fn init_text(binaries: Option<&str>, url: Option<&str>) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    format!(
        include_str!("config/init.toml"),
        binaries = quoted(binaries.unwrap_or("/srv/fcrepo4-data/fcrepo.binary.directory")),
        url = quoted(url.unwrap_or("s3://my-bucket/holdfast")),
    )
}
