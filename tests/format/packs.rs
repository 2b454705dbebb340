//! Reads whole packs as chapters 30 and 40 say.

use crate::vectors::Case;
use holdall::crypto::open_pack;
use holdall::format::error::DecodeError;
use holdall::format::id::{BlobId, ObjectId};
use holdall::format::index::Codec;
use holdall::format::limits::BLOB_MAX;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn patched(patch: &[u8], base: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(patch, base).unwrap();
    decoder.window_log_max(25).unwrap();
    let mut plain = Vec::new();
    let mut limited = std::io::Read::take(&mut decoder, BLOB_MAX as u64);
    std::io::copy(&mut limited, &mut plain).map_err(|_| DecodeError::Invalid("delta"))?;
    Ok(plain)
}

/// Reads a whole pack as chapters 30 and 40 say: every block, every blob, bases within the pack.
fn read_pack(case: &Case<'_>) -> Result<Vec<Value>, DecodeError> {
    let (keyring, pack) = (case.keyring(), case.bytes("bytes"));
    let (opener, tables) = open_pack(&keyring, &ObjectId::parse(case.text("id"))?, &pack)?;
    let mut blocks = Vec::new();
    for row in &tables.blocks {
        let sealed = &pack[row.offset as usize..][..row.sealed as usize];
        let stored = opener.record(row.record, false, sealed)?;
        blocks.push(match row.codec {
            Codec::Raw => stored,
            Codec::Zstd => zstd::bulk::decompress(&stored, row.plain as usize)
                .map_err(|_| DecodeError::Invalid("zstd"))?,
        });
    }
    let mut found: BTreeMap<BlobId, Vec<u8>> = BTreeMap::new();
    let mut bases = tables.bases.iter();
    let mut deltas = Vec::new();
    for row in &tables.entries {
        let encoded = &blocks[row.block as usize][row.offset as usize..][..row.encoded as usize];
        if row.delta {
            deltas.push((row, bases.next().unwrap().1, encoded));
        } else {
            found.insert(row.id, encoded.to_vec());
        }
    }
    // Deltas may stand before their bases; each round resolves one of a chain.
    while !deltas.is_empty() {
        let (ready, waiting): (Vec<_>, Vec<_>) = deltas
            .into_iter()
            .partition(|(_, base, _)| found.contains_key(base));
        assert!(!ready.is_empty(), "a delta without its base");
        for (row, base, patch) in ready {
            let plain = patched(patch, &found[&base])?;
            assert_eq!(plain.len(), row.plain as usize);
            found.insert(row.id, plain);
        }
        deltas = waiting;
    }
    for row in &tables.entries {
        keyring.verify_blob(row.kind, &row.id, &found[&row.id])?;
    }
    let blobs = tables.entries.iter().map(|row| {
        let plain = blake3::hash(&found[&row.id]).to_string();
        json!({"id": row.id.to_string(), "kind": row.kind as u8, "delta": row.delta, "len": found[&row.id].len(), "blake3": plain})
    });
    Ok(blobs.collect())
}

pub(crate) fn pack(case: &Case<'_>) {
    if let Some(blobs) = case.outcome(read_pack(case)) {
        assert_eq!(json!(blobs), case.0["blobs"]);
    }
}
