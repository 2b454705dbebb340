//! Nodes and lists in memory, counted. Their ids are the unkeyed BLAKE3 of the plaintext, as in `format-spec/vectors/tree/`.

use crate::error::{Error, ErrorKind, Result};
use crate::format::id::BlobId;
use crate::snapshot::tree::{NodeSink, NodeSource};
use bytes::Bytes;
use futures::future::{self, BoxFuture, FutureExt};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Nodes and lists in memory; clones share them.
#[derive(Clone, Default)]
pub struct MemoryNodes(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    blobs: HashMap<BlobId, Bytes>,
    failing: HashSet<BlobId>,
    counts: Counts,
}

/// What was asked of [`MemoryNodes`] since it was last asked for its counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes read, in order; each read counts.
    pub nodes_read: Vec<BlobId>,
    /// Lists read, in order; each read counts.
    pub lists_read: Vec<BlobId>,
    /// Nodes and lists put.
    pub put: usize,
    /// Nodes and lists put that were not there.
    pub new: usize,
    /// Ids of prefetch hints, in order.
    pub named: Vec<BlobId>,
}

impl MemoryNodes {
    /// No nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counts since the last call.
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut self.state().counts)
    }

    /// How many different nodes and lists there are.
    pub fn len(&self) -> usize {
        self.state().blobs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A plaintext, uncounted.
    pub fn plaintext(&self, id: BlobId) -> Option<Bytes> {
        self.state().blobs.get(&id).cloned()
    }

    /// Stores a plaintext as it is, uncounted: for nodes that no builder would make.
    pub fn insert(&self, plaintext: impl Into<Bytes>) -> BlobId {
        let plaintext = plaintext.into();
        let id = BlobId(*blake3::hash(&plaintext).as_bytes());
        self.state().blobs.insert(id, plaintext);
        id
    }

    /// Loses a node or list.
    pub fn remove(&self, id: BlobId) {
        self.state().blobs.remove(&id);
    }

    /// Refuses to store this one.
    pub fn fail_put(&self, id: BlobId) {
        self.state().failing.insert(id);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, plaintext: Vec<u8>) -> BoxFuture<'static, Result<BlobId>> {
        let id = BlobId(*blake3::hash(&plaintext).as_bytes());
        let mut state = self.state();
        if state.failing.contains(&id) {
            let error = Error::new(ErrorKind::Unreachable, "the store is gone");
            return future::ready(Err(error)).boxed();
        }
        state.counts.put += 1;
        if state.blobs.insert(id, plaintext.into()).is_none() {
            state.counts.new += 1;
        }
        future::ready(Ok(id)).boxed()
    }

    fn get(state: &State, id: BlobId) -> BoxFuture<'static, Result<Bytes>> {
        let found = state.blobs.get(&id).cloned();
        let missing = || Error::new(ErrorKind::Damaged, "blob is missing").with("blob", id);
        future::ready(found.ok_or_else(missing)).boxed()
    }
}

impl NodeSink for MemoryNodes {
    fn put_node(&mut self, plaintext: Vec<u8>) -> BoxFuture<'_, Result<BlobId>> {
        self.put(plaintext)
    }

    fn put_list(&mut self, plaintext: Vec<u8>) -> BoxFuture<'_, Result<BlobId>> {
        self.put(plaintext)
    }
}

impl NodeSource for MemoryNodes {
    fn node(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>> {
        let mut state = self.state();
        state.counts.nodes_read.push(id);
        Self::get(&state, id)
    }

    fn list(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>> {
        let mut state = self.state();
        state.counts.lists_read.push(id);
        Self::get(&state, id)
    }

    fn prefetch(&self, ids: &[BlobId]) {
        self.state().counts.named.extend_from_slice(ids);
    }
}
