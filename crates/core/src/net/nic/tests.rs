//! Which device configurations become what, and which are refused.

#![allow(clippy::unwrap_used)]

use super::*;

fn config(text: &str) -> Config {
    text.split_whitespace().map(|kv| kv.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Resolves `eth0` of `c1`, on a managed network when the configuration names one.
fn eth0(device: &str, volatile: &str, network: &str, taken: &[&str]) -> Result<Option<Nic>> {
    let (device, volatile, network) = (config(device), config(volatile), config(network));
    let kind = if network.contains_key("parent") { "macvlan" } else { "bridge" };
    let names_taken = taken.iter().map(|n| (*n).to_owned()).collect();
    let network = Network { name: "br0", kind, config: &network };
    let request = Request {
        hwaddr_pattern: "10:66:6a:xx:xx:xx",
        named_by_hwaddr: false,
        project: "default",
        instance: "c1",
        device: "eth0",
        config: &device,
        volatile: &volatile,
        network: Some(&network),
        names_taken: &names_taken,
    };
    let mut next = 0x0102_0304_0506_u64;
    resolve(&request, &mut || {
        next += 1;
        next
    })
}

#[test]
fn what_is_missing_is_chosen_and_noted() {
    let nic = eth0("type=nic network=br0", "", "ipv4.address=10.0.0.1/24 bridge.mtu=1400", &["eth0"]).unwrap().unwrap();
    assert_eq!(nic.host_name, "veth03040508");
    assert!(nic.link.starts_with("veth") && nic.link != nic.host_name);
    assert_eq!((nic.name.as_str(), nic.mtu), ("eth1", Some(1400)));
    assert_eq!(nic.hwaddr.unwrap().to_string(), "10:66:6a:07:05:04");
    assert_eq!(
        nic.volatile,
        config("volatile.eth0.host_name=veth03040508 volatile.eth0.hwaddr=10:66:6a:07:05:04 volatile.eth0.name=eth1")
    );
    assert_eq!(nic.host.unwrap().line(), "10:66:6a:07:05:04,c1");
}

#[test]
fn the_host_side_can_be_named_after_the_address() {
    let (device, none) = (config("type=nic nictype=p2p"), Config::new());
    let request = Request {
        hwaddr_pattern: "00:16:3e:00:00:xx",
        named_by_hwaddr: true,
        project: "default",
        instance: "c1",
        device: "eth0",
        config: &device,
        volatile: &none,
        network: None,
        names_taken: &Default::default(),
    };
    let nic = resolve(&request, &mut || 0xab).unwrap().unwrap();
    assert_eq!(
        (nic.hwaddr.unwrap().to_string().as_str(), nic.host_name.as_str()),
        ("00:16:3e:00:00:ab", "inc163e0000ab")
    );
}

#[test]
fn what_was_noted_stays() {
    let notes = "volatile.eth0.hwaddr=10:66:6a:00:00:01 volatile.eth0.name=eth5 volatile.eth0.host_name=veth00000001";
    let nic = eth0("type=nic nictype=p2p ipv4.routes=10.9.0.0/16", notes, "", &[]).unwrap().unwrap();
    assert_eq!((nic.name.as_str(), nic.host_name.as_str()), ("eth5", "veth00000001"));
    assert_eq!(nic.volatile, config("volatile.eth0.host_name=veth00000001"));
    assert_eq!((nic.mode, nic.routes[0].to_string().as_str()), (Mode::P2p, "10.9.0.0/16"));
    let unplugged = eth0("type=nic nictype=p2p attached=false", "", "", &[]).unwrap();
    assert_eq!(unplugged, None);
    let over = eth0("type=nic network=br0 mode=vepa", "", "parent=eth9 vlan=7 mtu=1450", &[]).unwrap().unwrap();
    let mode = Mode::Macvlan { parent: "eth9".into(), mode: "vepa".into(), vlan: Some(7), gvrp: false };
    assert_eq!((over.mode, over.mtu), (mode, Some(1450)));
}

#[test]
fn bad_devices_are_refused_in_words() {
    for (device, network, want) in [
        ("type=nic", "", "needs \"network\" or \"nictype\""),
        ("type=nic nictype=bridged", "", "needs the option \"parent\""),
        ("type=nic nictype=dsl", "", "Unsupported nictype \"dsl\""),
        ("type=nic nictype=ovn", "", "not available on this server"),
        ("type=nic network=other", "", "Network \"other\" not found"),
        ("type=nic network=br0 parent=br1", "", "Cannot use \"parent\" property in conjunction"),
        ("type=nic nictype=p2p colour=red", "", "Invalid device option \"colour\""),
        ("type=nic nictype=p2p parent=br0", "", "Invalid device option \"parent\""),
        ("type=nic nictype=p2p mtu=1", "", "Invalid value for device option \"mtu\""),
        ("type=nic nictype=p2p hwaddr=xx", "", "device option \"hwaddr\""),
        ("type=nic nictype=p2p name=a/b", "", "invalid characters"),
        ("type=nic nictype=p2p name=eth7", "", "called \"eth7\" already"),
        ("type=nic nictype=p2p host_name=much-too-long-name", "", "too long"),
        ("type=nic nictype=p2p limits.max=fast", "", "Invalid speed \"fast\""),
        ("type=nic network=br0 ipv4.address=10.0.1.5", "ipv4.address=10.0.0.1/24", "not within network \"br0\" subnet"),
        ("type=nic network=br0 ipv4.address=10.0.0.1", "ipv4.address=10.0.0.1/24", "is that of the network"),
        ("type=nic network=br0 ipv4.address=10.0.0.9", "", "has no \"ipv4.address\""),
        (
            "type=nic network=br0 ipv6.address=fd42::5",
            "ipv6.address=fd42::1/64",
            "\"ipv6.dhcp.stateful\" is not enabled",
        ),
        ("type=nic network=br0 security.ipv4_filtering=true", "", "it needs \"ipv4.address\""),
        ("type=nic nictype=macvlan parent=eth0 mode=x", "", "not one of [bridge vepa passthru private]"),
    ] {
        let e = eth0(device, "", network, &["eth7"]).unwrap_err();
        assert!(e.message.contains(want), "{device}: {e}");
    }
}

#[test]
fn speeds_have_units() {
    for (v, want) in [("10", Ok(10)), ("10Mbit", Ok(10_000_000)), ("2Kibit", Ok(2048)), ("1 Gbit", Ok(1_000_000_000))] {
        assert_eq!(bits(v), want);
    }
    for bad in ["", "bit", "-1", "1MB", "0", "99999999999999Tbit"] {
        assert!(bits(bad).is_err(), "{bad}");
    }
}

#[test]
fn labels_name_files_and_rules() {
    assert_eq!(label("default", "c1", "eth0"), "c1.eth0");
    assert_eq!(label("p", "c1", "eth0"), "p_c1.eth0");
    let odd = label("default", "c1", "a/b c");
    assert!(odd.starts_with("c1.a-b-c-") && odd != label("default", "c1", "a-b c"));
}
