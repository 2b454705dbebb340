//! Whether the catalogs hold what they held (`format-spec/64-databases.md` section 9): what `pg_dump` writes depends on them alone.
//!
//! The list of catalogs is the server's own, so that those of a later version are among them.

use super::query::{Catalog, get};
use crate::connector::postgres::connect::Connection;
use crate::connector::postgres::mark::{self, OF_ROW};
use crate::connector::postgres::name::{literal, quote};
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// Catalogs that `pg_dump` does not read as it is run here. The first two are about rows, and change with every analysis; of large
/// objects there may be millions.
const NOT_READ: &str = "'pg_statistic', 'pg_statistic_ext_data', 'pg_largeobject', 'pg_largeobject_metadata'";
/// Views of catalogs that ordinary roles may not read, and show more of them than their columns do.
const VIEWS: [(&str, &str); 2] = [("pg_authid", "pg_roles"), ("pg_user_mapping", "pg_user_mappings")];

/// What the catalogs of a database hold, as a snapshot sees them and a role may read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogFingerprint {
    /// Equal if they hold the same, unless the next field says otherwise.
    pub digest: [u8; 32],
    /// Whether a row of them was written by a transaction that the parent snapshot did not see the end of.
    pub written: bool,
}

/// One catalog.
struct Relation {
    oid: u32,
    name: String,
    readable: bool,
    /// The columns of it that may be read, if not all of it.
    columns: Vec<String>,
}

/// Fingerprints the catalogs of the database, in one statement and the snapshot of its transaction. `since` is the parent's oldest
/// running transaction. Gives why it cannot be done, if the role sees too little. A server of version 14 at least.
///
/// # Errors
/// `Source` if the server cannot be asked; the transaction has failed then.
pub async fn catalog_fingerprint(
    connection: &Connection,
    since: Option<u64>,
) -> Result<Result<CatalogFingerprint, String>> {
    let catalog = Catalog::of(connection);
    let relations = relations(&catalog).await?;
    let mut parts = Vec::new();
    for relation in &relations {
        match part(&catalog, relation, since)? {
            Some(part) => parts.push(part),
            None => return Ok(Err(format!("the role sees nothing of {}", relation.name))),
        }
    }
    parts.push(content(
        &catalog,
        "settings",
        "pg_catalog.concat_ws('=', s.name, s.reset_val)",
        "pg_catalog.pg_settings s",
    ));
    let sql = parts.join("\nUNION ALL ");
    let mut found = BTreeMap::new();
    let mut written = false;
    for row in catalog.rows("what the catalogs hold", &sql, &[]).await? {
        written |= get::<bool>(&row, 2)?;
        found.insert(get::<String>(&row, 0)?, get::<String>(&row, 1)?);
    }
    if relations.is_empty() || found.len() != parts.len() {
        return Err(Error::new(
            ErrorKind::Source,
            "the server did not say of all catalogs what they hold",
        ));
    }
    let mut digest = blake3::Hasher::new();
    for text in found.iter().flat_map(|(name, value)| [name, value]) {
        digest.update(&(text.len() as u64).to_le_bytes());
        digest.update(text.as_bytes());
    }
    Ok(Ok(CatalogFingerprint {
        digest: digest.finalize().into(),
        written,
    }))
}

/// The catalogs that `initdb` made; what an extension may have put beside them has higher numbers.
async fn relations(catalog: &Catalog<'_>) -> Result<Vec<Relation>> {
    let sql = format!(
        "SELECT c.oid, c.relname::pg_catalog.text, r.whole, CASE WHEN r.whole THEN '{{}}' ELSE
            ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT') ORDER BY a.attnum) END
         FROM pg_catalog.pg_class c, LATERAL (SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT') AS whole) r
         WHERE c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace AND c.relkind = 'r' AND c.oid < 16384
           AND c.relname::pg_catalog.text NOT IN ({NOT_READ})
         ORDER BY c.oid"
    );
    let rows = catalog.rows("the catalogs", &sql, &[]).await?;
    rows.iter()
        .map(|row| {
            Ok(Relation {
                oid: get(row, 0)?,
                name: get(row, 1)?,
                readable: get(row, 2)?,
                columns: get(row, 3)?,
            })
        })
        .collect()
}

/// SQL that says of one catalog what it holds: its name, a text, and whether it was written; nothing if the role sees nothing of it.
fn part(catalog: &Catalog<'_>, relation: &Relation, since: Option<u64>) -> Result<Option<String>> {
    let Relation { oid, name, .. } = relation;
    let quoted = format!("pg_catalog.{}", quote(name.as_bytes())?);
    if !relation.readable {
        if let Some((_, view)) = VIEWS.iter().find(|(table, _)| table == name) {
            let from = format!("pg_catalog.{view} s");
            return Ok(Some(content(catalog, name, "s::pg_catalog.text", &from)));
        }
        let columns: Result<Vec<String>> = relation
            .columns
            .iter()
            .map(|column| Ok(format!("s.{}", quote(column.as_bytes())?)))
            .collect();
        let columns = columns?.join(", ");
        let row = format!("ROW({columns})::pg_catalog.text");
        let part = content(catalog, name, &row, &format!("{quoted} s"));
        return Ok(Some(part).filter(|_| !columns.is_empty()));
    }
    // What other databases share out is nothing to this one, and changes with their temporary tables.
    let condition = if name == "pg_shdepend" {
        " WHERE a.dbid IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))"
    } else {
        ""
    };
    Ok(Some(format!(
        "SELECT {}, pg_catalog.concat_ws(' ', pg_catalog.pg_relation_filenode({oid}::pg_catalog.oid), pg_catalog.count(*), {}),
            COALESCE({}, false) FROM (SELECT {OF_ROW} FROM ONLY {quoted} a{condition} OFFSET 0) y",
        literal(name),
        mark::sum(),
        mark::written(since)
    )))
}

/// SQL of the same form, of what can be seen and has no versions of rows.
fn content(catalog: &Catalog<'_>, name: &str, text: &str, from: &str) -> String {
    let all = "COALESCE(pg_catalog.string_agg(t.v, E'\\n' ORDER BY t.v COLLATE \"C\"), '')";
    format!(
        "SELECT {}, pg_catalog.encode(pg_catalog.sha256({}), 'hex'), false FROM (SELECT {text} AS v FROM {from}) t",
        literal(name),
        catalog.bytes(all)
    )
}
