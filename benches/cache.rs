//! What the local cache costs: SQLite beside one file for each object, the same bytes, the same order. Printed as ratios.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for developers"
)]

use holdall::format::id::{ObjectId, RepositoryId};
use holdall::repository::Cache;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Blocks of a tree of some ten million entries, and their usual sealed size.
const BLOCKS: u32 = 2000;
const BYTES: usize = 300 << 10;

fn name(n: u32) -> ObjectId {
    ObjectId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn content(n: u32) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    blake3::Hasher::new()
        .update(&n.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Seconds of a piece of work.
fn timed(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

struct Times {
    put: f64,
    open: f64,
    get: f64,
}

fn sqlite(directory: &Path, contents: &[Vec<u8>]) -> Times {
    let id = RepositoryId([1; 16]);
    let open = || Cache::open(directory, id).unwrap();
    let cache = open();
    let put = timed(|| {
        for (n, bytes) in (0..).zip(contents) {
            cache.put_block(&name(n), 0, bytes);
        }
    });
    drop(cache);
    let mut held = 0;
    let opened = timed(|| held = open().blocks().len());
    assert_eq!(held, contents.len());
    let cache = open();
    let get = timed(|| {
        for n in 0..BLOCKS {
            assert_eq!(cache.get_block(&name(n), 0).unwrap().len(), BYTES);
        }
    });
    Times {
        put,
        open: opened,
        get,
    }
}

/// Written beside and renamed, as files must be that other processes read; not synced, as SQLite's are not.
fn files(directory: &Path, contents: &[Vec<u8>]) -> Times {
    let path = |n: u32| directory.join(name(n).to_string());
    let put = timed(|| {
        for (n, bytes) in (0..).zip(contents) {
            let beside = directory.join("beside");
            std::fs::File::create(&beside).unwrap().write_all(bytes).unwrap();
            std::fs::rename(&beside, path(n)).unwrap();
        }
    });
    let mut held = 0;
    let open = timed(|| held = std::fs::read_dir(directory).unwrap().count());
    assert_eq!(held, contents.len());
    let get = timed(|| {
        for n in 0..BLOCKS {
            assert_eq!(std::fs::read(path(n)).unwrap().len(), BYTES);
        }
    });
    Times { put, open, get }
}

fn main() {
    let contents: Vec<_> = (0..BLOCKS).map(content).collect();
    let (one, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sqlite, files) = (sqlite(one.path(), &contents), files(many.path(), &contents));
    println!(
        "{BLOCKS} objects of {} KiB          SQLite     files",
        BYTES >> 10
    );
    for (what, a, b) in [
        ("put", sqlite.put, files.put),
        ("open and list", sqlite.open, files.open),
        ("get", sqlite.get, files.get),
    ] {
        println!("{what:<24} {:>8.1} ms {:>8.1} ms  {:.2}", a * 1e3, b * 1e3, a / b);
    }
}
