//! `incusd cluster edit`: other addresses for the members.
//!
//! Addresses are no part of the Raft log, so that nothing acknowledged can be lost by changing them. They are written
//! into this member's own database, and used from the next start on; the replicated table of the members follows when
//! a majority has found each other with the help of them (`crate::moved`). That is why the same edit is made on every
//! member, in any order.

use std::io::{IsTerminal as _, Read as _};
use std::process::Command;

use api::key::Config;
use api::{Error, Result};
use db::engine::offline;
use db::local::{Local, Moved, RaftNode};

use super::ask;
use super::nodes::{Nodes, in_words};
use crate::paths::Paths;
use crate::start::with_port;

const HELP: &str = "\
# Change the addresses of the members, on every member in the same way, while all daemons are down.
# Lines that begin with '#' are ignored.
#
";

/// Edits from standard input, or in an editor until it is right.
pub fn edit(paths: &Paths, local: &Local) -> Result<()> {
    let nodes = Nodes::read(paths, local)?;
    if !std::io::stdin().is_terminal() {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return apply(paths, local, &nodes, &text);
    }
    let mut text = format!("{HELP}{}", nodes.text());
    loop {
        text = in_editor(paths, &text)?;
        let Err(e) = apply(paths, local, &nodes, &text) else { return Ok(()) };
        if e.kind != api::Kind::BadRequest {
            return Err(e);
        }
        eprintln!("Config parsing error: {e}");
        println!("Press enter to open the editor again or ctrl+c to abort change");
        ask::line()?;
    }
}

fn in_editor(paths: &Paths, text: &str) -> Result<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".into());
    let file = paths.root().join("database/edit.yaml");
    std::fs::write(&file, text)?;
    let done = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(&file).status();
    let edited = std::fs::read_to_string(&file);
    let _ = std::fs::remove_file(&file);
    match done? {
        status if status.success() => Ok(edited?),
        status => Err(Error::internal(format!("The editor {editor:?} failed ({status}); nothing was changed"))),
    }
}

fn apply(paths: &Paths, local: &Local, nodes: &Nodes, text: &str) -> Result<()> {
    let changed = nodes.changed(text)?;
    if changed == nodes.nodes {
        return Ok(());
    }
    // It may have been started while the editor was open.
    let _closed = offline::keep_closed(&paths.global()).map_err(in_words)?;
    let moved = pending(local.moved()?, &nodes.nodes, &changed);
    let own = local.raft_id()?;
    let find = |all: &[RaftNode]| all.iter().find(|n| Some(n.id) == own).map(|n| n.address.clone());
    let config = match (find(&nodes.nodes), find(&changed)) {
        (Some(old), Some(new)) if old != new => own_config(&local.config()?, &old, &new),
        _ => Config::new(),
    };
    // Members that are not in the database, as those of a majority that was lost, keep their place in the list.
    let kept =
        local.raft_nodes()?.into_iter().filter(|n| changed.iter().all(|c| c.id != n.id && c.address != n.address));
    let mut all: Vec<RaftNode> = kept.chain(changed.iter().cloned()).collect();
    all.sort_by_key(|n| n.id);
    local.move_members(&all, &moved, &config)
}

/// What the replicated database does not have yet, after another edit.
fn pending(earlier: Vec<Moved>, before: &[RaftNode], after: &[RaftNode]) -> Vec<Moved> {
    let mut all = earlier;
    for (before, after) in before.iter().zip(after).filter(|(b, a)| b.address != a.address) {
        match all.iter_mut().find(|m| m.id == after.id) {
            Some(known) => known.new.clone_from(&after.address),
            None => all.push(Moved { id: after.id, old: before.address.clone(), new: after.address.clone() }),
        }
    }
    all.retain(|m| m.old != m.new);
    all
}

/// The keys of this member's configuration that name its old address.
pub fn own_config(config: &Config, old: &str, new: &str) -> Config {
    let names_old = |key: &&str| config.get(*key).is_some_and(|a| !a.is_empty() && with_port(a) == old);
    let mut changes: Config =
        ["core.https_address"].iter().filter(|k| names_old(k)).map(|k| ((*k).to_owned(), new.to_owned())).collect();
    changes.insert("cluster.https_address".to_owned(), new.to_owned());
    changes
}

#[cfg(test)]
mod tests {
    use db::local::RaftRole;

    use super::*;

    #[test]
    fn edits_add_up_until_the_database_has_them() {
        let node =
            |id, address: &str| RaftNode { id, name: "x".into(), address: address.into(), role: RaftRole::Voter };
        let moved = |old: &str, new: &str| Moved { id: 1, old: old.into(), new: new.into() };
        for (earlier, before, after, want) in [
            (vec![], "a", "b", vec![moved("a", "b")]),
            (vec![moved("a", "b")], "b", "c", vec![moved("a", "c")]),
            (vec![moved("a", "b")], "b", "a", vec![]),
            (vec![moved("a", "b")], "b", "b", vec![moved("a", "b")]),
        ] {
            assert_eq!(pending(earlier, &[node(1, before)], &[node(1, after)]), want, "{before} -> {after}");
        }
    }

    #[test]
    fn the_own_configuration_follows_where_it_names_the_old_address() {
        let config = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Config>();
        let new = "10.1.0.1:8443";
        for (before, want) in [
            (config(&[("core.https_address", "10.0.0.1")]), 2),
            (config(&[("core.https_address", "[::]:8443"), ("cluster.https_address", "10.0.0.1:8443")]), 1),
            (config(&[]), 1),
        ] {
            let changes = own_config(&before, "10.0.0.1:8443", new);
            assert_eq!(changes.len(), want, "{before:?}");
            assert_eq!(changes["cluster.https_address"], new);
        }
    }
}
