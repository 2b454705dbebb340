//! The tree's nodes and lists in a repository.

use super::tree::{NodeSink, NodeSource};
use crate::context::Reservation;
use crate::error::Result;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::repository::{BlobNamer, BlobReader, BlobWriter};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

/// Blobs of one session, as a tree puts them. Nodes are small and few beside content: they hold no budget.
pub(super) struct RepositorySink {
    pub(super) blobs: BlobWriter,
    pub(super) namer: BlobNamer,
}

impl RepositorySink {
    async fn put(&mut self, kind: BlobKind, plaintext: Vec<u8>) -> Result<BlobId> {
        let id = self.namer.name(kind, &plaintext);
        self.blobs
            .put(kind, id, &Bytes::from(plaintext), Reservation::none())
            .await?;
        Ok(id)
    }
}

impl NodeSink for RepositorySink {
    fn put_node(&mut self, plaintext: Vec<u8>) -> BoxFuture<'_, Result<BlobId>> {
        self.put(BlobKind::Node, plaintext).boxed()
    }

    fn put_list(&mut self, plaintext: Vec<u8>) -> BoxFuture<'_, Result<BlobId>> {
        self.put(BlobKind::List, plaintext).boxed()
    }
}

impl NodeSource for BlobReader {
    fn node(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>> {
        async move { self.get(BlobKind::Node, &id).await }.boxed()
    }

    fn list(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>> {
        async move { self.get(BlobKind::List, &id).await }.boxed()
    }

    fn prefetch(&self, ids: &[BlobId]) {
        // Only a hint: what fails here fails again when it is asked for.
        let _ = BlobReader::prefetch(self, ids);
    }
}
