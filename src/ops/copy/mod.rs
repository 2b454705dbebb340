//! Copying snapshots into another repository: whole packs into a replica with the same keys, entries into one with keys of its own
//! (`format-spec/85-sessions.md` section 7).

mod apart;
mod entries;
mod known;
mod lag;
mod notes;
mod replica;

use super::list::{ListedSnapshot, list};
use super::unread::refuse_unread;
use crate::context::{Context, Time};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Outcome};
use crate::format::id::{RepositoryId, SessionId};
use crate::format::layout::ObjectName;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::{Commit, Durable, Needs, Repository, Session, View};
use crate::snapshot::{SnapshotFilter, SnapshotSpec, age_key};
pub use apart::same_store;
use known::Known;
pub(super) use known::let_go_unread;
pub use lag::{Lag, lag};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How often a snapshot is begun anew, because a collector fenced the session or moved what it was to copy.
const TRIES: u32 = 4;

/// What to copy.
#[derive(Clone, Debug, Default)]
pub struct CopyRequest {
    /// These snapshots; all that pass the filter if none is named.
    pub snapshots: Vec<SnapshotSpec>,
    /// Which snapshots count.
    pub filter: SnapshotFilter,
    /// This host's name.
    pub host: String,
    /// Say what would be copied, and write nothing.
    pub dry_run: bool,
}

/// A snapshot that was copied, or would be.
#[derive(Clone, Debug)]
pub struct CopiedSnapshot {
    /// Its record in the source.
    pub record: Arc<SnapshotRecord>,
    /// Its id in the target; none of a dry run.
    pub sid: Option<SessionId>,
    /// Bytes of packs and index runs that were stored for it.
    pub bytes_stored: u64,
}

/// A snapshot that could not be copied.
#[derive(Clone, Debug)]
pub struct NotCopied {
    /// Its record in the source.
    pub record: Arc<SnapshotRecord>,
    /// Why.
    pub why: Error,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct CopyReport {
    /// Snapshots that were copied, oldest first.
    pub copied: Vec<CopiedSnapshot>,
    /// How many of those asked for were there already.
    pub there: u64,
    /// How many of those asked for were let go there, and are not copied again.
    pub let_go: u64,
    /// Copies that were there and were given notes that they lacked, or newer ones.
    pub noted: u64,
    /// Snapshots that could not be copied.
    pub failed: Vec<NotCopied>,
    /// Packs that the source has lost or that are damaged there, and why.
    pub bad_packs: Vec<(String, String)>,
    /// Other objects of the source that cannot be read, and why: a snapshot may be missing from what was to be copied, or what is said of one.
    pub damaged: Vec<(String, String)>,
    /// Objects of the target that cannot be read, and why: nothing that was copied rests on them.
    pub damaged_there: Vec<(String, String)>,
    /// Key slots that a replica was made without, as the source's disk does not give them, and why.
    pub keys_left_out: Vec<(String, String)>,
    /// What ended the copy before every snapshot was tried, after damage was found; without damage it is the error of the copy.
    pub stopped: Option<Error>,
    /// Whether source and target have the same keys.
    pub same_keys: bool,
    /// Of a dry run with the same keys: packs that would be copied, and their bytes.
    pub planned: Option<(u64, u64)>,
    /// How far the target is behind afterwards.
    pub lag: Lag,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Seconds.
    pub seconds: f64,
}

impl CopyReport {
    /// Whether damage was found, on either side.
    pub fn is_damaged(&self) -> bool {
        let is_damage = |failed: &NotCopied| {
            matches!(
                failed.why.kind(),
                ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::WrongKey
            )
        };
        let lists = [
            &self.damaged,
            &self.damaged_there,
            &self.bad_packs,
            &self.keys_left_out,
        ];
        let is_named = lists.iter().any(|list| !list.is_empty());
        is_named || self.failed.iter().any(is_damage)
    }
}

/// What all parts of one copy share.
struct Job<'a> {
    context: &'a Context,
    source: &'a Repository,
    target: &'a Repository,
    host: &'a str,
    /// Whether the target has lost these: that of which a copy was let go there is copied too.
    is_to_bring_back: bool,
}

/// What became of one snapshot.
enum Ended {
    Copied(CopiedSnapshot),
    /// Another copy was faster: this is its record in the target.
    There(Arc<SnapshotRecord>),
    /// Somebody let it go there meanwhile.
    LetGo,
    Failed(Error),
}

/// The view of the source, which is read anew when a collector has ended a round there.
struct Source {
    view: View,
    needs: Needs,
}

/// What tells that two snapshots are copies of one another.
type Origin = (RepositoryId, SessionId);

/// What a snapshot of a repository was first.
fn origin_of(repository: &Repository, record: &SnapshotRecord) -> Origin {
    record.original.unwrap_or((repository.id(), record.sid))
}

/// Copies snapshots that the target does not have, oldest first. What the source lacks costs the snapshots that need it, no others. Whatever
/// interrupts it: what was uploaded is found by the next copy. `target` is nothing only for a dry run into an empty place.
///
/// # Errors
/// `NotFound` or `Invalid` for a snapshot that is not there, `Cancelled`, or what the stores say. Snapshots that cannot be copied are in the
/// report, and so is an error that ended the copy after damage was found. `Invalid` if source and target are one store.
pub async fn copy(
    context: &Context,
    source: &Repository,
    target: Option<&Repository>,
    request: &CopyRequest,
) -> Result<CopyReport> {
    copy_also(context, (source, target), request, false).await
}

/// As [`copy`], of snapshots that the target has lost: that a copy of one was let go there says nothing, it may have been one too many then.
/// The source may be the target as this machine remembers it.
///
/// # Errors
/// As [`copy`].
pub(super) async fn bring_back(
    context: &Context,
    source: &Repository,
    target: &Repository,
    request: &CopyRequest,
) -> Result<CopyReport> {
    copy_also(context, (source, Some(target)), request, true).await
}

async fn copy_also(
    context: &Context,
    (source, target): (&Repository, Option<&Repository>),
    request: &CopyRequest,
    is_to_bring_back: bool,
) -> Result<CopyReport> {
    let started = context.clock.now();
    let all = list(context, source, &SnapshotFilter::default()).await?;
    for spec in &request.snapshots {
        refuse_unread(spec, &all.unread)?;
    }
    let chosen = choose(&all.snapshots, request)?;
    let mut report = CopyReport {
        same_keys: target.is_none_or(|target| target.is_replica_of(source)),
        dry_run: request.dry_run,
        damaged: all.damaged,
        ..CopyReport::default()
    };
    report.damaged.extend(all.damaged_notes);
    let mut known = match target {
        Some(target) => {
            let view = target.view(context).await?;
            let told = |(name, error): &(ObjectName, Error)| (name.to_string(), error.to_string());
            report.damaged_there = view.damaged.iter().map(told).collect();
            Known::of(target, &view).await?
        }
        None => Known::default(),
    };
    let looks_alike = apart::looks_alike(&all.snapshots, &known);
    let mut missing = Vec::new();
    for snapshot in &chosen {
        let origin = origin_of(source, &snapshot.record);
        if known.there.contains_key(&origin) {
            report.there += 1;
        } else if known.is_let_go(&origin, is_to_bring_back) {
            report.let_go += 1;
        } else {
            missing.push(*snapshot);
        }
    }
    match target {
        Some(target) if !request.dry_run => {
            let job = Job {
                context,
                source,
                target,
                host: &request.host,
                is_to_bring_back,
            };
            if looks_alike && !is_to_bring_back {
                job.must_be_apart().await?;
            }
            job.bring(&chosen, &missing, (&mut known, &mut report)).await?;
        }
        _ => {
            if looks_alike && !is_to_bring_back {
                apart::cannot_tell(context);
            }
            if report.same_keys {
                let planned = replica::plan(context, source, target, &missing).await?;
                report.planned = Some(planned);
            }
            report.copied = missing.iter().map(|s| planned(s)).collect();
        }
    }
    let copied = report.copied.iter().filter(|copied| copied.sid.is_some());
    let copied = copied.map(|copied| copied.record.sid).collect();
    report.lag = Lag::of((context, source), &all.snapshots, (&known, &copied));
    report.seconds = context.clock.now().seconds_since(started);
    Ok(report)
}

fn planned(snapshot: &ListedSnapshot) -> CopiedSnapshot {
    CopiedSnapshot {
        record: snapshot.record.clone(),
        sid: None,
        bytes_stored: 0,
    }
}

/// The snapshots that are asked for, oldest first.
fn choose<'a>(all: &'a [ListedSnapshot], request: &CopyRequest) -> Result<Vec<&'a ListedSnapshot>> {
    let passes = |snapshot: &ListedSnapshot| request.filter.passes(&snapshot.record, &snapshot.tags);
    if request.snapshots.is_empty() {
        return Ok(all.iter().filter(|snapshot| passes(snapshot)).collect());
    }
    let records: Vec<_> = all.iter().map(|snapshot| snapshot.record.clone()).collect();
    let of_sid = |sid: &SessionId| all.iter().find(|snapshot| snapshot.record.sid == *sid);
    let counts = |record: &SnapshotRecord| of_sid(&record.sid).is_some_and(passes);
    let mut sids = BTreeSet::new();
    for spec in &request.snapshots {
        sids.insert(spec.whole()?.find(&records, &counts)?.sid);
    }
    Ok(all.iter().filter(|s| sids.contains(&s.record.sid)).collect())
}

impl Source {
    async fn read(job: &Job<'_>) -> Result<Self> {
        let view = job.source.view(job.context).await?;
        let needs = Needs::new(&view);
        Ok(Self { view, needs })
    }
}

impl Job<'_> {
    /// The snapshots that are missing, then what is said of those that were there. Of two things that went wrong damage is told: what ends
    /// the copy after it was found is in the report.
    async fn bring(
        &self,
        chosen: &[&ListedSnapshot],
        missing: &[&ListedSnapshot],
        (known, report): (&mut Known, &mut CopyReport),
    ) -> Result<()> {
        let mut brought = self.run(missing, known, report).await;
        if brought.is_ok() {
            brought = notes::complete(self, chosen, (known, report)).await;
        }
        match brought {
            Err(error) if error.kind() != ErrorKind::Cancelled && report.is_damaged() => {
                report.stopped = Some(error);
                Ok(())
            }
            brought => brought,
        }
    }

    async fn run(
        &self,
        missing: &[&ListedSnapshot],
        known: &mut Known,
        report: &mut CopyReport,
    ) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        self.context.emit(&Event::PhaseStarted {
            phase: "copy",
            entries: Some(missing.len() as u64),
            bytes: None,
        });
        let mut source = Source::read(self).await?;
        for snapshot in missing {
            self.context.check_cancelled()?;
            let ended = self.copy_one(&mut source, snapshot, report).await?;
            let outcome = match &ended {
                Ended::Failed(_) => Outcome::Failed,
                Ended::There(_) | Ended::LetGo => Outcome::Skipped,
                Ended::Copied(_) => Outcome::New,
            };
            self.context.emit(&Event::EntryDone {
                name: format!("snapshot {}", snapshot.record.sid.short()),
                outcome,
                bytes: snapshot.record.root.bytes,
            });
            match ended {
                Ended::Copied(copied) => report.copied.push(copied),
                Ended::There(copy) => {
                    let origin = origin_of(self.source, &snapshot.record);
                    known.there.insert(origin, copy);
                    report.there += 1;
                }
                Ended::LetGo => report.let_go += 1,
                Ended::Failed(why) => report.failed.push(NotCopied {
                    record: snapshot.record.clone(),
                    why,
                }),
            }
        }
        self.context.emit(&Event::PhaseEnded { phase: "copy" });
        Ok(())
    }

    async fn copy_one(
        &self,
        source: &mut Source,
        snapshot: &ListedSnapshot,
        report: &mut CopyReport,
    ) -> Result<Ended> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let ended = self.try_one(source, snapshot, report).await?;
            let again = match &ended {
                None => true,
                Some(Ended::Failed(_)) => source.needs.is_outdated(self.source, self.context).await?,
                Some(_) => false,
            };
            if let Some(ended) = ended
                && (!again || tries == 0)
            {
                return Ok(ended);
            }
            if tries == 0 {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "a collector of the target ended this copy again and again",
                )
                .hint("run the same command again: what was uploaded is found and not copied twice"));
            }
            *source = Source::read(self).await?;
        }
    }

    /// One session. Nothing if it was fenced.
    async fn try_one(
        &self,
        source: &mut Source,
        snapshot: &ListedSnapshot,
        report: &mut CopyReport,
    ) -> Result<Option<Ended>> {
        let session = Session::begin(self.target, self.context, self.host, None).await?;
        let known = Known::of(self.target, session.view()).await?;
        let origin = origin_of(self.source, &snapshot.record);
        let there = known.there.get(&origin);
        if there.is_none() && known.is_let_go(&origin, self.is_to_bring_back) {
            let why = "the snapshot was let go meanwhile";
            session.abort(self.context, why).await?;
            return Ok(Some(Ended::LetGo));
        }
        if let Some(copy) = there.cloned() {
            session
                .abort(self.context, "another copy of the snapshot was faster")
                .await?;
            return Ok(Some(Ended::There(copy)));
        }
        let brought = if report.same_keys {
            replica::bring(self, source, &session, (snapshot, report)).await
        } else {
            entries::bring(self, source, &session, (snapshot, &known)).await
        };
        let brought = match brought {
            Ok(Ok(brought)) => brought,
            Ok(Err(why)) => {
                self.abort(&session, &why).await;
                return Ok(Some(Ended::Failed(why)));
            }
            Err(error) => {
                self.abort(&session, &error).await;
                // What the session rested on went meanwhile: a collector has fenced it.
                return if error.kind() == ErrorKind::Conflict {
                    Ok(None)
                } else {
                    Err(error)
                };
            }
        };
        // The parent's copy, whatever the parent is called here.
        let parent = snapshot
            .record
            .parent
            .and_then(|parent| source.view.snapshot(&parent));
        let parent = parent.and_then(|parent| known.there.get(&origin_of(self.source, parent)));
        let parent = parent.map(|copy| copy.sid);
        let committed = self.commit(&session, snapshot, brought, parent).await;
        match committed {
            Ok(copied) => Ok(copied.map(Ended::Copied)),
            Err(error) => {
                self.abort(&session, &error).await;
                Err(error)
            }
        }
    }

    /// Notes, then the commit: no copy is ever without what is said of it.
    async fn commit(
        &self,
        session: &Session,
        snapshot: &ListedSnapshot,
        brought: Brought,
        parent: Option<SessionId>,
    ) -> Result<Option<CopiedSnapshot>> {
        let original = &snapshot.record;
        let record = SnapshotRecord {
            sid: session.sid(),
            parent,
            original: Some(origin_of(self.source, original)),
            nonce: self.context.random.bytes()?,
            ..brought.record
        };
        notes::carry(self, original, session).await?;
        let bytes_stored = brought.durable.counts.bytes_stored;
        let copied = match session.commit(self.context, brought.durable, record).await? {
            Commit::Fenced => None,
            Commit::Acknowledged(copied) => Some(CopiedSnapshot {
                record: original.clone(),
                sid: Some(copied.sid),
                bytes_stored,
            }),
        };
        Ok(copied)
    }

    /// Ends a session that came to nothing. What was uploaded is listed and can be claimed.
    async fn abort(&self, session: &Session, error: &Error) {
        if let Err(second) = session.abort(self.context, error.what()).await {
            let text = format!("the session could not be ended, a collector will: {second}");
            self.context.emit(&Event::Note { text });
        }
    }
}

/// What a session has brought, ready to be committed.
struct Brought {
    durable: Durable,
    /// As it is in the source, but for what names blobs there.
    record: SnapshotRecord,
}

/// A snapshot's age, for people: by its writer's clock, unless the store saw it at quite another time.
fn made(snapshot: &ListedSnapshot) -> (Time, SessionId) {
    (snapshot.made(), age_key(&snapshot.record).1)
}

/// Whether an error is about the snapshot that is read, so that others may be copied nevertheless.
fn is_about_snapshot(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Damaged
            | ErrorKind::NotFound
            | ErrorKind::WrongKey
            | ErrorKind::Unsupported
            | ErrorKind::Conflict
    )
}
