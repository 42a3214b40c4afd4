//! The websockets of an operation: each has a name and a secret, and is connected to once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::{Error, Result};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::edge::websocket::WebSocket;

/// Under this name the secrets stand in the metadata of an operation.
pub const FDS: &str = "fds";
/// How long clients may take to connect.
const PATIENCE: Duration = Duration::from_secs(30);

/// The side on which clients come in.
#[derive(Default)]
pub struct Channels {
    /// By secret; `None` once somebody has connected.
    waiting: Mutex<HashMap<String, Option<oneshot::Sender<WebSocket>>>>,
}

/// A secret that was right.
pub struct Slot<'a> {
    channels: &'a Channels,
    secret: String,
}

/// A place that is taken.
pub struct Taken(oneshot::Sender<WebSocket>);

impl Channels {
    /// A channel for each name, the side on which they are used, and the secrets by name.
    pub fn new(names: &[&'static str]) -> (Channels, Sockets, Value) {
        let (mut waiting, mut sockets, mut secrets) = (HashMap::new(), HashMap::new(), Map::new());
        for name in names {
            let secret = hex::encode(rand::random::<[u8; 32]>());
            let (send, receive) = oneshot::channel();
            secrets.insert((*name).to_owned(), secret.clone().into());
            waiting.insert(secret, Some(send));
            sockets.insert(*name, receive);
        }
        (Channels { waiting: waiting.into() }, Sockets(sockets), Value::Object(secrets))
    }

    /// The channel with this secret.
    pub fn find(&self, secret: &str) -> Result<Slot<'_>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            return Err(Error::bad_request("This operation has no websocket"));
        }
        match waiting.contains_key(secret) {
            true => Ok(Slot { channels: self, secret: secret.to_owned() }),
            false => Err(Error::forbidden("not authorized")),
        }
    }
}

impl Slot<'_> {
    /// Takes the place, once.
    pub fn take(self) -> Result<Taken> {
        let mut waiting = self.channels.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let place = waiting.get_mut(&self.secret).and_then(Option::take);
        place.map(Taken).ok_or_else(|| Error::forbidden("Somebody is connected to this websocket already"))
    }
}

impl Taken {
    /// Hands the websocket over.
    pub fn connect(self, socket: WebSocket) {
        // Nobody wants it any more if the operation has ended.
        let _ = self.0.send(socket);
    }
}

/// The side on which the websockets are used.
pub struct Sockets(HashMap<&'static str, oneshot::Receiver<WebSocket>>);

impl Sockets {
    /// Waits until all those named are connected, and gives them in that order.
    pub async fn all<const N: usize>(&mut self, names: [&'static str; N]) -> Result<[WebSocket; N]> {
        self.within(PATIENCE, names).await
    }

    async fn within<const N: usize>(&mut self, patience: Duration, names: [&'static str; N]) -> Result<[WebSocket; N]> {
        let receivers = names.map(|name| self.0.remove(name));
        let connected = async {
            let mut sockets = Vec::with_capacity(N);
            for receiver in receivers {
                sockets.push(receiver?.await.ok()?);
            }
            sockets.try_into().ok()
        };
        match tokio::time::timeout(patience, connected).await {
            Ok(Some(sockets)) => Ok(sockets),
            Ok(None) => Err(Error::internal("A client gave up connecting to a websocket")),
            Err(_) => Err(Error::internal("Timed out waiting for websockets to connect")),
        }
    }

    /// The websocket of this name, whenever it is connected; never if nobody does.
    pub async fn later(&mut self, name: &'static str) -> WebSocket {
        match self.0.remove(name) {
            Some(receiver) => match receiver.await {
                Ok(socket) => socket,
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_secret_is_good_once() {
        let (channels, mut sockets, secrets) = Channels::new(&["0", "control"]);
        let of = |name: &str| secrets[name].as_str().unwrap().to_owned();
        assert_eq!(of("0").len(), 64);
        assert_ne!(of("0"), of("control"));
        assert_eq!(channels.find("wrong").map(|_| ()).unwrap_err().message, "not authorized");
        let taken = channels.find(&of("0")).unwrap().take().unwrap();
        assert_eq!(channels.find(&of("0")).unwrap().take().map(|_| ()).unwrap_err().kind, api::Kind::Forbidden);
        drop(taken);
        assert!(sockets.all(["0"]).await.is_err());
        let none = Channels::default();
        assert_eq!(none.find("x").map(|_| ()).unwrap_err().message, "This operation has no websocket");
    }

    #[tokio::test]
    async fn nobody_is_waited_for_for_ever() {
        let (_channels, mut sockets, _) = Channels::new(&["0"]);
        let refused = sockets.within(Duration::from_millis(1), ["0"]).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.message, "Timed out waiting for websockets to connect");
    }
}
