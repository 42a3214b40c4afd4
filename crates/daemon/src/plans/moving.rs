//! An instance on its way: stopped, copied, switched over in one transaction, started, and removed where it was.
//!
//! [`incus_core::plan::Move`] says what comes next; what it is told is read anew each time. Only the transaction
//! decides where the instance is. Before it a failure puts everything back, also if the target does not start it.

use std::result::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use api::internal::{InstanceFacts, InstanceTask, Task};
use api::{Error, Kind as ErrorKind};
use db::Tx;
use db::instances::Changes;
use db::plans::{Kind, StepState};
use incus_core::plan::{Do, Move, Undo};
use serde_json::Value;

use super::body::{Part, Spot, must_be_in_service};
use super::evacuate::elsewhere;
use super::runner::{Outcome, Run};
use super::{member, point};
use crate::events;
use crate::instances;
use crate::services::pools;
use crate::state::Daemon;

/// How often it is told how much has come over.
const TELL: Duration = Duration::from_secs(1);
/// How often something is tried that does not work although both members are there.
const TRIES: u32 = 3;

/// Passes a point of the plan at which a test may hold it.
pub async fn point(run: &Run<'_>, step: &str, when: &str) {
    point::pass(run.daemon, &format!("plan:{step}:{when}")).await;
}

/// What a member is asked for the instance, about its files in that spot.
pub fn task(run: &Run<'_>, part: &Part, spot: &Spot, what: Task) -> InstanceTask {
    InstanceTask {
        instance: part.step.instance,
        plan: run.plan.uuid.clone(),
        pool: spot.pool.clone(),
        volume: spot.volume().name,
        what,
    }
}

/// Moves an instance.
pub async fn migrate(run: &Run<'_>, number: usize, part: &Part) -> Outcome {
    let step = run.plan.steps.iter().find(|s| s.number == number);
    // One that was begun goes on to the member that it was going to.
    let begun = step.filter(|s| s.state == StepState::Running).and_then(|s| s.member);
    let shared = match lies_shared(run.daemon, part).await {
        Ok(shared) => shared,
        Err(e) => return Outcome::Failed(e),
    };
    let mut moving = Moving {
        run,
        number,
        part,
        shared,
        to: begun.unwrap_or(part.step.to),
        lost: Vec::new(),
        tries: AtomicU32::new(0),
    };
    let mut next = if begun.is_some() { Ok(()) } else { moving.set_out().await };
    loop {
        if let Err(outcome) = next {
            moving.tidy_up().await;
            return outcome;
        }
        next = moving.turn().await;
    }
}

/// True if both members reach the files where they are, so that only the instance moves.
async fn lies_shared(daemon: &Arc<Daemon>, part: &Part) -> api::Result<bool> {
    let remote = daemon.db().peek(pools::remote_names).await?;
    Ok(part.source.same_place(&part.target) && remote.contains(&part.source.pool))
}

struct Moving<'a> {
    run: &'a Run<'a>,
    number: usize,
    part: &'a Part,
    /// Both members reach its files: nothing is copied.
    shared: bool,
    /// Row id of the member that it goes to.
    to: i64,
    /// Members that it was to go to and that were lost.
    lost: Vec<i64>,
    /// How often something did not work although both members were there.
    tries: AtomicU32,
}

/// How things stand.
struct Seen {
    committed: bool,
    source: api::Result<InstanceFacts>,
    target: api::Result<InstanceFacts>,
}

impl Moving<'_> {
    fn daemon(&self) -> &Arc<Daemon> {
        self.run.daemon
    }

    fn from(&self) -> i64 {
        self.part.step.from
    }

    /// The step is begun; what an earlier attempt has left on the target is not taken for a copy of today.
    async fn set_out(&self) -> Result<(), Outcome> {
        let step = &self.part.step;
        let to = member::name(self.daemon(), self.to);
        self.run.tell(format!("Migrating {:?} in project {:?} to {to:?}", step.name, step.project));
        match self.ask_target(Task::Remove).await {
            // Whether it is there is seen in a moment.
            Err(e) if e.kind != ErrorKind::Unavailable => return Err(Outcome::Failed(e)),
            _ => {}
        }
        self.run.begin(self.number, self.to).await
    }

    async fn ask_source(&self, what: Task) -> api::Result<InstanceFacts> {
        member::ask(self.daemon(), self.from(), &task(self.run, self.part, &self.part.source, what)).await
    }

    async fn ask_target(&self, what: Task) -> api::Result<InstanceFacts> {
        member::ask(self.daemon(), self.to, &task(self.run, self.part, &self.part.target, what)).await
    }

    async fn committed(&self) -> Result<bool, Outcome> {
        arrived(self.daemon(), self.part, self.to).await
    }

    async fn look(&self) -> Result<Seen, Outcome> {
        let committed = self.committed().await?;
        let (source, target) = tokio::join!(self.ask_source(Task::Look), self.ask_target(Task::Look));
        Ok(Seen { committed, source, target })
    }

    /// The facts by which the next thing is decided.
    fn facts(&self, committed: bool, source: InstanceFacts, target: InstanceFacts) -> Move {
        let here = self.from() == self.to;
        Move {
            committed,
            // On the same member it is either the old or the new one that runs.
            runs_on_source: source.runs && !(here && committed),
            shared: self.shared,
            copied: target.exists,
            on_source: source.exists,
            start: self.part.step.start,
            runs_on_target: target.runs && (committed || !here),
        }
    }

    /// Does the next thing; an error ends it.
    async fn turn(&mut self) -> Result<(), Outcome> {
        let seen = self.look().await?;
        let (source, target) = match (seen.committed, seen.source, seen.target) {
            (_, Ok(source), Ok(target)) => (source, target),
            (false, Err(e), _) => {
                let _ = self.ask_target(Task::Remove).await;
                return Err(Outcome::Failed(e));
            }
            (false, Ok(_), Err(e)) => return self.go_elsewhere(e).await,
            // What it leaves behind belongs to nobody, and goes when that member starts.
            (true, Err(_), Ok(target)) => (InstanceFacts::default(), target),
            (true, source, Err(e)) => return Err(self.arrived_unseen(source.is_ok(), e).await),
        };
        let facts = self.facts(seen.committed, source, target);
        if !seen.committed && self.run.cancelled() {
            return Err(self.give_up().await);
        }
        match facts.next() {
            Do::StopOnSource => self.stop().await,
            Do::Copy => self.copy().await,
            Do::Commit => self.commit().await,
            Do::StartOnTarget => self.start(facts).await,
            Do::CleanSource => {
                point(self.run, "clean", "before").await;
                let cleaned = self.ask_source(Task::Remove).await;
                point(self.run, "clean", "after").await;
                cleaned.map(drop).map_err(|e| self.done(&format!("; its old files could not be removed: {e}")))
            }
            Do::Done => {
                if self.shared {
                    // Its files stay; what lies beside them on the old member, as its log, goes if that is there.
                    let _ = self.ask_source(Task::Remove).await;
                }
                Err(self.done(""))
            }
        }
    }

    fn done(&self, more: &str) -> Outcome {
        tell_moved(self.run, self.part, self.to);
        Outcome::Done(format!("moved to {}{more}", member::name(self.daemon(), self.to)))
    }

    /// It has arrived on a member that has gone offline since.
    async fn arrived_unseen(&self, source: bool, e: Error) -> Outcome {
        if !self.part.step.start {
            if source {
                let _ = self.ask_source(Task::Remove).await;
            }
            return self.done("");
        }
        let to = member::name(self.daemon(), self.to);
        Outcome::Failed(e.context(format!("It was moved to \"{to}\" and starts when that member is back")))
    }

    async fn stop(&self) -> Result<(), Outcome> {
        // A copy that was made before it ran on is an old one.
        if let Err(e) = self.ask_target(Task::Remove).await {
            return self.after(Err(e)).await;
        }
        let step = &self.part.step;
        self.run.tell(format!("Stopping {:?} in project {:?}", step.name, step.project));
        point(self.run, "stop", "before").await;
        let stopped = self.ask_source(Task::Stop { timeout: step.timeout, force: false }).await;
        point(self.run, "stop", "after").await;
        self.after(stopped).await
    }

    async fn copy(&self) -> Result<(), Outcome> {
        let step = &self.part.step;
        let to = member::name(self.daemon(), self.to);
        self.run.tell(format!("Migrating {:?} in project {:?} to {to:?}", step.name, step.project));
        point(self.run, "copy", "before").await;
        let source = &self.part.source;
        let (pool, volume) = (source.pool.clone(), source.volume().name);
        let what = match self.source_address() {
            Ok(address) => Task::Fetch { address, pool, volume },
            Err(e) => return self.after(Err(e)).await,
        };
        let stop = self.run.operation.cancelled();
        let fetched = tokio::select! {
            fetched = self.ask_target(what) => fetched,
            e = self.source_gone() => Err(e),
            // The next turn gives it up.
            () = stop.cancelled() => return Ok(()),
            never = self.tell_progress() => match never {},
        };
        point(self.run, "copy", "after").await;
        self.after(fetched).await
    }

    /// The address from which the target gets the files; empty if they lie on the target itself.
    fn source_address(&self) -> api::Result<String> {
        if self.from() == self.to {
            return Ok(String::new());
        }
        let snapshot = self.daemon().snapshot();
        let row = snapshot.members.iter().find(|m| m.id == self.from());
        row.map(|m| m.address.clone()).ok_or_else(|| Error::unavailable("The cluster member was removed"))
    }

    /// Ends when the member that has the files counts as offline.
    async fn source_gone(&self) -> Error {
        while !member::offline(self.daemon(), self.from()) {
            tokio::time::sleep(TELL).await;
        }
        Error::unavailable("The member that has the files is offline")
    }

    /// Tells how much has come over, until the caller has enough.
    async fn tell_progress(&self) -> std::convert::Infallible {
        let look = task(self.run, self.part, &self.part.target, Task::Look);
        loop {
            tokio::time::sleep(TELL).await;
            if let Ok(InstanceFacts { bytes: bytes @ 1.., .. }) = member::once(self.daemon(), self.to, &look).await {
                let text = format!("{:?}: {}MB", self.part.step.name, bytes >> 20);
                let text = if self.run.plan.kind == Kind::Move { format!("{}MB", bytes >> 20) } else { text };
                self.run.operation.report([("fs_progress".to_owned(), Value::from(text))]);
            }
        }
    }

    /// After something was asked for. Whether a member has gone is seen in the next turn; what is refused is put back.
    async fn after(&self, done: api::Result<InstanceFacts>) -> Result<(), Outcome> {
        match done {
            Ok(_) => Ok(()),
            Err(e) if e.kind == ErrorKind::Unavailable && self.tries.fetch_add(1, Ordering::Relaxed) < TRIES => Ok(()),
            Err(e) => Err(self.put_back(e).await),
        }
    }

    async fn commit(&self) -> Result<(), Outcome> {
        let (id, from, to) = (self.part.step.instance, self.from(), self.to);
        let (source, target) = (self.part.source.clone(), self.part.target.clone());
        point(self.run, "commit", "before").await;
        let written = self.run.write(move |tx| {
            // What came to a member that is being emptied now would stay there.
            if from != to {
                must_be_in_service(tx, to)?;
            }
            place(tx, id, (from, &source), (to, &target))
        });
        let written = written.await;
        point(self.run, "commit", "after").await;
        match written {
            None => Err(Outcome::Abandoned),
            Some(Ok(())) => Ok(()),
            // It may have come true although nobody confirmed it: then the second attempt is refused.
            Some(Err(e)) => match self.committed().await? {
                true => Ok(()),
                false => Err(self.put_back(e).await),
            },
        }
    }

    async fn start(&self, facts: Move) -> Result<(), Outcome> {
        let target = &self.part.target;
        self.run.tell(format!("Starting {:?} in project {:?}", target.name, target.project));
        point(self.run, "start", "before").await;
        let started = self.ask_target(Task::Start).await;
        point(self.run, "start", "after").await;
        match started {
            Ok(_) => Ok(()),
            Err(e) if e.kind == ErrorKind::Unavailable && self.tries.fetch_add(1, Ordering::Relaxed) < TRIES => Ok(()),
            Err(e) if facts.on_source => self.take_back(e).await,
            Err(e) => Err(Outcome::Failed(e.context("It was moved but doesn't start there"))),
        }
    }

    /// The target has it but does not start it: it goes back to where it ran, as long as its files are there.
    async fn take_back(&self, e: Error) -> Result<(), Outcome> {
        match self.ask_target(Task::Look).await {
            Ok(InstanceFacts { runs: false, .. }) => {}
            // It runs after all, or nobody knows: the next turn sees.
            _ => return Ok(()),
        }
        let (id, from, to) = (self.part.step.instance, self.from(), self.to);
        let (source, target) = (self.part.source.clone(), self.part.target.clone());
        match self.run.write(move |tx| place(tx, id, (to, &target), (from, &source))).await {
            None => Err(Outcome::Abandoned),
            Some(Ok(())) => Err(self.put_back(e).await),
            Some(Err(_)) => Err(Outcome::Failed(e.context("It was moved but doesn't start there"))),
        }
    }

    /// The plan is cancelled and the instance has not gone: all is as it was.
    async fn give_up(&self) -> Outcome {
        // Also what is still coming in.
        let removed = self.ask_target(Task::Remove).await;
        match self.put_back(Error::internal("It was cancelled")).await {
            Outcome::Failed(e) if e.message == "It was cancelled" => match removed {
                Ok(_) => Outcome::Cancelled("it is where it was".into()),
                Err(e) => Outcome::Cancelled(format!("it is where it was; removing the copy: {e}")),
            },
            other => other,
        }
    }

    /// Undoes what was done before the transaction; why, and what did not work of that.
    async fn put_back(&self, e: Error) -> Outcome {
        let seen = match self.look().await {
            Ok(seen) => seen,
            Err(outcome) => return outcome,
        };
        let (source, target) = (seen.source.unwrap_or_default(), seen.target.unwrap_or_default());
        let mut e = e;
        for what in self.facts(seen.committed, source, target).undo() {
            let undone = match what {
                Undo::RemoveCopy => self.ask_target(Task::Remove).await,
                Undo::StartOnSource => self.ask_source(Task::Start).await,
            };
            if let Err(then) = undone {
                let what = if what == Undo::StartOnSource { "start it again" } else { "remove the copy" };
                e.message = format!("{}; then it was not possible to {what}: {then}", e.message);
            }
        }
        Outcome::Failed(e)
    }

    /// The target is lost before the instance has gone there. An evacuation looks for another one; if there is none
    /// the instance is stopped where it is, as the planner would have said.
    async fn go_elsewhere(&mut self, e: Error) -> Result<(), Outcome> {
        if self.run.plan.kind != Kind::Evacuate {
            return Err(self.put_back(e).await);
        }
        self.lost.push(self.to);
        let not: Vec<i64> = self.lost.iter().copied().chain([self.from()]).collect();
        match elsewhere(self.daemon(), self.part.step.instance, &not).await {
            Ok(to) => {
                self.to = to;
                self.set_out().await
            }
            Err(none) => {
                let what = Task::Stop { timeout: self.part.step.timeout, force: false };
                match self.ask_source(what).await {
                    Ok(_) => Err(Outcome::Done(format!("stopped: {}, and {}", e.message, none.message))),
                    Err(e) => Err(Outcome::Failed(e)),
                }
            }
        }
    }

    /// What lost members may have of it is removed if they are back; otherwise that happens when they start.
    async fn tidy_up(&self) {
        for member in self.lost.iter().filter(|m| !member::offline(self.daemon(), **m)) {
            let remove = task(self.run, self.part, &self.part.target, Task::Remove);
            let _ = member::once(self.daemon(), *member, &remove).await;
        }
    }
}

/// True if the database says that the instance has arrived; the newest state of it, however long that takes.
pub async fn arrived(daemon: &Daemon, part: &Part, to: i64) -> Result<bool, Outcome> {
    let (id, target) = (part.step.instance, part.target.clone());
    let read = move |tx: &Tx<'_>| {
        let row = db::instances::by_id(tx, id)?;
        let pool = db::volumes::of_instance(tx, id)?.pool;
        let there = row.member_id == to && row.project == target.project && row.name == target.name;
        Ok(there && pool == target.pool)
    };
    loop {
        match daemon.db().read(read.clone()).await {
            Ok(committed) => return Ok(committed),
            Err(e) if e.kind == ErrorKind::NotFound => return Err(Outcome::Skipped("it was deleted".into())),
            Err(e) if e.retryable() => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(e) => return Err(Outcome::Failed(e)),
        }
    }
}

/// Tells that an instance is on another member from now on.
pub fn tell_moved(run: &Run<'_>, part: &Part, to: i64) {
    let (source, target) = (&part.source, &part.target);
    let url = instances::url(&target.project, &target.name);
    let event = events::lifecycle("instance-migrated", url, run.body.requestor.clone());
    let about =
        [("old_name", Value::from(source.name.as_str())), ("location", Value::from(member::name(run.daemon, to)))];
    run.daemon.tell_in(&events::with_context(event, about), &target.project);
}

/// The transaction: the instance is on the member `to` from now on, as its spot there says.
pub fn place(tx: &Tx<'_>, id: i64, (from, old): (i64, &Spot), (to, new): (i64, &Spot)) -> api::Result<()> {
    let row = db::instances::by_id(tx, id)?;
    let volume = db::volumes::of_instance(tx, id)?;
    db::instances::set_member(tx, id, from, to)?;
    let (renamed, elsewhere) = (old.name != new.name, old.project != new.project);
    // On the way between two projects it must not meet others of its old or its new name.
    let between = format!("moving{id}");
    if renamed && elsewhere {
        db::instances::rename(tx, id, &between)?;
        db::volumes::rename(tx, volume.id, &between)?;
    }
    if elsewhere {
        let profiles = new.settings.as_ref().map_or(&row.profiles, |s| &s.profiles);
        db::instances::set_project(tx, id, &new.project, profiles)?;
    }
    let pool = db::pools::id(tx, &new.pool)?;
    db::volumes::set_place(tx, volume.id, pool, pools::holder(tx, pool, to)?, &new.project)?;
    if renamed {
        db::instances::rename(tx, id, &new.name)?;
        db::volumes::rename(tx, volume.id, &new.name)?;
    }
    if let Some(settings) = &new.settings {
        let noted = row.config.iter().filter(|(key, _)| incus_core::expand::is_volatile(key));
        let mut config = settings.config.clone();
        config.extend(noted.map(|(k, v)| (k.clone(), v.clone())));
        let changes = Changes {
            architecture: row.architecture,
            ephemeral: row.ephemeral,
            expires: row.expires,
            description: row.description,
            config,
            devices: settings.devices.clone(),
            profiles: settings.profiles.clone(),
        };
        db::instances::update(tx, id, &changes)?;
    }
    db::instances::patch_config(tx, id, new.notes.iter().map(|(k, v)| (k.as_str(), v.as_deref())))
}
