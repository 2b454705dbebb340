//! Metadata of an entry (`format-spec/60-tree.md`): a map of small unsigned numbers to values, whose meaning each
//! connector's chapter defines. Kept in its canonical encoding; equal metadata is equal bytes.

use super::cbor::{Decoder, Encoder};
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

/// The map of no pairs.
pub(super) const EMPTY: &[u8] = &[0xa0];

impl Default for Metadata {
    fn default() -> Self {
        Self(bytes::Bytes::from_static(EMPTY))
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
    /// `NotCanonical` if they do not, `OverLimit` above 1 MiB, 256 fields or 6 nested lists.
    pub fn new(fields: &[(u64, Value)]) -> Result<Self, DecodeError> {
        let mut out = Encoder::new();
        out.map(fields.len());
        for (number, value) in fields {
            out.uint(*number);
            encode(&mut out, value);
        }
        let encoded = out.finish();
        check(&encoded)?;
        Ok(Self(encoded.into()))
    }

    /// Takes encoded metadata.
    ///
    /// # Errors
    /// Any class of [`DecodeError`] if it is not one canonical map.
    pub fn from_encoded(encoded: &[u8]) -> Result<Self, DecodeError> {
        check(encoded)?;
        Ok(Self(bytes::Bytes::copy_from_slice(encoded)))
    }

    /// The canonical encoding.
    pub fn encoded(&self) -> &[u8] {
        &self.0
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.encoded() == EMPTY
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
            out.push((number, decode(&mut decoder, limits::METADATA_DEPTH_MAX)?));
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
            for value in values {
                encode(out, value);
            }
            out
        }
    };
}

/// Checks encoded metadata without building its values: every entry that is read comes through here.
fn check(encoded: &[u8]) -> Result<(), DecodeError> {
    if encoded.len() > limits::METADATA_MAX {
        return Err(DecodeError::OverLimit("metadata"));
    }
    let mut decoder = Decoder::new(encoded);
    let mut fields = decoder.map(limits::METADATA_FIELDS_MAX)?;
    while fields.next(&mut decoder)?.is_some() {
        check_value(&mut decoder, limits::METADATA_DEPTH_MAX)?;
    }
    decoder.finish()
}

fn check_value(decoder: &mut Decoder<'_>, depth: usize) -> Result<(), DecodeError> {
    match decoder.major() {
        Some(0 | 1) => decoder.int().map(drop),
        Some(2) => decoder.bytes(limits::METADATA_MAX).map(drop),
        Some(3) => decoder.text(limits::METADATA_MAX).map(drop),
        Some(4) if depth == 0 => Err(DecodeError::OverLimit("nesting of metadata")),
        Some(4) => {
            let len = decoder.array(limits::METADATA_MAX)?;
            (0..len).try_for_each(|_| check_value(decoder, depth - 1))
        }
        Some(7) => decoder.bool().map(drop),
        Some(_) => Err(DecodeError::Invalid("metadata value")),
        None => Err(DecodeError::Truncated),
    }
}

fn decode(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, DecodeError> {
    Ok(match decoder.major() {
        Some(0 | 1) => Value::Int(decoder.int()?),
        Some(2) => Value::Bytes(decoder.bytes(limits::METADATA_MAX)?.to_vec()),
        Some(3) => Value::Text(decoder.text(limits::METADATA_MAX)?.to_owned()),
        Some(4) if depth > 0 => {
            let len = decoder.array(limits::METADATA_MAX)?;
            let values = (0..len).map(|_| decode(decoder, depth - 1));
            Value::List(values.collect::<Result<_, _>>()?)
        }
        Some(7) => Value::Bool(decoder.bool()?),
        _ => return Err(DecodeError::Invalid("metadata value")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_again_and_the_rest_is_refused_where_it_is_made() {
        let fields = vec![
            (1, Value::Int(-5)),
            (
                2,
                Value::List(vec![
                    Value::Bool(true),
                    Value::Text("ü".into()),
                    Value::Bytes(vec![0]),
                ]),
            ),
        ];
        let metadata = Metadata::new(&fields).unwrap();
        assert_eq!(metadata.fields().unwrap(), fields);
        assert_eq!(Metadata::from_encoded(metadata.encoded()).unwrap(), metadata);
        let class = |fields: &[(u64, Value)]| Metadata::new(fields).unwrap_err().class();
        let twice = [(u64::MAX, Value::Bool(true)), (u64::MAX, Value::Bool(true))];
        assert_eq!(class(&twice), "not canonical");
        assert_eq!(
            class(&[(1, Value::Bytes(vec![0; limits::METADATA_MAX]))]),
            "over limit"
        );
        let many: Vec<_> = (0..257).map(|i| (i, Value::Bool(true))).collect();
        assert_eq!(class(&many), "over limit");
        let nested = |depth| (0..depth).fold(Value::Int(1), |inner, _| Value::List(vec![inner]));
        assert!(Metadata::new(&[(1, nested(limits::METADATA_DEPTH_MAX))]).is_ok());
        assert_eq!(
            class(&[(1, nested(limits::METADATA_DEPTH_MAX + 1))]),
            "over limit"
        );
    }
}
