//! What a round may do without: index runs and snapshots whose objects cannot be read, once a repair has put something in their place.

use super::chains::keep;
use super::entries::Entries;
use super::listing::{Listing, Unread, unreadable};
use super::round::Work;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::ObjectName;
use crate::repository::forgets::Committed;
use crate::repository::minimum::Minimum;
use crate::repository::view::is_damage;
use crate::repository::{Notes, Repository};
use std::collections::{BTreeSet, HashSet};

/// Of the snapshots whose records cannot be read, those that nobody misses. Of some another commit here is a copy: all that they need is
/// needed by that one. Others were let go, and nothing stands against it.
///
/// # Errors
/// `Damaged` for any other: what it needs is not known.
pub(super) async fn superseded(
    repository: &Repository,
    listing: &Listing,
    committed: &Committed,
    unread: Unread,
) -> Result<BTreeSet<SessionId>> {
    let mut superseded = BTreeSet::new();
    if unread.is_empty() {
        return Ok(superseded);
    }
    let originals = committed.values().filter_map(|record| record.original);
    let ours = originals.filter(|(of, _)| *of == repository.id());
    let back: BTreeSet<SessionId> = ours.map(|(_, sid)| sid).collect();
    // What a minimum keeps is told by the records of snapshots.
    let has_minimum = Minimum::of(repository.config()).is_any();
    for (sid, error) in unread {
        let notes = listing.notes.iter();
        let notes = notes.filter(|name| matches!(name, ObjectName::Note(of, _) if *of == sid));
        let notes = repository.load_notes(notes.copied().collect()).await?;
        let is_protected = notes.get(&sid).is_some_and(Notes::may_protect);
        let is_let_go = listing.forgets.contains(&sid) && !is_protected && !has_minimum;
        if !back.contains(&sid) && !is_let_go {
            let error = unreadable(ObjectName::Snapshot(sid), error);
            return Err(error.hint(
                "`holdall repair --from REPLICA` brings the snapshot back, and then a collection goes on without this object",
            ));
        }
        superseded.insert(sid);
    }
    Ok(superseded)
}

fn needed(name: ObjectName) -> Error {
    let what = "an index run cannot be read, and snapshots need what it lists; nothing was deleted";
    Error::new(ErrorKind::Damaged, what)
        .with("object", name)
        .hint("run `holdall repair`: it makes the index anew from the packs")
}

impl Entries {
    /// What is said of damage that is found where runs are left out.
    pub(super) fn explain(&self, error: Error) -> Error {
        match self.left_out.first() {
            Some(name) if is_damage(&error) => needed(*name).because(error),
            _ => error,
        }
    }
}

impl Work {
    /// Where runs are left out, all that snapshots need must be usable without them, in packs that are not damaged: what only such a run
    /// lists is condemned and cannot be kept. Asked again when the ledger and the commits were read again.
    ///
    /// # Errors
    /// `Damaged` if it is not so.
    pub(super) fn check_whole_without(&self) -> Result<()> {
        let Some(name) = self.entries.left_out.first() else {
            return Ok(());
        };
        let index = &self.entries.index;
        let (_, good) = self.present(index);
        match keep(index, &self.needed, &[good]).lost {
            None => Ok(()),
            Some(_) => Err(needed(*name)),
        }
    }

    /// Where runs are left out: all that snapshots need must be usable without them, in packs that are not damaged; and every pack that no
    /// run lists any more must be condemned by this round, so that nobody who still has such a run at hand rests on one of them.
    ///
    /// # Errors
    /// `Damaged` if it is not so.
    pub(super) fn check_left_out(&self) -> Result<()> {
        let Some(name) = self.entries.left_out.first() else {
            return Ok(());
        };
        self.check_whole_without()?;
        let index = &self.entries.index;
        let known: HashSet<ObjectId> = index.packs().iter().map(|pack| pack.id).collect();
        let dead: HashSet<ObjectId> = self.chosen.dead.iter().copied().collect();
        let is_open = |id: &ObjectId| {
            !known.contains(id)
                && !self.log.dead.contains(id)
                && !self.quarantined.contains(id)
                && !dead.contains(id)
        };
        if self.listing.packs.keys().any(is_open) {
            let what = "an index run cannot be read, and packs that no other lists may be of somebody who is at work; nothing was deleted";
            return Err(Error::new(ErrorKind::Damaged, what)
                .with("object", name)
                .hint("run the command again when no snapshot is being taken"));
        }
        Ok(())
    }
}
