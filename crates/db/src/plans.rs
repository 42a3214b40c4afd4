//! Stored plans: what a long operation will do, and how far it is. Whoever takes a plan over starts from here.

use api::{Error, Result};
pub use incus_core::plan::Kind;
use jiff::Timestamp;
use serde_json::Value;

use crate::tx::{Tx, Words, found, touched};
use crate::value::{Time, maybe_time, time};

const NOT_FOUND: &str = "Plan";

/// Declares an enum whose values lie in the database as words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The word in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            fn parse(text: &str) -> Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(Error::internal(format!("Unknown state \"{text}\" of a plan in the database"))),
                }
            }
        }
    };
}

words! {
    /// How far a plan is.
    State {
        /// It is being carried out.
        Running = "running";
        /// It is to be cancelled: what is begun ends or is put back.
        Undoing = "undoing";
        /// It was carried out, though perhaps not for every instance.
        Done = "done";
        /// It was given up.
        Failed = "failed";
        /// Somebody cancelled it.
        Cancelled = "cancelled";
    }
}

impl State {
    /// True if nothing will happen any more.
    pub const fn ended(self) -> bool {
        matches!(self, State::Done | State::Failed | State::Cancelled)
    }
}

words! {
    /// How far a step of a plan is.
    StepState {
        /// Its turn has not come.
        Waiting = "waiting";
        /// A member is at it.
        Running = "running";
        /// It is done.
        Done = "done";
        /// It could not be done.
        Failed = "failed";
        /// It was not needed any more.
        Skipped = "skipped";
        /// The plan was cancelled before it was done; nothing of it is left.
        Cancelled = "cancelled";
    }
}

/// A plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Row id.
    pub id: i64,
    /// UUID, also that of the operation by which clients see it.
    pub uuid: String,
    /// What it is for.
    pub kind: Kind,
    /// Row id of the member that it is about, unless that is gone.
    pub member: Option<i64>,
    /// Row id of the member that carries it out, unless that is gone.
    pub runner: Option<i64>,
    /// How far it is.
    pub state: State,
    /// When it was made.
    pub created: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Why it was given up.
    pub error: String,
    /// What was decided.
    pub body: Value,
    /// Its steps, by number.
    pub steps: Vec<Step>,
}

/// A step of a plan; what is to be done is in the plan's body, by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Number, from 0.
    pub number: usize,
    /// How far it is.
    pub state: StepState,
    /// When it was begun.
    pub started: Option<Timestamp>,
    /// Row id of the member that is or was at it.
    pub member: Option<i64>,
    /// What came of it, for people.
    pub result: String,
}

/// A plan to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewPlan {
    /// UUID.
    pub uuid: String,
    /// What it is for.
    pub kind: Kind,
    /// Row id of the member that it is about.
    pub member: Option<i64>,
    /// Row id of the member that carries it out.
    pub runner: i64,
    /// When it was made.
    pub created: Timestamp,
    /// What was decided.
    pub body: Value,
    /// How many steps it has.
    pub steps: usize,
}

fn kind_word(kind: Kind) -> Result<String> {
    match serde_json::to_value(kind) {
        Ok(Value::String(word)) => Ok(word),
        other => Err(Error::internal(format!("The kind of a plan is not a word: {other:?}"))),
    }
}

/// Stores a plan that is about to be carried out; its row id.
pub fn create(tx: &Tx<'_>, new: &NewPlan) -> Result<i64> {
    let sql =
        "INSERT INTO plans (uuid, kind, member, runner, state, created, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let (kind, state, body) = (kind_word(new.kind)?, State::Running.as_str(), new.body.to_string());
    let id = tx
        .insert(sql, (&new.uuid, kind, new.member, new.runner, state, Time(new.created), body))
        .or_taken(|| format!("Plan \"{}\" already exists", new.uuid))?;
    for number in 0..new.steps {
        let sql = "INSERT INTO plan_steps (plan_id, number, state) VALUES (?1, ?2, ?3)";
        tx.run(sql, (id, as_number(number)?, StepState::Waiting.as_str()))?;
    }
    Ok(id)
}

fn as_number(number: usize) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::internal(format!("A plan can't have {number} steps")))
}

/// The plan with that UUID.
pub fn get(tx: &Tx<'_>, uuid: &str) -> Result<Plan> {
    found(select(tx, "uuid = ?1", uuid)?.pop(), NOT_FOUND)
}

/// The plans that have not ended, oldest first.
pub fn unfinished(tx: &Tx<'_>) -> Result<Vec<Plan>> {
    select(tx, "?1 AND state IN ('running', 'undoing')", true)
}

/// The newest plans about a member, newest first.
pub fn of_member(tx: &Tx<'_>, member: i64) -> Result<Vec<Plan>> {
    let mut all = select(tx, "member = ?1", member)?;
    all.reverse();
    Ok(all)
}

fn select(tx: &Tx<'_>, condition: &str, param: impl rusqlite::ToSql + Copy) -> Result<Vec<Plan>> {
    let sql = format!(
        "SELECT * FROM plan_steps WHERE plan_id IN (SELECT id FROM plans WHERE {condition}) ORDER BY plan_id, number"
    );
    let steps = tx.all(&sql, [param], |r| {
        let started = maybe_time(r, "started_at")?;
        let (number, state): (i64, String) = (r.get("number")?, r.get("state")?);
        Ok((r.get("plan_id")?, (number, state, started, r.get("member")?, r.get("result")?)))
    })?;
    let mut steps = crate::members::gather(steps);
    let rows = tx.all(&format!("SELECT * FROM plans WHERE {condition} ORDER BY id"), [param], |r| {
        let id: i64 = r.get("id")?;
        let words: (String, String, String) = (r.get("kind")?, r.get("state")?, r.get("body")?);
        let plan = Plan {
            id,
            uuid: r.get("uuid")?,
            kind: Kind::Move,
            member: r.get("member")?,
            runner: r.get("runner")?,
            state: State::Running,
            created: time(r, "created")?,
            ended: maybe_time(r, "ended")?,
            error: r.get("error")?,
            body: Value::Null,
            steps: Vec::new(),
        };
        Ok((plan, words, steps.remove(&id).unwrap_or_default()))
    })?;
    let broken = |e: serde_json::Error| Error::internal(format!("Bad plan in the database: {e}"));
    rows.into_iter()
        .map(|(plan, (kind, state, body), steps)| {
            Ok(Plan {
                kind: serde_json::from_value(Value::String(kind)).map_err(broken)?,
                state: State::parse(&state)?,
                body: serde_json::from_str(&body).map_err(broken)?,
                steps: steps.into_iter().map(step).collect::<Result<_>>()?,
                ..plan
            })
        })
        .collect()
}

fn step(
    (number, state, started, member, result): (i64, String, Option<Timestamp>, Option<i64>, String),
) -> Result<Step> {
    let number = usize::try_from(number).map_err(|_| Error::internal(format!("Step {number} of a plan")))?;
    Ok(Step { number, state: StepState::parse(&state)?, started, member, result })
}

/// Gives a plan to another member to carry out.
///
/// Refuses if it has ended, or is not carried out by `from` any more: of two that take it over one gets it.
pub fn adopt(tx: &Tx<'_>, id: i64, from: Option<i64>, to: i64) -> Result<()> {
    let sql = "UPDATE plans SET runner = ?3 WHERE id = ?1 AND runner IS ?2 AND state IN ('running', 'undoing')";
    match tx.run(sql, (id, from, to))? {
        0 => Err(Error::conflict("The plan has ended or another member has taken it over")),
        _ => Ok(()),
    }
}

/// True if that member is to carry the plan out, and it has not ended.
pub fn is_run_by(tx: &Tx<'_>, id: i64, member: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM plans WHERE id = ?1 AND runner = ?2 AND state IN ('running', 'undoing')";
    Ok(tx.one(sql, (id, member), |_| Ok(()))?.is_some())
}

/// Notes that a plan is to be cancelled; false if it has ended.
pub fn cancel(tx: &Tx<'_>, uuid: &str) -> Result<bool> {
    let sql = "UPDATE plans SET state = 'undoing' WHERE uuid = ?1 AND state IN ('running', 'undoing')";
    Ok(tx.run(sql, [uuid])? > 0)
}

/// Records that a member begins a step, which may have been begun before.
pub fn begin_step(tx: &Tx<'_>, id: i64, number: usize, member: i64, now: Timestamp) -> Result<()> {
    let sql = "UPDATE plan_steps SET state = ?3, member = ?4, started_at = ?5 WHERE plan_id = ?1 AND number = ?2";
    let values = (id, as_number(number)?, StepState::Running.as_str(), member, Time(now));
    touched(tx.run(sql, values)?, NOT_FOUND)
}

/// Records what came of a step.
pub fn end_step(tx: &Tx<'_>, id: i64, number: usize, state: StepState, result: &str) -> Result<()> {
    let sql = "UPDATE plan_steps SET state = ?3, result = ?4 WHERE plan_id = ?1 AND number = ?2";
    touched(tx.run(sql, (id, as_number(number)?, state.as_str(), result))?, NOT_FOUND)
}

/// Records how far a plan is; `error` says why if it was given up. One that has ended stays so.
pub fn set_state(tx: &Tx<'_>, id: i64, state: State, error: &str, now: Timestamp) -> Result<()> {
    let sql = "UPDATE plans SET state = ?2, error = ?3, ended = ?4 WHERE id = ?1 AND state IN ('running', 'undoing')";
    let ended = state.ended().then_some(Time(now));
    match tx.run(sql, (id, state.as_str(), error, ended))? {
        0 => Err(Error::conflict("The plan has ended already")),
        _ => Ok(()),
    }
}

/// Forgets the plans that ended before `before`.
pub fn prune(tx: &Tx<'_>, before: Timestamp) -> Result<()> {
    tx.run("DELETE FROM plans WHERE ended IS NOT NULL AND ended < ?1", [Time(before)]).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn a_plan_is_carried_out_taken_over_and_ended() {
        let c = database();
        let tx = Tx(&c);
        c.execute_batch("INSERT INTO nodes (id, name, address, schema, api_extensions) VALUES (2, 'node2', 'x', 1, 1)")
            .unwrap();
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let new = NewPlan {
            uuid: "u".into(),
            kind: Kind::Evacuate,
            member: Some(2),
            runner: 2,
            created: at(1),
            body: serde_json::json!({"steps": ["c1", "c2"]}),
            steps: 2,
        };
        let id = create(&tx, &new).unwrap();
        assert_eq!(create(&tx, &new).unwrap_err().message, "Plan \"u\" already exists");
        begin_step(&tx, id, 0, 2, at(2)).unwrap();
        let got = get(&tx, "u").unwrap();
        assert_eq!((got.kind, got.state, &got.body, got.runner), (Kind::Evacuate, State::Running, &new.body, Some(2)));
        let states: Vec<_> = got.steps.iter().map(|s| (s.number, s.state, s.started)).collect();
        assert_eq!(states, [(0, StepState::Running, Some(at(2))), (1, StepState::Waiting, None)]);

        // The member that carries it out dies and is removed; two others want to go on.
        tx.run("DELETE FROM nodes WHERE id = 2", []).unwrap();
        assert_eq!(unfinished(&tx).unwrap()[0].runner, None);
        adopt(&tx, id, None, 1).unwrap();
        assert!(adopt(&tx, id, None, 1).is_err());
        assert!(is_run_by(&tx, id, 1).unwrap() && !is_run_by(&tx, id, 2).unwrap());
        begin_step(&tx, id, 0, 1, at(3)).unwrap();
        end_step(&tx, id, 0, StepState::Done, "").unwrap();
        end_step(&tx, id, 1, StepState::Failed, "no room").unwrap();
        assert_eq!(end_step(&tx, id, 2, StepState::Done, "").unwrap_err().message, "Plan not found");
        assert!(cancel(&tx, "u").unwrap() && !cancel(&tx, "v").unwrap());
        assert_eq!(unfinished(&tx).unwrap()[0].state, State::Undoing, "a wish, not the end");
        assert!(is_run_by(&tx, id, 1).unwrap());
        set_state(&tx, id, State::Done, "", at(4)).unwrap();
        assert!(!cancel(&tx, "u").unwrap(), "it has ended");
        assert!(set_state(&tx, id, State::Failed, "late", at(5)).is_err());
        assert!(unfinished(&tx).unwrap().is_empty() && !is_run_by(&tx, id, 1).unwrap());
        let got = get(&tx, "u").unwrap();
        assert_eq!((got.state, got.ended, got.steps[1].result.as_str()), (State::Done, Some(at(4)), "no room"));
        assert!(of_member(&tx, 2).unwrap().is_empty(), "the member is gone, the plan is not");
        prune(&tx, at(4)).unwrap();
        prune(&tx, at(5)).unwrap();
        assert_eq!(get(&tx, "u").unwrap_err().message, "Plan not found");
    }
}
