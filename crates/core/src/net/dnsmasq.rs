//! What `dnsmasq` is told for a bridge, and what it tells back.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
};

use super::{
    bridge::{Bridge, DnsMode, Side},
    mac::Mac,
};

/// Where `dnsmasq` keeps its things for one network; absolute paths.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// Its process id.
    pub pid: &'a str,
    /// The leases it gave.
    pub leases: &'a str,
    /// A folder of fixed addresses and names, a file for each device.
    pub hosts: &'a str,
    /// Its log.
    pub log: &'a str,
    /// Whom it runs as.
    pub user: &'a str,
}

/// The configuration file for a bridge that has an address.
pub fn config(bridge: &Bridge, files: Files<'_>) -> String {
    let mut out = String::from("# Written by the daemon; changes do not last.\n");
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    for fixed in ["strict-order", "bind-interfaces", "except-interface=lo", "no-ping", "no-negcache", "quiet-dhcp"] {
        line(fixed.into());
    }
    for fixed in ["quiet-dhcp6", "quiet-ra", "dhcp-no-override", "dhcp-authoritative", "dhcp-rapid-commit"] {
        line(fixed.into());
    }
    line(format!("interface={}", bridge.name));
    line(format!("pid-file={}", files.pid));
    line(format!("dhcp-leasefile={}", files.leases));
    line(format!("dhcp-hostsfile={}", files.hosts));
    line(format!("log-facility={}", files.log));
    line(format!("user={}", files.user));
    names(bridge, &mut line);
    if let Some(mtu) = bridge.mtu {
        line(format!("dhcp-option-force=26,{mtu}"));
    }
    if let Some(side) = &bridge.ipv4 {
        ipv4(side, &mut line);
    }
    if let Some(side) = &bridge.ipv6 {
        ipv6(bridge, side, &mut line);
    }
    if !bridge.raw_dnsmasq.is_empty() {
        line(bridge.raw_dnsmasq.trim_end().to_owned());
    }
    out
}

fn names(bridge: &Bridge, line: &mut dyn FnMut(String)) {
    let dns = &bridge.dns;
    if dns.mode != DnsMode::Dynamic {
        // Only what the daemon says about a client's name counts.
        line("dhcp-ignore-names".into());
    }
    if dns.mode != DnsMode::None {
        line(format!("domain={}", dns.domain));
        line(format!("interface-name=_gateway.{},{}", dns.domain, bridge.name));
        line(format!("local=/{}/", dns.domain));
    }
    if !dns.search.is_empty() {
        line(format!("dhcp-option-force=119,{}", dns.search.join(",")));
    }
    let family = |v4: bool| dns.servers.iter().filter(move |s| s.is_ipv4() == v4);
    let v4: Vec<_> = family(true).map(IpAddr::to_string).collect();
    let v6: Vec<_> = family(false).map(|s| format!("[{s}]")).collect();
    if !v4.is_empty() {
        line(format!("dhcp-option-force=6,{}", v4.join(",")));
    }
    if !v6.is_empty() {
        line(format!("dhcp-option-force=option6:dns-server,{}", v6.join(",")));
    }
}

fn ipv4(side: &Side, line: &mut dyn FnMut(String)) {
    line(format!("listen-address={}", side.address.addr()));
    if !side.dhcp {
        return;
    }
    match side.gateway {
        None => {}
        Some(None) => line("dhcp-option-force=3".into()),
        Some(Some(ip)) => line(format!("dhcp-option-force=3,{ip}")),
    }
    if !side.dhcp_routes.is_empty() {
        line(format!("dhcp-option-force=121,{}", side.dhcp_routes.replace(' ', "")));
    }
    for (first, last) in &side.ranges {
        line(format!("dhcp-range={first},{last},{}", side.expiry));
    }
}

fn ipv6(bridge: &Bridge, side: &Side, line: &mut dyn FnMut(String)) {
    line(format!("listen-address={}", side.address.addr()));
    line("enable-ra".into());
    if !side.routing {
        // Addresses are announced, but not as a way out.
        line(format!("ra-param={},0,0", bridge.name));
    }
    if !side.dhcp {
        line(format!("dhcp-range=::,constructor:{},ra-only", bridge.name));
    } else if side.stateful {
        for (first, last) in &side.ranges {
            line(format!("dhcp-range={first},{last},{},{}", side.address.prefix_len(), side.expiry));
        }
    } else {
        line(format!("dhcp-range=::,constructor:{},ra-stateless,ra-names", bridge.name));
    }
}

/// The fixed address and name of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// MAC address of the device.
    pub hwaddr: Mac,
    /// IPv4 address that it always gets.
    pub ipv4: Option<IpAddr>,
    /// IPv6 address that it always gets.
    pub ipv6: Option<IpAddr>,
    /// Name that it gets in the network's domain; none if the network has no names or clients choose them.
    pub name: Option<String>,
}

impl Host {
    /// The line of the hosts file; without the line's end.
    pub fn line(&self) -> String {
        let mut out = self.hwaddr.to_string();
        if let Some(ip) = self.ipv4 {
            let _ = write!(out, ",{ip}");
        }
        if let Some(ip) = self.ipv6 {
            let _ = write!(out, ",[{ip}]");
        }
        if let Some(name) = &self.name {
            let _ = write!(out, ",{name}");
        }
        out
    }

    /// Reads what [`Host::line`] wrote.
    pub fn parse(line: &str) -> Option<Self> {
        let mut parts = line.trim().split(',');
        let mut host = Self { hwaddr: parts.next()?.parse().ok()?, ipv4: None, ipv6: None, name: None };
        for part in parts {
            if let Some(v6) = part.strip_prefix('[').and_then(|p| p.strip_suffix(']')) {
                host.ipv6 = v6.parse().ok();
            } else if let Ok(v4) = part.parse() {
                host.ipv4 = Some(v4);
            } else {
                host.name = Some(part.to_owned());
            }
        }
        Some(host)
    }
}

/// An address that `dnsmasq` gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What the client is called; may be empty.
    pub hostname: String,
    /// MAC address of the client; empty if it did not tell (IPv6).
    pub hwaddr: String,
    /// The address.
    pub address: IpAddr,
}

/// Reads the file of leases; lines that make no sense are left out.
pub fn leases(text: &str) -> Vec<Lease> {
    text.lines().filter_map(lease).collect()
}

/// `EXPIRY MAC-or-IAID ADDRESS NAME CLIENT-ID`
fn lease(line: &str) -> Option<Lease> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [expiry, who, address, name, id, ..] = fields[..] else { return None };
    expiry.parse::<u64>().ok()?;
    let address: IpAddr = address.parse().ok()?;
    let hwaddr = match address {
        IpAddr::V4(_) => who.to_owned(),
        IpAddr::V6(v6) => from_duid(id).or_else(|| from_eui64(v6)).unwrap_or_default(),
    };
    let hostname = if name == "*" { String::new() } else { name.to_owned() };
    Some(Lease { hostname, hwaddr, address })
}

/// The MAC address that ends a client's identifier of type 1 (with time) or 3 (without), for ethernet.
fn from_duid(id: &str) -> Option<String> {
    let bytes: Vec<&str> = id.split(':').collect();
    match (bytes.get(..4)?, bytes.len()) {
        (["00", "01", "00", "01"], 14) | (["00", "03", "00", "01"], 10) => Some(bytes[bytes.len() - 6..].join(":")),
        _ => None,
    }
}

fn from_eui64(ip: Ipv6Addr) -> Option<String> {
    match ip.octets() {
        [.., a, b, c, 0xff, 0xfe, d, e, f] => Some(Mac([a ^ 2, b, c, d, e, f]).to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use api::key::Config;

    use super::*;

    const FILES: Files<'_> = Files { pid: "/p", leases: "/l", hosts: "/h", log: "/o", user: "root" };

    fn has(settings: &[(&str, &str)], wanted: &[&str], unwanted: &[&str]) {
        let config_map: Config = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let text = config(&Bridge::parse("br0", &config_map).unwrap(), FILES);
        let lines: Vec<&str> = text.lines().collect();
        for line in wanted {
            assert!(lines.contains(line), "{line} is missing in\n{text}");
        }
        for part in unwanted {
            assert!(!text.contains(part), "{part} is in\n{text}");
        }
    }

    #[test]
    fn options_become_lines() {
        let v4 = ("ipv4.address", "10.1.2.1/24");
        has(
            &[v4],
            &["interface=br0", "listen-address=10.1.2.1", "dhcp-range=10.1.2.2,10.1.2.254,1h", "local=/incus/"],
            &["enable-ra", "dhcp-option-force"],
        );
        has(&[v4, ("ipv4.dhcp", "false")], &["listen-address=10.1.2.1"], &["dhcp-range"]);
        has(
            &[v4, ("ipv4.dhcp.gateway", "none"), ("bridge.mtu", "1400"), ("dns.search", "a.b, c")],
            &["dhcp-option-force=3", "dhcp-option-force=26,1400", "dhcp-option-force=119,a.b,c"],
            &[],
        );
        has(&[v4, ("dns.mode", "none")], &["dhcp-ignore-names"], &["domain="]);
        has(&[v4, ("dns.mode", "dynamic"), ("dns.domain", "lab")], &["domain=lab"], &["dhcp-ignore-names"]);
        has(&[v4, ("raw.dnsmasq", "address=/x/1.2.3.4\nlog-queries\n")], &["log-queries"], &[]);
        let v6 = ("ipv6.address", "fd42::1/64");
        has(&[v6], &["enable-ra", "dhcp-range=::,constructor:br0,ra-stateless,ra-names"], &[]);
        has(&[v6, ("ipv6.dhcp", "false")], &["dhcp-range=::,constructor:br0,ra-only"], &[]);
        has(
            &[v6, ("ipv6.dhcp.stateful", "true"), ("dns.nameservers", "9.9.9.9,fd42::9")],
            &["dhcp-range=fd42::2,fd42::ffff:ffff:ffff:ffff,64,1h", "dhcp-option-force=option6:dns-server,[fd42::9]"],
            &[],
        );
    }

    #[test]
    fn hosts_are_written_and_read() {
        let mut host =
            Host { hwaddr: "10:66:6a:01:02:03".parse().unwrap(), ipv4: None, ipv6: None, name: Some("c1".into()) };
        assert_eq!(host.line(), "10:66:6a:01:02:03,c1");
        host.ipv4 = Some("10.0.0.5".parse().unwrap());
        host.ipv6 = Some("fd42::5".parse().unwrap());
        assert_eq!(host.line(), "10:66:6a:01:02:03,10.0.0.5,[fd42::5],c1");
        assert_eq!(Host::parse(&host.line()), Some(host));
        assert_eq!(Host::parse("# nothing"), None);
    }

    #[test]
    fn leases_are_read() {
        let text = "1700000000 10:66:6a:01:02:03 10.0.0.5 c1 01:10:66:6a:01:02:03\n\
            1700000000 10:66:6a:01:02:04 10.0.0.6 * *\n\
            duid 00:01:00:01:2d:11:22:33:44:55:66:77:88:99\n\
            1700000000 123456 fd42::77 c2 00:01:00:01:2d:11:22:33:10:66:6a:01:02:05\n\
            1700000000 123457 fd42::1266:6aff:fe01:206 * 00:04:aa\n\
            garbage\n";
        let got: Vec<_> =
            leases(text).into_iter().map(|l| format!("{} {} {}", l.hostname, l.hwaddr, l.address)).collect();
        assert_eq!(
            got,
            [
                "c1 10:66:6a:01:02:03 10.0.0.5",
                " 10:66:6a:01:02:04 10.0.0.6",
                "c2 10:66:6a:01:02:05 fd42::77",
                " 10:66:6a:01:02:06 fd42::1266:6aff:fe01:206",
            ]
        );
    }
}
