//! Files that are being written in the background, directories that wait for them, and the report that both go into.

use super::apply::apply_open;
use super::{Did, FilesSink, Outcome, hash_of};
use crate::connector::files::record::Attributes;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{self, Event};
use crate::snapshot::entry::Key;
use rustix::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Files that are written at once, at most, and what each may hold in memory.
const JOBS_MAX: u64 = 8;
const JOB_BYTES: u64 = 2 << 20;
/// Large contents that are open at once, at most: whoever reads one for us may hold a long window of it in memory.
const LARGE_MAX: usize = 2;

/// A directory that was left, and what it must become.
pub(super) struct Left {
    pub(super) key: Key,
    pub(super) dir: Arc<OwnedFd>,
    pub(super) becomes: Becomes,
}

/// What a directory becomes when all in it is written.
pub(super) enum Becomes {
    /// What its entry says.
    Entry(Box<Attributes>),
    /// What it was, which was changed to write into it.
    Mode(u32),
}

/// What runs in the background.
pub(super) struct Jobs {
    running: JoinSet<Result<Outcome>>,
    max: usize,
    large: Arc<Semaphore>,
    left: Vec<Left>,
}

impl Jobs {
    pub(super) fn new() -> Self {
        Self {
            running: JoinSet::new(),
            max: 1,
            large: Arc::new(Semaphore::new(LARGE_MAX)),
            left: Vec::new(),
        }
    }

    /// Sets how many run at once: together they hold at most an eighth of the budget.
    pub(super) fn limit(&mut self, budget: u64) {
        let jobs = (budget / 8 / JOB_BYTES).clamp(1, JOBS_MAX);
        self.max = usize::try_from(jobs).unwrap_or(1);
    }
}

impl FilesSink {
    /// Starts a job, when there is room for one; `large` if its content is.
    pub(super) async fn start(
        &mut self,
        context: &Context,
        large: bool,
        job: impl Future<Output = Result<Outcome>> + Send + 'static,
    ) -> Result<()> {
        while self.jobs.running.len() >= self.jobs.max
            || (large && self.jobs.large.available_permits() == 0 && !self.jobs.running.is_empty())
        {
            self.reap(context).await?;
        }
        // Taken by nobody else since.
        let permit = large.then(|| self.jobs.large.clone().try_acquire_owned().ok());
        self.jobs.running.spawn(async move {
            let _permit = permit;
            job.await
        });
        Ok(())
    }

    /// Waits for one job; says whether there was one.
    pub(super) async fn reap(&mut self, context: &Context) -> Result<bool> {
        let Some(done) = self.jobs.running.join_next().await else {
            self.settle(context, true).await?;
            return Ok(false);
        };
        let outcome = done.map_err(|panic| {
            Error::new(ErrorKind::Internal, "a writing task failed; this is a bug").because(panic)
        })??;
        self.count(context, outcome);
        self.settle(context, false).await?;
        Ok(true)
    }

    /// Remembers a directory that was left, and finishes it when nothing is written into it any more.
    pub(super) async fn leave_directory(&mut self, context: &Context, left: Left) -> Result<()> {
        self.jobs.left.push(left);
        let idle = self.jobs.running.is_empty();
        self.settle(context, idle).await
    }

    /// Finishes the directories that no job writes into any more: all, if no job is running.
    async fn settle(&mut self, context: &Context, idle: bool) -> Result<()> {
        let mut at = 0;
        while let Some(left) = self.jobs.left.get(at) {
            if !idle && Arc::strong_count(&left.dir) > 1 {
                at += 1;
                continue;
            }
            let left = self.jobs.left.swap_remove(at);
            let policy = self.policy.clone();
            let work = move || match left.becomes {
                Becomes::Entry(attributes) => (left.key, apply_open(&left.dir, &attributes, &policy)),
                Becomes::Mode(mode) => {
                    let mode = rustix::fs::Mode::from_raw_mode(mode as rustix::fs::RawMode);
                    let mut applied = super::Applied::default();
                    if let Err(error) = rustix::fs::fchmod(&*left.dir, mode) {
                        applied
                            .troubles
                            .push(format!("cannot set its mode back: {error}"));
                    }
                    (left.key, applied)
                }
            };
            let (key, applied) = tokio::task::spawn_blocking(work).await.map_err(|panic| {
                Error::new(ErrorKind::Internal, "a writing task failed; this is a bug").because(panic)
            })?;
            self.withheld += u64::from(applied.withheld);
            self.trouble(context, &key, &applied.troubles);
        }
        Ok(())
    }

    /// Enters an outcome into the report and tells the observer.
    pub(super) fn count(&mut self, context: &Context, outcome: Outcome) {
        let own = hash_of(&outcome.key);
        let first = self.stand_ins.get(&own).copied().unwrap_or(own);
        if let (Some(id), Some(original)) = (outcome.original, self.originals.get_mut(&first)) {
            original.id = Some(id);
        }
        let name = outcome.key.to_string();
        if outcome.different {
            self.report.different += 1;
            if !matches!(outcome.did, Did::Failed(_)) {
                let why = "differs from the snapshot".to_owned();
                context.emit(&Event::Incident {
                    name: name.clone(),
                    why,
                });
            }
        }
        self.withheld += u64::from(outcome.withheld);
        let result = match outcome.did {
            Did::Written => {
                self.report.written += 1;
                self.report.bytes += outcome.bytes;
                event::Outcome::Restored
            }
            Did::Skipped => {
                self.report.skipped += 1;
                event::Outcome::Skipped
            }
            Did::Failed(why) => {
                self.report.failed += 1;
                context.emit(&Event::Incident {
                    name: name.clone(),
                    why,
                });
                event::Outcome::Failed
            }
        };
        self.trouble(context, &outcome.key, &outcome.troubles);
        context.emit(&Event::EntryDone {
            name,
            outcome: result,
            bytes: outcome.bytes,
        });
    }

    /// An entry that was written, but not wholly.
    pub(super) fn trouble(&mut self, context: &Context, key: &Key, troubles: &[String]) {
        if !troubles.is_empty() {
            self.report.failed += 1;
            context.emit(&Event::Incident {
                name: key.to_string(),
                why: troubles.join("; "),
            });
        }
    }
}
