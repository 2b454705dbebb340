//! Fingerprints of the ranges of a table, many in one statement: how many rows each holds, which ones by place and transaction, and
//! whether any was written since the parent snapshot. The server reads the heap, not the long values beside it.

use super::catalog::Table;
use super::mark::{self, OF_ROW};
use super::name;
use super::record::ColumnRecord;
use super::session::{explain, failed};
use crate::error::{Error, ErrorKind, Result};
use futures::TryStreamExt;
use std::fmt::Write as _;
use std::ops::Range;
use tokio_postgres::{Client, Row};

/// One past the highest block number that a table can have.
const BLOCK_END: u64 = u32::MAX as u64;

/// The rows of a range that the snapshot sees; there is at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The first block of the range.
    pub block: u64,
    /// How many they are.
    pub rows: u32,
    /// The sum of `hashtidextended(ctid, xmin)`.
    pub sum: i128,
    /// Whether one was written by a transaction that the parent snapshot did not see the end of.
    pub written: bool,
}

/// Fingerprints the ranges that begin in these intervals of blocks, ascending, one at least; those without rows are left out, and whoever
/// reads them checks the order. `since` is the parent's oldest running transaction.
///
/// # Errors
/// `Source` if the server cannot be asked.
pub(crate) async fn fingerprints(
    client: &Client,
    table: &Table,
    intervals: &[Range<u64>],
    range_blocks: u32,
    since: u64,
) -> Result<Vec<Fingerprint>> {
    let sql = statement(table, intervals, range_blocks, since)?;
    let what = "cannot fingerprint a table";
    let rows = client
        .query_typed_raw(&sql, std::iter::empty::<(i32, tokio_postgres::types::Type)>())
        .await
        .map_err(|e| explain(table, what, e))?;
    let mut rows = std::pin::pin!(rows);
    let mut found = Vec::new();
    while let Some(row) = rows
        .try_next()
        .await
        .map_err(|e| failed(what, e).with("table", &table.name))?
    {
        found.push(fingerprint(&row).map_err(|e| e.with("table", &table.name))?);
    }
    Ok(found)
}

/// The statement. Nothing is written without the alias that it belongs to: a column of the user's may have any name.
fn statement(table: &Table, intervals: &[Range<u64>], range_blocks: u32, since: u64) -> Result<String> {
    let name = name::qualified(&table.name)?;
    let (sum, written) = (mark::sum(), mark::written(Some(since)));
    let interval = |blocks: &Range<u64>| {
        format!(
            "({}::pg_catalog.int8, {}::pg_catalog.int8)",
            blocks.start,
            blocks.end - 1
        )
    };
    let intervals = intervals.iter().map(interval).collect::<Vec<_>>().join(", ");
    Ok(format!(
        "SELECT r.first, x.n, x.h::pg_catalog.text, x.w
         FROM (VALUES {intervals}) v(low, high), pg_catalog.generate_series(v.low, v.high, {range_blocks}) r(first),
         LATERAL (SELECT pg_catalog.count(*) n, {sum} h, {written} w FROM (SELECT {OF_ROW} FROM ONLY {name} a
                  WHERE a.ctid >= pg_catalog.format('(%s,0)', r.first)::pg_catalog.tid
                    AND a.ctid < pg_catalog.format('(%s,0)', LEAST(r.first + {range_blocks}, {BLOCK_END}))::pg_catalog.tid
                  OFFSET 0) y OFFSET 0) x
         WHERE x.n > 0"
    ))
}

fn fingerprint(row: &Row) -> Result<Fingerprint> {
    let strange = || Error::new(ErrorKind::Source, "a fingerprint has an unexpected form");
    let read = || -> Option<Fingerprint> {
        Some(Fingerprint {
            block: u64::try_from(row.try_get::<_, i64>(0).ok()?).ok()?,
            rows: u32::try_from(row.try_get::<_, i64>(1).ok()?).ok()?,
            sum: row.try_get::<_, &str>(2).ok()?.parse().ok()?,
            written: row.try_get(3).ok()?,
        })
    };
    read().ok_or_else(strange)
}

/// SQL that reads ranges `[from, to)` of blocks for `COPY`, each row behind its `ctid` and, if it is to be `marked`, its `xmin`.
///
/// # Errors
/// `Unsupported` for a name that no statement can hold.
pub(crate) fn copy_ranges(table: &Table, ranges: &[(u64, u64)], marked: bool) -> Result<String> {
    let name = name::qualified(&table.name)?;
    let mut columns = String::from(if marked { "a.ctid, a.xmin" } else { "a.ctid" });
    for column in columns_of(table)? {
        columns.push_str(", ");
        columns.push_str(&column);
    }
    let tid = |block: u64| format!("'({},0)'::pg_catalog.tid", block.min(BLOCK_END));
    if let [(from, to)] = ranges {
        let (from, to) = (tid(*from), tid(*to));
        return Ok(format!(
            "COPY (SELECT {columns} FROM ONLY {name} a WHERE a.ctid >= {from} AND a.ctid < {to}) TO STDOUT"
        ));
    }
    let mut values = String::new();
    for (from, to) in ranges {
        let comma = if values.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(values, "{comma}({}, {})", tid(*from), tid(*to));
    }
    Ok(format!(
        "COPY (SELECT x.* FROM (VALUES {values}) r(low, high), LATERAL (SELECT {columns} FROM ONLY {name} a
         WHERE a.ctid >= r.low AND a.ctid < r.high OFFSET 0) x) TO STDOUT"
    ))
}

/// SQL that reads one row, by its place, for `COPY`.
///
/// # Errors
/// `Unsupported` for a name that no statement can hold.
pub(crate) fn copy_row(table: &Table, block: u32, offset: u16) -> Result<String> {
    let (name, columns) = (name::qualified(&table.name)?, columns_of(table)?.join(", "));
    Ok(format!(
        "COPY (SELECT {columns} FROM ONLY {name} a WHERE a.ctid = '({block},{offset})'::pg_catalog.tid) TO STDOUT"
    ))
}

fn columns_of(table: &Table) -> Result<Vec<String>> {
    let quoted = |column: &ColumnRecord| Ok(format!("a.{}", name::quote(&column.name)?));
    table.record.columns.iter().map(quoted).collect()
}

/// SQL that reads a whole table for `COPY`, each row behind its `ctid` if rows have a place.
///
/// # Errors
/// `Unsupported` for a name or a condition that no statement can hold.
pub(crate) fn copy_whole(table: &Table, with_place: bool) -> Result<String> {
    let name = name::qualified(&table.name)?;
    let mut columns: Vec<String> = Vec::new();
    if with_place {
        columns.push("ctid".to_owned());
    }
    for column in &table.record.columns {
        columns.push(name::quote(&column.name)?);
    }
    let columns = columns.join(", ");
    let condition = match &table.record.condition {
        None => String::new(),
        Some(condition) => {
            let text = std::str::from_utf8(condition).map_err(|_| {
                Error::new(ErrorKind::Unsupported, "an extension's condition is not UTF-8")
                    .with("table", &table.name)
            })?;
            // An index may find the rows in another order than that of their places.
            format!(" {text} ORDER BY ctid")
        }
    };
    Ok(format!(
        "COPY (SELECT {columns} FROM ONLY {name}{condition}) TO STDOUT"
    ))
}
