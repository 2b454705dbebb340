//! Types, as far as the text of their values depends on them: what a type is made of, down to the leaves, as one digest; and whether
//! two snapshots may be compared by their rows' versions at all, when a column has this type.
//!
//! A row that nobody touched can still print otherwise: an enum's label was renamed, an attribute was added to a composite type, a
//! table was renamed that a `regclass` points at. The digest holds all of the first kind; types of the second cannot be compared.

use super::query::{Catalog, get, text};
use crate::connector::postgres::connect::Connection;
use crate::connector::postgres::key::TableName;
use crate::connector::postgres::name::display;
use crate::error::Result;
use futures::TryStreamExt;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio_postgres::types::Type;

/// Types of the server whose text depends on the value alone, given the pinned settings. Not here: `reg*` and `aclitem`, which
/// print names of other things.
const PLAIN: &[&str] = &[
    "bit",
    "bool",
    "box",
    "bpchar",
    "bytea",
    "char",
    "cid",
    "cidr",
    "circle",
    "date",
    "float4",
    "float8",
    "inet",
    "int2",
    "int2vector",
    "int4",
    "int8",
    "interval",
    "json",
    "jsonb",
    "jsonpath",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numeric",
    "oid",
    "oidvector",
    "path",
    "pg_lsn",
    "pg_snapshot",
    "point",
    "polygon",
    "refcursor",
    "text",
    "tid",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "tsquery",
    "tsvector",
    "txid_snapshot",
    "uuid",
    "varbit",
    "varchar",
    "xid",
    "xid8",
    "xml",
];

/// Types of extensions whose text depends on the value and the version of the extension.
const OF_EXTENSIONS: &[(&str, &[&str])] = &[
    ("citext", &["citext"]),
    ("hstore", &["hstore"]),
    ("ltree", &["ltree", "lquery", "ltxtquery"]),
    ("vector", &["vector", "halfvec", "sparsevec"]),
    ("postgis", &["geometry", "geography"]),
];

/// What is known of a type.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// All that its text depends on.
    pub(super) digest: [u8; 32],
    /// Why values of it cannot be compared by their rows' versions; nothing if they can.
    pub(super) obstacle: Option<Arc<str>>,
}

/// The types that were looked up so far.
#[derive(Debug, Default)]
pub(super) struct Types {
    known: HashMap<u32, Known>,
    /// Of the types that can be altered, each that a kept column has.
    used: HashMap<u32, Use>,
}

/// Where a type is met first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The table.
    pub table: TableName,
    /// The type, as `format_type` writes it.
    pub type_name: String,
}

/// Types with smaller oids are the server's own.
const FIRST_ALTERABLE: u32 = 16_384;

/// A type as the catalogs describe it, before its parts are known.
struct Raw {
    name: String,
    hash: blake3::Hasher,
    obstacle: Option<Arc<str>>,
    /// Types it is made of, in an order that its digest has.
    parts: Vec<u32>,
}

impl Types {
    /// What is known of a type that was loaded.
    pub(super) fn get(&self, oid: u32) -> Option<&Known> {
        self.known.get(&oid)
    }

    /// Takes note that a column has a type.
    pub(super) fn note_use(&mut self, oid: u32, table: &TableName, type_name: &str) {
        if oid >= FIRST_ALTERABLE {
            self.used.entry(oid).or_insert_with(|| Use {
                table: table.clone(),
                type_name: type_name.to_owned(),
            });
        }
    }

    /// Whether a column has a type that can be altered.
    pub(super) fn has_uses(&self) -> bool {
        !self.used.is_empty()
    }

    /// The first use of a type that is not what it was, by a client that sees what is there now.
    pub(super) async fn altered(&self, now: &Connection) -> Result<Option<&Use>> {
        let catalog = Catalog::of(now);
        let mut present = Self::default();
        present.load(&catalog, self.used.keys().copied()).await?;
        let digest = |known: &Known| known.digest;
        let mut altered: Vec<&Use> = self
            .used
            .iter()
            .filter(|(oid, _)| self.get(**oid).map(digest) != present.get(**oid).map(digest))
            .map(|(_, place)| place)
            .collect();
        altered.sort_unstable_by(|a, b| a.table.cmp(&b.table));
        Ok(altered.first().copied())
    }

    /// Looks up types and all that they are made of. One query for each level of nesting, whatever the number of types.
    pub(super) async fn load(
        &mut self,
        catalog: &Catalog<'_>,
        wanted: impl Iterator<Item = u32>,
    ) -> Result<()> {
        let mut raw: HashMap<u32, Raw> = HashMap::new();
        let roots: HashSet<u32> = wanted.filter(|oid| !self.known.contains_key(oid)).collect();
        let mut level: Vec<u32> = roots.iter().copied().collect();
        while !level.is_empty() {
            let found = describe(catalog, &level).await?;
            let parts: HashSet<u32> = found.values().flat_map(|r| r.parts.iter().copied()).collect();
            raw.extend(found);
            let new = |oid: &u32| !self.known.contains_key(oid) && !raw.contains_key(oid);
            level = parts.into_iter().filter(new).collect();
        }
        for root in roots {
            self.resolve(&mut raw, root);
        }
        Ok(())
    }

    /// Puts a type together after its parts, without recursion: nothing bounds how deep types nest.
    fn resolve(&mut self, raw: &mut HashMap<u32, Raw>, root: u32) {
        let mut stack = vec![(root, false)];
        let mut open = HashSet::new();
        while let Some((oid, parts_done)) = stack.pop() {
            if self.known.contains_key(&oid) {
                continue;
            }
            let Some(found) = raw.get(&oid) else {
                continue;
            };
            if parts_done {
                if let Some(found) = raw.remove(&oid) {
                    let known = self.finish(found);
                    self.known.insert(oid, known);
                }
            } else if open.insert(oid) {
                stack.push((oid, true));
                stack.extend(found.parts.iter().map(|part| (*part, false)));
            }
        }
    }

    fn finish(&self, mut raw: Raw) -> Known {
        for part in &raw.parts {
            let known = self.known.get(part);
            raw.hash.update(&part.to_be_bytes());
            raw.hash.update(known.map_or(&[0; 32], |known| &known.digest));
            let inherited = match known {
                Some(known) => known.obstacle.clone(),
                None => Some(format!("type {} has a part that cannot be found", raw.name).into()),
            };
            raw.obstacle = raw.obstacle.or(inherited);
        }
        Known {
            digest: *raw.hash.finalize().as_bytes(),
            obstacle: raw.obstacle,
        }
    }
}

/// Adds bytes so that no two different lists of fields give the same hash.
pub(super) fn field(hash: &mut blake3::Hasher, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

async fn describe(catalog: &Catalog<'_>, oids: &[u32]) -> Result<HashMap<u32, Raw>> {
    // Multiranges came with 14.
    let part_of_range = if catalog.version >= 140_000 {
        "COALESCE(r.rngsubtype, (SELECT m.rngtypid FROM pg_catalog.pg_range m WHERE m.rngmultitypid = t.oid))"
    } else {
        "r.rngsubtype"
    };
    let sql = format!(
        "SELECT t.oid, {}, {}, t.typtype::text, t.typelem, t.typbasetype, t.typtypmod, t.typrelid,
                t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc, {part_of_range}, {}, {}
         FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
         LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
         LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid
           AND d.objsubid = 0 AND d.deptype = 'e'
         LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
         WHERE t.oid = ANY ($1)",
        catalog.bytes("n.nspname"),
        catalog.bytes("t.typname"),
        catalog.bytes("e.extname"),
        catalog.bytes("e.extversion"),
    );
    let mut found = HashMap::new();
    let mut rows_of = HashMap::new();
    let mut enums = Vec::new();
    for row in catalog.rows("types", &sql, &[(&oids, Type::OID_ARRAY)]).await? {
        let oid: u32 = get(&row, 0)?;
        let (schema, name): (&[u8], &[u8]) = (get(&row, 1)?, get(&row, 2)?);
        let mut raw = Raw {
            name: format!("{}.{}", display(schema), display(name)),
            hash: blake3::Hasher::new(),
            obstacle: None,
            parts: Vec::new(),
        };
        let kind: &str = get(&row, 3)?;
        field(&mut raw.hash, kind.as_bytes());
        raw.hash.update(&get::<i32>(&row, 6)?.to_be_bytes());
        match kind {
            "b" if get(&row, 8)? => raw.parts.push(get(&row, 4)?),
            "d" => raw.parts.push(get(&row, 5)?),
            "e" => enums.push(oid),
            "c" => {
                rows_of.insert(get::<u32>(&row, 7)?, oid);
            }
            "r" | "m" => raw.parts.push(get::<Option<u32>>(&row, 9)?.unwrap_or_default()),
            _ => base(
                catalog,
                &mut raw,
                (schema, name),
                (get(&row, 10)?, get(&row, 11)?),
            ),
        }
        found.insert(oid, raw);
    }
    labels(catalog, &enums, &mut found).await?;
    attributes(catalog, &rows_of, &mut found).await?;
    Ok(found)
}

/// A type with code of its own.
fn base(
    catalog: &Catalog<'_>,
    raw: &mut Raw,
    (schema, name): (&[u8], &[u8]),
    (extension, version): (Option<&[u8]>, Option<&[u8]>),
) {
    let name = text(name);
    if schema == b"pg_catalog" && extension.is_none() && PLAIN.contains(&name.as_str()) {
        return;
    }
    let extension_name = extension.map(text);
    let listed = OF_EXTENSIONS
        .iter()
        .any(|(e, types)| Some(*e) == extension_name.as_deref() && types.contains(&name.as_str()));
    if listed {
        field(&mut raw.hash, extension.unwrap_or_default());
        field(&mut raw.hash, version.unwrap_or_default());
        raw.hash.update(&catalog.version.to_be_bytes());
        return;
    }
    let why = if schema == b"pg_catalog" && extension.is_none() {
        format!("the text of type {} depends on more than the value", raw.name)
    } else {
        format!("type {} is not known to print a value always the same", raw.name)
    };
    raw.obstacle = Some(why.into());
}

async fn labels(catalog: &Catalog<'_>, enums: &[u32], found: &mut HashMap<u32, Raw>) -> Result<()> {
    if enums.is_empty() {
        return Ok(());
    }
    // With the row's own version: a label that was renamed and renamed back was another in between.
    let sql = format!(
        "SELECT l.enumtypid, l.oid, l.enumsortorder, l.xmin::text, {} FROM pg_catalog.pg_enum l
         WHERE l.enumtypid = ANY ($1) ORDER BY l.enumtypid, l.oid",
        catalog.bytes("l.enumlabel")
    );
    let mut rows = catalog
        .stream("labels of enums", &sql, &[(&enums, Type::OID_ARRAY)])
        .await?;
    while let Some(row) = rows.try_next().await? {
        if let Some(raw) = found.get_mut(&get::<u32>(&row, 0)?) {
            raw.hash.update(&get::<u32>(&row, 1)?.to_be_bytes());
            raw.hash.update(&get::<f32>(&row, 2)?.to_be_bytes());
            field(&mut raw.hash, get::<&str>(&row, 3)?.as_bytes());
            field(&mut raw.hash, get(&row, 4)?);
        }
    }
    Ok(())
}

async fn attributes(
    catalog: &Catalog<'_>,
    rows_of: &HashMap<u32, u32>,
    found: &mut HashMap<u32, Raw>,
) -> Result<()> {
    if rows_of.is_empty() {
        return Ok(());
    }
    // A value that was stored before an attribute was added takes what is kept as missing.
    let sql = format!(
        "SELECT a.attrelid, a.attnum, a.atttypid, a.atttypmod, a.attcollation, a.attisdropped, {} , {}
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY ($1) AND a.attnum > 0 ORDER BY a.attrelid, a.attnum",
        catalog.bytes("a.attname"),
        catalog.bytes("a.attmissingval"),
    );
    let relations: Vec<u32> = rows_of.keys().copied().collect();
    let parameter = (&relations as _, Type::OID_ARRAY);
    let mut rows = catalog.stream("attributes of types", &sql, &[parameter]).await?;
    while let Some(row) = rows.try_next().await? {
        let Some(raw) = rows_of.get(&get(&row, 0)?).and_then(|oid| found.get_mut(oid)) else {
            continue;
        };
        let part: u32 = get(&row, 2)?;
        raw.hash.update(&get::<i16>(&row, 1)?.to_be_bytes());
        raw.hash.update(&part.to_be_bytes());
        raw.hash.update(&get::<i32>(&row, 3)?.to_be_bytes());
        raw.hash.update(&get::<u32>(&row, 4)?.to_be_bytes());
        field(&mut raw.hash, &[get::<bool>(&row, 5)?.into()]);
        field(&mut raw.hash, get(&row, 6)?);
        field(&mut raw.hash, get::<Option<&[u8]>>(&row, 7)?.unwrap_or(b"\0"));
        if part != 0 {
            raw.parts.push(part);
        }
    }
    Ok(())
}
