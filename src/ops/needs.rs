//! What a snapshot needs, as copies and repairs ask for it.

use crate::error::{Error, Result};
use crate::format::entry::BlobRef;
use crate::format::id::BlobId;
use crate::format::index::BlobKind;
use crate::format::node::Totals;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::Needs;
use crate::snapshot::tree::{Marker, NodeSource, walk, walk_refs};

/// Asks for everything that a snapshot needs. What is below a node that is lost cannot be asked for: where `passes` says so of its error, the
/// walk goes on behind it. Gives how often.
///
/// # Errors
/// What `source` says.
pub(super) async fn ask_for(
    source: &dyn NodeSource,
    record: &SnapshotRecord,
    needs: &mut Needs,
    passes: fn(&Error) -> bool,
) -> Result<u64> {
    let mut asks = Asks {
        needs,
        passes,
        passed: 0,
    };
    walk(source, &record.root, &mut asks).await?;
    if let Some((level, refs)) = &record.incident_list {
        walk_refs(source, (*level, refs), &mut asks).await?;
    }
    Ok(asks.passed)
}

struct Asks<'a> {
    needs: &'a mut Needs,
    passes: fn(&Error) -> bool,
    passed: u64,
}

impl Marker for Asks<'_> {
    fn node(&mut self, id: BlobId, _: u8, _: Totals) -> bool {
        self.needs.ask(BlobKind::Node, &id)
    }

    fn list(&mut self, list: &BlobRef) -> bool {
        self.needs.ask(BlobKind::List, &list.id)
    }

    fn data(&mut self, chunk: &BlobRef) {
        self.needs.ask(BlobKind::Data, &chunk.id);
    }

    fn failed(&mut self, error: Error) -> Result<()> {
        if !(self.passes)(&error) {
            return Err(error);
        }
        self.passed += 1;
        Ok(())
    }
}
