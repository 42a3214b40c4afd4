//! Networks on real daemons: bridges that give addresses and names, on one server and on all members of a cluster,
//! whoever is away; and nothing left of them when they are gone.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use lab::cluster::Programs;
use lab::{Cluster, Lab, Machine, Result};
use serde_json::{Value, json};

/// What a machine has of a network: link, name server, rules.
fn has(machine: &Machine, network: &str) -> (bool, bool, bool) {
    let rules = machine.run("nft", &["list", "ruleset"], "").unwrap().out;
    (
        machine.run("ip", &["link", "show", "dev", network], "").unwrap().code == 0,
        dnsmasq(machine, network).is_some(),
        rules.contains(&format!("pstrt.{network} ")),
    )
}

/// Process id of the name server of a network.
fn dnsmasq(machine: &Machine, network: &str) -> Option<String> {
    let conf = format!("conf-file=.*/networks/{network}/dnsmasq.conf");
    let found = machine.run("pgrep", &["-f", &conf], "").unwrap().out;
    found.lines().next().map(str::to_owned)
}

const ALL: (bool, bool, bool) = (true, true, true);
const NOTHING: (bool, bool, bool) = (false, false, false);

/// A stand-in for an instance: a namespace that is plugged into a bridge of its machine.
struct Guest<'a> {
    machine: &'a Machine,
    pid: String,
}

impl<'a> Guest<'a> {
    fn new(machine: &'a Machine, network: &str, name: &str) -> Result<Guest<'a>> {
        let dir = machine.dir.join(format!("guest-{network}-{name}"));
        std::fs::create_dir_all(&dir)?;
        let (told, script) = (dir.join("pid"), dir.join("udhcpc"));
        let text = format!("echo $$ > {}; exec unshare --net sleep 600", told.display());
        // It ends with the machine.
        machine.command("sh").args(["-c", &text]).stdin(std::process::Stdio::null()).spawn()?;
        let pid = lab::run::until(Duration::from_secs(10), || {
            let pid = std::fs::read_to_string(&told).unwrap_or_default().trim().to_owned();
            let comm = machine.run("cat", &[&format!("/proc/{pid}/comm")], "")?.out;
            Ok((comm.trim() == "sleep").then_some(pid))
        })?;
        let card = format!("veth{pid}");
        machine.must("ip", &["link", "add", &card, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        machine.must("ip", &["link", "set", &card, "master", network, "up"])?;
        let guest = Guest { machine, pid };
        guest.must(&["ip", "link", "set", "eth0", "up"])?;
        std::fs::write(&script, "#!/bin/sh\n[ \"$1\" = bound ] && ip addr add $ip/$mask dev $interface\nexit 0\n")?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let (script, said) = (script.to_string_lossy().into_owned(), format!("hostname:{name}"));
        let ask = ["busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "10", "-T", "1", "-s", &script, "-x"];
        guest.must(&[&ask[..], &[&said]].concat())?;
        Ok(guest)
    }

    fn must(&self, args: &[&str]) -> Result<String> {
        self.machine.must("nsenter", &[&["-t", &self.pid, "-n"], args].concat())
    }

    fn address(&self) -> Result<String> {
        let all: Value = serde_json::from_str(&self.must(&["ip", "-j", "-4", "addr", "show", "dev", "eth0"])?)?;
        Ok(all[0]["addr_info"][0]["local"].as_str().unwrap_or_default().to_owned())
    }

    fn resolve(&self, name: &str, server: &str) -> Result<String> {
        self.must(&["busybox", "nslookup", name, server])
    }
}

#[test]
fn one_server_has_networks_that_outlive_its_daemon() -> Result<()> {
    if lab::skip(&["dnsmasq", "nft", "busybox"]) {
        return Ok(());
    }
    let ours = Programs::built()?;
    let mut cluster = Cluster::daemons(Lab::temporary("network", 1)?, ours.clone())?;
    bridge(&mut cluster, "incusbr0")?;
    refusals(&cluster)?;
    match ours.with_stock_client() {
        Some(stock) => {
            cluster.programs = stock;
            bridge(&mut cluster, "incusbr1")?;
        }
        None => eprintln!("SKIPPED: Debian's client isn't installed, only ours is tried"),
    }
    let left = cluster.lab.machines[0].must("ip", &["-br", "link"])?;
    assert!(!left.contains("incusbr"), "{left}");
    Ok(())
}

/// The life of a bridge on a server of its own.
fn bridge(cluster: &mut Cluster, name: &str) -> Result<()> {
    let path = format!("/1.0/networks/{name}");
    cluster.incus(1, &["network", "create", name])?;
    let network = cluster.get(1, &path)?;
    let keys: Vec<&String> = network.as_object().unwrap().keys().collect();
    let golden = ["config", "description", "name", "type", "used_by", "managed", "status", "locations", "project"];
    assert!(golden.iter().all(|k| network.get(k).is_some()) && keys.len() == golden.len(), "{network}");
    assert_eq!((&network["status"], &network["locations"]), (&json!("Created"), &json!(["none"])));
    let address = network["config"]["ipv4.address"].as_str().unwrap().to_owned();
    let gateway = address.split('/').next().unwrap().to_owned();
    assert!(address.starts_with("10.") && address.ends_with(".1/24"), "{address}");
    assert_eq!(network["config"]["ipv4.nat"], "true");
    assert_eq!(has(&cluster.lab.machines[0], name), ALL);

    let list = cluster.incus(1, &["network", "list", "-f", "csv"])?;
    assert!(list.contains(&format!("{name},bridge,YES,{address},")) && list.contains("eth0,"), "{list}");
    assert!(list.lines().any(|l| l.starts_with("lo,loopback,NO,")), "{list}");
    let link = cluster.get(1, "/1.0/networks/lo")?;
    assert_eq!((&link["managed"], &link["locations"], &link["status"]), (&json!(false), &Value::Null, &json!("")));
    assert_eq!(cluster.incus(1, &["network", "get", name, "ipv4.nat"])?.trim(), "true");
    cluster.incus(1, &["network", "set", name, "dns.mode=dynamic", "user.a=1"])?;
    cluster.incus(1, &["network", "unset", name, "user.a"])?;
    assert_eq!(cluster.incus(1, &["network", "get", name, "user.a"])?.trim(), "");
    let text = cluster.incus(1, &["network", "show", name])?;
    let edited = text.replace("description: \"\"", "description: for tests");
    cluster.incus_in(1, &["network", "edit", name], &edited)?.ok()?;
    assert_eq!(cluster.get(1, &path)?["description"], "for tests");
    assert_eq!(cluster.get(1, &path)?["config"]["dns.mode"], "dynamic");
    assert!(cluster.incus(1, &["network", "info", name])?.contains(&gateway));
    let state = cluster.get(1, &format!("{path}/state"))?;
    assert_eq!((&state["type"], &state["state"]), (&json!("broadcast"), &json!("up")));
    assert_eq!(cluster.get(1, "/1.0/networks/lo/state")?["addresses"][0]["address"], "127.0.0.1");

    let guest = Guest::new(&cluster.lab.machines[0], name, "guest")?;
    let given = guest.address()?;
    let leases = cluster.incus(1, &["network", "list-leases", name, "-f", "csv"])?;
    let row = leases.lines().find(|l| l.starts_with("guest,")).unwrap_or_default();
    assert!(row.contains(&given) && row.to_lowercase().contains("dynamic"), "{leases}");
    assert!(guest.resolve("guest.incus", &gateway)?.contains(&given));
    assert!(guest.resolve("_gateway.incus", &gateway)?.contains(&gateway));
    let pid = guest.pid.clone();

    // The daemon is killed; its networks do not notice.
    let server = dnsmasq(&cluster.lab.machines[0], name);
    let index = |c: &Cluster| c.lab.machines[0].must("cat", &[&format!("/sys/class/net/{name}/ifindex")]);
    let before = index(cluster)?;
    cluster.kill(1)?;
    assert_eq!(has(&cluster.lab.machines[0], name), ALL);
    cluster.start(1)?;
    assert_eq!((dnsmasq(&cluster.lab.machines[0], name), index(cluster)?), (server, before));
    let machine = &cluster.lab.machines[0];
    let guest = Guest { machine, pid };
    assert!(guest.resolve("guest.incus", &gateway)?.contains(&given));

    // What half of it was lost is completed at the next start.
    machine.must("nft", &["delete", "table", "inet", "incus"])?;
    cluster.kill(1)?;
    cluster.start(1)?;
    assert_eq!(has(&cluster.lab.machines[0], name), ALL);

    cluster.incus(1, &["network", "rename", name, "incusbr9"])?;
    let machine = &cluster.lab.machines[0];
    assert_eq!((has(machine, name), has(machine, "incusbr9")), (NOTHING, ALL));
    let leases = cluster.incus(1, &["network", "list-leases", "incusbr9", "-f", "csv"])?;
    assert!(leases.contains(&given), "leases keep: {leases}");
    cluster.incus(1, &["network", "attach-profile", "incusbr9", "default", "eth0"])?;
    assert_eq!(cluster.get(1, "/1.0/networks/incusbr9")?["used_by"], json!(["/1.0/profiles/default"]));
    for args in [&["network", "delete", "incusbr9"][..], &["network", "rename", "incusbr9", "incusbr8"]] {
        let said = cluster.refused(1, args)?;
        assert!(said.contains("The network is currently in use"), "{said}");
    }
    cluster.incus(1, &["profile", "device", "remove", "default", "eth0"])?;
    cluster.incus(1, &["network", "delete", "incusbr9"])?;
    assert_eq!(has(&cluster.lab.machines[0], "incusbr9"), NOTHING);
    assert!(!cluster.lab.machines[0].incus_dir().join("networks/incusbr9").exists());
    Ok(())
}

/// What cannot be is refused, says why, and leaves nothing.
fn refusals(cluster: &Cluster) -> Result<()> {
    cluster.incus(1, &["network", "create", "there", "ipv4.address=10.9.8.1/24", "ipv6.address=none"])?;
    for (args, why) in [
        (&["create", "there"][..], "already exists"),
        (&["create", "lo"], "already exists"),
        (&["create", "eth0"], "Network interface \"eth0\" already exists"),
        (&["create", "x"], "too short"),
        (&["create", "a-name-of-sixteen"], "maximum 15 characters"),
        (&["create", "a b"], "invalid characters"),
        (&["create", "new", "--type", "bogus"], "Unknown network type \"bogus\""),
        (&["create", "new", "--type", "ovn"], "not available on this server"),
        (&["create", "new", "bogus.key=1"], "bogus.key"),
        (&["create", "new", "ipv4.address=10.9.8.0/24"], "it is the address of the subnet"),
        (&["create", "new", "ipv4.address=10.9.0.1/16"], "overlaps with \"10.9.8.1/24\" of \"there\""),
        (&["create", "new", "ipv4.address=10.77.0.9/24"], "overlaps"),
        (&["create", "new", "bridge.external_interfaces=eth9"], "there is no such interface"),
        (&["create", "new", "bridge.external_interfaces=eth0"], "unconfigured"),
        (&["create", "new", "--type", "macvlan"], "needs the option \"parent\""),
        (&["create", "new", "--type", "macvlan", "parent=eth9"], "\"eth9\" not found"),
        (&["create", "new", "--target", "server1"], "not clustered"),
        (&["show", "missing"], "Network not found"),
        (&["delete", "missing"], "Network not found"),
        (&["delete", "lo"], "Network not found"),
        (&["info", "missing"], "not found"),
        (&["list-leases", "missing"], "Network not found"),
        (&["rename", "there", "eth0"], "already exists"),
        (&["rename", "there", "a-name-of-sixteen"], "maximum 15 characters"),
        (&["set", "there", "ipv4.address=bogus"], "Invalid IPv4 address"),
        (&["set", "there", "ipv4.address=10.77.0.9/24"], "overlaps"),
        (&["set", "there", "raw.dnsmasq=no-such-option"], "dnsmasq refused"),
    ] {
        let said = cluster.refused(1, &[&["network"], args].concat())?;
        assert!(said.contains(why), "{args:?}: {said}");
    }
    let machine = &cluster.lab.machines[0];
    assert_eq!(machine.run("ip", &["link", "show", "dev", "new"], "")?.code, 1);
    assert!(machine.must("ip", &["-br", "addr", "show", "dev", "there"])?.contains("10.9.8.1/24"));
    assert_eq!(cluster.get(1, "/1.0/networks/there")?["config"].as_object().unwrap().len(), 2);
    assert!(dnsmasq(machine, "there").is_some());

    cluster.incus(1, &["network", "set", "there", "ipv4.address=auto"])?;
    let chosen = cluster.incus(1, &["network", "get", "there", "ipv4.address"])?;
    assert!(chosen.trim().ends_with(".1/24"), "{chosen}");
    assert_eq!(cluster.incus(1, &["network", "get", "there", "ipv6.address"])?.trim(), "none");
    cluster.incus(1, &["project", "create", "own", "-c", "features.networks=true"])?;
    let said = cluster.refused(1, &["network", "create", "new", "--project", "own"])?;
    assert!(said.contains("can only be in the project \"default\""), "{said}");
    assert_eq!(cluster.incus(1, &["network", "list", "--project", "own", "-f", "csv"])?.trim(), "");
    let probe = ["link", "add", "link", "eth0", "name", "probe", "type", "vlan", "id", "9"];
    if machine.run("ip", &probe, "")?.code == 0 {
        machine.must("ip", &["link", "del", "probe"])?;
        cluster.incus(1, &["network", "create", "vlan7", "--type", "macvlan", "parent=eth0", "vlan=7"])?;
        assert_eq!(cluster.get(1, "/1.0/networks/vlan7/state")?["vlan"], json!({"lower_device": "eth0", "vid": 7}));
        cluster.incus(1, &["network", "delete", "vlan7"])?;
    } else {
        eprintln!("SKIPPED: this kernel has no VLANs");
    }
    cluster.incus(1, &["network", "create", "mv0", "--type", "macvlan", "parent=eth0"])?;
    assert_eq!(cluster.get(1, "/1.0/networks/mv0/state")?["addresses"][0]["address"], "10.77.0.1");
    let said = cluster.refused(1, &["network", "list-leases", "mv0"])?;
    assert!(said.contains("give no leases"), "{said}");
    cluster.incus(1, &["network", "delete", "mv0", "there"])?;
    let links = machine.must("ip", &["-br", "link"])?;
    assert!(!links.contains("there") && !links.contains("eth0.7"), "{links}");
    Ok(())
}

#[test]
fn each_member_of_a_cluster_makes_its_own_place_of_each_network() -> Result<()> {
    if lab::skip(&["dnsmasq", "nft", "busybox"]) {
        return Ok(());
    }
    let mut cluster = Cluster::temporary("networks", 3)?;
    cluster.vote(2, &[1, 2, 3])?;
    let ours = cluster.programs.clone();
    everywhere(&cluster)?;
    if let Some(stock) = ours.clone().with_stock_client() {
        cluster.programs = stock;
    }
    each_in_its_own_way(&cluster)?;
    cluster.programs = ours;
    away(&mut cluster)?;
    unavailable(&cluster)?;
    in_the_way(&cluster)?;
    leaving(&cluster)
}

/// A network is on all members when its creation has answered, and its leases come together.
fn everywhere(cluster: &Cluster) -> Result<()> {
    cluster.incus(2, &["network", "create", "incusbr0", "ipv6.address=none", "dns.mode=dynamic"])?;
    let machines = &cluster.lab.machines;
    let network = cluster.get(3, "/1.0/networks/incusbr0")?;
    let address = network["config"]["ipv4.address"].as_str().unwrap().to_owned();
    assert_eq!(network["locations"].as_array().unwrap().len(), 3);
    let mut cards = std::collections::BTreeSet::new();
    for (number, machine) in (1..).zip(machines) {
        assert_eq!(has(machine, "incusbr0"), ALL);
        assert!(machine.must("ip", &["-br", "addr", "show", "dev", "incusbr0"])?.contains(&address));
        cards.insert(
            cluster.get(1, &format!("/1.0/networks/incusbr0/state?target=server{number}"))?["hwaddr"].to_string(),
        );
    }
    assert_eq!(cards.len(), 3, "each has a MAC address of its own: {cards:?}");
    let guests = [Guest::new(&machines[0], "incusbr0", "one")?, Guest::new(&machines[1], "incusbr0", "two")?];
    let leases = cluster.incus(3, &["network", "list-leases", "incusbr0", "-f", "csv"])?;
    for (guest, (name, member)) in guests.iter().zip([("one", "server1"), ("two", "server2")]) {
        let row = leases.lines().find(|l| l.starts_with(&format!("{name},"))).unwrap_or_default();
        assert!(row.contains(&guest.address()?) && row.contains(member), "{leases}");
    }
    Ok(())
}

/// What differs between the members is announced first.
fn each_in_its_own_way(cluster: &Cluster) -> Result<()> {
    let refused = cluster.refused(1, &["network", "create", "mv", "--type", "macvlan", "parent=eth0"])?;
    assert!(refused.contains("\"parent\" is specific to each member"), "{refused}");
    for number in 1..=3 {
        let target = format!("server{number}");
        cluster.incus(2, &["network", "create", "mv", "--type", "macvlan", "parent=eth0", "--target", &target])?;
    }
    let again =
        cluster.refused(1, &["network", "create", "mv", "--type", "macvlan", "parent=eth0", "--target", "server1"])?;
    assert!(again.contains("already defined"), "{again}");
    let refused = cluster.refused(1, &["network", "create", "n2", "ipv4.nat=true", "--target", "server1"])?;
    assert!(refused.contains("is the same on all members"), "{refused}");
    assert!(cluster.incus(1, &["network", "list", "-f", "csv"])?.contains("mv,macvlan,YES,,,,0,PENDING"));
    cluster.incus(3, &["network", "create", "mv", "--type", "macvlan"])?;
    assert_eq!(cluster.get(1, "/1.0/networks/mv")?["config"], json!({}));
    assert_eq!(cluster.get(1, "/1.0/networks/mv?target=server2")?["config"], json!({"parent": "eth0"}));
    assert_eq!(cluster.get(1, "/1.0/networks/mv")?["status"], "Created");
    let asked = cluster.get(1, "/1.0/cluster")?["member_config"].clone();
    assert!(
        asked.as_array().unwrap().iter().any(|q| q["entity"] == "network" && q["name"] == "mv" && q["key"] == "parent"),
        "{asked}"
    );
    let refused = cluster.refused(1, &["network", "set", "mv", "mtu=1400", "--target", "server2"])?;
    assert!(refused.contains("can't be changed with a target"), "{refused}");
    let refused = cluster.refused(1, &["network", "set", "mv", "parent=eth9", "--target", "server1"])?;
    assert!(refused.contains("\"eth9\" not found"), "{refused}");
    assert_eq!(cluster.get(2, "/1.0/networks/mv?target=server1")?["config"], json!({"parent": "eth0"}));
    Ok(())
}

/// A member that is away keeps nobody from anything, and is in line when it is back.
fn away(cluster: &mut Cluster) -> Result<()> {
    cluster.incus(1, &["network", "create", "doomed", "ipv6.address=none"])?;
    cluster.incus(1, &["network", "create", "oldname", "ipv6.address=none"])?;
    cluster.kill(3)?;
    assert_eq!(has(&cluster.lab.machines[2], "doomed"), ALL);
    let started = Instant::now();
    cluster.until("a network without the member that is away", || {
        let done = cluster.incus_in(1, &["network", "create", "later", "ipv6.address=none"], "")?;
        Ok((done.code == 0 || done.err.contains("already exists")).then_some(()))
    })?;
    println!("created without the third member after {} ms", started.elapsed().as_millis());
    cluster.incus(2, &["network", "set", "incusbr0", "ipv4.nat=false"])?;
    cluster.incus(2, &["network", "rename", "oldname", "newname"])?;
    cluster.incus(2, &["network", "delete", "doomed"])?;
    cluster.until("the second and first in line", || {
        let there = |n: usize| {
            let m = &cluster.lab.machines[n];
            has(m, "doomed") == NOTHING && has(m, "newname") == ALL && has(m, "incusbr0") == (true, true, false)
        };
        Ok((there(0) && there(1)).then_some(()))
    })?;
    let leases = Instant::now();
    cluster.incus(1, &["network", "list-leases", "incusbr0"])?;
    assert!(leases.elapsed() < Duration::from_secs(5), "leases do not wait for a member that is away");
    cluster.start(3)?;
    let third = &cluster.lab.machines[2];
    cluster.until("the third in line", || {
        let there = has(third, "later") == ALL
            && has(third, "incusbr0") == (true, true, false)
            && (has(third, "oldname"), has(third, "newname")) == (NOTHING, ALL)
            && has(third, "doomed") == NOTHING;
        Ok(there.then_some(()))
    })?;
    assert!(!third.incus_dir().join("networks/doomed").exists());
    cluster.incus(3, &["network", "delete", "later", "newname"]).map(drop)
}

/// What one member cannot make is there on the others; it says so, and is mended.
fn unavailable(cluster: &Cluster) -> Result<()> {
    let second = &cluster.lab.machines[1];
    second.must("ip", &["link", "add", "dummy0", "type", "bridge"])?;
    second.must("ip", &["addr", "add", "10.99.0.7/24", "dev", "dummy0"])?;
    cluster
        .incus(1, &["network", "create", "half", "ipv4.address=10.99.0.1/24", "ipv4.nat=true", "ipv6.address=none"])?;
    assert_eq!((has(&cluster.lab.machines[0], "half"), has(second, "half")), (ALL, NOTHING));
    assert_eq!(cluster.get(1, "/1.0/networks/half")?["status"], "Created");
    assert_eq!(cluster.get(1, "/1.0/networks/half?target=server2")?["status"], "Unavailable");
    let warnings = cluster.incus(1, &["warning", "list", "-f", "csv"])?;
    assert!(warnings.contains("Network unavailable"), "{warnings}");
    cluster.incus(1, &["network", "set", "half", "ipv4.address=10.98.0.1/24"])?;
    cluster.until("it on the second", || Ok((has(second, "half") == ALL).then_some(())))?;
    cluster.until("word of it", || {
        Ok((cluster.get(1, "/1.0/networks/half?target=server2")?["status"] == "Created").then_some(()))
    })?;
    cluster.incus(2, &["network", "delete", "half"])?;
    cluster.until("nothing of it", || Ok((has(&cluster.lab.machines[0], "half") == NOTHING).then_some(())))
}

/// What one member can't take down it tries again by itself, though nothing changes in the database any more.
fn in_the_way(cluster: &Cluster) -> Result<()> {
    let second = &cluster.lab.machines[1];
    cluster.incus(1, &["network", "create", "stuck", "ipv6.address=none"])?;
    let dir = second.incus_dir().join("networks/stuck");
    let blocked = dir.join("blocked").to_string_lossy().into_owned();
    second.must("mkdir", &[&blocked])?;
    second.must("mount", &["-t", "tmpfs", "tmpfs", &blocked])?;
    cluster.incus(1, &["network", "delete", "stuck"])?;
    cluster.until("word of it", || Ok(second.log_tail(200).contains("a network that was deleted").then_some(())))?;
    assert!(dir.exists());
    second.must("umount", &[&blocked])?;
    cluster.until("it gone", || Ok((!dir.exists() && has(second, "stuck") == NOTHING).then_some(())))
}

/// A member that leaves takes nothing along; one that joins gets all.
fn leaving(cluster: &Cluster) -> Result<()> {
    let third = &cluster.lab.machines[2];
    let started = Instant::now();
    cluster.incus(1, &["cluster", "remove", "server3", "--yes"])?;
    println!("removed after {} ms", started.elapsed().as_millis());
    cluster.until("nothing on the member that left", || {
        let gone = has(third, "incusbr0") == NOTHING && !third.incus_dir().join("networks/incusbr0").exists();
        let own = cluster.incus_in(3, &["network", "list", "-f", "csv"], "")?;
        Ok((gone && own.code == 0 && !own.out.contains("YES")).then_some(()))
    })?;
    println!("left after {} ms", started.elapsed().as_millis());
    let join = |parent: &str| -> Result<lab::run::Output> {
        let preseed = format!(
            "cluster:\n  enabled: true\n  server_address: {}:8443\n  cluster_token: {}\n  member_config:\n  - entity: \
             network\n    name: mv\n    key: parent\n    value: \"{parent}\"\n",
            third.address(),
            cluster.token("server3")?
        );
        cluster.incus_in(3, &["admin", "init", "--preseed"], &preseed)
    };
    let said = join("")?.refused()?;
    assert!(said.contains("needs the option \"parent\""), "{said}");
    assert_eq!(has(third, "incusbr0"), NOTHING);
    join("eth0")?.ok()?;
    assert_eq!(has(third, "incusbr0"), (true, true, false));
    assert_eq!(cluster.get(3, "/1.0/networks/mv?target=server3")?["config"], json!({"parent": "eth0"}));

    cluster.incus(3, &["network", "delete", "incusbr0", "mv"])?;
    cluster.until("nothing anywhere", || {
        Ok(cluster.lab.machines.iter().all(|m| has(m, "incusbr0") == NOTHING).then_some(()))
    })?;
    assert!(!third.incus_dir().join("networks/incusbr0").exists());
    Ok(())
}
