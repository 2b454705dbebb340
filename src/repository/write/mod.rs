//! Blobs in: dedup, blocks, packs, uploads, index runs. Everything in flight holds a reservation of the byte budget, from the
//! moment it was read until its pack is durable.

mod bases;
pub(super) mod lane;
mod rest;
pub(super) mod runs;
mod whole;

use super::Repository;
use super::delta::Delta;
use super::index::{Index, PackNumber};
use super::pack::{SealedPack, seal_pack};
use super::presence::Presence;
use super::view::View;
use crate::context::mutant::{self, mutated};
use crate::context::{Context, Reservation, Time};
use crate::crypto::Sealed;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::header::Origin;
use crate::format::id::{BlobId, SessionId};
use crate::format::index::{BlobKind, Tables};
use crate::format::layout::ObjectName;
pub use bases::Bases;
use lane::Lane;
pub use rest::Rest;
use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::task::JoinSet;
pub use whole::PackSource;

/// The largest target for a pack of data, in bytes of its blocks: padded it stays below 32 MiB, above which the C library's
/// allocator maps fresh pages for every buffer, and their first touch costs more than the encryption.
pub(super) const DATA_PACK_MAX: usize = 29 << 20;
/// The target for a pack of nodes and lists, in bytes.
pub(super) const NODE_PACK_MAX: usize = 8 << 20;
/// Data and nodes of a run that together are below this share one pack.
pub(super) const SHARED_PACK_MAX: usize = 1 << 20;
/// A live writer puts an index run at least so often, in seconds: only a dead one looks idle.
const HEARTBEAT_SECONDS: f64 = 300.0;
/// While something takes long, the session is asked this often whether it shows a sign of life.
const TICK: Duration = Duration::from_secs(30);
/// An index run is put after so many packs, so that an interrupted run loses little.
const PACKS_PER_RUN: usize = 8;
/// An index run is put before it has more rows than this.
const ROWS_PER_RUN: usize = 100_000;

/// Proof that every blob that was put is durable and indexed. Only [`BlobWriter::finish`] makes one; committing takes it.
#[must_use]
pub struct Durable {
    sid: SessionId,
    /// What was written.
    pub counts: WriteCounts,
}

impl Durable {
    pub(crate) fn sid(&self) -> SessionId {
        self.sid
    }
}

/// What a writer has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteCounts {
    /// Blobs that the repository did not have.
    pub blobs_new: u64,
    /// Their plaintext bytes, of content only.
    pub bytes_new: u64,
    /// Bytes of packs and index runs uploaded.
    pub bytes_stored: u64,
    /// Nodes and lists among the new blobs.
    pub nodes_new: u64,
}

/// Takes blobs of one session.
pub struct BlobWriter {
    repository: Repository,
    context: Context,
    sid: SessionId,
    view: Arc<Index>,
    /// Blobs of this session, uploaded or on their way.
    fresh: HashSet<BlobId>,
    data: Lane,
    nodes: Lane,
    uploads: JoinSet<Result<Uploaded>>,
    uploads_max: usize,
    /// Rows of packs that are durable and that no run lists yet.
    rows: Vec<Tables>,
    last_run: Time,
    /// Which packs were found to be there.
    presence: Arc<Presence>,
    /// Packs of dead sessions that are rested on, and those of them that this session's runs list.
    claimed: BTreeSet<PackNumber>,
    claims_listed: BTreeSet<PackNumber>,
    counts: WriteCounts,
    /// Bytes of blocks that are on their way or uploaded, for those who decide by it meanwhile.
    ready: Arc<AtomicU64>,
    broken: bool,
    /// A copy has failed: what is durable can be listed, and nothing committed.
    incomplete: bool,
}

struct Uploaded {
    tables: Tables,
    bytes: u64,
}

impl BlobWriter {
    pub(super) fn new(repository: Repository, context: Context, sid: SessionId, view: &View) -> Self {
        let eighth = usize::try_from(context.budget.total() / 8).unwrap_or(DATA_PACK_MAX);
        let ready = Arc::new(AtomicU64::new(0));
        let data = Lane::new(&context, DATA_PACK_MAX.min(eighth), &ready);
        let nodes = Lane::new(&context, NODE_PACK_MAX.min(eighth), &ready);
        let last_run = context.clock.now();
        let uploads_max = repository.concurrency().min(4);
        Self {
            repository,
            context,
            sid,
            view: view.index.clone(),
            fresh: HashSet::new(),
            data,
            nodes,
            uploads: JoinSet::new(),
            uploads_max,
            rows: Vec::new(),
            last_run,
            presence: view.presence.clone(),
            claimed: BTreeSet::new(),
            claims_listed: BTreeSet::new(),
            counts: WriteCounts::default(),
            ready,
            broken: false,
            incomplete: false,
        }
    }

    /// Takes a blob whose id is known. Gives whether it is new to the repository; `held` goes back if it is not.
    ///
    /// # Errors
    /// What the store says. After an error the writer takes nothing more: the session cannot be committed.
    pub async fn put(
        &mut self,
        kind: BlobKind,
        id: BlobId,
        plaintext: &[u8],
        held: Reservation,
    ) -> Result<bool> {
        self.check_sound()?;
        let result = async {
            if !self.is_new(kind, id, plaintext.len()).await? {
                return Ok(false);
            }
            let context = self.context.clone();
            let full = self
                .lane(kind == BlobKind::Data)
                .push(&context, kind, id, plaintext, held)
                .await?;
            self.after_push(kind, full).await
        }
        .await;
        self.broken |= result.is_err();
        result
    }

    /// Takes a blob of `plain` bytes as a delta, whose base [`Bases::room`] has allowed. As [`Self::put`] otherwise.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_delta(
        &mut self,
        kind: BlobKind,
        (id, plain): (BlobId, u32),
        delta: &Delta,
        mut held: Reservation,
    ) -> Result<bool> {
        self.check_sound()?;
        let result = async {
            if !self.is_new(kind, id, plain as usize).await? {
                return Ok(false);
            }
            held.shrink_to(delta.bytes.len() as u64);
            let context = self.context.clone();
            let lane = self.lane(kind == BlobKind::Data);
            let full = lane.push_delta(&context, (kind, id, plain), delta, held).await?;
            self.after_push(kind, full).await
        }
        .await;
        self.broken |= result.is_err();
        result
    }

    /// What deltas of this session may rest on.
    pub fn bases(&self) -> Bases {
        let (index, presence) = (self.view.clone(), self.presence.clone());
        Bases::over(&self.repository, index, presence, self.ready.clone())
    }

    fn check_sound(&self) -> Result<()> {
        if self.broken {
            return Err(Error::new(
                ErrorKind::Internal,
                "an upload of this session has failed before",
            ));
        }
        Ok(())
    }

    /// Whether the repository lacks a blob; then it counts as taken.
    async fn is_new(&mut self, kind: BlobKind, id: BlobId, plain: usize) -> Result<bool> {
        if self.fresh.contains(&id) || self.reusable(&id).await? {
            return Ok(false);
        }
        self.fresh.insert(id);
        self.counts.blobs_new += 1;
        match kind {
            BlobKind::Data => self.counts.bytes_new += plain as u64,
            BlobKind::Node | BlobKind::List => self.counts.nodes_new += 1,
        }
        self.context.emit(&Event::BlobAdded { bytes: plain as u64 });
        Ok(true)
    }

    async fn after_push(&mut self, kind: BlobKind, pack_is_full: bool) -> Result<bool> {
        if pack_is_full {
            self.seal_and_upload(kind == BlobKind::Data).await?;
        }
        self.heartbeat().await?;
        Ok(true)
    }

    /// Whether the session may rest on a blob that is in the repository already: W5 (B) and (D).
    ///
    /// # Errors
    /// What the store says.
    pub async fn reusable(&mut self, id: &BlobId) -> Result<bool> {
        if *id == BlobId::HOLE {
            return Ok(true);
        }
        let view = self.view.clone();
        let committed = |copy: &super::index::Copy| {
            view.block(copy)
                .and_then(|b| view.pack(b.pack))
                .is_some_and(|pack| {
                    !pack.unclaimed && !mutant::is_held_back(&pack.id.0) && !self.presence.is_lost(&pack.id)
                })
        };
        if mutated!(ReuseIgnoresBases) && view.copies(id).iter().any(committed) {
            return Ok(true);
        }
        if view.chain(id, &committed).is_some() {
            return Ok(true);
        }
        loop {
            let not_lost = |copy: &super::index::Copy| {
                let pack = view.block(copy).and_then(|block| view.pack(block.pack));
                pack.is_some_and(|pack| !self.presence.is_lost(&pack.id))
            };
            let Some(chain) = view.chain(id, &not_lost) else {
                return Ok(false);
            };
            let packs: BTreeSet<PackNumber> = chain
                .iter()
                .filter_map(|copy| view.block(copy))
                .map(|b| b.pack)
                .collect();
            if self.claim(&view, &packs).await? {
                return Ok(true);
            }
        }
    }

    /// Claims packs of uncommitted sessions, if they are still there.
    async fn claim(&mut self, view: &Index, packs: &BTreeSet<PackNumber>) -> Result<bool> {
        for number in packs {
            let Some(pack) = view.pack(*number) else {
                return Ok(false);
            };
            if !pack.unclaimed {
                continue;
            }
            if !self.presence.ask(&self.repository, pack).await? {
                return Ok(false);
            }
        }
        self.claimed.extend(
            packs
                .iter()
                .filter(|n| view.pack(**n).is_some_and(|pack| pack.unclaimed)),
        );
        Ok(true)
    }

    /// Closes a lane; packs that fill meanwhile go up, so that none grows over its limit.
    async fn close(&mut self, data: bool) -> Result<()> {
        let context = self.context.clone();
        self.lane(data).close(&context).await?;
        while self.lane(data).take_ready().await? {
            if self.lane(data).is_full() {
                self.seal_and_upload(data).await?;
            }
        }
        Ok(())
    }

    fn lane(&mut self, data: bool) -> &mut Lane {
        if data { &mut self.data } else { &mut self.nodes }
    }

    async fn seal_and_upload(&mut self, data: bool) -> Result<()> {
        let blocks = self.lane(data).take_pack();
        self.upload(blocks).await
    }

    async fn upload(&mut self, blocks: Vec<super::pack::ReadyBlock>) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        while self.uploads.len() >= self.uploads_max {
            self.join_upload().await?;
        }
        let (repository, context, sid) = (self.repository.clone(), self.context.clone(), self.sid);
        self.uploads.spawn(async move {
            let (keyring, random) = (repository.shared_keyring(), context.random.clone());
            let padme = repository.config().padme;
            let seal = move || seal_pack(&keyring, random.as_ref(), Origin::Session(sid), blocks, padme);
            let SealedPack { sealed, tables, held } = context.cpu.run(seal).await??;
            let (name, bytes) = (ObjectName::Pack(sealed.id), sealed.bytes.len() as u64);
            let sent = sealed.bytes.clone();
            if !repository.store().put_new(&name, sent).await?.is_mine() {
                return Err(
                    Error::new(ErrorKind::Damaged, "a pack's name is taken by other bytes")
                        .with("object", name),
                );
            }
            // The cache's file is written while nobody waits for I/O on this thread.
            let cache = move || {
                cache_blocks(&repository, &sealed, &tables);
                tables
            };
            let tables = context.cpu.run(cache).await?;
            drop(held);
            Ok(Uploaded { tables, bytes })
        });
        Ok(())
    }

    async fn join_upload(&mut self) -> Result<()> {
        let Some(joined) = self.uploads.join_next().await else {
            return Ok(());
        };
        let uploaded =
            joined.map_err(|e| Error::new(ErrorKind::Internal, "an upload task failed").because(e))??;
        self.note_uploaded(uploaded).await
    }

    /// Lists a pack of another session in this session's runs, as it does its own.
    pub(super) async fn list_pack(&mut self, tables: Tables) -> Result<()> {
        self.check_sound()?;
        let listed = self.note_uploaded(Uploaded { tables, bytes: 0 }).await;
        self.broken |= listed.is_err();
        listed
    }

    /// Counts a pack that is durable; a run is put when many wait to be listed.
    async fn note_uploaded(&mut self, uploaded: Uploaded) -> Result<()> {
        self.counts.bytes_stored += uploaded.bytes;
        self.rows.push(uploaded.tables);
        let rows: usize = self.rows.iter().map(|tables| tables.entries.len()).sum();
        if self.rows.len() >= PACKS_PER_RUN || rows >= ROWS_PER_RUN {
            self.put_run().await?;
        }
        Ok(())
    }

    /// Puts an index run if none was put for five minutes. Called between entries; a source that stalls must call it too.
    ///
    /// # Errors
    /// What the store says.
    pub async fn heartbeat(&mut self) -> Result<()> {
        let now = self.context.clock.now();
        // A clock that was set back must not silence a live writer.
        if now >= self.last_run && now.seconds_since(self.last_run) < HEARTBEAT_SECONDS {
            return Ok(());
        }
        self.check_sound()?;
        let put = self.put_run().await;
        self.broken |= put.is_err();
        put
    }

    /// Waits for something that may take long: an interrupt is heard, and the session shows signs of life meanwhile.
    ///
    /// # Errors
    /// `Cancelled`, or what the store says.
    pub async fn alive_during<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        let cancel = self.context.cancel.clone();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => self.context.check_cancelled()?,
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(TICK) => self.heartbeat().await?,
            }
        }
    }

    /// Puts everything that is pending as packs and index runs, so that a later session can claim it. The writer can go on.
    ///
    /// # Errors
    /// What the store says.
    pub async fn flush(&mut self) -> Result<()> {
        self.check_sound()?;
        let flushed = self.try_flush().await;
        self.broken |= flushed.is_err();
        flushed
    }

    async fn try_flush(&mut self) -> Result<()> {
        self.close(true).await?;
        self.close(false).await?;
        if self.data.pack_len() + self.nodes.pack_len() < SHARED_PACK_MAX {
            let mut blocks = self.data.take_pack();
            blocks.extend(self.nodes.take_pack());
            self.upload(blocks).await?;
        } else {
            self.seal_and_upload(true).await?;
            self.seal_and_upload(false).await?;
        }
        while !self.uploads.is_empty() {
            self.join_upload().await?;
        }
        if !self.rows.is_empty() || self.claimed != self.claims_listed {
            self.put_run().await?;
        }
        Ok(())
    }

    /// Makes everything durable and indexed: the last packs, then the last index run.
    ///
    /// # Errors
    /// What the store says.
    pub async fn finish(mut self) -> Result<Durable> {
        self.flush().await?;
        if self.incomplete {
            return Err(Error::new(
                ErrorKind::Internal,
                "a copy into this session has failed before",
            ));
        }
        Ok(Durable {
            sid: self.sid,
            counts: self.counts,
        })
    }

    /// What was written so far.
    pub fn counts(&self) -> WriteCounts {
        self.counts
    }
}

/// Gives the local caches the blocks of a stored pack: of those that hold nodes and lists the next run reads all, and its deltas rest
/// on the others.
fn cache_blocks(repository: &Repository, sealed: &Sealed, tables: &Tables) {
    let of_tree = tables.entries.iter().filter(|entry| entry.kind != BlobKind::Data);
    let of_tree: BTreeSet<u32> = of_tree.map(|entry| entry.block).collect();
    for (number, block) in (0u32..).zip(&tables.blocks) {
        let cache = if of_tree.contains(&number) {
            repository.cache()
        } else if let Some(bases) = repository.base_cache() {
            bases
        } else {
            continue;
        };
        let (start, len) = (block.offset as usize, block.sealed as usize);
        if let Some(bytes) = sealed.bytes.get(start..start + len) {
            cache.put_block(&sealed.id, block.offset, bytes);
        }
    }
}
