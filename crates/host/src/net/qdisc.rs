//! Speed limits of a link, set with the `tc` program.

use std::{io, process::Command};

use super::Net;
use crate::confine::{self, Capabilities};

impl Net {
    /// Limits what leaves and what enters a link of the calling thread's namespace, in bit/s; none is no limit.
    /// What was set before is replaced.
    ///
    /// # Errors
    /// When `tc` is missing, or the kernel lacks the scheduler or the policer, in the words of `tc`.
    pub fn set_limits(&self, link: &str, leaving: Option<u64>, entering: Option<u64>) -> io::Result<()> {
        // Neither need be there: what fails to go was not set.
        let _ = tc(&["qdisc", "del", "dev", link, "root"]);
        let _ = tc(&["qdisc", "del", "dev", link, "ingress"]);
        if let Some(rate) = leaving {
            let rate = format!("{rate}bit");
            tc(&["qdisc", "add", "dev", link, "root", "handle", "1:0", "htb", "default", "10"])?;
            tc(&["class", "add", "dev", link, "parent", "1:0", "classid", "1:10", "htb", "rate", &rate])?;
        }
        if let Some(rate) = entering {
            // A policer drops what does not fit its bucket, so the bucket holds what TCP sends in a tenth of
            // a second, and no less than a few full frames.
            let (rate, burst) = (format!("{rate}bit"), format!("{}b", (rate / 80).max(64 * 1024)));
            tc(&["qdisc", "add", "dev", link, "handle", "ffff:0", "ingress"])?;
            let filter = ["filter", "add", "dev", link, "protocol", "all", "parent", "ffff:0", "u32"];
            let police = ["match", "u32", "0", "0", "police", "rate", &rate, "burst", &burst, "mtu", "64kb", "drop"];
            tc(&[&filter[..], &police[..]].concat())?;
        }
        Ok(())
    }
}

fn tc(args: &[&str]) -> io::Result<()> {
    let mut command = Command::new("tc");
    confine::command(command.args(args), Capabilities::NET_ADMIN);
    let output = command.output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            e.kind(),
            "Network limits need the program \"tc\" (package iproute2), which is not installed",
        ),
        _ => e,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("Failed to run \"tc {}\": {}", args.join(" "), words.trim())))
}
