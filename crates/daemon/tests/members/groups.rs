//! Cluster groups: the whole family of commands.

use lab::{Cluster, Result};

pub fn are_made_changed_and_removed(cluster: &Cluster) -> Result<()> {
    let group = |args: &[&str]| cluster.incus(2, &[&["cluster", "group"], args].concat());
    group(&["create", "left", "--description", "on the left"])?;
    group(&["set", "left", "user.side=left"])?;
    assert_eq!(cluster.incus(3, &["cluster", "group", "get", "left", "user.side"])?.trim(), "left");
    group(&["set", "left", "-p", "description=the left ones"])?;
    assert_eq!(group(&["get", "left", "-p", "description"])?.trim(), "the left ones");
    group(&["unset", "left", "user.side"])?;
    assert_eq!(group(&["get", "left", "user.side"])?.trim(), "");

    group(&["add", "server4", "left"])?;
    group(&["assign", "server5", "left"])?;
    let groups = |n: usize| -> Result<_> { Ok(super::members(cluster, 1)?[n - 1]["groups"].clone()) };
    assert_eq!(groups(4)?, serde_json::json!(["default", "left"]));
    assert_eq!(groups(5)?, serde_json::json!(["left"]));
    assert!(group(&["list", "-f", "csv"])?.contains("left,the left ones,2"));
    group(&["rename", "left", "west"])?;
    assert!(group(&["show", "west"])?.contains("- server5"));

    cluster.incus(1, &["project", "create", "fenced", "-c", "restricted=true"])?;
    cluster.incus(1, &["project", "set", "fenced", "restricted.cluster.groups=west"])?;
    assert!(group(&["show", "west"])?.contains("/1.0/projects/fenced"), "it is used by the project");
    cluster.incus(1, &["project", "delete", "fenced"])?;

    for (args, why) in [
        (&["create", "west"][..], "already exists"),
        (&["set", "west", "bogus=1"], "Invalid cluster group configuration key \"bogus\""),
        (&["show", "nope"], "Cluster_group not found"),
        (&["delete", "default"], "The 'default' cluster group cannot be deleted"),
        (&["rename", "default", "x"], "The 'default' cluster group cannot be renamed"),
        (&["delete", "west"], "Only empty cluster groups can be removed"),
        (&["remove", "server5", "west"], "Cluster members need to belong to at least one group"),
    ] {
        let said = cluster.refused(3, &[&["cluster", "group"], args].concat())?;
        assert!(said.contains(why), "{args:?}: {said}");
    }
    group(&["assign", "server5", "default"])?;
    group(&["remove", "server4", "west"])?;
    group(&["delete", "west"])?;
    assert!(!group(&["list", "-f", "csv"])?.contains("west"));
    member_keys(cluster)
}

/// What can be set of a member, whoever is asked.
fn member_keys(cluster: &Cluster) -> Result<()> {
    cluster.incus(3, &["cluster", "set", "server2", "scheduler.instance=manual", "user.rack=7"])?;
    assert_eq!(cluster.incus(1, &["cluster", "get", "server2", "scheduler.instance"])?.trim(), "manual");
    cluster.incus(3, &["cluster", "set", "server2", "-p", "description=a machine"])?;
    assert_eq!(cluster.incus(1, &["cluster", "get", "server2", "-p", "description"])?.trim(), "a machine");
    cluster.refused_with(
        1,
        &["cluster", "set", "server2", "scheduler.instance=foo"],
        "Invalid cluster configuration key \"scheduler.instance\" value",
    )?;
    let edited = cluster.incus(1, &["cluster", "show", "server2"])?.replace("a machine", "edited");
    cluster.incus_in(4, &["cluster", "edit", "server2"], &edited)?.ok()?;
    assert_eq!(cluster.member(1, 2, 'd')?, "edited");
    // Who changes another state than the one there is now is told.
    let stale = ["-X", "PUT", "-H", "If-Match: 0123", "-d", "{}", "http://incus/1.0/cluster/members/server2"];
    let socket = cluster.lab.machines[0].incus_dir().join("unix.socket").to_string_lossy().into_owned();
    let out = cluster.lab.machines[0].run("curl", &[&["-s", "--unix-socket", &socket], &stale[..]].concat(), "")?.out;
    assert!(out.contains("\"error_code\":412"), "{out}");
    cluster.incus(1, &["cluster", "unset", "server2", "scheduler.instance"])?;
    cluster.incus(1, &["cluster", "unset", "server2", "user.rack"])?;
    cluster.incus(1, &["cluster", "set", "server2", "-p", "description="]).map(drop)
}
