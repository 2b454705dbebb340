//! Content-defined chunking (`format-spec/25-chunking.md`): where content is cut, and which chunks are alike.
//!
//! The cuts are those of FastCDC as the crate `fastcdc` 5.0.0 makes them (`v2020::cut_gear`), over a gear table that is derived
//! whole from the keyring. They never change for given parameters: golden vectors hold them.

mod sketch;

pub use sketch::{FEATURES, Sketch};

use crate::crypto::Secret;
use crate::format::error::DecodeError;
use fastcdc::v2020::{Normalization, cut_gear, select_masks};

/// How large chunks are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkParams {
    min: usize,
    avg: usize,
    max: usize,
}

impl Default for ChunkParams {
    /// 64 KiB, 256 KiB, 1 MiB.
    fn default() -> Self {
        Self {
            min: 64 << 10,
            avg: 256 << 10,
            max: 1 << 20,
        }
    }
}

impl ChunkParams {
    /// Chunks of at least `min` (the last of a content apart), about `avg`, at most `max` bytes.
    ///
    /// # Errors
    /// `Invalid` unless 64 ≤ min < avg < max, all even, avg a power of two from 256 B to 4 MiB, max at most 16 MiB.
    pub fn new(min: usize, avg: usize, max: usize) -> Result<Self, DecodeError> {
        let even = min.is_multiple_of(2) && max.is_multiple_of(2);
        let ordered = 64 <= min && min < avg && avg < max && max <= crate::format::limits::BLOB_MAX;
        if even && ordered && avg.is_power_of_two() && (256..=4 << 20).contains(&avg) {
            Ok(Self { min, avg, max })
        } else {
            Err(DecodeError::Invalid("chunk sizes"))
        }
    }

    /// The smallest chunk.
    pub fn min(&self) -> usize {
        self.min
    }

    /// The size aimed at.
    pub fn avg(&self) -> usize {
        self.avg
    }

    /// The largest chunk.
    pub fn max(&self) -> usize {
        self.max
    }
}

/// Finds cuts; cheap to share, holds no content.
pub struct Chunker {
    params: ChunkParams,
    masks: (u64, u64),
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
}

impl Chunker {
    /// A chunker for these sizes under the repository's gear key.
    pub fn new(params: ChunkParams, gear_key: &Secret) -> Self {
        let mut xof = blake3::Hasher::new_keyed(gear_key.expose()).finalize_xof();
        let mut gear = Box::new([0u64; 256]);
        for value in gear.iter_mut() {
            let mut bytes = [0; 8];
            xof.fill(&mut bytes);
            *value = u64::from_le_bytes(bytes);
        }
        let gear_shifted = Box::new(gear.map(|value| value << 1));
        Self {
            params,
            masks: select_masks(params.avg, Normalization::Level1),
            gear,
            gear_shifted,
        }
    }

    /// The sizes.
    pub fn params(&self) -> ChunkParams {
        self.params
    }

    /// The length of the next chunk of content that begins with `window`, or nothing if more must be seen first: fewer than `max`
    /// bytes are in the window and `end` does not say that the content ends there. Nothing for an empty window.
    pub fn next_cut(&self, window: &[u8], end: bool) -> Option<usize> {
        if window.is_empty() || (!end && window.len() < self.params.max) {
            return None;
        }
        let (strict, loose) = self.masks;
        let (_, len) = cut_gear(
            window,
            self.params.min,
            self.params.avg,
            self.params.max,
            strict,
            loose,
            strict << 1,
            loose << 1,
            self.gear.as_slice(),
            self.gear_shifted.as_slice(),
        );
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new()
            .update(&[seed])
            .finalize_xof()
            .fill(&mut out);
        out
    }

    fn cuts(chunker: &Chunker, mut content: &[u8]) -> Vec<usize> {
        let mut cuts = Vec::new();
        while let Some(len) = chunker.next_cut(content, true) {
            cuts.push(len);
            content = &content[len..];
        }
        cuts
    }

    #[test]
    fn chunks_keep_their_bounds_and_cover_the_content() {
        let chunker = Chunker::new(ChunkParams::default(), &Secret::new([1; 32]));
        let content = noise(20 << 20, 1);
        let cuts = cuts(&chunker, &content);
        assert_eq!(cuts.iter().sum::<usize>(), content.len());
        let (last, others) = cuts.split_last().unwrap();
        assert!(others.iter().all(|len| (64 << 10..=1 << 20).contains(len)) && *last <= 1 << 20);
        let mean = content.len() / cuts.len();
        assert!((128 << 10..512 << 10).contains(&mean), "mean {mean}");
    }

    #[test]
    fn an_insertion_moves_few_cuts_and_another_key_moves_all() {
        let chunker = Chunker::new(ChunkParams::default(), &Secret::new([1; 32]));
        let content = noise(16 << 20, 2);
        let mut edited = content.clone();
        edited.insert(7 << 20, b'x');
        let ends = |cuts: Vec<usize>, shift: usize| {
            let mut at = 0;
            cuts.into_iter()
                .map(|len| {
                    at += len;
                    if at > 7 << 20 { at - shift } else { at }
                })
                .collect::<std::collections::HashSet<_>>()
        };
        let before = ends(cuts(&chunker, &content), 0);
        let after = ends(cuts(&chunker, &edited), 1);
        assert!(before.intersection(&after).count() + 3 >= before.len());
        let other = Chunker::new(ChunkParams::default(), &Secret::new([2; 32]));
        assert!(before.intersection(&ends(cuts(&other, &content), 0)).count() <= 2);
    }

    #[test]
    fn more_is_asked_for_until_a_cut_is_certain() {
        let chunker = Chunker::new(ChunkParams::default(), &Secret::new([1; 32]));
        let content = noise(2 << 20, 3);
        let whole = chunker.next_cut(&content, false).unwrap();
        assert_eq!(chunker.next_cut(&content[..1 << 20], false), Some(whole));
        assert_eq!(chunker.next_cut(&content[..(1 << 20) - 1], false), None);
        assert_eq!(chunker.next_cut(&[], true), None);
    }
}
