//! Opening a destination: its keys, its store, and what the ledger knows of it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Credentials, Place, S3Place};
use crate::jobs::context::{Destination, Report};
use crate::ledger::{DestinationId, Ledger};
use crate::model::key::Key;
use crate::model::run::RunId;
use crate::store::directory::DirectoryStore;
use crate::store::limiter::Limiter;
use crate::store::retry::{RetryPolicy, Retrying};
use crate::store::s3::{S3Credentials, S3Settings, S3Store, TimeOuts};
use crate::store::{Capabilities, ErrorKind, ObjectStore, StoreError};

/// systemd hands secrets over here, and looks after who may read them.
const SYSTEMD_CREDENTIALS: &str = "/run/credentials/";

/// What a destination is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A directory is made if only its last part is missing.
    Write {
        /// How many requests may be under way at once.
        at_once: usize,
    },
    /// A directory must be there.
    Read,
}

/// Somebody waits at the terminal, and nothing is lost when it comes to nothing.
pub(super) const IMPATIENT: RetryPolicy =
    RetryPolicy { attempts: 3, first: Duration::from_millis(100), longest: Duration::from_secs(1) };

/// Opens a destination for a run. What it can do is taken from the ledger, or tried out once and recorded there.
pub(super) async fn open(
    destination: &config::Destination,
    purpose: Purpose,
    limiter: Arc<Limiter>,
    ledger: &Ledger,
    report: &Report,
    stop: &CancellationToken,
) -> anyhow::Result<Destination> {
    for (file, complaint) in loose_secrets(&destination.place) {
        report.notice("permissions", file.display().to_string(), complaint);
    }
    let door = Door::prepare(destination, purpose).await?;
    let place = destination.place.to_string();
    let id = ledger.destination(&place)?;
    // What cannot be read was written by another version, and is found out again.
    let known = ledger.capabilities(id)?.and_then(|text| serde_json::from_str(&text).ok());
    let capabilities = if let Some(capabilities) = known {
        capabilities
    } else {
        let store = Retrying::new(door.open(Capabilities::NONE).await?, RetryPolicy::default()).until(stop.clone());
        let store = counted(store, report);
        match try_out(&*store, ledger, id).await {
            Ok(found) => {
                ledger.record_capabilities(id, &serde_json::to_string(&found)?)?;
                found
            }
            // To try things out one must write. Who may only read can restore all the same.
            Err(error) if is_denied(&error) && purpose == Purpose::Read => Capabilities::NONE,
            Err(error) => return Err(error),
        }
    };
    let mut store = Retrying::new(door.open(capabilities).await?, RetryPolicy::default());
    if let Purpose::Write { at_once } = purpose {
        store = store.at_most(at_once);
    }
    let store = counted(store.limited_by(limiter).until(stop.clone()), report);
    Ok(Destination { name: destination.name.clone(), id, store, footing: None })
}

/// Opens a destination to look at it. Nothing is tried out and nothing recorded, and its bandwidth does not matter: only
/// manifests are read.
pub(super) async fn open_to_look(
    destination: &config::Destination,
    ledger: Option<&Ledger>,
    report: &Report,
) -> anyhow::Result<Destination> {
    let door = Door::prepare(destination, Purpose::Read).await?;
    let place = destination.place.to_string();
    let id = ledger.map(|ledger| ledger.known_destination(&place)).transpose()?.flatten();
    let known = match (ledger, id) {
        (Some(ledger), Some(id)) => ledger.capabilities(id)?,
        _ => None,
    };
    let capabilities = known.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Capabilities::NONE);
    let store = counted(Retrying::new(door.open(capabilities).await?, IMPATIENT), report);
    Ok(Destination { name: destination.name.clone(), id: id.unwrap_or(DestinationId::UNKNOWN), store, footing: None })
}

/// Tries out what a destination can do, for somebody who waits; on record if there is a ledger to write to.
pub(super) async fn probe(destination: &config::Destination, ledger: Option<&Ledger>) -> anyhow::Result<Capabilities> {
    let store = Door::prepare(destination, Purpose::Read).await?.open(Capabilities::NONE).await?;
    let store = Retrying::new(store, IMPATIENT);
    match ledger {
        Some(ledger) => try_out(&store, ledger, ledger.destination(&destination.place.to_string())?).await,
        None => Ok(store.probe().await?),
    }
}

/// Tries out what a store can do. That is recorded before it begins and until it ends, like every upload: if we are
/// killed meanwhile, the next run takes away what the trial had begun.
async fn try_out(store: &dyn ObjectStore, ledger: &Ledger, id: DestinationId) -> anyhow::Result<Capabilities> {
    let probes = Key::probes();
    let left_over = ledger.has_upload(id, &probes)?;
    ledger.begin_upload(id, &probes, RunId::new(0))?;
    let found = store.probe().await?;
    if !left_over {
        ledger.end_upload(id, &probes)?;
    }
    Ok(found)
}

fn is_denied(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(|error| error.kind == ErrorKind::Denied)
}

fn counted(store: Retrying, report: &Report) -> Arc<dyn ObjectStore> {
    report.meter(store.meter());
    Arc::new(store)
}

/// A destination whose keys are read and whose directory is open.
enum Door {
    S3(Box<S3Settings>),
    Directory(Arc<DirectoryStore>),
}

impl Door {
    async fn prepare(destination: &config::Destination, purpose: Purpose) -> anyhow::Result<Self> {
        let (name, place) = (destination.name.clone(), destination.place.clone());
        let prepare = move || match &place {
            Place::S3(place) => Ok(Self::S3(Box::new(settings(place)?))),
            Place::Directory(path) => {
                if purpose == Purpose::Read && !path.exists() {
                    bail!("there is no directory `{}`: mount the disk, or make a first copy", path.display());
                }
                Ok(Self::Directory(Arc::new(DirectoryStore::open(path)?)))
            }
        };
        let prepared = tokio::task::spawn_blocking(prepare).await.context("work on a thread of its own")?;
        prepared.with_context(|| format!("open destination `{name}`"))
    }

    async fn open(&self, capabilities: Capabilities) -> anyhow::Result<Arc<dyn ObjectStore>> {
        Ok(match self {
            Self::S3(settings) => Arc::new(S3Store::connect((**settings).clone(), capabilities).await?),
            Self::Directory(store) => Arc::clone(store) as Arc<dyn ObjectStore>,
        })
    }
}

fn settings(place: &S3Place) -> anyhow::Result<S3Settings> {
    let credentials = match &place.credentials {
        Credentials::Chain => S3Credentials::Chain,
        Credentials::Files { access_key_file, secret_key_file } => {
            S3Credentials::Keys { access_key: key(access_key_file)?, secret_key: key(secret_key_file)? }
        }
    };
    Ok(S3Settings {
        bucket: place.bucket.clone(),
        prefix: place.prefix.clone(),
        endpoint: place.endpoint.clone(),
        region: place.region.clone(),
        path_style: place.path_style,
        credentials,
        storage_class: place.storage_class.clone(),
        sse: place.sse.clone(),
        kms_key: place.kms_key.clone(),
        expected_bucket_owner: place.expected_bucket_owner.clone(),
        time_outs: TimeOuts::default(),
    })
}

/// The key that a file holds and nothing else.
pub(super) fn key(file: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(file).with_context(|| {
        format!(
            "read key `{}` (`credentials` names it; the user that runs holdfast must be able to read it)",
            file.display()
        )
    })?;
    match text.trim() {
        "" => bail!("read key `{}`: the file is empty: write the key into it", file.display()),
        key if key.contains(char::is_whitespace) => {
            bail!("read key `{}`: there is more than one word in it: write the key alone into it", file.display())
        }
        key => Ok(key.to_owned()),
    }
}

/// Files with secrets that others than their owner may read, and what to do about each.
pub(super) fn loose_secrets(place: &Place) -> Vec<(&Path, String)> {
    let Place::S3(S3Place { credentials: Credentials::Files { secret_key_file, .. }, .. }) = place else {
        return Vec::new();
    };
    let file = secret_key_file.as_path();
    // One that cannot be looked at cannot be read either, and that is an error of its own.
    let mode = fs::metadata(file).map_or(0, |metadata| metadata.mode() & 0o777);
    if mode & 0o044 == 0 || file.starts_with(SYSTEMD_CREDENTIALS) {
        return Vec::new();
    }
    let who = if mode & 0o004 == 0 { "its group" } else { "everybody on this machine" };
    vec![(file, format!("{who} may read the secret key (mode {mode:03o}): chmod 600 {}", file.display()))]
}
