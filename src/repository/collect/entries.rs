//! The entries of all valid runs, and which run each pack stands in.

use super::listing::unreadable;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::id::{ObjectId, SessionId};
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use crate::repository::index::{Index, IndexBuilder};
use crate::repository::log::Log;
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
}

impl Entries {
    /// Reads all valid runs of `listed`; `is_decided` tells of a session whether it is finished.
    ///
    /// # Errors
    /// `Damaged` if one cannot be read, or one that the state names is not there: what it lists would look like garbage.
    pub(super) async fn read(
        (repository, context): (&Repository, &Context),
        log: &Log,
        listed: &[ObjectInfo],
        is_decided: &(dyn Fn(&SessionId) -> bool + Sync),
    ) -> Result<Self> {
        let empty = Self::default();
        empty
            .extended((repository, context), log, listed, is_decided)
            .await
    }

    /// Adds the runs of `listed` that were not read yet. Blobs keep their order, packs and blocks their numbers.
    ///
    /// # Errors
    /// As [`Self::read`]; `Conflict` if a run is gone that was read: another collector has ended a round.
    pub(super) async fn extended(
        mut self,
        (repository, context): (&Repository, &Context),
        log: &Log,
        listed: &[ObjectInfo],
        is_decided: &(dyn Fn(&SessionId) -> bool + Sync),
    ) -> Result<Self> {
        let valid = listed.iter().filter(|info| log.is_valid(&info.name));
        let valid: BTreeMap<ObjectName, u64> = valid.map(|info| (info.name, info.size)).collect();
        let named = log
            .runs
            .iter()
            .map(|(round, id)| ObjectName::CollectorRun(*round, *id));
        if let Some(name) = named.into_iter().find(|name| !valid.contains_key(name)) {
            return Err(unreadable(name, Error::new(ErrorKind::Damaged, "it is missing")));
        }
        if let Some(name) = self.runs.keys().find(|name| !valid.contains_key(name)) {
            return Err(unreadable(
                *name,
                Error::new(ErrorKind::NotFound, "it is missing"),
            ));
        }
        let mut new = valid;
        new.retain(|name, _| !self.runs.contains_key(name));
        if new.is_empty() {
            return Ok(self);
        }
        let index = Arc::try_unwrap(self.index).unwrap_or_else(|shared| Index::clone(&shared));
        let mut builder = IndexBuilder::onto(index, log.dead.clone());
        let loads = new
            .keys()
            .map(|name| async move { (*name, repository.load_run(*name).await) });
        let loads: Vec<_> = loads.collect();
        let mut loads = stream::iter(loads).buffered(repository.concurrency());
        while let Some((name, run)) = loads.next().await {
            context.check_cancelled()?;
            let run = run.map_err(|error| unreadable(name, error))?;
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
