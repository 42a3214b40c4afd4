//! What members ask of each other, and in particular of the leader: both sides of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::{Error, Result};
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::impls::EmptyNode;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::type_config::alias::SnapshotOf;
use openraft::{ChangeMembers, Instant as _};
use tokio::time::Instant;

use super::copy::Copy;
use super::machine::{Halt, Trial};
use super::runtime::blocking;
use super::types::{Answer, Applied, Change, Command, Letter, Reply, Request, Ticket, Types};
use super::{ANSWER, Db};

/// Pause before the leader is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// What the leader made of a proposal.
pub(super) enum Proposed {
    /// It came into the log, or was not worth it; the index of the entry.
    Applied(Applied, u64),
    /// This replica is not what the leader's is.
    Differs,
}

fn unavailable(e: impl std::fmt::Display) -> Error {
    Error::unavailable(e.to_string())
}

// ---- the answering side -----------------------------------------------------------------------------------

impl Db {
    /// Answers a request that another member sent through its [`super::Transport`]. Refusals are answers, too.
    pub async fn serve(&self, letter: Bytes) -> Result<Bytes> {
        let letter: Letter =
            postcard::from_bytes(&letter).map_err(|e| Error::bad_request(format!("Unreadable request: {e}")))?;
        if let Some(why) = letter.impossible(self.options.id) {
            return Err(Error::bad_request(why));
        }
        let own = self.machine.incarnation();
        let given_up = own == 0 && letter.incarnation != 0 && letter.incarnation == self.options.given_up;
        let answer = if given_up {
            // Who took it for the leader finds another one.
            Err(Error::unavailable("That member has given this database up and waits for that of a recovered member"))
        } else if own != 0 && letter.incarnation != 0 && own != letter.incarnation {
            Err(Error::forbidden("That member belongs to another database: its own was replaced or it was left behind"))
        } else {
            self.answer(letter.from, letter.request).await
        };
        let answer = match answer {
            Ok(reply) => {
                if let Some(index) = reply.awaited() {
                    self.post.paces.of(letter.from).needs(index);
                }
                Answer::Reply(reply)
            }
            Err(e) => Answer::Refused { status: e.kind.status(), message: e.message },
        };
        postcard::to_stdvec(&answer).map(Bytes::from).map_err(|e| Error::internal(e.to_string()))
    }

    async fn answer(&self, from: u64, request: Request) -> Result<Reply> {
        Ok(match request {
            Request::Append(r) => {
                let reply = self.raft.append_entries(r).await.map_err(unavailable)?;
                if self.leader() == Some(from) {
                    self.heard.now();
                }
                Reply::Append(reply)
            }
            Request::Vote(r) => {
                if !r.leadership_transfer {
                    self.must_be_free_to_vote()?;
                }
                Reply::Vote(self.raft.vote(r).await.map_err(unavailable)?)
            }
            Request::PreVote(r) => {
                self.must_be_free_to_vote()?;
                Reply::Vote(self.raft.pre_vote(r).await.map_err(unavailable)?)
            }
            Request::SnapshotPart { id, number, bytes } => {
                self.desk.add(self.machine.dir(), id, number, &bytes)?;
                Reply::Done
            }
            Request::Snapshot { id, parts, vote, meta } => {
                let snapshot = SnapshotOf::<Types, Copy> { meta, snapshot: self.desk.take(id, parts)? };
                Reply::Snapshot(self.raft.install_full_snapshot(vote, snapshot).await.map_err(unavailable)?)
            }
            Request::Transfer(r) => Reply::Transfer(self.raft.handle_transfer_leader(r).await.map_err(unavailable)?),
            Request::Ticket => Reply::Ticket(self.ticket_for(from).await?),
            Request::Propose { ticket, command } => {
                let proposed = self.propose_here(command).await;
                self.tickets.give_back(ticket);
                proposed?
            }
            Request::GiveBack(number) => {
                self.tickets.give_back(number);
                Reply::Done
            }
            Request::ReadIndex => Reply::ReadIndex(self.confirm_lead().await?),
            Request::Change(change) => {
                self.change_here(change).await?;
                Reply::Done
            }
            Request::HandOver(to) => {
                self.hand_over_here(to).await?;
                Reply::Done
            }
            Request::Copy => {
                let machine = self.machine.clone();
                let (_, copy) = blocking(move || machine.copy_out()).await??;
                let (id, parts) = self.desk.lay_out(copy)?;
                Reply::Copy { id, parts }
            }
            Request::Hash => {
                let (index, hash) = self.content_hash().await?;
                Reply::Hash { index, hash }
            }
            Request::Repair { source } => {
                self.needs_copy_of(source);
                Reply::Done
            }
            Request::CopyPart { id, number } => Reply::CopyPart(self.desk.fetch(id, number)?),
        })
    }

    /// A member that has just started has forgotten which leader it promised not to vote against, and for how long.
    /// Leaders answer reads relying on that promise.
    fn must_be_free_to_vote(&self) -> Result<()> {
        match self.quiet_until {
            Some(until) if Instant::now() < until => Err(Error::unavailable("This member has just started")),
            _ => Ok(()),
        }
    }

    fn must_lead(&self) -> Result<()> {
        match self.raft.is_leader() {
            true => Ok(()),
            false => Err(Error::unavailable("This member does not lead the database")),
        }
    }

    async fn ticket_for(&self, member: u64) -> Result<Ticket> {
        self.must_lead()?;
        let number = self.tickets.take(member).await;
        match self.confirm_lead().await {
            Ok(base) => Ok(Ticket { number, base }),
            Err(e) => {
                self.tickets.give_back(number);
                Err(e)
            }
        }
    }

    /// What part of the lease this member relies on as a leader: the rest is left to clocks that do not run alike.
    fn relied_on(&self) -> Duration {
        self.options.lease() / 3 * 2
    }

    /// The last entry that this replica has applied, if this member knows without asking anybody that it leads, and has
    /// told nobody of a later one. What earlier leaders have told of stands before the first entry of this one.
    fn knows_newest(&self) -> Option<u64> {
        {
            let metrics = self.raft.metrics();
            let known = metrics.borrow_watched();
            let own_entry = known.last_applied.as_ref()?.committed_leader_id().term;
            let leads = known.state.is_leader() && own_entry == known.current_term;
            if !leads || self.handing_over.load(Ordering::SeqCst) == known.current_term {
                return None;
            }
            let alone = known.membership_config.membership().voter_ids().eq([self.options.id]);
            let heard = known.last_quorum_acked.is_some_and(|at| at.into_inner().elapsed() < self.relied_on());
            if !alone && !heard {
                return None;
            }
        }
        let applied = *self.machine.watch_applied().borrow();
        // Others may be faster: this disk may be slow or full.
        (applied >= self.post.told()).then_some(applied)
    }

    /// On the leader: makes sure that it still leads; the index that a reader must have seen.
    async fn confirm_lead(&self) -> Result<u64> {
        if let Some(index) = self.knows_newest() {
            return Ok(index);
        }
        let recently = LinearizerOption::new(Some(self.relied_on()), true).with_wait_timeout(self.options.lease());
        let linearizer = self.raft.get_read_linearizer(recently).await.map_err(unavailable)?;
        let state = linearizer.await_ready(&self.raft).await.map_err(unavailable)?;
        Ok(state.read_log_id().index())
    }

    async fn propose_here(&self, command: Command) -> Result<Reply> {
        self.must_lead()?;
        let machine = self.machine.clone();
        let tried = blocking(move || (machine.try_out(&command), command)).await;
        let (trial, command) = tried.map_err(unavailable)?;
        match trial.map_err(unavailable)? {
            Trial::Fits => {
                let urgent = || self.machine.revision_of(self.options.at_once);
                let before = urgent();
                let (applied, index) = self.append(command).await?;
                if urgent() != before {
                    self.post.paces.all_need(index);
                }
                Ok(Reply::Proposed { applied, index })
            }
            Trial::Nothing(applied) => Ok(Reply::Proposed { applied, index: self.machine.data_index() }),
            Trial::Differs => self.doubt().await,
            Trial::Impossible(why) => Err(Error::bad_request(why)),
        }
    }

    async fn append(&self, command: Command) -> Result<(Applied, u64)> {
        let mut stuck = self.stuck.clone();
        // What comes after it would only wait as well.
        if let Some(why) = stuck.borrow_and_update().clone() {
            return Err(Error::unavailable(why));
        }
        let written = tokio::select! {
            biased;
            written = self.raft.client_write(command) => written,
            Ok(why) = stuck.wait_for(Option::is_some) => {
                return Err(Error::unavailable(why.as_deref().unwrap_or_default()));
            }
        };
        let written = written.map_err(|e| unavailable(format!("The leader could not write: {e}")))?;
        Ok((written.data, written.log_id.index()))
    }

    /// One change at a time: while another is being made, as that of the roles, this one waits.
    async fn change_here(&self, change: Change) -> Result<()> {
        let deadline = Instant::now() + self.options.patience;
        let _alone = self.changing.lock().await;
        loop {
            match self.try_change(change.clone()).await? {
                Ok(()) => return Ok(()),
                Err(e) if in_progress(&e) && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                Err(e) => return Err(unavailable(format!("Changing the database members: {e}"))),
            }
        }
    }

    async fn try_change(&self, change: Change) -> Result<Result<(), Refused>> {
        let (change, retain) = match change {
            Change::AddLearner(id) => {
                return Ok(self.raft.add_learner(id, EmptyNode {}, false).await.map(drop));
            }
            Change::Voters(ids) if ids.is_empty() => {
                return Err(Error::bad_request("The database can't do without voters"));
            }
            Change::Voters(ids) => {
                // From now on it is waited for what they have written.
                ids.iter().for_each(|id| self.post.paces.of(*id).needs(u64::MAX));
                (ChangeMembers::ReplaceAllVoters(ids.into_iter().collect()), true)
            }
            Change::Remove(id) if self.status().voters.contains(&id) => {
                (ChangeMembers::RemoveVoters([id].into()), false)
            }
            Change::Remove(id) => (ChangeMembers::RemoveNodes([id].into()), false),
        };
        Ok(self.raft.change_membership(change, retain).await.map(drop))
    }

    /// On the leader: ends a change of the voters that an earlier leader had only half made when it died. Until then a
    /// majority of those before it is needed as well, though nobody would think so.
    pub(super) fn end_half_made_change(&self) {
        let voters = self.raft.metrics().borrow_watched().membership_config.membership().get_joint_config().clone();
        let [_, .., wanted] = voters.as_slice() else { return };
        // One that is being made holds this.
        let Ok(alone) = Arc::clone(&self.changing).try_lock_owned() else { return };
        let (raft, wanted) = (self.raft.clone(), ChangeMembers::ReplaceAllVoters(wanted.clone()));
        let patience = self.options.patience;
        tokio::spawn(async move {
            let _alone = alone;
            tracing::info!("a change of the database's voters was left half made: it is ended");
            let ended = tokio::time::timeout(patience, raft.change_membership(wanted, true)).await;
            if let Ok(Err(e)) = ended {
                tracing::warn!("ending a half made change of the database's voters: {e}");
            }
        });
    }

    async fn hand_over_here(&self, to: u64) -> Result<()> {
        if !self.status().voters.contains(&to) {
            return Err(Error::bad_request(format!("Database member {to} does not vote and can't lead")));
        }
        // It would wait for itself to be elected, and lead no more.
        if to == self.options.id {
            return Ok(());
        }
        // From now on the others vote against this member whenever they are asked to.
        let term = self.raft.metrics().borrow_watched().current_term;
        self.handing_over.store(term, Ordering::SeqCst);
        self.raft.trigger().transfer_leader(to).await.map_err(unavailable)
    }
}

/// Why the Raft library did not change the members.
type Refused = RaftError<Types, ClientWriteError<Types>>;

/// True if nothing has been done because another change is being made.
fn in_progress(refused: &Refused) -> bool {
    use ClientWriteError::ChangeMembershipError as OfMembers;
    matches!(refused, RaftError::APIError(OfMembers(ChangeMembershipError::InProgress(_))))
}

// ---- the asking side --------------------------------------------------------------------------------------

impl Db {
    /// The leader that this member believes in; it may be gone already.
    pub(super) fn leader(&self) -> Option<u64> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    /// Sends a request to the leader, or answers it here; waits for a leader if none is known. Gives up early when
    /// another member becomes the leader.
    pub(super) async fn at_leader(&self, request: Request, timeout: Duration) -> Result<Reply> {
        let deadline = Instant::now() + timeout;
        let leader = self.leader_until(deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = async {
            if leader == self.options.id {
                let here = tokio::time::timeout(left, self.answer(leader, request)).await;
                here.unwrap_or_else(|_| Err(Error::unavailable("The database's voters do not answer in time")))
            } else {
                self.post.ask(leader, request, left).await
            }
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = self.deposed(leader) => Err(Error::unavailable("The leader of the database has changed")),
        }
    }

    async fn leader_until(&self, deadline: Instant) -> Result<u64> {
        let mut server = self.raft.server_metrics();
        loop {
            if let Some(leader) = server.borrow_watched().current_leader {
                return Ok(leader);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, server.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Error::unavailable("The database is shutting down")),
                Err(_) => return Err(Error::unavailable("The database has no leader")),
            }
        }
    }

    /// Returns when another member leads than `leader`.
    async fn deposed(&self, leader: u64) {
        let mut server = self.raft.server_metrics();
        loop {
            if server.borrow_watched().current_leader.is_some_and(|now| now != leader) {
                return;
            }
            if server.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when this replica holds everything that was acknowledged before the call.
    pub async fn read_barrier(&self) -> Result<()> {
        self.wait_until_right().await?;
        if self.knows_newest().is_some() {
            return Ok(());
        }
        self.reader.barrier(|| self.ask_and_wait()).await
    }

    /// Waits for its copy if this replica is known to differ from the others: what stands in it may never have been so.
    pub(super) async fn wait_until_right(&self) -> Result<()> {
        let mut halted = self.machine.watch_halted();
        let right = |halt: &Option<Halt>| halt.as_ref().is_none_or(|halt| !halt.differs);
        if right(&halted.borrow()) {
            return Ok(());
        }
        match tokio::time::timeout(self.patience(), halted.wait_for(right)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.lagging()),
        }
    }

    async fn ask_and_wait(&self) -> Result<()> {
        let deadline = Instant::now() + self.patience();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let refused = match self.at_leader(Request::ReadIndex, left.min(ANSWER)).await {
                Ok(Reply::ReadIndex(index)) => return self.wait_applied_for(index, left).await,
                Ok(_) => return Err(Error::internal("Unexpected answer of the leader")),
                Err(e) => e,
            };
            if !refused.retryable() || left.is_zero() {
                return Err(refused.context("The newest state of the database can't be known"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(super) async fn ticket(&self, timeout: Duration) -> Result<Ticket> {
        match self.at_leader(Request::Ticket, timeout.min(ANSWER)).await? {
            Reply::Ticket(ticket) => Ok(ticket),
            _ => Err(Error::internal("Unexpected answer of the leader")),
        }
    }

    /// Nobody waits for it: at worst the ticket expires.
    pub(super) async fn give_ticket_back(&self, number: u64) {
        let db = self.clone();
        tokio::spawn(async move { db.at_leader(Request::GiveBack(number), ANSWER).await.map(drop) });
    }

    pub(super) async fn propose(&self, ticket: u64, command: Command, timeout: Duration) -> Result<Proposed> {
        match self.at_leader(Request::Propose { ticket, command }, timeout.min(ANSWER)).await? {
            Reply::Proposed { applied, index } => Ok(Proposed::Applied(applied, index)),
            Reply::Differs => Ok(Proposed::Differs),
            _ => Err(Error::internal("Unexpected answer of the leader")),
        }
    }

    /// Waits until this replica has applied the entry `index`.
    pub async fn wait_applied(&self, index: u64) -> Result<()> {
        self.wait_applied_for(index, self.options.patience).await
    }

    pub(super) async fn wait_applied_for(&self, index: u64, timeout: Duration) -> Result<()> {
        let mut applied = self.machine.watch_applied();
        match tokio::time::timeout(timeout, applied.wait_for(|now| *now >= index)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.lagging()),
        }
    }

    fn lagging(&self) -> Error {
        match &*self.machine.watch_halted().borrow() {
            Some(halt) => Error::unavailable(&halt.why),
            None => Error::unavailable("The database of this member lags behind the others and can't catch up"),
        }
    }
}
