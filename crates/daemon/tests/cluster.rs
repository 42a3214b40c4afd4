//! Real daemons on machines of the lab: forming a cluster, joining in all its ways, roles, failover.
//!
//! Each scenario runs with our own client and with Debian's.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use lab::cluster::{HOLD, PATIENCE, Programs};
use lab::{Cluster, Lab, Result};

#[test]
fn a_cluster_forms_and_survives_its_leader() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    for (client, programs) in Programs::clients()? {
        println!("with {client} client");
        let lab = Lab::temporary("form", 3)?;
        let mut cluster = Cluster::daemons(lab, programs)?;
        cluster.bootstrap()?;
        for number in 2..=3 {
            let started = Instant::now();
            cluster.join(number)?;
            println!("member {number} joined in {} ms", started.elapsed().as_millis());
        }
        cluster.vote(1, &[1, 2, 3])?;
        for number in 1..=3 {
            assert_eq!(cluster.member(number, 3, 's')?, "ONLINE");
            assert_eq!(cluster.member(number, 3, 'u')?, "https://10.77.0.3:8443");
        }
        cluster.incus(2, &["config", "set", "cluster.offline_threshold=11"])?;
        assert_eq!(cluster.incus(3, &["config", "get", "cluster.offline_threshold"])?.trim(), "11");

        cluster.incus(3, &["storage", "create", "more", "dir"])?;
        for number in 1..=3 {
            assert!(cluster.incus(number, &["storage", "list", "-f", "csv"])?.contains("more,dir,,0,CREATED"));
            for pool in ["local", "more"] {
                let place = cluster.lab.machines[number - 1].incus_dir().join("storage-pools").join(pool);
                assert!(place.join("containers").is_dir(), "{}", place.display());
            }
        }
        assert!(cluster.refused(1, &["storage", "create", "more", "dir"])?.contains("already exists"));
        assert!(cluster.refused(1, &["storage", "create", "other", "bogus"])?.contains("Unknown storage driver"));
        assert!(cluster.refused(1, &["storage", "delete", "local"])?.contains("in use"));
        cluster.incus(2, &["storage", "delete", "more"])?;
        let left = cluster.lab.machines[0].incus_dir().join("storage-pools/more");
        cluster.until("the pool gone", || Ok((!left.exists()).then_some(())))?;

        let leader = cluster.leader(2)?;
        let (other, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        cluster.kill(leader)?;
        let killed = Instant::now();
        cluster.until("a write without the old leader", || {
            let done = cluster.incus_in(other, &["profile", "create", "p1"], "")?;
            Ok((done.code == 0).then_some(()))
        })?;
        println!("the first write was accepted {} ms after the leader was killed", killed.elapsed().as_millis());
        assert!(cluster.incus(third, &["profile", "list", "-f", "csv"])?.contains("p1"));
        cluster.until("the killed member shown offline", || {
            Ok((cluster.member(third, leader, 's')? == "OFFLINE").then_some(()))
        })?;
        println!("it was shown offline after {} ms, with a threshold of 11 s", killed.elapsed().as_millis());
        assert!(cluster.member(other, leader, 'm')?.starts_with("No heartbeat for 1"));
        // A member that is away does not keep the others from changing anything; it catches up.
        cluster.incus(other, &["storage", "create", "later", "dir"])?;

        cluster.start(leader)?;
        cluster
            .until("the killed member back", || Ok((cluster.member(other, leader, 's')? == "ONLINE").then_some(())))?;
        assert!(cluster.incus(leader, &["profile", "list", "-f", "csv"])?.contains("p1"));
        let place = cluster.lab.machines[leader - 1].incus_dir().join("storage-pools/later/containers");
        cluster.until("the pool on the member that was away", || Ok(place.is_dir().then_some(())))?;
    }
    Ok(())
}

#[test]
fn only_the_right_token_lets_a_server_in_and_a_failed_join_leaves_nothing() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let mut cluster = Cluster::daemons_in(Lab::temporary("join", 2)?, Programs::built()?, HOLD)?;
    assert_eq!(cluster.refused(1, &["cluster", "list"])?.trim(), "Error: Server isn't part of a cluster");
    cluster.bootstrap()?;
    assert!(cluster.refused(1, &["cluster", "enable", "again"])?.contains("This server is already clustered"));
    assert_eq!(
        cluster.refused(1, &["cluster", "add", "server1"])?.trim(),
        "Error: The cluster already has a member with name: server1"
    );
    assert!(cluster.refused(1, &["cluster", "add", "a b"])?.contains("Invalid cluster member name"));

    let revoked = cluster.token("server2")?;
    assert!(cluster.incus(1, &["cluster", "list-tokens", "-f", "csv"])?.starts_with("server2,"));
    assert_eq!(
        cluster.incus(1, &["cluster", "revoke-token", "server2"])?.trim(),
        "Cluster join token for server2 deleted"
    );
    let good = cluster.token("server2")?;
    let mut wrong = good.clone();
    // Another digit in the secret.
    let text = String::from_utf8(decode(&wrong)).unwrap();
    let secret = text.split("\"secret\":\"").nth(1).unwrap()[..64].to_owned();
    let other = secret.chars().rev().collect::<String>();
    wrong = encode(text.replace(&secret, &other).as_bytes());
    // It leads to a server that shows another certificate.
    let fingerprint = text.split("\"fingerprint\":\"").nth(1).unwrap()[..64].to_owned();
    let elsewhere = encode(text.replace(&fingerprint, &fingerprint.chars().rev().collect::<String>()).as_bytes());
    let expired = cluster.token("server3")?;
    let past = "UPDATE tokens SET expires = '2001-01-01T00:00:00.000000000Z' WHERE name = 'server3'";
    cluster.incus(1, &["admin", "sql", "global", past])?;
    for (token, why) in [
        (revoked.as_str(), "not authorized"),
        (&wrong, "not authorized"),
        (&elsewhere, "Certificate fingerprint mismatch between join token and cluster member"),
        (&expired, "not authorized"),
        ("nonsense", "Invalid"),
    ] {
        let said = cluster.join_with(2, token)?.refused()?;
        assert!(said.contains(why), "{said}");
        assert_eq!(cluster.incus(1, &["cluster", "list", "-f", "csv", "-c", "n"])?.trim(), "server1");
        assert_eq!(cluster.refused(2, &["cluster", "list"])?.trim(), "Error: Server isn't part of a cluster");
    }

    // The cluster can't reach the joining server, and says so before anything changes.
    let block = || -> Result<()> {
        cluster.lab.machines[0].must("nft", &["add", "table", "inet", "block"])?;
        cluster.lab.machines[0].must("nft", &["add chain inet block out { type filter hook output priority 0; }"])?;
        let rule = "add rule inet block out ct state new ip daddr 10.77.0.2 drop";
        cluster.lab.machines[0].must("nft", &[rule]).map(drop)
    };
    block()?;
    let said = cluster.join_with(2, &good)?.refused()?;
    assert!(said.contains("can't reach the joining server at 10.77.0.2:8443"), "{said}");
    cluster.lab.machines[0].must("nft", &["delete", "table", "inet", "block"])?;
    // If that comes later it is given up on both sides, and the token is good again.
    cluster.hold(2, "join:accepted")?;
    let said = std::thread::scope(|s| -> Result<String> {
        let joining = s.spawn(|| cluster.join_with(2, &good).map_err(|e| e.to_string()));
        cluster.held(2)?;
        block()?;
        cluster.release(2);
        joining.join().unwrap()?.refused()
    })?;
    assert!(said.contains("did not arrive"), "{said}");
    cluster.lab.machines[0].must("nft", &["delete", "table", "inet", "block"])?;
    assert_eq!(cluster.incus(1, &["cluster", "list", "-f", "csv", "-c", "n"])?.trim(), "server1");
    cluster.incus(2, &["profile", "create", "mine"])?;
    cluster.incus(2, &["profile", "delete", "mine"])?;
    cluster.join_with(2, &good)?.ok()?;
    assert_eq!(cluster.member(2, 2, 's')?, "ONLINE");
    let said = cluster.join_with(2, &good)?.refused()?;
    assert!(said.contains("already clustered"), "{said}");

    // Removed cleanly it is a server of its own again, and can come back.
    cluster.incus(1, &["cluster", "remove", "server2", "--yes"])?;
    cluster.until("the removed member on its own", || {
        Ok((cluster.incus_in(2, &["cluster", "list"], "")?.code != 0).then_some(()))
    })?;
    let said = cluster.join_with(2, &good)?.refused()?;
    assert!(said.contains("not authorized"), "a token works once: {said}");
    cluster.join(2)?;
    assert_eq!(cluster.member(1, 2, 's')?, "ONLINE");
    let _ = cluster.machine(2);
    Ok(())
}

#[test]
fn a_stopped_leader_hands_over_and_reads_need_no_majority() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("handover", 3)?;
    let leader = cluster.leader(1)?;
    let other = leader % 3 + 1;
    cluster.machine(leader).end_daemon("TERM", Duration::from_secs(10))?;
    let stopped = Instant::now();
    cluster.incus(other, &["profile", "create", "p1"])?;
    println!("a write after a clean stop of the leader took {} ms", stopped.elapsed().as_millis());

    let third = (leader + 1) % 3 + 1;
    cluster.kill(third)?;
    let asked = Instant::now();
    let said = cluster.refused(other, &["profile", "create", "p2"])?;
    assert!(said.contains("majority"), "{said}");
    assert!(asked.elapsed() < Duration::from_secs(25), "it is refused in time");
    let asked = Instant::now();
    assert!(cluster.incus(other, &["profile", "list", "-f", "csv"])?.contains("p1"));
    assert!(cluster.member(other, other, 'm')?.contains("no majority"));
    assert!(asked.elapsed() < Duration::from_secs(5), "reads answer at once");

    cluster.start(leader)?;
    cluster.until("a majority again", || {
        Ok((cluster.incus_in(other, &["profile", "create", "p3"], "")?.code == 0).then_some(()))
    })?;
    let _ = PATIENCE;
    Ok(())
}

/// Asks a member's daemon as curl does.
fn curl(cluster: &Cluster, from: usize, args: &[&str]) -> Result<String> {
    let machine = &cluster.lab.machines[from - 1];
    let socket = machine.incus_dir().join("unix.socket").to_string_lossy().into_owned();
    machine.must("curl", &[&["-s", "--unix-socket", &socket], args].concat())
}

/// The ETag under which a member shows something.
fn etag(cluster: &Cluster, from: usize, url: &str) -> Result<String> {
    let shown = curl(cluster, from, &["-i", url])?;
    let header = |l: &str| l.to_lowercase().starts_with("etag: ").then(|| l["etag: ".len()..].trim().to_owned());
    Ok(shown.lines().find_map(header).ok_or_else(|| format!("no ETag: {shown}"))?)
}

/// Twelve who ask something at the same time; what they are told.
fn at_once(ask: &(dyn Fn(usize) -> Result<String> + Sync)) -> Result<Vec<String>> {
    std::thread::scope(|s| {
        let all: Vec<_> = (0..12).map(|n| s.spawn(move || ask(n).map_err(|e| e.to_string()))).collect();
        all.into_iter().map(|one| Ok(one.join().unwrap()?)).collect()
    })
}

/// One has done it, and the others were told why they have not.
fn one_wins(what: &str, answers: &[String]) {
    assert_eq!(answers.iter().filter(|a| a.contains("\"status_code\":200")).count(), 1, "{what}: {answers:?}");
    assert_eq!(answers.iter().filter(|a| a.contains("ETag doesn't match")).count(), 11, "{what}: {answers:?}");
}

/// Many who change the same thing at the same time, on several members: one of those who saw the same state wins, and
/// those who change different parts of it all do.
#[test]
fn nobody_overwrites_what_they_have_not_seen() -> Result<()> {
    if lab::skip(&["curl"]) {
        return Ok(());
    }
    let cluster = Cluster::temporary("etags", 2)?;
    cluster.incus(1, &["network", "create", "br1", "ipv4.address=none", "ipv6.address=none"])?;
    cluster.incus(1, &["cluster", "group", "create", "g1"])?;
    cluster.incus(1, &["storage", "volume", "create", "local", "v1"])?;
    for path in [
        "profiles/default",
        "projects/default",
        "cluster/members/server2",
        "cluster/groups/g1",
        "networks/br1",
        "storage-pools/local",
        "storage-pools/local/volumes/custom/v1",
    ] {
        let url = format!("http://incus/1.0/{path}");
        let seen = etag(&cluster, 1, &url)?;
        let answers = at_once(&|n| {
            let (body, header) = (format!("{{\"description\": \"{n}\"}}"), format!("If-Match: {seen}"));
            curl(&cluster, n % 2 + 1, &["-X", "PATCH", "-H", &header, "-d", &body, &url])
        })?;
        one_wins(path, &answers);
        at_once(&|n| {
            let body = format!("{{\"config\": {{\"user.n{n}\": \"{n}\"}}}}");
            curl(&cluster, n % 2 + 1, &["-X", "PATCH", "-d", &body, &url])
        })?;
        let after = curl(&cluster, 2, &[&url])?;
        for n in 0..12 {
            assert!(after.contains(&format!("\"user.n{n}\":\"{n}\"")), "{path}: the change of {n} is lost: {after}");
        }
    }
    snapshots_are_not_overwritten(&cluster)?;
    configuration_is_not_overwritten(&cluster)
}

fn snapshots_are_not_overwritten(cluster: &Cluster) -> Result<()> {
    cluster.incus(1, &["init", "--empty", "c1", "--target", "server2"])?;
    cluster.incus(1, &["snapshot", "create", "c1", "s1"])?;
    let url = "http://incus/1.0/instances/c1/snapshots/s1";
    for method in ["PUT", "PATCH"] {
        let seen = etag(cluster, 1, url)?;
        let answers = at_once(&|n| {
            let year = if method == "PUT" { 2100 } else { 2200 } + n;
            let (body, header) =
                (format!("{{\"expires_at\": \"{year}-01-01T00:00:00Z\"}}"), format!("If-Match: {seen}"));
            let answer = curl(cluster, n % 2 + 1, &["-X", method, "-H", &header, "-d", &body, url])?;
            let begun: serde_json::Value = serde_json::from_str(&answer)?;
            match begun["operation"].as_str().filter(|o| !o.is_empty()) {
                Some(operation) => {
                    let ended = curl(cluster, n % 2 + 1, &[&format!("http://incus{operation}/wait")])?;
                    Ok(serde_json::from_str::<serde_json::Value>(&ended)?["metadata"].to_string())
                }
                None => Ok(answer),
            }
        })?;
        one_wins(method, &answers);
    }
    Ok(())
}

/// Keys that hold everywhere, and a member's own: all that one asks for is done, or nothing.
fn configuration_is_not_overwritten(cluster: &Cluster) -> Result<()> {
    let url = "http://incus/1.0";
    let patch =
        |from: usize, header: &str, body: &str| curl(cluster, from, &["-X", "PATCH", "-H", header, "-d", body, url]);
    for key in ["user.seen", "core.metrics_address"] {
        let header = format!("If-Match: {}", etag(cluster, 1, url)?);
        let answers =
            at_once(&|n| patch(1, &header, &format!("{{\"config\": {{\"{key}\": \"127.0.0.1:{}\"}}}}", 9100 + n)))?;
        one_wins(key, &answers);
    }
    for round in 0..4 {
        let header = format!("If-Match: {}", etag(cluster, 1, url)?);
        let own = cluster.incus(1, &["config", "get", "core.metrics_address"])?;
        let answers = at_once(&|n| match n {
            0 => {
                let port = 9200 + round;
                let both = format!(
                    "{{\"config\": {{\"core.metrics_address\": \"127.0.0.1:{port}\", \"user.a\": \"{port}\"}}}}"
                );
                patch(1, &header, &both)
            }
            _ => patch(2, "X-Nothing: 1", &format!("{{\"config\": {{\"user.n{n}\": \"{round}\"}}}}")),
        })?;
        let now = cluster.incus(1, &["config", "get", "core.metrics_address"])?;
        let all = cluster.incus(2, &["config", "get", "user.a"])?;
        if answers[0].contains("\"status_code\":200") {
            assert_eq!(
                (now.trim(), all.trim()),
                (&*format!("127.0.0.1:{}", 9200 + round), &*(9200 + round).to_string())
            );
        } else {
            assert!(answers[0].contains("ETag doesn't match"), "{answers:?}");
            assert_eq!(now, own, "refused, and half of it was done");
        }
    }
    Ok(())
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
