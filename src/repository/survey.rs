//! Looks at every object of the store itself, never at the cache: what is damaged, missing, or should not be there.
//!
//! What trees say is not known here; `ops::check` walks them over the same view.

mod data;
mod missing;

use super::Repository;
use super::index::PackNumber;
use super::ledger::{self, Ledger};
use super::log::Log;
use crate::context::Context;
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
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;

/// How much of the data packs is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadData {
    /// None: their presence and sizes are compared with the index.
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
    /// Packs that no finished session lists: left by interrupted runs, reused by the next ones.
    pub packs_unlisted: u64,
    /// Their bytes.
    pub bytes_unlisted: u64,
    /// Objects that count no more: a collection was allowed to delete them, and has not yet.
    pub objects_void: u64,
    /// Their bytes.
    pub bytes_void: u64,
}

impl SurveyReport {
    fn error(&mut self, object: impl Display, what: impl Display) {
        self.findings.push(Finding {
            object: object.to_string(),
            what: what.to_string(),
            is_error: true,
        });
    }

    fn note(&mut self, object: impl Display, what: impl Display) {
        self.findings.push(Finding {
            object: object.to_string(),
            what: what.to_string(),
            is_error: false,
        });
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
    /// Packs that are read whatever else is.
    doubtful: HashSet<ObjectId>,
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
        Self::look(repository, context, (read_data, &[])).await
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
        let again = Self::look(repository, context, (ReadData::None, &before.bad_packs)).await?;
        Ok(SurveyReport {
            packs_read: before.packs_read + again.packs_read,
            bytes_read: before.bytes_read + again.bytes_read,
            blobs_verified: before.blobs_verified + again.blobs_verified,
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
        (read_data, doubtful): (ReadData, &[ObjectId]),
    ) -> Result<SurveyReport> {
        let mut survey = Self {
            repository,
            context,
            report: SurveyReport::default(),
            sizes: HashMap::new(),
            listed: HashMap::new(),
            doubtful: doubtful.iter().copied().collect(),
        };
        let log = match survey.list_stably().await {
            Ok(log) => {
                survey.missing(&log).await?;
                log
            }
            Err(error) if super::view::is_damage(&error) => {
                let object = error.context("object").unwrap_or("gc/").to_owned();
                survey.report.error(object, error);
                Log::default()
            }
            Err(error) => return Err(error),
        };
        survey.void(&log);
        survey.records(&log).await?;
        survey.packs(&log, read_data).await?;
        Ok(survey.report)
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
    fn void(&mut self, log: &Log) {
        for (name, size) in &self.sizes {
            if super::collect::may_go(log, name) {
                self.report.objects_void += 1;
                self.report.bytes_void += size;
            }
        }
    }

    /// Reads every object but packs from the store, and decodes it.
    async fn records(&mut self, log: &Log) -> Result<()> {
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
                    if let Err(error) = self.record(log, name, &bytes) {
                        self.report.error(name, error);
                    }
                }
                // Deleted by a collector between list and get.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn record(&mut self, log: &Log, name: ObjectName, bytes: &Bytes) -> Result<()> {
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
                if log.is_valid(&name) {
                    self.run_record(log, name, &tables);
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
    fn run_record(&mut self, log: &Log, name: ObjectName, tables: &Tables) {
        let mut builder = super::index::IndexBuilder::new(log.dead.clone());
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

    async fn packs(&mut self, log: &Log, read_data: ReadData) -> Result<()> {
        let present: HashMap<ObjectId, u64> = self
            .sizes
            .iter()
            .filter_map(|(n, s)| {
                if let ObjectName::Pack(id) = n {
                    Some((*id, *s))
                } else {
                    None
                }
            })
            .collect();
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
        let mut wanted = Vec::new();
        for (id, size) in &present {
            let rows = self.listed.get(id);
            if log.dead.contains(id) {
                continue;
            }
            if rows.is_none() {
                self.report.packs_unlisted += 1;
                self.report.bytes_unlisted += size;
            }
            let has_nodes = rows.is_some_and(|rows| rows.entries.iter().any(|e| e.kind != BlobKind::Data));
            if has_nodes || self.doubtful.contains(id) || self.is_chosen(id, read_data)? {
                wanted.push(*id);
            }
        }
        wanted.sort_unstable();
        self.read_packs(&wanted, read_data).await
    }

    fn is_chosen(&self, id: &ObjectId, read_data: ReadData) -> Result<bool> {
        let [a, b, c, d, ..] = id.0;
        let number = u32::from_be_bytes([a, b, c, d]);
        Ok(match read_data {
            ReadData::None => false,
            ReadData::All => true,
            ReadData::Part { part, of } => number % of.max(1) + 1 == part,
            ReadData::Percent(percent) => {
                u32::from_le_bytes(self.context.random.bytes()?) % 100 < u32::from(percent)
            }
        })
    }

    /// Writes into the ledger what was verified, and what was found damaged: writers rest on none of these, and store what
    /// they hold again. Only where the store can be written to.
    async fn remember(&mut self, verified: Vec<(ObjectId, i64)>, read_data: ReadData) -> Result<()> {
        let mut bad = self.report.bad_packs.clone();
        bad.sort_unstable();
        bad.dedup();
        let known = Ledger::read(self.repository).await?;
        bad.retain(|pack| !known.quarantined.contains(pack));
        let replaced = known.damaged.into_iter().filter(|(name, error)| {
            // Every pack that such a record can name was listed after it, and has been read.
            read_data == ReadData::All && error.kind() == ErrorKind::Damaged && self.sizes.contains_key(name)
        });
        let replaced: Vec<ObjectName> = replaced.map(|(name, _)| name).collect();
        let nothing = verified.is_empty() && bad.is_empty() && replaced.is_empty();
        if nothing || !self.repository.store().is_writable() {
            return Ok(());
        }
        let written = async {
            ledger::put(self.repository, self.context, &verified, &bad).await?;
            for name in &replaced {
                self.repository.store().delete(name).await?;
            }
            Ok(())
        };
        match written.await {
            Ok(()) => {
                for name in replaced {
                    self.repository.cache().forget_seen(&[name]);
                    self.report
                        .note(name, "was replaced by what this check has found of every pack");
                }
                Ok(())
            }
            Err(error) if matches!(Error::kind(&error), ErrorKind::Denied | ErrorKind::StoreFull) => {
                let what =
                    "what was checked could not be written into the ledger: the next check begins anew";
                self.report.note("ledger/", format!("{what} ({error})"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
