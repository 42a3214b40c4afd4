//! `incusd cluster backup` and `restore`: what a person sees of them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use api::error::Context as _;
use api::{Error, Kind, Result};
use client::Remote;
use http_body_util::BodyExt as _;
use hyper::Request;

use super::ask;
use crate::args::Restore;
use crate::backup::{archive, restore};
use crate::paths::Paths;

/// Has the daemon make a backup, and keeps it in the file, whole or not at all.
pub async fn backup(paths: &Paths, file: &Path) -> Result<()> {
    if file.exists() {
        return Err(Error::conflict(format!("{} exists already: backups are written into new files", file.display())));
    }
    let partial = beside(file)?;
    let kept = receive(paths, &partial).await.and_then(|()| archive::read(&partial, &mut std::io::sink()));
    let (manifest, _) = match kept {
        Ok(whole) => whole,
        Err(e) => {
            let _ = fs::remove_file(&partial);
            return Err(e);
        }
    };
    fs::rename(&partial, file).context(format!("Putting the backup into {}", file.display()))?;
    println!("Backup of {} members written into {}.", manifest.members.len(), file.display());
    println!("It holds all keys of the cluster: keep it where nobody else can read it.");
    if !manifest.confirmed {
        println!("No majority could be asked: what others have acknowledged a moment ago may be missing.");
    }
    for member in manifest.members.iter().filter(|m| !m.has_keys) {
        println!("{} did not answer: its keys are missing, and it can't be restored under its name.", member.name);
    }
    Ok(())
}

/// The name under which a file is written until it is whole.
fn beside(file: &Path) -> Result<PathBuf> {
    let name = file.file_name().ok_or_else(|| Error::bad_request(format!("{} is no file", file.display())))?;
    Ok(file.with_file_name(format!(".{}.partial", name.to_string_lossy())))
}

async fn receive(paths: &Paths, into: &Path) -> Result<()> {
    let bad = |e: &dyn std::fmt::Display| Error::internal(e.to_string());
    let request = Request::get(api::internal::BACKUP.info.path).body(client::http::empty()).map_err(|e| bad(&e))?;
    let answer = Remote::unix(paths.socket()).send(request).await.map_err(|e| match e.kind {
        Kind::Unavailable => Error::unavailable("The daemon does not run: start it, it makes the backup"),
        _ => e,
    })?;
    if !answer.status().is_success() {
        let bytes = answer.into_body().collect().await.map_err(|e| bad(&e))?.to_bytes();
        let envelope: api::envelope::Envelope = serde_json::from_slice(&bytes).map_err(|e| bad(&e))?;
        return Err(envelope.as_error().unwrap_or_else(|| Error::internal("The daemon makes no backup")));
    }
    let _ = fs::remove_file(into);
    let failed = || format!("Writing {}", into.display());
    let mut file = File::options().create_new(true).write(true).mode(0o600).open(into).context(failed())?;
    let mut body = answer.into_body();
    while let Some(bytes) = client::web::more(&mut body).await {
        file.write_all(&bytes?).context(failed())?;
    }
    file.sync_all().context(failed())
}

/// Makes this server a member of the cluster in a backup.
pub async fn restore(paths: &Paths, wanted: &Restore) -> Result<()> {
    paths.create().context(format!("Making the folders in {}", paths.root().display()))?;
    restore::finish(paths)?;
    let wish =
        restore::Wish { member: wanted.member.clone(), first: wanted.first.clone(), addresses: wanted.address.clone() };
    let ready = restore::prepare(paths, &wanted.file, &wish)?;
    let done = confirmed(&ready, wanted.quiet);
    if let Err(e) = done {
        restore::forget(paths)?;
        return Err(e);
    }
    restore::carry_out(paths, &ready).await?;
    let (member, first) = (&ready.member, &ready.first);
    if member == first {
        println!("This server is \"{member}\" now, and has the database: start the daemon, and restore the others.");
    } else {
        println!("This server is \"{member}\" now: start the daemon, and it gets the database from \"{first}\".");
    }
    Ok(())
}

fn confirmed(ready: &restore::Ready, quiet: bool) -> Result<()> {
    let all: String = ready.addresses().map(|(name, address)| format!("  {name}  {address}\n")).collect();
    let warning = format!(
        "This makes this server the member \"{}\" of the cluster in the backup of {}:\n{all}\
         Do it only if the cluster that was backed up is gone: two that take themselves for the same harm each other.\n\
         \"{}\" takes the database from the backup, the others get it from there.\n",
        ready.member, ready.manifest.created, ready.first
    );
    ask::sure(&warning, quiet, "The server was left as it was")
}
