//! What all sealed records share: times, origins of sessions, fields that must be there.

use super::cbor::{Decoder, Encoder};
use super::error::DecodeError;
use super::header::ObjectType;
use super::id::{ObjectId, SessionId};
use super::layout::ObjectName;
use crate::context::Time;

/// A record that is an object of its own: sealed by [`crate::crypto::seal_record`] under the name that follows from it.
pub trait Record: Sized + PartialEq {
    /// The type of the object that holds it.
    const TYPE: ObjectType;

    /// The canonical encoding.
    fn encode(&self) -> Vec<u8>;

    /// Reads the canonical encoding and nothing else.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// The only name that its object may have. `id` is the hash at the object's end, which names states.
    fn name(&self, id: ObjectId) -> ObjectName;
}

macro_rules! record {
    ($record:ty, $object_type:ident, |$self:ident, $id:ident| $name:expr) => {
        impl Record for $record {
            const TYPE: ObjectType = ObjectType::$object_type;

            fn encode(&self) -> Vec<u8> {
                <$record>::encode(self)
            }

            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                <$record>::decode(bytes)
            }

            fn name(&self, $id: ObjectId) -> ObjectName {
                let $self = self;
                $name
            }
        }
    };
}

record!(super::repo_config::ConfigRecord, Config, |r, _id| {
    ObjectName::Config(r.generation)
});
record!(super::session::SessionRecord, Session, |r, _id| {
    ObjectName::Session(r.sid)
});
record!(super::session::ForgetRecord, Forget, |r, _id| ObjectName::Forget(
    r.sid
));
record!(
    super::snapshot::Decision,
    Snapshot,
    |r, _id| ObjectName::Snapshot(r.sid())
);
record!(super::note::StampedNote, Note, |r, _id| ObjectName::Note(
    r.sid, r.number
));
record!(super::collect::CondemnedRecord, Condemned, |r, _id| {
    ObjectName::Condemned(r.round)
});
record!(super::collect::StateRecord, State, |r, id| ObjectName::State(
    r.round, id
));
record!(super::collect::SealRecord, Seal, |r, _id| ObjectName::Seal(
    r.round
));
record!(super::collect::RefsRecord, Refs, |r, _id| ObjectName::Refs(
    r.node
));
record!(super::collect::LedgerRecord, Ledger, |r, _id| ObjectName::Ledger(
    r.number
));

/// Writes a time as [seconds, nanoseconds].
pub(super) fn put_time(out: &mut Encoder, time: Time) {
    out.array(2).int(time.seconds).uint(u64::from(time.nanos));
}

/// Reads a time.
pub(super) fn time(decoder: &mut Decoder<'_>) -> Result<Time, DecodeError> {
    decoder.array_of(2)?;
    let time = Time {
        seconds: decoder.int()?,
        nanos: decoder.uint32()?,
    };
    if time.nanos < 1_000_000_000 {
        Ok(time)
    } else {
        Err(DecodeError::Invalid("nanoseconds"))
    }
}

/// Reads a session id.
pub(super) fn sid(decoder: &mut Decoder<'_>) -> Result<SessionId, DecodeError> {
    SessionId::from_bytes(decoder.fixed()?)
}

/// The value of a field that every record of its kind has.
pub(super) fn must<T>(field: Option<T>) -> Result<T, DecodeError> {
    field.ok_or(DecodeError::Invalid("record lacks a field"))
}

/// The error for a field number that the format does not have: records are authenticated, so a newer program wrote it.
pub(super) const UNKNOWN_FIELD: DecodeError = DecodeError::UnknownVersion("unknown field of a record");

/// The most fields of a record; fields above those that are known are refused one by one.
const FIELDS_MAX: usize = 64;

/// Reads a whole map: `read` takes the decoder at each field's value.
pub(super) fn read_map<'a>(
    bytes: &'a [u8],
    mut read: impl FnMut(u64, &mut Decoder<'a>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let mut fields = decoder.map(FIELDS_MAX)?;
    while let Some(field) = fields.next(&mut decoder)? {
        read(field, &mut decoder)?;
    }
    decoder.finish()
}

/// Reads a byte string of at most `max` rows of `N` bytes.
pub(super) fn rows<const N: usize>(
    decoder: &mut Decoder<'_>,
    max: usize,
) -> Result<Vec<[u8; N]>, DecodeError> {
    let (rows, rest) = decoder.bytes(max * N)?.as_chunks::<N>();
    if rest.is_empty() {
        Ok(rows.to_vec())
    } else {
        Err(DecodeError::Truncated)
    }
}

/// Checks that rows ascend strictly.
pub(super) fn ascending<T: PartialOrd>(rows: &[T]) -> Result<(), DecodeError> {
    if rows.is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        Err(DecodeError::NotCanonical("rows do not ascend"))
    }
}
