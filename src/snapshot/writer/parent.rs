//! The parent's entries beside those that come in, in the same order.

use crate::error::Result;
use crate::snapshot::entry::{EntryRecord, Key};
use crate::snapshot::tree::TreeReader;
use futures::StreamExt;
use std::sync::Arc;

/// Whether two records say the same; how they were found unchanged does not matter.
pub(super) fn same(a: &EntryRecord, b: &EntryRecord) -> bool {
    a.kind == b.kind && a.metadata == b.metadata && a.size == b.size && a.content == b.content
}

/// Walks the parent beside the entries that come in, in the same order.
pub(super) struct ParentCursor {
    entries: futures::stream::BoxStream<'static, Result<Arc<EntryRecord>>>,
    next: Option<Arc<EntryRecord>>,
    ended: bool,
}

impl ParentCursor {
    pub(super) fn new(parent: &TreeReader) -> Self {
        Self {
            entries: parent.entries(),
            next: None,
            ended: false,
        }
    }

    /// The parent's entry with this key; keys ascend. A parent that cannot be read counts as one that ended: it is for statistics
    /// only.
    pub(super) async fn find(&mut self, key: &Key) -> Option<Arc<EntryRecord>> {
        while !self.ended && self.next.as_ref().is_none_or(|next| next.key < *key) {
            match self.entries.next().await {
                Some(Ok(entry)) => self.next = Some(entry),
                Some(Err(_)) | None => self.ended = true,
            }
        }
        self.next.as_ref().filter(|next| next.key == *key).cloned()
    }
}
