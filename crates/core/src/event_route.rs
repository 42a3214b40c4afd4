//! How events travel between the members of a cluster.
//!
//! A member hears the events of another by listening to it. In a full mesh everybody listens to everybody. With two or
//! more members that have the role `event-hub` everybody listens to the hubs only; the hubs listen to all, and pass on
//! what they hear. A member that no hub hears is listened to by all, as in a full mesh: so hubs can die, all of them if
//! need be, and nobody's events are lost for longer than it takes to notice.

/// How many hubs there have to be before events travel through them.
pub const HUBS: usize = 2;

/// What a member is in the travelling of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It listens to all others, who listen to it.
    FullMesh,
    /// It listens to all others and passes on what it hears.
    Hub,
    /// It listens to the hubs.
    Client,
}

impl Mode {
    /// What a member is that is a hub or not, in a cluster with so many hubs.
    pub const fn of(is_hub: bool, hubs: usize) -> Mode {
        match (hubs >= HUBS, is_hub) {
            (false, _) => Mode::FullMesh,
            (true, true) => Mode::Hub,
            (true, false) => Mode::Client,
        }
    }

    /// True if it listens to that member, a hub or not, which a hub hears or none does.
    pub const fn listens_to(self, hub: bool, heard_by_a_hub: bool) -> bool {
        match self {
            Mode::FullMesh | Mode::Hub => true,
            Mode::Client => hub || !heard_by_a_hub,
        }
    }

    /// The name that clients know; `hub_heard` is true if it hears a hub.
    pub const fn as_str(self, hub_heard: bool) -> &'static str {
        match self {
            Mode::Hub => "hub-server",
            Mode::Client if hub_heard => "hub-client",
            Mode::FullMesh | Mode::Client => "full-mesh",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_hub_is_none_and_who_no_hub_hears_is_listened_to() {
        for (is_hub, hubs, want) in [
            (false, 0, Mode::FullMesh),
            (true, 1, Mode::FullMesh),
            (false, 1, Mode::FullMesh),
            (true, 2, Mode::Hub),
            (false, 2, Mode::Client),
        ] {
            assert_eq!(Mode::of(is_hub, hubs), want, "{is_hub} {hubs}");
        }
        for (mode, hub, heard, want) in [
            (Mode::FullMesh, false, true, true),
            (Mode::Hub, false, true, true),
            (Mode::Client, true, true, true),
            (Mode::Client, false, true, false),
            (Mode::Client, false, false, true),
        ] {
            assert_eq!(mode.listens_to(hub, heard), want, "{mode:?} {hub} {heard}");
        }
        assert_eq!([true, false].map(|heard| Mode::Client.as_str(heard)), ["hub-client", "full-mesh"]);
    }
}
