//! While a member is away everything can be changed; it has all of it before it serves again.

use client::tls::Identity;
use lab::{Cluster, Result};

/// A certificate that ends in three weeks.
fn short_lived() -> Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["cluster.example.net".to_owned()]).unwrap();
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(21 * 24);
    let end = end.to_zoned_datetime(jiff::tz::TimeZone::UTC).date();
    let (year, month, day) = (i32::from(end.year()), end.month().unsigned_abs(), end.day().unsigned_abs());
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, month, day);
    let certificate = params.self_signed(&key).unwrap();
    Identity { certificate: certificate.pem(), key: key.serialize_pem() }
}

pub fn hinders_nobody(cluster: &mut Cluster) -> Result<()> {
    let leader = cluster.leader(1)?;
    let (away, other) = (leader % 5 + 1, (leader + 1) % 5 + 1);
    cluster.kill(away)?;
    // From now on it is silent, and from some time on it is known to be.
    change_all(cluster, other, "early")?;
    cluster.until("it is offline", || Ok((cluster.member(other, away, 's')? == "OFFLINE").then_some(())))?;
    change_all(cluster, leader, "late")?;
    let new = short_lived();
    replace_certificate(cluster, other, &new)?;

    cluster.start(away)?;
    for name in ["early", "late"] {
        has_all(cluster, away, name)?;
    }
    let shown = |n: usize| -> Result<_> {
        Ok(cluster.get(n, "/1.0")?["environment"]["certificate_fingerprint"].as_str().map(str::to_owned))
    };
    cluster.until("it shows the new certificate", || Ok((shown(away)? == Some(new.fingerprint()?)).then_some(())))
}

fn change_all(cluster: &Cluster, number: usize, name: &str) -> Result<()> {
    for args in [
        &["project", "create", name][..],
        &["profile", "create", name],
        &["profile", "set", name, "user.x=1"],
        &["network", "create", &format!("br{name}"), "ipv4.address=none", "ipv6.address=none"],
        &["storage", "create", name, "dir"],
        &["storage", "set", name, "user.x=1"],
        &["config", "set", &format!("user.{name}=1")],
        &["cluster", "group", "create", name],
    ] {
        cluster.incus(number, args)?;
    }
    Ok(())
}

/// Asked of itself, at the first moment that it answers.
fn has_all(cluster: &Cluster, number: usize, name: &str) -> Result<()> {
    for (args, want) in [
        (&["project", "list", "-f", "csv"][..], name),
        (&["profile", "get", name, "user.x"], "1"),
        (&["network", "list", "-f", "csv"], &format!("br{name}")),
        (&["storage", "get", name, "user.x"], "1"),
        (&["config", "get", &format!("user.{name}")], "1"),
        (&["cluster", "group", "list", "-f", "csv"], name),
    ] {
        let got = cluster.incus(number, args)?;
        assert!(got.contains(want), "{args:?}: {got}");
    }
    let machine = &cluster.lab.machines[number - 1];
    assert!(machine.incus_dir().join("storage-pools").join(name).join("containers").is_dir());
    machine.must("ip", &["link", "show", &format!("br{name}")]).map(drop)
}

fn replace_certificate(cluster: &Cluster, number: usize, new: &Identity) -> Result<()> {
    let token = cluster.incus(number, &["config", "trust", "add", "laptop"])?;
    let token = token.lines().last().unwrap_or_default().trim().to_owned();
    cluster.incus(number, &["remote", "add", "c", &token])?;
    let dir = &cluster.lab.machines[number - 1].dir;
    let (certificate, key) = (dir.join("new.crt"), dir.join("new.key"));
    std::fs::write(&certificate, &new.certificate)?;
    std::fs::write(&key, &new.key)?;
    let files = [certificate.to_string_lossy(), key.to_string_lossy()];
    cluster.incus(number, &["cluster", "update-certificate", "c:", &files[0], &files[1]]).map(drop)
}
