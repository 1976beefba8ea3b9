//! The scan: every name in the store, merged with what the last restore point has.
//!
//! One that was cut is gone on with where it was: the next begins there, goes to the end, and then does the beginning.
//! So each is a whole one, and yet those that are cut again and again come around.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::BATCH;
use super::arrivals::{Arrived, Fate};
use super::dispatch::Candidate;
use super::proof::Fresh;
use crate::jobs::context::{Cancelled, RunContext};
use crate::jobs::cursor::Cursor;
use crate::jobs::source;
use crate::ledger::{Change, DestinationId, SeriesId};
use crate::model::digest::Digest;
use crate::repository::binaries::BinaryStore;
use crate::repository::walk::{Beside, Found, Stretch, Walk};

/// How many threads walk the store.
const WALKERS: usize = 2;
/// How often it is recorded how far the scan is.
const RECORD_EVERY: Duration = Duration::from_secs(5);

/// The walk, merged with what the last restore point has.
pub(super) struct Scan {
    pub(super) destination: DestinationId,
    pub(super) series: SeriesId,
    pub(super) candidates: mpsc::Sender<Vec<Candidate>>,
    pub(super) changes: mpsc::Sender<Change>,
    /// How many names are looked at in a second, at most.
    pub(super) rate: Option<u32>,
    /// What others take meanwhile, if they do.
    pub(super) arrived: Option<Arc<Arrived>>,
}

/// What a scan found.
pub(super) struct Scanned {
    pub(super) beside: Beside,
    pub(super) fresh: Fresh,
}

impl Scan {
    pub(super) fn run(self, run: &RunContext, store: &BinaryStore) -> anyhow::Result<Scanned> {
        let cut = run.ledger.reached(self.series)?;
        let stretches = match cut.map(|reached| Stretch::around(store.layout(), &reached)) {
            Some(Some((after, until))) => vec![after, until],
            _ => vec![Stretch::ALL],
        };
        let mut fresh = Fresh::default();
        let mut pace = Pace::new(self.rate);
        let mut beside = Beside::default();
        for stretch in stretches {
            beside.merge(self.walk(run, store, &stretch, &mut fresh, &mut pace)?);
        }
        run.ledger.forget_reached(self.series)?;
        Ok(Scanned { beside, fresh })
    }

    fn walk(
        &self,
        run: &RunContext,
        store: &BinaryStore,
        stretch: &Stretch,
        fresh: &mut Fresh,
        pace: &mut Pace,
    ) -> anyhow::Result<Beside> {
        let root = source::store_name(store);
        let series = self.series;
        let mut members = Cursor::after(
            stretch.after(),
            |after: Option<&Digest>| run.ledger.unchanged_members_after(series, after),
            |member| member.0,
        );
        let mut sidecars = Cursor::after(
            stretch.after(),
            |after: Option<&Digest>| run.ledger.sidecars_after(&root, after),
            |digest| *digest,
        );
        // What precedes the stretch is not gone.
        while members.take_if(|member| stretch.is_after(&member.0))?.is_some() {}
        let mut index = Index { destination: self.destination, ahead: Ahead::Unknown };
        let mut candidates = Vec::new();
        let mut walk = Walk::begin_in(store, WALKERS, stretch)?;
        for found in &mut walk {
            run.go_on()?;
            match found {
                Found::Binaries(batch) => {
                    let mut known_sidecars = 0;
                    for digest in &batch {
                        while let Some((gone, _)) = members.take_if(|member| member.0 < *digest)? {
                            self.gone(run, store, gone)?;
                        }
                        if members.take_if(|member| member.0 == *digest)?.is_some() {
                            continue;
                        }
                        while sidecars.take_if(|sidecar| sidecar < digest)?.is_some() {}
                        if sidecars.take_if(|sidecar| sidecar == digest)?.is_some() {
                            known_sidecars += 1;
                            continue;
                        }
                        // Asked here, where waiting for the ledger's writer holds up nobody else.
                        let mut indexed = index.object(run, digest)?;
                        let arrived = self.arrived.as_ref().filter(|arrived| arrived.contains(digest));
                        if indexed.is_none() || arrived.is_some() {
                            fresh.add(*digest, arrived.is_some());
                        }
                        if let Some(arrived) = arrived {
                            match arrived.fate(run, self.destination, series, digest)? {
                                Fate::Settled => continue,
                                Fate::Open(object) => indexed = object,
                            }
                        }
                        let candidate = Candidate { digest: *digest, indexed, pending: None };
                        candidates.push(candidate);
                        if candidates.len() == BATCH {
                            self.hand_on(&mut candidates)?;
                        }
                    }
                    // Before anything is waited for.
                    self.hand_on(&mut candidates)?;
                    let examined = batch.len() as u64;
                    run.report.count(|counts| {
                        counts.examined += examined;
                        counts.sidecars += known_sidecars;
                    });
                    run.report.advance(examined);
                    if let (Some(last), true) = (batch.last(), pace.is_time_to_record()) {
                        run.ledger.set_reached(series, last)?;
                    }
                    pace.keep(run, examined)?;
                }
                Found::Unreadable { digits, path, cause } => {
                    fresh.blind = true;
                    run.report.count(|counts| counts.failed += 1);
                    run.report.left_out("unreadable", path.display().to_string(), format!("read directory: {cause}"));
                    let text = |digest: &Digest| digest.to_string();
                    while let Some((gone, _)) = members.take_if(|member| text(&member.0) < digits)? {
                        self.gone(run, store, gone)?;
                    }
                    // What cannot be seen is not gone.
                    while members.take_if(|member| text(&member.0).starts_with(&digits))?.is_some() {}
                }
            }
        }
        while let Some((gone, _)) = members.take_if(|member| stretch.contains(&member.0))? {
            self.gone(run, store, gone)?;
        }
        Ok(walk.beside())
    }

    fn hand_on(&self, candidates: &mut Vec<Candidate>) -> anyhow::Result<()> {
        if candidates.is_empty() {
            return Ok(());
        }
        Ok(self.candidates.blocking_send(std::mem::take(candidates)).map_err(|_| Cancelled)?)
    }

    fn gone(&self, run: &RunContext, store: &BinaryStore, digest: Digest) -> anyhow::Result<()> {
        let say = || -> anyhow::Result<()> {
            // It may have come since its directory was read, or have been replaced meanwhile, which some file systems leave
            // out of a listing. What comes after this look is taken after it.
            if !store.stamp(&digest).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                return Ok(());
            }
            run.report.count(|counts| counts.removed += 1);
            Ok(self.changes.blocking_send(Change::Removed(digest)).map_err(|_| Cancelled)?)
        };
        match &self.arrived {
            Some(arrived) => arrived.in_order(&digest, |_| say()),
            None => say(),
        }
    }
}

/// What the destination holds, asked for in order: once for all names up to the next that it holds.
struct Index {
    destination: DestinationId,
    ahead: Ahead,
}

/// The first that the destination holds from the last name on that was asked for.
#[derive(Clone, Copy)]
enum Ahead {
    Unknown,
    Object(Digest, u64),
    Nothing,
}

impl Index {
    /// The size of a binary, if the destination holds it. What this run puts is not asked for again.
    fn object(&mut self, run: &RunContext, digest: &Digest) -> anyhow::Result<Option<u64>> {
        let is_behind = match self.ahead {
            Ahead::Unknown => true,
            Ahead::Object(next, _) => next < *digest,
            Ahead::Nothing => false,
        };
        if is_behind {
            let next = run.ledger.object_from(self.destination, digest)?;
            self.ahead = next.map_or(Ahead::Nothing, |(next, bytes)| Ahead::Object(next, bytes));
        }
        Ok(match self.ahead {
            Ahead::Object(next, bytes) if next == *digest => Some(bytes),
            _ => None,
        })
    }
}

/// Not faster than was asked for.
struct Pace {
    rate: Option<u32>,
    /// Since when so many names were looked at.
    since: Instant,
    names: u64,
    recorded: Instant,
}

impl Pace {
    fn new(rate: Option<u32>) -> Self {
        Self { rate, since: Instant::now(), names: 0, recorded: Instant::now() }
    }

    fn is_time_to_record(&mut self) -> bool {
        let due = self.recorded.elapsed() >= RECORD_EVERY;
        if due {
            self.recorded = Instant::now();
        }
        due
    }

    /// Waits until as many names may have been looked at.
    fn keep(&mut self, run: &RunContext, names: u64) -> anyhow::Result<()> {
        let Some(rate) = self.rate else { return Ok(()) };
        self.names += names;
        let due = Duration::from_micros(self.names.saturating_mul(1_000_000) / u64::from(rate));
        let early = due.saturating_sub(self.since.elapsed());
        tokio::runtime::Handle::current().block_on(async {
            tokio::select! {
                () = run.clock.sleep(early) => {}
                () = run.stop.cancelled() => {}
            }
        });
        run.go_on()
    }
}
