//! The values of sequences. They have no versions on the server: what is read is the present, so it is read after the data.

use super::filter::{Filter, Selection};
use super::query::{Catalog, failed, get};
use crate::connector::postgres::connect::Connection;
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::name::{literal, qualified};
use crate::error::{Error, ErrorKind, Result};
use futures::TryStreamExt;
use std::fmt::Write;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

/// Sequences that one statement reads.
const AT_ONCE: usize = 200;

/// The statements that give sequences their values.
#[derive(Clone, Debug, Default)]
pub struct Sequences {
    /// One `SELECT pg_catalog.setval(…);` a line, by name.
    pub statements: String,
    /// Sequences whose values cannot be had, and why.
    pub missing: Vec<(TableName, &'static str)>,
}

/// How often a sequence is looked for by another name.
const RENAMED_MOST: u32 = 5;

struct Listed {
    oid: u32,
    name: TableName,
}

/// Reads the values of all sequences that `filter` keeps; that of a column is kept with its table. To be called in the snapshot's
/// transaction, after the data. Holds about 100 bytes for each sequence.
///
/// # Errors
/// `Source` that names the sequences which the role may not read; as [`super::tables`] for the filter.
pub async fn sequences(connection: &Connection, filter: &Filter) -> Result<Sequences> {
    let catalog = Catalog::of(connection);
    let client = connection.client();
    let mut out = Sequences::default();
    let listed = list(&catalog, filter, &mut out.missing).await?;
    for batch in listed.chunks(AT_ONCE) {
        let values = match read(client, catalog.version, batch).await {
            Ok(values) => values,
            // One of them is gone, or goes by another name: one after the other tells which.
            Err(error) if gone(&error) => vec![None; batch.len()],
            Err(error) => return Err(failed("values of sequences", error)),
        };
        for (sequence, value) in batch.iter().zip(values) {
            let value = match value {
                Some(value) => Some(value),
                None => follow(client, sequence).await?,
            };
            let Some((last, called)) = value else {
                out.missing.push((
                    sequence.name.clone(),
                    "it was dropped while the database was read",
                ));
                continue;
            };
            let name = literal(&qualified(&sequence.name)?);
            writeln!(
                out.statements,
                "SELECT pg_catalog.setval({name}, {last}, {called});"
            )
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot write a statement").because(error))?;
        }
    }
    Ok(out)
}

async fn list(
    catalog: &Catalog<'_>,
    filter: &Filter,
    missing: &mut Vec<(TableName, &'static str)>,
) -> Result<Vec<Listed>> {
    let selection = Selection::resolve(catalog, filter).await?;
    let sql = format!(
        "SELECT c.oid, n.oid, {}, {}, t.oid, t.relnamespace, o.deptype = 'i',
                pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_sequence_privilege(c.oid, 'SELECT'),
                c.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery()
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_depend o ON o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.objid = c.oid
           AND o.objsubid = 0 AND o.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.deptype IN ('a', 'i')
         LEFT JOIN pg_catalog.pg_class t ON t.oid = o.refobjid
         LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
           AND d.objsubid = 0 AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
         WHERE c.relkind = 'S' AND c.relpersistence <> 't'
           AND (d.objid IS NOT NULL OR n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')",
        catalog.bytes("n.nspname"),
        catalog.bytes("c.relname"),
    );
    let mut rows = catalog.stream("sequences", &sql, &[]).await?;
    let mut listed = Vec::new();
    let mut denied = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let (oid, schema): (u32, u32) = (get(&row, 0)?, get(&row, 1)?);
        let owner = match (get::<Option<u32>>(&row, 4)?, get::<Option<u32>>(&row, 5)?) {
            (Some(table), Some(schema)) => Some(selection.keeps(table, schema)),
            _ => None,
        };
        // As pg_dump has it: that of an identity column goes with the table, another one is kept for either reason.
        let identity = get::<Option<bool>>(&row, 6)?.unwrap_or(false);
        let kept = match owner {
            Some(owner) if identity => owner,
            Some(owner) => owner || selection.keeps(oid, schema),
            None => selection.keeps(oid, schema),
        };
        if !kept {
            continue;
        }
        let name = TableName {
            schema: get(&row, 2)?,
            table: get(&row, 3)?,
        };
        if get(&row, 8)? {
            missing.push((name, "unlogged sequences have no value on a standby"));
        } else if get::<Option<bool>>(&row, 7)?.unwrap_or(true) {
            listed.push(Listed { oid, name });
        } else {
            denied.push(name);
        }
    }
    listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    denied.sort_unstable();
    match denied.first() {
        None => Ok(listed),
        Some(first) => Err(Error::new(ErrorKind::Source, "the role may not read sequences")
            .with("sequence", first)
            .with("of", denied.len())
            .hint(
                "GRANT USAGE ON its schema and SELECT ON ALL SEQUENCES IN it to the role, or leave it out",
            )),
    }
}

/// The value of each sequence and whether it was given out already. Nothing stays locked.
async fn read(
    client: &Client,
    version: u32,
    batch: &[Listed],
) -> Result<Vec<Option<(i64, bool)>>, tokio_postgres::Error> {
    client.batch_execute("SAVEPOINT sequences").await?;
    let rows = query(client, version, batch).await;
    leave(client, rows, batch.len()).await
}

/// Lets go of what the query locked, whatever it gave.
async fn leave(
    client: &Client,
    rows: Result<Vec<Row>, tokio_postgres::Error>,
    count: usize,
) -> Result<Vec<Option<(i64, bool)>>, tokio_postgres::Error> {
    client
        .batch_execute("ROLLBACK TO SAVEPOINT sequences; RELEASE SAVEPOINT sequences")
        .await?;
    let mut values = vec![None; count];
    for row in rows? {
        let place = usize::try_from(row.try_get::<_, i32>(0)?).ok();
        let (last, called): (Option<i64>, Option<bool>) = (row.try_get(1)?, row.try_get(2)?);
        if let (Some(slot), Some(last), Some(called)) = (place.and_then(|i| values.get_mut(i)), last, called)
        {
            *slot = Some((last, called));
        }
    }
    Ok(values)
}

async fn query(client: &Client, version: u32, batch: &[Listed]) -> Result<Vec<Row>, tokio_postgres::Error> {
    let oids: Vec<u32> = batch.iter().map(|sequence| sequence.oid).collect();
    if version >= 180_000 {
        let sql = "SELECT (s.n - 1)::int4, v.last_value, v.is_called FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]))
                   WITH ORDINALITY AS s (oid, n), pg_catalog.pg_get_sequence_data(s.oid) v";
        return client.query_typed(sql, &[(&oids, Type::OID_ARRAY)]).await;
    }
    let selects = batch.iter().enumerate().filter_map(|(i, sequence)| {
        let name = qualified(&sequence.name).ok()?;
        Some(select(i, &name, sequence.oid))
    });
    let sql = selects.collect::<Vec<_>>().join(" UNION ALL ");
    client.query_typed(&sql, &[]).await
}

/// The value of what has this name now, if it still is the sequence that is meant.
fn select(place: usize, name: &str, oid: u32) -> String {
    format!("SELECT {place}::int4, last_value, is_called FROM {name} WHERE tableoid = {oid}")
}

/// The value of a sequence that is not there by its name: a name is the snapshot's, a value the present's, and in between it may have
/// been renamed. Nothing if it was dropped.
async fn follow(client: &Client, sequence: &Listed) -> Result<Option<(i64, bool)>> {
    for _ in 0..RENAMED_MOST {
        // Its name now: this function does not look through the snapshot. What is not there shows as its number.
        let sql = "SELECT pg_catalog.format('%s', $1::pg_catalog.regclass)";
        let rows = client.query_typed(sql, &[(&sequence.oid, Type::OID)]).await;
        let rows = rows.map_err(|error| failed("names of sequences", error))?;
        let name: &str = rows
            .first()
            .map(|row| get(row, 0))
            .transpose()?
            .unwrap_or_default();
        if name.is_empty() || name.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(None);
        }
        client
            .batch_execute("SAVEPOINT sequences")
            .await
            .map_err(|error| failed("values of sequences", error))?;
        let rows = client.query_typed(&select(0, name, sequence.oid), &[]).await;
        match leave(client, rows, 1).await {
            Ok(values) => {
                if let Some(value) = values.into_iter().flatten().next() {
                    return Ok(Some(value));
                }
            }
            Err(error) if gone(&error) => {}
            Err(error) => return Err(failed("values of sequences", error).with("sequence", &sequence.name)),
        }
    }
    Err(
        Error::new(ErrorKind::Source, "a sequence is renamed all the time")
            .with("sequence", &sequence.name)
            .hint("run again when no migration runs"),
    )
}

fn gone(error: &tokio_postgres::Error) -> bool {
    let codes = [
        SqlState::UNDEFINED_TABLE,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::UNDEFINED_OBJECT,
        // A table took its name.
        SqlState::UNDEFINED_COLUMN,
        // A function that is asked for a sequence by its oid.
        SqlState::INTERNAL_ERROR,
    ];
    error.code().is_some_and(|code| codes.contains(code))
}
