//! Choosing subnets and addresses that nobody has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::{Error, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Entropy;

/// How often a random subnet is drawn before giving up.
const TRIES: usize = 100;

/// A random /24 of 10.0.0.0/8 that overlaps nothing in `taken`; the address is the network's first.
///
/// # Errors
/// When none was found that is free.
pub fn ipv4(taken: &[IpNet], entropy: Entropy<'_>) -> Result<IpNet> {
    pick("IPv4", taken, || {
        let [a, b, ..] = entropy().to_ne_bytes();
        Ipv4Net::new_assert(Ipv4Addr::new(10, a, b, 1), 24).into()
    })
}

/// A random /64 of unique local addresses that overlaps nothing in `taken`.
///
/// # Errors
/// When none was found that is free.
pub fn ipv6(taken: &[IpNet], entropy: Entropy<'_>) -> Result<IpNet> {
    pick("IPv6", taken, || {
        let r = entropy();
        let part = |shift: u32| ((r >> shift) & 0xffff) as u16;
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd42, part(0), part(16), part(32), 0, 0, 0, 1), 64).into()
    })
}

fn pick(family: &str, taken: &[IpNet], mut draw: impl FnMut() -> IpNet) -> Result<IpNet> {
    (0..TRIES).map(|_| draw()).find(|net| !taken.iter().any(|t| overlap(net, t))).ok_or_else(|| {
        Error::internal(format!(
            "Failed to automatically find an unused {family} subnet, manual configuration required"
        ))
    })
}

/// Whether two subnets share an address. A default route shares nothing: it is not anybody's subnet.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    let real = |n: &IpNet| n.prefix_len() > 0;
    real(a) && real(b) && (a.contains(&b.network()) || b.contains(&a.network()))
}

/// The `n`th address of a subnet, counted from its end if negative.
pub fn nth(net: IpNet, n: i64) -> IpAddr {
    match net {
        IpNet::V4(v4) => {
            let base = if n < 0 { v4.broadcast() } else { v4.network() };
            Ipv4Addr::from(u32::from(base).wrapping_add_signed(clamp(n, n < 0))).into()
        }
        IpNet::V6(v6) => {
            let base = if n < 0 { v6.broadcast() } else { v6.network() };
            Ipv6Addr::from(u128::from(base).wrapping_add_signed((n + i64::from(n < 0)).into())).into()
        }
    }
}

fn clamp(n: i64, from_end: bool) -> i32 {
    i32::try_from(n + i64::from(from_end)).unwrap_or_default()
}

/// A free address of `ranges` for the owner of `key` (as a MAC address): the same as long as it is free.
pub fn address(ranges: &[(IpAddr, IpAddr)], key: u64, taken: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let back = |n: u128, like: IpAddr| match like {
        IpAddr::V4(_) => u32::try_from(n).ok().map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(_) => Some(IpAddr::V6(n.into())),
    };
    let spans: Vec<(IpAddr, u128, u128)> =
        ranges.iter().map(|(a, b)| (*a, number(*a), (number(*b) + 1).saturating_sub(number(*a)))).collect();
    let size: u128 = spans.iter().map(|s| s.2).sum();
    let at = |mut n: u128| {
        for (like, first, count) in &spans {
            if n < *count {
                return back(first + n, *like);
            }
            n -= count;
        }
        None
    };
    // Neighbours are tried in turn; a range of millions need not be walked to its end.
    (0..size.min(65_536)).filter_map(|i| at((u128::from(key) + i) % size)).find(|ip| !taken(*ip))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn subnets_are_free_of_what_is_there() {
        let mut draws = [0u64, 0x0101, 0x0202].into_iter();
        let taken: Vec<IpNet> = ["10.0.0.0/16", "10.1.1.128/25", "0.0.0.0/0"].map(|n| n.parse().unwrap()).into();
        let got = ipv4(&taken, &mut || draws.next().unwrap()).unwrap();
        assert_eq!(got.to_string(), "10.2.2.1/24");
        let all = ["10.0.0.0/8".parse().unwrap()];
        assert!(ipv4(&all, &mut || 7).unwrap_err().message.contains("manual configuration required"));
        assert_eq!(ipv6(&taken, &mut || 0x1234).unwrap().to_string(), "fd42:1234::1/64");
    }

    #[test]
    fn addresses_of_a_subnet_are_counted_from_both_ends() {
        for (net, n, want) in [
            ("10.0.0.1/24", 2, "10.0.0.2"),
            ("10.0.0.1/24", -2, "10.0.0.254"),
            ("10.0.0.1/30", -2, "10.0.0.2"),
            ("fd42::1/64", 2, "fd42::2"),
            ("fd42::1/64", -1, "fd42::ffff:ffff:ffff:ffff"),
        ] {
            assert_eq!(nth(net.parse().unwrap(), n).to_string(), want, "{net} {n}");
        }
    }

    #[test]
    fn an_owner_keeps_its_address_while_it_is_free() {
        let ranges = [("10.0.0.2", "10.0.0.3"), ("10.0.0.10", "10.0.0.11")]
            .map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
        let pick = |taken: &[&str]| {
            address(&ranges, 2, &|ip| taken.contains(&ip.to_string().as_str())).map(|ip| ip.to_string())
        };
        assert_eq!(pick(&[]).unwrap(), "10.0.0.10");
        assert_eq!(pick(&["10.0.0.10"]).unwrap(), "10.0.0.11");
        assert_eq!(pick(&["10.0.0.10", "10.0.0.11"]).unwrap(), "10.0.0.2");
        assert_eq!(pick(&["10.0.0.10", "10.0.0.11", "10.0.0.2", "10.0.0.3"]), None);
        assert_eq!(address(&[], 2, &|_| false), None);
    }
}
