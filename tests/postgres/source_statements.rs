//! What `pg_dump` writes for a snapshot: read ahead if it is little, streamed if it is much, and never missing unnoticed.

use crate::source::{Taken, parent, request, take};
use futures::StreamExt;
use holdall::connector::Source;
use holdall::connector::postgres::key::Place;
use holdall::connector::postgres::source::Contents;
use holdall::connector::postgres::{PostgresRequest, PostgresSource};
use holdall::context::Context;
use holdall::error::{ErrorKind, Result};
use holdall::snapshot::entry::Item;
use holdall::testkit::PostgresServer;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

pub(crate) fn whole(server: &PostgresServer) -> PostgresRequest {
    PostgresRequest {
        contents: Contents::Database,
        ..request(server, "postgres")
    }
}

/// A `pg_dump` that does something else where its arguments hold a word.
pub(crate) fn replaced(server: &PostgresServer, dir: &Path, word: &str, instead: &str) -> std::path::PathBuf {
    let path = dir.join("pg_dump");
    let real = server.programs().join("pg_dump");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *{word}*) {instead};; esac\nexec {} \"$@\"\n",
        real.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn statements_that_are_too_many_to_hold_come_whole() {
    let server = PostgresServer::start(15, "").unwrap();
    // Six of a megabyte before the rows, and six behind them.
    let fill = "CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 2);
        DO $$ BEGIN FOR i IN 1..6 LOOP
            EXECUTE format('CREATE VIEW v%s AS SELECT a FROM t', i);
            EXECUTE format('COMMENT ON VIEW v%s IS %L', i, repeat('before ', 150000));
            EXECUTE format('CREATE INDEX i%s ON t (a)', i);
            EXECUTE format('COMMENT ON INDEX i%s IS %L', i, repeat('behind ', 150000));
        END LOOP; END $$;
        CREATE MATERIALIZED VIEW m AS SELECT * FROM t;";
    server.psql("postgres", fill).unwrap();
    for jobs in [1, 3] {
        let request = PostgresRequest {
            jobs,
            ..whole(&server)
        };
        let taken = take(&request, None, 1).await.unwrap();
        let count = |place: &Place, text: &str| {
            let statements = taken.statements(place).unwrap();
            statements.matches(text).count()
        };
        assert_eq!(count(&Place::Schema, "CREATE VIEW public.v"), 6);
        assert_eq!(count(&Place::Schema, "before "), 6 * 150_000);
        assert_eq!(count(&Place::Constraints, "CREATE INDEX i"), 6);
        assert_eq!(count(&Place::Constraints, "behind "), 6 * 150_000);
        assert_eq!(count(&Place::Refresh, "REFRESH MATERIALIZED VIEW public.m"), 1);
        assert_eq!(taken.rows("t"), "1\t2\n");
    }
}

#[tokio::test]
async fn a_pg_dump_that_fails_ends_the_snapshot_before_all_rows_are_read() {
    let server = PostgresServer::start(15, "").unwrap();
    let fill =
        "CREATE TABLE t AS SELECT g AS id, repeat(md5(g::text), 40) AS text FROM generate_series(1, 40000) g";
    server.psql("postgres", fill).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for section in ["pre-data", "post-data"] {
        let program = replaced(&server, dir.path(), section, "echo out of luck >&2; exit 1");
        let request = PostgresRequest {
            pg_dump: Some(program),
            ..whole(&server)
        };
        let all = take(&whole(&server), None, 1).await.unwrap().segments("t").len();
        assert!(all > 100, "{all}");
        let (taken, ended) = slowly(&request).await;
        let error = ended.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source, "{error:?}");
        assert!(error.causes().join(" ").contains("out of luck"), "{error:?}");
        assert!(
            taken.segments("t").len() < all / 2,
            "{} of {all}",
            taken.segments("t").len()
        );
    }
}

/// Takes a snapshot as by a slow line.
async fn slowly(request: &PostgresRequest) -> (Taken, Result<()>) {
    let context = Context::deterministic(1).unwrap();
    let mut source = PostgresSource::new(request.clone());
    let mut taken = Taken::default();
    let mut items = source.entries(&context, parent(None));
    while let Some(item) = items.next().await {
        match item {
            Ok(item @ Item::Entry(_)) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                taken.add(item).await.unwrap();
            }
            Ok(_) => {}
            Err(error) => return (taken, Err(error)),
        }
    }
    drop(items);
    (taken, source.finish().await)
}
