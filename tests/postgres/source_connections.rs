//! What a snapshot takes from a server beside its rows: locks, connections, time; and what happens when they are short.

use crate::source::{DURABLE, Taken, assert_same_rows, content, parent, request, take};
use crate::source_changes::Fading;
use futures::StreamExt;
use holdall::connector::Source;
use holdall::connector::postgres::connect::{Server, Surroundings};
use holdall::connector::postgres::key::{self, Place};
use holdall::connector::postgres::record::How;
use holdall::connector::postgres::{PostgresRequest, PostgresSource};
use holdall::context::Context;
use holdall::snapshot::entry::{Content, EntryRecord, Item};
use holdall::testkit::PostgresServer;
use std::sync::Arc;
use std::time::Duration;

const LARGE: &str =
    "CREATE TABLE large AS SELECT g AS id, repeat(md5(g::text), 32) AS text FROM generate_series(1, 60000) g";

/// Takes a snapshot and has the server do something after some entries.
async fn disturbed(server: &PostgresServer, request: &PostgresRequest, steps: &[(usize, &str)]) -> Taken {
    let context = Context::deterministic(7).unwrap();
    let mut source = PostgresSource::new(request.clone());
    let mut taken = Taken::default();
    {
        let mut items = source.entries(&context, parent(None));
        let mut seen = 0;
        while let Some(item) = items.next().await {
            taken.add(item.unwrap()).await.unwrap();
            seen += 1;
            for (_, sql) in steps.iter().filter(|(after, _)| *after == seen) {
                server.psql("postgres", sql).unwrap();
            }
        }
        assert!(steps.iter().all(|(after, _)| *after <= seen), "{seen} entries");
    }
    source.finish().await.unwrap();
    taken
}

#[tokio::test]
async fn a_table_that_was_read_may_be_indexed_anew_while_others_are() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = format!("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1); {LARGE}");
    server.psql("postgres", &fill).unwrap();
    let reindex = "SET lock_timeout = '3s'; REINDEX TABLE a";
    disturbed(&server, &request(&server, "postgres"), &[(60, reindex)]).await;
}

#[tokio::test]
async fn locks_do_not_add_up_over_tables_and_their_indexes() {
    let settings = "max_locks_per_transaction = 10\nmax_connections = 12\nautovacuum = off";
    let server = PostgresServer::start(15, settings).unwrap();
    let create = "DO $$ BEGIN FOR i IN 1..200 LOOP
        EXECUTE format('CREATE TABLE t%s (a int, b int, c int, d int, e int, f int, g int, h int)', i);
        FOR j IN 97..104 LOOP EXECUTE format('CREATE INDEX ON t%s (%s)', i, chr(j)); END LOOP;
        EXECUTE format('INSERT INTO t%s VALUES (1)', i); COMMIT; END LOOP; END $$";
    server.psql("postgres", create).unwrap();
    let taken = take(&request(&server, "postgres"), None, 1).await.unwrap();
    assert_eq!(taken.report().iter().map(|line| line.rows).sum::<u64>(), 200);
}

#[tokio::test]
async fn with_fewer_connections_than_asked_for_fewer_read_at_once() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", LARGE).unwrap();
    let more = "CREATE TABLE b AS SELECT * FROM large LIMIT 1000; SELECT lo_from_bytea(9, 'abc')";
    server.psql("postgres", more).unwrap();
    let whole = take(&request(&server, "postgres"), None, 1).await.unwrap();
    let reader = "CREATE ROLE reader LOGIN CONNECTION LIMIT 2; GRANT pg_read_all_data TO reader;
        GRANT SELECT ON LARGE OBJECT 9 TO reader";
    server.psql("postgres", reader).unwrap();
    let mut request = request(&server, "postgres");
    let url = server.url("postgres").replace("postgres@", "reader@");
    request.server = Server::parse(&url, &Surroundings::default()).unwrap();
    request.jobs = 6;
    assert_same_rows(&take(&request, None, 1).await.unwrap(), &whole);
    // None at all beside the one that holds the snapshot.
    let none = "ALTER ROLE reader CONNECTION LIMIT 1";
    let steps = [(1, none), (100, "ALTER ROLE reader CONNECTION LIMIT 8")];
    let taken = disturbed(&server, &request, &steps).await;
    assert_same_rows(&taken, &whole);
    let object = key::key(b"postgres", &Place::LargeObject(9));
    let object = taken.records.iter().find(|record| record.key == object).unwrap();
    assert_eq!(content(object), b"abc");
}

/// A role that may have so many connections and reads everything.
fn limited(server: &PostgresServer, connections: u32) -> PostgresRequest {
    let reader =
        format!("CREATE ROLE reader LOGIN CONNECTION LIMIT {connections}; GRANT pg_read_all_data TO reader");
    server.psql("postgres", &reader).unwrap();
    let url = server.url("postgres").replace("postgres@", "reader@");
    PostgresRequest {
        server: Server::parse(&url, &Surroundings::default()).unwrap(),
        ..request(server, "postgres")
    }
}

/// All connections that there are hold rows of tables behind the one that is wanted.
#[tokio::test]
async fn what_was_read_ahead_does_not_keep_a_connection_from_what_is_wanted_next() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    // The first has many runs; each of the others one, of more parts than wait to be taken.
    let large =
        "CREATE TABLE a AS SELECT g AS id, repeat(md5(g::text), 32) AS text FROM generate_series(1, 30000) g";
    server.psql("postgres", large).unwrap();
    for table in "bcdefghijkl".chars() {
        let sql = format!("CREATE TABLE {table} AS SELECT * FROM a LIMIT 3000");
        server.psql("postgres", &sql).unwrap();
    }
    let whole = take(&request(&server, "postgres"), None, 1).await.unwrap();
    let mut request = limited(&server, 4);
    request.jobs = 4;
    for seed in 1..4 {
        let taken = tokio::time::timeout(Duration::from_secs(90), take(&request, None, seed)).await;
        assert_same_rows(&taken.expect("it hangs").unwrap(), &whole);
    }
}

/// At its end a snapshot looks at types from outside, for which its own idle connections leave no room.
#[tokio::test]
async fn two_connections_are_enough_for_rows_of_a_type_that_may_be_altered() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t AS SELECT g AS id, 'ok'::mood AS mood FROM generate_series(1, 20000) g";
    server.psql("postgres", fill).unwrap();
    let mut request = limited(&server, 2);
    request.session.lock_timeout = Duration::from_secs(3);
    let taken = take(&request, None, 1).await.unwrap();
    assert_eq!(taken.line("t").rows, 20000);
}

/// What only the coordinator can read, and what the parent does not show any more: one must not wait for the other.
#[tokio::test]
async fn a_parent_that_fades_while_only_the_coordinator_reads_does_not_stop_a_snapshot() {
    let server = PostgresServer::start(15, "fsync = on\nautovacuum = off").unwrap();
    server.psql("postgres", LARGE).unwrap();
    let request = request(&server, "postgres");
    let before = take(&request, None, 1).await.unwrap();
    let change = "UPDATE large SET text = text WHERE id / 300 % 2 = 0";
    server.psql("postgres", change).unwrap();
    let whole = take(&request, None, 1).await.unwrap();
    let context = Context::deterministic(7).unwrap();
    let other = Server::parse(&server.url("postgres"), &Surroundings::default()).unwrap();
    let other = other.connect(&context).await.unwrap();
    let mut source = PostgresSource::new(request.clone());
    let mut taken = Taken::default();
    let mut waits = false;
    let work = async {
        let mut items = source.entries(&context, Arc::new(Fading::new(before.records.clone())));
        while let Some(item) = items.next().await {
            taken.add(item.unwrap()).await.unwrap();
            if !std::mem::replace(&mut waits, true) {
                let alter = other.client().batch_execute("ALTER TABLE large ADD c int");
                let _waits = tokio::time::timeout(Duration::from_millis(300), alter).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), work)
        .await
        .unwrap();
    source.finish().await.unwrap();
    assert_eq!(taken.line("large").how, How::Changes);
    assert!(taken.rows("large") == whole.rows("large"), "other rows");
}

#[tokio::test]
async fn a_session_of_the_server_that_stands_still_is_replaced() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", LARGE).unwrap();
    let mut request = request(&server, "postgres");
    let whole = take(&request, None, 1).await.unwrap();
    request.session.silence = Duration::from_secs(2);
    let stop = "DO $$ DECLARE p int; BEGIN
        SELECT pid INTO STRICT p FROM pg_stat_activity WHERE application_name = 'holdall' AND query LIKE 'COPY%' LIMIT 1;
        EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'cat > /dev/null; kill -STOP ' || p); END $$";
    let taken = disturbed(&server, &request, &[(20, stop)]).await;
    assert_same_rows(&taken, &whole);
}

const OBJECTS: &str = "SELECT count(lo_from_bytea(i, decode(repeat('ab', i - 20000), 'hex'))) FROM generate_series(20000, 20400) i;
    SELECT lo_from_bytea(7, decode(repeat('0123456789abcdef', 65536 / 8), 'hex'));
    SELECT lo_from_bytea(8, decode(repeat('0123456789abcdef', 3 << 17), 'hex'));
    SELECT lo_from_bytea(30000, decode(repeat('fedcba9876543210', 5 << 20), 'hex'));";

const READING_OBJECTS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'holdall' AND query LIKE '%lo_get%' OR query = 'ROLLBACK'";

fn objects(taken: &Taken) -> Vec<(u32, blake3::Hash)> {
    let object = |record: &Arc<EntryRecord>| match key::parse(&record.key) {
        Some((_, Place::LargeObject(oid))) => Some((oid, blake3::hash(content(record)))),
        _ => None,
    };
    taken.records.iter().filter_map(object).collect()
}

#[tokio::test]
async fn large_objects_are_whole_though_connections_are_lost() {
    let server = PostgresServer::start(15, "max_locks_per_transaction = 1000").unwrap();
    server.psql("postgres", OBJECTS).unwrap();
    let request = request(&server, "postgres");
    let (up, down) = (
        *b"\x01\x23\x45\x67\x89\xab\xcd\xef",
        *b"\xfe\xdc\xba\x98\x76\x54\x32\x10",
    );
    let mut expected = vec![
        (7, blake3::hash(&up.repeat(8192))),
        (8, blake3::hash(&up.repeat(3 << 17))),
    ];
    expected.extend((0..=400_u32).map(|i| (20_000 + i, blake3::hash(&vec![0xab; i as usize]))));
    expected.push((30_000, blake3::hash(&down.repeat(5 << 20))));
    assert!(objects(&disturbed(&server, &request, &[]).await) == expected);
    let steps = [
        (2, READING_OBJECTS),
        (30, READING_OBJECTS),
        (200, READING_OBJECTS),
    ];
    assert!(objects(&disturbed(&server, &request, &steps).await) == expected);
}

/// Connections are lost, and time passes, in the middle of an object.
#[tokio::test]
async fn a_long_object_is_read_on_after_a_loss_and_not_beyond_the_age_of_its_snapshot() {
    let server = PostgresServer::start(15, "max_locks_per_transaction = 1000").unwrap();
    server.psql("postgres", OBJECTS).unwrap();
    for (max_age, fails) in [(600, false), (1, true)] {
        let mut request = request(&server, "postgres");
        request.session.max_age = Duration::from_secs(max_age);
        let context = Context::deterministic(7).unwrap();
        let mut source = PostgresSource::new(request);
        let mut failure = None;
        let mut items = source.entries(&context, parent(None));
        while let Some(item) = items.next().await {
            let entry = match item {
                Ok(Item::Entry(entry)) => entry,
                Ok(_) => continue,
                Err(error) => {
                    failure = failure.or(Some(error));
                    continue;
                }
            };
            let Content::Open(open) = entry.content else {
                continue;
            };
            let (mut pieces, mut seen) = (open.open().await.unwrap(), 0);
            while let Some(piece) = pieces.next().await {
                failure = failure.or(piece.err());
                seen += 1;
                if seen % 8 == 0 {
                    server.psql("postgres", READING_OBJECTS).unwrap();
                    tokio::time::sleep(Duration::from_millis(700)).await;
                }
            }
        }
        drop(items);
        match failure.or(source.finish().await.err()) {
            Some(error) => assert!(fails && error.what().contains("too old"), "{error:?}"),
            None => assert!(!fails),
        }
    }
}

#[tokio::test]
async fn nothing_runs_on_at_the_server_for_a_snapshot_that_was_given_up() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", "CREATE TABLE held (a int)").unwrap();
    let context = Context::deterministic(3).unwrap();
    let other = Server::parse(&server.url("postgres"), &Surroundings::default()).unwrap();
    let other = other.connect(&context).await.unwrap();
    let hold = "BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE";
    other.client().batch_execute(hold).await.unwrap();
    let mut request = request(&server, "postgres");
    request.session.lock_timeout = Duration::from_secs(600);
    let mut source = PostgresSource::new(request);
    {
        let mut items = source.entries(&context, parent(None));
        let first = tokio::time::timeout(Duration::from_secs(2), items.next()).await;
        assert!(first.is_err(), "it waits for the lock");
    }
    let ours =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdall' AND state = 'active'";
    assert_eq!(server.psql("postgres", ours).unwrap(), "1\n");
    source.give_up().await;
    let mut left = 50;
    while server.psql("postgres", ours).unwrap() != "0\n" {
        left -= 1;
        assert!(left > 0, "it runs on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_first_snapshot_reads_each_block_once_and_the_next_compares_with_it() {
    for major in [14, 15, 17, 18] {
        let server = PostgresServer::start(major, "fsync = on\nautovacuum = off").unwrap();
        let sql = |sql: &str| server.psql("postgres", sql).unwrap();
        sql("CREATE TABLE t AS SELECT g AS id, repeat('x', 500) AS text FROM generate_series(1, 40000) g");
        sql("VACUUM FREEZE t");
        sql("DELETE FROM t WHERE id % 3 = 0; CREATE TABLE none (a int)");
        sql("SELECT count(*) FROM t");
        sql("SELECT pg_stat_reset()");
        let before = take(&request(&server, "postgres"), None, 1).await.unwrap();
        let once = "SELECT heap_blks_read + heap_blks_hit BETWEEN 100 AND 1.5 * pg_relation_size('t') / 8192
            FROM pg_statio_user_tables WHERE relname = 't'";
        let mut left = 50;
        while sql(once) != "t\n" {
            left -= 1;
            assert!(left > 0, "{major}: blocks were not read once");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let after = take(&request(&server, "postgres"), Some(&before), 2)
            .await
            .unwrap();
        assert_eq!(after.line("t").how, How::TakenOver, "{major}");
        assert_eq!(after.read("t"), 0);
        assert_same_rows(&after, &before);
    }
}

#[tokio::test]
async fn a_row_that_finds_no_room_is_read_once_more_and_kept() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    // Some are larger than an eighth of the smallest budget.
    let fill = "CREATE TABLE t (id int, text text); ALTER TABLE t ALTER text SET STORAGE EXTERNAL;
        INSERT INTO t SELECT g, repeat(md5(g::text), CASE g % 3 WHEN 0 THEN 300000 WHEN 1 THEN 50000 ELSE 3 END)
        FROM generate_series(1, 12) g";
    server.psql("postgres", fill).unwrap();
    let request = request(&server, "postgres");
    let taken = take(&request, None, 1).await.unwrap();
    let line = |g: u32| {
        let md5 = server.psql("postgres", &format!("SELECT md5('{g}')")).unwrap();
        let times = [300_000, 50_000, 3][(g % 3) as usize];
        format!("{g}\t{}\n", md5.trim().repeat(times))
    };
    let lines: Vec<String> = (1..=12).map(line).collect();
    assert!(taken.rows("t") == lines.concat(), "other rows");
    assert_eq!(taken.line("t").bytes, lines.concat().len() as u64);
    let after = take(&request, Some(&taken), 2).await.unwrap();
    assert_eq!(after.line("t").how, How::TakenOver);
    let late = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdall' AND query LIKE 'COPY%'";
    let again = disturbed(&server, &request, &[(2, late), (4, late), (6, late)]).await;
    assert_same_rows(&again, &taken);
}

#[tokio::test]
async fn a_dry_run_tells_about_how_much_would_be_read() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = format!("{LARGE}; CREATE TABLE small AS SELECT 1 AS a; CREATE TABLE none (a int)");
    server.psql("postgres", &fill).unwrap();
    let mut request = request(&server, "postgres");
    let whole = take(&request, None, 1).await.unwrap();
    request.dry_run = true;
    let context = Context::deterministic(7).unwrap();
    for (prior, real) in [(None, whole.rows("large").len() as u64), (Some(&whole), 0)] {
        let mut source = PostgresSource::new(request.clone());
        let mut items = source.entries(&context, parent(prior));
        let mut large = 0;
        while let Some(item) = items.next().await {
            let Item::Entry(entry) = item.unwrap() else {
                continue;
            };
            if let Some((_, Place::Segment(table, _))) = key::parse(&entry.head.key) {
                let size = entry.head.size.unwrap();
                match table.to_string().as_str() {
                    "public.large" => large += size,
                    _ => assert!(size <= 64 << 10, "{table}: {size}"),
                }
            }
        }
        assert!(large >= real / 2 && large <= real * 2, "{large} of {real}");
    }
}

/// Sessions that the server has had for a database, when all have ended.
async fn sessions(server: &PostgresServer, database: &str) -> u32 {
    let running = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'");
    while server.psql("postgres", &running).unwrap() != "0\n" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let all = format!("SELECT sessions FROM pg_stat_database WHERE datname = '{database}'");
    server.psql("postgres", &all).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_database_is_connected_to_no_more_often_among_all_of_a_server_than_alone() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE shop").unwrap();
    server.psql("shop", "CREATE TABLE t AS SELECT 1 AS a").unwrap();
    let mut taken = [0; 2];
    for (number, (database, all)) in taken.iter_mut().zip([("shop", false), ("postgres", true)]) {
        let before = sessions(&server, "shop").await;
        let mut asked = request(&server, database);
        (asked.all_databases, asked.jobs) = (all, 1);
        take(&asked, None, 1).await.unwrap();
        *number = sessions(&server, "shop").await - before;
    }
    assert!(taken[0] > 0 && taken[0] == taken[1], "{taken:?}");
}
