//! An object that arrives in parts.
//!
//! Parts that come in turn go straight to the end of one file, which in the end is renamed. One that comes early waits
//! in a file of its own until those before it are there. Only when parts were replaced or left out is all copied again.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use crate::model::key::Key;
use crate::store::directory::tree::{Tree, create};
use crate::store::directory::{blocking, failed};
use crate::store::{PartReceipt, StoreError, Unfinished, Upload};

/// The file that parts in turn go to.
pub(super) const BODY: &str = "body";
/// The file that all are copied to if they did not come in turn.
const WHOLE: &str = "whole";

/// Begins an upload of `key`.
pub(super) fn begin(tree: Arc<Tree>, key: Key, place: String) -> io::Result<DirectoryUpload> {
    let id = format!("{:016x}", fastrand::u64(..));
    let directory = tree.make_upload(&id, &key)?;
    // If removing comes to nothing too, the upload is listed as unfinished.
    let body = create(&directory, BODY).inspect_err(|_| tree.remove_upload(&id).unwrap_or_default())?;
    let state = Mutex::new(State { next: 1, end: 0, parts: BTreeMap::new() });
    Ok(DirectoryUpload { place, arrival: Arc::new(Arrival { tree, key, id, directory, body, state }) })
}

/// An object on its way into a directory.
pub(super) struct DirectoryUpload {
    place: String,
    arrival: Arc<Arrival>,
}

struct Arrival {
    tree: Arc<Tree>,
    key: Key,
    id: String,
    directory: OwnedFd,
    body: File,
    /// Held while a part is written: the disk takes one after the other in any case.
    state: Mutex<State>,
}

struct State {
    /// The number of the part that goes to the end of the body.
    next: u32,
    /// Where that is.
    end: u64,
    parts: BTreeMap<u32, Part>,
}

struct Part {
    receipt: PartReceipt,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the body, from this byte.
    Body(u64),
    /// In a file of its own.
    Aside,
}

impl DirectoryUpload {
    async fn blocking<T: Send + 'static>(
        &self,
        verb: &str,
        work: impl FnOnce(&Arrival) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let action = format!("{verb} `{}` in `{}`", self.arrival.key, self.place);
        let arrival = Arc::clone(&self.arrival);
        blocking(move || work(&arrival).map_err(|error| failed(action, &error))).await
    }
}

impl fmt::Debug for DirectoryUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectoryUpload({} of {})", self.arrival.id, self.arrival.key)
    }
}

#[async_trait]
impl Upload for DirectoryUpload {
    fn unfinished(&self) -> Unfinished {
        Unfinished { key: self.arrival.key.clone(), id: self.arrival.id.clone(), since: None }
    }

    async fn part(&self, number: u32, body: Bytes) -> Result<PartReceipt, StoreError> {
        self.blocking(&format!("upload part {number} of"), move |arrival| arrival.keep(number, &body)).await
    }

    async fn try_complete(&self, parts: &[PartReceipt]) -> Result<(), StoreError> {
        let parts = parts.to_vec();
        self.blocking("complete", move |arrival| arrival.complete(&parts)).await
    }

    async fn try_abort(&self) -> Result<(), StoreError> {
        self.blocking("abort the upload of", |arrival| arrival.tree.remove_upload(&arrival.id)).await
    }
}

impl Arrival {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it writes a part")
    }

    fn keep(&self, number: u32, body: &[u8]) -> io::Result<PartReceipt> {
        let mut state = self.state();
        let bytes = body.len() as u64;
        let tag = format!("{:08x}-{bytes}", crc32fast::hash(body));
        let receipt = PartReceipt { number, bytes, tag, checksum: None };
        // Forgotten until it is written, so that a part replaced by half is never taken for whole.
        let before = state.parts.remove(&number);
        let at = match before {
            Some(Part { receipt, at: At::Body(from) }) if receipt.bytes == bytes => {
                self.body.write_all_at(body, from)?;
                At::Body(from)
            }
            None if number == state.next => {
                self.body.write_all_at(body, state.end)?;
                state.append(bytes)
            }
            _ => {
                self.set_aside(number, body)?;
                At::Aside
            }
        };
        state.parts.insert(number, Part { receipt: receipt.clone(), at });
        self.take_in_waiting(&mut state);
        Ok(receipt)
    }

    fn set_aside(&self, number: u32, body: &[u8]) -> io::Result<()> {
        let name = aside(number);
        self.clear(&name);
        let written = create(&self.directory, &name).and_then(|file| file.write_all_at(body, 0));
        written.inspect_err(|_| self.clear(&name))
    }

    /// Removes a file that may not be there; what stays goes with the upload's directory.
    fn clear(&self, name: &str) {
        unlinkat(&self.directory, name, AtFlags::empty()).unwrap_or_default();
    }

    /// Appends the parts that waited for their turn. One that cannot be appended now waits on, until completion.
    fn take_in_waiting(&self, state: &mut State) {
        while let Some(part) = state.parts.get(&state.next).filter(|part| part.at == At::Aside) {
            let (number, bytes) = (state.next, part.receipt.bytes);
            if self.copy(number, At::Aside, bytes, &self.body, state.end).is_err() {
                return;
            }
            let at = state.append(bytes);
            if let Some(part) = state.parts.get_mut(&number) {
                part.at = at;
            }
            self.clear(&aside(number));
        }
    }

    /// Copies a part to a place in `to`.
    fn copy(&self, number: u32, at: At, bytes: u64, mut to: &File, offset: u64) -> io::Result<()> {
        let mut from = match at {
            At::Body(from) => {
                let mut file = self.open(BODY)?;
                file.seek(SeekFrom::Start(from))?;
                file
            }
            At::Aside => self.open(&aside(number))?,
        }
        .take(bytes);
        to.seek(SeekFrom::Start(offset))?;
        if io::copy(&mut from, &mut to)? == bytes {
            return Ok(());
        }
        Err(io::Error::other(format!("part {number} has become shorter")))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.directory, name, flags, Mode::empty())?))
    }

    fn complete(&self, receipts: &[PartReceipt]) -> io::Result<()> {
        let state = self.state();
        let places = state.places(receipts)?;
        let mut end = 0;
        let mut in_turn = true;
        for (receipt, at) in receipts.iter().zip(&places) {
            in_turn &= *at == At::Body(end);
            end += receipt.bytes;
        }
        let name = if in_turn { BODY } else { WHOLE };
        if in_turn {
            // What a part that broke off may have left at the end.
            self.body.set_len(end)?;
            self.body.sync_all()?;
        } else {
            self.copy_all(receipts, &places).inspect_err(|_| self.clear(WHOLE))?;
        }
        self.tree.place(&self.directory, name, &self.key)?;
        // The object is there and durable; what may be left of the upload is found by the next who looks.
        self.tree.remove_upload(&self.id).unwrap_or_default();
        Ok(())
    }

    fn copy_all(&self, receipts: &[PartReceipt], places: &[At]) -> io::Result<()> {
        self.clear(WHOLE);
        let whole = create(&self.directory, WHOLE)?;
        let mut end = 0;
        for (receipt, at) in receipts.iter().zip(places) {
            self.copy(receipt.number, *at, receipt.bytes, &whole, end)?;
            end += receipt.bytes;
        }
        whole.sync_all()
    }
}

impl State {
    fn append(&mut self, bytes: u64) -> At {
        let at = At::Body(self.end);
        self.end += bytes;
        self.next += 1;
        at
    }

    fn places(&self, receipts: &[PartReceipt]) -> io::Result<Vec<At>> {
        if receipts.is_empty() || !receipts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(io::Error::other("an object is made of one part or more, given in order"));
        }
        let place = |receipt: &PartReceipt| match self.parts.get(&receipt.number) {
            Some(part) if part.receipt == *receipt => Ok(part.at),
            _ => Err(io::Error::other(format!("part {} is not there or was replaced", receipt.number))),
        };
        receipts.iter().map(place).collect()
    }
}

fn aside(number: u32) -> String {
    format!("part-{number:05}")
}
