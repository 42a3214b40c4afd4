//! The certificate of a cluster is replaced, with real daemons on machines of the lab.
#![allow(clippy::unwrap_used)]

use std::process::{Child, Stdio};
use std::time::Duration;

use client::tls::Identity;
use lab::cluster::{HOLD, Programs};
use lab::{Cluster, Lab, Result};

/// A certificate that is valid in these years.
fn valid_in(from: i32, to: i32) -> Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["cluster.example.net".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    Identity { certificate: certificate.pem(), key: key.serialize_pem() }
}

/// `incus cluster update-certificate`, run on machine 2 as a client of machine 1.
fn update(cluster: &Cluster, new: &Identity) -> Result<lab::Output> {
    let files = files_of(cluster, 2, new)?;
    cluster.incus_in(2, &["cluster", "update-certificate", "c:", &files[0], &files[1]], "")
}

/// The same in the background, on machine `number` itself.
fn updating(cluster: &Cluster, number: usize, new: &Identity) -> Result<Child> {
    let files = files_of(cluster, number, new)?;
    let mut command = cluster.lab.machines[number - 1].command(&cluster.programs.incus);
    command.args(["cluster", "update-certificate"]).args(files);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

/// Files on machine `number` with a certificate and its key.
fn files_of(cluster: &Cluster, number: usize, new: &Identity) -> Result<[String; 2]> {
    let dir = &cluster.lab.machines[number - 1].dir;
    let (certificate, key) = (dir.join("new.crt"), dir.join("new.key"));
    std::fs::write(&certificate, &new.certificate)?;
    std::fs::write(&key, &new.key)?;
    Ok([certificate, key].map(|path| path.to_string_lossy().into_owned()))
}

/// A member whose files are not whole at its next start can't serve: those who replace the certificate and those who
/// follow the database write them one after another, and a crash between the files and their use is made up for.
fn files_stay_whole(cluster: &mut Cluster, old: &Identity) -> Result<()> {
    let root = cluster.lab.machines[0].incus_dir();
    let whole = |new: &Identity| -> Result<bool> {
        let file = |name: &str| std::fs::read_to_string(root.join(name));
        Ok(file("cluster.crt")? == new.certificate && file("cluster.key")? == new.key)
    };
    let (first, second) = (valid_in(2020, 2088), valid_in(2020, 2087));
    cluster.hold(1, "certificate:written")?;
    let mut update = updating(cluster, 1, &first)?;
    // Somebody takes it into use.
    cluster.held(1)?;
    std::thread::sleep(Duration::from_millis(500));
    let another = cluster.came(1);
    cluster.release(1);
    assert!(update.wait()?.success() && !another, "somebody else has written the files as well: {another}");
    assert!(whole(&first)? && shown(cluster, 1)? == first.fingerprint()?);

    cluster.hold(1, "certificate:written")?;
    let mut update = updating(cluster, 3, &second)?;
    cluster.held(1)?;
    cluster.kill(1)?;
    cluster.release(1);
    assert!(update.wait()?.success(), "members that take long are not waited for");
    cluster.start(1)?;
    assert!(whole(&second)? && shown(cluster, 1)? == second.fingerprint()?);
    cluster.until("it serves again", || Ok((cluster.member(3, 1, 's')? == "ONLINE").then_some(())))?;
    assert!(updating(cluster, 3, old)?.wait()?.success());
    cluster.until("it has the old one again", || Ok((shown(cluster, 1)? == old.fingerprint()?).then_some(())))
}

/// The fingerprint of what a member says that it shows.
fn shown(cluster: &Cluster, number: usize) -> Result<String> {
    let server = cluster.get(number, "/1.0")?;
    Ok(server["environment"]["certificate_fingerprint"].as_str().unwrap_or_default().to_owned())
}

fn writes(cluster: &Cluster, number: usize, name: &str) -> Result<()> {
    cluster
        .until("a write", || Ok((cluster.incus_in(number, &["profile", "create", name], "")?.code == 0).then_some(())))
}

#[test]
fn the_certificate_is_replaced_on_all_members_be_they_there_or_not() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let mut cluster = Cluster::form_in(Lab::temporary("certificate", 3)?, Programs::built()?, HOLD)?;
    let token = cluster.incus(1, &["config", "trust", "add", "laptop"])?;
    let token = token.lines().last().unwrap_or_default().trim().to_owned();
    cluster.incus(2, &["remote", "add", "c", &token])?;
    assert!(cluster.incus(2, &["cluster", "list", "c:", "-f", "csv"])?.contains("server3"));
    let first = shown(&cluster, 1)?;
    let old = Identity {
        certificate: std::fs::read_to_string(cluster.lab.machines[0].incus_dir().join("cluster.crt"))?,
        key: std::fs::read_to_string(cluster.lab.machines[0].incus_dir().join("cluster.key"))?,
    };
    files_stay_whole(&mut cluster, &old)?;

    let new = valid_in(2020, 2090);
    for (bad, why) in [
        (Identity { key: valid_in(2020, 2090).key, ..new.clone() }, "do not go together"),
        (valid_in(2001, 2002), "The certificate expired on 2002-01-01"),
        (valid_in(2089, 2090), "The certificate is not valid before 2089-01-01"),
        (Identity { certificate: "nonsense".into(), ..new.clone() }, "certificate"),
        (Identity { key: "nonsense".into(), ..new.clone() }, "Unreadable private key"),
        (Identity { key: String::new(), ..new.clone() }, "key is missing"),
    ] {
        let said = update(&cluster, &bad)?.refused()?;
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(shown(&cluster, 2)?, first);

    // One member is away; somebody listens, and goes on listening.
    cluster.incus(1, &["config", "set", "cluster.offline_threshold=11"])?;
    cluster.kill(3)?;
    cluster.until("it is offline", || Ok((cluster.member(1, 3, 's')? == "OFFLINE").then_some(())))?;
    let events = cluster.lab.machines[1].dir.join("events");
    let program = cluster.programs.incus.to_string_lossy().into_owned();
    let mut command = cluster.lab.machines[1].command(&program);
    command.args(["monitor", "c:", "--type", "lifecycle", "-f", "json"]);
    let mut monitor = command.stdin(Stdio::null()).stdout(std::fs::File::create(&events)?).spawn()?;
    cluster.until("the monitor listens", || {
        cluster.incus(1, &["profile", "create", "seen"])?;
        cluster.incus(1, &["profile", "delete", "seen"])?;
        Ok(std::fs::read_to_string(&events)?.contains("profile-created").then_some(()))
    })?;

    let said = update(&cluster, &new)?.ok()?;
    assert!(said.contains("Successfully updated cluster certificates"), "{said}");
    let second = new.fingerprint()?;
    for number in [1, 2] {
        assert_eq!(shown(&cluster, number)?, second);
        let file = std::fs::read_to_string(cluster.lab.machines[number - 1].incus_dir().join("cluster.crt"))?;
        assert_eq!(file, new.certificate);
    }
    // The client goes on, with the new certificate in its store.
    assert!(cluster.incus(2, &["cluster", "list", "c:", "-f", "csv"])?.contains("server3"));
    let kept = cluster.lab.machines[1].dir.join("home/client/servercerts/c.crt");
    assert_eq!(std::fs::read_to_string(kept)?, new.certificate);
    cluster.incus(1, &["profile", "create", "after"])?;
    cluster.until("the event, and one after it", || {
        let text = std::fs::read_to_string(&events)?;
        Ok((text.contains("cluster-certificate-updated") && text.contains("profiles/after")).then_some(()))
    })?;
    monitor.kill()?;
    monitor.wait()?;
    let warned = cluster.incus(1, &["warning", "list", "-f", "csv"])?;
    assert!(warned.contains("Unable to update cluster certificate"), "{warned}");
    nobody_sees_the_key(&cluster, &new)?;

    // The member that was away gets it when it is back, and is a full member.
    cluster.start(3)?;
    cluster.until("it shows the new one", || Ok((shown(&cluster, 3)? == second).then_some(())))?;
    cluster.until("it is online", || Ok((cluster.member(1, 3, 's')? == "ONLINE").then_some(())))?;
    writes(&cluster, 3, "p3")?;
    cluster.until("no more warning", || {
        let list = cluster.get(1, "/1.0/warnings?recursion=1")?.to_string();
        Ok((!list.contains("Unable to update") || list.contains("resolved")).then_some(()))
    })?;
    // All reach each other with it: any two of them are a majority.
    for number in 1..=3 {
        cluster.kill(number)?;
        writes(&cluster, number % 3 + 1, &format!("without{number}"))?;
        cluster.start(number)?;
        cluster.until("it is back", || Ok((cluster.member(number % 3 + 1, number, 's')? == "ONLINE").then_some(())))?;
    }

    // Back to the first one, twice replaced while a member was away.
    cluster.kill(3)?;
    update(&cluster, &valid_in(2020, 2091))?.ok()?;
    update(&cluster, &old)?.ok()?;
    cluster.start(3)?;
    for number in 1..=3 {
        cluster.until("all show the first one", || Ok((shown(&cluster, number)? == first).then_some(())))?;
    }
    writes(&cluster, 3, "back")?;

    // Without a majority nothing happens.
    cluster.kill(2)?;
    cluster.kill(3)?;
    let files = files_of(&cluster, 1, &new)?;
    let said = cluster.refused(1, &["cluster", "update-certificate", &files[0], &files[1]])?;
    assert!(said.contains("majority"), "{said}");
    assert_eq!(shown(&cluster, 1)?, first);
    Ok(())
}

/// The key is in the database, and nowhere in the API.
fn nobody_sees_the_key(cluster: &Cluster, identity: &Identity) -> Result<()> {
    let secret = identity.key.lines().nth(1).unwrap().to_owned();
    for path in ["/1.0", "/1.0/cluster", "/1.0/cluster/members?recursion=1", "/1.0/certificates?recursion=1"] {
        let answer = cluster.incus(2, &["query", &format!("c:{path}")])?;
        assert!(!answer.contains(&secret) && !answer.contains("internal."), "{path}: {answer}");
    }
    for number in 1..=2 {
        let log = std::fs::read_to_string(cluster.lab.machines[number - 1].dir.join("incusd.log"))?;
        assert!(!log.contains(&secret));
    }
    let asked = cluster.refused(2, &["admin", "sql", "c:global", "SELECT * FROM config"])?;
    assert!(asked.contains("not authorized"), "{asked}");
    // Changing the configuration leaves it alone.
    cluster.incus(2, &["config", "set", "c:", "user.x=1"])?;
    let kept =
        cluster.incus(1, &["admin", "sql", "global", "SELECT COUNT(*) FROM config WHERE key LIKE 'internal.%'"])?;
    assert!(kept.contains('1'), "{kept}");
    Ok(())
}
