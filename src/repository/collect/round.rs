//! A round and what it knows; G3.

use super::entries::Entries;
use super::listing::Listing;
use super::plan::{Chosen, Unused};
use super::refs::{References, Worth};
use super::reserve::Pen;
use super::settle::Waiting;
use super::sweep::Swept;
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::format::collect::{CondemnedRecord, SealRecord};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::ObjectName;
use crate::format::limits::ROUND_PACKS_MAX;
use crate::format::note::NoteRecord;
use crate::repository::Repository;
use crate::repository::bits::Bits;
use crate::repository::forgets::Committed;
use crate::repository::index::Index;
use crate::repository::log::Log;
use crate::store::Put;
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// A pack that does not tell who made it.
#[derive(Clone, Debug)]
pub struct UntoldPack {
    /// Why not.
    pub why: Error,
    /// Whether a check has set it aside: nothing rests on it.
    pub is_aside: bool,
}

/// How a collection goes about it.
#[derive(Clone, Debug)]
pub struct CollectOptions {
    /// How much of what is kept may be bytes that nobody needs, before they are copied out.
    pub max_unused: Unused,
    /// The most bytes that are copied.
    pub max_repack: u64,
    /// A session without a sign of life for so long is ended. By the store's own times; it decides what is worth while, not what is safe.
    pub lease: Duration,
    /// Another collector's round that is older than this is taken over.
    pub take_over: Duration,
    /// What is remembered for later rounds.
    pub worth: Worth,
    /// Only plan: nothing is put, nothing is deleted.
    pub dry_run: bool,
    /// Of a plan: snapshots that count as let go though nobody has let them go yet.
    pub also_forgotten: BTreeSet<SessionId>,
    /// Full names of snapshots whose records cannot be read and that are taken for lost: one that was let go and that no note protects goes,
    /// though only its record could tell whether the repository retains it, or though the disk may give it again. So does one whose record can
    /// be read, and that the repository retains, if something that it needs cannot.
    pub lost: BTreeSet<String>,
}

impl CollectOptions {
    /// How long a round is left alone by a collector that ends sessions after `lease`: it may wait for a session as long as that, and whoever
    /// began it may have been given the usual lease.
    pub fn patience(lease: Duration) -> Duration {
        lease.max(Self::LEASE).saturating_add(Duration::from_secs(3600))
    }

    /// What [`Self::lease`] is unless told otherwise.
    const LEASE: Duration = Duration::from_secs(24 * 3600);
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            max_unused: Unused::default(),
            max_repack: u64::MAX,
            lease: Self::LEASE,
            take_over: Self::patience(Self::LEASE),
            worth: Worth::default(),
            dry_run: false,
            also_forgotten: BTreeSet::new(),
            lost: BTreeSet::new(),
        }
    }
}

/// What a round would do, or does.
#[derive(Clone, Debug, Default)]
pub struct CollectPlan {
    /// Its number.
    pub round: u64,
    /// Snapshots that stay.
    pub snapshots_kept: u64,
    /// Snapshots that this round lets go: what nothing else needs goes with them, which may be nothing at all.
    pub snapshots_going: Vec<SessionId>,
    /// Snapshots that somebody let go and that stay, and why.
    pub kept_in_spite: BTreeMap<SessionId, String>,
    /// Packs in the store, without those that an earlier round has killed.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Packs that no run lists and whose headers do not tell who made them, and why: they stay, as whoever did may be at work.
    pub untold_packs: BTreeMap<ObjectId, UntoldPack>,
    /// Packs without anything that is needed.
    pub dead_packs: u64,
    /// Their bytes.
    pub dead_bytes: u64,
    /// Packs that hold too little.
    pub repack_packs: u64,
    /// Their bytes.
    pub repack_bytes: u64,
    /// About how many of them are copied.
    pub copied_bytes: u64,
    /// Bytes in packs that nobody needs and that stay.
    pub unused_bytes: u64,
    /// Objects that an earlier round left to be deleted, and their bytes.
    pub unfinished: u64,
    /// Their bytes, of packs and index runs.
    pub unfinished_bytes: u64,
    /// Valid index runs.
    pub runs: u64,
    /// Nodes and lists that were read to find out.
    pub nodes_read: u64,
    /// Records of references that were used instead.
    pub references_used: u64,
    /// Whether there is anything to do.
    pub is_needed: bool,
    /// Whether so large a part goes that somebody should look at it first: over 30 % of the snapshots, or half of the bytes.
    pub is_large: bool,
}

/// What all steps of a round know.
pub(super) struct Work {
    pub(super) repository: Repository,
    pub(super) context: Context,
    pub(super) options: CollectOptions,
    pub(super) pen: Pen,
    /// This collector.
    pub(super) collector: [u8; 16],
    /// The log that the round began with; its number is one more.
    pub(super) log: Log,
    /// The lists of G1.
    pub(super) listing: Listing,
    /// Commits of G1, those that were let go among them.
    pub(super) committed: Committed,
    /// Sessions whose decisions cannot be read, and that came back as others or were let go: they go with the floor.
    pub(super) superseded: BTreeSet<SessionId>,
    /// Those that were let go with effect, as of G1.
    pub(super) forgotten: BTreeSet<SessionId>,
    /// Those of them that an earlier round may have kept in spite of their keys.
    pub(super) released: BTreeSet<SessionId>,
    /// Commits whose first sight no note tells, with the store's time.
    pub(super) unseen: Vec<(SessionId, Time)>,
    pub(super) entries: Entries,
    /// Blobs that snapshots need, by number.
    pub(super) needed: Bits,
    pub(super) references: Option<References>,
    /// Packs that are damaged.
    pub(super) quarantined: HashSet<ObjectId>,
    /// Packs that runs list and that are not in the store.
    pub(super) absent: HashSet<ObjectId>,
    /// Packs that an earlier round killed and that the store did not let go.
    pub(super) leftover: Vec<ObjectId>,
    pub(super) chosen: Chosen,
    pub(super) plan: CollectPlan,
    /// What was deleted so far.
    pub(super) swept: Swept,
}

/// A round that was planned, and that nobody else knows of yet.
pub struct Round(pub(super) Box<Work>);

impl Work {
    /// The number of the round.
    pub(super) fn number(&self) -> u64 {
        self.log.newest + 1
    }

    /// Packs by their numbers in the index: those that are there, and those of them that are not damaged.
    pub(super) fn present(&self, index: &Index) -> (Bits, Bits) {
        let id = |number: u32| index.packs().get(number as usize).map(|pack| pack.id);
        let len = index.packs().len();
        let present = Bits::of(len, |n| id(n).is_some_and(|id| !self.absent.contains(&id)));
        let good = Bits::of(len, |n| {
            present.has(n) && id(n).is_some_and(|id| !self.quarantined.contains(&id))
        });
        (present, good)
    }
}

/// The seal that ends the round after `log` and changes nothing.
pub(super) fn aborted(log: &Log, collector: [u8; 16], nonce: [u8; 16]) -> SealRecord {
    let state = match log.state {
        Some(ObjectName::State(round, id)) => Some((round, id)),
        _ => None,
    };
    SealRecord {
        round: log.newest + 1,
        swept: false,
        collector,
        state,
        nonce,
    }
}

impl Round {
    /// Ends a round that was begun and not sealed, so that the next collector need not wait for it: the state stays what it was.
    /// Harmless at any time: a round that is sealed stays as it is.
    ///
    /// # Errors
    /// What the store says; then the next collector takes the round over.
    pub async fn abandon(
        repository: &Repository,
        context: &Context,
        (round, collector): (u64, [u8; 16]),
    ) -> Result<()> {
        let log = Log::read(repository).await?;
        if log.newest + 1 == round && log.begun {
            let name = ObjectName::Condemned(round);
            match repository.load::<CondemnedRecord>(name).await {
                // Another collector was faster, and works on.
                Ok(record) if record.collector != collector => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
            let seal = aborted(&log, context.random.bytes()?, context.random.bytes()?);
            // Conflict: it was sealed meanwhile.
            let _put = Pen::new(repository, context).save(&seal).await?;
        }
        Ok(())
    }

    /// Its number, and who it is that collects: what [`Self::abandon`] takes.
    pub fn name(&self) -> (u64, [u8; 16]) {
        (self.0.number(), self.0.collector)
    }

    /// What it would do.
    pub fn plan(&self) -> &CollectPlan {
        &self.0.plan
    }

    /// What an earlier round had left, and what became of it.
    pub fn swept(&self) -> Swept {
        self.0.swept
    }

    /// Where no round follows: notes when the store saw new snapshots, as [`Self::condemn`] does too, and reserves again what an
    /// earlier collection gave back, as [`super::Sealed::sweep`] does.
    ///
    /// # Errors
    /// What the store says.
    pub async fn leave(mut self) -> Result<()> {
        self.0.note_first_sights().await?;
        self.0.pen.refill_and_tell().await
    }

    /// G3 and G4: publishes what is condemned, and then looks who may rest on it.
    ///
    /// # Errors
    /// `Busy` if another collector has begun this round; `Invalid` for a dry run; or what the store says.
    pub async fn condemn(self) -> Result<Waiting> {
        let mut work = self.0;
        if work.options.dry_run {
            return Err(Error::new(ErrorKind::Invalid, "a dry run condemns nothing"));
        }
        work.note_first_sights().await?;
        let chosen = work.chosen.dead.iter().chain(&work.chosen.repack);
        let packs: BTreeSet<ObjectId> = chosen.chain(&work.leftover).copied().collect();
        let record = CondemnedRecord {
            round: work.number(),
            collector: work.collector,
            nonce: work.context.random.bytes()?,
            packs: packs.into_iter().take(ROUND_PACKS_MAX).collect(),
        };
        if work.pen.save(&record).await? == Put::Conflict {
            return Err(Error::new(
                ErrorKind::Busy,
                "another collector has begun the same round",
            ));
        }
        Waiting::begin(work, record.packs.into_iter().collect()).await
    }
}

impl Work {
    /// Writes down when the store says that snapshots were put: what `retain-age` counts from.
    async fn note_first_sights(&mut self) -> Result<()> {
        let unseen = std::mem::take(&mut self.unseen);
        let notes = unseen.into_iter().map(|(sid, time)| {
            let note = NoteRecord {
                first_seen: Some(time),
                ..NoteRecord::default()
            };
            self.repository.put_note(&self.context, sid, note)
        });
        let notes: Vec<_> = notes.collect();
        let mut notes = stream::iter(notes).buffered(self.repository.concurrency());
        while let Some(put) = notes.next().await {
            match put {
                Ok(_) => {}
                // It is told from the store's time again, next time.
                Err(error) if error.kind() == ErrorKind::StoreFull => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
