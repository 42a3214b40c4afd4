//! Who may call what, said a second time by hand: each endpoint has a case here, and each case is tried for each
//! kind of caller.

use api::Info;
use api::endpoint::Allow::{self, *};

use super::auth::{Trust, may};

/// Methods (`*`: all), a path (`/*` at its end: it and all below), and who it is for. The most exact case holds.
const CASES: &[(&str, &str, Allow)] = &[
    ("GET", "/", Anyone),
    ("GET", "/1.0", Anyone),
    ("GET", "/.well-known/acme-challenge/{token}", Anyone),
    ("PUT PATCH", "/1.0", Admin),
    ("GET", "/1.0/events", Trusted),
    ("GET", "/1.0/metrics", Metrics),
    ("GET", "/1.0/certificates/*", Trusted),
    ("POST", "/1.0/certificates", Anyone),
    ("PUT PATCH DELETE", "/1.0/certificates/{fingerprint}", Admin),
    ("GET", "/1.0/cluster/*", Trusted),
    ("PUT POST PATCH DELETE", "/1.0/cluster/*", Admin),
    ("GET", "/1.0/images/*", Anyone),
    ("PUT POST PATCH DELETE", "/1.0/images/*", Project),
    ("*", "/1.0/instances/*", Project),
    ("GET", "/1.0/networks/*", Project),
    ("PUT POST PATCH DELETE", "/1.0/networks/*", Admin),
    ("GET DELETE", "/1.0/operations/*", Trusted),
    ("GET", "/1.0/operations/{id}/websocket", Anyone),
    ("*", "/1.0/profiles/*", Project),
    ("GET", "/1.0/projects/*", Trusted),
    ("PUT POST PATCH DELETE", "/1.0/projects/*", Admin),
    ("GET", "/1.0/storage-pools/*", Trusted),
    ("PUT POST PATCH DELETE", "/1.0/storage-pools/*", Admin),
    ("*", "/1.0/storage-pools/{pool}/volumes/*", Project),
    ("*", "/1.0/warnings/*", Admin),
    ("*", "/internal/*", Member),
    ("POST", "/internal/cluster/accept", Anyone),
    ("POST", "/internal/cluster/preflight", Anyone),
];

/// The case of an endpoint: the longest path that fits, spelled out before `*`.
fn case(endpoint: &Info) -> Option<Allow> {
    let fits = |(methods, path, _): &&(&str, &str, Allow)| {
        let method = *methods == "*" || methods.split(' ').any(|m| m == endpoint.method.as_str());
        let below = |root: &str| endpoint.path.strip_prefix(root).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        method && path.strip_suffix("/*").map_or(*path == endpoint.path, below)
    };
    let exactness = |(_, path, _): &&(&str, &str, Allow)| (path.trim_end_matches("/*").len(), !path.ends_with("/*"));
    CASES.iter().filter(fits).max_by_key(exactness).map(|(_, _, allow)| *allow)
}

/// Everybody who can ask, and whether an endpoint of that kind is open to them.
fn callers(allow: Allow) -> [(&'static str, Trust, &'static str, bool); 8] {
    let restricted = || Trust::Restricted(["own".to_owned()].into());
    let (anyone, metrics, trusted, own, full, member) = match allow {
        Anyone => (true, true, true, true, true, true),
        Metrics => (false, true, true, true, true, true),
        Trusted => (false, false, true, true, true, true),
        Project => (false, false, false, true, true, true),
        Admin => (false, false, false, false, true, true),
        Member => (false, false, false, false, false, true),
    };
    [
        ("no certificate", Trust::None, "own", anyone),
        ("a certificate that nobody trusts", Trust::None, "own", anyone),
        ("a certificate for metrics", Trust::Metrics, "own", metrics),
        ("a restricted client in another project", restricted(), "default", trusted),
        ("a restricted client in its own project", restricted(), "own", own),
        ("a client", Trust::Full, "default", full),
        ("another member", Trust::Member, "default", member),
        ("a local user", Trust::Member, "default", member),
    ]
}

#[test]
fn every_endpoint_has_a_case_and_is_open_to_those_alone() {
    let mut wrong = Vec::new();
    let mut tried = 0;
    for endpoint in api::endpoints() {
        let name = format!("{} {}", endpoint.method.as_str(), endpoint.path);
        let Some(allow) = case(endpoint) else {
            wrong.push(format!("{name} has no case here: say who it is for"));
            continue;
        };
        if allow != endpoint.allow {
            wrong.push(format!("{name} is declared for {:?}, its case here says {allow:?}", endpoint.allow));
        }
        for (caller, trust, project, open) in callers(allow) {
            tried += 1;
            if may(&trust, endpoint.allow, project) != open {
                wrong.push(format!("{name} for {caller}: {}", if open { "refused" } else { "allowed" }));
            }
        }
    }
    println!("{tried} decisions tried");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
