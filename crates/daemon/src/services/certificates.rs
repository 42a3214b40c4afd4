//! `/1.0/certificates`: who is trusted.

use api::certificate::{AccessEntry, Certificate, CertificatePut, CertificatesPost, TrustToken};
use api::cluster::JoinToken;
use api::endpoint::decode;
use api::key::Read as _;
use api::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use client::tls::{fingerprint, fingerprint_of};
use db::certificates::{CertificateType, NewCertificate};
use db::tokens::Kind;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Change, tokens};
use crate::edge::auth::Trust;
use crate::edge::request::json;
use crate::edge::{Body, Cx, Incoming, Router, reply};
use crate::join::hash;
use crate::pki::Verdict;

pub fn routes(r: &mut Router) {
    r.list(&api::certificate::LIST, list);
    r.raw(&api::certificate::CREATE, create);
    r.sync(&api::certificate::GET, get);
    r.sync(&api::certificate::PUT, put);
    r.sync(&api::certificate::PATCH, patch);
    r.sync(&api::certificate::DELETE, delete);
}

fn shown(c: db::certificates::Certificate) -> Certificate {
    Certificate {
        name: c.name,
        kind: c.kind.as_str().into(),
        restricted: c.restricted,
        projects: c.projects,
        certificate: c.certificate,
        description: c.description,
        fingerprint: c.fingerprint,
    }
}

fn changeable(c: &Certificate) -> CertificatePut {
    CertificatePut {
        name: c.name.clone(),
        kind: c.kind.clone(),
        restricted: c.restricted,
        projects: c.projects.clone(),
        certificate: c.certificate.clone(),
        description: c.description.clone(),
    }
}

async fn list(cx: Cx, (): ()) -> Result<Vec<Certificate>> {
    let all = cx.daemon.view(db::certificates::list).await?.into_iter().map(shown);
    Ok(all.filter(|c| visible(&cx, c)).collect())
}

/// A client that is restricted to projects sees its own certificate and no other.
fn visible(cx: &Cx, certificate: &Certificate) -> bool {
    !matches!(cx.caller.trust, Trust::Restricted(_)) || certificate.fingerprint == cx.caller.name
}

/// Whose certificates give access to a project, as far as the caller sees these.
pub async fn access(cx: &Cx, project: String) -> Result<Vec<AccessEntry>> {
    let all = cx.daemon.view(db::certificates::list).await?.into_iter();
    let clients = all.filter(|c| c.kind == CertificateType::Client).map(shown);
    let may = clients.filter(|c| (!c.restricted || c.projects.contains(&project)) && visible(cx, c));
    let role = |c: &Certificate| if c.restricted { "operator" } else { "admin" }.to_owned();
    Ok(may.map(|c| AccessEntry { role: role(&c), identifier: c.fingerprint, provider: "tls".into() }).collect())
}

async fn find(cx: &Cx) -> Result<Certificate> {
    let prefix = cx.arg(0).to_owned();
    let found = shown(cx.daemon.view(move |tx| db::certificates::get(tx, &prefix)).await?);
    if visible(cx, &found) { Ok(found) } else { Err(Error::not_found("Certificate not found")) }
}

async fn get(cx: Cx, (): ()) -> Result<Certificate> {
    let certificate = find(&cx).await?;
    cx.show_etag(&changeable(&certificate));
    Ok(certificate)
}

async fn create(cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
    let new: CertificatesPost = json(request.into_body()).await?;
    if new.token {
        return give_out_token(&cx, new).await;
    }
    let (der, pem) = shown_or_sent(&cx, &new.certificate)?;
    let print = fingerprint_of(&der);
    let kind = if new.kind.is_empty() { CertificateType::Client } else { CertificateType::parse(&new.kind)? };
    must_be_signed(&cx, &new, &der)?;
    let mut row = NewCertificate {
        fingerprint: print.clone(),
        kind,
        name: if new.name.is_empty() { print.chars().take(12).collect() } else { new.name.clone() },
        certificate: pem,
        restricted: new.restricted,
        description: new.description.clone(),
        projects: new.projects.clone().unwrap_or_default(),
    };
    if !trusts_others(&cx) {
        redeem(&cx, &new.trust_token, &mut row).await?;
    } else if kind == CertificateType::Server && cx.daemon.clustered() {
        return Err(Error::bad_request("Certificates of members are added by joining the cluster"));
    } else {
        cx.daemon.write(move |tx| db::certificates::create(tx, &row)).await?;
    }
    let url = format!("/1.0/certificates/{print}");
    cx.daemon.tell("certificate-created", url.clone(), &cx.caller);
    let mut response = reply::sync(&())?;
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(url) = HeaderValue::from_str(&url) {
        response.headers_mut().insert("location", url);
    }
    Ok(response)
}

/// Whether the caller may say who is trusted: one that is restricted to projects could otherwise have itself, by another
/// certificate, trusted with everything.
fn trusts_others(cx: &Cx) -> bool {
    matches!(cx.caller.trust, Trust::Full | Trust::Member)
}

/// With an authority nobody is trusted whose certificate it has not signed. A server that joins brings its own.
fn must_be_signed(cx: &Cx, new: &CertificatesPost, der: &[u8]) -> Result<()> {
    let joins = new.kind == CertificateType::Server.as_str() && !new.trust_token.is_empty();
    if joins || cx.daemon.pki.judge(der) != Verdict::Refused {
        return Ok(());
    }
    Err(Error::bad_request("The certificate is not signed by the authority of this server (server.ca), or was revoked"))
}

/// The certificate that the body holds, or else the one that the caller shows; in DER and PEM.
fn shown_or_sent(cx: &Cx, sent: &str) -> Result<(Vec<u8>, String)> {
    let der = match (sent, &cx.caller.certificate) {
        ("", Some(der)) => der.clone(),
        ("", None) => return Err(Error::bad_request("No client certificate provided")),
        (text, _) if text.contains("BEGIN CERTIFICATE") => client::tls::der(text)?,
        (text, _) => BASE64.decode(text).map_err(|_| Error::bad_request("Invalid certificate material: not base64"))?,
    };
    let body: Vec<u8> = BASE64.encode(&der).into_bytes();
    let lines: Vec<String> = body.chunks(64).map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    fingerprint(&pem)?;
    Ok((der, pem))
}

async fn give_out_token(cx: &Cx, new: CertificatesPost) -> Result<Response<Body>> {
    if !trusts_others(cx) {
        return Err(Error::forbidden("not authorized"));
    }
    if new.name.is_empty() {
        return Err(Error::bad_request("A name is needed for the client that the token is for"));
    }
    if !new.kind.is_empty() && CertificateType::parse(&new.kind)? == CertificateType::Server {
        return Err(Error::bad_request("Certificates of members are added by joining the cluster"));
    }
    let projects = new.projects.clone().unwrap_or_default();
    let known = move |tx: &db::Tx<'_>| projects.iter().try_for_each(|p| db::projects::get(tx, p).map(drop));
    cx.daemon.view(known).await?;
    let request = json!({
        "name": new.name, "type": if new.kind.is_empty() { "client" } else { new.kind.as_str() },
        "restricted": new.restricted, "projects": new.projects.unwrap_or_default(),
    });
    let expiry = cx.daemon.snapshot().config.read(&api::keys::server::REMOTE_TOKEN_EXPIRY);
    let body = [("request".to_owned(), request)].into_iter().collect();
    let token = tokens::New { kind: Kind::Trust, name: new.name, expiry, body };
    let operation = tokens::give_out(&cx.daemon, token).await?;
    cx.daemon.tell("certificate-token-created", "/1.0/certificates".into(), &cx.caller);
    reply::operation(&operation.view())
}

/// Uses up a token and trusts the certificate, in one transaction.
async fn redeem(cx: &Cx, token: &str, row: &mut NewCertificate) -> Result<()> {
    let refused = || Error::forbidden("not authorized");
    let bytes = BASE64.decode(decode(token).trim()).map_err(|_| refused())?;
    let (kind, name, secret) = if let Ok(join) = serde_json::from_slice::<JoinToken>(&bytes) {
        (Kind::Join, join.server_name, join.secret)
    } else {
        let trust: TrustToken = serde_json::from_slice(&bytes).map_err(|_| refused())?;
        (Kind::Trust, trust.client_name, trust.secret)
    };
    // What the token was given out for counts, not what the bearer asks for.
    row.name.clone_from(&name);
    row.kind = if kind == Kind::Join { CertificateType::Server } else { CertificateType::Client };
    (row.restricted, row.projects) = (false, Vec::new());
    let (row, hash, now) = (row.clone(), hash(&secret), Timestamp::now());
    let used = cx
        .daemon
        .write(move |tx| {
            let used = db::tokens::redeem(tx, kind, Some(&name), &hash, now)?.ok_or_else(refused)?;
            let mut row = row.clone();
            let request = &used.body["request"];
            if let Some(wanted) = request["type"].as_str() {
                row.kind = CertificateType::parse(wanted)?;
            }
            row.restricted = request["restricted"].as_bool().unwrap_or(false);
            row.projects = serde_json::from_value(request["projects"].clone()).unwrap_or_default();
            db::certificates::create(tx, &row)?;
            Ok(used.operation)
        })
        .await?;
    cx.daemon.operations.end_token(&used);
    Ok(())
}

async fn put(cx: Cx, new: CertificatePut) -> Result<()> {
    change(&cx, Change::Put(new)).await
}

async fn patch(cx: Cx, new: Value) -> Result<()> {
    change(&cx, Change::Patch(new)).await
}

async fn change(cx: &Cx, change: Change<CertificatePut>) -> Result<()> {
    let (found, request, clustered) = (find(cx).await?.fingerprint, cx.clone(), cx.daemon.clustered());
    let written = cx.daemon.write(move |tx| {
        let row = db::certificates::get(tx, &found)?;
        let (id, old) = (row.id, shown(row));
        let new = change.of(&request, &changeable(&old))?;
        let pem = if new.certificate.is_empty() { old.certificate } else { new.certificate };
        let row = NewCertificate {
            fingerprint: fingerprint(&pem)?,
            kind: CertificateType::parse(&new.kind)?,
            name: new.name,
            certificate: pem,
            restricted: new.restricted,
            description: new.description,
            projects: new.projects,
        };
        let member = |kind: CertificateType| kind == CertificateType::Server;
        let other = row.kind.as_str() != old.kind || row.fingerprint != old.fingerprint;
        if clustered && other && (member(row.kind) || member(CertificateType::parse(&old.kind)?)) {
            return Err(Error::bad_request("Certificates of members come and go with them"));
        }
        db::certificates::update(tx, id, &row)
    });
    written.await?;
    cx.daemon.tell("certificate-updated", format!("/1.0/certificates/{}", cx.arg(0)), &cx.caller);
    Ok(())
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    let certificate = find(&cx).await?;
    let (print, clustered) = (certificate.fingerprint.clone(), cx.daemon.clustered());
    cx.daemon
        .write(move |tx| {
            let found = db::certificates::get(tx, &print)?;
            // One that a join token was used for, and no member came of it, is nobody's.
            let of_member = found.kind == CertificateType::Server && db::members::id(tx, &found.name).is_ok();
            if of_member && clustered {
                return Err(Error::bad_request("The certificate of a member goes with it: remove the member"));
            }
            db::certificates::delete(tx, found.id)
        })
        .await?;
    cx.daemon.tell("certificate-deleted", format!("/1.0/certificates/{}", certificate.fingerprint), &cx.caller);
    Ok(())
}
