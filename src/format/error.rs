//! Why stored bytes do not decode. Each class has the name that vectors use (`format-spec/vectors/README.md`).

use crate::error::{Error, ErrorKind};

/// Why bytes are not what the format promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not an object of this type: magic, type or reserved bytes are wrong.
    #[error("not a holdall object of this type: {0}")]
    Header(&'static str),
    /// A version or suite that this program does not know.
    #[error("written by a newer format: {0}")]
    UnknownVersion(&'static str),
    /// The bytes end too early.
    #[error("truncated")]
    Truncated,
    /// The BLAKE3 at the end is not that of the bytes before it.
    #[error("bytes do not match their hash")]
    BadHash,
    /// The key is not the one that sealed the object.
    #[error("sealed under another key")]
    WrongKey,
    /// Authentication failed although the key is right.
    #[error("authentication failed")]
    BadTag,
    /// Plaintext whose keyed hash is not the blob id.
    #[error("content does not match its id")]
    WrongId,
    /// A length or count above its limit.
    #[error("over the limit: {0}")]
    OverLimit(&'static str),
    /// A second encoding of a value.
    #[error("not canonical: {0}")]
    NotCanonical(&'static str),
    /// A value that the rules of its field exclude.
    #[error("invalid: {0}")]
    Invalid(&'static str),
}

impl DecodeError {
    /// The name of the class, as vectors write it.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Header(_) => "header",
            Self::UnknownVersion(_) => "unknown version",
            Self::Truncated => "truncated",
            Self::BadHash => "bad hash",
            Self::WrongKey => "wrong key",
            Self::BadTag => "bad tag",
            Self::WrongId => "wrong id",
            Self::OverLimit(_) => "over limit",
            Self::NotCanonical(_) => "not canonical",
            Self::Invalid(_) => "invalid",
        }
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        let kind = match error {
            DecodeError::UnknownVersion(_) => ErrorKind::Unsupported,
            DecodeError::WrongKey => ErrorKind::WrongKey,
            _ => ErrorKind::Damaged,
        };
        Error::new(kind, error.to_string())
    }
}
