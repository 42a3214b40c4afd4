//! Whether a project allows what its instances and profiles are to be: [`incus_core::project`] decides, this gathers
//! what it needs to know. Called in the transaction that writes, so that nothing comes in between.

use api::key::{Config, Read as _};
use api::keys::project as keys;
use api::keys::volume::SIZE;
use api::project::ProjectState;
use api::{Error, Result};
use db::Tx;
use db::instances::Filter;
use db::projects::{Feature, Project, users_of};
use db::value::InstanceType;
use db::volumes::{self, VolumeType};
use incus_core::placement::Target;
use incus_core::project::{Rules, Use};

use crate::edge::Cx;
use crate::instances::{Expander, Loaded};

/// Checks all instances and profiles of a project.
pub fn check(tx: &Tx<'_>, project: &str) -> Result<()> {
    check_with(tx, project, None)
}

/// The same, with an instance as it is about to be.
pub fn check_with(tx: &Tx<'_>, project: &str, wanted: Option<&Loaded>) -> Result<()> {
    let project = db::projects::get(tx, project)?;
    let rules = Rules::new(&project.name, &project.config);
    if !rules.any() {
        return Ok(());
    }
    let mut all = instances(tx, &project.name)?;
    if let Some(wanted) = wanted {
        all.retain(|l| l.row.name != wanted.row.name && l.row.id != wanted.row.id);
        all.push(wanted.clone());
    }
    rules.limits(&uses(&all))?;
    for l in &all {
        rules.restrictions(&format!("instance \"{}\"", l.row.name), &l.config, &l.devices)?;
    }
    profiles(tx, &project, &rules)
}

fn instances(tx: &Tx<'_>, project: &str) -> Result<Vec<Loaded>> {
    let expander = Expander::new(tx)?;
    let here = Filter { project: Some(project), ..Filter::default() };
    Ok(db::instances::list(tx, here)?.into_iter().map(|row| expander.load(row)).collect())
}

fn uses(all: &[Loaded]) -> Vec<Use<'_>> {
    let machine = |l: &Loaded| l.row.kind == InstanceType::VirtualMachine;
    all.iter().map(|l| Use { name: &l.row.name, machine: machine(l), config: &l.config }).collect()
}

/// What a project may use, and uses.
pub fn state(tx: &Tx<'_>, project: &str) -> Result<ProjectState> {
    let project = db::projects::get(tx, project)?;
    let all = instances(tx, &project.name)?;
    let which =
        volumes::Filter { project: Some(&project.name), kind: Some(VolumeType::Custom), ..volumes::Filter::default() };
    let of_volume = |row: volumes::Volume| api::size::bytes(&row.config.read(&SIZE)).unwrap_or(0);
    let of_instance = |l: &Loaded| incus_core::disk::root_size(&l.devices).ok().flatten().unwrap_or(0);
    let sizes = volumes::list(tx, which)?.into_iter().map(of_volume).chain(all.iter().map(of_instance));
    let networks = db::networks::list(tx, Some(&project.name))?.len();
    let disk = sizes.fold(0, u64::saturating_add);
    Ok(Rules::new(&project.name, &project.config).state(&uses(&all), disk, networks))
}

/// Checks the profiles that are the project's own.
fn profiles(tx: &Tx<'_>, project: &Project, rules: &Rules<'_>) -> Result<()> {
    if !project.has(Feature::Profiles) {
        return Ok(());
    }
    for profile in db::profiles::list(tx, Some(&project.name))? {
        rules.restrictions(&format!("profile \"{}\"", profile.name), &profile.config, &profile.devices)?;
    }
    Ok(())
}

/// Checks all projects that use the profiles of the project `holder`, because one of these has changed.
pub fn check_users_of_profiles(tx: &Tx<'_>, holder: &str) -> Result<()> {
    users_of(tx, holder, Feature::Profiles)?.iter().try_for_each(|project| check(tx, project))
}

/// Checks what a client sets of the server's notes about an instance.
pub async fn check_notes(cx: &Cx, before: &Config, after: &Config) -> Result<()> {
    let project = project(cx).await?;
    Rules::new(&project.name, &project.config).notes(before, after)
}

/// Refuses if the project doesn't let its users choose where instances are.
pub async fn check_target(cx: &Cx, target: &Target) -> Result<()> {
    let project = project(cx).await?;
    Rules::new(&project.name, &project.config).target(target)
}

/// Refuses if there may be no snapshots in a project.
pub fn check_snapshots(tx: &Tx<'_>, project: &str) -> Result<()> {
    let config = db::projects::get(tx, project)?.config;
    if config.read(&keys::RESTRICTED) && config.read(&keys::RESTRICTED_SNAPSHOTS) == "block" {
        return Err(Error::forbidden(format!("Project \"{project}\" doesn't allow for snapshot creation")));
    }
    Ok(())
}

async fn project(cx: &Cx) -> Result<Project> {
    let name = cx.project().to_owned();
    cx.daemon.view(move |tx| db::projects::get(tx, &name)).await
}
