//! Secrets, and keeping them out of messages.

use std::fmt;
use zeroize::Zeroizing;

/// A secret text: wiped when dropped, never shown.
///
/// The S3 client library keeps copies of its own that it does not wipe.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself; for whoever sends it, never for messages.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Takes secrets out of text that libraries and servers wrote.
#[derive(Clone, Default)]
pub(crate) struct Redactor {
    secrets: Vec<Secret>,
}

const HIDDEN: &str = "(redacted)";
/// What introduces a secret; the secret goes on to the next separator.
const MARKS: [&str; 9] = [
    "x-amz-signature=",
    "x-amz-credential=",
    "x-amz-security-token=",
    "x-amz-security-token:",
    "signature=",
    "credential=",
    "awsaccesskeyid=",
    "password=",
    "token=",
];

impl Redactor {
    /// Hides these texts wherever they occur, besides what looks like a credential.
    pub(crate) fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        // A very short secret would tear words apart and hide nothing that could not be guessed.
        let secrets = secrets.into_iter().filter(|s| s.reveal().len() >= 4).collect();
        Self { secrets }
    }

    /// The text without secrets.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for secret in &self.secrets {
            out = out.replace(secret.reveal(), HIDDEN);
        }
        out = hide_header(&out, "authorization:");
        for mark in MARKS {
            out = hide_after(&out, mark);
        }
        hide_user_info(&out)
    }
}

/// Hides the rest of the line after a header's name.
fn hide_header(text: &str, mark: &str) -> String {
    replace_spans(text, mark, |rest| rest.find(['\n', '\r']).unwrap_or(rest.len()))
}

/// Hides the value after `mark` up to a separator.
fn hide_after(text: &str, mark: &str) -> String {
    replace_spans(text, mark, |rest| {
        rest.find(['&', ' ', ',', '"', '\'', '\n', '<', ')', ';'])
            .unwrap_or(rest.len())
    })
}

/// Hides `user:password@` of URLs.
fn hide_user_info(text: &str) -> String {
    replace_spans(text, "://", |rest| {
        let end = rest.find(['/', ' ', '"', '?', '#']).unwrap_or(rest.len());
        rest.get(..end).and_then(|host| host.rfind('@')).unwrap_or(0)
    })
}

/// Replaces what follows each `mark` (found without regard to case), as long as `length` says.
fn replace_spans(text: &str, mark: &str, length: impl Fn(&str) -> usize) -> String {
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    while let Some(found) = lower.get(done..).and_then(|rest| rest.find(mark)) {
        let start = done + found + mark.len();
        let rest = text.get(start..).unwrap_or_default();
        let end = start + length(rest);
        out.push_str(text.get(done..start).unwrap_or_default());
        if end > start {
            out.push_str(HIDDEN);
        }
        done = end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_credentials_do_not_survive() {
        let redactor = Redactor::new([Secret::new("hunter2hunter2")]);
        let dirty = "GET https://me:pa55@host/b?X-Amz-Signature=abc123&x=1 failed\n\
                     Authorization: AWS4-HMAC-SHA256 Credential=AKIA/2026, Signature=fff\nkey hunter2hunter2.";
        let clean = redactor.clean(dirty);
        for secret in ["pa55", "abc123", "AKIA", "fff", "hunter2"] {
            assert!(!clean.contains(secret), "{secret} in {clean}");
        }
        for kept in ["https://", "host/b", "&x=1 failed", "key "] {
            assert!(clean.contains(kept), "{kept} not in {clean}");
        }
    }

    #[test]
    fn text_without_secrets_is_left_alone() {
        let text = "put s3://bucket/prefix: no byte moved for 60s, ünïcode";
        assert_eq!(Redactor::default().clean(text), text);
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("abc")), "(secret)");
    }
}
