//! What a restore says of what the server refuses: enough to find it, and never a value, wherever the server says one.

use crate::handmade;
use crate::restore::{edit, request, restore};
use holdall::connector::postgres::key::{Place, Segment, TableName};
use holdall::testkit::PostgresServer;

/// Functions of the server's own take queries, files and numbers of things from rows, and say them as they would those of a statement.
#[tokio::test]
async fn a_value_in_which_the_servers_own_functions_find_something_is_not_shown() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE TABLE t (a text, n int); INSERT INTO t VALUES ('s3cret', 730731);
        CREATE TABLE long (a text); INSERT INTO long VALUES ('s3cret' || repeat('x', 3000));
        CREATE MATERIALIZED VIEW query AS SELECT w.word FROM t, ts_stat(t.a) w WITH NO DATA;
        CREATE MATERIALIZED VIEW file AS SELECT pg_read_file('/no/' || a) AS a FROM t WITH NO DATA;
        CREATE MATERIALIZED VIEW number AS SELECT lo_get(n::oid) AS a FROM t WITH NO DATA;
        CREATE MATERIALIZED VIEW part AS SELECT replace(a, 's3cret', 'ubli')::regclass AS a FROM t WITH NO DATA";
    server.psql("source", fill).unwrap();
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    let index = "CREATE INDEX i ON public.long USING btree (((a)::tsquery));\nCREATE INDEX j ON public.gone USING btree (a);\n";
    handmade::statements(&mut snapshot, b"source", &Place::Constraints, index);
    let refresh =
        ["query", "file", "number", "part"].map(|view| format!("REFRESH MATERIALIZED VIEW public.{view};\n"));
    handmade::statements(&mut snapshot, b"source", &Place::Refresh, &refresh.concat());
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    let told = restored.incidents.join("\n");
    assert_eq!(restored.report.unwrap().failed, 6, "{told}");
    for value in ["s3cret", "730731", "\"ubli\""] {
        assert!(!told.contains(value), "{value} is in\n{told}");
    }
    for expected in [
        "public.query;: 42601: something has a name that is not there, or may not be used (the log",
        "public.file;: 58P01: the server's system does not give it a file (the log",
        "public.number;: 42704: something has a name that is not there, or may not be used (the log",
        "public.part;: 42P01: something has a name that is not there, or may not be used (the log",
        "54000: something is larger than the server takes (the log",
        "42P01: relation \"public.gone\" does not exist",
    ] {
        assert!(told.contains(expected), "{expected} is not in\n{told}");
    }
}

/// The same while rows are checked, where the server says nothing of a column.
#[tokio::test]
async fn a_value_in_which_a_check_finds_something_is_not_shown_and_costs_its_segment_alone() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let long = format!("s3cret{}", "x".repeat(3000));
    let tables = [
        (
            "named",
            "c::regclass IS NOT NULL",
            "pg_class",
            "far.away.s3cret",
            "0A000: the server does not do",
        ),
        (
            "query",
            "c::tsquery IS NOT NULL",
            "word",
            &long,
            "54000: something is larger",
        ),
        (
            "file",
            "length(c) < 10 OR pg_read_file('/no/' || c) IS NOT NULL",
            "word",
            "s3cret_file",
            "58P01: the server's system",
        ),
        (
            "bytes",
            "convert_from(decode(c, 'hex'), 'UTF8') <> ''",
            "41",
            "fe",
            "22021: a character has no place in an encoding",
        ),
    ];
    for (table, check, good, _, _) in tables {
        let fill = format!(
            "CREATE TABLE {table} (id int, c text CHECK ({check})); INSERT INTO {table} SELECT n, '{good}' FROM generate_series(1, 500) n"
        );
        server.psql("source", &fill).unwrap();
    }
    let mut snapshot = handmade::snapshot(&server, "source", "").await;
    for (table, _, good, bad, _) in tables {
        let segment = Segment { block: 0, part: 0 };
        let first = Place::Segment(TableName::new("public", table), segment);
        edit(&mut snapshot, &first, |rows| {
            rows.replacen(&format!("2\t{good}\n"), &format!("2\t{bad}\n"), 1)
        });
    }
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    let told = restored.incidents.join("\n");
    for value in ["s3cret", "0xfe"] {
        assert!(!told.contains(value), "{value} is in\n{told}");
    }
    for (table, _, _, _, why) in tables {
        let expected = format!("public.{table} from block 0: its rows are not in the target: {why}");
        assert!(told.contains(&expected), "{expected} is not in\n{told}");
        let rows = format!("SELECT count(*) > 300 FROM {table}");
        assert_eq!(server.psql("target", &rows).unwrap(), "t\n", "{table}");
    }
}
