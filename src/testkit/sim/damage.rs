//! Packs that were damaged or lost, and what the protocol promises from then on: nothing new rests on a pack that the ledger names, and
//! what was stored again stays (`format-spec/85-sessions.md` section 8).

use crate::format::collect::LedgerRecord;
use crate::format::id::{BlobId, ObjectId, SessionId};
use std::collections::BTreeSet;

/// What is known of damage.
#[derive(Default)]
pub(super) struct Damage {
    /// Packs that are damaged or gone.
    packs: BTreeSet<ObjectId>,
    /// Those that were at some time.
    ever: BTreeSet<ObjectId>,
    /// Packs that the ledger says are not to be rested on.
    quarantined: BTreeSet<ObjectId>,
    /// Blobs with a copy in one of them, or on top of such a blob: these may be lost.
    excused: BTreeSet<BlobId>,
    /// Those of them that somebody stored again who knew of the damage.
    healed: BTreeSet<BlobId>,
    /// Sessions that were begun when the ledger named every damaged pack.
    warned: BTreeSet<SessionId>,
    /// Snapshots that lacked something at some time.
    hit: BTreeSet<SessionId>,
}

impl Damage {
    /// A pack was damaged or lost.
    pub(super) fn strike(&mut self, pack: ObjectId) {
        self.packs.insert(pack);
        self.ever.insert(pack);
        self.healed.clear();
        self.warned.clear();
    }

    /// A pack is there again as it was, or is gone for good.
    pub(super) fn forget(&mut self, pack: &ObjectId) {
        self.packs.remove(pack);
    }

    pub(super) fn has_happened(&self) -> bool {
        !self.packs.is_empty() || !self.excused.is_empty()
    }

    pub(super) fn is_bad(&self, pack: &ObjectId) -> bool {
        self.packs.contains(pack)
    }

    /// Runs list these copies, each a blob, its pack and its base.
    pub(super) fn spread(&mut self, copies: &[(BlobId, ObjectId, Option<BlobId>)]) {
        loop {
            let is_excused = |(_, pack, base): &&(BlobId, ObjectId, Option<BlobId>)| {
                self.packs.contains(pack) || base.is_some_and(|base| self.excused.contains(&base))
            };
            let found: Vec<BlobId> = copies.iter().filter(is_excused).map(|copy| copy.0).collect();
            let before = self.excused.len();
            self.excused.extend(found);
            if self.excused.len() == before {
                return;
            }
        }
    }

    /// The ledger has a new record. Gives a pack that is called bad and is not.
    pub(super) fn told(
        &mut self,
        record: &LedgerRecord,
        is_there: impl Fn(&ObjectId) -> bool,
    ) -> Option<ObjectId> {
        for (pack, _) in &record.verified {
            self.quarantined.remove(pack);
        }
        self.quarantined.extend(&record.quarantined);
        let mut wrong = record.quarantined.iter();
        wrong
            .find(|pack| is_there(pack) && !self.ever.contains(pack))
            .copied()
    }

    /// A session begins: does it know of all that is damaged?
    pub(super) fn begun(&mut self, sid: SessionId) {
        if self.has_happened() && self.packs.is_subset(&self.quarantined) {
            self.warned.insert(sid);
        }
    }

    /// Whether a blob of a snapshot may be lost.
    pub(super) fn excuses(&self, sid: &SessionId, blob: &BlobId) -> bool {
        !self.warned.contains(sid) && self.excused.contains(blob) && !self.healed.contains(blob)
    }

    /// A snapshot was committed and all of it is there.
    pub(super) fn committed(&mut self, sid: &SessionId, tree: &BTreeSet<BlobId>) {
        if self.warned.contains(sid) {
            self.healed.extend(tree.intersection(&self.excused));
        }
    }

    pub(super) fn hits(&mut self, sid: SessionId) {
        self.hit.insert(sid);
    }

    /// Whether a snapshot ever lacked something.
    pub(super) fn ever_hit(&self, sid: &SessionId) -> bool {
        self.hit.contains(sid)
    }
}
