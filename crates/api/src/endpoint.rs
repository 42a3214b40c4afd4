//! How a resource of the API is declared, once.
//!
//! An [`Endpoint`] is a typed constant: its type parameters are what travels in the request and what comes
//! back, its [`Info`] says who may call it, on which member it runs and since which extension it exists.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

/// HTTP methods that the API uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Method {
    GET,
    HEAD,
    PUT,
    PATCH,
    POST,
    DELETE,
}

impl Method {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::POST => "POST",
            Method::DELETE => "DELETE",
        }
    }
}

/// Header of answers that may be older than what others were told: no majority of the voters could be asked. Ours.
pub const UNCONFIRMED: &str = "x-incus-unconfirmed";

/// Who may call an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Allow {
    /// Anybody who can connect; the handler itself decides how much is told (or asks for a token).
    Anyone,
    /// Whoever may read metrics: any trusted client, and one with a certificate for metrics; anybody where
    /// `core.metrics_authentication` is off.
    Metrics,
    /// Any trusted client. What a client restricted to projects may not see is filtered from the answer.
    Trusted,
    /// A trusted client that may use the project that the request is about.
    Project,
    /// A trusted client that is not restricted to projects.
    Admin,
    /// Another member of the cluster (its server certificate), or a unix peer.
    Member,
}

/// On which member of a cluster an endpoint is carried out; elsewhere the request is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// On the member that was asked: every member holds the whole database.
    Any,
    /// On the member named by `?target=`, otherwise on the one that was asked.
    Target,
    /// On the member that holds the instance `{name}` in the request's project.
    Instance,
    /// The same; if that member is away, on the one that was asked, which shows what is written down.
    InstanceRecord,
    /// On the member named in the path; if that is away, on the one that was asked, which does what goes without it.
    MemberOrAny,
    /// On the member that holds the volume `{type}/{volume}` of the pool `{pool}`; `?target=` wins.
    Volume,
    /// On the member that runs the operation `{id}`.
    Operation,
    /// On the cluster member `{name}`.
    Member,
    /// On the leader of the database.
    Leader,
}

/// What kind of answer an endpoint gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyKind {
    /// A value in a `sync` envelope.
    Sync,
    /// A list of things: their URLs, or with `?recursion=1` the things themselves; `?filter=` applies.
    List,
    /// A background operation.
    Operation,
    /// Bytes, a websocket or whatever the documentation says.
    Raw,
}

/// The reply of an endpoint; implemented only by the markers of this module.
pub trait Reply: 'static {
    /// What kind of answer.
    const KIND: ReplyKind;
    /// What the envelope's metadata holds.
    type Value;
}

/// Marker: the answer is a `T` in a `sync` envelope.
pub struct Sync<T>(PhantomData<T>);
/// Marker: the answer is a list of `T`.
pub struct List<T>(PhantomData<T>);
/// Marker: the answer is a background operation.
pub struct Background;
/// Marker: the answer is not JSON.
pub struct Raw;

impl<T: Serialize + DeserializeOwned + 'static> Reply for Sync<T> {
    const KIND: ReplyKind = ReplyKind::Sync;
    type Value = T;
}
impl<T: Listed + 'static> Reply for List<T> {
    const KIND: ReplyKind = ReplyKind::List;
    type Value = Vec<T>;
}
impl Reply for Background {
    const KIND: ReplyKind = ReplyKind::Operation;
    type Value = ();
}
impl Reply for Raw {
    const KIND: ReplyKind = ReplyKind::Raw;
    type Value = ();
}

/// A thing that can stand in a list: it knows its own URL.
pub trait Listed: Serialize + DeserializeOwned {
    /// Its URL, as `/1.0/profiles/default`, with `?project=` when it is not of the project `default`.
    fn url(&self) -> String;
}

/// Everything about an endpoint but its types.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// The name of the constant, as `LIST`.
    pub name: &'static str,
    /// HTTP method.
    pub method: Method,
    /// Path template, as `/1.0/cluster/members/{name}`.
    pub path: &'static str,
    /// Who may call it.
    pub allow: Allow,
    /// Where it is carried out.
    pub at: At,
    /// What kind of answer it gives.
    pub reply: ReplyKind,
    /// The API extension that it came with; empty if it has always been there.
    pub since: &'static str,
    /// What it does, for people.
    pub doc: &'static str,
    /// Refuses what is no body of such a request.
    pub check: fn(&[u8]) -> crate::Result<()>,
}

/// One endpoint of the API: `B` is the body of the request (`()` for none), `R` the kind of reply.
pub struct Endpoint<B, R> {
    /// Everything but the types.
    pub info: Info,
    types: PhantomData<fn(B) -> R>,
}

impl<B, R: Reply> Endpoint<B, R> {
    /// Used by [`endpoints!`](crate::endpoints!).
    pub const fn new(info: Info) -> Self {
        Self { info, types: PhantomData }
    }
}

/// Fills the `{…}` parts of a path template in order; what goes in is percent-encoded.
pub fn fill(template: &str, args: &[&str]) -> String {
    let mut out = String::with_capacity(template.len() + 16);
    let mut args = args.iter();
    let mut rest = template;
    while let Some((head, tail)) = rest.split_once('{') {
        out.push_str(head);
        out.push_str(&encode(args.next().copied().unwrap_or_default()));
        rest = tail.split_once('}').map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

/// The URL of a thing in a project: the project `default` is not named.
pub fn in_project(url: String, project: &str) -> String {
    if project.is_empty() || project == "default" { url } else { format!("{url}?project={}", encode(project)) }
}

/// Percent-encodes a path segment or query value (RFC 3986: all but unreserved characters).
pub fn encode(s: &str) -> String {
    use std::fmt::Write;
    s.bytes().fold(String::with_capacity(s.len()), |mut out, b| {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(b.into()),
            _ => {
                let _ = write!(out, "%{b:02X}");
            }
        }
        out
    })
}

/// Undoes [`encode`]; what is not valid percent-encoding stays as it is.
pub fn decode(s: &str) -> String {
    let bytes = s.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| s.get(i + 1..i + 3)).flatten();
        if let Some(b) = hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            out.push(b);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Declares the endpoints of a resource: a typed constant each, and a table of all of them.
///
/// ```
/// use api::endpoint::{Allow::*, At, List, Listed, Sync};
/// # use serde::{Serialize, Deserialize};
/// # #[derive(Serialize, Deserialize)] pub struct Group { name: String }
/// # impl Listed for Group { fn url(&self) -> String { format!("/1.0/cluster/groups/{}", self.name) } }
/// api::endpoints! {
///     /// List the groups.
///     LIST = GET "/1.0/cluster/groups" -> List<Group>, Trusted, At::Any, "clustering_groups";
///     /// Create a group.
///     CREATE = POST "/1.0/cluster/groups" (Group) -> Sync<()>, Admin, At::Any, "clustering_groups";
/// }
/// assert_eq!(ENDPOINTS.len(), 2);
/// assert_eq!(LIST.info.path, "/1.0/cluster/groups");
/// ```
#[macro_export]
macro_rules! endpoints {
    ($( $(#[doc = $doc:literal])+ $name:ident = $method:ident $path:literal $(($body:ty))? -> $reply:ty,
        $allow:expr, $at:expr, $since:literal; )*) => {
        $( $(#[doc = $doc])+
        pub const $name: $crate::Endpoint<$crate::endpoints!(@body $($body)?), $reply> =
            $crate::Endpoint::new($crate::Info {
                name: stringify!($name),
                method: $crate::endpoint::Method::$method,
                path: $path,
                allow: $allow,
                at: $at,
                reply: <$reply as $crate::endpoint::Reply>::KIND,
                since: $since,
                doc: concat!($($doc, "\n"),+),
                check: $crate::body::check::<$crate::endpoints!(@body $($body)?)>,
            }); )*

        /// All endpoints of this resource.
        pub const ENDPOINTS: &[$crate::Info] = &[$($name.info),*];
    };
    (@body) => { () };
    (@body $body:ty) => { $body };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in_order_and_encoded() {
        for (template, args, want) in [
            ("/1.0", &[][..], "/1.0"),
            ("/1.0/images/{fingerprint}/export", &["ab"], "/1.0/images/ab/export"),
            ("/1.0/storage-pools/{pool}/volumes/{type}", &["a b", "x/y"], "/1.0/storage-pools/a%20b/volumes/x%2Fy"),
        ] {
            assert_eq!(fill(template, args), want);
        }
    }

    #[test]
    fn decoding_undoes_encoding() {
        for s in ["", "plain", "a b/c?d=é&%", "100%", "%zz"] {
            assert_eq!(decode(&encode(s)), s);
        }
        assert_eq!(decode("100%"), "100%");
    }
}
