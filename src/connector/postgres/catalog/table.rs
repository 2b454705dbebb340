//! Tables whose rows are kept: every relation with rows of its own in the database's heap or another access method.

use super::filter::{Filter, Selection};
use super::query::{Catalog, get, text};
use super::types::{Types, Use, field};
use crate::connector::postgres::connect::Connection;
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::name::display;
use crate::connector::postgres::record::{Belongs, ColumnRecord, Identity, Persistence, TableRecord};
use crate::error::{Error, ErrorKind, Result};
use futures::TryStreamExt;
use std::collections::{HashMap, VecDeque};
use tokio_postgres::types::Type;

/// How many columns are looked up at once: with 1,600 columns of 1 KiB each no batch exceeds a few MiB.
const COLUMNS_AT_ONCE: usize = 4096;
/// How many tables are looked up at once.
const TABLES_AT_ONCE: usize = 512;

/// A table whose rows are kept.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub name: TableName,
    /// What its entry says of it. Columns are those whose values the rows have: neither dropped nor generated, in their order.
    pub record: TableRecord,
    /// Its access method: `heap`.
    pub access_method: String,
    /// Blocks, as the server last counted them; they may be off by any factor.
    pub pages: u32,
    /// Blocks of its long values, likewise.
    pub toast_pages: u32,
    /// Rows, likewise; nothing if they were never counted.
    pub rows: Option<f64>,
    /// The file it had in the snapshot. After a lock, `pg_relation_filenode` tells whether it has it still: a table that was
    /// truncated or rewritten in between no longer has the rows that the snapshot saw.
    pub filenode: u32,
    /// Its tablespace; 0: that of the database.
    pub tablespace: u32,
    /// Why the role cannot read all its rows, if it cannot.
    pub readable: Result<(), String>,
    /// BLAKE3-256 of all in the catalogs that the text of its rows depends on: columns, and their types down to the leaves.
    pub signature: [u8; 32],
    /// Why its ranges of blocks cannot be compared between snapshots, if they cannot. It says nothing of what two snapshots must
    /// agree in: cluster, filenode, signature, role.
    pub comparable: Result<(), String>,
}

/// A table before its columns were looked up.
#[derive(Debug)]
struct Listed {
    table: Table,
    /// Columns, dropped ones too.
    columns: usize,
}

/// The tables of a database in the order of their keys. The list is held in memory, about 250 bytes each; columns and signatures
/// are looked up as it goes.
#[derive(Debug)]
pub struct Tables {
    rest: VecDeque<Listed>,
    ready: VecDeque<Table>,
    types: Types,
    /// Foreign tables that the filter keeps: their rows are elsewhere.
    pub foreign: Vec<TableName>,
    /// What a user may want to know of the choice: patterns that leave out nothing, chosen tables that have no rows of their own.
    pub notes: Vec<String>,
}

/// Lists the tables that `filter` keeps.
///
/// # Errors
/// `NotFound` for a pattern that names nothing, `Invalid` for one that cannot be read, `Source` if the server cannot be asked.
pub async fn tables(connection: &Connection, filter: &Filter) -> Result<Tables> {
    let catalog = Catalog::of(connection);
    let selection = Selection::resolve(&catalog, filter).await?;
    let mut out = Tables {
        rest: VecDeque::new(),
        ready: VecDeque::new(),
        types: Types::default(),
        foreign: Vec::new(),
        notes: Vec::new(),
    };
    for pattern in &selection.idle {
        out.notes.push(format!(
            "nothing in the database matches {pattern}, which was to be left out"
        ));
    }
    let mut listed = Vec::new();
    let mut rows = catalog.stream("tables", &list_sql(&catalog), &[]).await?;
    while let Some(row) = rows.try_next().await? {
        let (oid, schema): (u32, u32) = (get(&row, 0)?, get(&row, 1)?);
        if !selection.keeps(oid, schema) {
            continue;
        }
        let name = TableName {
            schema: get(&row, 2)?,
            table: get(&row, 3)?,
        };
        match get::<&str>(&row, 4)? {
            "f" => out.foreign.push(name),
            "p" if selection.names(oid) => out.notes.push(format!(
                "{name} is partitioned: its rows are in its partitions, which are kept if they are chosen too"
            )),
            "p" => {}
            _ => listed.push(read_listed(&catalog, &row, oid, name)?),
        }
    }
    listed.sort_unstable_by(|a, b| a.table.name.cmp(&b.table.name));
    out.foreign.sort_unstable();
    out.rest = listed.into();
    Ok(out)
}

fn list_sql(catalog: &Catalog<'_>) -> String {
    // Tables of extensions are kept wherever they lie; of the server's own schemas nothing else is.
    format!(
        "SELECT c.oid, n.oid, {}, {}, c.relkind::text, c.relpersistence::text, {}, c.relpages, c.reltuples, t.relpages,
                c.relfilenode, c.reltablespace, c.relnatts, d.objid IS NOT NULL, x.oid IS NOT NULL, {},
                pg_catalog.has_schema_privilege(n.oid, 'USAGE'), pg_catalog.has_table_privilege(c.oid, 'SELECT'),
                pg_catalog.row_security_active(c.oid)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
         LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid
         LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
           AND d.objsubid = 0 AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
         LEFT JOIN (SELECT pg_catalog.unnest(e.extconfig) AS oid, pg_catalog.unnest(e.extcondition) AS condition
                    FROM pg_catalog.pg_extension e) x ON x.oid = c.oid
         WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
           AND (d.objid IS NOT NULL OR n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')",
        catalog.bytes("n.nspname"),
        catalog.bytes("c.relname"),
        catalog.bytes("a.amname"),
        catalog.bytes("x.condition"),
    )
}

fn read_listed(
    catalog: &Catalog<'_>,
    row: &tokio_postgres::Row,
    oid: u32,
    name: TableName,
) -> Result<Listed> {
    let persistence = match get(row, 5)? {
        "u" => Persistence::Unlogged,
        _ => Persistence::Permanent,
    };
    let access_method = get::<Option<&[u8]>>(row, 6)?.map(text).unwrap_or_default();
    let belongs = match (get(row, 13)?, get(row, 14)?) {
        (_, true) => Belongs::ExtensionConfiguration,
        (true, false) => Belongs::Extension,
        (false, false) => Belongs::Schema,
    };
    let condition = get::<Option<Vec<u8>>>(row, 15)?.filter(|condition| !condition.is_empty());
    let rows: f32 = get(row, 8)?;
    let pages =
        |index| Ok::<u32, Error>(u32::try_from(get::<Option<i32>>(row, index)?.unwrap_or(0)).unwrap_or(0));
    let comparable = if catalog.version < 140_000 {
        Err("servers before version 14 cannot read ranges of blocks".to_owned())
    } else if access_method != "heap" {
        Err(format!("its access method is {access_method}"))
    } else if persistence == Persistence::Unlogged {
        Err("it is unlogged: a crash empties it".to_owned())
    } else if condition.is_some() {
        Err("only rows that meet the condition of its extension are kept".to_owned())
    } else {
        Ok(())
    };
    // Nothing instead of an answer: the table was dropped since. Locking it will tell.
    let allowed = |index| Ok::<bool, Error>(get::<Option<bool>>(row, index)?.unwrap_or(true));
    let readable = if !allowed(16)? {
        Err("the role has no USAGE on its schema".to_owned())
    } else if !allowed(17)? {
        Err("the role has no SELECT on it".to_owned())
    } else if get::<Option<bool>>(row, 18)?.unwrap_or(false) {
        Err("row security would hide rows from the role: it needs BYPASSRLS".to_owned())
    } else {
        Ok(())
    };
    let table = Table {
        oid,
        name,
        record: TableRecord {
            columns: Vec::new(),
            belongs,
            condition,
            persistence,
        },
        access_method,
        pages: pages(7)?,
        toast_pages: pages(9)?,
        // Up to 13, a table never counted had 0 rows in 0 pages.
        rows: (rows > 0.0 || rows == 0.0 && pages(7)? > 0).then_some(f64::from(rows)),
        filenode: get(row, 10)?,
        tablespace: get(row, 11)?,
        readable,
        signature: [0; 32],
        comparable,
    };
    let columns = usize::try_from(get::<i16>(row, 12)?).unwrap_or(0);
    Ok(Listed { table, columns })
}

impl Tables {
    /// How many tables are still to come.
    pub fn len(&self) -> usize {
        self.rest.len() + self.ready.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Blocks of all tables still to come, with those of their long values, as the server last counted them.
    pub fn pages(&self) -> u64 {
        let of = |table: &Table| u64::from(table.pages) + u64::from(table.toast_pages);
        let rest = self.rest.iter().map(|listed| of(&listed.table));
        rest.chain(self.ready.iter().map(of)).sum()
    }

    /// The tables still to come, in order. Their columns, and what depends on those, are not looked up yet.
    pub fn iter(&self) -> impl Iterator<Item = &Table> {
        self.ready
            .iter()
            .chain(self.rest.iter().map(|listed| &listed.table))
    }

    /// The tables still to come that the role cannot read, and why.
    pub fn unreadable(&self) -> impl Iterator<Item = (&TableName, &str)> {
        let all = self
            .ready
            .iter()
            .chain(self.rest.iter().map(|listed| &listed.table));
        all.filter_map(|table| {
            table
                .readable
                .as_ref()
                .err()
                .map(|why| (&table.name, why.as_str()))
        })
    }

    /// Whether a column of the tables so far has a type that can be altered.
    pub fn have_alterable_types(&self) -> bool {
        self.types.has_uses()
    }

    /// A column of the tables so far whose type was altered since: a lock on a table does not hold its types, and the server writes
    /// values by what a type is now, not by what it was in the snapshot. `now` sees what is there now.
    ///
    /// # Errors
    /// `Source` if the server cannot be asked.
    pub async fn altered_type(&self, now: &Connection) -> Result<Option<&Use>> {
        self.types.altered(now).await
    }

    /// The next table. `connection` must see the snapshot that the list was made in.
    ///
    /// # Errors
    /// `Source` if the server cannot be asked.
    pub async fn next(&mut self, connection: &Connection) -> Result<Option<Table>> {
        if self.ready.is_empty() && !self.rest.is_empty() {
            self.describe(connection).await?;
        }
        Ok(self.ready.pop_front())
    }

    /// Looks up the columns of the next tables.
    async fn describe(&mut self, connection: &Connection) -> Result<()> {
        let catalog = Catalog::of(connection);
        let mut columns = 0;
        let fits = |listed: &&Listed| {
            columns += listed.columns;
            columns <= COLUMNS_AT_ONCE
        };
        let count = self
            .rest
            .iter()
            .take(TABLES_AT_ONCE)
            .take_while(fits)
            .count()
            .max(1);
        let oids: Vec<u32> = self
            .rest
            .iter()
            .take(count)
            .map(|listed| listed.table.oid)
            .collect();
        let mut shapes = read_columns(&catalog, &oids).await?;
        let kept = |column: &&Attribute| !column.dropped && !column.generated;
        let types = shapes
            .values()
            .flatten()
            .filter(kept)
            .map(|column| column.type_oid);
        self.types.load(&catalog, types).await?;
        for mut table in self
            .rest
            .drain(..count.min(self.rest.len()))
            .map(|listed| listed.table)
        {
            let attributes = shapes.remove(&table.oid).unwrap_or_default();
            self.types.complete(&mut table, attributes);
            self.ready.push_back(table);
        }
        Ok(())
    }
}

/// A column as the catalogs describe it.
struct Attribute {
    name: Vec<u8>,
    type_oid: u32,
    type_name: String,
    identity: Identity,
    dropped: bool,
    generated: bool,
    /// All else that its text depends on.
    facts: blake3::Hash,
}

/// The columns of tables, each table's in order.
async fn read_columns(catalog: &Catalog<'_>, oids: &[u32]) -> Result<HashMap<u32, Vec<Attribute>>> {
    let sql = format!(
        "SELECT a.attrelid, a.attnum, {}, a.atttypid, a.atttypmod, a.attcollation, a.attisdropped, a.atthasmissing, {},
                a.attgenerated::text, a.attidentity::text, {}
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY ($1) AND a.attnum > 0 ORDER BY a.attrelid, a.attnum",
        catalog.bytes("a.attname"),
        catalog.bytes("a.attmissingval"),
        catalog.bytes("pg_catalog.format_type(a.atttypid, a.atttypmod)"),
    );
    let mut found: HashMap<u32, Vec<Attribute>> = HashMap::new();
    let mut rows = catalog
        .stream("columns", &sql, &[(&oids, Type::OID_ARRAY)])
        .await?;
    while let Some(row) = rows.try_next().await? {
        let (name, type_oid, dropped): (Vec<u8>, u32, bool) = (get(&row, 2)?, get(&row, 3)?, get(&row, 6)?);
        let (generated, identity): (&str, &str) = (get(&row, 9)?, get(&row, 10)?);
        let mut facts = blake3::Hasher::new();
        facts.update(&get::<i16>(&row, 1)?.to_be_bytes());
        field(&mut facts, &name);
        facts.update(&type_oid.to_be_bytes());
        facts.update(&get::<i32>(&row, 4)?.to_be_bytes());
        facts.update(&get::<u32>(&row, 5)?.to_be_bytes());
        facts.update(&[dropped.into(), get::<bool>(&row, 7)?.into()]);
        field(&mut facts, get::<Option<&[u8]>>(&row, 8)?.unwrap_or(b"\0"));
        field(&mut facts, generated.as_bytes());
        field(&mut facts, identity.as_bytes());
        let attribute = Attribute {
            facts: facts.finalize(),
            generated: !generated.is_empty(),
            identity: Identity::from_text(identity).ok_or_else(|| unknown_identity(&name))?,
            type_name: text(get(&row, 11)?),
            name,
            type_oid,
            dropped,
        };
        found.entry(get(&row, 0)?).or_default().push(attribute);
    }
    Ok(found)
}

fn unknown_identity(column: &[u8]) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "a column is filled in a way that is not known",
    )
    .with("column", display(column))
    .hint("use a newer version of Holdall")
}

impl Types {
    /// Gives a table its columns, its signature and what they say of comparing.
    fn complete(&mut self, table: &mut Table, attributes: Vec<Attribute>) {
        let mut signature = blake3::Hasher::new();
        for attribute in attributes {
            signature.update(attribute.facts.as_bytes());
            if attribute.dropped || attribute.generated {
                continue;
            }
            self.note_use(attribute.type_oid, &table.name, &attribute.type_name);
            let known = self.get(attribute.type_oid);
            signature.update(known.map_or(&[0; 32], |known| &known.digest));
            let obstacle = match known {
                Some(known) => known.obstacle.as_deref(),
                None => Some("its type cannot be found"),
            };
            if let (Ok(()), Some(why)) = (&table.comparable, obstacle) {
                table.comparable = Err(format!("column {}: {why}", display(&attribute.name)));
            }
            table.record.columns.push(ColumnRecord {
                name: attribute.name,
                type_name: attribute.type_name,
                identity: attribute.identity,
            });
        }
        table.signature = *signature.finalize().as_bytes();
    }
}
