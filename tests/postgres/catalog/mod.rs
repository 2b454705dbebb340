//! What the catalogs say, held against real servers and against what `pg_dump` makes of the same database.

mod filters;
mod fingerprint;
mod globals;
mod large_objects;
mod sequences;
mod server;
mod signatures;
mod tables;
mod versions;

use holdall::connector::postgres::catalog::{Filter, Table, Tables, tables as list};
use holdall::connector::postgres::connect::{Connection, Server, Surroundings};
use holdall::context::Context;
use holdall::error::Result;
use holdall::testkit::PostgresServer;

/// A connection as a source has one: in a transaction with one snapshot, its settings pinned.
pub(crate) async fn session(url: &str) -> Connection {
    let context = Context::deterministic(1).unwrap();
    let connection = Server::parse(url, &Surroundings::default())
        .unwrap()
        .connect(&context)
        .await
        .unwrap();
    begin(&connection).await;
    connection
}

/// A new snapshot on a connection.
pub(crate) async fn begin(connection: &Connection) {
    let settings = "ROLLBACK; SET search_path = ''; SET row_security = off; SET TimeZone = 'UTC'; \
                    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    connection.client().batch_execute(settings).await.unwrap();
}

/// All tables that a filter keeps.
pub(crate) async fn all(connection: &Connection, filter: &Filter) -> Result<(Vec<Table>, Tables)> {
    let mut tables = list(connection, filter).await?;
    let mut found = Vec::new();
    let expected = tables.len();
    while let Some(table) = tables.next(connection).await? {
        found.push(table);
    }
    assert_eq!(found.len(), expected);
    Ok((found, tables))
}

/// The names of the tables that a filter keeps.
pub(crate) async fn names(connection: &Connection, filter: &Filter) -> Result<Vec<String>> {
    let (tables, _) = all(connection, filter).await?;
    Ok(tables.iter().map(|table| table.name.to_string()).collect())
}

/// The lines that begin a table's rows in what `pg_dump` writes, sorted: `COPY s.t (a, b) FROM stdin;`.
pub(crate) fn pg_dump_copies(server: &PostgresServer, database: &str, arguments: &[&str]) -> Vec<String> {
    let url = server.url(database);
    let mut all = vec!["--data-only", "--no-sync", "-d", &url];
    all.extend(arguments);
    let output = server.run("pg_dump", &all).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let copies = text
        .lines()
        .filter(|line| line.starts_with("COPY ") && line.ends_with(" FROM stdin;"));
    let mut copies: Vec<String> = copies.map(str::to_owned).collect();
    copies.sort();
    copies
}
