//! What of the server itself decides whether two snapshots of a database may be compared.

use super::query::{Catalog, failed, get};
use crate::connector::postgres::connect::Connection;
use crate::error::{Error, ErrorKind, Result};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

/// A server as one snapshot found it. What is `None` could not be read by this role or on this kind of server: without it, nothing
/// can be compared with a later snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`, such as 150018.
    pub version_num: u32,
    /// The cluster's own number: another after `initdb`, the same in every copy of it.
    pub system_identifier: Option<u64>,
    /// The timeline that is written, or replayed: another after a promotion or a recovery to a point in time.
    pub timeline: Option<u32>,
    /// When the postmaster was started, in microseconds since 1970.
    pub started: Option<i64>,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Whether a commit reaches the disk. If not, a crash may take back what a snapshot saw and give its transaction numbers to others.
    pub fsync: bool,
    /// The role whose rights count.
    pub role: Vec<u8>,
    /// The oid of the database.
    pub database: u32,
    /// The oldest transaction that was running when the snapshot was taken; all older ones are decided. 64 bits: never reused.
    pub snapshot_xmin: u64,
    /// Where the log ended when this was read, so not before any commit that the snapshot sees: `insert` on a primary, what was
    /// replayed on a standby.
    pub position: Option<u64>,
    /// The last checkpoint of a primary that keeps WAL summaries.
    pub checkpoint: Option<Checkpoint>,
}

/// Where a server would redo its log from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// That position of the log.
    pub position: u64,
    /// From this transaction on, with its epoch, all began behind that position: the server notes it when the position is taken.
    pub next_xid: u64,
}

/// Reads them in the transaction of the snapshot that they are about, which must be open.
///
/// # Errors
/// `Source` if the server cannot be asked; not for what it refuses to tell.
pub async fn server(connection: &Connection) -> Result<ServerFacts> {
    let catalog = Catalog::of(connection);
    let client = connection.client();
    let snapshot = if catalog.version >= 130_000 {
        "pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())"
    } else {
        "pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot())"
    };
    let sql = format!(
        "SELECT {snapshot}::text, pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('fsync') = 'on', {},
                (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()),
                COALESCE(pg_catalog.current_setting('summarize_wal', true) = 'on', false)",
        catalog.bytes("CURRENT_USER"),
    );
    let row = catalog.row("the server", &sql).await?;
    let in_recovery: bool = get(&row, 1)?;
    let xmin: &str = get(&row, 0)?;
    let system = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
    let started =
        "SELECT (pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) * 1000000)::int8";
    // The control file of a primary tells a promotion only after the next checkpoint; the name of the segment tells it at once.
    let timeline = if in_recovery {
        "SELECT timeline_id::int8 FROM pg_catalog.pg_control_checkpoint()"
    } else {
        "SELECT ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int8"
    };
    let number = |row: Option<Row>, index| row.map(|row| get::<Option<i64>>(&row, index)).transpose();
    // What every role may ask of an ordinary server is one question; where it may not ask all, each is one.
    let end = log_end_sql(in_recovery);
    let all = format!("SELECT f.*, ({system}), ({started}), ({timeline}) FROM ({end}) f");
    let (position, [system_identifier, started, timeline]) = match attempt(client, &all).await? {
        Some(row) => (
            before_header(&row)?,
            [get(&row, 3)?, get(&row, 4)?, get(&row, 5)?],
        ),
        None => (
            log_end(client, in_recovery).await?,
            [
                number(attempt(client, system).await?, 0)?.flatten(),
                number(attempt(client, started).await?, 0)?.flatten(),
                number(attempt(client, timeline).await?, 0)?.flatten(),
            ],
        ),
    };
    let summarizes: bool = get(&row, 5)?;
    let checkpoint = if summarizes && !in_recovery {
        checkpoint(client).await?
    } else {
        None
    };
    Ok(ServerFacts {
        version_num: catalog.version,
        // The server shows its unsigned number as a signed one.
        system_identifier: system_identifier.map(i64::cast_unsigned),
        timeline: timeline.and_then(|t: i64| u32::try_from(t).ok()),
        started,
        in_recovery,
        fsync: get(&row, 2)?,
        role: get(&row, 3)?,
        database: get(&row, 4)?,
        snapshot_xmin: xmin.parse().map_err(|_| {
            Error::new(ErrorKind::Source, "the server's snapshot has an unexpected form").with("xmin", xmin)
        })?,
        position,
        checkpoint,
    })
}

/// The last checkpoint; nothing if the server does not tell.
async fn checkpoint(client: &Client) -> Result<Option<Checkpoint>> {
    let sql = "SELECT c.redo_lsn, c.next_xid FROM pg_catalog.pg_control_checkpoint() c";
    let Some(row) = attempt(client, sql).await? else {
        return Ok(None);
    };
    // The epoch, and the number within it.
    let xid = get::<&str>(&row, 1)?.split_once(':');
    let xid = xid.and_then(|(epoch, xid)| Some((epoch.parse::<u32>().ok()?, xid.parse::<u32>().ok()?)));
    let position = get::<PgLsn>(&row, 0)?.into();
    Ok(xid.map(|(epoch, xid)| Checkpoint {
        position,
        next_xid: u64::from(epoch) << 32 | u64::from(xid),
    }))
}

/// Up to where the log is safe from a crash: flushed on a primary, replayed on a standby. Nothing if the server does not tell. To be
/// asked in an open transaction; it shows the present, not the snapshot.
///
/// # Errors
/// `Source` if the server cannot be asked.
pub async fn flushed(client: &Client) -> Result<Option<u64>> {
    let (replayed, flushed) = (position_of(true, "flush"), position_of(false, "flush"));
    let sql = format!("SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN {replayed} ELSE {flushed} END");
    let row = attempt(client, &sql).await?;
    let position = row.map(|row| get::<Option<PgLsn>>(&row, 0)).transpose()?;
    Ok(position.flatten().map(u64::from))
}

/// Where the log ends. On a primary the next record may have a page's header before it, which is not written before that record is:
/// then the log ends before the header. Nothing if the server does not tell. To be asked in an open transaction; it shows the present.
///
/// # Errors
/// `Source` if the server cannot be asked.
pub async fn log_end(client: &Client, in_recovery: bool) -> Result<Option<u64>> {
    let row = attempt(client, &log_end_sql(in_recovery)).await?;
    row.map_or(Ok(None), |row| before_header(&row))
}

/// SQL for where the log ends, and the sizes of its pages and segments.
fn log_end_sql(in_recovery: bool) -> String {
    format!(
        "SELECT {}, pg_catalog.current_setting('wal_block_size')::pg_catalog.int8,
            pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))",
        position_of(in_recovery, "insert")
    )
}

/// The position of such a row, if it is there; that of the page if only the page's header lies between.
fn before_header(row: &Row) -> Result<Option<u64>> {
    let Some(end) = get::<Option<PgLsn>>(row, 0)?.map(u64::from) else {
        return Ok(None);
    };
    let size =
        |index| Ok::<_, Error>(u64::try_from(get::<Option<i64>>(row, index)?.unwrap_or(0)).unwrap_or(0));
    Ok(Some(without_header(end, size(1)?, size(2)?)))
}

/// A position, or the beginning of its page if only the page's header lies between: 24 bytes, 40 on the first page of a segment.
fn without_header(position: u64, page: u64, segment: u64) -> u64 {
    let inside = |size: u64| position.checked_rem(size);
    match (inside(page), inside(segment)) {
        (_, Some(40)) => position - 40,
        (Some(24), Some(offset)) if offset != 24 => position - 24,
        _ => position,
    }
}

/// SQL for a position of the log.
fn position_of(in_recovery: bool, which: &str) -> String {
    if in_recovery {
        "pg_catalog.pg_last_wal_replay_lsn()".to_owned()
    } else {
        format!("pg_catalog.pg_current_wal_{which}_lsn()")
    }
}

/// A row that the server may refuse to give, without losing the transaction and its snapshot. One round trip, unless it refuses.
async fn attempt(client: &Client, sql: &str) -> Result<Option<Row>> {
    let lost = |error| failed("the server", error);
    // Sent in this order, without waiting for answers.
    let (begun, rows, ended) = tokio::join!(
        biased;
        client.batch_execute("SAVEPOINT fact"),
        client.query_typed(sql, &[]),
        client.batch_execute("RELEASE SAVEPOINT fact"),
    );
    begun.map_err(lost)?;
    match rows {
        Ok(rows) => {
            ended.map_err(lost)?;
            Ok(rows.into_iter().next())
        }
        // It answered, with a refusal, and refused to let go of the savepoint too.
        Err(error) if error.as_db_error().is_some() => {
            client
                .batch_execute("ROLLBACK TO SAVEPOINT fact; RELEASE SAVEPOINT fact")
                .await
                .map_err(lost)?;
            Ok(None)
        }
        Err(error) => Err(lost(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::without_header;

    #[test]
    fn a_log_that_ends_behind_a_header_ends_before_it() {
        const SEGMENT: u64 = 16 << 20;
        for (position, expected) in [
            (SEGMENT * 3 + 40, SEGMENT * 3),
            (SEGMENT * 3 + 24, SEGMENT * 3 + 24),
            (SEGMENT * 3 + 8192 + 24, SEGMENT * 3 + 8192),
            (SEGMENT * 3 + 8192 + 40, SEGMENT * 3 + 8192 + 40),
            (SEGMENT * 3 + 8192, SEGMENT * 3 + 8192),
            (SEGMENT * 3 + 777, SEGMENT * 3 + 777),
        ] {
            assert_eq!(without_header(position, 8192, SEGMENT), expected, "{position}");
        }
        assert_eq!(without_header(64, 0, 0), 64);
    }
}
