//! Deterministic CBOR (`format-spec/05-cbor.md`): the subset of RFC 8949 that records use, and one encoding for each value.
//!
//! Allowed: unsigned and negative integers in 64 bits, byte strings, text strings, arrays, maps with ascending unsigned
//! integer keys, `false`, `true`, `null`. Lengths are definite and shortest; nothing else decodes.

use super::error::DecodeError;

/// The deepest nesting of arrays and maps.
pub const DEPTH_MAX: usize = 8;

/// Appends values to a buffer. The caller keeps counts and key order right; [`super::seal`]ed records are decoded in tests.
#[derive(Default)]
pub struct Encoder {
    out: Vec<u8>,
}

impl Encoder {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empty, with room for `bytes` before it grows.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            out: Vec::with_capacity(bytes),
        }
    }

    fn head(&mut self, major: u8, value: u64) -> &mut Self {
        let major = major << 5;
        let bytes = value.to_be_bytes();
        match value {
            0..=23 => self.out.push(major | bytes[7]),
            24..=0xff => self.out.extend([major | 0x18, bytes[7]]),
            0x100..=0xffff => {
                self.out.push(major | 0x19);
                self.out.extend_from_slice(&bytes[6..]);
            }
            0x1_0000..=0xffff_ffff => {
                self.out.push(major | 0x1a);
                self.out.extend_from_slice(&bytes[4..]);
            }
            _ => {
                self.out.push(major | 0x1b);
                self.out.extend_from_slice(&bytes);
            }
        }
        self
    }

    /// An unsigned integer.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.head(0, value)
    }

    /// A signed integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        if value < 0 {
            self.head(1, !value.cast_unsigned())
        } else {
            self.head(0, value.cast_unsigned())
        }
    }

    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.head(2, value.len() as u64);
        self.out.extend_from_slice(value);
        self
    }

    /// A text string.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.head(3, value.len() as u64);
        self.out.extend_from_slice(value.as_bytes());
        self
    }

    /// The head of an array of `len` values, which follow.
    pub fn array(&mut self, len: usize) -> &mut Self {
        self.head(4, len as u64)
    }

    /// The head of a map of `len` pairs, which follow in ascending key order.
    pub fn map(&mut self, len: usize) -> &mut Self {
        self.head(5, len as u64)
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.out.push(if value { 0xf5 } else { 0xf4 });
        self
    }

    /// Null.
    pub fn null(&mut self) -> &mut Self {
        self.out.push(0xf6);
        self
    }

    /// A value that is encoded already.
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.out.extend_from_slice(value);
        self
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes off what was written after the first `at` bytes.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        Self {
            out: self.out.split_off(at.min(self.out.len())),
        }
    }

    /// The encoded bytes.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Reads values from a slice; total, bounded, and strict about the one allowed encoding.
#[derive(Clone)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// A decoder at the start of `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Succeeds if everything was read.
    ///
    /// # Errors
    /// `NotCanonical`.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::NotCanonical("bytes after the record"))
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn head(&mut self) -> Result<(u8, u64), DecodeError> {
        let &[first] = self.take(1)? else {
            return Err(DecodeError::Truncated);
        };
        let (major, info) = (first >> 5, first & 31);
        let (value, floor) = match info {
            0..=23 => return Ok((major, u64::from(info))),
            24 => (be(self.take(1)?), 24),
            25 => (be(self.take(2)?), 0x100),
            26 => (be(self.take(4)?), 0x1_0000),
            27 => (be(self.take(8)?), 0x1_0000_0000),
            _ => return Err(DecodeError::NotCanonical("indefinite or reserved length")),
        };
        if value < floor || major == 7 {
            return Err(DecodeError::NotCanonical("integer not in its shortest form"));
        }
        Ok((major, value))
    }

    fn typed(&mut self, major: u8, what: &'static str) -> Result<u64, DecodeError> {
        match self.head()? {
            (m, value) if m == major => Ok(value),
            _ => Err(DecodeError::Invalid(what)),
        }
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// As the subset of CBOR and the type demand.
    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        self.typed(0, "expected an unsigned integer")
    }

    /// An unsigned integer of 32 bits.
    ///
    /// # Errors
    /// `OverLimit` above 32 bits.
    pub fn uint32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.uint()?).map_err(|_| DecodeError::OverLimit("32-bit integer"))
    }

    /// A signed integer.
    ///
    /// # Errors
    /// `OverLimit` outside 64 bits.
    pub fn int(&mut self) -> Result<i64, DecodeError> {
        let (major, value) = self.head()?;
        let value = i64::try_from(value).map_err(|_| DecodeError::OverLimit("64-bit integer"))?;
        match major {
            0 => Ok(value),
            1 => Ok(!value),
            _ => Err(DecodeError::Invalid("expected an integer")),
        }
    }

    /// A byte string of at most `max` bytes.
    ///
    /// # Errors
    /// `OverLimit`, `Truncated`.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.typed(2, "expected a byte string")?;
        self.take(bounded(len, max, "byte string")?)
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// `Invalid` for another length.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.bytes(N)?
            .try_into()
            .map_err(|_| DecodeError::Invalid("byte string of another length"))
    }

    /// A text string of at most `max` bytes.
    ///
    /// # Errors
    /// `OverLimit`, `Truncated`; `NotCanonical` if it is not UTF-8.
    pub fn text(&mut self, max: usize) -> Result<&'a str, DecodeError> {
        let len = self.typed(3, "expected a text string")?;
        let bytes = self.take(bounded(len, max, "text string")?)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError::NotCanonical("text is not UTF-8"))
    }

    /// The head of an array of at most `max` values.
    ///
    /// # Errors
    /// `OverLimit`; `Truncated` if the input cannot hold so many values.
    pub fn array(&mut self, max: usize) -> Result<usize, DecodeError> {
        let len = self.typed(4, "expected an array")?;
        // Each value takes a byte at least: a count that the input cannot hold is refused before anyone allocates.
        bounded(len, max, "array").and_then(|n| {
            if n > self.rest.len() {
                Err(DecodeError::Truncated)
            } else {
                Ok(n)
            }
        })
    }

    /// The head of an array of exactly `len` values.
    ///
    /// # Errors
    /// `Invalid` for another length.
    pub fn array_of(&mut self, len: usize) -> Result<(), DecodeError> {
        if self.array(len)? == len {
            Ok(())
        } else {
            Err(DecodeError::Invalid("array of another length"))
        }
    }

    /// The head of a map of at most `max` pairs.
    ///
    /// # Errors
    /// `OverLimit`.
    pub fn map(&mut self, max: usize) -> Result<Fields, DecodeError> {
        let len = self.typed(5, "expected a map")?;
        Ok(Fields {
            left: bounded(len, max, "map")?,
            last: None,
        })
    }

    /// A boolean.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.take(1)? {
            [0xf4] => Ok(false),
            [0xf5] => Ok(true),
            _ => Err(DecodeError::Invalid("expected a boolean")),
        }
    }

    /// Reads a null if one is next.
    pub fn null(&mut self) -> bool {
        if let Some((0xf6, rest)) = self.rest.split_first() {
            self.rest = rest;
            return true;
        }
        false
    }

    /// The major type of the next value, nothing at the end.
    pub fn major(&self) -> Option<u8> {
        self.rest.first().map(|first| first >> 5)
    }

    /// Any one value, checked for its form, as the bytes that encode it: at most `max`.
    ///
    /// # Errors
    /// Any class that the form of a value allows; `OverLimit` above `max` or nested too deep.
    pub fn raw(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        let start = self.rest;
        self.skip(DEPTH_MAX)?;
        let len = start.len() - self.rest.len();
        if len > max {
            return Err(DecodeError::OverLimit("value"));
        }
        start.get(..len).ok_or(DecodeError::Truncated)
    }

    fn skip(&mut self, depth: usize) -> Result<(), DecodeError> {
        if depth == 0 {
            return Err(DecodeError::OverLimit("nesting"));
        }
        if let Some((0xf4..=0xf6, rest)) = self.rest.split_first() {
            self.rest = rest;
            return Ok(());
        }
        let start = self.rest;
        let (major, value) = self.head()?;
        self.rest = start;
        match major {
            0 | 1 => self.head().map(drop),
            2 => self.bytes(usize::MAX).map(drop),
            3 => self.text(usize::MAX).map(drop),
            4 => {
                self.array(usize::MAX)?;
                (0..value).try_for_each(|_| self.skip(depth - 1))
            }
            5 => {
                let mut fields = self.map(usize::MAX)?;
                while fields.next(self)?.is_some() {
                    self.skip(depth - 1)?;
                }
                Ok(())
            }
            _ => Err(DecodeError::NotCanonical("type outside the subset")),
        }
    }
}

/// The pairs of a map that is being read; keys must ascend.
pub struct Fields {
    left: usize,
    last: Option<u64>,
}

impl Fields {
    /// The next key, or nothing at the end of the map; the caller reads the value.
    ///
    /// # Errors
    /// `NotCanonical` if keys do not ascend.
    pub fn next(&mut self, decoder: &mut Decoder<'_>) -> Result<Option<u64>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let key = decoder.uint()?;
        if self.last.is_some_and(|last| key <= last) {
            return Err(DecodeError::NotCanonical("map keys do not ascend"));
        }
        self.last = Some(key);
        Ok(Some(key))
    }
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn bounded(len: u64, max: usize, what: &'static str) -> Result<usize, DecodeError> {
    usize::try_from(len)
        .ok()
        .filter(|len| *len <= max)
        .ok_or(DecodeError::OverLimit(what))
}
