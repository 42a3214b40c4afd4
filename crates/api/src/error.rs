//! The one error type that crosses crate borders, free of any transport.

use std::fmt;

/// What kind of refusal or failure an [`Error`] is; decides the HTTP status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request itself is wrong: a bad value, an unknown key, malformed JSON.
    BadRequest,
    /// The caller is not (sufficiently) trusted.
    Forbidden,
    /// The thing that the request names does not exist.
    NotFound,
    /// A thing of that name exists already, or another operation holds it.
    Conflict,
    /// The `If-Match` header does not match the current state.
    PreconditionFailed,
    /// The client took too long to send the request.
    TimedOut,
    /// The request is larger than is accepted.
    TooLarge,
    /// The thing exists but is not in a state in which this can be done.
    Locked,
    /// It cannot be done now, but may be later: no quorum, a member is offline, the daemon starts or stops.
    Unavailable,
    /// The method is not one this resource has, or the server lacks what the request needs.
    NotImplemented,
    /// Something failed underneath.
    Internal,
}

impl Kind {
    /// The HTTP status code that clients see.
    pub const fn status(self) -> u16 {
        match self {
            Kind::BadRequest => 400,
            Kind::Forbidden => 403,
            Kind::NotFound => 404,
            Kind::TimedOut => 408,
            Kind::Conflict => 409,
            Kind::PreconditionFailed => 412,
            Kind::TooLarge => 413,
            Kind::Locked => 423,
            Kind::Internal => 500,
            Kind::NotImplemented => 501,
            Kind::Unavailable => 503,
        }
    }

    /// The kind that a status code received from a server stands for.
    pub const fn from_status(status: u16) -> Kind {
        match status {
            400 => Kind::BadRequest,
            401 | 403 => Kind::Forbidden,
            404 => Kind::NotFound,
            408 => Kind::TimedOut,
            409 => Kind::Conflict,
            412 => Kind::PreconditionFailed,
            413 => Kind::TooLarge,
            423 => Kind::Locked,
            501 => Kind::NotImplemented,
            502..=504 => Kind::Unavailable,
            _ => Kind::Internal,
        }
    }
}

/// A refusal or failure, in words for the person who asked.
///
/// The message says what was refused, why and, where it can be known, what to do. It never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Decides the status code.
    pub kind: Kind,
    /// Words for a person; where clients parse them, exactly those of Incus.
    pub message: String,
}

/// Shorthand used all over the workspace.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Puts `what` before the message, as in "Failed to start: no such file".
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// True if the same request may well succeed when tried again.
    pub const fn retryable(&self) -> bool {
        matches!(self.kind, Kind::Unavailable)
    }
}

macro_rules! shorthand {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        impl Error {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self { Self::new(Kind::$kind, message) })*
        }
    };
}

shorthand! {
    /// [`Kind::BadRequest`].
    bad_request => BadRequest;
    /// [`Kind::Forbidden`].
    forbidden => Forbidden;
    /// [`Kind::NotFound`].
    not_found => NotFound;
    /// [`Kind::Conflict`].
    conflict => Conflict;
    /// [`Kind::Unavailable`].
    unavailable => Unavailable;
    /// [`Kind::Internal`].
    internal => Internal;
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::internal(e.to_string())
    }
}

/// Adds words to a foreign error and makes it an [`Error`] of kind [`Kind::Internal`].
pub trait Context<T> {
    /// `Failed to open "x": permission denied`.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| e.into().context(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        use Kind::*;
        for kind in [
            BadRequest,
            Forbidden,
            NotFound,
            Conflict,
            PreconditionFailed,
            Locked,
            Unavailable,
            NotImplemented,
            Internal,
        ] {
            assert_eq!(Kind::from_status(kind.status()), kind);
        }
    }

    #[test]
    fn context_stands_before_the_cause() {
        let e: Result<()> = Err(Error::not_found("Instance not found")).context("Failed to start \"c1\"");
        assert_eq!(e, Err(Error::not_found("Failed to start \"c1\": Instance not found")));
    }
}
