//! The database itself, as its entry says it.

use super::query::{Catalog, get, text};
use crate::connector::postgres::connect::Connection;
use crate::connector::postgres::record::DatabaseRecord;
use crate::error::Result;

/// The database that the client is connected to. The version of `pg_dump` is the caller's to add.
///
/// # Errors
/// `Source` if the server cannot be asked.
pub async fn database(connection: &Connection) -> Result<DatabaseRecord> {
    let catalog = Catalog::of(connection);
    let (provider, locale) = match catalog.version {
        170_000.. => ("d.datlocprovider::text", "d.datlocale"),
        150_000.. => ("d.datlocprovider::text", "d.daticulocale"),
        _ => ("NULL::text", "NULL::text"),
    };
    let columns = [
        "d.datname",
        "d.datcollate",
        "d.datctype",
        "pg_catalog.pg_get_userbyid(d.datdba)",
        "pg_catalog.shobj_description(d.oid, 'pg_database')",
        locale,
    ];
    let sql = format!(
        "SELECT {}, {provider}, pg_catalog.pg_encoding_to_char(d.encoding)::text, pg_catalog.current_setting('server_version')
         FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()",
        columns.map(|column| catalog.bytes(column)).join(", ")
    );
    let row = catalog.row("the database", &sql).await?;
    Ok(DatabaseRecord {
        name: get(&row, 0)?,
        server_version: get(&row, 8)?,
        server_version_num: catalog.version,
        encoding: get(&row, 7)?,
        collate: text(get(&row, 1)?),
        ctype: text(get(&row, 2)?),
        provider: get(&row, 6)?,
        locale: get::<Option<&[u8]>>(&row, 5)?.map(text),
        owner: get(&row, 3)?,
        comment: get::<Option<&[u8]>>(&row, 4)?.map(text),
        pg_dump: None,
    })
}
