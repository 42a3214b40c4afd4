//! `/1.0/instances/{name}/logs`: what liblxc and programs wrote about the runs of an instance.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use api::endpoint::{fill, in_project};
use api::{Error, Info, Result};
use hyper::{Request, Response};
use serde_json::json;

use super::{files, find_here, record, tell};
use crate::edge::{Body, Cx, Incoming, Router};
use crate::services::images::export::file_body;

/// Those that belong to the run that may be going on.
const KEPT: &[&str] = &["lxc.log", "lxc.conf", "console.log"];

pub fn routes(r: &mut Router) {
    r.sync(&api::instance_files::LOGS, list);
    r.raw(&api::instance_files::LOG_GET, get);
    r.sync(&api::instance_files::LOG_DELETE, delete);
    r.sync(&api::instance_files::RECORDED, recorded);
    r.raw(&api::instance_files::RECORDED_GET, get_recorded);
    r.sync(&api::instance_files::RECORDED_DELETE, delete_recorded);
}

fn is_log(name: &str) -> bool {
    KEPT.contains(&name) || plain(name) && ["migration_", "snapshot_"].iter().any(|p| name.starts_with(p))
}

fn is_recorded(name: &str) -> bool {
    plain(name) && name.starts_with("exec_")
}

fn plain(name: &str) -> bool {
    !name.contains('/') && name.ends_with(|c: char| c.is_ascii_alphanumeric())
}

async fn list(cx: Cx, (): ()) -> Result<Vec<String>> {
    let folder = cx.daemon.containers.logs(&find_here(&cx).await?.id());
    urls(&cx, &folder, is_log, &api::instance_files::LOG_GET.info)
}

async fn recorded(cx: Cx, (): ()) -> Result<Vec<String>> {
    let folder = record::folder(&cx.daemon, &find_here(&cx).await?.id());
    urls(&cx, &folder, is_recorded, &api::instance_files::RECORDED_GET.info)
}

fn urls(cx: &Cx, folder: &Path, wanted: fn(&str) -> bool, endpoint: &Info) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|name| wanted(name));
    let mut urls: Vec<_> =
        names.map(|name| in_project(fill(endpoint.path, &[cx.arg(0), &name]), cx.project())).collect();
    urls.sort();
    Ok(urls)
}

async fn get(cx: Cx, _: Request<Incoming>) -> Result<Response<Body>> {
    let l = find_here(&cx).await?;
    let name = valid(cx.arg(1), is_log)?;
    let response = file(cx.daemon.containers.logs(&l.id()).join(name)).await?;
    tell(&cx, &l, "instance-log-retrieved", [("file", json!(name))]);
    Ok(response)
}

async fn get_recorded(cx: Cx, _: Request<Incoming>) -> Result<Response<Body>> {
    let l = find_here(&cx).await?;
    let name = valid(cx.arg(1), is_recorded)?;
    let response = file(record::folder(&cx.daemon, &l.id()).join(name)).await?;
    tell(&cx, &l, "instance-log-retrieved", [("file", json!(name))]);
    Ok(response)
}

async fn file(path: PathBuf) -> Result<Response<Body>> {
    if !path.is_file() {
        return Err(Error::not_found("Not Found"));
    }
    let (body, length) = file_body(&path).await?;
    let mut response = files::typed(&path.file_name().unwrap_or_default().to_string_lossy(), body)?;
    response.headers_mut().insert(hyper::header::CONTENT_LENGTH, length.into());
    Ok(response)
}

async fn delete(cx: Cx, (): ()) -> Result<()> {
    let l = find_here(&cx).await?;
    let name = valid(cx.arg(1), is_log)?;
    if KEPT.contains(&name) {
        return Err(Error::bad_request(format!("Only log files excluding {} may be deleted", KEPT.join(", "))));
    }
    remove(&cx.daemon.containers.logs(&l.id()).join(name))?;
    tell(&cx, &l, "instance-log-deleted", [("file", json!(name))]);
    Ok(())
}

async fn delete_recorded(cx: Cx, (): ()) -> Result<()> {
    let l = find_here(&cx).await?;
    let name = valid(cx.arg(1), is_recorded)?;
    remove(&record::folder(&cx.daemon, &l.id()).join(name))?;
    tell(&cx, &l, "instance-log-deleted", [("file", json!(name))]);
    Ok(())
}

fn valid(name: &str, wanted: fn(&str) -> bool) -> Result<&str> {
    if wanted(name) { Ok(name) } else { Err(Error::bad_request(format!("Log file name \"{name}\" not valid"))) }
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::not_found("Not Found"),
        _ => e.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logs_are_logs() {
        for (name, log, record) in [
            ("lxc.log", true, false),
            ("console.log", true, false),
            ("snapshot_20260101.log", true, false),
            ("exec_1.stdout", false, true),
            ("exec_/../../x", false, false),
            ("snapshot_/../../etc/passwd", false, false),
            ("..", false, false),
            ("monitor", false, false),
            ("", false, false),
        ] {
            assert_eq!((is_log(name), is_recorded(name)), (log, record), "{name}");
        }
    }
}
