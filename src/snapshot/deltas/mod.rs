//! New chunks of a changed entry, as deltas against the parent's chunks of the same entry, or of its group.
//!
//! Which chunk is the base follows from where both lie; where what lies there is not alike, from what both hold.

mod before;
mod similar;

use super::content::Named;
use super::entry::{EntryRecord, Key};
use super::tree::content_refs;
use crate::chunk::Sketch;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::entry::BlobRef;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::format::layout::ObjectName;
use crate::repository::{Bases, BlobReader, Delta, make_delta};
pub(super) use before::Before;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
pub(super) use similar::Similar;
use similar::{Around, SHARED_ENOUGH};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

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
    /// Bytes that were or will be fetched for bases.
    planned: Arc<Mutex<u64>>,
    /// A base and the codec's tables take memory outside the budget: so many at once, over all contents in work.
    jobs: Arc<Semaphore>,
    /// Set when the store does not give bases: it is not asked for each chunk again.
    off: Arc<AtomicBool>,
    told: Arc<AtomicBool>,
}

/// A chunk of the parent, and the offset where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    offset: u64,
    reference: BlobRef,
}

/// A chunk that may become a delta.
pub(super) struct Wanted {
    chunk: (usize, usize),
    id: BlobId,
    plain: Bytes,
    /// Where it begins.
    at: u64,
    /// Where that lies in the parent, as far as is known.
    expected: u64,
    /// The parent's chunk at its place.
    near: Option<Placed>,
}

/// A chunk and what lies at its place in the parent, compared.
pub(super) struct Compared {
    wanted: Wanted,
    /// What lies at its place, sketched.
    seen: Option<(Placed, Sketch)>,
    next: Next,
}

enum Next {
    /// Nothing but this.
    Made(Made),
    /// To be looked for by this sketch; what lies at its place shares so many features.
    Search(Sketch, usize),
}

/// What became of a chunk that was wanted.
pub(super) struct Made {
    /// The number of its entry, and its own.
    pub(super) chunk: (usize, usize),
    /// Nothing if it is stored whole after all.
    pub(super) delta: Option<Delta>,
    /// Whether something like it was found, as far as that was tried.
    alike: Option<bool>,
    /// The offsets where it and its base begin, if that was found by what it holds.
    moved: Option<(u64, u64)>,
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

    /// Which of these bases may be read: what is at hand always, the rest as far as the policy allows it to be fetched.
    fn admit(&self, ids: &[BlobId]) -> Vec<bool> {
        let off = self.off.load(Ordering::Relaxed);
        let Ok(mut planned) = self.planned.lock() else {
            return vec![false; ids.len()];
        };
        let mut counted = HashSet::new();
        let admit = |id: &BlobId| {
            if off || self.policy == DeltaPolicy::FetchUpTo(u64::MAX) {
                return !off;
            }
            // More than is asked for may come with it.
            let before = self.blobs.content_fetched().max(*planned);
            let mut with_it = counted.clone();
            let Ok(cost) = self.blobs.cost(id, &mut with_it) else {
                return false;
            };
            let allowed = match self.policy {
                _ if cost == 0 => true,
                DeltaPolicy::Off => false,
                DeltaPolicy::FetchUpTo(max) => before.saturating_add(cost) <= max,
                DeltaPolicy::FetchAsUploaded => before <= self.bases.bytes_uploaded(),
            };
            if allowed {
                counted = with_it;
                *planned = before.saturating_add(cost);
            }
            allowed
        };
        ids.iter().map(admit).collect()
    }

    /// What the parent has under the key of an entry.
    pub(super) fn before(&self, record: &EntryRecord) -> Before {
        Before::new(content_refs(Arc::new(self.blobs.clone()), record))
    }

    /// The parent's chunks of an entry, by what they hold.
    pub(super) fn similar(&self, record: &EntryRecord) -> Similar {
        Similar::of_entry(content_refs(Arc::new(self.blobs.clone()), record))
    }

    /// Chooses those of the next chunks of a numbered entry's content for which a delta is worth it; `searched` says that bases are found by
    /// what they hold too.
    pub(super) async fn plan(
        &self,
        (entry, chunks): (usize, &[Named]),
        mut before: Option<&mut Before>,
        searched: bool,
    ) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (number, chunk) in chunks.iter().enumerate() {
            let (mut near, mut at, mut expected, mut tried) = (None, 0, 0, true);
            if let Some(before) = before.as_deref_mut() {
                (at, expected) = (before.at(), before.expected());
                near = before.base_of(&chunk.id, chunk.bytes.len() as u64).await;
                tried = before.is_tried();
            }
            if tried && (searched || near.is_some()) && !self.bases.has(&chunk.id) {
                wanted.push(Wanted {
                    chunk: (entry, number),
                    id: chunk.id,
                    plain: chunk.bytes.clone(),
                    at,
                    expected,
                    near,
                });
            }
        }
        wanted
    }

    /// Compares chunks with what lies at their places, and makes their deltas where that serves; in order.
    pub(super) async fn compare(&self, mut wanted: Vec<Wanted>, searched: bool) -> Vec<Compared> {
        let near: Vec<BlobId> = wanted
            .iter()
            .map(|one| one.near.map_or(BlobId::HOLE, |near| near.reference.id))
            .collect();
        for (one, admitted) in wanted.iter_mut().zip(self.admit(&near)) {
            one.near = one.near.filter(|_| admitted);
        }
        wanted.retain(|one| searched || one.near.is_some());
        if wanted.is_empty() {
            return Vec::new();
        }
        let near = wanted.iter().filter_map(|one| one.near);
        let ids: Vec<BlobId> = near.map(|near| near.reference.id).collect();
        // Errors come back where each base is read.
        let _asked = self.blobs.prefetch(&ids);
        let jobs = stream::iter(wanted).map(|one| self.compare_one(one, searched));
        jobs.buffered(self.context.cpu.threads() + 1).collect().await
    }

    async fn compare_one(&self, wanted: Wanted, searched: bool) -> Compared {
        let whole = |wanted: Wanted, seen, alike| {
            let (chunk, delta, moved) = (wanted.chunk, None, None);
            let next = Next::Made(Made {
                chunk,
                delta,
                alike,
                moved,
            });
            Compared { wanted, seen, next }
        };
        let Ok(_permit) = self.jobs.acquire().await else {
            return whole(wanted, None, None);
        };
        let room = |near: Placed| {
            self.bases
                .room(&wanted.id, wanted.plain.len(), &near.reference.id)
        };
        let (near, room) = (wanted.near, wanted.near.and_then(room));
        // Where nothing is looked for, a base that must not be used need not be read.
        let near = near.filter(|_| searched || room.is_some());
        let content = match near {
            Some(near) => self.base(&near.reference.id).await,
            None => None,
        };
        let (ours, theirs) = (wanted.plain.clone(), content.clone());
        let sketch = move || (Sketch::of(&ours), theirs.as_deref().map(Sketch::of));
        let sketched = if searched {
            self.context.cpu.run(sketch).await
        } else {
            Ok((Sketch::default(), None))
        };
        let Ok((sketch, theirs)) = sketched else {
            return whole(wanted, None, None);
        };
        let seen = near.zip(theirs);
        let shared = theirs.map_or(0, |theirs| sketch.shared(&theirs));
        let is_telling = sketch.is_telling() && theirs.is_none_or(|theirs| theirs.is_telling());
        if searched && is_telling && shared < SHARED_ENOUGH {
            let next = Next::Search(sketch, shared);
            return Compared { wanted, seen, next };
        }
        let Some((near, content)) = near.zip(content).filter(|_| room.is_some()) else {
            return whole(wanted, seen, None);
        };
        let delta = self.delta(&wanted, (near.reference.id, content)).await;
        let next = Next::Made(Made {
            chunk: wanted.chunk,
            // A long one may only mean that the chain is at its end.
            alike: (delta.is_some() || !is_telling).then_some(delta.is_some()),
            delta,
            moved: None,
        });
        Compared { wanted, seen, next }
    }

    /// Looks for bases of those chunks that have none yet, in order, and makes their deltas. Gives what became of each.
    pub(super) async fn search(
        &self,
        compared: Vec<Compared>,
        similar: &mut Similar,
        key: &Key,
    ) -> Vec<Made> {
        let mut found = Vec::with_capacity(compared.len());
        for Compared { wanted, seen, next } in compared {
            if let Some((placed, sketch)) = seen {
                similar.note(placed, sketch);
            }
            let (sketch, shared) = match next {
                Next::Search(sketch, shared) => (sketch, shared),
                Next::Made(made) => {
                    found.push(Ok(made));
                    continue;
                }
            };
            let offset = wanted.expected;
            let base = similar.search(self, &sketch, Around { key, offset }).await;
            let base = base.filter(|(better, _)| *better > shared);
            let moved = base.map(|(_, base)| (wanted.at, base.offset));
            let base = base.map(|(_, base)| base).or(wanted.near.filter(|_| shared > 0));
            let base = base.filter(|base| self.admit(&[base.reference.id]) == [true]);
            found.push(Err((wanted, base, moved)));
        }
        let jobs = stream::iter(found).map(|one| async move {
            match one {
                Ok(made) => made,
                Err((wanted, base, moved)) => self.rest_on(wanted, base, moved).await,
            }
        });
        jobs.buffered(self.context.cpu.threads() + 1).collect().await
    }

    /// The delta of a chunk on a base that was found for it.
    async fn rest_on(&self, wanted: Wanted, base: Option<Placed>, moved: Option<(u64, u64)>) -> Made {
        let mut made = Made {
            chunk: wanted.chunk,
            delta: None,
            alike: Some(base.is_some()),
            moved,
        };
        let Ok(_permit) = self.jobs.acquire().await else {
            return made;
        };
        let Some(id) = base.map(|base| base.reference.id) else {
            return made;
        };
        if self.bases.room(&wanted.id, wanted.plain.len(), &id).is_some()
            && let Some(content) = self.base(&id).await
        {
            made.delta = self.delta(&wanted, (id, content)).await;
        }
        made
    }

    /// Reads and sketches chunks of the parent; nothing once no more may be fetched.
    async fn sketch_all(&self, placed: Vec<Placed>) -> Option<Vec<(Placed, Sketch)>> {
        let ids: Vec<BlobId> = placed.iter().map(|one| one.reference.id).collect();
        if self.admit(&ids).contains(&false) {
            return None;
        }
        let _asked = self.blobs.prefetch(&ids);
        let sketched = stream::iter(placed).map(|one| async move {
            let _permit = self.jobs.acquire().await.ok()?;
            let content = self.base(&one.reference.id).await?;
            let sketch = self.context.cpu.run(move || Sketch::of(&content)).await.ok()?;
            Some((one, sketch))
        });
        let sketched = sketched.buffered(self.context.cpu.threads() + 1);
        Some(sketched.filter_map(futures::future::ready).collect().await)
    }

    /// The plaintext of a base; nothing if it cannot be had, which is told once.
    async fn base(&self, id: &BlobId) -> Option<Bytes> {
        if self.off.load(Ordering::Relaxed) {
            return None;
        }
        self.told(self.blobs.get(BlobKind::Data, id).await)
    }

    async fn delta(&self, wanted: &Wanted, (base, content): (BlobId, Bytes)) -> Option<Delta> {
        if !self.is_sound(&base).await {
            return None;
        }
        let room = self.bases.room(&wanted.id, wanted.plain.len(), &base)?;
        let plain = wanted.plain.clone();
        let make = move || make_delta(&plain, &content, room);
        let made = self.context.cpu.run(make).await.flatten();
        let bytes = self.told(made)??.into();
        Some(Delta { base, bytes })
    }

    /// Whether a base whose content is at hand can be rested on: the packs of its chain are in the store, and nothing of what it
    /// rests on was found to be damaged. Content from a cache proves neither, and what is new must not be lost with what is old.
    async fn is_sound(&self, base: &BlobId) -> bool {
        let there = self.told(self.bases.are_there(base).await);
        if let Some(pack) = self.bases.lost() {
            let text = "a pack that snapshots rest on is missing from the store";
            let error = Error::new(ErrorKind::Damaged, text).with("object", ObjectName::Pack(pack));
            self.told::<()>(Err(error));
        }
        there == Some(true) && self.blobs.blame(base).is_empty()
    }

    /// Goes on without what failed, and tells so once.
    fn told<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if !matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Internal) {
                    self.off.store(true, Ordering::Relaxed);
                }
                if !self.told.swap(true, Ordering::Relaxed) {
                    let then = if error.kind() == ErrorKind::Damaged {
                        "; run `holdall check`, then `holdall snapshot` again"
                    } else {
                        ""
                    };
                    let text = format!(
                        "changed content is stored whole where no delta could be made: {error}{then}"
                    );
                    self.context.emit(&Event::Note { text });
                }
                None
            }
        }
    }
}

impl Compared {
    /// What became of a chunk for which nothing is looked for.
    pub(super) fn settled(self) -> Option<Made> {
        match self.next {
            Next::Made(made) => Some(made),
            Next::Search(..) => None,
        }
    }
}

impl Before {
    /// Takes note of what became of its chunks.
    pub(super) fn take_note(&mut self, made: &Made) {
        if let Some(alike) = made.alike {
            self.learn(alike);
        }
        if let Some((at, offset)) = made.moved {
            self.found(at, offset);
        }
    }
}
