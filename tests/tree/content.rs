//! Lists of references.

use super::{collect, entry, run};
use holdall::error::ErrorKind;
use holdall::format::entry::{BlobRef, ContentRecord, EntryRecord, encode_list};
use holdall::format::id::BlobId;
use holdall::snapshot::tree::{ContentWriter, content_refs};
use holdall::testkit::nodes::MemoryNodes;
use proptest::prelude::*;
use std::sync::Arc;

const HOLE: BlobRef = BlobRef {
    id: BlobId::HOLE,
    len: 4096,
};

fn reference(number: u64) -> BlobRef {
    BlobRef {
        id: BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        len: 1 + number % 999,
    }
}

fn write(nodes: &MemoryNodes, refs: &[BlobRef]) -> ContentRecord {
    run(async {
        let mut sink = nodes.clone();
        let mut writer = ContentWriter::new();
        for r in refs {
            writer.push(*r, &mut sink).await.unwrap();
        }
        writer.finish(&mut sink).await.unwrap()
    })
}

fn entry_of(content: ContentRecord) -> EntryRecord {
    EntryRecord {
        content,
        ..entry("k", 1, 0)
    }
}

fn read(nodes: &MemoryNodes, content: ContentRecord) -> holdall::error::Result<Vec<BlobRef>> {
    collect(content_refs(Arc::new(nodes.clone()), &entry_of(content)))
}

/// Section 4.2 word by word.
fn by_the_text(mut refs: Vec<BlobRef>) -> ContentRecord {
    let mut level = 0;
    while refs.len() > 64 {
        let mut next = Vec::new();
        let mut list: Vec<BlobRef> = Vec::new();
        let total = refs.len();
        for (i, r) in refs.into_iter().enumerate() {
            list.push(r);
            let low = u16::from_le_bytes([r.id.0[0], r.id.0[1]]) < 64 && r.id != BlobId::HOLE;
            if low || list.len() == 4096 || i + 1 == total {
                let id = BlobId(*blake3::hash(&encode_list(level, &list)).as_bytes());
                let len = list.iter().map(|r| r.len).sum();
                next.push(BlobRef { id, len });
                list.clear();
            }
        }
        (refs, level) = (next, level + 1);
    }
    ContentRecord::Refs { level, refs }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn lists_are_those_of_the_chapter_and_read_back(
        count in prop_oneof![1usize..140, 4000usize..9000],
        seed: u32,
        repeat in prop_oneof![Just(u64::MAX), 1u64..2000],
        holes in prop_oneof![Just(u64::MAX), 2u64..50],
    ) {
        let refs: Vec<_> = (0..count as u64)
            .map(|n| if n % holes == 1 { HOLE } else { reference(u64::from(seed) + n % repeat) })
            .collect();
        let nodes = MemoryNodes::new();
        let content = write(&nodes, &refs);
        prop_assert_eq!(&content, &by_the_text(refs.clone()));
        prop_assert_eq!(read(&nodes, content).unwrap(), refs);
    }
}

#[test]
fn a_million_chunks_take_two_levels_and_an_insertion_changes_one_list_of_each() {
    let nodes = MemoryNodes::new();
    let mut refs: Vec<_> = (0..1_000_000).map(reference).collect();
    let content = write(&nodes, &refs);
    assert!(
        matches!(content, ContentRecord::Refs { level: 2, .. }),
        "{content:?}"
    );
    let lists = nodes.take_counts().new;
    assert!((800..1_400).contains(&lists), "{lists} lists");
    refs.insert(300_000, reference(5_000_000));
    write(&nodes, &refs);
    let new = nodes.take_counts().new;
    assert!((2..=4).contains(&new), "{new} lists are new");
}

#[test]
fn a_sparse_file_does_not_fall_into_tiny_lists() {
    let nodes = MemoryNodes::new();
    let refs: Vec<_> = (0..10_000).flat_map(|n| [reference(n), HOLE]).collect();
    write(&nodes, &refs);
    assert!(nodes.len() < 40, "{} lists", nodes.len());
}

#[test]
fn no_content_has_no_record_and_64_references_stay_in_the_entry() {
    let nodes = MemoryNodes::new();
    assert_eq!(write(&nodes, &[]), ContentRecord::None);
    assert!(read(&nodes, ContentRecord::None).unwrap().is_empty());
    let refs: Vec<_> = (0..64).map(reference).collect();
    assert_eq!(write(&nodes, &refs), ContentRecord::Refs { level: 0, refs });
    assert!(nodes.is_empty());
}

#[test]
fn a_list_that_is_not_what_is_said_of_it_is_damage() {
    let nodes = MemoryNodes::new();
    let refs = [reference(1), reference(2)];
    let len = refs[0].len + refs[1].len;
    let list = |bytes: Vec<u8>, len| BlobRef {
        id: nodes.insert(bytes),
        len,
    };
    let good = list(encode_list(0, &refs), len);
    let at = |level, r| ContentRecord::Refs { level, refs: vec![r] };
    assert_eq!(read(&nodes, at(1, good)).unwrap(), refs);
    let cases = [
        at(1, BlobRef { len: len + 1, ..good }),
        at(1, list(encode_list(1, &refs), len)),
        at(2, good),
        at(1, list(encode_list(0, &[]), 1)),
        at(1, list(vec![0; 40], 1)),
        at(
            1,
            list(encode_list(0, &vec![reference(1); 4097]), 4097 * reference(1).len),
        ),
    ];
    for content in cases {
        let ContentRecord::Refs { refs, .. } = &content else {
            unreachable!()
        };
        let id = refs[0].id.to_string();
        let error = read(&nodes, content).unwrap_err();
        assert_eq!(
            (error.kind(), error.context("list")),
            (ErrorKind::Damaged, Some(id.as_str()))
        );
    }
}
