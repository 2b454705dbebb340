//! Restores into a database.

use crate::{features, handmade};
use holdall::connector::postgres::connect::Server;
use holdall::connector::postgres::key::{self, Place, TableName};
use holdall::connector::postgres::record::{RowSum, decode_report, encode_report};
use holdall::connector::postgres::sink::{
    Counted, LOCK_TIMEOUT, PostgresSink, RestoreRequest, STRIPE, Summary,
};
use holdall::connector::{Sink, SinkReport};
use holdall::context::Context;
use holdall::error::{ErrorKind, Result};
use holdall::event::{Event, Recorder};
use holdall::snapshot::entry::Piece;
use holdall::testkit::PostgresServer;
use holdall::testkit::collect::Collected;
use std::sync::Arc;

/// A restore, and what it told.
pub(crate) struct Restored {
    pub(crate) report: Result<SinkReport>,
    pub(crate) summary: Summary,
    pub(crate) incidents: Vec<String>,
    pub(crate) notes: Vec<String>,
}

pub(crate) fn request(url: &str) -> RestoreRequest {
    RestoreRequest {
        server: Server::parse(
            url,
            &holdall::connector::postgres::connect::Surroundings::default(),
        )
        .unwrap(),
        jobs: 4,
        lock_timeout: LOCK_TIMEOUT,
        verify: true,
        stripe: STRIPE,
        dry_run: false,
        whole: true,
    }
}

pub(crate) async fn restore(snapshot: &Collected, request: RestoreRequest) -> Restored {
    let recorder = Arc::new(Recorder::default());
    let mut context = Context::deterministic(1).unwrap();
    context.observer = recorder.clone();
    let mut sink = PostgresSink::new(request);
    let report = snapshot.give(&context, &mut sink).await;
    let (mut incidents, mut notes) = (Vec::new(), Vec::new());
    for event in recorder.events() {
        match event {
            Event::Incident { name, why } => incidents.push(format!("{name}: {why}")),
            Event::Note { text } => notes.push(text),
            _ => {}
        }
    }
    Restored {
        report,
        summary: sink.summary(),
        incidents,
        notes,
    }
}

const GLOBALS: &str = "CREATE ROLE keeper;\nCREATE ROLE postgres;\nALTER ROLE postgres WITH NOLOGIN;\nCREATE ROLE reader;\n\
    ALTER ROLE reader WITH NOSUPERUSER INHERIT LOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 7;\nGRANT reader TO keeper;\n\
    ALTER DATABASE source SET work_mem TO '5MB';\n";

#[tokio::test]
async fn everything_comes_back_as_it_was() {
    let server = PostgresServer::start(15, "").unwrap();
    let other = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", features::ROLES).unwrap();
    features::fill(&server, "source");
    let snapshot = handmade::snapshot(&server, "source", GLOBALS).await;
    other.psql("postgres", "CREATE DATABASE target").unwrap();
    let restored = restore(&snapshot, request(&other.url("target"))).await;
    assert_eq!(restored.incidents, [""; 0]);
    let report = restored.report.unwrap();
    assert_eq!((report.failed, report.different), (0, 0));
    assert_eq!(report.written, snapshot.entries.len() as u64);
    let Counted { all, equal } = restored.summary.sequences;
    assert!(all > 4 && equal == all, "{equal} of {all}");
    let objects = Counted { all: 3, equal: 3 };
    assert_eq!(restored.summary.large_objects, objects);
    assert_eq!(restored.summary.roles, ["keeper", "reader"]);
    assert!(
        restored.notes[0].contains("without passwords: keeper, reader"),
        "{:?}",
        restored.notes
    );
    let source = features::dump(&server, "source", &[]);
    features::assert_same(
        &features::sorted(&features::dump(&other, "target", &[])),
        &features::sorted(&source),
    );
    // A single connection keeps the order of the rows too.
    other.psql("postgres", "CREATE DATABASE in_order").unwrap();
    let mut alone = request(&other.url("in_order"));
    alone.jobs = 1;
    let restored = restore(&snapshot, alone).await;
    assert_eq!(restored.incidents, [""; 0]);
    features::assert_same(&features::dump(&other, "in_order", &[]), &source);
    let roles =
        "SELECT rolname, rolcanlogin, rolconnlimit, pg_has_role('keeper', 'reader', 'member') FROM pg_roles
        WHERE rolname IN ('reader', 'postgres') ORDER BY 1";
    assert_eq!(
        other.psql("postgres", roles).unwrap(),
        "postgres|t|-1|t\nreader|t|7|t\n"
    );
    assert_eq!(other.psql("target", "SHOW work_mem").unwrap(), "5MB\n");
    let analyzed = "SELECT reltuples FROM pg_class WHERE relname = 'fleeting'";
    assert_eq!(other.psql("target", analyzed).unwrap(), "10\n");
}

/// A snapshot of a small database: one table with rows, a key, a materialized view, roles left out.
pub(crate) async fn small(server: &PostgresServer) -> Collected {
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let sql = "CREATE TABLE t (id int PRIMARY KEY, b text); INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 500) n;
        CREATE INDEX ON t (b); CREATE MATERIALIZED VIEW v AS SELECT count(*) FROM t; CREATE TABLE u (id int REFERENCES t);
        INSERT INTO u VALUES (7)";
    server.psql("source", sql).unwrap();
    handmade::snapshot(server, "source", "").await
}

#[tokio::test]
async fn a_target_that_is_not_empty_is_refused_and_left_alone() {
    let server = PostgresServer::start(15, "").unwrap();
    let snapshot = small(&server).await;
    for (at, sql) in [
        "CREATE TABLE mine (a int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE TYPE mine AS ENUM ('a')",
        "SELECT lo_create(7)",
        "CREATE VIEW mine AS SELECT 1",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("target{at}");
        server
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
        server.psql(&name, sql).unwrap();
        let before = features::dump(&server, &name, &[]);
        let restored = restore(&snapshot, request(&server.url(&name))).await;
        let error = restored.report.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{sql}");
        let named = error.context("among them").unwrap();
        assert!(named.contains("mine") || named == "large object 7", "{named}");
        assert_eq!(features::dump(&server, &name, &[]), before);
    }
    // Extensions are no reason: managed servers install some in every database.
    server.psql("postgres", "CREATE DATABASE extended").unwrap();
    server.psql("extended", "CREATE EXTENSION hstore").unwrap();
    let restored = restore(&snapshot, request(&server.url("extended"))).await;
    assert_eq!(restored.report.unwrap().failed, 0);
}

#[tokio::test]
async fn a_role_without_rights_gets_all_rows_and_a_list_of_what_was_refused() {
    let server = PostgresServer::start(15, "").unwrap();
    let other = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", features::ROLES).unwrap();
    features::fill(&server, "source");
    let snapshot = handmade::snapshot(&server, "source", GLOBALS).await;
    other
        .psql(
            "postgres",
            "CREATE ROLE limited LOGIN CREATEROLE CONNECTION LIMIT 4",
        )
        .unwrap();
    other
        .psql("postgres", "CREATE DATABASE target OWNER limited")
        .unwrap();
    let url = format!("postgres://limited@127.0.0.1:{}/target", other.port());
    let mut request = request(&url);
    request.jobs = 2;
    let restored = restore(&snapshot, request).await;
    let report = restored.report.unwrap();
    assert_eq!(report.different, 0, "{:?}", restored.incidents);
    assert!(report.failed > 5 && restored.summary.refused > 5);
    assert_eq!(report.failed, restored.incidents.len() as u64);
    let refused = restored.incidents.join("\n");
    for expected in [
        "CREATE EVENT TRIGGER watching",
        "CREATE FOREIGN DATA WRAPPER dummy",
        "ALTER SCHEMA app OWNER TO keeper",
        "42501: ",
    ] {
        assert!(refused.contains(expected), "{expected} is not in\n{refused}");
    }
    let rows = "SELECT count(*), sum(id) FROM app.people";
    assert_eq!(
        other.psql("target", rows).unwrap(),
        server.psql("source", rows).unwrap()
    );
    assert_eq!(
        other.psql("target", "SELECT m FROM app.a_second").unwrap().trim(),
        "432"
    );
}

#[tokio::test]
async fn a_table_that_cannot_be_made_is_told_once_with_its_rows() {
    let server = PostgresServer::start(15, "").unwrap();
    let mut snapshot = small(&server).await;
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    edit(&mut snapshot, &Place::Schema, |sql| {
        sql.replace("id integer NOT NULL", "id no_such_type NOT NULL")
    });
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    let report = restored.report.unwrap();
    let about = |what: &str| restored.incidents.iter().filter(|i| i.starts_with(what)).count();
    assert_eq!(about("CREATE TABLE public.t"), 1, "{:?}", restored.incidents);
    assert_eq!(about("public.t: "), 1);
    assert_eq!(report.failed, restored.incidents.len() as u64);
    assert_eq!(server.psql("target", "SELECT id FROM u").unwrap(), "7\n");
}

pub(crate) fn edit(snapshot: &mut Collected, place: &Place, change: impl Fn(String) -> String) {
    let kept = snapshot.entries.get_mut(&key::key(b"source", place)).unwrap();
    let text = change(String::from_utf8(kept.bytes()).unwrap());
    kept.head.size = Some(text.len() as u64);
    kept.pieces = vec![Piece::Data(text.into())];
}

#[tokio::test]
async fn what_differs_from_the_snapshot_is_counted() {
    let server = PostgresServer::start(15, "").unwrap();
    let mut snapshot = small(&server).await;
    let report = key::key(b"source", &Place::Report);
    let kept = snapshot.entries.get_mut(&report).unwrap();
    let mut lines = decode_report(&kept.bytes()).unwrap();
    let t = lines
        .iter_mut()
        .find(|line| line.table == TableName::new("public", "t"))
        .unwrap();
    t.sum.add(RowSum(1));
    let mut gone = t.clone();
    gone.table = TableName::new("public", "gone");
    lines.insert(0, gone);
    kept.pieces = vec![Piece::Data(encode_report(&lines).into())];
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let restored = restore(&snapshot, request(&server.url("target"))).await;
    assert_eq!(restored.report.unwrap().different, 2);
    assert!(
        restored.incidents[0].starts_with("public.gone: "),
        "{:?}",
        restored.incidents
    );
    assert!(restored.incidents[1].starts_with("public.t: its rows differ"));

    server.psql("postgres", "CREATE DATABASE unseen").unwrap();
    let mut request = request(&server.url("unseen"));
    request.verify = false;
    let restored = restore(&snapshot, request).await;
    assert_eq!(restored.report.unwrap().different, 0);
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let server = PostgresServer::start(15, "").unwrap();
    let mut snapshot = small(&server).await;
    let globals = snapshot.entries.values().next().unwrap().clone();
    let mut globals = globals;
    globals.head.key = key::key(b"source", &Place::Globals);
    globals.head.kind = holdall::snapshot::entry::EntryKind::Statements;
    globals.pieces = vec![Piece::Data(
        "CREATE ROLE newcomer;\nCREATE ROLE postgres;\n".into(),
    )];
    snapshot.entries.insert(globals.head.key.clone(), globals);
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let before = features::dump(&server, "target", &[]);
    let mut request = request(&server.url("target"));
    request.dry_run = true;
    let restored = restore(&snapshot, request).await;
    assert_eq!(restored.report.unwrap().failed, 0);
    assert_eq!(restored.summary.roles, ["newcomer"]);
    assert_eq!(
        (restored.summary.source.as_str(), restored.summary.target.as_str()),
        ("source", "target")
    );
    let tables: Vec<_> = restored
        .summary
        .tables
        .iter()
        .map(|t| (t.name.to_string(), t.rows))
        .collect();
    assert_eq!(tables, [("public.t".to_owned(), 500), ("public.u".to_owned(), 1)]);
    assert!(restored.summary.statements > 6);
    assert_eq!(features::dump(&server, "target", &[]), before);
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname = 'newcomer'";
    assert_eq!(server.psql("postgres", roles).unwrap(), "0\n");
}

#[tokio::test]
async fn a_lost_connection_ends_the_restore_and_says_what_to_do() {
    let server = PostgresServer::start(15, "").unwrap();
    let mut snapshot = small(&server).await;
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    edit(&mut snapshot, &Place::Constraints, |sql| {
        format!("SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid());\n{sql}")
    });
    let error = restore(&snapshot, request(&server.url("target")))
        .await
        .report
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(
        error.advice().unwrap().contains("new, empty database"),
        "{error:?}"
    );
    // What is there now is not taken for an empty database.
    let error = restore(&snapshot, request(&server.url("target")))
        .await
        .report
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn rows_alone_or_statements_alone_are_restored_too() {
    let server = PostgresServer::start(15, "").unwrap();
    let snapshot = small(&server).await;
    server.psql("postgres", "CREATE DATABASE schema_only").unwrap();
    let keep = |wanted: fn(&Place) -> bool| {
        let mut part = snapshot.clone();
        part.entries.retain(|k, _| wanted(&key::parse(k).unwrap().1));
        part
    };
    let statements = keep(|place| !matches!(place, Place::Table(_) | Place::Segment(..) | Place::Report));
    let restored = restore(&statements, request(&server.url("schema_only"))).await;
    assert_eq!(
        (restored.report.unwrap().failed, restored.incidents.len()),
        (0, 0)
    );
    features::assert_same(
        &features::dump(&server, "schema_only", &["--schema-only"]),
        &features::dump(&server, "source", &["--schema-only"]),
    );
    // Rows have no place without their tables: each is told once; and so is that nothing was compared.
    server.psql("postgres", "CREATE DATABASE rows_only").unwrap();
    let rows = keep(|place| matches!(place, Place::Database | Place::Table(_) | Place::Segment(..)));
    let restored = restore(&rows, request(&server.url("rows_only"))).await;
    assert_eq!(restored.report.unwrap().failed, 3);
    assert_eq!(restored.incidents.len(), 3, "{:?}", restored.incidents);
    assert!(restored.incidents[0].contains("42P01"));
    assert!(restored.incidents[2].contains("no report of its tables"));
}

#[tokio::test]
async fn an_interrupt_ends_a_restore() {
    let server = PostgresServer::start(15, "").unwrap();
    let snapshot = small(&server).await;
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let context = Context::deterministic(1).unwrap();
    let mut sink = PostgresSink::new(request(&server.url("target")));
    sink.prepare(&context).await.unwrap();
    context.cancel.cancel();
    let error = sink.finish(&context).await.err();
    assert!(error.is_none_or(|e| e.kind() == ErrorKind::Cancelled));
    let error = snapshot.give(&context, &mut sink).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}
