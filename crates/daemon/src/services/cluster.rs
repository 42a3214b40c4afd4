//! `/1.0/cluster`: forming, joining and leaving a cluster.

use std::sync::Arc;

use api::cluster::{Cluster, ClusterPut, MemberConfigKey};
use api::{Error, Result};
use db::members::Member;

use crate::edge::{Cx, Router};
use crate::join;
use crate::operations::{Operation, Resources};
use crate::state::Daemon;

pub fn routes(r: &mut Router) {
    r.sync(&api::cluster::GET, get);
    r.operation(&api::cluster::PUT, put);
}

async fn get(cx: Cx, (): ()) -> Result<Cluster> {
    if !cx.daemon.clustered() {
        let cluster = Cluster::default();
        cx.show_etag(&cluster);
        return Ok(cluster);
    }
    let cluster = Cluster { server_name: cx.daemon.name(), enabled: true, member_config: questions(&cx.daemon).await? };
    cx.show_etag(&cluster);
    Ok(cluster)
}

/// What a joining member has to be told about its pools and networks.
async fn questions(daemon: &Daemon) -> Result<Vec<MemberConfigKey>> {
    let pools = daemon.view(db::pools::list).await?;
    let question = |pool: &db::pools::Pool| MemberConfigKey {
        entity: "storage-pool".into(),
        name: pool.name.clone(),
        key: "source".into(),
        value: String::new(),
        description: format!("\"source\" property for storage pool \"{}\"", pool.name),
    };
    let mut all: Vec<MemberConfigKey> = pools.iter().map(question).collect();
    all.extend(super::networks::questions(daemon).await?);
    Ok(all)
}

async fn put(cx: Cx, put: ClusterPut) -> Result<Arc<Operation>> {
    let (daemon, caller) = (cx.daemon.clone(), cx.caller.clone());
    let resources = Resources::from([("cluster".to_owned(), None)]);
    if !put.enabled {
        return Err(Error::bad_request("To leave the cluster, remove this member: \"incus cluster remove\""));
    }
    let joins = !put.cluster_token.is_empty() || !put.cluster_address.is_empty();
    if !joins && put.server_name.is_empty() {
        return Err(Error::bad_request("ServerName is required when bootstrapping a cluster"));
    }
    let what = if joins { "Joining cluster" } else { "Creating cluster" };
    let new = daemon.operation(what, "", resources);
    Ok(cx.daemon.run(new, move |_| async move {
        if joins {
            join::join(&daemon, &put).await?;
        } else {
            join::bootstrap(&daemon, &put.server_name, Some(put.server_address.clone())).await?;
            daemon.tell("cluster-enabled", format!("/1.0/cluster/members/{}", put.server_name), &caller);
        }
        Ok(())
    }))
}

/// Makes the pools and networks of the cluster on this new member.
pub async fn create_local(daemon: &Arc<Daemon>, own: &Member, answers: &[MemberConfigKey]) -> Result<()> {
    super::pools::define_on_joiner(daemon, own, answers).await?;
    super::networks::define_on_joiner(daemon, own, answers).await
}
