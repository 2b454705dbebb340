//! Sending again: pauses that double, with jitter, told to the observer and ended by cancellation.

use super::Store;
use super::fault::{Attempt, is_answer};
use crate::error::Result;
use crate::event::Event;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The tries of one request.
pub(super) struct Tries<'a> {
    store: &'a Store,
    attempt: Attempt,
    object: &'a str,
    failed: u32,
    /// Whether cancellation came before the first try; such a request still gets one.
    late: bool,
}

impl<'a> Tries<'a> {
    pub(super) fn new(store: &'a Store, attempt: Attempt, object: &'a str) -> Self {
        Self {
            store,
            attempt,
            object,
            failed: 0,
            late: store.shared.cancel.is_cancelled(),
        }
    }

    /// Counts anew: something went forward.
    pub(super) fn progress(&mut self) {
        self.failed = 0;
    }

    /// The store answered; failures after that are worth more patience.
    pub(super) fn answered(&self) {
        self.store.shared.answered.store(true, Ordering::Relaxed);
    }

    /// Runs `work`, which cancellation interrupts unless it came before the request.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) async fn interruptible<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.store.shared.cancel.cancelled(), if !self.late =>
                Err(self.store.place(self.attempt, self.object).cancelled(false, None)),
            done = work => Ok(done),
        }
    }

    /// Waits before the next try. `Ok(false)` if there is none: the failure is final.
    ///
    /// # Errors
    /// `Cancelled`, with `unknown` said as [`super::fault::Place::cancelled`] has it.
    pub(super) async fn again(&mut self, error: &object_store::Error, unknown: bool) -> Result<bool> {
        let shared = &self.store.shared;
        if is_answer(error) {
            self.answered();
        }
        self.failed += 1;
        let most = if shared.answered.load(Ordering::Relaxed) {
            shared.retry.attempts
        } else {
            shared.retry.first_contact
        };
        if self.failed >= most {
            return Ok(false);
        }
        let place = self.store.place(self.attempt, self.object);
        if shared.cancel.is_cancelled() {
            return Err(place.cancelled(unknown, Some(error)));
        }
        shared.observer.on(&Event::Retry {
            what: format!("{} {}", self.attempt.verb(), self.object),
            why: place.cause(error),
        });
        tokio::select! {
            biased;
            () = shared.cancel.cancelled() => Err(place.cancelled(unknown, Some(error))),
            () = tokio::time::sleep(self.pause()) => Ok(true),
        }
    }

    fn pause(&self) -> Duration {
        let retry = &self.store.shared.retry;
        let full = retry
            .first
            .saturating_mul(1 << self.failed.saturating_sub(1).min(16))
            .min(retry.longest);
        let drawn = self
            .store
            .shared
            .jitter
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        full.mul_f64(0.5 + unit(drawn) / 2.0)
    }
}

/// A number in [0, 1) that looks random (the finalizer of SplitMix64).
fn unit(mut z: u64) -> f64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    f64::from(u32::try_from(z >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::unit;

    #[test]
    fn jitter_is_spread_over_its_range() {
        let mut seed = 7_u64;
        let mut below_half = 0;
        for _ in 0..1000 {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let x = unit(seed);
            assert!((0.0..1.0).contains(&x));
            below_half += u32::from(x < 0.5);
        }
        assert!((400..600).contains(&below_half), "{below_half}");
    }
}
