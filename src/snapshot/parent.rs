//! The snapshot that a new one is compared with.

use super::entry::{Key, Prior, PriorEntry};
use super::reader::SnapshotReader;
use super::tree::{NodeSource, content_refs};
use crate::context::Time;
use crate::context::mutant::mutated;
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{ContentRecord, EntryRecord};
use crate::format::id::BlobId;
use crate::format::snapshot::{SnapshotRecord, SourceRecord};
use crate::repository::{Bases, BlobReader};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use futures::{FutureExt, future};
use std::sync::Arc;

/// The newest snapshot of the same host, project and sources.
pub fn choose_parent<'a>(
    snapshots: impl Iterator<Item = &'a Arc<SnapshotRecord>>,
    host: &str,
    project: Option<&str>,
    sources: &[SourceRecord],
) -> Option<Arc<SnapshotRecord>> {
    let same_sources = |snapshot: &SnapshotRecord| {
        let names = |sources: &[SourceRecord]| -> Vec<(String, String)> {
            sources
                .iter()
                .map(|s| (s.connector.clone(), s.description.clone()))
                .collect()
        };
        names(&snapshot.sources) == names(sources)
    };
    snapshots
        .filter(|s| s.host == host && s.project.as_deref() == project && same_sources(s))
        .max_by_key(|s| super::age_key(s))
        .cloned()
}

/// A parent as sources see it. An entry with a blob that the repository has lost is not shown: the source reads it anew, and the
/// next snapshot is whole again.
pub struct ParentPrior {
    reader: SnapshotReader,
    lists: Arc<CommittedLists>,
}

/// Reads lists that committed snapshots hold; others count as lost.
struct CommittedLists {
    blobs: BlobReader,
    bases: Bases,
}

impl ParentPrior {
    /// The parent that `reader` reads, its content by `blobs`; `bases` knows what a session may rest on without a claim. What lies only in
    /// packs of a session that was never committed is not shown: it would be carried over, and go with that session.
    pub fn new(reader: SnapshotReader, blobs: BlobReader, bases: Bases) -> Self {
        let lists = Arc::new(CommittedLists { blobs, bases });
        Self { reader, lists }
    }
}

impl NodeSource for CommittedLists {
    fn node(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>> {
        NodeSource::node(&self.blobs, id)
    }

    fn list(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>> {
        if self.bases.has(&id) {
            NodeSource::list(&self.blobs, id)
        } else {
            future::ready(Err(Error::new(
                ErrorKind::Damaged,
                "no committed pack holds a list",
            )))
            .boxed()
        }
    }
}

impl Prior for ParentPrior {
    fn started(&self) -> Option<Time> {
        Some(self.reader.record().started)
    }

    fn entries(&self, prefix: Key) -> BoxStream<'static, Result<PriorEntry>> {
        let lists = self.lists.clone();
        let whole = self
            .reader
            .records(prefix)
            .try_filter(move |record| is_whole(lists.clone(), record.clone()));
        whole.map_ok(PriorEntry::new).boxed()
    }
}

/// Whether every blob that an entry's content needs is held by committed packs, those that its lists name included: else a source must
/// not take the entry over. Lists that cannot be read count as lost.
async fn is_whole(lists: Arc<CommittedLists>, record: Arc<EntryRecord>) -> bool {
    if mutated!(ParentUnchecked) {
        return true;
    }
    match &record.content {
        ContentRecord::None | ContentRecord::Inline(_) => true,
        ContentRecord::Refs { level: 0, refs } => refs.iter().all(|r| lists.bases.has(&r.id)),
        ContentRecord::Refs { .. } => {
            let mut refs = content_refs(lists.clone(), &record);
            while let Some(reference) = refs.next().await {
                if !reference.is_ok_and(|r| lists.bases.has(&r.id)) {
                    return false;
                }
            }
            true
        }
    }
}
