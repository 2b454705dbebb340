//! Nodes that no builder makes: each check of the chapter's section 5.3 has its case, read by reader, diff and walk.

use super::{collect, entry, reader, run};
use crate::walking::Seen;
use holdall::error::{Error, ErrorKind};
use holdall::format::entry::EntryRecord;
use holdall::format::id::BlobId;
use holdall::format::node::{Child, Node, Totals};
use holdall::format::snapshot::RootRecord;
use holdall::snapshot::tree::{diff, walk};
use holdall::testkit::nodes::MemoryNodes;
use std::sync::Arc;

struct Tree {
    nodes: MemoryNodes,
    left: Child,
    right: Child,
}

fn leaf(keys: &[&str]) -> Node {
    Node::Leaf(keys.iter().map(|key| Arc::new(entry(*key, 1, 5))).collect())
}

fn put(nodes: &MemoryNodes, node: &Node) -> Child {
    Child {
        last: node.last_key().cloned().unwrap_or_else(|| "z".into()),
        id: nodes.insert(node.encode()),
        totals: node.totals().unwrap(),
    }
}

impl Tree {
    fn new() -> Self {
        let nodes = MemoryNodes::new();
        let (left, right) = (put(&nodes, &leaf(&["a", "b"])), put(&nodes, &leaf(&["c", "d"])));
        Self { nodes, left, right }
    }

    fn root_over(&self, level: u8, children: Vec<Child>) -> RootRecord {
        let node = Node::Inner { level, children };
        let Totals { entries, bytes } = node.totals().unwrap();
        RootRecord {
            id: self.nodes.insert(node.encode()),
            height: level,
            entries,
            bytes,
        }
    }

    /// The error that reader, diff and walk all give.
    fn error(&self, root: RootRecord) -> Error {
        let error = collect(reader(&self.nodes, root).entries()).unwrap_err();
        let empty = reader(&self.nodes, super::build(&self.nodes, []));
        let by_diff = collect(diff(&empty, &reader(&self.nodes, root))).unwrap_err();
        let by_walk = run(walk(&self.nodes, &root, &mut Seen::default())).unwrap_err();
        assert_eq!(error.to_string(), by_diff.to_string());
        assert_eq!(error.to_string(), by_walk.to_string());
        error
    }

    fn expect(&self, root: RootRecord, what: &str, node: BlobId) {
        let error = self.error(root);
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert_eq!(error.what(), what);
        assert_eq!(
            error.context("node"),
            Some(node.to_string().as_str()),
            "the damaged node is named"
        );
    }
}

#[test]
fn the_tree_that_the_cases_spoil_is_sound() {
    let tree = Tree::new();
    let root = tree.root_over(1, vec![tree.left.clone(), tree.right.clone()]);
    assert_eq!(collect(reader(&tree.nodes, root).entries()).unwrap().len(), 4);
}

#[test]
fn a_node_of_another_level_is_damage() {
    let tree = Tree::new();
    let what = "node of another level than its parent says";
    let inner = Node::Inner {
        level: 1,
        children: vec![tree.right.clone()],
    };
    let inner = put(&tree.nodes, &inner);
    tree.expect(
        tree.root_over(1, vec![tree.left.clone(), inner.clone()]),
        what,
        inner.id,
    );
    let mut root = tree.root_over(1, vec![tree.left.clone(), tree.right.clone()]);
    root.height = 2;
    tree.expect(root, what, root.id);
    // A node that claims to be its own ancestor cannot exist by its hash, but levels would end it: they only descend.
    let skipping = tree.root_over(2, vec![tree.left.clone(), tree.right.clone()]);
    tree.expect(skipping, what, tree.left.id);
}

#[test]
fn totals_that_differ_are_damage() {
    let tree = Tree::new();
    let what = "node's totals are not those that its parent says";
    for change in [|t: &mut Totals| t.entries += 1, |t: &mut Totals| t.bytes += 1] {
        let mut right = tree.right.clone();
        change(&mut right.totals);
        tree.expect(
            tree.root_over(1, vec![tree.left.clone(), right]),
            what,
            tree.right.id,
        );
    }
    let root = tree.root_over(1, vec![tree.left.clone(), tree.right.clone()]);
    tree.expect(RootRecord { entries: 5, ..root }, what, root.id);
    tree.expect(RootRecord { bytes: 0, ..root }, what, root.id);
}

#[test]
fn totals_that_overflow_are_damage() {
    let tree = Tree::new();
    let (mut left, mut right) = (tree.left.clone(), tree.right.clone());
    (left.totals.bytes, right.totals.bytes) = (u64::MAX, 1);
    let node = Node::Inner {
        level: 1,
        children: vec![left, right],
    };
    let id = tree.nodes.insert(node.encode());
    let root = RootRecord {
        id,
        height: 1,
        entries: 4,
        bytes: 0,
    };
    tree.expect(root, "node's totals do not add up", id);
}

#[test]
fn another_last_key_is_damage() {
    let tree = Tree::new();
    let mut right = tree.right.clone();
    right.last = "e".into();
    let root = tree.root_over(1, vec![tree.left.clone(), right]);
    tree.expect(
        root,
        "node's last key is not the one that its parent says",
        tree.right.id,
    );
}

#[test]
fn keys_that_do_not_follow_are_damage_across_nodes_and_levels() {
    let tree = Tree::new();
    let what = "node's keys do not follow those before it";
    for keys in [["b", "d"], ["a", "d"]] {
        let overlapping = put(&tree.nodes, &leaf(&keys));
        let root = tree.root_over(1, vec![tree.left.clone(), overlapping.clone()]);
        tree.expect(root, what, overlapping.id);
    }
    // The left edge of a subtree is held against the last key of the subtree before it.
    let above = |child: &Child| {
        put(
            &tree.nodes,
            &Node::Inner {
                level: 1,
                children: vec![child.clone()],
            },
        )
    };
    let overlapping = put(&tree.nodes, &leaf(&["b", "d"]));
    let root = tree.root_over(2, vec![above(&tree.left), above(&overlapping)]);
    tree.expect(root, what, overlapping.id);
}

#[test]
fn a_root_with_a_single_child_is_damage() {
    let tree = Tree::new();
    let root = tree.root_over(1, vec![tree.left.clone()]);
    tree.expect(root, "root with a single child", root.id);
}

#[test]
fn an_empty_leaf_below_a_root_is_damage() {
    let tree = Tree::new();
    let mut empty = put(&tree.nodes, &leaf(&[]));
    empty.totals.entries = 1;
    let root = tree.root_over(1, vec![tree.left.clone(), empty.clone()]);
    tree.expect(root, "node's totals are not those that its parent says", empty.id);
}

#[test]
fn bytes_that_are_no_node_are_damage_with_a_reason() {
    let tree = Tree::new();
    let mut right = tree.right.clone();
    right.id = tree.nodes.insert(&b"\x82\x00\x81"[..]);
    let root = tree.root_over(1, vec![tree.left.clone(), right.clone()]);
    tree.expect(root, "node does not decode", right.id);
    assert_eq!(tree.error(root).causes(), ["truncated"]);
}

#[test]
fn a_missing_node_is_the_sources_error_and_comes_after_what_could_be_read() {
    let tree = Tree::new();
    let root = tree.root_over(1, vec![tree.left.clone(), tree.right.clone()]);
    tree.nodes.remove(tree.right.id);
    let (read, error) = run(async {
        use futures::StreamExt;
        let mut stream = reader(&tree.nodes, root).entries();
        let mut read: Vec<Arc<EntryRecord>> = Vec::new();
        loop {
            match stream.next().await.unwrap() {
                Ok(entry) => read.push(entry),
                Err(error) => {
                    assert!(stream.next().await.is_none(), "the first error ends the stream");
                    return (read, error);
                }
            }
        }
    });
    assert_eq!((read.len(), error.what()), (2, "blob is missing"));
}

#[test]
fn the_highest_tree_is_read_without_recursion_and_a_higher_one_is_no_node() {
    let tree = Tree::new();
    let (mut left, mut right) = (tree.left.clone(), tree.right.clone());
    for level in 1..15 {
        let above = |child: Child| {
            put(
                &tree.nodes,
                &Node::Inner {
                    level,
                    children: vec![child],
                },
            )
        };
        (left, right) = (above(left), above(right));
    }
    let root = tree.root_over(15, vec![left.clone(), right.clone()]);
    assert_eq!(collect(reader(&tree.nodes, root).entries()).unwrap().len(), 4);
    let root = tree.root_over(16, vec![left, right]);
    tree.expect(root, "node does not decode", root.id);
}

#[test]
fn reading_past_damage_names_what_is_lost_and_gives_all_the_rest() {
    use holdall::snapshot::tree::Found;
    let nodes = MemoryNodes::new();
    let entries: Vec<_> = (0..6000u64)
        .map(|i| entry(format!("k{i:05}").as_str(), i, 40))
        .collect();
    let root = super::build(&nodes, &entries);
    let tree = reader(&nodes, root);
    collect(tree.entries()).unwrap();
    let read = nodes.take_counts().nodes_read;
    for lost in [read[1], read[2], read[read.len() / 2], read[read.len() - 1]] {
        let plaintext = nodes.plaintext(lost).unwrap();
        nodes.remove(lost);
        let (mut keys, mut ranges) = (Vec::new(), Vec::new());
        for found in collect(tree.salvage("".into())).unwrap() {
            match found {
                Found::Entry(entry) => keys.push(entry.key.clone()),
                Found::Lost(range) => ranges.push(range),
            }
        }
        let [range] = ranges.as_slice() else {
            panic!("{ranges:?}")
        };
        let through = range.through.as_ref().unwrap();
        let inside = |key: &holdall::format::entry::Key| {
            range.after.as_ref().is_none_or(|after| key > after) && key <= through
        };
        let expected: Vec<_> = entries
            .iter()
            .map(|e| e.key.clone())
            .filter(|k| !inside(k))
            .collect();
        assert!(expected.len() < entries.len());
        assert_eq!(keys, expected, "all but what is named, and nothing of that");
        assert_eq!(range.error.kind(), ErrorKind::Damaged);
        // What a prefix does not touch is not lost to it.
        let behind = range.after.clone().filter(|_| *through != entries[5999].key);
        if behind.is_some() {
            assert!(collect(tree.salvage("k05999".into())).unwrap().len() == 1);
        }
        nodes.insert(plaintext);
    }
    nodes.remove(root.id);
    let found = collect(tree.salvage("".into())).unwrap();
    assert!(matches!(found.as_slice(), [Found::Lost(all)] if all.through.is_none()));
}
