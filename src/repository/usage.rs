//! What blobs take in the packs of a view. Two bits for each copy of a blob are kept: each blob is told once.

use super::View;
use super::bits::Bits;
use super::index::{Copy, Index};
use crate::format::id::BlobId;
use std::sync::Arc;

/// The blobs of a view, and which of them were told already.
pub struct Usage {
    index: Arc<Index>,
    named: Bits,
    stored: Bits,
}

/// What a blob takes, or several; what was told before is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of the blobs themselves.
    pub plain: u64,
    /// Bytes of what stands in blocks for them and for the bases that they need: whole, or as a difference.
    pub encoded: u64,
    /// What that takes in the store: its share of compressed and sealed blocks.
    pub stored: u64,
    /// Bytes that are not stored because a difference is, before compression.
    pub saved_by_deltas: u64,
}

impl Taken {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.plain += other.plain;
        self.encoded += other.encoded;
        self.stored += other.stored;
        self.saved_by_deltas += other.saved_by_deltas;
    }
}

impl Usage {
    /// The blobs of a view, none of them told.
    pub fn new(view: &View) -> Self {
        let copies = view.index.all_copies().len();
        Self {
            index: view.index.clone(),
            named: Bits::none(copies),
            stored: Bits::none(copies),
        }
    }

    /// What a blob takes, with the bases that it needs. Nothing if it was told before; one that no run lists takes nothing, and is
    /// always told anew.
    pub fn take(&mut self, id: &BlobId) -> Option<Taken> {
        let mut taken = Taken::default();
        let Some(number) = self.index.number(id) else {
            return Some(taken);
        };
        if !self.named.set(number) {
            return None;
        }
        let index = self.index.clone();
        let chain = index.chain(id, &|_| true).unwrap_or_default();
        taken.plain = chain.first().map_or(0, |copy| u64::from(copy.plain));
        for copy in chain {
            let is_new = index
                .number(&copy.id)
                .is_some_and(|number| self.stored.set(number));
            if is_new {
                taken.encoded += u64::from(copy.encoded);
                taken.stored += stored(&index, copy);
                if copy.is_delta() {
                    taken.saved_by_deltas += u64::from(copy.plain.saturating_sub(copy.encoded));
                }
            }
        }
        Some(taken)
    }

    /// Packs that runs list, and their bytes.
    pub fn packs(&self) -> (u64, u64) {
        let packs = self.index.packs();
        let bytes = packs.iter().map(|pack| u64::from(pack.size)).sum();
        (packs.len() as u64, bytes)
    }
}

/// A copy's share of its block.
fn stored(index: &Index, copy: &Copy) -> u64 {
    let Some(block) = index.block(copy).filter(|block| block.plain > 0) else {
        return 0;
    };
    u64::from(copy.encoded) * u64::from(block.sealed) / u64::from(block.plain)
}
