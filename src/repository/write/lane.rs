//! One lane of blobs: they fill a block, blocks are compressed on the CPU pool in order, and ready blocks fill a pack.

use super::super::delta::Delta;
use super::super::pack::{OpenBlock, ReadyBlock};
use crate::context::{Context, Reservation};
use crate::error::Result;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A block is closed before it would exceed this, in bytes of plaintext; a larger blob has a block of its own.
const BLOCK_TARGET: usize = 1 << 20;
/// A block is closed before it would hold more blobs than this.
const BLOCK_BLOBS_MAX: usize = 16_384;
/// A pack holds so many blobs at the most: its directory is one record, and a block of small blobs may have thousands.
const PACK_BLOBS_MAX: usize = 100_000;

pub(in crate::repository) struct Lane {
    block: OpenBlock,
    deltas: OpenBlock,
    preparing: VecDeque<(usize, BoxFuture<'static, Result<Result<ReadyBlock>>>)>,
    preparing_bytes: usize,
    preparing_max: usize,
    pack: Vec<ReadyBlock>,
    pack_len: usize,
    pack_blobs: usize,
    pack_target: usize,
    /// Bytes of blocks that were ready so far, of all lanes that share it.
    ready: Arc<AtomicU64>,
}

impl Lane {
    pub(in crate::repository) fn new(context: &Context, pack_target: usize, ready: &Arc<AtomicU64>) -> Self {
        // Blocks on their way hold budget and do not end by themselves: they get an eighth of it at most.
        let share = usize::try_from(context.budget.total() / 8).unwrap_or(usize::MAX);
        // In bytes: a block of one large chunk may be many times the target.
        let preparing_max = ((context.cpu.threads() * 2 + 1) * BLOCK_TARGET).min(share);
        Self {
            block: OpenBlock::new(BLOCK_TARGET),
            deltas: OpenBlock::of_deltas(),
            preparing: VecDeque::new(),
            preparing_bytes: 0,
            preparing_max,
            pack: Vec::new(),
            pack_len: 0,
            pack_blobs: 0,
            pack_target,
            ready: ready.clone(),
        }
    }

    /// Adds a blob; gives whether a pack is full.
    pub(in crate::repository) async fn push(
        &mut self,
        context: &Context,
        kind: BlobKind,
        id: BlobId,
        plaintext: &[u8],
        held: Reservation,
    ) -> Result<bool> {
        let many = self.block.blobs.len() >= BLOCK_BLOBS_MAX;
        if many || (!self.block.blobs.is_empty() && self.block.len() + plaintext.len() > BLOCK_TARGET) {
            self.close_block(context).await?;
        }
        self.block.push(kind, id, plaintext, held)?;
        Ok(self.is_full())
    }

    /// Adds the delta of a blob of `plain` bytes; gives whether a pack is full.
    pub(in crate::repository) async fn push_delta(
        &mut self,
        context: &Context,
        (kind, id, plain): (BlobKind, BlobId, u32),
        delta: &Delta,
        held: Reservation,
    ) -> Result<bool> {
        let many = self.deltas.blobs.len() >= BLOCK_BLOBS_MAX;
        if many || (!self.deltas.blobs.is_empty() && self.deltas.len() + delta.bytes.len() > BLOCK_TARGET) {
            let block = std::mem::replace(&mut self.deltas, OpenBlock::of_deltas());
            self.prepare(context, block).await?;
        }
        self.deltas.push_delta(kind, id, plain, delta, held)?;
        Ok(self.is_full())
    }

    /// Closes the open blocks.
    pub(in crate::repository) async fn close(&mut self, context: &Context) -> Result<()> {
        self.close_block(context).await?;
        let deltas = std::mem::replace(&mut self.deltas, OpenBlock::of_deltas());
        self.prepare(context, deltas).await
    }

    async fn close_block(&mut self, context: &Context) -> Result<()> {
        let block = std::mem::replace(&mut self.block, OpenBlock::new(BLOCK_TARGET));
        self.prepare(context, block).await
    }

    async fn prepare(&mut self, context: &Context, block: OpenBlock) -> Result<()> {
        if block.blobs.is_empty() {
            return Ok(());
        }
        let len = block.len();
        self.preparing_bytes += len;
        self.preparing
            .push_back((len, context.cpu.run(move || block.prepare()).boxed()));
        while self.preparing.len() > 1 && self.preparing_bytes > self.preparing_max {
            self.take_ready().await?;
        }
        Ok(())
    }

    /// Waits for the next block; gives whether there was one.
    pub(in crate::repository) async fn take_ready(&mut self) -> Result<bool> {
        let Some((len, job)) = self.preparing.pop_front() else {
            return Ok(false);
        };
        self.preparing_bytes -= len;
        let block = job.await??;
        self.pack_len += block.stored_len();
        self.ready.fetch_add(block.stored_len() as u64, Ordering::Relaxed);
        self.pack_blobs += block.blobs();
        self.pack.push(block);
        Ok(true)
    }

    /// Whether the blocks that are ready make a pack.
    pub(in crate::repository) fn is_full(&self) -> bool {
        self.pack_len >= self.pack_target || self.pack_blobs >= PACK_BLOBS_MAX
    }

    /// Bytes of the blocks that wait for their pack.
    pub(in crate::repository) fn pack_len(&self) -> usize {
        self.pack_len
    }

    /// Takes the blocks that are ready.
    pub(in crate::repository) fn take_pack(&mut self) -> Vec<ReadyBlock> {
        self.pack_len = 0;
        self.pack_blobs = 0;
        std::mem::take(&mut self.pack)
    }
}
