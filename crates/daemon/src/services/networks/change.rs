//! Creating, changing, renaming and deleting networks.
//!
//! This member goes first: what it cannot do is refused, and no row tells of it. The others follow the row.

use std::sync::Arc;

use api::endpoint::{encode, in_project};
use api::key::Config;
use api::network::{NetworkPost, NetworkPut, NetworksPost};
use api::{Error, Result};
use db::Tx;
use db::networks::{Network, NetworkType};
use db::projects::{DEFAULT, Feature};
use db::value::Progress;
use drivers::network::Definition;
use incus_core::net::bridge::{Bridge, MEMBER_SPECIFIC};
use serde_json::{Value, json};

use super::follow::definition;
use super::named;
use super::show::{changeable, shown};
use crate::blocking;
use crate::edge::Cx;
use crate::events::{lifecycle, with_context};
use crate::services::{Change, placed};
use crate::state::Daemon;

/// Refuses a configuration with keys that are the same on all members.
pub fn only_members_own(config: &Config) -> Result<()> {
    match config.keys().find(|k| !MEMBER_SPECIFIC.contains(&k.as_str())) {
        None => Ok(()),
        Some(key) => Err(Error::bad_request(format!(
            "Config key \"{key}\" is the same on all members: it can't be set for one of them"
        ))),
    }
}

/// The part of a configuration that each member has of its own, and the rest; without what is empty.
fn split(config: Config) -> (Config, Config) {
    config.into_iter().filter(|(_, v)| !v.is_empty()).partition(|(k, _)| MEMBER_SPECIFIC.contains(&k.as_str()))
}

/// On a cluster what is each member's own needs a target.
fn refuse_members_own(daemon: &Daemon, own: &Config) -> Result<()> {
    match own.keys().next() {
        Some(key) if daemon.clustered() => {
            Err(Error::bad_request(format!("Config key \"{key}\" is specific to each member: set it with a target")))
        }
        _ => Ok(()),
    }
}

/// Refuses a network that cannot be made on one of its members, or has addresses of another network.
fn check(tx: &Tx<'_>, network: &Network) -> Result<()> {
    for member in &network.members {
        let def = definition(network, member.member_id);
        let checked = drivers::network::validate(&def.kind, &def.name, &def.config);
        checked.map_err(|e| if network.members.len() > 1 { on(e, &member.member) } else { e })?;
    }
    if network.kind != NetworkType::Bridge {
        return Ok(());
    }
    let others = subnets(&db::networks::list(tx, None)?, network.id);
    let others: Vec<_> = others.iter().flat_map(|b| b.sides().map(|s| (b.name.as_str(), s.address))).collect();
    Bridge::parse(&network.name, &network.config)?.check_overlap(others)
}

fn on(e: Error, member: &str) -> Error {
    Error { message: format!("{} (on cluster member \"{member}\")", e.message), ..e }
}

/// The other bridges.
fn subnets(all: &[Network], but: i64) -> Vec<Bridge> {
    let bridges = all.iter().filter(|n| n.kind == NetworkType::Bridge && n.id != but);
    bridges.filter_map(|n| Bridge::parse(&n.name, &n.config).ok()).collect()
}

/// Chooses what is to be chosen: for a new network also what nobody said.
async fn choose(daemon: &Arc<Daemon>, kind: NetworkType, id: i64, config: Config, new: bool) -> Result<Config> {
    let asked: Vec<&str> =
        ["ipv4.address", "ipv6.address"].into_iter().filter(|k| config.get(*k).map_or(new, |v| v == "auto")).collect();
    if kind != NetworkType::Bridge || asked.is_empty() {
        return Ok(config);
    }
    let others = daemon.view(move |tx| Ok(subnets(&db::networks::list(tx, None)?, id))).await?;
    blocking::run(move || {
        let taken: Vec<_> = others.iter().flat_map(|b| b.sides().map(|s| s.address)).collect();
        let mut chosen = config;
        // What is not to be chosen must not look as if it were.
        let unset: Vec<&str> =
            ["ipv4.address", "ipv6.address"].into_iter().filter(|k| !new && !chosen.contains_key(*k)).collect();
        chosen.extend(unset.iter().map(|k| ((*k).to_owned(), "none".to_owned())));
        drivers::network::fill(kind.as_str(), &mut chosen, &taken)?;
        chosen.retain(|k, _| !unset.contains(&k.as_str()));
        Ok(chosen)
    })
    .await
}

fn kind_of(text: &str) -> Result<NetworkType> {
    let kind = NetworkType::parse(text);
    kind.map_err(|_| Error::bad_request(format!("Unknown network type \"{text}\"")))
}

/// The project in which a new network lies: there is one set of links on each member.
async fn holder(cx: &Cx, kind: NetworkType) -> Result<String> {
    let project = cx.project().to_owned();
    let holder = cx.daemon.view(move |tx| db::projects::holder(tx, &project, Feature::Networks)).await?;
    if holder == DEFAULT {
        return Ok(holder);
    }
    Err(Error::bad_request(format!(
        "Networks of type \"{kind}\" can only be in the project \"{DEFAULT}\", and \"{holder}\" has networks of its own"
    )))
}

pub async fn create(cx: Cx, new: NetworksPost) -> Result<()> {
    let daemon = &cx.daemon;
    let wanted = if new.kind.is_empty() { None } else { Some(kind_of(&new.kind)?) };
    let project = holder(&cx, wanted.unwrap_or(NetworkType::Bridge)).await?;
    let (own, shared) = split(new.config.clone());
    if !cx.param("target").is_empty() {
        only_members_own(&shared)?;
        let kind = wanted.unwrap_or(NetworkType::Bridge);
        return announce(&cx, &project, &new.name, kind, own).await;
    }
    refuse_members_own(daemon, &own)?;
    let alone = daemon.places.alone().await;
    let kind = kind_to_be(daemon, &project, &new.name, wanted).await?;
    let shared = choose(daemon, kind, 0, shared, true).await?;
    let (network, announced) = daemon
        .write({
            let new = new.clone();
            move |tx| pending(tx, &project, &new, kind, (&own, &shared))
        })
        .await?;
    if let Err(e) = make(daemon, &network).await {
        daemon.write(move |tx| take_back(tx, &network, announced.as_ref())).await?;
        return Err(e);
    }
    drop(alone);
    let id = network.id;
    placed::wait_for_others(daemon, move |tx| {
        Ok(db::networks::list(tx, None)?.into_iter().find(|n| n.id == id).map(|n| n.members).unwrap_or_default())
    })
    .await;
    let url = url(&cx, &new.name);
    tell(&cx, "network-created", url.clone());
    cx.created(url);
    Ok(())
}

/// What kind a new network is: as it was announced, or as asked.
async fn kind_to_be(
    daemon: &Arc<Daemon>,
    project: &str,
    name: &str,
    wanted: Option<NetworkType>,
) -> Result<NetworkType> {
    let (project, name) = (project.to_owned(), name.to_owned());
    let there = daemon.view(move |tx| db::networks::find(tx, &project, &name)).await?;
    match (there, wanted) {
        (Some(n), _) if n.state != Progress::Pending => {
            Err(Error::conflict(format!("Network \"{}\" already exists", n.name)))
        }
        (Some(n), Some(kind)) if n.kind != kind => Err(Error::bad_request(format!(
            "Network \"{}\" is announced with the type \"{}\": it must be the same on all members",
            n.name, n.kind
        ))),
        (Some(n), _) => Ok(n.kind),
        (None, wanted) => Ok(wanted.unwrap_or(NetworkType::Bridge)),
    }
}

/// Says how a network is to be on one member.
async fn announce(cx: &Cx, project: &str, name: &str, kind: NetworkType, own: Config) -> Result<()> {
    cx.daemon.must_be_clustered()?;
    drivers::network::validate(kind.as_str(), name, &own)?;
    let (project, name, target) = (project.to_owned(), name.to_owned(), cx.param("target").to_owned());
    cx.daemon
        .write(move |tx| {
            let member = db::members::id(tx, &target)?;
            db::networks::announce(tx, &project, &name, kind, member, &own).map(drop)
        })
        .await
}

/// The row of a new network, defined on all members; and as it was announced, if it was.
fn pending(
    tx: &Tx<'_>,
    project: &str,
    new: &NetworksPost,
    kind: NetworkType,
    (own, shared): (&Config, &Config),
) -> Result<(Network, Option<Network>)> {
    let announced = db::networks::find(tx, project, &new.name)?.filter(|n| n.state == Progress::Pending);
    let placed = announced.as_ref().map(|n| n.members.clone()).unwrap_or_default();
    let id = match &announced {
        Some(n) => {
            db::networks::update(tx, n.id, &new.description, shared)?;
            n.id
        }
        None => db::networks::create(tx, project, &new.name, kind, &new.description, shared)?,
    };
    for member in db::members::list(tx)?.iter().filter(|m| placed.iter().all(|p| p.member_id != m.id)) {
        db::networks::define_on(tx, id, member.id, Progress::Pending, own)?;
    }
    let network = db::networks::get(tx, project, &new.name)?;
    check(tx, &network)?;
    Ok((network, announced))
}

/// Leaves of a network that could not be made what was announced.
fn take_back(tx: &Tx<'_>, network: &Network, announced: Option<&Network>) -> Result<()> {
    let Some(before) = announced else { return db::networks::delete(tx, network.id) };
    db::networks::update(tx, network.id, &before.description, &before.config)?;
    for member in network.members.iter().filter(|m| before.state_on(m.member_id).is_none()) {
        db::networks::remove_from(tx, network.id, member.member_id)?;
    }
    Ok(())
}

/// Makes this member's place of a new network, and lets the others follow.
async fn make(daemon: &Arc<Daemon>, network: &Network) -> Result<()> {
    let (id, own) = (network.id, daemon.member_id());
    let (made, def) = (daemon.places.made.clone(), definition(network, own));
    blocking::run(move || made.put(id, &def, true)).await?;
    let done = daemon
        .write(move |tx| {
            db::networks::set_member_state(tx, id, own, Progress::Created)?;
            db::networks::set_state(tx, id, Progress::Created)
        })
        .await;
    if done.is_err() {
        let made = daemon.places.made.clone();
        blocking::run(move || made.remove(id)).await?;
    }
    done
}

pub async fn put(cx: Cx, new: NetworkPut) -> Result<()> {
    change(&cx, &Change::Put(new)).await
}

pub async fn patch(cx: Cx, new: Value) -> Result<()> {
    change(&cx, &Change::Patch(new)).await
}

/// A network as it is, and as it is to be.
struct Update {
    /// Who wants it.
    request: Cx,
    network: Network,
    /// What the caller can change of it, as it is.
    old: NetworkPut,
    /// Whose own configuration is replaced.
    member: Option<i64>,
    description: String,
    own: Config,
    shared: Config,
}

impl Update {
    /// The network as it is then; `None` if it is not any more what this was worked out from.
    fn write(&self, tx: &Tx<'_>) -> Result<Option<Network>> {
        let (_, now) = as_it_is(tx, &self.request, self.member)?;
        if now != self.old {
            self.request.check_etag(&now)?;
            return Ok(None);
        }
        let id = self.network.id;
        db::networks::update(tx, id, &self.description, &self.shared)?;
        if let Some(member) = self.member {
            db::networks::set_member_config(tx, id, member, &self.own)?;
        }
        let all = db::networks::list(tx, None)?;
        let network = all.into_iter().find(|n| n.id == id).ok_or_else(|| Error::not_found("Network not found"))?;
        check(tx, &network)?;
        Ok(Some(network))
    }

    /// What this member is to have.
    fn definition(&self, own: i64) -> Definition {
        let mut config = if self.member == Some(own) { self.own.clone() } else { own_part(&self.network, own) };
        config.extend(self.shared.clone());
        Definition { config, ..definition(&self.network, own) }
    }
}

fn own_part(network: &Network, member: i64) -> Config {
    network.members.iter().find(|m| m.member_id == member).map(|m| m.config.clone()).unwrap_or_default()
}

/// The network of the request, and what can be changed of it.
fn as_it_is(tx: &Tx<'_>, cx: &Cx, member: Option<i64>) -> Result<(Network, NetworkPut)> {
    let network = named(tx, cx.project(), cx.arg(0))?;
    let old = changeable(&shown(tx, network.clone(), member)?);
    Ok((network, old))
}

/// Others may change it at the same time, on other members: then it is worked out again.
async fn change(cx: &Cx, change: &Change<NetworkPut>) -> Result<()> {
    let member = placed::whose(cx).await?;
    let _alone = cx.daemon.places.alone().await;
    while !apply(&cx.daemon, work_out(cx, change, member).await?).await? {}
    tell(cx, "network-updated", url(cx, cx.arg(0)));
    Ok(())
}

async fn work_out(cx: &Cx, change: &Change<NetworkPut>, member: Option<i64>) -> Result<Arc<Update>> {
    let (daemon, request) = (&cx.daemon, cx.clone());
    let (network, old) = daemon.view(move |tx| as_it_is(tx, &request, member)).await?;
    let new = change.of(cx, &old)?;
    if network.state != Progress::Created {
        return Err(Error::bad_request(
            "A network that is pending can't be changed: finish its creation, or delete it",
        ));
    }
    let (own, shared) = split(new.config);
    if cx.param("target").is_empty() {
        refuse_members_own(daemon, &own)?;
    } else if let Some(key) = differing(&shared, &network.config) {
        return Err(Error::bad_request(format!(
            "Config key \"{key}\" is the same on all members: it can't be changed with a target"
        )));
    }
    let shared = choose(daemon, network.kind, network.id, shared, false).await?;
    let request = cx.clone();
    Ok(Arc::new(Update { request, network, old, member, description: new.description, own, shared }))
}

/// A key that has another value in the other configuration.
fn differing<'a>(a: &'a Config, b: &'a Config) -> Option<&'a String> {
    a.keys().chain(b.keys()).find(|k| a.get(*k) != b.get(*k))
}

/// Brings a change about on this member, and then in the row; false, and all is as it was, if the row has changed meanwhile.
async fn apply(daemon: &Arc<Daemon>, update: Arc<Update>) -> Result<bool> {
    let (own, id) = (daemon.member_id(), update.network.id);
    let (before, after) = (definition(&update.network, own), update.definition(own));
    let changes = before != after && update.network.state_on(own).is_some();
    if changes {
        // Refused before anything is touched, if the rows alone say that it cannot be.
        let checked = update.clone();
        daemon.view(move |tx| check_update(tx, &checked)).await?;
        let (made, after) = (daemon.places.made.clone(), after);
        blocking::run(move || made.put(id, &after, false)).await?;
    }
    let written = daemon
        .write(move |tx| {
            let Some(network) = update.write(tx)? else { return Ok(false) };
            if changes && network.state_on(own) != Some(Progress::Created) {
                db::networks::set_member_state(tx, id, own, Progress::Created)?;
            }
            Ok(true)
        })
        .await;
    if changes && !matches!(written, Ok(true)) {
        let made = daemon.places.made.clone();
        if let Err(e) = blocking::run(move || made.put(id, &before, false)).await {
            tracing::warn!("a network that could not be changed could not be brought back either: {e}");
        }
    }
    written
}

fn check_update(tx: &Tx<'_>, update: &Update) -> Result<()> {
    let mut network = update.network.clone();
    network.config.clone_from(&update.shared);
    for member in network.members.iter_mut().filter(|m| Some(m.member_id) == update.member) {
        member.config.clone_from(&update.own);
    }
    check(tx, &network)
}

/// Refuses if something is connected to the network.
fn must_be_free(tx: &Tx<'_>, network: &Network) -> Result<()> {
    if db::used_by::network(tx, &network.project, &network.name)?.is_empty() {
        return Ok(());
    }
    Err(Error::bad_request("The network is currently in use"))
}

pub async fn rename(cx: Cx, new: NetworkPost) -> Result<()> {
    let daemon = &cx.daemon;
    let (project, name, wanted) = (cx.project().to_owned(), cx.arg(0).to_owned(), new.name.clone());
    let alone = daemon.places.alone().await;
    let network = daemon
        .view(move |tx| {
            let network = named(tx, &project, &name)?;
            must_be_free(tx, &network)?;
            if db::networks::find(tx, &network.project, &wanted)?.is_some() {
                return Err(Error::conflict(format!("Network \"{wanted}\" already exists")));
            }
            check(tx, &Network { name: wanted.clone(), ..network.clone() })?;
            Ok(network)
        })
        .await?;
    let (id, own) = (network.id, daemon.member_id());
    let before = definition(&network, own);
    let after = Definition { name: new.name.clone(), ..before.clone() };
    let here = network.state == Progress::Created && network.state_on(own).is_some();
    if here {
        let made = daemon.places.made.clone();
        blocking::run(move || made.put(id, &after, false)).await?;
    }
    let to = new.name.clone();
    let written = daemon
        .write(move |tx| {
            must_be_free(tx, &network)?;
            db::networks::rename(tx, id, &to)
        })
        .await;
    if written.is_err() && here {
        let made = daemon.places.made.clone();
        blocking::run(move || made.put(id, &before, false)).await?;
    }
    written?;
    drop(alone);
    let url = url(&cx, &new.name);
    let event = lifecycle("network-renamed", url.clone(), Some(cx.caller.requestor()));
    cx.daemon.tell_in(&with_context(event, [("old_name", json!(cx.arg(0)))]), cx.project());
    cx.created(url);
    Ok(())
}

pub async fn delete(cx: Cx, (): ()) -> Result<()> {
    let daemon = &cx.daemon;
    let (project, name) = (cx.project().to_owned(), cx.arg(0).to_owned());
    let alone = daemon.places.alone().await;
    let id = daemon
        .write(move |tx| {
            let network = named(tx, &project, &name)?;
            must_be_free(tx, &network)?;
            db::networks::delete(tx, network.id)?;
            Ok(network.id)
        })
        .await?;
    // The row is gone everywhere; the other members notice.
    let made = daemon.places.made.clone();
    blocking::run(move || made.remove(id)).await?;
    drop(alone);
    tell(&cx, "network-deleted", url(&cx, cx.arg(0)));
    Ok(())
}

fn url(cx: &Cx, name: &str) -> String {
    in_project(format!("/1.0/networks/{}", encode(name)), cx.project())
}

fn tell(cx: &Cx, action: &str, source: String) {
    cx.daemon.tell_in(&lifecycle(action, source, Some(cx.caller.requestor())), cx.project());
}
