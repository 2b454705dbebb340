//! The header that every sealed object starts with, what binds a record to its place, and the hash that every object ends with
//! (`format-spec/15-objects.md`).

use super::error::DecodeError;
use super::id::{ObjectId, RepositoryId, SessionId};
use super::limits;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 104;
/// Length of the hash at the end of every object but `holdall.json`.
pub const TRAILER_LEN: usize = 32;
/// Bytes that sealing adds to a record.
pub const TAG_LEN: usize = 16;
/// The version of the format that this program writes.
pub const FORMAT_VERSION: u16 = 1;
/// BLAKE3 key derivation and ChaCha20-Poly1305.
pub const SUITE_1: u8 = 1;

const MAGIC: &[u8; 7] = b"holdall";

macro_rules! object_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What an object is; part of its header and of its key derivation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ObjectType { $($(#[$doc])* $name = $number,)* }

        impl ObjectType {
            fn from_number(number: u8) -> Result<Self, DecodeError> {
                match number {
                    $($number => Ok(Self::$name),)*
                    _ => Err(DecodeError::Header("type of object")),
                }
            }
        }
    };
}

object_types! {
    /// `keys/<slot>`
    KeySlot = 1,
    /// `config/<generation>`
    Config = 2,
    /// `packs/…`
    Pack = 3,
    /// `index/s/…` and `index/g/…`
    IndexRun = 4,
    /// `sessions/<sid>`
    Session = 5,
    /// `snapshots/<sid>`
    Snapshot = 6,
    /// `forgets/<sid>`
    Forget = 7,
    /// `gc/<n>/condemned`
    Condemned = 8,
    /// `gc/<n>/state/<id>`
    State = 9,
    /// `gc/<n>/seal`
    Seal = 10,
    /// `notes/<sid>/<n>`
    Note = 11,
    /// `refs/<node id>`
    Refs = 12,
    /// `ledger/<n>`
    Ledger = 13,
    /// The label inside a key slot, which every holder of the keyring may read.
    SlotLabel = 14,
}

/// Who made a pack or an index run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Of an object that has no origin.
    None,
    /// A writer's session.
    Session(SessionId),
    /// A collector's round, 1 or above.
    Round(u64),
}

impl Origin {
    fn to_bytes(self) -> [u8; 24] {
        match self {
            Self::None => [0; 24],
            Self::Session(sid) => sid.to_bytes(),
            Self::Round(round) => {
                let mut out = [0; 24];
                for (byte, value) in out.iter_mut().zip(round.to_be_bytes()) {
                    *byte = value;
                }
                out
            }
        }
    }

    fn from_bytes(bytes: [u8; 24]) -> Self {
        if let Ok(sid) = SessionId::from_bytes(bytes) {
            return Self::Session(sid);
        }
        let round = bytes
            .iter()
            .take(8)
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
        if round == 0 {
            Self::None
        } else {
            Self::Round(round)
        }
    }
}

/// The header of a sealed object: 104 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the object is.
    pub object_type: ObjectType,
    /// Of a key slot its kind, else 0.
    pub variant: u8,
    /// The key epoch that seals it; 0 for key slots.
    pub epoch: u32,
    /// Who made it, for packs, index runs and states.
    pub origin: Origin,
    /// Random; the object's own key follows from it.
    pub salt: [u8; 32],
    /// Commits to the key.
    pub commitment: [u8; 32],
}

impl Header {
    /// The 104 bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.push(self.object_type as u8);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.push(SUITE_1);
        bytes.push(self.variant);
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.origin.to_bytes());
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&self.commitment);
        let mut out = [0; HEADER_LEN];
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = from;
        }
        out
    }

    /// Reads the header at the start of `object`, which must be of type `expected`.
    ///
    /// # Errors
    /// `Truncated`, `Header`, `UnknownVersion`.
    pub fn decode(object: &[u8], expected: ObjectType) -> Result<Self, DecodeError> {
        let mut rest = object;
        if &array::<7>(&mut rest)? != MAGIC {
            return Err(DecodeError::Header("magic"));
        }
        let [number] = array(&mut rest)?;
        if u16::from_le_bytes(array(&mut rest)?) != FORMAT_VERSION {
            return Err(DecodeError::UnknownVersion("format version"));
        }
        let [suite, variant] = array(&mut rest)?;
        if suite != SUITE_1 {
            return Err(DecodeError::UnknownVersion("crypto suite"));
        }
        let object_type = ObjectType::from_number(number)?;
        if object_type != expected {
            return Err(DecodeError::Header("type of object"));
        }
        let header = Self {
            object_type,
            variant,
            epoch: u32::from_le_bytes(array(&mut rest)?),
            origin: Origin::from_bytes(array(&mut rest)?),
            salt: array(&mut rest)?,
            commitment: array(&mut rest)?,
        };
        header.check()?;
        Ok(header)
    }

    /// Fields that mean nothing for this type are zero, those that mean something are not.
    fn check(&self) -> Result<(), DecodeError> {
        let slot = self.object_type == ObjectType::KeySlot;
        if slot != (self.variant != 0) {
            return Err(DecodeError::Header("variant"));
        }
        if slot != (self.epoch == 0) {
            return Err(DecodeError::Header("key epoch"));
        }
        let fits = match self.object_type {
            ObjectType::Pack | ObjectType::IndexRun => self.origin != Origin::None,
            ObjectType::State => matches!(self.origin, Origin::Round(_)),
            _ => self.origin == Origin::None,
        };
        if fits {
            Ok(())
        } else {
            Err(DecodeError::Header("origin"))
        }
    }
}

/// Takes the first `N` bytes off `rest`.
///
/// # Errors
/// `Truncated`.
pub fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
    *rest = tail;
    Ok(*head)
}

/// Takes a little-endian 32-bit integer off `rest`.
///
/// # Errors
/// `Truncated`.
pub fn u32_le(rest: &mut &[u8]) -> Result<u32, DecodeError> {
    array(rest).map(u32::from_le_bytes)
}

/// The associated data of record `index`: all that the object's bytes before its records say, the repository, the name, and the
/// record's place and length. `prefix` is the header, of key slots with the parameters that follow it.
pub fn associated_data(
    prefix: &[u8],
    repository: &RepositoryId,
    name: &str,
    index: u32,
    last: bool,
    len: u32,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(prefix.len() + 57);
    out.extend_from_slice(prefix);
    out.extend_from_slice(&repository.0);
    out.extend_from_slice(blake3::hash(name.as_bytes()).as_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.push(u8::from(last));
    out.extend_from_slice(&len.to_le_bytes());
    out
}

/// The nonce of record `index`.
pub fn nonce(index: u32, last: bool) -> [u8; 12] {
    let [a, b, c, d] = index.to_le_bytes();
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, u8::from(last)]
}

/// Checks the hash at the end of an object and gives the bytes before it, and the hash: the object's id if it is named so.
///
/// # Errors
/// `OverLimit`, `Truncated`, `BadHash`.
pub fn check_trailer(object: &[u8]) -> Result<(&[u8], ObjectId), DecodeError> {
    if object.len() > limits::OBJECT_MAX {
        return Err(DecodeError::OverLimit("object"));
    }
    let at = object
        .len()
        .checked_sub(TRAILER_LEN)
        .ok_or(DecodeError::Truncated)?;
    let (body, trailer) = object.split_at_checked(at).ok_or(DecodeError::Truncated)?;
    let hash = blake3::hash(body);
    if hash.as_bytes() == trailer {
        Ok((body, ObjectId(*hash.as_bytes())))
    } else {
        Err(DecodeError::BadHash)
    }
}

/// Appends the hash of `object` to it and gives the hash.
pub fn append_trailer(object: &mut Vec<u8>) -> ObjectId {
    let mut hasher = blake3::Hasher::new();
    if object.len() >= 1 << 20 {
        hasher.update_rayon(object)
    } else {
        hasher.update(object)
    };
    let hash = *hasher.finalize().as_bytes();
    object.extend_from_slice(&hash);
    ObjectId(hash)
}

/// The Padmé length for `len` bytes: at most 12 % more, and few distinct lengths (`format-spec/15-objects.md`).
pub fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let exponent = len.ilog2();
    let keep = exponent.ilog2() + 1;
    let mask = (1u64 << exponent.saturating_sub(keep)) - 1;
    len.saturating_add(mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padme_never_shrinks_is_stable_and_adds_little() {
        for len in (0..5000).chain([1 << 20, (1 << 20) + 1, 33_554_433, 50_000_017]) {
            let padded = padme(len);
            assert!(padded >= len && padme(padded) == padded, "{len}");
            assert!(padded - len <= len * 12 / 100 + 1, "{len} -> {padded}");
        }
    }

    #[test]
    fn headers_round_trip_and_refuse_other_types() {
        let header = Header {
            object_type: ObjectType::Pack,
            variant: 0,
            epoch: 2,
            origin: Origin::Round(4),
            salt: [1; 32],
            commitment: [2; 32],
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes, ObjectType::Pack).unwrap(), header);
        assert_eq!(
            Header::decode(&bytes, ObjectType::Note).unwrap_err().class(),
            "header"
        );
        assert_eq!(
            Header::decode(&bytes[..50], ObjectType::Pack)
                .unwrap_err()
                .class(),
            "truncated"
        );
    }
}
