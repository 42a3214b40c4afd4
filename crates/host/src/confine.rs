//! Giving up what a process does not need for the rest of its work, for good: capabilities, and ways to get them back.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::Errno;
pub use rustix::thread::CapabilitySet as Capabilities;
use rustix::thread::{
    CapabilitySets, UnshareFlags, capabilities, capability_is_in_bounding_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

/// What it takes to work on the files of all users as root does.
pub const FILES: Capabilities = Capabilities::CHOWN
    .union(Capabilities::DAC_OVERRIDE)
    .union(Capabilities::DAC_READ_SEARCH)
    .union(Capabilities::FOWNER)
    .union(Capabilities::FSETID);

/// Keeps no other capabilities than these, as far as they are there, for this thread and all that it starts from now on.
/// Nothing that is run gives more: no setuid program, and no program with capabilities of its own.
///
/// # Errors
/// When the kernel refuses; then it is not known what was kept.
pub fn keep(wanted: Capabilities) -> io::Result<()> {
    for one in Capabilities::all().difference(wanted).iter() {
        match capability_is_in_bounding_set(one) {
            Ok(true) => match remove_capability_from_bounding_set(one) {
                // Who may not do that has nothing to lose.
                Ok(()) | Err(Errno::PERM) => {}
                Err(e) => return Err(e.into()),
            },
            // One that this kernel does not know.
            Ok(false) | Err(Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let kept = capabilities(None)?.permitted.intersection(wanted);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: Capabilities::empty() };
    set_capabilities(None, sets)?;
    Ok(set_no_new_privs(true)?)
}

/// Makes the command's process keep no other capabilities than these.
pub fn command(command: &mut Command, wanted: Capabilities) -> &mut Command {
    // SAFETY: between fork and exec only system calls are made that are safe there, and nothing is allocated: the
    // errors are numbers.
    unsafe { command.pre_exec(move || keep(wanted)) }
}

/// The same, without a network either.
pub fn command_alone(command: &mut Command, wanted: Capabilities) -> &mut Command {
    // SAFETY: as above; the namespaces of a process with one thread are changed, and its descriptors stay shared with
    // nobody.
    unsafe {
        command.pre_exec(move || {
            rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWIPC)?;
            keep(wanted)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn status(text: &str, key: &str) -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn a_program_gets_what_it_needs_and_can_get_no_more() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: this needs root");
            return;
        }
        let own = capabilities(None).unwrap().permitted;
        let mut cat = Command::new("cat");
        cat.args(["/proc/self/status", "/proc/self/net/dev"]);
        let said = command_alone(&mut cat, FILES.union(Capabilities::MKNOD)).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let wanted = FILES.union(Capabilities::MKNOD).intersection(own).bits();
        for key in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(status(&said, key), wanted, "{key}");
        }
        assert_eq!((status(&said, "CapInh"), status(&said, "CapAmb"), status(&said, "NoNewPrivs")), (0, 0, 1));
        assert!(said.contains("lo:") && !said.contains("eth"), "it has a network: {said}");
        let after = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(status(&after, "CapEff"), own.bits(), "the caller keeps what it has");
        let mut missing = Command::new("/nonexistent");
        assert_eq!(command(&mut missing, FILES).spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
