//! Keys of an instance: those that mean something for containers.

use super::{expiry, one_of, schedule};
use crate::key::{Blob, Config, check_all};
use crate::{Error, Result};

fn positive(n: i64) -> Result<(), String> {
    if n >= 0 { Ok(()) } else { Err(format!("Invalid value for an unsigned integer \"{n}\"")) }
}

fn memory(value: &str) -> Result<(), String> {
    match value.strip_suffix('%') {
        Some(percent) => percent.parse::<u64>().map(drop).map_err(|_| format!("Invalid value: {value}")),
        None => crate::size::bytes(value).map(drop),
    }
}

/// What goes into a line of liblxc's configuration, which has no way to write a line break.
fn one_line(value: &str) -> Result<(), String> {
    if value.contains(['\n', '\0']) { Err("It can't hold a line break".into()) } else { Ok(()) }
}

fn cpus(value: &str) -> Result<(), String> {
    let number = |n: &str| n.trim_matches(' ').parse::<usize>().is_ok();
    let part = |p: &str| p.split_once('-').map_or_else(|| number(p), |(a, b)| number(a) && number(b));
    if value != "0" && value.split(',').all(part) { Ok(()) } else { Err(format!("Invalid CPU limit \"{value}\"")) }
}

crate::keys! { INSTANCE {
    /// Whether it is started whenever the daemon starts; if not set, it is when it ran before.
    AUTOSTART: bool = "boot.autostart", "", Local;
    /// Seconds to wait after it was started before the next one is.
    AUTOSTART_DELAY: i64 = "boot.autostart.delay", "0", Local, |n| positive(*n);
    /// Those with the highest number are started first.
    AUTOSTART_PRIORITY: i64 = "boot.autostart.priority", "", Local;
    /// What happens to it when the machine goes down: `stop` or `force-stop`.
    SHUTDOWN_ACTION: String = "boot.host_shutdown_action", "stop", Local, |v| one_of(v, &["stop", "force-stop"]);
    /// Seconds that it may take to shut down before it is stopped by force.
    SHUTDOWN_TIMEOUT: i64 = "boot.host_shutdown_timeout", "30", Local, |n| positive(*n);
    /// Those with the highest number are stopped first.
    STOP_PRIORITY: i64 = "boot.stop.priority", "0", Local;
    /// What becomes of it when its member is evacuated.
    EVACUATE: String = "cluster.evacuate", "auto", Local,
        |v| one_of(v, &["auto", "migrate", "live-migrate", "stop", "stateful-stop", "force-stop"]);
    /// Environment of its init and of programs that are run in it.
    ENVIRONMENT: String = "environment.*", "", Local, |v| one_line(v);
    /// What its image says about itself.
    IMAGE: String = "image.*", "", Local;
    /// Its processors: how many, or which (`0-2,5`).
    CPU: String = "limits.cpu", "", Local, |v| cpus(v);
    /// Its memory: bytes, with a unit, or percent of the machine's.
    MEMORY: String = "limits.memory", "", Local, |v| memory(v);
    /// How many processes it may have.
    PROCESSES: i64 = "limits.processes", "", Local,
        |n| if *n > 0 { Ok(()) } else { Err(format!("Invalid value \"{n}\": at least one process is needed")) };
    /// Lines for liblxc, added at the end.
    RAW_LXC: Blob = "raw.lxc", "", Local;
    /// Whether it may hold containers itself.
    NESTING: bool = "security.nesting", "false", Local;
    /// Whether its root is that of the machine.
    PRIVILEGED: bool = "security.privileged", "false", Local;
    /// Whether it is kept from being deleted.
    PROTECTION_DELETE: bool = "security.protection.delete", "false", Local;
    /// When snapshots that are taken from now on expire.
    SNAPSHOTS_EXPIRY: String = "snapshots.expiry", "", Local, |v| expiry(v);
    /// The same for those that a person takes.
    SNAPSHOTS_EXPIRY_MANUAL: String = "snapshots.expiry.manual", "", Local, |v| expiry(v);
    /// Names of snapshots that are given none.
    SNAPSHOTS_PATTERN: String = "snapshots.pattern", "snap%d", Local;
    /// When snapshots are taken by themselves: `<minute> <hour> <day of month> <month> <day of week>`, or `@hourly`, `@daily`,
    /// `@midnight`, `@weekly`, `@monthly`, `@annually`, `@yearly`, `@startup`, `@never`, or several of these (`@daily, @startup`).
    SNAPSHOTS_SCHEDULE: String = "snapshots.schedule", "", Local, |v| schedule(v);
    /// Whether that is done while it does not run, too.
    SNAPSHOTS_SCHEDULE_STOPPED: bool = "snapshots.schedule.stopped", "false", Local;
    /// Anything.
    USER: String = "user.*", "", Local;
    /// For cloud-init.
    CLOUD_INIT: String = "cloud-init.*", "", Local;
    /// What the server notes about it.
    VOLATILE: String = "volatile.*", "", Local;
}}

/// Checks the configuration of an instance or a profile in the words that clients know.
pub fn check(config: &Config) -> Result<()> {
    if let Some(key) = config.keys().find(|key| key.contains(char::is_control)) {
        return Err(Error::bad_request(format!("Invalid config: Unknown configuration key: {key:?}")));
    }
    check_all(
        INSTANCE,
        config,
        |key| format!("Invalid config: Unknown configuration key: {key}"),
        |key, why| format!("Invalid config: {key}: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        for (key, value, good) in [
            ("limits.memory", "512MiB", true),
            ("limits.memory", "10%", true),
            ("limits.memory", "much", false),
            ("limits.cpu", "2", true),
            ("limits.cpu", "0-1,3", true),
            ("limits.cpu", "0", false),
            ("limits.cpu", "a", false),
            ("limits.processes", "0", false),
            ("cluster.evacuate", "migrate", true),
            ("cluster.evacuate", "bogus", false),
            ("boot.autostart", "maybe", false),
            ("boot.autostart", "", true),
            ("environment.PATH", "/bin", true),
            ("environment.A", "x\nlxc.hook.start-host = /bin/sh", false),
            ("environment.A\nlxc.hook.start-host", "/bin/sh", false),
            ("user.a\n", "x", false),
            ("user.a", "two\nlines", true),
            ("limits.cpu", "0-1\n", false),
            ("user.a.b", "c", true),
            ("bogus", "1", false),
        ] {
            let config = Config::from([(key.to_owned(), value.to_owned())]);
            assert_eq!(check(&config).is_ok(), good, "{key}={value}");
        }
        let unknown = check(&Config::from([("bogus".to_owned(), "1".to_owned())])).unwrap_err();
        assert_eq!(unknown.message, "Invalid config: Unknown configuration key: bogus");
    }
}
