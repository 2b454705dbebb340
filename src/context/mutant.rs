//! Rules of the protocol that a test can switch off on its own thread, to show that the simulator notices
//! (`format-spec/86-simulator.md`). All of this is there with `testkit` only: in a released binary [`mutated`] is the constant `false`.

/// Whether a rule is switched off here.
#[cfg(feature = "testkit")]
macro_rules! mutated {
    ($rule:ident) => {
        crate::context::mutant::is_on(crate::context::mutant::Mutant::$rule)
    };
}

/// Every rule holds.
#[cfg(not(feature = "testkit"))]
macro_rules! mutated {
    ($rule:ident) => {
        false
    };
}

pub(crate) use mutated;

#[cfg(feature = "testkit")]
pub use switch::{Mutant, is_on, switch};
#[cfg(feature = "testkit")]
pub(crate) use switch::{is_held_back, is_noted, note};

/// Whether `CondemnedBase` leaves a pack to deltas only.
#[cfg(not(feature = "testkit"))]
pub(crate) const fn is_held_back(_: &[u8; 32]) -> bool {
    false
}

#[cfg(feature = "testkit")]
mod switch {
    use std::cell::{Cell, RefCell};
    use std::collections::HashSet;

    macro_rules! mutants {
        ($($(#[$doc:meta])* $name:ident,)*) => {
            /// A rule that is switched off: the mutants of the protocol, and one collector that keeps the wrong copies.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Mutant { $($(#[$doc])* $name,)* }

            impl Mutant {
                /// All of them.
                pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            }
        };
    }

    mutants! {
        /// G5: neither waits nor fences.
        NoWait,
        /// G1 and G6: what a record of references leaves open is not marked.
        OpenEndsForgotten,
        /// G6: what was committed since G1 is not marked.
        NoRemark,
        /// No session is void.
        RetiredCounts,
        /// W3 and W5: condemned and dead packs are rested on.
        CondemnedReused,
        /// G8 before G4 to G6: what was true at G1 is sealed.
        SealFirst,
        /// After a fence the same is committed again, without W4 and W5.
        CommitAfterFence,
        /// G4 before G3.
        ListFirst,
        /// W4 before W2.
        IndexFirst,
        /// Acknowledges without W8.
        NoLastLook,
        /// No comparison at W3.
        NoComparison,
        /// The floor is n instead of n-1.
        HighFloor,
        /// Session runs are valid for ever.
        SessionRunsForEver,
        /// Collector runs are valid without a seal.
        CollectorRunsUnsealed,
        /// Old seals are deleted, and there is no G9.
        SealsDeleted,
        /// A conflict at G8 is ignored.
        SupersededDeletes,
        /// The mark ignores the bases of deltas.
        MarkIgnoresBases,
        /// Reuse ignores the bases of deltas.
        ReuseIgnoresBases,
        /// A new delta may rest on a condemned base.
        CondemnedBase,
        /// Compaction drops the entries of blobs that nobody needs, of packs that stay.
        CompactionDrops,
        /// A reader lists once.
        ReaderUnstable,
        /// A writer lists once.
        WriterUnstable,
        /// A reader takes the first copy only.
        ReaderFirstCopy,
        /// Packs that the newest round killed are not left out.
        DeadCounts,
        /// Packs of sessions below the floor may be claimed.
        ClaimBelowFloor,
        /// Runs of sessions that have not committed are rested on without a claim.
        UncommittedReused,
        /// G6 goes by the index of G1.
        RemarkOldIndex,
        /// The parent is taken over unread, forgotten or not.
        ParentUnchecked,
        /// An undelete removes the forgets key.
        UndeleteRemoves,
        /// The collector keeps a delta of a blob where there is one, and no whole copy.
        DeltasOnly,
        /// A copy does not bring what its deltas rest on.
        CopyIgnoresBases,
        /// Packs that are copied keep their names wherever they go.
        CopyKeepsNames,
        /// A copy is committed before its packs are there.
        CopyUnput,
        /// Writers rest on packs that the ledger names.
        QuarantineReused,
        /// Collectors take packs that the ledger names for good copies.
        QuarantineKept,
        /// Forgets keys of protected snapshots have an effect.
        ProtectionIgnored,
        /// Forgets keys of what the repository retains have an effect.
        MinimumIgnored,
    }

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
        static NOTED: RefCell<HashSet<[u8; 32]>> = RefCell::default();
    }

    /// Switches a rule off on this thread, or all of them on again.
    pub fn switch(mutant: Option<Mutant>) {
        ON.set(mutant);
        NOTED.take();
    }

    /// Remembers ids that a mutant needs to know.
    pub(crate) fn note(ids: impl Iterator<Item = [u8; 32]>) {
        NOTED.with_borrow_mut(|noted| noted.extend(ids));
    }

    /// Whether an id was noted.
    pub(crate) fn is_noted(id: &[u8; 32]) -> bool {
        NOTED.with_borrow(|noted| noted.contains(id))
    }

    /// Whether `CondemnedBase` leaves a pack to deltas only.
    pub(crate) fn is_held_back(pack: &[u8; 32]) -> bool {
        (is_on(Mutant::CondemnedBase) || is_on(Mutant::ParentUnchecked)) && is_noted(pack)
    }

    /// Whether a rule is switched off on this thread.
    pub fn is_on(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }
}
