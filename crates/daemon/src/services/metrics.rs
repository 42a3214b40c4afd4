//! `/1.0/metrics`: what the instances of this member use, and how this member and the cluster are, for Prometheus.

use api::instance::InstanceState;
use api::{Error, Result};
use db::members::{Member, State};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response};
use incus_core::metrics::{Kind, Metric, render};

use crate::edge::auth::Trust;
use crate::edge::reply::full;
use crate::edge::{Body, Cx, Incoming, Router};
use crate::instances::{Loaded, of_this_member};
use crate::state::Daemon;

pub fn routes(r: &mut Router) {
    r.raw(&api::server::METRICS, metrics);
}

async fn metrics(cx: Cx, _: Request<Incoming>) -> Result<Response<Body>> {
    let shown = |l: &Loaded| {
        let wanted = cx.param("project").is_empty() || l.row.project == cx.project();
        wanted && !matches!(&cx.caller.trust, Trust::Restricted(projects) if !projects.contains(&l.row.project))
    };
    let mut runs = super::instances::own_runs(&cx.daemon, true).await;
    let all: Vec<Loaded> = of_this_member(&cx.daemon).await?.into_iter().filter(shown).collect();
    let running = all.iter().filter_map(|l| Some((l, runs.remove(&l.row.id)?.state?))).collect::<Vec<_>>();
    let mut metrics = of_instances(&running);
    if !matches!(cx.caller.trust, Trust::Restricted(_)) {
        metrics.extend(of_server(&cx.daemon).await?);
    }
    Response::builder()
        .header(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
        .body(full(render(&metrics)))
        .map_err(|e| Error::internal(e.to_string()))
}

type Values = Vec<(Vec<(&'static str, String)>, f64)>;

fn gauge(name: &'static str, help: &'static str, samples: Values) -> Metric {
    Metric { name, help, kind: Kind::Gauge, samples }
}

fn counter(name: &'static str, help: &'static str, samples: Values) -> Metric {
    Metric { name, help, kind: Kind::Counter, samples }
}

fn one(value: f64) -> Values {
    vec![(Vec::new(), value)]
}

fn of_instances(running: &[(&Loaded, InstanceState)]) -> Vec<Metric> {
    let labels = |l: &Loaded| {
        vec![("name", l.row.name.clone()), ("project", l.row.project.clone()), ("type", l.row.kind.as_str().to_owned())]
    };
    let each = |value: &dyn Fn(&InstanceState) -> f64| -> Values {
        running.iter().map(|(l, state)| (labels(l), value(state))).collect()
    };
    let cards = |value: &dyn Fn(&api::instance::NetworkCounters) -> u64| -> Values {
        let of_one = |(l, state): &(&Loaded, InstanceState)| -> Values {
            let cards = state.network.iter().flatten();
            let labels = |name: &String| [vec![("device", name.clone())], labels(l)].concat();
            cards.map(|(name, card)| (labels(name), value(&card.counters) as f64)).collect()
        };
        running.iter().flat_map(of_one).collect()
    };
    vec![
        counter("incus_cpu_seconds_total", "Processor time used.", each(&|s| s.cpu.usage as f64 / 1e9)),
        gauge("incus_memory_MemTotal_bytes", "Memory that it may use.", each(&|s| s.memory.total as f64)),
        gauge(
            "incus_memory_MemAvailable_bytes",
            "Memory that it has left.",
            each(&|s| (s.memory.total - s.memory.usage).max(0) as f64),
        ),
        gauge("incus_memory_Swap_bytes", "Swap used.", each(&|s| s.memory.swap_usage as f64)),
        gauge("incus_procs_total", "Processes that run.", each(&|s| s.processes as f64)),
        counter("incus_network_receive_bytes_total", "Bytes received.", cards(&|c| c.bytes_received)),
        counter("incus_network_transmit_bytes_total", "Bytes sent.", cards(&|c| c.bytes_sent)),
        counter("incus_network_receive_packets_total", "Packets received.", cards(&|c| c.packets_received)),
        counter("incus_network_transmit_packets_total", "Packets sent.", cards(&|c| c.packets_sent)),
    ]
}

async fn of_server(daemon: &Daemon) -> Result<Vec<Metric>> {
    let warnings = daemon.db().peek(|tx| db::warnings::list(tx, None)).await?;
    let open = warnings.iter().filter(|w| w.status != db::warnings::Status::Resolved).count();
    let (snapshot, status) = (daemon.snapshot(), daemon.db().status());
    let joined: Vec<&Member> = snapshot.members.iter().filter(|m| m.state != State::Pending).collect();
    let online = |m: &Member| f64::from(u8::from(daemon.must_be_online(m, &snapshot).is_ok()));
    let members = joined.iter().map(|m| (vec![("member", m.name.clone())], online(m))).collect();
    let votes = joined.iter().filter(|m| m.raft_id.is_some_and(|id| status.voters.contains(&id)));
    let voters_online: f64 = votes.map(|m| online(m)).sum();
    let flag = |yes: bool| one(f64::from(u8::from(yes)));
    Ok(vec![
        gauge("incus_operations_total", "Operations that are known.", one(daemon.operations.list().len() as f64)),
        gauge("incus_warnings_total", "Warnings that are not resolved.", one(open as f64)),
        gauge("incus_uptime_seconds", "Since the daemon was started.", one(daemon.started.elapsed().as_secs_f64())),
        gauge("incus_cluster_member_online", "Whether a member is heard of.", members),
        gauge("incus_cluster_database_voters", "Members that vote in the database.", one(status.voters.len() as f64)),
        gauge("incus_cluster_database_voters_online", "Those of them that are heard of.", one(voters_online)),
        gauge("incus_cluster_database_quorum", "Whether the database can be changed.", flag(status.quorum)),
        gauge("incus_cluster_database_leads", "Whether this member leads it.", flag(status.leads())),
        counter("incus_cluster_database_applied_index", "Entries applied here.", one(status.applied as f64)),
        gauge(
            "incus_cluster_database_slow_writes",
            "Writes of the log within a minute that took longer than a second.",
            one(daemon.db().slow_writes() as f64),
        ),
    ])
}
