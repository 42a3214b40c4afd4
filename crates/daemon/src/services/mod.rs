//! What the daemon does, a file per resource.
//!
//! A service registers its handlers against the endpoints that `api` declares. The edge has checked the permission
//! and found the right member before a handler runs; the handler reads or writes in one transaction and tells the
//! others what has changed:
//!
//! ```ignore
//! pub fn routes(r: &mut Router) {
//!     r.sync(&api::profile::GET, get);
//! }
//!
//! async fn get(cx: Cx, (): ()) -> Result<Profile> {
//!     let (project, name) = (cx.project().to_owned(), cx.arg(0).to_owned());
//!     cx.daemon.view(move |tx| db::profiles::get(tx, &project, &name)).await.map(shown)
//! }
//! ```

pub mod acme;
pub mod certificates;
pub mod cluster;
pub mod cluster_certificate;
pub mod events;
pub mod groups;
pub mod images;
pub mod instances;
pub mod internal;
pub mod members;
pub mod metrics;
pub mod networks;
#[cfg(feature = "next")]
pub mod next;
pub mod operations;
pub mod placed;
pub mod pools;
pub mod profile_effects;
pub mod profiles;
pub mod project_rules;
pub mod projects;
pub mod removal;
pub mod resources;
pub mod schedule;
pub mod server;
pub mod shared_pools;
pub mod tokens;
pub mod volumes;
pub mod warnings;

use api::key::Config;
use api::{Error, Result};
use jiff::Timestamp;
use serde_json::Value;

use crate::edge::{Cx, Router};

/// Registers all handlers.
pub fn routes(r: &mut Router) {
    acme::routes(r);
    certificates::routes(r);
    cluster::routes(r);
    events::routes(r);
    groups::routes(r);
    images::routes(r);
    instances::routes(r);
    internal::routes(r);
    members::routes(r);
    metrics::routes(r);
    networks::routes(r);
    #[cfg(feature = "next")]
    next::routes(r);
    operations::routes(r);
    pools::routes(r);
    profiles::routes(r);
    projects::routes(r);
    server::routes(r);
    volumes::routes(r);
    warnings::routes(r);
    crate::plans::routes(r);
    crate::volumes::routes(r);
}

/// The moment that stands for "never" on the wire.
pub fn never() -> Timestamp {
    // The year 1 is within what a timestamp can hold.
    Timestamp::from_second(-62_135_596_800).unwrap_or(Timestamp::MIN)
}

/// A configuration as a client sends it: values may be strings, numbers or booleans; `null` unsets.
pub fn config_of(values: &serde_json::Map<String, Value>) -> Result<Config> {
    let text = |(key, value): (&String, &Value)| {
        let text = match value {
            Value::String(s) => s.clone(),
            Value::Null => String::new(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => return Err(Error::bad_request(format!("The value of \"{key}\" must be a string"))),
        };
        Ok((key.clone(), text))
    };
    values.iter().map(text).collect()
}

/// What a request makes of a thing. It is asked within the transaction that changes the thing: what it is compared or
/// merged with nobody else can change in between.
#[derive(Clone)]
pub enum Change<T> {
    /// `PUT`: this.
    Put(T),
    /// `PATCH`: what it is now, with this merged into it.
    Patch(Value),
}

impl<T: Clone + serde::Serialize + serde::de::DeserializeOwned> Change<T> {
    /// The thing as it is to be, if it is still as the caller believes (`If-Match`).
    pub fn of(&self, cx: &Cx, now: &T) -> Result<T> {
        cx.check_etag(now)?;
        match self {
            Change::Put(new) => Ok(new.clone()),
            Change::Patch(patch) => patched(now, patch),
        }
    }
}

/// The thing as it is after a `PATCH`: objects are merged, everything else is replaced; in a configuration an
/// empty value removes the key.
pub fn patched<T: serde::Serialize + serde::de::DeserializeOwned>(now: &T, patch: &Value) -> Result<T> {
    let mut value = serde_json::to_value(now).map_err(|e| Error::internal(e.to_string()))?;
    merge(&mut value, patch);
    if let Some(config) = value.get_mut("config").and_then(Value::as_object_mut) {
        config.retain(|_, v| v.as_str() != Some(""));
    }
    serde_json::from_value(value).map_err(|e| Error::bad_request(e.to_string()))
}

fn merge(value: &mut Value, patch: &Value) {
    match (value, patch) {
        (Value::Object(value), Value::Object(patch)) => {
            for (key, new) in patch {
                merge(value.entry(key.clone()).or_insert(Value::Null), new);
            }
        }
        (value, patch) => *value = patch.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_declared_endpoint_has_a_handler_and_the_other_way_round() {
        let mut router = Router::default();
        routes(&mut router);
        let name = |i: &api::Info| format!("{} {}", i.method.as_str(), i.path);
        let declared: BTreeSet<String> = api::endpoints().map(name).collect();
        let served: BTreeSet<String> = router.endpoints().map(name).collect();
        let missing: Vec<_> = declared.difference(&served).collect();
        assert!(missing.is_empty(), "no handler for {missing:?}");
        let unknown: Vec<_> = served.difference(&declared).collect();
        assert!(unknown.is_empty(), "not declared: {unknown:?}");
    }

    #[test]
    fn patches_merge_and_empty_values_unset() {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        struct Thing {
            config: Config,
            description: String,
        }
        let now = Thing {
            config: [("a", "1"), ("b", "2")].map(|(k, v)| (k.into(), v.into())).into(),
            description: "d".into(),
        };
        let after = patched(&now, &serde_json::json!({"config": {"a": "", "c": "3"}})).unwrap();
        assert_eq!(after.config.into_iter().collect::<Vec<_>>(), [("b".into(), "2".into()), ("c".into(), "3".into())]);
        assert_eq!(after.description, "d");
        assert!(patched(&now, &serde_json::json!({"description": 1})).is_err());
    }

    #[test]
    fn never_is_what_go_calls_zero() {
        assert_eq!(never().to_string(), "0001-01-01T00:00:00Z");
    }
}
