//! `/1.0/warnings`.

use api::warning::{Warning, WarningPut};
use api::{Error, Result};
use db::Tx;
use db::warnings::Status;
use jiff::Timestamp;

use crate::edge::{Cx, Router};

pub fn routes(r: &mut Router) {
    r.list(&api::warning::LIST, list);
    r.sync(&api::warning::GET, get);
    r.sync(&api::warning::PUT, put);
    r.sync(&api::warning::PATCH, put);
    r.sync(&api::warning::DELETE, delete);
}

fn shown(tx: &Tx<'_>, w: db::warnings::Warning) -> Result<Warning> {
    let entity_url = match w.entity {
        Some((entity, id)) => db::used_by::entity_url(tx, entity, id)?,
        None => String::new(),
    };
    Ok(Warning {
        status: w.status.as_str().into(),
        uuid: w.uuid,
        location: w.member.unwrap_or_default(),
        project: w.project.unwrap_or_default(),
        kind: w.kind.as_str().into(),
        count: w.count,
        first_seen_at: w.first_seen,
        last_seen_at: w.last_seen,
        last_message: w.message,
        severity: w.kind.severity().as_str().into(),
        entity_url,
    })
}

async fn list(cx: Cx, (): ()) -> Result<Vec<Warning>> {
    let project = (!cx.param("project").is_empty()).then(|| cx.project().to_owned());
    cx.daemon
        .view(move |tx| db::warnings::list(tx, project.as_deref())?.into_iter().map(|w| shown(tx, w)).collect())
        .await
}

async fn get(cx: Cx, (): ()) -> Result<Warning> {
    let uuid = cx.arg(0).to_owned();
    cx.daemon.view(move |tx| shown(tx, db::warnings::get(tx, &uuid)?)).await
}

async fn put(cx: Cx, new: WarningPut) -> Result<()> {
    let status = match new.status.as_str() {
        "new" => Status::New,
        "acknowledged" => Status::Acknowledged,
        other => {
            return Err(Error::bad_request(format!(
                "Invalid warning status \"{other}\": it can be set to \"new\" or \"acknowledged\""
            )));
        }
    };
    let (uuid, now) = (cx.arg(0).to_owned(), Timestamp::now());
    cx.daemon.write(move |tx| db::warnings::set_status(tx, &uuid, status, now)).await?;
    let action = if status == Status::Acknowledged { "warning-acknowledged" } else { "warning-reset" };
    cx.daemon.tell(action, format!("/1.0/warnings/{}", cx.arg(0)), &cx.caller);
    Ok(())
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    let uuid = cx.arg(0).to_owned();
    cx.daemon.write(move |tx| db::warnings::delete(tx, &uuid)).await?;
    cx.daemon.tell("warning-deleted", format!("/1.0/warnings/{}", cx.arg(0)), &cx.caller);
    Ok(())
}
