//! Where a repository lives, as people write it.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::path::PathBuf;

/// Where a repository lives. Holds no secret, so it can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory: a plain path, or `file:///path`.
    Local(PathBuf),
    /// `s3://bucket/prefix`; the endpoint is an option.
    S3 {
        /// The bucket.
        bucket: String,
        /// What comes before every name, without slashes at its ends; may be empty.
        prefix: String,
    },
    /// `memory:`, gone with the process; for tests.
    Memory,
}

impl Location {
    /// Reads a path or a URL.
    ///
    /// # Errors
    /// `Invalid` for an empty text, an unknown scheme, credentials in a URL, and bucket or prefix that cannot be.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            return Self::s3(text, rest);
        }
        if text.starts_with("file:") {
            return file_url(text).map(Self::Local);
        }
        if text.is_empty() || text.contains('\0') {
            return Err(Error::new(ErrorKind::Invalid, "the repository location is empty")
                .hint("give a directory, or s3://bucket/prefix"));
        }
        match scheme(text) {
            Some(scheme) => Err(
                Error::new(ErrorKind::Invalid, "unknown kind of repository location")
                    .with("scheme", scheme)
                    .hint("a location is a directory, file:///path or s3://bucket/prefix; the endpoint of an S3 \
                           server is an option; write ./ before a path that looks like a URL"),
            ),
            None => Ok(Self::Local(PathBuf::from(text))),
        }
    }

    fn s3(text: &str, rest: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Err(
                Error::new(ErrorKind::Invalid, format!("not an S3 location: {why}"))
                    .hint("write s3://bucket or s3://bucket/prefix"),
            )
        };
        if rest.contains('@') {
            // The text is not shown: it may hold a key.
            return wrong("credentials do not belong in a URL");
        }
        if rest.contains(['?', '#']) {
            return wrong("it must not have a query or a fragment");
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        if bucket.is_empty() || bucket.len() > 255 || !bucket.to_ascii_lowercase().chars().all(fits) {
            return wrong("the bucket's name is missing or malformed");
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if object_store::path::Path::parse(prefix).map_or(true, |path| path.as_ref() != prefix) {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the prefix cannot be part of an object's name",
            )
            .with("location", text)
            .hint("a prefix has no empty parts, no . and no .. parts"));
        }
        Ok(Self::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

/// The scheme of what looks like a URL; `C:\…` and `host:path` do not.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once(':')?;
    let known = [
        "s3", "sftp", "rest", "gs", "azure", "b2", "rclone", "swift", "memory", "http", "https",
    ];
    let named = scheme.len() > 1
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    (named && (rest.starts_with("//") || known.contains(&scheme))).then_some(scheme)
}

fn file_url(text: &str) -> Result<PathBuf> {
    url::Url::parse(text)
        .ok()
        .filter(|url| url.query().is_none() && url.fragment().is_none())
        .and_then(|url| url.to_file_path().ok())
        .ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "not a file URL")
                .hint("write file:///absolute/path, or a plain path")
        })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_are_told_apart() {
        let s3 = |bucket: &str, prefix: &str| Location::S3 {
            bucket: bucket.into(),
            prefix: prefix.into(),
        };
        for (text, location) in [
            ("/srv/backup", Location::Local("/srv/backup".into())),
            ("backup", Location::Local("backup".into())),
            ("host:backup", Location::Local("host:backup".into())),
            ("./s3:x", Location::Local("./s3:x".into())),
            ("file:///srv/a%20b", Location::Local("/srv/a b".into())),
            ("s3://bucket", s3("bucket", "")),
            ("s3://bucket/a/b/", s3("bucket", "a/b")),
            ("memory:", Location::Memory),
        ] {
            assert_eq!(Location::parse(text).unwrap(), location, "{text}");
        }
    }

    #[test]
    fn what_is_no_location_is_refused_without_repeating_credentials() {
        for text in [
            "",
            "sftp:host",
            "gs://b/p",
            "https://x/y",
            "s3:host/b",
            "s3://",
            "s3://b//x",
            "s3://b/a/../c",
            "s3://b/x?y=1",
            "file://host/x",
            "s3://KEY:topsecret@b/x",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
            assert!(!format!("{error:?}").contains("topsecret"));
        }
    }

    #[test]
    fn display_reads_back() {
        for text in ["/srv/x", "s3://b", "s3://b/p/q", "memory:"] {
            assert_eq!(Location::parse(text).unwrap().to_string(), text);
        }
    }
}
