//! What a round would delete and copy. Pure: how full each pack is, and limits, in; packs out. A dry run prints it, a round does it.

use crate::format::id::ObjectId;
use crate::format::limits::ROUND_PACKS_MAX;
use std::cmp::Reverse;

/// How much of what is kept may be bytes that nobody needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// So many percent of what is needed.
    Percent(u64),
    /// So many bytes.
    Bytes(u64),
    /// Any share: nothing is copied.
    Unlimited,
}

impl Default for Unused {
    fn default() -> Self {
        Self::Percent(5)
    }
}

/// A pack that stands in the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackUse {
    pub(super) id: ObjectId,
    /// Bytes of the object.
    pub(super) size: u64,
    /// Encoded bytes of all its blobs, and of those that are kept there.
    pub(super) all: u64,
    pub(super) live: u64,
    /// Whether a round may condemn it: whoever made it has finished, and it is there.
    pub(super) is_finished: bool,
}

impl PackUse {
    /// Bytes of the object that nobody needs, as its blobs have them.
    fn unused(&self) -> u64 {
        let dead = u128::from(self.all.saturating_sub(self.live));
        u64::try_from(u128::from(self.size) * dead / u128::from(self.all.max(1))).unwrap_or(self.size)
    }
}

/// What a round intends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Packs without anything that is needed.
    pub(super) dead: Vec<ObjectId>,
    pub(super) dead_bytes: u64,
    /// Packs that hold too little: what is needed of them is copied.
    pub(super) repack: Vec<ObjectId>,
    /// Bytes of these packs, and about how many of them are copied.
    pub(super) repack_bytes: u64,
    pub(super) copied_bytes: u64,
    /// Bytes that nobody needs and that stay.
    pub(super) unused_bytes: u64,
}

/// Chooses. `loose` are packs that no valid run lists, whose makers have finished. `max_repack` bounds the bytes that are copied.
pub(super) fn choose(
    uses: &[PackUse],
    loose: &[(ObjectId, u64)],
    max_unused: Unused,
    max_repack: u64,
) -> Chosen {
    let mut chosen = Chosen::default();
    let mut partly = Vec::new();
    let mut needed = 0;
    for pack in uses {
        let unused = pack.unused();
        if pack.live > 0 {
            needed += pack.size - unused;
            chosen.unused_bytes += unused;
            if unused > 0 && pack.is_finished {
                partly.push(pack);
            }
        } else if pack.is_finished && chosen.dead.len() < ROUND_PACKS_MAX {
            chosen.dead.push(pack.id);
            chosen.dead_bytes += pack.size;
        } else {
            chosen.unused_bytes += pack.size;
        }
    }
    for (id, size) in loose {
        if chosen.dead.len() < ROUND_PACKS_MAX {
            chosen.dead.push(*id);
            chosen.dead_bytes += size;
        }
    }
    let allowed = match max_unused {
        Unused::Percent(percent) => {
            u64::try_from(u128::from(needed) * u128::from(percent) / 100).unwrap_or(u64::MAX)
        }
        Unused::Bytes(bytes) => bytes,
        Unused::Unlimited => u64::MAX,
    };
    // Those first that free most for each byte that is copied.
    partly.sort_by_key(|pack| {
        let share = u128::from(pack.unused()) * 1_000_000 / u128::from(pack.size.max(1));
        (Reverse(share), pack.id)
    });
    for pack in partly {
        let unused = pack.unused();
        let copied = pack.size - unused;
        if chosen.unused_bytes <= allowed || chosen.dead.len() + chosen.repack.len() >= ROUND_PACKS_MAX {
            break;
        }
        if chosen.copied_bytes.saturating_add(copied) > max_repack {
            continue;
        }
        chosen.unused_bytes -= unused;
        chosen.repack_bytes += pack.size;
        chosen.copied_bytes += copied;
        chosen.repack.push(pack.id);
    }
    chosen.dead.sort_unstable();
    chosen.repack.sort_unstable();
    chosen
}

/// A collection that takes more than this is done only if it is confirmed: of a hundred snapshots, and of a hundred bytes.
const SNAPSHOTS_MAX: u128 = 30;
const BYTES_MAX: u128 = 50;

/// Whether so large a part goes that somebody should look at it first.
pub(super) fn is_large((gone, snapshots): (u64, u64), (freed, bytes): (u64, u64)) -> bool {
    u128::from(gone) * 100 > u128::from(snapshots) * SNAPSHOTS_MAX
        || u128::from(freed) * 100 > u128::from(bytes) * BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(id: u8, live: u64) -> PackUse {
        PackUse {
            id: ObjectId([id; 32]),
            size: 1000,
            all: 500,
            live,
            is_finished: true,
        }
    }

    fn numbers(ids: &[ObjectId]) -> Vec<u8> {
        ids.iter().map(|id| id.0[0]).collect()
    }

    #[test]
    fn what_nobody_needs_goes_and_the_emptiest_are_copied_first() {
        let uses = [pack(1, 0), pack(2, 500), pack(3, 50), pack(4, 450), pack(5, 250)];
        let all = choose(&uses, &[(ObjectId([9; 32]), 7)], Unused::Bytes(0), u64::MAX);
        assert_eq!(numbers(&all.dead), [1, 9]);
        assert_eq!(numbers(&all.repack), [3, 4, 5]);
        assert_eq!(
            (all.dead_bytes, all.repack_bytes, all.copied_bytes),
            (1007, 3000, 1500)
        );
        assert_eq!(all.unused_bytes, 0);
        // 2,500 bytes are needed and 1,500 are not: a fifth of them may stay.
        let some = choose(&uses, &[], Unused::Percent(24), u64::MAX);
        assert_eq!((numbers(&some.repack), some.unused_bytes), (vec![3], 600));
        let none = choose(&uses, &[], Unused::Unlimited, u64::MAX);
        assert_eq!((numbers(&none.dead), none.repack.len()), (vec![1], 0));
        let bounded = choose(&uses, &[], Unused::Bytes(0), 600);
        assert_eq!(numbers(&bounded.repack), [3, 5]);
    }

    #[test]
    fn what_may_be_taken_over_stays() {
        let uses = [pack(1, 0), pack(2, 100)].map(|pack| PackUse {
            is_finished: false,
            ..pack
        });
        let chosen = choose(&uses, &[], Unused::Bytes(0), u64::MAX);
        assert!(chosen.dead.is_empty() && chosen.repack.is_empty());
        assert_eq!(chosen.unused_bytes, 1000 + 800);
    }

    #[test]
    fn a_third_of_the_snapshots_or_most_of_the_bytes_is_large() {
        assert!(!is_large((3, 10), (50, 100)));
        assert!(is_large((4, 10), (0, 100)));
        assert!(is_large((0, 10), (51, 100)));
        assert!(!is_large((0, 0), (0, 0)));
        assert!(is_large((u64::MAX, u64::MAX), (0, 0)));
    }
}
