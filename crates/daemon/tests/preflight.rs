//! Forming and joining a cluster with several things wrong at once: all of them are told, and nothing has changed.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use api::cluster::JoinToken;
use lab::cluster::Programs;
use lab::{Cluster, Lab, Result};

fn set_up(cluster: &Cluster, number: usize, preseed: &str) -> Result<lab::Output> {
    cluster.incus_in(number, &["admin", "init", "--preseed"], preseed)
}

/// A join by preseed that is refused; what was said.
fn refused(cluster: &Cluster, number: usize, token: &str, address: &str, more: &str) -> Result<String> {
    let preseed = format!("cluster:\n  enabled: true\n  server_address: {address}\n  cluster_token: {token}\n{more}");
    set_up(cluster, number, &preseed)?.refused()
}

fn lists(said: &str, count: usize, faults: &[&str]) {
    assert!(said.contains(&format!(": {count} things have to be put right first\n")), "{said}");
    assert_eq!(said.matches("\n- ").count(), count, "{said}");
    for fault in faults {
        assert!(said.contains(&format!("\n- {fault}")), "{fault} is not in: {said}");
    }
}

#[test]
fn everything_that_stands_in_the_way_is_told_at_once() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let mut cluster = Cluster::daemons(Lab::temporary("preflight", 3)?, Programs::built()?)?;
    bootstrap(&cluster)?;
    cluster.bootstrap()?;
    cluster.incus(1, &["network", "create", "br7", "ipv4.address=none", "ipv6.address=none"])?;
    let token = cluster.token("server2")?;

    // One fault is told as ever.
    let said = refused(&cluster, 2, &token, "10.99.0.9", "")?;
    assert_eq!(
        said.trim(),
        "Error: Failed to join cluster: Cannot listen on https socket \"10.99.0.9:8443\": Cannot assign requested \
         address (os error 99)"
    );
    let machine = &cluster.lab.machines[1];
    machine.must("ip", &["link", "add", "br7", "type", "bridge"])?;
    let said = refused(&cluster, 2, &token, "10.77.0.2", "")?;
    assert_eq!(said.trim(), "Error: Failed to join cluster: Network \"br7\": Network interface \"br7\" already exists");

    // Now many.
    cluster.incus(2, &["storage", "create", "mine", "dir"])?;
    cluster.incus(2, &["network", "create", "br8", "ipv4.address=none", "ipv6.address=none"])?;
    let place = cluster.lab.machines[1].dir.join("place");
    std::fs::create_dir(&place)?;
    std::fs::write(place.join("something"), "")?;
    let source = answer("storage-pool", "local", "source", &place);
    let other = answer("storage-pool", "nope", "source", Path::new("/x"));
    let more = format!("  member_config:\n{source}{other}");
    let said = refused(&cluster, 2, &token, "10.99.0.9", &more)?;
    lists(
        &said,
        6,
        &[
            "This server has 1 storage pools: only a server",
            "This server has 1 networks: only a server",
            "Cannot listen on https socket \"10.99.0.9:8443\"",
            &format!("Storage pool \"local\": Source path \"{}\" isn't empty", place.display()),
            "Network \"br7\": Network interface \"br7\" already exists",
            "member_config speaks of the storage-pool \"nope\", which the cluster does not have",
        ],
    );
    unreachable(&mut cluster, &token)?;

    // Nothing has changed, and the token is still good.
    assert!(!cluster.incus(2, &["config", "show"])?.contains("https_address"));
    assert!(cluster.refused(2, &["cluster", "list"])?.contains("isn't part of a cluster"));
    assert_eq!(cluster.incus(1, &["cluster", "list", "-f", "csv", "-c", "n"])?.trim(), "server1");
    cluster.incus(2, &["storage", "delete", "mine"])?;
    cluster.incus(2, &["network", "delete", "br8"])?;
    cluster.lab.machines[1].must("ip", &["link", "del", "br7"])?;
    cluster.join_with(2, &token)?.ok()?;
    assert_eq!(cluster.member(1, 2, 's')?, "ONLINE");
    taken(&cluster)
}

fn answer(entity: &str, name: &str, key: &str, value: &Path) -> String {
    format!("  - entity: {entity}\n    name: {name}\n    key: {key}\n    value: {}\n", value.display())
}

fn bootstrap(cluster: &Cluster) -> Result<()> {
    let enable = |name: &str, address: &str| -> Result<String> {
        let body = format!(r#"{{"server_name":"{name}","enabled":true,"server_address":"{address}"}}"#);
        cluster.refused(1, &["query", "--wait", "-X", "PUT", "-d", &body, "/1.0/cluster"])
    };
    lists(&enable("not_a_name", "10.99.0.9")?, 2, &["Cannot listen on https socket \"10.99.0.9:8443\""]);
    let said = enable("server1", "0.0.0.0")?;
    assert!(said.contains("Cannot use the wildcard address \"0.0.0.0:8443\"") && !said.contains("\n- "), "{said}");
    assert!(!cluster.incus(1, &["config", "show"])?.contains("https_address"));
    Ok(())
}

/// The cluster is asked through the only way that is open, and does not get back through it.
fn unreachable(cluster: &mut Cluster, token: &str) -> Result<()> {
    let machine = &cluster.lab.machines[1];
    machine.must("ip", &["addr", "add", "10.88.0.2/32", "dev", "lo"])?;
    let said = refused(cluster, 2, token, "10.88.0.2", "")?;
    lists(
        &said,
        4,
        &["Failed request to add member: The member \"server1\" can't reach the joining server at 10.88.0.2:8443: "],
    );
    Ok(())
}

/// Names and addresses that another member has.
fn taken(cluster: &Cluster) -> Result<()> {
    let token = cluster.token("server3")?;
    let wrong = JoinToken { secret: "0".repeat(64), ..JoinToken::decode(&token)? };
    let said = refused(cluster, 3, &wrong.encode(), "10.77.0.3", "")?;
    assert!(!said.contains("\n- "), "{said}");
    // Another one has come first by that name.
    let row = "INSERT INTO nodes (name, address, schema, api_extensions) VALUES ('server3', '10.77.0.3:8443', 1, 1)";
    cluster.incus(1, &["admin", "sql", "global", row])?;
    let said = refused(cluster, 3, &token, "10.77.0.3", "")?;
    lists(
        &said,
        2,
        &[
            "Failed request to add member: The cluster already has a member with name: server3",
            "Failed request to add member: The cluster already has a member with address: 10.77.0.3:8443",
        ],
    );
    cluster.incus(1, &["admin", "sql", "global", "UPDATE nodes SET address = 'x' WHERE name = 'server3'"])?;
    let said = refused(cluster, 3, &token, "10.77.0.3", "")?;
    assert_eq!(
        said.trim(),
        "Error: Failed to join cluster: Failed request to add member: The cluster already has a member with name: \
         server3"
    );
    cluster.incus(1, &["admin", "sql", "global", "DELETE FROM nodes WHERE name = 'server3'"])?;
    cluster.join_with(3, &token)?.ok().map(drop)
}
