//! An object as a blocking reader, checked against what is known of it.

use std::io::{self, BufReader, Read};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tokio::runtime::Handle;

use super::context::{Destination, RunContext};
use crate::model::digest::{Digest, Hasher};
use crate::model::key::Key;
use crate::store::{ByteRange, Download, StoreError};

/// What is known of an object before it is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub digest: Digest,
}

/// A download that blocks its thread, which must be one of the runtime's blocking threads.
pub struct BlockingDownload {
    handle: Handle,
    download: Box<dyn Download>,
    chunk: Bytes,
}

impl std::fmt::Debug for BlockingDownload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockingDownload").finish_non_exhaustive()
    }
}

impl BlockingDownload {
    /// Reads from `download`, on the runtime that this is called in.
    pub fn new(download: Box<dyn Download>) -> Self {
        Self { handle: Handle::current(), download, chunk: Bytes::new() }
    }
}

impl Read for BlockingDownload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.handle.block_on(self.download.chunk()) {
                Ok(Some(chunk)) => self.chunk = chunk,
                Ok(None) => return Ok(0),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let taken = buffer.len().min(self.chunk.len());
        buffer[..taken].copy_from_slice(&self.chunk.split_to(taken));
        Ok(taken)
    }
}

/// Counts and digests what passes.
#[derive(Debug)]
pub struct Checking<R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
}

impl<R: Read> Checking<R> {
    /// Around a reader of something that should be as expected.
    pub fn new(inner: R, expected: &Expected) -> Self {
        Self { inner, hasher: Hasher::new(expected.digest.algorithm()), bytes: 0 }
    }

    /// Reads the rest and compares.
    pub fn finish(mut self, run: &RunContext, key: &Key, expected: &Expected) -> anyhow::Result<()> {
        let mut rest = vec![0; 64 << 10];
        while self.read(&mut rest).with_context(|| format!("read `{key}`"))? > 0 {
            run.go_on()?;
        }
        if self.bytes != expected.bytes {
            bail!(
                "check `{key}`: it has {} bytes, not the {} of the manifest: it is damaged",
                self.bytes,
                expected.bytes
            );
        }
        let digest = self.hasher.finish();
        if digest != expected.digest {
            bail!("check `{key}`: its digest is {digest}, not the {} of the manifest: it is damaged", expected.digest);
        }
        Ok(())
    }
}

impl<R: Read> Read for Checking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Fetches an object and lets `consume` read it on a thread of its own; then checks size and digest of all of it.
pub async fn fetch_checked<T: Send + 'static>(
    run: &RunContext,
    destination: &Destination,
    key: &Key,
    expected: Expected,
    consume: impl FnOnce(&RunContext, &mut dyn Read) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let download = destination.store.get(key, None).await?;
    let key = key.clone();
    run.blocking(move |run| {
        let mut reader = Checking::new(BufReader::with_capacity(64 << 10, BlockingDownload::new(download)), &expected);
        let value = consume(run, &mut reader);
        run.go_on()?;
        if value.as_ref().is_err_and(|error| !may_be_damage(error)) {
            return value;
        }
        // A damaged object is reported as such, rather than by what its reader stumbled over.
        reader.finish(run, &key, &expected)?;
        value
    })
    .await
}

/// Whether an error may come from the content of an object, rather than from the way to it or from our own disk:
/// then reading the rest would tell nothing, and may take hours.
fn may_be_damage(error: &anyhow::Error) -> bool {
    let ours = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error().is_some())
    };
    store_error(error).is_none() && !error.chain().any(ours)
}

/// Fetches a small object whole, and no more of it than `limit` bytes.
pub async fn fetch_small(destination: &Destination, key: &Key, limit: u64) -> Result<Bytes, StoreError> {
    let download = destination.store.get(key, None).await?;
    if download.size() > limit {
        let cause = format!("it has {} bytes, more than the {limit} that such an object may have", download.size());
        return Err(StoreError::new(crate::store::ErrorKind::Other, format!("fetch `{key}`"), cause));
    }
    crate::store::read_to_end(download).await
}

/// What a store said, if an error goes back to a request; also when a reader in between made it one of its own.
pub fn store_error(error: &anyhow::Error) -> Option<&StoreError> {
    error.chain().find_map(|cause| {
        let wrapped = || cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<StoreError>();
        cause.downcast_ref::<StoreError>().or_else(wrapped)
    })
}

/// A part of an object, whole.
pub async fn fetch_range(destination: &Destination, key: &Key, from: u64, len: u64) -> Result<Bytes, StoreError> {
    crate::store::read_to_end(destination.store.get(key, Some(ByteRange { from, len })).await?).await
}
