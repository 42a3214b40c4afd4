//! What a stored plan says: for each instance what becomes of it, and where its files are before and after.

use api::event::Requestor;
use api::key::Config;
use api::profile::Devices;
use api::{Error, Result};
use db::Tx;
use db::members::State;
use db::plans::{Plan, StepState};
use drivers::storage::{Kind, Volume};
use incus_core::plan::Step;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// Instance by instance; the number of a step is its place here.
    pub parts: Vec<Part>,
    /// Who asked for it.
    pub requestor: Option<Requestor>,
}

/// One instance's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What becomes of it.
    #[serde(flatten)]
    pub step: Step,
    /// What it is before.
    pub source: Spot,
    /// What it is afterwards.
    pub target: Spot,
}

/// What an instance is, as far as a move changes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spot {
    /// Its pool.
    pub pool: String,
    /// Its project.
    pub project: String,
    /// Its name.
    pub name: String,
    /// What else a person changes with the move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// Keys of its configuration that the server notes; `None` removes.
    pub notes: Vec<(String, Option<String>)>,
}

/// Configuration, devices and profiles of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Its own configuration.
    pub config: Config,
    /// Its own devices.
    pub devices: Devices,
    /// The names of its profiles.
    pub profiles: Vec<String>,
}

impl Spot {
    /// Its volume.
    pub fn volume(&self) -> Volume {
        Volume::new(Kind::Container, &self.project, &self.name)
    }

    /// True if the files are in the same place of a member.
    pub fn same_place(&self, other: &Spot) -> bool {
        self.pool == other.pool && self.volume() == other.volume()
    }
}

impl Body {
    /// What a plan says.
    pub fn of(plan: &Plan) -> Result<Body> {
        Body::deserialize(&plan.body).map_err(|e| Error::internal(format!("Unreadable plan {}: {e}", plan.uuid)))
    }

    /// As it is stored.
    pub fn to_value(&self) -> Result<Value> {
        serde_json::to_value(self).map_err(|e| Error::internal(e.to_string()))
    }
}

/// The UUID of the plan that is about to change where an instance is, if there is one.
pub fn claim(tx: &Tx<'_>, instance: i64) -> Result<Option<String>> {
    for plan in db::plans::unfinished(tx)? {
        let body = Body::of(&plan)?;
        let open = |number: usize| {
            let state = plan.steps.iter().find(|s| s.number == number).map(|s| s.state);
            matches!(state, Some(StepState::Waiting | StepState::Running))
        };
        if body.parts.iter().enumerate().any(|(n, part)| part.step.instance == instance && open(n)) {
            return Ok(Some(plan.uuid));
        }
    }
    Ok(None)
}

/// Refuses while a plan is about to change where an instance is.
pub fn must_be_free(tx: &Tx<'_>, instance: i64) -> Result<()> {
    match claim(tx, instance)? {
        None => Ok(()),
        Some(_) => Err(Error::new(
            api::Kind::Locked,
            "The instance is being moved, or its cluster member evacuated or restored: try again when that has ended",
        )),
    }
}

/// Refuses on a member that is emptied: no instance is made or started on it.
pub fn must_be_in_service(tx: &Tx<'_>, member: i64) -> Result<()> {
    match db::members::get(tx, member)?.state {
        State::Evacuated => Err(Error::bad_request("The cluster member is evacuated: restore it first")),
        State::Evacuating => Err(Error::bad_request("The cluster member is being evacuated")),
        State::Created | State::Pending | State::Restoring => Ok(()),
    }
}
