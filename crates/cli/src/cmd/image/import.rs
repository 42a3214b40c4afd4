//! `incus image import`.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use api::{Error, Kind, Result, endpoint::encode};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    cmd::path,
    ctx::Ctx,
    server::{Reply, Server},
    transfer::{Meter, file_body, stream_body},
};

/// Import an image
///
/// It is one tarball, or one with the metadata and one (or a squashfs or disk image) with the root file system, or a
/// directory, or a URL that names an image.
#[derive(clap::Args)]
pub struct Import {
    /// Files, directory or URL, the remote, and properties
    #[arg(required = true, value_name = "file|directory|URL [rootfs] [remote:] key=value")]
    args: Vec<String>,
    /// Alias
    #[arg(long)]
    alias: Vec<String>,
    /// Everybody may have it
    #[arg(long)]
    public: bool,
    /// Take the aliases away from images that have them
    #[arg(long)]
    reuse: bool,
}

struct Plan {
    remote: String,
    files: Vec<String>,
    properties: Map<String, Value>,
}

impl Import {
    /// Imports.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let plan = plan(ctx, &self.args)?;
        let (server, _) = ctx.open(&plan.remote)?;
        self.check_aliases(&server).await?;
        let mut temporary = None;
        let files: Vec<PathBuf> = match plan.files.as_slice() {
            [url] if url.starts_with("https://") => return self.fetch(ctx, &server, url, &plan).await,
            [url] if url.starts_with("http://") => {
                return Err(Error::bad_request(format!(
                    "Only https:// is supported for remote image import, not {url}"
                )));
            }
            [dir] if Path::new(dir).is_dir() => {
                let packed = pack(Path::new(dir))?;
                let file = packed.path().to_owned();
                temporary = Some(packed);
                vec![file]
            }
            files @ ([_] | [_, _]) => files.iter().map(PathBuf::from).collect(),
            _ => return Err(Error::bad_request("One or two files are needed")),
        };
        let reply = self.upload(ctx, &server, &files, &plan.properties).await?;
        drop(temporary);
        self.finish(ctx, &server, reply).await
    }

    async fn upload(
        &self,
        ctx: &Ctx,
        server: &Server,
        files: &[PathBuf],
        properties: &Map<String, Value>,
    ) -> Result<Reply> {
        let progress = ctx.progress("Transferring image: %s");
        let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let first = files.first().ok_or_else(|| Error::bad_request("No file is given"))?;
        let mut headers =
            vec![("x-incus-public".to_owned(), self.public.to_string()), ("x-incus-filename".to_owned(), name(first))];
        if !properties.is_empty() {
            let query: Vec<String> = properties
                .iter()
                .map(|(k, v)| format!("{}={}", encode(k), encode(v.as_str().unwrap_or_default())))
                .collect();
            headers.push(("x-incus-properties".to_owned(), query.join("&")));
        }
        let body = match files {
            [one] => {
                headers.push(("content-type".into(), "application/octet-stream".into()));
                file_body(one, progress.clone()).await?.0
            }
            [metadata, rootfs, ..] => {
                let boundary = "incus-image-parts-7d1f4c0a9be24e31";
                headers.push(("content-type".into(), format!("multipart/form-data; boundary={boundary}")));
                let field = if is_disk(rootfs)? { "rootfs.img" } else { "rootfs" };
                let part = |field: &str, file: &Path, first: bool| {
                    let file = name(file).replace(['"', '\r', '\n'], "_");
                    let break_ = if first { "" } else { "\r\n" };
                    format!(
                        "{break_}--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{file}\"\r\n\
                         Content-Type: application/octet-stream\r\n\r\n"
                    )
                };
                let total = std::fs::metadata(metadata)?.len() + std::fs::metadata(rootfs)?.len();
                let text =
                    |text: String| -> Box<dyn AsyncRead + Send + Sync + Unpin> { Box::new(std::io::Cursor::new(text)) };
                let all = text(part("metadata", metadata, true))
                    .chain(tokio::fs::File::open(metadata).await?)
                    .chain(text(part(field, rootfs, false)))
                    .chain(tokio::fs::File::open(rootfs).await?)
                    .chain(text(format!("\r\n--{boundary}--\r\n")));
                stream_body(all, Meter::new(progress.clone(), total))
            }
            [] => return Err(Error::bad_request("No file is given")),
        };
        let reply = server.upload("POST", "/1.0/images", &headers, body).await;
        progress.done();
        reply
    }

    async fn fetch(&self, ctx: &Ctx, server: &Server, url: &str, plan: &Plan) -> Result<()> {
        let body = json!({
            "source": { "type": "url", "mode": "pull", "url": url },
            "public": self.public, "properties": plan.properties,
        });
        let reply = server.post("/1.0/images", &body).await?;
        self.finish(ctx, server, reply).await
    }

    async fn finish(&self, ctx: &Ctx, server: &Server, reply: Reply) -> Result<()> {
        let state = ctx.wait(server, reply).await?;
        let fingerprint = state["metadata"]["fingerprint"].as_str().unwrap_or_default().to_owned();
        for name in &self.alias {
            if self.reuse {
                match server.delete(&path("/1.0/images/aliases/{name}", &[name])).await {
                    Err(e) if e.kind != Kind::NotFound => return Err(e),
                    _ => {}
                }
            }
            let body = json!({ "name": name, "target": fingerprint, "description": "" });
            server.post("/1.0/images/aliases", &body).await?;
        }
        ctx.say(format!("Image imported with fingerprint: {fingerprint}"));
        Ok(())
    }

    /// Refuses before anything is sent if an alias is taken.
    async fn check_aliases(&self, server: &Server) -> Result<()> {
        for name in self.alias.iter().filter(|_| !self.reuse) {
            match server.get(&path("/1.0/images/aliases/{name}", &[name])).await {
                Ok(_) => return Err(Error::conflict(format!("Image alias already exists: {name}"))),
                Err(e) if e.kind == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Which arguments are files, which the remote, which properties.
fn plan(ctx: &Ctx, args: &[String]) -> Result<Plan> {
    let mut plan = Plan { remote: String::new(), files: Vec::new(), properties: Map::new() };
    for arg in args {
        let remote = arg.strip_suffix(':').filter(|r| ctx.config.remotes.contains_key(*r));
        match (remote, arg.split_once('=')) {
            (Some(_), _) => plan.remote.clone_from(arg),
            (None, Some((key, value))) if !arg.starts_with("https://") && !Path::new(arg).exists() => {
                plan.properties.insert(key.to_owned(), value.into());
            }
            _ => plan.files.push(arg.clone()),
        }
    }
    Ok(plan)
}

/// A tarball of a directory that holds an image.
fn pack(dir: &Path) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::Builder::new().prefix("incus_image_").suffix(".tar").tempfile()?;
    let output = Command::new("tar")
        .args(["--numeric-owner", "--restrict", "--force-local", "--xattrs", "-cf"])
        .arg(file.path())
        .arg("-C")
        .arg(dir)
        .arg(".")
        .output()
        .map_err(|e| Error::internal(format!("Unable to run tar: {e}")))?;
    if !output.status.success() {
        return Err(Error::internal(format!("tar failed: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(file)
}

/// True if the file is a disk image rather than a root file system.
fn is_disk(file: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    let n = std::fs::File::open(file)
        .map_err(|e| Error::bad_request(format!("Unable to read {}: {e}", file.display())))?
        .read(&mut magic)?;
    Ok(magic[..n] == *b"QFI\xfb")
}
