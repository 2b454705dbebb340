//! What of a table must be read: prior states and fingerprints in, one verdict for each range out. Pure.

pub mod statements;

use super::fingerprint::Fingerprint;
use super::record::SegmentRecord;
use super::state::{Comparison, SegmentState, TableState};

/// The greatest distance between two snapshots' transactions that is compared: numbers in rows have 32 bits, and ages are signed. What
/// is left to 2³¹ is for transactions that begin while the table is read.
const DISTANCE_MAX: u64 = (1 << 31) - (1 << 28);
/// A table's record is written anew when its snapshot is so far away, changed or not.
const DISTANCE_RENEW: u64 = 1 << 30;
/// A table that changed by more than so many of a hundred ranges is read in full next time, without fingerprints.
pub const CHANGED_MOST: u32 = 60;
/// One past the most rows that are noted of a range.
const ROWS_END: u32 = 1 << 31;
/// Ranges that one statement reads.
pub const RUN_RANGES: usize = 16;

/// What is known of a table before its rows are looked at.
#[derive(Clone, Debug)]
pub struct Present<'a> {
    /// Why ranges of it cannot be compared, if so.
    pub obstacle: Option<&'a str>,
    /// What must be equal.
    pub incarnation: [u8; 32],
    /// The oldest transaction that still runs.
    pub snapshot_xmin: u64,
    /// The first transaction that has not begun.
    pub snapshot_xmax: u64,
    /// Where the log ends.
    pub position: u64,
}

/// How to go about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approach {
    /// Fingerprint it with the parent's ranges and read what changed.
    Compare {
        /// Blocks of a range.
        range_blocks: u32,
        /// The parent's oldest running transaction.
        since: u64,
    },
    /// Read everything, and fingerprint what comes for the next time.
    Full(String),
    /// Read everything; fingerprints would be of no use.
    Unmarked(String),
}

/// Decides from the parent's state of the table, if it has one.
pub fn approach(prior: Option<&TableState>, present: &Present<'_>) -> Approach {
    if let Some(obstacle) = present.obstacle {
        return Approach::Unmarked(obstacle.to_owned());
    }
    let full = |why: &str| Approach::Full(why.to_owned());
    let Some(prior) = prior else {
        return full("it is not in the snapshot compared with");
    };
    let Some(comparison) = &prior.comparison else {
        return full("the snapshot compared with has no fingerprints of it");
    };
    if comparison.incarnation != present.incarnation {
        return full("its server, file, columns or reader are not those of the snapshot compared with");
    }
    let distance = present.snapshot_xmax.checked_sub(comparison.snapshot_xmin);
    if distance.is_none_or(|distance| distance > DISTANCE_MAX) || present.position < comparison.flushed {
        return full("the server's history does not follow that of the snapshot compared with");
    }
    if comparison.changed_percent > CHANGED_MOST {
        return full("most of it had changed when it was last compared");
    }
    Approach::Compare {
        range_blocks: prior.range_blocks,
        since: comparison.snapshot_xmin,
    }
}

/// Whether the parent's record of a table still serves the next comparison.
pub fn still_serves(comparison: &Comparison, present: &Present<'_>) -> bool {
    present.snapshot_xmax.saturating_sub(comparison.snapshot_xmin) < DISTANCE_RENEW
}

/// What the parent has of a range: its parts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PriorRange {
    /// The first block.
    pub block: u64,
    /// What its parts say of the range, if they say something.
    pub state: Option<SegmentState>,
    /// Rows of all parts that can be had.
    pub record: SegmentRecord,
    /// Bytes of their text.
    pub bytes: u64,
}

/// Whether a range is proven to hold the rows that the parent has of it.
///
/// A visible row that no transaction since the parent's snapshot has written was visible there too, at the same place with the same
/// bytes; so the rows now are some of the rows then, and as many. The sum is a second lock.
pub fn unchanged(now: &Fingerprint, prior: &PriorRange) -> bool {
    let same = |state: SegmentState| state.rows == u64::from(now.rows) && state.sum == now.sum;
    // A part that was lost with its blobs is not shown; then the parts that are shown have fewer rows.
    prior.block == now.block
        && !now.written
        && prior.state.is_some_and(same)
        && prior.record.rows == u64::from(now.rows)
}

/// Whether a range certainly has other rows than those that the parent shows whole. A server may sum otherwise than we do, and what is
/// frozen may bear a number that has come round again.
pub fn differ(now: &Fingerprint, prior: &PriorRange) -> bool {
    prior
        .state
        .is_none_or(|state| state.rows != u64::from(now.rows) || (now.written && state.sum != now.sum))
}

/// What a fingerprint would say of a range that did not change; nothing if the parent does not show all of it.
pub fn shown_whole(prior: &PriorRange, range_blocks: u32) -> Option<Fingerprint> {
    let state = prior.state.filter(|state| state.rows == prior.record.rows)?;
    // What no server ever said is not whole.
    let rows = u32::try_from(state.rows).ok();
    let rows =
        rows.filter(|rows| (1..ROWS_END).contains(rows) && prior.block.is_multiple_of(range_blocks.into()));
    Some(Fingerprint {
        block: prior.block,
        rows: rows?,
        sum: state.sum,
        written: false,
    })
}

/// The ranges of a table, with a verdict each; 16 bytes a range.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    range_blocks: u32,
    /// Fingerprints come with the rows.
    marked_by_rows: bool,
    packed: Vec<Packed>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Packed {
    /// Rows, doubled; the lowest bit says that the range is read.
    rows_and_read: u32,
    sum_high: i32,
    sum_low: u64,
}

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first block.
    pub block: u64,
    /// What its fingerprint says; nothing where none was taken.
    pub state: Option<SegmentState>,
    /// Whether it must be read.
    pub read: bool,
}

impl Ranges {
    /// No ranges yet, of so many blocks each.
    pub fn new(range_blocks: u32) -> Self {
        Self {
            range_blocks: range_blocks.max(1),
            marked_by_rows: false,
            packed: Vec::new(),
        }
    }

    /// All ranges of a table of so many blocks, to be read, without fingerprints.
    pub fn unmarked(range_blocks: u32, blocks: u64) -> Self {
        let mut ranges = Self::new(range_blocks);
        let count = blocks.div_ceil(u64::from(ranges.range_blocks));
        let read = Packed {
            rows_and_read: 1,
            ..Packed::default()
        };
        ranges.packed = vec![read; usize::try_from(count).unwrap_or(usize::MAX)];
        ranges
    }

    /// The same, to be fingerprinted as the rows come: the server need not read its heap twice.
    #[must_use]
    pub fn marked_by_rows(mut self) -> Self {
        self.marked_by_rows = true;
        self
    }

    /// Whether fingerprints come with the rows.
    pub fn are_marked_by_rows(&self) -> bool {
        self.marked_by_rows
    }

    /// Blocks of a range.
    pub fn range_blocks(&self) -> u32 {
        self.range_blocks
    }

    /// Adds the next range that holds rows.
    pub fn push(&mut self, now: &Fingerprint, read: bool) {
        let index = usize::try_from(now.block / u64::from(self.range_blocks)).unwrap_or(usize::MAX);
        self.packed.resize(index, Packed::default());
        self.packed.push(Packed {
            rows_and_read: now.rows << 1 | u32::from(read),
            // A range has under 2¹⁵ rows, so that sums have under 80 bits.
            sum_high: i32::try_from(now.sum >> 64).unwrap_or(i32::MAX),
            sum_low: u64::try_from(now.sum & i128::from(u64::MAX)).unwrap_or(0),
        });
    }

    /// Has everything read.
    pub fn read_all(&mut self) {
        for range in &mut self.packed {
            if range.rows_and_read > 0 {
                range.rows_and_read |= 1;
            }
        }
    }

    /// The range of this number, counted from the beginning of the table.
    pub fn number(&self, index: usize) -> Option<Range> {
        let packed = self.packed.get(index)?;
        let rows = packed.rows_and_read >> 1;
        let state = SegmentState {
            rows: rows.into(),
            sum: i128::from(packed.sum_high) << 64 | i128::from(packed.sum_low),
        };
        Some(Range {
            block: index as u64 * u64::from(self.range_blocks),
            state: Some(state).filter(|_| rows > 0),
            read: packed.rows_and_read & 1 == 1,
        })
    }

    /// The range that begins at `block`.
    pub fn of_block(&self, block: u64) -> Option<Range> {
        let index = usize::try_from(block / u64::from(self.range_blocks)).ok()?;
        self.number(index).filter(|range| range.block == block)
    }

    /// All ranges, ascending, those without rows too.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        (0..self.packed.len()).filter_map(|index| self.number(index))
    }

    /// Ranges that hold rows, and those of them that are read.
    pub fn counts(&self) -> (u64, u64) {
        let held = self.packed.iter().filter(|range| range.rows_and_read > 0);
        held.fold((0, 0), |(all, read), range| {
            (all + 1, read + u64::from(range.rows_and_read & 1))
        })
    }

    /// The next ranges that one statement reads, from the range number `from` on, and where to go on.
    pub fn run(&self, from: usize) -> Option<(Vec<Range>, usize)> {
        let mut found = Vec::new();
        let mut index = from;
        while found.len() < RUN_RANGES {
            let Some(range) = self.number(index) else { break };
            found.extend(Some(range).filter(|range| range.read));
            index += 1;
        }
        if found.is_empty() {
            None
        } else {
            Some((found, index))
        }
    }

    /// The blocks of a run as intervals `[from, to)`, neighbours joined.
    pub fn intervals(&self, run: &[Range]) -> Vec<(u64, u64)> {
        let mut intervals: Vec<(u64, u64)> = Vec::new();
        for range in run {
            let end = range.block + u64::from(self.range_blocks);
            match intervals.last_mut() {
                Some(last) if last.1 == range.block => last.1 = end,
                _ => intervals.push((range.block, end)),
            }
        }
        intervals
    }
}

/// How many of a hundred ranges changed, rounded up.
pub fn percent(changed: u64, all: u64) -> u32 {
    u32::try_from((changed * 100).div_ceil(all.max(1)))
        .unwrap_or(100)
        .min(100)
}

#[cfg(test)]
mod tests;
