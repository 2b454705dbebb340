//! The collector's log, as every actor reads it (`format-spec/85-sessions.md`): the newest seal, its state, and what the next round
//! has condemned.

use super::Repository;
use super::view::Purpose;
use crate::context::mutant::mutated;
use crate::error::{Error, ErrorKind, Result};
use crate::format::collect::{CondemnedRecord, RunRow, SealRecord, StateRecord};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::{ObjectName, Prefix};
use crate::store::Listed;
use futures::stream::{BoxStream, StreamExt};
use std::collections::{BTreeSet, HashSet};

/// How often the log is read again when a state is gone, or a list was not stable, before the store is called unreachable.
const TRIES: u32 = 16;

/// One try to read the log.
enum Attempt {
    Read(Box<Log>),
    /// An object vanished meanwhile: a later round has cleaned it away, or it is lost.
    Gone(ObjectName),
}

/// What the seals say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// The number of the newest seal; 0 without any.
    pub(crate) newest: u64,
    /// The state that it names.
    pub(crate) state: Option<ObjectName>,
    /// Sessions of a lower epoch are void unless live.
    pub(crate) floor: u64,
    /// Committed, unforgotten sessions below the floor.
    pub(crate) live: HashSet<SessionId>,
    /// The rows of the state that name collector runs.
    pub(crate) rows: Vec<RunRow>,
    /// The valid collector runs.
    pub(crate) runs: HashSet<(u64, ObjectId)>,
    /// Packs that the newest round killed.
    pub(crate) dead: HashSet<ObjectId>,
    /// Packs that the round after the newest seal has condemned.
    pub(crate) condemned: HashSet<ObjectId>,
    /// Whether that round has begun, even with nothing condemned.
    pub(crate) begun: bool,
}

impl Log {
    /// Whether a session counts no more.
    pub(crate) fn is_void(&self, sid: &SessionId) -> bool {
        sid.epoch < self.floor && !self.live.contains(sid) && !mutated!(RetiredCounts)
    }

    /// Whether an index run counts.
    pub(crate) fn is_valid(&self, name: &ObjectName) -> bool {
        match name {
            ObjectName::SessionRun(sid, _) => sid.epoch >= self.floor || mutated!(SessionRunsForEver),
            ObjectName::CollectorRun(round, id) => {
                self.runs.contains(&(*round, *id)) || mutated!(CollectorRunsUnsealed)
            }
            _ => false,
        }
    }

    /// Reads the log from the store.
    ///
    /// # Errors
    /// `Damaged` if the newest seal or its state is not readable, or what the store says.
    pub(crate) async fn read(repository: &Repository) -> Result<Self> {
        let mut gone = None;
        for _ in 0..TRIES {
            match Self::try_read(repository).await? {
                Attempt::Read(log) => return Ok(*log),
                Attempt::Gone(name) => gone = Some(name),
            }
        }
        let error = Error::new(
            ErrorKind::Damaged,
            "an object of the newest collector round is missing",
        )
        .hint("run `holdall check` to see what else is");
        Err(match gone {
            Some(name) => error.with("object", name),
            None => error,
        })
    }

    async fn try_read(repository: &Repository) -> Result<Attempt> {
        let Rounds { newest, begun } = Rounds::list(repository).await?;
        let mut log = Self {
            newest,
            ..Self::default()
        };
        if newest > 0 {
            let name = ObjectName::Seal(newest);
            let seal: SealRecord = repository.load(name).await?;
            // Nothing where the first rounds were aborted: then the state is that of no round.
            if let Some((round, id)) = seal.state {
                let name = ObjectName::State(round, id);
                let state: StateRecord = match repository.load(name).await {
                    Ok(state) => state,
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Attempt::Gone(name)),
                    Err(error) => return Err(error),
                };
                log.state = Some(name);
                log.floor = state.floor;
                log.live = state.live.into_iter().collect();
                log.runs = state.runs.iter().map(|run| (run.round, run.id)).collect();
                log.rows = state.runs;
                log.dead = state.dead.into_iter().collect();
            }
        }
        let next = ObjectName::Condemned(newest + 1);
        if begun {
            match repository.load::<CondemnedRecord>(next).await {
                Ok(record) => {
                    log.condemned = record.packs.into_iter().collect();
                    log.begun = true;
                }
                // A later round has cleaned it away: there is a newer seal.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Attempt::Gone(next)),
                Err(error) => return Err(error),
            }
        }
        Ok(Attempt::Read(Box::new(log)))
    }

    /// Lists until no seal came between: `format-spec/85-sessions.md`, stable list.
    pub(crate) async fn stable(repository: &Repository, purpose: Purpose) -> Result<(Self, Listing)> {
        for _ in 0..TRIES {
            let mut log = Self::read(repository).await?;
            let listing = Listing::read(repository, &log, purpose).await?;
            let lists_once = match purpose {
                Purpose::Read => mutated!(ReaderUnstable),
                Purpose::Write => mutated!(WriterUnstable),
            };
            let newest = Self::newest_seal(repository).await?;
            if lists_once && purpose == Purpose::Read {
                log.newest = newest;
            }
            if lists_once || newest == log.newest {
                return Ok((log, listing));
            }
        }
        Err(Error::new(
            ErrorKind::Unreachable,
            "collector rounds end faster than the repository can be listed",
        ))
    }

    /// The number of the newest seal, as the store tells it now.
    pub(crate) async fn newest_seal(repository: &Repository) -> Result<u64> {
        Ok(Rounds::list(repository).await?.newest)
    }
}

/// What the names below `gc/` tell.
#[derive(Default)]
struct Rounds {
    /// The highest round with a seal; 0 without any.
    newest: u64,
    /// Whether the round after it is condemned.
    begun: bool,
}

impl Rounds {
    /// Lists what is new since the newest seal that this machine has seen. There is a seal of every round for ever: all of them are
    /// listed only where none is known, or where the one that is known is gone.
    async fn list(repository: &Repository) -> Result<Self> {
        let known = repository.cache().newest_seal();
        let mut rounds = Self::default();
        if known > 0 {
            let before = ObjectName::Condemned(known);
            rounds = Self::from(repository.store().list_after(Prefix::Gc, &before)).await?;
        }
        if known == 0 || rounds.newest == 0 {
            rounds = Self::from(repository.store().list(Prefix::Gc)).await?;
        }
        if rounds.newest > known {
            repository.cache().note_seen(&[ObjectName::Seal(rounds.newest)]);
        }
        Ok(rounds)
    }

    async fn from(mut listed: BoxStream<'_, Result<Listed>>) -> Result<Self> {
        let (mut newest, mut condemned) = (0, BTreeSet::new());
        while let Some(listed) = listed.next().await {
            let Listed::Object(info) = listed? else { continue };
            match info.name {
                ObjectName::Seal(round) => newest = newest.max(round),
                ObjectName::Condemned(round) => drop(condemned.insert(round)),
                _ => {}
            }
            // What is left is not more than the rounds without a seal.
            condemned.retain(|round| *round > newest);
        }
        Ok(Self {
            newest,
            begun: condemned.contains(&(newest + 1)),
        })
    }
}

/// What a stable list found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listing {
    /// Valid index runs.
    pub(crate) runs: Vec<ObjectName>,
    /// Sessions with a decision, void ones left out.
    pub(crate) decided: Vec<SessionId>,
    /// Sessions with a forget.
    pub(crate) forgets: HashSet<SessionId>,
    /// Notes of snapshots with a forget; for writers none.
    pub(crate) notes: Vec<ObjectName>,
}

impl Listing {
    /// The order is part of the protocol. A writer lists index runs first. A reader lists them last: a session that is committed while it
    /// lists has then put its runs. Notes come after forgets: one that came before a forget is seen with it.
    async fn read(repository: &Repository, log: &Log, purpose: Purpose) -> Result<Self> {
        let mut listing = Self::default();
        if purpose == Purpose::Write {
            listing.list_runs(repository, log, purpose).await?;
        }
        for name in repository.list(Prefix::Snapshots).await? {
            match name {
                ObjectName::Snapshot(sid) if !log.is_void(&sid) => listing.decided.push(sid),
                _ => {}
            }
        }
        for name in repository.list(Prefix::Forgets).await? {
            if let ObjectName::Forget(sid) = name {
                listing.forgets.insert(sid);
            }
        }
        if purpose == Purpose::Read {
            if listing.decided.iter().any(|sid| listing.forgets.contains(sid)) {
                let notes = repository.list(Prefix::Notes).await?.into_iter();
                let of_forgotten = |name: &ObjectName| matches!(name, ObjectName::Note(sid, _) if listing.forgets.contains(sid));
                listing.notes = notes.filter(of_forgotten).collect();
            }
            listing.list_runs(repository, log, purpose).await?;
        }
        Ok(listing)
    }

    async fn list_runs(&mut self, repository: &Repository, log: &Log, purpose: Purpose) -> Result<()> {
        for prefix in [Prefix::SessionRuns, Prefix::CollectorRuns] {
            let names = repository.list(prefix).await?.into_iter();
            let claims = |name: &ObjectName| {
                mutated!(ClaimBelowFloor)
                    && purpose == Purpose::Write
                    && matches!(name, ObjectName::SessionRun(..))
            };
            self.runs
                .extend(names.filter(|name| log.is_valid(name) || claims(name)));
        }
        Ok(())
    }
}
