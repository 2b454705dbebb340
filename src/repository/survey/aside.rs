//! Packs that the ledger has set aside and that are still missing or damaged: whether anything may rest on them.

use super::Survey;
use crate::error::Result;
use crate::format::id::ObjectId;
use crate::format::layout::ObjectName;
use crate::repository::index::Index;
use crate::repository::view::is_damage;
use std::collections::{HashMap, HashSet};

/// What may rest on a pack that was set aside before a survey began to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    /// Nothing: every blob of it can be read without it, and without what a collection has condemned.
    Replaced,
    /// Nothing but snapshots: no session is open and no collection is under way that could have begun to rest on it before.
    Settled,
    /// A session or a collection that is under way.
    Open,
}

/// Of `packs`, those with a blob that no copies outside of `avoided` give.
pub(in crate::repository) fn at_risk(
    index: &Index,
    packs: &HashSet<ObjectId>,
    avoided: &HashSet<ObjectId>,
) -> HashSet<ObjectId> {
    let mut found = HashSet::new();
    for copy in index.all_copies() {
        let Some(pack) = index.pack_of(copy).filter(|pack| packs.contains(pack)) else {
            continue;
        };
        let allowed = |copy: &_| index.pack_of(copy).is_some_and(|pack| !avoided.contains(&pack));
        if !found.contains(&pack) && index.chain(&copy.id, &allowed).is_none() {
            found.insert(pack);
        }
    }
    found
}

impl Survey<'_> {
    /// How those packs stand that are bad and were set aside before anything was listed (`format-spec/90-collection.md` section 1): a session
    /// that began later has left them out. And which bad packs hold nothing that cannot be read without them.
    pub(super) async fn stand(&self) -> Result<(HashMap<ObjectId, Aside>, HashSet<ObjectId>)> {
        let bad: HashSet<ObjectId> = self.report.bad_packs.iter().copied().collect();
        if bad.is_empty() {
            return Ok((HashMap::new(), HashSet::new()));
        }
        let view = match self.repository.view(self.context).await {
            Ok(view) => view,
            Err(error) if is_damage(&error) => return Ok((HashMap::new(), HashSet::new())),
            Err(error) => return Err(error),
        };
        let known = |id: &&ObjectId| self.ledger.quarantined.contains(id);
        let packs: HashSet<ObjectId> = bad.iter().filter(known).copied().collect();
        let mut avoided = bad.clone();
        avoided.extend(&self.ledger.quarantined);
        avoided.extend(&view.log.condemned);
        let at_risk = at_risk(&view.index, &bad, &avoided);
        let listed: HashSet<ObjectId> = view.index.packs().iter().map(|pack| pack.id).collect();
        let is_elsewhere = |id: &ObjectId| listed.contains(id) && !at_risk.contains(id);
        let is_settled = !self.has_open_sessions() && !view.log.begun && view.damaged.is_empty();
        let stand = |id: &ObjectId| match () {
            () if is_elsewhere(id) => Aside::Replaced,
            () if is_settled => Aside::Settled,
            () => Aside::Open,
        };
        let elsewhere = bad.iter().copied().filter(is_elsewhere).collect();
        Ok((packs.iter().map(|id| (*id, stand(id))).collect(), elsewhere))
    }

    /// Whether a session that counts had no decision when everything was listed.
    fn has_open_sessions(&self) -> bool {
        self.sizes.keys().any(|name| match name {
            ObjectName::Session(sid) => {
                !self.log.is_void(sid) && !self.sizes.contains_key(&ObjectName::Snapshot(*sid))
            }
            _ => false,
        })
    }
}
