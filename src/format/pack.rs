//! Packs (`format-spec/40-pack.md`): header, sealed blocks, sealed directory, padding, sealed trailer, hash.

use super::error::DecodeError;
use super::header::{HEADER_LEN, TAG_LEN, TRAILER_LEN, padme, u32_le};
use super::limits::RECORD_MAX;

/// Bytes of the sealed trailer record.
pub const PACK_TRAILER_LEN: usize = 12 + TAG_LEN;
/// The last bytes of a pack that tell where its directory is: sealed trailer and hash.
pub const PACK_TAIL_LEN: usize = PACK_TRAILER_LEN + TRAILER_LEN;
/// The most records of a pack: blocks, numbered from 0, the directory, whose number follows the last block's, and the trailer.
pub const PACK_RECORDS_MAX: u32 = 1 << 20;

/// The trailer record of a pack: where the directory is. It has a number of its own, and is the last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackTrailer {
    /// Where the sealed directory begins.
    pub offset: u32,
    /// Bytes of the sealed directory, tag included.
    pub sealed: u32,
    /// How many blocks come before it: the directory's record number.
    pub blocks: u32,
}

impl PackTrailer {
    /// Offset, length and count, little-endian: 12 bytes.
    pub fn encode(&self) -> Vec<u8> {
        [self.offset, self.sealed, self.blocks]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// `Truncated`, `Invalid`, `OverLimit`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut rest = bytes;
        let trailer = Self {
            offset: u32_le(&mut rest)?,
            sealed: u32_le(&mut rest)?,
            blocks: u32_le(&mut rest)?,
        };
        if !rest.is_empty() || (trailer.offset as usize) < HEADER_LEN {
            return Err(DecodeError::Invalid("trailer of a pack"));
        }
        if trailer.blocks > PACK_RECORDS_MAX - 2 || trailer.sealed as usize > RECORD_MAX + TAG_LEN {
            return Err(DecodeError::OverLimit("directory of a pack"));
        }
        if trailer.blocks == 0 || (trailer.sealed as usize) < TAG_LEN {
            return Err(DecodeError::Invalid("trailer of a pack"));
        }
        Ok(trailer)
    }

    /// Where the sealed directory stands in a pack of `size` bytes.
    ///
    /// # Errors
    /// `Invalid` if it does not lie between the header and the tail.
    pub fn directory(&self, size: usize) -> Result<std::ops::Range<usize>, DecodeError> {
        let start = self.offset as usize;
        let end = start.checked_add(self.sealed as usize);
        match (end, size.checked_sub(PACK_TAIL_LEN)) {
            (Some(end), Some(tail)) if end <= tail => Ok(start..end),
            _ => Err(DecodeError::Invalid("directory outside its pack")),
        }
    }
}

/// How many bytes of padding follow the directory, when `before` bytes precede the padding.
pub fn padding(before: usize, use_padme: bool) -> usize {
    let total = before + PACK_TAIL_LEN;
    if !use_padme {
        return 0;
    }
    let padded = usize::try_from(padme(total as u64)).unwrap_or(total);
    // Never above the largest object.
    padded.min(super::limits::OBJECT_MAX.max(total)) - total
}
