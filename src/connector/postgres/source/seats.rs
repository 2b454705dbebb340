//! Who may use a connection: as many as were asked for, fewer if the server refuses, and never all of them for what reads ahead.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// The rights to use a connection.
///
/// Rows that are read ahead keep their connection until they are taken, and are taken only when what comes before them has been. So
/// whoever is wanted next must not wait for them: where only they hold seats, one more is given.
#[derive(Clone)]
pub(super) struct Seats(Arc<Shared>);

struct Shared {
    taken: Mutex<Taken>,
    freed: Notify,
}

struct Taken {
    /// How many may be taken.
    limit: usize,
    all: usize,
    /// Those of them that read ahead.
    ahead: usize,
}

/// The right to use one connection, until dropped.
pub(super) struct Seat {
    of: Option<Seats>,
    ahead: bool,
}

impl Seats {
    /// So many, one at least.
    pub(super) fn new(limit: usize) -> Self {
        let taken = Taken {
            limit: limit.max(1),
            all: 0,
            ahead: 0,
        };
        Self(Arc::new(Shared {
            taken: Mutex::new(taken),
            freed: Notify::new(),
        }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Taken) -> T) -> T {
        // Numbers have no half-done state.
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut taken)
    }

    /// Waits for a seat that only finished work can free.
    pub(super) async fn seat(&self) -> Seat {
        loop {
            let mut freed = std::pin::pin!(self.0.freed.notified());
            // From here on no seat is freed unnoticed.
            freed.as_mut().enable();
            let granted = self.with(|taken| {
                let granted = taken.all < taken.limit || taken.all == taken.ahead;
                taken.all += usize::from(granted);
                granted
            });
            if granted {
                return self.taken();
            }
            freed.await;
        }
    }

    /// A seat, if one is free now.
    pub(super) fn try_seat(&self) -> Option<Seat> {
        let granted = self.with(|taken| {
            let granted = taken.all < taken.limit;
            taken.all += usize::from(granted);
            granted
        });
        granted.then(|| self.taken())
    }

    /// A seat beyond the number, for what cannot wait.
    pub(super) fn further() -> Seat {
        Seat {
            of: None,
            ahead: false,
        }
    }

    /// One less may be taken from now on. Gives how many are left; nothing if there was but one.
    pub(super) fn take_away(&self) -> Option<usize> {
        self.with(|taken| {
            let left = taken.limit.checked_sub(1).filter(|left| *left > 0)?;
            taken.limit = left;
            Some(left)
        })
    }

    fn taken(&self) -> Seat {
        Seat {
            of: Some(self.clone()),
            ahead: false,
        }
    }
}

impl Seat {
    /// The same, to read ahead of what is wanted next; nothing, and the seat is free, if no other is left for that.
    pub(super) fn ahead(mut self) -> Option<Self> {
        let seats = self.of.clone()?;
        let granted = seats.with(|taken| {
            let granted = !self.ahead && taken.ahead + 1 < taken.limit;
            taken.ahead += usize::from(granted);
            granted
        });
        if !granted {
            return None;
        }
        self.ahead = true;
        // It may be the last that was not.
        seats.0.freed.notify_one();
        Some(self)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(seats) = &self.of {
            seats.with(|taken| {
                taken.all -= 1;
                taken.ahead -= usize::from(self.ahead);
            });
            seats.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn what_is_wanted_next_never_waits_for_what_reads_ahead() {
        let seats = Seats::new(4);
        let ahead: Vec<Seat> = std::iter::from_fn(|| seats.try_seat()?.ahead()).collect();
        assert_eq!(ahead.len(), 3);
        let last = seats.try_seat().unwrap();
        assert!(seats.try_seat().is_none());
        // Whoever has the last one works and ends.
        assert!(seats.seat().now_or_never().is_none());
        assert_eq!(seats.take_away(), Some(3));
        assert_eq!(seats.take_away(), Some(2));
        drop(last);
        assert!(seats.try_seat().is_none());
        let further = seats.seat().now_or_never().unwrap();
        assert!(seats.seat().now_or_never().is_none(), "one at a time");
        drop(further);
        drop(ahead);
        let (one, two) = (seats.try_seat().unwrap(), seats.try_seat().unwrap());
        let one = one.ahead();
        assert!(one.is_some() && two.ahead().is_none(), "one of two is left");
    }

    #[test]
    fn one_seat_is_never_taken_away_nor_read_ahead_with() {
        let seats = Seats::new(0);
        assert_eq!(seats.take_away(), None);
        assert!(seats.try_seat().unwrap().ahead().is_none());
        assert!(seats.try_seat().is_some());
    }

    #[tokio::test]
    async fn whoever_waits_gets_what_is_freed() {
        let seats = Seats::new(1);
        let first = seats.seat().await;
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let seats = seats.clone();
                tokio::spawn(async move { drop(seats.seat().await) })
            })
            .collect();
        tokio::task::yield_now().await;
        waiting.first().unwrap().abort();
        drop(first);
        for (number, task) in waiting.into_iter().enumerate() {
            let ended = task.await;
            assert!(ended.is_ok() || number == 0);
        }
    }
}
