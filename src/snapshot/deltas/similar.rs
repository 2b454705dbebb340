//! The parent's chunks by what they hold, where their place does not tell: rows that a rewrite moved into other segments, a stream
//! with something new in front.
//!
//! The parent's chunks are read ahead in their order, a few for each chunk that finds no base, sketched and let go again. What was
//! sketched is kept for a while and found by its features.

use super::{Deltas, Placed};
use crate::chunk::Sketch;
use crate::error::Result;
use crate::format::entry::{BlobRef, EntryKind, Key};
use crate::format::id::BlobId;
use crate::snapshot::tree::{TreeReader, content_refs};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::collections::{HashMap, HashSet, VecDeque};

/// Chunks of the parent that are kept sketched: about 4 GB of content, in about 8 MB.
const KNOWN_MAX: usize = 16_384;
/// Chunks that are remembered for one feature: one that many have tells nothing.
const HOLDERS_MAX: usize = 8;
/// Chunks that are read ahead for one chunk, and at once.
const AHEAD: usize = 32;
const AHEAD_AT_ONCE: usize = 8;
/// How far before its expected place the content of an entry is looked at first, in bytes.
const BACK: u64 = 8 << 20;
/// Features that a base shares at least: with fewer a delta would be over half as long as the chunk.
const SHARED_MIN: usize = 4;
/// Features with which no better base is looked for.
pub(super) const SHARED_ENOUGH: usize = 13;
/// Chunks in a row without a base after which as many are not looked for, doubled each time.
const MISSES_MAX: u32 = 4;

/// Where the chunks of the parent come from.
enum Source {
    /// An entry's content.
    Entry(BoxStream<'static, Result<BlobRef>>),
    /// The contents of a group's members.
    Group(TreeReader, Key),
    /// Either, begun.
    Open(BoxStream<'static, Result<BlobRef>>),
}

/// The place where to look first.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// The entry.
    pub(super) key: &'a Key,
    /// The expected offset in the parent's content.
    pub(super) offset: u64,
}

/// Chunks of the parent, sketched as they are needed.
pub(in crate::snapshot) struct Similar {
    source: Source,
    ended: bool,
    /// The offset after the last chunk that was read ahead; that of a group counts from where it was begun.
    read_to: u64,
    /// What lies before this offset is not read.
    read_from: u64,
    /// In the order in which they were met; the first one's number is `first`.
    known: VecDeque<(Placed, Sketch)>,
    first: u64,
    ids: HashSet<BlobId>,
    /// The numbers of chunks that have a feature.
    holders: HashMap<u32, VecDeque<u64>>,
    misses: u32,
    pause: u32,
}

impl Similar {
    /// The chunks of one entry's content.
    pub(super) fn of_entry(refs: BoxStream<'static, Result<BlobRef>>) -> Self {
        Self::new(Source::Entry(refs))
    }

    /// The chunks of all segments of the group that `prefix` names.
    pub(in crate::snapshot) fn of_group(parent: TreeReader, prefix: Key) -> Self {
        Self::new(Source::Group(parent, prefix))
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            ended: false,
            read_to: 0,
            read_from: 0,
            known: VecDeque::new(),
            first: 0,
            ids: HashSet::new(),
            holders: HashMap::new(),
            misses: 0,
            pause: 0,
        }
    }

    /// Takes note of a chunk of the parent.
    pub(super) fn note(&mut self, placed: Placed, sketch: Sketch) {
        if !self.ids.insert(placed.reference.id) {
            return;
        }
        let number = self.first + self.known.len() as u64;
        for feature in sketch.features() {
            let holders = self.holders.entry(*feature).or_default();
            if holders.len() == HOLDERS_MAX {
                holders.pop_front();
            }
            holders.push_back(number);
        }
        self.known.push_back((placed, sketch));
        if self.known.len() > KNOWN_MAX {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((placed, sketch)) = self.known.pop_front() else {
            return;
        };
        self.ids.remove(&placed.reference.id);
        for feature in sketch.features() {
            if let Some(holders) = self.holders.get_mut(feature) {
                holders.retain(|number| *number != self.first);
                if holders.is_empty() {
                    self.holders.remove(feature);
                }
            }
        }
        self.first += 1;
    }

    /// The chunk that shares most features, and how many; of several the one met last.
    fn find(&self, sketch: &Sketch) -> Option<(usize, Placed)> {
        let mut shared: HashMap<u64, usize> = HashMap::new();
        let features = sketch.features().iter();
        for number in features.filter_map(|feature| self.holders.get(feature)).flatten() {
            *shared.entry(*number).or_default() += 1;
        }
        let (number, shared) = shared
            .into_iter()
            .max_by_key(|(number, shared)| (*shared, *number))?;
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let (placed, _) = self.known.get(at).filter(|_| shared >= SHARED_MIN)?;
        Some((shared, *placed))
    }

    /// The chunk of the parent that is most alike, if any is; reads ahead as long as it may and there is nothing better.
    pub(super) async fn search(
        &mut self,
        deltas: &Deltas,
        sketch: &Sketch,
        around: Around<'_>,
    ) -> Option<(usize, Placed)> {
        let mut found = self.find(sketch);
        if self.pause > 0 {
            self.pause -= 1;
            return found;
        }
        self.begin(around);
        let mut left = AHEAD;
        while left > 0 && !self.ended && found.is_none_or(|(shared, _)| shared < SHARED_ENOUGH) {
            left -= AHEAD_AT_ONCE;
            self.read_ahead(deltas).await;
            found = self.find(sketch);
        }
        if found.is_some() {
            self.misses = 0;
        } else {
            self.misses += 1;
            if self.misses >= MISSES_MAX {
                self.pause = self.misses.next_power_of_two();
            }
        }
        found
    }

    /// Opens the source where it is looked at first.
    fn begin(&mut self, around: Around<'_>) {
        let open = |refs| Source::Open(refs);
        let source = std::mem::replace(&mut self.source, open(futures::stream::empty().boxed()));
        self.source = match source {
            Source::Open(refs) => open(refs),
            Source::Entry(refs) => {
                self.read_from = around.offset.saturating_sub(BACK);
                open(refs)
            }
            Source::Group(parent, prefix) => {
                let members = parent.range(around.key.clone(), prefix);
                let segments =
                    members.try_filter(|entry| futures::future::ready(entry.kind == EntryKind::Segment));
                let source = parent.source().clone();
                let refs = segments.map_ok(move |entry| content_refs(source.clone(), &entry));
                open(refs.try_flatten().boxed())
            }
        };
    }

    /// Reads and sketches the next few chunks. What cannot be read ends it: what follows finds what is known.
    async fn read_ahead(&mut self, deltas: &Deltas) {
        let mut next = Vec::with_capacity(AHEAD_AT_ONCE);
        while next.len() < AHEAD_AT_ONCE {
            let Source::Open(refs) = &mut self.source else {
                return;
            };
            let Some(Ok(reference)) = refs.next().await else {
                self.ended = true;
                break;
            };
            let offset = self.read_to;
            self.read_to = offset.saturating_add(reference.len);
            let is_near = self.read_to > self.read_from;
            if is_near && !reference.is_hole() && !self.ids.contains(&reference.id) {
                next.push(Placed { offset, reference });
            }
        }
        let Some(sketched) = deltas.sketch_all(next).await else {
            self.ended = true;
            return;
        };
        for (placed, sketch) in sketched {
            self.note(placed, sketch);
        }
    }
}
