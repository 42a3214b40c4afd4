//! Certificates, and TLS where trust is a matter of fingerprints.
//!
//! Neither side asks an authority. The client knows the certificate that the server must show; the server learns
//! which certificate the client holds the key of, and decides itself what that is worth.

use std::sync::Arc;

use api::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use sha2::{Digest as _, Sha256};

/// A certificate and its key, both in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key; never logged.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.fingerprint().unwrap_or_default())
    }
}

impl Identity {
    /// A new self-signed ECDSA P-384 certificate, good for ten years, for a server at `hosts`.
    pub fn generate(common_name: &str, hosts: &[String]) -> Result<Identity> {
        let failed = |e: rcgen::Error| Error::internal(format!("Making a certificate: {e}"));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).map_err(failed)?;
        let mut params = rcgen::CertificateParams::new(hosts.to_vec()).map_err(failed)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Linux Containers");
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature, rcgen::KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let today = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC).date();
        let day = |years: i32| {
            let day = today.day().unsigned_abs().clamp(1, 28);
            rcgen::date_time_ymd(i32::from(today.year()) + years, today.month().unsigned_abs(), day)
        };
        // A clock that is a little behind somewhere must not make it invalid: it starts in the past.
        params.not_before = day(-1);
        params.not_after = day(10);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// SHA-256 of the certificate, in hex.
    pub fn fingerprint(&self) -> Result<String> {
        fingerprint(&self.certificate)
    }

    /// When the certificate ends.
    pub fn ends(&self) -> Result<jiff::Timestamp> {
        let der = der(&self.certificate)?;
        let unreadable = |e: &dyn std::fmt::Display| Error::bad_request(format!("Unreadable certificate: {e}"));
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| unreadable(&e))?;
        jiff::Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|e| unreadable(&e))
    }

    /// Refuses if the key is not that of the certificate, or if the certificate is not valid at that time.
    pub fn check(&self, now: jiff::Timestamp) -> Result<()> {
        server_config(self)?;
        let der = der(&self.certificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|e| Error::bad_request(format!("Unreadable certificate: {e}")))?;
        let day = |t: x509_parser::time::ASN1Time| {
            jiff::Timestamp::from_second(t.timestamp()).map_or_else(|_| t.to_string(), |t| t.to_string())
        };
        let validity = parsed.validity();
        if validity.not_after.timestamp() < now.as_second() {
            return Err(Error::bad_request(format!("The certificate expired on {}", day(validity.not_after))));
        }
        if validity.not_before.timestamp() > now.as_second() {
            return Err(Error::bad_request(format!(
                "The certificate is not valid before {}",
                day(validity.not_before)
            )));
        }
        Ok(())
    }

    fn chain(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| Error::bad_request(format!("Unreadable certificate: {e}")))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|e| Error::bad_request(format!("Unreadable private key: {e}")))?;
        Ok((chain, key))
    }
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The host names that it is for.
    pub names: Vec<String>,
    /// When it begins to be valid.
    pub from: jiff::Timestamp,
    /// When it ends.
    pub until: jiff::Timestamp,
}

/// What the first certificate in a PEM text says of itself.
pub fn about(pem: &str) -> Result<About> {
    let der = der(pem)?;
    let unreadable = |e: &dyn std::fmt::Display| Error::bad_request(format!("Unreadable certificate: {e}"));
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| unreadable(&e))?;
    let at = |t: x509_parser::time::ASN1Time| jiff::Timestamp::from_second(t.timestamp()).map_err(|e| unreadable(&e));
    let others = parsed.subject_alternative_name().map_err(|e| unreadable(&e))?;
    let name = |n: &x509_parser::extensions::GeneralName<'_>| match n {
        x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    let names = others.map(|o| o.value.general_names.iter().filter_map(name).collect()).unwrap_or_default();
    Ok(About { names, from: at(parsed.validity().not_before)?, until: at(parsed.validity().not_after)? })
}

/// SHA-256 of the first certificate in a PEM text, in hex.
pub fn fingerprint(pem: &str) -> Result<String> {
    Ok(fingerprint_of(&der(pem)?))
}

/// The first certificate in a PEM text, in DER.
pub fn der(pem: &str) -> Result<Vec<u8>> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|der| der.to_vec())
        .map_err(|e| Error::bad_request(format!("Unreadable certificate: {e}")))
}

/// SHA-256 of a certificate in DER, in hex.
pub fn fingerprint_of(der: &[u8]) -> String {
    hex::encode(Sha256::digest(der))
}

/// The configuration of a client that only accepts the server certificate with this fingerprint.
pub fn client_config(server: &str, own: Option<&Identity>) -> Result<Arc<ClientConfig>> {
    client_config_for(&[server], own)
}

/// The configuration of a client that accepts the server certificates with these fingerprints.
pub fn client_config_for(servers: &[&str], own: Option<&Identity>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let fingerprints = servers.iter().map(|s| s.to_ascii_lowercase()).collect();
    let verifier = Pinned { fingerprints, provider: provider.clone() };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(Arc::new(match own {
        Some(own) => {
            let (chain, key) = own.chain()?;
            builder.with_client_auth_cert(chain, key).map_err(tls_error)?
        }
        None => builder.with_no_client_auth(),
    }))
}

/// The configuration of a server that asks clients for a certificate, and takes any whose key they hold.
pub fn server_config(own: &Identity) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(ring::default_provider());
    let (chain, key) = own.chain()?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(tls_error)?
        .with_client_cert_verifier(Arc::new(AnyClient { provider }))
        .with_single_cert(chain, key)
        .map_err(|e| Error::bad_request(format!("The certificate and its key do not go together: {e}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn tls_error(e: rustls::Error) -> Error {
    Error::internal(format!("TLS: {e}"))
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

#[derive(Debug)]
struct Pinned {
    fingerprints: Vec<String>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.fingerprints.contains(&fingerprint_of(end_entity)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("the server shows another certificate than the one expected".into()))
        }
    }

    signatures!();
}

#[derive(Debug)]
struct AnyClient {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn identity(name: &str) -> Identity {
        Identity::generate(name, &[name.to_owned(), "127.0.0.1".to_owned()]).unwrap()
    }

    /// What the server learns of the client, or why there is no connection.
    async fn shake_hands(pin: &str, client: Option<&Identity>, server: &Identity) -> std::io::Result<Option<String>> {
        let acceptor = tokio_rustls::TlsAcceptor::from(server_config(server).unwrap());
        let connector = tokio_rustls::TlsConnector::from(client_config(pin, client).unwrap());
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        let served = tokio::spawn(async move {
            let mut stream = acceptor.accept(theirs).await?;
            stream.write_all(b"!").await?;
            let shown = stream.get_ref().1.peer_certificates().map(|c| fingerprint_of(&c[0]));
            stream.flush().await?;
            Ok(shown)
        });
        let name = ServerName::try_from("server").unwrap();
        let mut stream = connector.connect(name, ours).await?;
        stream.read_u8().await?;
        served.await.unwrap()
    }

    #[tokio::test]
    async fn a_pinned_server_learns_who_the_client_is() {
        let (server, client) = (identity("server"), identity("client"));
        let pin = server.fingerprint().unwrap();
        let shown = shake_hands(&pin, Some(&client), &server).await.unwrap();
        assert_eq!(shown, Some(client.fingerprint().unwrap()));
        assert_eq!(shake_hands(&pin, None, &server).await.unwrap(), None);
        let other = client.fingerprint().unwrap();
        let refused = shake_hands(&other, Some(&client), &server).await.unwrap_err();
        assert!(refused.to_string().contains("another certificate"), "{refused}");
    }

    #[test]
    fn a_certificate_is_good_at_its_time() {
        let good = identity("one");
        let now = jiff::Timestamp::now();
        let years = |n: i64| now + jiff::SignedDuration::from_hours(n * 366 * 24);
        assert_eq!(good.check(now), Ok(()));
        assert!((years(9)..years(11)).contains(&good.ends().unwrap()));
        for (when, want) in [(years(11), "expired on"), (years(-3), "not valid before")] {
            let said = good.check(when).unwrap_err().message;
            assert!(said.contains(want), "{said}");
        }
        let about = about(&good.certificate).unwrap();
        assert_eq!(about.names, ["one"]);
        assert!(about.from < now && about.until > years(9));
        let mixed = Identity { key: identity("two").key, ..good };
        assert!(mixed.check(now).unwrap_err().message.contains("do not go together"));
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (one, two) = (identity("one"), identity("two"));
        let mixed = Identity { key: two.key.clone(), ..one.clone() };
        assert!(server_config(&mixed).unwrap_err().message.contains("do not go together"));
        for text in ["", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"] {
            assert!(fingerprint(text).is_err(), "{text:?}");
        }
        assert!(!format!("{one:?}").contains("PRIVATE"), "keys are not shown");
    }
}
