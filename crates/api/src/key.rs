//! How a configuration key is declared, once.
//!
//! A [`Key`] is a typed constant: reading it gives a value of its type, writing it is checked by its type and
//! its own check. [`AnyKey`] is its untyped face, from which validation and the reference documents are made.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// A free set of configuration, as it travels on the wire and lies in the database.
pub type Config = BTreeMap<String, String>;

/// Where the value of a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The same on all members of the cluster.
    Global,
    /// Each member has its own.
    Local,
}

/// A type that a configuration value can have.
pub trait Value: Sized + 'static {
    /// Its name in the documents: `string`, `integer`, `bool`.
    const TYPE: &'static str;
    /// Reads a value; the error is what a person is told.
    fn parse(s: &str) -> Result<Self, String>;
}

impl Value for String {
    const TYPE: &'static str = "string";
    fn parse(s: &str) -> Result<Self, String> {
        Ok(s.to_owned())
    }
}

/// Text of several lines that somebody else reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(pub String);

impl Value for Blob {
    const TYPE: &'static str = "blob";
    fn parse(s: &str) -> Result<Self, String> {
        Ok(Blob(s.to_owned()))
    }
}

impl Value for i64 {
    const TYPE: &'static str = "integer";
    fn parse(s: &str) -> Result<Self, String> {
        s.parse().map_err(|_| format!("Invalid value for an integer \"{s}\""))
    }
}

impl Value for bool {
    const TYPE: &'static str = "bool";
    fn parse(s: &str) -> Result<Self, String> {
        match s.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" | "" => Ok(false),
            _ => Err(format!("Invalid value for a boolean \"{s}\"")),
        }
    }
}

/// A configuration key with a value of type `T`.
pub struct Key<T: 'static> {
    /// Its name; a last part of `*` stands for anything (`user.*`).
    pub name: &'static str,
    /// The value when it is not set; empty for none.
    pub default: &'static str,
    /// Where it holds.
    pub scope: Scope,
    /// What it means, for people.
    pub doc: &'static str,
    /// What is asked of a value beyond its type.
    pub check: fn(&T) -> Result<(), String>,
}

/// The untyped face of a key.
pub trait AnyKey: Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// The name of its type.
    fn kind(&self) -> &'static str;
    /// Its default.
    fn default(&self) -> &'static str;
    /// Where it holds.
    fn scope(&self) -> Scope;
    /// What it means, for people.
    fn doc(&self) -> &'static str;
    /// Whether the value may be set; empty always may, it unsets the key.
    fn check(&self, value: &str) -> Result<(), String>;

    /// True if this is the declaration of the key `name`: the same, or alike up to a final `*`, or
    /// with a part in capitals (`limits.hugepages.SIZE`) standing for any part.
    fn declares(&self, name: &str) -> bool {
        let (mut want, mut got) = (self.name().split('.'), name.split('.'));
        loop {
            match (want.next(), got.next()) {
                (Some("*"), Some(_)) => return true,
                (Some(w), Some(g)) if w == g || placeholder(w) => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }
}

fn placeholder(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
}

impl<T: Value> AnyKey for Key<T> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn kind(&self) -> &'static str {
        T::TYPE
    }
    fn default(&self) -> &'static str {
        self.default
    }
    fn scope(&self) -> Scope {
        self.scope
    }
    fn doc(&self) -> &'static str {
        self.doc
    }
    fn check(&self, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Ok(());
        }
        T::parse(value).and_then(|v| (self.check)(&v))
    }
}

/// A family of keys: those of the server, of an instance, of a `disk` device…
pub type Family = &'static [&'static dyn AnyKey];

/// The declaration of the key `name` in `family`.
pub fn find(family: Family, name: &str) -> Option<&'static dyn AnyKey> {
    family.iter().copied().find(|k| k.declares(name))
}

/// Checks one key and value in the words that clients know.
pub fn check(family: Family, name: &str, value: &str) -> Result<()> {
    let refused = |why: String| Error::bad_request(format!("cannot set '{name}' to '{value}': {why}"));
    find(family, name).ok_or_else(|| refused("unknown key".into()))?.check(value).map_err(refused)
}

/// Checks keys and values in the words of their family: `unknown` for a key that is none of it, `bad` for a value, with
/// the reason.
pub fn check_all<'a>(
    family: Family,
    config: impl IntoIterator<Item = (&'a String, &'a String)>,
    unknown: impl Fn(&str) -> String,
    bad: impl Fn(&str, String) -> String,
) -> Result<()> {
    for (key, value) in config {
        let declared = find(family, key).ok_or_else(|| Error::bad_request(unknown(key)))?;
        declared.check(value).map_err(|why| Error::bad_request(bad(key, why)))?;
    }
    Ok(())
}

/// Typed reading of a [`Config`].
pub trait Read {
    /// The value of the key, or its default; a stored value that does not parse counts as unset.
    fn read<T: Value>(&self, key: &Key<T>) -> T;
    /// The value of the key if it is set.
    fn read_set<T: Value>(&self, key: &Key<T>) -> Option<T>;
}

impl Read for Config {
    fn read<T: Value>(&self, key: &Key<T>) -> T {
        self.read_set(key)
            .or_else(|| T::parse(key.default).ok())
            .unwrap_or_else(|| panic!("the default of {} is not of its type", key.name))
    }

    fn read_set<T: Value>(&self, key: &Key<T>) -> Option<T> {
        self.get(key.name).filter(|v| !v.is_empty()).and_then(|v| T::parse(v).ok())
    }
}

/// Declares a family of configuration keys: a typed constant each, and a table of all of them.
///
/// ```
/// use api::key::{Config, Read, check};
/// api::keys! { SERVER {
///     /// Seconds after which an unresponsive member is considered offline.
///     OFFLINE_THRESHOLD: i64 = "cluster.offline_threshold", "20", Global,
///         |n| if *n > 10 { Ok(()) } else { Err("Value must be greater than '10'".into()) };
///     /// Anything.
///     USER: String = "user.*", "", Global;
/// }}
/// assert_eq!(Config::new().read(&OFFLINE_THRESHOLD), 20);
/// assert!(check(SERVER, "user.a.b", "x").is_ok());
/// assert_eq!(check(SERVER, "cluster.offline_threshold", "1").unwrap_err().message,
///     "cannot set 'cluster.offline_threshold' to '1': Value must be greater than '10'");
/// ```
#[macro_export]
macro_rules! keys {
    ($family:ident { $( $(#[doc = $doc:literal])+ $name:ident: $type:ty = $key:literal, $default:literal, $scope:ident
        $(, $check:expr)?; )* }) => {
        $( $(#[doc = $doc])+
        pub static $name: $crate::key::Key<$type> = $crate::key::Key {
            name: $key,
            default: $default,
            scope: $crate::key::Scope::$scope,
            doc: concat!($($doc, "\n"),+),
            check: $crate::keys!(@check $type $(, $check)?),
        }; )*

        /// All keys of this family.
        pub static $family: $crate::key::Family = &[$(&$name),*];
    };
    (@check $type:ty) => { |_| Ok(()) };
    (@check $type:ty, $check:expr) => { $check };
}

#[cfg(test)]
mod tests {
    keys! { FAMILY {
        /// A bool.
        FLAG: bool = "a.flag", "true", Local;
        /// Any part.
        PAGES: String = "limits.hugepages.SIZE", "", Local;
        /// Anything below.
        USER: String = "user.*", "", Local;
    }}
    use super::*;

    #[test]
    fn names_match_their_declarations() {
        for (name, known) in [
            ("a.flag", true),
            ("a", false),
            ("a.flag.b", false),
            ("limits.hugepages.64KB", true),
            ("limits.hugepages", false),
            ("user.x", true),
            ("user.x.y", true),
            ("user", false),
            ("users.x", false),
        ] {
            assert_eq!(find(FAMILY, name).is_some(), known, "{name}");
        }
    }

    #[test]
    fn values_are_read_with_their_defaults() {
        let mut config = Config::new();
        assert!(config.read(&FLAG));
        config.insert("a.flag".into(), "off".into());
        assert!(!config.read(&FLAG));
        assert_eq!(
            check(FAMILY, "a.flag", "maybe").unwrap_err().message,
            "cannot set 'a.flag' to 'maybe': Invalid value for a boolean \"maybe\""
        );
        assert_eq!(check(FAMILY, "b", "").unwrap_err().message, "cannot set 'b' to '': unknown key");
    }
}
