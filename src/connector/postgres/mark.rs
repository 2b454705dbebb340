//! What a fingerprint sums over the rows of a range, computed from the rows themselves: whoever reads them anyway need not have the
//! server read its heap twice. A server that sums otherwise makes a range look changed, never unchanged.

/// The greatest number of a transaction that is none of a session's: of rows that `initdb` wrote, or that were frozen before 9.4. The
/// server does not count their age.
const SPECIAL: u32 = 2;
/// SQL of what is asked for of each row of a table `a`. An age takes the server long enough to be asked for but once.
pub(super) const OF_ROW: &str = "a.ctid p, pg_catalog.age(a.xmin) g";

/// SQL of the sum of marks over rows `y` of [`OF_ROW`]. A transaction's number is told by its age alone, which is counted backwards from
/// the same moment everywhere in a transaction: from that of the first number that a session can have, 3.
pub(super) fn sum() -> String {
    format!(
        "pg_catalog.sum(pg_catalog.hashtidextended(y.p, CASE WHEN y.g = 2147483647 THEN {SPECIAL} ELSE
           ((SELECT pg_catalog.age('3'::pg_catalog.xid)::pg_catalog.int8 + 3) - y.g) & 4294967295 END))"
    )
}

/// SQL that tells whether one of the rows `y` of [`OF_ROW`], of which there is one at least, was written by a transaction that had not
/// ended when `since` was the oldest that ran.
///
/// A transaction's number in a row has 32 bits; ages are counted in them, from now backwards. Without its sign, an age of 0 or more comes
/// before all that are less, so that the least tells whether one lies between 0 and another. An `oid` is such a number, and costs nothing.
pub(super) fn written(since: Option<u64>) -> String {
    let Some(since) = since else {
        return "false".to_owned();
    };
    format!(
        "pg_catalog.min(y.g::pg_catalog.oid) <= (SELECT pg_catalog.age('{}'::pg_catalog.xid)::pg_catalog.oid)",
        since & u64::from(u32::MAX)
    )
}

/// `hashtidextended(ctid, xmin)` of a row, as servers on little-endian machines compute it: Jenkins' hash of the six bytes of its place,
/// with the number of its transaction for a seed.
pub(super) fn mark(block: u32, offset: u16, xmin: u32) -> i64 {
    let (high, low) = (block >> 16, block & 0xffff);
    let start = 0x9e37_79b9_u32.wrapping_add(6).wrapping_add(3_923_095);
    let (mut a, mut b, mut c) = (start, start.wrapping_add(xmin.max(SPECIAL)), start);
    let turn = |to: &mut u32, by: &mut u32, from: u32, bits: u32| {
        *to = to.wrapping_sub(*by) ^ by.rotate_left(bits);
        *by = by.wrapping_add(from);
    };
    for [first, second, third] in [[4, 6, 8], [16, 19, 4]] {
        turn(&mut a, &mut c, b, first);
        turn(&mut b, &mut a, c, second);
        turn(&mut c, &mut b, a, third);
    }
    // A place is stored as three numbers of 16 bits: the block's higher half, its lower half, the number of the row.
    a = a.wrapping_add(high | low << 16);
    b = b.wrapping_add(u32::from(offset));
    let mix = |to: &mut u32, from: u32, by: u32| *to = (*to ^ from).wrapping_sub(from.rotate_left(by));
    mix(&mut c, b, 14);
    mix(&mut a, c, 11);
    mix(&mut b, a, 25);
    mix(&mut c, b, 16);
    mix(&mut a, c, 4);
    mix(&mut b, a, 14);
    mix(&mut c, b, 24);
    (u64::from(b) << 32 | u64::from(c)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_those_of_the_server() {
        // SELECT hashtidextended(place, xmin) of PostgreSQL 15.
        for (block, offset, xmin, expected) in [
            (0, 1, 2, 5_153_966_619_145_002_753),
            (0, 1, 1, 5_153_966_619_145_002_753),
            (70_000, 291, u32::MAX, -8_031_659_879_462_627_303),
            (u32::MAX - 1, u16::MAX, 731, 8_718_331_344_141_898_007),
        ] {
            assert_eq!(mark(block, offset, xmin), expected, "{block} {offset} {xmin}");
        }
    }
}
