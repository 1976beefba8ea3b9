//! The bytes of a connection, with limits that hyper does not have: how long writing may stand still, and how a
//! connection is ended on which something was not read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::limits::WRITE_WITHIN;

/// How long, and how much of, what was not wanted is still taken after the answer. Closed with bytes unread, a socket
/// makes the other side lose the answer.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 64 << 20);

/// What bytes go over.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection.
pub(super) struct Stream {
    wire: Box<dyn Wire>,
    /// When writing will have stood still for too long; none while it does not stand still.
    stalled: Option<Pin<Box<Sleep>>>,
    unread: Arc<AtomicBool>,
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Stream {
    /// A connection; `unread` tells whether something that was sent on it was not read.
    pub(super) fn new(wire: Box<dyn Wire>, unread: Arc<AtomicBool>) -> Self {
        Self { wire, stalled: None, unread, lingering: None }
    }

    /// Passes on what became of a try to write, unless that stands still for too long.
    fn patiently<T>(&mut self, cx: &mut Context<'_>, tried: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.stalled = None;
            return tried;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_WITHIN)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Takes what still comes, for a while.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (until, left) =
            self.lingering.get_or_insert_with(|| (Box::pin(sleep_until(Instant::now() + LINGER.0)), LINGER.1));
        let mut space = [0; 4096];
        loop {
            if until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut *self.wire).poll_read(cx, &mut buffer));
            let length = buffer.filled().len();
            if read.is_err() || length == 0 || length >= *left {
                return Poll::Ready(());
            }
            *left -= length;
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.wire).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut *self.wire).poll_write(cx, buf);
        self.patiently(cx, tried)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tried = Pin::new(&mut *self.wire).poll_flush(cx);
        self.patiently(cx, tried)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let tried = Pin::new(&mut *self.wire).poll_shutdown(cx);
            ready!(self.patiently(cx, tried))?;
        }
        if self.unread.load(Ordering::Relaxed) {
            ready!(self.linger(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut *self.wire).poll_write_vectored(cx, bufs);
        self.patiently(cx, tried)
    }
}
