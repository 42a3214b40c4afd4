//! A daemon is killed at each step of an evacuation: the one that is emptied, the one that receives, the leader.

use lab::Result;

use crate::world::World;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Subject,
    Target,
    Leader,
}

const STEPS: [&str; 5] = ["stop", "copy", "commit", "start", "clean"];

struct Case {
    role: Role,
    point: String,
    /// The member that is emptied leads.
    leads: bool,
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for role in [Role::Subject, Role::Target, Role::Leader] {
        for step in STEPS {
            for when in ["before", "after"] {
                all.push(Case { role, point: format!("plan:{step}:{when}"), leads: false });
            }
        }
    }
    for step in ["copy", "commit", "start", "end"] {
        all.push(Case { role: Role::Subject, point: format!("plan:{step}:before"), leads: true });
    }
    // In the middle of what the receiving member is asked for.
    for point in ["member:fetch:after", "member:start:before", "member:start:after"] {
        all.push(Case { role: Role::Target, point: point.into(), leads: false });
    }
    all
}

#[test]
fn whoever_is_killed_at_whichever_step_each_instance_is_in_one_place() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut world = World::new("crash")?;
    // Stopping cleanly takes BusyBox two seconds: force is faster.
    world.container("c1", 2, true, &["boot.host_shutdown_timeout=0"])?;
    world.container("c2", 2, false, &[])?;
    let began = std::time::Instant::now();
    for case in cases() {
        let at = format!("{:?} killed at {}, leads: {}", case.role, case.point, case.leads);
        one(&mut world, &case).map_err(|e| format!("{at}: {e}"))?;
        println!("{:>6} ms  {at}", began.elapsed().as_millis());
    }
    Ok(())
}

/// The members that are neither.
fn other(a: usize, b: usize) -> usize {
    (1..=3).find(|n| *n != a && *n != b).unwrap_or(1)
}

fn one(world: &mut World, case: &Case) -> Result<()> {
    let leader = world.cluster.until("a leader", || Ok((1..=3).find_map(|n| world.cluster.leader(n).ok())))?;
    let subject = match (case.leads, leader) {
        (true, leader) => leader,
        (false, 2) => 3,
        (false, _) => 2,
    };
    bring(world, subject)?;
    let target = if case.leads { other(subject, 0) } else { other(subject, leader) };
    let third = other(subject, target);
    for n in 1..=3 {
        let policy = if n == third { "scheduler.instance=manual" } else { "scheduler.instance=all" };
        world.cluster.incus(subject, &["cluster", "set", &format!("server{n}"), policy])?;
    }
    let victim = match case.role {
        Role::Subject => subject,
        Role::Target => target,
        Role::Leader => leader,
    };
    let holder = if case.point.starts_with("member:") { target } else { subject };
    let witness = if victim == third { target } else { third };
    let name = format!("server{subject}");
    // One that has just started must have heard of the one that is to receive.
    world
        .cluster
        .until("the target heard of", || Ok((world.cluster.member(subject, target, 's')? == "ONLINE").then_some(())))?;
    world.cluster.hold(holder, &case.point)?;
    let mut client = world.begin(witness, &["cluster", "evacuate", &name, "--force"])?;
    world.cluster.held(holder)?;
    world.cluster.kill(victim)?;
    world.cluster.release(holder);
    world.start(victim)?;
    let state = world.settled(witness, subject)?;
    let _ = client.kill();
    let _ = client.wait();
    if state != "EVACUATED" {
        return Err(format!("the member is {state}\n{}", world.cluster.lab.logs()).into());
    }
    world.soon(witness, &[("c1", target, true), ("c2", target, false)])?;
    world.restore(witness, subject)?;
    world.soon(witness, &[("c1", subject, true), ("c2", subject, false)])
}

/// Both containers are on that member.
fn bring(world: &World, member: usize) -> Result<()> {
    let target = format!("server{member}");
    for (name, (_, at)) in world.cluster.instances(member)? {
        if at != target {
            world.cluster.incus(member, &["move", &name, "--target", &target])?;
        }
    }
    Ok(())
}
