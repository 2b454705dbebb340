//! What lies beside the rows and could make them look unchanged: relations without a heap, standbys, the repository. As in `holes`, a
//! test first shows that the danger is real, wherever it can be shown.

use crate::holes::{next, versions};
use crate::source::{DURABLE, Taken, assert_same_rows, request, take};
use futures::{StreamExt, TryStreamExt};
use holdall::connector::Source;
use holdall::connector::postgres::PostgresSource;
use holdall::connector::postgres::key::Place;
use holdall::connector::postgres::record::How;
use holdall::connector::postgres::source::Contents;
use holdall::context::Context;
use holdall::ops;
use holdall::snapshot::entry::{Item, Key, MemoryPrior, Piece, Prior};
use holdall::testkit::{PostgresServer, repo};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// H18: what has no rows of its own in a heap: parents of partitions, views, foreign tables, sequences. The rows are kept with the leaves,
/// whatever they hang on; values of sequences have no versions and are read each time.
#[tokio::test]
async fn what_has_no_heap_is_read_by_other_ways() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let sql = |sql: &str| server.psql("postgres", sql).unwrap();
    let fill = "CREATE TABLE p (id int, part int) PARTITION BY LIST (part);
        CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
        INSERT INTO p SELECT g, 1 + g % 2 FROM generate_series(1, 3000) g; CREATE TABLE t AS SELECT 1 AS a;
        CREATE VIEW v AS SELECT * FROM t; CREATE MATERIALIZED VIEW m AS SELECT a, 0 AS n FROM t; CREATE SEQUENCE q;
        CREATE FOREIGN DATA WRAPPER dummy; CREATE SERVER s FOREIGN DATA WRAPPER dummy; CREATE FOREIGN TABLE f (a int) SERVER s";
    sql(fill);
    let mut all = request(&server, "postgres");
    all.contents = Contents::Database;
    let next = async |prior: &Taken| {
        let taken = take(&all, Some(prior), 2).await.unwrap();
        assert_same_rows(&taken, &take(&all, None, 2).await.unwrap());
        let tables: Vec<String> = taken.tables().iter().map(ToString::to_string).collect();
        assert_eq!(tables, ["public.p1", "public.p2", "public.t"]);
        taken
    };
    let mut before = take(&all, None, 1).await.unwrap();
    let names = ["p1", "p2", "t"];
    let taken_over = [How::TakenOver; 3];
    for (change, how) in [
        ("SELECT nextval('q')", taken_over),
        ("REFRESH MATERIALIZED VIEW m", taken_over),
        ("ALTER TABLE p DETACH PARTITION p2", taken_over),
        ("ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2)", taken_over),
        // A row moves: one is deleted here, and one made there.
        (
            "UPDATE p SET part = 2 WHERE id = 4; UPDATE p SET part = 1 WHERE id = 3",
            [How::Changes, How::Changes, How::TakenOver],
        ),
        ("TRUNCATE p", [How::Full, How::Full, How::TakenOver]),
        // The rows that a view shows are the table's.
        (
            "UPDATE v SET a = 2",
            [How::TakenOver, How::TakenOver, How::Changes],
        ),
    ] {
        sql(change);
        before = next(&before).await;
        assert_eq!(names.map(|name| before.line(name).how), how, "{change}");
    }
    assert_eq!(before.rows("t"), "2\n");
    let value = |taken: &Taken| taken.statements(&Place::Sequences).unwrap();
    assert!(value(&before).contains("1, true"), "{}", value(&before));
    sql("SELECT setval('q', 70)");
    let after = next(&before).await;
    assert_eq!(["p1", "p2"].map(|name| after.line(name).how), [How::TakenOver; 2]);
    assert!(value(&after).contains("70, true"), "{}", value(&after));
    // A table in the place of a view is a table that nobody has seen.
    sql("DROP VIEW v; CREATE TABLE v AS SELECT 9 AS a");
    let table = take(&all, Some(&after), 3).await.unwrap();
    assert_eq!(
        (table.line("v").how, table.rows("v").as_str()),
        (How::Full, "9\n")
    );
}

/// A standby of `primary`, which follows it.
fn standby_of(primary: &PostgresServer) -> PostgresServer {
    let standby = PostgresServer::start(15, DURABLE).unwrap();
    standby.stop("fast").unwrap();
    fs_err::remove_dir_all(standby.data()).unwrap();
    let (from, to) = (primary.port().to_string(), standby.data().display().to_string());
    let place = ["-h", "127.0.0.1", "-p", &from, "-U", "postgres", "-D", &to];
    let copy = ["-R", "--checkpoint=fast", "--no-sync"];
    standby
        .run("pg_basebackup", &[&place[..], &copy].concat())
        .unwrap();
    let auto = fs_err::read_to_string(standby.data().join("postgresql.auto.conf")).unwrap();
    let own = format!(
        "{auto}port = {}\nunix_socket_directories = '{}'\n",
        standby.port(),
        standby.socket().display()
    );
    standby.install("postgresql.auto.conf", &own).unwrap();
    standby.control(&["start"]).unwrap();
    standby
}

/// Waits until a standby has replayed what its primary has written.
fn follow(primary: &PostgresServer, standby: &PostgresServer) {
    let written = primary.psql("postgres", "SELECT pg_current_wal_lsn()").unwrap();
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", written.trim());
    let begun = Instant::now();
    while standby.psql("postgres", &replayed).unwrap() != "t\n" {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "the standby does not follow"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// H20: a standby says how far its log is safe in another way, and is compared with itself only. When it is promoted, two servers go
/// different ways from the same point: same system, same numbers, same places.
#[tokio::test]
async fn a_standby_and_its_primary_are_not_compared() {
    let primary = PostgresServer::start(15, DURABLE).unwrap();
    let sql = |sql: &str| primary.psql("postgres", sql).unwrap();
    sql("CREATE TABLE t AS SELECT g::text AS a FROM generate_series(1, 5000) g");
    let standby = standby_of(&primary);
    follow(&primary, &standby);
    let of_primary = take(&request(&primary, "postgres"), None, 1).await.unwrap();
    let first = next(&standby, &of_primary).await;
    assert_eq!(versions(&primary, "t"), versions(&standby, "t"));
    assert_eq!(first.line("t").how, How::Full, "the other server's is no base");
    // With itself it is compared: what it has replayed, it keeps.
    let mut before = next(&standby, &first).await;
    assert_eq!(before.line("t").how, How::TakenOver, "{}", before.line("t").why);
    sql("UPDATE t SET a = 'changed' WHERE a = '77'");
    follow(&primary, &standby);
    before = next(&standby, &before).await;
    assert_eq!(before.line("t").how, How::Changes, "{}", before.line("t").why);

    // The standby becomes a primary while the old one lives, as when a network is split, and each writes.
    standby.psql("postgres", "SELECT pg_promote()").unwrap();
    let write = |server: &PostgresServer, text: &str| {
        let insert = format!("INSERT INTO t VALUES ('{text}')");
        server.psql("postgres", &insert).unwrap();
    };
    write(&standby, "of the promoted");
    write(&primary, "of the old one");
    assert_eq!(
        versions(&primary, "t"),
        versions(&standby, "t"),
        "the danger is real"
    );
    let promoted = next(&standby, &before).await;
    let old = next(&primary, &promoted).await;
    for (taken, own) in [(&promoted, "of the promoted\n"), (&old, "of the old one\n")] {
        assert_eq!(taken.line("t").how, How::Full);
        assert!(taken.rows("t").ends_with(own), "{own}");
    }
}

/// H23: what was kept before may be lost in the repository. A source that is shown such entries takes them over; so it is not shown
/// them.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_repository_has_lost_is_read_again() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = "CREATE TABLE t AS SELECT g AS id, md5(g::text) || md5((-g)::text) AS a FROM generate_series(1, 60000) g";
    server.psql("postgres", fill).unwrap();
    let place = tempfile::tempdir().unwrap();
    let context = Context::deterministic(1).unwrap();
    let store = repo::local(&place.path().join("repository"), &context);
    let repository = repo::init(&store, &context).await.unwrap();
    let run = async || {
        let source = PostgresSource::new(request(&server, "postgres"));
        let mut sources: Option<Vec<Box<dyn Source>>> = Some(vec![Box::new(source)]);
        let mut open = || Ok(sources.take());
        ops::snapshot(&context, &repository, &repo::request(), &mut open)
            .await
            .unwrap()
    };
    run().await;
    // What is read of an unchanged database is the list of its tables.
    assert!(run().await.snapshot.statistics.bytes_read < 1000);
    let mut packs: Vec<(u64, std::path::PathBuf)> = Vec::new();
    for folder in fs_err::read_dir(place.path().join("repository/packs")).unwrap() {
        for pack in fs_err::read_dir(folder.unwrap().path()).unwrap() {
            let path = pack.unwrap().path();
            packs.push((fs_err::metadata(&path).unwrap().len(), path));
        }
    }
    fs_err::remove_file(packs.into_iter().max().unwrap().1).unwrap();
    assert!(repo::check_all(&context, &repository).await.unwrap().is_damaged());

    // Shown all of the parent's entries, the source takes over what nobody can read any more.
    let parent = repo::reader(&context, &repository, "latest").await.unwrap();
    let entries: Vec<_> = parent.records(Key::empty()).try_collect().await.unwrap();
    let all: Arc<dyn Prior> = Arc::new(MemoryPrior {
        started: None,
        entries,
    });
    let mut source = PostgresSource::new(request(&server, "postgres"));
    let items: Vec<_> = source.entries(&context, all).try_collect().await.unwrap();
    let mut unreadable = 0;
    for item in items {
        if let Item::Unchanged(prior) = item {
            let mut pieces = parent.entry(prior.record()).content.open().await.unwrap();
            while let Some(piece) = pieces.next().await {
                unreadable += usize::from(piece.is_err());
            }
        }
    }
    assert!(unreadable > 0, "the danger is real");

    let healed = run().await;
    assert!(healed.snapshot.statistics.bytes_read > 1_000_000);
    let snapshot = repo::reader(&context, &repository, "latest").await.unwrap();
    let table = ops::locate(&snapshot, "public.t", None).await.unwrap();
    let mut pieces = ops::content(&snapshot, &table).open().await.unwrap();
    let mut rows = Vec::new();
    while let Some(piece) = pieces.next().await {
        if let Piece::Data(bytes) = piece.unwrap() {
            rows.extend_from_slice(&bytes);
        }
    }
    let copied = server.psql("postgres", "COPY t TO STDOUT").unwrap();
    assert!(rows == copied.into_bytes(), "other rows");
}
