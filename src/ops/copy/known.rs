//! What the target of a copy has, and what was let go there.

use super::{Origin, origin_of};
use crate::error::Result;
use crate::format::id::SessionId;
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
    /// Whether records that nobody let go cannot be read, and nothing is here in their place: one may be a copy that was made before its
    /// original was let go.
    may_have_lost_copies: bool,
    /// Their names there.
    pub(super) sids: BTreeSet<SessionId>,
}

impl Known {
    /// A snapshot that cannot be read may be any of them: it is copied once more.
    pub(super) async fn of(target: &Repository, view: &View) -> Result<Self> {
        let there = view.snapshots();
        let there: HashMap<_, _> = there
            .map(|record| (origin_of(target, record), record.clone()))
            .collect();
        let mut unforgotten = unread(view).filter(|sid| !view.has_forget(sid));
        let let_go = view.let_go().map(|record| origin_of(target, record));
        let gone = let_go_unread(target, view).await?.into_iter();
        Ok(Self {
            may_have_lost_copies: unforgotten.any(|sid| !there.contains_key(&(target.id(), sid))),
            there,
            let_go: let_go.collect(),
            gone: gone.map(|sid| (target.id(), sid)).collect(),
            sids: view.snapshots().map(|record| record.sid).collect(),
        })
    }

    /// Whether somebody let a snapshot go there. Of one whose record is lost and that is to be brought back, only its own forget says so: a
    /// copy may have been one too many while it could be read.
    pub(super) fn is_let_go(&self, origin: &Origin, is_to_bring_back: bool) -> bool {
        let gone = self.gone.contains(origin);
        if is_to_bring_back {
            return gone;
        }
        gone && !self.may_have_lost_copies || self.let_go.contains(origin)
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
    let mut let_go: BTreeSet<SessionId> = unread(view).filter(|sid| view.has_forget(sid)).collect();
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

fn unread(view: &View) -> impl Iterator<Item = SessionId> {
    view.unread_snapshots().map(|(sid, _)| sid)
}
