//! An entry of the tree (`format-spec/60-tree.md`): one thing in a snapshot, under its key.

use super::cbor::{Decoder, Encoder};
use super::error::DecodeError;
use super::id::BlobId;
use super::limits;
use super::metadata::{EMPTY, Metadata};
use bytes::Bytes;
use std::fmt;

/// An entry's place in a snapshot: 1 to 8192 opaque bytes, whose order is the order of the snapshot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// A key of `bytes`; the limit on its length is checked where it is encoded.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// No bytes: the prefix of every key, and no key of an entry.
    pub fn empty() -> Self {
        Self(Bytes::new())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the key lies under `prefix`.
    pub fn starts_with(&self, prefix: &Self) -> bool {
        self.0.starts_with(&prefix.0)
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::error::escape(&String::from_utf8_lossy(&self.0)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal $word:literal,)*) => {
        /// What an entry is. The numbers are part of the format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum EntryKind { $($(#[$doc])* $name = $number,)* }

        impl EntryKind {
            /// The kind with this number.
            ///
            /// # Errors
            /// `UnknownVersion` if there is none.
            pub fn from_number(number: u64) -> Result<Self, DecodeError> {
                match number {
                    $($number => Ok(Self::$name),)*
                    _ => Err(DecodeError::UnknownVersion("kind of entry")),
                }
            }

            /// The word for it in listings.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

kinds! {
    /// A regular file.
    File = 1 "file",
    /// A directory; also the group entry of what lies below it.
    Directory = 2 "dir",
    /// A symbolic link.
    Symlink = 3 "symlink",
    /// A named pipe.
    Fifo = 4 "fifo",
    /// A character device.
    CharDevice = 5 "chardev",
    /// A block device.
    BlockDevice = 6 "blockdev",
    /// A socket; only its name and metadata are kept.
    Socket = 7 "socket",
    /// Another name of a file that comes earlier in key order.
    HardLink = 8 "hardlink",
    /// The output of a command, or standard input.
    Stream = 9 "stream",
    /// A table: the group entry of its segments.
    Table = 16 "table",
    /// A range of heap blocks of a table.
    Segment = 17 "segment",
    /// Statements or values of a database.
    Statements = 18 "statements",
    /// A large object of a database.
    LargeObject = 19 "large-object",
    /// A database.
    Database = 20 "database",
    /// A bucket: the group entry of its objects.
    Bucket = 24 "bucket",
    /// An object of a bucket.
    Object = 25 "object",
    /// A piece of configuration.
    Config = 28 "config",
}

/// One reference: a blob and the bytes of content that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// The blob; [`BlobId::HOLE`] for zero bytes that are not stored.
    pub id: BlobId,
    /// Bytes of content under it.
    pub len: u64,
}

impl BlobRef {
    /// Bytes that one reference takes in its encoding.
    pub const ENCODED: usize = 40;

    /// Whether these are zero bytes that are not stored.
    pub fn is_hole(&self) -> bool {
        self.id == BlobId::HOLE
    }

    /// Whether a list ends after this reference (chapter 60, section 4.2). A hole never ends one: all holes have one id, and
    /// a sparse file would fall into lists of a few references each.
    pub fn ends_list(&self) -> bool {
        let [low, high, ..] = self.id.0;
        !self.is_hole() && u16::from_le_bytes([low, high]) < 64
    }

    fn check(&self, level: u8) -> Result<(), DecodeError> {
        let possible = match (self.is_hole(), level) {
            (true, 0) => true,
            (true, _) => false,
            (false, 0) => self.len <= limits::BLOB_MAX as u64,
            (false, _) => true,
        };
        if possible && self.len > 0 {
            Ok(())
        } else {
            Err(DecodeError::Invalid("reference"))
        }
    }
}

/// The content of an entry, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentRecord {
    /// No content.
    None,
    /// The bytes themselves, at most 512.
    Inline(Bytes),
    /// References: to chunks at level 0, to list blobs whose references are one level lower above it.
    Refs {
        /// 0 to 4.
        level: u8,
        /// In order; at most 64.
        refs: Vec<BlobRef>,
    },
}

/// An entry, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRecord {
    /// Its place in the snapshot.
    pub key: Key,
    /// What it is.
    pub kind: EntryKind,
    /// What the connector needs to put it back.
    pub metadata: Metadata,
    /// What the connector needs to prove it unchanged.
    pub state: Bytes,
    /// Bytes of content; of a group entry what its connector defines.
    pub size: u64,
    /// Its content.
    pub content: ContentRecord,
    /// BLAKE3-256 of the whole content, when it has more than one reference.
    pub whole: Option<[u8; 32]>,
}

impl EntryRecord {
    /// Appends the canonical encoding: a map of 0 key, 1 kind, 2 metadata, 3 state, 4 size, 5 content, 6 whole; fields that hold
    /// nothing are left out.
    pub fn encode(&self, out: &mut Encoder) {
        let has_metadata = !self.metadata.is_empty();
        let has_content = self.content != ContentRecord::None;
        let optional = [
            has_metadata,
            !self.state.is_empty(),
            self.size != 0,
            has_content,
            self.whole.is_some(),
        ];
        out.map(2 + optional.iter().filter(|present| **present).count());
        out.uint(0)
            .bytes(self.key.as_bytes())
            .uint(1)
            .uint(self.kind as u64);
        if has_metadata {
            out.uint(2).raw(self.metadata.encoded());
        }
        if !self.state.is_empty() {
            out.uint(3).bytes(&self.state);
        }
        if self.size != 0 {
            out.uint(4).uint(self.size);
        }
        match &self.content {
            ContentRecord::None => {}
            ContentRecord::Inline(bytes) => {
                out.uint(5).bytes(bytes);
            }
            ContentRecord::Refs { level, refs } => {
                out.uint(5)
                    .array(2)
                    .uint(u64::from(*level))
                    .bytes(&encode_refs(refs));
            }
        }
        if let Some(whole) = &self.whole {
            out.uint(6).bytes(whole);
        }
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let mut fields = decoder.map(8)?;
        let mut entry = Self {
            key: Key(Bytes::new()),
            kind: EntryKind::File,
            metadata: Metadata::default(),
            state: Bytes::new(),
            size: 0,
            content: ContentRecord::None,
            whole: None,
        };
        let mut kind = None;
        while let Some(field) = fields.next(decoder)? {
            match field {
                0 => entry.key = Key(Bytes::copy_from_slice(decoder.bytes(limits::KEY_MAX)?)),
                1 => kind = Some(EntryKind::from_number(decoder.uint()?)?),
                2 => {
                    let encoded = present(decoder.raw(limits::METADATA_MAX)?, EMPTY)?;
                    entry.metadata = Metadata::from_encoded(encoded)?;
                }
                3 => entry.state = Bytes::copy_from_slice(present(decoder.bytes(limits::STATE_MAX)?, b"")?),
                4 => entry.size = present(decoder.uint()?, 0)?,
                5 => entry.content = decode_content(decoder)?,
                6 => entry.whole = Some(decoder.fixed()?),
                _ => return Err(DecodeError::UnknownVersion("unknown field of an entry")),
            }
        }
        entry.kind = kind.ok_or(DecodeError::Invalid("entry without a kind"))?;
        entry.validate()?;
        Ok(entry)
    }

    /// Checks everything that decoding would refuse, so that what is encoded can be read.
    ///
    /// # Errors
    /// `OverLimit` for a key, metadata, state or content above its limit, `Invalid` for values that contradict each other.
    pub fn validate(&self) -> Result<(), DecodeError> {
        if self.key.as_bytes().is_empty() {
            return Err(DecodeError::Invalid("entry without a key"));
        }
        let bounds = [
            (self.key.as_bytes().len(), limits::KEY_MAX, "key"),
            (self.metadata.encoded().len(), limits::METADATA_MAX, "metadata"),
            (self.state.len(), limits::STATE_MAX, "state"),
        ];
        if let Some((.., what)) = bounds.into_iter().find(|(len, max, _)| len > max) {
            return Err(DecodeError::OverLimit(what));
        }
        let (total, needs_whole) = match &self.content {
            ContentRecord::None => return if self.whole.is_none() { Ok(()) } else { Err(WHOLE) },
            ContentRecord::Inline(bytes) => (check_inline(bytes)?.len() as u64, false),
            ContentRecord::Refs { level, refs } => {
                (check_inner_refs(*level, refs)?, *level > 0 || refs.len() > 1)
            }
        };
        if total != self.size {
            return Err(DecodeError::Invalid("size differs from the content's"));
        }
        if needs_whole == self.whole.is_some() {
            Ok(())
        } else {
            Err(WHOLE)
        }
    }

    /// Bytes of content: the size, or 0 if the size is not that of content.
    pub fn content_bytes(&self) -> u64 {
        if self.content == ContentRecord::None {
            0
        } else {
            self.size
        }
    }
}

const WHOLE: DecodeError = DecodeError::Invalid("whole hash missing, or present without need");

/// A field that holds nothing is left out: present, it would be a second encoding of the entry.
fn present<T: PartialEq + Copy>(value: T, nothing: T) -> Result<T, DecodeError> {
    if value == nothing {
        Err(DecodeError::NotCanonical(
            "a field that holds nothing is left out",
        ))
    } else {
        Ok(value)
    }
}

/// The bytes of content under `refs`.
///
/// # Errors
/// `OverLimit` if the sum does not fit 64 bits.
pub fn sum(refs: &[BlobRef]) -> Result<u64, DecodeError> {
    refs.iter()
        .try_fold(0u64, |sum, r| sum.checked_add(r.len))
        .ok_or(DecodeError::OverLimit("size of content"))
}

fn check_inline(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    match bytes.len() {
        0 => Err(DecodeError::NotCanonical("empty content is left out")),
        1..=limits::INLINE_MAX => Ok(bytes),
        _ => Err(DecodeError::OverLimit("content inside an entry")),
    }
}

fn check_inner_refs(level: u8, refs: &[BlobRef]) -> Result<u64, DecodeError> {
    if level > limits::LIST_DEPTH_MAX {
        return Err(DecodeError::OverLimit("levels of lists"));
    }
    if refs.len() > limits::REFS_INLINE_MAX {
        return Err(DecodeError::OverLimit("references inside an entry"));
    }
    if refs.is_empty() {
        return Err(DecodeError::Invalid("empty list of references"));
    }
    refs.iter().try_for_each(|r| r.check(level))?;
    sum(refs)
}

fn decode_content(decoder: &mut Decoder<'_>) -> Result<ContentRecord, DecodeError> {
    if decoder.major() != Some(4) {
        return Ok(ContentRecord::Inline(Bytes::copy_from_slice(
            decoder.bytes(limits::INLINE_MAX)?,
        )));
    }
    decoder.array_of(2)?;
    let level = u8::try_from(decoder.uint()?)
        .ok()
        .filter(|l| *l <= limits::LIST_DEPTH_MAX);
    let level = level.ok_or(DecodeError::OverLimit("levels of lists"))?;
    let refs = decode_refs(decoder.bytes(limits::REFS_INLINE_MAX * BlobRef::ENCODED)?, level)?;
    Ok(ContentRecord::Refs { level, refs })
}

/// Encodes references: id, then length as 8 bytes little-endian, each.
pub fn encode_refs(refs: &[BlobRef]) -> Vec<u8> {
    let mut out = Vec::with_capacity(refs.len() * BlobRef::ENCODED);
    for r in refs {
        out.extend_from_slice(&r.id.0);
        out.extend_from_slice(&r.len.to_le_bytes());
    }
    out
}

/// Decodes references that stand at `level`: at least one, none of length 0, holes at level 0 only.
///
/// # Errors
/// `Truncated` or `Invalid`.
pub fn decode_refs(bytes: &[u8], level: u8) -> Result<Vec<BlobRef>, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Invalid("empty list of references"));
    }
    let mut refs = Vec::with_capacity(bytes.len() / BlobRef::ENCODED);
    let mut chunks = bytes.chunks_exact(BlobRef::ENCODED);
    for chunk in &mut chunks {
        let (id, len) = chunk.split_first_chunk::<32>().ok_or(DecodeError::Truncated)?;
        let len = u64::from_le_bytes(len.try_into().map_err(|_| DecodeError::Truncated)?);
        let r = BlobRef { id: BlobId(*id), len };
        r.check(level)?;
        refs.push(r);
    }
    if chunks.remainder().is_empty() {
        Ok(refs)
    } else {
        Err(DecodeError::Truncated)
    }
}

/// Encodes a list blob: one byte for the level of its references, then the references.
pub fn encode_list(level: u8, refs: &[BlobRef]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + refs.len() * BlobRef::ENCODED);
    out.push(level);
    out.extend(encode_refs(refs));
    out
}

/// Decodes a list blob whose references must stand at `level`.
///
/// # Errors
/// `Invalid`, `OverLimit` or `Truncated`.
pub fn decode_list(bytes: &[u8], level: u8) -> Result<Vec<BlobRef>, DecodeError> {
    match bytes.split_first() {
        Some((found, refs)) if *found == level => {
            if refs.len() > limits::LIST_MAX * BlobRef::ENCODED {
                return Err(DecodeError::OverLimit("list of references"));
            }
            decode_refs(refs, level)
        }
        _ => Err(DecodeError::Invalid("list blob of another level")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip_and_refuse_a_wrong_size() {
        let refs = vec![
            BlobRef {
                id: BlobId([7; 32]),
                len: 3,
            },
            BlobRef {
                id: BlobId::HOLE,
                len: 4096,
            },
        ];
        let mut entry = EntryRecord {
            key: "files/a".into(),
            kind: EntryKind::File,
            metadata: Metadata::default(),
            state: Bytes::from_static(b"s"),
            size: 4099,
            content: ContentRecord::Refs { level: 0, refs },
            whole: Some([9; 32]),
        };
        let encode = |entry: &EntryRecord| {
            let mut out = Encoder::new();
            entry.encode(&mut out);
            out.finish()
        };
        let bytes = encode(&entry);
        assert_eq!(EntryRecord::decode(&mut Decoder::new(&bytes)).unwrap(), entry);
        entry.size = 5;
        assert!(EntryRecord::decode(&mut Decoder::new(&encode(&entry))).is_err());
    }
}
