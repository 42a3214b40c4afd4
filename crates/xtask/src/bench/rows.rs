//! What was measured: rows of ours and the peer's, as a table and as JSON.

use std::path::Path;

use serde_json::{Value, json};

use crate::sh::Result;

/// Which way a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Times, memory.
    Less,
    /// Things per second.
    More,
}

/// One thing that was measured on both sides.
#[derive(Clone, Debug)]
pub struct Row {
    /// What.
    pub name: String,
    /// In which unit.
    pub unit: &'static str,
    /// Which way it is good.
    pub better: Better,
    /// What was measured, ours first.
    pub sides: [Samples; 2],
    /// What grows, and how far it has grown here: the row is a point of a curve.
    pub point: Option<Point>,
}

/// A point of a curve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// What the curve shows.
    pub curve: String,
    /// What there is more and more of.
    pub of: &'static str,
    /// How many.
    pub count: usize,
}

/// What was measured on one side.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// One per round.
    pub values: Vec<f64>,
    /// Why there are no (more) values, or what else has to be said.
    pub note: String,
}

impl Samples {
    /// The middle one.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            n if n % 2 == 1 => Some(sorted[middle]),
            _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        }
    }

    /// Smallest and largest, if there are several.
    fn spread(&self) -> String {
        let low = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if self.values.len() < 2 { String::new() } else { format!(" ({}–{})", figure(low), figure(high)) }
    }
}

impl Row {
    /// A row without values.
    pub fn new(name: &str, unit: &'static str, better: Better) -> Row {
        Row { name: name.to_owned(), unit, better, sides: Default::default(), point: None }
    }

    /// How many times better ours is.
    pub fn ratio(&self) -> Option<f64> {
        let [ours, peer] = [self.sides[0].median()?, self.sides[1].median()?];
        let ratio = match self.better {
            Better::Less => peer / ours,
            Better::More => ours / peer,
        };
        ratio.is_finite().then_some(ratio)
    }

    fn notes(&self) -> String {
        let said = ["ours", "peer"].iter().zip(&self.sides).filter(|(_, s)| !s.note.is_empty());
        said.map(|(name, s)| format!("{name}: {}", s.note)).collect::<Vec<_>>().join("; ")
    }

    fn as_json(&self) -> Value {
        let rounded = |value: Option<f64>| value.map(|v| (v * 1e3).round() / 1e3);
        let mut row = json!({
            "name": self.name,
            "unit": self.unit,
            "ours": rounded(self.sides[0].median()),
            "peer": rounded(self.sides[1].median()),
            "ratio": rounded(self.ratio()),
        });
        if !self.notes().is_empty() {
            row["note"] = self.notes().into();
        }
        row
    }
}

/// Three digits that matter.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Prints all rows: medians, the spread of the rounds, and how many times better ours is.
pub fn print(rows: &[Row]) {
    let cell = |s: &Samples| s.median().map_or_else(|| "-".to_owned(), |m| figure(m) + &s.spread());
    println!("{:<58} {:<5} {:>26} {:>26} {:>8}", "measure", "unit", "ours", "peer", "ratio");
    for row in rows {
        let [ours, peer] = [cell(&row.sides[0]), cell(&row.sides[1])];
        let ratio = row.ratio().map_or_else(|| "-".to_owned(), |r| format!("{}x", figure(r)));
        println!("{:<58} {:<5} {ours:>26} {peer:>26} {ratio:>8}", row.name, row.unit);
        if !row.notes().is_empty() {
            println!("    {}", row.notes());
        }
    }
}

/// Writes them as JSON, a line per row.
pub fn write(rows: &[Row], path: &Path) -> Result<()> {
    let lines: Vec<String> = rows.iter().map(|r| format!("  {}", r.as_json())).collect();
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    std::fs::write(path, text).map_err(|e| format!("writing {}: {e}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(better: Better, ours: &[f64], peer: &[f64]) -> Row {
        let side = |values: &[f64]| Samples { values: values.to_vec(), note: String::new() };
        Row { sides: [side(ours), side(peer)], ..Row::new("r", "ms", better) }
    }

    #[test]
    fn a_ratio_above_one_means_that_ours_is_better() {
        for (row, want) in [
            (row(Better::Less, &[1.0, 9.0, 2.0], &[8.0]), Some(4.0)),
            (row(Better::More, &[10.0, 20.0], &[5.0]), Some(3.0)),
            (row(Better::Less, &[], &[5.0]), None),
            (row(Better::Less, &[0.0], &[5.0]), None),
        ] {
            assert_eq!(row.ratio(), want, "{row:?}");
        }
    }

    #[test]
    fn json_says_why_something_is_missing() {
        let mut row = row(Better::Less, &[], &[5.0]);
        row.sides[0].note = "no instances".into();
        let want = r#"{"name":"r","unit":"ms","ours":null,"peer":5.0,"ratio":null,"note":"ours: no instances"}"#;
        assert_eq!(row.as_json().to_string(), want);
    }
}
