//! Fingerprints of a large table on several connections at once: a stripe of blocks each, handed on in their order.

use super::Reading;
use super::seats::Seat;
use super::worker::Hands;
use crate::connector::postgres::catalog::Table;
use crate::connector::postgres::fingerprint::{Fingerprint, fingerprints};
use crate::error::Result;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};
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
    range_blocks: u32,
    since: Option<u64>,
}

/// The fingerprints of a table, ascending.
pub(super) struct Marks<'a> {
    lanes: &'a Lanes<'a>,
    blocks: u64,
    /// The first block of the next stripe.
    next: u64,
    running: FuturesOrdered<BoxFuture<'a, Result<Vec<Fingerprint>>>>,
    found: std::vec::IntoIter<Fingerprint>,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(
        reading: &'a Reading,
        table: &'a Table,
        hands: &'a Hands,
        (blocks, range_blocks): (u64, u32),
        since: Option<u64>,
    ) -> Self {
        Self {
            reading,
            table,
            own: Mutex::new(hands),
            alone: AtomicBool::new(matches!(hands, Hands::Coordinator(_))),
            opens: blocks > OPENING_BLOCKS || table.rows.is_some_and(|rows| rows > OPENING_ROWS),
            range_blocks,
            since,
        }
    }

    async fn stripe(&self, blocks: Range<u64>) -> Result<Vec<Fingerprint>> {
        if !self.alone.load(Ordering::Relaxed) {
            tokio::select! {
                biased;
                own = self.own.lock() => return self.read(&own, blocks).await,
                seat = self.seat() => {
                    if let Some(found) = self.beside(seat?, blocks.clone()).await {
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
    async fn beside(&self, _seat: Seat, blocks: Range<u64>) -> Option<Vec<Fingerprint>> {
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
    async fn read(&self, hands: &Hands, blocks: Range<u64>) -> Result<Vec<Fingerprint>> {
        self.reading.session.check()?;
        let found = fingerprints(hands.client(), self.table, blocks, self.range_blocks, self.since);
        self.reading.workers.answer(hands, found).await
    }
}

impl<'a> Marks<'a> {
    /// Of a table of so many blocks. No row that the snapshot sees lies behind those that are there now.
    pub(super) fn new(lanes: &'a Lanes<'a>, blocks: u64) -> Self {
        Self {
            lanes,
            blocks,
            next: 0,
            running: FuturesOrdered::new(),
            found: Vec::new().into_iter(),
        }
    }

    /// The next range that holds rows.
    ///
    /// # Errors
    /// `Source` if the server cannot be asked.
    pub(super) async fn next(&mut self) -> Result<Option<Fingerprint>> {
        loop {
            if let Some(mark) = self.found.next() {
                return Ok(Some(mark));
            }
            while self.next < self.blocks && self.running.len() < self.lanes.reading.workers.number() {
                let stripe = STRIPE_BLOCKS.next_multiple_of(self.lanes.range_blocks.max(1).into());
                let end = self.blocks.min(self.next + stripe);
                let lanes = self.lanes;
                self.running.push_back(Box::pin(lanes.stripe(self.next..end)));
                self.next = end;
            }
            let Some(stripe) = self.running.next().await else {
                return Ok(None);
            };
            self.found = stripe?.into_iter();
        }
    }
}
