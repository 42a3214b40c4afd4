//! The cluster's certificate from an authority that speaks ACME, with real daemons and a stand-in for the authority.
#![allow(clippy::unwrap_used)]

mod stand_in;

use lab::cluster::Programs;
use lab::{Cluster, Lab, Result};
use stand_in::{Authority, Root};

const DOMAIN: &str = "cluster.example.net";

/// The fingerprint of what a member shows.
fn shown(cluster: &Cluster, number: usize) -> Result<String> {
    let server = cluster.get(number, "/1.0")?;
    Ok(server["environment"]["certificate_fingerprint"].as_str().unwrap_or_default().to_owned())
}

fn names(cluster: &Cluster, number: usize) -> Result<String> {
    let address = format!("10.77.0.{number}:8443");
    let script = format!(
        "openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName -issuer"
    );
    cluster.lab.machines[number - 1].must("sh", &["-c", &script])
}

fn warnings(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let all = cluster.get(1, "/1.0/warnings?recursion=1")?;
    let ours = all.as_array().into_iter().flatten().filter(|w| w["type"] == "Unable to update cluster certificate");
    let text = |w: &serde_json::Value, f: &str| w[f].as_str().unwrap_or_default().to_owned();
    Ok(ours.map(|w| (text(w, "status"), text(w, "last_message"))).collect())
}

fn fails(cluster: &Cluster, why: &str) -> Result<()> {
    cluster.until(why, || {
        let open = warnings(cluster)?;
        Ok(open.iter().any(|(status, message)| status == "new" && message.contains(why)).then_some(()))
    })
}

#[test]
fn the_certificate_comes_from_an_authority_and_is_renewed() -> Result<()> {
    if lab::skip(&["openssl"]) {
        return Ok(());
    }
    let lab = Lab::temporary("acme", 3)?;
    let (root, trusted) = (Root::new(), lab.dir.join("authority.pem"));
    std::fs::write(&trusted, &root.pem)?;
    let trusted = trusted.to_string_lossy().into_owned();
    let mut cluster = Cluster::form_in(lab, Programs::built()?, &[("SSL_CERT_FILE", trusted.as_str())])?;
    let authority = root.serve(&cluster.lab.machines[0])?;
    assert!(authority.root.contains("BEGIN CERTIFICATE"));
    keys(&cluster)?;
    troubles(&cluster, &authority)?;
    issued(&cluster, &authority)?;
    clients(&cluster, &trusted)?;
    renewed(&mut cluster, &authority, &trusted)
}

fn keys(cluster: &Cluster) -> Result<()> {
    for (key, why) in [
        ("acme.challenge=DNS-01", "DNS-01"),
        ("acme.challenge=x", "HTTP-01"),
        ("acme.ca_url=ftp://x", "https://"),
        ("acme.email=nobody", "Invalid"),
        ("acme.domain=a b", "Invalid"),
        ("acme.http.port=x", "Invalid"),
        ("acme.agree_tos=perhaps", "boolean"),
    ] {
        cluster.refused_with(2, &["config", "set", key], why)?;
    }
    Ok(())
}

/// What does not work is a warning that says why, and nothing has changed.
fn troubles(cluster: &Cluster, authority: &Authority) -> Result<()> {
    let before = shown(cluster, 1)?;
    let set = |key: String| cluster.incus(2, &["config", "set", &key]).map(drop);
    let domain = format!("acme.domain={DOMAIN}");
    set(format!("acme.ca_url=https://10.77.0.1:{}/directory", stand_in::PORT + 1))?;
    cluster.incus(2, &["config", "set", &domain, "acme.email=me@refused.example"])?;
    assert!(warnings(cluster)?.is_empty(), "nobody has agreed to the terms");
    set("acme.agree_tos=true".into())?;
    fails(cluster, "Connection refused")?;
    set(format!("acme.ca_url={}", authority.directory()))?;
    fails(cluster, "nobody is reached there")?;
    // The authority looks where nobody answers.
    authority.state.lock().unwrap().addresses = vec!["10.77.0.2:81".into()];
    set("acme.email=me@example.net".into())?;
    fails(cluster, "10.77.0.2:81 does not prove it")?;
    assert_eq!((shown(cluster, 1)?, authority.state.lock().unwrap().signed), (before, 0));
    Ok(())
}

/// Every member answers the challenge, and shows what was signed.
fn issued(cluster: &Cluster, authority: &Authority) -> Result<()> {
    authority.state.lock().unwrap().addresses = (1..=3).map(|n| format!("10.77.0.{n}:8080")).collect();
    cluster.incus(3, &["config", "set", "acme.http.port=:8080"])?;
    // The port alone is no reason to try again; a person's change of what is wanted is.
    cluster.incus(3, &["config", "set", "acme.email=you@example.net"])?;
    for number in 1..=3 {
        cluster
            .until("the certificate of the authority", || Ok(names(cluster, number)?.contains(DOMAIN).then_some(())))?;
        assert!(names(cluster, number)?.contains("stand-in for an authority"));
        assert_eq!(shown(cluster, number)?, shown(cluster, 1)?);
    }
    cluster.until("no warning is open", || {
        Ok(warnings(cluster)?.iter().all(|(status, _)| status == "resolved").then_some(()))
    })?;
    // The members go on, and nobody listens any more.
    cluster.incus(2, &["profile", "create", "after"])?;
    let open =
        |n: usize| cluster.lab.machines[n - 1].run("curl", &["-s", "http://127.0.0.1:8080/"], "").map(|o| o.code == 0);
    for number in 1..=3 {
        cluster.until("the port is closed", || Ok((!open(number)?).then_some(())))?;
    }
    let state = authority.state.lock().unwrap();
    assert_eq!((state.signed, state.accounts.len()), (1, 2));
    drop(state);
    let shown = cluster.incus(1, &["config", "show"])?;
    assert!(shown.contains("acme.domain") && !shown.contains("internal."), "{shown}");
    for machine in &cluster.lab.machines {
        assert!(!std::fs::read_to_string(machine.dir.join("incusd.log"))?.contains("PRIVATE KEY"));
    }
    Ok(())
}

/// A client that trusts the authority need not pin the certificate, and is not asked for it.
fn clients(cluster: &Cluster, trusted: &str) -> Result<()> {
    let machine = &cluster.lab.machines[1];
    let hosts = machine.dir.join("hosts");
    std::fs::write(&hosts, format!("127.0.0.1 localhost\n10.77.0.1 {DOMAIN}\n"))?;
    machine.must("mount", &["--bind", &hosts.to_string_lossy(), "/etc/hosts"])?;
    let token = cluster.incus(1, &["config", "trust", "add", "laptop"])?;
    let token = token.lines().last().unwrap_or_default().trim().to_owned();
    let program = cluster.programs.incus.to_string_lossy().into_owned();
    let incus = |args: &[&str], authority: &str| {
        let mut command = machine.command(&program);
        lab::run::run(command.args(args).env("SSL_CERT_FILE", authority), b"")
    };
    let url = format!("https://{DOMAIN}:8443");
    incus(&["remote", "add", "c", &url, "--token", &token], trusted)?.ok()?;
    assert!(!machine.dir.join("home/client/servercerts/c.crt").exists());
    assert!(incus(&["cluster", "list", "c:", "-f", "csv"], trusted)?.ok()?.contains("server3"));
    let said = incus(&["cluster", "list", "c:"], "/dev/null")?.refused()?;
    assert!(said.contains("add it again"), "{said}");
    Ok(())
}

/// One that ends soon is renewed with the same account, by whoever leads then.
fn renewed(cluster: &mut Cluster, authority: &Authority, trusted: &str) -> Result<()> {
    authority.state.lock().unwrap().valid = (-89, 1);
    cluster.incus(1, &["config", "set", &format!("acme.domain=www.{DOMAIN}")])?;
    let www = format!("DNS:www.{DOMAIN}");
    for number in 1..=3 {
        cluster.until("another name", || Ok(names(cluster, number)?.contains(&www).then_some(())))?;
    }
    let (short, signed) = (shown(cluster, 1)?, authority.state.lock().unwrap().signed);
    authority.state.lock().unwrap().valid = (-1, 90);
    let leader = cluster.leader(1)?;
    cluster.kill(leader)?;
    let other = 1 + leader % 3;
    authority.state.lock().unwrap().addresses.retain(|a| !a.starts_with(&format!("10.77.0.{leader}:")));
    cluster.until("it is renewed", || Ok((shown(cluster, other)? != short).then_some(())))?;
    {
        let state = authority.state.lock().unwrap();
        assert!(state.signed > signed);
        assert_eq!(state.accounts.len(), 2, "the account is the same");
    }
    cluster.start_in(leader, &[("SSL_CERT_FILE", trusted)])?;
    cluster
        .until("the one that was away has it", || Ok((shown(cluster, leader)? == shown(cluster, other)?).then_some(())))
}
