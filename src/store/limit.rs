//! Bandwidth limits, and how many uploads run at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The largest number of bytes that is moved in one step of a limited or watched transfer.
pub(crate) const PIECE: usize = 16 << 10;

/// Spreads bytes evenly over time: each piece gets the moment from which it may move, in turn, whoever asks.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: u64,
    next: Mutex<Option<Instant>>,
}

impl Limiter {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Option<Arc<Self>> {
        bytes_per_second.map(|rate| {
            Arc::new(Self {
                rate: rate.max(1 << 10),
                next: Mutex::new(None),
            })
        })
    }

    /// When the next `bytes` may move. Unused time is not saved up: a pause is not followed by a burst.
    pub(crate) fn turn(&self, bytes: usize) -> Instant {
        let mut next = lock(&self.next);
        let now = Instant::now();
        let at = next.map_or(now, |at| at.max(now));
        let nanos = (bytes as u128 * 1_000_000_000) / u128::from(self.rate);
        *next = Some(at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        at
    }

    /// Waits for the turn of `bytes`.
    pub(crate) async fn pace(&self, bytes: usize) {
        tokio::time::sleep_until(self.turn(bytes)).await;
    }
}

/// How many uploads run at once: halved when the line stalls or the server asks for less, one more after each full round
/// of successes.
#[derive(Debug)]
pub(crate) struct Gate {
    semaphore: Arc<Semaphore>,
    state: Mutex<GateState>,
}

#[derive(Debug)]
struct GateState {
    limit: usize,
    most: usize,
    /// Permits that are out and will not come back.
    debt: usize,
    successes: usize,
    shrunk: Option<Instant>,
}

/// One upload's place; given back when dropped.
pub(crate) struct Pass {
    permit: Option<OwnedSemaphorePermit>,
    gate: Arc<Gate>,
}

/// Stalls come in flocks; those of one flock shrink the limit once.
const FLOCK: Duration = Duration::from_secs(1);

impl Gate {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        let most = most.clamp(1, 256);
        Arc::new(Self {
            semaphore: Arc::new(Semaphore::new(most)),
            state: Mutex::new(GateState {
                limit: most,
                most,
                debt: 0,
                successes: 0,
                shrunk: None,
            }),
        })
    }

    pub(crate) fn limit(&self) -> usize {
        lock(&self.state).limit
    }

    /// Waits for a place. The semaphore is never closed; were it, uploads would go unlimited rather than hang.
    pub(crate) async fn enter(self: &Arc<Self>) -> Pass {
        Pass {
            permit: self.semaphore.clone().acquire_owned().await.ok(),
            gate: self.clone(),
        }
    }

    /// The line stalled, or the server asked for less.
    pub(crate) fn shrink(&self) {
        let mut state = lock(&self.state);
        state.successes = 0;
        if state.shrunk.is_some_and(|at| at.elapsed() < FLOCK) {
            return;
        }
        state.shrunk = Some(Instant::now());
        let less = state.limit - (state.limit / 2).max(1);
        state.limit -= less;
        state.debt += less - self.semaphore.forget_permits(less);
    }

    /// An upload went through.
    pub(crate) fn succeed(&self) {
        let mut state = lock(&self.state);
        state.successes += 1;
        if state.limit < state.most && state.successes >= state.limit {
            state.successes = 0;
            state.limit += 1;
            if state.debt > 0 {
                state.debt -= 1;
            } else {
                self.semaphore.add_permits(1);
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = lock(&self.gate.state);
        if state.debt > 0
            && let Some(permit) = self.permit.take()
        {
            state.debt -= 1;
            permit.forget();
        }
    }
}

/// Locks; a panic elsewhere leaves these plain numbers valid.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limiter_spreads_bytes_evenly_and_saves_nothing_up() {
        let limiter = Limiter::new(Some(100 << 10)).unwrap();
        let start = Instant::now();
        for i in 0..10_u32 {
            limiter.pace(10 << 10).await;
            let due = Duration::from_millis(100) * i;
            assert!(start.elapsed() >= due && start.elapsed() < due + Duration::from_millis(3));
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        limiter.pace(10 << 10).await;
        limiter.pace(10 << 10).await;
        assert!(start.elapsed() >= Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_shrinks_once_per_flock_and_recovers() {
        let gate = Gate::new(8);
        let mut passes = Vec::new();
        for _ in 0..8 {
            passes.push(gate.enter().await);
        }
        gate.shrink();
        gate.shrink();
        assert_eq!(gate.limit(), 4);
        tokio::time::sleep(FLOCK * 2).await;
        gate.shrink();
        assert_eq!(gate.limit(), 2);
        passes.clear();
        assert_eq!(gate.semaphore.available_permits(), 2);
        for _ in 0..100 {
            gate.succeed();
        }
        assert_eq!(gate.limit(), 8);
        assert_eq!(gate.semaphore.available_permits(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_never_closes() {
        let gate = Gate::new(1);
        for _ in 0..5 {
            gate.shrink();
            tokio::time::sleep(FLOCK * 2).await;
        }
        assert_eq!(gate.limit(), 1);
        let _pass = gate.enter().await;
    }
}
