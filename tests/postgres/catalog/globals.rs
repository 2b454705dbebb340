//! Roles and settings of the database, held against `pg_dumpall`.

use super::session;
use holdall::connector::postgres::catalog::globals;
use holdall::testkit::PostgresServer;

const ROLES: &str = r#"
CREATE ROLE plain LOGIN PASSWORD 'open sesame';
CREATE ROLE "Boss ""B"" O'Neil" SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS NOINHERIT;
CREATE ROLE limited LOGIN CONNECTION LIMIT 3 VALID UNTIL '2030-01-01 12:00:00+02';
CREATE ROLE forever VALID UNTIL 'infinity';
CREATE ROLE team; CREATE ROLE lead;
GRANT team TO plain, limited; GRANT team TO lead WITH ADMIN OPTION; GRANT pg_read_all_data TO lead;
COMMENT ON ROLE team IS E'it''s a \\ team: 100 %';
ALTER ROLE plain SET search_path = "$user", public, "We""ird, one";
ALTER ROLE plain SET statement_timeout = '5s';
ALTER ROLE team SET search_path = '';
ALTER ROLE limited SET app.motto = 'a = b, ''c'' \ d';
ALTER ROLE ALL SET lock_timeout = '10s';
ALTER ROLE postgres SET work_mem = '8MB';
ALTER ROLE lead IN DATABASE shop SET app.seat = '50 % off';
ALTER ROLE lead IN DATABASE postgres SET app.seat = 'of another database';
ALTER DATABASE shop SET search_path = public, "$user";
ALTER DATABASE shop SET "app.settings.Key" = 'value';
ALTER DATABASE shop CONNECTION LIMIT 20;
COMMENT ON DATABASE shop IS 'the shop''s 100 %s';
REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC; GRANT CREATE ON DATABASE shop TO team;
GRANT CONNECT ON DATABASE shop TO lead WITH GRANT OPTION; REVOKE CREATE ON DATABASE shop FROM postgres;
GRANT SET ON PARAMETER log_min_messages TO team; GRANT ALTER SYSTEM ON PARAMETER app.x TO lead WITH GRANT OPTION;
"#;

/// What `pg_dumpall` writes of a cluster's roles, without what differs each time.
fn roles_of(server: &PostgresServer) -> String {
    let url = server.url("postgres");
    let arguments = ["--roles-only", "--no-role-passwords", "-d", &url];
    let output = server.run("pg_dumpall", &arguments).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('\\') && !line.starts_with("--"));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// What the catalogs say of a database, in words.
fn settings_of(server: &PostgresServer, database: &str) -> String {
    let sql = format!(
        "SELECT r.rolname, s.setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
           LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE d.datname = '{database}' ORDER BY 1;
         SELECT a::text FROM pg_database, unnest(datacl) a WHERE datname = '{database}' ORDER BY 1;
         SELECT shobj_description(oid, 'pg_database'), datconnlimit FROM pg_database WHERE datname = '{database}'"
    );
    server.psql("postgres", &sql).unwrap()
}

/// Runs SQL as a person would who has a script: errors do not stop it. Gives them.
fn apply(server: &PostgresServer, database: &str, sql: &str) -> String {
    let file = server.socket().join("script.sql");
    std::fs::write(&file, sql).unwrap();
    let (url, file) = (server.url(database), file.display().to_string());
    let output = server
        .run("psql", &["-X", "-q", "-o", "/dev/null", "-d", &url, "-f", &file])
        .unwrap();
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn roles_come_back_as_pg_dumpall_brings_them_back() {
    let source = PostgresServer::start(15, "").unwrap();
    source.psql("postgres", "CREATE DATABASE shop").unwrap();
    source.psql("postgres", ROLES).unwrap();
    let connection = session(&source.url("shop")).await;
    let text = globals(&connection).await.unwrap();
    assert!(
        !text.contains("PASSWORD") && !text.contains("SCRAM") && !text.contains("sesame"),
        "{text}"
    );
    assert!(!text.contains("of another database"));
    assert_eq!(text, globals(&connection).await.unwrap());

    let ours = PostgresServer::start(15, "").unwrap();
    // Its name is another, and there is one of the old name, which must stay as it is.
    ours.psql("postgres", "CREATE DATABASE \"shop's %I\"").unwrap();
    ours.psql("postgres", "CREATE DATABASE shop").unwrap();
    let untouched = settings_of(&ours, "shop");
    assert_eq!(apply(&ours, "shop's%20%25I", &text), "");
    let theirs = PostgresServer::start(15, "").unwrap();
    let all = roles_of(&source);
    let said = apply(&theirs, "postgres", &all);
    assert_eq!(said.matches("ERROR").count(), 1, "{said}");

    assert_eq!(roles_of(&ours), roles_of(&theirs));
    assert_eq!(roles_of(&ours), all);
    assert_eq!(settings_of(&ours, "shop''s %I"), settings_of(&source, "shop"));
    assert_eq!(settings_of(&ours, "shop"), untouched);
    // What the second cluster would give is what the first gave.
    let connection = session(&ours.url("shop's%20%25I")).await;
    assert_eq!(globals(&connection).await.unwrap(), text);
}

#[tokio::test]
async fn a_plain_role_reads_the_same_globals() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE shop").unwrap();
    server.psql("postgres", ROLES).unwrap();
    let all = session(&server.url("shop")).await;
    let plain = session(&server.url("shop").replace("postgres@", "plain@")).await;
    assert!(
        plain
            .client()
            .simple_query("SAVEPOINT a; SELECT FROM pg_authid")
            .await
            .is_err()
    );
    super::begin(&plain).await;
    assert_eq!(globals(&plain).await.unwrap(), globals(&all).await.unwrap());
}
