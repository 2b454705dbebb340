//! Key slots of an open repository.

use super::Repository;
use crate::context::Context;
use crate::crypto::{SlotInfo, SlotKind, Unlock, read_slot_kind, seal_slot, slot_label};
use crate::error::{Error, ErrorKind, Result};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::limits::PASSWORD_SLOTS_MAX;

/// A key slot, as it is listed.
#[derive(Clone, Debug)]
pub struct KeySlotInfo {
    /// Its number.
    pub slot: u32,
    /// What opens it.
    pub kind: SlotKind,
    /// Who made it and when.
    pub info: SlotInfo,
    /// Whether it opened the repository this time.
    pub current: bool,
}

impl Repository {
    /// All key slots, by number; of one that does not decode, why.
    ///
    /// # Errors
    /// What the store says.
    pub async fn key_slots(&self) -> Result<Vec<(u32, Result<KeySlotInfo>)>> {
        let mut slots = Vec::new();
        for slot in self.slot_numbers().await? {
            let name = ObjectName::Key(slot);
            let bytes = match self.store().get(&name).await {
                Ok(bytes) => bytes,
                // Removed between list and get.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let read = || -> Result<KeySlotInfo> {
                let kind = read_slot_kind(&bytes)?;
                let info = slot_label(self.keyring(), slot, &bytes)?;
                Ok(KeySlotInfo {
                    slot,
                    kind,
                    info,
                    current: slot == self.slot(),
                })
            };
            slots.push((slot, read().map_err(|error| error.with("object", name))));
        }
        Ok(slots)
    }

    async fn slot_numbers(&self) -> Result<Vec<u32>> {
        let number = |name| {
            if let ObjectName::Key(slot) = name {
                Some(slot)
            } else {
                None
            }
        };
        let mut numbers: Vec<u32> = self
            .list(Prefix::Keys)
            .await?
            .into_iter()
            .filter_map(number)
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Adds a slot under the next free number and gives it.
    ///
    /// # Errors
    /// `Refused` for a seventeenth password, `Invalid` for an empty one, or what the store says.
    pub async fn add_key(&self, context: &Context, unlock: &Unlock, info: &SlotInfo) -> Result<u32> {
        let slots = self.key_slots().await?;
        let is_password =
            |slot: &Result<KeySlotInfo>| slot.as_ref().is_ok_and(|s| s.kind == SlotKind::Password);
        let passwords = slots.iter().filter(|(_, slot)| is_password(slot)).count();
        if unlock.kind() == SlotKind::Password && passwords >= PASSWORD_SLOTS_MAX {
            return Err(
                Error::new(ErrorKind::Refused, "a repository has at most 16 passwords")
                    .hint("remove one with `holdall key remove`"),
            );
        }
        let first = slots.last().map_or(0, |(slot, _)| slot + 1);
        for slot in first..first + 16 {
            let sealed = seal_slot(self.keyring(), context.random.as_ref(), slot, unlock, info)?;
            if self
                .store()
                .put_new(&ObjectName::Key(slot), sealed.bytes)
                .await?
                .is_mine()
            {
                return Ok(slot);
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "others add keys faster than this process",
        ))
    }

    /// Removes a slot, never the last one that can be read. Another process may remove one at the same time: if none is left, this
    /// one is put back.
    ///
    /// # Errors
    /// `NotFound`, `Refused` for the last, or what the store says.
    pub async fn remove_key(&self, slot: u32) -> Result<()> {
        let last = || {
            Error::new(
                ErrorKind::Refused,
                "the last key slot cannot be removed: nobody could open the repository",
            )
            .hint("add another key first: `holdall key add`")
        };
        let slots = self.key_slots().await?;
        if !slots.iter().any(|(number, _)| *number == slot) {
            return Err(Error::new(ErrorKind::NotFound, "there is no such key slot").with("slot", slot));
        }
        if !slots.iter().any(|(number, info)| *number != slot && info.is_ok()) {
            return Err(last());
        }
        let name = ObjectName::Key(slot);
        let bytes = self.store().get(&name).await?;
        self.store().delete(&name).await?;
        if self.slot_numbers().await?.is_empty() {
            let _ = self.store().put_new(&name, bytes).await?;
            return Err(last());
        }
        Ok(())
    }
}
