//! Downloads that keep their place until all has come, and go on where they broke off.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::tries::Retry;
use crate::model::key::Key;
use crate::store::pressure::Slot;
use crate::store::{ByteRange, Download, ObjectStore, StoreError};

/// A download, and its place until all of it has come.
pub(super) struct Opened {
    pub(super) download: Box<dyn Download>,
    slot: Option<Slot>,
}

impl Opened {
    pub(super) async fn get(
        store: &dyn ObjectStore,
        key: &Key,
        range: Option<ByteRange>,
        mut slot: Slot,
    ) -> Result<Self, StoreError> {
        let got = store.get(key, range).await;
        let slot = if got.is_ok() {
            slot.rest();
            Some(slot)
        } else {
            slot.end(&got);
            None
        };
        Ok(Self { download: got?, slot })
    }

    /// The next piece. It is paid for before anybody has it, so that no more of it is fetched meanwhile.
    async fn chunk(&mut self, retry: &Retry) -> Result<Option<Bytes>, StoreError> {
        if let Some(slot) = &mut self.slot {
            slot.read();
        }
        let piece = self.download.chunk().await;
        if let Ok(Some(piece)) = &piece {
            retry.pay(piece.len() as u64).await;
        }
        match (&piece, &mut self.slot) {
            (Ok(Some(_)), Some(slot)) => slot.rest(),
            _ => self.end(&piece),
        }
        piece
    }

    /// It has ended like this.
    pub(super) fn end<T>(&mut self, result: &Result<T, StoreError>) {
        if let Some(slot) = self.slot.take() {
            slot.end(result);
        }
    }
}

/// A download that goes on where it broke off.
pub(super) struct ResumingDownload {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) retry: Retry,
    pub(super) key: Key,
    pub(super) size: u64,
    /// What has not come yet.
    pub(super) rest: ByteRange,
    /// None once it has broken.
    pub(super) opened: Option<Opened>,
}

impl ResumingDownload {
    async fn attempt(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut opened = match self.opened.take() {
            Some(opened) => opened,
            None => Opened::get(&*self.store, &self.key, Some(self.rest), self.retry.turn(0).await?).await?,
        };
        let piece = opened.chunk(&self.retry).await?;
        let len = piece.as_ref().map_or(0, |piece| piece.len() as u64).min(self.rest.len);
        self.rest = ByteRange { from: self.rest.from + len, len: self.rest.len - len };
        if self.rest.len == 0 {
            opened.end(&Ok(()));
        }
        self.opened = Some(opened);
        Ok(piece)
    }
}

#[async_trait]
impl Download for ResumingDownload {
    fn size(&self) -> u64 {
        self.size
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.rest.len == 0 {
            return Ok(None);
        }
        let retry = self.retry.clone();
        let mut tries = retry.tries();
        // The request that brought us here is counted already.
        tries.made = 1;
        loop {
            match self.attempt().await {
                Ok(piece) => return Ok(piece),
                Err(error) => tries.again(error).await?,
            }
            tries.count();
        }
    }
}
