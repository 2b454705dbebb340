//! The parent's content of one entry, walked beside the new one: content that was changed here and there keeps its chunks in place, and
//! a chunk that is found again says by how much what follows was moved.

use super::Placed;
use crate::error::Result;
use crate::format::entry::BlobRef;
use crate::format::id::BlobId;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::VecDeque;

/// References of the parent's content that are looked at around a chunk.
const WINDOW: usize = 64;
/// Chunks in a row without a delta after which as many are not tried, doubled each time: content that was replaced is not read twice.
const MISSES_MAX: u32 = 4;

/// The parent's content of one entry, walked beside the new one.
pub(in crate::snapshot) struct Before {
    refs: BoxStream<'static, Result<BlobRef>>,
    /// References around the place that is looked at, with their offsets.
    window: VecDeque<Placed>,
    /// The offset after the last of them.
    read_to: u64,
    /// The offset in the new content.
    at: u64,
    /// By how much the parent's offsets are ahead of the new ones.
    moved_by: i64,
    misses: u32,
    pause: u32,
}

impl Before {
    pub(super) fn new(refs: BoxStream<'static, Result<BlobRef>>) -> Self {
        Self {
            refs,
            window: VecDeque::new(),
            read_to: 0,
            at: 0,
            moved_by: 0,
            misses: 0,
            pause: 0,
        }
    }

    /// Passes over a hole in the new content.
    pub(in crate::snapshot) fn skip(&mut self, bytes: u64) {
        self.at = self.at.saturating_add(bytes);
    }

    /// Whether the next chunk is to be tried, counted.
    pub(super) fn is_tried(&mut self) -> bool {
        let tried = self.pause == 0;
        self.pause = self.pause.saturating_sub(1);
        tried
    }

    /// The offset in the new content where the next chunk begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The offset in the parent's content where that lies, as far as is known.
    pub(super) fn expected(&self) -> u64 {
        self.at.saturating_add_signed(self.moved_by)
    }

    /// The parent's chunk that lies where the next chunk of the new content does; nothing if the parent has the chunk itself, or nothing
    /// there.
    pub(super) async fn base_of(&mut self, id: &BlobId, len: u64) -> Option<Placed> {
        let start = self.expected();
        let (now, wanted_end) = (self.at, start.saturating_add(len));
        self.at = self.at.saturating_add(len);
        self.read_until(wanted_end).await;
        if let Some(found) = self.window.iter().find(|part| part.reference.id == *id) {
            let offset = found.offset;
            self.found(now, offset);
            return None;
        }
        let overlap = |part: &Placed| {
            let end = wanted_end.min(part.offset.saturating_add(part.reference.len));
            end.saturating_sub(start.max(part.offset))
        };
        let chunks = self.window.iter().filter(|part| !part.reference.is_hole());
        // Beyond the end of the parent's content its last chunk is as near as any.
        let best = chunks.max_by_key(|part| (overlap(part), part.offset))?;
        (overlap(best) > 0 || start >= self.read_to).then_some(*best)
    }

    /// Takes note that what begins at `at` lies at `offset` in the parent. Lengths in a parent may be anything: a wrong distance costs
    /// deltas, nothing else.
    pub(super) fn found(&mut self, at: u64, offset: u64) {
        self.moved_by = offset.cast_signed().wrapping_sub(at.cast_signed());
    }

    /// Moves the window on until it covers `offset`, and half of itself beyond.
    async fn read_until(&mut self, offset: u64) {
        loop {
            let beyond = self.window.iter().filter(|part| part.offset >= offset).count();
            if self.read_to > offset && beyond >= WINDOW / 2 {
                return;
            }
            // A parent that cannot be read ends here: what follows is stored whole.
            let Some(Ok(reference)) = self.refs.next().await else {
                return;
            };
            let offset = self.read_to;
            self.window.push_back(Placed { offset, reference });
            self.read_to = self.read_to.saturating_add(reference.len);
            if self.window.len() > WINDOW {
                self.window.pop_front();
            }
        }
    }

    /// Takes note of whether a chunk became a delta.
    pub(in crate::snapshot) fn learn(&mut self, found: bool) {
        if found {
            self.misses = 0;
            return;
        }
        self.misses += 1;
        if self.misses >= MISSES_MAX {
            self.pause = self.misses.next_power_of_two();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn before(refs: Vec<BlobRef>) -> Before {
        Before::new(stream::iter(refs.into_iter().map(Ok)).boxed())
    }

    fn reference(n: u32, len: u64) -> BlobRef {
        let mut id = [1; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        BlobRef { id: BlobId(id), len }
    }

    async fn base_of(parent: &mut Before, id: &BlobId, len: u64) -> Option<BlobRef> {
        parent.base_of(id, len).await.map(|placed| placed.reference)
    }

    #[tokio::test]
    async fn a_changed_chunk_rests_on_what_lay_in_its_place() {
        let mut parent = before((0..1000).map(|n| reference(n, 100)).collect());
        let other = reference(9_999_999, 1).id;
        for n in 0..1000 {
            let base = base_of(&mut parent, &other, if n % 2 == 0 { 99 } else { 101 }).await;
            assert_eq!(base, Some(reference(n, 100)), "chunk {n}");
        }
    }

    #[tokio::test]
    async fn a_chunk_that_is_found_again_tells_how_far_the_rest_was_moved() {
        let mut parent = before((0..100).map(|n| reference(n, 100)).collect());
        let other = reference(9_999_999, 1).id;
        // 1,000 bytes were inserted before chunk 5.
        for n in 0..5 {
            assert_eq!(base_of(&mut parent, &reference(n, 100).id, 100).await, None);
        }
        for _ in 0..10 {
            base_of(&mut parent, &other, 100).await;
        }
        assert_eq!(base_of(&mut parent, &reference(5, 100).id, 100).await, None);
        assert_eq!(base_of(&mut parent, &other, 100).await, Some(reference(6, 100)));
    }

    #[test]
    fn replaced_content_is_tried_less_and_less() {
        let mut parent = before(Vec::new());
        for _ in 0..3 {
            parent.learn(false);
        }
        assert_eq!(parent.pause, 0);
        parent.learn(false);
        assert_eq!(parent.pause, 4);
        parent.learn(false);
        assert_eq!(parent.pause, 8);
        parent.learn(true);
        parent.learn(false);
        assert_eq!((parent.misses, parent.pause), (1, 8));
    }
}
