//! `incus file`: files of instances.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use api::{Error, Kind, Result, endpoint::encode};

use super::url;
use crate::{
    cmd,
    ctx::Ctx,
    edit,
    server::{RawReply, Server},
    transfer,
    transport::{Body, empty, full},
};

family! {
    /// Manage files in instances
    File {
        Create(Create),
        #[command(visible_alias = "rm")]
        Delete(Delete),
        Edit(Edit),
        Mkdir(Mkdir),
        Mount(Mount),
        Pull(Pull),
        Push(Push),
    }
}

/// A path in an instance.
#[derive(Clone)]
struct Remote {
    server: Server,
    instance: String,
    path: String,
}

/// Owner and mode of what is made.
#[derive(Clone, Copy, Default)]
struct Owner {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
}

impl Remote {
    fn parse(ctx: &Ctx, text: &str, what: &str) -> Result<Self> {
        let (server, name) = ctx.open(text)?;
        let (instance, path) =
            name.split_once('/').ok_or_else(|| Error::bad_request(format!("Invalid {what} {text}")))?;
        Ok(Self { server, instance: instance.to_owned(), path: format!("/{path}") })
    }

    fn with_path(&self, path: String) -> Self {
        Self { path, ..self.clone() }
    }

    fn join(&self, name: &str) -> Self {
        self.with_path(format!("{}/{name}", self.path.trim_end_matches('/')))
    }

    fn name(&self) -> &str {
        self.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }

    fn url(&self) -> String {
        let path = if self.path == "/" { "/" } else { self.path.trim_end_matches('/') };
        format!("{}/files?path={}", url(&self.instance), encode(path))
    }

    async fn get(&self) -> Result<RawReply> {
        self.server.raw("GET", &self.url(), &[], empty()).await.map_err(missing)
    }

    /// What is there: `file`, `directory`, `symlink`; nothing if nothing is.
    async fn kind(&self) -> Result<Option<String>> {
        match self.get().await {
            Ok(reply) => Ok(Some(reply.header("x-incus-type").unwrap_or("file").to_owned())),
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn put(&self, kind: &str, owner: Owner, body: Body) -> Result<()> {
        let mut headers = vec![
            ("x-incus-type".to_owned(), kind.to_owned()),
            ("x-incus-write".to_owned(), "overwrite".to_owned()),
            ("content-type".to_owned(), "application/octet-stream".to_owned()),
        ];
        let mut add = |name: &str, value: Option<String>| headers.extend(value.map(|v| (name.to_owned(), v)));
        add("x-incus-uid", owner.uid.map(|n| n.to_string()));
        add("x-incus-gid", owner.gid.map(|n| n.to_string()));
        add("x-incus-mode", owner.mode.map(|m| format!("{m:04o}")));
        self.server.upload("POST", &self.url(), &headers, body).await.map(drop)
    }

    /// Makes the directories above it.
    async fn make_parents(&self, owner: Owner) -> Result<()> {
        let parts: Vec<&str> = self.path.split('/').filter(|p| !p.is_empty()).collect();
        let owner = Owner { mode: Some(0o755), ..owner };
        for n in 1..parts.len() {
            let parent = self.with_path(format!("/{}", parts[..n].join("/")));
            if parent.kind().await?.is_none() {
                parent.put("directory", owner, empty()).await?;
            }
        }
        Ok(())
    }

    /// What a directory holds.
    async fn entries(&self) -> Result<Vec<String>> {
        let listed = self.server.get(&self.url()).await?.value;
        Ok(cmd::list(&listed).into_iter().map(str::to_owned).collect())
    }
}

/// Servers say of a missing file no more than that something was not found.
fn missing(e: Error) -> Error {
    let vague = e.kind == Kind::NotFound && e.message.eq_ignore_ascii_case("not found");
    if vague { Error::not_found("file does not exist") } else { e }
}

fn mode(text: Option<&String>) -> Result<Option<u32>> {
    let parse = |m: &String| {
        u32::from_str_radix(m.trim_start_matches("0o"), 8)
            .map_err(|_| Error::bad_request(format!("Invalid mode {m:?}")))
    };
    text.map(parse).transpose()
}

/// Flags of owner and mode.
#[derive(clap::Args)]
struct OwnerFlags {
    /// Owner's user ID
    #[arg(long)]
    uid: Option<u32>,
    /// Owner's group ID
    #[arg(long)]
    gid: Option<u32>,
    /// Mode, as 0644
    #[arg(long)]
    mode: Option<String>,
}

impl OwnerFlags {
    fn owner(&self) -> Result<Owner> {
        Ok(Owner { uid: self.uid, gid: self.gid, mode: mode(self.mode.as_ref())? })
    }
}

/// Send files to an instance; "-" is standard input
#[derive(clap::Args)]
pub struct Push {
    /// Files, and where they go
    #[arg(required = true, num_args = 2.., value_name = "source [remote:]instance/path")]
    args: Vec<String>,
    /// Make the directories above
    #[arg(short = 'p', long)]
    create_dirs: bool,
    /// Directories with what is in them
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    owner: OwnerFlags,
}

impl Push {
    /// Pushes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let Some((target, sources)) = self.args.split_last() else { return Ok(()) };
        let remote = Remote::parse(ctx, target, "target")?;
        let owner = self.owner.owner()?;
        let into =
            remote.path.ends_with('/') || sources.len() > 1 || remote.kind().await?.as_deref() == Some("directory");
        if self.create_dirs {
            let top = if remote.path.ends_with('/') { remote.join("x") } else { remote.clone() };
            top.make_parents(owner).await?;
        }
        for source in sources {
            if source == "-" {
                if into {
                    return Err(Error::bad_request("Missing target filename for standard input"));
                }
                let owner =
                    Owner { mode: owner.mode.or(Some(0o644)), uid: owner.uid.or(Some(0)), gid: owner.gid.or(Some(0)) };
                let mut data = Vec::new();
                std::io::Read::read_to_end(&mut std::io::stdin(), &mut data)?;
                remote.put("file", owner, full(data)).await?;
                continue;
            }
            let path = Path::new(source);
            let metadata =
                std::fs::metadata(path).map_err(|e| Error::bad_request(format!("Unable to read {source}: {e}")))?;
            let name = path.canonicalize()?.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let to = if into || metadata.is_dir() { remote.join(&name) } else { remote.clone() };
            if metadata.is_dir() {
                if !self.recursive {
                    return Err(Error::bad_request(format!("{source} is a directory; use --recursive")));
                }
                Box::pin(push_tree(ctx, path.to_owned(), to, owner)).await?;
            } else {
                push_one(ctx, path, &to, owner).await?;
            }
        }
        Ok(())
    }
}

async fn push_one(ctx: &Ctx, path: &Path, to: &Remote, owner: Owner) -> Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    let owner = Owner {
        uid: owner.uid.or(Some(metadata.uid())),
        gid: owner.gid.or(Some(metadata.gid())),
        mode: owner.mode.or(Some(metadata.mode() & 0o7777)),
    };
    let progress = ctx.progress(&format!("Pushing {} to {}: %s", path.display(), to.path));
    let (body, _) = transfer::file_body(path, progress.clone()).await?;
    let result = to.put("file", owner, body).await;
    progress.done();
    result
}

async fn push_tree(ctx: &Ctx, path: PathBuf, to: Remote, owner: Owner) -> Result<()> {
    let metadata = std::fs::symlink_metadata(&path)?;
    let own = Owner {
        uid: owner.uid.or(Some(metadata.uid())),
        gid: owner.gid.or(Some(metadata.gid())),
        mode: Some(metadata.mode() & 0o7777),
    };
    if metadata.is_symlink() {
        let target = std::fs::read_link(&path)?.to_string_lossy().into_owned();
        return to.put("symlink", Owner { mode: None, ..own }, full(target)).await;
    }
    if !metadata.is_dir() {
        return push_one(ctx, &path, &to, Owner { mode: None, ..owner }).await;
    }
    if to.kind().await?.is_none() {
        to.put("directory", own, empty()).await?;
    }
    let mut entries: Vec<_> = std::fs::read_dir(&path)?.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let to = to.join(&entry.file_name().to_string_lossy());
        Box::pin(push_tree(ctx, entry.path(), to, owner)).await?;
    }
    Ok(())
}

/// Get files from an instance; the target "-" is standard output
#[derive(clap::Args)]
pub struct Pull {
    /// Paths in instances, and where they go
    #[arg(required = true, num_args = 2.., value_name = "[remote:]instance/path target")]
    args: Vec<String>,
    /// Make the directories above
    #[arg(short = 'p', long)]
    create_dirs: bool,
    /// Directories with what is in them
    #[arg(short, long)]
    recursive: bool,
}

impl Pull {
    /// Pulls.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let Some((target, sources)) = self.args.split_last() else { return Ok(()) };
        let local = Path::new(target);
        let into = target.ends_with('/') || local.is_dir() || sources.len() > 1;
        if self.create_dirs && target != "-" {
            let dir = if into { local } else { local.parent().unwrap_or(local) };
            std::fs::create_dir_all(dir)?;
        }
        if sources.len() > 1 && target != "-" && !local.is_dir() {
            return Err(Error::bad_request("More than one file to download, but target is not a directory"));
        }
        for source in sources {
            let remote = Remote::parse(ctx, source, "source")?;
            let reply = remote.get().await?;
            let kind = reply.header("x-incus-type").unwrap_or("file").to_owned();
            if target == "-" {
                if kind == "directory" {
                    return Err(Error::bad_request("Can't pull a directory to standard output"));
                }
                reply.each(|data| std::io::Write::write_all(&mut std::io::stdout(), data)).await?;
                continue;
            }
            let to = if into { local.join(remote.name()) } else { local.to_owned() };
            if kind == "directory" && !self.recursive {
                return Err(Error::bad_request(format!("{source} is a directory; use --recursive")));
            }
            let to = if kind == "directory" && local.exists() { local.join(remote.name()) } else { to };
            pull(ctx, &remote, reply, to).await?;
        }
        Ok(())
    }
}

async fn pull(ctx: &Ctx, remote: &Remote, reply: RawReply, to: PathBuf) -> Result<()> {
    let mode = reply.header("x-incus-mode").and_then(|m| u32::from_str_radix(m, 8).ok());
    match reply.header("x-incus-type").unwrap_or("file") {
        "directory" => {
            std::fs::create_dir_all(&to)?;
            for name in remote.entries().await? {
                if name.contains('/') || name == ".." {
                    return Err(Error::internal(format!("The server names an impossible file {name:?}")));
                }
                let child = remote.join(&name);
                let reply = child.get().await?;
                Box::pin(pull(ctx, &child, reply, to.join(&name))).await?;
            }
        }
        "symlink" => {
            let target = String::from_utf8_lossy(&reply.bytes().await?).trim_end_matches('\n').to_owned();
            let _ = std::fs::remove_file(&to);
            std::os::unix::fs::symlink(target, &to)?;
            return Ok(());
        }
        _ => {
            let progress = ctx.progress(&format!("Pulling {} from {}: %s", to.display(), remote.path));
            transfer::save(reply, &to, progress).await?;
        }
    }
    if let Some(mode) = mode {
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(())
}

/// Create a file, a directory or a symbolic link in an instance
#[derive(clap::Args)]
pub struct Create {
    #[arg(value_name = "[remote:]instance/path")]
    path: String,
    /// Where the symbolic link leads
    target: Option<String>,
    /// Make the directories above
    #[arg(short = 'p', long)]
    create_dirs: bool,
    /// Replace what is there
    #[arg(short, long)]
    force: bool,
    /// file, directory or symlink
    #[arg(long = "type", default_value = "file")]
    kind: String,
    #[command(flatten)]
    owner: OwnerFlags,
}

impl Create {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let remote = Remote::parse(ctx, &self.path, "target")?;
        let owner = self.owner.owner()?;
        let kind = if self.path.ends_with('/') && self.kind == "file" { "directory" } else { &self.kind };
        if !matches!(kind, "file" | "directory" | "symlink") {
            return Err(Error::bad_request(format!("Invalid type {kind:?}: file, directory or symlink")));
        }
        if (kind == "symlink") != self.target.is_some() {
            return Err(Error::bad_request("A target is needed for symbolic links, and only for them"));
        }
        if self.create_dirs {
            remote.make_parents(owner).await?;
        }
        if remote.kind().await?.is_some() {
            if !self.force {
                return Err(Error::conflict(format!("{} exists already; use --force to replace it", remote.path)));
            }
            Box::pin(delete(&remote, true)).await?;
        }
        let default = if kind == "directory" { 0o755 } else { 0o644 };
        let owner = Owner { mode: owner.mode.or((kind != "symlink").then_some(default)), ..owner };
        remote.put(kind, owner, full(self.target.unwrap_or_default())).await
    }
}

/// Create a directory in an instance
#[derive(clap::Args)]
pub struct Mkdir {
    #[arg(value_name = "[remote:]instance/path")]
    path: String,
    /// Make the directories above
    #[arg(short = 'p', long)]
    create_dirs: bool,
    #[command(flatten)]
    owner: OwnerFlags,
}

impl Mkdir {
    /// Creates.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let remote = Remote::parse(ctx, &self.path, "target")?;
        let owner = self.owner.owner()?;
        if self.create_dirs {
            remote.make_parents(owner).await?;
        }
        remote.put("directory", Owner { mode: owner.mode.or(Some(0o755)), ..owner }, empty()).await
    }
}

/// Delete files in instances
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required = true, value_name = "[remote:]instance/path")]
    paths: Vec<String>,
    /// Directories with what is in them
    #[arg(short, long)]
    force: bool,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        for path in &self.paths {
            let remote = Remote::parse(ctx, path, "path")?;
            Box::pin(delete(&remote, self.force)).await?;
        }
        Ok(())
    }
}

async fn delete(remote: &Remote, all: bool) -> Result<()> {
    if all && remote.kind().await?.as_deref() == Some("directory") {
        for name in remote.entries().await? {
            Box::pin(delete(&remote.join(&name), true)).await?;
        }
    }
    remote.server.delete(&remote.url()).await.map(drop).map_err(missing)
}

/// Edit a file in an instance, in an editor or from standard input
#[derive(clap::Args)]
pub struct Edit {
    #[arg(value_name = "[remote:]instance/path")]
    path: String,
}

impl Edit {
    /// Edits.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let remote = Remote::parse(ctx, &self.path, "path")?;
        if let Some(text) = edit::piped()? {
            return remote.put("file", Owner::default(), full(text)).await;
        }
        let content = match remote.get().await {
            Ok(reply) => reply.bytes().await?,
            Err(e) if e.kind == Kind::NotFound => bytes::Bytes::new(),
            Err(e) => return Err(e),
        };
        let suffix = Path::new(remote.name()).extension().map(|e| format!(".{}", e.to_string_lossy()));
        let changed = edit::text(&content, &suffix.unwrap_or_default())?;
        if changed == content {
            return Ok(());
        }
        remote.put("file", Owner::default(), full(changed)).await
    }
}

/// Mount files of an instance (not available)
#[derive(clap::Args)]
pub struct Mount {
    #[arg(value_name = "[remote:]instance[/path]")]
    path: String,
    target: Option<String>,
}

impl Mount {
    /// Refuses.
    pub async fn run(self, _ctx: &Ctx) -> Result<()> {
        let _ = self.target;
        Err(Error::new(
            Kind::NotImplemented,
            format!("Mounting {} is not supported by this client; use `incus file pull` and `push`", self.path),
        ))
    }
}
