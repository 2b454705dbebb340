//! What a snapshot saw must be durable before a later one may rest on it; how far the server's log is, and what if it does not say.

use crate::source::{DURABLE, Taken, assert_same_rows, request, take};
use holdall::connector::postgres::PostgresRequest;
use holdall::connector::postgres::connect::{Server, Surroundings};
use holdall::connector::postgres::record::How;
use holdall::testkit::PostgresServer;
use std::time::{Duration, Instant};

/// Stops the process that writes the log without being asked, so that only a commit that waits for it makes it durable.
pub(crate) fn freeze(server: &PostgresServer) {
    let stop = "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; kill -STOP ";
    let pid = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    let pid = server.psql("postgres", pid).unwrap();
    server
        .psql("postgres", &format!("{stop}{}'", pid.trim()))
        .unwrap();
}

/// A role that may not have the server write its log.
fn reader(server: &PostgresServer) -> PostgresRequest {
    let url = server.url("postgres").replace("postgres@", "reader@");
    PostgresRequest {
        server: Server::parse(&url, &Surroundings::default()).unwrap(),
        ..request(server, "postgres")
    }
}

async fn next(server: &PostgresServer, prior: &Taken) -> Taken {
    let request = reader(server);
    let taken = take(&request, Some(prior), 2).await.unwrap();
    assert_same_rows(&taken, &take(&request, None, 2).await.unwrap());
    taken
}

const FILL: &str = "CREATE TABLE a AS SELECT g FROM generate_series(1, 5000) g; CREATE TABLE b AS SELECT * FROM a; CHECKPOINT";

#[tokio::test]
async fn a_log_that_ends_at_the_head_of_a_page_is_durable() {
    let server = PostgresServer::start(15, &format!("{DURABLE}\nautovacuum = off")).unwrap();
    server.psql("postgres", FILL).unwrap();
    // All pages are as clean as reading makes them.
    let before = take(&request(&server, "postgres"), None, 1).await.unwrap();
    server.psql("postgres", "CHECKPOINT").unwrap();
    freeze(&server);
    server.psql("postgres", "SELECT pg_switch_wal()").unwrap();
    let begun = Instant::now();
    let after = take(&request(&server, "postgres"), Some(&before), 2)
        .await
        .unwrap();
    assert!(after.notes.is_empty(), "{:?}", after.notes);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_that_does_not_say_what_is_durable_is_compared_and_not_rested_on() {
    let settings = "fsync = on\nautovacuum = off";
    let server = PostgresServer::start(15, settings).unwrap();
    server.psql("postgres", FILL).unwrap();
    let revoke = "CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader;
        REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC";
    server.psql("postgres", revoke).unwrap();
    let before = take(&reader(&server), None, 1).await.unwrap();
    freeze(&server);
    let change = "SET synchronous_commit = off; UPDATE a SET g = 0 WHERE g = 7";
    server.psql("postgres", change).unwrap();
    let doubted = next(&server, &before).await;
    assert!(
        doubted.notes.iter().any(|note| note.contains("durable")),
        "{:?}",
        doubted.notes
    );
    assert_eq!(doubted.line("a").how, How::Changes);
    assert_eq!(doubted.line("b").how, How::TakenOver);
    server
        .psql("postgres", "CREATE TABLE waits_for_the_log AS SELECT 1")
        .unwrap();
    let after = next(&server, &doubted).await;
    // What was seen of it then may not have lasted.
    assert_eq!(after.line("a").how, How::Full);
    assert_eq!(after.line("b").how, How::TakenOver);
    assert_eq!(next(&server, &after).await.line("a").how, How::TakenOver);
}

/// Whoever commits without waiting leaves the log behind; a commit that waits brings it up.
#[tokio::test]
async fn a_server_whose_log_is_behind_is_made_to_write_it() {
    let server = PostgresServer::start(15, "fsync = on\nautovacuum = off").unwrap();
    let fill =
        "CREATE TABLE a AS SELECT g, repeat('x', 500) AS b FROM generate_series(1, 20000) g; CHECKPOINT";
    server.psql("postgres", fill).unwrap();
    let request = request(&server, "postgres");
    let before = take(&request, None, 1).await.unwrap();
    freeze(&server);
    let change = "SET synchronous_commit = off; UPDATE a SET g = 0 WHERE g = 7";
    server.psql("postgres", change).unwrap();
    let after = take(&request, Some(&before), 2).await.unwrap();
    assert!(after.notes.is_empty(), "{:?}", after.notes);
    let last = take(&request, Some(&after), 2).await.unwrap();
    assert_eq!(last.line("a").how, How::TakenOver);
}
