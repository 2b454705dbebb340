//! What the target of a copy has, and what was let go there.

use super::{Origin, origin_of};
use crate::error::Result;
use crate::format::id::SessionId;
use crate::format::layout::ObjectName;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::{Minimum, Notes, Repository, View};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What the target has.
#[derive(Default)]
pub(super) struct Known {
    /// Its snapshots, by what they were first.
    pub(super) there: HashMap<Origin, Arc<SnapshotRecord>>,
    /// What a copy of was let go there and can still be seen.
    let_go: BTreeSet<Origin>,
    /// Its own that were let go and whose records cannot be read.
    gone: BTreeSet<Origin>,
    /// Their names there.
    pub(super) sids: BTreeSet<SessionId>,
}

impl Known {
    /// A snapshot that cannot be read may be any of them: it is copied once more.
    pub(super) async fn of(target: &Repository, view: &View) -> Result<Self> {
        let there = view.snapshots();
        let there = there.map(|record| (origin_of(target, record), record.clone()));
        let let_go = view.let_go().map(|record| origin_of(target, record));
        let gone = let_go_unread(target, view).await?.into_iter();
        Ok(Self {
            there: there.collect(),
            let_go: let_go.collect(),
            gone: gone.map(|sid| (target.id(), sid)).collect(),
            sids: view.snapshots().map(|record| record.sid).collect(),
        })
    }

    /// Whether somebody let a snapshot go there. That a copy of it was let go may say nothing (`also_copies`): it may have been one too
    /// many while the snapshot itself could be read.
    pub(super) fn is_let_go(&self, origin: &Origin, also_copies: bool) -> bool {
        self.gone.contains(origin) || !also_copies && self.let_go.contains(origin)
    }
}

/// Snapshots whose records cannot be read and that somebody had let go, with nothing against it as far as can be told.
///
/// # Errors
/// What the store says.
pub(in crate::ops) async fn let_go_unread(
    repository: &Repository,
    view: &View,
) -> Result<BTreeSet<SessionId>> {
    let unread = view.damaged.iter().filter_map(|(name, _)| match name {
        ObjectName::Snapshot(sid) if view.has_forget(sid) => Some(*sid),
        _ => None,
    });
    let mut let_go: BTreeSet<SessionId> = unread.collect();
    // Whether a retention minimum stands against a forget, the record alone could tell: collectors take it as standing.
    if Minimum::of(repository.config()).is_any() {
        let_go.clear();
    }
    if !let_go.is_empty() {
        // A forget of a protected snapshot has no effect.
        let notes = repository.notes().await?;
        let_go.retain(|sid| !notes.get(sid).is_some_and(Notes::may_protect));
    }
    Ok(let_go)
}
