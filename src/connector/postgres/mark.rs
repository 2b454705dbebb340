//! What a fingerprint sums over the rows of a range, computed from the rows themselves: whoever reads them anyway need not have the
//! server read its heap twice. A server that sums otherwise makes a range look changed, never unchanged.

/// `hash_record_extended(ROW(ctid, xmin), 0)` of a row, as servers on little-endian machines compute it: the hashes of the columns,
/// combined as those of a record's are.
pub(super) fn mark(block: u32, offset: u16, xmin: u32) -> i64 {
    let (high, low) = (block >> 16, block & 0xffff);
    // A place is stored as three numbers of 16 bits: the block's higher half, its lower half, the number of the row.
    let place = hash(6, high | low << 16, u32::from(offset));
    let transaction = hash(4, xmin, 0);
    place.wrapping_mul(31).wrapping_add(transaction).cast_signed()
}

/// Jenkins' hash of a key of at most eight bytes, as `hash_bytes_extended` computes it without a seed.
fn hash(length: u32, first: u32, second: u32) -> u64 {
    let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
    let (mut a, mut b, mut c) = (start.wrapping_add(first), start.wrapping_add(second), start);
    let mix = |to: &mut u32, from: u32, by: u32| *to = (*to ^ from).wrapping_sub(from.rotate_left(by));
    mix(&mut c, b, 14);
    mix(&mut a, c, 11);
    mix(&mut b, a, 25);
    mix(&mut c, b, 16);
    mix(&mut a, c, 4);
    mix(&mut b, a, 14);
    mix(&mut c, b, 24);
    u64::from(b) << 32 | u64::from(c)
}
