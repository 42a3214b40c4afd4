//! `?filter=`: which things of a list are wanted.
//!
//! Conditions are `field eq value` (also `ne`, `gt`, `ge`, `lt`, `le`; fields with dots reach inside) joined by
//! `and`, `or` and `not`, in brackets if need be; or the short form `field=value`, several separated by spaces,
//! where the value is a regular word or has `*` at either end.

use api::{Error, Result};
use serde_json::Value;

/// How deep brackets and `not` may be nested: anybody can ask for a list, and each level takes some of the stack.
const DEPTH: usize = 64;

/// A condition on JSON objects.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Everything.
    All,
    /// All of these.
    And(Vec<Filter>),
    /// Any of these.
    Or(Vec<Filter>),
    /// Not this.
    Not(Box<Filter>),
    /// A field compared with a value.
    Field(String, Compare, String),
}

/// How a field is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compare {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
}

impl Filter {
    /// Reads a filter; the empty text accepts everything.
    pub fn parse(text: &str) -> Result<Filter> {
        let words = words(text)?;
        if words.is_empty() {
            return Ok(Filter::All);
        }
        if words.iter().all(|w| w.split_once('=').is_some_and(|(k, _)| !k.is_empty())) {
            let pair = |w: &String| {
                let (field, value) = w.split_once('=').unwrap_or((w, ""));
                Filter::Field(field.to_owned(), Compare::Eq, value.to_owned())
            };
            return Ok(Filter::And(words.iter().map(pair).collect()));
        }
        let mut rest = words.as_slice();
        let filter = any(&mut rest, DEPTH)?;
        if rest.is_empty() { Ok(filter) } else { Err(bad(&format!("unexpected \"{}\"", rest[0]))) }
    }

    /// True if the thing is wanted.
    pub fn accepts(&self, thing: &Value) -> bool {
        match self {
            Filter::All => true,
            Filter::And(all) => all.iter().all(|f| f.accepts(thing)),
            Filter::Or(any) => any.iter().any(|f| f.accepts(thing)),
            Filter::Not(not) => !not.accepts(thing),
            Filter::Field(field, compare, want) => {
                let have = look_up(thing, field);
                let have = have.map_or_else(String::new, |v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
                compares(&have, *compare, want)
            }
        }
    }
}

fn bad(why: &str) -> Error {
    Error::bad_request(format!("Invalid filter: {why}"))
}

fn words(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    for c in text.chars() {
        match c {
            '"' => (quoted, any) = (!quoted, true),
            c if quoted => word.push(c),
            c if c.is_whitespace() || c == '(' || c == ')' => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
                if !c.is_whitespace() {
                    words.push(c.to_string());
                }
            }
            c => word.push(c),
        }
    }
    if quoted {
        return Err(bad("a quotation mark is missing"));
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

fn next<'a>(rest: &mut &'a [String]) -> Option<&'a str> {
    let (first, others) = rest.split_first()?;
    *rest = others;
    Some(first)
}

fn take(rest: &mut &[String], word: &str) -> bool {
    let there = rest.first().is_some_and(|w| w == word);
    if there {
        *rest = &rest[1..];
    }
    there
}

fn any(rest: &mut &[String], depth: usize) -> Result<Filter> {
    let mut parts = vec![all(rest, depth)?];
    while take(rest, "or") {
        parts.push(all(rest, depth)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::Or(parts) })
}

fn all(rest: &mut &[String], depth: usize) -> Result<Filter> {
    let mut parts = vec![one(rest, depth)?];
    while take(rest, "and") {
        parts.push(one(rest, depth)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Filter::And(parts) })
}

fn one(rest: &mut &[String], depth: usize) -> Result<Filter> {
    let depth = depth.checked_sub(1).ok_or_else(|| bad(&format!("it is nested more than {DEPTH} deep")))?;
    if take(rest, "not") {
        return Ok(Filter::Not(Box::new(one(rest, depth)?)));
    }
    if take(rest, "(") {
        let inside = any(rest, depth)?;
        return if take(rest, ")") { Ok(inside) } else { Err(bad("a bracket is missing")) };
    }
    let field = next(rest).ok_or_else(|| bad("a condition is missing at the end"))?;
    let compare = match next(rest) {
        Some("eq") => Compare::Eq,
        Some("ne") => Compare::Ne,
        Some("gt") => Compare::Gt,
        Some("ge") => Compare::Ge,
        Some("lt") => Compare::Lt,
        Some("le") => Compare::Le,
        other => return Err(bad(&format!("\"{}\" is no comparison (eq, ne, gt, ge, lt, le)", other.unwrap_or("")))),
    };
    let value = next(rest).ok_or_else(|| bad(&format!("\"{field}\" is compared with nothing")))?;
    Ok(Filter::Field(field.to_owned(), compare, value.to_owned()))
}

/// Keys may hold dots themselves (`config.user.a`): the longest key that fits is taken first.
fn look_up<'a>(thing: &'a Value, field: &str) -> Option<&'a Value> {
    let object = thing.as_object()?;
    if let Some(value) = object.get(field) {
        return Some(value);
    }
    field.match_indices('.').find_map(|(dot, _)| look_up(object.get(&field[..dot])?, &field[dot + 1..]))
}

fn compares(have: &str, compare: Compare, want: &str) -> bool {
    let order = match (have.parse::<f64>(), want.parse::<f64>()) {
        (Ok(have), Ok(want)) => have.partial_cmp(&want),
        _ => Some(have.cmp(want)),
    };
    let alike = match (want.strip_prefix('*'), want.strip_suffix('*')) {
        (Some(end), Some(_)) if want.len() > 1 => have.contains(end.trim_end_matches('*')),
        (Some(end), _) if !end.is_empty() => have.ends_with(end),
        (_, Some(start)) if !start.is_empty() => have.starts_with(start),
        _ => order == Some(std::cmp::Ordering::Equal),
    };
    match compare {
        Compare::Eq => alike,
        Compare::Ne => !alike,
        Compare::Gt => order.is_some_and(|o| o.is_gt()),
        Compare::Ge => order.is_some_and(|o| o.is_ge()),
        Compare::Lt => order.is_some_and(|o| o.is_lt()),
        Compare::Le => order.is_some_and(|o| o.is_le()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters_pick_what_they_say() {
        let thing = json!({"name": "c1", "status": "Running", "size": 10, "config": {"user.a": "x y"}});
        for (filter, want) in [
            ("", true),
            ("name eq c1", true),
            ("name eq c2", false),
            ("name ne c2 and status eq Running", true),
            ("name eq c2 or size gt 9", true),
            ("not (name eq c1 or name eq c2)", false),
            ("config.user.a eq \"x y\"", true),
            ("name=c1 status=Running", true),
            ("name=c* status=Stopped", false),
            ("size le 9", false),
            ("missing eq \"\"", true),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().accepts(&thing), want, "{filter}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for (filter, why) in [
            ("name", "\"\" is no comparison (eq, ne, gt, ge, lt, le)"),
            ("name is c1", "\"is\" is no comparison (eq, ne, gt, ge, lt, le)"),
            ("name eq", "\"name\" is compared with nothing"),
            ("(name eq c1", "a bracket is missing"),
            ("name eq c1 c2", "unexpected \"c2\""),
            ("name eq \"c1", "a quotation mark is missing"),
            ("name eq c1 and", "a condition is missing at the end"),
        ] {
            assert_eq!(Filter::parse(filter).unwrap_err().message, format!("Invalid filter: {why}"), "{filter}");
        }
    }
}
