//! The body of a request as it comes in. A client that stops sending is not waited for, and one that is not trusted any
//! more not heard.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use api::{Error, Kind};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::session::{Ended, Session};

/// How long a client may pause in the middle of a body.
pub const PAUSE: Duration = Duration::from_secs(60);
/// The largest JSON body that is accepted, in bytes: an instance with all its configuration, cloud-init and a placement
/// scriptlet among it, is far smaller.
pub const JSON: usize = 4 << 20;
/// The same for those who are not trusted: there may be many of them, and they send a certificate and a token.
pub const JSON_OF_STRANGER: usize = 256 << 10;

/// The body of a request.
pub struct Incoming {
    body: hyper::body::Incoming,
    paused: Option<Pin<Box<Sleep>>>,
    json: usize,
    session: Option<(Session, Ended)>,
    /// Nothing more of it is heard.
    over: bool,
}

impl Incoming {
    /// `trusted` clients may send more.
    pub fn new(body: hyper::body::Incoming, trusted: bool) -> Incoming {
        Incoming { body, paused: None, json: if trusted { JSON } else { JSON_OF_STRANGER }, session: None, over: false }
    }

    /// The same for as long as the session goes on.
    pub fn held(self, session: &Session) -> Incoming {
        Incoming { session: Some((session.clone(), session.ended())), ..self }
    }

    /// How large it may be if it is JSON, in bytes.
    pub fn json_limit(&self) -> usize {
        self.json
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some((_, ended)) = &mut self.session
            && Pin::new(ended).poll(cx).is_ready()
        {
            self.over = true;
            return Poll::Ready(Some(Err(Error::forbidden("not authorized"))));
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.paused = None;
            return Poll::Ready(frame.map(|f| f.map_err(|e| Error::bad_request(e.to_string()))));
        }
        let paused = self.paused.get_or_insert_with(|| Box::pin(sleep(PAUSE)));
        ready!(paused.as_mut().poll(cx));
        let why = format!("The client stopped sending for {} seconds", PAUSE.as_secs());
        Poll::Ready(Some(Err(Error::new(Kind::TimedOut, why))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
