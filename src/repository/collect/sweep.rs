//! G10: deleting what a seal allows, and nothing else (`format-spec/80-layout.md` section 5).

use crate::context::Context;
use crate::context::mutant::mutated;
use crate::error::{ErrorKind, Result};
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use crate::repository::log::Log;
use crate::store::Bulk;
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, HashSet};

/// After so many refusals in a row the store is taken at its word.
const REFUSALS_MAX: u64 = 16;
/// Objects that one request may delete.
const BULK: usize = 1000;

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects that are gone now.
    pub deleted: u64,
    /// Their bytes, of packs and index runs.
    pub bytes: u64,
    /// Objects that may go and that the store does not let go: it keeps them for a time, or deleting is not allowed here.
    pub retained: u64,
    /// Their bytes, of packs and index runs.
    pub retained_bytes: u64,
}

impl Swept {
    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            deleted: self.deleted + other.deleted,
            bytes: self.bytes + other.bytes,
            retained: self.retained + other.retained,
            retained_bytes: self.retained_bytes + other.retained_bytes,
        }
    }
}

/// Whether an object may be deleted once the log says this. A permission once given never lapses.
pub(crate) fn may_go(log: &Log, name: &ObjectName) -> bool {
    let newest = log.newest;
    match name {
        ObjectName::Pack(id) => log.dead.contains(id),
        ObjectName::SessionRun(sid, _) | ObjectName::Session(sid) => sid.epoch < log.floor,
        ObjectName::Snapshot(sid) | ObjectName::Forget(sid) | ObjectName::Note(sid, _) => log.is_void(sid),
        ObjectName::CollectorRun(round, id) => *round <= newest && !log.runs.contains(&(*round, *id)),
        ObjectName::State(round, _) => *round <= newest && log.state != Some(*name),
        ObjectName::Condemned(round) => *round < newest,
        ObjectName::Seal(round) if *round < newest && mutated!(SealsDeleted) => true,
        // Which of them go, only a mark can tell.
        ObjectName::Refs(_)
        | ObjectName::Seal(_)
        | ObjectName::Marker
        | ObjectName::Key(_)
        | ObjectName::Config(_)
        | ObjectName::Ledger(_)
        | ObjectName::Reserve(_) => false,
    }
}

/// Deletes objects that may go; each comes with its size. What the store refuses to delete is counted and named, not an error.
///
/// # Errors
/// What the store says otherwise. What is left then is deleted by the next collection.
pub(super) async fn delete(
    repository: &Repository,
    context: &Context,
    objects: impl IntoIterator<Item = (ObjectName, u64)>,
) -> Result<(Swept, BTreeMap<ObjectName, u64>)> {
    let mut deletion = Deletion::default();
    let objects: Vec<_> = objects.into_iter().collect();
    let store = repository.store();
    for batch in objects.chunks(BULK) {
        context.check_cancelled()?;
        if !store.deletes_in_bulk() {
            deletion.one_by_one(repository, context, batch, false).await?;
            continue;
        }
        let names: Vec<ObjectName> = batch.iter().map(|(name, _)| *name).collect();
        let left: HashSet<ObjectName> = match store.delete_in_bulk(&names).await? {
            Bulk::Left(left) => left.into_iter().collect(),
            // The store has said nothing of any of them.
            Bulk::Unknown => {
                deletion.one_by_one(repository, context, batch, false).await?;
                continue;
            }
        };
        let (left, gone): (Vec<_>, Vec<_>) = batch.iter().partition(|(name, _)| left.contains(name));
        for (name, size) in &gone {
            deletion.gone(repository, name, *size);
        }
        deletion.one_by_one(repository, context, &left, true).await?;
    }
    Ok((deletion.swept, deletion.retained))
}

/// Deletes under way.
#[derive(Default)]
struct Deletion {
    swept: Swept,
    retained: BTreeMap<ObjectName, u64>,
    /// Refusals since an object went that was asked for by itself.
    refusals: u64,
}

impl Deletion {
    /// Deletes each by a request of its own, which tells why it cannot. `asked`: the store has told of each of them that it stays, when
    /// many were asked for.
    async fn one_by_one(
        &mut self,
        repository: &Repository,
        context: &Context,
        objects: &[(ObjectName, u64)],
        asked: bool,
    ) -> Result<()> {
        for batch in objects.chunks(repository.concurrency()) {
            context.check_cancelled()?;
            if self.refusals >= REFUSALS_MAX && (asked || self.swept.deleted == 0) {
                for (name, size) in batch {
                    self.retain(name, *size);
                }
                continue;
            }
            let deletes = batch
                .iter()
                .map(|(name, size)| async move { (name, size, repository.store().delete(name).await) });
            let deletes: Vec<_> = deletes.collect();
            let mut deletes = stream::iter(deletes).buffered(repository.concurrency());
            while let Some((name, size, done)) = deletes.next().await {
                match done {
                    Ok(()) => {
                        self.refusals = 0;
                        self.gone(repository, name, *size);
                    }
                    Err(error) if error.kind() == ErrorKind::Denied => {
                        self.refusals += 1;
                        self.retain(name, *size);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn gone(&mut self, repository: &Repository, name: &ObjectName, size: u64) {
        self.swept.deleted += 1;
        self.swept.bytes += size;
        repository.cache().remove(name);
    }

    fn retain(&mut self, name: &ObjectName, size: u64) {
        self.swept.retained += 1;
        self.swept.retained_bytes += size;
        self.retained.insert(*name, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::{BlobId, ObjectId, SessionId};

    /// The last column of `format-spec/80-layout.md` section 5, line by line.
    #[test]
    fn only_what_the_seal_allows_may_go() {
        let sid = |epoch, n| SessionId {
            epoch,
            random: [n; 16],
        };
        let id = |n| ObjectId([n; 32]);
        let log = Log {
            newest: 5,
            state: Some(ObjectName::State(5, id(1))),
            floor: 4,
            live: [sid(2, 1)].into(),
            runs: [(3, id(3))].into(),
            dead: [id(7)].into(),
            condemned: [id(8)].into(),
            ..Log::default()
        };
        let may = [
            ObjectName::Pack(id(7)),
            ObjectName::SessionRun(sid(2, 1), id(2)),
            ObjectName::Session(sid(3, 2)),
            ObjectName::Snapshot(sid(3, 2)),
            ObjectName::Forget(sid(3, 2)),
            ObjectName::Note(sid(3, 2), 0),
            ObjectName::CollectorRun(5, id(4)),
            ObjectName::State(5, id(2)),
            ObjectName::State(4, id(1)),
            ObjectName::Condemned(4),
        ];
        let must_not = [
            ObjectName::Pack(id(8)),
            ObjectName::SessionRun(sid(4, 1), id(2)),
            ObjectName::Session(sid(4, 1)),
            ObjectName::Snapshot(sid(2, 1)),
            ObjectName::Forget(sid(2, 1)),
            ObjectName::Note(sid(2, 1), 0),
            ObjectName::Snapshot(sid(9, 1)),
            ObjectName::CollectorRun(3, id(3)),
            ObjectName::CollectorRun(6, id(4)),
            ObjectName::State(5, id(1)),
            ObjectName::State(6, id(1)),
            ObjectName::Condemned(5),
            ObjectName::Condemned(6),
            ObjectName::Seal(1),
            ObjectName::Marker,
            ObjectName::Key(0),
            ObjectName::Config(0),
            ObjectName::Ledger(0),
            ObjectName::Reserve(0),
            ObjectName::Refs(BlobId([1; 32])),
        ];
        assert!(may.iter().all(|name| may_go(&log, name)));
        assert!(must_not.iter().all(|name| !may_go(&log, name)));
    }
}
