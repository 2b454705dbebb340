//! What reading has found to be bad, or was told to be: it looks for other copies then.

use crate::error::ErrorKind;
use crate::format::id::{BlobId, ObjectId};
use crate::repository::index::{Copy, Index, PackNumber};
use std::collections::{HashMap, HashSet};

/// What a reader was told of packs, whatever view it reads.
#[derive(Default)]
pub(super) struct Told {
    /// Not to be read from.
    pub(super) avoided: HashSet<ObjectId>,
    /// To be read from where nothing else has what is asked for.
    pub(super) aside: HashSet<ObjectId>,
}

/// What is not tried again. One damaged bit costs its block, not the pack around it.
#[derive(Default)]
pub(super) struct Bad {
    /// Packs that are gone, or that a check told to avoid.
    packs: HashSet<PackNumber>,
    /// Blocks that do not open.
    blocks: HashSet<u32>,
    /// Copies, by block and offset, that are not what their id says.
    copies: HashSet<(u32, u32)>,
    /// Packs that are known to be damaged: asked for what nothing else has.
    aside: HashSet<PackNumber>,
    /// What was found that is not of those packs: damage, or only what is not given.
    news: Option<ErrorKind>,
    /// Of packs, how many blocks the store does not give.
    ungiven: HashMap<PackNumber, u32>,
}

/// Blocks that a store does not give, of one pack, until the others of it are not tried any more: each failure may take long.
const UNGIVEN_MAX: u32 = 16;

impl Bad {
    /// Whether a copy may be tried.
    pub(super) fn allows(&self, index: &Index, copy: &Copy) -> bool {
        let number = Index::block_number(copy);
        let block = index.block(copy);
        block.is_some_and(|block| !self.packs.contains(&block.pack))
            && !self.blocks.contains(&number)
            && !self.copies.contains(&(number, copy.offset))
    }

    /// As [`Self::allows`], and not of a pack that is set aside.
    fn prefers(&self, index: &Index, copy: &Copy) -> bool {
        let is_aside = index
            .block(copy)
            .is_some_and(|block| self.aside.contains(&block.pack));
        !is_aside && self.allows(index, copy)
    }

    /// The copies to read a blob by, those that are set aside only where there are no others.
    pub(super) fn chain(&self, index: &Index, id: &BlobId) -> Option<Vec<Copy>> {
        let chain = index.chain(id, &|copy| self.prefers(index, copy));
        let chain = match chain {
            None if !self.aside.is_empty() => index.chain(id, &|copy| self.allows(index, copy)),
            chain => chain,
        };
        chain.map(|chain| chain.into_iter().copied().collect())
    }

    pub(super) fn set_aside(&mut self, packs: HashSet<PackNumber>) {
        self.aside = packs;
    }

    /// What was found that is not of packs that are set aside: `Damaged`, or `Unreadable` if the store does not give something and there is
    /// nothing worse.
    pub(super) fn news(&self) -> Option<ErrorKind> {
        self.news
    }

    /// As [`Self::add`], of what the store did not give though it answers.
    pub(super) fn add_ungiven(&mut self, index: &Index, blame: Blame) {
        self.note(index, blame, ErrorKind::Unreadable);
        if let Blame::Block(block) = blame
            && let Some(block) = index.blocks().get(block as usize)
        {
            let count = self.ungiven.entry(block.pack).or_default();
            *count += 1;
            if *count >= UNGIVEN_MAX {
                self.packs.insert(block.pack);
            }
        }
    }

    pub(super) fn add(&mut self, index: &Index, blame: Blame) {
        self.note(index, blame, ErrorKind::Damaged);
    }

    fn note(&mut self, index: &Index, blame: Blame, kind: ErrorKind) {
        let pack = match blame {
            Blame::Pack(pack) => Some(pack),
            Blame::Block(block) | Blame::Copy(block, _) => {
                let block = index.blocks().get(block as usize);
                block.map(|block| block.pack)
            }
        };
        let is_news = pack.is_none_or(|pack| !self.aside.contains(&pack));
        if is_news && self.news != Some(ErrorKind::Damaged) {
            self.news = Some(kind);
        }
        let _ = match blame {
            Blame::Pack(pack) => self.packs.insert(pack),
            Blame::Block(block) => self.blocks.insert(block),
            Blame::Copy(block, offset) => self.copies.insert((block, offset)),
        };
    }
}

/// What a failed read shows to be bad.
#[derive(Clone, Copy)]
pub(super) enum Blame {
    Pack(PackNumber),
    Block(u32),
    Copy(u32, u32),
}
