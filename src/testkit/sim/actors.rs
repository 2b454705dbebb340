//! Who works in a world: writers, collectors, those who let go and take back, readers, checkers, copiers and others. Each runs the real
//! code.

use super::dice::Dice;
use super::oracle::Oracle;
use super::seen::Seen;
use super::source::{Files, Project, Reading, read_all};
use super::store::{At, BEGIN, Both, Core, lock};
use crate::connector::Source;
use crate::context::mutant::mutated;
use crate::context::{Clock, Context, Time};
use crate::error::{ErrorKind, Result};
use crate::format::id::SessionId;
use crate::format::layout::ObjectName;
use crate::format::session::ForgetRecord;
use crate::format::snapshot::SnapshotRecord;
use crate::ops::{self, CheckRequest, CopyRequest, PruneRequest, RepairRequest, SnapshotRequest};
use crate::repository::collect::{CollectOptions, Unused, Worth};
use crate::repository::{Cache, Commit, ReadData, Repository, Session};
use crate::snapshot::{DeltaPolicy, SnapshotReader, SnapshotSpec, adopt};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// The clock of one machine: the world's, but wrong.
pub(super) struct SimClock {
    pub(super) begin: Instant,
    /// Milliseconds ahead.
    pub(super) skew: i64,
    /// Whoever sleeps oversleeps so many times.
    pub(super) stretch: u32,
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        let elapsed = i64::try_from(self.begin.elapsed().as_millis()).unwrap_or(i64::MAX);
        let begin = i64::try_from(BEGIN).unwrap_or_default() * 1000;
        let now = begin + elapsed + self.skew;
        Time {
            seconds: now.div_euclid(1000),
            nanos: u32::try_from(now.rem_euclid(1000)).unwrap_or_default() * 1_000_000,
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        tokio::time::sleep(duration * self.stretch).boxed()
    }
}

/// What an actor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Makes snapshots of a project.
    Writer {
        /// Its number.
        project: usize,
    },
    /// Collects.
    Collector,
    /// Collects, and copies nothing.
    Sweeper,
    /// Lets snapshots go, and takes some back.
    Forgetter,
    /// Restores snapshots, slowly.
    Restorer,
    /// Checks the whole repository.
    Checker,
    /// Copies all snapshots into the other store.
    Copier,
    /// Protects snapshots, or no longer.
    Protector,
    /// Mends what is damaged, from the other store if that is a replica.
    Repairer,
}

/// Somebody's place in a world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Post {
    pub(super) role: Role,
    pub(super) at: At,
    pub(super) operations: u32,
}

/// What survives the death of an actor's process: its machine.
pub(super) struct Machine {
    pub(super) role: Role,
    /// The store that it works on.
    pub(super) at: At,
    pub(super) number: usize,
    /// Operations that are left.
    pub(super) left: u32,
    pub(super) dice: Dice,
    pub(super) caches: Both<Arc<Cache>>,
    /// Milliseconds that its clock is ahead.
    pub(super) skew: i64,
}

/// What all actors of a world share.
pub(super) struct Shared {
    pub(super) oracles: Both<Mutex<Oracle>>,
    /// What each project holds now.
    pub(super) projects: Mutex<Vec<Project>>,
    /// Records of acknowledged snapshots, and who made them.
    pub(super) records: Mutex<HashMap<SessionId, (usize, Arc<SnapshotRecord>)>>,
    pub(super) lease: Duration,
    /// The longest pause between operations, in milliseconds.
    pub(super) pause: u64,
    pub(super) no_deltas: bool,
    /// Whether a script says what projects hold.
    pub(super) is_staged: bool,
    pub(super) has_replica: bool,
    pub(super) core: Arc<Mutex<Core>>,
}

impl Shared {
    pub(super) fn oracle(&self, at: At) -> MutexGuard<'_, Oracle> {
        lock(self.oracles.of(at))
    }

    /// What happened in both stores.
    pub(super) fn seen(&self) -> Seen {
        let mut seen = self.oracle(At::Home).seen;
        seen.add(&self.oracle(At::Replica).seen);
        seen
    }
}

/// One life of an actor.
pub(super) struct Life {
    pub(super) machine: Arc<Mutex<Machine>>,
    pub(super) context: Context,
    pub(super) at: At,
    pub(super) repositories: Both<Repository>,
    /// The one that it works on.
    pub(super) repository: Repository,
    pub(super) shared: Arc<Shared>,
}

impl Life {
    fn roll<T>(&self, roll: impl FnOnce(&mut Dice) -> T) -> T {
        roll(&mut lock(&self.machine).dice)
    }

    /// What is known of the store that it works on.
    fn oracle(&self) -> MutexGuard<'_, Oracle> {
        let mut oracle = self.shared.oracle(self.at);
        if self.clock_is_right() {
            oracle.tick(self.context.clock.now().seconds);
        }
        oracle
    }

    fn clock_is_right(&self) -> bool {
        lock(&self.machine).skew == 0
    }

    /// Works until nothing is left.
    pub(super) async fn run(self) {
        let (role, number) = {
            let machine = lock(&self.machine);
            (machine.role, machine.number)
        };
        loop {
            {
                let mut machine = lock(&self.machine);
                if machine.left == 0 {
                    break;
                }
                machine.left -= 1;
            }
            let pause = self.roll(|dice| dice.below(self.shared.pause + 1));
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let done = match role {
                Role::Writer { project } => self.snapshot(project).await,
                Role::Collector => self.collect(false).await,
                Role::Sweeper => self.collect(true).await,
                Role::Forgetter => self.forget().await,
                Role::Restorer => self.restore().await,
                Role::Checker => self.check().await,
                Role::Copier => self.copy().await,
                Role::Protector => self.protect().await,
                Role::Repairer => self.repair().await,
            };
            if let Err(error) = done {
                let who = format!("{role:?} {number}");
                let has_reserve = lock(&self.shared.core).stores.of(self.at).has_reserve();
                self.oracle().judge(&who, &error, has_reserve);
            }
        }
        if !self.context.budget.is_free() {
            // Tasks that were told to end may still hold some.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if !self.context.budget.is_free() {
            self.oracle()
                .accuse(format!("{role:?} {number} ends and holds memory"));
        }
    }

    async fn snapshot(&self, project: usize) -> Result<()> {
        let (files, pause, force) = {
            let mut machine = lock(&self.machine);
            let mut projects = lock(&self.shared.projects);
            let files = projects.get_mut(project).map(|project| {
                if !self.shared.is_staged {
                    project.change(&mut machine.dice);
                }
                Arc::new(project.files())
            });
            let pause = if machine.dice.permille(300) {
                machine.dice.below(self.shared.pause.min(20 * 60_000) + 1)
            } else {
                0
            };
            (files.unwrap_or_default(), pause, machine.dice.permille(100))
        };
        let request = SnapshotRequest {
            host: "host".into(),
            project: Some(format!("project {project}")),
            force_read: force,
            deltas: if self.shared.no_deltas {
                DeltaPolicy::Off
            } else {
                DeltaPolicy::default()
            },
            ..SnapshotRequest::default()
        };
        let reading = || Reading {
            files: files.clone(),
            what: "things".into(),
            pause,
        };
        let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> { Ok(Some(vec![Box::new(reading())])) };
        let report = ops::snapshot(&self.context, &self.repository, &request, &mut open).await?;
        self.acknowledge(report.snapshot, files.clone());
        Ok(())
    }

    fn acknowledge(&self, record: Arc<SnapshotRecord>, files: Arc<Files>) {
        self.oracle().acknowledge(record.sid, files);
        let number = lock(&self.machine).number;
        lock(&self.shared.records).insert(record.sid, (number, record));
    }

    async fn collect(&self, copies_nothing: bool) -> Result<()> {
        let lease = self.shared.lease;
        let options = self.roll(|dice| CollectOptions {
            max_unused: match dice.below(4) {
                _ if copies_nothing => Unused::Unlimited,
                0 => Unused::Unlimited,
                1 => Unused::Percent(20),
                _ => Unused::Bytes(0),
            },
            max_repack: if dice.permille(200) { 2_000 } else { u64::MAX },
            lease,
            take_over: if dice.permille(500) && !self.shared.is_staged {
                Duration::ZERO
            } else {
                lease
            },
            // Trees are small here.
            worth: Worth {
                nodes: 1,
                references: if dice.permille(500) { 4 } else { 64 },
            },
            ..CollectOptions::default()
        });
        let request = PruneRequest {
            options,
            confirmed: true,
            exclusive: false,
        };
        ops::prune(&self.context, &self.repository, &request)
            .await
            .map(drop)
    }

    async fn forget(&self) -> Result<()> {
        let (kept, gone) = {
            let oracle = self.oracle();
            (oracle.kept(), oracle.let_go())
        };
        if self.roll(|dice| dice.permille(250))
            && let Some((sid, Some(files))) = self.roll(|dice| dice.pick(&gone))
        {
            return self.undelete(sid, files).await;
        }
        let Some((sid, _)) = self.roll(|dice| dice.pick(&kept)) else {
            return Ok(());
        };
        let_go(&self.context, &self.repository, sid).await
    }

    /// A new session that commits the same root, if it may rest on all of it.
    async fn undelete(&self, sid: SessionId, files: Arc<Files>) -> Result<()> {
        if mutated!(UndeleteRemoves) {
            let name = ObjectName::Forget(sid);
            // Only of a snapshot that is still whole: so far it looks as if it could be had back.
            let view = self.repository.view(&self.context).await?;
            if view.has_forget(&sid) && !view.log.is_void(&sid) {
                self.repository.store().delete(&name).await?;
                self.oracle().remember(&sid);
            }
            return Ok(());
        }
        let record = lock(&self.shared.records).get(&sid).cloned();
        let Some((_, record)) = record else {
            return Ok(());
        };
        let session = Session::begin(&self.repository, &self.context, "host", None).await?;
        match adopt(&self.repository, &self.context, &session, &record).await? {
            None => session.abort(&self.context, "something is gone").await.map(drop),
            Some(durable) => {
                let mut record = (*record).clone();
                record.sid = session.sid();
                record.nonce = self.context.random.bytes()?;
                if let Commit::Acknowledged(record) = session.commit(&self.context, durable, record).await? {
                    self.acknowledge(record, files);
                }
                Ok(())
            }
        }
    }

    async fn restore(&self) -> Result<()> {
        let kept = self.oracle().kept();
        let Some((sid, files)) = self.roll(|dice| dice.pick(&kept)) else {
            return Ok(());
        };
        let pause = self.roll(|dice| dice.below(4 * self.shared.pause + 1));
        let mut found = restore(&self.context, &self.repository, sid, pause).await;
        // What was healed meanwhile is in runs that were not read: whoever tries again finds it.
        if found
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::Damaged)
            && self.oracle().is_damaged()
        {
            found = restore(&self.context, &self.repository, sid, pause).await;
        }
        let is_forgotten = self.oracle().is_forgotten(&sid);
        match found {
            Ok(Some(found)) => {
                let mut oracle = self.oracle();
                oracle.seen.restores += 1;
                if files.is_some_and(|files| found != *files) {
                    oracle.accuse(format!("snapshot {} is restored as something else", sid.short()));
                }
                Ok(())
            }
            Ok(None) if !is_forgotten => {
                self.oracle()
                    .accuse(format!("snapshot {} is not listed", sid.short()));
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Damaged && self.oracle().was_hit(&sid) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn check(&self) -> Result<()> {
        let request = CheckRequest {
            read_data: ReadData::All,
            ..CheckRequest::default()
        };
        let before = self.oracle().newest();
        let report = ops::check(&self.context, &self.repository, request).await?;
        let is_overtaken = before != self.oracle().newest();
        if is_overtaken || self.oracle().is_damaged() {
            return Ok(());
        }
        if let Some(finding) = report.findings.iter().find(|finding| finding.is_error) {
            let what = format!("the check says that {} {}", finding.object, finding.what);
            self.oracle().accuse(what);
        }
        Ok(())
    }

    /// Copies everything into the other store. Only of what was hit may anything be said to be lost.
    async fn copy(&self) -> Result<()> {
        let to = match self.at {
            At::Home => At::Replica,
            At::Replica => At::Home,
        };
        let request = CopyRequest {
            host: "host".into(),
            ..CopyRequest::default()
        };
        let target = self.repositories.of(to);
        let report = ops::copy(&self.context, &self.repository, Some(target), &request).await?;
        for copied in &report.copied {
            let original = self.oracle().original(&copied.record.sid);
            if let Some(sid) = copied.sid {
                self.shared.oracle(to).acknowledge_copy(sid, &original);
            }
        }
        let mut oracle = self.oracle();
        for failed in &report.failed {
            let (sid, why) = (failed.record.sid, &failed.why);
            let may_be = why.kind() == ErrorKind::Conflict || oracle.was_hit(&sid);
            if !may_be && !oracle.is_forgotten(&sid) {
                oracle.accuse(format!(
                    "a copy of {} says: {why} {:?}",
                    sid.short(),
                    why.causes()
                ));
            }
        }
        Ok(())
    }
}

/// Puts a forgets key.
pub(super) async fn let_go(context: &Context, repository: &Repository, sid: SessionId) -> Result<()> {
    let record = ForgetRecord {
        sid,
        who: "somebody".into(),
        why: "test".into(),
        time: context.clock.now(),
        nonce: context.random.bytes()?,
    };
    repository.save(context, &record).await.map(drop)
}

/// Makes a snapshot of a project, which is read in full.
pub(super) async fn snapshot_of(
    context: &Context,
    repository: &Repository,
    project: usize,
    files: Arc<Files>,
) -> Result<SessionId> {
    let request = SnapshotRequest {
        host: "host".into(),
        project: Some(format!("project {project}")),
        force_read: true,
        ..SnapshotRequest::default()
    };
    let reading = || Reading {
        files: files.clone(),
        what: "things".into(),
        pause: 0,
    };
    let mut open = || -> Result<Option<Vec<Box<dyn Source>>>> { Ok(Some(vec![Box::new(reading())])) };
    let report = ops::snapshot(context, repository, &request, &mut open).await?;
    Ok(report.snapshot.sid)
}

impl Life {
    /// A snapshot becomes protected, or no longer. One that was let go meanwhile is told to be.
    async fn protect(&self) -> Result<()> {
        let kept = self.oracle().kept();
        let Some((sid, _)) = self.roll(|dice| dice.pick(&kept)) else {
            return Ok(());
        };
        let protected = self.roll(|dice| dice.permille(600));
        let specs: [SnapshotSpec; 1] = [sid.name().parse()?];
        let noted = ops::protect(&self.context, &self.repository, &specs, protected).await;
        match noted {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Refused) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn repair(&self) -> Result<()> {
        let request = RepairRequest {
            host: "host".into(),
            read_data: ReadData::All,
            dry_run: false,
        };
        let from = self.shared.has_replica.then_some(&self.repositories.replica);
        let report = ops::repair(&self.context, &self.repository, from, &request).await?;
        let mut oracle = self.oracle();
        for hit in &report.hit {
            if !oracle.was_hit(&hit.sid) && !oracle.is_forgotten(&hit.sid) {
                oracle.accuse(format!("a repair says that {} is hit", hit.sid.short()));
            }
        }
        Ok(())
    }
}

/// The content of a snapshot; nothing if it is not listed.
pub(super) async fn restore(
    context: &Context,
    repository: &Repository,
    sid: SessionId,
    pause: u64,
) -> Result<Option<Files>> {
    let view = repository.view(context).await?;
    let Some(record) = view.snapshots().find(|record| record.sid == sid).cloned() else {
        return Ok(None);
    };
    let blobs = repository.reader_of(context, &view, sid);
    let reader = SnapshotReader::new(record, blobs, context.budget.total());
    read_all(&reader, pause).await.map(Some)
}
