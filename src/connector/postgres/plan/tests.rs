use super::*;
use crate::connector::postgres::record::RowSum;
use proptest::prelude::*;

fn present() -> Present<'static> {
    Present {
        obstacle: None,
        incarnation: [7; 32],
        snapshot_xmin: 1000,
        snapshot_xmax: 1010,
        position: 500,
    }
}

fn prior() -> TableState {
    TableState {
        range_blocks: 16,
        comparison: Some(Comparison {
            snapshot_xmin: 900,
            flushed: 400,
            incarnation: [7; 32],
            changed_percent: 0,
        }),
    }
}

fn prior_with(change: fn(&mut Comparison)) -> TableState {
    let mut prior = prior();
    prior.comparison.iter_mut().for_each(change);
    prior
}

#[test]
fn a_table_is_compared_only_within_one_history() {
    let compare = Approach::Compare {
        range_blocks: 16,
        since: 900,
    };
    assert_eq!(approach(Some(&prior()), &present()), compare);
    let full = |prior: Option<&TableState>| matches!(approach(prior, &present()), Approach::Full(_));
    assert!(full(None));
    assert!(full(Some(&prior_with(|c| c.incarnation = [8; 32]))));
    assert!(full(Some(&prior_with(|c| c.flushed = 501))));
    assert!(full(Some(&prior_with(|c| c.snapshot_xmin = 1011))));
    let bare = TableState {
        range_blocks: 16,
        comparison: None,
    };
    assert!(full(Some(&bare)));
    let hot = prior_with(|c| c.changed_percent = CHANGED_MOST + 1);
    assert!(matches!(approach(Some(&hot), &present()), Approach::Full(_)));
    let obstacle = Present {
        obstacle: Some("no"),
        ..present()
    };
    assert_eq!(
        approach(Some(&prior()), &obstacle),
        Approach::Unmarked("no".into())
    );
}

#[test]
fn transactions_too_far_apart_are_not_compared() {
    let far = |distance: u64| Present {
        snapshot_xmax: 900 + distance,
        ..present()
    };
    let compared = |distance| matches!(approach(Some(&prior()), &far(distance)), Approach::Compare { .. });
    assert!(compared(1 << 30) && compared(DISTANCE_MAX));
    assert!(
        !compared(DISTANCE_MAX + 1) && !compared(1 << 31) && !compared(1 << 32) && !compared((1 << 32) + 5)
    );
    let comparison = prior().comparison.unwrap();
    assert!(still_serves(&comparison, &far(100)));
    assert!(!still_serves(&comparison, &far(DISTANCE_RENEW)));
}

fn fingerprint() -> Fingerprint {
    Fingerprint {
        block: 32,
        rows: 10,
        sum: -5,
        written: false,
    }
}

fn prior_range() -> PriorRange {
    PriorRange {
        block: 32,
        state: Some(SegmentState { rows: 10, sum: -5 }),
        record: SegmentRecord {
            rows: 10,
            sum: RowSum(1),
        },
        bytes: 100,
    }
}

#[test]
fn a_range_is_unchanged_only_if_nothing_speaks_against_it() {
    assert!(unchanged(&fingerprint(), &prior_range()));
    let fingerprints: [fn(&mut Fingerprint); 4] = [
        |f| f.block = 48,
        |f| f.rows = 9,
        |f| f.sum = 5,
        |f| f.written = true,
    ];
    for change in fingerprints {
        let mut now = fingerprint();
        change(&mut now);
        assert!(!unchanged(&now, &prior_range()), "{now:?}");
    }
    // The last: a part of the range was lost with its blobs.
    let priors: [fn(&mut PriorRange); 2] = [|p| p.state = None, |p| p.record.rows = 9];
    for change in priors {
        let mut prior = prior_range();
        change(&mut prior);
        assert!(!unchanged(&fingerprint(), &prior), "{prior:?}");
    }
}

#[test]
fn shares_are_rounded_up() {
    assert_eq!(
        [
            percent(0, 0),
            percent(0, 9),
            percent(1, 1000),
            percent(3, 5),
            percent(9, 9)
        ],
        [0, 0, 1, 60, 100]
    );
}

proptest! {
    #[test]
    fn ranges_keep_what_was_put_and_runs_cover_what_is_read(
        marks in proptest::collection::vec((1u64..5, 1u32..18_000, -(1i128 << 77)..(1i128 << 77), any::<bool>()), 0..200),
        power in 0u32..7,
    ) {
        let mut ranges = Ranges::new(1 << power);
        let mut expected = Vec::new();
        let mut index = 0;
        for (step, rows, sum, read) in marks {
            index += step;
            let now = Fingerprint { block: index << power, rows, sum, written: false };
            ranges.push(&now, read);
            let state = Some(SegmentState { rows: rows.into(), sum });
            expected.push(Range { block: now.block, state, read });
        }
        let held: Vec<Range> = ranges.iter().filter(|range| range.state.is_some()).collect();
        prop_assert_eq!(&held, &expected);
        for range in &expected {
            prop_assert_eq!(ranges.of_block(range.block), Some(*range));
        }
        let read: Vec<Range> = expected.iter().filter(|range| range.read).copied().collect();
        prop_assert_eq!(ranges.counts(), (expected.len() as u64, read.len() as u64));
        let (mut from, mut covered) = (0, Vec::new());
        while let Some((run, next)) = ranges.run(from) {
            let blocks: u64 = ranges.intervals(&run).iter().map(|(low, high)| high - low).sum();
            prop_assert_eq!(blocks, (run.len() as u64) << power);
            prop_assert!(run.len() <= RUN_RANGES);
            covered.extend(run);
            from = next;
        }
        prop_assert_eq!(covered, read);
    }
}
