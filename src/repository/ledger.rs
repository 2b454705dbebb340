//! The ledger: packs that were read whole and found right, and packs that must not be used.

use super::Repository;
use crate::error::Result;
use crate::format::collect::LedgerRecord;
use crate::format::id::ObjectId;
use crate::format::layout::{ObjectName, Prefix};
use std::collections::HashSet;

/// Every record of the ledger that can be read; damaged ones are for `check` to name.
pub(crate) async fn records(repository: &Repository) -> Result<Vec<LedgerRecord>> {
    let mut records = Vec::new();
    for name in repository.list(Prefix::Ledger).await? {
        match repository.load::<LedgerRecord>(name).await {
            Ok(record) => records.push(record),
            Err(error) if super::view::is_damage(&error) => {}
            Err(error) if error.kind() == crate::error::ErrorKind::NotFound => {}
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

/// Puts a record under the next free number.
///
/// # Errors
/// What the store says; `Conflict` if other checkers take every number first.
pub(crate) async fn put(
    repository: &Repository,
    context: &crate::context::Context,
    verified: Vec<(ObjectId, i64)>,
    quarantined: Vec<ObjectId>,
) -> Result<()> {
    let names = repository.list(Prefix::Ledger).await?;
    let taken = names
        .iter()
        .filter_map(|name| {
            if let ObjectName::Ledger(n) = name {
                Some(*n)
            } else {
                None
            }
        })
        .max();
    let first = taken.map_or(0, |n| n.saturating_add(1));
    for number in first..first.saturating_add(64) {
        let record = LedgerRecord {
            number,
            time: context.clock.now(),
            nonce: context.random.bytes()?,
            verified: verified.clone(),
            quarantined: quarantined.clone(),
        };
        if repository.save(context, &record).await?.is_mine() {
            return Ok(());
        }
    }
    Err(crate::error::Error::new(
        crate::error::ErrorKind::Conflict,
        "others write the ledger faster than this process",
    ))
}
