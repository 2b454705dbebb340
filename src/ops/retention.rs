//! Which snapshots a policy keeps, and why. Pure: snapshots, a policy and a time zone in, reasons out.

use crate::context::Time;
use crate::error::{Error, ErrorKind, Result};
use crate::repository::is_ahead;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// What to keep. Rules add up: a snapshot is kept that any of them keeps.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The newest so many.
    pub last: Option<u32>,
    /// For each period the newest snapshot of so many periods that have one.
    pub periods: Vec<(Period, u32)>,
    /// Everything that is at most so much older than the newest that counts, [`Policy::reasons`] tells which.
    pub within: Option<Span>,
    /// For each period its newest snapshot, as far back from the same one.
    pub periods_within: Vec<(Period, Span)>,
    /// Snapshots with all tags of one of these groups.
    pub tags: Vec<Vec<String>>,
}

/// A stretch of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// A snapshot, as far as policies care.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// When it was made.
    pub time: Time,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether it lacks something: it never takes the place of a complete one.
    pub partial: bool,
}

impl Policy {
    /// Whether it has no rule: such a policy would keep nothing.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
            && self.periods.is_empty()
            && self.within.is_none()
            && self.periods_within.is_empty()
            && self.tags.is_empty()
    }

    /// For each snapshot of a group, **newest first**, why it is kept; no reason means that it goes.
    ///
    /// Counting rules count complete snapshots. A partial one is kept by them only while no newer one is complete: it may be all that
    /// there is of its days. Lengths of time run back from the newest complete snapshot that is at most a day ahead of `now`, not
    /// from now: neither a snapshot stamped by a clock that is wrong, nor a machine that was off for a year, costs another. Where
    /// there is no such snapshot, none is too old.
    ///
    /// # Errors
    /// `Invalid` for a length of time that reaches over the ends of the calendar.
    pub fn reasons(&self, snapshots: &[Candidate], zone: &TimeZone, now: Time) -> Result<Vec<Vec<String>>> {
        let times: Vec<Zoned> = snapshots.iter().map(|s| zoned(s.time, zone)).collect();
        let mut reasons = vec![Vec::new(); snapshots.len()];
        let mut keep = |index: usize, why: String| {
            if let Some(reasons) = reasons.get_mut(index) {
                reasons.push(why);
            }
        };
        let newest = |s: &Candidate| !s.partial && !is_ahead(s.time, now);
        let newest = snapshots.iter().position(newest).and_then(|at| times.get(at));
        let first_complete = snapshots.iter().position(|s| !s.partial);
        let counted = snapshots.iter().enumerate().filter(|(_, s)| !s.partial);
        let complete: Vec<usize> = counted.map(|(index, _)| index).collect();
        for (rank, index) in complete.iter().enumerate() {
            if self.last.is_some_and(|last| rank < last as usize) {
                keep(*index, "last".to_owned());
            }
        }
        for (period, count) in &self.periods {
            for index in newest_of_each(*period, &complete, &times).take(*count as usize) {
                keep(index, period.word().to_owned());
            }
        }
        for (period, span) in &self.periods_within {
            let limit = back(newest, *span)?;
            for index in newest_of_each(*period, &complete, &times) {
                if times.get(index) >= limit.as_ref() {
                    keep(index, format!("{} within {span:#}", period.word()));
                }
            }
        }
        if let Some(span) = self.within {
            let limit = back(newest, span)?;
            for (index, time) in times.iter().enumerate() {
                if Some(time) >= limit.as_ref() {
                    keep(index, format!("within {span:#}"));
                }
            }
        }
        for (index, snapshot) in snapshots.iter().enumerate() {
            let has = |all: &&Vec<String>| all.iter().all(|tag| snapshot.tags.contains(tag));
            if let Some(tags) = self.tags.iter().find(has) {
                keep(index, format!("tag {}", tags.join(",")));
            }
            let counts = self.last.is_some() || !self.periods.is_empty() || !self.periods_within.is_empty();
            if counts && snapshot.partial && first_complete.is_none_or(|first| index < first) {
                keep(index, "newer than any complete one".to_owned());
            }
        }
        Ok(reasons)
    }
}

impl Period {
    /// The word for what it keeps.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// Equal for moments of the same period.
    fn of(self, time: &Zoned) -> [i16; 4] {
        let (year, month, day) = (time.year(), i16::from(time.month()), i16::from(time.day()));
        match self {
            Self::Hour => [year, month, day, i16::from(time.hour())],
            Self::Day => [year, month, day, 0],
            Self::Week => {
                let week = time.date().iso_week_date();
                [week.year(), i16::from(week.week()), 0, 0]
            }
            Self::Month => [year, month, 0, 0],
            Self::Year => [year, 0, 0, 0],
        }
    }
}

/// Of those `complete`, newest first, the first of each period.
fn newest_of_each<'a>(
    period: Period,
    complete: &'a [usize],
    times: &'a [Zoned],
) -> impl Iterator<Item = usize> + 'a {
    let mut last = None;
    complete.iter().copied().filter(move |index| {
        let this = times.get(*index).map(|time| period.of(time));
        this != std::mem::replace(&mut last, this)
    })
}

/// The moment so long before the newest; none if there is none, and every moment is later than that.
fn back(newest: Option<&Zoned>, span: Span) -> Result<Option<Zoned>> {
    let limit = newest.map(|newest| newest.checked_sub(span)).transpose();
    limit.map_err(|error| Error::new(ErrorKind::Invalid, "a length of time is too long").because(error))
}

/// A moment outside the calendar is at its nearer end: what a wrong clock wrote must not stop a policy.
fn zoned(time: Time, zone: &TimeZone) -> Zoned {
    let end = if time.seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    let moment = Timestamp::new(time.seconds, i32::try_from(time.nanos).unwrap_or(0)).unwrap_or(end);
    moment.to_zoned(zone.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Later than every snapshot here that has a time of this world.
    const NOW: Time = Time {
        seconds: 4_000_000_000,
        nanos: 0,
    };

    fn at(seconds: i64, partial: bool) -> Candidate {
        Candidate {
            time: Time { seconds, nanos: 0 },
            tags: Vec::new(),
            partial,
        }
    }

    /// Newest first.
    fn group(mut all: Vec<Candidate>) -> Vec<Candidate> {
        all.sort_by_key(|s| std::cmp::Reverse(s.time));
        all
    }

    #[test]
    fn a_year_of_nightly_snapshots_keeps_a_week_of_days_then_weeks_then_months() {
        let nights = group((0..400).map(|n| at(1_767_222_000 + n * 86_400, false)).collect());
        let policy = Policy {
            periods: vec![(Period::Day, 7), (Period::Week, 4), (Period::Month, 12)],
            ..Policy::default()
        };
        let reasons = policy.reasons(&nights, &TimeZone::UTC, NOW).unwrap();
        let kept: Vec<usize> = (0..400).filter(|n| !reasons[*n].is_empty()).collect();
        assert_eq!(kept[..7], [0, 1, 2, 3, 4, 5, 6]);
        assert!((18..=22).contains(&kept.len()), "{}", kept.len());
        assert!(reasons[0].contains(&"monthly".to_owned()), "{:?}", reasons[0]);
    }

    #[test]
    fn a_partial_snapshot_never_takes_the_place_of_a_complete_one() {
        let snapshots = group(vec![at(500, true), at(400, false), at(300, true), at(200, false)]);
        let policy = Policy {
            last: Some(1),
            ..Policy::default()
        };
        let reasons = policy.reasons(&snapshots, &TimeZone::UTC, NOW).unwrap();
        let kept: Vec<bool> = reasons.iter().map(|r| !r.is_empty()).collect();
        assert_eq!(kept, [true, true, false, false]);
    }

    #[test]
    fn lengths_of_time_run_back_from_the_newest_snapshot() {
        let day = 86_400;
        let snapshots = group((0..10).map(|n| at(n * day, false)).collect());
        let policy = Policy {
            within: Some(3.days()),
            ..Policy::default()
        };
        let reasons = policy.reasons(&snapshots, &TimeZone::UTC, NOW).unwrap();
        assert_eq!(reasons.iter().filter(|r| !r.is_empty()).count(), 4);
    }

    #[test]
    fn lengths_of_time_do_not_run_back_from_a_partial_snapshot_nor_from_one_of_the_future() {
        let day = 86_400;
        let mut all: Vec<Candidate> = (0..10).map(|n| at(n * day, false)).collect();
        all.extend([at(100 * day, true), at(40_000 * day, false)]);
        let snapshots = group(all);
        let now = Time {
            seconds: 101 * day,
            nanos: 0,
        };
        let kept = |policy: Policy, now: Time| -> Vec<usize> {
            let reasons = policy.reasons(&snapshots, &TimeZone::UTC, now).unwrap();
            (0..12).filter(|n| !reasons[*n].is_empty()).collect()
        };
        let within = || Policy {
            within: Some(3.days()),
            ..Policy::default()
        };
        assert_eq!(kept(within(), now), [0, 1, 2, 3, 4, 5]);
        let daily = || Policy {
            periods_within: vec![(Period::Day, 3.days())],
            ..Policy::default()
        };
        assert_eq!(kept(daily(), now), [0, 2, 3, 4, 5]);
        // By a clock that stands before all of them none is too old.
        let before = Time {
            seconds: -9 * day,
            nanos: 0,
        };
        assert_eq!(kept(within(), before).len(), 12);
        assert_eq!(kept(daily(), before).len(), 11);
    }

    #[test]
    fn a_time_that_no_calendar_has_stops_nothing() {
        let snapshots = group(vec![at(i64::MAX, false), at(0, false), at(i64::MIN, false)]);
        let policy = Policy {
            last: Some(2),
            periods: vec![(Period::Year, 1)],
            ..Policy::default()
        };
        assert_eq!(policy.reasons(&snapshots, &TimeZone::UTC, NOW).unwrap().len(), 3);
    }

    proptest! {
        /// The naive model: of each rule, which snapshots it names, by looking at all others.
        #[test]
        fn the_rules_keep_what_looking_at_all_others_says(
            seconds in proptest::collection::vec(0i64..40_000_000, 0..40),
            last in 0u32..5,
            daily in 0u32..5,
            monthly in 0u32..5,
        ) {
            let distinct: BTreeSet<i64> = seconds.into_iter().collect();
            let snapshots = group(distinct.into_iter().map(|s| at(s, false)).collect());
            let policy = Policy {
                last: Some(last),
                periods: vec![(Period::Day, daily), (Period::Month, monthly)],
                ..Policy::default()
            };
            let reasons = policy.reasons(&snapshots, &TimeZone::UTC, NOW).unwrap();
            let day = |s: &Candidate| s.time.seconds / 86_400;
            let month = |s: &Candidate| zoned(s.time, &TimeZone::UTC).strftime("%Y-%m").to_string();
            for (snapshot, reasons) in snapshots.iter().zip(&reasons) {
                let newer: Vec<&Candidate> = snapshots.iter().filter(|s| s.time > snapshot.time).collect();
                let days: BTreeSet<i64> = newer.iter().map(|s| day(s)).collect();
                let months: BTreeSet<String> = newer.iter().map(|s| month(s)).collect();
                let expected = newer.len() < last as usize
                    || (!days.contains(&day(snapshot)) && days.len() < daily as usize)
                    || (!months.contains(&month(snapshot)) && months.len() < monthly as usize);
                prop_assert_eq!(expected, !reasons.is_empty(), "{:?}", snapshot);
            }
        }
    }
}
