//! What must be true when a world stands still: every snapshot is what its writer read, and what nobody needs is gone.

use super::actors::{SimClock, let_go, restore, snapshot_of};
use super::plan::DAY;
use super::store::{At, Request, SimStore, Who, lock};
use super::world::{Verdict, World, options};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{self, CheckRequest, CopyRequest, PruneRequest, RepairRequest};
use crate::repository::collect::{CollectOptions, Unused};
use crate::repository::{Cache, ReadData, Repository};
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;

/// What somebody says who should have nothing to say.
fn says(who: &str, error: &Error) -> String {
    format!("{who} says: {error} {:?}", error.causes())
}

fn request(max_unused: Unused) -> PruneRequest {
    PruneRequest {
        options: CollectOptions {
            max_unused,
            lease: Duration::from_secs(3600),
            take_over: Duration::ZERO,
            ..CollectOptions::default()
        },
        confirmed: true,
        exclusive: false,
    }
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
        let (kept, hit) = {
            let mut oracle = self.shared.oracle(at);
            oracle.tick(context.clock.now().seconds);
            (oracle.kept(), oracle.hit())
        };
        for (sid, files) in kept {
            let found = restore(&context, &repository, sid, 0).await;
            match found {
                Ok(Some(found)) if files.is_some_and(|files| found != *files) => {
                    return Err(format!("snapshot {} is restored as something else", sid.short()));
                }
                Ok(Some(_)) => {}
                Err(error)
                    if error.kind() == ErrorKind::Damaged && hit.iter().any(|(one, _)| *one == sid) => {}
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
        if self.shared.oracle(At::Home).is_damaged() {
            self.mend().await?;
        }
        self.relax().await?;
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

    /// A repair mends what the replica has; what is lost for good is let go, and the next snapshots are whole.
    async fn mend(&mut self) -> Verdict<()> {
        let (context, repository) = self.beside(At::Home)?;
        let (_, replica) = self.beside(At::Replica)?;
        let request = RepairRequest {
            host: "host".into(),
            read_data: ReadData::All,
            dry_run: false,
        };
        let from = self.plan.has_replica.then_some(&replica);
        let report = ops::repair(&context, &repository, from, &request).await;
        self.verdict()?;
        let report = report.map_err(|error| says("the last repair", &error))?;
        let hit = self.shared.oracle(At::Home).hit();
        for (sid, root) in &hit {
            let short = sid.short();
            if !report.hit.iter().any(|one| one.sid == *sid) {
                return Err(format!("the last repair does not say that {short} is hit"));
            }
            if self.plan.has_replica && self.shared.oracle(At::Replica).holds(root) {
                return Err(format!("a repair does not heal {short} from its copy"));
            }
        }
        if let Some(one) = report
            .hit
            .iter()
            .find(|one| !hit.iter().any(|(sid, _)| *sid == one.sid))
        {
            let why = (&one.entries, &report.bad_packs, &report.damaged);
            return Err(format!(
                "the last repair says that {} is hit: {why:?}",
                one.sid.short()
            ));
        }
        let projects = lock(&self.shared.projects).clone();
        for (number, project) in projects.iter().enumerate() {
            let files = Arc::new(project.files());
            let made = snapshot_of(&context, &repository, number, files.clone()).await;
            let made = made.map_err(|error| says("the last snapshot", &error))?;
            self.shared.oracle(At::Home).acknowledge(made, files);
            self.verdict()?;
        }
        let hit = self.shared.oracle(At::Home).hit();
        for (sid, _) in hit {
            let put = let_go(&context, &repository, sid).await;
            put.map_err(|error| error.to_string())?;
        }
        self.verdict()
    }

    /// A collection gets on where nothing can be deleted, and where there is no room but its reserve. Then the limits are lifted.
    async fn relax(&mut self) -> Verdict<()> {
        let (lock_time, has_reserve, used) = {
            let core = lock(&self.core);
            let store = &core.stores.home;
            (
                store.lock,
                store.room.is_some() && store.has_reserve(),
                store.len(),
            )
        };
        if lock_time > 0 || has_reserve {
            if let Some(room) = &mut lock(&self.core).stores.home.room {
                *room = used;
            }
            let (context, repository) = self.beside(At::Home)?;
            let report = ops::prune(&context, &repository, &request(Unused::Unlimited)).await;
            self.verdict()?;
            report.map_err(|error| says("a collection under limits", &error))?;
        }
        let mut core = lock(&self.core);
        let store = &mut core.stores.home;
        store.lock = 0;
        // Enough for all but a new reserve.
        store.room = store.room.map(|_| store.len() + (8 << 20));
        Ok(())
    }

    /// One collector runs until it finds nothing to do.
    async fn collect_all(&mut self, at: At) -> Verdict<()> {
        let (context, repository) = self.beside(at)?;
        let request = request(Unused::Bytes(0));
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
