//! One large table on a server that keeps WAL summaries: what a snapshot costs that has it fingerprinted, and one that asks for a
//! checkpoint first; with everything in memory, and read from the disk.
//!
//! Medians of three. `cargo bench --bench summaries`, with a number for the gigabytes of the table (4). The disk is measured where this process may have the
//! system forget what it read.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints, starts the program, and stops where it fails"
)]

use holdall::testkit::PostgresServer;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const SETTINGS: &str = "fsync = on\nsynchronous_commit = off\nshared_buffers = '256MB'\nmax_wal_size = '32GB'\nautovacuum = off\n\
                        checkpoint_timeout = '1h'\nsummarize_wal = on\nwal_level = replica";
/// Rows of a gigabyte.
const ROWS: u64 = 1_200_000;
/// How often each way takes its turn.
const TURNS: u64 = 3;
/// What is done before each turn of each way.
const CHANGES: [(&str, &str); 3] = [
    ("unchanged", ""),
    (
        "1 % appended",
        "INSERT INTO wide SELECT g, g, repeat(md5(g::text), 25) FROM generate_series(1, {rows} / 100) g",
    ),
    (
        "1,000 rows anywhere",
        "UPDATE wide SET n = n + 1 WHERE id IN (SELECT g * ({rows} / 1000) - {turn} FROM generate_series(1, 1000) g)",
    ),
];

fn main() {
    let gigabytes = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse::<u64>().ok());
    let rows = ROWS * gigabytes.unwrap_or(4);
    let server = PostgresServer::start(17, SETTINGS).unwrap();
    let sql = |sql: &str| server.psql("postgres", sql).unwrap().trim().to_owned();
    sql(&format!(
        "CREATE TABLE wide AS SELECT g AS id, g AS n, repeat(md5(g::text), 25) AS note FROM generate_series(1, {rows}) g"
    ));
    sql("VACUUM (FREEZE, ANALYZE) wide");
    sql("CREATE INDEX ON wide (id)");
    sql("CHECKPOINT");
    println!(
        "wide: {} of heap",
        sql("SELECT pg_size_pretty(pg_relation_size('wide'))")
    );
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| holdall(dir.path(), &server, arguments);
    run(&[
        "init",
        "--generate-key-file",
        &dir.path().join("key").display().to_string(),
    ]);
    let url = server.url("postgres");
    let first = run(&["snapshot", "--type", "data", &url]);
    println!("first snapshot: {:.1} s\n", first.as_secs_f64());
    println!(
        "{:22}{:>12}{:>18}{:>10}{:>16}",
        "step", "from", "way", "seconds", "blocks read"
    );
    let mut turn = 0;
    for (step, change) in CHANGES {
        for from in ["memory", "disk"] {
            let mut measured = [Vec::new(), Vec::new()];
            for _ in 0..TURNS {
                for (way, measured) in ["", "--checkpoint"].iter().zip(&mut measured) {
                    turn += 1;
                    let change = change.replace("{rows}", &rows.to_string());
                    sql(&change.replace("{turn}", &turn.to_string()));
                    if from == "disk" && !forget(&server) {
                        continue;
                    }
                    let before = blocks(&server);
                    let flag = Some(*way).filter(|way| !way.is_empty());
                    let arguments: Vec<&str> = ["snapshot", "--type", "data", &url]
                        .into_iter()
                        .chain(flag)
                        .collect();
                    let seconds = run(&arguments).as_secs_f64();
                    measured.push((seconds, blocks(&server) - before));
                }
            }
            for (way, measured) in ["fingerprints", "--checkpoint"].iter().zip(&mut measured) {
                measured.sort_by(|left, right| left.0.total_cmp(&right.0));
                if let Some((seconds, read)) = measured.get(measured.len() / 2) {
                    println!("{step:22}{from:>12}{way:>18}{seconds:>10.2}{read:>16}");
                }
            }
        }
    }
}

/// Runs the program; gives how long it took.
fn holdall(dir: &Path, server: &PostgresServer, arguments: &[&str]) -> Duration {
    let path = format!(
        "{}:{}",
        server.programs().display(),
        std::env::var("PATH").unwrap()
    );
    let begun = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_holdall"))
        .args(arguments)
        .env("PATH", path)
        .env("HOME", dir)
        .env("HOLDALL_REPOSITORY", dir.join("repo"))
        .env("HOLDALL_KEY_FILE", dir.join("key"))
        .output()
        .unwrap();
    let elapsed = begun.elapsed();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    elapsed
}

/// Has the system forget what it read of files; what the server holds itself stays, and is little. False where that is not allowed.
fn forget(server: &PostgresServer) -> bool {
    server.psql("postgres", "CHECKPOINT").unwrap();
    let synced = Command::new("sync").status().is_ok_and(|status| status.success());
    synced && std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Blocks of the table that the server's sessions have asked for so far. Those of sessions that have just ended come a moment later.
fn blocks(server: &PostgresServer) -> u64 {
    std::thread::sleep(Duration::from_secs(1));
    let sql = "SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables WHERE relname = 'wide'";
    server.psql("postgres", sql).unwrap().trim().parse().unwrap()
}
