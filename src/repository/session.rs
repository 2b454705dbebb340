//! One writer's run, steps W1 to W8 of `format-spec/85-sessions.md`.

use super::Repository;
use super::log::Log;
use super::view::{Purpose, View};
use super::write::{BlobWriter, Durable};
use crate::context::mutant::mutated;
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::id::SessionId;
use crate::format::layout::ObjectName;
use crate::format::session::SessionRecord;
use crate::format::snapshot::{Decision, SnapshotRecord};
use crate::store::{Capability, Put};
use std::sync::Arc;

/// How often a session is begun anew because rounds ended meanwhile.
const TRIES: u32 = 16;

/// A session that was begun: its object is in the store, and the view was read after it.
pub struct Session {
    repository: Repository,
    sid: SessionId,
    started: Time,
    view: Arc<View>,
}

/// Tells if the store would overwrite: snapshots are safe there, since their names are random, but no collector is.
async fn probe(repository: &Repository, context: &Context) -> Result<()> {
    let marker = repository.marker();
    if repository.store().probe(&ObjectName::Marker, marker).await? != Capability::PutIfAbsent {
        let text = "this store does not keep an object that is put twice: snapshots are safe, \
             but a collector needs `prune --exclusive` while nobody else writes";
        context.emit(&Event::Note {
            text: text.to_owned(),
        });
    }
    Ok(())
}

/// How a commit ended.
#[derive(Clone, Debug)]
pub enum Commit {
    /// It is in the store and counts.
    Acknowledged(Arc<SnapshotRecord>),
    /// A collector decided the session first. What was uploaded can be adopted by the next session, which decides every reuse anew.
    Fenced,
}

impl Session {
    /// Begins a session: W1 to W4. `adopted` names a fenced session of this process whose uploads are taken over.
    ///
    /// # Errors
    /// What the store says; `Unreachable` if collector rounds end faster than a session can begin.
    pub async fn begin(
        repository: &Repository,
        context: &Context,
        host: &str,
        adopted: Option<SessionId>,
    ) -> Result<Self> {
        if !repository.config().features.may_write() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a newer program must write to this repository; this one can read it",
            ));
        }
        probe(repository, context).await?;
        for _ in 0..TRIES {
            context.check_cancelled()?;
            // W1
            let epoch = Log::read(repository).await?.newest;
            let sid = SessionId {
                epoch,
                random: context.random.bytes()?,
            };
            let started = context.clock.now();
            let early = if mutated!(IndexFirst) {
                Some(View::load(repository, context, Purpose::Write).await?)
            } else {
                None
            };
            let record = SessionRecord {
                sid,
                host: host.to_owned(),
                started,
                nonce: context.random.bytes()?,
                parent_hint: None,
                adopted,
            };
            // W2: before every read that a reuse rests on.
            let put = repository.save(context, &record).await?;
            if !put.is_mine() {
                return Err(
                    Error::new(ErrorKind::Damaged, "another writer has this session's random id")
                        .with("session", sid),
                );
            }
            // W3 and W4: the view reads the log anew; a session that slept through a round must not live.
            let (view, newest) = if let Some(view) = early {
                (view, Log::newest_seal(repository).await?)
            } else {
                let view = View::load(repository, context, Purpose::Write).await?;
                let newest = view.log.newest;
                (view, newest)
            };
            if newest == epoch || mutated!(NoComparison) {
                return Ok(Self {
                    repository: repository.clone(),
                    sid,
                    started,
                    view: Arc::new(view),
                });
            }
            Self::abort_sid(
                repository,
                context,
                sid,
                "a collector round ended while the session began",
            )
            .await?;
        }
        Err(Error::new(
            ErrorKind::Unreachable,
            "collector rounds end faster than a session can begin",
        ))
    }

    /// Its id, which the snapshot will have.
    pub fn sid(&self) -> SessionId {
        self.sid
    }

    /// When it began, by this machine's clock.
    pub fn started(&self) -> Time {
        self.started
    }

    /// What was in the repository after it began: parents are chosen here.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// A writer whose blobs this session can commit.
    pub fn writer(&self, context: &Context) -> BlobWriter {
        BlobWriter::new(self.repository.clone(), context.clone(), self.sid, &self.view)
    }

    /// Commits: W7 and W8. `snapshot` must carry this session's id.
    ///
    /// # Errors
    /// What the store says; then the session may or may not be committed, and the next listing tells.
    pub async fn commit(
        &self,
        context: &Context,
        durable: Durable,
        snapshot: SnapshotRecord,
    ) -> Result<Commit> {
        if durable.sid() != self.sid || snapshot.sid != self.sid {
            return Err(Error::new(
                ErrorKind::Internal,
                "commit of another session's data",
            ));
        }
        context.check_cancelled()?;
        let decision = Decision::Commit(Box::new(snapshot));
        let put = self.repository.save(context, &decision).await?;
        if put == Put::Conflict {
            return Ok(Commit::Fenced);
        }
        // W8: if the fence was swept away meanwhile, the seal that allowed it came first and is seen here.
        let log = Log::read(&self.repository).await.map_err(|error| {
            error.hint("the snapshot was written, but nothing confirms that it counts: `holdall list` tells")
        })?;
        if log.is_void(&self.sid) && !mutated!(NoLastLook) {
            return Ok(Commit::Fenced);
        }
        match decision {
            Decision::Commit(snapshot) => Ok(Commit::Acknowledged(Arc::from(snapshot))),
            _ => Err(Error::new(ErrorKind::Internal, "commit of another decision")),
        }
    }

    /// Ends the session without a snapshot. What was uploaded can be claimed by later sessions. Gives false if a collector had ended it
    /// before: what it has listed since then may be gone.
    ///
    /// # Errors
    /// What the store says.
    pub async fn abort(&self, context: &Context, why: &str) -> Result<bool> {
        Self::abort_sid(&self.repository, context, self.sid, why).await
    }

    async fn abort_sid(
        repository: &Repository,
        context: &Context,
        sid: SessionId,
        why: &str,
    ) -> Result<bool> {
        let decision = Decision::Abort {
            sid,
            why: why.to_owned(),
            nonce: context.random.bytes()?,
        };
        // A conflict means that a collector has fenced it: it is ended either way.
        Ok(repository.save(context, &decision).await?.is_mine())
    }
}
