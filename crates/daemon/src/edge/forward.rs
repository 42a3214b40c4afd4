//! Sending a request on to the member that it concerns.
//!
//! Which member that is follows from the endpoint's declaration ([`At`]), the query and the database. The other
//! member trusts this one's certificate and learns from headers who asked in the first place.

use std::collections::BTreeSet;

use api::endpoint::{Allow, At, decode, encode};
use api::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::BodyExt as _;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::auth::{Caller, Trust};
use super::incoming::Incoming;
use super::reply::Body;
use super::request::Cx;

const USERNAME: HeaderName = HeaderName::from_static("x-incus-forwarded-username");
const PROTOCOL: HeaderName = HeaderName::from_static("x-incus-forwarded-protocol");
const ADDRESS: HeaderName = HeaderName::from_static("x-incus-forwarded-address");
const PROJECTS: HeaderName = HeaderName::from_static("x-incus-forwarded-projects");
const TRUST: HeaderName = HeaderName::from_static("x-incus-forwarded-trust");
const CERTIFICATE: HeaderName = HeaderName::from_static("x-incus-forwarded-certificate");

/// True if another member sends a request on.
pub fn is_forwarded(caller: &Caller, headers: &HeaderMap) -> bool {
    caller.protocol == "cluster" && headers.contains_key(&USERNAME)
}

/// The one who asked in the first place. Only another member is believed about that.
pub fn original_caller(caller: Caller, headers: &HeaderMap) -> Caller {
    let header = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let (true, Some(name)) = (caller.protocol == "cluster", header(&USERNAME)) else { return caller };
    let trust = match (header(&TRUST), header(&PROJECTS)) {
        (_, Some(projects)) => Trust::Restricted(listed(projects)),
        (Some("full"), None) => Trust::Full,
        (Some("metrics"), None) => Trust::Metrics,
        (Some("member"), None) => caller.trust,
        // Somebody without a name is nobody.
        (None, None) if !name.is_empty() => caller.trust,
        _ => Trust::None,
    };
    let protocol = match header(&PROTOCOL) {
        Some("unix") => "unix",
        Some("tls") => "tls",
        _ => "cluster",
    };
    Caller {
        trust,
        name: name.to_owned(),
        protocol,
        address: header(&ADDRESS).unwrap_or_default().to_owned(),
        certificate: header(&CERTIFICATE).and_then(|text| BASE64.decode(text).ok()),
    }
}

/// Names as one text, whatever stands in them.
pub fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| encode(name)).collect::<Vec<_>>().join(",")
}

/// Undoes [`list`].
pub fn listed(text: &str) -> BTreeSet<String> {
    text.split(',').filter(|name| !name.is_empty()).map(decode).collect()
}

/// The address of the member that serves the request, or `None` if that is this one.
pub async fn destination(cx: &Cx) -> Result<Option<String>> {
    let info = &cx.info;
    if !cx.daemon.clustered() {
        return Ok(None);
    }
    let target = cx.param("target");
    let name = match info.at {
        At::Any => return Ok(None),
        // A stranger would learn which members there are.
        At::Target if info.allow == Allow::Anyone && !cx.caller.trusted() => return Ok(None),
        At::Operation => return Ok(cx.daemon.operation_address(cx.arg(0))),
        At::Member => cx.arg(0).to_owned(),
        At::Target | At::Volume if !target.is_empty() && !target.starts_with('@') => target.to_owned(),
        At::Target => return Ok(None),
        At::Volume => return crate::services::volumes::address(&cx.daemon, cx).await,
        At::Instance => return cx.daemon.instance_address(cx.project(), cx.arg(0)).await,
        At::InstanceRecord => match cx.daemon.instance_address(cx.project(), cx.arg(0)).await {
            Err(e) if e.retryable() => return Ok(None),
            held => return held,
        },
        At::MemberOrAny => match cx.daemon.member_address(cx.arg(0)).await {
            Err(e) if e.retryable() => return Ok(None),
            held => return held,
        },
        At::Leader => return Ok(cx.daemon.leader_address()),
    };
    cx.daemon.member_address(&name).await
}

/// Sends the request to the member at `address` and gives its answer, upgraded connections included.
pub async fn send(cx: &Cx, address: &str, mut request: Request<Incoming>) -> Result<Response<Body>> {
    let upgrade = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut onward = Request::builder().method(parts.method).uri(path);
    if let Some(headers) = onward.headers_mut() {
        headers.extend(parts.headers);
        tell_caller(cx, headers);
    }
    let body = body.map_err(std::io::Error::other).boxed();
    let onward = onward.body(body).map_err(|e| Error::internal(e.to_string()))?;
    exchange(cx, address, onward, upgrade).await
}

/// Sends JSON to the member at `address` in the name of the caller, and gives its answer.
pub async fn send_json(cx: &Cx, address: &str, method: &str, path: &str, body: &Value) -> Result<Response<Body>> {
    let mut onward = Request::builder().method(method).uri(path).header(CONTENT_TYPE, "application/json");
    if let Some(headers) = onward.headers_mut() {
        tell_caller(cx, headers);
    }
    let body = serde_json::to_vec(body).map_err(|e| Error::internal(e.to_string()))?;
    let onward = onward.body(super::reply::full(body)).map_err(|e| Error::internal(e.to_string()))?;
    exchange(cx, address, onward, None).await
}

/// Tells the other member who asked in the first place.
fn tell_caller(cx: &Cx, headers: &mut HeaderMap) {
    for (name, value) in
        [(USERNAME, cx.caller.name.as_str()), (PROTOCOL, cx.caller.protocol), (ADDRESS, cx.caller.address.as_str())]
    {
        headers.insert(name, HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("")));
    }
    let trust = match &cx.caller.trust {
        Trust::None => "none",
        Trust::Metrics => "metrics",
        Trust::Restricted(_) => "restricted",
        Trust::Full => "full",
        Trust::Member => "member",
    };
    headers.insert(TRUST, HeaderValue::from_static(trust));
    headers.remove(CERTIFICATE);
    if let Some(value) = cx.caller.certificate.as_ref().and_then(|c| HeaderValue::from_str(&BASE64.encode(c)).ok()) {
        headers.insert(CERTIFICATE, value);
    }
    headers.remove(PROJECTS);
    if let Trust::Restricted(projects) = &cx.caller.trust {
        headers.insert(PROJECTS, HeaderValue::from_str(&list(projects)).unwrap_or(HeaderValue::from_static("")));
    }
}

async fn exchange(
    cx: &Cx,
    address: &str,
    onward: Request<Body>,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Result<Response<Body>> {
    if !matches!(*onward.method(), Method::GET | Method::HEAD) {
        cx.daemon.hub.hear(address).await;
    }
    let mut answer = cx.daemon.remote(address)?.send(onward).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(ours) = upgrade
    {
        let theirs = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(ours), Ok(theirs)) = (ours.await, theirs.await) {
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await;
            }
        });
    }
    let (mut parts, body) = answer.into_parts();
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        parts.headers.remove(CONNECTION);
    }
    Ok(Response::from_parts(parts, body.map_err(std::io::Error::other).boxed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_worth_as_much_on_the_member_that_answers_as_on_the_one_that_was_asked() {
        let caller = |protocol| Caller {
            trust: Trust::Member,
            name: "fingerprint".into(),
            protocol,
            address: String::new(),
            certificate: None,
        };
        for (headers, want) in [
            (&[][..], Trust::Member),
            (&[(USERNAME, ""), (TRUST, "none")], Trust::None),
            (&[(USERNAME, "")], Trust::None),
            (&[(USERNAME, "a"), (TRUST, "metrics")], Trust::Metrics),
            (&[(USERNAME, "a"), (TRUST, "full")], Trust::Full),
            (&[(USERNAME, "a"), (TRUST, "restricted"), (PROJECTS, "p,q")], {
                Trust::Restricted(["p".to_owned(), "q".to_owned()].into())
            }),
            (&[(USERNAME, "a"), (TRUST, "restricted"), (PROJECTS, "")], Trust::Restricted([].into())),
            (&[(USERNAME, "a"), (TRUST, "restricted"), (PROJECTS, "a%2Cdefault")], {
                Trust::Restricted(["a,default".to_owned()].into())
            }),
            (&[(USERNAME, "a"), (TRUST, "restricted")], Trust::None),
            (&[(USERNAME, "root"), (TRUST, "member")], Trust::Member),
        ] {
            let map = headers.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect();
            assert_eq!(original_caller(caller("cluster"), &map).trust, want, "{headers:?}");
        }
        let lie: HeaderMap = [(USERNAME, "root"), (TRUST, "member")]
            .map(|(n, v)| (n, HeaderValue::from_static(v)))
            .into_iter()
            .collect();
        let client = Caller { trust: Trust::None, ..caller("tls") };
        assert_eq!(original_caller(client.clone(), &lie), client, "only members are believed");
    }
}
