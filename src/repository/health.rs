//! What can be said of a repository without reading its data: open sessions, what the ledger says of packs, packs that are not there.

use super::ledger::Ledger;
use super::log::Log;
use super::survey::{Reads, at_risk};
use super::{CLOCKS_APART, Repository, View};
use crate::context::Time;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::{ObjectName, Prefix};
use std::collections::{HashMap, HashSet};

/// How the packs of the store agree with what runs list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackHealth {
    /// Packs that are listed and are not there, or not as long as they must be.
    pub wrong: u64,
    /// Packs that no run lists, and their bytes.
    pub unlisted: (u64, u64),
}

/// What is known of packs without a look at them.
#[derive(Clone, Debug, Default)]
pub struct PacksKnown {
    /// How many a view lists.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When they were verified for the last time.
    pub reads: Reads,
    /// How many of them the ledger has set aside as missing or damaged.
    pub quarantined: u64,
    /// Of these, those that hold something which is stored nowhere else. Whether a snapshot needs it is not known here.
    pub at_risk: u64,
    /// Records of the ledger that cannot be read, and why: more packs may have been set aside, and what was verified is not known in full.
    pub damaged_ledger: Vec<(ObjectName, Error)>,
}

impl Repository {
    /// Sessions without a decision that count: they are under way, or were interrupted.
    ///
    /// # Errors
    /// What the store says.
    pub async fn undecided(&self) -> Result<Vec<SessionId>> {
        let log = Log::read(self).await?;
        // Sessions first: one that is decided meanwhile is not open.
        let sessions = self.list(Prefix::Sessions).await?;
        let decided: HashSet<ObjectName> = self.list(Prefix::Snapshots).await?.into_iter().collect();
        let open = sessions.into_iter().filter_map(|name| match name {
            ObjectName::Session(sid) => {
                (!log.is_void(&sid) && !decided.contains(&ObjectName::Snapshot(sid))).then_some(sid)
            }
            _ => None,
        });
        Ok(open.collect())
    }

    /// What is known of the packs that a view lists, without a look at them.
    ///
    /// # Errors
    /// What the store says.
    pub async fn packs_known(&self, view: &View, now: Time) -> Result<PacksKnown> {
        let ledger = Ledger::read(self).await?;
        let packs = view.index.packs();
        let bytes = packs.iter().map(|pack| u64::from(pack.size)).sum();
        let quarantined = packs.iter().map(|pack| pack.id);
        let quarantined: HashSet<ObjectId> =
            quarantined.filter(|id| ledger.quarantined.contains(id)).collect();
        let at_risk = if quarantined.is_empty() {
            0
        } else {
            let mut avoided = ledger.quarantined.clone();
            avoided.extend(&view.log.condemned);
            at_risk(&view.index, &quarantined, &avoided).len() as u64
        };
        Ok(PacksKnown {
            packs: packs.len() as u64,
            bytes,
            reads: ledger.reads(packs.iter().map(|pack| pack.id), now),
            quarantined: quarantined.len() as u64,
            at_risk,
            damaged_ledger: ledger.damaged,
        })
    }

    /// Compares the packs that a view lists with those in the store. None if a collector has ended a round since the view was read: what it
    /// took is no damage, and only a new view tells.
    ///
    /// # Errors
    /// What the store says.
    pub async fn pack_health(&self, view: &View) -> Result<Option<PackHealth>> {
        let mut listed: HashMap<ObjectId, u64> = HashMap::new();
        for pack in view.index.packs() {
            listed.insert(pack.id, u64::from(pack.size));
        }
        let mut health = PackHealth::default();
        for info in self.list_objects(Prefix::Packs).await? {
            let ObjectName::Pack(id) = info.name else { continue };
            match listed.remove(&id) {
                Some(size) if size == info.size => {}
                Some(_) => health.wrong += 1,
                None if view.log.dead.contains(&id) => {}
                None => {
                    health.unlisted.0 += 1;
                    health.unlisted.1 += info.size;
                }
            }
        }
        for id in listed.into_keys() {
            // Taken by a collector since the view was read, or put by a writer since the listing began.
            match self.store().head(&ObjectName::Pack(id)).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => health.wrong += 1,
                Err(error) => return Err(error),
            }
        }
        let is_outdated = Log::newest_seal(self).await? != view.log.newest;
        Ok((!is_outdated).then_some(health))
    }
}

impl Ledger {
    /// When a pack was found right. By a clock that was ahead, it would be young for years: such a time is not believed.
    pub(super) fn verified_at(&self, id: &ObjectId, now: Time) -> Option<i64> {
        let at = self.verified.get(id).copied();
        at.filter(|at| at.saturating_sub_unsigned(CLOCKS_APART) <= now.seconds)
    }

    /// The last times of some packs.
    pub(super) fn reads(&self, packs: impl Iterator<Item = ObjectId>, now: Time) -> Reads {
        let mut reads = Reads::default();
        for id in packs {
            match self.verified_at(&id, now) {
                None => reads.never += 1,
                Some(seconds) => {
                    let at = Time { seconds, nanos: 0 };
                    reads.oldest = Some(reads.oldest.map_or(at, |oldest| oldest.min(at)));
                }
            }
        }
        reads
    }
}
