//! An instance taken over from a member that is gone: its member is barred, its leases are waited for, one transaction
//! hands it over, and it is started.
//!
//! Nothing is asked of the member itself. That it does not run the instance any more is known from the leases of its
//! volumes: given back, fenced by their owner, or not renewed for so long that the owner must have ended.

use std::result::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::internal::Task;
use api::{Error, Kind as ErrorKind};
use db::plans::StepState;
use drivers::storage::Volume;
use drivers::storage::lease::{Seen, State, TTL, lapse};
use drivers::storage::shared::Sharing;
use host::clock::since_boot;
use incus_core::placement::{Target, choose};

use super::body::{Part, must_be_in_service};
use super::gone::{self, Placed};
use super::moving::{arrived, place, point, task, tell_moved};
use super::runner::{Outcome, Run};
use super::{heal, member};
use crate::blocking;
use crate::instances::{self, placing};
use crate::services::pools;
use crate::state::Daemon;

/// How often the leases are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Takes an instance over.
pub async fn take_over(run: &Run<'_>, number: usize, part: &Part) -> Outcome {
    let step = run.plan.steps.iter().find(|s| s.number == number);
    // One that was begun goes on to the member that it was going to.
    let begun = step.filter(|s| s.state == StepState::Running).and_then(|s| s.member);
    let taking = Taking { run, number, part };
    taking.run(begun.unwrap_or(part.step.to)).await.unwrap_or_else(|outcome| outcome)
}

struct Taking<'a> {
    run: &'a Run<'a>,
    number: usize,
    part: &'a Part,
}

impl Taking<'_> {
    fn daemon(&self) -> &Arc<Daemon> {
        self.run.daemon
    }

    async fn run(&self, to: i64) -> Result<Outcome, Outcome> {
        let to = if self.committed(to).await? { to } else { self.hand_over(to).await? };
        let name = member::name(self.daemon(), to);
        if self.part.step.start {
            self.start(to).await.map_err(|e| {
                Outcome::Failed(e.context(format!("It belongs to \"{name}\" now, but could not be started there")))
            })?;
        }
        tell_moved(self.run, self.part, to);
        let what = if self.part.step.start { "started on" } else { "handed over to" };
        Ok(Outcome::Done(format!("{what} {name}")))
    }

    async fn committed(&self, to: i64) -> Result<bool, Outcome> {
        arrived(self.daemon(), self.part, to).await
    }

    /// Does all up to the transaction that hands it over; the member that it goes to.
    async fn hand_over(&self, to: i64) -> Result<i64, Outcome> {
        let to = self.present(to).await?;
        self.run.begin(self.number, to).await?;
        let from = self.part.step.from;
        point(self.run, "fence", "before").await;
        let barred = self.run.barred.get_or_init(|| heal::bar(self.daemon(), from)).await;
        barred.clone().map_err(Outcome::Failed)?;
        point(self.run, "lease", "before").await;
        self.free_leases().await?;
        let (id, source, target) = (self.part.step.instance, self.part.source.clone(), self.part.target.clone());
        point(self.run, "commit", "before").await;
        let written = self.run.write(move |tx| {
            must_be_in_service(tx, to)?;
            place(tx, id, (from, &source), (to, &target))
        });
        let written = written.await;
        point(self.run, "commit", "after").await;
        match written {
            None => Err(Outcome::Abandoned),
            Some(Ok(())) => Ok(to),
            // It may have come true although nobody confirmed it: then the second attempt is refused.
            Some(Err(e)) => {
                if self.committed(to).await? {
                    Ok(to)
                } else {
                    Err(Outcome::Failed(e))
                }
            }
        }
    }

    /// The member that it is to go to, or another one if that has gone, too.
    async fn present(&self, to: i64) -> Result<i64, Outcome> {
        if !member::offline(self.daemon(), to) {
            return Ok(to);
        }
        let chosen = async {
            let l = instances::by_id(self.daemon(), self.part.step.instance).await?;
            let candidates = placing::candidates(self.daemon()).await?;
            let target = l.config.get("volatile.cluster.group").map_or(Target::Any, |g| Target::Group(g.clone()));
            choose(&candidates, &target, l.row.architecture.as_str(), &[self.part.step.from, to]).map(|c| c.id)
        };
        chosen.await.map_err(Outcome::Failed)
    }

    /// Waits until its old member can't use its volumes any more, and takes the leases away from it.
    async fn free_leases(&self) -> Result<(), Outcome> {
        let id = self.part.step.instance;
        let l = instances::by_id(self.daemon(), id).await.map_err(Outcome::Failed)?;
        let volumes = self.daemon().db().peek(move |tx| gone::volumes(tx, &l)).await.map_err(Outcome::Failed)?;
        // One that has just been renewed has lapsed by then, and one that is about to be fenced is fenced.
        let silence = cluster::health::healing_threshold(&self.daemon().snapshot().config).unwrap_or_default();
        let end = Instant::now() + lapse(TTL) * 2 + silence;
        for volume in volumes {
            loop {
                match free(self.daemon(), volume.clone()).await {
                    Ok(None) => break,
                    Ok(Some(holder)) if Instant::now() > end => {
                        return Err(Outcome::Failed(Error::unavailable(format!(
                            "The cluster member \"{holder}\" still renews the lease of its volume \"{}\" in the pool \
                             \"{}\": it may run there (stop that member's instances, or the machine)",
                            volume.1.name, volume.0
                        ))));
                    }
                    Err(e) if !e.retryable() || Instant::now() > end => return Err(Outcome::Failed(e)),
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        }
        Ok(())
    }

    async fn start(&self, to: i64) -> api::Result<()> {
        let target = &self.part.target;
        self.run.tell(format!("Starting {:?} in project {:?}", target.name, target.project));
        point(self.run, "start", "before").await;
        let started = member::ask(self.daemon(), to, &task(self.run, self.part, target, Task::Start)).await;
        point(self.run, "start", "after").await;
        started.map(drop)
    }
}

/// Takes the lease of a volume away from a member that is gone; the name of the member if it is not gone yet.
///
/// A lease that has lapsed is taken and given back at once: whoever looks next finds it free.
async fn free(daemon: &Arc<Daemon>, volume: Placed) -> api::Result<Option<String>> {
    let (pool, volume) = volume;
    let driver = pools::open(daemon, &pool).await?;
    let Some(Sharing { owner, leases, .. }) = driver.sharing().cloned() else { return Ok(None) };
    let watch = daemon.plans.watch_of(&pool);
    blocking::run(move || {
        let seen = heal::lock(&watch).look(&leases, &volume, since_boot)?;
        match seen {
            Seen::Free | Seen::Fenced(_) => Ok(None),
            Seen::Held(record) if record.owner == owner.id => Ok(None),
            Seen::Held(record) => Ok(Some(record.name)),
            Seen::Lapsed(record) => {
                let taken = leases.take_over(&volume, &owner, TTL, since_boot, &record);
                match taken {
                    Ok(held) => held.release(State::Released).map(|()| None),
                    Err(e) if e.kind == ErrorKind::Conflict => Ok(Some(record.name)),
                    Err(e) => Err(e),
                }
            }
        }
    })
    .await
}

/// What is seen of the lease of a volume; none if its pool has no leases.
pub async fn look(daemon: &Arc<Daemon>, pool: &str, volume: Volume) -> api::Result<Option<Seen>> {
    let driver = pools::open(daemon, pool).await?;
    let Some(Sharing { leases, .. }) = driver.sharing().cloned() else { return Ok(None) };
    let watch = daemon.plans.watch_of(pool);
    blocking::run(move || heal::lock(&watch).look(&leases, &volume, since_boot).map(Some)).await
}
