//! Vectors of names, session ids, and the marker.

use super::{File, hex};
use holdall::format::id::RepositoryId;
use holdall::format::layout::ObjectName;
use holdall::format::repo_config::{Features, Marker};
use holdall::testkit::arbitrary::Gen;
use serde_json::json;

pub(super) fn all() -> Vec<File> {
    vec![names(), sids(), marker()]
}

fn names() -> File {
    let mut file = File::new("layout/names.json", "name", "Names of objects.");
    let mut g = Gen::new(5);
    let (sid, id) = (g.sid(), holdall::format::id::ObjectId(g.array()));
    let good = [
        ObjectName::Marker,
        ObjectName::Key(0),
        ObjectName::Key(u32::MAX),
        ObjectName::Config(12),
        ObjectName::Pack(id),
        ObjectName::SessionRun(sid, id),
        ObjectName::CollectorRun(3, id),
        ObjectName::Session(sid),
        ObjectName::Snapshot(sid),
        ObjectName::Forget(sid),
        ObjectName::Condemned(1),
        ObjectName::State(u64::MAX, id),
        ObjectName::Seal(0x1f),
        ObjectName::Note(sid, 10),
        ObjectName::Refs(g.blob_id()),
        ObjectName::Ledger(255),
        ObjectName::Reserve(3),
        ObjectName::Reserve(128),
    ];
    for name in good {
        file.add(&name.to_string(), json!({"text": name.to_string()}));
    }
    let pack = ObjectName::Pack(id).to_string();
    let mut bad: Vec<String> = [
        "",
        "/",
        "holdall.json/",
        "Holdall.json",
        "keys",
        "keys/",
        "keys/01",
        "keys/-1",
        "keys/+1",
        "keys/4294967296",
        "keys//1",
        "config/0/",
        "reserve/127",
        "reserve/256",
        "reserve/4",
        "reserve/00",
        "gc/1/seal",
        "gc/0000000000000000/seal",
        "gc/000000000000000A/seal",
        "gc/0000000000000001/state",
        "ledger/0",
        "ledger/0000000G",
        "locks/1",
        "packs/12/../x",
    ]
    .map(str::to_owned)
    .to_vec();
    bad.push(pack.to_uppercase());
    bad.push(format!("{pack}/"));
    bad.push(pack.replacen("packs/", "packs//", 1));
    bad.push(format!("packs/00{}", &pack[8..]));
    bad.push(format!("sessions/{sid}x"));
    bad.push(format!("sessions/{:016x}-{}", sid.epoch, "0".repeat(32)));
    bad.push(format!("notes/{sid}/1"));
    for text in bad {
        file.add(
            &format!("refused: {text}"),
            json!({"text": text, "error": "invalid"}),
        );
    }
    file
}

fn sids() -> File {
    let mut file = File::new(
        "ids/session.json",
        "session id",
        "Session ids as text and as bytes.",
    );
    let mut g = Gen::new(6);
    for _ in 0..3 {
        let sid = g.sid();
        file.add(
            &sid.to_string(),
            json!({"text": sid.to_string(), "bytes": hex(&sid.to_bytes())}),
        );
    }
    let text = g.sid().to_string();
    for bad in [
        text.to_uppercase(),
        text.replace('-', ""),
        text[1..].to_owned(),
        format!("{text}0"),
        "0000000000000000-00000000000000000000000000000000".into(),
    ] {
        file.add(
            &format!("refused: {bad}"),
            json!({"text": bad, "error": "invalid"}),
        );
    }
    file
}

fn marker() -> File {
    let mut file = File::new("config/marker.json", "marker", "holdall.json, byte for byte.");
    let repository = RepositoryId([0xab; 16]);
    let make = |features| Marker { repository, features }.encode();
    let good = make(Features::default());
    let positive = |features: Features| {
        json!({"bytes": hex(&make(features)), "repository": repository.to_string(),
            "features": [features.read, features.write, features.delete]})
    };
    file.add("plain", positive(Features::default()));
    file.add(
        "feature needed to delete",
        positive(Features {
            delete: 1,
            ..Features::default()
        }),
    );
    file.add(
        "feature needed to write",
        positive(Features {
            write: 6,
            ..Features::default()
        }),
    );
    let text = String::from_utf8(good.clone()).unwrap();
    // The text with another part, its hash made right again.
    let rehashed = |from: &str, to: &str| {
        assert!(text.contains(from));
        let changed = text.replacen(from, to, 1);
        let (body, _) = changed.split_once("  \"blake3\"").unwrap();
        format!("{body}  \"blake3\": \"{}\"\n}}\n", blake3::hash(body.as_bytes())).into_bytes()
    };
    for (name, bytes, error) in [
        ("empty", Vec::new(), "header"),
        ("not text", vec![0xff; 40], "header"),
        ("not JSON", b"holdall".to_vec(), "header"),
        (
            "another magic",
            rehashed("\"magic\": \"holdall\"", "\"magic\": \"restic\""),
            "header",
        ),
        (
            "without a hash",
            b"{\"magic\": \"holdall\", \"format\": 1}".to_vec(),
            "header",
        ),
        (
            "format 2",
            rehashed("\"format\": 1", "\"format\": 2"),
            "unknown version",
        ),
        (
            "feature needed to read",
            make(Features {
                read: 1,
                ..Features::default()
            }),
            "unknown version",
        ),
        (
            "format 2 by damage",
            text.replacen("\"format\": 1", "\"format\": 2", 1).into_bytes(),
            "bad hash",
        ),
        (
            "another repository",
            text.replacen("abab", "abac", 1).into_bytes(),
            "bad hash",
        ),
        (
            "other spacing",
            rehashed("\"format\": 1", "\"format\":1"),
            "not canonical",
        ),
        (
            "more after the end",
            [good.clone(), b"\n".to_vec()].concat(),
            "not canonical",
        ),
        (
            "upper case id",
            rehashed(&"ab".repeat(16), &"AB".repeat(16)),
            "invalid",
        ),
        (
            "too long",
            [good.clone(), vec![b' '; 4096]].concat(),
            "over limit",
        ),
    ] {
        file.add(name, json!({"bytes": hex(&bytes), "error": error}));
    }
    file
}
