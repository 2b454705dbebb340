use super::{border, build, collect, entry, reader, run};
use futures::TryStreamExt;
use holdall::context::Time;
use holdall::error::ErrorKind;
use holdall::format::cbor::Encoder;
use holdall::format::entry::{EntryRecord, Key};
use holdall::format::id::BlobId;
use holdall::format::node::{Child, Node, Totals};
use holdall::snapshot::entry::Prior;
use holdall::snapshot::tree::{Change, TreeBuilder, TreePrior, TreeReader, diff};
use holdall::testkit::nodes::MemoryNodes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

type Entries = BTreeMap<Key, EntryRecord>;

/// Keys with shared prefixes, some a prefix of others.
fn key(number: u32) -> Key {
    let text = match number % 5 {
        0 => format!("a/{}", number / 64),
        1 => format!("a/{}/{number}", number / 64),
        2 => format!("b{}", "x".repeat(number as usize % 40)) + &number.to_string(),
        3 => format!("c/{number:08}"),
        _ => format!("\u{0}{number}"),
    };
    Key::from(text.as_str())
}

fn set(numbers: &[u32], version: u64, heavy: bool) -> Entries {
    let weight = |n: u32| {
        if heavy && n.is_multiple_of(3) {
            20_000 + (n as usize % 9) * 40_000
        } else {
            n as usize % 60
        }
    };
    numbers
        .iter()
        .map(|n| (key(*n), entry(key(*n), u64::from(*n) + version, weight(*n))))
        .collect()
}

fn numbers() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        prop::collection::vec(0u32..200, 0..40),
        prop::collection::vec(0u32..100_000, 200..1500),
    ]
}

/// A set and a descendant of it: entries removed, added and changed.
fn two_sets() -> impl Strategy<Value = (Entries, Entries)> {
    let edits = prop::collection::vec((0u32..100_000, 0..3u8), 0..30);
    (
        numbers(),
        edits,
        prop::option::of((0usize..1500, 0usize..600)),
        any::<bool>(),
    )
        .prop_map(|(numbers, edits, cut, heavy)| {
            let before = set(&numbers, 0, heavy);
            let mut after = before.clone();
            if let Some((from, len)) = cut {
                let gone: Vec<_> = after.keys().skip(from).take(len).cloned().collect();
                after.retain(|key, _| gone.binary_search(key).is_err());
            }
            for (number, what) in edits {
                let near = after.range(key(number)..).next().map(|(key, _)| key.clone());
                match (what, near) {
                    (0, Some(near)) => drop(after.remove(&near)),
                    (1, Some(near)) => {
                        let changed = entry(near.clone(), u64::from(number) + 1_000_000, 30);
                        after.insert(near, changed);
                    }
                    _ => {
                        after.extend(set(&[number], 7, heavy));
                    }
                }
            }
            (before, after)
        })
}

fn tree_of(nodes: &MemoryNodes, entries: &Entries) -> TreeReader {
    reader(nodes, build(nodes, entries.values()))
}

/// The chapter's section 5 word by word: cut a level, name its nodes, cut again until one is left.
fn root_by_the_text(entries: &Entries) -> (BlobId, u8) {
    let cut = |level: u8, keys: &[Key], sizes: &[usize]| {
        let (mut cuts, mut start, mut size) = (vec![0], 0, 0);
        for i in 0..keys.len() {
            if i > start && (size + sizes[i] > 262_136 || border().is_border(level, &keys[i - 1])) {
                cuts.push(i);
                (start, size) = (i, 0);
            }
            size += sizes[i];
        }
        cuts.push(keys.len());
        cuts
    };
    let id = |node: &Node| BlobId(*blake3::hash(&node.encode()).as_bytes());
    let name = |node: &Node| Child {
        last: node.last_key().cloned().unwrap(),
        id: id(node),
        totals: node.totals().unwrap(),
    };
    let size = |encode: &dyn Fn(&mut Encoder)| {
        let mut out = Encoder::new();
        encode(&mut out);
        out.len()
    };
    let values: Vec<_> = entries.values().cloned().map(Arc::new).collect();
    let keys: Vec<_> = entries.keys().cloned().collect();
    let sizes: Vec<_> = values.iter().map(|e| size(&|out| e.encode(out))).collect();
    let cuts = cut(0, &keys, &sizes);
    let mut nodes: Vec<Node> = cuts
        .windows(2)
        .map(|w| Node::Leaf(values[w[0]..w[1]].to_vec()))
        .collect();
    let mut level = 0;
    while nodes.len() > 1 {
        level += 1;
        let children: Vec<_> = nodes.iter().map(name).collect();
        let keys: Vec<_> = children.iter().map(|c| c.last.clone()).collect();
        let sizes: Vec<_> = children.iter().map(|c| size(&|out| c.encode(out))).collect();
        let inner = |w: &[usize]| Node::Inner {
            level,
            children: children[w[0]..w[1]].to_vec(),
        };
        nodes = cut(level, &keys, &sizes).windows(2).map(inner).collect();
    }
    (id(&nodes[0]), level)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_root_is_the_one_that_the_chapter_describes(numbers in numbers(), heavy: bool) {
        let entries = set(&numbers, 0, heavy);
        let nodes = MemoryNodes::new();
        let root = build(&nodes, entries.values());
        prop_assert_eq!((root.id, root.height), root_by_the_text(&entries));
        prop_assert_eq!(root.entries, entries.len() as u64);
        prop_assert_eq!(root.bytes, entries.values().map(EntryRecord::content_bytes).sum::<u64>());
        // No node is written that the tree does not have.
        let read = collect(reader(&nodes, root).entries()).map(|_| nodes.take_counts().nodes_read.len());
        prop_assert_eq!(read.unwrap(), nodes.len());
    }

    #[test]
    fn what_was_built_is_read_back((before, after) in two_sets()) {
        let nodes = MemoryNodes::new();
        for set in [&before, &after] {
            let read = collect(tree_of(&nodes, set).with_read_ahead(8).entries()).unwrap();
            prop_assert!(read.iter().map(|e| &**e).eq(set.values()));
        }
    }

    #[test]
    fn history_leaves_no_trace_in_a_tree((before, after) in two_sets()) {
        // `after` made from a tree of `before`, unchanged entries taken over from it, is the tree built from nothing.
        let nodes = MemoryNodes::new();
        let prior = TreePrior::new(tree_of(&nodes, &before), Time::default());
        let old: Vec<_> = collect(prior.entries(Key::empty())).unwrap();
        let old: BTreeMap<_, _> = old.iter().map(|e| (e.key().clone(), e.record().clone())).collect();
        let merged: Vec<_> = after
            .values()
            .map(|new| old.get(&new.key).filter(|old| ***old == *new).map_or_else(|| Arc::new(new.clone()), Arc::clone))
            .collect();
        let grown = build(&nodes, merged.iter().map(|e| &**e));
        let fresh = build(&MemoryNodes::new(), after.values());
        prop_assert_eq!(grown, fresh);
    }

    #[test]
    fn a_range_is_a_filter(numbers in numbers(), start in 0u32..100_000, prefix in "(|a|a/1|a/12/|b|bxx|c/0000|d|\u{0}1)", heavy: bool) {
        let entries = set(&numbers, 0, heavy);
        let tree = tree_of(&MemoryNodes::new(), &entries).with_read_ahead(4);
        let (start, prefix) = (key(start), Key::from(prefix.as_str()));
        let expected = |from: &Key| {
            entries.values().filter(|e| e.key >= *from && e.key.starts_with(&prefix)).cloned().collect::<Vec<_>>()
        };
        let found = |stream| collect(stream).unwrap().iter().map(|e: &Arc<EntryRecord>| (**e).clone()).collect::<Vec<_>>();
        prop_assert_eq!(found(tree.range(start.clone(), prefix.clone())), expected(&start));
        prop_assert_eq!(found(tree.under(prefix.clone())), expected(&Key::empty()));
        prop_assert_eq!(run(tree.get(&start)).unwrap().map(|e| (*e).clone()), entries.get(&start).cloned());
    }

    #[test]
    fn a_diff_is_the_difference_of_the_sets((before, after) in two_sets()) {
        let nodes = MemoryNodes::new();
        let (b, a) = (tree_of(&nodes, &before), tree_of(&nodes, &after));
        let changes = collect(diff(&b, &a)).unwrap();
        let mut expected = Vec::new();
        let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        for key in keys {
            match (before.get(key).cloned().map(Arc::new), after.get(key).cloned().map(Arc::new)) {
                (Some(b), None) => expected.push(Change::Removed(b)),
                (None, Some(a)) => expected.push(Change::Added(a)),
                (Some(before), Some(after)) if before != after => expected.push(Change::Changed { before, after }),
                _ => {}
            }
        }
        prop_assert!(changes == expected, "{} changes, expected {}", changes.len(), expected.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_node_with_flipped_bytes_is_refused_or_has_no_other_encoding(
        level in 0u8..3,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let entries: Vec<_> = (0..4).map(|n| Arc::new(entry(key(5 * n + 3), u64::from(n), 20))).collect();
        let child = |n: u32| Child {
            last: key(5 * n + 3),
            id: BlobId([7; 32]),
            totals: Totals { entries: 300, bytes: 70_000 },
        };
        let node = match level {
            0 => Node::Leaf(entries),
            level => Node::Inner { level, children: (0..4).map(child).collect() },
        };
        let mut bytes = node.encode();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(node) = Node::decode(&bytes) {
            prop_assert_eq!(node.encode(), bytes);
        }
    }
}

#[test]
fn a_tree_of_nothing_is_one_empty_leaf() {
    let nodes = MemoryNodes::new();
    let root = build(&nodes, []);
    assert_eq!((root.height, root.entries, root.bytes), (0, 0, 0));
    assert_eq!(nodes.plaintext(root.id).unwrap(), [0x82, 0x00, 0x80].as_slice());
    assert!(collect(reader(&nodes, root).entries()).unwrap().is_empty());
    let one = build(&nodes, [&entry("a", 1, 0)]);
    assert_eq!(
        collect(diff(&reader(&nodes, root), &reader(&nodes, one)))
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        collect(diff(&reader(&nodes, one), &reader(&nodes, root)))
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn every_key_is_found_and_what_lies_between_is_not() {
    let entries: Vec<_> = (0..2000)
        .map(|n| entry(Key::from(format!("{n:05}").as_str()), n, 10))
        .collect();
    let nodes = MemoryNodes::new();
    let tree = reader(&nodes, build(&nodes, &entries));
    nodes.take_counts();
    for entry in &entries {
        assert_eq!(run(tree.get(&entry.key)).unwrap().as_deref(), Some(entry));
        assert_eq!(nodes.take_counts().nodes_read.len(), 2, "one path");
        let longer = Key::new([entry.key.as_bytes(), b"x"].concat());
        assert_eq!(run(tree.get(&longer)).unwrap(), None);
        let from_here = collect(tree.range(longer, Key::empty())).unwrap();
        assert!(from_here.first().is_none_or(|next| next.key > entry.key));
        nodes.take_counts();
    }
}

#[test]
fn the_largest_entries_have_leaves_of_their_own() {
    let nodes = MemoryNodes::new();
    let entries = [
        entry("a", 1, 10),
        entry("b", 2, 1_000_000),
        entry("c", 3, 10),
        entry("d", 4, 10),
    ];
    let root = build(&nodes, &entries);
    assert_eq!((root.height, nodes.len()), (1, 4));
    let read = collect(reader(&nodes, root).entries()).unwrap();
    assert!(read.iter().map(|e| &**e).eq(&entries));
}

#[test]
fn the_builder_refuses_disorder_and_stays_whole() {
    let nodes = MemoryNodes::new();
    let root = run(async {
        let mut builder = TreeBuilder::new(border(), nodes.clone());
        builder.add(&entry("b", 1, 0)).await.unwrap();
        for key in ["a", "b"] {
            let error = builder.add(&entry(key, 1, 0)).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.context("key")),
                (ErrorKind::Internal, Some(key))
            );
        }
        let mut too_large = entry("c", 1, 0);
        too_large.state = vec![0; 65_537].into();
        let error = builder.add(&too_large).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.causes()),
            (ErrorKind::Unsupported, vec!["over the limit: state".into()])
        );
        builder.add(&entry("c", 1, 0)).await.unwrap();
        builder.finish().await.unwrap().0
    });
    assert_eq!(
        root,
        build(&MemoryNodes::new(), &[entry("b", 1, 0), entry("c", 1, 0)])
    );
}

#[test]
fn a_sink_that_failed_once_leaves_no_tree_with_a_hole() {
    let entries: Vec<_> = (0..2000)
        .map(|n| entry(Key::from(format!("{n:05}").as_str()), n, 10))
        .collect();
    let good = MemoryNodes::new();
    let root = build(&good, &entries);
    collect(reader(&good, root).entries()).unwrap();
    let leaf = good.take_counts().nodes_read[3];
    let nodes = MemoryNodes::new();
    nodes.fail_put(leaf);
    run(async {
        let mut builder = TreeBuilder::new(border(), nodes.clone());
        let mut errors = Vec::new();
        for entry in &entries {
            errors.extend(builder.add(entry).await.err().map(|e| e.kind()));
        }
        assert_eq!(errors.first(), Some(&ErrorKind::Unreachable));
        assert!(errors.len() > 1 && errors[1..].iter().all(|kind| *kind == ErrorKind::Internal));
        assert_eq!(
            builder.finish().await.err().map(|e| e.kind()),
            Some(ErrorKind::Internal)
        );
    });
}

#[test]
fn totals_that_overflow_are_refused() {
    let mut huge = entry("a", 2, 0);
    huge.size = u64::MAX;
    huge.content = match huge.content {
        holdall::format::entry::ContentRecord::Refs { mut refs, .. } => {
            refs[0] = holdall::format::entry::BlobRef {
                id: BlobId::HOLE,
                len: u64::MAX,
            };
            holdall::format::entry::ContentRecord::Refs { level: 0, refs }
        }
        other => other,
    };
    run(async {
        let mut builder = TreeBuilder::new(border(), MemoryNodes::new());
        builder.add(&huge).await.unwrap();
        let error = builder.add(&entry("b", 1, 0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(builder.finish().await.unwrap().0.bytes, u64::MAX);
    });
    assert!(
        Totals {
            entries: 1,
            bytes: u64::MAX
        }
        .plus(Totals { entries: 1, bytes: 1 })
        .is_err()
    );
}

#[test]
fn read_ahead_names_each_leaf_of_the_range_once_and_no_other() {
    let entries: Vec<_> = (0..20_000)
        .map(|n| entry(Key::from(format!("{n:05}").as_str()), n, 10))
        .collect();
    let nodes = MemoryNodes::new();
    let root = build(&nodes, &entries);
    for prefix in ["", "1", "123", "12345"] {
        nodes.take_counts();
        let tree = reader(&nodes, root).with_read_ahead(6);
        let mut stream = tree.under(Key::from(prefix));
        let found = run(async {
            let mut found = 0;
            while stream.try_next().await.unwrap().is_some() {
                found += 1;
            }
            found
        });
        assert_eq!(
            found,
            entries
                .iter()
                .filter(|e| e.key.starts_with(&Key::from(prefix)))
                .count()
        );
        let counts = nodes.take_counts();
        let mut named = counts.named.clone();
        named.sort_unstable();
        named.dedup();
        assert_eq!(named.len(), counts.named.len(), "named twice under {prefix:?}");
        assert!(
            counts.named.iter().all(|id| counts.nodes_read.contains(id)),
            "named in vain under {prefix:?}"
        );
    }
    nodes.take_counts();
    collect(reader(&nodes, root).with_read_ahead(6).entries()).unwrap();
    let counts = nodes.take_counts();
    assert!(
        counts.named.len() * 10 > counts.nodes_read.len() * 9,
        "most nodes are named before they are read"
    );
}
