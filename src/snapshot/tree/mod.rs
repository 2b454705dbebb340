//! The tree of a snapshot (`format-spec/60-tree.md`): all its entries in key order, in nodes with content-defined borders.
//!
//! [`TreeBuilder`] takes entries and gives a [`RootRecord`]; [`TreeReader`] gives them back, from any key on; [`diff`] compares two
//! trees without reading what they share; [`walk`] visits every blob that a tree needs; [`TreePrior`] shows a tree to sources.
//! Long content has lists of its own: [`ContentWriter`] makes them, [`content_refs`] reads them.
//!
//! Nothing here knows a repository: nodes and lists come from a [`NodeSource`] and go to a [`NodeSink`]. All state is one open
//! node or one path of nodes; nothing grows with the tree.

mod builder;
mod content;
mod diff;
mod load;
mod prior;
mod reader;
mod walk;

pub use crate::format::node::{BorderKey, Totals};
pub use crate::format::snapshot::RootRecord;
pub use builder::TreeBuilder;
pub use content::{ContentWriter, content_refs};
pub use diff::{Change, diff};
pub use prior::TreePrior;
pub use reader::{Found, LostRange, TreeReader};
pub use walk::{Marker, walk, walk_refs};

use crate::error::Result;
use crate::format::id::BlobId;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::sync::Arc;

/// Where nodes and lists go to.
pub trait NodeSink: Send {
    /// Takes a node's plaintext and gives its id. May go on storing it in the background; what is known is not stored again.
    fn put_node(&mut self, plaintext: Vec<u8>) -> BoxFuture<'_, Result<BlobId>>;

    /// As [`Self::put_node`], for a list of references.
    fn put_list(&mut self, plaintext: Vec<u8>) -> BoxFuture<'_, Result<BlobId>>;
}

impl<S: NodeSink + ?Sized> NodeSink for &mut S {
    fn put_node(&mut self, plaintext: Vec<u8>) -> BoxFuture<'_, Result<BlobId>> {
        (**self).put_node(plaintext)
    }

    fn put_list(&mut self, plaintext: Vec<u8>) -> BoxFuture<'_, Result<BlobId>> {
        (**self).put_list(plaintext)
    }
}

/// Where nodes and lists come from. What it gives has been compared with the id that was asked for.
pub trait NodeSource: Send + Sync {
    /// The plaintext of a node.
    fn node(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>>;

    /// The plaintext of a list of references.
    fn list(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>>;

    /// These nodes will be asked for soon, in this order, unless the reader stops early. Only a hint.
    fn prefetch(&self, _: &[BlobId]) {}
}

impl<S: NodeSource + ?Sized> NodeSource for Arc<S> {
    fn node(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>> {
        (**self).node(id)
    }

    fn list(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>> {
        (**self).list(id)
    }

    fn prefetch(&self, ids: &[BlobId]) {
        (**self).prefetch(ids);
    }
}
