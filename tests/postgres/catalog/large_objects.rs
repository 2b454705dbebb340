//! Large objects: in pages, with owner, access list and comment, and their bytes as the snapshot saw them.

use super::session;
use holdall::connector::postgres::catalog::{LargeObject, large_object_piece, large_objects};
use holdall::connector::postgres::connect::Connection;
use holdall::error::Result;
use holdall::testkit::PostgresServer;
use std::sync::Arc;

async fn all(connection: &Connection) -> Vec<LargeObject> {
    let mut found: Vec<LargeObject> = Vec::new();
    loop {
        let behind = found.last().map_or(0, |object| object.oid);
        let page = large_objects(connection, behind).await.unwrap();
        assert!(page.len() <= 1000);
        if page.is_empty() {
            return found;
        }
        found.extend(page);
    }
}

async fn bytes(connection: &Connection, oid: u32) -> Result<Vec<u8>> {
    let client = connection.client();
    let mut all = Vec::new();
    loop {
        let piece = large_object_piece(client, oid, all.len() as u64, 1 << 20).await?;
        all.extend_from_slice(&piece);
        if piece.len() < 1 << 20 {
            return Ok(all);
        }
    }
}

#[tokio::test]
async fn pages_hold_every_object_and_content_is_that_of_the_snapshot() {
    let server = PostgresServer::start(15, "max_locks_per_transaction = 2000").unwrap();
    server
        .psql(
            "postgres",
            "SELECT count(lo_from_bytea(i, int4send(i))) FROM generate_series(20000, 22499) i;
             SELECT lo_from_bytea(4294967295, decode(repeat('0123456789abcdef', 327681), 'hex'));
             SELECT lo_create(1); SELECT lo_from_bytea(2, decode(repeat('ab', 2097152), 'hex'));
             CREATE ROLE keeper; ALTER LARGE OBJECT 2 OWNER TO keeper; GRANT SELECT ON LARGE OBJECT 2 TO PUBLIC;
             COMMENT ON LARGE OBJECT 2 IS 'two ''MiB'''",
        )
        .unwrap();
    let connection = Arc::new(session(&server.url("postgres")).await);
    let found = all(&connection).await;
    let expected: Vec<u32> = [1, 2].into_iter().chain(20000..22500).chain([u32::MAX]).collect();
    assert_eq!(
        found.iter().map(|object| object.oid).collect::<Vec<_>>(),
        expected
    );
    assert!(found.iter().all(|object| object.readable));
    assert_eq!(
        (found[0].record.acl.clone(), found[0].record.comment.clone()),
        (None, None)
    );
    assert_eq!(found[0].record.owner, b"postgres");
    let two = &found[1].record;
    assert_eq!(two.owner, b"keeper");
    assert_eq!(two.comment.as_deref(), Some("two 'MiB'"));
    let acl = two.acl.clone().unwrap();
    assert_eq!(acl, ["keeper=rw/keeper", "=r/keeper"]);

    server
        .psql(
            "postgres",
            "SELECT lo_put(2, 0, 'changed'); SELECT lo_unlink(20007)",
        )
        .unwrap();
    assert_eq!(bytes(&connection, 1).await.unwrap(), b"");
    assert_eq!(bytes(&connection, 2).await.unwrap(), [0xab].repeat(2 << 20));
    assert_eq!(bytes(&connection, 20007).await.unwrap(), 20007_u32.to_be_bytes());
    let pattern = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
    assert_eq!(
        bytes(&connection, u32::MAX).await.unwrap(),
        pattern.repeat(327_681)
    );
}

#[tokio::test]
async fn what_the_role_may_not_read_is_known_before_and_named_after() {
    let server = PostgresServer::start(15, "").unwrap();
    server
        .psql(
            "postgres",
            "CREATE ROLE plain LOGIN; CREATE ROLE team; GRANT team TO plain; SELECT lo_create(i) FROM generate_series(1, 6) i;
             ALTER LARGE OBJECT 1 OWNER TO plain; ALTER LARGE OBJECT 2 OWNER TO team; GRANT SELECT ON LARGE OBJECT 3 TO team;
             GRANT SELECT ON LARGE OBJECT 4 TO PUBLIC; GRANT UPDATE ON LARGE OBJECT 5 TO plain;
             ALTER LARGE OBJECT 6 OWNER TO plain; REVOKE SELECT ON LARGE OBJECT 6 FROM plain",
        )
        .unwrap();
    let connection = Arc::new(session(&server.url("postgres").replace("postgres@", "plain@")).await);
    let found = all(&connection).await;
    let readable: Vec<u32> = found
        .iter()
        .filter(|object| object.readable)
        .map(|object| object.oid)
        .collect();
    assert_eq!(readable, [1, 2, 3, 4]);
    for object in found {
        super::begin(&connection).await;
        let read = bytes(&connection, object.oid).await;
        assert_eq!(read.is_ok(), object.readable, "{}", object.oid);
        if let Err(error) = read {
            assert_eq!(error.context("oid"), Some(object.oid.to_string().as_str()));
        }
    }
}
