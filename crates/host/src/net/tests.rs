//! Against the real kernel, in namespaces that nobody else sees.
#![allow(clippy::unwrap_used)]

use std::{io::ErrorKind, os::fd::AsFd};

use super::*;

/// Runs the test in a fresh namespace, or says that it cannot.
fn inside(test: impl FnOnce(&Net) + Send) {
    match Netns::fresh() {
        Ok(ns) => ns.run(|| test(&Net::open().unwrap())).unwrap(),
        Err(e) => eprintln!("SKIPPED: no network namespace can be made here (not root?): {e}"),
    }
}

#[test]
fn links_are_made_changed_listed_and_removed() {
    inside(|net| {
        let mac = [0x10, 0x66, 0x6a, 1, 2, 3];
        let up = Change { up: Some(true), hwaddr: Some(mac), mtu: Some(1400), ..Change::default() };
        net.create("br0", Kind::Bridge, up).unwrap();
        let again = net.create("br0", Kind::Bridge, Change::default()).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{again}");
        let master = Some(net.index("br0").unwrap());
        let peer = Peer { name: "v1", hwaddr: Some([0x10, 0x66, 0x6a, 9, 9, 9]), mtu: Some(1300) };
        net.create("v0", Kind::Veth(peer), Change { master, up: Some(true), alias: Some("c1"), ..Change::default() })
            .unwrap();
        net.set_port("v0", true, false).unwrap();
        net.set_multicast_snooping("br0", false).unwrap();
        net.add_address("br0", "10.9.8.1/24".parse().unwrap()).unwrap();
        net.add_address("br0", "10.9.8.1/24".parse().unwrap()).unwrap();
        net.add_address("br0", "fd42:1::1/64".parse().unwrap()).unwrap();

        let names: Vec<_> = net.links().unwrap().into_iter().map(|l| l.name).filter(|n| !n.contains("ifb")).collect();
        assert_eq!(names, ["lo", "br0", "v1", "v0"]);
        let bridge = net.link("br0").unwrap().unwrap();
        assert_eq!((bridge.kind.as_str(), bridge.mtu, bridge.is_up()), ("bridge", 1400, true));
        assert_eq!(bridge.mac(), "10:66:6a:01:02:03");
        assert_eq!(bridge.type_name(), "broadcast");
        let b = bridge.bridge.clone().unwrap();
        assert_eq!((b.id.as_str(), b.stp, b.forward_delay), ("8000.10666a010203", false, 1500));
        let addresses: Vec<_> = bridge.addresses.iter().map(|a| (a.net.to_string(), a.scope())).collect();
        assert!(addresses.contains(&("10.9.8.1/24".into(), "global")), "{addresses:?}");
        assert!(addresses.contains(&("fd42:1::1/64".into(), "global")), "{addresses:?}");
        let (v0, v1) = (net.link("v0").unwrap().unwrap(), net.link("v1").unwrap().unwrap());
        assert_eq!((v0.master, v0.isolated, v0.alias.as_str(), v0.parent), (bridge.index, true, "c1", v1.index));
        assert_eq!((v1.mac().as_str(), v1.mtu), ("10:66:6a:09:09:09", 1300));

        net.remove_address("br0", "10.9.8.1/24".parse().unwrap()).unwrap();
        assert!(net.delete("v0").unwrap());
        assert!(!net.delete("v0").unwrap());
        assert!(net.link("v1").unwrap().is_none());
        for bad in ["", "a-name-that-is-much-too-long"] {
            assert_eq!(net.index(bad).unwrap_err().kind(), ErrorKind::NotFound);
            assert!(
                net.create(bad, Kind::Veth(Peer { name: "x", ..Peer::default() }), Change::default()).is_err()
                    || bad.is_empty()
            );
        }
    });
}

#[test]
fn a_link_moves_and_takes_its_new_name() {
    inside(|net| {
        let other = Netns::fresh().unwrap();
        net.create("v0", Kind::Veth(Peer { name: "v1", ..Peer::default() }), Change::default()).unwrap();
        let place = Some(Place::Netns(other.as_fd()));
        net.change("v1", Change { rename: Some("eth0"), place, ..Change::default() }).unwrap();
        assert!(net.link("v1").unwrap().is_none());
        let there = Net::open_in(&other).unwrap();
        there.change("eth0", Change { up: Some(true), ..Change::default() }).unwrap();
        net.change("v0", Change { up: Some(true), ..Change::default() }).unwrap();
        there.add_address("eth0", "10.1.1.2/24".parse().unwrap()).unwrap();
        there.add_route("10.2.0.0/16".parse().unwrap(), "eth0", Some("10.1.1.1".parse().unwrap())).unwrap();
        let routes = there.routes().unwrap();
        assert!(
            routes.iter().any(|r| r.to.to_string() == "10.2.0.0/16" && r.via == Some("10.1.1.1".parse().unwrap())),
            "{routes:?}"
        );
        assert!(there.remove_route("10.2.0.0/16".parse().unwrap(), "eth0").unwrap());
        assert!(!there.remove_route("10.2.0.0/16".parse().unwrap(), "eth0").unwrap());
        assert_eq!(there.link("eth0").unwrap().unwrap().parent, net.index("v0").unwrap());
    });
}

#[test]
fn settings_and_rules_are_those_of_the_namespace() {
    inside(|net| {
        sysctl::set("net/ipv4/ip_forward", "1").unwrap();
        assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), "1");
        assert!(!sysctl::set_if_there("net/ipv4/no_such_thing", "1").unwrap());
        crate::nft::apply("table inet incus { chain in.a { type filter hook input priority 0; }\n}\n").unwrap();
        assert_eq!(crate::nft::chains("inet", "incus").unwrap(), ["in.a"]);
        let refused = crate::nft::apply("add rule inet incus in.b drop\nadd table inet other\n").unwrap_err();
        assert!(refused.to_string().contains("No such file"), "{refused}");
        assert!(crate::nft::table("inet", "other").unwrap().is_empty());
        assert!(crate::nft::chains("inet", "other").unwrap().is_empty());
        net.create("v0", Kind::Veth(Peer { name: "v1", ..Peer::default() }), Change::default()).unwrap();
        net.set_limits("v0", Some(10_000_000), None).unwrap();
        net.set_limits("v0", None, None).unwrap();
    });
}
