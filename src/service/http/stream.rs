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

/// How long, and how much of, what was not wanted is still taken after the answer. Closed with bytes unread, a socket
/// makes the other side lose the answer.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 64 << 20);

/// What bytes go over.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection.
pub(super) struct Stream {
    wire: Box<dyn Wire>,
    write_within: Duration,
    /// When writing will have stood still for too long; none while it does not stand still.
    stalled: Option<Pin<Box<Sleep>>>,
    unread: Arc<AtomicBool>,
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Stream {
    /// A connection on which writing may stand still for that long; `unread` tells whether something that was sent on
    /// it was not read.
    pub(super) fn new(wire: Box<dyn Wire>, write_within: Duration, unread: Arc<AtomicBool>) -> Self {
        Self { wire, write_within, stalled: None, unread, lingering: None }
    }

    /// Passes on what became of a try to write, unless that stands still for too long.
    fn patiently<T>(&mut self, cx: &mut Context<'_>, tried: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.stalled = None;
            return tried;
        }
        let within = self.write_within;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(within)));
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::service::http::Limits;

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_read_an_answer_has_twenty_seconds_and_whoever_reads_slowly_any_time() {
        let (server, mut client) = duplex(16);
        let mut stream = Stream::new(Box::new(server), Limits::default().write_within, Arc::default());
        // A byte each 19 seconds.
        let slow = async {
            for _ in 0..32 {
                sleep(Duration::from_secs(19)).await;
                client.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(stream.write_all(&[0; 48]), slow);
        written.unwrap();
        let begun = Instant::now();
        let error = stream.write_all(&[0; 48]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
    }
}
