//! Carrying a plan out: its steps side by side, what came of each, and its end.

use std::sync::Arc;
use std::time::Duration;

use api::internal::Task;
use api::{Error, Kind as ErrorKind, Result};
use db::Tx;
use db::members::Event;
use db::plans::{Kind, Plan, State, StepState};
use futures::StreamExt as _;
use incus_core::plan::Action;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::body::{Body, Part};
use super::{gate, heal, member, moving, taking};
use crate::operations::{Operation, Resources};
use crate::state::Daemon;
use crate::{events, instances};

/// How long is waited before a change is tried again that no majority has confirmed.
const AGAIN: Duration = Duration::from_millis(200);
/// Ended plans are kept that long.
const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A plan that this member carries out.
pub struct Run<'a> {
    /// The daemon.
    pub daemon: &'a Arc<Daemon>,
    /// The plan as it was when it was taken up.
    pub plan: Plan,
    /// What was decided.
    pub body: Body,
    /// By which clients see it.
    pub operation: &'a Arc<Operation>,
    /// Whether the member whose instances are taken over was barred from them.
    pub barred: OnceCell<Result<()>>,
}

/// What came of a step.
pub enum Outcome {
    /// It is done; more about it.
    Done(String),
    /// It was not needed.
    Skipped(String),
    /// It could not be done.
    Failed(Error),
    /// The plan is cancelled, and nothing of it is left; more about it.
    Cancelled(String),
    /// Another member has taken the plan over: nothing more is done here.
    Abandoned,
}

/// What the operation is about.
pub fn resources(body: &Body) -> Resources {
    let urls = body.parts.iter().map(|p| instances::url(&p.source.project, &p.source.name)).collect();
    [("instances".to_owned(), Some(urls))].into()
}

/// The project of the operation: that of the instance if it is about one.
pub fn project(plan: &Plan) -> String {
    let one = (plan.kind == Kind::Move).then(|| Body::of(plan).ok()).flatten();
    one.and_then(|body| body.parts.first().map(|p| p.source.project.clone())).unwrap_or_default()
}

/// Carries out the plan with that UUID to its end.
pub async fn run(daemon: &Arc<Daemon>, uuid: &str, operation: &Arc<Operation>) -> Result<()> {
    let plan = loop {
        let wanted = uuid.to_owned();
        match daemon.db().read(move |tx| db::plans::get(tx, &wanted)).await {
            Err(e) if e.retryable() => tokio::time::sleep(AGAIN).await,
            other => break other?,
        }
    };
    if plan.state.ended() || plan.runner != Some(daemon.member_id()) {
        return Ok(());
    }
    let body = Body::of(&plan)?;
    let run = Run { daemon, plan, body, operation, barred: OnceCell::new() };
    if run.plan.state == State::Undoing {
        operation.begin_cancelling();
    }
    let open = run.plan.steps.iter().filter(|s| matches!(s.state, StepState::Waiting | StepState::Running));
    let numbers: Vec<usize> = open.map(|s| s.number).collect();
    let abandoned = futures::stream::iter(numbers)
        .map(|number| run.step(number))
        .buffer_unordered(gate::width(&daemon.snapshot().config))
        .fold(false, async |any, abandoned| any || abandoned)
        .await;
    if !abandoned {
        run.start_again().await;
        if let Some(done) = run.finish().await {
            return done;
        }
    }
    // What was stopped here and has not gone runs again.
    let daemon = daemon.clone();
    tokio::spawn(async move { instances::boot::autostart(&daemon).await });
    Err(Error::unavailable("This member was taken for offline, and another one has ended what it was doing"))
}

impl Run<'_> {
    /// Writes as long as this member is the runner; waits for a majority. `None` if it is not the runner any more.
    pub async fn write<T: Send + 'static>(
        &self,
        f: impl Fn(&Tx<'_>) -> Result<T> + Clone + Send + Sync + 'static,
    ) -> Option<Result<T>> {
        let (id, own) = (self.plan.id, self.daemon.member_id());
        loop {
            let f = f.clone();
            let mine = move |tx: &Tx<'_>| {
                if db::plans::is_run_by(tx, id, own)? { f(tx).map(Some) } else { Ok(None) }
            };
            match self.daemon.db().write(mine).await {
                Ok(done) => return done.map(Ok),
                Err(e) if e.kind == ErrorKind::Unavailable => tokio::time::sleep(AGAIN).await,
                Err(e) => return Some(Err(e)),
            }
        }
    }

    /// Tells clients what is being done.
    pub fn tell(&self, text: String) {
        tracing::info!("{text}");
        if self.plan.kind != Kind::Move {
            self.operation.report([("evacuation_progress".to_owned(), Value::from(text))]);
        }
    }

    /// True if the plan is to be cancelled: nothing more is begun.
    pub fn cancelled(&self) -> bool {
        self.operation.cancelled().is_cancelled()
    }

    /// The steps as they are now, unless that cannot be read.
    async fn steps(&self) -> Vec<db::plans::Step> {
        loop {
            let uuid = self.plan.uuid.clone();
            match self.daemon.db().read(move |tx| db::plans::get(tx, &uuid)).await {
                Err(e) if e.retryable() => tokio::time::sleep(AGAIN).await,
                other => return other.map(|plan| plan.steps).unwrap_or_default(),
            }
        }
    }

    /// After a cancelled evacuation: what was stopped where it is runs again.
    async fn start_again(&self) {
        if self.plan.kind != Kind::Evacuate || !self.cancelled() {
            return;
        }
        let steps = self.steps().await;
        if !steps.iter().any(|s| s.state == StepState::Cancelled) {
            return;
        }
        let done = self.body.parts.iter().zip(&steps).filter(|(_, s)| s.state == StepState::Done);
        futures::stream::iter(done.map(|(part, _)| part))
            .for_each_concurrent(gate::width(&self.daemon.snapshot().config), async |part| {
                let (id, from) = (part.step.instance, part.step.from);
                let here = self.daemon.db().read(move |tx| Ok(db::instances::by_id(tx, id)?.member_id == from)).await;
                if !part.step.starts_again(here.unwrap_or(false)) {
                    return;
                }
                let start = moving::task(self, part, &part.source, Task::Start);
                if let Err(e) = member::ask(self.daemon, from, &start).await {
                    tracing::warn!("starting {} in project {} again: {e}", part.step.name, part.step.project);
                }
            })
            .await;
    }

    /// Carries out a step; true if another member has taken the plan over.
    async fn step(&self, number: usize) -> bool {
        let part = &self.body.parts[number];
        let begun = self.plan.steps.iter().any(|s| s.number == number && s.state == StepState::Running);
        let outcome = match part.step.action {
            _ if self.cancelled() && !begun => Outcome::Cancelled("it was not begun".into()),
            Action::Leave => Outcome::Skipped(part.step.why.clone()),
            Action::Stop => self.stop(number, part, false).await,
            Action::ForceStop => self.stop(number, part, true).await,
            Action::Start => self.start(number, part).await,
            Action::Migrate => moving::migrate(self, number, part).await,
            Action::TakeOver => taking::take_over(self, number, part).await,
        };
        let (state, result) = match outcome {
            Outcome::Done(text) => (StepState::Done, text),
            Outcome::Skipped(text) => (StepState::Skipped, text),
            Outcome::Cancelled(text) => (StepState::Cancelled, text),
            Outcome::Failed(e) => {
                tracing::warn!("{} in project {}: {e}", part.step.name, part.step.project);
                (StepState::Failed, e.message)
            }
            Outcome::Abandoned => return true,
        };
        let id = self.plan.id;
        match self.write(move |tx| db::plans::end_step(tx, id, number, state, &result)).await {
            None => true,
            Some(Ok(())) => false,
            Some(Err(e)) => {
                tracing::error!("recording what came of a step: {e}");
                true
            }
        }
    }

    /// Notes that a step is begun, with the member that the instance goes to.
    pub async fn begin(&self, number: usize, member: i64) -> Result<(), Outcome> {
        let (id, now) = (self.plan.id, Timestamp::now());
        match self.write(move |tx| db::plans::begin_step(tx, id, number, member, now)).await {
            None => Err(Outcome::Abandoned),
            Some(begun) => begun.map_err(Outcome::Failed),
        }
    }

    async fn stop(&self, number: usize, part: &Part, force: bool) -> Outcome {
        self.tell(format!("Stopping {:?} in project {:?}", part.step.name, part.step.project));
        let what = Task::Stop { timeout: part.step.timeout, force };
        self.in_place(number, part, what, "stopped").await
    }

    async fn start(&self, number: usize, part: &Part) -> Outcome {
        self.tell(format!("Starting {:?} in project {:?}", part.step.name, part.step.project));
        self.in_place(number, part, Task::Start, "started").await
    }

    /// A step that leaves the instance where it is.
    async fn in_place(&self, number: usize, part: &Part, what: Task, done: &str) -> Outcome {
        if let Err(outcome) = self.begin(number, part.step.from).await {
            return outcome;
        }
        let word = what.word();
        moving::point(self, word, "before").await;
        let asked = member::ask(self.daemon, part.step.from, &moving::task(self, part, &part.source, what)).await;
        moving::point(self, word, "after").await;
        match asked {
            Ok(_) => Outcome::Done(format!("{done}: {}", part.step.why)),
            Err(e) => Outcome::Failed(e),
        }
    }

    /// Ends the plan, and with it the maintenance of the member. `None` if another member has taken it over.
    async fn finish(&self) -> Option<Result<()>> {
        moving::point(self, "end", "before").await;
        let (uuid, id, kind, about) = (self.plan.uuid.clone(), self.plan.id, self.plan.kind, self.plan.member);
        let (body, name) = (self.body.clone(), about.map(|id| member::name(self.daemon, id)).unwrap_or_default());
        let ended = self
            .write(move |tx| {
                let steps = db::plans::get(tx, &uuid)?.steps;
                let failed = failures(&body, &steps);
                let cancelled = steps.iter().any(|s| s.state == StepState::Cancelled);
                if let Some(member) = about
                    && let Some(event) = end_of(kind, looked_after(tx, &body, &steps) && !cancelled)
                    && let Err(e) = db::members::advance(tx, member, event)
                {
                    // It was removed, or somebody has set its state by hand: the plan ends all the same.
                    tracing::warn!("ending the maintenance of member {member}: {e}");
                }
                if let Some(member) = about {
                    heal::warn(tx, (kind, member), &name, taken(&body, &steps), &failed)?;
                }
                let state = match (cancelled, failed.is_empty()) {
                    (true, _) => State::Cancelled,
                    (false, true) => State::Done,
                    (false, false) => State::Failed,
                };
                let now = Timestamp::now();
                db::plans::set_state(tx, id, state, &failed, now)?;
                db::plans::prune(tx, now.checked_sub(KEPT).unwrap_or(Timestamp::UNIX_EPOCH))?;
                Ok((failed, steps))
            })
            .await?;
        let (failed, steps) = match ended {
            Ok(ended) => ended,
            Err(e) => return Some(Err(e)),
        };
        let _ = self.daemon.refresh().await;
        let results: Vec<Value> = self.body.parts.iter().zip(&steps).map(|(part, step)| shown(part, step)).collect();
        self.operation.report([("results".to_owned(), Value::from(results))]);
        if kind == Kind::Evacuate && about != Some(self.daemon.member_id()) {
            // Whoever has asked has to hear of what could not be helped.
            self.operation.report([("stays".to_owned(), Value::from(left(&self.body)))]);
        }
        if steps.iter().any(|s| s.state == StepState::Cancelled) {
            return Some(Err(Error::internal(was_cancelled(kind, &self.body, &steps, &failed))));
        }
        if failed.is_empty() {
            self.tell_all();
            return Some(Ok(()));
        }
        let what = match kind {
            Kind::Move => return Some(Err(Error::internal(failed))),
            Kind::Evacuate => "The cluster member is back in service, because not all instances could be evacuated",
            Kind::Restore => "The cluster member is back in service, but not all instances could be restored",
            Kind::Heal => "Not all instances of the cluster member could be started elsewhere",
        };
        Some(Err(Error::internal(format!("{what}: {failed}"))))
    }

    /// Tells that the member is evacuated, or restored.
    fn tell_all(&self) {
        let action = match self.plan.kind {
            Kind::Evacuate => "cluster-member-evacuated",
            Kind::Restore => "cluster-member-restored",
            Kind::Heal => "cluster-member-healed",
            Kind::Move => return,
        };
        let name = self.plan.member.map(|id| member::name(self.daemon, id)).unwrap_or_default();
        let source = format!("/1.0/cluster/members/{}", api::endpoint::encode(&name));
        self.daemon.tell_in(&events::lifecycle(action, source, self.body.requestor.clone()), "");
    }
}

/// What happens to the member when the plan ends.
///
/// An evacuation that was cancelled, or has not looked after every instance, is over: the member is in service again, what has gone stays
/// where it is and comes home when somebody restores the member. A restored member is in service in any case.
const fn end_of(kind: Kind, all_done: bool) -> Option<Event> {
    match (kind, all_done) {
        (Kind::Evacuate | Kind::Heal, true) => Some(Event::EvacuationDone),
        (Kind::Evacuate | Kind::Heal, false) => Some(Event::EvacuationFailed),
        (Kind::Restore, _) => Some(Event::RestoreDone),
        (Kind::Move, _) => None,
    }
}

/// What a person is told of a plan that was cancelled.
fn was_cancelled(kind: Kind, body: &Body, steps: &[db::plans::Step], failed: &str) -> String {
    let migrates = |part: &Part| matches!(part.step.action, Action::Migrate | Action::TakeOver);
    let moved = body.parts.iter().zip(steps).filter(|(part, s)| migrates(part) && s.state == StepState::Done).count();
    let mut text = match kind {
        Kind::Move => "The move was cancelled: the instance is where it was".to_owned(),
        Kind::Evacuate | Kind::Heal => format!(
            "The evacuation was cancelled: the cluster member is back in service; what has moved ({moved} of {}) stays \
             where it is until the member is restored",
            body.parts.len()
        ),
        Kind::Restore => format!(
            "The restore was cancelled: the cluster member is in service; {moved} instances have come back, the others \
             stay where they are until it is restored again"
        ),
    };
    if !failed.is_empty() {
        text += &format!("; {failed}");
    }
    text
}

/// The instances that stay on a member that is gone, each with why.
fn left(body: &Body) -> Vec<String> {
    let steps = body.parts.iter().map(|part| &part.step).filter(|step| step.action == Action::Leave);
    steps.map(|s| format!("Instance {:?} in project {:?} stays: {}", s.name, s.project, s.why)).collect()
}

/// True if no instance was left behind that was to go. One that was taken over and does not start has gone.
fn looked_after(tx: &Tx<'_>, body: &Body, steps: &[db::plans::Step]) -> bool {
    let has_gone = |part: &Part| {
        let row = db::instances::by_id(tx, part.step.instance);
        part.step.action == Action::TakeOver && row.is_ok_and(|row| row.member_id != part.step.from)
    };
    let failed = body.parts.iter().zip(steps).filter(|(_, step)| step.state == StepState::Failed);
    failed.map(|(part, _)| part).all(has_gone)
}

/// How many instances were taken over.
fn taken(body: &Body, steps: &[db::plans::Step]) -> usize {
    let done = |(part, step): &(&Part, &db::plans::Step)| {
        part.step.action == Action::TakeOver && step.state == StepState::Done
    };
    body.parts.iter().zip(steps).filter(done).count()
}

/// The steps that failed, in words; empty if none did.
fn failures(body: &Body, steps: &[db::plans::Step]) -> String {
    let failed = body.parts.iter().zip(steps).filter(|(_, step)| step.state == StepState::Failed);
    let words = failed.map(|(part, step)| match body.parts.len() {
        1 => format!("Instance {:?}: {}", part.step.name, step.result),
        _ => format!("Instance {:?} in project {:?}: {}", part.step.name, part.step.project, step.result),
    });
    words.collect::<Vec<_>>().join("; ")
}

fn shown(part: &Part, step: &db::plans::Step) -> Value {
    json!({
        "name": part.step.name, "project": part.step.project, "status": step.state.as_str(), "result": step.result,
    })
}
