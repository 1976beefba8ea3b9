//! One binary on its way to the destination.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::buffers::Buffers;
use super::context::{Destination, RunContext};
use super::reading::settle;
use super::upload::{Manner, lying, part_bytes_for, stream_object};
use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::repository::binaries::{BinaryStore, Content};
use crate::store::{ErrorKind, Lying, PUT_LIMIT, StoreError};

/// How many bytes of binaries are held at once, however many requests are under way.
const HELD_BYTES: usize = 24 << 20;
/// How many of them may be those of binaries that nobody sends yet. A part of a large binary fits beside them, so that
/// those who send are never all waiting for what waits for them.
const AHEAD_BYTES: usize = 4 << 20;
/// How many threads read and digest files; more than cores, since a disk may have to be waited for.
pub const READERS: usize = 8;

/// What became of a binary.
#[derive(Debug)]
pub enum Sent {
    /// It is at the destination now.
    Stored {
        /// Its size.
        bytes: u64,
    },
    /// It was there already.
    Present {
        /// Its size.
        bytes: u64,
    },
    /// The content of the file is not what its name says.
    Suspect {
        /// The size of the file.
        bytes: u64,
        /// The content, if it is small.
        small: Option<Vec<u8>>,
    },
    /// Its owner deleted it meanwhile.
    Vanished,
    /// The file cannot be read.
    Unreadable(io::Error),
    /// The destination holds something else under its key, or did not take it as it is.
    Refused(String),
}

/// What is done about a file whose content is not its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It is read a second time once it has been unchanged for this long.
    Settle(Duration),
    /// It is left for later: who wrote to it last is not known to be done.
    Later,
}

/// Sends the binaries of a store; shared by the tasks that do so.
#[derive(Clone, Debug)]
pub struct Sender(Arc<Shared>);

/// What the clones of a sender share.
#[derive(Debug)]
struct Shared {
    run: RunContext,
    destination: Destination,
    store: BinaryStore,
    looks: AtomicUsize,
    budget: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    buffers: Buffers,
    readers: Semaphore,
}

/// A file as it was read, or what stands against it.
#[derive(Debug)]
enum Read {
    Sound(Bytes, OwnedSemaphorePermit),
    Large(u64),
    Other { bytes: u64, small: Option<Vec<u8>> },
}

/// A binary as it was found, before anything was asked of the destination.
#[derive(Debug)]
pub struct Found {
    first: First,
    /// Its part of what is held and not sent yet.
    ahead: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum First {
    /// The destination has it, and the file is as long as that.
    Present(u64),
    Read(io::Result<Read>),
}

impl Sender {
    /// For one run. The first `looks` binaries that the index does not have may be at the destination all the same:
    /// they are looked for there.
    pub fn new(run: &RunContext, destination: &Destination, store: &BinaryStore, looks: usize) -> Self {
        Self(Arc::new(Shared {
            run: run.clone(),
            destination: destination.clone(),
            store: store.clone(),
            looks: AtomicUsize::new(looks),
            budget: Arc::new(Semaphore::new(HELD_BYTES / 1024)),
            ahead: Arc::new(Semaphore::new(AHEAD_BYTES / 1024)),
            buffers: Buffers::default(),
            readers: Semaphore::new(READERS),
        }))
    }

    /// Looks at the file of a binary, which the destination has with the size `indexed` if the index says so, and reads
    /// it if that may be necessary. `before_waiting` is called if too much is held, before this waits for less.
    pub fn find(&self, digest: Digest, indexed: Option<u64>, before_waiting: &mut dyn FnMut()) -> Found {
        if let Some(indexed) = indexed {
            match self.0.store.stamp(&digest) {
                Ok(stamp) if stamp.bytes == indexed => return Found { first: First::Present(indexed), ahead: None },
                Ok(_) => {}
                Err(error) => return Found { first: First::Read(Err(error)), ahead: None },
            }
        }
        let mut ahead = None;
        let read = self.0.read(digest, |kib| {
            let few = kib.min(u32::try_from(AHEAD_BYTES / 1024).expect("some thousand"));
            ahead = Some(acquire(&self.0.ahead, few, before_waiting)?);
            acquire(&self.0.budget, kib, before_waiting)
        });
        Found { first: First::Read(read), ahead }
    }

    /// Brings one binary to the destination that was found just now. An error is one that ends the run.
    pub async fn send(
        &self,
        digest: Digest,
        indexed: Option<u64>,
        found: Found,
        patience: Patience,
    ) -> anyhow::Result<Sent> {
        let key = Key::binary(&digest);
        let mut first = match found.first {
            First::Present(bytes) => return Ok(Sent::Present { bytes }),
            First::Read(read) => Some(read),
        };
        drop(found.ahead);
        for settled in [false, true] {
            let read = match first.take() {
                Some(read) => read,
                None => self.read(digest).await?,
            };
            let read = match read {
                Ok(read) => read,
                Err(error) => return Ok(unread(error)),
            };
            let other = match (read, indexed) {
                (Read::Other { bytes, small }, _) => Sent::Suspect { bytes, small },
                (Read::Sound(body, _), Some(indexed)) => return Ok(compare(&key, body.len() as u64, indexed)),
                (Read::Sound(body, permit), None) => {
                    let bytes = body.len() as u64;
                    if let Some(sent) = self.look(&key, bytes, &digest).await? {
                        return Ok(sent);
                    }
                    self.0.destination.must_be_as_it_was().await?;
                    let result = self.0.destination.store.put(&key, body, &digest).await;
                    drop(permit);
                    return self.judge(&key, &digest, bytes, result).await;
                }
                (Read::Large(bytes), Some(indexed)) => match self.check(digest).await? {
                    Ok(true) => return Ok(compare(&key, bytes, indexed)),
                    Ok(false) => Sent::Suspect { bytes, small: None },
                    Err(error) => return Ok(unread(error)),
                },
                (Read::Large(bytes), None) => {
                    match self.send_large(&key, digest, bytes, settled || patience == Patience::Later).await? {
                        Some(sent) => return Ok(sent),
                        None => Sent::Suspect { bytes, small: None },
                    }
                }
            };
            let Patience::Settle(quiet) = patience else { return Ok(other) };
            if settled {
                return Ok(other);
            }
            if let Err(error) = settle(&self.0.run, &self.0.store, &digest, quiet).await {
                return Ok(unread(error));
            }
        }
        unreachable!("the second reading is the last")
    }

    /// Looks whether the destination has a binary of this size, as long as there is reason to.
    async fn look(&self, key: &Key, bytes: u64, digest: &Digest) -> anyhow::Result<Option<Sent>> {
        let less = |looks: usize| looks.checked_sub(1);
        if self.0.looks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            return Ok(None);
        }
        let found = lying(&self.0.run, &self.0.destination, key, bytes, digest).await?;
        Ok((found == Lying::Same).then_some(Sent::Present { bytes }))
    }

    async fn read(&self, digest: Digest) -> anyhow::Result<io::Result<Read>> {
        let _turn = self.0.readers.acquire().await?;
        let shared = Arc::clone(&self.0);
        // Without a context of its own, which is much for a file that takes some microseconds.
        let read =
            tokio::task::spawn_blocking(move || shared.read(digest, |kib| acquire(&shared.budget, kib, &mut || {})));
        read.await.context("read a binary on a thread of its own")
    }

    async fn check(&self, digest: Digest) -> anyhow::Result<io::Result<bool>> {
        let store = self.0.store.clone();
        self.0
            .run
            .blocking(move |run| match store.check(&digest, &|| run.stop.is_cancelled()) {
                Ok(same) => Ok(Ok(same)),
                Err(error) => run.go_on().map(|()| Err(error)),
            })
            .await
    }

    /// Sends a large binary in parts while it is digested, and completes it only if it is what its name says; none
    /// if it is not. One that may still be written to would be sent in vain, and not only once: `check_first` spares that.
    async fn send_large(
        &self,
        key: &Key,
        digest: Digest,
        bytes: u64,
        check_first: bool,
    ) -> anyhow::Result<Option<Sent>> {
        if check_first {
            match self.check(digest).await? {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => return Ok(Some(unread(error))),
            }
        } else if let Some(sent) = self.look(key, bytes, &digest).await? {
            return Ok(Some(sent));
        }
        let manner = Manner {
            algorithm: digest.algorithm(),
            part_bytes: part_bytes_for(bytes),
            // A part that is larger than the budget could never be paid for; such binaries go one by one.
            budget: (part_bytes_for(bytes) <= PUT_LIMIT).then(|| Arc::clone(&self.0.budget)),
            buffers: self.0.buffers.clone(),
        };
        let store = self.0.store.clone();
        let streamed = stream_object(&self.0.run, &self.0.destination, key, &manner, move |run, sink| {
            let mut file = match store.open_file(&digest) {
                Ok(file) => file,
                Err(error) => return Ok(Err(error)),
            };
            match copy_until(&mut file, sink, &|| run.stop.is_cancelled()) {
                Ok(()) => Ok(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(error.into()),
                Err(error) => run.go_on().map(|()| Err(error)),
            }
        })
        .await?;
        if let Err(error) = &streamed.value {
            let error = io::Error::new(error.kind(), error.to_string());
            drop(streamed.discard(&self.0.run, &self.0.destination).await);
            return Ok(Some(unread(error)));
        }
        if streamed.digest != digest {
            drop(streamed.discard(&self.0.run, &self.0.destination).await);
            return Ok(None);
        }
        let bytes = streamed.bytes;
        let (_, result) = streamed.commit(&self.0.run, &self.0.destination).await?;
        self.judge(key, &digest, bytes, result).await.map(Some)
    }

    async fn judge(
        &self,
        key: &Key,
        digest: &Digest,
        bytes: u64,
        result: Result<(), StoreError>,
    ) -> anyhow::Result<Sent> {
        match result {
            Ok(()) => Ok(Sent::Stored { bytes }),
            Err(error) if error.kind == ErrorKind::AlreadyExists => {
                if lying(&self.0.run, &self.0.destination, key, bytes, digest).await? == Lying::Same {
                    Ok(Sent::Present { bytes })
                } else {
                    Ok(Sent::Refused(format!(
                        "another object lies at `{key}`, and nothing is ever overwritten: take it away by hand, then copy with --full"
                    )))
                }
            }
            Err(error) if error.kind == ErrorKind::Corrupt => Ok(Sent::Refused(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}

impl Shared {
    /// Reads a file of which so much may be held as `room` gives for its size in KiB.
    fn read(&self, digest: Digest, room: impl FnOnce(u32) -> io::Result<OwnedSemaphorePermit>) -> io::Result<Read> {
        let file = self.store.open_file(&digest)?;
        let bytes = file.metadata()?.len();
        if bytes > PUT_LIMIT as u64 {
            return Ok(Read::Large(bytes));
        }
        let permit = room(u32::try_from(bytes / 1024 + 1).expect("at most the limit of a put"))?;
        Ok(match self.store.read_from(&file, bytes, &digest, PUT_LIMIT)? {
            Content::Sound(content) => Read::Sound(content.into(), permit),
            Content::Other { bytes, small } => Read::Other { bytes, small },
        })
    }
}

/// Takes so many permits, on a thread that may wait for them.
fn acquire(
    semaphore: &Arc<Semaphore>,
    permits: u32,
    before_waiting: &mut dyn FnMut(),
) -> io::Result<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(semaphore).try_acquire_many_owned(permits) {
        return Ok(permit);
    }
    before_waiting();
    tokio::runtime::Handle::current()
        .block_on(Arc::clone(semaphore).acquire_many_owned(permits))
        .map_err(io::Error::other)
}

fn unread(error: io::Error) -> Sent {
    if error.kind() == io::ErrorKind::NotFound { Sent::Vanished } else { Sent::Unreadable(error) }
}

/// A sound file of this size, and an object of that.
fn compare(key: &Key, here: u64, there: u64) -> Sent {
    if here == there {
        return Sent::Present { bytes: here };
    }
    Sent::Refused(format!(
        "`{key}` has {there} bytes at the destination, the sound file here {here}: take the object away by hand, then copy with --full"
    ))
}

/// Copies all of a reader, unless it is to stop.
fn copy_until(from: &mut dyn io::Read, to: &mut dyn io::Write, stop: &dyn Fn() -> bool) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        if stop() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped"));
        }
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            read => to.write_all(&buffer[..read])?,
        }
    }
}
