//! Vectors of whole packs, and each with one thing wrong.

use super::{File, hex};
use crate::independent::{Plan, with_hash};
use holdall::context::SeededRandom;
use holdall::crypto::{Keyring, Sealer};
use holdall::format::header::{ObjectType, Origin};
use holdall::format::id::{BlobId, ObjectId};
use holdall::format::index::{BlobKind, BlockRow, Codec, EntryRow, Tables};
use holdall::format::pack::PackTrailer;
use holdall::testkit::arbitrary::Gen;
use holdall::testkit::fuzz::fixed_keyring;
use serde_json::json;

pub(super) fn all() -> Vec<File> {
    vec![packs()]
}

/// A pack of a compressed block, a raw block, and a block of deltas, one of them on another.
struct Content {
    plain: Vec<(BlobKind, Vec<u8>)>,
}

fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

fn delta(base: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), 3, base).unwrap();
    encoder.window_log(18).unwrap();
    encoder.include_contentsize(true).unwrap();
    encoder.set_pledged_src_size(Some(plain.len() as u64)).unwrap();
    std::io::Write::write_all(&mut encoder, plain).unwrap();
    encoder.finish().unwrap()
}

fn contents() -> Content {
    let text = |n: u32| {
        (0..200)
            .flat_map(|i| format!("row {i} of table {n}: {}\n", i * n).into_bytes())
            .collect::<Vec<u8>>()
    };
    let noise = Gen::new(53).bytes(4000);
    let mut changed = text(7);
    changed.splice(300..300, b"an insertion".to_vec());
    let mut again = changed.clone();
    again.splice(1000..1010, b"and a change".to_vec());
    Content {
        plain: vec![
            (BlobKind::Data, text(7)),
            (BlobKind::Data, text(8)),
            (BlobKind::Node, vec![0x82, 0, 0x80]),
            (BlobKind::Data, noise),
            (BlobKind::Data, changed),
            (
                BlobKind::List,
                [vec![0], vec![1; 32], 5u64.to_le_bytes().to_vec()].concat(),
            ),
            (BlobKind::Data, again),
        ],
    }
}

type Row = (BlobId, BlobKind, Option<BlobId>, u32, Vec<u8>, u32);

fn entries(rows: Vec<Row>) -> Tables {
    let mut tables = Tables::default();
    let mut offsets = [0u32; 3];
    let mut list: Vec<_> = rows
        .into_iter()
        .map(|(id, kind, base, block, encoded, plain)| {
            let encoded = u32::try_from(encoded.len()).unwrap();
            let offset = offsets[block as usize];
            offsets[block as usize] += encoded;
            (
                EntryRow {
                    id,
                    kind,
                    delta: base.is_some(),
                    block,
                    offset,
                    encoded,
                    plain,
                },
                base,
            )
        })
        .collect();
    list.sort_by_key(|(row, _)| (row.id, row.block, row.offset));
    for (ordinal, (row, base)) in list.into_iter().enumerate() {
        tables
            .bases
            .extend(base.map(|base| (u32::try_from(ordinal).unwrap(), base)));
        tables.entries.push(row);
    }
    tables
}

fn build(keyring: &Keyring, seed: u64, padme: bool, wrong_id: bool) -> (Vec<u8>, ObjectId) {
    let Content { plain } = contents();
    let id = |n: usize| keyring.blob_id(plain[n].0, &plain[n].1);
    let mut rows: Vec<Row> = Vec::new();
    for n in [0, 1, 2] {
        rows.push((id(n), plain[n].0, None, 0, plain[n].1.clone(), len32(&plain[n].1)));
    }
    for n in [3, 5] {
        rows.push((id(n), plain[n].0, None, 1, plain[n].1.clone(), len32(&plain[n].1)));
    }
    for (n, base) in [(4, 0), (6, 4)] {
        let patch = delta(&plain[base].1, &plain[n].1);
        let name = if wrong_id && n == 4 {
            BlobId([7; 32])
        } else {
            id(n)
        };
        let base = if wrong_id && base == 4 {
            BlobId([7; 32])
        } else {
            id(base)
        };
        rows.push((name, plain[n].0, Some(base), 2, patch, len32(&plain[n].1)));
    }
    let block = |n: u32| {
        rows.iter()
            .filter(|r| r.3 == n)
            .flat_map(|r| r.4.clone())
            .collect::<Vec<u8>>()
    };
    let zstd = zstd::bulk::compress(&block(0), 3).unwrap();
    let stored = [
        (zstd, block(0).len(), Codec::Zstd),
        (block(1), block(1).len(), Codec::Raw),
        (block(2), block(2).len(), Codec::Raw),
    ];
    let random = SeededRandom::new(seed);
    let mut sealer = Sealer::new(
        keyring,
        &random,
        ObjectType::Pack,
        Origin::Session(Gen::new(54).sid()),
        "",
        0,
    )
    .unwrap();
    let mut blocks = Vec::new();
    for (bytes, plain, codec) in stored {
        let (record, offset, sealed) = sealer.record(&bytes, false).unwrap();
        blocks.push(BlockRow {
            pack: 0,
            record,
            offset,
            sealed,
            plain: u32::try_from(plain).unwrap(),
            codec,
        });
    }
    let mut tables = entries(rows);
    tables.blocks = blocks;
    let sealed = sealer.finish_pack(&tables, padme).unwrap();
    (sealed.bytes.to_vec(), sealed.id)
}

fn packs() -> File {
    let mut file = File::new(
        "packs/packs.json",
        "pack",
        "Whole packs: a zstd block, a raw block, a block of deltas.",
    );
    let keyring = fixed_keyring();
    let (good, id) = build(&keyring, 60, true, false);
    let Content { plain } = contents();
    let mut blobs: Vec<_> = plain
        .iter()
        .enumerate()
        .map(|(n, (kind, bytes))| {
            let id = keyring.blob_id(*kind, bytes);
            let hash = blake3::hash(bytes).to_string();
            (id, json!({"id": id.to_string(), "kind": *kind as u8, "delta": n == 4 || n == 6, "len": bytes.len(), "blake3": hash}))
        })
        .collect();
    blobs.sort_by_key(|(id, _)| *id);
    let blobs: Vec<_> = blobs.into_iter().map(|(_, blob)| blob).collect();
    let case = |id: &ObjectId, bytes: &[u8]| json!({"keyring": hex(&keyring.encode()), "id": id.to_string(), "bytes": hex(bytes)});
    let mut add = |name: &str, mut case: serde_json::Value, error: Option<&str>| {
        match error {
            Some(class) => case["error"] = json!(class),
            None => case["blobs"] = json!(blobs),
        }
        file.add(name, case);
    };
    add("rounded by Padmé", case(&id, &good), None);
    let (bare, bare_id) = build(&keyring, 61, false, false);
    add("without padding", case(&bare_id, &bare), None);
    let (liar, liar_id) = build(&keyring, 62, true, true);
    add(
        "a blob that is not what its id says",
        case(&liar_id, &liar),
        Some("wrong id"),
    );
    let rehashed = |bytes: Vec<u8>| {
        let body = bytes[..bytes.len() - 32].to_vec();
        let id = ObjectId(*blake3::hash(&body).as_bytes());
        case(&id, &with_hash(body))
    };
    let flipped = |at: usize| {
        let mut out = good.clone();
        out[at] ^= 1;
        out
    };
    let end = good.len();
    add("under another name", case(&bare_id, &good), Some("invalid"));
    add("a bit of a block", case(&id, &flipped(110)), Some("bad hash"));
    add(
        "a bit of a block, hash and name made right",
        rehashed(flipped(110)),
        Some("bad tag"),
    );
    add(
        "a bit of the trailer, hash and name made right",
        rehashed(flipped(end - 40)),
        Some("bad tag"),
    );
    add(
        "a bit of the origin, hash and name made right",
        rehashed(flipped(20)),
        Some("bad tag"),
    );
    add(
        "a bit of the salt, hash and name made right",
        rehashed(flipped(41)),
        Some("wrong key"),
    );
    add("cut off", case(&id, &good[..end - 1]), Some("bad hash"));
    add(
        "trailer cut off, hash and name made right",
        rehashed(good[..end - 10].to_vec()),
        Some("bad tag"),
    );
    add(
        "shorter than its tail",
        rehashed(good[..80].to_vec()),
        Some("truncated"),
    );
    let tail = end - 60;
    let mixed = [good[..tail].to_vec(), bare[bare.len() - 60..].to_vec()].concat();
    add("the trailer of another pack", rehashed(mixed), Some("bad tag"));
    let outside = PackTrailer {
        offset: 104,
        sealed: 1 << 20,
        blocks: 3,
    };
    let plan = Plan {
        secret: *keyring.newest().unwrap().secret.expose(),
        repository: keyring.repository().0,
        object_type: 3,
        variant: 0,
        epoch: 1,
        origin: Gen::new(54).sid().to_bytes(),
        salt: [3; 32],
        extra: Vec::new(),
        name: String::new(),
    };
    let forged = [
        plan.prefix(),
        vec![0; 100],
        plan.record(u32::MAX, true, &outside.encode()),
        vec![0; 32],
    ]
    .concat();
    add("a directory outside the pack", rehashed(forged), Some("invalid"));
    file
}
