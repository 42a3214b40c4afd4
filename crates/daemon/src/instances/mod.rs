//! The instances of this member while the daemon runs: what they are, starting and stopping them, what is known of
//! those that run.
//!
//! The database says which instances there are and where; liblxc says which of them run. Everything that changes an
//! instance holds its lock. One task watches each instance that runs and tidies up when it has stopped, however that
//! came about, so that there is one way out.

pub mod boot;
pub mod devices;
pub mod placing;
pub mod scripted;
pub mod start;
pub mod stop;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::key::{Config, Read as _};
use api::operation::StatusCode;
use api::profile::Devices;
use api::{Error, Result};
use db::Tx;
use db::instances::Instance;
use db::profiles::Profile;
use db::projects::{Feature, Project};
use drivers::storage::{Driver, Kind, Volume};
use tokio::sync::{OwnedMutexGuard, watch};

use crate::services::pools;
use crate::state::Daemon;

/// What is remembered of the instances of this member, by row id.
#[derive(Default)]
pub struct Instances {
    running: Mutex<HashMap<i64, Running>>,
    /// Tells that instances were ended that are to run again when a majority is there.
    pub fenced: tokio::sync::Notify,
}

/// An instance that runs.
struct Running {
    /// What it is called on this machine.
    name: String,
    /// Becomes true when it has stopped and everything is tidied up.
    ended: watch::Receiver<bool>,
    /// How it is being stopped.
    stopping: Option<stop::Ending>,
    /// True while its processes are held.
    frozen: bool,
}

impl Instances {
    fn running(&self) -> MutexGuard<'_, HashMap<i64, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the instance with this row id runs on this member.
    pub fn runs(&self, id: i64) -> bool {
        self.running().contains_key(&id)
    }

    /// The state of an instance of this member as clients see it.
    pub fn status(&self, id: i64) -> StatusCode {
        match self.running().get(&id) {
            None => StatusCode::Stopped,
            Some(Running { frozen: true, .. }) => StatusCode::Frozen,
            Some(_) => StatusCode::Running,
        }
    }

    /// Row ids of the instances that run on this member, and what they are called on this machine.
    pub fn all_running(&self) -> Vec<(i64, String)> {
        self.running().iter().map(|(id, running)| (*id, running.name.clone())).collect()
    }

    fn set_frozen(&self, id: i64, frozen: bool) {
        if let Some(running) = self.running().get_mut(&id) {
            running.frozen = frozen;
        }
    }
}

/// An instance with what its profiles add.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the database says of it.
    pub row: Instance,
    /// Its configuration with that of its profiles.
    pub config: Config,
    /// Its devices with those of its profiles.
    pub devices: Devices,
}

impl Loaded {
    /// What it is called on this machine: its name, with its project before it unless that is `default`.
    pub fn id(&self) -> String {
        self.volume().name
    }

    /// Its volume.
    pub fn volume(&self) -> Volume {
        Volume::new(Kind::Container, &self.row.project, &self.row.name)
    }

    /// True if its root is that of the machine.
    pub fn privileged(&self) -> bool {
        self.config.read(&api::keys::instance::PRIVILEGED)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        url(&self.row.project, &self.row.name)
    }

    /// What is told about its state.
    pub fn lifecycle(&self, daemon: &Daemon, action: &str, requestor: Option<api::event::Requestor>) {
        daemon.tell_in(&crate::events::lifecycle(action, self.url(), requestor), &self.row.project);
    }
}

/// Makes sure that nobody else changes the instance with this row id meanwhile.
pub async fn lock(daemon: &Daemon, id: i64) -> OwnedMutexGuard<()> {
    crate::locks::hold(daemon.paths.root().join("instances").join(id.to_string())).await
}

/// The URL of an instance.
pub fn url(project: &str, name: &str) -> String {
    api::endpoint::in_project(format!("/1.0/instances/{}", api::endpoint::encode(name)), project)
}

/// Adds to instances what their profiles say; reads the profiles once for many instances.
pub struct Expander {
    profiles: HashMap<(String, String), Profile>,
    projects: Vec<Project>,
}

impl Expander {
    /// Reads all profiles.
    pub fn new(tx: &Tx<'_>) -> Result<Expander> {
        let profiles = db::profiles::list(tx, None)?;
        Ok(Expander {
            profiles: profiles.into_iter().map(|p| ((p.project.clone(), p.name.clone()), p)).collect(),
            projects: db::projects::list(tx)?,
        })
    }

    /// Configuration and devices with those of the profiles of these names, as the project sees them.
    pub fn expand(&self, project: &str, profiles: &[String], own: (&Config, &Devices)) -> (Config, Devices) {
        let has_own = self.projects.iter().any(|p| p.name == project && p.has(Feature::Profiles));
        let holder = if has_own { project } else { db::projects::DEFAULT };
        let named = profiles.iter().filter_map(|name| self.profiles.get(&(holder.to_owned(), name.clone())));
        incus_core::expand::expand(named.map(|p| (&p.config, &p.devices)), own)
    }

    /// Takes another configuration and other devices for those of a profile.
    pub fn replace(&mut self, project: &str, name: &str, config: Config, devices: Devices) {
        if let Some(profile) = self.profiles.get_mut(&(project.to_owned(), name.to_owned())) {
            (profile.config, profile.devices) = (config, devices);
        }
    }

    /// The instance with what its profiles add.
    pub fn load(&self, row: Instance) -> Loaded {
        let (config, devices) = self.expand(&row.project, &row.profiles, (&row.config, &row.devices));
        Loaded { row, config, devices }
    }
}

/// An instance with what its profiles add; for many of them there is the [`Expander`].
pub fn expanded(tx: &Tx<'_>, row: Instance) -> Result<Loaded> {
    let profiles = db::profiles::named(tx, &row.project, &row.profiles)?;
    let of_profiles = profiles.iter().map(|p| (&p.config, &p.devices));
    let (config, devices) = incus_core::expand::expand(of_profiles, (&row.config, &row.devices));
    Ok(Loaded { row, config, devices })
}

/// The instance of that name, from the newest state of the database.
pub async fn load(daemon: &Arc<Daemon>, project: &str, name: &str) -> Result<Loaded> {
    let (project, name) = (project.to_owned(), name.to_owned());
    daemon.view(move |tx| expanded(tx, db::instances::get(tx, &project, &name)?)).await
}

/// The instance with that row id, from the newest state of the database.
pub async fn by_id(daemon: &Arc<Daemon>, id: i64) -> Result<Loaded> {
    daemon.view(move |tx| expanded(tx, db::instances::by_id(tx, id)?)).await
}

/// The instance with that row id, which must be on this member and be no plan's business. The caller holds its lock,
/// and may have waited for it for long.
pub async fn here(daemon: &Arc<Daemon>, id: i64) -> Result<Loaded> {
    let own = daemon.member_id();
    daemon
        .view(move |tx| {
            let l = expanded(tx, db::instances::by_id(tx, id)?)?;
            if l.row.member_id != own {
                return Err(Error::unavailable(format!(
                    "The instance is on the member \"{}\" now: try again",
                    l.row.member
                )));
            }
            crate::plans::must_be_free(tx, id).map(|()| l)
        })
        .await
}

/// The instances of this member, from the own replica.
pub async fn of_this_member(daemon: &Arc<Daemon>) -> Result<Vec<Loaded>> {
    let own = daemon.member_id();
    let here = db::instances::Filter { member: Some(own), ..db::instances::Filter::default() };
    daemon
        .db()
        .peek(move |tx| {
            let expander = Expander::new(tx)?;
            Ok(db::instances::list(tx, here)?.into_iter().map(|row| expander.load(row)).collect())
        })
        .await
}

/// Where an instance lies: the name of its pool, and the pool as it is on this member.
pub async fn pool(daemon: &Arc<Daemon>, l: &Loaded) -> Result<(String, Arc<dyn Driver>)> {
    let id = l.row.id;
    let name = daemon.db().peek(move |tx| Ok(db::volumes::of_instance(tx, id)?.pool)).await?;
    let driver = pools::open(daemon, &name).await?;
    Ok((name, driver))
}

/// The directory of the instance's volume, with `metadata.yaml`, `templates` and `rootfs` in it.
pub async fn volume_path(daemon: &Arc<Daemon>, l: &Loaded) -> Result<PathBuf> {
    let (pool, driver) = pool(daemon, l).await?;
    if !driver.exists(&l.volume()) {
        return Err(Error::internal(format!(
            "The files of the instance \"{}\" are not in the storage pool \"{pool}\" of this member",
            l.row.name
        )));
    }
    Ok(driver.path(&l.volume()))
}

/// The root file system of the instance.
pub async fn rootfs(daemon: &Arc<Daemon>, l: &Loaded) -> Result<PathBuf> {
    Ok(volume_path(daemon, l).await?.join("rootfs"))
}
