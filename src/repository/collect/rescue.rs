//! G6: the mark again, from the store, after all sessions that could rest on condemned packs have ended. What they use is saved.

use super::begin::is_outdated;
use super::chains::{Depths, keep, pack_of};
use super::listing::{commits, runs, times, unreadable};
use super::mark::Mark;
use super::refs::References;
use super::repack::{Job, Repack, Repacked};
use super::round::Work;
use super::settle::Waiting;
use crate::context::Time;
use crate::context::mutant::mutated;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::{ObjectName, Prefix};
use crate::repository::bits::Bits;
use crate::repository::index::{Index, IndexBuilder};
use crate::repository::ledger::Ledger;
use crate::store::ObjectInfo;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// A round that knows what dies, and has saved the rest.
pub struct Rescued {
    pub(super) work: Box<Work>,
    /// Packs that this round kills.
    pub(super) dead: BTreeSet<ObjectId>,
    /// Condemned packs that stay: somebody uses them, or they could not be copied.
    reprieved: BTreeSet<ObjectId>,
    pub(super) repacked: Repacked,
    /// All commits that are kept.
    pub(super) kept: BTreeSet<SessionId>,
    /// What was listed since G1, for the sweep.
    pub(super) sessions: BTreeMap<SessionId, Time>,
    pub(super) decided: BTreeMap<SessionId, Time>,
    pub(super) runs: Vec<ObjectInfo>,
}

impl Waiting {
    /// G6 and the copies of G7.
    ///
    /// # Errors
    /// `Invalid` while sessions are open; `Conflict` if another collector has ended the round meanwhile; `Damaged` if a new snapshot
    /// needs what cannot be read; `Internal` if the plan would take something that is needed; or what the store says.
    pub async fn rescue(self) -> Result<Rescued> {
        let (repository, newest) = (self.work.repository.clone(), self.work.log.newest);
        match self.try_rescue().await {
            Err(error) if is_outdated(&repository, Some(newest), &error).await? => Err(Error::new(
                ErrorKind::Conflict,
                "another collector has ended this round; nothing was deleted by this one",
            )
            .with("round", newest + 1)
            .because(error)),
            rescued => rescued,
        }
    }

    async fn try_rescue(mut self) -> Result<Rescued> {
        if !self.settle().await? {
            return Err(Error::new(
                ErrorKind::Invalid,
                "sessions are open that may rest on what is condemned",
            ));
        }
        let Self {
            mut work,
            condemned,
            sessions,
            ..
        } = self;
        let mut decided = times(&work.repository, Prefix::Snapshots).await?;
        let mut runs = runs(&work.repository).await?;
        if mutated!(SealFirst) {
            decided.clone_from(&work.listing.decided);
        }
        if mutated!(SealFirst) || mutated!(RemarkOldIndex) {
            runs.clone_from(&work.listing.runs);
        }
        // What was found damaged since G1 is a last resort now.
        let quarantined = Ledger::read(&work.repository).await?.whole()?;
        if !mutated!(QuarantineKept) {
            work.quarantined.extend(quarantined);
        }
        let kept = work.mark_new(&decided, &runs).await?;
        work.check_whole_without()?;
        let index = work.entries.index.clone();
        let saved = work.saved(&index, &condemned)?;
        // A damaged pack is not copied out of: what is whole in it stays there.
        let repack = work.chosen.repack.iter();
        let repack = repack.filter(|id| condemned.contains(id) && !work.quarantined.contains(id));
        let repack: HashSet<ObjectId> = repack.copied().collect();
        let (jobs, mut reprieved) = split(&index, &saved, &condemned, &repack);
        let jobs = work.in_order(jobs);
        let (repository, context) = (work.repository.clone(), work.context.clone());
        let repacked = Repack::new((&repository, &context), index, work.number())
            .run(&jobs)
            .await?;
        let kept_whole = jobs.iter().map(|job| job.pack.id);
        reprieved.extend(kept_whole.filter(|id| !repacked.emptied.contains(id)));
        let dead: BTreeSet<ObjectId> = condemned.difference(&reprieved).copied().collect();
        drop(jobs);
        work.prove(&dead, &repacked).await?;
        Ok(Rescued {
            work,
            dead,
            reprieved,
            repacked,
            kept,
            sessions,
            decided,
            runs,
        })
    }
}

impl Work {
    /// L1: marks what was committed since G1, over an index that has the runs since then. Gives all commits that are kept.
    async fn mark_new(
        &mut self,
        decided: &BTreeMap<SessionId, Time>,
        runs: &[ObjectInfo],
    ) -> Result<BTreeSet<SessionId>> {
        let (repository, context) = (self.repository.clone(), self.context.clone());
        if let Some(gone) = self.committed.keys().find(|sid| !decided.contains_key(sid)) {
            let name = ObjectName::Snapshot(*gone);
            return Err(unreadable(name, Error::new(ErrorKind::NotFound, "it is gone")));
        }
        let new = decided
            .keys()
            .filter(|sid| !self.listing.decided.contains_key(sid));
        let (new, unread) = commits(&repository, &self.log, new.copied()).await?;
        if let Some((sid, error)) = unread.into_iter().next() {
            return Err(unreadable(ObjectName::Snapshot(sid), error));
        }
        let blocks = self.entries.index.blocks().len();
        let entries = std::mem::take(&mut self.entries);
        let is_decided = |sid: &SessionId| decided.contains_key(sid);
        let log = &self.log;
        self.entries = entries
            .extended((&repository, &context), log, runs, &is_decided)
            .await?;
        let index = self.entries.index.clone();
        self.needed = carried_over(&self.needed, &index, blocks);
        if !new.is_empty() {
            let references = self.references.take();
            let references = references
                .unwrap_or_else(|| References::new((&repository, &context), BTreeSet::new(), &self.options));
            let seen = (index, self.log.newest);
            let mut mark = Mark::new((&repository, &context), seen, &self.quarantined, references)?;
            mark.needed.merge(&self.needed);
            let records = new.values().filter(|_| !mutated!(NoRemark));
            let records: Vec<_> = records.map(AsRef::as_ref).collect();
            mark.snapshots(records).await?;
            mark.check_sound()?;
            self.plan.nodes_read += mark.read;
            let (needed, references) = mark.into_parts();
            self.needed = needed;
            self.references = Some(references);
        }
        let kept = self.committed.keys().chain(new.keys());
        Ok(kept
            .filter(|sid| !self.forgotten.contains(sid))
            .copied()
            .collect())
    }

    /// The copies that are kept, by their places: of surviving packs where there is a chain, of condemned ones where not.
    fn saved(&self, index: &Index, condemned: &BTreeSet<ObjectId>) -> Result<Bits> {
        let (present, good) = self.present(index);
        let survives = |packs: &Bits| {
            Bits::of(index.packs().len(), |n| {
                let pack = index.packs().get(n as usize);
                packs.has(n) && pack.is_some_and(|pack| !condemned.contains(&pack.id))
            })
        };
        // Damaged packs are the last resort, condemned ones are not: they are still there.
        let tiers = [survives(&good), good.clone(), survives(&present), present.clone()];
        let kept = keep(index, &self.needed, &tiers);
        match kept.lost {
            None => Ok(kept.copies),
            // Of a commit since G1, which its writer rested on a pack that is lost.
            Some(number) => Err(super::begin::no_copy_left(index, number)),
        }
    }

    /// Jobs as the sources were written: what belongs together stays together.
    fn in_order(&self, mut jobs: Vec<Job>) -> Vec<Job> {
        jobs.sort_by_key(|job| job.pack.id);
        let place = |job: &Job| self.entries.run_of.get(&job.pack.id).copied();
        jobs.sort_by_key(place);
        jobs
    }

    /// Every blob that is needed has a chain that ends in a whole copy, in packs that are there and do not die. Told from all entries
    /// anew, whatever was chosen: a plan without it must not be sealed.
    async fn prove(&mut self, dead: &BTreeSet<ObjectId>, repacked: &Repacked) -> Result<()> {
        let mut index = std::mem::take(&mut self.entries.index);
        if !repacked.packs.is_empty() {
            // It goes on as this one: two would be twice the memory.
            let blocks = index.blocks().len();
            let alone = Arc::try_unwrap(index).unwrap_or_else(|shared| Index::clone(&shared));
            let mut builder = IndexBuilder::onto(alone, self.log.dead.clone());
            for tables in &repacked.packs {
                builder.add(tables, false);
            }
            index = Arc::new(self.context.cpu.run(move || builder.finish()).await?);
            self.needed = carried_over(&self.needed, &index, blocks);
        }
        let (present, _) = self.present(&index);
        let alive = Bits::of(index.packs().len(), |n| {
            let pack = index.packs().get(n as usize);
            present.has(n) && pack.is_some_and(|pack| !dead.contains(&pack.id))
        });
        let depths = Depths::of(&index, &alive);
        let lost = self.needed.iter().find(|number| !depths.is_usable(*number));
        let proven = lost.map_or(Ok(()), |number| Err(unproven(&index, number)));
        self.entries.index = index;
        proven
    }
}

fn unproven(index: &Index, number: u32) -> Error {
    let what = "this round would leave a blob without a whole copy to begin from; nothing was deleted";
    let error = Error::new(ErrorKind::Internal, what);
    match index.all_copies().get(number as usize) {
        Some(copy) => error.with("blob", copy.id),
        None => error,
    }
}

/// Condemned packs with copies that are kept: those that are copied out of, and those that stay.
fn split(
    index: &Index,
    saved: &Bits,
    condemned: &BTreeSet<ObjectId>,
    repack: &HashSet<ObjectId>,
) -> (Vec<Job>, BTreeSet<ObjectId>) {
    let mut jobs: BTreeMap<u32, Job> = BTreeMap::new();
    let mut reprieved = BTreeSet::new();
    for place in saved.iter() {
        let copy = index.all_copies().get(place as usize);
        let number = copy.and_then(|copy| pack_of(index, copy));
        let Some((number, pack)) = number.and_then(|n| Some((n, index.pack(n)?))) else {
            continue;
        };
        if repack.contains(&pack.id) {
            let new = || Job {
                pack: *pack,
                copies: Vec::new(),
            };
            jobs.entry(number.0).or_insert_with(new).copies.push(place);
        } else if condemned.contains(&pack.id) {
            reprieved.insert(pack.id);
        }
    }
    (jobs.into_values().collect(), reprieved)
}

/// Numbers of blobs in an index, as numbers in one that has more entries: those of later blocks are new.
fn carried_over(numbers: &Bits, index: &Index, blocks: usize) -> Bits {
    let mut out = Bits::none(index.all_copies().len());
    let (mut old, mut first, mut last) = (0u32, 0u32, None);
    for (at, copy) in (0u32..).zip(index.all_copies()) {
        if last != Some(copy.id) {
            (first, last) = (at, Some(copy.id));
        }
        if (Index::block_number(copy) as usize) < blocks {
            if numbers.has(old) {
                out.set(first);
            }
            old += 1;
        }
    }
    out
}

impl Rescued {
    /// Condemned packs that stay after all.
    pub fn reprieved(&self) -> usize {
        self.reprieved.len()
    }

    /// Packs that this round will delete.
    pub fn dead(&self) -> impl Iterator<Item = &ObjectId> {
        self.dead.iter()
    }

    /// What went otherwise than planned, for people.
    pub fn notes(&self) -> &[String] {
        &self.repacked.left
    }
}
