//! Mending a repository: what its snapshots need is listed again or stored again, from what can be read here and from a replica. Nothing is
//! deleted, and nothing that is intact is touched (`format-spec/85-sessions.md` section 8).

mod lost;

use super::needs::ask_for;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::format::entry::{BlobRef, EntryRecord};
use crate::format::id::{BlobId, ObjectId, SessionId};
use crate::format::index::BlobKind;
use crate::format::layout::ObjectName;
use crate::format::node::Totals;
use crate::format::snapshot::SnapshotRecord;
use crate::repository::{
    BlobReader, BlobWriter, Cache, Mending, ReadData, Repository, Salvage, Session, Survey, SurveyReport,
    There,
};
use crate::snapshot::tree::{Marker, NodeSource, walk, walk_refs};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How often a repair is begun anew because a collector has ended a round meanwhile.
const TRIES: u32 = 8;
/// Entries that are named for each snapshot that is hit.
const NAMED_MAX: usize = 20;
/// Blobs that are fetched together.
const GROUP: usize = 32;

/// What to mend.
#[derive(Clone, Debug)]
pub struct RepairRequest {
    /// This host's name.
    pub host: String,
    /// How much of the data is read to find what is damaged; what checks have found before is known.
    pub read_data: ReadData,
    /// Say what would be done, and write nothing.
    pub dry_run: bool,
}

/// A snapshot that still does not restore wholly.
#[derive(Clone, Debug)]
pub struct StillHit {
    /// Which.
    pub sid: SessionId,
    /// The first entries that are hit.
    pub entries: Vec<String>,
    /// How many entries are hit.
    pub entries_hit: u64,
    /// Parts of its tree that cannot be read, with all entries below them.
    pub nodes_hit: u64,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// Packs that are missing or damaged, and why; writers rest on none of them any more.
    pub bad_packs: Vec<(String, String)>,
    /// Other objects that are damaged, and why: index runs, notes, snapshots.
    pub damaged: Vec<(String, String)>,
    /// Packs that no run listed and that are listed again.
    pub packs_listed: u64,
    /// Blobs that are stored anew.
    pub blobs_stored: u64,
    /// Their bytes.
    pub bytes_stored: u64,
    /// How many of them came from the replica.
    pub blobs_from_replica: u64,
    /// Snapshots whose records were unreadable and that came back from what this machine remembers or from the replica.
    pub snapshots_back: Vec<SessionId>,
    /// Snapshots whose records cannot be read and that came back before, under other ids.
    pub snapshots_there: Vec<SessionId>,
    /// Snapshots whose records cannot be read and that somebody had let go: they do not come back.
    pub snapshots_let_go: Vec<SessionId>,
    /// Those of all these whose records the disk does not give though it gives others: a collection goes on without such a record only once
    /// the snapshot is let go and taken for lost.
    pub snapshots_not_given: Vec<SessionId>,
    /// Snapshots that still do not restore wholly.
    pub hit: Vec<StillHit>,
    /// Snapshots whose own records cannot be read, and of which nothing else is here.
    pub unreadable: Vec<SessionId>,
    /// Why bad packs could not be set aside: what is stored later may rest on them.
    pub not_set_aside: Option<String>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Seconds.
    pub seconds: f64,
}

impl RepairReport {
    /// Whether something is still lost.
    pub fn has_loss(&self) -> bool {
        !self.hit.is_empty() || !self.unreadable.is_empty()
    }

    /// Whether something is still lost, or something else may be lost by what is stored later.
    pub fn is_damaged(&self) -> bool {
        self.has_loss() || self.not_set_aside.is_some()
    }

    /// Whether anything was, or would be, done.
    pub fn has_work(&self) -> bool {
        self.packs_listed + self.blobs_stored > 0 || !self.snapshots_back.is_empty()
    }
}

/// Mends a repository. `from` is a replica of it.
///
/// # Errors
/// `Invalid` if `from` has other keys, `Damaged` if nobody can tell which snapshots count, `Cancelled`, or what the stores say. What is lost
/// for good is in the report.
pub async fn repair(
    context: &Context,
    repository: &Repository,
    from: Option<&Repository>,
    request: &RepairRequest,
) -> Result<RepairReport> {
    let started = context.clock.now();
    if from.is_some_and(|from| !from.is_replica_of(repository)) {
        return Err(no_replica());
    }
    context.emit(&Event::PhaseStarted {
        phase: "repair",
        entries: None,
        bytes: None,
    });
    let survey = Survey::run(repository, context, request.read_data).await?;
    let mut report = RepairReport {
        dry_run: request.dry_run,
        ..RepairReport::default()
    };
    found(&survey, &mut report);
    if !request.dry_run {
        report.not_set_aside.clone_from(&survey.not_set_aside);
    }
    let theirs = match from {
        Some(from) => Some(from.reader(context, &from.view(context).await?)),
        None => None,
    };
    // What others find in the store: this machine may remember an object as it was.
    let others = repository.elsewhere(repository.store().clone(), Arc::new(Cache::in_memory()?));
    let mut job = Job {
        context,
        repository: &others,
        request,
        bad: survey.bad_packs,
        theirs,
        from_replica: AtomicU64::new(0),
    };
    let mut tries = TRIES;
    loop {
        let stored = report.blobs_stored;
        let is_done = Box::pin(job.mend(&mut report)).await?;
        // A base that came back makes deltas readable that were given up before it.
        let has_helped = !report.hit.is_empty() && report.blobs_stored > stored && !request.dry_run;
        tries -= 1;
        if is_done && (!has_helped || tries == 0) {
            break;
        }
        if tries == 0 {
            let what = "collectors end rounds faster than this repository can be mended";
            return Err(Error::new(ErrorKind::Busy, what).hint("run the command again when they have ended"));
        }
    }
    report.blobs_from_replica = job.from_replica.load(Ordering::Relaxed);
    for from in [Some(repository), from].into_iter().flatten() {
        Box::pin(lost::bring_back(&job, from, &mut report)).await?;
    }
    if !request.dry_run {
        // What stands for them is here, and who reads finds them as others do. What the disk may give again is no worse for being remembered.
        let back = report.snapshots_back.iter().chain(&report.snapshots_there);
        for sid in back.filter(|sid| !report.snapshots_not_given.contains(sid)) {
            repository.cache().remove(&ObjectName::Snapshot(*sid));
        }
    }
    context.emit(&Event::PhaseEnded { phase: "repair" });
    report.seconds = context.clock.now().seconds_since(started);
    Ok(report)
}

/// What is said of a repository with other keys that is to heal one.
pub fn no_replica() -> Error {
    let what = "a repository with keys of its own cannot heal this one";
    Error::new(ErrorKind::Invalid, what)
        .hint("give a replica, which has the same keys; `holdall copy` brings snapshots from any other")
}

/// What the survey has found, packs apart from the rest.
fn found(survey: &SurveyReport, report: &mut RepairReport) {
    let bad: BTreeSet<String> = survey
        .bad_packs
        .iter()
        .map(|id| ObjectName::Pack(*id).to_string())
        .collect();
    for finding in survey.findings.iter().filter(|finding| finding.is_error) {
        let told = (finding.object.clone(), finding.what.clone());
        if bad.contains(&finding.object) {
            report.bad_packs.push(told);
        } else {
            report.damaged.push(told);
        }
    }
}

/// What all parts of one repair share.
struct Job<'a> {
    context: &'a Context,
    repository: &'a Repository,
    request: &'a RepairRequest,
    /// Packs that are missing or damaged, as far as is known.
    bad: Vec<ObjectId>,
    theirs: Option<BlobReader>,
    from_replica: AtomicU64,
}

/// Blobs from here, else from the replica.
#[derive(Clone)]
struct Healer {
    here: BlobReader,
    theirs: Option<BlobReader>,
    /// Blobs that could not be read here.
    failed: Arc<Mutex<BTreeSet<BlobId>>>,
}

impl Healer {
    /// The blob, and whether the replica gave it.
    async fn get(&self, kind: BlobKind, id: &BlobId) -> Result<(Bytes, bool)> {
        let error = match self.here.get(kind, id).await {
            Ok(bytes) => return Ok((bytes, false)),
            Err(error) => error,
        };
        if is_loss(&error) {
            self.failed.lock().map_err(poisoned)?.insert(*id);
        }
        match &self.theirs {
            Some(theirs) if is_loss(&error) => match theirs.get(kind, id).await {
                Ok(bytes) => Ok((bytes, true)),
                Err(theirs) if is_loss(&theirs) => Err(error),
                Err(theirs) => Err(theirs),
            },
            _ => Err(error),
        }
    }
}

impl NodeSource for Healer {
    fn node(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>> {
        async move { Ok(self.get(BlobKind::Node, &id).await?.0) }.boxed()
    }

    fn list(&self, id: BlobId) -> BoxFuture<'_, Result<Bytes>> {
        async move { Ok(self.get(BlobKind::List, &id).await?.0) }.boxed()
    }

    fn prefetch(&self, ids: &[BlobId]) {
        // A hint: what cannot be fetched is told when it is asked for.
        let _ = self.here.prefetch(ids);
    }
}

fn poisoned<T>(_: PoisonError<T>) -> Error {
    Error::new(ErrorKind::Internal, "what could not be read is poisoned")
}

fn is_loss(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Damaged | ErrorKind::NotFound | ErrorKind::WrongKey | ErrorKind::Unsupported
    )
}

impl Job<'_> {
    /// One try: gives false if a collector has ended a round meanwhile.
    async fn mend(&mut self, report: &mut RepairReport) -> Result<bool> {
        let mut salvage = Salvage::read(self.repository, self.context, &self.bad).await?;
        let healer = Healer {
            here: salvage.reader()?,
            theirs: self.theirs.clone(),
            failed: Arc::default(),
        };
        let mut passed = 0;
        let snapshots: Vec<_> = salvage.view.snapshots().cloned().collect();
        for record in &snapshots {
            self.context.check_cancelled()?;
            passed += ask_for(&healer, record, &mut salvage.needs, is_loss).await?;
        }
        if self.find_more(&healer, report).await? {
            return Ok(false);
        }
        lost::sort_out(self.repository, &salvage.view, report).await?;
        let mut there = There::planned(&self.repository.view_of_writer(self.context).await?);
        there.avoid(&self.bad);
        let planned = salvage.plan(&there);
        let lost = if planned.is_empty() {
            BTreeSet::new()
        } else if self.request.dry_run {
            self.try_all(&healer, &planned, report).await?
        } else {
            match self.apply(&mut salvage, &healer, report).await? {
                Some(lost) => lost,
                None => return Ok(false),
            }
        };
        report.hit.clear();
        if passed > 0 || !lost.is_empty() {
            for record in &snapshots {
                self.context.check_cancelled()?;
                report.hit.extend(name(&healer, record, &lost).await?);
            }
        }
        Ok(true)
    }

    /// Trees were read on the way: packs that turned out to be bad then are set aside too, before anything is planned. Gives whether there are any.
    async fn find_more(&mut self, healer: &Healer, report: &mut RepairReport) -> Result<bool> {
        let failed = std::mem::take(&mut *healer.failed.lock().map_err(poisoned)?);
        let mut found: BTreeSet<ObjectId> = failed.iter().flat_map(|id| healer.here.blame(id)).collect();
        found.retain(|pack| !self.bad.contains(pack));
        if found.is_empty() {
            return Ok(false);
        }
        let found: Vec<ObjectId> = found.into_iter().collect();
        for pack in &found {
            let what = "does not give what snapshots need of it";
            report
                .bad_packs
                .push((ObjectName::Pack(*pack).to_string(), what.to_owned()));
        }
        if !self.request.dry_run {
            match self.repository.set_packs_aside(self.context, &found).await {
                Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::StoreFull) => {
                    report.not_set_aside = Some(error.to_string());
                }
                set_aside => set_aside?,
            }
        }
        self.bad.extend(found);
        Ok(true)
    }

    /// Reads what would be stored anew. Gives what cannot be read.
    async fn try_all(
        &self,
        healer: &Healer,
        planned: &Mending,
        report: &mut RepairReport,
    ) -> Result<BTreeSet<BlobId>> {
        report.packs_listed = planned.packs_listed();
        let mut lost = BTreeSet::new();
        for (kind, id) in &planned.again {
            self.context.check_cancelled()?;
            match healer.get(*kind, id).await {
                Ok((bytes, theirs)) => self.count(bytes.len(), theirs, report),
                Err(error) if is_loss(&error) => drop(lost.insert(*id)),
                Err(error) => return Err(error),
            }
        }
        Ok(lost)
    }

    fn count(&self, bytes: usize, theirs: bool, report: &mut RepairReport) {
        report.blobs_stored += 1;
        report.bytes_stored += bytes as u64;
        self.from_replica.fetch_add(u64::from(theirs), Ordering::Relaxed);
        self.context.emit(&Event::Progress { bytes: bytes as u64 });
    }

    /// A session that lists and stores what is missing, and ends without a snapshot: its runs count for all who read, the next
    /// collection takes them over, and the next snapshot of the same data claims them. Gives nothing if a collector may not have seen them.
    async fn apply(
        &self,
        salvage: &mut Salvage,
        healer: &Healer,
        report: &mut RepairReport,
    ) -> Result<Option<BTreeSet<BlobId>>> {
        let session = Session::begin(self.repository, self.context, &self.request.host, None).await?;
        let mut writer = session.writer(self.context);
        let applied = self
            .apply_in(&session, &mut writer, salvage, (healer, report))
            .await;
        // What is stored already serves, whatever ended the rest.
        let flushed = writer.flush().await;
        let ended = session
            .abort(self.context, "a repair ends without a snapshot")
            .await;
        let applied = applied?;
        flushed?;
        // W8, for want of a commit: a collector that ended the session, or a round, may have marked without these runs. What it killed
        // is to be mended once more.
        let counts = ended? && !salvage.needs.is_outdated(self.repository, self.context).await?;
        Ok(applied.filter(|_| counts))
    }

    async fn apply_in(
        &self,
        session: &Session,
        writer: &mut BlobWriter,
        salvage: &mut Salvage,
        (healer, report): (&Healer, &mut RepairReport),
    ) -> Result<Option<BTreeSet<BlobId>>> {
        if !salvage.is_of(session.view()) {
            return Ok(None);
        }
        salvage.needs.forget_copied();
        let mut there = writer.there().await?;
        there.avoid(&self.bad);
        let mending = salvage.plan(&there);
        writer.list_again(&mending).await?;
        report.packs_listed = report.packs_listed.max(mending.packs_listed());
        let mut lost = BTreeSet::new();
        for group in mending.again.chunks(GROUP) {
            let ids: Vec<BlobId> = group.iter().map(|(_, id)| *id).collect();
            healer.prefetch(&ids);
            for (kind, id) in group {
                match self.store(writer, healer, (*kind, id), report).await {
                    Err(error) if is_loss(&error) => drop(lost.insert(*id)),
                    stored => stored?,
                }
            }
        }
        Ok(Some(lost))
    }

    async fn store(
        &self,
        writer: &mut BlobWriter,
        healer: &Healer,
        (kind, id): (BlobKind, &BlobId),
        report: &mut RepairReport,
    ) -> Result<()> {
        let (bytes, theirs) = writer.alive_during(healer.get(kind, id)).await??;
        let held = self.context.budget.reserve(bytes.len() as u64).await;
        let stored = writer.put(kind, *id, &bytes, held).await;
        // Damage found while writing is not a loss of this blob: the session cannot go on.
        let stored = stored.map_err(|error| {
            Error::new(ErrorKind::Internal, "what was read could not be stored again").because(error)
        })?;
        if stored {
            self.count(bytes.len(), theirs, report);
        }
        Ok(())
    }
}

/// What of a snapshot is lost, by name.
async fn name(
    healer: &Healer,
    record: &Arc<SnapshotRecord>,
    lost: &BTreeSet<BlobId>,
) -> Result<Option<StillHit>> {
    let mut hits = Hits {
        lost,
        entry: None,
        hit: StillHit {
            sid: record.sid,
            entries: Vec::new(),
            entries_hit: 0,
            nodes_hit: 0,
        },
    };
    walk(healer, &record.root, &mut hits).await?;
    if let Some((level, refs)) = &record.incident_list {
        hits.entry = Some("(the list of incidents)".to_owned());
        walk_refs(healer, (*level, refs), &mut hits).await?;
    }
    let hit = hits.hit;
    Ok((hit.entries_hit + hit.nodes_hit > 0).then_some(hit))
}

struct Hits<'a> {
    lost: &'a BTreeSet<BlobId>,
    /// The entry that was told last, until it is counted.
    entry: Option<String>,
    hit: StillHit,
}

impl Hits<'_> {
    fn hit_entry(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.hit.entries_hit += 1;
            if self.hit.entries.len() < NAMED_MAX {
                self.hit.entries.push(entry);
            }
        }
    }
}

impl Marker for Hits<'_> {
    fn node(&mut self, _: BlobId, _: u8, _: Totals) -> bool {
        true
    }

    fn list(&mut self, list: &BlobRef) -> bool {
        if self.lost.contains(&list.id) {
            self.hit_entry();
            return false;
        }
        true
    }

    fn data(&mut self, chunk: &BlobRef) {
        if self.lost.contains(&chunk.id) {
            self.hit_entry();
        }
    }

    fn entry(&mut self, entry: &EntryRecord) {
        self.entry = Some(entry.key.to_string());
    }

    fn failed(&mut self, error: Error) -> Result<()> {
        if !is_loss(&error) {
            return Err(error);
        }
        self.hit.nodes_hit += 1;
        Ok(())
    }
}
