//! Random work on a server, and after each round a snapshot of what changed beside a full one: they must agree, table by table. Twenty
//! seconds a version; hours by
//! `HOLDALL_SOAK_SECONDS=7200 cargo test --test postgres soak -- --nocapture`. What fails names the command that does the same again:
//! `HOLDALL_SOAK_SEED` is what all is drawn from, `HOLDALL_SOAK_ROUNDS` ends it behind so many rounds instead of by the clock.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a seed that failed is to be seen"
)]

use crate::source::{Taken, assert_same_rows, content, request, take};
use holdall::connector::postgres::key::{self, Place};
use holdall::connector::postgres::record::How;
use holdall::context::{Clock, SystemClock};
use holdall::testkit::PostgresServer;
use holdall::testkit::arbitrary::Gen;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// How long a version is worked on, unless told otherwise.
const SECONDS: u64 = 20;
/// States matter here, so the log is safe; but commits do not wait for it, so that crashes lose some.
const SETTINGS: &str = "fsync = on\nfull_page_writes = on\nsynchronous_commit = off\nwal_writer_delay = 20ms\nautovacuum = off\n\
    max_prepared_transactions = 8\nlock_timeout = 300ms\nclient_min_messages = error\nrestart_after_crash = on";
const TABLES: [&str; 4] = ["orders", "long", "low", "high"];
const ROWS: u64 = 12_000;

const TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad'); CREATE TYPE pair AS (a int, b text)";

/// Makes a table, and what fills it from one number to another.
fn create(table: &str) -> String {
    let columns = match table {
        "orders" => {
            "(id int PRIMARY KEY, part int, note text, mood mood, pair pair, at timestamptz) WITH (fillfactor = 80)"
        }
        "long" => {
            "(id int PRIMARY KEY, part int, note text); ALTER TABLE long ALTER note SET STORAGE EXTERNAL"
        }
        _ => {
            return "CREATE TABLE parted (id int, part int, note text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
                CREATE TABLE low PARTITION OF parted FOR VALUES IN (0);
                CREATE TABLE high PARTITION OF parted FOR VALUES IN (1)"
                .to_owned();
        }
    };
    format!("CREATE TABLE {table} {columns}")
}

fn fill(table: &str, from: u64, to: u64, note: &str) -> String {
    let rows = format!("generate_series({from}, {to}) g ON CONFLICT DO NOTHING");
    match table {
        "orders" => format!(
            "INSERT INTO orders (id, part, note, mood, pair, at) SELECT g, g % 2, repeat('{note}', 20),
             (enum_range(NULL::mood))[1 + g % 3], NULL::pair, '2026-01-01Z'::timestamptz + g * interval '1 minute' FROM {rows}"
        ),
        "long" => format!(
            "INSERT INTO long SELECT g, g % 2, repeat(md5(g::text), 100) || '{note}' FROM generate_series({from}, \
             LEAST({to}, {from} + 40)) g ON CONFLICT DO NOTHING"
        ),
        _ => format!("INSERT INTO parted SELECT g, g % 2, repeat('{note}', 10) FROM {rows}"),
    }
}

/// A server, what happens to it, and what happened.
struct Soak {
    server: PostgresServer,
    random: Gen,
    major: u32,
    seed: u64,
    round: u64,
    /// What was done in this round and the one before.
    done: Vec<String>,
    prepared: Vec<String>,
}

impl Drop for Soak {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (major, seed, round, done) = (self.major, self.seed, self.round, self.done.join("\n  "));
            eprintln!("round {round} failed after\n  {done}\nreplay it with");
            let variables = format!("HOLDALL_SOAK_SEED={seed} HOLDALL_SOAK_ROUNDS={round}");
            eprintln!("{variables} cargo test --test postgres soak_of_{major} -- --nocapture");
        }
    }
}

impl Soak {
    fn start(major: u32, seed: u64) -> Self {
        let summaries = if major >= 17 { "summarize_wal = on" } else { "" };
        let server = PostgresServer::start(major, &format!("{SETTINGS}\n{summaries}")).unwrap();
        server.psql("postgres", TYPES).unwrap();
        for table in ["orders", "long", "parted"] {
            server.psql("postgres", &create(table)).unwrap();
            server.psql("postgres", &fill(table, 1, ROWS, "first")).unwrap();
        }
        let random = Gen::new(seed);
        Self {
            server,
            random,
            major,
            seed,
            round: 0,
            done: Vec::new(),
            prepared: Vec::new(),
        }
    }

    fn draw(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    /// Runs statements; only waiting for a lock that a prepared transaction holds is forgiven.
    fn run(&mut self, sql: &str) {
        self.done.push(sql.to_owned());
        if let Err(error) = self.server.psql("postgres", sql) {
            let text = format!("{error:?}");
            assert!(text.contains("lock timeout"), "{sql}: {text}");
            self.done
                .push("  which waited for a lock and was given up".to_owned());
        }
    }

    /// One of the tables that statements name.
    fn table(&mut self) -> &'static str {
        ["orders", "orders", "long", "parted"][self.random.index(4)]
    }

    /// A table with rows of its own.
    fn leaf(&mut self) -> &'static str {
        TABLES[self.random.index(TABLES.len())]
    }

    fn interval(&mut self) -> (u64, u64) {
        let from = 1 + self.draw(ROWS + 2000);
        (from, from + self.draw(300))
    }

    fn step(&mut self) {
        match self.draw(100) {
            0..60 => {
                let sql = self.write();
                self.run(&sql);
            }
            60..66 => self.prepare(),
            66..78 => self.tidy(),
            78..92 => self.alter(),
            92..99 => self.crash_of_a_process(),
            _ => self.crash(),
        }
    }

    /// Changes rows.
    fn write(&mut self) -> String {
        let table = self.table();
        let (from, to) = self.interval();
        let note = format!("r{}", self.round);
        let rows = format!("id BETWEEN {from} AND {to}");
        let insert = fill(table, from, to, &note);
        match self.draw(9) {
            0 => format!("DELETE FROM {table} WHERE {rows}"),
            1 => format!("UPDATE {table} SET note = note || '{note}' WHERE {rows}"),
            2 => format!("UPDATE {table} SET note = note || '{note}' WHERE id = {from}"),
            3 => insert,
            4 => format!(
                "INSERT INTO {table} (id, part, note) SELECT g, g % 2, '{note}' FROM generate_series({from}, {to}) g
                 ON CONFLICT (id{}) DO UPDATE SET note = EXCLUDED.note",
                if table == "parted" { ", part" } else { "" }
            ),
            5 => format!("BEGIN; UPDATE {table} SET note = 'never' WHERE {rows}; {insert}; ROLLBACK"),
            6 => format!(
                "BEGIN; SAVEPOINT a; DELETE FROM {table} WHERE {rows}; SAVEPOINT b; {insert}; ROLLBACK TO b;
                 UPDATE {table} SET note = 'b' WHERE id = {from}; {}; COMMIT",
                if self.random.coin() { "ROLLBACK TO a" } else { "RELEASE a" }
            ),
            // The same rows at the same places, if they find room there.
            7 => format!("DELETE FROM {table} WHERE {rows}; {insert}"),
            _ => format!("UPDATE parted SET part = 1 - part WHERE {rows} AND id % 3 = 0 AND NOT EXISTS
                 (SELECT FROM parted o WHERE o.id = parted.id AND o.part <> parted.part)"),
        }
    }

    /// Leaves a transaction open over snapshots, or ends one.
    fn prepare(&mut self) {
        if self.prepared.is_empty() {
            let (table, (from, to)) = (self.table(), self.interval());
            let name = format!("p{}_{}", self.round, self.done.len());
            let before = self.done.len();
            self.run(&format!(
                "BEGIN; UPDATE {table} SET note = 'prepared' WHERE id BETWEEN {from} AND {to}; PREPARE TRANSACTION '{name}'"
            ));
            if self.done.len() == before + 1 {
                self.prepared.push(name);
            }
        } else {
            self.decide();
        }
    }

    fn decide(&mut self) {
        if let Some(name) = self.prepared.pop() {
            let verb = if self.random.coin() { "COMMIT" } else { "ROLLBACK" };
            self.run(&format!("{verb} PREPARED '{name}'"));
        }
    }

    /// Moves rows, or what is known of them, without changing them; or takes them all.
    fn tidy(&mut self) {
        let leaf = self.leaf();
        let sql = match self.draw(16) {
            0..6 => format!("VACUUM {leaf}"),
            6..10 => format!("VACUUM (FREEZE) {leaf}"),
            10 => "CHECKPOINT".to_owned(),
            11 => format!("VACUUM FULL {leaf}"),
            12 => format!("CLUSTER {leaf} USING {leaf}_pkey"),
            13 => format!("TRUNCATE {leaf}"),
            14 => format!("REINDEX TABLE {leaf}"),
            _ => format!("DELETE FROM {leaf}"),
        };
        self.run(&sql);
        if sql.starts_with("TRUNCATE") || sql.starts_with("DELETE") {
            let table = if ["low", "high"].contains(&leaf) {
                "parted"
            } else {
                leaf
            };
            let again = fill(table, 1, ROWS, "again");
            self.run(&again);
        }
    }

    /// Changes how rows are read.
    fn alter(&mut self) {
        let (table, column) = (self.table(), self.draw(3));
        let number = self.draw(1000);
        let mark = format!("{}_{}", self.round, self.done.len());
        let sql = match self.draw(11) {
            0 => format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS c{column} int DEFAULT {number}"),
            1 => format!("ALTER TABLE {table} DROP COLUMN IF EXISTS c{column}"),
            2 => format!("ALTER TABLE {table} ALTER note TYPE varchar"),
            3 => format!("ALTER TABLE {table} ALTER note TYPE text"),
            4 => "ALTER TABLE orders ALTER part TYPE bigint".to_owned(),
            5 => "ALTER TABLE orders ALTER part TYPE int".to_owned(),
            6 | 7 => format!(
                "DO $$ BEGIN EXECUTE format('ALTER TYPE mood RENAME VALUE %L TO %L', (SELECT enumlabel FROM pg_enum
                 WHERE enumtypid = 'mood'::regtype ORDER BY enumsortorder LIMIT 1 OFFSET {column}), 'm{mark}'); END $$"
            ),
            8 => format!(
                "DO $$ BEGIN IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pair'::regclass AND attname = 'c{column}')
                 THEN ALTER TYPE pair DROP ATTRIBUTE c{column}; ELSE ALTER TYPE pair ADD ATTRIBUTE c{column} int; END IF; END $$"
            ),
            9 => "ALTER TABLE parted DETACH PARTITION high; ALTER TABLE parted ATTACH PARTITION high FOR VALUES IN (1)"
                .to_owned(),
            _ => format!(
                "DROP TABLE {table}; {}; {}",
                create(table),
                fill(table, 1, ROWS, "new")
            ),
        };
        self.run(&sql);
    }

    /// A server's process ends while it writes: all of them start again, under the same main process, without what the log had not
    /// yet of the last commits. Their transactions' numbers are given out again.
    fn crash_of_a_process(&mut self) {
        let (table, (from, to)) = (self.table(), self.interval());
        let insert = fill(table, from, to, "lost");
        let written = self.random.coin();
        let last = if written {
            format!("BEGIN; {insert}; COMMIT;")
        } else {
            String::new()
        };
        self.done.push(format!("{last} and kill of the process"));
        kill_a_process(&self.server, &last);
        if written && self.random.coin() {
            let again = fill(table, from, to, "found");
            self.run(&again);
        }
    }

    /// The server ends without order, and is started.
    fn crash(&mut self) {
        let (table, (from, to)) = (self.table(), self.interval());
        let insert = fill(table, from, to, "lost");
        self.run(&insert);
        if self.random.coin() {
            self.done.push("kill of the server".to_owned());
            self.server.kill().unwrap();
        } else {
            self.done.push("immediate stop of the server".to_owned());
            self.server.stop("immediate").unwrap();
        }
        self.server.control(&["start"]).unwrap();
    }
}

/// Ends a process of the server as `kill -9` does, behind some statements of it, and waits until the others have begun anew. The main
/// process stays.
pub(crate) fn kill_a_process(server: &PostgresServer, last: &str) {
    let checkpointer = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
    let before = server.psql("postgres", checkpointer).unwrap();
    let kill = "COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'";
    let lost = server.psql("postgres", &format!("{last}{kill}"));
    let lost = format!("{:?}", lost.unwrap_err());
    if lost.contains("lock timeout") {
        return kill_a_process(server, "");
    }
    let begun = Instant::now();
    // The main process may take connections once more before it notices.
    let anew = || {
        server
            .psql("postgres", checkpointer)
            .is_ok_and(|now| now != before && !now.is_empty())
    };
    while !anew() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{lost}: {}",
            server.log_tail()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Everything but the rows and the report: what tables are, and what else a snapshot keeps.
fn described(taken: &Taken) -> String {
    let mut text = String::new();
    for record in &taken.records {
        match key::parse(&record.key) {
            Some((_, Place::Segment(..) | Place::Report)) => {}
            _ => writeln!(text, "{} {:?} {:?}", record.key, record.metadata, content(record)).unwrap(),
        }
    }
    text
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap())
}

async fn soak(major: u32) {
    let time = u64::from(SystemClock.now().nanos);
    let seed = number("HOLDALL_SOAK_SEED").unwrap_or(time);
    let length = Duration::from_secs(number("HOLDALL_SOAK_SECONDS").unwrap_or(SECONDS));
    let rounds = number("HOLDALL_SOAK_ROUNDS");
    let mut soak = Soak::start(major, seed);
    let mut request = request(&soak.server, "postgres");
    request.session.summarized_blocks = 0;
    let mut before = take(&request, None, seed).await.unwrap();
    let (begun, mut taken_over, mut changes, mut full, mut kept) = (Instant::now(), 0, 0, 0, 0);
    let mut by_summaries = 0;
    let mut worked = Duration::ZERO;
    while match rounds {
        Some(rounds) => soak.round < rounds,
        None => begun.elapsed() < length || soak.round < 5,
    } {
        soak.round += 1;
        soak.done.push(format!("round {}", soak.round));
        let round = Instant::now();
        for _ in 0..=soak.draw(4) {
            soak.step();
        }
        worked += round.elapsed();
        // Summaries end at checkpoints: asked for here, by what was done above, or too early.
        request.session.checkpoint = major >= 17 && soak.random.coin();
        let after = take(&request, Some(&before), seed + soak.round).await.unwrap();
        let whole = take(&request, None, seed).await.unwrap();
        assert_same_rows(&after, &whole);
        assert_eq!(described(&after), described(&whole));
        assert!(after.incidents.is_empty(), "{:?}", after.incidents);
        // A sample that differs would be told here.
        assert!(after.notes.is_empty(), "{:?}", after.notes);
        for line in after.report() {
            *match line.how {
                How::TakenOver => &mut taken_over,
                How::Changes => &mut changes,
                How::Full => &mut full,
            } += 1;
            kept += line.ranges - line.ranges_read;
            by_summaries += u64::from(line.why.contains("WAL summaries"));
        }
        before = after;
        let last = soak.done.iter().rposition(|done| done.starts_with("round "));
        soak.done.drain(..last.unwrap_or(0));
    }
    println!(
        "PostgreSQL {major}, seed {seed}: {} rounds, {} s of {} s at work; of the tables {taken_over} were taken over, {changes} compared, {full} read \
         in full; {kept} ranges kept unread, {by_summaries} tables by WAL summaries",
        soak.round,
        worked.as_secs(),
        begun.elapsed().as_secs(),
    );
    let compared = taken_over + changes > 0 && kept > 0;
    assert!(compared || rounds.is_some(), "nothing was compared");
    let summarized = by_summaries > 0 || major < 17;
    assert!(summarized || rounds.is_some(), "no summary was of use");
}

#[tokio::test]
async fn soak_of_15() {
    soak(15).await;
}

#[tokio::test]
async fn soak_of_17() {
    soak(17).await;
}

#[tokio::test]
async fn soak_of_18() {
    soak(18).await;
}
