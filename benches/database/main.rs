//! Databases beside the peers: five tables of about 900 MB of text, each with a series of its own, then all of them restored.
//! Holdall reads the server itself; the peers are fed by `pg_dump`. What is not installed is left out, and said.
//!
//! `cargo bench --bench database`, with a table's name to run only that, and a number to take medians of so many runs where a run
//! changes nothing.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints, starts the peers, and stops where it fails"
)]

mod peers;
mod tables;

use holdall::testkit::PostgresServer;
use peers::{Measured, Peer, Place};
use tables::{CHANGES, TABLES, Table};

/// Of a server that holds 900 MB in two cores' memory, and is not to be measured while it cleans up. It writes its log as servers do
/// unless they are told otherwise, and as managed ones must.
const SETTINGS: &str = "fsync = on\nsynchronous_commit = off\nshared_buffers = '512MB'\nmax_wal_size = '8GB'\nautovacuum = off\n\
                        maintenance_work_mem = '256MB'\nwal_level = replica";

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let runs = wanted
        .iter()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(3);
    let wanted: Vec<String> = wanted
        .into_iter()
        .filter(|a| a.parse::<usize>().is_err())
        .collect();
    let server = PostgresServer::start(15, SETTINGS).unwrap();
    server.psql("postgres", "CREATE DATABASE shop").unwrap();
    let chosen: Vec<&Table> = TABLES
        .iter()
        .filter(|t| wanted.is_empty() || wanted.iter().any(|w| w == t.name))
        .collect();
    for table in &chosen {
        server.psql("shop", table.create).unwrap();
        server
            .psql("shop", &format!("VACUUM (FREEZE, ANALYZE) {}", table.name))
            .unwrap();
    }
    let place = Place::new(&server);
    for table in &chosen {
        series(&server, &place, table, runs);
    }
    whole(&server, &place, runs);
}

/// The series of one table: each step beside each peer.
fn series(server: &PostgresServer, place: &Place, table: &Table, runs: usize) {
    let peers = Peer::available(place, table.name);
    let heap = server
        .psql(
            "shop",
            &format!("SELECT pg_size_pretty(pg_total_relation_size('{}'))", table.name),
        )
        .unwrap();
    println!("\n{} ({}, {} on disk)", table.name, table.what, heap.trim());
    println!(
        "{:24}{:>14}{:>16}{:>14}{:>12}",
        "step", "tool", "seconds", "MB read", "MB stored"
    );
    let mut full = 0.0;
    for (step, change) in CHANGES {
        if let Some(sql) = change {
            server.psql("shop", &table.statement(sql)).unwrap();
        }
        let mut fastest = f64::INFINITY;
        let mut ours = None;
        // Tools take turns, so that a machine with other work slows them alike.
        let runs = if *step == "unchanged" { runs } else { 1 };
        let rounds: Vec<Vec<Measured>> = (0..runs)
            .map(|_| {
                peers
                    .iter()
                    .map(|peer| peer.snapshot(place, table.name))
                    .collect()
            })
            .collect();
        for (number, peer) in peers.iter().enumerate() {
            let measured = median(rounds.iter().map(|round| round[number]).collect());
            if peer.is_holdall() {
                ours = Some(measured);
            } else if peer.stores() {
                fastest = fastest.min(measured.seconds);
            }
            line(step, peer.name(), &measured);
        }
        let Some(ours) = ours else { continue };
        if *step == "first" {
            full = ours.read;
        }
        println!(
            "{:24}{:>14}{:>15.2}x{:>13.1}%",
            "",
            "of the best",
            ours.seconds / fastest,
            100.0 * ours.read / full
        );
    }
}

/// All tables at once: the first snapshot beside `pg_dump -Fc`, the restore beside `pg_restore -j2`.
fn whole(server: &PostgresServer, place: &Place, runs: usize) {
    println!("\nall tables, with their keys and indexes");
    let create = |name: &str| {
        server
            .psql("postgres", &format!("DROP DATABASE IF EXISTS {name}"))
            .unwrap();
        server
            .psql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"))
            .unwrap();
    };
    let mut columns: [Vec<Measured>; 5] = std::array::from_fn(|_| Vec::new());
    for run in 0..runs {
        columns[0].push(place.dump_custom());
        columns[1].push(place.first_of_all(run));
        create("restored");
        columns[2].push(place.restore_custom("restored"));
        create("restored");
        columns[3].push(place.restore_holdall("restored", true));
        create("restored");
        columns[4].push(place.restore_holdall("restored", false));
    }
    let [dump, snapshot, theirs, fast, ours] = columns.map(median);
    line("first", "pg_dump -Fc", &dump);
    line("first", "holdall", &snapshot);
    line("restore", "pg_restore -j2", &theirs);
    line("restore, not verified", "holdall", &fast);
    line("restore", "holdall", &ours);
    println!(
        "first {:.2}x of pg_dump -Fc; restore {:.2}x of pg_restore -j2, {:.2}x when every row is read back and compared",
        snapshot.seconds / dump.seconds,
        fast.seconds / theirs.seconds,
        ours.seconds / theirs.seconds
    );
}

/// The run in the middle, by its seconds; of runs that differ in nothing else.
fn median(mut runs: Vec<Measured>) -> Measured {
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    runs[runs.len() / 2]
}

fn line(step: &str, tool: &str, measured: &Measured) {
    println!(
        "{step:24}{tool:>14}{:>16.2}{:>14.1}{:>12.1}",
        measured.seconds, measured.read, measured.stored
    );
}
