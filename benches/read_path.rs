//! The read path beside its floor: BLAKE3 of the sealed bytes, ChaCha20-Poly1305, zstd and keyed BLAKE3 of what was stored, on all
//! cores. Prints ratios of medians; both run in turn in the same process.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops where it fails"
)]

mod shared;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use futures::StreamExt;
use holdall::connector::Source;
use holdall::context::Context;
use holdall::event::Silent;
use holdall::repository::Repository;
use holdall::snapshot::entry::Piece;
use holdall::testkit::repo;
use holdall::{error, ops};
use rayon::prelude::*;
use shared::{MemorySource, incompressible, median, rows, seconds};
use std::sync::Arc;

const LEN: usize = 512 << 20;
const ROUNDS: usize = 5;

fn key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).unwrap())
}

fn seal(content: &Bytes) -> Vec<Vec<u8>> {
    let seal_block = |block: &[u8]| {
        let mut sealed = zstd::bulk::compress(block, 3).unwrap();
        key()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut sealed)
            .unwrap();
        sealed
    };
    content.par_chunks(1 << 20).map(seal_block).collect()
}

fn floor(sealed: &[Vec<u8>]) {
    sealed.par_iter().for_each(|block| {
        let mut block = block.clone();
        std::hint::black_box(blake3::hash(&block));
        let plain = key()
            .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut block)
            .unwrap();
        let plain = zstd::bulk::decompress(plain, 1 << 20).unwrap();
        std::hint::black_box(blake3::keyed_hash(&[7; 32], &plain));
    });
}

async fn fill(context: &Context, content: &Bytes) -> Repository {
    let store = repo::memory(context);
    let repository = repo::init(&store, context).await.unwrap();
    let mut open = || -> error::Result<Option<Vec<Box<dyn Source>>>> {
        Ok(Some(vec![Box::new(MemorySource {
            content: content.clone(),
            times: 1,
        })]))
    };
    ops::snapshot(context, &repository, &repo::request(), &mut open)
        .await
        .unwrap();
    repository
}

async fn read(context: &Context, repository: &Repository) -> u64 {
    let snapshot = repo::reader(context, repository, "latest").await.unwrap();
    let mut entries = snapshot.entries("streams/".into(), |_| true);
    let mut bytes = 0;
    while let Some(entry) = entries.next().await {
        let mut content = entry.unwrap().content.open().await.unwrap();
        while let Some(piece) = content.next().await {
            if let Piece::Data(data) = piece.unwrap() {
                bytes += data.len() as u64;
            }
        }
    }
    bytes
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!(
        "read path, {} MiB, {} cores, median of {ROUNDS}",
        LEN >> 20,
        rayon::current_num_threads()
    );
    for (name, content) in [
        ("rows (about 4:1)", rows(LEN, 1)),
        ("incompressible", incompressible(LEN, 2)),
    ] {
        let context = Context::new(Arc::new(Silent), 256 << 20, 0).unwrap();
        let repository = runtime.block_on(fill(&context, &content));
        let sealed = seal(&content);
        let (mut floors, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            floors.push(seconds(|| floor(&sealed)).0);
            ours.push(seconds(|| assert_eq!(runtime.block_on(read(&context, &repository)), LEN as u64)).0);
        }
        let (floor, ours) = (median(floors), median(ours));
        let megabytes = f64::from(u32::try_from(LEN / 1_000_000).unwrap());
        let rate = |seconds: f64| megabytes / seconds;
        println!(
            "{name:18} floor {:6.0} MB/s   holdall {:6.0} MB/s   {:3.0} % of the floor",
            rate(floor),
            rate(ours),
            100.0 * floor / ours
        );
    }
}
