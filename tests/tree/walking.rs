//! The walk of checks and marks.

use super::{build, entry, run};
use holdall::error::{Error, ErrorKind, Result};
use holdall::format::entry::{BlobRef, ContentRecord, EntryRecord, Key};
use holdall::format::id::BlobId;
use holdall::format::node::Totals;
use holdall::snapshot::tree::{ContentWriter, Marker, walk};
use holdall::testkit::nodes::MemoryNodes;
use std::collections::HashSet;

/// Everything that a walk told of.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) nodes: HashSet<BlobId>,
    pub(crate) lists: HashSet<BlobId>,
    pub(crate) data: HashSet<BlobId>,
    entries: Vec<Key>,
    forgiving: bool,
    failures: Vec<String>,
}

impl Marker for Seen {
    fn node(&mut self, id: BlobId, _: u8, _: Totals) -> bool {
        self.nodes.insert(id)
    }

    fn list(&mut self, list: &BlobRef) -> bool {
        self.lists.insert(list.id)
    }

    fn data(&mut self, chunk: &BlobRef) {
        self.data.insert(chunk.id);
    }

    fn entry(&mut self, entry: &EntryRecord) {
        self.entries.push(entry.key.clone());
    }

    fn failed(&mut self, error: Error) -> Result<()> {
        if self.forgiving {
            self.failures.push(error.to_string());
            Ok(())
        } else {
            Err(error)
        }
    }
}

fn chunk(number: u32) -> BlobRef {
    BlobRef {
        id: BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        len: 1000,
    }
}

/// An entry of so many chunks from `first` on, with a hole behind each tenth.
fn long_entry(nodes: &mut MemoryNodes, key: &str, first: u32, chunks: u32) -> EntryRecord {
    let mut size = 0;
    let content = run(async {
        let mut writer = ContentWriter::new();
        for number in first..first + chunks {
            size += 1000;
            writer.push(chunk(number), nodes).await.unwrap();
            if number.is_multiple_of(10) {
                size += 5;
                let hole = BlobRef {
                    id: BlobId::HOLE,
                    len: 5,
                };
                writer.push(hole, nodes).await.unwrap();
            }
        }
        writer.finish(nodes).await.unwrap()
    });
    EntryRecord {
        size,
        content,
        whole: Some([1; 32]),
        ..entry(key, 1, 5)
    }
}

fn entries(nodes: &mut MemoryNodes) -> Vec<EntryRecord> {
    let mut all: Vec<_> = (0..3000)
        .map(|n| entry(Key::from(format!("{n:05}").as_str()), 3 * n, 10))
        .collect();
    all.push(long_entry(nodes, "x", 0, 30_000));
    all.push(long_entry(nodes, "y", 10_000, 30_000));
    all
}

#[test]
fn a_walk_tells_every_node_list_and_chunk_and_reads_each_once() {
    let mut nodes = MemoryNodes::new();
    let all = entries(&mut nodes);
    let root = build(&nodes, &all);
    nodes.take_counts();
    let mut seen = Seen::default();
    run(walk(&nodes, &root, &mut seen)).unwrap();
    let counts = nodes.take_counts();
    assert_eq!(counts.nodes_read.len(), seen.nodes.len());
    assert_eq!(counts.lists_read.len(), seen.lists.len());
    assert_eq!(seen.nodes.len() + seen.lists.len(), nodes.len());
    assert_eq!(
        seen.data,
        (0..40_000).map(|n| chunk(n).id).collect(),
        "all chunks, no hole"
    );
    assert!(seen.entries.iter().eq(all.iter().map(|e| &e.key)));
}

#[test]
fn a_second_walk_reads_only_what_is_new() {
    let mut nodes = MemoryNodes::new();
    let mut all = entries(&mut nodes);
    let before = build(&nodes, &all);
    let mut seen = Seen::default();
    run(walk(&nodes, &before, &mut seen)).unwrap();
    nodes.take_counts();
    run(walk(&nodes, &before, &mut seen)).unwrap();
    assert_eq!(nodes.take_counts().nodes_read.len(), 0);

    all[1500] = entry(all[1500].key.clone(), 77, 9);
    let after = build(&nodes, &all);
    let new = nodes.take_counts().new;
    run(walk(&nodes, &after, &mut seen)).unwrap();
    let counts = nodes.take_counts();
    assert_eq!((counts.nodes_read.len(), counts.lists_read.len()), (new, 0));
}

#[test]
fn a_forgiving_walk_names_all_damage_and_visits_the_rest() {
    let mut nodes = MemoryNodes::new();
    let all = entries(&mut nodes);
    let root = build(&nodes, &all);
    let mut whole = Seen::default();
    run(walk(&nodes, &root, &mut whole)).unwrap();
    let counts = nodes.take_counts();
    let (leaf, list) = (counts.nodes_read[4], counts.lists_read[2]);
    nodes.remove(leaf);
    nodes.remove(list);
    let mut seen = Seen {
        forgiving: true,
        ..Seen::default()
    };
    run(walk(&nodes, &root, &mut seen)).unwrap();
    assert_eq!(seen.failures.len(), 2);
    assert!(seen.failures[0].contains(&leaf.to_string()) && seen.failures[1].contains(&list.to_string()));
    assert_eq!(seen.nodes, whole.nodes);
    assert!(seen.entries.len() < whole.entries.len() && seen.entries.contains(&"y".into()));
    let strict = run(walk(&nodes, &root, &mut Seen::default())).unwrap_err();
    assert_eq!(strict.kind(), ErrorKind::Damaged);
}

#[test]
fn content_in_the_entry_is_told_without_a_read() {
    let nodes = MemoryNodes::new();
    let root = build(&nodes, &[entry("a", 2, 0)]);
    let ContentRecord::Refs { refs, .. } = entry("a", 2, 0).content else {
        panic!("the entry has a chunk")
    };
    nodes.take_counts();
    let mut seen = Seen::default();
    run(walk(&nodes, &root, &mut seen)).unwrap();
    assert!(seen.data.contains(&refs[0].id) && nodes.take_counts().lists_read.is_empty());
}
