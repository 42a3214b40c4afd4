//! Addresses and routes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{
    Net, link,
    wire::{Attrs, Wire, attrs, u32_at},
    words,
};

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address with the length of its prefix.
    pub net: IpNet,
    /// Given for a time only, by DHCP or a router.
    pub dynamic: bool,
}

impl Address {
    /// `inet` or `inet6`.
    pub const fn family(&self) -> &'static str {
        match self.net {
            IpNet::V4(_) => "inet",
            IpNet::V6(_) => "inet6",
        }
    }
    /// `local`, `link` or `global`.
    pub fn scope(&self) -> &'static str {
        link::scope(self.net.addr())
    }
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub to: IpNet,
    /// The next hop; none if directly on the link.
    pub via: Option<IpAddr>,
    /// Index of the link; 0 if it has none.
    pub link: u32,
}

impl Net {
    /// All addresses with the indices of their links.
    pub(super) fn addresses(&self) -> io::Result<Vec<(u32, Address)>> {
        let answers = self.wire.dump(libc::RTM_GETADDR, &[0; 8], &Attrs::default())?;
        let parsed = answers.iter().filter(|m| m.kind == libc::RTM_NEWADDR).filter_map(|m| parse_address(&m.body));
        Ok(parsed.collect())
    }

    /// The routes of the main table, of both families.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn routes(&self) -> io::Result<Vec<Route>> {
        let answers = self.wire.dump(libc::RTM_GETROUTE, &[0; 12], &Attrs::default())?;
        Ok(answers.iter().filter(|m| m.kind == libc::RTM_NEWROUTE).filter_map(|m| parse_route(&m.body)).collect())
    }

    /// Adds a route over a link, or replaces the one to the same network.
    ///
    /// # Errors
    /// When there is no such link, it is down, or the next hop cannot be reached.
    pub fn add_route(&self, to: IpNet, link: &str, via: Option<IpAddr>) -> io::Result<()> {
        self.set_route(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, to, link, via)
            .map_err(|e| words(e, format!("Failed to add route to \"{to}\" over \"{link}\"")))
    }

    /// Removes a route over a link; false if it was not there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_route(&self, to: IpNet, link: &str) -> io::Result<bool> {
        match self.set_route(libc::RTM_DELROUTE, 0, to, link, None) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(e) => Err(words(e, format!("Failed to remove route to \"{to}\" over \"{link}\""))),
        }
    }

    fn set_route(&self, kind: u16, flags: i32, to: IpNet, link: &str, via: Option<IpAddr>) -> io::Result<()> {
        let index = self.index(link)?;
        let scope =
            if via.is_some() || matches!(to, IpNet::V6(_)) { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        let adding = kind == libc::RTM_NEWROUTE;
        let (protocol, scope, unicast) = if adding {
            (libc::RTPROT_STATIC, scope, libc::RTN_UNICAST)
        } else {
            (libc::RTPROT_UNSPEC, libc::RT_SCOPE_NOWHERE, libc::RTN_UNSPEC)
        };
        let body = [family(to), to.prefix_len(), 0, 0, libc::RT_TABLE_MAIN, protocol, scope, unicast, 0, 0, 0, 0];
        let mut a = Attrs::default();
        a.raw(libc::RTA_DST, &octets(to.network())).u32(libc::RTA_OIF, index);
        if let Some(via) = via {
            a.raw(libc::RTA_GATEWAY, &octets(via));
        }
        self.wire.call(kind, flags, &body, &a)
    }
}

pub(super) fn set_address(wire: &Wire, kind: u16, flags: i32, index: u32, address: IpNet) -> io::Result<()> {
    let mut body = [0; 8];
    (body[0], body[1]) = (family(address), address.prefix_len());
    body[4..].copy_from_slice(&index.to_ne_bytes());
    let own = octets(address.addr());
    let mut a = Attrs::default();
    a.raw(libc::IFA_LOCAL, &own).raw(libc::IFA_ADDRESS, &own);
    match address {
        IpNet::V4(v4) if v4.prefix_len() < 31 => drop(a.raw(libc::IFA_BROADCAST, &v4.broadcast().octets())),
        IpNet::V4(_) => {}
        // What the host decides to be its address is not put to the vote of the link: it would stay unusable
        // as long as the bridge has no port.
        IpNet::V6(_) => drop(a.u32(libc::IFA_FLAGS, libc::IFA_F_NODAD)),
    }
    wire.call(kind, flags, &body, &a)
}

const fn family(net: IpNet) -> u8 {
    match net {
        IpNet::V4(_) => libc::AF_INET as u8,
        IpNet::V6(_) => libc::AF_INET6 as u8,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

fn parse_address(body: &[u8]) -> Option<(u32, Address)> {
    let (prefix, index) = (*body.get(1)?, u32_at(body, 4)?);
    let mut flags = u32::from(*body.get(2)?);
    let (mut local, mut address) = (None, None);
    for (kind, value) in attrs(body.get(8..)?) {
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => address = ip(value),
            libc::IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other side.
    let net = IpNet::new(local.or(address)?, prefix).ok()?;
    Some((index, Address { net, dynamic: flags & libc::IFA_F_PERMANENT == 0 }))
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let (family, prefix, kind) = (*body.first()?, *body.get(1)?, *body.get(7)?);
    let mut table = u32::from(*body.get(4)?);
    let any = if i32::from(family) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else if i32::from(family) == libc::AF_INET6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        return None; // multicast routing and the like
    };
    let (mut to, mut via, mut link) = (any, None, 0);
    for (attr, value) in attrs(body.get(12..)?) {
        match attr {
            libc::RTA_DST => to = ip(value)?,
            libc::RTA_GATEWAY => via = ip(value),
            libc::RTA_OIF => link = u32_at(value, 0)?,
            libc::RTA_TABLE => table = u32_at(value, 0)?,
            _ => {}
        }
    }
    (table == u32::from(libc::RT_TABLE_MAIN) && kind == libc::RTN_UNICAST)
        .then(|| Some(Route { to: IpNet::new(to, prefix).ok()?, via, link }))
        .flatten()
}
