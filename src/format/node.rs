//! Nodes of the tree (`format-spec/60-tree.md`, section 5): their encoding, and where they end.

use super::cbor::{Decoder, Encoder};
use super::entry::{EntryRecord, Key};
use super::error::DecodeError;
use super::id::BlobId;
use super::limits;
use bytes::Bytes;
use std::sync::Arc;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The most bytes that the elements of a node of more than one element take together; the rest of
/// [`limits::NODE_MAX`] is the head.
pub const BODY_MAX: usize = limits::NODE_MAX - 8;

/// Decides where nodes end; derived from the keyring, so that nobody without it can choose keys that degrade the tree.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct BorderKey([u8; 32]);

impl BorderKey {
    /// Takes the derived key.
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Whether a node of `level` ends after the element with this key: true for one in 128.
    pub fn is_border(&self, level: u8, key: &Key) -> bool {
        const THRESHOLD: u64 = 1 << 57;
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[level]).update(key.as_bytes());
        let hash = hasher.finalize();
        let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
        u64::from_le_bytes(first) < THRESHOLD
    }
}

/// Entries and bytes of content, of a node and all that is below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries.
    pub entries: u64,
    /// Sum of the sizes of those that have content.
    pub bytes: u64,
}

impl Totals {
    /// Adds another part.
    ///
    /// # Errors
    /// `OverLimit` if a sum does not fit 64 bits.
    pub fn plus(self, other: Self) -> Result<Self, DecodeError> {
        let add = |a: u64, b: u64| a.checked_add(b).ok_or(DecodeError::OverLimit("totals of a tree"));
        Ok(Self {
            entries: add(self.entries, other.entries)?,
            bytes: add(self.bytes, other.bytes)?,
        })
    }

    /// The totals of one entry.
    pub fn of(entry: &EntryRecord) -> Self {
        Self {
            entries: 1,
            bytes: entry.content_bytes(),
        }
    }
}

/// What an inner node says of one of its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The last key of the last leaf below it.
    pub last: Key,
    /// The child.
    pub id: BlobId,
    /// What is below it.
    pub totals: Totals,
}

impl Child {
    /// Appends the encoding: an array of last key, id, entries, bytes.
    pub fn encode(&self, out: &mut Encoder) {
        out.array(4)
            .bytes(self.last.as_bytes())
            .bytes(&self.id.0)
            .uint(self.totals.entries)
            .uint(self.totals.bytes);
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.array_of(4)?;
        let last = Key::new(Bytes::copy_from_slice(decoder.bytes(limits::KEY_MAX)?));
        let id = decode_id(decoder)?;
        let totals = decode_totals(decoder)?;
        if last.as_bytes().is_empty() || totals.entries == 0 {
            return Err(DecodeError::Invalid("child without entries"));
        }
        Ok(Self { last, id, totals })
    }
}

fn decode_id(decoder: &mut Decoder<'_>) -> Result<BlobId, DecodeError> {
    match BlobId(decoder.fixed()?) {
        BlobId::HOLE => Err(DecodeError::Invalid("node id of zeros")),
        id => Ok(id),
    }
}

fn decode_totals(decoder: &mut Decoder<'_>) -> Result<Totals, DecodeError> {
    Ok(Totals {
        entries: decoder.uint()?,
        bytes: decoder.uint()?,
    })
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Level 0.
    Leaf(Vec<Arc<EntryRecord>>),
    /// A level above.
    Inner {
        /// 1 to 15.
        level: u8,
        /// At least one.
        children: Vec<Child>,
    },
}

impl Node {
    /// 0 for a leaf.
    pub fn level(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner { level, .. } => *level,
        }
    }

    /// Entries of a leaf, children of an inner node.
    pub fn elements(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner { children, .. } => children.len(),
        }
    }

    /// The key of the first element; nothing for an empty leaf.
    pub fn first_key(&self) -> Option<&Key> {
        match self {
            Self::Leaf(entries) => entries.first().map(|e| &e.key),
            Self::Inner { children, .. } => children.first().map(|c| &c.last),
        }
    }

    /// The key of the last element; nothing for an empty leaf.
    pub fn last_key(&self) -> Option<&Key> {
        match self {
            Self::Leaf(entries) => entries.last().map(|e| &e.key),
            Self::Inner { children, .. } => children.last().map(|c| &c.last),
        }
    }

    /// What is in it and below it, as its elements say.
    ///
    /// # Errors
    /// `OverLimit` if a sum does not fit 64 bits.
    pub fn totals(&self) -> Result<Totals, DecodeError> {
        match self {
            Self::Leaf(entries) => sum(entries.iter().map(|e| Totals::of(e))),
            Self::Inner { children, .. } => sum(children.iter().map(|c| c.totals)),
        }
    }

    /// Encodes it; the caller keeps order and limits.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Encoder::new();
        match self {
            Self::Leaf(entries) => entries.iter().for_each(|e| e.encode(&mut body)),
            Self::Inner { children, .. } => children.iter().for_each(|c| c.encode(&mut body)),
        }
        seal(self.level(), self.elements(), &body.finish())
    }

    /// Decodes a node. Its place in a tree is for the reader to check.
    ///
    /// # Errors
    /// Any class of [`DecodeError`]; `NotCanonical` if keys do not ascend.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > limits::NODE_SINGLE_MAX {
            return Err(DecodeError::OverLimit("node"));
        }
        let mut decoder = Decoder::new(bytes);
        decoder.array_of(2)?;
        let level = u8::try_from(decoder.uint()?)
            .ok()
            .filter(|level| *level < limits::TREE_HEIGHT_MAX)
            .ok_or(DecodeError::OverLimit("level of a node"))?;
        let elements = decoder.array(limits::NODE_MAX)?;
        if bytes.len() > limits::NODE_MAX && elements != 1 {
            return Err(DecodeError::OverLimit("node of more than one element"));
        }
        let node = if level == 0 {
            let entries = (0..elements).map(|_| EntryRecord::decode(&mut decoder).map(Arc::new));
            let entries = entries.collect::<Result<Vec<_>, _>>()?;
            ascending(entries.iter().map(|e| &e.key))?;
            Self::Leaf(entries)
        } else {
            let children = (0..elements).map(|_| Child::decode(&mut decoder));
            let children = children.collect::<Result<Vec<_>, _>>()?;
            ascending(children.iter().map(|c| &c.last))?;
            Self::Inner { level, children }
        };
        decoder.finish()?;
        if level > 0 && elements == 0 {
            return Err(DecodeError::Invalid("inner node without children"));
        }
        Ok(node)
    }
}

/// Puts the head of a node before its encoded elements.
pub fn seal(level: u8, elements: usize, body: &[u8]) -> Vec<u8> {
    let mut head = Encoder::new();
    head.array(2).uint(u64::from(level)).array(elements);
    let mut out = head.finish();
    out.reserve_exact(body.len());
    out.extend_from_slice(body);
    out
}

fn sum(parts: impl Iterator<Item = Totals>) -> Result<Totals, DecodeError> {
    parts.into_iter().try_fold(Totals::default(), Totals::plus)
}

fn ascending<'a>(keys: impl Iterator<Item = &'a Key>) -> Result<(), DecodeError> {
    if keys.is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        Err(DecodeError::NotCanonical("keys do not ascend"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_are_one_key_in_128_on_each_level_apart() {
        let key = BorderKey::new([3; 32]);
        let keys: Vec<_> = (0..128_000u32)
            .map(|i| Key::new(i.to_be_bytes().to_vec()))
            .collect();
        let on = |level| keys.iter().filter(|k| key.is_border(level, k)).count();
        let both = keys
            .iter()
            .filter(|k| key.is_border(0, k) && key.is_border(1, k))
            .count();
        assert!((900..1100).contains(&on(0)), "{}", on(0));
        assert!((900..1100).contains(&on(1)), "{}", on(1));
        assert!(both < 30, "{both}");
    }
}
