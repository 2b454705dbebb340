//! What a survey writes into the ledger.

use super::Survey;
use crate::context::{Context, Time};
use crate::error::{ErrorKind, Result};
use crate::format::id::ObjectId;
use crate::format::layout::ObjectName;
use crate::repository::Repository;
use crate::repository::ledger::{self, Ledger};

/// What is verified is written down after so many packs, or after so many seconds: a run that is killed loses no more than that.
const PACKS_MAX: usize = 10_000;
const SECONDS_MAX: f64 = 300.0;

/// What was verified, and how much of it is in the ledger.
pub(super) struct Memory {
    verified: Vec<(ObjectId, i64)>,
    /// Packs with deltas that could not be compared.
    pub(super) unproven: Vec<ObjectId>,
    /// How many of them are in the ledger.
    written: usize,
    written_at: Time,
    /// Whether the store may be written to, as far as is known.
    is_possible: bool,
    /// Why not, if that was tried.
    refused: Option<String>,
    /// Whether somebody counts on it.
    pub(super) is_wanted: bool,
    /// Whether it is known of every pack how it is.
    pub(super) is_all: bool,
}

impl Memory {
    pub(super) fn new(now: Time, is_possible: bool) -> Self {
        Self {
            verified: Vec::new(),
            unproven: Vec::new(),
            written: 0,
            written_at: now,
            is_possible,
            refused: None,
            is_wanted: false,
            is_all: false,
        }
    }

    /// Whether the store may be written to, as far as is known.
    pub(super) fn is_possible(&self) -> bool {
        self.is_possible
    }

    /// Packs that this survey has verified.
    pub(super) fn verified(&self) -> impl Iterator<Item = ObjectId> {
        self.verified.iter().map(|(id, _)| *id)
    }
}

impl Survey<'_> {
    /// A pack was found right, deltas included.
    pub(super) async fn verified(&mut self, pack: ObjectId) -> Result<()> {
        let now = self.context.clock.now();
        self.memory.verified.push((pack, now.seconds));
        let waiting = self.memory.verified.len() - self.memory.written;
        if waiting >= PACKS_MAX || now.seconds_since(self.memory.written_at) >= SECONDS_MAX {
            self.remember().await?;
        }
        Ok(())
    }

    /// Writes into the ledger what was verified, and what was found damaged: writers rest on none of these, and store what
    /// they hold again. Only where the store can be written to.
    pub(super) async fn remember(&mut self) -> Result<()> {
        self.write(&[]).await
    }

    /// As [`Self::remember`]; records that cannot be read are deleted then, if it is known of every pack that they can name how it is:
    /// each was listed after the record. What could not be proven is set aside first, for a record may have said that it is damaged.
    pub(super) async fn remember_all(&mut self) -> Result<()> {
        let known = Ledger::read(self.repository).await?;
        let replaced = known.damaged.into_iter().filter(|(name, error)| {
            self.memory.is_all && error.kind() == ErrorKind::Damaged && self.sizes.contains_key(name)
        });
        let replaced: Vec<ObjectName> = replaced.map(|(name, _)| name).collect();
        self.write(&replaced).await
    }

    async fn write(&mut self, replaced: &[ObjectName]) -> Result<()> {
        let mut bad = self.report.bad_packs.clone();
        if !replaced.is_empty() {
            bad.extend(&self.memory.unproven);
        }
        bad.sort_unstable();
        bad.dedup();
        if !bad.is_empty() {
            let known = Ledger::read(self.repository).await?.quarantined;
            bad.retain(|pack| !known.contains(pack));
        }
        let verified = self
            .memory
            .verified
            .get(self.memory.written..)
            .unwrap_or_default();
        if verified.is_empty() && bad.is_empty() && replaced.is_empty() {
            return Ok(());
        }
        let why = if self.memory.is_possible {
            match put(self.repository, self.context, (verified, &bad), replaced).await {
                Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::StoreFull) => {
                    Some(error.to_string())
                }
                Err(error) => return Err(error),
                Ok(()) => None,
            }
        } else if self.memory.is_wanted {
            Some("the repository was opened for reading".to_owned())
        } else {
            if !bad.is_empty() {
                self.report.not_set_aside.clone_from(&self.memory.refused);
            }
            return Ok(());
        };
        self.memory.written = self.memory.verified.len();
        self.memory.written_at = self.context.clock.now();
        let Some(why) = why else {
            let unproven = self.memory.unproven.len();
            for name in replaced {
                self.report
                    .note(name, "was replaced by what this check has found of every pack");
            }
            if !replaced.is_empty() && unproven > 0 {
                let what = format!(
                    "set aside, for nobody can tell whether they were before: {unproven} packs with deltas whose bases cannot be read"
                );
                self.report.note("ledger/", what);
            }
            return Ok(());
        };
        if self.memory.is_possible {
            self.memory.refused = Some(why.clone());
        }
        if !bad.is_empty() {
            self.report.not_set_aside.clone_from(&self.memory.refused);
        }
        self.memory.is_possible = false;
        self.memory.is_wanted = false;
        let what = if bad.is_empty() {
            "what was verified could not be remembered: the next check reads it again"
        } else {
            "what was checked could not be remembered: the next check reads it again, and snapshots go on resting on what is damaged"
        };
        self.report.note("ledger/", format!("{what} ({why})"));
        Ok(())
    }
}

/// Puts records, and deletes those that they replace.
async fn put(
    repository: &Repository,
    context: &Context,
    (verified, bad): (&[(ObjectId, i64)], &[ObjectId]),
    replaced: &[ObjectName],
) -> Result<()> {
    ledger::put(repository, context, verified, bad).await?;
    for name in replaced {
        repository.store().delete(name).await?;
        repository.cache().forget_seen(&[*name]);
    }
    Ok(())
}
