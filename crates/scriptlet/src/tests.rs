//! Scriptlets as people write them, and as they had better not.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

/// A cluster of two members.
struct Two;

impl Answers for Two {
    fn answer(&self, question: &Question) -> Result<Json, String> {
        Ok(match question {
            Question::MemberResources(name) => json!({"cpu": {"total": if name == "server2" { 8 } else { 4 }}}),
            Question::MemberState(name) if name == "gone" => return Err("Cluster member \"gone\" is offline".into()),
            Question::MemberState(_) => {
                json!({"sysinfo": {"load_averages": [0.5]}, "storage_pools": {"local": {"space": {"used": 7}}}})
            }
            Question::InstanceResources => json!({"cpu_cores": 2, "memory_size": 1 << 30, "root_disk_size": 0}),
            Question::Instances { location, project } => json!([
                {"name": format!("on-{location}-{project}"), "expanded_config": {"user.x": "1"}, "devices": {"root": {"type": "disk"}}}
            ]),
            Question::InstancesCount { pending, .. } => json!(if *pending { 5 } else { 3 }),
            Question::Members(group) => json!([{"server_name": "server1", "groups": [group], "config": {}}]),
            Question::Project(name) => json!({"name": name, "config": {"restricted": "true"}}),
        })
    }
}

fn asked(body: &str) -> Result<Option<String>, Failure> {
    let lines: String = body.lines().map(|l| format!("    {l}\n")).collect();
    let text = format!("def instance_placement(request, candidate_members):\n{lines}");
    let request = json!({
        "name": "c1", "project": "p", "reason": "new", "architecture": "x86_64", "profiles": ["default"],
        "config": {"user.place": "server2"}, "devices": {"root": {"path": "/"}}, "source": {"type": "image"},
    });
    let candidates = [json!({"server_name": "server1", "config": {}}), json!({"server_name": "server2", "config": {}})];
    check(&text).unwrap();
    place(&text, &request, &candidates, Box::new(Two), Duration::from_millis(500))
}

#[test]
fn a_scriptlet_decides_by_what_it_is_told_and_what_it_asks() {
    let target = |name: &str| Ok(Some(name.to_owned()));
    for (body, want) in [
        ("return", Ok(None)),
        ("set_target(candidate_members[1].server_name)", target("server2")),
        ("set_target(member_name = request.config[\"user.place\"])", target("server2")),
        (
            "set_target(\"server1\") if request.reason == \"new\" and request.project == \"p\" else None",
            target("server1"),
        ),
        ("log_info(\"placing \", request.name, 1)\nlog_warn()\nlog_error(candidate_members)", Ok(None)),
        (
            "if request.devices[\"root\"][\"path\"] == \"/\" and request.source.type == \"image\":\n    set_target(\"server1\")",
            target("server1"),
        ),
        (
            "best = sorted(candidate_members, key = lambda m: -get_cluster_member_resources(m.server_name).cpu.total)\n\
             set_target(best[0].server_name)",
            target("server2"),
        ),
        (
            "state = get_cluster_member_state(\"server1\")\n\
             if state.sysinfo.load_averages[0] < 1 and state.storage_pools[\"local\"].space.used == 7:\n    set_target(\"server1\")",
            target("server1"),
        ),
        ("if get_instance_resources().memory_size == 1073741824:\n    set_target(\"server2\")", target("server2")),
        (
            "all = get_instances(location = \"server1\", project = \"p\")\n\
             if all[0].name == \"on-server1-p\" and all[0].expanded_config[\"user.x\"] == \"1\":\n    set_target(\"server2\")",
            target("server2"),
        ),
        (
            "if get_instances()[0].name == \"on--\" and get_instances(None, \"p\")[0].name == \"on--p\":\n    set_target(\"server1\")",
            target("server1"),
        ),
        (
            "if get_instances_count() == 3 and get_instances_count(pending = True) == 5:\n    set_target(\"server1\")",
            target("server1"),
        ),
        ("set_target(get_cluster_members(group = \"fast\")[0].server_name)", target("server1")),
        ("if get_project(\"p\").config[\"restricted\"] == \"true\":\n    set_target(\"server2\")", target("server2")),
        ("fail(\"Not on a Sunday\")", Err(Failure::Refused("Not on a Sunday".into()))),
        ("return \"Placement rejected\"", Err(Failure::Refused("Placement rejected".into()))),
    ] {
        assert_eq!(asked(body), want, "{body}");
    }
}

#[test]
fn what_does_not_work_is_told_with_its_line() {
    for (body, words) in [
        ("set_target(\"server9\")", "\"server9\" is none of the members that can take the instance"),
        ("\nrequest.nothing", "line 3: "),
        ("get_cluster_member_state(\"gone\")", "is offline"),
        ("x = [0]\nfor i in range(1000000000):\n    x[0] = i", "It did not come to an end within 0 seconds"),
        ("instance_placement(request, candidate_members)", "line 2: "),
        ("x = \"x\" * 100000\ny = []\nfor i in range(100000000):\n    y.append(x + str(i))", ""),
    ] {
        match asked(body) {
            Err(Failure::Broken(said)) => assert!(said.contains(words), "{body}: {said}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn what_is_no_scriptlet_is_refused_when_it_is_set() {
    for (text, words) in [
        ("def instance_placement(request, candidate_members):\n    return", ""),
        ("", "The function instance_placement(request, candidate_members) is missing"),
        ("def other():\n    return", "is missing"),
        ("instance_placement = 1", "no function"),
        ("def instance_placement(request:\n", "Parse error"),
        ("def instance_placement(request, candidate_members):\n    return nothing", "line 2: "),
        ("load(\"x\", \"y\")\ndef instance_placement(r, c):\n    return", ""),
        ("set_target(\"server1\")\ndef instance_placement(r, c):\n    return", "only be asked while"),
    ] {
        match check(text) {
            Ok(()) => assert_eq!(words, "", "{text}"),
            Err(said) => assert!(said.contains(words) && !said.contains('\n'), "{text}: {said}"),
        }
    }
}

#[test]
fn what_is_nested_as_deep_as_it_is_long_has_an_end() {
    let in_function = |body: &str| format!("def instance_placement(request, candidate_members):\n    return {body}\n");
    for open in ["(", "[", "not ", "-"] {
        // Whether the language takes it is its own matter.
        let _ = check(&in_function(&format!("({}1)", format!("{open}\n").repeat(60_000 / (open.len() + 1)))));
    }
    for (body, why) in
        [("1".repeat(70_000), "longer than 65536 bytes"), ("1 % ".repeat(300) + "1", "more than 256 operators")]
    {
        let got = check(&in_function(&body)).unwrap_err();
        assert!(got.contains(why), "{got}");
    }
}
