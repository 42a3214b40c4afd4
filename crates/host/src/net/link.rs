//! Links: making, changing, removing and listing them.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use ipnet::IpNet;

use super::{
    Net,
    route::Address,
    wire::{Attrs, Message, attrs, text, u16_at, u32_at, u64_at},
    words,
};

const INFO_VETH_PEER: u16 = 1;
const VLAN_ID: u16 = 1;
const VLAN_FLAGS: u16 = 2;
const VLAN_FLAG_GVRP: u32 = 2;
const MACVLAN_MODE: u16 = 1;
const BR_FORWARD_DELAY: u16 = 1;
const BR_STP_STATE: u16 = 5;
const BR_VLAN_FILTERING: u16 = 7;
const BR_BRIDGE_ID: u16 = 11;
const BR_MULTICAST_SNOOPING: u16 = 23;
const BR_VLAN_DEFAULT: u16 = 39;
const BRPORT_MODE: u16 = 4;
const BRPORT_ISOLATED: u16 = 33;
const PARENT_DEV_NAME: u16 = 56;

/// What a link is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A bridge of the kernel's own kind.
    Bridge,
    /// A pair of links; what goes into one comes out of the other.
    Veth(Peer<'a>),
    /// A link that leads nowhere.
    Dummy,
    /// The packets of one VLAN of another link.
    Vlan {
        /// Name of the link that carries the VLAN.
        parent: &'a str,
        /// Number of the VLAN.
        id: u16,
        /// Announce it with GVRP.
        gvrp: bool,
    },
    /// A further MAC address of another link.
    Macvlan {
        /// Name of that link.
        parent: &'a str,
        /// `bridge`, `vepa`, `private` or `passthru`.
        mode: &'a str,
    },
}

/// The other end of a veth pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address; the kernel's choice if not given.
    pub hwaddr: Option<[u8; 6]>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
}

/// Where a link may be moved.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The network namespace of a process.
    Pid(i32),
    /// An open network namespace.
    Netns(BorrowedFd<'a>),
}

/// What is to change about a link, or holds from its making; what is not set stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// Up or down.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// MAC address.
    pub hwaddr: Option<[u8; 6]>,
    /// Index of the bridge that it becomes a port of; 0 for none.
    pub master: Option<u32>,
    /// Words for people, shown by `ip link`.
    pub alias: Option<&'a str>,
    /// A new name.
    pub rename: Option<&'a str>,
    /// Length of the transmit queue in packets.
    pub queue: Option<u32>,
    /// A new namespace; takes effect together with the new name.
    pub place: Option<Place<'a>>,
}

/// Packets and bytes that went through a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Counters {
    pub packets_received: u64,
    pub packets_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub errors_received: u64,
    pub errors_sent: u64,
    pub dropped_inbound: u64,
    pub dropped_outbound: u64,
}

/// What is particular to a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// Priority and address, as `8000.10666afff36a`.
    pub id: String,
    /// Whether the spanning tree protocol runs.
    pub stp: bool,
    /// In hundredths of a second.
    pub forward_delay: u32,
    /// VLAN of untagged packets.
    pub vlan_default: u16,
    /// Whether VLANs are kept apart.
    pub vlan_filtering: bool,
}

/// What is particular to a VLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vlan {
    /// Its number.
    pub id: u16,
}

/// A link as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, `vlan`, …; empty for hardware and the loopback.
    pub kind: String,
    /// Kind of device underneath (`ARPHRD_…`).
    pub hardware: u16,
    /// `IFF_…`.
    pub flags: u32,
    /// In bytes.
    pub mtu: u32,
    /// MAC address, as bytes; empty if it has none.
    pub hwaddr: Vec<u8>,
    /// Index of the bridge or bond that it belongs to; 0 for none.
    pub master: u32,
    /// Index of the link underneath, or of a veth's other end (which may be in another namespace); 0 for none.
    pub parent: u32,
    /// Words for people.
    pub alias: String,
    /// Whether a bus device stands behind it.
    pub on_bus: bool,
    /// Whether a port of a bridge is kept apart from the other isolated ones.
    pub isolated: bool,
    /// Set for bridges.
    pub bridge: Option<Bridge>,
    /// Set for VLANs.
    pub vlan: Option<Vlan>,
    /// Traffic since it was made.
    pub counters: Counters,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

impl Link {
    /// Whether it is administratively up.
    pub const fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }
    /// Whether it is the loopback.
    pub const fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK as u32 != 0
    }
    /// `loopback`, `broadcast`, `point-to-point` or `unknown`, as clients are told.
    pub const fn type_name(&self) -> &'static str {
        match self.flags {
            f if f & libc::IFF_LOOPBACK as u32 != 0 => "loopback",
            f if f & libc::IFF_BROADCAST as u32 != 0 => "broadcast",
            f if f & libc::IFF_POINTOPOINT as u32 != 0 => "point-to-point",
            _ => "unknown",
        }
    }
    /// The MAC address in its usual form; empty if there is none.
    pub fn mac(&self) -> String {
        self.hwaddr.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
    }
}

impl Net {
    /// Makes a link; `with` holds from the start.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if one of that name is there.
    pub fn create(&self, name: &str, kind: Kind<'_>, with: Change<'_>) -> io::Result<()> {
        let what = || format!("Failed to create {} \"{name}\"", kind.name());
        let parent = match kind {
            Kind::Vlan { parent, .. } | Kind::Macvlan { parent, .. } => Some(parent),
            Kind::Bridge | Kind::Veth(_) | Kind::Dummy => None,
        };
        let parent = parent.map(|p| self.index(p)).transpose().map_err(|e| words(e, what()))?;
        let mut a = Attrs::default();
        a.str(libc::IFLA_IFNAME, name);
        if let Some(parent) = parent {
            a.u32(libc::IFLA_LINK, parent);
        }
        // A bridge keeps an MTU only if it is changed after its making (else its first port decides), and words
        // are not taken while a link is made.
        let mtu = with.mtu.filter(|_| kind == Kind::Bridge);
        let later = Change { mtu, alias: with.alias, ..Change::default() };
        Change { mtu: with.mtu.xor(mtu), alias: None, ..with }.fill(&mut a);
        kind.fill(&mut a).map_err(|e| words(e, what()))?;
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.wire.call(libc::RTM_NEWLINK, flags, &header(0, with.up), &a).map_err(|e| words(e, what()))?;
        if later.mtu.is_some() || later.alias.is_some() { self.change(name, later) } else { Ok(()) }
    }

    /// Changes a link.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it is not there.
    pub fn change(&self, name: &str, change: Change<'_>) -> io::Result<()> {
        let what = || format!("Failed to change link \"{name}\"");
        let index = self.index(name).map_err(|e| words(e, what()))?;
        let mut a = Attrs::default();
        if let Some(new) = change.rename {
            a.str(libc::IFLA_IFNAME, new);
        }
        change.fill(&mut a);
        self.wire.call(libc::RTM_NEWLINK, 0, &header(index, change.up), &a).map_err(|e| words(e, what()))
    }

    /// Removes a link; false if it was not there.
    ///
    /// # Errors
    /// When the kernel refuses, as for hardware.
    pub fn delete(&self, name: &str) -> io::Result<bool> {
        let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        let done = self
            .index(name)
            .and_then(|index| self.wire.call(libc::RTM_DELLINK, 0, &header(index, None), &Attrs::default()));
        match done {
            Ok(()) => Ok(true),
            Err(e) if gone(&e) => Ok(false),
            Err(e) => Err(words(e, format!("Failed to delete link \"{name}\""))),
        }
    }

    /// Settings of a bridge that have no place in [`Change`].
    ///
    /// # Errors
    /// When there is no such bridge.
    pub fn set_multicast_snooping(&self, bridge: &str, on: bool) -> io::Result<()> {
        let index = self.index(bridge)?;
        let mut a = Attrs::default();
        a.nest(libc::IFLA_LINKINFO, |i| {
            i.str(libc::IFLA_INFO_KIND, "bridge");
            i.nest(libc::IFLA_INFO_DATA, |d| {
                d.u8(BR_MULTICAST_SNOOPING, on.into());
            });
        });
        self.wire
            .call(libc::RTM_NEWLINK, 0, &header(index, None), &a)
            .map_err(|e| words(e, format!("Failed to set multicast snooping of bridge \"{bridge}\"")))
    }

    /// Keeps a port of a bridge apart from the other isolated ports; `hairpin` sends packets back out of it.
    ///
    /// # Errors
    /// When it is not a port of a bridge.
    pub fn set_port(&self, port: &str, isolated: bool, hairpin: bool) -> io::Result<()> {
        let index = self.index(port)?;
        let mut a = Attrs::default();
        a.nest(libc::IFLA_PROTINFO, |p| {
            p.u8(BRPORT_ISOLATED, isolated.into()).u8(BRPORT_MODE, hairpin.into());
        });
        let mut body = header(index, None);
        body[0] = libc::AF_BRIDGE as u8;
        self.wire
            .call(libc::RTM_SETLINK, 0, &body, &a)
            .map_err(|e| words(e, format!("Failed to set up bridge port \"{port}\"")))
    }

    /// The link of that name, with its addresses.
    ///
    /// # Errors
    /// When the kernel cannot be asked; a link that is not there is `None`.
    pub fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let Some(mut link) = self.find(name)? else { return Ok(None) };
        link.addresses = self.addresses()?.into_iter().filter(|(i, _)| *i == link.index).map(|(_, a)| a).collect();
        Ok(Some(link))
    }

    /// All links with their addresses, in the order of their making.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        let answers = self.wire.dump(libc::RTM_GETLINK, &header(0, None), &Attrs::default())?;
        let mut links: Vec<Link> = answers.iter().filter_map(parse).collect();
        links.sort_by_key(|l| l.index);
        for (index, address) in self.addresses()? {
            if let Ok(at) = links.binary_search_by_key(&index, |l| l.index) {
                links[at].addresses.push(address);
            }
        }
        Ok(links)
    }

    /// Number of the link of that name.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("Network interface \"{name}\" not found"));
        Ok(self.find(name)?.ok_or_else(absent)?.index)
    }

    /// Gives a link an address; one that it has already is fine.
    ///
    /// # Errors
    /// When there is no such link or the address cannot be its own.
    pub fn add_address(&self, link: &str, address: IpNet) -> io::Result<()> {
        self.set_address(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, link, address)
            .map_err(|e| words(e, format!("Failed to add address \"{address}\" to \"{link}\"")))
    }

    /// Takes an address from a link.
    ///
    /// # Errors
    /// When it does not have it.
    pub fn remove_address(&self, link: &str, address: IpNet) -> io::Result<()> {
        self.set_address(libc::RTM_DELADDR, 0, link, address)
            .map_err(|e| words(e, format!("Failed to remove address \"{address}\" from \"{link}\"")))
    }

    fn set_address(&self, kind: u16, flags: i32, link: &str, address: IpNet) -> io::Result<()> {
        let index = self.index(link)?;
        super::route::set_address(&self.wire, kind, flags, index, address)
    }

    fn find(&self, name: &str) -> io::Result<Option<Link>> {
        if name.is_empty() || name.len() > 15 {
            return Ok(None); // no link can have such a name, and the kernel would answer "out of range"
        }
        let mut a = Attrs::default();
        a.str(libc::IFLA_IFNAME, name);
        match self.wire.get(libc::RTM_GETLINK, &header(0, None), &a) {
            Ok(answers) => Ok(answers.iter().find_map(parse)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(words(e, format!("Failed to look up link \"{name}\""))),
        }
    }
}

impl Kind<'_> {
    const fn name(self) -> &'static str {
        match self {
            Kind::Bridge => "bridge",
            Kind::Veth(_) => "veth",
            Kind::Dummy => "dummy",
            Kind::Vlan { .. } => "vlan",
            Kind::Macvlan { .. } => "macvlan",
        }
    }

    fn fill(self, a: &mut Attrs) -> io::Result<()> {
        let mut data = Attrs::default();
        match self {
            Kind::Bridge | Kind::Dummy => {}
            Kind::Veth(peer) => {
                data.nest_with(INFO_VETH_PEER, &header(0, None), |p| {
                    p.str(libc::IFLA_IFNAME, peer.name);
                    Change { hwaddr: peer.hwaddr, mtu: peer.mtu, ..Change::default() }.fill(p);
                });
            }
            Kind::Vlan { id, gvrp, .. } => {
                data.u16(VLAN_ID, id);
                if gvrp {
                    let flags = [VLAN_FLAG_GVRP.to_ne_bytes(), VLAN_FLAG_GVRP.to_ne_bytes()].concat();
                    data.raw(VLAN_FLAGS, &flags);
                }
            }
            Kind::Macvlan { mode, .. } => {
                let mode = match mode {
                    "private" => 1,
                    "vepa" => 2,
                    "bridge" => 4,
                    "passthru" => 8,
                    _ => return Err(io::Error::other(format!("unknown macvlan mode \"{mode}\""))),
                };
                data.u32(MACVLAN_MODE, mode);
            }
        }
        a.nest(libc::IFLA_LINKINFO, |i| {
            i.str(libc::IFLA_INFO_KIND, self.name());
            i.append(libc::IFLA_INFO_DATA, &data);
        });
        Ok(())
    }
}

impl Change<'_> {
    fn fill(&self, a: &mut Attrs) {
        if let Some(mtu) = self.mtu {
            a.u32(libc::IFLA_MTU, mtu);
        }
        if let Some(mac) = self.hwaddr {
            a.raw(libc::IFLA_ADDRESS, &mac);
        }
        if let Some(master) = self.master {
            a.u32(libc::IFLA_MASTER, master);
        }
        if let Some(alias) = self.alias {
            a.raw(libc::IFLA_IFALIAS, alias.as_bytes());
        }
        if let Some(queue) = self.queue {
            a.u32(libc::IFLA_TXQLEN, queue);
        }
        match self.place {
            Some(Place::Pid(pid)) => drop(a.u32(libc::IFLA_NET_NS_PID, pid.cast_unsigned())),
            Some(Place::Netns(fd)) => drop(a.u32(libc::IFLA_NET_NS_FD, fd.as_raw_fd().cast_unsigned())),
            None => {}
        }
    }
}

/// `struct ifinfomsg`.
fn header(index: u32, up: Option<bool>) -> [u8; 16] {
    let mut out = [0; 16];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    if let Some(up) = up {
        let flag = libc::IFF_UP as u32;
        out[8..12].copy_from_slice(&(if up { flag } else { 0 }).to_ne_bytes());
        out[12..16].copy_from_slice(&flag.to_ne_bytes());
    }
    out
}

fn parse(message: &Message) -> Option<Link> {
    if message.kind != libc::RTM_NEWLINK {
        return None;
    }
    let body = message.body.as_slice();
    let mut link =
        Link { hardware: u16_at(body, 2)?, index: u32_at(body, 4)?, flags: u32_at(body, 8)?, ..Link::default() };
    for (kind, value) in attrs(body.get(16..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            libc::IFLA_ADDRESS => link.hwaddr = value.to_vec(),
            libc::IFLA_MASTER => link.master = u32_at(value, 0)?,
            libc::IFLA_LINK => link.parent = u32_at(value, 0)?,
            libc::IFLA_IFALIAS => link.alias = text(value),
            libc::IFLA_STATS64 => link.counters = counters(value)?,
            libc::IFLA_LINKINFO => parse_info(&mut link, value),
            PARENT_DEV_NAME => link.on_bus = true,
            _ => {}
        }
    }
    Some(link)
}

fn counters(v: &[u8]) -> Option<Counters> {
    let at = |n: usize| u64_at(v, n * 8);
    Some(Counters {
        packets_received: at(0)?,
        packets_sent: at(1)?,
        bytes_received: at(2)?,
        bytes_sent: at(3)?,
        errors_received: at(4)?,
        errors_sent: at(5)?,
        dropped_inbound: at(6)?,
        dropped_outbound: at(7)?,
    })
}

fn parse_info(link: &mut Link, info: &[u8]) {
    let mut data: &[u8] = &[];
    let (mut port_kind, mut port): (String, &[u8]) = (String::new(), &[]);
    for (kind, value) in attrs(info) {
        match kind {
            libc::IFLA_INFO_KIND => link.kind = text(value),
            libc::IFLA_INFO_DATA => data = value,
            libc::IFLA_INFO_SLAVE_KIND => port_kind = text(value),
            libc::IFLA_INFO_SLAVE_DATA => port = value,
            _ => {}
        }
    }
    if port_kind == "bridge" {
        link.isolated = attrs(port).any(|(k, v)| k == BRPORT_ISOLATED && v.first() == Some(&1));
    }
    match link.kind.as_str() {
        "bridge" => link.bridge = Some(parse_bridge(data)),
        "vlan" => {
            let id = attrs(data).find(|(k, _)| *k == VLAN_ID).and_then(|(_, v)| u16_at(v, 0));
            link.vlan = Some(Vlan { id: id.unwrap_or_default() });
        }
        _ => {}
    }
}

fn parse_bridge(data: &[u8]) -> Bridge {
    let mut bridge = Bridge::default();
    for (kind, value) in attrs(data) {
        match kind {
            BR_FORWARD_DELAY => bridge.forward_delay = u32_at(value, 0).unwrap_or_default(),
            BR_STP_STATE => bridge.stp = u32_at(value, 0).is_some_and(|s| s != 0),
            BR_VLAN_FILTERING => bridge.vlan_filtering = value.first().is_some_and(|b| *b != 0),
            BR_VLAN_DEFAULT => bridge.vlan_default = u16_at(value, 0).unwrap_or_default(),
            BR_BRIDGE_ID => {
                let hex: String = value.iter().map(|b| format!("{b:02x}")).collect();
                bridge.id = hex.split_at_checked(4).map_or_else(String::new, |(a, b)| format!("{a}.{b}"));
            }
            _ => {}
        }
    }
    bridge
}

/// Reach of an address, in the words that clients are told.
pub(super) fn scope(ip: IpAddr) -> &'static str {
    match ip {
        ip if ip.is_loopback() => "local",
        IpAddr::V4(v4) if v4.is_link_local() => "link",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "link",
        _ => "global",
    }
}
