//! Sealing and opening of objects: one key for each object, derived from its salt; records bound to their place.

use super::keyring::Keyring;
use super::secret::Secret;
use crate::context::Random;
use crate::error::{Error, ErrorKind, Result};
use crate::format::error::DecodeError;
use crate::format::header::{
    FORMAT_VERSION, HEADER_LEN, Header, ObjectType, Origin, TAG_LEN, TRAILER_LEN, associated_data,
    check_trailer, nonce, padme, u32_le,
};
use crate::format::id::{ObjectId, RepositoryId};
use crate::format::limits;
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;

/// The key of one object, its commitment, and the stream that padding is taken from.
struct ObjectKey {
    key: LessSafeKey,
    commitment: [u8; 32],
    padding: blake3::OutputReader,
}

impl ObjectKey {
    fn derive(
        secret: &Secret,
        object_type: ObjectType,
        repository: &RepositoryId,
        salt: &[u8; 32],
    ) -> Result<Self> {
        let mut hasher = blake3::Hasher::new_keyed(secret.expose());
        hasher
            .update(&[object_type as u8])
            .update(&repository.0)
            .update(salt);
        let mut xof = hasher.finalize_xof();
        let (mut key, mut commitment) = ([0; 32], [0; 32]);
        xof.fill(&mut key);
        xof.fill(&mut commitment);
        let key = Secret::new(key);
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, key.expose())
            .map_err(|_| Error::new(ErrorKind::Internal, "cannot set up a cipher key"))?;
        Ok(Self {
            key: LessSafeKey::new(unbound),
            commitment,
            padding: xof,
        })
    }
}

/// An object ready to be stored.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its bytes.
    pub bytes: Bytes,
    /// The hash at their end: the name of packs, index runs and states.
    pub id: ObjectId,
}

/// Seals one object record by record, into one growing buffer.
pub struct Sealer {
    key: ObjectKey,
    prefix: Vec<u8>,
    repository: RepositoryId,
    name: String,
    out: Vec<u8>,
    /// The hash of the object, updated after each record, while its bytes are in the processor's cache.
    hash: blake3::Hasher,
    hashed: usize,
    next: u32,
}

impl Sealer {
    /// Begins an object. `name` is empty for objects that are named by their own hash; `capacity` is the size expected.
    ///
    /// # Errors
    /// `Internal` without randomness.
    pub fn new(
        keyring: &Keyring,
        random: &dyn Random,
        object_type: ObjectType,
        origin: Origin,
        name: &str,
        capacity: usize,
    ) -> Result<Self> {
        let epoch = keyring.newest()?;
        let place = Place {
            object_type,
            variant: 0,
            epoch: epoch.number,
            origin,
            extra: &[],
            name,
        };
        Self::begin(&epoch.secret, keyring.repository(), random, &place, capacity)
    }

    pub(super) fn begin(
        secret: &Secret,
        repository: RepositoryId,
        random: &dyn Random,
        place: &Place<'_>,
        capacity: usize,
    ) -> Result<Self> {
        let salt = random.bytes()?;
        let key = ObjectKey::derive(secret, place.object_type, &repository, &salt)?;
        let header = Header {
            object_type: place.object_type,
            variant: place.variant,
            epoch: place.epoch,
            origin: place.origin,
            salt,
            commitment: key.commitment,
        };
        let encoded = header.encode();
        if let Err(error) = Header::decode(&encoded, place.object_type) {
            return Err(
                Error::new(ErrorKind::Internal, "an object cannot be begun").because(error.to_string())
            );
        }
        let mut out = Vec::with_capacity(capacity.max(256));
        out.extend_from_slice(&encoded);
        out.extend_from_slice(place.extra);
        Ok(Self {
            key,
            prefix: out.clone(),
            repository,
            name: place.name.to_owned(),
            out,
            hash: blake3::Hasher::new(),
            hashed: 0,
            next: 0,
        })
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written: never, there is a header.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The header's bytes.
    pub fn header(&self) -> &[u8] {
        self.prefix.get(..HEADER_LEN).unwrap_or_default()
    }

    /// Seals `plaintext` as the next record and gives its number, offset and sealed length.
    ///
    /// # Errors
    /// `Internal` above 16 MiB or 2³² records.
    pub fn record(&mut self, plaintext: &[u8], last: bool) -> Result<(u32, u32, u32)> {
        let index = self.next;
        self.next = index.checked_add(1).ok_or_else(too_large)?;
        let (offset, sealed) = self.numbered(index, plaintext, last)?;
        Ok((index, offset, sealed))
    }

    /// Seals the last record of an object whose readers cannot know how many precede it: its number is [`TRAILER_RECORD`].
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn trailer(&mut self, plaintext: &[u8]) -> Result<()> {
        self.numbered(TRAILER_RECORD, plaintext, true).map(drop)
    }

    fn numbered(&mut self, index: u32, plaintext: &[u8], last: bool) -> Result<(u32, u32)> {
        let len = u32::try_from(plaintext.len()).map_err(|_| too_large())?;
        let sealed = u32::try_from(plaintext.len() + TAG_LEN).map_err(|_| too_large())?;
        if plaintext.len() > limits::RECORD_MAX {
            return Err(too_large());
        }
        let offset = self.out.len();
        self.out.extend_from_slice(plaintext);
        let aad = associated_data(&self.prefix, &self.repository, &self.name, index, last, len);
        let body = self.out.get_mut(offset..).ok_or_else(too_large)?;
        let tag = self
            .key
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce(index, last)),
                Aad::from(aad),
                body,
            )
            .map_err(|_| Error::new(ErrorKind::Internal, "cannot seal a record"))?;
        self.out.extend_from_slice(tag.as_ref());
        self.hash_new();
        let offset = u32::try_from(offset).map_err(|_| too_large())?;
        Ok((offset, sealed))
    }

    /// Appends bytes of padding, which nothing tells from sealed bytes.
    pub fn pad(&mut self, len: usize) {
        let at = self.out.len();
        self.out.resize(at + len, 0);
        if let Some(body) = self.out.get_mut(at..) {
            self.key.padding.fill(body);
        }
    }

    /// Appends bytes as they are, before the first record.
    pub(super) fn into_parts(self) -> Vec<u8> {
        self.out
    }

    fn hash_new(&mut self) {
        self.hash.update(self.out.get(self.hashed..).unwrap_or_default());
        self.hashed = self.out.len();
    }

    /// Appends the hash.
    ///
    /// # Errors
    /// `Internal` above 64 MiB.
    pub fn finish(mut self) -> Result<Sealed> {
        self.hash_new();
        let hash = *self.hash.finalize().as_bytes();
        let (mut out, id) = (self.out, ObjectId(hash));
        out.extend_from_slice(&hash);
        if out.len() > limits::OBJECT_MAX {
            return Err(Error::new(
                ErrorKind::Internal,
                "object over the limits of the format",
            ));
        }
        Ok(Sealed {
            bytes: out.into(),
            id,
        })
    }
}

fn too_large() -> Error {
    Error::new(ErrorKind::Internal, "object over the limits of the format")
}

/// The number of a pack's trailer record: fixed, because it is read before the number of blocks is known.
pub const TRAILER_RECORD: u32 = u32::MAX;

/// Where an object stands: what its header says besides salt and commitment.
pub(super) struct Place<'a> {
    pub(super) object_type: ObjectType,
    pub(super) variant: u8,
    pub(super) epoch: u32,
    pub(super) origin: Origin,
    /// Bytes between the header and the first record.
    pub(super) extra: &'a [u8],
    pub(super) name: &'a str,
}

/// Opens records of one object.
pub struct Opener {
    key: ObjectKey,
    prefix: Vec<u8>,
    repository: RepositoryId,
    name: String,
}

impl Opener {
    /// Takes the header of an object, which must be of type `object_type`.
    ///
    /// # Errors
    /// `Header`, `UnknownVersion`, `Truncated`; `WrongKey` if the commitment is not that of the derived key.
    pub fn new(
        keyring: &Keyring,
        header: &[u8],
        object_type: ObjectType,
        name: &str,
    ) -> Result<Self, DecodeError> {
        let epoch = Header::decode(header, object_type)?.epoch;
        Self::begin(
            &keyring.epoch(epoch)?.secret,
            keyring.repository(),
            header,
            object_type,
            0,
            name,
        )
    }

    pub(super) fn begin(
        secret: &Secret,
        repository: RepositoryId,
        object: &[u8],
        object_type: ObjectType,
        extra: usize,
        name: &str,
    ) -> Result<Self, DecodeError> {
        let header = Header::decode(object, object_type)?;
        let key = ObjectKey::derive(secret, object_type, &repository, &header.salt)
            .map_err(|_| DecodeError::WrongKey)?;
        // `blake3::Hash` compares in constant time.
        if blake3::Hash::from_bytes(key.commitment) != blake3::Hash::from_bytes(header.commitment) {
            return Err(DecodeError::WrongKey);
        }
        let prefix = object
            .get(..HEADER_LEN + extra)
            .ok_or(DecodeError::Truncated)?
            .to_vec();
        Ok(Self {
            key,
            prefix,
            repository,
            name: name.to_owned(),
        })
    }

    /// Opens record `index`: `sealed` is exactly its bytes, tag included.
    ///
    /// # Errors
    /// `Truncated`, `OverLimit`, `BadTag`.
    pub fn record(&self, index: u32, last: bool, sealed: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let len = sealed.len().checked_sub(TAG_LEN).ok_or(DecodeError::Truncated)?;
        if len > limits::RECORD_MAX {
            return Err(DecodeError::OverLimit("record"));
        }
        let plain_len = u32::try_from(len).map_err(|_| DecodeError::OverLimit("record"))?;
        let aad = associated_data(&self.prefix, &self.repository, &self.name, index, last, plain_len);
        let mut body = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce(index, last));
        self.key
            .key
            .open_in_place(nonce, Aad::from(aad), &mut body)
            .map_err(|_| DecodeError::BadTag)?;
        body.truncate(len);
        Ok(body)
    }
}

/// Seals an object of one record: four bytes of length, `payload`, zero bytes up to the Padmé size of the object.
///
/// # Errors
/// `Internal` over the limits.
pub fn seal_object(
    keyring: &Keyring,
    random: &dyn Random,
    object_type: ObjectType,
    origin: Origin,
    name: &str,
    payload: &[u8],
) -> Result<Sealed> {
    let mut sealer = Sealer::new(keyring, random, object_type, origin, name, payload.len() + 256)?;
    sealer.record(&padded(payload, HEADER_LEN), true)?;
    sealer.finish()
}

/// `payload` after its length, with zero bytes so that the whole object has a Padmé size; `before` is what precedes the record.
pub(super) fn padded(payload: &[u8], before: usize) -> Vec<u8> {
    let around = before + 4 + TAG_LEN + TRAILER_LEN;
    let total = padme((around + payload.len()) as u64);
    let total = usize::try_from(total).unwrap_or(usize::MAX);
    let mut plain = Vec::with_capacity(total);
    plain.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    plain.extend_from_slice(payload);
    // Never above the largest record, however the padding would round.
    let len = (total - around + 4).min(limits::RECORD_MAX).max(plain.len());
    plain.resize(len, 0);
    plain
}

pub(super) fn unpadded(mut plain: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
    let len = u32_le(&mut plain.as_slice())? as usize;
    let end = len.checked_add(4).ok_or(DecodeError::OverLimit("payload"))?;
    let padding = plain.get(end..).ok_or(DecodeError::Truncated)?;
    if padding.iter().any(|b| *b != 0) {
        return Err(DecodeError::NotCanonical("padding is not zero"));
    }
    plain.truncate(end);
    plain.drain(..4);
    Ok(plain)
}

/// Opens an object of one record: checks its hash, its header and its record. Gives the payload, the origin and the hash.
///
/// # Errors
/// Any class of [`DecodeError`].
pub fn open_object(
    keyring: &Keyring,
    object_type: ObjectType,
    name: &str,
    object: &[u8],
) -> Result<(Vec<u8>, Origin, ObjectId), DecodeError> {
    let (body, id) = check_trailer(object)?;
    let header = Header::decode(body, object_type)?;
    let opener = Opener::new(keyring, body, object_type, name)?;
    let plain = opener.record(0, true, body.get(HEADER_LEN..).ok_or(DecodeError::Truncated)?)?;
    Ok((unpadded(plain)?, header.origin, id))
}

/// The origin that the header of a pack names; for packs that no run lists.
///
/// # Errors
/// `Header`, `UnknownVersion`, `Truncated`.
pub fn peek_origin(header: &[u8]) -> Result<Origin, DecodeError> {
    debug_assert_eq!(FORMAT_VERSION, 1);
    Header::decode(header, ObjectType::Pack).map(|h| h.origin)
}
