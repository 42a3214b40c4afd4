//! Tables in the looks that people and scripts know: ASCII borders, compact, markdown and CSV.

use std::fmt::Write;

/// How a table looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Borders of `+`, `-` and `|`, a line between all rows.
    Ascii,
    /// Columns parted by one bar, no other lines.
    Compact,
    /// A table for documents.
    Markdown,
    /// Comma-separated values.
    Csv,
}

/// Renders a table; without `header` only the rows (and for CSV that is the rule).
///
/// A cell may hold several lines. What comes back ends with a newline unless it is empty.
pub fn render(style: Style, header: Option<&[String]>, rows: &[Vec<String>]) -> String {
    match style {
        Style::Ascii => ascii(header, rows),
        Style::Compact => compact(header, rows),
        Style::Markdown => markdown(header, rows),
        Style::Csv => header.into_iter().chain(rows.iter().map(Vec::as_slice)).map(csv_line).collect(),
    }
}

fn ascii(header: Option<&[String]>, rows: &[Vec<String>]) -> String {
    let widths = widths(header, rows);
    let mut rule = String::from("+");
    for w in &widths {
        rule.push_str(&"-".repeat(w + 2));
        rule.push('+');
    }
    rule.push('\n');

    let mut out = rule.clone();
    if let Some(header) = header {
        let cells: Vec<String> = header.iter().zip(&widths).map(|(h, w)| format!(" {} ", centred(h, *w))).collect();
        let _ = writeln!(out, "|{}|", cells.join("|"));
        out.push_str(&rule);
    }
    for row in rows {
        for line in lines(row) {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(c, w)| format!(" {} ", padded(c, *w))).collect();
            let _ = writeln!(out, "|{}|", cells.join("|"));
        }
        out.push_str(&rule);
    }
    out
}

fn compact(header: Option<&[String]>, rows: &[Vec<String>]) -> String {
    let widths = widths(header, rows);
    let mut out = String::new();
    let mut line = |cells: Vec<String>| {
        let _ = writeln!(out, "{}", cells.join("│"));
    };
    if let Some(header) = header {
        line(header.iter().zip(&widths).map(|(h, w)| centred(h, *w)).collect());
    }
    for row in rows.iter().flat_map(|r| lines(r)) {
        line(row.iter().zip(&widths).map(|(c, w)| padded(c, *w)).collect());
    }
    out
}

fn markdown(header: Option<&[String]>, rows: &[Vec<String>]) -> String {
    let flat: Vec<Vec<String>> =
        rows.iter().map(|r| r.iter().map(|c| c.replace('|', "\\|").replace('\n', "<br>")).collect()).collect();
    let widths = widths(header, &flat);
    let mut out = String::new();
    if let Some(header) = header {
        let cells: Vec<String> = header.iter().zip(&widths).map(|(h, w)| format!(" {} ", centred(h, *w))).collect();
        let _ = writeln!(out, "|{}|", cells.join("|"));
        let rules: Vec<String> = widths.iter().map(|w| "-".repeat(w + 2)).collect();
        let _ = writeln!(out, "|{}|", rules.join("|"));
    }
    for row in &flat {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(c, w)| format!(" {} ", padded(c, *w))).collect();
        let _ = writeln!(out, "|{}|", cells.join("|"));
    }
    out
}

fn csv_line(cells: &[String]) -> String {
    let quoted: Vec<String> = cells
        .iter()
        .map(|c| {
            let plain = !c.contains(['"', ',', '\n', '\r']) && !c.starts_with([' ', '\t']) && c != "\\.";
            if plain { c.clone() } else { format!("\"{}\"", c.replace('"', "\"\"")) }
        })
        .collect();
    quoted.join(",") + "\n"
}

/// The lines of a row: as many as its tallest cell has, shorter cells filled with nothing.
fn lines(row: &[String]) -> Vec<Vec<&str>> {
    let cells: Vec<Vec<&str>> = row.iter().map(|c| c.split('\n').collect()).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(1);
    (0..height).map(|i| cells.iter().map(|c| c.get(i).copied().unwrap_or_default()).collect()).collect()
}

fn widths(header: Option<&[String]>, rows: &[Vec<String>]) -> Vec<usize> {
    let columns = header.map_or(0, <[String]>::len).max(rows.iter().map(Vec::len).max().unwrap_or(0));
    let mut widths = vec![0; columns];
    for row in header.into_iter().chain(rows.iter().map(Vec::as_slice)) {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = cell.split('\n').map(width).fold(*w, usize::max);
        }
    }
    widths
}

fn padded(text: &str, to: usize) -> String {
    format!("{text}{}", " ".repeat(to.saturating_sub(width(text))))
}

fn centred(text: &str, to: usize) -> String {
    let gap = to.saturating_sub(width(text));
    format!("{}{text}{}", " ".repeat(gap / 2), " ".repeat(gap - gap / 2))
}

/// How many columns of a terminal the text takes: East Asian wide characters take two, marks none.
fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match c as u32 {
            0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
            0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f => 2,
            0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(style: Style, rows: &[&[&str]]) -> String {
        let all: Vec<Vec<String>> = rows.iter().map(|r| r.iter().map(|c| (*c).to_owned()).collect()).collect();
        render(style, Some(&all[0]), &all[1..])
    }

    #[test]
    fn ascii_has_centred_headers_and_lines_between_rows() {
        let got = table(Style::Ascii, &[&["NAME", "ROLES"], &["node1", "database-leader\ndatabase"], &["n2", ""]]);
        let want = "\
+-------+-----------------+
| NAME  |      ROLES      |
+-------+-----------------+
| node1 | database-leader |
|       | database        |
+-------+-----------------+
| n2    |                 |
+-------+-----------------+
";
        assert_eq!(got, want);
        assert_eq!(table(Style::Ascii, &[&["A"]]), "+---+\n| A |\n+---+\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(table(Style::Csv, &[&["a,b", "c"], &["say \"x\"", " y"]]), "\"a,b\",c\n\"say \"\"x\"\"\",\" y\"\n");
    }

    #[test]
    fn markdown_stays_on_one_line() {
        assert_eq!(
            table(Style::Markdown, &[&["A", "B"], &["x\ny", "1|2"]]),
            "\
|   A    |  B   |
|--------|------|
| x<br>y | 1\\|2 |
"
        );
    }
}
