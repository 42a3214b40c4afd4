//! `/internal`: what the `admin` commands and the other members ask.

use api::internal::{SqlBatch, SqlDump, SqlQuery};
use api::{Error, Result};
use bytes::Bytes;
use cluster::Channel;
use hyper::header::{CONNECTION, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::edge::reply::full;
use crate::edge::{Body, Cx, Incoming, Router};
use crate::join::{self, Accept, Joiner};
use crate::{backup, instances};

pub fn routes(r: &mut Router) {
    r.sync(&api::internal::READY, async |_, ()| Ok(json!({})));
    r.sync(&api::internal::SHUTDOWN, shutdown);
    r.sync(&api::internal::RESOURCES, async |_, ()| super::resources::own().await);
    r.sync(&api::internal::SQL_DUMP, dump);
    r.sync(&api::internal::SQL, sql);
    r.raw(&api::internal::LINK, link);
    r.sync(&api::internal::ACCEPT, accept);
    r.sync(&api::internal::PREFLIGHT, preflight);
    r.sync(&api::internal::CONNECT, connect);
    r.sync(&api::internal::ABORT, abort);
    r.sync(&api::internal::RESET, reset);
    r.sync(&api::internal::RAFT_NODE_REMOVE, remove_raft_node);
    r.raw(&api::internal::BACKUP, backup::make::serve);
    r.sync(&api::internal::OWN, backup::make::own);
    r.sync(&api::internal::POOL_REMOVE, remove_pool);
    r.sync(&api::internal::PROFILE_CHANGED, super::profile_effects::changed);
    r.sync(&api::internal::INSTANCES, super::instances::states);
}

async fn shutdown(cx: Cx, (): ()) -> Result<()> {
    let daemon = cx.daemon.clone();
    if !cx.flag("force") {
        crate::start::finish_operations(&daemon).await;
    }
    instances::boot::shut_down(&daemon).await;
    // The answer goes out first.
    tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        daemon.stop.notify_one();
    });
    Ok(())
}

async fn dump(cx: Cx, (): ()) -> Result<SqlDump> {
    let only_schema = cx.flag("schema");
    let text = match cx.param("database") {
        "local" => cx.daemon.local.dump(only_schema)?,
        "global" => cx.daemon.view(move |tx| db::sql::dump(tx, only_schema)).await?,
        _ => return Err(Error::bad_request("Invalid database: it is \"local\" or \"global\"")),
    };
    Ok(SqlDump { text })
}

async fn sql(cx: Cx, query: SqlQuery) -> Result<SqlBatch> {
    let text = query.query;
    let results = match query.database.as_str() {
        "local" => cx.daemon.local.sql(&text)?,
        "global" => {
            let asked = text.clone();
            let reads = cx.daemon.db().peek(move |tx| db::sql::only_reads(tx, &asked)).await?;
            if reads {
                cx.daemon.view(move |tx| db::sql::run(tx, &text)).await?
            } else {
                cx.daemon.write(move |tx| db::sql::run(tx, &text)).await?
            }
        }
        _ => return Err(Error::bad_request("Invalid database: it is \"local\" or \"global\"")),
    };
    Ok(SqlBatch { results })
}

/// Members try to open links all the time; that one can't be opened is said once.
static SAID: std::sync::Once = std::sync::Once::new();

async fn link(cx: Cx, mut request: Request<Incoming>) -> Result<Response<Body>> {
    let offered = request.headers().get(UPGRADE).and_then(|u| u.to_str().ok()).unwrap_or_default();
    let chosen = cluster::link::choose(offered).inspect_err(|e| SAID.call_once(|| tracing::error!("{e}")))?;
    let upgraded = hyper::upgrade::on(&mut request);
    let daemon = cx.daemon.clone();
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let answer = |channel, body: Bytes| {
            let daemon = daemon.clone();
            async move {
                match channel {
                    Channel::Database => daemon.db().serve(body).await,
                    Channel::Heartbeat => daemon.health().hear(&body, &daemon.db()),
                }
            }
        };
        if let Err(e) = cluster::link::serve(TokioIo::new(upgraded), answer).await {
            tracing::debug!("a link from another member ended: {e}");
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, chosen)
        .body(full(""))
        .map_err(|e| Error::internal(e.to_string()))
}

fn read<T: serde::de::DeserializeOwned>(body: Value) -> Result<T> {
    serde_json::from_value(body).map_err(|e| Error::bad_request(e.to_string()))
}

async fn accept(cx: Cx, body: Value) -> Result<Value> {
    let accepted = join::accept(&cx.daemon, &cx.caller, read::<Accept>(body)?).await?;
    serde_json::to_value(&accepted).map_err(|e| Error::internal(e.to_string()))
}

async fn preflight(cx: Cx, body: Value) -> Result<Value> {
    let found = join::preflight::look(&cx.daemon, &cx.caller, read::<Accept>(body)?).await?;
    serde_json::to_value(&found).map_err(|e| Error::internal(e.to_string()))
}

async fn connect(cx: Cx, body: Value) -> Result<()> {
    join::connect(&cx.daemon, &read::<Joiner>(body)?).await
}

async fn abort(cx: Cx, body: Value) -> Result<()> {
    join::abort(&cx.daemon, &read::<Joiner>(body)?).await
}

async fn remove_pool(cx: Cx, body: Value) -> Result<()> {
    let (name, config) = (read(body["name"].clone())?, read(body["config"].clone())?);
    // Members of before have only one sort of pools.
    let backend = body["driver"].as_str().unwrap_or("dir");
    super::pools::remove_place(&cx.daemon, backend, name, config).await
}

async fn remove_raft_node(cx: Cx, (): ()) -> Result<()> {
    cx.daemon.must_be_clustered()?;
    let address = cx.arg(0);
    let known = cx.daemon.local.raft_nodes()?;
    let known = known.iter().find(|n| n.address == address).map(|n| n.id);
    let status = cx.daemon.db().status();
    let id =
        known.or_else(|| address.parse().ok()).filter(|id| status.voters.contains(id) || status.learners.contains(id));
    let id = id.ok_or_else(|| Error::not_found(format!("No member of the database is known as \"{address}\"")))?;
    if let Some(member) = cx.daemon.snapshot().members.iter().find(|m| m.raft_id == Some(id)) {
        return Err(Error::bad_request(format!(
            "It belongs to the cluster member \"{0}\": \"incus cluster remove {0}\" removes that",
            member.name
        )));
    }
    cx.daemon.db().change(db::Change::Remove(id)).await?;
    cx.daemon.health().forget(id);
    Ok(())
}

/// Asked by the member that has removed this one, or by a person when it was removed by force.
async fn reset(cx: Cx, (): ()) -> Result<()> {
    if cx.daemon.cluster_identity().is_none() {
        return Err(Error::bad_request("This server is not clustered"));
    }
    let daemon = cx.daemon.clone();
    if cx.caller.protocol != "cluster" {
        let lost = cx.flag("force") && daemon.db().status().leader.is_none();
        if !daemon.removed() && !lost {
            return Err(Error::bad_request(
                "This server is a member of its cluster: remove it there first, with \"incus cluster remove\"",
            ));
        }
        return join::reset(&daemon).await;
    }
    // Whoever has asked may go away: it is brought to its end.
    let done = tokio::spawn(async move { join::reset(&daemon).await }).await;
    done.map_err(|e| Error::internal(format!("Becoming a server without a cluster: {e}")))?
}
