//! What identifies a server, and the entry of a database.

use super::{begin, session};
use holdall::connector::postgres::catalog::{database, flushed, server as facts};
use holdall::testkit::PostgresServer;

#[tokio::test]
async fn any_role_learns_what_tells_one_history_of_a_server_from_another() {
    let server = PostgresServer::start(15, "").unwrap();
    server
        .psql("postgres", "CREATE ROLE plain LOGIN; CREATE TABLE t (a int)")
        .unwrap();
    let plain = server.url("postgres").replace("postgres@", "plain@");
    let connection = session(&plain).await;
    let found = facts(&connection).await.unwrap();
    let ask = |sql: &str| server.psql("postgres", sql).unwrap().trim().to_owned();
    assert_eq!(found.version_num.to_string(), ask("SHOW server_version_num"));
    let identifier = found.system_identifier.unwrap();
    assert_eq!(
        identifier.to_string(),
        ask("SELECT system_identifier FROM pg_control_system()")
    );
    assert_eq!(found.timeline, Some(1));
    let started = ask("SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8");
    assert_eq!(found.started.unwrap().to_string(), started);
    assert!(!found.in_recovery && !found.fsync);
    assert_eq!(found.role, b"plain");
    assert_eq!(
        found.database.to_string(),
        ask("SELECT oid FROM pg_database WHERE datname = 'postgres'")
    );
    // The snapshot is older than the transaction that comes now, and so is the position.
    let row = ask("INSERT INTO t VALUES (1); SELECT pg_current_xact_id() > '1'; SELECT xmin FROM t");
    assert_eq!(found.snapshot_xmin.to_string(), row.lines().last().unwrap());
    let position = found.position.unwrap();
    let behind = ask(&format!(
        "SELECT pg_current_wal_insert_lsn() > '{:X}/{:X}'::pg_lsn",
        position >> 32,
        position & 0xffff_ffff
    ));
    assert_eq!(behind, "t");
    begin(&connection).await;
    assert!(flushed(connection.client()).await.unwrap().unwrap() > position);
    // Nothing that a restart keeps changes; what it changes does.
    server.control(&["-w", "restart"]).unwrap();
    let connection = session(&plain).await;
    let later = facts(&connection).await.unwrap();
    assert_eq!(
        (later.system_identifier, later.timeline),
        (found.system_identifier, found.timeline)
    );
    assert!(later.started > found.started && later.position >= found.position);
}

#[tokio::test]
async fn what_a_server_refuses_to_tell_is_nothing_and_the_snapshot_lives() {
    let server = PostgresServer::start(15, "").unwrap();
    server
        .psql(
            "postgres",
            "CREATE ROLE plain LOGIN; REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
             REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC;
             REVOKE EXECUTE ON FUNCTION pg_current_wal_flush_lsn() FROM PUBLIC",
        )
        .unwrap();
    let connection = session(&server.url("postgres").replace("postgres@", "plain@")).await;
    let found = facts(&connection).await.unwrap();
    assert_eq!((found.system_identifier, found.timeline), (None, None));
    assert!(found.started.is_some() && found.position.is_some());
    assert_eq!(flushed(connection.client()).await.unwrap(), None);
    connection.client().query_one("SELECT 1", &[]).await.unwrap();
}

#[tokio::test]
async fn a_standby_has_facts_and_a_promotion_is_another_timeline() {
    let server = PostgresServer::start(15, "").unwrap();
    server.control(&["-w", "-m", "fast", "stop"]).unwrap();
    std::fs::write(server.data().join("standby.signal"), "").unwrap();
    server.control(&["-w", "start"]).unwrap();
    let connection = session(&server.url("postgres")).await;
    let standby = facts(&connection).await.unwrap();
    assert!(standby.in_recovery && standby.position.is_some());
    assert_eq!(standby.timeline, Some(1));
    assert_eq!(flushed(connection.client()).await.unwrap(), standby.position);
    server.control(&["-w", "promote"]).unwrap();
    begin(&connection).await;
    let promoted = facts(&connection).await.unwrap();
    assert!(!promoted.in_recovery);
    // The postmaster is the same; nothing but the timeline tells.
    assert_eq!((promoted.timeline, promoted.started), (Some(2), standby.started));
}

#[tokio::test]
async fn a_database_is_described_as_its_catalog_describes_it() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE ROLE \"Own er\"").unwrap();
    server
        .psql(
            "postgres",
            "CREATE DATABASE \"Shop %\" OWNER \"Own er\" TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'",
        )
        .unwrap();
    server
        .psql("postgres", "COMMENT ON DATABASE \"Shop %\" IS 'ours'")
        .unwrap();
    let connection = session(&server.url("Shop%20%25")).await;
    let found = database(&connection).await.unwrap();
    assert_eq!(found.name, b"Shop %");
    assert_eq!(found.owner, b"Own er");
    assert_eq!(found.comment.as_deref(), Some("ours"));
    assert_eq!(
        (
            found.encoding.as_str(),
            found.collate.as_str(),
            found.ctype.as_str()
        ),
        ("LATIN1", "C", "C")
    );
    assert_eq!((found.provider.as_deref(), found.locale), (Some("c"), None));
    assert_eq!(found.server_version_num / 10_000, 15);
    assert!(
        found.server_version.starts_with("15."),
        "{}",
        found.server_version
    );
    let plain = session(&server.url("postgres")).await;
    assert_eq!(
        database(&plain).await.unwrap().comment.as_deref(),
        Some("default administrative connection database")
    );
}
