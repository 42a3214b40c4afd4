//! What all things with a configuration have in common: show, get, set, unset and edit.

use api::{Error, Result};
use serde_json::{Map, Value};

use crate::{ctx::Ctx, edit, output::to_yaml, server::Server};

/// What `get` does about a key that is not set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It refuses.
    Error,
    /// It prints an empty line.
    EmptyLine,
    /// It prints nothing.
    Nothing,
}

/// What `unset` does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unset {
    /// Sends an empty value and lets the server decide.
    Empty,
    /// Takes the key out, which must be there.
    Remove,
}

/// A thing of the API that can be shown and changed.
pub struct Entity<'a> {
    /// The context.
    pub ctx: &'a Ctx,
    /// The server that has it.
    pub server: Server,
    /// Its path.
    pub path: String,
    /// What it is, in words.
    pub noun: &'static str,
    /// Its name.
    pub name: String,
    /// The fields that can be changed.
    pub fields: &'static [&'static str],
    /// Whether only those are shown.
    pub brief: bool,
    /// What `get` does about a key that is not set.
    pub missing: Missing,
    /// What `unset` does.
    pub unset: Unset,
}

impl Entity<'_> {
    /// Prints it as YAML.
    pub async fn show(&self) -> Result<()> {
        let value = self.server.get(&self.path).await?.value;
        println!("{}", to_yaml(&if self.brief { self.writable(value) } else { value }));
        Ok(())
    }

    /// Prints the value of a configuration key or property.
    pub async fn get(&self, key: &str, property: bool) -> Result<()> {
        self.get_in("config", key, property).await
    }

    /// The same, the configuration being the field `config`.
    pub async fn get_in(&self, config: &str, key: &str, property: bool) -> Result<()> {
        let value = self.server.get(&self.path).await?.value;
        if property {
            let found = value.get(key).ok_or_else(|| self.no_property(key))?;
            println!("{}", as_text(found));
            return Ok(());
        }
        match (value[config].get(key), self.missing) {
            (Some(v), _) => println!("{}", as_text(v)),
            (None, Missing::EmptyLine) => println!(),
            (None, Missing::Nothing) => {}
            (None, Missing::Error) => {
                return Err(Error::not_found(format!(
                    "The key {key:?} does not exist on {} {:?}",
                    self.noun, self.name
                )));
            }
        }
        Ok(())
    }

    /// Sets configuration keys or properties.
    pub async fn set(&self, pairs: &[(String, String)], property: bool) -> Result<()> {
        let reply = self.server.get(&self.path).await?;
        let mut value = reply.value;
        for (key, text) in pairs {
            if property {
                let old = value.get(key).ok_or_else(|| self.no_property(key))?;
                value[key] = from_text(old, text).map_err(|e| e.context(format!("Error setting property {key:?}")))?;
            } else {
                self.set_config(&mut value, key, text)?;
            }
        }
        self.put(value, reply.etag.as_deref()).await
    }

    fn set_config(&self, value: &mut Value, key: &str, text: &str) -> Result<()> {
        if !value["config"].is_object() {
            value["config"] = Value::Object(Map::new());
        }
        if text.is_empty() && self.unset == Unset::Remove {
            let removed = value["config"].as_object_mut().and_then(|c| c.shift_remove(key));
            return match removed {
                Some(_) => Ok(()),
                None => Err(Error::bad_request(format!("Can't unset key '{key}', it's not currently set"))),
            };
        }
        value["config"][key] = text.into();
        Ok(())
    }

    /// Unsets configuration keys or properties.
    pub async fn unset(&self, keys: &[String], property: bool) -> Result<()> {
        let pairs: Vec<(String, String)> = keys.iter().map(|k| (k.clone(), String::new())).collect();
        self.set(&pairs, property).await
    }

    /// Sends what can be changed of `value`, and waits.
    pub async fn put(&self, value: Value, etag: Option<&str>) -> Result<()> {
        let reply = self.server.put(&self.path, &self.writable(value), etag).await?;
        self.ctx.wait(&self.server, reply).await?;
        Ok(())
    }

    fn writable(&self, value: Value) -> Value {
        let Value::Object(map) = value else { return Value::Object(Map::new()) };
        Value::Object(map.into_iter().filter(|(k, _)| self.fields.contains(&k.as_str())).collect())
    }

    /// Changes it as YAML, from standard input or in an editor, which shows `help` as comments first.
    pub async fn edit(&self, help: &str) -> Result<()> {
        if let Some(text) = edit::piped()? {
            return self.put(crate::output::from_yaml(&text)?, None).await;
        }
        let reply = self.server.get(&self.path).await?;
        let comment: String = help.lines().map(|l| format!("### {l}\n").replace(" \n", "\n")).collect();
        let shown = if self.brief { self.writable(reply.value) } else { reply.value };
        let content = format!("{comment}\n{}\n", to_yaml(&shown));
        let etag = reply.etag.as_deref();
        edit::yaml(&content, |value| self.put(value, etag)).await
    }

    fn no_property(&self, key: &str) -> Error {
        Error::not_found(format!("The property {key:?} does not exist on the {} {:?}", self.noun, self.name))
    }
}

/// A value as `get` prints it.
pub fn as_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(as_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let all: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", as_text(v))).collect();
            format!("map[{}]", all.join(" "))
        }
        other => other.to_string(),
    }
}

/// Reads a text as a value of the same kind as `old`.
fn from_text(old: &Value, text: &str) -> Result<Value> {
    Ok(match old {
        Value::Bool(_) => Value::Bool(<bool as api::key::Value>::parse(text).map_err(Error::bad_request)?),
        Value::Number(_) => text
            .parse::<i64>()
            .map_err(|_| Error::bad_request(format!("Invalid value for an integer {text:?}")))?
            .into(),
        Value::Array(_) => text.split(',').map(str::trim).filter(|p| !p.is_empty()).collect(),
        Value::Object(_) => return Err(Error::bad_request("it is a map; use the command without --property")),
        Value::Null | Value::String(_) => text.into(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn properties_keep_their_type() {
        for (old, text, want) in [
            (json!("x"), "y", Some(json!("y"))),
            (json!(false), "yes", Some(json!(true))),
            (json!(["a"]), "b, c", Some(json!(["b", "c"]))),
            (json!(["a"]), "", Some(json!([]))),
            (json!(1), "7", Some(json!(7))),
            (json!(1), "x", None),
            (json!(true), "perhaps", None),
            (json!({}), "x", None),
        ] {
            assert_eq!(from_text(&old, text).ok(), want, "{old} {text}");
        }
    }

    #[test]
    fn values_as_text() {
        assert_eq!(as_text(&json!(["a", "b"])), "[a b]");
        assert_eq!(as_text(&json!({"k": "v"})), "map[k:v]");
        assert_eq!(as_text(&json!(null)), "");
    }
}
