//! G4 and G5: sessions that may rest on what is condemned end, by themselves or by a fence.

use super::listing::times;
use super::round::Work;
use crate::context::Time;
use crate::context::mutant::mutated;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::session::SessionRecord;
use crate::format::snapshot::Decision;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A clock that is further ahead of the store's must not judge ages, in seconds.
const AHEAD_MAX: f64 = 600.0;

/// A round whose condemned packs are published, and that waits for the sessions that were open then.
pub struct Waiting {
    pub(super) work: Box<Work>,
    /// What is published.
    pub(super) condemned: BTreeSet<ObjectId>,
    /// Sessions of G4, for the sweep.
    pub(super) sessions: BTreeMap<SessionId, Time>,
    /// Those that are not decided yet, and their newest sign of life.
    open: BTreeMap<SessionId, Time>,
    now: StoreClock,
    fenced: Vec<SessionId>,
}

/// The store's clock, as far as it is known: the time of an object of this round, and how long ago that is by ours.
#[derive(Clone, Copy, Debug)]
struct StoreClock {
    store: Time,
    ours: Time,
}

impl StoreClock {
    /// Seconds from a time of the store until now.
    fn since(&self, then: Time, ours: Time) -> f64 {
        self.store.seconds_since(then) + ours.seconds_since(self.ours)
    }
}

/// A session that a round waits for.
#[derive(Clone, Debug)]
pub struct OpenSession {
    /// Its id.
    pub sid: SessionId,
    /// Seconds since its last sign of life.
    pub idle: f64,
    /// The host that it runs on, if its record can be read.
    pub host: Option<String>,
}

impl Waiting {
    /// G4, which must come after G3.
    pub(super) async fn begin(work: Box<Work>, condemned: BTreeSet<ObjectId>) -> Result<Self> {
        let name = ObjectName::Condemned(work.number());
        let ours = work.context.clock.now();
        let mut sessions = times(&work.repository, Prefix::Sessions).await?;
        let mut decided = times(&work.repository, Prefix::Snapshots).await?;
        if mutated!(ListFirst) {
            sessions.clone_from(&work.listing.sessions);
            decided.clone_from(&work.listing.decided);
        }
        let undecided = sessions
            .iter()
            .filter(|(sid, _)| !work.log.is_void(sid) && !decided.contains_key(sid));
        let open: BTreeMap<_, _> = undecided.map(|(sid, began)| (*sid, *began)).collect();
        let store = match work.repository.store().head(&name).await {
            Ok(info) => info.last_modified,
            // Another collector has ended the round and cleaned up: the seal will tell.
            Err(error) if error.kind() == ErrorKind::NotFound => ours,
            Err(error) => return Err(error),
        };
        // Ages are told from the store's times, and of snapshots from the future the newest is no newest one: a clock that is ahead could
        // make a snapshot old, or one that a wrong clock has stamped the one that counts. One that is behind is no guide either, and
        // G1 has not followed it.
        let ahead = ours.seconds_since(store);
        if !work.forgotten.is_empty() && ahead > AHEAD_MAX {
            return Err(Error::new(
                ErrorKind::Refused,
                "this machine's clock is ahead of the store's, and it would decide which snapshots are old enough to go",
            )
            .with("seconds", ahead)
            .hint("set the clock, and run the command again"));
        }
        Ok(Self {
            work,
            condemned,
            sessions,
            open,
            now: StoreClock { store, ours },
            fenced: Vec::new(),
        })
    }

    /// G5, one look: ends sessions that were idle for longer than the lease. Gives whether none is open any more.
    ///
    /// # Errors
    /// What the store says.
    pub async fn settle(&mut self) -> Result<bool> {
        if mutated!(NoWait) || mutated!(SealFirst) {
            return Ok(true);
        }
        for sid in self.open.keys().copied().collect::<Vec<_>>() {
            self.work.context.check_cancelled()?;
            let is_decided = match self
                .work
                .repository
                .store()
                .head(&ObjectName::Snapshot(sid))
                .await
            {
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::NotFound => self.fence_if_idle(sid).await?,
                Err(error) => return Err(error),
            };
            if is_decided {
                self.open.remove(&sid);
            }
        }
        Ok(self.open.is_empty())
    }

    /// Gives whether the session is decided now, by whomever.
    async fn fence_if_idle(&mut self, sid: SessionId) -> Result<bool> {
        let runs = self.work.repository.list_objects(Prefix::RunsOf(sid)).await?;
        let began = self.open.get(&sid).copied().unwrap_or_default();
        let last = runs.iter().map(|info| info.last_modified).fold(began, Time::max);
        self.open.insert(sid, last);
        let idle = self.now.since(last, self.work.context.clock.now());
        if idle < self.work.options.lease.as_secs_f64() {
            return Ok(false);
        }
        let fence = Decision::Fence {
            sid,
            collector: self.work.collector,
            round: self.work.number(),
            nonce: self.work.context.random.bytes()?,
        };
        // Conflict: its own decision was faster.
        if self.work.pen.save(&fence).await?.is_mine() {
            self.fenced.push(sid);
        }
        Ok(true)
    }

    /// Sessions that are still open.
    ///
    /// # Errors
    /// What the store says.
    pub async fn open_sessions(&self) -> Result<Vec<OpenSession>> {
        let mut open = Vec::new();
        for (sid, last) in &self.open {
            let record = self
                .work
                .repository
                .load::<SessionRecord>(ObjectName::Session(*sid))
                .await;
            let host = match record {
                Ok(record) => Some(record.host),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) if crate::repository::view::is_damage(&error) => None,
                Err(error) => return Err(error),
            };
            let idle = self.now.since(*last, self.work.context.clock.now());
            open.push(OpenSession {
                sid: *sid,
                idle,
                host,
            });
        }
        Ok(open)
    }

    /// Sessions that this round has ended.
    pub fn fenced(&self) -> &[SessionId] {
        &self.fenced
    }

    /// How long it makes sense to wait before the next [`Self::settle`].
    pub fn pause(&self) -> Duration {
        Duration::from_secs(15)
    }
}
