//! Tables of blobs (`format-spec/50-index.md`): an index run lists packs, their blocks, the blobs in them, and the bases of deltas;
//! the directory of a pack is the same without the list of packs.

use super::error::DecodeError;
use super::header::{HEADER_LEN, Header, ObjectType, TAG_LEN, array, u32_le};
use super::id::{BlobId, ObjectId};
use super::limits;
use super::pack::{PACK_RECORDS_MAX, PACK_TAIL_LEN};

/// What a blob holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BlobKind {
    /// A chunk of content.
    Data = 0,
    /// A node of the tree.
    Node = 1,
    /// A list of references.
    List = 2,
}

impl BlobKind {
    /// The kind with this number.
    ///
    /// # Errors
    /// `UnknownVersion` if there is none.
    pub fn from_number(number: u8) -> Result<Self, DecodeError> {
        match number {
            0 => Ok(Self::Data),
            1 => Ok(Self::Node),
            2 => Ok(Self::List),
            _ => Err(DecodeError::UnknownVersion("kind of blob")),
        }
    }
}

/// How the plaintext of a block is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// As one zstd frame.
    Zstd = 1,
}

/// A pack, as an index run lists it: with its header, so that a block can be read with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRow {
    /// Its name.
    pub id: ObjectId,
    /// Its first 104 bytes.
    pub header: [u8; HEADER_LEN],
    /// Its size in bytes.
    pub size: u32,
}

/// A block of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// Ordinal of the pack in the same run; 0 in a directory.
    pub pack: u32,
    /// Number of the sealed record in the pack.
    pub record: u32,
    /// Where the record begins in the pack.
    pub offset: u32,
    /// Bytes of the record, tag included.
    pub sealed: u32,
    /// Bytes of the block's plaintext.
    pub plain: u32,
    /// How the plaintext is stored.
    pub codec: Codec,
}

/// One copy of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRow {
    /// The blob.
    pub id: BlobId,
    /// What it holds.
    pub kind: BlobKind,
    /// Whether the bytes in the block are a delta against a base; the base is in [`Tables::bases`].
    pub delta: bool,
    /// Ordinal of the block in the same tables.
    pub block: u32,
    /// Where its bytes begin in the block's plaintext.
    pub offset: u32,
    /// How many bytes there are.
    pub encoded: u32,
    /// Bytes of the blob's plaintext; equal to `encoded` unless it is a delta.
    pub plain: u32,
}

/// The tables of an index run or of a pack's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Ascending by id; empty in a directory.
    pub packs: Vec<PackRow>,
    /// Ascending by (pack, record); all blocks of each pack.
    pub blocks: Vec<BlockRow>,
    /// Ascending by (id, block, offset).
    pub entries: Vec<EntryRow>,
    /// Ordinal of a delta in `entries`, and its base; ascending, one for each delta.
    pub bases: Vec<(u32, BlobId)>,
}

const PACK_ROW: usize = 144;
const BLOCK_ROW: usize = 24;
const ENTRY_ROW: usize = 52;
const BASE_ROW: usize = 36;
/// Bytes of the four counts.
const COUNTS: usize = 16;

impl Tables {
    /// Bytes that [`Self::encode`] gives.
    pub fn encoded_len(&self) -> usize {
        COUNTS
            + self.packs.len() * PACK_ROW
            + self.blocks.len() * BLOCK_ROW
            + self.entries.len() * ENTRY_ROW
            + self.bases.len() * BASE_ROW
    }

    /// The encoding: four counts, then the rows of each table.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        let counts = [
            self.packs.len(),
            self.blocks.len(),
            self.entries.len(),
            self.bases.len(),
        ];
        for count in counts {
            out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        for row in &self.packs {
            out.extend_from_slice(&row.id.0);
            out.extend_from_slice(&row.header);
            out.extend_from_slice(&row.size.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        }
        for row in &self.blocks {
            out.extend_from_slice(&row.pack.to_le_bytes());
            for field in row.fields() {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        for row in &self.entries {
            out.extend_from_slice(&row.id.0);
            out.extend_from_slice(&[row.kind as u8, u8::from(row.delta), 0, 0]);
            for field in [row.block, row.offset, row.encoded, row.plain] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        for (entry, base) in &self.bases {
            out.extend_from_slice(&entry.to_le_bytes());
            out.extend_from_slice(&base.0);
        }
        out
    }

    /// Reads and checks tables. `directory` tells whether they are a pack's directory, which lists no pack.
    ///
    /// # Errors
    /// Any class of [`DecodeError`]: every ordinal, order and range is checked.
    pub fn decode(bytes: &[u8], directory: bool) -> Result<Self, DecodeError> {
        let mut rest = bytes;
        let counts = [
            u32_le(&mut rest)?,
            u32_le(&mut rest)?,
            u32_le(&mut rest)?,
            u32_le(&mut rest)?,
        ];
        let [packs, blocks, entries, bases] = counts.map(|n| n as usize);
        // Compared before anything is allocated: a count cannot ask for more memory than the input has bytes.
        let widths = [
            (packs, PACK_ROW),
            (blocks, BLOCK_ROW),
            (entries, ENTRY_ROW),
            (bases, BASE_ROW),
        ];
        let total = widths
            .iter()
            .try_fold(0usize, |sum, (n, w)| n.checked_mul(*w)?.checked_add(sum));
        match total {
            Some(total) if total == rest.len() => {}
            Some(total) if total < rest.len() => {
                return Err(DecodeError::NotCanonical("bytes after the tables"));
            }
            _ => return Err(DecodeError::Truncated),
        }
        let tables = Self {
            packs: (0..packs)
                .map(|_| pack_row(&mut rest))
                .collect::<Result<_, _>>()?,
            blocks: (0..blocks)
                .map(|_| block_row(&mut rest))
                .collect::<Result<_, _>>()?,
            entries: (0..entries)
                .map(|_| entry_row(&mut rest))
                .collect::<Result<_, _>>()?,
            bases: (0..bases)
                .map(|_| Ok((u32_le(&mut rest)?, BlobId(array(&mut rest)?))))
                .collect::<Result<_, DecodeError>>()?,
        };
        tables.check(directory)?;
        Ok(tables)
    }

    fn check(&self, directory: bool) -> Result<(), DecodeError> {
        if directory && !self.packs.is_empty() {
            return Err(DecodeError::Invalid("directory that lists packs"));
        }
        let sorted = self.packs.is_sorted_by(|a, b| a.id < b.id)
            && self
                .blocks
                .is_sorted_by(|a, b| (a.pack, a.record) < (b.pack, b.record))
            && self
                .entries
                .is_sorted_by(|a, b| (a.id, a.block, a.offset) < (b.id, b.block, b.offset))
            && self.bases.is_sorted_by(|a, b| a.0 < b.0);
        if !sorted {
            return Err(DecodeError::NotCanonical("rows do not ascend"));
        }
        self.check_blocks(directory)?;
        self.check_entries()
    }

    /// The blocks of each pack are all there, numbered from 0 and back to back from the header on.
    fn check_blocks(&self, directory: bool) -> Result<(), DecodeError> {
        let mut blocks = self.blocks.iter().peekable();
        for ordinal in 0..if directory { 1 } else { self.packs.len() } {
            let size = self
                .packs
                .get(ordinal)
                .map_or(limits::OBJECT_MAX, |p| p.size as usize);
            let mut end = HEADER_LEN as u64;
            let mut record = 0;
            while let Some(block) = blocks.next_if(|b| b.pack as usize == ordinal) {
                block.check()?;
                if block.record != record || u64::from(block.offset) != end {
                    return Err(DecodeError::Invalid("blocks of a pack are not back to back"));
                }
                record += 1;
                end += u64::from(block.sealed);
            }
            if record == 0 {
                return Err(DecodeError::Invalid("pack without blocks"));
            }
            if record > PACK_RECORDS_MAX - 2 {
                return Err(DecodeError::OverLimit("records of a pack"));
            }
            // The directory's record is at least its counts and a tag.
            if end + (COUNTS + TAG_LEN + PACK_TAIL_LEN) as u64 > size as u64 {
                return Err(DecodeError::Invalid("block outside its pack"));
            }
        }
        if blocks.next().is_some() {
            Err(DecodeError::Invalid("block without a pack"))
        } else {
            Ok(())
        }
    }

    fn check_entries(&self) -> Result<(), DecodeError> {
        let mut bases = self.bases.iter();
        for (ordinal, entry) in self.entries.iter().enumerate() {
            let block = self
                .blocks
                .get(entry.block as usize)
                .ok_or(DecodeError::Invalid("entry without a block"))?;
            let end = u64::from(entry.offset) + u64::from(entry.encoded);
            if end > u64::from(block.plain) || entry.encoded == 0 {
                return Err(DecodeError::Invalid("entry outside its block"));
            }
            if entry.plain == 0 || entry.plain as usize > limits::BLOB_MAX {
                return Err(DecodeError::Invalid("length of a blob"));
            }
            if !entry.delta {
                if entry.plain != entry.encoded {
                    return Err(DecodeError::Invalid("length of a plain blob"));
                }
                continue;
            }
            if block.codec != Codec::Raw {
                return Err(DecodeError::Invalid("delta in a compressed block"));
            }
            match bases.next() {
                Some((of, base)) if *of as usize == ordinal => {
                    if *base == BlobId::HOLE || *base == entry.id {
                        return Err(DecodeError::Invalid("base of a delta"));
                    }
                }
                _ => return Err(DecodeError::Invalid("delta without a base")),
            }
        }
        if bases.next().is_some() {
            Err(DecodeError::Invalid("base without a delta"))
        } else {
            Ok(())
        }
    }
}

impl BlockRow {
    fn check(&self) -> Result<(), DecodeError> {
        let plain = self.plain as usize;
        if plain == 0 || plain > limits::BLOCK_MAX {
            return Err(DecodeError::Invalid("length of a block"));
        }
        let record = (self.sealed as usize).saturating_sub(TAG_LEN);
        let fits = match self.codec {
            Codec::Raw => record == plain,
            Codec::Zstd => (1..=limits::RECORD_MAX).contains(&record),
        };
        if fits {
            Ok(())
        } else {
            Err(DecodeError::Invalid("length of a record"))
        }
    }

    /// All but the pack.
    fn fields(&self) -> [u32; 5] {
        [
            self.record,
            self.offset,
            self.sealed,
            self.plain,
            u32::from(self.codec as u8),
        ]
    }
}

/// How many entries there are and a hash over them that does not depend on their order, nor on how they are spread over runs
/// (`format-spec/50-index.md`, section 5): what compaction must conserve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntrySum {
    /// Entries.
    pub count: u64,
    lanes: [u64; 4],
}

impl EntrySum {
    /// Adds the entries of `tables` that stand in packs which `keep` accepts.
    pub fn add(&mut self, tables: &Tables, keep: impl Fn(&ObjectId) -> bool) {
        let mut bases = tables.bases.iter().peekable();
        for (ordinal, entry) in tables.entries.iter().enumerate() {
            let base = bases
                .next_if(|(of, _)| *of as usize == ordinal)
                .map(|(_, base)| base);
            let Some(block) = tables.blocks.get(entry.block as usize) else {
                continue;
            };
            if let Some(pack) = tables.packs.get(block.pack as usize).filter(|p| keep(&p.id)) {
                self.add_one(entry, block, &pack.id, base);
            }
        }
    }

    fn add_one(&mut self, entry: &EntryRow, block: &BlockRow, pack: &ObjectId, base: Option<&BlobId>) {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&entry.id.0)
            .update(&[entry.kind as u8, u8::from(entry.delta)])
            .update(&pack.0);
        for field in block
            .fields()
            .into_iter()
            .chain([entry.offset, entry.encoded, entry.plain])
        {
            hasher.update(&field.to_le_bytes());
        }
        hasher.update(&base.unwrap_or(&BlobId::HOLE).0);
        self.count = self.count.wrapping_add(1);
        let hash = hasher.finalize();
        let (lanes, _) = hash.as_bytes().as_chunks::<8>();
        for (sum, lane) in self.lanes.iter_mut().zip(lanes) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*lane));
        }
    }

    /// The four sums, each little-endian.
    pub fn hash(&self) -> [u8; 32] {
        let mut out = [0; 32];
        let bytes = self.lanes.iter().flat_map(|lane| lane.to_le_bytes());
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        out
    }
}

fn pack_row(rest: &mut &[u8]) -> Result<PackRow, DecodeError> {
    let row = PackRow {
        id: ObjectId(array(rest)?),
        header: array(rest)?,
        size: u32_le(rest)?,
    };
    if u32_le(rest)? != 0 {
        return Err(DecodeError::NotCanonical("reserved bytes"));
    }
    Header::decode(&row.header, ObjectType::Pack)?;
    if row.size as usize > limits::OBJECT_MAX {
        Err(DecodeError::OverLimit("pack"))
    } else {
        Ok(row)
    }
}

fn block_row(rest: &mut &[u8]) -> Result<BlockRow, DecodeError> {
    Ok(BlockRow {
        pack: u32_le(rest)?,
        record: u32_le(rest)?,
        offset: u32_le(rest)?,
        sealed: u32_le(rest)?,
        plain: u32_le(rest)?,
        codec: match u32_le(rest)? {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => return Err(DecodeError::UnknownVersion("codec")),
        },
    })
}

fn entry_row(rest: &mut &[u8]) -> Result<EntryRow, DecodeError> {
    let id = BlobId(array(rest)?);
    let [kind, delta, zero, zero2] = array(rest)?;
    if delta > 1 || zero != 0 || zero2 != 0 {
        return Err(DecodeError::UnknownVersion("encoding of a blob"));
    }
    if id == BlobId::HOLE {
        return Err(DecodeError::Invalid("the hole is not a blob"));
    }
    Ok(EntryRow {
        id,
        kind: BlobKind::from_number(kind)?,
        delta: delta == 1,
        block: u32_le(rest)?,
        offset: u32_le(rest)?,
        encoded: u32_le(rest)?,
        plain: u32_le(rest)?,
    })
}
