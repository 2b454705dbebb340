//! The tree, through its public interface: laws, counts, hostile nodes, content lists, vectors.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as tests do"
)]

mod content;
mod counts;
mod hostile;
mod laws;
mod vectors;
mod walking;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use holdall::error::Result;
use holdall::format::entry::{BlobRef, ContentRecord, EntryKind, EntryRecord, Key};
use holdall::format::id::BlobId;
use holdall::format::metadata::{Metadata, Value};
use holdall::format::snapshot::RootRecord;
use holdall::snapshot::tree::{BorderKey, TreeBuilder, TreeReader};
use holdall::testkit::nodes::MemoryNodes;
use std::sync::Arc;

fn border() -> BorderKey {
    BorderKey::new([7; 32])
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn collect<T>(stream: BoxStream<'static, Result<T>>) -> Result<Vec<T>> {
    run(stream.try_collect())
}

fn build<'a>(nodes: &MemoryNodes, entries: impl IntoIterator<Item = &'a EntryRecord>) -> RootRecord {
    run(async {
        let mut builder = TreeBuilder::new(border(), nodes.clone());
        for entry in entries {
            builder.add(entry).await.unwrap();
        }
        builder.finish().await.unwrap().0
    })
}

fn reader(nodes: &MemoryNodes, root: RootRecord) -> TreeReader {
    TreeReader::new(Arc::new(nodes.clone()), root)
}

/// An entry whose metadata holds `weight` bytes, all derived from `value`.
fn entry(key: impl Into<Key>, value: u64, weight: usize) -> EntryRecord {
    let fill = blake3::hash(&value.to_le_bytes());
    let bytes: Vec<u8> = fill.as_bytes().iter().copied().cycle().take(weight).collect();
    let metadata = [(1, Value::Int(value.cast_signed())), (2, Value::Bytes(bytes))];
    let (size, content) = match value % 3 {
        0 => (value, ContentRecord::None),
        1 => (4, ContentRecord::Inline(Bytes::from_static(b"text"))),
        _ => (
            1 + value % 1000,
            ContentRecord::Refs {
                level: 0,
                refs: vec![BlobRef {
                    id: BlobId(*fill.as_bytes()),
                    len: 1 + value % 1000,
                }],
            },
        ),
    };
    EntryRecord {
        key: key.into(),
        kind: EntryKind::File,
        metadata: Metadata::new(&metadata).unwrap(),
        state: Bytes::copy_from_slice(&fill.as_bytes()[..(value % 17) as usize]),
        size,
        content,
        whole: None,
    }
}
