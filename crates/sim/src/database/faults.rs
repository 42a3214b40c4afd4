//! What goes wrong: members are killed, lose their power and are shut down, ways are cut, messages are lost, disks are
//! slow and full; and what people do meanwhile: hand over, cut the log, take members into maintenance.

use std::sync::Arc;

use db::Tx;
use db::members::{Event, State};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::disk::{End, Fails, SOUND};
use super::load::Load;
use super::net::{FAIR, Weather};
use super::world::World;

/// Things go wrong for so many seconds.
pub async fn happen(world: &Arc<World>, load: &Arc<Load>, seconds: f64) {
    let mut faults = Faults { world: world.clone(), load: load.clone(), chance: world.chance() };
    let until = world.now().as_secs_f64() + seconds;
    while world.now().as_secs_f64() < until {
        let pause = faults.chance.random_range(0.1..4.0);
        world.wait(pause).await;
        faults.one().await;
    }
}

/// Starts a member, and looks at it as a client.
pub async fn start(world: &Arc<World>, load: &Arc<Load>, id: u64) {
    match world.start(id).await {
        Ok(_) => drop(tokio::spawn(load.clone().look_at(id))),
        Err(e) => world.judge("a member starts again", Err(format!("member {id}: {e}"))),
    }
}

struct Faults {
    world: Arc<World>,
    load: Arc<Load>,
    chance: StdRng,
}

impl Faults {
    fn one_of(&mut self, ids: &[u64]) -> Option<u64> {
        (!ids.is_empty()).then(|| ids[self.chance.random_range(0..ids.len())])
    }

    fn leader(&self) -> Option<u64> {
        self.world.net.there().into_iter().find(|(_, m)| m.db.status().leads()).map(|(id, _)| id)
    }

    /// A member, the leader rather often.
    fn somebody(&mut self) -> Option<u64> {
        let there: Vec<u64> = self.world.net.there().into_iter().map(|(id, _)| id).collect();
        if self.chance.random_bool(0.3) {
            return self.leader();
        }
        self.one_of(&there)
    }

    async fn one(&mut self) {
        let ids = self.world.ids();
        match self.chance.random_range(0..22) {
            0..2 => self.end_one(End::Killed),
            2 => self.end_one(End::PowerCut),
            3 => self.end_in_the_middle(),
            4 => {
                for id in ids {
                    self.world.end(id, End::PowerCut);
                }
            }
            5 => {
                if let Some(id) = self.somebody() {
                    let world = self.world.clone();
                    tokio::spawn(async move { world.shut_down(id).await });
                }
            }
            6..10 => {
                let off = self.world.off();
                if let Some(id) = self.one_of(&off) {
                    start(&self.world, &self.load, id).await;
                }
            }
            10..13 => self.cut(&ids),
            13..15 => {
                self.world.note("all ways are mended");
                self.world.net.mend();
            }
            15 => self.weather(),
            16..18 => self.trouble_a_disk(),
            18 => self.spawn_on_one("hands over", |db, ids| async move {
                let to = ids[usize::try_from(db.status().applied).unwrap_or(0) % ids.len()];
                db.hand_over(to).await
            }),
            19 => self.spawn_on_one("cuts its log", |db, _| async move { db.compact().await }),
            _ => self.maintain(),
        }
    }

    fn end_one(&mut self, end: End) {
        if let Some(id) = self.somebody() {
            self.world.end(id, end);
        }
    }

    /// The power of a member goes in the middle of what it writes.
    fn end_in_the_middle(&mut self) {
        let things = self.chance.random_range(0..60);
        let Some((id, disk)) = self.somebody().and_then(|id| Some((id, self.world.disk(id)?))) else { return };
        self.world.note(format_args!("member {id} writes {things} times until its power goes"));
        disk.goes_after(things);
    }

    fn cut(&mut self, ids: &[u64]) {
        let half: Vec<u64> = ids.iter().copied().filter(|_| self.chance.random_bool(0.5)).collect();
        let alone = self.somebody();
        match self.chance.random_range(0..4) {
            0 => {
                self.world.note(format_args!("cut: {half:?} from the others"));
                self.world.net.cut(|a, b| half.contains(&a) != half.contains(&b), ids);
            }
            1 => {
                self.world.note(format_args!("cut: nothing comes from {half:?} to the others"));
                self.world.net.cut(|a, b| half.contains(&a) && !half.contains(&b), ids);
            }
            2 => {
                self.world.note(format_args!("cut: nothing comes to {alone:?}"));
                self.world.net.cut(|_, b| Some(b) == alone, ids);
            }
            _ => {
                self.world.note(format_args!("cut: {alone:?} from all"));
                self.world.net.cut(|a, b| Some(a) == alone || Some(b) == alone, ids);
            }
        }
    }

    fn weather(&mut self) {
        let weather = match self.chance.random_range(0..3) {
            0 => FAIR,
            _ => Weather {
                lost: self.chance.random_range(0.0..0.2),
                twice: self.chance.random_range(0.0..0.2),
                slowest: self.chance.random_range(2_000..200_000),
            },
        };
        self.world.note(format_args!("{weather:?}"));
        self.world.net.set_weather(weather);
    }

    fn trouble_a_disk(&mut self) {
        let ids = self.world.ids();
        let Some((id, disk)) = self.one_of(&ids).and_then(|id| Some((id, self.world.disk(id)?))) else { return };
        match self.chance.random_range(0..6) {
            0 => {
                self.world.note(format_args!("the disk of member {id} is full"));
                disk.fill();
            }
            1 => {
                self.world.note(format_args!("the disk of member {id} is slow"));
                disk.takes(50_000, 3_000_000);
            }
            2 | 3 => {
                let often = [0.02, 0.2, 1.0][self.chance.random_range(0..3)];
                let fails = match self.chance.random_range(0..4) {
                    0 => Fails { writing: often, ..SOUND },
                    1 => Fails { reading: often / 10.0, ..SOUND },
                    _ => Fails { syncing: often, ..SOUND },
                };
                self.world.note(format_args!("the disk of member {id} fails: {fails:?}"));
                disk.fail(fails);
            }
            _ => {
                self.world.note(format_args!("the disk of member {id} is well"));
                disk.mend();
            }
        }
    }

    fn spawn_on_one<F, Fut>(&mut self, what: &'static str, f: F)
    where
        F: FnOnce(db::Db, Vec<u64>) -> Fut + Send + 'static,
        Fut: Future<Output = api::Result<()>> + Send,
    {
        let ids = self.world.ids();
        let Some((id, there)) = self.somebody().and_then(|id| Some((id, self.world.net.reach(id)?))) else { return };
        let world = self.world.clone();
        tokio::spawn(async move {
            let done = f(there.db, ids).await;
            world.note(format_args!("member {id} {what}: {}", done.map_or_else(|e| e.message, |()| "done".into())));
        });
    }

    /// Takes a member into maintenance, or back into service: the roles have to follow.
    fn maintain(&mut self) {
        let ids = self.world.ids();
        let Some(about) = self.one_of(&ids) else { return };
        self.spawn_on_one(
            "turns a member's state",
            move |db, _| async move { db.write(move |tx| turn(tx, about)).await },
        );
    }
}

/// From in service to evacuated, and back.
pub fn turn(tx: &Tx<'_>, raft_id: u64) -> api::Result<()> {
    let member = db::members::by_raft_id(tx, raft_id)?;
    let events = match member.state {
        State::Created => [Event::Evacuate, Event::EvacuationDone],
        _ => [Event::Restore, Event::RestoreDone],
    };
    events.into_iter().try_for_each(|event| db::members::advance(tx, member.id, event).map(drop))
}
