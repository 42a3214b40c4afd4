//! `incus monitor`.

use api::{Error, Result, endpoint::encode};
use futures::StreamExt;
use serde_json::Value;

use crate::{cmd::s, ctx::Ctx, entity::as_text, output::to_yaml};

/// Watch what a server does
#[derive(clap::Args)]
pub struct Monitor {
    #[arg(value_name = "[remote:]")]
    remote: Option<String>,
    /// Events of all projects
    #[arg(long)]
    all_projects: bool,
    /// json, pretty or yaml
    #[arg(short, long, default_value = "yaml")]
    format: String,
    /// The least level of messages (only with --pretty)
    #[arg(long)]
    loglevel: Option<String>,
    /// Short for --format=pretty
    #[arg(long)]
    pretty: bool,
    /// Only events of this type: logging, operation, lifecycle
    #[arg(short = 't', long = "type")]
    kind: Vec<String>,
}

const LEVELS: &[&str] = &["trace", "debug", "info", "warning", "error", "fatal", "panic"];

impl Monitor {
    /// Watches.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let format = if self.pretty { "pretty" } else { self.format.as_str() };
        if !matches!(format, "json" | "pretty" | "yaml") {
            return Err(Error::bad_request(format!("Invalid format: {format}")));
        }
        if self.loglevel.is_some() && format != "pretty" {
            return Err(Error::bad_request("Log level filtering can only be used with pretty formatting"));
        }
        let least = match &self.loglevel {
            Some(level) => rank(level).ok_or_else(|| Error::bad_request(format!("Unknown log level {level:?}")))?,
            None => 0,
        };
        let (server, _) = ctx.open_optional(self.remote.as_deref())?;
        let mut query: Vec<String> = Vec::new();
        if !self.kind.is_empty() {
            query.push(format!("type={}", encode(&self.kind.join(","))));
        }
        if self.all_projects {
            query.push("all-projects=true".into());
        }
        let mut events = server.websocket(&format!("/1.0/events?{}", query.join("&"))).await?;
        while let Some(message) = events.next().await {
            let message =
                message.map_err(|e| Error::unavailable(format!("The connection to the server broke: {e}")))?;
            let Some(event) = message.to_text().ok().and_then(|t| serde_json::from_str::<Value>(t).ok()) else {
                continue;
            };
            if !self.kind.is_empty() && !self.kind.iter().any(|k| event["type"] == k.as_str()) {
                continue;
            }
            match format {
                "json" => println!("{event}"),
                "pretty" => {
                    if event["type"] != "logging" || rank(&s(&event["metadata"], "level")).unwrap_or(0) >= least {
                        println!("{}", pretty(&event));
                    }
                }
                _ => println!("{}\n\n", to_yaml(&event)),
            }
        }
        Ok(())
    }
}

fn rank(level: &str) -> Option<usize> {
    let level = if level == "warn" { "warning" } else { level };
    LEVELS.iter().position(|l| *l == level)
}

/// An event on one line: level, time, location, message and what belongs to it.
fn pretty(event: &Value) -> String {
    let metadata = &event["metadata"];
    let pairs = |map: &Value| -> String {
        map.as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| {
                let text = as_text(v);
                if text.contains(' ') || text.is_empty() { format!(" {k}={text:?}") } else { format!(" {k}={text}") }
            })
            .collect()
    };
    let (level, message, more) = match event["type"].as_str() {
        Some("logging") => (s(metadata, "level"), s(metadata, "message"), pairs(&metadata["context"])),
        Some("lifecycle") => {
            let message = format!("Action: {}, Source: {}", s(metadata, "action"), s(metadata, "source"));
            ("info".into(), message, pairs(&metadata["context"]))
        }
        _ => {
            let message = format!(
                "ID: {}, Class: {}, Description: {}",
                s(metadata, "id"),
                s(metadata, "class"),
                s(metadata, "description")
            );
            let more = serde_json::json!({ "CreatedAt": metadata["created_at"], "Err": metadata["err"],
                "Location": metadata["location"], "MayCancel": metadata["may_cancel"],
                "Status": metadata["status"], "StatusCode": metadata["status_code"] });
            ("info".into(), message, pairs(&more))
        }
    };
    let level = match level.as_str() {
        "warning" => "WARNING".to_owned(),
        other => other.to_uppercase(),
    };
    let time = s(event, "timestamp");
    let time = time.parse::<jiff::Timestamp>().map_or(time, |t| {
        t.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    });
    let location = s(event, "location");
    let location = if location.is_empty() { String::new() } else { format!(" [{location}]") };
    format!("{level:<7} [{time}]{location} {message}{more}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_on_one_line() {
        let event = json!({"type": "lifecycle", "timestamp": "2026-11-24T02:00:00Z", "location": "n1",
            "metadata": {"action": "instance-started", "source": "/1.0/instances/c1", "context": {"a": "b c"}}});
        let line = pretty(&event);
        assert!(line.starts_with("INFO    [2026-"), "{line}");
        assert!(line.ends_with("[n1] Action: instance-started, Source: /1.0/instances/c1 a=\"b c\""), "{line}");
        assert!(rank("warn") > rank("info") && rank("nope").is_none());
    }
}
