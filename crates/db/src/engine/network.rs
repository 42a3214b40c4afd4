//! Raft's messages over the [`Transport`], and the answering side of all requests.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Error, Result};
use bytes::Bytes;
use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};

use super::Transport;
use super::machine::Machine;
use super::types::{Letter, Reply, Request, Types};

/// Bytes of a snapshot that travel in one request.
const PART: usize = 4 << 20;

/// Sends letters to other members.
#[derive(Clone)]
pub(super) struct Post {
    pub id: u64,
    pub machine: Machine,
    pub transport: Arc<dyn Transport>,
}

impl Post {
    /// Sends a request and waits for the answer, for at most `timeout`.
    pub async fn ask(&self, to: u64, request: Request, timeout: Duration) -> Result<Reply> {
        let letter = Letter { from: self.id, incarnation: self.machine.incarnation(), request };
        let letter = postcard::to_stdvec(&letter).map_err(|e| Error::internal(e.to_string()))?;
        let answer = self.transport.call(to, letter.into(), timeout).await?;
        postcard::from_bytes(&answer).map_err(|e| Error::internal(format!("Unreadable answer of member {to}: {e}")))
    }
}

/// One member as Raft sees it.
pub(super) struct Peer {
    post: Post,
    to: u64,
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

    async fn send_snapshot(&self, vote: VoteOf<Types>, snapshot: SnapshotOf<Types, Vec<u8>>) -> Result<Reply> {
        let (id, patience) = (rand::random(), Duration::from_secs(60));
        let mut parts = 0;
        for bytes in snapshot.snapshot.chunks(PART) {
            let part = Request::SnapshotPart { id, number: parts, bytes: bytes.to_vec() };
            self.post.ask(self.to, part, patience).await?;
            parts += 1;
        }
        self.post.ask(self.to, Request::Snapshot { id, parts, vote, meta: snapshot.meta }, patience).await
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.ask(Request::Append(request), &option).await {
            Ok(Reply::Append(r)) => Ok(r),
            other => Err(RPCError::Unreachable(unreachable(other))),
        }
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
        snapshot: SnapshotOf<Types, Vec<u8>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        match self.send_snapshot(vote, snapshot).await {
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
        Peer { post: self.clone(), to: target }
    }
}

/// Parts of snapshots that have arrived, by snapshot.
#[derive(Default)]
pub(super) struct Parts {
    parts: Mutex<HashMap<u64, Vec<Option<Vec<u8>>>>>,
}

impl Parts {
    pub fn add(&self, id: u64, number: u32, bytes: Vec<u8>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if number == 0 {
            // A sender that died in the middle starts again under a new id.
            parts.retain(|other, _| *other == id);
        }
        let all = parts.entry(id).or_default();
        let number = number as usize;
        if number < 1 << 20 {
            all.resize(all.len().max(number + 1), None);
            all[number] = Some(bytes);
        }
    }

    pub fn take(&self, id: u64, count: u32) -> Result<Vec<u8>> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).remove(&id).unwrap_or_default();
        if parts.len() != count as usize || parts.iter().any(Option::is_none) {
            return Err(Error::bad_request("Parts of a snapshot are missing"));
        }
        Ok(parts.into_iter().flatten().flatten().collect())
    }
}

/// An answer as it travels.
pub(super) fn seal(reply: &Reply) -> Result<Bytes> {
    postcard::to_stdvec(reply).map(Bytes::from).map_err(|e| Error::internal(e.to_string()))
}
