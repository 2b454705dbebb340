//! Statements of a database whose catalogs did not change are taken over, and `pg_dump` is not run for them.

use crate::soak::kill_a_process;
use crate::source::{DURABLE, Taken, request, take};
use crate::source_statements::{replaced, whole};
use holdall::connector::postgres::PostgresRequest;
use holdall::connector::postgres::catalog::Filter;
use holdall::connector::postgres::connect::{Server, Surroundings};
use holdall::connector::postgres::key::{self, Place};
use holdall::connector::postgres::source::Contents;
use holdall::connector::postgres::state::StatementsState;
use holdall::snapshot::entry::EntryRecord;
use holdall::testkit::PostgresServer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILL: &str =
    "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT g, g FROM generate_series(1, 100) g;
    CREATE MATERIALIZED VIEW m AS SELECT id FROM t; COMMENT ON TABLE t IS 'FIRST';";
const PLACES: [Place; 3] = [Place::Schema, Place::Constraints, Place::Refresh];

/// A database, and a `pg_dump` that counts how often it writes statements.
struct Counted {
    server: PostgresServer,
    request: PostgresRequest,
    runs: PathBuf,
    _dir: tempfile::TempDir,
}

impl Counted {
    fn new(settings: &str) -> Self {
        let server = PostgresServer::start(15, settings).unwrap();
        server.psql("postgres", FILL).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let count = format!("echo run >> {}", runs.display());
        let request = PostgresRequest {
            pg_dump: Some(replaced(&server, dir.path(), "section", &count)),
            ..whole(&server)
        };
        Self {
            server,
            request,
            runs,
            _dir: dir,
        }
    }

    /// Runs of `pg_dump` since this was last asked.
    fn runs(&self) -> usize {
        let runs = std::fs::read_to_string(&self.runs).unwrap_or_default();
        let _none = std::fs::remove_file(&self.runs);
        runs.lines().count()
    }

    /// Takes the next snapshot. Its statements must be those that one without a parent has; says how often `pg_dump` ran for them.
    async fn next(&self, prior: &Taken, seed: u64) -> (Taken, usize) {
        self.next_of(&self.request, prior, seed).await
    }

    async fn next_of(&self, request: &PostgresRequest, prior: &Taken, seed: u64) -> (Taken, usize) {
        self.runs();
        let taken = take(request, Some(prior), seed).await.unwrap();
        let runs = self.runs();
        let full = take(request, None, seed).await.unwrap();
        for place in &PLACES {
            assert_eq!(taken.statements(place), full.statements(place), "{place}");
        }
        let over = PLACES.iter().filter(|place| taken.took_over(place)).count();
        assert!((runs, over) == (0, 3) || (runs, over) == (2, 0), "{runs} {over}");
        (taken, runs)
    }

    /// A seed with which unchanged statements are taken over: with one of sixteen they are checked.
    async fn quiet_seed(&self, prior: &Taken) -> u64 {
        for seed in 2..10 {
            if self.next(prior, seed).await.1 == 0 {
                return seed;
            }
        }
        panic!("statements are never taken over");
    }
}

impl Taken {
    fn took_over(&self, place: &Place) -> bool {
        self.unchanged
            .iter()
            .any(|key| key::parse(key).is_some_and(|(_, found)| found == *place))
    }

    fn record(&self, place: &Place) -> &Arc<EntryRecord> {
        let here = |r: &&Arc<EntryRecord>| key::parse(&r.key).is_some_and(|(_, found)| found == *place);
        self.records.iter().find(here).unwrap()
    }

    /// The same with another state of its statements.
    fn with_state(&self, change: impl Fn(&mut StatementsState)) -> Self {
        let report = self.record(&Place::Report);
        let mut state = StatementsState::decode(&report.state).unwrap();
        change(&mut state);
        let mut other = EntryRecord::clone(report);
        other.state = state.encode();
        let mut records = self.records.clone();
        for record in &mut records {
            if record.key == other.key {
                *record = Arc::new(other.clone());
            }
        }
        Self {
            records,
            ..Self::default()
        }
    }

    fn without(&self, place: &Place) -> Self {
        let mut records = self.records.clone();
        records.retain(|record| record.key != self.record(place).key);
        Self {
            records,
            ..Self::default()
        }
    }
}

#[tokio::test]
async fn pg_dump_runs_only_when_the_catalogs_changed() {
    let counted = Counted::new(DURABLE);
    let sql = |sql: &str| counted.server.psql("postgres", sql).unwrap();
    let first = take(&counted.request, None, 1).await.unwrap();
    assert_eq!(counted.runs(), 2);
    let seed = counted.quiet_seed(&first).await;
    // The state stays, so that nothing of it is written anew.
    let (second, runs) = counted.next(&first, seed).await;
    assert_eq!(runs, 0);
    assert_eq!(
        second.record(&Place::Report).state,
        first.record(&Place::Report).state
    );
    assert_eq!(
        second.record(&Place::Database).metadata,
        first.record(&Place::Database).metadata
    );
    // Nor do rows and the server's own care make it run.
    sql("INSERT INTO t SELECT g, 'new' FROM generate_series(1000, 3000) g; DELETE FROM t WHERE id < 50");
    sql("VACUUM (FREEZE, ANALYZE)");
    let (third, runs) = counted.next(&second, seed).await;
    assert_eq!(runs, 0);
    let mut before = third;
    for change in [
        "COMMENT ON TABLE t IS 'SECOND'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1",
        "ALTER TABLE t ADD b int",
        "DROP MATERIALIZED VIEW m",
        "CREATE INDEX i ON t (a)",
    ] {
        sql(change);
        let (after, runs) = counted.next_or_less(&before, seed).await;
        assert_eq!(runs, 2, "{change}");
        let (again, runs) = counted.next_or_less(&after, seed).await;
        assert_eq!(runs, 0, "{change}");
        before = again;
    }
    let schema = before.statements(&Place::Schema).unwrap();
    assert!(schema.contains("SECOND") && !schema.contains("FIRST"), "{schema}");
}

impl Counted {
    /// As [`Self::next`], of a database that may have no materialized view.
    async fn next_or_less(&self, prior: &Taken, seed: u64) -> (Taken, usize) {
        self.runs();
        let taken = take(&self.request, Some(prior), seed).await.unwrap();
        let runs = self.runs();
        let full = take(&self.request, None, seed).await.unwrap();
        for place in &PLACES {
            assert_eq!(taken.statements(place), full.statements(place), "{place}");
        }
        (taken, runs)
    }
}

#[tokio::test]
async fn statements_are_made_anew_wherever_something_else_is_asked_for() {
    let counted = Counted::new(DURABLE);
    counted
        .server
        .psql("postgres", "CREATE ROLE reader LOGIN SUPERUSER")
        .unwrap();
    let first = take(&counted.request, None, 1).await.unwrap();
    let seed = counted.quiet_seed(&first).await;
    let url = counted.server.url("postgres").replace("postgres@", "reader@");
    let other_role = PostgresRequest {
        server: Server::parse(&url, &Surroundings::default()).unwrap(),
        ..counted.request.clone()
    };
    let other_choice = PostgresRequest {
        filter: Filter {
            exclude_tables: vec!["nothing".into()],
            ..Filter::default()
        },
        ..counted.request.clone()
    };
    let other_options = PostgresRequest {
        server: Server::parse(
            &format!(
                "{}?options=-c%20TimeZone%3DAsia/Tokyo",
                counted.server.url("postgres")
            ),
            &Surroundings::default(),
        )
        .unwrap(),
        ..counted.request.clone()
    };
    for request in [&other_role, &other_choice, &other_options] {
        assert_eq!(counted.next_of(request, &first, seed).await.1, 2);
    }
    // A setting that every session begins with.
    counted.server.configure("TimeZone = 'Asia/Tokyo'").unwrap();
    counted
        .server
        .psql("postgres", "SELECT pg_reload_conf()")
        .unwrap();
    let (tokyo, runs) = counted.next(&first, seed).await;
    assert_eq!(runs, 2);
    // An entry that was lost, or the report that says of them what they are.
    for place in [Place::Schema, Place::Constraints, Place::Refresh, Place::Report] {
        assert_eq!(counted.next(&tokyo.without(&place), seed).await.1, 2, "{place}");
    }
    // Another program of the same name.
    touch(counted.request.pg_dump.as_deref().unwrap());
    assert_eq!(counted.next(&tokyo, seed).await.1, 2);
    // Another life of the server.
    counted.server.restart().unwrap();
    assert_eq!(counted.next(&tokyo, seed).await.1, 2);
}

fn touch(path: &Path) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    let time = file.metadata().unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
    file.set_modified(time).unwrap();
}

#[tokio::test]
async fn statements_are_checked_now_and_then_and_a_difference_is_told() {
    let counted = Counted::new(DURABLE);
    let first = take(&counted.request, None, 1).await.unwrap();
    let seed = counted.quiet_seed(&first).await;
    let old = first.with_state(|state| state.written -= 8 * 24 * 3600);
    let (checked, runs) = counted.next(&old, seed).await;
    assert_eq!(runs, 2);
    assert!(checked.notes.is_empty(), "{:?}", checked.notes);
    let wrong = first.with_state(|state| {
        state.written -= 8 * 24 * 3600;
        state.contents[0] = Some([7; 32]);
    });
    let (told, runs) = counted.next(&wrong, seed).await;
    assert_eq!(runs, 2);
    assert!(
        told.notes
            .iter()
            .any(|note| note.contains("judged unchanged and is not")),
        "{:?}",
        told.notes
    );
    assert_eq!(counted.next(&told, seed).await.1, 0);
    // One of sixteen draws is a check: sooner or later one falls, and not each.
    let (mut checks, mut taken_over) = (0, 0);
    for seed in 100..180 {
        let over = take(&counted.request, Some(&first), seed)
            .await
            .unwrap()
            .took_over(&Place::Schema);
        *(if over { &mut taken_over } else { &mut checks }) += 1;
        if checks > 0 && taken_over > 0 {
            break;
        }
    }
    assert!(checks > 0 && taken_over > 0, "{checks} {taken_over}");
}

/// H2 of the catalogs: what the snapshot saw of them is durable before it is compared with.
#[tokio::test]
async fn a_crash_takes_no_statement_back_that_a_snapshot_saw() {
    let counted =
        Counted::new("fsync = on\nsynchronous_commit = off\nwal_writer_delay = 4s\nautovacuum = off");
    let sql = |sql: &str| counted.server.psql("postgres", sql).unwrap();
    for round in 0..2 {
        sql("CHECKPOINT");
        sql(&format!("COMMENT ON TABLE t IS 'SEEN {round}'"));
        let before = take(&counted.request, None, 1).await.unwrap();
        assert!(
            before
                .statements(&Place::Schema)
                .unwrap()
                .contains(&format!("SEEN {round}"))
        );
        kill_a_process(&counted.server, "");
        assert_eq!(
            sql("SELECT obj_description('t'::regclass)").trim(),
            format!("SEEN {round}")
        );
        sql("COMMENT ON TABLE t IS 'AFTER'");
        let (after, _) = counted.next(&before, 2).await;
        assert!(after.statements(&Place::Schema).unwrap().contains("AFTER"));
    }
}

/// A request by whose `pg_dump` the server does something when it is run for the first time, in a directory of its own.
fn meanwhile(request: PostgresRequest, server: &PostgresServer, dir: &Path, sql: &str) -> PostgresRequest {
    let psql = server.programs().join("psql");
    let marker = dir.join("once");
    let once = format!(
        "if mkdir {} 2>/dev/null; then {} -X -q -d '{}' -c \"{sql}\" >&2; fi",
        marker.display(),
        psql.display(),
        server.url("postgres")
    );
    PostgresRequest {
        pg_dump: Some(replaced(server, dir, "section=pre-data", &once)),
        ..request
    }
}

/// The next snapshots have the statements that snapshots without a parent have.
async fn assert_next_is_right(request: &PostgresRequest, before: &Taken) {
    for seed in 2..5 {
        let next = take(request, Some(before), seed).await.unwrap();
        let full = take(request, None, seed).await.unwrap();
        for place in &PLACES {
            assert_eq!(next.statements(place), full.statements(place), "{place}");
        }
    }
}

/// `pg_dump` prints names of functions within views as they are when it runs: a crash may not take them back unseen.
#[tokio::test]
async fn a_crash_takes_nothing_back_that_only_pg_dump_saw() {
    let settings = "fsync = on\nsynchronous_commit = off\nwal_writer_delay = 10s\nautovacuum = off";
    let server = PostgresServer::start(15, settings).unwrap();
    let fill = format!(
        "{FILL} CREATE FUNCTION first() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE VIEW v AS SELECT first() AS a; CHECKPOINT"
    );
    server.psql("postgres", &fill).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let rename = "ALTER FUNCTION first() RENAME TO second";
    let request = meanwhile(whole(&server), &server, dir.path(), rename);
    let before = take(&request, None, 1).await.unwrap();
    let schema = before.statements(&Place::Schema).unwrap();
    assert!(schema.contains("SELECT public.second() AS a"), "{schema}");
    kill_a_process(&server, "");
    assert_next_is_right(&request, &before).await;
}

/// A role that may not read `pg_authid` sees of roles only how they are named now.
#[tokio::test]
async fn a_role_that_had_another_name_while_pg_dump_ran_is_seen_by_plain_roles_too() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    let fill = format!(
        "{FILL} CREATE ROLE plain LOGIN; CREATE ROLE team; GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain, team;"
    );
    server.psql("postgres", &fill).unwrap();
    let url = server.url("postgres").replace("postgres@", "plain@");
    let plain = PostgresRequest {
        server: Server::parse(&url, &Surroundings::default()).unwrap(),
        ..whole(&server)
    };
    let dir = tempfile::tempdir().unwrap();
    let request = meanwhile(plain, &server, dir.path(), "ALTER ROLE team RENAME TO crew");
    let before = take(&request, None, 1).await.unwrap();
    assert!(before.statements(&Place::Schema).unwrap().contains("TO crew;"));
    server.psql("postgres", "ALTER ROLE crew RENAME TO team").unwrap();
    assert_next_is_right(&request, &before).await;
}

/// What only saves work is asked for apart from what a snapshot needs.
#[tokio::test]
async fn who_may_not_ask_when_the_server_was_configured_takes_snapshots() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", FILL).unwrap();
    server
        .psql(
            "postgres",
            "CREATE ROLE plain LOGIN; GRANT pg_read_all_data TO plain;
             REVOKE EXECUTE ON FUNCTION pg_catalog.pg_conf_load_time() FROM PUBLIC",
        )
        .unwrap();
    let url = server.url("postgres").replace("postgres@", "plain@");
    let asked = PostgresRequest {
        server: Server::parse(&url, &Surroundings::default()).unwrap(),
        ..whole(&server)
    };
    let before = take(&asked, None, 1).await.unwrap();
    assert!(
        before
            .statements(&Place::Schema)
            .unwrap()
            .contains("CREATE TABLE")
    );
    assert_next_is_right(&asked, &before).await;
}

/// The configuration says in which zone constants are printed.
#[tokio::test]
async fn a_configuration_that_was_another_while_pg_dump_ran_is_seen() {
    let server = PostgresServer::start(15, &format!("{DURABLE}\ntimezone = 'UTC'")).unwrap();
    let fill = format!("{FILL} CREATE VIEW v AS SELECT '2026-01-01 00:00+00'::timestamptz AS a");
    server.psql("postgres", &fill).unwrap();
    server
        .psql("postgres", "ALTER SYSTEM SET timezone = 'Asia/Tokyo'")
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    // When the catalogs were looked at, and before the session of pg_dump.
    let reload = "SELECT pg_sleep(1), pg_reload_conf(), pg_sleep(1)";
    let request = meanwhile(whole(&server), &server, dir.path(), reload);
    let before = take(&request, None, 1).await.unwrap();
    let schema = before.statements(&Place::Schema).unwrap();
    assert!(schema.contains("2026-01-01 09:00:00+09"), "{schema}");
    server.psql("postgres", "ALTER SYSTEM RESET timezone").unwrap();
    server
        .psql("postgres", "SELECT pg_reload_conf(), pg_sleep(1)")
        .unwrap();
    assert_next_is_right(&request, &before).await;
}

#[tokio::test]
async fn a_server_that_is_never_compared_has_its_statements_written_each_time() {
    let counted = Counted::new("fsync = off");
    let first = take(&counted.request, None, 1).await.unwrap();
    for seed in 2..5 {
        assert_eq!(counted.next(&first, seed).await.1, 2);
    }
}

#[tokio::test]
async fn a_plain_role_has_them_taken_over_too() {
    let counted = Counted::new(DURABLE);
    let grants = "CREATE ROLE plain LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain;";
    counted.server.psql("postgres", grants).unwrap();
    let url = counted.server.url("postgres").replace("postgres@", "plain@");
    let request = PostgresRequest {
        server: Server::parse(&url, &Surroundings::default()).unwrap(),
        ..counted.request.clone()
    };
    let first = take(&request, None, 1).await.unwrap();
    let mut over = 0;
    for seed in 2..5 {
        over += usize::from(counted.next_of(&request, &first, seed).await.1 == 0);
    }
    assert!(over > 0);
    counted
        .server
        .psql("postgres", "ALTER ROLE plain VALID UNTIL '2040-01-01'")
        .unwrap();
    assert_eq!(counted.next_of(&request, &first, 2).await.1, 2);
}

/// A session costs the server more than what is asked in it.
#[tokio::test]
async fn an_unchanged_snapshot_of_one_small_table_needs_three_connections() {
    let counted = Counted::new(&format!("{DURABLE}\nlog_connections = on\nlog_statement = all"));
    let first = take(&counted.request, None, 1).await.unwrap();
    let seed = counted.quiet_seed(&first).await;
    let log = || std::fs::read_to_string(counted.server.socket().join("log")).unwrap();
    let before = log().len();
    let taken = take(&counted.request, Some(&first), seed).await.unwrap();
    assert!(taken.took_over(&Place::Schema));
    let log = log();
    let said = &log[before..];
    let connections = said.matches("connection authorized").count();
    assert!(connections <= 3, "{said}");
}

/// The server refuses `pg_dump`, for a while.
#[tokio::test]
async fn pg_dump_waits_for_a_connection_as_workers_do() {
    let server = PostgresServer::start(15, DURABLE).unwrap();
    server.psql("postgres", FILL).unwrap();
    let grants = "CREATE ROLE plain LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain;";
    server.psql("postgres", grants).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (psql, marker) = (server.programs().join("psql"), dir.path().join("once"));
    let psql = format!("{} -X -q -d '{}'", psql.display(), server.url("postgres"));
    let refuse = format!(
        "if mkdir {} 2>/dev/null; then {psql} -c 'ALTER ROLE plain CONNECTION LIMIT 0' >&2; \
         (sleep 1; {psql} -c 'ALTER ROLE plain CONNECTION LIMIT -1') >/dev/null 2>&1 & fi",
        marker.display()
    );
    let url = server.url("postgres").replace("postgres@", "plain@");
    let request = PostgresRequest {
        server: Server::parse(&url, &Surroundings::default()).unwrap(),
        pg_dump: Some(replaced(&server, dir.path(), "section=pre-data", &refuse)),
        contents: Contents::Database,
        ..request(&server, "postgres")
    };
    let taken = take(&request, None, 1).await.unwrap();
    assert!(marker.exists());
    assert!(
        taken
            .statements(&Place::Schema)
            .unwrap()
            .contains("CREATE TABLE public.t")
    );
    assert!(
        taken
            .statements(&Place::Constraints)
            .unwrap()
            .contains("PRIMARY KEY")
    );
    assert_eq!(taken.rows("t").lines().count(), 100);
}
