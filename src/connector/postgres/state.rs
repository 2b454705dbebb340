//! What a later snapshot needs to prove ranges unchanged (`format-spec/64-databases.md` section 7).

use crate::format::cbor::{Decoder, Encoder};
use crate::format::error::DecodeError;
use bytes::Bytes;

/// The version of these records.
const VERSION: u64 = 1;
/// The version of a report's state that has more than that of statements.
const REPORT_VERSION: u64 = 2;
/// Blocks of the widest range.
pub const RANGE_MAX: u32 = 64;

/// The state of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableState {
    /// Heap blocks of a range: a power of two, 1 to [`RANGE_MAX`]; 0 for a table without block numbers.
    pub range_blocks: u32,
    /// What makes its ranges comparable; nothing if they are not.
    pub comparison: Option<Comparison>,
}

/// What a fingerprint rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The oldest transaction that still ran when the snapshot was taken, with its epoch.
    pub snapshot_xmin: u64,
    /// How far the server's log was durable when the snapshot was kept.
    pub flushed: u64,
    /// What must be equal for ranges to be comparable.
    pub incarnation: [u8; 32],
    /// How many of a hundred ranges had changed when the table was last compared.
    pub changed_percent: u32,
}

/// The state of the last part of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentState {
    /// Rows of the whole range.
    pub rows: u64,
    /// The sum of `hashtidextended(ctid, xmin)` over them.
    pub sum: i128,
}

/// The state of the report: what a later snapshot needs beside what stands with tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportState {
    /// To take the statements over.
    pub statements: Option<StatementsState>,
    /// To leave out what WAL summaries do not name.
    pub log: Option<LogState>,
}

/// What a later snapshot needs to take the statements over (section 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementsState {
    /// The oldest transaction that still ran when the snapshot was taken, with its epoch.
    pub snapshot_xmin: u64,
    /// How far the server's log was durable when the snapshot was kept.
    pub flushed: u64,
    /// What must be equal for catalogs to be comparable.
    pub incarnation: [u8; 32],
    /// What the catalogs held.
    pub catalogs: [u8; 32],
    /// The server's time when `pg_dump` wrote the statements, in seconds since 1970.
    pub written: i64,
    /// The version of that `pg_dump`.
    pub pg_dump: String,
    /// The BLAKE3-256 of what it wrote: `1-schema`, `5-constraints`, `6-refresh`; nothing of an entry that is not there.
    pub contents: [Option<[u8; 32]>; 3],
}

/// What a later snapshot needs to leave out what WAL summaries do not name (section 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    /// A position of the server's log.
    pub position: u64,
    /// From this transaction on, with its epoch, all began behind that position; not above the snapshot's xmin.
    pub next_xid: u64,
    /// What must be equal for the log to be the same.
    pub incarnation: [u8; 32],
}

/// The longest state within another, in bytes.
const INNER_MAX: usize = 4096;
/// The longest version of `pg_dump` that is recorded, in bytes.
const VERSION_TEXT_MAX: usize = 256;

const STATEMENTS: DecodeError = DecodeError::Invalid("state of statements");
const STATE: DecodeError = DecodeError::Invalid("state of a table");

impl TableState {
    /// Its encoding.
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        let len = if self.comparison.is_some() { 6 } else { 2 };
        out.array(len).uint(VERSION).uint(self.range_blocks.into());
        if let Some(comparison) = &self.comparison {
            out.bytes(&comparison.snapshot_xmin.to_be_bytes());
            out.bytes(&comparison.flushed.to_be_bytes());
            out.bytes(&comparison.incarnation);
            out.uint(comparison.changed_percent.into());
        }
        out.finish().into()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Any class of [`DecodeError`]; `UnknownVersion` for a later version's.
    pub fn decode(state: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(state);
        let len = decoder.array(6)?;
        if decoder.uint()? != VERSION {
            return Err(DecodeError::UnknownVersion("state of a table"));
        }
        let range_blocks = decoder.uint32()?;
        if range_blocks > RANGE_MAX || !(range_blocks == 0 || range_blocks.is_power_of_two()) {
            return Err(STATE);
        }
        let comparison = match len {
            2 => None,
            6 if range_blocks > 0 => Some(Comparison {
                snapshot_xmin: u64::from_be_bytes(decoder.fixed()?),
                flushed: u64::from_be_bytes(decoder.fixed()?),
                incarnation: decoder.fixed()?,
                changed_percent: Some(decoder.uint32()?).filter(|p| *p <= 100).ok_or(STATE)?,
            }),
            _ => return Err(STATE),
        };
        decoder.finish()?;
        Ok(Self {
            range_blocks,
            comparison,
        })
    }
}

impl SegmentState {
    /// Its encoding.
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.array(2).uint(self.rows).bytes(&self.sum.to_be_bytes());
        out.finish().into()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub fn decode(state: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(state);
        decoder.array_of(2)?;
        let rows = decoder.uint()?;
        let sum = i128::from_be_bytes(decoder.fixed()?);
        decoder.finish()?;
        Ok(Self { rows, sum })
    }
}

impl ReportState {
    /// Its encoding.
    pub fn encode(&self) -> Bytes {
        let statements = self
            .statements
            .as_ref()
            .map_or_else(Bytes::new, StatementsState::encode);
        let Some(log) = &self.log else {
            return statements;
        };
        let mut out = Encoder::new();
        out.array(3).uint(REPORT_VERSION);
        out.bytes(&statements).bytes(&log.encode());
        out.finish().into()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Any class of [`DecodeError`]; `UnknownVersion` for a later version's.
    pub fn decode(state: &[u8]) -> Result<Self, DecodeError> {
        if state.is_empty() {
            return Ok(Self::default());
        }
        let mut decoder = Decoder::new(state);
        let len = decoder.array(8)?;
        let (statements, log) = match (decoder.uint()?, len) {
            (VERSION, _) => (state, None),
            (REPORT_VERSION, 3) => {
                let statements = decoder.bytes(INNER_MAX)?;
                let log = LogState::decode(decoder.bytes(INNER_MAX)?).ok();
                decoder.finish()?;
                (statements, log)
            }
            _ => return Err(DecodeError::UnknownVersion("state of a report")),
        };
        let statements = match statements {
            [] => None,
            state => Some(StatementsState::decode(state)?),
        };
        Ok(Self { statements, log })
    }
}

impl LogState {
    /// Its encoding.
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.array(4).uint(VERSION);
        out.bytes(&self.position.to_be_bytes());
        out.bytes(&self.next_xid.to_be_bytes()).bytes(&self.incarnation);
        out.finish().into()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Any class of [`DecodeError`]; `UnknownVersion` for a later version's.
    pub fn decode(state: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(state);
        decoder.array_of(4)?;
        if decoder.uint()? != VERSION {
            return Err(DecodeError::UnknownVersion("state of a log"));
        }
        let state = Self {
            position: u64::from_be_bytes(decoder.fixed()?),
            next_xid: u64::from_be_bytes(decoder.fixed()?),
            incarnation: decoder.fixed()?,
        };
        decoder.finish()?;
        Ok(state)
    }
}

impl StatementsState {
    /// Its encoding.
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.array(8).uint(VERSION);
        out.bytes(&self.snapshot_xmin.to_be_bytes());
        out.bytes(&self.flushed.to_be_bytes());
        out.bytes(&self.incarnation).bytes(&self.catalogs);
        out.int(self.written).text(&self.pg_dump);
        out.array(self.contents.len());
        for content in &self.contents {
            out.bytes(content.as_ref().map_or(&[], |hash| hash));
        }
        out.finish().into()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// Any class of [`DecodeError`]; `UnknownVersion` for a later version's.
    pub fn decode(state: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(state);
        decoder.array_of(8)?;
        if decoder.uint()? != VERSION {
            return Err(DecodeError::UnknownVersion("state of statements"));
        }
        let mut state = Self {
            snapshot_xmin: u64::from_be_bytes(decoder.fixed()?),
            flushed: u64::from_be_bytes(decoder.fixed()?),
            incarnation: decoder.fixed()?,
            catalogs: decoder.fixed()?,
            written: decoder.int()?,
            pg_dump: decoder.text(VERSION_TEXT_MAX)?.to_owned(),
            contents: [None; 3],
        };
        decoder.array_of(state.contents.len())?;
        for content in &mut state.contents {
            *content = match decoder.bytes(32)? {
                [] => None,
                hash => Some(hash.try_into().map_err(|_| STATEMENTS)?),
            };
        }
        decoder.finish()?;
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn states_read_back_as_they_were_written(
            power in 0u32..7, xmin: u64, flushed: u64, incarnation: [u8; 32], changed_percent in 0u32..101, rows: u64, sum: i128
        ) {
            let comparison = Comparison { snapshot_xmin: xmin, flushed, incarnation, changed_percent };
            let state = TableState { range_blocks: 1 << power, comparison: Some(comparison) };
            prop_assert_eq!(TableState::decode(&state.encode()).unwrap(), state);
            let bare = TableState { range_blocks: 0, comparison: None };
            prop_assert_eq!(TableState::decode(&bare.encode()).unwrap(), bare);
            let segment = SegmentState { rows, sum };
            prop_assert_eq!(SegmentState::decode(&segment.encode()).unwrap(), segment);
            let log = LogState { position: flushed, next_xid: xmin, incarnation };
            prop_assert_eq!(LogState::decode(&log.encode()).unwrap(), log);
        }

        #[test]
        fn the_state_of_statements_reads_back(
            xmin: u64, flushed: u64, incarnation: [u8; 32], catalogs: [u8; 32], written: i64, pg_dump in "[0-9.a-z]{0,20}",
            contents: [Option<[u8; 32]>; 3]
        ) {
            let state = StatementsState { snapshot_xmin: xmin, flushed, incarnation, catalogs, written, pg_dump, contents };
            prop_assert_eq!(&StatementsState::decode(&state.encode()).unwrap(), &state);
            let log = LogState { position: flushed, next_xid: xmin, incarnation };
            for (statements, log) in [(None, None), (Some(&state), None), (None, Some(log)), (Some(&state), Some(log))] {
                let report = ReportState { statements: statements.cloned(), log };
                prop_assert_eq!(ReportState::decode(&report.encode()).unwrap(), report);
            }
        }

        #[test]
        fn other_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TableState::decode(&bytes);
            let _ = SegmentState::decode(&bytes);
            let _ = StatementsState::decode(&bytes);
            let _ = LogState::decode(&bytes);
            let _ = ReportState::decode(&bytes);
        }
    }

    #[test]
    fn a_range_that_is_no_power_of_two_is_refused() {
        for range_blocks in [3, 65, 128] {
            let state = TableState {
                range_blocks,
                comparison: None,
            };
            assert!(TableState::decode(&state.encode()).is_err());
        }
    }
}
