//! One binary on its way to the destination.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::context::{Destination, RunContext};
use super::reading::settle;
use super::upload::{Manner, agrees, part_bytes_for, stream_object};
use crate::model::digest::Digest;
use crate::model::key::Key;
use crate::repository::binaries::{BinaryStore, Content};
use crate::store::{ErrorKind, PUT_LIMIT, StoreError};

/// How many bytes of binaries are held at once, however many requests are under way.
const HELD_BYTES: usize = 24 << 20;
/// How many threads read and digest files; more than cores, since a disk may have to be waited for.
const READERS: usize = 8;

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

/// What is known before a binary is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// It may be at the destination although the index does not have it: look before it is sent.
    Perhaps,
    /// The index has it, with this size.
    Indexed(u64),
}

/// Sends the binaries of a store; shared by the tasks that do so.
#[derive(Clone, Debug)]
pub struct Sender {
    run: RunContext,
    destination: Destination,
    store: BinaryStore,
    quiet: Duration,
    budget: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

/// A file as it was read, or what stands against it.
enum Read {
    Sound(Bytes, OwnedSemaphorePermit),
    Large(u64),
    Other { bytes: u64, small: Option<Vec<u8>> },
}

impl Sender {
    /// For one run; `quiet` is how long a file must be unchanged before it is read a second time.
    pub fn new(run: &RunContext, destination: &Destination, store: &BinaryStore, quiet: Duration) -> Self {
        Self {
            run: run.clone(),
            destination: destination.clone(),
            store: store.clone(),
            quiet,
            budget: Arc::new(Semaphore::new(HELD_BYTES / 1024)),
            readers: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// Brings one binary to the destination. An error is one that ends the run.
    pub async fn send(&self, digest: Digest, known: Known) -> anyhow::Result<Sent> {
        let key = Key::binary(&digest);
        if let Known::Indexed(indexed) = known {
            match self.store.stamp(&digest) {
                Ok(stamp) if stamp.bytes == indexed => return Ok(Sent::Present { bytes: indexed }),
                Ok(_) => {}
                Err(error) => return Ok(unread(error)),
            }
        }
        if known == Known::Perhaps
            && let Some(sent) = self.find(&key, &digest).await?
        {
            return Ok(sent);
        }
        for attempt in 1.. {
            let read = match self.read(digest).await? {
                Ok(read) => read,
                Err(error) => return Ok(unread(error)),
            };
            let other = match (read, known) {
                (Read::Sound(body, _), Known::Indexed(indexed)) => {
                    return Ok(Sent::Refused(differs(&key, body.len() as u64, indexed)));
                }
                (Read::Large(bytes), Known::Indexed(indexed)) => {
                    if self.check(digest).await? {
                        return Ok(Sent::Refused(differs(&key, bytes, indexed)));
                    }
                    Sent::Suspect { bytes, small: None }
                }
                (Read::Sound(body, permit), _) => {
                    let bytes = body.len() as u64;
                    let result = self.destination.store.put(&key, body, &digest).await;
                    drop(permit);
                    return self.judge(&key, &digest, bytes, result).await;
                }
                (Read::Large(bytes), _) => match self.send_large(&key, digest, bytes).await? {
                    Some(sent) => return Ok(sent),
                    None => Sent::Suspect { bytes, small: None },
                },
                (Read::Other { bytes, small }, _) => Sent::Suspect { bytes, small },
            };
            if attempt == 2 {
                return Ok(other);
            }
            if let Err(error) = settle(&self.run, &self.store, &digest, self.quiet).await {
                return Ok(unread(error));
            }
        }
        unreachable!("the second attempt is the last")
    }

    /// Looks whether the destination has the binary, as large as the file is.
    async fn find(&self, key: &Key, digest: &Digest) -> anyhow::Result<Option<Sent>> {
        let stamp = match self.store.stamp(digest) {
            Ok(stamp) => stamp,
            Err(error) => return Ok(Some(unread(error))),
        };
        match agrees(&self.destination, key, stamp.bytes, digest).await {
            Ok(true) => Ok(Some(Sent::Present { bytes: stamp.bytes })),
            // A file that is partial has another size; it is read and judged like any other.
            Ok(false) => Ok(None),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn read(&self, digest: Digest) -> anyhow::Result<io::Result<Read>> {
        let _turn = self.readers.acquire().await?;
        let (store, budget) = (self.store.clone(), Arc::clone(&self.budget));
        self.run
            .blocking(move |_| {
                let read = || -> io::Result<Read> {
                    let file = store.open_file(&digest)?;
                    let bytes = file.metadata()?.len();
                    if bytes > PUT_LIMIT as u64 {
                        return Ok(Read::Large(bytes));
                    }
                    let kib = u32::try_from(bytes / 1024 + 1).expect("at most the limit of a put");
                    let permit = match Arc::clone(&budget).try_acquire_many_owned(kib) {
                        Ok(permit) => permit,
                        Err(_) => tokio::runtime::Handle::current()
                            .block_on(budget.acquire_many_owned(kib))
                            .map_err(io::Error::other)?,
                    };
                    Ok(match store.read_from(file, &digest, PUT_LIMIT)? {
                        Content::Sound(content) => Read::Sound(content.into(), permit),
                        Content::Other { bytes, small } => Read::Other { bytes, small },
                    })
                };
                Ok(read())
            })
            .await
    }

    async fn check(&self, digest: Digest) -> anyhow::Result<bool> {
        let store = self.store.clone();
        self.run
            .blocking(move |run| match store.check(&digest, &|| run.stop.is_cancelled()) {
                Ok(same) => Ok(same),
                Err(_) => run.go_on().map(|()| false),
            })
            .await
    }

    /// Sends a large binary in parts while it is digested, and completes it only if it is what its name says; none
    /// if it is not.
    async fn send_large(&self, key: &Key, digest: Digest, bytes: u64) -> anyhow::Result<Option<Sent>> {
        let manner = Manner {
            algorithm: digest.algorithm(),
            part_bytes: part_bytes_for(bytes),
            // A part that is larger than the budget could never be paid for; such binaries go one by one.
            budget: (part_bytes_for(bytes) <= PUT_LIMIT).then(|| Arc::clone(&self.budget)),
        };
        let store = self.store.clone();
        let streamed = stream_object(&self.run, &self.destination, key, &manner, move |run, sink| {
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
            drop(streamed.discard(&self.run, &self.destination).await);
            return Ok(Some(unread(error)));
        }
        if streamed.digest != digest {
            drop(streamed.discard(&self.run, &self.destination).await);
            return Ok(None);
        }
        let bytes = streamed.bytes;
        let (_, result) = streamed.commit(&self.run, &self.destination).await?;
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
                if agrees(&self.destination, key, bytes, digest).await? {
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

fn unread(error: io::Error) -> Sent {
    if error.kind() == io::ErrorKind::NotFound { Sent::Vanished } else { Sent::Unreadable(error) }
}

fn differs(key: &Key, here: u64, there: u64) -> String {
    format!(
        "`{key}` has {there} bytes at the destination, the sound file here {here}: take the object away by hand, then copy with --full"
    )
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
