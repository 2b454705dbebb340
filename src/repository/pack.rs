//! Packs as pure code: blocks in, sealed bytes out, and back.

use super::delta::Delta;
use crate::context::{Random, Reservation};
use crate::crypto::{self, Keyring, Opener, Sealed, Sealer};
use crate::error::{Error, ErrorKind, Result};
use crate::format::error::DecodeError;
use crate::format::frame::decode_frame;
use crate::format::header::{HEADER_LEN, Header, ObjectType, Origin, TAG_LEN, padme};
use crate::format::id::{BlobId, ObjectId};
use crate::format::index::{BlobKind, BlockRow, Codec, EntryRow, PackRow, Tables};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::HashMap;

/// The level of zstd that new blocks are compressed with.
pub(crate) const LEVEL: i32 = 3;

/// Pieces of a block that are compressed on trial, and the bytes of each.
const SAMPLES: usize = 8;
const SAMPLE: usize = 4 << 10;

/// A blob inside a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlobPlace {
    pub(crate) id: BlobId,
    pub(crate) kind: BlobKind,
    pub(crate) base: Option<BlobId>,
    pub(crate) offset: u32,
    pub(crate) encoded: u32,
    pub(crate) plain: u32,
}

/// Blobs that are gathered for one block.
pub(crate) struct OpenBlock {
    /// Of deltas: stored as it is.
    raw: bool,
    plain: Vec<u8>,
    pub(crate) blobs: Vec<BlobPlace>,
    pub(crate) held: Reservation,
}

/// A block that is compressed, and proven to decompress to what it was made from.
pub(crate) struct ReadyBlock {
    stored: Vec<u8>,
    codec: Codec,
    plain: u32,
    blobs: Vec<BlobPlace>,
    held: Reservation,
}

impl OpenBlock {
    /// Bytes of its blobs.
    pub(crate) fn len(&self) -> usize {
        self.plain.len()
    }

    /// A block that will hold about `target` bytes.
    pub(crate) fn new(target: usize) -> Self {
        Self {
            raw: false,
            plain: Vec::with_capacity(target),
            blobs: Vec::new(),
            held: Reservation::none(),
        }
    }

    /// A block of deltas, which zstd does not make smaller.
    pub(crate) fn of_deltas() -> Self {
        Self {
            raw: true,
            ..Self::new(0)
        }
    }

    /// Adds the delta of a blob of `plain` bytes.
    pub(crate) fn push_delta(
        &mut self,
        kind: BlobKind,
        id: BlobId,
        plain: u32,
        delta: &Delta,
        held: Reservation,
    ) -> Result<()> {
        self.push(kind, id, &delta.bytes, held)?;
        if let Some(place) = self.blobs.last_mut() {
            place.base = Some(delta.base);
            place.plain = plain;
        }
        Ok(())
    }

    /// Adds a whole blob. It is copied, so that one chunk does not keep the whole window that it was cut from.
    pub(crate) fn push(
        &mut self,
        kind: BlobKind,
        id: BlobId,
        plaintext: &[u8],
        held: Reservation,
    ) -> Result<()> {
        let number =
            |n: usize| u32::try_from(n).map_err(|_| Error::new(ErrorKind::Internal, "block over its limit"));
        let (offset, len) = (number(self.plain.len())?, number(plaintext.len())?);
        self.plain.extend_from_slice(plaintext);
        self.blobs.push(BlobPlace {
            id,
            kind,
            base: None,
            offset,
            encoded: len,
            plain: len,
        });
        self.held.merge(held);
        Ok(())
    }

    /// Compresses the block, decompresses it again and compares: an encoder that errs must not cost a backup.
    ///
    /// # Errors
    /// `Internal` if the codec fails or does not give the plaintext back.
    pub(crate) fn prepare(mut self) -> Result<ReadyBlock> {
        let plain = u32::try_from(self.plain.len())
            .map_err(|_| Error::new(ErrorKind::Internal, "block over its limit"))?;
        let compressed = if self.raw {
            Compressed::NotSmaller
        } else {
            with_codecs(|codecs| compress_and_verify(codecs, &self.plain))?
        };
        let (stored, codec) = match compressed {
            Compressed::Smaller(stored) => (stored, Codec::Zstd),
            Compressed::NotSmaller => (self.plain, Codec::Raw),
            Compressed::Wrong => {
                let what = "a compressed block does not give its content back";
                return Err(Error::new(ErrorKind::Internal, what));
            }
        };
        self.held.shrink_to(stored.len() as u64);
        Ok(ReadyBlock {
            stored,
            codec,
            plain,
            blobs: self.blobs,
            held: self.held,
        })
    }
}

impl ReadyBlock {
    /// How many blobs it holds.
    pub(crate) fn blobs(&self) -> usize {
        self.blobs.len()
    }

    /// Bytes that the block takes in a pack.
    pub(crate) fn stored_len(&self) -> usize {
        self.stored.len() + TAG_LEN
    }
}

/// A context of zstd with its scratch buffer; each thread of the pool keeps one.
struct Codecs {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    scratch: Vec<u8>,
}

thread_local! {
    static CODECS: RefCell<Option<Codecs>> = const { RefCell::new(None) };
}

fn with_codecs<T>(work: impl FnOnce(&mut Codecs) -> std::io::Result<T>) -> Result<T> {
    let failed = |e: std::io::Error| Error::new(ErrorKind::Internal, "zstd failed").because(e);
    CODECS.with_borrow_mut(|slot| {
        if slot.is_none() {
            let compressor = zstd::bulk::Compressor::new(LEVEL).map_err(failed)?;
            let decompressor = zstd::bulk::Decompressor::new().map_err(failed)?;
            *slot = Some(Codecs {
                compressor,
                decompressor,
                scratch: Vec::new(),
            });
        }
        match slot {
            Some(codecs) => work(codecs).map_err(failed),
            None => Err(Error::new(ErrorKind::Internal, "zstd failed")),
        }
    })
}

enum Compressed {
    Smaller(Vec<u8>),
    NotSmaller,
    /// Decompressing gave other bytes.
    Wrong,
}

/// Whether none of some samples of a block becomes smaller: pictures, films and archives cost a quarter less when nobody tries to
/// compress all of them. A block that this misjudges has less than an eighth of it, in one piece, that compresses.
fn looks_random(codecs: &mut Codecs, plain: &[u8]) -> std::io::Result<bool> {
    let step = plain.len() / SAMPLES;
    if step < 4 * SAMPLE {
        return Ok(false);
    }
    for sample in plain.chunks_exact(step).filter_map(|part| part.get(..SAMPLE)) {
        let scratch = codecs.scratch.as_mut_slice();
        if codecs.compressor.compress_to_buffer(sample, scratch)? < SAMPLE - SAMPLE / 32 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn compress_and_verify(codecs: &mut Codecs, plain: &[u8]) -> std::io::Result<Compressed> {
    let bound = zstd_safe::compress_bound(plain.len());
    if codecs.scratch.len() < bound {
        codecs.scratch.resize(bound, 0);
    }
    if looks_random(codecs, plain)? {
        return Ok(Compressed::NotSmaller);
    }
    let len = codecs
        .compressor
        .compress_to_buffer(plain, codecs.scratch.as_mut_slice())?;
    let Some(compressed) = codecs
        .scratch
        .get(..len)
        .filter(|c| c.len() < plain.len())
        .map(<[u8]>::to_vec)
    else {
        return Ok(Compressed::NotSmaller);
    };
    let len = codecs
        .decompressor
        .decompress_to_buffer(&compressed, codecs.scratch.as_mut_slice())?;
    let equal = codecs.scratch.get(..len) == Some(plain);
    Ok(if equal {
        Compressed::Smaller(compressed)
    } else {
        Compressed::Wrong
    })
}

/// Gives the plaintext of a block: exactly `plain` bytes.
///
/// # Errors
/// `OverLimit` or `Invalid`, as [`decode_frame`].
pub(crate) fn decode_block(stored: Vec<u8>, codec: Codec, plain: u32) -> Result<Vec<u8>, DecodeError> {
    match codec {
        Codec::Zstd => decode_frame(&stored, plain, None),
        Codec::Raw if stored.len() == plain as usize => Ok(stored),
        Codec::Raw => Err(DecodeError::Invalid("length of a block")),
    }
}

/// A pack ready to be stored, with the rows that list it.
pub(crate) struct SealedPack {
    pub(crate) sealed: Sealed,
    pub(crate) tables: Tables,
    pub(crate) held: Reservation,
}

/// Seals blocks as one pack.
///
/// # Errors
/// `Internal` over the limits of the format or without randomness.
pub(crate) fn seal_pack(
    keyring: &Keyring,
    random: &dyn Random,
    origin: Origin,
    blocks: Vec<ReadyBlock>,
    use_padme: bool,
) -> Result<SealedPack> {
    let capacity: usize = blocks.iter().map(ReadyBlock::stored_len).sum();
    // Directory, header and tails; then what padding adds to that.
    let capacity = capacity + blocks.iter().map(|b| b.blobs.len() * 56 + 32).sum::<usize>() + 512;
    let capacity = usize::try_from(padme(capacity as u64)).unwrap_or(capacity);
    let mut sealer = Sealer::new(keyring, random, ObjectType::Pack, origin, "", capacity)?;
    let header = *sealer
        .header()
        .first_chunk::<HEADER_LEN>()
        .ok_or(DecodeError::Truncated)?;
    let mut tables = Tables::default();
    let mut held = Reservation::none();
    let mut bases = HashMap::new();
    for (number, block) in (0u32..).zip(blocks) {
        let (record, offset, sealed) = sealer.record(&block.stored, false)?;
        tables.blocks.push(BlockRow {
            pack: 0,
            record,
            offset,
            sealed,
            plain: block.plain,
            codec: block.codec,
        });
        tables.entries.extend(block.blobs.iter().map(|blob| EntryRow {
            id: blob.id,
            kind: blob.kind,
            delta: blob.base.is_some(),
            block: number,
            offset: blob.offset,
            encoded: blob.encoded,
            plain: blob.plain,
        }));
        let deltas = block
            .blobs
            .iter()
            .filter_map(|blob| Some((blob.offset, blob.base?)));
        bases.extend(deltas.map(|(offset, base)| ((number, offset), base)));
        held.merge(block.held);
        // The block's buffer is freed here, while the pack's grows.
    }
    tables.entries.sort_unstable_by_key(|e| (e.id, e.block, e.offset));
    let deltas = (0u32..).zip(&tables.entries).filter(|(_, entry)| entry.delta);
    let base = |(number, entry): (u32, &EntryRow)| Some((number, *bases.get(&(entry.block, entry.offset))?));
    tables.bases = deltas.filter_map(base).collect();
    let sealed = sealer.finish_pack(&tables, use_padme)?;
    let size = u32::try_from(sealed.bytes.len())
        .map_err(|_| Error::new(ErrorKind::Internal, "pack over its limit"))?;
    tables.packs.push(PackRow {
        id: sealed.id,
        header,
        size,
    });
    Ok(SealedPack { sealed, tables, held })
}

/// A pack whose bytes are in hand.
pub(crate) struct OpenedPack<'a> {
    bytes: &'a [u8],
    opener: Opener,
    /// The directory, with the pack's own row.
    pub(crate) tables: Tables,
    /// Who made it.
    pub(crate) origin: Origin,
}

/// Checks a pack's hash and name and opens its directory.
///
/// # Errors
/// Any class of [`DecodeError`].
pub(crate) fn open_pack<'a>(
    keyring: &Keyring,
    id: &ObjectId,
    bytes: &'a [u8],
) -> Result<OpenedPack<'a>, DecodeError> {
    let (opener, mut tables) = crypto::open_pack(keyring, id, bytes)?;
    let header = Header::decode(bytes, ObjectType::Pack)?;
    let header_bytes = *bytes.first_chunk::<HEADER_LEN>().ok_or(DecodeError::Truncated)?;
    let size = u32::try_from(bytes.len()).map_err(|_| DecodeError::OverLimit("pack"))?;
    tables.packs.push(PackRow {
        id: *id,
        header: header_bytes,
        size,
    });
    Ok(OpenedPack {
        bytes,
        opener,
        tables,
        origin: header.origin,
    })
}

/// A delta out of a pack.
pub(crate) struct StoredDelta {
    pub(crate) row: EntryRow,
    pub(crate) base: BlobId,
    pub(crate) bytes: Bytes,
}

impl OpenedPack<'_> {
    /// The plaintext of a block.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub(crate) fn block(&self, row: &BlockRow) -> Result<Vec<u8>, DecodeError> {
        decode_block(self.stored(row)?, row.codec, row.plain)
    }

    /// A block as it was sealed: compressed, if it is.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub(crate) fn stored(&self, row: &BlockRow) -> Result<Vec<u8>, DecodeError> {
        let end = (row.offset as usize)
            .checked_add(row.sealed as usize)
            .ok_or(DecodeError::Truncated)?;
        let sealed = self
            .bytes
            .get(row.offset as usize..end)
            .ok_or(DecodeError::Truncated)?;
        self.opener.record(row.record, false, sealed)
    }

    /// Its deltas, as they are stored.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub(crate) fn deltas(&self) -> Result<Vec<StoredDelta>, DecodeError> {
        let mut blocks: HashMap<u32, Bytes> = HashMap::new();
        let mut deltas = Vec::with_capacity(self.tables.bases.len());
        for (number, base) in &self.tables.bases {
            let missing = DecodeError::Invalid("delta outside the directory");
            let row = *self.tables.entries.get(*number as usize).ok_or(missing)?;
            let block = if let Some(block) = blocks.get(&row.block) {
                block.clone()
            } else {
                let place = self.tables.blocks.get(row.block as usize);
                let plain = self.block(place.ok_or(DecodeError::Invalid("entry without a block"))?)?;
                blocks.entry(row.block).or_insert(plain.into()).clone()
            };
            let range = row.offset as usize..row.offset as usize + row.encoded as usize;
            if range.end > block.len() {
                return Err(DecodeError::Truncated);
            }
            let (base, bytes) = (*base, block.slice(range));
            deltas.push(StoredDelta { row, base, bytes });
        }
        Ok(deltas)
    }

    /// Opens every block and checks every whole blob against its id; deltas are checked by whoever has their bases. Gives the
    /// number of blobs checked.
    ///
    /// # Errors
    /// Any class of [`DecodeError`].
    pub(crate) fn verify(&self, keyring: &Keyring) -> Result<u64, DecodeError> {
        let mut by_block: Vec<Vec<&EntryRow>> = vec![Vec::new(); self.tables.blocks.len()];
        for entry in &self.tables.entries {
            by_block
                .get_mut(entry.block as usize)
                .ok_or(DecodeError::Invalid("entry without a block"))?
                .push(entry);
        }
        let mut checked = 0;
        for (row, entries) in self.tables.blocks.iter().zip(by_block) {
            let plain = self.block(row)?;
            for entry in entries.into_iter().filter(|entry| !entry.delta) {
                let end = (entry.offset as usize)
                    .checked_add(entry.encoded as usize)
                    .ok_or(DecodeError::Truncated)?;
                let blob = plain
                    .get(entry.offset as usize..end)
                    .ok_or(DecodeError::Truncated)?;
                keyring.verify_blob(entry.kind, &entry.id, blob)?;
                checked += 1;
            }
        }
        Ok(checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    fn prepared(plain: &[u8]) -> ReadyBlock {
        let mut block = OpenBlock::new(plain.len());
        block
            .push(BlobKind::Data, BlobId([1; 32]), plain, Reservation::none())
            .unwrap();
        block.prepare().unwrap()
    }

    #[test]
    fn what_does_not_compress_is_stored_raw_and_a_part_that_does_is_noticed() {
        let random = noise(1 << 20);
        assert_eq!(prepared(&random).codec, Codec::Raw);
        assert_eq!(prepared(&random[..10_000]).codec, Codec::Raw);
        for at in [0, 300_000, (1 << 20) - (1 << 18)] {
            let mut mixed = random.clone();
            mixed[at..at + (1 << 18)].fill(b'x');
            let block = prepared(&mixed);
            assert_eq!(block.codec, Codec::Zstd, "text at {at}");
            assert!(block.stored_len() < (1 << 20) - (1 << 17));
        }
        assert_eq!(prepared(&b"row\t1\n".repeat(10_000)).codec, Codec::Zstd);
    }
}
