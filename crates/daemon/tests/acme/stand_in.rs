//! An authority that speaks enough of ACME (RFC 8555) to sign certificates, on a machine of a lab: over TLS with a
//! certificate of its own, with accounts, signatures and nonces that it checks, and challenges that it fetches itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use lab::{Machine, Result};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const PORT: u16 = 14000;

/// What it knows and what is wanted of it.
#[derive(Default)]
pub struct State {
    /// The addresses at which a domain is looked for: all have to answer.
    pub addresses: Vec<String>,
    /// From when until when certificates are valid, in days from now.
    pub valid: (i64, i64),
    /// How many were signed.
    pub signed: usize,
    /// How many accounts there are.
    pub accounts: Vec<Value>,
    nonces: BTreeSet<String>,
    orders: Vec<Order>,
}

#[derive(Clone)]
struct Order {
    domain: String,
    token: String,
    thumbprint: String,
    status: &'static str,
    error: String,
    certificate: String,
}

pub struct Authority {
    pub state: Arc<Mutex<State>>,
    /// Its own certificate, which its clients have to trust.
    pub root: String,
    url: String,
}

impl Authority {
    pub fn directory(&self) -> String {
        format!("{}/directory", self.url)
    }
}

/// What an authority is made of, before there is a machine for it.
pub struct Root {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Root {
    pub fn new() -> Root {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "stand-in for an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Root { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// Opens for business on a machine.
    pub fn serve(self, machine: &Machine) -> Result<Authority> {
        let address = machine.address();
        let key = KeyPair::generate()?;
        let own = CertificateParams::new(vec![address.clone()])?.signed_by(&key, &self.issuer)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(own.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| e.to_string())?,
            )?;
        let (tls, state) = (Arc::new(tls), Arc::new(Mutex::new(State { valid: (-1, 90), ..State::default() })));
        let server =
            Arc::new(Server { state: state.clone(), issuer: self.issuer, url: format!("https://{address}:{PORT}") });
        let url = server.url.clone();
        let network = std::fs::File::open(format!("/proc/{}/ns/net", machine.init()?))?;
        let (ready, is_ready) = std::sync::mpsc::channel();
        // This thread, and those that it starts, are on the machine.
        std::thread::spawn(move || -> Result<()> {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            let listener = TcpListener::bind(("0.0.0.0", PORT))?;
            ready.send(())?;
            for stream in listener.incoming().flatten() {
                let (server, tls) = (server.clone(), tls.clone());
                std::thread::spawn(move || -> Result<()> {
                    server.answer(rustls::StreamOwned::new(rustls::ServerConnection::new(tls)?, stream))
                });
            }
            Ok(())
        });
        is_ready.recv_timeout(Duration::from_secs(10)).map_err(|_| "the authority does not listen")?;
        Ok(Authority { state, root: self.pem, url })
    }
}

struct Server {
    state: Arc<Mutex<State>>,
    issuer: Issuer<'static, KeyPair>,
    url: String,
}

/// Status, where it is, body.
type Answer = (u16, String, Value);

fn problem(kind: &str, detail: &str) -> Answer {
    (
        400,
        String::new(),
        json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": 400 }),
    )
}

impl Server {
    fn answer(&self, mut stream: rustls::StreamOwned<rustls::ServerConnection, TcpStream>) -> Result<()> {
        let mut reader = BufReader::new(&mut stream);
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? <= 2 {
                break;
            }
            if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let (status, location, value) = match path.as_str() {
            "/directory" => (200, String::new(), self.directory()),
            "/nonce" => (200, String::new(), Value::Null),
            _ => self.post(&path, &body).unwrap_or_else(|e| problem("malformed", &e.to_string())),
        };
        let nonce = BASE64.encode(Sha256::digest(format!("{:?}", std::time::Instant::now())));
        self.state.lock().unwrap().nonces.insert(nonce.clone());
        let body = match &value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            value => value.to_string(),
        };
        let mut head = format!(
            "HTTP/1.1 {status} X\r\nConnection: close\r\nReplay-Nonce: {nonce}\r\nContent-Length: {}\r\n",
            body.len()
        );
        if !location.is_empty() {
            head += &format!("Location: {location}\r\n");
        }
        let head_only = first.starts_with("HEAD");
        stream.write_all(format!("{head}\r\n{}", if head_only { "" } else { &body }).as_bytes())?;
        stream.flush()?;
        Ok(())
    }

    fn directory(&self) -> Value {
        let at = |path: &str| format!("{}/{path}", self.url);
        json!({ "newNonce": at("nonce"), "newAccount": at("account"), "newOrder": at("order"), "revokeCert": at("revoke") })
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<Answer> {
        let (header, payload) = match self.signed(path, body)? {
            Ok(read) => read,
            Err(refused) => return Ok(refused),
        };
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let number = || -> Result<usize> { Ok(parts.get(1).ok_or("no number")?.parse()?) };
        match parts[0] {
            "account" => self.account(&header, &payload),
            "order" if parts.len() == 1 => self.order(&header, &payload),
            "order" => Ok((200, String::new(), self.shown(number()?))),
            "authz" => Ok((200, String::new(), self.authorization(number()?))),
            "challenge" => self.challenge(number()?),
            "finalize" => self.finalize(number()?, &payload),
            "certificate" => {
                let state = self.state.lock().unwrap();
                Ok((200, String::new(), state.orders[number()?].certificate.clone().into()))
            }
            _ => Ok((
                404,
                String::new(),
                json!({ "type": "urn:ietf:params:acme:error:malformed", "detail": "no such thing" }),
            )),
        }
    }

    /// The protected header and the payload, if the signature is that of the key that is named.
    fn signed(&self, path: &str, body: &[u8]) -> Result<std::result::Result<(Value, Value), Answer>> {
        let jws: Value = serde_json::from_slice(body)?;
        let text = |name: &str| jws[name].as_str().unwrap_or_default();
        let header: Value = serde_json::from_slice(&BASE64.decode(text("protected"))?)?;
        if !self.state.lock().unwrap().nonces.remove(header["nonce"].as_str().unwrap_or_default()) {
            return Ok(Err(problem("badNonce", "that nonce was not given out, or is used up")));
        }
        if header["url"] != format!("{}{path}", self.url) || header["alg"] != "ES256" {
            return Ok(Err(problem("malformed", "the header is not for this")));
        }
        let key = match header["kid"].as_str() {
            None => header["jwk"].clone(),
            Some(kid) => {
                let number: usize = kid.rsplit('/').next().unwrap_or_default().parse()?;
                let state = self.state.lock().unwrap();
                state.accounts.get(number).map(|a| a["jwk"].clone()).ok_or("no such account")?
            }
        };
        let coordinate = |name: &str| BASE64.decode(key[name].as_str().unwrap_or_default());
        let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
        let public = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
        let message = format!("{}.{}", text("protected"), text("payload"));
        if public.verify(message.as_bytes(), &BASE64.decode(text("signature"))?).is_err() {
            return Ok(Err(problem("unauthorized", "the signature is wrong")));
        }
        let payload = BASE64.decode(text("payload"))?;
        let payload = if payload.is_empty() { Value::Null } else { serde_json::from_slice(&payload)? };
        Ok(Ok((json!({ "jwk": key, "kid": header["kid"] }), payload)))
    }

    fn account(&self, header: &Value, payload: &Value) -> Result<Answer> {
        if payload["termsOfServiceAgreed"] != true {
            return Ok(problem("userActionRequired", "the terms have to be agreed to"));
        }
        let contact = payload["contact"][0].as_str().unwrap_or_default();
        if !contact.starts_with("mailto:") || contact.ends_with("@refused.example") {
            return Ok(problem("invalidContact", "nobody is reached there"));
        }
        let mut state = self.state.lock().unwrap();
        state.accounts.push(json!({ "jwk": header["jwk"], "contact": contact }));
        let url = format!("{}/account/{}", self.url, state.accounts.len() - 1);
        Ok((201, url, json!({ "status": "valid", "contact": [contact] })))
    }

    fn order(&self, header: &Value, payload: &Value) -> Result<Answer> {
        let jwk = &header["jwk"];
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
        let mut state = self.state.lock().unwrap();
        let number = state.orders.len();
        state.orders.push(Order {
            domain: payload["identifiers"][0]["value"].as_str().ok_or("no name")?.to_owned(),
            token: BASE64.encode(Sha256::digest(format!("token {number}"))),
            thumbprint: BASE64.encode(Sha256::digest(canonical)),
            status: "pending",
            error: String::new(),
            certificate: String::new(),
        });
        drop(state);
        Ok((201, format!("{}/order/{number}", self.url), self.shown(number)))
    }

    fn shown(&self, number: usize) -> Value {
        let order = self.state.lock().unwrap().orders[number].clone();
        let mut shown = json!({
            "status": order.status, "identifiers": [{ "type": "dns", "value": order.domain }],
            "authorizations": [format!("{}/authz/{number}", self.url)],
            "finalize": format!("{}/finalize/{number}", self.url),
        });
        if order.status == "valid" {
            shown["certificate"] = format!("{}/certificate/{number}", self.url).into();
        }
        shown
    }

    fn authorization(&self, number: usize) -> Value {
        let order = self.state.lock().unwrap().orders[number].clone();
        let status = match order.status {
            "ready" => "valid",
            other => other,
        };
        let mut challenge = json!({
            "type": "http-01", "url": format!("{}/challenge/{number}", self.url), "token": order.token, "status": status,
        });
        if !order.error.is_empty() {
            challenge["error"] = json!({ "type": "urn:ietf:params:acme:error:unauthorized", "detail": order.error });
        }
        json!({ "status": status, "identifier": { "type": "dns", "value": order.domain }, "challenges": [challenge] })
    }

    /// Looks at all addresses of the domain whether the right thing stands there.
    fn challenge(&self, number: usize) -> Result<Answer> {
        let (order, addresses) = {
            let state = self.state.lock().unwrap();
            (state.orders[number].clone(), state.addresses.clone())
        };
        let want = format!("{}.{}", order.token, order.thumbprint);
        let mut wrong: BTreeMap<String, String> = BTreeMap::new();
        for address in &addresses {
            match fetch(address, &order.domain, &order.token) {
                Ok(found) if found == want => {}
                Ok(found) => drop(wrong.insert(address.clone(), format!("it answers {found:?}"))),
                Err(e) => drop(wrong.insert(address.clone(), e.to_string())),
            }
        }
        let mut state = self.state.lock().unwrap();
        let at = &mut state.orders[number];
        match wrong.iter().next() {
            None => at.status = "ready",
            Some((address, why)) => {
                at.status = "invalid";
                at.error = format!("{address} does not prove it: {why}");
            }
        }
        drop(state);
        let challenge = self.authorization(number)["challenges"][0].clone();
        Ok((200, String::new(), challenge))
    }

    fn finalize(&self, number: usize, payload: &Value) -> Result<Answer> {
        let der = BASE64.decode(payload["csr"].as_str().ok_or("no request")?)?;
        let mut csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))?;
        let mut state = self.state.lock().unwrap();
        if state.orders[number].status != "ready" {
            return Ok(problem("orderNotReady", "the domain is not proved"));
        }
        let day = |n: i64| {
            let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * n);
            let date = at.to_zoned_datetime(jiff::tz::TimeZone::UTC).date();
            rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
        };
        (csr.params.not_before, csr.params.not_after) = (day(state.valid.0), day(state.valid.1));
        csr.params.serial_number = Some(rcgen::SerialNumber::from(u64::try_from(number)? + 1000));
        let certificate = csr.signed_by(&self.issuer)?;
        state.signed += 1;
        state.orders[number].status = "valid";
        state.orders[number].certificate = certificate.pem();
        drop(state);
        Ok((200, String::new(), self.shown(number)))
    }
}

fn fetch(address: &str, domain: &str, token: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(5))?;
    let request =
        format!("GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {domain}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("half an answer")?;
    if head.starts_with("HTTP/1.1 200") {
        Ok(body.to_owned())
    } else {
        Err(head.lines().next().unwrap_or("nothing").into())
    }
}
