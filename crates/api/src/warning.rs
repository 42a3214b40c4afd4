//! `/1.0/warnings`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Allow::*, At, List, Listed, Sync};

/// A warning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// `new`, `acknowledged` or `resolved`.
    pub status: String,
    /// UUID.
    pub uuid: String,
    /// The member that gave it.
    pub location: String,
    /// The project it is about; empty if none.
    pub project: String,
    /// What kind of warning, in words.
    #[serde(rename = "type")]
    pub kind: String,
    /// How often it was given.
    pub count: i64,
    /// When first.
    pub first_seen_at: Timestamp,
    /// When last.
    pub last_seen_at: Timestamp,
    /// What was said last.
    pub last_message: String,
    /// `low`, `moderate` or `high`.
    pub severity: String,
    /// URL of what it is about; empty if nothing in particular.
    pub entity_url: String,
}

impl Listed for Warning {
    fn url(&self) -> String {
        format!("/1.0/warnings/{}", self.uuid)
    }
}

/// Body of `PUT` of a warning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WarningPut {
    /// `new` or `acknowledged`.
    pub status: String,
}

crate::endpoints! {
    /// List the warnings.
    LIST = GET "/1.0/warnings" -> List<Warning>, Admin, At::Any, "warnings";
    /// One warning.
    GET = GET "/1.0/warnings/{uuid}" -> Sync<Warning>, Admin, At::Any, "warnings";
    /// Acknowledge a warning, or take that back.
    PUT = PUT "/1.0/warnings/{uuid}" (WarningPut) -> Sync<()>, Admin, At::Any, "warnings";
    /// Acknowledge a warning, or take that back.
    PATCH = PATCH "/1.0/warnings/{uuid}" (WarningPut) -> Sync<()>, Admin, At::Any, "warnings";
    /// Delete a warning.
    DELETE = DELETE "/1.0/warnings/{uuid}" -> Sync<()>, Admin, At::Any, "warnings";
}
