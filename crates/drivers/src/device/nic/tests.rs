//! Real links of stand-ins for instances, in namespaces that nobody else sees.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs};

use api::key::Config;

use super::*;
use crate::network::tests::{Guest, bridge, on_host};

fn decide(instance: &str, config: &str, network: Option<&Network<'_>>) -> Result<Nic> {
    let (config, volatile, names_taken) = (bridge("x", config).config, Config::new(), BTreeSet::new());
    let request = Request {
        hwaddr_pattern: "10:66:6a:xx:xx:xx",
        named_by_hwaddr: false,
        project: "p",
        instance,
        device: "eth0",
        config: &config,
        volatile: &volatile,
        network,
        names_taken: &names_taken,
    };
    Ok(resolve(&request)?.unwrap())
}

#[test]
fn a_device_is_plugged_changed_unplugged_and_gone() {
    on_host(|host| {
        let networks = host.networks();
        let def = bridge("br0", "ipv4.address=10.5.0.1/24 ipv4.dhcp=true ipv6.address=none bridge.mtu=1400");
        networks.create(&def).unwrap();
        networks.start(&def).unwrap();
        let network = Network { name: "br0", kind: "bridge", config: &def.config };
        let guest = Guest::new();
        let text = "type=nic network=br0 ipv4.address=10.5.0.9 limits.ingress=10Mbit security.mac_filtering=true \
            security.ipv4_filtering=true ipv4.routes=10.6.0.0/24 security.port_isolation=true";
        let nic = decide("c1", text, Some(&network)).unwrap();
        prepare(&networks, &nic).unwrap();
        // The daemon was killed before it could hand the link over: the next start makes it anew.
        let ready = prepare(&networks, &nic).unwrap();
        assert_eq!((ready.name.as_str(), ready.mtu), ("eth0", Some(1400)));
        plug(&ready, guest.pid()).unwrap();
        let inside = guest.net().link("eth0").unwrap().unwrap();
        assert_eq!((inside.mac(), inside.mtu, inside.is_up()), (ready.hwaddr.clone(), 1400, true));
        let outside = host.net.link(&nic.host_name).unwrap().unwrap();
        assert_eq!((outside.alias.as_str(), outside.isolated), ("p_c1.eth0", true));
        let line = fs::read_to_string(host.dir.path().join("networks/br0/dnsmasq.hosts/p_c1.eth0")).unwrap();
        assert_eq!(line.trim(), format!("{},10.5.0.9,c1.p", ready.hwaddr));
        assert!(host.net.routes().unwrap().iter().any(|r| r.to.to_string() == "10.6.0.0/24"));

        // The filter holds: its own address may be used, another may not.
        let ping = || guest.run(&["ping", "-c1", "-W1", "10.5.0.1"]).contains("1 packets received");
        // What was cut off a moment ago has to find its neighbours again.
        let reaches = || (0..10).any(|_| ping());
        guest.net().add_address("eth0", "10.5.0.9/24".parse().unwrap()).unwrap();
        assert!(reaches());
        guest.net().remove_address("eth0", "10.5.0.9/24".parse().unwrap()).unwrap();
        guest.net().add_address("eth0", "10.5.0.66/24".parse().unwrap()).unwrap();
        assert!(!ping());
        let same =
            format!("type=nic network=br0 ipv4.address=10.5.0.9 host_name={} hwaddr={}", nic.host_name, ready.hwaddr);
        let free = decide("c1", &same, Some(&network)).unwrap();
        update(&networks, &nic, &free).unwrap();
        assert!(reaches());
        assert!(!host.net.routes().unwrap().iter().any(|r| r.to.to_string() == "10.6.0.0/24"));
        let again = decide("c2", "type=nic network=br0 ipv4.address=10.5.0.9", Some(&network)).unwrap();
        let e = prepare(&networks, &again).unwrap_err();
        assert!(e.message.contains("\"10.5.0.9\" of network \"br0\" is in use by \"p_c1.eth0\""), "{e}");
        assert!(host.net.link(&again.host_name).unwrap().is_none(), "nothing stays of what failed");
        let busy = plug(&ready, guest.pid()).unwrap_err();
        assert_eq!(busy.kind, api::Kind::Conflict);

        unplug(&nic, guest.pid()).unwrap();
        unplug(&nic, guest.pid()).unwrap();
        clean(&networks, &nic).unwrap();
        clean(&networks, &nic).unwrap();
        assert!(guest.net().link("eth0").unwrap().is_none() && host.net.link(&nic.host_name).unwrap().is_none());
        assert!(nft::chains("bridge", "incus").unwrap().is_empty());
        assert!(networks.hosts("br0").unwrap().is_empty());
        networks.delete(&def).unwrap();
        let e = prepare(&networks, &nic).unwrap_err();
        assert!(e.message.contains("Parent device \"br0\" doesn't exist"), "{e}");
    });
}

#[test]
fn every_kind_of_device_reaches_the_host_in_its_way() {
    on_host(|host| {
        let networks = host.networks();
        host.net.create("nic0", Kind::Veth(Peer { name: "wire", ..Peer::default() }), Change::default()).unwrap();
        host.net.create("plain", Kind::Bridge, Change::default()).unwrap();
        for (config, on_host) in [
            ("type=nic nictype=p2p ipv4.routes=10.9.0.0/16", true),
            ("type=nic nictype=bridged parent=plain", true),
            ("type=nic nictype=macvlan parent=nic0 mode=private", false),
            ("type=nic nictype=physical parent=nic0 hwaddr=10:66:6a:07:07:07", false),
        ] {
            let guest = Guest::new();
            let nic = decide("c1", config, None).unwrap();
            let ready = prepare(&networks, &nic).unwrap();
            plug(&ready, guest.pid()).unwrap();
            assert!(guest.net().link("eth0").unwrap().unwrap().is_up(), "{config}");
            assert_eq!(host.net.link(&nic.host_name).unwrap().is_some(), on_host, "{config}");
            if let Some(mac) = nic.hwaddr {
                assert_eq!(guest.net().link("eth0").unwrap().unwrap().mac(), mac.to_string(), "{config}");
            }
            unplug(&nic, guest.pid()).unwrap();
            clean(&networks, &nic).unwrap();
            let physical = matches!(nic.mode, Mode::Physical { .. });
            assert_eq!(host.net.link(&nic.host_name).unwrap().is_some(), physical, "{config}");
        }
        for (config, want) in [
            ("type=nic nictype=bridged parent=nic0", "is no bridge"),
            ("type=nic nictype=macvlan parent=gone", "doesn't exist"),
            ("type=nic nictype=physical parent=gone", "doesn't exist"),
        ] {
            let e = prepare(&networks, &decide("c1", config, None).unwrap()).unwrap_err();
            assert!(e.message.contains(want), "{config}: {e}");
        }
    });
}
