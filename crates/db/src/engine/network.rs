//! Raft's messages over the [`Transport`].

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::{Error, Kind, Result};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::entry::RaftEntry as _;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf, WatchReceiverOf};
use openraft::{OptionalSend, RaftMetrics};

use super::Transport;
use super::copy::{Copy, Incoming};
use super::machine::{Machine, meta};
use super::pace::{Pace, Paces};
use super::runtime::{blocking, random};
use super::types::{Answer, Letter, Reply, Request, Types};

/// How long one part of a snapshot, or its installation, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends letters to other members.
#[derive(Clone)]
pub(super) struct Post {
    pub id: u64,
    pub machine: Machine,
    pub transport: Arc<dyn Transport>,
    pub paces: Paces,
    told: Arc<AtomicU64>,
    /// Who votes; there once Raft runs.
    members: Arc<OnceLock<WatchReceiverOf<Types, RaftMetrics<Types>>>>,
}

impl Post {
    /// What member `id`, which has that replica, sends.
    pub fn new(id: u64, machine: Machine, transport: Arc<dyn Transport>) -> Post {
        Post { id, machine, transport, paces: Paces::default(), told: Arc::default(), members: Arc::default() }
    }

    /// Tells it who the members are.
    pub fn follow(&self, members: WatchReceiverOf<Types, RaftMetrics<Types>>) {
        let _ = self.members.set(members);
    }

    fn votes(&self, id: u64) -> bool {
        let Some(members) = self.members.get() else { return true };
        members.borrow_watched().membership_config.membership().voter_ids().any(|voter| voter == id)
    }

    /// The last entry of which this member, as a leader, has told another one that it may be applied.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }

    fn way(&self, to: u64) -> Way<'_> {
        Way { transport: &*self.transport, from: self.id, incarnation: self.machine.incarnation(), to }
    }

    /// Sends a request and waits for the answer, for at most `timeout`.
    pub async fn ask(&self, to: u64, request: Request, timeout: Duration) -> Result<Reply> {
        self.way(to).ask(request, timeout).await
    }

    /// Fetches a copy of the replica of another member.
    pub async fn fetch(&self, from: u64) -> Result<Copy> {
        self.way(from).fetch(self.machine.dir()).await
    }
}

/// The way to another member.
pub(super) struct Way<'a> {
    pub transport: &'a dyn Transport,
    /// Who asks.
    pub from: u64,
    /// The incarnation of its database; 0 if it has none.
    pub incarnation: u64,
    /// Who is asked.
    pub to: u64,
}

impl Way<'_> {
    async fn ask(&self, request: Request, timeout: Duration) -> Result<Reply> {
        let letter = Letter { from: self.from, incarnation: self.incarnation, request };
        let letter = postcard::to_stdvec(&letter).map_err(|e| Error::internal(e.to_string()))?;
        let answer = self.transport.call(self.to, letter.into(), timeout).await?;
        let unreadable = |e| Error::internal(format!("Unreadable answer of member {}: {e}", self.to));
        match postcard::from_bytes(&answer).map_err(unreadable)? {
            Answer::Reply(reply) => Ok(reply),
            Answer::Refused { status, message } => Err(Error::new(Kind::from_status(status), message)),
        }
    }

    /// Fetches a copy of its replica into the folder `dir`.
    pub async fn fetch(&self, dir: &Path) -> Result<Copy> {
        let Reply::Copy { id, parts } = self.ask(Request::Copy, PATIENCE).await? else {
            return Err(Error::internal("Unexpected kind of answer"));
        };
        let mut incoming = Incoming::new(dir)?;
        for number in 0..parts {
            let Reply::CopyPart(bytes) = self.ask(Request::CopyPart { id, number }, PATIENCE).await? else {
                return Err(Error::internal("Unexpected kind of answer"));
            };
            incoming.add(number, &bytes)?;
        }
        Ok(incoming.finish(parts)?)
    }
}

/// One member as Raft sees it.
pub(super) struct Peer {
    post: Post,
    to: u64,
    pace: Arc<Pace>,
}

/// What Raft is told when no answer of the right kind came.
fn unreachable(answer: Result<Reply>) -> Unreachable<Types> {
    let why = answer.err().map_or_else(|| "unexpected kind of answer".to_owned(), |e| e.message);
    Unreachable::new(&io::Error::other(why))
}

impl Peer {
    async fn ask(&self, request: Request, option: &RPCOption) -> Result<Reply> {
        self.post.ask(self.to, request, option.hard_ttl()).await
    }

    /// Sends a copy of the replica as it is now, which may be newer than what Raft has asked for.
    async fn send_snapshot(&self, vote: VoteOf<Types>) -> Result<Reply> {
        let machine = self.post.machine.clone();
        let (standing, copy) = blocking(move || machine.copy_out()).await??;
        let (id, parts) = (random(), copy.parts()?);
        for number in 0..parts {
            let part = Request::SnapshotPart { id, number, bytes: copy.part(number)? };
            self.post.ask(self.to, part, PATIENCE).await?;
        }
        self.post.ask(self.to, Request::Snapshot { id, parts, vote, meta: meta(standing) }, PATIENCE).await
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Copy;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let count = request.leader_commit.map_or(0, |committed| committed.index());
        let last = request.entries.last().map(|entry| entry.log_id()).or(request.prev_log_id);
        let known = last.map_or(0, |last| last.index());
        self.post.told.fetch_max(count, Ordering::SeqCst);
        self.pace.telling(count);
        match self.ask(Request::Append(request), &option).await {
            Ok(Reply::Append(r)) => {
                if r.is_success() {
                    self.pace.told(count.min(known));
                }
                Ok(r)
            }
            other => Err(RPCError::Unreachable(unreachable(other))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let (post, to, pace) = (self.post.clone(), self.to, self.pace.clone());
        // A request has all entries that there are when it is asked for.
        let at_its_pace = stream::unfold((requests, false), move |(mut requests, told_before)| {
            let (post, pace) = (post.clone(), pace.clone());
            async move {
                // A heartbeat is alone.
                let more = requests.size_hint().1 != Some(0);
                if told_before && more && !post.votes(to) {
                    pace.turn().await;
                }
                let request = requests.next().await?;
                Some((request, (requests, true)))
            }
        });
        stream_append_sequential(self, at_its_pace.boxed(), option)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(Request::Vote(request), &option).await {
            Ok(Reply::Vote(r)) => Ok(r),
            other => Err(RPCError::Unreachable(unreachable(other))),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(Request::PreVote(request), &option).await {
            Ok(Reply::Vote(r)) => Ok(r),
            other => Err(RPCError::Unreachable(unreachable(other))),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        _snapshot: SnapshotOf<Types, Copy>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        match self.send_snapshot(vote).await {
            Ok(Reply::Snapshot(r)) => Ok(r),
            other => Err(StreamingError::Unreachable(unreachable(other))),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.ask(Request::Transfer(request), &option).await {
            Ok(Reply::Transfer(r)) => Ok(r),
            other => Err(RPCError::Unreachable(unreachable(other))),
        }
    }
}

impl RaftNetworkFactory<Types> for Post {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Peer {
        Peer { post: self.clone(), to: target, pace: self.paces.of(target) }
    }
}
