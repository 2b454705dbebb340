//! The tree over a million entries in memory, beside a floor: the same entries encoded and hashed, with no tree.
//!
//!     cargo bench --bench tree [-- ENTRIES]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for developers"
)]

use futures::TryStreamExt;
use holdall::context::Time;
use holdall::format::cbor::{Decoder, Encoder};
use holdall::format::entry::{BlobRef, ContentRecord, EntryKind, EntryRecord, Key};
use holdall::format::id::BlobId;
use holdall::format::metadata::{Metadata, Value};
use holdall::format::node::Totals;
use holdall::format::snapshot::RootRecord;
use holdall::snapshot::entry::Prior;
use holdall::snapshot::tree::{BorderKey, Marker, TreeBuilder, TreePrior, TreeReader, diff, walk};
use holdall::testkit::nodes::MemoryNodes;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

/// Nodes are encoded about as large as those of file entries: 100 bytes of metadata, one chunk.
fn entry(number: u32, version: u8) -> EntryRecord {
    let key = format!("files/home/ada/photos/{:04}/img-{number:08}.jpg", number / 1000);
    let metadata = [
        (1, Value::Int(0o100_644)),
        (2, Value::Int(1000)),
        (3, Value::Int(1_700_000_000 + i64::from(number))),
        (4, Value::Text("ada".into())),
        (5, Value::Bytes(vec![version; 70])),
    ];
    let id = BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes());
    EntryRecord {
        key: Key::new(key.into_bytes()),
        kind: EntryKind::File,
        metadata: Metadata::new(&metadata).unwrap(),
        state: vec![0; 24].into(),
        size: 5000,
        content: ContentRecord::Refs {
            level: 0,
            refs: vec![BlobRef { id, len: 5000 }],
        },
        whole: None,
    }
}

struct Seen(HashSet<BlobId>);

impl Marker for Seen {
    fn node(&mut self, id: BlobId, _: u8, _: Totals) -> bool {
        self.0.insert(id)
    }
    fn list(&mut self, list: &BlobRef) -> bool {
        self.0.insert(list.id)
    }
    fn data(&mut self, chunk: &BlobRef) {
        self.0.insert(chunk.id);
    }
}

async fn build(nodes: &MemoryNodes, entries: &[EntryRecord]) -> RootRecord {
    let mut builder = TreeBuilder::new(BorderKey::new([7; 32]), nodes.clone());
    for entry in entries {
        builder.add(entry).await.unwrap();
    }
    builder.finish().await.unwrap().0
}

fn report(what: &str, start: Instant, floor: f64, note: &str) -> f64 {
    let seconds = start.elapsed().as_secs_f64();
    let ratio = if floor > 0.0 {
        format!("{:.2} x floor", seconds / floor)
    } else {
        String::new()
    };
    println!("{what:<28} {seconds:>7.3} s   {ratio:<14} {note}");
    seconds
}

/// The floor: encode and hash, then decode, with no tree around.
fn floors(entries: &[EntryRecord]) -> (f64, f64) {
    let start = Instant::now();
    let mut parts = Vec::new();
    for some in entries.chunks(128) {
        let mut out = Encoder::new();
        for entry in some {
            entry.encode(&mut out);
        }
        let bytes = out.finish();
        std::hint::black_box(blake3::hash(&bytes));
        parts.push(bytes);
    }
    let bytes: usize = parts.iter().map(Vec::len).sum();
    let write = report("floor: encode, hash", start, 0.0, &format!("{} MiB", bytes >> 20));
    let start = Instant::now();
    for part in &parts {
        let mut decoder = Decoder::new(part);
        while decoder.major().is_some() {
            std::hint::black_box(EntryRecord::decode(&mut decoder).unwrap());
        }
    }
    (write, report("floor: decode", start, 0.0, ""))
}

async fn measure(entries: &mut [EntryRecord]) {
    println!("warm-up:");
    floors(entries);
    println!("measured:");
    let (write, read) = floors(entries);
    let nodes = MemoryNodes::new();
    let start = Instant::now();
    let root = build(&nodes, entries).await;
    report(
        "build",
        start,
        write,
        &format!("{} nodes, height {}", nodes.len(), root.height),
    );
    let reader = TreeReader::new(Arc::new(nodes.clone()), root);

    let start = Instant::now();
    let mut stream = reader.entries();
    let mut count = 0u64;
    while let Some(entry) = stream.try_next().await.unwrap() {
        count += u64::from(std::hint::black_box(entry).size > 0);
    }
    report("read", start, read, &format!("{count} entries"));

    let prior = TreePrior::new(reader.clone(), Time::default());
    nodes.take_counts();
    let start = Instant::now();
    let mut builder = TreeBuilder::new(BorderKey::new([7; 32]), nodes.clone());
    let mut stream = prior.entries(Key::empty());
    while let Some(entry) = stream.try_next().await.unwrap() {
        builder.add(entry.record()).await.unwrap();
    }
    assert_eq!(builder.finish().await.unwrap().0, root);
    let counts = nodes.take_counts();
    let note = format!("{} nodes read, {} new", counts.nodes_read.len(), counts.new);
    report("unchanged: prior to builder", start, write + read, &note);

    let step = entries.len() / 10;
    for index in 0..10 {
        entries[index * step] = entry(u32::try_from(index * step).unwrap(), 1);
    }
    let other = TreeReader::new(Arc::new(nodes.clone()), build(&nodes, entries).await);
    nodes.take_counts();
    let start = Instant::now();
    let changes: Vec<_> = diff(&reader, &other).try_collect().await.unwrap();
    let note = format!(
        "{} changes, {} nodes read",
        changes.len(),
        nodes.take_counts().nodes_read.len()
    );
    report("diff of ten edits", start, 0.0, &note);

    let start = Instant::now();
    for index in 0..1000 {
        let key = &entries[index * entries.len() / 1000].key;
        assert!(other.get(key).await.unwrap().is_some());
    }
    report("seek, 1,000 times", start, 0.0, "");

    let mut seen = Seen(HashSet::new());
    let start = Instant::now();
    walk(&nodes, &root, &mut seen).await.unwrap();
    report("walk", start, read, &format!("{} blobs", seen.0.len()));
}

fn main() {
    let count = std::env::args()
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(1_000_000u32);
    println!("{count} entries, one core");
    let mut entries: Vec<_> = (0..count).map(|number| entry(number, 0)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(measure(&mut entries));
}
