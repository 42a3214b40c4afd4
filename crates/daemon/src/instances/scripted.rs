//! The placement scriptlet (`instances.placement.scriptlet`): asked where an instance goes, and told what it wants to know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::instance::InstancesPost;
use api::key::Read as _;
use api::keys::server::PLACEMENT_SCRIPTLET;
use api::{Error, Result};
use db::Tx;
use incus_core::placement::{Candidate, Needs, needs};
use scriptlet::{Answers, Failure, Question};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{Expander, Loaded, placing};
use crate::blocking;
use crate::services::{instances, members, projects, resources};
use crate::state::Daemon;

/// How long a scriptlet may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How long is waited for one that is busy with a single thing that takes longer.
const GRACE: Duration = Duration::from_secs(2);

/// Why an instance is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is new.
    New,
    /// Somebody moves it.
    Relocation,
    /// Its member is emptied.
    Evacuation,
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Reason::New => "new",
            Reason::Relocation => "relocation",
            Reason::Evacuation => "evacuation",
        }
    }
}

/// How many instances a plan is about to bring to members, by name.
pub type Planned = BTreeMap<String, usize>;

/// What is to be placed.
#[derive(Clone, Debug)]
pub struct ToPlace {
    /// Why.
    pub reason: Reason,
    /// Its project.
    pub project: String,
    /// The instance, with what its profiles add.
    pub instance: InstancesPost,
    /// What else is decided already.
    pub planned: Planned,
    /// The scriptlet that is asked, if there is one.
    pub scriptlet: Option<String>,
}

impl ToPlace {
    /// An instance that exists.
    pub fn of(l: &Loaded, reason: Reason, scriptlet: Option<String>) -> ToPlace {
        let instance = InstancesPost {
            architecture: l.row.architecture.as_str().to_owned(),
            config: l.config.clone(),
            devices: l.devices.clone(),
            ephemeral: l.row.ephemeral,
            profiles: Some(l.row.profiles.clone()),
            stateful: l.row.stateful,
            description: l.row.description.clone(),
            name: l.row.name.clone(),
            kind: l.row.kind.as_str().to_owned(),
            ..InstancesPost::default()
        };
        ToPlace { reason, project: l.row.project.clone(), instance, planned: Planned::new(), scriptlet }
    }

    /// One that is asked for.
    pub async fn new(daemon: &Daemon, project: &str, new: &InstancesPost, image: &[String]) -> Result<ToPlace> {
        let (project, mut instance) = (project.to_owned(), new.clone());
        let image = if image.is_empty() { &["default".to_owned()][..] } else { image };
        let profiles = instance.profiles.get_or_insert_with(|| image.to_vec()).clone();
        let (name, own) = (project.clone(), (instance.config.clone(), instance.devices.clone()));
        let read = move |tx: &Tx<'_>| {
            let scriptlet = in_force(tx)?;
            let expanded = match scriptlet {
                Some(_) => Some(Expander::new(tx)?.expand(&name, &profiles, (&own.0, &own.1))),
                None => None,
            };
            Ok((scriptlet, expanded))
        };
        let (scriptlet, expanded) = daemon.view(read).await?;
        if let Some(expanded) = expanded {
            (instance.config, instance.devices) = expanded;
        }
        Ok(ToPlace { reason: Reason::New, project, instance, planned: Planned::new(), scriptlet })
    }

    fn request(&self) -> Value {
        let mut request = serde_json::to_value(&self.instance).unwrap_or_default();
        request["project"] = self.project.as_str().into();
        request["reason"] = self.reason.as_str().into();
        request
    }
}

/// Refuses a text that is no placement scriptlet.
pub async fn check(text: String) -> Result<()> {
    blocking::run(move || scriptlet::check(&text).map_err(Error::bad_request)).await
}

/// The scriptlet, if there is one.
pub fn in_force(tx: &Tx<'_>) -> Result<Option<String>> {
    let text = db::config::get(tx)?.read(&PLACEMENT_SCRIPTLET);
    Ok((!text.trim().is_empty()).then_some(text))
}

/// The name of the member among these that the scriptlet has chosen; `None` if it has not, or there is none.
pub async fn ask(daemon: &Arc<Daemon>, eligible: &[&Candidate], wanted: &ToPlace) -> Result<Option<String>, Failure> {
    let broken = |e: Error| Failure::Broken(e.message);
    let Some(text) = wanted.scriptlet.clone() else { return Ok(None) };
    let all = members::all(daemon).await.map_err(broken)?;
    // In the order of the candidates: the emptiest first.
    let shown = eligible.iter().filter_map(|c| all.iter().find(|m| m.server_name == c.name));
    let candidates: Vec<Value> = shown.filter_map(|m| serde_json::to_value(m).ok()).collect();
    let request = wanted.request();
    let daemon = daemon.clone();
    let wanted = wanted.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let cluster = ClusterAnswers { daemon, wanted, handle: Handle::current(), until: Instant::now() + LIMIT };
        scriptlet::place(&text, &request, &candidates, Box::new(cluster), LIMIT)
    });
    match tokio::time::timeout(LIMIT + GRACE, asked).await {
        Ok(Ok(done)) => done,
        Ok(Err(e)) => Err(Failure::Broken(format!("It crashed: {e}"))),
        Err(_) => Err(Failure::Broken(format!("It did not come to an end within {} seconds", LIMIT.as_secs()))),
    }
}

/// What this cluster answers.
struct ClusterAnswers {
    daemon: Arc<Daemon>,
    wanted: ToPlace,
    handle: Handle,
    until: Instant,
}

impl Answers for ClusterAnswers {
    fn answer(&self, question: &Question) -> Result<Value, String> {
        let left = self.until.saturating_duration_since(Instant::now());
        let answer = self.handle.block_on(async { tokio::time::timeout(left, self.look(question)).await });
        match answer {
            Ok(answer) => answer.map_err(|e| e.message),
            Err(_) => Err("No answer came in time".into()),
        }
    }
}

impl ClusterAnswers {
    async fn look(&self, question: &Question) -> Result<Value> {
        let daemon = &self.daemon;
        match question {
            Question::MemberResources(name) => match daemon.member_address(name).await? {
                None => resources::own().await,
                Some(address) => daemon.remote(&address)?.call(&api::internal::RESOURCES, &[], "", &()).await,
            },
            Question::MemberState(name) => json_of(match daemon.member_address(name).await? {
                None => members::own_state(daemon).await?,
                Some(address) => daemon.remote(&address)?.call(&api::cluster::MEMBER_STATE, &[name], "", &()).await?,
            }),
            Question::InstanceResources => {
                let Needs { processors, memory, root_disk } =
                    needs(&self.wanted.instance.config, &self.wanted.instance.devices);
                Ok(json!({ "cpu_cores": processors, "memory_size": memory, "root_disk_size": root_disk }))
            }
            Question::Instances { location, project } => json_of(
                self.instances(location, project).await?.into_iter().map(instances::recorded).collect::<Vec<_>>(),
            ),
            Question::InstancesCount { location, project, pending } => {
                let pending = if *pending { self.pending(location) } else { 0 };
                Ok((self.instances(location, project).await?.len() + pending).into())
            }
            Question::Members(group) => {
                let all = members::all(daemon).await?.into_iter();
                json_of(all.filter(|m| group.is_empty() || m.groups.contains(group)).collect::<Vec<_>>())
            }
            Question::Project(name) => json_of(projects::by_name(daemon, name.clone()).await?),
        }
    }

    /// The instances on a member and of a project; empty names stand for all.
    async fn instances(&self, location: &str, project: &str) -> Result<Vec<Loaded>> {
        let (location, project) = (location.to_owned(), project.to_owned());
        self.daemon
            .view(move |tx| {
                let expander = Expander::new(tx)?;
                let which = db::instances::Filter {
                    project: Some(project.as_str()).filter(|p| !p.is_empty()),
                    ..db::instances::Filter::default()
                };
                let all = db::instances::list(tx, which)?.into_iter();
                let here = all.filter(|row| location.is_empty() || row.member == location);
                Ok(here.map(|row| expander.load(row)).collect())
            })
            .await
    }

    /// Instances that are on their way to a member, or to any.
    fn pending(&self, location: &str) -> usize {
        let snapshot = self.daemon.snapshot();
        let there = |name: &str| location.is_empty() || name == location;
        let name = |id: i64| snapshot.members.iter().find(|m| m.id == id).map_or("", |m| m.name.as_str());
        let placing = placing::pending(&self.daemon).into_iter().filter(|(id, _)| there(name(*id))).map(|(_, n)| n);
        let planned = self.wanted.planned.iter().filter(|(name, _)| there(name)).map(|(_, n)| *n);
        placing.chain(planned).sum()
    }
}

fn json_of(value: impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::internal(e.to_string()))
}
