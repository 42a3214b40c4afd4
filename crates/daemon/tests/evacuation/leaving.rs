//! `core.shutdown_action=evacuate`: a member whose machine goes down sends its instances away first.

use std::time::Duration;

use lab::Result;

use crate::world::World;

#[test]
fn a_machine_that_goes_down_sends_its_instances_away_first() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let mut world = World::new("leaving")?;
    world.container("c1", 2, true, &["boot.host_shutdown_timeout=0"])?;
    world.container("stays", 2, true, &["cluster.evacuate=stop", "boot.host_shutdown_timeout=0"])?;
    world.cluster.incus(1, &["cluster", "set", "server1", "scheduler.instance=manual"])?;
    let at_home = [("c1", 2, true), ("stays", 2, true)];
    let patience = Duration::from_secs(60);

    // By default they are stopped and start with the machine.
    world.cluster.machine(2).end_daemon("PWR", patience)?;
    world.start(2)?;
    world.soon(1, &at_home)?;

    world.cluster.incus(1, &["config", "set", "core.shutdown_action=evacuate"])?;
    world.cluster.machine(2).end_daemon("PWR", patience)?;
    assert_eq!(world.cluster.member(1, 2, 's')?, "EVACUATED");
    let away = [("c1", 3, true), ("stays", 2, false)];
    assert_eq!(world.cluster.instances(1)?["c1"], ("RUNNING".into(), "server3".into()));
    // It stays so until somebody restores it.
    world.start(2)?;
    world.soon(1, &away)?;
    assert_eq!(world.cluster.member(1, 2, 's')?, "EVACUATED");
    world.restore(1, 2)?;
    world.soon(1, &at_home)?;

    // What doesn't get away in time is stopped, and the member is in service when it is back.
    world.cluster.incus(1, &["config", "set", "core.shutdown_timeout=0"])?;
    world.cluster.incus(2, &["admin", "shutdown"])?;
    lab::run::until(patience, || Ok((!world.cluster.machine(2).daemon_runs()).then_some(())))?;
    world.start(2)?;
    world.soon(1, &at_home)?;
    assert_eq!(world.cluster.member(1, 2, 's')?, "ONLINE");
    Ok(())
}
