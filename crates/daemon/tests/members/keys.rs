//! Server keys take effect while the cluster runs: global ones on all members, local ones where they are set.

use lab::{Cluster, Result};

/// What `https://address/path` answers on machine `from`: the status, and the body.
fn fetch(cluster: &Cluster, from: usize, url: &str) -> Result<(String, String)> {
    let args = ["-sk", "--max-time", "10", "-w", "\n%{http_code}", url];
    let out = cluster.lab.machines[from - 1].run("curl", &args, "")?.out;
    let (body, code) = out.rsplit_once('\n').unwrap_or(("", &out));
    Ok((code.to_owned(), body.to_owned()))
}

pub fn take_effect(cluster: &Cluster) -> Result<()> {
    cluster.incus(4, &["config", "set", "user.everywhere=1"])?;
    for number in 1..=5 {
        assert_eq!(cluster.incus(number, &["config", "get", "user.everywhere"])?.trim(), "1");
    }
    cluster.refused_with(2, &["config", "set", "core.proxy_http=ftp://x"], "is no proxy")?;
    cluster.refused_with(2, &["config", "set", "images.default_architecture=x86_64"], "unknown key")?;
    metrics(cluster)?;
    address(cluster)
}

fn metrics(cluster: &Cluster) -> Result<()> {
    let key = "core.metrics_address";
    cluster.incus(1, &["config", "set", "--target", "server3", &format!("{key}=10.77.0.3:9100")])?;
    assert_eq!(cluster.incus(1, &["config", "get", "--target", "server3", key])?.trim(), "10.77.0.3:9100");
    assert_eq!(cluster.incus(3, &["config", "get", key])?.trim(), "10.77.0.3:9100");
    assert_eq!(cluster.incus(1, &["config", "get", key])?.trim(), "", "it is local");
    let url = "https://10.77.0.3:9100/1.0/metrics";
    assert_eq!(fetch(cluster, 1, url)?.0, "403");
    cluster.incus(5, &["config", "set", "core.metrics_authentication=false"])?;
    let text = cluster.until("metrics for all", || {
        let (code, text) = fetch(cluster, 1, url)?;
        Ok((code == "200").then_some(text))
    })?;
    for line in [
        "incus_cluster_member_online{member=\"server5\"} 1",
        "incus_cluster_database_voters 3",
        "incus_cluster_database_voters_online 3",
        "incus_cluster_database_quorum 1",
        "# TYPE incus_uptime_seconds gauge",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    assert_eq!(fetch(cluster, 1, "https://10.77.0.3:9100/1.0")?.0, "404", "there is nothing else");
    // What can't be used is refused and changes nothing.
    cluster.refused_with(3, &["config", "set", &format!("{key}=192.0.2.1:1")], "Cannot listen")?;
    assert_eq!(fetch(cluster, 1, url)?.0, "200");
    cluster.incus(3, &["config", "unset", key])?;
    assert_eq!(fetch(cluster, 1, url)?.0, "000", "nobody listens any more");
    cluster.incus(5, &["config", "unset", "core.metrics_authentication"]).map(drop)
}

/// The API moves to another port; members go on reaching each other.
fn address(cluster: &Cluster) -> Result<()> {
    let key = "core.https_address";
    let (old, new) = ("10.77.0.4:8443", "10.77.0.4:9443");
    cluster.incus(4, &["config", "set", &format!("{key}={new}")])?;
    assert_eq!(fetch(cluster, 1, &format!("https://{new}/"))?.0, "200");
    for from in [1, 4] {
        assert_eq!(cluster.member(from, 4, 's')?, "ONLINE");
    }
    assert_eq!(cluster.incus(1, &["config", "get", "--target", "server4", key])?.trim(), new);
    cluster.incus(1, &["config", "set", "--target", "server4", &format!("{key}={old}")])?;
    assert_eq!(fetch(cluster, 1, &format!("https://{new}/"))?.0, "000", "nobody listens there any more");
    assert_eq!(fetch(cluster, 1, &format!("https://{old}/"))?.0, "200");
    Ok(())
}
