//! Keys of the server: those that mean something for what exists.

use super::{compression, expiry, one_of};

fn address(value: &str) -> Result<(), String> {
    let host_and_port = |v: &str| v.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let bare = value.parse::<std::net::IpAddr>().is_ok() || !value.contains(':');
    if bare || host_and_port(value) { Ok(()) } else { Err(format!("Invalid address \"{value}\"")) }
}

fn hwaddr_pattern(value: &str) -> Result<(), String> {
    let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'x');
    let byte = |part: &str| part.len() == 2 && part.bytes().all(digit);
    let group = value.as_bytes().get(1).is_some_and(|b| b"13579bdf".contains(b));
    if value.split(':').count() == 6 && value.split(':').all(byte) && !group {
        return Ok(());
    }
    Err(format!("Invalid MAC address template \"{value}\": it is like 10:66:6a:xx:xx:xx, the first byte even"))
}

fn program(value: &str) -> Result<(), String> {
    if value.starts_with('/') { Ok(()) } else { Err("Not the absolute path of a program".into()) }
}

fn domain(value: &str) -> Result<(), String> {
    let label = |l: &str| !l.is_empty() && l.chars().all(|c| c.is_alphanumeric() || c == '-');
    if value.split('.').all(label) { Ok(()) } else { Err(format!("Invalid domain \"{value}\"")) }
}

fn email(value: &str) -> Result<(), String> {
    let parts = value.split_once('@').filter(|(user, _)| !user.is_empty() && !user.contains(char::is_whitespace));
    parts.ok_or_else(|| format!("Invalid email address \"{value}\"")).and_then(|(_, host)| domain(host))
}

fn listener(value: &str) -> Result<(), String> {
    let port = value.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    port.map(drop).ok_or_else(|| format!("Invalid address \"{value}\": it is \"[host]:port\""))
}

fn challenge(value: &str) -> Result<(), String> {
    match value {
        "HTTP-01" => Ok(()),
        "DNS-01" => Err("DNS-01 needs a provider of DNS, and this server has none: use HTTP-01".into()),
        _ => Err(format!("Invalid value \"{value}\" (not one of HTTP-01)")),
    }
}

fn between(n: i64, low: i64, high: i64) -> Result<(), String> {
    if (low..=high).contains(&n) { Ok(()) } else { Err(format!("Value must be between {low} and {high}")) }
}

crate::keys! { SERVER {
    /// Whether the terms of the ACME authority are agreed to; without that nothing is asked of it.
    ACME_AGREE_TOS: bool = "acme.agree_tos", "false", Global;
    /// The directory of the ACME authority.
    ACME_CA_URL: String = "acme.ca_url", "https://acme-v02.api.letsencrypt.org/directory", Global,
        |v| if v.starts_with("https://") { Ok(()) } else { Err("Value must begin with https://".into()) };
    /// How the domain is proved to be ours: `HTTP-01`.
    ACME_CHALLENGE: String = "acme.challenge", "HTTP-01", Global, |v| challenge(v);
    /// The domain that the cluster gets a certificate for.
    ACME_DOMAIN: String = "acme.domain", "", Global, |v| domain(v);
    /// The address of who is responsible, for the ACME authority.
    ACME_EMAIL: String = "acme.email", "", Global, |v| email(v);
    /// Where each member answers the challenge of the ACME authority, as long as there is one.
    ACME_HTTP_PORT: String = "acme.http.port", ":80", Global, |v| listener(v);
    /// How many instances an evacuation or restore looks after at the same time, and how many a member takes in at the
    /// same time; 0 for one per processor, but at least 2 and at most 8. Incus has no such key.
    EVACUATION_PARALLEL: i64 = "cluster.evacuation.parallel", "0", Global, |n| between(*n, 0, 1000);
    /// A program on each member that is called with the name and the address of a member before its instances are taken
    /// over, and must succeed; it may switch that machine off.
    HEALING_HOOK: String = "cluster.healing_hook", "", Global, |v| program(v);
    /// Seconds of silence after which the instances of a member are started elsewhere; 0 never does.
    HEALING_THRESHOLD: i64 = "cluster.healing_threshold", "0", Global,
        |n| if *n >= 0 { Ok(()) } else { Err("Value must not be negative".into()) };
    /// Where this member is reached by the others.
    CLUSTER_ADDRESS: String = "cluster.https_address", "", Local, |v| address(v);
    /// How many members keep a copy of each image; -1 for all of them.
    IMAGES_MINIMAL_REPLICA: i64 = "cluster.images_minimal_replica", "3", Global,
        |n| if *n >= 1 || *n == -1 { Ok(()) } else { Err("Minimal value is 1 or -1 for all members".into()) };
    /// How long a join token is good for.
    JOIN_TOKEN_EXPIRY: String = "cluster.join_token_expiry", "3H", Global, |v| expiry(v);
    /// How many members are shown as stand-by.
    MAX_STANDBY: i64 = "cluster.max_standby", "2", Global,
        |n| between(*n, 0, 5);
    /// How many members vote in the database.
    MAX_VOTERS: i64 = "cluster.max_voters", "3", Global,
        |n| if *n >= 3 && n % 2 == 1 { Ok(()) } else { Err("Value must be an odd number equal to or higher than 3".into()) };
    /// Seconds of silence after which a member counts as offline.
    OFFLINE_THRESHOLD: i64 = "cluster.offline_threshold", "20", Global,
        |n| if *n > 10 { Ok(()) } else { Err("Value must be greater than '10'".into()) };
    /// Instances moved at once when the load is balanced.
    REBALANCE_BATCH: i64 = "cluster.rebalance.batch", "1", Global, |n| between(*n, 1, i64::MAX);
    /// How long an instance is left in peace after it was moved for balance.
    REBALANCE_COOLDOWN: String = "cluster.rebalance.cooldown", "6H", Global, |v| expiry(v);
    /// Minutes between two looks at the balance; 0 never looks.
    REBALANCE_INTERVAL: i64 = "cluster.rebalance.interval", "0", Global, |n| between(*n, 0, i64::MAX);
    /// Percent of difference in load at which instances are moved.
    REBALANCE_THRESHOLD: i64 = "cluster.rebalance.threshold", "20", Global, |n| between(*n, 10, 100);
    /// Where the API is reached.
    HTTPS_ADDRESS: String = "core.https_address", "", Local, |v| address(v);
    /// Where metrics are read, and nothing else.
    METRICS_ADDRESS: String = "core.metrics_address", "", Local, |v| address(v);
    /// Whether readers of metrics must be trusted.
    METRICS_AUTHENTICATION: bool = "core.metrics_authentication", "true", Global;
    /// How long a trust token is good for; empty for ever.
    REMOTE_TOKEN_EXPIRY: String = "core.remote_token_expiry", "", Global, |v| expiry(v);
    /// What happens to instances when the machine goes down: `shutdown` stops them, `evacuate` empties the member first,
    /// within `core.shutdown_timeout`; it then stays evacuated until somebody restores it.
    SHUTDOWN_ACTION: String = "core.shutdown_action", "shutdown", Global,
        |v| one_of(v, &["shutdown", "evacuate"]);
    /// Minutes that running operations get at a shutdown.
    SHUTDOWN_TIMEOUT: i64 = "core.shutdown_timeout", "5", Global, |n| between(*n, 0, i64::MAX);
    /// Whether every client is trusted whose certificate the authority in `server.ca` has signed.
    TRUST_CA: bool = "core.trust_ca_certificates", "false", Global;
    /// Whether images that came along with instances are kept up to date.
    IMAGES_AUTO_UPDATE_CACHED: bool = "images.auto_update_cached", "true", Global;
    /// Hours between two looks for newer images; 0 never looks.
    IMAGES_AUTO_UPDATE_INTERVAL: i64 = "images.auto_update_interval", "6", Global, |n| between(*n, 0, i64::MAX);
    /// How images are compressed: `bzip2`, `gzip`, `lz4`, `lzma`, `xz`, `zstd` or `none`.
    IMAGES_COMPRESSION: String = "images.compression_algorithm", "gzip", Global, |v| compression(v);
    /// Days without use after which an image that came along with an instance is forgotten; 0 never forgets it.
    IMAGES_CACHE_EXPIRY: i64 = "images.remote_cache_expiry", "10", Global, |n| between(*n, 0, i64::MAX);
    /// How the host's side of a network device is named: `random` or `mac`.
    NIC_HOST_NAME: String = "instances.nic.host_name", "random", Global, |v| one_of(v, &["random", "mac"]);
    /// A rule for which member takes an instance, in Starlark: the function
    /// `instance_placement(request, candidate_members)`, which names a member with `set_target(name)`. It has 5 seconds.
    /// Where it refuses, or does not work, nothing is placed; an evacuation stops an instance that it refuses, and does
    /// without it where it does not work.
    PLACEMENT_SCRIPTLET: String = "instances.placement.scriptlet", "", Global;
    /// The proxy, as `http://host:port`, by which the daemon reaches web servers over HTTP; that of `HTTP_PROXY` in its
    /// environment if empty.
    PROXY_HTTP: String = "core.proxy_http", "", Global;
    /// The same over HTTPS, and for `HTTPS_PROXY`.
    PROXY_HTTPS: String = "core.proxy_https", "", Global;
    /// Hosts that are reached without a proxy, separated by commas: names (and all below them), addresses, `host:port`, or
    /// `*`; those of `NO_PROXY` if empty.
    PROXY_IGNORE_HOSTS: String = "core.proxy_ignore_hosts", "", Global;
    /// The pattern of generated MAC addresses; `x` is any digit.
    HWADDR_PATTERN: String = "network.hwaddr_pattern", "10:66:6a:xx:xx:xx", Global, |v| hwaddr_pattern(v);
    /// Anything.
    USER: String = "user.*", "", Global;
}}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::check;

    #[test]
    fn values_are_refused_in_the_words_that_clients_know() {
        for (key, value, want) in [
            ("cluster.bogus", "1", "cannot set 'cluster.bogus' to '1': unknown key"),
            (
                "cluster.max_voters",
                "4",
                "cannot set 'cluster.max_voters' to '4': Value must be an odd number equal to or higher than 3",
            ),
            (
                "cluster.offline_threshold",
                "1",
                "cannot set 'cluster.offline_threshold' to '1': Value must be greater than '10'",
            ),
            (
                "core.shutdown_action",
                "x",
                "cannot set 'core.shutdown_action' to 'x': Invalid value \"x\" (not one of shutdown, evacuate)",
            ),
            (
                "cluster.join_token_expiry",
                "3 days",
                "cannot set 'cluster.join_token_expiry' to '3 days': Invalid expiry expression",
            ),
            (
                "network.hwaddr_pattern",
                "11:66:6a:xx:xx:xx",
                "cannot set 'network.hwaddr_pattern' to '11:66:6a:xx:xx:xx': Invalid MAC address template \"11:66:6a:xx:xx:xx\": \
                 it is like 10:66:6a:xx:xx:xx, the first byte even",
            ),
            (
                "cluster.healing_hook",
                "fence",
                "cannot set 'cluster.healing_hook' to 'fence': Not the absolute path of a program",
            ),
            ("core.https_address", "a:b", "cannot set 'core.https_address' to 'a:b': Invalid address \"a:b\""),
        ] {
            assert_eq!(check(SERVER, key, value).unwrap_err().message, want);
        }
        for (key, value) in [
            ("cluster.max_voters", "5"),
            ("cluster.max_voters", ""),
            ("core.https_address", "[::]:8443"),
            ("core.https_address", "192.0.2.1"),
            ("network.hwaddr_pattern", "00:16:3e:0x:xx:xx"),
            ("user.x.y", "z"),
        ] {
            assert_eq!(check(SERVER, key, value), Ok(()), "{key}={value}");
        }
    }
}
