//! The ledger: packs that were read whole and found right, and packs that must not be used.

use super::Repository;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::collect::LedgerRecord;
use crate::format::id::ObjectId;
use crate::format::layout::{ObjectName, Prefix};
use futures::stream::{self, StreamExt};
use std::collections::{HashMap, HashSet};

/// The most rows of a kind in one record that this program writes.
const ROWS_MAX: usize = 50_000;

/// How often the ledger is listed again because a record is gone that was listed.
const TRIES: u32 = 16;

/// What the ledger says: of each pack, what the highest record that names it says.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Packs that were found right, and when, in seconds since 1970 by the clock of whoever looked.
    pub(crate) verified: HashMap<ObjectId, i64>,
    /// Packs that must not be used. One that was damaged only on its way is found right later, and is no longer among them.
    pub(crate) quarantined: HashSet<ObjectId>,
    /// Records that cannot be read, and why: which packs they name is not known.
    pub(crate) damaged: Vec<(ObjectName, Error)>,
}

impl Ledger {
    /// Reads every record.
    ///
    /// # Errors
    /// What the store says; damage is in [`Self::damaged`].
    pub(crate) async fn read(repository: &Repository) -> Result<Self> {
        let mut gone = None;
        for _ in 0..TRIES {
            match Self::try_read(repository).await? {
                Ok(ledger) => return Ok(ledger),
                // A checker has put what it said into another record, which a list shows that begins now.
                Err(name) => gone = Some(name),
            }
        }
        let error = Error::new(
            ErrorKind::Unreachable,
            "a record of the ledger is listed and is not there",
        );
        Err(match gone {
            Some(name) => error.with("object", name),
            None => error,
        })
    }

    /// The name of a record that is gone, if one is.
    async fn try_read(repository: &Repository) -> Result<Result<Self, ObjectName>> {
        let mut names = repository.list(Prefix::Ledger).await?;
        // Name order is the order of their numbers.
        names.sort_unstable();
        let loads = names
            .into_iter()
            .map(|name| async move { (name, repository.load::<LedgerRecord>(name).await) });
        let mut loads = stream::iter(loads).buffered(repository.concurrency());
        let mut ledger = Self::default();
        while let Some((name, loaded)) = loads.next().await {
            match loaded {
                Ok(record) => ledger.overlay(&record),
                Err(error) if super::view::is_damage(&error) => ledger.damaged.push((name, error)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Err(name)),
                Err(error) => return Err(error),
            }
        }
        Ok(Ok(ledger))
    }

    /// What it says, where all of it must be known.
    ///
    /// # Errors
    /// `Damaged` if a record cannot be read.
    pub(crate) fn whole(self) -> Result<HashSet<ObjectId>> {
        match self.damaged.into_iter().next() {
            None => Ok(self.quarantined),
            Some((name, error)) => Err(Error::new(
                ErrorKind::Damaged,
                "a record of the ledger cannot be read, so that nobody can tell which packs are damaged; nothing was deleted",
            )
            .with("object", name)
            .because(error)
            .hint("run `holdall check --read-data`: once every pack is read, it replaces the record")),
        }
    }

    /// Adds the record of the next higher number.
    fn overlay(&mut self, record: &LedgerRecord) {
        for (pack, at) in &record.verified {
            self.quarantined.remove(pack);
            self.verified.insert(*pack, *at);
        }
        for pack in &record.quarantined {
            self.verified.remove(pack);
            self.quarantined.insert(*pack);
        }
    }
}

/// Packs that must not be used. Records that cannot be read are for `check` to name.
///
/// # Errors
/// As [`Ledger::read`].
pub(crate) async fn quarantined(repository: &Repository) -> Result<HashSet<ObjectId>> {
    Ok(Ledger::read(repository).await?.quarantined)
}

impl Repository {
    /// Says of packs that they are damaged: nothing new rests on them, and readers take other copies first.
    ///
    /// # Errors
    /// What the store says; `Conflict` if other checkers take every number first.
    pub async fn set_packs_aside(&self, context: &Context, packs: &[ObjectId]) -> Result<()> {
        put(self, context, &[], packs).await
    }
}

/// Puts what was verified and what is quarantined, as many records as that takes, under the next free numbers.
///
/// # Errors
/// What the store says; `Conflict` if other checkers take every number first.
pub(crate) async fn put(
    repository: &Repository,
    context: &Context,
    verified: &[(ObjectId, i64)],
    quarantined: &[ObjectId],
) -> Result<()> {
    let mut verified = verified.to_vec();
    verified.sort_unstable();
    let mut verified = verified.chunks(ROWS_MAX);
    let mut quarantined = quarantined.chunks(ROWS_MAX);
    loop {
        let (verified, quarantined) = (verified.next(), quarantined.next());
        if verified.is_none() && quarantined.is_none() {
            return Ok(());
        }
        put_one(
            repository,
            context,
            verified.unwrap_or_default(),
            quarantined.unwrap_or_default(),
        )
        .await?;
    }
}

async fn put_one(
    repository: &Repository,
    context: &Context,
    verified: &[(ObjectId, i64)],
    quarantined: &[ObjectId],
) -> Result<()> {
    let names = repository.list(Prefix::Ledger).await?;
    let number = |name: &ObjectName| {
        if let ObjectName::Ledger(n) = name {
            Some(*n)
        } else {
            None
        }
    };
    let first = names
        .iter()
        .filter_map(number)
        .max()
        .map_or(0, |n| n.saturating_add(1));
    for number in first..first.saturating_add(64) {
        let record = LedgerRecord {
            number,
            time: context.clock.now(),
            nonce: context.random.bytes()?,
            verified: verified.to_vec(),
            quarantined: quarantined.to_vec(),
        };
        if repository.save(context, &record).await?.is_mine() {
            return Ok(());
        }
    }
    Err(Error::new(
        ErrorKind::Conflict,
        "others write the ledger faster than this process",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Time;

    fn record(number: u32, verified: &[(u8, i64)], quarantined: &[u8]) -> LedgerRecord {
        LedgerRecord {
            number,
            time: Time::default(),
            nonce: [0; 16],
            verified: verified.iter().map(|(n, at)| (ObjectId([*n; 32]), *at)).collect(),
            quarantined: quarantined.iter().map(|n| ObjectId([*n; 32])).collect(),
        }
    }

    #[test]
    fn of_a_pack_the_highest_record_that_names_it_counts() {
        let mut ledger = Ledger::default();
        ledger.overlay(&record(0, &[(1, 10), (2, 10)], &[3, 4]));
        ledger.overlay(&record(1, &[(3, 20)], &[2]));
        ledger.overlay(&record(2, &[(1, 5), (5, 6)], &[5]));
        let packs = |of: &[u8]| of.iter().map(|n| ObjectId([*n; 32])).collect::<HashSet<_>>();
        assert_eq!(ledger.quarantined, packs(&[2, 4, 5]));
        assert_eq!(
            ledger.verified,
            HashMap::from([(ObjectId([1; 32]), 5), (ObjectId([3; 32]), 20)])
        );
    }
}
