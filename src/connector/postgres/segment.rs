//! From the rows of a `COPY` stream to segments: how wide ranges are, which range a row lies in, where a long range is parted.

use super::mark::mark;
use super::record::{RowSum, SegmentRecord};
use super::state::{RANGE_MAX, SegmentState};
use crate::error::{Error, ErrorKind, Result};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The text that a segment should have, in bytes.
pub const TARGET: u64 = 256 << 10;
/// The longest part of a range that holds more than one row, in bytes.
pub const PART_MAX: usize = 1 << 20;

/// A part of a range, whole.
#[derive(Debug)]
pub struct Part {
    /// The first block of its range; the number of the segment where there are no blocks.
    pub block: u64,
    /// Its number in the range.
    pub part: u32,
    /// Whether it is the last of its range.
    pub last: bool,
    /// Its rows.
    pub record: SegmentRecord,
    /// Their text; empty if it was left.
    pub text: Bytes,
    /// The one row that was too long to be held, if it is that.
    pub left: Option<Left>,
    /// What later snapshots compare the range with: of a last part that was read for it.
    pub state: Option<SegmentState>,
    /// The memory that a long row takes, as long as the part is there.
    held: Option<OwnedSemaphorePermit>,
}

/// A row that was hashed as it came and not kept: it is read once more when its text is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its block.
    pub block: u32,
    /// Its number in the block.
    pub offset: u16,
    /// Bytes of its text, with the line feed.
    pub bytes: u64,
}

/// Memory for rows longer than [`PART_MAX`], in KiB: shared by all that read at once. Nobody waits for it: a row that finds none is
/// left at the server.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: u64) -> Self {
        let kib = usize::try_from(bytes / 1024).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(kib.min(Semaphore::MAX_PERMITS))))
    }

    /// Has `held` stand for so many bytes; false if there is no room.
    fn grow(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> bool {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(more) = bytes.div_ceil(1024).checked_sub(has).filter(|more| *more > 0) else {
            return true;
        };
        // In steps of 1 MiB, so that it is asked for seldom.
        let more = u32::try_from(more.max(1024)).unwrap_or(u32::MAX);
        match (self.0.clone().try_acquire_many_owned(more), &mut *held) {
            (Ok(more), Some(held)) => held.merge(more),
            (Ok(more), held) => *held = Some(more),
            (Err(_), _) => return false,
        }
        true
    }
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
    /// Likewise; behind the `ctid` stands the row's `xmin`, and of both the fingerprint of each range is made.
    Marked(u32),
    /// Where the hashes of rows say so.
    Hashes,
}

/// Cuts lines of `COPY` into parts. Rows of one range must come together, and ranges in ascending order.
pub struct Cutter {
    cut: Cut,
    room: Room,
    /// The beginning of a line whose end has not come, and the memory it takes beyond [`PART_MAX`].
    unfinished: Vec<u8>,
    held: Option<OwnedSemaphorePermit>,
    /// A line that is too long to be held.
    long: Option<Long>,
    block: u64,
    part: u32,
    record: SegmentRecord,
    text: Vec<u8>,
    /// A part that is whole, until it is known whether it is the last of its range.
    whole: Option<Part>,
    marks: SegmentState,
    /// Of [`Cut::Hashes`]: the next row begins a segment.
    fresh: bool,
}

/// A line of which only the hash is kept.
struct Long {
    left: Left,
    hash: blake3::Hasher,
}

/// What stands before a row.
#[derive(Clone, Copy)]
struct Place {
    block: u32,
    offset: u16,
    xmin: Option<u32>,
    /// Where the row begins.
    length: usize,
}

impl Cutter {
    /// A cutter at the beginning of a stream.
    pub fn new(cut: Cut, room: Room) -> Self {
        Self {
            cut,
            room,
            unfinished: Vec::new(),
            held: None,
            long: None,
            block: 0,
            part: 0,
            record: SegmentRecord::default(),
            text: Vec::new(),
            whole: None,
            marks: SegmentState::default(),
            fresh: false,
        }
    }

    /// Takes the next bytes of the stream; parts that they complete go to `out`.
    ///
    /// # Errors
    /// `Source` if the stream is not what the server was asked for, `Unsupported` for a row that is too long and cannot be read again
    /// by its place.
    pub fn data(&mut self, bytes: &[u8], out: &mut Vec<Part>) -> Result<()> {
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let whole = line.last() == Some(&b'\n');
            if let Some(long) = &mut self.long {
                long.left.bytes += line.len() as u64;
                long.hash.update(line.strip_suffix(b"\n").unwrap_or(line));
                if whole {
                    self.end_long(out);
                }
                continue;
            }
            if self.unfinished.is_empty() && whole {
                self.line(line, out)?;
                continue;
            }
            self.unfinished.extend_from_slice(line);
            let length = self.unfinished.len();
            if length > PART_MAX && !self.room.grow(&mut self.held, length) {
                self.begin_long(out)?;
                if whole {
                    self.end_long(out);
                }
            } else if whole {
                let line = std::mem::take(&mut self.unfinished);
                if line.len() > PART_MAX {
                    self.long_line(line, out)?;
                } else {
                    self.line(&line, out)?;
                }
            }
        }
        Ok(())
    }

    /// The end of the stream.
    ///
    /// # Errors
    /// `Source` if it ends within a line.
    pub fn end(mut self, out: &mut Vec<Part>) -> Result<()> {
        if !self.unfinished.is_empty() || self.long.is_some() {
            return Err(strange("a row ends in the middle"));
        }
        self.end_range(out);
        Ok(())
    }

    /// One row, with its line feed.
    fn line(&mut self, line: &[u8], out: &mut Vec<Part>) -> Result<()> {
        let start = self.begin_row(line, out)?.map_or(0, |place| place.length);
        let row = line.get(start..).unwrap_or_default();
        if !self.text.is_empty() && self.text.len() + row.len() > PART_MAX {
            self.end_part(out);
        }
        let sum = RowSum::of_line(row.strip_suffix(b"\n").unwrap_or(row));
        self.record.rows += 1;
        self.record.sum.add(sum);
        self.text.extend_from_slice(row);
        self.choose_border(sum, row.len() as u64);
        Ok(())
    }

    /// A long row, which makes a part of its own without being copied.
    fn long_line(&mut self, line: Vec<u8>, out: &mut Vec<Part>) -> Result<()> {
        let start = self.begin_row(&line, out)?.map_or(0, |place| place.length);
        self.end_part(out);
        let text = Bytes::from(line).slice(start..);
        let sum = RowSum::of_line(text.strip_suffix(b"\n").unwrap_or(&text));
        let length = text.len() as u64;
        let held = self.held.take();
        self.one_row(sum, text, None, out);
        if let Some(part) = &mut self.whole {
            part.held = held;
        }
        self.choose_border(sum, length);
        Ok(())
    }

    /// From here on only the hash of the row is kept.
    fn begin_long(&mut self, out: &mut Vec<Part>) -> Result<()> {
        let line = std::mem::take(&mut self.unfinished);
        self.held = None;
        let Some(place) = self.begin_row(&line, out)? else {
            let what = "a row is too long for the memory that may be used";
            return Err(Error::new(ErrorKind::Unsupported, what)
                .with("bytes at least", line.len())
                .hint("allow more with --memory, or leave the table out with --exclude-table"));
        };
        self.end_part(out);
        let row = line.get(place.length..).unwrap_or_default();
        let mut hash = blake3::Hasher::new();
        hash.update(row.strip_suffix(b"\n").unwrap_or(row));
        let left = Left {
            block: place.block,
            offset: place.offset,
            bytes: row.len() as u64,
        };
        self.long = Some(Long { left, hash });
        Ok(())
    }

    fn end_long(&mut self, out: &mut Vec<Part>) {
        if let Some(Long { left, hash }) = self.long.take() {
            self.one_row(RowSum::of_hash(&hash.finalize()), Bytes::new(), Some(left), out);
        }
    }

    /// What stands before a row. It may end the range before it.
    fn begin_row(&mut self, line: &[u8], out: &mut Vec<Part>) -> Result<Option<Place>> {
        let (Cut::Blocks(blocks) | Cut::Marked(blocks)) = self.cut else {
            if self.fresh {
                self.end_range(out);
                (self.block, self.fresh) = (self.block + 1, false);
            }
            return Ok(None);
        };
        let place = place(line, matches!(self.cut, Cut::Marked(_)))?;
        let first = u64::from(place.block & !blocks.saturating_sub(1));
        if first != self.block {
            self.end_range(out);
            if first < self.block {
                return Err(strange("rows come out of order"));
            }
            self.block = first;
        }
        self.marks.rows += 1;
        let sum = place.xmin.map(|xmin| mark(place.block, place.offset, xmin));
        self.marks.sum += i128::from(sum.unwrap_or(0));
        Ok(Some(place))
    }

    /// Of [`Cut::Hashes`]: rows end a segment with a probability that follows from their length, so that segments have about
    /// [`TARGET`] bytes.
    fn choose_border(&mut self, sum: RowSum, length: u64) {
        if self.cut == Cut::Hashes {
            let share = u128::from(u32::MAX) * u128::from(length) / u128::from(TARGET);
            self.fresh = u128::from(u32::try_from(sum.0 & u128::from(u32::MAX)).unwrap_or(0)) < share;
        }
    }

    fn one_row(&mut self, sum: RowSum, text: Bytes, left: Option<Left>, out: &mut Vec<Part>) {
        self.push(SegmentRecord { rows: 1, sum }, text, left, out);
    }

    fn end_part(&mut self, out: &mut Vec<Part>) {
        if self.record.rows > 0 {
            let (record, text) = (std::mem::take(&mut self.record), std::mem::take(&mut self.text));
            self.push(record, text.into(), None, out);
        }
    }

    fn push(&mut self, record: SegmentRecord, text: Bytes, left: Option<Left>, out: &mut Vec<Part>) {
        let part = Part {
            block: self.block,
            part: self.part,
            last: false,
            record,
            text,
            left,
            state: None,
            held: None,
        };
        self.part += 1;
        out.extend(self.whole.replace(part));
    }

    fn end_range(&mut self, out: &mut Vec<Part>) {
        self.end_part(out);
        let marks = std::mem::take(&mut self.marks);
        self.part = 0;
        if let Some(mut last) = self.whole.take() {
            last.last = true;
            last.state = matches!(self.cut, Cut::Marked(_)).then_some(marks);
            out.push(last);
        }
    }
}

/// The place before a row, `(12,3)\t…\n` or, marked, `(12,3)\t784\t…\n`. Without columns only the line feed is left.
fn place(line: &[u8], marked: bool) -> Result<Place> {
    let parsed = || {
        let rest = line.strip_prefix(b"(")?;
        let (block, rest) = number(rest, b",")?;
        let (offset, rest) = number(rest, b")")?;
        let (xmin, rest) = if marked {
            let (xmin, rest) = number(rest.strip_prefix(b"\t")?, b"\t\n")?;
            // The end of the number is a tab before a row, or all of a row without columns.
            (Some(xmin), line.get(line.len() - rest.len() - 1..)?)
        } else {
            (None, rest)
        };
        let row = rest.strip_prefix(b"\t").unwrap_or(rest);
        Some(Place {
            block,
            offset: u16::try_from(offset).ok()?,
            xmin,
            length: line.len() - row.len(),
        })
    };
    parsed().ok_or_else(|| strange("a row comes without its place"))
}

/// A number up to one of these bytes, and what stands behind that.
fn number<'a>(bytes: &'a [u8], ends: &[u8]) -> Option<(u32, &'a [u8])> {
    let end = bytes.iter().take(12).position(|byte| ends.contains(byte))?;
    let number = std::str::from_utf8(bytes.get(..end)?).ok()?.parse().ok()?;
    Some((number, bytes.get(end + 1..)?))
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
        let (mut cutter, mut out) = (Cutter::new(kind, Room::new(64 << 20)), Vec::new());
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

    #[test]
    fn a_row_that_finds_no_room_is_hashed_and_left() {
        let row = |fill: u8, length: usize| [&vec![fill; length][..], b"\n"].concat();
        let lines = [
            b"(0,1)\t7\tshort\n".to_vec(),
            [b"(0,2)\t7\t", &row(b'x', PART_MAX * 3)[..]].concat(),
            [b"(1,1)\t7\t", &row(b'y', PART_MAX * 3)[..]].concat(),
            [b"(70000,65535)\t7\t", &row(b'z', PART_MAX * 9)[..]].concat(),
        ];
        let (mut cutter, mut parts) = (Cutter::new(Cut::Marked(1), Room::new(4 << 20)), Vec::new());
        for piece in lines.concat().chunks(10_000) {
            cutter.data(piece, &mut parts).unwrap();
        }
        cutter.end(&mut parts).unwrap();
        let shape: Vec<_> = parts
            .iter()
            .map(|p| (p.block, p.part, p.last, p.text.len()))
            .collect();
        // The second is held until it is taken, so there is no room for the third.
        let long = PART_MAX * 3 + 1;
        assert_eq!(
            shape,
            [
                (0, 0, false, 6),
                (0, 1, true, long),
                (1, 0, true, 0),
                (70000, 0, true, 0)
            ]
        );
        let left = |block, offset, bytes: usize| {
            Some(Left {
                block,
                offset,
                bytes: bytes as u64,
            })
        };
        assert_eq!(parts[2].left, left(1, 1, long));
        assert_eq!(parts[3].left, left(70000, 65535, PART_MAX * 9 + 1));
        for (part, (fill, length)) in parts[1..].iter().zip([(b'x', 3), (b'y', 3), (b'z', 9)]) {
            assert_eq!(part.record.sum, RowSum::of_line(&vec![fill; PART_MAX * length]));
        }
        let state = SegmentState {
            rows: 2,
            sum: i128::from(mark(0, 1, 7)) + i128::from(mark(0, 2, 7)),
        };
        assert_eq!((parts[0].state, parts[1].state), (None, Some(state)));
        drop(parts);
        let mut cutter = Cutter::new(Cut::Hashes, Room::new(4 << 20));
        let error = cutter.data(&vec![b'x'; 8 << 20], &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn marked_rows_may_have_no_columns() {
        let parts = cut(Cut::Marked(1), b"(0,1)\t5\n(0,2)\t6\n", 100).unwrap();
        assert_eq!((parts.len(), parts[0].text.as_ref()), (1, &b"\n\n"[..]));
        assert_eq!(parts[0].state.unwrap().rows, 2);
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
