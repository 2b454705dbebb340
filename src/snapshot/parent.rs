//! The snapshot that a new one is compared with.

use super::entry::{Key, Prior, PriorEntry};
use super::reader::SnapshotReader;
use super::tree::content_refs;
use crate::context::Time;
use crate::error::Result;
use crate::format::entry::{ContentRecord, EntryRecord};
use crate::format::snapshot::{SnapshotRecord, SourceRecord};
use crate::repository::BlobReader;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
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
    blobs: BlobReader,
}

impl ParentPrior {
    /// The parent that `reader` reads; `blobs` knows what the writing session may rest on.
    pub fn new(reader: SnapshotReader, blobs: BlobReader) -> Self {
        Self { reader, blobs }
    }
}

impl Prior for ParentPrior {
    fn started(&self) -> Option<Time> {
        Some(self.reader.record().started)
    }

    fn entries(&self, prefix: Key) -> BoxStream<'static, Result<PriorEntry>> {
        let blobs = self.blobs.clone();
        let whole = self
            .reader
            .records(prefix)
            .try_filter(move |record| is_whole(blobs.clone(), record.clone()));
        whole.map_ok(PriorEntry::new).boxed()
    }
}

/// Whether every blob that an entry's content needs can be read, those that its lists name included: else a source must not take the
/// entry over. Lists that cannot be read count as lost.
async fn is_whole(blobs: BlobReader, record: Arc<EntryRecord>) -> bool {
    match &record.content {
        ContentRecord::None | ContentRecord::Inline(_) => true,
        ContentRecord::Refs { level: 0, refs } => refs.iter().all(|r| blobs.has(&r.id)),
        ContentRecord::Refs { .. } => {
            let mut refs = content_refs(Arc::new(blobs.clone()), &record);
            while let Some(reference) = refs.next().await {
                if !reference.is_ok_and(|r| blobs.has(&r.id)) {
                    return false;
                }
            }
            true
        }
    }
}
