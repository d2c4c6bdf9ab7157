//! A connection with an end: it closes when nothing has moved for too long, or when the session has carried all it may.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a connection may stand still. A server that computes an answer for five minutes has been seen; one that does so
/// for longer has forgotten whom it is for.
const IDLE: Duration = Duration::from_secs(300);

/// What a session has carried to and fro, and may carry.
#[derive(Debug)]
pub(super) struct Meter {
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Meter {
    pub(super) fn new(bytes_max: u64) -> Meter {
        Meter { bytes: AtomicU64::new(0), bytes_max }
    }

    /// Whether there is nothing left to carry.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.bytes_max
    }

    fn add(&self, bytes: usize) -> io::Result<()> {
        let before = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if before.saturating_add(bytes as u64) > self.bytes_max {
            return Err(io::Error::other("the session has carried all that it may through the proxy"));
        }
        Ok(())
    }
}

/// A connection that ends when it stands still; with a meter, also when that is full.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    inner: S,
    idle: Pin<Box<Sleep>>,
    meter: Option<Arc<Meter>>,
}

impl<S> Bounded<S> {
    pub(super) fn new(inner: S, meter: Option<Arc<Meter>>) -> Bounded<S> {
        Bounded { inner, idle: Box::pin(tokio::time::sleep(IDLE)), meter }
    }

    /// What is to be said of an attempt to move so many bytes.
    fn moved<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Ok(done)) => {
                self.idle.as_mut().reset(Instant::now() + IDLE);
                match self.meter.as_ref().map(|meter| meter.add(bytes(&done))) {
                    Some(Err(full)) => Poll::Ready(Err(full)),
                    Some(Ok(())) | None => Poll::Ready(Ok(done)),
                }
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => match self.idle.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        this.moved(polled, |()| read, context)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write(context, bytes);
        this.moved(polled, |written| *written, context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_stands_still_ends_and_one_that_moves_does_not() {
        // Without this, whoever accepts and says nothing holds a connection for as long as the session lives.
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Bounded::new(near, None);
        for _ in 0..3 {
            tokio::time::advance(IDLE - Duration::from_secs(1)).await;
            far.write_all(b"x").await.unwrap();
            near.read_exact(&mut [0]).await.unwrap();
        }
        let silent = near.read_exact(&mut [0]).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn all_connections_of_a_session_share_what_it_may_carry() {
        let meter = Arc::new(Meter::new(10));
        let (near, mut far) = tokio::io::duplex(64);
        let (other, _other_far) = tokio::io::duplex(64);
        let (mut near, mut other) =
            (Bounded::new(near, Some(meter.clone())), Bounded::new(other, Some(meter.clone())));
        far.write_all(b"123456").await.unwrap();
        near.read_exact(&mut [0; 6]).await.unwrap();
        other.write_all(b"1234").await.unwrap();
        assert!(meter.is_full());
        assert!(other.write_all(b"5").await.is_err());
    }
}
