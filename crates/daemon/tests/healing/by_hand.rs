//! What a person has a hand in: the program that is called before a member is healed, and a member that is emptied
//! although it is gone.

use std::os::unix::fs::PermissionsExt as _;

use lab::Result;

use crate::world::World;
use crate::{Harm, harm, mend, victim};

/// Writes the program of `cluster.healing_hook`.
fn program(world: &World, script: &str) -> Result<String> {
    let path = world.cluster.lab.dir.join("hook");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path.to_string_lossy().into_owned())
}

/// As long as it fails nothing is taken over, and a warning says why.
pub fn the_hook_has_to_succeed(world: &mut World) -> Result<()> {
    world.cluster.refused_with(1, &["config", "set", "cluster.healing_hook=fence"], "absolute path")?;
    let hook = program(world, "echo no switch for $1 at $2; exit 1")?;
    world.cluster.incus(1, &["config", "set", &format!("cluster.healing_hook={hook}")])?;
    let (victim, other) = victim(world)?;
    world.bring(other, "c1", victim)?;
    let before = world.writes("c1", "")?;
    harm(world, Harm::PowerOff, victim)?;
    let said = format!("no switch for server{victim} at 10.77.0.{victim}:8443");
    world.cluster.until("the warning", || {
        let all = world.cluster.get(other, "/1.0/warnings?recursion=1")?;
        let mut warnings = all.as_array().into_iter().flatten();
        let found = warnings.any(|w| w["last_message"].as_str().is_some_and(|m| m.contains(&said)));
        Ok(found.then_some(()))
    })?;
    world.status(other, victim, "OFFLINE")?;
    assert_eq!(world.at(other, "c1")?, victim);
    program(world, &format!("echo \"$1 $2\" > {}/called", world.cluster.lab.dir.display()))?;
    let after = world.writes("c1", &before)?;
    println!("the hook failed once: c1 goes on after {:.1} s", world.one_after_another("c1")?);
    let called = std::fs::read_to_string(world.cluster.lab.dir.join("called"))?;
    assert_eq!(called.trim(), format!("server{victim} 10.77.0.{victim}:8443"));
    world.cluster.incus(other, &["config", "unset", "cluster.healing_hook"])?;
    mend(world, Harm::PowerOff, victim)?;
    world.restore(other, victim)?;
    world.writes("c1", &after)?;
    world.one_after_another("c1").map(drop)
}

/// Nobody heals, and a person says that a member is to be emptied.
pub fn a_person_empties_a_member_that_is_gone(world: &mut World) -> Result<()> {
    world.healing(1, false)?;
    let (victim, other) = victim(world)?;
    let name = format!("server{victim}");
    world.bring(other, "c1", victim)?;
    let before = world.writes("c1", "")?;
    world.cluster.incus(other, &["init", "bb", "rooted", "--target", &name])?;

    // Cut off, but alive: it runs on and renews its leases, for nobody has said that it is to be healed.
    harm(world, Harm::Cut, victim)?;
    world.status(other, victim, "OFFLINE")?;
    let said = world.cluster.refused(other, &["cluster", "evacuate", &name, "--force"])?;
    assert!(said.contains("still renews the lease"), "{said}");
    world.status(other, victim, "OFFLINE")?;
    world.writes_on("c1", &before)?;
    world.cluster.refused_with(other, &["cluster", "restore", &name, "--force"], "is offline")?;

    harm(world, Harm::PowerOff, victim)?;
    let told = world.cluster.incus_in(other, &["cluster", "evacuate", &name, "--force"], "")?;
    let told = format!("{}{}", told.err.clone(), told.ok()?);
    let stays = "\"rooted\" in project \"default\" stays: its files lie in the storage pool \"local\"";
    assert!(told.contains(stays), "{told}");
    let after = world.writes("c1", &before)?;
    assert_eq!((world.at(other, "rooted")?, world.cluster.member(other, victim, 's')?.as_str()), (victim, "EVACUATED"));
    world.cluster.refused_with(other, &["cluster", "evacuate", &name, "--force"], "already evacuated")?;
    world.cluster.lab.mend(victim)?;
    mend(world, Harm::PowerOff, victim)?;
    world.restore(other, victim)?;
    world.writes("c1", &after)?;
    world.one_after_another("c1").map(drop)
}

/// An instance belongs to another member by now, and the one that had it is gone and has not given its lease back.
pub fn a_lease_that_was_left_behind_is_taken(world: &mut World) -> Result<()> {
    world.healing(1, false)?;
    let (victim, other) = victim(world)?;
    world.bring(other, "c1", victim)?;
    let before = world.writes("c1", "")?;
    harm(world, Harm::PowerOff, victim)?;
    world.status(other, victim, "OFFLINE")?;
    // As after a move away from a member that has lost the storage.
    let sql =
        format!("UPDATE instances SET node_id = (SELECT id FROM nodes WHERE name = 'server{other}') WHERE name = 'c1'");
    world.cluster.incus(other, &["admin", "sql", "global", &sql])?;
    assert_eq!(world.at(other, "c1")?, other);
    world.cluster.refused_with(other, &["start", "c1"], &format!("server{victim}"))?;
    world.healing(other, true)?;
    let hook = program(world, "echo no switch for $1; exit 1")?;
    world.cluster.incus(other, &["config", "set", &format!("cluster.healing_hook={hook}")])?;
    world.cluster.refused_with(other, &["start", "c1"], &format!("no switch for server{victim}"))?;
    program(world, &format!("echo \"$1\" > {}/called", world.cluster.lab.dir.display()))?;
    world.cluster.incus(other, &["start", "c1"])?;
    let called = std::fs::read_to_string(world.cluster.lab.dir.join("called"))?;
    assert_eq!(called.trim(), format!("server{victim}"));
    world.cluster.incus(other, &["config", "unset", "cluster.healing_hook"])?;
    let after = world.writes("c1", &before)?;
    println!("a lease left behind: c1 goes on after {:.1} s", world.one_after_another("c1")?);
    mend(world, Harm::PowerOff, victim)?;
    world.status(other, victim, "ONLINE")?;
    world.writes_on("c1", &after)?;
    world.one_after_another("c1").map(drop)
}
