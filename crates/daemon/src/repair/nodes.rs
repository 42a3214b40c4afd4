//! The members of the database as this member's files tell, and the YAML in which people see and change them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use api::{Error, Result};
use db::engine::offline;
use db::local::{Local, RaftNode, RaftRole};
use serde::Deserialize;

use crate::paths::Paths;
use crate::start::with_port;

/// The members of the database, and how far this member's log goes.
#[derive(Debug)]
pub struct Nodes {
    /// Those in the database, by Raft id.
    pub nodes: Vec<RaftNode>,
    /// Term and index of the last entry of the log.
    pub last_log: (u64, u64),
}

/// What was written into the YAML.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    members: Vec<WrittenMember>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMember {
    id: u64,
    #[serde(default)]
    name: String,
    address: String,
    role: String,
}

impl Nodes {
    /// Reads the files; refused while the daemon runs.
    pub fn read(paths: &Paths, local: &Local) -> Result<Nodes> {
        let members = offline::members(&paths.global()).map_err(in_words)?;
        let known = local.raft_nodes()?;
        // Those that are not voters stand by in the order of their ids, as many as the configuration may ask for.
        let standing_by: BTreeSet<u64> = members.learners.iter().copied().take(STANDBY).collect();
        let role = |id: &u64| match () {
            () if members.voters.contains(id) => RaftRole::Voter,
            () if standing_by.contains(id) => RaftRole::StandBy,
            () => RaftRole::Spare,
        };
        let mut nodes: Vec<RaftNode> = members
            .voters
            .iter()
            .chain(&members.learners)
            .map(|id| {
                let node = known.iter().find(|n| n.id == *id).cloned();
                let unknown =
                    || RaftNode { id: *id, name: String::new(), address: String::new(), role: RaftRole::Spare };
                RaftNode { role: role(id), ..node.unwrap_or_else(unknown) }
            })
            .collect();
        nodes.sort_by_key(|n| n.id);
        Ok(Nodes { nodes, last_log: members.last_log })
    }

    /// As YAML, with the end of the log above.
    pub fn text(&self) -> String {
        let (term, index) = self.last_log;
        let mut text = format!("# Latest segment ID: {index}\n# Latest term: {term}\n\nmembers:\n");
        for n in &self.nodes {
            let (name, address) = (quoted(&n.name), quoted(&n.address));
            let _ = writeln!(text, "  - id: {}\n    name: {name}\n    address: {address}\n    role: {}", n.id, n.role);
        }
        text
    }

    /// The members with what was changed in the YAML: their addresses.
    pub fn changed(&self, text: &str) -> Result<Vec<RaftNode>> {
        let written: Written = serde_saphyr::from_str(text).map_err(|e| Error::bad_request(e.to_string()))?;
        self.check_members(&written.members)?;
        self.check_roles(&written.members)?;
        let mut nodes = self.nodes.clone();
        for node in &mut nodes {
            let address = written.members.iter().find(|w| w.id == node.id).map(|w| w.address.trim());
            if let Some(address) = address.filter(|a| *a != node.address) {
                node.address = usable(address)?;
            }
        }
        let mut seen = BTreeSet::new();
        match nodes.iter().find(|n| !seen.insert(n.address.clone())) {
            Some(twice) => Err(Error::bad_request(format!("Two members have the address \"{}\"", twice.address))),
            None => Ok(nodes),
        }
    }

    fn check_members(&self, written: &[WrittenMember]) -> Result<()> {
        let ids: BTreeSet<u64> = written.iter().map(|w| w.id).collect();
        if ids.len() != written.len() || !self.nodes.iter().map(|n| n.id).eq(ids) {
            return Err(Error::bad_request("Members can't be added or removed here: only addresses can be changed"));
        }
        for w in written {
            if self.nodes.iter().any(|n| n.id == w.id && n.name != w.name) {
                return Err(Error::bad_request(format!("The name of member {} can't be changed here", w.id)));
            }
        }
        Ok(())
    }

    fn check_roles(&self, written: &[WrittenMember]) -> Result<()> {
        let roles = written.iter().map(|w| Ok((w, RaftRole::parse(&w.role)?))).collect::<Result<Vec<_>>>()?;
        let same = |w: &WrittenMember, role| self.nodes.iter().any(|n| n.id == w.id && n.role == role);
        let Some((changed, _)) = roles.iter().find(|(w, role)| !same(w, *role)) else { return Ok(()) };
        let voters = roles.iter().filter(|(_, role)| *role == RaftRole::Voter).count();
        if voters == 0 {
            return Err(Error::bad_request("At least one member must be a \"voter\""));
        }
        if voters < 2 && written.len() > 2 {
            return Err(Error::bad_request("Number of \"voter\" must be 2 or more"));
        }
        Err(Error::bad_request(format!(
            "The role of member {} can't be changed while the daemons are down: the database could lose what was \
             acknowledged. Votes are given by the cluster itself once a majority is there; where it is lost for good, \
             use \"incusd cluster recover-from-quorum-loss\"",
            changed.id
        )))
    }
}

/// How many members can be shown as standing by.
const STANDBY: usize = 2;

/// An address that other members can use, with its port.
pub fn usable(address: &str) -> Result<String> {
    let address = with_port(address);
    let wrong = || Error::bad_request(format!("\"{address}\" is no address of a member: it needs a host and a port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let blank = host.chars().any(|c| c.is_whitespace() || c.is_control());
    match port.parse::<u16>() {
        Ok(1..) if !blank && !matches!(host, "" | "[::]" | "0.0.0.0") => Ok(address),
        _ => Err(wrong()),
    }
}

/// Text as a YAML scalar.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.parse::<f64>().is_err()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c));
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// Says of a database that is in use that the daemon runs.
pub fn in_words(e: Error) -> Error {
    match e.kind {
        api::Kind::Conflict => Error::conflict("The daemon is running: stop it before you change its database by hand"),
        _ => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Nodes {
        let node =
            |id: u64, role| RaftNode { id, name: format!("server{id}"), address: format!("10.0.0.{id}:8443"), role };
        let nodes = vec![
            node(1, RaftRole::Voter),
            node(2, RaftRole::Voter),
            node(3, RaftRole::Voter),
            node(7, RaftRole::StandBy),
            RaftNode { name: String::new(), ..node(9, RaftRole::Spare) },
        ];
        Nodes { nodes, last_log: (3, 127) }
    }

    #[test]
    fn what_is_shown_can_be_given_back() {
        let text = nodes().text();
        assert!(
            text.starts_with("# Latest segment ID: 127\n# Latest term: 3\n\nmembers:\n  - id: 1\n    name: server1\n")
        );
        assert!(text.contains("    address: 10.0.0.7:8443\n    role: stand-by\n"), "{text}");
        assert!(text.contains("    name: \"\"\n"), "{text}");
        assert_eq!(nodes().changed(&text).unwrap(), nodes().nodes);
    }

    #[test]
    fn addresses_can_be_changed() {
        let text = nodes().text().replace("10.0.0.", "192.0.2.").replace("192.0.2.7:8443", "\"[2001:db8::7]:443\"");
        let addresses: Vec<String> = nodes().changed(&text).unwrap().into_iter().map(|n| n.address).collect();
        assert_eq!(
            addresses,
            ["192.0.2.1:8443", "192.0.2.2:8443", "192.0.2.3:8443", "[2001:db8::7]:443", "192.0.2.9:8443"]
        );
    }

    #[test]
    fn nothing_else_can() {
        for (from, to, want) in [
            ("members:", "member:", "unknown field"),
            ("role: spare", "role: boss", "Invalid database role \"boss\""),
            ("role: voter", "role: spare", "At least one member must be a \"voter\""),
            ("1:8443\n    role: voter", "1:8443\n    role: spare", "can't be changed while the daemons are down"),
            ("name: server2", "name: server8", "The name of member 2 can't be changed here"),
            ("id: 7", "id: 8", "Members can't be added or removed"),
            ("id: 7", "id: 1", "Members can't be added or removed"),
            ("10.0.0.2:8443", "10.0.0.3:8443", "Two members have the address \"10.0.0.3:8443\""),
            ("10.0.0.2:8443", "0.0.0.0:8443", "needs a host and a port"),
            ("10.0.0.2:8443", "10.0.0.2:0", "needs a host and a port"),
            ("10.0.0.2:8443", "\"a b\"", "needs a host and a port"),
            ("10.0.0.2:8443", "\"\"", "needs a host and a port"),
        ] {
            let text = nodes().text().replace(from, to);
            let said = nodes().changed(&text).unwrap_err().message;
            assert!(said.contains(want), "{from} -> {to}: {said}");
        }
        let one = nodes().text().replacen("role: voter", "role: spare", 2);
        assert_eq!(nodes().changed(&one).unwrap_err().message, "Number of \"voter\" must be 2 or more");
        for text in ["", "[]", "members: [", "members:\n"] {
            assert!(nodes().changed(text).is_err(), "{text:?}");
        }
    }
}
