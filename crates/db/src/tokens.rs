//! Tokens that let a member join or a client become trusted, once. They outlive the member that gave them out.

use api::{Error, Result};
use jiff::Timestamp;
use serde_json::Value;

use crate::tx::{Tx, Words, found, touched};
use crate::value::{Time, maybe, maybe_time, time};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A member may join.
    Join,
    /// A client may become trusted.
    Trust,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Kind::Join => "join",
            Kind::Trust => "trust",
        }
    }

    fn parse(s: &str) -> Result<Kind> {
        match s {
            "join" => Ok(Kind::Join),
            "trust" => Ok(Kind::Trust),
            _ => Err(Error::internal(format!("Unknown kind of token \"{s}\" in the database"))),
        }
    }
}

/// A token. Of its secret only a hash is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is for.
    pub kind: Kind,
    /// Name of the member or client that it is for.
    pub name: String,
    /// SHA-256 of the secret, in hexadecimal.
    pub secret_hash: String,
    /// UUID of the operation by which clients see it.
    pub operation: String,
    /// When it was given out.
    pub created: Timestamp,
    /// Until when it is good.
    pub expires: Option<Timestamp>,
    /// What else has to be known when it is used: addresses, projects.
    pub body: Value,
}

/// Adds a token. A person can have one for each name; another takes its place only after it is gone.
pub fn create(tx: &Tx<'_>, new: &Token) -> Result<()> {
    let sql = "INSERT INTO tokens (kind, name, secret_hash, operation, created, expires, body)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let (created, expires, body) = (Time(new.created), maybe(new.expires), new.body.to_string());
    tx.run(sql, (new.kind.as_str(), &new.name, &new.secret_hash, &new.operation, created, expires, body))
        .or_taken(|| format!("A token for \"{}\" already exists: revoke it first", new.name))
        .map(drop)
}

/// The tokens of that kind, oldest first, expired ones included.
pub fn list(tx: &Tx<'_>, kind: Kind) -> Result<Vec<Token>> {
    select(tx, "kind = ?1", kind.as_str())
}

/// The token that clients see as that operation.
pub fn by_operation(tx: &Tx<'_>, uuid: &str) -> Result<Option<Token>> {
    Ok(select(tx, "operation = ?1", uuid)?.pop())
}

fn select(tx: &Tx<'_>, condition: &str, param: &str) -> Result<Vec<Token>> {
    let sql = format!("SELECT * FROM tokens WHERE {condition} ORDER BY id");
    let rows = tx.all(&sql, [param], |r| {
        let (kind, body): (String, String) = (r.get("kind")?, r.get("body")?);
        let token = Token {
            kind: Kind::Join,
            name: r.get("name")?,
            secret_hash: r.get("secret_hash")?,
            operation: r.get("operation")?,
            created: time(r, "created")?,
            expires: maybe_time(r, "expires")?,
            body: Value::Null,
        };
        Ok((token, kind, body))
    })?;
    let complete = |(token, kind, body): (Token, String, String)| {
        let body =
            serde_json::from_str(&body).map_err(|e| Error::internal(format!("Bad token in the database: {e}")))?;
        Ok(Token { kind: Kind::parse(&kind)?, body, ..token })
    };
    rows.into_iter().map(complete).collect()
}

/// The token for that name whose secret has this hash, if it is still good.
pub fn find(tx: &Tx<'_>, kind: Kind, name: &str, hash: &str, now: Timestamp) -> Result<Option<Token>> {
    let fits = |t: &Token| t.secret_hash == hash && t.name == name && t.expires.is_none_or(|until| now < until);
    Ok(list(tx, kind)?.into_iter().find(fits))
}

/// Uses a token up: gives it to whoever knows the secret, and forgets it in the same transaction.
///
/// `None` if there is none with that secret, or it has expired.
pub fn redeem(tx: &Tx<'_>, kind: Kind, name: Option<&str>, hash: &str, now: Timestamp) -> Result<Option<Token>> {
    let fits = |t: &Token| {
        t.secret_hash == hash && name.is_none_or(|n| n == t.name) && t.expires.is_none_or(|until| now < until)
    };
    let Some(token) = list(tx, kind)?.into_iter().find(fits) else { return Ok(None) };
    delete(tx, &token.operation)?;
    Ok(Some(token))
}

/// Revokes the token that clients see as that operation.
pub fn delete(tx: &Tx<'_>, operation: &str) -> Result<()> {
    touched(tx.run("DELETE FROM tokens WHERE operation = ?1", [operation])?, "Token")
}

/// Revokes the token of that kind for that name; the operation by which clients saw it.
pub fn revoke(tx: &Tx<'_>, kind: Kind, name: &str) -> Result<String> {
    let sql = "SELECT operation FROM tokens WHERE kind = ?1 AND name = ?2";
    let operation: String = found(tx.one(sql, (kind.as_str(), name), |r| r.get(0))?, "Token")?;
    delete(tx, &operation)?;
    Ok(operation)
}

/// Forgets the tokens that have expired; the operations by which clients saw them.
pub fn prune(tx: &Tx<'_>, now: Timestamp) -> Result<Vec<String>> {
    let sql = "SELECT operation FROM tokens WHERE expires IS NOT NULL AND expires <= ?1";
    let gone: Vec<String> = tx.all(sql, [Time(now)], |r| r.get(0))?;
    gone.iter().try_for_each(|operation| delete(tx, operation))?;
    Ok(gone)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tx::tests::database;

    #[test]
    fn a_token_is_good_once_and_until_it_expires() {
        let c = database();
        let tx = Tx(&c);
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let new = |name: &str, hash: &str, kind: Kind, expires: Option<i64>| Token {
            kind,
            name: name.into(),
            secret_hash: hash.into(),
            operation: format!("op-{hash}"),
            created: at(0),
            expires: expires.map(at),
            body: serde_json::json!({"addresses": ["10.0.0.1:8443"]}),
        };
        create(&tx, &new("node2", "h2", Kind::Join, Some(100))).unwrap();
        create(&tx, &new("node3", "h3", Kind::Join, Some(10))).unwrap();
        create(&tx, &new("laptop", "h4", Kind::Trust, None)).unwrap();
        assert_eq!(
            create(&tx, &new("node2", "h5", Kind::Join, None)).unwrap_err().message,
            "A token for \"node2\" already exists: revoke it first"
        );
        assert_eq!(by_operation(&tx, "op-h2").unwrap(), Some(new("node2", "h2", Kind::Join, Some(100))));
        for (kind, name, hash, now, want) in [
            (Kind::Join, Some("node2"), "wrong", 50, None),
            (Kind::Trust, Some("node2"), "h2", 50, None),
            (Kind::Join, Some("node9"), "h2", 50, None),
            (Kind::Join, Some("node3"), "h3", 50, None),
            (Kind::Join, Some("node2"), "h2", 50, Some("node2")),
            (Kind::Join, Some("node2"), "h2", 50, None),
            (Kind::Trust, None, "h4", 50, Some("laptop")),
        ] {
            let got = redeem(&tx, kind, name, hash, at(now)).unwrap();
            assert_eq!(got.as_ref().map(|t| t.name.as_str()), want, "{kind:?} {name:?} {hash}");
        }
        assert_eq!(prune(&tx, at(50)).unwrap(), ["op-h3"]);
        create(&tx, &new("node3", "h6", Kind::Join, Some(10))).unwrap();
        assert_eq!(revoke(&tx, Kind::Join, "node3").unwrap(), "op-h6");
        assert_eq!(revoke(&tx, Kind::Join, "node3").unwrap_err().message, "Token not found");
        assert!(list(&tx, Kind::Join).unwrap().is_empty());
    }
}
