//! The parent's chunks by what they hold, where their place does not tell: rows that a rewrite moved into other segments, a stream
//! with something new in front.
//!
//! The parent's chunks are read ahead in their order, a few for each chunk that finds no base, sketched and let go again. What was
//! sketched is kept for a while and found by its features.

use super::{Deltas, Placed};
use crate::chunk::{FEATURES, Sketch};
use crate::error::Result;
use crate::format::entry::{BlobRef, EntryKind, Key};
use crate::format::id::BlobId;
use crate::snapshot::tree::{TreeReader, content_refs};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::collections::{HashMap, HashSet, VecDeque};

/// Chunks of the parent that are kept sketched: about 4 GB of content, in about 9 MB.
const KNOWN_MAX: usize = 16_384;
/// Chunks with one feature that are looked at, those met last: one that many have tells nothing.
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
    known: VecDeque<Known>,
    first: u32,
    ids: HashSet<BlobId>,
    /// The number of the chunk met last that has a feature; that one tells which had it before.
    last: HashMap<u32, u32>,
    misses: u32,
    pause: u32,
}

/// A chunk that is kept sketched.
struct Known {
    placed: Placed,
    sketch: Sketch,
    /// For each feature, how many numbers before this one the chunk is that had it before; 0 if there is none.
    before: [u32; FEATURES],
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
            last: HashMap::new(),
            misses: 0,
            pause: 0,
        }
    }

    /// Takes note of a chunk of the parent.
    pub(super) fn note(&mut self, placed: Placed, sketch: Sketch) {
        if self.known.len() == KNOWN_MAX {
            self.forget_first();
        }
        let known = u32::try_from(self.known.len()).ok();
        let Some(number) = known.and_then(|known| self.first.checked_add(known)) else {
            return;
        };
        if !self.ids.insert(placed.reference.id) {
            return;
        }
        let mut before = [0; FEATURES];
        for (feature, before) in sketch.features().iter().zip(&mut before) {
            *before = self.last.insert(*feature, number).map_or(0, |last| number - last);
        }
        self.known.push_back(Known {
            placed,
            sketch,
            before,
        });
    }

    fn forget_first(&mut self) {
        let Some(Known { placed, sketch, .. }) = self.known.pop_front() else {
            return;
        };
        self.ids.remove(&placed.reference.id);
        for feature in sketch.features() {
            // Later chunks that have it may still point here, where nothing is any more.
            if self.last.get(feature) == Some(&self.first) {
                self.last.remove(feature);
            }
        }
        self.first += 1;
    }

    fn known(&self, number: u32) -> Option<&Known> {
        self.known.get(number.checked_sub(self.first)? as usize)
    }

    /// The numbers of chunks that have a feature, the one met last first.
    fn holders(&self, feature: u32) -> impl Iterator<Item = u32> {
        let before = move |number: &u32| {
            let known = self.known(*number)?;
            let at = known.sketch.features().binary_search(&feature).ok()?;
            let distance = known.before.get(at).filter(|distance| **distance > 0)?;
            number
                .checked_sub(*distance)
                .filter(|before| *before >= self.first)
        };
        std::iter::successors(self.last.get(&feature).copied(), before).take(HOLDERS_MAX)
    }

    /// The chunk that shares most features, and how many; of several the one met last.
    fn find(&self, sketch: &Sketch) -> Option<(usize, Placed)> {
        let mut shared: HashMap<u32, usize> = HashMap::new();
        for number in sketch
            .features()
            .iter()
            .flat_map(|feature| self.holders(*feature))
        {
            *shared.entry(number).or_default() += 1;
        }
        let (number, shared) = shared
            .into_iter()
            .max_by_key(|(number, shared)| (*shared, *number))?;
        let known = self.known(number).filter(|_| shared >= SHARED_MIN)?;
        Some((shared, known.placed))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of random content: chunk `n`.
    fn chunk(n: u64) -> Vec<u8> {
        let mut out = vec![0; 8 << 10];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&n.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    fn placed(n: u64) -> Placed {
        let mut id = [1; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        let reference = BlobRef {
            id: BlobId(id),
            len: 1,
        };
        Placed { offset: n, reference }
    }

    #[test]
    fn what_is_kept_is_found_by_what_it_shares_and_what_was_let_go_is_not() {
        let mut similar = Similar::of_entry(futures::stream::empty().boxed());
        let (old, new) = (KNOWN_MAX as u64 + 10, 2 * KNOWN_MAX as u64);
        // All chunks repeat ten contents: features have many holders, and links that lead to chunks that were let go.
        let sketches: Vec<Sketch> = (0..10).map(|n| Sketch::of(&chunk(n))).collect();
        for n in 0..new {
            let at = usize::try_from(n % 10).unwrap();
            similar.note(placed(n), sketches[at]);
        }
        assert_eq!(similar.known.len(), KNOWN_MAX);
        assert!(u64::from(similar.first) < old);
        for (n, sketch) in (0..).zip(&sketches) {
            let (shared, found) = similar.find(sketch).unwrap();
            assert_eq!(shared, sketch.features().len());
            assert_eq!(found.offset % 10, n);
            assert!(found.offset >= new - 10, "the one met last");
        }
        assert!(similar.find(&Sketch::of(&chunk(99))).is_none());
        // Content that was met once is found as long as it is kept.
        let rare = Sketch::of(&chunk(77));
        similar.note(placed(new), rare);
        for n in 1..KNOWN_MAX as u64 {
            similar.note(placed(new + n), sketches[0]);
        }
        assert_eq!(similar.find(&rare).unwrap().1, placed(new));
        similar.note(placed(3 * new), sketches[0]);
        assert!(similar.find(&rare).is_none());
    }

    #[test]
    fn what_is_kept_takes_no_more_memory_than_is_said() {
        let mut similar = Similar::of_entry(futures::stream::empty().boxed());
        for n in 0..KNOWN_MAX as u64 + 10 {
            // Features that nothing shares: most of them are kept.
            similar.note(placed(n), Sketch::of(&chunk(n)));
        }
        // A table of the standard library has a byte and a pair for each place, and an eighth of its places free.
        let table = |capacity: usize, pair: usize| capacity / 7 * 8 * (pair + 1);
        let bytes = similar.known.capacity() * size_of::<Known>()
            + table(similar.ids.capacity(), size_of::<BlobId>())
            + table(similar.last.capacity(), size_of::<(u32, u32)>());
        assert!(similar.last.len() > KNOWN_MAX * 15, "{}", similar.last.len());
        assert!(bytes < 10_000_000, "{bytes}");
    }
}
