//! Paths, queries, methods and headers that no client sends: none of them opens what the plain ones don't.

use lab::Result;
use serde_json::json;

use crate::table::TABLE;
use crate::{REFUSED, RESTRICTED, Request, UNTRUSTED, Who, World, get, no_project, refusal, send};

pub fn paths_and_queries_lead_nowhere_else(world: &World) -> Result<()> {
    let own = world.restricted("own")?;
    let stranger = Who::nobody();
    let unknown = || (404, refusal("not found").replace("403", "404"));
    for (path, restricted, nobody) in [
        // Slashes are not counted; nothing else is made plainer than it is.
        ("//internal/ready", (403, refusal(RESTRICTED)), (403, refusal(REFUSED))),
        ("/internal//ready/", (403, refusal(RESTRICTED)), (403, refusal(REFUSED))),
        ("//1.0//warnings/", (403, refusal(RESTRICTED)), (403, refusal(REFUSED))),
        ("/1.0/../internal/ready", unknown(), unknown()),
        ("/1.0/%2e%2e/internal/ready", unknown(), unknown()),
        ("/1.0%2f..%2finternal%2fready", unknown(), unknown()),
        ("/%69nternal/ready", unknown(), unknown()),
        ("/INTERNAL/ready", unknown(), unknown()),
        ("/1.0/Warnings", unknown(), unknown()),
        ("/1.0/instances/../warnings", unknown(), unknown()),
        ("/1.0/instances/..%2f..%2finternal%2fready/state", (403, no_project("default")), (403, refusal(REFUSED))),
    ] {
        assert_eq!(world.ask(&own, get(path))?, restricted, "{path}");
        assert_eq!(world.ask(&stranger, get(path))?, nobody, "{path}");
    }
    // What the path holds is one name, whatever stands in it.
    for (path, status) in [
        ("/1.0/instances/c1?project=own", 200),
        ("/1.0/instances/c1/?project=own", 200),
        ("/1.0/instances/%63%31?project=own", 200),
        ("/1.0/instances/..%2fc1?project=own", 404),
        ("/1.0/instances/c1%00?project=own", 404),
        ("/1.0/instances/C1?project=own", 404),
        ("/1.0/instances/c1%3fproject=default?project=own", 404),
        ("/1.0/instances/c1/logs/..%2f..%2f..%2fserver.key?project=own", 400),
        ("/1.0/instances/c1/logs/%2e%2e?project=own", 400),
        ("/1.0/instances/c1/logs/exec-output/exec_%2f..%2f..%2fmonitor?project=own", 400),
        ("/1.0/storage-pools/local/volumes/custom/..%2fdefault_v?project=own", 404),
        ("/1.0/storage-pools/local/volumes/..%2fcustom/v?project=own", 400),
        ("/1.0/projects/%64efault", 404),
    ] {
        let (got, body) = world.ask(&own, get(path))?;
        assert_eq!(got, status, "{path}: {body}");
    }
    // The project that is checked is the one that is used.
    for (query, asked) in [
        ("project=own&project=default", None),
        ("project=%6fwn", None),
        ("%70roject=own", None),
        ("project=default&project=own", Some("default")),
        ("project=", Some("default")),
        ("", Some("default")),
        ("Project=own", Some("default")),
        ("project=OWN", Some("OWN")),
        ("project=own%20", Some("own ")),
        ("project=own,default", Some("own,default")),
        ("project=nope", Some("nope")),
        ("project=default&target=server2", Some("default")),
        ("project=own%26project=default", Some("own&project=default")),
    ] {
        for path in ["/1.0/instances/c1", "/1.0/profiles/default", "/1.0/storage-pools/local/volumes/custom/v"] {
            let (status, body) = world.ask(&own, get(&format!("{path}?{query}")))?;
            match asked {
                Some(project) => assert_eq!((status, body), (403, no_project(project)), "{path}?{query}"),
                None => {
                    assert_eq!(status, 200, "{path}?{query}: {body}");
                    assert!(body.contains(r#""project":"own""#), "{path}?{query}: {body}");
                }
            }
        }
    }
    for query in ["all-projects=true", "all-projects=1&project=own", "project=own&all-projects=on"] {
        for path in ["/1.0/instances", "/1.0/images", "/1.0/operations", "/1.0/networks"] {
            assert_eq!(world.ask(&own, get(&format!("{path}?{query}")))?, (403, refusal(RESTRICTED)), "{path}?{query}");
        }
    }
    // Filters choose among what is seen.
    for path in [
        "/1.0/instances?project=own&recursion=2&filter=project%20eq%20default",
        "/1.0/projects?recursion=1&filter=name%20eq%20default",
        "/1.0/images?project=own&recursion=1&filter=project%20eq%20default",
        "/1.0/storage-pools/local/volumes?project=own&recursion=1&filter=project%20eq%20default",
    ] {
        assert_eq!(world.value(&own, get(path))?, json!([]), "{path}");
    }
    for path in ["/1.0/instances?filter=x", "/1.0/cluster/members?recursion=1&filter=name%20eq%20server1"] {
        assert_eq!(world.ask(&stranger, get(path))?, (403, refusal(REFUSED)), "{path}");
    }
    // Strangers don't learn which projects there are.
    for path in ["/1.0/images", "/1.0/images/aliases"] {
        let [there, not] = ["own", "nope"].map(|p| world.ask(&stranger, get(&format!("{path}?project={p}"))));
        assert_eq!(there?, not?, "{path}");
    }
    assert_eq!(world.ask(&stranger, get("/1.0/metrics?target=nope"))?, (403, refusal(REFUSED)));
    Ok(())
}

/// A stranger is told the same by every method.
pub fn methods_tell_nothing(world: &World) -> Result<()> {
    let mut templates: Vec<(&str, &str)> = TABLE
        .lines()
        .filter_map(|l| {
            let mut words = l.split_whitespace().skip(1);
            Some((words.next()?, words.next()?))
        })
        .filter(|(_, who)| !matches!(*who, "anyone" | "secret"))
        .collect();
    templates.sort_unstable();
    templates.dedup_by_key(|(path, _)| *path);
    let methods = ["GET", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "BREW", "get"];
    let mut requests = Vec::new();
    for (path, _) in templates {
        let path = path.replace(['{', '}'], "");
        requests.extend(methods.map(|method| Request { method, path: path.clone(), ..Request::default() }));
    }
    let open = |r: &Request| {
        // These have a method for everybody.
        ["/1.0", "/1.0/certificates", "/1.0/images", "/1.0/images/fingerprint", "/1.0/images/aliases"]
            .contains(&r.path.as_str())
            || r.path.starts_with("/1.0/images/aliases/")
    };
    requests.retain(|r| !open(r));
    for (request, answer) in requests.iter().zip(world.ask_all(&Who::nobody(), &requests)?) {
        assert_eq!(answer, (403, refusal(REFUSED)), "{} {}", request.method, request.path);
    }
    for method in ["DELETE", "POST", "OPTIONS"] {
        let asked = |path: &str| Request { method, path: path.into(), ..Request::default() };
        assert_eq!(world.ask(&Who::nobody(), asked("/1.0"))?, (403, refusal(REFUSED)), "{method}");
        assert_eq!(world.ask(&world.local(), asked("/1.0"))?.0, 501, "{method}");
    }
    Ok(())
}

/// The headers by which members tell each other who asked in the first place.
pub fn nobody_is_believed_who_says_that_they_are_somebody_else(world: &World) -> Result<()> {
    let (own, stranger) = (world.restricted("own")?, Who::nobody());
    let (metrics, _) = world.identity("liar", Some(&["--type", "metrics"]))?;
    let lies: [&[&str]; 4] = [
        &["X-Incus-forwarded-username: root", "X-Incus-forwarded-protocol: unix", "X-Incus-forwarded-trust: member"],
        &["X-Incus-forwarded-username: a", "X-Incus-forwarded-trust: full", "X-Incus-forwarded-address: @"],
        &[
            "X-Incus-forwarded-username: a",
            "X-Incus-forwarded-trust: restricted",
            "X-Incus-forwarded-projects: default,own",
        ],
        &["X-Incus-forwarded-username: ", "X-Incus-forwarded-protocol: cluster", "User-Agent: incus-cluster-notifier"],
    ];
    for lie in lies {
        let with = |mut request: Request| {
            request.headers = lie.iter().map(|h| (*h).to_owned()).collect();
            request
        };
        let change = json!({"description": "changed"});
        for (who, request, want) in [
            (&own, get("/1.0/instances/c1?project=default"), no_project("default")),
            (&own, send("PATCH", "/1.0/instances/c1?project=default", &change), no_project("default")),
            (&own, send("PATCH", "/1.0?target=server2", &json!({"config": {"user.a": "b"}})), refusal(RESTRICTED)),
            (&own, get("/1.0/warnings"), refusal(RESTRICTED)),
            (&own, get("/internal/sql?database=global"), refusal(RESTRICTED)),
            (&stranger, get("/1.0/cluster/members"), refusal(REFUSED)),
            (&stranger, get("/1.0/cluster/members/server2/state"), refusal(REFUSED)),
            (&stranger, get("/internal/ready"), refusal(REFUSED)),
            (&metrics, get("/1.0/instances"), refusal(REFUSED)),
            (&world.removed, get("/1.0/instances"), refusal(REFUSED)),
            (&world.removed, get("/internal/link"), refusal(REFUSED)),
        ] {
            let path = request.path.clone();
            assert_eq!(world.ask(who, with(request))?, (403, want), "{path} with {lie:?}");
        }
        assert_eq!(world.ask(&stranger, with(get("/1.0?target=server2")))?, (200, UNTRUSTED.to_owned()), "{lie:?}");
        // What is sent on says who it really was.
        for path in ["/1.0", "/1.0?target=server2"] {
            let server = world.value(&own, with(get(path)))?;
            assert_eq!(server["auth_user_method"], "tls", "{lie:?}");
            assert_eq!(server["auth_user_name"].as_str().unwrap_or_default().len(), 64, "{lie:?}");
            assert_eq!(server["config"], json!({}), "{lie:?}");
        }
        assert_eq!(world.value(&own, with(get("/1.0/instances/c1?project=own")))?["project"], "own");
    }
    Ok(())
}
