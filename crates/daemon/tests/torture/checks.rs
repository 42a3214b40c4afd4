//! What has to be true of a cluster that was left alone after all that was done to it.

use std::collections::{BTreeMap, BTreeSet};

use lab::Result;
use lab::history::{list, register};
use serde_json::{Value, json};

use crate::ask::{Answer, Client};
use crate::instances::{Known, set_state};
use crate::rack::{Rack, Roots};
use crate::workload::{Diary, lock};

/// How many members vote.
const VOTERS: usize = 3;

/// Fails, with the reason, while the cluster is not at rest.
pub async fn at_rest(roots: &Roots) -> Result<()> {
    let mut views = Vec::new();
    for number in 1..=roots.size() {
        let mut client = Client::new(roots, number);
        views.push(members(&mut client).await?);
        nothing_runs(&mut client).await?;
    }
    let first = &views[0];
    if let Some(other) = views.iter().position(|view| view != first) {
        return Err(format!("server1 sees {first:?}, server{} sees {:?}", other + 1, views[other]).into());
    }
    let count = |role: &str| first.values().filter(|m| m.roles.contains(role)).count();
    if (count("database-leader"), count("database")) != (1, VOTERS) {
        return Err(format!("one has to lead and {VOTERS} have to vote: {first:?}").into());
    }
    dumps(roots).await
}

/// A member as another one sees it.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    roles: BTreeSet<String>,
}

/// All members, which have to be in service. One that is still evacuated is brought back.
async fn members(client: &mut Client) -> Result<BTreeMap<String, Member>> {
    let list = asked(client, "/1.0/cluster/members?recursion=1").await?;
    let mut all = BTreeMap::new();
    for member in list.as_array().into_iter().flatten() {
        let (name, status) = (text(&member["server_name"]), text(&member["status"]));
        if status == "Evacuated" {
            let number = name.trim_start_matches("server").parse()?;
            let answer = set_state(client, number, "restore").await;
            return Err(format!("{name} was evacuated, and is restored: {answer:?}").into());
        }
        if status != "Online" {
            return Err(format!("server{} sees {name} {status}: {}", client.number, member["message"]).into());
        }
        let roles = member["roles"].as_array().into_iter().flatten().map(text).collect();
        all.insert(name, Member { roles });
    }
    Ok(all)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

async fn asked(client: &mut Client, path: &str) -> Result<Value> {
    match client.get(path).await {
        Answer::Good(good) if good.confirmed => Ok(good.value),
        other => Err(format!("server{} asked for {path}: {other:?}", client.number).into()),
    }
}

async fn sql(client: &mut Client, query: &str) -> Result<Vec<Vec<Value>>> {
    let body = json!({ "database": "global", "query": query });
    let answer = client.ask("POST", "/internal/sql", Some(&body), None).await;
    let good = answer.good().ok_or_else(|| format!("server{} can't say: {query}", client.number))?;
    Ok(serde_json::from_value(good.value["Results"][0]["rows"].clone())?)
}

async fn nothing_runs(client: &mut Client) -> Result<()> {
    let operations = asked(client, "/1.0/operations?recursion=1&all-projects=true").await?;
    for status in ["running", "pending", "cancelling"] {
        if let Some(running) = operations[status].as_array().filter(|all| !all.is_empty()) {
            return Err(format!("server{} has operations that are {status}: {running:?}", client.number).into());
        }
    }
    let plans = sql(client, "SELECT kind, state, member, runner FROM plans WHERE ended IS NULL").await?;
    if plans.is_empty() { Ok(()) } else { Err(format!("plans that have not ended: {plans:?}").into()) }
}

/// All replicas hold the same rows, but for when members were last heard of.
async fn dumps(roots: &Roots) -> Result<()> {
    let mut first: Option<Vec<String>> = None;
    for number in 1..=roots.size() {
        let mut client = Client::new(roots, number);
        let dump = text(&asked(&mut client, "/internal/sql?database=global").await?["text"]);
        let rows: Vec<String> = dump.lines().filter(|l| !l.contains("INTO \"nodes\"")).map(str::to_owned).collect();
        if rows.len() < 10 {
            return Err(format!("the database of server{number} is nearly empty: {dump}").into());
        }
        match &first {
            None => first = Some(rows),
            Some(first) if *first == rows => {}
            Some(first) => {
                let here = rows.iter().find(|row| !first.contains(row));
                let there = first.iter().find(|row| !rows.contains(row));
                return Err(format!("server1 has {there:?}, server{number} has {here:?}").into());
            }
        }
    }
    Ok(())
}

/// Each instance is in one place: the member that its row names has its files, and nobody else; it runs there or not at
/// all. Nothing lies about that no row speaks of.
pub async fn instances_are_in_one_place(rack: &Rack) -> Result<()> {
    let query = "SELECT instances.name, nodes.name, (SELECT value FROM instances_config WHERE instance_id = instances.id \
                 AND key = 'volatile.last_state.power') FROM instances JOIN nodes ON nodes.id = node_id";
    let mut rows: BTreeMap<String, (usize, bool)> = BTreeMap::new();
    for row in sql(&mut Client::new(&rack.roots, 1), query).await? {
        let machine = text(&row[1]).trim_start_matches("server").parse()?;
        rows.insert(text(&row[0]), (machine, row[2] == "RUNNING"));
    }
    for number in 1..=rack.roots.size() {
        let here: BTreeSet<String> = rows.iter().filter(|(_, at)| at.0 == number).map(|(n, _)| n.clone()).collect();
        same(&format!("volumes on server{number}"), &here, &volumes(rack, number)?)?;
        let run: BTreeSet<String> =
            rows.iter().filter(|(_, at)| **at == (number, true)).map(|(n, _)| n.clone()).collect();
        same(&format!("containers that run on server{number}"), &run, &monitors(rack, number)?)?;
        let list = asked(&mut Client::new(&rack.roots, number), "/1.0/instances?recursion=1").await?;
        let list: BTreeMap<String, (usize, bool)> = list
            .as_array()
            .into_iter()
            .flatten()
            .map(|i| {
                let at = text(&i["location"]).trim_start_matches("server").parse().unwrap_or(0);
                (text(&i["name"]), (at, i["status"] == "Running"))
            })
            .collect();
        if list != rows {
            return Err(format!("server{number} tells {list:?}, the database holds {rows:?}").into());
        }
    }
    Ok(())
}

fn same(what: &str, wanted: &BTreeSet<String>, is: &BTreeSet<String>) -> Result<()> {
    let (missing, more): (Vec<_>, Vec<_>) = (wanted.difference(is).collect(), is.difference(wanted).collect());
    if missing.is_empty() && more.is_empty() {
        return Ok(());
    }
    Err(format!("{what}: {missing:?} are missing, {more:?} are not to be there").into())
}

/// The containers whose files are on a machine.
fn volumes(rack: &Rack, number: usize) -> Result<BTreeSet<String>> {
    let dir = rack.roots.incus_dir(number).join("storage-pools/local/containers");
    let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
}

/// The containers that run on a machine, as its kernel knows.
fn monitors(rack: &Rack, number: usize) -> Result<BTreeSet<String>> {
    let processes = rack.must(number, "ps", &["ax", "-o", "args"])?;
    let names = processes.lines().filter(|l| l.starts_with("[lxc monitor]")).filter_map(|l| l.rsplit(' ').next());
    Ok(names.map(str::to_owned).collect())
}

/// What clients were told of their instances has come true, and what they have put into them is there.
pub async fn instances_are_as_told(rack: &Rack, known: &BTreeMap<String, Known>) -> Result<()> {
    let query = "SELECT instances.name, nodes.name FROM instances JOIN nodes ON nodes.id = node_id";
    let rows = sql(&mut Client::new(&rack.roots, 1), query).await?;
    let rows: BTreeMap<String, String> = rows.iter().map(|row| (text(&row[0]), text(&row[1]))).collect();
    for (name, known) in known {
        match (known, rows.get(name)) {
            (Known::Absent, Some(at)) => return Err(format!("{name} was deleted and is on {at}").into()),
            (Known::Present(_), None) => return Err(format!("{name} was made and is not there").into()),
            (Known::Present(Some(mark)), Some(at)) => {
                let number: usize = at.trim_start_matches("server").parse()?;
                let dir = rack.roots.incus_dir(number).join("storage-pools/local/containers").join(name);
                let found = std::fs::read_to_string(dir.join("rootfs/mark"));
                if found.as_ref().ok() != Some(mark) {
                    return Err(format!("{name} on {at} has lost what was put into it: {found:?}, not {mark:?}").into());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// What clients were told of rows could have been told by a server that never fails.
pub fn answers_are_possible(diary: &Diary) -> Result<()> {
    register::check(&lock(&diary.registers)).map_err(|e| format!("registers: {e}"))?;
    list::check(&lock(&diary.lists)).map_err(|e| format!("lists: {e}"))?;
    lock(&diary.rows).check().map_err(|e| format!("rows: {e}"))?;
    Ok(())
}
