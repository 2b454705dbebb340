//! What a round may do without: index runs and snapshots whose objects cannot be read, once a repair has put something in their place.

use super::begin::{Forgets, absent_packs};
use super::chains::keep;
use super::entries::Entries;
use super::listing::{Listing, Unread, unreadable};
use super::mark::Mark;
use super::refs::References;
use super::round::{CollectOptions, Work};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::ObjectName;
use crate::repository::bits::Bits;
use crate::repository::forgets::Committed;
use crate::repository::log::Log;
use crate::repository::minimum::Minimum;
use crate::repository::view::{is_damage, is_not_given};
use crate::repository::{Notes, Repository};
use std::collections::{BTreeSet, HashSet};

/// Of the snapshots whose records cannot be read, those that nobody misses. Of some another commit here is a copy that nobody has let go: all
/// that they need is needed by that one. Others were let go, and nothing stands against it. What the disk does not give may be given again,
/// and is a snapshot like any other then: nobody misses it only if it was let go and whoever collects takes it for lost.
///
/// # Errors
/// `Damaged`, or `Unreadable`, for any other: what it needs is not known.
pub(super) async fn superseded(
    repository: &Repository,
    listing: &Listing,
    (committed, forgets, options): (&Committed, &Forgets, &CollectOptions),
    unread: Unread,
) -> Result<BTreeSet<SessionId>> {
    let mut superseded = BTreeSet::new();
    if unread.is_empty() {
        return Ok(superseded);
    }
    // A copy that was let go may have been one too many, before the record was lost.
    let kept = committed
        .values()
        .filter(|record| !forgets.effective.contains(&record.sid));
    let ours = kept.filter_map(|record| record.original.zip(Some(record.sid)));
    let back: Vec<(SessionId, SessionId)> = ours
        .filter(|((of, _), _)| *of == repository.id())
        .map(|((_, sid), copy)| (sid, copy))
        .collect();
    // What a minimum keeps is told by the records of snapshots.
    let may_retain = Minimum::of(repository.config()).is_any();
    for (sid, error) in unread {
        let copies = back.iter().filter(|(of, _)| *of == sid);
        let copies: Vec<SessionId> = copies.map(|(_, copy)| *copy).collect();
        let is_said =
            |name: &&ObjectName| matches!(name, ObjectName::Note(of, _) if *of == sid || copies.contains(of));
        let names = listing.notes.iter().filter(is_said).copied().collect();
        let notes = repository.load_notes(names).await?;
        let may_protect = |sid: &SessionId| notes.get(sid).is_some_and(Notes::may_protect);
        let may_come_back = is_not_given(&error);
        let is_released = options.lost.contains(&sid.name()) || !may_retain && !may_come_back;
        let is_let_go = listing.forgets.contains(&sid) && !may_protect(&sid) && is_released;
        if !is_let_go && (copies.is_empty() || may_come_back) {
            let hint = what_next(&sid, (may_come_back, may_retain));
            return Err(unreadable(ObjectName::Snapshot(sid), error).hint(hint));
        }
        // Nothing else remembers that it was protected.
        if may_protect(&sid)
            && let Some(copy) = copies.first()
            && !copies.iter().any(may_protect)
        {
            let hint = format!(
                "it may be protected, and its copy is not: `holdall protect {}`, and then a collection goes on without this object",
                copy.name()
            );
            return Err(unreadable(ObjectName::Snapshot(sid), error).hint(hint));
        }
        superseded.insert(sid);
    }
    Ok(superseded)
}

/// Of snapshots that were let go, that no note protects, and that whoever collects takes for lost, those whose records can be read though
/// not all that they need: an earlier round went on without them and the disk gives the record again, or packs are gone. What retains
/// snapshots would keep what is left of them, and end every collection.
///
/// # Errors
/// What the store says.
pub(super) async fn emptied(
    (repository, context, options): (&Repository, &Context, &CollectOptions),
    (listing, log): (&Listing, &Log),
    (committed, forgets): (&Committed, &Forgets),
    (entries, quarantined): (&Entries, &HashSet<ObjectId>),
) -> Result<Vec<SessionId>> {
    let mut emptied = Vec::new();
    // What only a run lists that was left out is not gone.
    if options.lost.is_empty() || !entries.left_out.is_empty() {
        return Ok(emptied);
    }
    let dry = CollectOptions {
        dry_run: true,
        ..options.clone()
    };
    let named = committed.values().filter(|record| {
        let sid = &record.sid;
        options.lost.contains(&sid.name())
            && listing.forgets.contains(sid)
            && !forgets.effective.contains(sid)
    });
    for record in named {
        let is_said = |name: &&ObjectName| matches!(name, ObjectName::Note(of, _) if *of == record.sid);
        let names = listing.notes.iter().filter(is_said).copied().collect();
        let notes = repository.load_notes(names).await?;
        if notes.get(&record.sid).is_some_and(Notes::may_protect) {
            continue;
        }
        let references = References::new((repository, context), listing.refs.clone(), &dry);
        let seen = (entries.index.clone(), log.newest);
        let mut mark = Mark::new((repository, context), seen, quarantined, references)?;
        let is_emptied = match mark.snapshots(vec![record.as_ref()]).await {
            Err(error) if is_damage(&error) => true,
            marked => {
                marked?;
                let absent = absent_packs(repository, entries, listing).await?;
                let packs = entries.index.packs();
                let is_there = |n: u32| {
                    packs
                        .get(n as usize)
                        .is_some_and(|pack| !absent.contains(&pack.id))
                };
                let present = Bits::of(packs.len(), is_there);
                keep(&entries.index, &mark.into_parts().0, &[present])
                    .lost
                    .is_some()
            }
        };
        if is_emptied {
            emptied.push(record.sid);
        }
    }
    Ok(emptied)
}

/// How a collection goes on that a record blocks.
fn what_next(sid: &SessionId, (may_come_back, may_retain): (bool, bool)) -> String {
    let name = sid.name();
    if may_come_back {
        return format!(
            "the disk may give it again: run the command again. If it stays so, `holdall repair --from REPLICA` brings the snapshot back under another id, \
             and a collection goes on without this object once the snapshot is let go and taken for lost by its full id: `holdall forget {name}` and \
             `holdall prune --lost {name}`"
        );
    }
    let how = if may_retain {
        format!(
            "`holdall forget {name}` and `holdall prune --lost {name}`: the repository may retain it, which nobody can tell"
        )
    } else {
        format!("`holdall forget {name}`")
    };
    format!(
        "`holdall repair --from REPLICA` brings the snapshot back, and then a collection goes on without this object; or let it go by its full id, \
         once `holdall copy` has brought it again if this is a copy: {how}"
    )
}

/// `error` names what is needed; it may be `why` the run was left out.
fn needed((name, why): (&ObjectName, &Error), error: Error) -> Error {
    let what = "an index run cannot be read, and snapshots need what it lists; nothing was deleted";
    let needed = Error::new(kind_of(why), what).with("object", name);
    needed
        .because(error)
        .hint("run `holdall repair`: it makes the index anew from the packs")
}

/// What is said of a round that ends because of a run that was left out: it may only not be given.
fn kind_of(why: &Error) -> ErrorKind {
    if is_not_given(why) {
        ErrorKind::Unreadable
    } else {
        ErrorKind::Damaged
    }
}

/// An error whose causes end with one more.
fn at_bottom(error: &Error, last: &Error) -> Error {
    let mut chain = vec![error.to_string()];
    chain.extend(error.causes());
    let causes = chain.into_iter().rev();
    causes.fold(last.clone(), |cause, what| {
        Error::new(error.kind(), what).because(cause)
    })
}

impl Entries {
    /// What is said of damage that is found where runs are left out.
    pub(super) fn explain(&self, error: Error) -> Error {
        match self.left_out.first_key_value() {
            Some(run) if is_damage(&error) => needed(run, at_bottom(&error, run.1)),
            _ => error,
        }
    }
}

impl Work {
    /// Where runs are left out, all that snapshots need must be usable without them, in packs that are not damaged: what only such a run
    /// lists is condemned and cannot be kept. Asked again when the ledger and the commits were read again.
    ///
    /// # Errors
    /// `Damaged` if it is not so, or `Unreadable` if the disk only does not give the run.
    pub(super) fn check_whole_without(&self) -> Result<()> {
        let Some(run) = self.entries.left_out.first_key_value() else {
            return Ok(());
        };
        let index = &self.entries.index;
        let (_, good) = self.present(index);
        match keep(index, &self.needed, &[good]).lost {
            None => Ok(()),
            Some(_) => Err(needed(run, run.1.clone())),
        }
    }

    /// Where runs are left out: all that snapshots need must be usable without them, in packs that are not damaged; and every pack that no
    /// run lists any more must be condemned by this round, so that nobody who still has such a run at hand rests on one of them.
    ///
    /// # Errors
    /// As [`Self::check_whole_without`].
    pub(super) fn check_left_out(&self) -> Result<()> {
        let Some((name, why)) = self.entries.left_out.first_key_value() else {
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
        let open: Vec<&ObjectId> = self.listing.packs.keys().filter(|id| is_open(id)).collect();
        let Some(first) = open.first() else {
            return Ok(());
        };
        let what = "an index run cannot be read, and packs that no other lists may be of somebody who is at work; nothing was deleted";
        let error = Error::new(kind_of(why), what)
            .with("object", name)
            .with("pack", ObjectName::Pack(**first))
            .because(why.clone());
        // Of these nobody will ever say that they are done.
        let is_untold = |id: &&ObjectId| self.plan.untold_packs.contains_key(*id);
        Err(error.hint(if open.iter().any(is_untold) {
            "run `holdall check --read-data`: it sets aside the packs that cannot be read either; then run the command again, when no snapshot is being taken"
        } else {
            "run the command again when no snapshot is being taken"
        }))
    }
}
