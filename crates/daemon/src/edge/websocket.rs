//! Connections that become something else than HTTP: websockets, and other protocols.

use api::{Error, Result};
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::incoming::Incoming;
use super::reply::{Body, full};

/// A websocket to a client.
pub type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// Accepts a websocket: the answer, and the websocket once the client has it.
pub fn upgrade(request: Request<Incoming>) -> Result<(Response<Body>, impl Future<Output = Result<WebSocket>> + Send)> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    let key = key.ok_or_else(|| Error::bad_request("This needs a websocket"))?;
    let (mut answer, stream) = upgrade_to("websocket", request);
    if let Ok(accepted) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accepted);
    }
    let socket = async move { Ok(WebSocketStream::from_raw_socket(stream.await?, Role::Server, Some(limits())).await) };
    Ok((answer, socket))
}

/// What a client may send: some libraries send a whole file in one message. What is larger ends the websocket.
pub const MESSAGE: usize = 16 << 20;
/// Bytes that are kept for reading, for each websocket.
const READING: usize = 8 << 10;

/// What every websocket keeps to, on both sides.
pub fn limits() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(MESSAGE)).max_frame_size(Some(MESSAGE)).read_buffer_size(READING)
}

/// Accepts that the connection becomes `protocol`: the answer, and the connection once the client has it.
pub fn upgrade_to(
    protocol: &'static str,
    mut request: Request<Incoming>,
) -> (Response<Body>, impl Future<Output = Result<TokioIo<Upgraded>>> + Send) {
    let upgraded = hyper::upgrade::on(&mut request);
    let mut answer = Response::new(full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    (answer, async move { upgraded.await.map(TokioIo::new).map_err(|e| Error::unavailable(e.to_string())) })
}
