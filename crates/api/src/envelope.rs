//! The envelope around every JSON answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Kind};

/// What every JSON answer of the API looks like, whether it carries a value, an operation or an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T = Value> {
    /// `sync`, `async` or `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `Success` or `Operation created`; empty on errors.
    #[serde(default)]
    pub status: String,
    /// 200 or 100; 0 on errors.
    #[serde(default)]
    pub status_code: i64,
    /// URL of the background operation; empty unless `async`.
    #[serde(default)]
    pub operation: String,
    /// HTTP status code of an error; 0 otherwise.
    #[serde(default)]
    pub error_code: i64,
    /// The error's words.
    #[serde(default)]
    pub error: String,
    /// The value itself.
    #[serde(default, bound(deserialize = "T: Default + Deserialize<'de>"))]
    pub metadata: T,
}

impl<T> Envelope<T> {
    /// An answer that carries a value.
    pub fn sync(metadata: T) -> Self {
        Self {
            kind: "sync".into(),
            status: "Success".into(),
            status_code: 200,
            operation: String::new(),
            error_code: 0,
            error: String::new(),
            metadata,
        }
    }

    /// An answer that says where the background operation can be watched.
    pub fn operation(url: String, metadata: T) -> Self {
        Self {
            kind: "async".into(),
            status: "Operation created".into(),
            status_code: 100,
            operation: url,
            ..Self::sync(metadata)
        }
    }
}

impl Envelope {
    /// An answer that says what was refused.
    pub fn error(e: &Error) -> Self {
        Self {
            kind: "error".into(),
            status: String::new(),
            status_code: 0,
            error_code: e.kind.status().into(),
            error: e.message.clone(),
            ..Self::sync(Value::Null)
        }
    }

    /// The error that this answer carries, if it is one.
    pub fn as_error(&self) -> Option<Error> {
        (self.kind == "error")
            .then(|| Error::new(Kind::from_status(u16::try_from(self.error_code).unwrap_or(500)), &self.error))
    }
}
