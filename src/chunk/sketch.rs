//! Which chunks are alike: a few features of a chunk, of which two chunks share about as large a part as they share content.
//!
//! A feature is the hash of 64 bytes in a row; of all of them the smallest are kept, so that both chunks keep the same ones wherever
//! the content lies in them. Sketches are made when they are needed and stored nowhere: they only choose bases of deltas.

/// Features that are kept, at most.
pub const FEATURES: usize = 16;
/// One in so many positions is looked at, as a power of two.
const SAMPLED_LOG: u32 = 8;

/// The features of one chunk, ascending, none twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sketch {
    features: [u32; FEATURES],
    len: usize,
}

impl Sketch {
    /// The sketch of a chunk.
    pub fn of(chunk: &[u8]) -> Self {
        let mut sketch = Self::default();
        let mut hash = 0u64;
        for byte in chunk {
            // The topmost bits depend on the last 64 bytes, and on no byte before.
            let gear = GEAR.get(usize::from(*byte)).copied().unwrap_or_default();
            hash = (hash << 1).wrapping_add(gear);
            if hash >> (u64::BITS - SAMPLED_LOG) == 0 {
                let [.., a, b, c, d] = mix(hash).to_le_bytes();
                sketch.insert(u32::from_le_bytes([a, b, c, d]));
            }
        }
        sketch
    }

    /// The features.
    pub fn features(&self) -> &[u32] {
        self.features.get(..self.len).unwrap_or_default()
    }

    /// Whether there are enough features to tell anything: short chunks, and those that repeat themselves, have few.
    pub fn is_telling(&self) -> bool {
        self.len >= FEATURES / 2
    }

    /// How many features two chunks share.
    pub fn shared(&self, other: &Self) -> usize {
        let theirs = other.features();
        let ours = self.features().iter();
        ours.filter(|one| theirs.binary_search(one).is_ok()).count()
    }

    fn insert(&mut self, feature: u32) {
        if self.len == FEATURES && self.features.last().is_some_and(|last| *last <= feature) {
            return;
        }
        let Err(at) = self.features().binary_search(&feature) else {
            return;
        };
        self.len = (self.len + 1).min(FEATURES);
        if let Some(moved) = self.features.get_mut(at..self.len) {
            moved.rotate_right(1);
            if let Some(first) = moved.first_mut() {
                *first = feature;
            }
        }
    }
}

/// Any table of unlike numbers serves: it is no secret, and what it gives is not stored.
const GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < table.len() {
        table[at] = mix(at as u64 + 1);
        at += 1;
    }
    table
};

/// The finalizer of splitmix64.
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; len];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn what_is_moved_and_changed_here_and_there_is_still_alike() {
        let before = noise(256 << 10, 1);
        let mut after = noise(5_000, 2);
        after.extend_from_slice(&before);
        for at in (0..after.len()).step_by(10_000) {
            after[at] ^= 1;
        }
        let shared = Sketch::of(&before).shared(&Sketch::of(&after));
        assert!(shared >= 12, "{shared}");
    }

    #[test]
    fn half_of_the_content_gives_about_half_of_the_features() {
        let (a, b, c) = (noise(128 << 10, 1), noise(128 << 10, 2), noise(128 << 10, 3));
        let shared = Sketch::of(&[a, b.clone()].concat()).shared(&Sketch::of(&[b, c].concat()));
        assert!((4..=12).contains(&shared), "{shared}");
    }

    #[test]
    fn strangers_share_nothing_and_short_or_uniform_chunks_tell_nothing() {
        let shared = Sketch::of(&noise(256 << 10, 1)).shared(&Sketch::of(&noise(256 << 10, 2)));
        assert_eq!(shared, 0);
        assert!(!Sketch::of(&vec![7; 100_000]).is_telling());
        assert!(!Sketch::of(&noise(300, 1)).is_telling());
        assert!(Sketch::of(&noise(20_000, 1)).is_telling());
        assert_eq!(Sketch::of(&[]).features(), [0u32; 0].as_slice());
    }
}
