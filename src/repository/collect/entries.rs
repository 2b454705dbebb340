//! The entries of all valid runs, and which run each pack stands in.

use super::compact::name_of;
use super::listing::{may_be_left_out, unreadable};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use crate::repository::index::{Index, IndexBuilder};
use crate::repository::log::Log;
use crate::repository::view::of_the_disk;
use crate::store::ObjectInfo;
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The view of a collector.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) index: Arc<Index>,
    /// The runs that were read, with their sizes in bytes.
    pub(super) runs: BTreeMap<ObjectName, u64>,
    /// Packs that a session without a decision lists: it may go on, or be taken over.
    pub(super) open: HashSet<ObjectId>,
    /// The collector run that lists a pack.
    pub(super) run_of: HashMap<ObjectId, ObjectName>,
    /// Runs that cannot be read, or are gone though the state names them, and why. Whether a round may do without is for [`super::lost`] to say.
    pub(super) left_out: BTreeMap<ObjectName, Error>,
}

impl Entries {
    /// Reads all valid runs of `listed`; `is_decided` tells of a session whether it is finished. Runs that cannot be read are left out.
    ///
    /// # Errors
    /// `Damaged` if the run of a session that may go on cannot be read.
    pub(super) async fn read(
        (repository, context): (&Repository, &Context),
        log: &Log,
        listed: &[ObjectInfo],
        is_decided: &(dyn Fn(&SessionId) -> bool + Sync),
    ) -> Result<Self> {
        let mut empty = Self::default();
        let is_listed: HashSet<_> = listed.iter().map(|info| info.name).collect();
        let named = log.rows.iter().map(name_of);
        let gone = named.filter(|name| !is_listed.contains(name));
        let gone = gone.map(|name| (name, Error::new(ErrorKind::NotFound, "it is missing")));
        empty.left_out = gone.collect();
        empty
            .add((repository, context), (log, listed), is_decided, true)
            .await
    }

    /// Adds the runs of `listed` that were not read yet. Blobs keep their order, packs and blocks their numbers.
    ///
    /// # Errors
    /// As [`Self::read`]; `Conflict` if a run is gone that was read: another collector has ended a round.
    pub(super) async fn extended(
        self,
        (repository, context): (&Repository, &Context),
        log: &Log,
        listed: &[ObjectInfo],
        is_decided: &(dyn Fn(&SessionId) -> bool + Sync),
    ) -> Result<Self> {
        self.add((repository, context), (log, listed), is_decided, false)
            .await
    }

    async fn add(
        mut self,
        (repository, context): (&Repository, &Context),
        (log, listed): (&Log, &[ObjectInfo]),
        is_decided: &(dyn Fn(&SessionId) -> bool + Sync),
        leaves_out: bool,
    ) -> Result<Self> {
        let valid = listed.iter().filter(|info| log.is_valid(&info.name));
        let valid: BTreeMap<ObjectName, u64> = valid.map(|info| (info.name, info.size)).collect();
        let mut named = log.rows.iter().map(name_of);
        let is_there = |name: &ObjectName| valid.contains_key(name) || self.left_out.contains_key(name);
        if let Some(name) = named.find(|name| !is_there(name)) {
            return Err(unreadable(name, Error::new(ErrorKind::Damaged, "it is missing")));
        }
        if let Some(name) = self.runs.keys().find(|name| !valid.contains_key(name)) {
            return Err(unreadable(
                *name,
                Error::new(ErrorKind::NotFound, "it is missing"),
            ));
        }
        let mut new = valid;
        new.retain(|name, _| !self.runs.contains_key(name) && !self.left_out.contains_key(name));
        if new.is_empty() {
            return Ok(self);
        }
        let index = Arc::try_unwrap(self.index).unwrap_or_else(|shared| Index::clone(&shared));
        let mut builder = IndexBuilder::onto(index, log.dead.clone());
        let names: Vec<_> = new.keys().copied().collect();
        let loads = names.into_iter();
        let loads = loads.map(|name| async move { (name, repository.load_run(name).await) });
        let loads: Vec<_> = loads.collect();
        let mut loads = stream::iter(loads).buffered(repository.concurrency());
        while let Some((name, run)) = loads.next().await {
            context.check_cancelled()?;
            let may_go_on = matches!(&name, ObjectName::SessionRun(sid, _) if !is_decided(sid));
            let run = match run {
                Err(error) if leaves_out && !may_go_on && may_be_left_out(&error) => {
                    let why = of_the_disk(repository.store(), error).await?;
                    new.remove(&name);
                    self.left_out.insert(name, why);
                    continue;
                }
                run => run.map_err(|error| unreadable(name, error))?,
            };
            for pack in &run.packs {
                match &name {
                    ObjectName::SessionRun(sid, _) if !is_decided(sid) => drop(self.open.insert(pack.id)),
                    ObjectName::CollectorRun(..) => drop(self.run_of.insert(pack.id, name)),
                    _ => {}
                }
            }
            builder.add(&run, false);
        }
        drop(loads);
        self.runs.extend(new);
        self.index = Arc::new(context.cpu.run(move || builder.finish()).await?);
        Ok(self)
    }
}
