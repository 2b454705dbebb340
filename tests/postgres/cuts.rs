//! Connections that are cut and servers that are restarted, at every stage of a snapshot and of a restore: there is all of it, or an
//! error that says what to do.

use crate::restore::{request as target_request, restore};
use crate::source::{DURABLE, request as source_request};
use crate::{features, handmade};
use futures::StreamExt;
use holdall::connector::postgres::key::{self, Place};
use holdall::connector::postgres::sink::PostgresSink;
use holdall::connector::postgres::source::Contents;
use holdall::connector::postgres::{PostgresRequest, PostgresSource};
use holdall::connector::{Sink, Source};
use holdall::context::Context;
use holdall::error::{Error, ErrorKind, Result};
use holdall::ops;
use holdall::snapshot::entry::{Content, Entry, Item, Key, NoPrior};
use holdall::testkit::collect::{Collected, Pieces};
use holdall::testkit::{PostgresServer, repo};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a database consists of, in the order of its keys.
fn stage(key: &Key) -> &'static str {
    match key::parse(key).map(|(_, place)| place) {
        Some(Place::Database) => "database",
        Some(Place::Globals) => "globals",
        Some(Place::Schema) => "schema",
        Some(Place::Table(_)) => "table",
        Some(Place::Segment(..)) => "segment",
        Some(Place::LargeObject(_)) => "large object",
        Some(Place::Sequences) => "sequences",
        Some(Place::Constraints) => "constraints",
        Some(Place::Refresh) => "refresh",
        Some(Place::Report) => "report",
        None => "other",
    }
}

const STAGES: [&str; 10] = [
    "database",
    "globals",
    "schema",
    "table",
    "segment",
    "large object",
    "sequences",
    "constraints",
    "refresh",
    "report",
];

fn cut(server: &PostgresServer) {
    let sql =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'holdall'";
    server.psql("postgres", sql).unwrap();
}

fn whole(server: &PostgresServer, database: &str) -> PostgresRequest {
    PostgresRequest {
        contents: Contents::Database,
        search: vec![server.programs().to_owned()],
        ..source_request(server, database)
    }
}

/// A server with a database that has everything, and rows that are more than fits into all buffers on the way.
fn filled() -> PostgresServer {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", features::ROLES).unwrap();
    features::fill(&server, "source");
    let large = "CREATE TABLE app.large AS SELECT g AS id, repeat(md5(g::text), 32) AS text FROM generate_series(1, 30000) g";
    server.psql("source", large).unwrap();
    server
}

/// Takes a snapshot and does something when the first entry of a stage has come; gives what the end said.
async fn snapshot_cut_at(server: &PostgresServer, at: &str, act: impl Fn(&PostgresServer)) -> Result<()> {
    let context = Context::deterministic(7).unwrap();
    let mut source = PostgresSource::new(whole(server, "source"));
    {
        let mut items = source.entries(&context, Arc::new(NoPrior));
        let mut acted = false;
        while let Some(item) = items.next().await {
            let Item::Entry(Entry { head, content }) = item? else {
                continue;
            };
            if !acted && stage(&head.key) == at {
                acted = true;
                act(server);
            }
            let mut pieces = content.open().await?;
            while let Some(piece) = pieces.next().await {
                piece?;
            }
        }
        assert!(acted, "{at} never came");
    }
    source.finish().await
}

#[tokio::test]
async fn a_snapshot_that_is_cut_at_any_stage_is_none() {
    let server = filled();
    snapshot_cut_at(&server, "report", |_| {}).await.unwrap();
    for at in STAGES {
        let error: Error = snapshot_cut_at(&server, at, cut).await.expect_err(at);
        assert_eq!(error.kind(), ErrorKind::Source, "{at}: {error:?}");
    }
    for at in ["schema", "segment", "report"] {
        let restart =
            |server: &PostgresServer| server.control(&["-m", "immediate", "-w", "restart"]).unwrap();
        let error = snapshot_cut_at(&server, at, restart).await.expect_err(at);
        assert_eq!(error.kind(), ErrorKind::Source, "{at}: {error:?}");
    }
    snapshot_cut_at(&server, "report", |_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_is_not_committed_and_the_next_run_is_whole() {
    let server = Arc::new(filled());
    let place = tempfile::tempdir().unwrap();
    let context = Context::deterministic(1).unwrap();
    let store = repo::local(&place.path().join("repository"), &context);
    let repository = repo::init(&store, &context).await.unwrap();
    let run = async || {
        let source = PostgresSource::new(whole(&server, "source"));
        let mut sources: Option<Vec<Box<dyn Source>>> = Some(vec![Box::new(source)]);
        let mut open = || Ok(sources.take());
        ops::snapshot(&context, &repository, &repo::request(), &mut open).await
    };
    // A dump of statements that is cut is no shorter list of statements.
    let over = Arc::new(AtomicBool::new(false));
    let (ended, killed) = (over.clone(), server.clone());
    let killer = tokio::task::spawn_blocking(move || {
        let dumps = "DO $$ BEGIN FOR i IN 1..200 LOOP
            PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%tableoid%' AND pid <> pg_backend_pid();
            PERFORM pg_sleep(0.002); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$";
        while !ended.load(Ordering::Relaxed) {
            killed.psql("postgres", dumps).unwrap();
        }
    });
    let done = run().await;
    over.store(true, Ordering::Relaxed);
    killer.await.unwrap();
    let error = done.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Source, "{error:?}");
    let none = repo::reader(&context, &repository, "latest").await;
    assert_eq!(none.err().unwrap().kind(), ErrorKind::NotFound);
    run().await.unwrap();
    let snapshot = repo::reader(&context, &repository, "latest").await.unwrap();
    let database = ops::database(&snapshot, None).await.unwrap();
    let all = ops::TableFilter::default();
    let request = ops::database_place(&snapshot, &database, all, true)
        .await
        .unwrap();
    server.psql("postgres", "CREATE DATABASE target").unwrap();
    let mut sink = PostgresSink::new(target_request(&server.url("target")));
    let report = ops::restore(&context, &snapshot, request, &mut sink)
        .await
        .unwrap();
    assert_eq!(
        (report.sink.failed, report.sink.different, report.lost),
        (0, 0, 0)
    );
    let dump = |name: &str| features::sorted(&features::dump(&server, name, &[]));
    features::assert_same(&dump("target"), &dump("source"));
}

/// Gives a snapshot to a sink and does something when the first entry of a stage was taken.
async fn restore_cut_at(
    snapshot: &Collected,
    server: &PostgresServer,
    (at, name): (&str, &str),
    act: impl Fn(&PostgresServer),
) -> Result<u64> {
    let context = Context::deterministic(1).unwrap();
    let mut sink = PostgresSink::new(target_request(&server.url(name)));
    sink.prepare(&context).await?;
    let mut acted = false;
    for kept in snapshot.entries.values() {
        let here = stage(&kept.head.key) == at;
        let content = if kept.pieces.is_empty() {
            Content::None
        } else {
            Content::Open(Box::new(Pieces(kept.pieces.clone())))
        };
        let head = kept.head.clone();
        let written = sink.write(&context, Entry { head, content }).await;
        if let Err(error) = written {
            sink.abandon().await;
            return Err(error);
        }
        if here && !acted {
            acted = true;
            act(server);
        }
    }
    assert!(acted, "{at} never came");
    let report = sink.finish(&context).await?;
    Ok(report.failed + report.different)
}

#[tokio::test]
async fn a_restore_that_is_cut_at_any_stage_says_so() {
    let server = filled();
    let context = Context::deterministic(1).unwrap();
    let mut source = PostgresSource::new(whole(&server, "source"));
    let snapshot = Collected::take(&context, &mut source, None).await.unwrap();
    let other = PostgresServer::start(15, "").unwrap();
    let fresh = |name: &str| {
        other
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
    };
    for (number, at) in STAGES.iter().enumerate() {
        let name = format!("target{number}");
        fresh(&name);
        let error = restore_cut_at(&snapshot, &other, (at, &name), cut)
            .await
            .expect_err(at);
        assert_eq!(error.kind(), ErrorKind::Source, "{at}: {error:?}");
    }
    for at in ["schema", "segment", "constraints"] {
        let name = format!("restarted_{at}");
        fresh(&name);
        let restart =
            |server: &PostgresServer| server.control(&["-m", "immediate", "-w", "restart"]).unwrap();
        let error = restore_cut_at(&snapshot, &other, (at, &name), restart)
            .await
            .expect_err(at);
        assert_eq!(error.kind(), ErrorKind::Source, "{at}: {error:?}");
        assert!(error.advice().is_some(), "{at}: {error:?}");
    }
    fresh("whole");
    let restored = restore(&snapshot, target_request(&other.url("whole"))).await;
    assert_eq!(restored.report.unwrap().different, 0);
}

/// Cuts at moments that nothing of ours decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_cut_while_it_works_is_whole_or_an_error() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE source").unwrap();
    let fill = "CREATE TABLE t AS SELECT g AS id, repeat(md5(g::text), 8) AS text FROM generate_series(1, 20000) g;
        ALTER TABLE t ADD PRIMARY KEY (id); CREATE INDEX ON t (text); CREATE MATERIALIZED VIEW v AS SELECT count(*) FROM t";
    server.psql("source", fill).unwrap();
    let snapshot = handmade::snapshot(&server, "source", "").await;
    let dump = |name: &str| features::sorted(&features::dump(&server, name, &[]));
    let expected = dump("source");
    // However fast the machine is, cuts come from the beginning of a restore to its end.
    server.psql("postgres", "CREATE DATABASE uncut").unwrap();
    let began = std::time::Instant::now();
    let uncut = restore(&snapshot, target_request(&server.url("uncut"))).await;
    assert!(uncut.report.is_ok(), "{:?}", uncut.incidents);
    let whole = began.elapsed();
    let (mut cut_short, mut wholes) = (0, 0);
    for round in 0..12 {
        let name = format!("target{round}");
        server
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
        let (snapshot, request) = (snapshot.clone(), target_request(&server.url(&name)));
        let restoring = tokio::spawn(async move { restore(&snapshot, request).await });
        tokio::time::sleep(whole * round / 12).await;
        cut(&server);
        let restored = restoring.await.unwrap();
        match restored.report {
            Ok(report) => {
                assert_eq!(
                    (report.failed, report.different),
                    (0, 0),
                    "{:?}",
                    restored.incidents
                );
                features::assert_same(&dump(&name), &expected);
                wholes += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Source, "{error:?}");
                cut_short += 1;
            }
        }
    }
    assert!(cut_short > 2, "{cut_short} cut short, {wholes} whole");
}
