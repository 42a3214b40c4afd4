//! `incus config trust`, and trust by an authority, with real daemons on machines of the lab.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use client::tls::Identity;
use lab::{Cluster, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "the authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Authority { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    fn client(&self, name: &str, serial: u64) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn revoked(&self, serial: u64) -> String {
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
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A client with the files in which curl finds who it is.
struct Client {
    certificate: PathBuf,
    key: PathBuf,
}

impl Client {
    fn new(cluster: &Cluster, name: &str, identity: &Identity) -> Client {
        let file = |end: &str| cluster.lab.dir.join(format!("{name}.{end}"));
        std::fs::write(file("crt"), &identity.certificate).unwrap();
        std::fs::write(file("key"), &identity.key).unwrap();
        Client { certificate: file("crt"), key: file("key") }
    }

    fn ask(&self, cluster: &Cluster, server: usize, args: &[&str], path: &str) -> Result<String> {
        let url = format!("https://10.77.0.{server}:8443{path}");
        let (certificate, key) = (self.certificate.to_string_lossy(), self.key.to_string_lossy());
        let who = ["-sSk", "--max-time", "20", "--cert", &certificate, "--key", &key, &url];
        cluster.lab.machines[1].must("curl", &[&who, args].concat())
    }

    fn trusted(&self, cluster: &Cluster, server: usize) -> Result<bool> {
        let answer = self.ask(cluster, server, &[], "/1.0")?;
        let (yes, no) = (answer.contains("\"auth\":\"trusted\""), answer.contains("\"auth\":\"untrusted\""));
        assert!(yes != no, "{answer}");
        Ok(yes)
    }

    /// Shows a token; what came back.
    fn redeem(&self, cluster: &Cluster, token: &str) -> Result<String> {
        let body = format!(r#"{{"trust_token":"{token}","type":"client"}}"#);
        self.ask(cluster, 2, &["-X", "POST", "-d", &body], "/1.0/certificates")
    }
}

fn own(cluster: &Cluster, name: &str) -> Client {
    Client::new(cluster, name, &Identity::generate(name, &[]).unwrap())
}

fn token(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let out = cluster.incus(1, &[&["config", "trust", "add"], args].concat())?;
    Ok(out.lines().last().unwrap_or_default().trim().to_owned())
}

#[test]
fn clients_are_trusted_by_token_by_certificate_and_by_authority() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let cluster = Cluster::temporary("trust", 2)?;
    tokens(&cluster)?;
    certificates(&cluster)?;
    authority(&cluster)
}

fn tokens(cluster: &Cluster) -> Result<()> {
    cluster.incus(1, &["project", "create", "p1"])?;
    let said = cluster.refused(1, &["config", "trust", "add", "x", "--restricted", "--projects", "nope"])?;
    assert!(said.contains("Project not found"), "{said}");
    let (first, second) = (own(cluster, "first"), own(cluster, "second"));
    let good = token(cluster, &["first", "--restricted", "--projects", "p1"])?;
    assert!(cluster.incus(2, &["config", "trust", "list-tokens", "-f", "csv"])?.starts_with("first,"));
    let answer = first.redeem(cluster, &good)?;
    assert!(answer.contains("\"status_code\":200"), "{answer}");
    assert!(second.redeem(cluster, &good)?.contains("not authorized"), "it is good once");
    let list = cluster.incus(2, &["config", "trust", "list", "-f", "csv", "-c", "ntrp"])?;
    assert!(list.contains("first,client,yes,p1") || list.to_lowercase().contains("first,client,yes,p1"), "{list}");
    let list = cluster.incus(2, &["config", "trust", "list", "-f", "csv", "-c", "nf"])?;
    let fingerprint = list.lines().find_map(|line| line.strip_prefix("first,")).unwrap();
    let access = cluster.incus(1, &["project", "info", "p1", "--show-access"])?;
    assert!(access.contains(fingerprint) && access.contains("role: operator"), "{access}");
    assert_eq!(cluster.get(2, "/1.0/projects/default/access")?.as_array().unwrap().len(), 0);
    assert!(first.ask(cluster, 1, &[], "/1.0/projects/p1/access")?.contains("\"operator\""));
    assert!(first.ask(cluster, 1, &[], "/1.0/projects/default/access")?.contains("not found"));
    // Who is restricted has nobody trusted, itself by another certificate least of all.
    for body in [r#"{"token":true,"name":"friend"}"#, r#"{"type":"client","name":"friend"}"#] {
        let answer = first.ask(cluster, 1, &["-X", "POST", "-d", body], "/1.0/certificates")?;
        assert!(answer.contains("not authorized"), "{answer}");
    }
    let third = own(cluster, "third");
    assert!(third.redeem(cluster, &token(cluster, &["third"])?)?.contains("\"status_code\":200"));
    let roles = |of: &str| -> Result<Vec<String>> {
        let all = cluster.get(1, &format!("/1.0/{of}/access"))?;
        let mut roles: Vec<String> = all.as_array().unwrap().iter().map(|a| a["role"].to_string()).collect();
        roles.sort();
        Ok(roles)
    };
    assert_eq!(roles("projects/p1")?, ["\"admin\"", "\"operator\""]);
    assert_eq!(roles("projects/default")?, ["\"admin\""]);
    // It sees itself, and no administrator.
    assert!(!first.ask(cluster, 1, &[], "/1.0/projects/p1/access")?.contains("\"admin\""));
    let revoked = token(cluster, &["second"])?;
    cluster.incus(2, &["config", "trust", "revoke-token", "second"])?;
    assert!(second.redeem(cluster, &revoked)?.contains("not authorized"));
    assert!(!second.trusted(cluster, 1)?);
    cluster.refused(2, &["config", "trust", "revoke-token", "second"])?;
    // One that expires.
    cluster.incus(1, &["config", "set", "core.remote_token_expiry=0M"])?;
    let short = token(cluster, &["second"])?;
    cluster.until("the token has expired", || {
        Ok(cluster.incus(1, &["config", "trust", "list-tokens", "-f", "csv"])?.is_empty().then_some(()))
    })?;
    assert!(second.redeem(cluster, &short)?.contains("not authorized"));
    cluster.incus(1, &["config", "unset", "core.remote_token_expiry"]).map(drop)
}

fn certificates(cluster: &Cluster) -> Result<()> {
    let (client, metrics) = (own(cluster, "laptop"), own(cluster, "metrics"));
    let file = client.certificate.to_string_lossy().into_owned();
    cluster.incus(1, &["config", "trust", "add-certificate", &file, "--name", "laptop", "--description", "mine"])?;
    let said = cluster.refused(1, &["config", "trust", "add-certificate", &file])?;
    assert!(said.contains("already"), "{said}");
    assert!(client.trusted(cluster, 2)?);
    let file = metrics.certificate.to_string_lossy().into_owned();
    cluster.incus(1, &["config", "trust", "add-certificate", &file, "--type", "metrics", "--name", "metrics"])?;
    assert!(!metrics.trusted(cluster, 2)?, "it is good for metrics alone");
    let said = cluster.refused(1, &["config", "trust", "add-certificate", &file, "--type", "bogus"])?;
    assert!(said.contains("bogus"), "{said}");
    let list = cluster.incus(2, &["config", "trust", "list", "-f", "csv", "-c", "ntd"])?;
    assert!(list.contains("laptop,client,mine") && list.contains("metrics,metrics,"), "{list}");
    let prints = cluster.incus(2, &["config", "trust", "list", "-f", "csv", "-c", "nF"])?;
    let print = prints.lines().find_map(|l| l.strip_prefix("laptop,")).unwrap().to_owned();
    let shown = cluster.incus(1, &["config", "trust", "show", &print])?;
    cluster
        .incus_in(2, &["config", "trust", "edit", &print], &shown.replace("description: mine", "description: his"))?
        .ok()?;
    assert!(cluster.incus(1, &["config", "trust", "show", &print])?.contains("description: his"));
    cluster.incus(2, &["config", "trust", "remove", &print])?;
    assert!(!client.trusted(cluster, 2)?, "on a connection of its own it is gone at once");
    Ok(())
}

fn authority(cluster: &Cluster) -> Result<()> {
    let (ours, other) = (Authority::new(), Authority::new());
    let (good, bad) =
        (Client::new(cluster, "good", &ours.client("good", 7)), Client::new(cluster, "bad", &ours.client("bad", 8)));
    let stranger = Client::new(cluster, "stranger", &other.client("stranger", 7));
    let known = own(cluster, "known");
    cluster
        .incus(1, &["config", "trust", "add-certificate", &known.certificate.to_string_lossy(), "--name", "known"])?;
    assert!(known.trusted(cluster, 1)? && known.trusted(cluster, 2)?);
    let put = |name: &str, text: &str| {
        cluster.lab.machines.iter().try_for_each(|m| std::fs::write(m.incus_dir().join(name), text))
    };
    put("server.ca", &ours.pem)?;

    // From now on only those that it has signed, and these only if they are known.
    assert!(!known.trusted(cluster, 1)? && !known.trusted(cluster, 2)?);
    assert!(!good.trusted(cluster, 1)?);
    let said = cluster.refused(
        1,
        &["config", "trust", "add-certificate", &stranger.certificate.to_string_lossy(), "--name", "stranger"],
    )?;
    assert!(said.contains("not signed by the authority"), "{said}");
    let answer = stranger.redeem(cluster, &token(cluster, &["stranger"])?)?;
    assert!(answer.contains("not signed by the authority"), "{answer}");
    let file = good.certificate.to_string_lossy().into_owned();
    cluster.incus(
        1,
        &["config", "trust", "add-certificate", &file, "--name", "good", "--restricted", "--projects", "p1"],
    )?;
    assert!(good.trusted(cluster, 2)?);
    assert!(good.ask(cluster, 2, &[], "/1.0/profiles?project=default")?.contains("does not have permission"));

    // All that it has signed.
    assert!(!bad.trusted(cluster, 1)?);
    cluster.incus(1, &["config", "set", "core.trust_ca_certificates=true"])?;
    assert!(bad.trusted(cluster, 1)? && bad.trusted(cluster, 2)?);
    assert!(!stranger.trusted(cluster, 1)? && !known.trusted(cluster, 1)?);
    assert!(
        good.ask(cluster, 2, &[], "/1.0/profiles?project=default")?.contains("does not have permission"),
        "it stays restricted"
    );
    assert!(bad.ask(cluster, 2, &[], "/1.0/profiles?project=default")?.contains("\"status_code\":200"));

    // But what it has revoked; and nothing if what it says is unreadable.
    put("ca.crl", &ours.revoked(8))?;
    assert!(!bad.trusted(cluster, 1)? && !bad.trusted(cluster, 2)? && good.trusted(cluster, 1)?);
    put("ca.crl", "nonsense")?;
    assert!(!good.trusted(cluster, 1)?);
    // The members know each other without it.
    cluster.incus(2, &["profile", "create", "after"])?;
    assert_eq!(cluster.member(1, 2, 's')?, "ONLINE");
    for machine in &cluster.lab.machines {
        std::fs::remove_file(machine.incus_dir().join("server.ca"))?;
    }
    assert!(known.trusted(cluster, 1)? && !bad.trusted(cluster, 1)?);
    Ok(())
}
