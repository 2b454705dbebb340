//! Why a request failed: what the layers below say, put into classes, and classes put into words.

use super::secret::Redactor;
use crate::error::{Error, ErrorKind};
use object_store::Error as E;
use object_store::client::{HttpError, HttpErrorKind};
use std::io;
use std::time::Duration;

/// What our own HTTP layer, directory and test stores report. It travels through `object_store` as the innermost cause,
/// because that library's own errors do not tell status and code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The server answered with anything but success.
    #[error("the server answered {status} {code} {message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// `<Code>` of S3's error document, or empty.
        code: String,
        /// `<Message>` of S3's error document, or empty.
        message: String,
    },
    /// The answer to a request for many objects says nothing of some.
    #[error("the answer does not tell of every object what became of it")]
    Silent,
    /// No byte moved for this long.
    #[error("no byte moved for {0:?}")]
    Stalled(Duration),
    /// The directory of the store is not there.
    #[error("the directory does not exist: {0}")]
    NoDirectory(String),
    /// The file system can publish a file neither by a hard link nor by a rename that replaces nothing.
    #[error("the file system has neither hard links nor a rename that never replaces ({0})")]
    NoCreate(io::Error),
}

/// What a failure means for who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// There is no such object.
    Absent,
    /// There is an object of that name, or the server says so (a 409 says it without an object).
    Exists,
    /// No space, or a quota is used up.
    Full,
    /// No permission, or read-only.
    Denied,
    /// There is no such bucket or directory.
    NoStore,
    /// No connection: nothing was sent.
    NotSent,
    /// No answer, half an answer, or a 5xx: what happened is unknown.
    Lost,
    /// The server asks for fewer requests.
    Busy,
    /// The disk does not give what was written to it, or not rightly: EIO, or what a file system says of its own damage.
    Unreadable,
    /// The operating system reports another error that time does not heal.
    Broken,
    /// The store cannot do this.
    Unsupported,
    /// The request was wrong, or the answer was not understood.
    Wrong,
}

impl Class {
    /// Whether sending the request again may help.
    pub(crate) fn passes(self) -> bool {
        matches!(self, Self::NotSent | Self::Lost | Self::Busy)
    }

    /// Whether the line or the server is overloaded.
    pub(crate) fn is_pressure(self) -> bool {
        matches!(self, Self::Lost | Self::Busy)
    }

    /// Whether a put that failed so has certainly stored nothing.
    pub(crate) fn stored_nothing(self) -> bool {
        matches!(
            self,
            Self::Full | Self::Denied | Self::NoStore | Self::NotSent | Self::Unsupported
        )
    }

    fn kind(self) -> ErrorKind {
        match self {
            Self::Absent => ErrorKind::NotFound,
            Self::Exists => ErrorKind::Exists,
            Self::Full => ErrorKind::StoreFull,
            Self::Denied => ErrorKind::Denied,
            Self::NoStore => ErrorKind::NoRepository,
            Self::NotSent | Self::Lost | Self::Busy | Self::Broken => ErrorKind::Unreachable,
            Self::Unreadable => ErrorKind::Unreadable,
            Self::Unsupported => ErrorKind::Unsupported,
            Self::Wrong => ErrorKind::Invalid,
        }
    }
}

/// The class of a failure: our own fault if there is one in the chain, then what HTTP, then what the system said.
pub(crate) fn classify(error: &object_store::Error) -> Class {
    if let Some(fault) = cause::<Fault>(error) {
        return match fault {
            Fault::Status { status, code, .. } => of_status(*status, code),
            Fault::Stalled(_) => Class::Lost,
            Fault::Silent => Class::Wrong,
            Fault::NoDirectory(_) => Class::NoStore,
            Fault::NoCreate(_) => Class::Unsupported,
        };
    }
    if let Some(http) = cause::<HttpError>(error) {
        return match http.kind() {
            HttpErrorKind::Connect => Class::NotSent,
            HttpErrorKind::Decode => Class::Wrong,
            _ => Class::Lost,
        };
    }
    if let Some(system) = cause::<io::Error>(error) {
        return of_system(system);
    }
    match error {
        E::NotFound { .. } => Class::Absent,
        E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => Class::Exists,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Class::Denied,
        E::NotSupported { .. } | E::NotImplemented { .. } => Class::Unsupported,
        _ => Class::Wrong,
    }
}

/// Whether the store itself spoke: a refusal is an answer, a broken line is none.
pub(crate) fn is_answer(error: &E) -> bool {
    !matches!(classify(error), Class::NotSent | Class::Lost)
        || matches!(cause(error), Some(Fault::Status { .. }))
}

/// Whether a request failed as a whole, where it asked for many objects.
pub(crate) fn is_of_request(error: &E) -> bool {
    cause::<HttpError>(error).is_some() || cause::<Fault>(error).is_some()
}

/// The first cause of type `T`.
fn cause<'a, T: std::error::Error + 'static>(error: &'a object_store::Error) -> Option<&'a T> {
    let mut next: Option<&'a (dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn of_status(status: u16, code: &str) -> Class {
    match (status, code) {
        (
            _,
            "QuotaExceeded"
            | "InsufficientStorage"
            | "XMinioStorageFull"
            | "XMinioAdminBucketQuotaExceeded"
            | "EntityTooLargeQuota"
            | "StorageQuotaExceeded"
            | "UserSuspendedQuota"
            | "BucketQuotaExceeded",
        )
        | (507, _) => Class::Full,
        (_, "SlowDown" | "SlowDownWrite" | "SlowDownRead" | "TooManyRequests" | "RequestLimitExceeded")
        | (429 | 503, _) => Class::Busy,
        (_, "NoSuchBucket") => Class::NoStore,
        (_, "NotImplemented" | "InvalidStorageClass") | (501, _) => Class::Unsupported,
        (_, "RequestTimeout" | "InternalError") | (408 | 425 | 500..=599, _) => Class::Lost,
        (404 | 410, _) => Class::Absent,
        (304 | 409 | 412, _) => Class::Exists,
        (401 | 403 | 405 | 402, _) => Class::Denied,
        _ => Class::Wrong,
    }
}

fn of_system(error: &io::Error) -> Class {
    use io::ErrorKind as K;
    use rustix::io::Errno;
    if let Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG) = Errno::from_io_error(error) {
        return Class::Unreadable;
    }
    match error.kind() {
        K::NotFound => Class::Absent,
        // A file stands where the directory, or one above it, should be.
        K::NotADirectory => Class::NoStore,
        K::AlreadyExists => Class::Exists,
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge => Class::Full,
        K::PermissionDenied | K::ReadOnlyFilesystem => Class::Denied,
        K::TimedOut
        | K::Interrupted
        | K::StaleNetworkFileHandle
        | K::ConnectionReset
        | K::ConnectionAborted
        | K::UnexpectedEof
        | K::BrokenPipe => Class::Lost,
        K::ConnectionRefused | K::HostUnreachable | K::NetworkUnreachable | K::NotConnected => Class::NotSent,
        K::Unsupported => Class::Unsupported,
        _ => Class::Broken,
    }
}

/// What was tried; the verb of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    Read,
    Write,
    List,
    Delete,
}

impl Attempt {
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

/// Where a failure happened.
pub(crate) struct Place<'a> {
    pub(crate) attempt: Attempt,
    pub(crate) object: &'a str,
    pub(crate) store: &'a str,
    pub(crate) redactor: &'a Redactor,
}

impl Place<'_> {
    /// The failure in words.
    pub(crate) fn error(&self, error: &object_store::Error) -> Error {
        let class = classify(error);
        let verb = self.attempt.verb();
        let what = match class {
            Class::Absent => "the object is not there".to_owned(),
            Class::Full => format!("cannot {verb}: the store is full"),
            Class::Denied => format!("cannot {verb}: the store refuses it"),
            Class::NoStore => format!("cannot {verb}: there is no such bucket or directory"),
            Class::NotSent => format!("cannot {verb}: the store cannot be reached"),
            Class::Lost => format!("cannot {verb}: the store does not answer as it should"),
            Class::Busy => format!("cannot {verb}: the store is overloaded"),
            Class::Unreadable => format!("cannot {verb}: the disk fails"),
            Class::Unsupported => format!("cannot {verb}: the store is not able to do it"),
            Class::Exists | Class::Broken | Class::Wrong => format!("cannot {verb}"),
        };
        let kind = match class.kind() {
            // Of what was not written nothing is lost.
            ErrorKind::Unreadable if self.attempt != Attempt::Read => ErrorKind::Unreachable,
            kind => kind,
        };
        let out = self.place(Error::new(kind, what)).because(self.cause(error));
        match hint(class, self.attempt, error) {
            Some(hint) => out.hint(hint),
            None => out,
        }
    }

    /// A put whose outcome nobody can tell.
    pub(crate) fn unknown(&self, kind: ErrorKind, error: &object_store::Error) -> Error {
        let what = "cannot tell whether the object was written: the outcome is unknown";
        self.place(Error::new(kind, what))
            .because(self.cause(error))
            .hint("run the command again when the store answers: what was stored is found and used")
    }

    /// A request that was interrupted; `unknown` if it was a put that may have been stored.
    pub(crate) fn cancelled(&self, unknown: bool, error: Option<&object_store::Error>) -> Error {
        let what = if unknown {
            "interrupted; whether the object was written is unknown"
        } else {
            "interrupted"
        };
        let out = self.place(Error::new(ErrorKind::Cancelled, what));
        match error {
            Some(error) => out.because(self.cause(error)),
            None => out,
        }
    }

    /// Adds object and store.
    pub(crate) fn place(&self, error: Error) -> Error {
        let error = if self.object.is_empty() {
            error
        } else {
            error.with("object", self.object)
        };
        error.with("store", self.store)
    }

    /// The innermost story without secrets: the layers above it only repeat the address.
    pub(crate) fn cause(&self, error: &object_store::Error) -> String {
        let text = if let Some(fault) = cause::<Fault>(error) {
            fault.to_string()
        } else {
            let mut deepest: &dyn std::error::Error = error;
            let mut told = Vec::new();
            while let Some(source) = deepest.source() {
                deepest = source;
                if deepest.source().is_none() || deepest.is::<io::Error>() {
                    told.push(deepest.to_string());
                }
            }
            match (cause::<HttpError>(error), told.last()) {
                (_, Some(text)) => text.clone(),
                (Some(http), None) => http.to_string(),
                (None, None) => error.to_string(),
            }
        };
        self.redactor.clean(text.trim())
    }
}

fn hint(class: Class, attempt: Attempt, error: &object_store::Error) -> Option<&'static str> {
    let code = match cause::<Fault>(error) {
        Some(Fault::Status { status, code, .. }) => Some((*status, code.as_str())),
        _ => None,
    };
    Some(match (class, code) {
        (_, Some((_, "RequestTimeTooSkewed"))) => "set this machine's clock: it is more than 15 minutes off",
        (_, Some((_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken"))) => {
            "check the access key, the secret key and, for temporary credentials, the session token"
        }
        (_, Some((300..=399, _) | (_, "AuthorizationHeaderMalformed"))) => {
            "check the region and the endpoint: the bucket lives elsewhere"
        }
        (_, Some((_, "InvalidStorageClass"))) => {
            "the server does not know this storage class: set HOLDALL_S3_STORAGE_CLASS to one it has, or unset it"
        }
        (Class::Full, _) => "free some space or raise the quota; nothing that was stored before is harmed",
        (Class::Denied, _) => match attempt {
            Attempt::Read | Attempt::List => {
                "check that this user or access key may read and list the repository"
            }
            Attempt::Write => {
                "check that this user or access key may write; reading commands work with read-only access"
            }
            Attempt::Delete => "check that this user or access key may delete",
        },
        (Class::NoStore, _) => "check the name; a bucket must be made before a repository is put into it",
        (Class::NotSent, _) => "check the address, the network and whether the server runs",
        (Class::Lost | Class::Busy, _) => "try again later; what was stored is found and used",
        (Class::Unreadable, _) => {
            "try again; if it stays so the disk is failing: see the system's log, and copy what can be read to another one with `holdall copy --to`"
        }
        (Class::Broken, _) => "look at the system's log: the disk or its connection may be failing",
        (Class::Unsupported, _) => {
            "use another file system or server: a repository needs one that puts an object only if its name is free (S3: If-None-Match)"
        }
        (Class::Absent | Class::Exists | Class::Wrong, _) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(source: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
        let http = HttpError::new(HttpErrorKind::Unknown, source);
        object_store::Error::Generic {
            store: "S3",
            source: Box::new(http),
        }
    }

    fn status(status: u16, code: &str) -> object_store::Error {
        wrap(Fault::Status {
            status,
            code: code.into(),
            message: String::new(),
        })
    }

    #[test]
    fn every_answer_has_its_class() {
        for (code, name, class) in [
            (404, "NoSuchKey", Class::Absent),
            (404, "NoSuchBucket", Class::NoStore),
            (412, "PreconditionFailed", Class::Exists),
            (409, "ConditionalRequestConflict", Class::Exists),
            (403, "AccessDenied", Class::Denied),
            (403, "QuotaExceeded", Class::Full),
            (507, "", Class::Full),
            (507, "XMinioStorageFull", Class::Full),
            (503, "SlowDown", Class::Busy),
            (500, "InternalError", Class::Lost),
            (504, "", Class::Lost),
            (501, "NotImplemented", Class::Unsupported),
            (400, "InvalidStorageClass", Class::Unsupported),
            (400, "InvalidArgument", Class::Wrong),
            (301, "PermanentRedirect", Class::Wrong),
        ] {
            assert_eq!(classify(&status(code, name)), class, "{code} {name}");
        }
    }

    #[test]
    fn every_system_error_has_its_class() {
        for (errno, class) in [
            (rustix::io::Errno::NOSPC, Class::Full),
            (rustix::io::Errno::DQUOT, Class::Full),
            (rustix::io::Errno::ROFS, Class::Denied),
            (rustix::io::Errno::ACCESS, Class::Denied),
            (rustix::io::Errno::NOENT, Class::Absent),
            (rustix::io::Errno::IO, Class::Unreadable),
            (rustix::io::Errno::MFILE, Class::Broken),
            (rustix::io::Errno::STALE, Class::Lost),
            (rustix::io::Errno::CONNREFUSED, Class::NotSent),
        ] {
            let error = object_store::Error::Generic {
                store: "local",
                source: Box::new(io::Error::from(errno)),
            };
            assert_eq!(classify(&error), class, "{errno}");
        }
    }

    #[test]
    fn a_message_says_what_where_why_and_what_next_without_secrets() {
        let redactor = Redactor::new([super::super::Secret::new("topsecret")]);
        let place = Place {
            attempt: Attempt::Write,
            object: "packs/ab/cd",
            store: "s3://bucket",
            redactor: &redactor,
        };
        let error = place.error(&wrap(Fault::Status {
            status: 403,
            code: "AccessDenied".into(),
            message: "key topsecret".into(),
        }));
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(
            format!("{error:?}"),
            "Denied: cannot write: the store refuses it (object packs/ab/cd, store s3://bucket): \
             the server answered 403 AccessDenied key (redacted)"
        );
        assert!(error.advice().unwrap().contains("may write"));
    }
}
