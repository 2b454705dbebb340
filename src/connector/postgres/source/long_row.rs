//! A row that was too long to be held: hashed when it came, read once more when its text is wanted, and held against that hash.

use super::Reading;
use super::statements::Watched;
use super::worker::Hands;
use crate::connector::postgres::catalog::Table;
use crate::connector::postgres::fingerprint::copy_row;
use crate::connector::postgres::record::RowSum;
use crate::connector::postgres::segment::Left;
use crate::connector::postgres::session::{explain, in_time};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::entry::{Content, ContentStream, Piece};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Pieces that wait for whoever wants them.
const WAITING: usize = 4;

/// The row, and what is known of it.
pub(super) struct LongRow {
    pub(super) reading: Arc<Reading>,
    pub(super) table: Arc<Table>,
    pub(super) left: Left,
    pub(super) sum: RowSum,
}

/// What of the row was handed on, over all attempts.
#[derive(Default)]
struct Sent {
    bytes: u64,
    /// Over the bytes of the row, without its line feed.
    hash: blake3::Hasher,
}

impl LongRow {
    /// Its text, to be read when it is wanted. The snapshot stays until then.
    pub(super) fn content(self) -> Content {
        let (found, stays) = (self.reading.found.clone(), self.reading.contents.token());
        let stream = stream::once(async move { self.open(stays) }).flatten().boxed();
        Content::Open(Box::new(Watched { stream, found }))
    }

    fn open(self, stays: TaskTrackerToken) -> ContentStream {
        let (out, pieces) = mpsc::channel(WAITING);
        let task = AbortOnDropHandle::new(tokio::spawn(async move { self.read(&out).await }));
        let next = |(mut pieces, task, stays): (mpsc::Receiver<Bytes>, AbortOnDropHandle<Result<()>>, _)| async move {
            if let Some(piece) = pieces.recv().await {
                return Ok(Some((Piece::Data(piece), (pieces, task, stays))));
            }
            let ended = task.await;
            ended.map_err(|e| {
                Error::new(ErrorKind::Internal, "a reading task ended by itself").because(e)
            })??;
            Ok(None)
        };
        stream::try_unfold((pieces, task, stays), next).boxed()
    }

    /// Reads, once more from the beginning when the connection is lost; what was handed on is passed over.
    async fn read(&self, out: &mpsc::Sender<Bytes>) -> Result<()> {
        let workers = &self.reading.workers;
        let (mut sent, mut tries) = (Sent::default(), 0);
        loop {
            self.reading.session.check()?;
            let (hands, failure) = match self.hands().await {
                Ok(hands) => match self.attempt(&hands, &mut sent, out).await {
                    Ok(()) => {
                        workers.give_back(hands);
                        return Ok(());
                    }
                    Err(failure) => (Some(hands), failure),
                },
                Err(failure) => (None, failure),
            };
            tries += 1;
            workers
                .recover(&self.reading.context, hands, tries, failure)
                .await?;
        }
    }

    /// A connection beyond the number: all others may be held by runs that wait for this row to be taken. It cannot be the
    /// coordinator, which may be in the middle of such a run itself.
    async fn hands(&self) -> Result<Hands> {
        let (begun, patience) = (Instant::now(), self.reading.session.options().lock_timeout);
        loop {
            match self.reading.workers.hands(Some(&self.table)).await? {
                Hands::Coordinator(_) if begun.elapsed() < patience => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Hands::Coordinator(_) => {
                    let what = "a row that is too long to be held cannot be read: its table is about to be altered, or the \
                                server has no connection left";
                    return Err(Error::new(ErrorKind::Source, what)
                        .with("table", &self.table.name)
                        .with("bytes", self.left.bytes)
                        .with("sqlstate", "55P03")
                        .hint("run again when no migration runs, or allow more memory with --memory"));
                }
                hands @ Hands::Worker(_) => return Ok(hands),
            }
        }
    }

    async fn attempt(&self, hands: &Hands, sent: &mut Sent, out: &mpsc::Sender<Bytes>) -> Result<()> {
        let wrong = |error| explain(&self.table, "cannot read a table", error);
        let statement = copy_row(&self.table, self.left.block, self.left.offset)?;
        let silence = self.reading.session.options().silence;
        let begun = async { hands.client().copy_out(&statement).await.map_err(wrong) };
        let mut stream = std::pin::pin!(in_time(silence, begun).await?);
        let mut come = 0_u64;
        loop {
            // One row is at most 1 GiB, which no server makes for so long.
            let bytes = async { stream.try_next().await.map_err(wrong) };
            let Some(mut bytes) = in_time(silence, bytes).await? else {
                break;
            };
            let passed = usize::try_from(sent.bytes.saturating_sub(come)).unwrap_or(usize::MAX);
            come += bytes.len() as u64;
            if passed < bytes.len() {
                let piece = bytes.split_off(passed);
                let row = self.left.bytes.saturating_sub(1).saturating_sub(sent.bytes);
                let row = usize::try_from(row).unwrap_or(usize::MAX).min(piece.len());
                // What goes out is what is held against the first reading, whichever attempt it came by.
                sent.hash.update(piece.get(..row).unwrap_or_default());
                sent.bytes += piece.len() as u64;
                // Nobody wants it any more: the snapshot failed elsewhere.
                let gone = |_| Error::new(ErrorKind::Cancelled, "nobody takes the rows");
                out.send(piece).await.map_err(gone)?;
            }
        }
        if come != self.left.bytes || RowSum::of_hash(&sent.hash.finalize()) != self.sum {
            return Err(Error::new(ErrorKind::Differs, "the same row read twice is not the same")
                .with("table", &self.table.name)
                .with("block", self.left.block)
                .hint("the server contradicts itself: look for broken memory or disks, and check the table with pg_amcheck"));
        }
        Ok(())
    }
}
