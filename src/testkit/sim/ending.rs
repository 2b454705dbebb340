//! What must be true when a world stands still: every snapshot is what its writer read, and what nobody needs is gone.

use super::actors::{SimClock, restore};
use super::plan::DAY;
use super::store::{At, Request, SimStore, Who, lock};
use super::world::{Verdict, World, options};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::ops::{self, CheckRequest, CopyRequest, PruneRequest};
use crate::repository::collect::{CollectOptions, Unused};
use crate::repository::{Cache, ReadData, Repository};
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;

/// What somebody says who should have nothing to say.
fn says(who: &str, error: &Error) -> String {
    format!("{who} says: {error} {:?}", error.causes())
}

impl World {
    /// A repository beside the world: answered at once, never in trouble, with an empty cache.
    pub(super) fn beside(&mut self, at: At) -> Verdict<(Context, Repository)> {
        let seed = self.dice.roll();
        let beside = || -> Result<(Context, Repository)> {
            let mut context = Context::deterministic(seed)?;
            context.clock = Arc::new(SimClock {
                begin: self.begin,
                skew: 0,
                stretch: 1,
            });
            let store = SimStore {
                core: self.core.clone(),
                arrived: self.arrived.clone(),
                at,
                who: Who::Beside(Some(self.shared.clone())),
            };
            let store = Store::over(Arc::new(store), "memory:", &options(4), &context)?;
            let repository = self.template.elsewhere(store, Arc::new(Cache::in_memory()?));
            Ok((context, repository))
        };
        beside().map_err(|error| error.to_string())
    }

    /// The stores of this world.
    fn stores(&self) -> &'static [At] {
        if self.plan.has_replica {
            &[At::Home, At::Replica]
        } else {
            &[At::Home]
        }
    }

    /// Every snapshot that nobody has let go is what its writer read.
    pub(super) async fn restore_all(&mut self) -> Verdict<()> {
        for at in self.stores() {
            self.restore_all_at(*at).await?;
        }
        Ok(())
    }

    async fn restore_all_at(&mut self, at: At) -> Verdict<()> {
        let (context, repository) = self.beside(at)?;
        let kept = self.shared.oracle(at).kept();
        for (sid, files) in kept {
            let found = restore(&context, &repository, sid, 0).await;
            match found {
                Ok(Some(found)) if files.is_some_and(|files| found != *files) => {
                    return Err(format!("snapshot {} is restored as something else", sid.short()));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Err(format!("snapshot {} is not listed", sid.short())),
                Err(error) => return Err(says(&format!("a restore of {}", sid.short()), &error)),
            }
            self.shared.oracle(at).seen.restores += 1;
        }
        Ok(())
    }

    /// Everybody is done: what is under way arrives, everything is copied and collected, and what is left is looked at.
    pub(super) async fn end(&mut self) -> Verdict<()> {
        for (at, name, bytes) in std::mem::take(&mut self.late) {
            drop(self.apply(at, &Request::Put(name, bytes)));
        }
        self.verdict()?;
        tokio::time::sleep(Duration::from_millis(3 * DAY)).await;
        {
            let mut core = lock(&self.core);
            core.now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            core.page = 1000;
        }
        self.collect_all(At::Home).await?;
        if self.plan.has_replica {
            self.copy_all().await?;
            self.collect_all(At::Replica).await?;
        }
        self.restore_all().await?;
        for at in self.stores() {
            self.look_at_all(*at).await?;
        }
        Ok(())
    }

    /// One collector runs until it finds nothing to do.
    async fn collect_all(&mut self, at: At) -> Verdict<()> {
        let (context, repository) = self.beside(at)?;
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
            let report = report.map_err(|error| says("the last collection", &error))?;
            if report.round.is_none() {
                break;
            }
            if round == 11 {
                return Err(format!("collecting does not end: {:?}", report.plan));
            }
        }
        Ok(())
    }

    /// Afterwards the replica has all that it did not let go.
    async fn copy_all(&mut self) -> Verdict<()> {
        let (context, home) = self.beside(At::Home)?;
        let (_, replica) = self.beside(At::Replica)?;
        let request = CopyRequest {
            host: "host".into(),
            ..CopyRequest::default()
        };
        let report = ops::copy(&context, &home, Some(&replica), &request).await;
        self.verdict()?;
        let report = report.map_err(|error| says("the last copy", &error))?;
        if let Some(failed) = report.failed.first() {
            return Err(says("the last copy", &failed.why));
        }
        for copied in &report.copied {
            let original = self.shared.oracle(At::Home).original(&copied.record.sid);
            if let Some(sid) = copied.sid {
                self.shared.oracle(At::Replica).acknowledge_copy(sid, &original);
            }
        }
        if let Some((pack, why)) = report.bad_packs.first() {
            return Err(format!("the last copy says that {pack} is bad: {why}"));
        }
        match report.lag.missing.first() {
            Some(sid) => Err(format!("the replica has no copy of {}", sid.short())),
            None => self.verdict(),
        }
    }

    /// A check finds nothing, and nothing is there that may go.
    async fn look_at_all(&mut self, at: At) -> Verdict<()> {
        let (context, repository) = self.beside(at)?;
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
        let names: Vec<String> = lock(&self.core).stores.of(at).there.keys().cloned().collect();
        match self.shared.oracle(at).garbage(&names) {
            Some(garbage) => Err(format!("{at:?}: {garbage}")),
            None => Ok(()),
        }
    }
}
