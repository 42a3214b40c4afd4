//! What `--format` and `--columns` mean.

use std::str::FromStr;

use api::{Error, Result};
use serde_json::Value;

use super::{Style, render, sort_rows, to_yaml};

/// The value of `--format`: a format, and whether a header was asked for or forbidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    kind: Kind,
    header: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Table(Style),
    Json,
    Yaml,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let refused = || format!("Invalid value {s:?} for flag \"--format\"");
        let (name, suffix) = s.split_once(',').map_or((s, None), |(n, x)| (n, Some(x)));
        let kind = match name {
            "table" => Kind::Table(Style::Ascii),
            "compact" => Kind::Table(Style::Compact),
            "markdown" => Kind::Table(Style::Markdown),
            "csv" => Kind::Table(Style::Csv),
            "json" => Kind::Json,
            "yaml" => Kind::Yaml,
            _ => return Err(refused()),
        };
        let header = match suffix {
            None | Some("") => None,
            Some("header") => Some(true),
            Some("noheader") => Some(false),
            Some(other) => return Err(format!("Invalid modifier {other:?} on flag \"--format\" ({s:?})")),
        };
        Ok(Self { kind, header })
    }
}

impl Format {
    /// True if cells with several values are written on one line, parted by commas.
    pub fn is_csv(&self) -> bool {
        self.kind == Kind::Table(Style::Csv)
    }

    /// True if the things themselves are shown, not rows of a table.
    pub fn is_raw(&self) -> bool {
        matches!(self.kind, Kind::Json | Kind::Yaml)
    }

    /// The text of a list in this format.
    pub fn render(&self, header: &[String], rows: &[Vec<String>], raw: &Value) -> String {
        match self.kind {
            Kind::Table(style) => {
                let wanted = self.header.unwrap_or(style != Style::Csv);
                render(style, wanted.then_some(header), rows)
            }
            Kind::Json => format!("{raw}\n"),
            Kind::Yaml => format!("{}\n", to_yaml(raw)),
        }
    }
}

/// Parts the values of a cell that stand below each other in tables and are parted by commas in CSV.
pub const EACH: &str = "\u{1f}";

/// A column of a list: its letter, its header, and what stands in it.
pub struct Column<T: ?Sized> {
    /// The letter for `--columns`.
    pub letter: char,
    /// The header.
    pub header: &'static str,
    /// The cell of a thing.
    pub cell: fn(&T) -> String,
}

/// The columns that `spec` (such as `nurs`, commas allowed) asks for.
pub fn columns<'a, T: ?Sized>(all: &'a [Column<T>], spec: &str) -> Result<Vec<&'a Column<T>>> {
    let mut picked = Vec::new();
    for entry in spec.split(',') {
        if entry.is_empty() {
            return Err(Error::bad_request(format!(
                "Empty column entry (redundant, leading or trailing command) in '{spec}'"
            )));
        }
        for letter in entry.chars() {
            picked.push(
                all.iter().find(|c| c.letter == letter).ok_or_else(|| {
                    Error::bad_request(format!("Unknown column shorthand char '{letter}' in '{entry}'"))
                })?,
            );
        }
    }
    Ok(picked)
}

/// What is needed to print a list of API objects.
pub struct Listing<'a> {
    /// The columns that exist.
    pub all: &'a [Column<Value>],
    /// The columns that are wanted.
    pub spec: &'a str,
    /// The format.
    pub format: &'a Format,
    /// Whether rows are sorted by their cells; otherwise they keep the order in which the server gave them.
    pub sort: bool,
}

/// Prints a list of API objects.
pub fn print_list(listing: &Listing, items: Vec<Value>) -> Result<()> {
    let picked = columns(listing.all, listing.spec)?;
    let separator = if listing.format.is_csv() { "," } else { "\n" };
    let mut rows: Vec<Vec<String>> =
        items.iter().map(|i| picked.iter().map(|c| (c.cell)(i).replace(EACH, separator)).collect()).collect();
    if listing.sort {
        sort_rows(&mut rows);
    }
    let header: Vec<String> = picked.iter().map(|c| c.header.to_owned()).collect();
    print!("{}", listing.format.render(&header, &rows, &Value::Array(items)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_with_their_suffix() {
        for (text, ok) in [("table", true), ("csv,header", true), ("compact,noheader", true), ("markdown", true)] {
            assert_eq!(text.parse::<Format>().is_ok(), ok, "{text}");
        }
        assert_eq!("foo".parse::<Format>().unwrap_err(), "Invalid value \"foo\" for flag \"--format\"");
        let csv: Format = "csv,header".parse().unwrap();
        assert_eq!(csv.render(&["A".into()], &[vec!["x".into()]], &Value::Null), "A\nx\n");
        let bare: Format = "csv".parse().unwrap();
        assert_eq!(bare.render(&["A".into()], &[vec!["x".into()]], &Value::Null), "x\n");
    }

    #[test]
    fn unknown_and_empty_columns_are_refused() {
        let all: &[Column<Value>] = &[Column { letter: 'n', header: "NAME", cell: |v| v.to_string() }];
        for (spec, want) in [
            ("nx", "Unknown column shorthand char 'x' in 'nx'"),
            ("n,,n", "Empty column entry (redundant, leading or trailing command) in 'n,,n'"),
        ] {
            assert_eq!(columns(all, spec).err().map(|e| e.message).unwrap_or_default(), want);
        }
        assert_eq!(columns(all, "n,n").unwrap().len(), 2);
    }
}
