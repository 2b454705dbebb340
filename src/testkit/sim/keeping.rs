//! Which snapshots somebody has let go: a forgets key has an effect unless a protection or the retention minimum stands against it
//! (`format-spec/85-sessions.md` section 5).

use crate::context::Time;
use crate::format::id::SessionId;
use crate::format::snapshot::SnapshotRecord;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What counts of a commit.
struct Made {
    started: Time,
    ended: Time,
    source: String,
}

/// What was let go, told from the objects in the order in which they came to be.
#[derive(Default)]
pub(super) struct Keeping {
    /// So many of the newest snapshots of each source are kept.
    last: usize,
    /// Those that are younger than so many seconds are kept.
    age: i64,
    /// Commits that are in the store.
    made: BTreeMap<SessionId, Made>,
    /// Snapshots whose newest word on that is that they are protected.
    protected: BTreeSet<SessionId>,
    /// Snapshots of which there ever was a forgets key.
    keys: BTreeSet<SessionId>,
    /// Those whose key had an effect at some time.
    gone: BTreeSet<SessionId>,
    /// Seconds since 1970.
    now: i64,
}

impl Keeping {
    pub(super) fn new(last: u32, age: u64) -> Self {
        Self {
            last: usize::try_from(last).unwrap_or(usize::MAX),
            age: i64::try_from(age).unwrap_or(i64::MAX),
            ..Self::default()
        }
    }

    pub(super) fn tick(&mut self, now: i64) {
        self.now = self.now.max(now);
    }

    pub(super) fn committed(&mut self, sid: SessionId, record: &SnapshotRecord) {
        let sources = record.sources.iter();
        let sources: Vec<_> = sources.map(|s| (&s.connector, &s.description)).collect();
        let made = Made {
            started: record.started,
            ended: record.ended,
            source: format!("{} {:?} {sources:?}", record.host, record.project),
        };
        self.made.insert(sid, made);
    }

    pub(super) fn swept(&mut self, sid: &SessionId) {
        self.made.remove(sid);
    }

    pub(super) fn protect(&mut self, sid: SessionId, protected: bool) {
        if protected {
            self.protected.insert(sid);
        } else {
            self.protected.remove(&sid);
        }
    }

    pub(super) fn forget(&mut self, sid: SessionId) {
        self.keys.insert(sid);
    }

    /// Keys that nothing stands against now have an effect from now on. `counts` tells sessions that are not void.
    pub(super) fn settle(&mut self, counts: impl Fn(&SessionId) -> bool) {
        let open: Vec<SessionId> = self.keys.difference(&self.gone).copied().collect();
        if open.is_empty() {
            return;
        }
        let retained = self.retained(counts);
        let free = open
            .into_iter()
            .filter(|sid| !retained.contains(sid) && !self.protected.contains(sid));
        let free: Vec<SessionId> = free.collect();
        self.gone.extend(free);
    }

    fn retained(&self, counts: impl Fn(&SessionId) -> bool) -> BTreeSet<SessionId> {
        let mut all: Vec<(&SessionId, &Made)> = self.made.iter().filter(|(sid, _)| counts(sid)).collect();
        all.sort_by_key(|(sid, made)| Reverse((made.started, **sid)));
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut retained = BTreeSet::new();
        for (sid, made) in all {
            let count = counts.entry(&made.source).or_default();
            let is_young = (self.now - made.ended.seconds).max(0) < self.age;
            if *count < self.last || is_young {
                retained.insert(*sid);
            }
            *count += 1;
        }
        retained
    }

    pub(super) fn is_gone(&self, sid: &SessionId) -> bool {
        self.gone.contains(sid)
    }

    /// Whether a collector may keep a snapshot: one that was protected after it was let go may be, or not.
    pub(super) fn may_stay(&self, sid: &SessionId) -> bool {
        !self.gone.contains(sid) || self.protected.contains(sid)
    }

    /// Whether a forgets key has no effect.
    pub(super) fn withstands(&self, sid: &SessionId) -> bool {
        self.keys.contains(sid) && !self.gone.contains(sid)
    }

    /// The key was taken back.
    pub(super) fn remember(&mut self, sid: &SessionId) {
        self.keys.remove(sid);
        self.gone.remove(sid);
    }
}
