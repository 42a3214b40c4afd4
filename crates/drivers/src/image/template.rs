//! Files of an instance that are made from templates of its image.
//!
//! Templates come with images and are not trusted: they read nothing but what they are given, take limited time and
//! memory, and what they write lands inside of the instance, wherever its links lead.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use api::error::Context as _;
use api::image::ImageMetadataTemplate;
use api::key::Config;
use api::{Error, Result};
use minijinja::value::Kwargs;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use rustix::fs::{self, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::beneath::Root;
use super::read_metadata;

/// The largest template, in bytes.
const MAX_TEMPLATE: u64 = 1 << 20;
/// The most that a template may make, in bytes.
const MAX_OUTPUT: usize = 16 << 20;
/// Steps that a template may take.
const FUEL: u64 = 5_000_000;

/// What templates are told about the instance.
#[derive(Clone, Debug, Default)]
pub struct TemplateContext {
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub architecture: String,
    /// True if it runs without a user namespace.
    pub privileged: bool,
    /// True if it is gone when it stops.
    pub ephemeral: bool,
    /// Its configuration, with that of its profiles.
    pub config: Config,
    /// Its devices, with those of its profiles.
    pub devices: api::profile::Devices,
    /// Is added to owner and group of files that are newly made: 0 when ids are mapped by the mount.
    pub id_base: u32,
}

/// Makes the files of the instance in `dir` (`metadata.yaml`, `templates/`, `rootfs/`) whose templates are for
/// `trigger`: `create`, `copy`, `start` or `rename`. An instance without `metadata.yaml` has none.
pub fn apply(dir: &Path, trigger: &str, instance: &TemplateContext) -> Result<()> {
    let metadata = match read_metadata(dir) {
        Ok(metadata) => metadata,
        Err(e) if e.kind == api::Kind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let root = Root::open(dir)?;
    for (path, template) in &metadata.templates {
        if template.when.iter().any(|when| when == trigger) {
            apply_one(&root, path, template, trigger, instance)
                .context(format!("Making \"{path}\" from its template"))?;
        }
    }
    Ok(())
}

fn apply_one(
    root: &Root,
    path: &str,
    template: &ImageMetadataTemplate,
    trigger: &str,
    instance: &TemplateContext,
) -> Result<()> {
    let rootfs = root.sub(b"rootfs")?;
    if template.create_only && rootfs.open_inside(path.as_bytes(), OFlags::PATH, 0).is_ok() {
        return Ok(());
    }
    if template.template.is_empty() || template.template.contains('/') {
        return Err(Error::bad_request(format!("\"{}\" is no name of a template", template.template)));
    }
    let source = root.sub(b"templates")?.read(template.template.as_bytes(), MAX_TEMPLATE)?;
    let source = String::from_utf8(source).map_err(|_| Error::bad_request("The template isn't text"))?;
    let text = render(&source, path, &template.properties, trigger, instance)?;
    write(&rootfs, path, template, &text, instance.id_base)
}

/// What a template makes.
pub fn render(
    source: &str,
    path: &str,
    properties: &Config,
    trigger: &str,
    instance: &TemplateContext,
) -> Result<Vec<u8>> {
    let bad = |e: minijinja::Error| Error::bad_request(format!("The template is wrong: {e}"));
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Chainable);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_fuel(Some(FUEL));
    let config = instance.config.clone();
    env.add_function("config_get", move |key: String, default: Option<Value>, _: Kwargs| {
        config.get(&key).map(|v| Value::from(v.as_str())).or(default).unwrap_or_else(|| Value::from(""))
    });
    let about = context! {
        name => instance.name.clone(),
        architecture => instance.architecture.clone(),
        privileged => instance.privileged.to_string(),
        ephemeral => instance.ephemeral.to_string(),
        type => "container",
    };
    let given = context! {
        trigger => trigger,
        path => path,
        container => about.clone(),
        instance => about,
        config => instance.config.clone(),
        devices => instance.devices.clone(),
        properties => properties.clone(),
    };
    let mut out = Limited(Vec::new());
    // The engine takes one newline away from the end: it gets one more.
    let source = if source.ends_with('\n') { format!("{source}\n") } else { source.to_owned() };
    env.template_from_str(&source).and_then(|t| t.render_captured_to(given, &mut out).map(drop)).map_err(bad)?;
    Ok(out.0)
}

struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("it makes more than {MAX_OUTPUT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a file inside of the instance. One that is there keeps its owner and mode.
fn write(rootfs: &Root, path: &str, template: &ImageMetadataTemplate, text: &[u8], id_base: u32) -> Result<()> {
    let failed = |e: Errno| Error::from(io::Error::from(e));
    let path = path.trim_start_matches('/');
    let number = |value: &str, radix, or: u32| match value {
        "" => Ok(or),
        _ => u32::from_str_radix(value, radix).map_err(|_| Error::bad_request(format!("\"{value}\" is no id or mode"))),
    };
    let id = |value: &str| {
        let impossible = || Error::bad_request(format!("The owner {value} is impossible"));
        // The highest id means "leave as it is" to the kernel.
        number(value, 10, 0)?.checked_add(id_base).filter(|id| *id != u32::MAX).ok_or_else(impossible)
    };
    let (uid, gid) = (id(&template.uid)?, id(&template.gid)?);
    let mode = number(&template.mode, 8, 0o644)? & 0o7777;
    let owned = |fd: &rustix::fd::OwnedFd| match fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        other => other,
    };
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match rootfs.open_inside(path.as_bytes(), flags, 0) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => {
            let (parent, _) = path.rsplit_once('/').unwrap_or(("", path));
            make_parents(rootfs, parent, |fd| owned(fd)).map_err(failed)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
            let fd = rootfs.open_inside(path.as_bytes(), flags, 0o600).map_err(failed)?;
            owned(&fd).map_err(failed)?;
            fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(failed)?;
            fd
        }
        Err(e) => return Err(failed(e)),
    };
    let stat = fs::fstat(&fd).map_err(failed)?;
    if fs::FileType::from_raw_mode(stat.st_mode) != fs::FileType::RegularFile {
        return Err(Error::bad_request("It is no file"));
    }
    File::from(fd).write_all(text)?;
    Ok(())
}

/// Makes the directories of a path that are not there yet.
fn make_parents(
    rootfs: &Root,
    path: &str,
    owned: impl Fn(&rustix::fd::OwnedFd) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let directory = OFlags::DIRECTORY | OFlags::RDONLY;
    let mut at = rootfs.open_inside(b".", directory, 0)?;
    let mut done = String::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        done.push('/');
        done.push_str(part);
        at = match rootfs.open_inside(done.as_bytes(), directory, 0) {
            Err(Errno::NOENT) => {
                fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))?;
                // Links are followed inside of the instance only, so this is what was just made.
                let made = rootfs.open_inside(done.as_bytes(), directory, 0)?;
                owned(&made)?;
                made
            }
            other => other?,
        };
    }
    Ok(())
}
