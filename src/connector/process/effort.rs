//! What children do, as far as this side can tell: for whoever waits for one of which nothing is heard.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// As Linux tells them, on every machine.
const TICKS_PER_SECOND: u64 = 100;

/// What some children do. Clones of it are of the same children.
#[derive(Clone, Debug, Default)]
pub struct Effort(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// What they wrote.
    bytes: u64,
    /// Those that have not ended.
    children: BTreeSet<u32>,
}

/// What was done up to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    bytes: u64,
    processor: u64,
}

/// One of the children, until it is dropped.
pub(crate) struct Doing {
    effort: Effort,
    child: Option<u32>,
}

impl Effort {
    fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts what a child does from now on.
    pub(super) fn count(&self, child: Option<u32>) -> Doing {
        self.with(|seen| seen.children.extend(child));
        Doing {
            effort: self.clone(),
            child,
        }
    }

    /// What was done so far. What a child has computed is known on Linux only, and counts until it ends.
    pub(crate) fn done(&self) -> Done {
        self.with(|seen| Done {
            bytes: seen.bytes,
            processor: seen
                .children
                .iter()
                .filter_map(|child| processor_time(*child))
                .sum(),
        })
    }
}

impl Done {
    /// Whether it was done by somebody who works, `earlier` a time ago: something was written, or a hundredth of that time was computed. Timers
    /// and signs of life of a connection take less.
    pub(crate) fn is_work_since(&self, earlier: &Self, time: Duration) -> bool {
        let ticks = time.as_millis() / u128::from(1_000 / TICKS_PER_SECOND) / 100;
        let computed = u128::from(self.processor.saturating_sub(earlier.processor));
        self.bytes != earlier.bytes || computed >= ticks.max(1)
    }
}

impl Doing {
    /// It has written so many bytes more.
    pub(super) fn wrote(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.effort
            .with(|seen| seen.bytes = seen.bytes.saturating_add(bytes));
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        if let Some(child) = self.child {
            self.effort.with(|seen| seen.children.remove(&child));
        }
    }
}

/// The time that processors gave to a process and to what it started and waited for, in ticks.
fn processor_time(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name, in parentheses, may hold any itself.
    let (_, rest) = text.rsplit_once(')')?;
    let times = rest.split_whitespace().skip(11).take(4);
    times.map(|time| time.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_and_what_is_computed_are_signs_of_life() {
        let effort = Effort::default();
        let begun = effort.done();
        assert_eq!(effort.done(), begun);
        let child = effort.count(None);
        child.wrote(7);
        let written = effort.done();
        assert_ne!(written, begun);
        if !cfg!(target_os = "linux") {
            return;
        }
        let own = effort.count(Some(std::process::id()));
        let before = effort.done();
        let mut number = 1u64;
        while effort.done() == before {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        let (computed, time) = (effort.done(), Duration::from_secs(1));
        assert!(computed.is_work_since(&before, time));
        assert!(!computed.is_work_since(&before, time * 100_000) && !computed.is_work_since(&computed, time));
        drop(own);
        assert_eq!(effort.done(), written);
    }
}
