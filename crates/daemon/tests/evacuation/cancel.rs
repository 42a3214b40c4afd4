//! Plans that are cancelled: what has begun ends or is put back, and nothing else is begun.

use lab::Result;

use crate::stock;
use crate::world::World;

#[test]
fn a_cancelled_plan_leaves_a_clear_state() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut world = World::new("cancel")?;
    world.container("stays", 2, true, &["cluster.evacuate=stop", "boot.host_shutdown_timeout=0"])?;
    world.container("c1", 2, true, &["boot.host_shutdown_timeout=0"])?;
    world.container("c2", 2, true, &["boot.host_shutdown_timeout=0"])?;
    world.cluster.incus(1, &["cluster", "set", "server1", "scheduler.instance=manual"])?;
    world.cluster.incus(1, &["config", "set", "cluster.evacuation.parallel=1"])?;
    before_the_commit(&world)?;
    while_files_come_in(&world)?;
    after_the_commit(&world)?;
    of_a_restore(&world)?;
    of_a_move(&world)?;
    and_a_crash(&mut world)
}

const AT_HOME: [(&str, usize, bool); 3] = [("stays", 2, true), ("c1", 2, true), ("c2", 2, true)];

/// The id of the operation that can be cancelled.
fn operation(world: &World) -> Result<String> {
    world.cluster.until("the operation", || {
        let list = world.cluster.incus(1, &["query", "/1.0/operations?recursion=1"])?;
        let all: serde_json::Value = serde_json::from_str(&list)?;
        let running = all["running"].as_array().into_iter().flatten().find(|o| o["may_cancel"] == true);
        Ok(running.and_then(|o| o["id"].as_str()).map(str::to_owned))
    })
}

/// Begins something, cancels it when a machine holds at that point, and lets it end; what the client said.
fn cancelled(world: &World, args: &[&str], machine: usize, point: &str, client: &str) -> Result<String> {
    world.cluster.hold(machine, point)?;
    let ours = world.cluster.lab.machines[0].command(&world.cluster.programs.incus);
    let mut ours = ours;
    let begun = ours.args(args).stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn()?;
    world.cluster.held(machine)?;
    let id = operation(world)?;
    world.cluster.lab.machines[2].must(client, &["operation", "delete", &id])?;
    world.cluster.release(machine);
    let said = begun.wait_with_output()?;
    assert!(!said.status.success());
    let state = ["admin", "sql", "global", "SELECT state FROM plans ORDER BY id DESC LIMIT 1"];
    assert!(world.cluster.incus(1, &state)?.contains("cancelled"));
    Ok(String::from_utf8_lossy(&said.stderr).into_owned())
}

const EVACUATE: [&str; 4] = ["cluster", "evacuate", "server2", "--force"];

fn ours(world: &World) -> String {
    world.cluster.programs.incus.to_string_lossy().into_owned()
}

fn before_the_commit(world: &World) -> Result<()> {
    for client in [Some(ours(world)), stock(&world.cluster)].into_iter().flatten() {
        let said = cancelled(world, &EVACUATE, 2, "plan:copy:before", &client)?;
        assert!(said.contains("The evacuation was cancelled: the cluster member is back in service"), "{said}");
        assert_eq!(world.cluster.member(1, 2, 's')?, "ONLINE");
        world.check(1, &AT_HOME)?;
    }
    Ok(())
}

/// What the receiving member is about to fetch is not left there.
fn while_files_come_in(world: &World) -> Result<()> {
    for point in ["member:fetch:before", "member:fetch:after"] {
        cancelled(world, &EVACUATE, 3, point, &ours(world))?;
        world.soon(1, &AT_HOME)?;
    }
    Ok(())
}

/// What has gone stays where it is, and comes home.
fn after_the_commit(world: &World) -> Result<()> {
    let said = cancelled(world, &EVACUATE, 2, "plan:commit:after", &ours(world))?;
    assert!(said.contains("what has moved (1 of 3) stays where it is"), "{said}");
    assert_eq!(world.cluster.member(1, 2, 's')?, "ONLINE");
    world.check(1, &[("stays", 2, true), ("c1", 3, true), ("c2", 2, true)])?;
    world.cluster.incus(1, &["cluster", "restore", "server2", "--force"])?;
    world.check(1, &AT_HOME)
}

fn of_a_restore(world: &World) -> Result<()> {
    world.cluster.incus(1, &EVACUATE)?;
    let said = cancelled(world, &["cluster", "restore", "server2", "--force"], 2, "plan:commit:after", &ours(world))?;
    assert!(said.contains("The restore was cancelled: the cluster member is in service; 1 instances"), "{said}");
    assert_eq!(world.cluster.member(1, 2, 's')?, "ONLINE");
    world.check(1, &[("stays", 2, true), ("c1", 2, true), ("c2", 3, true)])?;
    world.cluster.incus(1, &["cluster", "restore", "server2", "--force"])?;
    world.check(1, &AT_HOME)
}

fn of_a_move(world: &World) -> Result<()> {
    let args = ["move", "c1", "--target", "server3"];
    let said = cancelled(world, &args, 2, "plan:copy:after", &ours(world))?;
    assert!(said.contains("The move was cancelled: the instance is where it was"), "{said}");
    world.check(1, &AT_HOME)
}

/// The wish outlives the daemon.
fn and_a_crash(world: &mut World) -> Result<()> {
    for point in ["plan:stop:after", "plan:copy:after"] {
        world.cluster.hold(2, point)?;
        let mut client = world.begin(1, &EVACUATE)?;
        world.cluster.held(2)?;
        let id = operation(world)?;
        world.cluster.incus(1, &["operation", "delete", &id])?;
        world.cluster.kill(2)?;
        world.cluster.release(2);
        world.start(2)?;
        assert_eq!(world.settled(1, 2)?, "ONLINE");
        let _ = client.wait();
        world.soon(1, &AT_HOME)?;
    }
    Ok(())
}
