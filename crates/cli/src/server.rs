//! A server as commands see it: paths in, values out, in the project and on the member that were asked for.

use std::sync::Arc;

use api::{Error, Kind, Result, endpoint::encode, envelope::Envelope};
use http_body_util::BodyExt;
use hyper::{HeaderMap, Response, body::Incoming};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::transport::{Body, Transport, WebSocket, broken, empty, full};

/// A connected server; cheap to clone.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
    project: Option<String>,
    target: Option<String>,
}

struct Inner {
    remote: String,
    transport: Transport,
    info: OnceCell<Value>,
}

/// What a server answered.
#[derive(Debug)]
pub struct Reply {
    /// The value; of a background operation its first state.
    pub value: Value,
    /// The tag to send back with a change.
    pub etag: Option<String>,
    /// The path of the background operation, if one began.
    pub operation: Option<String>,
}

/// An answer that is not an envelope.
pub struct RawReply {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, still to be read.
    pub body: Response<Incoming>,
}

impl Server {
    /// The server called `remote`, reached by `transport`.
    pub fn new(remote: &str, transport: Transport) -> Self {
        let inner = Inner { remote: remote.to_owned(), transport, info: OnceCell::new() };
        Self { inner: Arc::new(inner), project: None, target: None }
    }

    /// The same server, in this project.
    #[must_use]
    pub fn in_project(&self, project: Option<&str>) -> Self {
        let project = project.filter(|p| !p.is_empty()).map(str::to_owned);
        Self { inner: Arc::clone(&self.inner), project, target: self.target.clone() }
    }

    /// The same server, on this cluster member.
    #[must_use]
    pub fn on(&self, target: Option<&str>) -> Self {
        let target = target.filter(|t| !t.is_empty()).map(str::to_owned);
        Self { inner: Arc::clone(&self.inner), project: self.project.clone(), target }
    }

    /// The name of the remote.
    pub fn remote(&self) -> &str {
        &self.inner.remote
    }

    /// The project that is used.
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// What the server says of itself (`GET /1.0`), asked for once.
    pub async fn info(&self) -> Result<&Value> {
        self.inner.info.get_or_try_init(|| async { Ok(self.get("/1.0").await?.value) }).await
    }

    /// True if the server is a member of a cluster.
    pub async fn is_clustered(&self) -> Result<bool> {
        Ok(self.info().await?["environment"]["server_clustered"].as_bool().unwrap_or(false))
    }

    /// Refuses servers that are not members of a cluster.
    pub async fn must_be_clustered(&self) -> Result<()> {
        if self.is_clustered().await? {
            return Ok(());
        }
        Err(Error::bad_request("Server isn't part of a cluster"))
    }

    /// True if the server knows the API extension.
    pub async fn has(&self, extension: &str) -> Result<bool> {
        Ok(self.info().await?["api_extensions"].as_array().is_some_and(|all| all.iter().any(|e| e == extension)))
    }

    /// `GET`s a value.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.call("GET", path, None, None).await
    }

    /// `GET`s a list of objects.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        match self.get(path).await?.value {
            Value::Array(items) => Ok(items),
            Value::Null => Ok(Vec::new()),
            _ => Err(Error::internal(format!("The server's answer to {path} is not a list"))),
        }
    }

    /// `PUT`s a value, only if it still has that tag.
    pub async fn put(&self, path: &str, body: &Value, etag: Option<&str>) -> Result<Reply> {
        self.call("PUT", path, Some(body), etag).await
    }

    /// `POST`s a value.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.call("POST", path, Some(body), None).await
    }

    /// `DELETE`s a thing.
    pub async fn delete(&self, path: &str) -> Result<Reply> {
        self.call("DELETE", path, None, None).await
    }

    /// Sends JSON and reads the envelope.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>, etag: Option<&str>) -> Result<Reply> {
        let mut headers = Vec::new();
        if body.is_some() {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        if let Some(etag) = etag {
            headers.push(("if-match".to_owned(), etag.to_owned()));
        }
        let body = body.map_or_else(empty, |b| full(b.to_string()));
        self.upload(method, path, &headers, body).await
    }

    /// Sends any body and reads the envelope.
    pub async fn upload(&self, method: &str, path: &str, headers: &[(String, String)], body: Body) -> Result<Reply> {
        let (response, sender) = self.inner.transport.send(method, &self.url(path), headers, body).await?;
        let etag = response.headers().get("etag").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        self.inner.transport.put_back(sender).await;
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|e| {
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim().chars().take(200).collect::<String>();
            if status.is_success() {
                Error::internal(format!("The server's answer to {method} {path} cannot be read: {e}"))
            } else {
                Error::new(Kind::from_status(status.as_u16()), format!("{status}: {text}"))
            }
        })?;
        if let Some(e) = envelope.as_error() {
            return Err(e);
        }
        let operation = (envelope.kind == "async").then_some(envelope.operation);
        Ok(Reply { value: envelope.metadata, etag, operation })
    }

    /// Sends any body and returns the raw answer; an error of the API is an error here too.
    pub async fn raw(&self, method: &str, path: &str, headers: &[(String, String)], body: Body) -> Result<RawReply> {
        let (response, _) = self.inner.transport.send(method, &self.url(path), headers, body).await?;
        if response.status().is_success() {
            return Ok(RawReply { headers: response.headers().clone(), body: response });
        }
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        let error = serde_json::from_slice::<Envelope>(&bytes).ok().and_then(|e| e.as_error());
        Err(error.unwrap_or_else(|| Error::new(Kind::from_status(status.as_u16()), status.to_string())))
    }

    /// Opens a websocket.
    pub async fn websocket(&self, path: &str) -> Result<WebSocket> {
        self.inner.transport.websocket(&self.url(path)).await
    }

    /// The path with the project and the member that were asked for, unless it names them itself.
    fn url(&self, path: &str) -> String {
        let mut url = path.to_owned();
        let mut add = |key: &str, value: &str| {
            let named =
                url.split_once('?').is_some_and(|(_, q)| q.split('&').any(|p| p.split('=').next() == Some(key)));
            if !named {
                url.push(if url.contains('?') { '&' } else { '?' });
                url.push_str(&format!("{key}={}", encode(value)));
            }
        };
        if let Some(project) = &self.project
            && !path.contains("all-projects=")
        {
            add("project", project);
        }
        if let Some(target) = &self.target {
            add("target", target);
        }
        url
    }
}

impl RawReply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// Reads the whole body.
    pub async fn bytes(self) -> Result<bytes::Bytes> {
        Ok(self.body.into_body().collect().await.map_err(broken)?.to_bytes())
    }

    /// Reads the body piece by piece.
    pub async fn each(self, mut take: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<()> {
        let mut body = self.body.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                take(&data)?;
            }
        }
        Ok(())
    }
}
