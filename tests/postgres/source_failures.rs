//! What happens to a snapshot when others alter tables, and when connections and servers go.

use crate::source::{DURABLE, Taken, assert_same_rows, parent, request, take};
use futures::StreamExt;
use holdall::connector::Source;
use holdall::connector::postgres::PostgresSource;
use holdall::connector::postgres::connect::{Server, Surroundings};
use holdall::context::Context;
use holdall::error::{Error, ErrorKind, Result};
use holdall::testkit::PostgresServer;
use std::time::Duration;

/// Rows of about 60 MB: more than fits into all buffers on the way.
const LARGE: &str =
    "CREATE TABLE large AS SELECT g AS id, repeat(md5(g::text), 32) AS text FROM generate_series(1, 60000) g";

/// Takes a snapshot and does something to the server after some entries.
async fn disturbed(server: &PostgresServer, after: usize, sql: &str) -> Result<Taken> {
    let context = Context::deterministic(7).unwrap();
    let mut source = PostgresSource::new(request(server, "postgres"));
    let mut taken = Taken::default();
    {
        let mut items = source.entries(&context, parent(None));
        let mut seen = 0;
        while let Some(item) = items.next().await {
            taken.add(item?).await?;
            seen += 1;
            if seen == after {
                server.psql("postgres", sql).unwrap();
            }
        }
    }
    source.finish().await?;
    Ok(taken)
}

/// A lock on a table does not hold its types, and values are written by what a type is now.
#[tokio::test]
async fn a_type_that_is_altered_while_its_rows_are_read_is_named() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN state AS mood; CREATE TYPE pair AS (a int, b state[]);
        CREATE TYPE unused AS ENUM ('x');
        CREATE TABLE large AS SELECT g AS id, repeat(md5(g::text), 32) AS text, ROW(g, '{ok}')::pair AS pair
        FROM generate_series(1, 60000) g";
    server.psql("postgres", fill).unwrap();
    let unused = "ALTER TYPE unused RENAME VALUE 'x' TO 'y'; CREATE TYPE more AS ENUM ('z')";
    disturbed(&server, 10, unused).await.unwrap();
    for sql in [
        "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
        "ALTER TYPE mood RENAME VALUE 'fine' TO 'ok'; ALTER TYPE mood RENAME VALUE 'ok' TO 'o'; ALTER TYPE mood RENAME VALUE 'o' TO 'ok'",
        "ALTER TYPE pair ADD ATTRIBUTE c int",
    ] {
        let error = disturbed(&server, 10, sql).await.err().unwrap();
        let named = (error.kind(), error.context("table"), error.context("type"));
        let expected = (ErrorKind::Source, Some("public.large"), Some("public.pair"));
        assert_eq!(named, expected, "{sql}: {error:?}");
    }
    disturbed(&server, 10, "SELECT 1").await.unwrap();
}

fn terminate(which: &str) -> String {
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdall' AND {which}"
    )
}

#[tokio::test]
async fn a_lost_worker_is_replaced_and_nothing_is_missing() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", LARGE).unwrap();
    let undisturbed = take(&request(&server, "postgres"), None, 1).await.unwrap();
    for after in [4, 60, 150] {
        let taken = disturbed(&server, after, &terminate("query LIKE 'COPY%'"))
            .await
            .unwrap();
        assert_same_rows(&taken, &undisturbed);
    }
}

#[tokio::test]
async fn without_the_coordinator_there_is_no_snapshot() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", LARGE).unwrap();
    for which in ["query NOT LIKE 'COPY%'", "true"] {
        let error = disturbed(&server, 10, &terminate(which)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Source, "{error:?}");
        assert!(error.advice().is_some(), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_the_snapshot_with_an_error() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", LARGE).unwrap();
    let context = Context::deterministic(7).unwrap();
    let mut source = PostgresSource::new(request(&server, "postgres"));
    let mut items = source.entries(&context, parent(None));
    let mut failure: Option<Error> = None;
    let mut seen = 0;
    while let Some(item) = items.next().await {
        seen += 1;
        if seen == 20 {
            server.control(&["-m", "immediate", "-w", "restart"]).unwrap();
        }
        failure = failure.or(item.err());
    }
    drop(items);
    assert_eq!(failure.unwrap().kind(), ErrorKind::Source);
    assert!(source.finish().await.is_err());
}

/// Begins a snapshot while another session holds `t` exclusively, lets that one do something, and ends it.
async fn beside(server: &PostgresServer, sql: &str) -> Result<Taken> {
    let context = Context::deterministic(3).unwrap();
    let other = Server::parse(&server.url("postgres"), &Surroundings::default()).unwrap();
    let other = other.connect(&context).await.unwrap();
    let client = other.client();
    client
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let request = request(server, "postgres");
    let taking = tokio::spawn(async move { take(&request, None, 1).await });
    let waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessShareLock'";
    while client.query(waiting, &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.batch_execute(sql).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    taking.await.unwrap()
}

#[tokio::test]
async fn what_changes_between_the_snapshot_and_the_lock_is_seen_whole() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let changes = [
        ("TRUNCATE t", ""),
        ("TRUNCATE t; INSERT INTO t VALUES (5, 6)", "5\t6\n"),
        ("ALTER TABLE t ALTER a TYPE numeric(5, 1)", "1.0\t2\n"),
        ("ALTER TABLE t DROP COLUMN b", "1\n"),
        ("ALTER TABLE t ADD COLUMN c int DEFAULT 9", "1\t2\t9\n"),
        (
            "ALTER TABLE t RENAME COLUMN a TO c; ALTER TABLE t RENAME COLUMN b TO a",
            "1\t2\n",
        ),
        (
            "ALTER TABLE t RENAME TO u; CREATE TABLE t (a int); INSERT INTO t VALUES (3)",
            "3\n",
        ),
        ("DELETE FROM t", "1\t2\n"),
    ];
    for (sql, rows) in changes {
        let fresh = "DROP TABLE IF EXISTS t, u; CREATE TABLE t AS SELECT 1 AS a, 2 AS b";
        server.psql("postgres", fresh).unwrap();
        let taken = beside(&server, sql).await.unwrap();
        assert_eq!(taken.rows("t"), rows, "{sql}");
    }
    let fresh = "DROP TABLE IF EXISTS t, u; CREATE TABLE t AS SELECT 1 AS a, 2 AS b";
    server.psql("postgres", fresh).unwrap();
    assert!(beside(&server, "DROP TABLE t").await.unwrap().tables().is_empty());
}

#[tokio::test]
async fn a_table_that_is_held_too_long_is_named() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", "CREATE TABLE held (a int)").unwrap();
    let context = Context::deterministic(3).unwrap();
    let other = Server::parse(&server.url("postgres"), &Surroundings::default()).unwrap();
    let other = other.connect(&context).await.unwrap();
    let hold = "BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE";
    other.client().batch_execute(hold).await.unwrap();
    let mut request = request(&server, "postgres");
    request.session.lock_timeout = Duration::from_millis(300);
    let error = take(&request, None, 1).await.err().unwrap();
    assert_eq!(
        (error.kind(), error.context("table")),
        (ErrorKind::Source, Some("public.held"))
    );
}

#[tokio::test]
async fn whoever_waits_to_alter_a_table_does_not_stop_a_snapshot() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", LARGE).unwrap();
    let undisturbed = take(&request(&server, "postgres"), None, 1).await.unwrap();
    let context = Context::deterministic(7).unwrap();
    let other = Server::parse(&server.url("postgres"), &Surroundings::default()).unwrap();
    let other = other.connect(&context).await.unwrap();
    let mut source = PostgresSource::new(request(&server, "postgres"));
    let mut taken = Taken::default();
    let mut altering = None;
    {
        let mut items = source.entries(&context, parent(None));
        while let Some(item) = items.next().await {
            taken.add(item.unwrap()).await.unwrap();
            if altering.is_none() {
                let client = other.client();
                let alter = tokio::time::timeout(
                    Duration::from_millis(300),
                    client.batch_execute("ALTER TABLE large ADD c int"),
                );
                altering = Some(alter.await);
            }
        }
    }
    source.finish().await.unwrap();
    assert!(altering.unwrap().is_err(), "it has to wait");
    assert_same_rows(&taken, &undisturbed);
}

#[tokio::test]
async fn a_snapshot_that_became_too_old_is_given_up() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", LARGE).unwrap();
    let mut request = request(&server, "postgres");
    request.session.max_age = Duration::from_millis(1);
    let error = take(&request, None, 1).await.err().unwrap();
    assert!(error.what().contains("too old"), "{error:?}");
}
