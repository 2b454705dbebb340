//! Servers, or what lies between, that do not answer any more; and those that only take long.

use crate::source::{DURABLE, Taken, assert_same_rows, parent, request, take};
use crate::source_statements::{replaced as replaced_program, whole};
use crate::wire::{Harm, Wire};
use futures::StreamExt;
use holdall::connector::Source;
use holdall::connector::postgres::connect::{Server, Surroundings};
use holdall::connector::postgres::key::Place;
use holdall::connector::postgres::record::How;
use holdall::connector::postgres::source::Contents;
use holdall::connector::postgres::{PostgresRequest, PostgresSource};
use holdall::context::Context;
use holdall::error::{ErrorKind, Result};
use holdall::snapshot::entry::{Content, Item};
use holdall::testkit::PostgresServer;
use std::time::Duration;

/// Longer than anything here takes: what takes longer hangs.
const FOREVER: Duration = Duration::from_secs(90);

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(FOREVER, work).await.unwrap()
}

/// A request over the line, for which three seconds without a sign are too long.
fn over(wire: &Wire, server: &PostgresServer) -> PostgresRequest {
    let mut request = request(server, "postgres");
    request.server = Server::parse(&wire.url("postgres"), &Surroundings::default()).unwrap();
    request.session.silence = Duration::from_secs(3);
    request.session.lock_timeout = Duration::from_secs(1);
    request
}

#[tokio::test]
async fn a_server_that_falls_silent_at_the_beginning_is_named_so() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server
        .psql("postgres", "CREATE TABLE t AS SELECT 1 AS a")
        .unwrap();
    for words in ["set_config", "pg_export_snapshot", "LOCK TABLE ONLY"] {
        let wire = Wire::start(&server, words, usize::MAX, Harm::Silence(0)).await;
        let error = within(take(&over(&wire, &server), None, 1)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Source, "{words}: {error:?}");
        assert!(error.what().contains("not answer"), "{words}: {error:?}");
        assert!(error.advice().is_some(), "{words}: {error:?}");
    }
}

/// Takes a snapshot beside a parent while connections fall silent once these words were said, and some bytes later.
async fn replaced(words: &'static str, times: usize, after: usize) {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill =
        "CREATE TABLE t AS SELECT g AS id, repeat(md5(g::text), 30) AS text FROM generate_series(1, 3000) g";
    server.psql("postgres", fill).unwrap();
    let before = take(&request(&server, "postgres"), None, 1).await.unwrap();
    let change = "UPDATE t SET id = id WHERE id % 500 = 0";
    server.psql("postgres", change).unwrap();
    let whole = take(&request(&server, "postgres"), None, 1).await.unwrap();
    let wire = Wire::start(&server, words, times, Harm::Silence(after)).await;
    let taken = within(take(&over(&wire, &server), Some(&before), 1))
        .await
        .unwrap();
    assert_same_rows(&taken, &whole);
    assert_eq!(taken.line("t").how, How::Changes);
    assert!(wire.harmed() > 0);
}

#[tokio::test]
async fn a_session_that_falls_silent_while_it_compares_is_replaced() {
    replaced("hashtidextended", 1, 0).await;
}

#[tokio::test]
async fn a_session_that_falls_silent_before_it_tells_a_size_is_replaced() {
    replaced("pg_table_size", 1, 0).await;
}

#[tokio::test]
async fn a_session_that_falls_silent_before_the_first_row_is_replaced() {
    replaced("TO STDOUT", 1, 0).await;
}

#[tokio::test]
async fn a_session_that_falls_silent_amid_rows_is_replaced() {
    replaced("TO STDOUT", 1, 100_000).await;
}

#[tokio::test]
async fn sessions_that_fall_silent_behind_their_work_are_not_waited_for() {
    replaced("ROLLBACK", usize::MAX, 0).await;
}

/// What the server is made to do before it says something, until the test's own session has the lock.
fn hung(signature: &str, argument: &str) -> String {
    let (name, _) = signature.split_once('(').unwrap();
    let (types, result) = signature.split_once(" RETURNS ").unwrap();
    format!(
        "ALTER FUNCTION pg_catalog.{types} RENAME TO {name}_itself;
         CREATE FUNCTION pg_catalog.{types} RETURNS {result} LANGUAGE plpgsql AS $$ BEGIN
            IF pg_try_advisory_lock_shared(9) THEN
                PERFORM pg_advisory_unlock_shared(9); PERFORM pg_sleep(1000);
            END IF;
            RETURN pg_catalog.{name}_itself({argument}); END $$"
    )
}

#[tokio::test]
async fn statements_that_were_given_up_do_not_run_on_at_the_server() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    // Three stripes of 32 MiB, so that two connections compare.
    let fill = "CREATE TABLE large (id int, text text) WITH (autovacuum_enabled = off, fillfactor = 10);
        INSERT INTO large SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 18000) g";
    server.psql("postgres", fill).unwrap();
    let mut request = request(&server, "postgres");
    let before = take(&request, None, 1).await.unwrap();
    request.session.silence = Duration::from_secs(3);
    let ours =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holdall' AND wait_event = 'PgSleep'";
    let context = Context::deterministic(3).unwrap();
    for signature in ["pg_table_size(regclass) RETURNS bigint", "age(xid) RETURNS int"] {
        server.psql("postgres", &hung(signature, "$1")).unwrap();
        let taking = async { within(take(&request, Some(&before), 2)).await.unwrap() };
        let releasing = async {
            while server.psql("postgres", ours).unwrap() == "0\n" {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let other = server
                .server("postgres")
                .unwrap()
                .connect(&context)
                .await
                .unwrap();
            let lock = "SELECT pg_advisory_lock(9)";
            other.client().batch_execute(lock).await.unwrap();
            other
        };
        let (taken, _other) = tokio::join!(taking, releasing);
        assert_same_rows(&taken, &before);
        assert_eq!(taken.line("large").how, How::TakenOver, "{signature}");
        let mut left = 50;
        while server.psql("postgres", ours).unwrap() != "0\n" {
            left -= 1;
            assert!(left > 0, "{signature}: it runs on");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A row that no memory has room for, which is read once more when its text is wanted.
const LONG: &str = "CREATE TABLE t (id int, text text); ALTER TABLE t ALTER text SET STORAGE EXTERNAL;
    INSERT INTO t SELECT 7, repeat(md5('7'), 300000)";
/// What only the second reading says.
const AGAIN: &str = "a.ctid = '(";

#[tokio::test]
async fn a_long_row_is_read_on_elsewhere_when_its_session_falls_silent() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", LONG).unwrap();
    let whole = take(&request(&server, "postgres"), None, 1).await.unwrap();
    for after in [0, 2_000_000] {
        let wire = Wire::start(&server, AGAIN, 1, Harm::Silence(after)).await;
        let taken = within(take(&over(&wire, &server), None, 1)).await.unwrap();
        assert_same_rows(&taken, &whole);
        assert_eq!(wire.harmed(), 1);
    }
}

#[tokio::test]
async fn of_a_long_row_what_was_sent_before_a_loss_is_proved_too() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", LONG).unwrap();
    let harm = Harm::Falsify(1_000_000, 4_000_000);
    let wire = Wire::start(&server, AGAIN, 1, harm).await;
    let error = within(take(&over(&wire, &server), None, 1)).await.err().unwrap();
    assert_eq!(
        (error.kind(), wire.harmed()),
        (ErrorKind::Differs, 1),
        "{error:?}"
    );
    // The same loss without a wrong byte costs nothing.
    let wire = Wire::start(&server, AGAIN, 1, Harm::Falsify(usize::MAX, 4_000_000)).await;
    let taken = within(take(&over(&wire, &server), None, 1)).await.unwrap();
    assert_eq!((taken.line("t").rows, wire.harmed()), (1, 1));
}

/// A server with a table of an extension that is read by a condition: in one stream, of which nothing tells when it gives a row.
fn conditional(condition: &str) -> PostgresServer {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = format!(
        "CREATE TABLE config AS SELECT g AS id, repeat('x', 1000) AS text FROM generate_series(1, 500) g;
         ALTER EXTENSION plpgsql ADD TABLE config;
         UPDATE pg_extension SET extconfig = ARRAY['config'::regclass]::oid[], extcondition = ARRAY['{condition}']
         WHERE extname = 'plpgsql'"
    );
    server.psql("postgres", &fill).unwrap();
    server
}

#[tokio::test]
async fn a_server_that_works_on_the_first_row_for_long_is_waited_for() {
    let server = conditional("WHERE id > 1 OR pg_sleep(7) IS NOT NULL");
    let mut request = request(&server, "postgres");
    request.session.silence = Duration::from_secs(3);
    let taken = within(take(&request, None, 1)).await.unwrap();
    assert_eq!(taken.line("config").rows, 500);
}

#[tokio::test]
async fn a_stream_of_which_the_server_says_that_it_ended_is_not_waited_for() {
    let server = conditional("WHERE id > 0");
    for after in [0, 100_000] {
        let wire = Wire::start(&server, "ORDER BY ctid", 1, Harm::Silence(after)).await;
        let taken = within(take(&over(&wire, &server), None, 1)).await.unwrap();
        assert_eq!((taken.line("config").rows, wire.harmed()), (500, 1));
    }
}

/// As [`take`], without looking into contents that are still to be read.
async fn taken_unread(request: &PostgresRequest) -> Result<usize> {
    let context = Context::deterministic(7).unwrap();
    let mut source = PostgresSource::new(request.clone());
    let mut unread = 0;
    {
        let mut items = source.entries(&context, parent(None));
        while let Some(item) = items.next().await {
            if let Item::Entry(entry) = item?
                && matches!(entry.content, Content::Open(_))
            {
                unread += 1;
            }
        }
    }
    source.finish().await?;
    Ok(unread)
}

#[tokio::test]
async fn what_waits_without_end_is_no_time_that_cannot_be_counted() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", LONG).unwrap();
    let mut request = request(&server, "postgres");
    request.session.lock_timeout = Duration::MAX;
    let taken: Taken = within(take(&request, None, 1)).await.unwrap();
    assert_eq!(taken.line("t").rows, 1);
    assert_eq!(within(taken_unread(&request)).await.unwrap(), 1);
}

/// A program of the shell that has a session which does nothing, for so many seconds.
fn idle_session(server: &PostgresServer, seconds: u32) -> String {
    let psql = server.programs().join("psql");
    let url = server.url("postgres");
    format!(
        "(echo 'BEGIN;'; exec sleep {seconds}) | exec {} -X -q -d '{url}'",
        psql.display()
    )
}

#[tokio::test]
async fn a_pg_dump_that_hangs_is_given_up_and_one_that_waits_is_not() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server
        .psql("postgres", "CREATE TABLE t AS SELECT 1 AS a")
        .unwrap();
    let mut asked = whole(&server);
    asked.session.silence = Duration::from_secs(1);
    let dir = tempfile::tempdir().unwrap();
    let hang = idle_session(&server, 100);
    asked.pg_dump = Some(replaced_program(&server, dir.path(), "pre-data", &hang));
    let error = within(take(&asked, None, 1)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Source, "{error:?}");
    assert!(error.what().contains("pg_dump writes nothing"), "{error:?}");
    assert!(error.advice().is_some(), "{error:?}");
    // It waits for a lock that another session has for long.
    asked.pg_dump = None;
    asked.contents = Contents::Schema;
    let holder = server.server("postgres").unwrap();
    let holder = holder.connect(&Context::deterministic(1).unwrap()).await.unwrap();
    let lock = "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE";
    holder.client().batch_execute(lock).await.unwrap();
    let taking = tokio::spawn(async move { take(&asked, None, 1).await });
    tokio::time::sleep(Duration::from_secs(4)).await;
    holder.client().batch_execute("ROLLBACK").await.unwrap();
    let taken = within(taking).await.unwrap().unwrap();
    assert!(
        taken
            .statements(&Place::Schema)
            .unwrap()
            .contains("CREATE TABLE public.t")
    );
}

/// Its session does nothing meanwhile, and neither do those of others.
#[tokio::test]
async fn a_pg_dump_that_computes_by_itself_is_waited_for() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", "CREATE TABLE t (a int)").unwrap();
    let mut asked = whole(&server);
    (asked.contents, asked.jobs) = (Contents::Schema, 1);
    asked.session.silence = Duration::from_secs(1);
    let dir = tempfile::tempdir().unwrap();
    let (idle, ended) = (idle_session(&server, 20), dir.path().join("ended"));
    let computes = format!(
        "(sleep 8; touch {0}) >/dev/null 2>&1 & ({idle}) >/dev/null 2>&1 & while [ ! -e {0} ]; do :; done",
        ended.display()
    );
    asked.pg_dump = Some(replaced_program(&server, dir.path(), "pre-data", &computes));
    let taken = within(take(&asked, None, 1)).await.unwrap();
    assert!(ended.exists());
    let statements = taken.statements(&Place::Schema).unwrap();
    assert!(statements.contains("CREATE TABLE public.t"), "{statements}");
}

/// Takes a snapshot while `pg_dump` does `instead` and then waits, for several silences, before it goes on. `meanwhile` begins then, and
/// what it gives ends it.
async fn waited_for<F: FnOnce()>(server: &PostgresServer, instead: &str, meanwhile: impl FnOnce() -> F) {
    let dir = tempfile::tempdir().unwrap();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let instead = format!(
        "touch {}; (while [ ! -e {} ]; do sleep 0.1; done) {instead}",
        begun.display(),
        go.display()
    );
    let mut asked = whole(server);
    (asked.contents, asked.jobs) = (Contents::Schema, 1);
    asked.session.silence = Duration::from_secs(1);
    asked.pg_dump = Some(replaced_program(server, dir.path(), "pre-data", &instead));
    let taking = tokio::spawn(async move { take(&asked, None, 1).await });
    while !begun.exists() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ended = meanwhile();
    tokio::time::sleep(Duration::from_secs(6)).await;
    ended();
    std::fs::write(&go, "").unwrap();
    let taken = within(taking).await.unwrap().unwrap();
    let statements = taken.statements(&Place::Schema).unwrap();
    assert!(statements.contains("CREATE TABLE public.t"), "{statements}");
}

#[tokio::test]
async fn a_pg_dump_of_which_the_server_shows_nothing_is_waited_for() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", "CREATE TABLE t (a int)").unwrap();
    waited_for(&server, "", || || ()).await;
}

#[tokio::test]
async fn a_pg_dump_is_waited_for_where_the_server_does_not_tell_one_statement_from_the_next() {
    let server = PostgresServer::start(15, &format!("{DURABLE}\ntrack_activities = off")).unwrap();
    server.psql("postgres", "CREATE TABLE t (a int)").unwrap();
    let psql = server.programs().join("psql");
    let session = format!("| {} -X -q -d '{}'", psql.display(), server.url("postgres"));
    waited_for(&server, &session, || || ()).await;
}

#[tokio::test]
async fn a_pg_dump_is_waited_for_while_nobody_can_be_asked_of_it() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", "CREATE TABLE t (a int)").unwrap();
    waited_for(&server, "", || {
        server.admit("host all all 127.0.0.1/32 reject").unwrap();
        // Not the one that holds the snapshot.
        let idle = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'holdall' AND xact_start IS NULL";
        server.psql("postgres", idle).unwrap();
        || server.admit("host all all 127.0.0.1/32 trust").unwrap()
    })
    .await;
}
