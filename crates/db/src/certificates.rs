//! Certificates of clients and members that are trusted.

use api::{Error, Result};

use crate::members::gather;
use crate::tx::{Tx, Words, found, touched};
use crate::value::codes;

const NOT_FOUND: &str = "Certificate";

codes! {
    /// Whose certificate it is.
    CertificateType, "certificate type" {
        /// A client's.
        Client = 1, "client";
        /// A member's.
        Server = 2, "server";
        /// A client's that may only read metrics.
        Metrics = 3, "metrics";
    }
}

/// A trusted certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Row id.
    pub id: i64,
    /// SHA-256 of the DER, in hexadecimal.
    pub fingerprint: String,
    /// Whose it is.
    pub kind: CertificateType,
    /// Name; of a member's certificate, that of the member.
    pub name: String,
    /// PEM.
    pub certificate: String,
    /// True if it is limited to `projects`.
    pub restricted: bool,
    /// Free text.
    pub description: String,
    /// Names of the projects it is limited to.
    pub projects: Vec<String>,
}

/// A certificate to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCertificate {
    /// SHA-256 of the DER, in hexadecimal.
    pub fingerprint: String,
    /// Whose it is.
    pub kind: CertificateType,
    /// Name.
    pub name: String,
    /// PEM.
    pub certificate: String,
    /// True if it is limited to `projects`.
    pub restricted: bool,
    /// Free text.
    pub description: String,
    /// Names of the projects it is limited to.
    pub projects: Vec<String>,
}

/// All certificates, in the order in which they came to be trusted.
pub fn list(tx: &Tx<'_>) -> Result<Vec<Certificate>> {
    select(tx, "?1 IS NULL", None)
}

/// The certificate whose fingerprint begins so. Refuses if several do.
pub fn get(tx: &Tx<'_>, prefix: &str) -> Result<Certificate> {
    let mut all = if prefix.is_empty() {
        Vec::new()
    } else {
        select(tx, "substr(c.fingerprint, 1, length(?1)) = ?1", Some(prefix))?
    };
    match all.len() {
        0 | 1 => found(all.pop(), NOT_FOUND),
        _ => Err(Error::bad_request(format!(
            "More than one certificate has a fingerprint that begins with \"{prefix}\""
        ))),
    }
}

fn select(tx: &Tx<'_>, condition: &str, param: Option<&str>) -> Result<Vec<Certificate>> {
    let sql = format!(
        "SELECT cp.certificate_id, p.name FROM certificates_projects cp JOIN projects p ON p.id = cp.project_id
         JOIN certificates c ON c.id = cp.certificate_id WHERE {condition} ORDER BY p.name"
    );
    let mut projects = gather(tx.all(&sql, [param], |r| Ok((r.get(0)?, r.get(1)?)))?);
    tx.all(&format!("SELECT c.* FROM certificates c WHERE {condition} ORDER BY c.id"), [param], |r| {
        let id = r.get("id")?;
        Ok(Certificate {
            id,
            fingerprint: r.get("fingerprint")?,
            kind: r.get("type")?,
            name: r.get("name")?,
            certificate: r.get("certificate")?,
            restricted: r.get("restricted")?,
            description: r.get("description")?,
            projects: projects.remove(&id).unwrap_or_default(),
        })
    })
}

/// Trusts a certificate; its row id.
pub fn create(tx: &Tx<'_>, new: &NewCertificate) -> Result<i64> {
    let sql = "INSERT INTO certificates (fingerprint, type, name, certificate, restricted, description)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let values = (&new.fingerprint, new.kind, &new.name, &new.certificate, new.restricted, &new.description);
    let id = tx.insert(sql, values).or_taken(|| "Certificate already in trust store".into())?;
    set_projects(tx, id, &new.projects)?;
    Ok(id)
}

/// Makes everything about a certificate equal to `new`, the certificate itself included.
pub fn update(tx: &Tx<'_>, id: i64, new: &NewCertificate) -> Result<()> {
    let sql = "UPDATE certificates SET fingerprint = ?2, type = ?3, name = ?4, certificate = ?5, restricted = ?6,
               description = ?7 WHERE id = ?1";
    let values = (id, &new.fingerprint, new.kind, &new.name, &new.certificate, new.restricted, &new.description);
    touched(tx.run(sql, values).or_taken(|| "Certificate already in trust store".into())?, NOT_FOUND)?;
    set_projects(tx, id, &new.projects)
}

fn set_projects(tx: &Tx<'_>, id: i64, projects: &[String]) -> Result<()> {
    let want = projects.iter().map(|p| crate::projects::id(tx, p)).collect::<Result<Vec<i64>>>()?;
    let have: Vec<i64> =
        tx.all("SELECT project_id FROM certificates_projects WHERE certificate_id = ?1", [id], |r| r.get(0))?;
    for gone in have.iter().filter(|p| !want.contains(p)) {
        tx.run("DELETE FROM certificates_projects WHERE certificate_id = ?1 AND project_id = ?2", (id, gone))?;
    }
    for new in want.iter().filter(|p| !have.contains(p)) {
        let sql = "INSERT INTO certificates_projects (certificate_id, project_id) VALUES (?1, ?2)
                   ON CONFLICT DO NOTHING";
        tx.run(sql, (id, new))?;
    }
    Ok(())
}

/// Renames the certificate of a member together with the member.
pub fn rename_server(tx: &Tx<'_>, from: &str, to: &str) -> Result<()> {
    tx.run("UPDATE certificates SET name = ?2 WHERE type = 2 AND name = ?1", (from, to)).map(drop)
}

/// Trusts the certificates of a member no more.
pub fn delete_server(tx: &Tx<'_>, member: &str) -> Result<()> {
    tx.run("DELETE FROM certificates WHERE type = 2 AND name = ?1", [member]).map(drop)
}

/// Trusts a certificate no more.
pub fn delete(tx: &Tx<'_>, id: i64) -> Result<()> {
    touched(tx.run("DELETE FROM certificates WHERE id = ?1", [id])?, NOT_FOUND)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    fn new(fingerprint: &str, name: &str, kind: CertificateType, projects: &[&str]) -> NewCertificate {
        NewCertificate {
            fingerprint: fingerprint.into(),
            kind,
            name: name.into(),
            certificate: "PEM".into(),
            restricted: !projects.is_empty(),
            description: String::new(),
            projects: projects.iter().map(|p| (*p).to_owned()).collect(),
        }
    }

    #[test]
    fn certificates_are_found_by_the_start_of_their_fingerprint() {
        let c = database();
        let tx = Tx(&c);
        create(&tx, &new("39ad1a", "node1", CertificateType::Server, &[])).unwrap();
        let id = create(&tx, &new("39bbf1", "laptop", CertificateType::Client, &["default"])).unwrap();
        let missing = "Certificate not found";
        let several = "More than one certificate has a fingerprint that begins with \"39\"";
        for (prefix, want) in [
            ("39ad1a", Ok("node1")),
            ("39b", Ok("laptop")),
            ("39", Err(several)),
            ("4", Err(missing)),
            ("", Err(missing)),
            ("%", Err(missing)),
        ] {
            let got = get(&tx, prefix);
            assert_eq!(got.as_ref().map(|c| c.name.as_str()).map_err(|e| e.message.as_str()), want, "{prefix}");
        }
        assert_eq!(get(&tx, "39b").unwrap().projects, ["default"]);
        assert_eq!(
            create(&tx, &new("39ad1a", "x", CertificateType::Client, &[])).unwrap_err().message,
            "Certificate already in trust store"
        );
        update(&tx, id, &new("39bbf2", "desktop", CertificateType::Client, &[])).unwrap();
        let got = get(&tx, "39bbf2").unwrap();
        assert_eq!((got.name.as_str(), got.projects.len(), got.restricted), ("desktop", 0, false));
        rename_server(&tx, "node1", "server1").unwrap();
        let by_type: String = c.query_row("SELECT name FROM certificates WHERE type = 2", [], |r| r.get(0)).unwrap();
        assert_eq!(by_type, "server1", "the query that operators know");
        delete_server(&tx, "server1").unwrap();
        delete(&tx, id).unwrap();
        assert!(list(&tx).unwrap().is_empty());
    }
}
