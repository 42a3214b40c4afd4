//! From a request to its handler: path, method, permission, member, body; and from its result to the answer.

use std::borrow::Borrow;
use std::sync::Arc;

use api::endpoint::{Background, List, Listed, Method, Reply, ReplyKind, Sync};
use api::{Endpoint, Error, Info, Kind, Result};
use futures::future::BoxFuture;
use hyper::body::Body as _;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};
use incus_core::filter::Filter;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::auth::{Caller, Trust};
use super::incoming::Incoming;
use super::reply::{self, Body};
use super::request::{self, Cx};
use super::session::{self, Session};
use super::{forward, permit};
use crate::operations::Operation;
use crate::state::Daemon;

type Handler =
    Arc<dyn Fn(Cx, Request<Incoming>) -> BoxFuture<'static, Result<Response<Body>>> + Send + std::marker::Sync>;

struct Route {
    info: Info,
    segments: Vec<&'static str>,
    handler: Handler,
}

/// All handlers, by endpoint.
#[derive(Default)]
pub struct Router {
    routes: Vec<Route>,
}

impl Router {
    /// Answers an endpoint with a value.
    pub fn sync<B, T, F, Fut>(&mut self, endpoint: &Endpoint<B, Sync<T>>, handler: F)
    where
        B: DeserializeOwned + Send + 'static,
        T: Serialize + DeserializeOwned + 'static,
        F: Fn(Cx, B) -> Fut + Send + std::marker::Sync + Clone + 'static,
        Fut: Future<Output = Result<T>> + Send,
    {
        self.add(endpoint, move |cx, request| {
            let handler = handler.clone();
            Box::pin(async move {
                let body = request::body(&cx, request.into_body()).await?;
                let (answer, trust) = (cx.answer.clone(), cx.caller.trust.clone());
                let value = handler(cx, body).await?;
                let mut response = match &trust {
                    Trust::Restricted(_) => reply::sync(&permit::visible(&trust, to_value(&value)?))?,
                    _ => reply::sync(&value)?,
                };
                if let Some(etag) = answer.etag.get().and_then(|e| HeaderValue::from_str(&format!("\"{e}\"")).ok()) {
                    response.headers_mut().insert("etag", etag);
                    response.headers_mut().remove("x-content-type-options");
                }
                if let Some(location) = answer.location.get().and_then(|l| HeaderValue::from_str(l).ok()) {
                    *response.status_mut() = StatusCode::CREATED;
                    response.headers_mut().insert("location", location);
                }
                Ok(response)
            })
        });
    }

    /// Answers an endpoint with a list: URLs, or the things themselves with `?recursion=`. They may come as something else
    /// that reads the same.
    pub fn list<B, T, S, F, Fut>(&mut self, endpoint: &Endpoint<B, List<T>>, handler: F)
    where
        B: DeserializeOwned + Send + 'static,
        T: Listed + 'static,
        S: Borrow<T> + Serialize + Send + 'static,
        F: Fn(Cx, B) -> Fut + Send + std::marker::Sync + Clone + 'static,
        Fut: Future<Output = Result<Vec<S>>> + Send,
    {
        self.add(endpoint, move |cx, request| {
            let handler = handler.clone();
            Box::pin(async move {
                let body = request::body(&cx, request.into_body()).await?;
                let (names, trust) = (matches!(cx.param("recursion"), "" | "0"), cx.caller.trust.clone());
                let filter = Filter::parse(cx.param("filter"))?;
                let things = handler(cx, body).await?;
                if filter == Filter::All && !matches!(trust, Trust::Restricted(_)) {
                    return match names {
                        true => reply::sync(&things.iter().map(|thing| thing.borrow().url()).collect::<Vec<_>>()),
                        false => reply::sync(&things),
                    };
                }
                let mut values = Vec::new();
                for thing in &things {
                    let value = permit::visible(&trust, to_value(thing)?);
                    if filter.accepts(&value) {
                        values.push(if names { thing.borrow().url().into() } else { value });
                    }
                }
                reply::sync(&values)
            })
        });
    }

    /// Answers an endpoint with a background operation.
    pub fn operation<B, F, Fut>(&mut self, endpoint: &Endpoint<B, Background>, handler: F)
    where
        B: DeserializeOwned + Send + 'static,
        F: Fn(Cx, B) -> Fut + Send + std::marker::Sync + Clone + 'static,
        Fut: Future<Output = Result<Arc<Operation>>> + Send,
    {
        self.add(endpoint, move |cx, request| {
            let handler = handler.clone();
            Box::pin(async move {
                let body = request::body(&cx, request.into_body()).await?;
                reply::operation(&handler(cx, body).await?.view())
            })
        });
    }

    /// Answers an endpoint with whatever the handler makes of the request.
    pub fn raw<B, R: Reply, F, Fut>(&mut self, endpoint: &Endpoint<B, R>, handler: F)
    where
        F: Fn(Cx, Request<Incoming>) -> Fut + Send + std::marker::Sync + Clone + 'static,
        Fut: Future<Output = Result<Response<Body>>> + Send,
    {
        self.add(endpoint, move |cx, request| {
            let handler = handler.clone();
            Box::pin(async move { handler(cx, request).await })
        });
    }

    fn add<B, R: Reply>(
        &mut self,
        endpoint: &Endpoint<B, R>,
        handler: impl Fn(Cx, Request<Incoming>) -> BoxFuture<'static, Result<Response<Body>>>
        + Send
        + std::marker::Sync
        + 'static,
    ) {
        let info = endpoint.info;
        self.routes.push(Route { info, segments: segments(info.path), handler: Arc::new(handler) });
    }

    /// The endpoints that have a handler.
    #[cfg(test)]
    pub fn endpoints(&self) -> impl Iterator<Item = &Info> {
        self.routes.iter().map(|r| &r.info)
    }

    /// Answers a request.
    pub async fn serve(&self, daemon: Arc<Daemon>, caller: Caller, request: Request<Incoming>) -> Response<Body> {
        let answer: BoxFuture<'_, _> = Box::pin(self.answer(daemon, caller, request));
        reply::confirmed_or_not(async { answer.await.unwrap_or_else(|e| reply::error(&e)) }).await
    }

    async fn answer(&self, daemon: Arc<Daemon>, caller: Caller, request: Request<Incoming>) -> Result<Response<Body>> {
        let headers = request.headers().clone();
        let carrier = forward::is_forwarded(&caller, &headers).then(|| caller.clone());
        let caller = forward::original_caller(caller, &headers);
        let found = self.find(request.method().as_str(), request.uri().path());
        let (route, args) = found.map_err(|e| match e.kind {
            // Strangers are told the same whatever they try with a path.
            Kind::NotImplemented if !caller.trusted() => Error::forbidden("not authorized"),
            _ => e,
        })?;
        // The links between members are what a starting member catches up by.
        if route.info.path != api::internal::LINK.info.path {
            crate::versions::admit(&daemon, &caller, &route.info).await?;
        }
        crate::removed::refuse(&daemon, route.info.path)?;
        let query = request::parse_query(request.uri().query().unwrap_or_default());
        let info = route.info;
        let cx = Cx { daemon, caller, carrier, info, args, query, headers, answer: Arc::default() };
        permit::check(&cx).await?;
        let raw = info.reply == ReplyKind::Raw;
        let sends = raw && !request.body().is_end_stream();
        let request = if sends { request.map(|body| body.held(&Session::of(&cx))) } else { request };
        let answer = self.carry_out(route, cx.clone(), request).await;
        let answer = permit::answered(&cx, answer)?;
        Ok(if raw { session::keep(&cx, answer) } else { answer })
    }

    async fn carry_out(&self, route: &Route, cx: Cx, request: Request<Incoming>) -> Result<Response<Body>> {
        match forward::destination(&cx).await? {
            Some(address) => forward::send(&cx, &address, request).await,
            None => (route.handler)(cx, request).await,
        }
    }

    fn find(&self, method: &str, path: &str) -> Result<(&Route, Vec<String>)> {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let fitting: Vec<&Route> = self.routes.iter().filter(|r| fits(&r.segments, &parts)).collect();
        if fitting.is_empty() {
            return Err(Error::not_found("not found"));
        }
        // What is spelled out comes before what stands for anything.
        let best = fitting.iter().map(|r| fixed(&r.segments)).max().unwrap_or(0);
        let mut fitting = fitting.into_iter().filter(|r| fixed(&r.segments) == best);
        let route = fitting
            .find(|r| r.info.method.as_str() == method || (method == "HEAD" && r.info.method == Method::GET))
            .ok_or_else(|| Error::new(Kind::NotImplemented, "not implemented"))?;
        let args = route.segments.iter().zip(&parts).filter(|(s, _)| s.starts_with('{'));
        Ok((route, args.map(|(_, part)| api::endpoint::decode(part)).collect()))
    }
}

fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::internal(e.to_string()))
}

fn segments(path: &'static str) -> Vec<&'static str> {
    path.split('/').filter(|s| !s.is_empty()).collect()
}

fn fits(template: &[&str], parts: &[&str]) -> bool {
    template.len() == parts.len() && template.iter().zip(parts).all(|(t, p)| t.starts_with('{') || t == p)
}

fn fixed(template: &[&str]) -> usize {
    template.iter().filter(|t| !t.starts_with('{')).count()
}
