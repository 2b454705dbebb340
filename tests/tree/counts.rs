use super::{border, build, collect, entry, reader, run};
use futures::TryStreamExt;
use holdall::context::Time;
use holdall::format::entry::{EntryRecord, Key};
use holdall::format::snapshot::RootRecord;
use holdall::snapshot::entry::Prior;
use holdall::snapshot::tree::{Change, TreeBuilder, TreePrior, diff};
use holdall::testkit::nodes::MemoryNodes;
use std::collections::BTreeSet;

const MILLION: u32 = 1_000_000;

fn numbered(number: u32, version: u64) -> EntryRecord {
    let key = format!(
        "storage/1-objects/photos\0album/{:03}/img-{number:08}.jpg",
        number / 1000
    );
    entry(Key::from(key.as_str()), u64::from(number) + version, 60)
}

/// A million entries, of which `edit` takes some out or changes them.
fn million(nodes: &MemoryNodes, edit: impl Fn(u32) -> Vec<EntryRecord>) -> RootRecord {
    run(async {
        let mut builder = TreeBuilder::new(border(), nodes.clone());
        for number in 0..MILLION {
            for entry in edit(number) {
                builder.add(&entry).await.unwrap();
            }
        }
        builder.finish().await.unwrap().0
    })
}

#[test]
fn a_million_entries_cost_what_the_design_says() {
    let nodes = MemoryNodes::new();
    let root = million(&nodes, |number| vec![numbered(number, 0)]);
    let stored = nodes.take_counts().new;
    assert_eq!(stored, nodes.len());
    assert!(
        (6_500..9_500).contains(&stored),
        "{stored} nodes for a million entries"
    );
    let levels = usize::from(root.height) + 1;
    assert!((3..=5).contains(&levels), "{levels} levels");

    unchanged_reads_each_node_once_and_writes_none(&nodes, root);
    identical_trees_differ_without_reading(&nodes, root);
    ten_edits_read_few_nodes(&nodes, root, levels);
    one_key_reads_one_path(&nodes, root, levels);
}

fn unchanged_reads_each_node_once_and_writes_none(nodes: &MemoryNodes, root: RootRecord) {
    let before = nodes.len();
    let prior = TreePrior::new(reader(nodes, root), Time::default());
    let again = run(async {
        let mut builder = TreeBuilder::new(border(), nodes.clone());
        let mut entries = prior.entries(Key::empty());
        while let Some(entry) = entries.try_next().await.unwrap() {
            builder.add(entry.record()).await.unwrap();
        }
        builder.finish().await.unwrap().0
    });
    let counts = nodes.take_counts();
    assert_eq!(again, root);
    assert_eq!((counts.put, counts.new), (before, 0));
    assert_eq!(counts.nodes_read.len(), before, "each node is read");
    assert_eq!(
        counts.nodes_read.iter().collect::<BTreeSet<_>>().len(),
        before,
        "none twice"
    );
}

fn identical_trees_differ_without_reading(nodes: &MemoryNodes, root: RootRecord) {
    let tree = reader(nodes, root);
    assert!(collect(diff(&tree, &tree)).unwrap().is_empty());
    assert_eq!(nodes.take_counts().nodes_read.len(), 0);
}

/// Four changed, three removed, three added; removed and added keys are borders, the worst case.
fn ten_edits_read_few_nodes(nodes: &MemoryNodes, root: RootRecord, levels: usize) {
    let extra = |number: u32| {
        let mut tail = 0;
        loop {
            let mut key = numbered(number, 0).key.as_bytes().to_vec();
            key.extend_from_slice(format!("-{tail}").as_bytes());
            let key = Key::new(key);
            if border().is_border(0, &key) {
                return entry(key, 5, 60);
            }
            tail += 1;
        }
    };
    let next_border = |from: u32| {
        (from..MILLION)
            .find(|n| border().is_border(0, &numbered(*n, 0).key))
            .unwrap()
    };
    let removed = [17, 400_000, 900_001].map(next_border);
    let edited = million(nodes, |number| match number {
        1_000 | 250_000 | 500_000 | 999_999 => vec![numbered(number, 1)],
        123_456 | 654_321 | 777_777 => vec![numbered(number, 0), extra(number)],
        number if removed.contains(&number) => vec![],
        number => vec![numbered(number, 0)],
    });
    let new = nodes.take_counts().new;
    let changes = collect(diff(&reader(nodes, root), &reader(nodes, edited))).unwrap();
    let read = nodes.take_counts().nodes_read.len();
    let kinds = |is: fn(&Change) -> bool| changes.iter().filter(|c| is(c)).count();
    assert_eq!(kinds(|c| matches!(c, Change::Changed { .. })), 4);
    assert_eq!(kinds(|c| matches!(c, Change::Removed(_))), 3);
    assert_eq!(kinds(|c| matches!(c, Change::Added(_))), 3);
    assert!(
        read <= 4 * 10 * levels,
        "{read} nodes read for ten edits in {levels} levels"
    );
    assert!(
        new <= 2 * 10 * levels,
        "{new} nodes written for ten edits in {levels} levels"
    );
}

fn one_key_reads_one_path(nodes: &MemoryNodes, root: RootRecord, levels: usize) {
    let wanted = numbered(765_432, 0);
    let found = run(reader(nodes, root).get(&wanted.key)).unwrap();
    assert_eq!(found.as_deref(), Some(&wanted));
    assert_eq!(nodes.take_counts().nodes_read.len(), levels);
    let album = Key::from("storage/1-objects/photos\0album/500/");
    assert_eq!(collect(reader(nodes, root).under(album)).unwrap().len(), 1000);
    let read = nodes.take_counts().nodes_read.len();
    assert!(read < 40, "{read} nodes read for a thousand entries");
}

#[test]
fn a_row_of_many_changes_is_compared_without_losing_step() {
    // Ten thousand entries fall away in one place: both trees are read there, and nowhere else.
    let nodes = MemoryNodes::new();
    let all: Vec<_> = (0..100_000).map(|n| numbered(n, 0)).collect();
    let before = build(&nodes, &all);
    let kept = all[..30_000].iter().chain(&all[40_000..]);
    let after = build(&nodes, kept);
    nodes.take_counts();
    assert_eq!(
        collect(diff(&reader(&nodes, before), &reader(&nodes, after)))
            .unwrap()
            .len(),
        10_000
    );
    let read = nodes.take_counts().nodes_read.len();
    assert!(
        read < 130,
        "{read} nodes read; 10,000 entries are about 79 leaves"
    );
}
