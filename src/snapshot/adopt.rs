//! A snapshot whose session was fenced before it was committed: another session may commit it, if it may rest on all of it.

use super::reader::SnapshotReader;
use super::tree::{Marker, walk};
use crate::context::Context;
use crate::context::mutant::mutated;
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::BlobRef;
use crate::format::id::BlobId;
use crate::format::node::Totals;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::{Durable, Repository, Rest, Session};
use std::collections::HashSet;
use std::sync::Arc;

/// Decides every reuse of a snapshot again, for `session`, and claims what its own session has uploaded. Nothing if some of it must not
/// be rested on any more, a collector has condemned it say: then the sources have to be read again.
///
/// # Errors
/// What the store says.
pub async fn adopt(
    repository: &Repository,
    context: &Context,
    session: &Session,
    snapshot: &SnapshotRecord,
) -> Result<Option<Durable>> {
    // Lists of incidents are rare, and reading the sources again is always right.
    if snapshot.incident_list.is_some() {
        return Ok(None);
    }
    let mut writer = session.writer(context);
    let blobs = repository.reader(context, session.view());
    let reader = SnapshotReader::new(Arc::new(snapshot.clone()), blobs, context.budget.total());
    let mut rests = Rests {
        rest: writer.rest(),
        seen: HashSet::new(),
        wholly: true,
    };
    match walk(reader.tree().source().as_ref(), &snapshot.root, &mut rests).await {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => return Ok(None),
        Err(error) => return Err(error),
    }
    let claimed = rests.wholly && writer.claim_all(rests.rest).await?;
    if !claimed && !mutated!(CommitAfterFence) {
        return Ok(None);
    }
    writer.finish().await.map(Some)
}

/// Asks of every blob.
struct Rests {
    rest: Rest,
    /// Nodes and lists that were asked of.
    seen: HashSet<BlobId>,
    wholly: bool,
}

impl Rests {
    /// Nothing more is visited once one blob is not to be rested on.
    fn ask(&mut self, id: &BlobId) -> bool {
        self.wholly = self.wholly && (self.rest.on(id) || mutated!(CommitAfterFence));
        self.wholly
    }
}

impl Marker for Rests {
    fn node(&mut self, id: BlobId, _: u8, _: Totals) -> bool {
        self.seen.insert(id) && self.ask(&id)
    }

    fn list(&mut self, list: &BlobRef) -> bool {
        self.seen.insert(list.id) && self.ask(&list.id)
    }

    fn data(&mut self, chunk: &BlobRef) {
        self.ask(&chunk.id);
    }

    fn failed(&mut self, error: Error) -> Result<()> {
        Err(error)
    }
}
