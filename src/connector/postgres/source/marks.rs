//! Fingerprints of a large table on several connections at once: a stripe of blocks each, handed on in their order. As soon as the
//! server's WAL summaries tell what was written, stripes are looked at only there.

use super::Reading;
use super::prior::PriorRanges;
use super::seats::Seat;
use super::worker::Hands;
use crate::connector::postgres::catalog::{Table, WrittenFile};
use crate::connector::postgres::fingerprint::{Fingerprint, fingerprints};
use crate::connector::postgres::plan::{self, PriorRange};
use crate::error::Result;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// Blocks of a stripe, but for the rest of a range: 32 MiB of heap, so that a connection that joins late or is lost changes little.
const STRIPE_BLOCKS: u64 = 4096;
/// A table of more blocks or rows is worth a connection that is opened for it. What a server does to begin a session takes it as long as
/// a stripe of long rows.
const OPENING_BLOCKS: u64 = 16 * STRIPE_BLOCKS;
const OPENING_ROWS: f64 = 1e6;

/// What stripes of one table are fingerprinted with: the connection that the table is planned on, and whatever others are free.
pub(super) struct Lanes<'a> {
    reading: &'a Reading,
    table: &'a Table,
    /// One statement at a time, so that whoever waits for it may find another connection first.
    own: Mutex<&'a Hands>,
    /// No other connection can read the table, or none is to be had.
    alone: AtomicBool,
    /// Whether connections are opened for it; otherwise those serve that nobody uses.
    opens: bool,
    blocks: u64,
    range_blocks: u32,
    since: u64,
    /// Whether WAL summaries are asked.
    summaries: bool,
}

/// The fingerprints of a table, stripe by stripe.
pub(super) struct Marks<'a> {
    lanes: &'a Lanes<'a>,
    prior: PriorRanges,
    /// Ranges of the parent that were not handed on yet.
    ahead: VecDeque<PriorRange>,
    /// The first block of the next stripe.
    next: u64,
    running: FuturesOrdered<BoxFuture<'a, Result<Stripe>>>,
    summarized: bool,
}

/// What is known of some blocks of a table.
pub(super) struct Stripe {
    pub(super) blocks: Range<u64>,
    /// Where the server looked, ascending; the other ranges are as the parent shows them.
    looked_at: Vec<Range<u64>>,
    /// Ranges that it looked at only as a check.
    samples: Vec<u64>,
    /// What it found, ascending.
    pub(super) found: Vec<Fingerprint>,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(
        reading: &'a Reading,
        table: &'a Table,
        hands: &'a Hands,
        (blocks, range_blocks): (u64, u32),
        since: u64,
    ) -> Self {
        Self {
            reading,
            table,
            own: Mutex::new(hands),
            alone: AtomicBool::new(matches!(hands, Hands::Coordinator(_))),
            opens: blocks > OPENING_BLOCKS || table.rows.is_some_and(|rows| rows > OPENING_ROWS),
            blocks,
            range_blocks,
            since,
            summaries: true,
        }
    }

    /// Has everything looked at, whatever WAL summaries tell.
    pub(super) fn without_summaries(mut self) -> Self {
        self.summaries = false;
        self
    }

    /// What WAL summaries are known to tell of the table.
    fn written(&self) -> Option<&WrittenFile> {
        let written = || self.reading.summaries.of(self.table);
        self.summaries.then(written).flatten()
    }

    async fn look_at(&self, mut stripe: Stripe) -> Result<Stripe> {
        if !stripe.looked_at.is_empty() {
            stripe.found = self.find(&stripe.looked_at).await?;
        }
        Ok(stripe)
    }

    async fn find(&self, blocks: &[Range<u64>]) -> Result<Vec<Fingerprint>> {
        if !self.alone.load(Ordering::Relaxed) {
            tokio::select! {
                biased;
                own = self.own.lock() => return self.read(&own, blocks).await,
                seat = self.seat() => {
                    if let Some(found) = self.beside(seat?, blocks).await {
                        return Ok(found);
                    }
                    self.alone.store(true, Ordering::Relaxed);
                }
            }
        }
        let own = self.own.lock().await;
        self.read(&own, blocks).await
    }

    /// The right to use a connection, once there is one or it is worth opening.
    async fn seat(&self) -> Result<Seat> {
        if !self.opens {
            self.reading.session.kept().await;
        }
        self.reading.workers.seat().await
    }

    /// On a connection of its own; nothing if there is none, or it is lost: then the stripe is left to the first.
    async fn beside(&self, _seat: Seat, blocks: &[Range<u64>]) -> Option<Vec<Fingerprint>> {
        let hands = self.reading.workers.hands(Some(self.table)).await.ok()?;
        if let Hands::Coordinator(_) = hands {
            return None;
        }
        let found = self.read(&hands, blocks).await.ok();
        if found.is_some() {
            self.reading.workers.give_back(hands);
        } else {
            self.reading.workers.give_up(hands).await;
        }
        found
    }

    /// A stripe is so little work that a server which is silent for so long does not do it.
    async fn read(&self, hands: &Hands, blocks: &[Range<u64>]) -> Result<Vec<Fingerprint>> {
        self.reading.session.check()?;
        if self.summaries {
            let summaries = &self.reading.summaries;
            summaries.look(self.reading, self.blocks).await?;
        }
        let found = fingerprints(hands.client(), self.table, blocks, self.range_blocks, self.since);
        self.reading.workers.answer(hands, found).await
    }
}

impl<'a> Marks<'a> {
    /// Beside what the parent has of the table. No row that the snapshot sees lies behind the blocks that are there now.
    pub(super) fn new(lanes: &'a Lanes<'a>, prior: PriorRanges) -> Self {
        Self {
            lanes,
            prior,
            ahead: VecDeque::new(),
            next: 0,
            running: FuturesOrdered::new(),
            summarized: false,
        }
    }

    /// Whether WAL summaries left something out.
    pub(super) fn are_summarized(&self) -> bool {
        self.summarized
    }

    /// The next stripe.
    ///
    /// # Errors
    /// `Source` if the server cannot be asked.
    pub(super) async fn next(&mut self) -> Result<Option<Stripe>> {
        while self.next < self.lanes.blocks && self.running.len() < self.lanes.reading.workers.number() {
            self.begin().await;
        }
        self.running.next().await.transpose()
    }

    /// The parent's next range before a block.
    pub(super) async fn before(&mut self, end: u64) -> Option<PriorRange> {
        if self.ahead.is_empty() {
            self.ahead
                .extend(self.prior.next().await.map(|segments| segments.range));
        }
        let is_before = self.ahead.front().is_some_and(|range| range.block < end);
        is_before.then(|| self.ahead.pop_front()).flatten()
    }

    /// Has all ranges of the parent before a block at hand.
    async fn fill(&mut self, end: u64) {
        while self.ahead.back().is_none_or(|last| last.block < end)
            && let Some(segments) = self.prior.next().await
        {
            self.ahead.push_back(segments.range);
        }
    }

    async fn begin(&mut self) {
        let lanes = self.lanes;
        let width = STRIPE_BLOCKS.next_multiple_of(lanes.range_blocks.max(1).into());
        let blocks = self.next..lanes.blocks.min(self.next + width);
        self.next = blocks.end;
        let mut stripe = Stripe::new(blocks);
        if let Some(written) = lanes.written() {
            self.fill(stripe.blocks.end).await;
            stripe.leave_out(lanes, written, &self.ahead);
            self.summarized = true;
        }
        self.running.push_back(Box::pin(lanes.look_at(stripe)));
    }
}

impl Stripe {
    fn new(blocks: Range<u64>) -> Self {
        Self {
            looked_at: vec![blocks.clone()],
            samples: Vec::new(),
            found: Vec::new(),
            blocks,
        }
    }

    /// Looks only at what is written, at what the parent does not show whole, and at samples of the rest.
    fn leave_out(&mut self, lanes: &Lanes<'_>, written: &WrittenFile, prior: &VecDeque<PriorRange>) {
        self.looked_at.clear();
        let width = u64::from(lanes.range_blocks.max(1));
        let mut prior = prior.iter().peekable();
        let mut block = self.blocks.start;
        while block < self.blocks.end {
            let end = self.blocks.end.min(block + width);
            while prior.next_if(|range| range.block < block).is_some() {}
            let shown = prior.next_if(|range| range.block == block);
            if shown.is_none_or(|range| plan::shown_whole(range, lanes.range_blocks).is_none())
                || written.names(&(block..block + width))
            {
                self.look_at(block..end);
            } else if lanes.reading.checks(lanes.table.oid, block) {
                self.look_at(block..end);
                self.samples.push(block);
            }
            block = end;
        }
    }

    fn look_at(&mut self, blocks: Range<u64>) {
        match self.looked_at.last_mut() {
            Some(last) if last.end == blocks.start => last.end = blocks.end,
            _ => self.looked_at.push(blocks),
        }
    }

    /// Whether the range that begins in a block was looked at.
    pub(super) fn has_looked_at(&self, block: u64) -> bool {
        let before = self.looked_at.partition_point(|blocks| blocks.end <= block);
        let interval = self.looked_at.get(before);
        interval.is_some_and(|blocks| blocks.start <= block)
    }

    /// Whether it was looked at though WAL summaries do not name it, and the parent shows it whole.
    pub(super) fn is_sample(&self, block: u64) -> bool {
        self.samples.binary_search(&block).is_ok()
    }
}
