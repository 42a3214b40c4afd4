//! How it grows: with the number of instances, which are rows of the database without containers, and of members.
//! Each begins with a new cluster.

use std::fs;

use super::rows::{Better, Point};
use super::side::{SIZE, Side};
use super::steady::{load, number};
use super::{Bench, Measure};
use crate::sh::Result;

/// Instances in the cluster.
const INSTANCES: &[usize] = &[10, 100, 1_000, 10_000];
/// Members of the cluster.
const MEMBERS: &[usize] = &[3, 10, 30];
/// Rows that are made in one transaction.
const AT_ONCE: usize = 250;

/// Where the machine's table of neighbours has its limit, which holds for all network namespaces together.
const NEIGHBOURS: &str = "/proc/sys/net/ipv4/neigh/default/gc_thresh3";
/// Enough for two clusters whose members all know each other.
const ENOUGH: u32 = 8192;

/// The limit of the table of neighbours is higher while this is there.
struct Neighbours(String);

impl Neighbours {
    fn make_room() -> Result<Neighbours> {
        let before = fs::read_to_string(NEIGHBOURS).map_err(|e| format!("{NEIGHBOURS}: {e}"))?;
        if before.trim().parse::<u32>().is_ok_and(|limit| limit < ENOUGH) {
            fs::write(NEIGHBOURS, ENOUGH.to_string()).map_err(|e| format!("{NEIGHBOURS}: {e}"))?;
        }
        Ok(Neighbours(before))
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        if let Err(e) = fs::write(NEIGHBOURS, &self.0) {
            eprintln!("    {NEIGHBOURS} could not be set back to {}: {e}", self.0.trim());
        }
    }
}

/// With the number of instances.
pub fn of_instances(bench: &mut Bench) -> Result<()> {
    let counts = if bench.quick { &INSTANCES[..3] } else { INSTANCES };
    for side in &mut bench.sides {
        form(side, SIZE)?;
    }
    let mut there = 0;
    for &count in counts {
        for side in &bench.sides {
            insert(side, there, count)?;
        }
        there = count;
        with_instances(bench, count);
    }
    Ok(())
}

/// With the number of members.
pub fn of_members(bench: &mut Bench) -> Result<()> {
    let counts = if bench.quick { &MEMBERS[..2] } else { MEMBERS };
    let _room = if bench.quick { None } else { Some(Neighbours::make_room()?) };
    for &count in counts {
        for side in &mut bench.sides {
            form(side, count)?;
        }
        with_members(bench, count);
    }
    Ok(())
}

/// A new cluster of that many members, with a client that it trusts.
fn form(side: &mut Side, size: usize) -> Result<()> {
    side.renew(size)?;
    side.start(1)?;
    side.cluster.incus_in(1, &["admin", "init", "--preseed"], &side.cluster.bootstrap_preseed())?.ok()?;
    for number in 2..=size {
        side.start(number)?;
        let token = side.cluster.token(&format!("server{number}"))?;
        side.cluster.join_with(number, &token)?.ok()?;
    }
    side.whole(1)?;
    side.trust_client()
}

/// Makes instances until there are `to` of them, spread over the members: both sides have the same tables.
fn insert(side: &Side, from: usize, to: usize) -> Result<()> {
    for first in (from..to).step_by(AT_ONCE) {
        let last = (first + AT_ONCE).min(to) - 1;
        let numbers =
            format!("WITH RECURSIVE n(i) AS (VALUES({first}) UNION ALL SELECT i + 1 FROM n WHERE i < {last})");
        let new = format!("name BETWEEN printf('grown-%05d', {first}) AND printf('grown-%05d', {last})");
        let query = format!(
            "{numbers} INSERT INTO instances
                (node_id, name, architecture, type, ephemeral, creation_date, stateful, last_use_date, description,
                project_id)
                SELECT (SELECT id FROM nodes m WHERE (SELECT COUNT(*) FROM nodes WHERE id < m.id) = i % {SIZE}),
                printf('grown-%05d', i), 2, 0, 0,
                '2026-01-01T00:00:00Z', 0, '2026-01-01T00:00:00Z', '', (SELECT id FROM projects WHERE name = 'default')
                FROM n;
            INSERT INTO instances_config (instance_id, key, value)
                SELECT id, k.column1, k.column2 FROM instances, (VALUES ('limits.memory', '512MiB'),
                ('image.os', 'Debian'), ('image.release', 'bookworm'), ('volatile.last_state.power', 'STOPPED'),
                ('volatile.idmap.base', '0'), ('user.owner', 'somebody')) AS k WHERE {new};
            INSERT INTO instances_profiles (instance_id, profile_id, apply_order)
                SELECT id, (SELECT id FROM profiles WHERE name = 'default'), 1 FROM instances WHERE {new}"
        );
        side.client(1, &["admin", "sql", "global", &query])?;
    }
    Ok(())
}

fn with_instances(bench: &mut Bench, count: usize) {
    let get = |path: &'static str| {
        move |side: &mut Side| {
            // What takes seconds is asked at least once.
            let seen = load(side, 0, &["--milliseconds", "700", "--get", path])?;
            number(&seen, "p50")
        }
    };
    let of = "instances";
    grown(bench, ("GET instances, names", "ms"), (of, count), get("/1.0/instances"));
    grown(bench, ("GET instances?recursion=1", "ms"), (of, count), get("/1.0/instances?recursion=1"));
    grown(bench, ("GET of one instance", "ms"), (of, count), get("/1.0/instances/grown-00000"));
    grown(bench, ("`incus list -c n`, whole process", "ms"), (of, count), |side| side.client(1, &["list", "-c", "n"]));
    both(bench, of, count);
}

fn with_members(bench: &mut Bench, count: usize) {
    let of = "members";
    grown(bench, ("GET members?recursion=1 of the leader", "ms"), (of, count), |side| {
        let seen = load(side, 0, &["--milliseconds", "700", "--get", "/1.0/cluster/members?recursion=1"])?;
        number(&seen, "p50")
    });
    grown(bench, ("`incus cluster list`, whole process", "ms"), (of, count), |side| {
        side.client(1, &["cluster", "list"])
    });
    grown(bench, ("CPU, idle leader", "%"), (of, count), |side| {
        let (leader, began) = (side.leader(1)?, std::time::Instant::now());
        let before = side.cpu(leader)?;
        std::thread::sleep(std::time::Duration::from_secs(5));
        Ok((side.cpu(leader)? - before) / super::side::since(began) * 100.0)
    });
    both(bench, of, count);
}

/// What is measured with the number of instances and with that of members.
fn both(bench: &mut Bench, of: &'static str, count: usize) {
    grown(bench, ("profile create + delete", "ms"), (of, count), |side| {
        let seen = load(side, 0, &["--milliseconds", "1000"])?;
        number(&seen, "p50")
    });
    grown(bench, ("memory of the leader, RSS", "MB"), (of, count), |side| {
        let leader = side.leader(1)?;
        side.memory(leader, "Rss")
    });
}

/// A point of a curve: less is better in all of them.
fn grown(
    bench: &mut Bench,
    (curve, unit): (&str, &'static str),
    (of, count): (&'static str, usize),
    take: impl FnMut(&mut Side) -> Result<f64>,
) {
    let rounds = bench.rounds(3);
    let name = format!("{curve}, {count} {of}");
    let row: Measure<'_> = (&name, unit, Better::Less);
    bench.measure(row, rounds, take);
    if let Some(row) = bench.rows.last_mut() {
        row.point = Some(Point { curve: curve.to_owned(), of, count });
    }
}
