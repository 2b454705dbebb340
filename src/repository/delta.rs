//! Deltas as pure code (`format-spec/30-blobs-and-blocks.md` section 3): a blob as what differs from its base.

use crate::error::{Error, ErrorKind, Result};
use crate::format::error::DecodeError;
use crate::format::frame::{WINDOW_LOG_MAX, decode_frame_into};
use crate::format::id::BlobId;
use bytes::Bytes;
use zstd_safe::{CCtx, CParameter};

/// zstd finds no match it has not indexed: its tables for this level are made for content, not for content and a base before it, so
/// they grow with both, within these bounds.
const TABLE_LOG: std::ops::RangeInclusive<u32> = 15..=22;

/// The level of zstd for deltas. Most of a chunk is found in its base at once, so that a longer search costs little: it saves about a
/// seventh of their bytes.
const LEVEL: i32 = 6;

/// A blob as what differs from its base.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The base.
    pub base: BlobId,
    /// One zstd frame.
    pub bytes: Bytes,
}

/// Makes the delta of `plain` against `base`, and proves that it gives `plain` back. Gives nothing if it is longer than `room`.
///
/// # Errors
/// `Internal` if the codec fails or errs.
pub(crate) fn make_delta(plain: &[u8], base: &[u8], room: usize) -> Result<Option<Vec<u8>>> {
    let failed =
        |code| Error::new(ErrorKind::Internal, "zstd failed").because(zstd_safe::get_error_name(code));
    let both = plain.len() + base.len();
    let log = usize::BITS - both.saturating_sub(1).leading_zeros();
    let table = log.clamp(*TABLE_LOG.start(), *TABLE_LOG.end());
    let mut context = CCtx::create();
    let parameters = [
        CParameter::CompressionLevel(LEVEL),
        CParameter::WindowLog(log.clamp(10, WINDOW_LOG_MAX)),
        CParameter::HashLog(table),
        CParameter::ChainLog(table),
    ];
    for parameter in parameters {
        context.set_parameter(parameter).map_err(failed)?;
    }
    context.ref_prefix(base).map_err(failed)?;
    let mut delta = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut delta, plain).map_err(failed)?;
    if delta.len() > room {
        return Ok(None);
    }
    let len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
    let mut again = Vec::new();
    if apply_delta(&mut again, &delta, base, len).is_err() || again != plain {
        return Err(Error::new(
            ErrorKind::Internal,
            "a delta does not give its content back",
        ));
    }
    delta.shrink_to_fit();
    Ok(Some(delta))
}

/// Applies a delta, one zstd frame that was made with the base's plaintext as its prefix: `out` is what it gives.
///
/// # Errors
/// `OverLimit` or `Invalid`, as [`decode_frame_into`].
pub(crate) fn apply_delta(
    out: &mut Vec<u8>,
    delta: &[u8],
    base: &[u8],
    plain: u32,
) -> Result<(), DecodeError> {
    decode_frame_into(out, delta, plain, Some(base))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_change_in_a_hundred_costs_a_few_percent() {
        let row = |n: usize, touched: bool| format!("{n}\t{}\t{touched}\n", blake3::hash(&n.to_le_bytes()));
        let text = |touched: bool| {
            (0..14_000)
                .map(|n| row(n, touched && n % 100 == 7))
                .collect::<String>()
        };
        let (before, after) = (text(false), text(true));
        assert!(
            before.len() > 1_000_000,
            "the tables must reach over a whole chunk"
        );
        let delta = make_delta(after.as_bytes(), before.as_bytes(), usize::MAX)
            .unwrap()
            .unwrap();
        assert!(
            delta.len() < after.len() / 50,
            "{} of {}",
            delta.len(),
            after.len()
        );
        assert!(
            make_delta(after.as_bytes(), before.as_bytes(), delta.len() - 1)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_base_that_begins_like_a_dictionary_is_content_as_any() {
        let base = [&[0x37, 0xa4, 0x30, 0xec][..], &[9; 3000], b"what follows"].concat();
        let plain = [&base[..], b", and more"].concat();
        let delta = make_delta(&plain, &base, usize::MAX).unwrap().unwrap();
        let (mut out, len) = (Vec::new(), u32::try_from(plain.len()).unwrap());
        apply_delta(&mut out, &delta, &base, len).unwrap();
        assert_eq!(out, plain);
    }

    proptest! {
        #[test]
        fn a_delta_gives_back_what_it_was_made_from(
            base in proptest::collection::vec(any::<u8>(), 1..4096),
            mut plain in proptest::collection::vec(any::<u8>(), 1..4096),
            copied in 0usize..4096,
        ) {
            let copied = copied.min(base.len()).min(plain.len());
            plain[..copied].copy_from_slice(&base[..copied]);
            let delta = make_delta(&plain, &base, usize::MAX).unwrap().unwrap();
            let len = u32::try_from(plain.len()).unwrap();
            // What was in the memory before does not matter.
            let mut out = base.clone();
            apply_delta(&mut out, &delta, &base, len).unwrap();
            prop_assert_eq!(out, plain);
        }
    }
}
