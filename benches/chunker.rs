//! The chunker beside its floors: the crate's own cut over its own table, and keyed BLAKE3 of the same bytes. One thread.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops where it fails"
)]

mod shared;

use bytes::Bytes;
use holdall::chunk::{ChunkParams, Chunker};
use holdall::crypto::Secret;
use shared::{incompressible, median, rows, seconds};

const LEN: usize = 256 << 20;
const ROUNDS: usize = 5;

fn ours(chunker: &Chunker, content: &Bytes) -> usize {
    let (mut rest, mut chunks) = (content.as_ref(), 0);
    while let Some(cut) = chunker.next_cut(rest, true) {
        rest = &rest[cut..];
        chunks += 1;
    }
    chunks
}

fn main() {
    let chunker = Chunker::new(ChunkParams::default(), &Secret::new([7; 32]));
    let megabytes = f64::from(u32::try_from(LEN / 1_000_000).unwrap());
    println!(
        "chunker 64 KiB / 256 KiB / 1 MiB, {} MiB, one thread, median of {ROUNDS}",
        LEN >> 20
    );
    for (name, content) in [("rows", rows(LEN, 1)), ("incompressible", incompressible(LEN, 2))] {
        let (mut cuts, mut plain, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
        let mut chunks = 0;
        for _ in 0..ROUNDS {
            let (time, count) = seconds(|| ours(&chunker, &content));
            cuts.push(time);
            chunks = count;
            plain.push(
                seconds(|| fastcdc::v2020::FastCDC::new(&content, 64 << 10, 256 << 10, 1 << 20).count()).0,
            );
            hashes.push(seconds(|| blake3::keyed_hash(&[7; 32], &content)).0);
        }
        let (cuts, plain, hashes) = (median(cuts), median(plain), median(hashes));
        println!(
            "{name:16} {:6.0} MB/s, {:.2} of the crate alone, {:.2} of keyed BLAKE3; {chunks} chunks, mean {} KiB",
            megabytes / cuts,
            plain / cuts,
            hashes / cuts,
            (LEN >> 10) / chunks.max(1)
        );
    }
}
