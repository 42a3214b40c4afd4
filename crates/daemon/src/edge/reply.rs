//! Answers as HTTP.

use std::cell::Cell;

use api::envelope::Envelope;
use api::{Error, Result};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// The body of an answer.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

tokio::task_local! {
    /// True once something of the answer that is being made was read without a majority.
    static UNCONFIRMED: Cell<bool>;
}

/// Notes that the answer that is being made may be older than what others were told.
pub fn unconfirmed() {
    // Not all that reads makes an answer.
    let _ = UNCONFIRMED.try_with(|noted| noted.set(true));
}

/// Makes an answer, which tells if it may be old.
pub async fn confirmed_or_not(make: impl Future<Output = Response<Body>>) -> Response<Body> {
    let noted = async {
        let response = make.await;
        (response, UNCONFIRMED.with(Cell::get))
    };
    let (mut response, unconfirmed) = UNCONFIRMED.scope(Cell::new(false), noted).await;
    if unconfirmed {
        response.headers_mut().insert(api::endpoint::UNCONFIRMED, HeaderValue::from_static("true"));
    }
    response
}

fn json<T: Serialize>(status: StatusCode, envelope: &Envelope<T>) -> Result<Response<Body>> {
    let body = serde_json::to_vec(envelope).map_err(|e| Error::internal(e.to_string()))?;
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// A value.
pub fn sync(value: &impl Serialize) -> Result<Response<Body>> {
    json(StatusCode::OK, &Envelope::sync(value))
}

/// A background operation.
pub fn operation(operation: &api::operation::Operation) -> Result<Response<Body>> {
    let url = operation.url();
    let mut response = json(StatusCode::ACCEPTED, &Envelope::operation(url.clone(), operation))?;
    if let Ok(url) = HeaderValue::from_str(&url) {
        response.headers_mut().insert("location", url);
    }
    Ok(response)
}

/// A refusal.
pub fn error(e: &Error) -> Response<Body> {
    let status = StatusCode::from_u16(e.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // That a text can't be serialised does not happen.
    json(status, &Envelope::error(e)).unwrap_or_else(|_| Response::new(full("")))
}

/// The same answer, as the last one on its connection.
pub fn last(mut answer: Response<Body>) -> Response<Body> {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// What identifies a state of something, for `ETag` and `If-Match`.
pub fn etag(value: &impl Serialize) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(value).unwrap_or_default()))
}
