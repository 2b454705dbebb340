//! Blocks that are kept for a while.

use super::fetch::SharedBytes;
use std::collections::{BTreeMap, HashMap};

/// Blocks that are kept. Those that were used last stay: the deltas of neighbours lie in the same few blocks, one for each snapshot that
/// changed them, and these must outlive what is read ahead. But what was announced and then used as often goes before them: most of it is
/// behind whoever reads on, and what is ahead of him would have to be fetched again in its stead. What was not used while as much came as
/// there is room for goes first of all.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) blocks: HashMap<u32, KeptBlock>,
    /// In the order in which they go.
    order: BTreeMap<(Stays, u64), u32>,
    bytes: u64,
    uses: u64,
    /// Bytes of all that was ever kept.
    came: u64,
}

pub(super) struct KeptBlock {
    plaintext: SharedBytes,
    len: u64,
    /// Whether it is likely to be used again, and when it was used last.
    place: (Stays, u64),
    /// What had come by then.
    came: u64,
    /// How many of the uses that were announced are still to come.
    awaited: u32,
}

/// Whether a block is likely to be used again; what is not goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stays {
    Unlikely,
    Likely,
}

impl Kept {
    pub(super) fn insert(&mut self, number: u32, len: u64, plaintext: SharedBytes) {
        self.remove(number);
        let place = self.now();
        let block = KeptBlock {
            plaintext,
            len,
            place,
            came: self.came,
            awaited: 0,
        };
        self.blocks.insert(number, block);
        self.order.insert(place, number);
        self.bytes += len;
        self.came += len;
    }

    pub(super) fn get(&mut self, number: u32) -> Option<SharedBytes> {
        let place = self.now();
        let block = self.blocks.get_mut(&number)?;
        block.came = self.came;
        let plaintext = block.plaintext.clone();
        self.put(number, place);
        Some(plaintext)
    }

    /// Takes note of a use that is to come.
    pub(super) fn announce(&mut self, number: u32) {
        if let Some(block) = self.blocks.get_mut(&number) {
            block.awaited = block.awaited.saturating_add(1);
        }
    }

    /// Takes note of a use. After the last that was announced a block is behind whoever reads.
    pub(super) fn used_once(&mut self, number: u32) {
        let Some(block) = self.blocks.get_mut(&number).filter(|block| block.awaited > 0) else {
            return;
        };
        block.awaited -= 1;
        if block.awaited == 0 {
            let (_, used) = block.place;
            self.put(number, (Stays::Unlikely, used));
        }
    }

    fn now(&mut self) -> (Stays, u64) {
        self.uses += 1;
        (Stays::Likely, self.uses)
    }

    fn put(&mut self, number: u32, place: (Stays, u64)) {
        if let Some(block) = self.blocks.get_mut(&number) {
            self.order.remove(&block.place);
            block.place = place;
            self.order.insert(place, number);
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        if let Some(block) = self.blocks.remove(&number) {
            self.order.remove(&block.place);
            self.bytes -= block.len;
        }
    }

    /// Lets blocks go until the rest has room. Whoever waits for one has a handle of its own.
    pub(super) fn shrink(&mut self, max: u64) {
        while self.bytes > max
            && self.order.len() > 1
            && let Some(number) = self.next_to_go(max)
        {
            self.remove(number);
        }
    }

    fn next_to_go(&self, max: u64) -> Option<u32> {
        let likely = self.order.range((Stays::Likely, 0)..).next();
        let is_old = |number: &&u32| {
            let block = self.blocks.get(number);
            block.is_some_and(|block| self.came - block.came > max)
        };
        let old = likely.map(|(_, number)| number).filter(is_old);
        old.or(self.order.values().next()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::FutureExt;

    fn block() -> SharedBytes {
        futures::future::ready(Ok(Bytes::new())).boxed().shared()
    }

    #[test]
    fn what_is_used_again_and_again_outlives_what_is_read_ahead() {
        let mut kept = Kept::default();
        for number in 0..100 {
            kept.insert(number, 10, block());
            // A block of deltas that each chunk needs.
            assert!(kept.get(0).is_some(), "after block {number}");
            kept.shrink(30);
        }
        assert_eq!(kept.bytes, 30);
        let left: Vec<bool> = [0, 1, 97, 98, 99].map(|number| kept.get(number).is_some()).into();
        assert_eq!(left, [true, false, false, true, true]);
        for number in [0, 98, 99, 99] {
            kept.remove(number);
        }
        assert!(kept.bytes == 0 && kept.order.is_empty());
    }

    #[test]
    fn what_was_used_as_often_as_was_announced_goes_before_what_is_ahead() {
        let mut kept = Kept::default();
        for number in 0..4 {
            kept.insert(number, 10, block());
            kept.announce(number);
            kept.announce(number);
        }
        // The first is used twice, the second once, and both are touched last.
        for number in [0, 0, 1] {
            assert!(kept.get(number).is_some());
            kept.used_once(number);
        }
        kept.shrink(30);
        let left = |kept: &Kept| -> Vec<u32> { (0..4).filter(|n| kept.blocks.contains_key(n)).collect() };
        assert_eq!(left(&kept), [1, 2, 3]);
        kept.shrink(20);
        assert_eq!(
            left(&kept),
            [1, 3],
            "of the rest that which was not used for longest"
        );
        // Uses that nobody announced say nothing of the next.
        kept.insert(4, 10, block());
        kept.used_once(4);
        kept.shrink(20);
        assert_eq!(left(&kept), [1]);
        assert!(kept.blocks.contains_key(&4) && kept.order.len() == 2 && kept.bytes == 20);
    }

    #[test]
    fn what_nobody_came_for_does_not_stay_in_place_of_what_is_read() {
        let mut kept = Kept::default();
        for number in 0..3 {
            kept.insert(number, 10, block());
            kept.announce(number);
        }
        for number in 3..20 {
            kept.insert(number, 10, block());
            kept.announce(number);
            kept.used_once(number);
            kept.shrink(40);
        }
        let mut left: Vec<u32> = kept.blocks.keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, [16, 17, 18, 19]);
    }
}
