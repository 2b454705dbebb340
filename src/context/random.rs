//! Random bytes for salts, nonces and ids.

use crate::error::{Error, ErrorKind, Result};
use std::sync::Mutex;

/// Fills buffers with random bytes.
pub trait Random: Send + Sync {
    /// Fills `out`.
    ///
    /// # Errors
    /// `Internal` if the system has no randomness to give.
    fn fill(&self, out: &mut [u8]) -> Result<()>;
}

impl dyn Random + '_ {
    /// `N` random bytes.
    ///
    /// # Errors
    /// As [`Random::fill`].
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }
}

/// The operating system's randomness.
#[derive(Debug)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        getrandom::fill(out)
            .map_err(|e| Error::new(ErrorKind::Internal, "no randomness").because(e.to_string()))
    }
}

/// A reproducible stream, for tests only: anyone who knows the seed knows every byte.
pub struct SeededRandom(Mutex<blake3::OutputReader>);

impl SeededRandom {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(b"holdall seeded randomness")
            .update(&seed.to_le_bytes());
        Self(Mutex::new(hasher.finalize_xof()))
    }
}

impl Random for SeededRandom {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        match self.0.lock() {
            Ok(mut reader) => {
                reader.fill(out);
                Ok(())
            }
            Err(_) => Err(Error::new(ErrorKind::Internal, "seeded randomness is poisoned")),
        }
    }
}
