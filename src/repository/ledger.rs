//! The ledger: packs that were read whole and found right, and packs that must not be used.

use super::Repository;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::format::collect::LedgerRecord;
use crate::format::id::ObjectId;
use crate::format::layout::{ObjectName, Prefix};
use std::collections::HashSet;

/// The most rows of a kind in one record that this program writes.
const ROWS_MAX: usize = 50_000;

/// Every record of the ledger that can be read; damaged ones are for `check` to name.
pub(crate) async fn records(repository: &Repository) -> Result<Vec<LedgerRecord>> {
    let mut records = Vec::new();
    for name in repository.list(Prefix::Ledger).await? {
        match repository.load::<LedgerRecord>(name).await {
            Ok(record) => records.push(record),
            Err(error) if super::view::is_damage(&error) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(records)
}

/// Packs that must not be used: quarantined by any record. A pack that was healed was stored anew, under another name.
pub(crate) async fn quarantined(repository: &Repository) -> Result<HashSet<ObjectId>> {
    Ok(records(repository)
        .await?
        .into_iter()
        .flat_map(|record| record.quarantined)
        .collect())
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
