//! Our formats against what a real cluster's client printed.

use serde_json::{Value, json};

use super::{Column, Format, columns, sort_rows, to_yaml};
use crate::cmd::cluster::{GROUP_COLUMNS, MEMBER_COLUMNS};

fn render(all: &[Column<Value>], spec: &str, format: &str, items: &Value) -> String {
    let format: Format = format.parse().unwrap();
    let picked = columns(all, spec).unwrap();
    let separator = if format.is_csv() { "," } else { "\n" };
    let mut rows: Vec<Vec<String>> = items
        .as_array()
        .unwrap()
        .iter()
        .map(|i| picked.iter().map(|c| (c.cell)(i).replace(super::EACH, separator)).collect())
        .collect();
    sort_rows(&mut rows);
    let header: Vec<String> = picked.iter().map(|c| c.header.to_owned()).collect();
    format.render(&header, &rows, items)
}

fn members() -> Value {
    let member = |name: &str, roles: &[&str], domain: &str, config: Value, groups: &[&str], n: u8| {
        json!({"roles": roles, "failure_domain": domain, "description": "", "config": config, "groups": groups,
            "server_name": name, "url": format!("https://10.77.0.{n}:8443"), "database": true, "status": "Online",
            "message": "Fully operational", "architecture": "x86_64"})
    };
    json!([
        member("node1", &["database-leader", "database"], "default", json!({}), &["default"], 1),
        member("node2", &["database"], "rack2", json!({"user.foo": "bar"}), &["g1", "default"], 2),
        member("node3", &["database"], "default", json!({}), &["default"], 3),
    ])
}

#[test]
fn members_in_every_format() {
    let show = |format: &str| render(MEMBER_COLUMNS, "nurafdsm", format, &members());
    assert_eq!(show("table"), "\
+-------+------------------------+-----------------+--------------+----------------+-------------+--------+-------------------+
| NAME  |          URL           |      ROLES      | ARCHITECTURE | FAILURE DOMAIN | DESCRIPTION | STATUS |      MESSAGE      |
+-------+------------------------+-----------------+--------------+----------------+-------------+--------+-------------------+
| node1 | https://10.77.0.1:8443 | database-leader | x86_64       | default        |             | ONLINE | Fully operational |
|       |                        | database        |              |                |             |        |                   |
+-------+------------------------+-----------------+--------------+----------------+-------------+--------+-------------------+
| node2 | https://10.77.0.2:8443 | database        | x86_64       | rack2          |             | ONLINE | Fully operational |
+-------+------------------------+-----------------+--------------+----------------+-------------+--------+-------------------+
| node3 | https://10.77.0.3:8443 | database        | x86_64       | default        |             | ONLINE | Fully operational |
+-------+------------------------+-----------------+--------------+----------------+-------------+--------+-------------------+
");
    assert_eq!(
        show("compact").lines().take(3).collect::<Vec<_>>(),
        [
            "NAME │         URL          │     ROLES     │ARCHITECTURE│FAILURE DOMAIN│DESCRIPTION│STATUS│     MESSAGE     ",
            "node1│https://10.77.0.1:8443│database-leader│x86_64      │default       │           │ONLINE│Fully operational",
            "     │                      │database       │            │              │           │      │                 ",
        ]
    );
    assert_eq!(
        show("csv"),
        "\
node1,https://10.77.0.1:8443,\"database-leader,database\",x86_64,default,,ONLINE,Fully operational
node2,https://10.77.0.2:8443,database,x86_64,rack2,,ONLINE,Fully operational
node3,https://10.77.0.3:8443,database,x86_64,default,,ONLINE,Fully operational
"
    );
    assert!(show("csv,header").starts_with("NAME,URL,ROLES,"));
    assert!(show("compact,noheader").starts_with("node1│"));
    assert!(show("json").starts_with(
        "[{\"roles\":[\"database-leader\",\"database\"],\"failure_domain\":\"default\",\"description\":\"\",\"config\":{},"
    ));
    assert!(show("yaml").starts_with(
        "\
- roles:
    - database-leader
    - database
  failure_domain: default
  description: \"\"
  config: {}
  groups:
    - default
  server_name: node1
"
    ));
}

#[test]
fn groups_and_their_absent_fields() {
    let groups = json!([{"description": "Default cluster group", "members": ["node1", "node2"], "config": null,
        "name": "default", "used_by": null}]);
    assert_eq!(
        render(GROUP_COLUMNS, "ndm", "compact", &groups),
        " NAME  │     DESCRIPTION     │MEMBERS\ndefault│Default cluster group│2      \n"
    );
    assert_eq!(
        to_yaml(&groups),
        "\
- description: Default cluster group
  members:
    - node1
    - node2
  config: {}
  name: default
  used_by: []"
    );
}
