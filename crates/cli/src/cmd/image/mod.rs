//! `incus image`.

mod alias;
mod export;
mod import;

use api::{Error, Result};
use serde_json::{Value, json};

use super::instance::create::{address, resolve};
use crate::{
    cmd::{self, FormatFlag, path, s},
    ctx::Ctx,
    entity::{Entity, Missing, Unset},
    output::{Column, Listing, date, is_set, print_list},
    server::Server,
};

family! {
    /// Manage images
    Image {
        #[command(subcommand)]
        Alias(alias::Alias),
        #[command(visible_alias = "cp")]
        Copy(Copy),
        #[command(visible_alias = "rm")]
        Delete(Delete),
        Edit(Edit),
        Export(export::Export),
        GetProperty(GetProperty),
        Import(import::Import),
        Info(Info),
        #[command(visible_alias = "ls")]
        List(List),
        Refresh(Refresh),
        SetProperty(SetProperty),
        Show(Show),
        UnsetProperty(UnsetProperty),
    }
}

fn url(fingerprint: &str) -> String {
    path("/1.0/images/{fingerprint}", &[fingerprint])
}

/// List images
///
/// Filters: a part of a fingerprint or alias, or <key>=<value> with a property.
///
/// Columns: l - shortest alias (and how many more), L - all aliases, f - fingerprint (short), F - fingerprint,
/// p - whether it is public, d - description, e - project, a - architecture, s - size, u - upload date, t - type.
#[derive(clap::Args)]
pub struct List {
    /// The remote and filters
    #[arg(value_name = "[remote:] filter")]
    args: Vec<String>,
    /// Images of all projects
    #[arg(long)]
    all_projects: bool,
    /// Columns
    #[arg(short, long, default_value = "lfpdatsu")]
    columns: String,
    #[command(flatten)]
    output: FormatFlag,
}

const COLUMNS: &[Column<Value>] = columns! {
    'l' "ALIAS" shortest_alias;
    'L' "ALIASES" |i| aliases(i).join("\n");
    'f' "FINGERPRINT" |i| s(i, "fingerprint").chars().take(12).collect();
    'F' "FINGERPRINT" |i| s(i, "fingerprint");
    'p' "PUBLIC" |i| yes_no(&i["public"]);
    'd' "DESCRIPTION" |i| s(&i["properties"], "description");
    'e' "PROJECT" |i| s(i, "project");
    'a' "ARCHITECTURE" |i| s(i, "architecture");
    's' "SIZE" |i| mib(&i["size"]);
    'u' "UPLOAD DATE" |i| date(&i["uploaded_at"]);
    't' "TYPE" |i| s(i, "type").to_uppercase();
};

fn yes_no(v: &Value) -> String {
    if v == true { "yes".into() } else { "no".into() }
}

#[allow(clippy::cast_precision_loss)]
fn mib(v: &Value) -> String {
    format!("{:.2}MiB", v.as_i64().unwrap_or(0) as f64 / 1024.0 / 1024.0)
}

fn aliases(i: &Value) -> Vec<String> {
    i["aliases"].as_array().map(|all| all.iter().map(|a| s(a, "name")).collect()).unwrap_or_default()
}

fn shortest_alias(i: &Value) -> String {
    let all = aliases(i);
    let Some(shortest) = all.iter().min_by_key(|a| a.len()) else { return String::new() };
    if all.len() > 1 { format!("{shortest} ({} more)", all.len() - 1) } else { shortest.clone() }
}

fn matches(i: &Value, filter: &str) -> bool {
    match filter.split_once('=') {
        Some((key, value)) => {
            let have = i["properties"].get(key).or_else(|| i.get(key)).map(crate::entity::as_text).unwrap_or_default();
            value.split(',').any(|v| v.eq_ignore_ascii_case(&have))
        }
        None => s(i, "fingerprint").contains(filter) || aliases(i).iter().any(|a| a.contains(filter)),
    }
}

impl List {
    /// Lists.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        if self.all_projects && ctx.global.project.is_some() {
            return Err(Error::bad_request("Can't specify --project with --all-projects"));
        }
        crate::output::columns(COLUMNS, &self.columns)?;
        let (server, filters) = cmd::remote_and_filters(ctx, &self.args)?;
        let projects = if self.all_projects { "&all-projects=true" } else { "" };
        let mut images = server.list(&format!("/1.0/images?recursion=1{projects}")).await?;
        images.retain(|i| filters.iter().all(|f| matches(i, f)));
        print_list(&Listing { all: COLUMNS, spec: &self.columns, format: &self.output.format, sort: true }, images)
    }
}

/// Show what is known about an image
#[derive(clap::Args)]
pub struct Info {
    #[arg(value_name = "[remote:]image")]
    name: String,
    /// The image for virtual machines
    #[arg(long)]
    vm: bool,
}

impl Info {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (server, name) = ctx.open_named(&self.name, "image name")?;
        let i = server.get(&url(&resolve(&server, &name, self.vm).await?)).await?.value;
        println!("Fingerprint: {}\nSize: {}", s(&i, "fingerprint"), mib(&i["size"]));
        println!("Architecture: {}\nType: {}\nPublic: {}", s(&i, "architecture"), s(&i, "type"), yes_no(&i["public"]));
        println!("Timestamps:");
        if is_set(&i["created_at"]) {
            println!("    Created: {}", date(&i["created_at"]));
        }
        println!("    Uploaded: {}", date(&i["uploaded_at"]));
        println!("    Expires: {}", if is_set(&i["expires_at"]) { date(&i["expires_at"]) } else { "never".into() });
        println!(
            "    Last used: {}",
            if is_set(&i["last_used_at"]) { date(&i["last_used_at"]) } else { "never".into() }
        );
        println!("Properties:");
        for (key, value) in i["properties"].as_object().into_iter().flatten() {
            println!("    {key}: {}", crate::entity::as_text(value));
        }
        println!("Aliases:");
        for a in i["aliases"].as_array().into_iter().flatten() {
            let description = s(a, "description");
            println!(
                "    - {}{}",
                s(a, "name"),
                if description.is_empty() { String::new() } else { format!(" ({description})") }
            );
        }
        println!("Cached: {}", yes_no(&i["cached"]));
        println!("Auto update: {}", if i["auto_update"] == true { "enabled" } else { "disabled" });
        if let Some(source) = i.get("update_source").filter(|v| v.is_object()) {
            println!(
                "Source:\n    Server: {}\n    Protocol: {}\n    Alias: {}",
                s(source, "server"),
                s(source, "protocol"),
                s(source, "alias")
            );
        }
        match cmd::list(&i["profiles"]).as_slice() {
            [] => println!("Profiles: []"),
            profiles => {
                println!("Profiles:");
                for p in profiles {
                    println!("    - {p}");
                }
            }
        }
        Ok(())
    }
}

async fn entity<'a>(ctx: &'a Ctx, name: &str, vm: bool) -> Result<Entity<'a>> {
    let (server, name) = ctx.open_named(name, "image name")?;
    let fingerprint = resolve(&server, &name, vm).await?;
    Ok(Entity {
        ctx,
        server,
        path: url(&fingerprint),
        noun: "image",
        name,
        fields: &["auto_update", "properties", "public", "expires_at", "profiles"],
        brief: true,
        missing: Missing::Error,
        unset: Unset::Empty,
    })
}

/// Show the properties of an image as YAML
#[derive(clap::Args)]
pub struct Show {
    #[arg(value_name = "[remote:]image")]
    name: String,
    /// The image for virtual machines
    #[arg(long)]
    vm: bool,
}

impl Show {
    /// Shows.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        entity(ctx, &self.name, self.vm).await?.show().await
    }
}

/// Edit the properties of an image as YAML, in an editor or from standard input
#[derive(clap::Args)]
pub struct Edit {
    #[arg(value_name = "[remote:]image")]
    name: String,
}

impl Edit {
    /// Edits.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let help = "This is a YAML representation of the image properties.\nLines that begin with '#' are ignored.";
        entity(ctx, &self.name, false).await?.edit(help).await
    }
}

/// Get a property of an image
#[derive(clap::Args)]
pub struct GetProperty {
    #[arg(value_name = "[remote:]image")]
    name: String,
    key: String,
}

impl GetProperty {
    /// Gets.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let entity = entity(ctx, &self.name, false).await?;
        let value = entity.server.get(&entity.path).await?.value;
        let found = value["properties"].get(&self.key).ok_or_else(|| Error::not_found("Property not found"))?;
        println!("{}", crate::entity::as_text(found));
        Ok(())
    }
}

/// Set a property of an image
#[derive(clap::Args)]
pub struct SetProperty {
    #[arg(value_name = "[remote:]image")]
    name: String,
    key: String,
    value: String,
}

/// Unset a property of an image
#[derive(clap::Args)]
pub struct UnsetProperty {
    #[arg(value_name = "[remote:]image")]
    name: String,
    key: String,
}

impl SetProperty {
    /// Sets.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let entity = entity(ctx, &self.name, false).await?;
        let reply = entity.server.get(&entity.path).await?;
        let mut value = reply.value;
        value["properties"][&self.key] = self.value.into();
        entity.put(value, reply.etag.as_deref()).await
    }
}

impl UnsetProperty {
    /// Unsets.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let entity = entity(ctx, &self.name, false).await?;
        let reply = entity.server.get(&entity.path).await?;
        let mut value = reply.value;
        if value["properties"].as_object_mut().and_then(|p| p.shift_remove(&self.key)).is_none() {
            return Err(Error::not_found("Property not found"));
        }
        entity.put(value, reply.etag.as_deref()).await
    }
}

/// Delete images
#[derive(clap::Args)]
pub struct Delete {
    #[arg(required = true, value_name = "[remote:]image")]
    names: Vec<String>,
}

impl Delete {
    /// Deletes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        for name in &self.names {
            let (server, name) = ctx.open_named(name, "image name")?;
            let reply = server.delete(&url(&resolve(&server, &name, false).await?)).await?;
            ctx.wait(&server, reply).await?;
        }
        Ok(())
    }
}

/// Fetch images anew from where they came
#[derive(clap::Args)]
pub struct Refresh {
    #[arg(required = true, value_name = "[remote:]image")]
    names: Vec<String>,
}

impl Refresh {
    /// Refreshes.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        for name in &self.names {
            let (server, name) = ctx.open_named(name, "image name")?;
            let fingerprint = resolve(&server, &name, false).await?;
            let reply = server.post(&(url(&fingerprint) + "/refresh"), &json!({})).await?;
            let state = ctx.wait_with(&server, reply, "Refreshing the image: %s").await?;
            let refreshed = state["metadata"]["refreshed"] == true;
            ctx.say(if refreshed { "Image refreshed successfully!" } else { "Image already up to date." });
        }
        Ok(())
    }
}

/// Copy an image to another server or project
#[derive(clap::Args)]
pub struct Copy {
    #[arg(value_name = "[remote:]image")]
    name: String,
    #[arg(value_name = "remote:")]
    destination: String,
    /// Alias of the copy
    #[arg(long)]
    alias: Vec<String>,
    /// Keep the copy up to date
    #[arg(long)]
    auto_update: bool,
    /// With the aliases
    #[arg(long)]
    copy_aliases: bool,
    /// pull, push or relay: who sends
    #[arg(long, default_value = "pull")]
    mode: String,
    /// Profile of the copy
    #[arg(short, long)]
    profile: Vec<String>,
    /// Everybody may have the copy
    #[arg(long)]
    public: bool,
    /// Project of the copy
    #[arg(long)]
    target_project: Option<String>,
    /// The image for virtual machines
    #[arg(long)]
    vm: bool,
}

impl Copy {
    /// Copies.
    pub async fn run(self, ctx: &Ctx) -> Result<()> {
        let (destination, name) = ctx.open(&self.destination)?;
        if !name.is_empty() {
            return Err(Error::bad_request("Can't provide a name for the target image"));
        }
        if self.mode != "pull" {
            return Err(Error::bad_request(format!(
                "The transfer mode {:?} is not supported; use --mode=pull",
                self.mode
            )));
        }
        let destination = destination.in_project(self.target_project.as_deref().or(destination.project()));
        let (remote_name, image) = ctx.config.parse_remote(&self.name)?;
        let remote = ctx.config.remote(&remote_name)?;
        let mut names = self.alias.clone();
        let source = if remote.is_simplestreams() {
            if self.copy_aliases {
                names.push(image.clone());
            }
            json!({
                "type": "image", "mode": "pull", "server": remote.addr, "protocol": "simplestreams", "alias": image,
                "image_type": if self.vm { "virtual-machine" } else { "container" },
            })
        } else {
            let server = ctx.server(&remote_name)?;
            let (source, own) = self.offered_by(&server, &image, &remote.addr, remote.public).await?;
            if self.copy_aliases {
                names.extend(own);
            }
            source
        };
        let mut body = json!({
            "source": source, "public": self.public, "auto_update": self.auto_update,
            "aliases": names.iter().map(|n| json!({ "name": n, "description": "" })).collect::<Vec<_>>(),
        });
        if !self.profile.is_empty() {
            body["profiles"] = self.profile.clone().into();
        }
        let reply = destination.post("/1.0/images", &body).await?;
        ctx.wait_with(&destination, reply, "Copying the image: %s").await?;
        ctx.say("Image copied successfully!");
        Ok(())
    }

    /// The image on an Incus server as a source, and its aliases.
    async fn offered_by(&self, server: &Server, image: &str, addr: &str, public: bool) -> Result<(Value, Vec<String>)> {
        let fingerprint = resolve(server, image, self.vm).await?;
        let found = server.get(&url(&fingerprint)).await?.value;
        let mut source = json!({
            "type": "image", "mode": "pull", "server": address(server, addr).await?, "protocol": "incus",
            "fingerprint": fingerprint, "certificate": server.info().await?["environment"]["certificate"],
            "project": server.project().unwrap_or_default(),
        });
        if !public {
            let reply = server.post(&(url(&fingerprint) + "/secret"), &json!({})).await?;
            source["secret"] = reply.value["metadata"]["secret"].clone();
        }
        Ok((source, aliases(&found)))
    }
}
