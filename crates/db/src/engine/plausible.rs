//! Requests that no member can have sent that keeps to the rules of Raft, told by looking at them alone. The Raft library
//! takes such for faults of its own and ends, or believes them: a number that is too large would be kept for ever.

use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use openraft::raft::AppendEntriesRequest;
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, VoteOf};

use super::types::{Letter, Request, Types};

/// No database gets this far: terms and entries are counted one by one.
const FAR: u64 = 1 << 48;

type Wrong = Option<&'static str>;

impl Letter {
    /// Why no member can have sent this to the member `to`.
    pub fn impossible(&self, to: u64) -> Wrong {
        if self.from == to {
            return Some("A member asks itself");
        }
        match &self.request {
            Request::Append(r) => spoken(self.from, &r.vote, true).or_else(|| out_of_order(r)),
            Request::Vote(r) | Request::PreVote(r) => {
                spoken(self.from, &r.vote, false).or_else(|| later(r.last_log_id.as_ref(), &r.vote))
            }
            Request::Snapshot { vote, meta, .. } => spoken(self.from, vote, true).or_else(|| no_snapshot(vote, meta)),
            _ => None,
        }
    }
}

/// Leaders speak with a vote that a majority has given, candidates with one that they ask for.
fn spoken(from: u64, vote: &VoteOf<Types>, leads: bool) -> Wrong {
    match () {
        () if vote.leader_id.voted_for != from => Some("A member speaks for another one"),
        () if vote.committed != leads => Some("A candidate speaks as a leader, or a leader as a candidate"),
        () if vote.leader_id.term > FAR => Some("There can't have been so many elections"),
        () => None,
    }
}

/// An entry is never later than the vote of who tells of it.
fn later(entry: Option<&LogIdOf<Types>>, vote: &VoteOf<Types>) -> Wrong {
    let entry = entry?;
    match () {
        () if entry.leader_id.term > vote.leader_id.term => Some("An entry is of a later leader than who sends it"),
        () if entry.index > FAR => Some("There can't be so many entries"),
        () => None,
    }
}

/// Entries follow each other and what they are to be put behind.
fn out_of_order(request: &AppendEntriesRequest<Types>) -> Wrong {
    let mut before = request.prev_log_id;
    let known = later(before.as_ref(), &request.vote).or_else(|| later(request.leader_commit.as_ref(), &request.vote));
    if known.is_some() {
        return known;
    }
    for entry in &request.entries {
        let id = entry.log_id();
        let follows =
            before.is_none_or(|b| id.leader_id >= b.leader_id) && id.index == before.map_or(0, |b| b.index + 1);
        if !follows {
            return Some("Entries do not follow each other");
        }
        let wrong = later(Some(&id), &request.vote).or_else(|| match &entry.payload {
            EntryPayload::Membership(members) => {
                let nodes = |id: &u64| members.get_node(id).is_some();
                let configs = members.get_joint_config();
                let good = !configs.is_empty() && configs.iter().all(|c| !c.is_empty() && c.iter().all(nodes));
                (!good).then_some("Members of the database vote who are none, or nobody does")
            }
            _ => None,
        });
        if wrong.is_some() {
            return wrong;
        }
        before = Some(id);
    }
    None
}

/// A snapshot is of something, and of nothing later than who sends it.
fn no_snapshot(vote: &VoteOf<Types>, meta: &SnapshotMetaOf<Types>) -> Wrong {
    let Some(last) = &meta.last_log_id else { return Some("A copy of nothing") };
    let members = meta.last_membership.log_id().as_ref();
    match members.is_some_and(|id| id > last) {
        true => Some("A copy with members that are later than all else in it"),
        false => later(Some(last), vote),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::impls::EmptyNode;
    use openraft::raft::VoteRequest;
    use openraft::{Entry, LogId, Membership, SnapshotMeta, StoredMembership, Vote};

    use super::*;

    type Id = LogIdOf<Types>;

    fn id(term: u64, index: u64) -> Id {
        LogId { leader_id: term.into(), index }
    }

    fn vote(term: u64, node: u64) -> VoteOf<Types> {
        Vote::new_committed(term, node)
    }

    fn append(before: Option<Id>, ids: &[Id]) -> Request {
        let entries = ids.iter().map(|id| Entry { log_id: *id, payload: EntryPayload::Blank }).collect();
        Request::Append(AppendEntriesRequest { vote: vote(5, 2), prev_log_id: before, entries, leader_commit: None })
    }

    fn voting(voters: &[u64], nodes: &[u64]) -> Request {
        // Only a member that does not keep to the rules makes such.
        let config: Vec<BTreeSet<u64>> = vec![voters.iter().copied().collect()];
        let nodes: BTreeMap<u64, EmptyNode> = nodes.iter().map(|id| (*id, EmptyNode {})).collect();
        let bytes = postcard::to_stdvec(&(config, nodes)).unwrap();
        let members: Membership<u64, EmptyNode> = postcard::from_bytes(&bytes).unwrap();
        let entry = Entry { log_id: id(5, 1), payload: EntryPayload::Membership(members) };
        Request::Append(AppendEntriesRequest {
            vote: vote(5, 2),
            prev_log_id: Some(id(1, 0)),
            entries: vec![entry],
            leader_commit: None,
        })
    }

    fn copy(last: Option<Id>, members: Option<Id>) -> Request {
        let last_membership = StoredMembership::new(members, Membership::default());
        Request::Snapshot {
            id: 1,
            parts: 1,
            vote: vote(5, 2),
            meta: SnapshotMeta { last_log_id: last, last_membership },
        }
    }

    fn asks(vote: VoteOf<Types>, last: Option<Id>) -> Request {
        Request::Vote(VoteRequest { vote, last_log_id: last, leadership_transfer: false })
    }

    #[test]
    fn what_no_member_can_have_sent_is_told_from_what_they_send() {
        let wants = |term, node| Vote::new(term, node);
        for (request, possible) in [
            (append(None, &[]), true),
            (append(None, &[id(1, 0)]), true),
            (append(Some(id(1, 7)), &[id(1, 8), id(3, 9), id(5, 10)]), true),
            (append(None, &[id(1, 1)]), false),
            (append(Some(id(1, 7)), &[id(1, 9)]), false),
            (append(Some(id(3, 7)), &[id(1, 8)]), false),
            (append(Some(id(1, 7)), &[id(6, 8)]), false),
            (append(Some(id(6, 7)), &[]), false),
            (append(Some(id(1, u64::MAX)), &[id(1, 0)]), false),
            (voting(&[1, 2], &[1, 2, 3]), true),
            (voting(&[], &[1]), false),
            (voting(&[1, 4], &[1]), false),
            (copy(Some(id(4, 9)), Some(id(4, 8))), true),
            (copy(None, None), false),
            (copy(Some(id(6, 9)), None), false),
            (copy(Some(id(4, 9)), Some(id(4, 10))), false),
            (asks(wants(6, 2), Some(id(5, 9))), true),
            (asks(wants(6, 3), None), false),
            (asks(vote(6, 2), None), false),
            (asks(wants(u64::MAX, 2), None), false),
            (Request::ReadIndex, true),
        ] {
            let letter = Letter { from: 2, incarnation: 0, request };
            let said = postcard::to_stdvec(&letter).unwrap();
            assert_eq!(letter.impossible(1).is_none(), possible, "{:?} {said:?}", letter.impossible(1));
            assert_eq!(letter.impossible(2), Some("A member asks itself"));
        }
    }
}
