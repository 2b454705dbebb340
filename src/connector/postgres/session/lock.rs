//! Locks, and what happened between the snapshot and them.

use super::{Attached, Session, failed, in_time};
use crate::connector::postgres::catalog::Table;
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::name;
use crate::error::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use std::collections::HashMap;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, error::SqlState};

/// Locks that are asked for at once, without waiting for answers.
const ON_THE_WAY: usize = 64;
/// Tables that one statement looks at.
const AT_ONCE: usize = 1000;

/// Whether tables are still what the snapshot saw.
pub(crate) enum Locked {
    /// They are, and stay so.
    Held,
    /// This one was dropped, truncated, rewritten or altered meanwhile: a new snapshot is needed.
    Changed(TableName),
}

/// Holds tables as the snapshot saw them: takes their locks with the coordinator, then compares what is there now.
///
/// # Errors
/// `Source` naming the table that cannot be locked.
pub(crate) async fn locked(session: &Session, tables: &[&Table]) -> Result<Locked> {
    for some in tables.chunks(ON_THE_WAY) {
        let mut asked: FuturesOrdered<BoxFuture<'_, Result<Option<TableName>>>> =
            some.iter().map(|table| lock(session, table).boxed()).collect();
        let _busy = session.busy();
        // The server gives up a lock in time by itself, and says so.
        let options = session.options();
        let limit = options.silence.saturating_add(options.lock_limit());
        let mut answers = Vec::with_capacity(some.len());
        while let Some(answer) = in_time(limit, asked.next().map(Ok)).await? {
            answers.push(answer);
        }
        // The first failure is what counts: those behind it only follow from it.
        for answer in answers {
            if let Some(gone) = answer? {
                return Ok(Locked::Changed(gone));
            }
        }
    }
    if tables.is_empty() {
        return Ok(Locked::Held);
    }
    let now = session.bystander().await?;
    session.hold(tables);
    for some in tables.chunks(AT_ONCE) {
        let oids: Vec<u32> = some.iter().map(|table| table.oid).collect();
        let after = in_time(session.options().silence, shapes(now.client(), &oids));
        let (before, after) = tokio::try_join!(shapes(session.client(), &oids), after)?;
        for table in some {
            let same = |shape: &&Shape| before.get(&table.oid) == Some(*shape);
            let kept = after
                .get(&table.oid)
                .filter(same)
                .is_some_and(|shape| shape.filenode == Some(table.filenode));
            if !kept {
                return Ok(Locked::Changed(table.name.clone()));
            }
        }
    }
    session.keep(now);
    Ok(Locked::Held)
}

/// Whether tables still have the names by which they were read: a lock on a table does not hold its schema, and after a schema was
/// renamed, rows of another table come under the name. Gives the first that moved.
///
/// # Errors
/// `Source` if the server cannot be asked.
pub(super) async fn moved(
    session: &Session,
    now: Attached,
    tables: &[(u32, TableName)],
) -> Result<Option<TableName>> {
    for some in tables.chunks(AT_ONCE) {
        let oids: Vec<u32> = some.iter().map(|(oid, _)| *oid).collect();
        let after = in_time(session.options().silence, shapes(now.client(), &oids));
        let (before, after) = tokio::try_join!(shapes(session.client(), &oids), after)?;
        if let Some((_, name)) = some.iter().find(|(oid, _)| before.get(oid) != after.get(oid)) {
            return Ok(Some(name.clone()));
        }
    }
    session.keep(now);
    Ok(None)
}

/// Locks one table against changes of its form, not of its rows. Gives its name if it is not there any more.
async fn lock(session: &Session, table: &Table) -> Result<Option<TableName>> {
    let statement = format!(
        "LOCK TABLE ONLY {} IN ACCESS SHARE MODE",
        name::qualified(&table.name)?
    );
    match session.client().batch_execute(&statement).await {
        Ok(()) => Ok(None),
        Err(error) if gone(error.code()) => Ok(Some(table.name.clone())),
        Err(error) => Err(explain(table, "cannot lock a table", error)),
    }
}

fn gone(code: Option<&SqlState>) -> bool {
    code.is_some_and(|code| {
        [
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_SCHEMA,
            SqlState::WRONG_OBJECT_TYPE,
            SqlState::INVALID_SCHEMA_NAME,
        ]
        .contains(code)
    })
}

/// An error while a table was locked or read, with what to do about it.
pub(crate) fn explain(table: &Table, what: &str, error: tokio_postgres::Error) -> Error {
    let code = error.code().cloned();
    let error = failed(what, error).with("table", &table.name);
    match code {
        Some(code) if code == SqlState::INSUFFICIENT_PRIVILEGE => error.hint(format!(
            "GRANT SELECT ON {} to the role that reads, and BYPASSRLS if row security is on; or leave it out with --exclude-table",
            table.name
        )),
        Some(code) if code == SqlState::LOCK_NOT_AVAILABLE => error.hint(
            "another session holds it exclusively, as a migration does: run again later, or allow more with --lock-timeout",
        ),
        Some(code) if code == SqlState::OUT_OF_MEMORY => {
            error.hint("the server's max_locks_per_transaction is too small for so many tables")
        }
        _ => error,
    }
}

/// What of a table must not change between the snapshot and the lock.
#[derive(PartialEq, Eq)]
struct Shape {
    /// Its schema, and the hash of both names.
    name: (u32, i64),
    /// Where its rows are, now: the function does not look through the snapshot.
    filenode: Option<u32>,
    /// Over its columns, as the session sees them.
    columns: Option<String>,
}

async fn shapes(client: &Client, oids: &[u32]) -> Result<HashMap<u32, Shape>> {
    let sql = "SELECT c.oid, c.relnamespace, pg_catalog.hashtextextended(pg_catalog.concat_ws('.', n.nspname, c.relname), 0),
            pg_catalog.pg_relation_filenode(c.oid),
            (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws('|', a.attnum, a.attname, a.atttypid,
                a.atttypmod, a.attisdropped, a.attgenerated, a.atthasmissing), 0))::pg_catalog.text
             FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)";
    let what = "cannot compare tables with the snapshot";
    let rows = client
        .query_typed(sql, &[(&oids, Type::OID_ARRAY)])
        .await
        .map_err(|e| failed(what, e))?;
    let mut found = HashMap::new();
    for row in rows {
        let get = || -> Result<(u32, Shape), tokio_postgres::Error> {
            let shape = Shape {
                name: (row.try_get(1)?, row.try_get(2)?),
                filenode: row.try_get(3)?,
                columns: row.try_get(4)?,
            };
            Ok((row.try_get(0)?, shape))
        };
        let (oid, shape) = get().map_err(|e| Error::new(ErrorKind::Source, what).because(e))?;
        found.insert(oid, shape);
    }
    Ok(found)
}
