//! What the leader of a cluster warns of: what is not as it should be with the members, seen as a whole.

/// A sort of concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A member is silent.
    Offline,
    /// A member's clock differs.
    TimeSkew,
    /// A member's disk takes too long for the database.
    SlowDisk,
    /// The next voter that is lost stops the cluster.
    NoMargin,
    /// The cluster's certificate will not be good for much longer.
    Certificate,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Offline, Kind::TimeSkew, Kind::SlowDisk, Kind::NoMargin, Kind::Certificate];
}

/// What is to be warned of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// Its sort.
    pub kind: Kind,
    /// Row id of the member that it is about; `None` for the cluster as a whole.
    pub member: Option<i64>,
    /// More about it, for people.
    pub message: String,
}

/// What is known of a member.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// Its row id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// True if it has a vote in the database.
    pub voter: bool,
    /// True if it is silent.
    pub offline: bool,
    /// True if it is evacuated, or on its way in or out: that it is switched off is then no surprise.
    pub in_maintenance: bool,
    /// When it was last heard of, for people.
    pub last_heard: String,
    /// How far its clock is ahead of the leader's, in milliseconds.
    pub ahead_ms: i64,
    /// How many writes of its log were slow lately.
    pub slow_writes: usize,
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// All members that have joined.
    pub members: Vec<Member>,
    /// How many votes there are.
    pub voters: usize,
    /// Days until the certificate of the cluster ends, and when that is, for people.
    pub certificate: Option<(i64, String)>,
}

/// Milliseconds that a clock may differ.
const SKEW_MS: u64 = 5_000;
/// So many slow writes in a minute are no accident.
const SLOW_WRITES: usize = 3;
/// Days before its end from which on the certificate is a concern.
const CERTIFICATE_DAYS: i64 = 30;
/// A cluster of fewer members can't lose one anyhow.
const MARGIN_FROM: usize = 3;

/// All concerns.
pub fn concerns(view: &View) -> Vec<Concern> {
    let of_members = view.members.iter().flat_map(of_member);
    let all = of_members.chain(margin(view)).chain(certificate(view));
    all.collect()
}

fn of_member(m: &Member) -> Vec<Concern> {
    let concern = |kind, message| Concern { kind, member: Some(m.id), message };
    if m.offline {
        let silent = || concern(Kind::Offline, format!("No heartbeat since {}", m.last_heard));
        return if m.in_maintenance { Vec::new() } else { vec![silent()] };
    }
    let mut all = Vec::new();
    if m.ahead_ms.unsigned_abs() > SKEW_MS {
        let side = if m.ahead_ms > 0 { "ahead of" } else { "behind" };
        let seconds = (m.ahead_ms.unsigned_abs() + 500) / 1000;
        all.push(concern(Kind::TimeSkew, format!("The clock of {} is {seconds}s {side} that of the leader", m.name)));
    }
    if m.slow_writes >= SLOW_WRITES {
        let message =
            format!("Writing to the database on {} takes more than a second: its disk is slow or busy", m.name);
        all.push(concern(Kind::SlowDisk, message));
    }
    all
}

fn margin(view: &View) -> Option<Concern> {
    let alive = view.members.iter().filter(|m| m.voter && !m.offline).count();
    let needed = view.voters / 2 + 1;
    (view.members.len() >= MARGIN_FROM && alive <= needed).then(|| Concern {
        kind: Kind::NoMargin,
        member: None,
        message: format!(
            "{alive} of {} database voters can be reached and {needed} are needed: the cluster stops when one more fails",
            view.voters
        ),
    })
}

fn certificate(view: &View) -> Option<Concern> {
    let (days, end) = view.certificate.as_ref().filter(|(days, _)| *days < CERTIFICATE_DAYS)?;
    let ends = if *days < 0 { "has ended" } else { "ends" };
    let message =
        format!("The certificate of the cluster {ends} on {end}: replace it (incus cluster update-certificate)");
    Some(Concern { kind: Kind::Certificate, member: None, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> View {
        let member = |id| Member { id, name: format!("server{id}"), voter: true, ..Member::default() };
        View { members: (1..=3).map(member).collect(), voters: 3, certificate: Some((300, "2030-01-01".into())) }
    }

    fn said(view: &View) -> Vec<(Kind, Option<i64>, String)> {
        concerns(view).into_iter().map(|c| (c.kind, c.member, c.message)).collect()
    }

    #[test]
    fn nobody_is_told_of_what_is_as_it_should_be() {
        let mut view = three();
        view.members[1].ahead_ms = -5_000;
        view.members[2].slow_writes = 2;
        assert_eq!(said(&view), []);
        view.members.truncate(2);
        (view.voters, view.members[1].voter) = (1, false);
        assert_eq!(said(&view), [], "two members have one vote");
    }

    #[test]
    fn a_silent_voter_is_a_concern_and_so_is_the_margin() {
        let mut view = three();
        view.members[2].offline = true;
        view.members[2].last_heard = "noon".into();
        // What it last said of itself is old.
        view.members[2].ahead_ms = 9_000;
        let margin = "2 of 3 database voters can be reached and 2 are needed: the cluster stops when one more fails";
        let (offline, margin) =
            ((Kind::Offline, Some(3), "No heartbeat since noon".to_owned()), (Kind::NoMargin, None, margin.to_owned()));
        assert_eq!(said(&view), [offline, margin.clone()]);
        view.members[2].in_maintenance = true;
        assert_eq!(said(&view), [margin]);
        view.members[2].voter = false;
        view.members.push(Member { id: 4, voter: true, ..Member::default() });
        assert_eq!(said(&view), []);
    }

    #[test]
    fn clocks_disks_and_certificates_are_told_of_in_words() {
        let mut view = three();
        view.members[0].slow_writes = 3;
        view.members[1].ahead_ms = -7_400;
        view.members[2].ahead_ms = 65_000;
        view.certificate = Some((29, "2027-01-01".into()));
        let messages: Vec<String> = concerns(&view).into_iter().map(|c| c.message).collect();
        assert_eq!(
            messages,
            [
                "Writing to the database on server1 takes more than a second: its disk is slow or busy",
                "The clock of server2 is 7s behind that of the leader",
                "The clock of server3 is 65s ahead of that of the leader",
                "The certificate of the cluster ends on 2027-01-01: replace it (incus cluster update-certificate)",
            ]
        );
        view.certificate = Some((-1, "2027-01-01".into()));
        assert!(concerns(&view)[3].message.starts_with("The certificate of the cluster has ended on"));
    }
}
