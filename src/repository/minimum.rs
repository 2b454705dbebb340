//! What a repository keeps whatever a client wants: the newest complete snapshots of each source, and those that are young
//! (`format-spec/85-sessions.md` section 5).

use crate::context::Time;
use crate::format::id::SessionId;
use crate::format::repo_config::ConfigRecord;
use crate::format::snapshot::SnapshotRecord;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

/// Clocks that are further apart than this do not agree, in seconds.
pub(crate) const CLOCKS_APART: u64 = 86_400;

/// Whether a clock that was wrong wrote `time`, if `now` is right.
pub(crate) fn is_ahead(time: Time, now: Time) -> bool {
    time > now && time.seconds.abs_diff(now.seconds) > CLOCKS_APART
}

/// The least that a repository keeps, from its configuration (`format-spec/12-config.md` section 2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Minimum {
    /// So many of the newest complete snapshots of each source.
    last: u32,
    /// Those that were seen first less than so many seconds ago.
    age: u64,
}

impl Minimum {
    /// Whether it keeps anything at all.
    pub(crate) fn is_any(self) -> bool {
        self.last > 0 || self.age > 0
    }

    /// The minimum of a repository.
    pub(crate) fn of(config: &ConfigRecord) -> Self {
        Self {
            last: config.retain_last,
            age: config.retain_age,
        }
    }

    /// Of `all` snapshots of the repository, in any order, those that it keeps, and why. Copies of one snapshot take one place and are all
    /// kept in it. Each comes with its first sight, if a note
    /// tells it; only the age rests on it, so that of snapshots that are not judged it need not be known.
    ///
    /// A snapshot that no collector has seen counts from its end, by its writer's clock. One that is stamped more than a day ahead of
    /// `now` takes the place of another only where there are not enough others.
    pub(crate) fn kept<'a>(
        self,
        all: impl IntoIterator<Item = (&'a SnapshotRecord, Option<Time>)>,
        now: Time,
    ) -> HashMap<SessionId, String> {
        let mut kept = HashMap::new();
        let mut newest = Vec::new();
        for (record, first_seen) in all {
            let since = first_seen.unwrap_or(record.ended);
            let age = now.seconds.saturating_sub(since.seconds).max(0).unsigned_abs();
            if age < self.age {
                let why = format!("the repository retains what is younger than {} seconds", self.age);
                kept.insert(record.sid, why);
            }
            if !record.partial {
                newest.push(record);
            }
        }
        newest.sort_by_key(|r| (is_ahead(r.started, now), Reverse((r.started, r.sid))));
        let mut places: HashMap<SourceKey<'_>, BTreeSet<SessionId>> = HashMap::new();
        for record in newest {
            let taken = places.entry(SourceKey::of(record)).or_default();
            let first = record.original.map_or(record.sid, |(_, sid)| sid);
            if taken.contains(&first) || taken.len() < self.last as usize {
                taken.insert(first);
                let why = format!("the repository retains the newest {} of a source", self.last);
                kept.insert(record.sid, why);
            }
        }
        kept
    }
}

/// Equal for snapshots of the same source.
#[derive(PartialEq, Eq, Hash)]
struct SourceKey<'a> {
    host: &'a str,
    project: Option<&'a str>,
    /// Connectors and what they read, in order.
    sources: Vec<(&'a str, &'a str)>,
}

impl<'a> SourceKey<'a> {
    fn of(record: &'a SnapshotRecord) -> Self {
        let sources = record.sources.iter();
        let mut sources: Vec<_> = sources
            .map(|s| (s.connector.as_str(), s.description.as_str()))
            .collect();
        sources.sort_unstable();
        Self {
            host: &record.host,
            project: record.project.as_deref(),
            sources,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::RepositoryId;
    use crate::format::snapshot::SourceRecord;

    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> Time {
        Time { seconds, nanos: 0 }
    }

    fn snapshot(number: u8, host: &str, connector: &str, day: i64) -> SnapshotRecord {
        let source = SourceRecord {
            connector: connector.into(),
            description: "shop".into(),
            version: None,
        };
        let mut record = SnapshotRecord::planned(host.into(), None, vec![source], at(day * DAY));
        record.ended = at(day * DAY);
        record.sid.random = [number; 16];
        record
    }

    fn kept(last: u32, age: u64, all: &[SnapshotRecord], now: i64) -> Vec<u8> {
        seen(last, age, all.iter().map(|record| (record, None)), now)
    }

    fn seen<'a>(
        last: u32,
        age: u64,
        all: impl Iterator<Item = (&'a SnapshotRecord, Option<Time>)>,
        now: i64,
    ) -> Vec<u8> {
        let kept = Minimum { last, age }.kept(all, at(now * DAY));
        let mut numbers: Vec<u8> = kept.keys().map(|sid| sid.random[0]).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn the_newest_of_each_source_are_kept_and_a_source_is_host_connector_and_name() {
        let all = [
            snapshot(1, "a", "files", 1),
            snapshot(2, "a", "files", 2),
            snapshot(3, "a", "postgres", 1),
            snapshot(4, "b", "files", 1),
        ];
        assert_eq!(kept(1, 0, &all, 9), [2, 3, 4]);
        assert_eq!(kept(2, 0, &all, 9), [1, 2, 3, 4]);
        assert_eq!(kept(0, 0, &all, 9), [0; 0]);
    }

    #[test]
    fn a_snapshot_of_the_future_or_a_partial_one_takes_no_place() {
        let mut all = [
            snapshot(1, "a", "files", 1),
            snapshot(2, "a", "files", 2),
            snapshot(3, "a", "files", 40_000),
            snapshot(4, "a", "files", 3),
        ];
        all[3].partial = true;
        assert_eq!(kept(1, 0, &all, 9), [2]);
        // With three places there is one for it.
        assert_eq!(kept(3, 0, &all, 9), [1, 2, 3]);
        // By a clock that stands before all of them they are as they say.
        assert_eq!(kept(1, 0, &all, -9), [3]);
    }

    #[test]
    fn copies_of_one_snapshot_take_one_place() {
        let mut all = [
            snapshot(1, "a", "files", 1),
            snapshot(2, "a", "files", 2),
            snapshot(3, "a", "files", 3),
            snapshot(4, "a", "files", 3),
        ];
        all[3].original = Some((RepositoryId([7; 16]), all[2].sid));
        assert_eq!(kept(2, 0, &all, 9), [2, 3, 4]);
        assert_eq!(kept(1, 0, &all, 9), [3, 4]);
    }

    #[test]
    fn what_is_young_by_its_first_sight_or_its_end_is_kept() {
        let all = [
            snapshot(1, "a", "files", 1),
            snapshot(2, "a", "files", 8),
            snapshot(3, "a", "files", 1),
            snapshot(4, "a", "files", 8),
        ];
        let first_seen = [None, None, Some(at(8 * DAY)), Some(at(2 * DAY))];
        let all = || all.iter().zip(first_seen);
        assert_eq!(seen(0, 2 * 86_400, all(), 9), [2, 3]);
        assert_eq!(seen(0, u64::MAX, all(), 9), [1, 2, 3, 4]);
    }
}
