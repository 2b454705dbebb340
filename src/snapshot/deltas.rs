//! New chunks of a changed entry, as deltas against the parent's chunks of the same entry.
//!
//! Which chunk is the base follows from where both lie: content that was changed here and there keeps its chunks in place, and a chunk
//! that is found again says by how much what follows was moved.

use super::content::Named;
use super::entry::EntryRecord;
use super::tree::content_refs;
use crate::context::Context;
use crate::error::{ErrorKind, Result};
use crate::event::Event;
use crate::format::entry::BlobRef;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::repository::{Bases, BlobReader, Delta, make_delta};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// References of the parent's content that are looked at around a chunk.
const WINDOW: usize = 64;
/// Chunks in a row without a delta after which as many are not tried, doubled each time: content that was replaced is not read twice.
const MISSES_MAX: u32 = 4;

/// How much of the parent may be fetched for deltas: bases cost time on a slow line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaPolicy {
    /// No deltas: every new chunk is stored whole.
    Off,
    /// So many bytes; beyond it chunks are stored whole.
    FetchUpTo(u64),
    /// As much as the run has uploaded.
    FetchAsUploaded,
}

impl Default for DeltaPolicy {
    /// Without a limit: what a store costs that is not on this machine, whoever opens it knows.
    fn default() -> Self {
        Self::FetchUpTo(u64::MAX)
    }
}

/// Makes deltas for one snapshot; cheap to clone.
#[derive(Clone)]
pub(super) struct Deltas {
    context: Context,
    bases: Bases,
    blobs: BlobReader,
    policy: DeltaPolicy,
    /// Bytes of bases that were asked for.
    planned: Arc<AtomicU64>,
    /// A base and the codec's tables take memory outside the budget: so many at once, over all contents in work.
    jobs: Arc<Semaphore>,
    /// Set when the store does not give bases: it is not asked for each chunk again.
    off: Arc<AtomicBool>,
    told: Arc<AtomicBool>,
}

/// A chunk that may become a delta.
pub(super) struct Wanted {
    chunk: usize,
    base: BlobId,
    plain: Bytes,
    room: usize,
}

impl Deltas {
    /// Deltas against `bases`, which are read by `blobs`.
    pub(super) fn new(context: &Context, bases: Bases, blobs: BlobReader, policy: DeltaPolicy) -> Self {
        Self {
            context: context.clone(),
            bases,
            blobs,
            policy,
            planned: Arc::default(),
            jobs: Arc::new(Semaphore::new(context.cpu.threads() + 1)),
            off: Arc::default(),
            told: Arc::default(),
        }
    }

    /// Whether the policy allows a base of so many bytes more.
    fn may_fetch(&self, bytes: u64) -> bool {
        let planned = self.planned.load(Ordering::Relaxed);
        let allowed = match self.policy {
            DeltaPolicy::Off => return false,
            DeltaPolicy::FetchUpTo(max) => planned.saturating_add(bytes) <= max,
            DeltaPolicy::FetchAsUploaded => planned <= self.bases.bytes_uploaded(),
        };
        if allowed {
            self.planned.fetch_add(bytes, Ordering::Relaxed);
        }
        allowed && !self.off.load(Ordering::Relaxed)
    }

    /// What the parent has under the key of an entry.
    pub(super) fn before(&self, record: &EntryRecord) -> Before {
        Before::new(content_refs(Arc::new(self.blobs.clone()), record))
    }

    /// Chooses a base for each of the next chunks of an entry's content for which it is worth it.
    pub(super) async fn plan(&self, chunks: &[Named], before: &mut Before) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (number, chunk) in chunks.iter().enumerate() {
            let base = before.base_of(&chunk.id, chunk.bytes.len() as u64).await;
            if before.pause > 0 {
                before.pause -= 1;
                continue;
            }
            let Some(base) = base.filter(|_| !self.bases.has(&chunk.id)) else {
                continue;
            };
            let room = self.bases.room(&chunk.id, chunk.bytes.len(), &base.id);
            if let Some(room) = room.filter(|_| self.may_fetch(base.len)) {
                wanted.push(Wanted {
                    chunk: number,
                    base: base.id,
                    plain: chunk.bytes.clone(),
                    room,
                });
            }
        }
        wanted
    }

    /// Makes the deltas that were planned, in order: for each its chunk's number, and nothing where it is stored whole after all.
    pub(super) async fn make(&self, wanted: Vec<Wanted>) -> Vec<(usize, Option<Delta>)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let ids: Vec<BlobId> = wanted.iter().map(|one| one.base).collect();
        // Errors come back where each base is read.
        let _asked = self.blobs.prefetch(&ids);
        let jobs = stream::iter(wanted).map(|one| async move {
            let chunk = one.chunk;
            (chunk, self.try_one(one).await)
        });
        jobs.buffered(self.context.cpu.threads() + 1).collect().await
    }

    async fn try_one(&self, one: Wanted) -> Option<Delta> {
        let _permit = self.jobs.acquire().await.ok()?;
        if self.off.load(Ordering::Relaxed) {
            return None;
        }
        match self.delta(one).await {
            Ok(delta) => delta,
            Err(error) => {
                if !matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Internal) {
                    self.off.store(true, Ordering::Relaxed);
                }
                if !self.told.swap(true, Ordering::Relaxed) {
                    let text =
                        format!("changed content is stored whole where no delta could be made: {error}");
                    self.context.emit(&Event::Note { text });
                }
                None
            }
        }
    }

    async fn delta(&self, one: Wanted) -> Result<Option<Delta>> {
        let Wanted {
            base, plain, room, ..
        } = one;
        let content = self.blobs.get(BlobKind::Data, &base).await?;
        let make = move || make_delta(&plain, &content, room);
        let delta = self.context.cpu.run(make).await??;
        Ok(delta.map(|bytes| Delta {
            base,
            bytes: bytes.into(),
        }))
    }
}

/// The parent's content of one entry, walked beside the new one.
pub(super) struct Before {
    refs: BoxStream<'static, Result<BlobRef>>,
    /// References around the place that is looked at, with their offsets.
    window: VecDeque<(u64, BlobRef)>,
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
    fn new(refs: BoxStream<'static, Result<BlobRef>>) -> Self {
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
    pub(super) fn skip(&mut self, bytes: u64) {
        self.at = self.at.saturating_add(bytes);
    }

    /// The parent's chunk that lies where the next chunk of the new content does; nothing if the parent has the chunk itself.
    async fn base_of(&mut self, id: &BlobId, len: u64) -> Option<BlobRef> {
        let start = self.at.saturating_add_signed(self.moved_by);
        let (now, wanted_end) = (self.at, start.saturating_add(len));
        self.at = self.at.saturating_add(len);
        self.read_until(wanted_end).await;
        if let Some((offset, _)) = self.window.iter().find(|(_, r)| r.id == *id) {
            // Lengths in a parent may be anything; a wrong distance costs deltas, nothing else.
            self.moved_by = offset.cast_signed().wrapping_sub(now.cast_signed());
            return None;
        }
        let overlap = |(offset, r): &&(u64, BlobRef)| {
            let end = wanted_end.min(offset.saturating_add(r.len));
            end.saturating_sub(start.max(*offset))
        };
        let chunks = self.window.iter().filter(|(_, r)| !r.is_hole());
        // Beyond the end of the parent's content its last chunk is as near as any.
        let best = chunks.max_by_key(|part| (overlap(part), part.0))?;
        Some(best.1)
    }

    /// Moves the window on until it covers `offset`, and half of itself beyond.
    async fn read_until(&mut self, offset: u64) {
        loop {
            let beyond = self.window.iter().filter(|(start, _)| *start >= offset).count();
            if self.read_to > offset && beyond >= WINDOW / 2 {
                return;
            }
            // A parent that cannot be read ends here: what follows is stored whole.
            let Some(Ok(reference)) = self.refs.next().await else {
                return;
            };
            self.window.push_back((self.read_to, reference));
            self.read_to = self.read_to.saturating_add(reference.len);
            if self.window.len() > WINDOW {
                self.window.pop_front();
            }
        }
    }

    /// Takes note of whether a chunk became a delta.
    pub(super) fn learn(&mut self, found: bool) {
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

    fn before(refs: Vec<BlobRef>) -> Before {
        Before::new(stream::iter(refs.into_iter().map(Ok)).boxed())
    }

    fn reference(n: u32, len: u64) -> BlobRef {
        let mut id = [1; 32];
        id[..4].copy_from_slice(&n.to_le_bytes());
        BlobRef { id: BlobId(id), len }
    }

    #[tokio::test]
    async fn a_changed_chunk_rests_on_what_lay_in_its_place() {
        let mut parent = before((0..1000).map(|n| reference(n, 100)).collect());
        let other = reference(9_999_999, 1).id;
        for n in 0..1000 {
            let base = parent.base_of(&other, if n % 2 == 0 { 99 } else { 101 }).await;
            assert_eq!(base, Some(reference(n, 100)), "chunk {n}");
        }
    }

    #[tokio::test]
    async fn a_chunk_that_is_found_again_tells_how_far_the_rest_was_moved() {
        let mut parent = before((0..100).map(|n| reference(n, 100)).collect());
        let other = reference(9_999_999, 1).id;
        // 1,000 bytes were inserted before chunk 5.
        for n in 0..5 {
            assert_eq!(parent.base_of(&reference(n, 100).id, 100).await, None);
        }
        for _ in 0..10 {
            parent.base_of(&other, 100).await;
        }
        assert_eq!(parent.base_of(&reference(5, 100).id, 100).await, None);
        assert_eq!(parent.base_of(&other, 100).await, Some(reference(6, 100)));
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
