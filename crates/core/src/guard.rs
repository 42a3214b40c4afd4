//! When a member has to end its own instances because others may start them.

use std::fmt;
use std::time::Duration;

/// What the guard of a member knows of a lease that it renews. Times are of one clock, that of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// Until then nobody else takes it.
    pub valid_until: Duration,
    /// How long it is good for after a renewal began.
    pub ttl: Duration,
    /// It is known to be gone: taken by another member, or removed.
    pub lost: bool,
}

/// What the daemon has told of the cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quorum {
    /// When a majority was last known to count this member among those that are there.
    pub confirmed: Duration,
    /// After so long without that the member ends what others will start; `None`: never.
    pub fence_after: Option<Duration>,
}

/// Why instances are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The lease is another's, or gone.
    Lost,
    /// The lease could not be renewed for so long that there is just time to end what uses it.
    NotRenewed,
    /// No majority was heard of for so long.
    NoQuorum(Duration),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Lost => f.write_str("its lease is lost"),
            Why::NotRenewed => f.write_str("its lease could not be renewed"),
            Why::NoQuorum(silent) => {
                write!(f, "no majority of the cluster has confirmed this member for {} s", silent.as_secs())
            }
        }
    }
}

/// The part of a lease's time that is kept for ending what uses it.
fn reserve(ttl: Duration) -> Duration {
    ttl * 2 / 5
}

/// Why what uses the lease has to be ended now; `None` if it may run on.
pub fn must_end(now: Duration, lease: &Lease, quorum: &Quorum) -> Option<Why> {
    if lease.lost {
        return Some(Why::Lost);
    }
    if now + reserve(lease.ttl) >= lease.valid_until {
        return Some(Why::NotRenewed);
    }
    let silent = now.saturating_sub(quorum.confirmed);
    (quorum.fence_after.is_some_and(|after| silent >= after)).then_some(Why::NoQuorum(silent))
}

/// True if the machine has to be reset: what uses the lease can't be ended, and others may take it soon.
pub fn out_of_hand(now: Duration, lease: &Lease) -> bool {
    // It was to be over in a moment.
    now + reserve(lease.ttl) >= lease.valid_until + Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_run_on_as_long_as_nobody_else_may_start_them() {
        let s = Duration::from_secs;
        let lease = |renewed: u64, lost| Lease { valid_until: s(renewed + 10), ttl: s(10), lost };
        for (what, now, renewed, lost, confirmed, after, want) in [
            ("all is well", 100, 98, false, 99, Some(20), None),
            ("renewed a while ago", 100, 95, false, 99, Some(20), None),
            ("not renewed for six seconds of ten", 100, 94, false, 99, Some(20), Some(Why::NotRenewed)),
            ("the machine slept", 5000, 94, false, 99, None, Some(Why::NotRenewed)),
            ("taken by another", 100, 99, true, 99, Some(20), Some(Why::Lost)),
            ("silent, but not for long", 100, 99, false, 81, Some(20), None),
            ("silent", 100, 99, false, 80, Some(20), Some(Why::NoQuorum(s(20)))),
            ("silent, and nobody heals", 1000, 999, false, 80, None, None),
            ("a clock that was read earlier", 100, 99, false, 101, Some(20), None),
        ] {
            let quorum = Quorum { confirmed: s(confirmed), fence_after: after.map(s) };
            assert_eq!(must_end(s(now), &lease(renewed, lost), &quorum), want, "{what}");
        }
        assert!(!out_of_hand(s(106), &lease(100, false)) && out_of_hand(s(107), &lease(100, false)));
    }
}
