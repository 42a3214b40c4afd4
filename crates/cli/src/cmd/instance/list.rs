//! `incus list`.

use std::net::IpAddr;

use api::{Error, Result};
use serde_json::Value;

use super::super::{FormatFlag, list as texts, s};
use crate::{
    ctx::Ctx,
    entity::as_text,
    output::{Column, bytes_iec, columns, date, sort_rows},
    server::Server,
};

/// List instances
///
/// Filters: the beginning of a name or a regular expression that it matches; <key>=<value> with a configuration key
/// (its parts may be shortened, as s.privileged for security.privileged) or one of type, status, architecture,
/// location, ipv4 (address or CIDR), ipv6. All of them must hold.
///
/// Columns: 4 - IPv4 address, 6 - IPv6 address, a - architecture, b - storage pool, c - creation date, d - description,
/// D - disk usage, e - project, l - last used, m - memory usage, M - memory usage in percent, n - name, N - number of
/// processes, p - PID of the first process, P - profiles, R - remote, s - state, S - number of snapshots, t - type,
/// u - CPU seconds, U - start date, L - location, f - fingerprint of the image (short), F - the same in full.
/// Others are written [config:|devices:]key[:name][:width].
#[derive(clap::Args)]
pub struct List {
    /// The remote and filters
    #[arg(value_name = "[remote:] filter")]
    args: Vec<String>,
    /// Instances of all projects
    #[arg(long)]
    all_projects: bool,
    /// Instances of all remotes
    #[arg(long)]
    all_remotes: bool,
    /// Columns
    #[arg(short, long)]
    columns: Option<String>,
    /// Only what costs nothing to find out (-c nsacPt)
    #[arg(long, conflicts_with = "columns")]
    fast: bool,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    '4' "IPV4" |i| addresses(i, "inet");
    '6' "IPV6" |i| addresses(i, "inet6");
    'a' "ARCHITECTURE" |i| s(i, "architecture");
    'b' "STORAGE POOL" |i| root_pool(i);
    'c' "CREATED AT" |i| date(&i["created_at"]);
    'd' "DESCRIPTION" |i| s(i, "description");
    'D' "DISK USAGE" disk_usage;
    'e' "PROJECT" |i| s(i, "project");
    'f' "BASE IMAGE" |i| s(&i["config"], "volatile.base_image").chars().take(12).collect();
    'F' "BASE IMAGE" |i| s(&i["config"], "volatile.base_image");
    'l' "LAST USED AT" |i| date(&i["last_used_at"]);
    'L' "LOCATION" |i| s(i, "location");
    'm' "MEMORY USAGE" memory_usage;
    'M' "MEMORY USAGE%" memory_percent;
    'n' "NAME" |i| s(i, "name");
    'N' "PROCESSES" |i| running(i, |st| st["processes"].to_string());
    'p' "PID" |i| running(i, |st| st["pid"].to_string());
    'P' "PROFILES" |i| texts(&i["profiles"]).join("\n");
    'R' "REMOTE" |i| s(i, "remote");
    's' "STATE" |i| s(i, "status").to_uppercase();
    'S' "SNAPSHOTS" |i| i["snapshots"].as_array().map_or(0, Vec::len).to_string();
    't' "TYPE" kind;
    'u' "CPU USAGE" |i| running(i, |st| format!("{}s", st["cpu"]["usage"].as_i64().unwrap_or(0) / 1_000_000_000));
    'U' "STARTED AT" |i| date(&i["state"]["started_at"]);
};

fn kind(i: &Value) -> String {
    let kind = s(i, "type").to_uppercase();
    if i["ephemeral"] == true { format!("{kind} (EPHEMERAL)") } else { kind }
}

/// What of the state of an instance that runs; nothing of others.
fn running(i: &Value, cell: impl Fn(&Value) -> String) -> String {
    let state = &i["state"];
    if state.is_object() && state["pid"].as_i64().unwrap_or(0) > 0 { cell(state) } else { String::new() }
}

fn addresses(i: &Value, family: &str) -> String {
    let Some(network) = i["state"]["network"].as_object() else { return String::new() };
    let mut all = Vec::new();
    for (name, nic) in network.iter().filter(|(_, nic)| nic["type"] != "loopback") {
        for address in nic["addresses"].as_array().into_iter().flatten() {
            if address["family"] == family && !matches!(address["scope"].as_str(), Some("link" | "local")) {
                all.push(format!("{} ({name})", s(address, "address")));
            }
        }
    }
    all.sort_by(|a, b| b.cmp(a));
    all.join("\n")
}

fn root_device(i: &Value) -> Option<(&String, &Value)> {
    i["expanded_devices"].as_object()?.iter().find(|(_, d)| d["type"] == "disk" && d["path"] == "/")
}

fn root_pool(i: &Value) -> String {
    root_device(i).map(|(_, d)| s(d, "pool")).unwrap_or_default()
}

fn disk_usage(i: &Value) -> String {
    let usage = root_device(i).and_then(|(name, _)| i["state"]["disk"][name]["usage"].as_i64());
    usage.filter(|n| *n > 0).map(bytes_iec).unwrap_or_default()
}

fn memory_usage(i: &Value) -> String {
    i["state"]["memory"]["usage"].as_i64().filter(|n| *n > 0).map(bytes_iec).unwrap_or_default()
}

#[allow(clippy::cast_precision_loss)]
fn memory_percent(i: &Value) -> String {
    let memory = &i["state"]["memory"];
    match (memory["usage"].as_i64(), memory["total"].as_i64()) {
        (Some(used), Some(total)) if used > 0 && total > 0 => format!("{:.1}%", used as f64 / total as f64 * 100.0),
        _ => String::new(),
    }
}

/// A column: one of ours, or a key.
enum Wanted<'a> {
    Ours(&'a Column<Value>),
    Key { devices: bool, key: String, header: String, width: Option<usize> },
}

impl Wanted<'_> {
    fn header(&self) -> String {
        match self {
            Self::Ours(c) => c.header.to_owned(),
            Self::Key { header, .. } => header.clone(),
        }
    }

    fn cell(&self, i: &Value) -> String {
        match self {
            Self::Ours(c) => (c.cell)(i),
            Self::Key { devices, key, header, width } => {
                let value = if *devices {
                    key.split_once('.').map_or(&Value::Null, |(d, k)| &i["expanded_devices"][d][k])
                } else {
                    &i["expanded_config"][key]
                };
                let text = as_text(value);
                match width {
                    Some(0) => text.chars().take(header.chars().count()).collect(),
                    Some(n) => text.chars().take(*n).collect(),
                    None => text,
                }
            }
        }
    }
}

fn wanted(spec: &str) -> Result<Vec<Wanted<'static>>> {
    let mut all = Vec::new();
    for entry in spec.split(',') {
        if !entry.contains(['.', ':']) {
            all.extend(
                columns(COLUMNS, entry)
                    .map_err(|e| {
                        if entry.is_empty() {
                            Error::bad_request(format!(
                                "Empty column entry (redundant, leading or trailing command) in '{spec}'"
                            ))
                        } else {
                            e
                        }
                    })?
                    .into_iter()
                    .map(Wanted::Ours),
            );
            continue;
        }
        let (devices, rest) = match entry.split_once(':') {
            Some(("config", rest)) => (false, rest),
            Some(("devices", rest)) => (true, rest),
            _ => (false, entry),
        };
        let mut parts = rest.split(':');
        let key = parts.next().unwrap_or_default().to_owned();
        let header = parts.next().filter(|n| !n.is_empty()).unwrap_or(&key).to_uppercase();
        let width = match parts.next() {
            None | Some("-1") => None,
            Some(w) => Some(w.parse().map_err(|_| {
                Error::bad_request(format!("Invalid max width (must -1, 0 or a positive integer) {w:?} in '{entry}'"))
            })?),
        };
        all.push(Wanted::Key { devices, key, header, width });
    }
    Ok(all)
}

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        if self.all_projects && ctx.global.project.is_some() {
            return Err(Error::bad_request("Can't specify --project with --all-projects"));
        }
        let given = if self.fast { Some("nsacPt") } else { self.columns.as_deref() };
        wanted(given.unwrap_or("n"))?;
        let (servers, filters) = self.servers(ctx)?;
        let spec = match given {
            Some(spec) => spec.to_owned(),
            None => self.default_columns(&servers).await?,
        };
        let picked = wanted(&spec)?;
        let full = self.output.format.is_raw()
            || spec.contains(['4', '6', 'D', 'm', 'M', 'N', 'p', 'S', 'u', 'U'])
            || filters.iter().any(|f| f.starts_with("ipv"));
        let mut instances = Vec::new();
        for server in &servers {
            let projects = if self.all_projects { "&all-projects=true" } else { "" };
            let recursion = if full { 2 } else { 1 };
            for mut instance in server.list(&format!("/1.0/instances?recursion={recursion}{projects}")).await? {
                if filters.iter().all(|f| matches(&instance, f)) {
                    if !self.output.format.is_raw() {
                        instance["remote"] = server.remote().into();
                    }
                    instances.push(instance);
                }
            }
        }
        let mut rows: Vec<Vec<String>> = instances.iter().map(|i| picked.iter().map(|c| c.cell(i)).collect()).collect();
        sort_rows(&mut rows);
        let header: Vec<String> = picked.iter().map(Wanted::header).collect();
        print!("{}", self.output.format.render(&header, &rows, &Value::Array(instances)));
        Ok(())
    }

    fn servers(&self, ctx: &Ctx) -> Result<(Vec<Server>, Vec<String>)> {
        if self.all_remotes {
            let usable = ctx.config.remotes.iter().filter(|(_, r)| !r.is_simplestreams());
            return Ok((usable.map(|(name, _)| ctx.server(name)).collect::<Result<_>>()?, self.args.clone()));
        }
        let (server, filters) = super::super::remote_and_filters(ctx, &self.args)?;
        Ok((vec![server], filters))
    }

    async fn default_columns(&self, servers: &[Server]) -> Result<String> {
        let mut spec = String::from("ns46tS");
        if self.all_remotes {
            spec.insert(0, 'R');
        }
        if self.all_projects {
            spec.insert(0, 'e');
        }
        for server in servers {
            if server.is_clustered().await? {
                spec.push('L');
                break;
            }
        }
        Ok(spec)
    }
}

/// True if an instance passes a filter.
fn matches(i: &Value, filter: &str) -> bool {
    let Some((key, value)) = filter.split_once('=') else {
        let name = i["name"].as_str().unwrap_or_default();
        return name.starts_with(filter) || simple_regex(filter, name);
    };
    let any = |test: &dyn Fn(&str) -> bool| value.split(',').any(test);
    match key {
        "type" => any(&|v| v.eq_ignore_ascii_case(&s(i, "type"))),
        "status" => any(&|v| v.eq_ignore_ascii_case(&s(i, "status"))),
        "architecture" => any(&|v| v.eq_ignore_ascii_case(&s(i, "architecture"))),
        "location" => any(&|v| v.eq_ignore_ascii_case(&s(i, "location"))),
        "ipv4" => any(&|v| has_address(i, "inet", v)),
        "ipv6" => any(&|v| has_address(i, "inet6", v)),
        _ => i["expanded_config"].as_object().is_some_and(|config| {
            config.iter().any(|(k, have)| {
                short_for(key, k) && have.as_str().is_some_and(|h| h == value || simple_regex(value, h))
            })
        }),
    }
}

/// True if `short` is `key` with parts shortened: `s.priv` for `security.privileged`.
fn short_for(short: &str, key: &str) -> bool {
    let (short, key): (Vec<&str>, Vec<&str>) = (short.split('.').collect(), key.split('.').collect());
    short.len() == key.len() && short.iter().zip(&key).all(|(s, k)| k.starts_with(s))
}

fn has_address(i: &Value, family: &str, wanted: &str) -> bool {
    let (net, prefix) = wanted.split_once('/').unwrap_or((wanted, ""));
    let Ok(net) = net.parse::<IpAddr>() else { return false };
    let bits = |a: IpAddr| match a {
        IpAddr::V4(a) => (u128::from(u32::from(a)) << 96, 32),
        IpAddr::V6(a) => (u128::from(a), 128),
    };
    let (net, most) = bits(net);
    let prefix: u32 = prefix.parse().unwrap_or(most);
    let mask = if prefix == 0 { 0 } else { u128::MAX << (128 - prefix.min(128)) };
    let nics = i["state"]["network"].as_object().into_iter().flatten();
    nics.flat_map(|(_, nic)| nic["addresses"].as_array().into_iter().flatten())
        .filter(|a| a["family"] == family)
        .filter_map(|a| a["address"].as_str()?.parse::<IpAddr>().ok())
        .any(|a| bits(a).1 == most && bits(a).0 & mask == net & mask)
}

/// Matches the whole text against the usual small part of regular expressions: `.`, `*`, `+`, `?`, `^`, `$`, `[…]`
/// and `\`. Anything else stands for itself.
fn simple_regex(pattern: &str, text: &str) -> bool {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let pattern: Vec<char> = pattern.strip_suffix('$').unwrap_or(pattern).chars().collect();
    let text: Vec<char> = text.chars().collect();
    here(&pattern, &text)
}

fn here(pattern: &[char], text: &[char]) -> bool {
    let Some((atom, rest)) = atom(pattern) else { return text.is_empty() };
    let fits = |c: &char| fits(atom, *c);
    match rest.first() {
        Some('*' | '+') => {
            let least = usize::from(rest[0] == '+');
            let most = text.iter().take_while(|c| fits(c)).count();
            (least..=most).rev().any(|n| here(&rest[1..], &text[n..]))
        }
        Some('?') => (text.first().is_some_and(fits) && here(&rest[1..], &text[1..])) || here(&rest[1..], text),
        _ => text.first().is_some_and(fits) && here(rest, &text[1..]),
    }
}

/// The first thing that a pattern matches one character with, and what follows it.
fn atom(pattern: &[char]) -> Option<(&[char], &[char])> {
    let len = match pattern.first()? {
        '[' => pattern.iter().skip(2).position(|c| *c == ']').map_or(1, |p| p + 3),
        '\\' => 2.min(pattern.len()),
        _ => 1,
    };
    Some(pattern.split_at(len))
}

fn fits(atom: &[char], c: char) -> bool {
    match atom {
        ['.'] => true,
        ['\\', 'd'] => c.is_ascii_digit(),
        ['\\', escaped] => *escaped == c,
        ['[', inner @ .., ']'] => {
            let (not, inner) = inner.strip_prefix(&['^']).map_or((false, inner), |i| (true, i));
            let mut rest = inner;
            let mut found = false;
            while let Some(first) = rest.first() {
                if let [from, '-', to, ..] = rest {
                    found |= (*from..=*to).contains(&c);
                    rest = &rest[3..];
                } else {
                    found |= *first == c;
                    rest = &rest[1..];
                }
            }
            found != not
        }
        [one] => *one == c,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters() {
        let i = json!({"name": "web01", "type": "container", "status": "Running", "location": "n1",
            "expanded_config": {"security.privileged": "true", "user.blah": "abc"},
            "state": {"network": {"eth0": {"addresses": [{"family": "inet", "address": "10.1.2.3"}]}}}});
        for (filter, want) in [
            ("web", true),
            ("eb", false),
            (".*eb.*01$", true),
            ("w[a-f]b[0-9]+", true),
            ("type=container", true),
            ("type=virtual-machine", false),
            ("status=running,stopped", true),
            ("s.privileged=true", true),
            ("s.p=true", true),
            ("u.blah=ab.", true),
            ("user.blah=x", false),
            ("ipv4=10.1.0.0/16", true),
            ("ipv4=10.1.2.4", false),
            ("location=n2", false),
        ] {
            assert_eq!(matches(&i, filter), want, "{filter}");
        }
    }

    #[test]
    fn key_columns() {
        let i = json!({"name": "c1", "expanded_config": {"image.os": "Debian"}, "expanded_devices": {"eth0": {"parent": "br0"}}});
        let all = wanted("n,config:image.os,devices:eth0.parent:ETHP,image.os:O:0").unwrap_or_default();
        let header: Vec<String> = all.iter().map(Wanted::header).collect();
        let row: Vec<String> = all.iter().map(|c| c.cell(&i)).collect();
        assert_eq!(header, ["NAME", "IMAGE.OS", "ETHP", "O"]);
        assert_eq!(row, ["c1", "Debian", "br0", "D"]);
        assert!(wanted("n,image.os:X:wide").is_err());
        assert!(wanted("nQ").is_err());
    }
}
