//! A view: which snapshots there are and which blobs can be read, at one stable list.

use super::Repository;
use super::forgets::{Committed, Forgets};
use super::index::{Index, IndexBuilder};
use super::ledger::Ledger;
use super::log::{Listing, Log};
use super::presence::Presence;
use crate::context::Context;
use crate::context::mutant::mutated;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::ObjectName;
use crate::format::snapshot::{Decision, SnapshotRecord};
use crate::store::Store;
use futures::stream::{self, StreamExt};
use std::collections::HashSet;
use std::sync::Arc;

/// Who looks: a writer may rest reuse on less than a reader may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Entries of all valid runs, and snapshots without an effective forget.
    Read,
    /// Snapshots without any forget, and entries of collector runs and of committed sessions, condemned packs left out; packs that only uncommitted sessions list may
    /// be claimed.
    Write,
}

/// What was found at one stable list.
pub struct View {
    pub(crate) log: Log,
    /// Snapshots that are committed, not void and not forgotten; for a writer any forgets key counts.
    pub(crate) snapshots: Committed,
    forgets: Forgets,
    /// Commits that are not void and were let go.
    let_go: Vec<Arc<SnapshotRecord>>,
    pub(crate) index: Arc<Index>,
    /// What a session that goes by this view has found of the packs that it names.
    pub(crate) presence: Arc<Presence>,
    /// Objects that do not decode; what they would have said is missing from the view.
    pub damaged: Vec<(ObjectName, Error)>,
}

/// Collectors that end a round while a view is read, one after the other, until it is taken as it is.
const TRIES: u32 = 8;

impl View {
    /// Reads a view from the store, index runs and snapshots through the cache. What is gone that was listed is damage only if no round
    /// has ended meanwhile: else it was absorbed, and the view is read anew.
    pub(crate) async fn load(repository: &Repository, context: &Context, purpose: Purpose) -> Result<Self> {
        let mut view = Self::load_once(repository, context, purpose).await?;
        for _ in 0..TRIES {
            let is_gone = |(_, error): &(ObjectName, Error)| error.kind() == ErrorKind::NotFound;
            if !view.damaged.iter().any(is_gone) || Log::newest_seal(repository).await? == view.log.newest {
                break;
            }
            view = Self::load_once(repository, context, purpose).await?;
        }
        Ok(view)
    }

    /// Snapshots whose records cannot be read, and why not; those too that somebody let go.
    pub fn unread_snapshots(&self) -> impl Iterator<Item = (SessionId, &Error)> {
        self.damaged.iter().filter_map(|(name, error)| match name {
            ObjectName::Snapshot(sid) => Some((*sid, error)),
            _ => None,
        })
    }

    async fn load_once(repository: &Repository, context: &Context, purpose: Purpose) -> Result<Self> {
        let (log, listing) = Log::stable(repository, purpose).await?;
        let (decisions, mut damaged) = load_decisions(repository, &listing).await?;
        let mut snapshots: Committed = decisions
            .into_iter()
            .filter_map(|(sid, decision)| match decision {
                Decision::Commit(snapshot) => Some((sid, Arc::from(snapshot))),
                _ => None,
            })
            .collect();
        let committed: HashSet<SessionId> = snapshots.keys().copied().collect();
        let forgets = Forgets::read(repository, context, (&listing, purpose), &snapshots).await?;
        let mut let_go = Vec::new();
        let takes_all = mutated!(ParentUnchecked) && purpose == Purpose::Write;
        snapshots.retain(|sid, record| {
            if !forgets.is_effective(sid) || takes_all {
                return true;
            }
            // Up to a megabyte each, and of no interest any more.
            let mut record = SnapshotRecord::clone(record);
            record.incidents = Vec::new();
            let_go.push(Arc::new(record));
            false
        });
        let mut excluded = retired_packs(&log, purpose);
        if purpose == Purpose::Write {
            let ledger = Ledger::read(repository).await?;
            if !mutated!(QuarantineReused) {
                excluded.extend(ledger.quarantined);
            }
            damaged.extend(ledger.damaged);
        }
        let (index, damaged_runs) =
            load_index(repository, context, &listing, &committed, purpose, excluded).await?;
        damaged.extend(damaged_runs);
        repository.cache().note_seen(&listing.runs);
        repository.cache().note_seen(
            &listing
                .decided
                .iter()
                .map(|sid| ObjectName::Snapshot(*sid))
                .collect::<Vec<_>>(),
        );
        Ok(Self {
            log,
            snapshots,
            forgets,
            let_go,
            index: Arc::new(index),
            presence: Arc::default(),
            damaged,
        })
    }

    /// Whether somebody let a snapshot go, with or without an effect: a writer rests nothing on it, and it cannot be protected any more.
    pub fn has_forget(&self, sid: &SessionId) -> bool {
        self.forgets.has(sid)
    }

    /// Whether a snapshot is committed, not void, and not let go with an effect.
    pub fn holds(&self, sid: &SessionId) -> bool {
        self.snapshots.contains_key(sid)
    }

    /// Whether a snapshot that could be read before was let go, or swept after that.
    pub(crate) fn is_gone(&self, sid: &SessionId) -> bool {
        !self.snapshots.contains_key(sid) && (self.forgets.has(sid) || self.log.is_void(sid))
    }

    /// Why a snapshot is kept though somebody let it go, if it is.
    pub fn kept_in_spite_of_forget(&self, sid: &SessionId) -> Option<&str> {
        self.forgets.without_effect().get(sid).map(String::as_str)
    }

    /// Whether a session was committed, whatever became of the snapshot since.
    pub(crate) fn has_commit(&self, sid: &SessionId) -> bool {
        self.snapshots.contains_key(sid) || self.let_go.iter().any(|record| record.sid == *sid)
    }

    /// The snapshot with this id, if it is there and was not let go.
    pub fn snapshot(&self, sid: &SessionId) -> Option<&Arc<SnapshotRecord>> {
        self.snapshots.get(sid)
    }

    /// Snapshots that were let go and not swept yet, without their incidents.
    pub fn let_go(&self) -> impl Iterator<Item = &Arc<SnapshotRecord>> {
        self.let_go.iter()
    }

    /// Snapshots that are committed, not void and not forgotten, by session id.
    pub fn snapshots(&self) -> impl Iterator<Item = &Arc<SnapshotRecord>> {
        self.snapshots.values()
    }
}

async fn load_decisions(
    repository: &Repository,
    listing: &Listing,
) -> Result<(Vec<(SessionId, Decision)>, Vec<(ObjectName, Error)>)> {
    let loads = listing.decided.clone().into_iter().map(|sid| async move {
        let name = ObjectName::Snapshot(sid);
        (sid, repository.load::<Decision>(name).await)
    });
    let mut loaded = stream::iter(loads).buffered(repository.concurrency());
    let (mut decisions, mut damaged) = (Vec::new(), Vec::new());
    while let Some((sid, decision)) = loaded.next().await {
        match decision {
            Ok(decision) => decisions.push((sid, decision)),
            // Deleted between list and get: forgotten, and swept.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let error = of_the_disk(repository.store(), error).await?;
                damaged.push((ObjectName::Snapshot(sid), error));
            }
        }
    }
    Ok((decisions, damaged))
}

pub(crate) fn is_damage(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Damaged | ErrorKind::WrongKey | ErrorKind::Unsupported
    )
}

/// Whether an object was not given, which says nothing of what is stored.
pub(crate) fn is_not_given(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Unreadable)
}

/// Gives an error back if it is of one object only: it is damaged, or the store does not give it though it gives others. What is not
/// given may be there again later, or for somebody else: no snapshot may be let go because of it.
pub(crate) async fn of_one_object(store: &Store, error: Error) -> Result<Error> {
    let is_of_it = is_damage(&error) || is_not_given(&error) && store.get(&ObjectName::Marker).await.is_ok();
    if is_of_it { Ok(error) } else { Err(error) }
}

/// As [`of_one_object`], of what there are no copies of: that it is lost a disk may say, but no line.
pub(crate) async fn of_the_disk(store: &Store, error: Error) -> Result<Error> {
    match error.kind() {
        ErrorKind::Unreachable => Err(error),
        _ => of_one_object(store, error).await,
    }
}

/// Packs that nothing new may rest on, as the log says.
fn retired_packs(log: &Log, purpose: Purpose) -> HashSet<ObjectId> {
    let mut retired = log.dead.clone();
    if mutated!(DeadCounts) || (mutated!(CondemnedReused) && purpose == Purpose::Write) {
        retired.clear();
    }
    #[cfg(feature = "testkit")]
    if mutated!(CondemnedBase) || mutated!(ParentUnchecked) {
        crate::context::mutant::note(log.condemned.iter().map(|pack| pack.0));
    }
    let is_seen = mutated!(CondemnedReused) || mutated!(CondemnedBase) || mutated!(ParentUnchecked);
    if purpose == Purpose::Write && !is_seen {
        retired.extend(log.condemned.iter().copied());
    }
    retired
}

type DamagedRuns = Vec<(ObjectName, Error)>;

async fn load_index(
    repository: &Repository,
    context: &Context,
    listing: &Listing,
    committed: &HashSet<SessionId>,
    purpose: Purpose,
    excluded: HashSet<ObjectId>,
) -> Result<(Index, DamagedRuns)> {
    let is_claimable = |name: &ObjectName| match name {
        ObjectName::SessionRun(sid, _) => {
            purpose == Purpose::Write && !committed.contains(sid) && !mutated!(UncommittedReused)
        }
        _ => false,
    };
    // What a committed session lists needs no claim, whoever else lists it: committed runs come first.
    let mut runs = listing.runs.clone();
    runs.sort_by_key(is_claimable);
    let mut builder = IndexBuilder::new(excluded);
    let mut damaged = Vec::new();
    let loads = runs
        .into_iter()
        .map(|name| async move { (name, repository.load_run(name).await) });
    let mut loaded = stream::iter(loads).buffered(repository.concurrency());
    while let Some((name, run)) = loaded.next().await {
        match run {
            Ok(run) => builder.add(&run, is_claimable(&name)),
            Err(error) if error.kind() == ErrorKind::NotFound => damaged.push((name, error)),
            Err(error) => damaged.push((name, of_the_disk(repository.store(), error).await?)),
        }
    }
    let index = context.cpu.run(move || builder.finish()).await?;
    Ok((index, damaged))
}
