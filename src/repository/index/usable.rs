//! Which blobs can be read from a view: `usable` of `format-spec/85-sessions.md`. Presence of an entry is not enough, a delta
//! needs its base, and never counts through itself.

use super::{Copy, Index};
use crate::format::id::BlobId;
use crate::format::limits::CHAIN_MAX;

/// Copies of bases that are tried for one blob: hostile tables must not buy exponential work.
const STEPS_MAX: u32 = 4096;

/// Copies to read for one blob: the blob's own first, then bases, the last one whole.
type Chain<'a> = Vec<&'a Copy>;

impl Index {
    /// Whether the blob can be read.
    #[cfg(test)]
    pub(crate) fn usable(&self, id: &BlobId) -> bool {
        self.chain(id, &|_| true).is_some()
    }

    /// A chain of copies that gives the blob, out of those that `allowed` lets through; whole copies are preferred.
    pub(crate) fn chain<'a>(&'a self, id: &BlobId, allowed: &dyn Fn(&Copy) -> bool) -> Option<Chain<'a>> {
        let mut chain = Chain::new();
        let mut steps = STEPS_MAX;
        self.extend_chain(id, allowed, &mut chain, &mut steps)
            .then_some(chain)
    }

    /// What the mutant `ReaderFirstCopy` reads: the first copy of everything.
    #[cfg(feature = "testkit")]
    pub(crate) fn first_chain(&self, id: &BlobId) -> Option<Vec<Copy>> {
        let mut chain = Vec::new();
        let mut next = Some(*id);
        while let Some(id) = next {
            let copy = *self.copies(&id).first()?;
            if chain.len() > CHAIN_MAX {
                return None;
            }
            next = self.base(&copy);
            chain.push(copy);
        }
        Some(chain)
    }

    fn extend_chain<'a>(
        &'a self,
        id: &BlobId,
        allowed: &dyn Fn(&Copy) -> bool,
        chain: &mut Chain<'a>,
        steps: &mut u32,
    ) -> bool {
        *steps = steps.saturating_sub(1);
        if *steps == 0 || chain.len() > CHAIN_MAX || chain.iter().any(|copy| copy.id == *id) {
            return false;
        }
        let copies = self.copies(id);
        if let Some(whole) = copies.iter().find(|copy| !copy.delta && allowed(copy)) {
            chain.push(whole);
            return true;
        }
        for delta in copies.iter().filter(|copy| copy.delta && allowed(copy)) {
            let Some(base) = self.base(delta) else { continue };
            chain.push(delta);
            if self.extend_chain(&base, allowed, chain, steps) {
                return true;
            }
            chain.pop();
        }
        false
    }
}
