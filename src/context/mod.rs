//! What every operation is given: an observer, cancellation, a byte budget, a CPU pool, a clock and randomness.
//!
//! A [`Context`] holds no configuration and no secret. [`Context::deterministic`] makes one whose CPU pool runs inline and
//! whose clock and randomness come from a seed: the same seed gives the same stored bytes.

mod budget;
mod clock;
mod cpu;
pub mod mutant;
mod random;

pub use budget::{Budget, Reservation};
pub use clock::{Clock, ManualClock, SystemClock, Time};
pub use cpu::CpuPool;
pub use random::{Random, SeededRandom, SystemRandom};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Observer, Silent};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The memory budget unless another is asked for, in bytes.
pub const BUDGET_DEFAULT: u64 = 256 << 20;
/// The smallest budget that is accepted, in bytes.
pub const BUDGET_MIN: u64 = 64 << 20;

/// Shared by everything one operation does; cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// Who is told what happens.
    pub observer: Arc<dyn Observer>,
    /// Cancelled by the first SIGINT or SIGTERM: nothing new is begun, nothing is committed.
    pub cancel: CancellationToken,
    /// Bytes that may be held at once.
    pub budget: Budget,
    /// Where chunking, hashing, compression and encryption run.
    pub cpu: CpuPool,
    /// What time it is; never part of a safety argument.
    pub clock: Arc<dyn Clock>,
    /// Salts, nonces and session ids.
    pub random: Arc<dyn Random>,
}

impl Context {
    /// A context for real work: system clock and randomness, `threads` CPU threads (0 = one per core).
    ///
    /// # Errors
    /// `Invalid` if `budget_bytes` is below [`BUDGET_MIN`], `Internal` if the threads cannot be started.
    pub fn new(observer: Arc<dyn Observer>, budget_bytes: u64, threads: usize) -> Result<Self> {
        Ok(Self {
            observer,
            cancel: CancellationToken::new(),
            budget: Budget::new(budget_bytes)?,
            cpu: CpuPool::new(threads)?,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        })
    }

    /// A context whose every effect follows from `seed`: inline CPU, a clock that moves only when told, seeded
    /// randomness, the smallest budget.
    ///
    /// # Errors
    /// Never in practice; the budget is the constant [`BUDGET_MIN`].
    pub fn deterministic(seed: u64) -> Result<Self> {
        Ok(Self {
            observer: Arc::new(Silent),
            cancel: CancellationToken::new(),
            budget: Budget::new(BUDGET_MIN)?,
            cpu: CpuPool::inline(),
            clock: Arc::new(ManualClock::at(Time {
                seconds: 1_767_225_600,
                nanos: 0,
            })),
            random: Arc::new(SeededRandom::new(seed)),
        })
    }

    /// Tells the observer.
    pub fn emit(&self, event: &Event) {
        self.observer.on(event);
    }

    /// Waits, by the context's clock.
    ///
    /// # Errors
    /// `Cancelled`.
    pub async fn sleep(&self, duration: std::time::Duration) -> Result<()> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => {}
            () = self.clock.sleep(duration) => {}
        }
        self.check_cancelled()
    }

    /// Fails if the operation was cancelled.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "interrupted"));
        }
        Ok(())
    }
}
