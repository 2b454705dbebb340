//! What a copy must bring: which blobs snapshots of one repository need, and which whole packs of it another one with the same keys
//! lacks for them (`format-spec/85-sessions.md` section 7).

use super::bits::Bits;
use super::index::{Copy, Index, PackNumber};
use super::view::View;
use super::{Repository, ledger};
use crate::context::Context;
use crate::context::mutant::mutated;
use crate::error::Result;
use crate::format::id::{BlobId, ObjectId};
use crate::format::index::BlobKind;
use crate::format::limits::CHAIN_MAX;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Blobs that snapshots of a repository need: one bit for each that there is.
pub struct Needs {
    pub(super) index: Arc<Index>,
    /// The seal that the index was read after.
    pub(super) newest: u64,
    asked: Bits,
    /// What a copy needs not look at.
    known: Bits,
    /// Blobs that no run lists.
    unlisted: BTreeMap<BlobId, BlobKind>,
    /// Packs that are gone or damaged.
    bad: HashSet<PackNumber>,
    /// Packs that this session has copied.
    copied: HashSet<PackNumber>,
}

/// What a repository has to rest on, for a copy into it.
pub struct There {
    index: Arc<Index>,
    /// Packs that are gone, or not to be rested on.
    absent: HashSet<PackNumber>,
    packs: HashMap<ObjectId, PackNumber>,
}

/// What is to be done for a copy.
#[derive(Debug, Default)]
pub struct Transfer {
    /// Packs of the source, ascending by id.
    pub(super) packs: Vec<PackNumber>,
    /// Packs there that only uncommitted sessions list.
    pub(super) claims: BTreeSet<PackNumber>,
    /// Blobs of which no pack is left that can be copied whole.
    pub singles: Vec<(BlobKind, BlobId)>,
    /// Bytes of the packs.
    pub bytes: u64,
}

impl Transfer {
    /// How many packs are to be copied.
    pub fn packs(&self) -> u64 {
        self.packs.len() as u64
    }
}

/// How packs that are copied are called: their own names are safe only where no collector may still delete them.
pub struct Naming {
    own: bool,
    taken: HashSet<ObjectId>,
    quarantine: bool,
}

impl Naming {
    /// For packs that go into `repository` in the session that began with `view`.
    ///
    /// # Errors
    /// What the store says.
    pub async fn of(repository: &Repository, view: &View) -> Result<Self> {
        let mut taken = ledger::quarantined(repository).await?;
        let quarantine = !taken.is_empty();
        taken.extend(&view.log.condemned);
        Ok(Self {
            own: view.log.newest == 0,
            taken,
            quarantine,
        })
    }

    /// Whether packs are quarantined there: then what its snapshots refer to must be looked at, blob by blob.
    pub fn has_quarantine(&self) -> bool {
        self.quarantine
    }

    pub(super) fn keeps(&self, pack: &ObjectId) -> bool {
        (self.own && !self.taken.contains(pack)) || mutated!(CopyKeepsNames)
    }
}

impl There {
    pub(super) fn new(index: Arc<Index>, absent: HashSet<PackNumber>) -> Self {
        let numbers = (0u32..).zip(index.packs());
        let packs = numbers.map(|(number, pack)| (pack.id, PackNumber(number)));
        Self {
            packs: packs.collect(),
            absent,
            index,
        }
    }

    /// What a view of a writer has, packs of uncommitted sessions taken for present: for plans that nothing comes of.
    pub fn planned(view: &View) -> Self {
        Self::new(view.index.clone(), HashSet::new())
    }

    /// An empty repository.
    pub fn nothing() -> Self {
        Self::new(Arc::default(), HashSet::new())
    }

    /// Nothing is to rest on these packs.
    pub fn avoid(&mut self, packs: &[ObjectId]) {
        let numbers = packs.iter().filter_map(|id| self.packs.get(id));
        self.absent.extend(numbers);
    }

    /// The pack with this id, if it may be rested on.
    fn pack(&self, id: &ObjectId) -> Option<PackNumber> {
        let number = self.packs.get(id).copied();
        number.filter(|number| !self.absent.contains(number))
    }

    fn chain(&self, id: &BlobId) -> Option<Vec<&Copy>> {
        let pack = |copy: &Copy| self.index.block(copy).map(|block| block.pack);
        let is_claimed =
            |copy: &Copy| pack(copy).is_some_and(|n| self.index.pack(n).is_some_and(|p| p.unclaimed));
        let present = |copy: &Copy| pack(copy).is_some_and(|n| !self.absent.contains(&n));
        let committed = self.index.chain(id, &|copy| present(copy) && !is_claimed(copy));
        committed.or_else(|| self.index.chain(id, &present))
    }
}

impl Needs {
    /// Nothing is needed yet of what `view` has.
    pub fn new(view: &View) -> Self {
        Self::over(view.index.clone(), view.log.newest)
    }

    /// Nothing is needed yet of an index that was read after the seal `newest`.
    pub(super) fn over(index: Arc<Index>, newest: u64) -> Self {
        let len = index.all_copies().len();
        Self {
            index,
            newest,
            asked: Bits::none(len),
            known: Bits::none(len),
            unlisted: BTreeMap::new(),
            bad: HashSet::new(),
            copied: HashSet::new(),
        }
    }

    /// Nothing is needed any more; which packs are bad stays known.
    pub fn begin(&mut self) {
        let len = self.index.all_copies().len();
        self.asked = Bits::none(len);
        self.known = Bits::none(len);
        self.unlisted.clear();
        self.copied.clear();
    }

    /// Says that a copy may rest on a node and all that is below it without looking.
    pub fn know(&mut self, node: &BlobId) {
        if let Some(number) = self.index.number(node) {
            self.known.set(number);
        }
    }

    /// A blob is needed. True if that is new: then what it refers to is to be asked for too.
    pub fn ask(&mut self, kind: BlobKind, id: &BlobId) -> bool {
        if *id == BlobId::HOLE {
            return false;
        }
        match self.index.number(id) {
            Some(number) => !self.known.has(number) && self.asked.set(number),
            None => self.unlisted.insert(*id, kind).is_none(),
        }
    }

    /// A pack turned out to be gone or damaged: it is not copied.
    pub fn avoid(&mut self, pack: &ObjectId) {
        let numbers = (0u32..).zip(self.index.packs());
        let found = numbers.filter(|(_, row)| row.id == *pack);
        self.bad.extend(found.map(|(number, _)| PackNumber(number)));
    }

    /// Another session begins: what an earlier one copied is found in its view.
    pub fn forget_copied(&mut self) {
        self.copied.clear();
    }

    /// The packs of a transfer were put, but for those that are to be avoided.
    pub fn took(&mut self, transfer: &Transfer) {
        self.copied.extend(&transfer.packs);
    }

    /// What must be copied so that all that is needed can be read there.
    pub fn plan(&self, there: &There) -> Transfer {
        let mut transfer = Transfer::default();
        let unlisted = self.unlisted.iter().filter(|(id, _)| there.chain(id).is_none());
        transfer.singles.extend(unlisted.map(|(id, kind)| (*kind, *id)));
        let mut packs = BTreeSet::new();
        for number in self.asked.iter() {
            if let Some(copy) = self.index.all_copies().get(number as usize) {
                self.plan_one(copy, there, &mut packs, &mut transfer);
            }
        }
        let id = |number: &PackNumber| self.index.pack(*number).map(|pack| pack.id);
        let size = |number: &PackNumber| self.index.pack(*number).map_or(0, |pack| u64::from(pack.size));
        transfer.bytes = packs.iter().map(size).sum();
        transfer.packs = packs.into_iter().collect();
        transfer.packs.sort_unstable_by_key(id);
        transfer
    }

    fn plan_one(
        &self,
        blob: &Copy,
        there: &There,
        packs: &mut BTreeSet<PackNumber>,
        transfer: &mut Transfer,
    ) {
        let pack = |copy: &Copy| self.index.block(copy).map(|block| block.pack);
        let good = |copy: &Copy| pack(copy).is_some_and(|number| !self.bad.contains(&number));
        let chain = self.index.chain(&blob.id, &good).unwrap_or_default();
        let ends_there = |deltas: usize, id: &BlobId| {
            let chain = there.chain(id)?;
            (deltas + chain.len() <= CHAIN_MAX + 1).then_some(chain)
        };
        // A delta is copied as it is; its chain may go on with what is there.
        let looked_at = if mutated!(CopyIgnoresBases) {
            1
        } else {
            chain.len()
        };
        for (deltas, copy) in chain.iter().enumerate().take(looked_at) {
            if let Some(found) = ends_there(deltas, &copy.id) {
                let of_block = |copy: &Copy| there.index.block(copy).map(|block| block.pack);
                transfer.claims.extend(found.into_iter().filter_map(of_block));
                return;
            }
            let Some(number) = pack(copy).filter(|pack| !self.copied.contains(pack)) else {
                continue;
            };
            let id = self.index.pack(number).map(|pack| pack.id);
            match id.and_then(|id| there.pack(&id)) {
                // It is there, and only what it rests on is not.
                Some(there) => drop(transfer.claims.insert(there)),
                None => drop(packs.insert(number)),
            }
        }
        if chain.is_empty() && there.chain(&blob.id).is_none() {
            transfer.singles.push((blob.kind(), blob.id));
        }
    }
}

impl Transfer {
    /// The packs, for a part of them at a time.
    pub(super) fn parts(&self, len: usize) -> impl Iterator<Item = &[PackNumber]> {
        self.packs.chunks(len.max(1))
    }
}

/// Whether an index that was read after the seal `newest` may miss what a later round has moved.
pub(super) async fn is_outdated(repository: &Repository, context: &Context, newest: u64) -> Result<bool> {
    context.check_cancelled()?;
    Ok(super::log::Log::newest_seal(repository).await? != newest)
}
