//! Identifiers (`format-spec/20-ids.md`): newtypes that cannot be mixed up.

use super::error::DecodeError;
use std::fmt;

/// Writes bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |d: u8| char::from(DIGITS.get(usize::from(d)).copied().unwrap_or(b'?'));
    bytes
        .iter()
        .flat_map(|b| [digit(b >> 4), digit(b & 15)])
        .collect()
}

/// Reads lower-case hex of exactly `N` bytes.
///
/// # Errors
/// `Invalid` for anything else, upper case included.
pub fn unhex<const N: usize>(text: &str) -> Result<[u8; N], DecodeError> {
    let invalid = DecodeError::Invalid("hexadecimal id");
    let digit = |c: u8| match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(invalid),
    };
    if text.len() != 2 * N {
        return Err(invalid);
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        if let &[high, low] = pair {
            *byte = digit(high)? << 4 | digit(low)?;
        }
    }
    Ok(out)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Reads full lower-case hex.
            ///
            /// # Errors
            /// `Invalid` for anything else.
            pub fn parse(text: &str) -> Result<Self, DecodeError> {
                unhex(text).map(Self)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            /// The first 8 hex digits, for people.
            pub fn short(&self) -> String {
                let mut text = hex(&self.0);
                text.truncate(8);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

id! {
    /// A blob: keyed BLAKE3-256 over its kind and plaintext. All zero stands for a hole.
    BlobId, 32
}
id! {
    /// An object that is named by the BLAKE3-256 of its stored bytes: a pack, an index run, a collector's state.
    ObjectId, 32
}
id! {
    /// A repository, chosen at random by `init`.
    RepositoryId, 16
}

impl BlobId {
    /// Stands for zero bytes that are not stored.
    pub const HOLE: Self = Self([0; 32]);
}

/// A session, and the snapshot that it commits: `<epoch, 16 hex>-<128 random bits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// The number of the newest seal that the writer saw.
    pub epoch: u64,
    /// What people see and type; never all zero.
    pub random: [u8; 16],
}

impl SessionId {
    /// Reads `<16 hex>-<32 hex>`.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn parse(text: &str) -> Result<Self, DecodeError> {
        let (epoch, random) = text.split_once('-').ok_or(DecodeError::Invalid("session id"))?;
        let id = Self {
            epoch: u64::from_be_bytes(unhex(epoch)?),
            random: unhex(random)?,
        };
        if id.random == [0; 16] {
            Err(DecodeError::Invalid("session id"))
        } else {
            Ok(id)
        }
    }

    /// The 24 bytes that headers and records hold.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut out = [0; 24];
        let (epoch, random) = out.split_at_mut(8);
        epoch.copy_from_slice(&self.epoch.to_be_bytes());
        random.copy_from_slice(&self.random);
        out
    }

    /// Reads the 24 bytes that headers and records hold.
    ///
    /// # Errors
    /// `Invalid` if the random part is all zero.
    pub fn from_bytes(bytes: [u8; 24]) -> Result<Self, DecodeError> {
        let mut epoch = [0; 8];
        let mut random = [0; 16];
        let (head, tail) = bytes.split_at(8);
        epoch.copy_from_slice(head);
        random.copy_from_slice(tail);
        if random == [0; 16] {
            return Err(DecodeError::Invalid("session id"));
        }
        Ok(Self {
            epoch: u64::from_be_bytes(epoch),
            random,
        })
    }

    /// The random part in hex: the snapshot's name for people.
    pub fn name(&self) -> String {
        hex(&self.random)
    }

    /// The first 8 digits of the name.
    pub fn short(&self) -> String {
        let mut name = self.name();
        name.truncate(8);
        name
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.epoch, hex(&self.random))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}
