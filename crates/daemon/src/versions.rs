//! Members with programs of several versions: what this one serves, what it waits for, and how it is updated.
//!
//! [`incus_core::version`] has the rules, [`cluster::Health`] tells the others and brings the schema to a newer version,
//! and `docs/upgrading.md` tells people.

use std::process::Stdio;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use api::extension::{ALL, RELEASES, Release, switched_off};
use api::internal::SHUTDOWN;
use api::{Error, Info, Result};
use db::members::Member;
use incus_core::version::{Fit, Program, Standing};
use jiff::Timestamp;

use crate::edge::auth::Caller;
use crate::state::{Daemon, Snapshot};

/// How often it is looked whether a member that could not serve can now.
const ROUND: Duration = Duration::from_millis(100);

/// How often it is looked whether the others are newer.
const LOOK: Duration = Duration::from_secs(5);

/// Members that find themselves behind at the same time do not update themselves at the same time.
const APART: u64 = 30;

/// What this program has more than the release before it, the newest last.
/// `INCUS_ARTIFICIALLY_BUMP_API_EXTENSIONS` adds as many extensions that do not exist, for tests of upgrades.
static ADDED: LazyLock<Vec<Release>> = LazyLock::new(|| {
    let of = |(schema, added): &(i64, &[&str])| Release {
        schema: *schema,
        added: added.iter().map(|e| (*e).to_owned()).collect(),
    };
    let bump = std::env::var("INCUS_ARTIFICIALLY_BUMP_API_EXTENSIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let artificial = Release { schema: 0, added: (0..bump).map(|n: usize| format!("artificial_{n}")).collect() };
    RELEASES.iter().chain(NEXT).map(of).chain([artificial]).collect()
});

/// What a later version could add, for tests of upgrades.
#[cfg(feature = "next")]
const NEXT: &[(i64, &[&str])] = &[(db::next::SCHEMA, &["next_motto"])];
#[cfg(not(feature = "next"))]
const NEXT: &[(i64, &[&str])] = &[];

/// All API extensions that this program has, whether they are switched on or not.
static OWN: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let not_released = ADDED.iter().skip(RELEASES.len()).flat_map(|r| &r.added).map(String::as_str);
    ALL.iter().copied().chain(not_released).collect()
});

/// What this program can serve.
pub fn program() -> Program {
    Program { oldest: oldest(), latest: db::schema::LATEST, extensions: i64::try_from(OWN.len()).unwrap_or(i64::MAX) }
}

#[cfg(not(feature = "next"))]
const fn oldest() -> i64 {
    db::schema::OLDEST
}

/// As if it had given up older versions, for tests of versions that are too far apart.
#[cfg(feature = "next")]
fn oldest() -> i64 {
    std::env::var("INCUS_TEST_OLDEST_SCHEMA").ok().and_then(|n| n.parse().ok()).unwrap_or(db::schema::OLDEST)
}

/// The API extensions that are switched on: what all members have.
pub fn extensions(daemon: &Daemon) -> Vec<String> {
    let off = extensions_off(daemon);
    OWN.iter().filter(|e| !off.contains(e)).map(|e| (*e).to_owned()).collect()
}

fn extensions_off(daemon: &Daemon) -> Vec<&'static str> {
    let snapshot = daemon.snapshot();
    let counted = daemon.health().counted(&snapshot.members, &snapshot.config, Timestamp::now());
    let version = daemon.db().schema_version();
    // Who can't serve does not hold the others up.
    let common = counted.iter().filter(|p| p.fit(version) != Fit::TooOld).map(|p| p.extensions).min();
    let common = common.map_or(OWN.len(), |n| usize::try_from(n).unwrap_or(0));
    switched_off(OWN.len(), &ADDED, common, version)
}

fn switched_on(daemon: &Daemon, since: &str) -> bool {
    // Nothing is looked up for what every release has.
    let added = || ADDED.iter().any(|r| r.added.iter().any(|e| e == since));
    !added() || !extensions_off(daemon).contains(&since)
}

/// How the programs of members compare.
pub struct Compared {
    all: Vec<Program>,
    version: i64,
}

impl Compared {
    /// The programs of these members, with each other.
    pub fn new(daemon: &Daemon, snapshot: &Snapshot) -> Compared {
        let health = daemon.health();
        let all = snapshot.members.iter().map(|m| health.program_of(m)).collect();
        Compared { all, version: daemon.db().wanted_version() }
    }

    /// How that of one of them compares.
    pub fn standing(&self, daemon: &Daemon, member: &Member) -> Standing {
        daemon.health().program_of(member).standing(self.version, &self.all)
    }
}

/// Lets a request in when this server is ready, unless the program is too old for the database, or too new for it, or
/// the request came with an extension that is not switched on. Strangers are not told of the cluster.
pub async fn admit(daemon: &Daemon, caller: &Caller, endpoint: &Info) -> Result<()> {
    let mut ready = daemon.ready.subscribe();
    loop {
        match must_fit(daemon).await {
            Err(_) if endpoint.path == SHUTDOWN.info.path => return Ok(()),
            Err(_) if !caller.trusted() => return Err(Error::unavailable("This server is being updated")),
            fits => fits?,
        }
        if tokio::time::timeout(LOOK, ready.wait_for(|ready| *ready)).await.is_ok() {
            let known = switched_on(daemon, endpoint.since);
            return if known { Ok(()) } else { Err(Error::not_found("not found")) };
        }
    }
}

/// Refuses if the program is too old for the database, or too new for it.
async fn must_fit(daemon: &Daemon) -> Result<()> {
    let (program, db) = (program(), daemon.db());
    let version = db.wanted_version();
    if program.fit(version) == Fit::Serves {
        return Ok(());
    }
    let recorded = db.peek(db::versions::list).await.unwrap_or_default();
    let waiting: Vec<String> = recorded.into_iter().filter(|r| r.schema < program.oldest).map(|r| r.name).collect();
    program.refusal(version, &waiting).map_or(Ok(()), Err)
}

/// Returns when this server can serve: at once, or when the database has gone on to a version that it knows. A program
/// that is too old never does, and is replaced while it waits.
pub async fn wait(daemon: &Arc<Daemon>) {
    let mut said = None;
    loop {
        let Err(why) = must_fit(daemon).await else { return };
        if said.as_ref() != Some(&why.message) {
            tracing::error!("{why}");
            said = Some(why.message);
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// Runs `$INCUS_CLUSTER_UPDATE`, a program that updates this server, whenever a newer version is seen on another member.
pub async fn update_when_behind(daemon: Arc<Daemon>) {
    let Some(script) = std::env::var_os("INCUS_CLUSTER_UPDATE").filter(|s| !s.is_empty()) else { return };
    let mut done = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let newest = ahead(&daemon);
        if newest.is_none() || newest == done {
            continue;
        }
        let seconds = rand::random_range(0..APART);
        tracing::warn!("other members have a newer version: {} runs in {seconds} s", script.display());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        done = newest;
        let ran = tokio::process::Command::new(&script).stdin(Stdio::null()).output().await;
        match ran {
            Ok(out) if out.status.success() => tracing::warn!("{} has run", script.display()),
            Ok(out) => {
                let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
                tracing::error!("{} failed ({}): {said}", script.display(), out.status);
            }
            Err(e) => tracing::error!("{} can't be run: {e}", script.display()),
        }
    }
}

/// The newest version that is ahead of this program's: of the schema, and the number of API extensions.
fn ahead(daemon: &Daemon) -> Option<(i64, i64)> {
    let (own, health) = (program(), daemon.health());
    let said = health.programs().into_iter().filter(|p| own.is_behind(*p)).map(|p| (p.latest, p.extensions));
    let database = daemon.db().wanted_version();
    said.chain((database > own.latest).then_some((database, 0))).max()
}
