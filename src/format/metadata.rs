//! Metadata of an entry (`format-spec/60-tree.md`): a map of small unsigned numbers to values, whose meaning each
//! connector's chapter defines. Kept in its canonical encoding; equal metadata is equal bytes.

use super::cbor::{DEPTH_MAX, Decoder, Encoder};
use super::error::DecodeError;
use super::limits;

/// One value of metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An integer of 64 bits, signed.
    Int(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// UTF-8 text.
    Text(String),
    /// A truth value.
    Bool(bool),
    /// A list of values.
    List(Vec<Value>),
}

/// Metadata of an entry, in its canonical encoding.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Metadata(bytes::Bytes);

impl Default for Metadata {
    fn default() -> Self {
        Self(bytes::Bytes::from_static(&[0xa0]))
    }
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.fields() {
            Ok(fields) => f.debug_map().entries(fields).finish(),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}

impl Metadata {
    /// Encodes `fields`, which must ascend by number.
    ///
    /// # Errors
    /// `NotCanonical` if they do not, `OverLimit` above 1 MiB.
    pub fn new(fields: &[(u64, Value)]) -> Result<Self, DecodeError> {
        if !fields.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(DecodeError::NotCanonical("metadata fields do not ascend"));
        }
        let mut out = Encoder::new();
        out.map(fields.len());
        for (number, value) in fields {
            out.uint(*number);
            encode(&mut out, value);
        }
        if out.len() > limits::METADATA_MAX {
            return Err(DecodeError::OverLimit("metadata"));
        }
        Ok(Self(out.finish().into()))
    }

    /// Takes encoded metadata.
    ///
    /// # Errors
    /// Any class of [`DecodeError`] if it is not one canonical map.
    pub fn from_encoded(encoded: &[u8]) -> Result<Self, DecodeError> {
        let metadata = Self(bytes::Bytes::copy_from_slice(encoded));
        metadata.fields().map(|_| metadata)
    }

    /// The canonical encoding.
    pub fn encoded(&self) -> &[u8] {
        &self.0
    }

    /// All fields, ascending.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn fields(&self) -> Result<Vec<(u64, Value)>, DecodeError> {
        let mut decoder = Decoder::new(&self.0);
        let mut fields = decoder.map(limits::METADATA_FIELDS_MAX)?;
        let mut out = Vec::new();
        while let Some(number) = fields.next(&mut decoder)? {
            out.push((number, decode(&mut decoder, DEPTH_MAX - 1)?));
        }
        decoder.finish()?;
        Ok(out)
    }
}

fn encode(out: &mut Encoder, value: &Value) {
    match value {
        Value::Int(v) => out.int(*v),
        Value::Bytes(v) => out.bytes(v),
        Value::Text(v) => out.text(v),
        Value::Bool(v) => out.bool(*v),
        Value::List(values) => {
            out.array(values.len());
            values.iter().for_each(|value| encode(out, value));
            out
        }
    };
}

fn decode(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, DecodeError> {
    let raw = decoder.raw(limits::METADATA_MAX)?;
    let mut value = Decoder::new(raw);
    Ok(match raw.first().map(|b| b >> 5) {
        Some(0 | 1) => Value::Int(value.int()?),
        Some(2) => Value::Bytes(value.bytes(limits::METADATA_MAX)?.to_vec()),
        Some(3) => Value::Text(value.text(limits::METADATA_MAX)?.to_owned()),
        Some(4) if depth > 0 => {
            let len = value.array(limits::METADATA_MAX)?;
            Value::List(
                (0..len)
                    .map(|_| decode(&mut value, depth - 1))
                    .collect::<Result<_, _>>()?,
            )
        }
        Some(7) => Value::Bool(value.bool()?),
        _ => return Err(DecodeError::Invalid("metadata value")),
    })
}
