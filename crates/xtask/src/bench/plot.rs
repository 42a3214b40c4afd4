//! Curves as SVG: how a figure grows on both sides, both axes logarithmic.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::rows::Row;
use crate::sh::Result;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
/// Room for what stands beside the axes.
const LEFT: f64 = 64.0;
const BELOW: f64 = 44.0;
const ABOVE: f64 = 36.0;
const RIGHT: f64 = 70.0;
/// Ours and the peer's: a name and a colour.
const SIDES: [(&str, &str); 2] = [("ours", "#c2410c"), ("Incus 6.0.4", "#475569")];

/// A curve of each side: how many of what, and the median then.
type Curves = [Vec<(f64, f64)>; 2];

/// Writes a file for each curve into the folder.
pub fn write(rows: &[Row], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for (file, text) in files(rows) {
        std::fs::write(folder.join(file), text)?;
    }
    Ok(())
}

/// A file for each curve: its name is made of what it shows.
fn files(rows: &[Row]) -> Vec<(String, String)> {
    let mut curves: BTreeMap<(&str, &str, &str), Curves> = BTreeMap::new();
    for row in rows {
        let Some(point) = &row.point else { continue };
        let curve = curves.entry((&point.curve, point.of, row.unit)).or_default();
        for (side, samples) in curve.iter_mut().zip(&row.sides) {
            side.extend(samples.median().filter(|m| *m > 0.0).map(|median| (point.count as f64, median)));
        }
    }
    let file = |((name, of, unit), curves): ((&str, &str, &str), Curves)| {
        let words = format!("{name} by {of}");
        let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
        let file = words.collect::<Vec<_>>().join("-").to_lowercase() + ".svg";
        (file, svg(name, of, unit, &curves))
    };
    curves.into_iter().map(file).collect()
}

/// One axis: from the power of ten below the smallest value to that above the largest.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Axis {
        let low = values.clone().fold(f64::INFINITY, f64::min).log10().floor();
        let high = values.fold(f64::NEG_INFINITY, f64::max).log10().ceil();
        Axis { low, high: high.max(low + 1.0), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn marks(&self) -> impl Iterator<Item = f64> {
        (self.low as i32..=self.high as i32).map(|power| 10f64.powi(power))
    }
}

fn svg(name: &str, of: &str, unit: &str, curves: &Curves) -> String {
    let points = || curves.iter().flatten();
    let x = Axis::new(points().map(|p| p.0), LEFT, WIDTH - RIGHT);
    let y = Axis::new(points().map(|p| p.1), HEIGHT - BELOW, ABOVE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\" fill=\"#334155\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"13\">{}, {unit}</text>\n",
        escaped(name)
    );
    for mark in y.marks() {
        let at = y.at(mark);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#e2e8f0\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{mark}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for mark in x.marks() {
        let at = x.at(mark);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {ABOVE}V{:.1}\" stroke=\"#e2e8f0\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{mark}</text>",
            HEIGHT - BELOW,
            HEIGHT - BELOW + 16.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{of}</text>",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 10.0
    );
    for (curve, (side, colour)) in curves.iter().zip(SIDES) {
        let places: Vec<(f64, f64)> = curve.iter().map(|(a, b)| (x.at(*a), y.at(*b))).collect();
        let path: Vec<String> = places.iter().map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (a, b) in &places {
            let _ = writeln!(out, "<circle cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        if let Some((a, b)) = places.last() {
            let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{side}</text>", a + 7.0, b + 4.0);
        }
    }
    out + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::{Better, Point};

    #[test]
    fn a_curve_is_a_file_and_rows_that_are_none_are_left_out() {
        let mut rows = vec![Row::new("alone", "ms", Better::Less)];
        for count in [10, 100] {
            let mut row = Row::new("x", "ms", Better::Less);
            row.point = Some(Point { curve: "GET a<b".into(), of: "instances", count });
            row.sides[0].values = vec![count as f64 / 4.0];
            rows.push(row);
        }
        let [(file, text)] = &files(&rows)[..] else { panic!("one curve") };
        assert_eq!(file, "get-a-b-by-instances.svg");
        assert!(text.contains("GET a&lt;b, ms") && text.matches("<circle").count() == 2, "{text}");
    }

    #[test]
    fn an_axis_ends_at_powers_of_ten() {
        let axis = Axis::new([3.0, 250.0].into_iter(), 0.0, 90.0);
        assert_eq!(axis.marks().collect::<Vec<_>>(), [1.0, 10.0, 100.0, 1000.0]);
        assert!((axis.at(10.0) - 30.0).abs() < 1e-9 && (axis.at(1000.0) - 90.0).abs() < 1e-9);
    }
}
