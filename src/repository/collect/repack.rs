//! Copying what is needed out of packs that hold too little of it. Encoded blobs are copied as they are: a delta stays the same delta.

use super::listing::{doubtful, not_given};
use crate::context::{Context, Reservation};
use crate::error::{Error, ErrorKind, Result};
use crate::format::header::{Origin, check_trailer};
use crate::format::id::ObjectId;
use crate::format::index::{BlobKind, Tables};
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use crate::repository::delta::Delta;
use crate::repository::index::{Copy, Index, Pack};
use crate::repository::pack::{ReadyBlock, SealedPack, seal_pack};
use crate::repository::read::fetch::open_block;
use crate::repository::view::of_the_disk;
use crate::repository::write::lane::Lane;
use crate::repository::write::{DATA_PACK_MAX, NODE_PACK_MAX, SHARED_PACK_MAX};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Packs that are read ahead: each is held whole.
const READ_AHEAD: usize = 2;

/// One pack, and the places in the index of the copies that are needed of it.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) pack: Pack,
    pub(super) copies: Vec<u32>,
}

/// What was copied.
#[derive(Debug, Default)]
pub(super) struct Repacked {
    /// The new packs; each is durable.
    pub(super) packs: Vec<Tables>,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Packs whose copies are all durable elsewhere.
    pub(super) emptied: HashSet<ObjectId>,
    /// Why packs stay as they are: one line for each reason.
    pub(super) left: Vec<String>,
}

/// Copies under way.
pub(super) struct Repack<'a> {
    repository: &'a Repository,
    context: &'a Context,
    index: Arc<Index>,
    round: u64,
    data: Lane,
    nodes: Lane,
    out: Repacked,
}

impl<'a> Repack<'a> {
    pub(super) fn new(
        (repository, context): (&'a Repository, &'a Context),
        index: Arc<Index>,
        round: u64,
    ) -> Self {
        let eighth = usize::try_from(context.budget.total() / 8).unwrap_or(DATA_PACK_MAX);
        Self {
            repository,
            context,
            index,
            round,
            data: Lane::new(context, DATA_PACK_MAX.min(eighth), &Arc::default()),
            nodes: Lane::new(context, NODE_PACK_MAX.min(eighth), &Arc::default()),
            out: Repacked::default(),
        }
    }

    /// Copies what `jobs` name. All that are left when the store is full stay as they are.
    ///
    /// # Errors
    /// `Damaged` if a pack is damaged or gone, `Unreadable` if the disk does not give it: other copies of its blobs may die in this round,
    /// which was planned with these. What the store says otherwise.
    pub(super) async fn run(mut self, jobs: &[Job]) -> Result<Repacked> {
        match self.copy(jobs).await {
            Err(error) if error.kind() == ErrorKind::StoreFull => {
                self.out.left.push(format!(
                    "the store is full, so that packs stay as they are: {error}"
                ));
            }
            copied => copied?,
        }
        // Told from what is durable, not from what was meant.
        let mut durable = HashSet::new();
        for tables in &self.out.packs {
            let mut bases = tables.bases.iter();
            for row in &tables.entries {
                let base = if row.delta {
                    bases.next().map(|(_, base)| *base)
                } else {
                    None
                };
                durable.insert((row.id, base));
            }
        }
        for job in jobs {
            let copies = job
                .copies
                .iter()
                .filter_map(|at| self.index.all_copies().get(*at as usize));
            let mut keys = copies.map(|copy| (copy.id, self.index.base(copy)));
            if keys.all(|key| durable.contains(&key)) {
                self.out.emptied.insert(job.pack.id);
            }
        }
        Ok(self.out)
    }

    async fn copy(&mut self, jobs: &[Job]) -> Result<()> {
        let repository = self.repository.clone();
        let gets = jobs.iter().map(|job| {
            let (store, name) = (repository.store().clone(), ObjectName::Pack(job.pack.id));
            async move { (job, store.get(&name).await) }
        });
        let gets: Vec<_> = gets.collect();
        let mut gets = stream::iter(gets).buffered(READ_AHEAD);
        while let Some((job, bytes)) = gets.next().await {
            self.context.check_cancelled()?;
            let bytes = match bytes {
                // What a disk does not give beside something else it may give alone.
                Err(error) if error.kind() == ErrorKind::Unreadable => {
                    let name = ObjectName::Pack(job.pack.id);
                    self.repository.store().get(&name).await
                }
                bytes => bytes,
            };
            let copied = match bytes {
                Ok(bytes) => self.copy_pack(job, bytes).await,
                Err(error) => Err(error),
            };
            if let Err(error) = copied {
                return Err(of_pack(&repository, job, error).await?);
            }
        }
        self.close().await
    }

    async fn copy_pack(&mut self, job: &Job, bytes: Bytes) -> Result<()> {
        let expected = job.pack.id;
        let whole = bytes.clone();
        let hashed = self
            .context
            .cpu
            .run(move || check_trailer(&whole).map(|(_, id)| id))
            .await??;
        if hashed != expected {
            return Err(Error::new(ErrorKind::Damaged, "the pack's hash is not its name"));
        }
        let mut by_block: BTreeMap<u32, Vec<Copy>> = BTreeMap::new();
        for copy in job
            .copies
            .iter()
            .filter_map(|at| self.index.all_copies().get(*at as usize))
        {
            by_block.entry(Index::block_number(copy)).or_default().push(*copy);
        }
        for (_, mut copies) in by_block {
            copies.sort_unstable_by_key(|copy| copy.offset);
            let Some(block) = copies.first().and_then(|copy| self.index.block(copy)).copied() else {
                continue;
            };
            let (keyring, pack, bytes) = (self.repository.shared_keyring(), job.pack, bytes.clone());
            let open = move || -> Result<Vec<(Copy, Bytes)>> {
                let short = || Error::new(ErrorKind::Damaged, "the pack is shorter than the index says");
                let start = block.offset as usize;
                let sealed = bytes
                    .get(start..start + block.sealed as usize)
                    .ok_or_else(short)?;
                let plain = open_block(&keyring, &pack, &block, sealed)?;
                let mut out = Vec::with_capacity(copies.len());
                for copy in copies {
                    let (start, len) = (copy.offset as usize, copy.encoded as usize);
                    if start + len > plain.len() {
                        return Err(short());
                    }
                    let encoded = plain.slice(start..start + len);
                    if !copy.is_delta() {
                        keyring.verify_blob(copy.kind(), &copy.id, &encoded)?;
                    }
                    out.push((copy, encoded));
                }
                Ok(out)
            };
            for (copy, encoded) in self.context.cpu.run(open).await?? {
                self.push(&copy, encoded).await?;
            }
        }
        Ok(())
    }

    async fn push(&mut self, copy: &Copy, encoded: Bytes) -> Result<()> {
        let (kind, id, held) = (copy.kind(), copy.id, Reservation::none());
        let lane = match kind {
            BlobKind::Data => &mut self.data,
            BlobKind::Node | BlobKind::List => &mut self.nodes,
        };
        let full = match self.index.base(copy) {
            None => lane.push(self.context, kind, id, &encoded, held).await?,
            Some(base) => {
                let delta = Delta { base, bytes: encoded };
                lane.push_delta(self.context, (kind, id, copy.plain), &delta, held)
                    .await?
            }
        };
        if full {
            let blocks = lane.take_pack();
            self.put(blocks).await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        for data in [true, false] {
            let lane = if data { &mut self.data } else { &mut self.nodes };
            lane.close(self.context).await?;
            loop {
                let lane = if data { &mut self.data } else { &mut self.nodes };
                if !lane.take_ready().await? {
                    break;
                }
                if lane.is_full() {
                    let blocks = lane.take_pack();
                    self.put(blocks).await?;
                }
            }
        }
        let small = self.data.pack_len() + self.nodes.pack_len() < SHARED_PACK_MAX;
        let (mut data, nodes) = (self.data.take_pack(), self.nodes.take_pack());
        if small {
            data.extend(nodes);
            self.put(data).await
        } else {
            self.put(data).await?;
            self.put(nodes).await
        }
    }

    async fn put(&mut self, blocks: Vec<ReadyBlock>) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let (keyring, random) = (self.repository.shared_keyring(), self.context.random.clone());
        let (padme, origin) = (self.repository.config().padme, Origin::Round(self.round));
        let seal = move || seal_pack(&keyring, random.as_ref(), origin, blocks, padme);
        let SealedPack { sealed, tables, .. } = self.context.cpu.run(seal).await??;
        let name = ObjectName::Pack(sealed.id);
        let len = sealed.bytes.len() as u64;
        if !self
            .repository
            .store()
            .put_new(&name, sealed.bytes)
            .await?
            .is_mine()
        {
            return Err(
                Error::new(ErrorKind::Damaged, "a pack's name is taken by other bytes").with("object", name),
            );
        }
        self.out.bytes += len;
        self.out.packs.push(tables);
        Ok(())
    }
}

/// What an error means for the round if it is of the pack; else it is the error of this.
async fn of_pack(repository: &Repository, job: &Job, error: Error) -> Result<Error> {
    let error = match error.kind() {
        ErrorKind::NotFound => error,
        _ => of_the_disk(repository.store(), error).await?,
    };
    let what = match error.kind() {
        ErrorKind::Unreadable => not_given(),
        _ => doubtful(),
    };
    Ok(what.because(error).with("pack", ObjectName::Pack(job.pack.id)))
}
