//! Forgets keys, and which of them have an effect (`format-spec/85-sessions.md` section 5).

use super::Repository;
use super::log::Listing;
use super::minimum::Minimum;
use super::notes::Notes;
use super::view::Purpose;
use crate::context::mutant::mutated;
use crate::context::{Context, Time};
use crate::error::Result;
use crate::format::id::SessionId;
use crate::format::snapshot::SnapshotRecord;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The snapshots of a view, those that were let go among them.
pub(crate) type Committed = BTreeMap<SessionId, Arc<SnapshotRecord>>;

/// The forgets keys of a stable list.
#[derive(Debug, Default)]
pub(crate) struct Forgets {
    keys: HashSet<SessionId>,
    /// Snapshots with a key that has no effect, and why; for writers none, since they go by any key.
    without_effect: BTreeMap<SessionId, String>,
}

impl Forgets {
    /// The keys that were listed; `committed` are all snapshots that are not void. Only notes of snapshots with a key are read.
    pub(crate) async fn read(
        repository: &Repository,
        context: &Context,
        (listing, purpose): (&Listing, Purpose),
        committed: &Committed,
    ) -> Result<Self> {
        let keys = listing.forgets.clone();
        let judged = purpose == Purpose::Read && keys.iter().any(|sid| committed.contains_key(sid));
        let without_effect = if judged {
            let notes = repository.load_notes(listing.notes.clone()).await?;
            let minimum = Minimum::of(repository.config());
            without_effect(minimum, committed, &keys, &notes, context.clock.now())
        } else {
            BTreeMap::new()
        };
        Ok(Self { keys, without_effect })
    }

    /// Whether a snapshot has a key, with or without an effect: what writers go by.
    pub(crate) fn has(&self, sid: &SessionId) -> bool {
        self.keys.contains(sid)
    }

    /// Whether a snapshot was let go: what readers and collectors go by. For a writer's view that is any key.
    pub(crate) fn is_effective(&self, sid: &SessionId) -> bool {
        self.has(sid) && !self.without_effect.contains_key(sid)
    }

    /// Snapshots with a key that has no effect, and why.
    pub(crate) fn without_effect(&self) -> &BTreeMap<SessionId, String> {
        &self.without_effect
    }
}

/// Of the snapshots that have a key, those that stay nevertheless, and why. `notes` need hold only what is said of these.
pub(crate) fn without_effect(
    minimum: Minimum,
    committed: &Committed,
    keys: &HashSet<SessionId>,
    notes: &HashMap<SessionId, Notes>,
    now: Time,
) -> BTreeMap<SessionId, String> {
    let first_seen = |sid| notes.get(sid).and_then(|notes| notes.said.first_seen);
    let known = committed
        .iter()
        .map(|(sid, record)| (record.as_ref(), first_seen(sid)));
    let mut retained = minimum.kept(known, now);
    let mut out = BTreeMap::new();
    for sid in keys.iter().filter(|sid| committed.contains_key(sid)) {
        let notes = notes.get(sid);
        let why = if notes.is_some_and(|notes| notes.protection_is_unknown) {
            Some("a note about it cannot be read, and it may be protected".to_owned())
        } else if notes.and_then(|notes| notes.said.protected) == Some(true) && !mutated!(ProtectionIgnored) {
            Some("it is protected".to_owned())
        } else {
            retained.remove(sid).filter(|_| !mutated!(MinimumIgnored))
        };
        out.extend(why.map(|why| (*sid, why)));
    }
    out
}
