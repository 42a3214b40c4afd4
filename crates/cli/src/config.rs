//! The client's own configuration: remotes, aliases, certificates, and how `<remote>:<name>` is read.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use api::{Error, Result, error::Context};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::output::{from_yaml, to_yaml};

/// A server that the client knows by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Remote {
    /// `unix://`, `unix:///path` or `https://host:port`.
    #[serde(default)]
    pub addr: String,
    /// `tls` or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub auth_type: String,
    /// The project that commands use unless told otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// `incus` or `simplestreams`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// True for image servers that need no trust.
    #[serde(default)]
    pub public: bool,
    /// What else stands in the file.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Remote {
    /// True if the remote is reached over a unix socket.
    pub fn is_unix(&self) -> bool {
        self.addr.starts_with("unix:")
    }

    /// True if the remote speaks simplestreams.
    pub fn is_simplestreams(&self) -> bool {
        self.protocol == "simplestreams"
    }

    /// True if the remote cannot be changed.
    pub fn is_static(&self, name: &str) -> bool {
        name == "local"
    }
}

/// The client's configuration file and the folder that it lies in.
#[derive(Clone, Debug)]
pub struct Config {
    dir: PathBuf,
    /// The remote that names without a prefix belong to.
    pub default_remote: String,
    /// Remotes by name.
    pub remotes: BTreeMap<String, Remote>,
    /// Command aliases by name.
    pub aliases: BTreeMap<String, String>,
    other: Map<String, Value>,
}

impl Config {
    /// Reads `config.yml` from `$INCUS_CONF` or `~/.config/incus`; without one there are the built-in remotes.
    pub fn load() -> Result<Self> {
        Self::load_from(config_dir())
    }

    /// The same from this folder.
    pub(crate) fn load_from(dir: PathBuf) -> Result<Self> {
        let path = dir.join("config.yml");
        let value = match fs::read_to_string(&path) {
            Ok(text) => {
                from_yaml(&text).context(format!("Unable to load the client configuration {}", path.display()))?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(e) => return Err(Error::from(e).context(format!("Unable to read {}", path.display()))),
        };
        Self::from_value(dir, value)
    }

    fn from_value(dir: PathBuf, value: Value) -> Result<Self> {
        let fresh = value.is_null();
        let Value::Object(mut map) = (if fresh { json!({}) } else { value }) else {
            return Err(Error::bad_request("The client configuration is not a map"));
        };
        let bad = |e: serde_json::Error| Error::bad_request(format!("Bad client configuration: {e}"));
        let mut take = |key: &str| map.remove(key).filter(|v| !v.is_null());
        let mut remotes: BTreeMap<String, Remote> =
            take("remotes").map_or(Ok(BTreeMap::new()), serde_json::from_value).map_err(bad)?;
        let aliases = take("aliases").map_or(Ok(BTreeMap::new()), serde_json::from_value).map_err(bad)?;
        let default_remote = take("default-remote").and_then(|v| v.as_str().map(str::to_owned));
        if fresh {
            remotes.insert(
                "images".into(),
                Remote {
                    addr: "https://images.linuxcontainers.org".into(),
                    protocol: "simplestreams".into(),
                    public: true,
                    ..Remote::default()
                },
            );
        }
        remotes.entry("local".into()).or_insert_with(|| Remote { addr: "unix://".into(), ..Remote::default() });
        Ok(Self {
            dir,
            default_remote: default_remote.filter(|r| !r.is_empty()).unwrap_or_else(|| "local".into()),
            remotes,
            aliases,
            other: map,
        })
    }

    /// Changes `config.yml` as it stands now, which other clients may have changed since this was read. They wait
    /// meanwhile: `change` is not to ask anybody, be it a person or a server. Nothing is written if it refuses.
    pub fn change(&self, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let _alone = self.lock()?;
        let mut config = Self::load_from(self.dir.clone())?;
        change(&mut config)?;
        config.save()
    }

    /// Writes `config.yml`, whole or not at all.
    fn save(&self) -> Result<()> {
        let mut map = Map::new();
        map.insert("default-remote".into(), self.default_remote.clone().into());
        let to_value = |v: serde_json::Result<Value>| v.map_err(|e| Error::internal(e.to_string()));
        map.insert("remotes".into(), to_value(serde_json::to_value(&self.remotes))?);
        map.insert("aliases".into(), to_value(serde_json::to_value(&self.aliases))?);
        map.extend(self.other.clone());
        self.write("config.yml", format!("{}\n", to_yaml(&Value::Object(map))).as_bytes(), 0o600)
    }

    /// Splits `[<remote>:]<name>` into the remote's name and the rest.
    pub fn parse_remote(&self, text: &str) -> Result<(String, String)> {
        let Some((remote, name)) = text.split_once(':') else {
            return Ok((self.default_remote(), text.to_owned()));
        };
        if self.remotes.contains_key(remote) {
            Ok((remote.to_owned(), name.to_owned()))
        } else if remote.contains('/') {
            // A snapshot's or file's name may hold a colon.
            Ok((self.default_remote(), text.to_owned()))
        } else {
            Err(Error::not_found(format!("The remote \"{remote}\" doesn't exist")))
        }
    }

    /// The remote of names without a prefix.
    pub fn default_remote(&self) -> String {
        std::env::var("INCUS_REMOTE").ok().filter(|r| !r.is_empty()).unwrap_or_else(|| self.default_remote.clone())
    }

    /// The remote of that name.
    pub fn remote(&self, name: &str) -> Result<&Remote> {
        self.remotes.get(name).ok_or_else(|| Error::not_found(format!("The remote \"{name}\" doesn't exist")))
    }

    /// A file in the configuration's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where the certificate of a remote is kept.
    pub fn server_cert(&self, remote: &str) -> PathBuf {
        self.dir.join("servercerts").join(format!("{remote}.crt"))
    }

    /// Writes a file into the configuration's folder, whole or not at all.
    pub fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.dir.join(name);
        let dir = path.parent().unwrap_or(&self.dir);
        let failed = |e: std::io::Error| Error::from(e).context(format!("Unable to write {}", path.display()));
        fs::create_dir_all(dir).map_err(failed)?;
        // A name of its own: other clients may write it at the same time.
        let mut file = tempfile::Builder::new()
            .prefix(".new_")
            .permissions(fs::Permissions::from_mode(mode))
            .tempfile_in(dir)
            .map_err(failed)?;
        file.write_all(content).map_err(failed)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        file.persist(&path).map(drop).map_err(|e| failed(e.error))
    }

    /// Keeps other clients out that ask for this too, until it is dropped.
    pub fn lock(&self) -> Result<fs::File> {
        let failed = |e: std::io::Error| Error::from(e).context(format!("Unable to lock {}", self.dir.display()));
        fs::create_dir_all(&self.dir).map_err(failed)?;
        let dir = fs::File::open(&self.dir).map_err(failed)?;
        dir.lock().map_err(failed)?;
        Ok(dir)
    }
}

fn config_dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("INCUS_CONF")
        .or_else(|| set("XDG_CONFIG_HOME").map(|d| d.join("incus")))
        .or_else(|| set("HOME").map(|d| d.join(".config/incus")))
        .unwrap_or_else(|| PathBuf::from("/root/.config/incus"))
}

/// The socket of the local daemon.
pub fn local_socket(addr: &str) -> PathBuf {
    let given = addr.trim_start_matches("unix:").trim_start_matches("//");
    if !given.is_empty() {
        return PathBuf::from(given);
    }
    if let Some(socket) = std::env::var_os("INCUS_SOCKET").filter(|s| !s.is_empty()) {
        return PathBuf::from(socket);
    }
    if let Some(dir) = std::env::var_os("INCUS_DIR").filter(|d| !d.is_empty()) {
        return with_user_socket(Path::new(&dir));
    }
    let run = Path::new("/run/incus");
    if run.join("unix.socket").exists() { with_user_socket(run) } else { with_user_socket(Path::new("/var/lib/incus")) }
}

/// The socket in that folder, or the one for restricted users if only that may be used.
fn with_user_socket(dir: &Path) -> PathBuf {
    let (socket, user) = (dir.join("unix.socket"), dir.join("unix.socket.user"));
    let writable = rustix::fs::access(&socket, rustix::fs::Access::WRITE_OK).is_ok();
    if !writable && user.exists() { user } else { socket }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_split_at_known_remotes() {
        let config = Config::from_value(PathBuf::from("/nowhere"), Value::Null).unwrap();
        for (text, want) in [
            ("c1", Ok(("local", "c1"))),
            ("images:debian/12", Ok(("images", "debian/12"))),
            ("local:", Ok(("local", ""))),
            ("c1/a:b", Ok(("local", "c1/a:b"))),
            ("nope:x", Err("The remote \"nope\" doesn't exist")),
        ] {
            let got = config.parse_remote(text).map_err(|e| e.message);
            assert_eq!(got, want.map(|(r, n)| (r.to_owned(), n.to_owned())).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::load_from(dir.path().to_owned()).unwrap();
        config.aliases.insert("x".into(), "list -c n".into());
        config.remotes.insert("r".into(), Remote { addr: "https://10.0.0.1:8443".into(), ..Remote::default() });
        config.default_remote = "r".into();
        config.save().unwrap();
        let again = Config::load_from(dir.path().to_owned()).unwrap();
        assert_eq!(
            (&again.remotes, &again.aliases, &again.default_remote),
            (&config.remotes, &config.aliases, &"r".into())
        );
        assert!(again.remotes.contains_key("images"));
    }

    #[test]
    fn changes_at_the_same_time_all_arrive() {
        let dir = tempfile::tempdir().unwrap();
        let read = Config::load_from(dir.path().to_owned()).unwrap();
        let insert = |alias: String| {
            let changed = read.change(|config| {
                config.aliases.insert(alias, "list".into());
                Ok(())
            });
            changed.unwrap();
        };
        std::thread::scope(|scope| {
            for client in 0..8 {
                scope.spawn(move || (0..8).for_each(|n| insert(format!("{client}-{n}"))));
            }
        });
        assert_eq!(Config::load_from(dir.path().to_owned()).unwrap().aliases.len(), 64);
        let refused = read.change(|config| {
            config.aliases.clear();
            Err(Error::conflict("no"))
        });
        assert_eq!(refused.unwrap_err().message, "no");
        assert_eq!(Config::load_from(dir.path().to_owned()).unwrap().aliases.len(), 64);
    }
}
