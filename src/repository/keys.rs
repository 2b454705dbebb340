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
    /// All key slots, by number.
    ///
    /// # Errors
    /// `Damaged` with the slot's name, or what the store says.
    pub async fn key_slots(&self) -> Result<Vec<KeySlotInfo>> {
        let mut slots = Vec::new();
        for name in self.list(Prefix::Keys).await? {
            let ObjectName::Key(slot) = name else { continue };
            let bytes = self.store().get(&name).await?;
            let named = |e| Error::from(e).with("object", name);
            let kind = read_slot_kind(&bytes).map_err(named)?;
            let info = slot_label(self.keyring(), slot, &bytes).map_err(named)?;
            slots.push(KeySlotInfo {
                slot,
                kind,
                info,
                current: slot == self.slot(),
            });
        }
        slots.sort_by_key(|slot| slot.slot);
        Ok(slots)
    }

    /// Adds a slot under the next free number and gives it.
    ///
    /// # Errors
    /// `Refused` for a seventeenth password, `Invalid` for an empty one, or what the store says.
    pub async fn add_key(&self, context: &Context, unlock: &Unlock, info: &SlotInfo) -> Result<u32> {
        let slots = self.key_slots().await?;
        let passwords = slots
            .iter()
            .filter(|slot| slot.kind == SlotKind::Password)
            .count();
        if unlock.kind() == SlotKind::Password && passwords >= PASSWORD_SLOTS_MAX {
            return Err(
                Error::new(ErrorKind::Refused, "a repository has at most 16 passwords")
                    .hint("remove one with `holdall key remove`"),
            );
        }
        let first = slots.last().map_or(0, |slot| slot.slot + 1);
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

    /// Removes a slot, never the last one.
    ///
    /// # Errors
    /// `NotFound`, `Refused` for the last, or what the store says.
    pub async fn remove_key(&self, slot: u32) -> Result<()> {
        let slots = self.key_slots().await?;
        if !slots.iter().any(|s| s.slot == slot) {
            return Err(Error::new(ErrorKind::NotFound, "there is no such key slot").with("slot", slot));
        }
        if slots.len() == 1 {
            return Err(Error::new(
                ErrorKind::Refused,
                "the last key slot cannot be removed: nobody could open the repository",
            )
            .hint("add another key first: `holdall key add`"));
        }
        self.store().delete(&ObjectName::Key(slot)).await
    }
}
