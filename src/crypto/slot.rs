//! Key slots: one keyring, wrapped under each secret that may open the repository.

use super::kdf::{KdfParams, stretch};
use super::keyring::Keyring;
use super::object::{Opener, Place, Sealed, Sealer, padded, unpadded};
use super::secret::Secret;
use crate::context::Random;
use crate::error::{Error, ErrorKind, Result};
use crate::format::cbor::{Decoder, Encoder};
use crate::format::error::DecodeError;
use crate::format::header::{HEADER_LEN, Header, ObjectType, Origin, TAG_LEN, append_trailer, check_trailer};
use crate::format::id::RepositoryId;
use crate::format::layout::ObjectName;
use crate::format::limits;

/// What opens a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SlotKind {
    /// A password, through Argon2id.
    Password = 1,
    /// A file of 32 random bytes.
    KeyFile = 2,
    /// 24 words.
    Phrase = 3,
}

impl SlotKind {
    /// The word for it in listings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::KeyFile => "key-file",
            Self::Phrase => "recovery-phrase",
        }
    }

    fn from_number(number: u8) -> Result<Self, DecodeError> {
        match number {
            1 => Ok(Self::Password),
            2 => Ok(Self::KeyFile),
            3 => Ok(Self::Phrase),
            // 4 is reserved for public-key slots.
            _ => Err(DecodeError::UnknownVersion("kind of key slot")),
        }
    }
}

/// A secret that somebody offers.
pub enum Unlock {
    /// A password, as its bytes.
    Password(zeroize::Zeroizing<Vec<u8>>),
    /// The 32 bytes of a key file.
    KeyFile(Secret),
    /// The 32 bytes that a recovery phrase spells.
    Phrase(Secret),
}

impl Unlock {
    /// The kind of slot that it opens.
    pub fn kind(&self) -> SlotKind {
        match self {
            Self::Password(_) => SlotKind::Password,
            Self::KeyFile(_) => SlotKind::KeyFile,
            Self::Phrase(_) => SlotKind::Phrase,
        }
    }

    fn secret(&self, params: Option<&KdfParams>) -> Result<Secret> {
        match (self, params) {
            (Self::Password(password), Some(params)) => stretch(password, params),
            (Self::KeyFile(secret) | Self::Phrase(secret), None) => Ok(secret.duplicate()),
            _ => Err(Error::new(ErrorKind::WrongKey, "this slot is of another kind")),
        }
    }
}

/// What holders of the keyring may know of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotInfo {
    /// What its owner calls it.
    pub label: String,
    /// The host that made it.
    pub host: String,
    /// When, in seconds since 1970.
    pub created: i64,
}

/// What the label is bound to: the slot's name and all bytes of the slot before the label, so that no label of an earlier slot
/// can stand in another.
fn label_name(number: u32, slot: &[u8]) -> String {
    format!("{}#{}", ObjectName::Key(number), blake3::hash(slot))
}

/// Bytes of the padded label record's plaintext.
const LABEL_PLAIN: usize = 4096;

/// Seals a slot: header, for passwords the parameters of Argon2id, the keyring under the secret; then the label under the
/// newest epoch; then the hash.
///
/// # Errors
/// `Invalid` for an empty password or an over-long label, `Internal` without randomness.
pub fn seal_slot(
    keyring: &Keyring,
    random: &dyn Random,
    slot: u32,
    unlock: &Unlock,
    info: &SlotInfo,
) -> Result<Sealed> {
    let params = match unlock.kind() {
        SlotKind::Password => Some(KdfParams::recommended(random.bytes()?)),
        SlotKind::KeyFile | SlotKind::Phrase => None,
    };
    let extra = params.map(|p| p.encode().to_vec()).unwrap_or_default();
    let secret = unlock.secret(params.as_ref())?;
    let name = ObjectName::Key(slot).to_string();
    let place = Place {
        object_type: ObjectType::KeySlot,
        variant: unlock.kind() as u8,
        epoch: 0,
        origin: Origin::None,
        extra: &extra,
        name: &name,
    };
    // The repository's id is inside the wrapped keyring too; the marker tells it before anything is opened.
    let mut sealer = Sealer::begin(&secret, keyring.repository(), random, &place, 8192)?;
    let wrapped = zeroize::Zeroizing::new(padded(&keyring.encode(), HEADER_LEN + extra.len()));
    sealer.record(&wrapped, true)?;
    let mut out = sealer.into_parts();

    let mut label = Encoder::new();
    label
        .map(3)
        .uint(0)
        .text(&info.label)
        .uint(1)
        .text(&info.host)
        .uint(2)
        .int(info.created);
    let label = label.finish();
    if info.label.len() > limits::NAME_MAX || info.host.len() > limits::NAME_MAX {
        return Err(Error::new(ErrorKind::Invalid, "the label of the key is too long"));
    }
    let mut plain = u32::try_from(label.len()).unwrap_or(0).to_le_bytes().to_vec();
    plain.extend_from_slice(&label);
    plain.resize(LABEL_PLAIN, 0);
    let bound = label_name(slot, &out);
    let mut sealer = Sealer::new(keyring, random, ObjectType::SlotLabel, Origin::None, &bound, 8192)?;
    sealer.record(&plain, true)?;
    out.extend_from_slice(&sealer.into_parts());
    let id = append_trailer(&mut out);
    Ok(Sealed {
        bytes: out.into(),
        id,
    })
}

/// Bytes of the label object at the end of a slot, before the hash.
const LABEL_LEN: usize = HEADER_LEN + LABEL_PLAIN + TAG_LEN;

/// The kind of a slot, without opening it.
///
/// # Errors
/// Any class of [`DecodeError`] that needs no key.
pub fn read_slot_kind(slot: &[u8]) -> Result<SlotKind, DecodeError> {
    let (body, _) = check_trailer(slot)?;
    SlotKind::from_number(Header::decode(body, ObjectType::KeySlot)?.variant)
}

/// Opens slot number `number` with the secret that is offered.
///
/// # Errors
/// `WrongKey` if the secret is another one or the slot is of another kind; `Damaged` for bytes that do not decode.
pub fn open_slot(repository: RepositoryId, number: u32, slot: &[u8], unlock: &Unlock) -> Result<Keyring> {
    let (body, _) = check_trailer(slot)?;
    let header = Header::decode(body, ObjectType::KeySlot)?;
    let kind = SlotKind::from_number(header.variant)?;
    let params = match kind {
        SlotKind::Password => {
            let (params, _) = body
                .get(HEADER_LEN..)
                .and_then(<[u8]>::split_first_chunk::<{ KdfParams::ENCODED }>)
                .ok_or(DecodeError::Truncated)?;
            Some(KdfParams::decode(params)?)
        }
        SlotKind::KeyFile | SlotKind::Phrase => None,
    };
    if kind != unlock.kind() {
        return Err(Error::new(ErrorKind::WrongKey, "this slot is of another kind"));
    }
    let secret = unlock.secret(params.as_ref())?;
    let extra = if params.is_some() { KdfParams::ENCODED } else { 0 };
    let name = ObjectName::Key(number).to_string();
    let opener = Opener::begin(&secret, repository, body, ObjectType::KeySlot, extra, &name)?;
    let end = body.len().checked_sub(LABEL_LEN).ok_or(DecodeError::Truncated)?;
    let record = body.get(HEADER_LEN + extra..end).ok_or(DecodeError::Truncated)?;
    let plain = zeroize::Zeroizing::new(unpadded(opener.record(0, true, record)?)?);
    let keyring = Keyring::decode(&plain)?;
    if keyring.repository() != repository {
        return Err(Error::new(
            ErrorKind::Damaged,
            "the key slot belongs to another repository",
        ));
    }
    Ok(keyring)
}

/// The label of slot number `number`.
///
/// # Errors
/// Any class of [`DecodeError`].
pub fn slot_label(keyring: &Keyring, number: u32, slot: &[u8]) -> Result<SlotInfo, DecodeError> {
    let (body, _) = check_trailer(slot)?;
    let start = body.len().checked_sub(LABEL_LEN).ok_or(DecodeError::Truncated)?;
    let (before, object) = body.split_at_checked(start).ok_or(DecodeError::Truncated)?;
    let bound = label_name(number, before);
    let opener = Opener::new(keyring, object, ObjectType::SlotLabel, &bound)?;
    let plain = unpadded(opener.record(0, true, object.get(HEADER_LEN..).ok_or(DecodeError::Truncated)?)?)?;
    let mut decoder = Decoder::new(&plain);
    let mut fields = decoder.map(4)?;
    let mut info = SlotInfo::default();
    let mut seen = 0;
    while let Some(field) = fields.next(&mut decoder)? {
        match field {
            // Ascending fields 0 to 2, three of them: all are there.
            0 => decoder.text(limits::NAME_MAX)?.clone_into(&mut info.label),
            1 => decoder.text(limits::NAME_MAX)?.clone_into(&mut info.host),
            2 => info.created = decoder.int()?,
            _ => return Err(DecodeError::UnknownVersion("unknown field of a label")),
        }
        seen += 1;
    }
    decoder.finish()?;
    if seen != 3 {
        return Err(DecodeError::Invalid("record lacks a field"));
    }
    Ok(info)
}
