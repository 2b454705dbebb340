//! `format-spec/vectors/tree/`: every file in the folder, every vector in the file.

use super::run;
use bytes::Bytes;
use holdall::format::cbor::{Decoder, Encoder};
use holdall::format::entry::{BlobRef, ContentRecord, EntryKind, EntryRecord, Key, decode_list, encode_list};
use holdall::format::error::DecodeError;
use holdall::format::id::{hex, unhex};
use holdall::format::metadata::{Metadata, Value as Field};
use holdall::format::node::{BorderKey, Node};
use holdall::snapshot::tree::TreeBuilder;
use holdall::testkit::nodes::MemoryNodes;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Bytes in hex, long runs as `{"repeat", "times"}`.
fn bytes(value: &Value) -> Vec<u8> {
    let unhex = |text: &str| -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2);
        pairs
            .map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap())
            .collect()
    };
    match value {
        Value::String(text) => unhex(text),
        Value::Array(parts) => parts.iter().flat_map(bytes).collect(),
        Value::Object(run) => unhex(run["repeat"].as_str().unwrap())
            .repeat(usize::try_from(run["times"].as_u64().unwrap()).unwrap()),
        _ => panic!("not bytes: {value}"),
    }
}

fn level(vector: &Value) -> u8 {
    u8::try_from(vector["level"].as_u64().unwrap()).unwrap()
}

/// What this program finds, as members that the vector must have.
fn outcome(vector: &Value) -> Result<Value, DecodeError> {
    match vector["type"].as_str().unwrap() {
        "entry" => entry(&bytes(&vector["bytes"])),
        "node" => node(&bytes(&vector["bytes"])),
        "list" => list(&bytes(&vector["bytes"]), level(vector)),
        "border" => {
            let key = Key::new(bytes(&vector["key"]));
            Ok(json!({ "border": border_key(vector).is_border(level(vector), &key) }))
        }
        "tree" => Ok(tree(vector)),
        other => panic!("no such type of vector: {other}"),
    }
}

fn border_key(vector: &Value) -> BorderKey {
    BorderKey::new(unhex(vector["border_key"].as_str().unwrap()).unwrap())
}

fn entry(input: &[u8]) -> Result<Value, DecodeError> {
    let mut decoder = Decoder::new(input);
    let entry = EntryRecord::decode(&mut decoder)?;
    decoder.finish()?;
    let mut again = Encoder::new();
    entry.encode(&mut again);
    assert_eq!(again.finish(), input, "one encoding");
    entry.metadata.fields()?;
    Ok(json!({
        "key": hex(entry.key.as_bytes()),
        "kind": entry.kind as u8,
        "size": entry.size,
        "state_bytes": entry.state.len(),
        "content_bytes": entry.content_bytes(),
    }))
}

fn node(input: &[u8]) -> Result<Value, DecodeError> {
    let node = Node::decode(input)?;
    assert_eq!(node.encode(), input, "one encoding");
    let totals = node.totals()?;
    let key = |key: Option<&Key>| key.map(|k| hex(k.as_bytes())).unwrap_or_default();
    Ok(json!({
        "level": node.level(),
        "first": key(node.first_key()),
        "last": key(node.last_key()),
        "elements": node.elements(),
        "entries": totals.entries,
        "content_bytes": totals.bytes,
    }))
}

fn list(input: &[u8], level: u8) -> Result<Value, DecodeError> {
    let refs = decode_list(input, level)?;
    assert_eq!(encode_list(level, &refs), input, "one encoding");
    Ok(json!({
        "refs": refs.iter().map(|r| json!([r.id.to_string(), r.len])).collect::<Vec<_>>(),
        "ends": refs.iter().map(BlobRef::ends_list).collect::<Vec<_>>(),
    }))
}

/// The entries that a vector gives, or describes.
fn entries(vector: &Value) -> Vec<EntryRecord> {
    if let Some(given) = vector["given"].as_array() {
        let decode = |value| EntryRecord::decode(&mut Decoder::new(&bytes(value))).unwrap();
        return given.iter().map(decode).collect();
    }
    let number = |name: &str| usize::try_from(vector[name].as_u64().unwrap()).unwrap();
    let (state, rare) = (number("state_bytes"), number("rare_metadata_bytes"));
    let entry = |n: usize| EntryRecord {
        key: Key::from(format!("k/{n:06}").as_str()),
        kind: EntryKind::File,
        metadata: if rare > 0 && n % 1000 == 500 {
            Metadata::new(&[(0, Field::Bytes(vec![0; rare]))]).unwrap()
        } else {
            Metadata::default()
        },
        state: vec![b's'; state].into(),
        size: 3,
        content: ContentRecord::Inline(Bytes::from_static(b"abc")),
        whole: None,
    };
    (0..number("count")).map(entry).collect()
}

fn tree(vector: &Value) -> Value {
    let nodes = MemoryNodes::new();
    let root = run(async {
        let mut builder = TreeBuilder::new(border_key(vector), nodes.clone());
        for entry in entries(vector) {
            builder.add(&entry).await.unwrap();
        }
        builder.finish().await.unwrap().0
    });
    let mut per_level = BTreeMap::new();
    let mut next = vec![root.id];
    while let Some(id) = next.pop() {
        let node = Node::decode(&nodes.plaintext(id).unwrap()).unwrap();
        *per_level.entry(node.level()).or_insert(0) += 1;
        if let Node::Inner { children, .. } = node {
            next.extend(children.iter().map(|child| child.id));
        }
    }
    json!({
        "root": { "id": root.id.to_string(), "height": root.height, "entries": root.entries, "bytes": root.bytes },
        "nodes_per_level": per_level.values().collect::<Vec<_>>(),
    })
}

#[test]
fn every_vector_has_the_outcome_that_it_expects() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/format-spec/vectors/tree");
    let mut vectors = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            let all: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            vectors.extend(all);
        }
    }
    assert!(vectors.len() > 100, "only {} vectors found", vectors.len());
    let mut wrong = Vec::new();
    for vector in &vectors {
        let name = format!("{} {}", vector["type"], vector["name"]);
        let (found, members) = match outcome(vector) {
            Ok(members) => ("success", members),
            Err(error) => (error.class(), json!({})),
        };
        if vector["expect"] != found {
            wrong.push(format!("{name}: expected {}, found {found}", vector["expect"]));
            continue;
        }
        for (member, value) in members.as_object().unwrap() {
            if vector[member] != *value {
                wrong.push(format!(
                    "{name}: {member} is {value}, expected {}",
                    vector[member]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
