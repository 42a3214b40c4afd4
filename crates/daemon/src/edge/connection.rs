//! A connection to a client: it holds a seat for as long as it is open, whatever it becomes, and is closed when the client
//! does not take its answer, or may not go on with what it has opened.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::door::Seat;
use super::session::{Ended, Session, over};

/// For so long a client may take nothing of an answer that is ready for it. Meanwhile what it has asked for is kept in
/// memory, or open.
pub const TAKING: Duration = Duration::from_secs(120);

/// A stream with a seat.
pub struct Connection<S> {
    stream: S,
    _seat: Seat,
    /// Set once it is no HTTP any more: who looks at a console may well stop its output over night.
    became: Arc<OnceLock<Session>>,
    /// The end of that, for who reads and for who writes.
    ended: [Option<Ended>; 2],
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Connection<S> {
    /// Once it is set what it `became` it waits for the client for as long as that goes on.
    pub fn new(stream: S, seat: Seat, became: Arc<OnceLock<Session>>) -> Connection<S> {
        Connection { stream, _seat: seat, became, ended: [None, None], stalled: None }
    }

    /// Fails once what it became is over. `side` is 0 for who reads and 1 for who writes: each is woken.
    fn check(&mut self, side: usize, cx: &mut Context<'_>) -> io::Result<()> {
        let (Some(session), Some(ended)) = (self.became.get(), self.ended.get_mut(side)) else { return Ok(()) };
        match Pin::new(ended.get_or_insert_with(|| session.ended())).poll(cx) {
            Poll::Ready(()) => Err(over()),
            Poll::Pending => Ok(()),
        }
    }

    /// Passes on how far a write has come, or ends it if nothing was taken for too long.
    fn progress<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() || self.became.get().is_some() {
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
        self.check(0, cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(1, cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.progress(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(1, cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.progress(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(1, cx)?;
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
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::edge::door::Door;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_an_answer_is_let_go_unless_it_is_no_answer() {
        let door = Door::new(1000);
        let seat = || door.knock(SocketAddr::from(([192, 0, 2, 1], 1)), false).unwrap().0;
        let became = Arc::new(OnceLock::new());
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut connection = Connection::new(ours, seat(), became.clone());
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
        let trust = CancellationToken::new();
        assert!(became.set(Session::until(trust.clone())).is_ok());
        let waits = tokio::time::timeout(TAKING * 10, connection.write_all(b"x")).await;
        assert!(waits.is_err());

        // Who reads and who writes both hear of the end.
        let (mut from, mut to) = tokio::io::split(connection);
        let (read, written) =
            tokio::join!(async { tokio::join!(from.read_u8(), async { trust.cancel() }).0.unwrap_err() }, async {
                to.write_all(b"x").await.unwrap_err()
            },);
        assert_eq!((read.kind(), written.kind()), (io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionAborted));
    }
}
