//! Natural order: `c2` comes before `c10`.

use std::cmp::Ordering;

/// Sorts rows by their cells from left to right, naturally; empty cells come last.
pub fn sort_rows(rows: &mut [Vec<String>]) {
    rows.sort_by(|a, b| {
        a.iter().zip(b).map(|(x, y)| cell(x, y)).find(|o| o.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
    });
}

fn cell(a: &str, b: &str) -> Ordering {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => natural(a, b),
    }
}

/// Compares two texts, runs of digits by their value; of equal values the one with fewer zeros before it is less.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while let (Some(x), Some(y)) = (a.first(), b.first()) {
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (na, nb) = (digits(a), digits(b));
            let order = value(na).len().cmp(&value(nb).len());
            let order = order.then_with(|| value(na).cmp(value(nb))).then_with(|| na.len().cmp(&nb.len()));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[na.len()..], &b[nb.len()..]);
        } else if x == y {
            (a, b) = (&a[1..], &b[1..]);
        } else {
            return x.cmp(y);
        }
    }
    a.len().cmp(&b.len())
}

fn digits(s: &[u8]) -> &[u8] {
    &s[..s.iter().take_while(|b| b.is_ascii_digit()).count()]
}

fn value(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().take_while(|b| **b == b'0').count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_by_value() {
        let mut rows: Vec<Vec<String>> = ["c10", "c2", "", "07b", "7f", "6a", "c2a"].map(|s| vec![s.to_owned()]).into();
        sort_rows(&mut rows);
        assert_eq!(rows.concat(), ["6a", "7f", "07b", "c2", "c2a", "c10", ""]);
    }
}
