//! What a collector lists, in the order that the protocol wants: what a session had put before it finished is then seen.

use crate::context::Time;
use crate::context::mutant::mutated;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{BlobId, ObjectId, SessionId};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::snapshot::Decision;
use crate::repository::Repository;
use crate::repository::forgets::Committed;
use crate::repository::log::Log;
use crate::repository::view::{is_damage, of_the_disk};
use crate::store::{Listed, ObjectInfo};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// One list of everything that a round may delete or rest on.
#[derive(Default)]
pub(super) struct Listing {
    /// Sessions, and when the store says they began.
    pub(super) sessions: BTreeMap<SessionId, Time>,
    /// Sessions with a decision, and when the store says it was put.
    pub(super) decided: BTreeMap<SessionId, Time>,
    pub(super) forgets: HashSet<SessionId>,
    /// When the store says that their forgets were put.
    pub(super) forgotten_at: BTreeMap<SessionId, Time>,
    pub(super) notes: Vec<ObjectName>,
    /// Packs with their sizes.
    pub(super) packs: BTreeMap<ObjectId, u64>,
    /// Index runs, valid or not.
    pub(super) runs: Vec<ObjectInfo>,
    /// What collectors put for their rounds, but for seals.
    pub(super) rounds: Vec<ObjectInfo>,
    /// Nodes that have a record of references.
    pub(super) refs: BTreeSet<BlobId>,
}

impl Listing {
    /// G1: sessions, then snapshots, forgets, notes, then packs, then index.
    pub(super) async fn read(repository: &Repository) -> Result<Self> {
        let mut listing = Self {
            sessions: times(repository, Prefix::Sessions).await?,
            decided: times(repository, Prefix::Snapshots).await?,
            ..Self::default()
        };
        for info in repository.list_objects(Prefix::Forgets).await? {
            if let ObjectName::Forget(sid) = info.name {
                listing.forgets.insert(sid);
                listing.forgotten_at.insert(sid, info.last_modified);
            }
        }
        listing.notes = repository.list(Prefix::Notes).await?;
        for info in repository.list_objects(Prefix::Packs).await? {
            if let ObjectName::Pack(id) = info.name {
                listing.packs.insert(id, info.size);
            }
        }
        listing.runs = runs(repository).await?;
        // Nothing rests on when these are listed.
        let round = |listed| async move {
            Ok(match listed {
                // There is one of every round for ever, and it never goes.
                Listed::Object(info)
                    if !matches!(info.name, ObjectName::Seal(_)) || mutated!(SealsDeleted) =>
                {
                    Some(info)
                }
                _ => None,
            })
        };
        let rounds = repository.store().list(Prefix::Gc).try_filter_map(round);
        listing.rounds = rounds.try_collect().await?;
        for name in repository.list(Prefix::Refs).await? {
            if let ObjectName::Refs(node) = name {
                listing.refs.insert(node);
            }
        }
        Ok(listing)
    }

    /// The store's time of the newest object of a session.
    pub(super) fn last_sign(&self, sid: &SessionId) -> Time {
        let began = self.sessions.get(sid).copied().unwrap_or_default();
        let of_session =
            |info: &&ObjectInfo| matches!(info.name, ObjectName::SessionRun(of, _) if of == *sid);
        let runs = self.runs.iter().filter(of_session).map(|info| info.last_modified);
        runs.fold(began, Time::max)
    }

    /// Everything that was listed and that some round may delete one day, but for records of references; packs and runs with sizes.
    pub(super) fn names(&self) -> BTreeMap<ObjectName, u64> {
        let packs = self.packs.iter().map(|(id, size)| (ObjectName::Pack(*id), *size));
        let sized = |info: &ObjectInfo| (info.name, info.size);
        let mut names: BTreeMap<_, _> = packs.collect();
        names.extend(self.runs.iter().map(sized));
        names.extend(self.rounds.iter().map(sized));
        names.extend(self.sessions.keys().map(|sid| (ObjectName::Session(*sid), 0)));
        names.extend(self.decided.keys().map(|sid| (ObjectName::Snapshot(*sid), 0)));
        names.extend(self.forgets.iter().map(|sid| (ObjectName::Forget(*sid), 0)));
        names.extend(self.notes.iter().map(|name| (*name, 0)));
        names
    }
}

/// Index runs: those of sessions, then those of collectors.
pub(super) async fn runs(repository: &Repository) -> Result<Vec<ObjectInfo>> {
    let mut runs = repository.list_objects(Prefix::SessionRuns).await?;
    runs.extend(repository.list_objects(Prefix::CollectorRuns).await?);
    Ok(runs)
}

/// Sessions, or their decisions, with the store's times.
pub(super) async fn times(repository: &Repository, prefix: Prefix) -> Result<BTreeMap<SessionId, Time>> {
    let objects = repository.list_objects(prefix).await?;
    let times = objects.into_iter().filter_map(|info| match info.name {
        ObjectName::Session(sid) | ObjectName::Snapshot(sid) => Some((sid, info.last_modified)),
        _ => None,
    });
    Ok(times.collect())
}

/// Decisions that cannot be read, and why.
pub(super) type Unread = Vec<(SessionId, Error)>;

/// The commits among decisions, void ones left out; and the decisions that cannot be read: what these need is not known.
///
/// # Errors
/// `Conflict` if one is gone that was listed, or what the store says.
pub(super) async fn commits(
    repository: &Repository,
    log: &Log,
    decided: impl Iterator<Item = SessionId>,
) -> Result<(Committed, Unread)> {
    let sids: Vec<_> = decided.filter(|sid| !log.is_void(sid)).collect();
    let loads = sids
        .into_iter()
        .map(|sid| async move { (sid, given(repository, ObjectName::Snapshot(sid)).await) });
    let mut loads = stream::iter(loads).buffered(repository.concurrency());
    let (mut commits, mut unread) = (Committed::new(), Unread::new());
    while let Some((sid, decision)) = loads.next().await {
        match decision {
            Err(error) if may_be_left_out(&error) => {
                unread.push((sid, of_the_disk(repository.store(), error).await?));
            }
            Err(error) => return Err(unreadable(ObjectName::Snapshot(sid), error)),
            Ok(Decision::Commit(mut record)) => {
                // Up to a megabyte each, and of no interest here.
                record.incidents = Vec::new();
                commits.insert(record.sid, Arc::from(record));
            }
            Ok(Decision::Fence { .. } | Decision::Abort { .. }) => {}
        }
    }
    drop(loads);
    unread.extend(remembered_only(repository, &mut commits).await?);
    Ok((commits, unread))
}

/// Takes out those that others cannot read, of snapshots that came back as copies: this machine may remember a record as it was, and would
/// keep what is left of it for ever.
async fn remembered_only(repository: &Repository, commits: &mut Committed) -> Result<Unread> {
    let originals = commits.values().filter_map(|record| record.original);
    let ours = originals.filter(|(of, sid)| *of == repository.id() && commits.contains_key(sid));
    let back: BTreeSet<SessionId> = ours.map(|(_, sid)| sid).collect();
    let mut unread = Unread::new();
    for sid in back {
        let name = ObjectName::Snapshot(sid);
        match repository.load_stored::<Decision>(name).await {
            Err(error) if is_damage(&error) => {
                repository.cache().remove(&name);
                commits.remove(&sid);
                unread.push((sid, error));
            }
            // What the disk does not give it may give again.
            Err(error) if error.kind() == ErrorKind::Unreadable => {}
            Err(error) => return Err(unreadable(name, error)),
            Ok(_) => {}
        }
    }
    Ok(unread)
}

/// A decision that a disk does not give may be given at the second try, and too much is said of one that is not.
async fn given(repository: &Repository, name: ObjectName) -> Result<Decision> {
    match repository.load(name).await {
        Err(error) if error.kind() == ErrorKind::Unreadable => repository.load(name).await,
        loaded => loaded,
    }
}

/// Whether a collector may go on without an object for this, once it has proven more. What a newer program has written is no damage.
pub(super) fn may_be_left_out(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unreadable)
}

/// What a collector says where one copy is damaged: others of the same blobs may be, or may be all that is left.
pub(super) fn doubtful() -> Error {
    Error::new(
        ErrorKind::Damaged,
        "a pack that snapshots rest on is damaged, so that nobody can tell which copies are whole; nothing was deleted",
    )
    .hint("run `holdall check --read-data`: it sets damaged packs aside, and the next collection leaves them and other copies alone")
}

/// As [`doubtful`], where the store does not give one, though it gives others.
pub(super) fn not_given() -> Error {
    Error::new(
        ErrorKind::Unreadable,
        "the store does not give a pack that snapshots rest on, though it gives others, so that nobody can tell which copies are whole; nothing was deleted",
    )
    .hint(
        "run the command again; if it says the same, run `holdall check --read-data`: it sets aside what is not given, and the next \
         collection leaves it and other copies alone",
    )
}

/// What a collector says of an object that it must understand and cannot.
pub(super) fn unreadable(name: ObjectName, error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::new(
            ErrorKind::Conflict,
            "an object is gone that was listed: another collector has ended a round",
        )
        .with("object", name)
        .hint("run the command again; if it says the same, `holdall check` tells what is missing"),
        ErrorKind::Unreadable => Error::new(
            ErrorKind::Unreadable,
            "the disk does not give an object, so that nobody can tell what is still needed; nothing was deleted",
        )
        .with("object", name)
        .because(error)
        .hint("run the command again; if it says the same, the disk is failing: `holdall check` tells what is hit"),
        _ if is_damage(&error) => Error::new(
            ErrorKind::Damaged,
            "an object cannot be read, so that nobody can tell what is still needed; nothing was deleted",
        )
        .with("object", name)
        .because(error)
        .hint("run `holdall check` to see what is hit"),
        _ => error,
    }
}
