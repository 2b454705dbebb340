//! Vectors of records: arbitrary ones, and what must be refused in their place.

use super::{File, hex};
use crate::vectors::{as_json, decode_any};
use holdall::format::cbor::{Decoder, Encoder};
use holdall::testkit::arbitrary::Gen;
use serde_json::json;

pub(super) fn all() -> Vec<File> {
    vec![
        sealed("records/config.json", "config", |g| g.config().encode()),
        sealed("records/session.json", "session", |g| g.session().encode()),
        sealed("records/snapshot.json", "snapshot", |g| g.decision().encode()),
        sealed("records/forget.json", "forget", |g| g.forget().encode()),
        sealed("records/condemned.json", "condemned", |g| g.condemned().encode()),
        sealed("records/state.json", "state", |g| g.state().encode()),
        sealed("records/seal.json", "seal", |g| g.seal().encode()),
        sealed("records/note.json", "note", |g| g.note().encode()),
        sealed("records/refs.json", "refs", |g| g.refs().encode()),
        sealed("records/ledger.json", "ledger", |g| g.ledger().encode()),
        sealed("records/entry.json", "entry", |g| {
            let mut out = Encoder::new();
            g.entry().encode(&mut out);
            out.finish()
        }),
        rules(),
    ]
}

pub(super) fn refused(file: &mut File, record: &str, name: &str, bytes: &[u8], error: &str) {
    let found = decode_any(record, bytes).map_err(|e| e.class());
    assert_eq!(found, Err(error), "{record}: {name}");
    file.add(
        name,
        json!({"record": record, "bytes": hex(bytes), "error": error}),
    );
}

/// The pairs of a map, encoded.
fn fields(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut decoder = Decoder::new(bytes);
    let mut fields = decoder.map(64).unwrap();
    let mut out = Vec::new();
    while let Some(key) = fields.next(&mut decoder).unwrap() {
        out.push((key, decoder.raw(usize::MAX).unwrap().to_vec()));
    }
    out
}

fn map(fields: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut out = Encoder::new();
    out.map(fields.len());
    for (key, value) in fields {
        out.uint(*key).raw(value);
    }
    out.finish()
}

/// Three records, and of the first, field by field, what no decoder may accept.
fn sealed(path: &'static str, record: &'static str, make: impl Fn(&mut Gen) -> Vec<u8>) -> File {
    let mut file = File::new(
        path,
        "record",
        "Records of one type; `value` is the CBOR as JSON.",
    );
    let mut g = Gen::new(40);
    for n in 1..=4 {
        let bytes = make(&mut g);
        let value = as_json(&mut Decoder::new(&bytes));
        file.add(
            &format!("example {n}"),
            json!({"record": record, "bytes": hex(&bytes), "value": value}),
        );
    }
    let good = make(&mut g);
    let all = fields(&good);
    refused(&mut file, record, "nothing", &[], "truncated");
    refused(
        &mut file,
        record,
        "more bytes",
        &[good.clone(), vec![0]].concat(),
        "not canonical",
    );
    let mut long = vec![0xb8, good[0] & 0x1f];
    long.extend(&good[1..]);
    refused(
        &mut file,
        record,
        "count not in its shortest form",
        &long,
        "not canonical",
    );
    let endless = [vec![0xbf], good[1..].to_vec(), vec![0xff]].concat();
    refused(&mut file, record, "indefinite length", &endless, "not canonical");
    let mut newer = all.clone();
    newer.push((63, vec![0xf6]));
    refused(
        &mut file,
        record,
        "unknown field",
        &map(&newer),
        "unknown version",
    );
    for (n, (key, value)) in all.iter().enumerate() {
        let mut other = all.clone();
        other.remove(n);
        if decode_any(record, &map(&other)).is_err() {
            refused(
                &mut file,
                record,
                &format!("without field {key}"),
                &map(&other),
                "invalid",
            );
        }
        let mut twice = all.clone();
        twice.insert(n, (*key, value.clone()));
        refused(
            &mut file,
            record,
            &format!("field {key} twice"),
            &map(&twice),
            "not canonical",
        );
        let mut tag = all.clone();
        tag[n].1 = vec![0xc0, 0x00];
        let found = decode_any(record, &map(&tag)).unwrap_err().class();
        refused(
            &mut file,
            record,
            &format!("field {key} is a tag"),
            &map(&tag),
            found,
        );
        let start = good.len() - map(&all[n..]).len() + 1;
        refused(
            &mut file,
            record,
            &format!("cut off before field {key}"),
            &good[..start],
            "truncated",
        );
    }
    file
}

/// Encodes one record with another value in one field.
fn with(good: &[u8], key: u64, value: &[u8]) -> Vec<u8> {
    let mut all = fields(good);
    all.retain(|(k, _)| *k != key);
    all.push((key, value.to_vec()));
    all.sort();
    map(&all)
}

pub(super) fn encode(write: impl FnOnce(&mut Encoder) -> &mut Encoder) -> Vec<u8> {
    let mut out = Encoder::new();
    write(&mut out);
    out.finish()
}

/// Rules of single fields.
fn rules() -> File {
    let mut file = File::new(
        "records/rules.json",
        "record",
        "Values that the rules of their field exclude.",
    );
    let mut g = Gen::new(41);
    // The heads of strings that long: a decoder must refuse them before it looks for the bytes.
    let head = |major: u8, len: usize| {
        let mut out = encode(|e| e.array(len));
        out[0] = out[0] & 31 | major << 5;
        out
    };
    let (text, bytes_of) = (|len| head(3, len), |len| head(2, len));
    let session = g.session().encode();
    let forget = g.forget().encode();
    let note = g.note().encode();
    let config = g.config().encode();
    let condemned = g.condemned().encode();
    let state = g.state().encode();
    let ledger = g.ledger().encode();
    let refs = g.refs().encode();
    let end = |kind: u8, id: u8| [vec![kind], vec![id; 32]].concat();
    let commit = holdall::format::snapshot::Decision::Commit(Box::new(g.snapshot())).encode();
    let nothing = vec![0x58, 24].into_iter().chain([0; 24]).collect::<Vec<u8>>();
    let time = |nanos: u64| encode(|e| e.array(2).int(-1).uint(nanos));
    let sixteen = |byte: u8| [vec![0x50], vec![byte; 16]].concat();
    let tags = |tags: &[&str]| encode(|e| tags.iter().fold(e.array(tags.len()), |e, tag| e.text(tag)));
    let profiles = |rows: &[(&str, u64)]| {
        encode(|e| {
            let row = |e: &'_ mut Encoder, (name, min): &(&str, u64)| {
                e.array(4).text(name).uint(*min).uint(256).uint(1024);
            };
            e.array(rows.len());
            for r in rows {
                row(e, r);
            }
            e
        })
    };
    let ids = |bytes: &[u8]| encode(|e| e.bytes(&bytes.iter().flat_map(|b| [*b; 32]).collect::<Vec<_>>()));
    let root = |height: u64, entries: u64, bytes: u64| {
        encode(|e| e.array(4).bytes(&[1; 32]).uint(height).uint(entries).uint(bytes))
    };
    let live = |epoch: u64| encode(|e| e.bytes(&[epoch.to_be_bytes().to_vec(), vec![1; 16]].concat()));
    let run = |round: u64| encode(|e| e.bytes(&[round.to_be_bytes().to_vec(), vec![1; 72]].concat()));
    let seal = |round: u64, swept: bool, state: Option<u64>| {
        encode(|e| {
            e.map(5)
                .uint(0)
                .uint(round)
                .uint(1)
                .bool(swept)
                .uint(2)
                .bytes(&[1; 16])
                .uint(3);
            match state {
                Some(of) => e.array(2).uint(of).bytes(&[2; 32]),
                None => e.null(),
            };
            e.uint(4).bytes(&[3; 16])
        })
    };
    let state_with = |round: u64, floor: u64| {
        let numbers = [round, floor].map(|n| encode(|e| e.uint(n)));
        let state = with(&with(&state, 0, &numbers[0]), 1, &numbers[1]);
        with(&with(&state, 2, &[0x40]), 3, &[0x40])
    };
    let cases: Vec<(&str, &str, Vec<u8>, &str)> = vec![
        (
            "session",
            "session id of zeros",
            with(&session, 0, &nothing),
            "invalid",
        ),
        (
            "session",
            "session id too short",
            with(&session, 0, &sixteen(1)),
            "invalid",
        ),
        (
            "session",
            "host over its limit",
            with(&session, 1, &text(1025)),
            "over limit",
        ),
        (
            "session",
            "host is not UTF-8",
            with(&session, 1, &[0x61, 0xff]),
            "not canonical",
        ),
        (
            "session",
            "host is bytes",
            with(&session, 1, &[0x41, 0x61]),
            "invalid",
        ),
        (
            "session",
            "10⁹ nanoseconds",
            with(&session, 2, &time(1_000_000_000)),
            "invalid",
        ),
        (
            "session",
            "field 6, reserved for public keys",
            with(&session, 6, &[0x41, 0]),
            "unknown version",
        ),
        (
            "session",
            "nonce in its longer form",
            with(&session, 3, &[vec![0x58, 16], vec![1; 16]].concat()),
            "not canonical",
        ),
        (
            "forget",
            "reason over its limit",
            with(&forget, 2, &text(65_537)),
            "over limit",
        ),
        (
            "note",
            "tags do not ascend",
            with(&note, 4, &tags(&["b", "a"])),
            "not canonical",
        ),
        (
            "note",
            "tag twice",
            with(&note, 4, &tags(&["a", "a"])),
            "not canonical",
        ),
        ("note", "257 tags", with(&note, 4, &[0x99, 1, 1]), "over limit"),
        (
            "note",
            "number over 32 bits",
            with(&note, 1, &[0x1b, 0, 0, 0, 1, 0, 0, 0, 0]),
            "over limit",
        ),
        ("note", "protected is a number", with(&note, 5, &[1]), "invalid"),
        (
            "config",
            "no default profile",
            with(&config, 5, &profiles(&[("files", 64)])),
            "invalid",
        ),
        (
            "config",
            "profile of odd size",
            with(&config, 5, &profiles(&[("default", 65)])),
            "invalid",
        ),
        (
            "config",
            "profiles do not ascend",
            with(&config, 5, &profiles(&[("files", 64), ("default", 64)])),
            "not canonical",
        ),
        (
            "config",
            "feature needed to read",
            with(&config, 8, &[0x83, 1, 0, 0]),
            "unknown version",
        ),
        ("condemned", "round 0", with(&condemned, 0, &[0]), "invalid"),
        (
            "condemned",
            "packs do not ascend",
            with(&condemned, 3, &ids(&[2, 1])),
            "not canonical",
        ),
        (
            "condemned",
            "pack twice",
            with(&condemned, 3, &ids(&[1, 1])),
            "not canonical",
        ),
        (
            "condemned",
            "part of a pack id",
            with(&condemned, 3, &[0x41, 1]),
            "truncated",
        ),
        (
            "condemned",
            "300,001 packs",
            with(&condemned, 3, &bytes_of(9_600_032)),
            "over limit",
        ),
        ("state", "floor at its round", state_with(3, 3), "invalid"),
        (
            "state",
            "live above the floor",
            with(&state_with(9, 5), 2, &live(5)),
            "invalid",
        ),
        (
            "state",
            "run of a later round",
            with(&state_with(9, 5), 3, &run(10)),
            "invalid",
        ),
        (
            "state",
            "run of round 0",
            with(&state_with(9, 5), 3, &run(0)),
            "invalid",
        ),
        ("seal", "round 0", seal(0, true, Some(0)), "invalid"),
        (
            "seal",
            "swept, with the state of another round",
            seal(3, true, Some(2)),
            "invalid",
        ),
        ("seal", "swept, without a state", seal(3, true, None), "invalid"),
        (
            "seal",
            "aborted, with a state of its own",
            seal(3, false, Some(3)),
            "invalid",
        ),
        (
            "refs",
            "the hole as a blob",
            with(&refs, 1, &encode(|e| e.bytes(&[0; 33]))),
            "invalid",
        ),
        (
            "refs",
            "unknown kind of blob",
            with(&refs, 1, &encode(|e| e.bytes(&[3; 33]))),
            "unknown version",
        ),
        (
            "refs",
            "the hole as the node",
            with(&refs, 0, &encode(|e| e.bytes(&[0; 32]))),
            "invalid",
        ),
        (
            "refs",
            "no open ends",
            with(&refs, 2, &encode(|e| e.bytes(&[]))),
            "not canonical",
        ),
        (
            "refs",
            "the hole as an open end",
            with(&refs, 2, &encode(|e| e.bytes(&end(1, 0)))),
            "invalid",
        ),
        (
            "refs",
            "data as an open end",
            with(&refs, 2, &encode(|e| e.bytes(&end(0, 1)))),
            "invalid",
        ),
        (
            "refs",
            "an open end that is told of",
            with(
                &with(&refs, 1, &encode(|e| e.bytes(&end(1, 1)))),
                2,
                &encode(|e| e.bytes(&end(1, 1))),
            ),
            "invalid",
        ),
        (
            "refs",
            "open ends do not ascend",
            with(&refs, 2, &encode(|e| e.bytes(&[end(1, 2), end(1, 1)].concat()))),
            "not canonical",
        ),
        (
            "ledger",
            "verified do not ascend",
            with(&ledger, 3, &encode(|e| e.bytes(&[1; 80]))),
            "not canonical",
        ),
        (
            "ledger",
            "65,537 quarantined",
            with(&ledger, 4, &bytes_of(2_097_184)),
            "over limit",
        ),
        (
            "snapshot",
            "unknown form",
            with(&commit, 0, &[3]),
            "unknown version",
        ),
        (
            "snapshot",
            "tree of height 16",
            with(&commit, 11, &root(16, 1, 1)),
            "over limit",
        ),
        (
            "snapshot",
            "empty tree with bytes",
            with(&commit, 11, &root(0, 0, 1)),
            "invalid",
        ),
        (
            "snapshot",
            "257 sources",
            with(&commit, 8, &[0x99, 1, 1]),
            "over limit",
        ),
        (
            "snapshot",
            "complete with incidents",
            with(
                &with(&with(&commit, 12, &[0xf4]), 14, &[1]),
                15,
                &[0x81, 0x82, 0x41, 1, 0x60],
            ),
            "invalid",
        ),
        (
            "snapshot",
            "fewer incidents than listed",
            with(&with(&commit, 14, &[0]), 15, &[0x81, 0x82, 0x41, 1, 0x60]),
            "invalid",
        ),
        (
            "snapshot",
            "1,001 incidents",
            with(
                &commit,
                15,
                &[vec![0x99, 3, 0xe9], [0x82, 0x41, 1, 0x60].repeat(1001)].concat(),
            ),
            "over limit",
        ),
        (
            "session",
            "a float",
            with(&session, 3, &[0xf9, 0, 0]),
            "not canonical",
        ),
        ("session", "an undefined", with(&session, 3, &[0xf7]), "invalid"),
        ("session", "not a map", vec![0x80], "invalid"),
        ("session", "65 fields", vec![0xb8, 65], "over limit"),
    ];
    for (record, name, bytes, error) in cases {
        refused(&mut file, record, &format!("{record}: {name}"), &bytes, error);
    }
    for (name, bytes) in [
        ("aborted before all rounds", seal(1, false, None)),
        ("aborted after a round", seal(9, false, Some(4))),
    ] {
        let value = as_json(&mut Decoder::new(&bytes));
        file.add(
            name,
            json!({"record": "seal", "bytes": hex(&bytes), "value": value}),
        );
    }
    file
}
