//! Vectors of nodes, lists, index runs and directories.

use super::records::{encode, refused};
use super::{File, hex};
use crate::vectors::as_json;
use holdall::format::cbor::Decoder;
use holdall::format::entry;
use holdall::format::index::{Codec, EntrySum, Tables};
use holdall::format::node::Node;
use holdall::format::pack::PackTrailer;
use holdall::testkit::arbitrary::Gen;
use serde_json::json;
use std::sync::Arc;

pub(super) fn all() -> Vec<File> {
    vec![nodes(), lists(), tables(), trailers(), sums()]
}

fn nodes() -> File {
    let mut file = File::new("records/node.json", "record", "Nodes of the tree.");
    let mut g = Gen::new(42);
    let mut entries: Vec<_> = (0..4).map(|_| Arc::new(g.entry())).collect();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let leaf = Node::Leaf(entries.clone()).encode();
    let empty = Node::Leaf(Vec::new()).encode();
    for (name, bytes) in [("leaf", &leaf), ("empty leaf", &empty)] {
        let value = as_json(&mut Decoder::new(bytes));
        file.add(
            name,
            json!({"record": "node", "bytes": hex(bytes), "value": value}),
        );
    }
    let child =
        |key: &[u8], entries: u64| encode(|e| e.array(4).bytes(key).bytes(&[5; 32]).uint(entries).uint(9));
    let inner = |level: u64, children: &[Vec<u8>]| {
        encode(|e| {
            let head = e.array(2).uint(level).array(children.len());
            children.iter().fold(head, |e, c| e.raw(c))
        })
    };
    let good = inner(1, &[child(b"a", 1), child(b"b", 7)]);
    file.add(
        "inner",
        json!({"record": "node", "bytes": hex(&good), "value": as_json(&mut Decoder::new(&good))}),
    );
    entries.reverse();
    for (name, bytes, error) in [
        ("nothing", Vec::new(), "truncated"),
        ("entries descend", Node::Leaf(entries).encode(), "not canonical"),
        (
            "keys of an inner node descend",
            inner(1, &[child(b"b", 1), child(b"a", 7)]),
            "not canonical",
        ),
        ("inner node without children", inner(1, &[]), "invalid"),
        ("child without entries", inner(1, &[child(b"a", 0)]), "invalid"),
        ("level 16", inner(16, &[child(b"a", 1)]), "over limit"),
        ("more bytes", [leaf.clone(), vec![0]].concat(), "not canonical"),
        ("cut off", leaf[..leaf.len() - 1].to_vec(), "truncated"),
    ] {
        refused(&mut file, "node", name, &bytes, error);
    }
    file
}

fn lists() -> File {
    let mut file = File::new(
        "records/list.json",
        "record",
        "List blobs whose references stand at level 0.",
    );
    let one = |len: u64, byte: u8| [vec![byte; 32], len.to_le_bytes().to_vec()].concat();
    let list = |level: u8, refs: &[Vec<u8>]| [vec![level], refs.concat()].concat();
    let good = list(0, &[one(5, 1), one(1 << 50, 0), one(16 << 20, 2)]);
    assert!(entry::decode_list(&good, 0).is_ok());
    file.add(
        "chunks and a hole",
        json!({"record": "list", "bytes": hex(&good)}),
    );
    for (name, bytes, error) in [
        ("nothing", Vec::new(), "invalid"),
        ("no reference", list(0, &[]), "invalid"),
        ("another level", list(1, &[one(5, 1)]), "invalid"),
        ("length 0", list(0, &[one(0, 1)]), "invalid"),
        (
            "chunk over its limit",
            list(0, &[one((16 << 20) + 1, 1)]),
            "invalid",
        ),
        ("cut off", good[..good.len() - 1].to_vec(), "truncated"),
    ] {
        refused(&mut file, "list", name, &bytes, error);
    }
    file
}

type Edit = fn(&mut Tables);

fn filled(g: &mut Gen, directory: bool, fits: impl Fn(&Tables) -> bool) -> Tables {
    loop {
        let tables = g.tables(directory);
        if fits(&tables) {
            return tables;
        }
    }
}

fn tables() -> File {
    let mut file = File::new(
        "index/tables.json",
        "record",
        "Index runs and directories of packs.",
    );
    let mut g = Gen::new(43);
    let rich = |t: &Tables| t.packs.len() > 1 && t.entries.len() > 3 && t.bases.len() > 1;
    for n in 1..=3 {
        let run = filled(&mut g, false, rich);
        file.add(
            &format!("run {n}"),
            json!({"record": "index run", "bytes": hex(&run.encode())}),
        );
        let directory = filled(&mut g, true, |t| t.entries.len() > 2);
        file.add(
            &format!("directory {n}"),
            json!({"record": "directory", "bytes": hex(&directory.encode())}),
        );
    }
    file.add(
        "empty run",
        json!({"record": "index run", "bytes": hex(&[0; 16])}),
    );
    let good = filled(&mut g, false, rich);
    let edits: [(&str, &str, Edit); 22] = [
        ("packs descend", "not canonical", |t| t.packs.reverse()),
        ("blocks descend", "not canonical", |t| t.blocks.reverse()),
        ("entries descend", "not canonical", |t| t.entries.reverse()),
        ("entry twice", "not canonical", |t| {
            t.entries.insert(0, t.entries[0]);
        }),
        ("bases descend", "not canonical", |t| t.bases.reverse()),
        ("block of no pack", "invalid", |t| {
            t.blocks.last_mut().unwrap().pack = 1000;
        }),
        ("blocks do not begin at 0", "invalid", |t| {
            t.blocks[0].record = 1_000;
        }),
        ("gap between blocks", "invalid", |t| t.blocks[0].offset += 1),
        ("blocks begin before the header ends", "invalid", |t| {
            t.blocks[0].offset = 103;
        }),
        ("block without bytes", "invalid", |t| t.blocks[0].plain = 0),
        ("raw block of another length", "invalid", |t| {
            let raw = t.blocks.iter_mut().find(|b| b.codec == Codec::Raw).unwrap();
            raw.plain += 1;
        }),
        ("pack without blocks", "invalid", |t| {
            t.blocks.clear();
            t.entries.clear();
            t.bases.clear();
        }),
        ("pack too small for its blocks", "invalid", |t| {
            t.packs[0].size = 196;
        }),
        ("pack over its limit", "over limit", |t| {
            t.packs[0].size = (64 << 20) + 1;
        }),
        ("pack with the header of another type", "header", |t| {
            t.packs[0].header[7] = 4;
        }),
        ("entry of no block", "invalid", |t| t.entries[0].block = 1000),
        ("entry beyond its block", "invalid", |t| {
            t.entries[0].encoded = u32::MAX;
        }),
        ("entry without bytes", "invalid", |t| t.entries[0].encoded = 0),
        ("plain blob of two lengths", "invalid", |t| {
            t.entries.iter_mut().find(|e| !e.delta).unwrap().plain += 1;
        }),
        ("delta without a base", "invalid", |t| {
            t.bases.truncate(t.bases.len() - 1);
        }),
        ("base without a delta", "invalid", |t| {
            t.bases.push((1000, t.bases[0].1));
        }),
        ("delta against itself", "invalid", |t| {
            let (of, _) = t.bases[0];
            t.bases[0].1 = t.entries[of as usize].id;
        }),
    ];
    for (name, error, edit) in edits {
        let mut wrong = good.clone();
        edit(&mut wrong);
        refused(&mut file, "index run", name, &wrong.encode(), error);
    }
    let bytes = good.encode();
    refused(
        &mut file,
        "index run",
        "cut off",
        &bytes[..bytes.len() - 1],
        "truncated",
    );
    refused(
        &mut file,
        "index run",
        "more bytes",
        &[bytes.clone(), vec![0]].concat(),
        "not canonical",
    );
    refused(
        &mut file,
        "index run",
        "counts of 2³² − 1",
        &[0xff; 64],
        "truncated",
    );
    refused(
        &mut file,
        "directory",
        "directory that lists packs",
        &bytes,
        "invalid",
    );
    refused(
        &mut file,
        "directory",
        "directory without blocks",
        &[0; 16],
        "invalid",
    );
    let at = 16 + good.packs.len() * 144;
    let mut codec = bytes.clone();
    codec[at + 20] = 2;
    refused(&mut file, "index run", "unknown codec", &codec, "unknown version");
    let mut reserved = bytes.clone();
    reserved[16 + 143] = 1;
    refused(
        &mut file,
        "index run",
        "reserved bytes of a pack",
        &reserved,
        "not canonical",
    );
    let entry = at + good.blocks.len() * 24;
    for (name, offset, value) in [
        ("unknown kind", 32, 3),
        ("unknown encoding", 33, 2),
        ("reserved byte of an entry", 34, 1),
    ] {
        let mut wrong = bytes.clone();
        wrong[entry + offset] = value;
        refused(&mut file, "index run", name, &wrong, "unknown version");
    }
    file
}

fn trailers() -> File {
    let mut file = File::new(
        "packs/trailer.json",
        "record",
        "The plaintext of a pack's trailer.",
    );
    let make = |offset, sealed, blocks| {
        PackTrailer {
            offset,
            sealed,
            blocks,
        }
        .encode()
    };
    file.add(
        "example",
        json!({"record": "pack trailer", "bytes": hex(&make(1000, 500, 3))}),
    );
    for (name, bytes, error) in [
        ("inside the header", make(103, 500, 3), "invalid"),
        ("no block", make(104, 500, 0), "invalid"),
        ("shorter than a tag", make(104, 15, 1), "invalid"),
        ("too many blocks", make(104, 500, (1 << 20) - 1), "over limit"),
        (
            "directory over its limit",
            make(104, (16 << 20) + 17, 1),
            "over limit",
        ),
        ("cut off", make(1000, 500, 3)[..11].to_vec(), "truncated"),
        ("more bytes", [make(1000, 500, 3), vec![0]].concat(), "invalid"),
    ] {
        refused(&mut file, "pack trailer", name, &bytes, error);
    }
    file
}

fn sums() -> File {
    let mut file = File::new(
        "index/entry-sum.json",
        "entry sum",
        "Count and order-independent hash over the entries of runs, without those in dead packs.",
    );
    let mut g = Gen::new(44);
    let full = |t: &Tables| t.packs.len() > 1 && t.entries.len() > 3;
    let runs: Vec<_> = (0..3).map(|_| filled(&mut g, false, full)).collect();
    let mut add = |name: &str, runs: &[&Tables], dead: &[String]| {
        let mut sum = EntrySum::default();
        for run in runs {
            sum.add(run, |id| !dead.contains(&id.to_string()));
        }
        let bytes: Vec<_> = runs.iter().map(|run| hex(&run.encode())).collect();
        file.add(
            name,
            json!({"runs": bytes, "dead": dead, "count": sum.count, "hash": hex(&sum.hash())}),
        );
    };
    let dead = vec![runs[0].packs[0].id.to_string(), runs[2].packs[1].id.to_string()];
    add("nothing", &[], &[]);
    add("one run", &[&runs[0]], &[]);
    add("three runs", &[&runs[0], &runs[1], &runs[2]], &[]);
    add("the same in another order", &[&runs[2], &runs[0], &runs[1]], &[]);
    add("without two packs", &[&runs[0], &runs[1], &runs[2]], &dead);
    file
}
