//! Names of links and networks.

use sha2::{Digest, Sha256};

use super::mac::Mac;

/// Whether the kernel, the packet filter and `dnsmasq` all take this as the name of a link.
///
/// # Errors
/// Says what is wrong with it.
pub fn check(name: &str) -> Result<(), String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match name.len() {
        0..2 => Err("Network interface is too short (minimum 2 characters)".into()),
        16.. => Err("Network interface is too long (maximum 15 characters)".into()),
        _ if !name.bytes().all(fine) => Err("Network interface contains invalid characters".into()),
        // "." and ".." are no names of files, and what opens with "-" is read as an option by programs.
        _ if name == ".." || name.starts_with('-') => Err("Network interface contains invalid characters".into()),
        _ => Ok(()),
    }
}

/// The host's end of a veth pair.
pub fn veth(entropy: u64) -> String {
    random("veth", entropy)
}

/// The host's end of a veth pair, named after the address of the other: without its first byte it is short enough.
pub fn of_mac(mac: Mac) -> String {
    format!("inc{}", hex::encode(&mac.0[1..]))
}

/// A fresh name with `prefix` and eight hexadecimal digits.
pub fn random(prefix: &str, entropy: u64) -> String {
    format!("{prefix}{:08x}", entropy & 0xffff_ffff)
}

/// The other end of a pair until it is moved into the instance: always the same for the same host's end.
pub fn peer(host_name: &str) -> String {
    let hash = Sha256::digest(host_name.as_bytes());
    format!("veth{}", hex::encode(&hash[..4]))
}
