//! Large objects: what they are, in pages, and their bytes. `pg_largeobject` itself is for superusers only.

use super::query::{Catalog, get, text};
use crate::connector::postgres::connect::Connection;
use crate::connector::postgres::record::LargeObjectRecord;
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

/// Large objects that one page has at most.
const PAGE: i64 = 1000;

/// A large object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LargeObject {
    /// Its oid.
    pub oid: u32,
    /// What its entry says of it.
    pub record: LargeObjectRecord,
    /// Whether the role may read it.
    pub readable: bool,
}

/// The next large objects behind an oid, ascending, at most 1,000; none: there are no more. The first page is that behind 0.
///
/// # Errors
/// `Source` if the server cannot be asked.
pub async fn large_objects(connection: &Connection, behind: u32) -> Result<Vec<LargeObject>> {
    let catalog = Catalog::of(connection);
    // `has_largeobject_privilege` came with 18; before, the rule has to be said.
    let sql = format!(
        "SELECT l.oid, {}, l.lomacl::text[], {},
                pg_catalog.current_setting('lo_compat_privileges') = 'on'
                OR EXISTS (SELECT FROM pg_catalog.aclexplode(COALESCE(l.lomacl, pg_catalog.acldefault('L', l.lomowner))) a
                           WHERE a.privilege_type = 'SELECT'
                           AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))
                OR (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = CURRENT_USER)
         FROM pg_catalog.pg_largeobject_metadata l WHERE l.oid > $1 ORDER BY l.oid LIMIT $2",
        catalog.bytes("pg_catalog.pg_get_userbyid(l.lomowner)"),
        catalog.bytes("pg_catalog.obj_description(l.oid, 'pg_largeobject')"),
    );
    let parameters = [(&behind as _, Type::OID), (&PAGE as _, Type::INT8)];
    let rows = catalog.rows("large objects", &sql, &parameters).await?;
    let read = |row: &Row| {
        Ok(LargeObject {
            oid: get(row, 0)?,
            record: LargeObjectRecord {
                owner: get(row, 1)?,
                acl: get(row, 2)?,
                comment: get::<Option<&[u8]>>(row, 3)?.map(text),
            },
            readable: get(row, 4)?,
        })
    };
    rows.iter().map(read).collect()
}

/// The first bytes of large objects, at most `length` of each, as the connection's snapshot sees them.
///
/// # Errors
/// `Source` if one cannot be read.
pub async fn large_object_heads(client: &Client, oids: &[u32], length: u32) -> Result<Vec<Bytes>> {
    let sql = "SELECT pg_catalog.lo_get(o.oid, 0, $2) FROM pg_catalog.unnest($1) WITH ORDINALITY o(oid, n) ORDER BY o.n";
    let length = i32::try_from(length).unwrap_or(i32::MAX);
    let parameters = [(&oids as _, Type::OID_ARRAY), (&length as _, Type::INT4)];
    let rows = client.query_typed(sql, &parameters).await;
    let rows = rows.map_err(|error| failed("cannot read large objects", error))?;
    let bytes = |row: &Row| get::<&[u8]>(row, 0).map(Bytes::copy_from_slice);
    rows.iter().map(bytes).collect()
}

/// At most `length` bytes of a large object from `offset` on, as the connection's snapshot sees them; fewer only at its end.
///
/// # Errors
/// `Source` that names it.
pub async fn large_object_piece(client: &Client, oid: u32, offset: u64, length: u32) -> Result<Bytes> {
    let sql = "SELECT pg_catalog.lo_get($1, $2, $3)";
    let (offset, length) = (
        i64::try_from(offset).unwrap_or(i64::MAX),
        i32::try_from(length).unwrap_or(i32::MAX),
    );
    let parameters = [
        (&oid as _, Type::OID),
        (&offset as _, Type::INT8),
        (&length as _, Type::INT4),
    ];
    let rows = client.query_typed(sql, &parameters).await;
    let rows = rows.map_err(|error| failed("cannot read a large object", error).with("oid", oid))?;
    let piece = rows.first().map(|row| get::<&[u8]>(row, 0)).transpose()?;
    Ok(Bytes::copy_from_slice(piece.unwrap_or_default()))
}

fn failed(what: &str, error: tokio_postgres::Error) -> Error {
    let denied = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
    let error = Error::new(ErrorKind::Source, what).because(error);
    if denied {
        return error.hint("GRANT SELECT ON LARGE OBJECT to the role, or read as its owner");
    }
    error
}
