//! What all sealed records share: times, origins of sessions, fields that must be there.

use super::cbor::{Decoder, Encoder};
use super::error::DecodeError;
use super::id::SessionId;
use crate::context::Time;

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

/// The error for a field number that the format does not have.
pub(super) const UNKNOWN_FIELD: DecodeError = DecodeError::Invalid("unknown field of a record");

/// Reads a whole map of at most `max` fields: `read` takes the decoder at each field's value.
pub(super) fn read_map<'a>(
    bytes: &'a [u8],
    max: usize,
    mut read: impl FnMut(u64, &mut Decoder<'a>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let mut fields = decoder.map(max)?;
    while let Some(field) = fields.next(&mut decoder)? {
        read(field, &mut decoder)?;
    }
    decoder.finish()
}

/// Reads a byte string of rows of `N` bytes.
pub(super) fn rows<const N: usize>(decoder: &mut Decoder<'_>) -> Result<Vec<[u8; N]>, DecodeError> {
    let (rows, rest) = decoder.bytes(super::limits::RECORD_MAX)?.as_chunks::<N>();
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
