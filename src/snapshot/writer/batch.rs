//! Small contents: cut and named on the CPU pool in batches, several at once.

use super::{Before, Pending, SnapshotWriter};
use crate::context::Reservation;
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{EntryKind, Key};
use crate::snapshot::content::{ChunkedContent, cut_and_name};
use crate::snapshot::deltas::{Compared, Deltas, Similar};
use crate::snapshot::entry::EntryHead;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

/// A batch of small contents is sent to the pool when it holds so many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// Or so many entries.
pub(super) const BATCH_ENTRIES: usize = 512;

#[derive(Default)]
pub(super) struct Batch {
    entries: Vec<(EntryHead, Bytes, Before)>,
    bytes: usize,
    held: Option<Reservation>,
}

/// A small content on its way, cut.
pub(super) struct Chunked {
    pub(super) head: EntryHead,
    pub(super) content: ChunkedContent,
    pub(super) before: Before,
}

/// A group whose members come in, and which the parent has: bases are looked for among all its members.
pub(super) struct Group {
    prefix: Key,
    /// What is known of them, once the batch before has looked.
    similar: oneshot::Receiver<Similar>,
}

/// A batch's turn to look among the members of its group: batches look in order, so that the same entries give the same deltas.
struct Turn {
    before: oneshot::Receiver<Similar>,
    after: oneshot::Sender<Similar>,
}

impl SnapshotWriter {
    /// Takes note of a group entry; its members come next.
    pub(super) fn enter_group(&mut self, key: &Key, kind: EntryKind, was_there: bool) {
        if kind != EntryKind::Table {
            return;
        }
        let parent = self
            .parent_tree
            .clone()
            .filter(|_| was_there && self.deltas.is_some());
        self.group = parent.map(|parent| {
            let (sender, similar) = oneshot::channel();
            let prefix = key.clone();
            // The receiver is there.
            let _sent = sender.send(Similar::of_group(parent, prefix.clone()));
            Group { prefix, similar }
        });
    }

    fn turn(&mut self, batch: &Batch) -> Option<Turn> {
        let group = self.group.take_if(|group| {
            let mut heads = batch.entries.iter().map(|(head, ..)| head);
            heads.all(|head| head.kind == EntryKind::Segment && head.key.starts_with(&group.prefix))
        })?;
        let (after, similar) = oneshot::channel();
        let Group {
            prefix,
            similar: before,
        } = group;
        self.group = Some(Group { prefix, similar });
        Some(Turn { before, after })
    }

    pub(super) async fn add_small(&mut self, head: EntryHead, bytes: Bytes, before: Before) -> Result<()> {
        let mut held = self.reserve(bytes.len()).await?;
        if let Some(batch) = self.batch.held.take() {
            held.merge(batch);
        }
        self.batch.held = Some(held);
        self.batch.bytes += bytes.len();
        self.batch.entries.push((head, bytes, before));
        if self.batch.bytes >= BATCH_BYTES || self.batch.entries.len() >= BATCH_ENTRIES {
            self.send_batch();
        }
        while self.pending.len() > self.pending_max {
            self.settle_first().await?;
        }
        Ok(())
    }

    /// Waits for budget; what waits in the queue holds some, so it is settled when there is none.
    async fn reserve(&mut self, bytes: usize) -> Result<Reservation> {
        loop {
            if let Some(held) = self.context.budget.try_reserve(bytes as u64) {
                return Ok(held);
            }
            self.send_batch();
            if self.pending.is_empty() {
                let budget = self.context.budget.clone();
                return self.alive_during(budget.reserve(bytes as u64)).await;
            }
            self.settle_first().await?;
        }
    }

    pub(super) fn send_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if batch.entries.is_empty() {
            return;
        }
        let (chunker, namer) = (self.chunker.clone(), self.namer.clone());
        let was_there = batch.entries.iter().any(|(.., before)| before.is_some());
        let turn = self.turn(&batch);
        let held = batch.held.unwrap_or_else(Reservation::none);
        let work = move || {
            let chunk = |(head, bytes, before): (EntryHead, Bytes, Before)| Chunked {
                head,
                content: cut_and_name(&chunker, &namer, &bytes),
                before,
            };
            batch.entries.into_iter().map(chunk).collect()
        };
        let cut = self.context.cpu.run(work);
        let job = match &self.deltas {
            Some(deltas) if was_there || turn.is_some() => with_deltas(deltas.clone(), cut, turn),
            _ => cut.boxed(),
        };
        self.pending.push_back(Pending::Chunked(job, held));
    }
}

/// Begins to make deltas as soon as the contents are cut, whether or not anybody waits for it yet.
fn with_deltas(
    deltas: Deltas,
    cut: impl Future<Output = Result<Vec<Chunked>>> + Send + 'static,
    turn: Option<Turn>,
) -> BoxFuture<'static, Result<Vec<Chunked>>> {
    let job = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut chunked = cut.await?;
        let mut wanted = Vec::new();
        for (number, entry) in chunked.iter().enumerate() {
            let mut before = entry.before.as_deref().map(|before| deltas.before(before));
            let chunks = (number, entry.content.named.as_slice());
            wanted.extend(deltas.plan(chunks, before.as_mut(), turn.is_some()).await);
        }
        let compared = deltas.compare(wanted, turn.is_some()).await;
        let first = chunked.first().map(|entry| entry.head.key.clone());
        let similar = match turn {
            Some(turn) => turn.before.await.ok().zip(Some(turn.after)),
            None => None,
        };
        let made = match similar.zip(first) {
            Some(((mut similar, after), first)) => {
                let made = deltas.search(compared, &mut similar, &first).await;
                // Nobody takes it after the last batch of a group.
                let _sent = after.send(similar);
                made
            }
            None => compared.into_iter().filter_map(Compared::settled).collect(),
        };
        for made in made {
            let (entry, chunk) = made.chunk;
            let entry = chunked.get_mut(entry);
            if let Some(chunk) = entry.and_then(|entry| entry.content.named.get_mut(chunk)) {
                chunk.delta = made.delta;
            }
        }
        Ok(chunked)
    }));
    async move {
        job.await
            .map_err(|e| Error::new(ErrorKind::Internal, "a task that makes deltas failed").because(e))?
    }
    .boxed()
}
