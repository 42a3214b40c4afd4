//! Every endpoint that `api` declares, asked for by every kind of caller: about what exists and about what does not.

use std::collections::BTreeSet;

use lab::Result;

use crate::table::TABLE;
use crate::{REFUSED, RESTRICTED, Request, Who, World, no_project, refusal};

/// What a caller is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Stranger,
    Metrics,
    /// Restricted to a project, and asks in another.
    Elsewhere,
    /// Restricted to a project, and asks in it.
    Own,
    /// The same, and asks for all projects.
    All,
    Full,
    Member,
}

struct Row {
    method: &'static str,
    template: &'static str,
    who: &'static str,
    /// What stands in the path, and the status for those who may.
    asked: Vec<(&'static str, Option<u16>)>,
}

fn rows() -> Vec<Row> {
    let row = |line: &'static str| {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap();
        let (method, template, who) = (word(), word(), word());
        let pair = |word: &'static str| {
            let (args, code) = word.split_once('=').unwrap();
            (args, if code == "!" { None } else { Some(code.parse().unwrap()) })
        };
        Row { method, template, who, asked: words.map(pair).collect() }
    };
    TABLE.lines().filter(|l| !l.is_empty()).map(row).collect()
}

fn callers(world: &World) -> Result<Vec<(&'static str, Kind, Who, &'static str)>> {
    let own = world.restricted("own")?;
    Ok(vec![
        ("no certificate", Kind::Stranger, Who::nobody(), "project=own"),
        ("a certificate that nobody trusts", Kind::Stranger, world.identity("unknown", None)?.0, "project=own"),
        ("the cluster's own certificate", Kind::Stranger, world.of_machine(1, "cluster"), "project=own"),
        ("a member that was removed", Kind::Stranger, world.removed.clone(), "project=own"),
        (
            "a certificate for metrics",
            Kind::Metrics,
            world.identity("metrics", Some(&["--type", "metrics"]))?.0,
            "project=own",
        ),
        ("a restricted client in another project", Kind::Elsewhere, own.clone(), "project=default"),
        ("a restricted client in its own project", Kind::Own, own.clone(), "project=own"),
        ("a restricted client in all projects", Kind::All, own, "project=own&all-projects=true"),
        ("a client", Kind::Full, world.identity("full", Some(&[]))?.0, "project=default"),
        ("another member", Kind::Member, world.of_machine(2, "server"), "project=default"),
        ("a local user", Kind::Member, world.local(), "project=own"),
    ])
}

/// What a caller is told who may not.
fn refused(kind: Kind, who: &str) -> Option<String> {
    match (kind, who) {
        (Kind::Member, _) => None,
        (Kind::All, _) => Some(refusal(RESTRICTED)),
        (_, "anyone" | "secret") | (Kind::Metrics, "metrics") => None,
        (Kind::Stranger | Kind::Metrics, _) | (Kind::Full, "member") => Some(refusal(REFUSED)),
        (Kind::Elsewhere | Kind::Own, "admin" | "member") => Some(refusal(RESTRICTED)),
        (Kind::Elsewhere, "project") => Some(no_project("default")),
        (Kind::Elsewhere | Kind::Own | Kind::Full, _) => None,
    }
}

/// Whether a caller who is not refused may still not learn whether the thing exists.
fn blind(kind: Kind, who: &str) -> bool {
    match who {
        "anyone" => matches!(kind, Kind::Stranger | Kind::Metrics | Kind::Elsewhere),
        "seen" => matches!(kind, Kind::Elsewhere | Kind::Own),
        "secret" => !matches!(kind, Kind::Full | Kind::Member),
        _ => false,
    }
}

pub fn every_endpoint_is_open_to_those_that_it_is_for(world: &World) -> Result<()> {
    let rows = rows();
    let mut wrong = Vec::new();
    let declared: BTreeSet<_> = api::endpoints().map(|e| (e.method.as_str(), e.path)).collect();
    let listed: BTreeSet<_> = rows.iter().map(|r| (r.method, r.template)).collect();
    wrong.extend(
        declared.difference(&listed).map(|(m, p)| format!("{m} {p} has no row in table.rs: say who it is for")),
    );
    wrong
        .extend(listed.difference(&declared).map(|(m, p)| format!("{m} {p} has a row in table.rs and does not exist")));

    let callers = callers(world)?;
    let client = world.cluster.incus(1, &["config", "trust", "list", "-f", "csv", "-c", "nF"])?;
    let client =
        client.lines().find_map(|l| l.strip_prefix("full.crt,").or(l.strip_prefix("full,"))).ok_or("no client")?;
    let token = world.operation(2, "POST", "/1.0/cluster/members", r#"{"server_name":"matrix"}"#)?;
    let none = format!("{}{}", if token.starts_with('0') { '1' } else { '0' }, &token[1..]);
    let image = world.fingerprint_of_image()?;
    let meant = |arg: &str| match arg {
        "$client" => client.to_owned(),
        "$token" => token.clone(),
        "$none" => none.clone(),
        "$image" => image.clone(),
        plain => plain.to_owned(),
    };
    let mut tried = 0;
    for (name, kind, who, query) in &callers {
        // Which rows, and which of the two requests of a row.
        let mut sent = Vec::new();
        let mut requests = Vec::new();
        for row in &rows {
            for (args, code) in &row.asked {
                if code.is_none() && refused(*kind, row.who).is_none() && !blind(*kind, row.who) {
                    continue;
                }
                let args: Vec<String> = args.split(',').map(meant).collect();
                let path = api::endpoint::fill(row.template, &args.iter().map(String::as_str).collect::<Vec<_>>());
                let body = if matches!(row.method, "GET" | "HEAD" | "DELETE") { "" } else { "{nope" }.to_owned();
                sent.push((row, *code));
                requests.push(Request { method: row.method, path: format!("{path}?{query}"), body, headers: vec![] });
            }
        }
        let mut answers = world.ask_all(who, &requests)?.into_iter().peekable();
        let mut before: Option<(&Row, (u16, String))> = None;
        for ((row, code), request) in sent.iter().zip(&requests) {
            let answer = answers.next().unwrap();
            let what = format!("{} {} for {name}: {} {}", row.method, request.path, answer.0, answer.1);
            tried += 1;
            if let Some(want) = refused(*kind, row.who) {
                let body = if row.method == "HEAD" { String::new() } else { want };
                if answer != (403, body) {
                    wrong.push(format!("{what}\n    is not refused"));
                }
            } else if blind(*kind, row.who) && row.asked.len() == 2 {
                match &before {
                    Some((other, there)) if std::ptr::eq(*other, *row) && *there != answer => {
                        wrong.push(format!("{what}\n    differs from {} {}", there.0, there.1));
                    }
                    _ => {}
                }
                if answer.0 < 400 {
                    wrong.push(format!("{what}\n    is told"));
                }
            } else if code.is_some_and(|code| code != answer.0) {
                wrong.push(format!("{what}\n    is not {}", code.unwrap_or(0)));
            }
            before = Some((row, answer));
        }
    }
    println!("{tried} requests");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    world.cluster.incus(1, &["cluster", "revoke-token", "matrix"]).map(drop)
}
