//! Which member takes an instance: the emptiest, what groups and projects allow, and the placement scriptlet.
#![allow(clippy::unwrap_used)]

use lab::{Cluster, Result};

#[test]
fn instances_go_where_groups_projects_and_the_scriptlet_say() -> Result<()> {
    if lab::skip(&["/bin/busybox"]) {
        return Ok(());
    }
    let cluster = Cluster::temporary("placement", 3)?;
    cluster.import_busybox("bb")?;
    without_a_scriptlet(&cluster)?;
    what_is_no_scriptlet(&cluster)?;
    new_ones(&cluster)?;
    what_it_can_ask(&cluster)?;
    moves(&cluster)?;
    evacuations(&cluster)?;
    projects(&cluster)
}

fn at(cluster: &Cluster, project: &str, name: &str) -> Result<String> {
    let list = cluster.incus(2, &["list", "--project", project, "-f", "csv", "-c", "nL"])?;
    let of = list.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(','));
    of.map(str::to_owned).ok_or_else(|| format!("no {name} in {list}").into())
}

/// Makes an instance and tells where it went.
fn init(cluster: &Cluster, name: &str, more: &[&str]) -> Result<String> {
    cluster.incus(1, &[&["init", "bb", name], more].concat())?;
    at(cluster, "default", name)
}

fn gone(cluster: &Cluster, names: &[&str]) -> Result<()> {
    cluster.incus(1, &[&["delete", "--force"], names].concat()).map(drop)
}

fn set(cluster: &Cluster, scriptlet: &str) -> Result<()> {
    let from_stdin = ["config", "set", "instances.placement.scriptlet=-"];
    cluster.incus_in(2, &from_stdin, scriptlet)?.ok().map(drop)
}

fn function(body: &str) -> String {
    let lines: String = body.lines().map(|l| format!("    {l}\n")).collect();
    format!("def instance_placement(request, candidate_members):\n{lines}")
}

fn without_a_scriptlet(cluster: &Cluster) -> Result<()> {
    let mut spread = Vec::new();
    for name in ["a1", "a2", "a3"] {
        spread.push(init(cluster, name, &[])?);
    }
    spread.sort();
    assert_eq!(spread, ["server1", "server2", "server3"], "each goes to an empty member");
    gone(cluster, &["a1", "a2", "a3"])?;
    cluster.incus(1, &["cluster", "group", "create", "fast"])?;
    cluster.incus(1, &["cluster", "group", "add", "server2", "fast"])?;
    cluster.incus(1, &["cluster", "set", "server2", "scheduler.instance=group"])?;
    assert_ne!(init(cluster, "a1", &[])?, "server2");
    assert_ne!(init(cluster, "a2", &[])?, "server2");
    assert_eq!(init(cluster, "a3", &["--target", "@fast"])?, "server2");
    assert_eq!(cluster.incus(1, &["config", "get", "a3", "volatile.cluster.group"])?.trim(), "fast");
    assert!(cluster.refused(1, &["init", "bb", "a4", "--target", "@none"])?.contains("none"));
    cluster.incus(1, &["cluster", "set", "server2", "scheduler.instance=all"])?;
    gone(cluster, &["a1", "a2", "a3"])
}

fn what_is_no_scriptlet(cluster: &Cluster) -> Result<()> {
    for (text, words) in [
        ("def other():\n    pass\n", "The function instance_placement(request, candidate_members) is missing"),
        ("def instance_placement(request, candidate_members)\n", "Parse error"),
    ] {
        let said = cluster.incus_in(1, &["config", "set", "instances.placement.scriptlet=-"], text)?.refused()?;
        assert!(said.contains("cannot set 'instances.placement.scriptlet' to") && said.contains(words), "{said}");
        assert_eq!(cluster.incus(1, &["config", "get", "instances.placement.scriptlet"])?.trim(), "");
    }
    Ok(())
}

fn new_ones(cluster: &Cluster) -> Result<()> {
    set(cluster, &function("log_info(\"placing \", request)\nset_target(\"server3\")"))?;
    for name in ["b1", "b2", "b3"] {
        assert_eq!(init(cluster, name, &[])?, "server3");
    }
    // Somebody names a member: the scriptlet may only agree.
    let said = cluster.refused(1, &["init", "bb", "b4", "--target", "server1"])?;
    assert!(said.contains("\"server3\" is none of the members that can take the instance"), "{said}");
    gone(cluster, &["b1", "b2", "b3"])?;

    set(cluster, &function("if request.config.get(\"user.tier\") == \"gold\":\n    set_target(\"server2\")"))?;
    assert_eq!(init(cluster, "b1", &["-c", "user.tier=gold"])?, "server2");
    cluster.incus(1, &["profile", "create", "gold"])?;
    cluster.incus(1, &["profile", "set", "gold", "user.tier=gold"])?;
    assert_eq!(init(cluster, "b2", &["-p", "default", "-p", "gold"])?, "server2", "what profiles add is known");
    assert_ne!(init(cluster, "b3", &[])?, "server2", "it has left it open: the emptiest");
    gone(cluster, &["b1", "b2", "b3"])?;

    for (body, words) in [
        ("fail(\"Not on a Sunday\")", "The placement scriptlet refuses the instance: Not on a Sunday"),
        ("return \"Placement rejected\"", "The placement scriptlet refuses the instance: Placement rejected"),
        ("\nrequest.nothing", "The placement scriptlet (instances.placement.scriptlet) failed: line 3: "),
        ("set_target(\"server9\")", "\"server9\" is none of the members"),
        ("x = [0]\nfor i in range(1000000000):\n    x[0] = i", "did not come to an end within 5 seconds"),
    ] {
        set(cluster, &function(body))?;
        let said = cluster.refused(1, &["init", "bb", "b1"])?;
        assert!(said.contains(words), "{body}: {said}");
        assert!(at(cluster, "default", "b1").is_err());
    }
    Ok(())
}

/// All functions, about a real cluster; what is not as it should be is a refusal.
fn what_it_can_ask(cluster: &Cluster) -> Result<()> {
    let here = init_plain(cluster, "known", "server2")?;
    assert_eq!(here, "server2");
    set(
        cluster,
        &function(
            "for m in [\"server1\", \"server2\", \"server3\"]:\n\
             \x20   r = get_cluster_member_resources(m)\n\
             \x20   if r.cpu.total < 1 or r.memory.total <= r.memory.used: fail(\"resources \", r)\n\
             \x20   s = get_cluster_member_state(m)\n\
             \x20   if s.sysinfo.total_ram < 1 or s.storage_pools[\"local\"].space.total < 1: fail(\"state \", s)\n\
             needs = get_instance_resources()\n\
             if needs.cpu_cores != 2 or needs.memory_size != 67108864: fail(\"needs \", needs)\n\
             found = get_instances(location = \"server2\", project = \"default\")\n\
             if [i.name for i in found] != [\"known\"]: fail(\"instances \", found)\n\
             if found[0].expanded_devices[\"root\"][\"pool\"] != \"local\": fail(\"devices \", found)\n\
             if len(get_instances(project = \"default\")) != 1 or get_instances_count(\"server1\") != 0: fail(\"count\")\n\
             if get_instances_count(location = \"server2\", pending = True) != 1: fail(\"pending\")\n\
             if [m.server_name for m in get_cluster_members(\"fast\")] != [\"server2\"]: fail(\"group\")\n\
             if len(get_cluster_members()) != 3 or len(candidate_members) != 3: fail(\"members\")\n\
             if candidate_members[-1].server_name != \"server2\": fail(\"order \", candidate_members)\n\
             if get_project(request.project).name != \"default\": fail(\"project\")\n\
             if request.reason != \"new\" or request.name != \"asks\" or request.type != \"container\": fail(request)\n\
             set_target(get_cluster_members(group = \"fast\")[0].server_name)",
        ),
    )?;
    let limits = ["-c", "limits.cpu=2", "-c", "limits.memory=64MiB"];
    assert_eq!(init(cluster, "asks", &limits)?, "server2");
    cluster.incus(1, &["config", "unset", "instances.placement.scriptlet"])?;
    gone(cluster, &["known", "asks"])
}

fn init_plain(cluster: &Cluster, name: &str, target: &str) -> Result<String> {
    cluster.incus(1, &["config", "unset", "instances.placement.scriptlet"])?;
    init(cluster, name, &["--target", target])
}

fn moves(cluster: &Cluster) -> Result<()> {
    init_plain(cluster, "c1", "server1")?;
    cluster.incus(1, &["cluster", "group", "add", "server3", "fast"])?;
    set(cluster, &function("if request.reason == \"relocation\":\n    set_target(\"server3\")"))?;
    cluster.incus(1, &["move", "c1", "--target", "@fast"])?;
    assert_eq!(at(cluster, "default", "c1")?, "server3");
    set(cluster, &function("fail(\"It stays\")"))?;
    let said = cluster.refused(1, &["move", "c1", "--target", "@fast"])?;
    assert!(said.contains("The placement scriptlet refuses the instance: It stays"), "{said}");
    assert_eq!(at(cluster, "default", "c1")?, "server3");
    cluster.incus(1, &["config", "unset", "instances.placement.scriptlet"])?;
    gone(cluster, &["c1"])
}

/// What it says of each instance is followed; one that it refuses is stopped in place, and a scriptlet that does not work
/// does not keep anybody from emptying a member.
fn evacuations(cluster: &Cluster) -> Result<()> {
    for name in ["d1", "d2"] {
        init_plain(cluster, name, "server1")?;
        cluster.incus(1, &["start", name])?;
    }
    let evacuate = ["cluster", "evacuate", "server1", "--force", "--action", "migrate"];
    let dry = ["cluster", "evacuate", "server1", "--dry-run", "--format", "csv"];
    let restore = ["cluster", "restore", "server1", "--force"];
    for (body, first, second, reason) in [
        (
            "set_target(\"server3\") if request.reason == \"evacuation\" else fail()",
            "server3",
            "server3",
            "has chosen server3",
        ),
        (
            "if request.name == \"d2\":\n    fail(\"It stays\")\nset_target(\"server2\")",
            "server2",
            "server1",
            "refuses it: It stays",
        ),
        // The emptiest, counted on as the plan is made.
        (
            "fail(nothing[0]) if False else request.nothing",
            "server2",
            "server3",
            "the placement scriptlet doesn't work: line 2: ",
        ),
    ] {
        if body.contains("nothing[0]") {
            set(cluster, &function("request.nothing"))?;
        } else {
            set(cluster, &function(body))?;
        }
        let said = cluster.incus(2, &dry)?;
        assert!(said.contains(reason), "{said}");
        cluster.incus(2, &evacuate)?;
        assert_eq!((at(cluster, "default", "d1")?.as_str(), at(cluster, "default", "d2")?.as_str()), (first, second));
        cluster.incus(2, &restore)?;
        assert_eq!(
            (at(cluster, "default", "d1")?.as_str(), at(cluster, "default", "d2")?.as_str()),
            ("server1", "server1")
        );
    }
    cluster.incus(1, &["config", "unset", "instances.placement.scriptlet"])?;
    gone(cluster, &["d1", "d2"])
}

/// A project that may use some groups only, by nobody and by nothing elsewhere: not by an evacuation either.
fn projects(cluster: &Cluster) -> Result<()> {
    cluster.incus(1, &["cluster", "group", "create", "own"])?;
    cluster.incus(1, &["cluster", "group", "add", "server1", "own"])?;
    cluster.incus(1, &["cluster", "group", "add", "server3", "own"])?;
    let project = ["-c", "features.images=false", "-c", "features.profiles=false", "-c", "restricted=true"];
    cluster.incus(1, &[&["project", "create", "p"], &project[..]].concat())?;
    cluster.incus(1, &["project", "set", "p", "restricted.cluster.groups=own"])?;
    let init = |name: &str, more: &[&str]| -> Result<String> {
        cluster.incus(1, &[&["init", "bb", name, "--project", "p"], more].concat())?;
        at(cluster, "p", name)
    };
    let refused = |target: &str| cluster.refused(1, &["init", "bb", "e9", "--project", "p", "--target", target]);
    assert!(refused("server1")?.contains("This project doesn't allow cluster member targeting"));
    cluster.incus(1, &["project", "set", "p", "restricted.cluster.target=allow"])?;
    assert!(refused("server2")?.contains("isn't allowed to use the cluster member \"server2\""));
    assert!(refused("@fast")?.contains("This project isn't allowed to use this cluster group"));
    for name in ["e1", "e2", "e3", "e4"] {
        assert_ne!(init(name, &[])?, "server2");
    }
    // The scriptlet is offered the members of the project alone.
    set(cluster, &function("set_target(\"server2\")"))?;
    let said = cluster.refused(1, &["init", "bb", "e5", "--project", "p"])?;
    assert!(said.contains("\"server2\" is none of the members"), "{said}");
    cluster.incus(1, &["config", "unset", "instances.placement.scriptlet"])?;
    cluster.incus(2, &["cluster", "evacuate", "server1", "--force"])?;
    for name in ["e1", "e2", "e3", "e4"] {
        assert_eq!(at(cluster, "p", name)?, "server3", "server2 is emptier, but not for this project");
    }
    cluster.incus(2, &["cluster", "restore", "server1", "--force"]).map(drop)
}
