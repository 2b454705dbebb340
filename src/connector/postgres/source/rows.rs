//! The entries of one table, in the order of their keys: what is taken over between what is read.

use super::long_row::LongRow;
use super::prior::{PriorRanges, PriorSegments};
use super::read::{Job, Running};
use super::seats::Seats;
use super::table::{Planned, Rows};
use super::{Out, Reading};
use crate::connector::postgres::catalog::Table;
use crate::connector::postgres::key::{self, Place, Segment};
use crate::connector::postgres::plan::{Range, Ranges};
use crate::connector::postgres::record::{How, ReportLine, RowSum};
use crate::connector::postgres::segment::{Cut, Part};
use crate::error::{Error, Result};
use crate::snapshot::entry::{Content, Entry, EntryHead, EntryKind, Item, Metadata};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// Yields the entries of a planned table. Gives its line of the report.
pub(super) async fn send(reading: &Arc<Reading>, planned: Planned, out: &mut Out) -> Result<ReportLine> {
    if let Some(note) = planned.note {
        out.send(Item::Note(note)).await?;
    }
    out.send(planned.group).await?;
    let line = ReportLine {
        table: planned.table.name.clone(),
        rows: 0,
        bytes: 0,
        sum: RowSum::default(),
        how: planned.how,
        why: planned.why,
        ranges: 0,
        ranges_read: 0,
    };
    let mut sender = Sender {
        reading,
        table: planned.table,
        line,
        about: planned.about,
        out,
    };
    match planned.rows {
        Rows::Stream(cut) => sender.stream(cut).await?,
        Rows::Ranges(ranges) => {
            let prior = if planned.takes_over {
                let name = &sender.table.name;
                let opened = PriorRanges::open(reading.prior.as_ref(), &reading.database, name);
                Some(opened.await.1)
            } else {
                None
            };
            (sender.line.ranges, sender.line.ranges_read) = ranges.counts();
            let merge = Merge {
                sender,
                ranges,
                prior,
                ahead: None,
                unread: 0,
                next: 0,
                running: VecDeque::new(),
            };
            return merge.run(planned.begun).await;
        }
    }
    Ok(sender.line)
}

struct Sender<'a> {
    reading: &'a Arc<Reading>,
    table: Arc<Table>,
    line: ReportLine,
    /// About how many bytes a range has, and all.
    about: (u64, u64),
    out: &'a mut Out,
}

impl Sender<'_> {
    async fn stream(&mut self, cut: Cut) -> Result<()> {
        if self.reading.dry_run {
            return self.expect(0, self.about.1).await;
        }
        let seat = self.reading.workers.seat().await?;
        let mut job = Job::whole(&self.table, cut)?.start(self.reading, seat);
        while let Some(part) = job.next(self.reading).await? {
            self.line.ranges += u64::from(part.part == 0);
            self.part(part, None).await?;
        }
        self.line.ranges_read = self.line.ranges;
        Ok(())
    }

    /// An entry of rows that were read.
    async fn part(&mut self, part: Part, range: Option<Range>) -> Result<()> {
        self.line.rows += part.record.rows;
        self.line.sum.add(part.record.sum);
        let state = part
            .state
            .or(range.and_then(|range| range.state))
            .filter(|_| part.last);
        let length = part.left.map_or(part.text.len() as u64, |left| left.bytes);
        self.line.bytes += length;
        let metadata = part.record.to_metadata().map_err(Error::from)?;
        let segment = Segment {
            block: part.block,
            part: part.part,
        };
        let head = EntryHead {
            metadata,
            state: state.map_or_else(Bytes::new, |state| state.encode()),
            size: Some(length),
            ..self.head(segment)
        };
        let content = match part.left {
            None => Content::Bytes(part.text.clone()),
            Some(left) => {
                let (reading, table, sum) = (self.reading.clone(), self.table.clone(), part.record.sum);
                LongRow {
                    reading,
                    table,
                    left,
                    sum,
                }
                .content()
            }
        };
        self.out.send(Item::Entry(Entry { head, content })).await
    }

    /// Of a dry run: an entry that would be read, of about so many bytes.
    async fn expect(&mut self, block: u64, bytes: u64) -> Result<()> {
        let head = EntryHead {
            size: Some(bytes),
            ..self.head(Segment { block, part: 0 })
        };
        let content = Content::None;
        self.out.send(Item::Entry(Entry { head, content })).await
    }

    fn head(&self, segment: Segment) -> EntryHead {
        let place = Place::Segment(self.table.name.clone(), segment);
        EntryHead {
            key: key::key(&self.reading.database, &place),
            kind: EntryKind::Segment,
            metadata: Metadata::default(),
            state: Bytes::new(),
            size: None,
        }
    }

    async fn take_over(&mut self, segments: PriorSegments) -> Result<()> {
        self.line.rows += segments.range.record.rows;
        self.line.bytes += segments.range.bytes;
        self.line.sum.add(segments.range.record.sum);
        for entry in segments.entries {
            self.out.send(Item::Unchanged(entry)).await?;
        }
        Ok(())
    }
}

/// Runs that are read, and the parent's ranges between them.
struct Merge<'a> {
    sender: Sender<'a>,
    ranges: Ranges,
    prior: Option<PriorRanges>,
    /// The parent's next range.
    ahead: Option<PriorSegments>,
    /// The number of the first range that may still have to be taken over.
    unread: usize,
    /// The number of the first range of the next run.
    next: usize,
    running: VecDeque<Running>,
}

impl Merge<'_> {
    async fn run(mut self, begun: Option<(Running, usize)>) -> Result<ReportLine> {
        if let Some((running, next)) = begun {
            self.running.push_back(running);
            self.next = next;
        }
        if self.sender.reading.dry_run {
            return self.look().await;
        }
        loop {
            self.begin_more().await?;
            let Some(running) = self.running.front_mut() else {
                break;
            };
            match running.next(self.sender.reading).await? {
                Some(part) => {
                    if part.part == 0 {
                        self.take_over_until(part.block).await?;
                    }
                    let range = self.ranges.of_block(part.block);
                    self.sender.part(part, range).await?;
                }
                None => drop(self.running.pop_front()),
            }
        }
        self.take_over_until(u64::MAX).await?;
        Ok(self.sender.line)
    }

    /// Begins to read as many runs as there are free connections. They are begun in order, so that the one that is wanted next always
    /// has its connection.
    async fn begin_more(&mut self) -> Result<()> {
        let reading = self.sender.reading;
        // Those that only the coordinator can read hold no seat while they wait for it.
        while self.running.len() < reading.workers.number()
            && let Some((run, next)) = self.ranges.run(self.next)
        {
            let seat = match reading.workers.try_seat() {
                Some(seat) => seat,
                None if self.running.is_empty() => reading.workers.seat().await?,
                None => return Ok(()),
            };
            let job = Job::run(&self.sender.table, &self.ranges, &run)?;
            self.running.push_back(job.start(reading, seat));
            self.next = next;
        }
        Ok(())
    }

    /// Takes over all unchanged ranges before `block`.
    async fn take_over_until(&mut self, block: u64) -> Result<()> {
        while let Some(range) = self
            .ranges
            .number(self.unread)
            .filter(|range| range.block < block)
        {
            self.unread += 1;
            let Some(state) = range.state.filter(|_| !range.read) else {
                continue;
            };
            match self.of_parent(range.block).await {
                Some(segments) if segments.range.record.rows == state.rows => {
                    self.sender.take_over(segments).await?;
                }
                // The parent showed it a moment ago, and cannot be read any more.
                _ => self.read_now(range).await?,
            }
        }
        Ok(())
    }

    async fn of_parent(&mut self, block: u64) -> Option<PriorSegments> {
        let prior = self.prior.as_mut()?;
        if self.ahead.is_none() {
            self.ahead = prior.next().await;
        }
        while self.ahead.as_ref().is_some_and(|ahead| ahead.range.block < block) {
            self.ahead = prior.next().await;
        }
        self.ahead.take_if(|ahead| ahead.range.block == block)
    }

    async fn read_now(&mut self, range: Range) -> Result<()> {
        let reading = self.sender.reading;
        if reading.dry_run {
            return self.sender.expect(range.block, self.sender.about.0).await;
        }
        // What the coordinator reads would wait to be taken, and this for the coordinator.
        if let Some(front) = self.running.front_mut() {
            front.pause();
        }
        // Every connection may be held by runs that wait for this one to be yielded: one more is opened.
        let job = Job::run(&self.sender.table, &self.ranges, &[range])?;
        let mut job = job.start(reading, Seats::further());
        self.sender.line.ranges_read += 1;
        if self.sender.line.how == How::TakenOver {
            self.sender.line.how = How::Changes;
        }
        while let Some(part) = job.next(reading).await? {
            self.sender.part(part, Some(range)).await?;
        }
        Ok(())
    }

    /// Of a dry run: what would be read, and what taken over.
    async fn look(mut self) -> Result<ReportLine> {
        let read: Vec<u64> = self
            .ranges
            .iter()
            .filter(|range| range.read)
            .map(|range| range.block)
            .collect();
        for block in read {
            self.take_over_until(block).await?;
            self.sender.expect(block, self.sender.about.0).await?;
        }
        self.take_over_until(u64::MAX).await?;
        Ok(self.sender.line)
    }
}
