//! Whether a request is let in, and what its answer holds back: what a client is restricted to is decided here, once for
//! all endpoints. [`super::auth`] has the rules that need nothing but the caller and the endpoint's declaration.

use api::endpoint::{Allow, Method};
use api::key::Read as _;
use api::keys::server::METRICS_AUTHENTICATION;
use api::{Error, Info, Kind, Result};
use client::tls::fingerprint_of;
use db::projects::{DEFAULT, Feature, holder};
use hyper::{Response, StatusCode};
use serde_json::Value;

use super::auth::{self, Caller, Trust};
use super::reply::Body;
use super::request::{Cx, parse_query};

/// Refuses a request that the caller may not make. It is not looked whether what the request is about exists.
pub async fn check(cx: &Cx) -> Result<()> {
    let info = &cx.info;
    let restricted = matches!(cx.caller.trust, Trust::Restricted(_));
    if restricted && cx.flag("all-projects") {
        return Err(auth::restricted());
    }
    let open = info.allow == Allow::Metrics && !cx.daemon.snapshot().config.read(&METRICS_AUTHENTICATION);
    let allow = if open { Allow::Anyone } else { info.allow };
    auth::check(&cx.caller.trust, allow, cx.project())?;
    match changed(info) {
        Some(feature) if restricted => check_holder(cx, feature, cx.project()).await,
        _ => Ok(()),
    }
}

/// Whether a request that was let in would be let in now: its caller may have lost trust, or the member that has sent it
/// on.
pub async fn still(cx: &Cx) -> bool {
    if would_be(cx).await {
        return true;
    }
    // The member that let it in may know more than this one.
    let _ = cx.daemon.newest().await;
    would_be(cx).await
}

async fn would_be(cx: &Cx) -> bool {
    if let Some(carrier) = &cx.carrier
        && worth(cx, carrier).await != Trust::Member
    {
        return false;
    }
    let now = worth(cx, &cx.caller).await;
    if now.covers(&cx.caller.trust) {
        return true;
    }
    match cx.info.allow {
        // All that it does is done in its project.
        Allow::Project => {
            let caller = Caller { trust: now, ..cx.caller.clone() };
            !check(&Cx { caller, ..cx.clone() }).await.is_err_and(|e| e.kind == Kind::Forbidden)
        }
        // What it may do goes by the secret, and the operation ends with the trust in whoever began it.
        Allow::Anyone if cx.info.path == api::operation::WEBSOCKET.info.path => now != Trust::None,
        // What it shows goes by what the caller was worth.
        _ => false,
    }
}

/// What a caller is worth now.
async fn worth(cx: &Cx, caller: &Caller) -> Trust {
    match &caller.certificate {
        Some(certificate) => cx.daemon.trust_of(certificate, &fingerprint_of(certificate)).await.unwrap_or(Trust::None),
        None => caller.trust.clone(),
    }
}

/// Refuses a restricted caller who would change things that one project has from another: who may use a project reads
/// them there, but others have them too.
pub async fn check_holder(cx: &Cx, feature: Feature, project: &str) -> Result<()> {
    let asked = project.to_owned();
    match cx.daemon.view(move |tx| holder(tx, &asked, feature)).await {
        Ok(holder) => auth::check(&cx.caller.trust, Allow::Project, &holder),
        // The handler says that there is no such project.
        Err(e) if e.kind == Kind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// What an endpoint changes that projects may have from the default one.
fn changed(info: &Info) -> Option<Feature> {
    // A secret changes nothing: with it others read what the caller may read.
    if matches!(info.method, Method::GET | Method::HEAD) || info.path == api::image::SECRET.info.path {
        return None;
    }
    let all = [
        ("/1.0/profiles", Feature::Profiles),
        ("/1.0/images", Feature::Images),
        ("/1.0/storage-pools/{pool}/volumes", Feature::Volumes),
    ];
    all.into_iter().find(|(path, _)| info.path.starts_with(path)).map(|(_, feature)| feature)
}

/// The answer to one who knocks at the websocket of an operation that may not be theirs: without a secret that is good
/// they don't learn whether there is such an operation, nor whether its member answers.
pub fn answered(cx: &Cx, answer: Result<Response<Body>>) -> Result<Response<Body>> {
    let hidden =
        cx.info.path == api::operation::WEBSOCKET.info.path && !auth::may(&cx.caller.trust, Allow::Admin, cx.project());
    match answer {
        Ok(answer) if hidden && answer.status() != StatusCode::SWITCHING_PROTOCOLS => {
            Err(Error::forbidden("not authorized"))
        }
        Err(_) if hidden => Err(Error::forbidden("not authorized")),
        answer => answer,
    }
}

/// A value without what the caller may not see: what uses a thing that several projects have.
pub fn visible(trust: &Trust, mut value: Value) -> Value {
    if let (Trust::Restricted(projects), Some(Value::Array(users))) = (trust, value.get_mut("used_by")) {
        users.retain(|user| user.as_str().is_some_and(|url| projects.contains(&project_of(url))));
    }
    value
}

fn project_of(url: &str) -> String {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    parse_query(query).remove("project").unwrap_or_else(|| DEFAULT.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_restricted_client_does_not_see_who_else_uses_a_thing() {
        let users = json!({"name": "a", "used_by": ["/1.0/instances/c1", "/1.0/instances/c2?project=own",
            "/1.0/storage-pools/local/volumes/custom/v?project=own&target=server1", "/1.0/instances/c3?project=other"]});
        let own = Trust::Restricted(["own".to_owned()].into());
        let seen = visible(&own, users.clone());
        assert_eq!(
            seen["used_by"],
            json!([
                "/1.0/instances/c2?project=own",
                "/1.0/storage-pools/local/volumes/custom/v?project=own&target=server1"
            ])
        );
        assert_eq!(visible(&Trust::Full, users.clone()), users);
        let none = visible(&Trust::Restricted(BTreeSet::new()), users);
        assert_eq!((none["used_by"].clone(), none["name"].clone()), (json!([]), json!("a")));
    }

    #[test]
    fn what_is_shared_is_changed_by_those_who_may_use_the_project_that_has_it() {
        for (info, want) in [
            (api::profile::GET.info, None),
            (api::profile::CREATE.info, Some(Feature::Profiles)),
            (api::image::ALIAS_PUT.info, Some(Feature::Images)),
            (api::image::SECRET.info, None),
            (api::volume::SNAPSHOT_CREATE.info, Some(Feature::Volumes)),
            (api::instance::PUT.info, None),
        ] {
            assert_eq!(changed(&info), want, "{}", info.path);
        }
    }
}
