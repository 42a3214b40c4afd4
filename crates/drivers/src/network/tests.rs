//! Real bridges, real `dnsmasq`, real rules, in namespaces that nobody else sees.
#![allow(clippy::unwrap_used)]

use std::{
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread::sleep,
    time::{Duration, Instant},
};

use host::{
    net::{Change, Kind as LinkKind, Peer, Place},
    netns::Netns,
    nft,
};

use super::*;
use crate::device::nic;

/// A host of its own: a fresh namespace with a fresh directory.
pub(crate) struct Host {
    pub dir: tempfile::TempDir,
    pub net: Net,
}

/// Runs the test on a host of its own, or says that it cannot.
pub(crate) fn on_host(test: impl FnOnce(&Host) + Send) {
    let have = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !have("dnsmasq") || !have("nft") || !have("busybox") {
        eprintln!("SKIPPED: needs dnsmasq, nft and busybox");
        return;
    }
    match Netns::fresh() {
        Ok(namespace) => namespace
            .run(|| {
                let net = Net::open().unwrap();
                net.change("lo", Change { up: Some(true), ..Change::default() }).unwrap();
                let dir = tempfile::tempdir().unwrap();
                // As the daemon's directory is: passable, so that the name server need not be root.
                fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
                test(&Host { dir, net });
            })
            .unwrap(),
        Err(e) => eprintln!("SKIPPED: no network namespace can be made here (not root?): {e}"),
    }
}

impl Host {
    pub fn networks(&self) -> Networks {
        Networks::new(self.dir.path(), "a certificate's fingerprint")
    }

    fn pid(&self, network: &str) -> Option<i32> {
        let file = self.dir.path().join("networks").join(network).join("dnsmasq.pid");
        let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty()).then_some(pid)
    }
}

pub(crate) fn bridge(name: &str, config: &str) -> Definition {
    let pair = |kv: &str| kv.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap();
    let config = config.split_whitespace().map(pair).collect();
    Definition { name: name.into(), kind: "bridge".into(), config }
}

pub(crate) fn wait_for<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = f() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(15), "waited in vain for {what}");
        sleep(Duration::from_millis(20));
    }
}

/// A stand-in for an instance: a process in a namespace of its own.
pub(crate) struct Guest {
    pub namespace: Netns,
    process: std::process::Child,
}

impl Guest {
    pub fn new() -> Self {
        let namespace = Netns::fresh().unwrap();
        let process = namespace.command(Command::new("busybox").args(["sleep", "600"])).spawn().unwrap();
        let pid = process.id();
        wait_for("the guest", || {
            fs::read_to_string(format!("/proc/{pid}/comm")).ok().filter(|c| c.trim() == "busybox")
        });
        Self { namespace, process }
    }
    pub fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }
    pub fn net(&self) -> Net {
        Net::open_in(&self.namespace).unwrap()
    }
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.namespace.command(Command::new("busybox").args(args)).output().unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        text(&output.stdout) + &text(&output.stderr)
    }
    /// Asks for an address by DHCP and takes it; gives what the server said.
    pub fn dhcp(&self, dir: &Path) -> Config {
        static N: AtomicU32 = AtomicU32::new(0);
        let (script, said) = (dir.join("udhcpc"), dir.join(format!("said.{}", N.fetch_add(1, Relaxed))));
        let text = format!("#!/bin/sh\n[ \"$1\" = bound ] && busybox env > {}\nexit 0\n", said.display());
        fs::write(&script, text).unwrap();
        let mode = PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, mode).unwrap();
        let out = self.run(&[
            "udhcpc",
            "-i",
            "eth0",
            "-f",
            "-q",
            "-n",
            "-t",
            "10",
            "-T",
            "1",
            "-s",
            script.to_str().unwrap(),
        ]);
        let said = fs::read_to_string(said).unwrap_or_else(|e| panic!("no lease: {e}: {out}"));
        let got: Config = said.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        self.net().add_address("eth0", format!("{}/{}", got["ip"], got["mask"]).parse().unwrap()).unwrap();
        self.net().add_route("0.0.0.0/0".parse().unwrap(), "eth0", Some(got["router"].parse().unwrap())).unwrap();
        got
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_bridge_starts_again_and_again_survives_its_daemon_and_goes_without_a_trace() {
    on_host(|host| {
        let mut def = bridge("incusbr0", "bridge.mtu=1400");
        fill("bridge", &mut def.config, &[]).unwrap();
        let networks = host.networks();
        networks.create(&def).unwrap();
        networks.start(&def).unwrap();
        let pid = host.pid("incusbr0").unwrap();
        networks.start(&def).unwrap();
        assert_eq!(host.pid("incusbr0"), Some(pid), "a second start disturbs nothing");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.lines().any(|l| l.starts_with("Uid:") && !l.contains("\t0")), "it is not root: {status}");
        let link = host.net.link("incusbr0").unwrap().unwrap();
        assert!(link.is_up() && link.mtu == 1400 && link.mac().starts_with("10:66:6a:"));
        let have: Vec<String> = link.addresses.iter().map(|a| a.net.to_string()).collect();
        for key in ["ipv4.address", "ipv6.address"] {
            assert!(have.contains(&def.config[key]), "{key} {have:?}");
        }
        let rules = nft::table("inet", "incus").unwrap();
        for part in
            ["chain pstrt.incusbr0", "chain fwd.incusbr0", "chain in.incusbr0", "chain out.incusbr0", "masquerade"]
        {
            assert!(rules.contains(part), "{part} is not in {rules}");
        }
        nft::apply("add table inet other\n").unwrap();

        // The daemon restarts; half of the network was lost meanwhile.
        drop(networks);
        assert_eq!(host.pid("incusbr0"), Some(pid), "it outlives the daemon");
        host.net.remove_address("incusbr0", def.config["ipv4.address"].parse().unwrap()).unwrap();
        nft::apply("delete table inet incus\n").unwrap();
        let networks = host.networks();
        networks.start(&def).unwrap();
        assert_eq!(host.pid("incusbr0"), Some(pid), "the next daemon takes it over");
        assert_eq!(host.net.link("incusbr0").unwrap().unwrap().addresses.len(), have.len());
        assert!(!nft::table("inet", "incus").unwrap().is_empty());

        // Killed, it is back; twice, to see that the one that was started anew is watched too.
        let mut pid = pid;
        for _ in 0..2 {
            assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
            pid = wait_for("another dnsmasq", || host.pid("incusbr0").filter(|p| *p != pid));
        }
        wait_for("word of it", || networks.serves_names("incusbr0").then_some(()));

        // A changed configuration needs another process, an unchanged part stays.
        let mut changed = def.clone();
        changed.config.insert("dns.domain".into(), "lab".into());
        changed.config.insert("ipv6.address".into(), "none".into());
        networks.update(&def, &changed).unwrap();
        assert_ne!(host.pid("incusbr0"), Some(pid));
        let v6 = host.net.link("incusbr0").unwrap().unwrap().addresses.iter().any(|a| a.net.addr().is_ipv6());
        assert!(!v6);

        // A wrong one changes nothing.
        let mut wrong = changed.clone();
        wrong.config.insert("raw.dnsmasq".into(), "no-such-option-at-all".into());
        wrong.config.insert("ipv4.address".into(), "10.77.0.1/24".into());
        let e = networks.update(&changed, &wrong).unwrap_err();
        assert!(e.message.contains("dnsmasq refused") && e.message.contains("bad option"), "{e}");
        assert!(networks.serves_names("incusbr0"));
        let addresses = host.net.link("incusbr0").unwrap().unwrap().addresses;
        assert_eq!(addresses[0].net.to_string(), changed.config["ipv4.address"]);

        let pid = host.pid("incusbr0").unwrap();
        networks.rename(&changed, "incusbr1").unwrap();
        let renamed = Definition { name: "incusbr1".into(), ..changed };
        networks.start(&renamed).unwrap();
        networks.delete(&renamed).unwrap();
        networks.delete(&renamed).unwrap();
        assert!(host.net.links().unwrap().iter().all(|l| l.bridge.is_none()));
        assert_eq!(nft::chains("inet", "incus").unwrap(), [""; 0]);
        assert!(nft::table("inet", "incus").unwrap().is_empty() && !nft::table("inet", "other").unwrap().is_empty());
        wait_for("the end of it", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
        assert_eq!(fs::read_dir(host.dir.path().join("networks")).unwrap().count(), 0);
    });
}

#[test]
fn clients_get_addresses_names_and_a_way_out() {
    on_host(|host| {
        // A place beyond the host, that knows nothing of the bridge's subnet.
        let outside = Netns::fresh().unwrap();
        let peer = Peer { name: "out1", ..Peer::default() };
        host.net.create("out0", LinkKind::Veth(peer), Change { up: Some(true), ..Change::default() }).unwrap();
        let place = Some(Place::Netns(outside.as_fd()));
        host.net.change("out1", Change { place, ..Change::default() }).unwrap();
        host.net.add_address("out0", "192.0.2.1/24".parse().unwrap()).unwrap();
        let there = Net::open_in(&outside).unwrap();
        there.change("out1", Change { up: Some(true), ..Change::default() }).unwrap();
        there.add_address("out1", "192.0.2.2/24".parse().unwrap()).unwrap();
        let listener = outside.run(|| std::net::TcpListener::bind("192.0.2.2:80").unwrap()).unwrap();

        let networks = host.networks();
        let def =
            bridge("incusbr0", "ipv4.address=10.88.0.1/24 ipv4.nat=true ipv6.address=fd42:88::1/64 ipv6.nat=true");
        networks.create(&def).unwrap();
        networks.start(&def).unwrap();
        let (first, second) = (Guest::new(), Guest::new());
        for (guest, name, fixed) in [(&first, "c1", ""), (&second, "c2", "10.88.0.77")] {
            let mut config = bridge("x", "type=nic network=incusbr0").config;
            if !fixed.is_empty() {
                config.insert("ipv4.address".into(), fixed.into());
            }
            let network = nic::Network { name: "incusbr0", kind: "bridge", config: &def.config };
            let request = nic::Request {
                hwaddr_pattern: "10:66:6a:xx:xx:xx",
                named_by_hwaddr: false,
                project: "default",
                instance: name,
                device: "eth0",
                config: &config,
                volatile: &Config::new(),
                network: Some(&network),
                names_taken: &Default::default(),
            };
            let nic = nic::resolve(&request).unwrap().unwrap();
            let plug = nic::prepare(&networks, &nic).unwrap();
            nic::plug(&plug, guest.pid()).unwrap();
        }

        let said = first.dhcp(host.dir.path());
        assert_eq!(
            (said["router"].as_str(), said["dns"].as_str(), said["domain"].as_str()),
            ("10.88.0.1", "10.88.0.1", "incus")
        );
        assert_eq!(second.dhcp(host.dir.path())["ip"], "10.88.0.77");
        let mut leases: Vec<_> =
            networks.leases("incusbr0").unwrap().into_iter().map(|l| (l.hostname, l.address)).collect();
        leases.retain(|l| l.1.is_ipv4());
        leases.sort();
        assert_eq!(
            leases,
            [("c1".into(), said["ip"].parse::<IpAddr>().unwrap()), ("c2".into(), "10.88.0.77".parse().unwrap())]
        );

        let answer = first.run(&["nslookup", "c2.incus", "10.88.0.1"]);
        assert!(answer.contains("10.88.0.77"), "{answer}");
        assert!(first.run(&["ping", "-c1", "-W2", "10.88.0.77"]).contains("1 packets received"));
        wait_for("an address by router advertisement", || {
            let link = first.net().link("eth0").unwrap().unwrap();
            link.addresses.iter().any(|a| a.net.to_string().starts_with("fd42:88:")).then_some(())
        });

        let call = first
            .namespace
            .run(|| {
                std::net::TcpStream::connect_timeout(&"192.0.2.2:80".parse().unwrap(), Duration::from_secs(5)).map(drop)
            })
            .unwrap();
        call.unwrap();
        assert_eq!(
            listener.accept().unwrap().1.ip().to_string(),
            "192.0.2.1",
            "the host's address stands for the guest's"
        );

        let inside = state::instance(first.pid()).unwrap();
        let eth0 = &inside["eth0"];
        assert!(eth0.host_name.starts_with("veth") && eth0.state == "up" && eth0.counters.bytes_received > 0);
        assert!(eth0.addresses.iter().any(|a| a.address == said["ip"] && a.netmask == "24" && a.scope == "global"));
        assert_eq!(inside["lo"].kind, "loopback");
        let state = state::network("incusbr0").unwrap();
        assert_eq!(state.bridge.unwrap().upper_devices.len(), 2);
        let shown: Vec<_> = host_networks().unwrap().into_iter().map(|n| (n.name, n.kind)).collect();
        assert!(shown.contains(&("incusbr0".into(), "bridge")) && shown.contains(&("lo".into(), "loopback")));
        assert_eq!(state::network("nothing").unwrap_err().kind, Kind::NotFound);
        networks.delete(&def).unwrap();
    });
}

#[test]
fn what_cannot_be_is_refused() {
    on_host(|host| {
        let networks = host.networks();
        host.net.create("taken", LinkKind::Bridge, Change { up: Some(true), ..Change::default() }).unwrap();
        host.net.add_address("taken", "10.66.0.1/16".parse().unwrap()).unwrap();
        host.net
            .create("plain", LinkKind::Veth(Peer { name: "plain1", ..Peer::default() }), Change::default())
            .unwrap();
        for (name, config, want) in [
            ("taken", "ipv4.address=none ipv6.address=none", "Network interface \"taken\" already exists"),
            ("br0", "ipv4.address=10.66.3.1/24", "overlaps with \"10.66.0.0/16\" of \"taken\""),
            ("br0", "bridge.external_interfaces=nothing", "there is no such interface"),
            ("br0", "bridge.external_interfaces=taken", "only unconfigured network interfaces can be bridged"),
            ("br0", "ipv4.address=10.1.1.1/99", "not an address"),
        ] {
            let def = bridge(name, config);
            let e = networks.create(&def).and_then(|()| networks.start(&def)).unwrap_err();
            assert!(e.message.contains(want), "{config}: {e}");
            if name != "taken" {
                networks.delete(&def).unwrap_or_else(|e| assert!(e.message.contains("not an address"), "{e}"));
            }
        }
        assert!(host.net.link("taken").unwrap().is_some() && host.net.link("br0").unwrap().is_none());
        assert_eq!(validate("ovn", "x0", &Config::new()).unwrap_err().kind, Kind::NotImplemented);
        assert_eq!(validate("ring", "x0", &Config::new()).unwrap_err().message, "Unknown network type \"ring\"");

        let def = bridge("br0", "bridge.external_interfaces=plain ipv4.address=none ipv6.address=none");
        networks.start(&def).unwrap();
        let port = || host.net.link("plain").unwrap().unwrap().master;
        assert_eq!(port(), host.net.index("br0").unwrap());
        assert!(host.pid("br0").is_none() && nft::chains("inet", "incus").unwrap().is_empty());
        networks.update(&def, &bridge("br0", "ipv4.address=none ipv6.address=none")).unwrap();
        assert_eq!(port(), 0);
        let mut auto = Config::new();
        fill("bridge", &mut auto, &["10.0.0.0/9".parse().unwrap()]).unwrap();
        let chosen: IpNet = auto["ipv4.address"].parse().unwrap();
        assert!(!["10.0.0.0/9", "10.66.0.0/16"].iter().any(|n| n.parse::<IpNet>().unwrap().contains(&chosen)));
        networks.delete(&def).unwrap();
    });
}
