//! Peak memory while 20 GB of new content stream through a budget of 256 MiB. The packs go nowhere: what is measured is what the
//! write path holds. `HOLDALL_BENCH_GB` sets another amount.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops where it fails"
)]

mod shared;

use holdall::connector::Source;
use holdall::context::Context;
use holdall::event::Silent;
use holdall::store::{Access, Store, StoreOptions};
use holdall::testkit::repo;
use holdall::{error, ops};
use shared::discard::Discard;
use shared::{EndlessSource, seconds};
use std::sync::Arc;

fn resident_kib(field: &str) -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let gigabytes: u64 = std::env::var("HOLDALL_BENCH_GB").map_or(20, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let before = resident_kib("VmRSS");
    let (elapsed, ()) = seconds(|| {
        runtime.block_on(async {
            let context = Context::new(Arc::new(Silent), 256 << 20, 0).unwrap();
            let options = StoreOptions {
                access: Access::ReadWrite,
                ..StoreOptions::default()
            };
            let store = Store::over(Arc::new(Discard::default()), "discard", &options, &context).unwrap();
            let repository = repo::init(&store, &context).await.unwrap();
            let mut open = || -> error::Result<Option<Vec<Box<dyn Source>>>> {
                Ok(Some(vec![Box::new(EndlessSource {
                    bytes: gigabytes * 1_000_000_000,
                })]))
            };
            let report = ops::snapshot(&context, &repository, &repo::request(), &mut open)
                .await
                .unwrap();
            println!(
                "read {} bytes, budget held at most {} MiB",
                report.snapshot.statistics.bytes_read,
                context.budget.peak() >> 20
            );
        });
    });
    let peak = resident_kib("VmHWM").saturating_sub(before) >> 10;
    println!("{gigabytes} GB in {elapsed:.1} s: peak {peak} MiB above the start, budget 256 MiB");
}
