//! A database that changes by a hundredth and grows by a hundredth between two snapshots, thirty times over: what each tool's
//! repository grows by, and the sum; then a table that was rewritten whole; then how long it takes to read the last snapshot back,
//! beside one that was stored whole.
//!
//! `cargo bench --bench series`, for a quick run with `-- 10 8`: so many hundredths of the full size, so many snapshots. What is not
//! installed is left out, and said.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints, starts the peers, and stops where it fails"
)]

mod tools;
mod workload;

use holdall::testkit::PostgresServer;
use tools::{Place, Tool};

const SETTINGS: &str = "fsync = off\nsynchronous_commit = off\nshared_buffers = '512MB'\nmax_wal_size = '8GB'\nautovacuum = off\n\
                        maintenance_work_mem = '256MB'";

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let percent = numbers.first().copied().unwrap_or(100);
    let rounds = usize::try_from(numbers.get(1).copied().unwrap_or(30)).unwrap();
    let server = PostgresServer::start(15, SETTINGS).unwrap();
    workload::create(&server, percent);
    let place = Place::new(&server);
    let mut tools = Tool::available(&place);
    print!("{:>16}{:>9}", "MB stored", "dump");
    for tool in &tools {
        print!("{:>22}", tool.kind.name());
    }
    println!();
    let mut stored: Vec<Vec<f64>> = Vec::new();
    for round in 0..=rounds {
        if round > 0 {
            workload::change(&server, round);
        }
        stored.push(line(&place, &mut tools, &format!("snapshot {}", round + 1)));
    }
    let second = stored.get(1).cloned().unwrap_or_default();
    tell(&tools, "the second", &second);
    let sum = |tool: usize| stored.iter().skip(1).map(|line| line[tool]).sum();
    tell(
        &tools,
        "all after the first",
        &(0..tools.len()).map(sum).collect::<Vec<f64>>(),
    );
    server.psql("shop", "VACUUM FULL").unwrap();
    line(&place, &mut tools, "VACUUM FULL");
    workload::change(&server, rounds + 1);
    server.psql("shop", "VACUUM FULL").unwrap();
    line(&place, &mut tools, "changed, FULL");
    restore(&place, &tools);
}

/// One snapshot with each tool: what each repository grew by.
fn line(place: &Place, tools: &mut [Tool], what: &str) -> Vec<f64> {
    print!("{what:>16}{:>9.1}", place.dump_size());
    let mut stored = Vec::new();
    for tool in tools {
        let (seconds, grown) = tool.snapshot(place, "");
        print!("{grown:>12.3} {seconds:>7.2} s");
        stored.push(grown);
    }
    println!();
    stored
}

/// What each stored, of what the best of the peers did.
fn tell(tools: &[Tool], what: &str, stored: &[f64]) {
    let peers = tools.iter().zip(stored).filter(|(tool, _)| tool.kind.is_peer());
    let best = peers.map(|(_, stored)| *stored).fold(f64::INFINITY, f64::min);
    for (tool, stored) in tools.iter().zip(stored) {
        println!(
            "{what}: {:>14} {stored:>10.3} MB, {:.3} of the best peer's",
            tool.kind.name(),
            stored / best
        );
    }
}

/// Seconds for the last snapshot of the series and for the same content stored whole, medians of five in turn.
fn restore(place: &Place, tools: &[Tool]) {
    let measures = [
        ("restored", Tool::restore as fn(&Tool, &Place) -> f64),
        ("thrown away", Tool::read_back),
    ];
    for tool in tools.iter().filter(|tool| !tool.kind.is_peer()) {
        let mut whole = Tool::new(place, tool.kind, "whole");
        whole.snapshot(place, "--no-delta");
        for (what, measure) in measures {
            let turn = |_| (measure(tool, place), measure(&whole, place));
            let (deltas, wholes): (Vec<f64>, Vec<f64>) = (0..5).map(turn).unzip();
            let (deltas, wholes) = (median(deltas), median(wholes));
            println!(
                "{}, {what}: {deltas:.2} s of deltas, {wholes:.2} s of whole chunks: {:.2}",
                tool.kind.name(),
                deltas / wholes
            );
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
