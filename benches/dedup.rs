//! Sizes of chunks against what a series of dumps costs: rows of which a hundredth changes and a hundredth is new each time, each
//! snapshot whole and as deltas. For choosing the sizes of a profile.
//!
//! `cargo bench --bench dedup`, with a number for other than 64 MB of rows.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops where it fails"
)]

mod shared;

use bytes::Bytes;
use holdall::chunk::ChunkParams;
use holdall::connector::Source;
use holdall::context::Context;
use holdall::error::Result;
use holdall::event::Silent;
use holdall::format::repo_config::ChunkProfile;
use holdall::ops::{self, SnapshotRequest};
use holdall::repository::{Cache, InitOptions, Repository};
use holdall::snapshot::DeltaPolicy;
use holdall::testkit::repo;
use shared::{MemorySource, rows, seconds};
use std::sync::Arc;

/// Average sizes of chunks, in KiB; a quarter at least, four times as much at most.
const SIZES: [usize; 7] = [16, 32, 64, 128, 256, 512, 1024];
const SNAPSHOTS: usize = 4;

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let len = numbers.first().copied().unwrap_or(64) * 1_000_000;
    let versions = versions(len);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!(
        "stored of {SNAPSHOTS} dumps of {} MB, in MB, and MB/s of all",
        len / 1_000_000
    );
    for average in SIZES {
        for (name, deltas) in [("whole", DeltaPolicy::Off), ("deltas", DeltaPolicy::default())] {
            let (seconds, stored) = seconds(|| runtime.block_on(series(&versions, average << 10, deltas)));
            print!("{average:>6} KiB {name:>7}");
            for bytes in &stored {
                print!("{:>9.2}", megabytes(*bytes));
            }
            let read: usize = versions.iter().map(Bytes::len).sum();
            println!("{:>9.0} MB/s", megabytes(read as u64) / seconds);
        }
    }
}

/// Dumps in a row: one in a hundred rows is marked anew, and there are a hundredth more.
fn versions(len: usize) -> Vec<Bytes> {
    let all = rows(len + len / 100 * SNAPSHOTS, 1);
    let version = |number: usize| {
        let mut out = Vec::with_capacity(len * 2);
        for (row, line) in all[..len + len / 100 * number]
            .split(|byte| *byte == b'\n')
            .enumerate()
        {
            let hash = row.wrapping_mul(0x9e37_79b9);
            let touched = (1..=number)
                .rev()
                .find(|round| (hash / 64 + round * 37).is_multiple_of(100));
            out.extend_from_slice(line);
            out.extend_from_slice(format!("\t{}\n", touched.unwrap_or(0)).as_bytes());
        }
        out.into()
    };
    (0..SNAPSHOTS).map(version).collect()
}

async fn series(versions: &[Bytes], average: usize, deltas: DeltaPolicy) -> Vec<u64> {
    let context = Context::new(Arc::new(Silent), 256 << 20, 0).unwrap();
    let params = ChunkParams::new(average / 4, average, average * 4).unwrap();
    let options = InitOptions {
        profiles: vec![ChunkProfile {
            name: "default".into(),
            params,
        }],
        ..repo::init_options()
    };
    let cache = Arc::new(Cache::in_memory().unwrap());
    let made = Repository::init(repo::memory(&context), &context, options, cache);
    let repository = made.await.unwrap().repository;
    let request = SnapshotRequest {
        deltas,
        ..repo::request()
    };
    let mut stored = Vec::new();
    for content in versions {
        let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> {
            let content = content.clone();
            Ok(Some(vec![Box::new(MemorySource { content, times: 1 })]))
        };
        let report = ops::snapshot(&context, &repository, &request, &mut open)
            .await
            .unwrap();
        stored.push(report.snapshot.statistics.bytes_stored);
    }
    stored
}

fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1000).unwrap()) / 1000.0
}
