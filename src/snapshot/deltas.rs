//! New chunks of a changed entry, as deltas against the parent's chunks of the same entry.
//!
//! Which chunk is the base follows from where both lie: content that was changed here and there keeps its chunks in place, and a chunk
//! that is found again says by how much what follows was moved.

use super::content::Named;
use super::entry::EntryRecord;
use super::tree::content_refs;
use crate::context::Context;
use crate::error::Result;
use crate::event::Event;
use crate::format::entry::BlobRef;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::repository::{Bases, BlobReader, Delta, make_delta};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Reads nothing but bases, so that its count of bytes is theirs.
    blobs: BlobReader,
    policy: DeltaPolicy,
    told: Arc<AtomicBool>,
}

impl Deltas {
    /// Deltas against `bases`, which are read by `blobs`.
    pub(super) fn new(context: &Context, bases: Bases, blobs: BlobReader, policy: DeltaPolicy) -> Self {
        Self {
            context: context.clone(),
            bases,
            blobs,
            policy,
            told: Arc::default(),
        }
    }

    fn may_fetch(&self) -> bool {
        let fetched = self.blobs.bytes_fetched();
        match self.policy {
            DeltaPolicy::Off => false,
            DeltaPolicy::FetchUpTo(max) => fetched < max,
            DeltaPolicy::FetchAsUploaded => fetched <= self.bases.bytes_uploaded(),
        }
    }

    /// What the parent has under the key of an entry.
    pub(super) fn before(&self, record: &EntryRecord) -> Before {
        Before {
            refs: content_refs(Arc::new(self.blobs.clone()), record),
            window: VecDeque::new(),
            read_to: 0,
            at: 0,
            moved_by: 0,
            misses: 0,
            pause: 0,
        }
    }

    /// Makes deltas of the next chunks of an entry's content, where they are worth it. What fails is stored whole.
    pub(super) async fn encode(&self, chunks: &mut [Named], before: &mut Before) {
        let mut wanted = Vec::new();
        for (number, chunk) in chunks.iter().enumerate() {
            let (id, plain) = (chunk.id, chunk.bytes.len());
            let base = before.base_of(&id, plain as u64).await;
            if before.pause > 0 {
                before.pause -= 1;
                continue;
            }
            let Some(base) = base.filter(|_| !self.bases.has(&id)) else {
                continue;
            };
            if let Some(room) = self.bases.room(&id, plain, &base) {
                wanted.push((number, base, chunk.bytes.clone(), room));
            }
        }
        if wanted.is_empty() || !self.may_fetch() {
            return;
        }
        let ids: Vec<BlobId> = wanted.iter().map(|(_, base, ..)| *base).collect();
        // Errors come back where each base is read.
        let _asked = self.blobs.prefetch(&ids);
        let jobs = stream::iter(wanted).map(|(number, base, plain, room)| async move {
            let delta = self.delta(base, plain, room).await.unwrap_or_else(|error| {
                if !self.told.swap(true, Ordering::Relaxed) {
                    let text = format!(
                        "part of the parent snapshot cannot be read ({error}); what changed there is stored whole; `holdall check` tells more"
                    );
                    self.context.emit(&Event::Note { text });
                }
                None
            });
            (number, delta)
        });
        let mut done = jobs.buffered(self.context.cpu.threads() + 1);
        while let Some((number, delta)) = done.next().await {
            before.learn(delta.is_some());
            if let Some(chunk) = chunks.get_mut(number) {
                chunk.delta = delta;
            }
        }
    }

    async fn delta(&self, base: BlobId, plain: bytes::Bytes, room: usize) -> Result<Option<Delta>> {
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
    /// The parent's chunk that lies where the next chunk of the new content does; nothing if the parent has the chunk itself.
    async fn base_of(&mut self, id: &BlobId, len: u64) -> Option<BlobId> {
        let start = self.at.saturating_add_signed(self.moved_by);
        self.at += len;
        self.read_until(start + len).await;
        if let Some((offset, _)) = self.window.iter().find(|(_, r)| r.id == *id) {
            self.moved_by = offset.cast_signed() - (self.at - len).cast_signed();
            return None;
        }
        let overlap = |(offset, r): &&(u64, BlobRef)| {
            let end = (start + len).min(offset + r.len);
            end.saturating_sub(start.max(*offset))
        };
        let chunks = self.window.iter().filter(|(_, r)| !r.is_hole());
        // Beyond the end of the parent's content its last chunk is as near as any.
        let best = chunks.max_by_key(|part| (overlap(part), part.0))?;
        Some(best.1.id)
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
            self.read_to += reference.len;
            if self.window.len() > WINDOW {
                self.window.pop_front();
            }
        }
    }

    fn learn(&mut self, found: bool) {
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
        Before {
            refs: stream::iter(refs.into_iter().map(Ok)).boxed(),
            window: VecDeque::new(),
            read_to: 0,
            at: 0,
            moved_by: 0,
            misses: 0,
            pause: 0,
        }
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
            assert_eq!(base, Some(reference(n, 100).id), "chunk {n}");
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
        assert_eq!(parent.base_of(&other, 100).await, Some(reference(6, 100).id));
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
