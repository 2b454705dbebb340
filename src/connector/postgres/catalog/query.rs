//! One catalog query: names as bytes, rows as a stream, and errors that say what was read.

use crate::connector::postgres::connect::Connection;
use crate::error::{Error, ErrorKind, Result};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Row};

/// A value of a query and its type. Types are given, not asked for, so that a query takes one round trip.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A client, and what of the server decides how its catalogs are read.
#[derive(Clone, Copy)]
pub(super) struct Catalog<'a> {
    client: &'a Client,
    /// `server_version_num`, such as 150018.
    pub(super) version: u32,
    /// The database has no encoding: its text is bytes.
    raw: bool,
}

impl<'a> Catalog<'a> {
    /// The catalogs of the database that a connection leads to.
    pub(super) fn of(connection: &'a Connection) -> Self {
        Self {
            client: connection.client(),
            version: connection.version(),
            raw: connection.has_no_encoding(),
        }
    }

    /// SQL for a text as bytes. As text it could not be read from a database in SQL_ASCII that holds other than UTF-8.
    pub(super) fn bytes(&self, expression: &str) -> String {
        let encoding = if self.raw { "SQL_ASCII" } else { "UTF8" };
        format!("pg_catalog.convert_to(({expression})::pg_catalog.text, '{encoding}')")
    }

    /// Rows as they come; `what` names them in errors.
    pub(super) async fn stream(
        &self,
        what: &'static str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<BoxStream<'static, Result<Row>>> {
        let parameters = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
        let rows = self.client.query_typed_raw(sql, parameters.collect::<Vec<_>>());
        let rows = rows.await.map_err(|error| failed(what, error))?;
        Ok(rows
            .map(move |row| row.map_err(|error| failed(what, error)))
            .boxed())
    }

    /// All rows of a query that gives few.
    pub(super) async fn rows(
        &self,
        what: &'static str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        let rows = self.client.query_typed(sql, parameters).await;
        rows.map_err(|error| failed(what, error))
    }

    /// The row of a query that gives exactly one.
    pub(super) async fn row(&self, what: &'static str, sql: &str) -> Result<Row> {
        let rows = self.rows(what, sql, &[]).await?;
        rows.into_iter().next().ok_or_else(|| short(what))
    }
}

/// A value of a row.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T> {
    row.try_get(index).map_err(|error| {
        Error::new(ErrorKind::Source, "the server's catalog has an unexpected form").because(error)
    })
}

pub(super) fn failed(what: &'static str, error: tokio_postgres::Error) -> Error {
    Error::new(ErrorKind::Source, "cannot read the catalog")
        .with("of", what)
        .because(error)
}

fn short(what: &'static str) -> Error {
    Error::new(ErrorKind::Source, "the server gave no answer").with("of", what)
}

/// Bytes for people.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
