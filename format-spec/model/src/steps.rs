//! The states that may come next, each by one request of one actor.

use crate::state::State;

pub struct Steps {
    pub next: Vec<(State, String)>,
    /// Whether they are told: only for a trace.
    pub labels: bool,
}

impl Steps {
    pub fn new(labels: bool) -> Self {
        Self {
            next: Vec::new(),
            labels,
        }
    }

    pub fn add(&mut self, s: &State, change: impl FnOnce(&mut State), label: impl FnOnce() -> String) {
        let mut next = s.clone();
        change(&mut next);
        let label = if self.labels { label() } else { String::new() };
        self.next.push((next, label));
    }
}

/// An index is listed in two pages, which are two requests.
pub fn page(s: &State, page: usize) -> u16 {
    let made = 0..usize::from(s.runs_made);
    made.filter(|run| s.runs >> run & 1 == 1 && run % 2 == page)
        .fold(0, |sum, run| sum | 1 << run)
}
