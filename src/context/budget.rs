//! A budget of bytes. A reservation is taken before bytes are read, travels with them, shrinks when they shrink, and is
//! given back when they are dropped or durable.

use crate::error::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const UNIT: u64 = 1024;

/// A budget of bytes, counted in KiB.
#[derive(Clone)]
pub struct Budget {
    semaphore: Arc<Semaphore>,
    total: u64,
    peak: Arc<AtomicU64>,
}

/// Bytes that are held; dropping it gives them back.
#[must_use]
pub struct Reservation {
    permit: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of `bytes`.
    ///
    /// # Errors
    /// `Invalid` below 64 MiB: two open packs, two uploads and the chunks between them must fit, or work would stand still.
    pub fn new(bytes: u64) -> Result<Self> {
        if bytes < super::BUDGET_MIN {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the memory budget must be at least 64 MiB",
            ));
        }
        let units = usize::try_from(bytes / UNIT).unwrap_or(usize::MAX >> 4);
        Ok(Self {
            semaphore: Arc::new(Semaphore::new(units)),
            total: bytes,
            peak: Arc::default(),
        })
    }

    /// A budget below what real work accepts, so that blocks and packs of a test are small.
    #[cfg(feature = "testkit")]
    #[must_use]
    pub fn tiny(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT).unwrap_or(usize::MAX >> 4);
        Self {
            semaphore: Arc::new(Semaphore::new(units)),
            total: bytes,
            peak: Arc::default(),
        }
    }

    /// Whether all of it is free.
    #[cfg(feature = "testkit")]
    pub fn is_free(&self) -> bool {
        self.semaphore.available_permits() as u64 * UNIT == self.total
    }

    /// The whole budget in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The most bytes that were held at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` are free and takes them. Asking for more than a quarter of the budget gets a quarter, so that
    /// one large request cannot wait for ever.
    pub async fn reserve(&self, bytes: u64) -> Reservation {
        let units = Self::units(bytes.min(self.total / 4));
        let permit = self.semaphore.clone().acquire_many_owned(units).await.ok();
        self.note_peak();
        Reservation { permit }
    }

    /// Takes `bytes` if they are free now.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let units = Self::units(bytes.min(self.total / 4));
        let permit = self.semaphore.clone().try_acquire_many_owned(units).ok()?;
        self.note_peak();
        Some(Reservation { permit: Some(permit) })
    }

    fn units(bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
    }

    fn note_peak(&self) {
        let free = self.semaphore.available_permits() as u64 * UNIT;
        self.peak
            .fetch_max(self.total.saturating_sub(free), Ordering::Relaxed);
    }
}

impl Reservation {
    /// A reservation of nothing.
    pub fn none() -> Self {
        Self { permit: None }
    }

    /// Bytes held, rounded up to KiB.
    pub fn bytes(&self) -> u64 {
        self.permit.as_ref().map_or(0, |p| p.num_permits() as u64 * UNIT)
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        if let Some(permit) = &mut self.permit {
            let keep = Budget::units(bytes) as usize;
            if permit.num_permits() > keep {
                drop(permit.split(permit.num_permits() - keep));
            }
        }
    }

    /// Takes `bytes` (or what there is) out of this reservation into one of its own.
    pub fn split(&mut self, bytes: u64) -> Self {
        let Some(permit) = &mut self.permit else {
            return Self::none();
        };
        let units = (Budget::units(bytes) as usize).min(permit.num_permits());
        Self {
            permit: permit.split(units),
        }
    }

    /// Adds another reservation to this one.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.permit, other.permit) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reservations_travel_shrink_and_return() {
        let budget = Budget::new(64 << 20).unwrap();
        let mut a = budget.reserve(8 << 20).await;
        let b = a.split(3 << 20);
        a.shrink_to(1 << 20);
        assert_eq!((a.bytes(), b.bytes()), (1 << 20, 3 << 20));
        a.merge(b);
        assert_eq!(a.bytes(), 4 << 20);
        drop(a);
        assert_eq!(budget.semaphore.available_permits(), 64 << 10);
        assert_eq!(budget.peak(), 8 << 20);
    }
}
