//! The index: how long a view of a million blobs takes to load, with an empty and with a warm cache, what it holds resident, and how long
//! a look-up takes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops where it fails"
)]

mod shared;

use holdall::context::Context;
use holdall::crypto::{Secret, Unlock};
use holdall::event::Silent;
use holdall::format::header::{Header, ObjectType, Origin};
use holdall::format::id::{BlobId, ObjectId, SessionId};
use holdall::format::index::{BlobKind, BlockRow, Codec, EntryRow, PackRow, Tables};
use holdall::repository::{Cache, Repository};
use holdall::testkit::{repo, rounds::Hand};
use shared::seconds;
use std::sync::Arc;

const RUNS: u32 = 10;
const PACKS: u32 = 100;
const BLOBS: u32 = 1000;

fn random_id(seed: u64) -> [u8; 32] {
    *blake3::hash(&seed.to_le_bytes()).as_bytes()
}

/// A run of 100 packs with 1,000 blobs of 16 KiB each.
fn run(sid: SessionId, number: u32) -> Tables {
    let mut tables = Tables::default();
    let mut ids: Vec<ObjectId> = (0..PACKS)
        .map(|pack| ObjectId(random_id(u64::from(number) << 32 | u64::from(pack))))
        .collect();
    ids.sort_unstable();
    for (pack, id) in (0u32..).zip(ids) {
        let header = Header {
            object_type: ObjectType::Pack,
            variant: 0,
            epoch: 1,
            origin: Origin::Session(sid),
            salt: id.0,
            commitment: id.0,
        };
        let plain = BLOBS * 16_000;
        tables.packs.push(PackRow {
            id,
            header: header.encode(),
            size: 104 + plain + 16 + 100_000,
        });
        tables.blocks.push(BlockRow {
            pack,
            record: 0,
            offset: 104,
            sealed: plain + 16,
            plain,
            codec: Codec::Raw,
        });
        for blob in 0..BLOBS {
            let seed = u64::from(number) << 40 | u64::from(pack) << 20 | u64::from(blob) | 1 << 63;
            tables.entries.push(EntryRow {
                id: BlobId(random_id(seed)),
                kind: BlobKind::Data,
                delta: false,
                block: pack,
                offset: blob * 16_000,
                encoded: 16_000,
                plain: 16_000,
            });
        }
    }
    tables
        .entries
        .sort_unstable_by_key(|entry| (entry.id, entry.block, entry.offset));
    tables
}

fn resident_kib() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let context = Context::new(Arc::new(Silent), 256 << 20, 0).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let store = repo::local(&directory.path().join("repository"), &context);
        let made = repo::init(&store, &context).await.unwrap();
        let hand = Hand { repository: &made, context: &context };
        for number in 0..RUNS {
            let sid = hand.session(0).await;
            hand.run(sid, &run(sid, number)).await;
        }
        let key = Unlock::KeyFile(Secret::new([42; 32]));
        let cache = directory.path().join("cache");
        let open = || Repository::open(store.clone(), &key, |id| Cache::open(&cache, id));
        let blobs = u64::from(RUNS * PACKS * BLOBS);
        for name in ["empty cache", "warm cache"] {
            let repository = open().await.unwrap();
            let before = resident_kib();
            let begun = std::time::Instant::now();
            let view = repository.view(&context).await.unwrap();
            let loaded = begun.elapsed().as_secs_f64();
            let resident = (resident_kib().saturating_sub(before) << 10) / blobs;
            let reader = repository.reader(&context, &view);
            let ids: Vec<BlobId> = (0..100_000u64).map(|at| BlobId(random_id((at % 1000) | 1 << 63))).collect();
            let (time, found) = seconds(|| ids.iter().filter(|id| reader.has(id)).count());
            println!(
                "{blobs} blobs, {name}: loaded in {loaded:.2} s, {resident} bytes resident a blob, {found} look-ups at {:.0} ns",
                time / 1e5 * 1e9
            );
        }
    });
}
