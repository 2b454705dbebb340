//! Values of sequences, held against `pg_dump`.

use super::session;
use holdall::connector::postgres::catalog::{Filter, sequences};
use holdall::error::ErrorKind;
use holdall::testkit::PostgresServer;

const SEQUENCES: &str = r#"
CREATE SCHEMA app;
CREATE SEQUENCE fresh START 5; CREATE SEQUENCE used; SELECT nextval('used'), nextval('used');
CREATE SEQUENCE told; SELECT setval('told', 40, false); CREATE SEQUENCE down INCREMENT -1; SELECT nextval('down');
CREATE SEQUENCE big AS bigint; SELECT setval('big', 9223372036854775807);
CREATE SEQUENCE "it's ""odd""\"; SELECT nextval('"it''s ""odd""\"'); CREATE UNLOGGED SEQUENCE loose;
CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY, n serial); INSERT INTO app.t DEFAULT VALUES;
CREATE TABLE other (id bigserial);
DO $$ BEGIN FOR i IN 1..450 LOOP EXECUTE format('CREATE SEQUENCE app.%I', 's' || i); PERFORM setval(format('app.s%s', i), i); END LOOP; END $$;
"#;

/// The same lines as `pg_dump` has them, without quotes and escapes: it writes fewer.
fn of_pg_dump(server: &PostgresServer, filter: &Filter) -> Vec<String> {
    let url = server.url("postgres");
    let chosen = filter.arguments();
    let mut arguments = vec!["--data-only", "-d", &url];
    arguments.extend(chosen.iter().map(String::as_str));
    let output = server.run("pg_dump", &arguments).unwrap();
    lines(&String::from_utf8(output.stdout).unwrap())
}

fn lines(text: &str) -> Vec<String> {
    let setval = text
        .lines()
        .filter(|line| line.starts_with("SELECT pg_catalog.setval("));
    let mut lines: Vec<String> = setval
        .map(|line| line.replace('"', "").replace("(E'", "('").replace(r"\\", r"\"))
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn every_value_is_what_pg_dump_says() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", SEQUENCES).unwrap();
    let connection = session(&server.url("postgres")).await;
    let of = |schemas: &[&str], tables: &[&str], without: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        Filter {
            schemas: list(schemas),
            tables: list(tables),
            exclude_tables: list(without),
            ..Filter::default()
        }
    };
    let filters = [
        (Filter::default(), 460),
        (of(&["public"], &[], &[]), 8),
        // The sequences of a table are kept with it, whatever else is chosen.
        (of(&[], &["app.t"], &[]), 2),
        (of(&["public"], &[], &["other", "*odd*"]), 7),
        (of(&[], &["told"], &[]), 1),
    ];
    for (filter, expected) in filters {
        let found = sequences(&connection, &filter).await.unwrap();
        assert!(found.missing.is_empty());
        let ours = lines(&found.statements);
        let theirs = of_pg_dump(&server, &filter);
        let differs = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
        assert_eq!((differs, ours.len()), (None, theirs.len()), "{filter:?}");
        assert_eq!(ours.len(), expected, "{filter:?}");
        assert_eq!(found.statements.lines().count(), expected);
    }
    // Nothing of it stays locked.
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relkind = 'S'";
    assert_eq!(server.psql("postgres", locks).unwrap(), "0\n");
}

#[tokio::test]
async fn what_is_said_gives_another_database_the_same_values() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", SEQUENCES).unwrap();
    server
        .psql("postgres", "CREATE DATABASE copy TEMPLATE postgres")
        .unwrap();
    server
        .psql(
            "copy",
            "DO $$ DECLARE s oid; BEGIN FOR s IN SELECT oid FROM pg_class WHERE relkind = 'S' LOOP
        EXECUTE format('ALTER SEQUENCE %s RESTART', s::regclass); END LOOP; END $$",
        )
        .unwrap();
    let connection = session(&server.url("postgres")).await;
    let statements = sequences(&connection, &Filter::default())
        .await
        .unwrap()
        .statements;
    server.psql("copy", &statements).unwrap();
    let connection = session(&server.url("copy")).await;
    let again = sequences(&connection, &Filter::default())
        .await
        .unwrap()
        .statements;
    assert_eq!(again, statements);
}

#[tokio::test]
async fn a_sequence_that_may_not_be_read_is_an_error_that_names_it() {
    let server = PostgresServer::start(15, "").unwrap();
    server
        .psql(
            "postgres",
            "CREATE ROLE plain LOGIN; CREATE SEQUENCE open; GRANT SELECT ON open TO plain;
             CREATE SEQUENCE \"Closed\"; GRANT USAGE ON \"Closed\" TO plain",
        )
        .unwrap();
    let connection = session(&server.url("postgres").replace("postgres@", "plain@")).await;
    let error = sequences(&connection, &Filter::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert_eq!(error.context("sequence"), Some("public.\"Closed\""));
    let without = Filter {
        exclude_tables: vec!["public.\"Closed\"".into()],
        ..Filter::default()
    };
    let found = sequences(&connection, &without).await.unwrap();
    assert_eq!(
        found.statements,
        "SELECT pg_catalog.setval('\"public\".\"open\"', 1, false);\n"
    );
}

#[tokio::test]
async fn a_sequence_that_was_dropped_since_the_snapshot_is_told_and_costs_no_other() {
    let server = PostgresServer::start(15, "").unwrap();
    server
        .psql(
            "postgres",
            "CREATE SEQUENCE a; CREATE SEQUENCE b; CREATE SEQUENCE c",
        )
        .unwrap();
    let connection = session(&server.url("postgres")).await;
    connection.client().query_one("SELECT 1", &[]).await.unwrap();
    server
        .psql("postgres", "DROP SEQUENCE b; SELECT nextval('c')")
        .unwrap();
    let found = sequences(&connection, &Filter::default()).await.unwrap();
    assert_eq!(
        found.statements,
        "SELECT pg_catalog.setval('\"public\".\"a\"', 1, false);\nSELECT pg_catalog.setval('\"public\".\"c\"', 1, true);\n"
    );
    let dropped: Vec<String> = found.missing.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(dropped, ["public.b"]);
    // The snapshot lives.
    connection.client().query_one("SELECT 1", &[]).await.unwrap();
}

#[tokio::test]
async fn a_sequence_that_was_renamed_since_the_snapshot_keeps_its_value() {
    for major in [15, 18] {
        let server = PostgresServer::start(major, "").unwrap();
        let create = "CREATE SCHEMA s; CREATE SEQUENCE a; CREATE SEQUENCE s.b; CREATE SEQUENCE c";
        server.psql("postgres", create).unwrap();
        let connection = session(&server.url("postgres")).await;
        connection.client().query_one("SELECT 1", &[]).await.unwrap();
        // Another one takes the name; a schema goes by another; a table takes the place of the third.
        let rename = "SELECT setval('a', 7), setval('s.b', 8), setval('c', 9); ALTER SEQUENCE a RENAME TO \"it's A\";
            CREATE SEQUENCE a START 1000; ALTER SCHEMA s RENAME TO t; ALTER SEQUENCE c RENAME TO d; CREATE TABLE c (x int)";
        server.psql("postgres", rename).unwrap();
        let found = sequences(&connection, &Filter::default()).await.unwrap();
        assert!(found.missing.is_empty(), "{found:?}");
        let expected = ["public\".\"a\"', 7", "public\".\"c\"', 9", "s\".\"b\"', 8"]
            .map(|value| format!("SELECT pg_catalog.setval('\"{value}, true);\n"));
        assert_eq!(found.statements, expected.concat());
    }
}

#[tokio::test]
async fn an_unlogged_sequence_on_a_standby_is_told_and_costs_no_other() {
    for major in [15, 18] {
        let server = PostgresServer::start(major, "").unwrap();
        let create = "CREATE SEQUENCE a; CREATE UNLOGGED SEQUENCE b; SELECT nextval('a'), nextval('b')";
        server.psql("postgres", create).unwrap();
        server.stop("fast").unwrap();
        server.install("standby.signal", "").unwrap();
        server.control(&["start"]).unwrap();
        let connection = session(&server.url("postgres")).await;
        let found = sequences(&connection, &Filter::default()).await.unwrap();
        assert_eq!(
            found.statements,
            "SELECT pg_catalog.setval('\"public\".\"a\"', 1, true);\n"
        );
        let missing: Vec<String> = found.missing.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(missing, ["public.b"]);
    }
}
