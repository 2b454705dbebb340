//! The fingerprint of the catalogs changes with whatever `pg_dump` would write otherwise, and with little else.

use super::{begin, session};
use holdall::connector::postgres::catalog::{CatalogFingerprint, catalog_fingerprint};
use holdall::connector::postgres::connect::Connection;
use holdall::testkit::PostgresServer;

/// What the changes are made to.
const BEFORE: &str = "
CREATE ROLE owner; CREATE ROLE plain LOGIN; CREATE ROLE team;
CREATE SCHEMA app; CREATE TABLE t (id int PRIMARY KEY, a text, b int DEFAULT 1);
ALTER TABLE t ADD CONSTRAINT t_b_check CHECK (b > 0) NOT VALID;
INSERT INTO t SELECT g, 'x', 1 FROM generate_series(1, 1000) g;
CREATE TABLE u (id int REFERENCES t, n int); CREATE VIEW v AS SELECT id, a FROM t; CREATE MATERIALIZED VIEW m AS SELECT id FROM t;
CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE pair AS (x int, y int); CREATE DOMAIN small AS int CHECK (VALUE < 9);
CREATE FUNCTION f(int) RETURNS int LANGUAGE sql RETURN $1; CREATE SEQUENCE s; CREATE INDEX i ON t (a);
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE TRIGGER late AFTER INSERT ON u EXECUTE FUNCTION g(); CREATE POLICY mine ON t TO team USING (true);
CREATE TABLE whole (at date) PARTITION BY RANGE (at); CREATE TABLE part (at date);
CREATE PUBLICATION p FOR TABLE t; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w; GRANT USAGE ON FOREIGN SERVER far TO plain;
CREATE USER MAPPING FOR plain SERVER far OPTIONS (password 'a');
CREATE SUBSCRIPTION away CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false);
";

/// Changes of what `pg_dump` writes, in this order. They leave no kind of catalog out that a database may have rows in.
const CHANGES: &[&str] = &[
    "CREATE TABLE new (a int)",
    "DROP TABLE new",
    "ALTER TABLE t ADD c int",
    "ALTER TABLE t ALTER c SET DEFAULT 5",
    "ALTER TABLE u ALTER n SET NOT NULL",
    "ALTER TABLE t RENAME c TO d",
    "ALTER TABLE t ALTER d TYPE bigint",
    "ALTER TABLE t ALTER a SET STORAGE EXTERNAL",
    "ALTER TABLE t ALTER a SET STATISTICS 500",
    "ALTER TABLE t DROP d",
    "ALTER TABLE t SET (fillfactor = 70)",
    "ALTER TABLE t OWNER TO owner",
    "ALTER TABLE u RENAME TO u2; ALTER TABLE u2 RENAME TO u",
    "ALTER TABLE u SET SCHEMA app; ALTER TABLE app.u SET SCHEMA public",
    "ALTER TABLE u SET UNLOGGED",
    "ALTER TABLE t VALIDATE CONSTRAINT t_b_check",
    "ALTER TABLE t ADD CONSTRAINT more UNIQUE (b, id)",
    "ALTER TABLE t CLUSTER ON i",
    "ALTER TABLE t REPLICA IDENTITY FULL",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "ALTER POLICY mine ON t USING (id > 0)",
    "CREATE POLICY yours ON t FOR SELECT USING (true)",
    "ALTER TABLE u DISABLE TRIGGER late",
    "CREATE TRIGGER early BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION g()",
    "CREATE RULE none AS ON DELETE TO v DO INSTEAD NOTHING",
    "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION e()",
    "ALTER EVENT TRIGGER watch DISABLE",
    "CREATE INDEX j ON t (b) WHERE b > 3",
    "ALTER INDEX j RENAME TO k",
    "CREATE INDEX CONCURRENTLY l ON t (b)",
    "REINDEX INDEX CONCURRENTLY l",
    "CREATE STATISTICS st (ndistinct) ON id, b FROM t",
    "ALTER STATISTICS st SET STATISTICS 7",
    "ALTER TABLE whole ATTACH PARTITION part FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "ALTER TABLE whole DETACH PARTITION part",
    "CREATE TABLE heir () INHERITS (t)",
    "CREATE OR REPLACE VIEW v AS SELECT id, a, b FROM t",
    "CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql RETURN $1 + 1",
    "ALTER FUNCTION f(int) SET search_path = app",
    "CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int)",
    "CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)",
    "CREATE OPERATOR FAMILY odd USING btree",
    "CREATE OPERATOR CLASS odd_ops FOR TYPE int USING btree FAMILY odd AS OPERATOR 3 =, FUNCTION 1 btint4cmp(int, int)",
    "CREATE CAST (int AS mood) WITH INOUT",
    "CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal))",
    "CREATE COLLATION plain (provider = libc, locale = 'C')",
    "CREATE CONVERSION conv FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1",
    "CREATE LANGUAGE other HANDLER plpgsql_call_handler",
    "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler",
    "CREATE TEXT SEARCH DICTIONARY d (TEMPLATE = simple)",
    "CREATE TEXT SEARCH CONFIGURATION c (COPY = simple)",
    "ALTER TEXT SEARCH CONFIGURATION c ALTER MAPPING FOR word WITH d",
    "CREATE TEXT SEARCH PARSER tp (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype)",
    "CREATE TEXT SEARCH TEMPLATE tt (LEXIZE = dsimple_lexize)",
    "ALTER TYPE mood ADD VALUE 'ok'",
    "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
    "ALTER TYPE pair ADD ATTRIBUTE z int",
    "ALTER DOMAIN small SET DEFAULT 1",
    "ALTER DOMAIN small ADD CHECK (VALUE > 0)",
    "CREATE TYPE span AS RANGE (subtype = float8)",
    "ALTER SEQUENCE s INCREMENT 5",
    "ALTER SEQUENCE s OWNED BY u.n",
    "REFRESH MATERIALIZED VIEW m WITH NO DATA",
    "GRANT SELECT ON t TO team",
    "GRANT SELECT (n) ON u TO team",
    "REVOKE EXECUTE ON FUNCTION f(int) FROM PUBLIC",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO team",
    "COMMENT ON TABLE t IS 'a'",
    "COMMENT ON TABLE t IS 'b'",
    "COMMENT ON TABLE t IS NULL",
    "SET allow_system_table_mods = on; INSERT INTO pg_seclabel VALUES ('t'::regclass, 'pg_class'::regclass, 0, 'x', 'y')",
    "CREATE EXTENSION pg_trgm",
    "ALTER EXTENSION pg_trgm SET SCHEMA app",
    "ALTER EXTENSION pg_trgm ADD FUNCTION g()",
    "DROP EXTENSION pg_trgm CASCADE",
    "ALTER PUBLICATION p ADD TABLE part WHERE (at > '2026-01-01')",
    "ALTER PUBLICATION p SET (publish = 'insert')",
    "CREATE PUBLICATION q FOR TABLES IN SCHEMA app",
    "ALTER SUBSCRIPTION away RENAME TO afar",
    "CREATE FOREIGN TABLE ft (a int) SERVER far OPTIONS (x 'y')",
    "ALTER SERVER far OPTIONS (ADD host 'h')",
    "ALTER FOREIGN DATA WRAPPER w OPTIONS (ADD x 'y')",
    "ALTER USER MAPPING FOR plain SERVER far OPTIONS (SET password 'b')",
    "ALTER ROLE team RENAME TO crew",
    "ALTER ROLE crew VALID UNTIL '2030-01-01'",
    "GRANT owner TO plain",
    "ALTER ROLE crew SET work_mem = '7MB'",
    "ALTER DATABASE postgres SET TimeZone = 'Europe/Zurich'",
    "ALTER DATABASE postgres SET TimeZone = 'UTC'",
    "COMMENT ON DATABASE postgres IS 'd'",
    "CREATE TABLESPACE far_away LOCATION ''",
    "ALTER TABLE u SET TABLESPACE far_away",
    "GRANT SET ON PARAMETER work_mem TO plain",
    "ALTER SCHEMA app OWNER TO owner",
];

/// What is kept in catalogs that a plain role may not read.
const HIDDEN: [&str; 3] = ["ROLE", "USER MAPPING", "SUBSCRIPTION"];

/// A fingerprint as a source takes it, and the oldest transaction of its snapshot.
async fn now(connection: &Connection, since: Option<u64>) -> (CatalogFingerprint, u64) {
    begin(connection).await;
    let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::int8";
    let row = connection.client().query_one(sql, &[]).await.unwrap();
    let found = catalog_fingerprint(connection, since).await.unwrap();
    (found.unwrap(), row.get::<_, i64>(0).try_into().unwrap())
}

#[tokio::test]
async fn every_change_of_what_pg_dump_writes_is_seen() {
    let server = PostgresServer::start(15, "autovacuum = off\nallow_in_place_tablespaces = on").unwrap();
    server.psql("postgres", BEFORE).unwrap();
    let url = server.url("postgres");
    let (reader, plain, writer) = (
        session(&url).await,
        session(&url.replace("postgres@", "plain@")).await,
        session(&url).await,
    );
    let execute = async |connection: &Connection, sql: &str| {
        let done = connection.client().batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    execute(&writer, "ROLLBACK; SET search_path = public").await;
    let mut before = now(&reader, None).await;
    for change in CHANGES {
        let hidden = HIDDEN.iter().any(|word| change.contains(word));
        let plainly = if hidden {
            Some(now(&plain, None).await)
        } else {
            None
        };
        // A concurrent index waits for the transactions of others.
        execute(&reader, "ROLLBACK").await;
        execute(&plain, "ROLLBACK").await;
        execute(&writer, change).await;
        let changed = |before: &CatalogFingerprint, after: &CatalogFingerprint| {
            assert!(after.written || after.digest != before.digest, "{change}");
        };
        let after = now(&reader, Some(before.1)).await;
        changed(&before.0, &after.0);
        if let Some((before, xmin)) = plainly {
            changed(&before, &now(&plain, Some(xmin)).await.0);
        }
        before = after;
    }
}

#[tokio::test]
async fn what_changes_no_statement_changes_nothing() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", BEFORE).unwrap();
    server.psql("postgres", "CREATE DATABASE other").unwrap();
    let connection = session(&server.url("postgres")).await;
    // The first of a session may make a schema for them, which stays.
    let other = session(&server.url("postgres")).await;
    let brief = "ROLLBACK; CREATE TEMPORARY TABLE brief (a int); DROP TABLE brief";
    other.client().batch_execute(brief).await.unwrap();
    let (before, xmin) = now(&connection, None).await;
    let changes = [
        ("postgres", "SELECT 1"),
        (
            "postgres",
            "INSERT INTO t SELECT g, 'y', 2 FROM generate_series(2000, 4000) g; DELETE FROM t WHERE id < 900",
        ),
        ("postgres", "SELECT nextval('s')"),
        ("postgres", "ANALYZE"),
        ("postgres", "VACUUM"),
        ("postgres", "VACUUM (FREEZE, ANALYZE)"),
        (
            "postgres",
            "BEGIN; CREATE TABLE gone (a int); ALTER TABLE t ADD z int; ALTER ROLE team RENAME TO crew; ROLLBACK",
        ),
        ("postgres", "SELECT lo_create(0) FROM generate_series(1, 10)"),
        ("postgres", "CHECKPOINT"),
        (
            "other",
            "CREATE TABLE elsewhere (a int); COMMENT ON TABLE elsewhere IS 'x'; ALTER TABLE elsewhere OWNER TO owner",
        ),
    ];
    for (database, sql) in changes {
        server.psql(database, sql).unwrap();
        other.client().batch_execute(brief).await.unwrap();
        let (after, _) = now(&connection, Some(xmin)).await;
        assert_eq!(after, before, "{sql}");
    }
}

/// Another session makes the same rows look the same: only that they were written since tells.
#[tokio::test]
async fn a_row_that_was_written_since_is_seen_whatever_it_hashes_to() {
    let server = PostgresServer::start(15, "autovacuum = off").unwrap();
    server.psql("postgres", "CREATE TABLE t (a int)").unwrap();
    let connection = session(&server.url("postgres")).await;
    let (_, xmin) = now(&connection, None).await;
    assert!(!now(&connection, Some(xmin)).await.0.written);
    server.psql("postgres", "COMMENT ON TABLE t IS 'new'").unwrap();
    assert!(now(&connection, Some(xmin)).await.0.written);
    let (_, later) = now(&connection, None).await;
    assert!(!now(&connection, Some(later)).await.0.written);
    // A transaction that began before the snapshot and ends behind it.
    let open = session(&server.url("postgres")).await;
    let write = "ROLLBACK; BEGIN; COMMENT ON TABLE t IS 'newer'";
    open.client().batch_execute(write).await.unwrap();
    let (before, xmin) = now(&connection, None).await;
    open.client().batch_execute("COMMIT").await.unwrap();
    let (after, _) = now(&connection, Some(xmin)).await;
    assert!(after.written && after.digest != before.digest);
}
