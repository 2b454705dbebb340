//! Data, sources and clocks that the benchmarks share.
#![allow(dead_code, reason = "each benchmark uses a part")]

pub(crate) mod discard;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use holdall::connector::{Origin, Source};
use holdall::context::Context;
use holdall::error::Result;
use holdall::snapshot::entry::{
    Content, ContentStream, Entry, EntryHead, EntryKind, Item, Key, Metadata, OpenContent, Piece, Prior,
};
use std::sync::Arc;
use std::time::Instant;

/// Bytes that do not compress.
pub(crate) fn incompressible(len: usize, seed: u64) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out.into()
}

/// Rows as a table dump has them: about 4:1 under zstd.
pub(crate) fn rows(len: usize, seed: u64) -> Bytes {
    let words = [
        "pending", "paid", "shipped", "returned", "Berlin", "Lagos", "Lima", "Osaka", "gift", "express",
    ];
    let mut xof = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut out = Vec::with_capacity(len + 256);
    let mut id = 0u64;
    while out.len() < len {
        let mut random = [0u8; 16];
        xof.fill(&mut random);
        let number = u64::from_le_bytes(random[..8].try_into().unwrap_or_default());
        let word = |at: usize| words[usize::from(random[at]) % words.len()];
        id += 1;
        let row = format!(
            "{id}\t{}\t{}\t2026-0{}-1{} 10:2{}:11.{:06}+00\t{{\"note\": \"{} {}\", \"amount\": {}, \"ref\": \"{:016x}\"}}\n",
            word(8),
            word(9),
            random[10] % 9 + 1,
            random[11] % 9,
            random[12] % 9,
            number % 1_000_000,
            word(13),
            word(14),
            number % 10_000,
            number
        );
        out.extend_from_slice(row.as_bytes());
    }
    out.truncate(len);
    out.into()
}

/// A source of one long stream, out of memory, `times` over (each time with other first bytes, so that nothing repeats).
pub(crate) struct MemorySource {
    pub(crate) content: Bytes,
    pub(crate) times: usize,
}

impl Source for MemorySource {
    fn origin(&self) -> Origin {
        Origin {
            connector: "stdio".into(),
            description: "memory".into(),
            version: None,
        }
    }

    fn entries<'a>(&'a mut self, _: &'a Context, _: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        let items = (0..self.times).map(|at| {
            let head = EntryHead {
                key: Key::new(format!("streams/{at:08}").into_bytes()),
                kind: EntryKind::Stream,
                metadata: Metadata::default(),
                state: Bytes::new(),
                size: None,
            };
            Ok(Item::Entry(Entry {
                head,
                content: Content::Open(Box::new(Pieces(self.content.clone()))),
            }))
        });
        stream::iter(items).boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }
}

/// A source of one stream that never repeats and does not compress: `bytes` of it, made as they are read.
pub(crate) struct EndlessSource {
    pub(crate) bytes: u64,
}

impl Source for EndlessSource {
    fn origin(&self) -> Origin {
        Origin {
            connector: "stdio".into(),
            description: "endless".into(),
            version: None,
        }
    }

    fn entries<'a>(&'a mut self, _: &'a Context, _: Arc<dyn Prior>) -> BoxStream<'a, Result<Item>> {
        let head = EntryHead {
            key: "streams/endless".into(),
            kind: EntryKind::Stream,
            metadata: Metadata::default(),
            state: Bytes::new(),
            size: None,
        };
        let content = Content::Open(Box::new(Endless(self.bytes)));
        stream::iter([Ok(Item::Entry(Entry { head, content }))]).boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }
}

struct Endless(u64);

impl OpenContent for Endless {
    fn open(self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>> {
        let pieces = (0..self.0 >> 20).map(|at| Ok(Piece::Data(incompressible(1 << 20, at))));
        async move { Ok(stream::iter(pieces).boxed()) }.boxed()
    }
}

struct Pieces(Bytes);

impl OpenContent for Pieces {
    fn open(self: Box<Self>) -> BoxFuture<'static, Result<ContentStream>> {
        let content = self.0;
        let pieces = (0..content.len()).step_by(1 << 20).map(move |at| {
            Ok(Piece::Data(
                content.slice(at..(at + (1 << 20)).min(content.len())),
            ))
        });
        async move { Ok(stream::iter(pieces).boxed()) }.boxed()
    }
}

/// Seconds that `work` takes.
pub(crate) fn seconds<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let out = work();
    (start.elapsed().as_secs_f64(), out)
}

/// The median.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
