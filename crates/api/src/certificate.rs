//! `/1.0/certificates`: who is trusted.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::{Allow::*, At, List, Listed, Sync, encode};

/// A trusted certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// Name for people.
    pub name: String,
    /// `client`, `metrics` or `server`.
    #[serde(rename = "type")]
    pub kind: String,
    /// True if it may only use the projects below.
    pub restricted: bool,
    /// Projects that a restricted certificate may use.
    pub projects: Vec<String>,
    /// The certificate (PEM).
    pub certificate: String,
    /// For people.
    pub description: String,
    /// SHA-256 of the certificate's DER form, in hex.
    pub fingerprint: String,
}

impl Listed for Certificate {
    fn url(&self) -> String {
        format!("/1.0/certificates/{}", encode(&self.fingerprint))
    }
}

/// Body of `PUT` and `PATCH /1.0/certificates/{fingerprint}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct CertificatePut {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub restricted: bool,
    pub projects: Vec<String>,
    pub certificate: String,
    pub description: String,
}

/// Body of `POST /1.0/certificates`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificatesPost {
    /// Name for people.
    pub name: String,
    /// `client`, `metrics` or `server`.
    #[serde(rename = "type")]
    pub kind: String,
    /// True to limit it to the projects below.
    pub restricted: bool,
    /// The projects.
    pub projects: Option<Vec<String>>,
    /// Base64 of the DER form; empty to add the certificate that the caller shows.
    pub certificate: String,
    /// For people.
    pub description: String,
    /// A trust token or a cluster join token, from a caller that is not trusted yet.
    pub trust_token: String,
    /// True to get a trust token for somebody else.
    pub token: bool,
}

/// What a trust token carries: base64 of the JSON of this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrustToken {
    /// Name of the client that it is for.
    pub client_name: String,
    /// Fingerprint of the server's certificate.
    pub fingerprint: String,
    /// Addresses of the server.
    pub addresses: Vec<String>,
    /// Proves that the bearer was given the token.
    pub secret: String,
    /// When it stops being valid.
    pub expires_at: Timestamp,
}

/// Somebody who may use an instance or a project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessEntry {
    /// The fingerprint of the certificate.
    pub identifier: String,
    /// `admin` of the server, or `operator` of the project.
    pub role: String,
    /// What grants it: `tls`, the certificate.
    pub provider: String,
}

crate::endpoints! {
    /// List the trusted certificates.
    LIST = GET "/1.0/certificates" -> List<Certificate>, Trusted, At::Any, "";
    /// Trust a certificate, or get a token with which a client can have itself trusted.
    CREATE = POST "/1.0/certificates" (CertificatesPost) -> crate::endpoint::Raw, Anyone, At::Any, "";
    /// One certificate.
    GET = GET "/1.0/certificates/{fingerprint}" -> Sync<Certificate>, Trusted, At::Any, "";
    /// Replace what is known of a certificate.
    PUT = PUT "/1.0/certificates/{fingerprint}" (CertificatePut) -> Sync<()>, Admin, At::Any, "certificate_update";
    /// Change some of what is known of a certificate.
    PATCH = PATCH "/1.0/certificates/{fingerprint}" (serde_json::Value) -> Sync<()>, Admin, At::Any, "certificate_update";
    /// Stop trusting a certificate.
    DELETE = DELETE "/1.0/certificates/{fingerprint}" -> Sync<()>, Admin, At::Any, "";
}
