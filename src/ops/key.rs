//! Who may open a repository.

use crate::context::Context;
use crate::crypto::{Secret, SlotInfo, Unlock, phrase_from_secret};
use crate::error::{Error, Result};
use crate::repository::Repository;
use zeroize::Zeroizing;

pub use crate::repository::KeySlotInfo;

/// A key to add.
pub enum NewKey {
    /// A secret that somebody has.
    Given(Unlock),
    /// A recovery phrase, made now.
    Phrase,
}

/// A key that was added.
pub struct AddedKey {
    /// Its slot.
    pub slot: u32,
    /// The recovery phrase that was made, to be shown once.
    pub phrase: Option<Zeroizing<String>>,
}

/// Adds a key.
///
/// # Errors
/// As [`Repository::add_key`].
pub async fn add_key(
    context: &Context,
    repository: &Repository,
    key: NewKey,
    label: &str,
    host: &str,
) -> Result<AddedKey> {
    let info = SlotInfo {
        label: label.to_owned(),
        host: host.to_owned(),
        created: context.clock.now().seconds,
    };
    let (unlock, phrase) = match key {
        NewKey::Given(unlock) => (unlock, None),
        NewKey::Phrase => {
            let secret = Secret::new(context.random.bytes()?);
            let phrase = phrase_from_secret(&secret)?;
            (Unlock::Phrase(secret), Some(phrase))
        }
    };
    let slot = repository.add_key(context, &unlock, &info).await?;
    Ok(AddedKey { slot, phrase })
}

/// What there is of key slots.
#[derive(Clone, Debug)]
pub struct KeyList {
    /// The number of the slot that opened the repository this time.
    pub current: u32,
    /// Those that can be read, by number.
    pub slots: Vec<KeySlotInfo>,
    /// Those that cannot, and why: they are damaged and open nothing, or the disk does not give them, and nobody can tell what they open.
    pub unread: Vec<(u32, Error)>,
}

/// All key slots.
///
/// # Errors
/// As [`Repository::key_slots`].
pub async fn list_keys(repository: &Repository) -> Result<KeyList> {
    let mut list = KeyList {
        current: repository.slot(),
        slots: Vec::new(),
        unread: Vec::new(),
    };
    for (number, slot) in repository.key_slots().await? {
        match slot {
            Ok(slot) => list.slots.push(slot),
            Err(error) => list.unread.push((number, error)),
        }
    }
    Ok(list)
}

/// Removes a slot.
///
/// # Errors
/// As [`Repository::remove_key`].
pub async fn remove_key(repository: &Repository, slot: u32) -> Result<()> {
    repository.remove_key(slot).await
}

/// Puts a new secret in the place of the one that opened the repository: first the new slot, then away with the old, so that an
/// interruption leaves two.
///
/// # Errors
/// As [`add_key`] and [`remove_key`].
pub async fn change_key(
    context: &Context,
    repository: &Repository,
    unlock: Unlock,
    host: &str,
) -> Result<AddedKey> {
    let old = repository.slot();
    let slots = repository.key_slots().await?;
    let label = slots
        .iter()
        .find(|(number, _)| *number == old)
        .and_then(|(_, slot)| slot.as_ref().ok())
        .map_or_else(String::new, |slot| slot.info.label.clone());
    let added = add_key(context, repository, NewKey::Given(unlock), &label, host).await?;
    repository.remove_key(old).await.map_err(|error| {
        if error.context("removed").is_some() {
            return error.with("new slot", added.slot);
        }
        let text = format!(
            "the new key opens the repository and the old one still does: `holdall key remove {old}`"
        );
        error.with("new slot", added.slot).hint(text)
    })?;
    Ok(added)
}
