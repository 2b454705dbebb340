//! Vectors of what is not a record: keys, ids, cuts, names, headers, the marker.

use super::{File, hex};
use crate::independent::derive;
use crate::vectors::content;
use holdall::chunk::{ChunkParams, Chunker};
use holdall::crypto::{KdfParams, Keyring, Secret, phrase_from_secret, stretch};
use holdall::format::header::padme;
use holdall::format::index::BlobKind;
use holdall::testkit::arbitrary::Gen;
use holdall::testkit::fuzz::fixed_keyring;
use serde_json::{Value, json};

pub(super) fn all() -> Vec<File> {
    vec![
        kdf(),
        kdf_params(),
        phrase(),
        keyring(),
        object_key(),
        blob_id(),
        gear(),
        chunking(),
        sizes(),
        header(),
    ]
}

fn kdf() -> File {
    let mut file = File::new(
        "keys/kdf.json",
        "kdf",
        "Argon2id 0x13 at the floor of its cost; one, because it takes long.",
    );
    let params = KdfParams {
        memory_kib: 64 << 10,
        passes: 3,
        lanes: 4,
        salt: [0x5a; 32],
    };
    let password = "correct horse battery staple ü";
    let secret = stretch(password.as_bytes(), &params).unwrap();
    file.add(
        "floor",
        json!({"password": password, "memory_kib": 65536, "passes": 3, "lanes": 4, "salt": hex(&params.salt),
            "secret": hex(secret.expose())}),
    );
    file
}

fn kdf_params() -> File {
    let mut file = File::new(
        "keys/kdf-parameters.json",
        "kdf parameters",
        "Bounds of a password slot's cost.",
    );
    let cases = [
        ("recommended", 256 << 10, 3, 4, None),
        ("floor", 64 << 10, 3, 1, None),
        ("largest memory", 4 << 20, 4, 16, None),
        ("most passes", 256 << 10, 64, 1, None),
        ("memory below the floor", (64 << 10) - 1, 3, 4, Some("invalid")),
        ("passes below the floor", 64 << 10, 2, 4, Some("invalid")),
        ("no lanes", 64 << 10, 3, 0, Some("invalid")),
        (
            "memory above the ceiling",
            (4 << 20) + 1,
            3,
            4,
            Some("over limit"),
        ),
        ("passes above the ceiling", 64 << 10, 65, 4, Some("over limit")),
        ("lanes above the ceiling", 64 << 10, 3, 17, Some("over limit")),
        ("work above the ceiling", 4 << 20, 5, 4, Some("over limit")),
    ];
    for (name, memory_kib, passes, lanes, error) in cases {
        let bytes = KdfParams {
            memory_kib,
            passes,
            lanes,
            salt: [1; 32],
        }
        .encode();
        let mut case = json!({"bytes": hex(&bytes)});
        if let Some(class) = error {
            case["error"] = json!(class);
        } else {
            case["memory_kib"] = json!(memory_kib);
            case["passes"] = json!(passes);
            case["lanes"] = json!(lanes);
        }
        file.add(name, case);
    }
    file
}

fn phrase() -> File {
    let mut file = File::new(
        "keys/phrase.json",
        "phrase",
        "24 English words of BIP39 and the 32 bytes that they spell.",
    );
    for (name, secret) in [
        ("zeros", [0; 32]),
        ("ones", [0xff; 32]),
        ("counting", std::array::from_fn(|i| u8::try_from(i).unwrap())),
    ] {
        let phrase = phrase_from_secret(&Secret::new(secret)).unwrap();
        file.add(name, json!({"secret": hex(&secret), "phrase": phrase.as_str()}));
    }
    let phrase = phrase_from_secret(&Secret::new([7; 32])).unwrap();
    let spaced = format!("  {}\n", phrase.to_uppercase().replace(' ', " \t"));
    file.add(
        "case and spacing",
        json!({"secret": hex(&[7; 32]), "phrase": spaced, "canonical": false}),
    );
    file.add(
        "wrong checksum",
        json!({"phrase": "abandon ".repeat(24).trim(), "error": "invalid"}),
    );
    file.add(
        "12 words",
        json!({"phrase": format!("{}about", "abandon ".repeat(11)), "error": "invalid"}),
    );
    file.add(
        "unknown word",
        json!({"phrase": phrase.replacen(' ', " holdall ", 1), "error": "invalid"}),
    );
    file.add("empty", json!({"phrase": "", "error": "invalid"}));
    file
}

fn keyring() -> File {
    let mut file = File::new(
        "keys/keyring.json",
        "keyring",
        "The record that slots wrap, and the keys that follow from it.",
    );
    let positive = |bytes: &[u8]| {
        let keyring = Keyring::decode(bytes).unwrap();
        json!({"bytes": hex(bytes), "repository": keyring.repository().to_string(),
            "gear_key": hex(keyring.gear_key().expose()), "border_key": hex(keyring.border_key().expose()),
            "rebase_key": hex(keyring.rebase_key().expose()), "newest": keyring.newest().unwrap().number})
    };
    let one = fixed_keyring().encode().to_vec();
    file.add("one epoch", positive(&one));
    let epoch = |number: u8, byte: u8| [vec![0x82, number, 0x58, 32], vec![byte; 32]].concat();
    let ring = |epochs: &[Vec<u8>]| {
        let head = [
            vec![0xa3, 0, 0x50],
            vec![1; 16],
            vec![1, 0x58, 32],
            vec![2; 32],
            vec![2, 0x80 | u8::try_from(epochs.len()).unwrap()],
        ];
        [head.concat(), epochs.concat()].concat()
    };
    file.add(
        "three epochs",
        positive(&ring(&[epoch(1, 3), epoch(2, 4), epoch(7, 5)])),
    );
    let mut newer = one.clone();
    newer[0] += 1;
    newer.extend([3, 0xf6]);
    for (name, bytes, error) in [
        ("no epoch", ring(&[]), "invalid"),
        ("epoch 0", ring(&[epoch(0, 3)]), "invalid"),
        ("epochs descend", ring(&[epoch(2, 3), epoch(1, 4)]), "invalid"),
        ("epoch twice", ring(&[epoch(2, 3), epoch(2, 4)]), "invalid"),
        ("cut off", one[..one.len() - 1].to_vec(), "truncated"),
        ("more bytes", [one.clone(), vec![0]].concat(), "not canonical"),
        ("unknown field", newer, "unknown version"),
    ] {
        file.add(name, json!({"bytes": hex(&bytes), "error": error}));
    }
    file
}

fn object_key() -> File {
    let mut file = File::new(
        "keys/object-key.json",
        "object key",
        "Key, commitment and padding of one object.",
    );
    for (name, secret, object_type, salt) in
        [("pack", 1, 3, 9), ("slot", 2, 1, 9), ("another salt", 1, 3, 10)]
    {
        let [key, commitment, padding] = derive(&[secret; 32], object_type, &[4; 16], &[salt; 32]);
        file.add(
            name,
            json!({"secret": hex(&[secret; 32]), "type": object_type, "repository": hex(&[4; 16]), "salt": hex(&[salt; 32]),
                "key": hex(&key), "commitment": hex(&commitment), "padding": hex(&padding)}),
        );
    }
    file
}

fn blob_id() -> File {
    let mut file = File::new(
        "ids/blob.json",
        "blob id",
        "Keyed BLAKE3 over kind and plaintext.",
    );
    let keyring = fixed_keyring();
    let contents: [(&str, Value); 4] = [
        ("one byte", json!({"hex": "00"})),
        ("text", json!({"hex": hex(b"holdall")})),
        ("a block of BLAKE3 and more", json!({"seed": 1, "len": 1025})),
        ("a megabyte", json!({"seed": 2, "len": 1 << 20})),
    ];
    for (name, value) in contents {
        for kind in [BlobKind::Data, BlobKind::Node, BlobKind::List] {
            let id = keyring.blob_id(kind, &content(&value));
            file.add(
                &format!("{name}, {kind:?}"),
                json!({"keyring": hex(&keyring.encode()), "blob_kind": kind as u8, "content": value, "id": id.to_string()}),
            );
        }
    }
    file
}

fn gear() -> File {
    let mut file = File::new(
        "chunking/gear.json",
        "gear",
        "The gear table of a key: 256 words of 64 bits, little-endian.",
    );
    for byte in [0, 1, 0xff] {
        let mut table = vec![0; 2048];
        blake3::Hasher::new_keyed(&[byte; 32])
            .finalize_xof()
            .fill(&mut table);
        let first: Vec<_> = table[..32].chunks(8).map(hex).collect();
        file.add(
            &format!("key of {byte}"),
            json!({"gear_key": hex(&[byte; 32]), "table_blake3": blake3::hash(&table).to_string(), "first_le": first}),
        );
    }
    file
}

fn chunking() -> File {
    let mut file = File::new(
        "chunking/cuts.json",
        "chunking",
        "Lengths of the chunks of generated content.",
    );
    let key = hex(&[1; 32]);
    let mut case = |name: &str, (min, avg, max): (usize, usize, usize), value: Value| {
        let params = ChunkParams::new(min, avg, max).unwrap();
        let chunker = Chunker::new(params, &Secret::new([1; 32]));
        let content = content(&value);
        let (mut rest, mut cuts) = (content.as_slice(), Vec::new());
        while let Some(len) = chunker.next_cut(rest, true) {
            cuts.push(len);
            rest = &rest[len..];
        }
        file.add(
            name,
            json!({"gear_key": key, "min": min, "avg": avg, "max": max, "content": value, "cuts": cuts}),
        );
    };
    let normal = (64 << 10, 256 << 10, 1 << 20);
    case(
        "default sizes, noise",
        normal,
        json!({"seed": 1, "len": 12_582_917}),
    );
    case(
        "default sizes, few symbols",
        normal,
        json!({"seed": 2, "len": 8_388_608, "mask": 3}),
    );
    case(
        "default sizes, zeros",
        normal,
        json!({"seed": 2, "len": 2_500_000, "mask": 0}),
    );
    for len in [0, 1, 65_535, 65_536, 65_537, 131_073, 262_145] {
        case(
            &format!("default sizes, {len} bytes"),
            normal,
            json!({"seed": 3, "len": len}),
        );
    }
    for exponent in 8..=22 {
        let avg = 1usize << exponent;
        let (min, max) = ((avg / 4).max(64), (avg * 4).min(16 << 20));
        case(
            &format!("avg {avg}"),
            (min, avg, max),
            json!({"seed": exponent, "len": avg * 6 + 3}),
        );
    }
    case("narrow", (64, 256, 258), json!({"seed": 9, "len": 3_001}));
    case(
        "uneven bounds",
        (66, 512, 1_030),
        json!({"seed": 10, "len": 9_999}),
    );
    for (name, min, avg, max) in [
        ("min too small", 62, 256, 1024),
        ("odd min", 65, 256, 1024),
        ("odd max", 64, 256, 1025),
        ("avg no power of two", 64, 300, 1024),
        ("avg too small", 64, 128, 1024),
        ("avg too large", 64, 8 << 20, 16 << 20),
        ("min at avg", 256, 256, 1024),
        ("max at avg", 64, 256, 256),
        ("max too large", 64, 256, (16 << 20) + 2),
    ] {
        file.add(
            name,
            json!({"min": min, "avg": avg, "max": max, "error": "invalid"}),
        );
    }
    file
}

fn sizes() -> File {
    let mut file = File::new(
        "objects/padme.json",
        "padme",
        "Sizes that objects are rounded to.",
    );
    for len in [
        0, 1, 2, 3, 7, 8, 9, 15, 17, 100, 184, 255, 256, 257, 1000, 4097, 65_537, 1_048_575, 1_048_577,
        33_554_433, 50_000_017, 67_108_864,
    ] {
        file.add(&len.to_string(), json!({"len": len, "padded": padme(len)}));
    }
    file
}

fn header() -> File {
    let mut file = File::new(
        "objects/header.json",
        "header",
        "The first 104 bytes of sealed objects.",
    );
    let mut g = Gen::new(4);
    for name in ["pack", "pack of another origin", "pack of a third origin"] {
        let header = g.pack_header();
        file.add(
            name,
            json!({"bytes": hex(&header.encode()), "type": 3, "epoch": header.epoch, "variant": 0,
                "origin": crate::vectors::origin_text(header.origin), "salt": hex(&header.salt), "commitment": hex(&header.commitment)}),
        );
    }
    let good = g.pack_header().encode().to_vec();
    let with = |at: usize, byte: u8| {
        let mut out = good.clone();
        out[at] = byte;
        out
    };
    let mut no_origin = good.clone();
    no_origin[16..40].fill(0);
    let mut no_epoch = good.clone();
    no_epoch[12..16].fill(0);
    let mut note = no_origin.clone();
    note[7] = 11;
    let mut note_with_origin = good.clone();
    note_with_origin[7] = 11;
    for (name, object_type, bytes, error) in [
        ("nothing", 3, Vec::new(), "truncated"),
        ("cut off", 3, good[..103].to_vec(), "truncated"),
        ("magic", 3, with(0, b'H'), "header"),
        ("another type", 4, good.clone(), "header"),
        ("unknown type", 3, with(7, 15), "header"),
        ("type 0", 3, with(7, 0), "header"),
        ("version 2", 3, with(8, 2), "unknown version"),
        ("version 257", 3, with(9, 1), "unknown version"),
        ("version 0", 3, with(8, 0), "unknown version"),
        (
            "suite 2, reserved for public keys",
            3,
            with(10, 2),
            "unknown version",
        ),
        ("suite 0", 3, with(10, 0), "unknown version"),
        ("variant without a slot", 3, with(11, 1), "header"),
        ("pack without origin", 3, no_origin, "header"),
        ("pack without epoch", 3, no_epoch, "header"),
        ("note with origin", 11, note_with_origin, "header"),
        (
            "slot without kind",
            1,
            {
                let mut out = note.clone();
                out[7] = 1;
                out[12..16].fill(0);
                out
            },
            "header",
        ),
        (
            "slot with epoch",
            1,
            {
                let mut out = note.clone();
                out[7] = 1;
                out[11] = 2;
                out
            },
            "header",
        ),
    ] {
        file.add(
            name,
            json!({"bytes": hex(&bytes), "type": object_type, "error": error}),
        );
    }
    file
}
