//! The rack itself: machines hear each other, cables can be cut, a pulled plug ends everything.

use std::io::Read;
use std::process::Stdio;

use lab::{Lab, Result};

#[test]
fn machines_hear_each_other_until_a_cable_is_cut_and_die_with_their_power() -> Result<()> {
    if lab::skip(&[]) {
        return Ok(());
    }
    let mut lab = Lab::temporary("machines", 2)?;
    let ping = |lab: &Lab| lab.machines[0].run("ping", &["-c1", "-W1", "10.77.0.2"], "").map(|o| o.code);
    assert_eq!(ping(&lab)?, 0);
    assert_eq!(lab.machines[1].must("hostname", &[])?.trim(), "server2");
    lab.cut(2)?;
    assert_ne!(ping(&lab)?, 0);
    lab.mend(2)?;
    assert_eq!(ping(&lab)?, 0);

    let mut process =
        lab.machines[1].command("sh").args(["-c", "echo up; sleep 1000"]).stdout(Stdio::piped()).spawn()?;
    let mut up = [0; 2];
    process.stdout.take().ok_or("no output")?.read_exact(&mut up)?;
    lab.machine(2).power_off();
    assert!(!process.wait()?.success(), "what ran on it ended with it");
    lab.power_on(2)?;
    assert_eq!(ping(&lab)?, 0);
    assert!(lab.machines[1].must("ls", &["/sys/fs/cgroup"])?.contains("memory"), "cgroups are there");

    let dir = lab.dir.clone();
    drop(lab);
    assert!(!dir.exists());
    Ok(())
}
