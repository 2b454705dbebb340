//! The one error type of the public interface, and the rules for making one.
//!
//! 1. A room has its own small enum only where a caller matches on it; public functions from `repository` upwards
//!    return [`Error`].
//! 2. An error says *what* failed, *where* (context pairs), *why* (source) and *what next* (hint).
//! 3. Context is added once, where it is known; an error is never re-wrapped to say the same thing again.
//! 4. [`ErrorKind`] is about what the caller can do, not about where the error came from.
//! 5. No message holds a secret, and none holds a raw control character: [`escape`] is applied on display.

use std::fmt;
use std::sync::Arc;

/// The result of every fallible function from the repository layer upwards.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error; the CLI maps each kind to one exit code and one hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong (exit 2).
    Invalid,
    /// A named thing (a snapshot, a path, a key slot) is not there (exit 1).
    NotFound,
    /// A thing that must be new is there already (exit 1).
    Exists,
    /// There is no finished repository at the address (exit 10).
    NoRepository,
    /// Another process holds what is needed (exit 11).
    Busy,
    /// The password, key file or phrase opens no key slot (exit 12).
    WrongKey,
    /// Stored bytes are missing or are not what was written (exit 13).
    Damaged,
    /// A safety rule forbids the operation (exit 14).
    Refused,
    /// The store cannot be reached, or does not answer in time (exit 15).
    Unreachable,
    /// The disk of the store reports that it cannot give something: a bad sector, or a file system that is out of order (exit 15).
    Unreadable,
    /// The store, or the disk that is written to, is full (exit 16).
    StoreFull,
    /// The store refused the request: read-only, or no permission (exit 17).
    Denied,
    /// The work is done in part only; the incidents say which part is missing (exit 3).
    Incomplete,
    /// Data differs from what it is compared with (exit 5).
    Differs,
    /// The format, server or platform lacks what is asked for (exit 1).
    Unsupported,
    /// Reading a source or writing a target failed (exit 1).
    Source,
    /// The session was fenced by a collector, or a snapshot was forgotten while it was read (exit 1).
    Conflict,
    /// Cancelled by the user (exit 130).
    Cancelled,
    /// A bug (exit 1).
    Internal,
}

/// An error: kind, what failed, context pairs, hint and source. Cheap to move; clones share their source, since one failed
/// request may be awaited by several.
#[derive(Clone)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    what: String,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error of `kind`; `what` is a lower-case fragment that says what failed.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                what: what.into(),
                context: Vec::new(),
                hint: None,
                source: None,
            }),
        }
    }

    /// Adds where it happened: a key such as `object` or `path`, and its value.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.inner.context.push((key, value.to_string()));
        self
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into().into());
        self
    }

    /// Says what to do next; the CLI prints it as a `hint:` line.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hint = Some(hint.into());
        self
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// What failed, without context.
    pub fn what(&self) -> &str {
        &self.inner.what
    }

    /// The value of a context key, if it was given.
    pub fn context(&self, key: &str) -> Option<&str> {
        self.inner
            .context
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.as_str())
    }

    /// The advice for the user, if there is any.
    pub fn advice(&self) -> Option<&str> {
        self.inner.hint.as_deref()
    }

    /// The messages of the chain of causes, outermost first, without this error's own.
    pub fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            let text = escape(&error.to_string());
            if causes.last() != Some(&text) {
                causes.push(text);
            }
            next = error.source();
        }
        causes
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.inner.what))?;
        for (i, (key, value)) in self.inner.context.iter().enumerate() {
            write!(f, "{}{key} {}", if i == 0 { " (" } else { ", " }, escape(value))?;
        }
        if self.inner.context.is_empty() {
            Ok(())
        } else {
            f.write_str(")")
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.inner.kind)?;
        for cause in self.causes() {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|e| e as _)
    }
}

/// Makes untrusted text safe for a terminal or a log line: control, bidirectional and zero-width characters become
/// `\u{…}` escapes, so that a name cannot move the cursor or forge a line.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if hidden {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_what_and_where_and_hides_control_characters() {
        let error = Error::new(ErrorKind::Damaged, "blob fails its id").with("pack", "ab\u{1b}[2J");
        assert_eq!(error.to_string(), "blob fails its id (pack ab\\u{1b}[2J)");
    }

    #[test]
    fn causes_are_listed_outermost_first_without_repeats() {
        let io = std::io::Error::other("disk gone");
        let error = Error::new(ErrorKind::Source, "cannot read").because(io);
        assert_eq!(error.causes(), ["disk gone"]);
    }
}
