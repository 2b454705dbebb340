//! Databases on the command line.
#![expect(
    clippy::disallowed_methods,
    reason = "the test runs the program as its user does"
)]

use crate::{features, handmade, source};
use holdall::connector::Source;
use holdall::context::Context;
use holdall::ops;
use holdall::testkit::collect::Collected;
use holdall::testkit::{PostgresServer, repo};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// A repository that holds one snapshot, and the program that reads it.
struct Repository {
    dir: tempfile::TempDir,
}

impl Repository {
    async fn of(server: &PostgresServer, databases: &[&str]) -> Self {
        let mut snapshot = Collected::default();
        for database in databases {
            let one = handmade::snapshot(server, database, "CREATE ROLE newcomer;\n").await;
            snapshot.entries.extend(one.entries);
        }
        let dir = tempfile::tempdir().unwrap();
        let context = Context::deterministic(1).unwrap();
        let store = repo::local(&dir.path().join("repo"), &context);
        let repository = repo::init(&store, &context).await.unwrap();
        let mut sources: Option<Vec<Box<dyn Source>>> = Some(vec![Box::new(handmade::Again(snapshot))]);
        let mut open = || Ok(sources.take());
        ops::snapshot(&context, &repository, &repo::request(), &mut open)
            .await
            .unwrap();
        fs_err::write(dir.path().join("key"), [42; 32]).unwrap();
        Self { dir }
    }

    /// A new one, made by the program itself.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key").display().to_string();
        let repository = Self { dir };
        repository.text(0, &["init", "--generate-key-file", &key]);
        repository
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let path = |name: &str| -> std::path::PathBuf { Path::new(self.dir.path()).join(name) };
        let program = std::env::var_os("HOLDALL_TEST_BINARY");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_holdall").into());
        Command::new(program)
            .args(arguments)
            .env_clear()
            .env("HOLDALL_REPOSITORY", path("repo"))
            .env("HOLDALL_KEY_FILE", path("key"))
            .env("HOME", path("home"))
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }

    /// What a command prints that ends with this code.
    fn text(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.text(0, &[&["--json"], arguments].concat());
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

const SHOP: &str = r#"CREATE TABLE orders (id int PRIMARY KEY, what text);
    INSERT INTO orders SELECT n, E'tab\t' || n FROM generate_series(1, 120) n;
    CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."C d" (x int); INSERT INTO "a.b"."C d" VALUES (7);
    CREATE TABLE logs (x int); INSERT INTO logs VALUES (1), (2); CREATE SEQUENCE numbers; SELECT lo_from_bytea(7, 'seven');"#;

#[tokio::test]
async fn tables_are_listed_shown_and_restored_by_their_names() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE shop").unwrap();
    server.psql("shop", SHOP).unwrap();
    let repository = Repository::of(&server, &["shop"]).await;

    let listed = repository.text(0, &["ls", "latest"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines[0], "shop");
    assert!(lines.contains(&"\"a.b\".\"C d\"  1 row, 2 B"), "{listed}");
    assert!(
        lines.iter().any(|l| l.starts_with("public.orders  120 rows, ")),
        "{listed}"
    );
    assert!(!listed.contains("block"));
    let nodes = repository.json(&["ls", "latest"]);
    let orders = nodes.iter().find(|node| node["path"] == "public.orders").unwrap();
    let bytes = server.psql("shop", "COPY orders TO STDOUT").unwrap();
    for (field, value) in [
        ("type", Value::from("table")),
        ("name", "public.orders".into()),
        ("database", "shop".into()),
        ("schema", "public".into()),
        ("table", "orders".into()),
        ("rows", 120.into()),
        ("size", bytes.len().into()),
    ] {
        assert_eq!(orders[field], value, "{field} of {orders}");
    }

    assert_eq!(repository.text(0, &["cat", "latest", "public.orders"]), bytes);
    assert_eq!(repository.text(0, &["cat", "latest", "ORDERS"]), bytes);
    assert_eq!(repository.text(0, &["cat", "latest", "\"a.b\".\"C d\""]), "7\n");
    assert!(
        repository
            .text(0, &["cat", "latest", "1-schema"])
            .contains("CREATE TABLE public.orders")
    );
    repository.text(1, &["cat", "latest", "public.nothing"]);

    server.psql("postgres", "CREATE DATABASE again").unwrap();
    let url = server.url("again");
    let plan = repository.text(0, &["restore", "latest", "--target", &url, "--dry-run"]);
    assert!(plan.contains("public.orders  120 rows, "), "{plan}");
    assert!(plan.contains("role newcomer, without a password"), "{plan}");
    assert_eq!(
        server
            .psql("again", "SELECT count(*) FROM pg_class WHERE relname = 'orders'")
            .unwrap(),
        "0\n"
    );
    let lines = repository.json(&["restore", "latest", "--target", &url]);
    let summary = lines.last().unwrap();
    for (field, value) in [
        ("message_type", Value::from("summary")),
        ("database", "shop".into()),
        ("target_database", "again".into()),
        ("rows", 123.into()),
        ("statements_refused", 0.into()),
        ("failed", 0.into()),
        ("tables_different", 0.into()),
        ("different", 0.into()),
        ("sequences", 1.into()),
        ("sequences_compared_equal", 1.into()),
        ("large_objects", 1.into()),
        ("large_objects_compared_equal", 1.into()),
        ("verified", true.into()),
        ("roles_created", vec!["newcomer"].into()),
    ] {
        assert_eq!(summary[field], value, "{field} of {summary}");
    }
    let same = |name| features::sorted(&features::dump(&server, name, &[]));
    features::assert_same(&same("again"), &same("shop"));
    // The target is not empty any more.
    repository.text(14, &["restore", "latest", "--target", &url]);
}

#[tokio::test]
async fn rows_are_chosen_by_table_and_what_is_refused_ends_with_3() {
    let server = PostgresServer::start(15, "").unwrap();
    server.psql("postgres", "CREATE DATABASE shop").unwrap();
    server.psql("shop", SHOP).unwrap();
    let repository = Repository::of(&server, &["shop"]).await;
    for name in ["one", "others"] {
        server
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
    }
    let rows = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM logs), (SELECT count(*) FROM \"a.b\".\"C d\")";
    let target = server.url("one");
    repository.text(
        0,
        &[
            "restore",
            "latest",
            "--target",
            &target,
            "--include",
            "public.orders",
        ],
    );
    assert_eq!(server.psql("one", rows).unwrap(), "120|0|0\n");
    let target = server.url("others");
    repository.text(
        0,
        &[
            "restore",
            "latest",
            "--target",
            &target,
            "--exclude",
            "orders",
            "--jobs",
            "1",
        ],
    );
    assert_eq!(server.psql("others", rows).unwrap(), "0|2|1\n");
    repository.text(
        1,
        &["restore", "latest", "--target", &target, "--include", "no.such"],
    );
    repository.text(2, &["restore", "latest", "--target", &target, "--delete"]);
    repository.text(
        1,
        &["restore", "latest", "--target", &target, "--database", "other"],
    );

    server.psql("postgres", "CREATE ROLE limited LOGIN").unwrap();
    server
        .psql("postgres", "CREATE DATABASE theirs OWNER limited")
        .unwrap();
    let target = format!("postgres://limited@127.0.0.1:{}/theirs", server.port());
    let output = repository.run(&["restore", "latest", "--target", &target]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("ALTER TABLE public.orders OWNER TO postgres;: 42501: "),
        "{said}"
    );
    assert_eq!(server.psql("theirs", rows).unwrap(), "120|2|1\n");
}

#[tokio::test]
async fn of_several_databases_one_is_chosen_by_name() {
    let server = PostgresServer::start(15, "").unwrap();
    for (name, id) in [("shop", 1), ("wiki", 2)] {
        server
            .psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
        let fill = format!("CREATE TABLE orders AS SELECT {id} AS id");
        server.psql(name, &fill).unwrap();
    }
    server
        .psql("wiki", "CREATE TABLE pages AS SELECT 3 AS id")
        .unwrap();
    let repository = Repository::of(&server, &["shop", "wiki"]).await;
    let output = repository.run(&["cat", "latest", "public.orders"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--database: shop, wiki"), "{said}");
    assert!(output.stdout.is_empty());
    let cat = |name, table| repository.text(0, &["cat", "latest", table, "--database", name]);
    assert_eq!(
        (cat("shop", "orders"), cat("wiki", "orders")),
        ("1\n".into(), "2\n".into())
    );
    assert!(cat("wiki", "1-schema").contains("CREATE TABLE public.pages"));
    assert_eq!(repository.text(0, &["cat", "latest", "pages"]), "3\n");
    repository.text(1, &["cat", "latest", "pages", "--database", "shop"]);
    repository.text(1, &["cat", "latest", "orders", "--database", "nowhere"]);
    let listed = repository.text(0, &["ls", "latest", "--database", "shop"]);
    assert!(
        listed.contains("public.orders") && !listed.contains("pages"),
        "{listed}"
    );
}

const PROJECT: &str = "CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE orders (id serial PRIMARY KEY, customer int NOT NULL REFERENCES customers, note text);
    CREATE TABLE events (at timestamptz, what jsonb) PARTITION BY RANGE (at);
    CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE MATERIALIZED VIEW busy AS SELECT customer, count(*) FROM orders GROUP BY customer;
    INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 2000) n;
    INSERT INTO orders (customer, note) SELECT 1 + n % 2000, repeat(md5(n::text), 4) FROM generate_series(1, 60000) n;
    INSERT INTO events SELECT '2025-03-01'::timestamptz + n * interval '1 minute', jsonb_build_object('n', n) FROM generate_series(1, 20000) n;";

/// A hundredth of the orders, next to each other as what is new mostly is. Rows keep their length: shorter ones would go
/// wherever a page has some room left.
const DAY: &str = "UPDATE orders SET note = repeat('sent', 32) WHERE id > 59700;
    INSERT INTO orders (customer, note) SELECT 1 + n, repeat('new.', 32) FROM generate_series(1, 300) n;
    DELETE FROM customers WHERE id = 2000 AND NOT EXISTS (SELECT FROM orders WHERE customer = 2000);";

#[tokio::test]
async fn a_database_goes_through_snapshots_and_back_and_only_changes_are_read() {
    let server = PostgresServer::start(15, source::DURABLE).unwrap();
    let database = |name: &str| {
        let sql = format!("CREATE DATABASE {name}");
        server.psql("postgres", &sql).unwrap();
        server.url(name)
    };
    let sorted = |name| features::sorted(&features::dump(&server, name, &[]));
    let shop = database("shop");
    server.psql("shop", PROJECT).unwrap();
    let repository = Repository::new();
    let take = || {
        let lines = repository.json(&["snapshot", &shop, "--project", "shop"]);
        let summary = lines.last().unwrap().clone();
        assert_eq!(summary["status"], "complete", "{summary}");
        assert_eq!(summary["incidents"], 0, "{summary}");
        summary
    };

    let (first, then) = (take(), sorted("shop"));
    server.psql("shop", DAY).unwrap();
    let (second, now) = (take(), sorted("shop"));
    let number = |summary: &Value, name: &str| summary[name].as_u64().unwrap();
    let (all, changed) = (number(&first, "bytes_read"), number(&second, "bytes_read"));
    assert!(all > 8_000_000, "{first}");
    assert!(
        changed > 0 && changed < all / 10,
        "{changed} of {all} read: {second}"
    );
    assert!(number(&second, "data_added") < all / 10, "{second}");
    assert_eq!(second["parent"], first["snapshot_id"]);

    let nodes = repository.json(&["ls", "latest"]);
    let node = |path: &str| nodes.iter().find(|node| node["path"] == path).unwrap();
    let orders = node("public.orders");
    assert_eq!(
        (&orders["rows"], &orders["read"]),
        (&60300.into(), &"changes".into())
    );
    assert!(
        number(orders, "ranges_read") < number(orders, "ranges"),
        "{orders}"
    );
    for same in ["public.customers", "public.events_2025"] {
        assert_eq!(node(same)["read"], "taken over", "{}", node(same));
    }
    let long = repository.text(0, &["ls", "latest", "--long"]);
    assert!(long.contains("taken over") && long.contains(" ranges"), "{long}");

    let rows = |text: String| {
        let mut rows: Vec<String> = text.lines().map(str::to_owned).collect();
        rows.sort_unstable();
        rows
    };
    let shown = repository.text(0, &["cat", "latest", "public.orders"]);
    let copied = server.psql("shop", "COPY orders TO STDOUT").unwrap();
    assert!(rows(shown) == rows(copied), "cat shows other rows");

    what_changed_is_told_by_table(&repository);
    repository.text(0, &["check", "--read-data"]);
    for (snapshot, name, expected) in [("latest~1", "shop_then", &then), ("latest", "shop_now", &now)] {
        let lines = repository.json(&["restore", snapshot, "--target", &database(name)]);
        assert_eq!(lines.last().unwrap()["tables_different"], 0);
        features::assert_same(&sorted(name), expected);
    }
}

#[tokio::test]
async fn a_snapshot_of_a_choice_is_no_parent_of_a_whole_one() {
    let server = PostgresServer::start(15, source::DURABLE).unwrap();
    server.psql("postgres", SHOP).unwrap();
    let url = server.url("postgres");
    let repository = Repository::new();
    let take = |more: &[&str]| {
        let lines = repository.json(&[&["snapshot", &url, "--type", "data"], more].concat());
        lines.last().unwrap().clone()
    };
    let whole = take(&[]);
    let chosen = take(&["--table", "logs"]);
    assert_eq!(chosen["parent"], Value::Null);
    let again = take(&[]);
    assert_eq!(again["parent"], whole["snapshot_id"]);
    let chosen_again = take(&["--table", "logs"]);
    assert_eq!(chosen_again["parent"], chosen["snapshot_id"]);
    // Told to rest on one that lacks tables, it takes their absence for unread, not for dropped.
    let id = chosen["snapshot_id"].as_str().unwrap();
    take(&["--parent", id]);
    for table in ["public.orders", "public.logs"] {
        let copied = server
            .psql("postgres", &format!("COPY {table} TO STDOUT"))
            .unwrap();
        assert_eq!(repository.text(0, &["cat", "latest", table]), copied);
    }
}

fn what_changed_is_told_by_table(repository: &Repository) {
    let mut differences = repository.json(&["diff", "latest~1", "latest"]);
    let summary = differences.pop().unwrap();
    let differing: Vec<&str> = differences.iter().filter_map(|d| d["path"].as_str()).collect();
    assert!(differing.contains(&"public.orders"), "{differences:?}");
    assert!(!differing.contains(&"public.customers"), "{differences:?}");
    let orders = differences.iter().find(|d| d["path"] == "public.orders").unwrap();
    assert_eq!(
        (&orders["modifier"], &orders["after"]["rows"]),
        (&"M".into(), &60300.into())
    );
    let rows = |side: &str| orders[side]["rows"].as_u64().unwrap();
    let more = rows("after") - rows("before");
    assert_eq!(summary["added"]["rows"], more, "{summary}");
    let found = repository.json(&["find", "customers", "--ignore-case"]);
    assert_eq!(found.len(), 1, "one version: {found:?}");
    assert_eq!(
        (&found[0]["path"], &found[0]["snapshots"]),
        (&"public.customers".into(), &2.into())
    );
}

const WARNING: &str = "a password on the command line";

#[tokio::test]
async fn the_environment_names_the_database_and_typed_passwords_are_warned_of() {
    let server = PostgresServer::start(15, source::DURABLE).unwrap();
    let repository = Repository::new();
    let plain = server.url("postgres");
    let secret = plain.replacen("postgres@", "postgres:s3cret@", 1);
    assert_ne!(plain, secret);
    let said = |output: Output| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
        text
    };
    for name in ["HOLDALL_DB_URL", "SUPABASE_DB_URL"] {
        let text = said(repository.run_with(&["snapshot"], &[(name, &secret)]));
        assert!(!text.contains(WARNING), "{text}");
    }
    assert!(said(repository.run(&["snapshot", &secret])).contains(WARNING));
    assert!(!said(repository.run(&["snapshot", &plain])).contains(WARNING));

    // A file that others may read is not used, and that is told even if no password is needed.
    let passfile = repository.dir.path().join("passfile");
    fs_err::write(&passfile, "*:*:*:*:s3cret\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs_err::set_permissions(&passfile, mode).unwrap();
    let passfile = passfile.display().to_string();
    let variables = [("PGPASSFILE", passfile.as_str())];
    let text = said(repository.run_with(&["snapshot", &plain], &variables));
    assert!(text.contains("is not used"), "{text}");

    server.psql("postgres", "CREATE DATABASE again").unwrap();
    let target = server.url("again").replacen("postgres@", "postgres:s3cret@", 1);
    let text = said(repository.run(&["restore", "latest", "--target", &target]));
    assert!(text.contains(WARNING), "{text}");
}
