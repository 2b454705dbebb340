//! What could make rows look unchanged that are not. The numbers are those of `incarnation.rs`. Wherever it can be shown, a test first
//! shows that the rows' versions alone would not tell: same places, same transactions, same file.

use crate::soak::kill_a_process;
use crate::source::{DURABLE, Taken, assert_same_rows, request, take};
use holdall::connector::postgres::connect::{Server, Surroundings};
use holdall::connector::postgres::key::{self, Place};
use holdall::connector::postgres::record::How;
use holdall::testkit::PostgresServer;
use std::os::unix::fs::MetadataExt;

/// What tells rows apart without reading them.
pub(crate) fn versions(server: &PostgresServer, table: &str) -> String {
    let sql = format!(
        "SELECT '{table}'::regclass::oid, pg_relation_filenode('{table}'), t.n, t.h FROM (SELECT count(*) n,
         sum(hash_record_extended(ROW(ctid, xmin), 0)) h FROM {table}) t"
    );
    server.psql("postgres", &sql).unwrap()
}

/// Takes the next snapshot, and fails unless it holds what a full one holds.
pub(crate) async fn next(server: &PostgresServer, prior: &Taken) -> Taken {
    let request = request(server, "postgres");
    let taken = take(&request, Some(prior), 2).await.unwrap();
    assert_same_rows(&taken, &take(&request, None, 2).await.unwrap());
    taken
}

async fn first(server: &PostgresServer, fill: &str) -> Taken {
    server.psql("postgres", fill).unwrap();
    take(&request(server, "postgres"), None, 1).await.unwrap()
}

/// H2: what a snapshot saw is durable before it ends. Until then a crash takes transactions back that did not wait for the log, and
/// gives their numbers and places to others, under the same main process.
#[tokio::test]
async fn a_crash_takes_nothing_back_that_a_snapshot_saw() {
    let settings = "fsync = on\nsynchronous_commit = off\nwal_writer_delay = 4s\nautovacuum = off";
    let server = PostgresServer::start(15, settings).unwrap();
    let sql = |sql: &str| server.psql("postgres", sql).unwrap();
    let row = "SELECT ctid, xmin FROM t";
    let mut reused = false;
    for _ in 0..6 {
        sql("DROP TABLE IF EXISTS t; CREATE TABLE t (a text)");
        sql("CHECKPOINT");
        let started = sql("SELECT pg_postmaster_start_time()");
        sql("INSERT INTO t VALUES ('FIRST')");
        let seen = sql(row);
        kill_a_process(&server, "");
        assert_eq!(sql("SELECT pg_postmaster_start_time()"), started);
        if sql("SELECT a FROM t").is_empty() {
            sql("INSERT INTO t VALUES ('SECOND')");
            reused |= sql(row) == seen;
        }
    }
    assert!(
        reused,
        "the danger is real: another row with the number and place of the first"
    );
    for _ in 0..3 {
        sql("DROP TABLE t; CREATE TABLE t (a text)");
        sql("CHECKPOINT");
        sql("INSERT INTO t VALUES ('FIRST')");
        let before = take(&request(&server, "postgres"), None, 1).await.unwrap();
        kill_a_process(&server, "");
        assert_eq!(
            (before.rows("t").as_str(), sql("SELECT a FROM t").as_str()),
            ("FIRST\n", "FIRST\n")
        );
        sql("INSERT INTO t VALUES ('SECOND')");
        let after = next(&server, &before).await;
        assert_eq!(
            (after.rows("t").as_str(), after.line("t").how),
            ("FIRST\nSECOND\n", How::Changes)
        );
    }
}

/// H3: a volume is set back to an earlier state, and goes another way from there.
#[tokio::test]
async fn a_server_set_back_in_time_is_read_anew() {
    let server = PostgresServer::start(15, "fsync = on\nautovacuum = off").unwrap();
    server.psql("postgres", "CREATE TABLE t (a text)").unwrap();
    server.stop("fast").unwrap();
    let (data, kept) = (server.data(), server.socket().join("kept"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        copy_directory(from, to);
        server.control(&["start"]).unwrap();
    };
    copy(&data, &kept);
    let before = first(&server, "INSERT INTO t VALUES ('one way')").await;
    let seen = versions(&server, "t");
    server.stop("immediate").unwrap();
    copy(&kept, &data);
    server
        .psql("postgres", "INSERT INTO t VALUES ('another')")
        .unwrap();
    assert_eq!(versions(&server, "t"), seen);
    let after = next(&server, &before).await;
    assert_eq!(
        (after.rows("t").as_str(), after.line("t").how),
        ("another\n", How::Full)
    );
}

/// Gives a file the owner of another.
fn own(like: &std::path::Path, path: &std::path::Path) {
    let like = fs_err::metadata(like).unwrap();
    std::os::unix::fs::chown(path, Some(like.uid()), Some(like.gid())).unwrap();
}

/// Makes the files of one directory those of another, each with the owner it had.
fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    if to.exists() {
        fs_err::remove_dir_all(to).unwrap();
    }
    fs_err::create_dir(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_directory(&path, &target);
        } else {
            fs_err::copy(&path, &target).unwrap();
            own(&path, &target);
        }
    }
    own(from, to);
    let mode = fs_err::metadata(from).unwrap().permissions();
    fs_err::set_permissions(to, mode).unwrap();
}

/// H5: another cluster, made the same way, has the same numbers everywhere.
#[tokio::test]
async fn another_server_with_the_same_numbers_is_another() {
    let one = PostgresServer::start(15, "fsync = on\nautovacuum = off").unwrap();
    let two = PostgresServer::start(15, "fsync = on\nautovacuum = off").unwrap();
    let fill = "CREATE TABLE t (a text); INSERT INTO t VALUES ";
    let before = first(&one, &format!("{fill} ('of one')")).await;
    two.psql("postgres", &format!("{fill} ('of two')")).unwrap();
    assert_eq!(versions(&one, "t"), versions(&two, "t"));
    let after = next(&two, &before).await;
    assert_eq!(
        (after.rows("t").as_str(), after.line("t").how),
        ("of two\n", How::Full)
    );
}

/// H4: a server that went over to another timeline may have another past.
#[tokio::test]
async fn another_timeline_is_another_history() {
    let server = PostgresServer::start(15, "fsync = on\nautovacuum = off").unwrap();
    let before = first(&server, "CREATE TABLE t AS SELECT 'a' AS a").await;
    server.stop("fast").unwrap();
    server.install("standby.signal", "").unwrap();
    server.control(&["start"]).unwrap();
    let standby = take(&request(&server, "postgres"), Some(&before), 2)
        .await
        .unwrap();
    assert_eq!(
        (standby.rows("t").as_str(), standby.line("t").how),
        ("a\n", How::Full)
    );
    let again = take(&request(&server, "postgres"), Some(&standby), 3)
        .await
        .unwrap();
    let start = "SELECT pg_postmaster_start_time()";
    let started = server.psql("postgres", start).unwrap();
    server.psql("postgres", "SELECT pg_promote()").unwrap();
    server.psql("postgres", "INSERT INTO t VALUES ('b')").unwrap();
    assert_eq!(
        server.psql("postgres", start).unwrap(),
        started,
        "promotion is no restart"
    );
    let after = next(&server, &again).await;
    assert_eq!(
        (after.rows("t").as_str(), after.line("t").how),
        ("a\nb\n", How::Full)
    );
}

/// H7, H8: rows that nobody touched print otherwise, however deep the change lies; what comes back to its former name was another.
#[tokio::test]
async fn what_is_printed_otherwise_is_read_again() {
    let server = PostgresServer::start(17, DURABLE).unwrap();
    let fill = "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE DOMAIN d AS mood; CREATE TYPE pair AS (x int, d d);
        CREATE TYPE outer_pair AS (p pair, n int);
        CREATE TABLE t (f outer_pair[], c varchar(9), n int);
        INSERT INTO t SELECT ARRAY[ROW(ROW(g, 'a')::pair, g)::outer_pair], 'c', g FROM generate_series(1, 3000) g";
    let mut before = first(&server, fill).await;
    for sql in [
        "ALTER TYPE mood RENAME VALUE 'a' TO 'z'",
        "ALTER TYPE pair ADD ATTRIBUTE y text",
        "ALTER TYPE pair DROP ATTRIBUTE y",
        "ALTER TABLE t ADD z numeric DEFAULT 1.50",
        "ALTER TABLE t DROP z",
        "ALTER TABLE t ALTER c TYPE text",
    ] {
        let seen = versions(&server, "t");
        server.psql("postgres", sql).unwrap();
        assert_eq!(versions(&server, "t"), seen, "{sql}");
        let after = next(&server, &before).await;
        assert_eq!(after.line("t").how, How::Full, "{sql}");
        before = next(&server, &after).await;
        assert_eq!(before.line("t").how, How::TakenOver, "{sql}");
    }
}

/// What the group entry says of a table is of the present, even where its rows are taken over.
#[tokio::test]
async fn names_of_types_are_those_of_now() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = "CREATE TYPE mood AS ENUM ('a'); CREATE TABLE t AS SELECT 'a'::mood AS m";
    let before = first(&server, fill).await;
    server
        .psql(
            "postgres",
            "ALTER TYPE mood RENAME TO feeling; CREATE SCHEMA s; ALTER TYPE feeling SET SCHEMA s",
        )
        .unwrap();
    let after = next(&server, &before).await;
    let full = take(&request(&server, "postgres"), None, 3).await.unwrap();
    let group = |taken: &Taken| {
        let is_table = |key| matches!(key::parse(key), Some((_, Place::Table(_))));
        let group = taken.records.iter().find(|record| is_table(&record.key)).unwrap();
        format!("{:?}", group.metadata)
    };
    assert_eq!(group(&after), group(&full));
    assert_ne!(group(&after), group(&before));
}

/// H9, H11, H17: types whose text depends on other things than the value, also inside of others, and rows that are kept otherwise.
#[tokio::test]
async fn what_prints_other_things_is_never_compared() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = "CREATE TABLE target (a int); CREATE DOMAIN named AS regclass; CREATE TYPE pair AS (n named, a int);
        CREATE TABLE inside AS SELECT ARRAY[ROW('target', 1)::pair] AS f;
        CREATE TYPE shade; CREATE FUNCTION shade_in(cstring) RETURNS shade LANGUAGE internal IMMUTABLE STRICT AS 'textin';
        CREATE FUNCTION shade_out(shade) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
        CREATE TYPE shade (INPUT = shade_in, OUTPUT = shade_out); CREATE TABLE own AS SELECT 'red'::shade AS s;
        CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE elsewhere (a int) USING other;
        INSERT INTO elsewhere VALUES (1), (2)";
    let before = next(&server, &first(&server, fill).await).await;
    for table in ["inside", "own", "elsewhere"] {
        let line = before.line(table);
        assert_eq!(line.how, How::Full, "{line:?}");
        assert_eq!(before.read(table), before.segments(table).len(), "{line:?}");
    }
    let seen = versions(&server, "inside");
    server
        .psql("postgres", "ALTER TABLE target RENAME TO aim")
        .unwrap();
    assert_eq!(versions(&server, "inside"), seen);
    assert_eq!(
        next(&server, &before).await.rows("inside"),
        "{\"(public.aim,1)\"}\n"
    );
}

/// H10: settings of a role or a database change nothing of what is read.
#[tokio::test]
async fn settings_of_roles_and_databases_change_no_text() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = "CREATE TABLE t AS SELECT '2026-03-01 12:00+00'::timestamptz AS at, '1 day 2 hours'::interval AS i,
        '\\x00ff'::bytea AS b, 0.1::float8 + 0.2 AS f, '1.50'::money AS m, '<a/>'::xml AS x, '2026-03-01'::date AS d";
    let before = first(&server, fill).await;
    let expected =
        "2026-03-01 12:00:00+00\t1 day 02:00:00\t\\\\x00ff\t0.30000000000000004\t$1.50\t<a/>\t2026-03-01\n";
    assert_eq!(before.rows("t"), expected);
    let settings = [
        "timezone = 'Asia/Tokyo'",
        "datestyle = 'German, DMY'",
        "intervalstyle = 'iso_8601'",
        "bytea_output = 'escape'",
        "extra_float_digits = -5",
        "client_encoding = 'LATIN1'",
        "search_path = 'pg_temp, nowhere'",
        "standard_conforming_strings = off",
        "synchronize_seqscans = on",
        "row_security = on",
        "quote_all_identifiers = on",
        "statement_timeout = '1s'",
        "default_transaction_isolation = 'read committed'",
        "enable_tidscan = off",
    ];
    for setting in settings {
        let sql = format!("ALTER ROLE postgres SET {setting}; ALTER DATABASE postgres SET {setting}");
        server.psql("postgres", &sql).unwrap();
    }
    let after = next(&server, &before).await;
    assert_eq!(after.rows("t"), expected);
    assert_eq!(after.line("t").how, How::TakenOver);
}

/// H12 to H15: what may happen inside a range without another file is told by the rows' versions.
#[tokio::test]
async fn what_happens_inside_of_blocks_is_seen() {
    let server =
        PostgresServer::start(15, "fsync = on\nautovacuum = off\nmax_prepared_transactions = 5").unwrap();
    let fill = "CREATE TABLE t (id int PRIMARY KEY, n int, long text) WITH (fillfactor = 70);
        ALTER TABLE t ALTER long SET STORAGE EXTERNAL;
        INSERT INTO t SELECT g, 0, repeat('x', 3000) FROM generate_series(1, 3000) g";
    let mut before = first(&server, fill).await;
    let prepared = "BEGIN; UPDATE t SET n = 9 WHERE id < 5; PREPARE TRANSACTION 'p'";
    let frozen =
        "BEGIN; TRUNCATE t; COPY t FROM PROGRAM 'printf \"1\\t2\\tfrozen\\n\"' WITH (FREEZE); COMMIT";
    for (sql, how) in [
        ("UPDATE t SET n = n + 1 WHERE id = 7", How::Changes),
        // Versions of the row before are pruned, and their places given to others.
        ("VACUUM t", How::TakenOver),
        (
            "UPDATE t SET n = n + 1 WHERE id = 7; UPDATE t SET n = n + 1 WHERE id = 7",
            How::Changes,
        ),
        ("BEGIN; UPDATE t SET n = 5; ROLLBACK", How::TakenOver),
        (
            "BEGIN; SAVEPOINT a; DELETE FROM t; ROLLBACK TO a; UPDATE t SET n = 3 WHERE id = 8; COMMIT",
            How::Changes,
        ),
        (prepared, How::TakenOver),
        ("COMMIT PREPARED 'p'", How::Changes),
        (
            "UPDATE t SET long = repeat('y', 3000) WHERE id = 3000",
            How::Changes,
        ),
        (
            "INSERT INTO t VALUES (1, 1, '') ON CONFLICT (id) DO NOTHING",
            How::TakenOver,
        ),
        ("VACUUM (FREEZE) t", How::TakenOver),
        (frozen, How::Full),
    ] {
        server.psql("postgres", sql).unwrap();
        before = next(&server, &before).await;
        assert_eq!(before.line("t").how, how, "{sql}: {}", before.line("t").why);
    }
    assert_eq!(before.rows("t"), "1\t2\tfrozen\n");
}

/// H16: an unlogged table is empty after a crash, and what was in it is not taken over.
#[tokio::test]
async fn an_unlogged_table_is_empty_after_a_crash() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill =
        "CREATE UNLOGGED TABLE u AS SELECT g FROM generate_series(1, 100) g; CREATE TABLE t AS SELECT 1 AS a";
    let before = first(&server, fill).await;
    assert_eq!(before.line("u").rows, 100);
    kill_a_process(&server, "");
    let after = next(&server, &before).await;
    assert_eq!((after.line("u").rows, after.rows("u").as_str()), (0, ""));
    assert_eq!(
        after.line("t").how,
        How::TakenOver,
        "the same main process, and nothing lost"
    );
}

/// H19: who reads decides what is seen; another role's snapshot is not compared with, and a role that rows are hidden from is refused.
#[tokio::test]
async fn another_reader_compares_nothing_and_sees_everything_or_fails() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = "CREATE ROLE reader LOGIN; CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 9) g;
        GRANT SELECT ON t TO reader";
    let before = first(&server, fill).await;
    let mut reader = request(&server, "postgres");
    let url = server.url("postgres").replace("postgres@", "reader@");
    reader.server = Server::parse(&url, &Surroundings::default()).unwrap();
    let after = take(&reader, Some(&before), 2).await.unwrap();
    assert_eq!((after.line("t").how, after.line("t").rows), (How::Full, 9));
    let own = take(&reader, Some(&after), 3).await.unwrap();
    assert_eq!(own.line("t").how, How::TakenOver);
    let hide =
        "CREATE POLICY few ON t FOR SELECT TO reader USING (a < 3); ALTER TABLE t ENABLE ROW LEVEL SECURITY";
    server.psql("postgres", hide).unwrap();
    let error = take(&reader, Some(&own), 4).await.err().unwrap();
    assert_eq!(error.context("tables"), Some("public.t"), "{error:?}");
}

/// H24, H25: no segment holds rows of two ranges, and ranges that lost all rows lose their segments.
#[tokio::test]
async fn ranges_are_apart_and_end_with_the_table() {
    let server = PostgresServer::start(18, "fsync = on\nautovacuum = off").unwrap();
    let fill = "CREATE TABLE t AS SELECT g AS id, repeat('x', 200) AS note FROM generate_series(1, 30000) g";
    let before = first(&server, fill).await;
    let all = before.segments("t").len();
    assert!(all > 8, "{all}");
    // The row that the first range ends with becomes longer, so that others move into later ranges.
    let changed = "UPDATE t SET note = repeat('y', 5000) WHERE id = 100";
    server.psql("postgres", changed).unwrap();
    let after = next(&server, &before).await;
    assert!(after.read("t") <= 2, "{}", after.read("t"));
    for segment in after.segments("t") {
        if after.unchanged.contains(&segment.key) {
            assert!(before.records.contains(segment), "{}", segment.key);
        }
    }
    // The end of the file is given back.
    server.psql("postgres", "DELETE FROM t WHERE id > 9000").unwrap();
    server.psql("postgres", "VACUUM t").unwrap();
    let shrunk = next(&server, &after).await;
    assert_eq!(shrunk.line("t").how, How::Changes);
    let left = shrunk.segments("t").len();
    assert!(
        left <= all / 3 + 2 && shrunk.read("t") <= 2,
        "{left} of {all}, {} read",
        shrunk.read("t")
    );
    // The ranges that come back are other ranges.
    server
        .psql(
            "postgres",
            "INSERT INTO t SELECT g, 'back' FROM generate_series(1, 90000) g",
        )
        .unwrap();
    next(&server, &shrunk).await;
    server.psql("postgres", "DELETE FROM t").unwrap();
    server.psql("postgres", "VACUUM t").unwrap();
    let none = next(&server, &shrunk).await;
    assert_eq!((none.segments("t").len(), none.line("t").rows), (0, 0));
}

/// H1: transactions' numbers have 32 bits in rows, and begin again.
#[tokio::test]
async fn numbers_that_begin_again_hide_nothing() {
    let server = PostgresServer::start(15, "fsync = on\nautovacuum = off").unwrap();
    server.psql("postgres", "VACUUM (FREEZE)").unwrap();
    server.psql("template1", "VACUUM (FREEZE)").unwrap();
    server.stop("fast").unwrap();
    let data = server.data().display().to_string();
    // The file that says how transactions of the last million numbers ended.
    server.install("pg_xact/0FFF", &"\0".repeat(256 << 10)).unwrap();
    let reset = ["-x", "4294966500", "-D", &data];
    server.run("pg_resetwal", &reset).unwrap();
    server.control(&["start"]).unwrap();
    let fill = "CREATE TABLE t AS SELECT g AS id, repeat('x', 100) AS note FROM generate_series(1, 20000) g";
    let mut before = first(&server, fill).await;
    let next_number = || server.psql("postgres", "SELECT pg_current_xact_id()").unwrap();
    assert!(next_number().trim().parse::<u64>().unwrap() < 1 << 32);
    for round in 0..8 {
        // Two hundred transactions.
        let write = format!(
            "DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN UPDATE t SET note = '{round}' || i WHERE ctid = (
                 SELECT ctid FROM t OFFSET i LIMIT 1);
             EXCEPTION WHEN OTHERS THEN RAISE; END; END LOOP; END $$"
        );
        server.psql("postgres", &write).unwrap();
        before = next(&server, &before).await;
        assert_eq!(before.line("t").how, How::Changes, "{}", before.line("t").why);
        before = next(&server, &before).await;
        assert_eq!(before.line("t").how, How::TakenOver, "{}", before.line("t").why);
    }
    assert!(next_number().trim().parse::<u64>().unwrap() > 1 << 32);
}
