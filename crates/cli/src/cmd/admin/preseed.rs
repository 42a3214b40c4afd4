//! Bringing a server into the state that a preseed describes.

use api::{Error, Kind, Result};
use serde_json::{Map, Value, json};

use super::join;
use crate::{cmd::path, ctx::Ctx, server::Server};

/// What a preseed may hold besides `cluster`, in the order in which it is carried out: the field, the path of one
/// thing and of all, and what of it can be changed later.
const PARTS: &[(&str, &str, &str, &[&str])] = &[
    ("storage_pools", "/1.0/storage-pools", "storage pool", &["config", "description"]),
    ("projects", "/1.0/projects", "project", &["config", "description"]),
    ("networks", "/1.0/networks", "network", &["config", "description"]),
    ("profiles", "/1.0/profiles", "profile", &["config", "description", "devices"]),
];

/// Carries out a preseed.
pub async fn apply(ctx: &Ctx, server: &Server, preseed: &Value) -> Result<()> {
    let cluster = &preseed["cluster"];
    let joins =
        ["cluster_token", "cluster_address"].iter().any(|f| cluster[*f].as_str().is_some_and(|t| !t.is_empty()));
    if joins {
        return join_cluster(ctx, server, cluster).await;
    }
    let config = preseed["config"].as_object().cloned().unwrap_or_default();
    if !config.is_empty() {
        server_config(server, config).await.map_err(|e| e.context("Failed to update server configuration"))?;
    }
    for (field, url, noun, fields) in PARTS {
        for thing in preseed[*field].as_array().into_iter().flatten() {
            let name = thing["name"].as_str().unwrap_or_default();
            let failed = |e: Error| e.context(format!("Failed to set up the {noun} {name:?}"));
            one(ctx, server, url, thing, fields).await.map_err(failed)?;
        }
    }
    for volume in preseed["storage_volumes"].as_array().into_iter().flatten() {
        volume_of(ctx, server, volume).await?;
    }
    for certificate in preseed["certificates"].as_array().into_iter().flatten() {
        server.post("/1.0/certificates", certificate).await?;
    }
    if cluster["enabled"].as_bool().unwrap_or(false) {
        let body = json!({ "server_name": cluster["server_name"], "enabled": true });
        let reply = server.put("/1.0/cluster", &body, None).await?;
        ctx.wait(server, reply).await.map_err(|e| e.context("Failed to configure cluster"))?;
    }
    for group in preseed["cluster_groups"].as_array().into_iter().flatten() {
        one(ctx, server, "/1.0/cluster/groups", group, &["config", "description", "members"]).await?;
    }
    Ok(())
}

async fn server_config(server: &Server, config: Map<String, Value>) -> Result<()> {
    let reply = server.get("/1.0").await?;
    let mut all = reply.value["config"].as_object().cloned().unwrap_or_default();
    all.extend(config);
    server.put("/1.0", &json!({ "config": all }), reply.etag.as_deref()).await.map(drop)
}

/// Creates a thing, or brings the one of that name to what is described.
async fn one(ctx: &Ctx, server: &Server, url: &str, thing: &Value, fields: &[&str]) -> Result<()> {
    let name = thing["name"].as_str().filter(|n| !n.is_empty()).ok_or_else(|| Error::bad_request("It has no name"))?;
    let server = server.in_project(thing["project"].as_str().filter(|p| !p.is_empty()));
    let own = path(&format!("{url}/{{name}}"), &[name]);
    let reply = match server.get(&own).await {
        Ok(reply) => reply,
        Err(e) if e.kind == Kind::NotFound => {
            let mut body = thing.clone();
            if let Some(map) = body.as_object_mut() {
                map.shift_remove("project");
            }
            let reply = server.post(url, &body).await?;
            return ctx.wait(&server, reply).await.map(drop);
        }
        Err(e) => return Err(e),
    };
    let mut body = Map::new();
    for field in fields {
        let value = match (&reply.value[*field], &thing[*field]) {
            (old, Value::Null) => old.clone(),
            (Value::Object(old), Value::Object(new)) => {
                let mut all = old.clone();
                all.extend(new.clone());
                Value::Object(all)
            }
            (old, Value::String(new)) if new.is_empty() => old.clone(),
            (_, new) => new.clone(),
        };
        body.insert((*field).to_owned(), value);
    }
    let reply = server.put(&own, &Value::Object(body), reply.etag.as_deref()).await?;
    ctx.wait(&server, reply).await.map(drop)
}

async fn volume_of(ctx: &Ctx, server: &Server, volume: &Value) -> Result<()> {
    let pool = volume["pool"].as_str().unwrap_or_default();
    let url = path("/1.0/storage-pools/{pool}/volumes/custom", &[pool]);
    let mut body = volume.clone();
    body["type"] = "custom".into();
    one(ctx, server, &url, &body, &["config", "description"]).await
}

async fn join_cluster(ctx: &Ctx, server: &Server, cluster: &Value) -> Result<()> {
    let mut body = cluster.clone();
    let token = cluster["cluster_token"].as_str().unwrap_or_default().to_owned();
    body["enabled"] = true.into();
    if !token.is_empty() {
        let decoded = join::decode(&token)?;
        body["server_name"] = decoded.name.into();
        if cluster["cluster_certificate"].as_str().unwrap_or_default().is_empty() {
            let cluster = join::find(ctx, &token).await?;
            body["cluster_address"] = cluster.address.into();
            body["cluster_certificate"] = cluster.certificate.into();
        }
    }
    if let Some(file) = cluster["cluster_certificate_path"].as_str().filter(|f| !f.is_empty()) {
        body["cluster_certificate"] = join::read_certificate(file)?.into();
    }
    if let Some(map) = body.as_object_mut() {
        map.shift_remove("cluster_certificate_path");
    }
    for field in ["server_address", "cluster_address"] {
        if let Some(address) = body[field].as_str().filter(|a| !a.is_empty()) {
            body[field] = join::with_port(address).into();
        }
    }
    let reply = server.put("/1.0/cluster", &body, None).await?;
    ctx.wait(server, reply).await.map_err(|e| e.context("Failed to join cluster")).map(drop)
}
