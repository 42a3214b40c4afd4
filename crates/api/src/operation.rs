//! `/1.0/operations`: background work.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::endpoint::{Allow::*, At, Raw, Sync};

/// What state an operation (or an instance) is in; the numbers are those of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum StatusCode {
    OperationCreated = 100,
    Started = 101,
    Stopped = 102,
    Running = 103,
    Cancelling = 104,
    Pending = 105,
    Starting = 106,
    Stopping = 107,
    Aborting = 108,
    Freezing = 109,
    Frozen = 110,
    Thawed = 111,
    Error = 112,
    Ready = 113,
    Success = 200,
    Failure = 400,
    Cancelled = 401,
}

impl StatusCode {
    /// The number.
    pub const fn code(self) -> i64 {
        self as i64
    }

    /// The name beside the number.
    pub const fn name(self) -> &'static str {
        use StatusCode::*;
        match self {
            OperationCreated => "Operation created",
            Started => "Started",
            Stopped => "Stopped",
            Running => "Running",
            Cancelling => "Cancelling",
            Pending => "Pending",
            Starting => "Starting",
            Stopping => "Stopping",
            Aborting => "Aborting",
            Freezing => "Freezing",
            Frozen => "Frozen",
            Thawed => "Thawed",
            Error => "Error",
            Ready => "Ready",
            Success => "Success",
            Failure => "Failure",
            Cancelled => "Cancelled",
        }
    }

    /// True if nothing more will happen.
    pub const fn is_final(self) -> bool {
        matches!(self, StatusCode::Success | StatusCode::Failure | StatusCode::Cancelled)
    }
}

/// A background operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// UUID.
    pub id: String,
    /// `task`, `websocket` or `token`.
    pub class: String,
    /// What it does.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Name of its state.
    pub status: String,
    /// Number of its state.
    pub status_code: i64,
    /// What it is about: URLs by kind.
    pub resources: Option<BTreeMap<String, Option<Vec<String>>>>,
    /// Progress, results, secrets of websockets.
    pub metadata: Option<Map<String, Value>>,
    /// True if it can be cancelled.
    pub may_cancel: bool,
    /// Why it failed; empty unless it did.
    pub err: String,
    /// Name of the member that runs it.
    pub location: String,
}

impl Operation {
    /// Its URL.
    pub fn url(&self) -> String {
        format!("/1.0/operations/{}", self.id)
    }
}

crate::endpoints! {
    /// List the operations of all members, grouped by state.
    LIST = GET "/1.0/operations" -> Sync<Value>, Trusted, At::Any, "";
    /// One operation.
    GET = GET "/1.0/operations/{id}" -> Sync<Operation>, Trusted, At::Operation, "";
    /// Cancel an operation.
    DELETE = DELETE "/1.0/operations/{id}" -> Sync<()>, Trusted, At::Operation, "";
    /// Wait until an operation ends, or for `?timeout=` seconds.
    WAIT = GET "/1.0/operations/{id}/wait" -> Sync<Operation>, Trusted, At::Operation, "";
    /// Connect to one of an operation's websockets with its `?secret=`.
    WEBSOCKET = GET "/1.0/operations/{id}/websocket" -> Raw, Anyone, At::Operation, "";
}
