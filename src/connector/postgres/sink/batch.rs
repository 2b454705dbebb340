//! Segments of a table that are sent together. A `COPY` for each would cost a transaction, three waits for an answer and a block that
//! stays half empty; sent together they cost a quarter less or better of the whole time. If the server refuses one of them, all are taken back
//! and sent one by one, so that a refused segment never costs another.

use super::refusal::Refusal;
use super::rows::Table;
use super::session::{Trouble, Worker, trouble_as, unless_cancelled};
use super::trouble_of_content;
use crate::connector::postgres::key::{Segment, TableName};
use crate::context::Context;
use crate::error::Result;
use crate::snapshot::entry::{Content, ContentStream, Piece};
use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use std::sync::{Mutex, PoisonError};

/// Bytes of text in one `COPY`, unless a single segment has more.
const TOGETHER_MAX: u64 = 4 << 20;
/// Segments in one `COPY`: a bloated table has many that hold next to nothing.
const SEGMENTS_MAX: usize = 1024;
/// All batches may hold this part of the budget.
const SHARE: u64 = 8;

/// Segments that wait to be sent, all of one table.
pub(super) struct Batch {
    pub(super) name: TableName,
    pub(super) table: Table,
    /// Never locked: contents may not be looked at by two threads, and the sink that holds them may.
    segments: Mutex<Vec<Waiting>>,
    count: usize,
    bytes: u64,
}

/// A segment that waits.
pub(super) struct Waiting {
    pub(super) segment: Segment,
    /// Rows that it has.
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) content: Content,
}

/// What became of a segment: its rows are in the target, or none of them is.
pub(super) struct Sent {
    pub(super) segment: Segment,
    pub(super) bytes: u64,
    pub(super) rows: Result<u64, Refusal>,
}

/// A segment in memory.
struct Read {
    segment: Segment,
    rows: u64,
    bytes: u64,
    pieces: Vec<Bytes>,
}

/// Bytes that a batch may have where so many are sent at once.
pub(super) fn most(context: &Context, jobs: usize) -> u64 {
    let jobs = u64::try_from(jobs.max(1)).unwrap_or(u64::MAX);
    TOGETHER_MAX.min(context.budget.total() / SHARE / jobs)
}

impl Batch {
    pub(super) fn new(name: TableName, table: Table) -> Self {
        Self {
            name,
            table,
            segments: Mutex::default(),
            count: 0,
            bytes: 0,
        }
    }

    /// Whether a segment goes with these.
    pub(super) fn takes(&self, bytes: u64, most: u64) -> bool {
        self.count == 0 || self.count < SEGMENTS_MAX && self.bytes.saturating_add(bytes) <= most
    }

    pub(super) fn add(&mut self, waiting: Waiting) {
        self.bytes = self.bytes.saturating_add(waiting.bytes);
        self.count += 1;
        self.segments
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .push(waiting);
    }

    fn into_segments(self) -> Vec<Waiting> {
        self.segments.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// None of them could be sent.
    pub(super) fn refused(self, refusal: &Refusal) -> Vec<Sent> {
        let refused = |waiting: Waiting| Sent {
            segment: waiting.segment,
            bytes: waiting.bytes,
            rows: Err(refusal.clone()),
        };
        self.into_segments().into_iter().map(refused).collect()
    }

    /// Sends them. A single one is streamed, whatever its size; several are held until the server has taken them all.
    ///
    /// # Errors
    /// Only what ends the restore.
    pub(super) async fn send(self, context: &Context, worker: &mut Worker) -> Result<Vec<Sent>, Trouble> {
        let (name, table) = (self.name.clone(), self.table.clone());
        let target = (&name, &table);
        let mut segments = self.into_segments();
        if segments.len() == 1
            && let Some(one) = segments.pop()
        {
            let Waiting { segment, bytes, .. } = one;
            let content = one.content.open().await.map_err(trouble_of_content);
            let rows = match content {
                Ok(content) => transact(context, worker, target, (content, one.rows)).await?,
                Err(trouble) => told(Err(trouble))?,
            };
            return Ok(vec![Sent { segment, bytes, rows }]);
        }
        let mut all = Vec::with_capacity(segments.len());
        let mut sent = Vec::with_capacity(segments.len());
        for waiting in segments {
            let Waiting {
                segment, rows, bytes, ..
            } = waiting;
            match told(unless_cancelled(context, read(waiting.content)).await?)? {
                Ok(pieces) => all.push(Read {
                    segment,
                    rows,
                    bytes,
                    pieces,
                }),
                Err(refusal) => sent.push(Sent {
                    segment,
                    bytes,
                    rows: Err(refusal),
                }),
            }
        }
        sent.extend(all_or_each(context, worker, target, all).await?);
        Ok(sent)
    }
}

/// Sends segments in one transaction, or, if they are refused, each in its own.
async fn all_or_each(
    context: &Context,
    worker: &mut Worker,
    target: (&TableName, &Table),
    all: Vec<Read>,
) -> Result<Vec<Sent>, Trouble> {
    let pieces: Vec<Bytes> = all.iter().flat_map(|read| read.pieces.iter().cloned()).collect();
    let rows = all.iter().fold(0u64, |sum, read| sum.saturating_add(read.rows));
    let Err(mut refused) = transact(context, worker, target, (held(pieces), rows)).await? else {
        let there = all.into_iter().map(|read| read.sent(Ok(read.rows)));
        return Ok(there.collect());
    };
    let mut sent = Vec::with_capacity(all.len());
    for mut read in all {
        // A statement that is refused is for each of them, and a connection that lost count takes no other.
        let rows = if !worker.usable || refused.is_of_the_table() {
            Err(refused.clone())
        } else {
            let pieces = held(std::mem::take(&mut read.pieces));
            transact(context, worker, target, (pieces, read.rows)).await?
        };
        if let (Err(refusal), false) = (&rows, worker.usable) {
            refused.clone_from(refusal);
        }
        sent.push(read.sent(rows));
    }
    Ok(sent)
}

/// A `COPY` in a transaction of its own: without one the server commits it after it has said how many rows it took, and what refuses
/// the commit, such as a deferred constraint, goes unheard.
///
/// # Errors
/// Only what ends the restore.
async fn transact(
    context: &Context,
    worker: &mut Worker,
    target: (&TableName, &Table),
    content: (ContentStream, u64),
) -> Result<Result<u64, Refusal>, Trouble> {
    worker.run(context, "BEGIN").await?;
    match told(copy(context, worker, target, content).await)? {
        Ok(rows) => {
            let committed = told(worker.run(context, "COMMIT").await)?;
            Ok(committed.map(|()| rows).map_err(Refusal::of_commit))
        }
        Err(refusal) => {
            // Closing a connection ends its transaction.
            if worker.usable {
                worker.roll_back(context).await?;
            }
            Ok(Err(refusal))
        }
    }
}

impl Read {
    fn sent(&self, rows: Result<u64, Refusal>) -> Sent {
        Sent {
            segment: self.segment,
            bytes: self.bytes,
            rows,
        }
    }
}

/// What the server refused is told of a segment; all else ends the restore.
fn told<T>(done: Result<T, Trouble>) -> Result<Result<T, Refusal>, Trouble> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(Trouble::Refused(refusal)) => Ok(Err(refusal)),
        Err(lost) => Err(lost),
    }
}

/// Takes a content into memory.
async fn read(content: Content) -> Result<Vec<Bytes>, Trouble> {
    let mut stream = content.open().await.map_err(trouble_of_content)?;
    let mut pieces = Vec::new();
    while let Some(piece) = stream.next().await {
        if let Piece::Data(bytes) = piece.map_err(trouble_of_content)? {
            pieces.push(bytes);
        }
    }
    Ok(pieces)
}

fn held(pieces: Vec<Bytes>) -> ContentStream {
    stream::iter(pieces.into_iter().map(|bytes| Ok(Piece::Data(bytes)))).boxed()
}

/// Sends content as the rows of a `COPY`, of which there are `due`; gives their number.
async fn copy(
    context: &Context,
    worker: &mut Worker,
    (name, table): (&TableName, &Table),
    (mut pieces, due): (ContentStream, u64),
) -> Result<u64, Trouble> {
    let sql = format!("COPY {} {} FROM STDIN", table.name, table.columns);
    let known = (name.table.as_slice(), &*table.names);
    let refusal = |error| trouble_as(error, |said| Refusal::of_rows(said, &sql, known));
    let copy = async {
        let sink = worker.client().copy_in::<_, Bytes>(&sql).await;
        worker.usable = sink.is_ok();
        let mut sink = Box::pin(sink.map_err(refusal)?);
        while let Some(piece) = pieces.next().await {
            // A content that breaks off drops the sink, and the server what it was sent.
            if let Piece::Data(bytes) = piece.map_err(trouble_of_content)?
                && sink.send(bytes).await.is_err()
            {
                // The server's answer says why.
                break;
            }
        }
        sink.as_mut().finish().await.map_err(refusal)
    };
    let rows = unless_cancelled(context, copy).await??;
    if rows != due {
        let why = format!("{due} rows were sent and {rows} taken");
        return Err(Trouble::Refused(Refusal::own(&why)));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Silent;
    use std::sync::Arc;

    fn batch() -> Batch {
        let name = TableName {
            schema: b"public".to_vec(),
            table: b"orders".to_vec(),
        };
        Batch::new(name, Table::default())
    }

    fn waiting(bytes: u64) -> Waiting {
        Waiting {
            segment: Segment { block: 0, part: 0 },
            rows: 1,
            bytes,
            content: Content::None,
        }
    }

    #[test]
    fn a_batch_takes_no_more_bytes_than_it_may_have_and_one_segment_of_any_size() {
        let mut batch = batch();
        assert!(batch.takes(u64::MAX, 100), "alone it is streamed");
        batch.add(waiting(60));
        assert!(batch.takes(40, 100));
        assert!(!batch.takes(41, 100));
        assert!(!batch.takes(u64::MAX, 100));
        batch.add(waiting(40));
        assert!(!batch.takes(1, 100));
        assert!(batch.takes(0, 100));
    }

    #[test]
    fn a_batch_takes_no_more_segments_than_fit_one_statement() {
        let mut batch = batch();
        for _ in 0..SEGMENTS_MAX {
            assert!(batch.takes(0, 100));
            batch.add(waiting(0));
        }
        assert!(!batch.takes(0, 100));
        assert_eq!(batch.into_segments().len(), SEGMENTS_MAX);
    }

    #[test]
    fn all_batches_together_hold_an_eighth_of_the_budget() {
        let context = |bytes: u64| Context::new(Arc::new(Silent), bytes, 1).unwrap();
        for jobs in [0, 1, 2, 8, 64] {
            for budget in [64 << 20, 256 << 20, 4 << 30] {
                let most = most(&context(budget), jobs);
                assert!(most <= TOGETHER_MAX && most * (jobs.max(1) as u64) <= budget / SHARE);
            }
        }
        assert_eq!(most(&context(4 << 30), 8), TOGETHER_MAX);
        assert_eq!(most(&context(64 << 20), 8), 1 << 20);
    }
}
