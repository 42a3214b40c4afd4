//! What is open goes on only for as long as it would be let in anew: programs, consoles, files and events that a client
//! is connected to, and what it sends or fetches in pieces. Who loses the trust for it loses it at once, on the member
//! that was asked and on the one that serves it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use hyper::{Response, StatusCode};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::AbortOnDropHandle;

use super::permit;
use super::reply::Body;
use super::request::Cx;

/// How often it is looked again though nothing was told: what an authority has revoked stands in a file.
const LOOK: Duration = Duration::from_secs(5);

/// Something that a request has opened; watched over until the last clone is dropped.
#[derive(Clone)]
pub struct Session(Arc<Watched>);

struct Watched {
    ended: CancellationToken,
    _watch: Option<AbortOnDropHandle<()>>,
}

impl Session {
    /// What the request of that context has opened.
    pub fn of(cx: &Cx) -> Session {
        let ended = CancellationToken::new();
        // Trust in who has shown no certificate can't be taken away.
        let watched = cx.caller.certificate.is_some() || cx.carrier.is_some();
        let watch = watched.then(|| AbortOnDropHandle::new(tokio::spawn(watch(cx.clone(), ended.clone()))));
        Session(Arc::new(Watched { ended, _watch: watch }))
    }

    /// Ready once it may not go on.
    pub fn ended(&self) -> Ended {
        Ended(Box::pin(self.0.ended.clone().cancelled_owned()))
    }

    #[cfg(test)]
    pub fn until(ended: CancellationToken) -> Session {
        Session(Arc::new(Watched { ended, _watch: None }))
    }
}

async fn watch(cx: Cx, ended: CancellationToken) {
    let mut changed = cx.daemon.trust.subscribe();
    while permit::still(&cx).await {
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    tracing::info!(
        "{} {} of {} was ended: they may not do that any more",
        cx.info.method.as_str(),
        cx.info.path,
        cx.caller.name
    );
    ended.cancel();
}

/// The end of a session.
pub struct Ended(Pin<Box<WaitForCancellationFutureOwned>>);

impl Future for Ended {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// What whoever reads or writes is told.
pub fn over() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the client is not trusted with it any more")
}

/// Makes a session of what an answer opens: the connection that becomes something else (the session is found among the
/// answer's extensions), or the bytes that follow.
pub fn keep(cx: &Cx, mut answer: Response<Body>) -> Response<Body> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        answer.extensions_mut().insert(Session::of(cx));
        return answer;
    }
    let session = Session::of(cx);
    answer.map(|body| Held { body, ended: session.ended(), _session: session }.boxed())
}

/// The body of an answer, for as long as the session goes on.
struct Held {
    body: Body,
    ended: Ended,
    _session: Session,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match Pin::new(&mut self.ended).poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(over()))),
            Poll::Pending => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
