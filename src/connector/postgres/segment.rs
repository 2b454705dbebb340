//! From the rows of a `COPY` stream to segments: how wide ranges are, which range a row lies in, where a long range is parted.

use super::record::{RowSum, SegmentRecord};
use super::state::RANGE_MAX;
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;

/// The text that a segment should have, in bytes.
pub const TARGET: u64 = 256 << 10;
/// The longest part of a range that holds more than one row, in bytes.
pub const PART_MAX: usize = 1 << 20;

/// A part of a range, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first block of its range; the number of the segment where there are no blocks.
    pub block: u64,
    /// Its number in the range.
    pub part: u32,
    /// Its rows.
    pub record: SegmentRecord,
    /// Their text.
    pub text: Bytes,
}

/// Blocks of a range, so that its text is about [`TARGET`]: a power of two.
pub fn range_blocks(bytes_per_block: u64) -> u32 {
    // A third more is nearer to it than the next smaller power.
    let fitting = (TARGET / 3 * 4 / bytes_per_block.max(1)).clamp(1, RANGE_MAX.into());
    1 << fitting.ilog2()
}

/// Where a table is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// At multiples of so many blocks; each line begins with the row's `ctid`, which is taken off.
    Blocks(u32),
    /// Where the hashes of rows say so.
    Hashes,
}

/// Cuts lines of `COPY` into parts. Rows of one range must come together, and ranges in ascending order.
pub struct Cutter {
    cut: Cut,
    /// The beginning of a line whose end has not come.
    unfinished: Vec<u8>,
    block: u64,
    part: u32,
    record: SegmentRecord,
    text: Vec<u8>,
    /// Of [`Cut::Hashes`]: the next row begins a segment.
    fresh: bool,
}

impl Cutter {
    /// A cutter at the beginning of a stream.
    pub fn new(cut: Cut) -> Self {
        Self {
            cut,
            unfinished: Vec::new(),
            block: 0,
            part: 0,
            record: SegmentRecord::default(),
            text: Vec::new(),
            fresh: false,
        }
    }

    /// Takes the next bytes of the stream; parts that they complete go to `out`.
    ///
    /// # Errors
    /// `Source` if the stream is not what the server was asked for.
    pub fn data(&mut self, bytes: &[u8], out: &mut Vec<Part>) -> Result<()> {
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let whole = line.last() == Some(&b'\n');
            if self.unfinished.is_empty() && whole {
                self.line(line, out)?;
                continue;
            }
            self.unfinished.extend_from_slice(line);
            if whole {
                let line = std::mem::take(&mut self.unfinished);
                self.line(&line, out)?;
            }
        }
        Ok(())
    }

    /// The end of the stream.
    ///
    /// # Errors
    /// `Source` if it ends within a line.
    pub fn end(mut self, out: &mut Vec<Part>) -> Result<()> {
        if !self.unfinished.is_empty() {
            return Err(strange("a row ends in the middle"));
        }
        self.flush(out);
        Ok(())
    }

    /// One row, with its line feed.
    fn line(&mut self, line: &[u8], out: &mut Vec<Part>) -> Result<()> {
        match self.cut {
            Cut::Blocks(blocks) => {
                let (block, row) = split_ctid(line)?;
                let first = block & !u64::from(blocks.saturating_sub(1));
                if first != self.block {
                    self.flush(out);
                    if first < self.block {
                        return Err(strange("rows come out of order"));
                    }
                    (self.block, self.part) = (first, 0);
                }
                self.row(row, out);
            }
            Cut::Hashes => {
                if self.fresh {
                    self.flush(out);
                    (self.block, self.part, self.fresh) = (self.block + 1, 0, false);
                }
                let sum = self.row(line, out);
                // Rows end a segment with a probability that follows from their length, so that segments have about TARGET bytes.
                let share = u128::from(u32::MAX) * line.len() as u128 / u128::from(TARGET);
                self.fresh = u128::from(u32::try_from(sum.0 & u128::from(u32::MAX)).unwrap_or(0)) < share;
            }
        }
        Ok(())
    }

    fn row(&mut self, row: &[u8], out: &mut Vec<Part>) -> RowSum {
        if !self.text.is_empty() && self.text.len() + row.len() > PART_MAX {
            self.flush(out);
        }
        let sum = RowSum::of_line(row.strip_suffix(b"\n").unwrap_or(row));
        self.record.rows += 1;
        self.record.sum.add(sum);
        self.text.extend_from_slice(row);
        sum
    }

    fn flush(&mut self, out: &mut Vec<Part>) {
        if self.record.rows == 0 {
            return;
        }
        out.push(Part {
            block: self.block,
            part: self.part,
            record: std::mem::take(&mut self.record),
            text: std::mem::take(&mut self.text).into(),
        });
        self.part += 1;
    }
}

/// The block of a line's leading `ctid`, and the line without it: `(12,3)\t…\n`. Without columns only the line feed is left.
fn split_ctid(line: &[u8]) -> Result<(u64, &[u8])> {
    let parsed = || {
        let rest = line.strip_prefix(b"(")?;
        let comma = rest.iter().take(12).position(|b| *b == b',')?;
        let block = std::str::from_utf8(rest.get(..comma)?)
            .ok()?
            .parse::<u32>()
            .ok()?;
        let close = rest.iter().take(20).position(|b| *b == b')')?;
        let after = rest.get(close + 1..)?;
        Some((u64::from(block), after.strip_prefix(b"\t").unwrap_or(after)))
    };
    parsed().ok_or_else(|| strange("a row comes without its place"))
}

fn strange(why: &str) -> Error {
    Error::new(
        ErrorKind::Source,
        format!("the server's rows are not what was asked for: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(kind: Cut, stream: &[u8], piece: usize) -> Result<Vec<Part>> {
        let (mut cutter, mut out) = (Cutter::new(kind), Vec::new());
        for bytes in stream.chunks(piece) {
            cutter.data(bytes, &mut out)?;
        }
        cutter.end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn ranges_are_powers_of_two_of_about_the_target() {
        for (bytes, blocks) in [
            (0, 64),
            (1, 64),
            (4096, 64),
            (6000, 32),
            (8192, 32),
            (100_000, 2),
            (1 << 30, 1),
        ] {
            assert_eq!(range_blocks(bytes), blocks, "{bytes}");
        }
    }

    #[test]
    fn rows_go_to_the_range_of_their_block() {
        let parts = cut(
            Cut::Blocks(16),
            b"(0,1)\ta\n(15,2)\tb\tc\n(16,1)\t\n(70,9)\td\n",
            7,
        )
        .unwrap();
        let seen: Vec<_> = parts
            .iter()
            .map(|p| (p.block, p.part, p.record.rows, p.text.as_ref()))
            .collect();
        let expected: [(u64, u32, u64, &[u8]); 3] =
            [(0, 0, 2, b"a\nb\tc\n"), (16, 0, 1, b"\n"), (64, 0, 1, b"d\n")];
        assert_eq!(seen, expected);
        let mut sum = RowSum::of_line(b"a");
        sum.add(RowSum::of_line(b"b\tc"));
        assert_eq!(parts[0].record.sum, sum);
    }

    #[test]
    fn a_table_without_columns_has_empty_rows() {
        let parts = cut(Cut::Blocks(1), b"(0,1)\n(0,2)\n", 100).unwrap();
        assert_eq!(parts.len(), 1);
        assert_eq!((parts[0].record.rows, parts[0].text.as_ref()), (2, &b"\n\n"[..]));
    }

    #[test]
    fn streams_that_are_not_rows_in_order_are_errors() {
        for stream in [
            &b"(16,1)\ta\n(0,1)\tb\n"[..],
            b"a\n",
            b"(x,1)\ta\n",
            b"(0,1)\ta",
            b"(0,1\ta\n",
        ] {
            assert_eq!(
                cut(Cut::Blocks(16), stream, 100).unwrap_err().kind(),
                ErrorKind::Source,
                "{stream:?}"
            );
        }
    }

    #[test]
    fn a_row_longer_than_a_part_stands_alone() {
        let mut stream = b"(0,1)\tshort\n(0,2)\t".to_vec();
        stream.extend(vec![b'x'; PART_MAX * 3]);
        stream.extend(b"\n(0,3)\tend\n(1,1)\tnext\n");
        let parts = cut(Cut::Blocks(1), &stream, 1 << 16).unwrap();
        let shape: Vec<_> = parts.iter().map(|p| (p.block, p.part, p.record.rows)).collect();
        assert_eq!(shape, [(0, 0, 1), (0, 1, 1), (0, 2, 1), (1, 0, 1)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_moved(
            rows in proptest::collection::vec((0u64..40, "[a-z\t]{0,2000}"), 0..200),
            power in 0u32..7, piece in 1usize..5000,
        ) {
            let mut rows = rows;
            rows.sort();
            let lines: Vec<String> = rows.iter().map(|(block, text)| format!("({block},1)\t{text}\n")).collect();
            let stream = lines.concat();
            let parts = cut(Cut::Blocks(1 << power), stream.as_bytes(), piece).unwrap();
            let text: Vec<u8> = parts.iter().flat_map(|p| p.text.to_vec()).collect();
            let lines: Vec<String> = rows.iter().map(|(_, text)| format!("{text}\n")).collect();
            let expected = lines.concat();
            prop_assert_eq!(text, expected.into_bytes());
            for part in &parts {
                let inside = rows.iter().filter(|(block, _)| block >> power << power == part.block).count() as u64;
                let counted: u64 = parts.iter().filter(|p| p.block == part.block).map(|p| p.record.rows).sum();
                prop_assert_eq!(counted, inside);
                prop_assert!(part.record.rows == 1 || part.text.len() <= PART_MAX);
            }
        }

        #[test]
        fn without_blocks_a_change_moves_few_borders(change in 0usize..20_000, piece in 1usize..50_000) {
            let rows = |changed: Option<usize>| -> Vec<u8> {
                let line = |i: usize| format!("{i}\t{}\n", if Some(i) == changed { "changed" } else { "the same as ever" });
                (0..20_000).map(line).collect::<Vec<_>>().concat().into_bytes()
            };
            let before = cut(Cut::Hashes, &rows(None), piece).unwrap();
            let after = cut(Cut::Hashes, &rows(Some(change)), 1 << 20).unwrap();
            let texts: std::collections::HashSet<_> = before.iter().map(|p| p.text.clone()).collect();
            let new = after.iter().filter(|p| !texts.contains(&p.text)).count();
            prop_assert!(new <= 3, "{new} of {}", after.len());
            prop_assert!(after.iter().all(|p| p.text.len() <= PART_MAX));
        }
    }
}
