//! Join and trust tokens: given out once, used once, and good even when the member that gave them out is gone.
//!
//! The database holds a hash of the secret. The secret itself is shown by the member that gave the token out, as
//! the metadata of an operation, for as long as that member's daemon runs.

use std::sync::Arc;

use api::Result;
use api::expiry::Expiry;
use api::operation::{Operation as View, StatusCode};
use db::tokens::{Kind, Token};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::join::hash;
use crate::operations::{Operation, Resources, SECRET};
use crate::state::Daemon;

const CLASS: &str = "token";
/// What clients see that such an operation does.
const DESCRIPTION: &str = "Executing operation";

/// What a new token is about.
pub struct New {
    /// Join or trust.
    pub kind: Kind,
    /// The member's or client's name.
    pub name: String,
    /// Its expiry, as `3H`; empty for none.
    pub expiry: String,
    /// What has to be known when it is used.
    pub body: Map<String, Value>,
}

/// Gives out a token. One of the same name is replaced by it.
pub async fn give_out(daemon: &Arc<Daemon>, new: New) -> Result<Arc<Operation>> {
    let now = Timestamp::now();
    let expires = match new.expiry.as_str() {
        "" => None,
        text => Some(Expiry::parse(text)?.after(now)?),
    };
    let secret = hex::encode(rand::random::<[u8; 32]>());
    let snapshot = daemon.snapshot();
    let addresses: Vec<String> = match daemon.clustered() {
        true => snapshot.members.iter().map(|m| m.address.clone()).collect(),
        false => {
            daemon.local.config()?.get("core.https_address").into_iter().map(|a| crate::start::with_port(a)).collect()
        }
    };
    let fingerprint = daemon.api_identity().fingerprint()?;
    let (what, name) = match new.kind {
        Kind::Join => ("cluster", "serverName"),
        Kind::Trust => ("certificates", "clientName"),
    };
    let mut metadata = new.body.clone();
    for (key, value) in [
        ("addresses", json!(addresses)),
        ("expiresAt", json!(expires.unwrap_or_else(super::never))),
        ("fingerprint", json!(fingerprint)),
        (SECRET, json!(secret)),
        (name, json!(new.name)),
    ] {
        metadata.insert(key.into(), value);
    }
    let mut stored = metadata.clone();
    stored.remove(SECRET);
    let resources = Resources::from([(what.to_owned(), None)]);
    let id = crate::operations::new_id(daemon.raft_id());
    let begin = crate::operations::New { id: id.clone(), metadata, ..daemon.operation(DESCRIPTION, "", resources) };
    let token = Token {
        kind: new.kind,
        name: new.name,
        secret_hash: hash(&secret),
        operation: id,
        created: now,
        expires,
        body: Value::Object(stored),
    };
    let db = daemon.db();
    let written = db.write(move |tx| {
        let old = db::tokens::list(tx, token.kind)?.into_iter().find(|t| t.name == token.name);
        if let Some(old) = &old {
            db::tokens::delete(tx, &old.operation)?;
        }
        db::tokens::prune(tx, now)?;
        db::tokens::create(tx, &token)?;
        Ok(old.map(|t| t.operation))
    });
    if let Some(old) = written.await? {
        daemon.operations.end_token(&old);
    }
    Ok(daemon.operations.token(begin))
}

/// Ends what this member shows of tokens that are not good any more: they have expired, or were used or revoked through
/// another member.
pub async fn tidy(daemon: &Arc<Daemon>) -> Result<()> {
    let shown = |o: &Arc<Operation>| Some(o.view()).filter(|o| o.class == CLASS && o.description == DESCRIPTION);
    let shown: Vec<String> = daemon.operations.list().iter().filter_map(shown).map(|o| o.id).collect();
    if shown.is_empty() {
        return Ok(());
    }
    let good: Vec<String> = as_operations(daemon).await?.into_iter().map(|o| o.id).collect();
    shown.iter().filter(|id| !good.contains(id)).for_each(|id| daemon.operations.end_token(id));
    Ok(())
}

/// Revokes the token that clients see as this operation; false if there is none.
pub async fn revoke(daemon: &Arc<Daemon>, operation: &str) -> Result<bool> {
    let id = operation.to_owned();
    let known = daemon.view(move |tx| db::tokens::by_operation(tx, &id)).await?.is_some();
    if known {
        let id = operation.to_owned();
        daemon.db().write(move |tx| db::tokens::delete(tx, &id)).await?;
        daemon.operations.end_token(operation);
    }
    Ok(known)
}

/// All tokens as clients see them, without their secrets.
pub async fn as_operations(daemon: &Arc<Daemon>) -> Result<Vec<View>> {
    let now = Timestamp::now();
    let tokens = daemon
        .view(|tx| {
            let mut all = db::tokens::list(tx, Kind::Join)?;
            all.extend(db::tokens::list(tx, Kind::Trust)?);
            Ok(all)
        })
        .await?;
    Ok(tokens.into_iter().filter(|t| t.expires.is_none_or(|e| now < e)).map(view).collect())
}

/// The token that clients see as this operation.
pub async fn as_operation(daemon: &Arc<Daemon>, id: &str) -> Result<Option<View>> {
    let id = id.to_owned();
    Ok(daemon.view(move |tx| db::tokens::by_operation(tx, &id)).await?.map(view))
}

fn view(token: Token) -> View {
    let mut metadata = token.body.as_object().cloned().unwrap_or_default();
    metadata.insert("secret".into(), "".into());
    let what = match token.kind {
        Kind::Join => "cluster",
        Kind::Trust => "certificates",
    };
    View {
        id: token.operation,
        class: CLASS.into(),
        description: DESCRIPTION.into(),
        created_at: token.created,
        updated_at: token.created,
        status: StatusCode::Running.name().into(),
        status_code: StatusCode::Running.code(),
        resources: Some([(what.to_owned(), None)].into()),
        metadata: Some(metadata),
        may_cancel: true,
        err: String::new(),
        location: "none".into(),
    }
}
