//! The scan: every name in the store, merged with what the last restore point has.

use tokio::sync::mpsc;

use super::dispatch::Candidate;
use crate::jobs::context::{Cancelled, RunContext};
use crate::jobs::cursor::Cursor;
use crate::jobs::source;
use crate::ledger::{Change, DestinationId, SeriesId};
use crate::model::digest::Digest;
use crate::repository::binaries::BinaryStore;
use crate::repository::walk::{Beside, Found, Walk};

/// How many threads walk the store.
const WALKERS: usize = 2;

/// The walk, merged with what the last restore point has.
pub(super) struct Scan {
    pub(super) destination: DestinationId,
    pub(super) series: SeriesId,
    pub(super) candidates: mpsc::Sender<Candidate>,
    pub(super) changes: mpsc::Sender<Change>,
}

impl Scan {
    pub(super) fn run(self, run: &RunContext, store: &BinaryStore) -> anyhow::Result<Beside> {
        let root = source::store_name(store);
        let series = self.series;
        let mut members =
            Cursor::new(|after: Option<&Digest>| run.ledger.unchanged_members_after(series, after), |member| member.0);
        let mut sidecars =
            Cursor::new(|after: Option<&Digest>| run.ledger.sidecars_after(&root, after), |digest| *digest);
        let mut walk = Walk::begin(store, WALKERS)?;
        for found in &mut walk {
            run.go_on()?;
            match found {
                Found::Binaries(batch) => {
                    let mut known_sidecars = 0;
                    for digest in &batch {
                        while let Some((gone, _)) = members.take_if(|member| member.0 < *digest)? {
                            self.gone(run, gone)?;
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
                        let indexed = run.ledger.object(self.destination, digest)?;
                        let candidate = Candidate { digest: *digest, indexed, pending: None };
                        self.candidates.blocking_send(candidate).map_err(|_| Cancelled)?;
                    }
                    let examined = batch.len() as u64;
                    run.report.count(|counts| {
                        counts.examined += examined;
                        counts.sidecars += known_sidecars;
                    });
                    run.report.advance(examined);
                }
                Found::Unreadable { digits, path, cause } => {
                    run.report.count(|counts| counts.failed += 1);
                    run.report.problem("unreadable", path.display().to_string(), format!("read directory: {cause}"));
                    let text = |digest: &Digest| digest.to_string();
                    while let Some((gone, _)) = members.take_if(|member| text(&member.0) < digits)? {
                        self.gone(run, gone)?;
                    }
                    // What cannot be seen is not gone.
                    while members.take_if(|member| text(&member.0).starts_with(&digits))?.is_some() {}
                }
            }
        }
        while let Some((gone, _)) = members.take()? {
            self.gone(run, gone)?;
        }
        Ok(walk.beside())
    }

    fn gone(&self, run: &RunContext, digest: Digest) -> anyhow::Result<()> {
        run.report.count(|counts| counts.removed += 1);
        Ok(self.changes.blocking_send(Change::Removed(digest)).map_err(|_| Cancelled)?)
    }
}
