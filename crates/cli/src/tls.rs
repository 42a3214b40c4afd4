//! Who we are to a server (our certificate) and whom we trust (the certificate kept for the remote).

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use api::{Error, Result, error::Context};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::WebPkiServerVerifier,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use sha2::{Digest, Sha256};

use crate::config::Config;

/// What a server's certificate must be.
#[derive(Clone)]
pub enum Expect {
    /// Exactly this one.
    Pinned(Vec<u8>),
    /// Any; the caller looks at it afterwards.
    Any(Arc<Mutex<Option<Vec<u8>>>>),
    /// One that an authority vouches for.
    Vouched(Arc<WebPkiServerVerifier>),
}

/// What the authorities that this machine trusts, and the one in `client.ca`, vouch for.
pub fn vouched(config: &Config) -> Result<Expect> {
    let failed = |e: &dyn std::fmt::Display| Error::internal(format!("Failed to set up TLS: {e}"));
    let mut roots = client::web::roots();
    let own = config.path("client.ca");
    if own.exists() {
        let unusable = |e| Error::bad_request(format!("{} is no authority: {e}", own.display()));
        roots.add(read_cert(&own)?.into()).map_err(unusable)?;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::new(ring::default_provider())).build();
    verifier.map(Expect::Vouched).map_err(|e| failed(&e))
}

/// The TLS configuration for a remote: our certificate if we have one, and what we expect of the server's.
pub fn client_config(config: &Config, expect: Expect) -> Result<Arc<ClientConfig>> {
    client_config_with(&config.path("client.crt"), &config.path("client.key"), expect)
}

/// The same with the certificate and key of these files, if they exist.
pub fn client_config_with(cert: &Path, key: &Path, expect: Expect) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Verifier { expect, provider: Arc::clone(&provider) });
    let failed = |e: rustls::Error| Error::internal(format!("Failed to set up TLS: {e}"));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let tls = if cert.exists() && key.exists() {
        builder.with_client_auth_cert(vec![read_cert(cert)?.into()], read_key(key)?).map_err(failed)?
    } else {
        builder.with_no_client_auth()
    };
    Ok(Arc::new(tls))
}

/// Makes `client.crt` and `client.key` unless they are there; true if they were made.
pub fn ensure_client_cert(config: &Config) -> Result<bool> {
    let there = || config.path("client.crt").exists() && config.path("client.key").exists();
    if there() {
        return Ok(false);
    }
    // Two that begin at the same time get one certificate, not the key of another one.
    let _one = config.lock()?;
    if there() {
        return Ok(false);
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let user = std::env::var("USER").unwrap_or_else(|_| "root".into());
    let (cert, key) = generate(&user, &host)?;
    config.write("client.crt", cert.as_bytes(), 0o644)?;
    config.write("client.key", key.as_bytes(), 0o600)?;
    Ok(true)
}

fn generate(user: &str, host: &str) -> Result<(String, String)> {
    let failed = |e: rcgen::Error| Error::internal(format!("Failed to generate the client certificate: {e}"));
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).map_err(failed)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Linux Containers");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("{user}@{host}"));
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature, rcgen::KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let now = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC).date();
    let ymd = |d: jiff::civil::Date, years: i32| {
        rcgen::date_time_ymd(i32::from(d.year()) + years, d.month().unsigned_abs(), d.day().unsigned_abs().min(28))
    };
    let yesterday = now.yesterday().unwrap_or(now);
    (params.not_before, params.not_after) = (ymd(yesterday, 0), ymd(now, 10));
    let cert = params.self_signed(&key).map_err(failed)?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// The first certificate in a PEM file, as DER.
pub fn read_cert(path: &Path) -> Result<Vec<u8>> {
    let text = fs::read_to_string(path).context(format!("Unable to read {}", path.display()))?;
    pem(&text, |label| label == "CERTIFICATE")
        .map(|(_, der)| der)
        .ok_or_else(|| Error::bad_request(format!("{} holds no certificate", path.display())))
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = fs::read_to_string(path).context(format!("Unable to read {}", path.display()))?;
    let none = || Error::bad_request(format!("{} holds no private key", path.display()));
    let (label, der) = pem(&text, |label| label.ends_with("PRIVATE KEY")).ok_or_else(none)?;
    Ok(match label.as_str() {
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(der.into()),
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(der.into()),
        _ => PrivateKeyDer::Pkcs8(der.into()),
    })
}

fn pem(text: &str, wanted: impl Fn(&str) -> bool) -> Option<(String, Vec<u8>)> {
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once("-----BEGIN ")?;
        let (label, after) = after.split_once("-----")?;
        let (body, after) = after.split_once("-----END ")?;
        rest = after;
        if wanted(label) {
            let packed: String = body.chars().filter(|c| !c.is_whitespace()).collect();
            return Some((label.to_owned(), BASE64_STANDARD.decode(packed).ok()?));
        }
    }
}

/// A certificate as PEM.
pub fn to_pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}

/// The fingerprint of a certificate: SHA-256 in hexadecimal.
pub fn fingerprint(der: &[u8]) -> String {
    hex::encode(Sha256::digest(der))
}

#[derive(Debug)]
struct Verifier {
    expect: Expect,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Expect::Pinned(_) => "Pinned",
            Expect::Any(_) => "Any",
            Expect::Vouched(_) => "Vouched",
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer,
        others: &[CertificateDer],
        name: &ServerName,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.expect {
            Expect::Pinned(want) if want == cert.as_ref() => Ok(ServerCertVerified::assertion()),
            Expect::Pinned(_) => Err(rustls::Error::General(
                "the server's certificate is not the one that was accepted for this remote; if it was renewed, \
                 remove the remote and add it again"
                    .into(),
            )),
            Expect::Vouched(authorities) => {
                authorities.verify_server_cert(cert, others, name, ocsp, now).map_err(|e| {
                    rustls::Error::General(format!(
                        "no certificate is kept for this remote, and no authority vouches for the one that the server \
                         shows ({e}); remove the remote and add it again"
                    ))
                })
            }
            Expect::Any(seen) => {
                if let Ok(mut seen) = seen.lock() {
                    *seen = Some(cert.to_vec());
                }
                Ok(ServerCertVerified::assertion())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_generated_certificate_is_read_back() {
        let (cert, key) = generate("root", "box").unwrap();
        let (_, der) = pem(&cert, |l| l == "CERTIFICATE").unwrap();
        assert_eq!(to_pem(&der), cert.replace("\r\n", "\n"));
        assert!(pem(&key, |l| l.ends_with("PRIVATE KEY")).is_some());
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(parsed.subject().to_string().contains("root@box"));
    }

    #[test]
    fn clients_that_begin_together_share_one_certificate() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let config = Config::load_from(dir.path().to_owned()).unwrap();
                    ensure_client_cert(&config).unwrap();
                    config.change(|_| Ok(())).unwrap();
                    // It refuses a key of another certificate.
                    client_config(&config, Expect::Any(Arc::default())).unwrap();
                });
            }
        });
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["client.crt", "client.key", "config.yml"]);
    }
}
