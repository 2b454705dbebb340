//! Looks at every object of the store itself, never at the cache: what is damaged, missing, or should not be there.
//!
//! What trees say is not known here; `ops::check` walks them over the same view.

mod aside;
mod data;
mod missing;
mod remember;
mod without_key;

pub(crate) use aside::Aside;
pub(super) use aside::at_risk;
pub use data::DataRequest;
use data::is_chosen;
pub use without_key::survey_without_key;

use super::Repository;
use super::index::PackNumber;
use super::ledger::Ledger;
use super::log::Log;
use super::view::of_one_object;
use crate::context::{Context, Time};
use crate::crypto::{open_record, open_run, read_slot_kind, slot_label};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Record;
use crate::format::collect::{CondemnedRecord, LedgerRecord, RefsRecord, SealRecord, StateRecord};
use crate::format::header::check_trailer;
use crate::format::id::ObjectId;
use crate::format::index::{BlobKind, Tables};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::note::StampedNote;
use crate::format::repo_config::ConfigRecord;
use crate::format::session::{ForgetRecord, SessionRecord};
use crate::format::snapshot::Decision;
use crate::store::Listed;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use remember::Memory;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;

/// How much of the data packs is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadData {
    /// None: their presence and sizes are compared with the index.
    #[default]
    None,
    /// Those whose id falls into part `part` (from 1) of `of`.
    Part {
        /// 1 to `of`.
        part: u32,
        /// How many parts there are.
        of: u32,
    },
    /// So many percent, chosen anew each time.
    Percent(u8),
    /// All.
    All,
}

/// Something that is not as it must be.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The object, or what else is hit.
    pub object: String,
    /// What is wrong.
    pub what: String,
    /// Whether data is lost or at risk; else it is worth knowing only.
    pub is_error: bool,
    /// What of which snapshots it hits, where that was looked at.
    pub hit: Option<Hit>,
    /// Whether it is of a pack whose whole content can be read without it, or of the record of a snapshot that a copy stands for.
    pub is_elsewhere: bool,
}

/// What of snapshots cannot be restored because of something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// The snapshots, the first [`Hit::SNAPSHOTS_MAX`] by their full names.
    pub snapshots: Vec<String>,
    /// How many there are.
    pub snapshots_all: u64,
    /// Entries as people write them, the first [`Hit::PATHS_MAX`].
    pub paths: Vec<String>,
    /// Whether these are not all.
    pub more_paths: bool,
}

impl Hit {
    /// Snapshots that are named.
    pub const SNAPSHOTS_MAX: usize = 100;
    /// Entries that are named.
    pub const PATHS_MAX: usize = 20;

    /// Adds a snapshot that was not added before.
    pub(crate) fn add_snapshot(&mut self, name: &str) {
        self.snapshots_all += 1;
        if self.snapshots.len() < Self::SNAPSHOTS_MAX {
            self.snapshots.push(name.to_owned());
        }
    }

    /// Adds an entry, unless it is named already.
    pub(crate) fn add_path(&mut self, path: &str) {
        if self.paths.iter().any(|known| known == path) {
            return;
        }
        if self.paths.len() < Self::PATHS_MAX {
            self.paths.push(path.to_owned());
        } else {
            self.more_paths = true;
        }
    }
}

impl Finding {
    /// Data is lost or at risk.
    pub fn error(object: impl Display, what: impl Display) -> Self {
        Self {
            object: object.to_string(),
            what: what.to_string(),
            is_error: true,
            hit: None,
            is_elsewhere: false,
        }
    }

    /// Worth knowing.
    pub fn note(object: impl Display, what: impl Display) -> Self {
        Self {
            is_error: false,
            ..Self::error(object, what)
        }
    }
}

/// What was looked at.
#[derive(Clone, Debug, Default)]
pub struct SurveyReport {
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The newest collector round when it began to look.
    pub(crate) round: u64,
    /// Objects in the store.
    pub objects: u64,
    /// Packs in the store.
    pub packs: u64,
    /// Packs that were read whole.
    pub packs_read: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// Blobs that were compared with their ids.
    pub blobs_verified: u64,
    /// Packs that are missing or damaged.
    pub bad_packs: Vec<ObjectId>,
    /// Those of them that the ledger had set aside before, and what may rest on them.
    pub(crate) set_aside: HashMap<ObjectId, Aside>,
    /// Those of them that hold nothing that cannot be read without them.
    pub(crate) elsewhere: HashSet<ObjectId>,
    /// Why packs that are bad could not be written into the ledger, though that was tried: writers go on resting on them.
    pub not_set_aside: Option<String>,
    /// Packs that were to be read and were not, because the time was up.
    pub packs_left: u64,
    /// Their bytes.
    pub bytes_left: u64,
    /// What the ledger says now of packs, if data was to be read.
    pub reads: Option<Reads>,
    /// Packs that no finished session lists: left by interrupted runs, reused by the next ones.
    pub packs_unlisted: u64,
    /// Their bytes.
    pub bytes_unlisted: u64,
    /// Objects that count no more: a collection was allowed to delete them, and has not yet.
    pub objects_void: u64,
    /// Their bytes.
    pub bytes_void: u64,
}

/// When packs were read whole for the last time, by anyone who could write it down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Packs that never were.
    pub never: u64,
    /// The oldest of the last times, of the others.
    pub oldest: Option<Time>,
}

impl SurveyReport {
    fn error(&mut self, object: impl Display, what: impl Display) {
        self.findings.push(Finding::error(object, what));
    }

    fn note(&mut self, object: impl Display, what: impl Display) {
        self.findings.push(Finding::note(object, what));
    }
}

/// A survey in progress.
pub struct Survey<'a> {
    repository: &'a Repository,
    context: &'a Context,
    report: SurveyReport,
    sizes: HashMap<ObjectName, u64>,
    /// Pack → rows of the runs that list it, one table for each pack.
    listed: HashMap<ObjectId, Arc<Tables>>,
    /// Packs that are read whatever else is: the ledger has set them aside, or an earlier look has found them bad.
    doubtful: HashSet<ObjectId>,
    /// Packs of which all was told that can be told: they were read with their deltas, or are gone with reason.
    looked: HashSet<ObjectId>,
    /// What the ledger said before anything was listed: a session that is not listed rests on nothing that was set aside then.
    ledger: Ledger,
    log: Log,
    memory: Memory,
}

/// How often everything is listed again because a collector's round ended meanwhile.
const TRIES: u32 = 4;

impl<'a> Survey<'a> {
    /// Looks at everything, and reads data packs as far as `read_data` says; packs with nodes are always read.
    ///
    /// # Errors
    /// What the store says when it cannot be read at all; damage is a finding.
    pub async fn run(
        repository: &'a Repository,
        context: &'a Context,
        read_data: ReadData,
    ) -> Result<SurveyReport> {
        let reads = read_data != ReadData::None;
        let mut survey = Self::structure(repository, context, reads).await?;
        if reads {
            let request = DataRequest {
                read_data,
                ..DataRequest::default()
            };
            survey.read_data(request).await?;
        }
        survey.finish().await
    }

    /// Looks at everything but the content of data packs; packs with nodes are read whole, with their deltas if `deltas` says so.
    ///
    /// # Errors
    /// What the store says when it cannot be read at all; damage is a finding.
    pub async fn structure(repository: &'a Repository, context: &'a Context, deltas: bool) -> Result<Self> {
        Self::look(repository, context, (deltas, &[])).await
    }

    /// Looks again after `before` has found something wrong while a collector ended a round: at all but the data that was read and
    /// found right. What a reader may not find because it is gone with reason is no damage.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn again(
        repository: &'a Repository,
        context: &'a Context,
        before: &SurveyReport,
    ) -> Result<SurveyReport> {
        let doubtful = &before.bad_packs;
        let survey = Self::look(repository, context, (false, doubtful)).await?;
        let mut again = survey.finish().await?;
        // What the first look found is news, though it has set it aside itself.
        again.set_aside.retain(|id, _| before.set_aside.contains_key(id));
        Ok(SurveyReport {
            packs_read: before.packs_read + again.packs_read,
            bytes_read: before.bytes_read + again.bytes_read,
            blobs_verified: before.blobs_verified + again.blobs_verified,
            packs_left: before.packs_left,
            bytes_left: before.bytes_left,
            reads: before.reads,
            ..again
        })
    }

    /// Whether a collector has ended a round since a survey began.
    ///
    /// # Errors
    /// What the store says.
    pub async fn is_outdated(repository: &Repository, report: &SurveyReport) -> Result<bool> {
        Ok(Log::newest_seal(repository).await? != report.round)
    }

    async fn look(
        repository: &'a Repository,
        context: &'a Context,
        (deltas, doubtful): (bool, &[ObjectId]),
    ) -> Result<Self> {
        let ledger = Ledger::read(repository).await?;
        let doubtful = doubtful.iter().chain(&ledger.quarantined);
        let mut survey = Self {
            repository,
            context,
            report: SurveyReport::default(),
            sizes: HashMap::new(),
            listed: HashMap::new(),
            doubtful: doubtful.copied().collect(),
            looked: HashSet::new(),
            ledger,
            log: Log::default(),
            memory: Memory::new(context.clock.now(), repository.store().is_writable()),
        };
        match survey.list_stably().await {
            Ok(log) => {
                survey.missing(&log).await?;
                survey.log = log;
            }
            Err(error) if super::view::is_damage(&error) => {
                let object = error.context("object").unwrap_or("gc/").to_owned();
                survey.report.error(object, error);
            }
            Err(error) => return Err(error),
        }
        survey.void();
        survey.records().await?;
        survey.packs(deltas).await?;
        Ok(survey)
    }

    /// Lists everything, with the log that it was listed under.
    async fn list_stably(&mut self) -> Result<Log> {
        let mut tries = 0;
        loop {
            self.report.round = Log::newest_seal(self.repository).await?;
            self.list().await?;
            tries += 1;
            let log = Log::read(self.repository).await?;
            if log.newest == self.report.round || tries == TRIES {
                return Ok(log);
            }
            self.report = SurveyReport::default();
            self.sizes.clear();
        }
    }

    /// What was found so far.
    pub fn report(&self) -> &SurveyReport {
        &self.report
    }

    /// Ends the survey: what was found damaged, and what was verified, is written into the ledger, if the store lets.
    ///
    /// # Errors
    /// What the store says.
    pub async fn finish(mut self) -> Result<SurveyReport> {
        (self.report.set_aside, self.report.elsewhere) = self.stand().await?;
        self.remember_all().await?;
        Ok(self.report)
    }

    async fn list(&mut self) -> Result<()> {
        let mut listed = self.repository.store().list(Prefix::All);
        while let Some(item) = listed.next().await {
            match item? {
                Listed::Object(info) => {
                    self.report.objects += 1;
                    self.sizes.insert(info.name, info.size);
                }
                Listed::Foreign { name, .. } => self
                    .report
                    .note(name, "not an object of a repository; nothing reads it"),
            }
        }
        Ok(())
    }

    /// Counts what is left of collections.
    fn void(&mut self) {
        for (name, size) in &self.sizes {
            if super::collect::may_go(&self.log, name) {
                self.report.objects_void += 1;
                self.report.bytes_void += size;
            }
        }
    }

    /// Reads every object but packs from the store, and decodes it.
    async fn records(&mut self) -> Result<()> {
        let mut names: Vec<ObjectName> = self
            .sizes
            .keys()
            .filter(|name| !matches!(name, ObjectName::Pack(_)))
            .copied()
            .collect();
        names.sort_unstable();
        let store = self.repository.store().clone();
        let gets = names.into_iter().map(|name| {
            let store = store.clone();
            async move { (name, store.get(&name).await) }
        });
        let mut gets = stream::iter(gets).buffered(self.repository.concurrency());
        while let Some((name, got)) = gets.next().await {
            self.context.check_cancelled()?;
            match got {
                Ok(bytes) => {
                    if let Err(error) = self.record(name, &bytes) {
                        self.report.error(name, error);
                    }
                }
                // Deleted by a collector between list and get.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let error = of_one_object(self.repository.store(), error).await?;
                    self.report.error(name, error);
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, name: ObjectName, bytes: &Bytes) -> Result<()> {
        let repository = self.repository;
        let keyring = repository.keyring();
        match name {
            ObjectName::Marker => repository
                .config()
                .check_marker(bytes)
                .map(drop)
                .map_err(Error::from),
            ObjectName::Key(slot) => {
                read_slot_kind(bytes)?;
                slot_label(keyring, slot, bytes)?;
                Ok(())
            }
            ObjectName::SessionRun(..) | ObjectName::CollectorRun(..) => {
                let tables = open_run(keyring, &name, bytes)?;
                if self.log.is_valid(&name) {
                    self.run_record(name, &tables);
                }
                Ok(())
            }
            ObjectName::Config(_) => self.opens::<ConfigRecord>(name, bytes),
            ObjectName::Session(_) => self.opens::<SessionRecord>(name, bytes),
            ObjectName::Snapshot(_) => self.opens::<Decision>(name, bytes),
            ObjectName::Forget(_) => self.opens::<ForgetRecord>(name, bytes),
            ObjectName::Condemned(_) => self.opens::<CondemnedRecord>(name, bytes),
            ObjectName::State(..) => self.opens::<StateRecord>(name, bytes),
            ObjectName::Seal(_) => self.opens::<SealRecord>(name, bytes),
            ObjectName::Note(..) => self.opens::<StampedNote>(name, bytes),
            ObjectName::Refs(_) => self.opens::<RefsRecord>(name, bytes),
            ObjectName::Ledger(_) => self.opens::<LedgerRecord>(name, bytes),
            // From 128 on: what a probe could not delete.
            ObjectName::Reserve(number) if number >= 128 => Ok(()),
            ObjectName::Reserve(_) => check_trailer(bytes).map(drop).map_err(Error::from),
            ObjectName::Pack(_) => Ok(()),
        }
    }

    fn opens<R: Record>(&self, name: ObjectName, bytes: &[u8]) -> Result<()> {
        open_record::<R>(self.repository.keyring(), &name, bytes)?;
        Ok(())
    }

    /// A pack that the newest round killed may still stand in a run of a young session: it is gone, or may go.
    fn run_record(&mut self, name: ObjectName, tables: &Tables) {
        let mut builder = super::index::IndexBuilder::new(self.log.dead.clone());
        builder.add(tables, false);
        let index = builder.finish();
        let all: BTreeSet<PackNumber> = (0u32..)
            .zip(index.packs())
            .map(|(at, _)| PackNumber(at))
            .collect();
        for rows in index.rows_of(&all) {
            let Some(pack) = rows.packs.first().map(|pack| pack.id) else {
                continue;
            };
            if self
                .listed
                .insert(pack, rows.clone().into())
                .is_some_and(|earlier| *earlier != rows)
            {
                self.report
                    .error(name, format!("lists pack {pack} otherwise than another run does"));
            }
        }
    }

    async fn packs(&mut self, deltas: bool) -> Result<()> {
        let present = self.present();
        self.report.packs = present.len() as u64;
        let mut listed: Vec<_> = self.listed.iter().collect();
        listed.sort_unstable_by_key(|(id, _)| **id);
        for (id, rows) in listed {
            let expected = rows.packs.first().map(|pack| u64::from(pack.size));
            match present.get(id) {
                None => {
                    self.report.bad_packs.push(*id);
                    self.report.error(ObjectName::Pack(*id), "is missing");
                }
                Some(size) if Some(*size) != expected => {
                    self.report.bad_packs.push(*id);
                    self.report.error(
                        ObjectName::Pack(*id),
                        format!("has {size} bytes instead of {}", expected.unwrap_or(0)),
                    );
                }
                Some(_) => {}
            }
        }
        let bad: HashSet<ObjectId> = self.report.bad_packs.iter().copied().collect();
        let (mut trees, mut doubtful) = (Vec::new(), Vec::new());
        for (id, size) in &present {
            if self.log.dead.contains(id) {
                continue;
            }
            let rows = self.listed.get(id);
            if rows.is_none() {
                self.report.packs_unlisted += 1;
                self.report.bytes_unlisted += size;
            }
            let has_nodes = rows.is_some_and(|rows| rows.entries.iter().any(|e| e.kind != BlobKind::Data));
            if self.doubtful.contains(id) {
                // One that is known to be bad needs no second proof.
                doubtful.extend((!bad.contains(id)).then_some(*id));
            } else if has_nodes {
                trees.push(*id);
            }
        }
        trees.sort_unstable();
        doubtful.sort_unstable();
        self.read_packs(trees, deltas, None).await?;
        self.read_packs(doubtful, true, None).await.map(drop)
    }

    /// The packs in the store, with their sizes.
    fn present(&self) -> HashMap<ObjectId, u64> {
        let pack = |(name, size): (&ObjectName, &u64)| match name {
            ObjectName::Pack(id) => Some((*id, *size)),
            _ => None,
        };
        self.sizes.iter().filter_map(pack).collect()
    }
}
