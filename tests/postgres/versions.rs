//! Databases that go from one version of the server to the next.

use crate::features;
use crate::restore::{request as target_request, restore};
use crate::source::{DURABLE, request as source_request};
use holdall::connector::postgres::connect::{Server, Surroundings};
use holdall::connector::postgres::source::Contents;
use holdall::connector::postgres::{PostgresRequest, PostgresSource};
use holdall::context::Context;
use holdall::testkit::PostgresServer;
use holdall::testkit::collect::Collected;

fn request(server: &PostgresServer, role: &str) -> PostgresRequest {
    let url = server.url("source").replace("postgres@", &format!("{role}@"));
    PostgresRequest {
        server: Server::parse(&url, &Surroundings::default()).unwrap(),
        contents: Contents::Database,
        search: vec![server.programs().to_owned()],
        ..source_request(server, "source")
    }
}

async fn snapshot(server: &PostgresServer, role: &str) -> Collected {
    let context = Context::deterministic(1).unwrap();
    let mut source = PostgresSource::new(request(server, role));
    let taken = Collected::take(&context, &mut source, None).await.unwrap();
    assert!(taken.incidents.is_empty(), "{:?}", taken.incidents);
    taken
}

/// What the newer server's `pg_dump` says of a database of either server.
fn dump(program: &PostgresServer, server: &PostgresServer, database: &str) -> String {
    let output = program.run("pg_dump", &["-d", &server.url(database)]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let same = |line: &&str| {
        let changes = ["\\restrict ", "\\unrestrict ", "-- Dumped from database version "];
        !changes.iter().any(|begin| line.starts_with(begin))
    };
    let text: String = text.lines().filter(same).flat_map(|line| [line, "\n"]).collect();
    features::sorted(&text)
}

/// Takes the database over as the servers' own programs do. Servers print views in their own way, so that a dump of the old one
/// is no measure for the new one.
fn pipe(old: &PostgresServer, new: &PostgresServer, database: &str) {
    new.psql("postgres", &format!("CREATE DATABASE {database}"))
        .unwrap();
    let (from, to) = (old.url("source"), new.url(database));
    let file = new.socket().join("dump").display().to_string();
    // The old server's own: an older minor release of the new one may not know what a later one of the old has in its catalog.
    old.run("pg_dump", &["-Fc", "-d", &from, "-f", &file]).unwrap();
    new.run("pg_restore", &["--exit-on-error", "-d", &to, &file])
        .unwrap();
}

async fn goes(from: u32, to: u32) {
    let (old, new) = (
        PostgresServer::start(from, DURABLE).unwrap(),
        PostgresServer::start(to, "").unwrap(),
    );
    old.psql("postgres", features::ROLES).unwrap();
    features::fill(&old, "source");
    // Not every build of a server reads XML.
    if new.psql("postgres", "SELECT '<a/>'::xml").is_err() {
        let without = "ALTER TABLE app.people DROP COLUMN tree";
        old.psql("source", without).unwrap();
    }
    let taken = snapshot(&old, "postgres").await;
    new.psql("postgres", "CREATE DATABASE target").unwrap();
    let restored = restore(&taken, target_request(&new.url("target"))).await;
    assert_eq!(restored.incidents, [""; 0]);
    let report = restored.report.unwrap();
    assert_eq!((report.failed, report.different), (0, 0));
    assert_eq!(restored.summary.compared, restored.summary.tables.len() as u64);
    pipe(&old, &new, "piped");
    features::assert_same(&dump(&new, &new, "target"), &dump(&new, &new, "piped"));
}

#[tokio::test]
async fn everything_goes_from_15_to_17() {
    goes(15, 17).await;
}

#[tokio::test]
async fn everything_goes_from_17_to_18() {
    goes(17, 18).await;
}

/// What a role without rights over the server can make: what a project on a managed server mostly is.
const OWN: &str = "CREATE SCHEMA app; CREATE TYPE app.mood AS ENUM ('a', 'b');
    CREATE TABLE app.people (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, mood app.mood DEFAULT 'a',
        twice text GENERATED ALWAYS AS (name || name) STORED, notes jsonb);
    INSERT INTO app.people (name, notes) SELECT 'n' || g, jsonb_build_object('g', g) FROM generate_series(1, 3000) g;
    CREATE TABLE app.events (at date NOT NULL, person int REFERENCES app.people) PARTITION BY RANGE (at);
    CREATE TABLE app.events_1 PARTITION OF app.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    INSERT INTO app.events SELECT '2026-01-01'::date + g % 300, 1 + g % 3000 FROM generate_series(1, 5000) g;
    CREATE INDEX ON app.events (person);
    CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END$$;
    CREATE VIEW app.named AS SELECT id, name FROM app.people; CREATE MATERIALIZED VIEW app.counted AS SELECT count(*) FROM app.people;
    ALTER TABLE app.people ENABLE ROW LEVEL SECURITY; CREATE POLICY all_of_it ON app.people USING (true);
    GRANT SELECT ON app.people TO PUBLIC; COMMENT ON TABLE app.people IS 'it''s'; SELECT lo_from_bytea(4711, '\\x00ff');
    CREATE SEQUENCE app.numbers; SELECT setval('app.numbers', 77); ALTER DATABASE source SET work_mem = '5MB';";

#[tokio::test]
async fn a_role_without_rights_over_the_server_takes_its_own_along() {
    let old = PostgresServer::start(17, DURABLE).unwrap();
    let new = PostgresServer::start(18, "").unwrap();
    for (server, name) in [(&old, "source"), (&new, "target")] {
        server
            .psql("postgres", "CREATE ROLE owner LOGIN CREATEROLE")
            .unwrap();
        let sql = format!("CREATE DATABASE {name} OWNER owner");
        server.psql("postgres", &sql).unwrap();
    }
    old.psql("source", &format!("SET SESSION AUTHORIZATION owner; {OWN}"))
        .unwrap();
    let taken = snapshot(&old, "owner").await;
    let url = new.url("target").replace("postgres@", "owner@");
    let restored = restore(&taken, target_request(&url)).await;
    // A trigger would change names, if it fired: this role cannot switch triggers off, and rows come before triggers.
    assert_eq!(restored.incidents, [""; 0]);
    assert_eq!(restored.summary.compared, 2);
    features::assert_same(&dump(&new, &new, "target"), &dump(&new, &old, "source"));
    let setting = "SELECT setconfig FROM pg_db_role_setting";
    assert_eq!(
        new.psql("postgres", setting).unwrap(),
        old.psql("postgres", setting).unwrap()
    );
}
