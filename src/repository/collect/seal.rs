//! G7 to G10: index runs, the state, the seal, and then the sweep.

use super::compact::{Absorption, Compaction, absorption};
use super::rescue::Rescued;
use super::round::Work;
use super::sweep::{Swept, delete, may_go};
use crate::context::mutant::mutated;
use crate::crypto::seal_record;
use crate::error::{Error, ErrorKind, Result};
use crate::format::collect::{RunRow, SealRecord, StateRecord};
use crate::format::id::ObjectId;
use crate::format::layout::ObjectName;
use crate::repository::log::Log;
use crate::store::{ObjectInfo, Put};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

/// A round that is sealed: what it killed may go.
pub struct Sealed {
    work: Box<Work>,
    log: Log,
    /// What may go, with sizes of packs and runs.
    going: BTreeMap<ObjectName, u64>,
    round: SealedRound,
}

/// What a sealed round did.
#[derive(Clone, Debug, Default)]
pub struct SealedRound {
    /// Its number.
    pub number: u64,
    /// Packs that it killed.
    pub dead_packs: u64,
    /// Condemned packs that stay: somebody uses them, or they could not be copied.
    pub reprieved_packs: u64,
    /// New packs with what was copied, and their bytes.
    pub new_packs: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Index runs that became fewer, and how many.
    pub runs_absorbed: u64,
    /// The new ones.
    pub runs_new: u64,
    /// Entries that they hold.
    pub entries: u64,
    /// What went otherwise than planned, for people.
    pub notes: Vec<String>,
}

impl Rescued {
    /// G7 to G9.
    ///
    /// # Errors
    /// `Conflict` if another collector has ended the round: then nothing may be deleted; `Internal` or `Damaged` if the index would not
    /// be conserved; or what the store says.
    pub async fn seal(mut self) -> Result<Sealed> {
        let number = self.work.number();
        // A session of the epoch before may have begun after G4 and be healthy.
        let floor = number - u64::from(!mutated!(HighFloor));
        let absorption = self.absorption(floor);
        let new_packs = self.repacked.packs.len() as u64;
        let mut runs = self.compact(&absorption).await?;
        let round = SealedRound {
            number,
            dead_packs: self.dead.len() as u64,
            reprieved_packs: self.reprieved() as u64,
            new_packs,
            new_bytes: self.repacked.bytes,
            runs_absorbed: absorption.absorbed.len() as u64,
            runs_new: runs.len() as u64,
            entries: runs.iter().map(|row| row.entries).sum(),
            notes: std::mem::take(&mut self.repacked.left),
        };
        runs.extend(&absorption.named);
        runs.sort_unstable();
        let live = self.kept.iter().filter(|sid| sid.epoch < floor);
        let state = StateRecord {
            round: number,
            floor,
            live: live.copied().collect(),
            runs,
            dead: self.dead.iter().copied().collect(),
            nonce: self.work.context.random.bytes()?,
        };
        let random = self.work.context.random.clone();
        let (name, sealed) = seal_record(self.work.repository.keyring(), random.as_ref(), &state)?;
        if self.work.pen.put(&name, &sealed).await? == Put::Conflict {
            return Err(
                Error::new(ErrorKind::Damaged, "a state's name is taken by other bytes").with("object", name),
            );
        }
        let seal = SealRecord {
            round: number,
            swept: true,
            collector: self.work.collector,
            state: Some((number, sealed.id)),
            nonce: random.bytes()?,
        };
        if self.work.pen.save(&seal).await? == Put::Conflict && !mutated!(SupersededDeletes) {
            return Err(Error::new(
                ErrorKind::Conflict,
                "another collector has ended this round; nothing was deleted by this one",
            )
            .with("object", ObjectName::Seal(number))
            .hint("run the command again: it goes on from what the other one did"));
        }
        if !mutated!(SealsDeleted) && !mutated!(SupersededDeletes) {
            check_newest(number, Log::newest_seal(&self.work.repository).await?)?;
        }
        let log = log_of(&state, name);
        let going = self.going(&log);
        Ok(Sealed {
            work: self.work,
            log,
            going,
            round,
        })
    }

    fn absorption(&self, floor: u64) -> Absorption {
        let gone: HashSet<ObjectId> = self.dead.iter().chain(&self.work.log.dead).copied().collect();
        absorption(&self.work.entries, &self.work.log, floor, &gone)
    }

    /// The runs of this round.
    async fn compact(&mut self, absorption: &Absorption) -> Result<Vec<RunRow>> {
        let round = self.work.number();
        #[cfg(feature = "testkit")]
        if mutated!(CompactionDrops) {
            let copies = self.work.entries.index.all_copies();
            let needed = self.work.needed.iter();
            let needed = needed.filter_map(|number| copies.get(number as usize));
            crate::context::mutant::note(needed.map(|copy| copy.id.0));
        }
        let Work {
            repository,
            context,
            pen,
            log,
            entries,
            ..
        } = &mut *self.work;
        let mut compaction = Compaction::new((repository, context), pen, round);
        let rows: BTreeMap<ObjectName, &RunRow> = log
            .rows
            .iter()
            .map(|row| (ObjectName::CollectorRun(row.round, row.id), row))
            .collect();
        for name in &absorption.absorbed {
            // A session may list what a run lists that is named again: one of them is enough.
            let is_named = |pack: &ObjectId| {
                let run = entries.run_of.get(pack);
                run.is_some_and(|run| !absorption.absorbed.contains(run))
            };
            let left_out =
                |pack: &ObjectId| self.dead.contains(pack) || log.dead.contains(pack) || is_named(pack);
            compaction
                .absorb(*name, rows.get(name).copied(), &left_out)
                .await?;
        }
        for tables in std::mem::take(&mut self.repacked.packs) {
            compaction.add(tables).await?;
        }
        compaction.finish().await
    }

    /// What the new seal allows to delete, of all that this round has listed.
    fn going(&self, log: &Log) -> BTreeMap<ObjectName, u64> {
        let mut names = self.work.listing.names();
        names.extend(self.runs.iter().map(|info: &ObjectInfo| (info.name, info.size)));
        names.extend(self.sessions.keys().map(|sid| (ObjectName::Session(*sid), 0)));
        names.extend(self.decided.keys().map(|sid| (ObjectName::Snapshot(*sid), 0)));
        names.retain(|name, _| may_go(log, name));
        let index = &self.work.entries.index;
        let refs = self.work.listing.refs.iter();
        let lost = refs.filter(|node| {
            let number = index.number(node);
            number.is_none_or(|number| !self.work.needed.has(number))
        });
        let has_gone = !self.work.plan.snapshots_going.is_empty();
        let references = self.work.references.iter();
        let stale = references.flat_map(|references| references.stale(has_gone));
        names.extend(lost.copied().chain(stale).map(|node| (ObjectName::Refs(node), 0)));
        names
    }
}

/// G9: the seal that was put is the newest. Guards against seals that somebody removed by hand.
fn check_newest(sealed: u64, newest: u64) -> Result<()> {
    let error = match newest.cmp(&sealed) {
        Ordering::Equal => return Ok(()),
        Ordering::Greater => Error::new(
            ErrorKind::Conflict,
            "a later round was sealed than the one that this collector has just sealed; nothing was deleted by this one",
        )
        .hint("run the command again: it deletes what the newest round allows. Unless another collector works here right now, somebody \
               has removed objects below gc/ by hand: then run `holdall check` first"),
        Ordering::Less => Error::new(
            ErrorKind::Damaged,
            "the seal that was just put is not in the store's list, so that nobody else sees this round; nothing was deleted",
        )
        .hint("the store loses objects, lists them late, or somebody removes what is below gc/: run `holdall check`, and collect again \
               only when the store lists what it holds"),
    };
    Err(error
        .with("object", ObjectName::Seal(sealed))
        .with("newest", newest))
}

/// The log as everybody reads it from now on.
fn log_of(state: &StateRecord, name: ObjectName) -> Log {
    Log {
        newest: state.round,
        state: Some(name),
        floor: state.floor,
        live: state.live.iter().copied().collect(),
        rows: state.runs.clone(),
        runs: state.runs.iter().map(|run| (run.round, run.id)).collect(),
        dead: state.dead.iter().copied().collect(),
        ..Log::default()
    }
}

impl Sealed {
    /// What the round did.
    pub fn round(&self) -> &SealedRound {
        &self.round
    }

    /// G10: deletes what the seal allows; then reserves again what was given back for this round.
    ///
    /// # Errors
    /// What the store says; the next collection goes on.
    pub async fn sweep(mut self) -> Result<Swept> {
        let going = std::mem::take(&mut self.going);
        debug_assert_eq!(self.log.newest, self.round.number);
        let (swept, _) = delete(&self.work.repository, &self.work.context, going).await?;
        self.work.pen.refill_and_tell().await?;
        Ok(self.work.swept.plus(swept))
    }
}
