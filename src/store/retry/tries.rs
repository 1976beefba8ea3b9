//! The tries at a request, each in its turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::{Meter, RetryPolicy};
use crate::store::limiter::Lane;
use crate::store::pressure::Slot;
use crate::store::{ErrorKind, StoreError};

/// How requests are tried, and in whose turn.
#[derive(Clone, Debug)]
pub(super) struct Retry {
    pub(super) policy: RetryPolicy,
    pub(super) stop: Option<CancellationToken>,
    pub(super) meter: Arc<Meter>,
    pub(super) lane: Option<Arc<Lane>>,
}

impl Retry {
    pub(super) fn tries(&self) -> Tries<'_> {
        Tries { retry: self, made: 0, damaged: false }
    }

    /// Tries a request with a body of so many bytes until it is answered, each time in its turn.
    pub(super) async fn run<T, F>(&self, bytes: u64, mut request: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut tries = self.tries();
        loop {
            let slot = self.turn(bytes).await?;
            tries.count();
            let result = request().await;
            slot.end(&result);
            match result {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    /// The same without waiting for a turn, for what ends something.
    pub(super) async fn run_at_once<T, F>(&self, mut request: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut tries = self.tries();
        loop {
            tries.count();
            match request().await {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    /// Waits until a request with a body of so many bytes may be sent.
    pub(super) async fn turn(&self, bytes: u64) -> Result<Slot, StoreError> {
        let pressure = &self.meter.pressure;
        let turn = async {
            if let Some(lane) = &self.lane {
                lane.pay(bytes).await;
            }
            pressure.enter().await
        };
        let Some(stop) = &self.stop else { return Ok(turn.await) };
        if stop.is_cancelled() {
            return Ok(pressure.enter_at_once());
        }
        tokio::select! {
            biased;
            slot = turn => Ok(slot),
            () = stop.cancelled() => {
                let action = format!("wait for a turn at `{}`", self.meter.place);
                Err(StoreError::new(ErrorKind::Unavailable, action, "it is to stop"))
            }
        }
    }

    /// Waits until bytes that came are paid for, or it is to stop.
    pub(super) async fn pay(&self, bytes: u64) {
        let Some(lane) = &self.lane else { return };
        let Some(stop) = &self.stop else { return lane.pay(bytes).await };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = lane.pay(bytes) => {}
        }
    }

    /// Completes after the wait, or gives the error back if there is no sense in waiting.
    pub(super) async fn wait(&self, tries: u32, mut error: StoreError) -> Result<(), StoreError> {
        if tries >= self.policy.attempts {
            error.cause = format!("{} (tried {tries} times)", error.cause);
            return Err(error);
        }
        let pause = tokio::time::sleep(self.policy.wait(tries));
        let Some(stop) = &self.stop else {
            pause.await;
            return Ok(());
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(error),
            () = pause => Ok(()),
        }
    }
}

/// The tries at one request.
pub(super) struct Tries<'a> {
    retry: &'a Retry,
    pub(super) made: u32,
    damaged: bool,
}

impl Tries<'_> {
    pub(super) fn count(&mut self) {
        self.made += 1;
        self.retry.meter.requests.fetch_add(1, Ordering::Relaxed);
        if self.made > 1 {
            self.retry.meter.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for the next try, or gives the error back if there is none.
    pub(super) async fn again(&mut self, error: StoreError) -> Result<(), StoreError> {
        let worth_it = match error.kind {
            ErrorKind::Unavailable => true,
            ErrorKind::Corrupt => !std::mem::replace(&mut self.damaged, true),
            _ => false,
        };
        if worth_it { self.retry.wait(self.made, error).await } else { Err(error) }
    }
}
