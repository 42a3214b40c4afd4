//! Which ids of the host stand behind the ids in a container.

use serde::{Deserialize, Serialize};

/// A run of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first id inside.
    pub inside: u64,
    /// The first id on the host.
    pub outside: u64,
    /// How many.
    pub size: u64,
}

/// The ids of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idmap {
    /// Users.
    pub uids: Range,
    /// Groups.
    pub gids: Range,
}

/// What a host gives to containers when it says nothing in `/etc/subuid`.
pub const DEFAULT: (u64, u64) = (1_000_000, 1_000_000_000);

impl Idmap {
    /// The same run for users and groups, from 0 inside.
    pub fn contiguous(outside: u64, size: u64) -> Idmap {
        let range = Range { inside: 0, outside, size };
        Idmap { uids: range, gids: range }
    }

    /// The ids that `root` was given in the texts of `/etc/subuid` and `/etc/subgid`: the largest run of each,
    /// of at least 65536; otherwise [`DEFAULT`].
    pub fn of_host(subuid: &str, subgid: &str) -> Idmap {
        let largest = |text: &str| {
            let run = |line: &str| {
                let mut fields = line.trim().split(':');
                let owner = fields.next()?;
                let (outside, size) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
                (matches!(owner, "root" | "0") && size >= 65_536).then_some((outside, size))
            };
            text.lines().filter_map(run).max_by_key(|(_, size)| *size).unwrap_or(DEFAULT)
        };
        let range = |(outside, size)| Range { inside: 0, outside, size };
        Idmap { uids: range(largest(subuid)), gids: range(largest(subgid)) }
    }

    /// As the volatile keys of an instance hold it.
    pub fn to_json(&self) -> String {
        let entry = |uid, r: &Range| Entry { uid, gid: !uid, host: r.outside, inside: r.inside, size: r.size };
        serde_json::to_string(&[entry(true, &self.uids), entry(false, &self.gids)]).unwrap_or_default()
    }
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "Isuid")]
    uid: bool,
    #[serde(rename = "Isgid")]
    gid: bool,
    #[serde(rename = "Hostid")]
    host: u64,
    #[serde(rename = "Nsid")]
    inside: u64,
    #[serde(rename = "Maprange")]
    size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_files_decide_and_the_json_is_that_of_incus() {
        for (subuid, want) in [
            ("", DEFAULT),
            ("joe:1:70000\nroot:500000:65536\n", (500_000, 65_536)),
            ("root:1:10\n0:2000000:100000", (2_000_000, 100_000)),
        ] {
            let map = Idmap::of_host(subuid, subuid);
            assert_eq!((map.uids.outside, map.gids.size), want, "{subuid}");
        }
        assert_eq!(
            Idmap::contiguous(1_000_000, 1_000_000_000).to_json(),
            "[{\"Isuid\":true,\"Isgid\":false,\"Hostid\":1000000,\"Nsid\":0,\"Maprange\":1000000000},\
             {\"Isuid\":false,\"Isgid\":true,\"Hostid\":1000000,\"Nsid\":0,\"Maprange\":1000000000}]"
        );
    }
}
