//! An authority that signs the certificates of clients, with the list of those that it has revoked.

use std::sync::Arc;

use api::{Error, Result};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

/// The authority.
#[derive(Clone, Debug)]
pub struct Authority(Arc<dyn ClientCertVerifier>);

impl Authority {
    /// Reads its certificate, or those of several (PEM), and a list of revoked certificates (PEM), if there is one.
    pub fn new(certificates: &str, revoked: Option<&str>) -> Result<Authority> {
        let bad =
            |e: &dyn std::fmt::Display| Error::bad_request(format!("Unreadable certificate of an authority: {e}"));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(certificates.as_bytes()) {
            roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
        }
        if roots.is_empty() {
            return Err(bad(&"there is none"));
        }
        let lists = CertificateRevocationListDer::pem_slice_iter(revoked.unwrap_or_default().as_bytes());
        let unreadable =
            |e: &dyn std::fmt::Display| Error::bad_request(format!("Unreadable list of revoked certificates: {e}"));
        let lists = lists.collect::<Result<Vec<_>, _>>().map_err(|e| unreadable(&e))?;
        if revoked.is_some() && lists.is_empty() {
            return Err(unreadable(&"there is none"));
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), ring::default_provider().into())
            .with_crls(lists)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|e| unreadable(&e))?;
        Ok(Authority(verifier))
    }

    /// True if it has signed the certificate (DER) of a client, which is valid now and was not revoked.
    pub fn vouches_for(&self, certificate: &[u8]) -> bool {
        self.0.verify_client_cert(&CertificateDer::from(certificate), &[], UnixTime::now()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
        KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
    };

    use super::*;

    struct Made {
        pem: String,
        issuer: Issuer<'static, KeyPair>,
    }

    fn authority(name: &str) -> Made {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Made { pem, issuer: Issuer::new(params, key) }
    }

    fn client(of: &Made, serial: u64, until: i32) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&KeyPair::generate().unwrap(), &of.issuer).unwrap().der().to_vec()
    }

    fn revoking(of: &Made, serial: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&of.issuer).unwrap().pem().unwrap()
    }

    #[test]
    fn it_vouches_for_what_it_has_signed_and_not_revoked() {
        let (ours, other) = (authority("ours"), authority("other"));
        let (good, bad, old) = (client(&ours, 7, 2100), client(&ours, 8, 2100), client(&ours, 9, 2021));
        let without = Authority::new(&ours.pem, None).unwrap();
        let with = Authority::new(&ours.pem, Some(&revoking(&ours, 8))).unwrap();
        for (authority, certificate, want) in [
            (&without, &good, true),
            (&without, &bad, true),
            (&without, &old, false),
            (&without, &client(&other, 7, 2100), false),
            (&with, &good, true),
            (&with, &bad, false),
        ] {
            assert_eq!(authority.vouches_for(certificate), want);
        }
        assert!(!without.vouches_for(b"nonsense"));
        let both = Authority::new(&(ours.pem.clone() + &other.pem), None).unwrap();
        assert!(both.vouches_for(&client(&other, 1, 2100)));
        for (pem, revoked) in [("", None), ("x", None), (ours.pem.as_str(), Some("x"))] {
            assert!(Authority::new(pem, revoked).unwrap_err().message.starts_with("Unreadable"), "{pem}");
        }
    }
}
