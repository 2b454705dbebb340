//! Key slots of an open repository.

use super::Repository;
use super::view::of_the_disk;
use crate::context::Context;
use crate::crypto::{SlotInfo, SlotKind, Unlock, read_slot_kind, seal_slot, slot_label};
use crate::error::{Error, ErrorKind, Result};
use crate::format::layout::{ObjectName, Prefix};
use crate::format::limits::PASSWORD_SLOTS_MAX;
use crate::store::Put;

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
    /// All key slots, by number; of one that does not decode, or that the disk does not give though it gives others, why.
    ///
    /// # Errors
    /// What the store says.
    pub async fn key_slots(&self) -> Result<Vec<(u32, Result<KeySlotInfo>)>> {
        let mut slots = Vec::new();
        for slot in self.slot_numbers().await? {
            let name = ObjectName::Key(slot);
            let read = match self.store().get(&name).await {
                Ok(bytes) => self.read_slot(slot, &bytes),
                // Removed between list and get.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => Err(of_the_disk(self.store(), error).await?),
            };
            slots.push((slot, read));
        }
        Ok(slots)
    }

    /// Whoever has the keyring knows by the label that the rest of the slot is what was written: that it opens.
    pub(super) fn read_slot(&self, slot: u32, bytes: &[u8]) -> Result<KeySlotInfo> {
        let read = || -> Result<KeySlotInfo> {
            let kind = read_slot_kind(bytes)?;
            let info = slot_label(self.keyring(), slot, bytes)?;
            Ok(KeySlotInfo {
                slot,
                kind,
                info,
                current: slot == self.slot(),
            })
        };
        read().map_err(|error| error.with("object", ObjectName::Key(slot)))
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
    /// `Refused` for a seventeenth password, slots that cannot be read counted as such, `Invalid` for an empty one, or what the store says.
    pub async fn add_key(&self, context: &Context, unlock: &Unlock, info: &SlotInfo) -> Result<u32> {
        let slots = self.key_slots().await?;
        // One that cannot be read may be one: of more than so many the last would open nothing.
        let is_other = |slot: &Result<KeySlotInfo>| slot.as_ref().is_ok_and(|s| s.kind != SlotKind::Password);
        let passwords = slots.iter().filter(|(_, slot)| !is_other(slot)).count();
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

    /// Removes a slot, never the last one that is known to open. Another process may remove one at the same time: if none is left, this
    /// one is put back, or, if this one is not known to open, another that was.
    ///
    /// # Errors
    /// `NotFound`, `Refused` for the last, `Conflict` if another one was put back, or what the store says.
    pub async fn remove_key(&self, slot: u32) -> Result<()> {
        let last = || {
            Error::new(
                ErrorKind::Refused,
                "the last key slot that is known to open cannot be removed: nobody could open the repository",
            )
            .hint("add another key first: `holdall key add`")
        };
        let slots = self.key_slots().await?;
        let Some((_, removed)) = slots.iter().find(|(number, _)| *number == slot) else {
            return Err(Error::new(ErrorKind::NotFound, "there is no such key slot").with("slot", slot));
        };
        let mut opens = slots.iter().filter(|(_, info)| info.is_ok());
        let Some((other, _)) = opens.find(|(number, _)| *number != slot) else {
            return Err(last());
        };
        let back = ObjectName::Key(if removed.is_ok() { slot } else { *other });
        let bytes = self.store().get(&back).await?;
        self.store().delete(&ObjectName::Key(slot)).await?;
        let left = self.key_slots().await;
        if let Ok(left) = &left
            && left.iter().any(|(_, info)| info.is_ok())
        {
            return Ok(());
        }
        // Also where nobody can tell whether another is left.
        let put = self.store().put_new(&back, bytes).await;
        let put = put.map_err(|error| {
            let text = "this slot is removed, and whether another opens the repository is not known: `holdall key list`, and `holdall key add` if none does";
            error.with("removed", slot).hint(text)
        })?;
        match left {
            Err(error) if removed.is_ok() => Err(error.hint("the slot was put back: run the command again")),
            Err(error) => Err(error
                .with("removed", slot)
                .hint("`holdall key list` tells what is left")),
            Ok(_) if removed.is_ok() => Err(last()),
            Ok(_) if put == Put::Created => {
                let what =
                    "somebody removed the last other key slot that was known to open, and it was put back";
                Err(Error::new(ErrorKind::Conflict, what)
                    .with("removed", slot)
                    .with("put back", other))
            }
            Ok(_) => Ok(()),
        }
    }
}
