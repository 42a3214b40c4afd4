//! A connection to a client: it holds a seat for as long as it is open, whatever it becomes, and is closed when the client
//! does not take its answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::door::Seat;

/// For so long a client may take nothing of an answer that is ready for it. Meanwhile what it has asked for is kept in
/// memory, or open.
pub const TAKING: Duration = Duration::from_secs(120);

/// A stream with a seat.
pub struct Connection<S> {
    stream: S,
    _seat: Seat,
    /// Set once it is no HTTP any more: who looks at a console may well stop its output over night.
    patient: Arc<AtomicBool>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Connection<S> {
    /// It goes on waiting for a client for ever once `patient` is set.
    pub fn new(stream: S, seat: Seat, patient: Arc<AtomicBool>) -> Connection<S> {
        Connection { stream, _seat: seat, patient, stalled: None }
    }

    /// Passes on how far a write has come, or ends it if nothing was taken for too long.
    fn progress<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() || self.patient.load(Ordering::Relaxed) {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(TAKING)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.progress(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.progress(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.progress(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.progress(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::edge::door::Door;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_an_answer_is_let_go_unless_it_is_no_answer() {
        let door = Door::new(1000);
        let seat = || door.knock(SocketAddr::from(([192, 0, 2, 1], 1))).unwrap().0;
        let patient = Arc::new(AtomicBool::new(false));
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut connection = Connection::new(ours, seat(), patient.clone());
        // A slow one is waited for.
        let slow = async {
            let mut all = [0; 8];
            for byte in &mut all {
                sleep(TAKING - Duration::from_secs(1)).await;
                *byte = theirs.read_u8().await.unwrap();
            }
            assert_eq!(&all, b"abcdefgh");
        };
        tokio::join!(async { connection.write_all(b"abcdefgh").await.unwrap() }, slow);
        let refused = connection.write_all(b"abcdefgh").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        patient.store(true, Ordering::Relaxed);
        let waits = tokio::time::timeout(TAKING * 10, connection.write_all(b"x")).await;
        assert!(waits.is_err());
    }
}
