//! What a snapshot saw must be durable before a later one may rest on it; how far the server's log is, and what if it does not say.

use crate::source::{DURABLE, Taken, assert_same_rows, request, take};
use holdall::connector::postgres::record::How;
use holdall::testkit::PostgresServer;
use std::time::{Duration, Instant};

/// Stops the process that writes the log without being asked, so that only a commit that waits for it makes it durable.
fn freeze(server: &PostgresServer) {
    let stop = "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null; kill -STOP ";
    let pid = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    let pid = server.psql("postgres", pid).unwrap();
    server
        .psql("postgres", &format!("{stop}{}'", pid.trim()))
        .unwrap();
}

async fn next(server: &PostgresServer, prior: &Taken) -> Taken {
    let request = request(server, "postgres");
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
    let before = take(&request(&server, "postgres"), None, 1).await.unwrap();
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
