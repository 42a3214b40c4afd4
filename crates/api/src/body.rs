//! JSON bodies of requests as clients send them.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};

/// Reads a body as clients send it.
pub fn parse<B: DeserializeOwned>(bytes: &[u8]) -> Result<B> {
    // An endpoint without a body ignores what is sent.
    if size_of::<B>() == 0
        && let Ok(nothing) = serde_json::from_str("null")
    {
        return Ok(nothing);
    }
    if bytes.is_empty() {
        return Err(Error::bad_request("EOF"));
    }
    serde_json::from_slice(bytes).or_else(|e| {
        let refused = || Error::bad_request(json_error(bytes, &e));
        if !e.is_data() {
            return Err(refused());
        }
        // Clients in Go write `null` for an empty list or map.
        let mut value = serde_json::from_slice(bytes).map_err(|_| refused())?;
        drop_nulls(&mut value);
        serde_json::from_value(value).map_err(|_| refused())
    })
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, v| !v.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The words that clients know for the commonest slips; otherwise those of the parser.
fn json_error(bytes: &[u8], e: &serde_json::Error) -> String {
    let upto: usize = bytes.split_inclusive(|b| *b == b'\n').take(e.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let at = (upto + e.column()).saturating_sub(1);
    match (e.classify(), bytes.get(at)) {
        (serde_json::error::Category::Eof, _) => "unexpected EOF".into(),
        (serde_json::error::Category::Syntax, Some(&c)) => {
            let before = bytes[..at].iter().rev().find(|b| !b.is_ascii_whitespace());
            let place = match before {
                None => "looking for beginning of value",
                Some(b'{' | b',') if e.to_string().starts_with("key must be a string") => {
                    "looking for beginning of object key string"
                }
                Some(_) => return e.to_string(),
            };
            format!("invalid character '{}' {place}", char::from(c))
        }
        _ => e.to_string(),
    }
}

/// Refuses what is no such body.
pub fn check<B: DeserializeOwned>(bytes: &[u8]) -> Result<()> {
    parse::<B>(bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn bad_json_is_explained_in_known_words() {
        for (text, want) in [
            ("", "EOF"),
            ("{nope", "invalid character 'n' looking for beginning of object key string"),
            ("nope", "expected ident at line 1 column 2"),
            ("?", "invalid character '?' looking for beginning of value"),
            ("{\"a\":", "unexpected EOF"),
        ] {
            let got = parse::<Value>(text.as_bytes()).unwrap_err();
            assert_eq!((got.kind, got.message.as_str()), (Kind::BadRequest, want), "{text}");
        }
        assert_eq!(parse::<()>(b"anything"), Ok(()));
    }

    #[test]
    fn null_is_nothing() {
        let put: crate::cluster::ClusterPut = parse(b"{\"member_config\": null, \"server_name\": \"a\"}").unwrap();
        assert_eq!((put.server_name.as_str(), put.member_config.len()), ("a", 0));
    }
}
