//! Connections: where parameters come from, and what is said when one cannot be made.

use crate::source::{request, take};
use holdall::connector::postgres::connect::{Connection, Server, Surroundings};
use holdall::context::Context;
use holdall::error::{Error, ErrorKind, Result};
use holdall::testkit::{PgBouncer, PostgresServer};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A password with every character that has a meaning somewhere.
const PASSWORD: &str = "p@ss:/w\\o'r d%?#";
const PASSWORD_IN_URL: &str = "p%40ss%3A%2Fw%5Co%27r%20d%25%3F%23";

fn around(variables: &[(&str, &str)], home: Option<&Path>) -> Surroundings {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    Surroundings::gather(
        |name| variables.get(name).map(Into::into),
        home.map(Path::to_owned),
    )
    .unwrap()
}

async fn connect(text: &str, surroundings: &Surroundings) -> Result<Connection> {
    let context = Context::deterministic(1).unwrap();
    Server::parse(text, surroundings)?.connect(&context).await
}

pub(super) async fn ask(connection: &Connection, sql: &str) -> String {
    let row = connection.client().query_one(sql, &[]).await.unwrap();
    row.get::<_, String>(0)
}

/// All that a person is told.
pub(super) fn told(error: &Error) -> String {
    format!(
        "{error} / {:?} / {:?} / {error:?}",
        error.causes(),
        error.advice()
    )
}

fn file(dir: &Path, name: &str, text: &str, mode: u32) -> String {
    let path = dir.join(name);
    fs_err::write(&path, text).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

/// A server that wants the password of the role `app`, by TCP and by socket.
fn with_password() -> PostgresServer {
    let running = PostgresServer::start(15, "").unwrap();
    let literal = PASSWORD.replace('\'', "''");
    running
        .psql("postgres", &format!("CREATE ROLE app LOGIN PASSWORD '{literal}'"))
        .unwrap();
    running
        .psql("postgres", "CREATE DATABASE \"a b/c\" OWNER app")
        .unwrap();
    running
        .admit("local all app scram-sha-256\nhost all app 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust")
        .unwrap();
    running
}

#[tokio::test]
async fn every_form_of_a_connection_string_reaches_the_database_it_names() {
    let running = PostgresServer::start(15, "").unwrap();
    running.psql("postgres", "CREATE DATABASE \"a b/c\"").unwrap();
    let port = running.port();
    let socket = running.socket().display().to_string();
    let encoded = socket.replace('/', "%2F");
    let none = Surroundings::default();
    for text in [
        format!("postgres://postgres@127.0.0.1:{port}/a%20b%2Fc"),
        format!("postgresql://postgres@localhost:{port}/a%20b%2Fc?application_name=x"),
        format!("postgres://postgres@{encoded}:{port}/a%20b%2Fc"),
        format!("postgres://postgres@/a%20b%2Fc?host={socket}&port={port}"),
        format!("postgres:///?host={encoded}&port={port}&user=postgres&dbname=a%20b%2Fc"),
        // The first has no server: its port is that of nobody.
        format!("postgres://postgres@127.0.0.1:1,127.0.0.1:{port}/a%20b%2Fc"),
        format!("host='{socket}' port={port} user=postgres dbname='a b/c'"),
        format!("hostaddr=127.0.0.1 port={port} user=postgres dbname='a b/c'"),
        format!("host=no.such.name.invalid hostaddr=127.0.0.1 port={port} user=postgres dbname='a b/c'"),
    ] {
        let connection = connect(&text, &none).await.unwrap();
        let database = ask(&connection, "SELECT current_database()::text").await;
        assert_eq!(database, "a b/c", "{text}");
        assert_eq!(connection.version() / 10_000, 15);
        // What was reached is one place, and another connection goes there.
        let again = connection
            .server()
            .with_database("postgres")
            .connect(&Context::deterministic(2).unwrap())
            .await
            .unwrap();
        assert_eq!(ask(&again, "SELECT current_database()::text").await, "postgres");
    }
}

#[tokio::test]
async fn passwords_come_from_all_the_places_that_libpq_has() {
    let running = with_password();
    let (port, dir) = (running.port(), tempfile::tempdir().unwrap());
    let home = dir.path();
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    let line = format!("# mine\n127.0.0.1:{port}:a b/c:app:{escaped}\n");
    file(home, ".pgpass", &line, 0o600);
    let other = file(home, "other", &format!("localhost:*:*:app:{escaped}\n"), 0o600);
    let quoted = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
    let service = file(
        home,
        ".pg_service.conf",
        &format!(
            "[no]\nport=1\n# remark\n[mine]\nhost=127.0.0.1\nport={port}\nuser=app\ndbname=a b/c\npassword={PASSWORD}\n[yes]\nport=2\n"
        ),
        0o644,
    );
    let plain = format!("postgres://app@127.0.0.1:{port}/a%20b%2Fc");
    let socket = running.socket().display().to_string();
    let variables = [
        ("PGHOST", socket.as_str()),
        ("PGPORT", &port.to_string()),
        ("PGUSER", "app"),
        ("PGDATABASE", "a b/c"),
        ("PGPASSWORD", PASSWORD),
    ];
    for (text, surroundings) in [
        (
            format!("postgres://app:{PASSWORD_IN_URL}@127.0.0.1:{port}/a%20b%2Fc"),
            around(&[], None),
        ),
        (
            format!("host=127.0.0.1 port={port} user=app dbname='a b/c' password='{quoted}'"),
            around(&[], None),
        ),
        (plain.clone(), around(&[("PGPASSWORD", PASSWORD)], None)),
        (plain.clone(), around(&[], Some(home))),
        (
            format!("{plain}?host=localhost"),
            around(&[("PGPASSFILE", &other)], None),
        ),
        (String::new(), around(&variables, None)),
        ("service=mine".to_owned(), around(&[], Some(home))),
        (
            String::new(),
            around(&[("PGSERVICE", "mine"), ("PGSERVICEFILE", &service)], None),
        ),
    ] {
        let connection = connect(&text, &surroundings).await.unwrap();
        assert_eq!(ask(&connection, "SELECT current_user::text").await, "app");
        // psql finds the same, and its arguments hold nothing.
        let output = psql(
            &connection.server().child_environment(),
            "SELECT current_user, current_database()",
        );
        assert_eq!(output.unwrap(), "app|a b/c\n");
        let seen = format!("{:?} {}", connection.server(), connection.server().description());
        assert!(!seen.contains("p@ss"), "{seen}");
    }
    // A file that others may read is not used, and that is said.
    file(home, ".pgpass", &line, 0o640);
    let server = Server::parse(&plain, &around(&[], Some(home))).unwrap();
    assert!(server.notes()[0].contains("chmod 600"), "{:?}", server.notes());
    let error = connect(&plain, &around(&[], Some(home))).await.err().unwrap();
    assert!(told(&error).contains("asks for a password"), "{error}");
    assert!(!server.has_password_in_text());
    let text = format!("postgres://app:{PASSWORD_IN_URL}@127.0.0.1/x");
    assert!(
        Server::parse(&text, &around(&[], None))
            .unwrap()
            .has_password_in_text()
    );
}

/// What Debian's psql answers with these variables and no others.
#[expect(clippy::disallowed_methods, reason = "the reference")]
pub(super) fn psql(
    environment: &[(std::ffi::OsString, std::ffi::OsString)],
    sql: &str,
) -> Result<String, String> {
    let output = std::process::Command::new("/usr/lib/postgresql/15/bin/psql")
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["-XAtqwc", sql])
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

/// A connection string, what is said of it, and a word of the advice.
type Failing = (String, &'static str, &'static str);

fn failing(port: u16) -> Vec<Failing> {
    let url = |rest: &str| format!("postgres://{}", rest.replace("PORT", &port.to_string()));
    vec![
        (
            url("app:hunter2@127.0.0.1:PORT/postgres"),
            "does not take this password",
            "%XX",
        ),
        (
            url("app@127.0.0.1:PORT/postgres"),
            "asks for a password",
            ".pgpass",
        ),
        (
            url("postgres:hunter2@127.0.0.1:PORT/nothing"),
            "no such database",
            "last part",
        ),
        (
            url("postgres:hunter2@127.0.0.1:1/x"),
            "no database server listens there",
            "port",
        ),
        (
            url("postgres:hunter2@127.0.0.1:PORT/postgres?sslmode=require"),
            "offers no TLS",
            "ssl = on",
        ),
        (
            url("app:hunter2@127.0.0.1:PORT/postgres?sslmode=allow"),
            "does not take this password",
            "%XX",
        ),
        (
            url("nobody:hunter2@127.0.0.1:PORT/postgres"),
            "does not let this role in",
            "pg_hba.conf",
        ),
        (
            url("postgres:hunter2@no.such.name.invalid/x"),
            "cannot be resolved",
            "name",
        ),
        (
            url("postgres:hunter2@%2Fno%2Fsuch/x"),
            "no database server has a socket there",
            "start",
        ),
        (
            url("postgres:hunter2@127.0.0.1:PORT/x?target_session_attrs=standby"),
            "no such database",
            "",
        ),
        (
            url("postgres:hunter2@127.0.0.1:PORT/postgres?target_session_attrs=standby"),
            "it is no standby",
            "target",
        ),
    ]
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_says_what_to_do() {
    let running = with_password();
    let port = running.port();
    let none = Surroundings::default();
    for (text, what, hint) in failing(port) {
        let error = connect(&text, &none).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Source, "{text}");
        assert!(error.what().contains(what), "{text}: {}", told(&error));
        assert!(error.advice().unwrap().contains(hint), "{text}: {}", told(&error));
        assert!(error.context("server").is_some(), "{text}: {}", told(&error));
        assert!(!told(&error).contains("hunter2"), "{}", told(&error));
    }
}

#[tokio::test]
async fn what_a_connection_string_asks_for_in_vain_is_named() {
    let none = Surroundings::default();
    let missing = connect("service=nothing", &none).await.err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let wrong = connect("postgres://u@h/d?sslmode=maybe", &none)
        .await
        .err()
        .unwrap();
    assert_eq!(wrong.context("parameter"), Some("sslmode"));
    assert!(wrong.advice().unwrap().contains("verify-full"));
}

proptest::proptest! {
    /// What is read is read again to the same, and what is not says nothing of it.
    #[test]
    fn any_text_is_read_or_refused(text in "(postgres(ql)?://)?[a-z%@:/?#\\[\\],=& 0-9'\\\\\u{e4}]{0,60}") {
        holdall::testkit::fuzz::run("connection", text.as_bytes());
    }

    #[test]
    fn no_password_is_ever_shown(password in "[!-~\u{e4}]{8,20}", front in "[a-z:/?@=&%']{0,3}") {
        let text = format!("postgres://{front}u:{password}@h:1/d");
        let said = match Server::parse(&text, &Surroundings::default()) {
            // A password with an @, a / or a % is cut elsewhere, as libpq cuts it.
            Ok(_) => return Ok(()),
            Err(error) => told(&error),
        };
        proptest::prop_assert!(!said.contains(&password), "{said}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = Instant::now();
    let text = format!("postgres://u:hunter2@127.0.0.1:{port}/d?connect_timeout=1");
    let error = connect(&text, &Surroundings::default()).await.err().unwrap();
    assert!(error.what().contains("does not answer"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    // Ctrl-C does not wait for that.
    let context = Context::deterministic(1).unwrap();
    context.cancel.cancel();
    let server = Server::parse(&text, &Surroundings::default()).unwrap();
    let error = server.connect(&context).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_statement_can_be_cancelled_from_outside() {
    let running = PostgresServer::start(15, "").unwrap();
    let connection = connect(&running.url("postgres"), &Surroundings::default())
        .await
        .unwrap();
    let token = connection.cancel_token();
    let sleep = connection.client().simple_query("SELECT pg_sleep(60)");
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel().await.unwrap();
    };
    let (ended, ()) = futures::join!(sleep, cancel);
    assert_eq!(ended.unwrap_err().code().unwrap().code(), "57014");
}

#[tokio::test]
async fn poolers_are_refused_in_transaction_mode_and_taken_in_session_mode() {
    let running = PostgresServer::start(15, "").unwrap();
    let none = Surroundings::default();
    for size in [1, 5] {
        let pooler = PgBouncer::start(&running, "transaction", size).unwrap();
        let error = connect(&pooler.url("postgres"), &none).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Refused, "{}", told(&error));
        assert!(error.advice().unwrap().contains("session"));
    }
    let pooler = PgBouncer::start(&running, "session", 5).unwrap();
    let connection = connect(&pooler.url("postgres"), &none).await.unwrap();
    assert_eq!(ask(&connection, "SELECT current_user::text").await, "postgres");
    let text = "postgres://postgres.abc:hunter2@aws-0-eu-central-1.pooler.supabase.com:6543/postgres";
    let error = Server::parse(text, &none).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let hint = "postgres://postgres.abc@aws-0-eu-central-1.pooler.supabase.com:5432/postgres";
    assert!(error.advice().unwrap().contains(hint), "{}", told(&error));
    assert!(!told(&error).contains("hunter2"));
}

#[tokio::test]
async fn a_session_that_ends_within_a_transaction_says_so_to_the_server() {
    let running = PostgresServer::start(15, "log_disconnections = on").unwrap();
    let url = running.url("postgres");
    for _ in 0..20 {
        let connection = connect(&url, &Surroundings::default()).await.unwrap();
        connection
            .client()
            .batch_execute("BEGIN; SELECT 1")
            .await
            .unwrap();
    }
    let log = || std::fs::read_to_string(running.socket().join("log")).unwrap();
    let ended = || log().matches("disconnection: session time").count();
    let begun = Instant::now();
    while ended() < 20 && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(ended() >= 20 && !log().contains("unexpected EOF"), "{}", log());
}

/// One that gives each transaction the backend that has rested longest: the second session does not get the first's.
#[tokio::test]
async fn a_pooler_that_takes_its_backends_in_turn_is_refused_too() {
    let running = PostgresServer::start(15, "").unwrap();
    let pooler = PgBouncer::start_with(&running, "transaction", 3, "server_round_robin = 1").unwrap();
    // So that all three are open.
    let url = pooler.url("postgres");
    let slow = ["-X", "-q", "-d", &url, "-c", "SELECT pg_sleep(2)"];
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert!(running.run("psql", &slow).unwrap().status.success()));
        }
    });
    let error = connect(&url, &Surroundings::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused, "{}", told(&error));
    assert!(error.what().contains("transaction mode"), "{}", told(&error));
}

/// What a pooler keeps of a session may be true of one statement only: what was set is asked for by another.
#[tokio::test]
async fn a_setting_that_does_not_last_is_noticed_before_anything_is_read() {
    let running = PostgresServer::start(15, "timezone = 'Asia/Tokyo'").unwrap();
    let forgets = "ALTER FUNCTION pg_catalog.set_config(text, text, boolean) RENAME TO set_config_itself;
        CREATE FUNCTION pg_catalog.set_config(text, text, boolean) RETURNS text LANGUAGE sql
        AS 'SELECT pg_catalog.set_config_itself($1, $2, true)'";
    running.psql("postgres", forgets).unwrap();
    let error = take(&request(&running, "postgres"), None, 1).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Source, "{}", told(&error));
    assert!(
        error.what().contains("did not take a setting"),
        "{}",
        told(&error)
    );
    assert!(
        error.advice().unwrap().contains("session mode"),
        "{}",
        told(&error)
    );
}
