//! Entries of the parent snapshot; of a table its group entry, and its segments range by range.

use crate::connector::postgres::key::{self, Place, TableName};
use crate::connector::postgres::plan::PriorRange;
use crate::connector::postgres::record::SegmentRecord;
use crate::connector::postgres::state::SegmentState;
use crate::error::Result;
use crate::snapshot::entry::{Prior, PriorEntry};
use futures::StreamExt;
use futures::stream::BoxStream;

/// The ranges of a table in the parent, ascending.
pub(super) struct PriorRanges {
    entries: BoxStream<'static, Result<PriorEntry>>,
    next: Option<PriorEntry>,
}

/// A range, and the entries of its parts.
pub(super) struct PriorSegments {
    pub(super) range: PriorRange,
    pub(super) entries: Vec<PriorEntry>,
}

/// An entry of a database in the parent.
pub(super) async fn entry(prior: &dyn Prior, database: &[u8], place: &Place) -> Option<PriorEntry> {
    let key = key::key(database, place);
    let found = prior.entries(key.clone()).next().await;
    // A parent that cannot be read counts as one that has it not.
    found.and_then(Result::ok).filter(|entry| *entry.key() == key)
}

impl PriorRanges {
    /// The table's group entry, if the parent has one, and its ranges.
    pub(super) async fn open(
        prior: &dyn Prior,
        database: &[u8],
        table: &TableName,
    ) -> (Option<PriorEntry>, Self) {
        let group = key::key(database, &Place::Table(table.clone()));
        let mut ranges = Self {
            entries: prior.entries(group.clone()),
            next: None,
        };
        ranges.advance().await;
        match ranges.next.take() {
            Some(entry) if *entry.key() == group => {
                ranges.advance().await;
                (Some(entry), ranges)
            }
            // Segments without their group prove nothing.
            _ => (None, ranges),
        }
    }

    async fn advance(&mut self) {
        // A parent that cannot be read counts as one that ended: what it had is read anew.
        self.next = self.entries.next().await.and_then(Result::ok);
    }

    /// The next range.
    pub(super) async fn next(&mut self) -> Option<PriorSegments> {
        loop {
            let entry = self.next.take()?;
            self.advance().await;
            // An entry of a later version's grammar is passed over.
            let Some((block, 0)) = place(&entry) else { continue };
            let mut segments = PriorSegments {
                range: PriorRange {
                    block,
                    ..PriorRange::default()
                },
                entries: Vec::new(),
            };
            segments.add(entry);
            while let Some(more) = self
                .next
                .take_if(|next| place(next).is_some_and(|(other, part)| other == block && part > 0))
            {
                segments.add(more);
                self.advance().await;
            }
            return Some(segments);
        }
    }
}

impl PriorSegments {
    fn add(&mut self, entry: PriorEntry) {
        // The rows of a part of a later version are not counted, so that the range is not taken for whole.
        if let Ok(record) = SegmentRecord::from_metadata(&entry.record().metadata) {
            self.range.record.rows += record.rows;
            self.range.record.sum.add(record.sum);
            self.range.bytes += entry.record().size;
            // One of the parts has it: the last, as only then all rows are known. A part that is lost is missed by its rows.
            if let Ok(state) = SegmentState::decode(entry.state()) {
                self.range.state = Some(state);
            }
        }
        self.entries.push(entry);
    }
}

/// The block and part of a segment.
fn place(entry: &PriorEntry) -> Option<(u64, u32)> {
    match key::parse(entry.key()) {
        Some((_, Place::Segment(_, segment))) => Some((segment.block, segment.part)),
        _ => None,
    }
}
