//! Members that are gone, cut off or hang, and whose instances go on elsewhere: never with two owners, which a witness
//! in the shared volume proves, and within a bounded time, which is printed.
#![allow(clippy::unwrap_used)]

mod by_hand;
mod world;

use std::time::Duration;

use lab::{Result, must};
use world::World;

/// What happens to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// The plug is pulled.
    PowerOff,
    /// It hears nobody and nobody hears it; the storage is reachable.
    Cut,
    /// It hears nobody.
    Deaf,
    /// Nobody hears it.
    Mute,
    /// Its daemon stands still; all else goes on.
    Hangs,
    /// Its daemon is gone; all else goes on.
    Killed,
}

#[test]
fn instances_of_members_that_are_gone_go_on_elsewhere_and_never_twice() -> Result<()> {
    if lab::skip(&["/bin/busybox", "nft"]) {
        return Ok(());
    }
    let mut world = World::new("healing")?;
    world.witness("c1", 2)?;
    for harm in [Harm::PowerOff, Harm::Cut, Harm::Deaf, Harm::Mute, Harm::Hangs, Harm::Killed] {
        healed(&mut world, harm).map_err(|e| format!("{harm:?}: {e}"))?;
    }
    the_next_leader_goes_on(&mut world).map_err(|e| format!("the leader killed: {e}"))?;
    the_one_that_receives_dies(&mut world).map_err(|e| format!("the target killed: {e}"))?;
    a_guard_that_is_killed_is_replaced(&world).map_err(|e| format!("the guard killed: {e}"))?;
    a_daemon_that_is_stopped_leaves_all_running(&mut world).map_err(|e| format!("the daemon stopped: {e}"))?;
    by_hand::the_hook_has_to_succeed(&mut world).map_err(|e| format!("the hook: {e}"))?;
    by_hand::a_lease_that_was_left_behind_is_taken(&mut world).map_err(|e| format!("the lease left behind: {e}"))?;
    by_hand::a_person_empties_a_member_that_is_gone(&mut world).map_err(|e| format!("by hand: {e}"))?;
    Ok(())
}

/// A member to which something happens, and one that sees it; neither leads.
fn victim(world: &World) -> Result<(usize, usize)> {
    let leader = world.leader(1)?;
    let voters = world.voters()?;
    let mut others = (1..=4).filter(|n| *n != leader);
    let victim = others.clone().find(|n| !voters.contains(n)).or_else(|| others.next()).ok_or("no victim")?;
    let other = (1..=4).find(|n| *n != leader && *n != victim).ok_or("no other")?;
    Ok((victim, other))
}

fn harm(world: &mut World, harm: Harm, victim: usize) -> Result<()> {
    let lab = &mut world.cluster.lab;
    match harm {
        Harm::PowerOff => lab.machine(victim).power_off(),
        Harm::Cut => lab.cut(victim)?,
        Harm::Deaf => filter(world, victim, "input", "iifname")?,
        Harm::Mute => filter(world, victim, "output", "oifname")?,
        Harm::Hangs => lab.machine(victim).signal_daemon("STOP")?,
        Harm::Killed => lab.machine(victim).end_daemon("KILL", Duration::from_secs(10))?,
    }
    Ok(())
}

/// Nothing passes in that direction.
fn filter(world: &World, victim: usize, hook: &str, device: &str) -> Result<()> {
    let rules = format!(
        "table inet harm {{\nchain c {{\ntype filter hook {hook} priority 0; policy accept;\n{device} \"eth0\" drop\n}}\n}}\n"
    );
    world.cluster.lab.machines[victim - 1].run("nft", &["-f", "-"], &rules)?.ok().map(drop)
}

fn mend(world: &mut World, harm: Harm, victim: usize) -> Result<()> {
    match harm {
        Harm::PowerOff => {
            world.cluster.lab.power_on(victim)?;
            world.start(victim)
        }
        Harm::Cut => world.cluster.lab.mend(victim),
        Harm::Deaf | Harm::Mute => {
            world.cluster.lab.machines[victim - 1].must("nft", &["delete", "table", "inet", "harm"]).map(drop)
        }
        Harm::Hangs => world.cluster.machine(victim).signal_daemon("CONT"),
        Harm::Killed => world.start(victim),
    }
}

fn healed(world: &mut World, what: Harm) -> Result<()> {
    let (victim, other) = match what {
        // This one happens to the leader.
        Harm::Killed => {
            let leader = world.leader(1)?;
            (leader, (1..=4).find(|n| *n != leader).ok_or("no other")?)
        }
        _ => victim(world)?,
    };
    world.bring(other, "c1", victim)?;
    let before = world.writes("c1", "")?;
    world.writes_on("c1", &before)?;
    harm(world, what, victim)?;
    let after = world.writes("c1", &before)?;
    println!("{what:?}: c1 goes on elsewhere after {:.1} s", world.one_after_another("c1")?);
    world.status(other, victim, "EVACUATED")?;
    let now_at = world.at(other, "c1")?;
    assert!(now_at != victim && world.cluster.instances(other)?["c1"].0 == "RUNNING", "{now_at}");
    let warned = world.cluster.incus(other, &["warning", "list", "-f", "csv"])?;
    assert!(warned.contains("Cluster member healed"), "{warned}");

    mend(world, what, victim)?;
    // It is back, finds that its instance is elsewhere, and takes it back only when a person says so.
    world.cluster.until("it has caught up", || {
        let from = world.cluster.incus_in(victim, &["list", "-f", "csv", "-c", "nsL"], "")?;
        Ok((from.code == 0 && from.out.contains(&format!("c1,RUNNING,server{now_at}"))).then_some(()))
    })?;
    assert_eq!(world.cluster.member(victim, victim, 's')?, "EVACUATED");
    world.writes_on("c1", &after)?;
    world.restore(other, victim)?;
    world.status(other, victim, "ONLINE")?;
    assert_eq!(world.at(other, "c1")?, victim);
    world.writes("c1", &after)?;
    world.one_after_another("c1")?;
    world.cluster.until("nobody is away", || {
        let status = |n| Ok::<_, lab::run::Error>(world.cluster.member(other, n, 's')? == "ONLINE");
        Ok((1..=4).map(status).collect::<Result<Vec<_>>>()?.iter().all(|on| *on).then_some(()))
    })
}

/// Where the leader comes by while it heals.
const LEADERS_POINTS: [&str; 6] = [
    "plan:fence:before",
    "plan:lease:before",
    "plan:commit:before",
    "plan:commit:after",
    "plan:start:before",
    "plan:start:after",
];

/// Two of three, other ones each time, as all take too long; all of them with `TORTURE_ALL`.
fn drawn(points: &[&'static str]) -> Vec<&'static str> {
    let all = std::env::var_os("TORTURE_ALL").is_some();
    let turn = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs() % 3);
    let counted = points.iter().zip(0_u64..);
    counted.filter(|(_, n)| all || !(n + turn).is_multiple_of(3)).map(|(point, _)| *point).collect()
}

/// A healing in the middle of which a daemon was killed.
struct Struck {
    /// The member that was switched off, which had c1.
    victim: usize,
    /// Whom to ask meanwhile.
    other: usize,
    /// The member that led; it takes no instances.
    leader: usize,
    /// The member whose daemon was killed when it came to the point.
    held: usize,
    /// What the witness had written before.
    before: String,
}

/// Switches the member of c1 off, and kills the daemon that comes to `point` while c1 is healed.
fn strike(world: &mut World, point: &str) -> Result<Struck> {
    let (victim, other) = victim(world)?;
    let leader = world.leader(other)?;
    world.bring(other, "c1", victim)?;
    // The member that leads dies, or goes on: the instance is not to go there.
    world.cluster.incus(other, &["cluster", "set", &format!("server{leader}"), "scheduler.instance=manual"])?;
    let before = world.writes("c1", "")?;
    for n in (1..=4).filter(|n| *n != victim) {
        world.cluster.hold(n, point)?;
    }
    harm(world, Harm::PowerOff, victim)?;
    let held = world.cluster.until(&format!("one at {point}"), || Ok((1..=4).find(|n| world.cluster.came(*n))))?;
    world.cluster.kill(held)?;
    (1..=4).for_each(|n| world.cluster.release(n));
    Ok(Struck { victim, other, leader, held, before })
}

impl Struck {
    /// Switches the member on again and brings back what was healed; `asked` is a member to ask, `after` what the witness
    /// had written since.
    fn mend(&self, world: &mut World, asked: usize, after: &str) -> Result<()> {
        mend(world, Harm::PowerOff, self.victim)?;
        world.cluster.incus(asked, &["cluster", "set", &format!("server{}", self.leader), "scheduler.instance=all"])?;
        world.restore(asked, self.victim)?;
        world.writes("c1", after)?;
        world.one_after_another("c1")?;
        Ok(())
    }
}

/// The leader dies in the middle of healing: whoever leads then goes on.
fn the_next_leader_goes_on(world: &mut World) -> Result<()> {
    for point in drawn(&LEADERS_POINTS) {
        let struck = strike(world, point)?;
        let Struck { victim, held, other, .. } = struck;
        let other = if held == other { (1..=4).find(|n| *n != held && *n != victim).ok_or("no other")? } else { other };
        let after = world.writes("c1", &struck.before)?;
        println!("the leader killed at {point}: c1 goes on after {:.1} s", world.one_after_another("c1")?);
        world.status(other, victim, "EVACUATED")?;
        world.start(held)?;
        struck.mend(world, other, &after)?;
    }
    Ok(())
}

/// The member that is to start what was healed dies while it does, and is back: it runs there, once.
fn the_one_that_receives_dies(world: &mut World) -> Result<()> {
    for point in ["member:start:before", "member:start:after"] {
        let struck = strike(world, point)?;
        world.start(struck.held)?;
        let after = world.writes("c1", &struck.before)?;
        println!("the target killed at {point}: c1 goes on after {:.1} s", world.one_after_another("c1")?);
        world.status(struck.leader, struck.victim, "EVACUATED")?;
        world.writes_on("c1", &after)?;
        struck.mend(world, struck.leader, &after)?;
    }
    Ok(())
}

fn a_guard_that_is_killed_is_replaced(world: &World) -> Result<()> {
    let at = world.at(1, "c1")?;
    let machine = &world.cluster.lab.machines[at - 1];
    let life = world.writes("c1", "")?;
    let first = world.cluster.until("a guard", || Ok(machine.guard_pid()))?;
    must("kill", &["-s", "KILL", &first.to_string()])?;
    world.cluster.until("another guard", || Ok(machine.guard_pid().filter(|pid| *pid != first)))?;
    world.renewed("c1")?;
    // One that hangs is replaced, too.
    let second = world.cluster.until("a guard", || Ok(machine.guard_pid()))?;
    must("kill", &["-s", "STOP", &second.to_string()])?;
    world.cluster.until("another guard", || Ok(machine.guard_pid().filter(|pid| *pid != second)))?;
    world.writes_on("c1", &life)
}

/// A person stops a daemon, for an upgrade that takes longer than the threshold.
fn a_daemon_that_is_stopped_leaves_all_running(world: &mut World) -> Result<()> {
    let (victim, other) = victim(world)?;
    world.bring(other, "c1", victim)?;
    let life = world.writes("c1", "")?;
    world.cluster.machine(victim).end_daemon("TERM", Duration::from_secs(20))?;
    world.silent(other, victim, 2 * world::THRESHOLD)?;
    assert_eq!(world.at(other, "c1")?, victim);
    world.writes_on("c1", &life)?;
    world.start(victim)?;
    world.status(other, victim, "ONLINE")?;
    world.writes_on("c1", &life)
}
