//! Images behind the URL of a web server, which says by headers what they are.

use api::image::ImagesPost;
use api::{Error, Result};
use client::Web;
use hyper::header::{HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Response, Uri};

use super::add::{Wishes, add};
use super::remote::{self, download, unless_cancelled};
use crate::edge::{Body, Cx, reply};
use crate::instances::placing;
use crate::operations::Resources;
use crate::services::server::VERSION;

/// `POST /1.0/images` with a URL as its source.
pub async fn create(cx: Cx, new: ImagesPost) -> Result<Response<Body>> {
    let url = new.source.url.clone();
    if url.is_empty() {
        return Err(Error::bad_request("Missing URL"));
    }
    remote::must_be_allowed(&cx, &url).await?;
    let wishes = Wishes::of(&new)?;
    wishes.must_be_free(&cx).await?;
    let web = cx.daemon.web(&new.source.certificate).await?.with_headers(headers(&cx)?);
    let mut operation = cx.daemon.operation("Downloading image", cx.project(), Resources::new());
    operation.may_cancel = true;
    let daemon = cx.daemon.clone();
    let operation = daemon.run(operation, |operation| async move {
        let work = async {
            let (hash, at) = described(&web, &url).await?;
            remote::must_be_allowed(&cx, &at).await?;
            let received = download(&cx.daemon, &web, &at, &operation).await?;
            Ok((hash, filename(&at), received))
        };
        let (fingerprint, filename, received) = unless_cancelled(&operation, work).await?;
        let filename = if wishes.filename.is_empty() { filename } else { wishes.filename.clone() };
        add(&cx, received, Wishes { fingerprint, filename, ..wishes }, &operation).await
    });
    reply::operation(&operation.view())
}

/// The fingerprint and the place of the file that the server offers there.
async fn described(web: &Web, url: &str) -> Result<(String, String)> {
    let headers = web.head(url).await?;
    let value = |name: &str| {
        let value = headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim).filter(|v| !v.is_empty());
        value
            .map(str::to_owned)
            .ok_or_else(|| Error::bad_request(format!("There is no image at {url}: the answer has no header {name}")))
    };
    Ok((value("Incus-Image-Hash")?.to_ascii_lowercase(), value("Incus-Image-URL")?))
}

/// What the server may want to know of this one to choose the image.
fn headers(cx: &Cx) -> Result<HeaderMap> {
    let architectures = cx.daemon.own_row().map(|m| placing::architectures(&m)).unwrap_or_default().join(", ");
    let value = |text: &str| HeaderValue::from_str(text).map_err(|e| Error::internal(e.to_string()));
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, value(&format!("Incus {}", VERSION))?);
    headers.insert("Incus-Server-Version", value(VERSION)?);
    headers.insert("Incus-Server-Architectures", value(&architectures)?);
    Ok(headers)
}

fn filename(url: &str) -> String {
    let path = url.parse::<Uri>().map(|u| u.path().to_owned()).unwrap_or_default();
    api::endpoint::decode(path.rsplit('/').next().unwrap_or_default())
}
