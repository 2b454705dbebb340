//! The zstd frames that blocks and deltas are (`format-spec/30-blobs-and-blocks.md` section 2): which ones a repository may hold, and
//! their content. zstd itself reads more than that: several frames in a row, frames to be skipped, dictionaries by number.

use super::error::DecodeError;
use super::limits;
use std::cell::RefCell;
use zstd_safe::{DCtx, DParameter};

/// What a frame begins with, as RFC 8878 says.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The largest window, as a logarithm: 32 MiB. It covers any base and blob together.
pub const WINDOW_LOG_MAX: u32 = 25;
/// What a dictionary of zstd's own begins with: a base is never one, whatever it begins with.
const DICTIONARY_MAGIC: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];
/// Bytes of the checksum that may end a frame.
const CHECKSUM_LEN: usize = 4;

const BROKEN: DecodeError = DecodeError::Invalid("zstd frame");

thread_local! {
    static CONTEXT: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Reads the content of a frame: exactly `len` bytes. `base` is the prefix that a delta was made with.
///
/// # Errors
/// `OverLimit` for a length that no block has; `Invalid` for a frame that breaks a rule of its chapter, is damaged, or gives another
/// length. No memory is taken before the frame was found to promise that length.
pub fn decode_frame(frame: &[u8], len: u32, base: Option<&[u8]>) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    decode_frame_into(&mut out, frame, len, base)?;
    Ok(out)
}

/// As [`decode_frame`], into memory that was used before: to have fresh pages from the system costs half as much as to fill them.
///
/// # Errors
/// As [`decode_frame`]; what is in `out` means nothing then.
pub fn decode_frame_into(
    out: &mut Vec<u8>,
    frame: &[u8],
    len: u32,
    base: Option<&[u8]>,
) -> Result<(), DecodeError> {
    let len = len as usize;
    if len > limits::BLOCK_MAX {
        return Err(DecodeError::OverLimit("block"));
    }
    check(frame, len)?;
    out.clear();
    out.reserve_exact(len);
    let decoded = match base {
        Some(base) if base.starts_with(&DICTIONARY_MAGIC) => {
            let mut context = DCtx::create();
            let limit = context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX));
            let prefix = limit.and_then(|_| context.ref_prefix(base));
            prefix.and_then(|_| context.decompress(out, frame))
        }
        Some(base) => CONTEXT.with_borrow_mut(|context| {
            let context = context.get_or_insert_with(DCtx::create);
            context.decompress_using_dict(out, frame, base)
        }),
        None => CONTEXT.with_borrow_mut(|context| {
            let context = context.get_or_insert_with(DCtx::create);
            context.decompress(out, frame)
        }),
    };
    decoded.map_err(|_| BROKEN)?;
    if out.len() == len {
        Ok(())
    } else {
        Err(DecodeError::Invalid("length of a zstd frame"))
    }
}

/// Whether these bytes are one frame, nothing more and nothing less, that keeps the rules of the chapter and promises `len` bytes.
fn check(frame: &[u8], len: usize) -> Result<(), DecodeError> {
    let rest = frame.strip_prefix(&MAGIC).ok_or(BROKEN)?;
    let (descriptor, rest) = rest.split_first().ok_or(BROKEN)?;
    let is_single_segment = descriptor & 0x20 != 0;
    if descriptor & 0x08 != 0 {
        return Err(BROKEN);
    }
    if descriptor & 0x03 != 0 {
        return Err(DecodeError::Invalid("zstd frame with a dictionary id"));
    }
    let rest = if is_single_segment {
        rest
    } else {
        let (window, rest) = rest.split_first().ok_or(BROKEN)?;
        let (log, eighths) = (10 + u32::from(window >> 3), window & 7);
        if log > WINDOW_LOG_MAX || (log == WINDOW_LOG_MAX && eighths > 0) {
            return Err(DecodeError::Invalid("window of a zstd frame"));
        }
        rest
    };
    let (size_len, added) = match (descriptor >> 6, is_single_segment) {
        (0, true) => (1, 0),
        (1, _) => (2, 256),
        (2, _) => (4, 0),
        (3, _) => (8, 0),
        _ => return Err(DecodeError::Invalid("zstd frame without its content size")),
    };
    let (size, mut rest) = rest.split_at_checked(size_len).ok_or(BROKEN)?;
    let mut le = [0; 8];
    le.iter_mut().zip(size).for_each(|(to, from)| *to = *from);
    if u64::from_le_bytes(le).checked_add(added) != Some(len as u64) {
        return Err(DecodeError::Invalid("content size of a zstd frame"));
    }
    loop {
        let (header, after) = rest.split_first_chunk::<3>().ok_or(BROKEN)?;
        let [a, b, c] = *header;
        let header = u32::from_le_bytes([a, b, c, 0]);
        let stored = match (header >> 1) & 3 {
            1 => 1,
            3 => return Err(BROKEN),
            _ => (header >> 3) as usize,
        };
        rest = after.get(stored..).ok_or(BROKEN)?;
        if header & 1 == 1 {
            break;
        }
    }
    let tail = if descriptor & 0x04 == 0 { 0 } else { CHECKSUM_LEN };
    if rest.len() == tail { Ok(()) } else { Err(BROKEN) }
}
