//! How members talk to each other: framed requests over authenticated streams that are kept open.
//!
//! When a stream is opened, one side offers the [versions](OFFERED) of the protocol that it can speak and the other
//! chooses. A version stands for all that travels on a stream, the log of the database included.
//!
//! A stream is dialled by [`Dial`] (mutual TLS, then an HTTP upgrade) and carries one request at a time; several
//! requests to the same member at once use several streams. A request frame is its length (u32, big endian),
//! one byte that names the [`Channel`], and the body; a response frame is its length, one byte (0: body, 1: the
//! text of an error), and the body.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Error, Result};
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The name of the protocol.
const PROTOCOL: &str = "incus-link";

/// The versions of the protocol that this program speaks, the best first, as in the header `Upgrade`.
pub const OFFERED: &[&str] = &["incus-link/1"];

/// Chooses from the versions that another member offers; the error says who has to be updated.
pub fn choose(offered: &str) -> Result<&'static str> {
    let theirs: Vec<&str> = offered.split(',').map(str::trim).collect();
    OFFERED.iter().find(|ours| theirs.contains(ours)).copied().ok_or_else(|| {
        if theirs.iter().any(|t| t.starts_with(PROTOCOL)) {
            Error::unavailable(format!(
                "The members' versions are too far apart: one speaks {}, the other one {}. The older one needs updating",
                OFFERED.join(", "),
                theirs.join(", ")
            ))
        } else {
            Error::bad_request(format!("This is for upgrading to {}", OFFERED.join(", ")))
        }
    })
}

/// A connected byte stream to another member.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens authenticated streams to other members.
pub trait Dial: Send + Sync + 'static {
    /// A stream to the member with this Raft id, on which the other side runs [`serve`].
    fn dial(&self, to: u64) -> BoxFuture<'static, Result<Box<dyn Stream>>>;
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Channel {
    /// The replicated database; the body is opaque here.
    Database = 0,
    /// A heartbeat of the leader.
    Heartbeat = 1,
}

impl Channel {
    fn from_byte(byte: u8) -> Option<Channel> {
        [Channel::Database, Channel::Heartbeat].into_iter().find(|c| *c as u8 == byte)
    }
}

/// The largest frame that is accepted, in bytes: a chunk of a database snapshot with room to spare.
const MAX_FRAME: usize = 64 << 20;

/// Streams kept open to one member; more than these are closed after use.
const KEPT_OPEN: usize = 4;

/// Streams to all other members.
pub struct Links {
    dial: Arc<dyn Dial>,
    idle: Mutex<HashMap<u64, Vec<Box<dyn Stream>>>>,
}

impl Links {
    /// Links that open their streams with `dial`.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial, idle: Mutex::default() }
    }

    /// Sends one request and waits for its answer, for at most `timeout`.
    ///
    /// A stream that had been idle may have died with the other daemon: the request is then sent once more on a
    /// new one. Every request must therefore be one that may arrive twice.
    pub async fn call(&self, to: u64, channel: Channel, body: Bytes, timeout: Duration) -> Result<Bytes> {
        let attempt = async {
            if let Some(mut stream) = self.take_idle(to)
                && let Ok(answer) = exchange(&mut stream, channel, &body).await
            {
                self.keep(to, stream);
                return answer;
            }
            let mut stream = self.dial.dial(to).await?;
            let answer = exchange(&mut stream, channel, &body).await?;
            self.keep(to, stream);
            answer
        };
        tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| {
            Err(Error::unavailable(format!("Member {to} did not answer within {} ms", timeout.as_millis())))
        })
    }

    /// Closes all idle streams to a member: its address or the certificate has changed, or it is gone.
    pub fn forget(&self, to: u64) {
        self.idle().remove(&to);
    }

    fn take_idle(&self, to: u64) -> Option<Box<dyn Stream>> {
        self.idle().get_mut(&to)?.pop()
    }

    fn keep(&self, to: u64, stream: Box<dyn Stream>) {
        let mut idle = self.idle();
        let streams = idle.entry(to).or_default();
        if streams.len() < KEPT_OPEN {
            streams.push(stream);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Vec<Box<dyn Stream>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl db::Transport for Links {
    fn call(&self, to: u64, request: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes>> {
        Box::pin(self.call(to, Channel::Database, request, timeout))
    }
}

/// One request and its answer. The outer error means that the stream is of no further use.
async fn exchange(stream: &mut Box<dyn Stream>, channel: Channel, body: &[u8]) -> Result<Result<Bytes>> {
    write_frame(stream, channel as u8, body).await?;
    let (status, body) = read_frame(stream).await?.ok_or_else(|| Error::unavailable("The member closed the link"))?;
    Ok(match status {
        0 => Ok(body),
        _ => Err(Error::unavailable(String::from_utf8_lossy(&body))),
    })
}

/// Answers the requests on a stream that another member has dialled, until it closes it.
pub async fn serve<S, F, Fut>(mut stream: S, answer: F) -> Result<()>
where
    S: Stream,
    F: Fn(Channel, Bytes) -> Fut,
    Fut: Future<Output = Result<Bytes>>,
{
    while let Some((channel, body)) = read_frame(&mut stream).await? {
        let channel = Channel::from_byte(channel)
            .ok_or_else(|| Error::bad_request(format!("Unknown channel {channel} on a link between members")))?;
        match answer(channel, body).await {
            Ok(body) => write_frame(&mut stream, 0, &body).await?,
            Err(e) => write_frame(&mut stream, 1, e.message.as_bytes()).await?,
        }
    }
    Ok(())
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), tag: u8, body: &[u8]) -> Result<()> {
    let len = u32::try_from(body.len() + 1).map_err(|_| Error::internal("Frame too large"))?;
    let mut frame = BytesMut::with_capacity(body.len() + 5);
    frame.put_u32(len);
    frame.put_u8(tag);
    frame.put_slice(body);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

/// The next frame, or `None` at the end of the stream.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<(u8, Bytes)>> {
    let len = match stream.read_u32().await {
        Ok(len) => len as usize,
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if len == 0 || len > MAX_FRAME {
        return Err(Error::bad_request(format!("Frame of {len} bytes on a link between members")));
    }
    let tag = stream.read_u8().await?;
    // Room is made for what comes, not for what is announced.
    let mut body = Vec::new();
    stream.take(len as u64 - 1).read_to_end(&mut body).await?;
    if body.len() < len - 1 {
        return Err(Error::unavailable("The link ended in the middle of a frame"));
    }
    Ok(Some((tag, body.into())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Dials an in-process member that answers in capitals, refuses "no" and hangs up after `lives` requests.
    struct Shouting {
        dialled: AtomicUsize,
        lives: usize,
    }

    impl Dial for Shouting {
        fn dial(&self, to: u64) -> BoxFuture<'static, Result<Box<dyn Stream>>> {
            self.dialled.fetch_add(1, Ordering::SeqCst);
            let lives = self.lives;
            Box::pin(async move {
                if to == 9 {
                    return Err(Error::unavailable("connection refused"));
                }
                let (ours, mut theirs) = tokio::io::duplex(64);
                tokio::spawn(async move {
                    for _ in 0..lives {
                        let Ok(Some((_, body))) = read_frame(&mut theirs).await else { return };
                        let _ = match &body[..] {
                            b"no" => write_frame(&mut theirs, 1, b"refused").await,
                            b"hang" => std::future::pending().await,
                            body => write_frame(&mut theirs, 0, &body.to_ascii_uppercase()).await,
                        };
                    }
                });
                Ok(Box::new(ours) as Box<dyn Stream>)
            })
        }
    }

    async fn call(links: &Links, to: u64, body: &'static str) -> Result<Bytes> {
        links.call(to, Channel::Database, body.into(), Duration::from_millis(200)).await
    }

    #[tokio::test]
    async fn streams_are_used_again_and_replaced_when_they_have_died() {
        let dial = Arc::new(Shouting { dialled: AtomicUsize::new(0), lives: 2 });
        let links = Links::new(dial.clone());
        for (n, dialled) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            assert_eq!(call(&links, 2, "hello").await, Ok(Bytes::from("HELLO")), "{n}");
            assert_eq!(dial.dialled.load(Ordering::SeqCst), dialled, "{n}");
        }
        links.forget(2);
        assert!(call(&links, 2, "again").await.is_ok());
        assert_eq!(dial.dialled.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn refusals_dead_members_and_silence_are_told_apart() {
        let links = Links::new(Arc::new(Shouting { dialled: AtomicUsize::new(0), lives: 9 }));
        for (to, body, want) in [
            (2, "no", "refused"),
            (9, "hello", "connection refused"),
            (2, "hang", "Member 2 did not answer within 200 ms"),
        ] {
            assert_eq!(call(&links, to, body).await.unwrap_err().message, want);
        }
    }

    #[test]
    fn members_speak_the_best_version_that_both_know() {
        for (offered, want) in [
            ("incus-link/1", Ok("incus-link/1")),
            ("incus-link/3, incus-link/2, incus-link/1", Ok("incus-link/1")),
            ("incus-link/3, incus-link/2", Err("The older one needs updating")),
            ("incus-link", Err("The older one needs updating")),
            ("websocket", Err("This is for upgrading to incus-link/1")),
        ] {
            match (choose(offered), want) {
                (got, Ok(want)) => assert_eq!(got, Ok(want)),
                (got, Err(want)) => assert!(got.is_err_and(|e| e.message.contains(want)), "{offered}"),
            }
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_ends_the_stream() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let served = tokio::spawn(serve(theirs, |_, body| async move { Ok(body) }));
        ours.write_u32(u32::MAX).await.unwrap();
        assert_eq!(
            served.await.unwrap().unwrap_err().message,
            format!("Frame of {} bytes on a link between members", u32::MAX)
        );
    }
}
