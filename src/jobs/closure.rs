//! The proof that a backup has every binary that its documents need, without which it is not called complete.

use std::io::ErrorKind;

use crate::jobs::context::RunContext;
use crate::jobs::cursor::Cursor;
use crate::ledger::{Listed, Scratch};
use crate::model::digest::Digest;
use crate::model::shard::Shard;
use crate::repository::binaries::BinaryStore;

/// How many are sorted before they are put on disk: in order, a row costs a part of what it costs anywhere.
const SORTED_AT_ONCE: usize = 128 << 10;

/// The binaries that documents refer to.
#[derive(Debug)]
pub struct Needed {
    on_disk: Scratch,
    gathered: Vec<Digest>,
    shard: Option<Shard>,
}

impl Needed {
    /// Nothing is needed yet.
    pub fn new(run: &RunContext) -> anyhow::Result<Self> {
        Ok(Self { on_disk: run.ledger.scratch()?, gathered: Vec::new(), shard: None })
    }

    /// The same, of which only what belongs to a shard is looked for; all of it if there is none.
    #[must_use]
    pub fn within(self, shard: Option<Shard>) -> Self {
        Self { shard, ..self }
    }

    /// Adds what was found, in any order and as often as it was.
    pub fn add(&mut self, digests: &[Digest]) -> anyhow::Result<()> {
        self.gathered.extend(digests);
        if self.gathered.len() < SORTED_AT_ONCE {
            return Ok(());
        }
        self.put()
    }

    fn put(&mut self) -> anyhow::Result<()> {
        self.gathered.sort_unstable();
        self.gathered.dedup();
        self.gathered.drain(..).try_for_each(|digest| self.on_disk.put(&Listed { digest, bytes: Some(0), mark: 0 }))
    }

    /// Compares with what the backup holds, page by page in order, and hands over what it lacks.
    ///
    /// Counts the binaries that are needed, and those held which are not.
    pub fn compare<T>(
        &mut self,
        run: &RunContext,
        held: &mut Cursor<T, impl FnMut(Option<&Digest>) -> anyhow::Result<Vec<T>>>,
        name: fn(&T) -> Digest,
        lacks: &mut dyn FnMut(&Digest) -> anyhow::Result<()>,
    ) -> anyhow::Result<Closure> {
        self.put()?;
        let mut closure = Closure::default();
        self.on_disk.each(|binary| {
            run.go_on()?;
            if self.shard.is_some_and(|shard| !shard.contains(&binary.digest)) {
                closure.elsewhere += 1;
                return Ok(());
            }
            closure.references += 1;
            while held.take_if(|row| name(row) < binary.digest)?.is_some() {
                closure.unreferenced += 1;
            }
            if held.take_if(|row| name(row) == binary.digest)?.is_none() {
                closure.missing += 1;
                lacks(&binary.digest)?;
            }
            Ok(())
        })?;
        while held.take()?.is_some() {
            closure.unreferenced += 1;
        }
        Ok(closure)
    }
}

/// What a comparison counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// Binaries that documents refer to.
    pub references: u64,
    /// Of those: binaries that the backup does not have.
    pub missing: u64,
    /// Binaries of the backup that no document refers to.
    pub unreferenced: u64,
    /// Binaries that documents refer to and that were not looked for, as they do not belong to the shard.
    pub elsewhere: u64,
}

impl Closure {
    /// Takes it into what the run counts.
    pub fn count(&self, run: &RunContext) {
        run.report.count(|counts| {
            counts.references += self.references;
            counts.unreferenced += self.unreferenced;
            counts.missing += self.missing;
            counts.failed += self.missing;
        });
    }
}

/// Names a binary that documents need and a backup does not have, with what the repository has of it now.
pub fn name_missing(run: &RunContext, store: &BinaryStore, digest: &Digest) {
    let now = match store.check(digest, &|| run.stop.is_cancelled()) {
        Ok(true) => "it came too late for this backup: run it again".to_owned(),
        Ok(false) => "its file is not what its name says".to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => "the repository does not have it".to_owned(),
        Err(error) => format!("its file cannot be read: {error}"),
    };
    run.report.problem("missing", digest.to_string(), format!("documents refer to it, and {now}"));
}
