//! A clock that only goes forward.

use std::time::Duration;

/// The time since the machine was started, that during which it slept included. It means nothing on another machine,
/// and nothing after a restart; the processes of one machine can compare what they read.
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
