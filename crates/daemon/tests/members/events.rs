//! Events travel through hubs.

use std::process::{Child, Stdio};

use lab::{Cluster, Result};

/// Somebody who listens on a machine.
struct Listener {
    child: Child,
    file: std::path::PathBuf,
    number: usize,
}

impl Listener {
    fn start(cluster: &Cluster, number: usize) -> Result<Listener> {
        let machine = &cluster.lab.machines[number - 1];
        let file = machine.dir.join("events");
        let mut command = machine.command(&cluster.programs.incus);
        command.args(["monitor", "--type", "lifecycle", "-f", "json"]);
        let child = command.stdin(Stdio::null()).stdout(std::fs::File::create(&file)?).spawn()?;
        let listener = Listener { child, file, number };
        listener.hears(cluster, number, "begin")?;
        Ok(listener)
    }

    /// Events of machine `from` arrive from now on.
    fn hears(&self, cluster: &Cluster, from: usize, what: &str) -> Result<()> {
        let mut n = 0;
        cluster.until(&format!("{} listens to {from}", self.number), || {
            n += 1;
            let name = format!("{what}{n}");
            self.announce(cluster, from, &name)?;
            Ok((self.heard(&name)? > 0).then_some(()))
        })
    }

    /// Makes a profile of this name on a machine, which is an event there.
    fn announce(&self, cluster: &Cluster, number: usize, name: &str) -> Result<()> {
        cluster.incus(number, &["profile", "create", name])?;
        cluster.incus(number, &["profile", "delete", name]).map(drop)
    }

    /// How often the event that a profile of this name was made has arrived.
    fn heard(&self, name: &str) -> Result<usize> {
        let text = std::fs::read_to_string(&self.file)?;
        let made = |l: &&str| l.contains("\"profile-created\"") && l.contains(&format!("/1.0/profiles/{name}\""));
        Ok(text.lines().filter(made).count())
    }

    /// Events that happen on machine `from` now arrive, each once and as events of that member.
    fn hears_each_once(&self, cluster: &Cluster, from: usize, what: &str) -> Result<()> {
        let names: Vec<String> = (1..=10).map(|n| format!("{what}-{from}-{n}")).collect();
        for name in &names {
            self.announce(cluster, from, name)?;
        }
        let arrived = cluster.until(&format!("{}, events of {from}: {what}", self.number), || {
            let heard = names.iter().map(|n| self.heard(n)).collect::<Result<Vec<_>>>()?;
            Ok((heard.iter().all(|n| *n > 0)).then_some(heard))
        })?;
        assert!(arrived.iter().all(|n| *n == 1), "{what}: {arrived:?}");
        let text = std::fs::read_to_string(&self.file)?;
        let location = format!("\"location\":\"server{from}\"");
        assert!(text.lines().any(|l| l.contains(&names[0]) && l.contains(&location)), "{what}: {text}");
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn modes_until(cluster: &Cluster, wanted: &[(usize, &str)]) -> Result<()> {
    for (number, want) in wanted {
        cluster.until(&format!("{want} on {number}"), || {
            let server = cluster.get(*number, "/1.0")?;
            Ok((server["environment"]["server_event_mode"] == *want).then_some(()))
        })?;
    }
    Ok(())
}

/// Nothing passes between two machines any more.
fn part(cluster: &Cluster, one: usize, other: usize) -> Result<()> {
    let (machine, address) = (&cluster.lab.machines[one - 1], cluster.lab.machines[other - 1].address());
    machine.must("nft", &["add", "table", "inet", "part"])?;
    for (hook, side) in [("input", "saddr"), ("output", "daddr")] {
        machine.must("nft", &[&format!("add chain inet part {hook} {{ type filter hook {hook} priority 0; }}")])?;
        machine.must("nft", &[&format!("add rule inet part {hook} ip {side} {address} drop")])?;
    }
    Ok(())
}

pub fn travel_through_hubs(cluster: &mut Cluster) -> Result<()> {
    cluster.vote(1, &[1, 2, 3])?;
    let listener = Listener::start(cluster, 4)?;
    let (mesh, hub, client) = ("full-mesh", "hub-server", "hub-client");
    // Who has just joined is listened to a moment later.
    listener.hears(cluster, 5, "new")?;
    listener.hears_each_once(cluster, 5, "mesh")?;
    cluster.incus(1, &["cluster", "role", "add", "server1", "event-hub"])?;
    modes_until(cluster, &[(1, mesh), (5, mesh)])?;
    cluster.incus(3, &["cluster", "role", "add", "server2", "event-hub"])?;
    modes_until(cluster, &[(1, hub), (2, hub), (3, client), (4, client), (5, client)])?;
    for from in 1..=5 {
        listener.hears_each_once(cluster, from, "hubs")?;
    }

    // Two that are no hubs can't reach each other.
    part(cluster, 4, 5)?;
    let direct = ["-sk", "--max-time", "2", "https://10.77.0.5:8443/"];
    assert_ne!(cluster.lab.machines[3].run("curl", &direct, "")?.code, 0, "they are parted");
    for from in [5, 3] {
        listener.hears_each_once(cluster, from, "parted")?;
    }
    // A hub dies: the others hear each other through the other one.
    cluster.kill(2)?;
    listener.hears_each_once(cluster, 5, "one-hub")?;
    modes_until(cluster, &[(4, client)])?;
    cluster.start(2)?;
    modes_until(cluster, &[(2, hub), (4, client)])?;
    cluster.lab.machines[3].must("nft", &["delete", "table", "inet", "part"])?;
    listener.hears_each_once(cluster, 5, "two-hubs")?;

    // The end of an operation that runs elsewhere arrives.
    cluster.incus(4, &["cluster", "evacuate", "server5", "--force"])?;
    cluster.incus(4, &["cluster", "restore", "server5", "--force"])?;
    // A member has another name from now on, and so have its events.
    cluster.incus(4, &["cluster", "rename", "server5", "other5"])?;
    listener.announce(cluster, 5, "renamed")?;
    cluster.until("an event of a renamed member", || Ok((listener.heard("renamed")? == 1).then_some(())))?;
    cluster.incus(4, &["cluster", "rename", "other5", "server5"])?;

    // Without any hub left they listen to each other again.
    cluster.incus(1, &["config", "set", "cluster.max_voters=5"])?;
    cluster.vote(1, &[1, 2, 3, 4, 5])?;
    cluster.kill(1)?;
    cluster.kill(2)?;
    modes_until(cluster, &[(3, mesh), (4, mesh), (5, mesh)])?;
    let mut n = 0;
    cluster.until("an event without hubs", || {
        n += 1;
        let name = format!("no-hub-{n}");
        let made = cluster.incus_in(5, &["profile", "create", &name], "")?.code == 0;
        Ok((made && listener.heard(&name)? > 0).then_some(()))
    })?;
    listener.hears_each_once(cluster, 5, "without-hubs")?;
    cluster.start(1)?;
    cluster.start(2)?;
    modes_until(cluster, &[(1, hub), (2, hub), (3, client), (4, client), (5, client)])?;
    listener.hears_each_once(cluster, 5, "hubs-again")?;
    // One hub is none.
    cluster.incus(4, &["cluster", "role", "remove", "server2", "event-hub"])?;
    modes_until(cluster, &[(1, mesh), (2, mesh), (3, mesh), (4, mesh), (5, mesh)])?;
    listener.hears_each_once(cluster, 5, "mesh-again")?;
    cluster.incus(4, &["cluster", "role", "remove", "server1", "event-hub"])?;
    cluster.incus(1, &["config", "unset", "cluster.max_voters"])?;
    super::voters_until(cluster, 1, "three voters", |v| v.len() == 3).map(drop)
}
