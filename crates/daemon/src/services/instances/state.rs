//! Starting, stopping, pausing and resuming, as clients ask for it.

use std::sync::Arc;
use std::time::Duration;

use api::instance::{InstanceStatePut, InstancesPut};
use api::operation::StatusCode;
use api::{Error, Result};

use crate::edge::Cx;
use crate::instances::{self, Loaded, start, stop};
use crate::operations::Operation;
use crate::state::Daemon;

/// What can be asked of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Start,
    Stop,
    Restart,
    Freeze,
    Unfreeze,
}

impl Action {
    fn parse(text: &str) -> Result<Action> {
        Ok(match text {
            "start" => Action::Start,
            "stop" => Action::Stop,
            "restart" => Action::Restart,
            "freeze" => Action::Freeze,
            "unfreeze" => Action::Unfreeze,
            _ => return Err(Error::bad_request(format!("Unknown action: \"{text}\""))),
        })
    }

    const fn doing(self) -> &'static str {
        match self {
            Action::Start => "Starting instance",
            Action::Stop => "Stopping instance",
            Action::Restart => "Restarting instance",
            Action::Freeze => "Freezing instance",
            Action::Unfreeze => "Unfreezing instance",
        }
    }
}

/// `PUT /1.0/instances/{name}/state`.
pub async fn put(cx: Cx, new: InstanceStatePut) -> Result<Arc<Operation>> {
    let action = Action::parse(&new.action)?;
    let l = super::find_here(&cx).await?;
    let operation = super::operation(&cx.daemon, action.doing(), &l);
    let daemon = cx.daemon.clone();
    Ok(daemon.clone().run(operation, move |_| async move {
        let _busy = instances::lock(&daemon, l.row.id).await;
        let l = instances::here(&daemon, l.row.id).await?;
        carry_out(&daemon, &l, action, &new, &cx).await
    }))
}

async fn carry_out(daemon: &Arc<Daemon>, l: &Loaded, action: Action, new: &InstanceStatePut, cx: &Cx) -> Result<()> {
    let tell = |what: &str| l.lifecycle(daemon, what, Some(cx.caller.requestor()));
    match action {
        Action::Start if daemon.instances.status(l.row.id) == StatusCode::Frozen => {
            stop::freeze(daemon, l, false).await?;
            tell("instance-resumed");
        }
        Action::Start => {
            start::start(daemon, l).await?;
            tell("instance-started");
        }
        Action::Stop => {
            let how = how(new);
            thaw(daemon, l, how).await?;
            stop::stop(daemon, l, how, stop::Ending::plain(how)).await?;
        }
        Action::Restart => {
            let how = how(new);
            if !daemon.instances.runs(l.row.id) {
                return Err(Error::bad_request("The instance is not running"));
            }
            thaw(daemon, l, how).await?;
            stop::stop(daemon, l, how, stop::Ending { restart: true, ..stop::Ending::plain(how) }).await?;
            let l = instances::by_id(daemon, l.row.id).await?;
            start::start(daemon, &l).await?;
            tell("instance-restarted");
        }
        Action::Freeze => {
            stop::freeze(daemon, l, true).await?;
            tell("instance-paused");
        }
        Action::Unfreeze => {
            stop::freeze(daemon, l, false).await?;
            tell("instance-resumed");
        }
    }
    Ok(())
}

/// An instance whose processes are held cannot shut down.
async fn thaw(daemon: &Arc<Daemon>, l: &Loaded, how: stop::How) -> Result<()> {
    if how != stop::How::Force && daemon.instances.status(l.row.id) == StatusCode::Frozen {
        stop::freeze(daemon, l, false).await?;
    }
    Ok(())
}

fn how(new: &InstanceStatePut) -> stop::How {
    match u64::try_from(new.timeout) {
        _ if new.force => stop::How::Force,
        // What clients leave out is 0: they wait as long as it takes.
        Ok(0) | Err(_) => stop::How::Clean(None),
        Ok(seconds) => stop::How::Clean(Some(Duration::from_secs(seconds))),
    }
}

/// `PUT /1.0/instances`: the same for all instances of the project, wherever they are.
pub async fn put_all(cx: Cx, new: InstancesPut) -> Result<Arc<Operation>> {
    let new = new.state.ok_or_else(|| Error::bad_request("No state is given"))?;
    let action = Action::parse(&new.action)?;
    let project = cx.project().to_owned();
    let daemon = cx.daemon.clone();
    let asked = project.clone();
    let all = daemon
        .view(move |tx| {
            let which = db::instances::Filter { project: Some(&asked), ..db::instances::Filter::default() };
            db::instances::list(tx, which)
        })
        .await?;
    let resources = [("instances".to_owned(), Some(all.iter().map(|i| instances::url(&i.project, &i.name)).collect()))];
    let operation = daemon.operation(action.doing(), &project, resources.into());
    Ok(daemon.clone().run(operation, move |_| async move {
        let each = all.iter().map(|row| one_of_all(&cx, action, &new, row));
        let failed: Vec<String> = futures::future::join_all(each).await.into_iter().flatten().collect();
        if failed.is_empty() { Ok(()) } else { Err(Error::internal(failed.join("; "))) }
    }))
}

/// One of many; why it failed.
async fn one_of_all(cx: &Cx, action: Action, new: &InstanceStatePut, row: &db::instances::Instance) -> Option<String> {
    let done = async {
        let daemon = &cx.daemon;
        if row.member_id != daemon.member_id() {
            return elsewhere(daemon, new, row).await;
        }
        let _busy = instances::lock(daemon, row.id).await;
        let l = instances::here(daemon, row.id).await?;
        let status = daemon.instances.status(row.id);
        let needed = match action {
            Action::Start => status != StatusCode::Running,
            Action::Stop | Action::Restart => status != StatusCode::Stopped,
            Action::Freeze => status == StatusCode::Running,
            Action::Unfreeze => status == StatusCode::Frozen,
        };
        if needed { carry_out(daemon, &l, action, new, cx).await } else { Ok(()) }
    };
    done.await.err().map(|e| format!("{}: {e}", row.name))
}

async fn elsewhere(daemon: &Arc<Daemon>, new: &InstanceStatePut, row: &db::instances::Instance) -> Result<()> {
    let Some(address) = daemon.instance_address(&row.project, &row.name).await? else {
        return Err(Error::unavailable("it has moved: try again"));
    };
    let remote = daemon.remote(&address)?;
    let query = format!("project={}", api::endpoint::encode(&row.project));
    let path = api::endpoint::fill(api::instance::STATE_PUT.info.path, &[&row.name]) + "?" + &query;
    let body = serde_json::to_value(new).map_err(|e| Error::internal(e.to_string()))?;
    remote.run("PUT", &path, Some(&body)).await.map(drop)
}
