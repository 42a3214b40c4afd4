//! MAC addresses.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

/// The vendor part of every generated address.
const PREFIX: [u8; 3] = [0x10, 0x66, 0x6a];

/// A MAC address; shown as `10:66:6a:01:02:03`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A fresh address from randomness, by a pattern (`network.hwaddr_pattern`) in which each `x` is any digit.
    pub fn random(pattern: &str, entropy: u64) -> Self {
        let random = hex::encode(entropy.to_le_bytes().repeat(2));
        let mut random = random.chars();
        let digits =
            pattern.chars().map(|c| if c == 'x' { random.next().unwrap_or('0') } else { c }).collect::<String>();
        let bytes = digits.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap_or(0)).collect::<Vec<_>>();
        let mut mac = [0; 6];
        mac.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        // An odd first byte is that of a group, and no host's.
        mac[0] &= 0xfe;
        Self(mac)
    }

    /// The same address every time for the same words, as for the bridge `name` of one member.
    pub fn derived(words: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for word in words {
            hash.update(word.as_bytes());
            hash.update([0]);
        }
        let hash = hash.finalize();
        Self([PREFIX[0], PREFIX[1], PREFIX[2], hash[0], hash[1], hash[2]])
    }

    /// The IPv6 interface part that a host makes of this address by itself (EUI-64).
    pub const fn eui64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let refused = || format!("Invalid value, must be 6 bytes of lower case hex separated by colons: \"{s}\"");
        let mut out = [0; 6];
        let mut parts = s.split(':');
        for byte in &mut out {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(refused)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refused())?;
        }
        if parts.next().is_some() || out[0] & 1 != 0 || out == [0; 6] {
            return Err(refused());
        }
        Ok(Self(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_x_of_a_pattern_is_any_digit() {
        for (pattern, want) in [
            ("10:66:6a:xx:xx:xx", "10:66:6a:ef:cd:ab"),
            ("00:16:3e:00:00:xx", "00:16:3e:00:00:ef"),
            ("xx:xx:xx:xx:xx:xx", "ee:cd:ab:89:67:45"),
        ] {
            assert_eq!(Mac::random(pattern, 0x0123_4567_89ab_cdef).to_string(), want);
        }
    }
}
