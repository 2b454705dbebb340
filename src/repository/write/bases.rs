//! Which blobs a session may rest a delta on, and how long that delta may be.

use super::super::Repository;
use super::super::index::{Copy, Index, Pack};
use super::super::presence::Presence;
use super::super::view::View;
use crate::context::mutant::{self, mutated};
use crate::crypto::Secret;
use crate::error::Result;
use crate::format::id::{BlobId, ObjectId};
use crate::format::index::Codec;
use crate::format::limits::CHAIN_MAX;
use futures::StreamExt;
use futures::stream;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// No chain is rebased before it has so many deltas.
const CHAIN_MIN: usize = 8;

/// No chain is rebased before its deltas have so many sixteenths of what they may have at most.
const SHARES_MIN: u64 = 10;
const SHARES: u64 = 16;

/// The deltas of a chain together may always have this share of what they give: where content compresses so well that half of what
/// it costs alone is less, reading the deltas costs nothing beside hashing what they give.
const FLOOR: u64 = 32;

/// How long one chain may become.
struct Limits {
    /// Deltas on the whole copy.
    deltas: usize,
    /// Their bytes together, in sixteenths of the most.
    shares: u64,
}

/// The bases that a session may use: what its view has in packs of committed snapshots. W5 allows more (uploads of this session, the
/// parent's content in a condemned pack); they are left out, because each of them can end with its session or round.
#[derive(Clone)]
pub struct Bases {
    repository: Repository,
    view: Arc<Index>,
    presence: Arc<Presence>,
    /// The first pack that was missed.
    lost: Arc<OnceLock<ObjectId>>,
    rebase: Arc<Secret>,
    ready: Arc<AtomicU64>,
}

impl Bases {
    pub(in crate::repository) fn new(repository: &Repository, view: &View, ready: Arc<AtomicU64>) -> Self {
        Self::over(repository, view.index.clone(), view.presence.clone(), ready)
    }

    pub(super) fn over(
        repository: &Repository,
        view: Arc<Index>,
        presence: Arc<Presence>,
        ready: Arc<AtomicU64>,
    ) -> Self {
        Self {
            rebase: Arc::new(repository.keyring().rebase_key()),
            repository: repository.clone(),
            view,
            presence,
            lost: Arc::default(),
            ready,
        }
    }

    /// Bytes of blocks that the session has uploaded so far, or that wait for it.
    pub fn bytes_uploaded(&self) -> u64 {
        self.ready.load(Ordering::Relaxed)
    }

    /// Whether packs of committed snapshots hold a blob, as far as none of them was missed.
    pub fn has(&self, id: &BlobId) -> bool {
        let held_back = |copy: &Copy| {
            self.pack(copy)
                .is_some_and(|pack| mutant::is_held_back(&pack.id.0))
        };
        let allowed = |copy: &Copy| self.is_committed(copy) && !held_back(copy);
        let has_any = mutated!(ReuseIgnoresBases) && self.view.copies(id).iter().any(allowed);
        *id == BlobId::HOLE || has_any || self.view.chain(id, &allowed).is_some()
    }

    /// The most bytes that a delta of the blob `id`, of `plain` bytes, against `base` may have; nothing if it must be stored whole.
    /// The deltas of a chain together stay under half of what the blob would cost alone, which is judged by how well its last whole
    /// copy was compressed, or under a 32nd of what it holds.
    pub fn room(&self, id: &BlobId, plain: usize, base: &BlobId) -> Option<usize> {
        let chain = self.view.chain(base, &|copy| self.is_committed(copy))?;
        let (whole, deltas) = chain.split_last()?;
        let limits = self.limits(&whole.id);
        if *id == *base || deltas.len() >= limits.deltas {
            return None;
        }
        let block = self.view.block(whole)?;
        let alone = match block.codec {
            Codec::Raw => plain as u64,
            Codec::Zstd => plain as u64 * u64::from(block.sealed) / u64::from(block.plain.max(1)),
        };
        let spent: u64 = deltas.iter().map(|copy| u64::from(copy.encoded)).sum();
        let most = (alone / 2).max(plain as u64 / FLOOR) / SHARES * limits.shares;
        usize::try_from(most.checked_sub(spent)?)
            .ok()
            .filter(|room| *room > 0)
    }

    /// Whether the packs of a chain of `base` are in the store. What a local cache gives proves nothing of them, so each is asked for
    /// once in a session, unless it was read from.
    ///
    /// # Errors
    /// What the store says.
    pub async fn are_there(&self, base: &BlobId) -> Result<bool> {
        loop {
            let Some(chain) = self.view.chain(base, &|copy| self.is_committed(copy)) else {
                return Ok(false);
            };
            let packs = chain.iter().filter_map(|copy| self.pack(copy));
            let packs: BTreeMap<ObjectId, Pack> = packs.map(|pack| (pack.id, *pack)).collect();
            let ask = |pack: Pack| async move {
                let is_there = self.presence.ask(&self.repository, &pack).await;
                is_there.map(|is_there| (pack.id, is_there))
            };
            let mut asked = stream::iter(packs.into_values())
                .map(ask)
                .buffer_unordered(CHAIN_MAX + 1);
            let mut all = true;
            while let Some(answer) = asked.next().await {
                let (pack, is_there) = answer?;
                if !is_there {
                    all = false;
                    let _first = self.lost.set(pack);
                }
            }
            if all {
                return Ok(true);
            }
        }
    }

    /// A pack that was missed by [`Self::are_there`], if any was: snapshots that are there rest on it.
    pub fn lost(&self) -> Option<ObjectId> {
        self.lost.get().copied()
    }

    /// Where the chain that grows on a whole copy ends: differs from copy to copy, so that no one snapshot pays for all, and stays the
    /// same while the chain grows, so that chances do not add up to one step that pays for most.
    fn limits(&self, whole: &BlobId) -> Limits {
        let hash = blake3::keyed_hash(self.rebase.expose(), &whole.0);
        let [count, share, ..] = *hash.as_bytes();
        Limits {
            deltas: CHAIN_MIN + usize::from(count) % (CHAIN_MAX - CHAIN_MIN + 1),
            shares: SHARES_MIN + u64::from(share) % (SHARES - SHARES_MIN + 1),
        }
    }

    fn pack(&self, copy: &Copy) -> Option<&Pack> {
        self.view.block(copy).and_then(|block| self.view.pack(block.pack))
    }

    fn is_committed(&self, copy: &Copy) -> bool {
        let pack = self.pack(copy);
        pack.is_some_and(|pack| !pack.unclaimed && !self.presence.is_lost(&pack.id))
    }
}
