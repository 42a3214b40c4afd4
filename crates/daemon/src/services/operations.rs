//! `/1.0/operations`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::operation::Operation as View;
use api::{Error, Result};
use futures::future::join_all;
use hyper::{Request, Response};
use serde_json::{Value, json};

use super::tokens;
use crate::edge::auth::Trust;
use crate::edge::websocket::upgrade;
use crate::edge::{Body, Cx, Incoming, Router, Session, forward};
use crate::operations::Operation;

/// How long another member may take to tell of its operations.
const OTHERS: Duration = Duration::from_secs(2);

pub fn routes(r: &mut Router) {
    r.sync(&api::operation::LIST, list);
    r.sync(&api::operation::GET, get);
    r.sync(&api::operation::DELETE, delete);
    r.sync(&api::operation::WAIT, wait);
    r.raw(&api::operation::WEBSOCKET, websocket);
}

async fn list(cx: Cx, (): ()) -> Result<Value> {
    if let Err(e) = tokens::tidy(&cx.daemon).await {
        tracing::debug!("ending tokens that are not good any more: {e}");
    }
    let mut all = own(&cx);
    if cx.daemon.clustered() && cx.caller.protocol != "cluster" {
        all.extend(of_others(&cx).await);
        let known: Vec<String> = all.iter().map(|o| o.id.clone()).collect();
        let issued = match only(&cx) {
            None => tokens::as_operations(&cx.daemon).await.unwrap_or_default(),
            Some(_) => Vec::new(),
        };
        all.extend(issued.into_iter().filter(|o| !known.contains(&o.id)));
    }
    let whole = !matches!(cx.param("recursion"), "" | "0");
    let mut by_status: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for operation in all {
        let shown = if whole { serde_json::to_value(&operation).unwrap_or_default() } else { operation.url().into() };
        by_status.entry(operation.status.to_lowercase()).or_default().push(shown);
    }
    Ok(json!(by_status))
}

fn own(cx: &Cx) -> Vec<View> {
    let all_projects = cx.flag("all-projects");
    let wanted = |p: &str| all_projects || p.is_empty() || p == cx.project() || cx.caller.protocol == "cluster";
    let only = only(cx);
    let visible = |p: &String| only.as_ref().is_none_or(|projects| projects.contains(p));
    let all = cx.daemon.operations.list();
    all.iter().filter(|o| wanted(&o.project) && visible(&o.project)).map(|o| o.view()).collect()
}

/// The projects that the caller is restricted to; another member tells those of its own caller.
fn only(cx: &Cx) -> Option<BTreeSet<String>> {
    match &cx.caller.trust {
        Trust::Restricted(projects) => Some(projects.clone()),
        _ if cx.caller.protocol == "cluster" && cx.query.contains_key("only") => {
            Some(forward::listed(cx.param("only")))
        }
        _ => None,
    }
}

/// What the other members run; one that does not answer at once is left out.
async fn of_others(cx: &Cx) -> Vec<View> {
    let daemon = &cx.daemon;
    let mut path = "/1.0/operations?recursion=1&all-projects=true".to_owned();
    if let Some(projects) = only(cx) {
        path += &format!("&only={}", api::endpoint::encode(&forward::list(&projects)));
    }
    let path = path.as_str();
    let snapshot = daemon.snapshot();
    let others = snapshot.members.iter().filter(|m| m.raft_id != Some(daemon.raft_id()));
    let asked = others.filter(|m| daemon.must_be_online(m, &snapshot).is_ok()).map(|member| async {
        let remote = daemon.remote(&member.address).ok()?;
        let answer = tokio::time::timeout(OTHERS, remote.json("GET", path, None)).await.ok()?.ok()?;
        serde_json::from_value::<BTreeMap<String, Vec<View>>>(answer.metadata).ok()
    });
    join_all(asked).await.into_iter().flatten().flat_map(BTreeMap::into_values).flatten().collect()
}

/// The operation of the request, if the caller may know of it.
fn find(cx: &Cx) -> Result<Arc<Operation>> {
    let found = cx.daemon.operations.get(cx.arg(0))?;
    match only(cx) {
        Some(projects) if !projects.contains(&found.project) => Err(Error::not_found("Operation not found")),
        _ => Ok(found),
    }
}

async fn get(cx: Cx, (): ()) -> Result<View> {
    match find(&cx) {
        Ok(operation) => Ok(operation.view()),
        Err(e) if only(&cx).is_some() => Err(e),
        Err(e) => tokens::as_operation(&cx.daemon, cx.arg(0)).await?.ok_or(e),
    }
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    let id = cx.arg(0).to_owned();
    if only(&cx).is_some() {
        find(&cx)?;
    }
    let revoked = tokens::revoke(&cx.daemon, &id).await?;
    crate::plans::cancel(&cx.daemon, &id).await?;
    match cx.daemon.operations.cancel(&id) {
        Err(_) if revoked => Ok(()),
        done => done,
    }
}

async fn wait(cx: Cx, (): ()) -> Result<View> {
    let timeout = match cx.param("timeout") {
        "" => None,
        text => {
            let seconds: i64 = text
                .parse()
                .map_err(|_| Error::bad_request(format!("Invalid timeout \"{text}\": seconds are expected")))?;
            u64::try_from(seconds).ok().map(Duration::from_secs)
        }
    };
    let (operation, session) = (find(&cx)?, Session::of(&cx));
    tokio::select! {
        ended = operation.wait(timeout) => Ok(ended),
        () = session.ended() => Err(Error::forbidden("not authorized")),
    }
}

/// Whoever knows the secret may connect, trusted or not.
async fn websocket(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let operation = cx.daemon.operations.get(cx.arg(0))?;
    let slot = operation.channels().find(cx.param("secret"))?;
    let (answer, socket) = upgrade(request)?;
    let slot = slot.take()?;
    tokio::spawn(async move {
        if let Ok(socket) = socket.await {
            slot.connect(socket);
        }
    });
    Ok(answer)
}
