//! What the log holds and what members ask of each other.

use std::fmt;

use openraft::impls::{EmptyNode, leader_id_std};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotMetaOf, VoteOf};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The types that the Raft library is used with. Leaders are those of Raft as it was published: one in a term. The
    /// library would let a majority change its mind within one.
    pub Types:
        D = Command,
        R = Applied,
        Node = EmptyNode,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = super::runtime::Runtime
);

pub(super) type Raft = openraft::Raft<Types, super::machine::Machine>;

/// What one entry of the log does to every replica.
#[derive(Clone, Serialize, Deserialize)]
pub enum Command {
    /// Bring the schema from one version to another.
    Migrate {
        /// The version before.
        from: i64,
        /// The version after.
        to: i64,
        /// Milliseconds since the epoch, the same on all replicas.
        now_ms: i64,
        /// Names the database itself: a member of another one is refused. Set by the first migration.
        incarnation: u64,
    },
    /// Apply the changes of one transaction (or of several that were grouped).
    Write {
        /// The schema version that it was made with.
        schema: i64,
        /// The last entry with data that it was made on.
        base: u64,
        /// Names the transaction, so that its fate can be looked up.
        txid: [u8; 16],
        /// An SQLite session changeset.
        changeset: Vec<u8>,
    },
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Migrate { from, to, .. } => write!(f, "migrate {from} to {to}"),
            Command::Write { base, changeset, .. } => write!(f, "write of {} bytes on {base}", changeset.len()),
        }
    }
}

/// Contents may be secret and are not shown.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What became of an entry; the same on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// It was applied.
    Done,
    /// It was made on another state and changed nothing.
    Stale,
    /// It was made with another schema version and changed nothing.
    OtherSchema,
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A change of the members of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A new member that holds the database and has no vote.
    AddLearner(u64),
    /// Exactly these vote; voters that are not named stay as learners.
    Voters(Vec<u64>),
    /// The member is gone.
    Remove(u64),
}

/// A request with what has to agree for it to be heard.
#[derive(Serialize, Deserialize)]
pub(super) struct Letter {
    pub from: u64,
    /// 0 while the sender holds no database yet.
    pub incarnation: u64,
    pub request: Request,
}

/// What travels back: a reply, or a refusal with its kind.
#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Reply(Reply),
    Refused {
        /// As an HTTP status code.
        status: u16,
        message: String,
    },
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    /// A part of a snapshot, kept until [`Request::Snapshot`] names them all.
    SnapshotPart {
        id: u64,
        number: u32,
        bytes: Vec<u8>,
    },
    Snapshot {
        id: u64,
        parts: u32,
        vote: VoteOf<Types>,
        meta: SnapshotMetaOf<Types>,
    },
    Transfer(TransferLeaderRequest<Types>),
    /// To the leader: whose turn is it to write? Answered when it is the sender's.
    Ticket,
    /// To the leader: put this into the log; gives the ticket back.
    Propose {
        ticket: u64,
        command: Command,
    },
    /// To the leader: the ticket is not needed any more.
    GiveBack(u64),
    /// To the leader: which entry must a reader have seen?
    ReadIndex,
    /// To the leader: change the members of the database.
    Change(Change),
    /// To the leader: let this member lead.
    HandOver(u64),
    /// To anybody: make a copy of the replica, for me to fetch with [`Request::CopyPart`].
    Copy,
    CopyPart {
        id: u64,
        number: u32,
    },
    /// To anybody: what does your replica hold?
    Hash,
    /// To anybody: your replica differs from the others, take a copy of this member's.
    Repair {
        source: u64,
    },
}

#[derive(Serialize, Deserialize)]
pub(super) enum Reply {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Snapshot(SnapshotResponse<Types>),
    Transfer(TransferLeaderResponse<Types>),
    Ticket(Ticket),
    Proposed {
        applied: Applied,
        index: u64,
    },
    /// The changes do not fit the leader's replica although they were made on the same state: the sender's
    /// replica differs from it.
    Differs,
    ReadIndex(u64),
    Copy {
        id: u64,
        parts: u32,
    },
    CopyPart(Vec<u8>),
    Hash {
        index: u64,
        hash: String,
    },
    Done,
}

impl Reply {
    /// The entry for which whoever gets this answer waits from now on.
    pub fn awaited(&self) -> Option<u64> {
        match self {
            Reply::Ticket(ticket) => Some(ticket.base),
            Reply::Proposed { index, .. } | Reply::ReadIndex(index) => Some(*index),
            _ => None,
        }
    }
}

/// Whose turn it is to write, for a short while.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Ticket {
    pub number: u64,
    /// The newest entry when it was given out: the holder must have seen it.
    pub base: u64,
}
