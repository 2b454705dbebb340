//! Which pack holds which blob: the entries of all valid index runs, in memory: 52 bytes resident for each copy of a blob, 64 if it is
//! a delta.

mod usable;

use super::Repository;
use crate::error::{ErrorKind, Result};
use crate::format::header::HEADER_LEN;
use crate::format::id::{BlobId, ObjectId};
use crate::format::index::{BlobKind, BlockRow, Codec, EntryRow, PackRow, Tables};
use crate::format::layout::ObjectName;
use std::collections::{BTreeSet, HashMap, HashSet};

/// One copy of a blob: 52 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub(crate) id: BlobId,
    block: u32,
    pub(crate) offset: u32,
    pub(crate) encoded: u32,
    pub(crate) plain: u32,
    kind: u8,
    delta: bool,
}

impl Copy {
    /// Whether it needs a base.
    pub(crate) fn is_delta(&self) -> bool {
        self.delta
    }

    pub(crate) fn kind(&self) -> BlobKind {
        match self.kind {
            0 => BlobKind::Data,
            1 => BlobKind::Node,
            _ => BlobKind::List,
        }
    }
}

/// A block of some pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Block {
    pub(crate) pack: PackNumber,
    pub(crate) record: u32,
    pub(crate) offset: u32,
    pub(crate) sealed: u32,
    pub(crate) plain: u32,
    pub(crate) codec: Codec,
    /// Whether it holds nodes or lists: those are read again and again.
    pub(crate) tree: bool,
}

/// A pack's place in [`Index::packs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackNumber(pub(crate) u32);

/// A pack that some run lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pack {
    pub(crate) id: ObjectId,
    pub(crate) header: [u8; HEADER_LEN],
    pub(crate) size: u32,
    /// Listed only by runs of sessions without a commit: it may be reused after a claim.
    pub(crate) unclaimed: bool,
}

/// The entries of a view.
#[derive(Clone, Default)]
pub(crate) struct Index {
    packs: Vec<Pack>,
    blocks: Vec<Block>,
    /// Ascending by id.
    copies: Vec<Copy>,
    /// Of deltas: block, offset, and the base as an index into `copies`, or behind their end into `foreign`; ascending.
    bases: Vec<(u32, u32, u32)>,
    /// Bases that no run lists: deltas that nothing rests on.
    foreign: Vec<BlobId>,
}

/// Puts runs together.
#[derive(Default)]
pub(crate) struct IndexBuilder {
    index: Index,
    /// Of deltas, by block and offset.
    bases: Vec<(u32, u32, BlobId)>,
    numbers: HashMap<ObjectId, PackNumber>,
    excluded: HashSet<ObjectId>,
}

impl IndexBuilder {
    /// A builder that leaves out entries in `excluded` packs: dead, condemned or quarantined ones.
    pub(crate) fn new(excluded: HashSet<ObjectId>) -> Self {
        Self {
            excluded,
            ..Self::default()
        }
    }

    /// A builder that adds to an index: what it has keeps its order among itself, and its packs and blocks their numbers.
    pub(crate) fn onto(index: Index, excluded: HashSet<ObjectId>) -> Self {
        let of = |number: u32| match index.copies.get(number as usize) {
            Some(base) => Some(base.id),
            None => index.foreign.get(number as usize - index.copies.len()).copied(),
        };
        let bases = index.bases.iter();
        let bases = bases
            .filter_map(|(block, offset, base)| Some((*block, *offset, of(*base)?)))
            .collect();
        let numbers = (0u32..).zip(&index.packs);
        let numbers = numbers.map(|(at, pack)| (pack.id, PackNumber(at))).collect();
        Self {
            bases,
            numbers,
            excluded,
            index: Index {
                bases: Vec::new(),
                foreign: Vec::new(),
                ..index
            },
        }
    }

    /// Adds a run. A pack that an earlier run listed is not listed again: all runs say the same of it. `unclaimed` marks packs that
    /// only an uncommitted session lists.
    pub(crate) fn add(&mut self, run: &Tables, unclaimed: bool) {
        let mut numbers: Vec<Option<PackNumber>> = Vec::with_capacity(run.packs.len());
        for row in &run.packs {
            numbers.push(self.add_pack(row, unclaimed));
        }
        let mut blocks: Vec<Option<u32>> = Vec::with_capacity(run.blocks.len());
        for row in &run.blocks {
            let pack = numbers.get(row.pack as usize).copied().flatten();
            blocks.push(pack.map(|pack| {
                let (record, offset, sealed) = (row.record, row.offset, row.sealed);
                self.index.blocks.push(Block {
                    pack,
                    record,
                    offset,
                    sealed,
                    plain: row.plain,
                    codec: row.codec,
                    tree: false,
                });
                u32::try_from(self.index.blocks.len() - 1).unwrap_or(u32::MAX)
            }));
        }
        self.index.copies.reserve(run.entries.len());
        let mut bases = run.bases.iter();
        for row in &run.entries {
            let base = if row.delta { bases.next() } else { None };
            let Some(block) = blocks.get(row.block as usize).copied().flatten() else {
                continue;
            };
            if let Some((_, base)) = base {
                self.bases.push((block, row.offset, *base));
            }
            if row.kind != BlobKind::Data
                && let Some(block) = self.index.blocks.get_mut(block as usize)
            {
                block.tree = true;
            }
            let (id, offset, encoded, plain) = (row.id, row.offset, row.encoded, row.plain);
            self.index.copies.push(Copy {
                id,
                block,
                offset,
                encoded,
                plain,
                kind: row.kind as u8,
                delta: row.delta,
            });
        }
    }

    fn add_pack(&mut self, row: &PackRow, unclaimed: bool) -> Option<PackNumber> {
        if self.excluded.contains(&row.id) || self.numbers.contains_key(&row.id) {
            return None;
        }
        let number = PackNumber(u32::try_from(self.index.packs.len()).ok()?);
        self.index.packs.push(Pack {
            id: row.id,
            header: row.header,
            size: row.size,
            unclaimed,
        });
        self.numbers.insert(row.id, number);
        Some(number)
    }

    /// Sorts the entries.
    pub(crate) fn finish(mut self) -> Index {
        self.index
            .copies
            .sort_unstable_by_key(|copy| (copy.id, copy.block, copy.offset));
        self.index.copies.shrink_to_fit();
        self.bases.sort_unstable();
        self.index.bases = Vec::with_capacity(self.bases.len());
        for (block, offset, base) in self.bases {
            let number = self.index.number_of(&base);
            self.index.bases.push((block, offset, number));
        }
        self.index
    }
}

impl Pack {
    /// Whether the store has it, as long as it must be.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn is_present(&self, repository: &Repository) -> Result<bool> {
        match repository.store().head(&ObjectName::Pack(self.id)).await {
            Ok(info) => Ok(info.size == u64::from(self.size)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Index {
    /// All copies of a blob.
    pub(crate) fn copies(&self, id: &BlobId) -> &[Copy] {
        let start = self.copies.partition_point(|copy| copy.id < *id);
        let rest = self.copies.get(start..).unwrap_or_default();
        let len = rest.iter().take_while(|copy| copy.id == *id).count();
        rest.get(..len).unwrap_or_default()
    }

    /// Every copy, ascending by id, block and offset. The place of a blob's first copy in it is the blob's number.
    pub(crate) fn all_copies(&self) -> &[Copy] {
        &self.copies
    }

    /// The number of a blob, if there is an entry for it.
    pub(crate) fn number(&self, id: &BlobId) -> Option<u32> {
        let at = self.copies.partition_point(|copy| copy.id < *id);
        let found = self.copies.get(at).is_some_and(|copy| copy.id == *id);
        found.then_some(u32::try_from(at).ok()?)
    }

    /// The number of a delta's base, if there is an entry for it.
    pub(crate) fn base_number(&self, copy: &Copy) -> Option<u32> {
        let number = self.base_place(copy)?;
        self.copies.get(number as usize).map(|_| number)
    }

    fn base_place(&self, copy: &Copy) -> Option<u32> {
        let place = (copy.block, copy.offset);
        let at = self
            .bases
            .binary_search_by_key(&place, |(block, offset, _)| (*block, *offset));
        self.bases.get(at.ok()?).map(|(.., number)| *number)
    }

    /// The block that holds a copy.
    pub(crate) fn block(&self, copy: &Copy) -> Option<&Block> {
        self.blocks.get(copy.block as usize)
    }

    /// The number of that block, for caches.
    pub(crate) fn block_number(copy: &Copy) -> u32 {
        copy.block
    }

    /// The base of a delta.
    pub(crate) fn base(&self, copy: &Copy) -> Option<BlobId> {
        let number = self.base_place(copy)? as usize;
        match self.copies.get(number) {
            Some(base) => Some(base.id),
            None => self.foreign.get(number - self.copies.len()).copied(),
        }
    }

    /// The number that stands for a base.
    fn number_of(&mut self, base: &BlobId) -> u32 {
        let at = self.copies.partition_point(|copy| copy.id < *base);
        let number = if self.copies.get(at).is_some_and(|copy| copy.id == *base) {
            at
        } else {
            self.foreign.push(*base);
            self.copies.len() + self.foreign.len() - 1
        };
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// A pack by its number.
    pub(crate) fn pack(&self, number: PackNumber) -> Option<&Pack> {
        self.packs.get(number.0 as usize)
    }

    /// The pack that holds a copy.
    pub(crate) fn pack_of(&self, copy: &Copy) -> Option<ObjectId> {
        let block = self.block(copy)?;
        self.pack(block.pack).map(|pack| pack.id)
    }

    /// All packs, in no order that means anything.
    pub(crate) fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// All blocks.
    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The rows that list some packs, as a run of theirs would.
    pub(crate) fn rows_of(&self, packs: &BTreeSet<PackNumber>) -> Vec<Tables> {
        if packs.is_empty() {
            return Vec::new();
        }
        let mut order: Vec<(ObjectId, PackNumber)> = packs
            .iter()
            .filter_map(|number| self.pack(*number).map(|pack| (pack.id, *number)))
            .collect();
        order.sort_unstable();
        let places: HashMap<PackNumber, usize> =
            order.iter().enumerate().map(|(at, (_, n))| (*n, at)).collect();
        let mut tables: Vec<Tables> = order
            .iter()
            .filter_map(|(_, number)| self.pack(*number))
            .map(|pack| Tables {
                packs: vec![PackRow {
                    id: pack.id,
                    header: pack.header,
                    size: pack.size,
                }],
                ..Tables::default()
            })
            .collect();
        let mut blocks: HashMap<u32, u32> = HashMap::new();
        for (at, block) in (0u32..).zip(&self.blocks) {
            let Some(table) = places.get(&block.pack).and_then(|place| tables.get_mut(*place)) else {
                continue;
            };
            blocks.insert(at, u32::try_from(table.blocks.len()).unwrap_or(u32::MAX));
            table.blocks.push(BlockRow {
                pack: 0,
                record: block.record,
                offset: block.offset,
                sealed: block.sealed,
                plain: block.plain,
                codec: block.codec,
            });
        }
        for copy in &self.copies {
            let Some(block) = blocks.get(&copy.block).copied() else {
                continue;
            };
            let place = self.block(copy).and_then(|block| places.get(&block.pack));
            let Some(table) = place.and_then(|place| tables.get_mut(*place)) else {
                continue;
            };
            if let Some(base) = self.base(copy) {
                table
                    .bases
                    .push((u32::try_from(table.entries.len()).unwrap_or(u32::MAX), base));
            }
            let (id, kind, delta, offset) = (copy.id, copy.kind(), copy.delta, copy.offset);
            let (encoded, plain) = (copy.encoded, copy.plain);
            table.entries.push(EntryRow {
                id,
                kind,
                delta,
                block,
                offset,
                encoded,
                plain,
            });
        }
        tables
    }
}

#[cfg(test)]
mod tests;
