//! The write path beside its floor: the same bytes through FastCDC, keyed BLAKE3, zstd-3 in 1 MiB blocks, ChaCha20-Poly1305 and
//! BLAKE3 of the sealed bytes, on all cores. Prints ratios of medians; both run in turn in the same process.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops where it fails"
)]

mod shared;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use holdall::chunk::{ChunkParams, Chunker};
use holdall::connector::Source;
use holdall::context::Context;
use holdall::crypto::Secret;
use holdall::event::Silent;
use holdall::store::{Access, Store, StoreOptions};
use holdall::testkit::repo;
use holdall::{error, ops};
use rayon::prelude::*;
use shared::discard::Discard;
use shared::{MemorySource, incompressible, median, rows, seconds};
use std::sync::Arc;

const LEN: usize = 512 << 20;
const ROUNDS: usize = 5;

/// Everything that must be done to a byte, and nothing else: sections of the content on all cores.
fn floor(content: &Bytes, threads: usize) {
    let section = content.len().div_ceil(threads * 4);
    let key = [7u8; 32];
    content.par_chunks(section).for_each(|part| {
        let chunker = Chunker::new(ChunkParams::default(), &Secret::new(key));
        let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
        let aead = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap());
        let mut whole = blake3::Hasher::new();
        let mut rest = part;
        while let Some(cut) = chunker.next_cut(rest, true) {
            let (chunk, tail) = rest.split_at(cut);
            std::hint::black_box(blake3::keyed_hash(&key, chunk));
            rest = tail;
        }
        for (at, block) in part.chunks(1 << 20).enumerate() {
            let mut sealed = compressor.compress(block).unwrap();
            let mut nonce = [0; 12];
            nonce[..8].copy_from_slice(&(at as u64).to_le_bytes());
            aead.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
                .unwrap();
            whole.update(&sealed);
        }
        std::hint::black_box(whole.finalize());
    });
}

fn options() -> StoreOptions {
    StoreOptions {
        access: Access::ReadWrite,
        ..StoreOptions::default()
    }
}

fn holdall(runtime: &tokio::runtime::Runtime, content: &Bytes) {
    runtime.block_on(async {
        let context = Context::new(Arc::new(Silent), 256 << 20, 0).unwrap();
        let store = Store::over(Arc::new(Discard::default()), "discard", &options(), &context).unwrap();
        let repository = repo::init(&store, &context).await.unwrap();
        let content = content.clone();
        let mut open = || -> error::Result<Option<Vec<Box<dyn Source>>>> {
            Ok(Some(vec![Box::new(MemorySource {
                content: content.clone(),
                times: 1,
            })]))
        };
        let report = ops::snapshot(&context, &repository, &repo::request(), &mut open)
            .await
            .unwrap();
        assert_eq!(report.snapshot.statistics.bytes_read, content.len() as u64);
    });
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let threads = rayon::current_num_threads();
    println!(
        "write path, {} MiB, {threads} cores, median of {ROUNDS}",
        LEN >> 20
    );
    for (name, content) in [
        ("rows (about 4:1)", rows(LEN, 1)),
        ("incompressible", incompressible(LEN, 2)),
    ] {
        let (mut floors, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            floors.push(seconds(|| floor(&content, threads)).0);
            ours.push(seconds(|| holdall(&runtime, &content)).0);
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
