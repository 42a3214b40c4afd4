//! YAML as Incus writes it: two spaces, sequences indented below their key, strings quoted only where they must be.

use std::{collections::BTreeMap, fmt};

use api::{Error, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Writes a value as YAML, without a newline at the end.
///
/// An absent list or map of the API (`null`) is written as an empty one.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, Place { key: "", indent: 0, in_config: false });
    out.trim_start_matches('\n').trim_start_matches(' ').to_owned()
}

#[derive(Clone, Copy)]
struct Place<'a> {
    key: &'a str,
    indent: usize,
    in_config: bool,
}

/// What holds free text: times in it are text too, and are quoted.
fn is_config(key: &str) -> bool {
    matches!(key, "config" | "expanded_config" | "properties" | "devices" | "expanded_devices")
}

fn write_value(out: &mut String, value: &Value, at: Place) {
    match value {
        Value::Null => out.push_str(&format!(" {}", absent(at.key))),
        Value::Bool(b) => out.push_str(&format!(" {b}")),
        Value::Number(n) => out.push_str(&format!(" {n}")),
        Value::String(s) => write_string(out, s, at),
        Value::Array(items) if items.is_empty() => out.push_str(" []"),
        Value::Array(items) => {
            for item in items {
                out.push('\n');
                out.push_str(&" ".repeat(at.indent));
                out.push('-');
                write_item(out, item, Place { key: "", indent: at.indent + 2, ..at });
            }
        }
        Value::Object(map) if map.is_empty() => out.push_str(" {}"),
        Value::Object(map) => write_map(out, map, at, false),
    }
}

/// An item of a sequence: a map begins on the line of its dash.
fn write_item(out: &mut String, value: &Value, at: Place) {
    match value {
        Value::Object(map) if !map.is_empty() => write_map(out, map, at, true),
        Value::Array(items) if !items.is_empty() => {
            let mut inner = String::new();
            write_value(&mut inner, value, at);
            out.push(' ');
            out.push_str(inner.trim_start());
        }
        _ => write_value(out, value, at),
    }
}

fn write_map(out: &mut String, map: &Map<String, Value>, at: Place, mut inline: bool) {
    for (key, value) in map {
        if inline {
            out.push(' ');
        } else {
            out.push('\n');
            out.push_str(&" ".repeat(at.indent));
        }
        inline = false;
        out.push_str(&scalar(key, false));
        out.push(':');
        let in_config = at.in_config || is_config(key);
        write_value(out, value, Place { key, indent: at.indent + 2, in_config });
    }
}

/// What an absent value is: most fields of the API that can be absent are lists, some are maps or pointers.
fn absent(key: &str) -> &'static str {
    match key {
        "config" | "devices" | "properties" | "expanded_config" | "expanded_devices" | "network" | "disk"
        | "metadata" | "resources" | "templates" | "kernel_features" | "lxc_features" => "{}",
        "os_info" | "state" | "err" => "null",
        _ => "[]",
    }
}

fn write_string(out: &mut String, s: &str, at: Place) {
    if s.contains('\n') && !s.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        let first_has_space = s.starts_with([' ', '\n']);
        let chomp = match (s.ends_with('\n'), s.ends_with("\n\n") || s == "\n") {
            (_, true) => "+",
            (true, false) => "",
            (false, _) => "-",
        };
        out.push_str(&format!(" |{}{chomp}", if first_has_space { "2" } else { "" }));
        let body = s.strip_suffix('\n').unwrap_or(s);
        for line in body.split('\n') {
            out.push('\n');
            if !line.is_empty() {
                out.push_str(&" ".repeat(at.indent.max(2)));
                out.push_str(line);
            }
        }
        return;
    }
    let is_time = !at.in_config && at.key.ends_with("_at");
    out.push(' ');
    out.push_str(&scalar(s, is_time));
}

/// A text on one line: plain if it can be, otherwise quoted.
fn scalar(s: &str, is_time: bool) -> String {
    if s.is_empty() {
        return "\"\"".into();
    }
    if s.chars().any(|c| c.is_control() || c == '\u{feff}') {
        return double_quoted(s);
    }
    if (looks_typed(s) && !is_time) || s == "<<" {
        return double_quoted(s);
    }
    if plain(s) { s.to_owned() } else { format!("'{}'", s.replace('\'', "''")) }
}

fn double_quoted(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{1b}' => out.push_str("\\e"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02X}", c as u32)),
            c if c.is_control() || c == '\u{feff}' => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// True if the text can stand without quotes.
fn plain(s: &str) -> bool {
    let first = s.chars().next().unwrap_or(' ');
    let after = s.chars().nth(1);
    let starts_badly = match first {
        '-' | '?' | ':' => after.is_none_or(|c| c == ' '),
        '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' | ' ' => true,
        _ => false,
    };
    let document = s.starts_with("---") || s.starts_with("...");
    !starts_badly && !document && !s.ends_with([' ', ':']) && !s.contains(": ") && !s.contains(" #")
}

/// True if a reader would take the plain text for something else than text.
fn looks_typed(s: &str) -> bool {
    const WORDS: &[&str] = &[
        "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE", "y", "Y", "yes", "Yes", "YES",
        "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf",
        ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF",
    ];
    WORDS.contains(&s) || is_number(s) || is_base60(s) || is_time(s)
}

fn is_number(s: &str) -> bool {
    let body = s.strip_prefix(['-', '+']).unwrap_or(s);
    if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    let digits = body.replace('_', "");
    let radix = |prefix: &str, radix: u32| {
        digits.strip_prefix(prefix).is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_digit(radix)))
    };
    let all = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    radix("0x", 16) || radix("0b", 2) || radix("0o", 8) || (digits.chars().all(all) && digits.parse::<f64>().is_ok())
}

/// `1:30`, which YAML 1.1 reads as a number to the base 60.
fn is_base60(s: &str) -> bool {
    let body = s.strip_prefix(['-', '+']).unwrap_or(s);
    let mut parts = body.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let digits = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let minutes = |p: &&str| {
        let whole = p.split('.').next().unwrap_or_default();
        (whole.len() == 1 || (whole.len() == 2 && whole.as_bytes()[0] < b'6'))
            && whole.bytes().all(|b| b.is_ascii_digit())
    };
    digits(first) && first.as_bytes()[0].is_ascii_digit() && !rest.is_empty() && rest.iter().all(minutes)
}

fn is_time(s: &str) -> bool {
    let b = s.as_bytes();
    b.len() >= 8
        && b[..4].iter().all(u8::is_ascii_digit)
        && b[4] == b'-'
        && (s.parse::<jiff::Timestamp>().is_ok() || s.parse::<jiff::civil::Date>().is_ok())
}

/// Reads YAML. Scalars below the keys that hold free text (`config`, `devices`, `properties`) stay text as they
/// were written, so that `limits.cpu: 2` and `security.nesting: true` mean what they say.
pub fn from_yaml(text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str::<Node>(text).map(|n| n.0).map_err(|e| Error::bad_request(e.to_string()))
}

struct Node(Value);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(NodeVisitor).map(Node)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        Node::deserialize(d).map(|n| n.0)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Node(v)) = seq.next_element()? {
            items.push(v);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = match key.as_str() {
                "config" | "properties" => map.next_value::<TextMap>()?.0,
                "devices" => map.next_value::<Devices>()?.0,
                _ => map.next_value::<Node>()?.0,
            };
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

type Texts = BTreeMap<String, Option<String>>;

struct TextMap(Value);

impl<'de> Deserialize<'de> for TextMap {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(texts(Option::<Texts>::deserialize(d)?.unwrap_or_default())))
    }
}

struct Devices(Value);

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let all = Option::<BTreeMap<String, Texts>>::deserialize(d)?.unwrap_or_default();
        Ok(Self(Value::Object(all.into_iter().map(|(name, d)| (name, texts(d))).collect())))
    }
}

fn texts(map: Texts) -> Value {
    Value::Object(map.into_iter().map(|(k, v)| (k, v.unwrap_or_default().into())).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn strings_are_quoted_where_they_must_be() {
        for (text, want) in [
            ("", "\"\""),
            ("1.0", "\"1.0\""),
            ("true", "\"true\""),
            ("y", "\"y\""),
            ("0", "\"0\""),
            ("none", "none"),
            ("dir", "dir"),
            ("1GiB", "1GiB"),
            ("1:30", "\"1:30\""),
            ("10:66:6a:aa", "10:66:6a:aa"),
            ("fd42::1/64", "fd42::1/64"),
            ("[]", "'[]'"),
            ("a: b", "'a: b'"),
            ("it's", "it's"),
            ("'q", "'''q'"),
            ("- x", "'- x'"),
            ("-x", "-x"),
            ("a #b", "'a #b'"),
            ("tab\t", "\"tab\\t\""),
            ("2026-11-24T02:07:42Z", "\"2026-11-24T02:07:42Z\""),
        ] {
            assert_eq!(to_yaml(&json!({ "k": text })), format!("k: {want}"));
        }
    }

    #[test]
    fn nesting_and_absence() {
        let value = json!({"a": [{"b": 1, "c": ["x", "y"]}, [1, 2]], "config": null, "used_by": null, "os_info": null,
            "created_at": "2026-11-24T02:07:42Z", "text": "one\ntwo\n", "open": "x\ny", "e": {}});
        let want = "\
a:
  - b: 1
    c:
      - x
      - \"y\"
  - - 1
    - 2
config: {}
used_by: []
os_info: null
created_at: 2026-11-24T02:07:42Z
text: |
  one
  two
open: |-
  x
  y
e: {}";
        assert_eq!(to_yaml(&value), want);
        assert_eq!(to_yaml(&json!([{"a": 1}, {"a": 2}])), "- a: 1\n- a: 2");
        assert_eq!(to_yaml(&json!([])), "[]");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({"config": {"limits.cpu": "2", "x": "1.0", "t": "a\nb\n", "n": "null"}, "roles": ["a", "b"],
            "devices": {"root": {"size": "10", "path": "/"}}, "public": true, "size": 3, "s": "yes"});
        assert_eq!(from_yaml(&to_yaml(&value)).unwrap(), value);
    }

    #[test]
    fn scalars_of_configuration_stay_text() {
        let got = from_yaml("config:\n  limits.cpu: 2\n  security.nesting: true\n  v: 1.10\n  e:\nname: x").unwrap();
        let want =
            json!({"config": {"e": "", "limits.cpu": "2", "security.nesting": "true", "v": "1.10"}, "name": "x"});
        assert_eq!(got, want);
        assert!(from_yaml("a: [").is_err());
    }
}
