//! What must be true when a world stands still: every snapshot is what its writer read, and what nobody needs is gone.

use super::actors::{SimClock, restore};
use super::plan::DAY;
use super::store::{Request, SimStore, Who, lock};
use super::world::{Verdict, World, options};
use crate::context::Context;
use crate::error::Result;
use crate::ops::{self, CheckRequest, PruneRequest};
use crate::repository::collect::{CollectOptions, Unused};
use crate::repository::{Cache, ReadData, Repository};
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;

impl World {
    /// The repository beside the world: answered at once, never in trouble, with an empty cache.
    pub(super) fn beside(&mut self) -> Result<(Context, Repository)> {
        let mut context = Context::deterministic(self.dice.roll())?;
        context.clock = Arc::new(SimClock {
            begin: self.begin,
            skew: 0,
            stretch: 1,
        });
        let store = SimStore {
            core: self.core.clone(),
            arrived: self.arrived.clone(),
            who: Who::Beside(Some(self.shared.clone())),
        };
        let store = Store::over(Arc::new(store), "memory:", &options(4), &context)?;
        let repository = self.template.elsewhere(store, Arc::new(Cache::in_memory()?));
        Ok((context, repository))
    }

    /// Every snapshot that nobody has let go is what its writer read.
    pub(super) async fn restore_all(&mut self) -> Verdict<()> {
        let (context, repository) = self.beside().map_err(|error| error.to_string())?;
        let kept = lock(&self.shared.oracle).kept();
        for (sid, files) in kept {
            let found = restore(&context, &repository, sid, 0).await;
            match found {
                Ok(Some(found)) if found == *files => {}
                Ok(Some(_)) => return Err(format!("snapshot {} is restored as something else", sid.short())),
                Ok(None) => return Err(format!("snapshot {} is not listed", sid.short())),
                Err(error) => {
                    return Err(format!("snapshot {}: {error} {:?}", sid.short(), error.causes()));
                }
            }
            lock(&self.shared.oracle).seen.restores += 1;
        }
        Ok(())
    }

    /// Everybody is done: what is under way arrives, everything is collected, and what is left is looked at.
    pub(super) async fn end(&mut self) -> Verdict<()> {
        for (name, bytes) in std::mem::take(&mut self.late) {
            drop(self.apply(&Request::Put(name, bytes)));
        }
        self.verdict()?;
        tokio::time::sleep(Duration::from_millis(3 * DAY)).await;
        lock(&self.core).now = self.now();
        lock(&self.core).page = 1000;
        let (context, repository) = self.beside().map_err(|error| error.to_string())?;
        let request = PruneRequest {
            options: CollectOptions {
                max_unused: Unused::Bytes(0),
                lease: Duration::from_secs(3600),
                take_over: Duration::ZERO,
                ..CollectOptions::default()
            },
            confirmed: true,
            exclusive: false,
        };
        for round in 0..12 {
            let report = ops::prune(&context, &repository, &request).await;
            self.verdict()?;
            let report =
                report.map_err(|error| format!("the last collection says: {error} {:?}", error.causes()))?;
            if report.round.is_none() {
                break;
            }
            if round == 11 {
                return Err(format!("collecting does not end: {:?}", report.plan));
            }
        }
        self.restore_all().await?;
        let request = CheckRequest {
            read_data: ReadData::All,
            ..CheckRequest::default()
        };
        let report = ops::check(&context, &repository, request)
            .await
            .map_err(|error| error.to_string())?;
        if let Some(finding) = report.findings.iter().find(|finding| finding.is_error) {
            return Err(format!(
                "the last check says: {} {}",
                finding.object, finding.what
            ));
        }
        self.verdict()?;
        let names: Vec<String> = lock(&self.core).objects.keys().cloned().collect();
        match lock(&self.shared.oracle).garbage(&names) {
            Some(garbage) => Err(garbage),
            None => Ok(()),
        }
    }
}
