//! The text format in which Prometheus reads metrics.

use std::fmt::Write as _;

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until its source starts anew.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A metric: a name, and values that differ by their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// As `incus_uptime_seconds`.
    pub name: &'static str,
    /// What it says, for people.
    pub help: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// The values, each with its labels.
    pub samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

/// All of them as text. A metric without values is left out.
pub fn render(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for metric in metrics.iter().filter(|m| !m.samples.is_empty()) {
        let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
        let _ = writeln!(text, "# HELP {0} {1}\n# TYPE {0} {kind}", metric.name, metric.help);
        for (labels, value) in &metric.samples {
            let labels: Vec<String> = labels.iter().map(|(name, v)| format!("{name}=\"{}\"", escaped(v))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(text, "{}{labels} {value}", metric.name);
        }
    }
    text
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_lines_that_prometheus_reads() {
        let name = |n: &str| vec![("name", n.to_owned()), ("project", "default".to_owned())];
        let metrics = [
            Metric {
                name: "a_total",
                help: "A.",
                kind: Kind::Counter,
                samples: vec![(name("c1"), 1.5), (name("c\"2"), 3.0)],
            },
            Metric { name: "none", help: "None.", kind: Kind::Gauge, samples: Vec::new() },
            Metric { name: "b", help: "B.", kind: Kind::Gauge, samples: vec![(Vec::new(), 12_345_678_901.0)] },
        ];
        let want = "# HELP a_total A.\n# TYPE a_total counter\na_total{name=\"c1\",project=\"default\"} 1.5\n\
                    a_total{name=\"c\\\"2\",project=\"default\"} 3\n# HELP b B.\n# TYPE b gauge\nb 12345678901\n";
        assert_eq!(render(&metrics), want);
    }
}
