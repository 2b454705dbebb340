//! What a server's WAL summaries (17 and later) tell: which blocks of which files were written between two positions of its log
//! (`format-spec/64-databases.md` section 10).

use super::Table;
use super::query::{Catalog, Parameter, get};
use crate::connector::postgres::connect::Connection;
use crate::error::Result;
use futures::TryStreamExt;
use std::collections::HashMap;
use std::ops::Range;
use tokio_postgres::Row;
use tokio_postgres::types::{PgLsn, Type};

/// What is asked of a server's summaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The timeline of the log.
    pub(crate) timeline: u32,
    /// The positions to know everything between.
    pub(crate) since: u64,
    pub(crate) until: u64,
    /// The database.
    pub(crate) database: u32,
}

/// Whether there are summaries of all that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coverage {
    Whole,
    /// Not of the end yet.
    Begun,
    /// The beginning is gone, or something between.
    Broken,
}

/// The blocks of each table of a database that were written.
#[derive(Debug, Default)]
pub(crate) struct WrittenBlocks {
    files: HashMap<u32, WrittenFile>,
}

/// The blocks of one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct WrittenFile {
    filenode: u32,
    /// By 64, ascending: a bit for each.
    units: Vec<(u32, u64)>,
    /// From this block on anything may have been: the file was cut there.
    limit: Option<u64>,
}

/// The summaries that reach behind the beginning of what is asked for.
const SUMMARIES: &str = "SELECT s.tli, s.start_lsn, s.end_lsn FROM pg_catalog.pg_available_wal_summaries() s
    WHERE s.tli = $1 AND s.end_lsn > $2";
/// Blocks of a unit: a bit each.
const UNIT: u64 = 64;

/// Whether the summaries that there are now serve.
///
/// # Errors
/// `Source` if the server cannot be asked.
pub(crate) async fn coverage(connection: &Connection, question: &Question) -> Result<Coverage> {
    let (timeline, since) = (i64::from(question.timeline), PgLsn::from(question.since));
    let parameters: [Parameter<'_>; 2] = [(&timeline, Type::INT8), (&since, Type::PG_LSN)];
    let catalog = Catalog::of(connection);
    let rows = catalog.rows("WAL summaries", SUMMARIES, &parameters).await?;
    let interval = |row: &Row| Ok((get::<PgLsn>(row, 1)?.into(), get::<PgLsn>(row, 2)?.into()));
    let intervals = rows.iter().map(interval).collect::<Result<Vec<_>>>()?;
    Ok(covers(intervals, question))
}

/// What was written, as summaries tell that are all there; of the tables that have a file now. Nothing if they are not there, or more than
/// `most` times 64 neighbouring blocks were touched.
///
/// # Errors
/// `Source` if the server cannot be asked.
pub(crate) async fn written(
    connection: &Connection,
    question: &Question,
    most: usize,
) -> Result<Option<WrittenBlocks>> {
    let (timeline, since, database) = (
        i64::from(question.timeline),
        PgLsn::from(question.since),
        question.database,
    );
    let parameters: [Parameter<'_>; 3] = [
        (&timeline, Type::INT8),
        (&since, Type::PG_LSN),
        (&database, Type::OID),
    ];
    // One statement, so that no summary goes between the look at which there are and the look into them. Of each table its file, so that
    // one of which nothing is told is none of which nothing was asked; file 0 stands for the whole database.
    let sql = format!(
        "WITH a AS MATERIALIZED ({SUMMARIES}),
         t AS MATERIALIZED (SELECT k.oid, pg_catalog.pg_relation_filenode(k.oid) AS file,
             CASE k.reltablespace WHEN 0 THEN d.dattablespace ELSE k.reltablespace END AS space
             FROM pg_catalog.pg_class k, pg_catalog.pg_database d WHERE d.oid = $3 AND k.relkind = 'r' AND k.relpersistence = 'p'
             UNION ALL SELECT 0::oid, 0::oid, s.oid FROM pg_catalog.pg_tablespace s),
         u AS (SELECT c.relfilenode AS file, c.reltablespace AS space, c.relblocknumber / {UNIT} AS unit,
             pg_catalog.bit_or(1::int8 << (c.relblocknumber % {UNIT})::int4) AS blocks,
             pg_catalog.min(c.relblocknumber) FILTER (WHERE c.is_limit_block) AS cut
             FROM a CROSS JOIN LATERAL pg_catalog.pg_wal_summary_contents(a.tli, a.start_lsn, a.end_lsn) c
             WHERE c.reldatabase = $3 AND (c.relforknumber = 0 OR c.relfilenode = 0) GROUP BY 1, 2, 3)
         SELECT NULL::oid, (a.start_lsn - '0/0'::pg_lsn)::int8, (a.end_lsn - '0/0'::pg_lsn)::int8, NULL::int8 FROM a
         UNION ALL SELECT t.oid, t.file::int8, NULL, NULL FROM t WHERE t.file > 0
         UNION ALL (SELECT t.oid, u.unit, u.blocks, u.cut FROM u JOIN t ON t.file = u.file AND t.space = u.space LIMIT {})",
        most.saturating_add(1)
    );
    let catalog = Catalog::of(connection);
    let mut rows = catalog.stream("WAL summaries", &sql, &parameters).await?;
    let (mut intervals, mut found, mut touched) = (Vec::new(), WrittenBlocks::default(), 0);
    while let Some(row) = rows.try_next().await? {
        match Told::read(&row)? {
            Told::Summary(from, to) => intervals.push((from, to)),
            Told::File(table, filenode) => found.file(table).filenode = filenode,
            Told::Blocks(0, ..) => return Ok(None),
            Told::Blocks(table, unit, limit) => {
                touched += 1;
                if touched > most {
                    return Ok(None);
                }
                found.file(table).add(unit, limit);
            }
        }
    }
    for file in found.files.values_mut() {
        file.units.sort_unstable();
    }
    Ok(Some(found).filter(|_| covers(intervals, question) == Coverage::Whole))
}

/// What one row tells.
enum Told {
    /// There is a summary from here to there.
    Summary(u64, u64),
    /// A table has this file.
    File(u32, u32),
    /// A unit of a table was touched: its number and blocks, and where the file was cut.
    Blocks(u32, (u32, u64), Option<u64>),
}

impl Told {
    fn read(row: &Row) -> Result<Self> {
        let number = |index| get::<Option<i64>>(row, index).map(|n| n.unwrap_or(0).cast_unsigned());
        let (first, second) = (number(1)?, number(2)?);
        let Some(table) = get::<Option<u32>>(row, 0)? else {
            return Ok(Self::Summary(first, second));
        };
        let small = u32::try_from(first).unwrap_or(u32::MAX);
        if get::<Option<i64>>(row, 2)?.is_none() {
            return Ok(Self::File(table, small));
        }
        let limit = get::<Option<i64>>(row, 3)?.map(i64::cast_unsigned);
        Ok(Self::Blocks(table, (small, second), limit))
    }
}

/// Whether summaries of these intervals tell all that is asked for.
fn covers(mut intervals: Vec<(u64, u64)>, question: &Question) -> Coverage {
    intervals.sort_unstable();
    // A log has grown since its checkpoint: one that has not is another.
    if question.since >= question.until {
        return Coverage::Broken;
    }
    let mut known = question.since;
    for (from, to) in intervals {
        if from > known {
            return Coverage::Broken;
        }
        known = known.max(to);
    }
    if known >= question.until {
        Coverage::Whole
    } else {
        Coverage::Begun
    }
}

impl WrittenBlocks {
    fn file(&mut self, table: u32) -> &mut WrittenFile {
        self.files.entry(table).or_default()
    }

    /// The blocks of a table that is locked; nothing if it has another file by now than when this was asked.
    pub(crate) fn of(&self, table: &Table) -> Option<&WrittenFile> {
        let file = self.files.get(&table.oid)?;
        Some(file).filter(|file| file.filenode == table.filenode)
    }
}

impl WrittenFile {
    fn add(&mut self, unit: (u32, u64), limit: Option<u64>) {
        self.units.push(unit);
        if let Some(limit) = limit {
            self.limit = Some(self.limit.map_or(limit, |least| least.min(limit)));
        }
    }

    /// Whether one of these blocks may have been written.
    pub(crate) fn names(&self, blocks: &Range<u64>) -> bool {
        if self.limit.is_some_and(|limit| limit < blocks.end) {
            return true;
        }
        let first = self
            .units
            .partition_point(|(unit, _)| (u64::from(*unit) + 1) * UNIT <= blocks.start);
        self.units
            .iter()
            .skip(first)
            .map_while(|(unit, bits)| {
                let start = u64::from(*unit) * UNIT;
                let from = blocks.start.saturating_sub(start);
                let to = blocks.end.checked_sub(start).filter(|to| *to > 0)?.min(UNIT);
                Some(bits >> from << (from + UNIT - to) != 0)
            })
            .any(|named| named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUESTION: Question = Question {
        timeline: 1,
        since: 100,
        until: 200,
        database: 5,
    };

    #[test]
    fn summaries_serve_only_without_a_gap() {
        for (intervals, expected) in [
            (vec![(150, 200), (90, 150)], Coverage::Whole),
            (vec![(100, 250)], Coverage::Whole),
            (vec![(100, 199)], Coverage::Begun),
            (vec![], Coverage::Begun),
            (vec![(101, 250)], Coverage::Broken),
            (vec![(100, 150), (151, 200)], Coverage::Broken),
            (vec![(100, 150), (120, 130), (140, 200)], Coverage::Whole),
        ] {
            assert_eq!(covers(intervals.clone(), &QUESTION), expected, "{intervals:?}");
        }
        let back = Question {
            until: 100,
            ..QUESTION
        };
        assert_eq!(covers(vec![(90, 300)], &back), Coverage::Broken);
    }

    #[test]
    fn a_file_that_was_cut_is_named_from_there_on() {
        let mut file = WrittenFile::default();
        file.add((3, 1), Some(192));
        assert!(!file.names(&(128..192)) && file.names(&(191..193)) && file.names(&(5000..5001)));
    }

    proptest! {
        #[test]
        fn ranges_are_named_by_each_of_their_blocks(
            blocks in proptest::collection::btree_set(0u64..700, 0..12), from in 0u64..700, length in 1u64..200
        ) {
            let mut file = WrittenFile::default();
            for unit in 0..11u32 {
                let bits = blocks.iter().filter(|block| *block / UNIT == u64::from(unit)).fold(0, |bits, block| bits | 1 << (block % UNIT));
                if bits != 0 {
                    file.add((unit, bits), None);
                }
            }
            let range = from..from + length;
            prop_assert_eq!(file.names(&range), blocks.range(range.clone()).next().is_some());
        }
    }
}
