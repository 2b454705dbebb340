//! `pg_dump`, found and run.

use crate::features;
use futures::TryStreamExt;
use holdall::connector::postgres::catalog::Filter;
use holdall::connector::postgres::dump::{PgDump, Run, Section};
use holdall::connector::postgres::statement::{Class, classify};
use holdall::connector::process::Effort;
use holdall::context::Context;
use holdall::error::{ErrorKind, Result};
use holdall::snapshot::entry::Piece;
use holdall::testkit::PostgresServer;
use holdall::testkit::fuzz::pieces_of;
use std::ffi::OsString;
use std::time::Duration;

fn environment(server: &PostgresServer, database: &str) -> Vec<(OsString, OsString)> {
    let pairs = [
        ("PGHOST", "127.0.0.1".to_owned()),
        ("PGPORT", server.port().to_string()),
        ("PGUSER", "postgres".to_owned()),
        ("PGDATABASE", database.to_owned()),
    ];
    pairs.map(|(name, value)| (name.into(), value.into())).to_vec()
}

/// A snapshot that is exported as long as it lives.
pub(crate) struct Exported {
    id: String,
    connection: holdall::connector::postgres::connect::Connection,
}

pub(crate) async fn export(context: &Context, server: &PostgresServer, database: &str) -> Exported {
    let target = server.server(database).unwrap();
    let connection = target.connect(context).await.unwrap();
    let client = connection.client();
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .unwrap();
    let row = client
        .query_one("SELECT pg_export_snapshot()", &[])
        .await
        .unwrap();
    Exported {
        id: row.get(0),
        connection,
    }
}

pub(crate) fn run(server: &PostgresServer, database: &str, exported: &Exported, filter: Filter) -> Run {
    Run {
        environment: environment(server, database),
        snapshot: exported.id.clone(),
        lock_timeout: Duration::from_secs(10),
        filter,
        effort: Effort::default(),
    }
}

pub(crate) async fn text(context: &Context, dump: &PgDump, run: &Run, section: Section) -> Result<String> {
    let mut out = Vec::new();
    if let Some(mut stream) = dump.statements(context, run, section).await? {
        while let Some(piece) = stream.try_next().await? {
            let Piece::Data(bytes) = piece else {
                panic!("{piece:?}")
            };
            out.extend_from_slice(&bytes);
        }
    }
    Ok(String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn the_statements_of_everything_make_it_again() {
    let server = PostgresServer::start(15, "").unwrap();
    let context = Context::deterministic(1).unwrap();
    server.psql("postgres", features::ROLES).unwrap();
    features::fill(&server, "source");
    let found = PgDump::find(&context, None, &[], 150_000).await.unwrap();
    assert_eq!(found.version().major, 15);
    let exported = export(&context, &server, "source").await;
    let run = run(&server, "source", &exported, Filter::default());
    // What is made now is not in the snapshot.
    server.psql("source", "CREATE TABLE too_late (a int)").unwrap();

    let mut sections = Vec::new();
    for section in [Section::Schema, Section::Constraints, Section::Refresh] {
        let sql = text(&context, &found, &run, section).await.unwrap();
        let (pieces, whole) = pieces_of(sql.as_bytes(), || usize::MAX);
        assert!(whole && !sql.contains("too_late"));
        assert!(!sql.contains("unrestrict") && !sql.contains("Dumped from"));
        let refresh = |sql: &[u8]| matches!(classify(sql), Class::Refresh(_));
        let count = pieces.iter().filter(|piece| refresh(&piece.text)).count();
        assert_eq!(
            count,
            if section == Section::Refresh { 2 } else { 0 },
            "{section:?}"
        );
        sections.push(sql);
    }
    assert_eq!(
        sections[2],
        "REFRESH MATERIALIZED VIEW public.zz_first;\nREFRESH MATERIALIZED VIEW app.a_second;\n"
    );

    server.psql("source", "DROP TABLE too_late").unwrap();
    server.psql("postgres", "CREATE DATABASE again").unwrap();
    let target = server.server("again").unwrap();
    let connection = target.connect(&context).await.unwrap();
    for sql in sections {
        connection.client().batch_execute(&sql).await.unwrap();
    }
    let schema = |name| features::dump(&server, name, &["--schema-only", "--no-blobs"]);
    features::assert_same(&schema("again"), &schema("source"));
}

#[tokio::test]
async fn quoted_names_in_a_filter_mean_themselves() {
    let server = PostgresServer::start(15, "").unwrap();
    let context = Context::deterministic(1).unwrap();
    let strange = "CREATE SCHEMA \"a*\"; CREATE SCHEMA ab; CREATE SCHEMA \"a\"\"b.c\";
        CREATE TABLE \"a*\".\"t|u\" (x int); CREATE TABLE ab.t (x int); CREATE TABLE \"a\"\"b.c\".\"T\" (x int);";
    server.psql("postgres", strange).unwrap();
    let found = PgDump::find(&context, None, &[], 150_000).await.unwrap();
    let exported = export(&context, &server, "postgres").await;
    let tables = async |filter| {
        let run = run(&server, "postgres", &exported, filter);
        let sql = text(&context, &found, &run, Section::Schema).await?;
        let lines = sql.lines().filter_map(|line| line.strip_prefix("CREATE TABLE "));
        Ok::<_, holdall::error::Error>(lines.map(str::to_owned).collect::<Vec<_>>())
    };
    let only = Filter {
        schemas: vec![r#""a*""#.into(), r#""a""b.c""#.into()],
        ..Filter::default()
    };
    assert_eq!(
        tables(only).await.unwrap(),
        ["\"a\"\"b.c\".\"T\" (", "\"a*\".\"t|u\" ("]
    );
    let without = Filter {
        exclude_schemas: vec![r#""a*""#.into()],
        exclude_tables: vec![r#""a""b.c"."T""#.into()],
        ..Filter::default()
    };
    assert_eq!(tables(without).await.unwrap(), ["ab.t ("]);
    let one = Filter {
        tables: vec![r#""a*"."t|u""#.into()],
        ..Filter::default()
    };
    assert_eq!(tables(one).await.unwrap(), ["\"a*\".\"t|u\" ("]);
    let missing = Filter {
        tables: vec!["ab.no".into()],
        ..Filter::default()
    };
    assert_eq!(tables(missing).await.unwrap_err().kind(), ErrorKind::Source);
}

#[tokio::test]
async fn an_empty_section_is_none_and_a_failed_dump_an_error() {
    let server = PostgresServer::start(15, "").unwrap();
    let context = Context::deterministic(1).unwrap();
    let found = PgDump::find(&context, None, &[], 150_000).await.unwrap();
    let exported = export(&context, &server, "postgres").await;
    let mut run = run(&server, "postgres", &exported, Filter::default());
    for section in [Section::Schema, Section::Constraints, Section::Refresh] {
        assert!(found.statements(&context, &run, section).await.unwrap().is_none());
    }
    run.snapshot = "00000003-0000FFFF-1".into();
    let error = found
        .statements(&context, &run, Section::Schema)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(error.causes().join(" ").contains("snapshot"), "{error:?}");
    context.cancel.cancel();
    let error = found
        .statements(&context, &run, Section::Schema)
        .await
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn one_run_gives_what_stands_behind_the_rows_unless_it_is_too_much() {
    let server = PostgresServer::start(15, "").unwrap();
    let context = Context::deterministic(1).unwrap();
    let found = PgDump::find(&context, None, &[], 150_000).await.unwrap();
    let make = [
        "",
        "CREATE TABLE t (a int PRIMARY KEY, b text); CREATE INDEX ON t (b);",
        "CREATE MATERIALIZED VIEW m AS SELECT a FROM t; CREATE MATERIALIZED VIEW n AS SELECT a FROM m;
         CREATE INDEX ON n (a); COMMENT ON INDEX n_a_idx IS 'behind'; CREATE RULE r AS ON INSERT TO t DO ALSO NOTHING;",
        "DROP MATERIALIZED VIEW n; DROP MATERIALIZED VIEW m; DROP TABLE t;
         CREATE TABLE u (a int); CREATE MATERIALIZED VIEW v AS SELECT a FROM u;",
    ];
    for sql in make {
        server.psql("postgres", sql).unwrap();
        let exported = export(&context, &server, "postgres").await;
        let run = run(&server, "postgres", &exported, Filter::default());
        let behind = found.behind_rows(&context, &run, 1 << 20).await.unwrap().unwrap();
        let constraints = text(&context, &found, &run, Section::Constraints).await.unwrap();
        let refresh = text(&context, &found, &run, Section::Refresh).await.unwrap();
        assert_eq!(behind.constraints, constraints.as_bytes(), "{sql}");
        assert_eq!(behind.refresh, refresh.as_bytes(), "{sql}");
        let whole = constraints.len() + refresh.len();
        assert_eq!(whole == 0, sql.is_empty(), "{constraints}{refresh}");
        if whole > 0 {
            assert_eq!(found.behind_rows(&context, &run, whole / 2).await.unwrap(), None);
        }
    }
    let exported = export(&context, &server, "postgres").await;
    let mut run = run(&server, "postgres", &exported, Filter::default());
    run.snapshot = "00000003-0000FFFF-1".into();
    let error = found.behind_rows(&context, &run, 1 << 20).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
}

#[tokio::test]
async fn a_table_that_stays_locked_ends_the_dump() {
    let server = PostgresServer::start(15, "").unwrap();
    let context = Context::deterministic(1).unwrap();
    server.psql("postgres", "CREATE TABLE t (a int)").unwrap();
    let found = PgDump::find(&context, None, &[], 150_000).await.unwrap();
    let exported = export(&context, &server, "postgres").await;
    let other = export(&context, &server, "postgres").await;
    let locker = other.connection.client();
    locker
        .batch_execute("COMMIT; BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let mut run = run(&server, "postgres", &exported, Filter::default());
    run.lock_timeout = Duration::from_millis(100);
    let error = found
        .statements(&context, &run, Section::Schema)
        .await
        .err()
        .unwrap();
    assert!(error.causes().join(" ").contains("LOCK TABLE"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_no_pg_dump_fits_is_refused_with_what_to_install() {
    let context = Context::deterministic(1).unwrap();
    let error = PgDump::find(&context, None, &[], 990_000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error
            .advice()
            .unwrap()
            .contains("apt-get install postgresql-client-99")
    );
    let own = PgDump::find(&context, None, &[], 150_000).await.unwrap();
    let named = PgDump::find(&context, Some(own.path()), &[], 150_000)
        .await
        .unwrap();
    assert_eq!(named, own);
    let error = PgDump::find(&context, Some(own.path()), &[], 170_000)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let psql = own.path().with_file_name("psql");
    let error = PgDump::find(&context, Some(&psql), &[], 150_000)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
